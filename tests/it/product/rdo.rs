//! Barbican as pip installs it, packed as RDO does, on one host: installed, filled, upgraded by dnf and by rpm alone with our rpm beside it, and
//! in the end our rpm upgraded and erased.

use super::upgrade::expect_down_during;
use super::{Product, RDO, Watch, What};
use crate::common::Said;
use crate::rpm::{UNTOLD, packed};

const PASTE: &str = "/etc/barbican/barbican-api-paste.ini";
const STATE: &str = "/var/lib/keymgr-upgrade";
const PLUGIN: &str = "/usr/lib/python3/dist-packages/dnf-plugins/keymgr_upgrade.py";
/// What runs in the end: the operator has stopped the listener.
const RUN: [&str; 2] = [RDO[0], RDO[1]];
/// The operator's pipeline: something in front of Barbican asks who it is.
const OWN: &str = "sed -i '/^\\[pipeline:barbican-api-keystone\\]/,/^\\[/s/^\\(pipeline = .*\\) authtoken/\\1/' \
     /etc/barbican/barbican-api-paste.ini";

impl Product {
    /// dnf as an unattended run calls it, with the packages of one directory to be had.
    #[must_use = "look at the exit code, or at what was said"]
    fn dnf(&self, directory: &str, arguments: &str) -> Said {
        self.run(&format!(
            "dnf -y --nogpgcheck --releasever=9 --repofrompath=lab,file://{directory} --setopt=lab.metadata_expire=0 {arguments}"
        ))
    }

    fn invocation(&self) -> [String; 2] {
        RUN.map(|unit| self.ok(&format!("systemctl show -P InvocationID {unit}")))
    }
}

#[test]
fn the_published_barbican_goes_from_release_to_release_by_dnf_and_by_rpm() {
    let product = filled();
    without_us_services_run_while_packages_change(&product);
    product.ok("/srv/lab/from-bullseye && /srv/lab/old-signatures");
    product.ok(&format!("rm -f {PASTE}.rpmnew && systemctl restart {} && systemctl stop {}", RDO[0], RDO[2]));
    product.wait_for_api();
    product.run("/srv/lab/read-secrets").expect(1).says("0 read, 6 not");
    for version in ["0.1.0", "0.1.1"] {
        packed(&product.path(&format!("/opt/{version}")), &[&format!("program_version={version}")]);
    }
    let _ = product.dnf("/srv/lab/rpm/same", "install /opt/0.1.0/RPMS/*/*.rpm").expect(0);

    dnf_is_refused_a_skip(&product);
    let before = product.picture();
    dnf_takes_it_to_the_next_release(&product);
    let _ = product.tool("rollback --yes").expect(4);
    product.expect_held();
    let _ = product.dnf("/srv/lab/rpm/same", "downgrade 'openstack-barbican*' python3-barbican").expect(0);
    product.ok(&format!("rm {PASTE}.rpmnew"));
    assert_eq!(product.picture(), before, "code, rows, files and units are what they were");
    rpm_takes_it_there_and_replaces_the_paste_file(&product);
    our_rpm_is_upgraded_and_erased(&product);
}

/// A host with Barbican from its packages, and secrets that its API has stored.
pub(crate) fn filled() -> Product {
    let product = Product::without_barbican();
    let _ = product
        .dnf("/srv/lab/rpm/zed", &format!("install {}", RDO.map(|u| u.replace(".service", "")).join(" ")))
        .expect(0);
    product.ok(&format!("{OWN} && systemctl enable --now {}", RDO.join(" ")));
    product.wait_for_api();
    product.ok("/srv/lab/store-secrets");
    product.expect_secrets();
    product
}

/// What the tests here are to notice does happen.
fn without_us_services_run_while_packages_change(product: &Product) {
    let began = product.now();
    let _ = product.dnf("/srv/lab/rpm/same", "upgrade").expect(0);
    assert_eq!(product.packages(), "15.0.1-2");
    let watch = product.watch();
    let ran = watch.ran_between(watch.first_unpack(began), watch.packages_done()).join("\n");
    assert!(ran.contains("openstack-barbican-api.service was not stopped before"), "{ran}\n{watch}");
    product.expect_secrets();
}

fn dnf_is_refused_a_skip(product: &Product) {
    let settings = "/etc/keymgr-upgrade/keymgr-upgrade.conf.d/way.conf";
    product.put(settings, "[upgrade]\npath = sequential\n");
    let (before, invocations) = (product.picture(), product.invocations());
    let said = product.dnf("/srv/lab/rpm/skip", "upgrade").expect(1);
    said.says("keymgr-upgrade refuses this transaction; nothing was changed");
    said.says("REFUSED: Victoria -> 2023.2 skips Wallaby, Xena, Yoga, Zed,");
    assert_eq!((product.picture(), product.invocations()), (before, invocations));
    assert_eq!(product.running(), RUN);
    assert_eq!(product.ok(&format!("ls {STATE}")), "lock");
    assert_eq!(holds(product), "");
    product.ok(&format!("rm {settings}"));
}

fn dnf_takes_it_to_the_next_release(product: &Product) {
    let began = product.now();
    let said = product.dnf("/srv/lab/rpm/next", "upgrade").expect(0);
    let ended = product.now();
    said.says("Victoria -> 2023.1 is allowed.");
    said.says("Done: 2023.1, down ");
    assert_eq!(product.packages(), "16.0.2-1");
    let watch = expect_carried_out(product, began, ended);
    assert_eq!(watch.all(&What::Started, RDO[2], "").filter(|e| e.at > began).count(), 0, "{watch}");
    // The operator's pipelines, with what the release needs in them; the package's lies beside.
    product.ok(&format!("grep -q '^pipeline = cors http_proxy_to_wsgi context microversion apiapp' {PASTE}"));
    product.ok("grep -q '^token_labels = barbican' /etc/barbican/barbican.conf");
    let check = product.tool("check").expect(1);
    check.says("rpm left its own barbican-api-paste.ini beside yours, which is in force");
    check.says(&format!("diff -u {PASTE} {PASTE}.rpmnew"));
    product.expect_secrets();
}

/// Stopped before the first file, migrated when all were there, then started, and nothing is left of the hold.
fn expect_carried_out(product: &Product, began: u64, ended: u64) -> Watch {
    let watch = product.watch();
    expect_down_during(&watch, &RUN, began, ended);
    // By MariaDB's own word: when the table got the shape that it has. It counts in seconds.
    let changed = "SELECT UNIX_TIMESTAMP(CREATE_TIME) FROM information_schema.TABLES WHERE TABLE_NAME = 'secret_consumer_metadata'";
    let changed: u64 = product.ok(&format!("mariadb -N -e \"{changed}\"")).parse().unwrap();
    let start = RUN.map(|unit| watch.all(&What::Started, unit, "").find(|e| e.at > began).unwrap().at);
    let start = start.into_iter().min().unwrap();
    assert!((watch.packages_done() / 1_000_000..=start / 1_000_000).contains(&changed), "{changed}\n{watch}");
    assert_eq!(product.ok("mariadb -N barbican -e 'SELECT version_num FROM alembic_version'"), "8c74e2d7f1ff");
    product.ok("keymgr-upgrade kek status && keymgr-upgrade db verify");
    assert_eq!((product.running(), holds(product).as_str()), (RUN.to_vec(), ""));
    let _ = product.tool("status").expect(0);
    watch
}

fn rpm_takes_it_there_and_replaces_the_paste_file(product: &Product) {
    let began = product.now();
    let said = product.run("rpm -U /srv/lab/rpm/suse/noarch/*.rpm").expect(0);
    let ended = product.now();
    said.says("2 services stopped and held; backup");
    said.says("Done: 2023.1, down ");
    assert_eq!(product.packages(), "16.0.2-2");
    expect_carried_out(product, began, ended);

    // Its packages are SUSE's in this: the operator's pipelines are put aside.
    product.run("/srv/lab/read-secrets").expect(1).says("Unauthorized");
    let check = product.tool("check").expect(1);
    check.says("rpm replaced your barbican-api-paste.ini: your own pipelines are no longer in force");
    check.says(&format!("{PASTE}.rpmsave: yours, put aside"));
    check.says(&format!("write your own filters and pipelines into {PASTE}"));
    product.ok(&format!("{OWN} && systemctl restart {} && rm {PASTE}.rpmsave", RDO[0]));
    assert!(!product.tool("check").expect(1).out.contains("rpm-left"));
    product.expect_secrets();
}

fn our_rpm_is_upgraded_and_erased(product: &Product) {
    let ran = product.invocation();
    // Barbican is none of its business: no service is so much as stopped.
    let said = product.dnf("/opt/0.1.0", "upgrade /opt/0.1.1/RPMS/*/*.rpm").expect(0);
    assert!(!said.all().contains("keymgr-upgrade: "), "{}", said.all());
    assert_eq!(product.ok("rpm -q --qf '%{VERSION}' keymgr-upgrade"), "0.1.1");
    assert_eq!(product.ok(&format!("readlink -e {PLUGIN}")), "/usr/share/keymgr-upgrade/dnf/keymgr_upgrade.py");
    assert_eq!(product.ok("systemctl is-enabled keymgr-upgrade-boot"), "enabled");
    let triggers = "rpm -qa --filetriggers | grep -c 'keymgr-upgrade hook'";
    assert_eq!(product.ok(triggers), "2", "each trigger once");
    assert_eq!((product.invocation(), holds(product).as_str()), (ran.clone(), ""));

    let said = product.dnf("/opt/0.1.0", "remove keymgr-upgrade").expect(0);
    said.says("/var/lib/keymgr-upgrade: remove it when it is not needed any more");
    assert_eq!(product.invocation(), ran);
    expect_no_trace(product, triggers);

    // By a tool that tells nobody what it does, services are down for a moment, lest it be Barbican that goes to another release.
    let _ = product.run("rpm -U /opt/0.1.1/RPMS/*/*.rpm").expect(0);
    product.put("/opt/untold.py", UNTOLD);
    let said = product.run("python3 /opt/untold.py keymgr-upgrade").expect(0);
    said.says("Barbican's release is what it was; its services are free again.");
    product.wait_for_end_of("keymgr-upgrade-watch.service");
    expect_no_trace(product, triggers);
    product.expect_secrets();
}

/// Nothing holds a unit or waits for package work; what is known of runs is kept, and the copies with it.
#[track_caller]
fn expect_no_trace(product: &Product, triggers: &str) {
    assert_eq!(product.run("rpm -q keymgr-upgrade").code, 1);
    assert_eq!(product.run(triggers).out, "0\n");
    assert_eq!((product.running(), holds(product).as_str()), (RUN.to_vec(), ""));
    assert_eq!(product.ok("systemctl --failed --no-legend"), "");
    // The settings of the test are no package's.
    let left =
        product.ok("find / -xdev -path /opt -prune -o -iname '*keymgr*' -print | sort; find /run -iname '*keymgr*'");
    let left: Vec<_> = left.lines().filter(|path| !path.starts_with("/etc/keymgr-upgrade")).collect();
    assert_eq!(left, [STATE]);
    assert_eq!(product.ok(&format!("ls -d {STATE}/runs/*/backup | wc -l")), "2");
}

/// Drop-ins and masks of Barbican's units.
fn holds(product: &Product) -> String {
    product.ok("find /etc/systemd /run/systemd -path '*barbican*.d*' -o -lname /dev/null -name '*barbican*'")
}
