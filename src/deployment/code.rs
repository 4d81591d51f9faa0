//! Which Barbican is installed: by the package database, or by Python's own metadata below the root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;
use crate::files::Root;
use crate::hook::{self, Installed};
use crate::release::{Catalogue, LookupError, PythonVersion};
use crate::settings::Settings;

/// The installed code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// No Barbican is installed below the root.
    None,
    /// Packages of different versions, or not wholly installed: which code runs cannot be told. With what is there.
    Mixed(String),
    /// This one.
    At {
        /// Its release by id; none if the version is not in the catalogue.
        release: Option<String>,
        /// Why it is not in the catalogue.
        unknown: Option<LookupError>,
        /// The version as written.
        version: String,
        /// How we know: `dpkg`, `rpm`, or the path of the metadata.
        how: String,
        /// The Python it belongs to, where its path says so.
        python: Option<PythonVersion>,
    },
}

impl Code {
    /// Whether it is that of this release.
    #[must_use]
    pub fn is(&self, id: &str) -> bool {
        matches!(self, Self::At { release: Some(now), .. } if now == id)
    }
}

/// Finds the installed Barbican.
///
/// The package database counts before Python's metadata, since it is what the operator upgrades; with `[code] python` set only that interpreter's
/// own directories are looked at.
///
/// # Errors
/// If something there cannot be read. Two different versions in one tree are an error too: which one runs cannot be told.
pub fn installed_code(root: &Root, settings: &Settings) -> Result<Code> {
    let mut found: Vec<(String, String, Option<PythonVersion>)> = Vec::new();
    if settings.python.is_none() {
        for (packaged, how) in [(dpkg(root)?, "dpkg"), (by_rpm(root)?, "rpm")] {
            match packaged {
                Packaged::None => {}
                Packaged::At(version) => found.push((version, how.to_owned(), None)),
                Packaged::Mixed(words) => return Ok(Code::Mixed(words)),
            }
        }
    }
    if found.is_empty() {
        for directory in python_directories(root, settings)? {
            for name in root.list(&directory)? {
                if let Some(version) = metadata_version(root, &directory, &name)? {
                    let how = directory.join(&name).display().to_string();
                    found.push((version, how, python_of(&directory)));
                }
            }
        }
    }
    let Some((version, how, python)) = found.first().cloned() else { return Ok(Code::None) };
    if let Some((other, where_else, _)) = found.iter().find(|(v, ..)| *v != version) {
        anyhow::bail!(
            "two versions of Barbican are installed: {version} ({how}) and {other} ({where_else}); remove one"
        );
    }
    let (release, unknown) = match Catalogue::embedded()?.by_version(&version) {
        Ok(found) => (Some(found.release.id.clone()), None),
        Err(error) => (None, Some(error)),
    };
    Ok(Code::At { release, unknown, version, how, python })
}

/// Barbican's packages that dpkg has, at least in part, or rpm; none where there is neither.
///
/// # Errors
/// If dpkg's status file cannot be read, or rpm cannot be asked.
pub fn installed_packages(root: &Root) -> Result<Vec<Installed>> {
    let status = root.read_text(Path::new("/var/lib/dpkg/status"))?;
    let found = status.as_deref().map(hook::installed).unwrap_or_default();
    if found.is_empty() { rpm(root) } else { Ok(found) }
}

/// Where rpm keeps its database, and what it is called in its three formats.
const RPM_DATABASES: [&str; 6] = [
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages",
    "/var/lib/rpm/Packages.db",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages",
    "/usr/lib/sysimage/rpm/Packages.db",
];

/// Barbican's packages that rpm has; none where there is no database of it, or nobody who could read it.
fn rpm(root: &Root) -> Result<Vec<Installed>> {
    let program = ["/usr/bin/rpm", "/bin/rpm"].into_iter().find(|path| Path::new(path).exists());
    let (Some(program), true) = (program, RPM_DATABASES.iter().any(|path| root.exists(Path::new(path)))) else {
        return Ok(Vec::new());
    };
    let mut argv: Vec<&OsStr> = vec![program.as_ref()];
    if !root.is_host() {
        argv.extend(["--root".as_ref(), root.path().as_os_str()]);
    }
    argv.extend(["-qa", "--qf", hook::QUERY].map(OsStr::new));
    argv.extend(hook::PATTERNS.map(OsStr::new));
    hook::queried(&command::run(&argv, &[("LC_ALL", "C.UTF-8")])?)
}

/// Whether debconf has `barbican/configure_db` as true: then the packages' own script migrates the database, with the services up.
///
/// # Errors
/// If debconf's database cannot be read.
pub(super) fn configures_database(root: &Root) -> Result<bool> {
    let Some(text) = root.read_text(Path::new("/var/cache/debconf/config.dat"))? else { return Ok(false) };
    let asked = |item: &&str| item.lines().any(|line| line == "Name: barbican/configure_db");
    let item = text.split("\n\n").find(asked);
    Ok(item.is_some_and(|item| item.lines().any(|line| line == "Value: true")))
}

/// What rpm leaves beside a file of configuration that both the package and the operator have changed.
const LEFT_BY_RPM: [&str; 3] = ["rpmnew", "rpmsave", "rpmorig"];

/// What rpm has left beside these files.
pub(super) fn left_by_rpm(root: &Root, files: &[&Path]) -> Vec<PathBuf> {
    let beside = |file: &&Path| {
        let file = file.display().to_string();
        LEFT_BY_RPM.map(|suffix| PathBuf::from(format!("{file}.{suffix}")))
    };
    files.iter().flat_map(beside).filter(|path| root.exists(path)).collect()
}

/// What a package manager says of barbican's packages.
enum Packaged {
    /// None is there.
    None,
    /// All of one version, installed or at least unpacked.
    At(String),
    /// Package work is under way, or broke off.
    Mixed(String),
}

/// In the middle of its work rpm has both, what comes and what goes.
fn by_rpm(root: &Root) -> Result<Packaged> {
    let found = rpm(root)?;
    let Some(first) = found.first() else { return Ok(Packaged::None) };
    if found.iter().any(|p| p.version != first.version) {
        let words: Vec<String> = found.iter().map(|p| format!("{} {}", p.package, p.version)).collect();
        return Ok(Packaged::Mixed(words.join(", ")));
    }
    Ok(Packaged::At(first.version.clone()))
}

fn dpkg(root: &Root) -> Result<Packaged> {
    let Some(status) = root.read_text(Path::new("/var/lib/dpkg/status"))? else { return Ok(Packaged::None) };
    let mut found: Vec<(String, String, String)> = Vec::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| paragraph.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
        let package = field("Package:").unwrap_or_default();
        if !matches!(package.as_str(), "python3-barbican" | "python-barbican" | "barbican-common") {
            continue;
        }
        let state = field("Status:").unwrap_or_default();
        if !state.ends_with("not-installed") && !state.ends_with("config-files") {
            found.push((package, state, field("Version:").unwrap_or_default()));
        }
    }
    let Some((_, _, version)) = found.first().cloned() else { return Ok(Packaged::None) };
    let whole = |state: &str| {
        state.starts_with("install ok") && (state.ends_with(" installed") || state.ends_with(" unpacked"))
    };
    let words = || found.iter().map(|(p, s, v)| format!("{p} {v} ({s})")).collect::<Vec<_>>().join(", ");
    if found.iter().any(|(_, s, v)| *v != version || !whole(s)) {
        return Ok(Packaged::Mixed(words()));
    }
    Ok(Packaged::At(version))
}

/// Directories that may hold Python packages.
fn python_directories(root: &Root, settings: &Settings) -> Result<Vec<PathBuf>> {
    let prefixes: Vec<PathBuf> = match &settings.python {
        // /opt/barbican/bin/python -> /opt/barbican
        Some(python) => python.parent().and_then(Path::parent).map(Path::to_owned).into_iter().collect(),
        None => vec![PathBuf::from("/usr/local"), PathBuf::from("/usr")],
    };
    let mut directories = Vec::new();
    for prefix in prefixes {
        for lib in ["lib", "lib64"] {
            let lib = prefix.join(lib);
            for name in root.list(&lib)?.iter().filter(|n| n.starts_with("python")) {
                directories.push(lib.join(name).join("site-packages"));
                directories.push(lib.join(name).join("dist-packages"));
            }
        }
    }
    Ok(directories)
}

/// The version in `barbican-15.0.1.dist-info`, `barbican-2.0.0-py2.7.egg-info` (directory or file).
fn metadata_version(root: &Root, directory: &Path, name: &str) -> Result<Option<String>> {
    let Some(rest) = name.strip_prefix("barbican-") else { return Ok(None) };
    let file = match rest.rsplit_once('.') {
        Some((_, "dist-info")) => directory.join(name).join("METADATA"),
        Some((_, "egg-info")) => {
            let inside = directory.join(name).join("PKG-INFO");
            if root.exists(&inside) { inside } else { directory.join(name) }
        }
        _ => return Ok(None),
    };
    let text = root.read_text(&file)?;
    let text = text.with_context(|| format!("{} is missing: a Barbican half removed", root.shown(&file).display()))?;
    let version = text.lines().take_while(|l| !l.is_empty()).find_map(|l| l.strip_prefix("Version:"));
    // A Barbican of no known version must not pass for none.
    let version = version.with_context(|| format!("{} names no version: install that package anew", file.display()))?;
    Ok(Some(version.trim().to_owned()))
}

/// The Python that a directory such as `/usr/lib/python3.11/site-packages` belongs to.
fn python_of(directory: &Path) -> Option<PythonVersion> {
    let name = directory.parent()?.file_name()?.to_str()?;
    let (major, minor) = name.strip_prefix("python")?.split_once('.')?;
    Some(PythonVersion(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn put(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn look(dir: &Path, settings: &Settings) -> Result<Code> {
        installed_code(&Root::open(dir).unwrap(), settings)
    }

    #[test]
    fn what_debconf_was_told_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(!configures_database(&root).unwrap());
        for (value, wanted) in [("true", true), ("false", false)] {
            put(
                dir.path(),
                "var/cache/debconf/config.dat",
                &format!(
                    "Name: barbican/auth-host\nTemplate: barbican/auth-host\nOwners: barbican-common\n\n\
                     Name: barbican/configure_db\nTemplate: barbican/configure_db\nValue: {value}\n\
                     Owners: barbican-common\nFlags: seen\n\nName: nova/configure_db\nValue: true\n\n"
                ),
            );
            assert_eq!(configures_database(&root).unwrap(), wanted);
        }
    }

    #[test]
    fn what_rpm_leaves_beside_a_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["barbican.conf", "barbican.conf.rpmnew", "paste.ini.rpmsave", "paste.ini.rpmsave.1", "x.rpmorig"] {
            put(dir.path(), &format!("etc/barbican/{name}"), "");
        }
        let root = Root::open(dir.path()).unwrap();
        let found = left_by_rpm(&root, &["/etc/barbican/barbican.conf", "/etc/barbican/paste.ini"].map(Path::new));
        assert_eq!(found, ["/etc/barbican/barbican.conf.rpmnew", "/etc/barbican/paste.ini.rpmsave"].map(PathBuf::from));
    }

    #[test]
    fn dpkg_counts_before_metadata() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(dir.path(), &Settings::default()).unwrap(), Code::None);
        put(
            dir.path(),
            "usr/lib/python3/dist-packages/barbican-15.0.1.dist-info/METADATA",
            "Name: barbican\nVersion: 15.0.1\n\nbody\nVersion: 9\n",
        );
        let Code::At { release, how, .. } = look(dir.path(), &Settings::default()).unwrap() else { panic!() };
        assert_eq!(release.as_deref(), Some("zed"));
        assert!(how.ends_with("barbican-15.0.1.dist-info"));
        put(
            dir.path(),
            "var/lib/dpkg/status",
            "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: python3-barbican\nStatus: install ok unpacked\nVersion: 1:16.0.1-2\n",
        );
        let Code::At { release, version, .. } = look(dir.path(), &Settings::default()).unwrap() else { panic!() };
        assert_eq!((release.as_deref(), version.as_str()), (Some("2023.1"), "1:16.0.1-2"));
    }

    #[test]
    fn removed_packages_do_not_count_and_two_versions_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        put(
            dir.path(),
            "var/lib/dpkg/status",
            "Package: barbican-common\nStatus: deinstall ok config-files\nVersion: 1:15.0.1-2\n",
        );
        assert_eq!(look(dir.path(), &Settings::default()).unwrap(), Code::None);
        put(dir.path(), "usr/lib/python3.9/site-packages/barbican-12.0.0-py3.9.egg-info", "Version: 12.0.0\n");
        let settings = Settings { python: Some("/opt/b/bin/python".into()), ..Settings::default() };
        assert_eq!(look(dir.path(), &settings).unwrap(), Code::None);
        put(dir.path(), "opt/b/lib/python3.9/site-packages/barbican-99.0.0.dist-info/METADATA", "Version: 99.0.0\n");
        let Code::At { release, unknown, python, .. } = look(dir.path(), &settings).unwrap() else { panic!() };
        assert_eq!((release, python), (None, Some(PythonVersion(3, 9))));
        assert!(unknown.unwrap().to_string().contains("newer keymgr-upgrade"));
        put(
            dir.path(),
            "usr/local/lib/python3.9/site-packages/barbican-13.0.0.dist-info/METADATA",
            "Version: 13.0.0\n",
        );
        assert!(look(dir.path(), &Settings::default()).unwrap_err().to_string().contains("two versions"));
    }
}
