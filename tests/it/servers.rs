//! Private database servers, started on first use and shared by all test processes.
//!
//! Also a module of the unit tests. Each process holds a shared lock for as long as it lives; a supervisor, which
//! `tests/lab/server.sh` is, stops the server some seconds after nobody holds it any more.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, starts and writes what it looks at, and no test needs all of this"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The password of every user, with all that is awkward in a URL, in SQL or in a shell.
pub(crate) const PASSWORD: &str = r#"p@s:/%'"\ w?#&=+$x"#;

/// Seconds a server stays after its last user.
const GRACE: &str = "15";

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// PostgreSQL.
    Postgresql,
    /// MariaDB, which stands for MySQL too.
    Mariadb,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Mariadb => "mariadb",
        }
    }
}

/// A running server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    kind: Kind,
    dir: PathBuf,
    port: u16,
}

/// The shared PostgreSQL server.
pub(crate) fn postgresql() -> Server {
    static SHARED: OnceLock<(Server, File)> = OnceLock::new();
    SHARED.get_or_init(|| shared(Kind::Postgresql)).0.clone()
}

/// The shared MariaDB server.
pub(crate) fn mariadb() -> Server {
    static SHARED: OnceLock<(Server, File)> = OnceLock::new();
    SHARED.get_or_init(|| shared(Kind::Mariadb)).0.clone()
}

/// A server of one test alone, which may stop it, kill it, or start it with options of its own; gone on drop.
#[derive(Debug)]
pub(crate) struct Private {
    /// The server.
    pub(crate) server: Server,
}

impl Private {
    /// Starts one. `environment` is that of `tests/lab/server.sh`, `options` are the server's own.
    pub(crate) fn start(kind: Kind, environment: &[(&str, &str)], options: &[&str]) -> Self {
        Self { server: Server::start(kind, environment, options) }
    }

    /// Starts it once more after it was killed, on what it left.
    pub(crate) fn again(&self, options: &[&str]) {
        let server = &self.server;
        let mut command = Command::new("setsid");
        command.args(["-w", SCRIPT, "start", server.kind.name()]).arg(&server.dir).arg(server.port.to_string());
        command.args(options);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(quiet.status().unwrap().success(), "{} does not start again", server.kind.name());
    }

    /// Kills it, as a power cut does, and returns when it is gone; its directory stays until the drop.
    pub(crate) fn kill(&self) {
        let server = &self.server;
        assert!(script().args(["kill", server.kind.name()]).arg(&server.dir).status().unwrap().success());
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let server = &self.server;
        script().args(["stop", server.kind.name()]).arg(&server.dir).status().ok();
    }
}

/// The shared server, and the lock that keeps it.
fn shared(kind: Kind) -> (Server, File) {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers");
    fs::create_dir_all(&place).unwrap();
    let file = |what: &str| place.join(format!("{}.{what}", kind.name()));
    let used = File::create(file("lock")).unwrap();
    used.lock_shared().unwrap();
    let starting = File::create(file("start")).unwrap();
    starting.lock().unwrap();
    let state = file("state");
    if let Some(server) = Server::read(kind, &state).filter(Server::answers) {
        return (server, used);
    }
    let server = Server::start(kind, &[], &[]);
    let whose = env!("CARGO_MANIFEST_DIR");
    fs::write(&state, format!("{whose}\n{}\n{}\n", server.dir.display(), server.port)).unwrap();
    // A session of its own: a runner that ends this test's process group leaves it alone.
    Command::new("setsid")
        .arg("-f")
        .arg(SCRIPT)
        .args(["watch", kind.name()])
        .args([&server.dir, &file("lock")])
        .arg(GRACE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    (server, used)
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/server.sh");

fn script() -> Command {
    let mut command = Command::new(SCRIPT);
    command.stdin(Stdio::null());
    command
}

impl Server {
    fn start(kind: Kind, environment: &[(&str, &str)], options: &[&str]) -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        // Not removed on drop: the script does that.
        let dir = tempfile::Builder::new().prefix("keymgr-server-").tempdir_in(place).unwrap().keep();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let output = dir.with_extension("start");
        let log = File::create(&output).unwrap();
        let status = Command::new("setsid")
            .args(["-w", SCRIPT, "start", kind.name()])
            .arg(&dir)
            .arg(port.to_string())
            .args(options)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .status()
            .unwrap();
        let said = fs::read_to_string(&output).unwrap();
        fs::remove_file(&output).unwrap();
        let server = Self { kind, dir, port };
        if !status.success() {
            script().args(["stop", kind.name()]).arg(&server.dir).status().ok();
            panic!("{} does not start: {said}", kind.name());
        }
        server.make_users();
        server
    }

    /// One that somebody else started, with its socket in `dir`.
    pub(crate) fn beside(kind: Kind, dir: PathBuf, port: u16) -> Self {
        Self { kind, dir, port }
    }

    /// Makes the users that every server has.
    pub(crate) fn make_users(&self) {
        self.admin(&self.users());
    }

    fn read(kind: Kind, state: &Path) -> Option<Self> {
        let text = fs::read_to_string(state).ok()?;
        let mut lines = text.lines();
        // A copied tree would otherwise use a server that its own watcher does not keep.
        lines.next().filter(|whose| *whose == env!("CARGO_MANIFEST_DIR"))?;
        Some(Self { kind, dir: lines.next()?.into(), port: lines.next()?.parse().ok()? })
    }

    fn answers(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// Users every server has: `barbican`, and those that must come over TLS.
    fn users(&self) -> String {
        match self.kind {
            Kind::Postgresql => {
                let password = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
                ["barbican", "tls_only", "tls_client"]
                    .map(|user| format!("CREATE ROLE {user} LOGIN PASSWORD E'{password}';"))
                    .concat()
            }
            Kind::Mariadb => {
                let password = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
                let users = [("barbican", ""), ("tls_only", "REQUIRE SSL"), ("tls_client", "REQUIRE X509")]
                    .map(|(user, require)| format!("CREATE USER {user}@'%' IDENTIFIED BY '{password}' {require};"))
                    .concat();
                // An anonymous user of this host would come before them.
                format!("DELETE FROM mysql.global_priv WHERE User = ''; FLUSH PRIVILEGES; {users}")
            }
        }
    }

    /// Which database.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Its TCP port, on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its directory: data, log, `tls`.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of its certificates, `ca.pem` say.
    pub(crate) fn tls(&self, name: &str) -> String {
        self.dir.join("tls").join(name).display().to_string()
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        match self.kind {
            Kind::Postgresql => self.dir.join(format!(".s.PGSQL.{}", self.port)),
            Kind::Mariadb => self.dir.join("socket"),
        }
    }

    /// The client program as administrator, who needs no password.
    fn client(&self) -> Command {
        match self.kind {
            Kind::Postgresql => {
                let mut command = Command::new("psql");
                command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(&self.dir);
                command.arg("-p").arg(self.port.to_string());
                command.env("PGOPTIONS", "-c client_min_messages=warning");
                command
            }
            Kind::Mariadb => {
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "--default-character-set=utf8mb4", "-u", "root", "-S"]);
                command.arg(self.socket());
                command
            }
        }
    }

    /// Runs statements as administrator, in no database of ours.
    pub(crate) fn admin(&self, sql: &str) {
        feed(&mut self.client(), sql);
    }

    /// An empty database of a unique name, owned by `barbican`, with this text loaded by the server's own client
    /// as that user; dropped on drop.
    pub(crate) fn database(&self, sql: &str) -> Base {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("keymgr_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.admin(&match self.kind {
            Kind::Postgresql => format!("CREATE DATABASE {name} OWNER barbican"),
            Kind::Mariadb => ["barbican", "tls_only", "tls_client"]
                .iter()
                .fold(format!("CREATE DATABASE {name} CHARACTER SET utf8;"), |sql, user| {
                    format!("{sql} GRANT ALL ON {name}.* TO {user}@'%';")
                }),
        });
        let base = Base { server: self.clone(), name };
        if !sql.is_empty() {
            base.load(sql);
        }
        base
    }
}

/// A database of one test.
#[derive(Debug)]
pub(crate) struct Base {
    server: Server,
    name: String,
}

impl Drop for Base {
    fn drop(&mut self) {
        let sql = match self.server.kind {
            Kind::Postgresql => format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
            Kind::Mariadb => format!("DROP DATABASE IF EXISTS {}", self.name),
        };
        // A killed server has no more databases to drop.
        self.server.client().args([self.flag(), &sql]).stderr(Stdio::null()).status().ok();
    }
}

impl Base {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Its URL as Barbican's configuration would have it: over TCP, as `barbican`.
    pub(crate) fn url(&self) -> String {
        self.url_with("barbican", &format!("127.0.0.1:{}", self.server.port), "")
    }

    /// A URL with another user, another host (and port), and with parameters.
    pub(crate) fn url_with(&self, user: &str, host: &str, parameters: &str) -> String {
        let scheme = match self.server.kind {
            Kind::Postgresql => "postgresql+psycopg2",
            Kind::Mariadb => "mysql+pymysql",
        };
        let mark = if parameters.is_empty() { "" } else { "?" };
        format!("{scheme}://{user}:{}@{host}/{}{mark}{parameters}", escape(PASSWORD), self.name)
    }

    fn flag(&self) -> &'static str {
        match self.server.kind {
            Kind::Postgresql => "-c",
            Kind::Mariadb => "-e",
        }
    }

    /// Loads SQL text by the server's own client, as `barbican`.
    pub(crate) fn load(&self, sql: &str) {
        let mut command = self.server.client();
        // The last of two -U or -u counts.
        match self.server.kind {
            Kind::Postgresql => command.args(["-U", "barbican", "-d", &self.name]).env("PGPASSWORD", PASSWORD),
            Kind::Mariadb => command.args(["-u", "barbican", &self.name]).env("MYSQL_PWD", PASSWORD),
        };
        feed(&mut command, sql);
    }

    /// The rows of a query, by the server's own client as administrator, independent of the code under test. On
    /// MariaDB the text NULL is taken for NULL.
    pub(crate) fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut command = self.server.client();
        match self.server.kind {
            Kind::Postgresql => {
                command.args(["-A", "-t", "-F", "\x1f", "-R", "\x1e", "-P", "null=\x1d", "-d", &self.name, "-c", sql]);
                let out = said(&mut command);
                let rows = out.strip_suffix('\n').unwrap_or(&out);
                let value = |value: &str| (value != "\x1d").then(|| value.to_owned());
                let row = |row: &str| row.split('\x1f').map(value).collect();
                if rows.is_empty() { Vec::new() } else { rows.split('\x1e').map(row).collect() }
            }
            Kind::Mariadb => {
                command.args(["-N", "-B", &self.name, "-e", sql]);
                let plain = |value: &str| value.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\");
                let value = |value: &str| (value != "NULL").then(|| plain(value));
                said(&mut command).lines().map(|row| row.split('\t').map(value).collect()).collect()
            }
        }
    }

    /// Waits until no session of an ordinary user is on it: what a killed client had asked for last has then been carried out or undone.
    pub(crate) fn settle(&self) {
        let sessions = match self.server.kind {
            Kind::Postgresql => {
                format!("SELECT pid FROM pg_stat_activity WHERE datname = '{}' AND usename = 'barbican'", self.name)
            }
            Kind::Mariadb => {
                format!(
                    "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = '{}' AND USER = 'barbican'",
                    self.name
                )
            }
        };
        let begun = std::time::Instant::now();
        while !self.sql(&sessions).is_empty() {
            assert!(begun.elapsed().as_secs() < 60, "sessions stay on {}", self.name);
        }
    }

    /// What is in it, to be put back later.
    pub(crate) fn keep(&self) -> Kept {
        self.settle();
        match self.server.kind {
            Kind::Postgresql => {
                static NEXT: AtomicU32 = AtomicU32::new(0);
                let name = format!("{}_kept_{}", self.name, NEXT.fetch_add(1, Ordering::Relaxed));
                self.server.admin(&format!("CREATE DATABASE {name} OWNER barbican TEMPLATE {}", self.name));
                Kept::Template(Self { server: self.server.clone(), name })
            }
            Kind::Mariadb => Kept::Text(self.dump()),
        }
    }

    /// Makes it what it was when that was kept.
    pub(crate) fn put_back(&self, kept: &Kept) {
        self.settle();
        let name = &self.name;
        match kept {
            Kept::Template(kept) => {
                self.server.admin(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
                self.server.admin(&format!("CREATE DATABASE {name} OWNER barbican TEMPLATE {}", kept.name));
            }
            Kept::Text(text) => {
                self.server
                    .admin(&format!("DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name} CHARACTER SET utf8;"));
                self.load(text);
            }
        }
    }

    /// All of it as text, by the server's own dump program.
    pub(crate) fn dump(&self) -> String {
        let server = &self.server;
        let mut command;
        match server.kind {
            Kind::Postgresql => {
                command = Command::new("pg_dump");
                command.args(["--no-owner", "-U", "postgres", "-h"]).arg(&server.dir);
                command.arg("-p").arg(server.port.to_string());
            }
            Kind::Mariadb => {
                command = Command::new("mariadb-dump");
                command.args([
                    "--no-defaults",
                    "--skip-comments",
                    "--skip-dump-date",
                    "--hex-blob",
                    "-u",
                    "root",
                    "-S",
                ]);
                command.arg(server.socket());
            }
        }
        said(command.arg(&self.name))
    }
}

/// A database as it was.
#[derive(Debug)]
pub(crate) enum Kept {
    /// PostgreSQL copies a whole database.
    Template(Base),
    /// Statements that make it.
    Text(String),
}

/// Percent-encodes all but letters and digits.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn feed(command: &mut Command, sql: &str) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = sql.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
