//! Bad input: what each gives to read, and that it changed nothing and showed no secret. The snapshots are the table.

use std::any::Any;
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::common::{Said, Sandbox, lab, said};
use crate::proof::{faults, image, normal};

const CONF: &str = "etc/barbican/barbican.conf";
const PASTE: &str = "etc/barbican/barbican-api-paste.ini";
const DATABASE: &str = "var/lib/barbican/barbican.sqlite";
const SETTINGS: &str = "etc/keymgr-upgrade/keymgr-upgrade.conf";
const UPGRADE: &[&str] = &["upgrade", "--to", "mitaka", "--yes"];
const CHECK: &[&str] = &["check", "--to", "mitaka"];
/// The whole way, for what only a later release minds.
const FAR: &[&str] = &["check", "--to", "2026.2", "--fast-forward"];
/// As barbican.conf has it.
const URL: &str = "sql_connection = sqlite:////var/lib/barbican/barbican.sqlite";

/// What is kept while the binary runs: a lock, an open transaction.
type Held = Box<dyn Any>;

/// One kind of bad input.
struct Case {
    id: &'static str,
    arguments: Vec<String>,
    exit: i32,
    make: Box<dyn Fn(&Sandbox)>,
    hold: fn(&Sandbox) -> Held,
    environment: Vec<(&'static str, String)>,
    /// In place of the test's own; `None` for none at all.
    module: Option<String>,
    /// In place of the sandbox's.
    root: Option<&'static str>,
}

fn case(id: &'static str, arguments: &[&str], exit: i32, make: impl Fn(&Sandbox) + 'static) -> Case {
    Case {
        id,
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        exit,
        make: Box::new(make),
        hold: |_| Box::new(()),
        environment: Vec::new(),
        module: Some(lab("KEYMGR_TEST_P11SHIM")),
        root: None,
    }
}

impl Case {
    fn hold(mut self, hold: fn(&Sandbox) -> Held) -> Self {
        self.hold = hold;
        self
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn module(mut self, module: Option<&str>) -> Self {
        self.module = module.map(str::to_owned);
        self
    }

    fn root(mut self, root: &'static str) -> Self {
        self.root = Some(root);
        self
    }

    fn run(&self, sandbox: &Sandbox) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymgr-upgrade"));
        command.args(&self.arguments).arg("--root");
        match self.root {
            Some(root) => command.arg(root),
            None => command.arg(sandbox.root()),
        };
        if let Some(module) = &self.module {
            command.args(["--pkcs11-module", module]);
        }
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SOFTHSM2_CONF", sandbox.path("etc/softhsm/softhsm2.conf"))
            .env("P11SHIM_LIBERTY", "1")
            .env("P11SHIM_LOG", sandbox.log())
            .envs(self.environment.iter().map(|(n, v)| (*n, v.as_str())))
            .stdin(Stdio::null());
        said(&mut command)
    }
}

/// Runs every case on a sandbox of its own, holds it to what every refusal must be, and what was said to the snapshot `name`.
#[track_caller]
fn table(name: &str, cases: &[Case]) {
    let (mut text, mut wrong) = (String::new(), Vec::new());
    for case in cases {
        let sandbox = Sandbox::liberty();
        (case.make)(&sandbox);
        let before = image(&sandbox.root());
        // Last: a lock of this process on a file ends when the process closes any handle of that file.
        let guard = (case.hold)(&sandbox);
        let said = case.run(&sandbox);
        drop(guard);
        if said.code != case.exit {
            wrong.push(format!("{}: exit code {}, not {}: {}", case.id, said.code, case.exit, said.all()));
        }
        let after = image(&sandbox.root());
        let changed: Vec<_> = after.keys().chain(before.keys()).filter(|k| after.get(*k) != before.get(*k)).collect();
        if !changed.is_empty() {
            wrong.push(format!("{}: changed {changed:?}", case.id));
        }
        // The command line parser's own refusals are its own.
        if said.code != 64 || said.err.contains("Next:") {
            wrong.extend(faults(&said, false).into_iter().map(|f| format!("{}: the output {f}", case.id)));
            if !has_one_reason(&said) {
                wrong.push(format!("{}: no reason: {}", case.id, said.all()));
            }
        }
        let logins = std::fs::read_to_string(sandbox.log()).unwrap_or_default().matches("C_Login ").count();
        if logins > 1 {
            wrong.push(format!("{}: {logins} login attempts", case.id));
        }
        writeln!(text, "# {}: {} -> {}", case.id, case.arguments.join(" "), said.code).unwrap();
        writeln!(text, "{}\n", normal(&said.all(), &sandbox)).unwrap();
    }
    insta::assert_snapshot!(name, text);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One error, or findings of which one at least is no `ok`, or the word that nothing is to do.
fn has_one_reason(said: &Said) -> bool {
    let errors = said.err.lines().filter(|l| l.starts_with("error: ")).count();
    let findings = said.out.lines().filter(|l| l.starts_with("FAIL ") || l.starts_with("WARN ")).count();
    let counted =
        said.out.contains("nothing to do") || said.out.contains("unreadable") || said.out.contains("key-missing");
    errors == 1 || errors == 0 && (findings > 0 || counted)
}

/// Changes a file of the image by replacing one text, which must be there.
#[track_caller]
fn change(sandbox: &Sandbox, file: &str, from: &str, to: &str) {
    let text = sandbox.read(file);
    assert!(text.contains(from), "{file} has no {from:?}");
    sandbox.write(file, &text.replacen(from, to, 1));
}

fn replace(
    id: &'static str,
    arguments: &[&str],
    exit: i32,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> Case {
    case(id, arguments, exit, move |s| change(s, file, from, to))
}

fn settings(id: &'static str, arguments: &[&str], exit: i32, text: &'static str) -> Case {
    case(id, arguments, exit, move |s| s.write(SETTINGS, text))
}

fn sql(id: &'static str, arguments: &[&str], exit: i32, text: &'static str) -> Case {
    case(id, arguments, exit, move |s| execute(s, text))
}

fn execute(sandbox: &Sandbox, text: &str) {
    let connection = Connection::open(sandbox.path(DATABASE)).unwrap();
    connection.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    connection.execute_batch(text).unwrap();
}

/// A database of another release in place of the sandbox's: a dump of one that Barbican's own tools made.
fn dump(sandbox: &Sandbox, name: &str) {
    std::fs::remove_file(sandbox.path(DATABASE)).unwrap();
    let path = format!("{}/tests/fixtures/schema/sqlite-{name}.sql", env!("CARGO_MANIFEST_DIR"));
    execute(sandbox, &std::fs::read_to_string(path).unwrap());
}

fn remove(sandbox: &Sandbox, file: &str) {
    std::fs::remove_file(sandbox.path(file)).unwrap();
}

fn truncate(sandbox: &Sandbox, length: u64) {
    std::fs::File::options().write(true).open(sandbox.path(DATABASE)).unwrap().set_len(length).unwrap();
}

#[test]
fn files() {
    table(
        "bad_input_files",
        &[
            case("root-missing", UPGRADE, 64, |_| {}).root("/nonexistent/image"),
            case("root-is-a-file", UPGRADE, 64, |_| {}).root("/etc/passwd"),
            case("conf-missing", UPGRADE, 1, |s| remove(s, CONF)),
            case("conf-is-a-directory", UPGRADE, 1, |s| {
                remove(s, CONF);
                std::fs::create_dir(s.path(CONF)).unwrap();
            }),
            case("conf-is-a-loop", UPGRADE, 1, |s| {
                remove(s, CONF);
                symlink("barbican.conf", s.path(CONF)).unwrap();
            }),
            case("conf-is-a-pipe", UPGRADE, 1, |s| {
                remove(s, CONF);
                nix::unistd::mkfifo(&s.path(CONF), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
            }),
            case("conf-is-binary", UPGRADE, 1, |s| {
                std::fs::write(s.path(CONF), b"\x7fELF\x02\x01\x01\0\0\0\0\0\xff\xfe\n\x90\x90\n").unwrap();
            }),
            replace("conf-without-delimiter", UPGRADE, 1, CONF, "backlog = 4096", "backlog 4096"),
            replace("conf-header-not-closed", UPGRADE, 1, CONF, "[queue]", "[queue"),
            case("conf-d-malformed", UPGRADE, 1, |s| s.write("etc/barbican/barbican.conf.d/10-site.conf", "a = 1\n")),
        ],
    );
}

#[test]
fn paste_files() {
    table(
        "bad_input_paste_files",
        &[
            case("paste-missing", CHECK, 1, |s| remove(s, PASTE)),
            case("paste-is-a-directory", UPGRADE, 1, |s| {
                remove(s, PASTE);
                std::fs::create_dir(s.path(PASTE)).unwrap();
            }),
            replace("paste-malformed", UPGRADE, 1, PASTE, "[app:apiapp]", "[app:apiapp"),
            replace("paste-main-missing", UPGRADE, 3, PASTE, "[composite:main]", "[composite:other]"),
            replace("paste-filter-missing", UPGRADE, 3, PASTE, "[filter:site-tag]", "[filter:site-tug]"),
            replace("paste-app-missing", UPGRADE, 3, PASTE, "[app:apiapp]", "[app:api]"),
            replace(
                "paste-pipeline-loop",
                UPGRADE,
                3,
                PASTE,
                "pipeline: keystone_authtoken context apiapp",
                "pipeline: keystone_authtoken context backup-door",
            ),
            replace(
                "paste-pipelines-in-a-ring",
                UPGRADE,
                3,
                PASTE,
                "pipeline: keystone_authtoken context apiapp",
                "pipeline: context ring\n[pipeline:ring]\npipeline = context backup-door",
            ),
            replace(
                "paste-pipeline-empty",
                UPGRADE,
                3,
                PASTE,
                "pipeline: keystone_authtoken context apiapp",
                "pipeline:",
            ),
            replace(
                "paste-section-twice",
                FAR,
                255,
                PASTE,
                "[filter:profile]",
                "[filter:context]\nx = 1\n[filter:profile]",
            ),
            replace(
                "paste-option-twice",
                FAR,
                255,
                PASTE,
                "discard_first_request = true",
                "discard_first_request = true\ndiscard_first_request = false",
            ),
        ],
    );
}

#[test]
fn settings_of_our_own() {
    table(
        "bad_input_settings_of_our_own",
        &[
            settings("settings-unknown-name", UPGRADE, 64, "[upgrade]\npaht = slurp\n"),
            settings("settings-unknown-section", UPGRADE, 64, "[upgrades]\npath = slurp\n"),
            settings("settings-bad-value", UPGRADE, 64, "[upgrade]\npath = quick\n"),
            settings("settings-bad-time", UPGRADE, 64, "[hsm]\ntimeout = 3 weeks\n"),
            settings("settings-not-absolute", UPGRADE, 64, "[barbican]\nconfig_file = barbican.conf\n"),
            settings("settings-malformed", UPGRADE, 64, "[upgrade\npath = slurp\n"),
            settings("settings-unknown-release", UPGRADE, 64, "[upgrade]\nrelease = pyke\n"),
            case("settings-binary", UPGRADE, 64, |s| {
                s.write(SETTINGS, "");
                std::fs::write(s.path(SETTINGS), b"[upgrade]\npath = \xff\n").unwrap();
            }),
            case("settings-is-a-directory", UPGRADE, 64, |s| std::fs::create_dir_all(s.path(SETTINGS)).unwrap()),
            settings("settings-edit-files-no", UPGRADE, 3, "[barbican]\nedit_files = no\n"),
        ],
    );
}

#[test]
fn options() {
    const SLOT: &str = "slot_id = 1069649521";
    const KEK: &str = "kek = 'YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY='";
    table(
        "bad_input_options",
        &[
            replace(
                "old-and-new-name-differ",
                FAR,
                255,
                CONF,
                "# left from Kilo",
                "[database]\nconnection = sqlite:////var/lib/barbican/other.sqlite\n[DEFAULT]",
            ),
            replace(
                "old-and-new-name-differ-from-said",
                &["check", "--to", "2026.2", "--fast-forward", "--from", "liberty"],
                2,
                CONF,
                "# left from Kilo",
                "[database]\nconnection = sqlite:////var/lib/barbican/other.sqlite\n[DEFAULT]",
            ),
            replace("slot-not-a-number", UPGRADE, 3, CONF, SLOT, "slot_id = abc"),
            replace("slot-negative", UPGRADE, 3, CONF, SLOT, "slot_id = -1"),
            replace("hmac-key-type-unknown", UPGRADE, 3, CONF, "CKK_GENERIC_SECRET", "CKK_MAGIC"),
            replace("hmac-mechanism-unknown", UPGRADE, 3, CONF, SLOT, "slot_id = 1069649521\nhmac_mechanism = CKM_MD5"),
            replace(
                "encryption-mechanism-unknown",
                UPGRADE,
                1,
                CONF,
                SLOT,
                "slot_id = 1069649521\nencryption_mechanism = CKM_ROT13",
            ),
            replace("boolean-nonsense", UPGRADE, 3, CONF, SLOT, "slot_id = 1069649521\nrw_session = maybe"),
            replace(
                "stores-boolean-nonsense",
                UPGRADE,
                1,
                CONF,
                "[secretstore]",
                "[secretstore]\nenable_multiple_secret_stores = perhaps",
            ),
            replace("login-missing", UPGRADE, 3, CONF, "login = '1234'", "# login"),
            replace("kek-not-base64", UPGRADE, 1, CONF, KEK, "kek = '!!s3cr3t-of-rabbit!!'"),
            replace("kek-too-short", UPGRADE, 1, CONF, KEK, "kek = 'YWJjZA=='"),
            replace(
                "kek-of-another-site",
                UPGRADE,
                3,
                CONF,
                KEK,
                "kek = 'dGhpcnR5X3R3b19ieXRlX2tleWJsYWhibGFoYmxhaGg='",
            ),
        ],
    );
}

#[test]
fn database_urls() {
    let url = |id, exit, to| replace(id, UPGRADE, exit, CONF, URL, to);
    table(
        "bad_input_database_urls",
        &[
            url("url-none", 3, "# none"),
            url("url-empty", 1, "sql_connection ="),
            url("url-malformed", 1, "sql_connection = /var/lib/barbican/barbican.sqlite"),
            url("url-mysql", 1, "sql_connection = mysql+pymysql://barbican:s3cr3t-of-rabbit@db1/barbican"),
            url(
                "url-postgresql",
                1,
                "sql_connection = postgresql+psycopg2://barbican:s3cr3t-of-rabbit@10.20.0.9/barbican",
            ),
            url("url-oracle", 1, "sql_connection = oracle://barbican:s3cr3t-of-rabbit@db1/barbican"),
            url("url-unknown-driver", 1, "sql_connection = mysql+fastest://barbican:s3cr3t-of-rabbit@db1/barbican"),
            url("url-in-memory", 1, "sql_connection = sqlite://"),
            url("url-relative-outside", 1, "sql_connection = sqlite:///../../../../../etc/passwd"),
            url("url-sqlite-with-host", 1, "sql_connection = sqlite://var/lib/barbican/barbican.sqlite"),
            url(
                "url-unknown-parameter",
                1,
                "sql_connection = sqlite:////var/lib/barbican/barbican.sqlite?vfs=unix-none",
            ),
        ],
    );
}

#[test]
fn database_files() {
    let database = |id, exit, make: fn(&Sandbox)| case(id, UPGRADE, exit, make);
    table(
        "bad_input_database_files",
        &[
            database("database-missing", 1, |s| remove(s, DATABASE)),
            database("database-is-a-directory", 1, |s| {
                remove(s, DATABASE);
                std::fs::create_dir(s.path(DATABASE)).unwrap();
            }),
            database("database-links-to-nowhere", 1, |s| {
                remove(s, DATABASE);
                symlink("/mnt/gone/barbican.sqlite", s.path(DATABASE)).unwrap();
            }),
            database("database-empty-file", 1, |s| truncate(s, 0)),
            database("database-not-sqlite", 1, |s| s.write(DATABASE, "-- MySQL dump 10.13\n")),
            database("database-truncated", 1, |s| truncate(s, 20_000)),
            database("database-corrupt-page", 1, |s| {
                use std::os::unix::fs::FileExt as _;
                let file = std::fs::File::options().write(true).open(s.path(DATABASE)).unwrap();
                for page in 20..40 {
                    file.write_all_at(&[0xA5; 4096], page * 4096).unwrap();
                }
            }),
            settings("database-locked", UPGRADE, 1, "[database]\nlock_timeout = 0s\n").hold(|s| {
                let connection = Connection::open(s.path(DATABASE)).unwrap();
                connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
                Box::new(connection)
            }),
        ],
    );
}

#[test]
fn schemas() {
    table("bad_input_schemas", &[
        sql("revision-unknown", UPGRADE, 1, "UPDATE alembic_version SET version_num = 'deadbeef0001'"),
        sql("two-heads", UPGRADE, 1, "INSERT INTO alembic_version VALUES ('39cf2e645cba')"),
        sql("no-alembic-version", UPGRADE, 1, "DROP TABLE alembic_version"),
        sql("empty-alembic-version", UPGRADE, 1, "DELETE FROM alembic_version"),
        sql("empty-alembic-version-from-said", &["upgrade", "--to", "mitaka", "--yes", "--from", "liberty"], 3,
            "DELETE FROM alembic_version"),
        sql("empty-alembic-version-db-upgrade", &["db", "upgrade", "--yes"], 3, "DELETE FROM alembic_version"),
        sql("column-too-many", UPGRADE, 3, "ALTER TABLE secrets ADD COLUMN mark VARCHAR(10)"),
        sql("table-missing", UPGRADE, 3, "DROP TABLE project_quotas"),
        sql("table-of-secrets-missing", UPGRADE, 3, "DROP TABLE encrypted_data"),
        sql("type-changed", UPGRADE, 3, "PRAGMA writable_schema = 1;
            UPDATE sqlite_schema SET sql = replace(sql, 'bit_length INTEGER', 'bit_length BLOB') WHERE name = 'secrets'"),
        sql("half-made-migration", UPGRADE, 3, "CREATE TABLE secret_user_metadata (id VARCHAR(36) NOT NULL PRIMARY KEY)"),
        sql("half-made-migration-db-upgrade", &["db", "upgrade", "--yes"], 3,
            "CREATE TABLE secret_user_metadata (id VARCHAR(36) NOT NULL PRIMARY KEY)"),
        sql("wrong-revision", &["upgrade", "--to", "newton", "--yes"], 3,
            "UPDATE alembic_version SET version_num = 'd2780d5aa510'"),
        case("another-program-s-database", UPGRADE, 1, |s| {
            remove(s, DATABASE);
            execute(s, "CREATE TABLE moz_places (id INTEGER PRIMARY KEY, url TEXT)");
        }),
    ]);
}

#[test]
fn rows_in_the_way() {
    // The table without its constraint: only so can there be two.
    const TWICE: &str = "PRAGMA legacy_alter_table = 1;
        CREATE TABLE p (id VARCHAR(36) NOT NULL, created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL, deleted_at DATETIME,
            deleted BOOLEAN NOT NULL, status VARCHAR(20) NOT NULL, external_id VARCHAR(255), PRIMARY KEY (id));
        INSERT INTO p SELECT * FROM projects; DROP TABLE projects; ALTER TABLE p RENAME TO projects;
        UPDATE projects SET external_id = 'p11-alpha' WHERE external_id = 'p11-beta'";
    table(
        "bad_input_rows_in_the_way",
        &[
            sql(
                "consumer-url-too-long",
                UPGRADE,
                3,
                "UPDATE container_consumer_metadata
            SET \"URL\" = 'http://example.org/' || replace(hex(zeroblob(150)), '00', 'ab') WHERE rowid = 1",
            ),
            sql("external-id-twice", UPGRADE, 3, TWICE),
            case(
                "consumer-of-a-project-that-is-gone",
                &["upgrade", "--to", "zed", "--from", "yoga", "--yes"],
                3,
                |s| {
                    dump(s, "12.0.2");
                    execute(s, "INSERT INTO secrets (id, created_at, updated_at, deleted, status, project_id)
                    VALUES ('5ec', '2021-01-01', '2021-01-01', 0, 'ACTIVE', 'f00');
                INSERT INTO secret_consumer_metadata (id, created_at, updated_at, deleted, status, project_id, secret_id, service, resource_type, resource_id)
                    VALUES ('c0ffee', '2021-01-01', '2021-01-01', 0, 'ACTIVE', 'gone', '5ec', 'cinder', 'volume', 'v1')");
                },
            ),
            sql("db-upgrade-rows", &["db", "upgrade", "d2780d5aa510", "--yes"], 3, TWICE),
        ],
    );
}

#[test]
fn tokens() {
    const LABEL: &str = "slot_id = 1069649521";
    table(
        "bad_input_tokens",
        &[
            replace("pin-wrong", UPGRADE, 3, CONF, "login = '1234'", "login = '31415926'"),
            replace("token-label-missing", UPGRADE, 3, CONF, LABEL, "token_labels = nowhere"),
            replace("token-serial-missing", UPGRADE, 3, CONF, LABEL, "token_serial_number = 0123456789abcdef"),
            replace("slot-missing", UPGRADE, 3, CONF, LABEL, "slot_id = 7"),
            case("module-not-named", UPGRADE, 3, |_| {}).module(None),
            case("module-missing", UPGRADE, 3, |_| {}).module(Some("/usr/lib/libCryptoki2_64.so")),
            case("module-not-absolute", UPGRADE, 3, |_| {}).module(Some("libsofthsm2.so")),
            case("module-is-a-text", UPGRADE, 3, |_| {}).module(Some("/etc/passwd")),
            case("module-is-another-library", UPGRADE, 3, |_| {}).module(Some("/lib/x86_64-linux-gnu/libz.so.1")),
            case("module-crashes", UPGRADE, 3, |_| {}).env("P11SHIM_FAULT", "C_Verify:1:crash"),
            case("module-hangs", UPGRADE, 3, |s| s.write(SETTINGS, "[hsm]\ntimeout = 1s\n"))
                .env("P11SHIM_FAULT", "C_Verify:1:hang"),
            case("module-exits", UPGRADE, 3, |_| {}).env("P11SHIM_FAULT", "C_Login:1:exit"),
            case("device-error", UPGRADE, 3, |_| {}).env("P11SHIM_FAULT", "C_Decrypt:3:0x30"),
            case("device-error-at-once", UPGRADE, 3, |_| {}).env("P11SHIM_FAULT", "C_Initialize:1:0x30"),
        ],
    );
}

#[test]
fn keys_and_secrets() {
    const P11: &str = "plugin_name LIKE '%P11%' AND project_id = (SELECT project_id FROM kek_data WHERE plugin_name LIKE '%P11%' ORDER BY id LIMIT 1)";
    let keks = |id, set: &str| {
        let text = format!("UPDATE kek_data SET {set} WHERE {P11}");
        case(id, UPGRADE, 3, move |s| execute(s, &text))
    };
    table("bad_input_keys_and_secrets", &[
        keks("kek-tampered", "plugin_meta = json_set(plugin_meta, '$.wrapped_key', 'AAAA' || substr(json_extract(plugin_meta, '$.wrapped_key'), 5))"),
        keks("kek-meta-not-json", "plugin_meta = substr(plugin_meta, 1, 60)"),
        keks("kek-meta-incomplete", "plugin_meta = json_remove(plugin_meta, '$.hmac')"),
        keks("kek-meta-not-base64", "plugin_meta = json_set(plugin_meta, '$.hmac', '%%%')"),
        keks("mkek-missing", "plugin_meta = json_set(plugin_meta, '$.mkek_label', 'old_mkek')"),
        keks("hmac-key-missing", "plugin_meta = json_set(plugin_meta, '$.hmac_label', 'old_hmac')"),
        sql("ciphertext-tampered", UPGRADE, 3, "UPDATE encrypted_data SET cypher_text = 'AAAA' || substr(cypher_text, 5)
            WHERE id IN (SELECT e.id FROM encrypted_data e JOIN kek_data k ON k.id = e.kek_id JOIN secrets s ON s.id = e.secret_id
                WHERE k.plugin_name LIKE '%P11%' AND NOT s.deleted ORDER BY e.id LIMIT 1)"),
        sql("ciphertext-missing", UPGRADE, 3, "UPDATE encrypted_data SET cypher_text = NULL
            WHERE id IN (SELECT e.id FROM encrypted_data e JOIN kek_data k ON k.id = e.kek_id JOIN secrets s ON s.id = e.secret_id
                WHERE k.plugin_name LIKE '%Simple%' AND NOT s.deleted ORDER BY e.id LIMIT 1)"),
        sql("icehouse-rows", UPGRADE, 3, "UPDATE kek_data SET plugin_name = 'barbican.crypto.p11_crypto.P11CryptoPlugin' WHERE plugin_name LIKE '%P11%'"),
        sql("plugin-unknown", CHECK, 1, "UPDATE kek_data SET plugin_name = 'site.own.Plugin' WHERE plugin_name LIKE '%Simple%'"),
        sql("vault-rows", CHECK, 1, "UPDATE secret_store_metadata SET value = 'castellan.VaultSecretStore'
            WHERE key = 'plugin_name' AND rowid < 6"),
        case("kek-status-says-so", &["kek", "status"], 3, |s| execute(s,
            &format!("UPDATE kek_data SET plugin_meta = json_set(plugin_meta, '$.hmac_label', 'old_hmac') WHERE {P11}"))),
        case("kek-migrate-too-early", &["kek", "migrate", "--yes"], 3, |_| {}),
        case("kek-migrate-refuses", &["kek", "migrate", "--yes"], 3, |s| {
            s.run(&["db", "upgrade", "d2780d5aa510", "--yes"]).expect(0);
            execute(s, &format!("UPDATE kek_data SET plugin_meta = json_set(plugin_meta, '$.hmac_label', 'old_hmac') WHERE {P11}"));
        }),
    ]);
}

#[test]
fn releases() {
    let to = |id, exit, to: &'static str| case(id, &["upgrade", "--to", to, "--yes"], exit, |_| {});
    table(
        "bad_input_releases",
        &[
            to("release-mistyped", 64, "mitakka"),
            to("release-unknown", 64, "folsom"),
            to("release-of-another-project", 64, "openstack"),
            to("release-too-new", 64, "99.0.0"),
            to("release-downgrade", 3, "kilo"),
            to("release-same", 0, "liberty"),
            to("release-skip", 3, "ocata"),
            to("release-far", 3, "2026.2"),
            case("from-contradicts-schema", &["upgrade", "--to", "ocata", "--from", "newton", "--yes"], 1, |_| {}),
            case("from-mistyped", &["upgrade", "--to", "mitaka", "--from", "libert", "--yes"], 64, |_| {}),
            case("release-ambiguous", &["upgrade", "--to", "queens", "--yes"], 1, |s| dump(s, "3.0-eol-createall")),
            case("code-contradicts-schema", &["upgrade", "--to", "queens", "--yes"], 1, |s| {
                dump(s, "3.0-eol-createall");
                s.install("15.0.1");
            }),
            case("two-versions-installed", UPGRADE, 1, |s| {
                s.install("1.0.0");
                s.write("usr/local/lib/python2.7/dist-packages/barbican-2.0.0.dist-info/METADATA", "Version: 2.0.0\n");
            }),
            case("code-above-the-catalogue", UPGRADE, 3, |s| s.install("99.0.0")),
            case("code-version-unreadable", UPGRADE, 3, |s| s.install("unknown")),
            case("code-version-missing", UPGRADE, 1, |s| {
                s.write("usr/lib/python3.11/site-packages/barbican-1.0.0.dist-info/METADATA", "Name: barbican\n");
            }),
            case("code-is-a-pre-release", UPGRADE, 3, |s| s.install("2.0.0.0rc1")),
            case("no-target-and-no-code", &["upgrade", "--yes"], 64, |_| {}),
        ],
    );
}

/// A state directory as another process at work leaves it.
fn locked(sandbox: &Sandbox) {
    use std::os::unix::fs::PermissionsExt;
    sandbox.write("var/lib/keymgr-upgrade/lock", "process 4711, upgrade\n");
    for (name, mode) in [("", 0o700), ("lock", 0o600)] {
        let path = sandbox.path("var/lib/keymgr-upgrade").join(name);
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

fn lock(sandbox: &Sandbox) -> Held {
    let directory = std::fs::File::open(sandbox.path("var/lib/keymgr-upgrade")).unwrap();
    Box::new(nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive).unwrap())
}

/// A run that waits for its code.
fn open_run(sandbox: &Sandbox) {
    sandbox.install("1.0.0");
    sandbox.run(UPGRADE).expect(4);
}

/// A file of the open run.
fn in_run(sandbox: &Sandbox, name: &str) -> String {
    let target = std::fs::read_link(sandbox.path("var/lib/keymgr-upgrade/current")).unwrap();
    format!("var/lib/keymgr-upgrade/{}/{name}", target.display())
}

#[test]
fn records() {
    const RECORD: &str = "var/lib/keymgr-upgrade/deployment.json";
    const APPROVAL: &str = "var/lib/keymgr-upgrade/approval.json";
    fn approval(sandbox: &Sandbox, at: u64, plan: &str) {
        let text = format!(
            r#"{{"format": 1, "at": {at}, "by": "root", "to": "ocata", "fast_forward": true, "plan": "{plan}", "accepted": []}}"#
        );
        sandbox.write(APPROVAL, &text);
    }
    let far = &["upgrade", "--to", "ocata", "--yes"];
    table(
        "bad_input_records",
        &[
            case("approval-expired", far, 3, |s| approval(s, 1_000_000_000, "0")),
            case("approval-torn", far, 1, |s| s.write(APPROVAL, "{\"format\": 1, \"at\": 17")),
            case("approval-of-another-plan", &["upgrade", "--to", "2026.2", "--fast-forward", "--yes"], 3, |s| {
                s.run(&["approve", "--to", "2026.2", "--fast-forward"]).expect(0);
                change(s, CONF, "default_limit_paging = 10\n", "");
                change(s, PASTE, "[filter:simple]", "[filter:other]");
                change(s, CONF, "sql_idle_timeout = 3600\n", "");
            }),
            case("record-torn", UPGRADE, 1, |s| s.write(RECORD, "{\"format\": 1")),
            case("record-of-an-unknown-release", UPGRADE, 1, |s| {
                s.write(RECORD, r#"{"format": 1, "release": "2031.1", "run": "x"}"#);
            }),
            case("record-contradicts-schema", UPGRADE, 1, |s| {
                s.write(RECORD, r#"{"format": 1, "release": "zed", "run": "x"}"#);
            }),
            case("lock-held", UPGRADE, 75, locked).hold(lock),
            case("lock-held-resume", &["resume"], 75, locked).hold(lock),
        ],
    );
}

#[test]
fn open_runs() {
    table(
        "bad_input_open_runs",
        &[
            case("run-open", UPGRADE, 4, open_run),
            case("run-open-db-upgrade", &["db", "upgrade", "--yes"], 4, open_run),
            case("run-open-check", CHECK, 2, open_run),
            case("journal-corrupt", &["resume"], 5, |s| {
                open_run(s);
                let journal = in_run(s, "journal.jsonl");
                let text = s.read(&journal).replacen("step-started", "step-sharted", 1);
                s.write(&journal, &text);
            }),
            case("journal-of-the-future", &["rollback", "--yes"], 5, |s| {
                open_run(s);
                let journal = in_run(s, "journal.jsonl");
                let text = s.read(&journal).replacen(
                    &format!("\"format\":{}", keymgr_upgrade::journal::FORMAT),
                    "\"format\":9",
                    1,
                );
                s.write(&journal, &text);
            }),
            case("plan-changed", &["resume"], 5, |s| {
                open_run(s);
                let plan = in_run(s, "plan.json");
                let text = s.read(&plan).replacen("\"to\": \"mitaka\"", "\"to\": \"newton\"", 1);
                s.write(&plan, &text);
            }),
            case("plan-missing", &["rollback", "--yes"], 5, |s| {
                open_run(s);
                remove(s, &in_run(s, "plan.json"));
            }),
        ],
    );
}

#[test]
fn usage() {
    let plain = |id, arguments: &[&str], exit| case(id, arguments, exit, |_| {});
    table(
        "bad_input_usage",
        &[
            plain("nobody-to-ask", &["upgrade", "--to", "mitaka"], 64),
            plain("nobody-to-ask-db", &["db", "upgrade"], 64),
            plain("nobody-to-ask-json", &["upgrade", "--to", "mitaka", "--json"], 64),
            plain("verb-unknown", &["upgarde"], 64),
            plain("option-unknown", &["upgrade", "--too", "mitaka"], 64),
            plain("option-without-value", &["check", "--to"], 64),
            plain("options-conflict", &["plan", "--diff", "--as-shell"], 64),
            plain("db-verb-missing", &["db"], 64),
            plain("db-revision-unknown", &["db", "upgrade", "4ecde3a3a72b", "--yes"], 64),
            plain("db-revision-older", &["db", "upgrade", "kilo", "--yes"], 0),
            plain("db-stamp-unknown", &["db", "stamp", "4ecde3a3a72b"], 64),
            plain("db-stamp-unproved", &["db", "stamp", "8c74e2d7f1ff"], 3),
            plain("backup-restore-unknown", &["backup", "restore", "20200101T000000Z", "--yes"], 1),
            plain("backup-restore-path", &["backup", "restore", "../../../../etc", "--yes"], 1),
            plain("kek-restore-none", &["kek", "restore"], 1),
            plain("kek-restore-unknown", &["kek", "restore", "20200101T000000Z"], 1),
            plain("config-restore-none", &["config", "restore"], 1),
            plain("config-restore-unknown", &["config", "restore", "20200101T000000Z"], 1),
            plain("backup-keep-not-a-number", &["backup", "prune", "--keep", "all"], 64),
            case("config-file-missing", &["db", "current", "--config-file", "/etc/barbican/other.conf"], 1, |_| {}),
        ],
    );
}

#[test]
fn a_closed_pipe_is_quiet() {
    let sandbox = Sandbox::liberty();
    for verb in [&["db", "history"][..], &["plan", "--to", "mitaka"], &["--json", "check"], &["--help"]] {
        let mut child = sandbox.command(verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{verb:?}");
        assert!(output.status.code().is_some(), "{verb:?}: {:?}", output.status);
    }
}
