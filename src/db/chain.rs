//! The chain of Barbican's schema revisions, read from the embedded `migrations/`.
use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use serde::Deserialize;

use super::{Dialect, Error, Result};

/// One schema revision: `migrations/<release>/<revision>_<slug>/`.
#[derive(Debug)]
pub struct Revision {
    /// The id, as `alembic_version` holds it.
    pub id: String,
    /// The revision before it; `None` for the first.
    pub down: Option<String>,
    /// The release that first shipped it: the folder's name.
    pub release: String,
    /// What it does, one line.
    pub summary: String,
    /// What must hold in the data before it can run.
    pub preconditions: Vec<Precondition>,
    pub(super) renames: Renames,
    /// Tables, `table.column`s and `unique table(columns)` that it takes away on purpose.
    pub(super) drops: Vec<String>,
    pub(super) sqlite: Vec<String>,
    /// Other shapes in which this revision is found in the field: name, and the statements that lead
    /// there from a fresh database.
    pub(super) variants: Vec<(String, Vec<String>)>,
}

/// Rows that would stand in the way of a revision, and what to do about them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// Stable name, for approvals and searches.
    pub id: String,
    /// What is wrong with the rows, one line.
    pub title: String,
    /// The table the offending rows are in.
    pub table: String,
    /// Returns the offending rows, `id` of the row first. Runs on the schema just before the revision.
    pub query: String,
    /// What the operator can do.
    pub remedy: String,
    /// The rows only stand in the way under `orphans = refuse`.
    #[serde(default)]
    pub orphans: bool,
}

/// Old name to new: tables, and `table.column` with the new table's name on the right.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Renames {
    #[serde(default)]
    pub(super) tables: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) columns: BTreeMap<String, String>,
}

impl Renames {
    /// The name a table has afterwards.
    pub(super) fn table<'a>(&'a self, table: &'a str) -> &'a str {
        self.tables.get(table).map_or(table, String::as_str)
    }

    /// The table and column a column is found at afterwards.
    pub(super) fn column<'a>(&'a self, table: &'a str, column: &'a str) -> (&'a str, &'a str) {
        self.columns
            .get(&format!("{table}.{column}"))
            .and_then(|new| new.split_once('.'))
            .unwrap_or((self.table(table), column))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    id: String,
    down: Option<String>,
    summary: String,
    #[serde(default)]
    renames: Renames,
    #[serde(default)]
    drops: Vec<String>,
    #[serde(default)]
    precondition: Vec<Precondition>,
}

static CHAIN: LazyLock<Vec<Revision>> = LazyLock::new(|| match load(crate::release::FILES) {
    Ok(chain) => chain,
    #[expect(clippy::panic, reason = "the files are part of the program, and a test reads them all")]
    Err(why) => panic!("migrations/: {why}"),
});

/// All revisions, the first one first, in the order of their `down`.
#[must_use]
pub fn chain() -> &'static [Revision] {
    &CHAIN
}

/// The last revision.
#[must_use]
pub fn head() -> &'static str {
    chain().last().map_or("", |r| &r.id)
}

/// Where a revision stands in the chain, counted from 0.
pub fn position(revision: &str) -> Result<usize> {
    chain().iter().position(|r| r.id == revision).ok_or_else(|| Error::UnknownRevision(revision.to_owned()))
}

/// The revisions that lead from one (`None`: an empty database) to a later one, in order.
/// Empty if both are the same; an error if the target is the older one.
pub fn between(from: Option<&str>, to: &str) -> Result<&'static [Revision]> {
    let start = from.map_or(Ok(0), |id| position(id).map(|n| n + 1))?;
    let end = position(to)? + 1;
    chain()
        .get(start..end)
        .ok_or_else(|| Error::Backwards { from: from.unwrap_or("nothing").to_owned(), to: to.to_owned() })
}

impl Revision {
    /// Its statements in a dialect, without the comments. `None`: this build has none for it.
    #[must_use]
    pub fn statements(&self, dialect: Dialect) -> Option<&[String]> {
        match dialect {
            Dialect::Sqlite => Some(&self.sqlite),
            Dialect::Postgresql | Dialect::Mysql => None,
        }
    }
}

fn load(files: &[(&str, &str)]) -> std::result::Result<Vec<Revision>, String> {
    let by_path: HashMap<&str, &str> = files.iter().copied().collect();
    let mut found = HashMap::new();
    for (path, text) in files {
        let Some(folder) = path.strip_suffix("/revision.toml") else {
            continue;
        };
        let (release, name) = folder.rsplit_once('/').ok_or(format!("{path}: no release folder"))?;
        let read: Description = toml::from_str(text).map_err(|e| format!("{path}: {e}"))?;
        if name.strip_prefix(&read.id).is_none_or(|slug| !slug.starts_with('_')) {
            return Err(format!("{path}: the folder is not named {}_...", read.id));
        }
        let sql = by_path.get(format!("{folder}/sqlite.sql").as_str());
        let sql = sql.ok_or(format!("{folder}: no sqlite.sql"))?;
        let prefix = format!("{folder}/variant-");
        let variants = files.iter().filter_map(|(path, text)| {
            let name = path.strip_prefix(&prefix)?.strip_suffix(".sqlite.sql")?;
            Some((name.to_owned(), split(text)))
        });
        let revision = Revision {
            release: release.to_owned(),
            summary: read.summary,
            preconditions: read.precondition,
            renames: read.renames,
            drops: read.drops,
            sqlite: split(sql),
            variants: variants.collect(),
            id: read.id,
            down: read.down,
        };
        let down = revision.down.clone();
        if let Some(twin) = found.insert(down, revision) {
            return Err(format!("{path}: {} has the same down", twin.id));
        }
    }
    let mut chain: Vec<Revision> = Vec::new();
    while let Some(next) = found.remove(&chain.last().map(|r| r.id.clone())) {
        chain.push(next);
    }
    match found.into_values().next() {
        Some(lost) => Err(format!("{}: its down {:?} is not in the chain", lost.id, lost.down)),
        None => Ok(chain),
    }
}

/// Splits a file into statements: one ends where a line ends in a semicolon. Comment lines and empty
/// lines are left out; `--` inside a line is not looked for.
fn split(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() || line.trim_start().starts_with("--") {
            continue;
        }
        if !current.is_empty() {
            current.push('\n');
        }
        match line.strip_suffix(';') {
            Some(last) => {
                current.push_str(last);
                statements.push(std::mem::take(&mut current));
            }
            None => current.push_str(line),
        }
    }
    if !current.is_empty() {
        statements.push(current);
    }
    statements
}
