//! What goes wrong between the unpacking and our second half: services stay held until it is mended.

use super::{ALL, NEXT, Product};

#[test]
fn trouble_that_comes_with_the_packages_holds_until_it_is_mended() {
    let product = Product::boot();
    product.ok("/srv/lab/from-bullseye && systemctl restart barbican-api");
    product.install_tool();
    product.put("/etc/keymgr-upgrade/keymgr-upgrade.conf.d/wait.conf", "[database]\nwait = 1s\n");
    product.offer(&["next"]);
    // Sorts before our own: when we go on, the database is down and the PIN is another one.
    product.put(
        "/etc/apt/apt.conf.d/10lab",
        "DPkg::Post-Invoke { \"systemctl stop mariadb.socket mariadb; sed -i 's/^login = 1234/login = 4321/' /etc/barbican/barbican.conf\"; };\n",
    );
    let said = product.apt("upgrade").expect(0);
    assert_eq!(product.packages(), format!("installed {NEXT}"));
    product.ok("rm /etc/apt/apt.conf.d/10lab");
    product.wait_for_end_of("keymgr-upgrade-watch.service");
    product.wait_for_end_of("keymgr-upgrade.service");
    product.expect_dpkg_healthy();
    product.expect_held();
    said.says("127.0.0.1");
    assert!(said.all().contains("Next: "), "{}", said.all());
    product.tool("status").expect(4).says("Next: ");

    product.ok("systemctl start mariadb");
    product.tool("resume").expect(4).says("PIN");
    product.expect_held();
    product.ok("sed -i 's/^login = 4321/login = 1234/' /etc/barbican/barbican.conf");
    let said = product.tool("resume");
    // Files that were changed meanwhile are looked at again, and asked about where the plan is another one now.
    if said.code != 0 {
        let _ = product.tool("resume --accept-changes").expect(0);
    }
    assert_eq!(product.running(), ALL);
    product.expect_secrets();
    product.tool("status").expect(0);
}
