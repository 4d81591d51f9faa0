//! keymgr-upgrade.service on a booted host: started by systemctl, by the verbs that follow it, killed, stopped, hung, rebooted. Needs root.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use keymgr_upgrade::logging::Event;

use crate::common::{Said, end};
use crate::live::{Live, PROGRAM, REVISIONS, STATE, flat};
use crate::proof::no_secret;
use crate::systemd::API;
use crate::systemd::WORKER;

const UNIT: &str = "keymgr-upgrade.service";
const CODE_UNIT: &str = "keymgr-upgrade-code.service";
const DONE: &str = "Done: Mitaka, down ";
const TO_MITAKA: [&str; 4] = ["upgrade", "--to", "mitaka", "--yes"];

/// A controller with our units installed.
fn installed() -> Live {
    let live = Live::boot();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for entry in std::fs::read_dir(units).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let place = if name.ends_with(".catalog") { "/usr/lib/systemd/catalog" } else { "/usr/lib/systemd/system" };
        live.machine.write(&format!("{place}/{name}"), &std::fs::read_to_string(&file).unwrap());
    }
    live.run("systemctl daemon-reload && journalctl --update-catalog");
    live
}

/// What systemd is to set for a unit besides; nothing takes it away again.
fn set(live: &Live, unit: &str, settings: &str) {
    let file = format!("/etc/systemd/system/{unit}.d/test.conf");
    match settings {
        "" => drop(live.run(&format!("rm -r $(dirname {file})"))),
        _ => live.machine.write(&file, &format!("[Service]\n{settings}\n")),
    }
    live.run("systemctl daemon-reload");
}

/// The command that brings the code.
fn upgrade_command(live: &Live, line: &str) {
    let text = format!("[code]\nupgrade_command = {line}\nrollback_command = install-barbican 1.0.0\n");
    live.machine.write("/etc/keymgr-upgrade/keymgr-upgrade.conf", &text);
}

/// What a unit said, as the journal has it.
fn journal(live: &Live, unit: &str) -> String {
    live.run(&format!("journalctl -q --sync; journalctl -q -o cat -u {unit}"))
}

/// What the journal has of an event: these fields of each.
fn events(live: &Live, event: Event, fields: &str) -> String {
    live.run(&format!("journalctl -q -o cat --output-fields={fields} MESSAGE_ID={}", event.id()))
}

fn spawn(live: &Live, arguments: &[&str]) -> Child {
    live.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until a shell's condition holds.
#[track_caller]
fn until(live: &Live, condition: &str) {
    live.run(&format!("timeout 60 sh -c 'until {condition}; do :; done'"));
}

/// Starts an upgrade through the service, and returns when the API is down and the worker, which takes its time, is being stopped.
fn stopping(live: &Live) -> Child {
    let child = spawn(live, &TO_MITAKA);
    until(live, "[ \"$(systemctl is-active barbican-api)\" = inactive ]");
    assert_eq!(live.machine.active(WORKER), "deactivating");
    child
}

/// What `systemctl start` of the service gave: its exit status.
fn start(live: &Live) -> Said {
    let enter = live.machine.enter();
    crate::common::said(std::process::Command::new(enter[0]).args(&enter[1..]).args(["systemctl", "start", UNIT]))
}

#[test]
fn an_upgrade_that_is_under_way_is_followed_and_another_one_is_named() {
    let live = installed();
    set(&live, WORKER, "TimeoutStopSec=8");
    let first = stopping(&live);
    let json = spawn(&live, &[&["--json"], &TO_MITAKA[..]].concat());
    live.tool(&["upgrade", "--to", "newton", "--yes"]).expect(75).says("(liberty -> mitaka)");
    let said = live.tool(&TO_MITAKA).expect(0);
    assert!(said.out.contains("is under way, asked for by root") && said.out.contains(DONE), "{}", said.out);
    let json = end(json).expect(0).json();
    assert_eq!((json["state"].as_str(), json["changed"].as_bool()), (Some("done"), Some(true)), "{json}");
    let _ = end(first).expect(0);
    set(&live, WORKER, "");
    live.expect_up();
    let again = live.tool(&[&["--json"], &TO_MITAKA[..]].concat()).expect(0).json();
    assert_eq!((again["state"].as_str(), again["changed"].as_bool()), (Some("done"), Some(false)), "{again}");
    let plan = live.tool(&["--json", "plan", "--to", "mitaka"]).expect(0).json();
    assert_eq!((plan["changed"].as_bool(), plan["would_change"].as_bool()), (Some(false), Some(false)), "{plan}");
}

#[test]
fn an_upgrade_goes_through_the_service_and_is_followed() {
    let live = installed();
    let said = live.tool(&TO_MITAKA).expect(0);
    assert!(said.out.contains("Ctrl-C leaves this view"), "{}", said.out);
    assert!(said.out.contains(DONE), "{}", said.out);
    assert_eq!((said.out.matches("Next: ").count(), said.err.as_str()), (1, ""), "{}", said.out);
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[1]);
    assert!(journal(&live, UNIT).contains(DONE));
    assert_eq!(live.run(&format!("ls {STATE}")), "deployment.json\nlock\nruns");

    // The code came in a unit of its own.
    assert!(journal(&live, CODE_UNIT).contains("Finished "), "{}", journal(&live, CODE_UNIT));
    assert!(journal(&live, API).contains("was skipped because of an unmet condition"), "{}", journal(&live, API));
    assert_eq!(live.property(CODE_UNIT, "LoadState"), "not-found");

    // Back the same way; what is printed for machines is one object, and only that.
    let said = live.tool(&["--json", "rollback", "--yes"]).expect(0);
    assert_eq!(said.json()["state"], "rolled-back");
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[0]);
    assert_eq!(live.run(&format!("ls {STATE}/runs/*/log | wc -l")), "1");
}

#[test]
fn started_by_hand_it_does_what_is_next_and_says_so_in_the_journal() {
    let live = installed();
    live.code("2.0.0");
    start(&live).expect(0);
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[1]);
    assert!(journal(&live, UNIT).contains(DONE));

    // Each event with its fields, and the catalog has a page on it.
    let run = live.run(&format!("ls {STATE}/runs"));
    assert_eq!(events(&live, Event::Begun, "KEYMGR_UPGRADE_RUN"), run);
    assert_eq!(events(&live, Event::Done, "KEYMGR_UPGRADE_RUN"), run);
    let steps = events(&live, Event::StepDone, "KEYMGR_UPGRADE_STEP");
    let expected: Vec<String> = (1..=steps.lines().count()).map(|n| n.to_string()).collect();
    assert_eq!(steps.lines().collect::<Vec<_>>(), expected);
    assert!(expected.len() > 8, "{steps}");
    let catalog = live.run("journalctl --list-catalog");
    for event in Event::ALL {
        assert!(catalog.contains(event.id()), "{event:?} has no page:\n{catalog}");
    }
    let page = live.run(&format!("journalctl -q -x MESSAGE_ID={}", Event::Done.id()));
    assert!(flat(&page).contains(&format!("Run {run} has ended well")), "{page}");

    // Again: nothing to do.
    start(&live).expect(0);
    assert!(journal(&live, UNIT).contains("Already at Mitaka: nothing to do."));
    // Without code to go to, it is no upgrade.
    live.run("rm -r /usr/lib/python3.11/site-packages");
    live.tool(&["status"]).expect(0);
}

#[test]
fn leaving_the_view_does_not_stop_the_work_and_a_second_start_attaches() {
    let live = installed();
    let child = stopping(&live);
    let shown = live.run(&format!("systemctl status {UNIT} || :"));
    assert!(shown.contains("Status: \"step 2 of "), "{shown}");
    let inhibitors = live.run("systemd-inhibit --list");
    assert!(inhibitors.contains("keymgr-upgrade"), "{inhibitors}");

    live.run(&format!("kill -INT {}", live.machine.processes(&format!("{PROGRAM} upgrade")).join(" ")));
    let said = end(child).expect(75);
    assert!(said.out.contains("Left the view. keymgr-upgrade.service works on."), "{}", said.out);
    assert!(said.out.ends_with("Next: keymgr-upgrade status --wait\n"), "{}", said.out);
    // A verb by hand meanwhile is refused, and says who is at work.
    let said = live.tool(&["rollback", "--yes"]).expect(75);
    assert!(flat(&said.err).contains("another run holds the lock: process"), "{}", said.err);
    let said = live.tool(&["status"]).expect(0);
    assert!(said.out.starts_with("RUNNING"), "{}", said.out);

    // A second start is over when the first one is.
    start(&live).expect(0);
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[1]);
    assert_eq!(live.run(&format!("ls {STATE}/runs | wc -l")), "1");
    assert_eq!(events(&live, Event::Done, "MESSAGE").lines().count(), 1);
}

#[test]
fn killed_it_leaves_a_run_that_goes_on_only_when_told() {
    let live = installed();
    set(&live, UNIT, "Environment=\"KEYMGR_UPGRADE_CRASH_AT=KEK written:1\"");
    let said = live.tool(&TO_MITAKA).expect(4);
    assert!(flat(&said.err).contains("keymgr-upgrade.service was killed by signal 9"), "{}", said.err);
    assert!(said.err.ends_with("Next: keymgr-upgrade status\n"), "{}", said.err);
    live.expect_held();
    set(&live, UNIT, "");
    // After a crash an operator decides, not `systemctl start`.
    start(&live).expect(1);
    assert!(flat(&journal(&live, UNIT)).contains("was interrupted hint: see why: keymgr-upgrade status"));
    assert_eq!(live.property(UNIT, "ExecMainStatus"), "4");
    live.expect_held();
    let said = live.tool(&["resume"]).expect(0);
    assert!(said.out.contains(DONE), "{}", said.out);
    live.expect_up();
}

#[test]
fn stopped_it_ends_between_two_steps_and_a_reboot_does_the_same() {
    let mut live = installed();
    let child = stopping(&live);
    live.run(&format!("systemctl stop {UNIT}"));
    let said = end(child).expect(4);
    assert!(said.out.contains("Stopped before step 3, as asked. Services stay held."), "{}", said.out);
    live.expect_held();
    assert_eq!(events(&live, Event::Interrupted, "MESSAGE").lines().count(), 1);
    assert_eq!(live.property(UNIT, "ActiveState"), "failed", "to be seen in systemctl --failed");
    live.tool(&["rollback", "--yes"]).expect(0);
    live.expect_up();

    let child = stopping(&live);
    live.machine.reboot();
    drop(child.wait_with_output());
    live.expect_held();
    let said = live.tool(&["status"]).expect(4);
    assert!(said.out.starts_with("INTERRUPTED"), "{}", said.out);
    assert!(live.run(&format!("cat {STATE}/current/log")).contains("stopped before step 3, as asked"));
    live.tool(&["resume"]).expect(0);
    live.expect_up();
}

#[test]
fn a_hang_ends_and_slowness_does_not() {
    let live = installed();
    live.machine.write(
        "/etc/keymgr-upgrade/keymgr-upgrade.conf",
        "[code]\nupgrade_command = install-barbican 2.0.0\n[hsm]\ntimeout = 1h\n",
    );
    set(&live, UNIT, "WatchdogSec=3");
    set(&live, WORKER, "Environment=P11SHIM_FAULT=C_Sign:26:hang");
    let said = live.tool(&TO_MITAKA).expect(4);
    let why = "keymgr-upgrade.service made no progress any more, and systemd ended it (watchdog)";
    assert!(flat(&said.err).contains(why), "{} {}", said.all(), journal(&live, UNIT));
    assert_eq!(live.property(UNIT, "Result"), "watchdog");
    live.expect_held();
    assert_eq!(live.run(&format!("ps -e -o args | grep ^{PROGRAM} || :")), "", "its child is gone too");

    // Each call takes its time, and all together more than the limit.
    set(&live, WORKER, "Environment=P11SHIM_DELAY_US=60000");
    let began = Instant::now();
    live.tool(&["resume"]).expect(0);
    assert!(began.elapsed() > Duration::from_secs(6), "that was too fast to tell");
    set(&live, WORKER, "");
    live.expect_up();
}

#[test]
fn on_a_terminal_it_asks_and_what_was_shown_is_what_runs() {
    let live = installed();
    // A terminal, on which the answer comes when the question is seen; meanwhile `meanwhile` is done.
    let asked = |meanwhile: &str, answer: &str| {
        live.run(&format!(
            "rm -f /answer /screen; mkfifo /answer; (timeout 100 script -qefc '{PROGRAM} upgrade --to mitaka' /screen </answer >/dev/null; echo $? >/code) & \
             exec 7>/answer; timeout 60 sh -c 'until grep -qs Proceed /screen; do :; done'; {meanwhile}; echo {answer} >&7; wait $!; cat /screen; cat /code"
        ))
    };
    let screen = asked("true", "n");
    assert!(screen.contains("Nothing was done.") && screen.ends_with("\n0"), "{screen}");
    let screen = asked("systemctl stop barbican-api", "y");
    assert!(screen.contains("the plan changed while you were asked") && screen.ends_with("\n3"), "{screen}");
    assert_eq!(live.machine.active(WORKER), "active");
    live.run("systemctl start barbican-api");
    let screen = asked("true", "y");
    assert!(screen.contains(DONE) && screen.ends_with("\n0"), "{screen}");
    assert!(screen.contains("step 2 of "), "the step at work is to be seen: {screen}");
    live.expect_up();
}

#[test]
fn another_plan_than_the_one_that_was_shown_is_refused() {
    let live = installed();
    let request = format!(
        r#"{{"format":1,"at":{},"by":"root","asked":{{"verb":"upgrade","to":"mitaka","fast_forward":false,"plan":"another"}},
        "writers_stopped":false,"json":false,"verbose":false,"from":null,"config_file":null,"pkcs11_module":null}}"#,
        live.run("date +%s")
    );
    let path = format!("{STATE}/request.json");
    live.machine.write(&path, &request);
    start(&live).expect(1);
    assert_eq!(live.property(UNIT, "ExecMainStatus"), "3", "{}", journal(&live, UNIT));
    assert!(journal(&live, UNIT).contains("the plan changed while you were asked; nothing was done"));
    assert!(!live.machine.root.exists(Path::new(&path)));
    live.expect_up();

    // One that is old is not carried out, and is gone.
    live.machine.write(&path, &request.replace("\"at\":1", "\"at\":"));
    start(&live).expect(1);
    assert!(flat(&journal(&live, UNIT)).contains("is too old to be now"), "{}", journal(&live, UNIT));
    assert!(!live.machine.root.exists(Path::new(&path)));
    live.expect_up();
    assert_eq!(live.run(&format!("ls {STATE}/runs || :")), "");
}

#[test]
fn the_code_comes_in_a_unit_of_its_own_which_outlives_us() {
    let live = installed();
    upgrade_command(&live, "echo getting it; echo no such package >&2; exit 7");
    let said = live.tool(&TO_MITAKA).expect(1);
    assert!(flat(&said.err).contains("exit status 7: no such package"), "{}", said.err);
    assert!(said.err.contains("everything is as it was before"), "{}", said.err);
    assert!(journal(&live, CODE_UNIT).contains("getting it"));
    assert!(journal(&live, UNIT).contains("no such package"));
    assert_eq!(live.run("systemctl --failed --no-legend --plain | cut -d ' ' -f 1"), UNIT);
    live.expect_up();

    // Killed while it is at work: it goes on, and is waited for. It runs once.
    upgrade_command(&live, "touch /began; until test -e /go; do :; done; echo x >>/times; install-barbican 2.0.0");
    let child = spawn(&live, &TO_MITAKA);
    until(&live, "[ -e /began ]");
    live.run(&format!("kill -9 {}", live.property(UNIT, "MainPID")));
    let _ = end(child).expect(4);
    assert_eq!(live.property(CODE_UNIT, "ActiveState"), "activating");
    let child = spawn(&live, &["resume"]);
    until(&live, &format!("systemctl status {UNIT} | grep -q \"Status: .*code of mitaka\""));
    live.run("touch /go");
    let said = end(child).expect(0);
    assert!(said.out.contains(DONE), "{}", said.out);
    assert_eq!(live.run("cat /times"), "x");
    live.expect_up();
}

/// All that the journal of the host has, every field of every record, holds no secret, whatever ends our service.
#[test]
fn the_journal_of_the_host_has_no_secret() {
    let live = installed();
    let said = |live: &Live, arguments: &[&str]| {
        let said = live.tool(&[&["--verbose"], arguments].concat());
        no_secret(&said.all(), &format!("{arguments:?}"));
        said
    };
    let pin = |live: &Live, from: &str, to: &str| {
        live.run(&format!("sed -i \"s/^login = '{from}'/login = '{to}'/\" /etc/barbican/barbican.conf"));
    };
    set(&live, UNIT, "LimitCORE=infinity\nEnvironment=\"KEYMGR_UPGRADE_CRASH_AT=KEK written:1\"");
    said(&live, &TO_MITAKA).expect(4);
    set(&live, UNIT, "LimitCORE=infinity");
    // The token refuses the wrong one half way; what is next asks it again.
    pin(&live, "1234", "31415926");
    said(&live, &["resume"]).expect(4);
    pin(&live, "31415926", "1234");
    said(&live, &["resume"]).expect(0);
    said(&live, &["rollback", "--yes"]).expect(0);
    upgrade_command(&live, "echo no such package >&2; exit 7");
    said(&live, &TO_MITAKA).expect(1);
    live.run("systemctl restart keymgr-upgrade-boot");
    let all = live.run("journalctl --sync; journalctl -q -o export --all");
    assert!(all.contains("KEK signatures") && all.contains("MESSAGE=") && all.len() > 20_000, "{} bytes", all.len());
    let debug = live.run(&format!("journalctl -q -o cat -p debug -u {UNIT} | wc -l"));
    assert!(debug.parse::<usize>().unwrap() > 60, "{debug} lines: logging was at its fullest");
    no_secret(&all, "the journal of the host");
    assert_eq!(live.run("find / -xdev -name 'core*' -size +64k -newer /etc/hostname -type f"), "");
}

/// What systemd finds wrong with our units, besides manual pages that are not there.
fn verified(live: &Live) -> Vec<String> {
    let said = live.run("systemd-analyze verify /usr/lib/systemd/system/keymgr-upgrade*.service 2>&1 || echo failed");
    said.lines().filter(|l| !l.contains("Command 'man ") && *l != "failed").map(str::to_owned).collect()
}

/// The example of the manual for a vendor's HSM.
fn drop_in() -> String {
    let page = include_str!("../../man/keymgr-upgrade.service.8");
    let section = page.split_once(".SS A vendor's HSM\n").unwrap().1;
    let text = section.split_once("\n[Unit]\n").unwrap().1.split_once("\n.EE\n").unwrap().0;
    format!("[Unit]\n{text}\n")
}

#[test]
fn the_units_are_sound_and_the_service_is_confined() {
    let live = installed();
    assert_eq!(verified(&live), [""; 0]);
    let figures = [UNIT, "keymgr-upgrade-watch.service", "keymgr-upgrade-boot.service"].map(|unit| {
        let said = live.run(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"));
        said.split_whitespace().find(|word| word.parse::<f64>().is_ok()).unwrap().to_owned()
    });
    assert_eq!(figures, ["3.9", "3.9", "1.7"], "the manual has these");

    // What the manual gives for a vendor's HSM is understood, all of it, and is in force.
    for unit in [UNIT, "keymgr-upgrade-watch.service"] {
        live.machine.write(&format!("/etc/systemd/system/{unit}.d/hsm.conf"), &drop_in());
    }
    live.run("systemctl daemon-reload");
    assert_eq!(verified(&live), [""; 0]);
    for (name, value) in [
        ("RestrictRealtime", "no"),
        ("LimitMEMLOCK", "infinity"),
        ("ReadWritePaths", "-/usr/lib/sysimage/rpm -/usr/local/vendor-hsm/log"),
    ] {
        assert_eq!(live.property(UNIT, name), value, "{name}");
    }
    let families = live.property(UNIT, "RestrictAddressFamilies");
    assert!(families.contains("AF_VSOCK") && families.contains("AF_INET6"), "{families}");
    assert!(live.property(UNIT, "After").contains("vendor-hsmd.service"));
    live.tool(&TO_MITAKA).expect(0);
    set(&live, UNIT, "ReadWritePath=/usr");
    assert!(verified(&live).iter().any(|line| line.contains("ReadWritePath")), "what is no directive is seen");
}

/// Barbican as packages: this version installed, that one in a repository of the host.
fn packaged(live: &Live, old: &str, new: &str) {
    let script = r#"
        build() {
            mkdir -p /tmp/p/DEBIAN && printf '%s\n' "Package: $1" "Source: barbican" "Version: $2" "Architecture: all" \
                "Maintainer: nobody <nobody@localhost>" "Description: code" >/tmp/p/DEBIAN/control
            mkdir -p /tmp/p/usr/share/$1 && echo $2 >/tmp/p/usr/share/$1/version
            dpkg-deb --root-owner-group -b /tmp/p /opt/repo/$1_$2.deb >/dev/null && rm -r /tmp/p
        }
        offer() {
            cd /opt/repo && dpkg-deb -f $1 && printf '%s\n' "Filename: ./$1" "Size: $(stat -c %s $1)" \
                "SHA256: $(sha256sum $1 | cut -d ' ' -f 1)" "" >/tmp/end && cat /tmp/end
        }
        mkdir -p /opt/repo
        for package in barbican-common barbican-api; do
            build $package OLD && build $package NEW && dpkg -i /opt/repo/${package}_OLD.deb
        done
        { offer barbican-common_NEW.deb; offer barbican-api_NEW.deb; } >/tmp/Packages && mv /tmp/Packages /opt/repo/
        rm -f /etc/apt/sources.list && echo 'deb [trusted=yes] file:/opt/repo ./' >/etc/apt/sources.list.d/repo.list
        apt-get update
    "#;
    live.run(&format!("set -e; {}", script.replace("OLD", old).replace("NEW", new)));
    live.run("rm /etc/keymgr-upgrade/keymgr-upgrade.conf");
}

#[test]
fn apt_is_driven_where_the_code_comes_in_packages() {
    let live = installed();
    packaged(&live, "1:1.0.0-1", "1:2.0.0-1");
    let said = live.tool(&TO_MITAKA).expect(0);
    assert!(said.out.contains(DONE), "{}", said.out);
    live.expect_up();
    assert_eq!(live.revision(), REVISIONS[1]);
    let versions = "dpkg-query -W -f '${Version} ${db:Status-Status}\\n' barbican-common barbican-api";
    assert_eq!(live.run(versions), "1:2.0.0-1 installed\n1:2.0.0-1 installed");
    assert!(journal(&live, CODE_UNIT).contains("Setting up barbican-api (1:2.0.0-1)"));

    // What is not offered is waited for, and named.
    let said = live.tool(&["upgrade", "--to", "newton", "--yes"]).expect(4);
    assert!(said.out.contains("WAITING for the code of newton"), "{}", said.out);
    assert!(flat(&said.out).contains("apt offers none of newton for barbican-api barbican-common."), "{}", said.out);
    live.expect_held();
    assert_eq!(events(&live, Event::Waiting, "MESSAGE").lines().count(), 1);
    // Nor does a start by hand do anything about it.
    start(&live).expect(1);
    assert!(flat(&journal(&live, UNIT)).contains("waits for the code of newton, which is not there yet"));
    live.tool(&["rollback", "--yes"]).expect(0);
    live.expect_up();
}
