//! A disk that is full or read-only.

use std::path::Path;
use std::process::Command;

use crate::common::{Said, said};

/// Whether a file system can be mounted here: as root, and not in every container.
fn can_mount() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let mounted = mount(dir.path(), "size=64k").code == 0;
    if mounted {
        unmount(dir.path());
    }
    mounted
}

fn mount(at: &Path, options: &str) -> Said {
    said(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at))
}

fn unmount(at: &Path) {
    said(Command::new("umount").arg("-l").arg(at)).expect(0);
}
