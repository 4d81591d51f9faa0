//! One file per verb or family of verbs; each reads like its manual page.

mod awaited;
mod back;
mod backup;
mod check;
mod config;
mod db;
mod fetch;
mod follow;
mod hex;
mod hook;
mod kek;
mod locks;
mod look;
mod notes;
mod plan;
mod proof;
mod rehearse;
mod run;
mod runs;
mod service;
mod shell;
mod status;
mod units;

use std::path::Path;

use anyhow::Context as _;

use crate::cli::{Cli, Global, Target, Verb};
use crate::db::{Access, Ledger};
use crate::deployment::{Deployment, Depth, Host, Site, Untold};
use crate::engine;
use crate::error::{Exit, Failure};
use crate::files::Root;
use crate::hook::Packages;
use crate::ini;
use crate::journal::{self, Journal, Lock, Phase, RunState};
use crate::release::{Catalogue, LookupError, Release};
use crate::settings::Settings;
use crate::ui::Ui;

/// How a verb ended well: its exit code, and the command to give next, without the program's name.
type Outcome = Result<(Exit, String), Failure>;

/// What every verb works with.
#[derive(Debug)]
pub(crate) struct Session {
    host: Host,
    global: Global,
    ui: Ui,
    /// Who asked.
    by: String,
    /// This is the service: nobody can be asked, and what it does it does itself.
    in_service: bool,
    /// Somebody else installs code: a package manager at work, whose hook this is.
    code_by_others: bool,
    /// Digest of the plan that was shown to who asked the service.
    shown: Option<String>,
    /// The package work that a run is opened for.
    packages: Option<Packages>,
}

/// Carries out a command line and prints what is to be read.
pub fn run(mut cli: Cli) -> Exit {
    if let Some(Verb::Hook { name }) = cli.verb {
        return hook::hook(cli.global, name);
    }
    let check = matches!(cli.verb, Some(Verb::Check(_)));
    let changes = matches!(
        cli.verb,
        Some(Verb::Upgrade { .. } | Verb::Resume { .. } | Verb::Rollback { .. } | Verb::Units(_) | Verb::Service)
    );
    let in_service = matches!(cli.verb, Some(Verb::Service));
    let request =
        if in_service { Root::open(&cli.global.root).and_then(|root| service::take(&root)) } else { Ok(None) };
    if let Ok(Some(request)) = &request {
        service::adopt(&mut cli.global, request);
    }
    let ui = Ui::new(cli.global.json, cli.global.verbose).with_globals(globals(&cli.global));
    let request = match request {
        Ok(request) => request,
        Err(error) => return fail(ui, error.into(), check),
    };
    let mut session = match Session::open(cli.global, ui) {
        Ok(session) => session,
        Err((ui, failure)) => return fail(*ui, failure, check),
    };
    session.in_service = in_service;
    if let Some(request) = &request {
        session.by.clone_from(&request.by);
    }
    let result = match cli.verb {
        Some(Verb::Service) => service::service(&mut session, request),
        verb => session.verb(verb.unwrap_or(Verb::Status { wait: false })),
    };
    if changes {
        hook::refresh(&session);
    }
    match result {
        Ok((exit, next)) => {
            session.ui.end(exit, &next);
            exit
        }
        Err(failure) => fail(session.ui, failure, check),
    }
}

/// The options that decide where a command works: every next one needs them too.
fn globals(global: &Global) -> Vec<String> {
    let mut words = Vec::new();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if global.root != Path::new("/") {
        add("--root", global.root.display().to_string());
    }
    for (name, file) in [("--config-file", &global.config_file), ("--pkcs11-module", &global.pkcs11_module)] {
        if let Some(file) = file {
            add(name, file.display().to_string());
        }
    }
    if global.allow_network_db {
        words.push("--allow-network-db".to_owned());
    }
    words
}

fn fail(ui: Ui, mut failure: Failure, check: bool) -> Exit {
    if let Some(error) = failure.error.downcast_ref::<journal::Error>() {
        failure = match error {
            journal::Error::Locked(_) => Failure { exit: Exit::Locked, next: "status --wait".to_owned(), ..failure },
            journal::Error::Corrupt { .. } | journal::Error::Plan { .. } => {
                Failure { exit: Exit::RollbackFailed, next: "status".to_owned(), ..failure }
                    .hint("nothing was done; put that file back, or go back by hand: backup/RESTORE.txt beside it")
            }
        };
    }
    let failure = &mut failure;
    locks::advise(failure);
    advise(failure);
    if check && failure.exit == Exit::Failed {
        failure.exit = Exit::CouldNotLook;
    }
    ui.fail(failure);
    failure.exit
}

/// What the operator can do, for errors that come up from below without a word on it.
fn advise(failure: &mut Failure) {
    if let Some(error) = failure.error.chain().find_map(|e| e.downcast_ref::<LookupError>()) {
        failure.exit = Exit::Usage;
        if let LookupError::UnknownName { suggestion: None, .. } = error {
            failure
                .hints
                .push("releases are called as OpenStack calls them: juno, ... zed, 2023.1, ... 2026.2".to_owned());
        }
    } else if failure.error.chain().any(|e| e.is::<ini::Error>()) {
        failure.hints.push("mend that line; nothing was changed".to_owned());
    } else if failure.error.is::<Untold>() {
        failure.hints.push("mend that first (where it is damaged: from a backup); nothing was changed".to_owned());
    }
}

impl Session {
    fn open(global: Global, ui: Ui) -> Result<Self, (Box<Ui>, Failure)> {
        let host = || -> Result<Host, Failure> {
            let root =
                Root::open(&global.root).map_err(|e| Failure::new(Exit::Usage, e).hint("--root takes a directory"))?;
            let mut settings = Settings::load(&root).map_err(|e| Failure::new(Exit::Usage, e))?;
            if let Some(file) = &global.config_file {
                settings.config_file.clone_from(file);
            }
            let worker = std::env::current_exe().context("finding our own executable")?;
            let mut host = Host::new(root, settings, worker);
            host.module.clone_from(&global.pkcs11_module);
            host.allow_network_db = global.allow_network_db;
            Ok(host)
        };
        match host() {
            Ok(host) => Ok(Self {
                host,
                global,
                ui,
                by: plan::who(),
                in_service: false,
                code_by_others: false,
                shown: None,
                packages: None,
            }),
            Err(failure) => Err((Box::new(ui), failure)),
        }
    }

    fn verb(&mut self, verb: Verb) -> Outcome {
        match verb {
            Verb::Status { wait } => status::status(self, wait),
            Verb::History => status::history(self),
            Verb::Check(target) => check::check(self, &target),
            Verb::Notes { target, all } => notes::notes(self, &target, all),
            Verb::Plan { target, diff, as_shell } => plan::plan(self, &target, diff, as_shell),
            Verb::Rehearse { target, backup, clean } => rehearse::rehearse(self, &target, backup.as_deref(), clean),
            Verb::Approve(target) => plan::approve(self, &target),
            Verb::Upgrade { target: Target { to: Some(to), .. }, download_only: true, .. } => {
                fetch::download_only(self, &to)
            }
            Verb::Upgrade { target, word, yes, .. } => run::upgrade(self, &target, word, yes),
            Verb::Resume { accept_changes, word } => run::resume(self, accept_changes, word),
            Verb::Rollback { discard_new_data: discard, abandon, word, yes } => {
                back::rollback(self, discard, abandon, word, yes)
            }
            Verb::Db(verb) => db::db(self, verb),
            Verb::Kek(verb) => kek::kek(self, verb),
            Verb::Config(verb) => config::config(self, verb),
            Verb::Units(verb) => units::units(self, verb),
            Verb::Backup(verb) => backup::backup(self, verb),
            // Not a verb of anybody's session: it is the service's whole command line.
            Verb::Service => service::service(self, None),
            Verb::Hook { name } => Ok((hook::hook(self.global.clone(), name), String::new())),
        }
    }

    /// The lock, and no run open: one that ended but could not close its link is closed here.
    fn lock(&self, what: &str) -> Result<Lock, Failure> {
        let lock = Lock::take(&self.host.root, what).map_err(Failure::from)?;
        journal::tidy(&self.host.root, &lock)?;
        if let Some((id, state)) = self.open_run()?
            && matches!(state.phase, Phase::Done | Phase::RolledBack)
        {
            log::info!("closing run {id}");
            self.host.root.remove_link(&Path::new(journal::STATE).join("current"))?;
        }
        Ok(lock)
    }

    /// The lock, where no run may be open.
    fn lock_alone(&self, what: &str) -> Result<Lock, Failure> {
        let lock = self.lock(what)?;
        match journal::current(&self.host.root) {
            None => Ok(lock),
            Some(id) => Err(Failure::new(Exit::Interrupted, anyhow::anyhow!("run {id} is not finished"))
                .hint("finish it: keymgr-upgrade resume")
                .hint("or undo it: keymgr-upgrade rollback")
                .next("status")),
        }
    }

    /// The run that `current` points to, with its state.
    fn open_run(&self) -> Result<Option<(String, RunState)>, Failure> {
        let Some(id) = journal::current(&self.host.root) else { return Ok(None) };
        let records = Journal::read(&self.host.root, &journal::run_directory(&id))?;
        Ok(Some((id, RunState::replay(&records))))
    }

    /// Refuses where services run on this host: the parts on their own do not stop them.
    fn nothing_runs(&self, site: &Site) -> Result<(), Failure> {
        let running = site.running(&self.host, &self.host.unit_names()?)?;
        if running.is_empty() {
            return Ok(());
        }
        let error = anyhow::anyhow!("{} still run", running.join(", "));
        Err(Failure::new(Exit::Blocked, error).hint("stop and hold them: keymgr-upgrade units hold").next("units hold"))
    }

    /// Asks before `command` is carried out; `--yes` answers, and where nobody can be asked it is needed.
    fn confirm(&mut self, yes: bool, question: &str, command: &str) -> Result<bool, Failure> {
        if yes {
            return Ok(true);
        }
        if !self.ui.can_ask() {
            let error = "nobody can be asked here: give --yes to go ahead";
            return Err(Failure::usage(error).next(format!("{command} --yes")));
        }
        let answer = self.ui.ask(question).context("reading the answer")?;
        Ok(answer && !engine::STOP.load(std::sync::atomic::Ordering::SeqCst))
    }
}

fn release(id: &str) -> Result<&'static Release, Failure> {
    let catalogue = Catalogue::embedded()?;
    catalogue.by_name(id).map_err(|e| Failure::new(Exit::Usage, e))
}

/// The site, where the release may not be known: a part on its own needs no more than the database.
fn any_site(session: &Session) -> Result<Site, Failure> {
    let mut config = session.host.config()?;
    let said = session.global.from.as_deref().or(session.host.settings.release.as_deref());
    let catalogue = Catalogue::embedded()?;
    if let Some(name) = said {
        return Ok(Site::load(&session.host, &config, release(name)?)?);
    }
    match Deployment::look(&session.host, None, Depth::Shallow) {
        Ok(deployment) => Ok(deployment.site),
        Err(_) => {
            config.reads_legacy = config.secret("DEFAULT", "sql_connection")?.is_none();
            let any = catalogue.by_id("2024.1").context("the catalogue has no 2024.1")?;
            Ok(Site::load(&session.host, &config, any)?)
        }
    }
}

/// The deployment, where the release may not be known: then as the oldest that the schema's revision fits.
fn any_deployment(session: &Session, depth: Depth) -> Result<Deployment, Failure> {
    let said = session.global.from.as_deref();
    match Deployment::look(&session.host, said, depth) {
        Ok(deployment) => Ok(deployment),
        Err(error) if said.is_none() => {
            let database = any_site(session)?.open(Access::ReadOnly)?;
            let Ledger::At(revision) = database.revision().map_err(anyhow::Error::from)? else {
                return Err(error.into());
            };
            deployment_at_depth(session, &revision, depth)
        }
        Err(error) => Err(error.into()),
    }
}

fn deployment_at(session: &Session, revision: &str) -> Result<Deployment, Failure> {
    deployment_at_depth(session, revision, Depth::Shallow)
}

fn deployment_at_depth(session: &Session, revision: &str, depth: Depth) -> Result<Deployment, Failure> {
    let catalogue = Catalogue::embedded()?;
    let fits = catalogue.releases_with_head(revision);
    let first = fits.first().with_context(|| format!("no release has revision {revision}"))?;
    Ok(Deployment::look(&session.host, Some(&first.id), depth)?)
}
