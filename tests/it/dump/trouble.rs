//! What goes wrong before, while and after a backup is taken: one clear error, and nothing lost.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use keymgr_upgrade::db::Dialect;
use tempfile::TempDir;

use super::{Deployment, dumped, similar_asserts};
use crate::common::{Said, said};

const UPGRADE: [&str; 4] = ["upgrade", "--yes", "--to", "mitaka"];
const SYSTEM: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs that come before those of the system.
fn programs(scripts: &[(&str, String)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// The upgrade with these programs in place of the system's.
fn upgrade_with(deployment: &Deployment, scripts: &[(&str, String)]) -> Said {
    let dir = programs(scripts);
    said(deployment.command(&UPGRADE).env("PATH", format!("{}:{SYSTEM}", dir.path().display())))
}

/// Files in the backup directories whose names are those of a dump, whole or not.
fn dumps(deployment: &Deployment) -> Vec<PathBuf> {
    let run = deployment.backup(&deployment.run());
    let all = std::fs::read_dir(run).unwrap().map(|f| f.unwrap().path());
    all.filter(|p| p.file_name().unwrap().to_string_lossy().contains("database.")).collect()
}

fn client(dialect: Dialect) -> (&'static str, &'static str) {
    match dialect {
        Dialect::Postgresql => ("pg_dump", "postgresql-client"),
        _ => ("mariadb-dump", "mariadb-client"),
    }
}

fn programs_that_do_not_fit(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    let before = dumped(&deployment.base);
    deployment.approve();
    let (dumper, package) = client(dialect);
    // A directory with nothing in it: none of the programs is installed.
    let none = tempfile::tempdir().unwrap();
    let said = said(deployment.command(&UPGRADE).env("PATH", none.path())).expect(3);
    said.says(&format!("{dumper} is not installed"));
    said.says(&format!("install the package {package}"));
    said.says("backup = none");
    let (version, wanted) = match dialect {
        Dialect::Postgresql => ("pg_dump (PostgreSQL) 9.6.24", "pg_dump is of PostgreSQL 9.6, the server of"),
        _ => (
            "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)",
            "is MySQL's, the server is MariaDB",
        ),
    };
    let script = format!("echo '{version}'");
    let wrong = [("pg_dump", script.clone()), ("mysqldump", script.clone()), ("mariadb-dump", script)];
    upgrade_with(&deployment, &wrong).expect(3).says(wanted);
    similar_asserts(&before, &dumped(&deployment.base));
    // By the operator's own word it goes without.
    deployment.sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", "[database]\nbackup = none\n");
    crate::common::said(deployment.command(&["check", "--to", "mitaka"]).env("PATH", none.path()))
        .says("backup = none");
}

#[test]
fn postgresql_programs_that_do_not_fit() {
    programs_that_do_not_fit(Dialect::Postgresql);
}

#[test]
fn mariadb_programs_that_do_not_fit() {
    programs_that_do_not_fit(Dialect::Mysql);
}

/// The dumper does something else before it begins, or in the middle: the upgrade must fail with this text, leave no dump, and work afterwards.
fn disturbed(deployment: &Deployment, script: &str, wanted: &str) {
    let dialect = match deployment.base.server().kind() {
        crate::servers::Kind::Postgresql => Dialect::Postgresql,
        crate::servers::Kind::Mariadb => Dialect::Mysql,
    };
    let (dumper, _) = client(dialect);
    let script = format!("[ \"$1\" = --version ] && exec /usr/bin/{dumper} --version\n{script}");
    let said = upgrade_with(deployment, &[(dumper, script)]).expect(1);
    assert!(said.error().contains(wanted), "{}", said.all());
    assert!(!said.all().contains(crate::servers::PASSWORD), "{}", said.all());
    assert_eq!(dumps(deployment), Vec::<PathBuf>::new());
}

fn written_to_meanwhile(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    deployment.approve();
    let base = &deployment.base;
    let sql = "DELETE FROM container_consumer_metadata";
    base.load("UPDATE secrets SET name = 'x'");
    let socket = base.server().socket();
    let (dumper, write) = match dialect {
        Dialect::Postgresql => (
            "pg_dump",
            format!(
                "psql -U postgres -h {} -p {} -d {} -qc",
                base.server().dir().display(),
                base.server().port(),
                base.name()
            ),
        ),
        _ => ("mariadb-dump", format!("mariadb --no-defaults -u root -S {} {} -e", socket.display(), base.name())),
    };
    assert!(!base.sql("SELECT id FROM secret_store_metadata").is_empty());
    let sql = sql.replace("container_consumer_metadata", "secret_store_metadata");
    disturbed(
        &deployment,
        &format!("/usr/bin/{write} '{sql}'; exec /usr/bin/{dumper} \"$@\""),
        "secret_store_metadata had",
    );
    disturbed(
        &deployment,
        &format!("/usr/bin/{write} \"UPDATE secrets SET name = 'y'\"; exec /usr/bin/{dumper} \"$@\""),
        "somebody wrote to it while it was backed up",
    );
}

#[test]
fn postgresql_written_to_meanwhile() {
    written_to_meanwhile(Dialect::Postgresql);
}

#[test]
fn mariadb_written_to_meanwhile() {
    written_to_meanwhile(Dialect::Mysql);
}

/// The client program is led to another database, by whatever means.
fn elsewhere(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    deployment.approve();
    let program = if dialect == Dialect::Postgresql { "psql" } else { "mariadb" };
    let script = format!("[ \"$1\" = --version ] && exec /usr/bin/{program} --version; printf 'secrets\\t0\\t\\t\\n'");
    upgrade_with(&deployment, &[(program, script)]).expect(1).says("reach another database than the URL names");
    assert_eq!(dumps(&deployment), Vec::<PathBuf>::new());
}

#[test]
fn postgresql_elsewhere() {
    elsewhere(Dialect::Postgresql);
}

#[test]
fn mariadb_elsewhere() {
    elsewhere(Dialect::Mysql);
}

/// The server is gone when the dump is half done.
fn server_away(dialect: Dialect) {
    let private = crate::servers::Private::start(
        if dialect == Dialect::Postgresql { crate::servers::Kind::Postgresql } else { crate::servers::Kind::Mariadb },
        &[],
        &[],
    );
    let deployment = Deployment::on(dialect, &private.server);
    // More than the pipes between us and the dumper hold.
    let (rows, digest) = match dialect {
        Dialect::Postgresql => ("generate_series(1, 20000) AS s(seq)", "md5(seq::text)"),
        _ => ("seq_1_to_20000", "md5(seq)"),
    };
    deployment.base.load(&format!(
        "INSERT INTO projects (id, external_id, created_at, updated_at, deleted, status) \
         SELECT {digest}, reverse({digest}), '2015-10-15', '2015-10-15', {}, 'ACTIVE' FROM {rows}",
        if dialect == Dialect::Postgresql { "false" } else { "0" }
    ));
    deployment.approve();
    let (dumper, _) = client(dialect);
    let stop = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/server.sh");
    let kind = if dialect == Dialect::Postgresql { "postgresql" } else { "mariadb" };
    let script = format!(
        "/usr/bin/{dumper} \"$@\" | (head -c 5000; {} stop {kind} {} >&2; cat)\nexit ${{PIPESTATUS[0]}}",
        stop.display(),
        private.server.dir().display()
    );
    disturbed(&deployment, &script, &format!("dumping: {dumper}: exit status"));
}

#[test]
fn postgresql_server_away() {
    server_away(Dialect::Postgresql);
}

#[test]
fn mariadb_server_away() {
    server_away(Dialect::Mysql);
}

fn damaged(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    let run = deployment.upgrade("mitaka");
    let after = dumped(&deployment.base);
    let copy = deployment.copy(&run);
    let good = std::fs::read(&copy).unwrap();
    let refused = |what: &str| {
        let said = deployment.restore(&run).expect(1);
        assert!(said.error().contains(what), "{}", said.all());
        similar_asserts(&after, &dumped(&deployment.base));
    };
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&copy, flipped).unwrap();
    refused("is damaged");
    std::fs::write(&copy, &good[..good.len() - 1]).unwrap();
    refused("is damaged");
    std::fs::remove_file(&copy).unwrap();
    refused("is missing");
    std::fs::write(&copy, &good).unwrap();
    let first = deployment.backup(&run).join("restore-first.sql");
    let text = std::fs::read_to_string(&first).unwrap();
    std::fs::write(&first, format!("{text}\n")).unwrap();
    refused("is damaged");
    std::fs::write(&first, text).unwrap();
    deployment.restore(&run).expect(0);
}

#[test]
fn postgresql_damaged() {
    damaged(Dialect::Postgresql);
}

#[test]
fn mariadb_damaged() {
    damaged(Dialect::Mysql);
}

fn depended_on(dialect: Dialect, things: &[(&str, &str)]) {
    let deployment = Deployment::new(dialect);
    deployment.approve();
    let root = |sql: &str| {
        deployment.base.sql(sql);
    };
    for (make, name) in things {
        root(make);
        let said = deployment.sandbox.run(&UPGRADE).expect(3);
        assert!(said.all().split_whitespace().collect::<Vec<_>>().join(" ").contains(name), "{name}: {}", said.all());
    }
}

#[test]
fn postgresql_depended_on() {
    depended_on(
        Dialect::Postgresql,
        &[
            ("CREATE VIEW own_view AS SELECT id FROM secrets", "view own_view"),
            (
                "CREATE TABLE own_child (s VARCHAR(36) CONSTRAINT own_fk REFERENCES secrets (id))",
                "foreign key own_fk of own_child",
            ),
            ("CREATE TABLE own_heir () INHERITS (secrets)", "table own_heir, which inherits from secrets"),
            ("CREATE TABLE own_kind (kind container_types)", "column kind of own_kind"),
            ("CREATE PUBLICATION own_stream FOR TABLE ONLY secrets", "publication own_stream"),
            (
                "ALTER TABLE kek_data OWNER TO postgres; GRANT SELECT ON kek_data TO barbican",
                "the user does not own kek_data",
            ),
            (
                "REVOKE CREATE ON SCHEMA public FROM public, barbican, pg_database_owner",
                "may not create tables in schema public",
            ),
        ],
    );
}

#[test]
fn mariadb_depended_on() {
    depended_on(
        Dialect::Mysql,
        &[
            (
                "CREATE TABLE own_child (s VARCHAR(36), CONSTRAINT own_fk FOREIGN KEY (s) REFERENCES secrets (id))",
                "foreign key own_fk of",
            ),
            (
                "CREATE TRIGGER own_watch AFTER DELETE ON secrets FOR EACH ROW SET @x = 1",
                "trigger own_watch on secrets",
            ),
        ],
    );
}

#[test]
fn mariadb_privileges() {
    let deployment = Deployment::new(Dialect::Mysql);
    deployment.approve();
    let name = deployment.base.name();
    deployment.base.sql(&format!("REVOKE DROP, INDEX ON {name}.* FROM barbican@'%'"));
    let said = deployment.sandbox.run(&UPGRADE).expect(3);
    said.says("the user may not DROP, INDEX all of Barbican's tables");
    said.says(&format!("GRANT DROP, INDEX ON {name}.* TO the user of the URL"));
    // Given otherwise, it is enough.
    deployment.base.sql(&format!("CREATE ROLE r{name}"));
    deployment.base.sql(&format!("GRANT DROP, INDEX ON {name}.* TO r{name}"));
    deployment.base.sql(&format!("GRANT r{name} TO barbican@'%'"));
    deployment.base.sql(&format!("SET DEFAULT ROLE r{name} FOR barbican@'%'"));
    let said = deployment.sandbox.run(&["check", "--to", "mitaka"]);
    assert!(!said.all().contains("the user may not"), "{}", said.all());
    deployment.base.sql("SET DEFAULT ROLE NONE FOR barbican@'%'");
    deployment.base.sql(&format!("DROP ROLE r{name}"));
}

/// The disk of the backups has no room: the dump ends there.
fn no_room(dialect: Dialect) {
    let deployment = Deployment::new(dialect);
    let before = dumped(&deployment.base);
    deployment.approve();
    let state = deployment.sandbox.path("var/lib/keymgr-upgrade");
    let (dumper, _) = client(dialect);
    // What the dumper says first fills the disk, which the catalog did not foretell.
    let script = format!("/usr/bin/{dumper} \"$@\" && head -c 1G /dev/urandom");
    let Some(_mounted) = Mounted::over(&state, "64M") else { return };
    disturbed(&deployment, &script, "no space left");
    similar_asserts(&before, &dumped(&deployment.base));
}

/// A file system in memory over a directory.
struct Mounted(PathBuf);

impl Mounted {
    fn over(directory: &Path, size: &str) -> Option<Self> {
        let saved = tempfile::tempdir().unwrap();
        let copy = |from: &Path, to: &Path| {
            said(std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to)).expect(0);
        };
        copy(directory, saved.path());
        let options = format!("size={size},mode=0700");
        let mut mount = std::process::Command::new("mount");
        if said(mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory)).code != 0 {
            return None;
        }
        copy(saved.path(), directory);
        Some(Self(directory.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = said(std::process::Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn postgresql_no_room() {
    no_room(Dialect::Postgresql);
}

#[test]
fn mariadb_no_room() {
    no_room(Dialect::Mysql);
}
