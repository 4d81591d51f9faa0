//! The database's password, where client programs of the server are at work: every one that is started tells what it was given.

use std::path::Path;

use keymgr_upgrade::db::Dialect;

use super::Deployment;
use crate::common::said;
use crate::paused::Paused;
use crate::secrets::{family, left_behind, look_at};
use crate::servers::PASSWORD;

/// The programs that may be started, of both servers.
const PROGRAMS: [&str; 7] = ["psql", "pg_dump", "pg_restore", "mariadb", "mariadb-dump", "mysql", "mysqldump"];

/// Directory first in the path with a program of each name that exists: it writes what it was given to a file, and becomes the true one.
fn told_on(place: &Path) -> String {
    let log = place.join("given");
    let script = format!(
        r#"#!/bin/sh
exec 9>>{log}
{{
    echo "program ${{0##*/}} $(id -u)"
    for word in "$0" "$@"; do printf 'argument %s\n' "$word"; done
    tr '\0' '\n' </proc/$$/environ | sed 's/^/environment /'
    for word in "$@" "PGPASSFILE=$PGPASSFILE"; do
        case $word in --defaults-file=*|PGPASSFILE=?*) stat -L -c "file %a %h" "${{word#*=}}" ;; esac
    done
}} >&9
exec 9>&-
exec /usr/bin/${{0##*/}} "$@"
"#,
        log = log.display()
    );
    let programs = place.join("programs");
    std::fs::create_dir(&programs).unwrap();
    for name in PROGRAMS.into_iter().filter(|name| Path::new("/usr/bin").join(name).exists()) {
        std::fs::write(programs.join(name), &script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(programs.join(name), mode).unwrap();
    }
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display())
}

/// Fails if a text has the password in any spelling that something of ours could give it.
#[track_caller]
fn no_password(text: &str, whence: &str) {
    let escaped: String = PASSWORD.bytes().map(|b| format!("%{b:02x}")).collect();
    // As it is; as in a URL; doubled backslashes and quotes come after these characters.
    for spelling in [&PASSWORD[..6], "p%40s%3A%2F%25", "p%40s:%2F%25", &escaped] {
        assert!(!text.to_lowercase().contains(&spelling.to_lowercase()), "{whence} has the password:\n{text}");
    }
}

fn dumped_and_restored(dialect: Dialect, dump: &str, restore: &str) {
    let deployment = Deployment::new(dialect);
    let sandbox = &deployment.sandbox;
    let place = tempfile::tempdir().unwrap();
    let path = told_on(place.path());
    let given = || std::fs::read_to_string(place.path().join("given")).unwrap_or_default();
    deployment.approve();
    for (arguments, program, last) in [
        (&["--verbose", "upgrade", "--to", "mitaka", "--yes"][..], dump, "committed"),
        (&["--verbose", "rollback", "--yes"], restore, "database restored"),
    ] {
        let mut command = deployment.command(arguments);
        let mut run = Paused::start(command.env("PATH", &path), &place.path().join("points"));
        let pid = run.pid();
        let mut seen = false;
        run.until(|point| {
            for one in family(pid) {
                look_at(one);
                for file in ["cmdline", "environ"] {
                    let text = std::fs::read(format!("/proc/{one}/{file}")).unwrap_or_default();
                    no_password(&String::from_utf8_lossy(&text), file);
                }
            }
            seen |= point == last || point == "statement run";
            seen
        });
        let said = run.go().expect(0);
        no_password(&said.all(), "the output");
        let given = given();
        let programs = PROGRAMS.map(|name| given.contains(&format!("/programs/{name}\n")));
        assert!(given.contains(&format!("/programs/{program}\n")), "{program} was started: {programs:?}");
    }
    let given = given();
    no_password(&given, "what a program was given");
    // A file of ours alone that has no name, so nothing of it is left.
    let files: Vec<&str> = given.lines().filter(|line| line.starts_with("file ")).collect();
    assert!(files.len() > 3 && files.iter().all(|line| *line == "file 600 0"), "{files:?}");
    assert!(left_behind(sandbox) > 0);
    for run in std::fs::read_dir(sandbox.path("var/lib/keymgr-upgrade/runs")).unwrap() {
        for file in std::fs::read_dir(run.unwrap().path()).unwrap().map(|file| file.unwrap().path()) {
            let text = std::fs::read(&file).unwrap_or_default();
            no_password(&String::from_utf8_lossy(&text), &file.display().to_string());
        }
    }
}

#[test]
fn postgresql_no_program_is_told_the_password_in_sight() {
    dumped_and_restored(Dialect::Postgresql, "pg_dump", "pg_restore");
}

#[test]
fn mariadb_no_program_is_told_the_password_in_sight() {
    dumped_and_restored(Dialect::Mysql, "mariadb-dump", "mariadb");
}

/// The service's user may write the configuration and so choose the server: what speaks with it is theirs, what reads our backup is not.
fn speaks_as_the_service(dialect: Dialect, client: &str) {
    let deployment = Deployment::new(dialect);
    let run = deployment.upgrade("mitaka");
    std::fs::write(deployment.sandbox.path("etc/passwd"), "barbican:x:64061:64061::/:/bin/false\n").unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = told_on(place.path());
    let log = place.path().join("given");
    std::fs::write(&log, "").unwrap();
    for (file, mode) in [(place.path(), 0o755), (&log, 0o666)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(file, mode).unwrap();
    }
    let mut command = deployment.command(&["backup", "restore", &run, "--yes"]);
    said(command.env("PATH", &path)).expect(0).says("restored, fingerprint checked");
    let given = std::fs::read_to_string(&log).unwrap();
    let mut programs: Vec<&str> = given.lines().filter_map(|line| line.strip_prefix("program ")).collect();
    programs.sort_unstable();
    programs.dedup();
    // As root are those that are asked for their version, or for the text of the backup.
    assert!(programs.contains(&format!("{client} 64061").as_str()), "{programs:?}");
    let spoke = given.split("program ").filter(|one| one.contains("defaults-file=") || one.contains("--dbname="));
    let spoke: Vec<&str> = spoke.map(|one| one.lines().next().unwrap()).collect();
    assert!(spoke.iter().all(|who| who.ends_with(" 64061")), "{spoke:?}");
    let files: Vec<&str> = given.lines().filter(|line| line.starts_with("file ")).collect();
    assert!(!files.is_empty() && files.iter().all(|line| *line == "file 600 0"), "{files:?}");
}

#[test]
fn postgresql_programs_speak_as_the_service() {
    speaks_as_the_service(Dialect::Postgresql, "psql");
}

#[test]
fn mariadb_programs_speak_as_the_service() {
    speaks_as_the_service(Dialect::Mysql, "mariadb");
}
