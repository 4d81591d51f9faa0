//! An upgrade of a neglected host broken off at each of its stations, by a failure, SIGKILL or a power cut, then resumed or rolled back; once with
//! the code by apt, once from its source. What is to hold every time: the package manager is healthy, nothing runs on a deployment that is half one
//! thing and half the other, and the screen says what to do next.

use super::{Picture, Product};
use crate::common::Said;

/// Where it is broken off: the station, and the crash point in the process that does it.
pub(super) type Station = (&'static str, &'static str);

const SOURCE: [Station; 7] = [
    ("before stop", "step prepared:1"),
    ("after stop", "step applied:1"),
    ("after unpack", "step applied:4"),
    ("after schema", "step applied:5"),
    ("after data", "step applied:6"),
    ("after files", "step applied:8"),
    ("after start", "step applied:11"),
];

const UPGRADE: &str = "upgrade --to 2023.1 --fast-forward --yes";
const CRASH: &str = "/run/systemd/system/keymgr-upgrade.service.d/crash.conf";

/// A host and what it looks like before and after an upgrade that nobody disturbs.
pub(super) struct Table {
    pub(super) product: Product,
    pub(super) before: Picture,
    pub(super) after: Picture,
    /// How the code comes, and what happens to it, for the lines that are printed.
    pub(super) way: &'static str,
}

impl Table {
    fn source(way: &'static str) -> Self {
        let product = Product::from_source();
        product.ok("/srv/lab/from-bullseye && /srv/lab/old-signatures");
        product.machine.write(
            "/etc/keymgr-upgrade/keymgr-upgrade.conf.d/code.conf",
            "[code]\npython = /opt/barbican/bin/python3\nupgrade_command = /run/upgrade-command\n\
             rollback_command = install-barbican 15.0.1\n[database]\nwait = 1s\n",
        );
        product.script("/run/upgrade-command", "install-barbican 16.0.2");
        product.ok("systemctl restart barbican-api");
        let before = product.picture();
        let _ = product.tool(UPGRADE).expect(0);
        product.expect_secrets();
        let after = product.picture();
        assert_ne!((&before.code, &before.database, &before.files), (&after.code, &after.database, &after.files));
        let table = Self { product, before, after, way };
        table.back("undisturbed");
        table
    }

    /// Rolls back, and everything is as it was before.
    #[track_caller]
    pub(super) fn back(&self, station: &str) {
        let said = self.product.tool("rollback --yes").expect(0);
        self.expect_before(station, "rollback", &said);
    }

    /// Resumes, and everything is as if nothing had happened.
    #[track_caller]
    pub(super) fn resumed(&self, station: &str) {
        let said = self.product.tool("resume").expect(0);
        self.expect_after(station, "resume", &said);
    }

    #[track_caller]
    pub(super) fn expect_before(&self, station: &str, what: &str, said: &Said) {
        let now = self.product.picture();
        self.line(station, what, said, &now);
        assert_eq!(now, self.before, "{station}: {}", said.all());
    }

    #[track_caller]
    pub(super) fn expect_after(&self, station: &str, what: &str, said: &Said) {
        let now = self.product.picture();
        self.line(station, what, said, &now);
        assert_eq!(now, self.after, "{station}: {}", said.all());
    }

    /// A line of the table: station, what happened; exit code; code, database, files, units; what the screen said. `--no-capture` shows it.
    #[expect(clippy::print_stdout, reason = "a table to be quoted")]
    fn line(&self, station: &str, what: &str, said: &Said, now: &Picture) {
        let part = |now: &String, before: &String, after: &String| match now {
            // The digest of nothing.
            now if now.starts_with("e3b0c442") => "down",
            now if now == before => "old",
            now if now == after => "new",
            _ => "between",
        };
        let (before, after) = (&self.before, &self.after);
        let held = now.units.values().any(|unit| unit.contains("keymgr-upgrade-hold"));
        let up = now.units.values().filter(|unit| unit.lines().any(|l| l == "active")).count();
        let units = if held { format!("held, {up} up") } else { format!("{up} up") };
        println!(
            "{:15} {station:13} {what:9} {:>3}  {:8}{:8}{:8}{units:11}{}",
            self.way,
            said.code,
            part(&now.code, &before.code, &after.code),
            part(&now.database, &before.database, &after.database),
            part(&now.files, &before.files, &after.files),
            told(said)
        );
    }

    /// What always holds: a run is open and says what is next, dpkg is healthy, and what runs has code, data and files that belong together.
    #[track_caller]
    pub(super) fn expect_open(&self, station: &str, what: &str, said: &Said) {
        let all = said.all();
        let status = self.product.tool("status").expect(4);
        assert!(
            status.out.lines().filter(|l| l.starts_with("Next: ")).count() == 1,
            "{station}: {}\n{all}",
            status.out
        );
        self.product.expect_dpkg_healthy();
        let now = self.product.picture();
        self.line(station, what, said, &now);
        let whole = [&self.before, &self.after]
            .iter()
            .any(|p| (&p.code, &p.database, &p.files) == (&now.code, &now.database, &now.files));
        if !whole {
            // Nothing runs on what is half one thing and half the other.
            self.product.expect_held();
        }
    }

    /// Who logs in after a boot is told where to look.
    #[track_caller]
    pub(super) fn expect_told_at_boot(&self, station: &str) {
        let motd = self.product.ok("cat /run/motd.d/keymgr-upgrade");
        assert!(motd.contains("keymgr-upgrade status"), "{station}: {motd}");
        let up = self.product.running().len();
        assert_eq!(motd.contains("BARBICAN IS DOWN"), up == 0, "{station}: {up} up: {motd}");
    }

    /// Has the service end in SIGKILL at this point of its next run.
    pub(super) fn crash_at(&self, point: &str) {
        self.product.put(CRASH, &format!("[Service]\nEnvironment=\"KEYMGR_UPGRADE_CRASH_AT={point}\"\n"));
        self.product.ok("systemctl daemon-reload");
    }

    pub(super) fn crash_no_more(&self) {
        self.product.ok(&format!("rm -f {CRASH}; systemctl daemon-reload"));
    }
}

/// The line of the screen that says what came of it.
fn told(said: &Said) -> String {
    let words = [
        "Done",
        "Rolled back",
        "REFUSED",
        "STOPPED",
        "Failed",
        "HELD",
        "WAITING",
        "keymgr-upgrade.service was",
        "data and files are back",
        "E: ",
        "Next: ",
    ];
    let all = said.all();
    let all = all.replace("keymgr-upgrade: ", "").replace("REFUSED:\n", "REFUSED: ");
    let found = words.iter().find_map(|word| all.lines().find(|line| line.starts_with(word)));
    found.or_else(|| all.lines().last()).unwrap_or_default().chars().take(80).collect()
}

/// At every second station resumed first, at the others only undone; `other` has it the other way.
fn killed(other: usize) {
    let table = Table::source("source, killed");
    for (index, (station, point)) in SOURCE.into_iter().enumerate() {
        table.crash_at(point);
        let said = table.product.tool(UPGRADE).expect(4);
        table.crash_no_more();
        table.expect_open(station, "killed", &said);
        if index % 2 == other {
            table.resumed(station);
        }
        if table.product.picture() != table.before {
            table.back(station);
        }
    }
}

#[test]
fn from_source_killed_at_each_station() {
    killed(0);
}

#[test]
#[ignore = "more of from_source_killed_at_each_station"]
fn from_source_killed_at_each_station_the_other_way() {
    killed(1);
}

/// At every second station.
fn without_power(first: usize) {
    let mut table = Table::source("source, power");
    for (index, (station, point)) in SOURCE.into_iter().enumerate().skip(first).step_by(2) {
        table.crash_at(point);
        let said = table.product.tool(UPGRADE).expect(4);
        table.product.machine.cut_power();
        table.product.script("/run/upgrade-command", "install-barbican 16.0.2");
        table.expect_open(station, "power cut", &said);
        table.expect_told_at_boot(station);
        if index % 3 != 1 {
            table.resumed(station);
        }
        if table.product.picture() != table.before {
            table.back(station);
        }
        assert!(!table.product.path("/run/motd.d/keymgr-upgrade").exists(), "{station}");
    }
}

#[test]
fn from_source_without_power_at_stations() {
    without_power(0);
}

#[test]
#[ignore = "more of from_source_without_power_at_stations"]
fn from_source_without_power_at_the_other_stations() {
    without_power(1);
}

pub(super) const PASTE: &str = "/etc/barbican/barbican-api-paste.ini";

/// In a script: the listener will not live longer than a second once it is started.
pub(super) const SHORT_LIVED: &str = "mkdir -p /run/systemd/system/barbican-keystone-listener.service.d; \
    printf \"[Service]\\\\nRuntimeMaxSec=1\\\\nRestart=no\\\\n\" >/run/systemd/system/barbican-keystone-listener.service.d/lab.conf; \
    systemctl daemon-reload";

/// Has a unit do something that it is not to do, until the next boot.
pub(super) fn drop_in(unit: &str, line: &str) -> String {
    let directory = format!("/run/systemd/system/{unit}.d");
    format!("mkdir -p {directory} && printf '[Service]\\n{line}\\n' >{directory}/lab.conf && systemctl daemon-reload")
}

pub(super) fn no_drop_in(unit: &str) -> String {
    format!("rm -rf /run/systemd/system/{unit}.d && systemctl daemon-reload")
}

/// Of those that leave a run open every second is resumed first, the others are only undone; `other` has it the other way.
fn failing(other: usize) {
    let table = Table::source("source, failure");
    let cells: [(&str, String, i32, String); 7] = [
        (
            "before stop",
            "sed -i 's/^login = 1234/login = 4321/' /etc/barbican/barbican.conf".to_owned(),
            3,
            "sed -i 's/^login = 4321/login = 1234/' /etc/barbican/barbican.conf".to_owned(),
        ),
        (
            "after stop",
            drop_in("barbican-api.service", "ExecStopPost=+/bin/systemctl stop mariadb.socket mariadb"),
            1,
            format!("{} && systemctl start mariadb", no_drop_in("barbican-api.service")),
        ),
        (
            "after unpack",
            "printf '#!/bin/sh -e\\ninstall-barbican 16.0.2\\nsystemctl stop mariadb.socket mariadb\\n' >/run/upgrade-command"
                .to_owned(),
            4,
            "systemctl start mariadb; printf '#!/bin/sh -e\\ninstall-barbican 16.0.2\\n' >/run/upgrade-command"
                .to_owned(),
        ),
        (
            "after schema",
            "printf '#!/bin/sh -e\\ninstall-barbican 16.0.2\\nmariadb barbican </srv/lab/no.sql\\n' >/run/upgrade-command; \
             echo \"CREATE TRIGGER no BEFORE UPDATE ON kek_data FOR EACH ROW SIGNAL SQLSTATE '45000'\" >/srv/lab/no.sql"
                .to_owned(),
            4,
            "mariadb barbican -e 'DROP TRIGGER IF EXISTS no'; \
             printf '#!/bin/sh -e\\ninstall-barbican 16.0.2\\n' >/run/upgrade-command"
                .to_owned(),
        ),
        ("after data", format!("mount --bind {PASTE} {PASTE}"), 4, format!("umount {PASTE}")),
        (
            "after files",
            drop_in("barbican-worker.service", "ExecStartPre=/bin/false"),
            4,
            no_drop_in("barbican-worker.service"),
        ),
        (
            "after start",
            format!("printf '#!/bin/sh -e\\ninstall-barbican 16.0.2\\n{SHORT_LIVED}\\n' >/run/upgrade-command"),
            4,
            format!(
                "{}; printf '#!/bin/sh -e\\ninstall-barbican 16.0.2\\n' >/run/upgrade-command",
                no_drop_in("barbican-keystone-listener.service")
            ),
        ),
    ];
    for (index, (station, cause, code, mend)) in cells.iter().enumerate() {
        table.product.ok(cause);
        let said = table.product.tool(UPGRADE).expect(*code);
        assert!(said.all().contains("Next: "), "{station}: {}", said.all());
        if *code != 4 {
            table.product.ok(mend);
            table.expect_before(station, "failure", &said);
            let _ = table.product.tool("status").expect(0);
            continue;
        }
        table.expect_open(station, "failure", &said);
        // Again, before the cause is gone.
        let said = table.product.tool("resume").expect(4);
        table.expect_open(station, "resume", &said);
        table.product.ok(mend);
        if index % 2 == other {
            table.resumed(station);
        }
        table.back(station);
    }
}

#[test]
fn from_source_failing_at_each_station() {
    failing(0);
}

#[test]
#[ignore = "more of from_source_failing_at_each_station"]
fn from_source_failing_at_each_station_the_other_way() {
    failing(1);
}
