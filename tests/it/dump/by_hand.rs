//! What `RESTORE.txt` says, done exactly as it is written.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use keymgr_upgrade::db::Dialect;

use super::{Deployment, similar_asserts};
use crate::common::{Sandbox, said};
use crate::server_schema::dumped;
use crate::servers::PASSWORD;

/// The commands of the text: what is indented like a command.
fn commands(text: &str) -> String {
    text.lines().filter_map(|line| line.strip_prefix("      ")).map(|line| format!("{line}\n")).collect()
}

/// Runs commands in a shell on a terminal of its own, and types the password as often as it is asked for.
fn at_a_terminal(commands: &str) -> String {
    let mut child = Command::new("script")
        .args(["-q", "-e", "-c", commands, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut said, mut answered, mut byte) = (String::new(), 0, [0]);
    while output.read(&mut byte).unwrap_or(0) > 0 {
        said.push(char::from(byte[0]));
        if said[answered..].contains("assword") && said.trim_end().ends_with(':') {
            answered = said.len();
            writeln!(input, "{PASSWORD}").unwrap();
        }
    }
    assert!(child.wait().unwrap().success(), "{commands}\n{said}");
    said
}

fn restored_by_hand(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    let before = dumped(&deployment.base);
    let run = deployment.upgrade("mitaka");
    let text = std::fs::read_to_string(deployment.backup(&run).join("RESTORE.txt")).unwrap();
    let commands = commands(&text);
    at_a_terminal(&commands);
    similar_asserts(&before, &dumped(&deployment.base));
    // As often as one likes, and nothing that holds secrets is left behind.
    at_a_terminal(&commands);
    similar_asserts(&before, &dumped(&deployment.base));
    assert!(!deployment.backup(&run).join("script.sql").exists());
}

#[test]
fn postgresql_is_restored_by_hand() {
    restored_by_hand(Dialect::Postgresql);
}

#[test]
fn mariadb_is_restored_by_hand() {
    restored_by_hand(Dialect::Mysql);
}

#[test]
fn sqlite_is_restored_by_hand() {
    const DATABASE: &str = "var/lib/barbican/barbican.sqlite";
    let sandbox = Sandbox::liberty();
    let dump = || said(Command::new("sqlite3").arg(sandbox.path(DATABASE)).arg(".dump")).expect(0).out;
    let before = dump();
    sandbox.upgrade("mitaka");
    assert_ne!(dump(), before);
    let runs = std::fs::read_dir(sandbox.path("var/lib/keymgr-upgrade/runs")).unwrap();
    let run = runs.map(|run| run.unwrap().path()).max().unwrap();
    let text = std::fs::read_to_string(run.join("backup/RESTORE.txt")).unwrap();
    at_a_terminal(&commands(&text));
    similar_asserts(&before, &dump());
}

#[test]
fn a_description_of_the_first_format_is_still_read() {
    let sandbox = Sandbox::liberty();
    let database = sandbox.path("var/lib/barbican/barbican.sqlite");
    let dump = || said(Command::new("sqlite3").arg(&database).arg(".dump")).expect(0).out;
    let before = dump();
    sandbox.upgrade("mitaka");
    let runs = std::fs::read_dir(sandbox.path("var/lib/keymgr-upgrade/runs")).unwrap();
    let run = runs.map(|run| run.unwrap().path()).max().unwrap();
    let about = run.join("backup/database.json");
    let new: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&about).unwrap()).unwrap();
    let mut old = serde_json::json!({"format": 1});
    for name in ["database", "revision", "fingerprint", "digest", "size"] {
        old[name] = new[name].clone();
    }
    std::fs::write(&about, old.to_string()).unwrap();
    std::fs::remove_file(run.join("backup/kek_data.json")).unwrap();
    let id = run.file_name().unwrap().to_str().unwrap();
    sandbox.run(&["backup", "restore", id, "--yes"]).expect(0).says("restored, fingerprint checked");
    similar_asserts(&before, &dump());
    old["format"] = 4.into();
    std::fs::write(&about, old.to_string()).unwrap();
    sandbox.run(&["backup", "restore", id, "--yes"]).expect(1).says("newer keymgr-upgrade");
}
