//! The loop: run, resume, roll back. What a step does is the step's business; here is only the order of look, journal and act.

mod fingerprint;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::crash;
use crate::db;
use crate::deployment::{Host, Site};
use crate::files::Root;
use crate::journal::{self, Event, Journal, Lock, Outcome, Phase, RunState};
use crate::kek::Survey;
use crate::logging;
use crate::plan::Plan;
use crate::step::{Applied, BASELINE, Context, Known, Observed, Step, Undo};
use crate::time;

/// Set by SIGTERM and SIGINT: the run stops at the next border between two steps.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// What the loop tells while it works.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A step begins.
    Begin {
        /// From 0.
        index: usize,
        /// How many steps the plan has.
        total: usize,
        /// Which one.
        step: &'a Step,
    },
    /// A step ended.
    End {
        /// From 0.
        index: usize,
        /// How many steps the plan has.
        total: usize,
        /// Which one.
        step: &'a Step,
        /// `ok`, `unchanged`, `waiting`, `undone` or `FAILED`.
        word: &'static str,
        /// How long it took, in milliseconds.
        milliseconds: u128,
        /// Counts and the like; empty if there is nothing to say.
        detail: &'a str,
    },
}

/// How going forward ended, if not by an error of the journal itself.
#[derive(Debug)]
pub enum Ended {
    /// Every step is done.
    Done,
    /// The code was just found or installed: the second half is to be planned again on what it brought.
    Code,
    /// The code of this release must be installed.
    Waiting(String),
    /// A step failed; it is in the journal.
    Failed {
        /// From 0.
        step: usize,
        /// The chain of errors.
        error: anyhow::Error,
    },
    /// Asked to stop; the step is the one that would have been next.
    Stopped {
        /// From 0.
        step: usize,
    },
}

/// What the operator accepted, in the directory of a run.
const ACCEPTED: &str = "accepted.json";

/// What every run's `backup/` says, until a copy of the database is in it.
const RESTORE: &str = "\
How to put things back by hand, without keymgr-upgrade

1. Stop every barbican service on every host, and see that they are stopped.
2. Put back the files whose copies lie here as files!PATH, with ! for /:
   files!etc!barbican!barbican.conf was /etc/barbican/barbican.conf. Keep owner
   and mode of the file that is there.
3. keks.jsonl, mechanisms.jsonl and hex-text.json hold old values of rows, by id.
4. Remove the holds:
   /etc/systemd/system/*barbican*.service.d/zzz-keymgr-upgrade-hold.conf
   then systemctl daemon-reload, and start the services.
";

/// An open run: its plan, its journal, and the lock of the host.
#[derive(Debug)]
pub struct Run {
    /// Its id: the time of its beginning.
    pub id: String,
    /// Its directory, inside the root.
    pub directory: PathBuf,
    /// What it does.
    pub plan: Plan,
    /// How far it came.
    pub state: RunState,
    /// Going back may lose rows that others wrote, on the operator's word.
    pub discard: bool,
    /// Somebody else installs code: a package manager at work, whose hook this is.
    pub code_by_others: bool,
    /// The code came while this process worked on it.
    pub code_came: bool,
    /// The plan was made, by this process, with the code that it is for installed.
    pub code_was_there: bool,
    /// The lock of the database, where it is on a server and something is written to it.
    database: Option<db::Lock>,
    journal: Journal,
    lock: Lock,
}

impl Run {
    /// Opens a new run: its directory, plan and journal are on disk before `current` points to it.
    ///
    /// # Errors
    /// If another run is open or at work, or something cannot be written; nothing is open then.
    pub fn begin(
        root: &Root,
        lock: Lock,
        plan: Plan,
        baseline: &Survey,
        accepted: &[String],
        by: &str,
    ) -> Result<Self> {
        if let Some(open) = journal::current(root) {
            bail!("run {open} is open");
        }
        let mut now = time::now();
        if let Some(newest) = journal::runs(root)?.iter().filter_map(|id| time::of_id(id)).max() {
            // Runs are told apart and ordered by their ids, also when the clock was put back.
            now = now.max(newest + 1);
        }
        let id = time::id(now);
        let directory = journal::run_directory(&id);
        root.make_directory(&directory.join("backup"), 0o700)?;
        root.write(&directory.join("plan.json"), &serde_json::to_vec_pretty(&plan)?, journal::private())?;
        baseline.keep(root, &directory, BASELINE)?;
        root.write(&directory.join(ACCEPTED), &serde_json::to_vec(accepted)?, journal::private())?;
        root.write(&directory.join("backup/RESTORE.txt"), RESTORE.as_bytes(), journal::private())?;
        let (mut journal, _) = Journal::open(root, &directory)?;
        let event = Event::Open { format: journal::FORMAT, plan: plan.digest(), by: by.to_owned() };
        journal.append(now, event)?;
        crash::point("run prepared");
        root.link(&format!("runs/{id}"), &Path::new(journal::STATE).join("current"))?;
        crash::point("run opened");
        let state = RunState::replay(&Journal::read(root, &directory)?);
        logging::about(&id, root.append(&directory.join("log"))?);
        logging::event(logging::Event::Begun, &format!("run {id} begins, asked by {by}"));
        Ok(Self::new(id, plan, state, journal, lock))
    }

    fn new(id: String, plan: Plan, state: RunState, journal: Journal, lock: Lock) -> Self {
        Self {
            directory: journal::run_directory(&id),
            id,
            plan,
            state,
            discard: false,
            code_by_others: false,
            code_came: false,
            code_was_there: false,
            database: None,
            journal,
            lock,
        }
    }

    /// Opens the run `id` to go on with it, or to go back.
    ///
    /// # Errors
    /// If its journal is damaged, or its plan is not the one that the journal names.
    pub fn reopen(root: &Root, lock: Lock, id: &str) -> Result<Self> {
        let directory = journal::run_directory(id);
        if !root.exists(&directory.join("journal.jsonl")) {
            bail!("{} is gone: what the run did is not known", root.shown(&directory.join("journal.jsonl")).display());
        }
        root.settle_all(&directory)?;
        root.settle_all(&directory.join("backup"))?;
        let (journal, records) = Journal::open(root, &directory)?;
        let state = RunState::replay(&records);
        let plan = Plan::load(root, &directory, &state)?;
        logging::about(id, root.append(&directory.join("log"))?);
        log::info!("run {id} is taken up again");
        Ok(Self::new(id.to_owned(), plan, state, journal, lock))
    }

    /// Leaves the run as it stands, for somebody else to take up, and gives back the lock of the host.
    #[must_use]
    pub fn leave(self) -> Lock {
        self.lock
    }

    /// Keeps the lock of the database from now on, for this run, and records the operator's word on other writers.
    ///
    /// # Errors
    /// If the lock was lost, or the word cannot be recorded.
    pub fn guard(&mut self, database: Option<db::Lock>, writers_stopped: bool, by: &str) -> Result<()> {
        self.database = database;
        if let Some(lock) = &mut self.database {
            lock.name(&self.id)?;
        }
        if writers_stopped && !self.state.writers_stopped {
            self.record(Event::Word { word: journal::WRITERS_STOPPED.to_owned(), by: by.to_owned() })?;
            log::warn!("nobody else writes to the database, on the word of {by}");
            self.state.writers_stopped = true;
        }
        Ok(())
    }

    /// Whether the run needs the database's lock: it is to write to it, or did.
    #[must_use]
    pub fn needs_lock(&self) -> bool {
        self.plan.writes() || self.has_written()
    }

    /// Just before the database is written to: the lock is still ours, and nobody else is there, a service of this host that was not stopped
    /// included. A step that was planned only to look takes the lock when it finds something to do.
    fn fence(&mut self, context: &Context<'_>) -> Result<()> {
        match &self.database {
            Some(lock) => lock.check()?,
            None => self.database = context.site.lock(Some(&self.id))?,
        }
        if self.state.writers_stopped {
            return Ok(());
        }
        context.site.alone(true)
    }

    /// What steps work with.
    pub fn context<'a>(&self, host: &'a Host, site: &'a mut Site) -> Context<'a> {
        let (from, to) = (self.plan.from.clone(), self.plan.to.clone());
        Context {
            host,
            site,
            directory: self.directory.clone(),
            from,
            to,
            discard: self.discard,
            written: self.has_written(),
            code_by_others: self.code_by_others,
            known: Known::default(),
        }
    }

    fn record(&mut self, event: Event) -> Result<()> {
        let words = self.words(&event);
        self.journal.append(time::now(), event)?;
        if let Some((event, text)) = words {
            logging::event(event, &text);
        }
        Ok(())
    }

    /// What an operator may want to be told of.
    fn words(&self, event: &Event) -> Option<(logging::Event, String)> {
        use logging::Event::{Done, RolledBack, StepDone, StepFailed, Waiting};
        let step = |index: usize, words: &str, more: &str| {
            let title = self.plan.steps.get(index).map_or_else(String::new, Step::title);
            let colon = if more.is_empty() { "" } else { ": " };
            format!("step {} of {} {words}: {title}{colon}{more}", index + 1, self.plan.steps.len())
        };
        Some(match event {
            // Looked at once more, behind the code that came.
            Event::StepDone { step: index, .. } if self.state.get(*index).done.is_some() => return None,
            Event::StepDone { step: index, changed: true, detail, .. } => (StepDone, step(*index, "done", detail)),
            Event::StepDone { step: index, detail, .. } => (StepDone, step(*index, "done, unchanged", detail)),
            Event::StepFailed { step: index, error } => (StepFailed, step(*index, "failed", error)),
            Event::RevertFailed { step: index, error } => (StepFailed, step(*index, "not undone", error)),
            Event::Waiting { release } => (Waiting, format!("run {} waits for the code of {release}", self.id)),
            Event::Closed { outcome: Outcome::Done } => (Done, format!("run {} is done", self.id)),
            Event::Closed { outcome: Outcome::RolledBack } => (RolledBack, format!("run {} is undone", self.id)),
            _ => return None,
        })
    }

    /// Records why the run stops at step `index`, or just before it.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub fn failed(&mut self, index: usize, error: &anyhow::Error) -> Result<()> {
        self.record(Event::StepFailed { step: index, error: format!("{error:#}") })
    }

    /// The ids of notes and findings that were accepted for this run.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn accepted(&self, root: &Root) -> Result<Vec<String>> {
        root.read_json(&self.directory.join(ACCEPTED))
    }

    /// Adds to them.
    ///
    /// # Errors
    /// If they cannot be read or written.
    pub fn accept(&self, root: &Root, ids: &[String]) -> Result<()> {
        let mut accepted = self.accepted(root)?;
        accepted.extend_from_slice(ids);
        root.write(&self.directory.join(ACCEPTED), &serde_json::to_vec(&accepted)?, journal::private())
    }

    /// Replaces the second half by `plan`'s, made on the facts after the code was installed.
    ///
    /// # Errors
    /// If a step of the second half has begun, or the new plan cannot be written.
    pub fn replan(&mut self, root: &Root, plan: Plan) -> Result<()> {
        root.write(&self.directory.join("plan-2.json"), &serde_json::to_vec_pretty(&plan)?, journal::private())?;
        self.record(Event::Replanned { plan: plan.digest() })?;
        self.plan = plan;
        Ok(())
    }

    /// Carries out the steps that are not done yet.
    ///
    /// # Errors
    /// Only if the journal cannot be written: what happened last is then not recorded, and `resume` will look.
    pub fn forward(&mut self, context: &mut Context<'_>, report: &mut dyn FnMut(Progress<'_>)) -> Result<Ended> {
        let steps = self.plan.steps.clone();
        let released = steps.iter().position(|s| matches!(s, Step::UnholdUnits { .. }));
        let begun = released.is_some_and(|i| self.state.get(i).undo.is_some());
        for (index, step) in steps.iter().enumerate() {
            // What was started may have fallen since, or not have come back with the host.
            let again = matches!(step, Step::StartUnits { .. }) || !begun && self.looks_again(step);
            if self.state.get(index).done.is_some() && !again {
                continue;
            }
            // Between holding and stopping there is no border: what falls there would not come back.
            if STOP.load(Ordering::SeqCst) && !matches!(step, Step::StopUnits { .. }) {
                self.fingerprint_at_stop(context);
                let text = format!("run {} stopped before step {}, as asked", self.id, index + 1);
                logging::event(logging::Event::Interrupted, &text);
                return Ok(Ended::Stopped { step: index });
            }
            let first = self.state.get(index).done.is_none();
            // Nothing is said of what is still as it was left.
            if !first && matches!(look(step, context), Ok(Observed::After(_))) {
                continue;
            }
            let total = steps.len();
            report(Progress::Begin { index, total, step });
            logging::at_step(index);
            log::info!("step {}: {}", index + 1, step.title());
            let begin = Instant::now();
            let result = self.one(context, index, step);
            let milliseconds = begin.elapsed().as_millis();
            let mut end = |word, detail: &str| report(Progress::End { index, total, step, word, milliseconds, detail });
            match result {
                Ok((Applied::Done, changed, detail)) => {
                    end(if changed { "ok" } else { "unchanged" }, &detail);
                    // Where nothing came, and no program of the site ran, all is as it was a moment ago.
                    let hooks = || steps.iter().take(index).any(|step| matches!(step, Step::RunHooks { .. }));
                    let same = self.code_was_there && !self.code_came && !hooks();
                    if first && !same && matches!(step, Step::AwaitCode { .. }) {
                        return Ok(Ended::Code);
                    }
                }
                Ok((Applied::Waiting(release), ..)) => {
                    end("waiting", "");
                    self.record(Event::Waiting { release: release.clone() })?;
                    return Ok(Ended::Waiting(release));
                }
                Err(error) => {
                    end("FAILED", &format!("{error:#}"));
                    self.fingerprint_at_stop(context);
                    if let Err(second) = self.failed(index, &error) {
                        return Err(error.context(format!("{second:#}")));
                    }
                    return Ok(Ended::Failed { step: index, error });
                }
            }
        }
        self.record(Event::Closed { outcome: Outcome::Done })?;
        self.close(&context.host.root)?;
        Ok(Ended::Done)
    }

    /// Steps whose work somebody else may have undone since: services must be down and held while we work, the code must be the one that the rest
    /// was planned for, and the copy must be of what the database holds when we first write to it.
    fn looks_again(&self, step: &Step) -> bool {
        match step {
            Step::StopUnits { .. } | Step::HoldUnits { .. } | Step::AwaitCode { .. } => true,
            Step::BackUpDatabase { .. } => !self.has_written(),
            _ => false,
        }
    }

    /// Whether a step that writes to the database may have acted.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.plan.steps.iter().enumerate().any(|(i, s)| s.writes_database() && self.state.get(i).undo.is_some())
    }

    /// Whether a step may have changed database, files or code.
    #[must_use]
    pub fn has_acted(&self) -> bool {
        self.plan.steps.iter().enumerate().any(|(i, s)| {
            let changes = s.writes_database() || matches!(s, Step::EditFile { .. } | Step::RecordRelease { .. });
            let code = matches!(s, Step::AwaitCode { .. }) && self.state.get(i).done.is_some();
            code || changes && self.state.get(i).undo.is_some()
        })
    }

    /// One step: look; prepare and record what undoes it; act; look again; record that it is done.
    fn one(&mut self, context: &mut Context<'_>, index: usize, step: &Step) -> Result<(Applied, bool, String)> {
        let mut begun = self.state.get(index).undo;
        if let (None, Step::AwaitCode { .. }) = (&begun, step) {
            // Code that is new already when it is first looked at has to be taken back all the same.
            let undo = serde_json::to_value(step.prepare(context)?)?;
            self.journal.started(time::now(), index, undo.clone())?;
            self.state.step(index).undo = Some(undo.clone());
            begun = Some(undo);
        }
        if matches!(step, Step::UnholdUnits { .. }) {
            for code in self.plan.steps.clone().iter().filter(|s| matches!(s, Step::AwaitCode { .. })) {
                if look(code, context)? == Observed::Before {
                    bail!("the code is no longer that of {}: install it again, then resume", self.plan.to);
                }
            }
        }
        if let Observed::After(detail) = look(step, context)? {
            let changed = begun.is_some();
            self.done(context, index, step, changed, &detail)?;
            return Ok((Applied::Done, changed, detail));
        }
        let undo = match begun {
            Some(undo) => undo,
            None => {
                if matches!(step, Step::UnholdUnits { .. }) {
                    self.know_fingerprint(context, index)?;
                }
                serde_json::to_value(step.prepare(context)?)?
            }
        };
        if step.writes_database() {
            self.fence(context)?;
        }
        crash::point("step prepared");
        let proof = self.journal.started(time::now(), index, undo.clone())?;
        self.state.step(index).undo.get_or_insert(undo);
        if step.writes_database() || matches!(step, Step::AwaitCode { .. } | Step::RunHooks { .. }) {
            context.known.fingerprint = None;
        }
        let applied = step.apply(context, &proof)?;
        crash::point("step applied");
        self.code_came |= matches!(step, Step::AwaitCode { .. });
        if let Applied::Waiting(release) = applied {
            return Ok((Applied::Waiting(release), true, String::new()));
        }
        match look(step, context)? {
            Observed::After(detail) => {
                self.done(context, index, step, true, &detail)?;
                Ok((Applied::Done, true, detail))
            }
            Observed::Before | Observed::Foreign(_) => bail!("{}: carried out, but not as it is to be", step.title()),
        }
    }

    fn done(
        &mut self,
        context: &mut Context<'_>,
        index: usize,
        step: &Step,
        changed: bool,
        detail: &str,
    ) -> Result<()> {
        let fingerprint = self.fingerprint_after(context, index, step)?;
        self.record(Event::StepDone {
            step: index,
            changed,
            detail: detail.to_owned(),
            fingerprint: fingerprint.clone(),
        })?;
        if let Some(fingerprint) = fingerprint {
            self.state.fingerprint = Some((index, fingerprint));
        }
        self.state.step(index).done = Some((changed, detail.to_owned()));
        Ok(())
    }

    /// Undoes the steps that may have acted, the last first. Stops at the first that cannot be undone.
    ///
    /// # Errors
    /// The error of the step that could not be undone; the run stays open.
    pub fn back(&mut self, context: &mut Context<'_>, why: &str, report: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        if journal::current(&context.host.root).as_deref() != Some(self.id.as_str()) {
            // A finished run is open again while it is undone.
            context.host.root.link(&format!("runs/{}", self.id), &Path::new(journal::STATE).join("current"))?;
        }
        if self.state.phase != Phase::RollingBack {
            self.record(Event::RollbackStarted { why: why.to_owned() })?;
            self.state.phase = Phase::RollingBack;
        }
        let steps = self.plan.steps.clone();
        for index in backwards(&steps) {
            let (Some(step), state) = (steps.get(index), self.state.get(index)) else { continue };
            let undo = match state.undo {
                Some(undo) => Some(undo),
                None => self.fallen(&steps, index).map(serde_json::to_value).transpose()?,
            };
            let Some(undo) = undo.filter(|_| !state.reverted) else { continue };
            let total = steps.len();
            report(Progress::Begin { index, total, step });
            logging::at_step(index);
            log::info!("undoing step {}: {}", index + 1, step.title());
            let begin = Instant::now();
            let undo: Undo = serde_json::from_value(undo).context("the journal's undo is not readable")?;
            crash::point("step to revert");
            let writes = step.undo_writes_database(context, &undo);
            let ours = if writes { self.fence(context) } else { Ok(()) };
            let result = ours.and_then(|()| step.revert(context, &undo));
            crash::point("step reverted");
            let milliseconds = begin.elapsed().as_millis();
            let mut end = |word, detail: &str| report(Progress::End { index, total, step, word, milliseconds, detail });
            match result {
                Ok(changed) => {
                    end(if changed { "undone" } else { "unchanged" }, "");
                    self.record(Event::StepReverted { step: index, changed })?;
                    self.state.step(index).reverted = true;
                }
                Err(error) => {
                    end("FAILED", &format!("{error:#}"));
                    if let Err(second) = self.record(Event::RevertFailed { step: index, error: format!("{error:#}") }) {
                        return Err(error.context(format!("{second:#}")));
                    }
                    return Err(error);
                }
            }
        }
        self.record(Event::Closed { outcome: Outcome::RolledBack })?;
        self.close(&context.host.root)
    }

    /// What ran when it was held, and was never stopped: it may have fallen since, or not have come back with the host.
    fn fallen(&self, steps: &[Step], index: usize) -> Option<Undo> {
        let before = index.checked_sub(1)?;
        match (steps.get(before), steps.get(index)) {
            (Some(Step::HoldUnits { .. }), Some(Step::StopUnits { units }))
                if !units.is_empty() && self.state.get(before).undo.is_some() =>
            {
                Some(Undo::Start { units: units.clone() })
            }
            _ => None,
        }
    }

    fn close(&mut self, root: &Root) -> Result<()> {
        crash::point("run closed");
        if let Some(Err(why)) = self.database.take().map(db::Lock::release) {
            // The run has ended all the same; the next one of this host takes the lock over.
            log::warn!("the lock of the database was not given back: {why}");
        }
        root.remove_link(&Path::new(journal::STATE).join("current"))
    }
}

/// The steps in the order in which they are undone: the last first, but units are free before they are started again.
fn backwards(steps: &[Step]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..steps.len()).rev().collect();
    let held = |index: usize| matches!(steps.get(index), Some(Step::HoldUnits { .. }));
    let stopped = |index: usize| matches!(steps.get(index), Some(Step::StopUnits { .. }));
    for at in 1..order.len() {
        if let (Some(&later), Some(&earlier)) = (order.get(at - 1), order.get(at))
            && stopped(later)
            && held(earlier)
        {
            order.swap(at - 1, at);
        }
    }
    order
}

/// Looks at a step; what somebody else changed is an error, never overwritten.
fn look(step: &Step, context: &mut Context<'_>) -> Result<Observed> {
    match step.observe(context)? {
        Observed::Foreign(reason) => bail!("{reason}"),
        seen => Ok(seen),
    }
}

/// From now on SIGTERM, SIGINT and SIGHUP end a run between two steps, never within one.
///
/// # Errors
/// If they cannot be handled.
pub fn stop_at_step_borders() -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            STOP.store(true, Ordering::SeqCst);
        }
    });
    Ok(())
}
