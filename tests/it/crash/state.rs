//! What a deployment is: every row and file, to be compared.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::{DATABASE, Host};
use crate::common::SOFTHSM_CONF;
use crate::server_schema::dumped;
use crate::servers::Base;

/// A file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) attributes: Vec<(String, Vec<u8>)>,
    /// Of a link its target; none of a directory.
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) is_link: bool,
}

/// Every file below the image but our own, and every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<PathBuf, Entry>,
    pub(crate) database: Vec<String>,
    recorded: Option<String>,
}

impl State {
    pub(crate) fn of(sandbox: &Host) -> Self {
        let mut files = walk(&sandbox.root());
        files.retain(|path, _| {
            let name = path.file_name().unwrap().to_string_lossy();
            let token = path.starts_with("var/lib/softhsm");
            let counter = token && (name == "generation" || name.ends_with(".lock"));
            !path.starts_with("var/lib/keymgr-upgrade") && path != Path::new(SOFTHSM_CONF) && !counter
        });
        // SoftHSM counts in the first eight bytes of an object how often it was looked at.
        for (path, entry) in &mut files {
            if path.starts_with("var/lib/softhsm")
                && let Some(bytes) = &mut entry.content
            {
                bytes.drain(..bytes.len().min(8));
            }
        }
        let database = match &sandbox.base {
            Some(base) => rows(base),
            None => {
                // Its rows are what counts, not its pages.
                files.get_mut(Path::new(DATABASE)).unwrap().content = Some(Vec::new());
                dump(&sandbox.path(DATABASE))
            }
        };
        let record = sandbox.path("var/lib/keymgr-upgrade/deployment.json");
        let recorded = std::fs::read(record).ok().map(|bytes| {
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            value["release"].as_str().unwrap().to_owned()
        });
        Self { files, database, recorded }
    }

    /// Whether Barbican's data and files are the same, be it held or not.
    pub(crate) fn same_deployment(&self, other: &Self) -> bool {
        let files = |state: &Self| -> BTreeMap<PathBuf, Entry> {
            let ours = |path: &Path| {
                let path = path.to_string_lossy();
                path.contains(".service.d") || path.ends_with("-journal") || path.ends_with(".keymgr-upgrade")
            };
            state
                .files
                .iter()
                .filter(|(path, _)| !ours(path))
                .map(|(path, entry)| (path.clone(), entry.clone()))
                .collect()
        };
        self.database == other.database && files(self) == files(other)
    }

    /// In words, one line for each object that differs.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for path in self.files.keys().chain(other.files.keys().filter(|p| !self.files.contains_key(*p))) {
            match (self.files.get(path), other.files.get(path)) {
                (Some(a), Some(b)) if a != b => found.push(format!("{} differs", path.display())),
                (Some(_), None) => found.push(format!("{} should not be there", path.display())),
                (None, Some(_)) => found.push(format!("{} is missing", path.display())),
                _ => {}
            }
        }
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|line| !those.contains(line)).take(3).map(|l| l.chars().take(120).collect()).collect()
        };
        found.extend(only(&self.database, &other.database).iter().map(|l| format!("row should not be there: {l}")));
        found.extend(only(&other.database, &self.database).iter().map(|l| format!("row is missing: {l}")));
        if found.is_empty() && self.database != other.database {
            found.push("rows differ in number".to_owned());
        }
        if self.recorded != other.recorded {
            found.push(format!("the recorded release is {:?}, not {:?}", self.recorded, other.recorded));
        }
        found
    }
}

/// Everything below `root`, by its path from there.
pub(crate) fn walk(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let about = std::fs::symlink_metadata(&path).unwrap();
            let content = if about.is_dir() {
                left.push(path.clone());
                None
            } else if about.is_symlink() {
                Some(std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else {
                Some(std::fs::read(&path).unwrap())
            };
            let entry = Entry {
                mode: about.mode() & 0o7777,
                owner: (about.uid(), about.gid()),
                attributes: attributes(&path),
                content,
                is_link: about.is_symlink(),
            };
            all.insert(path.strip_prefix(root).unwrap().to_owned(), entry);
        }
    }
    all
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|b| *b == 0).filter(|n| !n.is_empty());
    let mut all: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let mut value = vec![0_u8; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect();
    all.sort();
    all
}

/// A server's database as its own dump program writes it. PostgreSQL does so in the order in which rows were written last, which means nothing.
fn rows(base: &Base) -> Vec<String> {
    base.settle();
    let text = dumped(base);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut from = 0;
    while let Some(begin) = lines[from..].iter().position(|l| l.starts_with("COPY ")).map(|n| from + n + 1) {
        from = begin + lines[begin..].iter().position(|l| l == "\\.").unwrap();
        lines[begin..from].sort();
    }
    lines
}

/// The rows without the empty table in which a backup on MySQL tries whether tables can be made again: whoever takes up the run takes it away.
pub(crate) fn without_probe(database: &[String]) -> Vec<String> {
    let mut within = false;
    let mut rest = Vec::new();
    for line in database {
        assert!(!line.starts_with("INSERT INTO `keymgr_upgrade_probe`"), "{line}");
        if line.starts_with("DROP TABLE IF EXISTS ") {
            within = line.contains("`keymgr_upgrade_probe`");
        }
        if !within {
            rest.push(line.clone());
        }
    }
    rest
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        other => format!("{other:?}"),
    }
}

/// The schema's text, and every row of every table. Of a copy: to look must not settle what a crash left.
pub(crate) fn dump(database: &Path) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy.sqlite");
    for suffix in ["", "-journal", "-wal"] {
        let from = PathBuf::from(format!("{}{suffix}", database.display()));
        if from.exists() {
            std::fs::copy(from, format!("{}{suffix}", copy.display())).unwrap();
        }
    }
    let conn = Connection::open(&copy).unwrap();
    let mut lines = Vec::new();
    let mut objects = conn.prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY 1, 2").unwrap();
    let mut rows = objects.query([]).unwrap();
    let mut tables = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let (kind, name, sql): (String, String, String) =
            (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
        if kind == "table" {
            tables.push(name.clone());
        }
        lines.push(format!("{kind} {name}: {sql}"));
    }
    for table in tables {
        let mut query = conn.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = query.column_count();
        let mut rows = query.query([]).unwrap();
        let mut these = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let fields: Vec<String> = (0..columns).map(|n| shown(row.get_ref(n).unwrap())).collect();
            these.push(format!("{table}: {}", fields.join(", ")));
        }
        these.sort();
        lines.extend(these);
    }
    lines
}
