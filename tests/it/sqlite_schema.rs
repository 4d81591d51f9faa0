//! The SQLite side of the database: every known start to every later head, and everything that can go wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
#![expect(
    clippy::disallowed_methods,
    reason = "looks at the files behind the back of the code under test"
)]

use std::{path::PathBuf, time::Duration};

use keymgr_upgrade::db::{Access, Database, Orphans};
use rusqlite::Connection;

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/schema")
        .join(format!("sqlite-{name}.sql"));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    for (name, rev) in [
        ("2014.2-createall", "254495565185"),
        ("2015.1-eol-createall", "6a4457517a3"),
        ("1.0-eol-createall", "4ecde3a3a72a"),
        ("2.0-eol-createall", "d2780d5aa510"),
        ("3.0-eol-createall", "39cf2e645cba"),
        ("12.0.2", "0f8c192a061f"),
        ("10.0.0-createall", "0f8c192a061f"),
        ("23.0.0", "8c74e2d7f1ff"),
        ("23.0.0-createall", "8c74e2d7f1ff"),
        ("3.0-eol-createall-upgraded-to-23.0.0", "8c74e2d7f1ff"),
    ] {
        let path = dir.path().join(name);
        Connection::open(&path)
            .unwrap()
            .execute_batch(&fixture(name))
            .unwrap();
        let mut db = Database::open_file(&path, Access::ReadWrite, Duration::ZERO).unwrap();
        println!("{name} {:?} {:?}", db.revision(), db.verify(rev));
        println!(
            "  {:?}",
            db.migration_sql(Some(rev), "8c74e2d7f1ff").map(|m| m.len())
        );
        println!(
            "  {:?}",
            db.preconditions(Some(rev), "8c74e2d7f1ff", Orphans::Refuse)
        );
        println!(
            "  {:?}",
            db.migrate(Some(rev), "8c74e2d7f1ff", Orphans::Refuse)
        );
        println!("  {:?}", db.verify("8c74e2d7f1ff"));
    }
}
