//! How to reach a deployment's database, token and services, as a given release reads the configuration.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, anyhow, bail};
use secrecy::{ExposeSecret, SecretString};

use super::discover::{self, Found};
use super::reach::{Occupied, Server, Ways};
use super::services::Services;
use super::stand_in::StandIn;
use crate::command::Identity;
use crate::config::Config;
use crate::db::{Access, Database, Dialect, Holder, Lock, Url, Visitors};
use crate::files::Root;
use crate::hsm::{self, DataMechanism, Hsm, Selector};
use crate::kek::{Keys, SimpleKeys, Survey, Whole};
use crate::release::Release;
use crate::settings::Settings;
use crate::systemd::{self, Systemd};
use crate::units;

/// Where the service's relative paths begin: the home of the user `barbican` in the distributions' packages.
const WORKING_DIRECTORY: &str = "/var/lib/barbican";
/// The default of `[simple_crypto_plugin] kek` up to 20.0.0, public in Barbican's own tree.
const PUBLIC_KEK: &str = "dGhpcnR5X3R3b19ieXRlX2tleWJsYWhibGFoYmxhaGg=";
/// The plugin of stores whose secrets lie in the database itself.
pub(super) const IN_DATABASE: &str = "barbican.plugin.store_crypto.StoreCryptoAdapterPlugin";
/// The default database URL from 5.0.0 on.
const DEFAULT_URL: &str = "sqlite:///barbican.sqlite";

/// What of this host or image, besides Barbican's own files, decides how things are reached.
#[derive(Debug)]
pub struct Host {
    /// The host, or the image.
    pub root: Root,
    /// The tool's settings.
    pub settings: Settings,
    /// The PKCS#11 module to use in place of the configured one, for work on an image.
    pub module: Option<PathBuf>,
    /// On an image: a database that is not in it may be worked on.
    pub allow_network_db: bool,
    /// Our own executable, started as the PKCS#11 worker.
    pub worker: PathBuf,
    /// What of another host this one stands in for.
    pub(super) stand_in: Option<StandIn>,
    /// What was found to run Barbican, once it was looked for.
    found: OnceCell<Found>,
    /// The way to systemd, once it was looked for.
    systemd: OnceCell<Option<Systemd>>,
    /// Its units as systemd has them, once it was asked.
    services: OnceCell<Rc<Services>>,
    /// The ways to database servers that were gone.
    ways: Ways,
}

impl Host {
    /// The host or image below `root`, with these settings; `worker` is our own executable.
    #[must_use]
    pub fn new(root: Root, settings: Settings, worker: PathBuf) -> Self {
        let (stand_in, found, systemd, services, ways) = Default::default();
        Self { root, settings, module: None, allow_network_db: false, worker, stand_in, found, systemd, services, ways }
    }

    #[cfg(test)]
    pub(super) fn of(root: Root) -> Self {
        Self::new(root, Settings::default(), PathBuf::new())
    }

    /// Which units and web servers run Barbican, looked for once.
    ///
    /// # Errors
    /// As [`Found::look`].
    pub fn found(&self) -> Result<&Found> {
        if self.found.get().is_none() {
            self.found.set(Found::look(&self.root, self.systemd()?)?).ok();
        }
        self.found.get().context("nothing was looked for")
    }

    /// Looks for them, for what systemd has of them and for the ways to servers anew from now on: package work may bring others.
    pub fn look_anew(&mut self) {
        (self.found, self.systemd, self.services, self.ways) = Default::default();
    }

    /// The way to systemd; none on an image or where none runs.
    pub(super) fn systemd(&self) -> Result<Option<&Systemd>> {
        if self.systemd.get().is_none() {
            let here = self.root.is_host() && systemd::running();
            self.systemd.set(if here { Some(Systemd::connect(None)?) } else { None }).ok();
        }
        Ok(self.systemd.get().and_then(Option::as_ref))
    }

    /// Its units with what they set, and the way to systemd; asked once. Whether they run is to be asked again.
    pub(super) fn services(&self) -> Result<&Rc<Services>> {
        if self.services.get().is_none() {
            self.services.set(Rc::new(Services::of(self)?)).ok();
        }
        self.services.get().context("systemd was not asked")
    }

    /// The ways to database servers, shared with whoever goes one.
    pub(super) fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Where the API can be asked on this host, without a path, as its launcher's files or Barbican's own tell; none where it speaks no HTTP itself.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn listens_at(&self) -> Result<Option<String>> {
        discover::listens_at(self, self.found()?)
    }

    /// All units to stop and hold: those that packages bring, there or not, the site's own, and those found.
    ///
    /// # Errors
    /// If a name in the settings is none, or it cannot be looked.
    pub fn unit_names(&self) -> Result<Vec<String>> {
        let own = &self.settings.units;
        units::names(&[own.as_slice(), &self.found()?.names(self.settings.web_server)].concat())
    }

    /// Barbican's configuration as its process reads it: the files, and the environment that its unit sets.
    ///
    /// # Errors
    /// If a file cannot be read the way oslo.config reads it, or systemd cannot be asked.
    pub fn config(&self) -> Result<Config> {
        let mut config = Config::load(&self.root, &self.settings.config_file)?;
        config.environment = self.services()?.variables();
        Ok(config)
    }
}

/// A deployment within reach.
#[derive(Debug)]
pub struct Site {
    url: Option<Url>,
    path: Result<PathBuf, String>,
    server: Option<Server>,
    wait: std::time::Duration,
    token: Result<hsm::Config, String>,
    keys: Keys,
    pub(super) services: Rc<Services>,
    /// The login failed once; it is not tried again, since tokens lock themselves.
    token_failed: Option<String>,
    /// The token, while it is being opened.
    opening: Option<std::thread::JoinHandle<Result<Hsm, hsm::Error>>>,
}

impl Site {
    /// Reads from the configuration how `release` reaches its database and keys. Nothing is opened yet.
    ///
    /// # Errors
    /// If an option cannot be read or has a value that is not known.
    pub fn load(host: &Host, config: &Config, release: &Release) -> Result<Self> {
        let services = Rc::clone(host.services()?);
        let identity = identity(&host.root, services.user())?;
        let url = match &host.stand_in {
            Some(stand_in) => Some(stand_in.url.clone()),
            // The service's user may write its configuration, on Debian it owns it, and so chooses the server.
            None => database_url(config, release)?.map(|url| url.by(identity.clone())),
        };
        let path = match &url {
            Some(url) if url.dialect() == Dialect::Sqlite => sqlite_path(&host.root, url).map_err(|e| format!("{e:#}")),
            Some(url) => Err(format!("{url}: not an SQLite file")),
            None => {
                Err("no database is configured: neither [database] connection nor [DEFAULT] sql_connection".to_owned())
            }
        };
        let server = Server::load(host, url.as_ref())?;
        let token = token(host, config, &services, identity).map_err(|e| format!("{e:#}"));
        let simple = simple_keys(config, release)?;
        let keys = Keys { hsm: None, simple, candidates: candidates(config)? };
        let wait = host.settings.lock_timeout;
        Ok(Self { url, path, server, wait, token, keys, services, token_failed: None, opening: None })
    }

    /// Whether a database is configured and, for a file, is there.
    #[must_use]
    pub fn has_database(&self) -> bool {
        self.path.is_ok() || self.on_server()
    }

    fn on_server(&self) -> bool {
        self.server.is_some()
    }

    /// Where the database is, however the URL spells it: the file inside the root, or server and name. Empty where none is within reach.
    #[must_use]
    pub fn place(&self, root: &Root) -> PathBuf {
        match (&self.url, &self.path) {
            (_, Ok(path)) => root.inside(path),
            (Some(url), _) if self.on_server() => url.place().into(),
            _ => PathBuf::new(),
        }
    }

    /// The database, without a password.
    #[must_use]
    pub fn shown(&self) -> String {
        self.url.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    }

    /// The URL, where one is configured.
    #[must_use]
    pub fn url(&self) -> Option<&Url> {
        self.url.as_ref()
    }

    /// The URL by which the server is reached; `None` for a file.
    ///
    /// # Errors
    /// If it cannot be worked with.
    pub fn reached(&self) -> Result<Option<&Url>> {
        self.server.as_ref().map(Server::url).transpose()
    }

    /// The SQLite file on this host.
    ///
    /// # Errors
    /// If there is none.
    pub fn path(&self) -> Result<&Path> {
        self.path.as_deref().map_err(|e| anyhow!(e.clone()))
    }

    /// Where a new SQLite file would be made, on this host: its directory must be there.
    ///
    /// # Errors
    /// If none is configured, or the directory is missing.
    pub fn new_path(&self, host: &Host) -> Result<PathBuf> {
        let url = self.url.as_ref().context("no database is configured")?;
        let path = url.sqlite_path().with_context(|| format!("{url}: not an SQLite file"))?;
        let path = Path::new(WORKING_DIRECTORY).join(path);
        let parent = path.parent().context("the database has no directory")?;
        let name = path.file_name().context("the database has no name")?;
        Ok(host.root.real_path(parent)?.join(name))
    }

    /// Opens the database.
    ///
    /// # Errors
    /// If it cannot be opened; never creates one.
    pub fn open(&self, access: Access) -> Result<Database> {
        let url = self.url.as_ref().context("no database is configured")?;
        match &self.server {
            Some(server) => server.open(access),
            None => Ok(Database::open(url, self.path()?, access, self.wait)?),
        }
    }

    /// Takes the lock of the database, for the run if there is one already; `None` for a file.
    ///
    /// # Errors
    /// [`crate::db::Error::Held`] with the holder's name, or if the server cannot be worked with.
    pub fn lock(&self, run: Option<&str>) -> Result<Option<Lock>> {
        self.server.as_ref().map(|s| s.lock(run)).transpose()
    }

    /// Who has the lock of the database, and whether that is this host; `None` if nobody does, and for a file.
    ///
    /// # Errors
    /// If the server cannot be worked with.
    pub fn lock_holder(&self) -> Result<Option<(Holder, bool)>> {
        self.server.as_ref().map_or(Ok(None), Server::holder)
    }

    /// Removes a lock that outlived its process, if it is still `holder`'s; says whether it was.
    ///
    /// # Errors
    /// If the server cannot be worked with.
    pub fn unlock(&self, holder: &Holder) -> Result<bool> {
        self.server.as_ref().map_or(Ok(false), |s| s.unlock(holder))
    }

    /// The sessions on the database that are not ours; `None` for a file.
    ///
    /// # Errors
    /// If the server cannot be worked with.
    pub fn visitors(&self) -> Result<Option<Visitors>> {
        self.server.as_ref().map(|s| s.visitors(true, 1)).transpose()
    }

    /// Refuses while others are on the database: those of other hosts, and where `local` says so also those of this one.
    ///
    /// # Errors
    /// [`Occupied`], or if it cannot be looked.
    pub fn alone(&self, local: bool) -> Result<()> {
        // Two seconds for sessions that are about to end.
        let visitors = self.server.as_ref().map(|s| s.visitors(local, 10)).transpose()?;
        match visitors.and_then(|v| Occupied::by(&v, local)) {
            Some(occupied) => Err(occupied.into()),
            None => Ok(()),
        }
    }

    /// Undoes what a killed process left unfinished in the database.
    ///
    /// # Errors
    /// If the database is in use or cannot be written.
    pub fn settle(&self) -> Result<()> {
        match &self.path {
            Ok(path) => Ok(Database::settle(path, self.wait)?),
            Err(_) => Ok(()),
        }
    }

    /// The keys, with the token opened if any row needs it.
    ///
    /// # Errors
    /// If the token is needed and cannot be opened. A login that failed is not tried again.
    pub fn keys(&mut self, needs_token: bool) -> Result<&mut Keys> {
        if needs_token && self.keys.hsm.is_none() {
            if let Some(error) = &self.token_failed {
                bail!("{error}");
            }
            match self.open_token()? {
                Ok(hsm) => self.keys.hsm = Some(hsm),
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    self.token_failed = Some(error.clone());
                    bail!("{error}");
                }
            }
        }
        Ok(&mut self.keys)
    }

    /// Begins to open the token while other things are looked at, for who will need it soon: its module takes its time. What comes of it is told when
    /// it is asked for.
    pub fn open_token_meanwhile(&mut self) {
        if let (None, None, None, Ok(config)) = (&self.keys.hsm, &self.token_failed, &self.opening, &self.token) {
            let config = config.clone();
            self.opening = Some(std::thread::spawn(move || Hsm::spawn(&config)));
        }
    }

    /// The outer error: no token is configured.
    fn open_token(&mut self) -> Result<Result<Hsm, hsm::Error>> {
        let opening = self.opening.take();
        let config = self.token.as_ref().map_err(|e| anyhow!(e.clone()))?;
        Ok(match opening {
            Some(opening) => opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Hsm::spawn(config),
        })
    }

    /// Takes over the open token of `before`, where it is the very same one, reached in the very same way.
    pub fn take_token(&mut self, before: Self) {
        if let (Ok(ours), Ok(theirs)) = (&self.token, &before.token)
            && ours.is_same(theirs)
        {
            self.keys.hsm = before.keys.hsm;
            self.token_failed = before.token_failed;
        }
    }

    /// Opens the token, once more also where it was not there before. A login that failed is not tried again.
    ///
    /// # Errors
    /// [`hsm::Error`], or why no token is configured.
    pub fn reach_token(&mut self) -> Result<()> {
        if let (None, None) = (&self.keys.hsm, &self.token_failed) {
            match self.open_token()? {
                Ok(hsm) => self.keys.hsm = Some(hsm),
                Err(error) => {
                    if matches!(error, hsm::Error::PinRefused { .. } | hsm::Error::PinAtRisk { .. }) {
                        self.token_failed = Some(error.to_string());
                    }
                    return Err(error.into());
                }
            }
        }
        self.token_failed.as_ref().map_or(Ok(()), |error| Err(anyhow!(error.clone())))
    }

    /// Secrets by the store that holds them outside the database.
    ///
    /// # Errors
    /// If the database cannot be asked.
    pub fn elsewhere(&self) -> Result<BTreeMap<String, u64>> {
        let database = self.open(Access::ReadOnly)?;
        let stores = database.store_counts(IN_DATABASE)?;
        Ok(stores.into_iter().map(|s| (s.plugin_name, s.live)).collect())
    }

    /// Whether a PKCS#11 module is configured.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_ok()
    }

    /// The mechanisms to try for p11 secrets that do not say theirs.
    #[must_use]
    pub fn candidates(&self) -> &[DataMechanism] {
        &self.keys.candidates
    }

    /// Judges every KEK and tries every secret of the database.
    ///
    /// # Errors
    /// If the database or the token cannot be used.
    pub fn survey(&mut self) -> Result<Survey> {
        let mut database = self.open(Access::ReadOnly)?;
        let needs_token = database.has_bound_keks(crate::kek::P11_CRYPTO)?;
        Survey::of(&mut database, self.keys(needs_token)?)
    }

    /// Does so with a part of a large database, in which there are `whole` rows: see [`Survey::quick`].
    ///
    /// # Errors
    /// As [`Self::survey`].
    pub fn survey_part(&mut self, whole: Whole, sample: &BTreeSet<String>) -> Result<Survey> {
        let mut database = self.open(Access::ReadOnly)?;
        let needs_token = database.has_bound_keks(crate::kek::P11_CRYPTO)?;
        Survey::quick(&mut database, whole, sample, self.keys(needs_token)?)
    }
}

/// The database URL as `release` reads it: only the old name up to 17.0.0, both in 18.0.0, only the new one from 19.0.0 on.
///
/// While a run is under way both names may be in the files, or already only the new one; for an old release the new name is taken where the old
/// one is gone, since only a run of ours removes it.
fn database_option(config: &Config, release: &Release) -> Result<Option<(SecretString, &'static str)>> {
    let new = config.secret("database", "connection")?;
    let old = config.secret("DEFAULT", "sql_connection")?;
    let new = new.map(|url| (url, "[database] connection"));
    let old = old.map(|url| (url, "[DEFAULT] sql_connection"));
    let chosen = if release.order_at_least("2024.2") {
        new
    } else if release.order_at_least("2024.1") {
        new.or(old)
    } else {
        old.or(new)
    };
    let default = release.order_at_least("pike").then(|| (SecretString::from(DEFAULT_URL), "the default database"));
    Ok(chosen.or(default))
}

fn database_url(config: &Config, release: &Release) -> Result<Option<Url>> {
    let Some((url, name)) = database_option(config, release)? else { return Ok(None) };
    Ok(Some(Url::parse(&url).context(name)?))
}

/// What `to` would read from the files as they will be, and `from` does not read from them as they are: another database, or keys that are not
/// those in use. In words, without a value.
///
/// # Errors
/// If an option cannot be read.
pub fn leads_elsewhere(before: &Config, from: &Release, after: &Config, to: &Release) -> Result<Option<String>> {
    let raw = |secret: Option<SecretString>| secret.map(|s| s.expose_secret().to_owned());
    let url = |config, release| -> Result<_> { Ok(raw(database_option(config, release)?.map(|(url, _)| url))) };
    if url(before, from)? != url(after, to)? {
        let text = format!(
            "the database that {from} uses is not the one that {to} would read from the files: \
             [DEFAULT] sql_connection and [database] connection differ, perhaps in a .conf.d file"
        );
        return Ok(Some(text));
    }
    let keys = |config: &Config, release: &Release| -> Result<Vec<String>> {
        Ok(simple_options(config, release)?.into_iter().filter_map(|k| raw(Some(k))).collect())
    };
    let (had, has) = (keys(before, from)?, keys(after, to)?);
    let set = !before.secrets("simple_crypto_plugin", "kek")?.is_empty();
    if set && !had.iter().all(|key| has.contains(key)) {
        return Ok(Some(format!("[simple_crypto_plugin] kek: {to} would read another key than {from} uses")));
    }
    Ok(None)
}

fn sqlite_path(root: &Root, url: &Url) -> Result<PathBuf> {
    let path = url.sqlite_path().with_context(|| format!("{url}: not an SQLite file"))?;
    let path = Path::new(WORKING_DIRECTORY).join(path);
    let missing = || format!("database {url}: no such file: {}", root.shown(&path).display());
    if !root.exists(&path) {
        bail!("{}", missing());
    }
    root.file_path(&path).with_context(|| format!("database {url}"))
}

/// The simple_crypto keys as `release` reads them: one up to 19.0.0, of which the last line counts, then several.
fn simple_options(config: &Config, release: &Release) -> Result<Vec<SecretString>> {
    let mut keys = config.secrets("simple_crypto_plugin", "kek")?;
    if !release.order_at_least("2025.1") {
        keys = keys.pop().into_iter().collect();
    }
    if keys.is_empty() && !release.order_at_least("2025.2") {
        keys.push(SecretString::from(PUBLIC_KEK));
    }
    Ok(keys)
}

fn simple_keys(config: &Config, release: &Release) -> Result<Option<SimpleKeys>> {
    let keys = simple_options(config, release)?;
    if keys.is_empty() {
        return Ok(None);
    }
    SimpleKeys::new(keys).map(Some)
}

/// The mechanism by which 7.0.0 and later read p11 secrets, whatever each of them says: `encryption_mechanism`.
///
/// # Errors
/// If the option cannot be read.
pub fn read_mechanism(config: &Config) -> Result<String> {
    let set = config.first("p11_crypto_plugin", &["encryption_mechanism", "algorithm"])?;
    Ok(set.unwrap_or_else(|| "CKM_AES_CBC".to_owned()))
}

/// The mechanisms under which p11 secrets without a recorded one may be: the site's own option first, then those of the time.
///
/// Code that recorded none (up to 6.0.1) knew only GCM. CBC is tried last, and only where the site names it: it has no tag, so that a wrong
/// decryption would pass once in 255 times.
fn candidates(config: &Config) -> Result<Vec<DataMechanism>> {
    let configured = match config.first("p11_crypto_plugin", &["encryption_mechanism", "algorithm"])? {
        Some(name) => Some(name.parse::<DataMechanism>().context("[p11_crypto_plugin] encryption_mechanism")?),
        None => None,
    };
    let mut all: Vec<DataMechanism> = configured.into_iter().filter(|m| m.is_authenticated()).collect();
    for one in [DataMechanism::SafenetAesGcm, DataMechanism::AesGcm] {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all.extend(configured.filter(|m| !m.is_authenticated()));
    Ok(all)
}

fn token(host: &Host, config: &Config, services: &Services, identity: Option<Identity>) -> Result<hsm::Config> {
    let text = |name: &str| config.text("p11_crypto_plugin", name);
    let yes = |name: &str, default: bool| -> Result<bool> { boolean("p11_crypto_plugin", name, text(name)?, default) };
    let module = match (&host.module, text("library_path")?) {
        (Some(module), _) => module.clone(),
        (None, Some(_)) if !host.root.is_host() => {
            bail!(
                "on an image the configured PKCS#11 module is not loaded: name one of this host with --pkcs11-module"
            );
        }
        (None, Some(path)) => PathBuf::from(path),
        (None, None) => bail!("[p11_crypto_plugin] library_path is not set"),
    };
    let list = |value: Option<String>| -> Vec<String> {
        value.iter().flat_map(|v| v.split(',')).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect()
    };
    let mut labels = list(text("token_labels")?);
    labels.extend(text("token_label")?.filter(|_| labels.is_empty()));
    let slot = text("slot_id")?
        .map(|v| v.parse::<u64>().map_err(|_| anyhow!("[p11_crypto_plugin] slot_id: {v:?} is no slot number")))
        .transpose()?;
    let hmac_key_type = match text("hmac_key_type")? {
        Some(name) => name.parse().context("[p11_crypto_plugin] hmac_key_type")?,
        None => hsm::HmacKeyType::Aes,
    };
    let hmac_mechanism = match config.first("p11_crypto_plugin", &["hmac_mechanism", "hmac_keywrap_mechanism"])? {
        Some(name) => name.parse().context("[p11_crypto_plugin] hmac_mechanism")?,
        None => hsm::HmacMechanism::Sha256Hmac,
    };
    let pin = config.secret("p11_crypto_plugin", "login")?.context("[p11_crypto_plugin] login is not set")?;
    Ok(hsm::Config {
        worker: host.worker.clone(),
        module,
        pin: SecretString::from(pin.expose_secret().trim().to_owned()),
        token: Selector { serial: text("token_serial_number")?, labels, slot: slot.or(Some(1)) },
        rw_session: yes("rw_session", true)?,
        os_locking_ok: yes("os_locking_ok", false)?,
        hmac_key_type,
        hmac_mechanism,
        identity,
        environment: services.environment().unwrap_or_else(environment),
        timeout: host.settings.hsm_timeout,
        sessions: host.settings.hsm_sessions,
    })
}

/// A boolean as oslo.config reads it.
pub(super) fn boolean(group: &str, name: &str, value: Option<String>, default: bool) -> Result<bool> {
    match value.map(|v| v.to_lowercase()).as_deref() {
        None => Ok(default),
        Some("true" | "1" | "yes" | "on") => Ok(true),
        Some("false" | "0" | "no" | "off") => Ok(false),
        Some(other) => bail!("[{group}] {name}: {other:?} is neither true nor false"),
    }
}

/// Who the service is: the user of its unit, or `barbican` of the root, where we are root and there is one.
fn identity(root: &Root, user: Option<&str>) -> Result<Option<Identity>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let lines = |file: &str| -> Result<String> { Ok(root.read_text(Path::new(file))?.unwrap_or_default()) };
    let name = user.unwrap_or("barbican");
    let (passwd, group) = (lines("/etc/passwd")?, lines("/etc/group")?);
    let Some(user) = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name)) else {
        return Ok(None);
    };
    let number = |index: usize| -> Result<u32> {
        user.get(index).and_then(|v| v.parse().ok()).with_context(|| format!("the user {name} in /etc/passwd"))
    };
    let gid = number(3)?;
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.get(3).is_some_and(|members| members.split(',').any(|m| m == name)) {
            groups.extend(fields.get(2).and_then(|g| g.parse::<u32>().ok()));
        }
    }
    Ok(Some(Identity { uid: number(2)?, gid, groups }))
}

/// What the module may find in its environment, where no unit says it: ours, without what would load other code into it, and without the credentials
/// of whoever calls us, such as those of an `openrc` file.
fn environment() -> Vec<(OsString, OsString)> {
    const BEGIN: [&str; 5] = ["LD_", "OS_", "SSH_", "SUDO_", "KEYMGR_UPGRADE_"];
    const PART: [&str; 6] = ["PASS", "PWD", "SECRET", "TOKEN", "CREDENTIAL", "_KEY"];
    let kept = |name: &str| !BEGIN.iter().any(|b| name.starts_with(b)) && !PART.iter().any(|p| name.contains(p));
    std::env::vars_os().filter(|(name, _)| kept(&name.to_string_lossy().to_uppercase())).collect()
}
