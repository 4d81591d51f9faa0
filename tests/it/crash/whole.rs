//! The whole matrix, as large as is asked for: every crash point and random instants, on each kind of database, then `resume`, `rollback`, or one
//! of them killed too. `make crash` runs it and shows the table.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use keymgr_upgrade::db::Dialect;

use super::matrix::{Numbers, RESUME, ROLLBACK, part_ways};
use super::{Case, Host, KILLED, Tally, kill_at};
use crate::common::said;

/// How much is tried of each part.
#[derive(Clone, Copy)]
struct Sizes {
    /// Each how many-th crash point.
    step: usize,
    /// How many random instants.
    random: usize,
    /// How many kills of a `resume` or a `rollback` that takes up what a kill has left.
    again: usize,
    /// What the random numbers begin with.
    seed: u64,
}

impl Sizes {
    /// Those of `make crash STEP=.. RANDOM=.. AGAIN=.. SEED=..`, small ones where nothing is said.
    fn asked() -> Self {
        let asked = |name: &str| -> Option<usize> {
            let value = std::env::var(format!("KEYMGR_CRASH_{name}")).ok().filter(|v| !v.is_empty())?;
            Some(value.parse().unwrap_or_else(|e| panic!("{name}={value}: {e}")))
        };
        Self {
            step: asked("STEP").unwrap_or(40).max(1),
            random: asked("RANDOM").unwrap_or(2),
            again: asked("AGAIN").unwrap_or(2),
            seed: asked("SEED").map_or(2026, |seed| u64::try_from(seed).unwrap()),
        }
    }

    fn numbers(self) -> Numbers {
        Numbers(self.seed)
    }
}

/// One line of the table.
struct Row {
    database: &'static str,
    command: &'static str,
    killed: &'static str,
    tried: usize,
    lost: Vec<String>,
}

/// Cases of the same command, one for each trial that may be made at the same time.
struct Lanes {
    database: &'static str,
    command: &'static str,
    cases: Vec<Case>,
    /// Of a file each trial has its own, of a database on a server there is one.
    at_once: usize,
}

impl Lanes {
    fn of(dialect: Dialect, lanes: usize, make: impl Fn() -> Case) -> Self {
        let cases: Vec<Case> = (0..if dialect == Dialect::Sqlite { 1 } else { lanes }).map(|_| make()).collect();
        for case in &cases {
            assert_eq!(case.points, cases[0].points, "two undisturbed runs pass other points");
        }
        let at_once = if dialect == Dialect::Sqlite { lanes } else { 1 };
        let database = match dialect {
            Dialect::Sqlite => "SQLite",
            Dialect::Postgresql => "PostgreSQL",
            Dialect::Mysql => "MariaDB",
        };
        Self { database, command: cases[0].command[0], cases, at_once }
    }

    fn points(&self) -> usize {
        self.cases[0].points.len()
    }

    fn point(&self, point: usize) -> &str {
        &self.cases[0].points[point - 1]
    }

    /// Makes these trials, and tells what came of them.
    fn tried<T: Sync>(
        &self,
        killed: &'static str,
        all: &[T],
        name: impl Fn(&T) -> String + Sync,
        trial: impl Fn(&Case, &T) + Sync,
    ) -> Row {
        let tally = Tally::default();
        let lanes: Vec<&Case> = self.cases.iter().flat_map(|case| vec![case; self.at_once]).collect();
        tally.each_on(&lanes, all, name, |case, one| trial(case, one));
        let (tried, lost) = (tally.tried.into_inner(), tally.lost.into_inner().unwrap());
        Row { database: self.database, command: self.command, killed, tried, lost }
    }

    /// Killed at each `step`-th crash point.
    fn at_points(&self, sizes: Sizes) -> Row {
        let points: Vec<usize> = (1..=self.points()).step_by(sizes.step).collect();
        let name = |point: &usize| format!("killed at {point}, {}", self.point(*point));
        self.tried("at crash points", &points, name, |case, point| {
            let crashed = case.fresh();
            kill_at(&crashed, &case.command, *point);
            part_ways(case, crashed);
        })
    }

    /// Killed at random instants within the time that the command takes.
    fn at_instants(&self, sizes: Sizes) -> Row {
        let whole = u64::try_from(self.cases[0].took.as_micros()).unwrap();
        let mut numbers = sizes.numbers();
        let delays: Vec<Duration> = (0..sizes.random).map(|_| Duration::from_micros(numbers.below(whole))).collect();
        let name = |delay: &Duration| format!("killed after {delay:?}");
        self.tried("at random instants", &delays, name, |case, delay| {
            let crashed = case.fresh();
            kill_after(&crashed, &case.command, *delay);
            part_ways(case, crashed);
        })
    }

    /// Killed at a random point, then `resume` or `rollback` killed at a random point of its own.
    fn again(&self, sizes: Sizes) -> Row {
        let mut numbers = sizes.numbers();
        // Not of the last ones: how often a lock is tried for, and so how many there are, differs from run to run.
        let reached = u64::try_from(self.points() * 9 / 10).unwrap();
        let mut draw = || 1 + usize::try_from(numbers.below(reached)).unwrap();
        let pairs: Vec<(usize, &[&str], usize)> =
            (0..sizes.again).map(|n| (draw(), if n % 2 == 0 { RESUME } else { ROLLBACK }, draw())).collect();
        let name = |(first, verb, second): &(usize, &[&str], usize)| {
            format!("killed at {first}, {}; {} killed at {second} or before", self.point(*first), verb[0])
        };
        self.tried("again in what takes it up", &pairs, name, |case, (first, verb, second)| {
            let crashed = case.fresh();
            kill_at(&crashed, &case.command, *first);
            part_ways(case, killed_again(crashed, verb, *second));
        })
    }
}

/// Kills `verb` at its `point`-th point, or at half of that where it has not so many. One that passes none has nothing to do.
fn killed_again(crashed: Host, verb: &[&str], mut point: usize) -> Host {
    let kept = crashed.keep();
    while point > 0 {
        let sandbox = crashed.copy();
        let said = said(sandbox.command(verb).env("KEYMGR_UPGRADE_CRASH_AT", point.to_string()));
        if said.code == KILLED {
            return sandbox;
        }
        let _ = said.expect(0);
        crashed.put_back(kept.as_ref());
        point /= 2;
    }
    crashed
}

fn kill_after(sandbox: &Host, command: &[&str], delay: Duration) {
    let mut child = sandbox.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The table, and what was lost.
fn shown(rows: &[Row], sizes: Sizes) -> String {
    let points =
        if sizes.step == 1 { "Every crash point".to_owned() } else { format!("Each {}th crash point", sizes.step) };
    let mut text = format!(
        "Killed with SIGKILL, looked at, then resumed and compared with an undisturbed run, and rolled\n\
         back and compared with the start: schema, rows, files, owners, modes. {points},\n\
         seed {}.\n\n{:<11} {:<9} {:<26} {:>5} {:>5}\n",
        sizes.seed, "database", "of", "killed", "tried", "lost"
    );
    for row in rows {
        let Row { database, command, killed, tried, lost } = row;
        text += &format!("{database:<11} {command:<9} {killed:<26} {tried:>5} {:>5}\n", lost.len());
    }
    for row in rows {
        for lost in &row.lost {
            text += &format!("LOST: {}, {} {lost}\n", row.database, row.command);
        }
    }
    let tried: usize = rows.iter().map(|row| row.tried).sum();
    let lost: usize = rows.iter().map(|row| row.lost.len()).sum();
    text + &format!("tried {tried}, lost {lost}\n")
}

/// Where `make crash` finds the table.
fn report() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash.txt")
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
#[ignore = "slow: make crash, make test-slow"]
fn all_databases() {
    let sizes = Sizes::asked();
    let only = std::env::var("KEYMGR_CRASH_DATABASE").unwrap_or_default();
    let mut rows = Vec::new();
    for dialect in [Dialect::Sqlite, Dialect::Postgresql, Dialect::Mysql] {
        if !only.is_empty() && dialect.name() != only {
            continue;
        }
        for make in [Case::upgrade_on, Case::rollback_on] {
            let lanes = Lanes::of(dialect, threads(), || make(dialect, "mitaka"));
            for part in [Lanes::at_points, Lanes::at_instants, Lanes::again] {
                rows.push(part(&lanes, sizes));
                // What was found so far is there also when somebody ends it.
                std::fs::write(report(), shown(&rows, sizes)).unwrap();
            }
        }
    }
    let text = shown(&rows, sizes);
    assert!(!rows.is_empty(), "no database is called {only}");
    assert!(rows.iter().all(|row| row.lost.is_empty()), "{text}");
}

/// A few of each kind, on one server.
fn sample(dialect: Dialect) {
    let sizes = Sizes { step: usize::MAX, random: 1, again: 1, seed: 2026 };
    let lanes = Lanes::of(dialect, 1, || Case::upgrade_on(dialect, "mitaka"));
    let points = &lanes.cases[0].points;
    let some = ["statement run", "KEK written"].map(|name| {
        1 + points.iter().position(|p| p.contains(name)).unwrap_or_else(|| panic!("{name} is not in {points:?}"))
    });
    let name = |point: &usize| format!("killed at {point}, {}", lanes.point(*point));
    let points = lanes.tried("at crash points", &some, name, |case, point| {
        let crashed = case.fresh();
        kill_at(&crashed, &case.command, *point);
        part_ways(case, crashed);
    });
    let rows = [points, lanes.at_instants(sizes), lanes.again(sizes)];
    let text = shown(&rows, sizes);
    assert!(rows.iter().all(|row| row.tried > 0 && row.lost.is_empty()), "{text}");
}

#[test]
fn some_kills_on_postgresql() {
    sample(Dialect::Postgresql);
}

#[test]
fn some_kills_on_mariadb() {
    sample(Dialect::Mysql);
}

/// A deployment that differs in one row, file, mode or owner is seen: what the matrix compares is compared.
#[test]
fn a_difference_would_be_seen() {
    use std::os::unix::fs::PermissionsExt as _;
    let case = Case::upgrade_on(Dialect::Mysql, "mitaka");
    let seen = |what: &str, change: &dyn Fn(&Host)| {
        let sandbox = case.fresh();
        assert_eq!(super::State::of(&sandbox).differences(&case.start), [""; 0], "{what}: before");
        change(&sandbox);
        assert_ne!(super::State::of(&sandbox).differences(&case.start), [""; 0], "{what}: not seen");
    };
    let base = case.before.base.as_ref().unwrap();
    seen("a row", &|_| base.load("UPDATE kek_data SET plugin_meta = CONCAT(plugin_meta, ' ') LIMIT 1"));
    seen("a column", &|_| base.load("ALTER TABLE secrets ADD COLUMN more INTEGER"));
    seen("a byte", &|sandbox| {
        let text = sandbox.read(super::CONF);
        std::fs::write(sandbox.path(super::CONF), format!("{text}\n")).unwrap();
    });
    seen("a mode", &|sandbox| {
        std::fs::set_permissions(sandbox.path(super::CONF), std::fs::Permissions::from_mode(0o666)).unwrap();
    });
    seen("an owner", &|sandbox| {
        let _ = said(Command::new("chown").arg("7").arg(sandbox.path(super::CONF))).expect(0);
    });
}
