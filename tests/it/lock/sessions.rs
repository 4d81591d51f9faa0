//! PostgreSQL and a single MariaDB: the lock is a session's.

use super::{Controller, HEAD, Kind, START, end, revision, start, until, value};
use crate::servers::{self, Base};

const UPGRADE: [&str; 3] = ["db", "upgrade", "--yes"];

fn base(kind: Kind) -> Base {
    let server = match kind {
        Kind::Postgresql => servers::postgresql(),
        Kind::Mariadb => servers::mariadb(),
    };
    server.database(&start(kind))
}

/// Sessions that wait for the lock, as the server tells.
fn waiting(base: &Base) -> usize {
    let sql = match base.server().kind() {
        Kind::Postgresql => "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = \
                             (SELECT oid FROM pg_database WHERE datname = current_database())"
            .to_owned(),
        Kind::Mariadb => format!(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE STATE = 'User lock' AND DB = '{}'",
            base.name()
        ),
    };
    base.sql(&sql).len()
}

/// Ends the session that holds the lock, as an administrator would, and waits until it is gone: a busy server takes its time.
fn end_holder(base: &Base) {
    match base.server().kind() {
        Kind::Postgresql => {
            let ended = base.sql(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())",
            );
            assert_eq!(ended, [[Some("t".to_owned())]]);
        }
        Kind::Mariadb => {
            let sql = format!("SELECT IS_USED_LOCK(CONCAT('keymgr-upgrade:', LEFT(SHA1('{}'), 32)))", base.name());
            let id = value(base, &sql);
            base.server().admin(&format!("KILL {id}"));
            until("the session is gone", || base.sql(&sql) == [[None]]);
        }
    }
}

fn two_at_once(kind: Kind) {
    let base = base(kind);
    let (first, second) = (Controller::on(&base.url()), Controller::on(&base.url()));
    let mut one = first.paused(&UPGRADE);
    one.until(|point| point == "run opened");
    // It also stands after the lock was named for the run.
    one.until(|point| point == "step prepared");

    second.settings("lock_timeout = 1s\n");
    let gave_up = second.run(&UPGRADE).expect(75);
    gave_up.says("locked for 1 s and longer by keymgr-upgrade");
    gave_up.says("session ");
    if kind == Kind::Postgresql {
        gave_up.says(&format!(":{}", first.root.path().display()).chars().take(8).collect::<String>());
    }
    gave_up.says("keymgr-upgrade status");
    assert_eq!((second.runs(), revision(&base)), (0, START.to_owned()));

    second.settings("lock_timeout = 60s\n");
    let two = second.spawn(&UPGRADE);
    until("the second one waits for the lock", || waiting(&base) == 1);
    one.go().expect(0);
    let two = end(two).expect(0);
    two.says("nothing to do");
    assert_eq!((first.runs(), second.runs(), revision(&base)), (1, 0, HEAD.to_owned()));
}

#[test]
fn two_at_once_on_postgresql() {
    two_at_once(Kind::Postgresql);
}

#[test]
fn two_at_once_on_mariadb() {
    two_at_once(Kind::Mariadb);
}

/// The lock ends with a killed process, and its own host goes on where another one has been meanwhile.
fn killed(kind: Kind) {
    let base = base(kind);
    let (first, second) = (Controller::on(&base.url()), Controller::on(&base.url()));
    let mut one = first.paused(&UPGRADE);
    one.until(|point| point == "step prepared");
    one.kill();
    second.settings("lock_timeout = 5s\n");
    second.run(&UPGRADE).expect(0);
    assert_eq!(revision(&base), HEAD);
    first.run(&["resume"]).expect(0).says("unchanged");
}

#[test]
fn a_killed_holder_on_postgresql() {
    killed(Kind::Postgresql);
}

#[test]
fn a_killed_holder_on_mariadb() {
    killed(Kind::Mariadb);
}

/// A lock that is lost in the middle ends the run at the next border; it can be taken up again.
fn lost(kind: Kind) {
    let base = base(kind);
    let controller = Controller::on(&base.url());
    let mut run = controller.paused(&UPGRADE);
    let mut steps = 0;
    run.until(|point| {
        steps += usize::from(point == "step applied");
        steps == 1
    });
    end_holder(&base);
    let said = run.go().expect(4);
    said.says("the lock of the database was lost");
    said.says("STOPPED HALF WAY");
    let at = revision(&base);
    assert!(at != START && at != HEAD, "stopped at {at}, not at a border in between");
    controller.run(&["resume"]).expect(0);
    assert_eq!(revision(&base), HEAD);
}

#[test]
fn a_lost_lock_on_postgresql() {
    lost(Kind::Postgresql);
}

#[test]
fn a_lost_lock_on_mariadb() {
    lost(Kind::Mariadb);
}

/// Before anything was changed, a lost lock leaves everything as it was.
#[test]
fn a_lost_lock_before_anything_was_changed() {
    let base = base(Kind::Postgresql);
    let controller = Controller::on(&base.url());
    let mut run = controller.paused(&UPGRADE);
    run.until(|point| point == "run opened");
    end_holder(&base);
    let said = run.go();
    assert!(matches!(said.code, 1 | 4), "{}", said.all());
    said.says("lost");
    assert_eq!(revision(&base), START);
}

/// `db unlock` is for what outlives a session.
#[test]
fn unlock_leaves_a_session_alone() {
    let base = base(Kind::Postgresql);
    let (first, second) = (Controller::on(&base.url()), Controller::on(&base.url()));
    second.run(&["db", "unlock", "--yes"]).expect(0).says("Nobody has the lock");
    let mut one = first.paused(&UPGRADE);
    one.until(|point| point == "step prepared");
    second.run(&["db", "unlock", "--yes"]).expect(75).says("ends with it");
    first.run(&["db", "unlock", "--yes"]).expect(75).says("another run holds the lock");
    one.go().expect(0);
}

/// An image that names a database on the network is worked on by word only.
#[test]
fn an_image_and_a_database_outside_of_it() {
    let base = base(Kind::Mariadb);
    let controller = Controller::on(&base.url());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keymgr-upgrade"));
    command.arg("--root").arg(controller.root.path()).args(["db", "current"]).env_clear();
    let said = crate::common::said(&mut command).expect(1);
    said.says("--allow-network-db");
    let said = controller.run(&["db", "current", "--json"]).expect(0);
    assert!(said.json()["next"].as_array().unwrap().iter().any(|w| w == "--allow-network-db"));
}
