//! Steps on keys: their signatures, and the proofs that nothing is lost.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};

use super::kept::{self, Kept};
use super::{Context, Observed, Undo};
use crate::crash;
use crate::db::{Access, Change, Cursor, Database, KekRow, MetaRow, TextColumn};
use crate::kek::{
    Choice, Count, Judged, Keys, Lost, P11_CRYPTO, SecretVerdict, Summary, Survey, Verdict, each_judged,
    recorded_mechanism,
};

/// The old signatures of KEKs.
pub const KEKS: &str = "backup/keks.jsonl";
/// The survey taken before anything was touched: `baseline.json` and `baseline.db`.
pub const BASELINE: &str = "baseline";

pub(super) fn baseline(context: &Context<'_>) -> Result<Survey> {
    Survey::kept(context.root(), &context.directory, BASELINE)
}

/// How many KEKs are in which state, in words.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn add(&mut self, verdict: &Verdict) {
        *self.0.entry(verdict.name()).or_default() += 1;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(name, n)| format!("{n} {name}")).collect();
        f.write_str(&if words.is_empty() { "none".to_owned() } else { words.join(", ") })
    }
}

/// The database, and the keys with the token open if it is needed.
fn open<'a>(context: &'a mut Context<'_>, access: Access) -> Result<(Database, &'a mut Keys)> {
    let database = context.site.open(access)?;
    let bound = database.has_bound_keks(P11_CRYPTO)?;
    Ok((database, context.site.keys(bound)?))
}

pub(super) fn observe_keks(context: &mut Context<'_>) -> Result<Observed> {
    let (mut database, keys) = open(context, Access::ReadOnly)?;
    let (mut tally, mut old) = (Tally::default(), false);
    each_judged(Choice::P11, &mut database, keys, |_, page| {
        for (_, judged) in &page {
            tally.add(&judged.verdict);
            old |= judged.verdict == Verdict::Old;
        }
        Ok(!old)
    })?;
    Ok(if old { Observed::Before } else { Observed::After(tally.to_string()) })
}

pub(super) fn prepare_keks(context: &mut Context<'_>) -> Result<Undo> {
    kept::begin(context, KEKS, TextColumn::PluginMeta)
}

/// Signs every old KEK anew, page by page: the old values are kept, each row is one compare-and-set on its old value, and read back. Nothing is
/// verified here a second time: the token made the new signatures, and has verified the first under each key; and what the database then holds is
/// verified, all of it, when the step is looked at once more.
pub(super) fn resign(context: &mut Context<'_>) -> Result<()> {
    let mut kept = Kept::reopen(context, KEKS, TextColumn::PluginMeta)?;
    let (mut database, keys) = open(context, Access::ReadWrite)?;
    each_judged(Choice::P11, &mut database, keys, |database, page| {
        let old = page.into_iter().filter(|(_, judged)| judged.verdict == Verdict::Old);
        let change = |(row, judged): (KekRow, Judged)| -> Result<Change> {
            let new = Some(judged.renewed(&row)?);
            Ok(Change { id: row.id, old: row.plugin_meta, new })
        };
        let changes: Vec<Change> = old.map(change).collect::<Result<_>>()?;
        write_keks(database, &mut kept, &changes)?;
        Ok(true)
    })
}

/// `changes` are in the order in which their rows were read.
fn write_keks(database: &mut Database, kept: &mut Kept, changes: &[Change]) -> Result<()> {
    let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return Ok(()) };
    crash::point("KEK signed");
    kept.keep(changes)?;
    crash::point("KEK kept");
    database.transaction(|database| kept::replace(database, TextColumn::PluginMeta, changes))?;
    crash::point("KEK written");
    let now = database.values_between(TextColumn::PluginMeta, &first.id, &last.id)?;
    match changes.iter().find(|change| now.get(&change.id) != Some(&change.new)) {
        Some(change) => bail!("KEK {} does not hold what was written", change.id),
        None => Ok(()),
    }
}

/// Puts back the signatures kept in `file`. A row that holds neither its old value nor one that differs from it in the signature alone is left,
/// and is an error.
pub(super) fn restore_keks(context: &mut Context<'_>, file: &str) -> Result<bool> {
    kept::restore(context, file, TextColumn::PluginMeta, |old, now| {
        let strip = |text: &str| -> Result<serde_json::Value> {
            let mut value: serde_json::Value = serde_json::from_str(text).context("plugin_meta is not JSON")?;
            value.as_object_mut().context("plugin_meta is not a JSON object")?.remove("hmac");
            Ok(value)
        };
        Ok(strip(old.unwrap_or_default())? == strip(now.unwrap_or_default())?)
    })
}

pub(super) fn verify_keks(context: &mut Context<'_>) -> Result<Observed> {
    let baseline = baseline(context)?;
    let expected_old = context.to_before("mitaka")?;
    let (mut database, keys) = open(context, Access::ReadOnly)?;
    let (mut tally, mut foreign) = (Tally::default(), None);
    each_judged(Choice::P11, &mut database, keys, |_, page| {
        let mut others = Vec::new();
        for (row, judged) in &page {
            tally.add(&judged.verdict);
            if !(judged.verdict == Verdict::Good || judged.verdict == Verdict::Old && expected_old) {
                others.push((row.id.as_str(), &judged.verdict));
            }
        }
        let known = baseline.find_keks(&others.iter().map(|(id, _)| *id).collect::<Vec<_>>())?;
        foreign = others.into_iter().find_map(|(id, verdict)| {
            let was = known.get(id);
            let fine =
                was.is_some_and(|was| !was.is_sound()) || was.is_none() && matches!(verdict, Verdict::Unbound);
            (!fine).then(|| {
                format!(
                    "KEK {id} is {}; it was {} before: services stay held; `keymgr-upgrade kek status --verbose` lists them",
                    verdict.name(),
                    was.map_or("unknown", Verdict::name)
                )
            })
        });
        Ok(foreign.is_none())
    })?;
    Ok(foreign.map_or_else(|| Observed::After(tally.to_string()), Observed::Foreign))
}

/// Every secret that could be decrypted at the baseline must still be, in the way that the new release will try: under its own configuration,
/// and for a p11 secret with its mechanism recorded and configured.
pub(super) fn verify_secrets(context: &mut Context<'_>) -> Result<Observed> {
    let baseline = baseline(context)?;
    context.reload_as_target()?;
    let now = context.site.survey()?;
    let (count, lost) = now.lost_since(&baseline)?;
    if let Some(first) = lost.first() {
        let first = match first {
            Lost::Kek { id, .. } => format!("KEK {id}"),
            Lost::Secret { secret_id, .. } => format!("secret {secret_id}"),
        };
        return Ok(Observed::Foreign(format!(
            "{count} readable before cannot be read any more, {first} among them: services stay held; roll back"
        )));
    }
    let mut fresh = None;
    now.each_bad_secret(|bad| {
        if baseline.find_secrets(&[&bad.id])?.is_empty() {
            fresh = Some(bad.secret_id);
        }
        Ok(fresh.is_none())
    })?;
    if let Some(secret) = fresh {
        return Ok(Observed::Foreign(format!(
            "secret {secret} came while the run was under way, and cannot be read: services stay held; find out who wrote it"
        )));
    }
    if !context.to.is_empty()
        && !context.to_before("rocky")?
        && let Some(problem) = mechanism_problem(context, &baseline)?
    {
        return Ok(Observed::Foreign(problem));
    }
    Ok(Observed::After(proved(now.summary())))
}

/// Readers from 7.0.0 on demand a recorded mechanism, and build the call from the configured one.
fn mechanism_problem(context: &mut Context<'_>, baseline: &Survey) -> Result<Option<String>> {
    let configured = context.configured_mechanism()?;
    let database = context.site.open(Access::ReadOnly)?;
    let mut cursor = Cursor::default();
    loop {
        let page = database.meta_page(P11_CRYPTO, &mut cursor)?;
        if page.is_empty() {
            return Ok(None);
        }
        let named = page.into_iter().map(|row| (recorded_mechanism(row.kek_meta_extended.as_deref()), row));
        let others: Vec<(Option<String>, MetaRow)> =
            named.filter(|(name, _)| name.as_deref() != Some(&configured)).collect();
        let ids: Vec<&str> = others.iter().map(|(_, row)| row.id.as_str()).collect();
        let known = baseline.find_secrets(&ids)?;
        let readable = |row: &MetaRow| known.get(&row.id).is_some_and(SecretVerdict::is_proved);
        match others.into_iter().find(|(_, row)| readable(row)) {
            None => {}
            Some((None, row)) => {
                return Ok(Some(format!("secret {} has no mechanism recorded, and cannot be read", row.secret_id)));
            }
            Some((Some(name), row)) => {
                return Ok(Some(format!(
                    "secret {} is under {name}, but [p11_crypto_plugin] encryption_mechanism is {configured}: set it to {name}",
                    row.secret_id
                )));
            }
        }
    }
}

/// What a survey proved, for the operator.
#[must_use]
pub fn proved(summary: &Summary) -> String {
    let one = |counts: &BTreeMap<String, Count>, name: &str| counts.get(name).map_or(0, |count| count.all());
    let all = |counts: &BTreeMap<String, Count>| counts.values().map(|count| count.all()).sum::<usize>();
    let (keks, secrets) = (&summary.keks, &summary.secrets);
    let mut rest = String::new();
    for (name, words) in [("hex-text", "are hexadecimal text"), ("not-checked", "not checked")] {
        let count = one(secrets, name);
        if count > 0 {
            rest.push_str(&format!("; {count} {words}"));
        }
    }
    format!(
        "{} of {} KEKs, {} of {} secrets decrypted{rest}",
        one(keks, "good") + one(keks, "old"),
        all(keks),
        one(secrets, "proved"),
        all(secrets)
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
