//! PostgreSQL, by the crate `postgres`.
use std::{
    error::Error as _,
    io::{self, BufRead as _},
    path::Path,
    time::Duration,
};

use postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow, error::SqlState};
use secrecy::ExposeSecret as _;

use super::{Answer, EachRow, Error, Place, Result, Row, Url, text};

/// Where libpq looks for the socket of a URL without host: as Debian and Red Hat build it, and as upstream does.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What every session is set to, whatever server, database and role say.
const SETTINGS: &str = "SET client_encoding TO 'UTF8'; SET standard_conforming_strings TO on; \
    SET DateStyle TO 'ISO, YMD'; SET IntervalStyle TO 'postgres'; SET bytea_output TO 'hex'; SET TimeZone TO 'UTC'; \
    SET statement_timeout TO 0; SET idle_in_transaction_session_timeout TO 0; SET xmloption TO 'content'";

/// A session of PostgreSQL.
pub(super) struct Session(Box<Client>);

impl Session {
    pub(super) fn open(place: &Place, url: &Url, application: &str, wait: Duration) -> Result<Self> {
        let mut config = Config::new();
        config.user(&place.user).dbname(&place.database).application_name(application).connect_timeout(wait);
        if let Some(password) = url.password() {
            config.password(password.expose_secret());
        }
        if let Some(port) = url.port() {
            config.port(port);
        }
        match url.host() {
            Some(host) => config.host(host),
            None => config.host_path(default_socket(url.port().unwrap_or(5432))),
        };
        let mut client = config.connect(NoTls).map_err(|why| error(place, "connecting", &why))?;
        client.batch_execute(SETTINGS).map_err(|why| error(place, "setting the session up", &why))?;
        Ok(Self(Box::new(client)))
    }

    pub(super) fn run(&mut self, place: &Place, shown: &str, sql: &str) -> Result<Answer> {
        let messages = self.0.simple_query(sql).map_err(|why| error(place, &text::shown(shown), &why))?;
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
        let doing = || text::shown(sql);
        let copy = format!("COPY ({}\n) TO STDOUT", sql.trim_end().trim_end_matches(';'));
        let mut reader = self.0.copy_out(&copy).map_err(|why| error(place, &doing(), &why))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(|why| reading(place, &doing(), &why))?;
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

fn default_socket(port: u16) -> &'static Path {
    let there = |directory: &&&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
    let [first, _] = &SOCKET_DIRECTORIES;
    Path::new(SOCKET_DIRECTORIES.iter().find(there).unwrap_or(first))
}

/// An error while rows stream is wrapped once more.
fn reading(place: &Place, doing: &str, why: &io::Error) -> Error {
    match why.get_ref().and_then(|inner| inner.downcast_ref::<postgres::Error>()) {
        Some(inner) => error(place, doing, inner),
        None => place.lost(doing.to_owned(), why.to_string()),
    }
}

/// Turns an answer of the driver into the variant a caller can act on.
fn error(place: &Place, doing: &str, why: &postgres::Error) -> Error {
    let (url, doing) = (place.url.clone(), doing.to_owned());
    let Some(db) = why.as_db_error() else {
        let cause = why.source().map_or_else(|| why.to_string(), ToString::to_string);
        return if doing == "connecting" { place.unreachable(cause) } else { place.lost(doing, cause) };
    };
    let (code, message) = (db.code().code(), db.message());
    let class = code.get(..2).unwrap_or_default();
    match code {
        _ if class == "28" => Error::LoginRefused { url, user: place.user.clone(), why: message.to_owned() },
        _ if *db.code() == SqlState::UNDEFINED_DATABASE => {
            Error::NoSuchDatabase { url, database: place.database.clone() }
        }
        "55P03" | "40P01" => Error::LockTimeout { url, doing },
        "42501" => Error::Denied { url, doing, why: message.to_owned() },
        "53100" => Error::ServerDisk { url, doing },
        "57P01" | "57P02" | "57P05" | "25P03" => Error::ConnectionLost { url, doing, why: message.to_owned() },
        "57P03" | "53300" => place.unreachable(message),
        _ => {
            // Data exceptions show the value.
            let message = if class == "22" { text::without_values(message) } else { message.to_owned() };
            Error::Server { url, doing, code: code.to_owned(), message }
        }
    }
}
