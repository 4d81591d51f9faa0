//! What the operator reads: the whole help, every verb as text and as JSON, in every state; and what nobody may ever read.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Said, Sandbox, lab, said};
use crate::proof::{faults, masked, no_secret, normal};

/// Every verb, with arguments that do on the fixture at Liberty; none of them changes anything.
const LOOKING: [&[&str]; 22] = [
    &[],
    &["check"],
    &["check", "--to", "ocata"],
    &["check", "--to", "mitaka", "--verbose"],
    &["notes"],
    &["notes", "--to", "mitaka", "--all", "--verbose"],
    &["plan"],
    &["plan", "--to", "mitaka", "--diff"],
    &["plan", "--to", "ocata"],
    &["history"],
    &["db", "current"],
    &["db", "history"],
    &["db", "verify"],
    &["kek", "status"],
    &["kek", "verify"],
    &["kek", "migrate", "--dry-run"],
    &["config", "diff"],
    &["config", "diff", "--to", "liberty"],
    &["units", "status"],
    &["units", "status", "--verbose"],
    &["backup", "list"],
    &["resume"],
];

/// Verbs that change something, in an order in which each has something to do; then what tells of it.
const DOING: [&[&str]; 27] = [
    &["approve", "--to", "mitaka"],
    &["upgrade", "--to", "mitaka", "--yes"],
    &["status"],
    &["upgrade", "--to", "mitaka", "--yes"],
    &["history"],
    &["backup", "list"],
    &["kek", "status"],
    &["rollback", "--yes"],
    &["rollback", "--yes"],
    &["status"],
    &["history"],
    &["units", "hold"],
    &["units", "hold"],
    &["units", "status"],
    &["status"],
    &["units", "unhold"],
    &["config", "apply", "--yes"],
    &["config", "restore"],
    &["kek", "migrate", "--yes"],
    &["db", "upgrade", "d2780d5aa510", "--yes"],
    &["kek", "migrate", "--yes"],
    &["kek", "restore"],
    &["db", "stamp", "d2780d5aa510"],
    &["db", "stamp", "4ecde3a3a72a", "--without-proof"],
    &["db", "stamp", "d2780d5aa510"],
    &["backup", "prune", "--keep", "1"],
    &["history"],
];

/// Texts whose lines are as long as they are: diffs, SQL.
fn is_raw(arguments: &[&str]) -> bool {
    matches!(arguments, ["plan", ..] | ["config", "diff" | "apply", ..])
}

/// Adds what was said to the snapshot's text, and to `wrong` in what it fails.
fn add(text: &mut String, wrong: &mut Vec<String>, sandbox: &Sandbox, arguments: &[&str], said: &Said) {
    let shown = arguments.join(" ");
    // With --verbose the log goes to standard error besides.
    let plain = Said { code: said.code, out: said.out.clone(), err: without_log(&said.err) };
    wrong.extend(faults(&plain, is_raw(arguments)).into_iter().map(|f| format!("{shown}: the output {f}")));
    writeln!(text, "$ keymgr-upgrade {shown}\n{}\n-> {}\n", normal(&plain.all(), sandbox), said.code).unwrap();
}

fn without_log(err: &str) -> String {
    let log = |line: &&str| !line.starts_with("20") || !line.contains("Z info ") && !line.contains("Z warn ");
    err.lines().filter(log).map(|l| format!("{l}\n")).collect()
}

/// Runs the commands, one after the other, as text; the snapshot is the session.
fn session(name: &str, sandbox: &Sandbox, commands: &[&[&str]]) {
    let (mut text, mut wrong) = (String::new(), Vec::new());
    for arguments in commands {
        add(&mut text, &mut wrong, sandbox, arguments, &sandbox.run(arguments));
    }
    insta::assert_snapshot!(name, text);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_whole_help() {
    let verbs: [&str; 34] = [
        "",
        "status",
        "check",
        "notes",
        "plan",
        "approve",
        "upgrade",
        "resume",
        "rollback",
        "history",
        "db",
        "db current",
        "db history",
        "db upgrade",
        "db verify",
        "db repair-hex",
        "db stamp",
        "kek",
        "kek status",
        "kek migrate",
        "kek verify",
        "kek restore",
        "config",
        "config diff",
        "config apply",
        "config restore",
        "units",
        "units status",
        "units hold",
        "units unhold",
        "backup",
        "backup list",
        "backup restore",
        "backup prune",
    ];
    let mut text = String::new();
    for verb in verbs {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keymgr-upgrade"));
        command.args(verb.split_whitespace()).arg("--help").env_clear().env("COLUMNS", "80").stdin(Stdio::null());
        let said = said(&mut command).expect(0);
        assert_eq!(said.err, "");
        for line in said.out.lines() {
            assert!(line.len() <= 80 && line.is_ascii(), "{verb}: {line:?}");
        }
        writeln!(text, "=== keymgr-upgrade {verb} --help\n{}", said.out).unwrap();
    }
    insta::assert_snapshot!("cli_help", text);
}

#[test]
fn looking_as_text() {
    session("cli_looking", &Sandbox::liberty(), &LOOKING);
}

#[test]
fn doing_as_text() {
    session("cli_doing", &Sandbox::liberty(), &DOING);
}

/// Runs the command and kills it at the first point of this name that it passes. Which number that has is told by a run that is undone again.
fn kill_at(sandbox: &Sandbox, arguments: &[&str], point: &str) {
    let (copy, log) = (sandbox.root().with_file_name("copy"), sandbox.root().with_file_name("points"));
    said(Command::new("cp").arg("-a").arg(sandbox.root()).arg(&copy)).expect(0);
    let told = said(sandbox.command(arguments).env("KEYMGR_UPGRADE_CRASH_LOG", &log));
    let points = std::fs::read_to_string(&log).unwrap_or_else(|e| panic!("{e}: {}", told.all()));
    std::fs::remove_dir_all(sandbox.root()).unwrap();
    std::fs::rename(copy, sandbox.root()).unwrap();
    std::fs::remove_file(log).unwrap();
    let number = points.lines().position(|p| p == point).unwrap() + 1;
    let killed = said(sandbox.command(arguments).env("KEYMGR_UPGRADE_CRASH_AT", number.to_string()));
    assert_eq!(killed.code, 137, "{}", killed.all());
}

#[test]
fn every_state_has_its_status() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    let (mut text, mut wrong) = (String::new(), Vec::new());
    let mut tell = |title: &str, sandbox: &Sandbox| {
        writeln!(text, "# {title}").unwrap();
        add(&mut text, &mut wrong, sandbox, &["status"], &sandbox.run(&["status"]));
    };
    tell("idle", &sandbox);
    sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    tell("waiting", &sandbox);
    sandbox.install("2.0.0");
    kill_at(&sandbox, &["resume"], "step applied");
    tell("interrupted", &sandbox);
    kill_at(&sandbox, &["rollback", "--yes"], "step reverted");
    tell("rolling back", &sandbox);
    sandbox.run(&["rollback", "--yes"]).expect(4);
    tell("rolled back as far as the new code allows", &sandbox);
    sandbox.install("1.0.0");
    sandbox.run(&["rollback", "--yes"]).expect(0);
    tell("rolled back", &sandbox);
    sandbox.install("2.0.0");
    sandbox.run(&["upgrade", "--yes"]).expect(0);
    tell("done", &sandbox);
    insta::assert_snapshot!("cli_states", text);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Numbers that differ from run to run are 0, and texts as any machine would say them.
fn steady(value: &mut Value, sandbox: &Sandbox) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if matches!(name.as_str(), "milliseconds" | "at" | "began" | "ended" | "size") && member.is_number() {
                    *member = 0.into();
                }
                steady(member, sandbox);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|v| steady(v, sandbox)),
        Value::String(text) => {
            let plain = text.replace(&sandbox.root().display().to_string(), "$ROOT");
            *text = masked(&plain.replace(&lab("KEYMGR_TEST_P11SHIM"), "$MODULE"));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn every_verb_as_json() {
    let sandbox = Sandbox::liberty();
    let mut text = String::new();
    for arguments in LOOKING.iter().chain(&DOING) {
        let said = sandbox.run(&[&["--json"], *arguments].concat());
        let mut json = said.json();
        let members: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(members[..6], ["format", "state", "changed", "run", "from", "to"], "{arguments:?}");
        assert_eq!(members[members.len() - 2..], ["exit", "next"], "{arguments:?}");
        assert_eq!(json["exit"], said.code, "{arguments:?}");
        assert!(json["state"].is_string() && json["changed"].is_boolean(), "{arguments:?}");
        let next: Vec<&str> = json["next"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        if let Some(first) = next.first() {
            assert_eq!(*first, "keymgr-upgrade");
            // Whoever runs it must not end up on the host.
            assert_eq!(next[1..3], ["--root", &sandbox.root().display().to_string()], "{arguments:?}");
        }
        steady(&mut json, &sandbox);
        let shown = serde_json::to_string_pretty(&json).unwrap();
        writeln!(text, "$ keymgr-upgrade --json {}\n{shown}\n", arguments.join(" ")).unwrap();
    }
    insta::assert_snapshot!("cli_json", text);
}

/// Runs on a terminal, with what `script` makes of it.
fn on_a_terminal(sandbox: &Sandbox, arguments: &[&str], no_colour: &str) -> String {
    let plain = sandbox.command(arguments);
    let words: Vec<String> = std::iter::once(plain.get_program())
        .chain(plain.get_args())
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    let mut command = Command::new("script");
    command.args(["-qec", &words.join(" "), "/dev/null"]).stdin(Stdio::null());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("NO_COLOR", no_colour);
    said(&mut command).out
}

#[test]
fn colour_is_for_terminals_and_for_the_first_word() {
    let sandbox = Sandbox::liberty();
    let coloured = on_a_terminal(&sandbox, &["check", "--to", "ocata"], "");
    assert!(coloured.contains("\x1b[31mFAIL\x1b[0m  way") && coloured.contains("\x1b[33mWARN\x1b[0m"), "{coloured}");
    for line in coloured.lines().filter(|l| l.contains('\x1b')) {
        assert!(line.starts_with('\x1b') && line.matches('\x1b').count() == 2, "{line:?}");
    }
    assert!(!on_a_terminal(&sandbox, &["check", "--to", "ocata"], "1").contains('\x1b'));
}

#[test]
fn the_procedure_by_hand_ends_where_the_upgrade_ends() {
    for (release, rows) in [("mitaka", false), ("2026.2", true)] {
        let (by_hand, by_us) = (Sandbox::liberty(), Sandbox::liberty());
        let said = by_hand.run(&["plan", "--to", release, "--fast-forward", "--as-shell"]).expect(0);
        assert_eq!(said.err, "");
        assert!(said.out.lines().last().unwrap().starts_with("# Next: "), "{}", said.out);
        no_secret(&said.out, "plan --as-shell");
        let script = by_hand.root().join("../procedure.sh");
        std::fs::write(&script, &said.out).unwrap();
        let mut command = Command::new("sh");
        let plain = by_hand.command(&[]);
        command.arg(&script).stdin(Stdio::null()).env_clear();
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_keymgr-upgrade")).parent().unwrap();
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", binary.display()));
        crate::common::said(&mut command).expect(0);
        by_us.upgrade(release);
        for file in ["etc/barbican/barbican.conf", "etc/barbican/barbican-api-paste.ini"] {
            assert_eq!(by_hand.read(file), by_us.read(file), "{release}: {file}");
        }
        assert_eq!(rows_of(&by_hand, rows), rows_of(&by_us, rows), "{release}");
    }
}

/// Schema and rows as text, sorted. `kek migrate` by hand also names the mechanism of each secret, which an upgrade does from Rocky on.
fn rows_of(sandbox: &Sandbox, mechanisms: bool) -> Vec<String> {
    let path = sandbox.path("var/lib/barbican/barbican.sqlite");
    let mut command = Command::new("sqlite3");
    let mut dump: Vec<String> =
        said(command.arg(&path).arg(".dump")).expect(0).out.lines().map(str::to_owned).collect();
    dump.retain(|line| mechanisms || !line.starts_with("INSERT INTO encrypted_data"));
    dump.sort();
    dump
}

/// Every file below, but for those below `skip`.
fn files(directory: &Path, skip: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() && !path.ends_with(skip) {
            files(&path, skip, found);
        }
        found.push(path);
    }
}

#[test]
fn no_secret_leaves() {
    let sandbox = Sandbox::liberty();
    for flags in [&["--verbose"][..], &["--json"], &["--json", "--verbose"]] {
        let fresh = Sandbox::liberty();
        for arguments in LOOKING.iter().chain(&[&["plan", "--to", "2026.2", "--fast-forward", "--as-shell"][..]]) {
            no_secret(&sandbox.run(&[flags, *arguments].concat()).all(), &format!("{flags:?} {arguments:?}"));
        }
        for arguments in &DOING {
            no_secret(&fresh.run(&[flags, *arguments].concat()).all(), &format!("{flags:?} {arguments:?}"));
        }
        let mut found = Vec::new();
        let state = fresh.path("var/lib/keymgr-upgrade");
        files(&state, "backup", &mut found);
        assert!(found.iter().any(|f| f.ends_with("journal.jsonl")) && found.iter().any(|f| f.ends_with("log")));
        for file in found.iter().filter(|f| f.is_file()) {
            no_secret(&String::from_utf8_lossy(&std::fs::read(file).unwrap()), &file.display().to_string());
        }
        found.clear();
        files(&state, "", &mut found);
        found.push(state);
        for file in &found {
            let mode = std::fs::metadata(file).unwrap().permissions().mode() & 0o7777;
            let wanted = if file.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, wanted, "{}: {mode:o}", file.display());
        }
    }
}
