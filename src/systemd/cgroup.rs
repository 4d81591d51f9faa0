//! The processes of a control group, read from its files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

/// The processes of `group` (from the root of its hierarchy) and of all groups in it. `mounted` is where the control groups are: version 2 there
/// itself or in `unified`, version 1, as systemd uses it, in `systemd`.
pub(super) fn processes(mounted: &Path, group: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for hierarchy in ["", "unified", "systemd"] {
        collect(&mounted.join(hierarchy).join(group.trim_start_matches('/')), &mut pids)?;
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(directory: &Path, pids: &mut Vec<u32>) -> Result<()> {
    let context = || format!("reading {}", directory.display());
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // Not this hierarchy, or gone by now, which is as good as empty.
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(()),
        Err(e) => return Err(e).with_context(context),
    }
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), pids)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_group_has_us() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let group =
            own.lines().find(|l| l.contains("name=systemd")).or_else(|| own.lines().find(|l| l.starts_with("0::")));
        let group = group.unwrap().splitn(3, ':').nth(2).unwrap();
        assert!(processes(Path::new("/sys/fs/cgroup"), group).unwrap().contains(&std::process::id()), "{own}");
    }

    #[test]
    fn groups_inside_count_and_missing_ones_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("systemd/system.slice/a.service");
        fs::create_dir_all(group.join("inner")).unwrap();
        for (place, text) in [(group.clone(), "3\n1\n"), (group.join("inner"), "2\n")] {
            std::io::Write::write_all(&mut fs::File::create(place.join("cgroup.procs")).unwrap(), text.as_bytes())
                .unwrap();
        }
        assert_eq!(processes(dir.path(), "/system.slice/a.service").unwrap(), [1, 2, 3]);
        assert!(processes(dir.path(), "/system.slice/b.service").unwrap().is_empty());
    }
}
