//! What is to be done, decided from facts alone: no clock, no database. Files are edited in memory.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::{Config, File};
use crate::db;
use crate::deployment::{Code, Deployment, HookPhase, Host, Site, When, leads_elsewhere, paste_dialect};
use crate::files::{Root, digest};
use crate::ini::Document;
use crate::journal::{self, RunState};
use crate::kek::Survey;
use crate::options::{self, Conflict, Surroundings};
use crate::paste::Rule;
use crate::release::{Catalogue, Edit as OptionEditKind, OptionEdit, Release};
use crate::settings::Backup;
use crate::step::{Edit, Step, edited};

/// What kind of run a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From release to release.
    Upgrade,
    /// The schema alone.
    Db,
    /// KEKs alone.
    Kek,
    /// Hexadecimal text alone.
    Hex,
    /// Files alone.
    Config,
}

/// A plan: what `plan` shows, `approve` approves and `upgrade` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Format of this file.
    pub format: u32,
    /// What kind of run.
    pub kind: Kind,
    /// Barbican's main configuration file, inside the root.
    pub config_file: PathBuf,
    /// The database that the run is about, without a password, and where it is: a path inside the root, or server and name.
    pub database: (String, PathBuf),
    /// The release the data is at, by its id; empty where it does not matter.
    pub from: String,
    /// The release to go to, by its id; empty where it does not matter.
    pub to: String,
    /// The releases whose items are carried out, in order, by their ids.
    pub path: Vec<String>,
    /// The steps, in order. Those up to the code are the first half.
    pub steps: Vec<Step>,
}

impl Plan {
    /// A plan of steps that are not between releases.
    #[must_use]
    pub fn of(kind: Kind, host: &Host, site: &Site, steps: Vec<Step>) -> Self {
        Self {
            format: 1,
            kind,
            config_file: host.settings.config_file.clone(),
            database: (site.shown(), site.place(&host.root)),
            from: String::new(),
            to: String::new(),
            path: Vec::new(),
            steps,
        }
    }

    /// Whether `site` leads to the database that this plan is about.
    ///
    /// # Errors
    /// If it leads to another one: the files were changed meanwhile, or another configuration is named.
    pub fn same_database(&self, host: &Host, site: &Site) -> Result<()> {
        let path = site.place(&host.root);
        if path != self.database.1 {
            let now = if path == Path::new("") { "none".into() } else { path.display().to_string() };
            bail!(
                "the run is about database {}, but the configuration now leads to {now}: put it back as it was",
                self.database.1.display()
            );
        }
        Ok(())
    }

    /// Whether the plan is made to write to the database, and not only to look whether there is something to write.
    #[must_use]
    pub fn writes(&self) -> bool {
        let writes = |s: &Step| matches!(s, Step::BackUpDatabase { .. } | Step::MigrateSchema { .. });
        matches!(self.kind, Kind::Kek | Kind::Hex) || self.steps.iter().any(writes)
    }

    /// Whether the plan takes a copy of the database.
    #[must_use]
    pub fn backs_up(&self) -> bool {
        self.steps.iter().any(|s| matches!(s, Step::BackUpDatabase { .. }))
    }

    /// A short name for these very steps; an approval is for one digest.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }

    /// The index of the step that awaits the code, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<usize> {
        self.steps.iter().position(|s| matches!(s, Step::AwaitCode { .. }))
    }

    /// Reads the plan of a run, the second one where the run was planned again.
    ///
    /// # Errors
    /// [`journal::Error::Plan`] if it is missing, unreadable, or not the one that the journal names.
    pub fn load(root: &Root, directory: &Path, state: &RunState) -> Result<Self> {
        let (name, wanted) = match &state.replanned {
            Some(wanted) => ("plan-2.json", Some(wanted)),
            None => ("plan.json", state.plan.as_ref()),
        };
        let wrong = |reason: String| journal::Error::Plan { path: root.shown(&directory.join(name)), reason };
        let plan: Self = root.read_json(&directory.join(name)).map_err(|e| wrong(format!("{e:#}")))?;
        if wanted != Some(&plan.digest()) {
            return Err(wrong("it was changed".to_owned()).into());
        }
        Ok(plan)
    }
}

/// A file that the plan edits.
#[derive(Debug)]
pub struct FileChange {
    /// The file.
    pub path: PathBuf,
    /// Its edits.
    pub edits: Vec<Edit>,
    /// In words, what changes. No values.
    pub words: Vec<String>,
    /// Its text before.
    pub before: Document,
    /// Its text after.
    pub after: Document,
}

/// A plan with what it was made of.
#[derive(Debug)]
pub struct Draft {
    /// The plan.
    pub plan: Plan,
    /// The files it changes.
    pub files: Vec<FileChange>,
    /// Whether schema or rows are to be changed.
    pub writes: bool,
    /// Options that contradict each other.
    pub conflicts: Vec<Conflict>,
    /// The releases on the way.
    pub path: Vec<&'static Release>,
    /// What could not be looked at; a plan made without it must not run.
    pub unknown: Option<String>,
}

impl Draft {
    /// The configuration as the run will leave it.
    #[must_use]
    pub fn config(&self, deployment: &Deployment) -> Config {
        after(deployment, &self.files)
    }
}

/// Plans the way of a deployment along `path` to its last release.
///
/// # Errors
/// If a file cannot be edited as the catalogue asks. What only the operator can settle is in `conflicts`.
pub fn upgrade(deployment: &Deployment, host: &Host, path: &[&'static Release]) -> Result<Draft> {
    let to = path.last().copied().unwrap_or(deployment.from.release);
    let (files, conflicts) = file_changes(deployment, host, path, to)?;
    let mut steps = Vec::new();
    let names = host.unit_names()?;
    if !deployment.running.is_empty() {
        steps.extend(hooks(deployment, When::Pre, HookPhase::Stop));
    }
    steps.push(Step::HoldUnits { units: names.clone() });
    if deployment.has_units {
        steps.push(Step::StopUnits { units: deployment.running.clone() });
    }
    let schema = schema_steps(deployment.revision(), to)?;
    let data = data_steps(deployment, to)?;
    let writes = !schema.is_empty() || rows_to_change(deployment, &data);
    steps.extend(backup_step(host.settings.backup, writes, &schema));
    steps.extend(hooks(deployment, When::Pre, HookPhase::Migrate));
    if deployment.code != Code::None || host.settings.upgrade_command.is_some() {
        steps.push(Step::AwaitCode { release: to.id.clone() });
    }
    steps.extend(schema);
    steps.extend(data);
    if host.settings.edit_files {
        for file in &files {
            steps.push(Step::EditFile {
                path: file.path.clone(),
                edits: file.edits.clone(),
                before: digest(&file.before.to_bytes()),
                after: digest(&file.after.to_bytes()),
            });
        }
    }
    steps.extend([Step::VerifyKeks, Step::VerifySecrets]);
    steps.extend(hooks(deployment, When::Post, HookPhase::Migrate));
    steps.push(Step::RecordRelease { release: to.id.clone() });
    steps.push(Step::UnholdUnits { units: names, reload_at_start: !deployment.start.is_empty() });
    if !deployment.start.is_empty() {
        steps.push(Step::StartUnits { units: deployment.start.clone() });
        steps.push(Step::VerifyService { units: deployment.start.clone() });
        steps.extend(hooks(deployment, When::Post, HookPhase::Start));
    }
    let plan = Plan {
        from: deployment.from.release.id.clone(),
        to: to.id.clone(),
        path: path.iter().map(|r| r.id.clone()).collect(),
        ..Plan::of(Kind::Upgrade, host, &deployment.site, steps)
    };
    let unknown = deployment.database.as_ref().err().or(deployment.survey.as_ref().err()).cloned();
    let unknown = unknown.or_else(|| {
        deployment.facts.plugin_rows.is_none().then(|| "the rows of the database cannot be counted".to_owned())
    });
    Ok(Draft { plan, files, writes, conflicts, path: path.to_vec(), unknown })
}

/// The step that copies the database, where one is wanted and something is written to it. What steps on rows replace they keep themselves.
#[must_use]
pub fn backup_step(wanted: Backup, writes: bool, schema: &[Step]) -> Option<Step> {
    let end = |step: &Step| match step {
        Step::MigrateSchema { from, to, .. } => Some((from.clone(), to.clone())),
        _ => None,
    };
    let whole = Step::BackUpDatabase { touched: None };
    match (wanted, schema.first().and_then(end), schema.last().and_then(end)) {
        (Backup::None, ..) | (Backup::Touched, None, _) => None,
        (Backup::Touched, Some((from, _)), Some((_, to))) => Some(Step::BackUpDatabase { touched: Some((from, to)) }),
        (Backup::Full, ..) | (Backup::Touched, Some(_), None) => writes.then_some(whole),
    }
}

/// The step that runs the site's own programs, where there are any.
fn hooks(deployment: &Deployment, when: When, phase: HookPhase) -> Option<Step> {
    let hooks = deployment.hooks.as_ref().ok()?.of(when).to_vec();
    (!hooks.is_empty()).then_some(Step::RunHooks { when, phase, hooks })
}

/// One step for each release up to `to` that has revisions the database lacks: also revisions that came late in the series of a release passed
/// already (Kilo's 6a4457517a3).
///
/// # Errors
/// If a revision is not known.
pub fn schema_steps(revision: Option<&str>, to: &Release) -> Result<Vec<Step>> {
    let Some(now) = revision else { return Ok(Vec::new()) };
    let place = |id: &str| db::position(id).with_context(|| format!("revision {id} is not known"));
    let mut at = now.to_owned();
    let mut steps = Vec::new();
    for release in Catalogue::embedded()?.releases().iter().filter(|r| !to.is_before(r)) {
        let Some(last) = release.revisions.last() else { continue };
        if place(last)? > place(&at)? {
            steps.push(Step::MigrateSchema { release: release.id.clone(), from: at.clone(), to: last.clone() });
            at.clone_from(last);
        }
    }
    Ok(steps)
}

/// KEKs show by themselves how they are signed, secrets whether they name their mechanism: looked at on every hop, whatever release it is.
fn data_steps(deployment: &Deployment, to: &Release) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if deployment.uses_token() {
        for release in Catalogue::embedded()?.releases().iter().filter(|r| !to.is_before(r)) {
            steps.extend(release.data.iter().map(|step| match step {
                crate::release::DataStep::ResignKeks => Step::ResignKeks,
                crate::release::DataStep::RecordMechanism => Step::RecordMechanism,
            }));
        }
    }
    Ok(steps)
}

/// Whether one of the steps on rows finds a row to change.
fn rows_to_change(deployment: &Deployment, steps: &[Step]) -> bool {
    let old = deployment.survey.as_ref().is_ok_and(|s| s.kek_counts().contains_key("old"));
    let without = deployment.facts.p11_mechanisms.as_ref().is_some_and(|m| m.get("").is_some_and(|n| *n > 0));
    steps.iter().any(|s| matches!(s, Step::ResignKeks) && old || matches!(s, Step::RecordMechanism) && without)
}

/// The mechanism that decrypted most of the p11 secrets.
#[must_use]
pub fn proved_mechanism(survey: &Survey) -> Option<String> {
    survey.summary().mechanisms.iter().max_by_key(|(_, count)| count.all()).map(|(name, _)| name.clone())
}

/// The files as the way along `path` changes them, and the options that contradict each other.
///
/// # Errors
/// If a file cannot be edited.
pub fn file_changes(
    deployment: &Deployment,
    host: &Host,
    path: &[&'static Release],
    to: &'static Release,
) -> Result<(Vec<FileChange>, Vec<Conflict>)> {
    let mut conflicts = Vec::new();
    let mut changes: Vec<FileChange> = Vec::new();
    for (index, file) in deployment.config.files.iter().enumerate() {
        changes.push(unchanged(&file.path, &file.document));
        debug_assert_eq!(changes.len(), index + 1);
    }
    for edit in option_edits(deployment, path, to)? {
        edit_options(deployment, edit, to, &mut changes, &mut conflicts)?;
    }
    if let Some(paste) = &deployment.paste {
        let mut change = unchanged(&paste.path, &paste.document);
        for name in path.iter().flat_map(|r| &r.paste) {
            let rule: Rule = serde_json::from_value(name.as_str().into()).with_context(|| format!("rule {name}"))?;
            let words = rule.apply(&mut change.after, paste_dialect(&to.id)?)?;
            if !words.is_empty() {
                change.edits.push(Edit::Paste { rule, target: to.id.clone() });
                change.words.extend(words.iter().map(ToString::to_string));
            }
        }
        changes.push(change);
    }
    let elsewhere = leads_elsewhere(&deployment.config, deployment.from.release, &after(deployment, &changes), to)?;
    conflicts.extend(elsewhere.map(Conflict::Elsewhere));
    changes.retain(|c| c.before.to_bytes() != c.after.to_bytes());
    for change in &changes {
        // What the run will do from the edits' names must be what was decided here.
        let (bytes, _) = edited(&host.root, &change.path, &change.before.to_bytes(), &change.edits)?;
        if bytes != change.after.to_bytes() {
            bail!("{}: the edits by name differ from those planned", change.path.display());
        }
    }
    Ok((changes, conflicts))
}

/// The configuration as it will be.
fn after(deployment: &Deployment, changes: &[FileChange]) -> Config {
    let files = deployment.config.files.iter().map(|file| {
        let changed = changes.iter().find(|c| c.path == file.path).map_or(&file.document, |c| &c.after);
        File { path: file.path.clone(), document: changed.clone(), digest: String::new(), attributes: file.attributes }
    });
    Config { files: files.collect(), environment: deployment.config.environment.clone(), ..Config::default() }
}

fn unchanged(path: &Path, document: &Document) -> FileChange {
    FileChange {
        path: path.to_owned(),
        edits: Vec::new(),
        words: Vec::new(),
        before: document.clone(),
        after: document.clone(),
    }
}

/// The edits that a way asks for: those of its releases, and of earlier ones the renames whose old name had to stay until now.
fn option_edits(
    deployment: &Deployment,
    path: &[&'static Release],
    to: &'static Release,
) -> Result<Vec<&'static OptionEdit>> {
    let catalogue = Catalogue::embedded()?;
    let late = catalogue.releases().iter().filter(|r| !deployment.from.release.is_before(r)).flat_map(|r| &r.options);
    let late = late.filter(|edit| match &edit.edit {
        OptionEditKind::Rename { keep_old_until: Some(until), .. }
        | OptionEditKind::Fold { keep_old_until: Some(until), .. } => !catalogue.keeps_old(Some(until), to),
        _ => false,
    });
    let on_the_way = catalogue.option_edits(path, &deployment.facts);
    Ok(late.chain(on_the_way.into_iter().map(|a| a.what)).collect())
}

fn edit_options(
    deployment: &Deployment,
    edit: &'static OptionEdit,
    to: &'static Release,
    changes: &mut [FileChange],
    conflicts: &mut Vec<Conflict>,
) -> Result<()> {
    let proved = match (&edit.edit, &deployment.survey) {
        (OptionEditKind::Pin { proved: Some(_), .. }, Ok(survey)) => proved_mechanism(survey),
        _ => None,
    };
    let set_anywhere = match &edit.edit {
        OptionEditKind::Pin { option, .. } => {
            let mut set = options::is_set(&deployment.config, option)?;
            for change in changes.iter() {
                set |= change.after.get(crate::ini::Dialect::Oslo, &option.group, &option.name)?.is_some();
            }
            set
        }
        _ => false,
    };
    for (index, change) in changes.iter_mut().enumerate() {
        let around = Surroundings {
            target: to,
            main: index == 0,
            set_anywhere,
            merge: deployment.config.legacy.as_ref().map(|f| &f.document),
            proved: proved.as_deref(),
        };
        match options::apply(&edit.edit, &mut change.after, around) {
            Ok(words) if words.is_empty() => {}
            Ok(words) => {
                change.words.extend(words);
                change.edits.push(Edit::Option {
                    id: edit.id.clone(),
                    target: to.id.clone(),
                    main: index == 0,
                    proved: proved.clone(),
                });
            }
            Err(error) => match error.downcast::<Conflict>() {
                Ok(conflict) if conflicts.contains(&conflict) => {}
                Ok(conflict) => conflicts.push(conflict),
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}
