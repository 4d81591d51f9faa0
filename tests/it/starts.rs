//! Every database that Barbican's own tools made, as that of a deployment, through the binary; and what each changing verb says the second time.

use std::fmt::Write as _;
use std::path::Path;

use keymgr_upgrade::db::{Access, Database};
use rusqlite::Connection;

use crate::common::Sandbox;
use crate::proof::image;

const DATABASE: &str = "var/lib/barbican/barbican.sqlite";

/// The last revision of every release that has one, and what made the dumps that are at it.
const HEADS: [&str; 7] =
    ["254495565185", "6a4457517a3", "4ecde3a3a72a", "d2780d5aa510", "39cf2e645cba", "0f8c192a061f", "8c74e2d7f1ff"];

/// The dumps, by name.
fn dumps() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(name) = name.strip_prefix("sqlite-").and_then(|n| n.strip_suffix(".sql")) {
            all.push((name.to_owned(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    all.sort();
    assert_eq!(all.len(), 14);
    all
}

/// Makes the dump the sandbox's database.
fn load(sandbox: &Sandbox, sql: &str) {
    let path = sandbox.path(DATABASE);
    std::fs::remove_file(&path).ok();
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn revision(sandbox: &Sandbox) -> String {
    let connection = Connection::open(sandbox.path(DATABASE)).unwrap();
    connection.query_row("SELECT version_num FROM alembic_version", [], |row| row.get(0)).unwrap()
}

fn open(sandbox: &Sandbox) -> Database {
    Database::open_file(&sandbox.path(DATABASE), Access::ReadOnly, std::time::Duration::ZERO).unwrap()
}

fn is_unchanged(sandbox: &Sandbox, arguments: &[&str]) {
    let before = image(&sandbox.root());
    let second = sandbox.run(&[&["--json"], arguments].concat()).expect(0).json();
    assert_eq!(second["changed"], false, "{arguments:?}: {second}");
    assert_eq!(before, image(&sandbox.root()), "{arguments:?}");
}

#[test]
fn every_dump_reaches_every_later_head() {
    let sandbox = Sandbox::liberty();
    let mut table = format!("{:44}", "start");
    for head in HEADS {
        write!(table, " {:6}", &head[..6]).unwrap();
    }
    let mut wrong = Vec::new();
    for (name, sql) in dumps() {
        write!(table, "\n{name:44}").unwrap();
        load(&sandbox, &sql);
        let start = revision(&sandbox);
        let verified = sandbox.run(&["db", "verify"]);
        assert_eq!(verified.code, 0, "{name}: {}", verified.all());
        let from = keymgr_upgrade::db::position(&start).unwrap();
        for head in HEADS {
            let word = if keymgr_upgrade::db::position(head).unwrap() <= from {
                "-"
            } else {
                load(&sandbox, &sql);
                let said = sandbox.run(&["db", "upgrade", head, "--yes"]);
                let verified = open(&sandbox).verify(head).unwrap();
                if said.code == 0 && verified.matches.is_some() && revision(&sandbox) == head {
                    "ok"
                } else {
                    wrong.push(format!("{name} -> {head}: {} {:?}", said.all(), verified.differences));
                    "FAILED"
                }
            };
            write!(table, " {word:6}").unwrap();
        }
    }
    insta::assert_snapshot!("starts_table", table);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn stamping_asks_for_proof() {
    let sandbox = Sandbox::liberty();
    for (name, sql) in dumps() {
        load(&sandbox, &sql);
        let start = revision(&sandbox);
        Connection::open(sandbox.path(DATABASE)).unwrap().execute_batch("DROP TABLE alembic_version").unwrap();
        // Another shape: refused, and nothing is written.
        let other = if start == HEADS[0] { HEADS[6] } else { HEADS[0] };
        let before = image(&sandbox.root());
        sandbox.run(&["db", "stamp", other]).expect(3);
        assert_eq!(before, image(&sandbox.root()), "{name}");
        let json = sandbox.run(&["--json", "db", "stamp", &start]).expect(0).json();
        assert_eq!((&json["changed"], &json["revision"]), (&true.into(), &start.as_str().into()), "{name}");
        is_unchanged(&sandbox, &["db", "stamp", &start]);
        sandbox.run(&["db", "stamp", other, "--without-proof"]).expect(0);
        assert_eq!(revision(&sandbox), other);
        sandbox.run(&["db", "verify"]).expect(3);
    }
}

#[test]
fn a_fresh_database_is_made_where_there_is_none() {
    for empty in [false, true] {
        for head in HEADS {
            let sandbox = Sandbox::liberty();
            std::fs::remove_file(sandbox.path(DATABASE)).unwrap();
            if empty {
                std::fs::File::create(sandbox.path(DATABASE)).unwrap();
            }
            sandbox.run(&["db", "upgrade", head]).expect(64);
            assert_eq!(sandbox.path(DATABASE).exists(), empty, "{head}: made without a word");
            let json = sandbox.run(&["--json", "db", "upgrade", head, "--yes"]).expect(0).json();
            assert_eq!((&json["changed"], &json["revision"]), (&true.into(), &head.into()));
            sandbox.run(&["db", "verify"]).expect(0);
            is_unchanged(&sandbox, &["db", "upgrade", head, "--yes"]);
        }
    }
}

/// Everything but our own records of runs.
fn deployment(sandbox: &Sandbox) -> std::collections::BTreeMap<String, String> {
    let mut all = image(&sandbox.root());
    all.retain(|name, _| !name.starts_with("var/lib/keymgr-upgrade") && !name.starts_with("etc/systemd"));
    all
}

#[test]
fn what_was_replaced_can_be_put_back() {
    let sandbox = Sandbox::liberty();
    let before = deployment(&sandbox);
    sandbox.run(&["config", "apply", "--to", "mitaka", "--yes"]).expect(0);
    is_unchanged(&sandbox, &["config", "apply", "--to", "mitaka", "--yes"]);
    sandbox.run(&["config", "restore"]).expect(0);
    is_unchanged(&sandbox, &["config", "restore"]);
    let files = |all: std::collections::BTreeMap<String, String>| -> Vec<String> {
        all.into_iter().filter(|(n, _)| !n.ends_with(".sqlite")).map(|(n, v)| format!("{n} {v}")).collect()
    };
    assert_eq!(files(deployment(&sandbox)), files(before));
    let start = open(&sandbox).fingerprint().unwrap();
    sandbox.run(&["db", "upgrade", "d2780d5aa510", "--yes"]).expect(0);
    is_unchanged(&sandbox, &["db", "upgrade", "d2780d5aa510", "--yes"]);
    let run = sandbox.run(&["--json", "backup", "list"]).expect(0).json()["backups"][0]["run"].clone();
    sandbox.run(&["backup", "restore", run.as_str().unwrap(), "--yes"]).expect(0);
    is_unchanged(&sandbox, &["backup", "restore", run.as_str().unwrap(), "--yes"]);
    sandbox.run(&["db", "verify"]).expect(0);
    assert_eq!(open(&sandbox).fingerprint().unwrap(), start);
    // The keys alone: only where the data is of Mitaka or later.
    sandbox.run(&["kek", "migrate", "--yes"]).expect(3);
    sandbox.run(&["db", "upgrade", "d2780d5aa510", "--yes"]).expect(0);
    let keks = |sandbox: &Sandbox| sandbox.run(&["--json", "kek", "status"]).json()["keks"].clone();
    let before = keks(&sandbox);
    sandbox.run(&["kek", "migrate", "--yes"]).expect(0);
    assert_ne!(keks(&sandbox), before);
    is_unchanged(&sandbox, &["kek", "migrate", "--yes"]);
    sandbox.run(&["kek", "restore"]).expect(0);
    is_unchanged(&sandbox, &["kek", "restore"]);
    assert_eq!(keks(&sandbox), before);
}

#[test]
fn the_second_time_nothing_is_changed() {
    let sandbox = Sandbox::liberty();
    sandbox.run(&["units", "hold"]).expect(0);
    is_unchanged(&sandbox, &["units", "hold"]);
    sandbox.run(&["units", "unhold"]).expect(0);
    is_unchanged(&sandbox, &["units", "unhold"]);
    is_unchanged(&sandbox, &["upgrade", "--to", "liberty", "--yes"]);
    sandbox.upgrade("mitaka");
    is_unchanged(&sandbox, &["upgrade", "--to", "mitaka", "--yes"]);
    is_unchanged(&sandbox, &["resume"]);
    is_unchanged(&sandbox, &["backup", "prune"]);
    sandbox.run(&["rollback", "--yes"]).expect(0);
    is_unchanged(&sandbox, &["rollback", "--yes"]);
    sandbox.upgrade("2026.2");
    is_unchanged(&sandbox, &["upgrade", "--to", "2026.2", "--yes"]);
    is_unchanged(&sandbox, &["config", "apply", "--to", "2026.2", "--yes"]);
    is_unchanged(&sandbox, &["kek", "migrate", "--yes"]);
    is_unchanged(&sandbox, &["db", "upgrade", "--yes"]);
    sandbox.run(&["backup", "prune", "--keep", "0"]).expect(0);
    is_unchanged(&sandbox, &["backup", "prune", "--keep", "0"]);
}
