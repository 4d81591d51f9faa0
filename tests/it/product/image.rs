//! An image that is built without a systemd that runs, and its first boot.

use super::{NEXT, Product, UNITS, deb};

#[test]
fn an_image_is_upgraded_in_a_chroot_and_its_first_boot_says_what_is_left() {
    // As builders of images do it: nothing may be started, by a policy that says so.
    let script = "#!/bin/sh -e\n\
        printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d\n\
        export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8\n\
        dpkg -i /srv/lab/keymgr-upgrade.deb\n\
        echo 'deb [trusted=yes] file:/srv/lab/repo/next ./' >/etc/apt/sources.list.d/lab.list\n\
        apt-get -q update\n\
        apt-get -q -y -o Dpkg::Use-Pty=0 upgrade\n\
        rm /usr/sbin/policy-rc.d\n";
    let over = tempfile::tempdir().unwrap();
    let at = over.path().join("srv/lab");
    std::fs::create_dir_all(&at).unwrap();
    std::fs::copy(deb(), at.join("keymgr-upgrade.deb")).unwrap();
    std::fs::write(at.join("in-chroot"), script).unwrap();
    let product = Product::boot_image(over.path());

    let said = product.ok("cat /var/log/in-chroot.log");
    assert!(said.contains("Setting up barbican-api (1:16.0.2-1)"), "{said}");
    let ours: Vec<_> = said.lines().filter(|l| l.starts_with("keymgr-upgrade: ")).collect();
    assert_eq!(ours.len(), 2, "one thing is said, on two lines: {said}");
    assert_eq!(product.packages(), format!("installed {NEXT}"));
    assert!(!product.path("/var/lib/keymgr-upgrade/current").exists(), "nothing was run");
    product.ok("test -s /var/lib/keymgr-upgrade/hop.json");

    // The first boot says it, to who logs in and in the journal.
    let motd = product.ok("cat /run/motd.d/keymgr-upgrade");
    assert!(motd.contains("keymgr-upgrade"), "{motd}");
    let journal = product.ok("journalctl -q -o cat -u keymgr-upgrade-boot --no-pager");
    assert!(journal.contains("keymgr-upgrade"), "{journal}");

    // What the hop left to do is done by the service with its default target.
    let said =
        product.run("systemctl start keymgr-upgrade; journalctl -q -o cat -u keymgr-upgrade --no-pager").expect(0);
    said.says("Done: 2023.1");
    assert!(!product.path("/run/motd.d/keymgr-upgrade").exists());
    assert_eq!(product.running(), UNITS);
    product.expect_secrets();
    product.tool("status").expect(0);
}
