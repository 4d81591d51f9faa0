//! The token, keys and secrets, against a real SoftHSM2 and the genuine Liberty fixture.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymgr_upgrade::{
    command,
    db::{KekRow, MetaRow, SecretRow},
    files::Root,
    hsm::{self, Config, DataMechanism, Error, HmacKeyType, HmacMechanism, Hsm, Identity, Selector, Sessions},
    kek::{
        self, Count, Keys, Lost, Questions, SecretVerdict, SimpleKeys, Survey, Verdict, judge, judge_all, prove, survey,
    },
};
use nix::unistd::{Gid, Uid, chown, geteuid};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

const PIN: &str = "1234";
const SIMPLE_KEY: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=";
const CANDIDATES: [DataMechanism; 3] = [DataMechanism::SafenetAesGcm, DataMechanism::AesGcm, DataMechanism::AesCbc];

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

fn softhsm() -> PathBuf {
    let usual = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    usual.iter().map(PathBuf::from).find(|path| path.exists()).expect("SoftHSM2 is installed")
}

/// The test module, built once a run.
fn shim() -> PathBuf {
    static BUILT: OnceLock<TempDir> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let makefile = source("p11shim").display().to_string();
        command::run(&["make", "-s", "-C", &makefile, &format!("OUT={}", dir.path().display())], &[]).unwrap();
        dir
    });
    dir.path().join("libp11shim.so")
}

/// The fixture's token in a directory of its own.
struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        let archive = source("fixtures/liberty/softhsm-tokens.tgz").display().to_string();
        command::run(&["tar", "-xzf", &archive, "-C", &at], &[]).unwrap();
        let tokens = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let lines =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        fs::write(dir.path().join("softhsm2.conf"), lines).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// SoftHSM2 itself, as Barbican 20.0.0 would be configured for it.
    fn plain(&self) -> Config {
        Config {
            worker: PathBuf::from(env!("CARGO_BIN_EXE_keymgr-upgrade")),
            module: softhsm(),
            pin: SecretString::from(PIN),
            token: Selector { labels: vec!["liberty".to_owned()], ..Selector::default() },
            rw_session: true,
            os_locking_ok: false,
            hmac_key_type: HmacKeyType::GenericSecret,
            hmac_mechanism: HmacMechanism::Sha256Hmac,
            identity: None,
            environment: vec![("SOFTHSM2_CONF".into(), self.path("softhsm2.conf").into())],
            timeout: Duration::from_secs(20),
            sessions: Sessions::Auto,
        }
    }

    /// A token as Liberty knew it, with more environment.
    fn liberty(&self, more: &[(&str, &str)]) -> Config {
        let mut config = self.plain();
        config.module = shim();
        config.hmac_key_type = HmacKeyType::Aes;
        let more = [("P11SHIM_LIBERTY", "1")].iter().chain(more);
        config.environment.extend(more.map(|(name, value)| (OsString::from(name), OsString::from(value))));
        config
    }

    fn keys(&self, config: &Config) -> Keys {
        Keys {
            hsm: Some(Hsm::spawn(config).unwrap()),
            simple: Some(SimpleKeys::new(vec![SecretString::from(SIMPLE_KEY)]).unwrap()),
            candidates: CANDIDATES.to_vec(),
        }
    }

    /// The second opinion: `tests/p11shim/p11.py`.
    fn python(&self, module: &Path, arguments: &[&str]) -> String {
        let script = source("p11shim/p11.py").display().to_string();
        let module = module.display().to_string();
        let mut argv = vec!["python3", &script, &module, "liberty", PIN];
        argv.extend(arguments);
        let conf = self.path("softhsm2.conf").display().to_string();
        command::run(&argv, &[("SOFTHSM2_CONF", &conf), ("P11SHIM_LIBERTY", "1")]).unwrap()
    }

    /// A KEK and secrets made by Python.
    fn record(&self, module: &Path, wrap: &str, signed: &str, secrets: &[(&str, u8, &str)]) -> (KekRow, Vec<Value>) {
        let options =
            json!({"mkek": "an_mkek", "hmac": "my_hmac_label", "wrap": wrap, "signed": signed, "secrets": secrets});
        let made: Value = serde_json::from_str(&self.python(module, &["record", &options.to_string()])).unwrap();
        (p11_row(made["plugin_meta"].as_str().unwrap()), made["secrets"].as_array().unwrap().clone())
    }
}

/// How many KEKs and secrets are bad.
fn bad(survey: &Survey) -> (usize, usize) {
    let (mut keks, mut secrets) = (0, 0);
    survey.each_bad_kek(|_| keks += 1).unwrap();
    let count = |_| {
        secrets += 1;
        Ok(true)
    };
    survey.each_bad_secret(count).unwrap();
    assert_eq!(keks, survey.bad_kek_count());
    (keks, secrets)
}

/// The text of an old row, signed anew.
fn resign(row: &KekRow, keys: &mut Keys) -> anyhow::Result<String> {
    let questions = Questions::about(std::slice::from_ref(row), keys.hsm.is_some(), keys.simple.as_ref());
    questions.ask(keys.hsm.as_mut())?.remove(0).renewed(row)
}

fn p11_row(plugin_meta: &str) -> KekRow {
    KekRow {
        id: "kek".to_owned(),
        plugin_name: kek::P11_CRYPTO.to_owned(),
        project_id: "project".to_owned(),
        deleted: false,
        active: true,
        plugin_meta: Some(plugin_meta.to_owned()),
    }
}

/// The row of a secret made by Python; with or without its mechanism recorded.
fn secret_row(made: &Value, recorded: bool) -> SecretRow {
    let mut meta = json!({"iv": made["iv"]});
    if recorded {
        meta["mechanism"] = made["mechanism"].clone();
    }
    SecretRow {
        id: "datum".to_owned(),
        secret_id: "secret".to_owned(),
        kek_id: "kek".to_owned(),
        deleted: false,
        cypher_text: made["cypher_text"].as_str().map(str::to_owned),
        kek_meta_extended: Some(meta.to_string()),
    }
}

fn fixture() -> (Vec<KekRow>, Vec<SecretRow>) {
    #[expect(clippy::disallowed_methods, reason = "reads the fixture as it is")]
    let db = rusqlite::Connection::open_with_flags(
        source("fixtures/liberty/liberty.sqlite"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let mut query =
        db.prepare("SELECT id, plugin_name, project_id, deleted, active, plugin_meta FROM kek_data").unwrap();
    let keks = query.query_map([], |row| {
        Ok(KekRow {
            id: row.get(0)?,
            plugin_name: row.get(1)?,
            project_id: row.get(2)?,
            deleted: row.get(3)?,
            active: row.get(4)?,
            plugin_meta: row.get(5)?,
        })
    });
    let keks: Vec<_> = keks.unwrap().collect::<Result<_, _>>().unwrap();
    let mut query = db
        .prepare(
            "SELECT d.id, d.secret_id, d.kek_id, d.deleted OR s.deleted, d.cypher_text, d.kek_meta_extended
             FROM encrypted_data d JOIN secrets s ON s.id = d.secret_id",
        )
        .unwrap();
    let secrets = query.query_map([], |row| {
        Ok(SecretRow {
            id: row.get(0)?,
            secret_id: row.get(1)?,
            kek_id: row.get(2)?,
            deleted: row.get(3)?,
            cypher_text: row.get(4)?,
            kek_meta_extended: row.get(5)?,
        })
    });
    let secrets: Vec<_> = secrets.unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!((keks.len(), secrets.len()), (6, 36));
    (keks, secrets)
}

fn p11_keks() -> Vec<KekRow> {
    fixture().0.into_iter().filter(|row| row.plugin_name == kek::P11_CRYPTO).collect()
}

/// The same row with one key of its JSON changed.
fn changed(row: &KekRow, key: &str, value: Value) -> KekRow {
    let mut meta: Value = serde_json::from_str(row.plugin_meta.as_deref().unwrap()).unwrap();
    meta[key] = value;
    KekRow { plugin_meta: Some(meta.to_string()), ..row.clone() }
}

/// The base64 with one bit flipped.
fn flipped(text: &Value, byte: usize) -> Value {
    let mut bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
    bytes[byte] ^= 1;
    json!(STANDARD.encode(bytes))
}

fn meta_of(row: &KekRow) -> Value {
    serde_json::from_str(row.plugin_meta.as_deref().unwrap()).unwrap()
}

fn unreadable(verdict: &SecretVerdict) -> &str {
    let SecretVerdict::Unreadable { why } = verdict else { panic!("{verdict:?}") };
    why
}

#[test]
fn the_fixture_is_judged_on_softhsm_itself() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.plain());
    let token = keys.hsm.as_ref().unwrap().token().clone();
    assert_eq!((token.label.as_str(), token.manufacturer.as_str()), ("liberty", "SoftHSM project"));
    for row in fixture().0 {
        let expected = if row.plugin_name == kek::P11_CRYPTO { Verdict::Old } else { Verdict::Good };
        assert_eq!(judge(&row, &mut keys).unwrap(), expected, "{}", row.id);
    }
}

#[test]
fn a_new_signature_verifies_and_python_agrees() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.plain());
    for row in p11_keks() {
        let text = resign(&row, &mut keys).unwrap();
        let new = KekRow { plugin_meta: Some(text.clone()), ..row.clone() };
        assert_eq!(judge(&new, &mut keys).unwrap(), Verdict::Good);

        // Only the signature changed, in its place, and the spaces are gone.
        let old_hmac = meta_of(&row)["hmac"].as_str().unwrap().to_owned();
        let new_hmac = meta_of(&new)["hmac"].as_str().unwrap().to_owned();
        let expected = row.plugin_meta.as_ref().unwrap().replace(&old_hmac, &new_hmac);
        assert_eq!(text, expected.replace(": ", ":").replace(", ", ","));

        let part = |name: &str| STANDARD.decode(meta_of(&row)[name].as_str().unwrap()).unwrap();
        let signed: String =
            [part("iv"), part("wrapped_key")].concat().iter().map(|byte| format!("{byte:02x}")).collect();
        let python = lab.python(&softhsm(), &["hmac", "my_hmac_label", &signed]);
        let ours: String = STANDARD.decode(new_hmac).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(python.trim(), ours);

        let again = resign(&new, &mut keys).unwrap_err();
        assert_eq!(again.to_string(), format!("KEK {} is good, only an old signature is made anew", row.id));
    }
}

#[test]
fn every_secret_of_the_fixture_is_proved_before_and_after() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.liberty(&[]));
    let (mut keks, mut secrets) = fixture();
    let before = survey(&keks, &secrets, &mut keys).unwrap();
    let count = |live, deleted| Count { live, deleted };
    let counts = |counts: &[(&str, Count)]| counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(before.kek_counts(), &counts(&[("good", count(3, 0)), ("old", count(3, 0))]));
    assert_eq!(before.secret_counts(), &counts(&[("proved", count(30, 6))]));
    assert_eq!(bad(&before), (0, 0));

    for row in keks.iter_mut().filter(|row| row.plugin_name == kek::P11_CRYPTO) {
        row.plugin_meta = Some(resign(row, &mut keys).unwrap());
    }
    let mut recorded = 0;
    for secret in &mut secrets {
        let found = before.find_secrets(&[&secret.id]).unwrap();
        let SecretVerdict::Proved { mechanism } = found[&secret.id] else { panic!() };
        let Some(mechanism) = mechanism else { continue };
        assert_eq!(mechanism, DataMechanism::SafenetAesGcm, "the first candidate that decrypts");
        let row = |secret: &SecretRow| MetaRow {
            id: secret.id.clone(),
            secret_id: secret.secret_id.clone(),
            kek_meta_extended: secret.kek_meta_extended.clone(),
        };
        secret.kek_meta_extended = kek::with_mechanism(&row(secret), mechanism).unwrap();
        assert_eq!(kek::with_mechanism(&row(secret), DataMechanism::AesCbc).unwrap(), None);
        recorded += 1;
    }
    assert_eq!(recorded, 15);

    keys.candidates.clear(); // each record has its own now
    let after = survey(&keks, &secrets, &mut keys).unwrap();
    assert_eq!(after.kek_counts(), &counts(&[("good", count(6, 0))]));
    assert_eq!(after.secret_counts(), &counts(&[("proved", count(30, 6))]));
    assert_eq!(after.lost_since(&before).unwrap(), (0, vec![]));

    // What is kept of it is the same, is ours alone, and holds no ciphertext.
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    for _ in 0..2 {
        after.keep(&root, Path::new("/"), "kept").unwrap();
    }
    let kept = Survey::kept(&root, Path::new("/"), "kept").unwrap();
    assert_eq!(kept.summary(), after.summary());
    assert_eq!((kept.lost_since(&after).unwrap().0, after.lost_since(&kept).unwrap().0), (0, 0));
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["kept.db", "kept.json"]);
    let bytes = fs::read(dir.path().join("kept.db")).unwrap();
    assert_eq!(fs::metadata(dir.path().join("kept.db")).unwrap().permissions().mode() & 0o777, 0o600);
    for secret in &secrets {
        let text = secret.cypher_text.as_deref().unwrap().as_bytes();
        assert!(!bytes.windows(text.len()).any(|part| part == text));
    }
}

#[test]
fn what_a_token_no_longer_decrypts_is_lost() {
    let lab = Lab::new();
    let (keks, mut secrets) = fixture();
    let before = survey(&keks, &secrets, &mut lab.keys(&lab.liberty(&[]))).unwrap();
    let gone = secrets.pop().unwrap();
    // SoftHSM2 itself cannot unwrap these KEKs.
    let mut keys = lab.keys(&lab.plain());
    let after = survey(&keks, &secrets, &mut keys).unwrap();
    let (number, lost) = after.lost_since(&before).unwrap();
    let p11 = |id: &str| keks.iter().any(|kek| kek.id == id && kek.plugin_name == kek::P11_CRYPTO);
    let expected = secrets.iter().filter(|secret| p11(&secret.kek_id)).count() + 1;
    assert_eq!((number, lost.len()), (expected, expected));
    for one in lost {
        let Lost::Secret { id, now, .. } = one else { panic!("{one:?}") };
        match now {
            Some(now) => assert_eq!(unreadable(&now), "C_UnwrapKey: CKR_MECHANISM_INVALID"),
            None => assert_eq!(id, gone.id),
        }
    }
}

#[test]
fn records_of_later_releases_are_proved() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.plain());
    let made = [("CKM_AES_GCM", 12, "a"), ("CKM_AES_GCM", 16, "padded as up to Liberty"), ("CKM_AES_CBC", 16, "chain")];
    let (row, secrets) = lab.record(&softhsm(), "CKM_AES_KEY_WRAP_PAD", "new", &made);
    assert_eq!(meta_of(&row)["iv"], Value::Null);
    // The signature rightly covers the wrapped key alone: this is no old row.
    assert_eq!(judge(&row, &mut keys).unwrap(), Verdict::Good);
    let refused = resign(&row, &mut keys).unwrap_err();
    assert_eq!(refused.to_string(), "KEK kek is good, only an old signature is made anew");
    for made in &secrets {
        let mechanism = made["mechanism"].as_str().unwrap().parse().unwrap();
        for recorded in [true, false] {
            let verdict = prove(&secret_row(made, recorded), &row, &mut keys).unwrap();
            assert_eq!(verdict, SecretVerdict::Proved { mechanism: Some(mechanism) });
        }
    }

    let hsm = keys.hsm.as_mut().unwrap();
    let payload = |made: &Value| hsm::Ciphertext {
        iv: STANDARD.decode(made["iv"].as_str().unwrap()).unwrap(),
        data: STANDARD.decode(made["cypher_text"].as_str().unwrap()).unwrap(),
        mechanisms: CANDIDATES.to_vec(),
    };
    let wrapped = hsm::WrappedKek {
        mkek_label: "an_mkek".to_owned(),
        mechanism: hsm::WrapMechanism::AesKeyWrapPad,
        iv: None,
        wrapped_key: STANDARD.decode(meta_of(&row)["wrapped_key"].as_str().unwrap()).unwrap(),
    };
    for (made, (_, _, text)) in secrets.iter().zip(made) {
        let proof = hsm.prove(&wrapped, &payload(made)).unwrap();
        let hsm::Proof::Readable { len, .. } = proof else { panic!("{proof:?}") };
        assert_eq!(len, text.len());
    }

    // Ivs and mechanisms that SoftHSM2 does not know reach it, and are refused as this record's fault.
    let mut refused = |mechanism, iv: Option<&[u8]>| {
        let kek = hsm::WrappedKek { mechanism, iv: iv.map(<[u8]>::to_vec), ..wrapped.clone() };
        let proof = hsm.prove(&kek, &payload(&secrets[0])).unwrap();
        let hsm::Proof::Refused { ckr } = proof else { panic!("{proof:?}") };
        ckr
    };
    let pad = hsm::WrapMechanism::AesKeyWrapPad;
    assert_eq!(refused(pad, Some(&[7; 8])), "C_UnwrapKey: CKR_ARGUMENTS_BAD");
    assert_eq!(refused(pad, Some(&[7; 5])), "an iv of 5 bytes does not fit CKM_AES_KEY_WRAP_PAD");
    assert_eq!(refused(hsm::WrapMechanism::AesKeyWrapKwp, Some(&[7; 4])), "C_UnwrapKey: CKR_MECHANISM_INVALID");
    assert_eq!(refused(hsm::WrapMechanism::AesCbcPad, None), "C_UnwrapKey: CKR_MECHANISM_INVALID");
}

#[test]
fn records_wrapped_by_cbc_pad_are_proved_both_ways_of_signing() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.liberty(&[]));
    for (signed, expected) in [("old", Verdict::Old), ("new", Verdict::Good)] {
        let made = [("VENDOR_SAFENET_CKM_AES_GCM", 16, "of Liberty"), ("CKM_AES_CBC", 16, "of Rocky")];
        let (row, secrets) = lab.record(&shim(), "CKM_AES_CBC_PAD", signed, &made);
        assert_eq!(judge(&row, &mut keys).unwrap(), expected);
        for made in &secrets {
            let mechanism = made["mechanism"].as_str().unwrap().parse().unwrap();
            let verdict = prove(&secret_row(made, false), &row, &mut keys).unwrap();
            assert_eq!(verdict, SecretVerdict::Proved { mechanism: Some(mechanism) });
        }
    }
}

#[test]
fn tampered_ciphertext_is_unreadable() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.plain());
    let made = [("CKM_AES_GCM", 12, "a payload"), ("CKM_AES_CBC", 16, "a payload")];
    let (row, secrets) = lab.record(&softhsm(), "CKM_AES_KEY_WRAP_PAD", "new", &made);
    let mut gcm = secrets[0].clone();
    gcm["cypher_text"] = flipped(&gcm["cypher_text"], 0);
    let verdict = prove(&secret_row(&gcm, true), &row, &mut keys).unwrap();
    assert!(unreadable(&verdict).starts_with("CKM_AES_GCM: C_Decrypt: CKR_"), "{verdict:?}");
    let verdict = prove(&secret_row(&gcm, false), &row, &mut keys).unwrap();
    assert!(unreadable(&verdict).ends_with("CKM_AES_CBC: an iv of 12 bytes"), "{verdict:?}");
    // The iv is XORed into the first block, which here holds the padding.
    let mut cbc = secrets[1].clone();
    cbc["iv"] = flipped(&cbc["iv"], 15);
    let verdict = prove(&secret_row(&cbc, true), &row, &mut keys).unwrap();
    assert_eq!(unreadable(&verdict), "CKM_AES_CBC: C_Decrypt succeeded, but the padding is wrong");
    // What CBC cannot see, and why it proves less.
    let mut unseen = secrets[1].clone();
    unseen["iv"] = flipped(&unseen["iv"], 0);
    let verdict = prove(&secret_row(&unseen, true), &row, &mut keys).unwrap();
    assert_eq!(verdict, SecretVerdict::Proved { mechanism: Some(DataMechanism::AesCbc) });
    assert!(!DataMechanism::AesCbc.is_authenticated());
}

#[test]
fn key_missing_is_told_from_unreadable() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.liberty(&[]));
    let (keks, secrets) = fixture();
    let row = keks.iter().find(|row| row.plugin_name == kek::P11_CRYPTO).unwrap();
    let secret = secrets.iter().find(|secret| secret.kek_id == row.id).unwrap();
    let meta = meta_of(row);

    let no_hmac = changed(row, "hmac_label", json!("gone"));
    assert_eq!(judge(&no_hmac, &mut keys).unwrap(), Verdict::KeyMissing { label: "gone".to_owned() });
    let verdict = prove(secret, &no_hmac, &mut keys).unwrap();
    assert_eq!(verdict, SecretVerdict::KeyMissing { label: "gone".to_owned() });
    let refused = resign(&no_hmac, &mut keys).unwrap_err().to_string();
    assert!(refused.contains("is key-missing"), "{refused}");

    let no_mkek = changed(row, "mkek_label", json!("gone too"));
    assert_eq!(judge(&no_mkek, &mut keys).unwrap(), Verdict::Old, "the signature does not need that key");
    let verdict = prove(secret, &no_mkek, &mut keys).unwrap();
    assert_eq!(verdict, SecretVerdict::KeyMissing { label: "gone too".to_owned() });

    for (key, byte) in [("hmac", 0), ("wrapped_key", 47)] {
        let tampered = changed(row, key, flipped(&meta[key], byte));
        let why =
            "its signature holds neither over iv and wrapped key nor over the wrapped key, by key \"my_hmac_label\"";
        assert_eq!(judge(&tampered, &mut keys).unwrap(), Verdict::Unreadable { why: why.to_owned() });
        assert!(resign(&tampered, &mut keys).is_err());
        let verdict = prove(secret, &tampered, &mut keys).unwrap();
        assert_eq!(unreadable(&verdict), format!("KEK {}: {why}", row.id));
    }
    // An old signature does not cover the iv; only decrypting shows that it is wrong.
    let tampered = changed(row, "iv", flipped(&meta["iv"], 0));
    assert_eq!(judge(&tampered, &mut keys).unwrap(), Verdict::Old);
    assert!(unreadable(&prove(secret, &tampered, &mut keys).unwrap()).contains("C_Decrypt: CKR_"));

    let short = changed(row, "hmac", json!("c2hvcnQ="));
    let why = "its signature has 5 bytes, not the 32 of CKM_SHA256_HMAC; was hmac_mechanism changed?";
    assert_eq!(judge(&short, &mut keys).unwrap(), Verdict::Unreadable { why: why.to_owned() });
}

#[test]
fn rows_that_no_token_is_asked_about() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.plain());
    let row = p11_keks().remove(0);
    let with = |plugin: &str, meta: Option<&str>| KekRow {
        plugin_name: plugin.to_owned(),
        plugin_meta: meta.map(str::to_owned),
        ..row.clone()
    };
    let not_ours = Verdict::NotOurs { plugin: "site.Plugin".to_owned() };
    let malformed = |why: &str| Verdict::Malformed { why: why.to_owned() };
    let cases = [
        (with(kek::P11_CRYPTO, None), Verdict::Unbound),
        (with(kek::SIMPLE_CRYPTO, Some("")), Verdict::Unbound),
        (with(kek::ICEHOUSE[0], Some("{}")), Verdict::Icehouse),
        (with(kek::ICEHOUSE[1], Some("gAAA")), Verdict::Icehouse),
        (with("site.Plugin", Some("{}")), not_ours),
        (with(kek::P11_CRYPTO, Some("{\"iv\": 1")), malformed("plugin_meta: is not JSON (line 1, column 8)")),
        (with(kek::P11_CRYPTO, Some("{}")), malformed("plugin_meta: iv is missing")),
        (with(kek::SIMPLE_CRYPTO, Some("gAAA")), malformed("plugin_meta is not a Fernet token")),
    ];
    let (rows, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(judge_all(&rows, &mut keys).unwrap(), expected);
    let simple = fixture().0.into_iter().find(|row| row.plugin_name == kek::SIMPLE_CRYPTO).unwrap();
    let other = SimpleKeys::new(vec![SecretString::from("dGhpcnR5X3R3b19ieXRlX2tleWJsYWhibGFoYmxhaGg=")]).unwrap();
    keys.simple = Some(other);
    assert_eq!(judge(&simple, &mut keys).unwrap().name(), "unreadable");
    let not_checked = Verdict::NotChecked { plugin: kek::P11_CRYPTO.to_owned() };
    assert_eq!(judge(&row, &mut Keys::default()).unwrap(), not_checked);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let lab = Lab::new();
    let log = lab.path("calls");
    let mut config = lab.liberty(&[("P11SHIM_LOG", log.to_str().unwrap())]);
    config.pin = SecretString::from("secret-pin");
    let error = Hsm::spawn(&config).unwrap_err();
    assert!(
        matches!(&error, Error::PinRefused { token, ckr } if token == "liberty" && ckr.ends_with("CKR_PIN_INCORRECT"))
    );
    assert!(!format!("{error} {error:?}").contains("secret-pin"));
    let calls = fs::read_to_string(log).unwrap();
    assert_eq!(calls.lines().filter(|line| line.starts_with("C_Login ")).collect::<Vec<_>>(), ["C_Login 0xa0"]);
}

#[test]
fn the_token_is_chosen_as_barbican_chooses() {
    let lab = Lab::new();
    let mut config = lab.plain();
    let token = Hsm::spawn(&config).unwrap().token().clone();
    let labels = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
    let fits = [
        Selector { serial: Some(token.serial.clone()), labels: labels(&["other"]), slot: Some(99) },
        Selector { serial: None, labels: labels(&["other", "liberty"]), slot: Some(99) },
        Selector { serial: None, labels: vec![], slot: Some(token.slot) },
    ];
    for selector in fits {
        config.token = selector;
        assert_eq!(Hsm::spawn(&config).unwrap().token(), &token);
    }
    let misses = [
        (Selector { serial: Some("0".to_owned()), labels: labels(&["liberty"]), slot: None }, "serial number \"0\""),
        (Selector { serial: None, labels: labels(&["a", "b"]), slot: Some(token.slot) }, "label a or b"),
        (Selector { serial: None, labels: vec![], slot: Some(99) }, "slot id 99"),
    ];
    for (selector, words) in misses {
        config.token = selector;
        let error = Hsm::spawn(&config).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("\"liberty\" serial"), "{error}");
    }
    config.token = Selector::default();
    assert!(matches!(Hsm::spawn(&config).unwrap_err(), Error::NoToken { .. }));
}

#[test]
fn a_module_that_is_none_is_named() {
    let lab = Lab::new();
    let mut config = lab.plain();
    config.module = lab.path("missing.so");
    let error = Hsm::spawn(&config).unwrap_err().to_string();
    let expected = format!(
        "cannot use PKCS#11 module {}: cannot open shared object file: No such file or directory; \
         check library_path in [p11_crypto_plugin]",
        config.module.display()
    );
    assert_eq!(error, expected);

    let library = lab.path("library.so");
    command::run(&["cc", "-shared", "-x", "c", "/dev/null", "-o", library.to_str().unwrap()], &[]).unwrap();
    config.module = library;
    let error = Hsm::spawn(&config).unwrap_err().to_string();
    assert!(error.contains("it has no C_GetFunctionList, so it is no PKCS#11 module"), "{error}");

    config.module = lab.path("softhsm2.conf");
    assert!(matches!(Hsm::spawn(&config).unwrap_err(), Error::NotLoaded { .. }));

    config.worker = lab.path("no-worker");
    let error = Hsm::spawn(&config).unwrap_err();
    assert!(matches!(error, Error::NotStarted { .. }) && error.to_string().contains("no-worker"));
}

#[test]
fn two_keys_of_one_label_are_an_error() {
    let lab = Lab::new();
    lab.python(&softhsm(), &["generic", "my_hmac_label"]);
    lab.python(&softhsm(), &["generic", "another"]);
    let mut keys = lab.keys(&lab.plain());
    let row = p11_keks().remove(0);
    let error = judge(&row, &mut keys).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::KeyAmbiguous { label }) if label == "my_hmac_label"));
    // The worker lives on, and a key of another value is told from a missing one.
    let other = changed(&row, "hmac_label", json!("another"));
    assert_eq!(judge(&other, &mut keys).unwrap().name(), "unreadable");
}

/// A token whose key may verify and not sign is asked to verify; what it cannot sign is said.
#[test]
fn a_key_that_may_not_sign_is_verified_with() {
    let lab = Lab::new();
    let log = lab.path("calls");
    let more = [("P11SHIM_FAULT", "C_SignInit:1:0x68"), ("P11SHIM_LOG", log.to_str().unwrap())];
    let mut keys = lab.keys(&lab.liberty(&more));
    let (row, _) = lab.record(&shim(), "CKM_AES_CBC_PAD", "new", &[]);
    let tampered = changed(&row, "hmac", flipped(&meta_of(&row)["hmac"], 0));
    let rows = [p11_keks(), vec![row, tampered]].concat();
    let names: Vec<&str> = judge_all(&rows, &mut keys).unwrap().iter().map(Verdict::name).collect();
    assert_eq!(names, ["old", "old", "old", "good", "unreadable"]);
    let calls = fs::read_to_string(log).unwrap();
    assert_eq!(calls.lines().filter(|call| call.starts_with("C_SignInit ")).count(), 1, "it is asked once");
    let error = format!("{:#}", resign(&rows[0], &mut keys).unwrap_err());
    assert!(error.ends_with("the token does not let key \"my_hmac_label\" sign; set its CKA_SIGN"), "{error}");
}

/// How many are of use is seen in the first one: all that there may be of a token that is waited for.
#[test]
fn a_token_that_is_waited_for_gets_all_sessions() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.liberty(&[("P11SHIM_DELAY_US", "5000")]));
    let verdicts = judge_all(&vec![p11_keks().remove(0); 100], &mut keys).unwrap();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Old), "{verdicts:?}");
    assert_eq!(keys.hsm.unwrap().worker_pids().len(), 8);
}

/// Where there is much to ask, it is divided among several sessions; the answers come in order.
#[test]
fn many_questions_are_divided_among_sessions() {
    let lab = Lab::new();
    let log = lab.path("calls");
    let count = |name: &str| {
        let calls = fs::read_to_string(&log).unwrap();
        calls.lines().filter(|line| line.split(' ').next() == Some(name)).count()
    };
    let number = std::num::NonZeroUsize::new(3).unwrap();
    let config =
        Config { sessions: Sessions::Exactly(number), ..lab.liberty(&[("P11SHIM_LOG", log.to_str().unwrap())]) };
    let mut keys = lab.keys(&config);
    let old = p11_keks().remove(0);
    let (good, _) = lab.record(&shim(), "CKM_AES_CBC_PAD", "new", &[]);
    judge_all(&vec![old.clone(); 99], &mut keys).unwrap();
    assert_eq!(count("C_Login"), 1, "few are asked in one session");
    let rows: Vec<KekRow> = (0..100).map(|n| if n % 3 == 0 { good.clone() } else { old.clone() }).collect();
    for (n, verdict) in judge_all(&rows, &mut keys).unwrap().into_iter().enumerate() {
        assert_eq!(verdict, if n % 3 == 0 { Verdict::Good } else { Verdict::Old }, "{n}");
    }
    let pids = keys.hsm.as_ref().unwrap().worker_pids();
    assert_eq!((pids.len(), count("C_Login"), count("C_FindObjectsInit")), (3, 3, 3));
    drop(keys);
    assert_eq!((count("C_Logout"), count("C_Finalize")), (3, 3));
    pids.into_iter().for_each(assert_reaped);

    // What one of them fails at is the error of all; a session that is not to be had is done without.
    let mut keys = lab.keys(&Config { environment: config.environment.clone(), ..config.clone() });
    let broken = changed(&old, "hmac_label", json!("gone"));
    let verdicts = judge_all(&[vec![old.clone(); 150], vec![broken]].concat(), &mut keys).unwrap();
    assert_eq!(verdicts[150], Verdict::KeyMissing { label: "gone".to_owned() });
    let refused =
        Config { sessions: Sessions::Exactly(number), ..lab.liberty(&[("P11SHIM_FAULT", "C_Sign:250:crash")]) };
    let mut keys = lab.keys(&refused);
    let error = judge_all(&vec![old; 600], &mut keys).unwrap_err().to_string();
    assert!(error.contains("crashed while verifying"), "{error}");
    assert!(keys.hsm.as_ref().unwrap().worker_pids().is_empty());
}

/// No process of that id, not even a dead one waiting to be reaped.
fn assert_reaped(pid: u32) {
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_module_that_dies_is_one_clear_error() {
    let lab = Lab::new();
    for (fault, how) in [
        ("C_SignInit:2:crash", "SIGSEGV"),
        ("C_Sign:1:abort", "SIGABRT"),
        ("C_FindObjects:1:exit", "it ended the process with status 3"),
    ] {
        let config = lab.liberty(&[("P11SHIM_FAULT", fault), ("P11SHIM_CHATTER", "pin 1234")]);
        let mut keys = lab.keys(&config);
        let pid = keys.hsm.as_ref().unwrap().worker_pids()[0];
        let error = judge_all(&p11_keks(), &mut keys).unwrap_err();
        let error = error.downcast::<Error>().unwrap();
        let text = error.to_string();
        assert!(matches!(error, Error::ModuleCrashed { .. }), "{text}");
        assert!(text.contains("libp11shim.so crashed while verifying with key \"my_hmac_label\""), "{text}");
        assert!(text.contains(how) && text.contains("it said: ") && text.contains("pin ***"), "{text}");
        assert!(!text.contains(PIN), "{text}");
        assert_reaped(pid);
        assert!(keys.hsm.as_ref().unwrap().worker_pids().is_empty());
        let after = judge(&p11_keks()[0], &mut keys).unwrap_err().to_string();
        assert!(after.contains("was ended by an earlier error"), "{after}");
    }
    let error = Hsm::spawn(&lab.liberty(&[("P11SHIM_FAULT", "C_Initialize:1:crash")])).unwrap_err();
    assert!(error.to_string().contains("crashed while opening the token (SIGSEGV)"), "{error}");
}

#[test]
fn a_module_that_hangs_is_ended() {
    let lab = Lab::new();
    for fault in ["C_Login:1:hang", "C_Sign:3:hang", "C_Logout:1:hang"] {
        let mut config = lab.liberty(&[("P11SHIM_FAULT", fault)]);
        config.timeout = Duration::from_secs(3);
        let start = Instant::now();
        let spawned = Hsm::spawn(&config);
        let pid = spawned.as_ref().ok().map(|hsm| hsm.worker_pids()[0]);
        let outcome = spawned.map_err(anyhow::Error::from).and_then(|hsm| {
            let mut keys = Keys { hsm: Some(hsm), ..Keys::default() };
            judge_all(&p11_keks(), &mut keys)
        });
        if fault.starts_with("C_Logout") {
            assert_eq!(outcome.unwrap().len(), 3, "a module that only hangs at the end has done its work");
        } else {
            let error = outcome.unwrap_err();
            let timed_out = matches!(error.downcast_ref(), Some(Error::TimedOut { .. }));
            assert!(timed_out && error.to_string().contains("did not answer within 3 s while "), "{error}");
        }
        assert!(start.elapsed() < Duration::from_secs(30));
        pid.into_iter().for_each(assert_reaped);
    }
}

#[test]
fn trouble_with_the_token_is_never_a_verdict() {
    let lab = Lab::new();
    for (fault, words) in [
        ("C_Sign:2:0x30", "C_Sign answered CKR_DEVICE_ERROR while verifying with key \"my_hmac_label\""),
        ("C_SignInit:1:0x63", "C_SignInit answered CKR_KEY_TYPE_INCONSISTENT"),
        ("C_Verify:1:0x30", "C_Verify answered CKR_DEVICE_ERROR"),
        ("C_DecryptInit:9:0xb3", "C_DecryptInit answered CKR_SESSION_HANDLE_INVALID while decrypting under a KEK"),
        ("C_Decrypt:20:0x81000071", "C_Decrypt answered CKR 0x81000071"),
        ("C_UnwrapKey:2:0x32", "C_UnwrapKey answered CKR_DEVICE_REMOVED"),
    ] {
        let mut keys = lab.keys(&lab.liberty(&[("P11SHIM_FAULT", fault)]));
        let (keks, secrets) = fixture();
        let error = format!("{:#}", survey(&keks, &secrets, &mut keys).unwrap_err());
        assert!(error.contains(words), "{error}");
        assert_eq!(keys.hsm.as_ref().unwrap().worker_pids().len(), 1, "the worker itself is well");
    }
    let error = Hsm::spawn(&lab.liberty(&[("P11SHIM_FAULT", "C_OpenSession:1:0xb1")])).unwrap_err();
    assert!(error.to_string().contains("C_OpenSession answered CKR_SESSION_COUNT while opening the token"), "{error}");
    let mut keys = lab.keys(&Config { hmac_mechanism: HmacMechanism::AesMac, ..lab.plain() });
    let error = judge(&p11_keks()[0], &mut keys).unwrap_err().to_string();
    assert!(error.contains("C_SignInit answered CKR_MECHANISM_INVALID"), "{error}");
    // A new signature is not believed before the token has verified it.
    for first in 1..=2 {
        let mut keys = lab.keys(&lab.liberty(&[("P11SHIM_FAULT", &format!("C_Verify:{first}:0xc0"))]));
        let error = resign(&p11_keks()[0], &mut keys).unwrap_err().to_string();
        assert!(error.contains("does not verify the signature that it has just made"), "{error}");
    }
}

#[test]
fn a_talkative_module_does_not_disturb() {
    let lab = Lab::new();
    let mut keys = lab.keys(&lab.liberty(&[("P11SHIM_CHATTER", "{\"verdict\":\"good\"}")]));
    let (keks, secrets) = fixture();
    let survey = survey(&keks, &secrets, &mut keys).unwrap();
    assert_eq!(survey.secret_counts()["proved"], Count { live: 30, deleted: 6 });
}

#[test]
fn each_kek_is_unwrapped_once_and_destroyed() {
    let lab = Lab::new();
    let log = lab.path("calls");
    let mut keys = lab.keys(&lab.liberty(&[("P11SHIM_LOG", log.to_str().unwrap())]));
    let (keks, secrets) = fixture();
    survey(&keks, &secrets, &mut keys).unwrap();
    drop(keys);
    let calls = fs::read_to_string(log).unwrap();
    let count = |name: &str| calls.lines().filter(|line| line.split(' ').next() == Some(name)).count();
    assert_eq!((count("C_UnwrapKey"), count("C_DestroyObject")), (3, 3));
    assert_eq!((count("C_Login"), count("C_FindObjectsInit")), (1, 2));
    assert_eq!((count("C_Logout"), count("C_CloseSession"), count("C_Finalize")), (1, 1, 1));
    assert!(count("C_GenerateKey") == 0 && count("C_GenerateRandom") == 0 && count("C_WrapKey") == 0);
}

#[test]
fn the_pin_is_nowhere_to_be_seen() {
    let lab = Lab::new();
    let mut config = lab.liberty(&[]);
    let keys = lab.keys(&config);
    let pid = keys.hsm.as_ref().unwrap().worker_pids()[0];
    let of = |name: &str| String::from_utf8(fs::read(format!("/proc/{pid}/{name}")).unwrap()).unwrap();
    let worker = config.worker.display();
    assert_eq!(of("cmdline"), format!("{worker}\0hsm-worker\0"));
    if geteuid().is_root() {
        let environ = of("environ");
        let mut environ: Vec<_> = environ.split_terminator('\0').collect();
        environ.sort_unstable();
        let conf = format!("SOFTHSM2_CONF={}", lab.path("softhsm2.conf").display());
        assert_eq!(environ, ["P11SHIM_LIBERTY=1", &conf]);
    } else {
        // The worker cannot be looked into even by its own user.
        let denied = fs::read(format!("/proc/{pid}/environ")).unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
    }
    assert!(of("status").contains("NoNewPrivs:\t1"));
    let core = of("limits").lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);

    config.pin = SecretString::from("a-long-pin");
    for debug in [format!("{keys:?}"), format!("{config:?}"), format!("{:?}", Hsm::spawn(&config))] {
        assert!(!debug.contains("a-long-pin") && !debug.contains(SIMPLE_KEY) && !debug.contains("abcdefgh"), "{debug}");
    }
}

/// A worker that another user can execute, and a token it owns.
fn for_nobody(lab: &Lab) -> Config {
    let mut config = lab.plain();
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    config.worker = lab.path("worker");
    fs::copy(env!("CARGO_BIN_EXE_keymgr-upgrade"), &config.worker).unwrap();
    command::run(&["chown", "-R", "65534:65533", &lab.dir.path().display().to_string()], &[]).unwrap();
    config.identity = Some(Identity { uid: 65534, gid: 65533, groups: vec![65532, 65531] });
    config
}

/// Only root can become somebody else; elsewhere the attempt must fail.
#[test]
fn rights_are_given_up_for_good() {
    let lab = Lab::new();
    if !geteuid().is_root() {
        let config = Config { identity: Some(Identity { uid: 0, gid: 0, groups: vec![] }), ..lab.plain() };
        assert!(matches!(Hsm::spawn(&config).unwrap_err(), Error::NotStarted { .. }));
        return;
    }
    let hsm = Hsm::spawn(&for_nobody(&lab)).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", hsm.worker_pids()[0])).unwrap();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), ["65534"; 4]);
    assert_eq!(line("Gid:"), ["65533"; 4]);
    assert_eq!(line("Groups:"), ["65531", "65532"]);
    for capabilities in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(line(capabilities), ["0000000000000000"], "{capabilities}");
    }
}

#[test]
fn root_loads_only_what_root_alone_can_write() {
    let lab = Lab::new();
    if !geteuid().is_root() {
        assert!(Hsm::spawn(&lab.plain()).is_ok(), "without root's rights the module is the user's own affair");
        return;
    }
    let copy = lab.path("module.so");
    fs::copy(softhsm(), &copy).unwrap();
    let mut config = Config { module: copy.clone(), ..lab.plain() };
    let attempt = |config: &Config| Hsm::spawn(config).map(drop).map_err(|error| error.to_string());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o664)).unwrap();
    let error = attempt(&config).unwrap_err();
    assert!(error.contains("module.so is writable by others than root (mode 0664)"), "{error}");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    attempt(&config).unwrap();
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(attempt(&config).unwrap_err().contains("(mode 0777)"));
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(&copy, Some(Uid::from_raw(65534)), None::<Gid>).unwrap();
    assert!(attempt(&config).unwrap_err().contains("belongs to uid 65534"));
    config.module = PathBuf::from("module.so");
    assert!(attempt(&config).unwrap_err().contains("it is not an absolute path"));
    // Whoever gives up root's rights may load it.
    let config = Config { module: copy, ..for_nobody(&lab) };
    attempt(&config).unwrap();
}
