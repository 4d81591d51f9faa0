//! Several controllers with Debian's Barbican on one database, upgraded by the playbook of packaging/ansible. Needs root.
//!
//! What ran when is taken from the journals of all hosts, and when the schema changed from the server's own log.

mod dnf;
mod hand;
mod lab;
mod store;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use self::lab::{Fleet, address};
use self::store::Kind;
use crate::common::end;
use crate::common::{Said, said};
use crate::product::{NEXT, Product, UNITS, What};
use crate::systemd::API;

/// What Ansible counted of a host.
#[track_caller]
fn recap(said: &Said, host: &str, what: &str) -> usize {
    let line = said.out.lines().rfind(|l| l.starts_with(&format!("{host} ")));
    let line = line.unwrap_or_else(|| panic!("{host} is not in the recap:\n{}", said.all()));
    let word = line.split_whitespace().find_map(|w| w.strip_prefix(&format!("{what}=")));
    word.unwrap().parse().unwrap()
}

impl Fleet {
    /// All hosts are at 2023.1, serve, read every secret, and nothing of Barbican ran while the schema changed, which one host did once.
    #[track_caller]
    fn expect_upgraded(&self) {
        let migration = self.store.migration();
        assert_eq!((migration.hosts.len(), migration.ledger), (1, 1), "{:?}", migration.hosts);
        self.expect_served();
        for host in &self.hosts {
            let ran = host.watch().ran_between(migration.first, migration.last);
            assert!(ran.is_empty(), "while the schema changed: {ran:#?}");
        }
    }

    /// The playbook, run once more, changes nothing.
    #[track_caller]
    fn expect_nothing_left(&self) {
        let said = self.play(&[]).expect(0);
        for index in 1..=self.hosts.len() {
            assert_eq!(recap(&said, &format!("ctl{index}"), "changed"), 0);
        }
    }

    /// All hosts are at 2023.1, serve, and read every secret.
    #[track_caller]
    fn expect_served(&self) {
        for host in &self.hosts {
            assert_eq!(host.packages(), format!("installed {NEXT}"));
            assert_eq!(host.running(), UNITS);
            host.expect_secrets();
            host.tool("status").expect(0).says("2023.1");
        }
    }
}

#[test]
fn the_collection_passes_its_linter() {
    let place = tempfile::tempdir().unwrap();
    let collection = lab::collection(place.path());
    let venv = lab::ansible().join("venv/bin");
    let mut linter = Command::new(venv.join("ansible-lint"));
    linter
        .args(["--offline", "--profile", "production", "--strict", "--nocolor"])
        .current_dir(collection)
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", venv.display()))
        .env("HOME", place.path())
        .env("ANSIBLE_HOME", place.path())
        .env("ANSIBLE_COLLECTIONS_PATH", place.path());
    said(&mut linter).expect(0).says("Passed: 0 failure(s), 0 warning(s)");
}

#[test]
fn a_playbook_takes_two_controllers_to_the_next_release() {
    let fleet = Fleet::boot(2);
    let before: Vec<_> =
        fleet.hosts.iter().map(|host| (host.invocations(), host.ok("find /etc -newer /etc/hostname | sort"))).collect();
    let said = fleet.play(&["--check"]).expect(0);
    said.says("would be upgraded to 2023.1");
    let after: Vec<_> =
        fleet.hosts.iter().map(|host| (host.invocations(), host.ok("find /etc -newer /etc/hostname | sort"))).collect();
    assert_eq!(before, after, "--check changes nothing");

    let said = fleet.play(&[]).expect(0);
    assert!(recap(&said, "ctl1", "changed") > 0 && recap(&said, "ctl2", "changed") > 0);
    fleet.expect_upgraded();
    assert_eq!(fleet.store.migration().hosts, [address(0)], "the first one");
    // The others take no copy of the database.
    let copies =
        |host: usize| fleet.hosts[host].ok("ls /var/lib/keymgr-upgrade/runs/*/backup | grep -c ^database || true");
    assert!(copies(0) != "0" && copies(1) == "0", "{} {}", copies(0), copies(1));

    fleet.expect_nothing_left();
}

#[test]
#[ignore = "minutes: make test-slow"]
fn a_playbook_takes_three_controllers_to_the_next_release() {
    let fleet = Fleet::boot(3);
    let said = fleet.play(&[]).expect(0);
    assert!(recap(&said, "ctl3", "changed") > 0);
    fleet.expect_upgraded();
    fleet.expect_nothing_left();
}

#[test]
#[ignore = "minutes: make test-slow"]
fn a_playbook_takes_two_on_postgresql_of_which_somebody_takes_the_first_meanwhile() {
    let fleet = Fleet::boot_on(Kind::Postgresql, 2);
    // Between its checks and its holds the first is upgraded by hand: its own hold of that one is in vain, and ended.
    let meanwhile = fleet.tasks(
        "- {name: Hold, ansible.builtin.command: keymgr-upgrade units hold}\n\
         - name: Upgrade the first\n\
         \x20 ansible.builtin.command: keymgr-upgrade upgrade --to 2023.1 --yes\n\
         \x20 when: inventory_hostname == 'ctl1'\n",
    );
    let _ = fleet.play(&["-e", &format!("keymgr_upgrade_drain={meanwhile}")]).expect(0);
    fleet.expect_upgraded();
    fleet.expect_nothing_left();
}

#[test]
#[ignore = "minutes: make test-slow"]
fn a_playbook_takes_two_on_nodes_of_a_cluster_by_a_command_of_the_site() {
    let fleet = Fleet::boot_on(Kind::Galera, 2);
    let command = "DEBIAN_FRONTEND=noninteractive apt-get -q -y upgrade";
    let code = format!(
        r#"{{"keymgr_upgrade_packages": "none", "keymgr_upgrade_settings": {{"code": {{"upgrade_command": "{command}"}}}}}}"#
    );
    let _ = fleet.play(&["-e", &code]).expect(0);
    fleet.expect_upgraded();
    let said = fleet.play(&["-e", &code]).expect(0);
    assert_eq!(["ctl1", "ctl2"].map(|host| recap(&said, host, "changed")), [0, 0]);
}

#[test]
#[ignore = "minutes: make test-slow"]
fn one_that_dies_while_it_migrates_and_one_cut_off_from_the_database_are_taken_up_again() {
    let mut fleet = Fleet::boot(3);
    // The first one comes as far as the first statement, and has its power cut there.
    let table = fleet.store.session("LOCK TABLES barbican.secret_consumer_metadata READ");
    let playing = start(&mut fleet);
    until("the migration waits", || {
        fleet.store.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE HOST LIKE '10.77.0.11:%' AND INFO LIKE 'ALTER TABLE%' AND STATE LIKE 'Waiting for table%'") != "0"
    });
    fleet.hosts[0].machine.cut_power();
    let said = end(playing);
    assert_ne!(said.code, 0);
    drop(table);
    for host in &fleet.hosts {
        host.expect_held();
    }
    for host in &fleet.hosts[1..] {
        host.tool("status").expect(0).says("no run is open");
    }
    fleet.hosts[0].tool("status").expect(4).says("INTERRUPTED");

    // Taken up by the playbook; the second host loses sight of the database meanwhile.
    fleet.plug(0);
    let playing = start(&mut fleet);
    until("the first one is done", || fleet.hosts[0].tool("status").code == 0);
    fleet.cut_off(1, true);
    let said = end(playing);
    assert_ne!(said.code, 0);
    assert_eq!(recap(&said, "ctl2", "failed"), 1);
    fleet.hosts[1].expect_held();
    fleet.hosts[0].expect_secrets();

    fleet.cut_off(1, false);
    let _ = fleet.play(&[]).expect(0);
    fleet.expect_served();
    assert_eq!(fleet.store.migration().hosts, [address(0)]);
    fleet.expect_nothing_left();
}

#[test]
#[ignore = "minutes: make test-slow"]
fn one_left_out_one_with_other_files_and_two_operators_at_once_end_in_named_states() {
    let mut fleet = Fleet::boot(3);
    // Left out, it serves on, and is named; nothing was changed on the others, which stay held.
    fleet.hosts[1].expect_secrets();
    let said = fleet.play(&["--limit", "ctl1,ctl3"]);
    assert_ne!(said.code, 0);
    said.says(&address(1));
    for host in [&fleet.hosts[0], &fleet.hosts[2]] {
        host.expect_held();
        assert_eq!(host.packages(), format!("installed {}", crate::product::ZED));
    }
    fleet.hosts[1].expect_secrets();

    // Two values for one option: nobody knows which, so nothing begins anywhere.
    let conf = "/etc/barbican/barbican.conf";
    fleet.hosts[2]
        .ok(&format!("cp -a {conf} {conf}.kept && sed -i 's/^token_label = .*/&\\ntoken_labels = another/' {conf}"));
    let said = fleet.play(&[]);
    assert_ne!(said.code, 0);
    assert_eq!(["ctl1", "ctl2", "ctl3"].map(|host| recap(&said, host, "failed")), [0, 0, 1]);
    said.says("token_label");
    fleet.hosts[1].expect_secrets();
    fleet.hosts[2].ok(&format!("mv {conf}.kept {conf}"));

    // Two at once: whoever comes second waits, or follows.
    let (one, other) = (start(&mut fleet), start(&mut fleet));
    let (one, other) = (end(one), end(other));
    assert!(one.code == 0 || other.code == 0);
    fleet.expect_nothing_left();
    fleet.expect_upgraded();
}

/// The playbook, at work.
fn start(fleet: &mut Fleet) -> Child {
    fleet.playbook(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(600), "not so after 600 s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Where the time goes in which a host does not serve, in seconds: from the first stop anywhere until the last host stops too, until the first one
/// serves again, until the last one does.
fn window(fleet: &Fleet, began: u64) -> [f64; 3] {
    let of = |what: &What| {
        let last = |host: &Product| host.watch().all(what, API, "").map(|e| e.at).filter(|at| *at >= began).last();
        fleet.hosts.iter().map(last).collect::<Option<Vec<_>>>().unwrap()
    };
    let first = |host: &Product| host.watch().all(&What::Stopping, API, "").map(|e| e.at).find(|at| *at >= began);
    let stops: Vec<_> = fleet.hosts.iter().map(first).collect::<Option<_>>().unwrap();
    let starts = of(&What::Started);
    let edges = [
        *stops.iter().min().unwrap(),
        *stops.iter().max().unwrap(),
        *starts.iter().min().unwrap(),
        *starts.iter().max().unwrap(),
    ];
    std::array::from_fn(|i| Duration::from_micros(edges[i + 1] - edges[i]).as_secs_f64())
}

/// What `make test-slow` prints with --no-capture: the window of one host and of three.
#[test]
#[ignore = "minutes: make test-slow"]
#[expect(clippy::print_stdout, reason = "figures are for who asked for them")]
fn the_window_of_one_host_and_of_three() {
    let [one, three] = [1, 3].map(|count| {
        let fleet = Fleet::boot(count);
        let began = fleet.hosts[0].now();
        let _ = fleet.play(&[]).expect(0);
        let split = window(&fleet, began);
        println!("{count} booted: hold {:.1} s, first {:.1} s, others {:.1} s", split[0], split[1], split[2]);
        split
    });
    assert!(one[2] == 0.0 && three[2] > 0.0, "{one:?} {three:?}");
}
