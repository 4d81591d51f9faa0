//! Which units, web servers and processes of this host or image run Barbican. Read-only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Host;
use super::launcher::{self, Runs};
use crate::files::Root;
use crate::release::{ApiLauncher, Service};
use crate::settings::WebServer;
use crate::systemd::{Systemd, UnitState};
use crate::units;

/// Where unit files are, the first one of a name counts (systemd.unit(5)).
const UNIT_FILES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Where web servers find what they serve, and the unit that serves it.
const WEB_FILES: [(&str, &str); 4] = [
    ("/etc/apache2/sites-enabled", "apache2.service"),
    ("/etc/apache2/conf-enabled", "apache2.service"),
    ("/etc/httpd/conf.d", "httpd.service"),
    (UWSGI_APPS, "uwsgi.service"),
];

/// Each file here is an application of one and the same uWSGI (Debian's package `uwsgi`).
const UWSGI_APPS: &str = "/etc/uwsgi/apps-enabled";

/// A file that has a web server serve the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebFile {
    /// The file.
    pub path: PathBuf,
    /// The unit of the server.
    pub unit: &'static str,
    /// Where it says so, from 1.
    pub line: usize,
    /// Others may be served by it too.
    pub shared: bool,
    text: String,
}

/// What was found to run Barbican.
#[derive(Debug, Default)]
pub struct Found {
    /// Units, each with the command line that it starts; those of a tool too, which must not work meanwhile.
    pub units: Vec<(String, Vec<String>)>,
    /// Files of web servers.
    pub web: Vec<WebFile>,
}

impl Found {
    /// Looks at the unit files below the root, and where systemd runs it also at what that has loaded from elsewhere.
    ///
    /// # Errors
    /// If a directory cannot be read, or systemd does not answer.
    pub fn look(root: &Root, systemd: Option<&Systemd>) -> Result<Self> {
        let mut found = Self { units: unit_files(root)?, web: web_files(root)? };
        for (name, argv) in systemd.map(Systemd::list).transpose()?.unwrap_or_default() {
            found.add(name, argv);
        }
        Ok(found)
    }

    fn add(&mut self, name: String, argv: Vec<String>) {
        if is_ours(&name, &argv) && self.units.iter().all(|(known, _)| *known != name) {
            self.units.push((name, argv));
        }
    }

    /// The names of the units that are to be stopped and held.
    #[must_use]
    pub fn names(&self, web_server: WebServer) -> Vec<String> {
        let servers = self.web.iter().filter(|f| !f.shared || web_server == WebServer::Stop).map(|f| f.unit.to_owned());
        self.units.iter().map(|(name, _)| name.clone()).chain(servers).collect()
    }

    /// Which service a unit runs.
    #[must_use]
    pub fn service(&self, unit: &str) -> Option<Service> {
        let by_name = [
            ("keystone-listener", Service::KeystoneListener),
            ("worker", Service::Worker),
            ("retry", Service::Retry),
            ("api", Service::Api),
        ];
        if unit.contains("barbican")
            && let Some((_, service)) = by_name.iter().find(|(part, _)| unit.contains(part))
        {
            return Some(*service);
        }
        if self.web.iter().any(|f| f.unit == unit) {
            return Some(Service::Api);
        }
        match self.units.iter().find(|(name, _)| name == unit).and_then(|(_, argv)| launcher::runs(argv)) {
            Some(Runs::Service(service)) => Some(service),
            Some(Runs::Tool) | None => None,
        }
    }
}

/// Whether a unit of this name and command line is Barbican's. Ours also names it, and is not.
fn is_ours(name: &str, argv: &[String]) -> bool {
    !name.starts_with("keymgr-upgrade") && units::full_name(name).is_ok() && launcher::runs(argv).is_some()
}

fn unit_files(root: &Root) -> Result<Vec<(String, Vec<String>)>> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for directory in UNIT_FILES.map(Path::new) {
        for name in root.list(directory)? {
            // A template is none of its units; which ones there are, systemd tells.
            if !name.ends_with(".service") || name.contains("@.") {
                continue;
            }
            let path = directory.join(&name);
            let target = root.read_link(&path);
            let alias = target.as_deref().is_some_and(|t| Path::new(t).file_name() != Path::new(&name).file_name());
            // An alias is the unit it stands for. A mask (/dev/null) hides no unit from us: it is known by its other file.
            if alias || !seen.insert(name.clone()) {
                continue;
            }
            let Ok(Some(text)) = root.read_text(&path) else { continue };
            let starts = launcher::exec_starts(&text);
            if let Some(argv) = starts.into_iter().find(|argv| is_ours(&name, argv)) {
                all.push((name, argv));
            }
        }
    }
    Ok(all)
}

fn web_files(root: &Root) -> Result<Vec<WebFile>> {
    let mut all = Vec::new();
    for (directory, unit) in WEB_FILES {
        let names = root.list(Path::new(directory))?;
        for name in &names {
            let path = Path::new(directory).join(name);
            let Ok(Some(text)) = root.read_text(&path) else { continue };
            let uwsgi = directory == UWSGI_APPS;
            let line =
                if uwsgi { name.contains("barbican").then_some(1) } else { launcher::wsgi_line(&text).map(|l| l.0) };
            let Some(line) = line else { continue };
            let shared = !uwsgi || names.iter().any(|other| !other.contains("barbican"));
            all.push(WebFile { path, unit, line, shared, text });
        }
    }
    Ok(all)
}

/// A process of Barbican that no known unit accounts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Its id.
    pub pid: u32,
    /// The program, and what it interprets: arguments may hold secrets, and are left out.
    pub program: String,
    /// Its control group, which names a container or a session.
    pub group: String,
}

impl std::fmt::Display for Stray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}: {} ({})", self.pid, self.program, self.group)
    }
}

/// The processes of Barbican, seen in `proc`, that are in the control group of none of `known`.
///
/// # Errors
/// If `proc` cannot be read. A process that ends meanwhile is none.
pub(super) fn strays(proc: &Path, known: &[String]) -> Result<Vec<Stray>> {
    let mut all = Vec::new();
    let entries = std::fs::read_dir(proc).with_context(|| format!("reading {}", proc.display()))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let argv = words(&bytes);
        if pid == std::process::id() || launcher::runs(&argv).is_none() {
            continue;
        }
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let in_unit = |group: &str| group.split('/').any(|part| known.iter().any(|k| k == part));
        if groups.lines().any(in_unit) {
            continue;
        }
        let last = |line: &str| line.rsplit('/').next().unwrap_or_default().to_owned();
        let named = groups.lines().map(last).find(|part| !part.is_empty());
        let group = named.unwrap_or_else(|| "no control group of its own".to_owned());
        all.push(Stray { pid, program: launcher::programs(&argv).join(" "), group });
    }
    all.sort_by_key(|stray| stray.pid);
    Ok(all)
}

fn words(cmdline: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(cmdline);
    text.trim_end_matches('\0').split('\0').filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// The command line of a process; none if it has ended.
fn command_of(pid: u32) -> Option<Vec<String>> {
    std::fs::read(format!("/proc/{pid}/cmdline")).ok().map(|bytes| words(&bytes)).filter(|argv| !argv.is_empty())
}

/// What conditions of the catalogue are decided by: services that are enabled or run, how the API is launched, and what is run for it.
#[derive(Debug, Default)]
pub(super) struct Launched {
    pub(super) services: Option<BTreeSet<Service>>,
    pub(super) launchers: Option<BTreeSet<ApiLauncher>>,
    pub(super) commands: Option<BTreeSet<String>>,
}

/// Tells from what was found, and from the states of units where systemd runs. Where nothing is found nothing is known: the service may run in
/// containers, or the image may not be finished.
pub(super) fn launched(host: &Host, found: &Found, states: &[UnitState]) -> Launched {
    if found.units.is_empty() && found.web.is_empty() && states.is_empty() {
        return Launched::default();
    }
    let running = |unit: &str| states.iter().find(|s| s.name == unit && s.is_active()).and_then(|s| s.main_pid);
    let mut commands = BTreeSet::new();
    let mut launchers = BTreeSet::new();
    let mut told = true;
    for (unit, argv) in &found.units {
        // What a script of the distribution starts shows in its process alone.
        let live = running(unit).and_then(command_of).unwrap_or_default();
        for argv in [argv, &live] {
            commands.extend(launcher::programs(argv));
            launchers.extend(launcher::launcher(argv));
            if let Some(text) = launcher::uwsgi_file(argv).and_then(|file| host.root.read_text(&file).ok().flatten()) {
                script_of(&text, &mut commands, &mut launchers);
            }
        }
        let api = launcher::runs(argv) == Some(Runs::Service(Service::Api));
        told &= !api || launcher::launcher(argv).or(launcher::launcher(&live)).is_some();
    }
    for file in &found.web {
        let uwsgi = file.path.starts_with(UWSGI_APPS);
        launchers.insert(if uwsgi { ApiLauncher::Uwsgi } else { ApiLauncher::ModWsgi });
        script_of(&file.text, &mut commands, &mut launchers);
    }
    let enabled = |unit: &str| match states.iter().find(|s| s.name == unit) {
        Some(state) => state.is_active() || state.unit_file_state.starts_with("enabled"),
        None => !host.root.is_host() && is_enabled(&host.root, unit),
    };
    let known = found.units.iter().map(|(name, _)| name.as_str()).chain(states.iter().map(|s| s.name.as_str()));
    let mut services: BTreeSet<Service> = known.filter(|n| enabled(n)).filter_map(|n| found.service(n)).collect();
    if !found.web.is_empty() {
        services.insert(Service::Api);
    }
    Launched {
        services: Some(services),
        launchers: Some(launchers).filter(|l| told && !l.is_empty()),
        commands: Some(commands),
    }
}

/// The script that a web server's file loads.
fn script_of(text: &str, commands: &mut BTreeSet<String>, launchers: &mut BTreeSet<ApiLauncher>) {
    let lines = text.lines().filter(|l| !l.trim_start().starts_with(['#', ';']));
    let words = lines.flat_map(|l| l.split(|c: char| c.is_whitespace() || c == '=' || c == '"'));
    for name in words.filter(|w| w.contains("barbican")).filter_map(|w| w.rsplit('/').next()) {
        commands.insert(name.to_owned());
        if name == "barbican-wsgi-api" {
            launchers.insert(ApiLauncher::BarbicanWsgiApi);
        }
    }
}

/// Whether a link has the unit started at boot, on an image.
fn is_enabled(root: &Root, unit: &str) -> bool {
    let targets = ["multi-user.target.wants", "default.target.wants", "graphical.target.wants"];
    targets.iter().any(|t| root.read_link(&Path::new("/etc/systemd/system").join(t).join(unit)).is_some())
}

/// Where the API can be asked on this host, as its launcher's own files tell; none where it speaks no HTTP itself.
pub(super) fn listens_at(host: &Host, found: &Found) -> Result<Option<String>> {
    for (_, argv) in &found.units {
        if launcher::runs(argv) != Some(Runs::Service(Service::Api)) {
            continue;
        }
        let named = launcher::values(argv, &["--http-socket", "--http", "--bind", "-b"]);
        if let Some(address) = named.first().and_then(|bind| launcher::reachable(bind)) {
            return Ok(Some(address));
        }
        if let Some(file) = launcher::uwsgi_file(argv) {
            let text = host.root.read_text(&file)?.unwrap_or_default();
            let first = |names: &[&str]| launcher::uwsgi_values(&text, names).first().map(|v| (*v).to_owned());
            if let Some(bind) = first(&["http-socket", "http"]) {
                return Ok(launcher::reachable(&bind));
            }
            if first(&["socket", "uwsgi-socket", "https", "https-socket"]).is_some() {
                return Ok(None);
            }
        }
    }
    let distribution = Path::new("/etc/barbican/barbican-api-uwsgi.ini");
    if let Some(text) = host.root.read_text(distribution)?.filter(|_| found.web.is_empty())
        && let Some(bind) = launcher::uwsgi_values(&text, &["http-socket", "http"]).first()
    {
        return Ok(launcher::reachable(bind));
    }
    if let Some(file) = found.web.first() {
        let secure = file.text.lines().any(|l| l.trim().to_lowercase().starts_with("sslengine on"));
        let host = file.text.lines().find_map(|l| l.trim().strip_prefix("<VirtualHost ")?.strip_suffix('>'));
        return Ok(host.filter(|_| !secure).and_then(launcher::reachable));
    }
    let config = host.config()?;
    let port = config.text("DEFAULT", "bind_port")?.unwrap_or_else(|| "9311".to_owned());
    let bind = config.text("DEFAULT", "bind_host")?.unwrap_or_default();
    Ok(launcher::reachable(&format!("{}:{}", bind.trim(), port.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Attributes;

    fn put(root: &Root, path: &str, text: &str) {
        let path = Path::new(path);
        root.make_directory(path.parent().unwrap(), 0o755).unwrap();
        root.write(path, text.as_bytes(), Attributes { mode: 0o644, uid: 0, gid: 0 }).unwrap();
    }

    fn image() -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::of(Root::open(dir.path()).unwrap());
        (dir, host)
    }

    #[test]
    fn units_are_found_by_what_they_run() {
        let (_dir, host) = image();
        put(
            &host.root,
            "/usr/lib/systemd/system/barbican-worker.service",
            "[Service]\nExecStart=/etc/init.d/barbican-worker systemd-start\n",
        );
        put(
            &host.root,
            "/etc/systemd/system/keys.service",
            "[Service]\nExecStart=/opt/b/bin/uwsgi --ini /etc/barbican/k.ini\n",
        );
        put(
            &host.root,
            "/usr/lib/systemd/system/keymgr-upgrade.service",
            "[Service]\nExecStart=/usr/bin/barbican-worker\n",
        );
        put(&host.root, "/usr/lib/systemd/system/nova-api.service", "[Service]\nExecStart=/usr/bin/nova-api\n");
        put(
            &host.root,
            "/etc/barbican/k.ini",
            "[uwsgi]\nhttp-socket = 0.0.0.0:80\nwsgi-file = /opt/b/bin/barbican-wsgi-api\n",
        );
        host.root.link("keys.service", Path::new("/etc/systemd/system/alias.service")).unwrap();
        host.root.make_directory(Path::new("/etc/systemd/system/multi-user.target.wants"), 0o755).unwrap();
        host.root
            .link("../keys.service", Path::new("/etc/systemd/system/multi-user.target.wants/keys.service"))
            .unwrap();
        let found = Found::look(&host.root, None).unwrap();
        assert_eq!(found.names(WebServer::Refuse), ["keys.service", "barbican-worker.service"]);
        assert_eq!(found.service("keys.service"), Some(Service::Api));
        assert_eq!(listens_at(&host, &found).unwrap().as_deref(), Some("http://127.0.0.1:80"));
        let launched = launched(&host, &found, &[]);
        assert_eq!(launched.services, Some([Service::Api].into()), "the worker is not enabled");
        assert_eq!(launched.launchers, Some([ApiLauncher::Uwsgi, ApiLauncher::BarbicanWsgiApi].into()));
        let commands = launched.commands.unwrap();
        assert!(commands.contains("barbican-wsgi-api") && commands.contains("barbican-worker"), "{commands:?}");
    }

    #[test]
    fn where_nothing_is_found_nothing_is_known() {
        let (_dir, host) = image();
        let found = Found::look(&host.root, None).unwrap();
        let launched = launched(&host, &found, &[]);
        assert!(launched.services.is_none() && launched.launchers.is_none() && launched.commands.is_none());
        put(
            &host.root,
            "/etc/systemd/system/barbican-api.service",
            "[Service]\nExecStart=/etc/init.d/barbican-api systemd-start\n",
        );
        let launched = super::launched(&host, &Found::look(&host.root, None).unwrap(), &[]);
        assert!(launched.services.is_some() && launched.launchers.is_none(), "the script decides how");
    }

    #[test]
    fn a_shared_server_is_named_only_where_it_may_be_stopped() {
        let (_dir, host) = image();
        let site = "<VirtualHost *:9311>\nWSGIScriptAlias / /usr/bin/barbican-wsgi-api\n</VirtualHost>\n";
        put(&host.root, "/etc/apache2/sites-enabled/keys.conf", site);
        put(&host.root, "/etc/apache2/sites-enabled/horizon.conf", "WSGIScriptAlias / /usr/share/horizon.wsgi\n");
        let found = Found::look(&host.root, None).unwrap();
        let [file] = &found.web[..] else { panic!("{found:?}") };
        assert_eq!((file.unit, file.line, file.shared), ("apache2.service", 2, true));
        assert!(found.names(WebServer::Refuse).is_empty());
        assert_eq!(found.names(WebServer::Stop), ["apache2.service"]);
        assert_eq!(listens_at(&host, &found).unwrap().as_deref(), Some("http://127.0.0.1:9311"));
        let launched = launched(&host, &found, &[]);
        assert_eq!(launched.launchers, Some([ApiLauncher::ModWsgi, ApiLauncher::BarbicanWsgiApi].into()));
        put(&host.root, "/etc/apache2/sites-enabled/keys.conf", &format!("SSLEngine On\n{site}"));
        assert_eq!(listens_at(&host, &Found::look(&host.root, None).unwrap()).unwrap(), None);

        let (_dir, host) = image();
        put(&host.root, "/etc/uwsgi/apps-enabled/barbican-api.ini", "[uwsgi]\n");
        assert_eq!(
            Found::look(&host.root, None).unwrap().names(WebServer::Refuse),
            ["uwsgi.service"],
            "it has no other"
        );
        put(&host.root, "/etc/uwsgi/apps-enabled/nova.ini", "[uwsgi]\n");
        assert!(Found::look(&host.root, None).unwrap().names(WebServer::Refuse).is_empty());
    }

    #[test]
    fn processes_outside_known_units_are_seen_without_their_arguments() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, cmdline: &str, group: &str| {
            let root = Root::open(proc.path()).unwrap();
            put(&root, &format!("/{pid}/cmdline"), cmdline);
            put(&root, &format!("/{pid}/cgroup"), group);
        };
        process(7, "/usr/bin/python3\0/usr/bin/barbican-worker\0--password=hush\0", "0::/user.slice/session-2.scope\n");
        process(
            8,
            "/usr/bin/python3\0/usr/bin/barbican-api\0",
            "1:name=systemd:/system.slice/barbican-api.service\n0::/\n",
        );
        process(9, "/usr/bin/python3\0/usr/bin/nova-api\0", "0::/\n");
        process(10, "", "0::/\n");
        let found = strays(proc.path(), &["barbican-api.service".to_owned()]).unwrap();
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["process 7: python3 barbican-worker (session-2.scope)"]
        );
    }
}
