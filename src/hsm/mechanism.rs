//! The names Barbican uses for PKCS#11 mechanisms and key types, with their numbers.
//!
//! Barbican writes these names into its rows and its configuration, so they are the text form here
//! too. Names and numbers are those of `barbican/plugin/crypto/pkcs11.py`, 7.0.0 to 23.0.0.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A closed set of names, each with the number PKCS#11 knows it by.
macro_rules! names {
    ($(#[$meta:meta])* $set:ident, $what:literal,
     $($(#[$variant_meta:meta])* $variant:ident = $name:literal $number:literal,)+) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $set {
            $($(#[$variant_meta])* #[serde(rename = $name)] $variant,)+
        }

        impl $set {
            /// All of them, in the order of their declaration.
            pub const ALL: &[$set] = &[$($set::$variant,)+];

            /// The name in Barbican's rows and options.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($set::$variant => $name,)+ }
            }

            /// The PKCS#11 number.
            pub(super) fn number(self) -> std::ffi::c_ulong {
                match self { $($set::$variant => $number,)+ }
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $set {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|known| known.name() == name).ok_or_else(|| {
                    UnknownName {
                        what: $what,
                        name: name.to_owned(),
                        known: Self::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", "),
                    }
                })
            }
        }
    };
}

/// A name that no Barbican knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no {what} of barbican (known: {known})")]
pub struct UnknownName {
    what: &'static str,
    name: String,
    known: String,
}

names! {
    /// How a secret's payload is encrypted: `encryption_mechanism` (`algorithm` before 7.0.0), and
    /// `mechanism` of `kek_meta_extended`.
    DataMechanism, "encryption mechanism",
    /// SafeNet's own number for GCM, the default up to 6.0.1 and hard-coded up to Liberty.
    SafenetAesGcm = "VENDOR_SAFENET_CKM_AES_GCM" 0x8000_011c,
    /// AES-GCM: the tag proves that key, iv and ciphertext belong together.
    AesGcm = "CKM_AES_GCM" 0x1087,
    /// AES-CBC with PKCS#7 padding done by Barbican.
    AesCbc = "CKM_AES_CBC" 0x1082,
}

impl DataMechanism {
    /// Whether a decryption proves the payload. GCM carries a tag of 128 bits. CBC has none: all
    /// that can be checked is the padding, which random bytes pass once in 255 times, and damage
    /// before the last two blocks is not seen at all.
    #[must_use]
    pub fn is_authenticated(self) -> bool {
        match self {
            Self::SafenetAesGcm | Self::AesGcm => true,
            Self::AesCbc => false,
        }
    }
}

names! {
    /// How a project KEK is wrapped by the master key: `key_wrap_mechanism`.
    WrapMechanism, "key wrap mechanism",
    /// The only one before 20.0.0.
    AesCbcPad = "CKM_AES_CBC_PAD" 0x1085,
    /// AES key wrap with padding.
    AesKeyWrapPad = "CKM_AES_KEY_WRAP_PAD" 0x210a,
    /// AES key wrap with padding as NIST SP 800-38F has it.
    AesKeyWrapKwp = "CKM_AES_KEY_WRAP_KWP" 0x210b,
}

names! {
    /// How wrapped KEKs are signed: `hmac_mechanism` (`hmac_keywrap_mechanism` before 20.0.0).
    HmacMechanism, "HMAC mechanism",
    /// The default, and the only one before 8.0.0.
    Sha256Hmac = "CKM_SHA256_HMAC" 0x251,
    /// AES in MAC mode.
    AesMac = "CKM_AES_MAC" 0x1083,
}

names! {
    /// The type under which the HMAC key is looked up: `hmac_key_type`.
    HmacKeyType, "HMAC key type",
    /// The default, and the only one before 7.0.0.
    Aes = "CKK_AES" 0x1f,
    /// What SoftHSM2 and several others sign with.
    GenericSecret = "CKK_GENERIC_SECRET" 0x10,
    /// A key type of its own, in some tokens.
    Sha256Hmac = "CKK_SHA256_HMAC" 0x2b,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_themselves() {
        for mechanism in DataMechanism::ALL {
            assert_eq!(mechanism.name().parse::<DataMechanism>().as_ref(), Ok(mechanism));
            let json = serde_json::to_string(mechanism).unwrap();
            assert_eq!(json, format!("{:?}", mechanism.name()));
        }
        assert_eq!("CKM_AES_KEY_WRAP_KWP".parse(), Ok(WrapMechanism::AesKeyWrapKwp));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = "CKM_AES_CTR".parse::<DataMechanism>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"CKM_AES_CTR\" is no encryption mechanism of barbican \
             (known: VENDOR_SAFENET_CKM_AES_GCM, CKM_AES_GCM, CKM_AES_CBC)"
        );
    }

    #[test]
    fn only_gcm_proves_a_payload() {
        assert!(DataMechanism::SafenetAesGcm.is_authenticated());
        assert!(!DataMechanism::AesCbc.is_authenticated());
    }
}
