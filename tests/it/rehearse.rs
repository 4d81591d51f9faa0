//! A rehearsal works on a copy: the deployment stays as it is, what was made is gone in the end, and the report is kept.

use std::process::{Command, Stdio};
use std::time::Duration;

use keymgr_upgrade::db::Dialect;

use crate::common::{Said, said};
use crate::crash::state::State;
use crate::crash::{DATABASE, Host, deployment};
use crate::servers::{Base, Kind};

const STATE: &str = "var/lib/keymgr-upgrade";
const REPORT: &str = "var/lib/keymgr-upgrade/rehearsal.json";
const WAY: [&str; 4] = ["rehearse", "--to", "2025.1", "--fast-forward"];

/// Nothing of the deployment was changed, and nothing of the rehearsal is left but its report.
#[track_caller]
fn untouched(host: &Host, before: &State, said: &Said) {
    assert_eq!(State::of(host).differences(before), Vec::<String>::new(), "{}", said.all());
    assert!(!host.path(STATE).join("rehearsal").exists(), "{}", said.all());
    if let Some(base) = &host.base {
        assert_eq!(scratch(base), Vec::<String>::new(), "{}", said.all());
    }
}

/// The databases of rehearsals on the server.
fn scratch(base: &Base) -> Vec<String> {
    let names = match base.server().kind() {
        Kind::Postgresql => "SELECT datname FROM pg_database WHERE datname LIKE 'keymgr_rehearsal%'",
        Kind::Mariadb => {
            "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'keymgr_rehearsal%'"
        }
    };
    base.sql(names).into_iter().filter_map(|row| row[0].clone()).collect()
}

/// Lets the user of the URL make databases, or not.
fn allow(base: &Base, allowed: bool) {
    let sql = match (base.server().kind(), allowed) {
        (Kind::Postgresql, true) => "ALTER ROLE barbican CREATEDB",
        (Kind::Postgresql, false) => "ALTER ROLE barbican NOCREATEDB",
        (Kind::Mariadb, true) => "GRANT ALL ON `keymgr\\_rehearsal\\_%`.* TO barbican@'%'",
        (Kind::Mariadb, false) => "REVOKE ALL ON `keymgr\\_rehearsal\\_%`.* FROM barbican@'%'",
    };
    base.server().admin(sql);
}

fn kill_at(host: &Host, point: &str) {
    let mut command = host.command(&WAY);
    let said = said(command.env("KEYMGR_UPGRADE_CRASH_AT", format!("{point}:1")));
    assert_eq!(said.code, 137, "{point}: {}", said.all());
}

/// Rehearses, killed at each of these points and then not; the next one, or `--clean`, removes what a killed one left.
fn killed(host: &Host, before: &State, points: &[&str]) {
    for (index, point) in points.iter().enumerate() {
        kill_at(host, point);
        assert!(host.path(STATE).join("rehearsal").exists(), "{point}");
        assert_eq!(State::of(host).differences(before), Vec::<String>::new(), "{point}");
        host.run(&["status"]).expect(0).says("A rehearsal was killed and left a copy: keymgr-upgrade rehearse --clean");
        if index % 2 == 0 {
            let said = host.run(&["rehearse", "--clean"]).expect(0);
            said.says("Removed what an earlier rehearsal had left.");
            untouched(host, before, &said);
        }
    }
}

/// Rehearses well, and the report is quoted until it is outgrown.
fn passes(host: &Host, before: &State) {
    let said = host.run(&WAY).expect(0);
    said.says("PASSED: Liberty -> 2025.1 on this data.");
    said.says("packages, stop and start not included");
    untouched(host, before, &said);
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(host.path(REPORT)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for verb in ["check", "plan", "approve"] {
        let said = host.run(&[&[verb], &WAY[1..]].concat());
        said.says(": passed, window about");
        assert!(!said.all().contains("Outgrown"), "{}", said.all());
    }
    host.run(&["check", "--to", "mitaka"]).says("Outgrown: for liberty -> 2025.1");
    let json = host.run(&["--json", "check", "--to", "2025.1", "--fast-forward"]).json();
    assert_eq!(json["rehearsal"]["passed"], true);
    assert_eq!(json["rehearsal"]["outgrown"], serde_json::json!([]));
}

#[test]
fn on_sqlite() {
    let host = deployment(Dialect::Sqlite);
    let before = State::of(&host);
    killed(&host, &before, &["rehearsal begun", "backup begun", "rehearsal laid out", "statement run", "KEK written"]);
    passes(&host, &before);

    // The steps and their order are those of the real run, and so is what they say.
    let report: serde_json::Value = serde_json::from_str(&host.read(REPORT)).unwrap();
    let rehearsed: Vec<&str> =
        report["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    let plan = host.run(&["--json", "upgrade", "--yes", "--to", "2025.1", "--fast-forward"]).expect(0).json();
    let run = host.path(STATE).join("runs").join(plan["run"].as_str().unwrap());
    let plan: keymgr_upgrade::plan::Plan =
        serde_json::from_slice(&std::fs::read(run.join("plan.json")).unwrap()).unwrap();
    let real: Vec<String> = keymgr_upgrade::rehearsal::part_of(&plan).steps.iter().map(|s| s.title()).collect();
    assert_eq!(rehearsed, real);

    // From now on an earlier run tells of the rest; what is done needs no rehearsal.
    host.run(&WAY).expect(0).says("Already at 2025.1: nothing to rehearse.");
    let said = host.run(&["rehearse", "--to", "2026.1", "--fast-forward"]).expect(0);
    said.says(&format!("with packages, stop and start as in run {}", run.file_name().unwrap().to_string_lossy()));
}

/// A run reads its copy, and the database, once more when the code has come.
#[test]
fn what_is_read_between_the_halves_is_counted() {
    let host = deployment(Dialect::Sqlite);
    for (version, wanted) in [("1.0.0", "look at the copy"), ("2.0.0", "verify secrets")] {
        host.install(version);
        host.run(&["rehearse", "--to", "mitaka"]).expect(0).says("PASSED: Liberty -> Mitaka on this data.");
        let report: serde_json::Value = serde_json::from_str(&host.read(REPORT)).unwrap();
        let steps = report["steps"].as_array().unwrap();
        let last = steps.iter().rev().map(|s| &s["step"]).find(|step| **step != "record release");
        assert_eq!(last.unwrap(), wanted, "{steps:?}");
        let all: u64 = steps.iter().map(|s| s["milliseconds"].as_u64().unwrap()).sum();
        assert_eq!(report["rehearsed"], all);
    }
}

#[test]
fn from_the_backup_of_a_run() {
    let host = deployment(Dialect::Sqlite);
    host.upgrade("mitaka");
    let run = host.run(&["--json", "history"]).json()["runs"][0]["run"].as_str().unwrap().to_owned();
    let with_backup = ["rehearse", "--to", "2025.1", "--fast-forward", "--backup", &run];
    host.run(&with_backup).expect(3).says("at revision 4ecde3a3a72a: not what is to be upgraded");
    host.run(&["rollback", "--yes"]).expect(0);
    let before = State::of(&host);
    let said = host.run(&with_backup).expect(0);
    untouched(&host, &before, &said);
    let copy = host.path(STATE).join("runs").join(&run).join("backup/database.sqlite");
    std::fs::write(copy, "damaged").unwrap();
    host.run(&with_backup).expect(1).says("is damaged: its digest is not the one taken with it");
}

/// The server's own ways: privileges, a database of the operator's, kills.
fn on_a_server(dialect: Dialect) {
    let host = deployment(dialect);
    let base = host.base.clone().unwrap();
    allow(&base, true);
    allow(&base, false);
    let before = State::of(&host);

    let refused = host.run(&WAY).expect(3);
    refused.says("the user may not create databases; for the time of the rehearsal:");
    refused.says("[rehearsal] connection_file");
    untouched(&host, &before, &refused);

    // A database of the operator's is taken if it is empty, and is empty afterwards.
    let own = base.server().database("");
    let settings = "etc/keymgr-upgrade/keymgr-upgrade.conf";
    host.write(settings, "[rehearsal]\nconnection_file = /etc/keymgr-upgrade/rehearsal.url\n");
    host.write("etc/keymgr-upgrade/rehearsal.url", &own.url());
    host.run(&WAY).expect(1).says("others may read or write it: chmod 0600");
    let chmod = Command::new("chmod").arg("600").arg(host.path("etc/keymgr-upgrade/rehearsal.url")).status().unwrap();
    assert!(chmod.success());
    let before = State::of(&host);
    killed(&host, &before, &["scratch database made", "piece fed", "scratch database filled", "statement run"]);
    passes(&host, &before);
    let tables = |base: &Base| {
        let all = "SELECT count(*) FROM information_schema.tables WHERE table_schema";
        match base.server().kind() {
            Kind::Postgresql => base.sql(&format!("{all} = current_schema()")),
            Kind::Mariadb => base.sql(&format!("{all} = DATABASE()")),
        }
    };
    assert_eq!(tables(&own)[0][0].as_deref(), Some("0"));
    own.sql("CREATE TABLE of_the_operator (a int)");
    host.run(&WAY).expect(1).says("is not empty: a rehearsal takes an empty database only");
    assert_eq!(tables(&own)[0][0].as_deref(), Some("1"));
    host.write(settings, "");
    let before = State::of(&host);

    allow(&base, true);
    let points = [
        "scratch database recorded",
        "scratch database made",
        "piece dumped",
        "piece fed",
        "rehearsal laid out",
        "statement run",
        "scratch database removed",
    ];
    killed(&host, &before, &points);
    passes(&host, &before);
    allow(&base, false);
}

#[test]
#[ignore = "two minutes; on_mariadb has the same in half the time"]
fn on_postgresql() {
    on_a_server(Dialect::Postgresql);
}

#[test]
fn on_mariadb() {
    on_a_server(Dialect::Mysql);
}

#[test]
fn what_is_in_the_way_is_told_and_quoted() {
    let host = deployment(Dialect::Sqlite);
    let connection = rusqlite::Connection::open(host.path(DATABASE)).unwrap();
    let long = "UPDATE container_consumer_metadata \
                SET \"URL\" = 'http://example.org/' || replace(hex(zeroblob(150)), '00', 'ab') WHERE rowid = 1";
    assert_eq!(connection.execute(long, []).unwrap(), 1);
    drop(connection);
    let before = State::of(&host);
    let said = host.run(&WAY).expect(1);
    said.says("FAILED. Nothing of the deployment was changed.");
    said.says("a precondition stands in the way of the migration");
    untouched(&host, &before, &said);
    host.run(&["plan", "--to", "2025.1", "--fast-forward"]).says(": FAILED: ");
}

#[test]
fn one_at_a_time_and_not_beside_a_run() {
    let host = deployment(Dialect::Sqlite);
    host.run(&["rehearse", "--clean"]).expect(0).says("No rehearsal has left anything.");
    let state = std::fs::File::open(host.path(STATE)).unwrap();
    state.lock().unwrap();
    host.run(&WAY).expect(75).says("another run holds the lock");
    state.unlock().unwrap();
    // While a run is open there is nothing to rehearse.
    let way = ["upgrade", "--yes", "--to", "mitaka"];
    host.run(&["approve", "--to", "mitaka"]).expect(0);
    let crashed = said(host.command(&way).env("KEYMGR_UPGRADE_CRASH_AT", "statement run:1"));
    assert_eq!(crashed.code, 137);
    host.run(&WAY).expect(4).says("is not finished");
}

#[test]
fn asked_to_stop_it_cleans_up() {
    let host = deployment(Dialect::Sqlite);
    let before = State::of(&host);
    let mut command = host.command(&WAY);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its directory is made after the signals are handled.
    let place = host.path(STATE).join("rehearsal");
    let mut looks = 0;
    while !place.exists() && looks < 6000 {
        looks += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Stopped, as asked; the copy is removed."), "{text}");
    let said = Said { code: 1, out: text, err: String::new() };
    untouched(&host, &before, &said);
    assert!(!host.path(REPORT).exists());
}

#[test]
fn a_disk_that_is_full() {
    let host = deployment(Dialect::Sqlite);
    let before = State::of(&host);
    // 200 blocks of 512 bytes: not enough for the copy of the database.
    let plain = host.command(&WAY);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\"");
    shell.arg(plain.get_program()).args(plain.get_args()).env_clear();
    shell.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = said(&mut shell).expect(1);
    said.says("copying the database");
    untouched(&host, &before, &said);
    host.run(&WAY).expect(0);
}

#[test]
fn nothing_that_is_copied_can_be_read_by_others() {
    let host = deployment(Dialect::Sqlite);
    kill_at(&host, "statement run");
    let modes = said(
        Command::new("find").arg(host.path(STATE).join("rehearsal")).args(["-not", "-type", "l", "-perm", "/077"]),
    );
    assert_eq!(modes.expect(0).out, "");
    let login = said(Command::new("grep").args(["-rl", "login = '1234'"]).arg(host.path(STATE)));
    assert!(login.out.contains("etc/barbican/barbican.conf"), "{}", login.out);
    host.run(&["rehearse", "--clean"]).expect(0);
    let login = said(Command::new("grep").args(["-rl", "1234"]).arg(host.path(STATE)));
    assert_eq!(login.out, "");
}
