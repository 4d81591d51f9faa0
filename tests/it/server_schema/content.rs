//! What must have become of a database's rows at a later revision.
use std::collections::BTreeMap;

use keymgr_upgrade::db::position;

/// A row by column, each value as text; `None` is NULL.
pub(crate) type Row = BTreeMap<String, Option<String>>;

/// Every row of every table.
pub(crate) type Content = BTreeMap<String, Vec<Row>>;

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn rename(row: &mut Row, old: &str, new: &str) {
    if let Some(value) = row.remove(old) {
        row.insert(new.to_owned(), value);
    }
}

fn of<'a>(content: &'a mut Content, table: &str) -> std::slice::IterMut<'a, Row> {
    content.get_mut(table).map(|rows| rows.iter_mut()).unwrap_or_default()
}

/// What upstream's release notes and migrations say becomes of a database's content; written here without a look at
/// how the product does it. Columns that come to be in between are empty unless they are named here.
pub(crate) fn expected(start: &Content, from: &str, to: &str) -> Content {
    let crosses = |revision: &str| {
        let at = position(revision).unwrap();
        position(from).unwrap() < at && at <= position(to).unwrap()
    };
    let mut content = start.clone();
    content.insert("alembic_version".to_owned(), vec![Row::from([("version_num".to_owned(), text(to))])]);
    if crosses("795737bb3c3") {
        for (old, new) in [("tenants", "projects"), ("tenant_secret", "project_secret")] {
            let rows = content.remove(old).unwrap();
            content.insert(new.to_owned(), rows);
        }
        for row in content.values_mut().flatten() {
            rename(row, "tenant_id", "project_id");
        }
    }
    if crosses("256da65e0c5f") {
        of(&mut content, "projects").for_each(|row| rename(row, "keystone_id", "external_id"));
    }
    if crosses("443d6f4a69ac") {
        for row in of(&mut content, "secrets") {
            row.insert("secret_type".to_owned(), text("opaque"));
        }
    }
    if crosses("6a4457517a3") {
        for table in ["secret_acls", "container_acls"] {
            for row in of(&mut content, table) {
                invert(row);
            }
        }
    }
    if crosses("1bece815014f") {
        let owners: BTreeMap<_, _> = content
            .remove("project_secret")
            .unwrap()
            .into_iter()
            .map(|mut row| (row.remove("secret_id").unwrap(), row.remove("project_id").unwrap()))
            .collect();
        for row in of(&mut content, "secrets") {
            let owner = owners[&row["id"]].clone();
            row.insert("project_id".to_owned(), owner);
        }
    }
    content
}

/// Once "only its creator may read", from 6a4457517a3 on "its project may read".
fn invert(row: &mut Row) {
    if let Some(creator_only) = row.remove("creator_only") {
        let open = match creator_only.as_deref() {
            Some("0") => "1",
            Some("1") => "0",
            other => panic!("creator_only is {other:?}"),
        };
        row.insert("project_access".to_owned(), text(open));
    }
}

/// What is not as expected, a sentence each.
pub(crate) fn unlike(expected: &Content, found: &Content) -> Vec<String> {
    let mut told = Vec::new();
    for table in expected.keys().filter(|table| !found.contains_key(*table)) {
        told.push(format!("rows: table {table} is gone"));
    }
    for (table, rows) in found {
        let Some(wanted) = expected.get(table) else {
            if !rows.is_empty() {
                told.push(format!("rows: the new table {table} has {} rows", rows.len()));
            }
            continue;
        };
        // A column that came to be is NULL everywhere; expected rows have it not.
        let known = |column: &String| wanted.first().is_none_or(|row| row.contains_key(column));
        let bare = |row: &Row| -> Row {
            row.iter().filter(|(c, v)| known(c) || v.is_some()).map(|(c, v)| (c.clone(), v.clone())).collect()
        };
        let (mut wanted, mut rows) = (wanted.clone(), rows.iter().map(bare).collect::<Vec<_>>());
        wanted.sort();
        rows.sort();
        for row in wanted.iter().filter(|row| !rows.contains(row)) {
            told.push(format!("rows: {table}: gone or changed: {row:?}"));
        }
        for row in rows.iter().filter(|row| !wanted.contains(row)) {
            told.push(format!("rows: {table}: not expected: {row:?}"));
        }
        if wanted.len() != rows.len() {
            told.push(format!("rows: {table}: {} instead of {}", rows.len(), wanted.len()));
        }
    }
    told
}
