//! The simple_crypto plugin: a Fernet key in the configuration encrypts one Fernet key a project,
//! which encrypts the project's secrets.

use anyhow::{Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fernet::Fernet;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::meta::HEX_TEXT;
use crate::db::is_hex_text;

/// Fernet tokens carry the time they were made, and the crate refuses one from the future. Barbican
/// does not look at it, and a wrong clock must not make a secret unreadable: so the clock is
/// taken to be at its end, with room for the tolerance the crate adds.
const NO_CLOCK: u64 = u64::MAX / 2;
/// Version, time and iv before, HMAC after the ciphertext of a token.
const TOKEN_FRAME: usize = 1 + 8 + 16 + 32;

/// The `kek` values of `[simple_crypto_plugin]`.
#[derive(Clone)]
pub struct SimpleKeys {
    keys: Vec<Fernet>,
}

impl std::fmt::Debug for SimpleKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimpleKeys({})", self.keys.len())
    }
}

impl SimpleKeys {
    /// Takes the keys that Barbican would use: from 20.0.0 on every `kek` line, in order; before,
    /// only the last one, since oslo.config lets the last line of a single-valued option win.
    /// A key is base64 of 32 bytes, in either alphabet, as Python's decoder takes both.
    ///
    /// # Errors
    /// No key, or one that is none; its number is named, never its value.
    #[expect(clippy::needless_pass_by_value, reason = "the secrets end here")]
    pub fn new(keks: Vec<SecretString>) -> Result<Self> {
        if keks.is_empty() {
            bail!("no kek is set in [simple_crypto_plugin]");
        }
        let mut keys = Vec::new();
        for (number, kek) in keks.iter().enumerate() {
            let Some(key) = Fernet::new(&url_safe(kek.expose_secret())) else {
                bail!("kek number {} in [simple_crypto_plugin] is not base64 of 32 bytes", number + 1);
            };
            keys.push(key);
        }
        Ok(Self { keys })
    }

    /// The project's key out of `plugin_meta`.
    pub(super) fn project_key(&self, plugin_meta: &str) -> Result<ProjectKey, Unusable> {
        check_shape(plugin_meta)?;
        let token = url_safe(plugin_meta);
        let key = self
            .keys
            .iter()
            .find_map(|key| key.decrypt_at_time(&token, None, NO_CLOCK).ok().map(Zeroizing::new))
            .ok_or_else(|| Unusable::Refused("no kek of [simple_crypto_plugin] decrypts it".to_owned()))?;
        std::str::from_utf8(&key)
            .ok()
            .and_then(|key| Fernet::new(&url_safe(key)))
            .map(ProjectKey)
            .ok_or_else(|| Unusable::Malformed("decrypts to something that is no Fernet key".to_owned()))
    }
}

/// The key of one project.
pub(super) struct ProjectKey(Fernet);

impl ProjectKey {
    /// Whether the token decrypts.
    pub(super) fn decrypts(&self, token: &str) -> Result<(), Unusable> {
        check_shape(token)?;
        match self.0.decrypt_at_time(&url_safe(token), None, NO_CLOCK).map(Zeroizing::new) {
            Ok(_) => Ok(()),
            Err(_) => Err(Unusable::Refused("the key of its project does not decrypt it".to_owned())),
        }
    }
}

/// Why a token is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is not what it should be.
    Malformed(String),
    /// It is, but the key does not fit.
    Refused(String),
}

/// Whether the text is a Fernet token at all.
fn check_shape(text: &str) -> Result<(), Unusable> {
    if is_hex_text(text) {
        return Err(Unusable::Malformed(HEX_TEXT.to_owned()));
    }
    let token = url_safe(text);
    let token = URL_SAFE_NO_PAD.decode(token.trim_end_matches('='));
    match token {
        Ok(token)
            if token.first() == Some(&0x80)
                && token.len() > TOKEN_FRAME
                && (token.len() - TOKEN_FRAME).is_multiple_of(16) =>
        {
            Ok(())
        }
        _ => Err(Unusable::Malformed("is not a Fernet token".to_owned())),
    }
}

/// The text as Python's `urlsafe_b64decode` understands it: both alphabets, all else skipped.
fn url_safe(text: &str) -> Zeroizing<String> {
    let mut safe = Zeroizing::new(String::with_capacity(text.len()));
    safe.extend(text.chars().filter_map(|c| match c {
        '+' => Some('-'),
        '/' => Some('_'),
        '-' | '_' | '=' => Some(c),
        c => c.is_ascii_alphanumeric().then_some(c),
    }));
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=";
    const OTHER: &str = "dGhpcnR5X3R3b19ieXRlX2tleWJsYWhibGFoYmxhaGg=";

    fn keys(texts: &[&str]) -> Result<SimpleKeys> {
        SimpleKeys::new(texts.iter().map(|&text| SecretString::from(text)).collect())
    }

    #[test]
    fn any_of_several_keys_opens_a_project_key() {
        let project = Fernet::generate_key();
        let meta = Fernet::new(OTHER).unwrap().encrypt(project.as_bytes());
        let secret = Fernet::new(&project).unwrap().encrypt(b"payload");
        let key = keys(&[KEY, OTHER]).unwrap().project_key(&meta).ok().unwrap();
        assert_eq!(key.decrypts(&secret), Ok(()));
        assert!(matches!(keys(&[KEY]).unwrap().project_key(&meta), Err(Unusable::Refused(_))));
    }

    #[test]
    fn a_token_from_the_future_is_read_as_barbican_reads_it() {
        let future = Fernet::new(KEY).unwrap().encrypt_at_time(OTHER.as_bytes(), u64::MAX / 4);
        assert!(Fernet::new(KEY).unwrap().decrypt(&future).is_err());
        assert!(keys(&[KEY]).unwrap().project_key(&future).is_ok());
    }

    #[test]
    fn keys_are_read_in_both_alphabets_and_named_by_number_only() {
        assert!(keys(&["+/ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmno="]).is_ok());
        assert!(keys(&["-_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmno=\n"]).is_ok());
        let error = keys(&[KEY, "hunter2"]).unwrap_err();
        assert_eq!(error.to_string(), "kek number 2 in [simple_crypto_plugin] is not base64 of 32 bytes");
        assert!(keys(&[]).is_err());
        assert_eq!(format!("{:?}", keys(&[KEY]).unwrap()), "SimpleKeys(1)");
    }

    #[test]
    fn malformed_is_told_from_refused() {
        let keys = keys(&[KEY]).unwrap();
        for text in ["", "gAAAA", "\\x674141414141", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(matches!(keys.project_key(text), Err(Unusable::Malformed(_))), "{text}");
        }
        let no_key = Fernet::new(KEY).unwrap().encrypt(b"not a key");
        assert!(matches!(keys.project_key(&no_key), Err(Unusable::Malformed(_))));
    }
}
