//! Are the keys and secrets of a database usable, and by which rule?
//!
//! A KEK of the p11_crypto plugin is wrapped by a master key in the token and signed by an HMAC
//! key there. Up to Liberty the signature covers the wrapped key alone, from Mitaka on iv and
//! wrapped key; which of the two a row has can be told only by verifying. From 20.0.0 on rows
//! without iv exist, whose signature rightly covers the wrapped key alone: the iv is asked first.
//!
//! `kek_data.plugin_name` decides which rule applies to a row, never the configuration.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod hex;
mod judge;
mod meta;
mod simple;
mod survey;

use std::fmt;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

pub use self::{
    judge::{Choice, Judged, Questions, each_judged},
    simple::SimpleKeys,
    survey::{BadKek, BadSecret, Count, Lost, Summary, Survey, Whole, secret_keks, survey},
};
use self::{
    meta::{HEX_TEXT, KekMeta, SecretMeta, decode_base64},
    simple::{ProjectKey, Unusable},
};
use crate::{
    db::{KekRow, MetaRow, SecretRow, is_hex_text},
    hsm::{self, Ciphertext, DataMechanism, HmacMechanism, Hsm, Proof},
};

/// `plugin_name` of the p11_crypto plugin since Juno.
pub const P11_CRYPTO: &str = "barbican.plugin.crypto.p11_crypto.P11CryptoPlugin";
/// `plugin_name` of the simple_crypto plugin since Juno.
pub const SIMPLE_CRYPTO: &str = "barbican.plugin.crypto.simple_crypto.SimpleCryptoPlugin";
/// The names of both in Icehouse.
pub const ICEHOUSE: [&str; 2] =
    ["barbican.crypto.p11_crypto.P11CryptoPlugin", "barbican.crypto.plugin.SimpleCryptoPlugin"];

/// What opens keys and secrets.
#[derive(Debug, Default)]
pub struct Keys {
    /// The token, if the site uses one.
    pub hsm: Option<Hsm>,
    /// The simple_crypto keys, if the site has any.
    pub simple: Option<SimpleKeys>,
    /// For p11 secrets without a recorded mechanism: those to try, in order. The site's old option
    /// comes first, CBC last, since a wrong CBC decryption may pass for a right one.
    pub candidates: Vec<DataMechanism>,
}

/// Said of hexadecimal text that stands for something sound.
const REPAIRABLE: &str = "hexadecimal text, unreadable for barbican until `db repair-hex`";

/// Which plugin wrote a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plugin {
    P11,
    Simple,
    Icehouse,
    Other,
}

impl Plugin {
    fn of(row: &KekRow) -> Self {
        match row.plugin_name.as_str() {
            P11_CRYPTO => Self::P11,
            SIMPLE_CRYPTO => Self::Simple,
            name if ICEHOUSE.contains(&name) => Self::Icehouse,
            _ => Self::Other,
        }
    }
}

/// The state of a KEK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Verdict {
    /// Signed as Mitaka and later sign; for simple_crypto: the project's key decrypts.
    Good,
    /// Signed as up to Liberty: to be signed anew.
    Old,
    /// Well-formed, but the signature fits neither way, or the key does not decrypt.
    Unreadable {
        /// What does not fit.
        why: String,
    },
    /// The token has no key of the label the row names.
    KeyMissing {
        /// The label.
        label: String,
    },
    /// The row's text is not what its plugin writes.
    Malformed {
        /// What is wrong with it, not quoting it.
        why: String,
    },
    /// Hexadecimal text, which Barbican cannot read; what it stands for is sound. Only a survey says so.
    HexText,
    /// The row is there, but no key was ever made for it; Barbican makes one on first use.
    Unbound,
    /// Written under an Icehouse plugin name, which no later code finds.
    Icehouse,
    /// Of a plugin that cannot be checked here (Vault, KMIP, Dogtag, a site's own).
    NotOurs {
        /// Its name.
        plugin: String,
    },
    /// Of a plugin we know, but its token or keys were not given.
    NotChecked {
        /// Its name.
        plugin: String,
    },
}

impl Verdict {
    /// The state's name, as in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Old => "old",
            Self::Unreadable { .. } => "unreadable",
            Self::KeyMissing { .. } => "key-missing",
            Self::Malformed { .. } => "malformed",
            Self::HexText => "hex-text",
            Self::Unbound => "unbound",
            Self::Icehouse => "icehouse",
            Self::NotOurs { .. } => "not-ours",
            Self::NotChecked { .. } => "not-checked",
        }
    }

    /// The key itself is sound, by one way of signing or the other.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        matches!(self, Self::Good | Self::Old)
    }

    /// Barbican cannot use the key, and no repair is known.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::KeyMissing { .. } | Self::Malformed { .. } | Self::Icehouse => true,
            Self::Good | Self::Old | Self::HexText | Self::Unbound | Self::NotOurs { .. } | Self::NotChecked { .. } => {
                false
            }
        }
    }
}

/// For people: the state, and why. Never a value of the row.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { why } | Self::Malformed { why } => write!(f, "{}: {why}", self.name()),
            Self::KeyMissing { label } => write!(f, "the token has no key labelled {label:?}"),
            Self::Icehouse => f.write_str("under a plugin name of Icehouse, which no later release finds"),
            Self::NotOurs { plugin } | Self::NotChecked { plugin } => write!(f, "{}: {plugin}", self.name()),
            Self::HexText => f.write_str(REPAIRABLE),
            Self::Good | Self::Old | Self::Unbound => f.write_str(self.name()),
        }
    }
}

/// Whether a secret can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum SecretVerdict {
    /// It was decrypted.
    Proved {
        /// By which mechanism, for p11_crypto; [`DataMechanism::is_authenticated`] says how much
        /// that proves. `None` for simple_crypto, whose Fernet tokens are authenticated.
        mechanism: Option<DataMechanism>,
    },
    /// It cannot be decrypted.
    Unreadable {
        /// Why not.
        why: String,
    },
    /// It, or its KEK, is hexadecimal text, which Barbican cannot read; what it stands for was decrypted. Only a survey says so.
    HexText,
    /// The token lacks a key it needs.
    KeyMissing {
        /// The label.
        label: String,
    },
    /// Its plugin, or that plugin's keys, are not at hand.
    NotChecked {
        /// The plugin's name.
        plugin: String,
    },
}

impl SecretVerdict {
    /// The state's name, as in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Proved { .. } => "proved",
            Self::Unreadable { .. } => "unreadable",
            Self::HexText => "hex-text",
            Self::KeyMissing { .. } => "key-missing",
            Self::NotChecked { .. } => "not-checked",
        }
    }

    /// It was decrypted.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        matches!(self, Self::Proved { .. })
    }

    /// It cannot be read, and no repair is known.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::KeyMissing { .. } => true,
            Self::Proved { .. } | Self::HexText | Self::NotChecked { .. } => false,
        }
    }

    /// The plugin of a secret that could not be tried.
    #[must_use]
    pub fn unchecked(&self) -> Option<&str> {
        match self {
            Self::NotChecked { plugin } => Some(plugin),
            Self::Proved { .. } | Self::Unreadable { .. } | Self::HexText | Self::KeyMissing { .. } => None,
        }
    }

    fn unreadable(why: impl Into<String>) -> Self {
        Self::Unreadable { why: why.into() }
    }
}

/// For people: the state, and why. Never a value of the row.
impl fmt::Display for SecretVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { why } => write!(f, "{}: {why}", self.name()),
            Self::KeyMissing { label } => write!(f, "the token has no key labelled {label:?}"),
            Self::NotChecked { plugin } => write!(f, "{}: {plugin}", self.name()),
            Self::HexText => f.write_str(REPAIRABLE),
            Self::Proved { .. } => f.write_str(self.name()),
        }
    }
}

/// The state of one KEK.
///
/// # Errors
/// Trouble with the token that says nothing about the row.
pub fn judge(row: &KekRow, keys: &mut Keys) -> Result<Verdict> {
    let verdicts = judge_all(std::slice::from_ref(row), keys)?;
    verdicts.into_iter().next().context("no verdict was given")
}

/// The states of many KEKs, in their order; the token is asked in one batch.
///
/// # Errors
/// Trouble with the token that says nothing about a row.
pub fn judge_all(rows: &[KekRow], keys: &mut Keys) -> Result<Vec<Verdict>> {
    let questions = Questions::about(rows, keys.hsm.is_some(), keys.simple.as_ref());
    Ok(questions.ask(keys.hsm.as_mut())?.into_iter().map(|judged| judged.verdict).collect())
}

/// How far a row can be judged without the token.
enum Offline {
    Verdict(Verdict),
    Signed(Box<KekMeta>),
}

fn judge_offline(row: &KekRow, token: bool, simple: Option<&SimpleKeys>) -> Offline {
    let plugin = || row.plugin_name.clone();
    let meta = row.plugin_meta.as_deref().unwrap_or_default();
    Offline::Verdict(match Plugin::of(row) {
        Plugin::Icehouse => Verdict::Icehouse,
        Plugin::Other => Verdict::NotOurs { plugin: plugin() },
        Plugin::P11 | Plugin::Simple if meta.is_empty() => Verdict::Unbound,
        Plugin::P11 => match KekMeta::parse(meta) {
            Err(why) => Verdict::Malformed { why: format!("plugin_meta: {why}") },
            Ok(_) if !token => Verdict::NotChecked { plugin: plugin() },
            Ok(meta) => return Offline::Signed(Box::new(meta)),
        },
        Plugin::Simple => match simple {
            None => Verdict::NotChecked { plugin: plugin() },
            Some(keys) => match keys.project_key(meta) {
                Ok(_) => Verdict::Good,
                Err(Unusable::Malformed(why)) => Verdict::Malformed { why: format!("plugin_meta {why}") },
                Err(Unusable::Refused(why)) => Verdict::Unreadable { why: format!("plugin_meta: {why}") },
            },
        },
    })
}

fn misfit(meta: &KekMeta, mechanism: HmacMechanism) -> String {
    let expected = match mechanism {
        HmacMechanism::Sha256Hmac => 32,
        HmacMechanism::AesMac => 8,
    };
    let len = meta.hmac.len();
    if len == expected {
        let over = if meta.kek.iv.is_some() {
            "neither over iv and wrapped key nor over the wrapped key"
        } else {
            "not over the wrapped key"
        };
        format!("its signature holds {over}, by key {:?}", meta.hmac_label)
    } else {
        format!("its signature has {len} bytes, not the {expected} of {mechanism}; was hmac_mechanism changed?")
    }
}

/// Whether one secret can be read, by decrypting it under its KEK. As Barbican does, a KEK whose
/// signature fits neither way is not used.
///
/// # Errors
/// The KEK is not the secret's; trouble with the token that says nothing about the rows.
pub fn prove(secret: &SecretRow, kek: &KekRow, keys: &mut Keys) -> Result<SecretVerdict> {
    if secret.kek_id != kek.id {
        bail!("encrypted datum {} is under KEK {}, not {}", secret.id, secret.kek_id, kek.id);
    }
    let verdict = judge(kek, keys)?;
    match attempt(secret, kek, &verdict, keys) {
        Attempt::Verdict(verdict) => Ok(verdict),
        Attempt::Token(payload) => {
            let (kek, secret) = *payload;
            let hsm = keys.hsm.as_mut().context("no token is open")?;
            Ok(proved(hsm.prove(&kek, &secret)?))
        }
    }
}

/// How far a secret can be proved without the token.
enum Attempt {
    Verdict(SecretVerdict),
    Token(Box<(hsm::WrappedKek, Ciphertext)>),
}

fn attempt(secret: &SecretRow, kek: &KekRow, verdict: &Verdict, keys: &Keys) -> Attempt {
    Attempt::Verdict(match verdict {
        Verdict::NotOurs { plugin } | Verdict::NotChecked { plugin } => {
            SecretVerdict::NotChecked { plugin: plugin.clone() }
        }
        Verdict::KeyMissing { label } => SecretVerdict::KeyMissing { label: label.clone() },
        Verdict::Icehouse => {
            SecretVerdict::unreadable(format!("KEK {}: no code since Juno finds plugin {}", kek.id, kek.plugin_name))
        }
        Verdict::Unbound => SecretVerdict::unreadable(format!("KEK {} has no key", kek.id)),
        Verdict::Unreadable { why } | Verdict::Malformed { why } => {
            SecretVerdict::unreadable(format!("KEK {}: {why}", kek.id))
        }
        Verdict::HexText => SecretVerdict::unreadable(format!("KEK {}: plugin_meta {HEX_TEXT}", kek.id)),
        Verdict::Good | Verdict::Old => match Plugin::of(kek) {
            Plugin::Simple => simple_secret(secret, project_key(kek, keys)),
            Plugin::P11 | Plugin::Icehouse | Plugin::Other => match p11_payload(secret, kek, &keys.candidates) {
                Ok(payload) => return Attempt::Token(Box::new(payload)),
                Err(why) => SecretVerdict::Unreadable { why },
            },
        },
    })
}

fn proved(proof: Proof) -> SecretVerdict {
    match proof {
        Proof::Readable { mechanism, .. } => SecretVerdict::Proved { mechanism: Some(mechanism) },
        Proof::Refused { ckr } => SecretVerdict::Unreadable { why: ckr },
        Proof::KeyMissing { label } => SecretVerdict::KeyMissing { label },
    }
}

fn project_key(kek: &KekRow, keys: &Keys) -> Result<ProjectKey, Unusable> {
    let keys = keys.simple.as_ref();
    let keys = keys.ok_or_else(|| Unusable::Refused("no kek of [simple_crypto_plugin] is known".to_owned()))?;
    keys.project_key(kek.plugin_meta.as_deref().unwrap_or_default())
}

fn simple_secret(secret: &SecretRow, key: Result<ProjectKey, Unusable>) -> SecretVerdict {
    let read = || {
        let token = ciphertext(secret).map_err(Unusable::Malformed)?;
        let token = String::from_utf8(token).map_err(|_| Unusable::Malformed("is not a Fernet token".to_owned()))?;
        key?.decrypts(&token)
    };
    match read() {
        Ok(()) => SecretVerdict::Proved { mechanism: None },
        Err(Unusable::Malformed(why)) => SecretVerdict::unreadable(format!("cypher_text {why}")),
        Err(Unusable::Refused(why)) => SecretVerdict::unreadable(format!("cypher_text: {why}")),
    }
}

fn ciphertext(secret: &SecretRow) -> Result<Vec<u8>, String> {
    match secret.cypher_text.as_deref() {
        None => Err("is null".to_owned()),
        Some(text) if is_hex_text(text) => Err(HEX_TEXT.to_owned()),
        Some(text) => decode_base64(text),
    }
}

/// What the token is to decrypt, out of both rows.
fn p11_payload(
    secret: &SecretRow,
    kek: &KekRow,
    candidates: &[DataMechanism],
) -> Result<(hsm::WrappedKek, Ciphertext), String> {
    let kek_meta = KekMeta::parse(kek.plugin_meta.as_deref().unwrap_or_default())
        .map_err(|why| format!("KEK {}: plugin_meta: {why}", kek.id))?;
    let meta = secret.kek_meta_extended.as_deref().ok_or("kek_meta_extended is null")?;
    let meta = SecretMeta::parse(meta).map_err(|why| format!("kek_meta_extended: {why}"))?;
    let data = ciphertext(secret).map_err(|why| format!("cypher_text {why}"))?;
    let mechanisms = meta.mechanism.map_or_else(|| candidates.to_vec(), |mechanism| vec![mechanism]);
    if mechanisms.is_empty() {
        return Err("it records no mechanism, and none to try is known".to_owned());
    }
    Ok((kek_meta.kek, Ciphertext { iv: meta.iv, data, mechanisms }))
}

/// The `kek_meta_extended` of a p11 secret with the mechanism recorded, which 7.0.0 and later
/// demand; `None` when it has one already.
///
/// # Errors
/// The text is not what p11_crypto writes.
pub fn with_mechanism(secret: &MetaRow, mechanism: DataMechanism) -> Result<Option<String>> {
    let of = || format!("kek_meta_extended of encrypted datum {}", secret.id);
    let text = secret.kek_meta_extended.as_deref().with_context(|| format!("{} is null", of()))?;
    let meta = SecretMeta::parse(text).map_err(|why| anyhow::anyhow!("{}: {why}", of()))?;
    if meta.mechanism.is_some() {
        return Ok(None);
    }
    meta.with_mechanism(mechanism).map(Some).with_context(of)
}

/// The mechanism that the `kek_meta_extended` of a p11 secret names; `None` if it names none.
#[must_use]
pub fn recorded_mechanism(kek_meta_extended: Option<&str>) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(kek_meta_extended?).ok()?;
    Some(value.get("mechanism")?.as_str()?.to_owned())
}
