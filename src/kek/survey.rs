//! All KEKs and secrets of a database, each with its state; and what one survey lost against
//! an earlier one.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Attempt, Keys, SecretVerdict, Verdict, attempt, hex, judge_all, proved};
use crate::db::{KekRow, SecretRow};

/// How many payloads are handed to the token at a time: bounds the memory their copies take.
const BATCH: usize = 256;

/// The states of all rows surveyed. Holds ids and states, no secrets, no ciphertext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// By `kek_data.id`.
    pub keks: BTreeMap<String, KekEntry>,
    /// By `encrypted_data.id`.
    pub secrets: BTreeMap<String, SecretEntry>,
}

/// A KEK in a survey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekEntry {
    /// Its project.
    pub project_id: String,
    /// Soft-deleted.
    pub deleted: bool,
    /// Its state.
    pub verdict: Verdict,
}

/// A secret in a survey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEntry {
    /// The secret; one secret may have several encrypted data.
    pub secret_id: String,
    /// Its KEK.
    pub kek_id: String,
    /// Soft-deleted.
    pub deleted: bool,
    /// Whether it can be read.
    pub verdict: SecretVerdict,
}

/// Rows in one state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Judges every KEK and tries to read every secret given; hexadecimal text by what it stands for, so that it is known what a repair would give.
///
/// # Errors
/// Trouble with the token that says nothing about a row. There is no survey then.
pub fn survey(keks: &[KekRow], secrets: &[SecretRow], keys: &mut Keys) -> Result<Survey> {
    let mut survey = survey_plain(&hex::plain_keks(keks), &hex::plain_secrets(secrets), keys)?;
    hex::mark(&mut survey, keks, secrets);
    Ok(survey)
}

fn survey_plain(keks: &[KekRow], secrets: &[SecretRow], keys: &mut Keys) -> Result<Survey> {
    let verdicts = judge_all(keks, keys).context("judging the KEKs")?;
    let by_id: HashMap<&str, (&KekRow, &Verdict)> =
        keks.iter().zip(&verdicts).map(|(row, verdict)| (row.id.as_str(), (row, verdict))).collect();
    // By KEK, so that the token unwraps each only once.
    let mut sorted: Vec<&SecretRow> = secrets.iter().collect();
    sorted.sort_by_key(|secret| &secret.kek_id);
    let mut survey = Survey::default();
    for batch in sorted.chunks(BATCH) {
        let verdicts = prove_batch(batch, &by_id, keys).context("reading the secrets")?;
        for (secret, verdict) in batch.iter().zip(verdicts) {
            let entry = SecretEntry {
                secret_id: secret.secret_id.clone(),
                kek_id: secret.kek_id.clone(),
                deleted: secret.deleted,
                verdict,
            };
            survey.secrets.insert(secret.id.clone(), entry);
        }
    }
    for (row, verdict) in keks.iter().zip(verdicts) {
        let entry = KekEntry { project_id: row.project_id.clone(), deleted: row.deleted, verdict };
        survey.keks.insert(row.id.clone(), entry);
    }
    Ok(survey)
}

fn prove_batch(
    batch: &[&SecretRow],
    keks: &HashMap<&str, (&KekRow, &Verdict)>,
    keys: &mut Keys,
) -> Result<Vec<SecretVerdict>> {
    let mut verdicts = Vec::with_capacity(batch.len());
    let mut waiting = Vec::new();
    let mut payloads = Vec::new();
    for (index, secret) in batch.iter().enumerate() {
        let Some((kek, verdict)) = keks.get(secret.kek_id.as_str()) else {
            verdicts.push(SecretVerdict::unreadable(format!("there is no KEK {}", secret.kek_id)));
            continue;
        };
        verdicts.push(match attempt(secret, kek, verdict, keys) {
            Attempt::Verdict(verdict) => verdict,
            Attempt::Token(payload) => {
                waiting.push(index);
                payloads.push(*payload);
                SecretVerdict::unreadable("the token gave no answer")
            }
        });
    }
    if let Some(hsm) = keys.hsm.as_mut().filter(|_| !payloads.is_empty()) {
        for (index, proof) in waiting.into_iter().zip(hsm.prove_all(payloads)?) {
            if let Some(slot) = verdicts.get_mut(index) {
                *slot = proved(proof);
            }
        }
    }
    Ok(verdicts)
}

impl Survey {
    /// KEKs by the name of their state.
    #[must_use]
    pub fn kek_counts(&self) -> BTreeMap<&'static str, Count> {
        let mut counts = BTreeMap::<_, Count>::new();
        for entry in self.keks.values() {
            counts.entry(entry.verdict.name()).or_default().add(entry.deleted);
        }
        counts
    }

    /// Secrets by the name of their state.
    #[must_use]
    pub fn secret_counts(&self) -> BTreeMap<&'static str, Count> {
        let mut counts = BTreeMap::<_, Count>::new();
        for entry in self.secrets.values() {
            counts.entry(entry.verdict.name()).or_default().add(entry.deleted);
        }
        counts
    }

    /// KEKs that Barbican cannot use: unreadable, malformed, of Icehouse, or their key is missing. Not those that a repair makes readable.
    pub fn bad_keks(&self) -> impl Iterator<Item = (&str, &KekEntry)> {
        let bad = |verdict: &Verdict| match verdict {
            Verdict::Unreadable { .. } | Verdict::KeyMissing { .. } | Verdict::Malformed { .. } | Verdict::Icehouse => {
                true
            }
            Verdict::Good
            | Verdict::Old
            | Verdict::HexText
            | Verdict::Unbound
            | Verdict::NotOurs { .. }
            | Verdict::NotChecked { .. } => false,
        };
        self.keks.iter().filter(move |(_, entry)| bad(&entry.verdict)).map(|(id, entry)| (id.as_str(), entry))
    }

    /// Secrets that cannot be read. Not those that a repair makes readable.
    pub fn bad_secrets(&self) -> impl Iterator<Item = (&str, &SecretEntry)> {
        let bad = |verdict: &SecretVerdict| match verdict {
            SecretVerdict::Unreadable { .. } | SecretVerdict::KeyMissing { .. } => true,
            SecretVerdict::Proved { .. } | SecretVerdict::HexText | SecretVerdict::NotChecked { .. } => false,
        };
        self.secrets.iter().filter(move |(_, entry)| bad(&entry.verdict)).map(|(id, entry)| (id.as_str(), entry))
    }

    /// What was usable in `baseline` and is not in this survey, rows that are gone included; both
    /// must have been given the same selection of rows. A KEK that is still signed the old way is
    /// not lost; whether any is left is told by [`Survey::kek_counts`].
    #[must_use]
    pub fn lost_since(&self, baseline: &Survey) -> Vec<Lost> {
        let keks = baseline.keks.iter().filter(|(_, was)| was.verdict.is_sound()).filter_map(|(id, was)| {
            let now = self.keks.get(id).map(|entry| entry.verdict.clone());
            let sound = now.as_ref().is_some_and(Verdict::is_sound);
            (!sound).then(|| Lost::Kek { id: id.clone(), deleted: was.deleted, now })
        });
        let proved = |verdict: &SecretVerdict| matches!(verdict, SecretVerdict::Proved { .. });
        let secrets = baseline.secrets.iter().filter(|(_, was)| proved(&was.verdict)).filter_map(|(id, was)| {
            let now = self.secrets.get(id).map(|entry| entry.verdict.clone());
            let readable = now.as_ref().is_some_and(proved);
            (!readable).then(|| Lost::Secret {
                id: id.clone(),
                secret_id: was.secret_id.clone(),
                deleted: was.deleted,
                now,
            })
        });
        keks.chain(secrets).collect()
    }
}
