//! A real ext4 that is shut down in the middle of a run, without writing what it has in memory.

use std::path::PathBuf;
use std::process::Command;

use crate::common::said;
use crate::crash::matrix::both_from;
use crate::crash::{Case, Host, Tally, kill_at};

/// EXT4_IOC_SHUTDOWN, with the flag that not even its journal is written: what fsync(2) was not asked for is gone.
const SHUTDOWN: &str = "import fcntl, os, struct, sys; \
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// An ext4 in a file, mounted so that it writes nothing by itself for as long as a run takes.
struct Ext4 {
    directory: tempfile::TempDir,
}

impl Ext4 {
    /// None where nothing can be mounted.
    fn new() -> Option<Self> {
        let memory = std::path::Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let ext4 = Self { directory: tempfile::Builder::new().prefix("keymgr-ext4-").tempdir_in(place).unwrap() };
        std::fs::File::create(ext4.image()).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(ext4.mounted()).unwrap();
        let made = said(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0"]).arg(ext4.image()));
        (made.code == 0 && ext4.mount()).then_some(ext4)
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mounted(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn mount(&self) -> bool {
        let options = "loop,commit=600,noauto_da_alloc";
        said(Command::new("mount").args(["-o", options]).arg(self.image()).arg(self.mounted())).code == 0
    }

    /// The power goes, and comes back.
    fn without_power(&self) {
        let _ = said(Command::new("python3").args(["-c", SHUTDOWN]).arg(self.mounted())).expect(0);
        let _ = said(Command::new("umount").arg(self.mounted())).expect(0);
        assert!(self.mount(), "it cannot be mounted again");
    }

    fn sync(&self) {
        let _ = said(Command::new("sync").arg("-f").arg(self.mounted())).expect(0);
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = said(Command::new("umount").arg("-l").arg(self.mounted()));
    }
}

/// What is left of a run that is killed at this point, with its file system, on ext4.
fn left(case: &Case, ext4: &Ext4, point: usize) -> Host {
    let sandbox = case.before.sandbox.copy_in(&ext4.mounted());
    ext4.sync();
    let on_disk = Host { sandbox, base: None };
    kill_at(&on_disk, &case.command, point);
    ext4.without_power();
    let left = on_disk.copy();
    // SoftHSM writes its objects anew when it is looked at, and does not sync them: the token is not ours.
    let tokens = "var/lib/softhsm";
    std::fs::remove_dir_all(left.path(tokens)).unwrap();
    let _ = said(Command::new("cp").arg("-a").arg(case.before.path(tokens)).arg(left.path(tokens))).expect(0);
    std::fs::remove_dir_all(on_disk.root()).unwrap();
    left
}

fn tried(case: &Case, step: usize, tally: &Tally) -> bool {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let disks: Vec<Ext4> = (0..threads).map_while(|_| Ext4::new()).collect();
    if disks.len() < threads {
        return false;
    }
    let points: Vec<usize> = (1..=case.points.len()).step_by(step).collect();
    let name = |point: &usize| format!("{} without power at {point}, {}", case.command[0], case.points[point - 1]);
    tally.each_on(&disks, &points, name, |ext4, point| both_from(case, left(case, ext4, *point)));
    true
}

/// What is not synced is lost there, and only that: a disk that kept everything would prove nothing.
#[test]
fn what_is_not_synced_is_lost() {
    use std::io::Write as _;
    let Some(ext4) = Ext4::new() else { return };
    let mut safe = std::fs::File::create(ext4.mounted().join("safe")).unwrap();
    safe.write_all(b"synced").unwrap();
    safe.sync_all().unwrap();
    std::fs::File::open(ext4.mounted()).unwrap().sync_all().unwrap();
    safe.write_all(b", and more").unwrap();
    drop(safe);
    std::fs::write(ext4.mounted().join("lost"), "not synced").unwrap();
    ext4.without_power();
    assert_eq!(std::fs::read_to_string(ext4.mounted().join("safe")).unwrap(), "synced");
    assert!(!ext4.mounted().join("lost").exists());
}

#[test]
fn an_upgrade_on_ext4_without_power_at_some_points() {
    let case = Case::upgrade("mitaka");
    let tally = Tally::default();
    if tried(&case, case.points.len() / 4, &tally) {
        tally.end("upgrade to mitaka on ext4, power lost, some points");
    }
}

#[test]
#[ignore = "slow: make crash-power, make test-slow"]
fn on_ext4_without_power_at_any_point() {
    for case in [Case::upgrade("mitaka"), Case::rollback("mitaka")] {
        let tally = Tally::default();
        if tried(&case, 1, &tally) {
            tally.end(&format!("{} of mitaka on ext4, power lost", case.command[0]));
        }
    }
}
