//! Files of the host or of an image: read, replaced atomically, restored. Everything stays inside the root directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::crash;

mod walk;

use walk::Place;

/// The most that is read of a file of somebody else's than root and us, in bytes: whose owner makes it larger must not take all memory. What we
/// keep ourselves grows with the database.
const LARGEST: u64 = 64 << 20;

/// SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Owner and mode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// User id of the owner.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What was read of a regular file.
pub struct Contents {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Owner and mode.
    pub attributes: Attributes,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Configuration files hold passwords: never their bytes.
        write!(f, "Contents({} bytes, {:?})", self.bytes.len(), self.attributes)
    }
}

/// The directory below which all paths are taken: `/`, or an image.
///
/// Symbolic links, also absolute ones and those through `..`, are resolved as if this directory were `/`, so nothing outside of it is ever touched: by
/// the kernel (openat2 with RESOLVE_IN_ROOT), or name by name where it has no such call, and for files that are read or written.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    path: PathBuf,
    resolved_by: Resolver,
}

/// Who resolves paths in a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolver {
    /// openat2(2), from Linux 5.6 on.
    Openat2,
    /// openat(2), as for everybody: outside of `/` is nothing.
    Openat,
    /// We ourselves.
    Walk,
}

impl Root {
    /// Opens `path` as the root.
    ///
    /// # Errors
    /// If it is not a directory that can be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let given = rustix::fs::stat(path).with_context(|| format!("opening root {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("opening root {}", path.display()))?;
        let named = rustix::fs::stat(&path).with_context(|| format!("opening root {}", path.display()))?;
        if (given.st_dev, given.st_ino) != (named.st_dev, named.st_ino) {
            // The text of /proc/PID/root is "/", and that is this host, not what the link leads to.
            bail!(
                "root {}: a link of /proc leads where no path does; mount the tree, or work inside it",
                path.display()
            );
        }
        let directory = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening root {}", path.display()))?;
        let mut root = Self { directory, path, resolved_by: Resolver::Openat2 };
        match root.at(Path::new("/"), OFlags::PATH, Mode::empty()) {
            // The directory itself may be opened, as was just seen: so this is an old kernel, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {
                root.resolved_by = if root.is_host() { Resolver::Openat } else { Resolver::Walk };
            }
            opened => drop(opened.with_context(|| format!("opening root {}", root.path.display()))?),
        }
        Ok(root)
    }

    /// The root's own path on this host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path of this host as it is inside the root: an image may be moved while a run waits.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.path()).map_or_else(|_| path.to_owned(), |p| Path::new("/").join(p))
    }

    /// Whether this is the running host itself, not an image.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.path == Path::new("/")
    }

    fn at(&self, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        match self.resolved_by {
            Resolver::Openat2 => {}
            Resolver::Openat => return rustix::fs::openat(&self.directory, relative, flags | OFlags::CLOEXEC, mode),
            Resolver::Walk => return walk::open(&self.directory, relative, flags | OFlags::CLOEXEC, mode),
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // A rename or mount anywhere on the machine makes the kernel unsure of a `..`: EAGAIN, see openat2(2). /etc/os-release is such a link.
        let mut tries = 1000;
        loop {
            match rustix::fs::openat2(&self.directory, relative, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) if tries > 0 => tries -= 1,
                opened => return opened,
            }
        }
    }

    /// Reads a regular file; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, is not a regular file, is too large to be a file of anybody's settings, or is led to by a link that somebody turned
    /// there ([`Place::check`]).
    pub fn read(&self, path: &Path) -> Result<Option<Contents>> {
        let reading = || format!("reading {}", path.display());
        let place = match self.place(path) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(e).with_context(reading),
        };
        // Looked at before it is opened: opening a device can do something already.
        let Some(kind) = place.kind else { return Ok(None) };
        let file = if kind == FileType::RegularFile { place.open().with_context(reading)? } else { None };
        let stat = file.as_ref().map(rustix::fs::fstat).transpose().with_context(reading)?;
        let regular = stat.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let (Some(file), Some(stat)) = (file, regular) else { bail!("{} is not a regular file", path.display()) };
        place.check(stat.st_uid, None).with_context(reading)?;
        let mut bytes = Vec::new();
        let ours = [0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid);
        let limit = if ours { u64::MAX } else { LARGEST };
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).with_context(reading)?;
        if u64::try_from(bytes.len())? > limit {
            bail!("{} is larger than {} MiB", path.display(), LARGEST >> 20);
        }
        let attributes = Attributes { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid };
        Ok(Some(Contents { bytes, attributes }))
    }

    /// Reads a text file; `None` if there is none.
    ///
    /// # Errors
    /// As [`Root::read`], or if it is not UTF-8.
    pub fn read_text(&self, path: &Path) -> Result<Option<String>> {
        let Some(contents) = self.read(path)? else { return Ok(None) };
        let text = String::from_utf8(contents.bytes).with_context(|| format!("{} is not UTF-8", path.display()))?;
        Ok(Some(text))
    }

    /// Reads a JSON file of our own, which must be there.
    ///
    /// # Errors
    /// If it is missing or not what it should be.
    pub fn read_json<T: for<'a> serde::Deserialize<'a>>(&self, path: &Path) -> Result<T> {
        let text = self.read_text(path)?.with_context(|| format!("{} is missing", self.shown(path).display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", self.shown(path).display()))
    }

    /// Whether something is there, whatever it is.
    #[must_use]
    pub fn exists(&self, path: &Path) -> bool {
        self.at(path, OFlags::PATH, Mode::empty()).is_ok()
    }

    /// The names in a directory, sorted; none if there is no such directory.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn list(&self, path: &Path) -> Result<Vec<String>> {
        let fd = match self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(e) => return Err(e).with_context(|| format!("reading directory {}", path.display())),
        };
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(8192);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.with_context(|| format!("reading directory {}", path.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where `path` really is on this host after all links are resolved inside the root, for libraries that open files by themselves.
    ///
    /// # Errors
    /// If the file or a directory on the way is missing.
    pub fn real_path(&self, path: &Path) -> Result<PathBuf> {
        let fd = self
            .at(path, OFlags::PATH, Mode::empty())
            .with_context(|| format!("looking for {}", self.shown(path).display()))?;
        link_of(&fd)
    }

    /// The path as the operator would type it on this host.
    #[must_use]
    pub fn shown(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Makes a directory and its parents with `mode`, each synced into its parent.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn make_directory(&self, path: &Path, mode: u32) -> Result<()> {
        let mut done = PathBuf::from("/");
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let parent = done.clone();
            done.push(name);
            let there = self.exists(&done);
            if there && done != path {
                continue;
            }
            let fd = self.directory_fd(&parent)?;
            if there {
                // A kill may have come between its making and this.
                rustix::fs::fsync(&fd).with_context(|| format!("syncing {}", parent.display()))?;
                continue;
            }
            match rustix::fs::mkdirat(&fd, name, Mode::from_raw_mode(mode)) {
                // The mode is meant, whatever the umask is.
                Ok(()) => rustix::fs::chmodat(&fd, name, Mode::from_raw_mode(mode), AtFlags::empty())
                    .with_context(|| format!("making directory {}", self.shown(&done).display()))?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e).with_context(|| format!("making directory {}", self.shown(&done).display())),
            }
            crash::point("directory made");
            rustix::fs::fsync(&fd).with_context(|| format!("syncing {}", parent.display()))?;
        }
        Ok(())
    }

    fn directory_fd(&self, path: &Path) -> Result<OwnedFd> {
        self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .with_context(|| format!("opening directory {}", self.shown(path).display()))
    }

    /// Follows `path` by hand to the directory that really holds it: a linked file is replaced, not its link.
    fn place(&self, path: &Path) -> rustix::io::Result<Place> {
        Place::find(&self.directory, path)
    }

    /// Where a file really is on this host, for a library that opens it by itself and may write there.
    ///
    /// # Errors
    /// If it is missing, or is led to by a link that somebody turned there ([`Place::check`]).
    pub fn file_path(&self, path: &Path) -> Result<PathBuf> {
        let looking = || format!("looking for {}", self.shown(path).display());
        let place = self.place(path).with_context(looking)?;
        let stat =
            rustix::fs::statat(&place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW).with_context(looking)?;
        place.check(stat.st_uid, Some(rustix::fs::fstat(&place.directory)?.st_uid)).with_context(looking)?;
        Ok(link_of(&place.directory)?.join(place.name))
    }

    /// Writes a file as a whole, atomically: after a crash it has its old or its new contents. The new contents and the directory are synced.
    ///
    /// Of a file that exists, owner, mode and extended attributes (ACL, SELinux label) are kept; a new one gets `attributes`.
    ///
    /// # Errors
    /// If any step fails; the old contents are then in place.
    pub fn write(&self, path: &Path, bytes: &[u8], attributes: Attributes) -> Result<()> {
        self.write_from(path, attributes, |file| Ok(file.write_all(bytes)?))
    }

    /// The same for contents that are made piece by piece, by `make`.
    ///
    /// # Errors
    /// As [`Root::write`]; the error of `make`.
    pub fn write_from(
        &self,
        path: &Path,
        attributes: Attributes,
        make: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        self.write_inner(path, attributes, make).with_context(|| format!("writing {}", self.shown(path).display()))
    }

    fn write_inner(
        &self,
        path: &Path,
        attributes: Attributes,
        make: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        let place = self.place(path)?;
        let old = place.open()?;
        let owner = rustix::fs::fstat(&place.directory)?.st_uid;
        let of = old.as_ref().map_or(Ok(owner), |old| rustix::fs::fstat(old).map(|stat| stat.st_uid))?;
        place.check(of, Some(owner))?;
        let (directory, name) = (place.opened()?, place.name);
        let temporary = temporary_name(&name);
        discard(&directory, &temporary)?;
        let fd = rustix::fs::openat(
            &directory,
            &temporary,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?;
        crash::point("file begun");
        let written = fill(fd, make, attributes, old.as_ref()).and_then(|()| {
            crash::point("file written");
            Ok(rustix::fs::renameat(&directory, &temporary, &directory, &name)?)
        });
        if let Err(error) = written {
            // Best effort: the error that matters is the first one.
            rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty()).ok();
            return Err(error);
        }
        crash::point("file replaced");
        Ok(rustix::fs::fsync(&directory)?)
    }

    /// Removes a file, with what a crash left of writing it, and syncs its directory. No file is no error.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let parent = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
        let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
        if !self.exists(parent) {
            return Ok(());
        }
        let directory = self.directory_fd(parent)?;
        let removing = || format!("removing {}", self.shown(path).display());
        discard(&directory, &temporary_name(name)).with_context(removing)?;
        discard(&directory, name).with_context(removing)?;
        crash::point("file removed");
        Ok(rustix::fs::fsync(&directory)?)
    }

    /// Removes what a crash left of writing the file at `path`, but not the file.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn settle(&self, path: &Path) -> Result<()> {
        let tidying = || format!("tidying beside {}", path.display());
        let place = self.place(path).with_context(tidying)?;
        discard(&place.directory, &temporary_name(&place.name)).with_context(tidying)
    }

    /// Removes what a crash left of writing files in a directory of our own. No directory is no error.
    ///
    /// # Errors
    /// If it cannot be read or something cannot be removed.
    pub fn settle_all(&self, path: &Path) -> Result<()> {
        for name in self.list(path)?.iter().filter(|n| n.starts_with('.') && n.contains(TEMPORARY)) {
            discard(&self.directory_fd(path)?, name.as_ref()).with_context(|| format!("tidying {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes a directory if it is empty; anything else is left alone.
    pub fn remove_empty_directory(&self, path: &Path) {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Ok(directory) = self.directory_fd(parent)
        {
            if rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR).is_ok() {
                // What follows may be synced by itself: it must not be there without this.
                rustix::fs::fsync(&directory).ok();
            }
            crash::point("directory removed");
        }
    }

    /// Removes a directory with all that is in it. Links in it are removed, not followed.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove_tree(&self, path: &Path) -> Result<()> {
        let parent = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
        let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
        // By the open directory: nobody can turn the way to it meanwhile.
        let directory = self.directory_fd(parent)?;
        let real = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        std::fs::remove_dir_all(&real).with_context(|| format!("removing {}", self.shown(path).display()))
    }

    /// Makes `link` point to `target`, atomically.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn link(&self, target: &str, link: &Path) -> Result<()> {
        let parent = link.parent().with_context(|| format!("{} has no directory", link.display()))?;
        let name = link.file_name().with_context(|| format!("{} has no name", link.display()))?;
        let directory = self.directory_fd(parent)?;
        let temporary = temporary_name(name);
        let linking = || format!("linking {}", self.shown(link).display());
        discard(&directory, &temporary).with_context(linking)?;
        rustix::fs::symlinkat(target, &directory, &temporary).with_context(linking)?;
        crash::point("link made");
        rustix::fs::renameat(&directory, &temporary, &directory, name).with_context(linking)?;
        crash::point("link in place");
        Ok(rustix::fs::fsync(&directory)?)
    }

    /// Removes a symbolic link, and syncs its directory. No link is no error.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove_link(&self, link: &Path) -> Result<()> {
        if self.read_link(link).is_none() {
            return Ok(());
        }
        let parent = link.parent().with_context(|| format!("{} has no directory", link.display()))?;
        let name = link.file_name().with_context(|| format!("{} has no name", link.display()))?;
        let directory = self.directory_fd(parent)?;
        rustix::fs::unlinkat(&directory, name, AtFlags::empty())
            .with_context(|| format!("removing {}", self.shown(link).display()))?;
        crash::point("link removed");
        Ok(rustix::fs::fsync(&directory)?)
    }

    /// Where a symbolic link points; `None` if there is none.
    #[must_use]
    pub fn read_link(&self, link: &Path) -> Option<String> {
        let directory = self.directory_fd(link.parent()?).ok()?;
        let target = rustix::fs::readlinkat(&directory, link.file_name()?, Vec::new()).ok()?;
        target.into_string().ok()
    }

    /// Opens a file of our own for appending, made with mode 0600 if it is missing.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn append(&self, path: &Path) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW;
        let fd = self
            .at(path, flags, Mode::from_raw_mode(0o600))
            .with_context(|| format!("opening {}", self.shown(path).display()))?;
        rustix::fs::fsync(self.directory_fd(path.parent().unwrap_or(Path::new("/")))?)?;
        Ok(File::from(fd))
    }

    /// Opens a directory of our own, which nobody else may own or write to.
    ///
    /// # Errors
    /// If it cannot be opened, or is not private.
    pub fn private_directory(&self, path: &Path) -> Result<File> {
        let fd = self.directory_fd(path)?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            bail!("{} is not ours alone: give it to us, with mode 0700", self.shown(path).display());
        }
        Ok(File::from(fd))
    }

    /// Free space of the file system that holds `path`, in bytes, for an unprivileged writer.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn free_space(&self, path: &Path) -> Result<u64> {
        let mut existing = path;
        while !self.exists(existing) {
            existing = existing.parent().context("no such directory")?;
        }
        let stat = rustix::fs::fstatvfs(self.directory_fd(existing)?)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn link_of(fd: &impl AsRawFd) -> Result<PathBuf> {
    Ok(std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?)
}

/// How the names of half written files end.
const TEMPORARY: &str = ".keymgr-upgrade";

/// Always the same for one file, so that what a crash leaves is found again and never accumulates. Whoever writes has the lock of the host.
fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(TEMPORARY);
    temporary
}

fn discard(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn fill(
    fd: OwnedFd,
    make: impl FnOnce(&mut File) -> Result<()>,
    attributes: Attributes,
    old: Option<&File>,
) -> Result<()> {
    let attributes = match old {
        Some(old) => {
            let stat = rustix::fs::fstat(old)?;
            // No bit that gives rights: what is written may come from whoever owns the file.
            Attributes { mode: stat.st_mode & 0o777, uid: stat.st_uid, gid: stat.st_gid }
        }
        None => attributes,
    };
    let mut file = File::from(fd);
    make(&mut file)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(attributes.mode))?;
    if let Some(old) = old {
        copy_extended_attributes(old, &file)?;
    }
    Ok(file.sync_all()?)
}

/// ACLs and security labels are extended attributes: a replaced file without them may be unreadable to the service.
fn copy_extended_attributes(from: &impl AsFd, to: &impl AsFd) -> Result<()> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    for name in names.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 64 * 1024];
        let size = rustix::fs::fgetxattr(from, name, &mut value)?;
        rustix::fs::fsetxattr(to, name, value.get(..size).unwrap_or_default(), XattrFlags::empty())
            .with_context(|| format!("extended attribute {}", String::from_utf8_lossy(name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const NEW: Attributes = Attributes { mode: 0o600, uid: 0, gid: 0 };

    /// A root whose paths the kernel resolves, and one where we do.
    fn sandboxes() -> [(tempfile::TempDir, Root); 2] {
        [Resolver::Openat2, Resolver::Walk].map(|resolved_by| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("etc/real")).unwrap();
            let root = Root::open(dir.path()).unwrap();
            assert_eq!(root.resolved_by, Resolver::Openat2, "this kernel has it");
            (dir, Root { resolved_by, ..root })
        })
    }

    /// Not a race of ours: any rename on the machine, in whatever directory, disturbs the resolution of `..`.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "nothing that has to be kept")]
    fn renames_elsewhere_do_not_disturb() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let [(dir, root), _] = sandboxes();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        std::fs::File::create(dir.path().join("usr/lib/os-release")).unwrap();
        symlink("../usr/lib/os-release", dir.path().join("etc/os-release")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let [a, b] = ["a", "b"].map(|n| elsewhere.path().join(n));
                std::fs::create_dir(&a).unwrap();
                while !done.load(Ordering::Relaxed) {
                    std::fs::rename(&a, &b).unwrap();
                    std::fs::rename(&b, &a).unwrap();
                }
            });
            for _ in 0..20_000 {
                let read = root.read(Path::new("/etc/os-release"));
                if read.is_err() {
                    done.store(true, Ordering::Relaxed);
                }
                assert!(read.unwrap().is_some());
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn replacing_keeps_mode_attributes_and_the_link() {
        for (dir, root) in sandboxes() {
            let real = dir.path().join("etc/real/a.conf");
            std::fs::File::create(&real).unwrap().write_all(b"old").unwrap();
            std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
            symlink("/etc/real/a.conf", dir.path().join("etc/a.conf")).unwrap();
            let has_xattr = rustix::fs::setxattr(&real, "user.label", b"kept", XattrFlags::empty()).is_ok();
            root.write(Path::new("/etc/a.conf"), b"new", NEW).unwrap();
            assert_eq!(std::fs::read(&real).unwrap(), b"new");
            assert_eq!(std::fs::metadata(&real).unwrap().mode() & 0o7777, 0o640);
            assert!(std::fs::symlink_metadata(dir.path().join("etc/a.conf")).unwrap().is_symlink());
            if has_xattr {
                let mut value = [0; 16];
                let n = rustix::fs::getxattr(&real, "user.label", &mut value).unwrap();
                assert_eq!(&value[..n], b"kept");
            }
            assert_eq!(root.list(Path::new("/etc/real")).unwrap(), ["a.conf"], "no temporary file is left");
        }
    }

    #[test]
    fn links_out_of_the_root_stay_inside() {
        for (dir, root) in sandboxes() {
            symlink("../../../../../../etc/passwd", dir.path().join("etc/up")).unwrap();
            symlink("/etc/passwd", dir.path().join("etc/abs")).unwrap();
            assert!(root.read(Path::new("/etc/up")).unwrap().is_none());
            assert!(root.read(Path::new("/etc/abs")).unwrap().is_none());
            assert!(root.read(Path::new("/../../etc/passwd")).unwrap().is_none());
        }
    }

    #[test]
    fn directories_and_missing_files_are_told_apart() {
        for (_dir, root) in sandboxes() {
            assert!(root.read(Path::new("/etc/none")).unwrap().is_none());
            assert!(root.read(Path::new("/etc")).unwrap_err().to_string().contains("not a regular file"));
            assert!(root.write(Path::new("/no/such/dir/f"), b"", NEW).is_err());
            assert!(root.list(Path::new("/nowhere")).unwrap().is_empty());
        }
    }
}
