//! The chain of Barbican's schema revisions, read from the embedded `migrations/`.
//!
//! A revision is a folder `migrations/<release>/<revision>_<slug>/` with
//! - `revision.toml`: id, `down`, summary; what it renames (`[renames.tables]`, `[renames.columns]`) and takes away
//!   (`drops`), for everything else must still be there afterwards; and its `[[precondition]]`s;
//! - `postgresql.sql`, `mysql.sql`: its statements, each under the directive (`--: ...`) that tells what it makes, see `guard.rs`;
//! - `[[leftover]]`s: what databases that Barbican's own tools migrated have different from a fresh installation from here on;
//! - `sqlite.sql`: its statements, each ending with a semicolon at the end of a line. No statement reads what
//!   it writes: a column that changes its meaning is a new column, filled from the old one in a new table.
//!   Tables and indexes that services may have made already are created `IF NOT EXISTS`;
//! - `variant-<name>.sqlite.sql`: leads from the fresh shape at this revision to another one that is found in
//!   the field.
use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use serde::Deserialize;

use super::{
    Dialect, Error, Result,
    guard::{Guard, Guarded},
};

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
    pub(super) postgresql: Vec<Guarded>,
    pub(super) mysql: Vec<Guarded>,
    pub(super) leftovers: Vec<Leftover>,
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
    /// Returns the offending rows. `{table: column, column}` stands for a table as it is just before the revision, see
    /// `precondition.rs`; names are quoted as `"x"`, and `char_length` counts characters.
    pub query: String,
    /// What the operator can do.
    pub remedy: String,
    /// The rows only stand in the way under `orphans = refuse`.
    #[serde(default)]
    pub orphans: bool,
    /// Asked on these databases only; on all, if empty.
    #[serde(default)]
    pub dialects: Vec<Dialect>,
}

/// What databases on a server may have different from a fresh installation, from this revision on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leftover {
    pub(super) dialects: Vec<Dialect>,
    /// The difference as [`super::Shape::compare`] words it; one `*` stands for anything.
    pub(super) difference: String,
    /// The revision at which it is gone.
    pub(super) until: Option<String>,
    /// Whose doing it is.
    pub(super) why: String,
}

impl Leftover {
    pub(super) fn explains(&self, difference: &str) -> bool {
        match self.difference.split_once('*') {
            None => self.difference == difference,
            Some((start, end)) => {
                difference.len() >= start.len() + end.len()
                    && difference.starts_with(start)
                    && difference.ends_with(end)
            }
        }
    }
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
    #[serde(default)]
    leftover: Vec<Leftover>,
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
    /// Its statements for a server.
    pub(super) fn guarded(&self, dialect: Dialect) -> &[Guarded] {
        match dialect {
            Dialect::Sqlite => &[],
            Dialect::Postgresql => &self.postgresql,
            Dialect::Mysql => &self.mysql,
        }
    }

    /// The table and column as they are called before this revision.
    pub(super) fn before<'a>(&'a self, table: &'a str, column: &'a str) -> (&'a str, &'a str) {
        let renamed = |(_, new): &(&String, &String)| new.split_once('.') == Some((table, column));
        let old = self.renames.columns.iter().find(renamed).and_then(|(old, _)| old.split_once('.'));
        old.unwrap_or((self.table_before(table), column))
    }

    /// The table as it is called before this revision.
    pub(super) fn table_before<'a>(&'a self, table: &'a str) -> &'a str {
        self.renames.tables.iter().find(|(_, new)| *new == table).map_or(table, |(old, _)| old)
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
            postgresql: guarded(&by_path, &format!("{folder}/postgresql.sql"))?,
            mysql: guarded(&by_path, &format!("{folder}/mysql.sql"))?,
            leftovers: read.leftover,
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

/// Reads a file of statements that each stand under their directive.
fn guarded(files: &HashMap<&str, &str>, path: &str) -> std::result::Result<Vec<Guarded>, String> {
    let text = files.get(path).ok_or_else(|| format!("{path} is missing"))?;
    let directives = text.lines().filter_map(|line| line.strip_prefix("--:")).map(Guard::parse);
    let guards = directives.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| format!("{path}: {e}"))?;
    // Each directive stands right above one statement.
    let (mut statement, mut awaited) = (false, false);
    for line in text.lines().map(str::trim_end).filter(|l| !l.is_empty()) {
        let directive = line.starts_with("--:");
        if directive && (awaited || statement) || !directive && !awaited && !statement && !line.starts_with("--") {
            return Err(format!("{path}: a directive and its statement are not together at `{line}`"));
        }
        if directive {
            awaited = true;
        } else if !line.trim_start().starts_with("--") {
            awaited = false;
            statement = !line.ends_with(';');
        }
    }
    let statements = split(text);
    if guards.len() != statements.len() {
        return Err(format!("{path}: {} directives for {} statements", guards.len(), statements.len()));
    }
    Ok(guards.into_iter().zip(statements).map(|(guard, sql)| Guarded { guard, sql }).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_chain_of_36_from_one_base_to_one_head() {
        let ids: Vec<&str> = chain().iter().map(|r| r.id.as_str()).collect();
        let expected = "1a0c2cdafb38 juno 13d127569afa 1e86c18af2dd cd4106a1a0 47b69e523451 4070806f6972 \
            2ab3f5371bde 2843d6469f25 254495565185 795737bb3c3 256da65e0c5f aa2cf96a1d5 443d6f4a69ac \
            3d36a26b88af 2d21598e7e70 1c0f328bfce0 1a7cf79559e3 3041b53b95d7 30dba269cc64 6a4457517a3 \
            1bc885808c76 161f8aceb687 1bece815014f kilo 46b98cde536 156cd9933643 3c3b04040bfe \
            10220ccbe7fa 4ecde3a3a72a 39a96e67e990 dce488646127 d2780d5aa510 39cf2e645cba \
            0f8c192a061f 8c74e2d7f1ff";
        assert_eq!(ids, expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!(head(), "8c74e2d7f1ff");
        for (release, last) in [
            ("juno", "254495565185"),
            ("kilo", "6a4457517a3"),
            ("liberty", "4ecde3a3a72a"),
            ("mitaka", "d2780d5aa510"),
            ("newton", "39cf2e645cba"),
            ("ussuri", "0f8c192a061f"),
            ("zed", "8c74e2d7f1ff"),
        ] {
            let of_release = chain().iter().rfind(|r| r.release == release);
            assert_eq!(of_release.map(|r| r.id.as_str()), Some(last));
        }
    }

    #[test]
    fn between_leads_forward_only() {
        let ids = |from, to| between(from, to).unwrap().iter().map(|r| r.id.as_str()).collect::<Vec<_>>();
        assert_eq!(ids(Some("d2780d5aa510"), "0f8c192a061f"), ["39cf2e645cba", "0f8c192a061f"]);
        assert_eq!(ids(Some("kilo"), "kilo"), [""; 0]);
        assert_eq!(ids(None, "juno"), ["1a0c2cdafb38", "juno"]);
        assert!(matches!(between(Some("kilo"), "juno"), Err(Error::Backwards { .. })));
        assert!(matches!(between(None, "deadbeef"), Err(Error::UnknownRevision(id)) if id == "deadbeef"));
        assert!(matches!(between(Some("deadbeef"), "kilo"), Err(Error::UnknownRevision(_))));
    }

    #[test]
    fn a_broken_tree_is_refused() {
        let toml = |id: &str, down: &str| format!("id = '{id}'\n{down}\nsummary = 's'");
        let (a, b, c) = (toml("a", ""), toml("b", "down = 'a'"), toml("c", "down = 'x'"));
        let whole = [
            ("r/a_/revision.toml", a.as_str()),
            ("r/a_/sqlite.sql", ""),
            ("r/a_/postgresql.sql", ""),
            ("r/a_/mysql.sql", ""),
            ("r/b_/revision.toml", &b),
            ("r/b_/sqlite.sql", ""),
            ("r/b_/postgresql.sql", ""),
            ("r/b_/mysql.sql", ""),
        ];
        assert_eq!(load(&whole).unwrap().len(), 2);
        let why = |files: &[(&str, &str)]| load(files).unwrap_err();
        assert!(why(&whole[..5]).contains("no sqlite.sql"));
        assert!(why(&whole[..6]).contains("r/b_/postgresql.sql is missing"));
        assert!(why(&whole[..7]).contains("r/b_/mysql.sql is missing"));
        assert!(why(&[("r/z_/revision.toml", &a), ("r/z_/sqlite.sql", "")]).contains("not named a_"));
        let lost = [
            ("r/c_/revision.toml", c.as_str()),
            ("r/c_/sqlite.sql", ""),
            ("r/c_/postgresql.sql", ""),
            ("r/c_/mysql.sql", ""),
        ];
        assert!(why(&[&whole[..], &lost].concat()).contains("not in the chain"));
        let twin = [
            ("s/a_/revision.toml", a.as_str()),
            ("s/a_/sqlite.sql", ""),
            ("s/a_/postgresql.sql", ""),
            ("s/a_/mysql.sql", ""),
        ];
        assert!(why(&[&whole[..], &twin].concat()).contains("same down"));
    }

    #[test]
    fn each_server_statement_stands_under_its_directive() {
        let read = |text: &str| guarded(&[("x.sql", text)].into(), "x.sql").map(|g| g.len());
        assert_eq!(
            read("-- why\n--: drop table t\n-- more\nDROP TABLE t;\n\n--: tidy u\nUPDATE u\n    SET a = 1;\n"),
            Ok(2)
        );
        for bad in [
            "DROP TABLE t;\n",
            "--: drop table t\n",
            "--: drop table t\n--: drop table u\nDROP TABLE t;\nDROP TABLE u;\n",
            "--: drop table t\nDROP TABLE t;\nDROP TABLE u;\n",
            "--: drop table t\nDROP TABLE\n--: drop table u\nt;\n",
            "--: drop the table\nDROP TABLE t;\n",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn statements_end_with_a_semicolon_at_the_end_of_a_line() {
        let text = "-- why; not\nCREATE TABLE t (\n    a TEXT\n);\n\n-- x\nINSERT INTO t VALUES ('a;b');\n";
        assert_eq!(split(text), ["CREATE TABLE t (\n    a TEXT\n)", "INSERT INTO t VALUES ('a;b')"]);
    }
}
