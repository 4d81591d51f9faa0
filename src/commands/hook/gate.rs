//! Before anything is unpacked: refuse, or carry out the first half of an upgrade in this very process.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::super::locks::Locks;
use super::super::look::{Look, look};
use super::super::{back, run};
use super::{installed, keep, open_run, packages, say, session, watch_over, worker, write};
use crate::cli::{Global, Target, Word};
use crate::command;
use crate::deployment::{Recorded, record_path, recorded};
use crate::error::{Exit, Failure};
use crate::finding::Severity;
use crate::hook::{self, Begun, Change, FORMAT, Given, Hop, Installed, Manager, Packages, Verdict, decide, hop_path};
use crate::journal::{self, Lock};
use crate::release::{PathError, Release};
use crate::settings::{Hooks, SameRelease};
use crate::systemd::{self, Systemd};
use crate::{process, time};

use super::Session;

/// apt's gate: the changes come on standard input.
pub(super) fn apt(global: Global) -> Result<Exit, Failure> {
    let mut input = Vec::new();
    std::io::stdin().lock().read_to_end(&mut input).context("reading what apt is about to do")?;
    let given = hook::parse(&String::from_utf8_lossy(&input))?;
    if given.changes.is_empty() || given.elsewhere {
        return Ok(Exit::Done);
    }
    gate(global, &given)
}

/// dpkg's gate, where no apt stands above it: the archives are in its argument vector.
pub(super) fn dpkg(global: Global) -> Result<Exit, Failure> {
    let Some((pid, _)) = process::above().into_iter().find(|(_, name)| name == "dpkg") else { return Ok(Exit::Done) };
    let argv = process::argv(pid);
    let archives = hook::archives(&argv);
    if archives.elsewhere {
        return Ok(Exit::Done);
    }
    let mut given = Given { command: argv.join(" "), manager: Manager::Dpkg, ..Given::default() };
    let mut found = Vec::new();
    for path in &archives.paths {
        found.extend(files(Path::new(path), archives.recursive));
    }
    for path in found {
        // What is no archive dpkg refuses by itself.
        let fields = command::run(
            &["dpkg-deb".as_ref(), "--field".as_ref(), path.as_os_str(), "Package".as_ref(), "Version".as_ref()],
            &[],
        );
        let Some((package, version)) = fields.ok().and_then(|fields| hook::of_archive(&fields)) else { continue };
        given.packages += 1;
        if hook::is_barbican(&package) {
            given.changes.push(Change { package, old: None, new: Some(version) });
        }
    }
    if given.changes.is_empty() {
        return Ok(Exit::Done);
    }
    gate(global, &given)
}

/// The archives that `path` stands for: itself, or what is below it.
fn files(path: &Path, recursive: bool) -> Vec<PathBuf> {
    let is = |path: &Path| path.metadata().ok().map(|m| m.is_dir());
    match is(path) {
        Some(false) => vec![path.to_owned()],
        Some(true) if recursive => {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let below = entries.map(|e| e.path()).filter(|p| !p.is_symlink());
            let wanted = below.filter(|p| is(p) == Some(true) || p.extension().is_some_and(|e| e == "deb"));
            wanted.flat_map(|p| files(&p, true)).collect()
        }
        _ => Vec::new(),
    }
}

fn gate(global: Global, given: &Given) -> Result<Exit, Failure> {
    let mut session = session(global, &given.command)?;
    let session = &mut session;
    if session.host.settings.hooks == Hooks::Off {
        return Ok(Exit::Done);
    }
    let now = installed(session)?;
    let given = completed(given, &now);
    let open = open_run(session)?;
    match decide(&given.changes, &now, open.as_ref()) {
        Verdict::Pass => Ok(Exit::Done),
        Verdict::Same(release) => same(session, &given, release),
        Verdict::Adopt => adopt(session, &given, open.map(|run| run.id)),
        Verdict::Upgrade { to, from, pre_release } => {
            if !systemd::running() {
                return hop(session, to, from.as_deref());
            }
            upgrade(session, &given, &now, to, pre_release)
        }
        Verdict::Refuse(why) => Err(never(session, why, &now, given.manager)?),
    }
}

/// What is to be done with the versions that are there, where nobody told them.
pub(super) fn completed(given: &Given, now: &[Installed]) -> Given {
    let mut given = given.clone();
    for change in &mut given.changes {
        if let (None, Some(there)) = (&change.old, now.iter().find(|p| p.package == change.package)) {
            change.old = Some(there.version.clone());
        }
    }
    given
}

/// What must not be, whatever is approved.
pub(super) fn never(session: &Session, why: String, now: &[Installed], manager: Manager) -> Result<Failure, Failure> {
    let mut failure = Failure::new(Exit::Blocked, anyhow!(why)).hint("Nothing was unpacked.");
    if open_run(session)?.is_some() {
        failure = failure.hint("It is to be finished or undone: keymgr-upgrade status");
    }
    Ok(meanwhile(failure, now, manager))
}

pub(super) fn same(session: &Session, given: &Given, release: &Release) -> Result<Exit, Failure> {
    say(format!("Barbican stays at {}; nothing to do before it is unpacked.", release.name));
    if session.host.settings.same_release == SameRelease::Run && systemd::running() {
        record(session, given, Begun::Passed, None)?;
        watch_over()?;
    }
    Ok(Exit::Done)
}

/// The code that an open run waits for comes. Where the run's own process had it fetched, it also goes on by itself.
pub(super) fn adopt(session: &Session, given: &Given, run: Option<String>) -> Result<Exit, Failure> {
    if Lock::holder(&session.host.root)?.is_some() {
        return Ok(Exit::Done);
    }
    if !systemd::running() {
        say("This is the code that the open run waits for. Afterwards: keymgr-upgrade resume");
        return Ok(Exit::Done);
    }
    say("This is the code that the open run waits for; services are held.");
    let mut work = work(given, Begun::Adopted, run)?;
    // unattended-upgrades asks twice: what we opened for it is still ours to undo.
    let opened = |was: &Packages| was.begun == Begun::Opened && (&was.process, &was.run) == (&work.process, &work.run);
    if packages(&session.host.root)?.as_ref().is_some_and(opened) {
        work.begun = Begun::Opened;
    }
    keep(&session.host.root, &work)?;
    watch_over()?;
    Ok(Exit::Done)
}

pub(super) fn record(session: &Session, given: &Given, begun: Begun, run: Option<String>) -> Result<(), Failure> {
    keep(&session.host.root, &work(given, begun, run)?)
}

fn work(given: &Given, begun: Begun, run: Option<String>) -> anyhow::Result<Packages> {
    let (process, locked) = worker(given.manager)?;
    let (command, changes) = (given.command.clone(), given.changes.clone());
    Ok(Packages { format: FORMAT, manager: given.manager, process, locked, command, begun, run, changes })
}

/// Nothing runs here, so nothing can be carried out: that the release changes is kept in mind.
pub(super) fn hop(session: &Session, to: &Release, from: Option<&str>) -> Result<Exit, Failure> {
    let root = &session.host.root;
    let Some(from) = from else { return Ok(Exit::Done) };
    // Of several hops the first tells where the data is.
    let first = if root.exists(&hop_path()) { root.read_json::<Hop>(&hop_path())?.from } else { from.to_owned() };
    let known = recorded(root)?.map(|record| record.release);
    if known.is_none() {
        let record = Recorded { format: 1, release: first.clone(), run: "image".to_owned() };
        write(root, &record_path(), &record)?;
    }
    write(root, &hop_path(), &Hop { format: FORMAT, at: time::now(), from: first, to: to.id.clone() })?;
    say(format!("no systemd runs here: {} is noted, and the first boot reports it.", to.name));
    Ok(Exit::Done)
}

/// The way, and who approved it.
pub(super) fn lead(look: &Look) -> String {
    match &look.approval {
        Some(approval) => format!("{}, approved by {}", way(look), approval.by),
        None => way(look),
    }
}

/// The way to be shown.
fn way(look: &Look) -> String {
    format!("{} -> {}", look.deployment.from.release.name, look.to.name)
}

fn upgrade(
    session: &mut Session,
    given: &Given,
    now: &[Installed],
    to: &Release,
    pre_release: bool,
) -> Result<Exit, Failure> {
    begin(session, given, now, to, pre_release).map_err(|failure| unharmed(session, failure, now, given.manager))
}

/// A refusal that also says what was not done.
pub(super) fn unharmed(session: &Session, failure: Failure, now: &[Installed], manager: Manager) -> Failure {
    let open = journal::current(&session.host.root).is_some();
    let said = failure.hints.iter().any(|hint| hint.contains("Nothing was unpacked"));
    let failure = match (said, open) {
        (true, _) => failure,
        (false, true) => failure.hint("Nothing was unpacked. A run is open: keymgr-upgrade status"),
        (false, false) => failure.hint("Nothing was unpacked, and services are as they were."),
    };
    meanwhile(failure, now, manager)
}

/// The first half, in this process.
pub(super) fn begin(
    session: &mut Session,
    given: &Given,
    now: &[Installed],
    to: &Release,
    pre_release: bool,
) -> Result<Exit, Failure> {
    let (look, locks) = allowed(session, given, now, to, pre_release)?;
    let way = way(&look);
    if session.host.settings.hooks == Hooks::Gate {
        say(format!("{way} is allowed. Nothing was stopped: [hooks] mode is gate."));
        return Ok(Exit::Done);
    }
    let running = look.deployment.running.len();
    say(lead(&look));
    session.packages = Some(work(given, Begun::Opened, None)?);
    let (exit, _) = run::carry_out(session, look, locks)?;
    if session.ui.get("state").is_some_and(|state| state == "waiting") {
        let backup = backup(session).map_or_else(String::new, |words| format!("; backup {words}"));
        say(format!("{running} services stopped and held{backup}"));
        say(format!("Barbican stays down until {}.", ready(given)));
        if given.packages > 2 * given.changes.len() + 10 {
            say("(Shorter: next time upgrade the barbican packages alone first.)");
        }
        super::refresh(session);
        return Ok(Exit::Done);
    }
    if exit == Exit::Done {
        return Ok(exit);
    }
    // Asked to stop between two steps: whoever asked wants it as it was.
    back::rollback(session, false, false, Word::default(), true)?;
    Err(Failure::new(Exit::Failed, anyhow!("{way} was interrupted")))
}

fn ready(given: &Given) -> String {
    let what = match given.manager {
        Manager::Dpkg => "configured",
        Manager::Rpm => "installed",
    };
    if given.packages == 1 {
        format!("the package is {what}")
    } else {
        format!("all {} packages are {what}", given.packages)
    }
}

/// What the step that copied the database said of itself: how much, and how long it took.
fn backup(session: &Session) -> Option<String> {
    let steps = session.ui.get("steps")?.as_array()?;
    let step = steps.iter().rev().find(|s| s.get("title").is_some_and(|t| t == "back up database"))?;
    let detail = step.get("detail")?.as_str()?;
    let took = step.get("milliseconds")?.as_u64()?;
    let size = detail.split(',').next().unwrap_or(detail);
    Some(format!("{size}, {}", time::span(u128::from(took))))
}

/// Looks, as `upgrade --to` does; a refusal where it must not be.
pub(super) fn allowed(
    session: &mut Session,
    given: &Given,
    now: &[Installed],
    to: &Release,
    pre_release: bool,
) -> Result<(Look, Locks), Failure> {
    let shutting_down = Systemd::connect(None).map_err(anyhow::Error::from)?.is_stopping();
    if shutting_down {
        let error = anyhow!("the host is being shut down, and Barbican's data would have to wait");
        return Err(Failure::new(Exit::Blocked, error));
    }
    let accepted = session.host.settings.acknowledged.iter().any(|id| id == "pre-release");
    if pre_release && !accepted {
        let error = anyhow!("this is not a final release of {}", to.name);
        return Err(Failure::new(Exit::Blocked, error).hint("To accept it: acknowledged = pre-release in [upgrade]"));
    }
    let target = Target { to: Some(to.id.clone()), fast_forward: false };
    let mut locks = Locks::of(session.lock_alone("the hook of the package manager")?, Word::default());
    loop {
        let mut look = look(session, &target, crate::deployment::Depth::Full)?;
        look.refuse_others(locks.word);
        if look.fails() > 0 || look.draft.is_err() {
            return Err(refused(&look, now, given.manager));
        }
        let writes = look.draft.as_ref().is_ok_and(|d| d.writes);
        if writes && locks.lock_database(&look.deployment.site, look.deployment.revision())? {
            continue;
        }
        if writes {
            session.nobody_else(&look.deployment.site, locks.word, false)?;
        }
        return Ok((look, locks));
    }
}

/// The refusal: why, and what allows it.
fn refused(look: &Look, now: &[Installed], manager: Manager) -> Failure {
    let stopped = "Nothing was unpacked, nothing was stopped.";
    if let Err(error @ PathError::Skip { .. }) = &look.draft {
        let allow = format!("keymgr-upgrade approve --to {} --fast-forward", look.to.id);
        let failure = Failure::new(Exit::Blocked, error.clone()).hint(format!("{stopped} To allow it once:"));
        return meanwhile(failure.hint(format!("  {allow}")), now, manager);
    }
    if let Err(error) = &look.draft {
        let mut failure = Failure::new(Exit::Blocked, error.clone()).hint(stopped);
        failure.hints.extend(error.hints());
        return meanwhile(failure, now, manager);
    }
    let fails: Vec<_> = look.findings.iter().filter(|f| f.severity == Severity::Fail).collect();
    let mut failure = Failure::new(Exit::Blocked, anyhow!("{}: {}", way(look), titles(&fails)));
    for finding in &fails {
        if let Some(remedy) = &finding.remedy {
            failure = failure.hint(format!("  {}: {remedy}", finding.id));
        }
    }
    let see = format!("{stopped} All of it: keymgr-upgrade check {}", look.arguments());
    meanwhile(failure.hint(see), now, manager)
}

fn titles(fails: &[&crate::finding::Finding]) -> String {
    let words = |finding: &&crate::finding::Finding| match finding.evidence.as_slice() {
        [] => finding.title.clone(),
        some => format!("{}: {}", finding.title, some.iter().take(3).cloned().collect::<Vec<_>>().join(", ")),
    };
    fails.iter().map(words).collect::<Vec<_>>().join("; ")
}

/// Introduces the command that leaves Barbican's packages out.
pub(super) const MEANWHILE: &str = "To upgrade everything else meanwhile:";

/// Says how to upgrade everything else meanwhile, once.
fn meanwhile(failure: Failure, now: &[Installed], manager: Manager) -> Failure {
    match manager.leave_out(now) {
        Some(command) if !failure.hints.iter().any(|hint| hint == MEANWHILE) => {
            failure.hint(MEANWHILE).hint(format!("  {command}"))
        }
        _ => failure,
    }
}
