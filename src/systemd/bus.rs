//! What is said on the bus: the manager's calls, and a unit's properties.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_core::Stream;
use zbus::{OwnedObjectPath, OwnedVariant, proxy};

/// The calls and the signal of org.freedesktop.systemd1(5) that are used here.
#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, zbus::Variant<'_>)],
        others: &[(&str, Vec<(&str, zbus::Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn ref_unit(&self, name: &str) -> zbus::Result<()>;
    fn list_units(&self) -> zbus::Result<Vec<Listed>>;
    fn get_unit_processes(&self, name: &str) -> zbus::Result<Vec<(String, u32, String)>>;

    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// A loaded unit: name, description, load state, active state, sub state, followed unit, object, then its job's number, type and object.
pub(super) type Listed =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// One entry of `ExecStart`: path, argv, whether failure is ignored, then times, pid and exit status of the last run.
pub(super) type Exec = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// The properties of one interface of one unit.
#[derive(Default)]
pub(super) struct Properties(HashMap<String, OwnedVariant>);

impl Properties {
    /// Asks for all properties of `interface`, the last part of its name: Unit or Service.
    pub(super) async fn read(
        connection: &zbus::Connection,
        path: &OwnedObjectPath,
        interface: &str,
    ) -> zbus::Result<Self> {
        let interface = format!("org.freedesktop.systemd1.{interface}");
        let (service, properties) = ("org.freedesktop.systemd1", "org.freedesktop.DBus.Properties");
        let reply = connection.call_method(Some(service), path, Some(properties), "GetAll", &interface).await?;
        Ok(Self(reply.body().deserialize()?))
    }

    /// Asks for one property alone.
    pub(super) async fn one<T>(
        connection: &zbus::Connection,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let interface = format!("org.freedesktop.systemd1.{interface}");
        let (service, properties) = ("org.freedesktop.systemd1", "org.freedesktop.DBus.Properties");
        let reply = connection.call_method(Some(service), path, Some(properties), "Get", &(interface, name)).await?;
        let value: OwnedVariant = reply.body().deserialize()?;
        T::try_from(value).map_err(|e| anyhow!(e.into()).context(format!("property {name}")))
    }

    /// Reads a list of strings; what is not there is empty.
    pub(super) fn strings(&self, name: &str) -> Vec<String> {
        let value = self.0.get(name).and_then(|value| value.try_clone().ok());
        value.and_then(|value| value.try_into().ok()).unwrap_or_default()
    }

    /// Takes one out.
    pub(super) fn take<T>(&mut self, name: &str) -> Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let value = self.0.remove(name).with_context(|| format!("systemd does not tell the property {name}"))?;
        T::try_from(value).map_err(|e| anyhow!(e.into()).context(format!("property {name}")))
    }

    /// Takes one out that came with a later release of systemd: without it, it cannot have been set.
    pub(super) fn take_newer<T>(&mut self, name: &str) -> Result<T>
    where
        T: TryFrom<OwnedVariant> + Default,
        T::Error: Into<zbus::Error>,
    {
        if self.0.contains_key(name) { self.take(name) } else { Ok(T::default()) }
    }

    /// Takes a string out; the empty one is what systemd gives for "not set".
    pub(super) fn take_set(&mut self, name: &str) -> Result<Option<String>> {
        Ok(Some(self.take::<String>(name)?).filter(|text| !text.is_empty()))
    }

    /// Takes a time limit out; `None` is "infinity", which up to release 228 was 0.
    pub(super) fn take_limit(&mut self, name: &str) -> Result<Option<Duration>> {
        let microseconds: u64 = self.take(name)?;
        Ok((!matches!(microseconds, 0 | u64::MAX)).then(|| Duration::from_micros(microseconds)))
    }
}

/// Whether logind has begun a shutdown (org.freedesktop.login1(5)).
pub(super) async fn preparing_for_shutdown(connection: &zbus::Connection) -> zbus::Result<bool> {
    let (service, path) = ("org.freedesktop.login1", "/org/freedesktop/login1");
    let asked = ("org.freedesktop.login1.Manager", "PreparingForShutdown");
    let properties = "org.freedesktop.DBus.Properties";
    let reply = connection.call_method(Some(service), path, Some(properties), "Get", &asked).await?;
    let value: OwnedVariant = reply.body().deserialize()?;
    bool::try_from(value)
}

/// The next item of a stream, or `None` at its end.
pub(super) async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// Waits for `future` no longer than `limit`; `None` if that has passed.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Result<Option<F::Output>> {
    let runtime = zruntime::SharedRuntime::current().context("making a timer")?;
    Ok(runtime.timeout(limit, future).await.ok())
}

/// Passes `time`.
pub(super) async fn pass(time: Duration) -> Result<()> {
    within(time, std::future::pending::<()>()).await.map(|_| ())
}

/// Whether systemd answered that it does not know the unit (any more).
pub(super) fn is_unknown_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}

/// Whether this systemd is too old to know the call.
pub(super) fn is_unknown_call(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(e) if matches!(**e, zbus::fdo::Error::UnknownMethod(_)))
}
