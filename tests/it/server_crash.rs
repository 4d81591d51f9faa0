//! Killed between any two statements of a migration on a server: `resume` ends where an undisturbed run ends, row by row, access flags included.
//! PostgreSQL has undone everything by then; MariaDB has kept each statement that ran.
use keymgr_upgrade::db::Dialect;

use crate::{
    common::said,
    server_schema::{HEAD, Look, Site, dump, dumped, server},
};

/// What SIGKILL makes of an exit code.
const KILLED: i32 = 137;

/// Kills `db upgrade` of a start after every `step`th of its statements, and resumes.
fn resumed_after_any_statement(dialect: Dialect, start: &str, to: &str, step: usize) {
    let server = server(dialect);
    let mut look = Look::start();
    let empty = server.database(&dump(dialect, start));
    let text = dump(dialect, start) + &look.inserts(&empty.url());
    let whole = server.database(&text);
    let log = tempfile::NamedTempFile::new().unwrap();
    let site = Site::on(&whole.url());
    let upgrade = ["db", "upgrade", to, "--yes"];
    said(site.command(&upgrade).env("KEYMGR_UPGRADE_CRASH_LOG", log.path())).expect(0);
    let points = std::fs::read_to_string(log.path()).unwrap();
    let statements = points.lines().filter(|line| line.contains("statement run")).count();
    assert!(statements > 0, "{points}");
    for n in (1..=statements).step_by(step) {
        let base = server.database(&text);
        let before = dumped(&base);
        let site = Site::on(&base.url());
        let at = format!("statement run:{n}");
        said(site.command(&upgrade).env("KEYMGR_UPGRADE_CRASH_AT", &at)).expect(KILLED);
        let half = dumped(&base);
        if dialect == Dialect::Postgresql {
            // Undone to the last release, whose schema is known.
            site.run(&["db", "verify"]).expect(0);
        } else {
            assert!(half != before, "{start} killed at {at}: nothing was done, so nothing is tried");
        }
        site.run(&["resume"]).expect(0);
        let differences = look.all(&base.url(), &whole.url());
        assert_eq!(differences, [""; 0], "{start} killed at {at}");
        site.run(&["db", "verify"]).expect(0);
    }
}

#[test]
fn mariadb_liberty_to_the_head() {
    resumed_after_any_statement(Dialect::Mysql, "chain-4ecde3a3a72a-liberty", HEAD, 1);
}

#[test]
fn mariadb_kilo_turns_the_access_flags_once() {
    resumed_after_any_statement(Dialect::Mysql, "2014.2-createall", "6a4457517a3", 7);
}

#[test]
fn postgresql_liberty_to_the_head() {
    resumed_after_any_statement(Dialect::Postgresql, "chain-4ecde3a3a72a-liberty", HEAD, 6);
}

#[test]
#[ignore = "some minutes: every statement of the whole chain"]
fn mariadb_every_statement_of_the_chain() {
    for start in ["2014.2-createall", "chain-254495565185-juno"] {
        resumed_after_any_statement(Dialect::Mysql, start, HEAD, 1);
    }
}

/// What Barbican's own tool leaves behind when it fails or is killed.
#[test]
fn mariadb_what_others_left_half_done_is_taken_up_or_named() {
    let server = server(Dialect::Mysql);
    let mut look = Look::start();
    let mut filled = |start: &str, then: &str| {
        let text = dump(Dialect::Mysql, start);
        let empty = server.database(&text);
        server.database(&(text + &look.inserts(&empty.url()) + then))
    };
    // 8c74e2d7f1ff on a table that the services made: the unique index is replaced, then the index is there already.
    let replaced = "ALTER TABLE secret_consumer_metadata DROP INDEX _secret_consumer_resource_uc;
        ALTER TABLE secret_consumer_metadata ADD CONSTRAINT _secret_consumer_resource_uc
            UNIQUE (secret_id, service, resource_type, resource_id);";
    let base = filled("10.0.0-createall", replaced);
    let site = Site::on(&base.url());
    site.run(&["db", "verify"]).expect(3).says("a migration to 8c74e2d7f1ff was begun and not finished");
    site.run(&["db", "upgrade", "--yes"]).expect(0);
    site.run(&["db", "verify", "--fresh"]).expect(0).says("a fresh installation");
    // 6a4457517a3 renamed the column and was killed: nobody can tell whether the flags were turned.
    let renamed = "ALTER TABLE secret_acls CHANGE creator_only project_access TINYINT(1);";
    let base = filled("2014.2-createall", "");
    let site = Site::on(&base.url());
    site.run(&["db", "upgrade", "30dba269cc64", "--yes"]).expect(0);
    base.load(renamed);
    let before = dumped(&base);
    site.run(&["db", "upgrade", "--yes"])
        .expect(3)
        .says("it cannot be told whether it was filled by whoever began this migration");
    assert!(before == dumped(&base));
}
