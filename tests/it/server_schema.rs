//! PostgreSQL and MariaDB: every start that Barbican's own tools ever made to every later head, by the true binary,
//! with rows in every table. What comes of it is looked at with SQLAlchemy and compared with what Barbican's own
//! migrations make of the same start.

mod content;
mod look;
mod stopped;
mod theirs;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

pub(crate) use content::{Content, Row};
use content::{expected, unlike};
use keymgr_upgrade::db::{Dialect, position};
pub(crate) use look::{Look, Upstream, db_manage, migrate_by_upstream};
pub(crate) use theirs::Allowances;
use theirs::result_dump;

use crate::{
    common::{Said, said},
    servers::{self, Base, Server},
};

pub(crate) const HEAD: &str = "8c74e2d7f1ff";

/// The last revision of each release that has one.
const HEADS: [&str; 7] =
    ["254495565185", "6a4457517a3", "4ecde3a3a72a", "d2780d5aa510", "39cf2e645cba", "0f8c192a061f", HEAD];

/// Dumps of databases that Barbican's own tools made, and their revisions. The empty name is the empty database.
static STARTS: [(&str, &str); 15] = [
    ("", ""),
    ("2014.2-createall", "254495565185"),
    ("chain-254495565185-juno", "254495565185"),
    ("2015.1-eol-createall", "6a4457517a3"),
    ("chain-6a4457517a3-kilo", "6a4457517a3"),
    ("1.0-eol-createall", "4ecde3a3a72a"),
    ("chain-4ecde3a3a72a-liberty", "4ecde3a3a72a"),
    ("2.0-eol-createall", "d2780d5aa510"),
    ("chain-d2780d5aa510-mitaka", "d2780d5aa510"),
    ("2014.2-createall-upgraded-to-3.0", "39cf2e645cba"),
    ("3.0-eol-createall", "39cf2e645cba"),
    ("9.0.1", "39cf2e645cba"),
    ("10.0.0", "0f8c192a061f"),
    ("10.0.0-createall", "0f8c192a061f"),
    ("12.0.2", "0f8c192a061f"),
];

/// Databases at the newest revision, each as another way ended.
const ENDS: [&str; 5] = [
    "23.0.0",
    "23.0.0-createall",
    "3.0-eol-createall-upgraded-to-23.0.0",
    "2014.2-createall-upgraded-by-10.0.0-then-23.0.0",
    "chain-then-23.0.0",
];

fn later(revision: &str) -> impl Iterator<Item = &'static str> {
    let at = position(revision).ok();
    HEADS.into_iter().filter(move |head| at.is_none_or(|at| position(head).unwrap() > at))
}

pub(crate) fn server(dialect: Dialect) -> Server {
    match dialect {
        Dialect::Postgresql => servers::postgresql(),
        Dialect::Mysql => servers::mariadb(),
        Dialect::Sqlite => panic!("SQLite has no server"),
    }
}

/// The text of a dump; none for the empty database.
pub(crate) fn dump(dialect: Dialect, name: &str) -> String {
    let prefix = match dialect {
        _ if name.is_empty() => return String::new(),
        Dialect::Postgresql => "postgresql",
        Dialect::Mysql => "mysql",
        Dialect::Sqlite => "sqlite",
    };
    let path = format!("tests/fixtures/schema/{prefix}-{name}.sql");
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// All of a database as text. pg_dump puts a word of chance around it.
pub(crate) fn dumped(base: &Base) -> String {
    let text = base.dump();
    let lasting = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
    text.lines().filter(lasting).collect::<Vec<_>>().join("\n")
}

/// An operator's host that has nothing but a configuration with this database. It takes no backups: those have tests of
/// their own, and would take most of the time of these.
pub(crate) struct Site {
    root: tempfile::TempDir,
}

impl Site {
    pub(crate) fn on(url: &str) -> Self {
        let root = tempfile::Builder::new().prefix("keymgr-it-").tempdir().unwrap();
        let etc = root.path().join("etc/barbican");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("barbican.conf"), format!("[DEFAULT]\nsql_connection = {url}\n")).unwrap();
        let site = Self { root };
        site.set("");
        site
    }

    /// Writes the tool's own settings.
    fn set(&self, settings: &str) {
        let etc = self.root.path().join("etc/keymgr-upgrade");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("keymgr-upgrade.conf"), format!("[database]\nbackup = none\n{settings}")).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keymgr-upgrade"));
        command
            .arg("--root")
            .arg(self.root.path())
            .arg("--allow-network-db")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(std::process::Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }
}

/// A database as it was before.
struct Start {
    /// The dump's name.
    name: &'static str,
    /// Its SQL text.
    text: String,
    /// Its revision; empty for the empty database.
    revision: &'static str,
    /// All that is in it.
    rows: Content,
}

impl Start {
    /// What must be in it at a later revision.
    fn rows_at(&self, to: &str) -> Content {
        if self.revision.is_empty() {
            let ledger = [("version_num".to_owned(), Some(to.to_owned()))].into();
            return [("alembic_version".to_owned(), vec![ledger])].into();
        }
        expected(&self.rows, self.revision, to)
    }
}

/// What the matrix of a dialect is run with, and what came of it.
struct Matrix {
    dialect: Dialect,
    server: Server,
    look: Look,
    /// The result dumps that have been loaded.
    theirs: BTreeMap<&'static str, Base>,
    allowances: Allowances,
    wrong: Vec<String>,
}

impl Matrix {
    fn of(dialect: Dialect) -> Self {
        let wrong = Vec::new();
        let allowances = Allowances::of(dialect);
        Self { dialect, server: server(dialect), look: Look::start(), theirs: BTreeMap::new(), allowances, wrong }
    }

    /// A start with rows in every table.
    fn filled(&mut self, start: &'static str, revision: &'static str) -> Start {
        let mut text = dump(self.dialect, start);
        if start.is_empty() {
            return Start { name: start, text, revision, rows: Content::new() };
        }
        let base = self.server.database(&text);
        let inserts = self.look.inserts(&base.url());
        base.load(&inserts);
        text.push_str(&inserts);
        Start { name: start, text, revision, rows: self.look.rows(&base.url()) }
    }

    /// One start to one head by the true binary; what of it is not as it must be.
    fn hop(&mut self, start: &Start, to: &str) -> (Base, Vec<String>) {
        let base = self.server.database(&start.text);
        let site = Site::on(&base.url());
        let mut wrong = Vec::new();
        for arguments in [&["db", "upgrade", to, "--yes"][..], &["db", "verify"]] {
            let run = site.run(arguments);
            if run.code != 0 {
                wrong.push(format!("{}: exit {}: {}", arguments.join(" "), run.code, run.all()));
                return (base, wrong);
            }
        }
        wrong.extend(unlike(&start.rows_at(to), &self.look.rows(&base.url())));
        (base, wrong)
    }

    /// Shows one row of the table, and notes its differences, of which those that are allowed are no fault.
    #[expect(clippy::print_stdout, reason = "the table is for the reader of the test")]
    fn note(&mut self, start: &str, to: &str, against: &str, differences: Vec<String>, mut wrong: Vec<String>) {
        let all = differences.len();
        let left = self.allowances.without_allowed(start, to, differences);
        let allowed = all - left.len();
        wrong.extend(left.into_iter().map(|line| format!("{against}: {line}")));
        let result = match (wrong.is_empty(), allowed) {
            (false, _) => "WRONG".to_owned(),
            (true, 0) => "equal".to_owned(),
            (true, n) => format!("equal but for {n} explained"),
        };
        let start = if start.is_empty() { "an empty database" } else { start };
        println!("{:10} {start:<34} {to:<13} {against:<48} {result}", format!("{:?}", self.dialect));
        self.wrong.extend(wrong.into_iter().map(|line| format!("{start} -> {to}: {line}")));
    }

    /// The reasons, and the faults.
    #[expect(clippy::print_stdout, reason = "the table is for the reader of the test")]
    fn end(self) {
        self.allowances.told().for_each(|line| println!("explained: {line}"));
        assert!(self.wrong.is_empty(), "{} faults:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }

    /// Starts to every later head; by result dumps where there are some.
    fn by_dumps(mut self, starts: &[(&'static str, &'static str)]) {
        for &(start, from) in starts {
            let filled = self.filled(start, from);
            for to in later(from) {
                let (base, wrong) = self.hop(&filled, to);
                let theirs = result_dump(start, to);
                let differences = match theirs.filter(|_| wrong.is_empty()) {
                    Some(name) => {
                        let load = || self.server.database(&dump(self.dialect, name));
                        let other = self.theirs.entry(name).or_insert_with(load).url();
                        self.look.schema(&base.url(), &other)
                    }
                    None => Vec::new(),
                };
                self.note(start, to, theirs.unwrap_or("(no dump: db verify, rows)"), differences, wrong);
            }
        }
        self.end();
    }

    /// Starts to every later head by us and by Barbican's own tools: schema and every row. Then each accepts what
    /// the other made.
    fn by_upstream(mut self, starts: &[(&'static str, &'static str)]) {
        for &(start, from) in starts {
            let filled = self.filled(start, from);
            for to in later(from) {
                let (base, mut wrong) = self.hop(&filled, to);
                let theirs = self.server.database(&filled.text);
                let mut differences = Vec::new();
                let mut against = "barbican-db-manage";
                match migrate_by_upstream(&theirs.url(), from, to) {
                    Ok(()) if wrong.is_empty() => {
                        differences = self.look.all(&base.url(), &theirs.url());
                        let rows = unlike(&filled.rows_at(to), &self.look.rows(&theirs.url()));
                        wrong.extend(rows.into_iter().map(|line| format!("theirs: {line}")));
                        let verify = Site::on(&theirs.url()).run(&["db", "verify"]);
                        if verify.code != 0 {
                            wrong.push(format!("theirs is not known: {}", verify.all()));
                        }
                    }
                    Ok(()) => {}
                    Err(_) if theirs::fails_upstream(start, to) => against = "barbican-db-manage fails",
                    Err(said) => wrong.push(format!("barbican-db-manage failed: {said}")),
                }
                if let Some(said) = wrong.is_empty().then(|| self.nothing_to_do(&base, to)).flatten() {
                    wrong.push(said);
                }
                self.note(start, to, against, differences, wrong);
            }
        }
        self.end();
    }

    /// Barbican's own tool, run to the same revision, changes nothing; what it said if it does or complains.
    fn nothing_to_do(&self, base: &Base, revision: &str) -> Option<String> {
        let upstream = if revision == HEAD { Upstream::New } else { Upstream::Old };
        let before = dumped(base);
        let run = db_manage(upstream, &base.url(), &["upgrade", "-v", revision]);
        if run.code != 0 {
            return Some(format!("barbican-db-manage refuses our result: {}", run.all()));
        }
        (dumped(base) != before).then(|| format!("barbican-db-manage changes our result: {}", run.all()))
    }
}

/// The starts in three parts, of which each has as many hops.
fn part(part: usize) -> &'static [(&'static str, &'static str)] {
    let (early, late) = STARTS.split_at(7);
    let (early, middle) = early.split_at(3);
    [early, middle, late][part]
}

#[test]
fn postgresql_from_nothing_and_juno_to_every_later_head() {
    Matrix::of(Dialect::Postgresql).by_dumps(part(0));
}

#[test]
fn postgresql_from_kilo_and_liberty_to_every_later_head() {
    Matrix::of(Dialect::Postgresql).by_dumps(part(1));
}

#[test]
fn postgresql_from_mitaka_on_to_every_later_head() {
    Matrix::of(Dialect::Postgresql).by_dumps(part(2));
}

#[test]
fn mariadb_from_nothing_and_juno_to_every_later_head() {
    Matrix::of(Dialect::Mysql).by_dumps(part(0));
}

#[test]
fn mariadb_from_kilo_and_liberty_to_every_later_head() {
    Matrix::of(Dialect::Mysql).by_dumps(part(1));
}

#[test]
fn mariadb_from_mitaka_on_to_every_later_head() {
    Matrix::of(Dialect::Mysql).by_dumps(part(2));
}

#[test]
#[ignore = "some minutes: Barbican's own tool migrates each start to each head too"]
fn postgresql_from_nothing_and_juno_we_end_where_barbican_db_manage_ends() {
    Matrix::of(Dialect::Postgresql).by_upstream(part(0));
}

#[test]
#[ignore = "some minutes: Barbican's own tool migrates each start to each head too"]
fn postgresql_from_kilo_and_liberty_we_end_where_barbican_db_manage_ends() {
    Matrix::of(Dialect::Postgresql).by_upstream(part(1));
}

#[test]
#[ignore = "some minutes: Barbican's own tool migrates each start to each head too"]
fn postgresql_from_mitaka_on_we_end_where_barbican_db_manage_ends() {
    Matrix::of(Dialect::Postgresql).by_upstream(part(2));
}

#[test]
#[ignore = "some minutes: Barbican's own tool migrates each start to each head too"]
fn mariadb_from_nothing_and_juno_we_end_where_barbican_db_manage_ends() {
    Matrix::of(Dialect::Mysql).by_upstream(part(0));
}

#[test]
#[ignore = "some minutes: Barbican's own tool migrates each start to each head too"]
fn mariadb_from_kilo_and_liberty_we_end_where_barbican_db_manage_ends() {
    Matrix::of(Dialect::Mysql).by_upstream(part(1));
}

#[test]
#[ignore = "some minutes: Barbican's own tool migrates each start to each head too"]
fn mariadb_from_mitaka_on_we_end_where_barbican_db_manage_ends() {
    Matrix::of(Dialect::Mysql).by_upstream(part(2));
}

/// Every dump is known to `db verify`, which changes nothing, and names what a fresh install has otherwise.
fn knows_every_dump(dialect: Dialect) {
    let server = server(dialect);
    let names: BTreeSet<&str> = STARTS.iter().map(|(name, _)| *name).chain(ENDS).filter(|n| !n.is_empty()).collect();
    let mut wrong = Vec::new();
    for name in names {
        let base = server.database(&dump(dialect, name));
        let before = dumped(&base);
        let run = Site::on(&base.url()).run(&["db", "verify"]);
        if run.code != 0 {
            wrong.push(format!("{name}: {}", run.all()));
        }
        assert!(before == dumped(&base), "{name}: db verify wrote");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn postgresql_every_dump_is_known() {
    knows_every_dump(Dialect::Postgresql);
}

#[test]
fn mariadb_every_dump_is_known() {
    knows_every_dump(Dialect::Mysql);
}

/// For the long ways: Barbican's own tool accepts our result, has nothing to do, and names its own head.
fn upstream_has_nothing_to_do(dialect: Dialect) {
    let mut matrix = Matrix::of(dialect);
    for (start, from) in [("chain-254495565185-juno", "254495565185"), ("2014.2-createall", "254495565185")] {
        let filled = matrix.filled(start, from);
        for to in ["0f8c192a061f", HEAD] {
            let (base, wrong) = matrix.hop(&filled, to);
            assert_eq!(wrong, [""; 0], "{start} -> {to}");
            assert_eq!(matrix.nothing_to_do(&base, to), None, "{start} -> {to}");
            let upstream = if to == HEAD { Upstream::New } else { Upstream::Old };
            db_manage(upstream, &base.url(), &["current"]).expect(0).says(&format!("{to} (head)"));
        }
    }
}

#[test]
fn postgresql_barbican_db_manage_has_nothing_to_do() {
    upstream_has_nothing_to_do(Dialect::Postgresql);
}

#[test]
fn mariadb_barbican_db_manage_has_nothing_to_do() {
    upstream_has_nothing_to_do(Dialect::Mysql);
}
