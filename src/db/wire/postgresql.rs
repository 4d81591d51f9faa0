//! PostgreSQL, by the crate `postgres`.
use std::{
    error::Error as _,
    io::{self, BufRead as _},
};

use postgres::{
    Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow,
    config::SslMode,
    error::{DbError, SqlState},
};
use postgres_native_tls::MakeTlsConnector;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Answer, Doing, EachRow, Error, Place, Result, Row,
    target::{Address, Encrypt},
    text, tls,
};

/// What every session is set to, whatever server, database and role say. The second statement has what old servers do
/// not know; without `row_security` a policy would hide rows instead of failing.
const SETTINGS: [&str; 2] = [
    "SET client_encoding TO 'UTF8'; SET standard_conforming_strings TO on; SET DateStyle TO 'ISO, YMD'; \
     SET bytea_output TO 'hex'; SET TimeZone TO 'UTC'; SET statement_timeout TO 0; \
     SET client_min_messages TO warning",
    "SELECT set_config(s.name, v.value, false) FROM pg_settings s JOIN (VALUES ('row_security', 'off'), \
     ('idle_in_transaction_session_timeout', '0'), ('idle_session_timeout', '0'), ('transaction_timeout', '0')) \
     AS v (name, value) ON v.name = s.name",
];

/// A session of PostgreSQL.
pub(super) struct Session(Box<Client>);

impl Session {
    pub(super) fn open(place: &Place, password: Option<&SecretString>, application: &str) -> Result<Self> {
        let config = configuration(place, password, application);
        let (first, second) = match (&place.target.address, place.target.tls.encrypt) {
            // libpq has no TLS on a socket either.
            (Address::Socket { .. }, _) | (_, Encrypt::Never) => (SslMode::Disable, None),
            (_, Encrypt::Allow) => (SslMode::Disable, Some(SslMode::Require)),
            (_, Encrypt::Prefer) => (SslMode::Prefer, Some(SslMode::Disable)),
            (_, Encrypt::Always) => (SslMode::Require, None),
        };
        let client = match (attempt(place, &config, first), second) {
            (Err((why, true)), Some(second)) => match attempt(place, &config, second) {
                Ok(client) => client,
                // Of the two ways the one that the URL asks for first says more.
                Err(_) => return Err(why),
            },
            (tried, _) => tried.map_err(|(why, _)| why)?,
        };
        let mut session = Self(Box::new(client));
        for setting in SETTINGS {
            session.run(place, setting, setting)?;
        }
        Ok(session)
    }

    pub(super) fn run(&mut self, place: &Place, shown: &str, sql: &str) -> Result<Answer> {
        let messages = self.0.simple_query(sql).map_err(|why| error(place, Doing::Running(shown), &why))?;
        let mut answer = Answer::default();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    answer.names = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    answer.rows.push(values(&row).map_err(|_| place.misunderstood(shown, "a value is not UTF-8"))?);
                }
                SimpleQueryMessage::CommandComplete(affected) => answer.affected = affected,
                _ => {}
            }
        }
        Ok(answer)
    }

    pub(super) fn each(&mut self, place: &Place, sql: &str, row: &mut EachRow<'_>) -> Result<()> {
        let doing = Doing::Running(sql);
        let copy = format!("COPY ({}\n) TO STDOUT", sql.trim_end().trim_end_matches(';'));
        let mut reader = self.0.copy_out(&copy).map_err(|why| error(place, doing, &why))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(|why| reading(place, doing, &why))?;
            if line.pop().is_none() {
                return Ok(());
            }
            let fields = text::copy_fields(&line);
            row(&fields.iter().map(Option::as_deref).collect::<Vec<_>>())?;
        }
    }
}

fn values(row: &SimpleQueryRow) -> Result<Row, postgres::Error> {
    (0..row.len()).map(|n| Ok(row.try_get(n)?.map(str::to_owned))).collect()
}

fn configuration(place: &Place, password: Option<&SecretString>, application: &str) -> Config {
    let (target, keepalive) = (&place.target, &place.target.keepalive);
    let mut config = Config::new();
    config
        .user(&target.user)
        .dbname(&place.database)
        .application_name(application)
        .keepalives(keepalive.on)
        .keepalives_idle(keepalive.idle)
        .keepalives_interval(keepalive.interval)
        .keepalives_retries(keepalive.count);
    if let Some(password) = password {
        config.password(password.expose_secret());
    }
    if let Some(options) = &target.options {
        config.options(options);
    }
    match &target.address {
        Address::Tcp { host, port } => config.host(host).port(*port),
        Address::Socket { path, port } => config.host_path(path).port(*port),
    };
    config
}

/// Connects in one way; with the error comes whether the other way, with or without TLS, may do.
fn attempt(place: &Place, config: &Config, mode: SslMode) -> Result<Client, (Error, bool)> {
    let mut config = config.clone();
    config.ssl_mode(mode);
    let client = if mode == SslMode::Disable {
        config.connect(NoTls)
    } else {
        let connector = tls::connector(&place.target.tls).map_err(|why| (place.tls(why), false))?;
        config.connect(MakeTlsConnector::new(connector))
    };
    client.map_err(|why| {
        // pg_hba.conf may have no line for this user with TLS, or without.
        let other_way = is_tls(&why) || why.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        (error(place, Doing::Connecting, &why), other_way)
    })
}

/// The driver says it in its text only.
fn is_tls(why: &postgres::Error) -> bool {
    why.to_string().contains("TLS")
}

/// An error while rows stream is wrapped once more.
fn reading(place: &Place, doing: Doing<'_>, why: &io::Error) -> Error {
    match why.get_ref().and_then(|inner| inner.downcast_ref::<postgres::Error>()) {
        Some(inner) => error(place, doing, inner),
        None => place.lost(doing, why),
    }
}

/// Turns an answer of the driver into the variant a caller can act on.
fn error(place: &Place, doing: Doing<'_>, why: &postgres::Error) -> Error {
    if let Some(db) = why.as_db_error() {
        return answered(place, doing, db);
    }
    let source = why.source();
    let cause = source.map_or_else(|| why.to_string(), ToString::to_string);
    if is_tls(why) {
        let native = source.and_then(|source| source.downcast_ref::<native_tls::Error>());
        return place.tls(native.map_or(cause, tls::reason));
    }
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    match (doing, io) {
        (Doing::Connecting, Some(io)) => place.no_way(io),
        (Doing::Connecting, None) if cause.contains("password missing") => {
            place.refused("it wants a password, and the URL has none")
        }
        (Doing::Connecting, None) => place.unreachable(cause),
        _ if io.is_some() || why.is_closed() => place.lost(doing, cause),
        _ => place.server(doing, "client", cause),
    }
}

/// SQLSTATEs: PostgreSQL manual, appendix A.
fn answered(place: &Place, doing: Doing<'_>, db: &DbError) -> Error {
    let (url, code, message) = (place.url.clone(), db.code().code(), db.message());
    let class = code.get(..2).unwrap_or_default();
    match code {
        _ if class == "28" => place.refused(message),
        "3D000" => Error::NoSuchDatabase { url, database: place.database.clone() },
        "55P03" | "40P01" => Error::LockTimeout { url, doing: doing.to_string() },
        // 25006: the session or the server is read-only.
        "42501" | "25006" => Error::Denied { url, doing: doing.to_string(), why: message.to_owned() },
        "53100" => Error::ServerDisk { url, doing: doing.to_string() },
        // Shut down, crashed, or idle for too long.
        "57P01" | "57P02" | "57P05" | "25P03" => place.lost(doing, message),
        // Starting up, or too many connections.
        "57P03" | "53300" => place.unreachable(message),
        // Data exceptions quote the value.
        _ if class == "22" => place.server(doing, code, text::without_values(message)),
        _ => place.server(doing, code, message),
    }
}
