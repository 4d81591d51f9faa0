//! Many rows: pages and batches on each database, and the KEKs of more than a page through the binary.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keymgr_upgrade::db::{
    AHEAD, Access, Change, Cursor, Database, Dialect, Error, FIRST_PAGE, Kind, PAGE, TextColumn, Url,
};
use keymgr_upgrade::kek::P11_CRYPTO;
use rusqlite::Connection;
use secrecy::SecretString;

use crate::common::Sandbox;
use crate::servers::{mariadb, postgresql};

const DATABASE: &str = "var/lib/barbican/barbican.sqlite";

/// A database of the Rocky shape in which `rows` KEKs and as many encrypted data are, with ids that collations order in their own ways.
fn with_rows(dialect: Dialect, rows: usize, work: impl FnOnce(&dyn Fn() -> Database)) {
    let name = match dialect {
        Dialect::Sqlite => "sqlite-10.0.0-createall",
        Dialect::Postgresql => "postgresql-10.0.0",
        Dialect::Mysql => "mysql-10.0.0",
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/schema/{name}.sql"));
    let mut sql = std::fs::read_to_string(file).unwrap();
    if dialect == Dialect::Postgresql {
        // The dump leaves it empty.
        sql.push_str("\nSET search_path TO public;");
    }
    let no = if dialect == Dialect::Postgresql { "false" } else { "0" };
    // MariaDB's own client reads it, to which a backslash is one only when doubled.
    let text = |n| meta(n).map(|meta| if dialect == Dialect::Mysql { meta.replace('\\', "\\\\") } else { meta });
    let stamps = format!("'2020-01-01', '2020-01-01', {no}, 'ACTIVE'");
    sql.push_str(&format!(
        "\nINSERT INTO projects (id, created_at, updated_at, deleted, status, external_id) VALUES ('p', {stamps}, 'p');\n\
         INSERT INTO secrets (id, created_at, updated_at, deleted, status, secret_type, project_id) VALUES ('s', {stamps}, 'opaque', 'p');\n"
    ));
    for n in 0..rows {
        let (id, meta) = (id(n), text(n).map_or("NULL".to_owned(), |meta| format!("'{meta}'")));
        sql.push_str(&format!(
            "INSERT INTO kek_data (id, created_at, updated_at, deleted, status, plugin_name, project_id, active, bind_completed, plugin_meta) \
             VALUES ('{id}', {stamps}, '{P11_CRYPTO}', 'p', {no}, {no}, {meta});\n\
             INSERT INTO encrypted_data (id, created_at, updated_at, deleted, status, kek_id, secret_id, kek_meta_extended) \
             VALUES ('{id}', {stamps}, '{}', 's', {meta});\n",
            self::id(n / 3)
        ));
    }
    if dialect == Dialect::Sqlite {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.sqlite");
        Connection::open(&path).unwrap().execute_batch(&format!("BEGIN; {sql} COMMIT;")).unwrap();
        return work(&|| Database::open_file(&path, Access::ReadWrite, Duration::from_secs(5)).unwrap());
    }
    let server = if dialect == Dialect::Mysql { mariadb() } else { postgresql() };
    let base = server.database(&sql);
    let url = Url::parse(&SecretString::from(base.url())).unwrap();
    work(&|| Database::open(&url, Path::new(""), Access::ReadWrite, Duration::from_secs(20)).unwrap());
}

/// Upper case, lower case, digits and a dash at the front: in which order is for the server to say.
fn id(n: usize) -> String {
    format!("{}{:x}-{n}", ["A", "b", "0", "-", "Z", "z_"][n % 6], n * 2_654_435_761 % 4_294_967_296)
}

/// NULL, hexadecimal text, and what SQL and collations may stumble over.
fn meta(n: usize) -> Option<String> {
    match n % 5 {
        0 => None,
        1 => Some("\\x7b7d".to_owned()),
        2 => Some(format!("{{\"a\":\"~? %\",\"n\":{n}}}")),
        3 => Some(format!("Text {n} ")),
        _ => Some(String::new()),
    }
}

fn changes(rows: std::ops::Range<usize>, new: &str) -> Vec<Change> {
    rows.map(|n| Change { id: id(n), old: meta(n), new: Some(format!("{new}\\'?{n}")) }).collect()
}

fn pages_and_batches(dialect: Dialect) {
    for rows in [0, 1, PAGE, PAGE + 1] {
        with_rows(dialect, rows, |open| {
            let mut database = open();
            let mut expected: Vec<String> = (0..rows).map(id).collect();
            expected.sort();
            let (mut cursor, mut keks, mut pages) = (Cursor::default(), Vec::new(), 0);
            loop {
                let page = database.kek_page(&mut cursor).unwrap();
                if page.is_empty() {
                    break;
                }
                pages += 1;
                keks.extend(page.into_iter().map(|row| row.id));
            }
            assert!(database.kek_page(&mut cursor).unwrap().is_empty(), "an end is an end");
            let keks_in_order = keks.clone();
            keks.sort();
            let expected_pages = usize::from(rows > 0) + rows.saturating_sub(FIRST_PAGE).div_ceil(PAGE);
            assert_eq!((keks, pages), (expected.clone(), expected_pages), "{rows}");
            let (mut cursor, mut secrets) = (Cursor::default(), Vec::new());
            loop {
                let page = database.secret_page(&mut cursor).unwrap();
                if page.is_empty() {
                    break;
                }
                secrets.extend(page);
            }
            let mut under: Vec<&str> = secrets.iter().map(|row| row.kek_id.as_str()).collect();
            under.dedup();
            assert_eq!(under.len(), rows.div_ceil(3), "those of one KEK come together");
            let under_of: BTreeSet<String> = under.into_iter().map(str::to_owned).collect();
            let mut ids: Vec<String> = secrets.into_iter().map(|row| row.id).collect();
            ids.sort();
            assert_eq!(ids, expected);
            let (mut cursor, mut metas) = (Cursor::default(), Vec::new());
            loop {
                let page = database.meta_page(P11_CRYPTO, &mut cursor).unwrap();
                if page.is_empty() {
                    break;
                }
                metas.extend(page.into_iter().map(|row| row.id));
            }
            metas.sort();
            assert_eq!(metas, expected);
            assert!(database.meta_page("another.Plugin", &mut Cursor::default()).unwrap().is_empty());
            let mut tables = [Kind::Keks, Kind::Secrets].map(|kind| {
                let sample = database.spread_ids(kind, 40).unwrap();
                assert!(sample.iter().all(|id| expected.contains(id)) && sample.len() <= 42, "{sample:?}");
                sample
            });
            let sample = database.secret_sample(40).unwrap();
            assert!(tables[1].is_subset(&sample));
            let ids: Vec<&str> = sample.iter().map(String::as_str).collect();
            let metas = database.metas_by_id(P11_CRYPTO, &ids).unwrap().into_iter().map(|row| row.id);
            assert_eq!(metas.collect::<BTreeSet<_>>(), sample);
            assert!(database.metas_by_id("another.Plugin", &ids).unwrap().is_empty());
            // The first and the last in the server's own order.
            let ends = [keks_in_order.first(), keks_in_order.last()];
            assert!(ends.into_iter().flatten().all(|id| tables[0].contains(id)), "{rows}");
            tables[0].retain(|id| under_of.contains(id));
            let live = database.live_under(&tables[0]).unwrap();
            assert_eq!(live.len(), tables[0].len());
            assert_eq!(database.kek_of_each_plugin().unwrap().len(), rows.min(1));
            assert_eq!(database.plugin_counts().unwrap().values().sum::<u64>(), rows as u64);

            for column in [TextColumn::PluginMeta, TextColumn::KekMetaExtended] {
                let all = changes(0..rows, "new");
                assert_eq!(database.transaction(|db| db.replace_all(column, &all)).unwrap(), None);
                let ids: Vec<&str> = all.iter().map(|change| change.id.as_str()).collect();
                let now = database.values(column, &ids).unwrap();
                assert!(all.iter().all(|change| now[&change.id] == change.new), "{column:?}");
                assert_eq!(now.len(), rows);
            }
        });
    }
    with_rows(dialect, 200, |open| {
        let (mut database, mut other) = (open(), open());
        let column = TextColumn::PluginMeta;
        // One that differs in case or in a blank at the end was changed as any other, and one that is gone was.
        let theirs = Change { id: id(133), old: meta(133), new: Some("text 133".to_owned()) };
        assert_eq!(other.replace_all(column, &[theirs]).unwrap(), None);
        let mut all = changes(0..200, "new");
        let mut refused = |all: &[Change]| {
            let mut named = None;
            let done: Result<(), Error> = database.transaction(|db| {
                named = db.replace_all(column, all)?;
                Err(Error::UnknownRevision("rolled back".to_owned()))
            });
            assert!(done.is_err());
            named
        };
        assert_eq!(refused(&all), Some(id(133)));
        all[133].old = Some("TEXT 133".to_owned());
        assert_eq!(refused(&all), Some(id(133)));
        all[133].old = Some("text 133 ".to_owned());
        assert_eq!(refused(&all), Some(id(133)));
        all[133].old = Some("text 133".to_owned());
        all[10].id = "nobody".to_owned();
        assert_eq!(refused(&all), Some("nobody".to_owned()));
        let ids: Vec<String> = (0..200).map(id).collect();
        let now = database.values(column, &ids.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert!((0..200).filter(|n| *n != 133).all(|n| now[&id(n)] == meta(n)), "nothing was written");
    });
}

#[test]
fn sqlite_pages_and_batches() {
    pages_and_batches(Dialect::Sqlite);
}

#[test]
fn postgresql_pages_and_batches() {
    pages_and_batches(Dialect::Postgresql);
}

#[test]
fn mariadb_pages_and_batches() {
    pages_and_batches(Dialect::Mysql);
}

/// Their ids are read ahead, and some are gone by the time that their rows are read.
#[test]
fn more_secrets_than_are_read_ahead() {
    let sandbox = Sandbox::liberty();
    let connection = Connection::open(sandbox.path(DATABASE)).unwrap();
    let columns =
        "created_at, updated_at, deleted, status, content_type, secret_id, kek_id, cypher_text, kek_meta_extended";
    let copies = AHEAD + 1;
    connection
        .execute_batch(&format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {copies})
             INSERT INTO encrypted_data (id, {columns})
             SELECT printf('%06d', n), {columns} FROM n, (SELECT * FROM encrypted_data LIMIT 1)"
        ))
        .unwrap();
    let all: i64 = connection.query_row("SELECT count(*) FROM encrypted_data", [], |row| row.get(0)).unwrap();
    let database = Database::open_file(&sandbox.path(DATABASE), Access::ReadOnly, Duration::from_secs(5)).unwrap();
    let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
    loop {
        let page = database.secret_page(&mut cursor).unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|row| (row.kek_id, row.id)));
        if seen.len() == 5000 {
            // A page and more of what was read ahead.
            connection.execute("DELETE FROM encrypted_data WHERE id BETWEEN '020001' AND '020600'", []).unwrap();
        }
    }
    assert_eq!(seen.len(), usize::try_from(all).unwrap() - 600);
    assert!(seen.is_sorted() && seen.windows(2).all(|two| two[0] != two[1]));
}

/// The genuine deployment with its p11 KEKs so many times that they take more than two pages, at Mitaka's schema, not yet signed anew.
fn crowded() -> Sandbox {
    let sandbox = Sandbox::liberty();
    sandbox.run(&["db", "upgrade", "d2780d5aa510", "--yes"]).expect(0);
    let connection = Connection::open(sandbox.path(DATABASE)).unwrap();
    let columns = "created_at, updated_at, deleted_at, deleted, status, plugin_name, kek_label, project_id, active, bind_completed, \
                   algorithm, bit_length, mode, plugin_meta";
    let copies = (FIRST_PAGE + PAGE) / 3 + 1;
    connection
        .execute_batch(&format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {copies})
             INSERT INTO kek_data (id, {columns}) SELECT lower(hex(randomblob(16))), {columns} FROM kek_data, n
             WHERE plugin_name = '{P11_CRYPTO}'"
        ))
        .unwrap();
    sandbox
}

fn metas(sandbox: &Sandbox) -> Vec<(String, Option<String>)> {
    let connection = Connection::open(sandbox.path(DATABASE)).unwrap();
    let mut query = connection.prepare("SELECT id, plugin_meta FROM kek_data ORDER BY id").unwrap();
    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

fn good(sandbox: &Sandbox) -> u64 {
    let counts = sandbox.run(&["--json", "kek", "status"]).expect(0).json();
    counts["keks"]["good"]["live"].as_u64().unwrap()
}

/// The file of old signatures of the only run that has one.
fn kept(sandbox: &Sandbox) -> PathBuf {
    let runs = std::fs::read_dir(sandbox.path("var/lib/keymgr-upgrade/runs")).unwrap();
    let files = runs.map(|run| run.unwrap().path().join("backup/keks.jsonl")).filter(|file| file.exists());
    let files: Vec<PathBuf> = files.collect();
    assert_eq!(files.len(), 1);
    files[0].clone()
}

#[test]
fn more_than_a_page_is_signed_and_put_back() {
    let sandbox = crowded();
    let before = metas(&sandbox);
    let all = before.len() as u64;
    assert!(all > (FIRST_PAGE + PAGE) as u64 + 3);
    let (old, whole) = (good(&sandbox), sandbox.copy());
    assert_eq!(old, 3, "of simple_crypto");
    whole.run(&["kek", "migrate", "--yes"]).expect(0);
    assert_eq!(good(&whole), all);
    assert_eq!(std::fs::read_to_string(kept(&whole)).unwrap().lines().count(), 4, "a line a page, after the first");
    let after = metas(&whole);
    whole.run(&["kek", "restore"]).expect(0);
    assert!(metas(&whole) == before);

    // Killed when the second page was kept, and not yet written. What a power loss leaves of that line is not taken for anything.
    let status = sandbox.command(&["kek", "migrate", "--yes"]).env("KEYMGR_UPGRADE_CRASH_AT", "KEK kept:2").status();
    assert_eq!(status.unwrap().code(), None);
    let bytes = std::fs::read(kept(&sandbox)).unwrap();
    let last = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for tail in [&b""[..], &bytes[last..last + 9], b"[{\"id\":\0\0\0\0\n", &bytes[last..]] {
        for verb in [&["resume"][..], &["rollback", "--yes"]] {
            let copy = sandbox.copy();
            std::fs::write(kept(&copy), [&bytes[..last], tail].concat()).unwrap();
            copy.run(verb).expect(0);
            assert!(metas(&copy) == if verb[0] == "resume" { after.clone() } else { before.clone() }, "{tail:?}");
            copy.run(&["kek", "restore"]).expect(0);
            assert!(metas(&copy) == before);
        }
    }
    // What is damaged elsewhere is refused by its line, and nothing is written.
    let (copy, now) = (sandbox.copy(), metas(&sandbox));
    let mut file = std::fs::OpenOptions::new().append(true).open(kept(&copy)).unwrap();
    file.write_all(b"no rows\n[]\n").unwrap();
    for verb in [&["resume"][..], &["rollback", "--yes"]] {
        let said = copy.run(verb);
        assert!(said.code != 0 && said.error().contains("keks.jsonl, line 4"), "{}", said.all());
        assert!(metas(&copy) == now);
    }
}

/// Whoever is still at work on a KEK is found out before anything of its page is written.
#[test]
fn a_kek_changed_meanwhile_is_named() {
    let sandbox = crowded();
    let connection = Connection::open(sandbox.path(DATABASE)).unwrap();
    let one = metas(&sandbox).into_iter().rev().find(|(id, _)| id.len() == 32).unwrap().0;
    // It stands in for somebody who writes between our reading and our writing: the last page is read before the second is written.
    let first = metas(&sandbox).swap_remove(FIRST_PAGE - 1).0;
    let trigger = format!(
        "CREATE TRIGGER meanwhile BEFORE UPDATE ON kek_data WHEN NEW.id > '{first}' AND NEW.id < '{one}' AND NEW.plugin_meta NOT LIKE '% %'
         BEGIN UPDATE kek_data SET plugin_meta = plugin_meta || ' ' WHERE id = '{one}'; END"
    );
    connection.execute_batch(&trigger).unwrap();
    let before = metas(&sandbox);
    let said = sandbox.run(&["kek", "migrate", "--yes"]).expect(4);
    let words = format!("kek_data.plugin_meta of row {one} was changed by somebody else: is a barbican still running?");
    assert!(said.error().contains(&words), "{}", said.all());
    // Of its page only their change is there.
    let now = metas(&sandbox);
    let changed: Vec<&String> =
        now.iter().zip(&before).filter(|(now, was)| now != was).map(|(now, _)| &now.0).collect();
    assert_eq!(
        (changed.len(), changed.last()),
        (FIRST_PAGE + PAGE - 3 + 1, Some(&&one)),
        "two pages without the KEKs of simple_crypto"
    );
    // They left the key as it was, and going back takes only the signature to be ours.
    sandbox.run(&["rollback", "--yes"]).expect(0);
    assert!(metas(&sandbox) == before);
}
