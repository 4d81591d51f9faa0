//! Controllers on a network of their own: booted containers, a bridge, the server of their database, and Ansible beside it. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::store::{Kind, Store};
use crate::common::{Said, lab, said};
use crate::product::Product;

/// Where Ansible is.
const OPERATOR: &str = "10.77.0.1";
/// Where the server of the database is.
pub(super) const SERVER: &str = "10.77.0.2";

/// A network namespace, gone when this is dropped.
pub(super) struct Network {
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
    pub(super) fn command(&self, program: &str) -> Command {
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

/// Some controllers with Barbican 15.0.1 and our package, on one database whose schema is Victoria's.
pub(super) struct Fleet {
    /// `ctl1`, `ctl2`, ...
    pub(super) hosts: Vec<Product>,
    pub(super) store: Store,
    network: Network,
    place: TempDir,
}

impl Fleet {
    /// Boots them on MariaDB; all serve.
    pub(super) fn boot(count: usize) -> Self {
        Self::boot_on(Kind::Mariadb, count)
    }

    /// Boots them on such a database; all serve.
    pub(super) fn boot_on(kind: Kind, count: usize) -> Self {
        let place = tempfile::Builder::new().prefix("keymgr-fleet-").tempdir().unwrap();
        std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let network = Network::new();
        let store = Store::start(kind, &network, place.path());
        let hosts = std::thread::scope(|scope| {
            let boot = |index| {
                let url = store.url(index);
                scope.spawn(move || boot(index + 1, &url))
            };
            let threads: Vec<_> = (0..count).map(boot).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let fleet = Self { hosts, store, network, place };
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
        let pid = self.hosts[index].machine.pid().to_owned();
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
        let pid = self.hosts[index].machine.pid().to_owned();
        let word = if cut { "add" } else { "del" };
        let argv = ["-t", &pid, "--net", "ip", "route", word, "unreachable", SERVER];
        let _ = said(Command::new("nsenter").args(argv)).expect(0);
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
            "keymgr_upgrade_retries": 60, "keymgr_upgrade_delay": 1}"#;
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

    /// A file of tasks, by its path.
    pub(super) fn tasks(&self, text: &str) -> String {
        let path = self.place.path().join("tasks.yml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs it to its end.
    #[must_use = "look at the exit code, or at what was said"]
    pub(super) fn play(&self, more: &[&str]) -> Said {
        said(&mut self.playbook(more))
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
fn boot(number: usize, url: &str) -> Product {
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
    if url.starts_with("postgresql") {
        // What copies the database, which the tree does not have.
        let bin = over.path().join("usr/local/bin");
        std::fs::create_dir_all(&bin).unwrap();
        let clients = "cd $(ls -d /usr/lib/postgresql/*/bin | tail -n 1) && cp psql pg_dump pg_restore";
        let _ = said(Command::new("sh").args(["-ec", &format!("{clients} {}", bin.display())])).expect(0);
    }
    let script = format!(
        "set -e\n\
         useradd --system --home-dir /run/sshd --shell /usr/sbin/nologin sshd\n\
         systemctl mask mariadb.service\n\
         sed -i 's|^sql_connection = .*|sql_connection = {url}|; s/^token_labels = /token_label = /' /etc/barbican/barbican.conf\n\
         sed -i 's/ microversion / /' /etc/barbican/barbican-api-paste.ini\n"
    );
    put("srv/lab/in-chroot", &script);
    Product::boot_image(over.path())
}
