//! With whose rights a SQLite file is worked on.
//!
//! SQLite makes files beside the database and follows links in their place. Whoever owns the directory can put such links there, to have root
//! write elsewhere. So root takes the rights of that user for as long as SQLite works (setfsuid(2): what can be opened, and whose it is when it
//! is made), and what belongs to others is out of reach.
use std::{
    fs,
    io::ErrorKind,
    ops::{Deref, DerefMut},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, geteuid, getgroups, setfsgid, setfsuid, setgroups};
use rusqlite::Connection;
use rustix::fs::{Mode, OFlags};

use super::{Access, Error, Result, error, sqlite::Sqlite};

/// What SQLite puts beside a database.
const BESIDE: [&str; 3] = ["-journal", "-wal", "-shm"];

/// Others may write there.
const OTHERS_WRITE: u32 = 0o022;

/// Who can put files beside a database, where that is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Owner {
    /// The owner of the file's directory; where that is root and others may write there, the file's. `None` where we are not root, where only
    /// root can, and where they cannot get there, as into an image of root's.
    pub(super) fn of(path: &Path) -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = fs::metadata(parent).ok()?;
        let uid = match directory.uid() {
            0 if directory.mode() & OTHERS_WRITE != 0 => fs::symlink_metadata(path).ok()?.uid(),
            uid => uid,
        };
        if uid == 0 {
            return None;
        }
        let gid = Gid::from_raw(directory.gid());
        let owner = Self { uid: uid.into(), gid, groups: vec![gid] };
        let rights = owner.rights(parent).ok()?;
        let reached =
            rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).is_ok();
        drop(rights);
        reached.then_some(owner)
    }

    /// Takes their rights in the file system, until the answer is dropped. Within themselves they are taken once.
    pub(super) fn rights(&self, path: &Path) -> Result<Rights> {
        let fail = |e: nix::Error| error::io(path, "cannot be worked on with its owner's rights", e.into());
        let before = Owner { uid: asked(), gid: Gid::from_raw(0), groups: getgroups().map_err(fail)? };
        if before.uid == self.uid {
            return Ok(Rights(None));
        }
        setgroups(&self.groups).map_err(fail)?;
        let rights = Rights(Some(Owner { gid: setfsgid(self.gid), ..before }));
        setfsuid(self.uid);
        if asked() != self.uid {
            return Err(fail(nix::Error::EPERM));
        }
        Ok(rights)
    }
}

/// The user that files are opened as. An id that there is not changes nothing.
fn asked() -> Uid {
    setfsuid(Uid::from_raw(u32::MAX))
}

/// The rights of an [`Owner`], as long as it lives; with what we had before.
#[derive(Debug)]
pub(super) struct Rights(Option<Owner>);

impl Drop for Rights {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            setfsuid(before.uid);
            setfsgid(before.gid);
            if let Err(error) = setgroups(&before.groups) {
                log::error!("cannot take back our own groups: {error}");
            }
        }
    }
}

/// An open database, whose file is touched with its owner's rights only.
#[derive(Debug)]
pub(super) struct Owned {
    owner: Option<Owner>,
    sqlite: Sqlite,
}

impl Owned {
    pub(super) fn open(path: &Path, access: Access, busy_timeout: std::time::Duration) -> Result<Self> {
        let owner = Owner::of(path);
        let _rights = owner.as_ref().map(|owner| owner.rights(path)).transpose()?;
        beside(path)?;
        let sqlite = Sqlite::open(path, access, busy_timeout)?;
        Ok(Self { owner, sqlite })
    }

    pub(super) fn create(path: &Path, revision: &str) -> Result<Self> {
        // The file is not there yet.
        let owner = Owner::of(path);
        let _rights = owner.as_ref().map(|owner| owner.rights(path)).transpose()?;
        beside(path)?;
        let sqlite = Sqlite::create(path, revision)?;
        Ok(Self { owner, sqlite })
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.sqlite.path
    }

    fn rights(&self) -> Result<Option<Rights>> {
        self.owner.as_ref().map(|owner| owner.rights(self.path())).transpose()
    }

    /// To look.
    pub(super) fn reading(&self) -> Result<Acting<&Sqlite>> {
        Ok(Acting { _rights: self.rights()?, sqlite: &self.sqlite })
    }

    /// To write.
    pub(super) fn writing(&mut self) -> Result<Acting<&mut Sqlite>> {
        Ok(Acting { _rights: self.rights()?, sqlite: &mut self.sqlite })
    }

    /// The copy is ours, in a directory that nobody else sees; the database has its files open by then, and opens no more.
    pub(super) fn backup_to(&self, copy: &Path) -> Result<String> {
        if self.owner.is_none() {
            return self.sqlite.backup_to(copy);
        }
        self.reading()?.begin_look()?;
        let digest = self.sqlite.backup_to(copy);
        self.reading()?.end_look();
        digest
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Closing may write too: what a write-ahead log holds.
        if let (Some(_), Ok(_rights), Ok(none)) = (&self.owner, self.rights(), Connection::open_in_memory()) {
            drop(std::mem::replace(&mut self.sqlite.conn, none));
        }
    }
}

/// The database, with its owner's rights.
pub(super) struct Acting<T> {
    _rights: Option<Rights>,
    sqlite: T,
}

impl<T: Deref<Target = Sqlite>> Deref for Acting<T> {
    type Target = Sqlite;

    fn deref(&self) -> &Sqlite {
        &self.sqlite
    }
}

impl DerefMut for Acting<&mut Sqlite> {
    fn deref_mut(&mut self) -> &mut Sqlite {
        self.sqlite
    }
}

/// Works on the file at `path` with its owner's rights.
pub(super) fn with_rights<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let owner = Owner::of(path);
    let _rights = owner.as_ref().map(|owner| owner.rights(path)).transpose()?;
    beside(path)?;
    work()
}

/// Refuses what SQLite would follow or wait for in the place of its own files.
fn beside(path: &Path) -> Result<()> {
    for suffix in BESIDE {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let name = PathBuf::from(name);
        match fs::symlink_metadata(&name) {
            Ok(found) if !found.is_file() => return Err(Error::Planted { path: name }),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(error::io(&name, "cannot be looked at", e)),
            _ => {}
        }
    }
    Ok(())
}
