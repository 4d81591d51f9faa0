//! The names of Barbican's units, and the hold: a drop-in that makes every start of them fail, with the reason in sight.
//!
//! The hold is files only, so it works on an image as on a host, and outlives a reboot. On a host systemd must read them anew afterwards
//! ([`crate::systemd::Systemd::reload`]).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::files::{Attributes, Root};

/// The services of the packages: Debian's and Ubuntu's names, then those of RDO. A host has some of them.
///
/// From the unit files of Debian's barbican 1:15.0.1-2 and of RDO's openstack-barbican spec.
pub const KNOWN: [&str; 8] = [
    "barbican-worker.service",
    "barbican-keystone-listener.service",
    "barbican-retry.service",
    "barbican-api.service",
    "openstack-barbican-worker.service",
    "openstack-barbican-keystone-listener.service",
    "openstack-barbican-retry.service",
    "openstack-barbican-api.service",
];

/// The name of the hold in a unit's drop-in directory. Drop-ins apply in the order of their names: ours is the last word.
pub const HOLD: &str = "zzz-keymgr-upgrade-hold.conf";

/// The units that a site can name besides the services: those that start one.
const SUFFIXES: [&str; 5] = [".service", ".socket", ".target", ".path", ".timer"];

/// Where a site's own unit files and drop-ins are.
const DIRECTORY: &str = "/etc/systemd/system";

/// The line that holds.
const ASSERTION: &str = "AssertPathExists=/run/keymgr-upgrade/released";

/// While this exists, units that systemd still has as held may be started: their drop-ins are gone, and systemd has not read that yet. It saves
/// a reload while nothing serves, and is made by us alone. A reboot forgets it, as it forgets what systemd has read.
const RELEASED: &str = "/run/keymgr-upgrade/released";

/// While this exists, packages are worked on: a start of a held unit is passed over, as one of a masked unit is, so that it fails no package's
/// script. systemd looks at conditions before assertions.
const PACKAGE_WORK: &str = "/run/keymgr-upgrade/package-work";

const CONTENTS: &str = "\
# Written by keymgr-upgrade while it upgrades Barbican: this unit must not run,
# and a start of it fails, until that is finished. What is going on, and what to
# do next, is told by `keymgr-upgrade status`. Do not edit or remove this file:
# code that runs on a half upgraded database can lose secrets.
# `keymgr-upgrade units unhold` removes it. The paths below are its own.
[Unit]
Description=HELD by keymgr-upgrade (keymgr-upgrade status)
AssertPathExists=/run/keymgr-upgrade/released
# Only while packages are worked on: their scripts pass over this unit.
ConditionPathExists=!/run/keymgr-upgrade/package-work
";

/// All units to look for, each once, with suffix: the known ones, of which the API is started last, and then a site's own.
///
/// # Errors
/// If a name cannot be that of a unit.
pub fn names(own: &[String]) -> Result<Vec<String>> {
    let mut names: Vec<String> = KNOWN.iter().map(|n| (*n).to_owned()).collect();
    for name in own {
        let name = full_name(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The name with its suffix: `barbican-api` is `barbican-api.service`, as for systemctl.
///
/// # Errors
/// If it cannot be the name of a unit (systemd.unit(5)): it becomes part of a path.
pub fn full_name(name: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let full = if SUFFIXES.iter().any(|s| name.ends_with(s)) { name.to_owned() } else { format!("{name}.service") };
    if name.is_empty() || name.starts_with(['.', '@']) || !name.chars().all(allowed) || full.len() > 255 {
        bail!("{name:?} is not the name of a unit");
    }
    Ok(full)
}

fn drop_in(unit: &str) -> Result<PathBuf> {
    Ok(Path::new(DIRECTORY).join(format!("{}.d", full_name(unit)?)).join(HOLD))
}

/// Whether a drop-in's text holds its unit, also one which another version of this program wrote.
fn holds(text: &str) -> bool {
    text.lines().any(|line| line.trim() == ASSERTION)
}

/// Holds each of `units`, be it installed or not. Returns whether a file was written; run again, it finds nothing to do.
///
/// # Errors
/// If a name is bad or a file cannot be written. What was written stays: it is safe, and the next call goes on from there.
pub fn hold_files(root: &Root, units: &[String]) -> Result<bool> {
    let mut changed = false;
    // First: what systemd has read of an earlier hold holds again from here on.
    root.remove(Path::new(RELEASED))?;
    for unit in units {
        let path = drop_in(unit)?;
        if root.read(&path)?.is_some_and(|old| old.bytes == CONTENTS.as_bytes()) {
            continue;
        }
        if let Some(directory) = path.parent() {
            root.make_directory(directory, 0o755)?;
        }
        root.write(&path, CONTENTS.as_bytes(), Attributes { mode: 0o644, uid: 0, gid: 0 })?;
        changed = true;
    }
    Ok(changed)
}

/// Those of `units` that are held, in their order, with suffix.
///
/// # Errors
/// If a name is bad or a file cannot be read.
pub fn held(root: &Root, units: &[String]) -> Result<Vec<String>> {
    let mut held = Vec::new();
    for unit in units {
        if root.read_text(&drop_in(unit)?)?.is_some_and(|text| holds(&text)) {
            held.push(full_name(unit)?);
        }
    }
    Ok(held)
}

/// Whether nothing of a hold is left at any of `units`: no drop-in, and no empty directory, which a crash leaves between removing the two.
///
/// # Errors
/// If a name is bad or a directory cannot be read.
pub fn released(root: &Root, units: &[String]) -> Result<bool> {
    for unit in units {
        let path = drop_in(unit)?;
        let directory = path.parent().unwrap_or(Path::new(DIRECTORY));
        if root.exists(&path) || (root.exists(directory) && root.list(directory)?.is_empty()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every unit that is held, also one that is no longer among the names of the settings.
///
/// # Errors
/// If a directory or file cannot be read.
pub fn all_held(root: &Root) -> Result<Vec<String>> {
    let directories = root.list(Path::new(DIRECTORY))?;
    // A directory whose name cannot be that of a unit has no hold of ours.
    let units = directories.iter().filter_map(|d| d.strip_suffix(".d")).filter(|u| full_name(u).is_ok_and(|f| f == *u));
    held(root, &units.map(str::to_owned).collect::<Vec<_>>())
}

/// Lets units be started that systemd still has as held, until [`forget_release`]. Before their drop-ins are removed, or a crash in between would
/// leave units that cannot be started, and nothing to see of a hold.
///
/// # Errors
/// If it cannot be written.
pub fn allow_start(root: &Root) -> Result<()> {
    mark(root, RELEASED)
}

/// Whether units that systemd still has as held may be started.
#[must_use]
pub fn start_is_allowed(root: &Root) -> bool {
    root.exists(Path::new(RELEASED))
}

/// systemd has read that units are not held any more.
///
/// # Errors
/// If it cannot be removed.
pub fn forget_release(root: &Root) -> Result<()> {
    root.remove(Path::new(RELEASED))
}

/// Has package work begin: scripts pass over held units.
///
/// # Errors
/// If it cannot be written.
pub fn package_work_begins(root: &Root) -> Result<()> {
    mark(root, PACKAGE_WORK)
}

/// Has package work end: a start of a held unit fails, with the reason in sight.
///
/// # Errors
/// If it cannot be removed.
pub fn package_work_ends(root: &Root) -> Result<()> {
    root.remove(Path::new(PACKAGE_WORK))
}

fn mark(root: &Root, path: &str) -> Result<()> {
    let path = Path::new(path);
    if let Some(directory) = path.parent() {
        root.make_directory(directory, 0o700)?;
    }
    root.write(path, b"", Attributes { mode: 0o600, uid: 0, gid: 0 })
}

/// Takes the hold off `units`, and removes a drop-in directory that is empty then. Returns whether one was held; run again, it finds nothing
/// to do.
///
/// # Errors
/// If a name is bad or a file cannot be removed.
pub fn unhold_files(root: &Root, units: &[String]) -> Result<bool> {
    let mut changed = false;
    for unit in units {
        let path = drop_in(unit)?;
        changed |= root.exists(&path);
        root.remove(&path)?;
        // Also when the file is gone: a crash may have come between the two.
        if let Some(directory) = path.parent() {
            root.remove_empty_directory(directory);
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const API: &str = "etc/systemd/system/barbican-api.service.d";

    fn image() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn names_are_completed_and_checked() {
        let all = names(&list(&["barbican-api", "keys.socket", "keys.socket", "barbican@2"])).unwrap();
        assert_eq!(all.len(), KNOWN.len() + 2);
        assert_eq!(all[KNOWN.len()..], ["keys.socket", "barbican@2.service"]);
        for bad in ["", "../x", "a b", ".service", "@.service", "a/b.service", &"x".repeat(250)] {
            let error = names(&list(&[bad])).unwrap_err().to_string();
            assert_eq!(error, format!("{bad:?} is not the name of a unit"));
        }
    }

    #[test]
    fn the_text_is_what_holds() {
        assert!(holds(CONTENTS), "{ASSERTION} is not in the drop-in");
        assert!(!holds(&format!("# {ASSERTION}\n")));
        assert_eq!(ASSERTION.strip_prefix("AssertPathExists="), Some(RELEASED));
        assert!(CONTENTS.contains(&format!("\nConditionPathExists=!{PACKAGE_WORK}\n")));
        assert!(CONTENTS.lines().all(|l| l.len() <= 80));
    }

    #[test]
    fn holding_and_unholding_converge_on_an_image() {
        let (dir, root) = image();
        let units = list(&["barbican-api", "openstack-barbican-api.service"]);
        assert_eq!(held(&root, &units).unwrap(), list(&[]));
        assert!(!unhold_files(&root, &units).unwrap());
        assert!(hold_files(&root, &units).unwrap());
        assert!(!hold_files(&root, &units).unwrap());
        assert_eq!(held(&root, &units).unwrap(), ["barbican-api.service", "openstack-barbican-api.service"]);
        assert_eq!(all_held(&root).unwrap(), held(&root, &units).unwrap());
        let path = dir.path().join(API).join(HOLD);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert!(unhold_files(&root, &units).unwrap());
        assert!(!unhold_files(&root, &units).unwrap());
        assert!(root.list(Path::new(DIRECTORY)).unwrap().is_empty());
    }

    #[test]
    fn what_an_operator_has_there_is_kept() {
        let (dir, root) = image();
        let units = list(&["barbican-api"]);
        std::fs::create_dir_all(dir.path().join(API)).unwrap();
        std::fs::File::create(dir.path().join(API).join("limits.conf")).unwrap();
        hold_files(&root, &units).unwrap();
        unhold_files(&root, &units).unwrap();
        assert_eq!(root.list(&Path::new("/").join(API)).unwrap(), ["limits.conf"]);
    }

    #[test]
    fn a_weakened_hold_is_none_and_is_renewed() {
        let (dir, root) = image();
        let units = list(&["barbican-api"]);
        hold_files(&root, &units).unwrap();
        let weak = CONTENTS.replace(ASSERTION, &format!("#{ASSERTION}"));
        let path = Path::new("/").join(API).join(HOLD);
        root.write(&path, weak.as_bytes(), Attributes { mode: 0o644, uid: 0, gid: 0 }).unwrap();
        assert!(held(&root, &units).unwrap().is_empty());
        assert!(hold_files(&root, &units).unwrap());
        assert_eq!(held(&root, &units).unwrap(), ["barbican-api.service"]);
        drop(dir);
    }

    #[test]
    fn a_half_removed_hold_is_finished() {
        let (dir, root) = image();
        let units = list(&["barbican-api"]);
        hold_files(&root, &units).unwrap();
        std::fs::remove_file(dir.path().join(API).join(HOLD)).unwrap();
        assert!(!unhold_files(&root, &units).unwrap());
        assert!(!dir.path().join(API).exists());
    }
}
