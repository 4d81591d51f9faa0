//! `db`: the schema on its own, under the names of barbican-db-manage.

use anyhow::{Context as _, anyhow};
use serde_json::json;

use super::locks::{self, Locks};
use super::plan::{number, statements, who};
use super::{Outcome, Session, run};
use crate::cli::{Db, Word};
use crate::db::{self, Access, Database, Dialect, Ledger, Orphans, Proof};
use crate::deployment::{Deployment, Depth, Site};
use crate::error::{Exit, Failure};
use crate::plan::{Kind, Plan, backup_step, schema_steps};
use crate::release::Catalogue;
use crate::settings::Backup;
use crate::step::Step;

pub(super) fn db(session: &mut Session, verb: Db) -> Outcome {
    match verb {
        Db::Current => current(session),
        Db::History => history(session),
        Db::Upgrade { revision, word, yes } => upgrade(session, revision.as_deref(), word, yes),
        Db::Verify { fresh } => verify(session, fresh),
        Db::RepairHex { dry_run, word, yes } => super::hex::repair(session, dry_run, word, yes),
        Db::Stamp { revision, without_proof, word } => stamp(session, &revision, without_proof, word),
        Db::Unlock { yes } => locks::unlock(session, yes),
    }
}

/// The deployment as far as the database needs it. The release may be unknown: a revision alone does for `db`.
fn deployment(session: &Session) -> Result<Deployment, Failure> {
    Ok(Deployment::look(&session.host, session.global.from.as_deref(), Depth::Shallow)?)
}

fn ledger(database: &Database) -> Result<Option<String>, Failure> {
    match database.revision().map_err(anyhow::Error::from)? {
        Ledger::At(revision) => Ok(Some(revision)),
        Ledger::NoTable | Ledger::Empty => Ok(None),
    }
}

/// The database, found without knowing the release.
fn open(session: &Session, access: Access) -> Result<Database, Failure> {
    let site = super::any_site(session)?;
    Ok(site.open(access)?)
}

fn current(session: &mut Session) -> Outcome {
    let database = open(session, Access::ReadOnly)?;
    let revision = ledger(&database)?;
    session.ui.set("revision", revision.clone());
    session.ui.set("changed", false);
    let head = db::head();
    match &revision {
        Some(at) if at == head => session.ui.line(format!("{at} (head)")),
        Some(at) => session.ui.line(at),
        None => session.ui.line("none: alembic_version is empty or missing"),
    }
    let next = if revision.as_deref() == Some(head) { "db verify" } else { "db upgrade" };
    Ok((Exit::Done, next.to_owned()))
}

fn history(session: &mut Session) -> Outcome {
    let revision = open(session, Access::ReadOnly).ok().and_then(|d| ledger(&d).ok().flatten());
    let mut list = Vec::new();
    for one in db::chain() {
        let mark = if revision.as_deref() == Some(one.id.as_str()) { "->" } else { "" };
        session.ui.row(&format!("{mark:3}{:14} {:9}", one.id, one.release), &one.summary);
        list.push(json!({"revision": one.id, "down": one.down, "release": one.release, "summary": one.summary}));
    }
    session.ui.set("revisions", json!(list));
    session.ui.set("revision", revision);
    session.ui.set("changed", false);
    Ok((Exit::Done, "db current".to_owned()))
}

fn verify(session: &mut Session, fresh: bool) -> Outcome {
    let database = open(session, Access::ReadOnly)?;
    session.ui.set("changed", false);
    let Some(revision) = ledger(&database)? else {
        return Err(Failure::new(Exit::Blocked, anyhow!("the database has no revision to verify"))
            .hint("record the one that it has: keymgr-upgrade db stamp REVISION")
            .next("db history"));
    };
    let verification = database.verify(&revision).map_err(anyhow::Error::from)?;
    session.ui.set("revision", revision.as_str());
    session.ui.set("matches", verification.matches.clone());
    session.ui.set("differences", json!(verification.differences));
    session.ui.set("leftovers", json!(verification.leftovers));
    session.ui.set("extras", json!(verification.extras));
    for extra in &verification.extras {
        session.ui.paragraph(&format!("besides: {extra}"), 0);
    }
    if let Some(name) = &verification.matches {
        session.ui.line(format!("ok    {revision}: {name}"));
        if fresh {
            leftovers(session, &database, &verification.leftovers);
        }
        return Ok((Exit::Done, "kek status".to_owned()));
    }
    if let Some(next) = &verification.half_done {
        session.ui.line(format!("WARN  {revision}: a migration to {next} was begun and not finished"));
        for difference in &verification.differences {
            session.ui.paragraph(difference, 6);
        }
        return Ok((Exit::Blocked, "db upgrade".to_owned()));
    }
    session
        .ui
        .line(format!("FAIL  {revision}: {} differences from the nearest known shape", verification.differences.len()));
    for difference in &verification.differences {
        session.ui.paragraph(difference, 6);
    }
    Ok((Exit::Blocked, "db history".to_owned()))
}

/// What an aged database still has different from a fresh installation, with the reasons.
fn leftovers(session: &mut Session, database: &Database, leftovers: &[String]) {
    if leftovers.is_empty() {
        session.ui.line("nothing differs from a fresh installation");
    }
    let mut last = None;
    for leftover in leftovers {
        session.ui.paragraph(leftover, 6);
        let why = database.why(leftover);
        if let Some(why) = why.filter(|_| why != last) {
            session.ui.paragraph(why, 8);
        }
        last = why;
    }
}

fn stamp(session: &mut Session, revision: &str, without_proof: bool, word: Word) -> Outcome {
    let _lock = session.lock_alone("db stamp")?;
    if db::position(revision).is_err() {
        return Err(Failure::usage(format!("{revision} is not a revision of Barbican")).next("db history"));
    }
    let site = super::any_site(session)?;
    session.nothing_runs(&site)?;
    let _database = session.alone(&site, word)?;
    let mut database = open(session, Access::ReadWrite)?;
    let before = ledger(&database)?;
    let proof = if without_proof { Proof::WithoutProof } else { Proof::Verified };
    database.stamp(revision, proof).map_err(|e| {
        let refused = matches!(e, db::Error::UnknownShape { .. });
        let failure = Failure::new(if refused { Exit::Blocked } else { Exit::Failed }, e).next("db verify");
        if refused { failure.hint("on your own word: --without-proof") } else { failure }
    })?;
    let changed = before.as_deref() != Some(revision);
    session.ui.set("changed", changed);
    session.ui.set("revision", revision);
    session.ui.line(format!(
        "{} -> {revision}{}",
        before.as_deref().unwrap_or("none"),
        if changed { "" } else { " (unchanged)" }
    ));
    Ok((Exit::Done, "db verify".to_owned()))
}

fn upgrade(session: &mut Session, revision: Option<&str>, word: Word, yes: bool) -> Outcome {
    let locks = Locks::of(session.lock_alone("db upgrade")?, word);
    migrate(session, revision, locks, yes)
}

fn migrate(session: &mut Session, revision: Option<&str>, mut locks: Locks, yes: bool) -> Outcome {
    let head = db::head();
    let to = revision.filter(|r| *r != "head").unwrap_or(head);
    let Ok(place) = db::position(to) else {
        return Err(Failure::usage(format!("{to} is not a revision of Barbican")).next("db history"));
    };
    let site = super::any_site(session)?;
    session.nothing_runs(&site)?;
    let at = match site.open(Access::ReadOnly) {
        Ok(database) if database.is_empty_schema().map_err(anyhow::Error::from)? => {
            return create(session, to, locks, yes, true);
        }
        Ok(database) => ledger(&database)?,
        Err(error) if matches!(error.downcast_ref(), Some(db::Error::Missing { .. })) || !site.has_database() => {
            return create(session, to, locks, yes, false);
        }
        Err(error) => return Err(error.into()),
    };
    let Some(at) = at else {
        return Err(Failure::new(Exit::Blocked, anyhow!("the database has tables but no revision"))
            .hint("record the one that it has: keymgr-upgrade db stamp REVISION")
            .next("db verify"));
    };
    if db::position(&at).is_ok_and(|now| now >= place) {
        session.ui.line(format!("{at}: nothing to do"));
        session.ui.set("changed", false);
        return Ok((Exit::Done, "db verify".to_owned()));
    }
    let deployment = deployment(session).or_else(|_| super::deployment_at(session, &at))?;
    let plan = schema_plan(session, &deployment.site, &at, to)?;
    blockers(session, &deployment, &at, to)?;
    for (revision, sql) in statements(&deployment, &plan.steps)? {
        session.ui.line(format!("{revision}: {}", number(sql.len(), "statement")));
    }
    if !session.confirm(yes, "Proceed?", &format!("db upgrade {to}"))? {
        return Ok((Exit::Done, "db current".to_owned()));
    }
    if locks.lock_database(&site, Some(&at))? {
        return migrate(session, revision, locks, yes);
    }
    // Only under the lock: another run at work is waited for, and its sessions are no strangers.
    session.nobody_else(&site, locks.word, true)?;
    run::begin(session, locks, plan, deployment, &[], &who())
}

/// One step a release, also where the target is in the middle of one.
fn schema_plan(session: &Session, site: &Site, at: &str, to: &str) -> Result<Plan, Failure> {
    let catalogue = Catalogue::embedded()?;
    let last = catalogue.release_of_revision(to).context("the revision belongs to no release")?;
    let schema = schema_steps(Some(at), last)?.into_iter().map(|step| match step {
        Step::MigrateSchema { release, from, to: end } if db::position(&end).ok() > db::position(to).ok() => {
            Step::MigrateSchema { release, from, to: to.to_owned() }
        }
        step => step,
    });
    let schema: Vec<Step> = schema.collect();
    let backup = backup_step(session.host.settings.backup, true, &schema);
    let steps = backup.into_iter().chain(schema).collect();
    Ok(Plan::of(Kind::Db, &session.host, site, steps))
}

fn blockers(session: &mut Session, deployment: &Deployment, at: &str, to: &str) -> Result<(), Failure> {
    if let Some(problem) = deployment.database.as_ref().ok().and_then(|facts| facts.problems.first()) {
        let what = match session.host.settings.backup {
            Backup::Full | Backup::Touched => "no backup can be taken",
            Backup::None => "a migration would fail",
        };
        let error = anyhow!("{what}: {}", problem.title);
        return Err(Failure::new(Exit::Blocked, error).hint(problem.remedy.clone()).next("check"));
    }
    let database = deployment.site.open(Access::ReadOnly)?;
    database.leads_to(at, to).map_err(|e| Failure::new(Exit::Blocked, e).next("db verify"))?;
    let offences = database.preconditions(Some(at), to, session.host.settings.orphans).map_err(anyhow::Error::from)?;
    let Some(first) = offences.first() else { return Ok(()) };
    for offence in &offences {
        session.ui.line(offence.line());
        for row in &offence.rows {
            session.ui.paragraph(row, 6);
        }
    }
    Err(Failure::new(Exit::Blocked, anyhow!("rows stand in the way: {}", first.line()))
        .hint(first.remedy.clone())
        .next("db verify"))
}

/// A fresh schema, in an empty database or a new file.
fn create(session: &mut Session, to: &str, mut locks: Locks, yes: bool, exists: bool) -> Outcome {
    let site = super::any_site(session)?;
    // What is there and was refused, a link for instance, is not nothing.
    if !exists && site.new_path(&session.host).is_ok_and(|path| path.symlink_metadata().is_ok()) {
        site.path()?;
    }
    session.ui.line(format!("{}: no tables yet; a fresh schema of revision {to}", site.shown()));
    if !session.confirm(yes, "Create it?", &format!("db upgrade {to}"))? {
        return Ok((Exit::Done, "db current".to_owned()));
    }
    if locks.lock_database(&site, None)? {
        return migrate(session, Some(to), locks, yes);
    }
    session.nobody_else(&site, locks.word, true)?;
    if exists || site.url().is_some_and(|url| url.dialect() != Dialect::Sqlite) {
        let mut database = site.open(Access::ReadWrite)?;
        database.migrate(None, to, Orphans::Refuse).map_err(anyhow::Error::from)?;
    } else {
        let path = site.new_path(&session.host)?;
        Database::create(&path, to).map_err(anyhow::Error::from)?;
    }
    session.ui.set("changed", true);
    session.ui.set("revision", to);
    Ok((Exit::Done, "db verify".to_owned()))
}
