//! keymgr-upgrade-releases(7): what each release asks for and what is done about it, from the catalogue.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use keymgr_upgrade::release::{
    Auto, Catalogue, DataStep, Edit, FILES, Head, Launcher, LauncherChange, Note, OptionEdit, Release, Severity,
};

use super::{plain, source, title_line};

/// Where the releases are put into the text.
const RELEASES: &str = ".\\\" releases\n";

/// The page.
///
/// # Errors
/// If the catalogue or the text around it cannot be read.
pub(super) fn page() -> Result<String> {
    let text = source("verbs/releases.7")?;
    let (before, after) = text.split_once(RELEASES).context("man/verbs/releases.7 has no place for releases")?;
    let mut page = format!("{}{before}", title_line("keymgr-upgrade-releases", "7"));
    for release in Catalogue::embedded()?.releases() {
        of_release(&mut page, release)?;
    }
    page.push_str(after);
    Ok(page)
}

fn of_release(page: &mut String, release: &Release) -> Result<()> {
    let code = if release.code_name == release.name { String::new() } else { format!(" {}", release.code_name) };
    writeln!(page, ".SH {}", plain(&format!("{}{code}", release.name).to_uppercase()))?;
    let slurp = if release.slurp { ", a SLURP release" } else { "" };
    let Release { version, date, python, .. } = release;
    writeln!(page, "{}", plain(&format!("Barbican {version} of {date}{slurp}; Python {python}.")))?;
    schema(page, release)?;
    items(page, "Data", release.data.iter().map(|step| of_data(*step)))?;
    items(page, "Paste file", release.paste.iter().map(|rule| of_paste(rule)))?;
    items(page, "Options", options(&release.options))?;
    items(page, "Launchers", release.launchers.iter().map(of_launcher))?;
    if !release.notes.is_empty() {
        page.push_str(".SS Notes\n");
    }
    for note in &release.notes {
        of_note(page, note)?;
    }
    Ok(())
}

/// A list under a heading of its own; nothing where it is empty.
fn items(page: &mut String, heading: &str, items: impl Iterator<Item = String>) -> Result<()> {
    let mut items = items.peekable();
    if items.peek().is_some() {
        writeln!(page, ".SS {heading}")?;
    }
    for item in items {
        writeln!(page, ".IP \\- 2\n{}", plain(&item))?;
    }
    Ok(())
}

fn schema(page: &mut String, release: &Release) -> Result<()> {
    page.push_str(".SS Schema\n");
    for revision in &release.revisions {
        writeln!(page, ".IP \\- 2\n{}", plain(&format!("{revision} {}.", summary(revision)?)))?;
    }
    let head = |head: &Head| head.revision.clone();
    match release.heads.as_slice() {
        [one] if release.revisions.is_empty() => writeln!(page, "None new; it stays at {}.", head(one))?,
        [one] => writeln!(page, ".PP\nIt ends at {}.", head(one))?,
        several => {
            let words: Vec<String> = several.iter().map(|h| format!("{} from {} on", h.revision, h.since)).collect();
            writeln!(page, ".PP\nIt ends at {}.", plain(&words.join(", ")))?;
        }
    }
    Ok(())
}

/// What a revision says of itself.
fn summary(revision: &str) -> Result<String> {
    let is_it = |path: &str| {
        let folder = path.split('/').nth(1).unwrap_or_default();
        path.ends_with("/revision.toml") && folder.split('_').next() == Some(revision)
    };
    let (path, text) =
        FILES.iter().find(|(path, _)| is_it(path)).with_context(|| format!("revision {revision} has no folder"))?;
    let table: toml::Table = toml::from_str(text).with_context(|| (*path).to_owned())?;
    let summary = table.get("summary").and_then(toml::Value::as_str);
    summary.map(str::to_owned).with_context(|| format!("{path} has no summary"))
}

fn of_data(step: DataStep) -> String {
    match step {
        DataStep::ResignKeks => "Every KEK of p11_crypto is signed anew in the token, over iv and wrapped key.",
        DataStep::RecordMechanism => "The mechanism is recorded in every secret of p11_crypto.",
    }
    .to_owned()
}

fn of_paste(rule: &str) -> String {
    match rule {
        "authtoken-factory" => "The authtoken filter is the one of keystonemiddleware, no longer of keystoneclient.",
        "identity-uri" => "auth_protocol, auth_host and auth_port of the authtoken filter become identity_uri.",
        "cors" => "cors comes first in every pipeline.",
        "http-proxy-to-wsgi" => "http_proxy_to_wsgi comes behind cors.",
        "healthcheck" => "/healthcheck is answered beside /v1.",
        "microversion" => "microversion comes behind the context filter, or before the version app.",
        "request-id" => "request_id comes behind cors.",
        "drop-profile" => "The pipeline and the filter of the profiler go, where they are as shipped.",
        other => return format!("{other}."),
    }
    .to_owned()
}

/// The edits, those with the same reason together.
fn options(edits: &[OptionEdit]) -> impl Iterator<Item = String> {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for edit in edits {
        let words = of_edit(&edit.edit);
        match reasons.iter_mut().find(|(why, _)| *why == edit.why) {
            Some((_, list)) => list.push(words),
            None => reasons.push((&edit.why, vec![words])),
        }
    }
    let text = |(why, list): (&str, Vec<String>)| format!("{}: {}.", capital(why), list.join("; "));
    reasons.into_iter().map(text).collect::<Vec<_>>().into_iter()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn of_edit(edit: &Edit) -> String {
    match edit {
        Edit::Rename { from, to, .. } if from.group == to.group => format!("{from} is renamed to {}", to.name),
        Edit::Rename { from, to, .. } => format!("{from} is renamed to {to}"),
        Edit::Fold { from, to, .. } => format!("{from} goes into the list {}", to.name),
        Edit::Drop { option } => format!("{option} is removed"),
        Edit::DropGroup { group } => format!("all of [{group}] is removed"),
        Edit::Pin { option, secret: true, .. } => format!("{option} is set to what was its default, where it is unset"),
        Edit::Pin { option, value, .. } => format!("{option} is set to {value}, its old default, where it is unset"),
        Edit::Replace { option, from, to } => format!("{option} = {from} becomes {to}"),
        Edit::DropEmpty { option } => format!("{option} is removed where it is empty"),
        Edit::MergeFile { from, into } => format!("what {from} sets is added to {into}"),
    }
}

fn of_launcher(launcher: &Launcher) -> String {
    match &launcher.change {
        LauncherChange::Command { from, to: Some(to) } => format!("{from} is {to} now."),
        LauncherChange::Command { from, to: None } => format!("{from} is gone, without a successor."),
        LauncherChange::WsgiModule { script, module } => format!("{script} is gone; the module {module} serves."),
        LauncherChange::Endpoint { factory, files } => {
            format!("What {factory} served is gone; {} is to be disabled.", files.join(" or "))
        }
        LauncherChange::NewService { command } => format!("{command} is a new service; it is not enabled by itself."),
        LauncherChange::NewEntry { name } => format!("{name} can launch the API too."),
    }
}

fn of_note(page: &mut String, note: &Note) -> Result<()> {
    let severity = match note.severity {
        Severity::Critical => "CRITICAL, ",
        Severity::Warn => "warning, ",
        Severity::Note => "",
    };
    let who = match note.auto {
        Auto::Tool => "done by this tool",
        Auto::Check => "looked for by check; yours to do",
        Auto::Operator => "yours to decide",
        Auto::Nothing => "nothing to do",
    };
    writeln!(page, ".TP\n.B {}\n({severity}{who})\n.br", plain(&note.id))?;
    writeln!(page, "{}.\n{}", plain(&note.title), plain(&note.text))?;
    if let Some(remedy) = &note.remedy {
        writeln!(page, ".br\nDo: {}", plain(remedy))?;
    }
    Ok(())
}
