//! The shapes known for a revision, built in memory from the same statements that migrate a database.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use super::{
    Dialect, Result, Shape, Table, Verification, chain,
    chain::{Leftover, Revision},
    error, position,
};

/// What is known of the schema of databases on a server at a revision: that of a fresh installation, the same on every dialect once types are
/// spelled alike, and what older databases have different.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) fresh: Shape,
    leftovers: Vec<&'static Leftover>,
}

impl Known {
    /// What is known of `revision`.
    pub(super) fn at(revision: &str, dialect: Dialect) -> Result<Self> {
        let last = position(revision)?;
        let mut leftovers = Vec::new();
        for leftover in chain().get(..=last).unwrap_or_default().iter().flat_map(|r| &r.leftovers) {
            let over = leftover.until.as_deref().map(position).transpose()?.is_some_and(|until| until <= last);
            if leftover.dialects.contains(&dialect) && !over {
                leftovers.push(leftover);
            }
        }
        let fresh = known(revision, Kind::Fresh)?.first().map(|(_, shape)| shape.clone()).unwrap_or_default();
        Ok(Self { fresh, leftovers })
    }

    /// Compares a live shape.
    pub(super) fn verify(&self, live: &Shape) -> Verification {
        let (all, extras) = self.fresh.compare(live);
        let (leftovers, differences): (Vec<String>, Vec<String>) = all.into_iter().partition(|d| self.explains(d));
        let name = match leftovers.len() {
            0 => "a fresh installation".to_owned(),
            1 => "known, with 1 leftover of older releases".to_owned(),
            n => format!("known, with {n} leftovers of older releases"),
        };
        let matches = differences.is_empty().then_some(name);
        Verification { matches, differences, leftovers, half_done: None, extras }
    }

    /// The differences of one table that nothing explains.
    pub(super) fn unexplained_of(&self, table: &str, live: &Shape) -> Vec<String> {
        let only = |shape: &Shape| Shape {
            tables: shape.tables.get(table).map(|t| (table.to_owned(), t.clone())).into_iter().collect(),
            ..Shape::default()
        };
        let mut differences = only(&self.fresh).compare(&only(live)).0;
        differences.retain(|d| !self.explains(d));
        differences
    }

    fn explains(&self, difference: &str) -> bool {
        self.leftovers.iter().any(|l| l.explains(difference))
    }
}

/// Why a difference from a fresh installation is known, where it is.
pub(super) fn why(difference: &str, dialect: Dialect) -> Option<&'static str> {
    let all = chain().iter().flat_map(|r| &r.leftovers);
    all.filter(|l| l.dialects.contains(&dialect)).find(|l| l.explains(difference)).map(|l| l.why.as_str())
}

type Shapes = Arc<Vec<(String, Shape)>>;

/// By position in the chain and kind; building one takes some milliseconds.
static CACHE: Mutex<BTreeMap<(usize, Kind), Shapes>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// What our statements make of nothing.
    Fresh,
    /// What they make of the other shapes found in the field.
    Variants,
}

/// Compares a live shape with those known for `revision`, and names the differences from the nearest.
pub(super) fn verify(live: &Shape, revision: &str) -> Result<Verification> {
    let mut nearest: Option<Verification> = None;
    // Most databases have the fresh shape: the others are built only when they are needed.
    for kind in [Kind::Fresh, Kind::Variants] {
        for (name, shape) in known(revision, kind)?.iter() {
            let (mut differences, mut extras) = shape.compare(live);
            if !extras.is_empty() {
                collisions(live, shape, revision, &mut differences, &mut extras)?;
            }
            if differences.is_empty() {
                let leftovers = match kind {
                    Kind::Fresh => Vec::new(),
                    Kind::Variants => {
                        known(revision, Kind::Fresh)?.first().map(|(_, f)| f.compare(live).0).unwrap_or_default()
                    }
                };
                return Ok(Verification {
                    leftovers,
                    matches: Some(name.clone()),
                    differences,
                    extras,
                    ..Verification::default()
                });
            }
            if nearest.as_ref().is_none_or(|n| differences.len() < n.differences.len()) {
                nearest = Some(Verification { matches: None, differences, extras, ..Verification::default() });
            }
        }
    }
    Ok(nearest.unwrap_or_default())
}

/// A table that a later revision creates is no extra where it has another shape there: that revision would fail on it. Some interrupted
/// migration left it, or somebody's own table has its name.
fn collisions(
    live: &Shape,
    here: &Shape,
    revision: &str,
    differences: &mut Vec<String>,
    extras: &mut Vec<String>,
) -> Result<()> {
    let later = chain().get(position(revision)? + 1..).unwrap_or_default();
    for (name, table) in live.tables.iter().filter(|(name, _)| !here.tables.contains_key(*name)) {
        let creates = |r: &&Revision| r.sqlite.iter().any(|s| s.starts_with("CREATE TABLE") && mentions(s, name));
        let Some(creator) = later.iter().find(creates) else { continue };
        let shapes = known(&creator.id, Kind::Fresh)?;
        let fits = |(_, shape): &(String, Shape)| {
            let only = |table: &Table| Shape { tables: [(name.clone(), table.clone())].into(), ..Shape::default() };
            shape.tables.get(name).is_some_and(|wanted| only(wanted).compare(&only(table)).0.is_empty())
        };
        if !shapes.iter().any(fits) {
            differences.push(format!("table {name} is in the way of revision {}, which creates it", creator.id));
            extras.retain(|extra| *extra != format!("table {name}"));
        }
    }
    Ok(())
}

/// Whether the first line of a statement has the word.
fn mentions(statement: &str, word: &str) -> bool {
    let first = statement.lines().next().unwrap_or_default();
    first.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|w| w == word)
}

fn known(revision: &str, kind: Kind) -> Result<Shapes> {
    let last = position(revision)?;
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache.get(&(last, kind)) {
        return Ok(Arc::clone(known));
    }
    let revisions = chain().get(..=last).unwrap_or_default();
    let built = match kind {
        Kind::Fresh => fresh(revisions),
        Kind::Variants => variants(revisions),
    };
    let built =
        built.map_err(|e| error::sqlite("(memory)".as_ref(), format!("cannot build the schema of {revision}"), e))?;
    let known = Arc::new(built);
    cache.insert((last, kind), Arc::clone(&known));
    Ok(known)
}

fn fresh(revisions: &[Revision]) -> rusqlite::Result<Vec<(String, Shape)>> {
    let conn = memory()?;
    run(&conn, revisions)?;
    Ok(vec![("a fresh installation".to_owned(), Shape::read(&conn)?)])
}

/// Each variant as it was at its revision, taken on to the last one. Most are levelled out on the way and
/// come out as fresh ones; that does no harm.
fn variants(revisions: &[Revision]) -> rusqlite::Result<Vec<(String, Shape)>> {
    let mut known = Vec::new();
    for (n, revision) in revisions.iter().enumerate() {
        for (name, statements) in &revision.variants {
            let conn = memory()?;
            let (before, after) = revisions.split_at(n + 1);
            run(&conn, before)?;
            for statement in statements {
                conn.execute_batch(statement)?;
            }
            run(&conn, after)?;
            known.push((format!("{name} of {}", revision.id), Shape::read(&conn)?));
        }
    }
    Ok(known)
}

fn memory() -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    conn.pragma_update(None, "foreign_keys", false)?;
    Ok(conn)
}

fn run(conn: &Connection, revisions: &[Revision]) -> rusqlite::Result<()> {
    for statement in revisions.iter().flat_map(|r| &r.sqlite) {
        conn.execute_batch(statement)?;
    }
    Ok(())
}
