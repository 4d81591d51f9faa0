//! Against private servers, whose TLS has an authority made for the occasion.
#![expect(clippy::disallowed_methods, reason = "tests run openssl, and themselves in another environment")]

use std::{io::Read as _, io::Write as _, net::TcpListener, process::Command};

use secrecy::SecretString;

use super::*;
use crate::servers::{self, Base, Kind, PASSWORD, Private, Server};

const WAIT: Duration = Duration::from_secs(20);

fn connect(url: &str) -> Result<Wire> {
    Wire::connect(&Url::parse(&SecretString::from(url.to_owned()))?, "keymgr-test", WAIT)
}

fn open(base: &Base) -> Wire {
    connect(&base.url()).unwrap()
}

fn text(s: &str) -> Option<String> {
    Some(s.to_owned())
}

/// The text of an error, in which no password may be.
fn why<T: fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(PASSWORD) && !text.contains("p%40s") && !text.contains("p@s"), "{text}");
    assert!(text.contains("***"), "{text}");
    error.to_string()
}

#[track_caller]
fn says<T: fmt::Debug>(result: Result<T>, part: &str) {
    let text = why(result);
    assert!(text.contains(part), "{part:?} is not in: {text}");
}

/// The base over TCP with parameters.
fn with(base: &Base, user: &str, host: &str, parameters: &str) -> Result<Wire> {
    connect(&base.url_with(user, &format!("{host}:{}", base.server().port()), parameters))
}

/// Whether the session is encrypted, in the server's eyes.
fn encrypted(wire: &Wire) -> bool {
    let sql = match wire.dialect() {
        Dialect::Mysql => "SHOW SESSION STATUS LIKE 'Ssl_cipher'",
        _ => "SELECT '', CASE WHEN ssl THEN 'x' ELSE '' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    };
    wire.query(sql).unwrap()[0][1].as_deref() != Some("")
}

fn both() -> [Server; 2] {
    [servers::postgresql(), servers::mariadb()]
}

fn speaks(server: &Server) {
    let base = server.database("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, at TIMESTAMP NULL)");
    let wire = open(&base);
    assert!(wire.url().starts_with(wire.dialect().name()) && wire.url().contains("barbican:***@"), "{wire:?}");
    let odd = "it's \"\\ ?\t\n\u{e9}";
    let insert = "INSERT INTO t (\"id\", v, at) VALUES (?, ?, ?)";
    assert_eq!(wire.execute_with(insert, &[Some("1"), Some(odd), Some("2016-01-02 03:04:05")]).unwrap(), 1);
    assert_eq!(wire.execute_with(insert, &[Some("2"), None, None]).unwrap(), 1);
    let want = vec![vec![text("1"), text(odd), text("2016-01-02 03:04:05")], vec![text("2"), None, None]];
    assert_eq!(wire.query("SELECT id, v, at FROM t ORDER BY id").unwrap(), want);
    let found = wire.query_with("SELECT id FROM t WHERE v = ? OR id = ?", &[Some(odd), Some("7")]);
    assert_eq!(found.unwrap(), [[text("1")]]);
    assert_eq!(wire.query("SELECT 'a\\' || 'b'").unwrap(), [[text("a\\b")]]);
    // Found, not changed, counts.
    assert_eq!(wire.execute("UPDATE t SET v = v").unwrap(), 2);
    let (names, rows) = wire.names_and_rows("SELECT id AS \"A b\", v FROM t WHERE id = 9").unwrap();
    assert_eq!((names, rows), (vec!["A b".to_owned(), "v".to_owned()], vec![]));
    let mut streamed = Vec::new();
    wire.each("SELECT id, v, at FROM t ORDER BY id;", &mut |row| {
        streamed.push(row.iter().map(|v| v.map(|v| String::from_utf8(v.to_vec()).unwrap())).collect::<Row>());
        says(wire.query("SELECT 1"), "still reading");
        Ok(())
    })
    .unwrap();
    assert_eq!(streamed, want);
    assert_eq!(base.sql("SELECT v FROM t WHERE id = 2"), [[None]]);
    // A caller that has seen enough leaves the connection usable.
    let enough = |_: &[Option<&[u8]>]| Err(Error::Url("***".to_owned()));
    says(wire.each("SELECT id FROM t", &mut { enough }), "***");
    let show = |name: &str| wire.query(&format!("SHOW {name}")).unwrap()[0].last().cloned().flatten().unwrap();
    match server.kind() {
        Kind::Postgresql => {
            assert_eq!([show("row_security"), show("idle_in_transaction_session_timeout")], ["off", "0"]);
            assert_eq!([show("application_name"), show("TimeZone")], ["keymgr-test", "UTC"]);
        }
        Kind::Mariadb => {
            assert_eq!(show("VARIABLES LIKE 'max_statement_time'"), "0.000000");
            assert_eq!(show("VARIABLES LIKE 'character_set_client'"), "utf8mb4");
        }
    }
    let id = wire.session_id().unwrap();
    assert_eq!(id, wire.session_id().unwrap());
    assert_ne!(id, open(&base).session_id().unwrap());
}

#[test]
fn postgresql_speaks() {
    speaks(&servers::postgresql());
}

#[test]
fn mariadb_speaks() {
    speaks(&servers::mariadb());
}

/// More than any buffer holds, in both directions, with TLS and without.
#[test]
fn long_values() {
    let value = "0123456789abcde\\".repeat(100_000);
    for server in both() {
        let base = server.database(match server.kind() {
            Kind::Postgresql => "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
            Kind::Mariadb => "CREATE TABLE t (id INTEGER PRIMARY KEY, v LONGTEXT)",
        });
        let off = if server.kind() == Kind::Postgresql { "sslmode=disable" } else { "ssl_mode=DISABLED" };
        for (n, parameters) in ["", off].iter().enumerate() {
            let wire = with(&base, "barbican", "127.0.0.1", parameters).unwrap();
            assert_eq!(encrypted(&wire), parameters.is_empty());
            wire.execute_with("INSERT INTO t VALUES (?, ?)", &[Some(&n.to_string()), Some(&value)]).unwrap();
            let read = wire.query_with("SELECT v FROM t WHERE id = ?", &[Some(&n.to_string())]).unwrap();
            assert!(read == [[Some(value.clone())]]);
            let mut rows = 0;
            wire.each("SELECT a.v FROM t a, t b, t c", &mut |row| {
                assert!(row == [Some(value.as_bytes())]);
                rows += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(rows, [1, 8][n]);
        }
    }
}

#[test]
fn sockets_and_ipv6() {
    let [postgresql, mariadb] = both();
    let base = postgresql.database("CREATE SCHEMA aside; CREATE TABLE aside.t (id INTEGER)");
    let place = format!("host={}&port={}", postgresql.dir().display(), postgresql.port());
    assert!(!encrypted(&connect(&base.url_with("barbican", "", &format!("{place}&sslmode=require"))).unwrap()));
    says(connect(&base.url_with("barbican", "", "host=/nowhere")), "no such socket");
    let wire = with(&base, "barbican", "127.0.0.1", "options=-c+search_path%3Daside").unwrap();
    assert!(wire.query("SELECT id FROM t").unwrap().is_empty());

    let base = mariadb.database("");
    let place = |path: &str| connect(&base.url_with("barbican", "elsewhere", &format!("unix_socket={path}")));
    place(&mariadb.socket().display().to_string()).unwrap();
    says(place("/nowhere/socket"), "/nowhere/socket: there is no such socket");

    if std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|lines| lines.contains(" lo")) {
        for server in both() {
            with(&server.database(""), "barbican", "[::1]", "").unwrap();
        }
    }
}

#[test]
fn postgresql_tls() {
    let server = servers::postgresql();
    let base = server.database("");
    let (ca, wrong) = (server.tls("ca.pem"), server.tls("wrong-ca.pem"));
    let identity = format!("sslcert={}&sslkey={}", server.tls("client.pem"), server.tls("client.key"));
    for (user, host, parameters, tls) in [
        ("barbican", "127.0.0.1", String::new(), true),
        ("barbican", "127.0.0.1", "sslmode=disable".to_owned(), false),
        ("barbican", "127.0.0.1", "sslmode=allow".to_owned(), false),
        ("tls_only", "127.0.0.1", "sslmode=allow".to_owned(), true),
        ("barbican", "localhost", format!("sslmode=verify-full&sslrootcert={ca}"), true),
        ("barbican", "127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), true),
        ("tls_client", "127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}&{identity}"), true),
    ] {
        let wire = with(&base, user, host, &parameters).unwrap();
        assert_eq!(encrypted(&wire), tls, "{parameters}");
    }
    let fails = |user: &str, parameters: &str, part: &str| says(with(&base, user, "127.0.0.1", parameters), part);
    for mode in ["require", "verify-ca", "verify-full"] {
        fails("barbican", &format!("sslmode={mode}&sslrootcert={wrong}"), "not trusted");
    }
    fails("barbican", "sslrootcert=system", "not trusted");
    fails("barbican", "sslmode=verify-ca&sslrootcert=/no/such/ca.pem", "no TLS connection: /no/such/ca.pem");
    fails("tls_only", "sslmode=disable", "refuses user tls_only: pg_hba.conf rejects");
    fails("tls_client", "", "valid client certificate");
    let stranger = format!("sslmode=require&sslcert={wrong}&sslkey={}", server.tls("wrong-ca.key"));
    fails("tls_client", &stranger, "no TLS connection: ");
    let half = format!("sslcert={}&sslkey={}", server.tls("client.pem"), server.tls("client.pem"));
    fails("tls_client", &half, "client.pem: no private key");
}

#[test]
fn mariadb_tls() {
    let server = servers::mariadb();
    let base = server.database("");
    let (ca, wrong) = (server.tls("ca.pem"), server.tls("wrong-ca.pem"));
    let identity = format!("ssl_cert={}&ssl_key={}", server.tls("client.pem"), server.tls("client.key"));
    for (user, host, parameters, tls) in [
        ("barbican", "127.0.0.1", "charset=utf8".to_owned(), true),
        ("barbican", "127.0.0.1", "ssl_disabled=true".to_owned(), false),
        ("tls_only", "127.0.0.1", "ssl_mode=REQUIRED".to_owned(), true),
        ("barbican", "localhost", format!("charset=utf8&ssl_ca={ca}"), true),
        ("barbican", "127.0.0.1", format!("ssl_ca={ca}&ssl_verify_cert=true&ssl_verify_identity=true"), true),
        ("barbican", "127.0.0.1", format!("ssl_capath={}", server.dir().join("tls").display()), true),
        ("tls_client", "127.0.0.1", format!("ssl_ca={ca}&{identity}"), true),
    ] {
        let wire = with(&base, user, host, &parameters).unwrap();
        assert_eq!(encrypted(&wire), tls, "{parameters}");
    }
    let socket = format!("unix_socket={}&ssl_ca={ca}", server.socket().display());
    assert!(encrypted(&connect(&base.url_with("barbican", "", &socket)).unwrap()));
    let fails = |user: &str, parameters: &str, part: &str| says(with(&base, user, "127.0.0.1", parameters), part);
    // Only what is named is trusted, and it did not sign.
    fails("barbican", &format!("ssl_ca={wrong}"), "not trusted");
    fails("barbican", &format!("ssl_ca={wrong}&ssl_check_hostname=false"), "not trusted");
    fails("barbican", "ssl_verify_cert=true", "not trusted");
    fails("barbican", "ssl_ca=/no/such/ca.pem", "no TLS connection: /no/such/ca.pem");
    fails("tls_only", "ssl_mode=DISABLED", "refuses user tls_only");
    fails("tls_only", "ssl_mode=DISABLED", "may want TLS");
    fails("tls_client", "", "refuses user tls_client");
    fails("tls_client", &format!("ssl_cert={wrong}&ssl_key={}", server.tls("wrong-ca.key")), "no TLS connection: ");
}

/// With an authority named, those of the operating system count for nothing. OpenSSL takes them from a variable, which
/// only a process of its own may have.
#[test]
fn authorities_of_the_system() {
    for (server, by_system, by_other) in [
        (servers::postgresql(), "sslrootcert=system", "sslmode=verify-ca&sslrootcert="),
        (servers::mariadb(), "ssl_verify_cert=true", "ssl_check_hostname=false&ssl_ca="),
    ] {
        let ca = server.tls("ca.pem");
        match std::env::var("KEYMGR_TEST_TRUSTED") {
            Err(_) => {
                let status = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "db::wire::tests::authorities_of_the_system"])
                    .envs([("KEYMGR_TEST_TRUSTED", &ca), ("SSL_CERT_FILE", &ca)])
                    .status();
                assert!(status.unwrap().success());
            }
            Ok(trusted) if trusted == ca => {
                let base = server.database("");
                with(&base, "barbican", "127.0.0.1", by_system).unwrap();
                let other = format!("{by_other}{}", server.tls("wrong-ca.pem"));
                says(with(&base, "barbican", "127.0.0.1", &other), "not trusted");
            }
            Ok(_) => {}
        }
    }
}

/// Certificates of version 1 without any other name than a CN, and a key in PKCS#1, as old instructions make them.
#[test]
fn old_certificates() {
    let postgresql = Private::start(Kind::Postgresql, &[("TLS_STYLE", "v1")], &[]);
    let mariadb = Private::start(Kind::Mariadb, &[("TLS_STYLE", "v1")], &[]);
    for server in [&postgresql.server, &mariadb.server] {
        let shown =
            Command::new("openssl").args(["x509", "-noout", "-text", "-in", &server.tls("server.pem")]).output();
        assert!(String::from_utf8_lossy(&shown.unwrap().stdout).contains("Version: 1 "));
        assert!(std::fs::read_to_string(server.tls("client.key")).unwrap().contains("BEGIN RSA PRIVATE KEY"));
        let base = server.database("");
        let (ca, cert, key) = (server.tls("ca.pem"), server.tls("client.pem"), server.tls("client.key"));
        let parameters = match server.kind() {
            Kind::Postgresql => format!("sslmode=verify-full&sslrootcert={ca}&sslcert={cert}&sslkey={key}"),
            Kind::Mariadb => format!("ssl_ca={ca}&ssl_cert={cert}&ssl_key={key}"),
        };
        assert!(encrypted(&with(&base, "tls_client", "localhost", &parameters).unwrap()));
        says(with(&base, "tls_client", "127.0.0.1", &parameters), "the server's certificate names another host");
    }
}

#[test]
fn servers_without_tls() {
    let postgresql = Private::start(Kind::Postgresql, &[], &["-c", "ssl=off"]);
    let mariadb = Private::start(Kind::Mariadb, &[], &["--skip-ssl"]);
    for (server, must) in [(&postgresql.server, "sslmode=require"), (&mariadb.server, "ssl_mode=REQUIRED")] {
        let base = server.database("");
        assert!(!encrypted(&open(&base)));
        says(with(&base, "barbican", "127.0.0.1", must), "no TLS connection: ");
    }
}

#[test]
fn nobody_there() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for scheme in ["postgresql", "mysql+pymysql"] {
        let url = |place: &str, parameters: &str| format!("{scheme}://barbican:p%40s@{place}/barbican{parameters}");
        let fails = |place: &str, part: &str| says(connect(&url(place, "")), part);
        fails(
            &format!("127.0.0.1:{closed}"),
            &format!("127.0.0.1:{closed}/barbican: the server cannot be reached: connection refused"),
        );
        let port = if scheme == "postgresql" { 5432 } else { 3306 };
        fails("no-such-host.invalid", &format!("no-such-host.invalid:{port}: the host name does not resolve"));
        // The kernel accepts, nobody answers; the smaller of the two bounds counts.
        let parsed = Url::parse(&SecretString::from(url(&format!("127.0.0.1:{silent_port}"), ""))).unwrap();
        says(Wire::connect(&parsed, "keymgr-test", Duration::from_millis(100)), "no answer within 0.1 s");
        let own = url(&format!("127.0.0.1:{silent_port}"), "?connect_timeout=1");
        says(connect(&own), "no answer within 1 s");
    }
}

/// Something else listens there: what it says is no reason to panic, nor to wait.
#[test]
fn another_protocol() {
    for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x0a\0\0\0\x0a8.0\0", b"\xff\xff\xff\0\x0a", b"S"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                stream.write_all(answer).ok();
                stream.shutdown(std::net::Shutdown::Write).ok();
                stream.read_to_end(&mut Vec::new()).ok();
            }
        });
        for (scheme, parameters) in [
            ("postgresql", ""),
            ("postgresql", "?sslmode=require"),
            ("mysql+pymysql", ""),
            ("mysql+pymysql", "?ssl_mode=DISABLED"),
            ("mysql+pymysql", "?ssl_mode=REQUIRED"),
        ] {
            let error =
                connect(&format!("{scheme}://barbican:p%40s@127.0.0.1:{port}/barbican{parameters}")).unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. } | Error::Tls { .. }), "{scheme} {answer:?}: {error}");
        }
    }
}

#[test]
fn refusals() {
    for server in both() {
        let base = server.database("");
        let url = base.url();
        let refused = connect(&url.replace("p%40s", "x")).unwrap_err();
        assert!(matches!(&refused, Error::LoginRefused { user, .. } if user == "barbican"), "{refused}");
        assert!(matches!(connect(&url.replace("barbican:", "nobody:")).unwrap_err(), Error::LoginRefused { .. }));
        let (start, _) = url.rsplit_once('/').unwrap();
        let error = connect(&format!("{start}/nowhere")).unwrap_err();
        match server.kind() {
            Kind::Postgresql => {
                assert!(matches!(&error, Error::NoSuchDatabase { database, .. } if database == "nowhere"))
            }
            // MariaDB tells only those who may see all databases.
            Kind::Mariadb => assert!(matches!(&error, Error::Denied { .. }), "{error}"),
        }
        let no_password =
            url.replace(&format!(":{}@", url.split_once("barbican:").unwrap().1.split_once('@').unwrap().0), "@");
        assert!(matches!(connect(&no_password).unwrap_err(), Error::LoginRefused { .. }), "{no_password}");
    }
    // As the administrator, who may see them.
    let server = servers::mariadb();
    let url = format!("mysql+pymysql://root@/nowhere?unix_socket={}", server.socket().display());
    assert!(matches!(connect(&url).unwrap_err(), Error::NoSuchDatabase { database, .. } if database == "nowhere"));
    server.admin("CREATE USER IF NOT EXISTS by_socket@'%' IDENTIFIED VIA unix_socket");
    says(with(&server.database(""), "by_socket", "127.0.0.1", ""), "refuses user by_socket");
}

#[test]
fn locks_privileges_and_room() {
    for server in both() {
        let base =
            server.database("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t VALUES (4711, 1);");
        let (one, two) = (open(&base), open(&base));
        one.execute("BEGIN").unwrap();
        one.execute("UPDATE t SET v = 2").unwrap();
        two.execute(match server.kind() {
            Kind::Postgresql => "SET lock_timeout = '50ms'",
            Kind::Mariadb => "SET innodb_lock_wait_timeout = 0",
        })
        .unwrap();
        let error = two.execute("UPDATE t SET v = 3").unwrap_err();
        assert!(matches!(&error, Error::LockTimeout { doing, .. } if doing == "UPDATE t SET v = 3"), "{error}");
        one.execute("COMMIT").unwrap();
        two.execute("UPDATE t SET v = 3").unwrap();

        let forbidden = match server.kind() {
            Kind::Postgresql => "SELECT * FROM pg_authid",
            Kind::Mariadb => "SELECT * FROM mysql.global_priv",
        };
        assert!(matches!(two.query(forbidden).unwrap_err(), Error::Denied { .. }));

        // No value of a row, and no literal, is in an error.
        for sql in
            ["INSERT INTO t VALUES (4711, 1)", "UPDATE t SET v = 'hunter2'", "SELECT 'hunter2' FROM no_such_table"]
        {
            let error = two.execute(sql).unwrap_err();
            assert!(matches!(error, Error::Server { .. }), "{error}");
            let Error::Server { message, doing, .. } = &error else { unreachable!() };
            assert!(!message.contains("4711") && !error.to_string().contains("hunter2"), "{error}");
            assert!(doing.starts_with(&sql[..6]), "{error}");
        }
        says(two.execute("SELECT * FROM no_such_table"), "no_such_table");
        says(two.execute_with("SELECT ?", &[]), "more ? than values");
    }
    let server = servers::postgresql();
    let administrator =
        format!("postgresql://postgres@/postgres?host={}&port={}", server.dir().display(), server.port());
    let full = connect(&administrator).unwrap().execute("COPY (SELECT repeat('x', 99999)) TO '/dev/full'").unwrap_err();
    assert!(matches!(full, Error::ServerDisk { .. }), "{full}");
    let wire = open(&servers::mariadb().database(""));
    wire.execute("SET max_heap_table_size = 16384").unwrap();
    wire.execute("CREATE TEMPORARY TABLE t (v CHAR(255)) ENGINE = MEMORY").unwrap();
    let full = wire.execute("INSERT INTO t SELECT 'x' FROM information_schema.collations").unwrap_err();
    assert!(matches!(full, Error::ServerDisk { .. }), "{full}");
}

/// Killed by an administrator in the middle of a statement, between two, and with the whole server.
#[test]
fn lost_connections() {
    for kind in [Kind::Postgresql, Kind::Mariadb] {
        let private = Private::start(kind, &[], &[]);
        let server = &private.server;
        let base = server.database("");
        let (endless, running, kill) = match kind {
            Kind::Postgresql => (
                "SELECT pg_sleep(600)",
                "SELECT 1 FROM pg_stat_activity WHERE pid = {} AND state = 'active' AND query LIKE '%600%'",
                "SELECT pg_terminate_backend({})",
            ),
            Kind::Mariadb => (
                "SELECT SLEEP(600)",
                "SELECT 1 FROM information_schema.processlist WHERE id = {} AND info LIKE '%600%'",
                "KILL {}",
            ),
        };
        let in_the_middle = |end: &dyn Fn(&str)| {
            let wire = open(&base);
            let id = wire.session_id().unwrap().to_string();
            let waiting = thread::spawn(move || wire.query(endless));
            while base.sql(&running.replace("{}", &id)).is_empty() {
                assert!(!waiting.is_finished());
            }
            end(&id);
            let error = waiting.join().unwrap().unwrap_err();
            assert!(matches!(&error, Error::ConnectionLost { doing, .. } if doing == endless), "{error}");
        };
        in_the_middle(&|id| server.admin(&kill.replace("{}", id)));

        let wire = open(&base);
        server.admin(&kill.replace("{}", &wire.session_id().unwrap().to_string()));
        let error = wire.execute("UPDATE t SET v = 'hunter2'").unwrap_err();
        assert!(matches!(&error, Error::ConnectionLost { .. }), "{error}");
        assert!(why::<()>(Err(error)).contains("(UPDATE t SET v = '...')"));
        // And it stays lost.
        assert!(matches!(wire.session_id().unwrap_err(), Error::ConnectionLost { .. }));

        let wire = open(&base);
        let mut rows = 0;
        let error = wire.each(
            "SELECT a.column_name FROM information_schema.columns a, information_schema.columns b",
            &mut |_| {
                if rows == 0 {
                    private.kill();
                }
                rows += 1;
                Ok(())
            },
        );
        assert!(matches!(error.unwrap_err(), Error::ConnectionLost { .. }));
        says(connect(&base.url()), "connection refused");
    }
}
