//! The manual pages: without a warning, in 80 columns, complete, and every example of them true.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use keymgr_upgrade::cli::Cli;
use keymgr_upgrade::error::Exit;
use keymgr_upgrade::release::Catalogue;
use tempfile::TempDir;

use crate::common::{Said, Sandbox, said};

#[path = "../../examples/manual/pages/mod.rs"]
mod pages;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A page as it is shown on a terminal of 80 columns, and as what it is made from.
pub(crate) struct Page {
    name: String,
    source: String,
    shown: String,
    /// As shown, in one line.
    words: String,
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All pages, rendered; fails with what groff and mandoc have to say against any.
fn rendered() -> Vec<Page> {
    let directory = TempDir::new().unwrap();
    let mut wrong = String::new();
    let mut all = Vec::new();
    for (path, source) in pages::all().unwrap() {
        let Some((_, name)) = path.strip_prefix("man/").and_then(|p| p.split_once('/')) else { continue };
        let (name, source) = (name.to_owned(), String::from_utf8(source).unwrap());
        let path = directory.path().join(&name);
        std::fs::write(&path, &source).unwrap();
        for checker in ["groff -ww -mandoc -Tutf8 -rLL=78n -z", "mandoc -T lint -W warning"] {
            let said = run(checker, &path);
            if said.code != 0 || !said.all().is_empty() {
                writeln!(wrong, "{checker} {name}:\n{}", said.all()).unwrap();
            }
        }
        let shown = run("groff -mandoc -Tascii -P-cbou -rLL=78n", &path).expect(0).out;
        let words = in_one_line(&shown);
        all.push(Page { name, source, shown, words });
    }
    assert!(wrong.is_empty(), "{wrong}");
    all
}

/// A page's source alone, for its examples.
pub(crate) fn source(name: &str) -> Page {
    let all = pages::all().unwrap();
    let (_, text) = all.into_iter().find(|(path, _)| path.ends_with(&format!("/{name}"))).unwrap();
    let source = String::from_utf8(text).unwrap();
    Page { name: name.to_owned(), source, shown: String::new(), words: String::new() }
}

fn run(command: &str, path: &Path) -> Said {
    let words: Vec<&str> = command.split(' ').collect();
    said(Command::new(words[0]).args(&words[1..]).arg(path).stdin(Stdio::null()))
}

fn page<'a>(pages: &'a [Page], name: &str) -> &'a Page {
    pages.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("there is no page {name}"))
}

/// Whether the page says this somewhere, wherever its lines break.
fn says(page: &Page, text: &str) -> bool {
    page.words.contains(&in_one_line(text))
}

#[test]
fn every_page_is_sound_and_fits_the_screen() {
    let pages = rendered();
    for Page { name, source, shown, .. } in &pages {
        assert!(source.is_ascii() && shown.is_ascii(), "{name}");
        for line in shown.lines() {
            // Statements, and names of options that are long, are never broken.
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
        // Where another page of ours is named, it is there.
        for word in shown.split(|c: char| !c.is_ascii_alphanumeric() && !"-.()".contains(c)) {
            let Some((title, section)) = word.trim_end_matches('.').strip_suffix(')').and_then(|w| w.split_once('('))
            else {
                continue;
            };
            if title.starts_with("keymgr-upgrade") {
                page(&pages, &format!("{title}.{section}"));
            }
        }
        let see_also = shown.rsplit("SEE ALSO").next().unwrap();
        assert!(name == "keymgr-upgrade.8" || see_also.contains("keymgr-upgrade(8)"), "{name} leads nowhere");
    }
}

#[test]
fn every_verb_and_option_has_its_place() {
    let pages = rendered();
    let mut program = Cli::command();
    program.build();
    let main = page(&pages, "keymgr-upgrade.8");
    for option in program.get_arguments().filter(|o| !o.is_hide_set()) {
        let long = option.get_long().unwrap();
        assert!(says(main, &format!("--{long}")), "--{long}");
    }
    for verb in program.get_subcommands().filter(|v| !v.is_hide_set()) {
        let page = page(&pages, &format!("keymgr-upgrade-{}.8", verb.get_name()));
        assert!(says(main, &format!("keymgr-upgrade-{}(8)", verb.get_name())), "{} is not listed", page.name);
        for one in std::iter::once(verb).chain(verb.get_subcommands()) {
            assert!(says(page, &one.get_about().unwrap().to_string()) || one.get_name() == verb.get_name());
            for option in one.get_arguments().filter(|o| !o.is_global_set() && o.get_id() != "help") {
                let name =
                    option.get_long().map_or_else(|| option.get_id().to_string().to_uppercase(), |l| format!("--{l}"));
                let help = option.get_help().unwrap().to_string();
                assert!(says(page, &format!("{name} ")) && says(page, &help), "{}: {name}", page.name);
            }
        }
    }
    for (exit, meaning) in Exit::TABLE {
        assert!(says(main, &format!("{} {meaning}", exit as u8)), "{meaning}");
    }
}

#[test]
fn every_setting_is_explained_and_none_is_invented() {
    let pages = rendered();
    let page = page(&pages, "keymgr-upgrade.conf.5");
    let shipped = std::fs::read_to_string(Path::new(ROOT).join("packaging/keymgr-upgrade.conf")).unwrap();
    let mut section = "";
    let mut shipped_names = Vec::new();
    for line in shipped.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let setting = line.strip_prefix('#').and_then(|l| l.split_once(" ="));
        let Some((name, default)) = setting.filter(|(n, _)| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        else {
            continue;
        };
        shipped_names.push(format!("{section} {name}"));
        let text = explained(&page.shown, section, name);
        let default = if default.trim().is_empty() { "none" } else { default.trim() };
        assert!(in_one_line(text).contains(&format!("Default: {default}")), "{section} {name}, {default}:\n{text}");
    }
    let mut section = String::new();
    let mut explained = Vec::new();
    for line in page.shown.lines() {
        if line.starts_with(|c: char| !c.is_whitespace()) {
            line.clone_into(&mut section);
        } else if let Some((name, _)) = line.strip_prefix("       ").and_then(|l| l.split_once(" = "))
            && section.starts_with('[')
            && !name.starts_with(' ')
        {
            explained.push(format!("{section} {name}"));
        }
    }
    assert_eq!(explained, shipped_names, "the page, and the shipped file");
}

/// What the page says of a setting, up to the next one.
fn explained<'a>(shown: &'a str, section: &str, name: &str) -> &'a str {
    let (_, after) = shown.split_once(&format!("\n{section}\n")).unwrap_or_else(|| panic!("{section} is not there"));
    let (_, text) = after.split_once(&format!("       {name} = ")).unwrap_or_else(|| panic!("{section} {name}"));
    text.split("\n       ").take_while(|l| l.starts_with(' ') || !l.contains(" = ")).last().map_or(text, |last| {
        let end = last.as_ptr() as usize - text.as_ptr() as usize + last.len();
        &text[..end]
    })
}

#[test]
fn every_finding_release_and_note_is_there() {
    let pages = rendered();
    let check = page(&pages, "keymgr-upgrade-check.8");
    let judged = said(
        Command::new("grep").args(["-rh", "", "--include=*.rs", "src/finding.rs", "src/finding"]).current_dir(ROOT),
    )
    .out;
    let mut findings = 0;
    for call in ["Finding::fail(", "Finding::warn(", "Finding::ok("] {
        for piece in judged.split(call).skip(1) {
            let Some(id) = piece.trim_start().strip_prefix('"').and_then(|p| p.split('"').next()) else { continue };
            assert!(says(check, id), "finding {id} is not explained");
            findings += 1;
        }
    }
    assert!(findings > 40, "{findings}");
    let releases = page(&pages, "keymgr-upgrade-releases.7");
    for release in Catalogue::embedded().unwrap().releases() {
        assert!(releases.shown.lines().any(|l| l.starts_with(&release.name.to_uppercase())), "{release}");
        assert!(says(releases, &release.date));
        for revision in &release.revisions {
            assert!(says(releases, &format!("- {revision} ")), "{revision}");
        }
        for note in &release.notes {
            assert!(says(releases, &note.id) && says(releases, &note.title), "{}", note.id);
        }
        // Each rule of the paste file in words.
        assert!(!release.paste.iter().any(|rule| says(releases, &format!("- {rule}."))), "{release}");
    }
}

/// What bash offers after these words, the last of which is begun.
fn offered(directory: &Path, words: &[&str]) -> Vec<String> {
    let script = r#"
        . "$1/bash-completion/completions/keymgr-upgrade"
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        $(complete -p keymgr-upgrade | sed 's/.*-F \([^ ]*\) .*/\1/') keymgr-upgrade "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("/bin/bash");
    bash.args(["-c", script, "bash"]).arg(directory).args(words).stdin(Stdio::null());
    let said = said(&mut bash);
    assert!(said.code == 0 && said.err.is_empty(), "{}", said.all());
    said.out.lines().map(str::to_owned).collect()
}

/// All that is generated, below a directory.
pub(crate) fn written() -> TempDir {
    let directory = TempDir::new().unwrap();
    for (path, text) in pages::all().unwrap() {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// The files below a directory, by their paths in it.
fn files(directory: &Path) -> Vec<String> {
    let list = said(Command::new("find").arg(".").args(["-type", "f"]).current_dir(directory)).expect(0).out;
    let mut list: Vec<String> = list.lines().map(|l| l.trim_start_matches("./").to_owned()).collect();
    list.sort();
    list
}

#[test]
fn what_is_installed_is_what_the_package_brings() {
    let (generated, image) = (written(), TempDir::new().unwrap());
    let install = || {
        let mut make = Command::new("make");
        make.args(["-s", "-C", ROOT, "-o", "build", "-o", "manual", "install", "prefix=/opt"]);
        make.arg(format!("DESTDIR={}", image.path().display())).arg(format!("pages={}", generated.path().display()));
        make.arg(concat!("binary=", env!("CARGO_BIN_EXE_keymgr-upgrade"))).env_remove("MAKEFLAGS");
        let said = said(&mut make).expect(0);
        assert_eq!(said.all(), "");
    };
    install();
    let settings = image.path().join("etc/keymgr-upgrade/keymgr-upgrade.conf");
    std::fs::write(&settings, "# mine\n").unwrap();
    install();
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), "# mine\n", "settings are kept");
    let unit = image.path().join("opt/lib/systemd/system/keymgr-upgrade.service");
    assert!(std::fs::read_to_string(unit).unwrap().contains("ExecStart=/opt/sbin/keymgr-upgrade service\n"));

    let manifest = std::fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let mut packed = Vec::new();
    for asset in manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap() {
        let [from, to] = [0, 1].map(|i| asset[i].as_str().unwrap());
        if from.starts_with("packaging/deb/") {
            continue;
        }
        let to = to.replace("zsh/vendor-completions", "zsh/site-functions");
        let Some(directory) = from.strip_prefix("target/manual/").and_then(|f| f.strip_suffix("/*")) else {
            assert!(from == "target/release/keymgr-upgrade" || Path::new(ROOT).join(from).is_file(), "{from}");
            let name = if to.ends_with('/') { from.rsplit('/').next().unwrap() } else { "" };
            packed.push(format!("{to}{name}"));
            continue;
        };
        packed.extend(files(&generated.path().join(directory)).iter().map(|name| format!("{to}{name}")));
    }
    packed.sort();
    let installed = files(image.path()).iter().map(|f| f.replace("opt/", "usr/")).collect::<Vec<_>>();
    assert_eq!(installed, packed);
}

#[test]
fn shells_complete_verbs_options_and_releases() {
    let directory = written();
    let at = directory.path();
    assert_eq!(offered(at, &["keymgr-upgrade", "upg"]), ["upgrade"]);
    assert_eq!(offered(at, &["keymgr-upgrade", "upgrade", "--fa"]), ["--fast-forward"]);
    assert_eq!(offered(at, &["keymgr-upgrade", "upgrade", "--to", "202"]).len(), 8);
    assert_eq!(offered(at, &["keymgr-upgrade", "kek", "mi"]), ["migrate"]);
    for hidden in ["hoo", "serv"] {
        assert_eq!(offered(at, &["keymgr-upgrade", hidden]), [""], "{hidden}");
    }
    for shell in ["zsh/site-functions/_keymgr-upgrade", "fish/vendor_completions.d/keymgr-upgrade.fish"] {
        let text = std::fs::read_to_string(at.join(shell)).unwrap();
        assert!(["fast-forward", "repair-hex", "2025.1", "unhold"].iter().all(|word| text.contains(word)), "{shell}");
        assert!(!text.contains("apt-gate"), "{shell}");
        // Where the shell is, it can read it.
        let program = shell.split('/').next().unwrap();
        if said(Command::new("which").arg(program)).code == 0 {
            said(Command::new(program).arg("-n").arg(at.join(shell))).expect(0);
        }
    }
}

/// What a comment in an example, or in front of one, asks for.
#[derive(Debug, Default)]
struct Wanted {
    exit: i32,
    not_run: bool,
    /// Something that is not run came before.
    behind: bool,
}

/// A sandbox in the states that examples begin with.
pub(crate) struct Stage {
    /// By their names; the first is the one that there is without a word, for the states that grow out of it.
    bases: Vec<(&'static str, Sandbox)>,
    pub(crate) now: Sandbox,
    directory: PathBuf,
}

impl Stage {
    pub(crate) fn new(bases: &[(&'static str, &Sandbox)]) -> Self {
        let bases: Vec<_> = bases.iter().map(|(name, base)| (*name, base.copy())).collect();
        let now = bases[0].1.copy();
        let directory = now.root();
        Self { bases, now, directory }
    }

    /// A state that an example names.
    pub(crate) fn set(&mut self, name: &str) {
        let (base, grown) = match self.bases.iter().find(|(base, _)| *base == name) {
            Some((_, base)) => (base, false),
            None => (&self.bases[0].1, true),
        };
        self.now = base.copy();
        match name {
            _ if !grown => {}
            "upgrade" => self.now.upgrade("zed"),
            "interrupted" | "lost" => {
                let upgrade = ["upgrade", "--yes", "--to", "zed"];
                let mut command = self.now.command(&upgrade);
                let said = said(command.env("KEYMGR_UPGRADE_CRASH_AT", "step applied:4"));
                assert_eq!(said.code, 137, "{}", said.all());
                if name == "lost" {
                    std::fs::remove_dir_all(self.now.path("/var/lib/keymgr-upgrade/runs")).unwrap();
                }
            }
            other => panic!("no such state: {other}"),
        }
        self.directory = self.now.root();
    }

    /// Settings of our own, which must be read without a complaint.
    #[track_caller]
    pub(crate) fn expect_settings(&mut self, text: &str) {
        let file = "/etc/keymgr-upgrade/keymgr-upgrade.conf.d/example.conf";
        self.now.write(file, text);
        let said = self.run("keymgr-upgrade status");
        assert!(!text.is_empty() && said.code == 0, "{text}{}", said.all());
        std::fs::remove_file(self.now.path(file)).unwrap();
    }

    /// Runs what an operator types, in a shell, with `keymgr-upgrade` working on the sandbox.
    pub(crate) fn run(&mut self, line: &str) -> Said {
        let line = line.replace("--root /mnt ", "");
        let mut line = self.with_run(&line);
        if let Some(directory) = line.strip_prefix("cd ") {
            self.directory = self.now.path(directory);
            assert!(self.directory.is_dir(), "{line}");
            return Said { code: 0, out: String::new(), err: String::new() };
        }
        if !line.starts_with("keymgr-upgrade ") {
            line = line.replace(" /", &format!(" {}/", self.now.root().display()));
        }
        let programs = TempDir::new().unwrap();
        let tool = self.now.command(&[]);
        let mut script = "#!/bin/sh\nexec".to_owned();
        for word in std::iter::once(tool.get_program()).chain(tool.get_args()) {
            write!(script, " '{}'", word.to_str().unwrap()).unwrap();
        }
        script.push_str(" \"$@\"\n");
        let path = programs.path().join("keymgr-upgrade");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &line]).env_clear().current_dir(&self.directory).stdin(Stdio::null());
        for (name, value) in tool.get_envs() {
            shell.env(name, value.unwrap());
        }
        shell.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.path().display()));
        said(&mut shell)
    }

    /// The id of a run in an example stands for the last one there is.
    fn with_run(&self, line: &str) -> String {
        if !line.contains("20261122T015804Z") {
            return line.to_owned();
        }
        let runs = std::fs::read_dir(self.now.path("/var/lib/keymgr-upgrade/runs")).unwrap();
        let last = runs.map(|e| e.unwrap().file_name().into_string().unwrap()).max().unwrap();
        line.replace("20261122T015804Z", &last)
    }
}

/// Text as it is shown, of a line of an example.
fn unescaped(line: &str) -> String {
    line.replace("\\-", "-").replace("\\e", "\\").replace("\\(aq", "'")
}

/// Runs the examples of a page in their order, and returns how many commands were run.
pub(crate) fn examples(page: &Page, stage: &mut Stage) -> usize {
    let name = &page.name;
    let mut count = 0;
    let (mut inside, mut wanted) = (false, Wanted::default());
    let mut lines = page.source.lines().peekable();
    while let Some(line) = lines.next() {
        match line {
            ".EX" => (inside, wanted) = (true, Wanted::default()),
            ".EE" => inside = false,
            _ if !inside => {}
            line if line.starts_with(".\\\" ") => {
                wanted.not_run = false;
                match line[4..].split_once([' ', ':']).unwrap_or((&line[4..], "")) {
                    ("exit", code) => wanted.exit = code.parse().unwrap(),
                    ("code", version) => stage.now.install(version),
                    ("setup", state) => stage.set(state.trim()),
                    ("not", reason) => {
                        assert!(reason.len() > "run: ".len(), "{name}: {line} gives no reason");
                        wanted.not_run = true;
                    }
                    ("settings", "") => {
                        let mut text = String::new();
                        while let Some(line) = lines.next_if(|l| *l != ".EE") {
                            text += &(unescaped(line) + "\n");
                        }
                        stage.expect_settings(&text);
                        count += 1;
                    }
                    _ => panic!("{name}: {line} asks for nothing that is known"),
                }
            }
            // What can be run is not left out for convenience: only behind what cannot be.
            line if wanted.not_run => match line.starts_with("# keymgr\\-upgrade ") {
                true => assert!(wanted.behind, "{name}: {line}"),
                false => wanted.behind = true,
            },
            line => {
                let mut typed =
                    unescaped(line).strip_prefix("# ").unwrap_or_else(|| panic!("{name}: {line}")).to_owned();
                while typed.ends_with('\\') {
                    typed = typed.trim_end_matches('\\').to_owned() + unescaped(lines.next().unwrap()).trim();
                }
                let said = stage.run(&typed);
                assert_eq!(said.code, wanted.exit, "{name}: {typed}\n{}", said.all());
                wanted.exit = 0;
                count += 1;
            }
        }
    }
    count
}

#[test]
fn the_examples_run() {
    let liberty = Sandbox::liberty();
    let moving = crate::moving::controller(&liberty, "sqlite:////var/lib/barbican/moved.sqlite");
    liberty.upgrade("yoga");
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in rendered() {
        let mut stage = Stage::new(&[("fresh", &liberty), ("moving", &moving)]);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| examples(&page, &mut stage)));
        match ran {
            Ok(ran) => count += ran,
            Err(_) => wrong.push(page.name),
        }
    }
    assert!(wrong.is_empty(), "examples of {wrong:?} fail; what they say is above");
    assert!(count > 50, "only {count} examples");
}
