//! Rows by pages and by batches, so that a million of them take no more memory than a page.
//!
//! A page is what follows the last key of the page before, in the server's own order: what comes after what is decided by the server alone, whose
//! collation may be any. Rows that come or go meanwhile move no page.
use std::collections::{BTreeMap, BTreeSet};

use super::{Database, Dialect, Inner, KekRow, Kind, MetaRow, Result, SecretRow, rows::Row};

/// How many rows a page has at most; payloads, which may be large, come by fewer.
pub const PAGE: usize = 500;
/// How many KEKs the first page has at most: they often tell what is asked, and then no others need be looked at.
pub const FIRST_PAGE: usize = 20;
const PAYLOADS: usize = 250;

/// How many keys of secrets are read ahead: where no index has them in order, each time costs a scan of those under one KEK, which may be all.
pub const AHEAD: usize = 50_000;

/// How many rows are looked for by one query of a sample; SQLite takes up to 500 parts.
const PROBES: usize = 100;

/// How many rows one UPDATE of a server changes: it looks through as many alternatives for each of them.
const AT_ONCE: usize = 64;

/// How far a table was read.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// The last keys, once there was a page.
    last: Option<(String, String)>,
    /// The last page is read.
    done: bool,
    /// The projects' column has its name of up to Juno.
    tenant: bool,
    /// Ids of the next rows, the last one first.
    ahead: Vec<String>,
}

impl Cursor {
    /// Goes behind the rows of a page.
    fn pass<T>(&mut self, rows: &[T], limit: usize, keys: impl Fn(&T) -> (String, String)) {
        self.last = rows.last().map(keys);
        self.done = rows.len() < limit;
    }
}

/// A text column that is rewritten row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextColumn {
    /// `kek_data.plugin_meta`
    PluginMeta,
    /// `encrypted_data.kek_meta_extended`
    KekMetaExtended,
}

impl TextColumn {
    /// The table's name.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::PluginMeta => "kek_data",
            Self::KekMetaExtended => "encrypted_data",
        }
    }

    /// The column's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PluginMeta => "plugin_meta",
            Self::KekMetaExtended => "kek_meta_extended",
        }
    }
}

/// A new value of one row, and the one that it takes the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row.
    pub id: String,
    /// What it must hold.
    pub old: Option<String>,
    /// What it is to hold.
    pub new: Option<String>,
}

/// `?, ?, ?`
fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// An id and a value.
fn pair(row: Row) -> Option<(String, Option<String>)> {
    let mut row = row.into_iter();
    Some((row.next().flatten()?, row.next().flatten()))
}

impl Database {
    /// The next rows of `kek_data`, soft-deleted ones too; none at the end.
    ///
    /// # Errors
    /// If they cannot be read, or a table or column is missing.
    pub fn kek_page(&self, cursor: &mut Cursor) -> Result<Vec<KekRow>> {
        if cursor.done {
            return Ok(Vec::new());
        }
        let last = cursor.last.clone();
        let (from, limit) = if last.is_some() { ("WHERE id > ?", PAGE) } else { ("", FIRST_PAGE) };
        let id: Vec<Option<&str>> = last.iter().map(|(id, _)| Some(id.as_str())).collect();
        let rows = self.keks(&format!("{from} ORDER BY id LIMIT {limit}"), &id, &mut cursor.tenant)?;
        cursor.pass(&rows, limit, |row| (row.id.clone(), String::new()));
        Ok(rows)
    }

    /// Whether a key was ever made for any row of `kek_data` of this plugin.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn has_bound_keks(&self, plugin: &str) -> Result<bool> {
        let sql = "SELECT id FROM kek_data WHERE plugin_name = ? AND plugin_meta IS NOT NULL LIMIT 1";
        let rows = self.rows(sql, &[Some(plugin)], &[("kek_data", &["id", "plugin_name", "plugin_meta"])])?;
        Ok(!rows.is_empty())
    }

    /// How many rows of `kek_data` each plugin has.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn plugin_counts(&self) -> Result<BTreeMap<String, u64>> {
        let sql = "SELECT plugin_name, count(*) FROM kek_data GROUP BY plugin_name";
        let rows = self.rows(sql, &[], &[("kek_data", &["plugin_name"])])?;
        rows.into_iter().map(|row| self.counted(row)).collect()
    }

    /// The rows of `kek_data` with these ids; those that are not there are left out.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn keks_by_id(&self, ids: &[&str]) -> Result<Vec<KekRow>> {
        let wanted: Vec<Option<&str>> = ids.iter().copied().map(Some).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.keks(&format!("WHERE id IN ({})", marks(ids.len())), &wanted, &mut false)
    }

    /// The next rows of `encrypted_data`, soft-deleted ones too, those under one KEK together; none at the end.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn secret_page(&self, cursor: &mut Cursor) -> Result<Vec<SecretRow>> {
        // Those that are gone since their ids were read make no end.
        while !cursor.ahead.is_empty() || !cursor.done {
            if cursor.ahead.is_empty() {
                self.read_ahead(cursor)?;
            }
            let ids = cursor.ahead.split_off(cursor.ahead.len().saturating_sub(PAYLOADS));
            let rows = self.secrets_by_id(&ids.iter().map(String::as_str).collect::<Vec<_>>())?;
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }

    /// Reads the ids of the next rows of `encrypted_data`, by KEK.
    fn read_ahead(&self, cursor: &mut Cursor) -> Result<()> {
        let last = cursor.last.clone();
        let (from, keys) = match &last {
            None => {
                // NULL would be behind every key, or before, as the server likes: such a row is refused as it is read.
                self.secrets("WHERE e.kek_id IS NULL LIMIT 1", &[])?;
                ("", Vec::new())
            }
            Some((kek, id)) => (
                "WHERE e.kek_id >= ? AND (e.kek_id > ? OR e.id > ?)",
                vec![Some(kek.as_str()), Some(kek.as_str()), Some(id.as_str())],
            ),
        };
        let sql = format!("SELECT e.kek_id, e.id FROM encrypted_data e {from} ORDER BY e.kek_id, e.id LIMIT {AHEAD}");
        let rows = self.rows(&sql, &keys, &[("encrypted_data", &["id", "kek_id"])])?;
        let both = |row: Row| {
            let mut row = row.into_iter();
            Some((row.next().flatten()?, row.next().flatten()?))
        };
        let keys: Vec<(String, String)> = rows.into_iter().filter_map(both).collect();
        cursor.pass(&keys, AHEAD, Clone::clone);
        cursor.ahead = keys.into_iter().rev().map(|(_, id)| id).collect();
        Ok(())
    }

    /// The rows of `encrypted_data` with these ids; those that are not there are left out.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn secrets_by_id(&self, ids: &[&str]) -> Result<Vec<SecretRow>> {
        let wanted: Vec<Option<&str>> = ids.iter().copied().map(Some).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.secrets(&format!("WHERE e.id IN ({}) ORDER BY e.kek_id, e.id", marks(ids.len())), &wanted)
    }

    /// The ids of rows of `kek_data` or `encrypted_data`, soft-deleted ones too: the first, the last, and what follows `probes` places that lie evenly
    /// among UUIDs. Where ids are none, or rows are few, some places have the same row.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn spread_ids(&self, of: Kind, probes: usize) -> Result<BTreeSet<String>> {
        let table = of.table();
        let places = (0..probes).map(|n| format!("{:04x}", n * 0x1_0000 / probes));
        let places: Vec<String> = std::iter::once(String::new()).chain(places).collect();
        let from = |order: &str| format!("SELECT id FROM {table} WHERE id >= ? ORDER BY id {order} LIMIT 1");
        let mut ids = self.ids(&from("ASC"), &places, (table, &["id"]))?;
        ids.append(&mut self.ids(&from("DESC"), &[String::new()], (table, &["id"]))?);
        Ok(ids)
    }

    /// The ids of rows of `encrypted_data` for a sample: those of [`Self::spread_ids`], and a live one under each KEK of such a choice, one of each
    /// plugin among them.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn secret_sample(&self, probes: usize) -> Result<BTreeSet<String>> {
        let mut keks = self.spread_ids(Kind::Keks, probes)?;
        keks.append(&mut self.kek_of_each_plugin()?);
        let mut ids = self.spread_ids(Kind::Secrets, probes)?;
        ids.append(&mut self.live_under(&keks)?);
        Ok(ids)
    }

    /// Under each of these KEKs the id of a row of `encrypted_data` that is not soft-deleted, as far as there is one.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn live_under(&self, keks: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        let one = "SELECT e.id FROM encrypted_data e JOIN secrets s ON s.id = e.secret_id \
                   WHERE e.kek_id = ? AND NOT e.deleted AND NOT s.deleted LIMIT 1";
        let keks: Vec<String> = keks.iter().cloned().collect();
        self.ids(one, &keks, ("encrypted_data", &["id", "secret_id", "kek_id", "deleted"]))
    }

    /// Of each plugin the id of one of its rows of `kek_data`.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn kek_of_each_plugin(&self) -> Result<BTreeSet<String>> {
        let sql = "SELECT min(id) FROM kek_data GROUP BY plugin_name";
        Ok(self.rows(sql, &[], &[("kek_data", &["id", "plugin_name"])])?.into_iter().flatten().flatten().collect())
    }

    /// What `one`, a query for one id, answers for each of these values.
    fn ids(&self, one: &str, values: &[String], needed: (&str, &[&str])) -> Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for some in values.chunks(PROBES) {
            let params: Vec<Option<&str>> = some.iter().map(|value| Some(value.as_str())).collect();
            let parts: Vec<String> = (0..some.len()).map(|n| format!("SELECT id FROM ({one}) AS q{n}")).collect();
            ids.extend(self.rows(&parts.join(" UNION ALL "), &params, &[needed])?.into_iter().flatten().flatten());
        }
        Ok(ids)
    }

    /// The next rows of `encrypted_data` under KEKs of `plugin`, without their payloads; none at the end.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn meta_page(&self, plugin: &str, cursor: &mut Cursor) -> Result<Vec<MetaRow>> {
        if cursor.done {
            return Ok(Vec::new());
        }
        let last: Vec<&str> = cursor.last.iter().map(|(id, _)| id.as_str()).collect();
        let from = if last.is_empty() { "" } else { "AND e.id > ?" };
        let rows = self.metas(plugin, &format!("{from} ORDER BY e.id LIMIT {PAGE}"), &last)?;
        cursor.pass(&rows, PAGE, |row| (row.id.clone(), String::new()));
        Ok(rows)
    }

    /// The rows of `encrypted_data` with these ids that are under KEKs of `plugin`, without their payloads.
    ///
    /// # Errors
    /// As [`Self::kek_page`].
    pub fn metas_by_id(&self, plugin: &str, ids: &[&str]) -> Result<Vec<MetaRow>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.metas(plugin, &format!("AND e.id IN ({})", marks(ids.len())), ids)
    }

    /// The rows under KEKs of `plugin` that `which` chooses, with a value for every `?` in it.
    fn metas(&self, plugin: &str, which: &str, values: &[&str]) -> Result<Vec<MetaRow>> {
        let params: Vec<Option<&str>> = std::iter::once(plugin).chain(values.iter().copied()).map(Some).collect();
        let sql = format!(
            "SELECT e.id, e.secret_id, e.kek_meta_extended FROM encrypted_data e JOIN kek_data k ON k.id = e.kek_id \
             WHERE k.plugin_name = ? {which}"
        );
        let needed: [(&str, &[&str]); 2] = [
            ("kek_data", &["id", "plugin_name"]),
            ("encrypted_data", &["id", "secret_id", "kek_id", "kek_meta_extended"]),
        ];
        self.rows(&sql, &params, &needed)?.into_iter().map(|row| self.meta_row(row)).collect()
    }

    /// How many rows `kek_data` or `encrypted_data` has, soft-deleted ones too.
    ///
    /// # Errors
    /// If they cannot be counted.
    pub fn rows_of(&self, kind: Kind) -> Result<u64> {
        self.count(&format!("SELECT count(*) FROM {}", kind.table()), kind.table())
    }

    /// What the rows with these ids hold in a column; those that are not there are left out.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn values(&self, column: TextColumn, ids: &[&str]) -> Result<BTreeMap<String, Option<String>>> {
        self.values_of(column.table(), column.name(), ids)
    }

    /// What the rows hold in a column whose ids are these two, or lie between them in the server's own order: of rows that were read by pages this
    /// costs a third of asking for each.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn values_between(
        &self,
        column: TextColumn,
        first: &str,
        last: &str,
    ) -> Result<BTreeMap<String, Option<String>>> {
        let (table, name) = (column.table(), column.name());
        let sql = format!("SELECT id, {name} FROM {table} WHERE id BETWEEN ? AND ?");
        let rows = self.rows(&sql, &[Some(first), Some(last)], &[(table, &["id", name])])?;
        Ok(rows.into_iter().filter_map(pair).collect())
    }

    /// The same of another column. `table` and `name` are ours, never the operator's.
    pub(super) fn values_of(&self, table: &str, name: &str, ids: &[&str]) -> Result<BTreeMap<String, Option<String>>> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let wanted: Vec<Option<&str>> = ids.iter().copied().map(Some).collect();
        let sql = format!("SELECT id, {name} FROM {table} WHERE id IN ({})", marks(ids.len()));
        let rows = self.rows(&sql, &wanted, &[(table, &["id", name])])?;
        Ok(rows.into_iter().filter_map(pair).collect())
    }

    /// Replaces the values of many rows, each if it still is the old one, and says which row was not, if any: the caller's transaction is to be
    /// rolled back then. `updated_at` stays as it is.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn replace_all(&mut self, column: TextColumn, changes: &[Change]) -> Result<Option<String>> {
        let (table, name) = (column.table(), column.name());
        let server = match &mut self.inner {
            Inner::Sqlite(sqlite) => return sqlite.writing()?.replace_all(table, name, changes),
            Inner::Server(server) => server,
        };
        let column_and = |value: &str| match server.wire.dialect() {
            Dialect::Postgresql => format!("\"{name}\" IS NOT DISTINCT FROM {value}"),
            // Byte by byte: a collation may take one text for another.
            _ => format!("CAST(\"{name}\" AS BINARY) <=> CAST({value} AS BINARY)"),
        };
        for batch in changes.chunks(AT_ONCE) {
            let case = format!("CASE id {}END", "WHEN ? THEN ? ".repeat(batch.len()));
            let sql = format!(
                "UPDATE \"{table}\" SET \"{name}\" = {case} WHERE id IN ({}) AND {}",
                marks(batch.len()),
                column_and(&case)
            );
            let ids = batch.iter().map(|change| Some(change.id.as_str()));
            let new = batch.iter().flat_map(|change| [Some(change.id.as_str()), change.new.as_deref()]);
            let old = batch.iter().flat_map(|change| [Some(change.id.as_str()), change.old.as_deref()]);
            let params: Vec<Option<&str>> = new.chain(ids).chain(old).collect();
            if server.wire.execute_with(&sql, &params)? != u64::try_from(batch.len()).unwrap_or_default() {
                let ids: Vec<&str> = batch.iter().map(|change| change.id.as_str()).collect();
                let now = self.values(column, &ids)?;
                let other = batch.iter().find(|change| now.get(&change.id) != Some(&change.new));
                return Ok(other.or(batch.first()).map(|change| change.id.clone()));
            }
        }
        Ok(None)
    }
}
