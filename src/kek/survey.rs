//! All KEKs and secrets of a database, each with its state; and what one survey lost against an earlier one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Attempt, Choice, Keys, SecretVerdict, Verdict, attempt, each_judged, hex, judge_all, proved};
use crate::db::{Cursor, Database, KekRow, Kind, SecretRow, State, States, Which};
use crate::files::Root;
use crate::journal::private;
use crate::progress::Pace;

/// How many rows are looked up at a time, and how many lost ones are listed.
const MANY: usize = 1000;

/// A quick look takes all KEKs, and all secrets, of which there are no more than these.
const QUICK: u64 = 1000;

/// Of more KEKs, and of more secrets, it takes about so many.
const SAMPLE: (usize, usize) = (1000, 200);

/// What is known in all of the rows surveyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// KEKs by the name of their state.
    pub keks: BTreeMap<String, Count>,
    /// Secrets by the name of their state.
    pub secrets: BTreeMap<String, Count>,
    /// Secrets of p11_crypto that were decrypted, by the mechanism.
    pub mechanisms: BTreeMap<String, Count>,
    /// Secrets that could not be tried, by the plugin of their KEK.
    pub unchecked: BTreeMap<String, Count>,
}

/// The states of all rows surveyed: ids and states, no secrets, no ciphertext. They may be more than fit in memory.
#[derive(Debug, Default)]
pub struct Survey {
    summary: Summary,
    /// None: nothing was looked at.
    states: Option<States>,
    /// None: all rows were looked at.
    sample: Option<Whole>,
}

/// How many rows there are where not all were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Whole {
    /// In `kek_data`.
    pub keks: u64,
    /// In `encrypted_data`.
    pub secrets: u64,
}

impl Whole {
    /// Counts them.
    ///
    /// # Errors
    /// If they cannot be counted.
    pub fn of(database: &Database) -> Result<Self> {
        Ok(Self { keks: database.rows_of(Kind::Keks)?, secrets: database.rows_of(Kind::Secrets)? })
    }

    /// Both.
    #[must_use]
    pub fn all(self) -> u64 {
        self.keks + self.secrets
    }

    /// About how many secrets a quick look takes of so many; all of them where there is no number.
    #[must_use]
    pub fn sample(self) -> Option<usize> {
        (self.keks > QUICK || self.secrets > QUICK).then_some(SAMPLE.1)
    }
}

/// Rows in one state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Live ones.
    pub live: usize,
    /// Soft-deleted ones.
    pub deleted: usize,
}

impl Count {
    fn add(&mut self, deleted: bool) {
        if deleted {
            self.deleted += 1;
        } else {
            self.live += 1;
        }
    }

    /// Live and soft-deleted ones.
    #[must_use]
    pub fn all(self) -> usize {
        self.live + self.deleted
    }
}

/// A row that was usable and is not any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Lost {
    /// A KEK.
    Kek {
        /// `kek_data.id`.
        id: String,
        /// Soft-deleted.
        deleted: bool,
        /// Its state now; `None`: the row is gone.
        now: Option<Verdict>,
    },
    /// A secret.
    Secret {
        /// `encrypted_data.id`.
        id: String,
        /// The secret.
        secret_id: String,
        /// Soft-deleted.
        deleted: bool,
        /// Its state now; `None`: the row is gone.
        now: Option<SecretVerdict>,
    },
}

/// A KEK that Barbican cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadKek {
    /// `kek_data.id`.
    pub id: String,
    /// Its project.
    pub project_id: String,
    /// Neither it nor all secrets under it are soft-deleted.
    pub used: bool,
    /// How many secrets under it cannot be read.
    pub under: u64,
    /// What is wrong with it.
    pub verdict: Verdict,
}

/// A secret that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSecret {
    /// `encrypted_data.id`.
    pub id: String,
    /// The secret; one secret may have several encrypted data.
    pub secret_id: String,
    /// Soft-deleted.
    pub deleted: bool,
    /// Its KEK is bad too.
    pub under_bad: bool,
    /// What is wrong with it.
    pub verdict: SecretVerdict,
}

fn of<T: for<'a> Deserialize<'a>>(state: &State) -> Result<T> {
    serde_json::from_str(&state.verdict).with_context(|| format!("what was found out about row {}", state.id))
}

/// Judges every KEK and tries to read every secret given; hexadecimal text by what it stands for, so that it is known what a repair would give.
///
/// # Errors
/// Trouble with the token that says nothing about a row. There is no survey then.
pub fn survey(keks: &[KekRow], secrets: &[SecretRow], keys: &mut Keys) -> Result<Survey> {
    let mut survey = Survey::default();
    survey.add_keks(keks, keys)?;
    survey.add_secrets(secrets, keks, keys)?;
    Ok(survey)
}

impl Survey {
    /// Surveys a whole database, page by page.
    ///
    /// # Errors
    /// As [`survey`]; or the database cannot be read.
    pub fn of(database: &mut Database, keys: &mut Keys) -> Result<Self> {
        let mut survey = Self::default();
        survey.all_keks(database, keys)?;
        survey.all_secrets(database, keys)?;
        Ok(survey)
    }

    /// Surveys of a large database rows that are spread over it: the first, the last, one KEK of each plugin, and a live secret under some KEKs, one
    /// of each plugin and state and every bad one among them. `sample` are the ids of secrets that [`Database::secret_sample`] chose.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn quick(database: &mut Database, whole: Whole, sample: &BTreeSet<String>, keys: &mut Keys) -> Result<Self> {
        let mut survey = Self { sample: Some(whole), ..Self::default() };
        if whole.keks <= QUICK {
            survey.all_keks(database, keys)?;
        } else {
            let mut ids = database.spread_ids(Kind::Keks, SAMPLE.0)?;
            ids.append(&mut database.kek_of_each_plugin()?);
            for ids in chunks(&ids, MANY) {
                survey.add_keks(&database.keks_by_id(&ids)?, keys)?;
            }
        }
        if whole.secrets <= QUICK {
            survey.all_secrets(database, keys)?;
            return Ok(survey);
        }
        let mut ids = sample.clone();
        ids.append(&mut database.live_under(&survey.telling_keks()?)?);
        for ids in chunks(&ids, SAMPLE.1) {
            let secrets = database.secrets_by_id(&ids)?;
            survey.add_secrets(&secrets, &secret_keks(database, &secrets)?, keys)?;
        }
        Ok(survey)
    }

    /// One KEK of each state, and all bad ones.
    fn telling_keks(&mut self) -> Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        let names: Vec<String> = self.summary.keks.keys().cloned().collect();
        let states = self.states()?;
        for name in &names {
            states.each(Kind::Keks, Which::Named(name), |state| {
                ids.insert(state.id);
                Ok::<_, anyhow::Error>(false)
            })?;
        }
        states.each(Kind::Keks, Which::Bad, |state| {
            ids.insert(state.id);
            Ok::<_, anyhow::Error>(true)
        })?;
        Ok(ids)
    }

    fn all_keks(&mut self, database: &mut Database, keys: &mut Keys) -> Result<()> {
        each_judged(Choice::All, database, keys, |_, page| {
            self.add_verdicts(page.into_iter().map(|(row, judged)| (row, judged.verdict)))?;
            Ok(true)
        })
        .context("judging the KEKs")
    }

    /// By KEK, so that the token unwraps each only once.
    fn all_secrets(&mut self, database: &Database, keys: &mut Keys) -> Result<()> {
        let (mut cursor, mut pace) = (Cursor::default(), Pace::begin());
        loop {
            let secrets = database.secret_page(&mut cursor)?;
            if secrets.is_empty() {
                return Ok(());
            }
            let keks = secret_keks(database, &secrets)?;
            self.add_secrets(&secrets, &keks, keys)?;
            pace.add(secrets.len(), || database.rows_of(Kind::Secrets).ok());
        }
    }

    /// How many rows there are, where not all were looked at.
    #[must_use]
    pub fn sample(&self) -> Option<Whole> {
        self.sample
    }

    /// `a sample of 200 of 1000000`, where not all rows of this kind were looked at.
    #[must_use]
    pub fn part(&self, kind: Kind) -> Option<String> {
        let whole = self.sample?;
        let (all, counts) = match kind {
            Kind::Keks => (whole.keks, &self.summary.keks),
            Kind::Secrets => (whole.secrets, &self.summary.secrets),
        };
        let looked_at: usize = counts.values().map(|count| count.all()).sum();
        (u64::try_from(looked_at).ok()? < all).then(|| format!("a sample of {looked_at} of {all}"))
    }

    /// What was kept of a survey in this directory, inside the root, under this name.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn kept(root: &Root, directory: &Path, name: &str) -> Result<Self> {
        let summary = root.read_json(&directory.join(format!("{name}.json")))?;
        let states = States::open(&root.real_path(&directory.join(format!("{name}.db")))?)?;
        Ok(Self { summary, states: Some(states), sample: None })
    }

    /// Keeps it there: the states of rows as a SQLite file, and the summary as JSON. Both are synced.
    ///
    /// # Errors
    /// If they cannot be written, or not all rows were looked at.
    pub fn keep(&self, root: &Root, directory: &Path, name: &str) -> Result<()> {
        if self.sample.is_some() {
            bail!("only a sample of the keys and secrets was looked at: nothing can be compared with that");
        }
        let none;
        let states = match &self.states {
            Some(states) => states,
            None => {
                none = States::new()?;
                &none
            }
        };
        states.keep(&root.real_path(directory)?.join(format!("{name}.db")))?;
        root.write(&directory.join(format!("{name}.json")), &serde_json::to_vec(&self.summary)?, private())
    }

    fn states(&mut self) -> Result<&States> {
        if self.states.is_none() {
            self.states = Some(States::new()?);
        }
        self.states.as_ref().context("no states")
    }

    fn add_keks(&mut self, rows: &[KekRow], keys: &mut Keys) -> Result<()> {
        let verdicts = judge_all(&hex::plain_keks(rows), keys).context("judging the KEKs")?;
        self.add_verdicts(rows.iter().cloned().zip(verdicts))
    }

    fn add_verdicts(&mut self, keks: impl Iterator<Item = (KekRow, Verdict)>) -> Result<()> {
        let mut states = Vec::new();
        for (row, mut verdict) in keks {
            hex::mark_kek(&mut verdict, &row);
            self.summary.keks.entry(verdict.name().to_owned()).or_default().add(row.deleted);
            states.push(State {
                id: row.id,
                of: row.project_id,
                under: String::new(),
                deleted: row.deleted,
                usable: verdict.is_sound(),
                bad: verdict.is_bad(),
                name: verdict.name().to_owned(),
                verdict: serde_json::to_string(&verdict)?,
            });
        }
        Ok(self.states()?.add(Kind::Keks, &states)?)
    }

    /// `keks` are those of the secrets.
    fn add_secrets(&mut self, rows: &[SecretRow], keks: &[KekRow], keys: &mut Keys) -> Result<()> {
        let plain = hex::plain_keks(keks);
        let verdicts = self.plain_verdicts(keks, &plain, keys)?;
        let by_id: HashMap<&str, (&KekRow, &Verdict)> =
            plain.iter().zip(&verdicts).map(|(row, verdict)| (row.id.as_str(), (row, verdict))).collect();
        let under_hex: BTreeSet<&str> = keks.iter().filter(|row| hex::is_hex(row)).map(|row| row.id.as_str()).collect();
        let proofs = prove_all(&hex::plain_secrets(rows), &by_id, keys).context("reading the secrets")?;
        let mut states = Vec::with_capacity(rows.len());
        for (row, mut verdict) in rows.iter().zip(proofs) {
            hex::mark_secret(&mut verdict, row, under_hex.contains(row.kek_id.as_str()));
            self.summary.secrets.entry(verdict.name().to_owned()).or_default().add(row.deleted);
            if let SecretVerdict::Proved { mechanism: Some(mechanism) } = &verdict {
                self.summary.mechanisms.entry(mechanism.to_string()).or_default().add(row.deleted);
            }
            if let Some(plugin) = verdict.unchecked() {
                self.summary.unchecked.entry(plugin.to_owned()).or_default().add(row.deleted);
            }
            states.push(State {
                id: row.id.clone(),
                of: row.secret_id.clone(),
                under: row.kek_id.clone(),
                deleted: row.deleted,
                usable: verdict.is_proved(),
                bad: verdict.is_bad(),
                name: verdict.name().to_owned(),
                verdict: serde_json::to_string(&verdict)?,
            });
        }
        Ok(self.states()?.add(Kind::Secrets, &states)?)
    }

    /// What is known of these KEKs, or else is found out: of those that came since, and of what hexadecimal text stands for.
    fn plain_verdicts(&mut self, keks: &[KekRow], plain: &[KekRow], keys: &mut Keys) -> Result<Vec<Verdict>> {
        let ids: Vec<&str> = keks.iter().map(|row| row.id.as_str()).collect();
        let known = self.find_keks(&ids)?;
        let since: Vec<KekRow> = keks.iter().filter(|row| !known.contains_key(&row.id)).cloned().collect();
        self.add_keks(&since, keys)?;
        let is_open = |row: &&KekRow| !matches!(known.get(&row.id), Some(verdict) if *verdict != Verdict::HexText);
        let open: Vec<KekRow> = plain.iter().filter(is_open).cloned().collect();
        let mut found = judge_all(&open, keys).context("judging the KEKs")?.into_iter();
        let verdict = |row: &KekRow| if is_open(&row) { found.next() } else { known.get(&row.id).cloned() };
        plain.iter().map(verdict).collect::<Option<_>>().context("no verdict was given")
    }

    /// What is known in all.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// KEKs by the name of their state.
    #[must_use]
    pub fn kek_counts(&self) -> &BTreeMap<String, Count> {
        &self.summary.keks
    }

    /// Secrets by the name of their state.
    #[must_use]
    pub fn secret_counts(&self) -> &BTreeMap<String, Count> {
        &self.summary.secrets
    }

    /// The states of the KEKs with these ids, as far as they were there.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn find_keks(&self, ids: &[&str]) -> Result<BTreeMap<String, Verdict>> {
        self.find(Kind::Keks, ids)
    }

    /// The states of the encrypted data with these ids, as far as they were there.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn find_secrets(&self, ids: &[&str]) -> Result<BTreeMap<String, SecretVerdict>> {
        self.find(Kind::Secrets, ids)
    }

    fn find<T: for<'a> Deserialize<'a>>(&self, kind: Kind, ids: &[&str]) -> Result<BTreeMap<String, T>> {
        let Some(states) = self.states.as_ref().filter(|_| !ids.is_empty()) else { return Ok(BTreeMap::new()) };
        states.find(kind, ids)?.into_iter().map(|state| Ok((state.id.clone(), of(&state)?))).collect()
    }

    /// How many KEKs Barbican cannot use.
    #[must_use]
    pub fn bad_kek_count(&self) -> usize {
        let bad = ["unreadable", "key-missing", "malformed", "icehouse"];
        bad.iter().filter_map(|name| self.summary.keks.get(*name)).map(|count| count.all()).sum()
    }

    /// Hands over, by id, the KEKs that Barbican cannot use: unreadable, malformed, of Icehouse, or their key is missing. Not those that a repair
    /// makes readable.
    ///
    /// # Errors
    /// If they cannot be read; the error of `each`.
    pub fn each_bad_kek(&self, mut each: impl FnMut(BadKek)) -> Result<()> {
        let Some(states) = &self.states else { return Ok(()) };
        states.each_bad_kek(|state, under, live| {
            let verdict = of(&state)?;
            let used = live > 0 && !state.deleted;
            each(BadKek { id: state.id, project_id: state.of, used, under, verdict });
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Hands over, by id, the secrets that cannot be read, as long as `each` wants more. Not those that a repair makes readable.
    ///
    /// # Errors
    /// As [`Self::each_bad_kek`].
    pub fn each_bad_secret(&self, mut each: impl FnMut(BadSecret) -> Result<bool>) -> Result<()> {
        let Some(states) = &self.states else { return Ok(()) };
        states.each(Kind::Secrets, Which::Bad, |state| {
            let (verdict, under_bad) = (of(&state)?, states.has_bad_kek(&state.under)?);
            each(BadSecret { id: state.id, secret_id: state.of, deleted: state.deleted, under_bad, verdict })
        })
    }

    /// Hands over the ids of what was hexadecimal text, KEKs first, and whether it is of a KEK, with a name for people: `KEK id`, `secret id`.
    ///
    /// # Errors
    /// As [`Self::each_bad_kek`].
    pub fn each_hex_text(&self, mut each: impl FnMut(Kind, &str, String) -> Result<bool>) -> Result<()> {
        let Some(states) = &self.states else { return Ok(()) };
        let named = Which::Named("hex-text");
        states.each(Kind::Keks, named, |state| each(Kind::Keks, &state.id, format!("KEK {}", state.id)))?;
        states.each(Kind::Secrets, named, |state| each(Kind::Secrets, &state.id, format!("secret {}", state.of)))
    }

    /// What was usable in `baseline` and is not in this survey, rows that are gone included; both must have been given the same selection of
    /// rows. A KEK that is still signed the old way is not lost; whether any is left is told by [`Survey::kek_counts`]. Returns how many there are,
    /// and the first thousand of each kind.
    ///
    /// # Errors
    /// If the states cannot be read.
    pub fn lost_since(&self, baseline: &Survey) -> Result<(usize, Vec<Lost>)> {
        let mut lost = (0, Vec::new());
        for kind in [Kind::Keks, Kind::Secrets] {
            let (mut page, mut listed) = (Vec::new(), Vec::new());
            if let Some(states) = &baseline.states {
                states.each(kind, Which::Usable, |state| {
                    page.push(state);
                    if page.len() == MANY {
                        lost.0 += self.lost_of(kind, &std::mem::take(&mut page), &mut listed)?;
                    }
                    Ok::<_, anyhow::Error>(true)
                })?;
            }
            lost.0 += self.lost_of(kind, &page, &mut listed)?;
            lost.1.extend(listed);
        }
        Ok(lost)
    }

    fn lost_of(&self, kind: Kind, were: &[State], listed: &mut Vec<Lost>) -> Result<usize> {
        let ids: Vec<&str> = were.iter().map(|state| state.id.as_str()).collect();
        let now = match &self.states {
            Some(states) if !ids.is_empty() => states.find(kind, &ids)?,
            _ => Vec::new(),
        };
        let now: HashMap<&str, &State> = now.iter().map(|state| (state.id.as_str(), state)).collect();
        let mut count = 0;
        for was in were {
            let state = now.get(was.id.as_str());
            if state.is_some_and(|state| state.usable) {
                continue;
            }
            count += 1;
            if listed.len() < MANY {
                let (id, deleted) = (was.id.clone(), was.deleted);
                listed.push(match kind {
                    Kind::Keks => Lost::Kek { id, deleted, now: state.map(|state| of(state)).transpose()? },
                    Kind::Secrets => {
                        let now = state.map(|state| of(state)).transpose()?;
                        Lost::Secret { id, secret_id: was.of.clone(), deleted, now }
                    }
                });
            }
        }
        Ok(count)
    }
}

fn chunks(ids: &BTreeSet<String>, size: usize) -> Vec<Vec<&str>> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    ids.chunks(size).map(<[&str]>::to_vec).collect()
}

/// The KEKs of these secrets, as far as they are there.
///
/// # Errors
/// If they cannot be read.
pub fn secret_keks(database: &Database, secrets: &[SecretRow]) -> Result<Vec<KekRow>> {
    let ids: BTreeSet<&str> = secrets.iter().map(|secret| secret.kek_id.as_str()).collect();
    Ok(database.keks_by_id(&ids.into_iter().collect::<Vec<_>>())?)
}

fn prove_all(
    rows: &[SecretRow],
    keks: &HashMap<&str, (&KekRow, &Verdict)>,
    keys: &mut Keys,
) -> Result<Vec<SecretVerdict>> {
    // By KEK, so that the token unwraps each only once.
    let mut sorted: Vec<(usize, &SecretRow)> = rows.iter().enumerate().collect();
    sorted.sort_by_key(|(_, secret)| &secret.kek_id);
    let mut verdicts = vec![SecretVerdict::unreadable("the token gave no answer"); rows.len()];
    let (mut waiting, mut payloads) = (Vec::new(), Vec::new());
    let mut put = |index: usize, verdict| {
        if let Some(slot) = verdicts.get_mut(index) {
            *slot = verdict;
        }
    };
    for (index, secret) in sorted {
        let Some((kek, verdict)) = keks.get(secret.kek_id.as_str()) else {
            put(index, SecretVerdict::unreadable(format!("there is no KEK {}", secret.kek_id)));
            continue;
        };
        match attempt(secret, kek, verdict, keys) {
            Attempt::Verdict(verdict) => put(index, verdict),
            Attempt::Token(payload) => {
                waiting.push(index);
                payloads.push(*payload);
            }
        }
    }
    if let Some(hsm) = keys.hsm.as_mut().filter(|_| !payloads.is_empty()) {
        for (index, proof) in waiting.into_iter().zip(hsm.prove_all(payloads)?) {
            put(index, proved(proof));
        }
    }
    Ok(verdicts)
}
