//! What is known of this host or image: release, files, database, keys. Read-only; judging and acting are for others.

mod code;
mod discover;
mod facts;
mod hooks;
mod identify;
mod launcher;
mod reach;
mod record;
mod services;
mod site;
mod stand_in;

#[cfg(any(test, fuzzing))]
pub(crate) use launcher::fuzz;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use secrecy::ExposeSecret as _;

pub use code::{Code, installed_code, installed_packages};
pub use discover::{Found, Stray, WebFile};
pub use hooks::{HookPhase, Hooks, When, hook_path, hooks, is_hook};
pub use identify::{Identified, identify};
pub use reach::{Occupied, url_in};
pub use record::{Recorded, paste_dialect, record_path, recorded};
pub use services::{Held, held_path, ran_before_hold};
pub use site::{Host, Site, leads_elsewhere, read_mechanism};

use crate::config::{self, Config, File};
use crate::db::{Access, Dialect, HexColumn, Ledger, Problem, Verification};
use crate::kek::{Survey, Whole};
use crate::release::{Catalogue, Facts, Release};
use crate::settings::Backup;

/// What is known of the database.
#[derive(Debug)]
pub struct DatabaseFacts {
    /// Where it is, without a password.
    pub shown: String,
    /// Its dialect.
    pub dialect: Dialect,
    /// What `alembic_version` says.
    pub ledger: Ledger,
    /// How the live schema compares with those known for that revision.
    pub verification: Option<Verification>,
    /// How many KEKs and secrets there are; none are counted in a run, nor where the database has no revision.
    pub whole: Whole,
    /// Where only some of them are looked at: the rows of `encrypted_data` that were chosen.
    pub sample: Option<BTreeSet<String>>,
    /// Bytes of the file, or of Barbican's tables.
    pub size: u64,
    /// What keeps a backup from being taken, or from being restored; where none is wanted, what the user may not do though a migration has to.
    pub problems: Vec<Problem>,
    /// Rows that hold hexadecimal text, by column; see [`Database::hex_counts`](crate::db::Database::hex_counts). A quick look at a large
    /// database counts none.
    pub hex_text: BTreeMap<HexColumn, u64>,
    /// The statement that keeps the server from making such rows; none where it does not.
    pub hex_cure: Option<String>,
}

/// What is known of this host or image.
#[derive(Debug)]
pub struct Deployment {
    /// The host's name.
    pub host: String,
    /// Its distribution.
    pub system: String,
    /// The installed code.
    pub code: Code,
    /// The release that the data is at.
    pub from: Identified,
    /// Barbican's configuration.
    pub config: Config,
    /// The paste file.
    pub paste: Option<File>,
    /// The database; why not, if it cannot be used.
    pub database: Result<DatabaseFacts, String>,
    /// KEKs and secrets, as far as they were looked at; why not, if token or database cannot be used.
    pub survey: Result<Survey, String>,
    /// Secrets by the store that holds them outside the database.
    pub elsewhere: BTreeMap<String, u64>,
    /// What conditions of the catalogue are decided by.
    pub facts: Facts,
    /// Units that are held.
    pub held: Vec<String>,
    /// Units that run now, or ran before they were held by hand; none known on an image.
    pub running: Vec<String>,
    /// Units that are to be started in the end.
    pub start: Vec<String>,
    /// Web servers that others may use too, which serve the API: each file, and whether its server runs or is enabled.
    pub web: Vec<(WebFile, bool)>,
    /// Processes of Barbican outside every known unit; why not, if they cannot be looked for. None on an image.
    pub strays: Result<Vec<Stray>, String>,
    /// Units that name configuration files to Barbican which are not read here, each with these files.
    pub other_config: Vec<(String, Vec<PathBuf>)>,
    /// Whether barbican units are installed on this host; no on an image.
    pub has_units: bool,
    /// The packages' own script migrates the database, with the services up.
    pub configures_database: bool,
    /// The site's own programs; why not, if one is not root's alone to change.
    pub hooks: Result<Hooks, String>,
    /// What rpm left beside Barbican's files, where the package and the operator had both changed one.
    pub left_by_rpm: Vec<PathBuf>,
    /// Free bytes where backups go.
    pub free: u64,
    /// How to reach it all.
    pub site: Site,
}

/// The database cannot be asked, and nothing else tells which release the data is at.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Untold(
    /// Why it cannot be asked.
    pub String,
);

/// How much is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Release, files and schema.
    Shallow,
    /// KEKs and secrets too, of many a sample.
    Quick,
    /// Every KEK and secret too.
    Full,
}

impl Deployment {
    /// Looks at the host or image.
    ///
    /// # Errors
    /// If the configuration cannot be read, or nothing tells which release the data is at. A database or a token that cannot be used is a fact.
    pub fn look(host: &Host, said: Option<&str>, depth: Depth) -> Result<Self> {
        let record = recorded(&host.root)?;
        // The setting is for where nothing else tells; it grows stale, the record does not.
        let setting = host.settings.release.as_deref().filter(|_| record.is_none());
        let named = |name: &str, by: &'static str| Catalogue::embedded()?.by_name(name).context(by);
        let said = match (said, setting) {
            (Some(name), _) => Some(named(name, "--from")?),
            (None, Some(name)) => Some(named(name, "[upgrade] release of the settings")?),
            (None, None) => None,
        };
        Self::look_at(host, said, record.as_ref(), None, depth)
    }

    /// Looks during a run that came from `from`: its own steps, or a package's scripts, may have moved the schema since. What every key and secret
    /// was like when the run began is in `baseline`: while nothing serves they are not tried only to plan, and what decides about a backup or
    /// whether to begin at all is not asked again.
    ///
    /// # Errors
    /// As [`Deployment::look`].
    pub fn look_in_run(host: &Host, from: &'static Release, baseline: Survey) -> Result<Self> {
        let mut deployment = Self::look_at(host, Some(from), None, Some(from), Depth::Shallow)?;
        if deployment.survey.is_ok() {
            deployment.survey = Ok(baseline);
        }
        Ok(deployment)
    }

    fn look_at(
        host: &Host,
        said: Option<&'static Release>,
        record: Option<&Recorded>,
        in_run: Option<&'static Release>,
        depth: Depth,
    ) -> Result<Self> {
        let root = &host.root;
        let code = installed_code(root, &host.settings)?;
        let mut config = host.config()?;
        let ledger = find(host, &mut config, said, record, &code)?;
        let known = ledger.as_ref().ok().filter(|_| in_run.is_none());
        let from = identify(said, record.map(|r| r.release.as_str()), known, &code);
        let from = match (&ledger, from) {
            // Why the database does not tell matters more than that nothing tells.
            (Err(why), Err(_)) => return Err(Untold(why.clone()).into()),
            (_, from) => from?,
        };
        let mut site = Site::load(host, &config, from.release)?;
        let depth_now = in_run.is_none().then_some(depth);
        let look = |ledger| look_at_database(host, &site, ledger, depth_now).map_err(|e| format!("{e:#}"));
        let database = ledger.and_then(look);
        let survey = match (&database, depth) {
            (Ok(facts), Depth::Quick | Depth::Full) if matches!(facts.ledger, Ledger::At(_)) => match &facts.sample {
                Some(sample) => site.survey_part(facts.whole, sample),
                None => site.survey(),
            }
            .map_err(|e| format!("{e:#}")),
            (Ok(_), _) => Ok(Survey::default()),
            (Err(why), _) => Err(why.clone()),
        };
        let sample = database.as_ref().ok().and_then(|facts| facts.sample.as_ref());
        let paste = config::read(root, &host.settings.paste_file)?;
        let dialect = paste_dialect(&from.release.id)?;
        let gathered = facts::gather(host, &config, paste.as_ref(), &site, &code, dialect, sample)?;
        let names = host.unit_names()?;
        let running = site.to_run(host, &names)?;
        Ok(Self {
            host: hostname(root)?,
            system: system(root)?,
            code,
            from,
            paste,
            database,
            survey,
            elsewhere: gathered.elsewhere,
            facts: gathered.facts,
            held: crate::units::held(root, &names)?,
            start: site.to_start(host, &names, &running)?,
            web: services::web(host, &site)?,
            strays: services::strays(host, &names).map_err(|e| format!("{e:#}")),
            other_config: services::other_config(host)?,
            running,
            has_units: site.has_units(),
            configures_database: code::configures_database(root)?,
            hooks: Hooks::look(root).map_err(|e| format!("{e:#}")),
            left_by_rpm: code::left_by_rpm(root, &[&host.settings.config_file, &host.settings.paste_file]),
            free: root.free_space(Path::new(crate::journal::STATE))?,
            config,
            site,
        })
    }

    /// The revision of the database, if it has one.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        match &self.database {
            Ok(DatabaseFacts { ledger: Ledger::At(revision), .. }) => Some(revision),
            _ => None,
        }
    }

    /// Rows of the p11 plugin are there, or the configuration uses it.
    #[must_use]
    pub fn uses_token(&self) -> bool {
        let rows = self.facts.plugin_rows.as_ref();
        rows.is_some_and(|rows| rows.get(crate::kek::P11_CRYPTO).is_some_and(|n| *n > 0))
    }
}

/// Finds the database while the release is not known yet, which decides under which name its URL is read: the release that is said, recorded or
/// installed, else the newest one that finds a Barbican database.
fn find(
    host: &Host,
    config: &mut Config,
    said: Option<&'static Release>,
    record: Option<&Recorded>,
    code: &Code,
) -> Result<Result<Ledger, String>> {
    let catalogue = Catalogue::embedded()?;
    let installed = match code {
        Code::At { release: Some(id), .. } => Some(id.as_str()),
        Code::At { release: None, .. } | Code::None | Code::Mixed(_) => None,
    };
    let known = said.map(|r| r.id.as_str()).or(record.map(|r| r.release.as_str())).or(installed);
    config.reads_legacy = known.is_some_and(|id| matches!(id, "juno" | "kilo"));
    if known.is_none()
        && config.secret("DEFAULT", "sql_connection")?.is_none()
        && config.secret("database", "connection")?.is_none()
    {
        // Up to Kilo the URL may stand in barbican-api.conf alone.
        config.reads_legacy = true;
    }
    // Newer code would open its default database instead, which has nothing to do with the data that was left behind.
    if let (None, None, Some(code)) = (said, record, installed.and_then(|id| catalogue.by_id(id)))
        && code.order_at_least("2024.2")
        && config.secret("database", "connection")?.is_none()
        && config.secret("DEFAULT", "sql_connection")?.is_some()
    {
        anyhow::bail!(
            "[DEFAULT] sql_connection names a database that the installed code, {code}, does not read: \
             name it [database] connection, or say with --from which release the data is at"
        );
    }
    if known.is_none() {
        let both = (config.secret("DEFAULT", "sql_connection")?, config.secret("database", "connection")?);
        if let (Some(old), Some(new)) = both
            && old.expose_secret() != new.expose_secret()
        {
            anyhow::bail!(
                "[DEFAULT] sql_connection and [database] connection name different databases, and which one is read depends on \
                 the release: say with --from which one it is"
            );
        }
    }
    let tried: Vec<&Release> = match known.and_then(|id| catalogue.by_id(id)) {
        Some(release) => vec![release],
        // The default URL is not tried where one is set: a file of that name would be some other database.
        None if config.secret("DEFAULT", "sql_connection")?.is_some()
            && config.secret("database", "connection")?.is_some() =>
        {
            ["2023.2", "2024.2"].iter().filter_map(|id| catalogue.by_id(id)).collect()
        }
        None => catalogue.by_id("2023.2").into_iter().collect(),
    };
    let mut why = "no database".to_owned();
    for release in tried {
        let site = Site::load(host, config, release)?;
        match site.open(Access::ReadOnly).and_then(|d| Ok(d.revision()?)) {
            Ok(ledger) => return Ok(Ok(ledger)),
            Err(error) => why = format!("{error:#}"),
        }
    }
    Ok(Err(why))
}

/// What is asked only once, before a run, is left out where no `depth` is given, in a run.
fn look_at_database(host: &Host, site: &Site, ledger: Ledger, depth: Option<Depth>) -> Result<DatabaseFacts> {
    let database = site.open(Access::ReadOnly)?;
    let verification = match &ledger {
        Ledger::At(revision) => Some(database.verify(revision)?),
        Ledger::NoTable | Ledger::Empty => None,
    };
    let mut facts = DatabaseFacts {
        shown: site.shown(),
        dialect: database.dialect(),
        ledger,
        verification,
        whole: Whole::default(),
        sample: None,
        size: 0,
        problems: Vec::new(),
        hex_text: BTreeMap::new(),
        hex_cure: None,
    };
    if let Some(depth) = depth {
        if matches!(facts.ledger, Ledger::At(_)) {
            // Where a table or column is missing the schema says so, and whoever needs the rows.
            facts.whole = Whole::of(&database).unwrap_or_default();
        }
        if let (Depth::Quick, Some(probes)) = (depth, facts.whole.sample()) {
            facts.sample = database.secret_sample(probes).ok();
        }
        facts.size = database.size()?;
        facts.problems = match host.settings.backup {
            Backup::Full | Backup::Touched => database.backup_problems()?,
            Backup::None => database.missing_privileges()?,
        };
        if facts.sample.is_none() {
            facts.hex_text = database.hex_counts()?;
        }
        facts.hex_cure = database.hex_cure()?;
    }
    Ok(facts)
}

fn hostname(root: &crate::files::Root) -> Result<String> {
    if root.is_host() {
        return Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned());
    }
    Ok(root.path().display().to_string())
}

/// `PRETTY_NAME` of os-release(5).
fn system(root: &crate::files::Root) -> Result<String> {
    for file in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = root.read_text(Path::new(file))? {
            let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
            return Ok(name.unwrap_or("unknown system").trim_matches('"').to_owned());
        }
    }
    Ok("no os-release".to_owned())
}
