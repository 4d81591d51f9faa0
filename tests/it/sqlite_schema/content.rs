//! Rows for every table of any shape, and what must have become of them at a later revision.
use std::collections::BTreeMap;

use keymgr_upgrade::db::position;
use rusqlite::{Connection, types::Value};

/// Rows in each table.
pub(crate) const ROWS: usize = 3;

/// A row by column.
pub(crate) type Row = BTreeMap<String, Value>;

/// Every row of every table, by table and key.
pub(crate) type Content = BTreeMap<(String, String), Row>;

/// The id of the n-th row of a table.
pub(crate) fn id(table: &str, n: usize) -> String {
    let mut text = format!("{n}-{table}");
    text.truncate(20);
    format!("{text:-<36}")
}

struct Field {
    name: String,
    declared: String,
    not_null: bool,
    default: bool,
    parent: Option<String>,
}

fn fields(conn: &Connection, table: &str) -> Vec<Field> {
    let mut parents = BTreeMap::new();
    let mut keys = conn.prepare(&format!("PRAGMA foreign_key_list({table})")).unwrap();
    let mut rows = keys.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        parents.insert(row.get::<_, String>("from").unwrap(), row.get::<_, String>("table").unwrap());
    }
    let mut columns = conn.prepare(&format!("PRAGMA table_info({table})")).unwrap();
    let fields = columns.query_map([], |row| {
        let name: String = row.get("name")?;
        Ok(Field {
            parent: parents.get(&name).cloned(),
            declared: row.get("type")?,
            not_null: row.get("notnull")?,
            default: row.get::<_, Option<String>>("dflt_value")?.is_some(),
            name,
        })
    });
    fields.unwrap().collect::<Result<_, _>>().unwrap()
}

pub(crate) fn tables(conn: &Connection) -> Vec<String> {
    let mut query = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'alembic_version' ORDER BY name")
        .unwrap();
    query.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Puts rows into every table: references to existing rows, each unique column a value of its own, the last row
/// with NULL wherever it is allowed, texts that a careless copy would spoil.
pub(crate) fn fill(conn: &Connection) {
    for table in tables(conn) {
        let fields = fields(conn, &table);
        for n in 0..ROWS {
            let values: Vec<Value> = fields.iter().map(|field| value(&table, field, n)).collect();
            let names: Vec<String> = fields.iter().map(|f| format!("\"{}\"", f.name)).collect();
            let marks = vec!["?"; names.len()].join(", ");
            let sql = format!("INSERT INTO {table} ({}) VALUES ({marks})", names.join(", "));
            conn.execute(&sql, rusqlite::params_from_iter(values)).unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }
}

fn value(table: &str, field: &Field, n: usize) -> Value {
    let last = n == ROWS - 1;
    let number = i64::try_from(n).unwrap();
    if let Some(parent) = &field.parent {
        return if last && !field.not_null { Value::Null } else { Value::Text(id(parent, n)) };
    }
    match (field.name.as_str(), field.declared.as_str()) {
        ("id", _) => Value::Text(id(table, n)),
        // The last row's project is gone, where the schema does not forbid it yet: see the orphan tests.
        ("project_id", _) => Value::Text(id("projects", n)),
        // Juno had no reference here at first.
        ("container_id", _) => Value::Text(id("containers", n)),
        // A row that takes the default, where there is one.
        _ if last && field.default => Value::Text("opaque".to_owned()),
        _ if last && !field.not_null => Value::Null,
        (_, "BOOLEAN") => Value::Integer(number % 2),
        (_, "INTEGER") => Value::Integer(number * 1000 + 7),
        (_, "DATETIME") => Value::Text(format!("2015-0{}-03 04:05:06.789000", n + 1)),
        ("type", "VARCHAR(11)") => Value::Text("generic".to_owned()),
        (_, "CHAR(64)") => Value::Text(format!("{n:064x}")),
        (_, "TEXT") => {
            Value::Text(format!("{n} {{\"{}\": \"gr\u{fc}n\\n'; --\"}}\n\u{1f511}{}", field.name, "x".repeat(5000)))
        }
        (name, declared) => {
            let limit = declared.trim_start_matches("VARCHAR(").trim_end_matches(')').parse().unwrap();
            let mut text = format!("{n} {name} 'quoted' \u{e9}");
            while text.chars().count() > limit {
                text.pop();
            }
            Value::Text(text)
        }
    }
}

/// Every row; tables without id are keyed by row number.
pub(crate) fn read(conn: &Connection) -> Content {
    let mut content = Content::new();
    for table in tables(conn) {
        let mut query = conn.prepare(&format!("SELECT * FROM {table} ORDER BY rowid")).unwrap();
        let names: Vec<String> = query.column_names().map(ToOwned::to_owned).collect();
        let mut rows = query.query([]).unwrap();
        let mut n = 0;
        while let Some(row) = rows.next().unwrap() {
            let row: Row = names.iter().map(|c| (c.clone(), row.get(c.as_str()).unwrap())).collect();
            let key = match row.get("id") {
                Some(Value::Text(id)) => id.clone(),
                _ => n.to_string(),
            };
            n += 1;
            content.insert((table.clone(), key), row);
        }
    }
    content
}

/// What upstream's release notes and migrations say becomes of a database's content; written here without a
/// look at how the product does it. Columns that come to be in between are left to the shape's comparison.
pub(crate) fn expected(start: &Content, from: &str, to: &str) -> Content {
    let crosses = |revision: &str| {
        let at = position(revision).unwrap();
        position(from).unwrap() < at && at <= position(to).unwrap()
    };
    let mut content = Content::new();
    for ((table, key), row) in start {
        let (mut table, mut row) = (table.clone(), row.clone());
        let rename = |row: &mut Row, old: &str, new: &str| {
            if let Some(value) = row.remove(old) {
                row.insert(new.to_owned(), value);
            }
        };
        if crosses("254495565185") && table == "orders" {
            row.retain(|column, _| !column.starts_with("secret_") || column == "secret_id");
            if row["type"] == Value::Null {
                row.insert("type".to_owned(), Value::Text("key".to_owned()));
            }
        }
        if crosses("254495565185") && table == "transport_keys" && row["transport_key"] == Value::Null {
            row.insert("transport_key".to_owned(), Value::Text(String::new()));
        }
        if crosses("795737bb3c3") {
            rename(&mut row, "tenant_id", "project_id");
            table = match table.as_str() {
                "tenants" => "projects".to_owned(),
                "tenant_secret" => "project_secret".to_owned(),
                _ => table,
            };
        }
        if crosses("256da65e0c5f") {
            rename(&mut row, "keystone_id", "external_id");
        }
        if crosses("6a4457517a3")
            && let Some(Value::Integer(flag)) = row.remove("creator_only")
        {
            row.insert("project_access".to_owned(), Value::Integer(1 - flag));
        }
        if crosses("10220ccbe7fa") && table == "project_quotas" {
            row.remove("transport_keys");
        }
        content.insert((table, key.clone()), row);
    }
    if crosses("443d6f4a69ac") {
        for (_, row) in content.iter_mut().filter(|((table, _), _)| table == "secrets") {
            row.insert("secret_type".to_owned(), Value::Text("opaque".to_owned()));
        }
    }
    if crosses("1bece815014f") {
        let owners: Vec<(Value, Value)> = content
            .iter()
            .filter(|((table, _), _)| table == "project_secret")
            .map(|(_, row)| (row["secret_id"].clone(), row["project_id"].clone()))
            .collect();
        content.retain(|(table, _), _| table != "project_secret");
        for (secret, project) in owners {
            let Value::Text(secret) = secret else { panic!("a secret without id") };
            content.get_mut(&("secrets".to_owned(), secret)).unwrap().insert("project_id".to_owned(), project);
        }
    }
    content
}

/// Every expected value is there, unchanged, and no row besides.
pub(crate) fn assert_kept(expected: &Content, found: &Content, what: &str) {
    let keys = |content: &Content| content.keys().cloned().collect::<Vec<_>>();
    // Rows that had no id got one: they are compared by the rest, in order.
    let keyed = |content: &Content| content.iter().all(|(_, row)| row.contains_key("id"));
    if keyed(expected) {
        assert_eq!(keys(expected), keys(found), "{what}: rows");
    }
    for ((table, key), row) in expected {
        let candidates: Vec<&Row> = if row.contains_key("id") {
            found.get(&(table.clone(), key.clone())).into_iter().collect()
        } else {
            found.iter().filter(|((t, _), _)| t == table).map(|(_, row)| row).collect()
        };
        let same = |candidate: &&Row| row.iter().all(|(column, value)| candidate.get(column) == Some(value));
        assert_eq!(
            candidates.iter().filter(|c| same(c)).count(),
            1,
            "{what}: {table} {key}: {row:?} in {candidates:?}"
        );
    }
}
