//! Old values of rows, on disk before the rows are replaced, and put back from there. They are ciphertext and public parameters, no keys.
//!
//! The file has one line a batch after its first, each one write and one sync before the batch is replaced: a torn last line is of a batch that was
//! not touched. A run that was killed may keep a batch twice.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Context, Undo};
use crate::crash;
use crate::db::{Access, Change, Database, TextColumn};
use crate::journal::private;
use crate::systemd::notify;

/// The first line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    table: String,
    column: String,
}

impl Head {
    fn of(column: TextColumn) -> Self {
        Self { format: 1, table: column.table().to_owned(), column: column.name().to_owned() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRow<Text> {
    id: Text,
    old: Option<Text>,
}

/// Makes the file, with nothing in it.
pub(super) fn begin(context: &Context<'_>, file: &str, column: TextColumn) -> Result<Undo> {
    let mut head = serde_json::to_vec(&Head::of(column))?;
    head.push(b'\n');
    context.root().write(&context.file(file), &head, private())?;
    Ok(Undo::Rows { file: file.to_owned(), rows: None })
}

/// The file of a step at work.
pub(super) struct Kept {
    file: File,
    name: String,
    length: u64,
}

impl Kept {
    /// Opens it to go on with it; a torn last batch is dropped.
    pub(super) fn reopen(context: &Context<'_>, file: &str, column: TextColumn) -> Result<Self> {
        let (opened, name) = open(context, file)?;
        let length = each_batch(&opened, &name, column, |_| Ok(()))?;
        opened.set_len(length)?;
        Ok(Self { file: opened, name, length })
    }

    /// Keeps the old values of these rows.
    pub(super) fn keep(&mut self, changes: &[Change]) -> Result<()> {
        let rows = changes.iter().map(|change| KeptRow { id: change.id.as_str(), old: change.old.as_deref() });
        let mut line = serde_json::to_vec(&rows.collect::<Vec<_>>())?;
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a line would be taken for a torn one, which is right too.
            self.file.set_len(self.length).ok();
            return Err(error).with_context(|| format!("writing {}", self.name));
        }
        self.length += u64::try_from(line.len())?;
        notify::beat();
        Ok(())
    }
}

fn open(context: &Context<'_>, file: &str) -> Result<(File, String)> {
    let path = context.file(file);
    let name = context.root().shown(&path).display().to_string();
    if !context.root().exists(&path) {
        bail!("{name} is missing");
    }
    Ok((context.root().append(&path)?, name))
}

/// Hands over the whole batches, and returns how many bytes they take with the first line.
fn each_batch(
    mut file: &File,
    name: &str,
    column: TextColumn,
    mut each: impl FnMut(Vec<KeptRow<String>>) -> Result<()>,
) -> Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let (mut reader, mut line, mut whole) = (BufReader::with_capacity(1 << 16, file), Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let count = reader.read_until(b'\n', &mut line).with_context(|| format!("reading {name}"))?;
        let last = reader.fill_buf()?.is_empty();
        if !line.ends_with(b"\n") && number > 1 {
            break;
        }
        let corrupt = || format!("{name}, line {number}");
        if number == 1 {
            let head: Head = serde_json::from_slice(&line).with_context(corrupt)?;
            if head != Head::of(column) {
                bail!("{name} keeps {}.{}, in format {}", head.table, head.column, head.format);
            }
        } else {
            match serde_json::from_slice(&line) {
                Ok(rows) => each(rows)?,
                // A file system may leave zeros where a write did not come to its end.
                Err(_) if last && line.contains(&0) => break,
                Err(error) => return Err(error).with_context(corrupt),
            }
        }
        whole += u64::try_from(count)?;
    }
    Ok(whole)
}

/// Puts back what `file` keeps, all in one transaction. `ours` says of an old value and the one that is there whether the second is what the step
/// made of the first; a row that holds neither is left, and is an error.
pub(super) fn restore(
    context: &mut Context<'_>,
    file: &str,
    column: TextColumn,
    ours: impl Fn(Option<&str>, Option<&str>) -> Result<bool>,
) -> Result<bool> {
    let (opened, name) = open(context, file)?;
    let mut database = context.site.open(Access::ReadWrite)?;
    database.transaction(|database| {
        let mut changed = false;
        each_batch(&opened, &name, column, |rows| {
            let changes = to_restore(database, file, column, rows, &ours)?;
            replace(database, column, &changes)?;
            changed |= !changes.is_empty();
            Ok(())
        })?;
        Ok(changed)
    })
}

fn to_restore(
    database: &Database,
    file: &str,
    column: TextColumn,
    rows: Vec<KeptRow<String>>,
    ours: &impl Fn(Option<&str>, Option<&str>) -> Result<bool>,
) -> Result<Vec<Change>> {
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let mut now = database.values(column, &ids)?;
    let mut changes = Vec::new();
    for row in rows {
        let name = || format!("{} of row {}", of(column), row.id);
        let value = now.remove(&row.id).with_context(|| format!("{} is gone", name()))?;
        if value == row.old {
            continue;
        }
        if !ours(row.old.as_deref(), value.as_deref()).with_context(name)? {
            bail!("{} was changed since this run wrote it; its old value is in {file}", name());
        }
        crash::point("row to restore");
        changes.push(Change { id: row.id, old: value, new: row.old });
    }
    Ok(changes)
}

/// Replaces these values, inside the caller's transaction.
pub(super) fn replace(database: &mut Database, column: TextColumn, changes: &[Change]) -> Result<()> {
    match database.replace_all(column, changes)? {
        None => Ok(()),
        Some(id) => {
            bail!("{} of row {id} was changed by somebody else: is a barbican still running?", of(column))
        }
    }
}

fn of(column: TextColumn) -> String {
    format!("{}.{}", column.table(), column.name())
}
