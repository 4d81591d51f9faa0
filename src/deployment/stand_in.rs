//! A host that stands in for this one: private copies of its files, another database, the same token reached in the same way.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::site::Host;
use super::{Deployment, Site};
use crate::db::Url;
use crate::files::Root;
use crate::journal::private;
use crate::systemd::UnitState;

/// What of the host that is stood in for the files do not tell.
#[derive(Debug)]
pub(super) struct StandIn {
    /// The database in place of the configured one.
    pub(super) url: Url,
    /// The units, for the user and the environment in which the PKCS#11 module is loaded. None of them is ever started or stopped.
    pub(super) units: Vec<UnitState>,
}

impl Host {
    /// Copies into `root` what the steps of a plan read and edit, and stands in for this host with the database at `url`.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn stand_in(&self, root: Root, url: Url, deployment: &Deployment) -> Result<Self> {
        let config = deployment.config.files.iter().chain(&deployment.config.legacy).chain(&deployment.paste);
        // The two last tell which user the module is loaded as.
        let system = ["/etc/passwd", "/etc/group"].map(Path::new);
        for path in config.map(|f| f.path.as_path()).chain(system) {
            let Some(contents) = self.root.read(path)? else { continue };
            root.make_directory(path.parent().unwrap_or(Path::new("/")), 0o700)?;
            root.write(path, &contents.bytes, private())?;
        }
        let module = match &self.module {
            Some(module) => Some(module.clone()),
            None => deployment.config.text("p11_crypto_plugin", "library_path")?.map(PathBuf::from),
        };
        let mut host = Self::new(root, self.settings.clone(), self.worker.clone());
        host.settings.direct_connection_file = None;
        host.module = module;
        host.allow_network_db = true;
        host.stand_in = Some(StandIn { url, units: deployment.site.units().to_vec() });
        Ok(host)
    }
}

impl Site {
    fn units(&self) -> &[UnitState] {
        self.services.states()
    }
}
