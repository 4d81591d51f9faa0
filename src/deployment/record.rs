//! Our own record of the release that the data is at, and what follows from a release alone.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::files::Root;
use crate::ini::Dialect;
use crate::journal::STATE;
use crate::release::Catalogue;

/// Our own record of the release that the data is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Format of the record.
    pub format: u32,
    /// The release, by its id.
    pub release: String,
    /// The run that brought the data there.
    pub run: String,
}

/// Where the record is kept.
#[must_use]
pub fn record_path() -> PathBuf {
    Path::new(STATE).join("deployment.json")
}

/// The release that the data is recorded to be at; `None` if nothing was recorded.
///
/// # Errors
/// If the record cannot be read: that is never taken for none.
pub fn recorded(root: &Root) -> Result<Option<Recorded>> {
    if !root.exists(&record_path()) {
        return Ok(None);
    }
    let damaged = "the record of the release is damaged; remove it, and say the release with --from";
    root.read_json(&record_path()).map(Some).context(damaged)
}

/// The reader of the paste file under a release: Barbican left Python 2 with Ussuri.
///
/// # Errors
/// If the release is not in the catalogue.
pub fn paste_dialect(release: &str) -> Result<Dialect> {
    let catalogue = Catalogue::embedded()?;
    let of = |id: &str| catalogue.by_id(id).with_context(|| format!("release {id} is not known"));
    Ok(if of(release)?.is_before(of("ussuri")?) { Dialect::Paste2 } else { Dialect::Paste3 })
}
