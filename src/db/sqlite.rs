//! A SQLite database file: opening, ledger, shape, transactions.
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{Access, Error, Ledger, Proof, Result, Shape, Verification, error, known, ledger, position, shape::LEDGER};
use crate::crash;

/// An open file.
#[derive(Debug)]
pub(super) struct Sqlite {
    pub(super) path: PathBuf,
    pub(super) conn: Connection,
}

impl Sqlite {
    pub(super) fn open(path: &Path, access: Access, busy_timeout: Duration) -> Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => {
                return Err(Error::NotADatabase { path: path.to_owned() });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Missing { path: path.to_owned() });
            }
            Err(e) => return Err(error::io(path, "cannot be looked at", e)),
        }
        let flags = match access {
            Access::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Access::ReadWrite => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        // Whoever asks has followed the links; one that is there now was put in between.
        let conn = connect(path, flags | OpenFlags::SQLITE_OPEN_NOFOLLOW, busy_timeout)?;
        let fail = |e| error::sqlite(path, "cannot be opened", e);
        if access == Access::ReadWrite && conn.is_readonly(rusqlite::MAIN_DB).map_err(fail)? {
            // SQLite silently falls back to reading where it may not write.
            return Err(Error::ReadOnly { path: path.to_owned() });
        }
        // The first look at the file: here it shows itself locked, damaged, or something else.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(fail)?;
        Ok(Self { path: path.to_owned(), conn })
    }

    pub(super) fn create(path: &Path, revision: &str) -> Result<Self> {
        position(revision)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let made = made.map_err(|e| {
            let exists = e.kind() == std::io::ErrorKind::AlreadyExists;
            if exists { Error::Exists { path: path.to_owned() } } else { error::io(path, "cannot be created", e) }
        })?;
        give(&made, path)?;
        let new = Self::open(path, Access::ReadWrite, Duration::ZERO).and_then(|mut new| {
            new.migrate(None, revision, super::Orphans::Refuse)?;
            Ok(new)
        });
        if new.is_err() {
            // It was made a moment ago and is empty; the error that matters is the first one.
            let _ = fs::remove_file(path);
        }
        new
    }

    /// Wraps an answer of SQLite with the file and what was being done.
    pub(super) fn fail(&self, doing: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Error {
        let doing = doing.into();
        move |e| error::sqlite(&self.path, doing, e)
    }

    pub(super) fn revision(&self) -> Result<Ledger> {
        if !has_table(&self.conn, LEDGER).map_err(self.fail("cannot read the schema"))? {
            return Ok(Ledger::NoTable);
        }
        let ids = || {
            let mut query = self.conn.prepare("SELECT version_num FROM alembic_version ORDER BY 1")?;
            query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        Ledger::of(ids().map_err(self.fail("cannot read alembic_version"))?)
    }

    pub(super) fn size(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path).map_err(|e| error::io(&self.path, "cannot be looked at", e))?.len())
    }

    pub(super) fn shape(&self) -> Result<Shape> {
        let shape = Shape::read(&self.conn).map_err(self.fail("cannot read the schema"))?;
        Ok(shape.without_ledger())
    }

    pub(super) fn verify(&self, revision: &str) -> Result<Verification> {
        known::verify(&self.shape()?, revision)
    }

    pub(super) fn stamp(&mut self, revision: &str, proof: Proof) -> Result<()> {
        self.begin()?;
        let result = self.stamp_inside(revision, proof).and_then(|()| self.commit());
        if result.is_err() {
            self.rollback();
        }
        result
    }

    fn stamp_inside(&self, revision: &str, proof: Proof) -> Result<()> {
        self.write_ledger(&ledger::stamp(self.revision(), revision, proof, || self.verify(revision))?)
    }

    /// Writes the one row of `alembic_version`.
    pub(super) fn write_ledger(&self, statements: &[String]) -> Result<()> {
        self.conn.execute_batch(&statements.join(";\n")).map_err(self.fail("cannot write alembic_version"))
    }

    /// Starts a transaction that looks: from now on no other file is opened for looking.
    pub(super) fn begin_look(&self) -> Result<()> {
        let begin = || {
            self.conn.execute_batch("BEGIN")?;
            self.conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        };
        begin().map_err(self.fail("cannot be looked at"))
    }

    /// Ends it.
    pub(super) fn end_look(&self) {
        self.rollback();
    }

    /// Starts a transaction that holds the write lock from the first moment.
    pub(super) fn begin(&self) -> Result<()> {
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(self.fail("cannot start a transaction"))?;
        crash::point("transaction begun");
        Ok(())
    }

    /// Commits; if that fails nothing was changed.
    pub(super) fn commit(&self) -> Result<()> {
        crash::point("to commit");
        let done = self.conn.execute_batch("COMMIT").map_err(self.fail("cannot commit"));
        if done.is_err() {
            self.rollback();
        } else {
            crash::point("committed");
        }
        done
    }

    /// Undoes the open transaction. SQLite has done so by itself after some errors; a file whose process
    /// dies here is rolled back by whoever opens it next.
    pub(super) fn rollback(&self) {
        if !self.conn.is_autocommit()
            && let Err(e) = self.conn.execute_batch("ROLLBACK")
        {
            log::error!("{}: cannot roll back: {e}", self.path.display());
        }
    }
}

/// The service must be able to write what we made as root: it belongs to whom the directory belongs.
fn give(made: &fs::File, path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = fs::metadata(parent).map_err(|e| error::io(parent, "cannot be looked at", e))?;
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::fchown(made, Some(directory.uid()), Some(directory.gid()))
        .map_err(|e| error::io(path, "cannot be given to its directory's owner", e))
}

/// Opening for writing plays back a journal that is whole. One whose process died before it had changed a page
/// says nothing and is not looked at, but it stays until somebody writes.
pub(super) fn settle(path: &Path, busy_timeout: Duration) -> Result<()> {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    let journal = Path::new(&journal);
    if !journal.exists() {
        return Ok(());
    }
    let db = Sqlite::open(path, Access::ReadWrite, busy_timeout)?;
    if journal.exists() {
        db.begin()?;
        let same = db.conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
        let same = same.and_then(|version| db.conn.pragma_update(None, "user_version", version));
        same.map_err(db.fail("cannot settle what a killed process left"))?;
        db.commit()?;
    }
    Ok(())
}

/// The one place where a file is opened. Foreign keys are not enforced, as under Barbican itself: a table
/// rebuild drops a table that others refer to. `EXTRA` syncs the directory after the journal is removed,
/// so that a committed transaction stays committed when the power fails.
pub(super) fn connect(path: &Path, flags: OpenFlags, busy_timeout: Duration) -> Result<Connection> {
    let fail = |e| error::sqlite(path, "cannot be opened", e);
    // A relative name could be read as a URI.
    let name =
        if path.is_relative() && !path.as_os_str().is_empty() { Path::new(".").join(path) } else { path.to_owned() };
    #[expect(clippy::disallowed_methods, reason = "the one place where a file is opened")]
    let conn = Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(fail)?;
    conn.busy_timeout(busy_timeout).map_err(fail)?;
    conn.pragma_update(None, "foreign_keys", false).map_err(fail)?;
    conn.pragma_update(None, "legacy_alter_table", false).map_err(fail)?;
    conn.pragma_update(None, "synchronous", "EXTRA").map_err(fail)?;
    Ok(conn)
}

pub(super) fn has_table(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    let query = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(conn.query_row(query, [table], |_| Ok(())).optional()?.is_some())
}

/// A name as SQL writes it; MySQL does so too in the sql_mode that we set.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Orphans;

    #[test]
    fn a_full_disk_is_named_and_undone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.sqlite");
        let mut db = Sqlite::create(&path, "254495565185").unwrap();
        let before = fs::read(&path).unwrap();
        // The limit stands in for the disk: SQLite answers both with the same code.
        let pages: i64 = db.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        let limit = format!("PRAGMA max_page_count = {}", pages + 3);
        db.conn.query_row(&limit, [], |_| Ok(())).unwrap();
        let full = db.migrate(Some("254495565185"), "8c74e2d7f1ff", Orphans::Refuse);
        assert!(matches!(full, Err(Error::DiskFull { path: p }) if p == path));
        assert!(db.conn.is_autocommit());
        assert!(fs::read(&path).unwrap() == before);
    }

    #[test]
    fn a_file_that_cannot_be_created_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone").join("b.sqlite");
        assert!(matches!(Sqlite::create(&path, "kilo"), Err(Error::Io { .. })));
        assert!(!path.exists());
    }
}
