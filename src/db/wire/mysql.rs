//! MySQL and MariaDB, by the crate `mysql`.
use std::{collections::HashMap, io, net::TcpStream, os::fd::OwnedFd, os::unix::net::UnixStream};

use ::mysql::{
    Conn, DriverError, Error as Failure, MySqlError, Opts, OptsBuilder, Value, consts::CapabilityFlags,
    prelude::Queryable as _,
};
use rustix::net::sockopt;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Answer, Doing, EachRow, Error, Place, Result, Row,
    target::{Address, Encrypt, Keepalive},
    text, tls,
    tunnel::Tunnel,
};

/// What every session is set to, whatever the server says.
///
/// `NO_BACKSLASH_ESCAPES` and `ANSI_QUOTES` give literals and names the meaning that PostgreSQL gives them.
/// `NO_ZERO_DATE` is left out: a row that holds one must survive an ALTER TABLE. The connection's character set is
/// ours, not Barbican's: the server converts, and utf8mb4 holds whatever any other can. Of the two comments MariaDB
/// reads the first and MySQL the second: neither server ends a statement that takes long.
const SETTINGS: [&str; 2] = [
    "SET NAMES utf8mb4",
    "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,STRICT_TRANS_TABLES,STRICT_ALL_TABLES,\
     ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', autocommit = 1, \
     foreign_key_checks = 1, unique_checks = 1, sql_safe_updates = 0, wait_timeout = 28800 \
     /*M!100101 , max_statement_time = 0 */ /*!50708 , max_execution_time = 0 */",
];

/// A session of MySQL or MariaDB.
pub(super) struct Session(Conn);

impl Session {
    pub(super) fn open(place: &Place, password: Option<&SecretString>, application: &str) -> Result<Self> {
        let attributes = HashMap::from([("program_name".to_owned(), application.to_owned())]);
        let options = OptsBuilder::new()
            .user(Some(&place.target.user))
            .pass(password.map(|password| password.expose_secret().to_owned()))
            .db_name(Some(&place.database))
            // Or the driver would go from TCP to a socket of its own choice.
            .prefer_socket(false)
            .stmt_cache_size(0)
            .connect_attrs(Some(attributes))
            // The count of an UPDATE is then that of the rows found, as in the other databases.
            .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS);
        let mut session = Self(match (&place.target.address, place.target.tls.encrypt) {
            (_, Encrypt::Never) => in_clear(place, options)?,
            (_, Encrypt::Always) => by_tunnel(place, options)?,
            // What does not leave the host needs none.
            (Address::Socket { .. }, _) => in_clear(place, options)?,
            (_, Encrypt::Allow | Encrypt::Prefer) => match by_tunnel(place, options.clone()) {
                // Nothing would have been checked: in clear is what the drivers without TLS did.
                Err(Error::Tls { .. }) => in_clear(place, options)?,
                other => other?,
            },
        });
        for setting in SETTINGS {
            session.run(place, setting, setting)?;
        }
        Ok(session)
    }

    pub(super) fn run(&mut self, place: &Place, shown: &str, sql: &str) -> Result<Answer> {
        let failed = |why| error(place, Doing::Running(shown), why);
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
        let failed = |why| error(place, Doing::Running(sql), why);
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

fn in_clear(place: &Place, options: OptsBuilder) -> Result<Conn> {
    let keepalive = &place.target.keepalive;
    let milliseconds = u32::try_from(keepalive.idle.as_millis()).ok();
    let options = match &place.target.address {
        Address::Socket { path, .. } => options.socket(path.to_str()),
        Address::Tcp { host, port } => options
            .ip_or_hostname(Some(host))
            .tcp_port(*port)
            .tcp_keepalive_time_ms(milliseconds.filter(|_| keepalive.on))
            .tcp_keepalive_probe_interval_secs(u32::try_from(keepalive.interval.as_secs()).ok())
            .tcp_keepalive_probe_count(Some(keepalive.count)),
    };
    Conn::new(Opts::from(options)).map_err(|why| error(place, Doing::Connecting, why))
}

fn by_tunnel(place: &Place, options: OptsBuilder) -> Result<Conn> {
    let target = &place.target;
    if target.tls.has_files() {
        // Named, they must be right, also where the server offers no TLS. What the system trusts is read only for one that does.
        tls::connector(&target.tls).map_err(|why| place.tls(why))?;
    }
    let no_way = |why: io::Error| place.no_way(&why);
    let (server, host) = match &target.address {
        Address::Socket { path, .. } => (OwnedFd::from(UnixStream::connect(path).map_err(no_way)?), "localhost"),
        Address::Tcp { host, port } => {
            let server = TcpStream::connect((host.as_str(), *port)).map_err(no_way)?;
            server.set_nodelay(true).and_then(|()| keep_alive(&server, &target.keepalive)).map_err(no_way)?;
            (OwnedFd::from(server), host.as_str())
        }
    };
    let tunnel = Tunnel::start(server, &target.tls, host).map_err(|why| place.tls(why.to_string()))?;
    let options = options.socket(tunnel.socket().to_str());
    match Conn::new(Opts::from(options)) {
        Ok(conn) => Ok(conn),
        // The server's own word says more than the tunnel's end.
        Err(why @ Failure::MySqlError(_)) => Err(error(place, Doing::Connecting, why)),
        Err(why) => Err(tunnel.failure().map_or_else(|| error(place, Doing::Connecting, why), |why| place.tls(why))),
    }
}

fn keep_alive(server: &TcpStream, keepalive: &Keepalive) -> io::Result<()> {
    sockopt::set_socket_keepalive(server, keepalive.on)?;
    sockopt::set_tcp_keepidle(server, keepalive.idle)?;
    sockopt::set_tcp_keepintvl(server, keepalive.interval)?;
    sockopt::set_tcp_keepcnt(server, keepalive.count)?;
    Ok(())
}

/// Turns an answer of the driver into the variant a caller can act on.
fn error(place: &Place, doing: Doing<'_>, why: Failure) -> Error {
    match (why, doing) {
        (Failure::MySqlError(why), _) => answered(place, doing, why),
        (Failure::IoError(why), Doing::Connecting) => place.no_way(&why),
        (Failure::DriverError(DriverError::CouldNotConnect(Some((_, why, kind)))), _) => {
            place.no_way(&io::Error::new(kind, why))
        }
        (Failure::DriverError(DriverError::UnknownAuthPlugin(plugin)), _) => {
            place.refused(format!("it wants the authentication plugin {plugin}, which is not supported"))
        }
        (Failure::DriverError(why @ DriverError::CleartextPluginDisabled), _) => {
            place.refused(format!("it wants the password in clear, which is not supported ({why})"))
        }
        (Failure::IoError(why), _) => place.lost(doing, why),
        // What is left of it is the reason of the operating system, or a packet cut off.
        (Failure::CodecError(why), Doing::Running(_)) => {
            place.lost(doing, why.to_string().trim_start_matches("IO error: `").trim_end_matches('\''))
        }
        (Failure::DriverError(why), Doing::Running(_)) => place.server(doing, "client", why.to_string()),
        (why, Doing::Connecting) => place.unreachable(why),
        (why, Doing::Running(_)) => place.server(doing, "client", why.to_string()),
    }
}

/// Numbers: MySQL's and MariaDB's lists of server errors.
fn answered(place: &Place, doing: Doing<'_>, why: MySqlError) -> Error {
    let (url, code, message) = (place.url.clone(), why.code, why.message);
    let full = ["Errcode: 28", "errno: 28", "error 28 "].iter().any(|sign| message.contains(sign));
    match code {
        _ if full => Error::ServerDisk { url, doing: doing.to_string() },
        1021 | 1114 => Error::ServerDisk { url, doing: doing.to_string() },
        // Wrong password; no such plugin; expired; locked; host not allowed, or after too many errors.
        1045 | 1698 | 1251 | 1524 | 1820 | 1862 | 3118 | 4151 | 1129 | 1130 => {
            let hint = if place.target.tls.encrypt == Encrypt::Never {
                " (it may want TLS, which is switched off)"
            } else {
                ""
            };
            place.refused(message + hint)
        }
        3159 => place.tls("the server lets nobody in without"),
        1049 => Error::NoSuchDatabase { url, database: place.database.clone() },
        // Waited too long; deadlock, also between Galera nodes; NOWAIT.
        1205 | 1213 | 3572 => Error::LockTimeout { url, doing: doing.to_string() },
        // The last two: the server is read-only.
        1044 | 1142 | 1143 | 1227 | 1370 | 1410 | 1290 | 1836 => {
            Error::Denied { url, doing: doing.to_string(), why: message }
        }
        // Shut down, killed, idle for too long.
        1053 | 1927 | 3169 | 4031 => place.lost(doing, message),
        // Too many connections; a Galera node that is not part of its cluster.
        1040 | 1203 | 1226 | 1047 => place.unreachable(message),
        _ => place.server(doing, code.to_string(), plain(code, message)),
    }
}

/// Messages without the values of rows that some of them quote.
fn plain(code: u16, message: String) -> String {
    match code {
        // What is quoted here are names of tables, columns and keys.
        1048 | 1050 | 1051 | 1054 | 1060 | 1061 | 1068 | 1072 | 1091 | 1146 | 1193 | 1264 | 1265 | 1364 | 1406 => {
            message
        }
        _ => text::without_values(&message),
    }
}
