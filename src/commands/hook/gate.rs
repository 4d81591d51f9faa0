//! Before anything is unpacked: refuse, or carry out the first half of an upgrade in this very process.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::super::locks::Locks;
use super::super::look::{Look, look};
use super::super::run;
use super::{installed, keep, open_run, say, session, watch_over, worker, write};
use crate::cli::{Global, Target, Word};
use crate::command;
use crate::deployment::{Recorded, record_path, recorded};
use crate::error::{Exit, Failure};
use crate::finding::Severity;
use crate::hook::{self, Begun, Change, FORMAT, Given, Hop, Installed, Packages, Verdict, decide, hop_path};
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
    let mut given = Given { command: argv.join(" "), ..Given::default() };
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
    let mut changes = given.changes.clone();
    for change in &mut changes {
        if let (None, Some(there)) = (&change.old, now.iter().find(|p| p.package == change.package)) {
            change.old = Some(there.version.clone());
        }
    }
    let given = Given { changes, ..given.clone() };
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
        Verdict::Refuse(why) => {
            let mut failure = Failure::new(Exit::Blocked, anyhow!(why)).hint("Nothing was unpacked.");
            if open.is_some() {
                failure = failure.hint("It is to be finished or undone: keymgr-upgrade status");
            }
            Err(meanwhile(failure, &now))
        }
    }
}

fn same(session: &Session, given: &Given, release: &Release) -> Result<Exit, Failure> {
    say(format!("Barbican stays at {}; nothing to do before it is unpacked.", release.name));
    if session.host.settings.same_release == SameRelease::Run && systemd::running() {
        record(session, given, Begun::Passed, None)?;
        watch_over()?;
    }
    Ok(Exit::Done)
}

/// The code that an open run waits for comes. Where the run's own process had it fetched, it also goes on by itself.
fn adopt(session: &Session, given: &Given, run: Option<String>) -> Result<Exit, Failure> {
    if Lock::holder(&session.host.root)?.is_some() {
        return Ok(Exit::Done);
    }
    if !systemd::running() {
        say("This is the code that the open run waits for. Afterwards: keymgr-upgrade resume");
        return Ok(Exit::Done);
    }
    say("This is the code that the open run waits for; services are held.");
    record(session, given, Begun::Adopted, run)?;
    watch_over()?;
    Ok(Exit::Done)
}

fn record(session: &Session, given: &Given, begun: Begun, run: Option<String>) -> Result<(), Failure> {
    keep(&session.host.root, &work(given, begun, run)?)
}

fn work(given: &Given, begun: Begun, run: Option<String>) -> anyhow::Result<Packages> {
    let (process, locked) = worker()?;
    let changes = given.changes.clone();
    Ok(Packages { format: FORMAT, process, locked, command: given.command.clone(), begun, run, changes })
}

/// Nothing runs here, so nothing can be carried out: that the release changes is kept in mind.
fn hop(session: &Session, to: &Release, from: Option<&str>) -> Result<Exit, Failure> {
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
    begin(session, given, now, to, pre_release).map_err(|failure| {
        let open = journal::current(&session.host.root).is_some();
        let said = failure.hints.iter().any(|hint| hint.contains("Nothing was unpacked"));
        let failure = match (said, open) {
            (true, _) => failure,
            (false, true) => failure.hint("Nothing was unpacked. A run is open: keymgr-upgrade status"),
            (false, false) => failure.hint("Nothing was unpacked, and services are as they were."),
        };
        meanwhile(failure, now)
    })
}

fn begin(
    session: &mut Session,
    given: &Given,
    now: &[Installed],
    to: &Release,
    pre_release: bool,
) -> Result<Exit, Failure> {
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
    let (look, locks) = allowed(session, &target, now)?;
    let way = way(&look);
    if session.host.settings.hooks == Hooks::Gate {
        say(format!("{way} is allowed. Nothing was stopped: [hooks] mode is gate."));
        return Ok(Exit::Done);
    }
    let (by, running) = (look.approval.as_ref().map(|a| a.by.clone()), look.deployment.running.len());
    say(match by {
        Some(by) => format!("{way}, approved by {by}"),
        None => way.clone(),
    });
    session.packages = Some(work(given, Begun::Opened, None)?);
    let (exit, _) = run::carry_out(session, look, locks)?;
    if session.ui.get("state").is_some_and(|state| state == "waiting") {
        let backup = backup(session).map_or_else(String::new, |words| format!("; backup {words}"));
        say(format!("{running} services stopped and held{backup}"));
        say(format!("Barbican stays down until {} are configured.", plural(given.packages)));
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
    run::rollback(session, false, false, Word::default(), true)?;
    Err(Failure::new(Exit::Failed, anyhow!("{way} was interrupted")))
}

fn plural(packages: usize) -> String {
    if packages == 1 { "the package".to_owned() } else { format!("all {packages} packages") }
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
fn allowed(session: &mut Session, target: &Target, now: &[Installed]) -> Result<(Look, Locks), Failure> {
    let mut locks = Locks::of(session.lock_alone("the hook of apt and dpkg")?, Word::default());
    loop {
        let mut look = look(session, target, crate::deployment::Depth::Full)?;
        look.refuse_others(locks.word);
        if look.fails() > 0 || look.draft.is_err() {
            return Err(refused(&look, now));
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
fn refused(look: &Look, now: &[Installed]) -> Failure {
    let stopped = "Nothing was unpacked, nothing was stopped.";
    if let Err(error @ PathError::Skip { .. }) = &look.draft {
        let allow = format!("keymgr-upgrade approve --to {} --fast-forward", look.to.id);
        let failure = Failure::new(Exit::Blocked, error.clone()).hint(format!("{stopped} To allow it once:"));
        return meanwhile(failure.hint(format!("  {allow}")), now);
    }
    if let Err(error) = &look.draft {
        let mut failure = Failure::new(Exit::Blocked, error.clone()).hint(stopped);
        failure.hints.extend(error.hints());
        return meanwhile(failure, now);
    }
    let fails: Vec<_> = look.findings.iter().filter(|f| f.severity == Severity::Fail).collect();
    let mut failure = Failure::new(Exit::Blocked, anyhow!("{}: {}", way(look), titles(&fails)));
    for finding in &fails {
        if let Some(remedy) = &finding.remedy {
            failure = failure.hint(format!("  {}: {remedy}", finding.id));
        }
    }
    let see = format!("{stopped} All of it: keymgr-upgrade check {}", look.arguments());
    meanwhile(failure.hint(see), now)
}

fn titles(fails: &[&crate::finding::Finding]) -> String {
    let words = |finding: &&crate::finding::Finding| match finding.evidence.as_slice() {
        [] => finding.title.clone(),
        some => format!("{}: {}", finding.title, some.iter().take(3).cloned().collect::<Vec<_>>().join(", ")),
    };
    fails.iter().map(words).collect::<Vec<_>>().join("; ")
}

/// How to upgrade everything else meanwhile.
fn meanwhile(failure: Failure, now: &[Installed]) -> Failure {
    if failure.hints.iter().any(|hint| hint.contains("apt-mark hold")) || now.is_empty() {
        return failure;
    }
    let names: Vec<&str> = now.iter().map(|p| p.package.as_str()).collect();
    failure.hint("To upgrade everything else meanwhile:").hint(format!("  apt-mark hold {}", names.join(" ")))
}
