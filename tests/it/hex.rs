//! Hexadecimal text, written by a real Barbican 23.0.0 into PostgreSQL: seen unreadable, repaired by the true binary, read by that Barbican.
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    common::{Said, lab, said},
    servers::{self, Base},
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const SIMPLE: &str = "simple_crypto";
const P11: &str = "p11_crypto";
/// SoftHSM2 wraps only so, and only for Barbican 20.0.0 and later.
const TOKEN: &str = "\
token_labels = barbican
login = 1234
mkek_label = mkek
mkek_length = 32
hmac_label = hmac
hmac_key_type = CKK_GENERIC_SECRET
hmac_keygen_mechanism = CKM_GENERIC_SECRET_KEY_GEN
hmac_mechanism = CKM_SHA256_HMAC
encryption_mechanism = CKM_AES_CBC
key_wrap_mechanism = CKM_AES_KEY_WRAP_PAD
key_wrap_generate_iv = False
";

/// A deployment of 2026.2 on PostgreSQL, as an image.
struct Deployment {
    home: TempDir,
    base: Base,
    /// By the ids of the secrets: project and payload in base64.
    stored: BTreeMap<String, (String, String)>,
}

impl Deployment {
    /// An empty one, with this plugin.
    fn new(plugin: &str) -> Self {
        let schema = std::fs::read_to_string(format!("{FIXTURES}/schema/postgresql-23.0.0.sql")).unwrap();
        let base = servers::postgresql().database(&schema);
        let home = tempfile::Builder::new().prefix("keymgr-hex-").tempdir().unwrap();
        let deployment = Self { home, base, stored: BTreeMap::new() };
        let etc = deployment.root("etc/barbican");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::create_dir_all(deployment.root("tokens")).unwrap();
        std::fs::copy(format!("{FIXTURES}/paste/P9.ini"), etc.join("barbican-api-paste.ini")).unwrap();
        let tokens = format!("directories.tokendir = {}\n", deployment.root("tokens").display());
        std::fs::write(deployment.root("softhsm2.conf"), tokens).unwrap();
        let library = lab("KEYMGR_TEST_SOFTHSM");
        let conf = format!(
            "[DEFAULT]\nhost_href = http://127.0.0.1:9311\n[database]\nconnection = {}\n\
             [crypto]\nenabled_crypto_plugins = {plugin}\n[simple_crypto_plugin]\n\
             kek = dGhpcnR5X3R3b19ieXRlX2tleWJsYWhibGFoYmxhaGg=\n[p11_crypto_plugin]\nlibrary_path = {library}\n{TOKEN}",
            deployment.base.url()
        );
        std::fs::write(etc.join("barbican.conf"), conf).unwrap();
        if plugin == P11 {
            deployment.make_token(&library);
        }
        deployment
    }

    fn make_token(&self, library: &str) {
        let mut init = Command::new("softhsm2-util");
        init.args(["--init-token", "--free", "--label", "barbican", "--pin", "1234", "--so-pin", "5678"]);
        said(init.env("SOFTHSM2_CONF", self.root("softhsm2.conf"))).expect(0);
        for (label, kind) in [("mkek", "AES:32"), ("hmac", "GENERIC:32")] {
            let mut keygen = Command::new("pkcs11-tool");
            keygen.args(["--module", library, "--token-label", "barbican", "--login", "--pin", "1234", "--keygen"]);
            keygen.args(["--key-type", kind, "--label", label, "--sensitive"]);
            said(keygen.env("SOFTHSM2_CONF", self.root("softhsm2.conf"))).expect(0);
        }
    }

    fn root(&self, inside: &str) -> std::path::PathBuf {
        self.home.path().join("root").join(inside)
    }

    fn serve(&self) -> Barbican {
        let home = self.home.path().join("home");
        std::fs::create_dir_all(&home).unwrap();
        let mut command = Command::new(Path::new(&lab("KEYMGR_TEST_VENV_BARBICAN")).join("bin/python"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("tests/lab/serve_barbican.py");
        command.arg("--root").arg(self.root("")).arg("--home").arg(&home);
        command.env("SOFTHSM2_CONF", self.root("softhsm2.conf"));
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ["ready", port, "23.0.0"] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("Barbican 23.0.0 did not start: {line:?}");
        };
        let mut client = Command::new("python3");
        client.current_dir(env!("CARGO_MANIFEST_DIR")).args(["tests/lab/hex_api.py", port]);
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (ask, answers) = (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()));
        Barbican { server, client, ask: Some(ask), answers }
    }

    /// Has a Barbican store one secret for each project, which it says it did.
    fn store(&mut self, barbican: &mut Barbican, projects: &[&str]) {
        for project in projects {
            let payload = format!("cGF5bG9hZCBv{}", ["ZiA=", "ZiBv", "AP8B"][self.stored.len() % 3]);
            let (status, id) = barbican.ask(&format!("store {project} {payload}"));
            assert_eq!(status, 201, "{project}");
            self.stored.insert(id, ((*project).to_owned(), payload));
        }
    }

    /// Has a Barbican read every secret: those that do not come out byte for byte, with the status it gave.
    fn unread(&self, barbican: &mut Barbican) -> BTreeMap<String, u16> {
        let mut wrong = BTreeMap::new();
        for (id, (project, payload)) in &self.stored {
            let (status, got) = barbican.ask(&format!("read {project} {id}"));
            if (status, &got) != (200, payload) {
                wrong.insert(id.clone(), status);
            }
        }
        wrong
    }

    /// Every value of the two columns, by row.
    fn values(&self) -> Vec<(String, String)> {
        let sql =
            "SELECT id, plugin_meta FROM kek_data UNION ALL SELECT id, cypher_text FROM encrypted_data ORDER BY 1";
        let rows = self.base.sql(sql).into_iter();
        rows.map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
    }

    fn spoiled(&self) -> usize {
        self.values().iter().filter(|(_, value)| value.starts_with("\\x")).count()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymgr-upgrade"));
        command.arg("--root").arg(self.root("")).args(["--pkcs11-module", &lab("KEYMGR_TEST_SOFTHSM")]);
        command.args(["--from", "2026.2", "--allow-network-db"]).args(arguments).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SOFTHSM2_CONF", self.root("softhsm2.conf"));
        command.stdin(Stdio::null());
        command
    }

    #[must_use]
    fn run(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }

    /// What Barbican needs to go on without spoiling more.
    fn cure(&self) {
        let name = self.base.name();
        self.base.server().admin(&format!("ALTER DATABASE {name} SET bytea_output = 'escape'"));
    }

    fn one(&self, sql: &str) -> String {
        self.base.sql(sql)[0][0].clone().unwrap()
    }
}

/// A real Barbican and a client of it, up as long as this lives.
struct Barbican {
    server: Child,
    client: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Barbican {
    fn ask(&mut self, line: &str) -> (u16, String) {
        writeln!(self.ask.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let (status, told) = answer.trim().split_once(' ').unwrap_or((answer.trim(), ""));
        (status.parse().unwrap(), told.to_owned())
    }
}

impl Drop for Barbican {
    fn drop(&mut self) {
        drop(self.ask.take()); // the end of its input is the end of it
        self.client.wait().ok();
        drop(self.server.stdin.take());
        self.server.wait().ok();
    }
}

/// Three projects with simple_crypto, spoiled by Barbican itself: three KEKs, three secrets.
fn spoiled_simple() -> Deployment {
    let mut deployment = Deployment::new(SIMPLE);
    let mut barbican = deployment.serve();
    deployment.store(&mut barbican, &["alpha", "beta", "gamma"]);
    assert_eq!(deployment.spoiled(), 6);
    deployment
}

#[test]
fn what_barbican_spoiled_is_repaired_and_read_and_put_back() {
    let mut deployment = spoiled_simple();
    let spoiled = deployment.values();
    let mut barbican = deployment.serve();
    let unread = deployment.unread(&mut barbican);
    assert!(unread.len() == 3 && unread.values().all(|status| *status == 500), "{unread:?}");
    assert_eq!(barbican.ask("store alpha AAAA").0, 500, "the KEK is spoiled too");
    drop(barbican);

    let check = deployment.run(&["check"]);
    check.says("WARN hex-text hexadecimal text that Barbican on Python 3 wrote and cannot read (6)");
    check.says("kek_data.plugin_meta: 3 rows encrypted_data.cypher_text: 3 rows decoded, 3 KEKs and 3 secrets decrypt");
    check.says("keymgr-upgrade db repair-hex");
    check.says(&format!("ALTER DATABASE {} SET bytea_output = 'escape'", deployment.base.name()));
    assert!(!check.all().contains("unreadable "), "{}", check.all());
    deployment.run(&["plan", "--to", "2026.2"]).says("3 secrets in hexadecimal text: unreadable until `db repair-hex`");
    let verify = deployment.run(&["kek", "verify"]).expect(3);
    verify.says("hex-text 3 0");
    verify.says("Next: keymgr-upgrade");
    verify.says("db repair-hex");

    let dry = deployment.run(&["db", "repair-hex", "--dry-run"]).expect(0);
    dry.says("encrypted_data.cypher_text: 3 hexadecimal texts, 3 of them repairable");
    for id in deployment.stored.keys() {
        dry.says(&format!("secret {id}"));
    }
    assert_eq!(deployment.values(), spoiled, "a dry run writes nothing");
    assert!(!deployment.root("var/lib/keymgr-upgrade/runs").exists(), "a dry run opens no run");

    let repaired = deployment.run(&["db", "repair-hex", "--yes"]).expect(0);
    repaired.says("3 of 3 KEKs, 3 of 3 secrets decrypted");
    repaired.says(&format!("ALTER DATABASE {} SET bytea_output = 'escape'", deployment.base.name()));
    assert_eq!(deployment.spoiled(), 0);
    let plain = deployment.values();
    assert_eq!(deployment.unread(&mut deployment.serve()), BTreeMap::new());
    deployment.run(&["kek", "verify"]).expect(0).says("proved 3 0");
    deployment.run(&["db", "repair-hex", "--yes"]).expect(0).says("nothing to do");

    deployment.run(&["rollback", "--yes"]).expect(0);
    assert_eq!(deployment.values(), spoiled, "byte for byte");
    deployment.run(&["db", "repair-hex", "--yes"]).expect(0);
    assert_eq!(deployment.values(), plain);

    // As the closing words say: without the setting Barbican goes on, with it it does not.
    let mut barbican = deployment.serve();
    deployment.store(&mut barbican, &["alpha", "delta"]);
    drop(barbican);
    assert_eq!(deployment.spoiled(), 3);
    deployment.run(&["db", "repair-hex", "--yes"]).expect(0);
    deployment.run(&["check"]).says("WARN hex-text-ahead");
    deployment.cure();
    let check = deployment.run(&["check"]);
    assert!(!check.all().contains("hex-text"), "{}", check.all());
    let mut barbican = deployment.serve();
    deployment.store(&mut barbican, &["alpha", "delta", "epsilon", "epsilon"]);
    assert_eq!(deployment.unread(&mut barbican), BTreeMap::new());
    assert_eq!(deployment.spoiled(), 0);
}

#[test]
fn secrets_of_a_token_are_repaired_through_it() {
    let mut deployment = Deployment::new(P11);
    let mut barbican = deployment.serve();
    deployment.store(&mut barbican, &["alpha", "alpha", "beta"]);
    let unread = deployment.unread(&mut barbican);
    assert!(unread.len() == 3 && unread.values().all(|status| *status == 500), "{unread:?}");
    drop(barbican);
    assert_eq!(deployment.spoiled(), 3, "the plugin's own texts are text");
    let spoiled = deployment.values();
    let dry = deployment.run(&["db", "repair-hex", "--dry-run"]).expect(0);
    dry.says("encrypted_data.cypher_text: 3 hexadecimal texts, 3 of them repairable");
    assert!(!dry.all().contains("plugin_meta"), "{}", dry.all());
    let repaired = deployment.run(&["db", "repair-hex", "--yes"]).expect(0);
    repaired.says("2 of 2 KEKs, 3 of 3 secrets decrypted");
    assert_eq!(deployment.unread(&mut deployment.serve()), BTreeMap::new());
    deployment.run(&["rollback", "--yes"]).expect(0);
    assert_eq!(deployment.values(), spoiled);
}

#[test]
fn without_its_key_nothing_is_proved_and_nothing_is_written() {
    let mut deployment = Deployment::new(SIMPLE);
    let mut barbican = deployment.serve();
    deployment.store(&mut barbican, &["alpha"]);
    drop(barbican);
    let spoiled = deployment.values();
    let conf = std::fs::read_to_string(deployment.root("etc/barbican/barbican.conf")).unwrap();
    let other = conf.replace("dGhpcnR5", "QUFBQUFB");
    assert_ne!(conf, other);
    std::fs::write(deployment.root("etc/barbican/barbican.conf"), other).unwrap();
    let refused = deployment.run(&["db", "repair-hex", "--yes"]).expect(3);
    refused.says(
        "left alone: unreadable: hexadecimal text; decoded, plugin_meta: no kek of [simple_crypto_plugin] decrypts it",
    );
    assert_eq!(deployment.values(), spoiled);
    deployment.run(&["check"]).says("FAIL unreadable");
}

#[test]
fn damaged_rows_stay_and_are_listed() {
    let deployment = spoiled_simple();
    let ids: Vec<String> = deployment.stored.keys().cloned().collect();
    let edit = |secret: &str, expression: &str| {
        deployment
            .base
            .load(&format!("UPDATE encrypted_data SET cypher_text = {expression} WHERE secret_id = '{secret}'"));
    };
    // Well-formed, but under another project's key; a digit lost; one that is none.
    edit(&ids[2], &format!("(SELECT cypher_text FROM encrypted_data WHERE secret_id = '{}')", ids[0]));
    edit(&ids[0], "left(cypher_text, length(cypher_text) - 1)");
    edit(&ids[1], "overlay(cypher_text placing 'zz' from 41)");
    let damaged = deployment.values();
    let said = deployment.run(&["db", "repair-hex", "--yes"]).expect(0);
    said.says(&format!(
        "secret {}: left alone: unreadable: cypher_text is hexadecimal text with a digit missing",
        ids[0]
    ));
    said.says(&format!(
        "secret {}: left alone: unreadable: cypher_text is hexadecimal text with something in it that is no digit",
        ids[1]
    ));
    said.says(&format!(
        "secret {}: left alone: unreadable: hexadecimal text; decoded, cypher_text: the key of its project does not decrypt it",
        ids[2]
    ));
    said.says("encrypted_data.cypher_text: 3 hexadecimal texts, 0 of them repairable");
    let texts = |values: &[(String, String)]| -> Vec<String> {
        values.iter().map(|(_, v)| v.clone()).filter(|v| v.starts_with("\\x5a")).collect()
    };
    assert_eq!(texts(&deployment.values()), texts(&damaged), "left as they are");
    assert_eq!(deployment.spoiled(), 3, "the KEKs are repaired");
    deployment.run(&["check"]).says("FAIL unreadable KEKs or secrets in use cannot be read now (3)");
    let again = deployment.run(&["db", "repair-hex", "--yes"]).expect(3);
    again.says("0 of them repairable");
    deployment.run(&["rollback", "--yes"]).expect(0);
    assert_eq!(deployment.values(), damaged);
}

#[test]
fn killed_between_any_two_rows_it_resumes_and_goes_back() {
    let mut deployment = Deployment::new(SIMPLE);
    let mut barbican = deployment.serve();
    deployment.store(&mut barbican, &["alpha", "beta"]);
    drop(barbican);
    let spoiled = deployment.values();
    deployment.run(&["db", "repair-hex", "--yes"]).expect(0);
    let plain = deployment.values();
    deployment.run(&["rollback", "--yes"]).expect(0);
    let killed = |arguments: &[&str], point: &str| {
        said(deployment.command(arguments).env("KEYMGR_UPGRADE_CRASH_AT", point)).expect(137);
    };
    let repair = &["db", "repair-hex", "--yes"][..];
    for (point, left, verb) in [
        ("to replace:1", 4, "rollback"),
        ("replaced:1", 3, "resume"),
        ("replaced:2", 2, "rollback"),
        ("replaced:3", 1, "resume"),
        ("replaced:4", 0, "rollback"),
        ("replaced:4", 0, "resume"),
    ] {
        killed(repair, &format!("hex text {point}"));
        assert_eq!(deployment.spoiled(), left, "{point}");
        if verb == "resume" {
            deployment.run(&["resume"]).expect(0).says("2 of 2 secrets decrypted");
            assert_eq!(deployment.values(), plain, "{point}");
        }
        deployment.run(&["rollback", "--yes"]).expect(0);
        assert_eq!(deployment.values(), spoiled, "{point}, {verb}");
    }
    // Going back is one transaction.
    deployment.run(repair).expect(0);
    for (point, back) in
        [("row to restore:1", false), ("row to restore:4", false), ("to commit:1", false), ("committed:1", true)]
    {
        killed(&["rollback", "--yes"], point);
        assert_eq!(deployment.values(), *if back { &spoiled } else { &plain }, "{point}");
    }
    deployment.run(&["rollback", "--yes"]).expect(0);
    assert_eq!(deployment.values(), spoiled);
}

#[test]
fn a_row_that_somebody_else_changed_is_not_overwritten() {
    let deployment = spoiled_simple();
    let spoiled = deployment.values();
    let mut command = deployment.command(&["db", "repair-hex", "--yes"]);
    said(command.env("KEYMGR_UPGRADE_CRASH_AT", "hex text replaced:4")).expect(137);
    assert_eq!(deployment.spoiled(), 2);
    // One of those that are still to come, and one that is done.
    let open = deployment.one("SELECT id FROM encrypted_data WHERE cypher_text LIKE E'\\\\\\\\x%' ORDER BY id LIMIT 1");
    let done = deployment.one("SELECT id FROM encrypted_data WHERE cypher_text NOT LIKE E'\\\\\\\\x%'");
    for id in [&open, &done] {
        deployment.base.load(&format!("UPDATE encrypted_data SET cypher_text = 'by somebody' WHERE id = '{id}'"));
    }
    let tampered = deployment.values();
    let refused = deployment.run(&["resume"]).expect(4);
    refused.says("was changed by somebody else since the run began");
    assert_eq!(deployment.values(), tampered, "nothing more is written");
    deployment.run(&["rollback", "--yes"]).expect(0);
    let expected: Vec<(String, String)> = spoiled
        .into_iter()
        .map(|(id, old)| if id == open || id == done { (id, "by somebody".to_owned()) } else { (id, old) })
        .collect();
    assert_eq!(deployment.values(), expected, "the others are back, these are left");
}

#[test]
fn other_databases_have_none_and_that_is_said() {
    let sandbox = crate::common::Sandbox::liberty();
    sandbox.run(&["db", "repair-hex"]).expect(0).says("Only PostgreSQL makes it.");
    let mariadb = std::fs::read_to_string(format!("{FIXTURES}/liberty/liberty-mariadb.sql")).unwrap();
    let base = servers::mariadb().database(&mariadb);
    let conf = sandbox.read("etc/barbican/barbican.conf");
    let (head, tail) = conf.split_once("sql_connection = ").unwrap();
    let (_, tail) = tail.split_once('\n').unwrap();
    sandbox.write("etc/barbican/barbican.conf", &format!("{head}sql_connection = {}\n{tail}", base.url()));
    sandbox.run(&["db", "repair-hex"]).expect(0).says("Only PostgreSQL makes it.");
    assert!(!sandbox.run(&["check"]).all().contains("hex-text"));
}
