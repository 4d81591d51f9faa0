//! A disk that is full or read-only: one clear error, nothing lost, and `resume` works when there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;

use keymgr_upgrade::files::Root;
use keymgr_upgrade::journal;

use super::state::State;
use super::{Case, kill_at};
use crate::common::{Said, said};

const STATE: &str = "var/lib/keymgr-upgrade";

/// A file system in memory of its own over a directory of the image, with what was there copied into it.
struct Mounted(PathBuf);

impl Mounted {
    fn over(directory: &Path, size: &str) -> Option<Self> {
        let saved = tempfile::tempdir().unwrap();
        let copy = |from: &Path, to: &Path| {
            said(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)).expect(0);
        };
        copy(directory, saved.path());
        let options = format!("size={size},mode=0700");
        if said(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory)).code != 0 {
            return None;
        }
        copy(saved.path(), directory);
        Some(Self(directory.to_owned()))
    }

    fn remount(&self, options: &str) {
        said(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0)).expect(0);
    }

    /// Leaves no room at all.
    fn fill(&self) {
        // It ends when there is no room left.
        let _ = said(
            Command::new("dd").args(["if=/dev/zero", "bs=512"]).arg(format!("of={}", self.0.join("filler").display())),
        );
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = said(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// One error, that names an object, and the next command.
#[track_caller]
fn one_error(said: &Said, words: &[&str]) {
    let errors = said.err.lines().filter(|l| l.starts_with("error:")).count();
    assert_eq!(errors, 1, "{}", said.all());
    assert!(said.all().contains("Next: keymgr-upgrade "), "{}", said.all());
    assert!(words.iter().any(|word| said.error().contains(word)), "none of {words:?} is in\n{}", said.err);
}

/// Names of points, one in each part of a run.
fn somewhere(case: &Case) -> Vec<usize> {
    let at = |name: &str| case.points.iter().position(|p| p == name).unwrap() + 1;
    let kek = at("KEK written");
    vec![
        at("run opened"),
        at("backup begun"),
        at("statement run"),
        at("committed"),
        kek,
        kek + 16,
        case.points.len() - 20,
    ]
}

#[test]
fn no_room_for_the_state_directory() {
    let case = Case::upgrade("mitaka");
    for point in somewhere(&case) {
        let sandbox = case.before.copy();
        std::fs::create_dir_all(sandbox.path(STATE)).unwrap();
        let Some(disk) = Mounted::over(&sandbox.path(STATE), "32m") else { return without_mount(&case) };
        kill_at(&sandbox, &case.command, point);
        disk.fill();
        let name = &case.points[point - 1];
        for verb in [&["resume"][..], &["rollback", "--yes"]] {
            let said = sandbox.run(verb);
            if said.code != 0 {
                one_error(&said, &["No space left", "no space left"]);
            }
            if said.code < 2 {
                // The last block of the journal, never full, had room enough for what was left to do, or to go back.
                let goal = if said.code == 0 && verb[0] == "resume" { &case.end } else { &case.start };
                assert_eq!(State::of(&sandbox).differences(goal), Vec::<String>::new(), "{name}, {verb:?}");
                break;
            }
            assert!([4, 5].contains(&said.code), "{name}: exit {}\n{}", said.code, said.all());
            case.check_crashed(&sandbox);
        }
        disk.empty();
        case.finish(&sandbox, &["resume"]);
    }
}

/// Where nothing can be mounted: a limit on the size of any file stands in for the disk.
fn without_mount(case: &Case) {
    limited(case, 200);
}

fn limited(case: &Case, blocks: usize) {
    let sandbox = case.before.copy();
    let plain = sandbox.command(&case.command);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""));
    shell.arg(plain.get_program()).args(plain.get_args()).env_clear();
    shell.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = said(&mut shell).expect(1);
    one_error(&said, &["too large", "disk I/O error", "no space left"]);
    assert_eq!(State::of(&sandbox).differences(&case.start), Vec::<String>::new(), "{}", said.all());
    sandbox.run(&["status"]).expect(0);
    sandbox.run(&case.command[..]).expect(0);
    assert_eq!(State::of(&sandbox).differences(&case.end), Vec::<String>::new());
}

#[test]
fn no_room_for_the_backup() {
    // 200 blocks of 512 bytes: enough for plan and journal, not for the copy of the database.
    limited(&Case::upgrade("mitaka"), 200);
}

#[test]
fn a_read_only_or_full_place_of_a_file() {
    let case = Case::upgrade("mitaka");
    for (place, options, words) in [
        ("etc/barbican", "ro", &["Read-only file system"][..]),
        ("etc/paste", "full", &["No space left"]),
        ("var/lib/barbican", "ro", &["cannot be written (read-only"]),
        ("var/lib/barbican", "full", &["no space left for the database"]),
    ] {
        let sandbox = case.before.copy();
        let Some(disk) = Mounted::over(&sandbox.path(place), "20m") else { return };
        if options == "full" {
            disk.fill()
        } else {
            disk.remount(options)
        }
        let failed = sandbox.run(&case.command).expect(4);
        one_error(&failed, words);
        let status = sandbox.run(&["status"]).expect(4);
        assert!(status.out.contains("held: they do not start"), "{}", status.out);
        if options == "full" {
            disk.empty()
        } else {
            disk.remount("rw")
        }
        case.finish(&sandbox, if place == "etc/paste" { &["rollback", "--yes"] } else { &["resume"] });
    }
}

#[test]
fn a_read_only_state_directory() {
    let case = Case::upgrade("mitaka");
    let sandbox = case.before.copy();
    std::fs::create_dir_all(sandbox.path(STATE)).unwrap();
    let Some(disk) = Mounted::over(&sandbox.path(STATE), "32m") else { return };
    disk.remount("ro");
    one_error(&sandbox.run(&case.command).expect(1), &["Read-only file system"]);
    assert_eq!(State::of(&sandbox).differences(&case.start), Vec::<String>::new());
    disk.remount("rw");
    kill_at(&sandbox, &case.command, case.points.len() / 2);
    disk.remount("ro");
    let before = State::of(&sandbox);
    for verb in [&["resume"][..], &["rollback", "--yes"]] {
        one_error(&sandbox.run(verb).expect(4), &["Read-only file system"]);
    }
    assert_eq!(State::of(&sandbox).differences(&before), Vec::<String>::new());
    disk.remount("rw");
    assert!(journal::current(&Root::open(&sandbox.root()).unwrap()).is_some());
    case.finish(&sandbox, &["resume"]);
}
