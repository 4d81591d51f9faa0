//! What keeps others away while something is changed: the lock of the host, the lock of the database, and a look at who else is on it.

use anyhow::anyhow;

use super::plan::who;
use super::{Outcome, Session};
use crate::cli::Word;
use crate::db::{self, Access};
use crate::deployment::{Occupied, Site};
use crate::error::{Exit, Failure};
use crate::journal::Lock;

/// The locks of a run.
#[derive(Debug)]
pub(super) struct Locks {
    /// The host's.
    pub(super) host: Lock,
    /// The database's, where it is on a server and something is written to it.
    pub(super) database: Option<db::Lock>,
    /// What the operator says of others.
    pub(super) word: Word,
}

impl Locks {
    pub(super) fn of(host: Lock, word: Word) -> Self {
        Self { host, database: None, word }
    }

    /// Takes the database's lock, if it is not held yet. True if what was looked at before, with the database at `revision`, has to be looked at
    /// again: somebody else may have been at work.
    pub(super) fn lock_database(&mut self, site: &Site, revision: Option<&str>) -> Result<bool, Failure> {
        if self.database.is_some() {
            return Ok(false);
        }
        self.database = site.lock(None)?;
        let Some(lock) = &self.database else { return Ok(false) };
        let now = site.open(Access::ReadOnly)?.revision().map_err(anyhow::Error::from)?;
        let same = match now {
            db::Ledger::At(now) => revision == Some(now.as_str()),
            db::Ledger::NoTable | db::Ledger::Empty => revision.is_none(),
        };
        Ok(lock.waited || !same)
    }
}

impl Session {
    /// For verbs that write to the database without a run: its lock, for as long as it is kept, and nobody else there.
    pub(super) fn alone(&self, site: &Site, word: Word) -> Result<Option<db::Lock>, Failure> {
        let lock = site.lock(None)?;
        self.nobody_else(site, word, true)?;
        Ok(lock)
    }

    /// Refuses while others are on the database, those of this host too where its services are to be stopped already.
    pub(super) fn nobody_else(&self, site: &Site, word: Word, local: bool) -> Result<(), Failure> {
        match site.alone(local) {
            Err(error) if word.writers_stopped && error.is::<Occupied>() => {
                log::warn!("{error}; they do not write, on the word of {}", who());
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

/// The words to an error of the database that comes from others at work.
pub(super) fn advise(failure: &mut Failure) {
    if failure.error.chain().any(|e| matches!(e.downcast_ref(), Some(db::Error::Held { .. }))) {
        failure.exit = Exit::Locked;
        failure.hints = vec![
            "see there how far it is: keymgr-upgrade status".to_owned(),
            "only if that host is gone for good: keymgr-upgrade db unlock".to_owned(),
        ];
        "check".clone_into(&mut failure.next);
    } else if failure.error.is::<Occupied>() {
        if failure.exit == Exit::Failed {
            failure.exit = Exit::Blocked;
        }
        failure.hints.push("stop Barbican there, on each host: keymgr-upgrade units hold".to_owned());
        failure.hints.push("behind a proxy, and if you know that nobody writes: --writers-stopped".to_owned());
    }
}

/// `db unlock`: for a Galera cluster, where the lock is a table that may outlive its run.
pub(super) fn unlock(session: &mut Session, yes: bool) -> Outcome {
    // A live run of this host has this one.
    let _lock = session.lock("db unlock")?;
    let site = super::any_site(session)?;
    session.ui.set("changed", false);
    let Some((holder, ours)) = site.lock_holder()? else {
        session.ui.line("Nobody has the lock of the database.");
        return Ok((Exit::Done, "status".to_owned()));
    };
    session.ui.set("holder", holder.to_string());
    session.ui.paragraph(&format!("The lock of {} is of {holder}", site.shown()), 0);
    if holder.claim.is_none() && holder.number.is_some() {
        let error = anyhow!("the lock is a session's own, and ends with it");
        return Err(Failure::new(Exit::Locked, error).next("check"));
    }
    session.ui.paragraph(
        if ours {
            "That is this host, where no process works on it; `resume` or the next run takes it over."
        } else {
            "See on that host that nothing of it runs: keymgr-upgrade status. Two at work at once can destroy data."
        },
        0,
    );
    if !session.confirm(yes, "Remove it?", "db unlock")? {
        session.ui.line("Nothing was done.");
        return Ok((Exit::Done, "status".to_owned()));
    }
    if !site.unlock(&holder)? {
        let error = anyhow!("the lock is another one now");
        return Err(Failure::new(Exit::Failed, error).next("db unlock"));
    }
    session.ui.set("changed", true);
    session.ui.line("Removed.");
    Ok((Exit::Done, "status".to_owned()))
}
