//! Backup and restore of a SQLite database through SQLite's own backup interface.
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
    ffi,
};

use super::{
    Access, Error, Result, error,
    migrate::copy_all,
    owner::with_rights,
    rows::fingerprint,
    sqlite::{Sqlite, connect},
};
use crate::crash;

impl Sqlite {
    pub(super) fn backup_to(&self, path: &Path) -> Result<String> {
        copy_to(&self.conn, &self.path, path, ["backup begun", "backup filled"], fingerprint)
    }
}

/// Copies a database of our own to `path`, as [`Sqlite::backup_to`] does.
pub(super) fn keep(conn: &Connection, path: &Path) -> Result<()> {
    copy_to(conn, path, path, ["states begun", "states filled"], |_| Ok(()))
}

/// Copies the database that is open from `source`, and returns what `look` sees in the copy. `points` are crash points.
fn copy_to<T>(
    conn: &Connection,
    source: &Path,
    path: &Path,
    points: [&str; 2],
    look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T> {
    // Under its own name only when it is whole: a crash leaves nothing that looks like a backup.
    let partial = partial(path);
    remove(&partial)?;
    remove_companions(&partial)?;
    let seen = copy_through(conn, source, &partial, path, points, look);
    if seen.is_err() {
        // A disk that was too small for the backup needs the room. The error that matters is the first one.
        let _ = remove(&partial).and_then(|()| remove_companions(&partial));
    }
    seen
}

fn copy_through<T>(
    conn: &Connection,
    source: &Path,
    partial: &Path,
    path: &Path,
    [begun, filled]: [&str; 2],
    look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial);
    let file = file.map_err(|e| error::io(partial, "cannot be created", e))?;
    crash::point(begun);
    let mut copy = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE, Duration::ZERO)?;
    copy_all(conn, &mut copy).map_err(|e| {
        let error = error::sqlite(partial, "cannot be written", e);
        // Only the source can be in use by others.
        if matches!(error, Error::Locked { .. }) { Error::Locked { path: source.to_owned() } } else { error }
    })?;
    let seen = look(&copy).map_err(|e| error::sqlite(partial, "cannot be read back", e))?;
    copy.close().map_err(|(_, e)| error::sqlite(partial, "cannot be closed", e))?;
    remove_companions(partial)?;
    crash::point(filled);
    file.sync_all().map_err(|e| error::io(partial, "cannot be synced", e))?;
    // What an older backup of this name left behind must not be taken for part of this one.
    remove_companions(path)?;
    #[expect(clippy::disallowed_methods, reason = "file and directory are synced here")]
    fs::rename(partial, path).map_err(|e| error::io(path, "cannot be put in place", e))?;
    sync_directory(path)?;
    Ok(seen)
}

/// Restores `backup` into the file `path` that is there, in one SQLite transaction. The inode stays, so that
/// owner, mode and hard links stay, and a leftover journal or `-wal` is settled by SQLite before anything is
/// written, instead of being applied to the restored pages. A file so damaged that SQLite does not
/// recognise it is emptied first.
pub(super) fn restore(path: &Path, backup: &Path, busy_timeout: Duration) -> Result<String> {
    let source = open_backup(backup)?;
    let wanted = fingerprint(&source).map_err(|e| error::sqlite(backup, "cannot be read", e))?;
    // The backup is ours and open; the rest is the database's owner's.
    let restored = with_rights(path, || restore_from(path, &source, busy_timeout))?;
    if restored != wanted {
        return Err(Error::RestoreDiffers { path: path.to_owned(), backup: backup.to_owned() });
    }
    Ok(restored)
}

/// Returns the fingerprint of what is there then.
fn restore_from(path: &Path, source: &Connection, busy_timeout: Duration) -> Result<String> {
    let mut target = match Sqlite::open(path, Access::ReadWrite, busy_timeout) {
        Ok(target) => target,
        Err(Error::NotADatabase { .. } | Error::Corrupt { .. }) if path.is_file() => {
            empty(path)?;
            Sqlite::open(path, Access::ReadWrite, busy_timeout)?
        }
        Err(other) => return Err(other),
    };
    copy_pieces(source, &mut target.conn).map_err(target.fail("cannot be restored"))?;
    crash::point("database restored");
    let restored = target.fingerprint()?;
    target.checkpoint()?;
    target.conn.close().map_err(|(_, e)| error::sqlite(path, "cannot be closed", e))?;
    let file = File::open(path).map_err(|e| error::io(path, "cannot be opened", e))?;
    file.sync_all().map_err(|e| error::io(path, "cannot be synced", e))?;
    sync_directory(path)?;
    Ok(restored)
}

impl Sqlite {
    /// Moves a write-ahead log, if there is one, into the file itself.
    fn checkpoint(&self) -> Result<()> {
        let log = || self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match log().map_err(self.fail("cannot be synced"))? {
            0 => Ok(()),
            _ => Err(Error::Locked { path: self.path.clone() }),
        }
    }
}

/// Copies a database that nobody writes to, a piece at a time: all of it is one transaction of the target.
fn copy_pieces(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    const PAGES: i32 = 64;
    let copy = Backup::new(from, to)?;
    loop {
        match copy.step(PAGES)? {
            StepResult::Done => return Ok(()),
            StepResult::More => crash::point("pages restored"),
            // Busy or locked, after the busy timeout.
            _ => return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
        }
    }
}

/// Opens a backup so that reading it leaves no trace beside it, also where the database was in WAL mode.
pub(super) fn open_backup(backup: &Path) -> Result<Connection> {
    if !backup.is_file() {
        return Err(Error::Missing { path: backup.to_owned() });
    }
    let mut uri = OsString::from("file:");
    for byte in backup.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte).to_string());
            }
            other => uri.push(format!("%{other:02x}")),
        }
    }
    uri.push("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let fail = |e| error::sqlite(backup, "cannot be opened", e);
    #[expect(clippy::disallowed_methods, reason = "a URI: connect() opens plain names only")]
    let conn = Connection::open_with_flags(uri, flags).map_err(fail)?;
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(fail)?;
    Ok(conn)
}

fn empty(path: &Path) -> Result<()> {
    remove_companions(path)?;
    let file = OpenOptions::new().write(true).open(path).map_err(|e| error::io(path, "cannot be opened", e))?;
    file.set_len(0).and_then(|()| file.sync_all()).map_err(|e| error::io(path, "cannot be emptied", e))
}

/// Hidden, and with the ending of everything of ours that is half written, by which a later run finds it.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".keymgr-upgrade");
    path.with_file_name(name)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove_companions(path: &Path) -> Result<()> {
    ["-journal", "-wal", "-shm"].iter().try_for_each(|suffix| remove(&beside(path, suffix)))
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(error::io(path, "cannot be removed", e)),
        _ => Ok(()),
    }
}

pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(parent).map_err(|e| error::io(parent, "cannot be opened", e))?;
    directory.sync_all().map_err(|e| error::io(parent, "cannot be synced", e))
}
