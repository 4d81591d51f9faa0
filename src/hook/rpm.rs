//! What dnf's plugin hands over, what an `rpm` is called with, and what rpm says of Barbican's packages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Change, Given, Installed, Manager, is_barbican};
use crate::process::Process;

/// What rpm is asked for: name, epoch, version and release, one package a line.
pub const QUERY: &str = r"%{NAME} %|EPOCH?{%{EPOCH}}:{0}| %{VERSION} %{RELEASE}\n";

/// Patterns of names that hold all of Barbican's packages; which they are [`is_barbican`] says.
pub const PATTERNS: [&str; 3] = ["*barbican", "openstack-barbican-*", "barbican-*"];

/// A package as dnf's plugin names it: each of its numbers apart.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    name: String,
    epoch: u32,
    version: String,
    release: String,
}

/// What dnf's plugin writes, format 1.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolved {
    format: u32,
    command: String,
    installroot: String,
    packages: usize,
    removed: Vec<Package>,
    installed: Vec<Package>,
}

/// Reads what dnf's plugin has written: Barbican's packages that go and that come.
///
/// # Errors
/// If it is not format 1 of it.
pub fn resolved(text: &str) -> Result<Given> {
    let resolved: Resolved = serde_json::from_str(text).context("what dnf is about to do")?;
    anyhow::ensure!(resolved.format == 1, "the plugin of dnf writes format {}, not 1", resolved.format);
    let evr = |package: &Package| evr(&package.epoch.to_string(), &package.version, &package.release);
    let mut changes: Vec<Change> = Vec::new();
    for package in &resolved.removed {
        changes.push(Change { package: package.name.clone(), old: Some(evr(package)), new: None });
    }
    for package in &resolved.installed {
        let new = Some(evr(package));
        match changes.iter_mut().find(|change| change.package == package.name) {
            Some(change) => change.new = new,
            None => changes.push(Change { package: package.name.clone(), old: None, new }),
        }
    }
    changes.retain(|change| is_barbican(&change.package));
    Ok(Given {
        changes,
        packages: resolved.packages,
        command: resolved.command,
        elsewhere: !matches!(resolved.installroot.as_str(), "" | "/"),
        manager: Manager::Rpm,
    })
}

/// Reads rpm's answer to [`QUERY`]: Barbican's packages in it.
///
/// # Errors
/// If a line has another form.
pub fn queried(text: &str) -> Result<Vec<Installed>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, epoch, version, release] = fields.as_slice() else {
            anyhow::bail!("rpm's answer has {} fields, not 4: {line:?}", fields.len());
        };
        if is_barbican(name) {
            let version = evr(epoch, version, release);
            found.push(Installed { package: (*name).to_owned(), version, state: "installed".to_owned() });
        }
    }
    Ok(found)
}

/// `EPOCH:VERSION-RELEASE`. RDO tells a pre-release by a release such as `0.1.0rc1.el8`: that is written as others write it, `VERSION~rc1`.
fn evr(epoch: &str, version: &str, release: &str) -> String {
    let early = release.strip_prefix("0.").and_then(|rest| {
        let at = rest.find("rc").or_else(|| rest.find('b'))?;
        let word: String = rest.get(at..)?.chars().take_while(char::is_ascii_alphanumeric).collect();
        word.ends_with(|c: char| c.is_ascii_digit()).then_some(word)
    });
    match early {
        Some(word) if !version.contains('~') => format!("{epoch}:{version}~{word}-{release}"),
        _ => format!("{epoch}:{version}-{release}"),
    }
}

/// What an `rpm` does, by what it was called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// It removes packages.
    Erase,
    /// It installs these package files.
    Install(Vec<PathBuf>),
    /// It cannot be told: files that are to be fetched, or a way of calling it that we do not know.
    Untold,
}

/// Reads the argument vector of an `rpm` (rpm(8)); paths are as seen from `directory`, where it works.
#[must_use]
pub fn called(argv: &[String], directory: &Path) -> Called {
    let (mut erases, mut installs) = (false, false);
    let mut paths: Vec<&str> = Vec::new();
    for word in argv.iter().skip(1) {
        match word.as_str() {
            "--erase" | "--uninstall" => erases = true,
            "--install" | "--upgrade" | "--freshen" | "--reinstall" => installs = true,
            long if long.starts_with("--") => {}
            short if short.starts_with('-') => {
                erases |= short.contains('e');
                installs |= short.contains(['i', 'U', 'F']);
            }
            path => paths.push(path),
        }
    }
    // Values of options that stand apart are among the paths: they are no packages, and are found to be none.
    match (erases, installs) {
        (true, false) => Called::Erase,
        (false, true) if !paths.is_empty() && !paths.iter().any(|path| path.contains("://")) => {
            Called::Install(paths.into_iter().map(|path| directory.join(path)).collect())
        }
        _ => Called::Untold,
    }
}

/// What dnf is about to do, as its plugin told it, for the trigger that comes before anything is unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Format of this record.
    pub format: u32,
    /// The dnf that it is from.
    pub process: Process,
    /// What it is called with, for people.
    pub command: String,
    /// How many packages come and go.
    pub packages: usize,
    /// What is to happen to Barbican's packages.
    pub changes: Vec<Change>,
}

/// Where it is kept, until the next boot at most.
#[must_use]
pub fn told_path() -> PathBuf {
    PathBuf::from("/run/keymgr-upgrade/dnf.json")
}

/// How package work ended that nobody could refuse, or that did not say where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Barbican is gone, or is of the release that its data is of.
    AsBefore,
    /// It is of another release.
    Other,
    /// Its packages are of different releases, or of one that is not known; with what is there.
    Between(String),
}

/// Compares what is there now with the release that the data is at, by its id; where that is not recorded, with what was there before `changes`.
#[must_use]
pub fn ended(changes: &[Change], now: &[Installed], data: Option<&str>) -> Ended {
    let Some(first) = now.first() else { return Ended::AsBefore };
    let release = first.release();
    if release.is_none() || now.iter().any(|package| package.release() != release) {
        let words: Vec<String> = now.iter().map(|p| format!("{} {}", p.package, p.version)).collect();
        return Ended::Between(words.join(", "));
    }
    let mut before = changes.iter().filter_map(|change| change.old.as_deref()).map(super::dpkg::release_of).peekable();
    let same = match data {
        Some(data) => release == Some(data),
        None => before.peek().is_some() && before.all(|old| old == release),
    };
    if same { Ended::AsBefore } else { Ended::Other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Catalogue;

    fn there(version: &str) -> Installed {
        Installed { package: "python3-barbican".into(), version: version.into(), state: "installed".into() }
    }

    fn change(package: &str, old: Option<&str>, new: Option<&str>) -> Change {
        Change { package: package.into(), old: old.map(str::to_owned), new: new.map(str::to_owned) }
    }

    #[test]
    fn what_dnf_has_resolved_is_read() {
        let text = r#"{"format": 1, "command": "dnf upgrade", "installroot": "/", "packages": 4,
            "removed": [
              {"name": "python3-barbican", "epoch": 1, "version": "14.0.0", "release": "1.el9"},
              {"name": "openstack-barbican-retry", "epoch": 1, "version": "14.0.0", "release": "1.el9"},
              {"name": "python3-barbicanclient", "epoch": 0, "version": "5.3.0", "release": "1.el9"}],
            "installed": [
              {"name": "python3-barbican", "epoch": 1, "version": "15.0.0", "release": "0.1.0rc1.el9"},
              {"name": "openstack-barbican-api", "epoch": 1, "version": "15.0.0", "release": "1.el9"}]}"#;
        let given = resolved(text).unwrap();
        let wanted = [
            change("python3-barbican", Some("1:14.0.0-1.el9"), Some("1:15.0.0~rc1-0.1.0rc1.el9")),
            change("openstack-barbican-retry", Some("1:14.0.0-1.el9"), None),
            change("openstack-barbican-api", None, Some("1:15.0.0-1.el9")),
        ];
        assert_eq!(given.changes, wanted);
        assert_eq!((given.packages, given.elsewhere, given.manager), (4, false, Manager::Rpm));
        assert!(resolved(&text.replace(r#""/""#, r#""/mnt""#)).unwrap().elsewhere);
        assert!(resolved(&text.replace(r#"t": 1"#, r#"t": 2"#)).is_err());
        assert!(resolved("").is_err());
    }

    #[test]
    fn versions_of_rpm_are_told_by_the_catalogue() {
        let text = "python3-barbican 1 15.0.0 1.el9\nopenstack-barbican-api 0 14.0.0 0.1.0rc2.el8\npython3-barbicanclient 0 5.3.0 1\n";
        let found = queried(text).unwrap();
        let versions: Vec<_> = found.iter().map(|p| p.version.as_str()).collect();
        assert_eq!(versions, ["1:15.0.0-1.el9", "0:14.0.0~rc2-0.1.0rc2.el8"]);
        let releases: Vec<_> = found.iter().map(Installed::release).collect();
        assert_eq!(releases, [Some("zed"), Some("yoga")]);
        let early = |version| Catalogue::embedded().unwrap().by_version(version).unwrap().pre_release;
        assert_eq!(versions.iter().map(|v| early(v)).collect::<Vec<_>>(), [false, true]);
        assert_eq!(evr("1", "2.0.0", "0.20160301b12.el7"), "1:2.0.0~b12-0.20160301b12.el7");
        assert_eq!(evr("1", "2.0.0", "0.el7"), "1:2.0.0-0.el7");
        assert!(queried("package python3-barbican is not installed\n").is_err());
    }

    #[test]
    fn an_rpm_is_told_by_its_arguments() {
        let called = |line: &str| called(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), Path::new("/root"));
        let install = |paths: &[&str]| Called::Install(paths.iter().map(PathBuf::from).collect());
        for (line, wanted) in [
            ("rpm -e python3-barbican", Called::Erase),
            ("rpm --erase --nodeps openstack-barbican-api", Called::Erase),
            ("rpm -Uvh a.rpm /srv/b.rpm", install(&["/root/a.rpm", "/srv/b.rpm"])),
            ("rpm --nodeps --freshen a.rpm", install(&["/root/a.rpm"])),
            ("rpm -i --excludepath /etc a.rpm", install(&["/etc", "/root/a.rpm"])),
            ("rpm -U https://example.org/a.rpm", Called::Untold),
            ("rpm -U", Called::Untold),
            ("rpm", Called::Untold),
        ] {
            assert_eq!(called(line), wanted, "{line}");
        }
    }

    #[test]
    fn what_nobody_could_refuse_ends_as_before_elsewhere_or_in_between() {
        let before = [change("python3-barbican", Some("1:14.0.0-1.el9"), None)];
        assert_eq!(ended(&before, &[], None), Ended::AsBefore);
        assert_eq!(ended(&before, &[there("1:14.0.1-1.el9")], None), Ended::AsBefore);
        assert_eq!(ended(&before, &[there("1:15.0.0-1.el9")], None), Ended::Other);
        // Installed where nothing was: with which data it is to work, nobody knows.
        assert_eq!(ended(&[], &[there("1:15.0.0-1.el9")], None), Ended::Other);
        // What counts is the data: the old packages back, and another build of the wrong ones.
        assert_eq!(ended(&before, &[there("1:15.0.0-1.el9")], Some("zed")), Ended::AsBefore);
        assert_eq!(ended(&before, &[there("1:14.0.1-1.el9")], Some("zed")), Ended::Other);
        for now in [vec![there("1:14.0.0-1.el9"), there("1:15.0.0-1.el9")], vec![there("99.0.0-1.el9")]] {
            assert!(matches!(ended(&before, &now, Some("yoga")), Ended::Between(_)), "{now:?}");
        }
    }
}
