//! Against private servers.
use secrecy::SecretString;

use super::*;
use crate::servers::{self, Base, Server};

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
    assert_eq!(
        wire.query_with("SELECT id FROM t WHERE v = ? OR id = ?", &[Some(odd), Some("7")]).unwrap(),
        [[text("1")]]
    );
    assert_eq!(wire.query("SELECT 'a\\' || 'b'").unwrap(), [[text("a\\b")]]);
    // Found, not changed, counts.
    assert_eq!(wire.execute("UPDATE t SET v = v").unwrap(), 2);
    let (names, rows) = wire.names_and_rows("SELECT id AS \"A b\", v FROM t WHERE id = 9").unwrap();
    assert_eq!((names, rows), (vec!["A b".to_owned(), "v".to_owned()], vec![]));
    let mut streamed = Vec::new();
    wire.each("SELECT id, v, at FROM t ORDER BY id;", &mut |row| {
        streamed.push(row.iter().map(|v| v.map(|v| String::from_utf8(v.to_vec()).unwrap())).collect::<Row>());
        wire.query("SELECT 1").unwrap_err();
        Ok(())
    })
    .unwrap();
    assert_eq!(streamed, want);
    assert_eq!(base.sql("SELECT v FROM t WHERE id = 2"), [[None]]);
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
