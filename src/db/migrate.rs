//! Migrating a SQLite database: one transaction a hop, and nothing in it is taken on trust.
use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OpenFlags, backup::StepResult, types::ValueRef};

use super::{
    Error, Ledger, Migrated, Offence, Orphans, Result, Shape, between,
    chain::{Precondition, Renames, Revision},
    known,
    rows::row_counts,
    shape::LEDGER,
    sqlite::{Sqlite, connect, has_table, quoted, write_ledger},
};
use crate::crash;

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
        for revision in revisions {
            let offences = self.offences(revision, orphans)?;
            if !offences.is_empty() {
                return Err(Error::Offences(offences));
            }
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
        let not_at =
            |found: &str| Error::NotAt { expected: from.unwrap_or("no revision").to_owned(), found: found.to_owned() };
        match (from, self.revision()?) {
            (Some(id), Ledger::At(found)) if found == id => self.check_shape(id),
            (None, Ledger::NoTable | Ledger::Empty) => match self.shape()?.tables.into_keys().next() {
                None => Ok(()),
                Some(table) => Err(not_at(&format!("an unknown one (no ledger, but a table {table})"))),
            },
            (_, Ledger::At(found)) => Err(not_at(&found)),
            (Some(_), Ledger::NoTable | Ledger::Empty) => Err(not_at("no revision")),
        }
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
        let written = write_ledger(&self.conn, &revision.id);
        ran.extend(written.map_err(self.fail("cannot write alembic_version"))?);
        Ok(ran)
    }

    fn execute(&self, revision: &Revision, statement: &str) -> Result<()> {
        let first = statement.lines().next().unwrap_or_default();
        let doing = format!("revision {}: cannot run `{first}`", revision.id);
        self.conn.execute_batch(statement).map_err(self.fail(doing))?;
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
        let revisions = between(from, to)?;
        let asks = |r: &Revision| r.preconditions.iter().any(|p| stands(p, orphans));
        let Some(last) = revisions.iter().rposition(asks) else {
            return Ok(Vec::new());
        };
        let trial = self.temporary_copy()?;
        let mut offences = Vec::new();
        for (n, revision) in revisions.iter().take(last + 1).enumerate() {
            let found = trial.offences(revision, orphans)?;
            for precondition in &revision.preconditions {
                if let Some(set_aside) = &precondition.set_aside
                    && found.iter().any(|offence| offence.id == precondition.id)
                {
                    trial.execute(revision, set_aside)?;
                }
            }
            offences.extend(found);
            if n < last {
                revision.sqlite.iter().try_for_each(|statement| trial.execute(revision, statement))?;
            }
        }
        Ok(offences)
    }

    /// The whole database in a temporary file that has no name and is gone when it is closed.
    fn temporary_copy(&self) -> Result<Self> {
        let mut name = self.path.clone().into_os_string();
        name.push(" (temporary copy)"); // what an error is about: it lies in SQLITE_TMPDIR, /var/tmp or /tmp
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut copy = Self { path: name.into(), conn: connect("".as_ref(), flags, std::time::Duration::ZERO)? };
        copy.conn.pragma_update(None, "synchronous", "OFF").map_err(copy.fail("cannot be prepared"))?;
        copy_all(&self.conn, &mut copy.conn).map_err(|e| {
            let error = copy.fail("cannot be made")(e);
            // Only the source can be in use by others.
            if matches!(error, Error::Locked { .. }) { Error::Locked { path: self.path.clone() } } else { error }
        })?;
        Ok(copy)
    }

    fn offences(&self, revision: &Revision, orphans: Orphans) -> Result<Vec<Offence>> {
        let asked = revision.preconditions.iter().filter(|p| stands(p, orphans));
        asked.filter_map(|p| self.offence(p).transpose()).collect()
    }

    fn offence(&self, precondition: &Precondition) -> Result<Option<Offence>> {
        let read = || {
            let mut query = self.conn.prepare(&precondition.query)?;
            let names: Vec<String> = query.column_names().map(ToOwned::to_owned).collect();
            let mut rows = query.query([])?;
            let mut lines = Vec::new();
            while let Some(row) = rows.next()? {
                let fields = names.iter().enumerate().map(|(n, name)| Ok(format!("{name}={}", show(row.get_ref(n)?))));
                lines.push(fields.collect::<rusqlite::Result<Vec<_>>>()?.join(", "));
            }
            Ok(lines)
        };
        let rows = read().map_err(self.fail(format!("cannot examine {}", precondition.id)))?;
        Ok((!rows.is_empty()).then(|| Offence {
            id: precondition.id.clone(),
            title: precondition.title.clone(),
            rows,
            remedy: precondition.remedy.clone(),
        }))
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

fn stands(precondition: &Precondition, orphans: Orphans) -> bool {
    !precondition.orphans || orphans == Orphans::Refuse
}

fn show(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => format!("({} bytes)", bytes.len()),
    }
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
                conn.query_row(&query, [rowid], |row| Ok(show(row.get_ref(0)?)))?
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

/// What there is before and after a revision, to prove that the difference is what the revision says.
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

    /// What is missing afterwards, the revision's renames and drops considered.
    fn lost(&self, after: &Self, revision: &Revision) -> Vec<String> {
        let mut lost = Vec::new();
        let dropped = |what: &str| revision.drops.iter().any(|d| d == what);
        for (name, table) in &self.shape.tables {
            let new_name = revision.renames.table(name);
            let Some(new) = after.shape.tables.get(new_name) else {
                if !dropped(name) {
                    lost.push(format!("table {name}"));
                }
                continue;
            };
            let (before, now) = (self.rows.get(name), after.rows.get(new_name));
            if before != now {
                lost.push(format!("{name} had {} rows, {new_name} has {}", before.unwrap_or(&0), now.unwrap_or(&0)));
            }
            let renamed = |column: &String| revision.renames.column(name, column).1.to_owned();
            let gone = |column: &String| dropped(&format!("{name}.{column}"));
            for column in table.columns.keys().filter(|c| !gone(c) && !new.columns.contains_key(&renamed(c))) {
                lost.push(format!("column {name}.{column}"));
            }
            for index in &table.indexes {
                let columns: Vec<String> = index.columns.iter().map(renamed).collect();
                let found = new.indexes.iter().any(|i| i.columns == columns && i.unique == index.unique);
                let unique = format!("unique {name}({})", index.columns.join(", "));
                if !found && !index.columns.iter().any(gone) && !dropped(&unique) {
                    lost.push(format!("index {} on {name}({})", index.name, index.columns.join(", ")));
                }
            }
            for key in &table.foreign_keys {
                let mut key = key.clone();
                key.columns = key.columns.iter().map(renamed).collect();
                key.references =
                    key.references.iter().map(|c| revision.renames.column(&key.table, c).1.to_owned()).collect();
                key.table = revision.renames.table(&key.table).to_owned();
                if !new.foreign_keys.contains(&key) {
                    lost.push(format!("foreign key {new_name}{key}"));
                }
            }
        }
        lost.extend(self.shape.others.difference(&after.shape.others).cloned());
        lost
    }
}
