//! What packages do besides bringing code, or have left behind.

use std::path::Path;

use super::Finding;
use crate::deployment::Deployment;

pub(super) fn judge(deployment: &Deployment, all: &mut Vec<Finding>) {
    if deployment.configures_database {
        let title = "debconf has barbican/configure_db as true: the packages migrate while services run";
        let remedy = "echo barbican-common barbican/configure_db boolean false | debconf-set-selections";
        all.push(Finding::fail("configure-db", title).remedy(remedy));
    }
    if !deployment.left_by_rpm.is_empty() {
        let evidence = deployment.left_by_rpm.iter().map(|path| left(path)).collect();
        let title = "rpm left other versions of Barbican's files beside them";
        let remedy = "compare each (diff -u), take over what is to stay, then remove it";
        all.push(Finding::warn("rpm-left", title).evidence(evidence).remedy(remedy));
    }
}

/// rpm keeps a changed `%config(noreplace)` and puts the package's beside it; any other file of a package it replaces, and puts the old one
/// beside it.
fn left(path: &Path) -> String {
    let what = match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("rpmnew") => "the package's; yours is in force",
        _ => "yours, put aside; the package's is in force",
    };
    format!("{}: {what}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_file_is_in_force_is_said() {
        let left = |suffix: &str| left(Path::new(&format!("/etc/barbican/barbican.conf.{suffix}")));
        assert_eq!(left("rpmnew"), "/etc/barbican/barbican.conf.rpmnew: the package's; yours is in force");
        for suffix in ["rpmsave", "rpmorig"] {
            assert!(left(suffix).ends_with(": yours, put aside; the package's is in force"));
        }
    }
}
