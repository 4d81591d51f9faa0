//! What packages do besides bringing code, or have left behind.

use std::path::Path;

use super::{Case, Finding};

pub(super) fn judge(case: &Case<'_>, all: &mut Vec<Finding>) {
    let deployment = case.deployment;
    if deployment.configures_database {
        let title = "debconf has barbican/configure_db as true: the packages migrate while services run";
        let remedy = "echo barbican-common barbican/configure_db boolean false | debconf-set-selections";
        all.push(Finding::fail("configure-db", title).remedy(remedy));
    }
    all.extend(deployment.left_by_rpm.iter().map(|path| left(path, &case.settings.paste_file)));
}

/// rpm keeps a changed `%config(noreplace)` and puts the package's beside it; any other file of a package it replaces, as SUSE's packages have the
/// paste file, and puts the old one beside it. `path` is what lies beside, with an ending of rpm after the whole name.
fn left(path: &Path, paste_file: &Path) -> Finding {
    let file = path.with_extension("");
    let (beside, there, name) = (path.display(), file.display(), file.file_name().unwrap_or_default().display());
    if path.extension().is_some_and(|ending| ending == "rpmnew") {
        let title = format!("rpm left its own {name} beside yours, which is in force");
        let evidence = vec![format!("{beside}: the package's"), format!("{there}: yours, in force")];
        let remedy = format!(
            "diff -u {there} {beside}; what a release needs the upgrade writes into yours, what you want besides is for you; then rm {beside}"
        );
        return Finding::warn("rpm-left", title).evidence(evidence).remedy(remedy);
    }
    let (lost, what) =
        if file == paste_file { ("pipelines are", "filters and pipelines") } else { ("options are", "options") };
    let title = format!("rpm replaced your {name}: your own {lost} no longer in force");
    let evidence = vec![format!("{beside}: yours, put aside"), format!("{there}: the package's, in force")];
    let remedy = format!(
        "diff -u {beside} {there}; write your own {what} into {there}, which has what its release needs where yours may not; restart Barbican's services; then rm {beside}"
    );
    Finding::warn("rpm-left", title).evidence(evidence).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASTE: &str = "/etc/barbican/barbican-api-paste.ini";

    fn of(path: &str) -> String {
        let found = left(Path::new(path), Path::new(PASTE));
        assert_eq!((found.id.as_str(), found.evidence.len()), ("rpm-left", 2));
        format!("{}\n{}\n{}", found.title, found.evidence.join("\n"), found.remedy.unwrap())
    }

    #[test]
    fn whose_file_is_in_force_is_said() {
        let kept = of("/etc/barbican/barbican.conf.rpmnew");
        assert!(kept.starts_with("rpm left its own barbican.conf beside yours, which is in force\n"), "{kept}");
        assert!(kept.contains("diff -u /etc/barbican/barbican.conf /etc/barbican/barbican.conf.rpmnew; "), "{kept}");
        for ending in ["rpmsave", "rpmorig"] {
            let lost = of(&format!("{PASTE}.{ending}"));
            let title = "rpm replaced your barbican-api-paste.ini: your own pipelines are no longer in force\n";
            assert!(lost.starts_with(title), "{lost}");
            assert!(lost.contains(&format!("{PASTE}: the package's, in force\n")), "{lost}");
            assert!(lost.contains(&format!("write your own filters and pipelines into {PASTE}, which")), "{lost}");
            assert!(lost.ends_with(&format!("; then rm {PASTE}.{ending}")), "{lost}");
            let lost = of(&format!("/etc/barbican/barbican.conf.{ending}"));
            assert!(lost.contains("your own options are no longer in force"), "{lost}");
        }
    }
}
