//! Where a URL leads, and how: as SQLAlchemy and the Python driver that the URL names would have it.
//!
//! What cannot be honoured is refused by its name. What only shapes Barbican's own session (its character set and
//! collation, its timeouts) has no meaning for ours, and is let through.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::super::{Dialect, Error, Result, Url};

/// Where libpq looks for the socket if the URL names no host: as Debian and Red Hat build it, and as upstream does.
const POSTGRESQL_SOCKETS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Where the C client of MySQL looks: on Debian, on Red Hat, upstream.
const MYSQL_SOCKETS: [&str; 3] = ["/var/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::db) enum Address {
    /// Host name or IP address, and port.
    Tcp {
        /// Without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket: its directory on PostgreSQL, where the port is part of its name, the socket itself on MySQL.
    Socket {
        /// The path.
        path: PathBuf,
        /// The port.
        port: u16,
    },
}

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::db) enum Encrypt {
    /// Not at all.
    Never,
    /// If the server refuses it otherwise (libpq's `allow`).
    Allow,
    /// If the server offers it (libpq's `prefer`).
    Prefer,
    /// Or there is no connection.
    Always,
}

/// What is checked of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::db) enum Check {
    /// Nothing.
    Nothing,
    /// That a trusted authority signed it.
    Authority,
    /// Also that it names the host.
    Name,
}

/// TLS as the URL asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::db) struct Tls {
    /// Whether.
    pub(in crate::db) encrypt: Encrypt,
    /// What is checked.
    pub(in crate::db) check: Check,
    /// Files, or directories of files, of the authorities that are trusted.
    pub(in crate::db) authorities: Vec<PathBuf>,
    /// Whether those of the operating system are trusted too.
    pub(in crate::db) system: bool,
    /// Files of the client's certificate and key.
    pub(in crate::db) identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Whether files are named.
    pub(super) fn has_files(&self) -> bool {
        self.identity.is_some() || !self.authorities.is_empty()
    }
}

/// How a dead peer is noticed: after so long without a word it is asked, every so often, so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keepalive {
    pub(super) on: bool,
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
}

/// Everything that a URL says about reaching its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::db) struct Target {
    /// Where.
    pub(in crate::db) address: Address,
    /// The user.
    pub(in crate::db) user: String,
    /// How it is encrypted.
    pub(in crate::db) tls: Tls,
    /// PostgreSQL's command-line options for the session.
    pub(in crate::db) options: Option<String>,
    /// The URL's own bound on connecting.
    pub(super) timeout: Option<Duration>,
    pub(super) keepalive: Keepalive,
}

impl Target {
    /// Reads it off the URL of a server. Of the file system it only looks for the drivers' default sockets.
    ///
    /// # Errors
    /// [`Error::Url`] naming the parameter that is not understood, cannot be honoured or contradicts another.
    pub(in crate::db) fn of(url: &Url) -> Result<Self> {
        let user = url.user().filter(|user| !user.is_empty());
        let user = user.ok_or_else(|| refused("it names no user, and the one of Barbican's process is not ours"))?;
        let timeout = number(url, "connect_timeout")?.filter(|seconds| *seconds > 0).map(seconds);
        let (address, tls) = match url.dialect() {
            Dialect::Postgresql => (postgresql_address(url)?, postgresql_tls(url)?),
            Dialect::Mysql => (mysql_address(url), mysql_tls(url)?),
            Dialect::Sqlite => return Err(refused("a SQLite file is no server")),
        };
        Ok(Self {
            address,
            user: user.to_owned(),
            tls,
            options: url.param("options").map(str::to_owned),
            timeout,
            keepalive: keepalive(url)?,
        })
    }
}

/// Refuses a URL that somebody else wrote and that asks for the user that we are: over a socket a server may let us in for that alone, with rights
/// that they do not have.
///
/// # Errors
/// [`Error::Url`], or as [`Target::of`].
pub fn refuse_borrowed(url: &Url) -> Result<()> {
    let us = nix::unistd::geteuid();
    let Some(_) = url.chosen_by().filter(|who| who.uid != us.as_raw()) else { return Ok(()) };
    let Target { address: Address::Socket { .. }, user, .. } = Target::of(url)? else { return Ok(()) };
    let ours = nix::unistd::User::from_uid(us).ok().flatten().is_some_and(|us| us.name == user);
    if ours {
        return Err(refused(&format!(
            "it asks for user {user} over a socket, which the server may allow because we are {user}: give Barbican a user of its own"
        )));
    }
    Ok(())
}

impl Address {
    /// As errors show it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Socket { path, .. } => path.display().to_string(),
        }
    }
}

fn postgresql_address(url: &Url) -> Result<Address> {
    // What stands after ? wins, as SQLAlchemy merges them.
    let port = match number(url, "port")? {
        Some(port) => u16::try_from(port).map_err(|_| refused("parameter port is not below 65536"))?,
        None => url.port().unwrap_or(5432),
    };
    let host = url.param("host").or(url.host());
    if host.is_some_and(|host| host.contains(',')) {
        return Err(refused("several hosts in one URL are not supported: name the one that is written to"));
    }
    Ok(match host {
        Some(path) if path.starts_with('/') => Address::Socket { path: path.into(), port },
        Some(host) => Address::Tcp { host: host.to_owned(), port },
        None if url.driver() == "pg8000" => Address::Tcp { host: "localhost".to_owned(), port },
        None => {
            let there = |directory: &&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
            Address::Socket { path: first(&POSTGRESQL_SOCKETS, there), port }
        }
    })
}

fn mysql_address(url: &Url) -> Address {
    let port = url.port().unwrap_or(3306);
    // The C clients take "localhost" for "the socket", the others for a host.
    let by_c = matches!(url.driver(), "mysqldb" | "mariadbconnector");
    match (url.param("unix_socket"), url.host()) {
        (Some(path), _) => Address::Socket { path: path.into(), port },
        (None, None | Some("localhost")) if by_c => {
            Address::Socket { path: first(&MYSQL_SOCKETS, |path| Path::new(path).exists()), port }
        }
        (None, host) => Address::Tcp { host: host.unwrap_or("localhost").to_owned(), port },
    }
}

/// The first that is there, or the first of all: the error then names it.
fn first(paths: &[&str], there: impl Fn(&&str) -> bool) -> PathBuf {
    paths.iter().copied().find(|path| there(path)).or(paths.first().copied()).unwrap_or_default().into()
}

/// As libpq reads them (PostgreSQL manual, "SSL Support"), but for the files in a home directory, which is Barbican's
/// and not ours: they must be named.
fn postgresql_tls(url: &Url) -> Result<Tls> {
    refuse_unless(url, "sslcrl", &[])?;
    refuse_unless(url, "gssencmode", &["disable", "prefer"])?;
    // A replica that only reads cannot be upgraded.
    refuse_unless(url, "target_session_attrs", &["any", "read-write", "primary"])?;
    let root = url.param("sslrootcert");
    let system = root == Some("system");
    let mode = url.param("sslmode").unwrap_or(if system { "verify-full" } else { "prefer" });
    let (encrypt, check) = match mode {
        "disable" => (Encrypt::Never, Check::Nothing),
        "allow" => (Encrypt::Allow, Check::Nothing),
        "prefer" => (Encrypt::Prefer, Check::Nothing),
        // With an authority named it means verify-ca, as ever.
        "require" if root.is_some() => (Encrypt::Always, Check::Authority),
        "require" => (Encrypt::Always, Check::Nothing),
        "verify-ca" => (Encrypt::Always, Check::Authority),
        "verify-full" => (Encrypt::Always, Check::Name),
        _ => {
            return Err(refused(
                "parameter sslmode is none of disable, allow, prefer, require, verify-ca, verify-full",
            ));
        }
    };
    if system && check != Check::Name {
        return Err(refused("sslrootcert=system goes with sslmode=verify-full only"));
    }
    if check != Check::Nothing && root.is_none() {
        return Err(refused(&format!("sslmode={mode} needs sslrootcert= with the file of the authority")));
    }
    let authorities = root.filter(|_| !system).map(PathBuf::from).into_iter().collect();
    Ok(Tls { encrypt, check, authorities, system, identity: identity(url, "sslcert", "sslkey")? })
}

/// TLS parameters of the Python drivers for MySQL, as SQLAlchemy hands them on.
///
/// Without any, current versions of all of them encrypt if the server offers it, and check nothing. With an authority
/// `PyMySQL` checks it and, unless told otherwise, the name; the C clients check the authority only; Oracle's connector
/// checks what it is told to. What SQLAlchemy makes of `ssl_verify_cert` on `PyMySQL` is peculiar: `ssl_ca` is lost,
/// and the authorities of the operating system are those that count; so both are trusted then.
fn mysql_tls(url: &Url) -> Result<Tls> {
    refuse_unless(url, "ssl_cipher", &[])?;
    // dbcounter counts statements for DevStack; any other might change what is written.
    refuse_unless(url, "plugin", &["dbcounter"])?;
    let driver = url.driver();
    let required = match (url.param("ssl"), driver) {
        (Some(_), "mariadbconnector") => truth(url, "ssl")?,
        (Some(_), _) => return Err(refused("parameter ssl is not supported: name the authority with ssl_ca=")),
        (None, _) => None,
    };
    let path = |name| url.param(name).map(PathBuf::from);
    let authorities: Vec<PathBuf> = [path("ssl_ca"), path("ssl_capath")].into_iter().flatten().collect();
    let identity = identity(url, "ssl_cert", "ssl_key")?;
    let (verify, verify_name) = (truth(url, "ssl_verify_cert")?, truth(url, "ssl_verify_identity")?);
    let check_name = truth(url, "ssl_check_hostname")?;
    let named = !authorities.is_empty();
    let mut check = match driver {
        "pymysql" | "cymysql" if verify.is_none() && verify_name.is_none() && named && check_name != Some(false) => {
            Check::Name
        }
        "pymysql" | "cymysql" | "mysqldb" if verify.is_none() && named => Check::Authority,
        _ => Check::Nothing,
    };
    if verify == Some(true) {
        check = check.max(Check::Authority);
    }
    if verify_name == Some(true) {
        check = Check::Name;
    }
    let mut encrypt = if named || identity.is_some() || check != Check::Nothing || required == Some(true) {
        Encrypt::Always
    } else {
        Encrypt::Prefer
    };
    match url.param("ssl_mode").map(str::to_ascii_uppercase).as_deref() {
        None => {}
        Some("DISABLED") => encrypt = Encrypt::Never,
        Some("PREFERRED") => {}
        Some("REQUIRED") => encrypt = Encrypt::Always,
        Some("VERIFY_CA") => (encrypt, check) = (Encrypt::Always, check.max(Check::Authority)),
        Some("VERIFY_IDENTITY") => (encrypt, check) = (Encrypt::Always, Check::Name),
        Some(_) => {
            return Err(refused(
                "parameter ssl_mode is none of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY",
            ));
        }
    }
    if truth(url, "ssl_disabled")? == Some(true) || required == Some(false) {
        encrypt = Encrypt::Never;
    }
    let system = !named || verify.is_some() || verify_name.is_some();
    Ok(Tls { encrypt, check, authorities, system, identity })
}

fn identity(url: &Url, certificate: &str, key: &str) -> Result<Option<(PathBuf, PathBuf)>> {
    match (url.param(certificate), url.param(key)) {
        (Some(certificate), Some(key)) => Ok(Some((certificate.into(), key.into()))),
        (None, None) => Ok(None),
        // Python's drivers look for the key in the certificate's file then; libpq in a home directory.
        (Some(both), None) if certificate == "ssl_cert" => Ok(Some((both.into(), both.into()))),
        (Some(_), None) => Err(refused(&format!("parameter {certificate} needs {key} beside it"))),
        (None, Some(_)) => Err(refused(&format!("parameter {key} needs {certificate} beside it"))),
    }
}

/// libpq's parameters, and where they are not given, what notices a dead server within two minutes.
fn keepalive(url: &Url) -> Result<Keepalive> {
    let given = |name| Ok::<_, Error>(number(url, name)?.filter(|number| *number > 0));
    Ok(Keepalive {
        on: number(url, "keepalives")? != Some(0),
        idle: given("keepalives_idle")?.map_or(Duration::from_secs(60), seconds),
        interval: given("keepalives_interval")?.map_or(Duration::from_secs(10), seconds),
        count: given("keepalives_count")?.unwrap_or(6),
    })
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

fn number(url: &Url, name: &str) -> Result<Option<u32>> {
    url.param(name).map(|v| v.parse().map_err(|_| refused(&format!("parameter {name} is not a number")))).transpose()
}

fn truth(url: &Url, name: &str) -> Result<Option<bool>> {
    let Some(value) = url.param(name) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "t" | "y" | "required" => Ok(Some(true)),
        "false" | "0" | "no" | "off" | "f" | "n" | "none" => Ok(Some(false)),
        _ => Err(refused(&format!("parameter {name} is neither true nor false"))),
    }
}

/// Refuses a parameter, but for values that ask for nothing.
fn refuse_unless(url: &Url, name: &str, harmless: &[&str]) -> Result<()> {
    match url.param(name) {
        Some(value) if !harmless.contains(&value) => {
            let but = if harmless.is_empty() { String::new() } else { format!(" (but {})", harmless.join(", ")) };
            Err(refused(&format!("parameter {name} cannot be honoured{but}")))
        }
        _ => Ok(()),
    }
}

fn refused(why: &str) -> Error {
    Error::Url(why.to_owned())
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    fn target(text: &str) -> Result<Target> {
        Target::of(&Url::parse(&SecretString::from(text.to_owned()))?)
    }

    fn why(text: &str) -> String {
        target(text).unwrap_err().to_string()
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn addresses() {
        let address = |text: &str| target(text).unwrap().address;
        assert_eq!(address("postgresql://u@db/d"), tcp("db", 5432));
        assert_eq!(address("postgresql://u@[::1]:5433/d"), tcp("::1", 5433));
        assert_eq!(address("postgresql://u@[::1]:5433/d").shown(), "[::1]:5433");
        assert_eq!(address("postgresql+pg8000://u@/d"), tcp("localhost", 5432));
        assert_eq!(address("postgresql://u@db/d?host=other&port=7"), tcp("other", 7));
        assert_eq!(address("postgresql://u@/d?host=/s&port=7"), Address::Socket { path: "/s".into(), port: 7 });
        assert!(
            matches!(address("postgresql://u@/d?port=9"), Address::Socket { path, port: 9 } if path == Path::new("/var/run/postgresql"))
        );
        assert_eq!(address("mysql+pymysql://u@/d"), tcp("localhost", 3306));
        assert_eq!(address("mysql+pymysql://u@localhost:3307/d"), tcp("localhost", 3307));
        assert_eq!(address("mysql://u@127.0.0.1/d"), tcp("127.0.0.1", 3306));
        assert!(matches!(address("mysql://u@localhost/d"), Address::Socket { .. }));
        let path = "/run/my.sock".into();
        assert_eq!(address("mysql+pymysql://u@h/d?unix_socket=/run/my.sock"), Address::Socket { path, port: 3306 });
    }

    #[test]
    fn nobody_borrows_our_name_over_a_socket() {
        let us = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
        let refused = |text: &str, uid: u32| {
            let who = crate::command::Identity { uid, gid: uid, groups: Vec::new() };
            refuse_borrowed(&Url::parse(&SecretString::from(text.to_owned())).unwrap().by(Some(who))).is_err()
        };
        let (ours, other) = (us.uid.as_raw(), us.uid.as_raw() + 1);
        for place in ["mysql://U@localhost/d", "mysql+pymysql://U:p@/d?unix_socket=/s", "postgresql://U@/d?host=/s"] {
            let text = place.replace('U', &us.name);
            assert!(refused(&text, other) && !refused(&text, ours), "{place}");
            assert!(!refused(&place.replace('U', "barbican"), other), "{place}");
        }
        assert!(!refused(&format!("mysql+pymysql://{}@localhost/d", us.name), other));
    }

    #[test]
    fn encryption() {
        use {Check::*, Encrypt::*};
        for (text, encrypt, check, system) in [
            ("postgresql://u@h/d", Prefer, Nothing, false),
            ("postgresql://u@h/d?sslmode=disable", Never, Nothing, false),
            ("postgresql://u@h/d?sslmode=allow", Allow, Nothing, false),
            ("postgresql://u@h/d?sslmode=require", Always, Nothing, false),
            ("postgresql://u@h/d?sslmode=require&sslrootcert=/ca", Always, Authority, false),
            ("postgresql://u@h/d?sslmode=verify-ca&sslrootcert=/ca", Always, Authority, false),
            ("postgresql://u@h/d?sslmode=verify-full&sslrootcert=/ca", Always, Name, false),
            ("postgresql://u@h/d?sslrootcert=system", Always, Name, true),
            ("mysql+pymysql://u@h/d?charset=utf8", Prefer, Nothing, true),
            ("mysql+pymysql://u@h/d?ssl_ca=/ca", Always, Name, false),
            ("mysql+pymysql://u@h/d?ssl_capath=/cas", Always, Name, false),
            ("mysql+pymysql://u@h/d?ssl_ca=/ca&ssl_check_hostname=false", Always, Authority, false),
            ("mysql+pymysql://u@h/d?ssl_cert=/c&ssl_key=/k", Always, Nothing, true),
            ("mysql+pymysql://u@h/d?ssl_verify_cert=true", Always, Authority, true),
            ("mysql+pymysql://u@h/d?charset=utf8&ssl_verify_cert=true&ssl_ca=/ca", Always, Authority, true),
            ("mysql+pymysql://u@h/d?ssl_verify_cert=true&ssl_verify_identity=true&ssl_ca=/ca", Always, Name, true),
            ("mysql+pymysql://u@h/d?ssl_disabled=true&ssl_ca=/ca", Never, Name, false),
            ("mysql://u@h/d?ssl_ca=/ca", Always, Authority, false),
            ("mysql://u@h/d?ssl_mode=VERIFY_IDENTITY&ssl_ca=/ca", Always, Name, false),
            ("mysql://u@h/d?ssl_mode=disabled", Never, Nothing, true),
            ("mysql+mysqlconnector://u@h/d?ssl_ca=/ca", Always, Nothing, false),
            ("mysql+mysqlconnector://u@h/d?ssl_ca=/ca&ssl_verify_cert=true", Always, Authority, true),
            ("mariadb+mariadbconnector://u@h/d?ssl=true", Always, Nothing, true),
        ] {
            let tls = target(text).unwrap().tls;
            assert_eq!((tls.encrypt, tls.check, tls.system), (encrypt, check, system), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for (text, part) in [
            ("postgresql://h/d", "names no user"),
            ("postgresql://u@h/d?sslcrl=/x", "sslcrl"),
            ("postgresql://u@h/d?gssencmode=require", "gssencmode"),
            ("postgresql://u@h/d?sslmode=always", "sslmode"),
            ("postgresql://u@h/d?sslmode=verify-full", "sslrootcert"),
            ("postgresql://u@h/d?sslmode=require&sslrootcert=system", "verify-full only"),
            ("postgresql://u@h/d?sslcert=/c", "sslkey"),
            ("postgresql://u@h/d?sslkey=/c", "sslcert"),
            ("postgresql://u@h/d?target_session_attrs=standby", "target_session_attrs"),
            ("postgresql://u@h/d?host=a,b", "several hosts"),
            ("postgresql://u@h/d?connect_timeout=soon", "connect_timeout"),
            ("mysql://u@h/d?plugin=x", "plugin"),
            ("mysql://u@h/d?ssl_cipher=x", "ssl_cipher"),
            ("mysql+pymysql://u@h/d?ssl=true", "ssl_ca="),
            ("mysql+pymysql://u@h/d?ssl_mode=x", "ssl_mode"),
            ("mysql+pymysql://u@h/d?ssl_key=/k", "ssl_cert"),
            ("mysql+pymysql://u@h/d?ssl_verify_cert=perhaps", "ssl_verify_cert"),
        ] {
            assert!(why(text).contains(part), "{text}: {}", why(text));
        }
        target("mysql+pymysql://u@h/d?plugin=dbcounter&charset=utf8&read_timeout=3").unwrap();
    }
}
