//! Debian's own Barbican, upgraded by apt and dpkg with our package installed, and one of RDO's kind by dnf and rpm, in a booted container
//! (tests/lab/product). Needs root.
//!
//! What ran when is taken from systemd's journal, and what dpkg did from dpkg's status lines in the same journal: nothing here believes our own word.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Said, lab, said};
use crate::systemd::{API, LISTENER, Machine, WORKER};

mod after;
mod control;
mod hosts;
mod image;
mod odd;
mod rdo;
mod refusals;
mod service;
mod suite;
mod table;
mod table_apt;
mod upgrade;
mod watch;
mod window;

pub(crate) use rdo::filled as rpm_host;
pub(crate) use watch::{Watch, What};

/// The barbican units of Debian.
pub(crate) const UNITS: [&str; 3] = [API, WORKER, LISTENER];
/// Those of RDO, in the same order.
pub(crate) const RDO: [&str; 3] = [
    "openstack-barbican-api.service",
    "openstack-barbican-worker.service",
    "openstack-barbican-keystone-listener.service",
];
/// The packages, as dpkg lists them.
pub(crate) const PACKAGES: &str =
    "barbican-api barbican-common barbican-keystone-listener barbican-worker python3-barbican";
/// All of them, where all run.
pub(crate) const ALL: [&str; 3] = [API, WORKER, LISTENER];
/// Versions in the repositories of tests/lab/product.
pub(crate) const ZED: &str = "1:15.0.1-2";
pub(crate) const SAME: &str = "1:15.0.1-2.1";
pub(crate) const NEXT: &str = "1:16.0.2-1";
pub(crate) const SKIP: &str = "1:17.0.0-1";
pub(crate) const BROKEN: &str = "1:16.0.2-2";
/// Where a test has put our package inside.
pub(crate) const DEB: &str = "/srv/lab/keymgr-upgrade.deb";

/// What is laid over the tree before it boots.
const OVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/product/root");

/// Where a host has its Barbican from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Dpkg,
    Rpm,
    /// It is below /opt.
    Source,
}

/// A host with Barbican 15.0.1, its services up.
pub(crate) struct Product {
    pub(crate) machine: Machine,
    origin: Origin,
}

impl Product {
    /// Boots it, without anything of ours.
    pub(crate) fn boot() -> Self {
        Self::boot_tree("tree")
    }

    /// Boots the one whose code is installed from its source, and installs our package.
    pub(crate) fn from_source() -> Self {
        let product = Self { origin: Origin::Source, ..Self::boot_tree("source") };
        product.install_tool();
        product
    }

    /// Boots the one with rpm and dnf, in which no Barbican is installed, but its database, its token and the operator's barbican.conf are there.
    pub(crate) fn without_barbican() -> Self {
        let tree = Path::new(&lab("KEYMGR_TEST_PRODUCT")).join("rpm");
        Self { machine: Machine::boot_with(&["--tree", tree.to_str().unwrap(), OVER]), origin: Origin::Rpm }
    }

    /// Barbican's units here.
    fn units(&self) -> [&'static str; 3] {
        if self.origin == Origin::Rpm { RDO } else { UNITS }
    }

    /// Lays what is in `over` over the packaged one, runs /srv/lab/in-chroot in it as in any directory with a Debian, and boots it.
    pub(crate) fn boot_image(over: &Path) -> Self {
        let copied =
            Command::new("cp").arg("-a").args([&format!("{OVER}/."), over.to_str().unwrap()]).status().unwrap();
        assert!(copied.success());
        let tree = Path::new(&lab("KEYMGR_TEST_PRODUCT")).join("tree");
        let arguments = ["--tree", tree.to_str().unwrap(), "--chroot", "/srv/lab/in-chroot", over.to_str().unwrap()];
        Self { machine: Machine::boot_with(&arguments), origin: Origin::Dpkg }
    }

    /// The same with room for the packages of a whole system.
    pub(crate) fn boot_with_room() -> Self {
        let tree = Path::new(&lab("KEYMGR_TEST_PRODUCT")).join("tree");
        let machine = Machine::boot_with(&["--size", "6g", "--tree", tree.to_str().unwrap(), OVER]);
        let product = Self { machine, origin: Origin::Dpkg };
        product.wait_for_api();
        product
    }

    fn boot_tree(name: &str) -> Self {
        let tree = Path::new(&lab("KEYMGR_TEST_PRODUCT")).join(name);
        let machine = Machine::boot_with(&["--tree", tree.to_str().unwrap(), OVER]);
        let product = Self { machine, origin: Origin::Dpkg };
        product.wait_for_api();
        product
    }

    /// Boots it and installs our package with dpkg.
    pub(crate) fn with_tool() -> Self {
        let product = Self::boot();
        product.install_tool();
        product
    }

    /// Installs our package with dpkg.
    pub(crate) fn install_tool(&self) {
        std::fs::copy(deb(), self.path(DEB)).unwrap();
        self.ok(&format!("dpkg -i {DEB}"));
    }

    /// A path inside, as seen from outside.
    pub(crate) fn path(&self, inside: &str) -> std::path::PathBuf {
        self.machine.root.path().join(inside.trim_start_matches('/'))
    }

    /// Our program.
    #[must_use = "look at the exit code, or at what was said"]
    pub(crate) fn tool(&self, arguments: &str) -> Said {
        self.run(&format!("keymgr-upgrade {arguments}"))
    }

    /// A command line of the operator, ready to run inside.
    pub(crate) fn command(&self, line: &str) -> Command {
        let enter = self.machine.enter();
        let mut command = Command::new(enter[0]);
        command
            .args(&enter[1..])
            .args(["sh", "-c", line])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "dumb")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Runs it.
    #[must_use = "look at the exit code, or at what was said"]
    pub(crate) fn run(&self, line: &str) -> Said {
        said(&mut self.command(line))
    }

    /// Runs it, it works; what it printed, without the last newline.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        self.run(line).expect(0).out.trim_end().to_owned()
    }

    /// Starts it.
    pub(crate) fn start(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Makes these the repositories that apt knows.
    pub(crate) fn offer(&self, repositories: &[&str]) {
        let lines: String =
            repositories.iter().map(|name| format!("deb [trusted=yes] file:/srv/lab/repo/{name} ./\n")).collect();
        self.machine.write("/etc/apt/sources.list.d/lab.list", &lines);
        self.ok("apt-get -q update");
    }

    /// `apt-get` as an unattended run calls it.
    #[must_use = "look at the exit code, or at what was said"]
    pub(crate) fn apt(&self, arguments: &str) -> Said {
        self.run(&format!("apt-get -q -y -o Dpkg::Use-Pty=0 {arguments}"))
    }

    /// Writes a file from inside: /run is not to be reached from here.
    #[track_caller]
    pub(crate) fn put(&self, path: &str, text: &str) {
        let line = format!("mkdir -p $(dirname {path}) && printf %s \"$TEXT\" >{path}");
        let _ = said(self.command(&line).env("TEXT", text)).expect(0);
    }

    /// Writes a script that the shell runs inside.
    #[track_caller]
    pub(crate) fn script(&self, path: &str, text: &str) {
        self.put(path, &format!("#!/bin/sh -e\n{text}\n"));
        self.ok(&format!("chmod 755 {path}"));
    }

    /// Waits until the API answers what needs its database.
    #[track_caller]
    pub(crate) fn wait_for_api(&self) {
        self.ok("/srv/lab/wait-for-api");
    }

    /// Every secret that was stored is read through the API.
    #[track_caller]
    pub(crate) fn expect_secrets(&self) {
        self.wait_for_api();
        assert_eq!(self.ok("/srv/lab/read-secrets"), "6 read, 0 not");
    }

    /// When each unit was started last: differs as soon as one was stopped.
    pub(crate) fn invocations(&self) -> Vec<String> {
        self.units().map(|unit| self.ok(&format!("systemctl show -P InvocationID {unit}"))).to_vec()
    }

    /// Waits until a unit is at its end.
    pub(crate) fn wait_for_end_of(&self, unit: &str) {
        self.ok(&format!(
            "pid=$(systemctl show -P MainPID {unit}); [ $pid = 0 ] || timeout 120 tail --pid=$pid -f /dev/null; \
             while [ \"$(systemctl show -P ActiveState {unit})\" = deactivating ]; do :; done"
        ));
    }

    /// The state of a unit: `active`, `inactive`, `failed`.
    pub(crate) fn active(&self, unit: &str) -> String {
        self.run(&format!("systemctl is-active {unit}")).out.trim_end().to_owned()
    }

    /// Those units that are active.
    pub(crate) fn running(&self) -> Vec<&'static str> {
        self.units().into_iter().filter(|unit| self.active(unit) == "active").collect()
    }

    /// The state and the version of each of Barbican's packages, one of them if all agree.
    pub(crate) fn packages(&self) -> String {
        if self.origin == Origin::Rpm {
            return self.ok("rpm -qa --qf '%{VERSION}-%{RELEASE}\\n' '*barbican*' | sort -u").replace('\n', ", ");
        }
        let shown = self.ok(&format!("dpkg-query -W -f '${{db:Status-Status}} ${{Version}}\\n' {PACKAGES} | sort -u"));
        shown.replace('\n', ", ")
    }

    /// dpkg finds nothing to complain about, and nothing left to do.
    #[track_caller]
    pub(crate) fn expect_dpkg_healthy(&self) {
        assert_eq!(self.ok("dpkg --audit"), "");
        assert_eq!(self.ok("dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | grep -v '^[ir][ic] ' || true"), "");
        self.ok("apt-get -q check");
    }

    /// Nothing of Barbican runs and nothing can be started, and a start says who holds it.
    #[track_caller]
    pub(crate) fn expect_held(&self) {
        assert!(self.running().is_empty(), "{:?}", self.running());
        for unit in self.units() {
            let said = self.run(&format!("systemctl start {unit}"));
            assert_ne!(said.code, 0, "{unit} was started");
        }
        assert_eq!(self.ok("pgrep -u barbican -l || true"), "");
    }

    /// What happened in systemd's journal so far.
    pub(crate) fn watch(&self) -> Watch {
        Watch::of(&self.ok("journalctl --sync; journalctl -q -o json --all --no-pager"))
    }

    /// Microseconds since the epoch, by the clock that the journal uses.
    pub(crate) fn now(&self) -> u64 {
        self.ok("date +%s%6N").parse().unwrap()
    }

    /// What a run may change or must not: code, database, files, units.
    pub(crate) fn picture(&self) -> Picture {
        let files = self.ok("cd /etc/barbican && find . -type f -printf '%p %u:%g %m ' -exec sha256sum {} \\; | sort");
        // Neither times of dumps nor the counter of a table.
        let database = self.ok("mariadb-dump --skip-dump-date --skip-extended-insert --order-by-primary barbican | \
             sed 's/ AUTO_INCREMENT=[0-9]*//' | sha256sum");
        let units = self.units().into_iter().map(|unit| {
            (unit, self.ok(&format!("systemctl show -P ActiveState -P UnitFileState -P DropInPaths {unit}")))
        });
        let code = if self.origin == Origin::Source { self.ok("readlink /opt/barbican") } else { self.packages() };
        Picture { code, database, files, units: units.collect() }
    }
}

/// Our package: the one that `KEYMGR_TEST_DEB` names, or one packed from the binary that these tests were built with.
fn deb() -> String {
    if let Ok(deb) = std::env::var("KEYMGR_TEST_DEB") {
        return deb;
    }
    let product = lab("KEYMGR_TEST_PRODUCT");
    let lab = Path::new(&product).parent().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/product/package.sh");
    let mut command = Command::new(script);
    command.arg(env!("CARGO_BIN_EXE_keymgr-upgrade")).env("KEYMGR_LAB", lab);
    said(&mut command).expect(0).out.trim_end().to_owned()
}

/// Barbican's packages, each at this version, for a command line of apt.
pub(crate) fn at(version: &str) -> String {
    PACKAGES.split(' ').map(|package| format!("{package}={version}")).collect::<Vec<_>>().join(" ")
}

/// Code, database, files and units at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    /// State and version of the packages.
    pub(crate) code: String,
    /// Digest of a dump.
    pub(crate) database: String,
    /// Names, owners, modes and digests of the files in /etc/barbican.
    pub(crate) files: String,
    /// Whether each unit is active, enabled, and has drop-ins.
    pub(crate) units: BTreeMap<&'static str, String>,
}
