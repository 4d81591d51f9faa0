//! The database URL as SQLAlchemy reads it, with its password kept secret.
use std::{fmt, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::Error;
use crate::command::Identity;

/// The three databases Barbican runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// A file; SQLAlchemy's `sqlite`.
    Sqlite,
    /// PostgreSQL; SQLAlchemy's `postgresql` (and the old spelling `postgres`).
    Postgresql,
    /// MySQL or MariaDB; SQLAlchemy's `mysql` and `mariadb`.
    Mysql,
}

impl Dialect {
    /// The name as SQLAlchemy and the files of `migrations/` spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgresql => "postgresql",
            Self::Mysql => "mysql",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A parsed SQLAlchemy database URL. `Display` and `Debug` show `***` in place of the password.
#[derive(Clone)]
pub struct Url {
    scheme: String,
    dialect: Dialect,
    user: Option<String>,
    password: Option<SecretString>,
    host: Option<String>,
    port: Option<u16>,
    database: String,
    params: Vec<(String, String)>,
    /// Who wrote it, where that is not who we are.
    chosen_by: Option<Identity>,
}

/// Drivers by dialect, each one that some release of Barbican was deployed with and that says nothing
/// about how the data is to be read. Asynchronous drivers never worked with Barbican.
const DRIVERS: [(&str, Dialect, &[&str]); 5] = [
    ("sqlite", Dialect::Sqlite, &["pysqlite"]),
    ("postgresql", Dialect::Postgresql, &["psycopg2", "psycopg", "psycopg2cffi", "pg8000"]),
    ("postgres", Dialect::Postgresql, &["psycopg2"]),
    ("mysql", Dialect::Mysql, &["pymysql", "mysqldb", "mysqlconnector", "cymysql"]),
    ("mariadb", Dialect::Mysql, &["pymysql", "mysqldb", "mysqlconnector", "mariadbconnector"]),
];

/// Parameters whose meaning is known. An unknown one could point somewhere else, so it is refused.
fn known_params(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Sqlite => &["timeout", "check_same_thread", "isolation_level", "cached_statements"],
        Dialect::Postgresql => &[
            "application_name",
            "client_encoding",
            "connect_timeout",
            "gssencmode",
            "host",
            "keepalives",
            "keepalives_count",
            "keepalives_idle",
            "keepalives_interval",
            "options",
            "port",
            "sslcert",
            "sslcrl",
            "sslkey",
            "sslmode",
            "sslrootcert",
            "target_session_attrs",
        ],
        Dialect::Mysql => &[
            "charset",
            "collation",
            "connect_timeout",
            "plugin",
            "read_timeout",
            "ssl",
            "ssl_ca",
            "ssl_capath",
            "ssl_cert",
            "ssl_check_hostname",
            "ssl_cipher",
            "ssl_disabled",
            "ssl_key",
            "ssl_mode",
            "ssl_verify_cert",
            "ssl_verify_identity",
            "unix_socket",
            "use_unicode",
            "write_timeout",
        ],
    }
}

impl Url {
    /// Whether this is the same in every part, the password too.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let place = (&self.host, self.port, &self.database) == (&other.host, other.port, &other.database);
        let rest = (&self.scheme, &self.user, &self.params) == (&other.scheme, &other.user, &other.params);
        let password = self.password.as_ref().map(ExposeSecret::expose_secret);
        place && rest && password == other.password.as_ref().map(ExposeSecret::expose_secret)
    }

    /// Reads `dialect[+driver]://[user[:password]@][host][:port]/database[?name=value&...]`.
    ///
    /// Percent escapes are decoded in user, password and parameter values; the database name is taken
    /// as written, as SQLAlchemy does. Errors name the part that is wrong and never show the password.
    pub fn parse(text: &SecretString) -> Result<Self, Error> {
        let text = text.expose_secret().trim();
        if text.is_empty() {
            return Err(refused("it is empty"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            refused("it does not begin with dialect://, for example sqlite:////var/lib/barbican/barbican.sqlite")
        })?;
        let dialect = dialect_of(scheme)?;
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(a, b)| (a, b));
        let params = parse_params(dialect, query)?;
        let (authority, database) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
        let mut url = Self {
            scheme: scheme.to_owned(),
            dialect,
            user: None,
            password: None,
            host: None,
            port: None,
            database: database.unwrap_or_default().to_owned(),
            params,
            chosen_by: None,
        };
        match dialect {
            Dialect::Sqlite => url.check_file(authority)?,
            Dialect::Postgresql | Dialect::Mysql => url.parse_authority(authority)?,
        }
        Ok(url)
    }

    fn check_file(&self, authority: &str) -> Result<(), Error> {
        if !authority.is_empty() {
            return Err(refused("a sqlite URL has no host: write sqlite:///relative/path or sqlite:////absolute/path"));
        }
        if self.database.is_empty() || self.database == ":memory:" {
            return Err(refused("it is an in-memory SQLite database: there is nothing to upgrade"));
        }
        if self.database.starts_with("file:") {
            return Err(refused("SQLite file: URIs are not supported: write the path itself"));
        }
        Ok(())
    }

    fn parse_authority(&mut self, authority: &str) -> Result<(), Error> {
        let (credentials, place) = authority.split_once('@').map_or((None, authority), |(a, b)| (Some(a), b));
        if place.contains('@') {
            // SQLAlchemy before 1.4 took the last @ as the border, later ones the first.
            return Err(refused("there are two @ before the path: write %40 for the one in the password"));
        }
        if let Some(credentials) = credentials {
            let (user, password) = credentials.split_once(':').map_or((credentials, None), |(a, b)| (a, Some(b)));
            self.user = Some(decode(user, "the user name")?);
            self.password = match password {
                Some(p) => Some(SecretString::from(decode(p, "the password")?)),
                None => None,
            };
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(|| refused("the [ of the host has no ]"))?;
                (host, after.strip_prefix(':'))
            }
            None => place.split_once(':').map_or((place, None), |(a, b)| (a, Some(b))),
        };
        if host.contains(',') || port.is_some_and(|p| p.contains(',')) {
            return Err(refused("several hosts in one URL are not supported: name the one that is written to"));
        }
        self.host = (!host.is_empty()).then(|| host.to_owned());
        self.port = match port {
            None | Some("") => None,
            Some(p) => Some(p.parse().map_err(|_| refused("the port is not a number below 65536"))?),
        };
        if self.database.is_empty() {
            return Err(refused("it names no database"));
        }
        if self.database.contains('@') {
            // SQLAlchemy takes it as part of the password, which is not to be shown as the name of a database.
            return Err(refused("there is an @ after the first /: write %2F for a / in the password"));
        }
        if self.database.starts_with('-') {
            return Err(refused("the name of its database begins with -, as an option of a client program does"));
        }
        Ok(())
    }

    /// Which database it is.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The file of a SQLite URL as written: relative paths are relative to the working directory of the
    /// process that opens it, which the caller knows. `None` for the other dialects.
    #[must_use]
    pub fn sqlite_path(&self) -> Option<PathBuf> {
        (self.dialect == Dialect::Sqlite).then(|| PathBuf::from(&self.database))
    }

    /// Server and database, the same for every way to spell them: `//host:port/database`. For SQLite the path as written.
    #[must_use]
    pub fn place(&self) -> String {
        let default = match self.dialect {
            Dialect::Sqlite => return self.database.clone(),
            Dialect::Postgresql => 5432,
            Dialect::Mysql => 3306,
        };
        let param = |name: &str| self.params.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let host =
            self.host.as_deref().or_else(|| param("host")).or_else(|| param("unix_socket")).unwrap_or("localhost");
        format!("//{host}:{}/{}", self.port.unwrap_or(default), self.database)
    }

    /// The Python driver: the one named, or SQLAlchemy's default.
    #[must_use]
    pub fn driver(&self) -> &str {
        match (self.scheme.split_once('+'), self.dialect) {
            (Some((_, driver)), _) => driver,
            (None, Dialect::Sqlite) => "pysqlite",
            (None, Dialect::Postgresql) => "psycopg2",
            (None, Dialect::Mysql) => "mysqldb",
        }
    }

    /// The user name, percent-decoded.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, percent-decoded.
    #[must_use]
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// The host; `None` means the driver's default, usually a local socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The port; `None` means the dialect's default.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The database name, for SQLite the path as written.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The same on another server: `address` is `host:port` or `[host]:port`. `None` if it is neither.
    #[must_use]
    pub(super) fn at(&self, address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|p| *p != 0)?;
        let mut other = Self { host: Some(host.to_owned()), port: Some(port), ..self.clone() };
        other.params.retain(|(name, _)| name != "unix_socket");
        (!host.is_empty()).then_some(other)
    }

    /// Another database on the same server.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        Self { database: name.to_owned(), ..self.clone() }
    }

    /// The same, known to be this user's word: what follows it may do no more than this user could.
    #[must_use]
    pub fn by(self, chosen_by: Option<Identity>) -> Self {
        Self { chosen_by, ..self }
    }

    /// Who wrote it, where that is not who we are.
    #[must_use]
    pub fn chosen_by(&self) -> Option<&Identity> {
        self.chosen_by.as_ref()
    }

    /// The parameters after `?`, values percent-decoded, in the order written.
    #[must_use]
    pub fn params(&self) -> &[(String, String)] {
        &self.params
    }

    /// The value of one parameter.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            f.write_str(user)?;
            if self.password.is_some() {
                f.write_str(":***")?;
            }
            f.write_str("@")?;
        }
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => f.write_str(host)?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.database)?;
        for (n, (name, value)) in self.params.iter().enumerate() {
            write!(f, "{}{name}={value}", if n == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

fn refused(why: &str) -> Error {
    Error::Url(why.to_owned())
}

fn dialect_of(scheme: &str) -> Result<Dialect, Error> {
    let (name, driver) = scheme.split_once('+').map_or((scheme, None), |(a, b)| (a, Some(b)));
    let Some((_, dialect, drivers)) = DRIVERS.iter().find(|(n, _, _)| *n == name) else {
        // What stands before :// may be anything, also a password in a mistyped URL.
        let shown = if name.chars().all(|c| c.is_ascii_lowercase()) { name } else { "what is written there" };
        return Err(refused(&format!(
            "{shown} is not a database Barbican runs on (sqlite, postgresql, mysql, mariadb)"
        )));
    };
    match driver {
        Some(d) if !drivers.contains(&d) => {
            let shown = if d.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') { d } else { "?" };
            Err(refused(&format!("driver {shown} is not supported for {name} (known: {})", drivers.join(", "))))
        }
        _ => Ok(*dialect),
    }
}

fn parse_params(dialect: Dialect, query: &str) -> Result<Vec<(String, String)>, Error> {
    let mut params: Vec<(String, String)> = Vec::new();
    for item in query.split('&').filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').unwrap_or((item, ""));
        if !known_params(dialect).contains(&name) {
            // A password with a bare ? in it ends up here, so nothing of it may be shown.
            let plain = !name.is_empty()
                && name.len() <= 32
                && !query.contains('@')
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let shown = if plain { name } else { "after ?" };
            return Err(refused(&format!("parameter {shown} is not supported for {dialect}")));
        }
        if params.iter().any(|(given, _)| given == name) {
            return Err(refused(&format!("parameter {name} is given twice")));
        }
        // SQLAlchemy reads the query as a web form: + is a space, and what has no value is not there.
        let value = decode(&value.replace('+', " "), &format!("parameter {name}"))?;
        if !value.is_empty() {
            params.push((name.to_owned(), value));
        }
    }
    Ok(params)
}

fn decode(text: &str, what: &str) -> Result<String, Error> {
    let bad = || refused(&format!("{what} has a % that is no escape: write %25 for it"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push(high * 16 + low),
            _ => return Err(bad()),
        }
    }
    String::from_utf8(bytes).map_err(|_| refused(&format!("{what} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Url, Error> {
        Url::parse(&SecretString::from(text.to_owned()))
    }

    fn why(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn sqlite_paths() {
        let path = |text: &str| parse(text).unwrap().sqlite_path().unwrap();
        assert_eq!(path("sqlite:////var/lib/barbican/b.sqlite"), PathBuf::from("/var/lib/barbican/b.sqlite"));
        assert_eq!(path("sqlite:///b.sqlite"), PathBuf::from("b.sqlite"));
        assert_eq!(path("sqlite+pysqlite:///b%20c.sqlite?timeout=20"), PathBuf::from("b%20c.sqlite"));
    }

    #[test]
    fn servers() {
        let url = parse("mysql+pymysql://barbican:p%40ss%2Fw@db.example:3307/barbican?charset=utf8").unwrap();
        assert_eq!(url.dialect(), Dialect::Mysql);
        assert_eq!(url.user(), Some("barbican"));
        assert_eq!(url.password().unwrap().expose_secret(), "p@ss/w");
        assert_eq!((url.host(), url.port(), url.database()), (Some("db.example"), Some(3307), "barbican"));
        assert_eq!(url.params(), [("charset".to_owned(), "utf8".to_owned())]);
        assert_eq!(url.to_string(), "mysql+pymysql://barbican:***@db.example:3307/barbican?charset=utf8");
        assert!(!format!("{url:?}").contains("ss"));
        let url = parse("postgresql://h/d?options=-c+search_path%3Db&sslmode=").unwrap();
        assert_eq!((url.param("options"), url.param("sslmode")), (Some("-c search_path=b"), None));
        assert_eq!((url.driver(), parse("mariadb+pymysql://h/d").unwrap().driver()), ("psycopg2", "pymysql"));

        let url = parse("postgres://b@[::1]/barbican").unwrap();
        assert_eq!((url.dialect(), url.host(), url.password().is_none()), (Dialect::Postgresql, Some("::1"), true));
        assert_eq!(url.to_string(), "postgres://b@[::1]/barbican");
    }

    #[test]
    fn refusals_name_the_part_and_never_the_password() {
        for (text, part) in [
            ("", "empty"),
            ("/var/lib/b.sqlite", "dialect://"),
            ("sqlite://", "in-memory"),
            ("sqlite:///", "in-memory"),
            ("sqlite:///:memory:", "in-memory"),
            ("sqlite:///file:x?mode=ro", "parameter mode"),
            ("sqlite:///file:x", "file: URIs"),
            ("sqlite://host/x", "no host"),
            ("oracle://u:hunter2@h/d", "oracle is not a database"),
            ("mysql+aiomysql://u:hunter2@h/d", "driver aiomysql"),
            ("mysql://u:hunter2@h:x/d", "port"),
            ("mysql://u:hunter2@h", "names no database"),
            ("mysql://u:hun@ter2@h/d", "%40"),
            ("mysql://u:hunter2%zz@h/d", "the password has a %"),
            ("mysql://u:/hunter2@h/d", "@ after the first /"),
            ("postgresql://u:1234/hunter2@h/d", "@ after the first /"),
            ("mysql://u:hunter2@h/--result-file=x", "begins with -"),
            ("mysql://u:hun?ter2@h/d", "parameter after ?"),
            ("postgresql://u:hunter2@h1,h2/d", "several hosts"),
            ("postgresql://u:hunter2@h/d?service=x", "parameter service"),
            ("postgresql://u:hunter2@h/d?sslmode=allow&sslmode=require", "sslmode is given twice"),
        ] {
            let why = why(text);
            assert!(why.contains(part), "{text}: {why}");
            assert!(!why.contains("hun") && !why.contains("ter2"), "{why}");
        }
    }
}
