//! The site's own programs in pre.d and post.d, on a booted host. Needs root.

use crate::common::Sandbox;
use crate::live::{Live, REVISIONS};
use crate::systemd::API;

const DIRECTORY: &str = "/etc/keymgr-upgrade";
const LOG: &str = "/var/log/hooks";
const TO_MITAKA: [&str; 4] = ["upgrade", "--to", "mitaka", "--yes"];

/// A hook that writes down how it was called, whether the API ran, and the revision of the database; then `more`.
fn hook(live: &Live, name: &str, more: &str) {
    let path = format!("{DIRECTORY}/{name}");
    let script = format!(
        "#!/bin/sh\nif read -r line; then echo standard input is open; fi\n\
         echo \"{name} $* $(systemctl is-active {API})\" >>{LOG}\n{more}\n"
    );
    live.machine.write(&path, &script);
    live.run(&format!("chmod 755 {path}"));
}

/// What was called since it was last asked.
fn called(live: &Live) -> Vec<String> {
    let lines = live.run(&format!("cat {LOG} 2>/dev/null; rm -f {LOG}"));
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn hooks_are_called_around_each_phase_and_on_the_way_back() {
    let live = Live::boot();
    for name in ["pre.d/20-second", "pre.d/10-first", "post.d/10-last"] {
        hook(&live, name, "");
    }
    // What is not executable is not run, nor what an editor left.
    live.machine.write(&format!("{DIRECTORY}/pre.d/README"), "");
    hook(&live, "pre.d/10-first~", "exit 1");
    let said = live.tool(&["plan", "--to", "mitaka"]).expect(0);
    said.says("hooks pre.d stop 10-first 20-second");
    live.tool(&TO_MITAKA).expect(0);
    let expected = |way: &str| {
        [
            format!("pre.d/10-first {way} stop active"),
            format!("pre.d/20-second {way} stop active"),
            format!("pre.d/10-first {way} migrate inactive"),
            format!("pre.d/20-second {way} migrate inactive"),
            format!("post.d/10-last {way} migrate inactive"),
            format!("post.d/10-last {way} start active"),
        ]
    };
    assert_eq!(called(&live), expected("liberty mitaka"));
    live.expect_up();

    live.tool(&["rollback", "--yes"]).expect(0);
    assert_eq!(called(&live), expected("mitaka liberty"));
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[0]);
}

#[test]
fn a_failing_hook_stops_the_run_and_a_killed_one_is_called_again() {
    let live = Live::boot();
    hook(&live, "pre.d/drain", "");
    hook(&live, "post.d/undrain", "");
    hook(&live, "post.d/unmute", "");
    hook(&live, "pre.d/snapshot", "[ $3 = migrate ] || exit 0\necho no space for a snapshot >&2; exit 9");

    // Before anything was changed: undone by itself, and what was drained is not any more.
    let said = live.tool(&TO_MITAKA).expect(1);
    said.says("pre.d/snapshot liberty mitaka migrate: exit status 9: no space for a snapshot");
    said.says("everything is as it was before");
    live.expect_up();
    let calls = called(&live);
    let back = ["undrain mitaka liberty migrate inactive", "unmute mitaka liberty migrate inactive"];
    let back = [&back[..], &["undrain mitaka liberty start active", "unmute mitaka liberty start active"]].concat();
    let back: Vec<String> = back.iter().map(|call| format!("post.d/{call}")).collect();
    assert_eq!(calls[calls.len() - 4..], back, "{calls:?}");
    assert_eq!(live.revision(), REVISIONS[0]);

    // Afterwards: held.
    hook(&live, "pre.d/snapshot", "");
    hook(&live, "post.d/undrain", "[ $3 = start ] || { echo not yet >&2; exit 1; }");
    live.tool(&TO_MITAKA).expect(4).says("post.d/undrain liberty mitaka migrate: exit status 1: not yet");
    live.expect_held();
    live.tool(&["status"]).expect(4).says("not yet");
    called(&live);
    hook(&live, "post.d/undrain", "");
    // Killed while the step is under way, all its hooks are called again.
    live.crash(&["resume"], "hook to run:2");
    assert_eq!(called(&live), ["post.d/undrain liberty mitaka migrate inactive"]);
    live.tool(&["resume"]).expect(0);
    let expected: Vec<String> = ["migrate inactive", "start active"]
        .into_iter()
        .flat_map(|phase| ["undrain", "unmute"].map(|name| format!("post.d/{name} liberty mitaka {phase}")))
        .collect();
    assert_eq!(called(&live), expected);
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[1]);
}

#[test]
fn hooks_that_others_could_change_are_refused_by_name() {
    let live = Live::boot();
    let refused = |what: &str| {
        live.tool(&["check", "--to", "mitaka"]).expect(2).says(what);
        live.tool(&TO_MITAKA).expect(3).says(what);
        assert!(called(&live).is_empty());
    };
    hook(&live, "pre.d/drain", "");
    let drain = format!("{DIRECTORY}/pre.d/drain");
    live.run(&format!("chmod g+w {drain}"));
    refused(&format!("others may write to {drain}, which is run as root: chmod go-w {drain}"));
    live.run(&format!("chmod 755 {drain} && chown barbican {drain}"));
    refused(&format!("{drain} belongs to user"));
    live.run(&format!("chown root {drain} && mv {drain} /usr/bin/drain && ln -s /usr/bin/drain {drain}"));
    refused(&format!("hook {drain} is not a regular file"));
    live.run(&format!("mv /usr/bin/drain {drain} && chmod 777 {DIRECTORY}/pre.d"));
    refused(&format!("others may write to {DIRECTORY}/pre.d"));
    live.run(&format!("chmod 755 {DIRECTORY}/pre.d"));
    assert!(!live.tool(&["check", "--to", "mitaka"]).all().contains("hook"));
    live.tool(&TO_MITAKA).expect(0);
    assert_eq!(called(&live).len(), 2);
}

#[test]
fn on_an_image_no_hook_is_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::liberty();
    sandbox.install("2.0.0");
    let ran = sandbox.path("ran");
    for name in ["pre.d/hook", "post.d/hook"] {
        let path = format!("{DIRECTORY}/{name}");
        sandbox.write(&path, &format!("#!/bin/sh\necho $* >>{}\n", ran.display()));
        std::fs::set_permissions(sandbox.path(&path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let said = sandbox.run(&["plan", "--to", "mitaka"]).expect(0);
    assert!(!said.out.contains("hooks "), "{}", said.out);
    sandbox.upgrade("mitaka");
    assert!(!ran.exists());
}
