//! One run at a time on one database: two processes of the true binary, on every kind of server, on two nodes of a
//! cluster, behind a pooler, and with others at work.

mod away;
mod cluster;
mod others;
mod pooler;
mod sessions;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    common::{Said, end},
    paused::{Paused, piped},
    server_schema::HEAD,
    servers::{Base, Kind},
};

/// Where the tests start: three schema steps before the newest revision.
const START: &str = "4ecde3a3a72a";

fn start(kind: Kind) -> String {
    let dialect = match kind {
        Kind::Postgresql => keymgr_upgrade::db::Dialect::Postgresql,
        Kind::Mariadb => keymgr_upgrade::db::Dialect::Mysql,
    };
    crate::server_schema::dump(dialect, "chain-4ecde3a3a72a-liberty")
}

/// The values that a query finds, one after the other.
fn value(base: &Base, sql: &str) -> String {
    base.sql(sql).into_iter().flatten().flatten().collect()
}

fn revision(base: &Base) -> String {
    value(base, "SELECT version_num FROM alembic_version")
}

/// Waits until `done` says so; a test that waits in vain fails.
#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A controller: a host of its own, as far as the binary can tell, with a configuration that names the database.
struct Controller {
    root: tempfile::TempDir,
}

impl Controller {
    fn on(url: &str) -> Self {
        let root = tempfile::Builder::new().prefix("keymgr-it-").tempdir().unwrap();
        let controller = Self { root };
        controller.write("etc/barbican/barbican.conf", &format!("[DEFAULT]\nsql_connection = {url}\n"));
        controller.settings("lock_timeout = 30s\n");
        controller
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside)
    }

    fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `[database]` of our own settings.
    fn settings(&self, text: &str) {
        self.write("etc/keymgr-upgrade/keymgr-upgrade.conf", &format!("[database]\nbackup = none\n{text}"));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymgr-upgrade"));
        command
            .arg("--root")
            .arg(self.root.path())
            .arg("--allow-network-db")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    #[must_use]
    fn run(&self, arguments: &[&str]) -> Said {
        crate::common::said(&mut self.command(arguments))
    }

    /// Starts the binary, which then stands at every crash point until it is let on.
    fn paused(&self, arguments: &[&str]) -> Paused {
        Paused::start(&mut self.command(arguments), &self.path("points"))
    }

    /// Starts it and does not wait for its end.
    fn spawn(&self, arguments: &[&str]) -> Child {
        piped(&mut self.command(arguments))
    }

    fn runs(&self) -> usize {
        fs::read_dir(self.path("var/lib/keymgr-upgrade/runs")).map_or(0, Iterator::count)
    }
}

/// A script of the lab that serves until its standard input closes.
struct Served {
    child: Child,
    input: Option<ChildStdin>,
    line: String,
}

impl Served {
    fn start(script: &str, arguments: &[&str], first: &str) -> Self {
        use std::io::{BufRead as _, BufReader, Write as _};
        let mut child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(first.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{script} did not start");
        Self { child, input: Some(input), line: line.trim().to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().ok();
    }
}

/// A directory in memory, where it is to be had, that a server's user can enter.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let directory = tempfile::Builder::new().prefix("keymgr-lock-").tempdir_in(place).unwrap();
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    directory
}
