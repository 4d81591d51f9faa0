//! The mask of units while packages are worked on: a package's script that would start one is told so and goes on, where the hold alone would
//! fail it. Only until the next boot, and only an aid: what keeps the services down is the hold.
//!
//! A masked unit has neither user nor environment for systemd, so the mask goes before anything is asked about it again.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Applied, Context};
use crate::deployment::{Host, Site};
use crate::journal::private;

/// The units that the run masked, in its directory, for as long as they may be.
const MASKED: &str = "masked.json";

/// Where systemd keeps masks that end with the next boot.
const RUNTIME: &str = "/run/systemd/system";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Masked {
    format: u32,
    units: Vec<String>,
}

/// Does `work` on the code with the units masked. They stay masked where the code is still awaited.
pub(super) fn during<T>(
    context: &mut Context<'_>,
    work: impl FnOnce(&Context<'_>) -> Result<T>,
    waits: impl FnOnce(&Result<T>) -> bool,
) -> Result<T> {
    mask(context)?;
    let result = work(context);
    if !waits(&result) {
        unmask(context.host, context.site, &context.directory)?;
    }
    result
}

/// Whether the code is to be installed by somebody else.
pub(super) fn waits(applied: &Result<Applied>) -> bool {
    matches!(applied, Ok(Applied::Waiting(_)))
}

fn mask(context: &Context<'_>) -> Result<()> {
    if !context.site.has_systemd() {
        return Ok(());
    }
    let root = context.root();
    let file = context.file(MASKED);
    let units = if root.exists(&file) {
        root.read_json::<Masked>(&file)?.units
    } else {
        // What somebody else masked the same way stays masked.
        let free = |unit: &String| root.read_link(&Path::new(RUNTIME).join(unit)).is_none();
        let units: Vec<String> = context.host.unit_names()?.into_iter().filter(free).collect();
        // On disk first: what is masked and not listed would stay so until the next boot.
        root.write(&file, &serde_json::to_vec_pretty(&Masked { format: 1, units: units.clone() })?, private())?;
        units
    };
    if let Err(error) = context.site.mask(&units) {
        log::warn!("units are held, but not masked: {error:#}");
    }
    Ok(())
}

/// Takes the masks of the run in `directory` off; tells whether it had made any.
///
/// # Errors
/// If systemd does not do it.
pub fn unmask(host: &Host, site: &Site, directory: &Path) -> Result<bool> {
    let file = directory.join(MASKED);
    if !host.root.exists(&file) {
        return Ok(false);
    }
    site.unmask(&host.root.read_json::<Masked>(&file)?.units)?;
    host.root.remove(&file)?;
    Ok(true)
}
