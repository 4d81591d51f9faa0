//! `apt-get upgrade` of Debian's Barbican to the next release, as an operator does it.

use super::{NEXT, Product, Watch, What};
use crate::systemd::{API, LISTENER, WORKER};

/// The head that every release from Zed on has.
const HEAD: &str = "8c74e2d7f1ff";

#[test]
fn apt_get_upgrade_takes_a_neglected_host_to_the_next_release() {
    let product = Product::boot();
    product.ok("/srv/lab/from-bullseye && /srv/lab/old-signatures && systemctl restart barbican-api");
    product.install_tool();
    product.ok("systemctl stop barbican-keystone-listener");
    product.wait_for_api();
    product.run("/srv/lab/read-secrets").expect(1).says("0 read, 6 not");
    product.offer(&["next"]);

    let began = product.now();
    let said = product.apt("upgrade").expect(0);
    let ended = product.now();
    assert_eq!(product.packages(), format!("installed {NEXT}"), "{}", said.all());
    product.expect_dpkg_healthy();
    product.expect_secrets();

    // Schema, KEKs, files; the first by Barbican's own tool.
    let revision = product.ok("mariadb -N barbican -e 'SELECT version_num FROM alembic_version'");
    assert_eq!(revision, HEAD);
    let history = product.ok("su -s /bin/sh -c 'barbican-db-manage current --verbose 2>&1' barbican");
    assert!(history.contains(HEAD), "{history}");
    product.ok("grep -q '^pipeline = cors http_proxy_to_wsgi context microversion apiapp' /etc/barbican/barbican-api-paste.ini");
    product.ok("grep -q '^token_labels = barbican' /etc/barbican/barbican.conf");
    product.ok("keymgr-upgrade kek status && keymgr-upgrade db verify");
    product.tool("status").expect(0);

    // The units: what ran runs, what the operator had stopped does not and never did, all is enabled, nothing is left.
    assert_eq!(product.running(), [API, WORKER]);
    for unit in super::UNITS {
        let shown = product.ok(&format!("systemctl show -P UnitFileState -P DropInPaths -P LoadState {unit}"));
        assert_eq!(shown.trim(), "loaded\n\nenabled", "{unit}");
    }
    assert_eq!(product.ok("systemctl --failed --no-legend"), "");
    let watch = product.watch();
    expect_down_during(&watch, &[API, WORKER], began, ended);
    assert_eq!(watch.all(&What::Started, LISTENER, "").filter(|e| e.at > began).count(), 0, "{watch}");

    // The screen.
    said.says("\nDone: 2023.1");
    let lines: Vec<_> = said.out.lines().chain(said.err.lines()).filter(|l| l.contains("keymgr-upgrade")).collect();
    assert!(lines.iter().all(|l| l.chars().count() <= 80 && l.is_ascii()), "{lines:#?}");
}

/// Nothing of Barbican ran from before the first unpacking until the packages were done and our service started `ran`, which ran before.
#[track_caller]
pub(super) fn expect_down_during(watch: &Watch, ran: &[&str], began: u64, ended: u64) {
    let (from, packages) = (watch.first_unpack(began), watch.packages_done());
    watch.expect_down_in_package_work(began);
    for unit in ran {
        let stopped = watch.all(&What::Stopped, unit, "").filter(|e| e.at > began && e.at < from).count();
        // Twice where it had to be killed: failed, and stopped.
        assert!(stopped >= 1, "{unit} was stopped before the first unpacking:\n{watch}");
        let starts: Vec<_> = watch.all(&What::Started, unit, "").filter(|e| e.at > began).collect();
        assert!(
            matches!(starts[..], [start] if start.at > packages && start.at < ended),
            "{unit}: {starts:#?}\n{watch}"
        );
    }
}
