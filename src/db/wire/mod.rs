//! A connection to PostgreSQL or MySQL/MariaDB that speaks text: every value as the server prints it.
//!
//! It knows the two drivers and nothing about Barbican. Both sessions are set up so that one text of SQL means the same
//! in both: `"x"` quotes a name, `'x'` a string in which only `''` is special, `||` joins, times are UTC.
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod mysql;
mod postgresql;
pub(super) mod target;
mod text;
mod tls;
mod tunnel;

use std::{cell::RefCell, fmt, io, sync::mpsc, thread, time::Duration};

pub use target::refuse_borrowed;
use target::{Address, Target};

use super::{Dialect, Error, Result, Url};
use crate::systemd::notify;

/// One row: every value as the server prints it; NULL is `None`.
pub(super) type Row = Vec<Option<String>>;

/// What takes the rows of [`Wire::each`], value by value as the server prints them; NULL is `None`.
pub(super) type EachRow<'a> = dyn FnMut(&[Option<&[u8]>]) -> Result<()> + 'a;

/// What a statement answers.
#[derive(Debug, Default)]
struct Answer {
    names: Vec<String>,
    rows: Vec<Row>,
    affected: u64,
}

/// An open connection. It is closed when dropped; an open transaction is then rolled back by the server.
pub(super) struct Wire {
    place: Box<Place>,
    session: Session,
}

enum Session {
    Postgresql(RefCell<postgresql::Session>),
    Mysql(RefCell<mysql::Session>),
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.place.url)
    }
}

/// What is connected to, and what errors name.
#[derive(Clone)]
struct Place {
    /// The URL, password masked.
    url: String,
    dialect: Dialect,
    database: String,
    target: Target,
}

/// What was going on when an error came.
#[derive(Clone, Copy)]
enum Doing<'a> {
    /// There is no session yet.
    Connecting,
    /// This statement was running.
    Running(&'a str),
}

impl fmt::Display for Doing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Running(sql) => f.write_str(&text::shown(sql)),
        }
    }
}

impl Wire {
    /// Connects and sets the session up. `application` is how the server's own lists show it (`application_name`,
    /// `program_name`); `wait` bounds all of it, looking the host up included, and so does the URL's own
    /// `connect_timeout`.
    pub(super) fn connect(url: &Url, application: &str, wait: Duration) -> Result<Self> {
        let target = Target::of(url)?;
        let wait = target.timeout.map_or(wait, |own| own.min(wait));
        let (dialect, database) = (url.dialect(), url.database().to_owned());
        let place = Place { url: url.to_string(), dialect, database, target };
        let (password, application, at) = (url.password().cloned(), application.to_owned(), place.clone());
        let session = within(wait, &place, move || match dialect {
            Dialect::Mysql => {
                mysql::Session::open(&at, password.as_ref(), &application).map(|s| Session::Mysql(RefCell::new(s)))
            }
            Dialect::Postgresql | Dialect::Sqlite => postgresql::Session::open(&at, password.as_ref(), &application)
                .map(|s| Session::Postgresql(RefCell::new(s))),
        })?;
        Ok(Self { place: Box::new(place), session })
    }

    /// Which database it is.
    pub(super) fn dialect(&self) -> Dialect {
        self.place.dialect
    }

    /// The URL, password masked: for errors.
    pub(super) fn url(&self) -> &str {
        &self.place.url
    }

    /// Runs one statement and returns its rows.
    pub(super) fn query(&self, sql: &str) -> Result<Vec<Row>> {
        Ok(self.run(sql, sql)?.rows)
    }

    /// Runs one statement with a value for every `?`, written as a text literal: the server takes it for the type
    /// that stands on the other side, as it does with any literal.
    pub(super) fn query_with(&self, sql: &str, params: &[Option<&str>]) -> Result<Vec<Row>> {
        Ok(self.run(sql, &self.bind(sql, params)?)?.rows)
    }

    /// Runs one statement and returns the names of the columns and the rows.
    pub(super) fn names_and_rows(&self, sql: &str) -> Result<(Vec<String>, Vec<Row>)> {
        let answer = self.run(sql, sql)?;
        Ok((answer.names, answer.rows))
    }

    /// Runs one SELECT and hands over row by row, in constant memory. `row` must not use this connection.
    pub(super) fn each(&self, sql: &str, row: &mut EachRow<'_>) -> Result<()> {
        let row: &mut EachRow<'_> = &mut |fields| {
            notify::beat();
            row(fields)
        };
        match &self.session {
            Session::Postgresql(s) => s.try_borrow_mut().map_err(|_| self.busy(sql))?.each(&self.place, sql, row),
            Session::Mysql(s) => s.try_borrow_mut().map_err(|_| self.busy(sql))?.each(&self.place, sql, row),
        }
    }

    /// Runs one statement and returns how many rows it affected: on MySQL too those found, changed or not.
    pub(super) fn execute(&self, sql: &str) -> Result<u64> {
        Ok(self.run(sql, sql)?.affected)
    }

    /// As [`Self::execute`], with a value for every `?`.
    pub(super) fn execute_with(&self, sql: &str, params: &[Option<&str>]) -> Result<u64> {
        Ok(self.run(sql, &self.bind(sql, params)?)?.affected)
    }

    /// The server's number of this session (`pg_backend_pid()`, `CONNECTION_ID()`), asked each time: behind a pooler
    /// it changes.
    pub(super) fn session_id(&self) -> Result<u64> {
        let sql = match self.place.dialect {
            Dialect::Mysql => "SELECT CONNECTION_ID()",
            Dialect::Postgresql | Dialect::Sqlite => "SELECT pg_backend_pid()",
        };
        let rows = self.query(sql)?;
        let id = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
        id.and_then(|id| id.parse().ok()).ok_or_else(|| self.place.misunderstood(sql, "it is no number"))
    }

    fn run(&self, shown: &str, sql: &str) -> Result<Answer> {
        notify::beat();
        match &self.session {
            Session::Postgresql(s) => s.try_borrow_mut().map_err(|_| self.busy(shown))?.run(&self.place, shown, sql),
            Session::Mysql(s) => s.try_borrow_mut().map_err(|_| self.busy(shown))?.run(&self.place, shown, sql),
        }
    }

    fn bind(&self, sql: &str, params: &[Option<&str>]) -> Result<String> {
        text::bind(self.place.dialect, sql, params).map_err(|why| self.place.misunderstood(sql, why))
    }

    fn busy(&self, sql: &str) -> Error {
        self.place.misunderstood(sql, "the connection is still reading the rows of another statement")
    }
}

impl Place {
    /// What was asked makes no sense, or the answer does not.
    fn misunderstood(&self, sql: &str, why: &str) -> Error {
        self.server(Doing::Running(sql), "client", why)
    }

    fn unreachable(&self, why: impl fmt::Display) -> Error {
        let (url, at) = (self.url.clone(), self.target.address.shown());
        // A default port is not in the URL, and a socket stands where one does not look for it.
        let known = matches!(self.target.address, Address::Tcp { .. }) && url.contains(&at);
        let why = if known { why.to_string() } else { format!("{at}: {why}") };
        Error::Unreachable { url, why }
    }

    /// The operating system's word while connecting, with what it means.
    fn no_way(&self, why: &io::Error) -> Error {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
        if let Some(alert) = tls::alert(why) {
            return self.tls(alert);
        }
        self.unreachable(match why.kind() {
            ConnectionRefused => "connection refused: does the server run, and listen there?".to_owned(),
            NotFound => "there is no such socket: does the server run?".to_owned(),
            // With TLS 1.3 it judges our certificate only then, and what it says of it may be lost.
            UnexpectedEof | BrokenPipe | ConnectionReset if self.target.tls.identity.is_some() => {
                return self.tls(format!("the server hung up ({why}): it may not accept the client certificate"));
            }
            UnexpectedEof | BrokenPipe | ConnectionReset => format!("it hung up while connecting ({why})"),
            // The standard library has no kind for it.
            _ => why.to_string().replace("failed to lookup address information", "the host name does not resolve"),
        })
    }

    fn tls(&self, why: impl Into<String>) -> Error {
        Error::Tls { url: self.url.clone(), why: why.into() }
    }

    fn refused(&self, why: impl Into<String>) -> Error {
        Error::LoginRefused { url: self.url.clone(), user: self.target.user.clone(), why: why.into() }
    }

    fn lost(&self, doing: Doing<'_>, why: impl fmt::Display) -> Error {
        Error::ConnectionLost { url: self.url.clone(), doing: doing.to_string(), why: why.to_string() }
    }

    fn server(&self, doing: Doing<'_>, code: impl Into<String>, message: impl Into<String>) -> Error {
        let (url, doing) = (self.url.clone(), doing.to_string());
        Error::Server { url, doing, code: code.into(), message: message.into() }
    }
}

/// Runs `work` in a thread, since nothing bounds looking up a host or a server that accepts and stays silent. A thread
/// that is given up ends when the server closes, or with the process.
fn within<T: Send + 'static>(
    wait: Duration,
    place: &Place,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, answer) = mpsc::channel();
    thread::Builder::new()
        .name("connect".to_owned())
        .spawn(move || done.send(work()).ok())
        .map_err(|why| place.unreachable(why.to_string()))?;
    match answer.recv_timeout(wait) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(place.unreachable(format!("no answer within {} s", wait.as_secs_f32())))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(place.unreachable("the driver failed")),
    }
}

#[cfg(test)]
mod tests;
