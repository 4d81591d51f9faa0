//! How the server of a database is reached: past a pooler, with a lock, and who else is there.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result, anyhow, bail};
use secrecy::SecretString;

use super::site::Host;
use crate::db::{self, Access, Addresses, Claim, Database, Dialect, Holder, Lock, Origin, Url, Visitor, Visitors};
use crate::files::{Root, digest};

/// A database on a server, and the way to it.
#[derive(Debug)]
pub(super) struct Server {
    configured: Url,
    /// The URL of `[database] direct_connection_file`, where that is set.
    direct: Option<Url>,
    /// We may go there: it is the host's own, or the operator said so.
    allowed: bool,
    claim: Claim,
    wait: std::time::Duration,
    ways: Ways,
}

/// The ways to servers that were seen to lead to a session of our own, each with one that is kept open for those who only look. Connecting takes
/// longer than most of what is asked, and services are down meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways(Rc<RefCell<Vec<(Url, db::Kept)>>>);

impl Ways {
    fn of(&self, url: &Url) -> Option<db::Kept> {
        self.0.borrow().iter().find(|(known, _)| known.is_same(url)).map(|(_, kept)| kept.clone())
    }

    fn add(&self, url: &Url) {
        self.0.borrow_mut().push((url.clone(), db::Kept::default()));
    }
}

impl Server {
    /// `None` for a file.
    pub(super) fn load(host: &Host, url: Option<&Url>) -> Result<Option<Self>> {
        let Some(configured) = url.filter(|u| u.dialect() != Dialect::Sqlite) else { return Ok(None) };
        let direct = match &host.settings.direct_connection_file {
            Some(file) => Some(url_in(&host.root, "[database] direct_connection_file", file, configured)?),
            None => None,
        };
        Ok(Some(Self {
            configured: configured.clone(),
            direct,
            allowed: host.root.is_host() || host.allow_network_db,
            claim: claim(&host.root)?,
            wait: host.settings.lock_timeout,
            ways: host.ways().clone(),
        }))
    }

    /// The URL to work with: it leads to a session of our own, on a whole server.
    ///
    /// # Errors
    /// [`db::Error::Pooled`], [`db::Error::GaleraNode`], [`db::Error::NotTheSame`], or what connecting runs into.
    pub(super) fn url(&self) -> Result<&Url> {
        if !self.allowed {
            bail!(
                "{}: the image leads to a database that is not in it: --allow-network-db, if you mean it",
                self.configured
            );
        }
        let url = self.direct.as_ref().unwrap_or(&self.configured);
        if self.ways.of(url).is_none() {
            db::refuse_borrowed(url)?;
            db::pooler(url, self.wait)?;
            if self.direct.is_some() {
                db::same(&self.configured, url, self.wait)?;
            }
            self.ways.add(url);
        }
        Ok(url)
    }

    /// Opens the database; one that is only looked at in the session that is kept for that.
    ///
    /// # Errors
    /// As [`Self::url`], or if it cannot be opened.
    pub(super) fn open(&self, access: Access) -> Result<Database> {
        let url = self.url()?;
        match (access, self.ways.of(url)) {
            (Access::ReadOnly, Some(kept)) => Ok(Database::look(url, self.wait, &kept)?),
            _ => Ok(Database::open(url, Path::new(""), access, self.wait)?),
        }
    }

    /// Takes the lock, for the run if there is one already.
    pub(super) fn lock(&self, run: Option<&str>) -> Result<Lock> {
        let claim = Claim { run: run.map(str::to_owned), ..self.claim.clone() };
        Ok(Lock::take(self.url()?, claim, self.wait)?)
    }

    pub(super) fn holder(&self) -> Result<Option<(Holder, bool)>> {
        let holder = db::holder(self.url()?, self.wait)?;
        Ok(holder.map(|holder| {
            let ours = |c: &Claim| (&c.host, &c.machine) == (&self.claim.host, &self.claim.machine);
            let ours = holder.claim.as_ref().is_some_and(ours);
            (holder, ours)
        }))
    }

    pub(super) fn unlock(&self, holder: &Holder) -> Result<bool> {
        Ok(db::unlock(self.url()?, holder, self.wait)?)
    }

    /// Looks `looks` times at most, as long as there are any that matter: those of this host do only where `local` says so.
    pub(super) fn visitors(&self, local: bool, looks: usize) -> Result<Visitors> {
        let matters = |visitor: &Visitor| local || visitor.from != Origin::Here;
        Ok(db::visitors(self.url()?, &addresses()?, matters, looks, self.wait)?)
    }
}

/// Others are on the database, or it cannot be told that they are not.
#[derive(Debug, thiserror::Error)]
#[error("others are on the database: {0}")]
pub struct Occupied(
    /// Which ones, and from where.
    pub String,
);

impl Occupied {
    /// Judges what was seen.
    #[must_use]
    pub fn by(visitors: &Visitors, local: bool) -> Option<Self> {
        let who: Vec<String> =
            visitors.all.iter().filter(|v| local || v.from != Origin::Here).map(ToString::to_string).collect();
        let all = [who, visitors.unseen.clone()].concat();
        (!all.is_empty()).then(|| Self(all.join("; ")))
    }
}

/// The URL in `file`, which the setting `name` names, and which holds a password and is trusted with all data: only its owner and group may read
/// it, only its owner may write it, and that is root or who we are.
///
/// # Errors
/// If it cannot be read, or is not of the same dialect as `configured`.
pub fn url_in(root: &Root, name: &str, file: &Path, configured: &Url) -> Result<Url> {
    let shown = root.shown(file);
    let contents = root.read(file)?.with_context(|| format!("{name}: no such file: {}", shown.display()))?;
    let attributes = contents.attributes;
    if attributes.mode & 0o027 != 0 {
        bail!("{name}: {}: others may read or write it: chmod 0600 {}", shown.display(), shown.display());
    }
    if attributes.uid != 0 && attributes.uid != nix::unistd::geteuid().as_raw() {
        bail!("{name}: {}: it belongs to user {}, not to root", shown.display(), attributes.uid);
    }
    let text = String::from_utf8(contents.bytes).map_err(|_| anyhow!("{name}: {} is not UTF-8", shown.display()))?;
    let url = Url::parse(&SecretString::from(text)).with_context(|| format!("{name}: {}", shown.display()))?;
    if url.dialect() != configured.dialect() {
        bail!("{name}: {url} is not a {} database, as {configured} is", configured.dialect());
    }
    Ok(url)
}

/// Who we are, for the lock. An image is a deployment of its own, on whatever host it lies.
fn claim(root: &Root) -> Result<Claim> {
    let mut host = nix::unistd::gethostname().context("the name of this host")?.to_string_lossy().into_owned();
    if !root.is_host() {
        host = format!("{host}:{}", root.path().display());
    }
    // machine-id(5) asks not to show it.
    let id = std::fs::read("/etc/machine-id").unwrap_or_default();
    let machine = digest(&[b"keymgr-upgrade ", &id[..]].concat()).chars().take(12).collect();
    Ok(Claim { host, machine, run: None })
}

/// The addresses of this host.
fn addresses() -> Result<Addresses> {
    let all = nix::ifaddrs::getifaddrs().context("the addresses of this host")?;
    Ok(all
        .filter_map(|one| {
            let address = one.address?;
            let v4 = address.as_sockaddr_in().map(|a| a.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
        })
        .collect())
}
