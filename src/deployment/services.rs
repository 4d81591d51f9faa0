//! The services of this host. An image has none that run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::discover::{self, Stray, WebFile};
use super::{Host, Site, launcher};
use crate::command;
use crate::files::Root;
use crate::journal::STATE;
use crate::settings::Start;
use crate::systemd::{Command, Systemd, UnitState};
use crate::units;

/// The unit that commands which change the code run in.
const CODE_UNIT: &str = "keymgr-upgrade-code.service";
/// The unit that the site's own programs run in.
const HOOK_UNIT: &str = "keymgr-upgrade-hook.service";

/// How much of a failed command's standard error goes into the error, in characters.
const TAIL: usize = 1024;

/// What ran when the units were first held by hand; never taken anew while they are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Format of this file.
    pub format: u32,
    /// The units, by their names.
    pub running: Vec<String>,
}

/// Where that is kept, over a reboot too.
#[must_use]
pub fn held_path() -> PathBuf {
    Path::new(STATE).join("held.json")
}

/// What ran before the units were held by hand; `None` where none of `names` is held, whatever is still kept.
///
/// # Errors
/// If it cannot be read.
pub fn ran_before_hold(root: &Root, names: &[String]) -> Result<Option<Vec<String>>> {
    if !root.exists(&held_path()) || units::held(root, names)?.is_empty() {
        return Ok(None);
    }
    Ok(Some(root.read_json::<Held>(&held_path())?.running))
}

/// The barbican units of this host, and the way to systemd; neither on an image or where no systemd runs.
#[derive(Debug, Default)]
pub(super) struct Services {
    systemd: Option<Systemd>,
    units: Vec<UnitState>,
}

impl Services {
    pub(super) fn of(host: &Host) -> Result<Self> {
        if let Some(stand_in) = &host.stand_in {
            return Ok(Self { systemd: None, units: stand_in.units.clone() });
        }
        let Some(systemd) = host.systemd()? else { return Ok(Self::default()) };
        let units = systemd.units(&host.root, &host.unit_names()?)?;
        Ok(Self { systemd: Some(systemd.clone()), units })
    }

    /// The states of the units that are there.
    pub(super) fn states(&self) -> &[UnitState] {
        &self.units
    }

    /// The user that the services run as.
    pub(super) fn user(&self) -> Option<&str> {
        self.units.iter().find_map(|u| u.user.as_deref())
    }

    /// The variables that the service's unit sets; none where no unit is known.
    pub(super) fn variables(&self) -> Vec<(String, SecretString)> {
        self.units.iter().find(|u| !u.environment.is_empty()).map_or_else(Vec::new, |u| u.environment.clone())
    }

    /// The environment of the service, for the PKCS#11 module; `None` where no unit is known.
    pub(super) fn environment(&self) -> Option<Vec<(OsString, OsString)>> {
        let unit = self.units.iter().find(|u| !u.environment.is_empty()).or(self.units.first())?;
        Some(unit.environment.iter().map(|(name, value)| (name.into(), value.expose_secret().into())).collect())
    }
}

/// The files of web servers that others may use too, each with whether its server runs or is enabled. On an image nobody knows, so it counts.
pub(super) fn web(host: &Host, site: &Site) -> Result<Vec<(WebFile, bool)>> {
    let mut all = Vec::new();
    for file in host.found()?.web.iter().filter(|f| f.shared) {
        let states = site.states(host, &[file.unit.to_owned()])?;
        let counts = states.iter().any(|s| s.is_active() || s.unit_file_state.starts_with("enabled"));
        all.push((file.clone(), counts || site.services.systemd.is_none()));
    }
    Ok(all)
}

/// The processes of Barbican on this host that are in none of the units `names`.
pub(super) fn strays(host: &Host, names: &[String]) -> Result<Vec<Stray>> {
    if !host.root.is_host() {
        return Ok(Vec::new());
    }
    // A server that is not ours to stop is a finding of its own, its processes are not.
    let servers = host.found()?.web.iter().map(|f| f.unit.to_owned());
    let known: Vec<String> = names.iter().cloned().chain(servers).collect();
    discover::strays(Path::new("/proc"), &known)
}

/// The units that have Barbican read other files than the configuration that is read here, with these files.
pub(super) fn other_config(host: &Host) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let main = &host.settings.config_file;
    let directory = PathBuf::from(format!("{}.d", main.display()));
    let mut all = Vec::new();
    for (unit, argv) in &host.found()?.units {
        let named = launcher::config_files(argv);
        let other: Vec<PathBuf> =
            named.into_iter().filter(|f| *f != main && *f != directory).map(Path::to_owned).collect();
        if !other.is_empty() {
            all.push((unit.clone(), other));
        }
    }
    Ok(all)
}

impl Site {
    /// Those of `names` that run. On an image nothing runs.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn running(&self, host: &Host, names: &[String]) -> Result<Vec<String>> {
        let Some(systemd) = &self.services.systemd else { return Ok(Vec::new()) };
        let units = systemd.units(&host.root, names).context("asking systemd for the barbican units")?;
        Ok(units.into_iter().filter(UnitState::is_active).map(|u| u.name).collect())
    }

    /// Those of `names` that are to run when all is done: what ran before they were held by hand, else what runs now.
    ///
    /// # Errors
    /// If systemd cannot be asked, or what is kept cannot be read.
    pub fn to_run(&self, host: &Host, names: &[String]) -> Result<Vec<String>> {
        match ran_before_hold(&host.root, names)? {
            Some(ran) => Ok(ran),
            None => self.running(host, names),
        }
    }

    /// Those of `names` that are to be started in the end, as `[upgrade] start` says; `ran` is what ran before.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn to_start(&self, host: &Host, names: &[String], ran: &[String]) -> Result<Vec<String>> {
        match host.settings.start {
            Start::Previous => Ok(ran.to_vec()),
            Start::None => Ok(Vec::new()),
            Start::Enabled => {
                let Some(systemd) = &self.services.systemd else { return Ok(Vec::new()) };
                let units = systemd.units(&host.root, names).context("asking systemd for the barbican units")?;
                let enabled = |u: &UnitState| u.unit_file_state.starts_with("enabled");
                Ok(units.into_iter().filter(enabled).map(|u| u.name).collect())
            }
        }
    }

    /// What systemd knows of those of `names` that exist; nothing on an image.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn states(&self, host: &Host, names: &[String]) -> Result<Vec<UnitState>> {
        let Some(systemd) = &self.services.systemd else { return Ok(Vec::new()) };
        systemd.units(&host.root, names).context("asking systemd for the barbican units")
    }

    /// Whether systemd itself has the hold of every one of `names` that it has loaded: a file alone holds nothing before it was read.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn holds(&self, host: &Host, names: &[String], wanted: bool) -> Result<bool> {
        let Some(systemd) = &self.services.systemd else { return Ok(true) };
        let units = systemd.units(&host.root, names).context("asking systemd for the barbican units")?;
        Ok(units.iter().all(|u| u.drop_ins.iter().any(|d| d.ends_with(units::HOLD)) == wanted))
    }

    /// Whether barbican units are installed here.
    #[must_use]
    pub fn has_units(&self) -> bool {
        !self.services.units.is_empty()
    }

    /// Stops units and waits until nothing of them is left. A hold that is on disk holds before the first of them is stopped.
    ///
    /// # Errors
    /// If one does not stop.
    pub fn stop(&self, names: &[String]) -> Result<()> {
        let Some(systemd) = &self.services.systemd else { return Ok(()) };
        systemd.stop(names).map(drop).context("stopping the barbican units")
    }

    /// Starts units, in order, whose hold is off on disk. systemd is reloaded where it has not read that: before the start, or after it where the
    /// start was allowed by [`units::allow_start`].
    ///
    /// # Errors
    /// If one does not start.
    pub fn start(&self, host: &Host, names: &[String]) -> Result<()> {
        let Some(systemd) = &self.services.systemd else { return Ok(()) };
        let allowed = units::start_is_allowed(&host.root);
        if !allowed && !self.holds(host, names, false)? {
            self.reload_units()?;
        }
        systemd.start(names).context("starting the barbican units")?;
        if allowed { self.release_is_read(host) } else { Ok(()) }
    }

    /// Has systemd read that units are not held any more, and ends what was allowed until then.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn release_is_read(&self, host: &Host) -> Result<()> {
        self.reload_units()?;
        units::forget_release(&host.root)
    }

    /// Has systemd read its unit files again if those of `names` were changed, as a site's own way of installing code may leave it.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn reload_changed(&self, host: &Host, names: &[String]) -> Result<()> {
        if self.states(host, names)?.iter().any(|unit| unit.needs_reload) { self.reload_units() } else { Ok(()) }
    }

    /// Whether systemd runs this host.
    #[must_use]
    pub fn has_systemd(&self) -> bool {
        self.services.systemd.is_some()
    }

    /// Runs a command that changes the code. Where systemd runs, in a unit of its own: a package manager must not die with us half way.
    ///
    /// # Errors
    /// If it cannot be started or fails, with the end of its standard error.
    pub fn run_code_command(&self, host: &Host, argv: &[&str], environment: &[(&str, &str)]) -> Result<()> {
        let Some(systemd) = &self.services.systemd else { return command::run(argv, environment).map(drop) };
        let description = "New code for OpenStack Barbican";
        let errors = Path::new("/run/keymgr-upgrade/code.errors");
        let limit = None;
        run_unit(host, systemd, &Command { unit: CODE_UNIT, description, argv, environment, errors, limit })
    }

    /// Runs one of the site's own programs. Where systemd runs, in a unit of its own: it may do what our service may not, such as a snapshot of a
    /// volume. One that lived on when who had started it was killed is waited for first.
    ///
    /// # Errors
    /// If it cannot be started, fails or takes longer than `limit`, with the end of its standard error.
    pub fn run_hook(&self, host: &Host, argv: &[&str], limit: Duration) -> Result<()> {
        let Some(systemd) = &self.services.systemd else {
            let seconds = limit.as_secs().to_string();
            let limited = [&["timeout", "--kill-after=10", seconds.as_str()], argv].concat();
            return command::run(&limited, &[]).map(drop);
        };
        systemd.wait_for_rest(HOOK_UNIT)?;
        let description = "Hook of the upgrade of OpenStack Barbican";
        let errors = Path::new("/run/keymgr-upgrade/hook.errors");
        let environment = &[];
        let command = Command { unit: HOOK_UNIT, description, argv, environment, errors, limit: Some(limit) };
        run_unit(host, systemd, &command)
    }

    /// Waits until such a command has ended that lived on when who had started it was killed.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn await_code_command(&self) -> Result<()> {
        let Some(systemd) = &self.services.systemd else { return Ok(()) };
        if systemd.wait_for_rest(CODE_UNIT)? {
            log::info!("{CODE_UNIT} had lived on, and has ended now");
        }
        Ok(())
    }

    /// Has systemd read its unit files again. On an image there is nobody to tell.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub fn reload_units(&self) -> Result<()> {
        let Some(systemd) = &self.services.systemd else { return Ok(()) };
        systemd.reload().context("having systemd read its unit files")
    }
}

/// Runs a command in a unit of its own, and waits for its end.
fn run_unit(host: &Host, systemd: &Systemd, command: &Command<'_>) -> Result<()> {
    let (unit, shown) = (command.unit, command.argv.join(" "));
    log::info!("running {shown} in {unit}");
    host.root.make_directory(Path::new("/run/keymgr-upgrade"), 0o700)?;
    host.root.append(command.errors)?.set_len(0).context("emptying what an earlier command said")?;
    let ended = systemd.run_transient(command)?;
    let said = host.root.read(command.errors)?.map(|c| c.bytes).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    if !said.is_empty() {
        log::info!("{unit}: {said}");
    }
    let how = match ended.main {
        Some(Ok(0)) if ended.job == "done" => return Ok(()),
        Some(Ok(status)) => format!("exit status {status}"),
        Some(Err(signal)) => format!("killed by signal {signal}"),
        None => format!("job {}", ended.job),
    };
    let start = said.char_indices().rev().take(TAIL).last().map_or(0, |(index, _)| index);
    bail!("{shown}: {how}: {}", said.get(start..).unwrap_or_default());
}
