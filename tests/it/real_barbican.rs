//! A genuine Liberty deployment, upgraded by the true binary, then read by a
//! real Barbican 23.0.0 and looked at by scripts that share no code with us.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

const HEAD: &str = "8c74e2d7f1ff";
const FIXTURE: &str = "tests/fixtures/liberty/liberty.sqlite";
const SCHEMA: &str = "tests/fixtures/schema/sqlite-23.0.0-createall.sql";
const REFS: [&str; 2] = ["tests/fixtures/liberty/refs-sqlite-simple.tsv", "tests/fixtures/liberty/refs-sqlite-p11.tsv"];
/// What the whole deployment answers: six soft-deleted secrets stay gone, each
/// project stores and reads a new one.
const ALL_READ: &str = r#"read {"acl": 6, "container": 12, "contents": 15, "deleted": 6, "header": 6, "order": 9, "secret": 12, "secretbin": 6, "stored": 6, "unlisted": 12}"#;
/// Puts back, from the fixture attached as `old`, what one step had written.
const UNSIGN: &str = "UPDATE kek_data SET plugin_meta = \
    (SELECT k.plugin_meta FROM old.kek_data k WHERE k.id = kek_data.id)";
const UNRECORD: &str = "UPDATE encrypted_data SET kek_meta_extended = \
    (SELECT e.kek_meta_extended FROM old.encrypted_data e WHERE e.id = encrypted_data.id)";

/// The value of a variable that `tests/lab/setup.sh` writes for us.
fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

#[expect(clippy::disallowed_methods, reason = "the test starts the programs it looks at")]
fn program(path: impl AsRef<Path>) -> Command {
    let mut command = Command::new(path.as_ref());
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

/// Runs to the end; the output of a run that fails is the test's message.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("start");
    let text = both(&output);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

fn both(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|o| String::from_utf8_lossy(o)).concat()
}

/// The root of a genuine Liberty deployment.
pub(crate) struct Deployment {
    base: TempDir,
}

impl Deployment {
    fn liberty() -> Self {
        let base = tempfile::Builder::new().prefix("keymgr-real-").tempdir().expect("tempdir");
        run(program("tests/lab/sandbox.sh").arg(base.path().join("root")));
        Self { base }
    }

    /// Upgraded from Liberty to 2026.2 in one run, as an operator does it.
    pub(crate) fn upgraded() -> Self {
        let deployment = Self::liberty();
        let to = ["--to", "2026.2", "--fast-forward"];
        run(deployment.keymgr().arg("approve").args(to));
        run(deployment.keymgr().arg("upgrade").args(to).arg("--yes"));
        deployment
    }

    fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    fn database(&self) -> PathBuf {
        self.root().join("var/lib/barbican/barbican.sqlite")
    }

    fn with_token<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("SOFTHSM2_CONF", self.root().join("etc/softhsm/softhsm2.conf")).env("P11SHIM_LIBERTY", "1")
    }

    fn keymgr(&self) -> Command {
        let mut command = program(env!("CARGO_BIN_EXE_keymgr-upgrade"));
        self.with_token(&mut command)
            .arg("--root")
            .arg(self.root())
            .args(["--pkcs11-module", &lab("KEYMGR_TEST_P11SHIM")]);
        command
    }

    fn python(&self, script: &str) -> Command {
        let mut command = program(Path::new(&lab("KEYMGR_TEST_VENV_BARBICAN")).join("bin/python"));
        self.with_token(&mut command).arg(script);
        command
    }

    /// Schema and rows, by a script that knows only SQLite.
    fn compare_database(&self) -> String {
        run(self.python("tests/lab/check_database.py").arg(FIXTURE).arg(self.database()).args([SCHEMA, HEAD]))
    }

    /// How the token itself says the KEKs are signed.
    fn signatures(&self) -> String {
        run(self
            .python("tests/lab/check_keks.py")
            .args([&lab("KEYMGR_TEST_SOFTHSM"), "liberty", "1234"])
            .arg(self.database()))
    }

    /// Changes the database behind everybody's back.
    fn sql(&self, statement: &str) {
        run(self
            .python("-c")
            .arg(
                "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); \
                 d.execute('ATTACH ? AS old', (sys.argv[2],)); \
                 d.execute(sys.argv[3]); d.commit()",
            )
            .arg(self.database())
            .args([FIXTURE, statement]));
    }

    fn barbican_db_manage(&self, verb: &str) -> String {
        let tool = Path::new(&lab("KEYMGR_TEST_VENV_BARBICAN")).join("bin/barbican-db-manage");
        let url = format!("sqlite:///{}", self.database().display());
        run(program(tool).env("HOME", self.base.path()).args(["--dburl", &url, verb]))
    }

    pub(crate) fn serve(&self) -> Barbican {
        let home = self.base.path().join("home");
        fs::create_dir_all(&home).expect("home");
        let module = format!("p11_crypto_plugin.library_path={}", lab("KEYMGR_TEST_P11SHIM"));
        let mut child = self
            .python("tests/lab/serve_barbican.py")
            .arg("--root")
            .arg(self.root())
            .arg("--home")
            .arg(&home)
            .args(["--set", &module])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start Barbican");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("read");
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", port, "23.0.0"] = words[..] else {
            panic!("Barbican 23.0.0 did not start: {line:?}");
        };
        Barbican { port: port.to_owned(), child }
    }

    /// Reads everything through a Barbican; the report ends with the counts.
    fn read_all(&self) -> Output {
        let barbican = self.serve();
        self.python("tests/lab/read_refs.py").args([&barbican.port, FIXTURE]).args(REFS).output().expect("read")
    }
}

/// A real Barbican, up as long as this lives.
pub(crate) struct Barbican {
    pub(crate) port: String,
    child: Child,
}

impl Drop for Barbican {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // the end of its input is the end of it
        let _ = self.child.wait();
    }
}

#[test]
fn barbican_reads_every_secret_of_both_plugins() {
    let deployment = Deployment::upgraded();
    let output = deployment.read_all();
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ALL_READ);
}

#[test]
fn schema_rows_and_signatures_are_right_by_an_independent_check() {
    let before = Deployment::liberty();
    assert_eq!(before.signatures().trim(), r#"{"new": 0, "old": 3, "neither": 0}"#);
    let after = Deployment::upgraded();
    assert_eq!(after.compare_database().trim(), r#"{"objects": 61, "rows": 245, "values_changed": 18}"#);
    assert_eq!(after.signatures().trim(), r#"{"new": 3, "old": 0, "neither": 0}"#);
}

#[test]
fn barbican_db_manage_accepts_the_database_and_has_nothing_to_do() {
    let deployment = Deployment::upgraded();
    let before = fs::read(deployment.database()).expect("read");
    assert!(deployment.barbican_db_manage("current").contains(&format!("{HEAD} (head)")));
    deployment.barbican_db_manage("upgrade");
    assert!(fs::read(deployment.database()).expect("read") == before, "the file changed");
}

/// Each half of the data step left out makes the p11 secrets, and only those,
/// unreadable: what the other tests see is the tool's doing.
#[test]
fn barbican_cannot_read_what_a_left_out_step_left_behind() {
    let deployment = Deployment::upgraded();
    let upgraded = fs::read(deployment.database()).expect("read");
    for undo in [UNSIGN, UNRECORD] {
        deployment.sql(undo);
        let output = deployment.read_all();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "read without: {undo}");
        for line in text.lines().filter(|l| !l.starts_with("read ")) {
            assert!(line.contains("p11-") && line.contains("500"), "{line}");
        }
        // 9 listed and 3 unlisted live p11 secrets.
        let unread = |kind: &str| text.matches(&format!("WRONG {kind} ")).count();
        let counts = ["secret", "secretbin", "unlisted"].map(unread);
        assert_eq!(counts, [6, 3, 3], "{text}");
        #[expect(clippy::disallowed_methods, reason = "puts a test's own file back")]
        fs::write(deployment.database(), &upgraded).expect("write");
    }
}
