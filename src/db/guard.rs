//! What a statement of `postgresql.sql` or `mysql.sql` makes, told by the directive line above it, so that it is run only where it
//! is not done yet.
//!
//! MySQL and MariaDB commit at every statement, so a migration may have stopped between any two of them, ours or Barbican's own. Before each
//! statement its guard is judged against the live schema: to be run, done already, or in the way, which stops the migration with the name of
//! the thing. The same guards, applied to a copy of the live shape, tell beforehand where a migration would end.
use super::{
    Dialect, Shape,
    chain::Renames,
    known::Known,
    shape::{Column, ForeignKey, Index, Table},
};

/// A statement and its guard.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    pub(super) guard: Guard,
    /// The statement; `{name}` stands for the object that the guard found.
    pub(super) sql: String,
}

/// What a statement makes of the schema. Types are spelled as SQLite's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    MakeTable {
        table: String,
    },
    DropTable {
        table: String,
    },
    RenameTable {
        old: String,
        new: String,
    },
    MakeColumn {
        table: String,
        column: String,
        wanted: Column,
    },
    AlterColumn {
        table: String,
        column: String,
        wanted: Column,
    },
    RenameColumn {
        table: String,
        old: String,
        new: String,
    },
    DropColumn {
        table: String,
        column: String,
    },
    MakeKey {
        table: String,
        columns: Vec<String>,
    },
    DropKey {
        table: String,
    },
    MakeIndex {
        name: String,
        table: String,
        columns: Vec<String>,
        unique: bool,
    },
    DropIndex {
        table: String,
        columns: Vec<String>,
        unique: bool,
    },
    MakeReference {
        name: String,
        table: String,
        columns: Vec<String>,
        parent: String,
        references: Vec<String>,
    },
    DropReference {
        table: String,
        columns: Vec<String>,
        parent: String,
        references: Vec<String>,
    },
    /// A data statement that writes one column from another and may run again as long as both are there.
    Fill {
        table: String,
        column: String,
        from: (String, String),
    },
    /// A data statement that may always run again.
    Tidy {
        table: String,
    },
}

/// Whether a statement is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Once for each of these names; an empty one where the statement has no `{name}`.
    Run(Vec<String>),
    /// What it makes is there.
    Done,
    /// Something else is there, or what it needs is not.
    Stop(String),
}

/// Where a guard stands: what is known of the schema after its revision, and the guards of the same revision that come after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) dialect: Dialect,
    pub(super) known: &'a Known,
    pub(super) later: &'a [Guarded],
}

impl Guard {
    /// Reads the directive after `--:`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| format!("cannot read the directive `{text}`"))
    }

    /// Looks whether the statement is to be run on `live`.
    pub(super) fn judge(&self, live: &Shape, place: Place<'_>) -> Verdict {
        match self {
            Self::MakeTable { table } => judge_new_table(live, table, place),
            Self::DropTable { table } => run_if(live.tables.contains_key(table)),
            Self::RenameTable { old, new } => {
                let there = |name: &String| live.tables.contains_key(name);
                renamed(there(old), there(new), || format!("tables {old} and {new}"))
            }
            Self::Tidy { table } => within(live, table, |_| once()),
            Self::MakeColumn { table, .. }
            | Self::AlterColumn { table, .. }
            | Self::RenameColumn { table, .. }
            | Self::DropColumn { table, .. } => within(live, table, |t| self.judge_column(t)),
            Self::Fill { table, column, from } => within(live, table, |t| judge_fill(live, t, table, column, from)),
            Self::MakeKey { table, columns } => within(live, table, |t| run_if(t.primary_key != *columns)),
            Self::DropKey { table } => within(live, table, |t| match &t.primary_key_name {
                Some(name) => Verdict::Run(vec![name.clone()]),
                None => Verdict::Done,
            }),
            Self::MakeIndex { name, table, columns, unique } => {
                within(live, table, |t| judge_new_index(live, t, name, table, columns, *unique, place.dialect))
            }
            Self::DropIndex { table, columns, unique } => within(live, table, |t| {
                let like = |i: &&Index| i.unique == *unique && !i.partial && i.columns == *columns;
                each(t.indexes.iter().filter(like).map(|i| i.name.clone()).collect())
            }),
            Self::MakeReference { name, table, columns, parent, references } => within(live, table, |t| {
                let fits = |k: &ForeignKey| is_reference(k, columns, parent, references);
                if t.foreign_keys.iter().any(fits) {
                    return Verdict::Done;
                }
                match live.tables.iter().find(|(_, t)| t.foreign_key_names.iter().any(|(n, _)| n == name)) {
                    Some((other, _)) if other == table || place.dialect == Dialect::Mysql => {
                        Verdict::Stop(format!("constraint {name} of table {other} is another one"))
                    }
                    _ => once(),
                }
            }),
            Self::DropReference { table, columns, parent, references } => within(live, table, |t| {
                let fits = |(_, k): &&(String, ForeignKey)| is_reference(k, columns, parent, references);
                each(t.foreign_key_names.iter().filter(fits).map(|(name, _)| name.clone()).collect())
            }),
        }
    }

    fn judge_column(&self, live: &Table) -> Verdict {
        match self {
            Self::MakeColumn { table, column, wanted } => match live.columns.get(column) {
                None => once(),
                // A later statement of ours may have made it NOT NULL by now.
                Some(found) if found.declared == wanted.declared && (wanted.nullable || !found.nullable) => {
                    Verdict::Done
                }
                Some(found) => Verdict::Stop(format!(
                    "column {table}.{column} is there as {}, not as {}",
                    written(found),
                    written(wanted)
                )),
            },
            Self::AlterColumn { table, column, wanted } => match live.columns.get(column) {
                None => Verdict::Stop(format!("column {table}.{column} is missing")),
                Some(found) => run_if(!is_as(found, wanted)),
            },
            Self::RenameColumn { table, old, new } => {
                let there = |name: &String| live.columns.contains_key(name);
                renamed(there(old), there(new), || format!("columns {old} and {new} of table {table}"))
            }
            Self::DropColumn { column, .. } => run_if(live.columns.contains_key(column)),
            _ => once(),
        }
    }

    /// Makes of `shape` what the statement `sql` makes of the schema.
    pub(super) fn apply(&self, sql: &str, shape: &mut Shape, place: Place<'_>) {
        match self {
            Self::MakeTable { table } => {
                let Some(fresh) = place.known.fresh.tables.get(table) else { return };
                let mut new = fresh.clone();
                let inline: Vec<(String, Vec<String>)> = sql.lines().filter_map(inline).collect();
                for index in &mut new.indexes {
                    if let Some((name, _)) = inline.iter().find(|(_, columns)| *columns == index.columns) {
                        index.name.clone_from(name);
                    }
                }
                let is_inline = |i: &Index| inline.iter().any(|(_, columns)| *columns == i.columns);
                new.indexes.retain(|i| i.unique || is_inline(i) || !made_later(place.later, table, &i.columns));
                shape.tables.insert(table.clone(), new);
            }
            Self::DropTable { table } => {
                shape.tables.remove(table);
            }
            Self::RenameTable { old, new } => {
                rename(shape, &Renames { tables: [(old.clone(), new.clone())].into(), ..Renames::default() });
                if place.dialect == Dialect::Mysql
                    && let Some(table) = shape.tables.get_mut(new)
                {
                    // Names that the server made up follow the table's.
                    for (name, _) in &mut table.foreign_key_names {
                        if let Some(number) = name.strip_prefix(&format!("{old}_ibfk_")) {
                            *name = format!("{new}_ibfk_{number}");
                        }
                    }
                }
            }
            Self::RenameColumn { table, old, new } => {
                let columns = [(format!("{table}.{old}"), format!("{table}.{new}"))].into();
                rename(shape, &Renames { columns, ..Renames::default() });
            }
            Self::MakeReference { name, table, columns, parent, references } => {
                let key = ForeignKey {
                    columns: columns.clone(),
                    table: parent.clone(),
                    references: references.clone(),
                    actions: "NO ACTION/NO ACTION".to_owned(),
                };
                let Some(found) = shape.tables.get_mut(table) else { return };
                found.foreign_key_names.push((name.clone(), key.clone()));
                found.foreign_keys.insert(key);
                // MySQL makes an index for a foreign key that has none.
                if place.dialect == Dialect::Mysql && !found.indexes.iter().any(|i| i.columns.starts_with(columns)) {
                    found.indexes.push(Index {
                        name: name.clone(),
                        columns: columns.clone(),
                        unique: false,
                        partial: false,
                    });
                }
            }
            _ => {
                if let Some(table) = self.table().and_then(|name| shape.tables.get_mut(name)) {
                    self.apply_inside(table);
                }
            }
        }
    }

    fn apply_inside(&self, table: &mut Table) {
        match self {
            Self::MakeColumn { column, wanted, .. } | Self::AlterColumn { column, wanted, .. } => {
                table.columns.insert(column.clone(), wanted.clone());
            }
            Self::DropColumn { column, .. } => {
                table.columns.remove(column);
                table.indexes.retain(|i| !i.columns.contains(column));
                table.foreign_keys.retain(|k| !k.columns.contains(column));
                table.foreign_key_names.retain(|(_, k)| !k.columns.contains(column));
            }
            Self::MakeKey { columns, .. } => table.primary_key.clone_from(columns),
            Self::DropKey { .. } => {
                table.primary_key.clear();
                table.primary_key_name = None;
            }
            Self::MakeIndex { name, columns, unique, .. } => {
                let index = Index { name: name.clone(), columns: columns.clone(), unique: *unique, partial: false };
                table.indexes.push(index);
            }
            Self::DropIndex { columns, unique, .. } => {
                table.indexes.retain(|i| i.unique != *unique || i.columns != *columns);
            }
            Self::DropReference { columns, parent, references, .. } => {
                table.foreign_keys.retain(|k| !is_reference(k, columns, parent, references));
                table.foreign_key_names.retain(|(_, k)| !is_reference(k, columns, parent, references));
            }
            _ => {}
        }
    }

    /// The table that it is about, where it is about one.
    fn table(&self) -> Option<&str> {
        match self {
            Self::RenameTable { .. } => None,
            Self::MakeTable { table }
            | Self::DropTable { table }
            | Self::MakeColumn { table, .. }
            | Self::AlterColumn { table, .. }
            | Self::RenameColumn { table, .. }
            | Self::DropColumn { table, .. }
            | Self::MakeKey { table, .. }
            | Self::DropKey { table }
            | Self::MakeIndex { table, .. }
            | Self::DropIndex { table, .. }
            | Self::MakeReference { table, .. }
            | Self::DropReference { table, .. }
            | Self::Fill { table, .. }
            | Self::Tidy { table } => Some(table),
        }
    }

    /// The names of the tables that it is about.
    pub(super) fn tables(&self) -> Vec<&str> {
        match self {
            Self::RenameTable { old, new } => vec![old, new],
            one => one.table().into_iter().collect(),
        }
    }

    /// Whether the statement changes rows only.
    pub(super) fn is_data(&self) -> bool {
        matches!(self, Self::Fill { .. } | Self::Tidy { .. })
    }
}

fn once() -> Verdict {
    Verdict::Run(vec![String::new()])
}

fn run_if(wanted: bool) -> Verdict {
    if wanted { once() } else { Verdict::Done }
}

fn each(names: Vec<String>) -> Verdict {
    if names.is_empty() { Verdict::Done } else { Verdict::Run(names) }
}

fn renamed(old: bool, new: bool, what: impl Fn() -> String) -> Verdict {
    match (old, new) {
        (true, false) => once(),
        (false, true) => Verdict::Done,
        (true, true) => Verdict::Stop(format!("{} are both there: one was renamed to the other", what())),
        (false, false) => Verdict::Stop(format!("of {} neither is there", what())),
    }
}

fn within(live: &Shape, table: &str, judge: impl FnOnce(&Table) -> Verdict) -> Verdict {
    live.tables.get(table).map_or_else(|| Verdict::Stop(format!("table {table} is missing")), judge)
}

fn judge_new_table(live: &Shape, table: &str, place: Place<'_>) -> Verdict {
    if !live.tables.contains_key(table) {
        return once();
    }
    let mut wanted = place.known.fresh.tables.get(table).cloned().unwrap_or_default();
    wanted.indexes.retain(|i| i.unique || !made_later(place.later, table, &i.columns));
    match place.known.unexplained_of(table, wanted, live).first() {
        None => Verdict::Done,
        Some(first) => Verdict::Stop(format!("table {table} is there already, and not as it should be: {first}")),
    }
}

fn judge_fill(live: &Shape, target: &Table, table: &str, column: &str, from: &(String, String)) -> Verdict {
    let Some(found) = target.columns.get(column) else {
        return Verdict::Stop(format!("column {table}.{column} is missing"));
    };
    if live.tables.get(&from.0).is_some_and(|t| t.columns.contains_key(&from.1)) {
        return once();
    }
    if found.nullable {
        return Verdict::Stop(format!(
            "{}.{} is gone and {table}.{column} may be NULL: it cannot be told whether it was filled \
             by whoever began this migration: restore the backup taken before",
            from.0, from.1
        ));
    }
    Verdict::Done
}

fn judge_new_index(
    live: &Shape,
    target: &Table,
    name: &str,
    table: &str,
    columns: &[String],
    unique: bool,
    dialect: Dialect,
) -> Verdict {
    if target.indexes.iter().any(|i| i.unique == unique && !i.partial && i.columns == columns) {
        return Verdict::Done;
    }
    let same_name = |(_, t): &(&String, &Table)| t.indexes.iter().any(|i| i.name == name);
    match live.tables.iter().find(same_name) {
        // Names of indexes are those of a schema in PostgreSQL, of a table in MySQL.
        Some((other, _)) if other == table || dialect == Dialect::Postgresql => {
            Verdict::Stop(format!("index {name} of table {other} is another one"))
        }
        _ => once(),
    }
}

fn is_reference(key: &ForeignKey, columns: &[String], parent: &str, references: &[String]) -> bool {
    key.columns == columns && key.table == parent && key.references == references
}

fn is_as(found: &Column, wanted: &Column) -> bool {
    let default = wanted.default.is_none() || found.default == wanted.default;
    found.declared == wanted.declared && found.nullable == wanted.nullable && default
}

fn written(column: &Column) -> String {
    format!("{} {}", column.declared, if column.nullable { "NULL" } else { "NOT NULL" })
}

/// The name and the columns of an index that a line of a CREATE TABLE makes.
fn inline(line: &str) -> Option<(String, Vec<String>)> {
    let line = line.trim().trim_end_matches(',');
    let line = ["UNIQUE KEY ", "KEY ", "CONSTRAINT "].iter().find_map(|word| line.strip_prefix(word))?;
    let (name, rest) = line.split_once(' ')?;
    let columns = rest.strip_prefix("UNIQUE ").unwrap_or(rest).strip_prefix('(')?.strip_suffix(')')?;
    Some((name.to_owned(), columns.split(',').map(|c| c.trim().trim_matches('"').to_owned()).collect()))
}

fn made_later(later: &[Guarded], table: &str, columns: &[String]) -> bool {
    later.iter().any(|g| {
        matches!(&g.guard, Guard::MakeIndex { table: t, columns: c, unique: false, .. } if t == table && c == columns)
    })
}

/// Renames tables and columns everywhere in a shape.
pub(super) fn rename(shape: &mut Shape, renames: &Renames) {
    let mut tables = std::mem::take(&mut shape.tables);
    for (name, table) in &mut tables {
        let column = |c: &String| renames.column(name, c).1.to_owned();
        let key = |key: &ForeignKey| ForeignKey {
            columns: key.columns.iter().map(column).collect(),
            references: key.references.iter().map(|c| renames.column(&key.table, c).1.to_owned()).collect(),
            table: renames.table(&key.table).to_owned(),
            actions: key.actions.clone(),
        };
        table.columns = std::mem::take(&mut table.columns).into_iter().map(|(n, c)| (column(&n), c)).collect();
        table.primary_key = table.primary_key.iter().map(column).collect();
        for index in &mut table.indexes {
            index.columns = index.columns.iter().map(column).collect();
        }
        table.foreign_keys = table.foreign_keys.iter().map(key).collect();
        for (_, foreign) in &mut table.foreign_key_names {
            *foreign = key(foreign);
        }
    }
    shape.tables = tables.into_iter().map(|(name, table)| (renames.table(&name).to_owned(), table)).collect();
}

/// `make table T`, `alter column T.C VARCHAR(36) NOT NULL DEFAULT 'x'`, and so on.
fn parse(text: &str) -> Option<Guard> {
    let mut words = text.trim().splitn(3, ' ');
    let (verb, noun, rest) = (words.next()?, words.next()?, words.next().unwrap_or_default().trim());
    let word = || (!rest.is_empty() && !rest.contains(' ')).then(|| rest.to_owned());
    let two = || rest.split_once(' ').map(|(a, b)| (a.to_owned(), b.trim().to_owned()));
    Some(match (verb, noun) {
        ("make", "table") => Guard::MakeTable { table: word()? },
        ("drop", "table") => Guard::DropTable { table: word()? },
        ("rename", "table") => two().map(|(old, new)| Guard::RenameTable { old, new })?,
        ("make" | "alter", "column") => {
            let (name, wanted) = two()?;
            let (table, column) = dotted(&name)?;
            let wanted = declaration(&wanted)?;
            if verb == "make" {
                Guard::MakeColumn { table, column, wanted }
            } else {
                Guard::AlterColumn { table, column, wanted }
            }
        }
        ("rename", "column") => {
            let (name, new) = two()?;
            let (table, old) = dotted(&name)?;
            Guard::RenameColumn { table, old, new }
        }
        ("drop", "column") => dotted(&word()?).map(|(table, column)| Guard::DropColumn { table, column })?,
        ("make", "key") => listed(rest).map(|(table, columns)| Guard::MakeKey { table, columns })?,
        ("drop", "key") => Guard::DropKey { table: word()? },
        ("make", "unique" | "index") => {
            let (name, on) = two()?;
            let (table, columns) = listed(&on)?;
            Guard::MakeIndex { name, table, columns, unique: noun == "unique" }
        }
        ("drop", "unique" | "index") => {
            let (table, columns) = listed(rest)?;
            Guard::DropIndex { table, columns, unique: noun == "unique" }
        }
        ("make", "reference") => {
            let (name, rest) = two()?;
            let (child, parent) = rest.split_once(") ")?;
            let ((table, columns), (parent, references)) = (listed(&format!("{child})"))?, listed(parent)?);
            Guard::MakeReference { name, table, columns, parent, references }
        }
        ("drop", "reference") => {
            let (child, parent) = rest.split_once(") ")?;
            let ((table, columns), (parent, references)) = (listed(&format!("{child})"))?, listed(parent)?);
            Guard::DropReference { table, columns, parent, references }
        }
        ("fill", name) => {
            let (table, column) = dotted(name)?;
            let source = rest.strip_prefix("from ")?;
            let from = dotted(source).unwrap_or_else(|| (table.clone(), source.to_owned()));
            Guard::Fill { table, column, from }
        }
        ("tidy", table) if rest.is_empty() => Guard::Tidy { table: table.to_owned() },
        _ => return None,
    })
}

fn dotted(name: &str) -> Option<(String, String)> {
    name.split_once('.').map(|(table, column)| (table.to_owned(), column.to_owned()))
}

/// `table(column, column)`.
fn listed(text: &str) -> Option<(String, Vec<String>)> {
    let (table, columns) = text.trim().strip_suffix(')')?.split_once('(')?;
    Some((table.trim().to_owned(), columns.split(',').map(|c| c.trim().to_owned()).collect()))
}

/// `VARCHAR(36) NOT NULL DEFAULT 'x'`.
fn declaration(text: &str) -> Option<Column> {
    let (text, default) = text.split_once(" DEFAULT ").map_or((text, None), |(a, b)| (a, Some(b.to_owned())));
    let (declared, nullable) = match text.strip_suffix(" NOT NULL") {
        Some(declared) => (declared, false),
        None => (text.strip_suffix(" NULL")?, true),
    };
    Some(Column { declared: declared.to_owned(), nullable, default })
}
