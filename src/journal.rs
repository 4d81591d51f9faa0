//! The run directory, the lock and the journal: what makes a run survive SIGKILL and power loss.
//!
//! ```text
//! /var/lib/keymgr-upgrade/            0700
//!   lock                              who holds the flock of this directory
//!   current -> runs/20261122T0158Z    the open run; removed when it ends
//!   runs/<id>/plan.json               what was decided, before anything is touched
//!             plan-2.json             the second half, when it was planned again on the new code
//!             baseline.json, .db      what could be read before
//!             log                     what was done, for people
//!             journal.jsonl           one record a line, each one write and one fdatasync
//!             backup/
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crash;
use crate::files::{Attributes, Root};
use crate::systemd::notify;

/// The state directory, below the root.
pub const STATE: &str = "/var/lib/keymgr-upgrade";

/// The journal format that this program writes. A reader must know every format up to its own.
///
/// 2 has [`Event::Word`]; with 3 a plan may have steps that look at the services in the end, and hold some in its second half; with 4 some that run
/// the site's own programs.
pub const FORMAT: u32 = 4;

/// More steps than any plan has: what is known of each is kept in memory.
const MOST_STEPS: usize = 10_000;

/// Owner and mode of every file that we keep for ourselves.
pub const PRIVATE: Attributes = Attributes { mode: 0o600, uid: 0, gid: 0 };

/// Attributes for our own files: private to whoever runs us (root, but for tests on an image).
#[must_use]
pub fn private() -> Attributes {
    Attributes { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), ..PRIVATE }
}

/// The operator's word that nobody else writes to the database ([`Event::Word`]).
pub const WRITERS_STOPPED: &str = "writers-stopped";

/// What a caller branches on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else works.
    #[error("another run holds the lock: {0}")]
    Locked(String),
    /// A record before the last one cannot be read.
    #[error("{path}:{line}: the journal is damaged: {reason}")]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// Why it cannot be read.
        reason: String,
    },
    /// The plan of a run is not the one that its journal names.
    #[error("{path}: not the plan that the journal names: {reason}")]
    Plan {
        /// The plan.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// The run begins. The first record.
    Open {
        /// Format of this journal.
        format: u32,
        /// Digest of `plan.json`.
        plan: String,
        /// Who asked for it.
        by: String,
    },
    /// What is needed to undo the step is on disk; the step may now act.
    StepStarted {
        /// Its index in the plan.
        step: usize,
        /// What undoes it, as the step described it.
        undo: Value,
    },
    /// The step was observed to be done.
    StepDone {
        /// Its index.
        step: usize,
        /// Whether it changed anything.
        changed: bool,
        /// For people: counts, sizes.
        detail: String,
        /// Fingerprint of the database, of a step that writes to it or copies it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
    },
    /// The step ended in an error.
    StepFailed {
        /// Its index.
        step: usize,
        /// The chain of errors.
        error: String,
    },
    /// The first half is done; the code is to be installed.
    Waiting {
        /// The release waited for.
        release: String,
    },
    /// The second half was planned again on the new facts, into `plan-2.json`.
    Replanned {
        /// Its digest.
        plan: String,
    },
    /// The operator's word on what cannot be looked at.
    Word {
        /// On what: `writers-stopped`.
        word: String,
        /// Who gave it.
        by: String,
    },
    /// A rollback begins.
    RollbackStarted {
        /// Why, or who asked.
        why: String,
    },
    /// The step is undone.
    StepReverted {
        /// Its index.
        step: usize,
        /// Whether anything had to be changed for it.
        changed: bool,
    },
    /// Undoing the step failed.
    RevertFailed {
        /// Its index.
        step: usize,
        /// The chain of errors.
        error: String,
    },
    /// The run is over.
    Closed {
        /// How it ended.
        outcome: Outcome,
    },
}

impl Event {
    /// The index of the step that it is about.
    #[must_use]
    pub fn step(&self) -> Option<usize> {
        match self {
            Self::StepStarted { step, .. }
            | Self::StepDone { step, .. }
            | Self::StepFailed { step, .. }
            | Self::StepReverted { step, .. }
            | Self::RevertFailed { step, .. } => Some(*step),
            _ => None,
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every step is done.
    Done,
    /// Everything is as it was before.
    RolledBack,
}

/// A record: when, and what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Seconds since the epoch, UTC.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What is known of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepState {
    /// Set once it may have acted: what undoes it. The first one stays.
    pub undo: Option<Value>,
    /// Set once it is done: changed, detail.
    pub done: Option<(bool, String)>,
    /// Its last error, if it is neither done nor reverted.
    pub error: Option<String>,
    /// Undone by a rollback.
    pub reverted: bool,
    /// When it was started, and when done.
    pub times: (Option<u64>, Option<u64>),
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Going forward; if nobody works on it, it was interrupted.
    Forward,
    /// The first half is done; the code is awaited.
    Waiting,
    /// Going back.
    RollingBack,
    /// Over: done.
    Done,
    /// Over: rolled back.
    RolledBack,
}

/// The run as its records tell it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    /// Where it stands.
    pub phase: Phase,
    /// By index of the plan; longer than what was reached only by empty states.
    pub steps: Vec<StepState>,
    /// Digest of the plan's second half, where it was planned again.
    pub replanned: Option<String>,
    /// Digest of `plan.json`.
    pub plan: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// Time of the first and of the last record, in seconds since the epoch.
    pub times: (u64, u64),
    /// The last error, forward or back.
    pub error: Option<String>,
    /// Fingerprint of the database as a step left it, and which step: the last one of those that write one after the other. Unknown while one is under
    /// way.
    pub fingerprint: Option<(usize, String)>,
    /// Nobody else writes to the database, on the operator's word.
    pub writers_stopped: bool,
}

impl RunState {
    /// Tells where a run stands from its records. Any prefix of a journal is a journal: that is what a crash leaves.
    #[must_use]
    pub fn replay(records: &[Record]) -> Self {
        let mut state = Self {
            phase: Phase::Forward,
            steps: Vec::new(),
            replanned: None,
            plan: None,
            by: String::new(),
            times: (records.first().map_or(0, |r| r.at), records.last().map_or(0, |r| r.at)),
            error: None,
            fingerprint: None,
            writers_stopped: false,
        };
        for record in records {
            state.apply(record);
        }
        state
    }

    /// The state of step `index`.
    pub fn step(&mut self, index: usize) -> &mut StepState {
        if self.steps.len() <= index {
            self.steps.resize(index + 1, StepState::default());
        }
        // The line above made it; a stand-in would hide a mistake, and there is none to return.
        #[expect(clippy::indexing_slicing, reason = "resized just above")]
        &mut self.steps[index]
    }

    /// The state of step `index` as far as it was reached.
    #[must_use]
    pub fn get(&self, index: usize) -> StepState {
        self.steps.get(index).cloned().unwrap_or_default()
    }

    fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::Open { plan, by, .. } => {
                self.plan = Some(plan.clone());
                by.clone_into(&mut self.by);
            }
            Event::StepStarted { step, undo } => {
                self.phase = Phase::Forward;
                let step = self.step(*step);
                // After a crash the step is started again; what undoes it is what was found the first time.
                step.undo.get_or_insert_with(|| undo.clone());
                step.times.0.get_or_insert(record.at);
                step.error = None;
            }
            Event::StepDone { step, changed, detail, fingerprint } => {
                if let Some(fingerprint) = fingerprint {
                    self.fingerprint = Some((*step, fingerprint.clone()));
                }
                let step = self.step(*step);
                let before = step.done.take().is_some_and(|(changed, _)| changed);
                step.done = Some((*changed || before, detail.clone()));
                step.times.1 = Some(record.at);
                step.error = None;
                self.error = None;
                self.phase = Phase::Forward;
            }
            Event::StepFailed { step, error } => {
                self.step(*step).error = Some(error.clone());
                self.error = Some(error.clone());
            }
            Event::Waiting { .. } => {
                self.phase = Phase::Waiting;
                self.error = None;
            }
            Event::Replanned { plan } => {
                self.replanned = Some(plan.clone());
                self.phase = Phase::Forward;
            }
            Event::Word { word, .. } => self.writers_stopped |= word == WRITERS_STOPPED,
            Event::RollbackStarted { .. } => self.phase = Phase::RollingBack,
            Event::StepReverted { step, .. } => {
                self.step(*step).reverted = true;
                self.error = None;
            }
            Event::RevertFailed { error, .. } => self.error = Some(error.clone()),
            Event::Closed { outcome: Outcome::Done } => self.phase = Phase::Done,
            Event::Closed { outcome: Outcome::RolledBack } => self.phase = Phase::RolledBack,
        }
    }
}

/// Proof that a step's undo is on disk: `apply` asks for it, and only [`Journal::started`] makes it.
#[derive(Debug)]
pub struct Started(());

/// The journal of an open run.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Journal {
    /// Opens the journal of the run in `directory`, dropping a torn last line, and returns the records that are whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if any other line cannot be read: then nothing is done by itself.
    pub fn open(root: &Root, directory: &Path) -> Result<(Self, Vec<Record>)> {
        let path = directory.join("journal.jsonl");
        let mut file = root.append(&path)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
        let (records, whole) = parse(&bytes, &path)?;
        let length = u64::try_from(whole)?;
        if whole < bytes.len() {
            log::warn!("{}: dropped a torn record of {} bytes", path.display(), bytes.len() - whole);
            file.set_len(length)?;
            file.sync_data()?;
        }
        Ok((Self { file, path, length }, records))
    }

    /// Reads the records without touching the file.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn read(root: &Root, directory: &Path) -> Result<Vec<Record>> {
        let path = directory.join("journal.jsonl");
        let bytes = root.read(&path)?.map(|c| c.bytes).unwrap_or_default();
        Ok(parse(&bytes, &path)?.0)
    }

    /// Appends one record: one write, one sync. When it returns, the record survives a power loss.
    ///
    /// # Errors
    /// If it cannot be written whole (disk full): the journal then is as before.
    pub fn append(&mut self, at: u64, event: Event) -> Result<()> {
        let mut line = serde_json::to_vec(&Record { at, event })?;
        line.push(b'\n');
        crash::point("journal to write");
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A half line would be taken for a torn one, which is right too; cut it off all the same.
            self.file.set_len(self.length).ok();
            return Err(error).with_context(|| format!("writing {}", self.path.display()));
        }
        self.length += u64::try_from(line.len())?;
        notify::beat();
        crash::point("journal written");
        Ok(())
    }

    /// Records that `step` may now act, with what undoes it.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn started(&mut self, at: u64, step: usize, undo: Value) -> Result<Started> {
        self.append(at, Event::StepStarted { step, undo })?;
        Ok(Started(()))
    }
}

/// The whole records in `bytes`, and how many bytes they take.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<(Vec<Record>, usize), Error> {
    let mut records = Vec::new();
    let mut whole = 0;
    let last = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    for (index, line) in bytes.get(..last).unwrap_or_default().split_inclusive(|b| *b == b'\n').enumerate() {
        let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), line: index + 1, reason };
        match serde_json::from_slice::<Record>(line) {
            Ok(Record { event: Event::Open { format, .. }, .. }) if format > FORMAT => {
                return Err(corrupt(format!("format {format} is newer than this keymgr-upgrade knows ({FORMAT})")));
            }
            Ok(Record { event, .. }) if event.step().is_some_and(|step| step >= MOST_STEPS) => {
                return Err(corrupt("its step is in no plan".to_owned()));
            }
            Ok(record) => records.push(record),
            // A record is one write, so a torn one has no line end; but a file system may leave zeros up to the block's end.
            Err(_) if whole + line.len() == bytes.len() && line.contains(&0) => break,
            Err(error) => return Err(corrupt(error.to_string())),
        }
        whole += line.len();
    }
    Ok((records, whole))
}

/// The lock of the host: the kernel drops it when its holder dies.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

impl Lock {
    /// Who holds the lock; `None` if nobody does.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn holder(root: &Root) -> Result<Option<String>> {
        let path = Path::new(STATE).join("lock");
        if !root.exists(&path) {
            return Ok(None);
        }
        match Flock::lock(root.private_directory(Path::new(STATE))?, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(None),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(root.read_text(&path)?.map(|t| t.trim().to_owned())),
            Err((_, error)) => Err(error).with_context(|| format!("locking {}", root.shown(&path).display())),
        }
    }

    /// Takes the lock of this root, or says who holds it.
    ///
    /// # Errors
    /// [`Error::Locked`] with what the holder wrote about itself.
    pub fn take(root: &Root, what: &str) -> Result<Self> {
        root.make_directory(Path::new(STATE), 0o700)?;
        let directory = root.private_directory(Path::new(STATE))?;
        let path = Path::new(STATE).join("lock");
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => {
                let mut file = root.append(&path)?;
                file.set_len(0)?;
                file.write_all(format!("process {}, {what}\n", std::process::id()).as_bytes())?;
                Ok(Self { _directory: directory })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = root.read_text(&path)?.unwrap_or_default();
                Err(Error::Locked(holder.trim().to_owned()).into())
            }
            Err((_, error)) => Err(error).with_context(|| format!("locking {}", root.shown(&path).display())),
        }
    }
}

/// The directory of the run `id`.
#[must_use]
pub fn run_directory(id: &str) -> PathBuf {
    Path::new(STATE).join("runs").join(id)
}

/// The id of the open run, if there is one.
#[must_use]
pub fn current(root: &Root) -> Option<String> {
    let target = root.read_link(&Path::new(STATE).join("current"))?;
    Some(target.trim_start_matches("runs/").to_owned())
}

/// The ids of all runs, oldest first. One that crashed before it was opened has done nothing, and is none.
///
/// # Errors
/// If the directory cannot be read.
pub fn runs(root: &Root) -> Result<Vec<String>> {
    let mut ids = root.list(&Path::new(STATE).join("runs"))?;
    ids.retain(|id| was_opened(root, id));
    Ok(ids)
}

/// Whether the run `id` was ever open: then `current` points to it, or its journal tells what came after. A damaged journal tells that too.
fn was_opened(root: &Root, id: &str) -> bool {
    let only_prepared = |records: Vec<Record>| records.iter().all(|r| matches!(r.event, Event::Open { .. }));
    current(root).as_deref() == Some(id) || !Journal::read(root, &run_directory(id)).is_ok_and(only_prepared)
}

/// Removes what crashes left in the state directory: half written files, and runs that were never opened. For whoever has the lock.
///
/// # Errors
/// If something cannot be removed.
pub fn tidy(root: &Root, _lock: &Lock) -> Result<()> {
    root.settle_all(Path::new(STATE))?;
    for id in root.list(&Path::new(STATE).join("runs"))? {
        if !was_opened(root, &id) {
            // A run copies nothing before it is open. Where its journal was lost, the copy is not to go with it.
            let kept = root.list(&run_directory(&id).join("backup"))?;
            // What begins with a dot was being written when it was killed.
            if kept.iter().any(|name| name != "RESTORE.txt" && !name.starts_with('.')) {
                log::warn!("run {id} has a copy, and no journal that tells of it: it stays");
                continue;
            }
            log::info!("removing run {id}, which was never opened");
            root.remove_tree(&run_directory(&id))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn directory() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.make_directory(&run_directory("r"), 0o700).unwrap();
        (dir, root)
    }

    fn sample() -> Vec<Event> {
        vec![
            Event::Open { format: 1, plan: "p".into(), by: "root".into() },
            Event::Word { word: WRITERS_STOPPED.into(), by: "root".into() },
            Event::StepStarted { step: 0, undo: Value::from("first") },
            Event::StepFailed { step: 0, error: "why".into() },
            Event::StepStarted { step: 0, undo: Value::from("second") },
            Event::StepDone { step: 0, changed: true, detail: "d".into(), fingerprint: None },
            Event::StepDone { step: 0, changed: false, detail: "d".into(), fingerprint: None },
            Event::Waiting { release: "mitaka".into() },
            Event::Replanned { plan: "q".into() },
            Event::StepStarted { step: 2, undo: Value::Null },
            Event::RollbackStarted { why: "asked".into() },
            Event::StepReverted { step: 2, changed: true },
            Event::Closed { outcome: Outcome::RolledBack },
        ]
    }

    #[test]
    fn the_first_undo_stays_and_the_phases_follow() {
        let records: Vec<Record> = sample().into_iter().map(|event| Record { at: 7, event }).collect();
        let state = RunState::replay(&records);
        assert_eq!(state.phase, Phase::RolledBack);
        assert_eq!(state.get(0).undo, Some(Value::from("first")));
        assert_eq!(
            state.get(0).done,
            Some((true, "d".into())),
            "a repeat that changed nothing does not hide the change"
        );
        assert!(state.get(2).reverted && state.writers_stopped);
        assert_eq!(RunState::replay(&records[..8]).phase, Phase::Waiting);
        assert_eq!(RunState::replay(&records[..4]).error.as_deref(), Some("why"));
        assert_eq!(RunState::replay(&records[..6]).error, None);
    }

    #[test]
    fn every_cut_of_a_journal_is_read_and_continued() {
        let (dir, root) = directory();
        let (mut journal, _) = Journal::open(&root, &run_directory("r")).unwrap();
        for event in sample() {
            journal.append(7, event).unwrap();
        }
        let file = dir.path().join("var/lib/keymgr-upgrade/runs/r/journal.jsonl");
        let bytes = std::fs::read(&file).unwrap();
        for cut in 0..=bytes.len() {
            File::create(&file).unwrap().write_all(&bytes[..cut]).unwrap();
            let (mut journal, records) = Journal::open(&root, &run_directory("r")).unwrap();
            assert_eq!(records.len(), bytes[..cut].iter().filter(|b| **b == b'\n').count());
            journal.append(8, Event::Waiting { release: "x".into() }).unwrap();
            assert_eq!(Journal::read(&root, &run_directory("r")).unwrap().len(), records.len() + 1);
        }
    }

    #[test]
    fn a_bad_line_elsewhere_is_named() {
        let (dir, root) = directory();
        let file = dir.path().join("var/lib/keymgr-upgrade/runs/r/journal.jsonl");
        let good = r#"{"at":1,"record":"waiting","release":"x"}"#;
        for bad in
            ["nonsense", r#"{"at":1,"record":"unheard-of"}"#, r#"{"at":1,"record":"waiting","release":"x","more":1}"#]
        {
            File::create(&file).unwrap().write_all(format!("{good}\n{bad}\n{good}\n").as_bytes()).unwrap();
            let error = Journal::open(&root, &run_directory("r")).unwrap_err().to_string();
            assert!(error.contains("journal.jsonl:2: the journal is damaged"), "{error}");
        }
        File::create(&file)
            .unwrap()
            .write_all(br#"{"at":1,"record":"step-failed","step":18446744073709551615,"error":"e"}"#)
            .unwrap();
        File::options().append(true).open(&file).unwrap().write_all(b"\n").unwrap();
        assert!(Journal::open(&root, &run_directory("r")).unwrap_err().to_string().contains("in no plan"));
        let newer = r#"{"at":1,"record":"open","format":99,"plan":"p","by":"root"}"#;
        File::create(&file).unwrap().write_all(format!("{newer}\n").as_bytes()).unwrap();
        assert!(Journal::open(&root, &run_directory("r")).unwrap_err().to_string().contains("newer"));
    }

    #[test]
    fn the_lock_names_its_holder() {
        let (_dir, root) = directory();
        let lock = Lock::take(&root, "upgrade --to mitaka").unwrap();
        let error = Lock::take(&root, "resume").unwrap_err().to_string();
        assert!(error.contains("upgrade --to mitaka") && error.contains("process"), "{error}");
        drop(lock);
        Lock::take(&root, "resume").unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, Path::new("j"));
        }
    }
}
