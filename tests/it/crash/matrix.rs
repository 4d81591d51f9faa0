//! Every named crash point, then `resume` or `rollback`.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Case, Host, KILLED, Tally, kill_at, no_record_is_torn, undisturbed};
use crate::common::said;

pub(super) const RESUME: &[&str] = &["resume"];
pub(super) const ROLLBACK: &[&str] = &["rollback", "--yes"];

/// Kills at each of `points`, looks, and goes both ways from there.
fn both_ways(case: &Case, points: &[usize], tally: &Tally) {
    let name = |point: &usize| format!("{} killed at {point}, {}", case.command[0], case.points[point - 1]);
    tally.each(points, name, |point| {
        let crashed = case.fresh();
        kill_at(&crashed, &case.command, *point);
        part_ways(case, crashed);
    });
}

/// Looks at what a crash left, and goes both ways from there.
pub(super) fn part_ways(case: &Case, crashed: Host) {
    no_record_is_torn(&crashed);
    both_from(case, crashed);
}

/// The same, where a record may be torn.
pub(super) fn both_from(case: &Case, crashed: Host) {
    case.check_crashed(&crashed);
    let (other, kept) = (crashed.copy(), crashed.keep());
    case.finish(&crashed, RESUME);
    drop(crashed);
    other.put_back(kept.as_ref());
    case.finish(&other, ROLLBACK);
}

/// From the first point, each `step`-th.
fn every(case: &Case, step: usize) -> Vec<usize> {
    (1..=case.points.len()).step_by(step).collect()
}

#[test]
fn an_upgrade_killed_at_any_point() {
    let case = Case::upgrade("mitaka");
    let tally = Tally::default();
    both_ways(&case, &every(&case, 1), &tally);
    tally.end("upgrade to mitaka, each point");
}

#[test]
fn a_rollback_killed_at_any_point() {
    let case = Case::rollback("mitaka");
    let tally = Tally::default();
    both_ways(&case, &every(&case, 1), &tally);
    tally.end("rollback from mitaka, each point");
}

#[test]
fn the_whole_way_killed_at_some_points() {
    let case = Case::upgrade("2026.2");
    let tally = Tally::default();
    both_ways(&case, &every(&case, 23), &tally);
    tally.end("upgrade to 2026.2, each 23rd point");
}

#[test]
#[ignore = "slow: make test-slow"]
fn the_whole_way_killed_at_any_point() {
    let case = Case::upgrade("2026.2");
    let tally = Tally::default();
    both_ways(&case, &every(&case, 1), &tally);
    tally.end("upgrade to 2026.2, each point");
    let case = Case::rollback("2026.2");
    let tally = Tally::default();
    both_ways(&case, &every(&case, 1), &tally);
    tally.end("rollback from 2026.2, each point");
}

/// Kills at each of `first`, then each of the two ways from there at each `step`-th of its own points, and goes both ways from there.
fn twice(case: &Case, first: &[usize], step: usize, tally: &Tally) {
    for one in first {
        let crashed = case.before.copy();
        kill_at(&crashed, &case.command, *one);
        for verb in [RESUME, ROLLBACK] {
            let (_, points) = undisturbed(&crashed, verb);
            let second: Vec<usize> = (1..=points.len()).step_by(step).collect();
            let name = |point: &usize| {
                let (name, again) = (&case.points[one - 1], &points[point - 1]);
                format!("{} killed at {one}, {name}; {} killed at {point}, {again}", case.command[0], verb[0])
            };
            tally.each(&second, name, |point| {
                let sandbox = crashed.copy();
                kill_at(&sandbox, verb, *point);
                part_ways(case, sandbox);
            });
        }
    }
}

/// The first point of this name at or after the `from`-th.
fn named(case: &Case, name: &str, from: usize) -> usize {
    from + case.points.iter().skip(from - 1).position(|p| p == name).unwrap()
}

#[test]
fn killed_twice_at_some_points() {
    let case = Case::upgrade("mitaka");
    let tally = Tally::default();
    twice(&case, &[named(&case, "KEK written", 1)], 13, &tally);
    tally.end("upgrade to mitaka, killed twice, some points");
}

#[test]
#[ignore = "slow: make test-slow"]
fn killed_twice_at_any_point() {
    let case = Case::upgrade("mitaka");
    let tally = Tally::default();
    let first = [
        named(&case, "run opened", 1),
        named(&case, "file written", named(&case, "run opened", 1)),
        named(&case, "backup filled", 1),
        named(&case, "statement run", 1),
        named(&case, "committed", 1),
        named(&case, "KEK written", 1),
        named(&case, "file replaced", named(&case, "KEK written", 1) + 20),
        case.points.len() - 12,
    ];
    twice(&case, &first, 1, &tally);
    tally.end("upgrade to mitaka, killed twice");
    let case = Case::rollback("mitaka");
    let tally = Tally::default();
    let first = [3, 40, named(&case, "pages restored", 1), named(&case, "to commit", 1), case.points.len() - 8];
    twice(&case, &first, 1, &tally);
    tally.end("rollback from mitaka, killed twice");
}

/// A sequence of numbers that looks random, the same in each run (Knuth's MMIX generator).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Kills after `count` delays within the time that the command takes.
fn at_random(case: &Case, count: usize, tally: &Tally) {
    let whole = u64::try_from(case.took.as_micros()).unwrap();
    let mut numbers = Numbers(2026);
    let delays: Vec<Duration> = (0..count).map(|_| Duration::from_micros(numbers.below(whole))).collect();
    tally.each(
        &delays,
        |delay| format!("{} killed after {delay:?}", case.command[0]),
        |delay| {
            let sandbox = case.fresh();
            let mut child = sandbox.command(&case.command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(*delay);
            child.kill().unwrap();
            child.wait().unwrap();
            part_ways(case, sandbox);
        },
    );
}

#[test]
fn killed_at_some_random_instants() {
    let tally = Tally::default();
    at_random(&Case::upgrade("mitaka"), 6, &tally);
    tally.end("upgrade to mitaka, random instants");
}

#[test]
#[ignore = "slow: make test-slow"]
fn killed_at_many_random_instants() {
    for case in [Case::upgrade("2026.2"), Case::rollback("2026.2")] {
        let tally = Tally::default();
        at_random(&case, 30, &tally);
        tally.end(&format!("{} of 2026.2, random instants", case.command[0]));
    }
}

/// The system calls that change something, which strace(1) can kill before.
const CALLS: &str = "write,pwrite64,openat,openat2,rename,renameat,renameat2,unlink,unlinkat,ftruncate,fsync,fdatasync,\
                     mkdir,mkdirat,symlinkat,fchmod,fchown,fsetxattr,rmdir,close";

pub(super) fn traced(sandbox: &Host, arguments: &[&str], options: &[&str]) -> Command {
    let plain = sandbox.command(arguments);
    let mut command = Command::new("strace");
    command.args(options).arg(plain.get_program()).args(plain.get_args()).env_clear().stdin(Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Kills before `count` of the system calls that change something, spread over the whole command.
fn at_system_calls(case: &Case, count: usize, tally: &Tally) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let options = ["-o", log.path().to_str().unwrap(), "-e", &format!("trace={CALLS}")];
    said(&mut traced(&case.before.copy(), &case.command, &options)).expect(0);
    let text = std::fs::read_to_string(log.path()).unwrap();
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    let mut calls = Vec::new();
    for name in text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name) {
        *seen.entry(name).or_default() += 1;
        calls.push((name, seen[name]));
    }
    // What comes before the run's directory is made only looks.
    let begin = text.lines().position(|line| line.starts_with("mkdirat(")).unwrap_or(0);
    let step = ((calls.len() - begin) / count).max(1);
    let chosen: Vec<(&str, usize)> = calls.into_iter().skip(begin).step_by(step).collect();
    let name = |(call, n): &(&str, usize)| format!("{} killed before {call} number {n}", case.command[0]);
    tally.each(&chosen, name, |(call, n)| {
        let sandbox = case.fresh();
        let inject = format!("inject={call}:signal=SIGKILL:when={n}");
        let options = ["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
        said(&mut traced(&sandbox, &case.command, &options)).expect(KILLED);
        part_ways(case, sandbox);
    });
}

#[test]
#[ignore = "slow: make test-slow"]
fn killed_before_system_calls() {
    for case in [Case::upgrade("mitaka"), Case::rollback("mitaka")] {
        let tally = Tally::default();
        at_system_calls(&case, 300, &tally);
        tally.end(&format!("{} of mitaka, killed before system calls", case.command[0]));
    }
}
