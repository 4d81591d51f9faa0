//! `notes`: the release notes that apply to this deployment.

use anyhow::anyhow;
use serde_json::json;

use super::look::look;
use super::{Outcome, Session};
use crate::cli::Target;
use crate::deployment::Depth;
use crate::engine::Run;
use crate::error::{Exit, Failure};
use crate::release::{Applicable, Note, Severity, Truth};
use crate::ui::Ui;

pub(super) fn notes(session: &mut Session, target: &Target, all: bool) -> Outcome {
    let look = look(session, target, Depth::Shallow)?;
    let from = &look.deployment.from.release.name;
    session.ui.line(format!("{from} -> {}: what the releases ask of this deployment", look.to.name));
    let json: Vec<_> = look.notes.iter().map(to_json).collect();
    session.ui.set("notes", json!(json));
    session.ui.set("changed", false);
    session.ui.set("from", look.deployment.from.release.id.as_str());
    session.ui.set("to", look.to.id.as_str());
    show(&mut session.ui, &look.notes, Severity::Note);
    if all {
        let path: Vec<_> = look.draft.as_ref().map(|d| d.path.clone()).unwrap_or_default();
        let applies = |id: &str| look.notes.iter().any(|n| n.what.id == id);
        session.ui.line("");
        session.ui.line("Do not apply here:");
        for note in path.iter().flat_map(|r| &r.notes).filter(|n| !applies(&n.id)) {
            session.ui.line(format!("  {}  {}", note.id, note.title));
        }
    }
    let critical = look.notes.iter().filter(|n| n.what.severity == Severity::Critical).count();
    let next = if critical > 0 { "approve" } else { "plan" };
    session.ui.line("");
    session.ui.line(format!("{} notes, {critical} critical.", look.notes.len()));
    Ok((Exit::Done, format!("{next} {}", look.arguments())))
}

/// Stops a run behind whose back a critical note has come to apply, by what its packages brought or by what somebody changed meanwhile.
///
/// # Errors
/// If nobody has approved the note, and `accept` is not the word for it.
pub(super) fn approved(
    session: &mut Session,
    run: &Run,
    notes: &[Applicable<'static, Note>],
    accept: bool,
) -> Result<(), Failure> {
    let mut known = run.accepted(&session.host.root)?;
    known.extend(session.host.settings.acknowledged.iter().cloned());
    let new = |n: &&Applicable<'static, Note>| n.what.severity == Severity::Critical && !known.contains(&n.what.id);
    let new: Vec<_> = notes.iter().filter(new).cloned().collect();
    let ids: Vec<String> = new.iter().map(|n| n.what.id.clone()).collect();
    if new.is_empty() {
        return Ok(());
    }
    if accept {
        return Ok(run.accept(&session.host.root, &ids)?);
    }
    session.ui.line("What a release asks for applies here now, and did not when the upgrade began:");
    show(&mut session.ui, &new, Severity::Critical);
    let error = anyhow!("critical notes that nobody approved apply now: {}", ids.join(", "));
    Err(Failure::new(Exit::Interrupted, error)
        .hint("do what they ask, then: keymgr-upgrade resume")
        .hint("or accept them: keymgr-upgrade resume --accept-changes")
        .hint("or go back: keymgr-upgrade rollback")
        .next("status"))
}

fn to_json(note: &Applicable<'static, Note>) -> serde_json::Value {
    let what = note.what;
    json!({
        "id": what.id,
        "release": note.release.id,
        "severity": word(what.severity),
        "title": what.title,
        "text": what.text,
        "remedy": what.remedy,
        "certain": note.truth == Truth::Yes,
    })
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "CRITICAL",
        Severity::Warn => "WARN",
        Severity::Note => "note",
    }
}

/// The notes from `least` on, the releases in order.
pub(super) fn show(ui: &mut Ui, notes: &[Applicable<'static, Note>], least: Severity) {
    let mut release = "";
    for note in notes.iter().filter(|n| n.what.severity >= least) {
        if note.release.name != release {
            ui.line("");
            ui.line(note.release.name.as_str());
            release = &note.release.name;
        }
        let what = note.what;
        ui.line(format!("{:8}  {}", word(what.severity), what.id));
        ui.paragraph(&what.title, 10);
        if ui.verbose || what.severity == Severity::Critical {
            ui.paragraph(&what.text, 10);
        }
        if let Some(remedy) = &what.remedy {
            ui.paragraph(&format!("do: {remedy}"), 10);
        }
        if note.truth == Truth::Unknown {
            ui.paragraph("(whether it applies cannot be told here)", 10);
        }
    }
}
