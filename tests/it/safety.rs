//! Ways in which a run could have lost data, or served new code on old data: each was found once, and stays mended.

use std::path::Path;

use crate::common::Sandbox;

const PASTE: &str = "etc/barbican/barbican-api-paste.ini";
const CONF: &str = "etc/barbican/barbican.conf";
const DATABASE: &str = "var/lib/barbican/barbican.sqlite";
const HOLD: &str = "etc/systemd/system/barbican-api.service.d/zzz-keymgr-upgrade-hold.conf";

/// A run that waits for the code of Mitaka.
fn waiting() -> Sandbox {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    sandbox
}

fn sql(sandbox: &Sandbox, statement: &str) {
    rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap().execute_batch(statement).unwrap();
}

fn revision(sandbox: &Sandbox) -> String {
    let value = sandbox.run(&["--json", "db", "current"]).json()["revision"].clone();
    value.as_str().unwrap().to_owned()
}

/// Of schema and rows.
fn fingerprint(sandbox: &Sandbox) -> String {
    let wait = std::time::Duration::from_secs(1);
    let access = keymgr_upgrade::db::Access::ReadOnly;
    keymgr_upgrade::db::Database::open_file(&sandbox.path(DATABASE), access, wait).unwrap().fingerprint().unwrap()
}

fn settings(sandbox: &Sandbox, text: &str) {
    sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", text);
}

#[test]
fn a_database_that_is_away_when_the_code_is_there_stops_the_run() {
    let sandbox = waiting();
    settings(&sandbox, "[database]\nlock_timeout = 0s\n");
    sandbox.install("2.0.0");
    let writer = rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap();
    writer
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE projects SET status = status")
        .unwrap();
    let said = sandbox.run(&["resume"]).expect(4);
    said.says("locked by another process");
    assert!(sandbox.path(HOLD).exists());
    drop(writer);
    sandbox.run(&["resume"]).expect(0);
    assert_eq!(revision(&sandbox), "d2780d5aa510");
}

#[test]
fn steps_that_were_planned_do_not_vanish() {
    let sandbox = waiting();
    settings(&sandbox, "[barbican]\nedit_files = no\n");
    sandbox.install("2.0.0");
    let said = sandbox.run(&["resume"]).expect(4);
    said.says("steps that were planned are gone: barbican.conf");
    assert!(sandbox.path(HOLD).exists());
    assert_eq!(revision(&sandbox), "4ecde3a3a72a");
}

#[test]
fn code_that_was_new_from_the_beginning_has_to_be_taken_back_too() {
    let sandbox = Sandbox::liberty();
    sandbox.install("2.0.0");
    sandbox.run(&["--from", "liberty", "upgrade", "--to", "mitaka", "--yes"]).expect(0);
    let said = sandbox.run(&["rollback", "--yes"]).expect(4);
    said.says("install liberty again");
    assert!(sandbox.path(HOLD).exists());
    assert_eq!(revision(&sandbox), "4ecde3a3a72a");

    // Where that never was: the new code stays, services stay held, and the way leads forward again.
    said.says("Or keep the new code: keymgr-upgrade rollback --abandon, and upgrade again.");
    sandbox.run(&["rollback", "--abandon", "--yes"]).expect(5);
    assert!(sandbox.path(HOLD).exists());
    sandbox.run(&["--from", "liberty", "upgrade", "--to", "mitaka", "--yes"]).expect(0);
    assert_eq!(revision(&sandbox), "d2780d5aa510");
    assert!(!sandbox.path(HOLD).exists());
}

#[test]
fn a_schema_that_somebody_else_moved_is_accepted_and_can_be_undone() {
    let sandbox = waiting();
    let other = rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap();
    drop(other);
    let path = sandbox.path(DATABASE);
    let mut database = keymgr_upgrade::db::Database::open_file(
        &path,
        keymgr_upgrade::db::Access::ReadWrite,
        std::time::Duration::from_secs(1),
    )
    .unwrap();
    database.migrate(Some("4ecde3a3a72a"), "d2780d5aa510", keymgr_upgrade::db::Orphans::Refuse).unwrap();
    drop(database);
    sandbox.install("2.0.0");
    sandbox.run(&["resume"]).expect(0);
    assert_eq!(revision(&sandbox), "d2780d5aa510");
    sandbox.install("1.0.0");
    sandbox.run(&["rollback", "--yes", "--discard-new-data"]).expect(0);
    assert_eq!(revision(&sandbox), "4ecde3a3a72a");
    assert!(!sandbox.path(HOLD).exists());
}

#[test]
fn without_a_backup_a_rollback_says_that_it_cannot() {
    let sandbox = Sandbox::liberty();
    settings(&sandbox, "[database]\nbackup = none\n");
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(0);
    said.says("the schema cannot be undone");
    let said = sandbox.run(&["rollback", "--yes"]).expect(3);
    said.says("without a backup");
    said.says("nothing was undone");
    let keks = sandbox.run(&["--json", "kek", "status"]).expect(0).json();
    assert_eq!(keks["keks"]["good"]["live"], 6, "the KEKs are as they were, too");
}

#[test]
fn a_run_keeps_to_its_database() {
    let sandbox = waiting();
    std::fs::copy(sandbox.path(DATABASE), sandbox.path("var/lib/barbican/other.sqlite")).unwrap();
    let conf = sandbox.read(CONF);
    sandbox.write(CONF, &conf.replace("barbican.sqlite", "other.sqlite"));
    sandbox.install("2.0.0");
    for verb in [&["resume"][..], &["rollback", "--yes"]] {
        let said = sandbox.run(verb).expect(4);
        said.says("other.sqlite");
    }
    sandbox.write(CONF, &conf);
    sandbox.run(&["resume"]).expect(0);
}

#[test]
fn rows_that_came_after_the_copy_are_copied_before_the_first_write() {
    let sandbox = waiting();
    sql(&sandbox, "UPDATE secrets SET name = 'while it waited' WHERE rowid = 1");
    sandbox.install("2.0.0");
    sandbox.run(&["resume"]).expect(0);
    sandbox.install("1.0.0");
    sandbox.run(&["rollback", "--yes"]).expect(0);
    let database = rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap();
    let name: String = database.query_row("SELECT name FROM secrets WHERE rowid = 1", [], |r| r.get(0)).unwrap();
    assert_eq!(name, "while it waited");
    assert_eq!(revision(&sandbox), "4ecde3a3a72a");
}

#[test]
fn code_that_vanished_or_is_half_way_is_waited_for() {
    let sandbox = waiting();
    std::fs::remove_dir_all(sandbox.path("usr/lib/python3.11")).unwrap();
    sandbox.run(&["resume"]).expect(4);
    assert_eq!(revision(&sandbox), "4ecde3a3a72a");
    let status = "Package: barbican-common\nStatus: install ok unpacked\nVersion: 1:2.0.0-1\n\n\
                  Package: python-barbican\nStatus: install ok installed\nVersion: 1:1.0.0-1\n";
    sandbox.write("var/lib/dpkg/status", status);
    let said = sandbox.run(&["resume"]).expect(4);
    said.says("half way");
    sandbox.write("var/lib/dpkg/status", &status.replace("1.0.0", "2.0.0"));
    sandbox.run(&["resume"]).expect(0);
}

#[test]
fn an_approval_does_not_cover_what_broke_afterwards() {
    let sandbox = Sandbox::liberty();
    let spoil = |n: u32| {
        sql(
            &sandbox,
            &format!(
                "UPDATE encrypted_data SET cypher_text = 'AAAA' WHERE rowid IN (SELECT rowid FROM encrypted_data WHERE deleted = 0 LIMIT {n})"
            ),
        );
    };
    spoil(1);
    sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(3);
    sandbox.run(&["approve", "--to", "mitaka"]).expect(0);
    spoil(3);
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(3);
    said.says("FAIL  unreadable");
    sandbox.run(&["approve", "--to", "mitaka"]).expect(0);
    sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(0);
}

#[test]
fn the_parts_on_their_own_keep_old_code_working() {
    let sandbox = Sandbox::liberty();
    let said = sandbox.run(&["kek", "migrate", "--yes"]).expect(3);
    said.says("before Mitaka");
    sandbox.install("1.0.0");
    let said = sandbox.run(&["config", "apply", "--to", "mitaka", "--yes"]).expect(3);
    said.says("installed code is liberty");
    sandbox.run(&["db", "upgrade", "--yes"]).expect(0);
    sandbox.run(&["status"]).expect(0);
    sandbox.run(&["rollback", "--yes"]).expect(0);
    assert_eq!(revision(&sandbox), "4ecde3a3a72a");
}

#[test]
fn another_database_behind_a_new_option_name_is_a_conflict() {
    let sandbox = Sandbox::liberty();
    sandbox.upgrade("2023.2");
    sandbox.write(
        "etc/barbican/barbican.conf.d/old.conf",
        "[database]\nconnection = sqlite:////var/lib/barbican/stale.sqlite\n",
    );
    let said = sandbox.run(&["check", "--to", "2024.1"]).expect(2);
    said.says("option-conflict");
    said.says("sql_connection");
}

#[test]
fn a_rollback_looks_before_it_undoes_anything() {
    let sandbox = Sandbox::liberty();
    sandbox.upgrade("mitaka");
    let paste = sandbox.read(PASTE);
    sandbox.write(PASTE, &format!("{paste}# mine\n"));
    let said = sandbox.run(&["rollback", "--yes"]).expect(3);
    said.says("was changed since this run wrote it");
    assert_eq!(revision(&sandbox), "d2780d5aa510", "nothing was undone");
    sandbox.write(PASTE, &paste);
    sandbox.run(&["rollback", "--yes"]).expect(0);
}

#[test]
fn a_lost_run_directory_is_not_a_dead_end() {
    let sandbox = waiting();
    std::fs::remove_dir_all(sandbox.path("var/lib/keymgr-upgrade/runs")).unwrap();
    sandbox.run(&["resume"]).expect(4);
    sandbox.run(&["rollback", "--yes", "--abandon"]).expect(5);
    assert!(sandbox.path(HOLD).exists(), "nothing is released");
    sandbox.run(&["units", "unhold"]).expect(0);
    assert!(!Path::new(&sandbox.path(HOLD)).exists());
}

/// The only run's directory.
fn only_run(sandbox: &Sandbox) -> std::path::PathBuf {
    let mut runs = std::fs::read_dir(sandbox.path("var/lib/keymgr-upgrade/runs")).unwrap();
    runs.next().unwrap().unwrap().path()
}

/// Somebody else's migration died inside a revision, before the ledger was written.
const HALF: &str = "ALTER TABLE secrets ADD COLUMN half_way VARCHAR(255)";

#[test]
fn what_somebody_else_left_half_migrated_takes_no_copys_place() {
    let sandbox = waiting();
    let before = fingerprint(&sandbox);
    let copy = std::fs::read(only_run(&sandbox).join("backup/database.sqlite")).unwrap();
    sql(&sandbox, HALF);
    let left = sandbox.copy();
    sandbox.install("2.0.0");
    let said = sandbox.run(&["resume"]).expect(4);
    said.says("the schema is not that of the copy any more, though alembic_version still says 4ecde3a3a72a");
    assert_eq!(std::fs::read(only_run(&sandbox).join("backup/database.sqlite")).unwrap(), copy, "the only clean copy");
    sandbox.install("1.0.0");
    for sandbox in [sandbox, left] {
        // What else came with it is not ours to judge.
        sandbox.run(&["rollback", "--yes"]).expect(3).says("--discard-new-data");
        assert!(sandbox.path(HOLD).exists());
        sandbox.run(&["rollback", "--yes", "--discard-new-data"]).expect(0);
        assert_eq!(fingerprint(&sandbox), before);
        assert!(!sandbox.path(HOLD).exists());
    }
}

#[test]
fn rows_that_came_on_a_schema_that_somebody_else_moved_are_not_lost_unasked() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    // Nothing but the schema is left to do: the KEKs are as Mitaka has them.
    sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    sandbox.install("2.0.0");
    sandbox.run(&["resume"]).expect(0);
    sandbox.run(&["approve", "--to", "newton"]).expect(0);
    sandbox.run(&["upgrade", "--to", "newton", "--yes"]).expect(4);
    let path = sandbox.path(DATABASE);
    let wait = std::time::Duration::from_secs(1);
    let mut database =
        keymgr_upgrade::db::Database::open_file(&path, keymgr_upgrade::db::Access::ReadWrite, wait).unwrap();
    database.migrate(Some("d2780d5aa510"), "39cf2e645cba", keymgr_upgrade::db::Orphans::Refuse).unwrap();
    drop(database);
    sandbox.install("3.0.0");
    sandbox.run(&["resume"]).expect(0);
    sql(&sandbox, "UPDATE projects SET external_id = external_id || '-new'");
    let with_rows = fingerprint(&sandbox);
    sandbox.install("2.0.0");
    sandbox.run(&["rollback", "--yes"]).expect(3).says("a rollback would lose that");
    assert_eq!(fingerprint(&sandbox), with_rows);
    sandbox.run(&["rollback", "--yes", "--discard-new-data"]).expect(0);
    assert_eq!(revision(&sandbox), "d2780d5aa510");
}

#[test]
fn a_copy_outlasts_the_journal_that_told_of_it() {
    let sandbox = waiting();
    let run = only_run(&sandbox);
    std::fs::remove_file(run.join("journal.jsonl")).unwrap();
    sandbox.run(&["resume"]).expect(4);
    sandbox.run(&["rollback", "--yes", "--abandon"]).expect(5);
    sandbox.run(&["units", "unhold"]).expect(0);
    assert!(run.join("backup/database.sqlite").exists());
}

#[test]
fn secrets_in_comments_are_not_shown() {
    let sandbox = Sandbox::liberty();
    let conf = sandbox.read(CONF);
    let spoilt =
        conf.replace("[certificate_event]\n", "[certificate_event]\n#password = hunter2\n# see http://u:hunter2@h/\n");
    assert_ne!(conf, spoilt);
    sandbox.write(CONF, &spoilt);
    let said = sandbox.run(&["plan", "--to", "mitaka", "--diff"]).expect(0);
    assert!(said.out.contains("#password = ***") && !said.out.contains("hunter2"), "{}", said.out);
}

/// Between steps that write no fingerprint is taken, until the run is left there.
#[test]
fn what_others_wrote_between_two_steps_that_write_is_not_lost_unasked() {
    let sandbox = Sandbox::liberty();
    sandbox.run(&["approve", "--to", "mitaka"]).expect(0);
    let mut upgrade = sandbox.command(&["upgrade", "--to", "mitaka", "--yes"]);
    assert_eq!(upgrade.env("KEYMGR_UPGRADE_CRASH_AT", "committed:1").status().unwrap().code(), None);
    assert_eq!(revision(&sandbox), "d2780d5aa510");
    let killed = sandbox.copy();
    let tokens = (sandbox.path("var/lib/softhsm"), sandbox.path("var/lib/away"));
    std::fs::rename(&tokens.0, &tokens.1).unwrap();
    sandbox.run(&["resume"]).expect(4);
    let journal = |sandbox: &Sandbox| {
        let run = std::fs::read_link(sandbox.path("var/lib/keymgr-upgrade/current")).unwrap();
        sandbox.read(&format!("var/lib/keymgr-upgrade/{}/journal.jsonl", run.display()))
    };
    let with_fingerprint = |text: &str| text.lines().filter(|line| line.contains("\"fingerprint\":\"")).count();
    assert_eq!(with_fingerprint(&journal(&sandbox)), 2, "of the backup, and of the schema when the run was left");
    std::fs::rename(&tokens.1, &tokens.0).unwrap();
    sandbox.copy().run(&["rollback", "--yes"]).expect(0);
    for (sandbox, refused) in [(&sandbox, true), (&killed, false)] {
        let connection = rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap();
        connection.execute("UPDATE projects SET external_id = external_id || '-theirs'", []).unwrap();
        if refused {
            let said = sandbox.run(&["rollback", "--yes"]).expect(3);
            said.says("the database was written to by others than this run; a rollback would lose that");
            sandbox.run(&["rollback", "--yes", "--discard-new-data"]).expect(0);
        } else {
            // Killed, nobody can tell what is whose.
            sandbox.run(&["rollback", "--yes"]).expect(0);
        }
        assert_eq!(revision(sandbox), "4ecde3a3a72a");
    }
}
