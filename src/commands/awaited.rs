//! What comes of package work: database and token may still be coming up, since their servers may have been upgraded along with Barbican, and
//! there may be units that were not there before.

use std::time::{Duration, Instant};

use anyhow::Error;

use super::Session;
use crate::db::{self, Access};
use crate::deployment::Site;
use crate::hsm;
use crate::step::Step;
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
    let token = database.has_bound_keks(crate::kek::P11_CRYPTO).unwrap_or(false);
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

/// What the new code brought besides: its units are held with the others, and released with them.
pub(super) fn with_new_units(draft: &mut Vec<Step>, names: &[String], first_half: &[Step]) {
    let held =
        first_half.iter().find_map(|s| if let Step::HoldUnits { units } = s { Some(units.clone()) } else { None });
    let held = held.unwrap_or_default();
    let fresh: Vec<String> = names.iter().filter(|n| !held.contains(n)).cloned().collect();
    for step in draft.iter_mut() {
        if let Step::UnholdUnits { units, .. } = step {
            *units = held.iter().chain(&fresh).cloned().collect();
        }
    }
    if !fresh.is_empty() {
        draft.splice(0..0, [Step::HoldUnits { units: fresh }, Step::StopUnits { units: Vec::new() }]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn released_later(names: &[&str]) -> Step {
        Step::UnholdUnits { units: list(names), reload_at_start: true }
    }

    #[test]
    fn what_package_work_brings_is_held_and_nothing_stays_held() {
        let first = [Step::HoldUnits { units: list(&["a.service", "gone.service"]) }];
        let released = |names: &[&str]| {
            let mut steps = vec![Step::VerifyKeks, released_later(names)];
            with_new_units(&mut steps, &list(names), &first);
            steps
        };
        let both = released_later(&["a.service", "gone.service"]);
        assert_eq!(released(&["a.service"]), [Step::VerifyKeks, both]);
        let steps = released(&["a.service", "new.service"]);
        assert_eq!(steps[0], Step::HoldUnits { units: list(&["new.service"]) });
        assert_eq!(steps[1], Step::StopUnits { units: Vec::new() });
        assert_eq!(steps[3], released_later(&["a.service", "gone.service", "new.service"]));
    }

    #[test]
    fn only_what_passes_is_waited_for() {
        let module = std::path::PathBuf::from("/usr/lib/p11.so");
        let absent = hsm::Error::NoToken { module, wanted: "label".to_owned(), present: Vec::new() };
        let refused = hsm::Error::PinRefused { token: "t".to_owned(), ckr: "CKR_PIN_INCORRECT".to_owned() };
        assert!(passes(&Error::from(absent)) && !passes(&Error::from(refused)));
        let down = db::Error::Unreachable { url: "mysql://h/b".to_owned(), why: "refused".to_owned() };
        assert!(passes(&Error::from(down).context("looking")) && !passes(&anyhow::anyhow!("no such table")));
    }
}
