//! The JSON texts of the p11_crypto plugin: `kek_data.plugin_meta` and
//! `encrypted_data.kek_meta_extended`.

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::hsm::{DataMechanism, WrapMechanism, WrappedKek};

/// Python's decoder accepts stray bits after the last byte, so must we.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// A JSON object, of which what is not ours stays as it is written: a number, for one, may be larger than any type of ours.
type Object = IndexMap<String, Box<RawValue>>;

/// `plugin_meta` of a p11_crypto KEK.
#[derive(Debug, Clone)]
pub(super) struct KekMeta {
    pub(super) kek: WrappedKek,
    pub(super) hmac: Vec<u8>,
    pub(super) hmac_label: String,
    /// The whole object, keys that are not ours and the order of all included.
    object: Object,
}

impl KekMeta {
    /// Reads the text; the error says what is wrong with it, without quoting it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let object = object(text)?;
        let iv = match object.get("iv") {
            None => return Err("iv is missing".to_owned()),
            Some(value) if value.get() == "null" => None,
            Some(_) => Some(bytes(&object, "iv")?),
        };
        let mechanism = match object.get("key_wrap_mechanism") {
            None => WrapMechanism::AesCbcPad, // the only one before 20.0.0, which never says so
            Some(_) => string(&object, "key_wrap_mechanism")?
                .parse()
                .map_err(|error| format!("key_wrap_mechanism: {error}"))?,
        };
        Ok(Self {
            kek: WrappedKek {
                mkek_label: string(&object, "mkek_label")?,
                mechanism,
                iv,
                wrapped_key: bytes(&object, "wrapped_key")?,
            },
            hmac: bytes(&object, "hmac")?,
            hmac_label: string(&object, "hmac_label")?,
            object,
        })
    }

    /// What Mitaka and later sign: iv and wrapped key; without iv, the wrapped key alone.
    pub(super) fn signed_data(&self) -> Vec<u8> {
        let mut data = self.kek.iv.clone().unwrap_or_default();
        data.extend(&self.kek.wrapped_key);
        data
    }

    /// The text with another signature, everything else kept, as Mitaka and later write it.
    pub(super) fn with_hmac(mut self, hmac: &[u8]) -> Result<String, serde_json::Error> {
        self.object.insert("hmac".to_owned(), to_raw_value(&BASE64.encode(hmac))?);
        compact(&self.object)
    }
}

/// `kek_meta_extended` of a p11_crypto secret.
#[derive(Debug, Clone)]
pub(super) struct SecretMeta {
    pub(super) iv: Vec<u8>,
    /// Missing in what was written before 7.0.0.
    pub(super) mechanism: Option<DataMechanism>,
    object: Object,
}

impl SecretMeta {
    /// Reads the text; the error says what is wrong with it, without quoting it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let object = object(text)?;
        let mechanism = match object.get("mechanism") {
            None => None,
            Some(_) => Some(string(&object, "mechanism")?.parse().map_err(|error| format!("mechanism: {error}"))?),
        };
        Ok(Self { iv: bytes(&object, "iv")?, mechanism, object })
    }

    /// The text with the mechanism added.
    pub(super) fn with_mechanism(&self, mechanism: DataMechanism) -> Result<String, serde_json::Error> {
        let mut object = self.object.clone();
        object.insert("mechanism".to_owned(), to_raw_value(mechanism.name())?);
        compact(&object)
    }
}

/// Said of [`is_hex_text`].
pub(super) const HEX_TEXT: &str =
    "is hexadecimal text, as barbican on Python 3 leaves it in PostgreSQL and cannot read it back";

/// Decodes base64 as Python's `b64decode` does: characters outside of the alphabet, line ends for
/// one, are skipped.
pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    // Nearly all are as they should be, and are read in a fraction of the time.
    if let Ok(bytes) = BASE64.decode(text) {
        return Ok(bytes);
    }
    let known = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let text: String = text.chars().filter(known).collect();
    BASE64.decode(text).map_err(|_| "is not base64".to_owned())
}

fn object(text: &str) -> Result<Object, String> {
    let whole: &RawValue = serde_json::from_str(text)
        .map_err(|error| format!("is not JSON (line {}, column {})", error.line(), error.column()))?;
    serde_json::from_str(whole.get()).map_err(|_| "is not a JSON object".to_owned())
}

fn string(object: &Object, key: &str) -> Result<String, String> {
    let value = object.get(key).ok_or_else(|| format!("{key} is missing"))?;
    serde_json::from_str(value.get()).map_err(|_| format!("{key} is not a string"))
}

fn bytes(object: &Object, key: &str) -> Result<Vec<u8>, String> {
    decode_base64(&string(object, key)?).map_err(|why| format!("{key} {why}"))
}

/// JSON as `json.dumps(data, separators=(',', ':'))` writes it: no spaces, ASCII only.
fn compact(object: &Object) -> Result<String, serde_json::Error> {
    let mut text = Vec::new();
    object.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Ascii))?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// Writes strings as Python does by default: everything beyond printable ASCII escaped.
struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
            let (plain, other) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = other.get(c.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBERTY: &str = r#"{"mkek_label": "an_mkek", "hmac_label": "my_hmac_label", "wrapped_key": "AQID", "hmac": "BAUG", "iv": "BwgJ"}"#;

    #[test]
    fn liberty_text_is_read_and_keeps_its_order() {
        let meta = KekMeta::parse(LIBERTY).unwrap();
        assert_eq!(meta.kek.mechanism, WrapMechanism::AesCbcPad);
        assert_eq!(meta.signed_data(), [7, 8, 9, 1, 2, 3]);
        assert_eq!(
            meta.with_hmac(&[0xff, 0xfe]).unwrap(),
            r#"{"mkek_label":"an_mkek","hmac_label":"my_hmac_label","wrapped_key":"AQID","hmac":"//4=","iv":"BwgJ"}"#
        );
    }

    #[test]
    fn unknown_keys_and_non_ascii_labels_survive_as_python_writes_them() {
        let text = r#"{"iv":null,"wrapped_key":"AQID","hmac":"","mkek_label":"cl\u00e9 \ud83d\udd11 \u007f\n\"\\/","hmac_label":"h","key_wrap_mechanism":"CKM_AES_KEY_WRAP_PAD","note":{"b":1,"a":[true,1.5]}}"#;
        let meta = KekMeta::parse(text).unwrap();
        assert_eq!(meta.kek.mkek_label, "cl\u{e9} \u{1f511} \u{7f}\n\"\\/");
        assert_eq!(meta.kek.iv, None);
        assert_eq!(meta.signed_data(), [1, 2, 3]);
        assert_eq!(meta.with_hmac(&[]).unwrap(), text);
    }

    #[test]
    fn numbers_that_are_not_ours_stay_as_they_are() {
        for number in ["-33333333333333333333333333333333333333333333333333", "1e999", "0.10000000000000000001"] {
            let text = format!(r#"{{"iv":"AQ==","n":{number},"o":{{"n":{number}}}"#);
            let meta = SecretMeta::parse(&format!("{text}}}")).unwrap();
            let named = meta.with_mechanism(DataMechanism::AesGcm).unwrap();
            assert_eq!(named, format!("{text},\"mechanism\":\"CKM_AES_GCM\"}}"));
        }
    }

    #[test]
    fn what_is_malformed_is_named_and_not_quoted() {
        let cases = [
            ("", "is not JSON (line 1, column 0)"),
            ("[]", "is not a JSON object"),
            ("{\"iv\":\"AQID\"", "is not JSON (line 1, column 12)"),
            ("{}", "iv is missing"),
            (r#"{"iv":7}"#, "iv is not a string"),
            (r#"{"iv":"A"}"#, "iv is not base64"),
            (r#"{"iv":null}"#, "mkek_label is missing"),
            (r#"{"iv":null,"mkek_label":"m","wrapped_key":null}"#, "wrapped_key is not a string"),
            (r#"{"iv":null,"mkek_label":"m","wrapped_key":"AQID"}"#, "hmac is missing"),
            (r#"{"iv":null,"mkek_label":"m","wrapped_key":"AQID","hmac":"AQID"}"#, "hmac_label is missing"),
            (
                r#"{"iv":null,"key_wrap_mechanism":"CKM_RSA_PKCS"}"#,
                "key_wrap_mechanism: \"CKM_RSA_PKCS\" is no key wrap mechanism of barbican (known: CKM_AES_CBC_PAD, CKM_AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP_KWP)",
            ),
        ];
        for (text, why) in cases {
            assert_eq!(KekMeta::parse(text).unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn the_mechanism_is_added_at_the_end() {
        let meta = SecretMeta::parse(r#"{"iv": "AQID"}"#).unwrap();
        assert_eq!(meta.mechanism, None);
        let text = meta.with_mechanism(DataMechanism::SafenetAesGcm).unwrap();
        assert_eq!(text, r#"{"iv":"AQID","mechanism":"VENDOR_SAFENET_CKM_AES_GCM"}"#);
        assert_eq!(SecretMeta::parse(&text).unwrap().mechanism, Some(DataMechanism::SafenetAesGcm));
        assert!(SecretMeta::parse(r#"{"iv":"AQID","mechanism":null}"#).is_err());
    }

    #[test]
    fn base64_is_read_as_python_reads_it() {
        assert_eq!(decode_base64("AQ\nID\n").unwrap(), [1, 2, 3]);
        assert_eq!(decode_base64("AR==").unwrap(), [1]);
        assert!(decode_base64("AQI").is_err());
    }
}
