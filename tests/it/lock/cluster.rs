//! Two real nodes of a Galera cluster: the lock is a table, and outlives its maker.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Controller, HEAD, Kind, START, Served, end, place, revision, start, until, value};
use crate::servers::{Base, PASSWORD, Server};

const UPGRADE: [&str; 3] = ["db", "upgrade", "--yes"];

/// Two nodes, and a controller that is configured for each.
struct Cluster {
    /// As the first node has it; dropped before the nodes end.
    base: Base,
    nodes: [Server; 2],
    controllers: [Controller; 2],
    _served: Served,
    _place: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let place = place();
        let directory: PathBuf = place.path().join("cluster");
        let served = Served::start("galera.sh", &[directory.to_str().unwrap()], "");
        let ports: Vec<u16> = served.line.split(' ').map(|p| p.parse().unwrap()).collect();
        let nodes = [1, 2].map(|n| Server::beside(Kind::Mariadb, directory.join(n.to_string()), ports[n - 1]));
        nodes[0].make_users();
        nodes[1].admin("DELETE FROM mysql.global_priv WHERE User = ''; FLUSH PRIVILEGES");
        let base = nodes[0].database(&start(Kind::Mariadb));
        let url = |port: u16| base.url_with("barbican", &format!("127.0.0.1:{port}"), "");
        let controllers = [Controller::on(&url(ports[0])), Controller::on(&url(ports[1]))];
        Self { base, nodes, controllers, _served: served, _place: place }
    }

    /// Whether a run waits for the lock on this node.
    fn asks_again(&self, node: usize) -> bool {
        let there = self.nodes[node].database("");
        !value(&there, "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP(0.2)%'").is_empty()
    }

    fn lock_table(&self) -> String {
        let sql = "SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                   AND TABLE_NAME = 'keymgr_upgrade_lock'";
        value(&self.base, sql)
    }
}

#[test]
fn two_nodes_one_lock() {
    let cluster = Cluster::start();
    let [first, second] = &cluster.controllers;
    let mut one = first.paused(&UPGRADE);
    one.until(|point| point == "step prepared");
    assert!(cluster.lock_table().contains("run"), "{}", cluster.lock_table());

    second.settings("lock_timeout = 1s\n");
    let gave_up = second.run(&UPGRADE).expect(75);
    gave_up.says("locked for 1 s and longer by keymgr-upgrade 2");
    gave_up.says(&first.root.path().display().to_string());
    gave_up.says("process ");
    gave_up.says("since 20");

    // Killed: the table stays, and keeps the other host out.
    one.kill();
    second.run(&UPGRADE).expect(75).says("db unlock");
    assert_eq!((second.runs(), revision(&cluster.base)), (0, START.to_owned()));

    // Its own host takes it over, and gives it back at the end; who waited for it finds nothing to do.
    second.settings("lock_timeout = 60s\n");
    let two = second.spawn(&UPGRADE);
    until("the second one waits", || cluster.asks_again(1));
    first.run(&["resume"]).expect(0);
    end(two).expect(0).says("nothing to do");
    assert_eq!((cluster.lock_table(), revision(&cluster.base)), (String::new(), HEAD.to_owned()));
    assert_eq!(second.runs(), 0);
}

/// What is left of a host that is gone for good is removed by hand, and only while nobody of this host works.
#[test]
fn unlock_by_hand() {
    let cluster = Cluster::start();
    let [first, second] = &cluster.controllers;
    let mut one = first.paused(&UPGRADE);
    one.until(|point| point == "step prepared");
    first.run(&["db", "unlock", "--yes"]).expect(75).says("another run holds the lock");
    one.kill();

    let asked = second.run(&["db", "unlock"]).expect(64);
    asked.says(&first.root.path().display().to_string());
    asked.says("nobody can be asked here");
    assert!(!cluster.lock_table().is_empty());
    second.run(&["db", "unlock", "--yes"]).expect(0).says("Removed.");
    assert_eq!(cluster.lock_table(), "");
    second.run(&UPGRADE).expect(0);
    // The run whose lock was taken away goes on with a new one, and finds its work done.
    first.run(&["resume"]).expect(0);
    assert_eq!((cluster.lock_table(), revision(&cluster.base)), (String::new(), HEAD.to_owned()));
}

/// The table is no part of Barbican's schema, and the lock is lost with it: the run ends at the next border.
#[test]
fn the_table_taken_away_in_mid_run() {
    let cluster = Cluster::start();
    let [first, second] = &cluster.controllers;
    let mut one = first.paused(&UPGRADE);
    one.until(|point| point == "step applied");
    assert!(!cluster.lock_table().is_empty());
    let shown = second.run(&["db", "verify"]);
    assert!(!shown.all().contains("keymgr_upgrade_lock"), "{}", shown.all());
    cluster.base.load("DROP TABLE keymgr_upgrade_lock");
    let said = one.go().expect(4);
    said.says("the lock of the database was lost");
    first.run(&["resume"]).expect(0);
    assert_eq!((cluster.lock_table(), revision(&cluster.base)), (String::new(), HEAD.to_owned()));
}

/// A node that left the cluster, or does not keep up with it, is worked on by nobody.
#[test]
fn a_node_that_is_not_whole() {
    let cluster = Cluster::start();
    let [first, second] = &cluster.controllers;
    cluster.nodes[1].admin("SET GLOBAL wsrep_desync = ON");
    until("it is desynced", || second.run(&["db", "current"]).code != 0);
    let said = second.run(&UPGRADE).expect(1);
    said.says("this Galera node is Donor/Desynced, its component Primary");
    cluster.nodes[1].admin("SET GLOBAL wsrep_desync = OFF");
    until("it is synced again", || second.run(&["db", "current"]).code == 0);

    cluster.nodes[1].admin("SET GLOBAL wsrep_cluster_address = ''");
    until("it left", || second.run(&["db", "current"]).code != 0);
    second.run(&UPGRADE).expect(1).says("it must be Synced and Primary");
    assert_eq!((second.runs(), revision(&cluster.base)), (0, START.to_owned()));
    first.run(&UPGRADE).expect(0);
}

/// Each node lists its own sessions only: the others are asked too.
#[test]
fn sessions_on_the_other_node() {
    let cluster = Cluster::start();
    let [first, _] = &cluster.controllers;
    let mut session = Command::new("mariadb")
        .args(["--no-defaults", "--skip-ssl", "-h", "127.0.0.1", "-u", "barbican", cluster.base.name(), "-P"])
        .arg(cluster.nodes[1].port().to_string())
        .env("MYSQL_PWD", PASSWORD)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let said = {
        let mut said = None;
        until("the session is seen", || {
            let now = first.run(&["db", "stamp", START]);
            let there = now.code != 0;
            said = Some(now);
            there
        });
        said.unwrap().expect(3)
    };
    said.says("of barbican from this host");
    session.kill().unwrap();
    session.wait().unwrap();

    // A node that does not let us in may have any session.
    cluster.nodes[1]
        .admin("SET SESSION wsrep_on = OFF; SET sql_log_bin = 0; RENAME USER barbican@'%' TO elsewhere@'%'");
    let said = first.run(&UPGRADE).expect(3);
    said.says(&format!("Galera node 127.0.0.1:{}", cluster.nodes[1].port()));
    said.says("--writers-stopped");
    first.run(&[&UPGRADE[..], &["--writers-stopped"]].concat()).expect(0);
    assert_eq!(revision(&cluster.base), HEAD);
}

/// There and back on a cluster: the lock is neither in the copy nor in its way.
#[test]
fn a_rollback() {
    let cluster = Cluster::start();
    let [first, second] = &cluster.controllers;
    first.write("etc/keymgr-upgrade/keymgr-upgrade.conf", "[database]\nbackup = full\n");
    let before = cluster.base.dump();
    first.run(&UPGRADE).expect(0);
    assert_eq!((cluster.lock_table(), revision(&cluster.base)), (String::new(), HEAD.to_owned()));
    let mut back = first.paused(&["rollback", "--yes"]);
    back.until(|point| point == "step to revert");
    assert!(cluster.lock_table().contains("run"), "{}", cluster.lock_table());
    second.settings("lock_timeout = 1s\n");
    second.run(&["db", "stamp", HEAD]).expect(75);
    back.go().expect(0);
    assert_eq!((cluster.lock_table(), cluster.base.dump()), (String::new(), before));
}
