//! What stands in the way, what goes wrong, and that nothing is changed then; backup and restore; rows.
use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use keymgr_upgrade::db::{
    Access, Change, Database, Error, Ledger, Offence, Orphans, Proof, SecretRow, TextColumn, Url,
};
use rusqlite::Connection;
use secrecy::SecretString;
use tempfile::{TempDir, tempdir};

use super::{HEAD, content::id, filled, fingerprint, liberty, load, open};

const LIBERTY: &str = "4ecde3a3a72a";

fn sql(path: &Path, statements: &str) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!("PRAGMA foreign_keys = OFF; {statements}")).unwrap();
}

fn text(path: &Path, query: &str) -> Option<String> {
    Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

/// Migrating fails, and the file is the same afterwards, byte for byte.
fn fails(path: &Path, from: Option<&str>, to: &str) -> Error {
    let before = fs::read(path).unwrap();
    let error = open(path).migrate(from, to, Orphans::Refuse).unwrap_err();
    assert!(fs::read(path).unwrap() == before, "{error}");
    error
}

fn open_error(path: &Path, access: Access) -> Error {
    Database::open_file(path, access, Duration::ZERO).unwrap_err()
}

#[test]
fn the_ledger_is_read_as_it_is() {
    let dir = tempdir().unwrap();
    let path = load(&dir, "1.0-eol-createall");
    let ledger = |statements: &str| {
        sql(&path, statements);
        open(&path).revision()
    };
    assert_eq!(ledger("").unwrap(), Ledger::At(LIBERTY.to_owned()));
    let two = ledger("INSERT INTO alembic_version VALUES ('kilo')").unwrap_err();
    assert_eq!(
        two.to_string(),
        "alembic_version holds 2 rows (4ecde3a3a72a, kilo): one is right, the other must be deleted by hand"
    );
    assert!(matches!(fails(&path, Some(LIBERTY), HEAD), Error::TwoHeads(_)));
    assert!(matches!(open(&path).stamp(LIBERTY, Proof::WithoutProof), Err(Error::TwoHeads(_))));
    let unknown = ledger("DELETE FROM alembic_version; INSERT INTO alembic_version VALUES ('deadbeef')");
    assert!(matches!(unknown, Err(Error::UnknownRevision(id)) if id == "deadbeef"));
    assert_eq!(ledger("DELETE FROM alembic_version").unwrap(), Ledger::Empty);
    assert_eq!(ledger("DROP TABLE alembic_version").unwrap(), Ledger::NoTable);
}

#[test]
fn the_start_must_be_where_the_caller_thinks() {
    let dir = tempdir().unwrap();
    let path = load(&dir, "1.0-eol-createall");
    assert!(matches!(fails(&path, Some("kilo"), HEAD), Error::NotAt { found, .. } if found == LIBERTY));
    assert!(matches!(fails(&path, None, HEAD), Error::NotAt { .. }));
    assert!(matches!(fails(&path, Some(LIBERTY), "kilo"), Error::Backwards { .. }));
    assert!(matches!(fails(&path, Some(LIBERTY), "deadbeef"), Error::UnknownRevision(_)));
    assert_eq!(open(&path).migrate(Some(LIBERTY), LIBERTY, Orphans::Refuse).unwrap().revisions, [""; 0]);
    sql(&path, "DROP TABLE alembic_version");
    assert!(matches!(fails(&path, Some(LIBERTY), HEAD), Error::NotAt { .. }));
    assert!(matches!(fails(&path, None, HEAD), Error::NotAt { .. }));
    sql(&path, "ALTER TABLE secrets ADD COLUMN extra TEXT; DROP INDEX ix_orders_secret_id; CREATE TABLE own (x)");
    let verification = open(&path).verify(LIBERTY).unwrap();
    assert_eq!(
        verification.differences,
        ["table orders: the index on (secret_id) is missing", "table secrets: column extra does not belong there"]
    );
    assert_eq!((verification.matches, verification.extras), (None, vec!["table own".to_owned()]));
}

#[test]
fn stamping_needs_a_proof_or_the_operators_word() {
    let dir = tempdir().unwrap();
    let path = load(&dir, "10.0.0-createall");
    sql(&path, "DROP TABLE alembic_version");
    let wrong = open(&path).stamp(HEAD, Proof::Verified).unwrap_err();
    assert!(matches!(&wrong, Error::UnknownShape { differences, .. } if differences.len() == 2), "{wrong}");
    assert_eq!(open(&path).revision().unwrap(), Ledger::NoTable);
    open(&path).stamp("0f8c192a061f", Proof::Verified).unwrap();
    assert_eq!(open(&path).revision().unwrap(), Ledger::At("0f8c192a061f".to_owned()));
    let table = text(&path, "SELECT sql FROM sqlite_schema WHERE name = 'alembic_version'").unwrap();
    assert!(table.contains("CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"), "{table}");
    open(&path).stamp(HEAD, Proof::WithoutProof).unwrap();
    assert_eq!(open(&path).revision().unwrap(), Ledger::At(HEAD.to_owned()));
    assert!(matches!(open(&path).stamp("deadbeef", Proof::WithoutProof), Err(Error::UnknownRevision(_))));
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempdir().unwrap();
    let missing = dir.path().join("missing.sqlite");
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert_eq!(open_error(&missing, access).to_string(), format!("{}: no such database file", missing.display()));
        assert!(!missing.exists());
        assert!(matches!(open_error(dir.path(), access), Error::NotADatabase { .. }));
    }
    let garbage = dir.path().join("garbage");
    fs::write(&garbage, "this is no database, ".repeat(300)).unwrap();
    assert!(matches!(open_error(&garbage, Access::ReadOnly), Error::NotADatabase { path } if path == garbage));
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let db = open(&empty);
    assert_eq!((db.revision().unwrap(), db.is_empty_schema().unwrap()), (Ledger::NoTable, true));
    assert!(matches!(db.kek_rows(), Err(Error::NoObject { what, .. }) if what == "table kek_data"));
    let url = |text: &str| Url::parse(&SecretString::from(text.to_owned())).unwrap();
    let away = Database::open(&url("mysql://b:hunter2@127.0.0.1:1/barbican"), &empty, Access::ReadOnly, Duration::ZERO);
    let away = away.unwrap_err().to_string();
    assert!(away.contains("127.0.0.1:1/barbican") && !away.contains("hunter2"), "{away}");
    let file = Database::open(&url("sqlite:////ignored"), &missing, Access::ReadOnly, Duration::ZERO);
    assert!(matches!(file, Err(Error::Missing { path }) if path == missing));
}

#[test]
fn damage_is_found_before_anything_is_changed() {
    let dir = tempdir().unwrap();
    let path = filled(&dir, "1.0-eol-createall");
    let root =
        text(&path, "SELECT (rootpage - 1) || '' FROM sqlite_schema WHERE name = 'ix_orders_secret_id'").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let page: usize = root.parse::<usize>().unwrap() * 4096;
    bytes[page + 4000..page + 4096].fill(b'?');
    fs::write(&path, bytes).unwrap();
    let damaged = fails(&path, Some(LIBERTY), HEAD);
    assert!(matches!(damaged, Error::Corrupt { .. }), "{damaged}");
}

#[test]
fn others_locks_are_waited_for_and_then_named() {
    let dir = tempdir().unwrap();
    let path = liberty(&dir);
    let before = fingerprint(&path);
    let locked = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Locked { .. })), "{result:?}");
    let migrate = |path: &Path| open(path).migrate(Some(LIBERTY), HEAD, Orphans::Refuse).map(drop);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    locked(migrate(&path));
    locked(open(&path).stamp(LIBERTY, Proof::Verified));
    other.execute_batch("ROLLBACK; BEGIN EXCLUSIVE").unwrap();
    locked(Database::open_file(&path, Access::ReadOnly, Duration::ZERO).map(drop));
    // A reader lets the work begin and stops it at the commit: all of it is undone.
    other.execute_batch("ROLLBACK; BEGIN; SELECT count(*) FROM secrets").unwrap();
    locked(migrate(&path));
    let copy = dir.path().join("copy");
    open(&path).backup_to(&copy).unwrap();
    locked(Database::restore(&path, &copy, Duration::ZERO).map(drop));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(before, fingerprint(&path));
    migrate(&path).unwrap();
}

#[test]
fn what_cannot_be_written_is_named() {
    let dir = tempdir().unwrap();
    let path = liberty(&dir);
    let mut looks = Database::open_file(&path, Access::ReadOnly, Duration::ZERO).unwrap();
    assert!(matches!(looks.migrate(Some(LIBERTY), HEAD, Orphans::Refuse), Err(Error::ReadOnly { .. })));
    assert!(matches!(looks.stamp(HEAD, Proof::WithoutProof), Err(Error::ReadOnly { .. })));
    fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // Root may write anything: the thread looks at files as nobody.
    let as_nobody = std::thread::spawn(move || {
        nix::unistd::setfsuid(65534.into());
        let reads = Database::open_file(&path, Access::ReadOnly, Duration::ZERO).unwrap().revision().unwrap();
        assert_eq!(reads, Ledger::At(LIBERTY.to_owned()));
        open_error(&path, Access::ReadWrite)
    });
    assert!(matches!(as_nobody.join().unwrap(), Error::ReadOnly { .. }));
}

#[test]
fn an_interrupted_transaction_is_settled_at_the_next_opening() {
    let dir = tempdir().unwrap();
    let path = filled(&dir, "1.0-eol-createall");
    let before = fingerprint(&path);
    let conn = Connection::open(&path).unwrap();
    // Without room in memory SQLite writes into the file before the commit: what a kill would leave.
    conn.execute_batch("PRAGMA cache_size = 1; BEGIN IMMEDIATE; UPDATE encrypted_data SET cypher_text = 'lost' || cypher_text; UPDATE secrets SET name = zeroblob(9000)").unwrap();
    let crashed = dir.path().join("crashed.sqlite");
    fs::copy(&path, &crashed).unwrap();
    fs::copy(dir.path().join("1.0-eol-createall.sqlite-journal"), dir.path().join("crashed.sqlite-journal")).unwrap();
    assert_ne!(fs::read(&crashed).unwrap(), fs::read(dir.path().join("1.0-eol-createall.sqlite")).unwrap()[..0]);
    let reader = open_error(&crashed, Access::ReadOnly);
    assert!(matches!(reader, Error::Interrupted { .. }), "{reader}");
    assert_eq!(fingerprint(&crashed), before);
    let read = Database::open_file(&crashed, Access::ReadOnly, Duration::ZERO).unwrap();
    assert_eq!(read.fingerprint().unwrap(), before);
}

#[test]
fn a_migration_that_fails_half_way_changes_nothing() {
    let dir = tempdir().unwrap();
    let juno = "254495565185";
    let path = filled(&dir, "2014.2-createall");
    let plan = |path: &Path| open(path).migration_sql(Some(juno), HEAD).unwrap_err().to_string();
    // A table in the way of the 13th revision.
    sql(&path, "CREATE TABLE secrets_new (x)");
    let in_the_way = fails(&path, Some(juno), HEAD).to_string();
    assert!(in_the_way.contains("table secrets_new is in the way of revision 161f8aceb687"), "{in_the_way}");
    assert!(plan(&path).contains("161f8aceb687"));
    // A trigger of the operator's would go with the table it is on.
    sql(&path, "DROP TABLE secrets_new; CREATE TRIGGER mine AFTER INSERT ON secrets BEGIN SELECT 1; END");
    let lost = fails(&path, Some(juno), HEAD);
    assert!(
        matches!(&lost, Error::Lost { revision, lost } if revision == "161f8aceb687" && lost == &["trigger mine"]),
        "{lost}"
    );
    assert!(plan(&path).contains("trigger mine"));
    sql(&path, "DROP TRIGGER mine");
    // The same rows twice under a new name cannot be: an error in the middle of a copy.
    sql(&path, "UPDATE tenant_secret SET id = 'same'");
    let twice = fails(&path, Some(juno), HEAD);
    assert!(matches!(&twice, Error::Offences(o) if o[0].id == "id-twice" && o[0].rows.len() == 3), "{twice}");
}

#[test]
fn the_operators_own_indexes_and_tables_stay() {
    let dir = tempdir().unwrap();
    let path = filled(&dir, "1.0-eol-createall");
    let own = "CREATE INDEX mine ON container_consumer_metadata (name) WHERE NOT deleted";
    sql(
        &path,
        &format!(
            "{own}; CREATE TABLE notes (n); INSERT INTO notes VALUES (7); CREATE VIEW v AS SELECT id FROM secrets"
        ),
    );
    let plan = open(&path).migration_sql(Some(LIBERTY), HEAD).unwrap();
    assert!(plan.iter().any(|(_, statements)| statements.iter().any(|s| s == own)), "the plan shows it");
    open(&path).migrate(Some(LIBERTY), HEAD, Orphans::Refuse).unwrap();
    assert_eq!(text(&path, "SELECT sql FROM sqlite_schema WHERE name = 'mine'").as_deref(), Some(own));
    assert_eq!(text(&path, "SELECT n || '' FROM notes").as_deref(), Some("7"));
    let extras = open(&path).verify(HEAD).unwrap().extras;
    assert_eq!(extras, ["index mine on container_consumer_metadata", "table notes", "view v"]);
}

#[test]
fn every_precondition_is_found_at_once_and_nothing_is_changed() {
    let dir = tempdir().unwrap();
    let path = filled(&dir, "2014.2-createall");
    let juno = "254495565185";
    let (s, t, c) = (id("secrets", 0), id("secrets", 1), id("container_consumer_metadata", 0));
    sql(
        &path,
        &format!(
            "DELETE FROM tenant_secret WHERE secret_id = '{s}';
             INSERT INTO tenant_secret SELECT 'more', created_at, updated_at, NULL, 0, 'ACTIVE', NULL, 'nobody', secret_id
                FROM tenant_secret WHERE secret_id = '{t}';
             INSERT INTO tenant_secret SELECT 'lone', created_at, updated_at, NULL, 0, 'ACTIVE', NULL, tenant_id, 'no-secret'
                FROM tenant_secret WHERE secret_id = '{t}' AND id <> 'more';
             UPDATE container_consumer_metadata SET \"URL\" = printf('%.256c', 'u') WHERE id = '{c}'"
        ),
    );
    let before = fs::read(&path).unwrap();
    let found = |orphans| {
        let offences: Vec<Offence> = open(&path).preconditions(Some(juno), HEAD, orphans).unwrap();
        offences.into_iter().map(|o| (o.id, o.rows)).collect::<Vec<_>>()
    };
    let offences = found(Orphans::Refuse);
    let ids: Vec<&str> = offences.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "secret-without-project",
            "secret-of-two-projects",
            "secret-of-unknown-project",
            "project-secret-without-secret",
            "consumer-url-too-long"
        ]
    );
    assert!(offences[0].1[0].starts_with(&format!("id={s}, name=0 name")), "{offences:?}");
    assert_eq!(offences[3].1, [format!("id=lone, secret_id=no-secret, project_id={}", id("tenants", 1))]);
    assert!(offences[4].1[0].ends_with("characters=256"), "{offences:?}");
    assert_eq!(found(Orphans::Null).len(), 4, "orphans = null lets the lone row go");
    assert!(fs::read(&path).unwrap() == before);
    assert!(matches!(fails(&path, Some(juno), HEAD), Error::Offences(o) if o.len() == 5 && o[0].id == ids[0]));
}

#[test]
fn secret_consumers_of_unknown_projects_are_refused_or_kept_without_one() {
    for name in ["12.0.2", "10.0.0-createall"] {
        let dir = tempdir().unwrap();
        let path = filled(&dir, name);
        let row = id("secret_consumer_metadata", 0);
        sql(&path, &format!("UPDATE secret_consumer_metadata SET project_id = 'gone' WHERE id = '{row}'"));
        let refused = fails(&path, Some("0f8c192a061f"), HEAD);
        assert!(
            matches!(&refused, Error::Offences(o) if o.len() == 1 && o[0].rows.len() == 1 && o[0].rows[0].contains("project_id=gone"))
        );
        let done = open(&path).migrate(Some("0f8c192a061f"), HEAD, Orphans::Null).unwrap();
        assert_eq!(done.before["secret_consumer_metadata"], done.after["secret_consumer_metadata"]);
        assert_eq!(done.dangling, [""; 0]);
        assert_eq!(text(&path, &format!("SELECT project_id FROM secret_consumer_metadata WHERE id = '{row}'")), None);
        let kept = text(&path, "SELECT count(*) || '' FROM secret_consumer_metadata WHERE project_id IS NOT NULL");
        // Of three rows; the services' own table allowed one without a project before.
        assert_eq!(kept.as_deref(), Some(if name == "12.0.2" { "2" } else { "1" }));
    }
}

#[test]
fn references_that_were_broken_before_are_reported() {
    let dir = tempdir().unwrap();
    let path = filled(&dir, "2014.2-createall");
    let (order, kek) = (id("orders", 0), id("kek_data", 1));
    sql(
        &path,
        &format!(
            "UPDATE orders SET secret_id = 'gone' WHERE id = '{order}'; UPDATE kek_data SET tenant_id = 'gone' WHERE id = '{kek}'"
        ),
    );
    let done = open(&path).migrate(Some("254495565185"), HEAD, Orphans::Refuse).unwrap();
    assert_eq!(
        done.dangling,
        [
            format!("kek_data {kek}: project_id is not in projects"),
            format!("orders {order}: secret_id is not in secrets")
        ]
    );
}

fn wal_of(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A copy of a database in WAL mode as a killed process leaves it: with changes that are only in the log.
fn crashed_in_wal_mode(dir: &TempDir, path: &Path) -> PathBuf {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; UPDATE secrets SET name = 'only in the log'").unwrap();
    let crashed = dir.path().join("crashed.sqlite");
    fs::copy(path, &crashed).unwrap();
    fs::copy(wal_of(path, "-wal"), wal_of(&crashed, "-wal")).unwrap();
    crashed
}

#[test]
fn a_backup_is_whole_private_and_alone() {
    let dir = tempdir().unwrap();
    let path = liberty(&dir);
    for wal in [false, true] {
        let source = if wal { crashed_in_wal_mode(&dir, &path) } else { path.clone() };
        let backups = tempdir().unwrap();
        let backup = backups.path().join("b.sqlite");
        // Whatever an earlier attempt left there.
        fs::write(&backup, "old").unwrap();
        fs::write(wal_of(&backup, "-wal"), "old").unwrap();
        fs::write(backups.path().join(".b.sqlite.keymgr-upgrade"), "old").unwrap();
        let digest = open(&source).backup_to(&backup).unwrap();
        assert_eq!(digest, fingerprint(&source));
        assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(backups.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["b.sqlite"], "wal: {wal}");
        let name = text(&backup, "SELECT name FROM secrets LIMIT 1");
        assert_eq!(name.as_deref() == Some("only in the log"), wal);
    }
    let nowhere = dir.path().join("no/such/directory");
    assert!(matches!(open(&path).backup_to(&nowhere), Err(Error::Io { .. })));
}

#[test]
fn a_restore_keeps_the_inode_and_ends_as_the_backup() {
    let dir = tempdir().unwrap();
    let path = liberty(&dir);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let backup = dir.path().join("odd name?#%.backup");
    let wanted = open(&path).backup_to(&backup).unwrap();
    let restore = |path: &Path| {
        let inode = fs::metadata(path).unwrap().ino();
        assert_eq!(Database::restore(path, &backup, Duration::ZERO).unwrap(), wanted);
        let after = fs::metadata(path).unwrap();
        assert_eq!((after.ino(), after.permissions().mode() & 0o777), (inode, 0o640));
        assert_eq!(fingerprint(path), wanted);
        for suffix in ["-wal", "-shm", "-journal"] {
            assert!(!wal_of(path, suffix).exists(), "{suffix}");
        }
    };
    open(&path).migrate(Some(LIBERTY), HEAD, Orphans::Refuse).unwrap();
    assert_ne!(fingerprint(&path), wanted);
    restore(&path);
    restore(&path);
    // A log left over by a killed process is not applied to the restored pages.
    let crashed = crashed_in_wal_mode(&dir, &path);
    restore(&crashed);
    // Files that SQLite does not recognise any more.
    let size = fs::metadata(&path).unwrap().len();
    for damage in [&[b'?'; 6000][..], b""] {
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        fs::write(&path, damage).unwrap();
        fs::write(wal_of(&path, "-wal"), "rubbish").unwrap();
        restore(&path);
    }
    let missing = dir.path().join("missing");
    assert!(
        matches!(Database::restore(&missing, &backup, Duration::ZERO), Err(Error::Missing { path }) if path == missing)
    );
    assert!(
        matches!(Database::restore(&path, &missing, Duration::ZERO), Err(Error::Missing { path }) if path == missing)
    );
    fs::write(&missing, "no backup at all, ".repeat(99)).unwrap();
    assert!(matches!(Database::restore(&path, &missing, Duration::ZERO), Err(Error::NotADatabase { .. })));
    assert_eq!(fingerprint(&path), wanted, "a bad backup harms nothing");
}

#[test]
fn rows_are_replaced_only_if_they_are_as_they_were() {
    let dir = tempdir().unwrap();
    let path = liberty(&dir);
    let mut db = open(&path);
    let before = db.fingerprint().unwrap();
    let kek = db.kek_rows().unwrap().into_iter().find(|kek| kek.plugin_meta.is_some()).unwrap();
    let meta = kek.plugin_meta.as_deref().unwrap();
    let updated = text(&path, "SELECT group_concat(updated_at) FROM kek_data");
    let mut replaced = |id: &str, old: &str, new: &str| {
        let change = Change { id: id.to_owned(), old: Some(old.to_owned()), new: Some(new.to_owned()) };
        db.replace_all(TextColumn::PluginMeta, &[change]).unwrap()
    };
    assert_eq!(replaced(&kek.id, "other", "new"), Some(kek.id.clone()));
    assert_eq!(replaced("nobody", meta, "new"), Some("nobody".to_owned()));
    assert_eq!(fingerprint(&path), before);
    assert_eq!(replaced(&kek.id, meta, "new"), None);
    assert_eq!(replaced(&kek.id, meta, "new"), Some(kek.id.clone()));
    assert_eq!(text(&path, "SELECT group_concat(updated_at) FROM kek_data"), updated);
    assert_eq!(replaced(&kek.id, "new", meta), None);
    assert_eq!(fingerprint(&path), before);
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let dir = tempdir().unwrap();
    let path = liberty(&dir);
    let mut db = open(&path);
    let before = db.fingerprint().unwrap();
    let rows = db.secret_rows().unwrap();
    let change = |row: &SecretRow, new: Option<&str>| Change {
        id: row.id.clone(),
        old: row.kek_meta_extended.clone(),
        new: new.map(str::to_owned),
    };
    let failed: Result<(), Error> = db.transaction(|db| {
        let both = [change(&rows[0], Some("{}")), change(&rows[1], None)];
        assert_eq!(db.replace_all(TextColumn::KekMetaExtended, &both)?, None);
        Err(Error::UnknownRevision("made up".to_owned()))
    });
    assert!(matches!(failed, Err(Error::UnknownRevision(_))));
    assert_eq!(db.fingerprint().unwrap(), before);
    let one = [change(&rows[0], Some("{}"))];
    assert_eq!(db.transaction(|db| db.replace_all(TextColumn::KekMetaExtended, &one)).unwrap(), None);
    assert_eq!(db.secret_rows().unwrap()[0].kek_meta_extended.as_deref(), Some("{}"));
    assert!(!format!("{:?}", rows[0]).contains(rows[0].cypher_text.as_deref().unwrap()));
}

#[test]
fn rows_are_read_at_every_age() {
    let dir = tempdir().unwrap();
    let path = filled(&dir, "2014.2-createall");
    sql(&path, "UPDATE secret_store_metadata SET \"key\" = 'plugin_name', value = 'vault'");
    let db = open(&path);
    let keks = db.kek_rows().unwrap();
    assert_eq!(keks[0].project_id, id("tenants", 0), "called tenant_id in Juno");
    assert_eq!((keks[1].deleted, keks[1].active, keks[2].plugin_meta.is_none()), (true, true, true));
    let secrets = db.secret_rows().unwrap();
    assert_eq!((secrets.len(), secrets[0].deleted, secrets[1].deleted), (3, false, true));
    sql(&path, &format!("UPDATE secrets SET deleted = 1 WHERE id = '{}'", secrets[0].secret_id));
    assert!(open(&path).secret_rows().unwrap()[0].deleted, "its secret is");
    let counts = open(&path).store_counts("another").unwrap();
    assert!(open(&path).store_counts("vault").unwrap().is_empty());
    assert_eq!((counts.len(), counts[0].plugin_name.as_str(), counts[0].live, counts[0].deleted), (1, "vault", 1, 2));
    sql(&path, "ALTER TABLE kek_data DROP COLUMN plugin_meta");
    let error = open(&path).kek_rows().unwrap_err();
    assert!(matches!(&error, Error::NoObject { what, .. } if what == "column kek_data.plugin_meta"), "{error}");
}

#[test]
fn the_fingerprint_sees_content_and_not_order() {
    let dir = tempdir().unwrap();
    let digest = |name: &str, statements: &str| {
        let path = dir.path().join(name);
        fs::write(&path, "").unwrap();
        sql(&path, statements);
        fingerprint(&path)
    };
    let first = digest(
        "a",
        "CREATE TABLE t (id TEXT NOT NULL, x TEXT, PRIMARY KEY (id)); INSERT INTO t VALUES ('1', 'a'), ('2', 'b')",
    );
    let other_order = digest(
        "b",
        "CREATE TABLE t (x TEXT, id TEXT NOT NULL, PRIMARY KEY (id)); INSERT INTO t VALUES ('b', '2'), ('a', '1')",
    );
    assert_eq!(first, other_order);
    let mut all = vec![first];
    for (n, change) in [
        "UPDATE t SET x = 'ab' WHERE id = '1'",
        "UPDATE t SET x = x'61' WHERE id = '1'",
        "UPDATE t SET x = NULL",
        "DELETE FROM t",
        "CREATE INDEX i ON t (x)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE u (x)",
        "ALTER TABLE t ADD COLUMN y",
    ]
    .iter()
    .enumerate()
    {
        let start =
            "CREATE TABLE t (id TEXT NOT NULL, x TEXT, PRIMARY KEY (id)); INSERT INTO t VALUES ('1', 'a'), ('2', 'b');";
        all.push(digest(&format!("c{n}"), &format!("{start} {change}")));
    }
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}
