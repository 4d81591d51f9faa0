//! PgBouncer in between: what lends server sessions makes a lock worth nothing.

use super::{Controller, HEAD, Kind, START, Served, place, revision, start};
use crate::servers::{self, Base, PASSWORD};

const UPGRADE: [&str; 3] = ["db", "upgrade", "--yes"];

/// PgBouncer in front of the shared server, and the URL through it.
fn pgbouncer(base: &Base, mode: &str) -> (Served, String, tempfile::TempDir) {
    let place = place();
    let directory = place.path().join("pgbouncer");
    let port = base.server().port().to_string();
    let served = Served::start("pgbouncer.sh", &[directory.to_str().unwrap(), &port, mode], &format!("{PASSWORD}\n"));
    let url = base.url_with("barbican", &format!("127.0.0.1:{}", served.line), "");
    (served, url, place)
}

#[test]
fn transactions_and_statements_are_refused_and_a_direct_url_helps() {
    let base = servers::postgresql().database(&start(Kind::Postgresql));
    let other = servers::postgresql().database(&start(Kind::Postgresql));
    for mode in ["transaction", "statement"] {
        let (_served, url, _place) = pgbouncer(&base, mode);
        let controller = Controller::on(&url);
        let check = controller.run(&["check", "--to", "mitaka", "--from", "liberty"]).expect(2);
        check.says("FAIL  database-pooler");
        check.says("[database] direct_connection_file");
        controller.run(&UPGRADE).expect(1).says("a pooler in between");
        assert_eq!((controller.runs(), revision(&base)), (0, START.to_owned()));

        let file = "etc/keymgr-upgrade/direct";
        controller.settings("direct_connection_file = /etc/keymgr-upgrade/direct\n");
        controller.run(&UPGRADE).expect(1).says("no such file");
        controller.write(file, &base.url());
        mode_of(&controller, file, 0o644);
        controller.run(&UPGRADE).expect(1).says("others may read or write it: chmod 0600");
        mode_of(&controller, file, 0o600);
        controller.write(file, &other.url());
        let said = controller.run(&UPGRADE).expect(1);
        said.says("is not the same database");
        said.says("the name of the database differs");
        controller.write(file, &url);
        controller.run(&UPGRADE).expect(1).says("a pooler in between");
        assert_eq!((controller.runs(), revision(&base)), (0, START.to_owned()));
        assert!(!said.all().contains(PASSWORD));

        controller.write(file, &format!("{}\n", base.url()));
        controller.run(&["db", "current"]).expect(0).says(START);
    }
    let (_served, url, _place) = pgbouncer(&base, "transaction");
    let controller = Controller::on(&url);
    controller.settings("direct_connection_file = /etc/keymgr-upgrade/direct\n");
    controller.write("etc/keymgr-upgrade/direct", &base.url());
    mode_of(&controller, "etc/keymgr-upgrade/direct", 0o600);
    // PgBouncer keeps the server sessions that our looks through it used; they are of this host, and idle.
    controller.run(&[&UPGRADE[..], &["--writers-stopped"]].concat()).expect(0);
    assert_eq!(revision(&base), HEAD);
}

fn mode_of(controller: &Controller, file: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(controller.path(file), std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A session of our own for as long as we are connected is all that is asked for.
#[test]
fn whole_sessions_are_well() {
    let base = servers::postgresql().database(&start(Kind::Postgresql));
    let (_served, url, _place) = pgbouncer(&base, "session");
    let controller = Controller::on(&url);
    controller.run(&["db", "current"]).expect(0).says(START);
}
