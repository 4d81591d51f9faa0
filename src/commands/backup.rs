//! `backup`: the copies that runs took of the database.

use anyhow::anyhow;
use serde_json::json;

use super::plan::number;
use super::{Outcome, Session, runs};
use crate::cli::{Backup, Word};
use crate::error::{Exit, Failure};
use crate::journal::{self, Phase};
use crate::step::{About, Context, Known, restore_backup, size};

pub(super) fn backup(session: &mut Session, verb: Backup) -> Outcome {
    match verb {
        Backup::List => list(session),
        Backup::Restore { run, word, yes } => restore(session, &run, word, yes),
        Backup::Prune { keep } => {
            let _lock = session.lock_alone("backup prune")?;
            let removed = prune(session, keep)?;
            session.ui.set("changed", !removed.is_empty());
            session.ui.set("removed", removed.clone());
            session.ui.paragraph(&format!("{} removed {}", number(removed.len(), "backup"), removed.join(" ")), 0);
            Ok((Exit::Done, "backup list".to_owned()))
        }
    }
}

/// What is written of the backup of a run, where it has one.
pub(super) fn about(session: &Session, id: &str) -> Option<About> {
    super::runs::known(session, id).ok()?;
    session.host.root.read_json(&journal::run_directory(id).join("backup/database.json")).ok()
}

fn list(session: &mut Session) -> Outcome {
    let mut all = Vec::new();
    for id in journal::runs(&session.host.root)? {
        let Some(about) = about(session, &id) else { continue };
        let part = if about.part.is_some() { ", touched tables only" } else { "" };
        session.ui.line(format!("{id}  {:12} {:>10}  {}{part}", about.revision, size(about.size), about.database));
        all.push(json!({"run": id, "revision": about.revision, "size": about.size, "digest": about.digest, "database": about.database}));
    }
    if all.is_empty() {
        session.ui.line("No backup yet.");
    }
    session.ui.set("backups", json!(all));
    session.ui.set("changed", false);
    Ok((Exit::Done, "status".to_owned()))
}

fn restore(session: &mut Session, id: &str, word: Word, yes: bool) -> Outcome {
    let _lock = session.lock_alone("backup restore")?;
    let Some(about) = about(session, id) else {
        return Err(Failure::new(Exit::Failed, anyhow!("run {id} has no backup")).next("backup list"));
    };
    if let Some((part, _)) = &about.part {
        let error = anyhow!("the backup of run {id} is of some tables only ({part})");
        return Err(Failure::new(Exit::Blocked, error)
            .hint("a rollback of that run puts them back with all else: keymgr-upgrade rollback")
            .next("backup list"));
    }
    let mut site = super::any_site(session)?;
    session.nothing_runs(&site)?;
    if site.shown() != about.database {
        let error = anyhow!("the backup is of {}, the configuration names {}", about.database, site.shown());
        return Err(Failure::new(Exit::Blocked, error).next("backup list"));
    }
    session.ui.line(format!(
        "{}: back to revision {}, {}; everything written since is lost",
        about.database,
        about.revision,
        size(about.size)
    ));
    if !session.confirm(yes, "Proceed?", &format!("backup restore {id}"))? {
        return Ok((Exit::Done, "backup list".to_owned()));
    }
    let _database = session.alone(&site, word)?;
    site.settle()?;
    let mut context = Context {
        host: &session.host,
        site: &mut site,
        directory: journal::run_directory(id),
        from: String::new(),
        to: String::new(),
        discard: false,
        written: true,
        code_by_others: false,
        known: Known::default(),
    };
    let changed = restore_backup(&mut context)?;
    runs::fit_record(session, &site)?;
    session.ui.set("changed", changed);
    session.ui.set("revision", about.revision.as_str());
    session.ui.line(if changed { "restored, fingerprint checked" } else { "unchanged" });
    Ok((Exit::Done, "db verify".to_owned()))
}

/// Removes the database copies of all but the newest finished runs; their journals stay.
pub(super) fn prune(session: &Session, keep: Option<usize>) -> Result<Vec<String>, Failure> {
    let keep = keep.unwrap_or(session.host.settings.backup_keep);
    let mut finished = Vec::new();
    for id in journal::runs(&session.host.root)? {
        if about(session, &id).is_none() {
            continue;
        }
        if runs::load(session, &id).is_ok_and(|(_, s)| matches!(s.phase, Phase::Done | Phase::RolledBack)) {
            finished.push(id);
        }
    }
    let surplus = finished.len().saturating_sub(keep);
    finished.truncate(surplus);
    for id in &finished {
        let files = about(session, id).map(|about| about.all_files()).unwrap_or_default();
        let directory = journal::run_directory(id).join("backup");
        // The description first: without it a copy is not taken for a backup.
        session.host.root.remove(&directory.join("database.json"))?;
        for file in files {
            session.host.root.remove(&directory.join(file))?;
        }
    }
    Ok(finished)
}
