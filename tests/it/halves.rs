//! The two halves of a run: before the code is installed, and after.

use crate::common::Sandbox;

#[test]
fn the_first_half_waits_and_resume_goes_on_with_the_new_code() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    sandbox.run(&["approve", "--to", "mitaka"]).expect(0);
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    said.says("WAITING for the code of mitaka");
    assert!(sandbox.path("etc/systemd/system/barbican-api.service.d/zzz-keymgr-upgrade-hold.conf").exists());
    let status = sandbox.run(&["status"]).expect(4);
    assert!(status.out.starts_with("WAITING") && status.out.contains("Next: keymgr-upgrade resume"), "{}", status.out);
    // Nothing came: it still waits, and nothing was migrated.
    sandbox.run(&["resume"]).expect(4);
    assert_eq!(sandbox.run(&["--json", "db", "current"]).json()["revision"], "4ecde3a3a72a");
    sandbox.install("2.0.0");
    let said = sandbox.run(&["resume"]).expect(0);
    said.says("Done: Mitaka. Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted.");
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
    said.says("code of mitaka          ok");
}

#[test]
fn a_failing_command_is_undone_by_itself_while_the_code_is_old() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    sandbox.write(
        "etc/keymgr-upgrade/keymgr-upgrade.conf",
        "[code]\nupgrade_command = echo no such package >&2; exit 7\n",
    );
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(1);
    said.says("no such package");
    said.says("everything is as it was before");
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
    said.says("install liberty again");
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
    said.says("newer keymgr-upgrade");
    sandbox.write("usr/local/lib/python3.11/site-packages/barbican-2.0.0.dist-info/METADATA", "Version: 2.0.0\n");
    let said = sandbox.run(&["check", "--to", "mitaka"]).expect(255);
    said.says("two versions of Barbican");
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
    said.says("would lose that");
    sandbox.run(&["rollback", "--yes", "--discard-new-data"]).expect(0);
    assert_eq!(sandbox.read("etc/barbican/barbican.conf"), before);
    assert_eq!(sandbox.run(&["--json", "db", "current"]).json()["revision"], "4ecde3a3a72a");
}

#[test]
fn a_command_that_fails_half_way_leaves_the_services_held() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    let script = format!(
        "rm -r {}; exit 1",
        sandbox.path("usr/lib/python3.11/site-packages/barbican-1.0.0.dist-info").display()
    );
    let other = sandbox.path("usr/lib/python3.11/site-packages/barbican-2.0.0.dist-info");
    let script = format!("mkdir {0} && echo 'Version: 2.0.0' > {0}/METADATA; {script}", other.display());
    sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", &format!("[code]\nupgrade_command = {script}\n"));
    let said = sandbox.run(&["upgrade", "--to", "mitaka", "--yes"]).expect(4);
    said.says("install liberty again");
    assert!(sandbox.path("etc/systemd/system/barbican-api.service.d/zzz-keymgr-upgrade-hold.conf").exists());
    sandbox.install("1.0.0");
    sandbox.run(&["rollback", "--yes"]).expect(0);
    assert!(!sandbox.path("etc/systemd/system/barbican-api.service.d").exists());
}
