//! The genuine Liberty deployment on MariaDB, and its rows on PostgreSQL: upgraded by the true binary, compared with
//! what Barbican's own migrations made of the very same database, then read by a real Barbican 23.0.0.
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use keymgr_upgrade::db::Dialect;
use serde_json::{Map, Value};

use crate::{
    common::{Sandbox, lab},
    moving,
    server_schema::{Allowances, Content, HEAD, Look, Row, Upstream, db_manage, dump, dumped, server},
    servers::{self, Base},
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/liberty");
const REFS: [&str; 2] = ["refs-my-simple.tsv", "refs-my-p11.tsv"];
/// What the whole deployment answers: six soft-deleted secrets stay gone, each project stores and reads a new one.
const ALL_READ: &str = r#"read {"acl": 6, "container": 12, "contents": 15, "deleted": 6, "header": 6, "order": 9, "secret": 12, "secretbin": 6, "stored": 6, "unlisted": 12}"#;

fn fixture(name: &str) -> String {
    std::fs::read_to_string(Path::new(FIXTURES).join(name)).unwrap()
}

/// The genuine deployment with its database on a server, and that database once more, as it was.
struct Deployment {
    sandbox: Sandbox,
    live: Base,
    before: Base,
}

impl Deployment {
    fn mariadb() -> Self {
        let load = || servers::mariadb().database(&fixture("liberty-mariadb.sql"));
        Self::on(load(), load())
    }

    /// No PostgreSQL database of that time is at hand: the rows of the MariaDB one in the schema that Liberty's
    /// migrations make on PostgreSQL.
    fn postgresql() -> Self {
        let mariadb = servers::mariadb().database(&fixture("liberty-mariadb.sql"));
        let load = || {
            let schema = dump(Dialect::Postgresql, "chain-4ecde3a3a72a-liberty");
            let base = server(Dialect::Postgresql).database(&schema);
            Look::start().copy(&mariadb.url(), &base.url());
            base
        };
        Self::on(load(), load())
    }

    fn on(live: Base, before: Base) -> Self {
        let sandbox = Sandbox::liberty();
        let conf = sandbox.read("etc/barbican/barbican.conf");
        let (head, tail) = conf.split_once("sql_connection = ").unwrap();
        let (_, tail) = tail.split_once('\n').unwrap();
        sandbox.write("etc/barbican/barbican.conf", &format!("{head}sql_connection = {}\n{tail}", live.url()));
        std::fs::remove_file(sandbox.path("var/lib/barbican/barbican.sqlite")).unwrap();
        Self { sandbox, live, before }
    }

    fn upgraded(self) -> Self {
        self.sandbox.upgrade("2026.2");
        self
    }

    fn python(&self, script: &str) -> Command {
        let mut command = Command::new(Path::new(&lab("KEYMGR_TEST_VENV_BARBICAN")).join("bin/python"));
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("SOFTHSM2_CONF", self.sandbox.path(crate::common::SOFTHSM_CONF))
            .env("P11SHIM_LIBERTY", "1")
            .stdin(Stdio::null())
            .arg(script);
        command
    }

    fn serve(&self) -> Barbican {
        let home = tempfile::tempdir().unwrap();
        let mut child = self
            .python("tests/lab/serve_barbican.py")
            .arg("--root")
            .arg(self.sandbox.root())
            .arg("--home")
            .arg(home.path())
            .arg("--set")
            .arg(format!("p11_crypto_plugin.library_path={}", lab("KEYMGR_TEST_P11SHIM")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ["ready", port, "23.0.0"] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("Barbican 23.0.0 did not start: {line:?}");
        };
        Barbican { port: port.to_owned(), child, _home: home }
    }

    /// Reads everything through a Barbican; the report ends with the counts.
    fn read_all(&self) -> Output {
        let barbican = self.serve();
        let mut command = self.python("tests/lab/read_refs.py");
        command.arg(&barbican.port).arg(self.before.url()).args(REFS.map(|name| Path::new(FIXTURES).join(name)));
        command.output().unwrap()
    }
}

/// A real Barbican, up as long as this lives.
struct Barbican {
    port: String,
    child: Child,
    _home: tempfile::TempDir,
}

impl Drop for Barbican {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // the end of its input is the end of it
        let _ = self.child.wait();
    }
}

fn both(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|o| String::from_utf8_lossy(o)).concat()
}

fn object(value: &Option<String>) -> Map<String, Value> {
    serde_json::from_str(value.as_deref().unwrap_or("{}")).unwrap()
}

/// What our KEK and mechanism steps add to what the schema's migrations make: a new signature of a p11 KEK, and the
/// mechanism of a payload encrypted with it. Returns how many values; anything else is a failure.
fn added(ours: &Content, theirs: &Content) -> [usize; 2] {
    let mut counts = [0; 2];
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let id = |row: &Row| row.get("id").cloned();
    for (table, rows) in ours {
        let (mut rows, mut others) = (rows.clone(), theirs[table].clone());
        rows.sort_by_key(id);
        others.sort_by_key(id);
        assert_eq!(rows.len(), others.len(), "{table}");
        for (row, other) in rows.iter().zip(&others) {
            assert_eq!(row.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{table}");
            for (column, value) in row.iter().filter(|(column, value)| other[*column] != **value) {
                let (at, field) = match (table.as_str(), column.as_str()) {
                    ("kek_data", "plugin_meta") => (0, "hmac"),
                    ("encrypted_data", "kek_meta_extended") => (1, "mechanism"),
                    _ => panic!("{table}.{column}: {value:?} instead of {:?}", other[column]),
                };
                let (mut new, mut old) = (object(value), object(&other[column]));
                assert!(new.remove(field).is_some(), "{table}.{column} has no {field}");
                old.remove(field);
                assert_eq!(new, old, "{table}.{column}: more than {field} changed");
                counts[at] += 1;
            }
        }
    }
    counts
}

#[test]
fn mariadb_liberty_ends_where_barbicans_own_migrations_end() {
    let (deployment, mut look) = (Deployment::mariadb(), Look::start());
    let start = look.rows(&deployment.before.url());
    // The signatures are repaired on the way to Mitaka, the mechanisms are recorded in Rocky.
    for (release, revision, theirs, values) in [
        ("ocata", "39cf2e645cba", "ocata-from-liberty-mariadb.sql", [3, 0]),
        ("2026.2", HEAD, "head-from-liberty-mariadb.sql", [3, 15]),
    ] {
        deployment.sandbox.upgrade(release);
        let theirs = servers::mariadb().database(&fixture(theirs));
        let differences = look.schema(&deployment.live.url(), &theirs.url());
        let start = "chain-4ecde3a3a72a-liberty";
        assert_eq!(Allowances::of(Dialect::Mysql).without_allowed(start, revision, differences), [""; 0]);
        let (ours, theirs) = (look.rows(&deployment.live.url()), look.rows(&theirs.url()));
        assert_eq!(added(&ours, &theirs), values, "{release}");
    }
    // And theirs is the same deployment: it has the rows of the start.
    assert_eq!(start["secrets"].len(), 36);
}

#[test]
fn mariadb_barbican_reads_every_secret_of_both_plugins() {
    let output = Deployment::mariadb().upgraded().read_all();
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ALL_READ);
}

/// keymgr-upgrade-moving(7) as it is written, with this database brought to a new controller.
fn moved(deployment: Deployment) -> Deployment {
    let controller = moving::controller(&Sandbox::liberty(), &deployment.live.url());
    Deployment { sandbox: moving::by_the_page(&controller), ..deployment }
}

#[test]
fn mariadb_moved_to_a_new_controller_is_read_by_barbican() {
    let output = moved(Deployment::mariadb()).read_all();
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ALL_READ);
}

#[test]
fn postgresql_moves_to_a_new_controller() {
    let deployment = Deployment::postgresql();
    // What `check` would ask for in the end.
    deployment.live.sql(&format!("ALTER DATABASE {} SET bytea_output = 'escape'", deployment.live.name()));
    moved(deployment);
}

/// Barbican on Python 3 cannot read what it stores on PostgreSQL itself, with p11_crypto: bytes become hexadecimal text
/// in a text column. What was there before it reads, and that alone is ours.
#[test]
fn postgresql_barbican_reads_every_secret_of_both_plugins() {
    let output = Deployment::postgresql().upgraded().read_all();
    let text = String::from_utf8_lossy(&output.stdout);
    let (wrong, counts): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("WRONG "));
    assert_eq!(counts, [ALL_READ.replace(r#""stored": 6, "#, "")], "{}", both(&output));
    assert!(wrong.len() == 6 && wrong.iter().all(|line| line.starts_with("WRONG stored ")), "{text}");
}

/// Each half of the data step left out makes the p11 secrets, and only those, unreadable: what the other tests see is
/// the tool's doing.
#[test]
fn mariadb_barbican_cannot_read_what_a_left_out_step_left_behind() {
    let deployment = Deployment::mariadb().upgraded();
    let (live, before) = (deployment.live.name(), deployment.before.name());
    for (table, column) in [("kek_data", "plugin_meta"), ("encrypted_data", "kek_meta_extended")] {
        let take = |from: &str| {
            let sql = format!("UPDATE {live}.{table} n JOIN {from} o USING (id) SET n.{column} = o.{column}");
            deployment.live.sql(&sql);
        };
        let kept = format!("{before}.upgraded_{table}");
        deployment.live.sql(&format!("CREATE TABLE {kept} SELECT * FROM {live}.{table}"));
        take(&format!("{before}.{table}"));
        let output = deployment.read_all();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "read without {table}.{column}");
        for line in text.lines().filter(|l| !l.starts_with("read ")) {
            assert!(line.contains("p11-") && line.contains("500"), "{line}");
        }
        // 9 listed and 3 unlisted live p11 secrets.
        let unread = |kind: &str| text.matches(&format!("WRONG {kind} ")).count();
        let counts = ["secret", "secretbin", "unlisted"].map(unread);
        assert_eq!(counts, [6, 3, 3], "{text}");
        take(&kept);
    }
}

fn nothing_to_do(deployment: &Deployment) {
    let before = dumped(&deployment.live);
    let url = deployment.live.url();
    db_manage(Upstream::New, &url, &["current"]).expect(0).says(&format!("{HEAD} (head)"));
    db_manage(Upstream::New, &url, &["upgrade"]).expect(0);
    assert!(dumped(&deployment.live) == before, "the database changed");
}

#[test]
fn barbican_db_manage_has_nothing_to_do_on_either_server() {
    nothing_to_do(&Deployment::mariadb().upgraded());
    nothing_to_do(&Deployment::postgresql().upgraded());
}

/// `plan --as-shell` in the hands of an operator who types the password ends where the upgrade ends.
fn by_hand_as_by_us(by_hand: &Deployment, by_us: Deployment) {
    let said = by_hand.sandbox.run(&["plan", "--to", "2026.2", "--fast-forward", "--as-shell"]).expect(0);
    assert!(!said.all().contains(&servers::PASSWORD[..4]), "{}", said.all());
    let script = by_hand.sandbox.root().join("../procedure.sh");
    // What the operator puts in by hand: the password where a client asks for it, and where the diff masks it.
    let text = said.out.replace(" --password ", " --password=\"$PGPASSWORD\" ");
    let url = by_hand.live.url();
    let credentials = url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).unwrap().0;
    std::fs::write(&script, text.replace("://***@", &format!("://{credentials}@"))).unwrap();
    let mut command = Command::new("sh");
    command.arg(&script).stdin(Stdio::null()).env_clear().env("PGPASSWORD", servers::PASSWORD);
    for (name, value) in by_hand.sandbox.command(&[]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_keymgr-upgrade")).parent().unwrap();
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", binary.display()));
    crate::common::said(&mut command).expect(0);
    let by_us = by_us.upgraded();
    assert_eq!(Look::start().all(&by_hand.live.url(), &by_us.live.url()), [""; 0]);
}

#[test]
fn mariadb_by_hand() {
    by_hand_as_by_us(&Deployment::mariadb(), Deployment::mariadb());
}

#[test]
fn postgresql_by_hand() {
    by_hand_as_by_us(&Deployment::postgresql(), Deployment::postgresql());
}
