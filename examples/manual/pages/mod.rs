//! The pages: those of `man/` as they are, one a verb from the command line with what `man/verbs/` says of it, the releases from the catalogue.

mod releases;
mod verbs;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Command, CommandFactory as _};
use clap_complete::{Generator, shells};
use keymgr_upgrade::cli::Cli;
use keymgr_upgrade::release::Catalogue;

/// The date of all pages.
const DATE: &str = "2026-11-22";

/// Every file by its path below `share/` of the prefix, with its text.
///
/// # Errors
/// If a source cannot be read, or a verb has none.
pub(crate) fn all() -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for (name, text) in manual()? {
        let section = name.rsplit('.').next().unwrap_or_default();
        files.push((format!("man/man{section}/{name}"), text.into_bytes()));
    }
    files.push(("bash-completion/completions/keymgr-upgrade".to_owned(), completion(shells::Bash)));
    files.push(("zsh/site-functions/_keymgr-upgrade".to_owned(), completion(shells::Zsh)));
    files.push(("fish/vendor_completions.d/keymgr-upgrade.fish".to_owned(), completion(shells::Fish)));
    Ok(files)
}

/// The manual pages, each with its file's name: `keymgr-upgrade.8`.
///
/// # Errors
/// As [`all`].
fn manual() -> Result<Vec<(String, String)>> {
    let mut pages = verbs::pages()?;
    pages.push(("keymgr-upgrade-releases.7".to_owned(), releases::page()?));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    for entry in fs::read_dir(&sources).with_context(|| format!("reading {}", sources.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() {
            let text = source(&name)?;
            let (title, section) = name.rsplit_once('.').with_context(|| format!("man/{name} has no section"))?;
            pages.push((name.clone(), format!("{}{text}", title_line(title, section))));
        }
    }
    pages.sort();
    Ok(pages)
}

/// A file of `man/`, which has no title of its own; examples are indented.
fn source(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    if text.contains("\n.TH ") || text.starts_with(".TH ") {
        bail!("man/{name}: the title line is written by examples/manual");
    }
    let mut page = String::new();
    for line in text.lines() {
        let after_text = page.lines().last().is_some_and(|last| !last.starts_with('.'));
        if page.ends_with(".RE\n") && !line.starts_with('.') {
            page.push_str(".PP\n");
        }
        match line {
            ".EX" => page.push_str(if after_text { ".PP\n.RS 4\n.EX" } else { ".RS 4\n.EX" }),
            ".EE" => page.push_str(".EE\n.RE"),
            other => page.push_str(&with_minus(other)),
        }
        page.push('\n');
    }
    Ok(page)
}

/// In `man/` every hyphen is a minus sign: what is typed can be copied from the page. Comments stay.
fn with_minus(line: &str) -> String {
    if line.starts_with(".\\\"") { line.to_owned() } else { line.replace("\\-", "-").replace('-', "\\-") }
}

/// The line that every page begins with.
fn title_line(name: &str, section: &str) -> String {
    let what = match section {
        "5" => "File formats",
        "7" => "Overviews",
        _ => "System administration",
    };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH {} {section} {DATE} \"keymgr-upgrade {version}\" \"{what}\"\n.nr HY 0\n.nh\n.ad l\n",
        plain(name).to_uppercase()
    )
}

/// Text as roff shows it: minus signs that can be copied, nothing that is taken for a command.
fn plain(text: &str) -> String {
    let mut shown = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    if shown.starts_with('.') {
        shown.insert_str(0, "\\&");
    }
    shown
}

fn completion(shell: impl Generator) -> Vec<u8> {
    let mut command = with_releases(public(&Cli::command()));
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "keymgr-upgrade", &mut text);
    // For bash clap_complete 4.6 spells the hyphen of a program's name in two ways, and finds no verb then.
    String::from_utf8_lossy(&text).replace("keymgr__subcmd__upgrade", "keymgr__upgrade").into_bytes()
}

/// The command without its hidden verbs: clap_complete would offer them.
fn public(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(public);
    // clap takes names that stay; these do until the program has ended.
    Command::new(&*command.get_name().to_owned().leak())
        .about(about)
        .disable_help_subcommand(true)
        .args(command.get_arguments())
        .subcommands(verbs)
}

/// The command line with the releases that there are as values of `--to` and `--from`.
fn with_releases(command: Command) -> Command {
    let names = || {
        let releases = Catalogue::embedded().map(Catalogue::releases).unwrap_or_default();
        PossibleValuesParser::new(releases.iter().map(|r| PossibleValue::new(r.id.as_str())))
    };
    let is_release = |id: &str| id == "to" || id == "from";
    command
        .mut_args(|arg| if is_release(arg.get_id().as_str()) { arg.value_parser(names()) } else { arg })
        .mut_subcommands(with_releases)
}
