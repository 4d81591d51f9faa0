//! `rehearse`: the plan carried out on a copy of the data, with the real keys. The deployment is only read.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use openssl::rand::rand_bytes;
use serde_json::json;

use super::look::{Look, look, look_on};
use super::{Outcome, Session, any_site, backup, plan, runs};
use crate::cli::Target;
use crate::crash;
use crate::db::{self, Access, Database, Dialect, Ledger, Url};
use crate::deployment::{Deployment, Depth, Host, Site, url_in};
use crate::engine::{self, Ended, Progress, Run};
use crate::error::{Exit, Failure};
use crate::files::Root;
use crate::journal::{self, Journal, Lock, Phase};
use crate::plan::{Kind, Plan};
use crate::rehearsal::{Rehearsed, Report, Scratch, directory, part_of};
use crate::step::{copy_of_backup, size};
use crate::time;
use crate::ui::Ui;

/// The name of the setting for a database of the operator's.
const SETTING: &str = "[rehearsal] connection_file";

pub(super) fn rehearse(session: &mut Session, target: &Target, backup: Option<&str>, only_clean: bool) -> Outcome {
    let _lock = session.lock_alone("rehearse")?;
    engine::stop_at_step_borders().context("handling signals")?;
    let left = left(&session.host.root);
    clean(session)?;
    if left {
        session.ui.line("Removed what an earlier rehearsal had left.");
    }
    session.ui.set("changed", left);
    if only_clean {
        if !left {
            session.ui.line("No rehearsal has left anything.");
        }
        return Ok((Exit::Done, "status".to_owned()));
    }
    let look = look(session, target, Depth::Shallow)?;
    look.draft()?;
    if let Some((holder, _)) = look.deployment.site.lock_holder()? {
        let error = anyhow!("{} is worked on: the lock is of {holder}", look.deployment.site.shown());
        return Err(Failure::new(Exit::Locked, error).next("rehearse"));
    }
    let rehearsed = on_a_copy(session, target, look, backup);
    let cleaned = clean(session);
    let (look, report) = rehearsed?;
    cleaned?;
    told(session, &look, report.as_ref())
}

/// Whether a rehearsal has left anything, or is at work.
pub(super) fn left(root: &Root) -> bool {
    root.exists(&directory())
}

/// Says of a rehearsal that was killed what is to be done about it.
pub(super) fn mention(session: &mut Session) {
    let root = &session.host.root;
    if left(root) && matches!(Lock::holder(root), Ok(None)) {
        session.ui.set("rehearsal_left", true);
        session.ui.line("A rehearsal was killed and left a copy: keymgr-upgrade rehearse --clean");
    }
}

/// What the last rehearsal found, for the verbs before an upgrade.
pub(super) fn quote(root: &Root, ui: &mut Ui, look: &Look) {
    let (Some(report), Ok(draft), Ok(database)) = (Report::last(root), &look.draft, &look.deployment.database) else {
        return;
    };
    let outgrown = report.outgrown(&draft.plan, database.whole.all());
    let but = if outgrown.is_empty() { String::new() } else { format!(". Outgrown: {}", outgrown.join("; ")) };
    ui.row("rehearsed", &format!("{}{but}", report.words()));
    ui.set(
        "rehearsal",
        json!({"at": report.at, "passed": report.error.is_none(), "window": report.window(), "outgrown": outgrown}),
    );
}

/// Copies, looks at every key and secret of the copy, plans with that, and carries it out.
fn on_a_copy(
    session: &mut Session,
    target: &Target,
    look: Look,
    backup: Option<&str>,
) -> Result<(Look, Option<Report>), Failure> {
    let mut deployment = look.deployment;
    session.ui.line(format!("A rehearsal on a copy of {}; it is only read.", deployment.site.shown()));
    let begin = Instant::now();
    let (host, mut site) = copy(session, &deployment, backup)?;
    let copied = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    session.ui.row("copied", &time::span(u128::from(copied)));
    deployment.survey = site.survey().map_err(|e| format!("{e:#}"));
    let look = look_on(session, target, deployment)?;
    let draft = look.draft()?;
    if let Some(why) = &draft.unknown {
        return Err(Failure::new(Exit::Blocked, anyhow!("{why}")).next(format!("check {}", look.arguments())));
    }
    if let Some(conflict) = draft.conflicts.first() {
        return Err(Failure::new(Exit::Blocked, conflict.clone()).next(format!("check {}", look.arguments())));
    }
    if look.is_done() || engine::STOP.load(Ordering::SeqCst) {
        return Ok((look, None));
    }
    let (steps, error) = match carried_out(session, &host, &mut site, &look)? {
        (steps, Ended::Done) => (steps, None),
        (steps, Ended::Failed { error, .. }) => (steps, Some(format!("{error:#}"))),
        (_, Ended::Stopped { .. } | Ended::Code | Ended::Waiting(_)) => return Ok((look, None)),
    };
    let report = Report {
        format: 1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at: time::now(),
        from: draft.plan.from.clone(),
        to: draft.plan.to.clone(),
        plan: part_of(&draft.plan).digest(),
        database: look.deployment.site.shown(),
        rows: look.deployment.database.as_ref().map_or(0, |d| d.whole.all()),
        error,
        rehearsed: steps.iter().map(|s| s.milliseconds).sum(),
        steps,
        copied,
        earlier: earlier(session)?,
    };
    report.keep(&session.host.root)?;
    Ok((look, Some(report)))
}

/// The steps, by the engine of every run, in the copy's own state directory.
fn carried_out(session: &mut Session, host: &Host, site: &mut Site, look: &Look) -> Result<(Vec<Rehearsed>, Ended)> {
    let Ok(draft) = &look.draft else { bail!("there is no plan") };
    let plan = Plan { database: (site.shown(), site.place(&host.root)), ..part_of(&draft.plan) };
    let baseline = look.deployment.survey.as_ref().map_err(|why| anyhow!(why.clone()))?;
    let lock = Lock::take(&host.root, "rehearse")?;
    let mut run = Run::begin(&host.root, lock, plan, baseline, &[], &session.by)?;
    let mut steps = Vec::new();
    let ended = run.forward(&mut run.context(host, site), &mut |progress| {
        if let Progress::End { step, word, milliseconds, detail, .. } = &progress {
            steps.push(Rehearsed {
                step: step.title(),
                word: (*word).to_owned(),
                detail: (*detail).to_owned(),
                milliseconds: u64::try_from(*milliseconds).unwrap_or(u64::MAX),
            });
        }
        session.ui.progress(&progress);
    })?;
    if matches!(ended, Ended::Done) {
        steps.extend(between_halves(host, site, look, &run)?);
    }
    Ok((steps, ended))
}

/// Where the code is still to come, a run then looks whether its copy is whole and holds what the database holds, with the services down. So much is
/// read for that.
fn between_halves(host: &Host, site: &Site, look: &Look, run: &Run) -> Result<Option<Rehearsed>> {
    let awaits = look.draft.as_ref().is_ok_and(|draft| draft.plan.code().is_some());
    if !awaits || !run.plan.backs_up() || look.deployment.code.is(&run.plan.to) {
        return Ok(None);
    }
    let begin = Instant::now();
    copy_of_backup(&host.root, &run.directory)?;
    site.open(Access::ReadOnly)?.fingerprint()?;
    Ok(Some(Rehearsed {
        step: "look at the copy".to_owned(),
        word: "ok".to_owned(),
        detail: "again, when the code has come".to_owned(),
        milliseconds: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}

/// Lays out the files and a copy of the database, and whatever stands in for the host there.
fn copy(session: &Session, deployment: &Deployment, backup: Option<&str>) -> Result<(Host, Site), Failure> {
    let root = &session.host.root;
    let facts = deployment.database.as_ref().map_err(|why| Failure::new(Exit::Blocked, anyhow!(why.clone())))?;
    // Of a file the copy, its growth and the backup of it; of a server's the dump that fills the copy, then the backup.
    let times = if facts.dialect == Dialect::Sqlite { 3 } else { 2 };
    let needed = facts.size.saturating_mul(times).saturating_add(16 << 20);
    if needed > deployment.free {
        let error =
            anyhow!("a rehearsal needs {} in {}, {} are free", size(needed), journal::STATE, size(deployment.free));
        return Err(Failure::new(Exit::Blocked, error).hint("free space there; backups: keymgr-upgrade backup prune"));
    }
    let inside = directory().join("root");
    root.make_directory(&inside, 0o700)?;
    crash::point("rehearsal begun");
    let scratch = Root::open(&root.real_path(&inside)?)?;
    let taken = backup.map(|id| of_run(session, deployment, id)).transpose()?;
    let url = match deployment.site.reached()? {
        None => copy_file(deployment, &scratch, taken.as_deref())?,
        Some(url) => copy_on_server(session, deployment, url, taken.as_deref())?,
    };
    let host = session.host.stand_in(scratch, url, deployment)?;
    let site = Site::load(&host, &host.config()?, deployment.from.release)?;
    crash::point("rehearsal laid out");
    Ok((host, site))
}

/// The copy that a run took, if it is whole and of the revision that the database is at.
fn of_run(session: &Session, deployment: &Deployment, id: &str) -> Result<PathBuf, Failure> {
    let Some(about) = backup::about(session, id) else {
        return Err(Failure::new(Exit::Failed, anyhow!("run {id} has no backup")).next("backup list"));
    };
    if about.part.is_some() {
        return Err(
            Failure::new(Exit::Blocked, anyhow!("the backup of run {id} is of some tables only")).next("backup list")
        );
    }
    if Some(about.revision.as_str()) != deployment.revision() || about.database != deployment.site.shown() {
        let error =
            anyhow!("the backup is of {} at revision {}: not what is to be upgraded", about.database, about.revision);
        return Err(Failure::new(Exit::Blocked, error).next("backup list"));
    }
    Ok(copy_of_backup(&session.host.root, &journal::run_directory(id))?)
}

fn copy_file(deployment: &Deployment, scratch: &Root, taken: Option<&Path>) -> Result<Url> {
    let path = scratch.path().join("database.sqlite");
    match taken {
        Some(taken) => Database::open_file(taken, Access::ReadOnly, std::time::Duration::ZERO)?.copy_to(&path),
        None => deployment.site.open(Access::ReadOnly)?.copy_to(&path),
    }
    .context("copying the database")?;
    Ok(Url::parse(&"sqlite:////database.sqlite".into())?)
}

/// A database of our own beside the one at `url`, or the operator's empty one; it is on disk before it is made.
fn copy_on_server(session: &Session, deployment: &Deployment, url: &Url, taken: Option<&Path>) -> Result<Url, Failure> {
    let Host { root, settings, .. } = &session.host;
    let wait = settings.lock_timeout;
    let scratch = match &settings.rehearsal_connection_file {
        Some(file) => {
            let scratch = url_in(root, SETTING, file, url)?;
            refuse_filled(&scratch, wait)?;
            Scratch::Tables { place: scratch.place() }.record(root)?;
            scratch
        }
        None => {
            let mut random = [0; 4];
            rand_bytes(&mut random).context("random bytes")?;
            let name = format!("keymgr_rehearsal_{:08x}", u32::from_be_bytes(random));
            Scratch::Database { place: url.with_database(&name).place(), name: name.clone() }.record(root)?;
            crash::point("scratch database recorded");
            db::create(url, &name, wait).map_err(|error| may_not(url, error))?
        }
    };
    crash::point("scratch database made");
    let directory = directory().join("dump");
    root.make_directory(&directory, 0o700)?;
    let dump = match taken {
        Some(taken) => taken.to_owned(),
        None => {
            let dump = root.real_path(&directory)?.join("database");
            deployment.site.open(Access::ReadOnly)?.copy_to(&dump).context("copying the database")?;
            dump
        }
    };
    let database = Database::open(&scratch, Path::new(""), Access::ReadWrite, wait).map_err(anyhow::Error::from)?;
    database.fill_from(&dump).context("filling the copy")?;
    crash::point("scratch database filled");
    root.remove_tree(&directory)?;
    Ok(scratch)
}

fn refuse_filled(scratch: &Url, wait: std::time::Duration) -> Result<()> {
    let database = Database::open(scratch, Path::new(""), Access::ReadOnly, wait).context(SETTING)?;
    if database.revision()? != Ledger::NoTable || !database.is_empty_schema()? {
        bail!("{SETTING}: {scratch} is not empty: a rehearsal takes an empty database only, and empties it again");
    }
    Ok(())
}

/// Names the privilege, where that is what is missing.
fn may_not(url: &Url, error: db::Error) -> Failure {
    let denied = matches!(error, db::Error::Denied { .. });
    let failure = Failure::new(Exit::Blocked, anyhow::Error::from(error).context("making a database to rehearse in"));
    if !denied {
        return failure;
    }
    let user = url.user().unwrap_or("the user of the URL");
    let privilege = match url.dialect() {
        Dialect::Mysql => format!("GRANT ALL ON `keymgr\\_rehearsal\\_%`.* TO {user}"),
        Dialect::Postgresql | Dialect::Sqlite => format!("ALTER ROLE {user} CREATEDB"),
    };
    failure
        .hint(format!("the user may not create databases; for the time of the rehearsal: {privilege}"))
        .hint(format!("or make an empty database, and name it: {SETTING}, see keymgr-upgrade.conf(5)"))
}

/// Removes what a rehearsal made; nothing there is no error.
fn clean(session: &Session) -> Result<(), Failure> {
    let root = &session.host.root;
    if !left(root) {
        return Ok(());
    }
    if let Some(scratch) = Scratch::left(root)? {
        let site = any_site(session)?;
        let wait = session.host.settings.lock_timeout;
        let url = site.reached()?;
        let (there, place) = match (&scratch, url, &session.host.settings.rehearsal_connection_file) {
            (Scratch::Database { name, place }, Some(url), _) => (Some(url.with_database(name)), place),
            (Scratch::Tables { place }, Some(url), Some(file)) => (Some(url_in(root, SETTING, file, url)?), place),
            (Scratch::Database { place, .. } | Scratch::Tables { place }, ..) => (None, place),
        };
        match (&scratch, url, there.filter(|there| there.place() == *place)) {
            (Scratch::Database { name, .. }, Some(url), Some(_)) => {
                db::remove(url, name, wait).with_context(|| format!("dropping database {name}"))?;
            }
            (Scratch::Tables { .. }, _, Some(url)) => {
                let database = Database::open(&url, Path::new(""), Access::ReadWrite, wait);
                database.and_then(|d| d.clear()).with_context(|| format!("emptying {url}"))?;
            }
            _ => {
                let error = anyhow!("a rehearsal left database {place}, and the configuration leads elsewhere now");
                let left = root.shown(&directory());
                return Err(Failure::new(Exit::Failed, error)
                    .hint(format!("drop it there, or empty it where it is yours; then: rm -r {}", left.display())));
            }
        }
        crash::point("scratch database removed");
    }
    Ok(root.remove_tree(&directory())?)
}

/// How long the newest upgrade that was carried out took for what no rehearsal does.
fn earlier(session: &Session) -> Result<Option<(String, u64)>, Failure> {
    let root = &session.host.root;
    for id in journal::runs(root)?.into_iter().rev() {
        let Ok((plan, state)) = runs::load(session, &id) else { continue };
        if plan.kind != Kind::Upgrade || state.phase != Phase::Done {
            continue;
        }
        let rehearsed = part_of(&plan).steps;
        let (mut seconds, mut last) = (0, None);
        for record in Journal::read(root, &journal::run_directory(&id))? {
            if let (Some(step), Some(last)) = (record.event.step().and_then(|i| plan.steps.get(i)), last)
                && !rehearsed.contains(step)
            {
                seconds += record.at.saturating_sub(last);
            }
            last = Some(record.at);
        }
        return Ok(Some((id, seconds * 1000)));
    }
    Ok(None)
}

/// The last words.
fn told(session: &mut Session, look: &Look, report: Option<&Report>) -> Outcome {
    session.ui.set("from", look.deployment.from.release.id.as_str());
    session.ui.set("to", look.to.id.as_str());
    let Some(report) = report else {
        let stopped = engine::STOP.load(Ordering::SeqCst);
        session.ui.set("state", if stopped { "interrupted" } else { "done" });
        session.ui.line(if stopped {
            "Stopped, as asked; the copy is removed.".to_owned()
        } else {
            format!("Already at {}: nothing to rehearse.", look.to.name)
        });
        return Ok(if stopped { (Exit::Failed, "rehearse".to_owned()) } else { (Exit::Done, "status".to_owned()) });
    };
    session.ui.set("rehearsal", json!(report));
    session.ui.set("window", report.window());
    if let Ok(database) = &look.deployment.database {
        let needed = database.size.saturating_mul(2);
        let disk = format!("backup about {}, {} free in {}", size(needed), size(look.deployment.free), journal::STATE);
        session.ui.row("disk", &disk);
    }
    session.ui.row("not tried", "stop and start of services, packages, hooks of the site, other hosts");
    match &report.error {
        None => {
            session.ui.row("window", &report.window_words());
            session.ui.set("state", "passed");
            session.ui.line(format!("PASSED: {} -> {} on this data.", look.deployment.from.release.name, look.to.name));
            Ok((Exit::Done, plan::next(look)))
        }
        Some(error) => {
            session.ui.set("state", "failed");
            session.ui.line("FAILED. Nothing of the deployment was changed.");
            session.ui.paragraph(error, 2);
            Ok((Exit::Failed, format!("check {}", look.arguments())))
        }
    }
}
