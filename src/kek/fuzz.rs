//! What is held of any text in the columns of keys and secrets ([`crate::fuzz`]).

use secrecy::SecretString;

use super::meta::{KekMeta, SecretMeta, decode_base64};
use super::{Keys, P11_CRYPTO, SIMPLE_CRYPTO, SimpleKeys, survey as look};
use crate::db::{KekRow, MetaRow, SecretRow, decode_hex_text};
use crate::hsm::DataMechanism;

/// Either JSON text of p11_crypto: what we change of it is all that changes.
pub(crate) fn meta(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = decode_base64(&text);
    if let Ok(meta) = KekMeta::parse(&text) {
        let signed = meta.clone().with_hmac(&meta.hmac).expect("it is written");
        let plain = |text: &str| text.is_ascii() && !text.contains('\n');
        assert!(plain(&signed) || !plain(&text), "as Python writes it");
        let again = KekMeta::parse(&signed).expect("what we write is read");
        assert_eq!((&again.kek, &again.hmac), (&meta.kek, &meta.hmac), "nothing else changes");
        assert_eq!(again.hmac_label, meta.hmac_label);
        assert_eq!(again.clone().with_hmac(&again.hmac).ok(), Some(signed), "twice is once");
        assert_eq!(again.signed_data(), meta.signed_data());
        let other = meta.clone().with_hmac(&[1, 2, 3]).ok().and_then(|text| KekMeta::parse(&text).ok());
        assert!(other.is_some_and(|other| other.hmac == [1, 2, 3] && other.kek == meta.kek));
    }
    if let Ok(meta) = SecretMeta::parse(&text) {
        let named = meta.with_mechanism(DataMechanism::AesGcm).expect("it is written");
        let again = SecretMeta::parse(&named).expect("what we write is read");
        assert!(again.iv == meta.iv && again.mechanism == Some(DataMechanism::AesGcm));
        assert_eq!(again.with_mechanism(DataMechanism::AesGcm).ok(), Some(named), "twice is once");
    }
}

/// Rows with hostile columns: choice of the plugin, then `plugin_meta`, `cypher_text` and `kek_meta_extended` with zeros in between.
pub(crate) fn survey(data: &[u8]) {
    let (choice, rest) = data.split_first().map_or((0, data), |(first, rest)| (*first, rest));
    let mut parts = rest.splitn(3, |b| *b == 0).map(|part| Some(String::from_utf8_lossy(part).into_owned()));
    let mut part = || parts.next().flatten();
    let plugin_name = [P11_CRYPTO, SIMPLE_CRYPTO, "other"].into_iter().cycle().nth(usize::from(choice % 3));
    let kek = KekRow {
        id: "k".to_owned(),
        plugin_name: plugin_name.unwrap_or_default().to_owned(),
        project_id: "p".to_owned(),
        deleted: false,
        active: true,
        plugin_meta: part(),
    };
    let secret = SecretRow {
        id: "e".to_owned(),
        secret_id: "s".to_owned(),
        kek_id: if choice < 200 { "k".to_owned() } else { "gone".to_owned() },
        deleted: false,
        cypher_text: part(),
        kek_meta_extended: part(),
    };
    if let Some(Ok(plain)) = secret.cypher_text.as_deref().map(decode_hex_text) {
        assert!(plain.is_ascii() && !plain.chars().any(char::is_control), "{plain:?}");
    }
    let key = SecretString::from("YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=");
    let simple = SimpleKeys::new(vec![key]).expect("a key");
    let mut keys = Keys { hsm: None, simple: Some(simple), candidates: vec![DataMechanism::AesCbc] };
    let seen = look(std::slice::from_ref(&kek), std::slice::from_ref(&secret), &mut keys).expect("no token is asked");
    let (keks, secrets) = (seen.find_keks(&["k"]).expect("it is read"), seen.find_secrets(&["e"]).expect("it is read"));
    assert_eq!((keks.len(), secrets.len()), (1, 1), "every row is told of");
    let counts = (seen.kek_counts().len(), seen.secret_counts().len());
    assert_eq!(counts, (1, 1), "every row is counted");
    assert_eq!(seen.lost_since(&seen).expect("it is read"), (0, Vec::new()), "what is the same is not lost");
    seen.each_bad_kek(drop).and_then(|()| seen.each_bad_secret(|_| Ok(true))).expect("it is read");
    let words = format!("{:?}", secrets.values().map(ToString::to_string).collect::<Vec<_>>());
    // Shown with `--verbose`: nothing of the ciphertext may be in it.
    let shown = secret.cypher_text.as_deref().filter(|text| text.len() > 12).is_some_and(|text| words.contains(text));
    assert!(!shown, "{words}");
    let SecretRow { id, secret_id, kek_meta_extended, .. } = secret;
    let _ = super::with_mechanism(&MetaRow { id, secret_id, kek_meta_extended }, DataMechanism::AesGcm);
}
