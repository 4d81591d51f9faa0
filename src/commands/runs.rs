//! What several verbs ask about the runs of this host.

use anyhow::anyhow;

use super::Session;
use crate::db::{Access, Ledger};
use crate::deployment::{Site, record_path, recorded};
use crate::error::{Exit, Failure};
use crate::journal::{self, Journal, Phase, RunState};
use crate::kek::Summary;
use crate::plan::{Kind, Plan};
use crate::release::{Catalogue, Release};
use crate::step::{BASELINE, proved};

/// Fails unless there is a run of this name.
pub(super) fn known(session: &Session, id: &str) -> Result<(), Failure> {
    if journal::runs(&session.host.root)?.iter().any(|run| run == id) {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, anyhow!("there is no run {id}")).next("history"))
}

/// The plan and state of a run.
pub(super) fn load(session: &Session, id: &str) -> Result<(Plan, RunState), Failure> {
    known(session, id)?;
    let directory = journal::run_directory(id);
    let state = RunState::replay(&Journal::read(&session.host.root, &directory)?);
    let plan = Plan::load(&session.host.root, &directory, &state)?;
    Ok((plan, state))
}

/// What a run is about, in words.
pub(super) fn name(plan: &Plan) -> String {
    match plan.kind {
        Kind::Upgrade => format!("{} -> {}", plan.from, plan.to),
        Kind::Db => "db upgrade".to_owned(),
        Kind::Kek => "kek migrate".to_owned(),
        Kind::Hex => "db repair-hex".to_owned(),
        Kind::Config => "config apply".to_owned(),
    }
}

pub(super) fn phase(state: &RunState) -> &'static str {
    match state.phase {
        Phase::Forward => "interrupted",
        Phase::Waiting => "waiting",
        Phase::RollingBack => "rolling-back",
        Phase::Done => "done",
        Phase::RolledBack => "rolled-back",
    }
}

/// What the run knew to be readable when it began.
pub(super) fn baseline(session: &Session, id: &str) -> Option<String> {
    let path = journal::run_directory(id).join(format!("{BASELINE}.json"));
    session.host.root.read_json::<Summary>(&path).ok().map(|s| proved(&s))
}

/// The release after this one.
pub(super) fn following(release: &Release) -> Option<&'static Release> {
    Catalogue::embedded().ok()?.releases().iter().find(|r| release.is_before(r))
}

/// Forgets the record of the data's release where the schema does not fit it any more: a part on its own moved the schema.
///
/// # Errors
/// If the database cannot be asked, or the record not removed.
pub(super) fn fit_record(session: &Session, site: &Site) -> Result<(), Failure> {
    let Some(record) = recorded(&session.host.root)? else { return Ok(()) };
    let Ledger::At(revision) = site.open(Access::ReadOnly)?.revision().map_err(anyhow::Error::from)? else {
        return Ok(());
    };
    if !Catalogue::embedded()?.releases_with_head(&revision).iter().any(|r| r.id == record.release) {
        session.host.root.remove(&record_path())?;
    }
    Ok(())
}
