//! The two halves of a run: before the code is installed, and after.

use crate::common::Sandbox;

#[test]
fn the_first_half_waits_and_resume_goes_on_with_the_new_code() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    sandbox.run(&["approve", "--to", "mitaka"]).expect(0);
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    assert!(said.out.contains("WAITING for the code of mitaka"), "{}", said.out);
    assert!(sandbox.path("etc/systemd/system/barbican-api.service.d/zzz-keymgr-upgrade-hold.conf").exists());
    let status = sandbox.run(&["status"]).expect(4);
    assert!(status.out.starts_with("WAITING") && status.out.contains("Next: keymgr-upgrade resume"), "{}", status.out);
    // Nothing came: it still waits, and nothing was migrated.
    sandbox.run(&["resume"]).expect(4);
    assert_eq!(sandbox.run(&["--json", "db", "current"]).json()["revision"], "4ecde3a3a72a");
    sandbox.install("2.0.0");
    let said = sandbox.run(&["resume"]).expect(0);
    assert!(said.out.contains("Done: Mitaka. Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted."), "{}", said.out);
    assert!(!sandbox.path("etc/systemd/system/barbican-api.service.d").exists());
}

#[test]
fn a_configured_command_installs_the_code() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    let packages = sandbox.path("usr/lib/python3.11/site-packages");
    let script = format!(
        "cd {} && mv barbican-1.0.0.dist-info barbican-2.0.0.dist-info && sed -i s/1.0.0/2.0.0/ barbican-2.0.0.dist-info/METADATA",
        packages.display()
    );
    sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", &format!("[code]\nupgrade_command = {script}\n"));
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(0);
    assert!(said.out.contains("code of mitaka          ok"), "{}", said.out);
}

#[test]
fn a_failing_command_stops_half_way_and_rollback_goes_back() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    sandbox.write(
        "etc/keymgr-upgrade/keymgr-upgrade.conf",
        "[code]\nupgrade_command = echo no such package >&2; exit 7\n",
    );
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    assert!(said.err.contains("no such package") && said.err.contains("keymgr-upgrade rollback"), "{}", said.err);
    sandbox.run(&["rollback", "--yes"]).expect(0);
    assert!(!sandbox.path("etc/systemd/system/barbican-api.service.d").exists());
    sandbox.run(&["status"]).expect(0);
}

#[test]
fn rolling_back_under_new_code_holds_until_the_old_code_is_back() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    let before = std::fs::read(sandbox.path("etc/barbican/barbican-api-paste.ini")).unwrap();
    sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    sandbox.install("2.0.0");
    sandbox.run(&["resume"]).expect(0);
    let said = sandbox.run(&["rollback", "--yes"]).expect(4);
    assert!(said.out.contains("install liberty again"), "{}", said.all());
    assert!(sandbox.path("etc/systemd/system/barbican-api.service.d/zzz-keymgr-upgrade-hold.conf").exists());
    assert_eq!(std::fs::read(sandbox.path("etc/barbican/barbican-api-paste.ini")).unwrap(), before);
    sandbox.install("1.0.0");
    sandbox.run(&["rollback", "--yes"]).expect(0);
    assert!(!sandbox.path("etc/systemd/system/barbican-api.service.d").exists());
    assert_eq!(sandbox.run(&["--json", "db", "current"]).json()["revision"], "4ecde3a3a72a");
}

#[test]
fn code_above_the_catalogue_and_of_two_versions_is_refused() {
    let sandbox = Sandbox::liberty();
    sandbox.install("99.0.0");
    let said = sandbox.run(&["check", "--to", "mitaka"]).expect(2);
    assert!(said.out.contains("newer keymgr-upgrade"), "{}", said.out);
    sandbox.write("usr/local/lib/python3.11/site-packages/barbican-2.0.0.dist-info/METADATA", "Version: 2.0.0\n");
    let said = sandbox.run(&["check", "--to", "mitaka"]).expect(255);
    assert!(said.err.contains("two versions of Barbican"), "{}", said.err);
}

#[test]
fn a_finished_run_is_undone_unless_new_data_was_written() {
    let sandbox = Sandbox::liberty();
    let before = sandbox.read("etc/barbican/barbican.conf");
    sandbox.upgrade("newton");
    let database = sandbox.path("var/lib/barbican/barbican.sqlite");
    let sql = "UPDATE secrets SET name = 'new' WHERE rowid = 1";
    rusqlite::Connection::open(&database).unwrap().execute(sql, []).unwrap();
    let said = sandbox.run(&["rollback", "--yes"]).expect(3);
    assert!(said.err.contains("would lose that"), "{}", said.err);
    sandbox.run(&["rollback", "--yes", "--discard-new-data"]).expect(0);
    assert_eq!(sandbox.read("etc/barbican/barbican.conf"), before);
    assert_eq!(sandbox.run(&["--json", "db", "current"]).json()["revision"], "4ecde3a3a72a");
}
