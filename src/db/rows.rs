//! Rows of a SQLite database: KEKs, secrets, counts, and the fingerprint over all of them.
use std::{collections::BTreeMap, fmt::Write as _};

use rusqlite::{Connection, params, types::ValueRef};
use sha2::{Digest, Sha256};

use super::{
    Error, KekRow, Result, SecretRow, Shape, StoreCount,
    shape::TABLES,
    sqlite::{Sqlite, quoted},
};

impl Sqlite {
    /// Says which table or column is missing before SQLite says it worse.
    fn require(&self, table: &str, columns: &[&str]) -> Result<()> {
        let shape = self.shape()?;
        let missing = match shape.tables.get(table) {
            None => format!("table {table}"),
            Some(found) => match columns.iter().find(|c| !found.columns.contains_key(**c)) {
                Some(column) => format!("column {table}.{column}"),
                None => return Ok(()),
            },
        };
        Err(Error::NoObject { path: self.path.clone(), what: missing })
    }

    pub(super) fn kek_rows(&self) -> Result<Vec<KekRow>> {
        self.require("kek_data", &["id", "plugin_name", "deleted", "active", "plugin_meta"])?;
        // Called tenant_id up to Juno.
        let juno = self.shape()?.tables.get("kek_data").is_some_and(|t| t.columns.contains_key("tenant_id"));
        let project = if juno { "tenant_id" } else { "project_id" };
        self.require("kek_data", &[project])?;
        let read = || {
            let mut query = self.conn.prepare(&format!(
                "SELECT id, plugin_name, {project}, deleted, active, plugin_meta FROM kek_data ORDER BY id"
            ))?;
            let rows = query.query_map([], |row| {
                Ok(KekRow {
                    id: row.get(0)?,
                    plugin_name: row.get(1)?,
                    project_id: row.get(2)?,
                    deleted: row.get(3)?,
                    active: row.get(4)?,
                    plugin_meta: row.get(5)?,
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.fail("cannot read kek_data"))
    }

    pub(super) fn secret_rows(&self) -> Result<Vec<SecretRow>> {
        self.require("secrets", &["id", "deleted"])?;
        let columns = ["id", "secret_id", "kek_id", "deleted", "cypher_text", "kek_meta_extended"];
        self.require("encrypted_data", &columns)?;
        let read = || {
            // A datum whose secret is gone altogether belongs to nobody: it counts as deleted.
            let mut query = self.conn.prepare(
                "SELECT e.id, e.secret_id, e.kek_id, e.deleted OR coalesce(s.deleted, 1), e.cypher_text, e.kek_meta_extended
                 FROM encrypted_data e LEFT JOIN secrets s ON s.id = e.secret_id ORDER BY e.id",
            )?;
            let rows = query.query_map([], |row| {
                Ok(SecretRow {
                    id: row.get(0)?,
                    secret_id: row.get(1)?,
                    kek_id: row.get(2)?,
                    deleted: row.get(3)?,
                    cypher_text: row.get(4)?,
                    kek_meta_extended: row.get(5)?,
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.fail("cannot read encrypted_data"))
    }

    pub(super) fn store_counts(&self) -> Result<Vec<StoreCount>> {
        self.require("secrets", &["id", "deleted"])?;
        self.require("secret_store_metadata", &["secret_id", "key", "value"])?;
        let read = || {
            let mut query = self.conn.prepare(
                "SELECT m.value, count(DISTINCT CASE WHEN NOT s.deleted THEN s.id END),
                        count(DISTINCT CASE WHEN s.deleted THEN s.id END)
                 FROM secret_store_metadata m JOIN secrets s ON s.id = m.secret_id
                 WHERE m.\"key\" = 'plugin_name' GROUP BY m.value ORDER BY m.value",
            )?;
            let rows = query.query_map([], |row| {
                Ok(StoreCount { plugin_name: row.get(0)?, live: count(row, 1)?, deleted: count(row, 2)? })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.fail("cannot read secret_store_metadata"))
    }

    pub(super) fn certificate_orders(&self) -> Result<u64> {
        self.require("orders", &["id", "type"])?;
        let sql = "SELECT count(*) FROM orders WHERE type = 'certificate'";
        self.conn.query_row(sql, [], |row| count(row, 0)).map_err(self.fail("cannot count certificate orders"))
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
            .and_then(|mut update| update.execute(params![id, old, new]))
            .map_err(self.fail(format!("cannot write {table}.{column} of {id}")))?;
        Ok(changed == 1)
    }

    pub(super) fn row_counts(&self) -> Result<BTreeMap<String, u64>> {
        row_counts(&self.conn).map_err(self.fail("cannot count rows"))
    }

    pub(super) fn fingerprint(&self) -> Result<String> {
        fingerprint(&self.conn).map_err(self.fail("cannot read all rows"))
    }
}

/// The result of a `count()`.
fn count(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

/// Rows per table, `alembic_version` included.
pub(super) fn row_counts(conn: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut query = conn.prepare(TABLES)?;
    let mut tables = query.query([])?;
    let mut counts = BTreeMap::new();
    while let Some(row) = tables.next()? {
        let table: String = row.get(0)?;
        let sql = format!("SELECT count(*) FROM {}", quoted(&table));
        counts.insert(table, conn.query_row(&sql, [], |row| count(row, 0))?);
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
