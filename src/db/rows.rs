//! Rows: KEKs, secrets, counts; and for SQLite the fingerprint over all of them.
use std::{collections::BTreeMap, fmt::Write as _};

use rusqlite::{Connection, params_from_iter, types::ValueRef};
use sha2::{Digest, Sha256};

use super::{
    Change, Database, Error, Inner, KekRow, MetaRow, Result, SecretRow, Shape, StoreCount,
    shape::TABLES,
    sqlite::{Sqlite, quoted},
};

/// A row as text; `None` is NULL.
pub(super) type Row = Vec<Option<String>>;

impl Database {
    /// Runs a query that every dialect reads alike.
    pub(super) fn query(&self, sql: &str) -> Result<Vec<Row>> {
        self.query_with(sql, &[])
    }

    /// The same with a value for every `?`.
    fn query_with(&self, sql: &str, params: &[Option<&str>]) -> Result<Vec<Row>> {
        match &self.inner {
            Inner::Sqlite(sqlite) => Ok(sqlite.reading()?.query(sql, params)?.1),
            Inner::Server(server) => server.wire.query_with(sql, params),
        }
    }

    /// Runs a query of rows that need these columns. Only where it fails is the schema read, which costs a server more than the rows do, to say
    /// which table or column is missing; the database says it worse.
    pub(super) fn rows(&self, sql: &str, params: &[Option<&str>], needed: &[(&str, &[&str])]) -> Result<Vec<Row>> {
        self.query_with(sql, params).or_else(|error| {
            let shape = self.shape()?;
            needed.iter().try_for_each(|(table, columns)| self.require(&shape, table, columns))?;
            Err(error)
        })
    }

    /// Says which table or column is missing.
    fn require(&self, shape: &Shape, table: &str, columns: &[&str]) -> Result<()> {
        let missing = match shape.tables.get(table) {
            None => format!("table {table}"),
            Some(found) => match columns.iter().find(|c| !found.columns.contains_key(**c)) {
                Some(column) => format!("column {table}.{column}"),
                None => return Ok(()),
            },
        };
        Err(Error::NoObject { database: self.shown(), what: missing })
    }

    /// Every row of `kek_data`, soft-deleted ones too, by id.
    pub fn kek_rows(&self) -> Result<Vec<KekRow>> {
        let mut keks = self.keks("", &[], &mut false)?;
        keks.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(keks)
    }

    /// The rows of `kek_data` that `which` chooses, with a value for every `?` in it. Where `tenant` is set, or found to be so, the column of the
    /// projects has the name that it had up to Juno.
    pub(super) fn keks(&self, which: &str, params: &[Option<&str>], tenant: &mut bool) -> Result<Vec<KekRow>> {
        let rows = |project: &str| {
            let sql = format!("SELECT id, plugin_name, {project}, deleted, active, plugin_meta FROM kek_data {which}");
            let columns = ["id", "plugin_name", "deleted", "active", "plugin_meta", project];
            self.rows(&sql, params, &[("kek_data", &columns)])
        };
        let found = match rows(if *tenant { "tenant_id" } else { "project_id" }) {
            Err(Error::NoObject { what, .. }) if what == "column kek_data.project_id" => {
                *tenant = true;
                rows("tenant_id")?
            }
            found => found?,
        };
        found.into_iter().map(|row| self.kek_row(row)).collect()
    }

    fn kek_row(&self, row: Row) -> Result<KekRow> {
        let mut values = Values { row: row.into_iter(), of: self, table: "kek_data" };
        Ok(KekRow {
            id: values.text()?,
            plugin_name: values.text()?,
            project_id: values.text()?,
            deleted: values.yes()?,
            active: values.yes()?,
            plugin_meta: values.optional(),
        })
    }

    /// Every row of `encrypted_data`, soft-deleted ones too, by id.
    pub fn secret_rows(&self) -> Result<Vec<SecretRow>> {
        let mut secrets = self.secrets("", &[])?;
        secrets.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(secrets)
    }

    /// The rows of `encrypted_data` (`e`) that `which` chooses, with a value for every `?` in it.
    pub(super) fn secrets(&self, which: &str, params: &[Option<&str>]) -> Result<Vec<SecretRow>> {
        let columns = ["id", "secret_id", "kek_id", "deleted", "cypher_text", "kek_meta_extended"];
        // A datum whose secret is gone altogether belongs to nobody: it counts as deleted.
        let sql = format!(
            "SELECT e.id, e.secret_id, e.kek_id, e.deleted OR coalesce(s.deleted, true), e.cypher_text, e.kek_meta_extended
             FROM encrypted_data e LEFT JOIN secrets s ON s.id = e.secret_id {which}"
        );
        let rows = self.rows(&sql, params, &[("secrets", &["id", "deleted"]), ("encrypted_data", &columns)])?;
        rows.into_iter().map(|row| self.secret_row(row)).collect()
    }

    /// A name and its number.
    pub(super) fn counted(&self, row: Row) -> Result<(String, u64)> {
        let mut values = Values { row: row.into_iter(), of: self, table: "kek_data" };
        Ok((values.text()?, values.number()?))
    }

    pub(super) fn meta_row(&self, row: Row) -> Result<MetaRow> {
        let mut values = Values { row: row.into_iter(), of: self, table: "encrypted_data" };
        Ok(MetaRow { id: values.text()?, secret_id: values.text()?, kek_meta_extended: values.optional() })
    }

    fn secret_row(&self, row: Row) -> Result<SecretRow> {
        let mut values = Values { row: row.into_iter(), of: self, table: "encrypted_data" };
        Ok(SecretRow {
            id: values.text()?,
            secret_id: values.text()?,
            kek_id: values.text()?,
            deleted: values.yes()?,
            cypher_text: values.optional(),
            kek_meta_extended: values.optional(),
        })
    }

    /// Secrets by the secret store that holds them, by name of the store; not those of the store `but`, which may be most of a large database.
    pub fn store_counts(&self, but: &str) -> Result<Vec<StoreCount>> {
        let needed: [(&str, &[&str]); 2] =
            [("secrets", &["id", "deleted"]), ("secret_store_metadata", &["secret_id", "key", "value"])];
        // A scan without more to it is much quicker, and mostly finds none.
        let others = "FROM secret_store_metadata WHERE \"key\" = 'plugin_name' AND value <> ?";
        if self.rows(&format!("SELECT secret_id {others} LIMIT 1"), &[Some(but)], &needed)?.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT m.value, count(CASE WHEN NOT s.deleted THEN 1 END), count(CASE WHEN s.deleted THEN 1 END)
             FROM (SELECT DISTINCT secret_id, value {others}) m
             JOIN secrets s ON s.id = m.secret_id GROUP BY m.value ORDER BY m.value"
        );
        let rows = self.rows(&sql, &[Some(but)], &needed)?;
        let count = |row: Row| {
            let mut values = Values { row: row.into_iter(), of: self, table: "secret_store_metadata" };
            Ok(StoreCount { plugin_name: values.text()?, live: values.number()?, deleted: values.number()? })
        };
        rows.into_iter().map(count).collect()
    }

    /// How many orders are of type `certificate`, soft-deleted ones too.
    pub fn certificate_orders(&self) -> Result<u64> {
        let rows =
            self.rows("SELECT count(*) FROM orders WHERE type = 'certificate'", &[], &[("orders", &["id", "type"])])?;
        Values { row: rows.into_iter().next().unwrap_or_default().into_iter(), of: self, table: "orders" }.number()
    }

    /// The number that a query of `table` answers.
    pub(super) fn count(&self, sql: &str, table: &'static str) -> Result<u64> {
        let row = self.query(sql)?.into_iter().next().unwrap_or_default();
        Values { row: row.into_iter(), of: self, table }.number()
    }
}

/// The values of a row, one after the other.
struct Values<'a> {
    row: std::vec::IntoIter<Option<String>>,
    of: &'a Database,
    table: &'static str,
}

impl Values<'_> {
    fn optional(&mut self) -> Option<String> {
        self.row.next().flatten()
    }

    fn text(&mut self) -> Result<String> {
        self.optional().ok_or_else(|| self.unexpected("NULL where a value must be"))
    }

    /// SQLite and MySQL say 1 and 0, PostgreSQL t and f.
    fn yes(&mut self) -> Result<bool> {
        match self.text()?.as_str() {
            "1" | "t" => Ok(true),
            "0" | "f" => Ok(false),
            _ => Err(self.unexpected("what is neither true nor false")),
        }
    }

    fn number(&mut self) -> Result<u64> {
        self.text()?.parse().map_err(|_| self.unexpected("what is no number"))
    }

    fn unexpected(&self, what: &str) -> Error {
        Error::Unexpected { database: self.of.shown(), what: format!("a row of {} has {what}", self.table) }
    }
}

impl Sqlite {
    /// The names of the columns and the rows of a query.
    pub(super) fn query(&self, sql: &str, params: &[Option<&str>]) -> Result<(Vec<String>, Vec<Row>)> {
        let read = || {
            let mut query = self.conn.prepare(sql)?;
            let names: Vec<String> = query.column_names().map(ToOwned::to_owned).collect();
            let mut rows = query.query(params_from_iter(params))?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push((0..names.len()).map(|n| Ok(show(row.get_ref(n)?))).collect::<rusqlite::Result<Row>>()?);
            }
            Ok((names, all))
        };
        read().map_err(self.fail("cannot be read"))
    }

    /// One compare-and-set. `table` and `column` are ours, never the operator's.
    pub(super) fn replace(
        &self,
        table: &str,
        column: &str,
        id: &str,
        old: Option<&str>,
        new: Option<&str>,
    ) -> Result<bool> {
        let sql = format!("UPDATE {table} SET {column} = ?3 WHERE id = ?1 AND {column} IS ?2");
        let changed = self
            .conn
            .prepare(&sql)
            .and_then(|mut update| update.execute(params_from_iter([Some(id), old, new])))
            .map_err(self.fail(format!("cannot write {table}.{column} of {id}")))?;
        Ok(changed == 1)
    }

    /// Many of them; the id of the first row that did not hold the old value, if any.
    pub(super) fn replace_all(&self, table: &str, column: &str, changes: &[Change]) -> Result<Option<String>> {
        let sql = format!("UPDATE {table} SET {column} = ?3 WHERE id = ?1 AND {column} IS ?2");
        let work = || {
            let mut update = self.conn.prepare(&sql)?;
            for Change { id, old, new } in changes {
                if update.execute((id, old, new))? != 1 {
                    return Ok(Some(id.clone()));
                }
            }
            Ok(None)
        };
        work().map_err(self.fail(format!("cannot write {table}.{column}")))
    }

    pub(super) fn row_counts(&self) -> Result<BTreeMap<String, u64>> {
        row_counts(&self.conn).map_err(self.fail("cannot count rows"))
    }

    pub(super) fn fingerprint(&self) -> Result<String> {
        fingerprint(&self.conn).map_err(self.fail("cannot be read"))
    }
}

/// A value as text. SQLite keeps what it is given: bytes where text is expected are what Python 3 wrote as such.
pub(super) fn show(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// Rows per table, `alembic_version` included.
pub(super) fn row_counts(conn: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut query = conn.prepare(TABLES)?;
    let mut tables = query.query([])?;
    let mut counts = BTreeMap::new();
    while let Some(row) = tables.next()? {
        let table: String = row.get(0)?;
        let sql = format!("SELECT count(*) FROM {}", quoted(&table));
        counts.insert(table, conn.query_row(&sql, [], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))?);
    }
    Ok(counts)
}

/// SHA-256 over schema and rows. Columns are taken by name, rows by primary key and then by all columns, so
/// neither order matters; each value carries its type and length, so no two contents run together.
pub(super) fn fingerprint(conn: &Connection) -> rusqlite::Result<String> {
    let own_transaction = conn.is_autocommit();
    if own_transaction {
        conn.execute_batch("BEGIN")?; // one state of the database, whoever writes meanwhile
    }
    let digest = digest(conn);
    if own_transaction {
        conn.execute_batch("ROLLBACK")?;
    }
    digest
}

fn digest(conn: &Connection) -> rusqlite::Result<String> {
    let mut hash = Sha256::new();
    let shape = Shape::read(conn)?;
    let mut objects =
        conn.prepare("SELECT name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger') ORDER BY name")?;
    let mut rows = objects.query([])?;
    while let Some(row) = rows.next()? {
        feed(&mut hash, row.get_ref(0)?);
        feed(&mut hash, row.get_ref(1)?);
    }
    for (name, table) in &shape.tables {
        feed(&mut hash, ValueRef::Text(table.canonical(name).as_bytes()));
        let columns: Vec<String> = table.columns.keys().map(|c| quoted(c)).collect();
        let key = table.primary_key.iter().map(|c| quoted(c));
        let order: Vec<String> = key.chain(columns.iter().cloned()).collect();
        let mut query = conn.prepare(&format!(
            "SELECT {} FROM {} ORDER BY {}",
            columns.join(", "),
            quoted(name),
            order.join(", ")
        ))?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            for n in 0..columns.len() {
                feed(&mut hash, row.get_ref(n)?);
            }
        }
    }
    let mut hex = String::new();
    for byte in hash.finalize() {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
    }
    Ok(hex)
}

fn feed(hash: &mut Sha256, value: ValueRef<'_>) {
    let mut put = |tag: u8, bytes: &[u8]| {
        hash.update([tag]);
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    match value {
        ValueRef::Null => put(0, &[]),
        ValueRef::Integer(n) => put(1, &n.to_be_bytes()),
        ValueRef::Real(x) => put(2, &x.to_bits().to_be_bytes()),
        ValueRef::Text(bytes) => put(3, bytes),
        ValueRef::Blob(bytes) => put(4, bytes),
    }
}
