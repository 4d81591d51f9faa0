//! keymgr-upgrade-moving(7), carried out as it is written: an old database on a new controller, where no old code ever was.

use std::path::Path;
use std::process::Command;

use crate::common::{Sandbox, said};
use crate::manual::{Stage, examples, source};

const FRESH: &str = "var/lib/barbican/barbican.sqlite";
const MOVED: &str = "var/lib/barbican/moved.sqlite";
const CONF: &str = "srv/moving/barbican.conf";
const HERE: [&str; 2] = ["--config-file", "/srv/moving/barbican.conf"];

/// A controller with Barbican 23.0.0, its own files and a database that it made for itself; in /srv/moving what came from the old one, whose
/// barbican.conf leads to `url` already.
pub(crate) fn controller(liberty: &Sandbox, url: &str) -> Sandbox {
    let sandbox = liberty.copy();
    let conf = sandbox.read("etc/barbican/barbican.conf");
    let lines = conf.lines().filter(|l| !l.starts_with("sql_connection")).map(|l| format!("{l}\n"));
    sandbox.write(CONF, &format!("{}\n[database]\nconnection = {url}\n", lines.collect::<String>()));
    std::fs::rename(sandbox.path(FRESH), sandbox.path(MOVED)).unwrap();

    sandbox.install("23.0.0");
    sandbox.write("etc/barbican/barbican-api-paste.ini", include_str!("../fixtures/paste/P9.ini"));
    let fresh = format!("[database]\nconnection = sqlite:////{FRESH}\n");
    sandbox.write("etc/barbican/barbican.conf", &fresh);
    sandbox.run(&["db", "upgrade", "--yes"]).expect(0);
    // As our package notes it when it is installed.
    let record = r#"{"format": 1, "release": "2026.2", "run": ""}"#;
    sandbox.write("var/lib/keymgr-upgrade/deployment.json", record);
    sandbox
}

/// Does what the page says, on such a controller.
pub(crate) fn by_the_page(controller: &Sandbox) -> Sandbox {
    let mut stage = Stage::new(&[("moving", controller)]);
    let ran = examples(&source("keymgr-upgrade-moving.7"), &mut stage);
    assert_eq!(ran, 15, "commands of the page");
    let moved = stage.now;
    let check = moved.run(&["check", "--to", "2026.2"]);
    check.says("0 FAIL");
    check.says("36 of 36 decrypt");
    check.says("6 good, 0 old, 0 unreadable");
    moved.run(&["config", "diff"]).expect(0).says("The files are as 2026.2 wants them.");
    let held = said(Command::new("find").arg(moved.path("etc/systemd")).args(["-name", "*keymgr*"]));
    assert_eq!(held.out, "", "units that are held");
    moved
}

/// Schema and rows, sorted.
fn rows(path: &Path) -> Vec<String> {
    let dump = said(Command::new("sqlite3").arg(path).arg(".dump")).expect(0).out;
    let mut rows: Vec<String> = dump.lines().map(str::to_owned).collect();
    rows.sort();
    rows
}

#[test]
fn an_old_database_moves_to_a_new_controller() {
    let liberty = Sandbox::liberty();
    let controller = controller(&liberty, &format!("sqlite:////{MOVED}"));
    let moved = by_the_page(&controller);
    assert_eq!(rows(&moved.path(FRESH)), rows(&controller.path(FRESH)), "what the packages had made");
    // It ends where an upgrade of the old controller ends.
    liberty.upgrade("2026.2");
    assert_eq!(rows(&moved.path(MOVED)), rows(&liberty.path(FRESH)));
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let conf = moved.read("etc/barbican/barbican.conf").replace("/moved.sqlite", "/barbican.sqlite");
    assert_eq!(sorted(conf), sorted(liberty.read("etc/barbican/barbican.conf")));
}

#[test]
fn files_that_are_changed_after_the_schema_are_noticed() {
    let moved = controller(&Sandbox::liberty(), &format!("sqlite:////{MOVED}"));
    let run = |arguments: &[&str]| moved.run(&[arguments, &HERE[..]].concat());
    run(&["db", "upgrade", "--yes", "--from", "liberty"]).expect(0);
    run(&["kek", "migrate", "--yes"]).expect(0);
    run(&["config", "apply", "--yes"]).expect(0);
    // Every secret decrypts here, and the service would read none of those under the token.
    run(&["kek", "verify"]).expect(0);
    for verb in ["check", "upgrade"] {
        let said = run(&[verb]);
        assert_eq!(said.code, if verb == "check" { 2 } else { 3 }, "{}", said.all());
        said.says("FAIL  mechanism");
        said.says("are under VENDOR_SAFENET_CKM_AES_GCM, but 2026.2 would read them as CKM_AES_CBC");
        said.says("[p11_crypto_plugin] in barbican.conf: encryption_mechanism = VENDOR_SAFENET_CKM_AES_GCM");
    }
    let conf = moved.read(CONF);
    let mended = conf
        .replace("[p11_crypto_plugin]\n", "[p11_crypto_plugin]\nencryption_mechanism = VENDOR_SAFENET_CKM_AES_GCM\n");
    moved.write(CONF, &mended);
    run(&["check"]).expect(0);
}

#[test]
fn the_database_of_the_new_code_is_not_taken_for_the_old_one() {
    let sandbox = controller(&Sandbox::liberty(), "");
    let conf = sandbox.read(CONF);
    sandbox.write(CONF, &conf.replace("[DEFAULT]\n", &format!("[DEFAULT]\nsql_connection = sqlite:////{MOVED}\n")));
    let conf = sandbox.read(CONF);
    sandbox.write(CONF, conf.split("\n[database]").next().unwrap());
    std::fs::remove_file(sandbox.path("var/lib/keymgr-upgrade/deployment.json")).unwrap();
    let fresh = rows(&sandbox.path(FRESH));
    let run = |arguments: &[&str]| sandbox.run(&[arguments, &HERE[..]].concat());
    // 2026.2 would read neither of the names, and open its default, which is there.
    for (verb, code) in [(&["status"][..], 0), (&["check"], 255), (&["upgrade"], 1), (&["config", "apply"], 1)] {
        let why = "[DEFAULT] sql_connection names a database that the installed code, 2026.2, does not read";
        run(verb).expect(code).says(why);
    }
    run(&["check", "--from", "liberty", "--to", "2026.2", "--fast-forward"]).expect(2).says("36 of 36 decrypt");
    // What needs no release works on the database that is named.
    run(&["db", "current"]).expect(0).says("4ecde3a3a72a");
    run(&["db", "upgrade", "--yes"]).expect(0);
    run(&["kek", "migrate", "--yes"]).expect(0).says("36 of 36 secrets decrypted");
    assert_eq!(rows(&sandbox.path(FRESH)), fresh);
}
