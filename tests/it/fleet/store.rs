//! The servers of the controllers' database, with the deployment's own rows.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::lab::{Network, SERVER};
use crate::common::{lab, said};

/// What the schema of Barbican 15.0.1 is taken back by to that of Victoria.
const TO_VICTORIA: &str = "
    ALTER TABLE secret_consumer_metadata DROP FOREIGN KEY fk_project_id;
    ALTER TABLE secret_consumer_metadata
        DROP INDEX ix_secret_consumer_metadata_project_id,
        DROP INDEX _secret_consumer_resource_uc,
        ADD CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, resource_id),
        MODIFY project_id VARCHAR(36) NOT NULL;
    UPDATE alembic_version SET version_num = '0f8c192a061f'";

/// Whoever comes from a controller.
const USER: &str =
    "CREATE USER barbican@'10.77.0.%' IDENTIFIED BY 'dbpw'; GRANT ALL ON barbican.* TO barbican@'10.77.0.%'";

/// What changes the schema.
const DDL: &str = "^[[:space:]]*(ALTER|CREATE|DROP) ";

/// Which servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Mariadb,
    Postgresql,
    /// Two nodes, which the controllers have by turns.
    Galera,
}

/// They run until this is dropped.
pub(super) struct Store {
    kind: Kind,
    place: PathBuf,
    /// The cluster, and the ports of its nodes.
    cluster: Option<(Child, Vec<String>)>,
}

/// A session on the server.
pub(super) struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// When the schema was changed, in microseconds, from which hosts, and how often the ledger was written.
pub(super) struct Migration {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) hosts: Vec<String>,
    pub(super) ledger: usize,
}

impl Store {
    /// Starts them in the network, below `place`.
    pub(super) fn start(kind: Kind, network: &Network, place: &Path) -> Self {
        let mut store = Self { kind, place: place.to_owned(), cluster: None };
        let data = place.join("mariadb/data");
        std::fs::create_dir_all(&data).unwrap();
        let tree = Path::new(&lab("KEYMGR_TEST_PRODUCT")).join("tree/var/lib/mysql");
        shell(&format!("cp -a {}/. {1}/ && chown -R nobody {1}", tree.display(), data.display()));
        // What a server leaves behind keeps open whatever would read its words.
        let logged = ["--general-log=1", "--log-output=TABLE"];
        store.server(network, "mariadb", &[&["3306", "--bind-address=0.0.0.0"], &logged[..]].concat());
        store.sql(&format!("{USER}; USE barbican; {TO_VICTORIA}"));
        match kind {
            Kind::Mariadb => {}
            Kind::Postgresql => store.move_to_postgresql(network),
            Kind::Galera => store.move_to_galera(network, &logged),
        }
        store
    }

    fn server(&self, network: &Network, name: &str, arguments: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/server.sh");
        let mut command = network.command(script);
        command.args(["start", name]).arg(self.place.join(name)).args(arguments);
        assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }

    /// Moves all rows into a schema that Barbican 12.0.2 made.
    fn move_to_postgresql(&self, network: &Network) {
        let logged = ["listen_addresses=*", "log_statement=mod", "log_line_prefix=%n %h "];
        let options: Vec<_> = logged.iter().flat_map(|option| ["-c", option]).collect();
        self.server(network, "postgresql", &[&["5432"][..], &options].concat());
        let psql =
            format!("psql -X -q -v ON_ERROR_STOP=1 -At -U postgres -h {}", self.place.join("postgresql").display());
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schema/postgresql-12.0.2.sql");
        shell(&format!(
            r#"{psql} -c "CREATE ROLE barbican LOGIN PASSWORD 'dbpw'"
            {psql} -c 'CREATE DATABASE barbican OWNER barbican'
            psql="{psql} -d barbican"
            $psql -c 'SET ROLE barbican' -f {fixture}
            for table in $($psql -c "SELECT relname FROM pg_stat_user_tables WHERE relname <> 'alembic_version'"); do
                columns=$($psql -c "SELECT string_agg(chr(34) || column_name || chr(34), ',') FROM information_schema.columns WHERE table_name = '$table'")
                {mariadb} --batch -D barbican -e "SET sql_mode = 'ANSI_QUOTES'; SELECT $columns FROM $table" |
                    $psql -c 'SET session_replication_role = replica' -c "COPY $table ($columns) FROM STDIN NULL 'NULL'"
            done"#,
            mariadb = self.mariadb(&self.socket()),
        ));
    }

    /// Moves all to a cluster.
    fn move_to_galera(&mut self, network: &Network, logged: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/galera.sh");
        let at = self.place.join("galera");
        let mut command = network.command(script);
        let mut child = command
            .arg(&at)
            .args(logged)
            .env("ADDRESS", SERVER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let dump = format!("mariadb-dump --no-defaults -S {} -u root --databases barbican", self.socket().display());
        self.cluster = Some((child, line.split_whitespace().map(str::to_owned).collect()));
        shell(&format!("{dump} | {}", self.mariadb(&self.socket())));
        self.sql(USER);
    }

    /// The URL that a controller has.
    pub(super) fn url(&self, index: usize) -> String {
        let (scheme, port) = match (&self.cluster, self.kind) {
            (Some((_, ports)), _) => ("mysql+pymysql", ports[index % ports.len()].as_str()),
            (None, Kind::Postgresql) => ("postgresql+psycopg2", "5432"),
            (None, _) => ("mysql+pymysql", "3306"),
        };
        format!("{scheme}://barbican:dbpw@{SERVER}:{port}/barbican")
    }

    /// The sockets of the servers of MariaDB that the controllers use.
    fn sockets(&self) -> Vec<PathBuf> {
        let nodes = self.cluster.iter().flat_map(|(_, ports)| 1..=ports.len());
        let nodes: Vec<_> = nodes.map(|node| self.place.join(format!("galera/{node}/socket"))).collect();
        if nodes.is_empty() { vec![self.place.join("mariadb/socket")] } else { nodes }
    }

    fn socket(&self) -> PathBuf {
        self.sockets().remove(0)
    }

    /// The client of its administrator, for a command line.
    fn mariadb(&self, socket: &Path) -> String {
        format!("mariadb --no-defaults -S {} -u root -N", socket.display())
    }

    /// What the server of MariaDB, the first node of a cluster, says to its administrator.
    pub(super) fn sql(&self, sql: &str) -> String {
        ask(&self.mariadb(&self.socket()), sql)
    }

    /// A session of its administrator, which has said this and stays until it is dropped.
    pub(super) fn session(&self, sql: &str) -> Session {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {} --unbuffered", self.mariadb(&self.socket()))]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{sql}; SELECT 'said';").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "said\n");
        Session(child)
    }

    /// The migration, from the servers' own logs.
    pub(super) fn migration(&self) -> Migration {
        // Microseconds, the host, and whether it is the schema or the ledger.
        let lines = if self.kind == Kind::Postgresql { self.log_of_postgresql() } else { self.log_of_mariadb() };
        let of = |what: &'static str| lines.iter().filter(move |line| line.2 == what);
        let mut hosts: Vec<String> = of("schema").map(|line| line.1.clone()).collect();
        hosts.sort();
        hosts.dedup();
        let times = || of("schema").map(|line| line.0);
        Migration { first: times().min().unwrap(), last: times().max().unwrap(), hosts, ledger: of("ledger").count() }
    }

    fn log_of_mariadb(&self) -> Vec<(u64, String, String)> {
        // The lock that a cluster has is a table too.
        let sql = format!(
            "SELECT FLOOR(UNIX_TIMESTAMP(event_time) * 1000000), SUBSTRING_INDEX(SUBSTRING_INDEX(user_host, '[', -1), ']', 1),
             IF(argument REGEXP '{DDL}', 'schema', 'ledger') FROM mysql.general_log
             WHERE user_host LIKE '%[10.77.0.%' AND command_type IN ('Query', 'Execute')
             AND argument NOT LIKE '%keymgr_upgrade_lock%'
             AND (argument REGEXP '{DDL}' OR argument REGEXP 'UPDATE alembic_version SET')"
        );
        let said: String = self.sockets().iter().map(|socket| ask(&self.mariadb(socket), &sql) + "\n").collect();
        let line = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            (fields[0].parse().unwrap(), fields[1].to_owned(), fields[2].to_owned())
        };
        said.lines().filter(|line| !line.is_empty()).map(line).collect()
    }

    fn log_of_postgresql(&self) -> Vec<(u64, String, String)> {
        let log = std::fs::read_to_string(self.place.join("postgresql/log")).unwrap();
        let line = |line: &str| {
            let (head, statement) = line.split_once(" LOG:  ")?;
            let (at, host) = head.split_once(' ')?;
            let statement = statement.split_once(": ")?.1;
            let words = ["ALTER ", "CREATE ", "DROP "];
            let what = match statement {
                _ if !host.starts_with("10.77.0.") => return None,
                s if words.iter().any(|word| s.starts_with(word)) => "schema",
                s if s.starts_with("UPDATE alembic_version SET") => "ledger",
                _ => return None,
            };
            let at = at.replace('.', "").parse::<u64>().unwrap() * 1000;
            Some((at, host.to_owned(), what.to_owned()))
        };
        log.lines().filter_map(line).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.cluster.take() {
            drop(child.stdin.take());
            child.wait().ok();
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/server.sh");
        for name in ["mariadb", "postgresql"] {
            Command::new(script).args(["stop", name]).arg(self.place.join(name)).status().ok();
        }
    }
}

fn shell(lines: &str) {
    let _ = said(Command::new("bash").args(["-e", "-o", "pipefail", "-c", lines])).expect(0);
}

/// What a client, given by its command line, prints of the answer.
fn ask(client: &str, sql: &str) -> String {
    let mut words = client.split(' ');
    let mut command = Command::new(words.next().unwrap());
    said(command.args(words).args(["-e", sql])).expect(0).out.trim_end().to_owned()
}
