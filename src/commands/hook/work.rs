//! After package work: go on where everything is there, put it back where nothing was unpacked, else hold and say so.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::anyhow;

use super::super::follow::{self, Followed, View};
use super::super::{back, units};
use super::{Session, installed, open_run, packages, say, session};
use crate::cli::{Global, Units, Word};
use crate::deployment::{Held, held_path, recorded};
use crate::error::{Exit, Failure};
use crate::hook::{Awaits, Begun, Ended, Manager, OpenRun, Packages, Standing, ended, packages_path, standing};
use crate::journal::Lock;
use crate::request::{Asked, Request};
use crate::systemd::Systemd;
use crate::ui::{SPOKEN, pass_on, speak};

/// After the work of the apt or dpkg above us; never a reason for it to fail.
pub(super) fn after(global: Global) -> Result<Exit, Failure> {
    // Of nearly all package work there is no record, and nothing more to look at.
    let root = crate::files::Root::open(&global.root)?;
    let Some(record) = packages(&root)? else { return Ok(Exit::Done) };
    let ours = record.process.is_above_us();
    if !ours && record.process.is_alive() {
        return Ok(Exit::Done);
    }
    crate::units::package_work_ends(&root)?;
    let mut session = session(global, &record.command)?;
    // What another one broke off may have been finished by this one; what was begun on the data since is for an operator to take up.
    if !ours && open_run(&session)?.is_none_or(|run| run.past_code) {
        return Ok(Exit::Done);
    }
    let next = next(&session, &record)?;
    match next {
        Next::Nothing => {}
        Next::PutBack => say("nothing was unpacked; Barbican is started again when the package manager has ended."),
        Next::Release => release(&mut session)?,
        Next::Held(words) => held(&words, record.manager),
        Next::GoOn(None) if record.begun != Begun::Passed => {
            say(format!("{} looks what is to be done when the package manager has ended.", follow::UNIT));
        }
        Next::GoOn(asked) => {
            if Systemd::connect(None).map_err(anyhow::Error::from)?.is_stopping() {
                say("the host is being shut down: the upgrade goes on by hand. Services stay held.");
                say("Next: keymgr-upgrade resume");
                return Ok(Exit::Done);
            }
            let limit = session.host.settings.follow;
            go_on(&mut session, asked, &record, limit).map_err(|failure| resumable(&session, failure))?;
        }
    }
    Ok(Exit::Done)
}

/// What is to be done about package work that has ended, or is about to.
enum Next {
    /// Nothing.
    Nothing,
    /// Nothing was unpacked: undo what was done before.
    PutBack,
    /// Barbican's release is what it was: its services are free, those that ran are started.
    Release,
    /// All is there. `None`: an upgrade of what is left to do.
    GoOn(Option<Asked>),
    /// Half way: with what is in between.
    Held(String),
}

fn next(session: &Session, record: &Packages) -> Result<Next, Failure> {
    if Lock::holder(&session.host.root)?.is_some() {
        // Somebody is at work already.
        return Ok(Next::Nothing);
    }
    let now = installed(session)?;
    let target = record.changes.iter().find_map(|c| c.new.as_deref());
    let found = target.and_then(|version| crate::release::Catalogue::embedded().ok()?.by_version(version).ok());
    let going_to = found.map(|found| found.release.id.as_str()).unwrap_or_default();
    let Some(run) = open_run(session)? else {
        if record.begun == Begun::Held {
            let data = recorded(&session.host.root)?.map(|record| record.release);
            return Ok(match ended(&record.changes, &now, data.as_deref()) {
                Ended::AsBefore => Next::Release,
                Ended::Other => Next::GoOn(None),
                Ended::Between(words) => Next::Held(words),
            });
        }
        return Ok(match (record.begun, standing(&record.changes, &now, going_to)) {
            (Begun::Passed | Begun::Bypassed, Standing::There) => Next::GoOn(None),
            (Begun::Bypassed, Standing::Between(words)) => Next::Held(words),
            _ => Next::Nothing,
        });
    };
    if record.run.as_deref() != Some(run.id.as_str()) {
        return Ok(Next::Nothing);
    }
    Ok(of_run(record, &run, &standing(&record.changes, &now, run.awaited().unwrap_or(&run.to))))
}

fn of_run(record: &Packages, run: &OpenRun, standing: &Standing) -> Next {
    match (standing, run.awaits) {
        (Standing::There, Awaits::New) => Next::GoOn(Some(Asked::Resume { accept_changes: false })),
        (Standing::There, Awaits::Old) => Next::GoOn(Some(Asked::Rollback { discard_new_data: false })),
        // Only what our own gate began is undone, and only while nothing can have been changed.
        (Standing::Untouched, _) if record.begun == Begun::Opened && !run.past_code => Next::PutBack,
        (Standing::Between(words), _) => Next::Held(words.clone()),
        _ => Next::Nothing,
    }
}

fn held(words: &str, manager: Manager) {
    say(format!("HELD: Barbican's packages are half way: {words}"));
    say("Services stay down until they are whole. Then the upgrade goes on.");
    say(format!("Next: {}", manager.finish()));
}

/// Ends a hold that no run is open for.
fn release(session: &mut Session) -> Result<(), Failure> {
    // A unit that went with its package cannot be started, and is not missed.
    let root = &session.host.root;
    if root.exists(&held_path()) {
        let mut held: Held = root.read_json(&held_path())?;
        let there = Systemd::connect(None).map_err(anyhow::Error::from)?;
        let there = there.units(root, &held.running).map_err(anyhow::Error::from)?;
        held.running.retain(|unit| there.iter().any(|u| u.name == *unit && u.load_state != "not-found"));
        super::write(root, &held_path(), &held)?;
    }
    units::units(session, Units::Unhold)?;
    say("Barbican's release is what it was; its services are free again.");
    session.host.root.remove(&packages_path())?;
    super::refresh(session);
    Ok(())
}

/// Has the service go on, and shows it as long as `limit` allows.
fn go_on(session: &mut Session, asked: Option<Asked>, record: &Packages, limit: Duration) -> Result<Exit, Failure> {
    let root = &session.host.root;
    let quiet = limit.is_zero();
    session.in_service = false;
    let Some(systemd) = follow::service(session)? else {
        let error = anyhow!("{} is not there to go on with the upgrade; services stay held", follow::UNIT);
        return Err(Failure::new(Exit::Interrupted, error).next("resume"));
    };
    let Some(asked) = asked else {
        // What is held stays reported for as long as it is.
        if record.begun == Begun::Passed {
            root.remove(&packages_path())?;
        }
        systemd.launch(follow::UNIT).map_err(anyhow::Error::from)?;
        if !quiet {
            say(format!("packages are there; {} does what is left. See: keymgr-upgrade status", follow::UNIT));
        }
        return Ok(Exit::Done);
    };
    let lock = session.lock("the hook of the package manager")?;
    let mut global = session.global.clone();
    global.json = false;
    let request = Request::new(asked, &record.command, &global);
    if !quiet {
        say(format!("packages are there; following {}", follow::UNIT));
    }
    let (mut out, mut err) = (Screen::default(), Screen::default());
    let view = View { out: &mut out, err: &mut err, limit: Some(limit) };
    let followed = follow::ask(&systemd, root, lock, &request, view);
    out.end();
    err.end();
    if !matches!(followed, Ok(Followed::Left | Followed::Late)) {
        // Also where it failed or was killed: it was tried, and what comes next is the operator's word, not that of the watch.
        root.remove(&packages_path())?;
    }
    match followed? {
        Followed::Ended(exit) => Ok(exit),
        Followed::Left | Followed::Late => {
            if !quiet {
                say(format!("{} works on. See: keymgr-upgrade status --wait", follow::UNIT));
            }
            Ok(Exit::Done)
        }
    }
}

/// Waits until the package manager is gone, and sees to it that nothing is left half done.
pub(super) fn watch(global: Global) -> Result<Exit, Failure> {
    let root = crate::files::Root::open(&global.root)?;
    let record = loop {
        let Some(record) = packages(&root)? else { return Ok(Exit::Done) };
        record.process.wait(record.locked.then_some(record.manager.lock()))?;
        // Another one may have begun meanwhile, with a record of its own.
        if packages(&root)?.as_ref() == Some(&record) {
            break record;
        }
    };
    crate::units::package_work_ends(&root)?;
    let mut session = session(global, &record.command)?;
    let exit = match next(&session, &record)? {
        Next::Nothing => Exit::Done,
        Next::GoOn(asked) => go_on(&mut session, asked, &record, Duration::ZERO)?,
        Next::PutBack => {
            say("nothing was unpacked: Barbican is started again, as it was");
            let (exit, _) = back::rollback(&mut session, false, false, Word::default(), true)?;
            exit
        }
        Next::Release => {
            release(&mut session)?;
            Exit::Done
        }
        Next::Held(words) => {
            held(&words, record.manager);
            Exit::Done
        }
    };
    super::refresh(&session);
    Ok(exit)
}

/// Whatever kept the service from its work: with a run open, that is what to take up.
fn resumable(session: &Session, failure: Failure) -> Failure {
    match open_run(session) {
        Ok(Some(run)) => failure.next(if run.going_back { "rollback" } else { "resume" }),
        _ => failure,
    }
}

/// Lines of the service, on the package manager's screen: those of steps as they are, what is text with who says it, on each line.
#[derive(Default)]
struct Screen {
    line: Vec<u8>,
    /// A paragraph whose end has not come.
    text: String,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                self.hear(&line).iter().for_each(Saying::say);
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What stands on the package manager's screen.
#[derive(Debug, PartialEq, Eq)]
enum Saying {
    /// A step, as it is.
    Step(String),
    /// A paragraph, with who says it on each line.
    Text(String),
}

impl Saying {
    fn say(&self) {
        match self {
            Self::Step(line) => pass_on(line),
            Self::Text(text) => speak(crate::ui::Stream::Out, text, 0),
        }
    }
}

impl Screen {
    /// What is whole now that this line has come.
    fn hear(&mut self, line: &str) -> Vec<Saying> {
        if line.starts_with([' ', '0', '1', '2']) {
            return self.paragraph().into_iter().chain([Saying::Step(line.to_owned())]).collect();
        }
        let begins = ["error:", "hint:", "Next:"].iter().any(|word| line.starts_with(word));
        let before = if begins { self.paragraph() } else { None };
        self.text.push_str(line);
        // What is longer was wrapped for a whole screen, and may go on.
        let goes_on = line.chars().count() > SPOKEN;
        if goes_on {
            self.text.push(' ');
        }
        before.into_iter().chain(if goes_on { None } else { self.paragraph() }).collect()
    }

    /// What has come of a paragraph.
    fn paragraph(&mut self) -> Option<Saying> {
        let text = std::mem::take(&mut self.text);
        (!text.is_empty()).then_some(Saying::Text(text))
    }

    /// Says what is left.
    fn end(&mut self) {
        self.paragraph().iter().for_each(Saying::say);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::FORMAT;
    use crate::process::Process;

    fn decided(begun: Begun, awaits: Awaits, past_code: bool, standing: &Standing) -> &'static str {
        let record = Packages {
            format: FORMAT,
            manager: Manager::Dpkg,
            process: Process { pid: 1, start: 1 },
            locked: true,
            command: "apt-get".into(),
            begun,
            run: Some("r".into()),
            changes: Vec::new(),
        };
        let (from, to) = ("zed".to_owned(), "2023.1".to_owned());
        let run = OpenRun { id: "r".into(), from, to, awaits, past_code, going_back: awaits == Awaits::Old };
        match of_run(&record, &run, standing) {
            Next::Nothing => "nothing",
            Next::PutBack => "put back",
            Next::GoOn(Some(Asked::Resume { .. })) => "resume",
            Next::GoOn(_) => "rollback",
            Next::Held(_) => "held",
            Next::Release => "release",
        }
    }

    #[test]
    fn what_follows_from_package_work() {
        let between = Standing::Between("barbican-common 1:16.0.2-1 (half-configured)".into());
        for (begun, awaits, past_code, standing, wanted) in [
            (Begun::Opened, Awaits::New, false, &Standing::There, "resume"),
            (Begun::Adopted, Awaits::New, false, &Standing::There, "resume"),
            (Begun::Adopted, Awaits::Old, true, &Standing::There, "rollback"),
            (Begun::Opened, Awaits::New, false, &Standing::Untouched, "put back"),
            // Killed in the first half, or while that was undone.
            (Begun::Opened, Awaits::Nothing, false, &Standing::Untouched, "put back"),
            // It was an operator who opened it: it goes on waiting.
            (Begun::Adopted, Awaits::New, false, &Standing::Untouched, "nothing"),
            // Data may be changed: what is as before is not undone by itself.
            (Begun::Opened, Awaits::New, true, &Standing::Untouched, "nothing"),
            (Begun::Opened, Awaits::New, false, &between, "held"),
            (Begun::Adopted, Awaits::Old, true, &between, "held"),
            (Begun::Opened, Awaits::Nothing, false, &Standing::There, "nothing"),
        ] {
            assert_eq!(decided(begun, awaits, past_code, standing), wanted, "{begun:?} {awaits:?} {standing:?}");
        }
    }
    #[test]
    fn paragraphs_of_the_service_are_put_together_again() {
        let mut screen = Screen::default();
        let long = format!("error: {}", "word ".repeat(SPOKEN / 5).trim_end());
        assert_eq!(screen.hear("12:00:01 stop units ... done"), [Saying::Step("12:00:01 stop units ... done".into())]);
        assert_eq!(screen.hear(&long), []);
        assert_eq!(screen.hear("and its end"), [Saying::Text(format!("{long} and its end"))]);
        // One that was as long as the screen is wide is over where the next begins.
        assert_eq!(screen.hear(&long), []);
        let both = [Saying::Text(format!("{long} ")), Saying::Text("hint: short".into())];
        assert_eq!(screen.hear("hint: short"), both);
        assert_eq!(screen.hear(&long), []);
        assert_eq!(screen.hear("  0.1 s"), [Saying::Text(format!("{long} ")), Saying::Step("  0.1 s".into())]);
        assert_eq!(screen.paragraph(), None);
    }
}
