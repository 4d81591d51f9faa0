//! Migrating a database on a server: statement by statement, each only where the live schema says that it is not done yet.
//!
//! PostgreSQL runs all of it in one transaction. MySQL and MariaDB commit at every statement: there a migration that stopped between any two of
//! them, ours or one of Barbican's own tools, is taken up where it is, if it leads to a known schema from there.
use std::{collections::BTreeSet, time::Instant};

use super::Server;
use crate::systemd::notify;
use crate::{
    crash,
    db::{
        Dialect, Error, Ledger, Migrated, Offence, Orphans, Result, Shape, between,
        chain::Revision,
        dump::Part,
        guard::{Guard, Guarded, Place, Verdict},
        inventory,
        known::Known,
        ledger, precondition,
        shape::{LEDGER, Table},
        sqlite::quoted,
    },
};

/// What a migration would do.
struct Way {
    /// The statements, revision by revision.
    statements: Vec<(String, Vec<String>)>,
    /// The schema that it would end in.
    end: Shape,
    /// The tables that the statements are about, by their names before and after.
    tables: BTreeSet<String>,
}

impl Server {
    pub(in crate::db) fn migration_sql(&self, from: Option<&str>, to: &str) -> Result<Vec<(String, Vec<String>)>> {
        let mut way = self.way(self.shape()?, between(from, to)?)?;
        let mut ledger = self.revision();
        for (revision, statements) in &mut way.statements {
            statements.extend(ledger::statements(ledger, revision)?);
            ledger = Ok(Ledger::At(revision.clone()));
        }
        Ok(way.statements)
    }

    pub(in crate::db) fn preconditions(&self, from: Option<&str>, to: &str, orphans: Orphans) -> Result<Vec<Offence>> {
        self.offences(&self.shape()?, between(from, to)?, orphans)
    }

    fn offences(&self, live: &Shape, revisions: &[Revision], orphans: Orphans) -> Result<Vec<Offence>> {
        let ask = |_: &_, query: &str| self.wire.names_and_rows(query);
        precondition::offences(self.wire.dialect(), live, revisions, orphans, ask)
    }

    pub(in crate::db) fn migrate(&self, from: Option<&str>, to: &str, orphans: Orphans) -> Result<Migrated> {
        let revisions = between(from, to)?;
        if self.wire.dialect() == Dialect::Mysql {
            return self.migrate_inside(from, to, revisions, orphans);
        }
        self.patiently(|| {
            self.begin()?;
            let done = self.migrate_inside(from, to, revisions, orphans).and_then(|done| {
                self.commit()?;
                Ok(done)
            });
            if done.is_err() {
                self.rollback();
            }
            done
        })
    }

    fn migrate_inside(
        &self,
        from: Option<&str>,
        to: &str,
        revisions: &[Revision],
        orphans: Orphans,
    ) -> Result<Migrated> {
        let mut live = self.shape()?;
        self.check_start(&live, from, to)?;
        let mut done = Migrated { before: self.row_counts()?, ..Migrated::default() };
        let offences = self.offences(&live, revisions, orphans)?;
        if !offences.is_empty() {
            return Err(Error::Offences(offences));
        }
        for revision in revisions {
            live = self.run(revision, &live, orphans)?;
            done.revisions.push(revision.id.clone());
        }
        let end = Known::at(to, self.wire.dialect())?.verify(&live);
        if end.matches.is_none() {
            return Err(Error::UnknownShape { revision: to.to_owned(), differences: end.differences });
        }
        done.after = self.row_counts()?;
        let lost = inventory::lost_rows(&done.before, &done.after, revisions);
        if !lost.is_empty() {
            return Err(self.lost(to, lost));
        }
        Ok(done)
    }

    /// The ledger must say what the caller thinks, and the schema `live` must lead to a known one: also one that a migration left half done, where
    /// all that is there fits.
    pub(super) fn check_start(&self, live: &Shape, from: Option<&str>, to: &str) -> Result<()> {
        self.revision()?.starts(from, live)?;
        let dialect = self.wire.dialect();
        let end = self.way(live.clone(), between(from, to)?)?.end;
        let end = Known::at(to, dialect)?.verify(&end);
        if end.matches.is_some() {
            return Ok(());
        }
        // What is wrong from the beginning says more than what becomes of it.
        if let Some(from) = from {
            let start = Known::at(from, dialect)?.verify(live);
            if start.matches.is_none() {
                return Err(Error::UnknownShape { revision: from.to_owned(), differences: start.differences });
            }
        }
        Err(Error::UnknownShape { revision: to.to_owned(), differences: end.differences })
    }

    /// Whether the live schema is one known for `from`, or one from which the way to `to` is known: half-done migrations are.
    pub(in crate::db) fn leads_to(&self, from: &str, to: &str) -> Result<()> {
        self.check_start(&self.shape()?, Some(from), to)
    }

    /// What running `revisions` would do to `shape`, found without running them.
    fn way(&self, mut shape: Shape, revisions: &[Revision]) -> Result<Way> {
        let dialect = self.wire.dialect();
        let options = self.table_options()?;
        let (mut statements, mut tables) = (Vec::new(), BTreeSet::new());
        for revision in revisions {
            let known = Known::at(&revision.id, dialect)?;
            let mut run = Vec::new();
            for (place, guarded) in places(revision, &known, dialect) {
                for name in judge(revision, guarded, &shape, place)? {
                    run.push(written(guarded, &name, &options));
                    tables.extend(guarded.guard.tables().into_iter().map(str::to_owned));
                    guarded.guard.apply(&guarded.sql, &mut shape, place);
                }
            }
            statements.push((revision.id.clone(), run));
        }
        Ok(Way { statements, end: shape, tables })
    }

    /// The tables that a migration changes, and those that refer to them: they cannot do without.
    pub(in crate::db) fn touched(&self, from: &str, to: &str) -> Result<Part> {
        let live = self.shape()?;
        let changed = self.way(live.clone(), between(Some(from), to)?)?.tables;
        let mut dropped = changed.clone();
        dropped.insert(LEDGER.to_owned());
        loop {
            let refers = |table: &Table| table.foreign_keys.iter().any(|key| dropped.contains(&key.table));
            let more: Vec<String> = live
                .tables
                .iter()
                .filter(|(n, t)| !dropped.contains(*n) && refers(t))
                .map(|(n, _)| n.clone())
                .collect();
            if more.is_empty() {
                break;
            }
            dropped.extend(more);
        }
        let tables = dropped.iter().filter(|t| *t == LEDGER || live.tables.contains_key(*t)).cloned().collect();
        Ok(Part { tables, dropped, changed, of: live.tables.len() + 1 })
    }

    /// Runs one revision on the schema `live` and its ledger entry, proves that nothing was lost, and returns the new schema.
    fn run(&self, revision: &Revision, live: &Shape, orphans: Orphans) -> Result<Shape> {
        let dialect = self.wire.dialect();
        let known = Known::at(&revision.id, dialect)?;
        let options = self.table_options()?;
        let (mut now, mut changed) = (live.clone(), false);
        for (place, guarded) in places(revision, &known, dialect) {
            // Rows that are in the way are put right on the operator's word only.
            if matches!(guarded.guard, Guard::Tidy { .. }) && orphans == Orphans::Refuse {
                continue;
            }
            let names = judge(revision, guarded, &now, place)?;
            for name in &names {
                self.execute(&written(guarded, name, &options))?;
                guarded.guard.apply(&guarded.sql, &mut now, place);
                changed |= !guarded.guard.is_data();
            }
        }
        // What a statement makes of the schema is foretold within a revision, and looked at after it.
        if changed {
            now = self.shape()?;
        }
        let lost = inventory::lost(live, &now, revision);
        if !lost.is_empty() {
            return Err(self.lost(&revision.id, lost));
        }
        self.patiently(|| self.write_ledger(&ledger::statements(self.revision(), &revision.id)?))?;
        Ok(now)
    }

    /// What a new table needs to be like the others on MySQL, where a foreign key demands the same character set on both sides and the default of
    /// the database may have been changed since they were made. Empty where the default will do.
    fn table_options(&self) -> Result<String> {
        if self.wire.dialect() != Dialect::Mysql {
            return Ok(String::new());
        }
        let rows = self.wire.query(
            "SELECT c.character_set_name, c.collation_name FROM information_schema.columns c
             JOIN information_schema.schemata s ON s.schema_name = c.table_schema
             WHERE c.table_schema = DATABASE() AND c.table_name = 'secrets' AND c.column_name = 'id'
                AND c.collation_name <> s.default_collation_name",
        )?;
        Ok(match rows.first().map(Vec::as_slice) {
            Some([Some(set), Some(collation)]) => format!(" DEFAULT CHARACTER SET {set} COLLATE {collation}"),
            _ => String::new(),
        })
    }

    fn execute(&self, statement: &str) -> Result<()> {
        // A server may work for hours on one statement.
        let _at_work = notify::elsewhere();
        let run = || self.wire.execute(statement).map(drop);
        // In a transaction there is no second try of one statement.
        if self.in_transaction.get() {
            run()?
        } else {
            self.patiently(run)?
        }
        crash::point("statement run");
        Ok(())
    }

    /// Tries again while others hold what is needed, as long as waiting is allowed. In between the others get their turn: whoever waits for a table
    /// keeps everyone who comes later waiting too.
    fn patiently<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            match work() {
                Err(busy @ Error::LockTimeout { .. }) if !self.in_transaction.get() && start.elapsed() < self.wait => {
                    log::warn!("{busy}; trying again");
                    self.wire.query(match self.wire.dialect() {
                        Dialect::Postgresql => "SELECT pg_sleep(1)",
                        _ => "SELECT sleep(1)",
                    })?;
                }
                done => return done,
            }
        }
    }

    fn lost(&self, revision: &str, lost: Vec<String>) -> Error {
        let revision = revision.to_owned();
        if self.in_transaction.get() { Error::Lost { revision, lost } } else { Error::LostForGood { revision, lost } }
    }
}

/// Each statement of a revision with where it stands.
fn places<'a>(
    revision: &'a Revision,
    known: &'a Known,
    dialect: Dialect,
) -> impl Iterator<Item = (Place<'a>, &'a Guarded)> {
    let statements = revision.guarded(dialect);
    statements.iter().enumerate().map(move |(n, guarded)| {
        let later = statements.get(n + 1..).unwrap_or_default();
        (Place { dialect, known, later }, guarded)
    })
}

/// The names to run a statement for; none if it is done.
fn judge(revision: &Revision, guarded: &Guarded, live: &Shape, place: Place<'_>) -> Result<Vec<String>> {
    match guarded.guard.judge(live, place) {
        Verdict::Run(names) => Ok(names),
        Verdict::Done => Ok(Vec::new()),
        Verdict::Stop(why) => Err(Error::InTheWay {
            revision: revision.id.clone(),
            statement: guarded.sql.lines().next().unwrap_or_default().to_owned(),
            why,
        }),
    }
}

/// The statement for one of the names that its guard found.
fn written(guarded: &Guarded, name: &str, table_options: &str) -> String {
    let sql = guarded.sql.replace("{name}", &quoted(name));
    if matches!(guarded.guard, Guard::MakeTable { .. }) { sql + table_options } else { sql }
}
