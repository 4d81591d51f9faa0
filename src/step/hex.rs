//! The repair of hexadecimal text: what PostgreSQL made of the bytes that Barbican on Python 3 handed it.
//!
//! A row is repaired only where what it stands for was decrypted before; the others are left alone. The old values are kept first, and what is kept
//! is what is repaired: each row by one compare-and-set on its old value.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::{Context, Observed, Undo, data::baseline};
use crate::crash;
use crate::db::{Access, Cursor, Database, HexColumn, Kind, decode_hex_text, is_hex_text};
use crate::journal::private;
use crate::kek::{SecretVerdict, Survey, Verdict};

const KEPT: &str = "backup/hex-text.json";

/// A value that is hexadecimal text.
#[derive(Debug)]
pub struct HexRow {
    /// Where it is.
    pub column: HexColumn,
    /// The id of its row.
    pub id: String,
    /// The project of a KEK, the secret of a datum, in words.
    pub of: String,
    /// Why it is left alone; none if it is repaired.
    pub left: Option<String>,
}

/// Every value that is hexadecimal text, with what the survey of the same rows says of it.
///
/// # Errors
/// If the rows cannot be read.
pub fn hex_rows(database: &Database, survey: &Survey) -> Result<Vec<HexRow>> {
    Ok(with_values(database, survey)?.into_iter().map(|(row, _)| row).collect())
}

/// The same, each with its value.
fn with_values(database: &Database, survey: &Survey) -> Result<Vec<(HexRow, String)>> {
    let hex = |text: Option<String>| text.filter(|t| is_hex_text(t));
    let unknown = || Some("it came after the survey".to_owned());
    let mut all = Vec::new();
    let mut cursor = Cursor::default();
    loop {
        let page = database.kek_page(&mut cursor)?;
        if page.is_empty() {
            break;
        }
        let known = survey.find_keks(&page.iter().map(|row| row.id.as_str()).collect::<Vec<_>>())?;
        for row in page {
            let Some(text) = hex(row.plugin_meta) else { continue };
            let left = match known.get(&row.id) {
                Some(Verdict::HexText) => None,
                Some(verdict) => Some(verdict.to_string()),
                None => unknown(),
            };
            let of = format!("project {}", row.project_id);
            all.push((HexRow { column: HexColumn::PluginMeta, id: row.id, of, left }, text));
        }
    }
    let mut cursor = Cursor::default();
    loop {
        let page = database.secret_page(&mut cursor)?;
        if page.is_empty() {
            break;
        }
        let known = survey.find_secrets(&page.iter().map(|row| row.id.as_str()).collect::<Vec<_>>())?;
        for row in page {
            let Some(text) = hex(row.cypher_text) else { continue };
            let left = match known.get(&row.id) {
                Some(SecretVerdict::HexText) => None,
                Some(verdict) => Some(verdict.to_string()),
                None => unknown(),
            };
            let of = format!("secret {}", row.secret_id);
            all.push((HexRow { column: HexColumn::CypherText, id: row.id, of, left }, text));
        }
    }
    all.sort_by(|(a, _), (b, _)| (a.column, &a.id).cmp(&(b.column, &b.id)));
    Ok(all)
}

/// Old values of rows: what is repaired, and what is put back. They are ciphertext, no keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    rows: Vec<KeptRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRow {
    column: HexColumn,
    id: String,
    old: String,
}

/// How a row stands to what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As it was.
    Old,
    /// As the repair leaves it.
    New,
    /// Neither, or the row is gone: somebody else's doing.
    Foreign,
}

impl KeptRow {
    fn repaired(&self) -> Result<String> {
        decode_hex_text(&self.old).map_err(|why| anyhow!("what is kept of {self} {why}"))
    }

    fn state(&self, now: &Values) -> Result<State> {
        let now = now.get(&(self.column, self.id.as_str().to_owned())).and_then(Option::as_deref);
        Ok(match now {
            Some(now) if now == self.old => State::Old,
            Some(now) if now == self.repaired()? => State::New,
            _ => State::Foreign,
        })
    }

    fn foreign(&self) -> String {
        format!(
            "{self} was changed by somebody else since the run began: is a barbican still running? go back with \
             `keymgr-upgrade rollback`, which leaves that row alone, and begin again"
        )
    }
}

impl std::fmt::Display for KeptRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of row {}", self.column, self.id)
    }
}

type Values = BTreeMap<(HexColumn, String), Option<String>>;

/// How many rows are looked up at a time.
const AT_ONCE: usize = 250;

/// What these rows hold now.
fn values(database: &Database, rows: &[KeptRow]) -> Result<Values> {
    let mut values = Values::new();
    for column in HexColumn::ALL {
        let ids: Vec<&str> = rows.iter().filter(|row| row.column == column).map(|row| row.id.as_str()).collect();
        values.extend(database.hex_values(column, &ids)?.into_iter().map(|(id, value)| ((column, id), value)));
    }
    Ok(values)
}

fn kept(context: &Context<'_>) -> Result<Kept> {
    context.root().read_json(&context.file(KEPT))
}

pub(super) fn observe(context: &mut Context<'_>) -> Result<Observed> {
    if !context.root().exists(&context.file(KEPT)) {
        let rows = hex_rows(&context.site.open(Access::ReadOnly)?, &baseline(context)?)?;
        let none = rows.iter().all(|row| row.left.is_some());
        return Ok(if none { Observed::After("none to repair".to_owned()) } else { Observed::Before });
    }
    let kept = kept(context)?;
    let database = context.site.open(Access::ReadOnly)?;
    let mut before = false;
    for rows in kept.rows.chunks(AT_ONCE) {
        let now = values(&database, rows)?;
        for row in rows {
            match row.state(&now)? {
                State::Old => before = true,
                State::New => {}
                State::Foreign => return Ok(Observed::Foreign(row.foreign())),
            }
        }
    }
    drop(database);
    if before {
        return Ok(Observed::Before);
    }
    proof(context, kept.rows.len())
}

/// What was repairable when the run began must be sound now.
fn proof(context: &mut Context<'_>, rows: usize) -> Result<Observed> {
    let was = baseline(context)?;
    let now = context.site.survey()?;
    let (mut keks, mut secrets, mut lost) = (0, 0, None);
    was.each_hex_text(|kind, id, name| {
        let now = match kind {
            Kind::Keks => now.find_keks(&[id])?.remove(id).map(|verdict| (verdict.is_sound(), verdict.to_string())),
            Kind::Secrets => {
                now.find_secrets(&[id])?.remove(id).map(|verdict| (verdict.is_proved(), verdict.to_string()))
            }
        };
        match (kind, now) {
            (Kind::Keks, Some((true, _))) => keks += 1,
            (Kind::Secrets, Some((true, _))) => secrets += 1,
            (_, now) => lost = Some((name, now.map_or_else(|| "gone".to_owned(), |(_, words)| words))),
        }
        Ok(lost.is_none())
    })?;
    if let Some((name, now)) = lost {
        return Ok(Observed::Foreign(format!(
            "{name} could be repaired when the run began, and cannot be read now: {now}; go back with `keymgr-upgrade rollback`"
        )));
    }
    Ok(Observed::After(format!("{rows} values; {keks} KEKs and {secrets} secrets decrypted")))
}

pub(super) fn prepare(context: &mut Context<'_>) -> Result<Undo> {
    // Not those of the baseline: what is kept is what was decrypted.
    let survey = context.site.survey()?;
    let rows = with_values(&context.site.open(Access::ReadOnly)?, &survey)?;
    let rows = rows.into_iter().filter(|(row, _)| row.left.is_none());
    let rows: Vec<KeptRow> = rows.map(|(row, old)| KeptRow { column: row.column, id: row.id, old }).collect();
    let count = rows.len();
    let kept = Kept { format: 1, rows };
    context.root().write(&context.file(KEPT), &serde_json::to_vec(&kept)?, private())?;
    Ok(Undo::Rows { file: KEPT.to_owned(), rows: Some(count) })
}

/// Replaces every kept value by what it stands for.
pub(super) fn repair(context: &mut Context<'_>) -> Result<()> {
    let kept = kept(context)?;
    let mut database = context.site.open(Access::ReadWrite)?;
    for rows in kept.rows.chunks(AT_ONCE) {
        let now = values(&database, rows)?;
        for row in rows {
            match row.state(&now)? {
                State::New => continue,
                State::Foreign => bail!("{}", row.foreign()),
                State::Old => {}
            }
            crash::point("hex text to replace");
            if !database.replace_hex_text(row.column, &row.id, &row.old, &row.repaired()?)? {
                bail!("{}", row.foreign());
            }
            crash::point("hex text replaced");
        }
    }
    Ok(())
}

/// Puts back what is still as the repair left it, all in one transaction. What somebody else wrote since is newer than both, and stays.
pub(super) fn restore(context: &mut Context<'_>, file: &str) -> Result<bool> {
    let kept: Kept = context.root().read_json(&context.file(file))?;
    let mut database = context.site.open(Access::ReadWrite)?;
    let put_back = |database: &mut Database, row: &KeptRow, now: &Values| -> Result<bool> {
        match row.state(now)? {
            State::Old => return Ok(false),
            State::Foreign => {
                log::warn!("{row} was changed by somebody else, and is left as it is");
                return Ok(false);
            }
            State::New => {}
        }
        crash::point("row to restore");
        if !database.replace_hex_text(row.column, &row.id, &row.repaired()?, &row.old)? {
            bail!("{row} was changed by somebody else: is a barbican still running?");
        }
        Ok(true)
    };
    database
        .transaction(|database| -> Result<bool> {
            let mut changed = false;
            for rows in kept.rows.chunks(AT_ONCE) {
                let now = values(database, rows)?;
                for row in rows {
                    changed |= put_back(database, row, &now)?;
                }
            }
            Ok(changed)
        })
        .with_context(|| format!("putting back the rows of {file}"))
}
