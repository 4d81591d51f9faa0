//! Backup and restore on PostgreSQL and MariaDB by the true binary: what is put back is what there was, whatever was killed on the way.

mod by_hand;
mod secret;
mod trouble;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keymgr_upgrade::db::{Access, Database, Dialect, FIRST, Url};

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
    assert_eq!((&about["format"], &about["dialect"]), (&3.into(), &dialect.name().into()));
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

/// A rollback that is killed while it restores is taken up by the next one.
fn rolled_back_after_a_kill(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    let before = dumped(&deployment.base);
    for point in ["piece fed:1", "piece fed:2", "database restored:1"] {
        deployment.upgrade("mitaka");
        let mut command = deployment.command(&["rollback", "--yes"]);
        said(command.env("KEYMGR_UPGRADE_CRASH_AT", point)).expect(KILLED);
        deployment.sandbox.run(&["rollback", "--yes"]).expect(0);
        similar_asserts(&before, &dumped(&deployment.base));
    }
}

#[test]
fn postgresql_is_rolled_back_after_a_kill() {
    rolled_back_after_a_kill(Dialect::Postgresql);
}

#[test]
fn mariadb_is_rolled_back_after_a_kill() {
    rolled_back_after_a_kill(Dialect::Mysql);
}

/// Takes a backup over each of these parameters of the URL: user, host, what stands after `?`.
fn taken_however_connected(base: &Base, ways: &[(&str, String, String)]) {
    for (user, host, parameters) in ways {
        let url = Url::parse(&base.url_with(user, host, parameters).into()).unwrap();
        let database = Database::open(&url, Path::new(""), Access::ReadOnly, Duration::from_secs(20)).unwrap();
        assert_eq!(database.backup_problems().unwrap(), [], "{url}");
        let directory = tempfile::tempdir().unwrap();
        let fingerprint = database.backup_to(&directory.path().join("dump")).unwrap_or_else(|e| panic!("{url}: {e}"));
        assert_eq!(fingerprint, database.fingerprint().unwrap());
        let mut files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["dump", FIRST]);
    }
}

#[test]
fn postgresql_is_dumped_however_connected() {
    let server = servers::postgresql();
    let base = server.database(&dump(Dialect::Postgresql, "chain-4ecde3a3a72a-liberty"));
    server.admin("GRANT barbican TO tls_only, tls_client");
    // libpq wants the key to be the user's own.
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    std::fs::write(&key, std::fs::read(server.tls("client.key")).unwrap()).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let checked = format!("sslmode=verify-full&sslrootcert={}", server.tls("ca.pem"));
    let identity = format!("{checked}&sslcert={}&sslkey={}", server.tls("client.pem"), key.display());
    let (host, port) = (format!("localhost:{}", server.port()), server.port());
    let socket = format!("host={}&port={port}&options=-csearch_path%3Dpublic", server.dir().display());
    taken_however_connected(
        &base,
        &[("tls_only", host.clone(), checked), ("tls_client", host, identity), ("barbican", String::new(), socket)],
    );
}

#[test]
fn mariadb_is_dumped_however_connected() {
    let server = servers::mariadb();
    let base = server.database(&dump(Dialect::Mysql, "chain-4ecde3a3a72a-liberty"));
    let checked = format!("ssl_ca={}", server.tls("ca.pem"));
    let identity = format!("{checked}&ssl_cert={}&ssl_key={}", server.tls("client.pem"), server.tls("client.key"));
    let host = format!("localhost:{}", server.port());
    let loose = format!("{checked}&ssl_check_hostname=false");
    taken_however_connected(
        &base,
        &[
            ("tls_only", host.clone(), checked),
            ("tls_only", host.clone(), loose),
            ("tls_client", host.clone(), identity),
            ("tls_only", host, String::new()),
            ("barbican", String::new(), format!("unix_socket={}", server.socket().display())),
        ],
    );
}
