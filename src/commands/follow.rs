//! Asking the service, and following what it says until it has ended.
//!
//! What the service prints it also appends to two files in /run, which are copied from here: its standard output and its standard error. Leaving
//! the view does not touch the work.

use std::fs::File;
use std::io::{self, PipeReader, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use indicatif::ProgressBar;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify;

use super::{Outcome, Session, run, runs};
use crate::cli::{Target, Word};
use crate::error::{Exit, Failure};
use crate::files::Root;
use crate::journal::{self, Lock, Phase};
use crate::plan::Kind;
use crate::request::{self, Asked, Request};
use crate::systemd::{self, Ended, Launch, Systemd};
use crate::ui::Screen;

/// The service's unit.
pub(super) const UNIT: &str = "keymgr-upgrade.service";

/// Where the service says what it says.
const RUN: &str = "/run/keymgr-upgrade";

/// What the service is called with.
pub(super) const VERB: &str = "service";

/// Where the service writes what it prints: standard output and standard error. Both are of the run at work, or of the last one.
#[must_use]
pub(super) fn output_paths() -> [PathBuf; 2] {
    ["output", "errors"].map(|name| Path::new(RUN).join(name))
}

/// How following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// The service has ended with this exit code.
    Ended(Exit),
    /// Whoever follows was interrupted (SIGINT, SIGTERM, SIGHUP); the service works on.
    Left,
    /// The time limit has passed; the service works on.
    Late,
}

/// Where what the service says goes to, and for how long at most.
pub(super) struct View<'a> {
    /// What it prints.
    pub(super) out: &'a mut dyn Write,
    /// What it prints where it failed.
    pub(super) err: &'a mut dyn Write,
    /// How long to follow; `None` until the end.
    pub(super) limit: Option<Duration>,
}

/// The way to the service: where systemd runs this host and has a `keymgr-upgrade.service` that runs this very program. `None` in an image or
/// chroot, where the unit is not installed, and in the service itself.
///
/// # Errors
/// If systemd does not answer.
pub(super) fn service(session: &Session) -> Result<Option<Systemd>, Failure> {
    if session.in_service || !session.host.root.is_host() || !systemd::running() {
        return Ok(None);
    }
    let failed = |error: systemd::Error| {
        let failure = Failure::from(anyhow::Error::from(error));
        if journal::current(&session.host.root).is_some() { run::open(failure) } else { failure }
    };
    let systemd = Systemd::connect(None).map_err(failed)?;
    let units = systemd.units(&session.host.root, &[UNIT.to_owned()]).map_err(failed)?;
    let ours = units.first().is_some_and(|unit| {
        let program = unit.exec_start.first().and_then(|program| Path::new(program).canonicalize().ok());
        let this = std::env::current_exe().and_then(|program| program.canonicalize()).ok();
        unit.load_state == "loaded"
            && program.is_some()
            && program == this
            && unit.exec_start.get(1).is_some_and(|v| v == VERB)
    });
    Ok(ours.then_some(systemd))
}

/// Leaves `request`, starts the service and follows it. `lock` is the host's, so that nobody else asks at the same time; it is given back for
/// the service to take.
///
/// # Errors
/// [`journal::Error::Locked`] if somebody else has just asked; if the service cannot be started, or did not end by itself.
pub(super) fn ask(
    systemd: &Systemd,
    root: &Root,
    lock: Lock,
    request: &Request,
    mut view: View<'_>,
) -> Result<Followed, Failure> {
    if let Some(by) = Request::waits(root) {
        return Err(anyhow::Error::from(journal::Error::Locked(format!("{UNIT}, just asked by {by}"))).into());
    }
    // From here on a signal ends the view, and nothing between the request and its start.
    let interrupted = interruptions().context("handling signals")?;
    root.make_directory(Path::new(RUN), 0o700)?;
    let mut outputs = Vec::new();
    for path in output_paths() {
        let file = root.append(&path)?;
        // What an earlier run said must not be taken for the words of this one.
        file.set_len(0).context("emptying what the service said before")?;
        outputs.push(file);
    }
    let end = view.limit.map(|limit| Instant::now() + limit);
    request.leave(root)?;
    drop(lock);
    // One that was just ending is attached to, and does not take the request any more: it is started again then.
    for _ in 0..2 {
        let result = systemd
            .launch(UNIT)
            .map_err(anyhow::Error::from)
            .and_then(|launch| follow(systemd, launch, &interrupted, &mut outputs, &mut view, end));
        match result {
            Ok(Watched::Left) => return Ok(Followed::Left),
            Ok(Watched::Late) => return Ok(Followed::Late),
            Ok(Watched::Ended(ended)) if !root.exists(&request::path()) => {
                return outcome(root, &ended).map(Followed::Ended);
            }
            Ok(Watched::Ended(_)) => {}
            Err(error) => {
                root.remove(&request::path())?;
                return Err(error.into());
            }
        }
    }
    root.remove(&request::path())?;
    Err(anyhow!("{UNIT} did not begin; see why: systemctl status {UNIT}").into())
}

/// Attaches to the upgrade that the service has under way, where it goes to the release that is asked for, and shows it to its end. `None` where
/// the service is not at work, or ended what it was at before it had opened a run: then it is to be looked at anew.
///
/// # Errors
/// If the service is at work on another run, which is named; if it did not end by itself.
pub(super) fn attached(session: &mut Session, target: &Target) -> Result<Option<(Exit, String)>, Failure> {
    let Some(systemd) = service(session)? else { return Ok(None) };
    let Some(launch) = systemd.attach(UNIT).map_err(anyhow::Error::from)? else { return Ok(None) };
    let under_way = under_way(session, target)?;
    let interrupted = interruptions().context("handling signals")?;
    let root = &session.host.root;
    root.make_directory(Path::new(RUN), 0o700)?;
    let mut outputs = output_paths().iter().map(|path| root.append(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let (mut out, mut err): (Box<dyn Write>, Box<dyn Write>) = match &under_way {
        Some((id, by)) if !session.ui.is_json() => {
            session.ui.line(format!("Run {id} is under way, asked for by {by}: this follows it."));
            (Box::new(io::stdout()), Box::new(io::stderr()))
        }
        // It prints for who asked it, which may be text.
        _ => (Box::new(io::sink()), Box::new(io::sink())),
    };
    let mut view = View { out: &mut *out, err: &mut *err, limit: None };
    let Watched::Ended(ended) = follow(&systemd, launch, &interrupted, &mut outputs, &mut view, None)? else {
        session.ui.set("state", "running");
        session.ui.line(format!("Left the view. {UNIT} works on."));
        return Ok(Some((Exit::Locked, "status --wait".to_owned())));
    };
    let Some((id, _)) = under_way else { return Ok(None) };
    let exit = outcome(&session.host.root, &ended)?;
    let (plan, state) = runs::load(session, &id)?;
    session.ui.set("state", runs::phase(&state));
    session.ui.set("changed", true);
    for (name, value) in [("run", &id), ("from", &plan.from), ("to", &plan.to)] {
        session.ui.set(name, value.as_str());
    }
    if let Some(error) = &state.error {
        session.ui.set("reason", error.as_str());
    }
    if !session.ui.is_json() {
        session.ui.was_told();
    }
    Ok(Some((exit, "status".to_owned())))
}

/// The run that is open, and who asked for it; `None` where there is none yet.
fn under_way(session: &Session, target: &Target) -> Result<Option<(String, String)>, Failure> {
    let Some((id, state)) = session.open_run()? else { return Ok(None) };
    let (plan, _) = runs::load(session, &id)?;
    let asked = target.to.as_deref().map(super::release).transpose()?;
    let same = plan.kind == Kind::Upgrade && asked.is_none_or(|asked| asked.id == plan.to);
    if same && state.phase != Phase::RollingBack {
        return Ok(Some((id, state.by)));
    }
    let back = if state.phase == Phase::RollingBack { ", going back" } else { "" };
    let holder = format!("run {id} ({}{back}), asked for by {}", runs::name(&plan), state.by);
    Err(anyhow::Error::from(journal::Error::Locked(holder)).into())
}

/// What ended the following.
enum Watched {
    Ended(Ended),
    Left,
    Late,
}

/// What can be read from once SIGINT, SIGTERM or SIGHUP has come.
fn interruptions() -> io::Result<PipeReader> {
    let (reader, writer) = io::pipe()?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// Copies what the service says until it is at rest.
fn follow(
    systemd: &Systemd,
    launch: Launch,
    interrupted: &PipeReader,
    outputs: &mut [File],
    view: &mut View<'_>,
    end: Option<Instant>,
) -> anyhow::Result<Watched> {
    let news = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    for path in output_paths() {
        inotify::add_watch(&news, &path, inotify::WatchFlags::MODIFY)?;
    }
    let (over, alive) = io::pipe()?;
    let (sender, receiver) = mpsc::channel();
    let systemd = systemd.clone();
    std::thread::spawn(move || {
        sender.send(systemd.rest(launch)).ok();
        // Its closing is what is seen on the other side.
        drop(alive);
    });
    loop {
        copy(outputs, view);
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let limit = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let mut fds =
            [&news.as_fd(), &over.as_fd(), &interrupted.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        match poll(&mut fds, limit) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        let [said, ended, left_alone] = fds.map(|fd| fd.any().unwrap_or(true));
        if said {
            rustix::io::read(&news, &mut [0; 4096][..]).ok();
        }
        if left_alone {
            return Ok(Watched::Left);
        }
        if ended {
            copy(outputs, view);
            return Ok(Watched::Ended(receiver.recv()??));
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Watched::Late);
        }
    }
}

/// Passes on what is new. That nobody reads it any more (`| head`) does not end the work.
fn copy(outputs: &mut [File], view: &mut View<'_>) {
    let [out, err] = outputs else { return };
    io::copy(out, &mut view.out).and_then(|_| view.out.flush()).ok();
    io::copy(err, &mut view.err).and_then(|_| view.err.flush()).ok();
}

/// The exit code of the service, or why it has none.
fn outcome(root: &Root, ended: &Ended) -> Result<Exit, Failure> {
    let how = match ended.main {
        Some(Ok(code)) => match Exit::of(code) {
            Some(exit) => return Ok(exit),
            None => format!("ended with status {code}"),
        },
        Some(Err(signal)) => format!("was killed by signal {signal}"),
        None => "ended without a word".to_owned(),
    };
    let error = match ended.result.as_str() {
        "watchdog" => anyhow!("{UNIT} made no progress any more, and systemd ended it (watchdog)"),
        result => anyhow!("{UNIT} {how} (job {}, result {result})", ended.job),
    };
    let see = format!("see there why: journalctl -u {UNIT}");
    Err(match journal::current(root) {
        Some(_) => Failure::new(Exit::Interrupted, error)
            .hint(see)
            .hint("a run is open, and services may be held: keymgr-upgrade resume, or rollback")
            .next("status"),
        None => Failure::new(Exit::Failed, error).hint(see).hint("no run is open: nothing was changed").next("check"),
    })
}

/// Has the service carry out what was asked, and shows it.
pub(super) fn carried_out(session: &mut Session, systemd: &Systemd, lock: Lock, asked: Asked, word: Word) -> Outcome {
    let mut request = Request::new(asked, &session.by, &session.global);
    request.writers_stopped = word.writers_stopped;
    session.ui.line("Ctrl-C leaves this view, not the run. To stop it: systemctl stop keymgr-upgrade");
    let spinner = session.ui.spinner();
    let (mut out, mut err) = (Screen::new(io::stdout(), spinner.clone()), Screen::new(io::stderr(), spinner.clone()));
    let view = View { out: &mut out, err: &mut err, limit: None };
    if let Some(spinner) = spinner.clone() {
        let systemd = systemd.clone();
        std::thread::spawn(move || show_step(&systemd, &spinner));
    }
    let followed = ask(systemd, &session.host.root, lock, &request, view);
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    match followed? {
        Followed::Ended(exit) => {
            session.ui.was_told();
            Ok((exit, String::new()))
        }
        Followed::Left | Followed::Late => {
            session.ui.set("state", "running");
            session.ui.line(format!("Left the view. {UNIT} works on."));
            Ok((Exit::Locked, "status --wait".to_owned()))
        }
    }
}

/// Shows beside the spinner what the service is at, until there is nothing to show any more.
fn show_step(systemd: &Systemd, spinner: &ProgressBar) {
    while !spinner.is_finished() {
        if let Ok(text) = systemd.status_text(UNIT) {
            spinner.set_message(text);
        }
        // systemd signals changes of it too, but together with all others of the unit.
        std::thread::park_timeout(Duration::from_millis(300));
    }
}
