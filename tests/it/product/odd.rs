//! Package work that does not go as it should: without apt, broken off, failing, with more than Barbican in it.

use super::{ALL, BROKEN, DEB, NEXT, Product, ZED};
use crate::common::end;

/// Makes our package with a higher version, in a directory of its own.
const HIGHER: &str = "mkdir -p /srv/lab/repo/ours && cd /srv/lab/repo/ours && dpkg-deb -R /srv/lab/keymgr-upgrade.deb /tmp/x && \
     sed -i 's/^Version: .*/&.1/' /tmp/x/DEBIAN/control && dpkg-deb -Znone -b /tmp/x ./keymgr-upgrade.deb >/dev/null && rm -r /tmp/x";
const STATE: &str = "/var/lib/keymgr-upgrade";

#[test]
fn dpkg_alone_is_gated_and_followed_too() {
    let product = Product::with_tool();
    let before = product.invocations();
    // A skip first: nothing happens.
    let said = product.run("dpkg -i /srv/lab/repo/skip/*.deb").expect(2);
    said.says("REFUSED");
    assert_eq!((product.packages(), product.invocations()), (format!("installed {ZED}"), before));

    let began = product.now();
    let said = product.run("dpkg -i /srv/lab/repo/next/*.deb").expect(0);
    product.wait_for_end_of("keymgr-upgrade.service");
    assert_eq!(product.packages(), format!("installed {NEXT}"), "{}", said.all());
    product.watch().expect_down_in_package_work(began);
    product.tool("status").expect(0);
    assert_eq!(product.running(), ALL);
    product.expect_secrets();
    product.expect_dpkg_healthy();
}

#[test]
fn what_breaks_off_before_the_unpacking_is_undone_by_itself() {
    let product = Product::with_tool();
    product.offer(&["next"]);
    let before = product.picture();
    // Another hook, which sorts after ours: it refuses, or apt is killed by it. Our own is asked twice, as some callers do.
    let gate = "KEYMGR_UPGRADE=gate /usr/lib/keymgr-upgrade/apt-gate";
    for (how, code) in [("exit 1", 100), ("kill -9 $PPID", 137)] {
        let began = product.now();
        let hook = format!("DPkg::Pre-Install-Pkgs {{ \"{gate}\"; \"{how}\"; }};\n");
        product.machine.write("/etc/apt/apt.conf.d/zzz-late", &hook);
        let invocations = product.invocations();
        let said = product.apt("upgrade").expect(code);
        product.wait_for_end_of("keymgr-upgrade-watch.service");
        assert_ne!(product.invocations(), invocations, "{how}: the gate had stopped them: {}", said.all());
        product.expect_secrets();
        assert_eq!(product.picture(), before, "{how}");
        product.tool("status").expect(0);
        let watch = product.watch();
        let dpkg = watch.events.iter().any(|e| e.what == super::What::Dpkg && e.at > began);
        assert!(!dpkg, "{how}: nothing was unpacked: {watch}");
    }
    product.ok("rm /etc/apt/apt.conf.d/zzz-late; apt-get check");
    // And then it works.
    let said = product.apt("upgrade").expect(0);
    crate::readme::expect_shown("apt, which upgrades", &said.out);
    assert_eq!((product.packages(), product.running()), (format!("installed {NEXT}"), ALL.to_vec()));
    product.expect_secrets();
}

#[test]
fn a_postinst_that_fails_leaves_services_held_until_it_works() {
    let product = Product::with_tool();
    product.offer(&["broken"]);
    product.script("/run/in-postinst", "exit 1");
    let said = product.apt("upgrade").expect(100);
    said.says("keymgr-upgrade: HELD");
    said.says("Next: apt-get -f install");
    product.expect_held();
    let status = product.tool("status").expect(4);
    assert!(status.out.contains("Next:"), "{}", status.out);
    // Resuming is of no use yet, and says so.
    product.tool("resume").expect(4).says("Next:");
    product.expect_held();

    product.ok("rm /run/in-postinst");
    let said = product.run("dpkg --configure -a").expect(0);
    assert_eq!(product.packages(), format!("installed {BROKEN}"), "{}", said.all());
    product.wait_for_end_of("keymgr-upgrade.service");
    if product.tool("status").code != 0 {
        let _ = product.tool("resume").expect(0);
    }
    assert_eq!(product.running(), ALL);
    product.expect_secrets();
    product.expect_dpkg_healthy();
}

#[test]
fn apt_killed_in_the_middle_of_the_unpacking_holds_and_goes_on() {
    let product = Product::with_tool();
    product.offer(&["broken"]);
    // barbican-common's postinst: everything is unpacked, half of it configured.
    product.script("/run/in-postinst", "pkill -9 -x apt-get; kill -9 $(pgrep -x dpkg)");
    let said = product.apt("upgrade");
    assert_ne!(said.code, 0, "{}", said.all());
    product.ok("rm -f /run/in-postinst");
    product.wait_for_end_of("keymgr-upgrade-watch.service");
    product.expect_held();
    let status = product.tool("status").expect(4);
    assert!(status.out.contains("Next:"), "{}", status.out);
    let motd = product.ok("cat /run/motd.d/keymgr-upgrade");
    assert!(motd.contains("keymgr-upgrade status"), "{motd}");
    let _ = product.run("dpkg --configure -a").expect(0);
    product.wait_for_end_of("keymgr-upgrade.service");
    if product.tool("status").code != 0 {
        let _ = product.tool("resume").expect(0);
    }
    assert_eq!((product.packages(), product.running()), (format!("installed {BROKEN}"), ALL.to_vec()));
    product.expect_secrets();
    product.expect_dpkg_healthy();
    assert!(!product.path("/run/motd.d/keymgr-upgrade").exists());
}

#[test]
fn database_server_and_we_ourselves_may_be_upgraded_in_the_same_run() {
    let product = Product::with_tool();
    // Ours with a higher version, in a repository as the others are.
    product.ok(&format!(
        "{HIGHER} && {{ dpkg-deb -f keymgr-upgrade.deb | grep .; echo Filename: ./keymgr-upgrade.deb; \
         echo Size: $(stat -c %s keymgr-upgrade.deb); \
         echo SHA256: $(sha256sum keymgr-upgrade.deb | cut -d ' ' -f 1); }} >Packages"
    ));
    product.offer(&["next", "server", "ours"]);
    let server = product.ok("systemctl show -P InvocationID mariadb");
    let began = product.now();
    let said = product.apt("upgrade").expect(0);
    said.says("Unpacking mariadb-server");
    said.says("Unpacking keymgr-upgrade");
    assert_ne!(product.ok("systemctl show -P InvocationID mariadb"), server, "it was restarted");
    assert_eq!(product.packages(), format!("installed {NEXT}"));
    product.watch().expect_down_in_package_work(began);
    product.tool("status").expect(0);
    assert_eq!(product.running(), ALL);
    product.expect_secrets();
    product.expect_dpkg_healthy();
}

#[test]
fn our_package_stays_while_a_run_is_open_and_goes_without_a_trace_of_work() {
    let product = Product::with_tool();
    let before = product.picture();
    // No repository offers 16.0.x, so it waits for the code.
    product.tool("upgrade --to 2023.1 --yes").expect(4).says("Next:");
    product.expect_held();
    let said = product.apt("remove keymgr-upgrade").expect(100);
    said.says("keymgr-upgrade");
    assert_eq!(product.ok("dpkg-query -W -f '${db:Status-Status}' keymgr-upgrade"), "installed");
    product.tool("status").expect(4);
    // The same again over itself is fine.
    product.ok(&format!("dpkg -i {DEB}"));
    product.expect_held();
    product.tool("rollback --yes").expect(0);
    product.expect_secrets();
    assert_eq!(product.picture(), before);

    // A higher version of ours disturbs nobody, and keeps what is known.
    let ran = product.invocations();
    product.ok(HIGHER);
    product.ok("dpkg -i /srv/lab/repo/ours/keymgr-upgrade.deb");
    assert_eq!(product.ok("systemctl is-enabled keymgr-upgrade-boot"), "enabled");
    assert_eq!((product.invocations(), product.picture()), (ran.clone(), before.clone()));

    let said = product.apt("remove keymgr-upgrade").expect(0);
    said.says("with copies of the database, stays in");
    said.says("/var/lib/keymgr-upgrade until this package is purged");
    assert_eq!(product.ok("dpkg-query -W -f '${db:Status-Status}' keymgr-upgrade"), "config-files");
    assert_eq!((product.invocations(), product.picture()), (ran, before));
    assert_eq!(product.ok(&format!("ls -d {STATE}/runs/*/backup | wc -l; ls {STATE} | grep current || true")), "1");
    product.offer(&["next"]);
    let said = product.apt("upgrade").expect(0);
    assert!(!said.all().contains("keymgr-upgrade"), "{}", said.all());
    assert_eq!((product.packages(), product.running()), (format!("installed {NEXT}"), ALL.to_vec()));
    let said = product.run("dpkg -i /srv/lab/repo/next/barbican-api_*.deb").expect(0);
    assert!(!said.all().contains("keymgr-upgrade"), "{}", said.all());
    purged(&product);
}

/// Purging removes what is left, and says so; not where a run is open, whoever has forced the package out in spite of it.
#[track_caller]
fn purged(product: &Product) {
    product.ok(&format!("ln -s runs/open {STATE}/current"));
    product.run("sh /var/lib/dpkg/info/keymgr-upgrade.postrm purge").expect(0).says("its last run was not finished");
    product.ok(&format!("ls -d {STATE}/runs/*/backup && rm {STATE}/current"));
    let said = product.apt("purge keymgr-upgrade").expect(0);
    said.says("purged /var/lib/keymgr-upgrade: what it knew of its");
    said.says("runs, and the copies that they kept (backups: 1).");
    assert_eq!(product.run("dpkg-query -W keymgr-upgrade").code, 1);
    let left = product.ok("find / -xdev -path /srv -prune -o -iname '*keymgr*' -print; find /run -iname '*keymgr*'");
    assert_eq!(left, "", "nothing of ours is left");
    assert_eq!(product.ok("grep -rl keymgr /var/lib/dpkg/triggers || true"), "");
    assert_eq!(
        product.ok("find /etc/systemd /run/systemd -path '*barbican*.d*' -o -lname /dev/null -name '*barbican*'"),
        ""
    );
    assert_eq!(product.running(), ALL);
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let product = Product::with_tool();
    product.offer(&["next"]);
    let apt = product.start("apt-get -q -y -o Dpkg::Use-Pty=0 upgrade");
    product.ok("until systemctl is-active -q keymgr-upgrade-watch; do :; done");
    let said = product.tool("upgrade --yes");
    assert!(matches!(said.code, 4 | 75), "{}", said.all());
    let said = end(apt).expect(0);
    assert_eq!((product.packages(), product.running()), (format!("installed {NEXT}"), ALL.to_vec()), "{}", said.all());
    product.expect_secrets();
}

#[test]
fn unattended_upgrades_does_what_is_allowed_and_ends_in_its_own_error_where_it_is_not() {
    let product = Product::with_tool();
    product.offer(&["unattended"]);
    let _ = product.apt("install --no-install-recommends unattended-upgrades").expect(0);
    product.put("/etc/apt/apt.conf.d/52lab", "Unattended-Upgrade::Origins-Pattern { \"origin=*\"; };\n");

    product.offer(&["skip"]);
    let before = (product.picture(), product.invocations());
    let said = product.run("unattended-upgrade -v").expect(1);
    said.says("REFUSED: Zed -> 2023.2 skips 2023.1");
    said.says("Installing the upgrades failed!");
    product.expect_dpkg_healthy();
    assert_eq!((product.picture(), product.invocations()), before, "{}", said.all());
    let _ = product.tool("status").expect(0);

    product.offer(&["next"]);
    let began = product.now();
    let said = product.run("unattended-upgrade -v").expect(0);
    said.says("Done: 2023.1");
    said.says("All upgrades installed");
    assert_eq!((product.packages(), product.running()), (format!("installed {NEXT}"), ALL.to_vec()), "{}", said.all());
    product.watch().expect_down_in_package_work(began);
    product.expect_dpkg_healthy();
    product.expect_secrets();
    let _ = product.tool("status").expect(0);
}
