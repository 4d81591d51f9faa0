//! What an operator's server may be like, and what is said of it before anything is changed.
use keymgr_upgrade::db::Dialect;

use crate::{
    server_schema::{HEAD, Site, dump, dumped, server},
    servers::Base,
};

/// Runs the upgrade of the schema, which must be refused with this text and change nothing.
fn refused(base: &Base, code: i32, text: &str) {
    let before = dumped(base);
    Site::on(&base.url()).run(&["db", "upgrade", "--yes"]).expect(code).says(text);
    assert!(before == dumped(base), "{text}: something was changed");
}

fn newton(dialect: Dialect) -> Base {
    server(dialect).database(&dump(dialect, "9.0.1"))
}

#[test]
fn postgresql_an_empty_schema_is_not_taken_for_an_empty_database() {
    let base = newton(Dialect::Postgresql);
    base.sql("CREATE SCHEMA barbican AUTHORIZATION barbican");
    refused(&base, 1, "new tables would be made in schema barbican, but tables of Barbican are in public");
    base.sql("DROP SCHEMA barbican");
    Site::on(&base.url()).run(&["db", "upgrade", "--yes"]).expect(0);
}

#[test]
fn postgresql_a_server_that_takes_no_writes_is_told_at_once() {
    let base = newton(Dialect::Postgresql);
    base.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", base.name()));
    let site = Site::on(&base.url());
    site.run(&["db", "upgrade", "--yes"]).expect(1).says("the server is read-only");
    assert_ne!(site.run(&["check", "--from", "train"]).code, 0);
}

#[test]
fn postgresql_what_was_begun_and_never_finished_does_not_count() {
    let base = newton(Dialect::Postgresql);
    let row = "INSERT INTO projects (id, created_at, updated_at, deleted, status, external_id) VALUES";
    base.sql("ALTER TABLE projects DROP CONSTRAINT uc_projects_external_ids");
    for id in ["p1", "p2"] {
        base.sql(&format!("{row} ('{id}', now(), now(), false, 'ACTIVE', 'same')"));
    }
    // psql ends with an error: that is what leaves the index behind.
    let index = "CREATE UNIQUE INDEX CONCURRENTLY uc_projects_external_ids ON projects (external_id)";
    assert!(std::panic::catch_unwind(|| base.sql(index)).is_err());
    refused(&base, 3, "(external_id) is not unique");
    let base = newton(Dialect::Postgresql);
    base.sql("ALTER TABLE secrets DROP CONSTRAINT secrets_project_fk");
    base.sql("ALTER TABLE secrets ADD CONSTRAINT secrets_project_fk FOREIGN KEY (project_id) REFERENCES projects (id) NOT VALID");
    refused(&base, 3, "the foreign key (project_id) -> projects(id) is missing");
}

#[test]
fn mariadb_rights_that_are_missing_are_told_also_without_a_backup() {
    let base = newton(Dialect::Mysql);
    base.sql(&format!("REVOKE ALTER ON {}.* FROM barbican@'%'", base.name()));
    refused(&base, 3, "a migration would fail: the user may not ALTER");
}

#[test]
fn mariadb_new_tables_are_like_those_that_are_there() {
    let base = server(Dialect::Mysql).database(&dump(Dialect::Mysql, "chain-4ecde3a3a72a-liberty"));
    base.sql(&format!("ALTER DATABASE {} CHARACTER SET utf8mb4", base.name()));
    let site = Site::on(&base.url());
    site.run(&["db", "upgrade", "--yes"]).expect(0);
    site.run(&["db", "current"]).expect(0).says(HEAD);
    let sets = "SELECT DISTINCT table_collation FROM information_schema.tables WHERE table_schema = DATABASE()";
    assert_eq!(base.sql(sets), [[Some("utf8mb3_general_ci".to_owned())]]);
}

/// A row with the columns that every table has, and these.
fn insert(base: &Base, table: &str, columns: &str, values: &str) {
    base.sql(&format!(
        "INSERT INTO {table} (created_at, updated_at, deleted, status, {columns}) \
         VALUES ('2015-01-01 00:00:00', '2015-01-01 00:00:00', '0', 'ACTIVE', {values})"
    ));
}

/// Rows that a later revision would stop at are listed before the first one runs.
fn rows_in_the_way(dialect: Dialect) {
    let chain = server(dialect).database(&dump(dialect, "chain-254495565185-juno"));
    for id in ["t1", "t2"] {
        insert(&chain, "tenants", "id, keystone_id", &format!("'{id}', 'the same'"));
    }
    insert(&chain, "secrets", "id", "'s1'");
    refused(&chain, 3, "projects that share their external_id (2 rows)");
    refused(&chain, 3, "id=t2, external_id=the same");
    refused(&chain, 3, "secrets that belong to no project (1 row)");
    refused(&chain, 3, "id=s1");
    let models = server(dialect).database(&dump(dialect, "2014.2-createall"));
    insert(&models, "tenants", "id, keystone_id", "'t1', 'one'");
    insert(&models, "containers", "id, name, tenant_id, type", "'c1', 'c', 't1', 'generic'");
    let url = if dialect == Dialect::Postgresql { "\"URL\"" } else { "URL" };
    let values = format!("'m1', 'c1', 'n', '{}', 'h'", "u".repeat(256));
    insert(&models, "container_consumer_metadata", &format!("id, container_id, name, {url}, data_hash"), &values);
    refused(&models, 3, "container consumers with a URL longer than 255 characters (1 row)");
    refused(&models, 3, "characters=256");
}

#[test]
fn postgresql_rows_in_the_way_are_listed() {
    rows_in_the_way(Dialect::Postgresql);
}

#[test]
fn mariadb_rows_in_the_way_are_listed() {
    rows_in_the_way(Dialect::Mysql);
}
