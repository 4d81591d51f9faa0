//! The runbook of keymgr-upgrade-fleet(7), by hand.

use super::lab::{Fleet, address};
use crate::product::{NEXT, UNITS, ZED};

#[test]
#[ignore = "minutes: make test-slow"]
fn what_was_fetched_before_is_enough_and_a_hold_outlasts_reboots() {
    let mut fleet = Fleet::boot(2);
    for host in &fleet.hosts {
        // From such a repository apt takes copies, as from a server.
        host.machine.write("/etc/apt/sources.list.d/lab.list", "deb [trusted=yes] copy:/srv/lab/repo/next ./\n");
        host.ok("apt-get -q update");
        let before = host.invocations();
        let said = host.tool("upgrade --to 2023.1 --download-only").expect(0);
        said.says(&format!("Fetched: barbican-api={NEXT}"));
        assert_eq!((host.invocations(), host.packages()), (before, format!("installed {ZED}")));
        host.ok("rm -r /srv/lab/repo");
    }
    fleet.hosts[1].ok(&format!("systemctl stop {}", UNITS[2]));
    for host in &fleet.hosts {
        let _ = host.tool("units hold").expect(0);
    }
    fleet.hosts[0].machine.cut_power();
    fleet.hosts[1].machine.reboot();
    for index in 0..2 {
        fleet.plug(index);
        fleet.hosts[index].expect_held();
        fleet.hosts[index].tool("status").expect(0).says("held");
    }
    for (host, ran) in fleet.hosts.iter().zip([&UNITS[..], &UNITS[..2]]) {
        host.tool("upgrade --to 2023.1 --fast-forward --yes").expect(0).says("Done: 2023.1");
        assert_eq!((host.packages(), host.running()), (format!("installed {NEXT}"), ran.to_vec()));
    }
    assert_eq!(fleet.store.migration().hosts, [address(0)]);
    for host in &fleet.hosts {
        host.expect_secrets();
        host.tool("units status").expect(0).says("0 of ");
    }
}
