//! `plan`: exactly what an upgrade would do. `approve`: the operator's word for it.

use anyhow::Context as _;
use serde_json::json;
use similar::TextDiff;

use super::look::{Look, look};
use super::{Outcome, Session, notes, rehearse, shell};
use crate::approval::Approval;
use crate::cli::Target;
use crate::config::masked;
use crate::db::{Access, Kind};
use crate::deployment::paste_dialect;
use crate::deployment::{Deployment, Depth};
use crate::error::{Exit, Failure};
use crate::finding::{Finding, Severity};
use crate::ini::Dialect;
use crate::plan::FileChange;
use crate::release::{Release, Severity as NoteSeverity};
use crate::settings::Backup;
use crate::step::Step;
use crate::time;
use crate::ui::Ui;

pub(super) fn plan(session: &mut Session, target: &Target, diff: bool, as_shell: bool) -> Outcome {
    let look = look(session, target, Depth::Quick)?;
    session.ui.set("from", look.deployment.from.release.id.as_str());
    session.ui.set("to", look.to.id.as_str());
    let draft = look.draft()?;
    session.ui.set("plan", json!({"digest": draft.plan.digest(), "path": draft.plan.path, "steps": draft.plan.steps}));
    let diffs = diffs(&draft.files, look.to)?;
    let list: Vec<_> = diffs.iter().map(|(path, text)| json!({"path": path, "diff": text})).collect();
    session.ui.set("diffs", json!(list));
    session.ui.set("would_change", !look.is_done());
    let sql = statements(&look.deployment, &draft.plan.steps)?;
    session.ui.set("sql", json!(sql.iter().map(|(r, s)| json!({"revision": r, "statements": s})).collect::<Vec<_>>()));
    if diff {
        for (_, text) in &diffs {
            session.ui.raw(text);
        }
        if diffs.is_empty() {
            session.ui.line("No file is to be changed.");
        }
    } else if as_shell {
        let lines = shell::procedure(session, &look, &sql)?;
        for line in &lines {
            session.ui.raw(line);
        }
        session.ui.set("shell", lines);
        session.ui.remark();
    } else {
        title(&mut session.ui, &look);
        steps(&mut session.ui, &look, &sql);
        rehearse::quote(&session.host.root, &mut session.ui, &look);
    }
    Ok((Exit::Done, next(&look)))
}

/// What brings the plan forward.
pub(super) fn next(look: &Look) -> String {
    if look.is_done() {
        "status".to_owned()
    } else if look.findings.iter().any(|f| f.id == "notes" && f.severity == Severity::Fail) {
        format!("approve {}", look.arguments())
    } else if look.fails() > 0 {
        format!("check {}", look.arguments())
    } else {
        format!("upgrade {}", look.arguments())
    }
}

/// From, to, and the plan's short name.
pub(super) fn title(ui: &mut Ui, look: &Look) {
    let Ok(draft) = &look.draft else { return };
    let way = format!("{} -> {}", look.deployment.from.release.name, look.to.name);
    let digest: String = draft.plan.digest().chars().take(4).collect();
    ui.line(format!("{way:48}plan {digest}, {} steps", draft.plan.steps.len()));
}

/// Every step with what it does.
fn steps(ui: &mut Ui, look: &Look, sql: &[(String, Vec<String>)]) {
    let Ok(draft) = &look.draft else { return };
    for (index, step) in draft.plan.steps.iter().enumerate() {
        ui.line(format!("{:2}  {}", index + 1, step.title()));
        match step {
            Step::MigrateSchema { release, from, to } => {
                ui.line(format!("    {from} -> {to}, in one transaction (migrations/{release})"));
                for (revision, statements) in revisions_of(step, sql) {
                    ui.line(format!("    -- {revision}: {}", number(statements.len(), "statement")));
                    for line in statements.iter().flat_map(|s| s.lines()) {
                        ui.line(format!("       {line}"));
                    }
                }
            }
            Step::EditFile { path, .. } => {
                for word in draft.files.iter().filter(|f| f.path == *path).flat_map(|f| &f.words) {
                    ui.paragraph(word, 4);
                }
            }
            Step::HoldUnits { units } | Step::UnholdUnits { units, .. } => {
                ui.paragraph(&format!("{} names, installed or not", units.len()), 4);
            }
            Step::StopUnits { units } if units.is_empty() => ui.line("    none runs"),
            Step::StopUnits { units } | Step::StartUnits { units } | Step::VerifyService { units } => {
                ui.paragraph(&units.join(" "), 4)
            }
            Step::BackUpDatabase { touched: Some(way) } => ui.paragraph(&touched_words(&look.deployment, way), 4),
            Step::RunHooks { hooks, .. } => ui.paragraph(&hooks.join(" "), 4),
            Step::ResignKeks => {
                let old = look.deployment.survey.as_ref().map_or(0, |s| count(s.kek_counts().get("old")));
                let here = sampled(look, Kind::Keks);
                ui.line(format!("    {old} KEKs{here} to sign anew, each verified before and after"));
            }
            Step::RecordMechanism => {
                let without =
                    look.deployment.facts.p11_mechanisms.as_ref().and_then(|m| m.get("")).copied().unwrap_or(0);
                let here = sampled(look, Kind::Secrets);
                ui.line(format!("    {without} secrets{here} to get their mechanism, each as it decrypted"));
            }
            Step::VerifySecrets => {
                let hex = look.deployment.survey.as_ref().map_or(0, |s| count(s.secret_counts().get("hex-text")));
                if hex > 0 {
                    let secrets = format!("{}{}", number(hex, "secret"), sampled(look, Kind::Secrets));
                    ui.paragraph(&format!("{secrets} in hexadecimal text: unreadable until `db repair-hex`"), 4);
                }
            }
            _ => {}
        }
    }
}

/// ` (a sample of 1000 of 5000)`, where not all rows of this kind were looked at.
fn sampled(look: &Look, kind: Kind) -> String {
    let part = look.deployment.survey.as_ref().ok().and_then(|survey| survey.part(kind));
    part.map_or_else(String::new, |part| format!(" ({part})"))
}

/// `1 statement`, `2 statements`.
pub(super) fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn count(count: Option<&crate::kek::Count>) -> usize {
    count.map_or(0, |c| c.live + c.deleted)
}

/// The statements of the revisions that one schema step covers.
pub(super) fn revisions_of<'a>(step: &Step, sql: &'a [(String, Vec<String>)]) -> Vec<&'a (String, Vec<String>)> {
    let Step::MigrateSchema { from, to, .. } = step else { return Vec::new() };
    let place = |id: &str| crate::db::position(id).ok();
    sql.iter().filter(|(r, _)| place(r) > place(from) && place(r) <= place(to)).collect()
}

/// Exactly the statements that will run, by revision.
pub(super) fn statements(deployment: &Deployment, steps: &[Step]) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let last = steps.iter().rev().find_map(|s| match s {
        Step::MigrateSchema { to, .. } => Some(to.as_str()),
        _ => None,
    });
    let Some(to) = last else { return Ok(Vec::new()) };
    let database = deployment.site.open(Access::ReadOnly)?;
    Ok(database.migration_sql(deployment.revision(), to).map_err(anyhow::Error::from)?)
}

/// Unified diffs of the files, secrets masked.
pub(super) fn diffs(files: &[FileChange], to: &Release) -> Result<Vec<(String, String)>, Failure> {
    diffs_with(files, to, 3)
}

/// The same with so many lines around each change.
pub(super) fn diffs_with(files: &[FileChange], to: &Release, radius: usize) -> Result<Vec<(String, String)>, Failure> {
    let mut all = Vec::new();
    for file in files {
        let oslo = file.path.extension().is_some_and(|e| e == "conf");
        let dialect = if oslo { Dialect::Oslo } else { paste_dialect(&to.id)? };
        let before = masked(&file.before, dialect).context("masking secrets")?;
        let after = masked(&file.after, dialect).context("masking secrets")?;
        let path = file.path.display();
        let diff = TextDiff::from_lines(&before, &after);
        let text =
            diff.unified_diff().context_radius(radius).header(&format!("a{path}"), &format!("b{path}")).to_string();
        all.push((path.to_string(), text));
    }
    Ok(all)
}

pub(super) fn approve(session: &mut Session, target: &Target) -> Outcome {
    let _lock = session.lock_alone("approve")?;
    let look = look(session, target, Depth::Full)?;
    session.ui.set("from", look.deployment.from.release.id.as_str());
    session.ui.set("to", look.to.id.as_str());
    let draft = look.draft()?;
    title(&mut session.ui, &look);
    notes::show(&mut session.ui, &look.notes, NoteSeverity::Critical);
    session.ui.line("");
    let accepted: Vec<String> = look
        .notes
        .iter()
        .filter(|n| n.what.severity == NoteSeverity::Critical)
        .map(|n| n.what.id.clone())
        .chain(look.findings.iter().filter(|f| f.approvable).map(Finding::token))
        .collect();
    for finding in look.findings.iter().filter(|f| f.approvable) {
        session.ui.finding(finding);
    }
    let blocking =
        look.findings.iter().filter(|f| f.severity == Severity::Fail && f.id != "notes" && !f.approvable).count();
    rehearse::quote(&session.host.root, &mut session.ui, &look);
    let now = time::now();
    let approval = Approval {
        format: 1,
        at: now,
        by: who(),
        to: look.to.id.clone(),
        fast_forward: draft.path.len() > 1,
        plan: draft.plan.digest(),
        accepted,
    };
    approval.record(&session.host.root)?;
    let digest: String = approval.plan.chars().take(4).collect();
    session.ui.set("approval", json!(approval));
    session.ui.set("changed", true);
    let words = format!(
        "Approved by {} at {}: plan {digest}, {} notes and findings; for one run within 24 h.",
        approval.by,
        time::stamp(now),
        approval.accepted.len()
    );
    session.ui.paragraph(&words, 0);
    let next = if blocking > 0 { "check" } else { "upgrade" };
    Ok((Exit::Done, format!("{next} {}", look.arguments())))
}

/// Who is at the keyboard, also behind sudo.
pub(super) fn who() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let name = user.map_or_else(|| nix::unistd::getuid().to_string(), |u| u.name);
    match std::env::var("SUDO_USER") {
        Ok(real) if real != name => format!("{name} ({real})"),
        _ => name,
    }
}

/// Which tables a backup is of that keeps what is touched, and why.
fn touched_words(deployment: &Deployment, (from, to): &(String, String)) -> String {
    match deployment.site.open(Access::ReadOnly).and_then(|database| Ok(database.touched(from, to)?)) {
        Ok(Some(part)) => part.to_string(),
        Ok(None) => "the whole file: of SQLite's some tables cannot be put back alone".to_owned(),
        Err(why) => format!("{why:#}"),
    }
}

/// The summary that `upgrade` shows before it asks.
pub(super) fn summary(ui: &mut Ui, look: &Look, wanted: Backup) {
    let Ok(draft) = &look.draft else { return };
    title(ui, look);
    let stops = if look.deployment.running.is_empty() {
        "nothing runs here".to_owned()
    } else {
        look.deployment.running.join(" ")
    };
    ui.row("stops", &stops);
    let schema = draft.plan.steps.iter().filter(|s| matches!(s, Step::MigrateSchema { .. })).count();
    let mut changes = vec![number(schema, "schema step")];
    for file in &draft.files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        changes.push(format!("{name} ({})", number(file.words.len(), "change")));
    }
    ui.row("changes", &changes.join(", "));
    let size = || look.deployment.database.as_ref().map_or_else(|_| String::new(), |d| crate::step::size(d.size));
    let backup = match draft.plan.steps.iter().find(|s| matches!(s, Step::BackUpDatabase { .. })) {
        Some(Step::BackUpDatabase { touched: Some(way) }) => {
            format!("{} at most: {}", size(), touched_words(&look.deployment, way))
        }
        Some(_) => size(),
        None if draft.writes && wanted == Backup::Touched => {
            "none needed: no schema step; the old values of rows are kept".to_owned()
        }
        None => "none needed".to_owned(),
    };
    ui.row("backup", &backup);
    let undo = if schema > 0 && !draft.plan.backs_up() {
        "files and KEK signatures only: the schema cannot be undone (backup = none)"
    } else {
        "all of it: data and files, until new data is written afterwards"
    };
    ui.row("undo", undo);
    let open = look.findings.iter().filter(|f| f.severity == Severity::Warn).count();
    if open > 0 {
        ui.row("warnings", &format!("{open}, see keymgr-upgrade check"));
    }
}
