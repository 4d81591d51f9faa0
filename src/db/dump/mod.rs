//! Backup and restore of a database on a server, by the server's own client programs.
//!
//! Only Barbican's tables are dumped and put back: every one that some revision knows. Whatever else is in the database stays as it is, and what
//! would stand in the way of a restore is named before a backup is taken. A backup is two files: the dump, and [`FIRST`], which takes away what is
//! there when it is put back. On PostgreSQL that and the load are one transaction; MySQL and MariaDB have none for this, and there a restore that
//! was killed is carried out again: the ledger is the first table to go and the last to come.
mod mysql;
mod postgresql;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Dialect, Result, backup, chain, error, head,
    known::Known,
    server::Server,
    shape::{LEDGER, LOCK, PROBE, Shape},
    wire::{Row, Wire},
};
use crate::{command::Output, crash};

/// What takes Barbican's tables away, beside the dump: statements that come before those of the dump.
pub const FIRST: &str = "restore-first.sql";

/// What stands in the way of a backup, or of restoring it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, one line.
    pub title: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    fn new(title: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { title: title.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.remedy)
    }
}

/// What can go wrong with a backup by client programs.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Found before anything was done.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Problems(Vec<Problem>),
    /// A client program failed.
    #[error("{url}: {doing}: {why}")]
    Program {
        /// The database, without a password.
        url: String,
        /// What was being done.
        doing: &'static str,
        /// The program, how it ended and what it said last.
        why: String,
    },
    /// The client programs read other settings than we do.
    #[error("{url}: the client programs reach another database than the URL names: nothing is done")]
    Elsewhere {
        /// The database, without a password.
        url: String,
    },
    /// The database was written to while it was dumped.
    #[error("{url}: somebody wrote to it while it was backed up{what}: stop what does, then try again")]
    Changed {
        /// The database, without a password.
        url: String,
        /// Tables and their rows before and after, or empty.
        what: String,
    },
    /// No room for the dump.
    #[error("{}: {needed} bytes may be needed for the backup, {free} are free", .path.display())]
    Space {
        /// The file.
        path: PathBuf,
        /// Bytes of the tables.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The dump is not what it should be.
    #[error("{}: the dump is not whole: {why}", .path.display())]
    NotWhole {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
}

/// Names of every table that some revision of Barbican has, and of its ledger.
pub(super) fn known_tables(dialect: Dialect) -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = Known::at(head(), dialect)?.fresh.tables.keys().cloned().collect();
    for revision in chain() {
        // What there was and is no more was renamed or dropped, and a revision that does not say so is refused.
        names.extend(revision.renames.tables.keys().cloned());
        names.extend(revision.drops.iter().filter(|d| !d.contains(['.', ' '])).cloned());
    }
    names.insert(LEDGER.to_owned());
    Ok(names)
}

/// Some of Barbican's tables, which can be copied and put back without the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Those that are there before the migration: they are copied.
    pub tables: BTreeSet<String>,
    /// Those that are taken away before these are put back, by the names that they may have by then.
    pub dropped: BTreeSet<String>,
    /// Those that the migration itself changes; the others refer to them.
    pub changed: BTreeSet<String>,
    /// How many there are in all.
    pub of: usize,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed: Vec<&str> = self.changed.iter().map(String::as_str).collect();
        write!(f, "{} of {} tables: ", self.tables.len(), self.of)?;
        write!(f, "{} are changed, alembic_version", changed.join(", "))?;
        let refer: Vec<&str> =
            self.tables.difference(&self.changed).filter(|t| *t != LEDGER).map(String::as_str).collect();
        if refer.is_empty() { Ok(()) } else { write!(f, "; {} refer to them", refer.join(", ")) }
    }
}

/// What a backup of one database has to do with.
struct Job<'a> {
    server: &'a Server,
    shape: Shape,
    /// Those of Barbican's tables that are there, the ledger last: a load that was killed leaves none.
    tables: Vec<String>,
    /// Those that a restore takes away, whether they are there or not.
    known: BTreeSet<String>,
}

impl<'a> Job<'a> {
    fn new(server: &'a Server) -> Result<Self> {
        Self::of(server, None)
    }

    /// Of these tables only, where some are named.
    fn of(server: &'a Server, part: Option<&Part>) -> Result<Self> {
        let mut known = known_tables(server.wire.dialect())?;
        if let Some(part) = part {
            known.retain(|table| part.dropped.contains(table));
        }
        let shape = server.whole_shape()?;
        let mut tables: Vec<String> = shape.tables.keys().filter(|t| known.contains(*t)).cloned().collect();
        tables.sort_by_key(|t| t == LEDGER);
        Ok(Self { server, shape, tables, known })
    }

    fn wire(&self) -> &Wire {
        &self.server.wire
    }

    /// The names as a list of SQL literals, of which there is at least one.
    fn literals(&self) -> String {
        let names = self.tables.iter().map(|t| format!("'{}'", t.replace('\'', "''")));
        names.chain(["''".to_owned()]).collect::<Vec<_>>().join(", ")
    }

    /// The first column of a query, NULLs left out.
    fn column(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.wire().query(sql)?;
        Ok(rows.into_iter().filter_map(|row: Row| row.into_iter().next().flatten()).collect())
    }

    /// What these queries name: it is not Barbican's, and a restore would take it away.
    fn dependents(&self, queries: &[String]) -> Result<Option<Problem>> {
        let mut found = Vec::new();
        for query in queries {
            found.extend(self.column(query)?);
        }
        let title = "these depend on Barbican's tables, and a restore would have to take them away";
        let remedy = || format!("drop them for the time of the upgrade, {NONE}");
        Ok((!found.is_empty()).then(|| Problem::new(format!("{title}: {}", found.join(", ")), remedy())))
    }

    fn program(&self, doing: &'static str, why: impl fmt::Display) -> DumpError {
        DumpError::Program { url: self.wire().url().to_owned(), doing, why: why.to_string() }
    }

    fn problems(&self) -> Result<Vec<Problem>> {
        match self.wire().dialect() {
            Dialect::Postgresql => postgresql::problems(self),
            Dialect::Mysql | Dialect::Sqlite => mysql::problems(self),
        }
    }

    fn refuse_problems(&self) -> Result<()> {
        let problems = self.problems()?;
        if problems.is_empty() { Ok(()) } else { Err(DumpError::Problems(problems).into()) }
    }

    /// Bytes of the tables, as the server counts them.
    fn size(&self) -> Result<u64> {
        let sql = match self.wire().dialect() {
            Dialect::Postgresql => postgresql::size(self),
            Dialect::Mysql | Dialect::Sqlite => mysql::size(self),
        };
        Ok(self.column(&sql)?.first().and_then(|n| n.parse().ok()).unwrap_or_default())
    }

    /// Refuses where the client programs do not reach the database that we are connected to: what they would dump, or drop, is another one.
    fn refuse_elsewhere(&self) -> Result<()> {
        let counted = self.tables.iter().filter(|t| {
            let columns = self.shape.tables.get(*t).map(|table| &table.columns);
            columns.is_some_and(|columns| columns.contains_key("id"))
        });
        let one = |t: &String| format!("SELECT '{t}', count(*), coalesce(min(id), ''), coalesce(max(id), '') FROM {t}");
        let Some(sql) = counted.map(one).reduce(|all, one| format!("{all} UNION ALL {one}")) else { return Ok(()) };
        let sql = format!("{sql} ORDER BY 1");
        let ours = self.wire().query(&sql)?.into_iter();
        let ours: Vec<String> = ours.map(|r| r.into_iter().flatten().collect::<Vec<_>>().join("\t")).collect();
        let mut theirs = String::new();
        let mut output = match self.wire().dialect() {
            Dialect::Postgresql => postgresql::ask(self, &sql),
            Dialect::Mysql | Dialect::Sqlite => mysql::ask(self, &sql),
        }?;
        output.read_to_string(&mut theirs).map_err(|why| self.program("asking", why))?;
        if ours.iter().map(String::as_str).eq(theirs.lines()) {
            Ok(())
        } else {
            Err(DumpError::Elsewhere { url: self.wire().url().to_owned() }.into())
        }
    }

    /// The dump, as it comes.
    fn dump(&self) -> Result<Output> {
        match self.wire().dialect() {
            Dialect::Postgresql => postgresql::dump(self),
            Dialect::Mysql | Dialect::Sqlite => mysql::dump(self),
        }
    }

    /// What comes before it.
    fn first(&self) -> Result<String> {
        match self.wire().dialect() {
            Dialect::Postgresql => postgresql::first(self),
            Dialect::Mysql | Dialect::Sqlite => Ok(mysql::first(self)),
        }
    }

    /// Looks whether a dump came to its end, and whether these tables are in it where that can be told.
    fn check_dump(&self, path: &Path, tables: &[String]) -> Result<()> {
        match self.wire().dialect() {
            Dialect::Postgresql => postgresql::check_dump(path, tables),
            Dialect::Mysql | Dialect::Sqlite => mysql::check_dump(path),
        }
    }

    /// Writes the dump to `path` and [`FIRST`] beside it; `last` is asked before the dump gets its name.
    fn write(&self, path: &Path, last: impl FnOnce() -> Result<()>) -> Result<()> {
        place(&path.with_file_name(FIRST), |file, partial| {
            let text = self.first()?;
            file.write_all(text.as_bytes()).map_err(|e| error::io(partial, "cannot be written", e))
        })?;
        place(path, |file, partial| {
            crash::point("backup begun");
            self.fill(file, partial)?;
            self.check_dump(partial, &self.tables)?;
            crash::point("backup filled");
            last()
        })
    }

    fn fill(&self, file: &mut File, path: &Path) -> Result<()> {
        let mut output = self.dump()?;
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            piece.clear();
            // However the program cuts its output: the same dump is as many pieces each time.
            let read = output.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            if read.map_err(|why| self.program("dumping", why))? == 0 {
                return Ok(());
            }
            file.write_all(&piece).map_err(|e| error::io(path, "cannot be written", e))?;
            crash::point("piece dumped");
        }
    }
}

/// Bytes of a dump that are written at once.
const PIECE: usize = 1 << 13;

/// Content of a database: fingerprint, and rows of each table.
type State = (String, BTreeMap<String, u64>);

impl Server {
    fn state(&self, part: Option<&Part>) -> Result<State> {
        Ok((self.fingerprint(part.map(|part| &part.tables))?, self.row_counts()?))
    }

    /// Everything that keeps a backup from being taken or from being restored.
    pub(super) fn backup_problems(&self) -> Result<Vec<Problem>> {
        Job::new(self)?.problems()
    }

    /// Bytes of Barbican's tables: about what a backup takes.
    pub(super) fn size(&self) -> Result<u64> {
        Job::new(self)?.size()
    }

    /// The server's product and version, for people.
    pub(super) fn version(&self) -> Result<String> {
        let job = Job { server: self, shape: Shape::default(), tables: Vec::new(), known: BTreeSet::new() };
        match self.wire.dialect() {
            Dialect::Postgresql => postgresql::server(&job).map(|v| format!("PostgreSQL {v}")),
            Dialect::Mysql | Dialect::Sqlite => mysql::server(&job),
        }
    }

    /// The commands that restore the dump `file` by hand, in the directory of the backup. No password is in them.
    pub(super) fn restore_commands(&self, file: &str) -> Result<String> {
        let job = Job::new(self)?;
        match self.wire.dialect() {
            Dialect::Postgresql => postgresql::commands(&job, file),
            Dialect::Mysql | Dialect::Sqlite => mysql::commands(&job, file),
        }
    }

    /// What the user of the URL may not do, though a migration has to: on MySQL it would be found half-way.
    pub(super) fn missing_privileges(&self) -> Result<Vec<Problem>> {
        match self.wire.dialect() {
            Dialect::Mysql => mysql::missing_privileges(&Job::new(self)?),
            Dialect::Postgresql | Dialect::Sqlite => Ok(Vec::new()),
        }
    }

    /// Shell commands for whoever works by hand: one that runs the SQL that it reads, and one that dumps into `$backup`. No password is in them.
    pub(super) fn by_hand(&self) -> Result<(String, String)> {
        let job = Job::new(self)?;
        match self.wire.dialect() {
            Dialect::Postgresql => postgresql::by_hand(&job),
            Dialect::Mysql | Dialect::Sqlite => mysql::by_hand(&job),
        }
    }

    /// Dumps Barbican's tables to `path`, with [`FIRST`] beside it, both mode 0600 and synced, and returns the fingerprint of the database, which
    /// was the same before and after. An interrupted dump never bears the name.
    pub(super) fn backup_to(&self, path: &Path, part: Option<&Part>) -> Result<String> {
        let job = Job::of(self, part)?;
        job.refuse_problems()?;
        let needed = job.size()?;
        let free = free_space(path)?;
        if needed > free {
            return Err(DumpError::Space { path: path.to_owned(), needed, free }.into());
        }
        job.refuse_elsewhere()?;
        let wire = Wire::connect(&self.url, "keymgr-upgrade", self.wait)?;
        match self.wire.dialect() {
            Dialect::Postgresql => postgresql::probe(&job, &wire)?,
            Dialect::Mysql | Dialect::Sqlite => mysql::probe(&job, &wire)?,
        }
        let before = self.state(part)?;
        job.write(path, || {
            let after = self.state(part)?;
            if before == after { Ok(()) } else { Err(self.changed(&before, &after).into()) }
        })?;
        Ok(before.0)
    }

    /// Dumps as [`Self::backup_to`], while others go on writing: what is in the dump is of one moment. Nothing is locked, tried or made on the server.
    pub(super) fn copy_to(&self, path: &Path) -> Result<()> {
        let job = Job::new(self)?;
        job.refuse_problems()?;
        job.write(path, || Ok(()))
    }

    /// Loads the dump at `path`, with [`FIRST`] beside it, where none of its tables is yet: nothing is taken away for it.
    pub(super) fn fill_from(&self, path: &Path) -> Result<()> {
        let job = Job::new(self)?;
        job.refuse_problems()?;
        job.check_dump(path, &[LEDGER.to_owned()])?;
        let first = path.with_file_name(FIRST);
        let first = fs::read_to_string(&first).map_err(|e| error::io(&first, "cannot be read", e))?;
        let first: String = first.split_inclusive(";\n").filter(|statement| !statement.starts_with("DROP ")).collect();
        match self.wire.dialect() {
            Dialect::Postgresql => postgresql::load(&job, &first, path),
            Dialect::Mysql | Dialect::Sqlite => mysql::load(&job, &first, path),
        }
    }

    /// Takes away Barbican's tables, and what a killed run may have left beside them.
    pub(super) fn clear(&self) -> Result<()> {
        let first = Job::new(self)?.first()?;
        if self.wire.dialect() == Dialect::Postgresql {
            self.begin()?;
        }
        let makes = |statement: &&str| ["CREATE ", "ALTER "].iter().any(|word| statement.starts_with(word));
        for statement in first.split_inclusive(";\n").filter(|statement| !makes(statement)) {
            self.wire.execute(statement)?;
        }
        for table in [LOCK, PROBE] {
            self.wire.execute(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
        if self.wire.dialect() == Dialect::Postgresql { self.commit() } else { Ok(()) }
    }

    fn changed(&self, before: &State, after: &State) -> DumpError {
        let rows = |state: &State, table: &str| state.1.get(table).map_or_else(|| "none".to_owned(), u64::to_string);
        let names: BTreeSet<&String> = before.1.keys().chain(after.1.keys()).collect();
        let differ = names.into_iter().filter(|t| before.1.get(*t) != after.1.get(*t));
        let tables: Vec<String> =
            differ.map(|t| format!("{t} had {} rows, then {}", rows(before, t), rows(after, t))).collect();
        let what = if tables.is_empty() { String::new() } else { format!(" ({})", tables.join(", ")) };
        DumpError::Changed { url: self.wire.url().to_owned(), what }
    }

    /// Puts the dump at `path`, with [`FIRST`] beside it, in the place of Barbican's tables, and returns the fingerprint of what is there then. May
    /// be repeated after a crash. Whether the files are those of the backup is the caller's to know.
    pub(super) fn restore_from(&self, path: &Path, part: Option<&Part>) -> Result<String> {
        let job = Job::of(self, part)?;
        job.refuse_problems()?;
        job.check_dump(path, &[LEDGER.to_owned()])?;
        job.refuse_elsewhere()?;
        let first = path.with_file_name(FIRST);
        let first = fs::read_to_string(&first).map_err(|e| error::io(&first, "cannot be read", e))?;
        crash::point("restore begun");
        match self.wire.dialect() {
            Dialect::Postgresql => postgresql::load(&job, &first, path),
            Dialect::Mysql | Dialect::Sqlite => mysql::load(&job, &first, path),
        }?;
        crash::point("database restored");
        self.fingerprint(part.map(|part| &part.tables))
    }
}

/// Writes a file that bears its name only when it is whole and on disk.
fn place(path: &Path, write: impl FnOnce(&mut File, &Path) -> Result<()>) -> Result<()> {
    let partial = backup::partial(path);
    backup::remove(&partial)?;
    let written = || {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
        let mut file = file.map_err(|e| error::io(&partial, "cannot be created", e))?;
        write(&mut file, &partial)?;
        file.sync_all().map_err(|e| error::io(&partial, "cannot be synced", e))?;
        #[expect(clippy::disallowed_methods, reason = "file and directory are synced here")]
        fs::rename(&partial, path).map_err(|e| error::io(path, "cannot be put in place", e))?;
        backup::sync_directory(path)
    };
    let done = written();
    if done.is_err() {
        // A disk that was too small for the backup needs the room. The error that matters is the first one.
        backup::remove(&partial).ok();
    }
    done
}

/// Bytes free where `path` is to be, for an unprivileged writer.
fn free_space(path: &Path) -> Result<u64> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(directory).map_err(|e| error::io(directory, "cannot be looked at", e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The command that restores a SQLite file by hand: into the file, not over it, since a leftover `-wal` would undo a replaced file.
pub(super) fn sqlite_commands(path: &Path, file: &str) -> String {
    format!("sqlite3 {} \".restore '{file}'\"\n", shell_word(&path.display().to_string()))
}

/// A word as a shell reads it.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The numbers at the beginning of a version, `15.20 (Debian 15.20-0+deb12u1)` -> 15, 20.
fn numbers(version: &str) -> Vec<u64> {
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    version.get(..end).unwrap_or_default().split('.').map_while(|n| n.parse().ok()).collect()
}

const NONE: &str = "or set [database] backup = none and have a backup of your own";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_every_revision_are_known() {
        let known = known_tables(Dialect::Mysql).unwrap();
        for name in ["alembic_version", "secrets", "tenants", "projects", "tenant_secret", "kek_data"] {
            assert!(known.contains(name), "{name} is not in {known:?}");
        }
        assert!(!known.contains("keymgr_upgrade_lock"), "a lock is never restored");
        // Every table at every revision.
        for revision in chain() {
            for table in Known::at(&revision.id, Dialect::Mysql).unwrap().fresh.tables.keys() {
                assert!(known.contains(table), "{table} of {}", revision.id);
            }
        }
    }

    #[test]
    fn words_and_versions() {
        assert_eq!(shell_word("--user=barbican"), "--user=barbican");
        assert_eq!(shell_word("host='a' b"), "'host='\\''a'\\'' b'");
        assert_eq!(numbers("15.20 (Debian 15.20-0+deb12u1)"), [15, 20]);
        assert_eq!(numbers("10.11.19-MariaDB"), [10, 11, 19]);
        assert!(numbers("unknown").is_empty());
    }
}
