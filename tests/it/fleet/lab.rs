//! Controllers on a network of their own: booted containers, a bridge, the server of their database, and Ansible beside it. Needs root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::common::{Said, lab, said};
use crate::product::Product;

/// Where Ansible is.
const OPERATOR: &str = "10.77.0.1";
/// Where the server of the database is.
pub(super) const SERVER: &str = "10.77.0.2";

/// A network namespace, gone when this is dropped.
struct Network {
    /// A process in it, which keeps it.
    keeper: Child,
}

impl Network {
    fn new() -> Self {
        let keeper = Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let network = Self { keeper };
        let own = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        while own(&network.pid()) == own("self") {}
        let lines = [
            "ip link set lo up".to_owned(),
            "ip link add bridge type bridge".to_owned(),
            format!("ip address add {OPERATOR}/24 dev bridge"),
            format!("ip address add {SERVER}/24 dev bridge"),
            "ip link set bridge up".to_owned(),
        ];
        let _ = said(network.command("sh").args(["-ec", &lines.join("\n")])).expect(0);
        network
    }

    fn pid(&self) -> String {
        self.keeper.id().to_string()
    }

    /// A program in it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "--net", program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

/// A session on the server.
pub(super) struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Some controllers with Barbican 15.0.1 and our package, on one database whose schema is Victoria's.
pub(super) struct Fleet {
    /// `ctl1`, `ctl2`, ...
    pub(super) hosts: Vec<Product>,
    network: Network,
    place: TempDir,
}

impl Fleet {
    /// Boots them; all serve.
    pub(super) fn boot(count: usize) -> Self {
        let place = tempfile::Builder::new().prefix("keymgr-fleet-").tempdir().unwrap();
        std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let network = Network::new();
        let mut fleet = Self { hosts: Vec::new(), network, place };
        fleet.serve();
        let booted = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=count).map(|number| scope.spawn(move || boot(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        fleet.hosts = booted;
        for index in 0..count {
            fleet.plug(index);
        }
        for host in &fleet.hosts {
            host.ok("systemctl restart barbican-api barbican-worker barbican-keystone-listener");
        }
        for host in &fleet.hosts {
            host.wait_for_api();
            host.install_tool();
            host.offer(&["next"]);
        }
        fleet
    }

    /// Gives a container that was just booted its place on the network.
    pub(super) fn plug(&self, index: usize) {
        let pid = self.hosts[index].machine.enter()[2].to_owned();
        let line = format!(
            "ip link add ctl{0} master bridge up type veth peer name net0 netns {pid}\n\
             nsenter -t {pid} --net sh -ec 'ip address add {1}/24 dev net0; ip link set net0 up'\n\
             ip neighbour flush dev bridge",
            index + 1,
            address(index)
        );
        let _ = said(self.network.command("sh").args(["-ec", &line])).expect(0);
    }

    /// Cuts a host off from the server of the database, or lets it through again.
    pub(super) fn cut_off(&self, index: usize, cut: bool) {
        let pid = self.hosts[index].machine.enter()[2].to_owned();
        let word = if cut { "add" } else { "del" };
        let argv = ["-t", &pid, "--net", "ip", "route", word, "unreachable", SERVER];
        let _ = said(Command::new("nsenter").args(argv)).expect(0);
    }

    /// Starts the server on a copy of the deployment's own data.
    fn serve(&self) {
        let data = self.place.path().join("server/data");
        std::fs::create_dir_all(&data).unwrap();
        let tree = Path::new(&lab("KEYMGR_TEST_PRODUCT")).join("tree/var/lib/mysql");
        let line = format!("cp -a {}/. {1}/ && chown -R nobody {1}", tree.display(), data.display());
        let _ = said(Command::new("sh").args(["-ec", &line])).expect(0);
        // What it leaves behind keeps open whatever would read its words.
        let more = ["3306", "--bind-address=0.0.0.0", "--general-log=1", "--log-output=TABLE"];
        let mut start = self.server("start", &more);
        assert!(start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
        self.sql(
            "CREATE USER barbican@'10.77.0.%' IDENTIFIED BY 'dbpw'; GRANT ALL ON barbican.* TO barbican@'10.77.0.%';
             USE barbican;
             ALTER TABLE secret_consumer_metadata DROP FOREIGN KEY fk_project_id;
             ALTER TABLE secret_consumer_metadata
                 DROP INDEX ix_secret_consumer_metadata_project_id,
                 DROP INDEX _secret_consumer_resource_uc,
                 ADD CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, resource_id),
                 MODIFY project_id VARCHAR(36) NOT NULL;
             UPDATE alembic_version SET version_num = '0f8c192a061f'",
        );
    }

    fn server(&self, verb: &str, more: &[&str]) -> Command {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/server.sh");
        let mut command = self.network.command(script);
        command.args([verb, "mariadb"]).arg(self.place.path().join("server")).args(more);
        command
    }

    /// What the server says to its administrator.
    pub(super) fn sql(&self, sql: &str) -> String {
        let socket = self.place.path().join("server/socket");
        let mut command = Command::new("mariadb");
        command.arg("--no-defaults").arg("-S").arg(socket).args(["-u", "root", "-N", "-e", sql]);
        said(&mut command).expect(0).out.trim_end().to_owned()
    }

    /// A session of its administrator, which has said this and stays until it is dropped.
    pub(super) fn session(&self, sql: &str) -> Session {
        let socket = self.place.path().join("server/socket");
        let mut command = Command::new("mariadb");
        command.arg("--no-defaults").arg("-S").arg(socket).args(["-u", "root", "-N", "--unbuffered"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{sql}; SELECT 'said';").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "said\n");
        Session(child)
    }

    /// When the schema was changed first and last, in microseconds, from which hosts, and how often the ledger was written: from the server's own log.
    pub(super) fn migration(&self) -> (u64, u64, Vec<String>, usize) {
        let ours =
            "FROM mysql.general_log WHERE user_host LIKE '%[10.77.0.%' AND command_type IN ('Query', 'Execute') AND";
        let ddl = "argument REGEXP '^[[:space:]]*(ALTER|CREATE|DROP) '";
        let times = self.sql(&format!(
            "SELECT FLOOR(MIN(UNIX_TIMESTAMP(event_time)) * 1000000), FLOOR(MAX(UNIX_TIMESTAMP(event_time)) * 1000000) {ours} {ddl}"
        ));
        let (first, last) = times.split_once('\t').unwrap();
        let hosts = self
            .sql(&format!("SELECT DISTINCT SUBSTRING_INDEX(SUBSTRING_INDEX(user_host, '[', -1), ']', 1) {ours} {ddl}"));
        let ledger = self.sql(&format!("SELECT COUNT(*) {ours} argument REGEXP 'UPDATE alembic_version SET'"));
        let hosts = hosts.lines().map(str::to_owned).collect();
        (first.parse().unwrap(), last.parse().unwrap(), hosts, ledger.parse().unwrap())
    }

    /// The playbook of the collection, ready to run, with what a site with such an old schema has to say.
    pub(super) fn playbook(&self, more: &[&str]) -> Command {
        let at = self.place.path();
        collection(&at.join("collections"));
        let mut inventory = "[barbican]\n".to_owned();
        for index in 0..self.hosts.len() {
            inventory += &format!("ctl{} ansible_host={}\n", index + 1, address(index));
        }
        let key = ansible().join("key");
        inventory += &format!(
            "[barbican:vars]\nansible_user=root\nansible_python_interpreter=/usr/bin/python3\nansible_ssh_private_key_file={}\n",
            key.display()
        );
        std::fs::write(at.join("inventory"), inventory).unwrap();
        let settings = r#"{"keymgr_upgrade_to": "2023.1", "keymgr_upgrade_path": "fast-forward",
            "keymgr_upgrade_retries": 10, "keymgr_upgrade_delay": 1}"#;
        let mut command = self.network.command(ansible().join("venv/bin/ansible-playbook").to_str().unwrap());
        command
            .args(["-i", "inventory", "keymgr.upgrade.upgrade", "-e", settings])
            .args(more)
            .current_dir(at)
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", ansible().join("venv/bin").display()))
            .env("HOME", at)
            .env("LC_ALL", "C.UTF-8")
            .env("ANSIBLE_COLLECTIONS_PATH", at.join("collections"))
            .env("ANSIBLE_HOST_KEY_CHECKING", "False")
            .env("ANSIBLE_PIPELINING", "True")
            .env("ANSIBLE_FORKS", "10")
            .env("ANSIBLE_SSH_TRANSFER_METHOD", "piped")
            .env(
                "ANSIBLE_SSH_ARGS",
                "-o ControlMaster=no -o ConnectTimeout=10 -o ServerAliveInterval=5 -o UserKnownHostsFile=/dev/null",
            )
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    #[must_use = "look at the exit code, or at what was said"]
    pub(super) fn play(&self, more: &[&str]) -> Said {
        said(&mut self.playbook(more))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.server("stop", &[]).status().ok();
    }
}

/// What tests/lab/ansible.sh made.
pub(super) fn ansible() -> PathBuf {
    PathBuf::from(lab("KEYMGR_TEST_ANSIBLE"))
}

/// The collection where Ansible looks for it below `place`.
pub(super) fn collection(place: &Path) -> PathBuf {
    let at = place.join("ansible_collections/keymgr/upgrade");
    if !at.exists() {
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/ansible");
        std::os::unix::fs::symlink(ours, &at).unwrap();
    }
    at
}

/// The address of a host.
pub(super) fn address(index: usize) -> String {
    format!("10.77.0.{}", 11 + index)
}

/// Boots a controller that has no server of its own, and files that were never brought along since Victoria.
fn boot(number: usize) -> Product {
    let over = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(ansible().join("host/.")).arg(over.path()).status().unwrap();
    assert!(copied.success());
    let put = |path: &str, text: &str| {
        let path = over.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("etc/hostname", &format!("ctl{number}\n"));
    put("etc/hosts", &format!("127.0.0.1 localhost ctl{number}\n"));
    put("etc/keymgr-upgrade/keymgr-upgrade.conf.d/history.conf", "[upgrade]\nrelease = victoria\n");
    put("etc/machine-id", &format!("{number:032x}\n"));
    let script = format!(
        "set -e\n\
         useradd --system --home-dir /run/sshd --shell /usr/sbin/nologin sshd\n\
         systemctl mask mariadb.service\n\
         sed -i 's/@127.0.0.1/@{SERVER}/; s/^token_labels = /token_label = /' /etc/barbican/barbican.conf\n\
         sed -i 's/ microversion / /' /etc/barbican/barbican-api-paste.ini\n"
    );
    put("srv/lab/in-chroot", &script);
    Product::boot_image(over.path())
}
