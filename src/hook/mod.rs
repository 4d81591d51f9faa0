//! What apt, dpkg, dnf and rpm hand to a hook, and what is to be done about it. Pure: nothing is looked at or touched here.
//!
//! Facts about their interfaces were taken from what they really hand over (Debian 12: apt 2.6, dpkg 1.21, rpm 4.18, dnf 4.14), and are the
//! fixtures of the tests.

mod apt;
mod decide;
mod dpkg;
mod record;
mod rpm;

pub use apt::{Given, parse};
pub use decide::{Awaits, OpenRun, Verdict, decide};
pub use dpkg::{Archives, Installed, Standing, archives, installed, of_archive, standing};
pub use record::{Begun, FORMAT, Hop, Packages, hop_path, packages_path};
pub use rpm::{Called, Ended, PATTERNS, QUERY, Told, called, ended, queried, resolved, told_path};

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Who works on packages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// apt and its like, or dpkg alone.
    #[default]
    Dpkg,
    /// dnf and its like, or rpm alone.
    Rpm,
}

impl Manager {
    /// The lock that is held while packages are worked on: apt and its like hold dpkg's from before their first hook until after their last one,
    /// dpkg(1) takes it where nobody does; rpm's is held for as long as a transaction runs.
    #[must_use]
    pub fn lock(self) -> &'static Path {
        Path::new(match self {
            Self::Dpkg => "/var/lib/dpkg/lock-frontend",
            // Where the database is elsewhere since Fedora 36, this leads there.
            Self::Rpm => "/var/lib/rpm/.rpm.lock",
        })
    }

    /// How to go on by hand with package work that stands still half way.
    #[must_use]
    pub fn finish(self) -> &'static str {
        match self {
            Self::Dpkg => "apt-get -f install",
            Self::Rpm => "dnf distro-sync '*barbican*'",
        }
    }

    /// How to upgrade everything else meanwhile.
    #[must_use]
    pub fn leave_out(self, packages: &[Installed]) -> Option<String> {
        let names: Vec<&str> = packages.iter().map(|p| p.package.as_str()).collect();
        match self {
            _ if names.is_empty() => None,
            Self::Dpkg => Some(format!("apt-mark hold {}", names.join(" "))),
            Self::Rpm => Some("dnf upgrade --exclude='*barbican,*barbican-*'".to_owned()),
        }
    }
}

/// The packages that hold Barbican's code or start its services: of Debian and Ubuntu, of RDO, of SUSE. All of a distribution's are built from one
/// source, and have one version.
pub const PACKAGES: [&str; 16] = [
    "barbican",
    "barbican-api",
    "barbican-common",
    "barbican-keystone-listener",
    "barbican-retry",
    "barbican-worker",
    "openstack-barbican",
    "openstack-barbican-api",
    "openstack-barbican-common",
    "openstack-barbican-keystone-listener",
    "openstack-barbican-main",
    "openstack-barbican-retry",
    "openstack-barbican-worker",
    "python-barbican",
    "python2-barbican",
    "python3-barbican",
];

/// Whether a package is Barbican's.
#[must_use]
pub fn is_barbican(package: &str) -> bool {
    PACKAGES.contains(&package)
}

/// What is about to happen to a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its name.
    pub package: String,
    /// The version that is installed; none if it is not.
    pub old: Option<String>,
    /// The version that is to be installed; none if it is to be removed.
    pub new: Option<String>,
}
