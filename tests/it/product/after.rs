//! What goes wrong between the unpacking and our second half: services stay held until it is mended.

use super::{ALL, NEXT, Product, SKIP};

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
    let status = product.tool("status").expect(4);
    status.says("INTERRUPTED");
    status.says("127.0.0.1");
    status.says("Next: ");

    product.ok("systemctl start mariadb");
    product.tool("resume").expect(4).says("PIN");
    product.expect_held();
    product.tool("status").expect(4).says("PIN");
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

#[test]
fn a_critical_note_that_applies_only_now_holds_until_it_is_accepted() {
    let product = Product::with_tool();
    product.put("/etc/keymgr-upgrade/keymgr-upgrade.conf.d/way.conf", "[upgrade]\npath = fast-forward\n");
    product.offer(&["skip"]);
    // The gate could not know of it.
    product.script("/srv/lab/policy", "echo '\"quotas:get\": \"rule:system_admin\"' >/etc/barbican/policy.yaml");
    product.put("/etc/apt/apt.conf.d/10lab", "DPkg::Post-Invoke { \"/srv/lab/policy\"; };\n");
    let said = product.apt("upgrade").expect(0);
    assert_eq!(product.packages(), format!("installed {SKIP}"), "{}", said.all());
    product.expect_dpkg_healthy();
    product.expect_held();
    let status = product.tool("status").expect(4);
    let again = product.tool("resume").expect(4);
    for said in [&said, &status, &again] {
        said.says("critical notes that nobody approved apply now: bobcat-system-scope");
        said.says("Next: keymgr-upgrade");
    }
    // What it is about, and what is to be done about it.
    for said in [&said, &again] {
        said.says("Your policy refers to system_admin or system_reader, which are gone");
        said.says("or accept them: keymgr-upgrade resume --accept-changes");
    }
    product.expect_held();

    let _ = product.tool("resume --accept-changes").expect(0);
    assert_eq!(product.running(), ALL);
    product.expect_secrets();
    let _ = product.tool("status").expect(0);
}
