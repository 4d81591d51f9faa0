//! After package work database and token may still be coming up: their servers may have been upgraded along with Barbican.

use std::time::{Duration, Instant};

use anyhow::Error;

use super::Session;
use crate::db::{self, Access};
use crate::deployment::Site;
use crate::hsm;
use crate::time;

/// How long is waited before it is tried again. Nothing tells when a server has come up.
const AGAIN: Duration = Duration::from_secs(1);

/// Waits for database and token, at most `[database] wait`, as long as what fails is of the kind that passes. Anything else is left for those
/// who will meet it; a PIN that is refused is never tried again.
///
/// # Errors
/// If one of them is not there when that time is over.
pub(super) fn wait(session: &mut Session, site: &mut Site) -> Result<(), Error> {
    let (began, limit) = (Instant::now(), session.host.settings.wait);
    let mut said = false;
    loop {
        let Err(error) = reach(site) else { return Ok(()) };
        if !passes(&error) || began.elapsed() >= limit {
            return Err(error);
        }
        log::info!("not there yet: {error:#}");
        if !said {
            said = true;
            session.ui.line(format!("Waiting for database and token, at most {} s.", limit.as_secs()));
        }
        time::pass(AGAIN);
    }
}

fn reach(site: &mut Site) -> Result<(), Error> {
    if !site.has_database() {
        return Ok(());
    }
    let database = site.open(Access::ReadOnly)?;
    let token = database.kek_rows().is_ok_and(|rows| rows.iter().any(|k| k.plugin_name == crate::kek::P11_CRYPTO));
    drop(database);
    if token { site.reach_token() } else { Ok(()) }
}

/// Whether an error is one that a server which is starting gives.
fn passes(error: &Error) -> bool {
    error.chain().any(|cause| {
        let database = matches!(
            cause.downcast_ref(),
            Some(db::Error::Unreachable { .. } | db::Error::ConnectionLost { .. } | db::Error::ReadOnlyServer { .. })
        );
        let token = matches!(
            cause.downcast_ref(),
            Some(hsm::Error::NoToken { .. } | hsm::Error::NotLoaded { .. } | hsm::Error::TimedOut { .. })
        );
        database || token
    })
}
