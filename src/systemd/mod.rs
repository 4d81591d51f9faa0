//! systemd over D-Bus: what a unit is doing; stop, start, reload. The only user of zbus.
//!
//! Synchronous for its callers. A job is awaited by its signal, asked for before the job is, and never for ever.

mod bus;
mod cgroup;
mod environment;
mod inhibit;
mod jobs;
mod launch;
pub mod notify;
mod transient;

#[cfg(any(test, fuzzing))]
pub(crate) use environment::fuzz;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::{join_all, try_join_all};
use secrecy::SecretString;
use zbus::OwnedObjectPath;

use crate::files::Root;
use crate::units::{HOLD, full_name};
use bus::{Exec, ManagerProxy, Properties};
pub use inhibit::Inhibitor;
pub use launch::{Ended, Launch};
pub use transient::Command;

/// How long systemd may take for one call. A daemon-reload on a busy host takes many seconds.
const CALL: Duration = Duration::from_secs(90);

/// How many questions are asked before the first answer is awaited. The system bus allows 128 (dbus-daemon(1), `max_replies_per_connection`).
const AT_ONCE: usize = 32;

/// What went wrong, as far as it matters what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bus, or no systemd on it: an image, a chroot, a container without it.
    #[error("no systemd at {address}: {reason}")]
    NoBus {
        /// Where it was looked for.
        address: String,
        /// What the attempt gave.
        reason: String,
    },
    /// A job did not end well, or systemd refused it.
    #[error("{unit}: {}", failure(.job, .result, .status))]
    JobFailed {
        /// The unit.
        unit: String,
        /// How the job ended, in systemd's word: `failed`, `timeout`, `dependency`, `assert` (held), `canceled`; or `refused`.
        job: String,
        /// The service's own `Result`: `exit-code`, `signal`, `timeout`...; `success` where it did not run; systemd's reason where it refused.
        result: String,
        /// The exit status of its main process and the last status text it sent, as far as there are; empty where it did not run.
        status: String,
    },
    /// A job did not end in the time that the unit's own settings give it.
    #[error("{unit}: its job has not ended after {} s", .after.as_secs())]
    TimedOut {
        /// The unit.
        unit: String,
        /// How long was waited.
        after: Duration,
    },
    /// The unit was stopped and still has processes, or was started again by somebody.
    #[error("{unit} was stopped, but still runs: {}", processes(.pids))]
    StillRunning {
        /// The unit.
        unit: String,
        /// The processes in its control group.
        pids: Vec<u32>,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

fn failure(job: &str, result: &str, status: &str) -> String {
    let mut text = match job {
        "assert" => "is held (an assertion of the unit is not met)".to_owned(),
        "refused" => format!("systemd refuses the job: {result}"),
        "dependency" => "a unit that it needs did not start".to_owned(),
        "skipped" => "was not started: a condition of the unit is not met".to_owned(),
        "canceled" => "the job was canceled, somebody asked for another one".to_owned(),
        _ => format!("the job ended as {job}, the unit's result is {result}"),
    };
    if !status.is_empty() {
        text.push_str(": ");
        text.push_str(status);
    }
    text
}

fn processes(pids: &[u32]) -> String {
    match pids {
        [] => "somebody started it again".to_owned(),
        pids => format!("processes {}", pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
    }
}

/// What the functions here return.
pub type Result<T> = std::result::Result<T, Error>;

/// What systemd knows of a unit.
///
/// The values of variables may hold passwords, hence are secrets.
#[derive(Clone, Debug, Default)]
pub struct UnitState {
    /// Its primary name, with suffix.
    pub name: String,
    /// `loaded`, `masked`, `bad-setting`, `error`.
    pub load_state: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active_state: String,
    /// The finer state of its kind: `running`, `exited`, `auto-restart`, `dead`...
    pub sub_state: String,
    /// `enabled`, `disabled`, `static`, `masked`, `masked-runtime`...; empty if it has no file.
    pub unit_file_state: String,
    /// The drop-ins that systemd has read, by their paths. A hold that is on disk but not among them does not hold yet: a reload is due. (systemd's
    /// own `NeedDaemonReload` does not notice a new drop-in directory.)
    pub drop_ins: Vec<String>,
    /// Whether its files are others now than those that systemd has read.
    pub needs_reload: bool,
    /// A new one for every start, in hexadecimal; empty while it never ran.
    pub invocation: String,
    /// How often systemd restarted it by itself since it was last started; 0 where systemd is too old to count.
    pub restarts: u32,
    /// The main process, while there is one.
    pub main_pid: Option<u32>,
    /// `User=`; none is root.
    pub user: Option<String>,
    /// `Group=`; none is the user's own.
    pub group: Option<String>,
    /// The variables set by `Environment=` and by the files of `EnvironmentFile=`, without those of `UnsetEnvironment=`.
    pub environment: Vec<(String, SecretString)>,
    /// The program of the first `ExecStart=` (its path, also where argv[0] is another) and its arguments; empty if there is none.
    pub exec_start: Vec<String>,
    /// `TimeoutStopSec=`; `None` is infinity.
    pub timeout_stop: Option<Duration>,
    /// Its control group, from the root of the hierarchy; empty while it has none.
    pub control_group: String,
}

impl UnitState {
    /// Whether it runs, or is about to: anything but `inactive` and `failed`.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !at_rest(&self.active_state)
    }
}

fn at_rest(active_state: &str) -> bool {
    matches!(active_state, "inactive" | "failed")
}

/// A unit as loaded: its object and what the interface common to all kinds tells.
struct Loaded {
    path: OwnedObjectPath,
    id: String,
    load_state: String,
    active_state: String,
    properties: Properties,
}

impl Loaded {
    /// Whether systemd has read a hold of it.
    fn is_held(&self) -> bool {
        self.properties.strings("DropInPaths").iter().any(|path| path.ends_with(HOLD))
    }
}

/// Whether systemd runs this host, as sd_booted(3) tells it. A chroot or a plain container has none.
#[must_use]
pub fn running() -> bool {
    Path::new("/run/systemd/system").symlink_metadata().is_ok_and(|m| m.is_dir())
}

/// A connection to systemd.
///
/// Units are named with or without `.service`.
#[derive(Clone, Debug)]
pub struct Systemd {
    connection: zbus::Connection,
    manager: ManagerProxy<'static>,
    longest: Option<Duration>,
}

impl Systemd {
    /// Connects to the bus at `address` (as `unix:path=/run/dbus/system_bus_socket`), or to the system bus of this host.
    ///
    /// # Errors
    /// [`Error::NoBus`] if there is no bus, or no systemd on it.
    pub fn connect(address: Option<&str>) -> Result<Self> {
        use zbus::connection::Builder;
        let builder = address.map_or_else(Builder::system, Builder::address).method_timeout(CALL);
        let made: zbus::Result<Self> = zbus::block_on(async {
            let connection = builder.build().await?;
            let manager =
                ManagerProxy::builder(&connection).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
            // Without it systemd sends signals only of our own jobs, and older ones not even those.
            manager.subscribe().await?;
            Ok(Self { connection, manager, longest: None })
        });
        made.map_err(|e| Error::NoBus {
            address: address.unwrap_or("the system bus").to_owned(),
            reason: format!("{:#}", anyhow::Error::new(e)),
        })
    }

    /// Never waits longer than `longest` for one job, whatever the unit's own settings allow.
    #[must_use]
    pub fn wait_at_most(mut self, longest: Duration) -> Self {
        self.longest = Some(longest);
        self
    }

    /// What systemd knows of those of `names` that exist, in their order; an alias counts as the unit it stands for, once. `root` is where the
    /// files of `EnvironmentFile=` are, as seen by the units.
    ///
    /// # Errors
    /// If a name is bad, systemd does not answer, or a variable file cannot be read.
    pub fn units(&self, root: &Root, names: &[String]) -> Result<Vec<UnitState>> {
        let loaded = zbus::block_on(async {
            let units = self.load_all(names).await?;
            let mut services = Vec::new();
            for some in units.chunks(AT_ONCE) {
                services.extend(try_join_all(some.iter().map(|unit| self.service_properties(unit))).await?);
            }
            Ok::<_, Error>(units.into_iter().zip(services).collect::<Vec<_>>())
        })?;
        let state = |(unit, service): (Loaded, Option<Properties>)| {
            let id = unit.id.clone();
            state(root, unit, service).with_context(|| format!("looking at {id}")).map_err(Error::Other)
        };
        loaded.into_iter().map(state).collect()
    }

    /// Every service that is loaded, be it active or not, with the command line of its `ExecStart=`: the program's path, then its arguments.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn list(&self) -> Result<Vec<(String, Vec<String>)>> {
        zbus::block_on(async {
            let mut all = Vec::new();
            let units = self.manager.list_units().await.context("listing the units")?;
            let services: Vec<_> = units
                .into_iter()
                .filter(|(name, _, state, ..)| state == "loaded" && name.ends_with(".service"))
                .collect();
            for some in services.chunks(AT_ONCE) {
                let starts = some.iter().map(|(.., path, _, _, _)| {
                    Properties::one::<Vec<Exec>>(&self.connection, path, "Service", "ExecStart")
                });
                for ((name, ..), starts) in some.iter().zip(join_all(starts).await) {
                    // Gone since it was listed.
                    let Ok(starts) = starts else { continue };
                    let argv = starts.into_iter().next().map_or_else(Vec::new, |(path, argv, ..)| {
                        std::iter::once(path).chain(argv.into_iter().skip(1)).collect()
                    });
                    all.push((name.clone(), argv));
                }
            }
            Ok(all)
        })
    }

    /// Has systemd read all unit files anew, and waits until it has.
    ///
    /// # Errors
    /// If it does not.
    pub fn reload(&self) -> Result<()> {
        zbus::block_on(self.reload_now())
    }

    /// Whether the host is being shut down, as far as systemd and logind tell.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        zbus::block_on(async {
            let state = self.manager.system_state().await;
            // A shutdown that an inhibitor holds up has not reached systemd yet. Without a logind there is none.
            let logind = bus::preparing_for_shutdown(&self.connection).await;
            state.is_ok_and(|state| state == "stopping") || logind.unwrap_or(false)
        })
    }

    async fn reload_now(&self) -> Result<()> {
        log::info!("reloading systemd");
        Ok(self.manager.reload().await.context("reloading systemd")?)
    }

    /// Loads `name`; `None` if there is no such unit.
    async fn load(&self, name: &str) -> Result<Option<Loaded>> {
        let name = full_name(name)?;
        let path = self.manager.load_unit(&name).await.with_context(|| format!("loading {name}"))?;
        let mut properties =
            Properties::read(&self.connection, &path, "Unit").await.with_context(|| format!("looking at {name}"))?;
        let load_state: String = properties.take("LoadState")?;
        if load_state == "not-found" {
            return Ok(None);
        }
        let (id, active_state) = (properties.take("Id")?, properties.take("ActiveState")?);
        Ok(Some(Loaded { path, id, load_state, active_state, properties }))
    }

    async fn load_all(&self, names: &[String]) -> Result<Vec<Loaded>> {
        let mut all: Vec<Loaded> = Vec::new();
        for some in names.chunks(AT_ONCE) {
            for unit in try_join_all(some.iter().map(|name| self.load(name))).await?.into_iter().flatten() {
                if all.iter().all(|known| known.id != unit.id) {
                    all.push(unit);
                }
            }
        }
        Ok(all)
    }

    /// What only a service has.
    async fn service_properties(&self, unit: &Loaded) -> Result<Option<Properties>> {
        if !unit.id.ends_with(".service") {
            return Ok(None);
        }
        let properties = Properties::read(&self.connection, &unit.path, "Service").await;
        Ok(Some(properties.with_context(|| format!("looking at {}", unit.id))?))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    if bytes.iter().all(|b| *b == 0) { String::new() } else { bytes.iter().map(|b| format!("{b:02x}")).collect() }
}

fn state(root: &Root, unit: Loaded, service: Option<Properties>) -> anyhow::Result<UnitState> {
    let mut common = unit.properties;
    let mut state = UnitState {
        name: unit.id,
        load_state: unit.load_state,
        active_state: unit.active_state,
        sub_state: common.take("SubState")?,
        unit_file_state: common.take("UnitFileState")?,
        drop_ins: common.take("DropInPaths")?,
        needs_reload: common.take("NeedDaemonReload")?,
        invocation: hexadecimal(&common.take_newer::<Vec<u8>>("InvocationID")?),
        ..UnitState::default()
    };
    if let Some(mut service) = service {
        let pid: u32 = service.take("MainPID")?;
        state.main_pid = (pid != 0).then_some(pid);
        state.restarts = service.take_newer("NRestarts")?;
        state.user = service.take_set("User")?;
        state.group = service.take_set("Group")?;
        let files: Vec<(String, bool)> = service.take("EnvironmentFiles")?;
        let unset: Vec<String> = service.take_newer("UnsetEnvironment")?;
        state.environment = environment::resolve(root, service.take("Environment")?, &files, &unset)?;
        if let Some((path, argv, ..)) = service.take::<Vec<Exec>>("ExecStart")?.into_iter().next() {
            state.exec_start = std::iter::once(path).chain(argv.into_iter().skip(1)).collect();
        }
        state.timeout_stop = service.take_limit("TimeoutStopUSec")?;
        state.control_group = service.take("ControlGroup")?;
    }
    Ok(state)
}
