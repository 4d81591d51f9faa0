//! What was found out about rows, in a small SQLite database of our own: more rows than fit in memory, found again by their ids.
//!
//! It is made in a file that has no name and ends with the process; SQLite makes that only where its cache does not do. It can be kept under a name.
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row, params_from_iter};

use super::{Error, Result, backup, error, sqlite::connect};

const SCHEMA: &str = "
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE state (kind INTEGER, id TEXT, of_id TEXT, under TEXT, deleted INTEGER, usable INTEGER, bad INTEGER, name TEXT, verdict TEXT,
                        PRIMARY KEY (kind, id)) WITHOUT ROWID;
";

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of `kek_data`.
    Keks,
    /// Of `encrypted_data`.
    Secrets,
}

impl Kind {
    /// The table's name.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Keks => "kek_data",
            Self::Secrets => "encrypted_data",
        }
    }
}

/// What was found out about a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its id.
    pub id: String,
    /// The project of a KEK, the secret of a datum.
    pub of: String,
    /// The KEK of a datum.
    pub under: String,
    /// Soft-deleted.
    pub deleted: bool,
    /// What it is for can be had of it.
    pub usable: bool,
    /// It cannot, and no repair is known.
    pub bad: bool,
    /// Name of its state.
    pub name: String,
    /// All about it, as JSON.
    pub verdict: String,
}

const COLUMNS: &str = "id, of_id, under, deleted, usable, bad, name, verdict";

impl State {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            of: row.get(1)?,
            under: row.get(2)?,
            deleted: row.get(3)?,
            usable: row.get(4)?,
            bad: row.get(5)?,
            name: row.get(6)?,
            verdict: row.get(7)?,
        })
    }
}

/// Those to be gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// That are usable.
    Usable,
    /// That are bad.
    Bad,
    /// That are in the state of this name.
    Named(&'a str),
}

/// The states of many rows.
#[derive(Debug)]
pub struct States {
    conn: Connection,
}

impl States {
    /// None yet.
    ///
    /// # Errors
    /// If SQLite cannot make it.
    pub fn new() -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let conn = connect(Path::new(""), flags, Duration::ZERO)?;
        conn.execute_batch(SCHEMA).map_err(fail)?;
        Ok(Self { conn })
    }

    /// Those that were kept in the file `path`.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { conn: backup::open_backup(path)? })
    }

    /// Keeps them in the file `path`, mode 0600, synced with its directory. An interrupted copy never bears the name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, path: &Path) -> Result<()> {
        backup::keep(&self.conn, path)
    }

    /// Adds states of rows.
    ///
    /// # Errors
    /// If there is no room for them.
    pub fn add(&self, kind: Kind, states: &[State]) -> Result<()> {
        let work = || {
            self.conn.execute_batch("BEGIN")?;
            let sql = format!("INSERT INTO state (kind, {COLUMNS}) VALUES ({}, ?, ?, ?, ?, ?, ?, ?, ?)", kind as u8);
            let mut insert = self.conn.prepare(&sql)?;
            for s in states {
                insert.execute((&s.id, &s.of, &s.under, s.deleted, s.usable, s.bad, &s.name, &s.verdict))?;
            }
            self.conn.execute_batch("COMMIT")
        };
        work().map_err(fail)
    }

    /// The states of the rows with these ids, as far as they are known.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn find(&self, kind: Kind, ids: &[&str]) -> Result<Vec<State>> {
        let marks = vec!["?"; ids.len()].join(", ");
        let sql = format!("SELECT {COLUMNS} FROM state WHERE kind = {} AND id IN ({marks})", kind as u8);
        let work = || {
            let mut query = self.conn.prepare(&sql)?;
            query.query_map(params_from_iter(ids), State::read)?.collect::<rusqlite::Result<_>>()
        };
        work().map_err(fail)
    }

    /// Hands over states by id, as long as `each` wants more.
    ///
    /// # Errors
    /// If they cannot be read; the error of `each`.
    pub fn each<E: From<Error>>(
        &self,
        kind: Kind,
        which: Which<'_>,
        mut each: impl FnMut(State) -> std::result::Result<bool, E>,
    ) -> std::result::Result<(), E> {
        let (filter, name) = match which {
            Which::Usable => ("usable", ""),
            Which::Bad => ("bad", ""),
            Which::Named(name) => ("name = ?1", name),
        };
        let sql = format!("SELECT {COLUMNS} FROM state WHERE kind = {} AND {filter} ORDER BY id", kind as u8);
        let mut query = self.conn.prepare(&sql).map_err(fail)?;
        let name: &[&str] = if name.is_empty() { &[] } else { &[name] };
        for state in query.query_map(params_from_iter(name), State::read).map_err(fail)? {
            if !each(state.map_err(fail)?)? {
                break;
            }
        }
        Ok(())
    }

    /// Hands over each bad KEK, by id, with the number of bad secrets under it, and of those that are not soft-deleted.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn each_bad_kek<E: From<Error>>(
        &self,
        mut each: impl FnMut(State, u64, u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let columns: Vec<String> = COLUMNS.split(", ").map(|column| format!("k.{column}")).collect();
        let sql = format!(
            "SELECT {}, count(s.id) FILTER (WHERE s.bad), count(s.id) FILTER (WHERE NOT s.deleted)
             FROM state k LEFT JOIN state s ON s.kind = 1 AND s.under = k.id WHERE k.kind = 0 AND k.bad GROUP BY k.id ORDER BY k.id",
            columns.join(", ")
        );
        let mut query = self.conn.prepare(&sql).map_err(fail)?;
        let count = |row: &Row<'_>, n| row.get::<_, i64>(n).map(i64::unsigned_abs);
        let read = |row: &Row<'_>| Ok((State::read(row)?, count(row, 8)?, count(row, 9)?));
        for found in query.query_map([], read).map_err(fail)? {
            let (state, bad, live) = found.map_err(fail)?;
            each(state, bad, live)?;
        }
        Ok(())
    }

    /// Whether the KEK of this id is bad.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn has_bad_kek(&self, id: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM state WHERE kind = 0 AND id = ? AND bad)";
        self.conn.prepare(sql).and_then(|mut query| query.query_row([id], |row| row.get(0))).map_err(fail)
    }
}

fn fail(why: rusqlite::Error) -> Error {
    error::sqlite(Path::new("the states of keys and secrets"), "cannot be kept or read", why)
}
