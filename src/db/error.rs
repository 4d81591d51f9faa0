//! What can go wrong with a database, one variant for each case a caller may want to tell apart.
use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, ffi};

use super::Offence;

/// An error of the database. Each names the object; the remedy is in the text where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL does not parse or names what is not supported.
    #[error("the database URL cannot be used: {0}")]
    Url(String),
    /// The file does not exist. It is never created by opening it.
    #[error("{}: no such database file", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is there where a new one was to be made.
    #[error("{}: exists already, and is not overwritten", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{}: not a SQLite database", .path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// What SQLite makes beside a database is something else there, a link for instance.
    #[error("{}: not a file that SQLite made: remove it, and ask who put it there", .path.display())]
    Planted {
        /// What lies there.
        path: PathBuf,
    },
    /// SQLite or its integrity check found damage.
    #[error("{}: the database is damaged: {detail}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// Another process held a lock for longer than the busy timeout.
    #[error("{}: locked by another process: stop what has it open (see `fuser {}`)", .path.display(), .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file, its directory or the file system cannot be written.
    #[error("{}: cannot be written (read-only file, directory or file system)", .path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// A process died in a transaction; only one that may write can undo what it left.
    #[error("{}: a transaction was interrupted, and is undone by the first one who opens the database for writing", .path.display())]
    Interrupted {
        /// The file.
        path: PathBuf,
    },
    /// No room for the change, which was undone.
    #[error("{}: no space left for the database or its journal", .path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {doing}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Any other answer of SQLite.
    #[error("{}: {doing}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: String,
        /// Why not.
        source: rusqlite::Error,
    },
    /// `alembic_version` or the caller names a revision that is not in the chain.
    #[error("revision {0} is not one of Barbican's: a newer release wrote it, or it was mistyped")]
    UnknownRevision(String),
    /// `alembic_version` has more than one row; Barbican's chain never branched.
    #[error("alembic_version holds {} rows ({}): one is right, the other must be deleted by hand", .0.len(), .0.join(", "))]
    TwoHeads(Vec<String>),
    /// The target is older than the start.
    #[error("{to} is older than {from}: a schema is never downgraded, restore a backup instead")]
    Backwards {
        /// Where the database is.
        from: String,
        /// Where it was to go.
        to: String,
    },
    /// The ledger changed between looking and acting, or the caller was wrong.
    #[error("the database is at revision {found}, not at {expected}")]
    NotAt {
        /// What the caller said.
        expected: String,
        /// What `alembic_version` says.
        found: String,
    },
    /// The live schema is none of those known for its revision.
    #[error("the schema is not one of those known for revision {revision}: {}", .differences.join("; "))]
    UnknownShape {
        /// The revision.
        revision: String,
        /// Every difference from the nearest known shape.
        differences: Vec<String>,
    },
    /// Rows that a revision cannot carry over.
    #[error("{} in the way of the migration: {}", if .0.len() == 1 { "a precondition stands" } else { "preconditions stand" }, .0.iter().map(Offence::line).collect::<Vec<_>>().join("; "))]
    Offences(Vec<Offence>),
    /// The migration would have lost something; it was rolled back.
    #[error("revision {revision} was rolled back, since it would lose data: {}", .lost.join("; "))]
    Lost {
        /// The revision.
        revision: String,
        /// What would be missing afterwards.
        lost: Vec<String>,
    },
    /// The migration broke references that held before; it was rolled back.
    #[error("rolled back, since these references would point nowhere: {}", .0.join("; "))]
    BrokenReferences(Vec<String>),
    /// A table or column that Barbican has at every revision is not there.
    #[error("{database}: {what} is missing: is this Barbican's database?")]
    NoObject {
        /// The database.
        database: String,
        /// "table x" or "column x.y".
        what: String,
    },
    /// A row holds what Barbican never writes.
    #[error("{database}: {what}")]
    Unexpected {
        /// The database.
        database: String,
        /// The table, and what is wrong in it.
        what: String,
    },
    /// Something is in the way of a statement; it was not run.
    #[error("revision {revision} cannot run `{statement}`: {why}")]
    InTheWay {
        /// The revision.
        revision: String,
        /// The first line of the statement.
        statement: String,
        /// The thing, and why it cannot be passed.
        why: String,
    },
    /// A migration on MySQL or MariaDB, where nothing can be rolled back, lost something that was there.
    #[error("revision {revision} lost what was there before: keep the services stopped and roll back to the backup: {}", .lost.join("; "))]
    LostForGood {
        /// The revision.
        revision: String,
        /// What is missing.
        lost: Vec<String>,
    },
    /// A backup by client programs, or its restore.
    #[error(transparent)]
    Dump(#[from] super::DumpError),
    /// After a restore the content is not that of the backup.
    #[error("{}: its content is not that of the backup {} after restoring", .path.display(), .backup.display())]
    RestoreDiffers {
        /// The database.
        path: PathBuf,
        /// The backup.
        backup: PathBuf,
    },
    /// No server could be reached: refused, no route, no such host, or no answer in time.
    #[error("{url}: the server cannot be reached: {why}")]
    Unreachable {
        /// The URL, password masked.
        url: String,
        /// What stood in the way.
        why: String,
    },
    /// The server does not let this user in.
    #[error(
        "{url}: the server refuses user {user}: {why}: check user and password of the URL, and what the server allows this host"
    )]
    LoginRefused {
        /// The URL, password masked.
        url: String,
        /// The user.
        user: String,
        /// What the server says.
        why: String,
    },
    /// The server has no such database.
    #[error("{url}: the server has no database {database}: create it, or correct the URL")]
    NoSuchDatabase {
        /// The URL, password masked.
        url: String,
        /// The database.
        database: String,
    },
    /// No TLS as the URL asks for it.
    #[error("{url}: no TLS connection: {why}: check what the URL says of TLS, and what the server has")]
    Tls {
        /// The URL, password masked.
        url: String,
        /// What stood in the way.
        why: String,
    },
    /// The server, or the network, went away in the middle of work. What the last statement did is not known.
    #[error("{url}: the connection was lost ({doing}): {why}: run it again once the server answers")]
    ConnectionLost {
        /// The URL, password masked.
        url: String,
        /// The statement, literals masked.
        doing: String,
        /// What was seen.
        why: String,
    },
    /// Another session held a lock for too long, or the two waited for each other.
    #[error("{url}: another session holds a lock that is needed ({doing}): stop what uses the database")]
    LockTimeout {
        /// The URL, password masked.
        url: String,
        /// The statement, literals masked.
        doing: String,
    },
    /// The user lacks a privilege.
    #[error("{url}: the user may not do this ({doing}): {why}: grant it, or name a user who may")]
    Denied {
        /// The URL, password masked.
        url: String,
        /// The statement, literals masked.
        doing: String,
        /// What the server says.
        why: String,
    },
    /// The server has no room left.
    #[error("{url}: the server's disk is full ({doing}): make room there")]
    ServerDisk {
        /// The URL, password masked.
        url: String,
        /// The statement, literals masked.
        doing: String,
    },
    /// Any other answer of the server.
    #[error("{url}: {doing}: {message} ({code})")]
    Server {
        /// The URL, password masked.
        url: String,
        /// The statement, literals masked.
        doing: String,
        /// SQLSTATE of PostgreSQL, error number of MySQL.
        code: String,
        /// What the server says, without values of rows.
        message: String,
    },
    /// Another run has the lock of the database, and did not give it back in time.
    #[error("{url}: locked for {seconds} s and longer by {holder}")]
    Held {
        /// The URL, password masked.
        url: String,
        /// Who has it.
        holder: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The lock of the database was ours, and is not any more.
    #[error("{url}: the lock of the database was lost: {why}")]
    LockLost {
        /// The URL, password masked.
        url: String,
        /// What was seen.
        why: String,
    },
    /// What is in between lends server sessions for a statement or a transaction.
    #[error(
        "{url}: a pooler in between (PgBouncer, ProxySQL) lends one server session to many, which undoes locks and settings:          write a URL that leads to the server itself into a file, and name it: [database] direct_connection_file"
    )]
    Pooled {
        /// The URL, password masked.
        url: String,
    },
    /// The server takes no writes: a standby, a replica, or one that is kept from it.
    #[error("{url}: the server is read-only ({why}): name the one that is written to")]
    ReadOnlyServer {
        /// The URL, password masked.
        url: String,
        /// How it shows.
        why: &'static str,
    },
    /// Barbican's tables are in another schema than new ones would be made in.
    #[error(
        "{url}: new tables would be made in schema {here}, but tables of Barbican are in {there}: ALTER ROLE ... SET search_path = {there}, or drop the schema that is not used"
    )]
    TwoSchemas {
        /// The URL, password masked.
        url: String,
        /// The first schema of the search path.
        here: String,
        /// A later one.
        there: String,
    },
    /// The node of a Galera cluster cannot be worked on.
    #[error(
        "{url}: this Galera node is {state}, its component {cluster}: it must be Synced and Primary; mend the cluster, or use another node"
    )]
    GaleraNode {
        /// The URL, password masked.
        url: String,
        /// `wsrep_local_state_comment`, or what is set wrong.
        state: String,
        /// `wsrep_cluster_status`.
        cluster: String,
    },
    /// The direct URL does not lead to the database that Barbican uses.
    #[error("{direct} of [database] direct_connection_file is not the same database as {url}: {what} differs")]
    NotTheSame {
        /// The configured URL, password masked.
        url: String,
        /// The direct one, password masked.
        direct: String,
        /// What tells them apart.
        what: &'static str,
    },
}

/// The result of every function of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns an answer of SQLite into the variant a caller can act on.
pub(super) fn sqlite(path: &Path, doing: impl Into<String>, source: rusqlite::Error) -> Error {
    let path = path.to_owned();
    let extended = source.sqlite_error().map_or(0, |e| e.extended_code);
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked { path },
        Some(ErrorCode::NotADatabase) => Error::NotADatabase { path },
        Some(ErrorCode::DatabaseCorrupt) => Error::Corrupt { path, detail: source.to_string() },
        Some(ErrorCode::ReadOnly) => match extended {
            ffi::SQLITE_READONLY_ROLLBACK | ffi::SQLITE_READONLY_RECOVERY => Error::Interrupted { path },
            _ => Error::ReadOnly { path },
        },
        Some(ErrorCode::DiskFull) => Error::DiskFull { path },
        _ => Error::Sqlite { path, doing: doing.into(), source },
    }
}

/// Wraps an answer of the operating system.
pub(super) fn io(path: &Path, doing: &'static str, source: std::io::Error) -> Error {
    let path = path.to_owned();
    if source.kind() == std::io::ErrorKind::StorageFull {
        Error::DiskFull { path }
    } else if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem {
        Error::ReadOnly { path }
    } else {
        Error::Io { path, doing, source }
    }
}
