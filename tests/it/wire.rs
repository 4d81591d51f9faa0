//! The private servers that other tests build on: what they hold, and that the client programs see it.

use crate::servers::{self, Server};

fn awkward(server: &Server) {
    let base = server.database("CREATE TABLE t (id INTEGER PRIMARY KEY, v VARCHAR(99));\nINSERT INTO t VALUES (1, 'it''s'), (2, NULL), (3, '');");
    let text = |s: &str| Some(s.to_owned());
    let rows = base.sql("SELECT id, v FROM t ORDER BY id");
    assert_eq!(rows, [[text("1"), text("it's")], [text("2"), None], [text("3"), text("")]]);
    assert!(base.sql("SELECT id FROM t WHERE id > 9").is_empty());
    assert!(base.dump().contains("it"), "{}", base.dump());
    // Nothing but what was loaded is in a new one.
    assert_ne!(server.database("").name(), base.name());
}

#[test]
fn postgresql_server() {
    awkward(&servers::postgresql());
}

#[test]
fn mariadb_server() {
    awkward(&servers::mariadb());
}
