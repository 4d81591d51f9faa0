//! What runs Barbican besides the units that are stopped and held, and what they read besides.

use super::{Case, Finding};
use crate::settings::WebServer;

pub(super) fn judge(case: &Case<'_>, all: &mut Vec<Finding>) {
    let deployment = case.deployment;
    let stops = case.settings.web_server == WebServer::Stop;
    for (file, counts) in &deployment.web {
        let place = format!("{}:{}", file.path.display(), file.line);
        let id = "web-server";
        all.push(match (stops, counts) {
            (true, _) => {
                Finding::warn(id, format!("{place} has {} serve the API; all that it serves stops", file.unit))
            }
            (false, false) => Finding::ok(id, format!("{place} has {} serve the API; it does not run", file.unit)),
            (false, true) => {
                let title = format!("{place} has {} serve the API, which may serve others too", file.unit);
                let remedy = "[barbican] web_server = stop in keymgr-upgrade.conf: the whole server is down meanwhile";
                Finding::fail(id, title).remedy(remedy)
            }
        });
    }
    match &deployment.strays {
        Ok(strays) if strays.is_empty() => {}
        Ok(strays) => {
            let count = strays.len();
            let title = format!("Barbican runs outside every known unit ({count})");
            let remedy = "stop them, or name their units: [barbican] units; a container's are its owner's to stop";
            let evidence = strays.iter().map(ToString::to_string).collect();
            all.push(Finding::fail("foreign-processes", title).evidence(evidence).approvable().remedy(remedy));
        }
        Err(why) => all.push(Finding::fail("foreign-processes", why.clone()).remedy("see that /proc can be read")),
    }
    if let Err(why) = &deployment.hooks {
        let remedy = "mend that, take it away, or chmod -x it: then it is not run";
        all.push(Finding::fail("hooks", why.clone()).remedy(remedy));
    }
    if !deployment.other_config.is_empty() {
        let evidence = deployment.other_config.iter().map(|(unit, files)| {
            let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            format!("{unit}: {}", files.join(" "))
        });
        let finding = Finding::fail("unit-config", "units name configuration files that are not read here");
        let remedy = "put all options into one file, and name it: [barbican] config_file; or see that what is in them does not matter";
        all.push(finding.evidence(evidence.collect()).approvable().remedy(remedy));
    }
}
