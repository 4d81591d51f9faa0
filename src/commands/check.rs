//! `check`: would an upgrade work? Changes nothing. Its exit codes are those of `barbican-status upgrade check`.

use serde_json::json;

use super::look::{Look, look};
use super::runs::following;
use super::{Outcome, Session, rehearse};
use crate::cli::Target;
use crate::deployment::{Code, Depth};
use crate::error::Exit;
use crate::finding::Severity;
use crate::release::PathError;
use crate::ui::Ui;

pub(super) fn check(session: &mut Session, target: &Target) -> Outcome {
    let look = look(session, target, Depth::Quick)?;
    head(&mut session.ui, &look);
    session.ui.line("Read only: nothing was stopped, locked or written.");
    session.ui.line("");
    show(&mut session.ui, &look);
    let (fails, warns) = (look.fails(), look.warns());
    session.ui.line("");
    rehearse::quote(&session.host.root, &mut session.ui, &look);
    rehearse::mention(session);
    let (exit, verdict, next) = match (fails, warns) {
        (0, 0) => (Exit::Done, "ready", format!("upgrade {}", look.arguments())),
        (0, _) => (Exit::Failed, "ready, with warnings", format!("upgrade {}", look.arguments())),
        _ => (Exit::NotReady, "not ready", next(&look)),
    };
    session.ui.set("state", verdict);
    session.ui.line(format!("{fails} FAIL, {warns} WARN: {verdict}."));
    Ok((exit, next))
}

/// What brings a refused way forward.
pub(super) fn next(look: &Look) -> String {
    match &look.draft {
        Err(PathError::Skip { .. }) => {
            let first = following(look.deployment.from.release).unwrap_or(look.to);
            return format!("check --to {}", first.id);
        }
        Err(_) => return "status".to_owned(),
        Ok(_) => {}
    }
    let fails = |id: &str| look.findings.iter().any(|f| f.severity == Severity::Fail && f.id == id);
    if fails("unreadable") {
        // To accept that secrets are lost is nobody's next step.
        return "kek verify".to_owned();
    }
    let only_notes =
        look.findings.iter().filter(|f| f.severity == Severity::Fail).all(|f| f.id == "notes" || f.approvable);
    if only_notes {
        format!("approve {}", look.arguments())
    } else {
        format!("check {}   (again, when that is mended)", look.arguments())
    }
}

/// Host, database, and the releases now and next.
pub(super) fn head(ui: &mut Ui, look: &Look) {
    let deployment = &look.deployment;
    let database = deployment.database.as_ref().map_or("database not within reach", |d| d.shown.as_str());
    ui.paragraph(&format!("{}, {}; {database}", deployment.host, deployment.system), 0);
    let from = deployment.from;
    let version = match &deployment.code {
        Code::At { version, .. } => version.as_str(),
        Code::None => "no code installed",
        Code::Mixed(_) => "packages half way",
    };
    ui.row("now", &format!("{}; {version}; known by: {}", from.release.name, from.how));
    ui.row("next", &look.to.name);
    ui.set("changed", false);
    ui.set("would_change", !look.is_done());
    ui.set("from", from.release.id.as_str());
    ui.set("to", look.to.id.as_str());
    ui.set("host", deployment.host.as_str());
    ui.set("database", database);
    ui.set("revision", deployment.revision());
    if let Ok(survey) = &deployment.survey {
        ui.set("keks", json!(survey.kek_counts()));
        ui.set("secrets", json!(survey.secret_counts()));
        ui.set("sample_of", json!(survey.sample()));
    }
    ui.set("findings", json!(look.findings));
}

/// The findings: what is wrong; what is well only in numbers, unless all is wanted.
pub(super) fn show(ui: &mut Ui, look: &Look) {
    let mut well = 0;
    for finding in &look.findings {
        let brief = finding.severity == Severity::Ok
            && !matches!(finding.id.as_str(), "schema" | "keks" | "secrets" | "backup");
        if brief && !ui.verbose { well += 1 } else { ui.finding(finding) }
    }
    if well > 0 {
        ui.line(format!("ok    {:16}(--verbose)", format!("{well} more")));
    }
}
