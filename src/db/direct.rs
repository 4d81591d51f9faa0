//! What has to be so that a lock, or anything of a session, means something: a session of our own all the way to the
//! server, and on Galera a node that is part of the cluster.
use std::time::Duration;

use super::{
    Dialect, Error, Result, Url,
    lock::READER,
    wire::{Row, Wire},
};

/// Finds out whether the server gives this connection a session of its own, by a second connection at the same time:
/// a pooler that lends sessions for a transaction or a statement gives both the same one, or the first one others.
pub fn pooler(url: &Url, wait: Duration) -> Result<()> {
    let first = Wire::connect(url, READER, wait)?;
    let second = Wire::connect(url, READER, wait)?;
    let ours = server_session(&first)?;
    let pooled = || Error::Pooled { url: url.to_string() };
    for _ in 0..4 {
        let (theirs, now) = (server_session(&second)?, server_session(&first)?);
        if theirs == ours || now != ours {
            return Err(pooled());
        }
    }
    // ProxySQL answers this very statement by itself, and with a number of its own.
    if first.session_id()?.to_string() != ours {
        return Err(pooled());
    }
    writable(&first)?;
    one_schema(&first)?;
    if is_galera(&first)? { node(&first) } else { Ok(()) }
}

/// Refuses a server that takes no writes: a migration would find out half-way.
fn writable(wire: &Wire) -> Result<()> {
    let refused = |why| Err(Error::ReadOnlyServer { url: wire.url().to_owned(), why });
    if wire.dialect() == Dialect::Postgresql {
        let rows = wire.query("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')")?;
        return match (text(&rows, 0), text(&rows, 1)) {
            (Some("t"), _) => refused("a standby"),
            (_, Some("on")) => refused("default_transaction_read_only is on"),
            _ => Ok(()),
        };
    }
    let on = |rows: &[Row]| {
        rows.iter().any(|row| matches!(row.as_slice(), [_, Some(value)] if value != "OFF" && value != "0"))
    };
    let names = "'read_only', 'super_read_only', 'innodb_read_only'";
    if on(&wire.query(&format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})"))?) {
        return refused("read_only is on");
    }
    Ok(())
}

/// Refuses where tables of Barbican are found by the search path, but not in its first schema: there new ones would be made.
fn one_schema(wire: &Wire) -> Result<()> {
    if wire.dialect() != Dialect::Postgresql {
        return Ok(());
    }
    let rows = wire.query(
        "SELECT current_schema(), n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = ANY(current_schemas(false)) AND n.nspname <> current_schema() AND c.relkind IN ('r', 'p') \
         AND c.relname IN ('alembic_version', 'secrets', 'encrypted_data', 'kek_data') LIMIT 1",
    )?;
    match (text(&rows, 0), text(&rows, 1)) {
        (Some(here), Some(there)) => {
            Err(Error::TwoSchemas { url: wire.url().to_owned(), here: here.to_owned(), there: there.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The session as the server itself counts it, in a statement that nobody in between knows by heart.
fn server_session(wire: &Wire) -> Result<String> {
    let rows = wire.query(match wire.dialect() {
        Dialect::Mysql => "SELECT CONNECTION_ID() + 0 AS session, 'keymgr-upgrade' AS program",
        _ => "SELECT pg_backend_pid() AS session, 'keymgr-upgrade' AS program",
    })?;
    Ok(text(&rows, 0).unwrap_or_default().to_owned())
}

/// Whether the server replicates by Galera, be it MariaDB or Percona.
pub(super) fn is_galera(wire: &Wire) -> Result<bool> {
    if wire.dialect() != Dialect::Mysql {
        return Ok(false);
    }
    let rows = wire.query("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'")?;
    Ok(text(&rows, 1).is_some_and(|on| on.eq_ignore_ascii_case("ON")))
}

/// Refuses a node of a Galera cluster that is not whole: what is written there is refused or lost.
pub(super) fn node(wire: &Wire) -> Result<()> {
    let status = |name: &str| -> Result<String> {
        let rows = wire.query(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
        Ok(text(&rows, 1).unwrap_or("unknown").to_owned())
    };
    let (state, cluster) = (status("wsrep_local_state_comment")?, status("wsrep_cluster_status")?);
    if state != "Synced" || cluster != "Primary" {
        return Err(Error::GaleraNode { url: wire.url().to_owned(), state, cluster });
    }
    // Under RSU a statement changes this node alone: the lock would be no lock, and the schema would fall apart.
    let method = wire.query("SELECT @@wsrep_OSU_method, @@wsrep_on")?;
    if text(&method, 0) != Some("TOI") || text(&method, 1) != Some("1") {
        let state = "wsrep_OSU_method is not TOI, or wsrep_on is off".to_owned();
        return Err(Error::GaleraNode { url: wire.url().to_owned(), state, cluster });
    }
    Ok(())
}

/// Sees that `direct` leads to the same database as `url`: the same server or cluster, name, revision and keys.
pub fn same(url: &Url, direct: &Url, wait: Duration) -> Result<()> {
    let mut what = "";
    // A key may come between the two looks; then they agree the next time.
    for _ in 0..3 {
        let (ours, theirs) = (identity(url, wait)?, identity(direct, wait)?);
        match ours.iter().zip(&theirs).find(|(a, b)| a != b) {
            None => return Ok(()),
            Some(((name, _), _)) => what = name,
        }
    }
    Err(Error::NotTheSame { url: url.to_string(), direct: direct.to_string(), what })
}

/// What tells one database from another.
fn identity(url: &Url, wait: Duration) -> Result<Vec<(&'static str, String)>> {
    let wire = Wire::connect(url, READER, wait)?;
    let words = |sql: &str| -> Result<String> {
        let words: Vec<String> = wire.query(sql)?.into_iter().flatten().flatten().collect();
        Ok(words.join(" "))
    };
    let (name, server) = match wire.dialect() {
        Dialect::Postgresql => {
            ("SELECT current_database(), current_schema()", "SELECT system_identifier FROM pg_control_system()")
        }
        // The nodes of a cluster are one database.
        _ if is_galera(&wire)? => ("SELECT DATABASE()", "SHOW GLOBAL STATUS LIKE 'wsrep_cluster_state_uuid'"),
        _ => ("SELECT DATABASE()", "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_uid')"),
    };
    let mut all = vec![("its dialect", wire.dialect().name().to_owned())];
    all.push(("the name of the database", words(name)?));
    all.push(("the server's own id", words(server)?));
    for (what, table, column) in
        [("the revision", "alembic_version", "version_num"), ("the set of KEKs", "kek_data", "id")]
    {
        let there = match wire.dialect() {
            Dialect::Postgresql => format!("SELECT 1 WHERE to_regclass('{table}') IS NOT NULL"),
            _ => format!(
                "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{table}'"
            ),
        };
        let rows = if wire.query(&there)?.is_empty() {
            "none".to_owned()
        } else {
            words(&format!("SELECT {column} FROM {table} ORDER BY 1"))?
        };
        all.push((what, rows));
    }
    Ok(all)
}

/// A value of the first row.
pub(super) fn text(rows: &[Row], column: usize) -> Option<&str> {
    rows.first()?.get(column)?.as_deref()
}
