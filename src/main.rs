//! keymgr-upgrade.
fn main() {}
