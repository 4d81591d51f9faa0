//! `upgrade`, `resume`, `rollback`: the verbs that change things, through the engine.

use anyhow::anyhow;

use super::look::{Look, look};
use super::plan::{summary, who};
use super::runs::following;
use super::{Outcome, Session, check};
use crate::approval::Approval;
use crate::cli::Target;
use crate::db::Access;
use crate::deployment::{Deployment, Depth, Site};
use crate::engine::{Ended, Run};
use crate::error::{Exit, Failure};
use crate::journal::{self, Journal, Lock, Phase, RunState};
use crate::plan::{Kind, Plan};
use crate::release::{Catalogue, Release};
use crate::step::{CodeAwaited, Step, Undo};

pub(super) fn upgrade(session: &mut Session, target: &Target, yes: bool) -> Outcome {
    let lock = session.lock_alone("upgrade")?;
    let look = look(session, target, Depth::Full)?;
    if target.to.is_none() && look.deployment.code == crate::deployment::Code::None && !look.is_done() {
        let text = "no Barbican is installed here, so the release to go to must be said: --to RELEASE";
        return Err(Failure::usage(text).next(format!("upgrade --to {}", look.to.id)));
    }
    if look.fails() > 0 || look.draft.is_err() {
        return blocked(session, &look);
    }
    if look.is_done() {
        session.ui.line(format!("Already at {}: nothing to do.", look.to.name));
        session.ui.set("changed", false);
        session.ui.set("state", "done");
        return Ok((Exit::Done, "status".to_owned()));
    }
    summary(&mut session.ui, &look);
    if !session.confirm(yes, "Proceed?")? {
        session.ui.line("Nothing was done.");
        return Ok((Exit::Done, format!("plan {}", look.arguments())));
    }
    let Look { deployment, draft, approval, .. } = look;
    let plan = draft.map_err(|e| Failure::new(Exit::Blocked, e))?.plan;
    let by = approval.map_or_else(who, |a| format!("{}, approved by {}", who(), a.by));
    begin(session, lock, plan, deployment, &by)
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
    let next = match &look.draft {
        Err(_) => "notes".to_owned(),
        Ok(_) if look.findings.iter().any(|f| f.id == "notes" && f.severity == crate::finding::Severity::Fail) => {
            format!("approve {}", look.arguments())
        }
        Ok(_) => format!("check {}", look.arguments()),
    };
    Ok((Exit::Blocked, next))
}

/// Opens a run for `plan` on what was looked at, and carries it out.
pub(super) fn begin(session: &mut Session, lock: Lock, plan: Plan, deployment: Deployment, by: &str) -> Outcome {
    begin_anew(session, lock, plan, deployment, by).map_err(|failure| while_open(session, failure))
}

/// Once a run is open no failure leaves the host as it was before.
fn while_open(session: &Session, failure: Failure) -> Failure {
    if failure.exit != Exit::Failed || journal::current(&session.host.root).is_none() {
        return failure;
    }
    interrupted(failure.error)
}

fn interrupted(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Interrupted, error)
        .hint("repair that, then: keymgr-upgrade resume (it looks at every step first)")
        .hint("or go back: keymgr-upgrade rollback")
        .hint("do not start barbican, run barbican-db-manage, or remove /var/lib/keymgr-upgrade")
        .next("status")
}

fn begin_anew(session: &mut Session, lock: Lock, plan: Plan, deployment: Deployment, by: &str) -> Outcome {
    let baseline = match &deployment.survey {
        Ok(survey) => serde_json::to_string(survey).map_err(anyhow::Error::from)?,
        Err(why) => return Err(Failure::new(Exit::Blocked, anyhow!(why.clone()))),
    };
    let run = Run::begin(&session.host.root, lock, plan, &baseline, by)?;
    // The operator's word is for one run.
    Approval::spend(&session.host.root)?;
    forward(session, run, deployment.site)
}

fn forward(session: &mut Session, mut run: Run, mut site: Site) -> Outcome {
    loop {
        let Session { host, ui, .. } = &mut *session;
        let ended = run.forward(&mut run.context(host, &mut site), &mut |p| ui.progress(&p));
        session.ui.set("run", run.id.as_str());
        session.ui.set("changed", true);
        return match ended? {
            Ended::Done => done(session, &run),
            Ended::Code => {
                replan(session, &mut run, false)?;
                continue;
            }
            Ended::Waiting(release) => Ok(waiting(session, &release)),
            Ended::Stopped { step } => {
                session.ui.set("state", "interrupted");
                session.ui.line(format!("Stopped before step {}, as asked. Services stay held.", step + 1));
                Ok((Exit::Interrupted, "resume".to_owned()))
            }
            Ended::Failed { step, error } => failed(session, run, site, step, error),
        };
    }
}

fn done(session: &mut Session, run: &Run) -> Outcome {
    let plan = &run.plan;
    session.ui.set("state", "done");
    let details = |wanted: &dyn Fn(&Step) -> bool| {
        let index = plan.steps.iter().position(wanted)?;
        run.state.get(index).done.map(|(_, detail)| detail)
    };
    let what = match plan.kind {
        Kind::Upgrade => format!("Done: {}", Catalogue::embedded()?.by_id(&plan.to).map_or("", |r| r.name.as_str())),
        Kind::Db => "Done: the schema".to_owned(),
        Kind::Kek => "Done: the KEKs".to_owned(),
        Kind::Config => "Done: the files".to_owned(),
    };
    let proof =
        details(&|s| matches!(s, Step::VerifySecrets)).map_or(String::new(), |d| format!(" Proved: {d} decrypted."));
    session.ui.set("proved", proof.trim());
    session.ui.paragraph(&format!("{what}.{proof}"), 0);
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

fn waiting(session: &mut Session, release: &str) -> (Exit, String) {
    session.ui.set("state", "waiting");
    session.ui.set("waiting_for", release);
    session.ui.line(format!("WAITING for the code of {release}: services are stopped and held, the backup is taken."));
    session.ui.line("Install it now, with its dependencies. Its services cannot start meanwhile.");
    (Exit::Interrupted, "resume   (when the code is installed)".to_owned())
}

/// Before the code changed a failure is undone by itself; afterwards the operator decides.
fn failed(session: &mut Session, mut run: Run, mut site: Site, step: usize, error: anyhow::Error) -> Outcome {
    let harmless = |s: &Step| matches!(s, Step::StopUnits { .. } | Step::HoldUnits { .. } | Step::BackUpDatabase);
    if !run.plan.steps.iter().take(step + 1).all(harmless) {
        session.ui.set("state", "interrupted");
        session.ui.line("STOPPED HALF WAY. Barbican is held down on purpose.");
        return Err(interrupted(error));
    }
    session.ui.line("Failed before the code was changed: undoing.");
    let Session { host, ui, .. } = &mut *session;
    let why = "failed before the code was changed";
    let back = run.back(&mut run.context(host, &mut site), why, &mut |p| ui.progress(&p));
    match back {
        Ok(()) => {
            session.ui.set("state", "rolled-back");
            Err(Failure::new(Exit::Failed, error).hint("everything is as it was before").next("check"))
        }
        Err(second) => Err(rollback_failed(error.context(format!("undoing failed too: {second:#}")))),
    }
}

fn rollback_failed(error: anyhow::Error) -> Failure {
    Failure::new(Exit::RollbackFailed, error)
        .hint("repair that, then: keymgr-upgrade rollback (it goes on where it stopped)")
        .hint("or by hand: backup/RESTORE.txt in the run directory")
        .next("status")
}

/// The site as the release reads it that the run comes from; rows and files may already be further.
fn site(session: &Session, plan: &Plan) -> Result<Site, Failure> {
    let config = session.host.config()?;
    let catalogue = Catalogue::embedded()?;
    let release = match catalogue.by_id(&plan.from) {
        Some(release) => release,
        // A run of one part is not between releases: then it is the one that the data is at.
        None => {
            let said = session.global.from.as_deref();
            return Ok(Deployment::look(&session.host, said, Depth::Shallow)?.site);
        }
    };
    Ok(Site::load(&session.host, &config, release)?)
}

pub(super) fn resume(session: &mut Session, accept_changes: bool) -> Outcome {
    go_on(session, accept_changes).map_err(|failure| while_open(session, failure))
}

/// Opens a run again, and settles what the death of the process that worked on it left.
fn reopen(session: &Session, lock: Lock, id: &str) -> Result<Run, Failure> {
    let run = Run::reopen(&session.host.root, lock, id)?;
    let release = Catalogue::embedded()?.by_id(&run.plan.from);
    let site = match release {
        Some(release) => Site::load(&session.host, &session.host.config()?, release)?,
        None => super::any_site(session)?,
    };
    site.settle()?;
    if journal::current(&session.host.root).is_some() {
        Approval::spend(&session.host.root)?;
    }
    Ok(run)
}

fn go_on(session: &mut Session, accept_changes: bool) -> Outcome {
    let lock = session.lock("resume")?;
    let Some((id, state)) = session.open_run()? else {
        session.ui.line("No run is open.");
        return Ok((Exit::Done, "status".to_owned()));
    };
    let mut run = reopen(session, lock, &id)?;
    if state.phase == Phase::RollingBack {
        session.ui.line(format!("Run {id} was going back; it goes on doing that."));
        return back(session, run, "resumed");
    }
    let code = run.plan.code();
    let in_second = code.is_some_and(|c| run.state.get(c).done.is_some());
    let acted = code.is_some_and(|c| (c + 1..run.plan.steps.len()).any(|i| run.state.get(i).undo.is_some()));
    if in_second && !acted && run.state.replanned.is_none() {
        replan(session, &mut run, accept_changes)?;
    }
    let site = site(session, &run.plan)?;
    forward(session, run, site)
}

/// Plans the second half again, on the facts that the new code brought, and stops if it asks for a kind of step that was not shown.
fn replan(session: &mut Session, run: &mut Run, accept_changes: bool) -> Result<(), Failure> {
    let Some(code) = run.plan.code() else { return Ok(()) };
    let mut deployment = Deployment::look(&session.host, Some(&run.plan.from), Depth::Full)?;
    // What ran before is what the first half recorded, not what runs now.
    deployment.running = run
        .plan
        .steps
        .iter()
        .find_map(|s| match s {
            Step::StopUnits { units } => Some(units.clone()),
            _ => None,
        })
        .unwrap_or_default();
    let catalogue = Catalogue::embedded()?;
    let path: Vec<&'static Release> = run.plan.path.iter().filter_map(|id| catalogue.by_id(id)).collect();
    let draft = crate::plan::upgrade(&deployment, &session.host, &path)?;
    if let Some(conflict) = draft.conflicts.first() {
        return Err(Failure::new(Exit::Interrupted, conflict.clone()).next("resume"));
    }
    let after = draft.plan.steps.iter().position(|s| matches!(s, Step::AwaitCode { .. })).map_or(0, |i| i + 1);
    let new: Vec<Step> = draft.plan.steps.iter().skip(after).cloned().collect();
    let old: Vec<Step> = run.plan.steps.iter().skip(code + 1).cloned().collect();
    if new == old {
        return Ok(());
    }
    let kind = |s: &Step| std::mem::discriminant(s);
    let kinds: Vec<_> = old.iter().map(kind).collect();
    let added: Vec<String> = new.iter().filter(|s| !kinds.contains(&kind(s))).map(Step::title).collect();
    for step in new.iter().filter(|s| !old.contains(s)) {
        session.ui.line(format!("changed by the new code: {}", step.title()));
    }
    if !added.is_empty() && !accept_changes {
        let error = anyhow!("the new code asks for steps that were not planned: {}", added.join(", "));
        return Err(Failure::new(Exit::Interrupted, error)
            .hint("accept them: keymgr-upgrade resume --accept-changes")
            .hint("or go back: keymgr-upgrade rollback")
            .next("status"));
    }
    let mut steps: Vec<Step> = run.plan.steps.iter().take(code + 1).cloned().collect();
    steps.extend(new);
    let plan = Plan { steps, ..run.plan.clone() };
    Ok(run.replan(&session.host.root, plan)?)
}

pub(super) fn rollback(session: &mut Session, discard_new_data: bool, yes: bool) -> Outcome {
    go_back(session, discard_new_data, yes).map_err(|failure| while_open(session, failure))
}

fn go_back(session: &mut Session, discard_new_data: bool, yes: bool) -> Outcome {
    let lock = session.lock("rollback")?;
    let id = match journal::current(&session.host.root) {
        Some(id) => id,
        None => match last_done(session)? {
            Some(id) => id,
            None => {
                session.ui.line("There is no run to undo.");
                return Ok((Exit::Done, "status".to_owned()));
            }
        },
    };
    let run = reopen(session, lock, &id)?;
    let site = site(session, &run.plan)?;
    if !discard_new_data && let Some(why) = new_data(&run, &site)? {
        return Err(Failure::new(Exit::Blocked, anyhow!("{why}"))
            .hint("keep them: stay on the new release")
            .hint("or lose them: keymgr-upgrade rollback --discard-new-data")
            .next("status"));
    }
    session.ui.line(format!("Undoing run {id}: data and files as they were when it began."));
    if !session.confirm(yes, "Proceed?")? {
        session.ui.line("Nothing was done.");
        return Ok((Exit::Done, "status".to_owned()));
    }
    drop(site);
    back(session, run, &format!("asked by {}", who()))
}

/// The last run, if it is done and not undone.
fn last_done(session: &Session) -> Result<Option<String>, Failure> {
    let Some(id) = journal::runs(&session.host.root)?.pop() else { return Ok(None) };
    let state = RunState::replay(&Journal::read(&session.host.root, &journal::run_directory(&id))?);
    Ok((state.phase == Phase::Done).then_some(id))
}

/// What would be lost: the database was written to since the services could start again.
fn new_data(run: &Run, site: &Site) -> Result<Option<String>, Failure> {
    if run.state.phase == Phase::RollingBack {
        // Decided when the rollback began; since then it is the rollback itself that writes.
        return Ok(None);
    }
    let released = run.plan.steps.iter().position(|s| matches!(s, Step::UnholdUnits { .. }));
    let Some(undo) = released.and_then(|i| run.state.get(i).undo) else { return Ok(None) };
    let Ok(Undo::Unhold { fingerprint: Some(then) }) = serde_json::from_value(undo) else { return Ok(None) };
    let restores =
        run.plan.steps.iter().enumerate().any(|(i, s)| s.writes_database() && run.state.get(i).undo.is_some());
    let now = site.open(Access::ReadOnly)?.fingerprint().map_err(anyhow::Error::from)?;
    let text = "the database was written to since the services could start again; a rollback would lose that";
    Ok((restores && now != then).then(|| text.to_owned()))
}

fn back(session: &mut Session, mut run: Run, why: &str) -> Outcome {
    let mut site = site(session, &run.plan)?;
    let Session { host, ui, .. } = &mut *session;
    let result = run.back(&mut run.context(host, &mut site), why, &mut |p| ui.progress(&p));
    session.ui.set("run", run.id.as_str());
    session.ui.set("changed", true);
    match result {
        Ok(()) => {
            session.ui.set("state", "rolled-back");
            session.ui.line("Rolled back: data and files are as they were before.");
            Ok((Exit::Done, "check".to_owned()))
        }
        Err(error) if error.is::<CodeAwaited>() => {
            session.ui.set("state", "awaiting-code");
            session.ui.line(format!("{error}"));
            Ok((Exit::Interrupted, "rollback   (when the old code is installed)".to_owned()))
        }
        Err(error) => Err(rollback_failed(error)),
    }
}
