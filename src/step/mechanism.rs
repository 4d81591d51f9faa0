//! The mechanism of p11 secrets, recorded where their rows do not name it.

use anyhow::{Context as _, Result};

use super::data::baseline;
use super::kept::{self, Kept};
use super::{Context, Observed, Undo};
use crate::crash;
use crate::db::{Access, Change, Cursor, Database, Kind, MetaRow, SecretRow, TextColumn};
use crate::hsm::DataMechanism;
use crate::kek::{self, P11_CRYPTO, SecretVerdict, Survey, recorded_mechanism, secret_keks};
use crate::progress::Pace;

const MECHANISMS: &str = "backup/mechanisms.jsonl";

/// How many payloads are decrypted at a time.
const PAYLOADS: usize = 250;

/// Hands over, page by page and as long as `each` wants more, the p11 secrets that name no mechanism, each with the one that a decryption told:
/// the baseline's, or one of now for what the baseline does not know. Returns how many p11 secrets were gone through in all.
fn each_page(
    context: &mut Context<'_>,
    database: &mut Database,
    mut each: impl FnMut(&mut Database, Vec<(MetaRow, Option<DataMechanism>)>) -> Result<bool>,
) -> Result<usize> {
    let baseline = baseline(context)?;
    let (mut cursor, mut all, mut pace) = (Cursor::default(), 0, Pace::begin());
    loop {
        let mut page = database.meta_page(P11_CRYPTO, &mut cursor)?;
        all += page.len();
        pace.add(page.len(), || database.rows_of(Kind::Secrets).ok());
        if page.is_empty() {
            return Ok(all);
        }
        page.retain(|row| recorded_mechanism(row.kek_meta_extended.as_deref()).is_none());
        let told = told(context, database, &baseline, &page)?;
        if !each(database, page.into_iter().zip(told).collect())? {
            return Ok(all);
        }
    }
}

fn told(
    context: &mut Context<'_>,
    database: &Database,
    baseline: &Survey,
    rows: &[MetaRow],
) -> Result<Vec<Option<DataMechanism>>> {
    let mechanism = |verdict: Option<&SecretVerdict>| match verdict {
        Some(SecretVerdict::Proved { mechanism }) => *mechanism,
        _ => None,
    };
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let mut known = baseline.find_secrets(&ids)?;
    let open: Vec<&str> = ids.iter().copied().filter(|id| mechanism(known.get(*id)).is_none()).collect();
    for ids in open.chunks(PAYLOADS) {
        let secrets: Vec<SecretRow> = database.secrets_by_id(ids)?;
        let keks = secret_keks(database, &secrets)?;
        known.append(&mut kek::survey(&keks, &secrets, context.site.keys(true)?)?.find_secrets(ids)?);
    }
    Ok(ids.into_iter().map(|id| mechanism(known.get(id))).collect())
}

pub(super) fn observe(context: &mut Context<'_>) -> Result<Observed> {
    let mut database = context.site.open(Access::ReadOnly)?;
    let (mut before, mut not_told) = (false, 0);
    let all = each_page(context, &mut database, |_, page| {
        before |= page.iter().any(|(_, mechanism)| mechanism.is_some());
        not_told += page.len();
        Ok(!before)
    })?;
    if before {
        return Ok(Observed::Before);
    }
    let unread = if not_told == 0 { String::new() } else { format!(", {not_told} unreadable ones left alone") };
    Ok(Observed::After(format!("{} of {all} secrets{unread}", all - not_told)))
}

pub(super) fn prepare(context: &mut Context<'_>) -> Result<Undo> {
    kept::begin(context, MECHANISMS, TextColumn::KekMetaExtended)
}

/// Writes the mechanism into each secret that a decryption told it of; the others are left alone.
pub(super) fn record(context: &mut Context<'_>) -> Result<()> {
    let mut kept = Kept::reopen(context, MECHANISMS, TextColumn::KekMetaExtended)?;
    let mut database = context.site.open(Access::ReadWrite)?;
    each_page(context, &mut database, |database, page| {
        let mut changes = Vec::new();
        for (row, mechanism) in page {
            let new = mechanism.map(|mechanism| kek::with_mechanism(&row, mechanism)).transpose()?.flatten();
            changes.extend(new.map(|new| Change { id: row.id, old: row.kek_meta_extended, new: Some(new) }));
        }
        if !changes.is_empty() {
            crash::point("mechanism told");
            kept.keep(&changes)?;
            database.transaction(|database| kept::replace(database, TextColumn::KekMetaExtended, &changes))?;
        }
        Ok(true)
    })?;
    Ok(())
}

pub(super) fn restore(context: &mut Context<'_>, file: &str) -> Result<bool> {
    kept::restore(context, file, TextColumn::KekMetaExtended, |old, now| {
        let mut value: serde_json::Value = serde_json::from_str(now.unwrap_or_default())?;
        value.as_object_mut().context("not a JSON object")?.remove("mechanism");
        Ok(value == serde_json::from_str::<serde_json::Value>(old.unwrap_or_default())?)
    })
}
