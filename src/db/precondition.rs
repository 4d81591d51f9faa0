//! The queries that look for rows in the way of a revision, asked of the schema as it is now.
//!
//! A query of `revision.toml` is written for the schema just before its revision and names each table with the columns that it needs, as
//! `{secrets: id, project_id}`. Where revisions are still to run before that one, such a table is made of the live one: renamed backwards,
//! with NULL for the columns that are still to come. A table that is still to come has no rows.
use super::{
    Dialect, Offence, Orphans, Result, Shape,
    chain::{Precondition, Revision},
};

/// The rows that stand in the way of `revisions`, which are all still to run on `live`. `ask` runs a query and returns the names of its columns
/// and its rows.
pub(super) fn offences(
    dialect: Dialect,
    live: &Shape,
    revisions: &[Revision],
    orphans: Orphans,
    ask: impl Fn(&Precondition, &str) -> Result<(Vec<String>, Vec<Vec<Option<String>>>)>,
) -> Result<Vec<Offence>> {
    let mut found = Vec::new();
    for (n, revision) in revisions.iter().enumerate() {
        let pending = revisions.get(..n).unwrap_or_default();
        for precondition in revision.preconditions.iter().filter(|p| stands(p, dialect, orphans)) {
            let Some(query) = query(precondition, dialect, live, pending) else { continue };
            let (names, rows) = ask(precondition, &query)?;
            if !rows.is_empty() {
                found.push(offence(precondition, &names, &rows));
            }
        }
    }
    Ok(found)
}

fn stands(precondition: &Precondition, dialect: Dialect, orphans: Orphans) -> bool {
    let asked = precondition.dialects.is_empty() || precondition.dialects.contains(&dialect);
    asked && (!precondition.orphans || orphans == Orphans::Refuse)
}

fn offence(precondition: &Precondition, names: &[String], rows: &[Vec<Option<String>>]) -> Offence {
    let show = |row: &Vec<Option<String>>| {
        let fields =
            names.iter().zip(row).map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("NULL")));
        fields.collect::<Vec<_>>().join(", ")
    };
    Offence {
        id: precondition.id.clone(),
        title: precondition.title.clone(),
        rows: rows.iter().map(show).collect(),
        remedy: precondition.remedy.clone(),
    }
}

/// The query for the live schema; `None` if one of its tables is still to come.
fn query(precondition: &Precondition, dialect: Dialect, live: &Shape, pending: &[Revision]) -> Option<String> {
    let mut text = String::new();
    let mut rest = precondition.query.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}')?;
        let (table, columns) = inside.split_once(':')?;
        text.push_str(before);
        text.push_str(&source(table.trim(), columns.split(',').map(str::trim), dialect, live, pending)?);
        rest = after;
    }
    text.push_str(rest);
    Some(if dialect == Dialect::Sqlite { text.replace("char_length(", "length(") } else { text })
}

fn source<'a>(
    table: &'a str,
    columns: impl Iterator<Item = &'a str>,
    dialect: Dialect,
    live: &Shape,
    pending: &'a [Revision],
) -> Option<String> {
    let now = pending.iter().rev().fold(table, |name, revision| revision.table_before(name));
    // Somebody may have begun: then some are renamed already.
    let names = [now, table];
    let now = names.into_iter().find(|name| live.tables.contains_key(*name))?;
    let found = live.tables.get(now)?;
    let columns = columns.map(|column| {
        let before = pending.iter().rev().fold((table, column), |(t, c), revision| revision.before(t, c)).1;
        match [before, column].into_iter().find(|name| found.columns.contains_key(*name)) {
            Some(name) if name == column => format!("\"{column}\""),
            Some(name) => format!("\"{name}\" AS \"{column}\""),
            None if dialect == Dialect::Postgresql => format!("NULL::varchar AS \"{column}\""),
            None => format!("NULL AS \"{column}\""),
        }
    });
    Some(format!("(SELECT {} FROM \"{now}\")", columns.collect::<Vec<_>>().join(", ")))
}
