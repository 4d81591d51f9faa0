//! Killed at any instant: `resume` ends where an undisturbed run ends, `rollback` where it began.

mod damage;
mod disk;
mod faults;
mod matrix;
mod power;
pub(crate) mod state;
mod whole;

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keymgr_upgrade::db::Dialect;
use keymgr_upgrade::files::Root;
use keymgr_upgrade::journal::{self, Journal, Phase, RunState};
use keymgr_upgrade::plan::Plan;
use keymgr_upgrade::step::{Step, Undo};
use keymgr_upgrade::units;

use self::state::State;
use crate::common::{Sandbox, said};
use crate::server_schema::{Look, dump, server};
use crate::servers::{self, Base, Kept};

/// What SIGKILL makes of an exit code.
const KILLED: i32 = 137;

const CONF: &str = "etc/barbican/barbican.conf";
const PASTE: &str = "etc/barbican/barbican-api-paste.ini";
pub(crate) const DATABASE: &str = "var/lib/barbican/barbican.sqlite";

/// A sandbox with the database that its configuration names, where that is not a file in it.
pub(crate) struct Host {
    sandbox: Sandbox,
    pub(crate) base: Option<Arc<Base>>,
}

impl std::ops::Deref for Host {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.sandbox
    }
}

impl Host {
    /// A copy of the files; a database on a server stays the same one.
    pub(crate) fn copy(&self) -> Self {
        Self { sandbox: self.sandbox.copy(), base: self.base.clone() }
    }

    /// The rows on the server, to be put back for the second way from here.
    fn keep(&self) -> Option<Kept> {
        self.base.as_ref().map(|base| base.keep())
    }

    fn put_back(&self, kept: Option<&Kept>) {
        if let (Some(base), Some(kept)) = (&self.base, kept) {
            base.put_back(kept);
        }
    }
}

/// The genuine Liberty deployment on this kind of database, with what an operator may have made of its files: a linked paste file, an owner, an
/// extended attribute, a drop-in of his own.
pub(crate) fn deployment(dialect: Dialect) -> Host {
    // In memory: that of the disk has time for nobody else while it syncs.
    let sandbox = Sandbox::liberty().copy();
    let base = (dialect != Dialect::Sqlite).then(|| Arc::new(on_server(&sandbox, dialect)));
    sandbox.write("etc/systemd/system/barbican-worker.service.d/limits.conf", "[Service]\nLimitNOFILE=4096\n");
    let (paste, real) = (sandbox.path(PASTE), sandbox.path("etc/paste/barbican.ini"));
    std::fs::create_dir(sandbox.path("etc/paste")).unwrap();
    std::fs::rename(&paste, &real).unwrap();
    std::os::unix::fs::symlink("/etc/paste/barbican.ini", &paste).unwrap();
    let conf = sandbox.path(CONF);
    // Not every file system has them; where it has, they must be kept.
    rustix::fs::setxattr(&conf, "user.label", b"kept", rustix::fs::XattrFlags::empty()).ok();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&conf, Some(0), Some(1234)).unwrap();
        if base.is_none() {
            std::os::unix::fs::chown(sandbox.path(DATABASE), Some(4321), Some(1234)).unwrap();
        }
    }
    Host { sandbox, base }
}

/// Moves the database of the deployment to a server.
fn on_server(sandbox: &Sandbox, dialect: Dialect) -> Base {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/liberty/liberty-mariadb.sql");
    let genuine = servers::mariadb().database(&std::fs::read_to_string(fixture).unwrap());
    let base = if dialect == Dialect::Mysql {
        genuine
    } else {
        let base = server(dialect).database(&dump(dialect, "chain-4ecde3a3a72a-liberty"));
        Look::start().copy(&genuine.url(), &base.url());
        base
    };
    let conf = sandbox.read(CONF);
    let (head, tail) = conf.split_once("sql_connection = ").unwrap();
    let (_, tail) = tail.split_once('\n').unwrap();
    sandbox.write(CONF, &format!("{head}sql_connection = {}\n{tail}", base.url()));
    std::fs::remove_file(sandbox.path(DATABASE)).unwrap();
    base
}

/// A command line whose crashes are tried: on what, and what it would come to undisturbed.
struct Case {
    before: Host,
    /// What the database on a server is before.
    kept: Option<Kept>,
    command: Vec<&'static str>,
    /// Where the run began.
    start: State,
    /// Where the run ends.
    end: State,
    /// The crash points that an undisturbed run passes, in order.
    points: Vec<String>,
    /// How long that took.
    took: Duration,
}

impl Case {
    fn upgrade(release: &'static str) -> Self {
        Self::upgrade_on(Dialect::Sqlite, release)
    }

    fn upgrade_on(dialect: Dialect, release: &'static str) -> Self {
        let before = deployment(dialect);
        let way = ["--to", release, "--fast-forward"];
        before.run(&[&["approve"], &way[..]].concat()).expect(0);
        let command = [&["upgrade", "--yes"], &way[..]].concat();
        let (start, kept) = (State::of(&before), before.keep());
        let begin = Instant::now();
        let (after, points) = undisturbed(&before, &command);
        let took = begin.elapsed();
        let end = State::of(&after);
        assert_ne!(start, end);
        Self { before, kept, command, start, end, points, took }
    }

    /// The rollback of the finished upgrade to `release`.
    fn rollback(release: &'static str) -> Self {
        Self::rollback_on(Dialect::Sqlite, release)
    }

    fn rollback_on(dialect: Dialect, release: &'static str) -> Self {
        let upgrade = Self::upgrade_on(dialect, release);
        let before = upgrade.fresh();
        before.run(&upgrade.command).expect(0);
        let kept = before.keep();
        let command = vec!["rollback", "--yes"];
        let begin = Instant::now();
        let (after, points) = undisturbed(&before, &command);
        let took = begin.elapsed();
        assert_eq!(State::of(&after).differences(&upgrade.start), Vec::<String>::new());
        Self { before, kept, command, points, took, ..upgrade }
    }

    /// A copy of what there was before. A database on a server is there once: one trial of a case at a time.
    fn fresh(&self) -> Host {
        self.before.put_back(self.kept.as_ref());
        self.before.copy()
    }

    /// The second command ends everything well, or is tried again: `resume` must come to the end, unless the run was going back or not open yet.
    fn finish(&self, sandbox: &Host, verb: &[&str]) {
        let back = is_going_back(sandbox);
        sandbox.run(verb).expect(0);
        let goal = if verb[0] == "rollback" || back { &self.start } else { &self.end };
        if verb[0] == "resume" && !back && State::of(sandbox) != *goal {
            // It was killed before the run was open: then nothing was done yet, and the same command just works.
            assert_eq!(
                State::of(sandbox).differences(&self.start),
                Vec::<String>::new(),
                "neither resumed nor untouched"
            );
            sandbox.run(&self.command).expect(0);
        }
        assert_eq!(State::of(sandbox).differences(goal), Vec::<String>::new(), "after {verb:?}");
        nothing_is_left(sandbox);
    }

    /// What must hold after a crash, whatever is done next.
    fn check_crashed(&self, sandbox: &Host) {
        let now = State::of(sandbox);
        let root = Root::open(&sandbox.root()).unwrap();
        let run = newest_run(&root);
        check_covered(&now, &self.start, sandbox, &root, run.as_ref());
        let held = units::held(&root, &names()).unwrap().len() == names().len();
        let forward = run.as_ref().is_some_and(|(_, plan, state)| {
            let released = plan.steps.iter().position(|s| matches!(s, Step::UnholdUnits { .. })).unwrap();
            state.phase == Phase::Forward && state.get(released).undo.is_none()
        });
        let touched = !now.same_deployment(&self.start);
        if touched && (forward || !now.same_deployment(&self.end)) {
            assert!(held, "the deployment is half way and not held");
        }
        let status = sandbox.run(&["status"]);
        let open = journal::current(&root).is_some()
            && !run.is_none_or(|(_, _, state)| matches!(state.phase, Phase::Done | Phase::RolledBack));
        let status = status.expect(if open { 4 } else { 0 });
        assert!(status.out.contains("\nNext: keymgr-upgrade "), "{}", status.out);
        let word = if open { "INTERRUPTED" } else { "no run is open" };
        assert!(status.out.lines().next().unwrap().contains(word), "{}", status.out);
    }
}

/// A kill leaves no half record: one record is one write.
fn no_record_is_torn(sandbox: &Host) {
    let root = Root::open(&sandbox.root()).unwrap();
    if let Some((id, ..)) = newest_run(&root) {
        let bytes = root.read(&journal::run_directory(&id).join("journal.jsonl")).unwrap().expect("a journal").bytes;
        assert!(bytes.ends_with(b"\n"), "a torn record after a kill: one record is one write");
    }
}

fn names() -> Vec<String> {
    units::names(&[]).unwrap()
}

/// Runs `command` to its end on a copy, and tells which points it passed.
fn undisturbed(before: &Host, command: &[&str]) -> (Host, Vec<String>) {
    let sandbox = before.copy();
    let log = tempfile::NamedTempFile::new().unwrap();
    said(sandbox.command(command).env("KEYMGR_UPGRADE_CRASH_LOG", log.path())).expect(0);
    let text = std::fs::read_to_string(log.path()).unwrap();
    (sandbox, text.lines().map(str::to_owned).collect())
}

/// Has `command` killed at its `point`-th crash point, from 1.
fn kill_at(sandbox: &Host, command: &[&str], point: usize) {
    said(sandbox.command(command).env("KEYMGR_UPGRADE_CRASH_AT", point.to_string())).expect(KILLED);
}

/// Whether the open run was going back.
fn is_going_back(sandbox: &Host) -> bool {
    let root = Root::open(&sandbox.root()).unwrap();
    newest_run(&root).is_some_and(|(_, _, state)| matches!(state.phase, Phase::RollingBack | Phase::RolledBack))
}

/// The run that was opened last, as its journal tells it.
fn newest_run(root: &Root) -> Option<(String, Plan, RunState)> {
    let id = journal::current(root).or_else(|| journal::runs(root).unwrap().pop())?;
    let directory = journal::run_directory(&id);
    let records = Journal::read(root, &directory).unwrap();
    let state = RunState::replay(&records);
    let plan = Plan::load(root, &directory, &state).unwrap();
    Some((id, plan, state))
}

/// Everything that is not as it was has a started step whose undo is on disk.
fn check_covered(now: &State, start: &State, sandbox: &Host, root: &Root, run: Option<&(String, Plan, RunState)>) {
    let Some((id, plan, state)) = run else {
        assert_eq!(now.differences(start), Vec::<String>::new(), "touched without a run");
        return;
    };
    let started: Vec<(&Step, Undo)> = plan
        .steps
        .iter()
        .enumerate()
        .filter(|(i, _)| !state.get(*i).reverted)
        .filter_map(|(i, step)| Some((step, serde_json::from_value(state.get(i).undo?).unwrap())))
        .collect();
    let directory = journal::run_directory(id);
    if state::without_probe(&now.database) != start.database {
        let undo = started.iter().find(|(s, _)| s.writes_database()).map(|(_, undo)| undo);
        match undo.expect("the database differs, and no step that writes to it was started") {
            Undo::Database if sandbox.base.is_some() => {
                // What is in it is seen when the rollback restores it.
                assert!(root.exists(&directory.join("backup/database.json")), "no backup is there");
            }
            Undo::Database => {
                let copy = sandbox.path(directory.join("backup/database.sqlite").to_str().unwrap());
                assert_eq!(state::dump(&copy), start.database, "the backup is not what was there");
            }
            Undo::Rows { file, .. } => assert!(root.exists(&directory.join(file))),
            other => panic!("the database differs, and its undo is {other:?}"),
        }
    }
    for (path, old) in start.files.iter().filter(|(path, old)| now.files.get(*path) != Some(*old)) {
        let edit = started.iter().find_map(|(step, undo)| match (step, undo) {
            (Step::EditFile { path: edited, .. }, Undo::File { copy: Some(copy), .. })
                if std::fs::canonicalize(sandbox.path(edited.to_str().unwrap())).is_ok_and(|p| p.ends_with(path))
                    || sandbox.path(CONF).ends_with(path) && sandbox.path(edited.to_str().unwrap()).ends_with(path)
                    || path.ends_with("paste/barbican.ini") && edited.ends_with("barbican-api-paste.ini") =>
            {
                Some(copy)
            }
            _ => None,
        });
        let copy = edit.unwrap_or_else(|| panic!("{} differs, and no started step has its copy", path.display()));
        let copy = root.read(&directory.join(copy)).unwrap().expect("the copy of a file");
        assert_eq!(Some(&copy.bytes), old.content.as_ref(), "the copy of {} is not what was there", path.display());
    }
    for path in now.files.keys().filter(|path| !start.files.contains_key(*path)) {
        let hold = path.to_string_lossy().contains(".service.d");
        let fine = started.iter().any(|(step, _)| match step {
            Step::HoldUnits { .. } => hold,
            // Half written, and found again by its name.
            Step::EditFile { .. } => path.to_string_lossy().ends_with(".keymgr-upgrade"),
            step => step.writes_database() && path.ends_with("barbican.sqlite-journal"),
        });
        assert!(fine, "{} came, and no started step explains it", path.display());
    }
}

/// After the end: no run open, nothing half written anywhere, our own files private and readable.
fn nothing_is_left(sandbox: &Host) {
    let root = Root::open(&sandbox.root()).unwrap();
    assert_eq!(journal::current(&root), None, "the run is still open");
    let all = state::walk(&sandbox.root());
    for (path, entry) in &all {
        let name = path.file_name().unwrap().to_string_lossy();
        let stray = name.ends_with(".keymgr-upgrade") || name.contains(".partial") || name.ends_with("-journal");
        assert!(!stray, "{} is left", path.display());
        if path.starts_with("var/lib/keymgr-upgrade") {
            let mode = if entry.content.is_some() { 0o600 } else { 0o700 };
            assert_eq!(entry.mode, mode, "{} has mode {:o}", path.display(), entry.mode);
        }
    }
    let directories = root.list(Path::new("/var/lib/keymgr-upgrade/runs")).unwrap();
    for id in &directories {
        let state = RunState::replay(&Journal::read(&root, &journal::run_directory(id)).unwrap());
        assert!(matches!(state.phase, Phase::Done | Phase::RolledBack), "run {id} is {:?}", state.phase);
    }
    assert!(
        !root.exists(Path::new("/var/lib/keymgr-upgrade/approval.json")) || directories.is_empty(),
        "an approval is for one run"
    );
    sandbox.run(&["status"]).expect(0);
    sandbox.run(&["history"]).expect(0);
}

/// How many trials were made, and what went wrong in which.
#[derive(Default)]
struct Tally {
    tried: AtomicUsize,
    lost: Mutex<Vec<String>>,
}

impl Tally {
    /// Makes the trials of `all`, as many at once as there are processors.
    fn each<T: Sync>(&self, all: &[T], name: impl Fn(&T) -> String + Sync, trial: impl Fn(&T) + Sync) {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.each_on(&vec![(); threads], all, name, |(), one| trial(one));
    }

    /// Makes the trials of `all`, one at a time on each of `lanes`.
    fn each_on<L: Sync, T: Sync>(
        &self,
        lanes: &[L],
        all: &[T],
        name: impl Fn(&T) -> String + Sync,
        trial: impl Fn(&L, &T) + Sync,
    ) {
        let next = AtomicUsize::new(0);
        let work = |lane: &L| {
            while let Some(one) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
                self.tried.fetch_add(1, Ordering::SeqCst);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trial(lane, one)));
                if let Err(why) = result {
                    let text = why.downcast_ref::<String>().cloned();
                    let text = text.or(why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
                    self.lost.lock().unwrap().push(format!("{}: {text}", name(one)));
                }
            }
        };
        std::thread::scope(|scope| {
            for lane in lanes {
                scope.spawn(|| work(lane));
            }
        });
    }

    /// Says what came of it, and fails if anything was lost.
    fn end(self, what: &str) {
        let (tried, lost) = (self.tried.into_inner(), self.lost.into_inner().unwrap());
        // Past the test harness, which swallows what a passing test prints.
        #[expect(clippy::explicit_write, reason = "eprintln! is swallowed, this is not")]
        writeln!(std::io::stderr(), "{what}: tried {tried}, lost {}", lost.len()).unwrap();
        assert!(tried > 0 && lost.is_empty(), "{} of {tried} lost:\n{}", lost.len(), lost.join("\n----\n"));
    }
}
