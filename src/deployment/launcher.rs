//! What a command line runs of Barbican, and how: judged from its words alone.

use std::path::{Path, PathBuf};

use crate::release::{ApiLauncher, Service};

/// What a command line is to Barbican.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// One of its services.
    Service(Service),
    /// A tool that works on its database or token.
    Tool,
}

/// Barbican's programs of all releases, without `.py` and `.sh`: what it installs, and what its own tree ran up to Mitaka.
const PROGRAMS: [(&str, Runs); 11] = [
    ("barbican-api", Runs::Service(Service::Api)),
    ("barbican-wsgi-api", Runs::Service(Service::Api)),
    ("barbican-all", Runs::Service(Service::Api)),
    ("barbican.sh", Runs::Service(Service::Api)),
    ("barbican-worker", Runs::Service(Service::Worker)),
    ("barbican-keystone-listener", Runs::Service(Service::KeystoneListener)),
    ("barbican-retry", Runs::Service(Service::Retry)),
    ("barbican-worker-retry-scheduler", Runs::Service(Service::Retry)),
    ("barbican-db-manage", Runs::Tool),
    ("barbican-manage", Runs::Tool),
    ("pkcs11-kek-rewrap", Runs::Tool),
];

/// What carries the API for somebody, if its arguments name Barbican.
const SERVERS: [&str; 5] = ["uwsgi", "gunicorn", "mod_wsgi-express", "waitress-serve", "pserve"];

/// What runs the program that its arguments name.
const INTERPRETERS: [&str; 5] = ["python", "sh", "bash", "dash", "env"];

/// Tells what the command line runs of Barbican. Only what is run counts, never what is merely named: `tail barbican-api.log` is nothing.
#[must_use]
pub(super) fn runs(argv: &[String]) -> Option<Runs> {
    if server(argv).is_some() {
        return argv.iter().any(|a| a.contains("barbican")).then_some(Runs::Service(Service::Api));
    }
    programs(argv).iter().find_map(|program| {
        let stem = program.strip_suffix(".py").or(program.strip_suffix(".sh")).unwrap_or(program);
        PROGRAMS.iter().find(|(name, _)| *name == stem || name == program).map(|(_, runs)| *runs)
    })
}

/// How a command line launches the API, if it does; none also for a script of the distribution that decides by itself.
#[must_use]
pub(super) fn launcher(argv: &[String]) -> Option<ApiLauncher> {
    if runs(argv) != Some(Runs::Service(Service::Api)) {
        return None;
    }
    let wsgi_script = argv.iter().any(|a| name_of(a) == "barbican-wsgi-api");
    match server(argv) {
        _ if wsgi_script => Some(ApiLauncher::BarbicanWsgiApi),
        Some("uwsgi") => Some(ApiLauncher::Uwsgi),
        Some("gunicorn") => Some(ApiLauncher::Gunicorn),
        Some("mod_wsgi-express") => Some(ApiLauncher::ModWsgi),
        Some(_) => Some(ApiLauncher::Other),
        None if argv.first().is_some_and(|p| p.starts_with("/etc/init.d/")) => None,
        None => Some(ApiLauncher::Other),
    }
}

/// The base names of what a command line runs: its program, and where that is an interpreter what it interprets.
#[must_use]
pub(super) fn programs(argv: &[String]) -> Vec<String> {
    let Some(program) = argv.first() else { return Vec::new() };
    let mut all = vec![name_of(program)];
    if is_interpreter(&name_of(program)) {
        all.extend(interpreted(argv.get(1..).unwrap_or_default()));
    }
    all
}

fn is_interpreter(name: &str) -> bool {
    INTERPRETERS.iter().any(|i| name == *i || *i == "python" && name.starts_with("python"))
}

/// What an interpreter with these arguments runs: a script, a module, the first word of a shell's command.
fn interpreted(arguments: &[String]) -> Option<String> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Options of Python with a value of their own.
            "-W" | "-X" => drop(arguments.next()),
            "-m" => return arguments.next().map(|m| module(m)),
            "-c" => {
                let mut words = arguments.next()?.split_whitespace().filter(|w| *w != "exec" && !w.contains('='));
                return words.next().map(name_of);
            }
            option if option.starts_with('-') || option.contains('=') => {}
            script if is_interpreter(&name_of(script)) => {}
            script => return Some(name_of(script)),
        }
    }
    None
}

/// `barbican.cmd.worker` is what the script `barbican-worker` runs.
fn module(name: &str) -> String {
    name.strip_prefix("barbican.cmd.").map_or_else(|| name.to_owned(), |m| format!("barbican-{}", m.replace('_', "-")))
}

/// The web server that a command line runs, by its plain name.
fn server(argv: &[String]) -> Option<&'static str> {
    let all = programs(argv);
    // gunicorn and uWSGI rename their processes: "gunicorn: master [...]".
    SERVERS.into_iter().find(|server| all.iter().any(|p| p.starts_with(server)))
}

fn name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The values of an option that may be given as `--name value` and as `--name=value`.
pub(super) fn values<'a>(argv: &'a [String], names: &[&str]) -> Vec<&'a str> {
    let mut all = Vec::new();
    for (index, argument) in argv.iter().enumerate() {
        if names.contains(&argument.as_str()) {
            all.extend(argv.get(index + 1).map(String::as_str));
        } else if let Some((_, value)) = argument.split_once('=').filter(|(name, _)| names.contains(name)) {
            all.push(value);
        }
    }
    all
}

/// The file that tells uWSGI the rest.
pub(super) fn uwsgi_file(argv: &[String]) -> Option<PathBuf> {
    if server(argv) != Some("uwsgi") {
        return None;
    }
    let named = values(argv, &["--ini", "--ini-paste", "--ini-paste-logged"]).first().copied();
    let plain = || argv.iter().map(String::as_str).find(|a| a.starts_with('/') && a.ends_with(".ini"));
    named.or_else(plain).map(PathBuf::from)
}

/// The values of an option in the file of a uWSGI.
pub(super) fn uwsgi_values<'a>(text: &'a str, names: &[&str]) -> Vec<&'a str> {
    let pairs = text.lines().filter(|l| !l.trim_start().starts_with(['#', ';'])).filter_map(|l| l.split_once('='));
    pairs.filter(|(name, _)| names.contains(&name.trim())).map(|(_, value)| value.trim()).collect()
}

/// The command lines of `ExecStart=` in the text of a unit file, as far as they can be told without systemd: no specifier is resolved.
#[must_use]
pub(super) fn exec_starts(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().filter_map(|l| l.trim().strip_prefix("ExecStart")?.trim_start().strip_prefix('='));
    let argv = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches(['@', '-', ':', '+', '!']);
        let mut words: Vec<String> = Vec::new();
        let mut quote = None;
        let mut open = false;
        for c in line.chars() {
            match quote {
                Some(q) if c == q => quote = None,
                None if (c == '"' || c == '\'') && !open => {
                    quote = Some(c);
                    words.push(String::new());
                    open = true;
                }
                None if c.is_whitespace() => open = false,
                _ => {
                    if !open {
                        words.push(String::new());
                        open = true;
                    }
                    if let Some(word) = words.last_mut() {
                        word.push(c);
                    }
                }
            }
        }
        words
    };
    lines.map(argv).filter(|argv| !argv.is_empty()).collect()
}

/// Whether a directive of a web server's file has the API served by the server itself, with the line's number from 1.
#[must_use]
pub(super) fn wsgi_line(text: &str) -> Option<(usize, &str)> {
    let wsgi = |line: &str| {
        let line = line.trim_start();
        line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("wsgi")) && line.contains("barbican")
    };
    text.lines().enumerate().find(|(_, line)| wsgi(line)).map(|(index, line)| (index + 1, line.trim()))
}

/// The address to ask a server that listens at `bind`: `:9311`, `0.0.0.0:9311`, `[::]:9311`, `9311`.
pub(super) fn reachable(bind: &str) -> Option<String> {
    let bind = bind.trim().trim_start_matches("tcp://");
    let (host, port) = bind.rsplit_once(':').unwrap_or(("", bind));
    let port: u16 = port.parse().ok()?;
    let host = match host {
        "" | "*" | "0.0.0.0" => "127.0.0.1",
        "[::]" | "::" => "[::1]",
        host => host,
    };
    let brackets = host.contains(':') && !host.starts_with('[');
    Some(if brackets { format!("http://[{host}]:{port}") } else { format!("http://{host}:{port}") })
}

/// The configuration files and directories that a command line names to oslo.config.
#[must_use]
pub(super) fn config_files(argv: &[String]) -> Vec<&Path> {
    values(argv, &["--config-file", "--config-dir"]).into_iter().map(Path::new).collect()
}

/// What is held of any command line, unit file and bind address ([`crate::fuzz`]).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(text: &str) {
    let of = |argv: &[String]| {
        let _ = (launcher(argv), uwsgi_file(argv), config_files(argv));
        assert!(runs(argv).is_none() || !argv.is_empty(), "nothing runs nothing");
    };
    of(&text.lines().map(str::to_owned).collect::<Vec<_>>());
    for argv in exec_starts(text) {
        assert!(!argv.is_empty());
        of(&argv);
    }
    let _ = uwsgi_values(text, &["http-socket", "pyargv"]);
    assert!(wsgi_line(text).is_none_or(|(number, _)| (1..=text.lines().count()).contains(&number)));
    assert!(reachable(text).is_none_or(|address| address.starts_with("http://")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_run_counts_and_what_is_named_does_not() {
        use Service::{Api, KeystoneListener, Retry, Worker};
        for (line, wanted) in [
            ("/etc/init.d/barbican-worker systemd-start", Some(Worker)),
            ("/usr/bin/python3 /usr/bin/barbican-keystone-listener --config-file /x", Some(KeystoneListener)),
            ("/opt/venv/bin/python -W ignore /opt/venv/bin/barbican-retry", Some(Retry)),
            ("/usr/bin/python3.11 -m barbican.cmd.keystone_listener", Some(KeystoneListener)),
            ("/usr/bin/env PYTHONPATH=/x python3 /usr/bin/barbican-worker.py", Some(Worker)),
            ("uwsgi_python311 --http-socket :9311 --ini /etc/barbican/barbican-api-uwsgi.ini", Some(Api)),
            ("/usr/bin/python3 /usr/bin/gunicorn --paste /etc/barbican/barbican-api-paste.ini", Some(Api)),
            ("gunicorn: master [barbican]", Some(Api)),
            ("/usr/bin/barbican.sh start", Some(Api)),
            ("uwsgi --ini /etc/uwsgi/nova.ini", None),
            ("tail -f /var/log/barbican/barbican-api.log", None),
            ("systemctl restart barbican-api", None),
            ("/usr/bin/python3 /usr/bin/barbican secret list", None),
            ("vim /etc/init.d/barbican-worker", None),
            ("sh /usr/local/bin/check /usr/bin/barbican-worker", None),
            ("/usr/bin/mysqldump barbican", None),
        ] {
            assert_eq!(runs(&argv(line)), wanted.map(Runs::Service), "{line}");
        }
        let script = ["/bin/sh".to_owned(), "-c".to_owned(), "A=1 exec /usr/bin/barbican-worker --x".to_owned()];
        assert_eq!(runs(&script), Some(Runs::Service(Worker)));
        assert_eq!(runs(&argv("/usr/bin/python3 /usr/bin/barbican-db-manage upgrade")), Some(Runs::Tool));
        assert_eq!(runs(&[]), None);
    }

    #[test]
    fn how_the_api_is_launched() {
        for (line, wanted) in [
            ("uwsgi --ini /etc/barbican/barbican-api-uwsgi.ini", Some(ApiLauncher::Uwsgi)),
            ("uwsgi --http :9311 --wsgi-file /usr/bin/barbican-wsgi-api", Some(ApiLauncher::BarbicanWsgiApi)),
            ("/usr/bin/python3 /usr/bin/barbican-wsgi-api --port 9311", Some(ApiLauncher::BarbicanWsgiApi)),
            ("gunicorn barbican.wsgi.api:application", Some(ApiLauncher::Gunicorn)),
            ("/usr/bin/python3 /usr/bin/barbican-api", Some(ApiLauncher::Other)),
            ("/etc/init.d/barbican-api systemd-start", None),
            ("/usr/bin/barbican-worker", None),
        ] {
            assert_eq!(launcher(&argv(line)), wanted, "{line}");
        }
    }

    #[test]
    fn unit_files_are_read_without_systemd() {
        let text = "[Service]\nExecStartPre=/bin/true\n#ExecStart=/no\nExecStart=-/bin/sh -c 'exec \\\n barbican-worker'\nExecStart = /usr/bin/uwsgi --ini /a.ini\nExecStart=\n";
        let found = exec_starts(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], ["/bin/sh", "-c", "exec   barbican-worker"]);
        assert_eq!(found[1], ["/usr/bin/uwsgi", "--ini", "/a.ini"]);
        assert_eq!(uwsgi_file(&found[1]), Some(PathBuf::from("/a.ini")));
    }

    #[test]
    fn files_of_web_servers_and_addresses() {
        let text = "<VirtualHost *:9311>\n  # WSGIScriptAlias / /usr/bin/barbican\n  WSGIScriptAlias / /usr/bin/barbican-wsgi-api\n";
        assert_eq!(wsgi_line(text).unwrap().0, 3);
        assert_eq!(wsgi_line("WSGIScriptAlias / /usr/bin/keystone\nProxyPass /barbican x\n"), None);
        for (bind, wanted) in [
            (":9311", Some("http://127.0.0.1:9311")),
            ("0.0.0.0:80", Some("http://127.0.0.1:80")),
            ("[::]:9311", Some("http://[::1]:9311")),
            ("10.0.0.2:9311", Some("http://10.0.0.2:9311")),
            ("9311", Some("http://127.0.0.1:9311")),
            ("/run/uwsgi.sock", None),
        ] {
            assert_eq!(reachable(bind).as_deref(), wanted, "{bind}");
        }
        let text = "[uwsgi]\n#http-socket = :1\nhttp-socket = :9311\nwsgi-file=/usr/bin/barbican-wsgi-api\n";
        assert_eq!(uwsgi_values(text, &["http-socket", "http"]), [":9311"]);
        let line = argv("barbican-worker --config-file /a.conf --config-dir=/b --config-file=/c.conf");
        assert_eq!(config_files(&line), ["/a.conf", "/b", "/c.conf"].map(Path::new));
    }
}
