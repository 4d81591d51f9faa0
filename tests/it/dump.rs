//! Backup and restore on PostgreSQL and MariaDB by the true binary: what is put back is what there was, whatever was killed on the way.

mod by_hand;
mod trouble;

use std::path::{Path, PathBuf};
use std::process::Command;

use keymgr_upgrade::db::Dialect;

use crate::common::{Said, Sandbox, said};
use crate::server_schema::{Look, dump, dumped};
use crate::servers::{self, Base, PASSWORD, Server};

/// What SIGKILL makes of an exit code.
const KILLED: i32 = 137;

/// Tables that are not Barbican's, in the same database. One has the name of our lock, which is never part of a backup.
const OWN: &str = "CREATE TABLE own_notes (id INTEGER NOT NULL PRIMARY KEY, note VARCHAR(99));
    INSERT INTO own_notes VALUES (1, 'before');
    CREATE TABLE keymgr_upgrade_lock (id INTEGER NOT NULL PRIMARY KEY);
    INSERT INTO keymgr_upgrade_lock VALUES (1);";

/// The genuine Liberty deployment with its database on a server, among tables of the operator's own.
struct Deployment {
    sandbox: Sandbox,
    base: Base,
}

impl Deployment {
    fn new(dialect: Dialect) -> Self {
        Self::on(dialect, &crate::server_schema::server(dialect))
    }

    fn on(dialect: Dialect, server: &Server) -> Self {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/liberty/liberty-mariadb.sql");
        let fixture = std::fs::read_to_string(fixture).unwrap();
        let base = if dialect == Dialect::Mysql {
            server.database(&fixture)
        } else {
            let base = server.database(&dump(dialect, "chain-4ecde3a3a72a-liberty"));
            Look::start().copy(&servers::mariadb().database(&fixture).url(), &base.url());
            base
        };
        base.load(OWN);
        // What a text file, a shell and each of the two servers could stumble over.
        let awkward = match dialect {
            Dialect::Postgresql => "E'it''s \\\\ \"x\" \\n\\r\\t \\\\. $$ \u{fc}\u{20ac} --; /* */ \\\\N'",
            _ => "'it''s \\\\ \"x\" \\n\\r\\t\\0\\Z \\\\. ` \u{fc} --; /* */ \\\\N'",
        };
        base.load(&format!("UPDATE secrets SET name = {awkward};"));
        let sandbox = Sandbox::liberty();
        let conf = sandbox.read("etc/barbican/barbican.conf");
        let (head, tail) = conf.split_once("sql_connection = ").unwrap();
        let (_, tail) = tail.split_once('\n').unwrap();
        sandbox.write("etc/barbican/barbican.conf", &format!("{head}sql_connection = {}\n{tail}", base.url()));
        std::fs::remove_file(sandbox.path("var/lib/barbican/barbican.sqlite")).unwrap();
        Self { sandbox, base }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.sandbox.command(arguments)
    }

    fn approve(&self) {
        self.sandbox.run(&["approve", "--to", "mitaka"]).expect(0);
    }

    /// Upgrades to a release, with a backup; returns the id of the run.
    fn upgrade(&self, release: &str) -> String {
        self.sandbox.upgrade(release);
        self.run()
    }

    /// The newest run.
    fn run(&self) -> String {
        let runs = std::fs::read_dir(self.sandbox.path("var/lib/keymgr-upgrade/runs")).unwrap();
        runs.map(|run| run.unwrap().file_name().into_string().unwrap()).max().unwrap()
    }

    fn backup(&self, run: &str) -> PathBuf {
        self.sandbox.path(&format!("var/lib/keymgr-upgrade/runs/{run}/backup"))
    }

    /// The dump itself.
    fn copy(&self, run: &str) -> PathBuf {
        let name =
            if self.base.server().kind() == servers::Kind::Postgresql { "database.pgdump" } else { "database.sql" };
        self.backup(run).join(name)
    }

    fn restore(&self, run: &str) -> Said {
        self.sandbox.run(&["backup", "restore", run, "--yes"])
    }

    /// Processes that still work on this database.
    fn processes(&self) -> Vec<String> {
        let all =
            std::fs::read_dir("/proc").unwrap().filter_map(|p| std::fs::read(p.unwrap().path().join("cmdline")).ok());
        let all = all.map(|c| String::from_utf8_lossy(&c).replace('\0', " "));
        let clients = ["pg_dump", "pg_restore", "psql", "mariadb", "mysql"];
        all.filter(|c| c.contains(self.base.name()) && clients.iter().any(|p| c.starts_with(p))).collect()
    }
}

fn restored_after_a_migration(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    let before = dumped(&deployment.base);
    let run = deployment.upgrade("2026.2");
    assert_ne!(dumped(&deployment.base), before);
    deployment.base.load("INSERT INTO own_notes VALUES (2, 'after'); DELETE FROM own_notes WHERE id = 1;");

    let backup = deployment.backup(&run);
    let about: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(backup.join("database.json")).unwrap()).unwrap();
    assert_eq!((&about["format"], &about["dialect"]), (&2.into(), &dialect.name().into()));
    assert!(about["rows"]["secrets"].as_u64().unwrap() > 0 && about["rows"].get("own_notes").is_none(), "{about}");
    let keks: Vec<serde_json::Value> =
        serde_json::from_str(&std::fs::read_to_string(backup.join("kek_data.json")).unwrap()).unwrap();
    assert_eq!(keks.len() as u64, about["rows"]["kek_data"].as_u64().unwrap());
    assert!(keks.iter().all(|k| k["id"].is_string() && k["plugin_name"].is_string() && k["project_id"].is_string()));
    for file in std::fs::read_dir(&backup).unwrap().map(|f| f.unwrap()) {
        use std::os::unix::fs::PermissionsExt as _;
        let bytes = std::fs::read(file.path()).unwrap();
        // Copies of the operator's files keep what they hold; nothing of ours has it.
        let ours = !file.file_name().to_string_lossy().starts_with("files!");
        assert!(!ours || !String::from_utf8_lossy(&bytes).contains(PASSWORD), "{:?}", file.path());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }

    let said = deployment.restore(&run).expect(0);
    said.says("restored, fingerprint checked");
    let own = deployment.base.sql("SELECT id, note FROM own_notes");
    assert_eq!(own, [[Some("2".to_owned()), Some("after".to_owned())]], "the operator's own tables are not touched");
    deployment.base.load("INSERT INTO own_notes VALUES (1, 'before'); DELETE FROM own_notes WHERE id = 2;");
    similar_asserts(&before, &dumped(&deployment.base));
    deployment.restore(&run).expect(0).says("unchanged");
    // From there, all of it again.
    deployment.sandbox.run(&["db", "verify"]).expect(0);
}

/// Equal, or the first lines that are not.
#[track_caller]
fn similar_asserts(before: &str, after: &str) {
    let differs = before.lines().zip(after.lines()).find(|(a, b)| a != b);
    assert!(differs.is_none() && before.lines().count() == after.lines().count(), "{differs:?}");
}

#[test]
fn postgresql_is_restored_after_a_migration() {
    restored_after_a_migration(Dialect::Postgresql);
}

#[test]
fn mariadb_is_restored_after_a_migration() {
    restored_after_a_migration(Dialect::Mysql);
}

/// Killed at each of its points, with the programs that it runs; then again.
fn restored_after_a_kill(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    let before = dumped(&deployment.base);
    let run = deployment.upgrade("mitaka");
    let log = deployment.sandbox.log();
    let again = |at: usize| {
        let mut command = deployment.command(&["backup", "restore", &run, "--yes"]);
        command.env("KEYMGR_UPGRADE_CRASH_AT", at.to_string()).env("KEYMGR_UPGRADE_CRASH_LOG", &log);
        said(&mut command)
    };
    let mut kills = 0;
    for at in 1.. {
        let after = dumped(&deployment.base);
        let said = again(at);
        if said.code != KILLED {
            said.expect(0);
            break;
        }
        kills += 1;
        let points = std::fs::read_to_string(&log).unwrap();
        let point = points.lines().last().unwrap();
        // The server takes a moment to see that a client is gone; they themselves are gone with us.
        while !deployment.processes().is_empty() {
            std::thread::yield_now();
        }
        let now = dumped(&deployment.base);
        let whole = now == before || now == after;
        assert!(whole || dialect == Dialect::Mysql, "half restored at {point}");
        deployment.restore(&run).expect(0);
        similar_asserts(&before, &dumped(&deployment.base));
        // Not the whole way once more: a row makes it another database.
        deployment.base.load("UPDATE secrets SET name = 'other'; DROP TABLE secret_store_metadata;");
    }
    let points = std::fs::read_to_string(&log).unwrap();
    assert!(points.contains("piece fed") && points.contains("database restored"), "{points}");
    assert!(kills >= 3, "{kills}");
}

#[test]
fn postgresql_is_restored_after_a_kill() {
    restored_after_a_kill(Dialect::Postgresql);
}

#[test]
fn mariadb_is_restored_after_a_kill() {
    restored_after_a_kill(Dialect::Mysql);
}
