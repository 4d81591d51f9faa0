//! Units of a real systemd, booted in a container (tests/lab/boot-systemd.sh). Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail anywhere, also in what it calls"
)]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use keymgr_upgrade::command;
use keymgr_upgrade::files::{Attributes, Root};
use keymgr_upgrade::systemd::{Error, Systemd, UnitState};
use keymgr_upgrade::units::{self, HOLD, KNOWN};
use secrecy::ExposeSecret;

pub(crate) const API: &str = "barbican-api.service";
pub(crate) const WORKER: &str = "barbican-worker.service";
pub(crate) const LISTENER: &str = "barbican-keystone-listener.service";
const RETRY: &str = "barbican-retry.service";

/// A service as a package installs it, which sleeps.
const SLEEPS: &str = "ExecStart=/bin/sleep infinity";
/// One that only SIGKILL ends, also in its child.
pub(crate) const STUBBORN: &str = "Type=notify\nNotifyAccess=all\nTimeoutStopSec=2\n\
    ExecStart=/bin/sh -c 'trap \"\" TERM; sleep infinity & systemd-notify --ready; while :; do wait; done'";
/// One that leaves a process behind.
const LEAVES_ONE: &str = "Type=notify\nNotifyAccess=all\nKillMode=process\n\
    ExecStart=/bin/sh -c 'sleep 12345 & systemd-notify --ready; exec sleep infinity'";

/// A booted container, gone when this is dropped.
pub(crate) struct Machine {
    script: Child,
    open: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
    address: String,
    pid: String,
    pub(crate) root: Root,
}

impl Machine {
    pub(crate) fn boot() -> Self {
        Self::boot_with(&[])
    }

    /// With arguments of the script that boots it.
    pub(crate) fn boot_with(arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/boot-systemd.sh");
        #[expect(clippy::disallowed_methods, reason = "runs as long as the test does, which command::run cannot")]
        let mut script = std::process::Command::new(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let open = script.stdin.take();
        let mut lines = BufReader::new(script.stdout.take().unwrap());
        let (address, pid, root) = booted(&mut lines);
        Self { script, open, lines, address, pid, root }
    }

    /// Shuts it down and boots the same tree again.
    pub(crate) fn reboot(&mut self) {
        self.again("reboot");
    }

    /// Kills everything in it at once and boots what is left.
    pub(crate) fn cut_power(&mut self) {
        self.again("power-cut");
    }

    fn again(&mut self, how: &str) {
        writeln!(self.open.as_ref().unwrap(), "{how}").unwrap();
        (self.address, self.pid, self.root) = booted(&mut self.lines);
    }

    fn systemd(&self) -> Systemd {
        Systemd::connect(Some(&self.address)).unwrap()
    }

    /// Writes a file into the container.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = Path::new(path);
        self.root.make_directory(path.parent().unwrap(), 0o755).unwrap();
        self.root.write(path, text.as_bytes(), Attributes { mode: 0o644, uid: 0, gid: 0 }).unwrap();
    }

    /// Installs a service of a package.
    pub(crate) fn install(&self, unit: &str, service: &str) {
        let text = format!("[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n");
        self.write(&format!("/usr/lib/systemd/system/{unit}"), &text);
        self.run("systemctl daemon-reload").unwrap();
    }

    pub(crate) fn install_and_start(&self, unit: &str, service: &str) {
        self.install(unit, service);
        self.run(&format!("systemctl enable --now {unit}")).unwrap();
    }

    /// The number of its first process, seen from outside.
    pub(crate) fn pid(&self) -> &str {
        &self.pid
    }

    /// What a command line begins with that is to run inside.
    pub(crate) fn enter(&self) -> [&str; 12] {
        ["nsenter", "-t", &self.pid, "-m", "-u", "-i", "-n", "-p", "-C", "--root", "--wd", "--"]
    }

    /// Runs a command of an operator inside.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let mut argv = self.enter().to_vec();
        argv.extend(["sh", "-c", line]);
        command::run(&argv, &[("LC_ALL", "C.UTF-8"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])
    }

    /// The processes inside whose command line begins like this.
    pub(crate) fn processes(&self, command: &str) -> Vec<String> {
        let command = command.replace(' ', ".");
        let found = self.run(&format!("grep -al '^{command}' /proc/[0-9]*/cmdline | cut -d / -f 3")).unwrap();
        found.lines().map(str::to_owned).collect()
    }

    pub(crate) fn state(&self, unit: &str) -> UnitState {
        let mut units = self.systemd().units(&self.root, &names(&[unit])).unwrap();
        units.pop().unwrap_or_else(|| panic!("there is no {unit}"))
    }

    pub(crate) fn active(&self, unit: &str) -> String {
        self.state(unit).active_state
    }
}

/// The address, process id and root that the script tells when a container is up.
fn booted(lines: &mut BufReader<ChildStdout>) -> (String, String, Root) {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let fields: Vec<&str> = line.trim_end().splitn(3, ' ').collect();
    let [address, pid, root] = fields[..] else { panic!("the container does not boot, see above") };
    (address.to_owned(), pid.to_owned(), Root::open(Path::new(root)).unwrap())
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.open.take());
        self.script.wait().ok();
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn known() -> Vec<String> {
    names(&KNOWN)
}

#[test]
fn stop_waits_for_all_and_start_brings_back_what_ran() {
    let machine = Machine::boot();
    machine.install_and_start(API, SLEEPS);
    machine.install_and_start(WORKER, STUBBORN);
    machine.install_and_start(LISTENER, SLEEPS);
    machine.run("systemctl stop barbican-keystone-listener").unwrap();
    machine.install(RETRY, SLEEPS);
    machine.run("systemctl mask barbican-retry").unwrap();
    let (systemd, before) = (machine.systemd(), machine.systemd().units(&machine.root, &known()).unwrap());
    let found: Vec<_> = before.iter().map(|u| (u.name.as_str(), u.active_state.as_str(), u.is_active())).collect();
    let (on, off) = (("active", true), ("inactive", false));
    assert_eq!(found, [(WORKER, on.0, on.1), (LISTENER, off.0, off.1), (RETRY, off.0, off.1), (API, on.0, on.1)]);
    assert_eq!(before[2].load_state, "masked");

    let began = Instant::now();
    assert_eq!(systemd.stop(&known()).unwrap(), [WORKER, API]);
    assert!(began.elapsed() >= Duration::from_secs(2), "the worker needs its TimeoutStopSec");
    let after = systemd.units(&machine.root, &known()).unwrap();
    assert!(after.iter().all(|u| u.active_state == "inactive" && u.main_pid.is_none()), "{after:?}");
    assert!(machine.processes("sleep").is_empty(), "a process is left");
    assert_eq!(machine.run("systemctl --failed --no-legend").unwrap(), "", "killed is not failed");
    assert!(systemd.stop(&known()).unwrap().is_empty(), "the second time there is nothing to stop");

    assert_eq!(systemd.start(&names(&["barbican-worker", API])).unwrap(), [WORKER, API]);
    assert!(systemd.start(&names(&[API])).unwrap().is_empty());
    let again = systemd.units(&machine.root, &known()).unwrap();
    for (was, is) in before.iter().zip(&again) {
        assert_eq!((&was.name, &was.active_state), (&is.name, &is.active_state));
        assert_eq!(was.unit_file_state, is.unit_file_state, "{}", was.name);
    }
}

#[test]
fn a_unit_that_had_failed_before_stays_failed() {
    let machine = Machine::boot();
    machine.install(API, "Type=oneshot\nExecStart=/bin/false");
    machine.run("systemctl start barbican-api").unwrap_err();
    let systemd = machine.systemd();
    systemd.stop(&known()).unwrap();
    assert_eq!(machine.active(API), "failed");
}

#[test]
fn a_held_unit_cannot_be_started_by_anything() {
    let machine = Machine::boot();
    machine.install_and_start(API, SLEEPS);
    let systemd = machine.systemd();
    let held = || units::held(&machine.root, &known()).unwrap();
    assert!(units::hold_files(&machine.root, &known()).unwrap());
    assert_eq!(held(), KNOWN, "also those that are not installed");
    systemd.reload().unwrap();
    assert_eq!(machine.active(API), "active", "holding does not stop");

    // A package's restart stops it, and that is all.
    let error = machine.run("systemctl restart barbican-api").unwrap_err().to_string();
    assert!(error.contains("Assertion failed on job for barbican-api.service"), "{error}");
    assert_eq!(machine.active(API), "inactive");
    let shown = machine.run("systemctl status barbican-api || true").unwrap();
    assert!(shown.contains("HELD by keymgr-upgrade (keymgr-upgrade status)"), "{shown}");

    for reload in ["systemctl daemon-reload", "systemctl daemon-reexec"] {
        machine.run(reload).unwrap();
        assert!(machine.run("systemctl start barbican-api").is_err(), "after {reload}");
    }
    let systemd = machine.systemd();
    let error = systemd.start(&names(&[API])).unwrap_err();
    assert!(matches!(&error, Error::JobFailed { unit, job, .. } if unit == API && job == "assert"), "{error:?}");
    assert_eq!(error.to_string(), "barbican-api.service: is held (an assertion of the unit is not met)");
    assert_eq!(machine.state(API).unit_file_state, "enabled");

    assert!(units::unhold_files(&machine.root, &known()).unwrap());
    systemd.reload().unwrap();
    assert!(held().is_empty());
    assert_eq!(machine.run("ls /etc/systemd/system | grep barbican || true").unwrap(), "");
    assert_eq!(systemd.start(&names(&[API])).unwrap(), [API]);
    let state = machine.state(API);
    assert_eq!((state.active_state.as_str(), state.unit_file_state.as_str()), ("active", "enabled"));
}

#[test]
fn a_reload_that_a_crash_swallowed_is_made_up_for() {
    let machine = Machine::boot();
    machine.install_and_start(API, SLEEPS);
    let systemd = machine.systemd();
    let hold = format!("/etc/systemd/system/{API}.d/{HOLD}");
    units::hold_files(&machine.root, &known()).unwrap();
    assert!(machine.state(API).drop_ins.is_empty(), "systemd does not know of it");
    assert_eq!(systemd.stop(&known()).unwrap(), [API]);
    assert_eq!(machine.state(API).drop_ins, [hold]);
    assert!(machine.run("systemctl start barbican-api").is_err());
    units::unhold_files(&machine.root, &known()).unwrap();
    systemd.reload().unwrap();
    assert_eq!(systemd.start(&names(&[API])).unwrap(), [API]);
}

#[test]
fn an_image_that_is_held_boots_with_its_units_down() {
    let image = tempfile::tempdir().unwrap();
    let root = Root::open(image.path()).unwrap();
    let text = format!("[Service]\n{SLEEPS}\n");
    let wants = Path::new("/etc/systemd/system/multi-user.target.wants");
    root.make_directory(wants, 0o755).unwrap();
    for unit in [API, WORKER] {
        let file = Path::new("/etc/systemd/system").join(unit);
        root.write(&file, text.as_bytes(), Attributes { mode: 0o644, uid: 0, gid: 0 }).unwrap();
        root.link(&format!("../{unit}"), &wants.join(unit)).unwrap();
    }
    units::hold_files(&root, &names(&[API])).unwrap();
    let machine = Machine::boot_with(&[image.path().to_str().unwrap()]);
    assert_eq!((machine.active(API).as_str(), machine.active(WORKER).as_str()), ("inactive", "active"));
    assert_eq!(units::all_held(&machine.root).unwrap(), [API]);
    assert!(machine.root.exists(&Path::new("/etc/systemd/system/barbican-api.service.d").join(HOLD)));
}

#[test]
fn a_start_that_fails_names_the_unit_and_why() {
    let machine = Machine::boot();
    let systemd = machine.systemd();
    machine.install(API, SLEEPS);
    let start = |first: &str| systemd.start(&names(&[first, API])).unwrap_err();

    machine.install(WORKER, "Type=oneshot\nExecStart=/bin/sh -c 'exit 3'");
    let error = start(WORKER);
    assert_eq!(
        error.to_string(),
        "barbican-worker.service: the job ended as failed, the unit's result is exit-code: main process ended with status 3"
    );
    machine.install(
        WORKER,
        "Type=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'systemd-notify --status=\"no database\"; exit 1'",
    );
    assert!(start(WORKER).to_string().ends_with(": main process ended with status 1, no database"));
    machine.install(WORKER, "ExecStart=/nonexistent/program\nType=exec\nRestart=always\nRestartSec=1h");
    assert!(matches!(start(WORKER), Error::JobFailed { job, result, .. } if job == "failed" && result == "exit-code"));
    machine.run("systemctl stop barbican-worker; systemctl mask barbican-worker").unwrap();
    let error = start(WORKER).to_string();
    assert_eq!(error, "barbican-worker.service: systemd refuses the job: Unit barbican-worker.service is masked.");
    assert_eq!(start("barbican-retry").to_string(), "there is no unit barbican-retry.service");
    assert_eq!(machine.active(API), "inactive", "what comes after a failure is not tried");
}

#[test]
fn a_service_that_dies_after_its_start_is_seen_at_the_end() {
    let machine = Machine::boot();
    // The second one's start waits until the first, which counted as up, is dead.
    machine.install(WORKER, "ExecStart=/bin/sh -c 'exit 4'");
    machine.install(
        API,
        "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'until systemctl is-failed barbican-worker; do :; done'",
    );
    machine.install(LISTENER, "ExecStart=/bin/sh -c 'exit 5'\nRestart=on-failure\nRestartSec=1h");
    machine.install(RETRY, "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'until systemctl show -P SubState barbican-keystone-listener | grep auto; do :; done'");
    for (dying, next, code) in [(WORKER, API, 4), (LISTENER, RETRY, 5)] {
        let error = machine.systemd().start(&names(&[dying, next])).unwrap_err();
        assert!(matches!(&error, Error::JobFailed { unit, .. } if unit == dying), "{error}");
        assert!(error.to_string().ends_with(&format!("status {code}")), "{error}");
    }
}

#[test]
fn a_process_that_survives_the_stop_is_named() {
    for hierarchy in [&[][..], &["--unified"]] {
        let machine = Machine::boot_with(hierarchy);
        machine.install_and_start(WORKER, LEAVES_ONE);
        machine.install_and_start(API, STUBBORN);
        let systemd = machine.systemd().wait_at_most(Duration::from_secs(4));
        let error = systemd.stop(&known()).unwrap_err();
        let Error::StillRunning { unit, pids } = &error else { panic!("{error:?}") };
        assert_eq!(unit, WORKER);
        assert_eq!(pids.iter().map(ToString::to_string).collect::<Vec<_>>(), machine.processes("sleep 12345"));
        assert_eq!(
            error.to_string(),
            format!("barbican-worker.service was stopped, but still runs: processes {}", pids[0])
        );
        assert_eq!(machine.active(API), "inactive", "the others were waited for");
        machine.run(&format!("kill {}", pids[0])).unwrap();
        assert!(machine.systemd().stop(&known()).unwrap().is_empty());
    }
}

#[test]
fn waiting_has_an_end() {
    let machine = Machine::boot();
    machine.install_and_start(API, &STUBBORN.replace("TimeoutStopSec=2", "TimeoutStopSec=infinity"));
    let short = Duration::from_millis(300);
    let systemd = machine.systemd().wait_at_most(short);
    let error = systemd.stop(&names(&[API])).unwrap_err();
    assert!(matches!(&error, Error::TimedOut { unit, after } if unit == API && *after == short), "{error}");
    machine.install(WORKER, "Type=notify\nExecStart=/bin/sleep infinity");
    let error = systemd.start(&names(&[WORKER])).unwrap_err();
    assert!(matches!(&error, Error::TimedOut { unit, .. } if unit == WORKER), "{error}");
}

#[test]
fn a_start_that_is_under_way_is_stopped_too() {
    let machine = Machine::boot();
    machine.install(API, "Type=notify\nExecStart=/bin/sleep infinity");
    machine.run("systemctl start --no-block barbican-api").unwrap();
    // The end of its start job, canceled by ours, is not the end of ours.
    assert_eq!(machine.systemd().stop(&names(&[API])).unwrap(), [API]);
    assert_eq!(machine.active(API), "inactive");
}

#[test]
fn a_start_that_gets_in_between_is_an_error() {
    let machine = Machine::boot();
    machine.install_and_start(API, &format!("{SLEEPS}\nExecStop=/bin/systemctl start --no-block barbican-api"));
    let error = machine.systemd().stop(&names(&[API])).unwrap_err();
    assert!(matches!(&error, Error::JobFailed { unit, job, .. } if unit == API && job == "canceled"), "{error}");
}

#[test]
fn what_systemd_knows_of_a_unit() {
    let machine = Machine::boot();
    let file = "# c\n; c\nONE=file\nTWO = a 'b' \"c\" \nTHREE='x\"y'\\\n  \"$z \\\"q\\\" \\\\ \\n\"\n\nno assignment\n2BAD=1\nFOUR=a\\\nb\\ c # d\nFIVE=\"l1\nl2\"\nGONE=1\n";
    machine.write("/etc/default/one", file);
    machine.write("/etc/default/two", "TWO=second");
    machine.run("useradd --system barbican").unwrap();
    machine.install(
        API,
        "User=barbican\nGroup=daemon\nEnvironment=ONE=1 \"ZERO=0 0\" GONE=2\nUnsetEnvironment=GONE\n\
         EnvironmentFile=/etc/default/one\nEnvironmentFile=-/etc/default/none\nEnvironmentFile=/etc/default/two\n\
         RuntimeDirectory=barbican\nTimeoutStopSec=1min 30s\n\
         ExecStartPre=/bin/sh -c 'env -0 > /run/barbican/env'\nExecStart=@/bin/sleep nap infinity\n",
    );
    machine.run("systemctl start barbican-api").unwrap();
    machine.run("ln -s barbican-api.service /usr/lib/systemd/system/openstack-barbican-api.service").unwrap();
    machine.install(WORKER, &format!("{SLEEPS}\nTimeoutStopSec=infinity"));
    let systemd = machine.systemd();
    let all = systemd.units(&machine.root, &known()).unwrap();
    assert_eq!(all.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), [WORKER, API], "an alias is the same unit");

    let (worker, api) = (&all[0], &all[1]);
    assert_eq!((worker.timeout_stop, worker.main_pid, worker.control_group.as_str()), (None, None, ""));
    assert_eq!((&worker.user, &worker.group), (&None, &None));
    assert_eq!((api.load_state.as_str(), api.sub_state.as_str()), ("loaded", "running"));
    assert_eq!((api.user.as_deref(), api.group.as_deref()), (Some("barbican"), Some("daemon")));
    assert_eq!(api.exec_start, ["/bin/sleep", "infinity"]);
    assert_eq!(api.timeout_stop, Some(Duration::from_secs(90)));
    assert!(api.control_group.ends_with("/system.slice/barbican-api.service"), "{}", api.control_group);
    let main = machine.run("systemctl show -P MainPID barbican-api").unwrap();
    assert_eq!(api.main_pid.map(|p| p.to_string()).as_deref(), Some(main.trim()));

    // What we read from the files is what systemd gave the process.
    let real = machine.run("cat /run/barbican/env").unwrap();
    let of_process =
        |name: &str| real.split('\0').filter_map(|l| l.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v);
    let found: Vec<_> = api.environment.iter().map(|(n, v)| (n.as_str(), v.expose_secret())).collect();
    assert_eq!(found.iter().map(|(n, _)| *n).collect::<Vec<_>>(), ["ONE", "ZERO", "TWO", "THREE", "FOUR", "FIVE"]);
    for (name, value) in found {
        assert_eq!(of_process(name), Some(value), "{name}");
    }
    assert_eq!((of_process("GONE"), of_process("2BAD")), (None, None));
    assert!(!format!("{api:?}").contains("second"), "values may be secrets");
}

/// A machine whose API ran, and is held and stopped; with all names that are held.
fn held() -> (Machine, Systemd, Vec<String>) {
    let machine = Machine::boot();
    machine.install_and_start(API, SLEEPS);
    let (systemd, all) = (machine.systemd(), known());
    units::hold_files(&machine.root, &all).unwrap();
    assert_eq!(systemd.stop(&all).unwrap(), [API]);
    (machine, systemd, all)
}

#[test]
fn scripts_of_packages_pass_over_what_is_held() {
    let (machine, systemd, _) = held();
    let start = || machine.run("systemctl restart barbican-api && /bin/systemctl start barbican-api.service");
    start().unwrap_err();
    machine.run("mkdir -p -m 700 /run/keymgr-upgrade && touch /run/keymgr-upgrade/package-work").unwrap();
    start().unwrap();
    assert_eq!(machine.active(API), "inactive");
    let error = systemd.start(&names(&[API])).unwrap_err();
    assert!(matches!(&error, Error::JobFailed { job, .. } if job == "skipped"), "{error}");
    machine.run("rm /run/keymgr-upgrade/package-work").unwrap();
    start().unwrap_err();
}

#[test]
fn what_is_released_starts_before_systemd_has_read_it() {
    let (machine, systemd, all) = held();
    units::unhold_files(&machine.root, &all).unwrap();
    // systemd has not read that yet: what it has read holds.
    assert!(matches!(systemd.start(&names(&[API])), Err(Error::JobFailed { job, .. }) if job == "assert"));
    machine.run("mkdir -p -m 700 /run/keymgr-upgrade && touch /run/keymgr-upgrade/released").unwrap();
    assert_eq!(systemd.start(&names(&[API])).unwrap(), [API]);
    assert!(machine.state(API).needs_reload);
    // Held anew in between: what is in /run is not to be reached from here.
    units::hold_files(&machine.root, &all).unwrap();
    machine.run("rm /run/keymgr-upgrade/released").unwrap();
    assert_eq!(systemd.stop(&all).unwrap(), [API]);
    machine.run("systemctl start barbican-api").unwrap_err();
}

#[test]
fn without_systemd_it_says_so() {
    let error = Systemd::connect(Some("unix:path=/nonexistent/bus")).unwrap_err();
    assert!(matches!(&error, Error::NoBus { address, .. } if address == "unix:path=/nonexistent/bus"));
    assert!(error.to_string().starts_with("no systemd at unix:path=/nonexistent/bus: "), "{error}");
}
