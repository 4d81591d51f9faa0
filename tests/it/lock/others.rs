//! Sessions that are not ours, from this host and, through a network namespace, from another one. Needs root.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use super::{Controller, HEAD, Kind, START, revision, start, until, value};
use crate::servers::{Base, PASSWORD, Private};

const UPGRADE: [&str; 3] = ["db", "upgrade", "--yes"];

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}: root is needed here");
}

/// A host of its own on a link to this one: a network namespace.
struct Neighbour {
    name: String,
    /// The addresses of the link, ours and its.
    ours: String,
    its: String,
}

impl Neighbour {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = (std::process::id() % 60 * 4) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("kmu{number}");
        let (ours, its) = (format!("10.213.{number}.1"), format!("10.213.{number}.2"));
        ip(&format!("netns add {name}"));
        let neighbour = Self { name, ours, its };
        let Self { name, ours, its } = &neighbour;
        ip(&format!("link add {name}a type veth peer name {name}b netns {name}"));
        ip(&format!("address add {ours}/24 dev {name}a"));
        ip(&format!("link set {name}a up"));
        ip(&format!("-n {name} address add {its}/24 dev {name}b"));
        ip(&format!("-n {name} link set {name}b up"));
        ip(&format!("-n {name} link set lo up"));
        neighbour
    }

    /// A command on that host.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdout(Stdio::null());
        command
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "delete", &self.name]).status().ok();
        Command::new("ip").args(["link", "delete", &format!("{}a", self.name)]).stderr(Stdio::null()).status().ok();
    }
}

/// A session that stays until this is dropped.
struct Session(Child);

impl Session {
    /// Of `barbican`, by the server's own client: from there, or from this host; to `host`.
    fn open(base: &Base, neighbour: Option<&Neighbour>, host: &str, port: u16) -> Self {
        Self::named(base, neighbour, host, port, "someone")
    }

    /// One that calls itself `name`, where the server asks for that.
    fn named(base: &Base, neighbour: Option<&Neighbour>, host: &str, port: u16, name: &str) -> Self {
        let before = count_from(base, neighbour);
        let program = match base.server().kind() {
            Kind::Postgresql => "psql",
            Kind::Mariadb => "mariadb",
        };
        let mut command = neighbour.map_or_else(|| Command::new(program), |n| n.command(program));
        let port = port.to_string();
        match base.server().kind() {
            Kind::Postgresql => command
                .args(["-X", "-h", host, "-p", &port, "-U", "barbican", "-d", base.name()])
                .envs([("PGPASSWORD", PASSWORD), ("PGAPPNAME", name)]),
            Kind::Mariadb => command
                .args(["--no-defaults", "-h", host, "-P", &port, "-u", "barbican", "--skip-ssl", base.name()])
                .env("MYSQL_PWD", PASSWORD),
        };
        // It waits for what we say, and ends when we are gone.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let session = Self(child);
        until("the session is there", || count_from(base, neighbour) > before);
        session
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Sessions on the database besides the one that counts them.
fn count(base: &Base) -> usize {
    count_from(base, None)
}

/// Those from this host alone, where there is one: a run that is paused has sessions too, which come and go.
fn count_from(base: &Base, neighbour: Option<&Neighbour>) -> usize {
    let its = neighbour.map(|n| n.its.as_str());
    let sql = match base.server().kind() {
        Kind::Postgresql => {
            let from = its.map_or_else(String::new, |its| format!(" AND client_addr = '{its}'"));
            // Not the server's own workers, such as autovacuum's, which come and go.
            format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid() AND backend_type = 'client backend'{from}"
            )
        }
        Kind::Mariadb => {
            let from = its.map_or_else(String::new, |its| format!(" AND HOST LIKE '{its}:%'"));
            format!(
                "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = DATABASE() \
                 AND ID <> CONNECTION_ID(){from}"
            )
        }
    };
    value(base, &sql).parse().unwrap()
}

fn everywhere(kind: Kind) -> Private {
    match kind {
        Kind::Postgresql => Private::start(kind, &[], &["-c", "listen_addresses=*"]),
        Kind::Mariadb => Private::start(kind, &[], &["--bind-address=0.0.0.0"]),
    }
}

fn from_another_host(kind: Kind) {
    let private = everywhere(kind);
    let base = private.server.database(&start(kind));
    let neighbour = Neighbour::new();
    let controller = Controller::on(&base.url());
    let port = base.server().port();

    let session = Session::open(&base, Some(&neighbour), &neighbour.ours, port);
    let check = controller.run(&["check", "--to", "mitaka", "--from", "liberty"]);
    check.says(&format!("WARN  other-writers     1 database session: {} (1); it blocks later", neighbour.its));
    check.says(&format!("on {}: keymgr-upgrade units hold", neighbour.its));
    let hidden = if kind == Kind::Mariadb { "GRANT PROCESS" } else { "session of another" };
    assert_eq!(check.all().contains(hidden), kind == Kind::Mariadb, "{}", check.all());

    for verb in [&UPGRADE[..], &["db", "stamp", START]] {
        let said = controller.run(verb).expect(3);
        said.says(&format!("of barbican from {}", neighbour.its));
        said.says("--writers-stopped");
    }
    let said = controller.run(&["upgrade", "--to", "mitaka", "--from", "liberty", "--yes"]).expect(3);
    said.says("FAIL  other-writers");
    assert_eq!((controller.runs(), revision(&base)), (0, START.to_owned()));

    drop(session);
    until("the session is gone", || count(&base) == 0);
    // It comes back in mid-run.
    let mut run = controller.paused(&UPGRADE);
    run.until(|point| point == "run opened");
    let session = Session::open(&base, Some(&neighbour), &neighbour.ours, port);
    let said = run.go().expect(3);
    said.says(&format!("of barbican from {}", neighbour.its));
    said.says("everything is as it was before");

    // On the operator's word, which is kept.
    controller.run(&[&UPGRADE[..], &["--writers-stopped"]].concat()).expect(0);
    assert_eq!(revision(&base), HEAD);
    let runs = std::fs::read_dir(controller.path("var/lib/keymgr-upgrade/runs")).unwrap();
    let journals: String =
        runs.map(|r| std::fs::read_to_string(r.unwrap().path().join("journal.jsonl")).unwrap()).collect();
    assert!(journals.contains(r#""record":"word","word":"writers-stopped","by":"#), "{journals}");
    drop(session);
}

#[test]
fn from_another_host_on_postgresql() {
    from_another_host(Kind::Postgresql);
}

#[test]
fn from_another_host_on_mariadb() {
    from_another_host(Kind::Mariadb);
}

/// A service of this host that was not stopped is no blocker of an upgrade that will stop it, but of what writes.
#[test]
fn from_this_host() {
    let private = Private::start(Kind::Postgresql, &[], &[]);
    let base = private.server.database(&start(Kind::Postgresql));
    let controller = Controller::on(&base.url());
    let open = |name| Session::named(&base, None, "127.0.0.1", base.server().port(), name);
    let session = open("psql");
    let check = controller.run(&["check", "--to", "mitaka", "--from", "liberty", "--verbose"]);
    check.says("ok    other-writers     no database session from another host");
    controller.run(&UPGRADE).expect(3).says("of barbican from this host");
    drop(session);
    // What a killed run left at work on the server is a stranger to the next one; one that looks is not.
    let session = open("keymgr-upgrade writes");
    controller.run(&["db", "stamp", START]).expect(3).says("of barbican from this host");
    drop(session);
    let session = open("keymgr-upgrade");
    controller.run(&["db", "stamp", START]).expect(0);
    drop(session);
    until("the session is gone", || count(&base) == 0);
    controller.run(&UPGRADE).expect(0);
}

/// Everything comes through a proxy on another host, we too: who is behind it cannot be told.
#[test]
fn through_a_proxy() {
    let private = everywhere(Kind::Postgresql);
    let base = private.server.database(&start(Kind::Postgresql));
    let neighbour = Neighbour::new();
    let port = base.server().port();
    let mut proxy = neighbour
        .command("socat")
        .arg(format!("TCP-LISTEN:{port},fork,reuseaddr"))
        .arg(format!("TCP:{}:{port}", neighbour.ours))
        .spawn()
        .unwrap();
    until("the proxy listens", || std::net::TcpStream::connect((neighbour.its.as_str(), port)).is_ok());
    let controller = Controller::on(&base.url_with("barbican", &format!("{}:{port}", neighbour.its), ""));
    let session = Session::open(&base, None, &neighbour.its, port);
    let said = controller.run(&UPGRADE).expect(3);
    said.says(&format!("from {}, as we do", neighbour.its));
    controller.run(&[&UPGRADE[..], &["--writers-stopped"]].concat()).expect(0);
    assert_eq!(revision(&base), HEAD);
    drop(session);
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}
