//! The true way of Debian's operators: from one stable release to the next.

use std::process::{Command, Stdio};

use super::{ALL, Product, ZED};
use crate::common::said;

/// The version in Debian 13, of 2025.1.
const TRIXIE: &str = "1:20.0.0-3";

#[test]
#[ignore = "slow: half a gigabyte from Debian's mirror, and ten minutes"]
fn bookworm_to_trixie_is_refused_as_a_skip_then_carried_out_as_approved() {
    let product = Product::boot_with_room();
    product.install_tool();
    product.ok("sed 's/bookworm/trixie/' /etc/apt/sources.list.debian >/etc/apt/sources.list; rm -f /etc/apt/sources.list.d/lab.list");
    std::fs::copy("/etc/resolv.conf", product.path("/etc/resolv.conf")).unwrap();
    for line in ["apt-get -q update", "apt-get -q -y --download-only dist-upgrade"] {
        // The container has no network of its own, this machine's is lent to it.
        let mut enter = product.machine.enter().to_vec();
        enter.retain(|argument| *argument != "-n");
        let mut command = Command::new(enter[0]);
        command
            .args(&enter[1..])
            .args(["sh", "-c", line])
            .stdin(Stdio::null())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let _ = said(&mut command).expect(0);
    }
    let upgrade = "dist-upgrade --no-download -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
    let before = (product.packages(), product.invocations());
    let refused = product.apt(upgrade).expect(100);
    refused.says("skips 2023.1, 2023.2, 2024.1, 2024.2");
    assert_eq!((product.packages(), product.invocations()), before);
    assert_eq!(before.0, format!("installed {ZED}"));

    let _ = product.tool("approve --to 2025.1 --fast-forward").expect(0);
    let began = product.now();
    let done = product.apt(upgrade).expect(0);
    product.wait_for_end_of("keymgr-upgrade-watch.service");
    product.wait_for_end_of("keymgr-upgrade.service");
    done.says("Done: 2025.1");
    assert_eq!(product.packages(), format!("installed {TRIXIE}"));
    product.watch().expect_down_in_package_work(began);
    // Else 20.0.0 takes an empty SQLite file, and all looks well.
    let section = product.ok("sed -n '/^\\[database\\]/,/^\\[/p' /etc/barbican/barbican.conf");
    assert!(section.contains("\nconnection = mysql+pymysql://"), "{section}");
    // Debian's installation makes it, empty.
    assert_eq!(product.path("/var/lib/barbican/barbican.sqlite").metadata().unwrap().len(), 0);
    product.ok("grep -q '^pipeline = .*microversion' /etc/barbican/barbican-api-paste.ini");
    assert_eq!(product.running(), ALL);
    product.expect_secrets();
    product.expect_dpkg_healthy();
}
