//! The shapes known for a revision, built in memory from the same statements that migrate a database.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use super::{Result, Shape, Verification, chain, chain::Revision, error, position};

/// A shape and the name it is called by.
pub(super) type Known = Arc<Vec<(String, Shape)>>;

static CACHE: Mutex<BTreeMap<usize, Known>> = Mutex::new(BTreeMap::new());

/// The shapes in which a database at `revision` is known to occur, the fresh installation's first.
pub(super) fn known(revision: &str) -> Result<Known> {
    let last = position(revision)?;
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache.get(&last) {
        return Ok(Arc::clone(known));
    }
    let built = build(chain().get(..=last).unwrap_or_default())
        .map_err(|e| error::sqlite("(memory)".as_ref(), format!("cannot build the schema of {revision}"), e))?;
    let known = Arc::new(built);
    cache.insert(last, Arc::clone(&known));
    Ok(known)
}

fn build(revisions: &[Revision]) -> rusqlite::Result<Vec<(String, Shape)>> {
    let fresh = Connection::open_in_memory()?;
    run(&fresh, revisions)?;
    let mut known = vec![("a fresh installation".to_owned(), Shape::read(&fresh)?)];
    for (n, revision) in revisions.iter().enumerate() {
        for (name, statements) in &revision.variants {
            let conn = Connection::open_in_memory()?;
            let (before, after) = revisions.split_at(n + 1);
            run(&conn, before)?;
            for statement in statements {
                conn.execute_batch(statement)?;
            }
            run(&conn, after)?;
            let shape = Shape::read(&conn)?;
            // Most variants are levelled out by a later revision.
            if known.iter().all(|(_, other)| !other.compare(&shape).0.is_empty()) {
                known.push((format!("{name} of {}", revision.id), shape));
            }
        }
    }
    Ok(known)
}

fn run(conn: &Connection, revisions: &[Revision]) -> rusqlite::Result<()> {
    conn.pragma_update(None, "foreign_keys", false)?;
    for statement in revisions.iter().flat_map(|r| &r.sqlite) {
        conn.execute_batch(statement)?;
    }
    Ok(())
}

/// Compares a live shape with those known for `revision`, and names the differences from the nearest.
pub(super) fn verify(live: &Shape, revision: &str) -> Result<Verification> {
    let mut nearest: Option<Verification> = None;
    for (name, shape) in known(revision)?.iter() {
        let (differences, extras) = shape.compare(live);
        let matches = differences.is_empty().then(|| name.clone());
        if nearest.as_ref().is_none_or(|n| differences.len() < n.differences.len()) {
            nearest = Some(Verification { matches, differences, extras });
        }
    }
    Ok(nearest.unwrap_or_default())
}
