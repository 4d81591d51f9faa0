//! `units`: the services on their own. What ran when they were held is remembered, over a reboot too.

use std::path::Path;

use serde_json::json;

use super::{Outcome, Session};
use crate::cli::Units;
use crate::deployment::{Held, Site, held_path, ran_before_hold};
use crate::error::{Exit, Failure};
use crate::journal::{STATE, private};
use crate::units;

pub(super) fn units(session: &mut Session, verb: Units) -> Outcome {
    let names = session.host.unit_names()?;
    let site = super::any_site(session)?;
    match verb {
        Units::Status => status(session, &site, &names),
        Units::Hold => hold(session, &site, &names),
        Units::Unhold => unhold(session, &site, &names),
    }
}

fn status(session: &mut Session, site: &Site, names: &[String]) -> Outcome {
    let running = site.running(&session.host, names)?;
    let held = units::held(&session.host.root, names)?;
    for name in names {
        let word = if held.contains(name) { "held" } else { "free" };
        let runs = if running.contains(name) { "runs" } else { "" };
        if session.ui.verbose || held.contains(name) || running.contains(name) {
            session.ui.line(format!("{name:48} {word:5} {runs}").trim_end());
        }
    }
    session.ui.line(format!("{} of {} names held, {} running", held.len(), names.len(), running.len()));
    session.ui.set("held", json!(held));
    session.ui.set("running", json!(running));
    session.ui.set("changed", false);
    Ok((Exit::Done, "status".to_owned()))
}

fn hold(session: &mut Session, site: &Site, names: &[String]) -> Outcome {
    let _lock = session.lock_alone("units hold")?;
    let root = &session.host.root;
    let running = site.running(&session.host, names)?;
    root.make_directory(Path::new(STATE), 0o700)?;
    // What is kept of a hold that never began, or has ended, tells nothing.
    if ran_before_hold(root, names)?.is_none() {
        let held = Held { format: 1, running: running.clone() };
        root.write(&held_path(), &serde_json::to_vec_pretty(&held).map_err(anyhow::Error::from)?, private())?;
    }
    let changed = units::hold_files(root, names)?;
    site.stop(names)?;
    session.ui.set("changed", changed || !running.is_empty());
    session.ui.line(format!("{} names held, {} units stopped", names.len(), running.len()));
    Ok((Exit::Done, "units status".to_owned()))
}

fn unhold(session: &mut Session, site: &Site, names: &[String]) -> Outcome {
    let _lock = session.lock_alone("units unhold")?;
    let root = &session.host.root;
    let known = root.exists(&held_path());
    let ran = if known { root.read_json::<Held>(&held_path())?.running } else { Vec::new() };
    let mut all = units::all_held(root)?;
    all.extend(names.iter().cloned());
    let changed = units::unhold_files(root, &all)?;
    site.release_is_read(&session.host)?;
    site.start(&session.host, &ran)
        .map_err(|e| Failure::from(e).hint("they are free now; start them when that is repaired"))?;
    root.remove(&held_path())?;
    session.ui.set("changed", changed || known);
    session.ui.line(format!("released; {} units started", ran.len()));
    Ok((Exit::Done, "status".to_owned()))
}
