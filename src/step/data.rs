//! Steps on rows: KEK signatures, the mechanism of p11 secrets, and the proofs that nothing is lost.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};

use super::kept::{self, Kept};
use super::{Context, Observed, Undo};
use crate::crash;
use crate::db::{Access, Change, Cursor, Database, KekRow, PAGE, SecretRow, TextColumn};
use crate::hsm::DataMechanism;
use crate::kek::{self, Judged, Keys, Lost, P11_CRYPTO, SecretVerdict, Survey, Verdict};

/// The old signatures of KEKs.
pub const KEKS: &str = "backup/keks.jsonl";
const MECHANISMS: &str = "backup/mechanisms.jsonl";
/// The survey taken before anything was touched.
pub const BASELINE: &str = "baseline.json";

pub(super) fn baseline(context: &Context<'_>) -> Result<Survey> {
    context.root().read_json(&context.file(BASELINE))
}

fn p11_rows(database: &Database) -> Result<Vec<KekRow>> {
    let mut rows = database.kek_rows()?;
    rows.retain(|r| r.plugin_name == P11_CRYPTO);
    Ok(rows)
}

/// The next p11 KEKs; none at the end.
fn p11_page(database: &Database, cursor: &mut Cursor) -> Result<Vec<KekRow>> {
    loop {
        let mut rows = database.kek_page(cursor)?;
        if rows.is_empty() {
            return Ok(rows);
        }
        rows.retain(|row| row.plugin_name == P11_CRYPTO);
        if !rows.is_empty() {
            return Ok(rows);
        }
    }
}

/// Hands over the p11 KEKs page by page, with what the token says of them, as long as `each` wants more. While the token is asked about a page,
/// `each` works on the one before, and the next is read.
fn each_page(
    database: &mut Database,
    keys: &mut Keys,
    mut each: impl FnMut(&mut Database, Vec<(KekRow, Judged)>) -> Result<bool>,
) -> Result<()> {
    let mut cursor = Cursor::default();
    let mut page = p11_page(database, &mut cursor)?;
    let mut judged = Vec::new();
    while !page.is_empty() || !judged.is_empty() {
        let (asked, done) = thread::scope(|scope| {
            let asked = scope.spawn(|| kek::judge_signed(&page, keys));
            let mut work = || -> Result<(bool, Vec<KekRow>)> {
                let more = judged.is_empty() || each(database, std::mem::take(&mut judged))?;
                Ok((more, if more { p11_page(database, &mut cursor)? } else { Vec::new() }))
            };
            let done = work();
            (asked.join(), done)
        });
        let (more, next) = done?;
        if !more {
            return Ok(());
        }
        let asked = asked.map_err(|_| anyhow!("the token could not be asked"))??;
        judged = std::mem::replace(&mut page, next).into_iter().zip(asked).collect();
    }
    Ok(())
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
    each_page(&mut database, keys, |_, page| {
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
    each_page(&mut database, keys, |database, page| {
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

fn write_keks(database: &mut Database, kept: &mut Kept, changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    crash::point("KEK signed");
    kept.keep(changes)?;
    crash::point("KEK kept");
    database.transaction(|database| kept::replace(database, TextColumn::PluginMeta, changes))?;
    crash::point("KEK written");
    let ids: Vec<&str> = changes.iter().map(|change| change.id.as_str()).collect();
    let now = database.values(TextColumn::PluginMeta, &ids)?;
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
    kept::begin(context, MECHANISMS, TextColumn::KekMetaExtended)
}

/// Writes the mechanism into each secret that a decryption proved it for.
pub(super) fn record_mechanisms(context: &mut Context<'_>) -> Result<()> {
    let mut kept = Kept::reopen(context, MECHANISMS, TextColumn::KekMetaExtended)?;
    let mut changes = Vec::new();
    for (row, mechanism) in nameless(context)?.told {
        if let Some(new) = kek::with_mechanism(&row, mechanism)? {
            changes.push(Change { id: row.id, old: row.kek_meta_extended, new: Some(new) });
        }
    }
    let mut database = context.site.open(Access::ReadWrite)?;
    for batch in changes.chunks(PAGE) {
        crash::point("mechanism told");
        kept.keep(batch)?;
        database.transaction(|database| kept::replace(database, TextColumn::KekMetaExtended, batch))?;
    }
    Ok(())
}

pub(super) fn restore_mechanisms(context: &mut Context<'_>, file: &str) -> Result<bool> {
    kept::restore(context, file, TextColumn::KekMetaExtended, |old, now| {
        let mut value: serde_json::Value = serde_json::from_str(now.unwrap_or_default())?;
        value.as_object_mut().context("not a JSON object")?.remove("mechanism");
        Ok(value == serde_json::from_str::<serde_json::Value>(old.unwrap_or_default())?)
    })
}

pub(super) fn verify_keks(context: &mut Context<'_>) -> Result<Observed> {
    let baseline = baseline(context)?;
    let expected_old = context.to_before("mitaka")?;
    let (mut database, keys) = open(context, Access::ReadOnly)?;
    let (mut tally, mut foreign) = (Tally::default(), None);
    each_page(&mut database, keys, |_, page| {
        for (row, Judged { verdict, .. }) in &page {
            tally.add(verdict);
            let was = baseline.keks.get(&row.id).map(|k| &k.verdict);
            let fine = *verdict == Verdict::Good
                || (*verdict == Verdict::Old && expected_old)
                || was.is_some_and(|was| !was.is_sound())
                || was.is_none() && matches!(verdict, Verdict::Unbound);
            if !fine && foreign.is_none() {
                foreign = Some(format!(
                    "KEK {} is {}; it was {} before: services stay held; `keymgr-upgrade kek status --verbose` lists them",
                    row.id,
                    verdict.name(),
                    was.map_or("unknown", Verdict::name)
                ));
            }
        }
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
