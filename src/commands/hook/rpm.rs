//! dnf and rpm. Nothing that rpm runs may refuse anything: dnf's plugin asks before, and what comes without it is held instead.
//!
//! rpm tells its triggers neither versions nor whether packages come or go: dnf's plugin has told, or the arguments of the rpm above us tell, or
//! nobody does. Then services are held until it is seen what came.

use std::io::Read as _;

use anyhow::Context as _;

use super::super::units;
use super::gate::{MEANWHILE, adopt, allowed, begin, completed, hop, lead, never, record, same, unharmed};
use super::{Session, caller, installed, open_run, packages, refresh, say, session, tell, watch_over, work};
use crate::cli::{Global, Units};
use crate::command;
use crate::deployment::{Code, installed_code, recorded};
use crate::error::{Exit, Failure};
use crate::files::Root;
use crate::hook::{self, Begun, Called, Change, FORMAT, Given, Installed, Manager, Told, Verdict, decide, told_path};
use crate::journal::Lock;
use crate::process::{self, Process};
use crate::release::{Catalogue, Release};
use crate::settings::Hooks;
use crate::systemd;

/// dnf's gate: what it has resolved comes on standard input. Nothing is stopped yet, since packages are still to be fetched and checked.
pub(super) fn gate(global: Global) -> Result<Exit, Failure> {
    let mut input = String::new();
    std::io::stdin().lock().read_to_string(&mut input).context("reading what dnf is about to do")?;
    let given = hook::resolved(&input)?;
    if given.elsewhere {
        return Ok(Exit::Done);
    }
    if given.changes.is_empty() {
        // Our triggers run also where only we ourselves come or go: they are to know that Barbican does not.
        note(&Root::open(&global.root)?, &given)?;
        return Ok(Exit::Done);
    }
    let mut session = session(global, &given.command)?;
    if session.host.settings.hooks == Hooks::Off {
        return Ok(Exit::Done);
    }
    let now = installed(&session)?;
    let given = completed(&given, &now);
    match decide(&given.changes, &now, open_run(&session)?.as_ref()) {
        Verdict::Refuse(why) => return Err(never(&session, why, &now, Manager::Rpm)?),
        Verdict::Upgrade { to, pre_release, .. } if systemd::running() => {
            let looked = allowed(&mut session, &given, &now, to, pre_release);
            let (look, _) = looked.map_err(|failure| unharmed(&session, failure, &now, Manager::Rpm))?;
            say(format!("{} is allowed. Nothing is stopped before packages are there to install.", lead(&look)));
        }
        _ => {}
    }
    note(&session.host.root, &given)?;
    Ok(Exit::Done)
}

/// Keeps what is known of a transaction for the triggers in it.
fn note(root: &Root, given: &Given) -> Result<(), Failure> {
    let process = caller().and_then(Process::of).context("no process above this one works on packages")?;
    let (command, changes) = (given.command.clone(), given.changes.clone());
    let told = Told { format: FORMAT, process, command, packages: given.packages, changes };
    if let Some(directory) = told_path().parent() {
        root.make_directory(directory, 0o700)?;
    }
    Ok(root.write(
        &told_path(),
        &serde_json::to_vec_pretty(&told).context("what dnf does")?,
        crate::journal::private(),
    )?)
}

/// What was noted for the transaction that this is in.
fn noted(root: &Root) -> Result<Option<Told>, Failure> {
    if !root.exists(&told_path()) {
        return Ok(None);
    }
    let told: Told = root.read_json(&told_path())?;
    Ok(Some(told).filter(|told| told.process.is_above_us()))
}

/// What is being done; `None` if nobody tells. Without changes Barbican's packages are only removed, or it is about others.
fn transaction(root: &Root) -> Result<Option<Given>, Failure> {
    if let Some(told) = noted(root)? {
        let (changes, packages, command) = (told.changes, told.packages, told.command);
        return Ok(Some(Given { changes, packages, command, elsewhere: false, manager: Manager::Rpm }));
    }
    let Some((pid, _)) = process::above().into_iter().find(|(_, name)| name == "rpm") else { return Ok(None) };
    let (argv, directory) = (process::argv(pid), process::directory(pid).unwrap_or_default());
    let mut given = Given { command: argv.join(" "), manager: Manager::Rpm, ..Given::default() };
    let paths = match hook::called(&argv, &directory) {
        Called::Untold => return Ok(None),
        Called::Erase => return Ok(Some(given)),
        Called::Install(paths) => paths,
    };
    for path in paths.iter().filter(|path| path.is_file()) {
        let path = path.as_os_str();
        // What is no package rpm has refused by itself.
        let said = command::run(&["rpm".as_ref(), "-qp".as_ref(), "--qf".as_ref(), hook::QUERY.as_ref(), path], &[]);
        let Ok(said) = said else { continue };
        given.packages += said.lines().count();
        let new = hook::queried(&said)?.into_iter();
        given.changes.extend(new.map(|p| Change { package: p.package, old: None, new: Some(p.version) }));
    }
    Ok(Some(given))
}

/// Before anything is unpacked or removed: the first half of an upgrade; where there is none to be had, services are held.
pub(super) fn before(global: Global) -> Result<Exit, Failure> {
    let root = Root::open(&global.root)?;
    let given = transaction(&root)?;
    let by = given.as_ref().map_or("rpm", |given| given.command.as_str());
    let mut session = session(global, by)?;
    let session = &mut session;
    if session.host.settings.hooks == Hooks::Off {
        return Ok(Exit::Done);
    }
    if !systemd::running() {
        return without_systemd(session);
    }
    if session.host.settings.hooks == Hooks::Gate {
        return Ok(Exit::Done);
    }
    let now = installed(session)?;
    match given {
        Some(given) if given.changes.is_empty() => Ok(Exit::Done),
        Some(given) => first_half(session, &completed(&given, &now), &now),
        None => untold(session, &now),
    }
}

fn first_half(session: &mut Session, given: &Given, now: &[Installed]) -> Result<Exit, Failure> {
    let open = open_run(session)?;
    match decide(&given.changes, now, open.as_ref()) {
        Verdict::Pass => Ok(Exit::Done),
        Verdict::Same(release) => same(session, given, release),
        Verdict::Adopt => adopt(session, given, open.map(|run| run.id)),
        Verdict::Upgrade { to, pre_release, .. } => match begin(session, given, now, to, pre_release) {
            Err(failure) => instead(session, given, failure),
            done => done,
        },
        Verdict::Refuse(why) => {
            let failure = never(session, why, now, Manager::Rpm)?;
            instead(session, given, failure)
        }
    }
}

/// Nobody told what comes. An open run sees when it is there; without one, services are down until then.
fn untold(session: &mut Session, now: &[Installed]) -> Result<Exit, Failure> {
    let process = caller().map(process::argv).unwrap_or_default();
    let changes = now.iter();
    let changes = changes.map(|p| Change { package: p.package.clone(), old: Some(p.version.clone()), new: None });
    let (command, changes) = (process.join(" "), changes.collect());
    let given = Given { changes, packages: 0, command, elsewhere: false, manager: Manager::Rpm };
    match open_run(session)? {
        Some(run) => adopt(session, &given, Some(run.id)),
        None => {
            say("this package manager does not tell what it does: services are held until it is seen.");
            hold(session, &given)
        }
    }
}

/// Holds the services where a first half must not be, or has failed: rpm unpacks in any case.
fn instead(session: &mut Session, given: &Given, mut failure: Failure) -> Result<Exit, Failure> {
    // What was not done at a gate is about to be done here, and there is no other time to choose.
    let meanwhile = Manager::Rpm.leave_out(&installed(session)?).unwrap_or_default();
    for hint in &mut failure.hints {
        if hint.starts_with("Nothing was unpacked") {
            *hint = hint.split_once("nothing was stopped. ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        }
    }
    failure.hints.retain(|hint| !hint.is_empty() && hint != MEANWHILE && hint.trim() != meanwhile);
    let failure = failure.hint("rpm goes on all the same: services are held, and no data is touched.").next("status");
    tell(&failure);
    if open_run(session)?.is_some() { Ok(Exit::Done) } else { hold(session, given) }
}

fn hold(session: &mut Session, given: &Given) -> Result<Exit, Failure> {
    units::units(session, Units::Hold)?;
    record(session, given, Begun::Held, None)?;
    watch_over()?;
    refresh(session);
    Ok(Exit::Done)
}

/// When all is there: go on with what was begun before; and see to code that came past all that.
pub(super) fn after(global: Global) -> Result<Exit, Failure> {
    let root = Root::open(&global.root)?;
    if packages(&root)?.is_some_and(|record| record.process.is_above_us()) {
        return work::after(global);
    }
    let session = session(global, "rpm")?;
    if session.host.settings.hooks == Hooks::Off {
        return Ok(Exit::Done);
    }
    if !systemd::running() {
        return hopped(&session);
    }
    let Some(given) = transaction(&root)? else { return Ok(Exit::Done) };
    bypassed(session, &given)
}

/// Packages of another release than the data came, newly or together with us.
fn bypassed(mut session: Session, given: &Given) -> Result<Exit, Failure> {
    let root = &session.host.root;
    let Some(data) = recorded(root)?.map(|record| record.release) else { return Ok(Exit::Done) };
    let now = installed(&session)?;
    let strange = |change: &Change| {
        now.iter().any(|p| Some(&p.version) == change.new.as_ref() && p.release() != Some(data.as_str()))
    };
    let on = session.host.settings.hooks == Hooks::On;
    if !on || !given.changes.iter().any(strange) || open_run(&session)?.is_some() || Lock::holder(root)?.is_some() {
        return Ok(Exit::Done);
    }
    units::units(&mut session, Units::Hold)?;
    record(&session, given, Begun::Bypassed, None)?;
    say("Barbican's code is of another release than its data: its services are held.");
    say("They stay down until the data is upgraded.");
    refresh(&session);
    watch_over()?;
    Ok(Exit::Done)
}

/// The version of the installed code, and its release.
fn code(session: &Session) -> Result<Option<(String, &'static Release)>, Failure> {
    let Code::At { version, release: Some(id), .. } = installed_code(&session.host.root, &session.host.settings)?
    else {
        return Ok(None);
    };
    Ok(Catalogue::embedded()?.by_id(&id).map(|release| (version, release)))
}

/// Nothing can be carried out: what is there now is noted.
fn without_systemd(session: &Session) -> Result<Exit, Failure> {
    let Some((version, _)) = code(session)? else { return Ok(Exit::Done) };
    let changes = vec![Change { package: "barbican".to_owned(), old: Some(version), new: None }];
    note(&session.host.root, &Given { changes, manager: Manager::Rpm, ..Given::default() })?;
    Ok(Exit::Done)
}

/// Compares what is there with what was noted.
fn hopped(session: &Session) -> Result<Exit, Failure> {
    let root = &session.host.root;
    let Some(told) = noted(root)? else { return Ok(Exit::Done) };
    root.remove(&told_path())?;
    let before = told.changes.iter().find_map(|change| change.old.clone());
    let before = before.and_then(|version| Catalogue::embedded().ok()?.by_version(&version).ok());
    match (before, code(session)?) {
        (Some(from), Some((_, to))) if from.release.id != to.id => hop(session, to, Some(&from.release.id)),
        _ => Ok(Exit::Done),
    }
}
