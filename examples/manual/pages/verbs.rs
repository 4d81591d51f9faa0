//! One page a verb, from the command line: synopsis and options are clap's, what they are for is in `man/verbs/<verb>.8`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use clap::{Arg, Command, CommandFactory as _};
use clap_mangen::Man;
use keymgr_upgrade::cli::Cli;
use keymgr_upgrade::error::Exit;

use super::{plain, source, title_line};

/// Where the options are put into the text of a verb.
const OPTIONS: &str = ".\\\" options\n";

/// The page of the program and those of its verbs.
///
/// # Errors
/// If a verb has no text.
pub(super) fn pages() -> Result<Vec<(String, String)>> {
    let mut program = Cli::command();
    program.build();
    let verbs: Vec<&Command> = program.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
    let mut pages = vec![("keymgr-upgrade.8".to_owned(), of_program(&program, &verbs)?)];
    for verb in verbs {
        pages.push((format!("keymgr-upgrade-{}.8", verb.get_name()), of_verb(verb)?));
    }
    Ok(pages)
}

fn of_program(program: &Command, verbs: &[&Command]) -> Result<String> {
    let mut page = format!("{}.SH NAME\n", title_line("keymgr-upgrade", "8"));
    page.push_str("keymgr\\-upgrade \\- upgrade OpenStack Barbican without losing a secret\n.SH SYNOPSIS\n");
    page.push_str(".SY keymgr\\-upgrade\n.RI [ options ]\n.RI [ verb\n.RI [ options ]]\n.YS\n");
    let mut list = String::from(".SH VERBS\n");
    for verb in verbs {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(list, ".TP\n.BR keymgr\\-upgrade\\-{} (8)\n{}.", plain(verb.get_name()), plain(&about))?;
    }
    let text = source("verbs/keymgr-upgrade.8")?;
    let (before, after) = text.split_once(OPTIONS).context("man/verbs/keymgr-upgrade.8 has no place for options")?;
    write!(page, "{before}{list}{}{}{after}", options(program)?, exit_status())?;
    Ok(page)
}

/// Each code with its meaning.
fn exit_status() -> String {
    let mut section = String::from(".SH EXIT STATUS\n");
    for (exit, meaning) in Exit::TABLE {
        let _ = write!(section, ".TP\n.B {}\n{}.\n", exit as u8, plain(meaning));
    }
    section
}

fn of_verb(verb: &Command) -> Result<String> {
    let name = verb.get_name();
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = format!("{}.SH NAME\n", title_line(&format!("keymgr-upgrade-{name}"), "8"));
    let sentence = about.replace("; ", ": ");
    writeln!(page, "keymgr\\-upgrade\\-{} \\- {}", plain(name), plain(&lower_first(&sentence)))?;
    page.push_str(".SH SYNOPSIS\n");
    let below: Vec<&Command> = verb.get_subcommands().filter(|v| v.get_name() != "help").collect();
    if below.is_empty() {
        page.push_str(&synopsis(verb));
    }
    for one in &below {
        page.push_str(&synopsis(one));
    }
    let text = source(&format!("verbs/{name}.8"))?;
    let (before, after) =
        text.split_once(OPTIONS).with_context(|| format!("man/verbs/{name}.8 has no place for options"))?;
    page.push_str(before);
    if below.is_empty() {
        page.push_str(&own_options(verb)?.replacen(".SH ARGUMENTS", ".SH OPTIONS", 1));
    } else {
        page.push_str(".SH VERBS\n");
        for one in below {
            let about = one.get_about().map(ToString::to_string).unwrap_or_default();
            writeln!(page, ".SS {} {}\n{}.", plain(name), plain(one.get_name()), plain(&about))?;
            page.push_str(&own_options(one)?.replace(".SH OPTIONS\n", ""));
        }
    }
    page.push_str(after);
    Ok(page)
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Options that belong to all verbs and are on the page of the program.
fn is_common(arg: &Arg) -> bool {
    arg.is_global_set() || arg.get_help_heading().is_some() || matches!(arg.get_id().as_str(), "help" | "version")
}

fn own_options(verb: &Command) -> Result<String> {
    let own = verb.clone().mut_args(|arg| if is_common(&arg) { arg.hide(true) } else { arg });
    if own.get_arguments().all(Arg::is_hide_set) {
        return Ok(String::new());
    }
    options(&own)
}

/// The options as clap_mangen writes them, without what it puts before every piece.
fn options(command: &Command) -> Result<String> {
    let mut text = Vec::new();
    Man::new(command.clone()).render_options_section(&mut text)?;
    let text = String::from_utf8(text)?;
    let is_preamble = |line: &&str| line.starts_with(".ie \\n(.g") || line.starts_with(".el .ds Aq");
    let lines = text.lines().filter(|line| !is_preamble(line)).map(|line| line.replace("\\*(Aq", "\\(aq") + "\n");
    Ok(lines.collect())
}

/// The verb with its own options and arguments.
fn synopsis(verb: &Command) -> String {
    let name = verb.get_bin_name().unwrap_or_else(|| verb.get_name());
    let mut line = format!(".SY \"{}\"\n", plain(name));
    for arg in verb.get_arguments().filter(|arg| !is_common(arg)) {
        let value = || arg.get_value_names().and_then(|v| v.first()).map(ToString::to_string).unwrap_or_default();
        let shown = match (arg.get_short(), arg.get_long()) {
            (_, Some(long)) if arg.get_action().takes_values() => {
                format!("\\-\\-{}\\~\\fI{}\\fP", plain(long), value())
            }
            (Some(short), Some(_)) => format!("\\-{short}"),
            (None, Some(long)) => format!("\\-\\-{}", plain(long)),
            _ => format!("\\fI{}\\fP", value()),
        };
        let _ = if arg.is_required_set() { writeln!(line, "{shown}") } else { writeln!(line, "[{shown}]") };
    }
    line.push_str(".YS\n");
    line
}
