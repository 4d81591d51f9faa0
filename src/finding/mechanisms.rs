//! Which mechanism p11 secrets are under, and which one the service would read them by.

use super::{Case, Finding};
use crate::deployment::read_mechanism;
use crate::kek::Survey;

/// One service reads p11 secrets under one mechanism only, the configured one (7.0.0 and later).
pub(super) fn judge(case: &Case<'_>, survey: &Survey, all: &mut Vec<Finding>) {
    if !case.to.order_at_least("rocky") {
        return;
    }
    let live = survey.summary().mechanisms.iter().filter(|(_, count)| count.live > 0);
    let names: Vec<String> = live.map(|(name, _)| name.clone()).collect();
    match (names.as_slice(), case.draft) {
        ([_, _, ..], _) => {
            let title = "p11 secrets are under more than one mechanism; Barbican reads only the configured one";
            let finding = Finding::fail("mechanisms-mixed", title).evidence(names).approvable();
            all.push(finding.remedy("store the minority anew first; or accept that it stays unreadable"));
        }
        ([name], Ok(draft)) => {
            let configured = read_mechanism(&draft.config(case.deployment)).unwrap_or_default();
            if *name != configured {
                let title = format!("p11 secrets are under {name}, but {} would read them as {configured}", case.to);
                let remedy = format!("[p11_crypto_plugin] in barbican.conf: encryption_mechanism = {name}");
                all.push(Finding::fail("mechanism", title).remedy(remedy));
            }
        }
        _ => {}
    }
}
