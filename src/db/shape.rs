//! The shape of a schema: what of it decides how Barbican works, and nothing else.
//!
//! Two databases are the same to Barbican, and here, whatever they have of the following; so a shape leaves
//! it out:
//! - the order of tables and of columns in them (SQLAlchemy names every column it reads and writes);
//! - names of indexes and constraints, for they depend on who created them: objects are told by their
//!   columns;
//! - whether uniqueness comes from a constraint or from a unique index;
//! - CHECK constraints: SQLAlchemy before 1.4 added `deleted IN (0, 1)` and `container_types`, later ones do
//!   not, with the same models;
//! - `alembic_version`, with or without its primary key.
use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

/// Where alembic keeps the revision.
pub(super) const LEDGER: &str = "alembic_version";
/// Our own lock where the server has none that holds on all its nodes. It is no part of Barbican's schema.
pub(super) const LOCK: &str = "keymgr_upgrade_lock";

/// A table that is made and dropped at once, to see whether the server takes it.
pub(super) const PROBE: &str = "keymgr_upgrade_probe";

/// A schema: tables by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Tables by name.
    pub tables: BTreeMap<String, Table>,
    /// Names of views and triggers, "view x" and "trigger x": Barbican has none.
    pub others: BTreeSet<String>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Columns by name.
    pub columns: BTreeMap<String, Column>,
    /// The columns of the primary key, in its order.
    pub primary_key: Vec<String>,
    /// The name of the primary key, where the dialect has one.
    pub primary_key_name: Option<String>,
    /// Indexes and unique constraints, the primary key's own index excepted.
    pub indexes: Vec<Index>,
    /// References to other tables.
    pub foreign_keys: BTreeSet<ForeignKey>,
    /// The names of the references, where the dialect has them: one that is there twice has two.
    pub foreign_key_names: Vec<(String, ForeignKey)>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The declared type in capitals, for example `VARCHAR(36)`.
    pub declared: String,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// The default as written in the schema.
    pub default: Option<String>,
}

/// An index or unique constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name; an automatic one for a constraint.
    pub name: String,
    /// Its columns in order; `(expression)` where it is none.
    pub columns: Vec<String>,
    /// Whether it forbids duplicates.
    pub unique: bool,
    /// Covers only part of the rows (`WHERE`, or making it failed), or of a column.
    pub partial: bool,
}

/// A reference to another table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignKey {
    /// The referring columns.
    pub columns: Vec<String>,
    /// The table referred to.
    pub table: String,
    /// The columns referred to.
    pub references: Vec<String>,
    /// What happens on delete and update, "NO ACTION/NO ACTION" in all of Barbican.
    pub actions: String,
}

impl Shape {
    /// Reads the shape of a whole database, `alembic_version` included.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let mut shape = Self::default();
        read_columns(conn, &mut shape)?;
        read_indexes(conn, &mut shape)?;
        read_foreign_keys(conn, &mut shape)?;
        let mut others =
            conn.prepare("SELECT type || ' ' || name FROM sqlite_schema WHERE type IN ('view', 'trigger')")?;
        for other in others.query_map([], |row| row.get(0))? {
            shape.others.insert(other?);
        }
        Ok(shape)
    }

    /// The same without `alembic_version` and our lock.
    pub(super) fn without_ledger(mut self) -> Self {
        self.tables.remove(LEDGER);
        self.tables.remove(LOCK);
        self.tables.remove(PROBE);
        self
    }

    /// How `live` differs from this known shape: what is missing or different, and what is there besides.
    #[must_use]
    pub fn compare(&self, live: &Self) -> (Vec<String>, Vec<String>) {
        let (mut differences, mut extras) = (Vec::new(), Vec::new());
        for (name, table) in &self.tables {
            match live.tables.get(name) {
                Some(other) => table.compare(name, other, &mut differences, &mut extras),
                None => differences.push(format!("table {name} is missing")),
            }
        }
        for name in live.tables.keys().filter(|name| !self.tables.contains_key(*name)) {
            extras.push(format!("table {name}"));
        }
        extras.extend(live.others.iter().cloned());
        (differences, extras)
    }
}

impl Table {
    fn compare(&self, name: &str, live: &Self, differences: &mut Vec<String>, extras: &mut Vec<String>) {
        let mut differ = |text: String| differences.push(format!("table {name}: {text}"));
        for (column, known) in &self.columns {
            let Some(found) = live.columns.get(column) else {
                differ(format!("column {column} is missing"));
                continue;
            };
            if found.declared != known.declared {
                differ(format!("column {column} is {} instead of {}", found.declared, known.declared));
            }
            if found.nullable != known.nullable {
                let (is, be) = if found.nullable { ("allows", "forbid") } else { ("forbids", "allow") };
                differ(format!("column {column} {is} NULL, it should {be} it"));
            }
            if found.default != known.default {
                let show = |d: &Option<String>| d.clone().unwrap_or_else(|| "none".to_owned());
                differ(format!(
                    "column {column} has default {} instead of {}",
                    show(&found.default),
                    show(&known.default)
                ));
            }
        }
        for column in live.columns.keys().filter(|c| !self.columns.contains_key(*c)) {
            differ(format!("column {column} does not belong there"));
        }
        if live.primary_key != self.primary_key {
            differ(format!(
                "the primary key is ({}) instead of ({})",
                live.primary_key.join(", "),
                self.primary_key.join(", ")
            ));
        }
        for unique in self.uniques().difference(&live.uniques()) {
            differ(format!("({}) is not unique", unique.join(", ")));
        }
        for unique in live.uniques().difference(&self.uniques()) {
            differ(format!("({}) is unique, it should not be", unique.join(", ")));
        }
        for columns in self.plain().difference(&live.plain()) {
            differ(format!("the index on ({}) is missing", columns.join(", ")));
        }
        for key in self.foreign_keys.difference(&live.foreign_keys) {
            differ(format!("the foreign key {key} is missing"));
        }
        for key in live.foreign_keys.difference(&self.foreign_keys) {
            differ(format!("the foreign key {key} does not belong there"));
        }
        let plain = self.plain();
        // MySQL makes an index for a foreign key where there is none.
        let of_key = |i: &Index| live.foreign_keys.iter().any(|k| k.columns == i.columns);
        let known = |i: &Index| !i.partial && (i.unique || plain.contains(&i.columns) || of_key(i));
        for index in live.indexes.iter().filter(|i| !known(i)) {
            extras.push(format!("index {} on {name}", index.name));
        }
    }

    /// Everything the shape says of a table, in one fixed form. Part of the fingerprint, which outlives a
    /// version of this program in journals: it may not change.
    pub(super) fn canonical(&self, name: &str) -> String {
        let mut lines = vec![format!("table {name} key {}", self.primary_key.join(","))];
        lines.extend(self.columns.iter().map(|(column, c)| {
            format!("column {column} {} null {} default {:?}", c.declared, c.nullable, c.default.as_deref())
        }));
        let mut indexes: Vec<String> = self
            .indexes
            .iter()
            .map(|i| {
                // SQLite numbers the indexes of constraints, in the order they were written.
                let automatic = i.name.starts_with("sqlite_autoindex_");
                let name = if automatic { "" } else { &i.name };
                format!("index {name} {} unique {} partial {}", i.columns.join(","), i.unique, i.partial)
            })
            .collect();
        indexes.sort();
        lines.extend(indexes);
        lines.extend(self.foreign_keys.iter().map(|k| format!("key {k} {}", k.actions)));
        lines.join("\n")
    }

    /// The column lists that are unique.
    fn uniques(&self) -> BTreeSet<Vec<String>> {
        self.indexes.iter().filter(|i| i.unique && !i.partial).map(|i| i.columns.clone()).collect()
    }

    /// The column lists with a plain index.
    fn plain(&self) -> BTreeSet<Vec<String>> {
        self.indexes.iter().filter(|i| !i.unique && !i.partial).map(|i| i.columns.clone()).collect()
    }
}

impl std::fmt::Display for ForeignKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}) -> {}({})", self.columns.join(", "), self.table, self.references.join(", "))
    }
}

/// Barbican's and the operator's tables, not SQLite's own.
pub(super) const TABLES: &str =
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";

fn read_columns(conn: &Connection, shape: &mut Shape) -> rusqlite::Result<()> {
    let mut query = conn.prepare(&format!(
        "SELECT t.name, c.name, upper(c.type), c.\"notnull\", c.dflt_value, c.pk
         FROM ({TABLES}) t, pragma_table_xinfo(t.name) c ORDER BY t.name, c.pk"
    ))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let table = shape.tables.entry(row.get(0)?).or_default();
        let name: String = row.get(1)?;
        let (not_null, key): (bool, i64) = (row.get(3)?, row.get(5)?);
        if key > 0 {
            table.primary_key.push(name.clone());
        }
        let column = Column { declared: row.get(2)?, nullable: !not_null, default: row.get(4)? };
        table.columns.insert(name, column);
    }
    Ok(())
}

fn read_indexes(conn: &Connection, shape: &mut Shape) -> rusqlite::Result<()> {
    let mut query = conn.prepare(&format!(
        "SELECT t.name, i.name, i.\"unique\", i.partial, c.name
         FROM ({TABLES}) t, pragma_index_list(t.name) i, pragma_index_info(i.name) c
         WHERE i.origin <> 'pk' ORDER BY t.name, i.name, c.seqno"
    ))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let table = shape.tables.entry(row.get(0)?).or_default();
        let name: String = row.get(1)?;
        let column: Option<String> = row.get(4)?;
        let column = column.unwrap_or_else(|| "(expression)".to_owned());
        match table.indexes.last_mut().filter(|i| i.name == name) {
            Some(index) => index.columns.push(column),
            None => {
                table.indexes.push(Index { name, columns: vec![column], unique: row.get(2)?, partial: row.get(3)? })
            }
        }
    }
    Ok(())
}

fn read_foreign_keys(conn: &Connection, shape: &mut Shape) -> rusqlite::Result<()> {
    let mut query = conn.prepare(&format!(
        "SELECT t.name, k.id, k.\"table\", k.\"from\", k.\"to\", k.on_delete || '/' || k.on_update
         FROM ({TABLES}) t, pragma_foreign_key_list(t.name) k ORDER BY t.name, k.id, k.seq"
    ))?;
    let mut rows = query.query([])?;
    let mut current: Option<(String, i64, ForeignKey)> = None;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (table, id, column): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(3)?);
        let target: Option<String> = row.get(4)?;
        if current.as_ref().is_none_or(|(t, i, _)| *t != table || *i != id) {
            let key = ForeignKey { columns: vec![], table: row.get(2)?, references: vec![], actions: row.get(5)? };
            found.extend(current.replace((table, id, key)));
        }
        if let Some((_, _, key)) = &mut current {
            key.columns.push(column);
            key.references.extend(target);
        }
    }
    found.extend(current);
    for (table, _, mut key) in found {
        if key.references.is_empty() {
            // REFERENCES without columns means the primary key.
            key.references = shape.tables.get(&key.table).map(|t| t.primary_key.clone()).unwrap_or_default();
        }
        shape.tables.entry(table).or_default().foreign_keys.insert(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sql: &str) -> Shape {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        Shape::read(&conn).unwrap()
    }

    const KNOWN: &str = "CREATE TABLE p (id VARCHAR(36) NOT NULL PRIMARY KEY);
        CREATE TABLE s (id VARCHAR(36) NOT NULL, name VARCHAR(255) DEFAULT 'x', p_id VARCHAR(36) NOT NULL,
            PRIMARY KEY (id), CONSTRAINT a FOREIGN KEY(p_id) REFERENCES p (id), CONSTRAINT u UNIQUE (name, p_id));
        CREATE INDEX ix ON s (p_id);";

    #[test]
    fn what_barbican_cannot_tell_apart_is_equal() {
        let other = shape(
            "CREATE TABLE s (p_id varchar(36) NOT NULL REFERENCES p, name VARCHAR(255) DEFAULT 'x',
                id VARCHAR(36) NOT NULL, PRIMARY KEY (id), CHECK (name <> ''));
            CREATE UNIQUE INDEX other ON s (name, p_id);
            CREATE INDEX named_otherwise ON s (p_id);
            CREATE TABLE p (id VARCHAR(36) NOT NULL, PRIMARY KEY (id));",
        );
        assert_eq!(shape(KNOWN).compare(&other), (vec![], vec![]));
    }

    #[test]
    fn every_difference_is_named() {
        let live = shape(
            "CREATE TABLE s (id VARCHAR(32), name VARCHAR(255), x INTEGER REFERENCES s (x), PRIMARY KEY (id, name));
            CREATE TABLE own (a); CREATE INDEX own_ix ON s (name); CREATE VIEW v AS SELECT 1;
            CREATE UNIQUE INDEX one ON s (x);",
        );
        let (differences, extras) = shape(KNOWN).compare(&live);
        assert_eq!(
            differences,
            [
                "table p is missing",
                "table s: column id is VARCHAR(32) instead of VARCHAR(36)",
                "table s: column id allows NULL, it should forbid it",
                "table s: column name has default none instead of 'x'",
                "table s: column p_id is missing",
                "table s: column x does not belong there",
                "table s: the primary key is (id, name) instead of (id)",
                "table s: (name, p_id) is not unique",
                "table s: (x) is unique, it should not be",
                "table s: the index on (p_id) is missing",
                "table s: the foreign key (p_id) -> p(id) is missing",
                "table s: the foreign key (x) -> s(x) does not belong there",
            ]
        );
        assert_eq!(extras, ["index own_ix on s", "table own", "view v"]);
    }
}
