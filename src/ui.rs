//! What the operator reads: text of 80 columns, or one JSON object. The only place that prints.
//!
//! The object has, whatever the verb, in this order:
//!
//! | member | what |
//! |---|---|
//! | `format` | 1; raised when a member changes its meaning, not when one is added |
//! | `state` | `done`, `idle`, `running`, `waiting`, `interrupted`, `rolling-back`, `rolled-back`, `awaiting-code`, `ready`, `ready, with warnings`, `not ready`, `refused`, `failed`, `rollback-failed`, `usage`, `locked` |
//! | `changed` | whether this command changed anything |
//! | `run` | the id of the run it is about, or null |
//! | `from`, `to` | releases by their ids, or null |
//!
//! then what the verb has to tell: `findings`, `steps`, `notes`, `plan`, `diffs`, `sql`, `shell`, `approval`, `revision`, `revisions`, `matches`,
//! `differences`, `would_change`, `extras`, `keks`, `secrets`, `unreadable`, `held`, `running`, `runs`, `backups`, `proved`...; where it failed, `error` (a text)
//! and `hints` (a list of texts); and at the end
//!
//! | member | what |
//! |---|---|
//! | `exit` | the exit code |
//! | `next` | the command to give next, as an argument vector; empty if there is none |

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::engine::Progress;
use crate::error::{Exit, Failure};
use crate::finding::{Finding, Severity};
use crate::progress;
use crate::time;

/// Width of the operator's screen.
const WIDTH: usize = 80;
/// Where the text of a row with a label begins.
const INDENT: usize = 22;

/// Collects what is to be said, and says it.
#[derive(Debug)]
pub struct Ui {
    json: bool,
    /// Also what is well.
    pub verbose: bool,
    colour: bool,
    object: Map<String, Value>,
    globals: Vec<String>,
    bar: Option<ProgressBar>,
    /// The text is a program: what else is said stands in a remark.
    remark: bool,
    /// All was told by the service already.
    told: bool,
}

/// What is printed is written to these files too, standard output to the first, standard error to the second.
static COPIES: Mutex<Option<[File; 2]>> = Mutex::new(None);

/// From now on all that is printed is written to `files` too: standard output to the first, standard error to the second.
pub fn copy_to(files: [File; 2]) {
    if let Ok(mut copies) = COPIES.lock() {
        *copies = Some(files);
    }
}

impl Ui {
    /// Text or JSON; colour only on a terminal, and not where `NO_COLOR` is set.
    #[must_use]
    pub fn new(json: bool, verbose: bool) -> Self {
        let colour =
            !json && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let head = [
            ("format", json!(1)),
            ("state", Value::Null),
            ("changed", json!(false)),
            ("run", Value::Null),
            ("from", Value::Null),
            ("to", Value::Null),
        ];
        let object = head.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { json, verbose, colour, object, globals: Vec::new(), bar: None, remark: false, told: false }
    }

    /// Options that every next command needs too, for `next`.
    #[must_use]
    pub fn with_globals(self, globals: Vec<String>) -> Self {
        Self { globals, ..self }
    }

    /// Whether JSON is wanted.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether somebody can be asked.
    #[must_use]
    pub fn can_ask(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }

    /// Sets a member of the JSON object.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.object.insert(name.to_owned(), value.into());
    }

    /// A member of the JSON object, where it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// The service told all there is to tell, also the end: nothing more is printed.
    pub fn was_told(&mut self) {
        self.told = true;
    }

    /// A line of text; nothing in JSON.
    pub fn line(&mut self, text: impl AsRef<str>) {
        if !self.json {
            out(&clean(text.as_ref()));
        }
    }

    /// Text that is to be taken as it is: a diff, SQL.
    pub fn raw(&mut self, text: &str) {
        if !self.json {
            for line in text.lines() {
                out(&clean(line));
            }
        }
    }

    /// From now on the text is a shell program, and `Next:` a remark in it.
    pub fn remark(&mut self) {
        self.remark = true;
    }

    /// A paragraph, wrapped, with `indent` blanks before each line.
    pub fn paragraph(&mut self, text: &str, indent: usize) {
        for line in wrap(text, WIDTH - indent) {
            self.line(format!("{:indent$}{line}", ""));
        }
    }

    /// A row: a label, and a text that wraps beside it.
    pub fn row(&mut self, label: &str, text: &str) {
        let column = label.len().max(9) + 1;
        for (index, line) in wrap(text, WIDTH - column).iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            self.line(format!("{label:column$}{line}").trim_end());
        }
    }

    /// A finding, as `check` shows it.
    pub fn finding(&mut self, finding: &Finding) {
        let word = match finding.severity {
            Severity::Fail => "FAIL",
            Severity::Warn => "WARN",
            Severity::Ok => "ok",
        };
        let id = if finding.id.len() < 16 { finding.id.clone() } else { format!("{} ", finding.id) };
        let lines = wrap(&finding.title, WIDTH - INDENT);
        let (first, rest) = lines.split_first().map_or(("", &[][..]), |(f, r)| (f.as_str(), r));
        let pad = INDENT - 6;
        if id.len() > pad {
            self.headed(word, &id);
            self.line(format!("{:INDENT$}{first}", ""));
        } else {
            self.headed(word, &format!("{id:pad$}{first}"));
        }
        for line in rest {
            self.line(format!("{:INDENT$}{line}", ""));
        }
        let shown = if self.verbose { finding.evidence.len() } else { 5 };
        for evidence in finding.evidence.iter().take(shown) {
            self.paragraph(evidence, INDENT);
        }
        if finding.evidence.len() > shown {
            self.line(format!("{:INDENT$}and {} more (--verbose)", "", finding.evidence.len() - shown));
        }
        if let Some(remedy) = &finding.remedy
            && finding.severity != Severity::Ok
        {
            self.paragraph(&format!("do: {remedy}"), INDENT);
        }
    }

    /// A line that begins with a word of four letters, in its colour.
    fn headed(&mut self, word: &str, text: &str) {
        if !self.colour {
            return self.line(format!("{word:4}  {text}"));
        }
        let code = match word {
            "FAIL" => "31",
            "WARN" => "33",
            _ => "32",
        };
        // The text alone is cleaned: the escape codes of the colour are ours.
        out(&format!("\x1b[{code}m{word:4}\x1b[0m  {}", clean(text)));
    }

    /// Asks a yes-or-no question; no is the default.
    ///
    /// # Errors
    /// If the terminal cannot be read.
    pub fn ask(&mut self, question: &str) -> std::io::Result<bool> {
        let mut stdout = std::io::stdout().lock();
        write!(stdout, "{} [y/N] ", clean(question))?;
        stdout.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// What turns while something is at work; none where it would not be seen.
    #[must_use]
    pub fn spinner(&self) -> Option<ProgressBar> {
        if self.json || !std::io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(bar)
    }

    /// The progress of a run: one line a step; on a terminal a spinner while it works.
    pub fn progress(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Begin { index, total, step } => {
                self.bar = self.spinner();
                if let Some(bar) = &self.bar {
                    let title = format!("{:>2}/{total} {}", index + 1, step.title());
                    bar.set_message(title.clone());
                    let bar = bar.clone();
                    progress::show_on(Some(Box::new(move |words| bar.set_message(format!("{title}: {words}")))));
                }
            }
            Progress::End { index, total, step, word, milliseconds, detail } => {
                progress::show_on(None);
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                let entry = json!({"step": index + 1, "title": step.title(), "state": word, "milliseconds": milliseconds, "detail": detail});
                if let Some(steps) = self.object.entry("steps").or_insert_with(|| json!([])).as_array_mut() {
                    steps.push(entry);
                }
                let length = if *milliseconds < 100 { String::new() } else { time::span(*milliseconds) };
                let head = format!(
                    "{} {:>2}/{total} {:23} {word:9} {length:>6}",
                    time::clock(time::now()),
                    index + 1,
                    step.title()
                );
                let room = WIDTH.saturating_sub(head.len() + 2);
                if detail.len() <= room {
                    self.line(format!("{head}  {detail}").trim_end());
                } else {
                    self.line(head.trim_end());
                    self.paragraph(detail, 16);
                }
            }
        }
    }

    /// Ends a command that was carried out: the one `Next:` line, or the JSON object.
    pub fn end(mut self, exit: Exit, next: &str) {
        if self.told {
            return;
        }
        let command = format!("keymgr-upgrade {next}");
        self.close(exit, &command);
        if self.json {
            self.print_object();
            return;
        }
        let mark = if self.remark { "# " } else { "" };
        let next = if next.is_empty() { "nothing to do" } else { &command };
        out(&clean(&format!("{mark}Next: {next}")));
    }

    /// The last members of the object; the state, where the verb set none.
    fn close(&mut self, exit: Exit, command: &str) {
        if self.object.get("state").is_none_or(Value::is_null) {
            self.set("state", exit.state());
        }
        self.set("exit", exit as u8);
        let mut words = argv(command);
        if let Some(verb) = words.get(1..) {
            words = words.iter().take(1).chain(&self.globals).chain(verb).cloned().collect();
        }
        self.set("next", words);
    }

    /// Ends a command that failed.
    pub fn fail(mut self, failure: &Failure) {
        let text = format!("{:#}", failure.error);
        let command = format!("keymgr-upgrade {}", failure.next);
        self.set("error", text.as_str());
        self.set("hints", failure.hints.clone());
        self.close(failure.exit, &command);
        if self.json {
            self.print_object();
            return;
        }
        let say = |line: String| err(&clean(&line));
        for (label, text) in std::iter::once(("error:", &text)).chain(failure.hints.iter().map(|h| ("hint:", h))) {
            for (index, line) in wrap(text, WIDTH - label.len() - 1).iter().enumerate() {
                let label = if index == 0 { label } else { &" ".repeat(label.len()) };
                say(format!("{label} {line}"));
            }
        }
        say(format!("Next: {command}"));
    }

    fn print_object(&mut self) {
        let object = Value::Object(std::mem::take(&mut self.object));
        out(&plain(&serde_json::to_string_pretty(&object).unwrap_or_default()));
    }
}

/// The command as an argument vector, without the remarks that a text may have in brackets.
fn argv(command: &str) -> Vec<String> {
    let plain = command.split(" (").next().unwrap_or_default();
    let words: Vec<String> = plain.split_whitespace().map(str::to_owned).collect();
    if words.len() < 2 { Vec::new() } else { words }
}

/// Names and values from files and databases may hold control characters: none reaches the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}

/// JSON as it may reach a terminal: what it leaves as it is of control characters (DEL, and those that begin a sequence in one) is escaped.
fn plain(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// A closed pipe (`| head`) is a quiet end, not an error.
fn out(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").ok();
    copy(0, line);
}

/// Who speaks, where others speak on the same screen.
const SPEAKER: &str = "keymgr-upgrade: ";

/// How long a line may be that is spoken as one.
pub const SPOKEN: usize = WIDTH - SPEAKER.len();

/// Where a hook's words go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A paragraph of a hook, which speaks between the lines of the package manager: each line says who it is, and is indented by `indent`.
pub fn speak(stream: Stream, text: &str, indent: usize) {
    for line in wrap(text, SPOKEN - indent) {
        let line = clean(&format!("{SPEAKER}{:indent$}{line}", ""));
        if stream == Stream::Out { out(&line) } else { err(&line) }
    }
}

/// A line that is shown on the package manager's screen as it is.
pub fn pass_on(line: &str) {
    out(&clean(line));
}

/// A line on standard error. Nobody is left to tell if this cannot be written.
pub(crate) fn err(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
    copy(1, line);
}

/// One write a line, so that whoever reads along sees whole ones.
fn copy(which: usize, line: &str) {
    if let Ok(mut copies) = COPIES.lock()
        && let Some(file) = copies.as_mut().and_then(|files| files.get_mut(which))
    {
        file.write_all(format!("{line}\n").as_bytes()).ok();
    }
}

/// Standard output or standard error for text that comes from elsewhere, around a spinner.
#[derive(Debug)]
pub struct Screen<W> {
    to: W,
    spinner: Option<ProgressBar>,
}

impl<W: Write> Screen<W> {
    /// Writes to `to`.
    pub fn new(to: W, spinner: Option<ProgressBar>) -> Self {
        Self { to, spinner }
    }
}

impl<W: Write> Write for Screen<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| self.to.write(bytes)),
            None => self.to.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Cuts a text into lines of at most `width` columns, at blanks where there are any. Not before a `Next:`, with which only a line of ours begins,
/// whatever is in the text.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(last) if word.starts_with("Next:") => *last = format!("{last} {word}"),
            _ => words.push(word.to_owned()),
        }
    }
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in words {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_wrap_and_are_clean() {
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrap("", 6), [""]);
        assert_eq!(wrap("a bb Next: rm -r /", 6), ["a", "bb Next:", "rm -r", "/"]);
        assert_eq!(clean("a\x1b[31mb\u{7}"), "a?[31mb?");
        assert_eq!(plain("\"a\u{7f}b\u{9b}31m\""), "\"a\\u007fb\\u009b31m\"");
        assert_eq!(argv("keymgr-upgrade upgrade --to zed   (on ctl2)"), ["keymgr-upgrade", "upgrade", "--to", "zed"]);
        assert!(argv("keymgr-upgrade ").is_empty());
    }
}
