//! What our package's own scripts and the boot call.

use anyhow::anyhow;

use super::super::units;
use super::{keep, notice, open_run, packages, refresh, say, session, watch_over, work, worker, write};
use crate::cli::{Global, Units};
use crate::command;
use crate::deployment::{Code, Deployment, Depth, Recorded, record_path, recorded};
use crate::error::{Exit, Failure};
use crate::files::Root;
use crate::hook::{self, Begun, Change, FORMAT, Installed, Manager, Packages, hop_path};
use crate::journal::{self, Journal, Lock, Phase, RunState};
use crate::settings::Hooks;
use crate::systemd;

/// Barbican's code was unpacked. Where no gate was asked, and it is of another release than the data, services are held at once: the scripts of
/// the packages are about to start them again.
pub(super) fn trigger(global: Global) -> Result<Exit, Failure> {
    let mut session = session(global, "dpkg")?;
    let root = &session.host.root;
    if session.host.settings.hooks != Hooks::On || !systemd::running() {
        return Ok(Exit::Done);
    }
    let Some(data) = recorded(root)?.map(|record| record.release) else { return Ok(Exit::Done) };
    let now = while_dpkg_works()?;
    let strange: Vec<_> = now.iter().filter(|p| p.release() != Some(data.as_str())).collect();
    if strange.is_empty() || open_run(&session)?.is_some() || Lock::holder(root)?.is_some() {
        return Ok(Exit::Done);
    }
    let changes =
        strange.iter().map(|p| Change { package: p.package.clone(), old: None, new: Some(p.version.clone()) });
    let changes = changes.collect();
    let manager = Manager::Dpkg;
    let (process, locked) = worker(manager)?;
    let command = crate::process::argv(process.pid).join(" ");
    units::units(&mut session, Units::Hold)?;
    let begun = Begun::Bypassed;
    let record = Packages { format: FORMAT, manager, process, locked, command, begun, run: None, changes };
    keep(&session.host.root, &record)?;
    say("Barbican's code is of another release than its data: its services are held.");
    say("They stay down until the packages are configured and the data is upgraded.");
    refresh(&session);
    watch_over()?;
    Ok(Exit::Done)
}

/// Barbican's packages in the middle of dpkg's work, when its status file is behind and only its own program tells.
fn while_dpkg_works() -> anyhow::Result<Vec<Installed>> {
    let format = "-f=Package: ${Package}\nStatus: ${Status}\nVersion: ${Version}\n\n";
    Ok(hook::installed(&command::run(&["dpkg-query", "--show", format], &[])?))
}

/// Says what a boot finds. Nothing is started or changed.
pub(super) fn boot(global: Global) -> Result<Exit, Failure> {
    let session = session(global, "boot")?;
    for line in notice::lines(&session)? {
        say(line);
    }
    refresh(&session);
    Ok(Exit::Done)
}

/// Records the release that the data is at, if that can be told now: later, with other code there, it may not be. Says nothing.
pub(super) fn installed(global: Global) -> Result<Exit, Failure> {
    let session = session(global, "installation")?;
    let root = &session.host.root;
    if recorded(root)?.is_some() || root.exists(&hop_path()) || open_run(&session)?.is_some() {
        return Ok(Exit::Done);
    }
    let Ok(deployment) = Deployment::look(&session.host, None, Depth::Shallow) else { return Ok(Exit::Done) };
    let from = deployment.from.release;
    let fits = deployment.revision().is_some() && !deployment.from.mid_hop && deployment.from.ahead.is_none();
    if fits && matches!(&deployment.code, Code::At { release: Some(code), .. } if *code == from.id) {
        let record = Recorded { format: 1, release: from.id.clone(), run: "installation".to_owned() };
        write(root, &record_path(), &record)?;
    }
    Ok(Exit::Done)
}

/// Refuses to be removed while a run is open, or services are held, which nobody else could release. Nothing else is asked: settings that do not parse must not keep anybody from removing us.
///
/// Where nobody tells what rpm does, our own trigger holds the services at our removal too: that hold goes with us.
pub(super) fn removal(global: Global) -> Result<Exit, Failure> {
    let root = Root::open(&global.root)?;
    let ours = |record: Packages| record.begun == Begun::Held && record.process.is_above_us();
    if packages(&root).is_ok_and(|record| record.is_some_and(ours)) {
        work::after(global)?;
    }
    let Some(id) = journal::current(&root) else { return not_held(&root) };
    let state = RunState::replay(&Journal::read(&root, &journal::run_directory(&id))?);
    if matches!(state.phase, Phase::Done | Phase::RolledBack) {
        return not_held(&root);
    }
    let error = anyhow!("run {id} is not finished, and Barbican is held for it");
    Err(Failure::new(Exit::Interrupted, error).hint("It is to be finished or undone: keymgr-upgrade status"))
}

fn not_held(root: &Root) -> Result<Exit, Failure> {
    match crate::units::all_held(root)?.as_slice() {
        [] => Ok(Exit::Done),
        held => {
            let error = anyhow!("{} services are held", held.len());
            let see = "See why: keymgr-upgrade check. To release them: keymgr-upgrade units unhold";
            Err(Failure::new(Exit::Interrupted, error).hint(see))
        }
    }
}
