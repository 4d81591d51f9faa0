//! A command in a unit of its own, which lives on if we do not.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use zbus::Variant as Value;

use super::bus::is_unknown_unit;
use super::jobs::refused;
use super::launch::{Ended, Launch};
use super::{Result, Systemd, at_rest};

/// No `$` of it means anything to systemd, which replaces `${NAME}` alone, or a whole argument.
const TURN_ERRORS: &str = "exec 2>>\"$0\" \"$@\"";

/// What runs.
#[derive(Debug)]
pub struct Command<'a> {
    /// The unit, with suffix.
    pub unit: &'a str,
    /// For `systemctl status`.
    pub description: &'a str,
    /// The program, by its whole path, and its arguments. They are shown to everybody: no secret may be among them.
    pub argv: &'a [&'a str],
    /// Variables besides those that systemd sets.
    pub environment: &'a [(&'a str, &'a str)],
    /// Where its standard error goes to; its standard output goes to the journal.
    pub errors: &'a Path,
    /// How long it may take; `None` for as long as it likes.
    pub limit: Option<Duration>,
}

impl Systemd {
    /// Runs `command` in a unit of its own and waits until it has ended. Nothing of it is left then, whatever we are killed by meanwhile.
    ///
    /// # Errors
    /// [`super::Error::JobFailed`] if systemd refuses; one that ran and failed is told by what is returned.
    pub fn run_transient(&self, command: &Command<'_>) -> Result<Ended> {
        zbus::block_on(async {
            let launch = self.start_transient(command).await?;
            let ended = self.at_rest(launch).await?;
            self.forget(command.unit).await?;
            Ok(ended)
        })
    }

    /// Waits until `unit` is at rest, where it is at work; true if it was. Its end is forgotten.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn wait_for_rest(&self, unit: &str) -> Result<bool> {
        zbus::block_on(async {
            let mut signals = self.signals(unit).await?;
            let Some(loaded) = self.load(unit).await? else { return Ok(false) };
            if at_rest(&loaded.active_state) {
                return Ok(false);
            }
            self.quiet(unit, &mut signals).await?;
            self.forget(unit).await?;
            Ok(true)
        })
    }

    async fn start_transient(&self, command: &Command<'_>) -> Result<Launch> {
        // One that failed while nobody waited for it.
        self.forget(command.unit).await?;
        let program = *command.argv.first().context("empty command")?;
        let errors = command.errors.to_str().context("a path that is not text")?;
        // The shell turns standard error and becomes the program: systemd takes a file for it from release 236 on only.
        let mut argv = vec!["sh", "-c", TURN_ERRORS, errors, program];
        argv.extend(command.argv.iter().skip(1));
        let start = vec![("/bin/sh", argv, false)];
        let environment: Vec<String> =
            command.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // Where it failed it is kept until it was asked how, as systemd does by itself; a success says all in its job.
        let mut properties = vec![
            ("Description", Value::from(command.description)),
            ("Type", Value::from("oneshot")),
            ("ExecStart", Value::from(start)),
            ("Environment", Value::from(environment)),
            ("StandardOutput", Value::from("journal")),
        ];
        if let Some(limit) = command.limit {
            properties.push(("TimeoutStartUSec", Value::from(u64::try_from(limit.as_micros()).context("a limit")?)));
        }
        let signals = self.signals(command.unit).await?;
        let job = self.manager.start_transient_unit(command.unit, "fail", &properties, &[]).await;
        Ok(Launch {
            unit: command.unit.to_owned(),
            job: job.map_err(|e| refused(command.unit, e))?,
            signals,
            before: 0,
        })
    }

    async fn forget(&self, unit: &str) -> Result<()> {
        match self.manager.reset_failed_unit(unit).await {
            Err(e) if !is_unknown_unit(&e) => Err(anyhow::anyhow!(e).context(format!("resetting {unit}")).into()),
            _ => Ok(()),
        }
    }
}
