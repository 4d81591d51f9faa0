//! The packages of a release, fetched while everything still serves.

use serde_json::json;

use super::{Outcome, Session, release};
use crate::deployment::installed_code;
use crate::error::{Exit, Failure};
use crate::release::Release;
use crate::step::fetched;

/// `upgrade --download-only`.
pub(super) fn download_only(session: &mut Session, to: &str) -> Outcome {
    let to = release(to)?;
    let packages = fetch(session, to)?;
    session.ui.line(if packages.is_empty() {
        format!("Nothing to fetch: the code of {} is there, or it is not apt that brings it.", to.name)
    } else {
        format!("Fetched: {}", packages.join(" "))
    });
    session.ui.set("fetched", json!(packages));
    session.ui.set("changed", false);
    Ok((Exit::Done, format!("upgrade --to {}", to.id)))
}

/// Has apt fetch the packages that the run will ask it for; returns them with their versions. None where something else brings the code, where apt
/// does not have all of them, and where they are installed.
///
/// # Errors
/// If apt fails.
pub(super) fn fetch(session: &Session, to: &Release) -> Result<Vec<String>, Failure> {
    let host = &session.host;
    let others = session.code_by_others || host.settings.upgrade_command.is_some() || !host.root.is_host();
    if others || installed_code(&host.root, &host.settings)?.is(&to.id) {
        return Ok(Vec::new());
    }
    let packages = fetched(&host.root, &to.id).map_err(|error| {
        Failure::from(error.context(format!("fetching the packages of {}", to.name)))
            .hint("nothing was stopped, nothing was changed; mend what apt says, then upgrade again")
    })?;
    Ok(packages.into_iter().map(|(name, version)| format!("{name}={version}")).collect())
}
