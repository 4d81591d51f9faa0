//! Without us: what the tests here are to notice does happen, and the lab is what it says.

use super::{NEXT, Product, ZED};
use crate::systemd::{API, LISTENER, WORKER};

#[test]
fn without_us_services_run_while_packages_are_unpacked() {
    let product = Product::boot();
    product.expect_secrets();
    assert_eq!((product.packages(), product.running()), (format!("installed {ZED}"), vec![API, WORKER, LISTENER]));
    product.ok("systemctl stop barbican-keystone-listener");
    product.offer(&["next"]);
    let began = product.now();
    let _ = product.apt("upgrade").expect(0);
    assert_eq!(product.packages(), format!("installed {NEXT}"));
    let watch = product.watch();
    let (from, to) = (watch.first_unpack(began), watch.packages_done());
    let ran = watch.ran_between(from, to).join("\n");
    assert!(ran.contains("barbican-api.service was not stopped before"), "the old API ran on: {ran}\n{watch}");
    assert!(ran.contains("Started") && ran.contains(LISTENER), "a unit that the operator stopped: {ran}\n{watch}");
    assert_eq!(product.running(), [API, WORKER, LISTENER]);
    // The new code does run here, and reads what the old one wrote.
    product.expect_secrets();
    product.expect_dpkg_healthy();
}

#[test]
fn without_us_old_signatures_cost_every_secret() {
    let product = Product::boot();
    product.ok("/srv/lab/old-signatures && systemctl restart barbican-api");
    product.wait_for_api();
    let said = product.run("/srv/lab/read-secrets").expect(1);
    said.says("0 read, 6 not");
    said.says("Secret payload retrieval failure");
}
