//! MySQL and MariaDB, by the crate `mysql`.
use std::{collections::HashMap, time::Duration};

use ::mysql::{Conn, Opts, OptsBuilder, Value, consts::CapabilityFlags, prelude::Queryable as _};
use secrecy::ExposeSecret as _;

use super::{Answer, EachRow, Error, Place, Result, Row, Url, text};

/// What every session is set to, whatever the server says.
///
/// `NO_BACKSLASH_ESCAPES` and `ANSI_QUOTES` give literals and names the meaning that PostgreSQL gives them.
/// `NO_ZERO_DATE` is left out: a row that holds one must survive an ALTER TABLE. The connection's character set is
/// ours, not Barbican's: the server converts, and utf8mb4 holds whatever any other can.
const SETTINGS: [&str; 2] = [
    "SET NAMES utf8mb4",
    "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,STRICT_TRANS_TABLES,STRICT_ALL_TABLES,\
     ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', autocommit = 1, \
     foreign_key_checks = 1, unique_checks = 1, sql_safe_updates = 0, wait_timeout = 28800",
];

/// A session of MySQL or MariaDB.
pub(super) struct Session(Conn);

impl Session {
    pub(super) fn open(place: &Place, url: &Url, application: &str, wait: Duration) -> Result<Self> {
        let attributes = HashMap::from([("program_name".to_owned(), application.to_owned())]);
        let options = OptsBuilder::new()
            .user(url.user())
            .pass(url.password().map(|password| password.expose_secret().to_owned()))
            .db_name(Some(url.database()))
            .ip_or_hostname(Some(url.host().unwrap_or("localhost")))
            .tcp_port(url.port().unwrap_or(3306))
            .tcp_connect_timeout(Some(wait))
            .prefer_socket(false)
            .stmt_cache_size(0)
            .connect_attrs(Some(attributes))
            // The count of an UPDATE is then that of the rows found, as in the other databases.
            .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS);
        let mut session =
            Self(Conn::new(Opts::from(options)).map_err(|why| error(place, "connecting".to_owned(), why))?);
        for setting in SETTINGS {
            session.run(place, setting, setting)?;
        }
        Ok(session)
    }

    pub(super) fn run(&mut self, place: &Place, shown: &str, sql: &str) -> Result<Answer> {
        let failed = |why| error(place, text::shown(shown), why);
        let result = self.0.query_iter(sql).map_err(failed)?;
        let affected = result.affected_rows();
        let names = result.columns().as_ref().iter().map(|column| column.name_str().into_owned()).collect();
        let mut rows = Vec::new();
        for row in result {
            let values: Result<Row, ()> = row.map_err(failed)?.unwrap().into_iter().map(value).collect();
            rows.push(values.map_err(|()| place.misunderstood(shown, "a value is not UTF-8"))?);
        }
        Ok(Answer { names, rows, affected })
    }

    pub(super) fn each(&mut self, place: &Place, sql: &str, row: &mut EachRow<'_>) -> Result<()> {
        let failed = |why| error(place, text::shown(sql), why);
        for values in self.0.query_iter(sql).map_err(failed)? {
            let values = values.map_err(failed)?;
            let bytes = |n| match values.as_ref(n) {
                Some(Value::Bytes(bytes)) => Some(bytes.as_slice()),
                _ => None,
            };
            row(&(0..values.len()).map(bytes).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// The text protocol has text and NULL only.
fn value(value: Value) -> Result<Option<String>, ()> {
    match value {
        Value::NULL => Ok(None),
        Value::Bytes(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| ()),
        _ => Err(()),
    }
}

/// Turns an answer of the driver into the variant a caller can act on.
fn error(place: &Place, doing: String, why: ::mysql::Error) -> Error {
    let url = place.url.clone();
    let why = match why {
        ::mysql::Error::MySqlError(server) => server,
        other if doing == "connecting" => return place.unreachable(other.to_string()),
        other => return place.lost(doing, other.to_string()),
    };
    let (code, message) = (why.code, why.message);
    match code {
        1045 | 1698 | 1251 => Error::LoginRefused { url, user: place.user.clone(), why: message },
        1049 => Error::NoSuchDatabase { url, database: place.database.clone() },
        1205 | 1213 | 3572 => Error::LockTimeout { url, doing },
        1044 | 1142 | 1143 | 1227 | 1370 | 1410 => Error::Denied { url, doing, why: message },
        1021 | 1114 => Error::ServerDisk { url, doing },
        1053 | 1927 | 3169 => Error::ConnectionLost { url, doing, why: message },
        1040 | 1203 | 1226 => place.unreachable(message),
        _ => Error::Server { url, doing, code: code.to_string(), message: plain(code, message) },
    }
}

/// Messages without the values of rows that some of them quote.
fn plain(code: u16, message: String) -> String {
    match code {
        // What is quoted here names tables and columns.
        1050 | 1051 | 1054 | 1060 | 1061 | 1091 | 1146 | 1406 | 1048 | 1364 => message,
        _ => text::without_values(&message),
    }
}
