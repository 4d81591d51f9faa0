//! What a crash, a disk or a hand may do to the run directory: a torn record is dropped, anything else is refused by name, and nothing is changed.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use keymgr_upgrade::files::Root;
use keymgr_upgrade::journal;

use super::state::State;
use super::{CONF, Case, Host, kill_at};

/// A run that was killed when its configuration file was replaced.
fn interrupted() -> (&'static Case, Host, PathBuf) {
    killed_after_keks("step applied", 2)
}

/// A run that was killed at the `count`-th point of this name after the last KEK, and what it was to become.
fn killed_after_keks(name: &str, count: usize) -> (&'static Case, Host, PathBuf) {
    static CASE: OnceLock<Case> = OnceLock::new();
    let case = CASE.get_or_init(|| Case::upgrade("mitaka"));
    let sandbox = case.before.copy();
    let last = case.points.iter().rposition(|p| p == "KEK written").unwrap();
    let points = case.points.iter().enumerate().skip(last).filter(|(_, p)| *p == name);
    kill_at(&sandbox, &case.command, points.map(|(i, _)| i + 1).nth(count - 1).unwrap());
    let id = journal::current(&Root::open(&sandbox.root()).unwrap()).unwrap();
    let run = sandbox.path(&format!("var/lib/keymgr-upgrade/runs/{id}"));
    (case, sandbox, run)
}

fn put(path: &std::path::Path, bytes: &[u8]) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_torn_last_record_is_dropped() {
    // The record is the last thing that was done: nothing was begun on its strength.
    let (case, sandbox, run) = killed_after_keks("journal written", 2);
    let file = run.join("journal.jsonl");
    let bytes = std::fs::read(&file).unwrap();
    let last = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for cut in last..bytes.len() {
        put(&file, &bytes[..cut]);
        let status = sandbox.run(&["status"]).expect(4);
        assert!(
            status.out.starts_with("INTERRUPTED") && status.out.contains("Next: keymgr-upgrade resume"),
            "{}",
            status.out
        );
    }
    for cut in [last, last + 1, bytes.len() - 1] {
        for verb in [&["resume"][..], &["rollback", "--yes"]] {
            put(&file, &bytes[..cut]);
            case.finish(&sandbox.copy(), verb);
        }
    }
    // Some file systems leave zeros where the data did not come.
    put(&file, &[&bytes[..last], &[0; 100][..], b"\n"].concat());
    case.finish(&sandbox.copy(), &["resume"]);
}

/// Each verb refuses with this exit code and these words, and changes nothing.
#[track_caller]
fn refused(case: &Case, sandbox: &Host, verbs: &[&[&str]], code: i32, words: &[&str]) {
    let before = State::of(sandbox);
    for verb in verbs {
        let said = sandbox.run(verb).expect(code);
        for word in words {
            assert!(said.error().contains(word), "{verb:?}: {word:?} is not in\n{}", said.all());
        }
        assert_eq!(State::of(sandbox).differences(&before), Vec::<String>::new(), "{verb:?} changed something");
    }
    assert_ne!(before, case.start);
}

const ALL: &[&[&str]] = &[&["status"], &["resume"], &["rollback", "--yes"]];

#[test]
fn a_damaged_journal_is_refused() {
    let (case, sandbox, run) = interrupted();
    let file = run.join("journal.jsonl");
    let good = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let with = |index: usize, line: &str| {
        let mut lines = lines.clone();
        lines[index] = line;
        lines.join("\n") + "\n"
    };
    let newer = lines[0].replace(&format!("\"format\":{}", journal::FORMAT), "\"format\":99");
    let unknown = r#"{"at":1,"record":"step-blessed","step":1}"#;
    let bad = [
        (with(2, "garbage"), "journal.jsonl:3"),
        (with(2, &lines[2][..lines[2].len() / 2]), "journal.jsonl:3"),
        (with(1, "\0\0\0\0"), "journal.jsonl:2"),
        (with(3, unknown), "journal.jsonl:4"),
        (with(0, &newer), "journal.jsonl:1"),
    ];
    for (text, place) in bad {
        put(&file, text.as_bytes());
        refused(case, &sandbox, ALL, 5, &[place, "the journal is damaged", "RESTORE.txt"]);
    }
    put(&file, good.as_bytes());
    case.finish(&sandbox, &["resume"]);
}

#[test]
fn a_plan_that_is_not_the_journals_is_refused() {
    let (case, sandbox, run) = interrupted();
    let file = run.join("plan.json");
    let good = std::fs::read_to_string(&file).unwrap();
    let altered = good.replacen("d2780d5aa510", "39cf2e645cba", 1);
    assert_ne!(altered, good);
    for text in [&altered, &good[..good.len() / 2], ""] {
        put(&file, text.as_bytes());
        refused(case, &sandbox, ALL, 5, &["runs/", "plan.json: not the plan that the journal names"]);
    }
    std::fs::remove_file(&file).unwrap();
    refused(case, &sandbox, ALL, 5, &["plan.json", "is missing"]);
    put(&file, good.as_bytes());
    case.finish(&sandbox, &["rollback", "--yes"]);
}

#[test]
fn a_damaged_backup_is_not_restored() {
    const BACK: &[&[&str]] = &[&["rollback", "--yes"]];
    let (case, sandbox, run) = interrupted();
    let file = run.join("backup/database.sqlite");
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bytes in [&flipped[..], &good[..good.len() - 4096], &[]] {
        put(&file, bytes);
        refused(case, &sandbox, BACK, 3, &["backup/database.sqlite is damaged"]);
    }
    std::fs::remove_file(&file).unwrap();
    refused(case, &sandbox, BACK, 3, &["backup/database.sqlite is missing"]);
    put(&file, &good);
    case.finish(&sandbox, BACK[0]);
}

#[test]
fn a_damaged_copy_of_a_file_is_not_restored() {
    let (case, sandbox, run) = interrupted();
    let file = run.join("backup/files!etc!barbican!barbican.conf");
    let good = std::fs::read(&file).unwrap();
    put(&file, &good[1..]);
    refused(case, &sandbox, &[&["rollback", "--yes"]], 3, &["barbican.conf is damaged"]);
    put(&file, &good);
    case.finish(&sandbox, &["rollback", "--yes"]);
}

#[test]
fn a_file_that_somebody_else_changed_meanwhile_is_kept() {
    let (case, sandbox, _) = interrupted();
    let text = sandbox.read(CONF);
    put(&sandbox.path(CONF), format!("{text}# by hand\n").as_bytes());
    let said = sandbox.run(&["rollback", "--yes"]).expect(3);
    assert!(said.error().contains("barbican.conf was changed since this run wrote it"), "{}", said.all());
    assert!(sandbox.read(CONF).ends_with("# by hand\n"));
    put(&sandbox.path(CONF), text.as_bytes());
    case.finish(&sandbox, &["rollback", "--yes"]);
}
