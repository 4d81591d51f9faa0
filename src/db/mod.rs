//! Barbican's database: its revision, its shape, its rows, and how to migrate, back up and restore it.
//!
//! The only module that knows a database driver. One variant of [`Inner`] a dialect; there is no trait.
mod backup;
mod catalog;
mod chain;
mod direct;
mod dump;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod guard;
mod hex;
mod inventory;
mod known;
mod ledger;
mod lock;
mod migrate;
mod owner;
mod pages;
mod precondition;
mod rows;
mod scratch;
mod server;
mod shape;
mod sqlite;
mod states;
mod url;
mod wire;
mod writers;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

pub use chain::{Precondition, Revision, between, chain, head, position};
pub use direct::{pooler, same};
pub use dump::{DumpError, FIRST, Part, Problem, shell_word};
pub use error::{Error, Result};
pub use hex::{HexColumn, decode_hex_text, is_hex_text};
pub use ledger::Ledger;
pub use lock::{Claim, Holder, Lock, holder, unlock};
pub use pages::{AHEAD, Change, Cursor, FIRST_PAGE, PAGE, TextColumn};
pub use scratch::{create, remove};
pub use server::Kept;
pub use shape::{Column, ForeignKey, Index, Shape, Table};
pub use states::{Kind, State, States, Which};
pub use url::{Dialect, Url};
pub use wire::refuse_borrowed;
pub use writers::{Addresses, Origin, Visitor, Visitors, visitors};

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looks only; the file is never written.
    ReadOnly,
    /// May write; an existing file is never replaced and a missing one never created.
    ReadWrite,
}

/// What to do with secret consumers whose project no longer exists, when 8c74e2d7f1ff adds the foreign key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orphans {
    /// They stand in the way, and are listed.
    #[default]
    Refuse,
    /// Their `project_id` becomes NULL.
    Null,
}

/// On whose word a revision is written to `alembic_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The live shape is one of those known for the revision, or it is an error.
    Verified,
    /// The operator's.
    WithoutProof,
}

/// How the live schema compares with those known for a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Name of the known shape that it equals.
    pub matches: Option<String>,
    /// Every difference from the nearest known shape; empty if one matches.
    pub differences: Vec<String>,
    /// Differences from a fresh installation that are known and harmless.
    pub leftovers: Vec<String>,
    /// The next revision, where the schema is what a migration to it that stopped half-way left behind, and leads on.
    pub half_done: Option<String>,
    /// What is there besides (tables, indexes, views, triggers of the operator's own): no obstacle.
    pub extras: Vec<String>,
}

/// A precondition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offence {
    /// The precondition's id.
    pub id: String,
    /// What is wrong, one line.
    pub title: String,
    /// The offending rows, `column=value, ...` each.
    pub rows: Vec<String>,
    /// What to do.
    pub remedy: String,
}

impl Offence {
    /// Id, title and the number of rows, on one line.
    #[must_use]
    pub fn line(&self) -> String {
        let rows = if self.rows.len() == 1 { "row" } else { "rows" };
        format!("{}: {} ({} {rows})", self.id, self.title, self.rows.len())
    }
}

/// What a migration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// The revisions that ran, in order; empty if there was nothing to do.
    pub revisions: Vec<String>,
    /// Rows per table before.
    pub before: BTreeMap<String, u64>,
    /// Rows per table after.
    pub after: BTreeMap<String, u64>,
    /// References that pointed nowhere before and still do.
    pub dangling: Vec<String>,
}

/// A row of `kek_data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekRow {
    /// `kek_data.id`.
    pub id: String,
    /// The crypto plugin that made it: decides which rules apply to the row.
    pub plugin_name: String,
    /// The project (`tenant_id` up to Juno).
    pub project_id: String,
    /// Soft-deleted.
    pub deleted: bool,
    /// Used for new secrets.
    pub active: bool,
    /// The plugin's own JSON, with the wrapped key for p11.
    pub plugin_meta: Option<String>,
}

/// A row of `encrypted_data`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// `encrypted_data.id`.
    pub id: String,
    /// The secret it belongs to.
    pub secret_id: String,
    /// The KEK it is encrypted under.
    pub kek_id: String,
    /// The datum or its secret is soft-deleted.
    pub deleted: bool,
    /// Base64 of the ciphertext.
    pub cypher_text: Option<String>,
    /// The plugin's own JSON for this datum (initialisation vector, mechanism).
    pub kek_meta_extended: Option<String>,
}

impl fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRow")
            .field("id", &self.id)
            .field("secret_id", &self.secret_id)
            .field("kek_id", &self.kek_id)
            .field("deleted", &self.deleted)
            .finish_non_exhaustive()
    }
}

/// A row of `encrypted_data` without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaRow {
    /// `encrypted_data.id`.
    pub id: String,
    /// The secret it belongs to.
    pub secret_id: String,
    /// The plugin's own JSON for this datum.
    pub kek_meta_extended: Option<String>,
}

/// How many secrets a secret store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreCount {
    /// The store's name as written in `secret_store_metadata` under `plugin_name`.
    pub plugin_name: String,
    /// Secrets that are not soft-deleted.
    pub live: u64,
    /// Soft-deleted ones.
    pub deleted: u64,
}

/// An open database.
#[derive(Debug)]
pub struct Database {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Sqlite(owner::Owned),
    Server(server::Server),
}

impl Database {
    /// Opens an existing database. `sqlite_path` is the file, resolved by the caller (working directory,
    /// sandbox root); `wait` is how long to wait for others' locks, and for a server to answer.
    pub fn open(url: &Url, sqlite_path: &Path, access: Access, wait: Duration) -> Result<Self> {
        match url.dialect() {
            Dialect::Sqlite => Self::open_file(sqlite_path, access, wait),
            Dialect::Postgresql | Dialect::Mysql => {
                Ok(Self { inner: Inner::Server(server::Server::open(url, access, wait)?) })
            }
        }
    }

    /// Opens a database on a server to look at it, in the session that is `kept` for that where it still answers and nobody is using it.
    pub fn look(url: &Url, wait: Duration, kept: &Kept) -> Result<Self> {
        Ok(Self { inner: Inner::Server(server::Server::look(url, wait, kept)?) })
    }

    /// Opens an existing SQLite file.
    pub fn open_file(path: &Path, access: Access, busy_timeout: Duration) -> Result<Self> {
        let inner = Inner::Sqlite(owner::Owned::open(path, access, busy_timeout)?);
        Ok(Self { inner })
    }

    /// Undoes the transaction that a killed process left in a SQLite file, and removes its journal: one that is
    /// about to look only must not, and cannot. A live process's transaction is [`Error::Locked`].
    pub fn settle(path: &Path, busy_timeout: Duration) -> Result<()> {
        owner::with_rights(path, || sqlite::settle(path, busy_timeout))
    }

    /// Creates a SQLite file, mode 0600, with the schema of a fresh installation at `revision`.
    pub fn create(path: &Path, revision: &str) -> Result<Self> {
        let inner = Inner::Sqlite(owner::Owned::create(path, revision)?);
        Ok(Self { inner })
    }

    /// Which database it is.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match &self.inner {
            Inner::Sqlite(_) => Dialect::Sqlite,
            Inner::Server(server) => server.wire.dialect(),
        }
    }

    /// The file, for SQLite.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Some(sqlite.path().clone()),
            Inner::Server(_) => None,
        }
    }

    /// What errors call it: the file, or the URL without a password.
    fn shown(&self) -> String {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.path().display().to_string(),
            Inner::Server(server) => server.wire.url().to_owned(),
        }
    }

    /// How much room it takes, in bytes, as the file system or the server's catalog says.
    pub fn size(&self) -> Result<u64> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.size(),
            Inner::Server(server) => server.size(),
        }
    }

    /// What `alembic_version` says. Two rows or an unknown id are errors.
    pub fn revision(&self) -> Result<Ledger> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.revision(),
            Inner::Server(server) => server.revision(),
        }
    }

    /// Whether there is no table at all, `alembic_version` aside.
    pub fn is_empty_schema(&self) -> Result<bool> {
        Ok(self.shape()?.tables.is_empty())
    }

    /// The live schema, `alembic_version` aside.
    pub fn shape(&self) -> Result<Shape> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.shape(),
            Inner::Server(server) => server.shape(),
        }
    }

    /// Compares the live schema with those known for `revision`.
    pub fn verify(&self, revision: &str) -> Result<Verification> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.verify(revision),
            Inner::Server(server) => server.verify(revision),
        }
    }

    /// Why a difference from a fresh installation is known, in words, where it is.
    #[must_use]
    pub fn why(&self, leftover: &str) -> Option<&'static str> {
        known::why(leftover, self.dialect())
    }

    /// Whether the way from the live schema to that of `to` is known: from a shape known for `from`, and on servers also from what a migration
    /// left half done.
    pub fn leads_to(&self, from: &str, to: &str) -> Result<()> {
        match &self.inner {
            Inner::Sqlite(sqlite) => match sqlite.reading()?.verify(from)? {
                Verification { matches: Some(_), .. } => Ok(()),
                Verification { differences, .. } => Err(Error::UnknownShape { revision: from.to_owned(), differences }),
            },
            Inner::Server(server) => server.leads_to(from, to),
        }
    }

    /// Writes `revision` to `alembic_version`, which is created where absent. With [`Proof::Verified`]
    /// only if the live shape is one known for it, else [`Error::UnknownShape`].
    pub fn stamp(&mut self, revision: &str, proof: Proof) -> Result<()> {
        match &mut self.inner {
            Inner::Sqlite(sqlite) => sqlite.writing()?.stamp(revision, proof),
            Inner::Server(server) => server.stamp(revision, proof),
        }
    }

    /// The statements that [`Self::migrate`] will run, revision by revision, found by running them on an
    /// empty copy of the live schema, or on a model of it. `from` is `None` for a database without tables.
    pub fn migration_sql(&self, from: Option<&str>, to: &str) -> Result<Vec<(String, Vec<String>)>> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.migration_sql(from, to),
            Inner::Server(server) => server.migration_sql(from, to),
        }
    }

    /// The rows that stand in the way of the way from `from` to `to`. Reads only.
    pub fn preconditions(&self, from: Option<&str>, to: &str, orphans: Orphans) -> Result<Vec<Offence>> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.preconditions(from, to, orphans),
            Inner::Server(server) => server.preconditions(from, to, orphans),
        }
    }

    /// Takes the database from `from` to `to`, `alembic_version` included: in one transaction, except on MySQL and MariaDB, which have none
    /// for this. Any doubt (unknown shape, a row, value, index or reference that would be lost) rolls all of it back, or there stops before
    /// anything is done where that can be told beforehand; what stopped half-way is taken up again.
    pub fn migrate(&mut self, from: Option<&str>, to: &str, orphans: Orphans) -> Result<Migrated> {
        match &mut self.inner {
            Inner::Sqlite(sqlite) => sqlite.writing()?.migrate(from, to, orphans),
            Inner::Server(server) => server.migrate(from, to, orphans),
        }
    }

    /// SHA-256, in hexadecimal, over schema and every row of every table (`alembic_version` included),
    /// independent of the order of rows and columns.
    pub fn fingerprint(&self) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.fingerprint(),
            Inner::Server(server) => server.fingerprint(None),
        }
    }

    /// SHA-256, in hexadecimal, over the schema of Barbican's tables: no row is in it, `alembic_version` is not, and nothing of the operator's own.
    pub fn schema_digest(&self) -> Result<String> {
        let (shape, known) = (self.shape()?, dump::known_tables(self.dialect())?);
        let mut hash = Sha256::new();
        for (name, table) in shape.tables.iter().filter(|(name, _)| known.contains(*name)) {
            hash.update(table.canonical(name));
            hash.update(b"\n\n");
        }
        Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Rows per table, `alembic_version` included.
    pub fn row_counts(&self) -> Result<BTreeMap<String, u64>> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.row_counts(),
            Inner::Server(server) => server.row_counts(),
        }
    }

    /// Copies the database to `path`, mode 0600, synced with its directory, and returns the fingerprint of the
    /// copy as read back. A copy that was there is replaced; an interrupted one never bears the name.
    pub fn backup_to(&self, path: &Path) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.backup_to(path),
            Inner::Server(server) => server.backup_to(path, None),
        }
    }

    /// The tables that a migration from `from` to `to` touches; `None` where a copy of these alone could not be put back: SQLite's is of the file.
    pub fn touched(&self, from: &str, to: &str) -> Result<Option<Part>> {
        match &self.inner {
            Inner::Sqlite(_) => Ok(None),
            Inner::Server(server) => server.touched(from, to).map(Some),
        }
    }

    /// As [`Self::backup_to`], of these tables of a database on a server alone, and with their fingerprint.
    pub fn backup_part_to(&self, path: &Path, part: &Part) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Err(Error::NotADatabase { path: sqlite.path().clone() }),
            Inner::Server(server) => server.backup_to(path, Some(part)),
        }
    }

    /// As [`Self::restore_from`], of a dump that [`Self::backup_part_to`] took: all other tables stay as they are.
    pub fn restore_part_from(&self, backup: &Path, part: &Part) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Err(Error::NotADatabase { path: sqlite.path().clone() }),
            Inner::Server(server) => server.restore_from(backup, Some(part)),
        }
    }

    /// As [`Self::fingerprint`], of these tables of a database on a server alone.
    pub fn fingerprint_of(&self, part: &Part) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.fingerprint(),
            Inner::Server(server) => server.fingerprint(Some(&part.tables)),
        }
    }

    /// Copies the database to `path`, mode 0600, while others work with it. Nothing is locked for longer than SQLite's own copy takes, and nothing
    /// is tried or made on a server.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.backup_to(path).map(drop),
            Inner::Server(server) => server.copy_to(path),
        }
    }

    /// Loads a dump that [`Self::copy_to`] or [`Self::backup_to`] made into an empty database on a server: whatever is there already is an error.
    pub fn fill_from(&self, dump: &Path) -> Result<()> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Err(Error::NotADatabase { path: sqlite.path().clone() }),
            Inner::Server(server) => server.fill_from(dump),
        }
    }

    /// Takes away Barbican's tables from a database on a server.
    pub fn clear(&self) -> Result<()> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Err(Error::NotADatabase { path: sqlite.path().clone() }),
            Inner::Server(server) => server.clear(),
        }
    }

    /// Restores `backup` into the existing file `path`, whose inode, owner and mode stay, and proves by
    /// the fingerprint, which is returned, that it is the backup's content. May be repeated after a crash.
    pub fn restore(path: &Path, backup: &Path, busy_timeout: Duration) -> Result<String> {
        backup::restore(path, backup, busy_timeout)
    }

    /// Restores a dump that [`Self::backup_to`] took of a database on a server, Barbican's tables only, and returns the
    /// fingerprint of what is there then. May be repeated after a crash.
    pub fn restore_from(&self, backup: &Path) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Err(Error::NotADatabase { path: sqlite.path().clone() }),
            Inner::Server(server) => server.restore_from(backup, None),
        }
    }

    /// Everything that keeps a backup from being taken, or from being restored: programs, privileges, what depends on the
    /// tables.
    pub fn backup_problems(&self) -> Result<Vec<Problem>> {
        match &self.inner {
            Inner::Sqlite(_) => Ok(Vec::new()),
            Inner::Server(server) => server.backup_problems(),
        }
    }

    /// The product and version that serves the database, for people.
    pub fn server(&self) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(_) => Ok(format!("SQLite {}", rusqlite::version())),
            Inner::Server(server) => server.version(),
        }
    }

    /// The shell commands that restore the backup `file` by hand, run in its directory. No password is in them.
    pub fn restore_commands(&self, file: &str) -> Result<String> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Ok(dump::sqlite_commands(sqlite.path(), file)),
            Inner::Server(server) => server.restore_commands(file),
        }
    }

    /// What the user of the URL may not do, though a migration has to, where it would otherwise be found half-way.
    pub fn missing_privileges(&self) -> Result<Vec<Problem>> {
        match &self.inner {
            Inner::Sqlite(_) => Ok(Vec::new()),
            Inner::Server(server) => server.missing_privileges(),
        }
    }

    /// Shell commands for whoever works by hand: one that runs the SQL that it reads, stopping at the first error, and one that copies the
    /// database into the directory `$backup`. No password is in them.
    pub fn by_hand(&self) -> Result<(String, String)> {
        match &self.inner {
            Inner::Sqlite(sqlite) => {
                let file = shell_word(&sqlite.path().display().to_string());
                Ok((format!("sqlite3 {file}"), format!("sqlite3 {file} \".backup '$backup/database.sqlite'\"")))
            }
            Inner::Server(server) => server.by_hand(),
        }
    }

    fn replace(&mut self, table: &str, column: &str, id: &str, old: Option<&str>, new: Option<&str>) -> Result<bool> {
        match &mut self.inner {
            Inner::Sqlite(sqlite) => sqlite.writing()?.replace(table, column, id, old, new),
            Inner::Server(server) => server.replace(table, column, id, old, new),
        }
    }

    /// Runs `work` in one transaction: committed if it succeeds, rolled back if it fails.
    pub fn transaction<T, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        match &self.inner {
            Inner::Sqlite(sqlite) => sqlite.reading()?.begin()?,
            Inner::Server(server) => server.begin()?,
        }
        match work(self) {
            Ok(value) => {
                match &self.inner {
                    Inner::Sqlite(sqlite) => sqlite.reading()?.commit()?,
                    Inner::Server(server) => server.commit()?,
                }
                Ok(value)
            }
            Err(why) => {
                match &self.inner {
                    Inner::Sqlite(sqlite) => sqlite.reading()?.rollback(),
                    Inner::Server(server) => server.rollback(),
                }
                Err(why)
            }
        }
    }
}
