//! The tool's own settings: `/etc/keymgr-upgrade/keymgr-upgrade.conf` and `keymgr-upgrade.conf.d/*.conf` beside it.
//!
//! Barbican's own files say where its database and its token are; nothing is asked for twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use configparser::ini::{Ini, IniDefault};

use crate::db::Orphans;
use crate::files::Root;
use crate::hsm::Sessions;
use crate::http::Address;

/// The settings file, below the root.
pub const FILE: &str = "/etc/keymgr-upgrade/keymgr-upgrade.conf";

/// Which ways of going from release to release are allowed without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One release at a time, as the upgrade guide demands.
    Sequential,
    /// Also from one SLURP release to the next.
    Slurp,
    /// Any distance, carrying out every release in between.
    FastForward,
}

/// What the hooks of the package manager do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Refuse what is not allowed, and carry out what is.
    On,
    /// Refuse what is not allowed, and do nothing else.
    Gate,
    /// Nothing.
    Off,
}

/// What the hooks do about an update within one release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameRelease {
    /// Let it pass.
    Ignore,
    /// Let it pass, and do then what is left to do.
    Run,
}

/// Which services are started in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Those that ran before.
    Previous,
    /// Those that are enabled.
    Enabled,
    /// None: the operator starts them.
    None,
}

/// What to do where the API runs in a web server that others use too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebServer {
    /// Refuse to upgrade.
    Refuse,
    /// Stop, hold and start the whole server with our services.
    Stop,
}

/// What is copied before the database is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backup {
    /// All of Barbican's tables.
    Full,
    /// Those that the schema steps of the run change, and those that refer to them.
    Touched,
    /// Nothing, on the operator's own word.
    None,
}

/// Where the API is asked whether it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Where Barbican's own files say that it listens.
    Auto,
    /// Nowhere.
    None,
    /// There.
    At(Address),
}

/// The settings, checked; what is not set has its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[upgrade] path`.
    pub way: Way,
    /// `[upgrade] release`: the release the data is at, where it cannot be told.
    pub release: Option<String>,
    /// `[upgrade] acknowledged`: ids of notes and findings approved once and for all.
    pub acknowledged: Vec<String>,
    /// `[upgrade] orphans`.
    pub orphans: Orphans,
    /// `[upgrade] start`.
    pub start: Start,
    /// `[hooks] mode`.
    pub hooks: Hooks,
    /// `[hooks] same_release`.
    pub same_release: SameRelease,
    /// `[hooks] follow`: how long apt waits for the upgrade after its packages are configured.
    pub follow: Duration,
    /// `[barbican] config_file`.
    pub config_file: PathBuf,
    /// `[barbican] paste_file`.
    pub paste_file: PathBuf,
    /// `[barbican] units`: names of a site's own, besides those known.
    pub units: Vec<String>,
    /// `[barbican] edit_files`.
    pub edit_files: bool,
    /// `[barbican] web_server`.
    pub web_server: WebServer,
    /// `[code] upgrade_command`.
    pub upgrade_command: Option<String>,
    /// `[code] rollback_command`.
    pub rollback_command: Option<String>,
    /// `[code] python`: the interpreter of a source deployment.
    pub python: Option<PathBuf>,
    /// `[database] backup`.
    pub backup: Backup,
    /// `[database] backup_keep`: how many runs keep theirs.
    pub backup_keep: usize,
    /// `[database] lock_timeout`: how long to wait for a lock in the database.
    pub lock_timeout: Duration,
    /// `[database] direct_connection_file`: holds a URL that leads past a pooler.
    pub direct_connection_file: Option<PathBuf>,
    /// `[database] wait`: how long database and token are awaited after package work.
    pub wait: Duration,
    /// `[rehearsal] connection_file`: holds the URL of an empty database to rehearse in.
    pub rehearsal_connection_file: Option<PathBuf>,
    /// `[hsm] timeout`: limit of one call of the PKCS#11 module.
    pub hsm_timeout: Duration,
    /// `[hsm] sessions`: how many sessions of the token may be used.
    pub hsm_sessions: Sessions,
    /// `[verify] endpoint`.
    pub endpoint: Endpoint,
    /// `[verify] secret`: the payload of a secret, to be read through the API.
    pub secret: Option<Address>,
    /// `[verify] headers_file`: what is sent with that request.
    pub headers_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            way: Way::Sequential,
            release: None,
            acknowledged: Vec::new(),
            orphans: Orphans::Refuse,
            start: Start::Previous,
            hooks: Hooks::On,
            same_release: SameRelease::Ignore,
            follow: Duration::from_secs(600),
            config_file: PathBuf::from("/etc/barbican/barbican.conf"),
            paste_file: PathBuf::from("/etc/barbican/barbican-api-paste.ini"),
            units: Vec::new(),
            edit_files: true,
            web_server: WebServer::Refuse,
            upgrade_command: None,
            rollback_command: None,
            python: None,
            backup: Backup::Full,
            backup_keep: 3,
            lock_timeout: Duration::from_secs(30),
            direct_connection_file: None,
            wait: Duration::from_secs(120),
            rehearsal_connection_file: None,
            hsm_timeout: Duration::from_secs(30),
            hsm_sessions: Sessions::Auto,
            endpoint: Endpoint::Auto,
            secret: None,
            headers_file: None,
        }
    }
}

impl Settings {
    /// Reads the settings of `root`; without a file, the defaults.
    ///
    /// # Errors
    /// If a file cannot be read, or has a name or value that is not known: with file and line.
    pub fn load(root: &Root) -> Result<Self> {
        let mut settings = Self::default();
        let directory = Path::new(FILE).with_extension("conf.d");
        let more = root.list(&directory)?.into_iter().filter(|n| n.ends_with(".conf")).map(|n| directory.join(n));
        for file in std::iter::once(PathBuf::from(FILE)).chain(more) {
            if let Some(text) = root.read_text(&file)? {
                settings.merge(&text, &file)?;
            }
        }
        Ok(settings)
    }

    pub(crate) fn merge(&mut self, text: &str, file: &Path) -> Result<()> {
        let mut defaults = IniDefault::default();
        defaults.case_sensitive = true;
        defaults.comment_symbols = vec!['#', ';'];
        defaults.enable_inline_comments = false;
        defaults.delimiters = vec!['='];
        let mut ini = Ini::new_from_defaults(defaults);
        let sections = ini.read(text.to_owned()).map_err(|e| {
            // It says "line 3: Found ..."; as everywhere else, it is FILE:LINE.
            let words = e.strip_prefix("line ").map_or_else(|| format!(" {e}"), str::to_lowercase);
            anyhow!("{}:{words}", file.display())
        })?;
        // The parser passes over what stands behind a section's name: a setting there would be lost.
        let behind = |line: &str| line.trim().starts_with('[') && !line.trim().ends_with(']');
        if let Some(index) = text.lines().position(behind) {
            bail!("{}:{}: a section's name stands alone on its line", file.display(), index + 1);
        }
        for (section, options) in sections {
            for (name, value) in options {
                let at = || format!("{}:{}: [{section}] {name}", file.display(), line_of(text, &section, &name));
                let value = value.with_context(|| format!("{} has no value", at()))?;
                self.set(&section, &name, value.trim()).with_context(at)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, section: &str, name: &str, value: &str) -> Result<()> {
        match (section, name) {
            ("upgrade", "path") => {
                self.way = one_of(
                    value,
                    &[("sequential", Way::Sequential), ("slurp", Way::Slurp), ("fast-forward", Way::FastForward)],
                )?;
            }
            ("upgrade", "release") => self.release = Some(value.to_owned()),
            ("upgrade", "acknowledged") => self.acknowledged = list(value),
            ("upgrade", "orphans") => {
                self.orphans = one_of(value, &[("refuse", Orphans::Refuse), ("null", Orphans::Null)])?;
            }
            ("upgrade", "start") => self.start = one_of(value, &STARTS)?,
            ("hooks", "mode") => {
                self.hooks = one_of(value, &[("on", Hooks::On), ("gate", Hooks::Gate), ("off", Hooks::Off)])?;
            }
            ("hooks", "same_release") => {
                self.same_release = one_of(value, &[("ignore", SameRelease::Ignore), ("run", SameRelease::Run)])?;
            }
            ("hooks", "follow") => self.follow = duration(value)?,
            ("barbican", "config_file") => self.config_file = absolute(value)?,
            ("barbican", "paste_file") => self.paste_file = absolute(value)?,
            ("barbican", "units") => self.units = if value == "auto" { Vec::new() } else { list(value) },
            ("barbican", "edit_files") => self.edit_files = one_of(value, &[("yes", true), ("no", false)])?,
            ("barbican", "web_server") => {
                self.web_server = one_of(value, &[("refuse", WebServer::Refuse), ("stop", WebServer::Stop)])?;
            }
            ("code", "upgrade_command") => self.upgrade_command = Some(value.to_owned()),
            ("code", "rollback_command") => self.rollback_command = Some(value.to_owned()),
            ("code", "python") => self.python = Some(absolute(value)?),
            ("database", "backup") => self.backup = one_of(value, &BACKUPS)?,
            ("database", "backup_keep") => {
                self.backup_keep = value.parse().context("not a number")?;
                if self.backup_keep == 0 {
                    bail!("the last run keeps its copy: at least 1");
                }
            }
            ("database", "lock_timeout") => self.lock_timeout = duration(value)?,
            ("database", "direct_connection_file") => self.direct_connection_file = Some(absolute(value)?),
            ("database", "wait") => self.wait = duration(value)?,
            ("rehearsal", "connection_file") => self.rehearsal_connection_file = Some(absolute(value)?),
            ("hsm", "timeout") => self.hsm_timeout = duration(value)?,
            ("hsm", "sessions") => self.hsm_sessions = sessions(value)?,
            ("verify", "endpoint") => {
                self.endpoint = match value {
                    "auto" => Endpoint::Auto,
                    "none" => Endpoint::None,
                    address => Endpoint::At(Address::parse(address)?),
                }
            }
            ("verify", "secret") => self.secret = Some(Address::parse(value)?),
            ("verify", "headers_file") => self.headers_file = Some(absolute(value)?),
            _ => bail!("unknown setting; see packaging/keymgr-upgrade.conf for those there are"),
        }
        Ok(())
    }
}

const STARTS: [(&str, Start); 3] = [("previous", Start::Previous), ("enabled", Start::Enabled), ("none", Start::None)];
const BACKUPS: [(&str, Backup); 3] = [("full", Backup::Full), ("touched", Backup::Touched), ("none", Backup::None)];

fn one_of<T: Copy>(value: &str, known: &[(&str, T)]) -> Result<T> {
    known.iter().find(|(name, _)| *name == value).map(|(_, v)| *v).with_context(|| {
        let names: Vec<_> = known.iter().map(|(n, _)| *n).collect();
        format!("{value:?} is not one of {}", names.join(", "))
    })
}

fn list(value: &str) -> Vec<String> {
    value.split([',', ' ', '\t']).filter(|v| !v.is_empty()).map(str::to_owned).collect()
}

fn absolute(value: &str) -> Result<PathBuf> {
    if !value.starts_with('/') {
        bail!("{value:?} is not an absolute path");
    }
    Ok(PathBuf::from(value))
}

/// A time span as systemd writes the simple ones: `30`, `30s`, `10min`, `1h`.
fn duration(value: &str) -> Result<Duration> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().with_context(|| format!("{value:?} is not a time span such as 30s"))?;
    let unit = match value.get(digits.len()..).unwrap_or_default() {
        "" | "s" => 1,
        "min" => 60,
        "h" => 3600,
        other => bail!("{other:?} is not a unit of time (s, min, h)"),
    };
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

/// The line of an option, for messages; the parser does not tell.
fn line_of(text: &str, section: &str, name: &str) -> usize {
    let mut current = "default"; // what stands before any section, for the parser
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.rsplit_once(']')) {
            current = header.0.trim();
        } else if current == section && line.split('=').next().is_some_and(|key| key.trim() == name) {
            return index + 1;
        }
    }
    0
}

fn sessions(value: &str) -> Result<Sessions> {
    match value {
        "auto" => Ok(Sessions::Auto),
        number => number.parse().map(Sessions::Exactly).context("neither auto nor a number from 1 on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings> {
        let mut settings = Settings::default();
        settings.merge(text, Path::new("k.conf"))?;
        Ok(settings)
    }

    #[test]
    fn values_are_read() {
        let s = read(
            "# c\n[upgrade]\npath = slurp\nacknowledged = a, b\norphans=null\n[hsm]\ntimeout = 2min\nsessions = 3\n",
        )
        .unwrap();
        assert_eq!((s.way, s.orphans), (Way::Slurp, Orphans::Null));
        assert_eq!(s.acknowledged, ["a", "b"]);
        assert_eq!(s.hsm_timeout, Duration::from_secs(120));
        assert!(matches!(s.hsm_sessions, Sessions::Exactly(n) if n.get() == 3));
        let s = read("[code]\nupgrade_command = pip install 'barbican==16.*' ; echo #1\n").unwrap();
        assert_eq!(s.upgrade_command.as_deref(), Some("pip install 'barbican==16.*' ; echo #1"));
    }

    #[test]
    fn the_shipped_file_shows_every_setting_with_its_default() {
        let shipped = include_str!("../packaging/keymgr-upgrade.conf");
        let unset = |line: &&str| !line.ends_with('=');
        let with_defaults: Vec<String> = shipped
            .lines()
            .map(|l| l.strip_prefix('#').filter(|r| r.starts_with(|c: char| c.is_ascii_lowercase())).unwrap_or(l))
            .filter(unset)
            .map(str::to_owned)
            .collect();
        assert_eq!(read(&with_defaults.join("\n")).unwrap(), Settings::default());
        let source = include_str!("settings.rs");
        let known: Vec<(&str, &str)> = source
            .lines()
            .filter_map(|l| l.trim().strip_prefix("(\"")?.split_once("\") =>")?.0.split_once("\", \""))
            .collect();
        let mut section = "";
        let mut shown = Vec::new();
        for line in shipped.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name;
            }
            let name = line.strip_prefix('#').and_then(|l| l.split_once(" =")).map(|(name, _)| name);
            shown.extend(name.filter(|n| !n.starts_with(' ')).map(|name| (section, name)));
        }
        assert_eq!(shown, known, "the shipped file, and what is read");
    }

    #[test]
    fn what_is_not_known_is_an_error_with_its_line() {
        for (text, wanted) in [
            ("[upgrade]\n\npaht = slurp\n", "k.conf:3: [upgrade] paht: unknown setting"),
            ("[upgrade]\npath = quick\n", "k.conf:2: [upgrade] path: \"quick\" is not one of sequential"),
            ("[hsm]\ntimeout = soon\n", "\"soon\" is not a time span"),
            ("[hsm]\ntimeout = 3 weeks\n", "not a unit of time"),
            ("[hsm]\nsessions = 0\n", "neither auto nor a number from 1 on"),
            ("[barbican]\nconfig_file = barbican.conf\n", "not an absolute path"),
            ("[upgrade]\npath\n", "has no value"),
            ("[upgrade]\nstart = some\n", "\"some\" is not one of previous, enabled, none"),
            ("[hooks]\n[upgrade] path = slurp\n", "k.conf:2: a section's name stands alone on its line"),
            ("path = slurp\n", "k.conf:1: [default] path: unknown setting"),
            ("[verify]\nendpoint = barbican:9311\n", "not an address such as http://"),
            (
                "[verify]\nsecret = http://u:p@h/v1\n",
                "k.conf:2: [verify] secret: a user or password does not belong here",
            ),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }
}
