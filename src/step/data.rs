//! Steps on rows: KEK signatures, the mechanism of p11 secrets, and the proofs that nothing is lost.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::{Context, Observed, Undo};
use crate::crash;
use crate::db::{Access, Database, KekRow, SecretRow};
use crate::hsm::DataMechanism;
use crate::journal::private;
use crate::kek::{self, Lost, P11_CRYPTO, SecretVerdict, Survey, Verdict};

const KEKS: &str = "backup/keks.json";
const MECHANISMS: &str = "backup/mechanisms.json";
/// The survey taken before anything was touched.
pub const BASELINE: &str = "baseline.json";

/// Old values of rows, kept so that they can be put back. They are ciphertext and public parameters, no keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    table: String,
    column: String,
    rows: Vec<KeptRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRow {
    id: String,
    old: Option<String>,
}

fn keep(context: &Context<'_>, file: &str, table: &str, column: &str, rows: Vec<KeptRow>) -> Result<Undo> {
    let count = rows.len();
    let kept = Kept { format: 1, table: table.to_owned(), column: column.to_owned(), rows };
    context.root().write(&context.file(file), &serde_json::to_vec(&kept)?, private())?;
    Ok(Undo::Rows { file: file.to_owned(), rows: count })
}

pub(super) fn baseline(context: &Context<'_>) -> Result<Survey> {
    context.root().read_json(&context.file(BASELINE))
}

fn p11_rows(database: &Database) -> Result<Vec<KekRow>> {
    let mut rows = database.kek_rows()?;
    rows.retain(|r| r.plugin_name == P11_CRYPTO);
    Ok(rows)
}

/// The p11 KEKs with their states.
fn judged(context: &mut Context<'_>) -> Result<Vec<(KekRow, Verdict)>> {
    let rows = p11_rows(&context.site.open(Access::ReadOnly)?)?;
    let bound = rows.iter().any(|r| r.plugin_meta.is_some());
    let verdicts = kek::judge_all(&rows, context.site.keys(bound)?)?;
    Ok(rows.into_iter().zip(verdicts).collect())
}

fn counts<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for verdict in verdicts {
        *counts.entry(verdict.name()).or_default() += 1;
    }
    let words: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

pub(super) fn observe_keks(context: &mut Context<'_>) -> Result<Observed> {
    let rows = judged(context)?;
    if rows.iter().any(|(_, v)| *v == Verdict::Old) {
        return Ok(Observed::Before);
    }
    Ok(Observed::After(counts(rows.iter().map(|(_, v)| v))))
}

pub(super) fn prepare_keks(context: &mut Context<'_>) -> Result<Undo> {
    let rows = judged(context)?.into_iter().filter(|(_, v)| *v == Verdict::Old);
    let rows = rows.map(|(row, _)| KeptRow { id: row.id, old: row.plugin_meta }).collect();
    keep(context, KEKS, "kek_data", "plugin_meta", rows)
}

/// How many KEKs are written before they are read back: what goes wrong with one is seen before many follow.
const BATCH: usize = 500;

/// Signs every old KEK anew: each row is one compare-and-set on its old value, read back and verified by the token.
pub(super) fn resign(context: &mut Context<'_>) -> Result<()> {
    let old: Vec<KekRow> = judged(context)?.into_iter().filter(|(_, v)| *v == Verdict::Old).map(|(r, _)| r).collect();
    let mut database = context.site.open(Access::ReadWrite)?;
    for batch in old.chunks(BATCH) {
        for row in batch {
            let keys = context.site.keys(true)?;
            let hsm = keys.hsm.as_mut().context("no token is open")?;
            let new = kek::resign(row, hsm).with_context(|| format!("signing KEK {}", row.id))?;
            let before = row.plugin_meta.as_deref().unwrap_or_default();
            crash::point("KEK signed");
            if !database.replace_plugin_meta(&row.id, before, &new)? {
                bail!("KEK {} was changed by somebody else: is a barbican still running?", row.id);
            }
            crash::point("KEK written");
        }
        expect_good(context, &database, batch)?;
    }
    Ok(())
}

/// Reads these KEKs back and has the token verify them.
fn expect_good(context: &mut Context<'_>, database: &Database, batch: &[KekRow]) -> Result<()> {
    let mut written: BTreeMap<String, KekRow> =
        p11_rows(database)?.into_iter().map(|row| (row.id.clone(), row)).collect();
    let take = |row: &KekRow| written.remove(&row.id).with_context(|| format!("KEK {} vanished", row.id));
    let written: Vec<KekRow> = batch.iter().map(take).collect::<Result<_>>()?;
    for (row, verdict) in written.iter().zip(kek::judge_all(&written, context.site.keys(true)?)?) {
        if verdict != Verdict::Good {
            bail!("KEK {} does not verify after it was written", row.id);
        }
    }
    Ok(())
}

/// Puts back the signatures kept in `file`. A row that holds neither its old value nor one that differs from it in the signature alone is left,
/// and is an error.
pub(super) fn restore_keks(context: &mut Context<'_>, file: &str) -> Result<bool> {
    restore_rows(context, file, |old, now| {
        let strip = |text: &str| -> Result<serde_json::Value> {
            let mut value: serde_json::Value = serde_json::from_str(text).context("plugin_meta is not JSON")?;
            value.as_object_mut().context("plugin_meta is not a JSON object")?.remove("hmac");
            Ok(value)
        };
        Ok(strip(old.unwrap_or_default())? == strip(now.unwrap_or_default())?)
    })
}

fn restore_rows(
    context: &mut Context<'_>,
    file: &str,
    ours: impl Fn(Option<&str>, Option<&str>) -> Result<bool>,
) -> Result<bool> {
    let kept: Kept = context.root().read_json(&context.file(file))?;
    let mut database = context.site.open(Access::ReadWrite)?;
    let keks = kept.table == "kek_data";
    let now: BTreeMap<String, Option<String>> = if keks {
        database.kek_rows()?.into_iter().map(|r| (r.id, r.plugin_meta)).collect()
    } else {
        database.secret_rows()?.into_iter().map(|r| (r.id, r.kek_meta_extended)).collect()
    };
    database.transaction(|database| {
        let mut changed = false;
        for row in &kept.rows {
            let name = || format!("{}.{} of row {}", kept.table, kept.column, row.id);
            let value = now.get(&row.id).with_context(|| format!("{} is gone", name()))?;
            if *value == row.old {
                continue;
            }
            if !ours(row.old.as_deref(), value.as_deref()).with_context(name)? {
                bail!("{} was changed since this run wrote it; its old value is in {file}", name());
            }
            crash::point("row to restore");
            let replaced = if keks {
                let text = |v: &Option<String>| v.clone().unwrap_or_default();
                database.replace_plugin_meta(&row.id, &text(value), &text(&row.old))?
            } else {
                database.replace_kek_meta_extended(&row.id, value.as_deref(), row.old.as_deref())?
            };
            if !replaced {
                bail!("{} was changed by somebody else: is a barbican still running?", name());
            }
            changed = true;
        }
        Ok::<bool, anyhow::Error>(changed)
    })
}

/// The mechanism that a p11 secret's record names; `None` if it names none.
fn recorded_mechanism(row: &SecretRow) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(row.kek_meta_extended.as_deref()?).ok()?;
    Some(value.get("mechanism")?.as_str()?.to_owned())
}

/// The p11 secrets that name no mechanism.
struct Nameless {
    /// Those that a decryption told the mechanism of.
    told: Vec<(SecretRow, DataMechanism)>,
    /// How many no decryption tells.
    not_told: usize,
    /// How many p11 secrets there are in all.
    all: usize,
}

fn nameless(context: &mut Context<'_>) -> Result<Nameless> {
    let database = context.site.open(Access::ReadOnly)?;
    let keks: BTreeMap<String, KekRow> = p11_rows(&database)?.into_iter().map(|k| (k.id.clone(), k)).collect();
    let rows: Vec<SecretRow> = database.secret_rows()?.into_iter().filter(|s| keks.contains_key(&s.kek_id)).collect();
    let all = rows.len();
    let without: Vec<SecretRow> = rows.into_iter().filter(|r| recorded_mechanism(r).is_none()).collect();
    if without.is_empty() {
        return Ok(Nameless { told: Vec::new(), not_told: 0, all });
    }
    let keks: Vec<KekRow> = keks.into_values().collect();
    let survey = kek::survey(&keks, &without, context.site.keys(true)?)?;
    let (mut told, mut not_told) = (Vec::new(), 0);
    for row in without {
        match survey.secrets.get(&row.id).map(|entry| &entry.verdict) {
            Some(SecretVerdict::Proved { mechanism: Some(mechanism) }) => told.push((row, *mechanism)),
            _ => not_told += 1,
        }
    }
    Ok(Nameless { told, not_told, all })
}

pub(super) fn observe_mechanisms(context: &mut Context<'_>) -> Result<Observed> {
    let Nameless { told, not_told, all } = nameless(context)?;
    if !told.is_empty() {
        return Ok(Observed::Before);
    }
    let unread = if not_told == 0 { String::new() } else { format!(", {not_told} unreadable ones left alone") };
    Ok(Observed::After(format!("{} of {all} secrets{unread}", all - not_told)))
}

pub(super) fn prepare_mechanisms(context: &mut Context<'_>) -> Result<Undo> {
    let rows = nameless(context)?.told.into_iter();
    let rows = rows.map(|(row, _)| KeptRow { id: row.id, old: row.kek_meta_extended }).collect();
    keep(context, MECHANISMS, "encrypted_data", "kek_meta_extended", rows)
}

/// Writes the mechanism into each secret that a decryption proved it for, all in one transaction.
pub(super) fn record_mechanisms(context: &mut Context<'_>) -> Result<()> {
    let told = nameless(context)?.told;
    let mut database = context.site.open(Access::ReadWrite)?;
    database.transaction(|database| {
        for (row, mechanism) in &told {
            let Some(new) = kek::with_mechanism(row, *mechanism)? else { continue };
            crash::point("mechanism told");
            if !database.replace_kek_meta_extended(&row.id, row.kek_meta_extended.as_deref(), Some(&new))? {
                bail!("encrypted datum {} was changed by somebody else: is a barbican still running?", row.id);
            }
        }
        Ok::<(), anyhow::Error>(())
    })
}

pub(super) fn restore_mechanisms(context: &mut Context<'_>, file: &str) -> Result<bool> {
    restore_rows(context, file, |old, now| {
        let mut value: serde_json::Value = serde_json::from_str(now.unwrap_or_default())?;
        value.as_object_mut().context("not a JSON object")?.remove("mechanism");
        Ok(value == serde_json::from_str::<serde_json::Value>(old.unwrap_or_default())?)
    })
}

pub(super) fn verify_keks(context: &mut Context<'_>) -> Result<Observed> {
    let baseline = baseline(context)?;
    let rows = judged(context)?;
    let expected_old = context.to_before("mitaka")?;
    for (row, verdict) in &rows {
        let was = baseline.keks.get(&row.id).map(|k| &k.verdict);
        let fine = *verdict == Verdict::Good
            || (*verdict == Verdict::Old && expected_old)
            || was.is_some_and(|was| !was.is_sound())
            || was.is_none() && matches!(verdict, Verdict::Unbound);
        if !fine {
            return Ok(Observed::Foreign(format!(
                "KEK {} is {}; it was {} before: services stay held; `keymgr-upgrade kek status --verbose` lists them",
                row.id,
                verdict.name(),
                was.map_or("unknown", Verdict::name)
            )));
        }
    }
    Ok(Observed::After(counts(rows.iter().map(|(_, v)| v))))
}

/// Every secret that could be decrypted at the baseline must still be, in the way that the new release will try: under its own configuration,
/// and for a p11 secret with its mechanism recorded and configured.
pub(super) fn verify_secrets(context: &mut Context<'_>) -> Result<Observed> {
    let baseline = baseline(context)?;
    context.reload_as_target()?;
    let now = context.site.survey()?;
    let lost = now.lost_since(&baseline);
    if let Some(first) = lost.first() {
        let first = match first {
            Lost::Kek { id, .. } => format!("KEK {id}"),
            Lost::Secret { secret_id, .. } => format!("secret {secret_id}"),
        };
        return Ok(Observed::Foreign(format!(
            "{} readable before cannot be read any more, {first} among them: services stay held; roll back",
            lost.len()
        )));
    }
    let fresh = |id: &str| !baseline.secrets.contains_key(id);
    if let Some((_, entry)) = now.bad_secrets().find(|(id, _)| fresh(id)) {
        return Ok(Observed::Foreign(format!(
            "secret {} came while the run was under way, and cannot be read: services stay held; find out who wrote it",
            entry.secret_id
        )));
    }
    if !context.to.is_empty()
        && !context.to_before("rocky")?
        && let Some(problem) = mechanism_problem(context, &baseline)?
    {
        return Ok(Observed::Foreign(problem));
    }
    Ok(Observed::After(proved(&now)))
}

/// Readers from 7.0.0 on demand a recorded mechanism, and build the call from the configured one.
fn mechanism_problem(context: &mut Context<'_>, baseline: &Survey) -> Result<Option<String>> {
    let configured = context.configured_mechanism()?;
    let database = context.site.open(Access::ReadOnly)?;
    let keks: Vec<String> = p11_rows(&database)?.into_iter().map(|k| k.id).collect();
    for row in database.secret_rows()?.iter().filter(|s| keks.contains(&s.kek_id)) {
        let was = baseline.secrets.get(&row.id).map(|s| &s.verdict);
        if !matches!(was, Some(SecretVerdict::Proved { .. })) {
            continue;
        }
        match recorded_mechanism(row) {
            None => return Ok(Some(format!("secret {} has no mechanism recorded, and cannot be read", row.secret_id))),
            Some(name) if name != configured => {
                return Ok(Some(format!(
                    "secret {} is under {name}, but [p11_crypto_plugin] encryption_mechanism is {configured}: set it to {name}",
                    row.secret_id
                )));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// What a survey proved, for the operator.
#[must_use]
pub fn proved(survey: &Survey) -> String {
    let keks = survey.kek_counts();
    let secrets = survey.secret_counts();
    let one = |count: Option<&kek::Count>| count.map_or(0, |c| c.live + c.deleted);
    let mut rest = String::new();
    for (name, words) in [("hex-text", "are hexadecimal text"), ("not-checked", "not checked")] {
        let count = one(secrets.get(name));
        if count > 0 {
            rest.push_str(&format!("; {count} {words}"));
        }
    }
    format!(
        "{} of {} KEKs, {} of {} secrets decrypted{rest}",
        one(keks.get("good")) + one(keks.get("old")),
        survey.keks.len(),
        one(secrets.get("proved")),
        survey.secrets.len()
    )
}

/// Puts back the rows that the run in this context's directory replaced, for `kek restore`.
///
/// # Errors
/// If the run replaced none, or a row was changed since.
pub fn restore_kept(context: &mut Context<'_>) -> Result<bool> {
    let root = context.root();
    if !root.exists(&context.file(KEKS)) {
        return Err(anyhow!("run {} replaced no KEK signature", context.run()));
    }
    restore_keks(context, KEKS)
}
