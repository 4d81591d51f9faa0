//! `config`: Barbican's files on their own.

use anyhow::anyhow;
use serde_json::json;

use super::locks::Locks;
use super::look::look;
use super::plan::{diffs, who};
use super::{Outcome, Session, run, runs};
use crate::cli::{Config, Target, Word};
use crate::deployment::{Code, Depth};
use crate::error::{Exit, Failure};
use crate::journal;
use crate::plan::{Kind, Plan};
use crate::step::{Context, Known, Step, Undo};

pub(super) fn config(session: &mut Session, verb: Config) -> Outcome {
    match verb {
        Config::Diff(target) => diff(session, &target),
        Config::Apply { target, yes } => apply(session, &target, yes),
        Config::Restore { run } => restore(session, run),
    }
}

fn diff(session: &mut Session, target: &Target) -> Outcome {
    let look = look(session, target, Depth::Quick)?;
    session.ui.set("from", look.deployment.from.release.id.as_str());
    session.ui.set("to", look.to.id.as_str());
    let draft = look.draft()?;
    let diffs = diffs(&draft.files, look.to)?;
    for (_, text) in &diffs {
        session.ui.raw(text);
    }
    if diffs.is_empty() {
        session.ui.line(format!("The files are as {} wants them.", look.to.name));
    }
    session.ui.set("changed", false);
    session.ui.set("diffs", json!(diffs.iter().map(|(p, d)| json!({"path": p, "diff": d})).collect::<Vec<_>>()));
    Ok((Exit::Done, if diffs.is_empty() { "status".to_owned() } else { format!("config apply {}", look.arguments()) }))
}

fn apply(session: &mut Session, target: &Target, yes: bool) -> Outcome {
    let lock = session.lock_alone("config apply")?;
    let look = look(session, target, Depth::Full)?;
    session.ui.set("from", look.deployment.from.release.id.as_str());
    session.ui.set("to", look.to.id.as_str());
    let draft = look.draft()?;
    if let Some(conflict) = draft.conflicts.first() {
        return Err(Failure::new(Exit::Blocked, conflict.clone()));
    }
    let steps: Vec<Step> = draft.plan.steps.iter().filter(|s| matches!(s, Step::EditFile { .. })).cloned().collect();
    if steps.is_empty() {
        session.ui.line(format!("The files are as {} wants them.", look.to.name));
        session.ui.set("changed", false);
        return Ok((Exit::Done, "status".to_owned()));
    }
    for (_, text) in &diffs(&draft.files, look.to)? {
        session.ui.raw(text);
    }
    if !session.confirm(yes, "Proceed?", &format!("config apply {}", look.arguments()))? {
        return Ok((Exit::Done, format!("config diff {}", look.arguments())));
    }
    session.nothing_runs(&look.deployment.site)?;
    if let Code::At { release: Some(id), .. } = &look.deployment.code
        && super::release(id)?.is_before(look.to)
    {
        let error = anyhow!("the installed code is {id}: files for {} may keep it from starting", look.to.name);
        return Err(Failure::new(Exit::Blocked, error).hint("install the code first; or let `upgrade` do both"));
    }
    let plan = Plan::of(Kind::Config, &session.host, &look.deployment.site, steps);
    run::begin(session, Locks::of(lock, Word::default()), plan, look.deployment, &[], &who())
}

fn restore(session: &mut Session, wanted: Option<String>) -> Outcome {
    let _lock = session.lock_alone("config restore")?;
    let has_files = |session: &Session, id: &String| -> bool {
        runs::load(session, id).is_ok_and(|(plan, state)| {
            plan.steps
                .iter()
                .enumerate()
                .any(|(i, s)| matches!(s, Step::EditFile { .. }) && state.get(i).undo.is_some())
        })
    };
    let id = match wanted {
        Some(id) => id,
        None => {
            let runs = journal::runs(&session.host.root)?;
            let last = runs.into_iter().rev().find(|id| has_files(session, id));
            last.ok_or_else(|| Failure::new(Exit::Failed, anyhow!("no run changed a file")).next("history"))?
        }
    };
    let (plan, state) = runs::load(session, &id).map_err(|f| f.next("history"))?;
    let mut site = super::any_site(session)?;
    session.nothing_runs(&site)?;
    let mut context = Context {
        host: &session.host,
        site: &mut site,
        directory: journal::run_directory(&id),
        from: String::new(),
        to: String::new(),
        discard: false,
        written: true,
        code_by_others: false,
        known: Known::default(),
    };
    let mut changed = Vec::new();
    for (index, step) in plan.steps.iter().enumerate().rev() {
        let (Step::EditFile { path, .. }, Some(undo)) = (step, state.get(index).undo) else { continue };
        let undo: Undo = serde_json::from_value(undo).map_err(anyhow::Error::from)?;
        if step.revert(&mut context, &undo)? {
            changed.push(path.display().to_string());
        }
    }
    session.ui.set("changed", !changed.is_empty());
    session.ui.line(if changed.is_empty() {
        "unchanged".to_owned()
    } else {
        format!("put back: {}", changed.join(" "))
    });
    Ok((Exit::Done, "config diff".to_owned()))
}
