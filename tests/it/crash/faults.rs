//! What fails in the middle of a run, other than by a kill: the token, the clock. Each ends in one error and the next command, with the services
//! held; `resume` then ends where an undisturbed run ends, `rollback` where it began. tests/FAULTS.md lists these and all others.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::matrix::{RESUME, ROLLBACK};
use super::{CONF, Case, Host, State, kill_at};
use crate::common::{Said, said};

/// Stopped half way: one error with these words, the next command, and the services held.
#[track_caller]
fn stopped(sandbox: &Host, said: Said, words: &str) {
    let said = said.expect(4);
    let errors = said.err.lines().filter(|line| line.starts_with("error:")).count();
    assert_eq!(errors, 1, "{}", said.all());
    said.says(words);
    assert!(said.all().contains("Next: keymgr-upgrade "), "{}", said.all());
    sandbox.run(&["status"]).expect(4).says("held: they do not start");
}

fn both_ways(case: &Case, sandbox: &Host) {
    let other = sandbox.copy();
    case.finish(sandbox, RESUME);
    case.finish(&other, ROLLBACK);
}

/// The token fails at a question of the run itself. Of the three KEKs' signatures 6 are asked for before it begins, 6 when the step looks, 6 when it
/// acts, and 9 in the looks after it; each is two calls of C_Sign.
#[test]
fn a_token_that_fails_in_mid_run() {
    let case = Case::upgrade("mitaka");
    for (fault, words) in [
        ("C_SignInit:7:0x30", "CKR_DEVICE_ERROR"),
        ("C_Sign:26:0x32", "CKR_DEVICE_REMOVED"),
        ("C_Sign:13:0xe0", "CKR_TOKEN_NOT_PRESENT"),
        ("C_SignInit:16:0xb1", "CKR_SESSION_COUNT"),
        ("C_Sign:39:0xb3", "CKR_SESSION_HANDLE_INVALID"),
        ("C_SignInit:22:0x101", "CKR_USER_NOT_LOGGED_IN"),
        ("C_Sign:25:crash", "SIGSEGV"),
        ("C_Sign:30:abort", "SIGABRT"),
        ("C_Sign:37:exit", "ended the process with status 3"),
        ("C_Sign:27:hang", "did not answer within 2 s"),
    ] {
        let sandbox = case.before.copy();
        if fault.ends_with("hang") {
            sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", "[hsm]\ntimeout = 2s\n");
            sandbox.run(&["approve", "--to", "mitaka", "--fast-forward"]).expect(0);
        }
        let failed = said(sandbox.command(&case.command).env("P11SHIM_FAULT", fault));
        stopped(&sandbox, failed, words);
        std::fs::remove_dir_all(sandbox.path("etc/keymgr-upgrade")).ok();
        both_ways(&case, &sandbox);
    }
}

/// Each thing is taken away after a crash in the middle, `resume` and `rollback` say so, and work when it is back.
#[test]
fn a_token_that_is_gone_when_a_run_is_taken_up() {
    let case = Case::upgrade("mitaka");
    let crashed = case.before.copy();
    kill_at(&crashed, &case.command, 1 + case.points.iter().position(|p| p == "KEK written").unwrap());
    // A token may be slow to come after a boot; not here.
    crashed.write("etc/keymgr-upgrade/keymgr-upgrade.conf", "[database]\nwait = 1s\n");
    let [here, away] = ["var/lib/softhsm/tokens", "var/lib/softhsm/away"].map(|place| crashed.path(place));
    std::fs::rename(&here, &away).unwrap();
    std::fs::create_dir(&here).unwrap();
    stopped(&crashed, crashed.run(RESUME), "token");
    std::fs::remove_dir(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    // A token counts the PINs that it refused until the right one comes, which going back has no use for.
    let other = crashed.copy();
    let conf = crashed.read(CONF);
    let wrong = conf.replace("login = '1234'", "login = '4321'");
    assert_ne!(conf, wrong);
    overwrite(&crashed, &wrong);
    stopped(&crashed, crashed.run(RESUME), "refused the PIN");
    overwrite(&crashed, &conf);
    for sandbox in [&crashed, &other] {
        std::fs::remove_dir_all(sandbox.path("etc/keymgr-upgrade")).unwrap();
    }
    case.finish(&crashed, RESUME);
    case.finish(&other, ROLLBACK);
}

/// In place, so that owner and mode stay.
fn overwrite(sandbox: &Host, text: &str) {
    std::fs::write(sandbox.path(CONF), text).unwrap();
}

/// A library that moves the clock of whoever loads it: at once, or from the N-th look on.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    static long looks;
    const char *seconds = getenv("CLOCK_SECONDS"), *after = getenv("CLOCK_AFTER");
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, now);
    if (which == CLOCK_REALTIME && result == 0 && seconds && looks++ >= (after ? atol(after) : 0))
        now->tv_sec += atol(seconds);
    return result;
}
"#;

struct Clock {
    directory: tempfile::TempDir,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { directory: tempfile::tempdir().unwrap() };
        let source = clock.directory.path().join("clock.c");
        std::fs::write(&source, CLOCK).unwrap();
        let mut compiler = Command::new("cc");
        let _ = said(compiler.args(["-shared", "-fPIC", "-o"]).arg(clock.library()).arg(source).arg("-ldl")).expect(0);
        clock
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("clock.so")
    }

    /// Runs the binary with its clock so many days ahead, after it was looked at so often.
    fn run(&self, sandbox: &Host, arguments: &[&str], days: i64, after: u32) -> Said {
        let mut command = sandbox.command(arguments);
        command.env("LD_PRELOAD", self.library()).env("CLOCK_SECONDS", (days * 86_400).to_string());
        said(command.env("CLOCK_AFTER", after.to_string()))
    }
}

#[test]
fn a_clock_that_jumps() {
    let (case, clock) = (Case::upgrade("mitaka"), Clock::new());
    let same = |sandbox: &Host, goal: &State, words: &str| {
        assert_eq!(State::of(sandbox).differences(goal), Vec::<String>::new(), "{words}");
    };
    for days in [400, -400, -20_000] {
        // In mid-run: the first looks are for the approval and the run's id.
        let sandbox = case.before.copy();
        clock.run(&sandbox, &case.command, days, 12).expect(0);
        same(&sandbox, &case.end, "jumped in an upgrade");
        clock.run(&sandbox, ROLLBACK, days, 3).expect(0);
        same(&sandbox, &case.start, "jumped in a rollback");
        // Between a crash and what takes it up.
        let crashed = case.before.copy();
        kill_at(&crashed, &case.command, case.points.len() / 2);
        let other = crashed.copy();
        clock.run(&crashed, RESUME, days, 0).expect(0);
        same(&crashed, &case.end, "resumed at another time");
        crashed.run(&["history"]).expect(0);
        clock.run(&other, ROLLBACK, days, 0).expect(0);
        same(&other, &case.start, "rolled back at another time");
        other.run(&["status"]).expect(0);
    }
}

#[test]
fn an_approval_of_another_time_does_not_count() {
    let (case, clock) = (Case::upgrade("mitaka"), Clock::new());
    let sandbox = case.before.copy();
    let way = ["--to", "2026.2", "--fast-forward"];
    let upgrade = [&["upgrade", "--yes"], &way[..]].concat();
    sandbox.run(&[&["approve"], &way[..]].concat()).expect(0);
    for days in [2, -2] {
        clock.run(&sandbox, &upgrade, days, 0).expect(3).says("keymgr-upgrade approve");
        assert_eq!(State::of(&sandbox).differences(&case.start), Vec::<String>::new());
    }
    // At its own time it does.
    sandbox.run(&upgrade).expect(0);
}

/// A run that begins at an earlier time than the last one comes after it all the same.
#[test]
fn runs_keep_their_order_when_the_clock_was_put_back() {
    let (case, clock) = (Case::upgrade("mitaka"), Clock::new());
    let sandbox = case.before.copy();
    sandbox.run(&case.command).expect(0);
    sandbox.run(ROLLBACK).expect(0);
    clock.run(&sandbox, &["approve", "--to", "mitaka", "--fast-forward"], -400, 0).expect(0);
    clock.run(&sandbox, &case.command, -400, 0).expect(0);
    assert_eq!(State::of(&sandbox).differences(&case.end), Vec::<String>::new());
    let runs = sandbox.run(&["history", "--json"]).expect(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2, "{runs}");
    // Going back undoes the second, not the first.
    clock.run(&sandbox, ROLLBACK, -400, 0).expect(0);
    assert_eq!(State::of(&sandbox).differences(&case.start), Vec::<String>::new());
}

/// The names of all tests, with the modules that they are in.
fn tests() -> Vec<String> {
    fn below(directory: &Path, module: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = if name == "mod" { module.to_owned() } else { format!("{module}{name}::") };
            if entry.is_dir() {
                below(&entry, &inner, found);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&entry).unwrap();
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                for (n, line) in lines.iter().enumerate().filter(|(_, line)| **line == "#[test]") {
                    let named = lines[n..].iter().find_map(|line| line.strip_prefix("fn ")?.split_once('('));
                    found.push(format!("{inner}{}", named.unwrap_or_else(|| panic!("{line} of nothing")).0));
                }
            }
        }
    }
    let mut found = Vec::new();
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    below(&base.join("tests/it"), "", &mut found);
    below(&base.join("src"), "src::", &mut found);
    found
}

/// The list of faults names tests that there are, and each case once.
#[test]
fn the_list_of_faults_is_true() {
    let list = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/FAULTS.md")).unwrap();
    let rows: Vec<Vec<&str>> = list
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 60, "{} faults", rows.len());
    let tests = tests();
    let mut cases = std::collections::BTreeSet::new();
    for row in rows {
        let [case, named, seen] = row[..] else { panic!("not three columns: {row:?}") };
        assert!(cases.insert(case), "twice: {case}");
        assert!(!seen.is_empty(), "{case}: nothing was seen");
        for name in named.split('`').skip(1).step_by(2) {
            // A snapshot holds what each case of that name is answered.
            let (name, inner) = name.split_once(' ').unwrap_or((name, ""));
            assert!(tests.iter().any(|test| test == name), "{case}: there is no test {name}");
            if let Some(test) = name.strip_prefix("bad_input::").filter(|_| !inner.is_empty()) {
                let file = format!("tests/it/snapshots/it__bad_input__bad_input_{test}.snap");
                let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
                assert!(text.contains(&format!("\n# {inner}: ")), "{case}: {test} has no case {inner}");
            }
        }
    }
}
