//! What there is before and after a revision, to prove that the difference is what the revision says.
use std::collections::BTreeMap;

use super::{Shape, chain::Revision};

/// What is missing after one revision, its renames and drops considered.
pub(super) fn lost(before: &Shape, after: &Shape, revision: &Revision) -> Vec<String> {
    let mut lost = Vec::new();
    let dropped = |what: &str| revision.drops.iter().any(|d| d == what);
    for (name, table) in &before.tables {
        let new_name = revision.renames.table(name);
        let Some(new) = after.tables.get(new_name) else {
            if !dropped(name) {
                lost.push(format!("table {name}"));
            }
            continue;
        };
        let renamed = |column: &String| revision.renames.column(name, column).1.to_owned();
        let gone = |column: &String| dropped(&format!("{name}.{column}"));
        for column in table.columns.keys().filter(|c| !gone(c) && !new.columns.contains_key(&renamed(c))) {
            lost.push(format!("column {name}.{column}"));
        }
        for index in &table.indexes {
            let columns: Vec<String> = index.columns.iter().map(renamed).collect();
            // Whatever begins with its columns does what a plain index does.
            let found = new.indexes.iter().any(|i| match index.unique {
                true => i.columns == columns && i.unique,
                false => i.columns.starts_with(&columns),
            });
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
    lost.extend(before.others.difference(&after.others).cloned());
    lost
}

/// Tables that have fewer or more rows after `revisions` than before.
pub(super) fn lost_rows(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    revisions: &[Revision],
) -> Vec<String> {
    let mut lost = Vec::new();
    for (name, rows) in before {
        let mut now = Some(name.as_str());
        for revision in revisions {
            now = now.filter(|n| !revision.drops.iter().any(|d| d == n)).map(|n| revision.renames.table(n));
        }
        let Some(now) = now else { continue };
        let left = after.get(now).unwrap_or(&0);
        if left != rows {
            lost.push(format!("{name} had {rows} rows, {now} has {left}"));
        }
    }
    lost
}
