//! `status`: where things stand. `history`: the runs of this host.

use std::path::Path;

use anyhow::anyhow;
use nix::fcntl::FlockArg;
use serde_json::json;

use super::runs::{baseline, following, load, name, phase};
use super::{Outcome, Session, rehearse};
use crate::deployment::{Deployment, Depth};
use crate::error::{Exit, Failure};
use crate::journal::{self, Lock, Phase, RunState};
use crate::plan::Plan;
use crate::step::{About, size};
use crate::time;

pub(super) fn status(session: &mut Session, wait: bool) -> Outcome {
    if wait {
        wait_for_lock(session)?;
    }
    let at_work = Lock::holder(&session.host.root)?;
    match session.open_run()? {
        Some((id, state)) if !matches!(state.phase, Phase::Done | Phase::RolledBack) => {
            open(session, &id, &state, at_work.as_deref())
        }
        _ => idle(session),
    }
}

/// Waits until whoever holds the lock lets go of it.
fn wait_for_lock(session: &Session) -> Result<(), Failure> {
    let path = Path::new(journal::STATE);
    if session.host.root.exists(path) {
        let file = session.host.root.private_directory(path)?;
        nix::fcntl::Flock::lock(file, FlockArg::LockShared)
            .map_err(|(_, e)| anyhow!(e).context("waiting for the run"))?;
    }
    Ok(())
}

/// No run is open.
fn idle(session: &mut Session) -> Outcome {
    rehearse::mention(session);
    let deployment = match Deployment::look(&session.host, session.global.from.as_deref(), Depth::Shallow) {
        Ok(deployment) => deployment,
        Err(error) => {
            session.ui.set("state", "unknown");
            session.ui.set("changed", false);
            session.ui.set("reason", format!("{error:#}"));
            session.ui.line("No run is open; which release the data is at cannot be told:");
            session.ui.paragraph(&format!("{error:#}"), 10);
            return Ok((Exit::Done, "check".to_owned()));
        }
    };
    let release = deployment.from.release;
    session.ui.set("state", "idle");
    session.ui.set("changed", false);
    session.ui.set("release", release.id.as_str());
    session.ui.set("revision", deployment.revision());
    session.ui.set("held", json!(deployment.held));
    session.ui.line(format!("{} on {}: no run is open", release.name, deployment.host));
    let database = match &deployment.database {
        Ok(facts) => format!("{}, revision {}", facts.shown, deployment.revision().unwrap_or("none")),
        Err(why) => why.clone(),
    };
    session.ui.row("database", &database);
    session.ui.row("known by", deployment.from.how);
    if !deployment.held.is_empty() {
        session.ui.row("held", &deployment.held.join(" "));
    }
    if let Some(id) = journal::runs(&session.host.root)?.pop() {
        let (plan, state) = load(session, &id)?;
        session.ui.row("last run", &format!("{id}  {}: {}", name(&plan), phase(&state)));
    }
    let next = following(release).map_or_else(|| "history".to_owned(), |r| format!("check --to {}", r.id));
    Ok((Exit::Done, next))
}

/// A run is open: at work, waiting, or interrupted.
fn open(session: &mut Session, id: &str, state: &RunState, at_work: Option<&str>) -> Outcome {
    let plan = Plan::load(&session.host.root, &journal::run_directory(id), state)?;
    let total = plan.steps.len();
    let next = (0..total).find(|i| state.get(*i).done.is_none()).unwrap_or(total);
    let words = match (state.phase, at_work) {
        (_, Some(_)) => "RUNNING",
        (Phase::Waiting, None) if state.error.is_none() => "WAITING for the code",
        (Phase::RollingBack, None) => "INTERRUPTED while going back",
        _ => "INTERRUPTED",
    };
    let ago = time::span(u128::from(time::now().saturating_sub(state.times.1)) * 1000);
    session.ui.line(format!("{words}, last word {ago} ago ({})", time::stamp(state.times.1)));
    session.ui.row("run", &format!("{id}  {}, by {}", name(&plan), state.by));
    if let Some(step) = plan.steps.get(next) {
        session.ui.row("at", &format!("step {} of {total}: {}", next + 1, step.title()));
    }
    if let Some(error) = &state.error {
        session.ui.row("why", error);
    }
    let held = crate::units::all_held(&session.host.root)?;
    session.ui.row("services", if held.is_empty() { "not held" } else { "held: they do not start" });
    backup(session, id)?;
    if let Some(known) = baseline(session, id) {
        session.ui.row("before", &format!("{known} could be read"));
    }
    let directory = session.host.root.shown(&journal::run_directory(id));
    session.ui.row("log", &directory.join("log").display().to_string());
    session.ui.set("state", if at_work.is_some() { "running" } else { phase(state) });
    session.ui.set("changed", false);
    session.ui.set("run", id);
    session.ui.set("from", plan.from.as_str());
    session.ui.set("to", plan.to.as_str());
    session.ui.set("step", next + 1);
    session.ui.set("total", total);
    session.ui.set("held", json!(held));
    let next = match (at_work, state.phase) {
        (Some(_), _) => "status --wait",
        (None, Phase::RollingBack) => "rollback",
        (None, _) => "resume",
    };
    Ok((if at_work.is_some() { Exit::Done } else { Exit::Interrupted }, next.to_owned()))
}

fn backup(session: &mut Session, id: &str) -> Result<(), Failure> {
    let directory = journal::run_directory(id).join("backup");
    if session.host.root.exists(&directory.join("database.json")) {
        let about: About = session.host.root.read_json(&directory.join("database.json"))?;
        let place = session.host.root.shown(&directory);
        session.ui.row("backup", &format!("{}  {}, RESTORE.txt", place.display(), size(about.size)));
    }
    Ok(())
}

pub(super) fn history(session: &mut Session) -> Outcome {
    let mut list = Vec::new();
    for id in journal::runs(&session.host.root)? {
        // A run that crashed before it was opened has a directory and nothing to tell.
        let Ok((plan, state)) = load(session, &id) else { continue };
        let took = time::span(u128::from(state.times.1.saturating_sub(state.times.0)) * 1000);
        session.ui.row(&format!("{id}  {:24} {:12} {took:>10} ", name(&plan), phase(&state)), &state.by);
        list.push(json!({"run": id, "what": name(&plan), "state": phase(&state), "by": state.by, "began": state.times.0, "ended": state.times.1}));
    }
    if list.is_empty() {
        session.ui.line("No run yet.");
    }
    session.ui.set("runs", json!(list));
    session.ui.set("changed", false);
    Ok((Exit::Done, "status".to_owned()))
}
