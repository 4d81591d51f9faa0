//! What hooks leave for one another: who works on packages, and a hop that an image made.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Change, Manager};
use crate::journal::STATE;
use crate::process::Process;

/// The format of both records.
pub const FORMAT: u32 = 1;

/// How package work came to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Begun {
    /// The gate opened a run for it.
    Opened,
    /// A run waited for it already.
    Adopted,
    /// It stays within the release; what is left to do is to be done afterwards.
    Passed,
    /// No gate was asked: the code was seen when it was there.
    Bypassed,
    /// No gate could refuse it, or nobody said where it goes: services were held before it, and no run is open for it.
    Held,
}

/// The package work that is under way, or was when its process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// Format of this record.
    pub format: u32,
    /// Who works.
    #[serde(default)]
    pub manager: Manager,
    /// The process that does it: apt, dpkg, dnf, rpm...
    pub process: Process,
    /// It held the lock of packages when this was written.
    pub locked: bool,
    /// What it is called with, for people.
    pub command: String,
    /// How it came to be ours.
    pub begun: Begun,
    /// The run that it is for; none as long as none is open.
    pub run: Option<String>,
    /// What is to happen to Barbican's packages.
    pub changes: Vec<Change>,
}

/// Where it is kept.
#[must_use]
pub fn packages_path() -> PathBuf {
    Path::new(STATE).join("packages.json")
}

/// A change of release without the rest of an upgrade: in an image, where nothing runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// Format of this record.
    pub format: u32,
    /// When, in seconds since the epoch.
    pub at: u64,
    /// The release before the first hop that was not followed by an upgrade, by its id.
    pub from: String,
    /// The release of the code since, by its id.
    pub to: String,
}

/// Where it is kept.
#[must_use]
pub fn hop_path() -> PathBuf {
    Path::new(STATE).join("hop.json")
}
