//! `backup = touched`: what a migration touches is copied, and a rollback ends where the run began, row for row.

use keymgr_upgrade::db::Dialect;

use crate::common::said;
use crate::crash::state::State;
use crate::crash::{Host, deployment};
use crate::servers::Kind;

const SETTINGS: &str = "etc/keymgr-upgrade/keymgr-upgrade.conf";

fn touched(dialect: Dialect) -> Host {
    let host = deployment(dialect);
    host.write(SETTINGS, "[database]\nbackup = touched\n");
    host
}

/// The last run.
fn last(host: &Host) -> String {
    let runs = host.run(&["--json", "history"]).json()["runs"].clone();
    runs.as_array().unwrap().last().unwrap()["run"].as_str().unwrap().to_owned()
}

/// What is written of the last run's backup; none where it took none.
fn about(host: &Host) -> Option<serde_json::Value> {
    let path = host.path("var/lib/keymgr-upgrade/runs").join(last(host)).join("backup/database.json");
    std::fs::read(path).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

#[track_caller]
fn same(host: &Host, wanted: &State, words: &str) {
    assert_eq!(State::of(host).differences(wanted), Vec::<String>::new(), "{words}");
}

/// Upgrades and goes back, undisturbed and killed, over ways that touch few tables and nearly all.
fn goes_back(dialect: Dialect) {
    let server = dialect != Dialect::Sqlite;
    let host = touched(dialect);
    let before = State::of(&host);
    for to in ["mitaka", "2025.1"] {
        let way = ["--to", to, "--fast-forward"];
        let plan = host.run(&[&["plan"], &way[..]].concat()).expect(0);
        plan.says(if server {
            "refer to them"
        } else {
            "the whole file: of SQLite's some tables cannot be put back alone"
        });
        host.upgrade(to);
        assert_ne!(State::of(&host), before);
        let part = about(&host).unwrap()["part"].clone();
        assert_eq!(part.is_null(), !server, "{part}");
        host.run(&["rollback", "--yes"]).expect(0);
        same(&host, &before, to);
    }
    for point in ["backup filled:1", "statement run:2", "KEK written:1", "mechanism told:1"] {
        let way = ["--to", "2025.1", "--fast-forward"];
        host.run(&[&["approve"], &way[..]].concat()).expect(0);
        let mut command = host.command(&[&["upgrade", "--yes"], &way[..]].concat());
        let _ = said(command.env("KEYMGR_UPGRADE_CRASH_AT", point)).expect(137);
        if point.starts_with("KEK") {
            // The way back is killed too, and goes on.
            let mut command = host.command(&["rollback", "--yes"]);
            let during = if server { "restore begun:1" } else { "database restored:1" };
            let _ = said(command.env("KEYMGR_UPGRADE_CRASH_AT", during)).expect(137);
        }
        host.run(&["rollback", "--yes"]).expect(0);
        same(&host, &before, point);
    }
}

#[test]
fn goes_back_on_sqlite() {
    goes_back(Dialect::Sqlite);
}

#[test]
fn goes_back_on_postgresql() {
    goes_back(Dialect::Postgresql);
}

#[test]
fn goes_back_on_mariadb() {
    goes_back(Dialect::Mysql);
}

/// A hop that changes little: the secrets' own tables are not copied, and rows that others write there meanwhile are theirs.
fn little(dialect: Dialect) {
    let host = touched(dialect);
    let base = host.base.clone().unwrap();
    host.upgrade("yoga");
    let before = State::of(&host);
    let plan = host.run(&["plan", "--to", "zed"]).expect(0);
    assert!(!plan.out.contains("encrypted_data"), "{}", plan.out);
    host.upgrade("zed");
    let part = about(&host).unwrap()["part"][0].clone();
    let tables: Vec<&str> = part["tables"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert!(tables.contains(&"alembic_version") && !tables.contains(&"secrets"), "{tables:?}");
    host.run(&["backup", "restore", &last(&host), "--yes"]).expect(3).says("is of some tables only");
    host.run(&["backup", "list"]).expect(0).says("touched tables only");

    let update =
        "UPDATE secrets SET name = 'of others' WHERE id = (SELECT id FROM (SELECT min(id) AS id FROM secrets) s)";
    base.sql(update);
    host.run(&["rollback", "--yes"]).expect(3).says("written to by others");
    host.run(&["rollback", "--yes", "--discard-new-data"]).expect(0);
    let names = base.sql("SELECT count(*) FROM secrets WHERE name = 'of others'");
    assert_eq!(names[0][0].as_deref(), Some("1"), "what is in no backup stays");
    assert_eq!(host.run(&["--json", "db", "current"]).json()["revision"], "0f8c192a061f");
    assert_eq!(State::of(&host).files, before.files);
}

#[test]
fn a_hop_that_changes_little_on_postgresql() {
    little(Dialect::Postgresql);
}

#[test]
fn a_hop_that_changes_little_on_mariadb() {
    little(Dialect::Mysql);
}

#[test]
fn where_rows_alone_change_no_table_is_copied() {
    for kind in [Kind::Postgresql, Kind::Mariadb] {
        let host = touched(if kind == Kind::Mariadb { Dialect::Mysql } else { Dialect::Postgresql });
        host.upgrade("queens");
        let before = State::of(&host);
        let way = ["--to", "rocky"];
        host.run(&[&["approve"], &way[..]].concat()).expect(0);
        let said = host.run(&[&["upgrade", "--yes"], &way[..]].concat()).expect(0);
        said.says("none needed: no schema step; the old values of rows are kept");
        assert!(about(&host).is_none());
        assert_ne!(State::of(&host).database, before.database);
        host.run(&["rollback", "--yes"]).expect(0);
        same(&host, &before, kind.name());
    }
}
