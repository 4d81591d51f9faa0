//! Steps on services.

use anyhow::Result;

use super::{Context, Observed, Undo};
use crate::db::Access;
use crate::deployment::held_path;
use crate::journal::private;
use crate::units;

/// What ran before a hold by hand, while the run has ended that.
const HELD: &str = "held.json";

pub(super) fn observe_held(context: &Context<'_>, names: &[String]) -> Result<Observed> {
    let held = units::held(context.root(), names)?;
    let known = held.len() == names.len() && context.site.holds(context.host, names, true)?;
    Ok(if known { Observed::After(String::new()) } else { Observed::Before })
}

pub(super) fn prepare_hold(context: &Context<'_>, names: &[String]) -> Result<Undo> {
    Ok(Undo::Hold { before: units::held(context.root(), names)? })
}

/// What runs goes on: it is stopped next, when nothing can be started any more, and systemd need not be reloaded while nothing serves.
pub(super) fn hold(context: &mut Context<'_>, names: &[String]) -> Result<()> {
    units::hold_files(context.root(), names)?;
    context.site.reload_units()
}

/// Holds and stops again what was released, puts back what ran before a hold by hand, and only then looks whether anything was written since.
pub(super) fn hold_again(context: &mut Context<'_>, names: &[String], fingerprint: Option<&str>) -> Result<bool> {
    let changed = !matches!(observe_held(context, names)?, Observed::After(_))
        || !context.site.running(context.host, names)?.is_empty();
    if let Some(record) = context.root().read(&context.file(HELD))? {
        context.root().write(&held_path(), &record.bytes, private())?;
    }
    units::hold_files(context.root(), names)?;
    context.site.stop(names)?;
    if let (false, Some(then)) = (context.discard, fingerprint) {
        // Where nothing is put back, nothing is lost.
        let puts_back = context.written || super::has_moved(context.root(), &context.directory, context.site)?;
        if puts_back && context.site.open(Access::ReadOnly)?.fingerprint()? != then {
            return Err(NewData.into());
        }
    }
    Ok(changed)
}

pub(super) fn observe_released(context: &Context<'_>, names: &[String]) -> Result<Observed> {
    let known = units::released(context.root(), names)? && !context.root().exists(&held_path());
    let known = known && (units::start_is_allowed(context.root()) || context.site.holds(context.host, names, false)?);
    Ok(if known { Observed::After(String::new()) } else { Observed::Before })
}

/// What came since the fingerprint was taken is not ours, and a rollback is to notice it.
pub(super) fn prepare_unhold(context: &Context<'_>) -> Undo {
    Undo::Unhold { fingerprint: context.known.fingerprint.clone() }
}

pub(super) fn release(context: &mut Context<'_>, names: &[String], reload_at_start: bool) -> Result<()> {
    // A hold by hand ends here too. Should the run be undone, it lasts again.
    if let Some(record) = context.root().read(&held_path())? {
        context.root().write(&context.file(HELD), &record.bytes, private())?;
    }
    // A start that is passed over is none.
    units::package_work_ends(context.root())?;
    if reload_at_start {
        context.site.reload_changed(context.host, names)?;
        units::allow_start(context.root())?;
    }
    units::unhold_files(context.root(), names)?;
    context.root().remove(&held_path())?;
    if reload_at_start { Ok(()) } else { context.site.release_is_read(context.host) }
}

/// Rows were written since the services could start again, and going back would lose them.
#[derive(Debug, thiserror::Error)]
#[error("the database was written to since the services could start again; a rollback would lose that")]
pub struct NewData;

pub(super) fn revert_hold(context: &mut Context<'_>, names: &[String], before: &[String]) -> Result<bool> {
    let ours: Vec<String> = names.iter().filter(|n| !before.contains(n)).cloned().collect();
    let changed = units::unhold_files(context.root(), &ours)?;
    context.site.reload_units()?;
    Ok(changed)
}

/// The units to stop: `names`, and what is held and was started all the same before that was known to systemd.
fn to_stop(context: &Context<'_>, names: &[String]) -> Result<Vec<String>> {
    let held = units::all_held(context.root())?;
    Ok(names.iter().cloned().chain(held.into_iter().filter(|unit| !names.contains(unit))).collect())
}

pub(super) fn observe_stopped(context: &mut Context<'_>, names: &[String]) -> Result<Observed> {
    let running = context.site.running(context.host, &to_stop(context, names)?)?;
    Ok(if running.is_empty() { Observed::After(format!("{} stopped", names.len())) } else { Observed::Before })
}

pub(super) fn stop(context: &mut Context<'_>, names: &[String]) -> Result<()> {
    context.site.stop(&to_stop(context, names)?)
}

pub(super) fn observe_started(context: &mut Context<'_>, names: &[String]) -> Result<Observed> {
    let running = context.site.running(context.host, names)?;
    let settled = !units::start_is_allowed(context.root());
    let all = settled && running.len() == names.len();
    Ok(if all { Observed::After(format!("{} run", names.len())) } else { Observed::Before })
}

pub(super) fn start(context: &mut Context<'_>, names: &[String]) -> Result<()> {
    context.site.start(context.host, names)
}

pub(super) fn start_again(context: &mut Context<'_>, names: &[String]) -> Result<bool> {
    let released = units::unhold_files(context.root(), names)?;
    let changed = released || context.site.running(context.host, names)?.len() != names.len();
    context.site.start(context.host, names)?;
    Ok(changed)
}

pub(super) fn stop_again(context: &mut Context<'_>, names: &[String]) -> Result<bool> {
    let changed = !context.site.running(context.host, names)?.is_empty();
    context.site.stop(names)?;
    Ok(changed)
}
