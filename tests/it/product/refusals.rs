//! What passes with one line, and what is refused before anything is unpacked, with the units untouched.

use super::{Product, SAME, ZED};
use crate::common::Said;

#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    let product = Product::with_tool();
    a_reinstallation_and_an_update_within_a_release_pass(&product);

    // A skip; the way round is on the screen.
    product.offer(&["skip"]);
    let said = refused(&product, "");
    said.says("REFUSED: Zed -> 2023.2 skips 2023.1");
    said.says("keymgr-upgrade approve --to 2023.2 --fast-forward");
    said.says("apt-mark hold");
    crate::readme::expect_shown("apt, which refuses", &said.all());

    // Allowed to skip, but what is critical was not approved.
    let settings = "/etc/keymgr-upgrade/keymgr-upgrade.conf.d/way.conf";
    product.machine.write(settings, "[upgrade]\npath = fast-forward\n");
    product.machine.write("/etc/barbican/policy.yaml", "\"secrets:get\": \"rule:system_admin\"\n");
    refused(&product, "rm /etc/barbican/policy.yaml").says("bobcat-system-scope");
    product.ok(&format!("rm {settings}"));

    product.offer(&["next"]);
    product.ok("echo 'barbican-common barbican/configure_db boolean true' | debconf-set-selections");
    let said = refused(&product, "echo 'barbican-common barbican/configure_db boolean false' | debconf-set-selections");
    said.says("debconf-set-selections");

    product.ok("systemctl stop mariadb.socket mariadb");
    refused(&product, "systemctl start mariadb").says("127.0.0.1");

    product.ok("sed -i 's/^login = 1234/login = 4321/' /etc/barbican/barbican.conf");
    refused(&product, "sed -i 's/^login = 4321/login = 1234/' /etc/barbican/barbican.conf").says("PIN");

    // What apt cannot fetch it does not find out when all is down.
    let before = (product.packages(), product.invocations());
    product.ok("rm /srv/lab/repo/next/barbican-api_*");
    product.tool("upgrade --to 2023.1 --yes").expect(1).says("fetching the packages of 2023.1");
    assert_eq!((product.packages(), product.invocations()), before);
    assert!(!product.path("/var/lib/keymgr-upgrade/current").exists());

    // Whoever only wants a gate still gets one; whoever wants nothing gets nothing.
    product.expect_secrets();
}

#[track_caller]
fn a_reinstallation_and_an_update_within_a_release_pass(product: &Product) {
    product.offer(&["zed"]);
    let said = product.apt("install --reinstall barbican-worker").expect(0);
    assert!(ours(&said).len() <= 1, "{:?}", ours(&said));
    product.offer(&["same"]);
    let said = product.apt("upgrade").expect(0);
    assert_eq!(ours(&said).len(), 1, "{}", said.all());
    assert_eq!(product.packages(), format!("installed {SAME}"));
    product.expect_secrets();
    assert_ne!(SAME, ZED);
    product.tool("status").expect(0);
}

/// What apt is told to do is refused; then `undo` takes away the reason, and everything is as it was.
#[track_caller]
fn refused(product: &Product, undo: &str) -> Said {
    let before = (product.packages(), product.invocations(), product.running());
    let said = product.apt("upgrade").expect(100);
    said.says("REFUSED");
    said.says("othing was unpacked");
    assert_eq!((product.packages(), product.invocations(), product.running()), before, "{}", said.all());
    assert!(ours(&said).iter().all(|l| l.chars().count() <= 80 && l.is_ascii()), "{}", said.all());
    assert_eq!(
        product.ok("ls -d /etc/systemd/system/*barbican*.d /run/systemd/system/*barbican* 2>/dev/null || true"),
        ""
    );
    assert!(!product.path("/var/lib/keymgr-upgrade/current").exists());
    product.ok(if undo.is_empty() { "true" } else { undo });
    said
}

/// The lines that are ours.
fn ours(said: &Said) -> Vec<String> {
    said.out.lines().chain(said.err.lines()).filter(|l| l.starts_with("keymgr-upgrade: ")).map(str::to_owned).collect()
}
