//! How much of the time without service is ours, in milliseconds as systemd's journal shows it. For `make bench`, with a program as it is released.

use super::upgrade::figures;
use super::{Product, What};
use crate::systemd::{API, WORKER};

#[test]
#[ignore = "prints figures, and asserts no time: make bench"]
fn of_an_upgrade_by_apt() {
    let product = Product::boot();
    product.ok("/srv/lab/from-bullseye && /srv/lab/old-signatures && systemctl restart barbican-api");
    product.install_tool();
    product.wait_for_api();
    product.offer(&["next"]);
    let began = product.now();
    let _ = product.apt("upgrade").expect(0);
    println!("Zed to 2023.1 by apt, schema and KEKs to migrate, ms\n{}", figures(&product, &product.watch(), began));
}

/// The code is there already, and no revision is between the two: what is left are units, journal, files and proofs.
#[test]
#[ignore = "prints figures, and asserts no time: make bench"]
fn of_a_hop_without_ddl() {
    let product = Product::from_source();
    product.machine.write(
        "/etc/keymgr-upgrade/keymgr-upgrade.conf.d/code.conf",
        "[code]\npython = /opt/barbican/bin/python3\nupgrade_command = /bin/true\n[upgrade]\nrelease = zed\n",
    );
    product.ok("install-barbican 16.0.2");
    let began = product.now();
    let said = product.tool("upgrade --to 2023.1 --fast-forward --yes").expect(0);
    let watch = product.watch();
    let last =
        |what: &What| [API, WORKER].iter().flat_map(|unit| watch.all(what, unit, "")).map(|e| e.at).max().unwrap();
    let first = |what: &What| {
        let all = [API, WORKER].into_iter().flat_map(|unit| watch.all(what, unit, ""));
        all.map(|e| e.at).filter(|at| *at > began).min().unwrap()
    };
    println!(
        "Zed to 2023.1, its code there, no DDL, ms\nour steps {:6}\n{}",
        (first(&What::Started) - last(&What::Stopped)) / 1000,
        said.out
    );
}
