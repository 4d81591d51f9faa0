//! What a run consists of: the closed set of steps, and for each how to look, how to prepare its undo, how to act and how to go back.
//!
//! A step does not know the journal, the order or the screen. Safety is decided in the engine; a step only has to be honest in `observe` and
//! convergent in `apply` and `revert`.

mod code;
mod data;
mod file;
mod hex;
mod hooks;
mod kept;
mod mechanism;
mod schema;
mod unit;
mod verify;

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use code::{CodeAwaited, Offer, fetched, offered};
pub use data::{BASELINE, KEKS, proved, restore_kept};
pub use file::{Edit, edited};
pub use hex::{HexRow, hex_rows};
pub use schema::{About, copy_of_backup, has_moved, restore as restore_backup, size};
pub use unit::NewData;
pub use verify::NOT_PROVED;

use crate::deployment::{HookPhase, Host, Site, When, read_mechanism};
use crate::files::Root;
use crate::journal::Started;
use crate::release::Catalogue;
use crate::settings::Settings;

/// One step of a plan, with all it needs to act; no secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Run the site's own programs.
    RunHooks {
        /// Before or after what the phase is about.
        when: When,
        /// What is gone about.
        phase: HookPhase,
        /// Their names, in order.
        hooks: Vec<String>,
    },
    /// Stop the services, of which some ran.
    StopUnits {
        /// The units of those.
        units: Vec<String>,
    },
    /// Keep the services from starting, also over a reboot.
    HoldUnits {
        /// All names a barbican unit may have, there or not.
        units: Vec<String>,
    },
    /// Copy the database into the run directory.
    BackUpDatabase {
        /// Only the tables that a migration touches, from this revision to that one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        touched: Option<(String, String)>,
    },
    /// Have the code of a release installed: by the configured command, or by the operator.
    AwaitCode {
        /// The release, by its id.
        release: String,
    },
    /// Migrate the schema through one release.
    MigrateSchema {
        /// The release, by its id.
        release: String,
        /// The revision before.
        from: String,
        /// The revision after.
        to: String,
    },
    /// Sign pre-Mitaka KEKs over iv and wrapped key.
    ResignKeks,
    /// Write into each p11 secret the mechanism that decrypts it.
    RecordMechanism,
    /// Turn hexadecimal text, which PostgreSQL holds in place of bytes, into what it stands for.
    RepairHexText,
    /// Change a file by edits of its text.
    EditFile {
        /// The file, inside the root.
        path: PathBuf,
        /// What is done to it, in order.
        edits: Vec<Edit>,
        /// Digest of the contents before.
        before: String,
        /// Digest of the contents after.
        after: String,
    },
    /// See that no KEK is lost or signed the old way.
    VerifyKeks,
    /// See that every secret that could be decrypted before still can.
    VerifySecrets,
    /// Remember the release that the data is at.
    RecordRelease {
        /// The release, by its id.
        release: String,
    },
    /// Let the services start again.
    UnholdUnits {
        /// The same names that were held.
        units: Vec<String>,
        /// A step that starts services follows: systemd reads the change of its files after that, while they serve already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reload_at_start: bool,
    },
    /// Start the services that ran before.
    StartUnits {
        /// Their units, in order.
        units: Vec<String>,
    },
    /// See that the services stay up, that the API answers, and that it reads an old secret, as far as the settings name one.
    VerifyService {
        /// The units that were started.
        units: Vec<String>,
    },
}

/// What undoes a step, written to the journal before the step acts. Values and keys stay in files of the run's `backup/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Undo {
    /// There is nothing to undo.
    Nothing,
    /// Restore the database from the run's backup.
    Database,
    /// Put back old values of rows, kept in this file of the run directory.
    Rows {
        /// Its name.
        file: String,
        /// How many, where that is known beforehand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<usize>,
    },
    /// Run the site's own programs for the way back.
    Hooks,
    /// Put back a file.
    File {
        /// Its copy in the run directory; none if there was no file.
        copy: Option<String>,
        /// Digest of the copy.
        digest: String,
    },
    /// Release the units held; those listed were held already.
    Hold {
        /// Held before this run.
        before: Vec<String>,
    },
    /// Hold the units again. The fingerprint of the database tells whether anything was written since.
    Unhold {
        /// Taken just before.
        fingerprint: Option<String>,
    },
    /// Start these units.
    Start {
        /// They ran before.
        units: Vec<String>,
    },
    /// Stop these units.
    Stop {
        /// They did not run before.
        units: Vec<String>,
    },
    /// Put back what was recorded as the data's release.
    Release {
        /// The record's text; none if there was none.
        record: Option<String>,
    },
    /// Have the code of the old release installed.
    Code {
        /// Its id.
        release: String,
    },
}

/// What a look at the world says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// As it is to be after the step. With a word on it.
    After(String),
    /// As it was before the step.
    Before,
    /// Neither: somebody else's doing. The reason names the object and the remedy.
    Foreign(String),
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is done.
    Done,
    /// The code of this release must be installed by the operator first.
    Waiting(String),
}

/// What steps work with.
#[derive(Debug)]
pub struct Context<'a> {
    /// The host or image.
    pub host: &'a Host,
    /// How to reach database, token and keys.
    pub site: &'a mut Site,
    /// The run directory, inside the root.
    pub directory: PathBuf,
    /// The release that the run comes from, by its id; empty where a run is not between releases.
    pub from: String,
    /// The release that the run goes to, by its id; empty where a run is not between releases.
    pub to: String,
    /// Going back may lose rows that others wrote, on the operator's word.
    pub discard: bool,
    /// A step of the run may have written to the database, so that going back puts something back there.
    pub written: bool,
    /// Somebody else installs code: a package manager at work, whose hook this is.
    pub code_by_others: bool,
    /// What was found out, and still holds.
    pub known: Known,
}

/// What was found out while services are down, where it need not be found out again.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The fingerprint of the database, where it was taken since a step last wrote, the site's own programs ran, or the code came.
    pub fingerprint: Option<String>,
    /// The copy in the backup was read back, and is whole.
    pub backup_is_whole: bool,
}

impl Context<'_> {
    /// A file of the run directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn root(&self) -> &Root {
        &self.host.root
    }

    fn settings(&self) -> &Settings {
        &self.host.settings
    }

    /// The id of the run.
    fn run(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the run ends before the release `id`. A run that is not between releases has no end in this sense.
    fn to_before(&self, id: &str) -> Result<bool> {
        let catalogue = Catalogue::embedded()?;
        match (catalogue.by_id(&self.to), catalogue.by_id(id)) {
            (Some(to), Some(other)) => Ok(to.is_before(other)),
            _ => Ok(false),
        }
    }

    /// Reads the files as they are now, as the release that the run goes to will read them.
    fn reload_as_target(&mut self) -> Result<()> {
        if let Some(to) = Catalogue::embedded()?.by_id(&self.to) {
            let config = self.host.config()?;
            let site = Site::load(self.host, &config, to)?;
            let before = std::mem::replace(self.site, site);
            self.site.take_token(before);
        }
        Ok(())
    }

    /// `encryption_mechanism` as 7.0.0 and later read it.
    fn configured_mechanism(&self) -> Result<String> {
        read_mechanism(&self.host.config()?)
    }
}

impl Step {
    /// A short name for the operator, as in the progress lines.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::RunHooks { when, phase, .. } => format!("hooks {when} {phase}"),
            Self::StopUnits { .. } => "stop services".to_owned(),
            Self::HoldUnits { .. } => "hold services".to_owned(),
            Self::BackUpDatabase { .. } => "back up database".to_owned(),
            Self::AwaitCode { release } => format!("code of {release}"),
            Self::MigrateSchema { to, .. } => format!("schema {to}"),
            Self::ResignKeks => "KEK signatures".to_owned(),
            Self::RecordMechanism => "secret mechanism".to_owned(),
            Self::RepairHexText => "hexadecimal text".to_owned(),
            Self::EditFile { path, .. } => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Self::VerifyKeks => "verify KEKs".to_owned(),
            Self::VerifySecrets => "verify secrets".to_owned(),
            Self::RecordRelease { .. } => "record release".to_owned(),
            Self::UnholdUnits { .. } => "release services".to_owned(),
            Self::StartUnits { .. } => "start services".to_owned(),
            Self::VerifyService { .. } => "verify service".to_owned(),
        }
    }

    /// Whether the step works on services, of which an image has none that run.
    #[must_use]
    pub fn is_about_services(&self) -> bool {
        matches!(
            self,
            Self::StopUnits { .. }
                | Self::HoldUnits { .. }
                | Self::UnholdUnits { .. }
                | Self::StartUnits { .. }
                | Self::VerifyService { .. }
        )
    }

    /// Whether the step writes to the database.
    #[must_use]
    pub fn writes_database(&self) -> bool {
        matches!(self, Self::MigrateSchema { .. } | Self::ResignKeks | Self::RecordMechanism | Self::RepairHexText)
    }

    /// Whether undoing the step may write to the database. A copy that was never finished is no way back, nor is one needed then.
    #[must_use]
    pub fn undo_writes_database(&self, context: &Context<'_>, undo: &Undo) -> bool {
        match self {
            Self::BackUpDatabase { .. } => schema::has_backup(context),
            _ => self.writes_database() || *undo == Undo::Database,
        }
    }

    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// If it cannot look. That is never taken for "before".
    pub fn observe(&self, context: &mut Context<'_>) -> Result<Observed> {
        match self {
            Self::RunHooks { when, phase, hooks } => hooks::observe(context, *when, *phase, hooks),
            Self::StopUnits { units } => unit::observe_stopped(context, units),
            Self::HoldUnits { units } => unit::observe_held(context, units),
            Self::BackUpDatabase { .. } => schema::observe_backup(context),
            Self::AwaitCode { release } => code::observe_code(context, release),
            Self::MigrateSchema { from, to, .. } => schema::observe(context, from, to),
            Self::ResignKeks => data::observe_keks(context),
            Self::RecordMechanism => mechanism::observe(context),
            Self::RepairHexText => hex::observe(context),
            Self::EditFile { path, before, after, .. } => file::observe(context, path, before, after),
            Self::VerifyKeks => data::verify_keks(context),
            Self::VerifySecrets => data::verify_secrets(context),
            Self::RecordRelease { release } => file::observe_release(context, release),
            Self::UnholdUnits { units, .. } => unit::observe_released(context, units),
            Self::StartUnits { units } => unit::observe_started(context, units),
            Self::VerifyService { units } => verify::observe(context, units),
        }
    }

    /// Puts on disk what is needed to go back, and says what that is. Nothing of the deployment is changed.
    ///
    /// # Errors
    /// If it cannot be kept (no space): the step must not act then.
    pub fn prepare(&self, context: &mut Context<'_>) -> Result<Undo> {
        match self {
            Self::RunHooks { .. } => Ok(Undo::Hooks),
            Self::StopUnits { units } => {
                if !units.is_empty() {
                    verify::remember(context, units)?;
                }
                Ok(Undo::Start { units: units.clone() })
            }
            Self::StartUnits { units } => Ok(Undo::Stop { units: units.clone() }),
            Self::HoldUnits { units } => unit::prepare_hold(context, units),
            Self::UnholdUnits { .. } => Ok(unit::prepare_unhold(context)),
            Self::BackUpDatabase { .. } => Ok(Undo::Database),
            Self::AwaitCode { release } => code::prepare(context, release),
            Self::MigrateSchema { .. } => schema::prepare(context),
            Self::ResignKeks => data::prepare_keks(context),
            Self::RecordMechanism => mechanism::prepare(context),
            Self::RepairHexText => hex::prepare(context),
            Self::EditFile { path, .. } => file::prepare(context, path),
            Self::RecordRelease { .. } => file::prepare_release(context),
            Self::VerifyKeks | Self::VerifySecrets | Self::VerifyService { .. } => Ok(Undo::Nothing),
        }
    }

    /// Acts. Asks for the proof that what undoes it is in the journal.
    ///
    /// # Errors
    /// If it could not be done; a look tells how far it came.
    pub fn apply(&self, context: &mut Context<'_>, _proof: &Started) -> Result<Applied> {
        match self {
            Self::RunHooks { when, phase, hooks } => hooks::run(context, *when, *phase, hooks)?,
            Self::StopUnits { units } => unit::stop(context, units)?,
            Self::HoldUnits { units } => unit::hold(context, units)?,
            Self::BackUpDatabase { touched } => schema::back_up(context, touched.as_ref())?,
            Self::AwaitCode { release } => return code::install(context, release),
            Self::MigrateSchema { from, to, .. } => schema::apply(context, from, to)?,
            Self::ResignKeks => data::resign(context)?,
            Self::RecordMechanism => mechanism::record(context)?,
            Self::RepairHexText => hex::repair(context)?,
            Self::EditFile { path, edits, before, after } => file::apply(context, path, edits, before, after)?,
            Self::RecordRelease { release } => file::record_release(context, release)?,
            Self::UnholdUnits { units, reload_at_start } => unit::release(context, units, *reload_at_start)?,
            Self::StartUnits { units } => unit::start(context, units)?,
            // What is only looked at is done by looking.
            Self::VerifyKeks | Self::VerifySecrets | Self::VerifyService { .. } => {}
        }
        Ok(Applied::Done)
    }

    /// Looks whether the step could be undone, before anything is undone.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub fn can_revert(&self, context: &mut Context<'_>, undo: &Undo) -> Result<()> {
        match (self, undo) {
            (Self::EditFile { path, after, .. }, Undo::File { copy, digest }) => {
                file::can_restore(context, path, after, copy.as_deref(), digest).map(drop)
            }
            (Self::MigrateSchema { .. }, Undo::Database) => schema::check_backup(context).map(drop),
            (Self::MigrateSchema { from, .. }, Undo::Nothing) => schema::not_migrated(context, from),
            _ => Ok(()),
        }
    }

    /// Undoes the step. Tells whether anything had to be changed for it.
    ///
    /// # Errors
    /// If it cannot be undone; nothing else is undone then.
    pub fn revert(&self, context: &mut Context<'_>, undo: &Undo) -> Result<bool> {
        match (self, undo) {
            (_, Undo::Nothing) => Ok(false),
            (Self::RunHooks { when, phase, .. }, Undo::Hooks) => hooks::run_back(context, *when, *phase),
            (Self::BackUpDatabase { .. }, Undo::Database) => schema::restore_moved(context),
            (_, Undo::Database) => schema::restore(context),
            (Self::ResignKeks, Undo::Rows { file, .. }) => data::restore_keks(context, file),
            (Self::RepairHexText, Undo::Rows { file, .. }) => hex::restore(context, file),
            (_, Undo::Rows { file, .. }) => mechanism::restore(context, file),
            (Self::EditFile { path, after, .. }, Undo::File { copy, digest }) => {
                file::restore(context, path, after, copy.as_deref(), digest)
            }
            (Self::HoldUnits { units }, Undo::Hold { before }) => unit::revert_hold(context, units, before),
            (Self::UnholdUnits { units, .. }, Undo::Unhold { fingerprint }) => {
                unit::hold_again(context, units, fingerprint.as_deref())
            }
            (_, Undo::Start { units }) => unit::start_again(context, units),
            (_, Undo::Stop { units }) => unit::stop_again(context, units),
            (_, Undo::Release { record }) => file::restore_release(context, record.as_deref()),
            (_, Undo::Code { release }) if code::is_back(context, release)? => Ok(false),
            (_, Undo::Code { release }) => code::revert_code(context, release),
            (step, undo) => {
                anyhow::bail!("{} cannot be undone by {undo:?}: the journal does not fit the plan", step.title())
            }
        }
    }
}
