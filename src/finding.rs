//! What stops or endangers an upgrade: judged from facts, without looking or touching.

mod keys;
mod mechanisms;
mod packages;
mod services;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::config::File;
use crate::db::{Ledger, Offence, Visitor, Visitors};
use crate::deployment::paste_dialect;
use crate::deployment::{Code, Deployment};
use crate::files::digest;
use crate::kek::Count;
use crate::paste::{self, V1};
use crate::plan::Draft;
use crate::release::{
    Applicable, Catalogue, LookupError, Note, PathError, PythonVersion, Release, Severity as NoteSeverity,
};
use crate::settings::{Backup, Settings};
use crate::step::{Step, size};

const PYTHON_2: PythonVersion = PythonVersion(2, 7);
const PYTHON_3: PythonVersion = PythonVersion(3, 0);

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Looked at, and well.
    Ok,
    /// To be looked at.
    Warn,
    /// Stops the upgrade.
    Fail,
}

/// A finding.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Stable name.
    pub id: String,
    /// How grave.
    pub severity: Severity,
    /// What was found, one line.
    pub title: String,
    /// Which rows, lines, options.
    pub evidence: Vec<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The operator may accept it by its id.
    pub approvable: bool,
}

impl Finding {
    fn new(id: &str, severity: Severity, title: impl Into<String>) -> Self {
        Self { id: id.to_owned(), severity, title: title.into(), evidence: Vec::new(), remedy: None, approvable: false }
    }

    fn ok(id: &str, title: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, title)
    }

    fn warn(id: &str, title: impl Into<String>) -> Self {
        Self::new(id, Severity::Warn, title)
    }

    fn fail(id: &str, title: impl Into<String>) -> Self {
        Self::new(id, Severity::Fail, title)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn evidence(mut self, evidence: Vec<String>) -> Self {
        self.evidence = evidence;
        self
    }

    fn approvable(mut self) -> Self {
        self.approvable = true;
        self
    }

    /// What an approval names: the finding with a digest of what was found, so that it does not cover what comes later.
    #[must_use]
    pub fn token(&self) -> String {
        let digest: String = digest(self.evidence.join("\n").as_bytes()).chars().take(8).collect();
        format!("{}#{digest}", self.id)
    }
}

/// The finding of sessions on the database that are not ours.
pub const OTHER_WRITERS: &str = "other-writers";

/// What is around a database on a server; why not, where it cannot be looked at.
#[derive(Debug)]
pub struct Around {
    /// The name of the finding, where the server itself is why the database is not within reach.
    pub server: Option<&'static str>,
    /// The sessions on it that are not ours; `None` for a file.
    pub visitors: Result<Option<Visitors>, String>,
    /// Who has its lock.
    pub holder: Result<Option<String>, String>,
}

/// All that findings are judged from.
#[derive(Debug)]
pub struct Case<'a> {
    /// The facts.
    pub deployment: &'a Deployment,
    /// The tool's settings.
    pub settings: &'a Settings,
    /// The plan, or why there is no way.
    pub draft: Result<&'a Draft, &'a PathError>,
    /// The release to go to.
    pub to: &'a Release,
    /// Rows in the way of the schema.
    pub offences: &'a [Offence],
    /// The notes that apply.
    pub notes: &'a [Applicable<'static, Note>],
    /// Ids that the operator approved or acknowledged.
    pub approved: &'a [String],
    /// An open run.
    pub open_run: Option<&'a str>,
    /// What is around the database.
    pub around: &'a Around,
}

/// Judges. In the order in which an operator wants to read them: the gravest first.
#[must_use]
pub fn findings(case: &Case<'_>) -> Vec<Finding> {
    let mut all = Vec::new();
    run(case, &mut all);
    way(case, &mut all);
    notes(case, &mut all);
    code(case, &mut all);
    schema(case, &mut all);
    around(case, &mut all);
    services::judge(case, &mut all);
    keys::judge(case, &mut all);
    hex_text(case, &mut all);
    files(case, &mut all);
    backup(case, &mut all);
    for finding in &mut all {
        if !finding.approvable || finding.severity != Severity::Fail {
            continue;
        }
        let remedy =
            format!("{}; for good: acknowledged = {}", finding.remedy.take().unwrap_or_default(), finding.token());
        finding.remedy = Some(remedy);
        if case.approved.contains(&finding.token()) || keys::is_accepted_sample(case, finding) {
            finding.severity = Severity::Warn;
            finding.title.push_str(" (accepted)");
        }
    }
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    all
}

fn run(case: &Case<'_>, all: &mut Vec<Finding>) {
    if let Some(run) = case.open_run {
        all.push(Finding::fail("run-open", format!("run {run} is not finished")).remedy("keymgr-upgrade status"));
    }
    if !case.deployment.held.is_empty() && case.open_run.is_none() {
        let title =
            format!("{} unit names are held, by hand or by another controller's run", case.deployment.held.len());
        all.push(Finding::warn("units-held", title).remedy("keymgr-upgrade units unhold, when the service may start"));
    }
}

fn way(case: &Case<'_>, all: &mut Vec<Finding>) {
    match case.draft {
        Ok(_) | Err(PathError::Same(_)) => {}
        Err(error) => {
            all.push(Finding::fail("way", error.to_string()).remedy(error.hints().join("; ")));
        }
    }
}

fn notes(case: &Case<'_>, all: &mut Vec<Finding>) {
    let critical: Vec<&str> = case
        .notes
        .iter()
        .filter(|n| n.what.severity == NoteSeverity::Critical && !case.approved.contains(&n.what.id))
        .map(|n| n.what.id.as_str())
        .collect();
    if critical.is_empty() {
        let title = format!("{} release notes apply, none critical and unapproved", case.notes.len());
        all.push(Finding::ok("notes", title));
        return;
    }
    let plural = if critical.len() == 1 { "note" } else { "notes" };
    let title = format!("{} critical {plural} not approved", critical.len());
    let evidence = critical.iter().map(|id| (*id).to_owned()).collect();
    let remedy = format!("keymgr-upgrade approve --to {}{}", case.to.id, fast_forward(case));
    all.push(Finding::fail("notes", title).evidence(evidence).remedy(remedy));
}

fn fast_forward(case: &Case<'_>) -> &'static str {
    match case.draft {
        Ok(draft) if draft.path.len() > 1 => " --fast-forward",
        Err(PathError::Skip { .. }) => " --fast-forward",
        _ => "",
    }
}

fn code(case: &Case<'_>, all: &mut Vec<Finding>) {
    let deployment = case.deployment;
    match &deployment.code {
        Code::None if deployment.has_units => {
            let finding =
                Finding::fail("code", "there are barbican units here, but no Barbican code was found").approvable();
            all.push(finding.remedy("name its interpreter: [code] python in keymgr-upgrade.conf"));
        }
        Code::None => all.push(Finding::warn("code", "no Barbican is installed here: data and files only")),
        Code::Mixed(words) => {
            let finding = Finding::fail("code", "Barbican's packages are of different versions, or half way");
            all.push(finding.evidence(vec![words.clone()]).remedy("let the package manager finish first"));
        }
        Code::At { release: None, unknown, version, .. } => {
            let why = unknown.as_ref().map_or_else(|| version.clone(), ToString::to_string);
            let remedy = match unknown {
                Some(LookupError::TooNew { .. }) => "install a keymgr-upgrade that knows this release",
                _ => "see what is installed; [code] python says which interpreter counts",
            };
            all.push(Finding::fail("code", why).remedy(remedy));
        }
        Code::At { version, how, python, .. } => {
            all.push(Finding::ok("code", format!("Barbican {version} ({how})")));
            pre_release(case, version, all);
            if let Some(python) = python.filter(|p| !case.to.python.allows(*p)) {
                let title = format!("{} runs on Python {}, here is {python}", case.to.name, case.to.python);
                all.push(
                    Finding::warn("python", title).remedy("the new code brings its own Python, or needs one first"),
                );
            }
        }
    }
    packages::judge(case, all);
    mid_hop(case, all);
    ahead(case, all);
}

/// Pre-releases may have another schema than the release: the operator says that this one will do.
fn pre_release(case: &Case<'_>, version: &str, all: &mut Vec<Finding>) {
    let Ok(found) = Catalogue::embedded().and_then(|c| Ok(c.by_version(version)?)) else { return };
    if found.pre_release && found.release.id == case.to.id {
        let title = format!("Barbican {version} is not a final release of {}", case.to.name);
        let remedy = "install the release; or accept it: keymgr-upgrade approve, or acknowledged = pre-release";
        all.push(Finding::fail("pre-release", title).approvable().remedy(remedy));
    }
}

fn mid_hop(case: &Case<'_>, all: &mut Vec<Finding>) {
    let deployment = case.deployment;
    if deployment.from.mid_hop {
        let title = format!("schema revision {} is in the middle of a release", deployment.revision().unwrap_or("?"));
        let finding = Finding::warn("schema-mid-hop", title);
        all.push(finding.remedy("somebody's migration stopped there; this run carries it to the end"));
    }
}

/// Another host has migrated the database that this one shares with it.
fn ahead(case: &Case<'_>, all: &mut Vec<Finding>) {
    let Some(release) = case.deployment.from.ahead else { return };
    let revision = case.deployment.revision().unwrap_or("?");
    let title = format!("schema revision {revision} is that of {release} already: another host has migrated it");
    if case.to.is_before(release) {
        let remedy = format!("{} does not work with it: --to {} or later", case.to, release.id);
        all.push(Finding::fail("schema-ahead", title).remedy(remedy));
    } else {
        let remedy = format!("files and services of this host follow, from {}", case.deployment.from.release);
        all.push(Finding::warn("schema-ahead", title).remedy(remedy));
    }
}

fn schema(case: &Case<'_>, all: &mut Vec<Finding>) {
    let facts = match &case.deployment.database {
        Ok(facts) => facts,
        Err(why) => {
            all.push(
                Finding::fail(case.around.server.unwrap_or("database"), why.clone())
                    .remedy("see that the URL is right and the database can be opened; nothing was touched"),
            );
            return;
        }
    };
    match (&facts.ledger, &facts.verification) {
        (Ledger::At(revision), Some(v)) => match &v.matches {
            Some(name) => all.push(Finding::ok("schema", format!("{revision}, {name}"))),
            None if v.half_done.is_some() => {
                let next = v.half_done.as_deref().unwrap_or_default();
                let title =
                    format!("a migration to {next} was begun and not finished; it is taken up where it stopped");
                all.push(Finding::warn("schema-half-done", title).evidence(v.differences.clone()));
            }
            None => {
                let title = format!("the schema is not one known for revision {revision}");
                let finding = Finding::fail("schema", title).evidence(v.differences.clone());
                all.push(finding.remedy("keymgr-upgrade db verify; mend these differences first"));
            }
        },
        _ => all.push(
            Finding::fail("schema", "the database has no revision: alembic_version is empty or missing")
                .remedy("keymgr-upgrade db stamp REVISION, with proof; or db upgrade for an empty database"),
        ),
    }
    for offence in case.offences {
        let title = format!("{} ({} rows)", offence.title, offence.rows.len());
        let finding = Finding::fail(&offence.id, title).evidence(offence.rows.clone());
        all.push(finding.remedy(offence.remedy.clone()));
    }
}

/// Others at work: a note here, a blocker for what writes.
fn around(case: &Case<'_>, all: &mut Vec<Finding>) {
    match &case.around.holder {
        Ok(None) => {}
        Ok(Some(holder)) => {
            let finding = Finding::warn("database-locked", format!("the database is locked by {holder}"));
            all.push(finding.remedy("wait for it; what writes to the database waits lock_timeout, then gives up"));
        }
        Err(why) => all.push(Finding::fail("database-locked", why.clone()).remedy("see that the server can be asked")),
    }
    let visitors = match &case.around.visitors {
        Ok(None) => return,
        Ok(Some(visitors)) => visitors,
        Err(why) => {
            all.push(Finding::fail(OTHER_WRITERS, why.clone()).remedy("see that the server can be asked"));
            return;
        }
    };
    if let Some(hidden) = &visitors.hidden {
        let (what, grant) = hidden.split_once("; ").unwrap_or((hidden, ""));
        all.push(Finding::warn("sessions-hidden", format!("we may not see {what}")).remedy(grant));
    }
    let foreign: Vec<&Visitor> = visitors.foreign().collect();
    if foreign.is_empty() && visitors.unseen.is_empty() {
        all.push(Finding::ok(OTHER_WRITERS, "no database session from another host"));
        return;
    }
    let seen = Visitors::places(foreign.iter().copied());
    let title = match (foreign.is_empty(), visitors.unseen.is_empty()) {
        (true, _) => "not all database sessions can be seen; that blocks later".to_owned(),
        (false, true) if foreign.len() == 1 => format!("1 database session: {seen}; it blocks later"),
        (false, true) => format!("{} database sessions: {seen}; they block later", foreign.len()),
        (false, false) => format!("{} database sessions at least: {seen}; they block later", foreign.len()),
    };
    let evidence = foreign.iter().map(ToString::to_string).chain(visitors.unseen.clone()).collect();
    let hosts: BTreeSet<&str> = foreign.iter().filter_map(|v| v.from.host()).collect();
    let hosts = hosts.into_iter().collect::<Vec<_>>().join(" and ");
    let remedy = if hosts.is_empty() {
        "stop them; if nobody writes for sure, your word for it: --writers-stopped".to_owned()
    } else {
        format!("on {hosts}: keymgr-upgrade units hold")
    };
    all.push(Finding::warn(OTHER_WRITERS, title).evidence(evidence).remedy(remedy));
}

/// What a Barbican on Python 3 wrote into PostgreSQL and cannot read, and whether it will write more of it.
fn hex_text(case: &Case<'_>, all: &mut Vec<Finding>) {
    let Ok(facts) = &case.deployment.database else { return };
    let cure = facts.hex_cure.as_ref().map(|sql| format!("have the owner of the database do: {sql}"));
    let survey = case.deployment.survey.as_ref().ok();
    let count = |counts: &BTreeMap<String, Count>| counts.get("hex-text").copied().unwrap_or_default();
    let decoded = survey.map(|survey| (count(survey.kek_counts()), count(survey.secret_counts())));
    let sampled = survey.filter(|survey| survey.sample().is_some()).and(decoded).map(|(k, s)| k.all() + s.all());
    let rows = sampled.map_or_else(|| facts.hex_text.values().sum(), |rows| rows as u64);
    if rows > 0 {
        let here = if sampled.is_some() { " in a sample" } else { "" };
        let title = format!("hexadecimal text that Barbican on Python 3 wrote and cannot read ({rows}{here})");
        let mut evidence: Vec<String> =
            facts.hex_text.iter().map(|(column, n)| format!("{column}: {n} {}", plural(*n, "row"))).collect();
        if let Some((keks, secrets)) = decoded {
            evidence.push(format!(
                "decoded, {} KEKs and {} secrets decrypt ({} and {} of them soft-deleted)",
                keks.all(),
                secrets.all(),
                keks.deleted,
                secrets.deleted
            ));
        }
        let mut remedy = "keymgr-upgrade db repair-hex, services stopped (--dry-run lists the rows)".to_owned();
        if let Some(cure) = cure {
            remedy = format!("{remedy}; and before they start again, since they go on writing such rows, {cure}");
        }
        all.push(Finding::warn("hex-text", title).evidence(evidence).remedy(remedy));
    } else if let Some(cure) = cure.filter(|_| on_python_3(case)) {
        let title = "Barbican on Python 3 will write secrets into this PostgreSQL that it cannot read";
        all.push(Finding::warn("hex-text-ahead", title).remedy(format!("before it starts, {cure}")));
    }
}

fn plural(count: u64, what: &str) -> String {
    format!("{what}{}", if count == 1 { "" } else { "s" })
}

fn on_python_3(case: &Case<'_>) -> bool {
    let here = case.deployment.facts.python.is_some_and(|python| python >= PYTHON_3);
    here || !case.to.python.allows(PYTHON_2)
}

fn files(case: &Case<'_>, all: &mut Vec<Finding>) {
    let deployment = case.deployment;
    for file in deployment.config.files.iter().chain(&deployment.paste) {
        if let Some((line, words)) = managed(file) {
            let title = format!("{}:{line} says \"{words}\": its owner may undo our edits", file.path.display());
            let finding = Finding::warn("config-managed", title);
            all.push(finding.remedy("keymgr-upgrade plan --diff, for the owner; edit_files = no to only check"));
        }
    }
    let Ok(draft) = case.draft else { return };
    for conflict in &draft.conflicts {
        all.push(Finding::fail("option-conflict", conflict.to_string()).remedy("keep the one that is right"));
    }
    if !case.settings.edit_files && !draft.files.is_empty() {
        let evidence = draft.files.iter().map(|f| format!("{}: {}", f.path.display(), f.words.join("; "))).collect();
        let finding = Finding::fail("edit-files", "edit_files = no, and files are not yet as they must be");
        let remedy = "keymgr-upgrade config diff; have its owner apply it, or approve it and apply it before the start";
        all.push(finding.evidence(evidence).approvable().remedy(remedy));
    }
    paste_file(case, draft, all);
}

fn paste_file(case: &Case<'_>, draft: &Draft, all: &mut Vec<Finding>) {
    let Some(paste) = &case.deployment.paste else {
        let title = format!("{} is missing", case.settings.paste_file.display());
        all.push(Finding::warn("paste", title).remedy("set paste_file, if Barbican's is elsewhere"));
        return;
    };
    let after = draft.files.iter().find(|f| f.path == paste.path).map_or(&paste.document, |f| &f.after);
    let Ok(dialect) = paste_dialect(&case.to.id) else { return };
    let version = case.to.tags.first().map_or(case.to.version.as_str(), String::as_str);
    match paste::check(after, dialect, version) {
        Err(error) => all.push(Finding::fail("paste", format!("{error:#}"))),
        Ok(problems) => {
            for problem in &problems {
                let text = format!("{}:{problem}", paste.path.display());
                all.push(match problem.severity {
                    paste::Severity::Blocker => {
                        Finding::fail("paste", text).remedy("mend the file; nothing was changed")
                    }
                    paste::Severity::Warning => Finding::warn("paste", text),
                });
            }
            if problems.is_empty() {
                all.push(Finding::ok("paste", format!("pipelines load under {}", case.to.name)));
            }
            if let Ok(V1::Other) = paste::v1_access(after, dialect) {
                let title = "/v1 has no authtoken filter: unless something in front checks, any client is believed";
                all.push(
                    Finding::warn("paste-v1", title)
                        .remedy("see who can reach the port; or put authtoken into the pipeline"),
                );
            }
            python(case, paste, all);
        }
    }
}

/// Python 3 reads some lines otherwise than Python 2 did.
fn python(case: &Case<'_>, paste: &File, all: &mut Vec<Finding>) {
    let (Ok(before), Ok(after)) = (paste_dialect(&case.deployment.from.release.id), paste_dialect(&case.to.id)) else {
        return;
    };
    let Ok(differences) = paste.document.differences(before, after) else { return };
    if !differences.is_empty() {
        let evidence =
            differences.iter().map(|d| format!("{}:{}: [{}] {}", paste.path.display(), d.line, d.section, d.key));
        let title = format!("{before} and {after} read these lines differently");
        let finding = Finding::fail("paste-python", title).evidence(evidence.collect());
        all.push(finding.remedy("write them so that both read the same"));
    }
}

/// A head line that names another owner of the file.
fn managed(file: &File) -> Option<(usize, String)> {
    let text = String::from_utf8_lossy(&file.document.to_bytes()).into_owned();
    text.lines().take(10).enumerate().find_map(|(index, line)| {
        let lower = line.to_lowercase();
        let owned = ["managed by", "ansible_managed", "ansible managed", "generated by puppet", "this file is managed"];
        (line.starts_with(['#', ';']) && owned.iter().any(|o| lower.contains(o)))
            .then(|| (index + 1, line.trim_start_matches(['#', ';', ' ']).chars().take(40).collect()))
    })
}

fn backup(case: &Case<'_>, all: &mut Vec<Finding>) {
    let Ok(facts) = &case.deployment.database else { return };
    let writes = |s: &Step| matches!(s, Step::BackUpDatabase { .. } | Step::MigrateSchema { .. });
    let wanted = case.draft.as_ref().is_ok_and(|draft| draft.plan.steps.iter().any(writes));
    for problem in facts.problems.iter().filter(|_| wanted) {
        let id = if case.settings.backup == Backup::None { "database-privileges" } else { "backup" };
        all.push(Finding::fail(id, problem.title.as_str()).remedy(problem.remedy.as_str()));
    }
    if case.settings.backup == Backup::None {
        let title = "backup = none: what the schema step changes cannot be undone by this tool";
        all.push(Finding::warn("backup", title).remedy("have a backup of your own, and know how to restore it"));
        return;
    }
    // The copy, its journal while it is written, and as much again for a restore.
    let needed = facts.size.saturating_mul(2).saturating_add(16 << 20);
    let title = format!("{} needed, {} free", size(needed), size(case.deployment.free));
    if needed > case.deployment.free {
        let finding = Finding::fail("backup", title);
        all.push(
            finding.remedy("free space in /var/lib/keymgr-upgrade, or prune old backups: keymgr-upgrade backup prune"),
        );
    } else {
        all.push(Finding::ok("backup", title));
    }
}
