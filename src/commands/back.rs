//! `rollback`: undoing a run, or leaving it.

use anyhow::{Context as _, anyhow};

use super::follow;
use super::locks::Locks;
use super::run::{about, guard, locked, open, report, site};
use super::runs::{self, fit_record};
use super::{Outcome, Session};
use crate::approval::Approval;
use crate::cli::Word;
use crate::db::{Access, Ledger};
use crate::deployment::{Held, Site, held_path};
use crate::engine::{self, Run};
use crate::error::{Exit, Failure};
use crate::journal::{self, Journal, Phase, RunState};
use crate::request::Asked;
use crate::step::{CodeAwaited, NewData, Offer, Step, Undo, has_moved, offered};

pub(super) fn rollback_failed(error: anyhow::Error) -> Failure {
    Failure::new(Exit::RollbackFailed, error)
        .hint("repair that, then: keymgr-upgrade rollback (it goes on where it stopped)")
        .hint("or by hand: backup/RESTORE.txt in the run directory")
        .next("status")
}

pub(super) fn rollback(session: &mut Session, discard_new_data: bool, abandon: bool, word: Word, yes: bool) -> Outcome {
    let lock = locked(session, "rollback")?;
    let open_run = journal::current(&session.host.root);
    if abandon {
        return self::abandon(session, open_run, yes);
    }
    let Some(id) = open_run.clone().map_or_else(|| last_done(session), |id| Ok(Some(id)))? else {
        session.ui.line("There is no run to undo.");
        session.ui.set("changed", false);
        return Ok((Exit::Done, "status".to_owned()));
    };
    let result = undo(session, Locks::of(lock, word), &id, discard_new_data, yes);
    if open_run.is_some() { result.map_err(open) } else { result }
}

fn undo(session: &mut Session, locks: Locks, id: &str, discard_new_data: bool, yes: bool) -> Outcome {
    let word = locks.word;
    let mut run = Run::reopen(&session.host.root, locks.host, id)?;
    if !matches!(run.state.phase, Phase::Done | Phase::RolledBack) {
        Approval::spend(&session.host.root)?;
    }
    let mut site = site(session, &run)?;
    if run.state.phase != Phase::RollingBack {
        if run.has_written() && !run.state.writers_stopped {
            session.nobody_else(&site, word, false)?;
        }
        preflight(session, &run, &mut site)?;
        if !discard_new_data {
            new_data(session, &run, &site)?;
        }
    }
    if !session.in_service {
        session.ui.line(format!("Undoing run {id}: data and files as they were when it began."));
    }
    if !session.confirm(yes, "Proceed?", "rollback")? {
        session.ui.line("Nothing was done.");
        return Ok((Exit::Done, "status".to_owned()));
    }
    drop(site);
    if let Some(systemd) = follow::service(session)? {
        let asked = Asked::Rollback { discard_new_data };
        return follow::carried_out(session, &systemd, run.leave(), asked, word);
    }
    run.discard = discard_new_data;
    engine::stop_at_step_borders().context("handling signals")?;
    let why = format!("asked by {}", session.by);
    back(session, run, word, &why)
}

/// Looks whether every step can be undone, before any is.
fn preflight(session: &Session, run: &Run, site: &mut Site) -> Result<(), Failure> {
    let mut context = run.context(&session.host, site);
    for (index, step) in run.plan.steps.iter().enumerate() {
        let Some(undo) = run.state.get(index).undo else { continue };
        let undo: Undo = serde_json::from_value(undo).map_err(anyhow::Error::from)?;
        step.can_revert(&mut context, &undo).map_err(|error| {
            Failure::new(Exit::Blocked, error).hint("nothing was undone; repair that first").next("status")
        })?;
    }
    Ok(())
}

/// Leaves a run alone whose directory is lost or damaged: what it did stays as it is, and so do the holds.
fn abandon(session: &mut Session, run: Option<String>, yes: bool) -> Outcome {
    let Some(id) = run else {
        session.ui.line("No run is open.");
        return Ok((Exit::Done, "status".to_owned()));
    };
    session.ui.paragraph(
        &format!("Run {id} will be left as it is: nothing is undone, services stay held. See what it did in its directory first."),
        0,
    );
    if !session.confirm(yes, "Abandon it?", "rollback --abandon")? {
        return Ok((Exit::Done, "status".to_owned()));
    }
    // The hold lasts as one by hand does: what ran before is started in the end of it.
    let root = &session.host.root;
    if let Ok((plan, _)) = runs::load(session, &id)
        && !root.exists(&held_path())
    {
        let ran = |s: &Step| if let Step::StopUnits { units } = s { Some(units.clone()) } else { None };
        let running = plan.steps.iter().find_map(ran).unwrap_or_default();
        let held = Held { format: 1, running };
        root.write(&held_path(), &serde_json::to_vec_pretty(&held).map_err(anyhow::Error::from)?, journal::private())?;
    }
    root.remove_link(&std::path::Path::new(journal::STATE).join("current"))?;
    session.ui.set("changed", true);
    session.ui.line("Abandoned. Services are held until: keymgr-upgrade units unhold");
    Ok((Exit::RollbackFailed, "check".to_owned()))
}

/// The last run, if it is done and not undone.
fn last_done(session: &Session) -> Result<Option<String>, Failure> {
    let Some(id) = journal::runs(&session.host.root)?.pop() else { return Ok(None) };
    let state = RunState::replay(&Journal::read(&session.host.root, &journal::run_directory(&id))?);
    Ok((state.phase == Phase::Done).then_some(id))
}

/// Refuses where the database holds something that no step of the run wrote: a rollback that restores it would lose that.
fn new_data(session: &Session, run: &Run, site: &Site) -> Result<(), Failure> {
    let undo = |step: &dyn Fn(&Step) -> bool| {
        let index = run.plan.steps.iter().position(step)?;
        serde_json::from_value::<Undo>(run.state.get(index).undo?).ok()
    };
    let known = match undo(&|s| matches!(s, Step::UnholdUnits { .. })) {
        Some(Undo::Unhold { fingerprint }) => fingerprint,
        _ => run.fingerprint(),
    };
    let other_schema = has_moved(&session.host.root, &run.directory, site)?;
    let known = match known {
        Some(known) => known,
        // What is there now was never seen by this run.
        None if other_schema && !run.has_written() => String::new(),
        None => return Ok(()),
    };
    let database = site.open(Access::ReadOnly)?;
    let first =
        run.plan.steps.iter().find_map(|s| if let Step::MigrateSchema { from, .. } = s { Some(from) } else { None });
    let now = database.revision().map_err(anyhow::Error::from)?;
    let moved = other_schema || first.is_some_and(|first| now != Ledger::At(first.clone()));
    if !run.has_written() && !moved || database.fingerprint().map_err(anyhow::Error::from)? == known {
        return Ok(());
    }
    let error = anyhow!("the database was written to by others than this run; a rollback would lose that");
    Err(Failure::new(Exit::Blocked, error)
        .hint("keep it: stay on the new release, or resume")
        .hint("or lose it: keymgr-upgrade rollback --discard-new-data")
        .next("status"))
}

/// Says how the packages of the release are to be had, where apt knows.
fn way_to_old_code(session: &mut Session, release: &str) {
    if !session.host.root.is_host() {
        return;
    }
    match offered(&session.host.root, release) {
        Ok(Offer::All(packages)) => {
            let wanted: Vec<String> =
                packages.iter().map(|(package, version)| format!("{package}={version}")).collect();
            session.ui.paragraph(&format!("do: apt-get install --allow-downgrades {}", wanted.join(" ")), 0);
        }
        Ok(Offer::Missing(packages)) => {
            session.ui.paragraph(&format!("No apt source of this host has it: {}.", packages.join(" ")), 0);
        }
        // No packages, or apt cannot be asked: then the operator knows better.
        Ok(Offer::NotPackaged) | Err(_) => {}
    }
}

pub(super) fn back(session: &mut Session, mut run: Run, word: Word, why: &str) -> Outcome {
    let mut site = site(session, &run)?;
    guard(session, &mut run, &site, word)?;
    let Session { host, ui, .. } = &mut *session;
    let result = run.back(&mut run.context(host, &mut site), why, &mut |p| report(ui, &p));
    about(&mut session.ui, &run);
    session.ui.set("changed", true);
    match result {
        Ok(()) => {
            fit_record(session, &site)?;
            session.ui.set("state", "rolled-back");
            session.ui.line("Rolled back: data and files are as they were before.");
            if !crate::units::all_held(&session.host.root)?.is_empty() {
                session.ui.line("Services are held, as they were before: keymgr-upgrade units unhold");
            }
            Ok((Exit::Done, "check".to_owned()))
        }
        Err(error) if error.is::<CodeAwaited>() => {
            session.ui.set("changed", true);
            session.ui.set("state", "awaiting-code");
            session.ui.line(format!("{error}"));
            if let Some(awaited) = error.downcast_ref::<CodeAwaited>() {
                way_to_old_code(session, &awaited.release);
            }
            session.ui.line("Or keep the new code: keymgr-upgrade rollback --abandon, and upgrade again.");
            Ok((Exit::Interrupted, "rollback   (when the old code is installed)".to_owned()))
        }
        Err(error) if error.is::<NewData>() => Err(Failure::new(Exit::Interrupted, error)
            .hint("services are stopped and held; nothing of the data was undone")
            .hint("lose it: keymgr-upgrade rollback --discard-new-data")
            .hint("keep it: keymgr-upgrade rollback --abandon, then units unhold, and start the services")
            .next("status")),
        Err(error) => Err(rollback_failed(error)),
    }
}
