//! How much of the time without service is ours, in milliseconds as systemd's journal shows it. For `make bench`, with a program as it is released.

use super::{Product, Watch, What};
use crate::systemd::{API, WORKER};

#[test]
#[expect(clippy::print_stdout, reason = "figures to be quoted")]
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
#[expect(clippy::print_stdout, reason = "figures to be quoted")]
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

/// The downtime of the API as the journal shows it, in milliseconds.
fn figures(product: &Product, watch: &Watch, began: u64) -> String {
    let at = |what: &What, unit: &str| watch.all(what, unit, "").find(|e| e.at > began).unwrap().at;
    let stopping = at(&What::Stopping, API);
    let stopped = at(&What::Stopped, API).max(at(&What::Stopped, WORKER));
    let (unpack, packages) = (watch.first_unpack(began), watch.packages_done());
    let start = at(&What::Started, API).min(at(&What::Started, WORKER));
    // The first line that the new API wrote comes when it is about to answer.
    let answered = watch.all(&What::Wrote, API, "").find(|e| e.at > start).map_or(start, |e| e.at);
    let spans = [
        ("stopping", stopping, stopped),
        ("hold, back up", stopped, unpack),
        ("packages", unpack, packages),
        ("our steps", packages, start),
        ("start", start, answered),
        ("in all", stopping, answered),
    ];
    let text: Vec<String> = spans.iter().map(|(name, a, b)| format!("{name:14} {:6}", (b - a) / 1000)).collect();
    let steps =
        product.ok("journalctl -q -o short-unix -t keymgr-upgrade -u 'keymgr-upgrade*' --no-pager | tail -n 80");
    format!("{}\n{steps}", text.join("\n"))
}
