//! Hosts of long ago: units that an old systemd does not misread, a kernel without the calls of the last ten years, and the packages that
//! `make portable` makes, in the oldest Debian that is to be had.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Sandbox, said};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The assignments of a unit, one a line, lines that go on put together.
fn assignments(unit: &str) -> Vec<(String, String)> {
    let text = unit.replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_units_ask_nothing_that_an_old_systemd_misreads() {
    let units = fs::read_dir(Path::new(ROOT).join("systemd")).unwrap().map(|entry| entry.unwrap().path());
    let units: Vec<_> = units.filter(|path| path.extension().is_some_and(|e| e == "service")).collect();
    assert_eq!(units.len(), 3);
    for path in units {
        let all = assignments(&fs::read_to_string(&path).unwrap());
        let shown = path.display();
        for (name, value) in &all {
            match name.as_str() {
                // A list of what is allowed, of whose groups it knows none, allows nothing.
                "SystemCallFilter" => assert!(value.starts_with('~'), "{shown}: {name}"),
                // Before 229 that is at once.
                name if name.ends_with("Sec") => assert_ne!(value, "infinity", "{shown}: {name}"),
                // Refused before 240, but for one that does no harm as `simple`.
                "Type" => assert!(["oneshot", "exec"].contains(&value.as_str()), "{shown}: {name}={value}"),
                "ExecStart" => {
                    assert!(value.starts_with('/'), "{shown}: a prefix that is not known makes it no command")
                }
                // What would have to be there: an old one passes over it.
                "StateDirectory"
                | "RuntimeDirectory"
                | "LogsDirectory"
                | "ConfigurationDirectory"
                | "LoadCredential"
                | "DynamicUser"
                | "BindPaths" => panic!("{shown}: {name} is relied upon"),
                _ => {}
            }
        }
        let bounds = all.iter().filter(|(name, _)| name == "CapabilityBoundingSet").count();
        assert_eq!(bounds, 1, "{shown}: what several mean together has changed");
    }
}

/// The same command, where every system call gives ENOSYS that Linux 3.10 does not have.
fn on_linux_3_10(command: &Command) -> Command {
    let mut old = Command::new("python3");
    old.arg(Path::new(ROOT).join("tests/lab/old_kernel.py")).arg(command.get_program()).args(command.get_args());
    old.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    old
}

#[test]
fn an_upgrade_needs_no_later_call_than_linux_3_10_has() {
    let sandbox = Sandbox::liberty();
    sandbox.install("1.0.0");
    // Links that lead outside if somebody else resolves them.
    fs::rename(sandbox.path("etc/barbican"), sandbox.path("srv")).unwrap();
    std::os::unix::fs::symlink("/srv", sandbox.path("etc/barbican")).unwrap();
    sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", "[code]\nupgrade_command = echo no package >&2; exit 7\n");
    let old = |arguments: &[&str]| said(&mut on_linux_3_10(&sandbox.command(arguments)));
    let refused = said(&mut on_linux_3_10(Command::new("python3").args(["-c", "import os; os.memfd_create('x')"])));
    assert!(refused.expect(1).err.contains("[Errno 38]"), "the stand-in for the kernel refuses nothing");

    old(&["approve", "--to", "mitaka"]).expect(0);
    old(&["upgrade", "--to", "mitaka", "--yes"]).expect(1).says("no package");
    sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", "");
    old(&["approve", "--to", "mitaka"]).expect(0);
    old(&["upgrade", "--to", "mitaka", "--yes"]).expect(4).says("WAITING for the code of mitaka");
    sandbox.install("2.0.0");
    old(&["resume"]).expect(0).says("Done: Mitaka. Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted.");
    // What it left is what today's kernel finds, too.
    assert_eq!(sandbox.run(&["--json", "db", "current"]).json()["revision"], "d2780d5aa510");
    assert!(fs::symlink_metadata(sandbox.path("etc/barbican")).unwrap().is_symlink());
}

/// Where the packages of `make portable` are, made anew.
fn packages() -> std::path::PathBuf {
    let mut make = Command::new("make");
    make.args(["-s", "-C", ROOT, "portable"]).env_remove("MAKEFLAGS").stdin(Stdio::null());
    let said = said(&mut make).expect(0);
    assert!(said.out.contains("The binary needs GLIBC_2."), "{}", said.all());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), Into::into);
    target.join("portable")
}

#[test]
#[ignore = "many minutes: builds the portable packages, OpenSSL included"]
fn the_portable_packages_do_the_whole_job_on_an_old_host() {
    let packages = packages();
    let script = Path::new(ROOT).join("tests/lab/portable.sh");
    let said_there = said(Command::new(&script).arg(&packages).stdin(Stdio::null())).expect(0);
    for word in ["1.20.13", "RPM version 4.16", "digests OK"] {
        assert!(said_there.out.contains(word), "{}", said_there.all());
    }
    let proved = said_there.out.matches("Done: 2026.2. Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted.").count();
    assert_eq!(proved, 2, "{}", said_there.all());
}
