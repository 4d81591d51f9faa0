//! The lock of the database: one run at a time, whichever host it is on.
//!
//! PostgreSQL and a single MySQL or MariaDB have locks that live as long as a session. On Galera these hold on one node
//! only (two nodes both grant `GET_LOCK`), so there the lock is a table: the cluster brings all DDL into one order, and
//! only one `CREATE TABLE` succeeds. Whose it is stands in the table's comment, so that it is made in one statement.
use std::{
    cell::RefCell,
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Dialect, Error, Result, Url,
    direct::{is_galera, node, text},
    shape::{LOCK, PROBE},
    wire::Wire,
    writers,
};

/// The key of `pg_advisory_lock`, ours alone: "keymgr" in ASCII, and 1. PostgreSQL keeps them apart by database.
const KEY: u64 = 0x6b65_796d_6772_0001;
/// The name of `GET_LOCK`. MySQL keeps them for the whole server, with at most 64 characters, as many as a database's
/// name may have.
const NAME: &str = "CONCAT('keymgr-upgrade:', LEFT(SHA1(DATABASE()), 32))";
/// How a session of ours that only looks is called where the server lists it.
pub(super) const READER: &str = "keymgr-upgrade";
/// And one that writes. A server works on for a while after its client was killed: to another run, such a session is a
/// stranger like any other.
pub(super) const WRITER: &str = "keymgr-upgrade writes";
/// How often a lock that is a table is looked at again, in seconds, on the server's clock.
const AGAIN: &str = "SELECT SLEEP(0.2)";
/// The server's number for "table exists already".
const EXISTS: &str = "1050";
/// And for "unknown table", where it is to be dropped.
const NO_TABLE: &str = "1051";

/// Who asks for the lock, for the others to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The host, and the image's directory on it, where it is one.
    pub host: String,
    /// What tells it from another host of the same name.
    pub machine: String,
    /// The run, once there is one.
    pub run: Option<String>,
}

impl Claim {
    /// How a session is called where the server lists them. PostgreSQL cuts it at 63 bytes.
    #[must_use]
    pub fn application(&self) -> String {
        match &self.run {
            Some(run) => format!("keymgr-upgrade {run} on {}", self.host),
            None => format!("keymgr-upgrade on {}", self.host),
        }
    }
}

/// What is known of who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What it says of itself; for a session of MySQL, what the server says of it.
    pub name: String,
    /// Its session on the server, or its process on its host; none where the server does not tell.
    pub number: Option<String>,
    /// Since when, UTC.
    pub since: Option<String>,
    /// Who claimed it, where it is a table: then it outlives its maker.
    pub claim: Option<Claim>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(number) = &self.number {
            write!(f, ", {number}")?;
        }
        if let Some(since) = &self.since {
            write!(f, ", since {since}")?;
        }
        Ok(())
    }
}

/// What the comment of the lock table says.
#[derive(Debug, Serialize, Deserialize)]
struct Comment {
    #[serde(flatten)]
    claim: Claim,
    process: u32,
    since: String,
}

/// The lock, held. What is a session's own ends with it; a table stays until [`Lock::release`], but where no run was
/// opened under it.
#[derive(Debug)]
pub struct Lock {
    url: Url,
    wait: Duration,
    claim: Claim,
    /// Somebody else had it first: what was looked at before is out of date.
    pub waited: bool,
    wire: RefCell<Wire>,
    /// The session that has it; none where it is a table.
    session: Option<u64>,
    released: bool,
}

impl Lock {
    /// Takes the lock, waiting for `wait` at most. A table that this host left is taken over: the
    /// caller has the lock of the host, so that no process of it is at work, and it has one run at a time.
    pub fn take(url: &Url, claim: Claim, wait: Duration) -> Result<Self> {
        let wire = Wire::connect(url, &claim.application(), wait)?;
        mark(&wire);
        let (session, waited) = if is_galera(&wire)? {
            (None, take_table(&wire, &claim, wait)?)
        } else {
            let waited = take_session(&wire, wait)?;
            (Some(wire.session_id()?), waited)
        };
        let lock = Self { url: url.clone(), wait, claim, waited, wire: RefCell::new(wire), session, released: false };
        lock.check()?;
        lock.sweep()?;
        Ok(lock)
    }

    /// Takes away the table with which a backup on MySQL tried whether tables could be made again, where it was killed meanwhile. Nothing is in it,
    /// and whoever has the lock is alone.
    fn sweep(&self) -> Result<()> {
        let wire = self.wire.borrow();
        let there = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
        if wire.dialect() == Dialect::Mysql && !wire.query_with(there, &[Some(PROBE)])?.is_empty() {
            wire.execute(&format!("DROP TABLE IF EXISTS {PROBE}"))?;
        }
        Ok(())
    }

    /// Says for which run it is held.
    pub fn name(&mut self, run: &str) -> Result<()> {
        self.claim.run = Some(run.to_owned());
        let wire = self.wire.borrow();
        match (wire.dialect(), self.session) {
            (_, None) => {
                let comment = comment(&wire, &self.claim)?;
                wire.execute_with(&format!("ALTER TABLE {LOCK} COMMENT = ?"), &[Some(&comment)])?;
            }
            (Dialect::Postgresql, _) => {
                wire.query_with("SELECT set_config('application_name', ?, false)", &[Some(&self.claim.application())])?;
            }
            // It told the server when it connected, and the server has no way to be told again.
            _ => {}
        }
        Ok(())
    }

    /// Looks whether it is still ours.
    pub fn check(&self) -> Result<()> {
        let lost = |why: String| Error::LockLost { url: self.url.to_string(), why };
        if self.session.is_none() {
            return self.check_table(lost);
        }
        let wire = self.wire.borrow();
        let state = wire.session_id().and_then(|now| Ok((now, has_session(&wire)?)));
        match state {
            Ok((now, true)) if Some(now) == self.session => Ok(()),
            Ok((_, true)) => Err(lost("the session is another one".to_owned())),
            Ok((_, false)) => Err(lost("the session does not have it any more".to_owned())),
            Err(why) => Err(lost(why.to_string())),
        }
    }

    /// The connection may have broken meanwhile, and be taken up again on another node: the table is the lock.
    fn check_table(&self, lost: impl Fn(String) -> Error) -> Result<()> {
        let broken = matches!(self.wire.borrow().session_id(), Err(Error::ConnectionLost { .. }));
        if broken {
            let wire = Wire::connect(&self.url, &self.claim.application(), self.wait)?;
            mark(&wire);
            self.wire.replace(wire);
        }
        let wire = self.wire.borrow();
        node(&wire)?;
        match table(&wire)? {
            None => Err(lost(format!("table {LOCK} is gone"))),
            Some(Holder { claim: Some(claim), .. }) if claim == self.claim => Ok(()),
            Some(holder) => Err(lost(format!("table {LOCK} is of {holder}"))),
        }
    }

    /// Gives it back.
    pub fn release(mut self) -> Result<()> {
        self.released = true;
        self.give_back()
    }

    fn give_back(&self) -> Result<()> {
        let wire = self.wire.borrow();
        if self.session.is_some() {
            let sql = match wire.dialect() {
                Dialect::Postgresql => format!("SELECT pg_advisory_unlock({KEY})"),
                _ => format!("SELECT RELEASE_LOCK({NAME})"),
            };
            return wire.query(&sql).map(drop);
        }
        match table(&wire)? {
            Some(Holder { claim: Some(claim), .. }) if claim == self.claim => {
                wire.execute(&format!("DROP TABLE {LOCK}")).map(drop)
            }
            // Somebody removed it, and perhaps somebody else has it now.
            _ => Ok(()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A run that is open keeps its table; without one there is nothing to keep it for.
        if self.claim.run.is_none()
            && !self.released
            && let Err(why) = self.give_back()
        {
            log::warn!("the lock of the database was not given back: {why}");
        }
    }
}

/// Who holds the lock; `None` if nobody does.
pub fn holder(url: &Url, wait: Duration) -> Result<Option<Holder>> {
    let wire = Wire::connect(url, READER, wait)?;
    if is_galera(&wire)? { table(&wire) } else { session_holder(&wire) }
}

/// Removes the lock table of `holder`, if it still is of this one; says whether it was.
pub fn unlock(url: &Url, holder: &Holder, wait: Duration) -> Result<bool> {
    let wire = Wire::connect(url, READER, wait)?;
    if table(&wire)?.as_ref() != Some(holder) {
        return Ok(false);
    }
    match wire.execute(&format!("DROP TABLE {LOCK}")) {
        Err(Error::Server { code, .. }) if code == NO_TABLE => Ok(false),
        other => other.map(|_| true),
    }
}

/// Marks a session of MySQL as ours, and as one that only looks, for the other hosts, which see no more of it than user and
/// address. PostgreSQL shows its name. Where locks of this kind are refused (MariaDB 10.6.13 with Galera), it stays unmarked.
pub(super) fn mark(wire: &Wire) {
    if wire.dialect() == Dialect::Mysql
        && let Err(why) = wire.query("SELECT GET_LOCK(CONCAT('keymgr-upgrade:', CONNECTION_ID()), 0)")
    {
        log::debug!("{}: no mark: {why}", wire.url());
    }
}

/// Whether the session `id` is marked as ours.
pub(super) fn is_marked(wire: &Wire, id: u64) -> Result<bool> {
    let rows =
        wire.query(&format!("SELECT 1 FROM (SELECT 1) AS one WHERE IS_USED_LOCK('keymgr-upgrade:{id}') = {id}"))?;
    Ok(!rows.is_empty())
}

/// The lock of a session. Says whether somebody else had it first.
fn take_session(wire: &Wire, wait: Duration) -> Result<bool> {
    let seconds = wait.as_secs().max(1);
    if wire.dialect() == Dialect::Postgresql {
        // The session is idle for as long as a step takes, and may not be ended for that (PostgreSQL 14 and later).
        wire.query("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")?;
        let free = wire.query(&format!("SELECT pg_try_advisory_lock({KEY})"))?;
        if text(&free, 0) == Some("t") {
            return Ok(false);
        }
        wire.execute(&format!("SET lock_timeout = '{seconds}s'"))?;
        return match wire.query(&format!("SELECT pg_advisory_lock({KEY})")) {
            Ok(_) => Ok(true),
            Err(Error::LockTimeout { .. }) => Err(given_up(wire, session_holder(wire)?, seconds)),
            Err(why) => Err(why),
        };
    }
    wire.execute("SET SESSION wait_timeout = 31536000")?;
    let got = |seconds: u64| -> Result<bool> {
        let rows = wire.query(&format!("SELECT GET_LOCK({NAME}, {seconds})"))?;
        Ok(text(&rows, 0) == Some("1"))
    };
    if got(0)? {
        return Ok(false);
    }
    if got(seconds)? { Ok(true) } else { Err(given_up(wire, session_holder(wire)?, seconds)) }
}

fn given_up(wire: &Wire, holder: Option<Holder>, seconds: u64) -> Error {
    let holder = holder.map_or_else(|| "somebody who has just ended".to_owned(), |h| h.to_string());
    Error::Held { url: wire.url().to_owned(), holder, seconds }
}

/// Whether this session has the lock.
fn has_session(wire: &Wire) -> Result<bool> {
    let rows = match wire.dialect() {
        Dialect::Postgresql => wire.query(&format!("SELECT 1 {} AND l.pid = pg_backend_pid()", locks()))?,
        _ => wire.query(&format!("SELECT 1 FROM (SELECT 1) AS one WHERE IS_USED_LOCK({NAME}) = CONNECTION_ID()"))?,
    };
    Ok(!rows.is_empty())
}

/// The lock in PostgreSQL's own list: the key in two halves, kept apart by database.
fn locks() -> String {
    format!(
        "FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND l.classid = {} AND l.objid = {}",
        KEY >> 32,
        KEY & 0xffff_ffff
    )
}

/// Who has the lock of a session.
fn session_holder(wire: &Wire) -> Result<Option<Holder>> {
    if wire.dialect() == Dialect::Postgresql {
        let rows = wire.query(&format!(
            "SELECT l.pid, a.application_name, host(a.client_addr), \
             to_char(a.backend_start, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
             FROM pg_stat_activity a, (SELECT l.pid {}) AS l WHERE a.pid = l.pid",
            locks()
        ))?;
        let Some(number) = text(&rows, 0) else { return Ok(None) };
        let from = text(&rows, 2).map(|a| format!(" from {a}")).unwrap_or_default();
        return Ok(Some(Holder {
            name: text(&rows, 1).filter(|n| !n.is_empty()).unwrap_or("an unnamed session").to_owned(),
            number: Some(format!("session {number}{from}")),
            since: text(&rows, 3).map(str::to_owned),
            claim: None,
        }));
    }
    let rows = wire.query(&format!("SELECT IS_USED_LOCK({NAME})"))?;
    let Some(id) = text(&rows, 0) else { return Ok(None) };
    let of = wire.query(&format!("SELECT USER, HOST FROM information_schema.PROCESSLIST WHERE ID = {id}"))?;
    let name = match (text(&of, 0), text(&of, 1)) {
        (Some(user), Some(host)) => {
            format!("keymgr-upgrade as {user} from {}", writers::mysql_place(host))
        }
        _ => "keymgr-upgrade, whose session we may not see".to_owned(),
    };
    Ok(Some(Holder { name, number: Some(format!("session {id}")), since: None, claim: None }))
}

/// The lock of a cluster. Says whether somebody else had it first.
fn take_table(wire: &Wire, claim: &Claim, wait: Duration) -> Result<bool> {
    node(wire)?;
    let begun = Instant::now();
    let mut waited = false;
    loop {
        let comment = comment(wire, claim)?;
        // Without a primary key, a cluster may refuse a table.
        let sql = format!("CREATE TABLE {LOCK} (id INT NOT NULL PRIMARY KEY) ENGINE=InnoDB COMMENT=?");
        match wire.execute_with(&sql, &[Some(&comment)]) {
            Ok(_) => return Ok(waited),
            Err(Error::Server { code, .. }) if code == EXISTS => {}
            Err(why) => return Err(why),
        }
        let Some(holder) = table(wire)? else { continue };
        let ours = |c: &Claim| (&c.host, &c.machine) == (&claim.host, &claim.machine);
        if holder.claim.as_ref().is_some_and(ours) {
            wire.execute_with(&format!("ALTER TABLE {LOCK} COMMENT = ?"), &[Some(&comment)])?;
            return Ok(waited);
        }
        if begun.elapsed() >= wait {
            return Err(given_up(wire, Some(holder), wait.as_secs()));
        }
        waited = true;
        wire.query(AGAIN)?;
    }
}

fn comment(wire: &Wire, claim: &Claim) -> Result<String> {
    let rows = wire.query("SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%dT%H:%i:%sZ')")?;
    let since = text(&rows, 0).unwrap_or_default().to_owned();
    let comment = Comment { claim: claim.clone(), process: std::process::id(), since };
    serde_json::to_string(&comment).map_err(|e| Error::Url(e.to_string()))
}

/// Whose the lock table is; `None` where there is none.
fn table(wire: &Wire) -> Result<Option<Holder>> {
    let rows = wire.query(&format!(
        "SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{LOCK}'"
    ))?;
    let Some(comment) = text(&rows, 0) else { return Ok(None) };
    Ok(Some(match serde_json::from_str::<Comment>(comment) {
        Ok(Comment { claim, process, since }) => Holder {
            name: claim.application(),
            number: Some(format!("process {process}")),
            since: Some(since),
            claim: Some(claim),
        },
        Err(_) => Holder {
            name: format!("table {LOCK}, which does not say whose it is"),
            number: None,
            since: None,
            claim: None,
        },
    }))
}
