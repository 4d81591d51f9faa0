//! The table of `table`, where apt brings the code: the gate's half is done in apt's own process, the other in the service.

use super::table::{PASTE, SHORT_LIVED, Station, Table, drop_in, no_drop_in};
use super::{ALL, BROKEN, Product, ZED, at};
use crate::common::Said;

const STATIONS: [Station; 7] = [
    ("before stop", "gate step prepared:1"),
    ("after stop", "gate step applied:1"),
    ("after unpack", "step prepared:1"),
    ("after schema", "step applied:1"),
    ("after data", "step applied:2"),
    ("after files", "step applied:4"),
    ("after start", "step applied:7"),
];

const UPGRADE: &str = "apt-get -q -y -o Dpkg::Use-Pty=0 upgrade";
/// A hook of apt that sorts before our own, after the package work.
const HOOK: &str = "/etc/apt/apt.conf.d/10lab";
/// One that sorts after our gate.
const LATE: &str = "/etc/apt/apt.conf.d/zzz-late";
const WATCH: &str = "keymgr-upgrade-watch.service";

impl Table {
    fn apt(way: &'static str) -> Self {
        let product = Product::boot();
        product.ok("/srv/lab/from-bullseye && /srv/lab/old-signatures && systemctl restart barbican-api");
        product.put("/etc/keymgr-upgrade/keymgr-upgrade.conf.d/wait.conf", "[database]\nwait = 1s\n");
        product.install_tool();
        product.offer(&["zed", "broken"]);
        let before = product.picture();
        let _ = product.apt("upgrade").expect(0);
        product.expect_secrets();
        let after = product.picture();
        let table = Self { product, before, after, way };
        table.apt_back("undisturbed");
        table
    }

    /// Rolls back; the old packages are asked for by name, and passed by the gate.
    #[track_caller]
    fn apt_back(&self, station: &str) {
        let said = self.product.tool("rollback --yes").expect(4);
        said.says(ZED);
        self.expect_open(station, "rollback", &said);
        let said = self.product.apt(&format!("install --allow-downgrades {}", at(ZED))).expect(0);
        self.product.wait_for_end_of("keymgr-upgrade.service");
        self.expect_before(station, "downgrade", &said);
        let _ = self.product.tool("status").expect(0);
    }

    /// apt has brought the new code, and our half has not ended well.
    #[track_caller]
    fn expect_unpacked(&self, station: &str, said: &Said) {
        assert_eq!(self.product.packages(), format!("installed {BROKEN}"));
        assert!(said.all().contains("Next: "), "{station}: {}", said.all());
    }

    /// From the gate on nobody looks after the package manager, until the next boot: as if all ended at once.
    fn nobody_watches(&self) {
        self.product.ok(&drop_in(WATCH, "ExecStart=\\nExecStart=/bin/sleep infinity"));
    }
}

/// Which stations, and whether the run is resumed before it is undone.
type Choice = fn(usize) -> Option<bool>;
const FIRST: Choice = |index| (index < 2 || index % 2 == 0).then_some(index != 4);
const OTHERS: Choice = |index| (index >= 2).then_some(index % 2 == 1 || index == 4);

fn killed(choose: Choice) {
    let table = Table::apt("apt, killed");
    for (index, (station, point)) in STATIONS.into_iter().enumerate() {
        let Some(resume) = choose(index) else { continue };
        if let Some(point) = point.strip_prefix("gate ") {
            // Whoever kills the gate makes apt refuse; the watch gives back what it held.
            let said = table.product.run(&format!("KEYMGR_UPGRADE_CRASH_AT='{point}' {UPGRADE}")).expect(100);
            table.product.wait_for_end_of(WATCH);
            table.expect_before(station, "killed", &said);
            let _ = table.product.tool("status").expect(0);
            continue;
        }
        table.crash_at(point);
        let said = table.product.apt("upgrade").expect(0);
        table.crash_no_more();
        table.expect_unpacked(station, &said);
        table.expect_open(station, "killed", &said);
        if resume {
            table.resumed(station);
        }
        table.apt_back(station);
    }
    assert_eq!(table.product.running(), ALL);
}

#[test]
fn by_apt_killed_at_each_station() {
    killed(FIRST);
}

#[test]
#[ignore = "more of by_apt_killed_at_each_station"]
fn by_apt_killed_at_each_station_the_other_way() {
    killed(OTHERS);
}

/// The causes and what takes them away. In the gate a failure is undone by itself; after the unpacking services stay held, and apt is not to blame.
fn causes() -> [(&'static str, String, i32, String); 7] {
    let hook = |line: &str| format!("printf '%s' 'DPkg::Post-Invoke {{ \"{line}\"; }};' >{HOOK}");
    let no_hook = format!("rm {HOOK}");
    [
        (
            "before stop",
            "sed -i 's/^login = 1234/login = 4321/' /etc/barbican/barbican.conf".to_owned(),
            100,
            "sed -i 's/^login = 4321/login = 1234/' /etc/barbican/barbican.conf".to_owned(),
        ),
        (
            "after stop",
            drop_in("barbican-api.service", "ExecStopPost=+/bin/systemctl stop mariadb.socket mariadb"),
            100,
            format!("{} && systemctl start mariadb", no_drop_in("barbican-api.service")),
        ),
        (
            "after unpack",
            hook("systemctl stop mariadb.socket mariadb"),
            0,
            format!("{no_hook}; systemctl start mariadb"),
        ),
        (
            "after schema",
            format!(
                "{}; echo \"CREATE TRIGGER no BEFORE UPDATE ON kek_data FOR EACH ROW SIGNAL SQLSTATE '45000'\" >/srv/lab/no.sql",
                hook("mariadb barbican </srv/lab/no.sql")
            ),
            0,
            format!("{no_hook}; mariadb barbican -e 'DROP TRIGGER no'"),
        ),
        ("after data", format!("mount --bind {PASTE} {PASTE}"), 0, format!("umount {PASTE}")),
        (
            "after files",
            drop_in("barbican-worker.service", "ExecStartPre=/bin/false"),
            0,
            no_drop_in("barbican-worker.service"),
        ),
        (
            "after start",
            format!(
                "{}; printf '#!/bin/sh -e\\n{SHORT_LIVED}\\n' >/srv/lab/short; chmod 755 /srv/lab/short",
                hook("/srv/lab/short")
            ),
            0,
            format!("{no_hook}; {}", no_drop_in("barbican-keystone-listener.service")),
        ),
    ]
}

fn failing(choose: Choice) {
    let table = Table::apt("apt, failure");
    for (index, (station, cause, code, mend)) in causes().into_iter().enumerate() {
        let Some(resume) = choose(index) else { continue };
        table.product.ok(&cause);
        let said = table.product.apt("upgrade").expect(code);
        if code == 100 {
            table.product.ok(&mend);
            table.product.wait_for_end_of(WATCH);
            table.expect_before(station, "failure", &said);
            let _ = table.product.tool("status").expect(0);
            continue;
        }
        table.expect_unpacked(station, &said);
        table.expect_open(station, "failure", &said);
        if resume {
            // Once before the cause is gone.
            let said = table.product.tool("resume").expect(4);
            table.expect_open(station, "resume", &said);
        }
        table.product.ok(&mend);
        if resume {
            table.resumed(station);
        }
        table.apt_back(station);
    }
    assert_eq!(table.product.running(), ALL);
}

#[test]
fn by_apt_failing_at_each_station() {
    failing(FIRST);
}

#[test]
#[ignore = "more of by_apt_failing_at_each_station"]
fn by_apt_failing_at_each_station_the_other_way() {
    failing(OTHERS);
}

impl Table {
    /// The power goes; what is open is said at the next boot.
    #[track_caller]
    fn power_cut(&mut self, station: &str, said: &Said) {
        self.product.machine.cut_power();
        self.expect_told_at_boot(station);
        self.expect_open(station, "power cut", said);
    }

    /// While the gate is at work, or when it has done its work and nothing is unpacked yet: apt ends at this command line.
    fn without_power_before_the_unpacking(&mut self, station: &str, line: &str, resume: bool) {
        self.nobody_watches();
        let said = self.product.run(line);
        assert_ne!(said.code, 0, "{station}: {}", said.all());
        self.power_cut(station, &said);
        self.product.ok(&format!("rm -f {LATE}"));
        if !resume {
            self.back(station);
            return;
        }
        // It fetches the packages itself, as `upgrade --to` does.
        self.resumed(station);
        self.apt_back(station);
    }

    /// In a postinst: everything is unpacked, half of it configured. dpkg is as a power cut leaves it, and says what it needs.
    fn without_power_in_the_unpacking(&mut self) {
        let station = "in unpack";
        self.nobody_watches();
        self.product.script("/run/in-postinst", "pkill -9 -x apt-get; kill -9 $(pgrep -x dpkg)");
        let said = self.product.apt("upgrade");
        assert_ne!(said.code, 0, "{}", said.all());
        self.product.machine.cut_power();
        self.expect_told_at_boot(station);
        self.product.expect_held();
        let status = self.product.tool("status").expect(4);
        assert!(status.out.contains("Next: "), "{}", status.out);
        let said = self.product.run("dpkg --configure -a").expect(0);
        self.product.wait_for_end_of("keymgr-upgrade.service");
        self.expect_after(station, "configure", &said);
        self.apt_back(station);
    }
}

fn without_power(choose: Choice) {
    let mut table = Table::apt("apt, power");
    let gate = |point: &str| format!("KEYMGR_UPGRADE_CRASH_AT='{point}' {UPGRADE}");
    let late = format!("echo 'DPkg::Pre-Install-Pkgs {{ \"kill -9 $PPID\"; }};' >{LATE}; {UPGRADE}");
    if choose(3).is_some() {
        table.without_power_before_the_unpacking("before stop", &gate("step prepared:1"), true);
        table.without_power_before_the_unpacking("before unpack", &late, false);
    } else {
        table.without_power_in_the_unpacking();
        table.without_power_before_the_unpacking("before unpack", &late, true);
        table.without_power_before_the_unpacking("before stop", &gate("step prepared:1"), false);
        table.without_power_before_the_unpacking("after stop", &gate("step applied:1"), false);
    }
    for (index, (station, point)) in STATIONS.into_iter().enumerate().skip(2) {
        let Some(resume) = choose(index) else { continue };
        table.crash_at(point);
        let said = table.product.apt("upgrade").expect(0);
        table.expect_unpacked(station, &said);
        table.power_cut(station, &said);
        if resume {
            table.resumed(station);
        }
        table.apt_back(station);
    }
}

#[test]
fn by_apt_without_power_at_each_station() {
    without_power(|index| matches!(index, 4 | 6).then_some(index == 6));
}

#[test]
#[ignore = "more of by_apt_without_power_at_each_station"]
fn by_apt_without_power_at_each_station_the_other_way() {
    without_power(OTHERS);
}
