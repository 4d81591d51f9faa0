//! What parent and child say to each other: one JSON object a line, answers in the order asked.

use serde::{Deserialize, Serialize};

use super::{Ciphertext, Fit, HmacKeyType, HmacMechanism, Identity, Proof, Selector, TokenInfo, WrappedKek};

/// Asked of the child. Not `Debug`: the first one carries the PIN.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    Open(Open),
    Fit {
        label: String,
        over: Vec<Text>,
        #[serde(with = "bytes")]
        signature: Vec<u8>,
    },
    Prove {
        kek: WrappedKek,
        secret: Ciphertext,
    },
}

/// Bytes in a list.
#[derive(Serialize, Deserialize)]
pub(super) struct Text(#[serde(with = "bytes")] pub(super) Vec<u8>);

/// The first request, once: load the module, choose the token, log in.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Open {
    pub(super) module: std::path::PathBuf,
    pub(super) pin: String,
    pub(super) token: Selector,
    pub(super) rw_session: bool,
    pub(super) os_locking_ok: bool,
    pub(super) hmac_key_type: HmacKeyType,
    pub(super) hmac_mechanism: HmacMechanism,
    /// Who the child must have become for good before it loads anything.
    pub(super) identity: Option<Identity>,
    /// The child ends itself when one call takes longer, should its parent be gone.
    pub(super) alarm_seconds: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.pin);
    }
}

impl Request {
    /// What is being done, for an error: "signing with key \"my_hmac_label\"".
    pub(super) fn doing(&self) -> String {
        match self {
            Self::Open(_) => "opening the token".to_owned(),
            Self::Fit { label, .. } => format!("verifying with key {label:?}"),
            Self::Prove { kek, .. } => {
                format!("decrypting under a KEK wrapped by key {:?}", kek.mkek_label)
            }
        }
    }
}

/// The child's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Reply {
    /// `more`: how many sessions besides the token has room for; none where it does not say.
    Opened {
        token: TokenInfo,
        more: u64,
    },
    Fit {
        fit: Fit,
    },
    Proof {
        proof: Proof,
    },
    Failed {
        failure: Failure,
    },
}

/// Why there is no answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Failure {
    NotLoaded { why: String },
    NoToken { wanted: String, present: Vec<String> },
    PinRefused { token: String, ckr: String },
    PinAtRisk { token: String, why: String },
    KeyAmbiguous { label: String },
    Ckr { function: String, ckr: String },
    Other { why: String },
}

/// Bytes as base64.
pub(super) mod bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in super::super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

/// Bytes as base64, or null.
pub(super) mod optional_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "the shape serde asks for")]
    pub(in super::super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| STANDARD.encode(bytes)).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| STANDARD.decode(text).map_err(D::Error::custom)).transpose()
    }
}
