//! The power fails. A run is recorded call by call, and its files are laid out as a disk may have them that keeps no more than was synced
//! ([`disk`]); and a real file system is shut down in the middle of a run, with all that it has not written yet ([`real`]).

mod disk;
mod real;
mod record;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use self::disk::{Contents, Disk, Names, Tree, lay_out, tree_of};
use self::record::{Change, changes};
use super::matrix::both_from;
use super::{Case, Host, Tally};

/// A command that was recorded.
struct Recorded {
    case: Case,
    start: Tree,
    changes: Vec<Change>,
}

/// A disk as the power loss may leave it.
struct Left {
    tree: Tree,
    words: String,
    /// The states that lose most come first.
    rank: usize,
}

impl Recorded {
    fn of(case: Case) -> Self {
        let host = case.fresh();
        let start = tree_of(&host.root());
        let changes = changes(&host, &case.command);
        let mut disk = Disk::of(&start);
        changes.iter().for_each(|change| disk.change(change));
        // Nothing was overlooked: what the record says is what is there.
        let (said, there) = (disk.seen(), tree_of(&host.root()));
        for path in said.keys().chain(there.keys()) {
            assert_eq!(said.get(path), there.get(path), "{} is not as recorded", path.display());
        }
        Self { case, start, changes }
    }

    /// The syncs, by their place in the record.
    fn syncs(&self) -> Vec<usize> {
        let all = self.changes.iter().enumerate();
        all.filter(|(_, change)| matches!(change, Change::Sync { .. })).map(|(n, _)| n).collect()
    }

    /// What a power loss just before each sync, and at the end, may leave, each state once; as if one of the syncs had not been asked for.
    fn left(&self, without: Option<usize>) -> Vec<Left> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        let mut disk = Disk::of(&self.start);
        for n in 0..=self.changes.len() {
            let change = self.changes.get(n);
            if change.is_none_or(|change| matches!(change, Change::Sync { .. })) {
                for (rank, (names, contents)) in parts(disk.names_waiting()).into_iter().enumerate() {
                    let tree = disk.after(names, contents);
                    if seen.insert(hash(&tree)) {
                        let words = format!("before call {n} ({change:?}): names {names:?}, contents {contents:?}");
                        all.push(Left { tree, words, rank });
                    }
                }
            }
            if let Some(change) = change.filter(|_| without != Some(n)) {
                disk.change(change);
            }
        }
        all
    }

    fn host(&self, left: &Left) -> Host {
        let host = self.case.before.copy();
        lay_out(&left.tree, &host.root());
        host
    }

    /// Goes both ways from each.
    fn tried(&self, all: &[Left], tally: &Tally) {
        tally.each(all, |left| left.words.clone(), |left| both_from(&self.case, self.host(left)));
    }
}

fn parts(waiting: usize) -> Vec<(Names, Contents)> {
    let mut parts = vec![
        (Names::None, Contents::Lost),
        (Names::All, Contents::Lost),
        (Names::None, Contents::Whole),
        (Names::All, Contents::Half),
        (Names::All, Contents::Zeros),
        (Names::None, Contents::Half),
    ];
    for n in 0..waiting {
        parts.push((Names::But(n), Contents::Lost));
        parts.push((Names::Only(n), Contents::Lost));
        parts.push((Names::Only(n), Contents::Whole));
    }
    parts
}

fn hash(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    tree.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn an_upgrade_without_power_at_some_syncs() {
    let recorded = Recorded::of(Case::upgrade("mitaka"));
    let all = recorded.left(None);
    let step = all.len() / 8;
    let some: Vec<Left> = all.into_iter().step_by(step).collect();
    let tally = Tally::default();
    recorded.tried(&some, &tally);
    tally.end("upgrade to mitaka, power lost, some states of the disk");
}

#[test]
#[ignore = "slow: make crash-power, make test-slow"]
fn an_upgrade_without_power_at_any_sync() {
    let recorded = Recorded::of(Case::upgrade("mitaka"));
    let tally = Tally::default();
    recorded.tried(&recorded.left(None), &tally);
    tally.end("upgrade to mitaka, power lost");
}

#[test]
#[ignore = "slow: make crash-power, make test-slow"]
fn a_rollback_without_power_at_any_sync() {
    let recorded = Recorded::of(Case::rollback("mitaka"));
    let tally = Tally::default();
    recorded.tried(&recorded.left(None), &tally);
    tally.end("rollback from mitaka, power lost");
}

/// Leaves out one sync after the other. Each that is needed is missed: a state that the disk may then be in cannot be taken up.
fn left_out(recorded: &Recorded, syncs: &[usize]) -> Vec<(usize, bool)> {
    let legal: HashSet<u64> = recorded.left(None).iter().map(|left| hash(&left.tree)).collect();
    let missed = std::sync::Mutex::new(Vec::new());
    Tally::default().each(
        syncs,
        |n| n.to_string(),
        |n| {
            let mut new = recorded.left(Some(*n));
            new.retain(|left| !legal.contains(&hash(&left.tree)));
            new.sort_by_key(|left| left.rank);
            let fails = |left: &Left| {
                let trial = std::panic::AssertUnwindSafe(|| both_from(&recorded.case, recorded.host(left)));
                std::panic::catch_unwind(trial).is_err()
            };
            let seen = new.iter().take(12).any(fails);
            missed.lock().unwrap().push((*n, seen));
        },
    );
    let mut missed = missed.into_inner().unwrap();
    missed.sort_unstable();
    missed
}

/// The syncs of this file, in order.
fn of(recorded: &Recorded, file: &str) -> Vec<usize> {
    let path = |n: &usize| match &recorded.changes[*n] {
        Change::Sync { path } => path.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    recorded.syncs().into_iter().filter(|n| path(n).ends_with(file)).collect()
}

/// What the tests above would say if we did not sync that a step was started, before the database is written to; or the new contents of a file,
/// before it takes the place of the old one.
#[test]
fn a_sync_that_is_left_out_is_missed() {
    let recorded = Recorded::of(Case::upgrade("mitaka"));
    let written = |change: &Change| matches!(change, Change::Write { path, .. } if path.ends_with("barbican.sqlite"));
    let written = recorded.changes.iter().position(written).unwrap();
    let started = of(&recorded, "journal.jsonl").into_iter().rfind(|n| *n < written).unwrap();
    let contents = of(&recorded, "etc/barbican/.barbican.conf.keymgr-upgrade")[0];
    let all = left_out(&recorded, &[started, contents]);
    assert_eq!(all, [(started, true), (contents, true)]);
}

/// Each of our own syncs, to see which are missed. SQLite's are its own affair.
#[test]
#[ignore = "slow: make crash-power, make test-slow"]
fn each_sync_left_out() {
    let recorded = Recorded::of(Case::upgrade("mitaka"));
    let ours = |n: &usize| match &recorded.changes[*n] {
        Change::Sync { path } => !path.starts_with("var/lib/barbican"),
        _ => false,
    };
    let syncs: Vec<usize> = recorded.syncs().into_iter().filter(ours).collect();
    let all = left_out(&recorded, &syncs);
    let mut text = String::new();
    for (n, missed) in &all {
        text += &format!("{} {n} {:?}\n", if *missed { "missed    " } else { "not missed" }, recorded.changes[*n]);
    }
    let count = all.iter().filter(|(_, missed)| *missed).count();
    text += &format!("syncs {}, missed when left out {count}\n", all.len());
    std::fs::write(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("syncs.txt"), &text).unwrap();
    assert!(count * 3 > all.len(), "{text}");
}
