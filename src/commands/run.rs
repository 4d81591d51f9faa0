//! `upgrade` and `resume`: the verbs that change things, through the engine.

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;

use super::awaited;
use super::back::{back, rollback_failed};
use super::locks::Locks;
use super::look::{Look, look};
use super::plan::summary;
use super::proof::Proof;
use super::runs::{fit_record, following};
use super::{Outcome, Session, check, fetch, follow};
use crate::approval::Approval;
use crate::cli::{Target, Word};
use crate::db::position;
use crate::deployment::{Code, Deployment, Depth, Site, installed_code};
use crate::engine::{self, Ended, Progress, Run};
use crate::error::{Exit, Failure};
use crate::finding::Severity;
use crate::journal::{self, Lock, Phase, RunState};
use crate::kek::Survey;
use crate::plan::{Kind, Plan};
use crate::release::{Catalogue, Release};
use crate::request::Asked;
use crate::settings::Backup;
use crate::step::{BASELINE, CodeAwaited, Offer, Step, offered};
use crate::systemd::notify;
use crate::ui::Ui;

pub(super) fn upgrade(session: &mut Session, target: &Target, word: Word, yes: bool) -> Outcome {
    if let Some(followed) = follow::attached(session, target)? {
        return Ok(followed);
    }
    let locks = Locks::of(session.lock_alone("upgrade")?, word);
    looked_at(session, target, locks, yes, None)
}

/// `asked` is the digest of the plan that the operator said yes to, where this is the second look, under the lock.
fn looked_at(session: &mut Session, target: &Target, mut locks: Locks, yes: bool, asked: Option<&str>) -> Outcome {
    let mut look = look(session, target, Depth::Full)?;
    look.refuse_others(locks.word);
    session.ui.set("from", look.deployment.from.release.id.as_str());
    session.ui.set("to", look.to.id.as_str());
    if target.to.is_none() && look.deployment.code == crate::deployment::Code::None && !look.is_done() {
        let text = "no Barbican is installed here, so the release to go to must be said: --to RELEASE";
        return Err(Failure::usage(text).next(format!("upgrade --to {}", look.to.id)));
    }
    // Notes are for those who go somewhere.
    let only_notes = look.findings.iter().filter(|f| f.severity == Severity::Fail).all(|f| f.id == "notes");
    let done = look.is_done() && only_notes;
    if !done && (look.fails() > 0 || look.draft.is_err()) {
        return blocked(session, &look);
    }
    if done {
        session.ui.line(format!("Already at {}: nothing to do.", look.to.name));
        session.ui.set("changed", false);
        session.ui.set("state", "done");
        return Ok((Exit::Done, "status".to_owned()));
    }
    let (digest, writes) = look.draft.as_ref().map_or_else(|_| Default::default(), |d| (d.plan.digest(), d.writes));
    if session.shown.as_ref().is_some_and(|shown| *shown != digest) {
        let error = anyhow!("the plan changed while you were asked; nothing was done");
        let next = format!("upgrade {}", look.arguments());
        return Err(Failure::new(Exit::Blocked, error).hint("look at it anew, and say yes again").next(next));
    }
    if session.shown.is_none() && asked != Some(digest.as_str()) {
        summary(&mut session.ui, &look, session.host.settings.backup);
        if !session.confirm(yes, "Proceed?", &format!("upgrade {}", look.arguments()))? {
            session.ui.line("Nothing was done.");
            return Ok((Exit::Done, format!("plan {}", look.arguments())));
        }
    }
    if let Some(systemd) = follow::service(session)? {
        // While it still serves. What is held by hand does not, and has no time to lose.
        if look.deployment.held.is_empty() {
            fetch::fetch(session, look.to)?;
        }
        let asked = Asked::Upgrade { to: target.to.clone(), fast_forward: target.fast_forward, plan: digest };
        let word = locks.word;
        return follow::carried_out(session, &systemd, locks.host, asked, word);
    }
    if writes && locks.lock_database(&look.deployment.site, look.deployment.revision())? {
        session.ui.line("Another run had the database until now: looking again.");
        return looked_at(session, target, locks, yes, Some(&digest));
    }
    if writes {
        session.nobody_else(&look.deployment.site, locks.word, false)?;
    }
    carry_out(session, look, locks)
}

pub(super) fn carry_out(session: &mut Session, look: Look, locks: Locks) -> Outcome {
    let Look { deployment, draft, approval, .. } = look;
    let plan = draft.map_err(|e| Failure::new(Exit::Blocked, e))?.plan;
    let names = session.host.unit_names()?;
    if deployment.site.to_run(&session.host, &names)? != deployment.running {
        let error = anyhow!("services were started or stopped while you were asked");
        return Err(Failure::new(Exit::Blocked, error).next("upgrade"));
    }
    let (by, accepted) = match approval {
        Some(approval) if approval.by == session.by => (session.by.clone(), approval.accepted),
        Some(approval) => (format!("{}, approved by {}", session.by, approval.by), approval.accepted),
        None => (session.by.clone(), Vec::new()),
    };
    begin(session, locks, plan, deployment, &accepted, &by)
}

/// Refuses, and says why.
fn blocked(session: &mut Session, look: &Look) -> Outcome {
    let way = format!("{} -> {}", look.deployment.from.release.name, look.to.name);
    session.ui.line(format!("REFUSED: {way}. Nothing was stopped, nothing was changed."));
    session.ui.line("");
    check::show(&mut session.ui, look);
    session.ui.set("state", "refused");
    session.ui.set("changed", false);
    session.ui.set("findings", serde_json::json!(look.findings));
    session.ui.line("");
    let next = check::next(look);
    Ok((Exit::Blocked, next))
}

/// Opens a run for `plan` on what was looked at, and carries it out.
pub(super) fn begin(
    session: &mut Session,
    locks: Locks,
    plan: Plan,
    deployment: Deployment,
    accepted: &[String],
    by: &str,
) -> Outcome {
    let baseline = deployment.survey.as_ref().map_err(|why| Failure::new(Exit::Blocked, anyhow!(why.clone())))?;
    engine::stop_at_step_borders().context("handling signals")?;
    let mut run = Run::begin(&session.host.root, locks.host, plan, baseline, accepted, by)?;
    run.code_was_there = deployment.code.is(&run.plan.to);
    run.guard(locks.database, locks.word.writers_stopped, &session.by).map_err(|e| open(e.into()))?;
    // The operator's word is for one run.
    Approval::spend(&session.host.root).map_err(|e| open(e.into()))?;
    super::hook::opened(session, &run.id).map_err(open)?;
    forward(session, run, deployment.site, true).map_err(open)
}

/// With a run open the host is not as before, whatever failed.
pub(super) fn open(failure: Failure) -> Failure {
    let undone = failure.next == "check" && !failure.hints.is_empty();
    if failure.exit != Exit::Failed || undone || failure.error.is::<journal::Error>() {
        return failure;
    }
    Failure { exit: Exit::Interrupted, ..failure }
        .hint("a run is open, and services may be held: repair that, then keymgr-upgrade resume, or rollback")
        .next("status")
}

/// `fresh`: the run began just now, so that a failure before anything was changed is undone by itself.
/// Which run, and between which releases.
pub(super) fn about(ui: &mut Ui, run: &Run) {
    ui.set("run", run.id.as_str());
    for (name, release) in [("from", &run.plan.from), ("to", &run.plan.to)] {
        if !release.is_empty() {
            ui.set(name, release.as_str());
        }
    }
}

fn forward(session: &mut Session, mut run: Run, mut site: Site, fresh: bool) -> Outcome {
    run.code_by_others = session.code_by_others;
    loop {
        let Session { host, ui, .. } = &mut *session;
        let ended = run.forward(&mut run.context(host, &mut site), &mut |p| report(ui, &p));
        about(&mut session.ui, &run);
        session.ui.set("changed", true);
        return match ended? {
            Ended::Done => {
                if run.plan.kind == Kind::Db {
                    fit_record(session, &site)?;
                }
                if run.plan.kind == Kind::Hex {
                    super::hex::more_to_come(session, &site)?;
                }
                done(session, &run, &site)
            }
            Ended::Code => {
                if run.code_was_there && !run.code_came {
                    // Nothing is otherwise than it was planned on, a moment ago.
                    continue;
                }
                if run.code_came {
                    session.host.look_anew();
                }
                let reached = awaited::wait(session, &mut site);
                recorded(&mut run, reached)?;
                let planned = replan(session, &mut run, false);
                recorded(&mut run, planned)?;
                continue;
            }
            Ended::Waiting(release) => waiting(session, &release),
            Ended::Stopped { step } => {
                session.ui.set("state", "interrupted");
                let held = !crate::units::all_held(&session.host.root)?.is_empty();
                let services = if held { "Services stay held" } else { "Services are not held" };
                session.ui.line(format!("Stopped before step {}, as asked. {services}.", step + 1));
                Ok((Exit::Interrupted, "resume".to_owned()))
            }
            Ended::Failed { step, error } => failed(session, run, site, step, fresh, error),
        };
    }
}

/// The progress of a run, for who reads it and for `systemctl status`.
pub(super) fn report(ui: &mut Ui, progress: &Progress<'_>) {
    if let Progress::Begin { index, total, step } = progress {
        notify::status(&format!("step {} of {total}: {}", index + 1, step.title()));
    }
    ui.progress(progress);
}

fn done(session: &mut Session, run: &Run, site: &Site) -> Outcome {
    let plan = &run.plan;
    session.ui.set("state", "done");
    let what = match plan.kind {
        Kind::Upgrade => format!("Done: {}", Catalogue::embedded()?.by_id(&plan.to).map_or("", |r| r.name.as_str())),
        Kind::Db => "Done: the schema".to_owned(),
        Kind::Kek => "Done: the KEKs".to_owned(),
        Kind::Hex => "Done: the hexadecimal text".to_owned(),
        Kind::Config => "Done: the files".to_owned(),
    };
    let proof = Proof::of(run, site, &session.host);
    session.ui.set("proved", json!(proof.proved));
    session.ui.set("not_proved", json!(proof.not_proved));
    session.ui.paragraph(&proof.line(&what), 0);
    if let Err(failure) = super::backup::prune(session, None) {
        // The run is done; that old copies stay is not its failure.
        session.ui.line(format!("Old backups were not removed: {:#}", failure.error));
    }
    let next = match Catalogue::embedded()?.by_id(&plan.to) {
        Some(now) => following(now).map_or_else(|| "status".to_owned(), |r| format!("check --to {}", r.id)),
        None => "status".to_owned(),
    };
    Ok((Exit::Done, next))
}

fn waiting(session: &mut Session, release: &str) -> Outcome {
    let there = match installed_code(&session.host.root, &session.host.settings)? {
        Code::None => "no code is installed".to_owned(),
        Code::Mixed(words) => format!("half way: {words}"),
        Code::At { version, release: Some(id), .. } => format!("now there: {version} ({id})"),
        Code::At { version, .. } => format!("now there: {version}, which is not known"),
    };
    session.ui.set("state", "waiting");
    session.ui.set("waiting_for", release);
    session.ui.line(format!("WAITING for the code of {release}; {there}."));
    if session.host.root.is_host()
        && let Ok(Offer::Missing(packages)) = offered(&session.host.root, release)
    {
        session.ui.paragraph(&format!("apt offers none of {release} for {}.", packages.join(" ")), 0);
    }
    session.ui.line("Services are held. Install it now, with its dependencies; they cannot start.");
    Ok((Exit::Interrupted, "resume   (when the code is installed)".to_owned()))
}

/// Before anything was changed a failure is undone by itself; afterwards the operator decides.
fn failed(
    session: &mut Session,
    mut run: Run,
    mut site: Site,
    step: usize,
    fresh: bool,
    error: anyhow::Error,
) -> Outcome {
    if !fresh || run.has_acted() {
        session.ui.set("state", "interrupted");
        let released = run.plan.steps.iter().take(step).any(|s| matches!(s, Step::UnholdUnits { .. }));
        let verified = matches!(run.plan.steps.get(step), Some(Step::VerifyService { .. }));
        session.ui.line(match (run.plan.kind, released) {
            (Kind::Upgrade, false) => "STOPPED HALF WAY. Barbican is held down on purpose.",
            (Kind::Upgrade, true) if verified => {
                "STOPPED AT THE END. Data and files are done; the services do not serve yet."
            }
            (Kind::Upgrade, true) => "STOPPED AT THE END. Data and files are done; services did not all start.",
            _ => "STOPPED HALF WAY.",
        });
        return Err(Failure::new(Exit::Interrupted, error)
            .hint("repair that, then: keymgr-upgrade resume (it looks at every step first)")
            .hint("or go back: keymgr-upgrade rollback")
            .hint("do not run barbican-db-manage, and do not remove /var/lib/keymgr-upgrade")
            .next("status"));
    }
    session.ui.line("Failed before anything was changed: undoing.");
    let Session { host, ui, .. } = &mut *session;
    let why = "failed before anything was changed";
    let back = run.back(&mut run.context(host, &mut site), why, &mut |p| report(ui, &p));
    match back {
        Ok(()) => {
            session.ui.set("state", "rolled-back");
            Err(Failure::new(Exit::Failed, error).hint("everything is as it was before").next("check"))
        }
        Err(second) if second.is::<CodeAwaited>() => {
            Err(Failure::new(Exit::Interrupted, error.context(format!("{second}")))
                .next("rollback   (when it is installed)"))
        }
        Err(second) => Err(rollback_failed(error.context(format!("undoing failed too: {second:#}")))),
    }
}

/// The site as the release reads it that the run comes from; rows and files may already be further. A transaction that a crash left half way is
/// settled: SQLite undoes it when the file is opened for writing.
pub(super) fn site(session: &mut Session, Run { plan, .. }: &Run) -> Result<Site, Failure> {
    session.host.settings.config_file.clone_from(&plan.config_file);
    let site = match Catalogue::embedded()?.by_id(&plan.from) {
        Some(release) => Site::load(&session.host, &session.host.config()?, release)?,
        None => super::any_site(session)?,
    };
    plan.same_database(&session.host, &site)?;
    site.settle()?;
    Ok(site)
}

/// The lock of the database, where the run needs it, and the operator's word on other writers.
pub(super) fn guard(session: &Session, run: &mut Run, site: &Site, word: Word) -> Result<(), Failure> {
    let lock = if run.needs_lock() { site.lock(Some(&run.id))? } else { None };
    Ok(run.guard(lock, word.writers_stopped, &session.by)?)
}

/// The lock, to go on with a run or to undo it.
pub(super) fn locked(session: &Session, what: &str) -> Result<Lock, Failure> {
    let opened = journal::current(&session.host.root).is_some();
    session.lock(what).map_err(|failure| if opened { open(failure) } else { failure })
}

pub(super) fn resume(session: &mut Session, accept_changes: bool, word: Word) -> Outcome {
    let lock = locked(session, "resume")?;
    let Some((id, state)) = session.open_run()? else {
        session.ui.line("No run is open.");
        session.ui.set("changed", false);
        return Ok((Exit::Done, "status".to_owned()));
    };
    if let Some(systemd) = follow::service(session)? {
        return follow::carried_out(session, &systemd, lock, Asked::Resume { accept_changes }, word);
    }
    engine::stop_at_step_borders().context("handling signals")?;
    taken_up(session, Locks::of(lock, word), &id, &state, accept_changes).map_err(open)
}

fn taken_up(session: &mut Session, locks: Locks, id: &str, state: &RunState, accept_changes: bool) -> Outcome {
    let word = locks.word;
    let mut run = Run::reopen(&session.host.root, locks.host, id)?;
    // Killed between the opening of the run and this, it would be left for another one.
    Approval::spend(&session.host.root)?;
    if state.phase == Phase::RollingBack {
        session.ui.line(format!("Run {id} was going back; it goes on doing that."));
        return back(session, run, word, "resumed");
    }
    let mut site = site(session, &run)?;
    let code = run.plan.code();
    let in_second = code.is_some_and(|c| run.state.get(c).done.is_some());
    let arrived = code.is_some_and(|c| run.state.get(c).undo.is_some()) && has_code(session, &run.plan.to)?;
    if in_second || arrived {
        // These are planned where the database has keys of a token.
        if run.plan.steps.iter().any(|step| matches!(step, Step::ResignKeks | Step::RecordMechanism)) {
            site.open_token_meanwhile();
        }
        let reached = awaited::wait(session, &mut site);
        recorded(&mut run, reached)?;
    }
    guard(session, &mut run, &site, word)?;
    let acted = code.is_some_and(|c| (c + 1..run.plan.steps.len()).any(|i| run.state.get(i).undo.is_some()));
    if in_second && !acted {
        let planned = replan(session, &mut run, accept_changes);
        recorded(&mut run, planned)?;
    }
    forward(session, run, site, false)
}

/// Keeps why the second half cannot begin, for `status` to say.
fn recorded<E: Into<Failure>>(run: &mut Run, result: Result<(), E>) -> Result<(), Failure> {
    let result = result.map_err(Into::into);
    if let (Err(failure), Some(code)) = (&result, run.plan.code()) {
        run.failed(code + 1, &failure.error)?;
    }
    result
}

/// Whether the code of this release is installed.
fn has_code(session: &Session, release: &str) -> Result<bool, Failure> {
    Ok(installed_code(&session.host.root, &session.host.settings)?.is(release))
}

/// The titles of those steps that are of no kind of the others.
fn of_other_kinds(steps: &[Step], others: &[Step]) -> Vec<String> {
    let kinds: Vec<_> = others.iter().map(std::mem::discriminant).collect();
    steps.iter().filter(|s| !kinds.contains(&std::mem::discriminant(*s))).map(Step::title).collect()
}

/// Refuses steps that change more of the schema than the first half took a copy of, unless there is to be none.
fn copied(first: &[Step], new: &[Step], wanted: Backup) -> anyhow::Result<()> {
    let way =
        |s: &Step| if let Step::MigrateSchema { from, to, .. } = s { Some((from.clone(), to.clone())) } else { None };
    let ways: Vec<_> = new.iter().filter_map(way).collect();
    let (Some((from, _)), Some((_, to)), true) = (ways.first(), ways.last(), wanted != Backup::None) else {
        return Ok(());
    };
    let copy = |s: &Step| if let Step::BackUpDatabase { touched } = s { Some(touched.clone()) } else { None };
    match first.iter().find_map(copy) {
        None => bail!("the schema has to be migrated now, and no copy was taken: go back, and upgrade again"),
        Some(Some((begin, end))) if position(from)? < position(&begin)? || position(to)? > position(&end)? => {
            bail!("more of the schema has to be migrated now than was copied: go back, and upgrade again")
        }
        Some(_) => Ok(()),
    }
}

/// Plans the second half again, on the facts that the new code brought. Stops if it asks for a kind of step that was not shown, or if one that was
/// shown is gone for any other reason than that somebody else has done it.
fn replan(session: &mut Session, run: &mut Run, accept_changes: bool) -> Result<(), Failure> {
    let Some(code) = run.plan.code() else { return Ok(()) };
    let catalogue = Catalogue::embedded()?;
    let from = catalogue.by_id(&run.plan.from).context("the run comes from no known release")?;
    let baseline = Survey::kept(&session.host.root, &run.directory, BASELINE)?;
    let mut deployment = Deployment::look_in_run(&session.host, from, baseline)?;
    // What ran before is what the first half recorded, not what runs now.
    let ran = |s: &Step| if let Step::StartUnits { units } = s { Some(units.clone()) } else { None };
    deployment.running = run.plan.steps.iter().find_map(ran).unwrap_or_default();
    deployment.start.clone_from(&deployment.running);
    let path: Vec<&'static Release> = run.plan.path.iter().filter_map(|id| catalogue.by_id(id)).collect();
    let stop =
        |error: anyhow::Error| Failure::new(Exit::Interrupted, error).hint("or go back: keymgr-upgrade rollback");
    super::notes::approved(session, run, &catalogue.notes(from, &path, &deployment.facts), accept_changes)?;
    let draft = crate::plan::upgrade(&deployment, &session.host, &path)?;
    if let Some(why) = draft.unknown.as_ref() {
        return Err(stop(anyhow!("{why}")).next("resume   (when that is repaired)"));
    }
    if let Some(conflict) = draft.conflicts.first() {
        return Err(stop(conflict.clone().into()).next("resume"));
    }
    let after = draft.plan.code().map_or(0, |i| i + 1);
    let mut new: Vec<Step> = draft.plan.steps.iter().skip(after).cloned().collect();
    awaited::with_new_units(&mut new, &session.host.unit_names()?, run.plan.steps.get(..=code).unwrap_or_default());
    let old: Vec<Step> = run.plan.steps.iter().skip(code + 1).cloned().collect();
    if new == old {
        return Ok(());
    }
    let revision = deployment.revision();
    let done_by_others = |step: &Step| match step {
        Step::MigrateSchema { to, .. } => revision.is_some_and(|now| position(now).ok() >= position(to).ok()),
        Step::EditFile { .. } => session.host.settings.edit_files,
        _ => false,
    };
    let gone = of_other_kinds(&old.iter().filter(|s| !done_by_others(s)).cloned().collect::<Vec<_>>(), &new);
    if !gone.is_empty() {
        return Err(stop(anyhow!(
            "steps that were planned are gone: {}; put settings and data back as they were",
            gone.join(", ")
        ))
        .next("status"));
    }
    let first = run.plan.steps.get(..=code).unwrap_or_default();
    copied(first, &new, session.host.settings.backup).map_err(|why| stop(why).next("rollback"))?;
    for step in new.iter().filter(|s| !old.contains(s)) {
        session.ui.line(format!("changed by the new code: {}", step.title()));
    }
    // What only looks, or holds more, may be added by a newer version of this program or of Barbican's packages.
    let harmless = |s: &Step| matches!(s, Step::VerifyService { .. } | Step::HoldUnits { .. } | Step::StopUnits { .. });
    let added = of_other_kinds(&new.iter().filter(|s| !harmless(s)).cloned().collect::<Vec<_>>(), &old);
    if !added.is_empty() && !accept_changes {
        return Err(stop(anyhow!("the new code asks for steps that were not planned: {}", added.join(", ")))
            .hint("accept them: keymgr-upgrade resume --accept-changes")
            .next("status"));
    }
    let mut steps: Vec<Step> = run.plan.steps.iter().take(code + 1).cloned().collect();
    steps.extend(new);
    let plan = Plan { steps, ..run.plan.clone() };
    Ok(run.replan(&session.host.root, plan)?)
}
