//! A database for a rehearsal, beside another one on the same server.
use std::time::Duration;

use super::{
    Dialect, Result, Url,
    direct::text,
    lock::WRITER,
    sqlite::quoted,
    wire::{Row, Wire},
};

/// How long dropping it waits for sessions that are about to end, in seconds.
const LOCK_WAIT: u32 = 30;

/// Makes a database called `name` beside that of `url`, with the same character set and, on PostgreSQL, the same schema; returns the way to it.
pub fn create(url: &Url, name: &str, wait: Duration) -> Result<Url> {
    let wire = Wire::connect(url, WRITER, wait)?;
    let made = url.with_database(name);
    let name = quoted(name);
    let word = |rows: &[Row], index: usize| text(rows, index).unwrap_or_default().to_owned();
    if wire.dialect() == Dialect::Mysql {
        let of = wire.query(
            "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata \
             WHERE schema_name = DATABASE()",
        )?;
        let (set, collation) = (word(&of, 0), word(&of, 1));
        wire.execute(&format!("CREATE DATABASE {name} DEFAULT CHARACTER SET {set} COLLATE {collation}"))?;
        return Ok(made);
    }
    let of = wire.query(
        "SELECT pg_encoding_to_char(encoding), quote_literal(datcollate), quote_literal(datctype), quote_ident(current_schema()) \
         FROM pg_database WHERE datname = current_database()",
    )?;
    let (encoding, collate, ctype, schema) = (word(&of, 0), word(&of, 1), word(&of, 2), word(&of, 3));
    wire.execute(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE {collate} LC_CTYPE {ctype}"
    ))?;
    if schema != "public" {
        let wire = Wire::connect(&made, WRITER, wait)?;
        wire.execute(&format!("CREATE SCHEMA {schema}"))?;
        wire.execute(&format!("ALTER DATABASE {name} SET search_path = {schema}"))?;
    }
    Ok(made)
}

/// Drops the database `name`, which [`create`] made beside that of `url`, with the sessions that a killed process left on it. None is no error.
pub fn remove(url: &Url, name: &str, wait: Duration) -> Result<()> {
    let wire = Wire::connect(url, WRITER, wait)?;
    let drop = format!("DROP DATABASE IF EXISTS {}", quoted(name));
    if wire.dialect() == Dialect::Mysql {
        // Where it was not made, for want of the privilege, it may not be dropped either.
        let there = "SELECT 1 FROM information_schema.schemata WHERE schema_name = ?";
        if wire.query_with(there, &[Some(name)])?.is_empty() {
            return Ok(());
        }
        wire.execute(&format!("SET SESSION lock_wait_timeout = {LOCK_WAIT}"))?;
        let left = "SELECT id FROM information_schema.processlist WHERE db = ?";
        for id in wire.query_with(left, &[Some(name)])?.into_iter().flatten().flatten() {
            // It may have ended by itself.
            wire.execute(&format!("KILL {id}")).ok();
        }
    } else {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ? AND usename = current_user";
        wire.query_with(end, &[Some(name)])?;
    }
    wire.execute(&drop).map(|_| ())
}
