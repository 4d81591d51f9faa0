//! What dpkg is called with, and what its status file says of Barbican's packages.

use std::collections::BTreeSet;

use super::{Change, is_barbican};
use crate::release::Catalogue;

/// What a `dpkg` that unpacks was called with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archives {
    /// Words that may be archives: files, or directories with `recursive`.
    pub paths: Vec<String>,
    /// `-R`: directories are searched for archives.
    pub recursive: bool,
    /// The packages go into another tree than that of this host.
    pub elsewhere: bool,
}

/// Reads the argument vector of a `dpkg` (dpkg(1)). Values of options that stand apart are taken for archives too, which they are not: who looks
/// will find no archive there.
#[must_use]
pub fn archives(argv: &[String]) -> Archives {
    let mut found = Archives::default();
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => {
                found.paths.extend(words.by_ref().cloned());
            }
            "--recursive" => found.recursive = true,
            long if long.starts_with("--") => {
                let (name, value) = long.split_once('=').unwrap_or((long, ""));
                if matches!(name, "--root" | "--instdir" | "--admindir") {
                    // The value may stand apart.
                    found.elsewhere |= value != "/" && value != "/var/lib/dpkg";
                }
            }
            short if short.starts_with('-') && short.len() > 1 => found.recursive |= short.contains('R'),
            path => found.paths.push(path.to_owned()),
        }
    }
    found
}

/// Reads what `dpkg-deb --field ARCHIVE Package Version` prints: the package and its version.
#[must_use]
pub fn of_archive(fields: &str) -> Option<(String, String)> {
    let field = |name: &str| fields.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
    Some((field("Package:")?, field("Version:")?))
}

/// One of Barbican's packages, as the package manager has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// `installed`, `unpacked`, `half-configured`...: the last word of its status with dpkg. With rpm, `installed`.
    pub state: String,
}

impl Installed {
    /// The release that its version belongs to, by its id; none if it is not known.
    #[must_use]
    pub fn release(&self) -> Option<&'static str> {
        release_of(&self.version)
    }
}

/// The release of a package version, by its id.
pub(super) fn release_of(version: &str) -> Option<&'static str> {
    Some(Catalogue::embedded().ok()?.by_version(version).ok()?.release.id.as_str())
}

/// Barbican's packages in the text of `/var/lib/dpkg/status` that are there, at least in part.
#[must_use]
pub fn installed(status: &str) -> Vec<Installed> {
    let mut found = Vec::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| paragraph.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let Some(package) = field("Package:").filter(|p| is_barbican(p)) else { continue };
        let state = field("Status:").and_then(|s| s.rsplit(' ').next()).unwrap_or_default();
        if !matches!(state, "not-installed" | "config-files") {
            let version = field("Version:").unwrap_or_default();
            found.push(Installed { package: package.into(), version: version.into(), state: state.into() });
        }
    }
    found
}

/// How far package work has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every package is as it was before: nothing was unpacked.
    Untouched,
    /// Every package of Barbican is installed, and of the awaited release.
    There,
    /// Neither; with what is in between.
    Between(String),
}

/// Compares what is there now with what was to be done.
#[must_use]
pub fn standing(changes: &[Change], now: &[Installed], awaited: &str) -> Standing {
    if !now.is_empty() && now.iter().all(|p| p.state == "installed" && p.release() == Some(awaited)) {
        return Standing::There;
    }
    let as_before = |change: &Change| {
        let package = now.iter().find(|p| p.package == change.package);
        package.map(|p| (p.version.as_str(), p.state.as_str())) == change.old.as_deref().map(|v| (v, "installed"))
    };
    if changes.iter().all(as_before) {
        return Standing::Untouched;
    }
    let off = now.iter().filter(|p| p.state != "installed" || p.release() != Some(awaited));
    let words: BTreeSet<String> = off.map(|p| format!("{} {} ({})", p.package, p.version, p.state)).collect();
    Standing::Between(words.into_iter().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Archives {
        archives(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn archives_are_what_is_no_option() {
        for (line, paths, recursive, elsewhere) in [
            ("dpkg -i a.deb ./b.deb", vec!["a.deb", "./b.deb"], false, false),
            ("dpkg --force-confold --install a.deb", vec!["a.deb"], false, false),
            ("dpkg --unpack -- -odd.deb", vec!["-odd.deb"], false, false),
            ("dpkg -iR /srv/debs", vec!["/srv/debs"], true, false),
            ("dpkg -i --recursive /srv/debs", vec!["/srv/debs"], true, false),
            ("dpkg --root=/mnt -i a.deb", vec!["a.deb"], false, true),
            ("dpkg --admindir /mnt/var -i a.deb", vec!["/mnt/var", "a.deb"], false, true),
            ("dpkg --root=/ -i a.deb", vec!["a.deb"], false, false),
        ] {
            let paths = paths.into_iter().map(str::to_owned).collect();
            assert_eq!(argv(line), Archives { paths, recursive, elsewhere }, "{line}");
        }
    }

    #[test]
    fn the_fields_of_an_archive_are_read() {
        let fields = "Package: barbican-api\nVersion: 1:16.0.1-1\n";
        assert_eq!(of_archive(fields), Some(("barbican-api".into(), "1:16.0.1-1".into())));
        assert_eq!(of_archive("Package: x\n"), None);
    }

    fn status(entries: &[(&str, &str, &str)]) -> Vec<Installed> {
        let paragraph = |(package, state, version): &(&str, &str, &str)| {
            format!(
                "Package: {package}\nStatus: {state}\nPriority: optional\nVersion: {version}\nDescription: x\n Version: 9"
            )
        };
        installed(&entries.iter().map(paragraph).collect::<Vec<_>>().join("\n\n"))
    }

    #[test]
    fn only_what_is_there_counts() {
        let now = status(&[
            ("barbican-api", "install ok installed", "1:15.0.1-2"),
            ("barbican-worker", "deinstall ok config-files", "1:15.0.1-2"),
            ("python3-barbicanclient", "install ok installed", "5.4.0-2"),
            ("barbican-common", "install reinstreq half-installed", "1:16.0.1-1"),
        ]);
        let names: Vec<_> = now.iter().map(|p| (p.package.as_str(), p.state.as_str())).collect();
        assert_eq!(names, [("barbican-api", "installed"), ("barbican-common", "half-installed")]);
        assert_eq!(now[0].release(), Some("zed"));
    }

    #[test]
    fn package_work_is_untouched_there_or_between() {
        let change = |package: &str, old: Option<&str>| Change {
            package: package.into(),
            old: old.map(str::to_owned),
            new: Some("1:16.0.1-1".into()),
        };
        let changes = [change("barbican-common", Some("1:15.0.1-2")), change("barbican-api", Some("1:15.0.1-2"))];
        let both = |common: (&str, &str), api: (&str, &str)| {
            status(&[
                ("barbican-common", &format!("install ok {}", common.1), common.0),
                ("barbican-api", &format!("install ok {}", api.1), api.0),
            ])
        };
        let (old, new) = ("1:15.0.1-2", "1:16.0.1-1");
        let stands = |now: &[Installed]| standing(&changes, now, "2023.1");
        assert_eq!(stands(&both((old, "installed"), (old, "installed"))), Standing::Untouched);
        assert_eq!(stands(&both((new, "installed"), (new, "installed"))), Standing::There);
        for now in [
            both((new, "unpacked"), (old, "installed")),
            both((new, "half-configured"), (new, "unpacked")),
            both((old, "unpacked"), (old, "installed")),
        ] {
            assert!(matches!(stands(&now), Standing::Between(_)), "{now:?}");
        }
        let Standing::Between(words) = stands(&both((new, "half-configured"), (new, "installed"))) else { panic!() };
        assert_eq!(words, "barbican-common 1:16.0.1-1 (half-configured)");
        // What was to be installed anew, and is not, is as before.
        assert_eq!(standing(&[change("barbican-retry", None)], &[], "2023.1"), Standing::Untouched);
    }
}
