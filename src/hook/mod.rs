//! What apt and dpkg hand to a hook, and what is to be done about it. Pure: nothing is looked at or touched here.
//!
//! Facts about apt's and dpkg's interfaces were taken from what both really hand over (Debian 12: apt 2.6, dpkg 1.21), and are the fixtures of the
//! tests.

mod apt;
mod decide;
mod dpkg;
mod record;

pub use apt::{Given, parse};
pub use decide::{Awaits, OpenRun, Verdict, decide};
pub use dpkg::{Archives, Installed, Standing, archives, installed, of_archive, standing};
pub use record::{Begun, FORMAT, Hop, Packages, hop_path, packages_path};

use serde::{Deserialize, Serialize};

/// The packages of Debian and Ubuntu that hold Barbican's code or start its services. All are built from one source, and have one version.
pub const PACKAGES: [&str; 8] = [
    "barbican",
    "barbican-api",
    "barbican-common",
    "barbican-keystone-listener",
    "barbican-retry",
    "barbican-worker",
    "python-barbican",
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
