//! A unit that is started to work and end: started without waiting, and waited for until it is at rest.

use std::time::Duration;

use anyhow::Context as _;
use zbus::OwnedObjectPath;

use super::bus::{JobRemovedStream, next, pass};
use super::jobs::refused;
use super::{Loaded, Result, Systemd, at_rest, notify};
use crate::units::full_name;

/// What `ExecMainCode=` is where the process exited by itself, as `CLD_EXITED` of waitid(2).
const EXITED: i32 = 1;

/// A unit that was asked to start.
#[derive(Debug)]
pub struct Launch {
    pub(super) unit: String,
    pub(super) job: OwnedObjectPath,
    pub(super) signals: JobRemovedStream,
    /// When its main process began the last time before.
    pub(super) before: u64,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How the start job ended, in systemd's word: `done`, `failed`, `canceled` (somebody stopped it), `timeout`, `assert`...
    pub job: String,
    /// The unit's own `Result=`: `success`, `exit-code`, `signal`, `timeout`, `oom-kill`...
    pub result: String,
    /// How its main process ended: its exit status, or the signal that killed it; `None` if it never began.
    pub main: Option<std::result::Result<i32, i32>>,
}

impl Systemd {
    /// Asks for `unit` to be started, and does not wait. One that is starting already is attached to.
    ///
    /// # Errors
    /// [`super::Error::JobFailed`] if systemd refuses.
    pub fn launch(&self, unit: &str) -> Result<Launch> {
        zbus::block_on(self.launch_now(unit))
    }

    /// Attaches to `unit` where somebody else has just had it started; `None` where it is not starting.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn attach(&self, unit: &str) -> Result<Option<Launch>> {
        zbus::block_on(async {
            let name = full_name(unit)?;
            let signals = self.signals(&name).await?;
            self.manager.ref_unit(&name).await.ok();
            let Some(mut unit) = self.load(&name).await? else { return Ok(None) };
            let (id, job): (u32, OwnedObjectPath) = unit.properties.take("Job")?;
            Ok((id != 0).then_some(Launch { unit: unit.id, job, signals, before: 0 }))
        })
    }

    /// Waits until a unit that was started with [`Systemd::launch`] is at rest: has ended by itself, or was stopped.
    ///
    /// # Errors
    /// If the bus goes away meanwhile.
    pub fn rest(&self, launch: Launch) -> Result<Ended> {
        zbus::block_on(self.at_rest(launch))
    }

    /// What the service said last of itself (`STATUS=`); empty if nothing.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn status_text(&self, unit: &str) -> Result<String> {
        zbus::block_on(async {
            let unit = self.load(unit).await?.with_context(|| format!("there is no unit {unit}"))?;
            let Some(mut service) = self.service_properties(&unit).await? else { return Ok(String::new()) };
            Ok(service.take("StatusText")?)
        })
    }

    async fn launch_now(&self, unit: &str) -> Result<Launch> {
        let name = full_name(unit)?;
        // Kept in memory as long as we are connected, so that it can be asked how it ended. Only newer ones can do that, and it is needed only
        // where the unit ends well.
        self.manager.ref_unit(&name).await.ok();
        let unit = self.load(&name).await?.with_context(|| format!("there is no unit {name}"))?;
        let before = self.began(&unit).await?;
        let signals = self.signals(&unit.id).await?;
        let job = self.manager.start_unit(&unit.id, "replace").await.map_err(|e| refused(&unit.id, e))?;
        Ok(Launch { unit: unit.id, job, signals, before })
    }

    async fn began(&self, unit: &Loaded) -> Result<u64> {
        let Some(mut service) = self.service_properties(unit).await? else { return Ok(0) };
        Ok(service.take("ExecMainStartTimestampMonotonic")?)
    }

    pub(super) async fn at_rest(&self, mut launch: Launch) -> Result<Ended> {
        let _at_work = notify::elsewhere();
        let job = removed(&mut launch.signals, &launch.job, &launch.unit).await?;
        match self.quiet(&launch.unit, &mut launch.signals).await? {
            Some(unit) => self.ended(&unit, job, launch.before).await,
            // One of no file is forgotten when it has ended well.
            None => Ok(Ended { main: (job == "done").then_some(Ok(0)), job, result: "success".to_owned() }),
        }
    }

    /// Waits until `unit` has neither a job nor a process; `None` if it is forgotten then. `signals` must have been listened to for as long as the unit is watched.
    pub(super) async fn quiet(&self, unit: &str, signals: &mut JobRemovedStream) -> Result<Option<Loaded>> {
        loop {
            let Some(mut loaded) = self.load(unit).await? else { return Ok(None) };
            let (id, path): (u32, OwnedObjectPath) = loaded.properties.take("Job")?;
            match id {
                0 if at_rest(&loaded.active_state) => return Ok(Some(loaded)),
                // Between the end of a job and what follows from it.
                0 => pass(Duration::from_millis(20)).await?,
                _ => drop(removed(signals, &path, unit).await?),
            }
        }
    }

    async fn ended(&self, unit: &Loaded, job: String, before: u64) -> Result<Ended> {
        let Some(mut service) = self.service_properties(unit).await? else {
            return Ok(Ended { job, result: "success".to_owned(), main: None });
        };
        let result: String = service.take("Result")?;
        let (code, status): (i32, i32) = (service.take("ExecMainCode")?, service.take("ExecMainStatus")?);
        let began: u64 = service.take("ExecMainStartTimestampMonotonic")?;
        let main = match code {
            // An older systemd forgets a unit that has ended well.
            0 if job == "done" => Some(Ok(0)),
            0 => None,
            _ if began == before => None,
            EXITED => Some(Ok(status)),
            _ => Some(Err(status)),
        };
        Ok(Ended { job, result, main })
    }
}

/// Waits for the end of a job; systemd's word for it.
async fn removed(signals: &mut JobRemovedStream, job: &OwnedObjectPath, unit: &str) -> Result<String> {
    while let Some(signal) = next(signals).await {
        let signal = signal.args().context("reading a JobRemoved signal")?;
        if signal.job == *job {
            return Ok(signal.result);
        }
    }
    Err(anyhow::anyhow!("the bus went away while {unit} was at work").into())
}
