//! The shapes known for a revision, built in memory from the same statements that migrate a database.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use super::{
    Dialect, Error, Result, Shape, Table, Verification, chain,
    chain::{Leftover, Revision},
    error, position,
};

/// What is known of the schema of databases on a server at a revision: that of a fresh installation, the same on every dialect once types are
/// spelled alike, and what older databases have different.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) fresh: Arc<Shape>,
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
        Ok(Self { fresh: fresh(revision)?, leftovers })
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

    /// The differences of one live table from `wanted` that nothing explains.
    pub(super) fn unexplained_of(&self, table: &str, wanted: Table, live: &Shape) -> Vec<String> {
        let only = |one: Option<Table>| Shape {
            tables: one.map(|t| (table.to_owned(), t)).into_iter().collect(),
            ..Shape::default()
        };
        let mut differences = only(Some(wanted)).compare(&only(live.tables.get(table).cloned())).0;
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

/// Compares a live shape with those known for `revision`, and names the differences from the nearest.
pub(super) fn verify(live: &Shape, revision: &str) -> Result<Verification> {
    let fresh = fresh(revision)?;
    let mut nearest = compare("a fresh installation", &fresh, live, revision)?;
    if nearest.matches.is_some() {
        return Ok(nearest);
    }
    // Most databases have the fresh shape: the others are built only when they are needed.
    for (name, shape) in variants(revision)?.iter() {
        let found = compare(name, shape, live, revision)?;
        if found.matches.is_some() {
            return Ok(Verification { leftovers: fresh.compare(live).0, ..found });
        }
        if found.differences.len() < nearest.differences.len() {
            nearest = found;
        }
    }
    Ok(nearest)
}

fn compare(name: &str, known: &Shape, live: &Shape, revision: &str) -> Result<Verification> {
    let (mut differences, mut extras) = known.compare(live);
    if !extras.is_empty() {
        collisions(live, known, revision, &mut differences, &mut extras)?;
    }
    let matches = differences.is_empty().then(|| name.to_owned());
    Ok(Verification { matches, differences, extras, ..Verification::default() })
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
        let only = |table: &Table| Shape { tables: [(name.clone(), table.clone())].into(), ..Shape::default() };
        let created = fresh(&creator.id)?;
        if !created.tables.get(name).is_some_and(|wanted| only(wanted).compare(&only(table)).0.is_empty()) {
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

/// What our statements make of nothing, kept where they stopped: most shapes are asked for in the order of the chain.
#[derive(Default)]
struct Fresh {
    conn: Option<Connection>,
    /// How many revisions were run on it.
    done: usize,
    /// By position in the chain.
    shapes: BTreeMap<usize, Arc<Shape>>,
}

impl Fresh {
    fn at(&mut self, last: usize) -> rusqlite::Result<Arc<Shape>> {
        if let Some(known) = self.shapes.get(&last) {
            return Ok(Arc::clone(known));
        }
        let kept = self.conn.take().filter(|_| self.done <= last);
        let (conn, done) = match kept {
            Some(conn) => (conn, self.done),
            None => (memory()?, 0),
        };
        run(&conn, chain().get(done..=last).unwrap_or_default())?;
        let shape = Arc::new(Shape::read(&conn)?);
        (self.conn, self.done) = (Some(conn), last + 1);
        self.shapes.insert(last, Arc::clone(&shape));
        Ok(shape)
    }
}

/// The shape of a fresh installation at `revision`.
fn fresh(revision: &str) -> Result<Arc<Shape>> {
    static FRESH: Mutex<Option<Fresh>> = Mutex::new(None);
    let last = position(revision)?;
    let mut fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner);
    fresh.get_or_insert_default().at(last).map_err(|e| unbuilt(revision, e))
}

/// The other shapes found in the field, by their names. Each is what it was at its revision, taken on to this one. Most are levelled out on the
/// way and come out as fresh ones; that does no harm.
fn variants(revision: &str) -> Result<Arc<Vec<(String, Shape)>>> {
    type Shapes = Arc<Vec<(String, Shape)>>;
    static VARIANTS: Mutex<BTreeMap<usize, Shapes>> = Mutex::new(BTreeMap::new());
    let last = position(revision)?;
    let mut cache = VARIANTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache.get(&last) {
        return Ok(Arc::clone(known));
    }
    let built = build_variants(chain().get(..=last).unwrap_or_default()).map_err(|e| unbuilt(revision, e))?;
    let known = Arc::new(built);
    cache.insert(last, Arc::clone(&known));
    Ok(known)
}

fn unbuilt(revision: &str, why: rusqlite::Error) -> Error {
    error::sqlite("(memory)".as_ref(), format!("cannot build the schema of {revision}"), why)
}

fn build_variants(revisions: &[Revision]) -> rusqlite::Result<Vec<(String, Shape)>> {
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
