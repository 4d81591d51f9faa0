//! Migrating a SQLite database: one transaction a hop, and nothing in it is taken on trust.
use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, backup::StepResult};

use super::{
    Dialect, Error, Migrated, Offence, Orphans, Result, Shape, between,
    chain::{Renames, Revision},
    inventory, known, ledger, precondition,
    rows::{row_counts, show},
    shape::LEDGER,
    sqlite::{Sqlite, has_table, quoted},
};
use crate::crash;
use crate::systemd::notify;

impl Sqlite {
    pub(super) fn migrate(&mut self, from: Option<&str>, to: &str, orphans: Orphans) -> Result<Migrated> {
        let revisions = between(from, to)?;
        self.begin()?;
        let result = self.migrate_inside(from, to, revisions, orphans);
        if result.is_ok() {
            self.commit()?;
        } else {
            self.rollback();
        }
        result
    }

    fn migrate_inside(
        &self,
        from: Option<&str>,
        to: &str,
        revisions: &[Revision],
        orphans: Orphans,
    ) -> Result<Migrated> {
        self.check_start(from)?;
        let count = || row_counts(&self.conn).map_err(self.fail("cannot count rows"));
        let mut done = Migrated { before: count()?, ..Migrated::default() };
        if revisions.is_empty() {
            done.after.clone_from(&done.before);
            return Ok(done);
        }
        self.check_integrity()?;
        let mut dangling = self.dangling()?;
        let offences = self.offences(revisions, orphans)?;
        if !offences.is_empty() {
            return Err(Error::Offences(offences));
        }
        for revision in revisions {
            self.run(revision)?;
            done.revisions.push(revision.id.clone());
            dangling = dangling.into_iter().map(|d| d.renamed(&revision.renames)).collect();
        }
        self.check_integrity()?;
        let after = self.dangling()?;
        let broken: Vec<String> = after.difference(&dangling).map(Dangling::to_string).collect();
        if !broken.is_empty() {
            return Err(Error::BrokenReferences(broken));
        }
        self.check_shape(to)?;
        done.dangling = after.iter().map(Dangling::to_string).collect();
        done.after = count()?;
        Ok(done)
    }

    /// The ledger and the live schema must both be what the caller thinks.
    fn check_start(&self, from: Option<&str>) -> Result<()> {
        self.revision()?.starts(from, &self.shape()?)?;
        from.map_or(Ok(()), |id| self.check_shape(id))
    }

    fn check_shape(&self, revision: &str) -> Result<()> {
        let verification = known::verify(&self.shape()?, revision)?;
        match verification.matches {
            Some(_) => Ok(()),
            None => Err(Error::UnknownShape { revision: revision.to_owned(), differences: verification.differences }),
        }
    }

    fn check_integrity(&self) -> Result<()> {
        let check = || {
            let mut query = self.conn.prepare("PRAGMA integrity_check(10)")?;
            query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        let lines = check().map_err(self.fail("cannot check the integrity"))?;
        if lines == ["ok"] {
            return Ok(());
        }
        Err(Error::Corrupt { path: self.path.clone(), detail: lines.join("; ") })
    }

    /// Runs one revision and its ledger entry, proves that nothing was lost, and returns what was run.
    fn run(&self, revision: &Revision) -> Result<Vec<String>> {
        let mut ran = Vec::new();
        if !revision.sqlite.is_empty() {
            let before = Inventory::take(&self.conn).map_err(self.fail("cannot take stock"))?;
            for statement in &revision.sqlite {
                self.execute(revision, statement)?;
                ran.push(statement.clone());
            }
            let own = before.own_indexes(&self.conn, revision);
            for statement in own.map_err(self.fail("cannot look for indexes"))? {
                self.execute(revision, &statement)?;
                ran.push(statement);
            }
            let after = Inventory::take(&self.conn).map_err(self.fail("cannot take stock"))?;
            let lost = before.lost(&after, revision);
            if !lost.is_empty() {
                return Err(Error::Lost { revision: revision.id.clone(), lost });
            }
        }
        let written = ledger::statements(self.revision(), &revision.id)?;
        self.write_ledger(&written)?;
        ran.extend(written);
        Ok(ran)
    }

    fn execute(&self, revision: &Revision, statement: &str) -> Result<()> {
        let first = statement.lines().next().unwrap_or_default();
        let doing = format!("revision {}: cannot run `{first}`", revision.id);
        let at_work = notify::elsewhere();
        self.conn.execute_batch(statement).map_err(self.fail(doing))?;
        drop(at_work);
        // Not on a copy, which has no transaction and nothing to lose.
        if !self.conn.is_autocommit() {
            crash::point("statement run");
        }
        Ok(())
    }

    pub(super) fn migration_sql(&self, from: Option<&str>, to: &str) -> Result<Vec<(String, Vec<String>)>> {
        let revisions = between(from, to)?;
        if revisions.is_empty() {
            return Ok(Vec::new());
        }
        let trial = self.schema_copy().map_err(self.fail("cannot copy the schema"))?;
        revisions.iter().map(|revision| Ok((revision.id.clone(), trial.run(revision)?))).collect()
    }

    /// The live schema and ledger in memory, without any other row.
    fn schema_copy(&self) -> rusqlite::Result<Self> {
        let copy = Connection::open_in_memory()?;
        copy.pragma_update(None, "foreign_keys", false)?;
        let mut objects = self.conn.prepare(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 ELSE 2 END",
        )?;
        let mut rows = objects.query([])?;
        while let Some(row) = rows.next()? {
            copy.execute_batch(&row.get::<_, String>(0)?)?;
        }
        if has_table(&self.conn, LEDGER)? {
            let mut ledger = self.conn.prepare("SELECT version_num FROM alembic_version")?;
            let mut rows = ledger.query([])?;
            while let Some(row) = rows.next()? {
                copy.execute("INSERT INTO alembic_version VALUES (?1)", [row.get::<_, String>(0)?])?;
            }
        }
        Ok(Self { path: self.path.clone(), conn: copy })
    }

    pub(super) fn preconditions(&self, from: Option<&str>, to: &str, orphans: Orphans) -> Result<Vec<Offence>> {
        self.offences(between(from, to)?, orphans)
    }

    fn offences(&self, revisions: &[Revision], orphans: Orphans) -> Result<Vec<Offence>> {
        precondition::offences(Dialect::Sqlite, &self.shape()?, revisions, orphans, |_, query| self.query(query, &[]))
    }

    fn dangling(&self) -> Result<BTreeSet<Dangling>> {
        dangling(&self.conn).map_err(self.fail("cannot check the foreign keys"))
    }
}

/// Copies every page of one database over another.
pub(super) fn copy_all(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    let copy = rusqlite::backup::Backup::new(from, to)?;
    if copy.step(-1)? == StepResult::Done {
        return Ok(());
    }
    // Busy or locked, after the busy timeout.
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None))
}

/// A reference that points nowhere, told by the row's id and the columns, which survive a rebuild.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dangling {
    table: String,
    row: String,
    columns: Vec<String>,
    parent: String,
}

impl Dangling {
    fn renamed(self, renames: &Renames) -> Self {
        let columns = self.columns.iter().map(|c| renames.column(&self.table, c).1.to_owned()).collect();
        Self {
            columns,
            row: self.row,
            table: renames.table(&self.table).to_owned(),
            parent: renames.table(&self.parent).to_owned(),
        }
    }
}

impl std::fmt::Display for Dangling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { table, row, columns, parent } = self;
        write!(f, "{table} {row}: {} is not in {parent}", columns.join(", "))
    }
}

fn dangling(conn: &Connection) -> rusqlite::Result<BTreeSet<Dangling>> {
    let shape = Shape::read(conn)?;
    let mut found = BTreeSet::new();
    let mut check = conn.prepare(
        "SELECT c.\"table\", c.rowid, c.parent, (SELECT group_concat(\"from\", '|') FROM pragma_foreign_key_list(c.\"table\") WHERE id = c.fkid)
         FROM pragma_foreign_key_check c",
    )?;
    let mut rows = check.query([])?;
    while let Some(row) = rows.next()? {
        let (table, rowid): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
        let has_id = shape.tables.get(&table).is_some_and(|t| t.columns.contains_key("id"));
        let name = match rowid {
            Some(rowid) if has_id => {
                let query = format!("SELECT id FROM {} WHERE rowid = ?1", quoted(&table));
                conn.query_row(&query, [rowid], |row| Ok(show(row.get_ref(0)?).unwrap_or_default()))?
            }
            Some(rowid) => format!("row {rowid}"),
            None => "a row".to_owned(),
        };
        let columns: String = row.get(3)?;
        let columns = columns.split('|').map(ToOwned::to_owned).collect();
        found.insert(Dangling { table, row: name, columns, parent: row.get(2)? });
    }
    Ok(found)
}

/// Name, table and statement of every index that was made by one.
fn indexes(conn: &Connection) -> rusqlite::Result<Vec<(String, String, String)>> {
    let mut query = conn.prepare(
        "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name",
    )?;
    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// What there is before a revision, to tell what it took away.
struct Inventory {
    shape: Shape,
    rows: BTreeMap<String, u64>,
    indexes: Vec<(String, String, String)>,
}

impl Inventory {
    fn take(conn: &Connection) -> rusqlite::Result<Self> {
        Ok(Self { shape: Shape::read(conn)?, rows: row_counts(conn)?, indexes: indexes(conn)? })
    }

    /// Rebuilding a table drops its indexes. The revision creates Barbican's again; these are the
    /// operator's own.
    fn own_indexes(&self, conn: &Connection, revision: &Revision) -> rusqlite::Result<Vec<String>> {
        let now = indexes(conn)?;
        let mut gone = Vec::new();
        for (name, table, sql) in &self.indexes {
            let kept = now.iter().any(|(n, _, _)| n == name);
            if !kept && has_table(conn, revision.renames.table(table))? {
                gone.push(sql.clone());
            }
        }
        Ok(gone)
    }

    /// What is missing afterwards.
    fn lost(&self, after: &Self, revision: &Revision) -> Vec<String> {
        let mut lost = inventory::lost(&self.shape, &after.shape, revision);
        lost.extend(inventory::lost_rows(&self.rows, &after.rows, std::slice::from_ref(revision)));
        lost
    }
}
