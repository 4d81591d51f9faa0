//! A server that goes away in the middle of a statement, or is held up by others: one error and the next command, and `resume` ends where an
//! undisturbed run ends.

use std::process::{Child, Stdio};

use super::{Controller, HEAD, Kind, START, revision, start, until};
use crate::common::Said;
use crate::server_schema::Look;
use crate::servers::{Base, Private};

const UPGRADE: [&str; 3] = ["db", "upgrade", "--yes"];

/// One error with these words, and the next command.
#[track_caller]
fn stopped(said: Said, words: &str) {
    let said = said.expect(4);
    assert_eq!(said.err.lines().filter(|line| line.starts_with("error:")).count(), 1, "{}", said.all());
    said.says(words);
    assert!(said.all().contains("Next: keymgr-upgrade "), "{}", said.all());
}

/// Ends every session of Barbican's user, as a network or an administrator does.
fn cut(base: &Base) {
    let server = base.server();
    match server.kind() {
        Kind::Postgresql => server.admin(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND usename = 'barbican'",
            base.name()
        )),
        Kind::Mariadb => {
            let all = format!(
                "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = '{}' AND USER = 'barbican'",
                base.name()
            );
            for id in base.sql(&all).into_iter().flatten().flatten() {
                server.admin(&format!("KILL {id}"));
            }
        }
    }
}

/// A session of the administrator that keeps a table to itself until this is dropped.
struct Holder<'a>(Child, &'a Base);

impl<'a> Holder<'a> {
    fn of(base: &'a Base, table: &str) -> Self {
        let server = base.server();
        let name = base.name();
        let (program, arguments, sql) = match server.kind() {
            Kind::Postgresql => (
                "psql",
                vec!["-X".to_owned(), "-U".into(), "postgres".into(), "-h".into(), server.dir().display().to_string()],
                format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)"),
            ),
            Kind::Mariadb => (
                "mariadb",
                vec![
                    "--no-defaults".to_owned(),
                    "-u".into(),
                    "root".into(),
                    "-S".into(),
                    server.socket().display().to_string(),
                ],
                format!("LOCK TABLES {table} WRITE; DO SLEEP(600)"),
            ),
        };
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        match server.kind() {
            Kind::Postgresql => command.args(["-p", &server.port().to_string(), "-d", name, "-c", &sql]),
            Kind::Mariadb => command.args([name, "-e", &sql]),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let waits = match server.kind() {
            Kind::Postgresql => {
                format!("SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND wait_event = 'PgSleep'")
            }
            Kind::Mariadb => {
                format!("SELECT 1 FROM information_schema.PROCESSLIST WHERE DB = '{name}' AND STATE = 'User sleep'")
            }
        };
        until("the table is locked", || !base.sql(&waits).is_empty());
        Self(child, base)
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
        // A session of PostgreSQL that sleeps does not see that its client is gone.
        if self.1.server().kind() == Kind::Postgresql {
            let sleeps = format!("datname = '{}' AND wait_event = 'PgSleep'", self.1.name());
            self.1.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {sleeps}"));
        }
    }
}

/// One after the other on one server, which is killed in the end.
fn away(kind: Kind) {
    // What is committed stays, as on an operator's server; the others of the lab care for speed alone.
    let options: &[&str] = match kind {
        Kind::Postgresql => &[],
        Kind::Mariadb => &["--innodb-flush-log-at-trx-commit=1"],
    };
    let private = Private::start(kind, &[], options);
    let server = &private.server;
    let mut look = Look::start();
    let empty = server.database(&start(kind));
    let text = start(kind) + &look.inserts(&empty.url());
    let whole = server.database(&text);
    Controller::on(&whole.url()).run(&UPGRADE).expect(0);
    let mut ended = |base: &Base, controller: &Controller, what: &str| {
        controller.run(&["resume"]).expect(0);
        assert_eq!(revision(base), HEAD, "{what}");
        assert_eq!(look.all(&base.url(), &whole.url()), [""; 0], "{what}");
    };

    let base = server.database(&text);
    let controller = Controller::on(&base.url());
    let mut run = controller.paused(&UPGRADE);
    run.until(|point| point.contains("statement run"));
    cut(&base);
    stopped(run.go(), base.url().rsplit_once('@').unwrap().1);
    ended(&base, &controller, "the connection was cut");

    let base = server.database(&text);
    let controller = Controller::on(&base.url());
    controller.settings("lock_timeout = 3s\n");
    let mut run = controller.paused(&UPGRADE);
    run.until(|point| point == "step prepared");
    let holder = Holder::of(&base, "orders");
    stopped(run.go(), "lock");
    drop(holder);
    controller.settings("lock_timeout = 30s\n");
    ended(&base, &controller, "a table was locked");

    let base = server.database(&text);
    assert_eq!(revision(&base), START);
    let controller = Controller::on(&base.url());
    let mut run = controller.paused(&UPGRADE);
    run.until(|point| point.contains("statement run"));
    private.kill();
    stopped(run.go(), base.url().rsplit_once('@').unwrap().1);
    // As long as it is away nothing can be done, and that is all that is said.
    controller.settings("lock_timeout = 1s\nwait = 1s\n");
    let still = controller.run(&["resume"]);
    assert!(matches!(still.code, 1 | 4), "{}", still.all());
    assert!(still.all().contains("Next: keymgr-upgrade "), "{}", still.all());
    private.again(options);
    controller.settings("lock_timeout = 30s\n");
    ended(&base, &controller, "the server was killed");
}

#[test]
fn a_connection_a_table_and_a_server_on_postgresql() {
    away(Kind::Postgresql);
}

#[test]
fn a_connection_a_table_and_a_server_on_mariadb() {
    away(Kind::Mariadb);
}

/// What a statement did stays on MariaDB, though the ledger does not tell; where there is no copy, nothing takes it back.
#[test]
fn half_a_revision_without_a_copy_is_not_taken_for_none() {
    let private = Private::start(Kind::Mariadb, &[], &[]);
    let base = private.server.database(&start(Kind::Mariadb));
    let controller = Controller::on(&base.url());
    controller.run(&["db", "upgrade", "0f8c192a061f", "--yes"]).expect(0);
    let mut run = controller.paused(&UPGRADE);
    let mut statements = 0;
    run.until(|point| {
        statements += u32::from(point == "statement run");
        statements == 4
    });
    run.kill();
    let said = controller.run(&["rollback", "--yes"]).expect(3);
    said.says("stopped half way, without a backup");
    said.says("nothing was undone");
    controller.run(&["resume"]).expect(0);
    assert_eq!(revision(&base), HEAD);
}
