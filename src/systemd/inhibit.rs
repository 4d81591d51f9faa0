//! A shutdown is kept away while a run is at work, where logind is asked before one.

use std::os::fd::OwnedFd;

use zbus::proxy;

use super::Systemd;

/// The call of org.freedesktop.login1(5) that is used here.
#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Login {
    // A host without logind gets none for our sake.
    #[zbus(no_autostart)]
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<zbus::OwnedFd>;
}

/// A shutdown is kept away until this is dropped.
#[derive(Debug)]
pub struct Inhibitor(#[expect(dead_code, reason = "open as long as it inhibits")] OwnedFd);

impl Systemd {
    /// Keeps a shutdown away, with `why` for who asks for one. `None` where no logind answers.
    #[must_use]
    pub fn inhibit_shutdown(&self, why: &str) -> Option<Inhibitor> {
        let asked: zbus::Result<zbus::OwnedFd> = zbus::block_on(async {
            let login = LoginProxy::builder(&self.connection)
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            login.inhibit("shutdown", "keymgr-upgrade", why, "block").await
        });
        match asked {
            Ok(fd) => Some(Inhibitor(fd.into())),
            Err(error) => {
                log::info!("no inhibitor of shutdowns: {error}");
                None
            }
        }
    }
}
