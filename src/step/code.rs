//! The step that awaits the code: it is there, or a command or apt brings it, or it is waited for.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{Applied, Context, Observed, Undo};
use crate::command;
use crate::deployment::{Code, installed_code};
use crate::files::Root;
use crate::release::Catalogue;
use crate::units;

/// Data and files are back as they were; the code of this release has to be installed again before services may start.
#[derive(Debug, thiserror::Error)]
#[error("data and files are back, the code is not: install {release} again; services stay held until then")]
pub struct CodeAwaited {
    /// The release, by its id.
    pub release: String,
}

pub(super) fn observe_code(context: &Context<'_>, release: &str) -> Result<Observed> {
    // A command of ours that lived on when we were killed. Half way through it, code may look whole.
    context.site.await_code_command()?;
    Ok(match installed_code(context.root(), context.settings())? {
        Code::At { release: Some(now), version, .. } if now == release => Observed::After(version),
        Code::At { .. } | Code::None | Code::Mixed(_) => Observed::Before,
    })
}

/// Going back needs the code that is there now, which need not be of the release that the data is at. Where the new code came before us, it needs
/// that of the release of the data: nothing else is known.
pub(super) fn prepare(context: &Context<'_>, release: &str) -> Result<Undo> {
    let old = match installed_code(context.root(), context.settings())? {
        Code::At { release: Some(now), .. } if now != release => now,
        Code::At { .. } | Code::None | Code::Mixed(_) => context.from.clone(),
    };
    Ok(Undo::Code { release: old })
}

/// Installs the code by the configured command or by apt, or says that it is awaited.
pub(super) fn install(context: &Context<'_>, release: &str) -> Result<Applied> {
    let waiting = Applied::Waiting(release.to_owned());
    if context.code_by_others {
        return Ok(waiting);
    }
    let what = if let Some(line) = &context.settings().upgrade_command {
        let what = "[code] upgrade_command";
        run_line(context, line, release).context(what)?;
        what
    } else {
        if !context.site.has_systemd() {
            return Ok(waiting);
        }
        let Offer::All(packages) = offered(context.root(), release)? else { return Ok(waiting) };
        let what = "apt-get";
        apt(context, &packages).context(what)?;
        what
    };
    if !matches!(observe_code(context, release)?, Observed::After(_)) {
        bail!("{what} ended well, but the code is not that of {release}");
    }
    Ok(Applied::Done)
}

/// While the command works, scripts of packages pass over held units.
fn work(context: &Context<'_>, argv: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    units::package_work_begins(context.root())?;
    let result = context.site.run_code_command(context.host, argv, environment);
    units::package_work_ends(context.root())?;
    result
}

fn run_line(context: &Context<'_>, line: &str, to: &str) -> Result<()> {
    let environment = [("KEYMGR_UPGRADE_FROM", context.from.as_str()), ("KEYMGR_UPGRADE_TO", to)];
    work(context, &["/bin/sh", "-c", line], &environment)
}

/// Whether nothing has to be done for the code of `old` to be what serves: it is there, or none is, which can serve nothing wrongly.
pub(super) fn is_back(context: &Context<'_>, old: &str) -> Result<bool> {
    context.site.await_code_command()?;
    Ok(match installed_code(context.root(), context.settings())? {
        Code::None => true,
        Code::At { release, .. } => release.as_deref() == Some(old),
        Code::Mixed(_) => false,
    })
}

/// The old code must be there before old data is served again.
pub(super) fn revert_code(context: &Context<'_>, old: &str) -> Result<bool> {
    let Some(line) = context.settings().rollback_command.as_ref().filter(|_| !context.code_by_others) else {
        return Err(CodeAwaited { release: old.to_owned() }.into());
    };
    run_line(context, line, old).context("[code] rollback_command")?;
    match installed_code(context.root(), context.settings())? {
        Code::At { release: Some(now), .. } if now == old => Ok(true),
        _ => bail!("[code] rollback_command ended well, but the code is not that of {old}; services stay held"),
    }
}

/// What apt has of a release for the packages of Barbican that are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Barbican does not come from dpkg.
    NotPackaged,
    /// Not all of them: these are missing.
    Missing(Vec<String>),
    /// All of them, with their versions.
    All(Vec<(String, String)>),
}

/// What apt has of `release` (by its id) for this host. Read only; lists of packages are not fetched.
///
/// # Errors
/// If dpkg's state cannot be read, or apt cannot be asked.
pub fn offered(root: &Root, release: &str) -> Result<Offer> {
    let packages = packages(root)?;
    if packages.is_empty() {
        return Ok(Offer::NotPackaged);
    }
    let mut argv = vec!["/usr/bin/apt-cache", "policy"];
    argv.extend(packages.iter().map(String::as_str));
    let said = command::run(&argv, &[("LC_ALL", "C.UTF-8")])?;
    let catalogue = Catalogue::embedded()?;
    let fits = |version: &str| catalogue.by_version(version).is_ok_and(|found| found.release.id == release);
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    for package in packages {
        match versions(&said, &package).into_iter().find(|version| fits(version)) {
            Some(version) => all.push((package, version)),
            None => missing.push(package),
        }
    }
    Ok(if missing.is_empty() { Offer::All(all) } else { Offer::Missing(missing) })
}

/// The installed packages that are made from Barbican's source.
fn packages(root: &Root) -> Result<Vec<String>> {
    let Some(status) = root.read_text(Path::new("/var/lib/dpkg/status"))? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| paragraph.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let (package, state) = (field("Package:").unwrap_or_default(), field("Status:").unwrap_or_default());
        // The source's own version may stand behind its name; without the field it has the package's name.
        let source = field("Source:").and_then(|s| s.split_whitespace().next()).unwrap_or(package);
        if source == "barbican" && !state.ends_with("not-installed") && !state.ends_with("config-files") {
            found.push(package.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// The versions of `package` that `apt-cache policy` lists: first the one that apt would take, then the others, newest first.
fn versions(said: &str, package: &str) -> Vec<String> {
    let mut versions = Vec::new();
    let own = said.lines().skip_while(|line| line.strip_suffix(':') != Some(package)).skip(1);
    for line in own.take_while(|line| line.starts_with(' ')) {
        if let Some(candidate) = line.trim().strip_prefix("Candidate:") {
            versions.push(candidate.trim().to_owned());
        } else if let Some(row) = line.strip_prefix("     ").or_else(|| line.strip_prefix(" *** "))
            // Where a version comes from stands below it, deeper.
            && !row.starts_with(' ')
        {
            versions.extend(row.split_whitespace().next().map(str::to_owned));
        }
    }
    versions
}

/// What apt is told to bring these very versions, and nothing newly: files that the operator changed stay.
fn asked(packages: &[(String, String)], more: &[&str]) -> Vec<String> {
    let mut argv: Vec<String> = ["/usr/bin/apt-get", "install", "-y", "--only-upgrade"].map(str::to_owned).to_vec();
    for option in ["Dpkg::Options::=--force-confdef", "Dpkg::Options::=--force-confold", "DPkg::Lock::Timeout=300"] {
        argv.extend(["-o", option].map(str::to_owned));
    }
    argv.extend(more.iter().map(|option| (*option).to_owned()));
    argv.extend(packages.iter().map(|(name, version)| format!("{name}={version}")));
    argv
}

const ENVIRONMENT: [(&str, &str); 3] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("LC_ALL", "C.UTF-8"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
];

fn apt(context: &Context<'_>, packages: &[(String, String)]) -> Result<()> {
    let argv = asked(packages, &[]);
    work(context, &argv.iter().map(String::as_str).collect::<Vec<_>>(), &ENVIRONMENT)
}

/// Has apt fetch into its cache what the upgrade to `release` (by its id) will install, with what that depends on; nothing is unpacked. Returns
/// the packages of Barbican with their versions, none where apt does not have all of them.
///
/// # Errors
/// If dpkg's state cannot be read, or apt fails.
pub fn fetched(root: &Root, release: &str) -> Result<Vec<(String, String)>> {
    let Offer::All(packages) = offered(root, release)? else { return Ok(Vec::new()) };
    command::run(&asked(&packages, &["--download-only"]), &ENVIRONMENT)?;
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
barbican-api:
  Installed: 1:15.0.1-2
  Candidate: 1:16.0.1-1
  Version table:
     1:20.0.0-3 100
        100 file:/opt/repo ./ Packages
     1:16.0.1-1 500
        500 file:/opt/repo ./ Packages
 *** 1:15.0.1-2 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
barbican-common:
  Installed: 1:15.0.1-2
  Candidate: (none)
  Version table:
";

    #[test]
    fn what_apt_would_take_comes_first() {
        assert_eq!(versions(SAID, "barbican-api"), ["1:16.0.1-1", "1:20.0.0-3", "1:16.0.1-1", "1:15.0.1-2"]);
        assert_eq!(versions(SAID, "barbican-common"), ["(none)"]);
        assert!(versions(SAID, "barbican").is_empty());
    }

    #[test]
    fn packages_are_told_by_their_source() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(packages(&root).unwrap().is_empty());
        root.make_directory(Path::new("/var/lib/dpkg"), 0o755).unwrap();
        let text = "Package: python3-barbican\nStatus: install ok installed\nSource: barbican (1:15.0.1-2)\n\n\
                    Package: barbican-worker\nStatus: deinstall ok config-files\nSource: barbican\n\n\
                    Package: barbican-api\nStatus: install ok installed\nSource: barbican\n\n\
                    Package: python3-barbicanclient\nStatus: install ok installed\nSource: python-barbicanclient\n";
        root.write(Path::new("/var/lib/dpkg/status"), text.as_bytes(), crate::journal::private()).unwrap();
        assert_eq!(packages(&root).unwrap(), ["barbican-api", "python3-barbican"]);
    }
}
