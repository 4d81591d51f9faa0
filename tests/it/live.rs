//! The tool on a host that lives: a Debian with a real systemd, booted in a container, where the genuine Liberty deployment is installed as the
//! packages install it. Needs root.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Said, Sandbox, end, lab, said};
use crate::systemd::{API, LISTENER, Machine, STUBBORN, WORKER};

pub(crate) const PROGRAM: &str = "/usr/sbin/keymgr-upgrade";
const DATABASE: &str = "/var/lib/barbican/barbican.sqlite";
pub(crate) const STATE: &str = "/var/lib/keymgr-upgrade";
const HOLDS: &str = "/etc/systemd/system/barbican-api.service.d";
/// What the PKCS#11 module behind the worker writes; who owns it loaded the module.
const CALLS: &str = "/var/log/barbican/p11.log";
/// What the units of Barbican have, besides what they run.
pub(crate) const ENVIRONMENT: &str = "User=barbican\nGroup=barbican\n\
    Environment=SOFTHSM2_CONF=/etc/softhsm/softhsm2.conf\nEnvironment=P11SHIM_LIBERTY=1\n\
    Environment=P11SHIM_LOG=/var/log/barbican/p11.log\n";
/// The schema of Liberty and of Mitaka.
pub(crate) const REVISIONS: [&str; 2] = ["4ecde3a3a72a", "d2780d5aa510"];

/// A controller: API and worker run, the worker lets itself be killed, the listener was stopped and disabled by the operator.
pub(crate) struct Live {
    pub(crate) machine: Machine,
}

impl Live {
    pub(crate) fn boot() -> Self {
        let live = Self::without_code(Machine::boot());
        live.code("1.0.0");
        live.machine.write(
            "/etc/keymgr-upgrade/keymgr-upgrade.conf",
            "[code]\nupgrade_command = install-barbican 2.0.0\nrollback_command = install-barbican 1.0.0\n",
        );
        let machine = &live.machine;
        let sleeps = format!("{ENVIRONMENT}ExecStart=/bin/sleep infinity");
        machine.install_and_start(API, &sleeps);
        machine.install_and_start(WORKER, &format!("{ENVIRONMENT}{STUBBORN}"));
        machine.install_and_start(LISTENER, &sleeps);
        machine.run("systemctl disable --now barbican-keystone-listener").unwrap();
        live
    }

    /// The deployment without packages, and the program.
    pub(crate) fn without_code(machine: Machine) -> Self {
        let live = Self { machine };
        live.lay_out();
        // What runs here sleeps: there is no API to ask.
        live.machine.write("/etc/keymgr-upgrade/keymgr-upgrade.conf.d/lab.conf", "[verify]\nendpoint = none\n");
        live
    }

    /// The sandbox at /, owned as Debian's packages own it.
    fn lay_out(&self) {
        let root = self.machine.root.path();
        let sandbox = Sandbox::liberty();
        let copy = |from: &Path, to: &str| {
            let to = root.join(to);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copied = Command::new("cp").arg("-rL").arg(from).arg(&to).status().unwrap();
            assert!(copied.success(), "{}", to.display());
        };
        for directory in ["etc/barbican", "etc/softhsm", "var/lib/barbican", "var/lib/softhsm", "var/log/barbican"] {
            copy(&sandbox.path(directory), directory);
        }
        copy(Path::new(env!("CARGO_BIN_EXE_keymgr-upgrade")), &PROGRAM[1..]);
        copy(Path::new(&lab("KEYMGR_TEST_SOFTHSM")), "usr/lib/softhsm/libsofthsm2.so");
        copy(Path::new(&lab("KEYMGR_TEST_P11SHIM")), "usr/lib/libp11shim.so");
        let run = |line: &str| self.machine.run(line).unwrap();
        run("sed -i s,/usr/lib/libCryptoki2_64.so,/usr/lib/libp11shim.so, /etc/barbican/barbican.conf");
        let token = "directories.tokendir = /var/lib/softhsm/tokens\nobjectstore.backend = file\nlog.level = ERROR\n";
        self.machine.write("/etc/softhsm/softhsm2.conf", token);
        run("useradd --system --home-dir /var/lib/barbican --shell /usr/sbin/nologin barbican && \
             chown -R root:barbican /etc/barbican && chmod 750 /etc/barbican && chmod 640 /etc/barbican/* && \
             chown -R barbican:barbican /var/lib/barbican /var/log/barbican /var/lib/softhsm && \
             chmod -R g-w,o= /var/lib/barbican /var/log/barbican /var/lib/softhsm && \
             chown root:root /usr/sbin/keymgr-upgrade /usr/lib/libp11shim.so /usr/lib/softhsm/libsofthsm2.so");
    }

    /// Installs Barbican's code of this version, as a package manager does.
    pub(crate) fn code(&self, version: &str) {
        let packages = "/usr/lib/python3.11/site-packages";
        let script = format!(
            "#!/bin/sh -e\nrm -rf {packages}\nmkdir -p {packages}/barbican-$1.dist-info\n\
             printf 'Metadata-Version: 2.1\\nName: barbican\\nVersion: %s\\n\\n' $1 >{packages}/barbican-$1.dist-info/METADATA\n\
             systemctl daemon-reload\nsystemctl start barbican-api.service || echo not started\n"
        );
        self.machine.write("/usr/bin/install-barbican", &script);
        self.run(&format!("chmod 755 /usr/bin/install-barbican && install-barbican {version}"));
    }

    /// The program as the operator calls it inside.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let enter = self.machine.enter();
        let mut command = Command::new(enter[0]);
        command
            .args(&enter[1..])
            .arg(PROGRAM)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    #[must_use = "look at the exit code, or at what was said"]
    pub(crate) fn tool(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }

    /// Runs it until a crash point, `NAME:N`.
    pub(crate) fn crash(&self, arguments: &[&str], point: &str) {
        let crashed = said(self.command(arguments).env("KEYMGR_UPGRADE_CRASH_AT", point));
        let _ = crashed.expect(137);
    }

    pub(crate) fn run(&self, line: &str) -> String {
        self.machine.run(line).unwrap().trim_end().to_owned()
    }

    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --timestamp=us+utc -P {name} {unit}"))
    }

    /// When the unit last did that: `2026-11-22 16:33:14.577346`.
    fn time(&self, unit: &str, name: &str) -> String {
        self.property(unit, name)[4..30].to_owned()
    }

    /// How the starts of the unit ended that systemd was ever asked for, by its own journal.
    pub(crate) fn starts(&self, unit: &str) -> String {
        let line = format!("journalctl -q -o cat --output-fields=JOB_RESULT JOB_TYPE=start UNIT={unit}");
        self.run(&line).replace('\n', " ")
    }

    pub(crate) fn revision(&self) -> String {
        self.tool(&["--json", "db", "current"]).json()["revision"].as_str().unwrap().to_owned()
    }

    fn digests(&self) -> String {
        self.run("sha256sum /etc/barbican/*")
    }

    /// API and worker run, the listener does not, what is enabled is as it was, and nothing holds them.
    #[track_caller]
    pub(crate) fn expect_up(&self) {
        for (unit, active, enabled) in
            [(API, "active", "enabled"), (WORKER, "active", "enabled"), (LISTENER, "inactive", "disabled")]
        {
            let found = [self.property(unit, "ActiveState"), self.property(unit, "UnitFileState")];
            assert_eq!(found, [active, enabled], "{unit}");
            assert_eq!(self.property(unit, "DropInPaths"), "");
        }
        assert_eq!(self.run("ls -d /etc/systemd/system/*barbican*.d || true"), "");
    }

    /// Nothing runs, and nothing can be started.
    #[track_caller]
    pub(crate) fn expect_held(&self) {
        for unit in [API, WORKER, LISTENER] {
            assert_eq!(self.machine.active(unit), "inactive", "{unit}");
            let error = self.machine.run(&format!("systemctl start {unit}")).unwrap_err().to_string();
            let held = error.contains(&format!("Assertion failed on job for {unit}"));
            assert!(held || error.contains(&format!("Unit {unit} is masked")), "{error}");
        }
    }

    /// What Debian gives to the user barbican still belongs to it, also what a run may have left beside the database.
    #[track_caller]
    fn expect_owned(&self) {
        let files = self.run("cd /var/lib && find barbican softhsm /var/log/barbican -printf '%u:%g\\n' | sort -u");
        assert_eq!(files, "barbican:barbican");
        let files = self.run("cd /etc/barbican && find . -printf '%u:%g %m\\n' | sort -u");
        assert_eq!(files, "root:barbican 640\nroot:barbican 750");
    }

    /// Starts an upgrade to Mitaka and returns when the API is down, while the worker is still being stopped.
    fn stopping(&self) -> Child {
        let mut command = self.command(&["upgrade", "--to", "mitaka", "--yes"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.run("until [ \"$(systemctl is-active barbican-api)\" = inactive ]; do :; done");
        assert_eq!(self.machine.active(WORKER), "deactivating");
        child
    }
}

/// A text as one line.
pub(crate) fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn services_are_down_exactly_while_data_changes() {
    let live = Live::boot();
    let said = live.tool(&["check", "--to", "mitaka"]).expect(1);
    assert!(said.out.contains("36 of 36 decrypt") && said.out.contains("0 FAIL, 1 WARN"), "{}", said.out);
    live.expect_up();
    let before = [API, WORKER].map(|unit| live.property(unit, "InvocationID"));

    let child = live.stopping();
    let error = live.machine.run("systemctl start barbican-api").unwrap_err().to_string();
    assert!(error.contains("Assertion failed on job for barbican-api.service"), "{error}");
    let said = end(child).expect(0);
    said.says("Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted; 2 units stay up. Not proved: that the API answers");
    assert!(said.out.contains("Done: Mitaka, down "), "{}", said.out);
    live.expect_up();
    live.expect_owned();
    assert_eq!(live.revision(), REVISIONS[1]);

    let after = [API, WORKER].map(|unit| live.property(unit, "InvocationID"));
    assert!(before.iter().all(|id| !after.contains(id)), "they were not started anew");
    assert_eq!((live.starts(API).as_str(), live.starts(WORKER).as_str()), ("done assert done done", "done done"));
    let changed = format!("stat -c %z {DATABASE} /etc/barbican/*.conf /etc/barbican/*.ini {STATE}/runs/*/backup/*");
    let changed = live.run(&changed);
    assert!(changed.lines().count() > 4);
    for unit in [API, WORKER] {
        let (down, up) = (live.time(unit, "InactiveEnterTimestamp"), live.time(unit, "ActiveEnterTimestamp"));
        for time in changed.lines() {
            assert!(down.as_str() < time && time < up.as_str(), "{unit} {down} to {up}, a change at {time}");
        }
    }
    assert_eq!(live.run(&format!("stat -c %U {CALLS} && grep -c C_Login {CALLS} >/dev/null")), "barbican");
}

#[test]
fn killed_in_the_middle_it_is_held_and_goes_back() {
    let live = Live::boot();
    // What a killed writer leaves beside a database in this mode must not shut the service out.
    let database = live.machine.root.path().join(&DATABASE[1..]);
    live.run("systemctl stop barbican-api barbican-worker");
    let wal = rusqlite::Connection::open(database).unwrap();
    wal.pragma_update(None, "journal_mode", "wal").unwrap();
    drop(wal);
    live.run("systemctl start barbican-api barbican-worker");
    let files = live.digests();

    // The hold of the API is on disk, and of nothing else; the stop was not asked for.
    live.crash(&["upgrade", "--to", "mitaka", "--yes"], "file replaced:8");
    assert_eq!(live.run(&format!("ls {HOLDS} | wc -l")), "1");
    assert_eq!(live.machine.active(API), "active");
    live.tool(&["rollback", "--yes"]).expect(0);
    live.expect_up();

    // One KEK of three is signed anew.
    live.crash(&["upgrade", "--to", "mitaka", "--yes"], "KEK written:1");
    live.expect_held();
    assert_eq!(live.run(&format!("ls {DATABASE}-wal {DATABASE}-shm | wc -l")), "2");
    live.expect_owned();
    let said = live.tool(&["status"]).expect(4);
    assert!(said.out.starts_with("INTERRUPTED") && said.out.contains("KEK signatures"), "{}", said.out);
    assert!(said.out.contains("held: they do not start"), "{}", said.out);
    without_the_bus_nothing_is_done(&live);
    live.tool(&["rollback", "--yes"]).expect(0);
    live.expect_up();
    live.expect_owned();
    assert_eq!((live.revision().as_str(), live.digests()), (REVISIONS[0], files));
    live.tool(&["check", "--to", "mitaka"]).expect(1);
}

/// Nobody can tell what runs then.
#[track_caller]
fn without_the_bus_nothing_is_done(live: &Live) {
    live.run("systemctl stop dbus.socket dbus.service");
    for verb in [&["resume"][..], &["rollback", "--yes"]] {
        let said = live.tool(verb).expect(4);
        said.says("no systemd at the system bus");
        said.says("Next: keymgr-upgrade ");
    }
    live.run("systemctl start dbus.socket dbus.service");
    live.expect_held();
}

#[test]
fn killed_in_the_middle_it_is_held_over_a_reboot_and_goes_on() {
    let mut live = Live::boot();
    live.crash(&["upgrade", "--to", "mitaka", "--yes"], "to commit:1");
    assert_eq!(live.run(&format!("stat -c %U {DATABASE}-journal")), "barbican");
    live.machine.reboot();
    live.expect_held();
    let said = live.tool(&["status"]).expect(4);
    assert!(said.out.starts_with("INTERRUPTED") && said.out.contains("held: they do not start"), "{}", said.out);
    live.tool(&["resume"]).expect(0);
    live.expect_up();
    live.expect_owned();
    assert_eq!(live.revision(), REVISIONS[1]);

    // And back, killed before the old code is there again.
    live.crash(&["rollback", "--yes"], "database restored:1");
    live.machine.reboot();
    live.expect_held();
    let said = live.tool(&["status"]).expect(4);
    assert!(said.out.starts_with("INTERRUPTED while going back"), "{}", said.out);
    live.tool(&["resume"]).expect(0);
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[0]);
}

#[test]
fn a_hold_by_hand_remembers_what_ran() {
    let mut live = Live::boot();
    let held =
        |live: &Live| live.tool(&["--json", "units", "status"]).expect(0).json()["held"].as_array().unwrap().len();
    live.tool(&["units", "hold"]).expect(0);
    assert_eq!(held(&live), 8);
    live.expect_held();
    live.machine.reboot();
    live.expect_held();
    live.tool(&["units", "hold"]).expect(0);
    live.tool(&["units", "unhold"]).expect(0);
    live.expect_up();
    assert_eq!(held(&live), 0);

    live.tool(&["units", "hold"]).expect(0);
    live.tool(&["upgrade", "--to", "mitaka", "--yes"]).expect(0);
    live.expect_up();
    // The run ended the hold: nothing is left of it that could start something later.
    live.run("systemctl stop barbican-api");
    live.tool(&["units", "unhold"]).expect(0);
    assert_eq!(live.machine.active(API), "inactive");

    // Undone, the run leaves the hold as it was.
    let said = live.tool(&["rollback", "--yes"]).expect(0);
    assert!(said.out.contains("Services are held, as they were before"), "{}", said.out);
    live.expect_held();
    live.tool(&["units", "unhold"]).expect(0);
    live.expect_up();
}

#[test]
fn a_unit_that_does_not_start_is_named_and_resume_starts_it() {
    let live = Live::boot();
    live.machine.write(
        "/etc/systemd/system/barbican-api.service.d/db.conf",
        "[Service]\nExecStartPre=/bin/test ! -e /broken\n",
    );
    live.run("systemctl daemon-reload && touch /broken");
    let said = live.tool(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    let reason = "barbican-api.service: the job ended as failed, the unit's result is exit-code";
    assert!(flat(&said.err).contains(reason), "{}", said.err);
    assert!(said.out.contains("STOPPED AT THE END") && !said.all().contains("held down"), "{}", said.all());
    assert_eq!((live.machine.active(API).as_str(), live.machine.active(WORKER).as_str()), ("failed", "active"));
    assert_eq!(live.revision(), REVISIONS[1]);
    let said = live.tool(&["status"]).expect(4);
    assert!(flat(&said.out).contains(reason) && said.out.contains("not held"), "{}", said.out);

    let worker = live.property(WORKER, "InvocationID");
    live.run("rm /broken");
    live.tool(&["resume"]).expect(0);
    assert_eq!((live.machine.active(API).as_str(), live.machine.active(LISTENER).as_str()), ("active", "inactive"));
    assert_eq!(live.property(WORKER, "InvocationID"), worker, "what ran was left alone");
    assert_eq!(live.run(&format!("ls {HOLDS}")), "db.conf");
    live.tool(&["status"]).expect(0);
}

#[test]
fn between_the_halves_a_package_starts_nothing() {
    let mut live = Live::boot();
    live.run("rm /etc/keymgr-upgrade/keymgr-upgrade.conf");
    let said = live.tool(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    assert!(said.out.contains("WAITING for the code of mitaka"), "{}", said.out);
    live.expect_held();
    let said = live.run("install-barbican 2.0.0 2>&1");
    assert!(said.contains("Assertion failed on job for barbican-api") && said.ends_with("not started"), "{said}");
    live.machine.run("systemctl restart barbican-api.service").unwrap_err();
    live.expect_held();
    live.machine.reboot();
    let error = live.machine.run("systemctl start barbican-api").unwrap_err().to_string();
    assert!(error.contains("Assertion failed on job for barbican-api.service"), "{error}");
    assert_eq!(live.revision(), REVISIONS[0]);
    let said = live.tool(&["resume"]).expect(0);
    said.says("Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted; 2 units stay up. Not proved: that the API answers");
    assert!(said.out.contains("Done: Mitaka, down "), "{}", said.out);
    live.expect_up();
}

#[test]
fn asked_to_stop_it_ends_between_two_steps_with_the_services_held() {
    let live = Live::boot();
    let child = live.stopping();
    live.run(&format!("kill -TERM {}", live.machine.processes(&format!("{PROGRAM} upgrade")).join(" ")));
    let said = end(child).expect(4);
    assert!(said.out.contains("Stopped before step 3, as asked. Services stay held."), "{}", said.out);
    live.expect_held();
    assert_eq!(live.revision(), REVISIONS[0]);
    live.tool(&["resume"]).expect(0);
    live.expect_up();
}
