//! A file system that keeps no more than it must: what was not synced may be there, or not, or in part.
//!
//! Contents, owner and mode of a file last once it is synced, names once their directory is. Of what waits, any part may have reached the disk
//! when the power goes, in any order; only one call is whole or not at all.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::record::Change;
use crate::common::SOFTHSM_CONF;
use crate::crash::state::walk;

/// What a file has besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Body {
    mode: u32,
    owner: (u32, u32),
    attributes: BTreeMap<String, Vec<u8>>,
    /// Of a directory none; of a link its target.
    bytes: Option<Vec<u8>>,
    is_link: bool,
}

/// Every name, and what it is the name of: what somebody finds who looks.
pub(super) type Tree = BTreeMap<PathBuf, Body>;

struct Node {
    now: Body,
    safe: Body,
    /// What was done to it since it was last synced.
    waiting: Vec<Change>,
}

/// Names that one call changed, in one directory.
struct Naming {
    directory: PathBuf,
    changes: Vec<(PathBuf, Option<usize>)>,
}

/// Which part of what waits has reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    None,
    All,
    /// All but this one.
    But(usize),
    /// This one alone.
    Only(usize),
}

/// What of the contents that wait has reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    Lost,
    Whole,
    /// The first half of it.
    Half,
    /// The length alone.
    Zeros,
}

pub(super) struct Disk {
    nodes: Vec<Node>,
    now: BTreeMap<PathBuf, usize>,
    safe: BTreeMap<PathBuf, usize>,
    waiting: Vec<Naming>,
}

impl Disk {
    /// All that is there, on the disk.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut disk = Self { nodes: Vec::new(), now: BTreeMap::new(), safe: BTreeMap::new(), waiting: Vec::new() };
        for (path, body) in tree {
            let id = disk.node(body.clone());
            disk.now.insert(path.clone(), id);
        }
        disk.safe.clone_from(&disk.now);
        disk
    }

    fn node(&mut self, body: Body) -> usize {
        self.nodes.push(Node { safe: body.clone(), now: body, waiting: Vec::new() });
        self.nodes.len() - 1
    }

    fn name(&mut self, changes: Vec<(PathBuf, Option<usize>)>) {
        let directory = changes[0].0.parent().unwrap().to_owned();
        assert!(changes.iter().all(|(path, _)| path.parent().unwrap() == directory), "moved to another directory");
        for (path, id) in &changes {
            match id {
                Some(id) => self.now.insert(path.clone(), *id),
                None => self.now.remove(path),
            };
        }
        self.waiting.push(Naming { directory, changes });
    }

    /// Carries out one change, as the system did.
    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Create { path, mode, truncate } => {
                if self.now.contains_key(path) {
                    if *truncate {
                        self.change(&Change::Truncate { path: path.clone(), length: 0 });
                    }
                    return;
                }
                let body = Body { mode: *mode, owner: us(), bytes: Some(Vec::new()), ..Body::default() };
                let id = self.node(body);
                self.name(vec![(path.clone(), Some(id))]);
            }
            Change::Directory { path, mode } => {
                let id = self.node(Body { mode: *mode, owner: us(), ..Body::default() });
                self.name(vec![(path.clone(), Some(id))]);
            }
            Change::Link { path, target } => {
                let body =
                    Body { mode: 0o777, owner: us(), bytes: Some(target.clone()), is_link: true, ..Body::default() };
                let id = self.node(body);
                self.name(vec![(path.clone(), Some(id))]);
            }
            Change::Rename { from, to } => {
                let id = self.now[from];
                self.name(vec![(from.clone(), None), (to.clone(), Some(id))]);
            }
            Change::Remove { path } => self.name(vec![(path.clone(), None)]),
            Change::Sync { path } => self.sync(path),
            Change::Write { path, .. }
            | Change::Truncate { path, .. }
            | Change::Owner { path, .. }
            | Change::Mode { path, .. }
            | Change::Attribute { path, .. } => {
                // One that was removed while it was open is nobody's any more.
                if let Some(id) = self.now.get(path) {
                    let node = &mut self.nodes[*id];
                    apply(&mut node.now, change);
                    node.waiting.push(change.clone());
                }
            }
        }
    }

    fn sync(&mut self, path: &Path) {
        let Some(id) = self.now.get(path) else { return };
        let node = &mut self.nodes[*id];
        node.safe = node.now.clone();
        node.waiting.clear();
        for naming in self.waiting.extract_if(.., |naming| naming.directory == path) {
            for (path, id) in naming.changes {
                match id {
                    Some(id) => self.safe.insert(path, id),
                    None => self.safe.remove(&path),
                };
            }
        }
    }

    /// How many calls that changed names wait.
    pub(super) fn names_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What is there when the power has gone and come back.
    pub(super) fn after(&self, names: Names, contents: Contents) -> Tree {
        let mut found = self.safe.clone();
        for (n, naming) in self.waiting.iter().enumerate() {
            let there = match names {
                Names::None => false,
                Names::All => true,
                Names::But(one) => n != one,
                Names::Only(one) => n == one,
            };
            for (path, id) in naming.changes.iter().filter(|_| there) {
                match id {
                    Some(id) => found.insert(path.clone(), *id),
                    None => found.remove(path),
                };
            }
        }
        let all: Tree = found.iter().map(|(path, id)| (path.clone(), self.nodes[*id].after(contents))).collect();
        // What is in a directory whose own name is lost is lost with it.
        let there = |path: &Path| path.ancestors().skip(1).all(|p| p == Path::new("") || all.contains_key(p));
        all.iter().filter(|(path, _)| there(path)).map(|(path, body)| (path.clone(), body.clone())).collect()
    }

    /// What somebody finds who looks while the power is on.
    pub(super) fn seen(&self) -> Tree {
        self.now.iter().map(|(path, id)| (path.clone(), self.nodes[*id].now.clone())).collect()
    }
}

impl Node {
    fn after(&self, contents: Contents) -> Body {
        // The mode of a directory comes with its name.
        if self.now.bytes.is_none() {
            return self.now.clone();
        }
        let mut body = self.safe.clone();
        match contents {
            Contents::Lost => {}
            Contents::Whole => body = self.now.clone(),
            Contents::Half => {
                for (n, change) in self.waiting.iter().enumerate().take(self.waiting.len().div_ceil(2)) {
                    let mut change = change.clone();
                    if let (true, Change::Write { bytes, .. }) = (n + 1 == self.waiting.len().div_ceil(2), &mut change)
                    {
                        bytes.truncate(bytes.len() / 2);
                    }
                    apply(&mut body, &change);
                }
            }
            Contents::Zeros => {
                let (safe, now) = (body.bytes.as_mut().unwrap(), self.now.bytes.as_ref().unwrap());
                if now.len() > safe.len() {
                    safe.resize(now.len(), 0);
                }
            }
        }
        body
    }
}

fn us() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

fn apply(body: &mut Body, change: &Change) {
    match change {
        Change::Write { at, bytes, .. } => {
            let content = body.bytes.as_mut().unwrap();
            let at = at.unwrap_or(content.len());
            if content.len() < at + bytes.len() {
                content.resize(at + bytes.len(), 0);
            }
            content[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Change::Truncate { length, .. } => body.bytes.as_mut().unwrap().resize(*length, 0),
        Change::Owner { uid, gid, .. } => {
            // -1 leaves it as it is.
            body.owner = (
                if *uid == u32::MAX { body.owner.0 } else { *uid },
                if *gid == u32::MAX { body.owner.1 } else { *gid },
            );
        }
        Change::Mode { mode, .. } => body.mode = *mode,
        Change::Attribute { name, value, .. } => {
            body.attributes.insert(name.clone(), value.clone());
        }
        other => panic!("{other:?} is not of a file"),
    }
}

/// The files below `root`, but for the token, and where it is.
pub(super) fn tree_of(root: &Path) -> Tree {
    let token = |path: &Path| path.starts_with("var/lib/softhsm") || path == Path::new(SOFTHSM_CONF);
    let bodies = walk(root).into_iter().filter(|(path, _)| !token(path));
    bodies
        .map(|(path, entry)| {
            let body = Body {
                mode: entry.mode,
                owner: entry.owner,
                attributes: entry.attributes.into_iter().collect(),
                bytes: entry.content,
                is_link: entry.is_link,
            };
            (path, body)
        })
        .collect()
}

/// Makes what is below `root` into `tree`.
pub(super) fn lay_out(tree: &Tree, root: &Path) {
    let there = tree_of(root);
    for path in there.keys().rev().filter(|path| tree.get(*path) != there.get(*path)) {
        let real = root.join(path);
        let both_directories = there[path].bytes.is_none() && tree.get(path).is_some_and(|body| body.bytes.is_none());
        if there[path].bytes.is_some() {
            std::fs::remove_file(real).unwrap();
        } else if !both_directories {
            std::fs::remove_dir_all(real).unwrap();
        }
    }
    for (path, body) in tree.iter().filter(|(path, body)| there.get(*path) != Some(*body)) {
        let real = root.join(path);
        match &body.bytes {
            None => {
                if !real.exists() {
                    std::fs::create_dir(&real).unwrap();
                }
            }
            Some(target) if body.is_link => {
                std::os::unix::fs::symlink(std::str::from_utf8(target).unwrap(), &real).unwrap();
                continue;
            }
            Some(bytes) => {
                let mut options = std::fs::OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(&real).unwrap();
                std::io::Write::write_all(&mut file, bytes).unwrap();
            }
        }
        for (name, value) in &body.attributes {
            rustix::fs::setxattr(&real, name.as_str(), value, rustix::fs::XattrFlags::empty()).unwrap();
        }
        if std::fs::metadata(&real).map(|m| (m.uid(), m.gid())).unwrap() != body.owner {
            std::os::unix::fs::chown(&real, Some(body.owner.0), Some(body.owner.1)).unwrap();
        }
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(body.mode)).unwrap();
    }
}
