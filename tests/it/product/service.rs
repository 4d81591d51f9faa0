//! The upgrade without any package work: the schema is behind the code.

use super::Product;
use crate::common::end;
use crate::systemd::{API, WORKER};

/// A host whose code is Zed's and whose data is Victoria's; the operator has stopped one unit.
fn behind() -> Product {
    let product = Product::boot();
    product.ok("/srv/lab/from-bullseye && systemctl restart barbican-api && systemctl stop barbican-keystone-listener");
    product.install_tool();
    product.wait_for_api();
    product
}

#[track_caller]
fn expect_zed(product: &Product) {
    assert_eq!(product.ok("mariadb -N barbican -e 'SELECT version_num FROM alembic_version'"), "8c74e2d7f1ff");
    assert_eq!(product.running(), [API, WORKER]);
    product.expect_secrets();
    let _ = product.tool("status").expect(0);
}

#[test]
fn a_schema_that_is_behind_is_brought_up_by_the_service() {
    let product = behind();
    // Whoever starts it again meanwhile waits for the same end.
    let first = product.start("systemctl start keymgr-upgrade.service");
    let second = product.start("systemctl start keymgr-upgrade.service");
    let (first, second) = (end(first), end(second));
    let log = product.ok("journalctl -q -o cat -u keymgr-upgrade --no-pager");
    assert_eq!((first.code, second.code), (0, 0), "{log}");
    assert!(log.contains("Done: Zed"), "{log}");
    assert_eq!(log.matches("Done: Zed").count(), 1, "{log}");
    expect_zed(&product);
}

#[test]
fn a_schema_that_is_behind_is_brought_up_by_the_verb() {
    let product = behind();
    let said = product.tool("upgrade --yes").expect(0);
    said.says("Done: Zed");
    let log = product.ok("journalctl -q -o cat -u keymgr-upgrade --no-pager");
    assert!(log.contains("Done: Zed"), "the service did it: {log}");
    expect_zed(&product);
}
