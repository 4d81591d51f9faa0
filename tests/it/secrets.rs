//! Where a secret could be seen while the program works, dies or fails, with logging at its fullest.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::common::{Said, Sandbox, said};
use crate::paused::Paused;
use crate::proof::{no_secret, secrets};

const CONF: &str = "etc/barbican/barbican.conf";
const PASTE: &str = "etc/barbican/barbican-api-paste.ini";
const MITAKA: [&str; 5] = ["--verbose", "upgrade", "--to", "mitaka", "--yes"];

/// The crash points that a run passes, by their names.
fn points(sandbox: &Sandbox, arguments: &[&str]) -> usize {
    let log = sandbox.root().with_file_name("points");
    let copy = sandbox.copy();
    said(copy.command(arguments).env("KEYMGR_UPGRADE_CRASH_LOG", &log)).expect(0);
    std::fs::read_to_string(log).unwrap().lines().count()
}

/// A process and all that it started.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|p| p.unwrap().file_name().to_str()?.parse().ok());
    let pairs: Vec<(u32, u32)> = all.filter_map(|p: u32| Some((p, parent(p)?))).collect();
    let mut found = vec![pid];
    let mut index = 0;
    while let Some(&parent) = found.get(index) {
        found.extend(pairs.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        index += 1;
    }
    found
}

/// Fails if arguments or environment of a process show a secret, or if it would leave a core dump.
pub(crate) fn look_at(pid: u32) {
    for name in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\0', "\n");
        no_secret(&text, name);
        // The PIN alone on a line is a whole argument.
        assert!(!text.lines().any(|word| word == "1234" || word.ends_with("=1234")), "{name}: {text}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    if let Some(core) = limits.lines().find(|line| line.starts_with("Max core file size")) {
        assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{pid}");
    }
}

#[test]
fn no_process_shows_a_secret_at_any_point() {
    let sandbox = Sandbox::liberty().copy();
    let mut most = 0;
    // How far the last steps are: the points after those are passed unseen.
    for (arguments, record, far) in
        [(&MITAKA[..], "step-done", 8), (&["--verbose", "rollback", "--yes"], "step-reverted", 4)]
    {
        let mut run = Paused::start(&mut sandbox.command(arguments), &sandbox.root().with_file_name("points"));
        let pid = run.pid();
        run.until(|_| {
            let family = family(pid);
            family.iter().for_each(|pid| look_at(*pid));
            most = most.max(family.len());
            journal(&sandbox).matches(record).count() >= far
        });
        let said = run.go().expect(0);
        no_secret(&said.all(), "the output");
        assert!(left_behind(&sandbox) > 0);
    }
    assert!(most > 1, "the worker of the token was seen too");
}

/// What the only run has recorded.
fn journal(sandbox: &Sandbox) -> String {
    let runs = std::fs::read_dir(sandbox.path("var/lib/keymgr-upgrade/runs")).into_iter().flatten();
    let mut texts =
        runs.map(|run| std::fs::read_to_string(run.unwrap().path().join("journal.jsonl")).unwrap_or_default());
    texts.next().unwrap_or_default()
}

/// Everything in the state directory but backups is free of secrets, and all of it is ours alone. Returns how many files were looked at.
pub(crate) fn left_behind(sandbox: &Sandbox) -> usize {
    let mut todo = vec![sandbox.path("var/lib/keymgr-upgrade")];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        let kind = std::fs::symlink_metadata(&path).unwrap();
        if kind.is_symlink() {
            continue;
        }
        let wanted = if kind.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(kind.permissions().mode() & 0o7777, wanted, "{}", path.display());
        if kind.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.components().any(|c| c.as_os_str() == "backup") {
            let text = std::fs::read(&path).unwrap();
            no_secret(&String::from_utf8_lossy(&text), &path.display().to_string());
            seen += 1;
        }
    }
    seen
}

#[test]
fn no_crash_leaves_a_secret_in_sight() {
    let start = Sandbox::liberty().copy();
    let last = points(&start, &MITAKA);
    for point in (1..last).step_by(last / 7) {
        let sandbox = start.copy();
        let kill = |arguments: &[&str], point: usize| -> Said {
            let said = said(sandbox.command(arguments).env("KEYMGR_UPGRADE_CRASH_AT", point.to_string()));
            no_secret(&said.all(), &format!("{arguments:?} killed at {point}"));
            left_behind(&sandbox);
            said
        };
        kill(&MITAKA, point).expect(137);
        kill(&["--verbose", "resume"], 4);
        kill(&["--verbose", "status"], usize::MAX);
        kill(&["--json", "rollback", "--yes"], 6);
        kill(&["--verbose", "rollback", "--yes"], usize::MAX);
        assert!(left_behind(&sandbox) > 0);
    }
}

/// What is done to a deployment, so that it fails.
type Damage = fn(&Sandbox);

fn replace(sandbox: &Sandbox, file: &str, from: &str, to: &str) {
    let text = sandbox.read(file);
    assert!(text.contains(from), "{file} has no {from:?}");
    sandbox.write(file, &text.replace(from, to));
}

const DAMAGES: [(&str, Damage); 10] = [
    ("a PIN without its option", |s| replace(s, CONF, "login = '1234'", "login '1234'")),
    ("a wrong PIN", |s| replace(s, CONF, "login = '1234'", "login = '31415926'")),
    ("a password twice in brackets", |s| replace(s, CONF, "[certificate]", "[s3cr3t-of-rabbit]]")),
    ("a URL that is none", |s| {
        replace(s, CONF, "sqlite:////var/lib/barbican/barbican.sqlite", "mysql://u:s3cr3t-of-keystone@@h/b");
    }),
    ("a URL of something else", |s| {
        replace(s, CONF, "sqlite:////var/lib/barbican/barbican.sqlite", "s3cr3t-of-keystone://h/b?s3cr3t-of-rabbit=1");
    }),
    ("a server that is not there", |s| {
        replace(
            s,
            CONF,
            "sqlite:////var/lib/barbican/barbican.sqlite",
            "postgresql://u:s3cr3t-of-keystone@127.0.0.1:9/barbican",
        );
    }),
    ("a key that is none", |s| replace(s, CONF, "xMjM0NTY=", "s3cr3t-of-rabbit")),
    ("a paste file with a stray line", |s| {
        let text = s.read(PASTE);
        s.write(PASTE, &format!("s3cr3t-of-keystone\n{text}"));
    }),
    ("a database that is damaged", |s| {
        let file = std::fs::OpenOptions::new().write(true).open(s.path("var/lib/barbican/barbican.sqlite")).unwrap();
        file.set_len(5000).unwrap();
    }),
    ("a token that is gone", |s| std::fs::remove_dir_all(s.path("var/lib/softhsm/tokens")).unwrap()),
];

#[test]
fn no_failure_says_a_secret() {
    assert!(secrets().len() > 10);
    let start = Sandbox::liberty().copy();
    for (name, damage) in DAMAGES {
        let sandbox = start.copy();
        damage(&sandbox);
        let mut failed = 0;
        for verb in [&["check", "--to", "mitaka"][..], &["plan", "--to", "mitaka", "--diff"], &["kek", "verify"]] {
            let said = sandbox.run(&[&["--verbose"], verb].concat());
            no_secret(&said.all(), &format!("{name}: {verb:?}"));
            failed += said.code;
        }
        let said = sandbox.run(&MITAKA);
        no_secret(&said.all(), &format!("{name}: upgrade"));
        assert!(failed + said.code > 0, "{name} is noticed");
        let state: PathBuf = sandbox.path("var/lib/keymgr-upgrade");
        if state.is_dir() {
            left_behind(&sandbox);
        }
        assert!(!Path::new("core").exists());
    }
}

/// Where the kernel would write a core of that process, had it any to write; `None` where it hands it to a program.
fn core_in(directory: &Path) -> Option<Vec<PathBuf>> {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        return None;
    }
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    Some(names.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(pattern.trim())).collect())
}

/// A shell that lets cores be as large as they like, and becomes the command.
fn with_cores(command: &std::process::Command, directory: &Path) -> std::process::Command {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited && exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(directory).stdin(std::process::Stdio::null());
    shell
}

/// Ended by a signal that leaves a core of anybody else: nothing is written, of us or of the worker, which has the PIN.
#[test]
fn no_core_is_left_by_a_signal() {
    let place = tempfile::tempdir().unwrap();
    let here = place.path();
    let mut victim = with_cores(&std::process::Command::new("sleep"), here);
    let mut victim = victim.arg("60").spawn().unwrap();
    let pid = |child: &std::process::Child| nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    // The shell has become the program when that can be seen.
    while std::fs::read_to_string(format!("/proc/{}/comm", victim.id())).unwrap().trim() != "sleep" {}
    nix::sys::signal::kill(pid(&victim), nix::sys::signal::Signal::SIGSEGV).unwrap();
    victim.wait().unwrap();
    if let Some(cores) = core_in(here) {
        assert_eq!(cores.len(), 1, "a core of somebody else is to be seen");
        std::fs::remove_file(&cores[0]).unwrap();
    }

    let start = Sandbox::liberty().copy();
    for signal in ["SEGV", "ABRT"] {
        for whom in ["the worker", "ourselves"] {
            let sandbox = start.copy();
            let mut command = with_cores(&sandbox.command(&MITAKA), here);
            let mut run = Paused::start(&mut command, &sandbox.root().with_file_name("points"));
            run.until(|point| point == "KEK signed");
            let us = run.pid();
            let worker = family(us).into_iter().find(|pid| {
                let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                *pid != us && String::from_utf8_lossy(&words).contains("hsm-worker")
            });
            let worker = worker.expect("the worker of the token");
            let places: Vec<PathBuf> =
                [us, worker].map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap()).into();
            let hit = if whom == "ourselves" { us } else { worker };
            // Of a SIGSEGV that is no fault of its own the first only has Rust's handler taken away.
            let line = format!("kill -{signal} {hit}; sleep 0.1; kill -{signal} {hit} 2>/dev/null || :");
            said(std::process::Command::new("sh").args(["-c", &line])).expect(0);
            let said = run.go();
            let ended = match (whom, signal) {
                ("the worker", _) => 4,
                (_, "SEGV") => 128 + 11,
                _ => 128 + 6,
            };
            assert_eq!(said.code, ended, "{signal} to {whom}: {}", said.all());
            no_secret(&said.all(), &format!("{signal} to {whom}"));
            for place in places {
                assert_eq!(core_in(&place).unwrap_or_default(), [""; 0].map(PathBuf::from), "{signal} to {whom}");
            }
            left_behind(&sandbox);
            sandbox.run(&["rollback", "--yes"]).expect(0);
        }
    }
}
