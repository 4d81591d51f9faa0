//! A path gone along one name at a time, where what a link says is looked up in the root like the rest: what openat2(2) does for `Root`, for kernels
//! before Linux 5.6 and sandboxes that refuse the call; and everywhere the way to a file of others, of which it is told who has turned it. The kernel
//! is never given more than one name, and never `..` or a link to follow.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use anyhow::{Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

/// How many links one path may lead over, as in the kernel.
const LINKS: usize = 40;

/// A path half gone: the directories from below the root to where it is, and the names still to go.
struct Way<'a> {
    root: &'a OwnedFd,
    above: Vec<OwnedFd>,
    rest: VecDeque<OsString>,
    links: usize,
    /// Who owns each link that was followed.
    owners: Vec<u32>,
}

/// Opens `path` below `root` as openat2(2) does with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS. A directory that is moved out of the root while it is
/// gone through is left by the way it was entered, so not even then does `..` lead outside.
pub(super) fn open(root: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let mut way = Way::from(root, names(path.as_os_str()));
    loop {
        let name = way.go_on(flags)?;
        match way.last(&name, flags, mode)? {
            Some(opened) => return Ok(opened),
            None => way.rest.push_front(name),
        }
    }
}

fn names(path: &OsStr) -> VecDeque<OsString> {
    if path.is_empty() {
        return VecDeque::new();
    }
    path.as_bytes().split(|byte| *byte == b'/').map(|name| OsStr::from_bytes(name).to_owned()).collect()
}

impl<'a> Way<'a> {
    fn from(root: &'a OwnedFd, rest: VecDeque<OsString>) -> Self {
        Self { root, above: Vec::new(), rest, links: 0, owners: Vec::new() }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.above.last().unwrap_or(self.root).as_fd()
    }

    /// Goes on to the last name, which is told, and stays in its directory; that directory is `.`, however the path says so. A last name that is a
    /// link is followed unless these flags say that what it is itself is meant.
    fn go_on(&mut self, flags: OFlags) -> rustix::io::Result<OsString> {
        let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        while let Some(name) = self.rest.pop_front() {
            let last = self.rest.is_empty();
            if name == ".." {
                self.above.pop();
            }
            if name.is_empty() || name == "." || name == ".." {
                if last {
                    return Ok(".".into());
                }
                continue;
            }
            if !last && flags.contains(OFlags::CREATE) && self.rest.iter().all(|after| after.is_empty()) {
                // No file can have a name that ends in a slash.
                return Err(Errno::ISDIR);
            }
            // What is looked at is what is gone through: nobody turns it in between.
            let there = match rustix::fs::openat(self.here(), &name, place, Mode::empty()) {
                // Opening it says so, or makes it.
                Err(Errno::NOENT) if last => return Ok(name),
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&there)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink if !last || !flags.intersects(OFlags::NOFOLLOW | OFlags::EXCL) => {
                    let target = rustix::fs::readlinkat(&there, "", Vec::new())?;
                    self.owners.push(stat.st_uid);
                    self.follow(OsStr::from_bytes(target.as_bytes()))?;
                }
                _ if last => return Ok(name),
                FileType::Directory => self.above.push(there),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Err(Errno::NOENT)
    }

    /// Puts what a link says before the rest of the way.
    fn follow(&mut self, target: &OsStr) -> rustix::io::Result<()> {
        self.links += 1;
        if self.links > LINKS || is_magic(self.here(), target)? {
            return Err(Errno::LOOP);
        }
        if target.as_bytes().starts_with(b"/") {
            self.above.clear();
        }
        for name in names(target).into_iter().rev() {
            self.rest.push_front(name);
        }
        Ok(())
    }

    /// Opens the last name. `None` if it has just become a link, which is to be followed.
    fn last(&mut self, name: &OsStr, flags: OFlags, mode: Mode) -> rustix::io::Result<Option<OwnedFd>> {
        let opened = rustix::fs::openat(self.here(), name, flags | OFlags::NOFOLLOW, mode)?;
        if flags.contains(OFlags::PATH) && !flags.contains(OFlags::NOFOLLOW) {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
            if kind == FileType::Symlink {
                self.links += 1;
                return if self.links > LINKS { Err(Errno::LOOP) } else { Ok(None) };
            }
        }
        Ok(Some(opened))
    }
}

/// Where a path leads.
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
    /// What is there; never a link.
    pub(super) kind: Option<FileType>,
    /// Who owns links on the way, besides root and us.
    strangers: Vec<u32>,
}

impl Place {
    /// Goes along `path` to the directory that holds the file, over links of the file too. Each directory stays open, so nobody can turn the way
    /// between a look and the use.
    pub(super) fn find(root: &OwnedFd, path: &Path) -> rustix::io::Result<Self> {
        let named = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
        let mut way = Way::from(root, named.map(|c| c.as_os_str().to_owned()).collect());
        if way.rest.is_empty() {
            return Err(Errno::ISDIR);
        }
        let name = way.go_on(OFlags::empty())?;
        if name == "." {
            return Err(Errno::ISDIR);
        }
        let kind = match rustix::fs::statat(way.here(), &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            found => Some(FileType::from_raw_mode(found?.st_mode)),
        };
        if kind == Some(FileType::Symlink) {
            // It was none a moment ago.
            return Err(Errno::LOOP);
        }
        let own = [0, rustix::fs::fstat(root)?.st_uid, rustix::process::geteuid().as_raw()];
        let directory = rustix::fs::openat(way.here(), ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let strangers = way.owners.into_iter().filter(|uid| !own.contains(uid)).collect();
        Ok(Self { directory, name, kind, strangers })
    }

    /// The file, if there is one: not through a link that has taken its place, and not waiting for anybody.
    pub(super) fn open(&self) -> Result<Option<File>> {
        match self.kind {
            None => return Ok(None),
            Some(FileType::RegularFile) => {}
            Some(_) => bail!("it is not a regular file"),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Some(rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty())?.into()))
    }

    /// The directory, so that it can be synced.
    pub(super) fn opened(&self) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(&self.directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Whoever owns a link on the way must own what it leads to: a file of `owner`, and where it is written also the directory. The service's
    /// user may own `/etc/barbican`, and could have us read or write anything for it by turning a link.
    pub(super) fn check(&self, owner: u32, directory: Option<u32>) -> Result<()> {
        let turned = |uid: &&u32| **uid != owner || directory.is_some_and(|directory| **uid != directory);
        if let Some(uid) = self.strangers.iter().find(turned) {
            bail!("a link of user {uid} leads to what is not theirs: give the link to root (chown -h), or remove it");
        }
        Ok(())
    }
}

/// Whether it is one of the links of /proc that lead where their text does not say. Those that are only text are relative, and name no object.
fn is_magic(directory: BorrowedFd<'_>, target: &OsStr) -> rustix::io::Result<bool> {
    let text = target.as_bytes();
    if !text.starts_with(b"/") && !text.starts_with(b"(") && !text.contains(&b':') {
        return Ok(false);
    }
    // By its path, since Linux before 3.12 does not ask a file system through a descriptor that is only a place.
    let place = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(rustix::fs::statfs(place)?.f_type == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use rustix::fs::ResolveFlags;

    use super::*;

    /// The device and number of what was opened and its kind, or the error.
    type Found = Result<(u64, u64, FileType), Errno>;

    fn found(opened: rustix::io::Result<OwnedFd>) -> Found {
        let stat = rustix::fs::fstat(opened?)?;
        Ok((stat.st_dev, stat.st_ino, FileType::from_raw_mode(stat.st_mode)))
    }

    fn kernel(root: &OwnedFd, path: &Path, flags: OFlags) -> Found {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(root, path, flags, mode(flags), resolve) {
                Err(Errno::AGAIN) => {}
                opened => return found(opened),
            }
        }
    }

    /// openat2 refuses a mode where nothing is made.
    fn mode(flags: OFlags) -> Mode {
        Mode::from_raw_mode(if flags.contains(OFlags::CREATE) { 0o600 } else { 0 })
    }

    fn root_of(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    /// Names few enough that most paths lead somewhere.
    fn path() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec!["a", "b", "c", "d", "l", "m", "n", "f", "..", ".", ""]);
        prop::collection::vec(name, 1..6).prop_map(|names| names.join("/"))
    }

    const FLAGS: [OFlags; 7] = [
        OFlags::PATH,
        OFlags::RDONLY,
        OFlags::RDONLY.union(OFlags::NOFOLLOW),
        OFlags::PATH.union(OFlags::NOFOLLOW),
        OFlags::RDONLY.union(OFlags::DIRECTORY),
        OFlags::RDWR.union(OFlags::CREATE).union(OFlags::APPEND).union(OFlags::NOFOLLOW),
        OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL),
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// The kernel is right by definition: whatever the tree, both find the same, or fail alike.
        #[test]
        fn it_finds_what_the_kernel_finds(
            links in prop::collection::vec((path(), path()), 0..8),
            paths in prop::collection::vec(path(), 1..12),
        ) {
            let outer = tempfile::tempdir().unwrap();
            // Outside lies what must not be found.
            std::fs::create_dir_all(outer.path().join("a/b")).unwrap();
            let dir = outer.path().join("root");
            for made in ["a/b/c", "b/d", "d"] {
                std::fs::create_dir_all(dir.join(made)).unwrap();
            }
            for file in ["f", "a/f", "a/b/c/f"] {
                std::fs::File::create(dir.join(file)).unwrap();
            }
            let root = root_of(&dir);
            for (place, target) in &links {
                // Where that is no place for a link, there is none.
                if let (Ok(parent), Some(name)) = (
                    open(&root, Path::new(place).parent().filter(|p| p.as_os_str() != "").unwrap_or(Path::new(".")),
                        OFlags::PATH | OFlags::DIRECTORY, Mode::empty()),
                    Path::new(place).file_name(),
                ) {
                    rustix::fs::symlinkat(target.as_str(), parent, name).ok();
                }
            }
            for path in &paths {
                for flags in FLAGS {
                    let flags = flags | OFlags::CLOEXEC;
                    let relative = path.trim_start_matches('/');
                    let path = Path::new(if relative.is_empty() { "." } else { relative });
                    let before = flags.contains(OFlags::EXCL).then(|| kernel(&root, path, OFlags::PATH | OFlags::NOFOLLOW));
                    let theirs = kernel(&root, path, flags);
                    if before.is_some() && theirs.is_ok() {
                        // What was made has to go before it can be made again.
                        let parent = path.parent().filter(|p| p.as_os_str() != "").unwrap_or(Path::new("."));
                        let parent = open(&root, parent, OFlags::PATH, Mode::empty()).unwrap();
                        rustix::fs::unlinkat(parent, path.file_name().unwrap(), rustix::fs::AtFlags::empty()).unwrap();
                        prop_assert!(open(&root, path, flags, mode(flags)).is_ok(), "{path:?}");
                        continue;
                    }
                    let ours = found(open(&root, path, flags, mode(flags)));
                    prop_assert_eq!(ours, theirs, "{:?} {:?} {:?}", path, flags, links);
                }
            }
        }
    }

    #[test]
    fn links_without_end_and_those_of_proc_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        std::fs::File::create(dir.path().join("l0")).unwrap();
        for n in 1..=41 {
            symlink(format!("l{}", n - 1), dir.path().join(format!("l{n}"))).unwrap();
        }
        let root = root_of(dir.path());
        for path in ["loop", "l40", "l41"] {
            assert_eq!(
                found(open(&root, Path::new(path), OFlags::PATH, Mode::empty())),
                kernel(&root, Path::new(path), OFlags::PATH)
            );
        }
        let top = root_of(Path::new("/"));
        for path in ["proc/self/root/etc", "proc/self/exe", "proc/self/cwd", "proc/self/fd/0", "proc/self/ns/mnt"] {
            for root in [&top, &root] {
                let ours = found(open(root, Path::new(path), OFlags::PATH, Mode::empty()));
                assert_eq!(ours, kernel(root, Path::new(path), OFlags::PATH), "{path}");
            }
            assert_eq!(found(open(&top, Path::new(path), OFlags::PATH, Mode::empty())), Err(Errno::LOOP), "{path}");
        }
        for path in ["proc/self/stat", "proc/mounts", "proc/thread-self", "proc/net"] {
            let ours = found(open(&top, Path::new(path), OFlags::PATH, Mode::empty()));
            assert_eq!(ours, kernel(&top, Path::new(path), OFlags::PATH), "{path}");
        }
    }

    /// A directory on the way is exchanged for a link to the outside, again and again: what is opened is never the outside.
    #[test]
    fn nothing_outside_is_found_while_links_come_and_go() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("root");
        std::fs::create_dir_all(outer.path().join("d")).unwrap();
        std::fs::create_dir_all(dir.join("d")).unwrap();
        std::fs::File::create(outer.path().join("d/f")).unwrap();
        std::fs::File::create(dir.join("d/f")).unwrap();
        symlink(outer.path().join("d"), dir.join("l")).unwrap();
        let root = root_of(&dir);
        let inside = found(open(&root, Path::new("d/f"), OFlags::PATH, Mode::empty())).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                while !done.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(&root, "d", &root, "l", exchange).unwrap();
                }
            });
            let opened: Vec<Found> =
                (0..20_000).map(|_| found(open(&root, Path::new("d/../d/f"), OFlags::RDONLY, Mode::empty()))).collect();
            done.store(true, Ordering::Relaxed);
            assert!(opened.contains(&Ok(inside)));
            assert!(opened.iter().all(|one| one.is_err() || *one == Ok(inside)));
        });
    }
}
