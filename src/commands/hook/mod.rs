//! `hook`: what apt, dpkg, dnf, rpm, systemd and our own package's scripts call. Each must be quick and silent where it has nothing to do, and none but a
//! gate may ever be a reason for package work to fail.

mod gate;
mod notice;
mod rpm;
mod scripts;
mod work;

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::{Session, runs};
use crate::cli::{Global, Hook};
use crate::deployment::installed_packages;
use crate::error::{Exit, Failure};
use crate::files::Root;
use crate::hook::{Installed, Manager, OpenRun, Packages, packages_path};
use crate::journal::{STATE, private};
use crate::process::{self, Process};
use crate::systemd::Systemd;
use crate::ui::{Stream, Ui, speak};
use crate::units;

pub(super) use notice::refresh;

/// The unit that waits for the end of package work.
const WATCH: &str = "keymgr-upgrade-watch.service";

/// Carries out a hook. Only the gates and the one before our removal refuse anything.
pub(super) fn hook(global: Global, name: Hook) -> Exit {
    let refuses = matches!(name, Hook::AptGate | Hook::DpkgPre | Hook::DnfGate | Hook::Removal);
    let result = match name {
        Hook::AptGate => gate::apt(global),
        Hook::DpkgPre => gate::dpkg(global),
        Hook::AptWork => work::after(global),
        Hook::DnfGate => rpm::gate(global),
        Hook::RpmBefore => rpm::before(global),
        Hook::RpmAfter => rpm::after(global),
        Hook::Watch => work::watch(global),
        Hook::Trigger => scripts::trigger(global),
        Hook::Boot => scripts::boot(global),
        Hook::Installed => scripts::installed(global),
        Hook::Removal => scripts::removal(global),
    };
    match result {
        Ok(exit) => exit,
        Err(failure) if refuses => refusal(&failure),
        Err(failure) => {
            tell(&failure);
            if name == Hook::Watch { failure.exit } else { Exit::Done }
        }
    }
}

/// A session of a hook: nobody can be asked, what it does it does itself, and what it says it says in its own way.
fn session(mut global: Global, by: &str) -> Result<Session, Failure> {
    // The object is collected, and never printed.
    global.json = true;
    let ui = Ui::new(true, false);
    let mut session = Session::open(global, ui).map_err(|(_, failure)| failure)?;
    session.in_service = true;
    session.code_by_others = true;
    by.clone_into(&mut session.by);
    Ok(session)
}

fn say(text: impl AsRef<str>) {
    speak(Stream::Out, text.as_ref(), 0);
}

/// An error with its hints and the next command.
fn tell(failure: &Failure) {
    speak(Stream::Err, &format!("{:#}", failure.error), 0);
    for hint in &failure.hints {
        speak(Stream::Err, hint, 2);
    }
    speak(Stream::Err, &format!("Next: keymgr-upgrade {}", failure.next), 0);
}

/// Refuses, before anything is unpacked.
fn refusal(failure: &Failure) -> Exit {
    speak(Stream::Err, &format!("REFUSED: {:#}", failure.error), 0);
    for hint in &failure.hints {
        // What is to be typed stands apart.
        let indent = hint.len() - hint.trim_start().len();
        speak(Stream::Err, hint, indent);
    }
    Exit::Failed
}

/// Records for which run the package work is that a gate let through. Called when a run is open, before its first step.
///
/// # Errors
/// If it cannot be recorded, or nobody would watch the package manager: then nothing must be stopped.
pub(super) fn opened(session: &mut Session, run: &str) -> Result<(), Failure> {
    let Some(mut packages) = session.packages.take() else { return Ok(()) };
    packages.run = Some(run.to_owned());
    keep(&session.host.root, &packages)?;
    watch_over()
}

/// Keeps the record of package work that is about to begin, or goes on.
fn keep(root: &Root, packages: &Packages) -> Result<(), Failure> {
    write(root, &packages_path(), packages)?;
    Ok(units::package_work_begins(root)?)
}

fn write(root: &Root, path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    root.make_directory(Path::new(STATE), 0o700)?;
    root.write(path, &serde_json::to_vec_pretty(value)?, private())
}

fn packages(root: &Root) -> anyhow::Result<Option<Packages>> {
    if root.exists(&packages_path()) { root.read_json(&packages_path()).map(Some) } else { Ok(None) }
}

/// Starts the unit that waits for the end of package work.
fn watch_over() -> Result<(), Failure> {
    let systemd = Systemd::connect(None).map_err(anyhow::Error::from)?;
    let started = systemd.start(&[WATCH.to_owned()]).map_err(anyhow::Error::from);
    started.with_context(|| format!("starting {WATCH}, which waits for the package manager"))?;
    Ok(())
}

/// The run that is open, as far as package work is concerned.
fn open_run(session: &Session) -> Result<Option<OpenRun>, Failure> {
    let Some((id, _)) = session.open_run()? else { return Ok(None) };
    let (plan, state) = runs::load(session, &id)?;
    Ok(OpenRun::of(&id, &plan, &state))
}

fn installed(session: &Session) -> Result<Vec<Installed>, Failure> {
    Ok(installed_packages(&session.host.root)?)
}

/// Who works on packages: the holder of their lock, else the nearest process above us that is no shell. With whether it has the lock.
fn worker(manager: Manager) -> anyhow::Result<(Process, bool)> {
    let holder = process::holder(manager.lock())?;
    let pid = holder.or_else(caller).context("no process above this one works on packages")?;
    Ok((Process::of(pid).context("who works on packages is gone")?, holder.is_some()))
}

/// The nearest process above us that is no shell.
fn caller() -> Option<u32> {
    let shell = |name: &str| matches!(name, "sh" | "dash" | "bash") || name.starts_with("keymgr");
    process::above().into_iter().find(|(_, name)| !shell(name)).map(|(pid, _)| pid)
}
