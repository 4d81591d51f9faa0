//! Stopping and starting: jobs, and what is true after them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use zbus::OwnedObjectPath;

use super::bus::{Exec, JobRemovedStream, is_unknown_call, is_unknown_unit, next, pass, within};
use super::{Error, Loaded, Result, Systemd, at_rest, cgroup, notify};
use crate::units::full_name;

/// What is waited beyond the time that a unit's settings give a stop: systemd itself may be busy.
const MARGIN: Duration = Duration::from_secs(30);

/// What stands for an infinite time in a unit's settings, and what is waited beyond a finite one for a start, which may have to queue for a
/// database that is being started too. Nobody waits at a terminal for ever; the job goes on and can be awaited again.
const INFINITY: Duration = Duration::from_secs(600);

/// How long a stopped unit's control group may take to become empty: what got SIGKILL is gone in milliseconds.
const EMPTY: Duration = Duration::from_secs(5);

/// The commands of a service and the time each may take.
struct Limits {
    stop: Duration,
    start: Duration,
}

/// A job that was asked for.
struct Job {
    unit: String,
    path: OwnedObjectPath,
    signals: JobRemovedStream,
    limit: Duration,
}

impl Systemd {
    /// Stops `names`, all at once, and waits for the end of every job and of every process in the units' control groups. A unit that does not
    /// react to SIGTERM is killed by systemd after its `TimeoutStopSec=` and is `failed` then: that is stopped, and is reset. Names that do not
    /// exist are passed over. Returns the units that were running before, in the order of `names`. systemd is reloaded first, so that a hold on
    /// disk holds from here on.
    ///
    /// # Errors
    /// [`Error::JobFailed`], [`Error::TimedOut`] or [`Error::StillRunning`] for the first unit that is not stopped, after all were waited for.
    pub fn stop(&self, names: &[String]) -> Result<Vec<String>> {
        zbus::block_on(self.stop_all(names))
    }

    /// Starts `names` one after the other, each when the one before is up (by its `Type=`), and looks at all once more in the end. What runs
    /// already is left alone. Returns the units that were started. What systemd has read as held is held.
    ///
    /// A service of `Type=simple` is up when its process was forked, so whether it serves is another question.
    ///
    /// # Errors
    /// [`Error::JobFailed`] or [`Error::TimedOut`] for the first unit that does not start (`job` is `assert` if it is held); those after it are
    /// not tried.
    pub fn start(&self, names: &[String]) -> Result<Vec<String>> {
        zbus::block_on(self.start_all(names))
    }

    async fn stop_all(&self, names: &[String]) -> Result<Vec<String>> {
        let mut units = self.load_all(names).await?;
        // The files count as they are now: a crash may have come between the writing of a hold and its reload. Where systemd has the hold of all,
        // that is known, and a reload takes as long as much of a run.
        if !units.iter().all(Loaded::is_held) {
            self.reload_now().await?;
            units = self.load_all(names).await?;
        }
        let began = Instant::now();
        let mut jobs = Vec::new();
        for unit in &units {
            // Also where it is at rest: a start of it may be queued, and this replaces it.
            jobs.push(self.stop_job(unit).await);
        }
        // Jobs may be ordered one after the other, so each may take as long as all.
        let limit = jobs.iter().flatten().fold(Duration::ZERO, |sum: Duration, job| sum.saturating_add(job.limit));
        // One that fails must not keep the others from being waited for.
        let mut ended = Vec::new();
        for (unit, job) in units.iter().zip(jobs) {
            ended.push(match job {
                Ok(job) => self.stopped(unit, Job { limit, ..job }, began).await,
                Err(error) => Err(error),
            });
        }
        ended.into_iter().collect::<Result<()>>()?;
        Ok(units.into_iter().filter(|unit| !at_rest(&unit.active_state)).map(|unit| unit.id).collect())
    }

    async fn stop_job(&self, unit: &Loaded) -> Result<Job> {
        log::info!("stopping {} ({})", unit.id, unit.active_state);
        let limit = self.limits(unit).await?.stop;
        // Before the job, so that its end cannot be missed. Only signals that name this unit are delivered, so the queue cannot run full.
        let signals = self.signals(&unit.id).await?;
        let path = self.manager.stop_unit(&unit.id, "replace").await.map_err(|e| refused(&unit.id, e))?;
        Ok(Job { unit: unit.id.clone(), path, signals, limit })
    }

    /// Waits for a stop job and makes sure of its effect.
    async fn stopped(&self, before: &Loaded, job: Job, began: Instant) -> Result<()> {
        let result = self.wait(job, began).await?;
        if result != "done" {
            return Err(self.failed(&before.id, result).await);
        }
        let pids = self.emptied(&before.id).await?;
        let state = self.load(&before.id).await?.map_or_else(|| "inactive".to_owned(), |unit| unit.active_state);
        if !pids.is_empty() || !at_rest(&state) {
            return Err(Error::StillRunning { unit: before.id.clone(), pids });
        }
        // What had failed before we came stays visible as failed.
        if state == "failed" && !at_rest(&before.active_state) {
            log::info!("{} had to be killed", before.id);
            match self.manager.reset_failed_unit(&before.id).await {
                Err(e) if !is_unknown_unit(&e) => {
                    return Err(anyhow!(e).context(format!("resetting {}", before.id)).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until no process is left in the unit's control group; returns those that stay.
    async fn emptied(&self, unit: &str) -> Result<Vec<u32>> {
        let (began, limit) = (Instant::now(), self.longest.map_or(EMPTY, |longest| longest.min(EMPTY)));
        loop {
            let pids = self.processes(unit).await?;
            if pids.is_empty() || began.elapsed() > limit {
                return Ok(pids);
            }
            // Nothing tells of the last exit: systemd has no signal for it, and cgroups of version 1 have none in a container.
            pass(Duration::from_millis(20)).await?;
        }
    }

    async fn processes(&self, unit: &str) -> Result<Vec<u32>> {
        match self.manager.get_unit_processes(unit).await {
            Ok(processes) => Ok(processes.into_iter().map(|(_, pid, _)| pid).collect()),
            // Unloaded, which systemd does only with a unit whose control group is empty.
            Err(e) if is_unknown_unit(&e) => Ok(Vec::new()),
            // Older than release 230, as on the hosts that the first releases of Barbican ran on.
            Err(e) if is_unknown_call(&e) => self.processes_by_files(unit).await,
            Err(e) => Err(anyhow!(e).context(format!("asking for the processes of {unit}")).into()),
        }
    }

    async fn processes_by_files(&self, unit: &str) -> Result<Vec<u32>> {
        let Some(unit) = self.load(unit).await? else { return Ok(Vec::new()) };
        let Some(mut service) = self.service_properties(&unit).await? else { return Ok(Vec::new()) };
        let group = service.take_set("ControlGroup")?;
        Ok(group.map_or_else(|| Ok(Vec::new()), |group| cgroup::processes(Path::new("/sys/fs/cgroup"), &group))?)
    }

    async fn start_all(&self, names: &[String]) -> Result<Vec<String>> {
        let mut started = Vec::new();
        for name in names {
            let name = full_name(name)?;
            let unit = self.load(&name).await?.with_context(|| format!("there is no unit {name}"))?;
            if matches!(unit.active_state.as_str(), "active" | "reloading") || started.contains(&unit.id) {
                continue;
            }
            log::info!("starting {}", unit.id);
            let limit = self.limits(&unit).await?.start;
            let signals = self.signals(&unit.id).await?;
            let began = Instant::now();
            let path = self.manager.start_unit(&unit.id, "replace").await.map_err(|e| refused(&unit.id, e))?;
            let result = self.wait(Job { unit: unit.id.clone(), path, signals, limit }, began).await?;
            if result != "done" {
                return Err(self.failed(&unit.id, result).await);
            }
            started.push(unit.id);
        }
        for name in &started {
            self.still_up(name).await?;
        }
        Ok(started)
    }

    /// A service of Type=simple may have died after its job was done, and may be waiting for its automatic restart. A job that was passed over for
    /// a condition of the unit is called done by older systemd.
    async fn still_up(&self, name: &str) -> Result<()> {
        if let Some(mut unit) = self.load(name).await? {
            if !unit.properties.take::<bool>("ConditionResult")? {
                return Err(self.failed(name, "skipped".to_owned()).await);
            }
            let sub_state: String = unit.properties.take("SubState")?;
            if unit.active_state == "failed" || sub_state.starts_with("auto-restart") {
                return Err(self.failed(name, sub_state).await);
            }
        }
        Ok(())
    }

    pub(super) async fn signals(&self, unit: &str) -> Result<JobRemovedStream> {
        // The unit is the third argument of the signal.
        let signals = self.manager.receive_job_removed_with_args(&[(2, unit)]).await;
        Ok(signals.with_context(|| format!("listening for jobs of {unit}"))?)
    }

    /// The longest that a stop and a start of the unit can take: systemd counts its time anew for every command and for every signal.
    async fn limits(&self, unit: &Loaded) -> Result<Limits> {
        let Some(mut service) = self.service_properties(unit).await? else {
            return Ok(Limits { stop: INFINITY, start: INFINITY });
        };
        // SIGTERM and SIGKILL.
        let (mut stops, mut starts) = (2_u32, 0_u32);
        for name in ["ExecStop", "ExecStopPost"] {
            stops = stops.saturating_add(count(service.take::<Vec<Exec>>(name)?.len()));
        }
        for name in ["ExecStartPre", "ExecStart", "ExecStartPost"] {
            starts = starts.saturating_add(count(service.take::<Vec<Exec>>(name)?.len()));
        }
        let times = |limit: Option<Duration>, count, more| {
            limit.map_or(INFINITY, |limit| limit.saturating_mul(count).saturating_add(more))
        };
        let stop = service.take_limit("TimeoutStopUSec")?;
        let start = service.take_limit("TimeoutStartUSec")?;
        Ok(Limits { stop: times(stop, stops, MARGIN), start: times(start, starts, INFINITY) })
    }

    /// Waits for the end of a job, at most its limit counted from `began`. Returns systemd's word for how it ended.
    async fn wait(&self, mut job: Job, began: Instant) -> Result<String> {
        let limit = self.longest.map_or(job.limit, |longest| longest.min(job.limit));
        let _at_work = notify::elsewhere();
        let end = async {
            while let Some(signal) = next(&mut job.signals).await {
                let signal = signal.args().context("reading a JobRemoved signal")?;
                if signal.job == job.path {
                    return Ok(signal.result);
                }
            }
            Err(anyhow!("the bus went away during the job of {}", job.unit))
        };
        match within(limit.saturating_sub(began.elapsed()), end).await? {
            Some(result) => Ok(result?),
            None => Err(Error::TimedOut { unit: job.unit, after: limit }),
        }
    }

    /// The error of a job that ended as `job`, with what the unit itself says.
    async fn failed(&self, unit: &str, job: String) -> Error {
        match self.last_words(unit).await {
            // What is left there of an earlier run explains nothing.
            Ok((result, _)) if matches!(job.as_str(), "assert" | "dependency" | "canceled" | "skipped") => {
                Error::JobFailed { unit: unit.to_owned(), job, result, status: String::new() }
            }
            Ok((result, status)) => Error::JobFailed { unit: unit.to_owned(), job, result, status },
            Err(e) => {
                Error::JobFailed { unit: unit.to_owned(), job, result: "unknown".to_owned(), status: e.to_string() }
            }
        }
    }

    async fn last_words(&self, unit: &str) -> Result<(String, String)> {
        let Some(unit) = self.load(unit).await? else {
            return Ok(("not-found".to_owned(), String::new()));
        };
        let Some(mut service) = self.service_properties(&unit).await? else {
            return Ok((unit.active_state, String::new()));
        };
        let (result, text): (String, String) = (service.take("Result")?, service.take("StatusText")?);
        let mut status = Vec::new();
        let code: i32 = service.take("ExecMainStatus")?;
        if code != 0 {
            status.push(format!("main process ended with status {code}"));
        }
        if !text.is_empty() {
            status.push(text);
        }
        Ok((result, status.join(", ")))
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// systemd's refusal of a job: masked, not found, RefuseManualStop=...
pub(super) fn refused(unit: &str, error: zbus::Error) -> Error {
    if let zbus::Error::MethodError(_, Some(text), _) = error {
        return Error::JobFailed {
            unit: unit.to_owned(),
            job: "refused".to_owned(),
            result: text,
            status: String::new(),
        };
    }
    anyhow!(error).context(format!("asking for a job of {unit}")).into()
}
