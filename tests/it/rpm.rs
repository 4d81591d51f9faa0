//! Our rpm beside Barbican's on a booted host with rpm and dnf: gate, both halves, what no gate could stop, and what is left in the end. Needs root.

use std::path::Path;
use std::process::Command;

use crate::common::{Said, said};
use crate::live::{ENVIRONMENT, Live, REVISIONS, STATE, flat};
use crate::systemd::Machine;

const API: &str = "openstack-barbican-api.service";
const WORKER: &str = "openstack-barbican-worker.service";
const PASTE: &str = "/etc/barbican/barbican-api-paste.ini";
const MOTD: &str = "/run/motd.d/keymgr-upgrade";
/// As Debian's dnf wants to be called.
const DNF: &str = "dnf -y -q --disableplugin=local --releasever=9";
/// Where the packages of each version are.
const PACKAGES: &str = "/opt/packages";

/// Barbican's packages as RDO's spec has them, as far as an upgrade is concerned: code with its metadata, a paste file that is the operator's, units
/// and scriptlets that start them again whatever there is. What runs sleeps.
const SPEC: &str = r#"
Name: openstack-barbican
Epoch: 1
Version: %{v}
Release: %{r}
Summary: OpenStack key manager
License: ASL 2.0
BuildArch: noarch
%description
%package -n python3-barbican
Summary: its code
AutoReqProv: no
%description -n python3-barbican
%package common
Summary: its files
Requires: python3-barbican = 1:%{v}-%{r}
%description common
%package api
Summary: its API
Requires: openstack-barbican-common = 1:%{v}-%{r}
%description api
%package worker
Summary: its worker
Requires: openstack-barbican-common = 1:%{v}-%{r}
%description worker
%install
python=%{buildroot}/usr/lib/python3.11/site-packages
install -d $python/barbican $python/barbican-%{v}.dist-info %{buildroot}/etc/barbican
echo "version = '%{v}'" >$python/barbican/__init__.py
printf 'Metadata-Version: 2.1\nName: barbican\nVersion: %{v}\n\n' >$python/barbican-%{v}.dist-info/METADATA
{ cat /opt/paste.ini; echo '# of %{v}'; } >%{buildroot}/etc/barbican/barbican-api-paste.ini
install -D -m 0644 /opt/sleeps.service %{buildroot}/usr/lib/systemd/system/openstack-barbican-api.service
install -D -m 0644 /opt/sleeps.service %{buildroot}/usr/lib/systemd/system/openstack-barbican-worker.service
%pre -n python3-barbican
[ ! -e /opt/dies ] || kill -KILL $PPID
logger "unpacking %{v}: $(systemctl is-active openstack-barbican-api)"
%post api
systemctl daemon-reload
systemctl start openstack-barbican-api || logger "not started by the package"
%posttrans api
logger "posttrans of %{v}: $(systemctl is-active openstack-barbican-api)"
%postun api
[ $1 = 0 ] || systemctl restart openstack-barbican-api || logger "not restarted by the package"
%files -n python3-barbican
/usr/lib/python3.11/site-packages/barbican
/usr/lib/python3.11/site-packages/barbican-%{v}.dist-info
%files common
%config(noreplace) %attr(0640, root, barbican) /etc/barbican/barbican-api-paste.ini
%files api
/usr/lib/systemd/system/openstack-barbican-api.service
%files worker
/usr/lib/systemd/system/openstack-barbican-worker.service
"#;

/// Whether it is said, wherever lines break and whoever says it.
#[track_caller]
fn says(said: &Said, text: &str) {
    let all = flat(&said.all().replace("keymgr-upgrade: ", ""));
    assert!(all.contains(text), "{text:?} is not in\n{}", said.all());
}

/// Works on packages as a tool does that tells nobody what it is about: installs files, erases names.
pub(crate) const UNTOLD: &str = r#"
import os, rpm, sys
work = rpm.TransactionSet()
work.setVSFlags(-1)
for path in sys.argv[1:]:
    if '/' not in path:
        work.addErase(path)
        continue
    file = os.open(path, os.O_RDONLY)
    work.addInstall(work.hdrFromFdno(file), path, 'u')
    os.close(file)
work.order()
files = {}
def callback(what, amount, total, path, data):
    if what == rpm.RPMCALLBACK_INST_OPEN_FILE:
        files[path] = os.open(path, os.O_RDONLY)
        return files[path]
    if what == rpm.RPMCALLBACK_INST_CLOSE_FILE:
        os.close(files[path])
sys.exit(1 if work.run(callback, '') else 0)
"#;

/// Packs the binary of the tests below `top`, as `make rpm` does; `more` are arguments of make.
pub(crate) fn packed(top: &Path, more: &[&str]) {
    let pages = crate::manual::written();
    let mut make = Command::new("make");
    make.args(["-s", "-C", env!("CARGO_MANIFEST_DIR"), "rpm-built", "RPM_PAYLOAD=w1.gzdio"]);
    make.args(more).env_remove("MAKEFLAGS");
    make.arg(concat!("built=", env!("CARGO_BIN_EXE_keymgr-upgrade")));
    make.arg(format!("pages={}", pages.path().display())).arg(format!("rpm_top={}", top.display()));
    assert_eq!(said(&mut make).expect(0).out, "");
}

/// A controller of RDO's kind: Barbican 1.0.0 by dnf, API and worker run, our own package is installed.
struct Rdo {
    live: Live,
}

impl Rdo {
    fn boot() -> Self {
        let rdo = Self { live: Live::without_code(Machine::boot_with(&["--rpm"])) };
        rdo.run("rm /usr/sbin/keymgr-upgrade");
        let paste = format!("cp -p {PASTE} /opt/paste.ini && echo '# mine' >>{PASTE}");
        rdo.run(&paste);
        let machine = &rdo.live.machine;
        let unit =
            format!("[Service]\n{ENVIRONMENT}ExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n");
        machine.write("/opt/sleeps.service", &unit);
        machine.write("/opt/barbican.spec", SPEC);
        for (version, release) in [("1.0.0", 1), ("2.0.0", 1), ("2.0.0", 2), ("4.0.0", 1)] {
            let into = format!("{PACKAGES}/{version}-{release}");
            rdo.run(&format!(
                "rpmbuild -bb --quiet --define 'v {version}' --define 'r {release}' --define '_topdir /opt/build' \
                 --define '_rpmdir {into}' --define '_build_id_links none' --define '__os_install_post %{{nil}}' \
                 /opt/barbican.spec 2>&1 && createrepo_c -q {into}"
            ));
            let repository = format!("[b{version}-{release}]\nname=b\nbaseurl=file://{into}\nenabled=0\ngpgcheck=0\n");
            machine.write(&format!("/etc/yum.repos.d/{version}-{release}.repo"), &repository);
        }
        rdo.dnf("1.0.0-1", "install openstack-barbican-api openstack-barbican-worker").expect(0);
        rdo.run(&format!("systemctl enable --now {API} {WORKER}"));
        rdo.install();
        rdo
    }

    /// Our own package.
    fn install(&self) {
        packed(&self.live.machine.root.path().join("opt/ours"), &[]);
        assert_eq!(self.shell("rpm -U /opt/ours/RPMS/*/*.rpm").expect(0).all(), "");
        assert_eq!(self.run("systemctl is-enabled keymgr-upgrade-boot.service"), "enabled");
        self.expect_released("liberty");
    }

    fn run(&self, line: &str) -> String {
        self.live.run(line)
    }

    /// Runs a command line inside, whatever comes of it.
    fn shell(&self, line: &str) -> Said {
        let enter = self.live.machine.enter();
        let mut command = Command::new(enter[0]);
        command.args(&enter[1..]).args(["sh", "-c", line]).env_clear();
        let mut said = said(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8"));
        // Debian's rpm advises against itself.
        let own = |text: &str| text.lines().filter(|l| !l.starts_with("rpm: ")).map(|l| format!("{l}\n")).collect();
        (said.out, said.err) = (own(&said.out), own(&said.err));
        said
    }

    /// dnf, with the packages of a version to be had.
    fn dnf(&self, version: &str, line: &str) -> Said {
        self.shell(&format!("{DNF} --enablerepo=b{version} {line}"))
    }

    fn rpm(&self, version: &str, options: &str) -> Said {
        self.shell(&format!("rpm {options} {PACKAGES}/{version}/noarch/*.rpm"))
    }

    fn versions(&self) -> String {
        self.run("rpm -qa --qf '%{VERSION}-%{RELEASE}\\n' '*barbican*' | sort -u")
    }

    /// Waits until a shell's condition holds.
    #[track_caller]
    fn until(&self, condition: &str) {
        self.run(&format!("timeout 60 sh -c 'until {condition}; do :; done'"));
    }

    fn invocations(&self) -> [String; 2] {
        [API, WORKER].map(|unit| self.live.property(unit, "InvocationID"))
    }

    /// What the record says of the data.
    #[track_caller]
    fn expect_released(&self, release: &str) {
        let record = self.run(&format!("cat {STATE}/deployment.json"));
        assert!(record.contains(&format!("\"release\": \"{release}\"")), "{record}");
    }

    #[track_caller]
    fn expect_up(&self, revision: &str) {
        self.until("! systemctl is-active -q keymgr-upgrade-watch");
        for unit in [API, WORKER] {
            assert_eq!(self.live.property(unit, "ActiveState"), "active", "{unit}");
            assert_eq!(self.live.property(unit, "DropInPaths"), "");
        }
        assert_eq!(self.run(&format!("ls -d {MOTD} /etc/systemd/system/*barbican*.d 2>/dev/null || true")), "");
        assert_eq!(self.live.revision(), revision);
    }

    #[track_caller]
    fn expect_held(&self, revision: &str) {
        for unit in [API, WORKER] {
            assert_eq!(self.live.property(unit, "ActiveState"), "inactive", "{unit}");
            self.live.machine.run(&format!("systemctl start {unit}")).unwrap_err();
        }
        let message = self.run(&format!("cat {MOTD}"));
        assert!(message.starts_with("*** BARBICAN IS DOWN"), "{message}");
        assert_eq!(self.live.revision(), revision);
    }

    /// The journal since the last boot, each of these lines after the one before.
    #[track_caller]
    fn expect_order(&self, lines: &[&str]) {
        let journal = self.run("journalctl -q --sync; journalctl -q -b -o cat");
        let mut rest = journal.as_str();
        for line in lines {
            let (_, after) =
                rest.split_once(line).unwrap_or_else(|| panic!("{line:?} is missing or early:\n{journal}"));
            rest = after;
        }
    }
}

#[test]
fn dnf_is_refused_a_skip_and_carries_out_a_step() {
    let rdo = Rdo::boot();
    let (files, ran) = (rdo.run("sha256sum /etc/barbican/*"), rdo.invocations());
    let refused = rdo.dnf("4.0.0-1", "upgrade").expect(1);
    assert!(flat(&refused.err).contains("REFUSED: Liberty -> Ocata skips Mitaka, Newton"), "{}", refused.err);
    says(&refused, "Nothing was unpacked, nothing was stopped. To allow it once:");
    says(&refused, "dnf upgrade --exclude='*barbican,*barbican-*'");
    says(&refused, "keymgr-upgrade refuses this transaction; nothing was changed");
    crate::readme::expect_shown("dnf, which refuses", &refused.all());
    assert!(refused.all().lines().all(|line| line.len() <= 80), "{}", refused.all());
    assert_eq!(rdo.versions(), "1.0.0-1");
    assert_eq!((rdo.run("sha256sum /etc/barbican/*"), rdo.invocations()), (files, ran.clone()));
    assert_eq!(rdo.run(&format!("ls {STATE}")), "deployment.json\nlock");
    rdo.expect_up(REVISIONS[0]);
    // Everything else is free to be upgraded.
    rdo.dnf("4.0.0-1", "upgrade --exclude='*barbican,*barbican-*'").expect(0);

    let upgraded = rdo.dnf("2.0.0-1", "upgrade").expect(0);
    says(&upgraded, "Liberty -> Mitaka is allowed.");
    assert_eq!(rdo.versions(), "2.0.0-1");
    rdo.expect_up(REVISIONS[1]);
    assert!(rdo.invocations().iter().all(|id| !ran.contains(id)), "they were not started anew");
    rdo.expect_released("mitaka");
    rdo.expect_order(&[
        &format!("Stopped {API}"),
        "unpacking 2.0.0: inactive",
        // Its scriptlets asked for a start, and passed over it.
        "was skipped because of an unmet condition",
        "posttrans of 2.0.0: inactive",
        &format!("Started {API}"),
        "Done: Mitaka, down ",
    ]);
    // The operator's paste file is his still, edited; the package's is beside it, and that is said.
    rdo.run(&format!("grep '^# mine' {PASTE} && ls {PASTE}.rpmnew"));
    let check = rdo.live.tool(&["check", "--to", "newton", "--verbose"]);
    says(&check, "rpm left its own barbican-api-paste.ini beside yours, which is in force");
    says(&check, &format!("{PASTE}: yours, in force"));
    says(&check, "Barbican 1:2.0.0-1 (rpm)");
}

#[test]
fn rpm_alone_is_held_or_carried_out_and_erased_without_a_trace() {
    let rdo = Rdo::boot();
    // A skip, which nothing can refuse: held before the first file, and no data is touched.
    let ran = rdo.rpm("4.0.0-1", "-U").expect(0);
    says(&ran, "Liberty -> Ocata skips Mitaka, Newton");
    says(&ran, "rpm goes on all the same: services are held, and no data is touched.");
    assert!(!ran.all().contains("Nothing was unpacked"), "{}", ran.all());
    rdo.expect_order(&[&format!("Stopped {API}"), "unpacking 4.0.0: inactive", "posttrans of 4.0.0: inactive"]);
    // The service is activating for as long as it works.
    rdo.until("! systemctl is-active keymgr-upgrade-watch keymgr-upgrade | grep -q -e ^active -e ing\\$");
    rdo.expect_held(REVISIONS[0]);
    says(&rdo.shell("rpm -e keymgr-upgrade").expect(1), "services are held");
    // Back to the release of the data: they are free.
    let back = rdo.rpm("1.0.0-1", "-U --oldpackage").expect(0);
    says(&back, "Done: Liberty. Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted");
    rdo.expect_up(REVISIONS[0]);

    // rpm dies when all is stopped and nothing is unpacked: it is put back.
    rdo.run("touch /opt/dies");
    let ran = rdo.rpm("2.0.0-1", "-U").expect(137);
    says(&ran, "2 services stopped and held; backup");
    rdo.run("rm /opt/dies");
    rdo.expect_up(REVISIONS[0]);
    assert_eq!(rdo.versions(), "1.0.0-1");

    // One release on.
    let ran = rdo.rpm("2.0.0-1", "-U").expect(0);
    says(&ran, "Liberty -> Mitaka");
    says(&ran, "2 services stopped and held; backup");
    rdo.expect_up(REVISIONS[1]);
    rdo.expect_released("mitaka");
    rdo.expect_order(&["unpacking 2.0.0: inactive", "posttrans of 2.0.0: inactive", "Done: Mitaka, down "]);
    // Within the release there is nothing to do.
    says(&rdo.rpm("2.0.0-2", "-U").expect(0), "Barbican stays at Mitaka");
    rdo.expect_up(REVISIONS[1]);

    // What is gone leaves nothing held; what we know of it stays, and that is said.
    rdo.run("rpm -e openstack-barbican-api openstack-barbican-worker openstack-barbican-common python3-barbican 2>&1");
    rdo.until("! systemctl is-active -q keymgr-upgrade-watch");
    let erased = rdo.shell("rpm -e keymgr-upgrade").expect(0);
    says(&erased, "remove it when it is not needed any more");
    let left = rdo.run("find / -xdev -path /opt -prune -o -name '*keymgr*' -print | sort");
    // The settings of the test are no package's.
    assert_eq!(left, format!("/etc/keymgr-upgrade\n/etc/keymgr-upgrade/keymgr-upgrade.conf.d\n{STATE}"));
    assert_eq!(rdo.run("ls /etc/systemd/system /run/systemd/system | grep barbican || true"), "");
    assert_eq!(rdo.run(&format!("ls {STATE}/runs | wc -l")), "3");
}

#[test]
fn what_no_tool_tells_is_taken_up_when_it_is_seen() {
    let rdo = Rdo::boot();
    rdo.live.machine.write("/opt/untold.py", UNTOLD);
    let untold = |version: &str| rdo.shell(&format!("python3 /opt/untold.py {PACKAGES}/{version}/noarch/*.rpm"));
    // An operator's run waits for this very code. Meanwhile we are not to be removed.
    says(&rdo.live.tool(&["upgrade", "--to", "mitaka", "--yes"]).expect(4), "WAITING for the code of mitaka");
    says(&rdo.shell("rpm -e keymgr-upgrade").expect(1), "is not finished, and Barbican is held for it");
    says(&rdo.shell(&format!("{DNF} remove keymgr-upgrade")).expect(1), "keymgr-upgrade refuses this transaction");
    let ran = untold("2.0.0-1").expect(0);
    says(&ran, "This is the code that the open run waits for");
    rdo.expect_up(REVISIONS[1]);
    rdo.expect_released("mitaka");

    // Within the release: down for as long as it is not known where it goes.
    let ran = untold("2.0.0-2").expect(0);
    says(&ran, "this package manager does not tell what it does");
    says(&ran, "Barbican's release is what it was; its services are free again.");
    assert_eq!(rdo.versions(), "2.0.0-2");
    rdo.expect_up(REVISIONS[1]);
    rdo.expect_order(&["unpacking 2.0.0: inactive", "unpacking 2.0.0: inactive"]);
    assert_eq!(rdo.run(&format!("ls {STATE}/runs | wc -l")), "1");

    // In a tree where nothing runs, nothing is carried out: the hop is noted.
    let image = rdo.shell(&format!(
        "mkdir /opt/image && mount --bind / /opt/image && mount -t proc proc /opt/image/proc && \
         chroot /opt/image rpm -U {PACKAGES}/4.0.0-1/noarch/*.rpm"
    ));
    says(&image.expect(0), "no systemd runs here: Ocata is noted, and the first boot reports it.");
    let hop = rdo.run(&format!("cat {STATE}/hop.json"));
    assert!(hop.contains("\"from\": \"mitaka\"") && hop.contains("\"to\": \"ocata\""), "{hop}");
}

#[test]
fn the_package_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    packed(dir.path(), &[]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = said(Command::new("sh").arg("-c").arg(format!("ls {}/RPMS/*/*.rpm", dir.path().display())));
    let mut lint = Command::new("rpmlint");
    lint.arg("-r").arg(root.join("packaging/rpm/rpmlintrc")).arg(package.out.trim());
    let lint = said(lint.arg(root.join("packaging/rpm/keymgr-upgrade.spec")));
    assert!(lint.all().contains("0 errors") && !lint.all().contains(" E: "), "{}", lint.all());
    says_which_rpm_has_no_triggers(package.out.trim());
}

/// What %post says, where rpm is of this version: file triggers are there from 4.13 on.
fn says_which_rpm_has_no_triggers(package: &str) {
    let query = ["-qp", "--qf", "%{POSTIN}", package];
    let post = said(Command::new("rpm").args(query)).expect(0).out;
    let (script, _) = post.split_once("if [ \"$1\" = 1 ]").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let rpm = "#!/bin/sh\n[ \"$LC_ALL $1\" = 'C --version' ] && echo \"RPM version $VERSION\"\n";
    std::fs::write(dir.path().join("rpm"), rpm).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let old = ["3.0.6", "4.4.2.3", "4.8.0", "4.9.1.3", "4.10.3.1", "4.11.3", "4.12.0.1"];
    let new =
        ["4.13.0", "4.13.0-rc1", "4.14.3", "4.16.1.3", "4.18.0", "4.20.1", "4.100.0", "5.99.90", "6.0.1", "10.0.0"];
    for version in old.into_iter().chain(new) {
        let line = format!("chmod 755 {}/rpm\n{script}", dir.path().display());
        let said =
            said(Command::new("sh").args(["-e", "-c", &line]).env("PATH", &path).env("VERSION", version)).expect(0);
        let told =
            said.out.contains("knows no file triggers") && said.out.contains("Upgrade by hand: keymgr-upgrade(8)");
        assert_eq!(
            (told, said.out.is_empty()),
            (old.contains(&version), new.contains(&version)),
            "{version}: {}",
            said.out
        );
    }
}
