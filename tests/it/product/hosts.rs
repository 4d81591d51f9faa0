//! Two controllers, each a host of its own, on one database: MariaDB runs on the first, the second reaches it over a link between them.

use std::path::Path;
use std::process::{Child, Command};

use super::{ALL, NEXT, Product, ZED};
use crate::common::{end, said};
use crate::live::flat;
use crate::paused::Points;

/// Where every release from Zed on is.
const HEAD: &str = "8c74e2d7f1ff";
/// Where Victoria is.
const START: &str = "0f8c192a061f";
const FIRST: &str = "10.214.0.1";
const SECOND: &str = "10.214.0.2";
const UPGRADE: &str = "--verbose upgrade --to 2023.1 --yes";
/// Where the service tells of its crash points, and stands at each until it is let on.
const POINTS: &str = "/run/points";

struct Hosts {
    first: Product,
    second: Product,
}

impl Hosts {
    /// Both neglected since Victoria, with our package, the next release on offer.
    fn boot() -> Self {
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(Product::boot);
            (Product::boot(), other.join().unwrap())
        });
        let hosts = Self { first, second };
        hosts.link();
        hosts.first.machine.write("/etc/mysql/mariadb.conf.d/99-link.cnf", "[mariadbd]\nbind-address = 0.0.0.0\n");
        for product in [&hosts.first, &hosts.second] {
            product.ok("systemctl stop barbican-api barbican-worker barbican-keystone-listener");
            product.ok("/srv/lab/from-bullseye && /srv/lab/old-signatures");
        }
        hosts.first.ok("systemctl restart mariadb");
        hosts.sql(&format!(
            "CREATE USER barbican@'{SECOND}' IDENTIFIED BY 'dbpw'; GRANT ALL ON barbican.* TO barbican@'{SECOND}'"
        ));
        hosts.second.ok("systemctl disable --now mariadb");
        hosts.second.ok(&format!("sed -i 's/@127.0.0.1/@{FIRST}/' /etc/barbican/barbican.conf"));
        let settings = "[database]\nlock_timeout = 5s\n";
        hosts.second.machine.write("/etc/keymgr-upgrade/keymgr-upgrade.conf.d/wait.conf", settings);
        for product in [&hosts.first, &hosts.second] {
            product.ok("systemctl start barbican-api barbican-worker barbican-keystone-listener");
            product.install_tool();
            product.offer(&["next"]);
            product.wait_for_api();
            product.run("/srv/lab/read-secrets").expect(1).says("0 read, 6 not");
        }
        hosts
    }

    /// Lays a cable between the two.
    fn link(&self) {
        let [first, second] = [&self.first, &self.second].map(|product| product.machine.pid());
        let ip = |words: &str| {
            let _ = said(Command::new("ip").args(words.split(' '))).expect(0);
        };
        ip(&format!("link add cable netns {first} type veth peer name cable netns {second}"));
        for (pid, address) in [(first, FIRST), (second, SECOND)] {
            let inside = |words: &str| {
                let _ = said(Command::new("nsenter").args(["-t", pid, "-n", "ip"]).args(words.split(' '))).expect(0);
            };
            inside(&format!("address add {address}/24 dev cable"));
            inside("link set cable up");
        }
    }

    /// What the database says, asked on the host where it runs.
    fn sql(&self, sql: &str) -> String {
        self.first.ok(&format!("mariadb -N barbican -e \"{sql}\""))
    }

    fn revision(&self) -> String {
        self.sql("SELECT version_num FROM alembic_version")
    }

    /// Starts the upgrade of the first host and returns when some statements of the migration have run and the next one has not.
    fn half_migrated(&self) -> (Child, Points) {
        let first = &self.first;
        // In the container's own /run.
        let mut points = Points::listen(Path::new(&format!("/proc/{}/root{POINTS}", first.machine.pid())));
        let service = format!("[Service]\nEnvironment=KEYMGR_UPGRADE_CRASH_LOG={POINTS}\n");
        first.machine.write("/etc/systemd/system/keymgr-upgrade.service.d/test.conf", &service);
        first.ok("systemctl daemon-reload");
        let mut child = first.start(&format!("keymgr-upgrade {UPGRADE}"));
        // So many that the schema is that of no revision.
        let mut statements = 0;
        let fourth = |point: &str| {
            statements += u32::from(point == "statement run");
            statements == 4
        };
        assert!(points.until(fourth, || child.try_wait().unwrap().is_some()));
        assert_eq!(self.revision(), START);
        (child, points)
    }

    /// The upgrade of the second host, whose services are held by hand.
    fn second_goes_on(&self) -> String {
        let second = &self.second;
        let said = second.tool(UPGRADE).expect(0);
        assert!(said.out.contains("Done: 2023.1"), "{}", said.out);
        assert_eq!((second.packages(), second.running()), (format!("installed {NEXT}"), ALL.to_vec()));
        second.expect_secrets();
        second.tool("status").expect(0);
        said.out
    }
}

#[test]
#[ignore = "minutes: make test-slow"]
fn while_one_host_migrates_the_other_neither_migrates_nor_starts() {
    let hosts = Hosts::boot();
    let Hosts { first, second } = &hosts;
    // As long as the other one serves, nothing begins.
    let said = first.tool(UPGRADE).expect(3);
    assert!(flat(&said.all()).contains(&format!("on {SECOND}: keymgr-upgrade units hold")), "{}", said.all());
    assert_eq!((first.running(), hosts.revision().as_str()), (ALL.to_vec(), START));
    second.tool("units hold").expect(0);

    let (child, points) = hosts.half_migrated();
    let holder = "by keymgr-upgrade as barbican from the server's own host, session ";
    let said = second.tool("check --to 2023.1");
    assert!(flat(&said.out).contains(&format!("the database is locked {holder}")), "{}", said.out);
    assert!(flat(&said.out).contains("a migration to 8c74e2d7f1ff was begun and not finished"), "{}", said.out);
    let said = second.tool(UPGRADE).expect(75);
    assert!(flat(&said.err).contains(&format!("locked for 5 s and longer {holder}")), "{}", said.err);
    let said = second.apt("upgrade").expect(100);
    said.says("keymgr-upgrade: REFUSED:");
    said.says("Nothing was unpacked");
    assert_eq!(
        (second.packages(), second.ok("ls /var/lib/keymgr-upgrade/runs | wc -l")),
        (format!("installed {ZED}"), "0".into())
    );
    second.expect_held();
    assert_eq!(hosts.revision(), START);

    let said = points.pass(|| end(child)).expect(0);
    assert!(said.out.contains("Done: 2023.1"), "{}", said.out);
    first.expect_secrets();
    let said = second.tool("check --to 2023.1");
    assert!(
        flat(&said.out).contains("schema revision 8c74e2d7f1ff is that of Zed already: another host has migrated it")
    );
    second.tool("check --to yoga").expect(2).says("Yoga does not work with it: --to zed or later");
    second.expect_held();

    let before = first.invocations();
    let said = hosts.second_goes_on();
    for step in ["back up database", "schema 8c74"] {
        assert!(!said.contains(step), "{said}");
    }
    for step in ["barbican.conf", "barbican-api-paste.ini", "verify secrets", "start services"] {
        assert!(said.contains(step), "{said}");
    }
    assert_eq!((hosts.revision().as_str(), first.invocations()), (HEAD, before));
    first.expect_secrets();
}

#[test]
#[ignore = "slow: make test-slow"]
fn a_migration_that_was_killed_is_ended_by_the_other_host_and_found_done() {
    let hosts = Hosts::boot();
    let Hosts { first, second } = &hosts;
    second.tool("units hold").expect(0);
    let (child, _points) = hosts.half_migrated();
    first.ok("kill -9 $(systemctl show -P MainPID keymgr-upgrade)");
    end(child).expect(4);
    first.ok("rm -r /etc/systemd/system/keymgr-upgrade.service.d && systemctl daemon-reload");
    first.expect_held();
    assert_eq!(hosts.revision(), START);
    let said = hosts.second_goes_on();
    assert!(said.contains("schema 8c74e2d7f1ff     ok"), "{said}");
    first.expect_held();
    let before = first.picture().database;
    let said = first.tool("resume").expect(0);
    assert!(said.out.contains("Done: 2023.1"), "{}", said.out);
    assert_eq!((first.running(), hosts.revision().as_str()), (ALL.to_vec(), HEAD));
    assert_eq!(first.picture().database, before, "nothing was left to do on the database");
    first.expect_secrets();
    second.expect_secrets();
    // Neither the database's password nor the PIN is in the journal of either.
    for product in [first, second] {
        let said = product.ok("journalctl --sync; journalctl -q -o export --all -t keymgr-upgrade");
        assert!(said.contains("MESSAGE=running "), "logging was at its fullest: {said}");
        assert!(!said.contains("dbpw") && !said.contains("login = 1234"), "{said}");
    }
}
