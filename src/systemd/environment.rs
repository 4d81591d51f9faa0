//! `Environment=` and `EnvironmentFile=` as systemd.exec(5) reads them, so that we know with which variables a service really runs.

use std::path::Path;

use anyhow::{Context, Result, bail};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::files::Root;

/// The variables of a unit: first `assignments` (`NAME=value`), which the files override in their order; then those of `unset` are taken out.
/// A file is its path and whether it may be missing.
pub(super) fn resolve(
    root: &Root,
    assignments: Vec<String>,
    files: &[(String, bool)],
    unset: &[String],
) -> Result<Vec<(String, SecretString)>> {
    let mut all: Vec<(String, Zeroizing<String>)> = Vec::new();
    for assignment in assignments.into_iter().map(Zeroizing::new) {
        let (name, value) = assignment.split_once('=').context("an Environment= entry has no =")?;
        set(&mut all, name, Zeroizing::new(value.to_owned()));
    }
    for (path, optional) in files {
        if path.contains(['*', '?', '[']) {
            bail!("EnvironmentFile={path} is a pattern: name its files one by one");
        }
        let Some(text) = root.read_text(Path::new(path))?.map(Zeroizing::new) else {
            if *optional {
                continue;
            }
            bail!("EnvironmentFile={path} is missing, the unit cannot start");
        };
        for (name, value) in parse(&text).with_context(|| format!("reading {path}"))? {
            set(&mut all, &name, value);
        }
    }
    all.retain(|(name, value)| {
        !unset.iter().any(|u| u == name || u.split_once('=') == Some((name.as_str(), value.as_str())))
    });
    Ok(all.into_iter().map(|(name, value)| (name, SecretString::from(value.as_str()))).collect())
}

fn set(all: &mut Vec<(String, Zeroizing<String>)>, name: &str, value: Zeroizing<String>) {
    match all.iter_mut().find(|(known, _)| known == name) {
        Some(entry) => entry.1 = value,
        None => all.push((name.to_owned(), value)),
    }
}

/// Where the reader is in the file.
enum At {
    LineStart,
    Comment,
    Name,
    ValueStart,
    Value,
    SingleQuoted,
    DoubleQuoted,
}

/// Reads a file of assignments. The rules are systemd's, and not quite a shell's: quotes are quotes only where a value, or its next part,
/// begins; a name that a variable cannot have is passed over; so is a line without `=`.
#[expect(clippy::too_many_lines, reason = "one state machine: its arms belong together")]
fn parse(text: &str) -> Result<Vec<(String, Zeroizing<String>)>> {
    let mut all = Vec::new();
    let mut name = String::new();
    let mut value = Zeroizing::new(String::new());
    // How much of the value stays when unquoted blanks at its end are dropped.
    let mut kept = 0;
    let mut at = At::LineStart;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        let newline = ends_line(c);
        at = match at {
            At::LineStart if c == '#' || c == ';' => At::Comment,
            At::LineStart if is_blank(c) => At::LineStart,
            At::LineStart => {
                name = c.to_string();
                At::Name
            }
            At::Comment if c == '\\' => {
                // Up to release 253 the next line is comment too, from 254 on it is not.
                if characters.next().is_some_and(ends_line) {
                    bail!("a comment ends in a backslash, which not every systemd reads alike: remove it");
                }
                At::Comment
            }
            At::Comment if newline => At::LineStart,
            At::Comment => At::Comment,
            At::Name if newline => At::LineStart,
            At::Name if c == '=' => {
                value = Zeroizing::new(String::new());
                kept = 0;
                At::ValueStart
            }
            At::Name => {
                name.push(c);
                At::Name
            }
            At::ValueStart | At::Value if newline => {
                value.truncate(kept);
                push(&mut all, &name, std::mem::take(&mut value));
                At::LineStart
            }
            At::ValueStart if c == '\'' => At::SingleQuoted,
            At::ValueStart if c == '"' => At::DoubleQuoted,
            At::ValueStart if is_blank(c) => At::ValueStart,
            At::ValueStart | At::Value if c == '\\' => {
                // The next character as it is; a line break is none.
                value.extend(characters.next().filter(|next| !ends_line(*next)));
                kept = value.len();
                At::Value
            }
            At::ValueStart | At::Value => {
                value.push(c);
                if !is_blank(c) {
                    kept = value.len();
                }
                At::Value
            }
            At::SingleQuoted if c == '\'' => At::ValueStart,
            At::DoubleQuoted if c == '"' => At::ValueStart,
            At::DoubleQuoted if c == '\\' => {
                match characters.next() {
                    Some('\n' | '\r') | None => {}
                    Some(next @ ('"' | '\\' | '`' | '$')) => value.push(next),
                    Some(next) => value.extend(['\\', next]),
                }
                kept = value.len();
                At::DoubleQuoted
            }
            quoted @ (At::SingleQuoted | At::DoubleQuoted) => {
                value.push(c);
                kept = value.len();
                quoted
            }
        };
    }
    if !matches!(at, At::LineStart | At::Comment | At::Name) {
        value.truncate(kept);
        push(&mut all, &name, value);
    }
    Ok(all)
}

/// What is held of any file of variables ([`crate::fuzz`]).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(text: &str) {
    for (name, value) in parse(text).unwrap_or_default() {
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name:?}");
        assert!(value.len() <= text.len());
    }
}

fn ends_line(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn push(all: &mut Vec<(String, Zeroizing<String>)>, name: &str, value: Zeroizing<String>) {
    let name = name.trim_ascii_end();
    let usable =
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    if usable && !name.is_empty() {
        set(all, name, value);
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|(name, value)| (name, value.to_string())).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn quotes_escapes_and_blanks_are_systemds() {
        for (text, value) in [
            ("A=b", "b"),
            ("A = b c \t\n", "b c"),
            ("A=\n", ""),
            ("A='b  '\n", "b  "),
            ("A='b\nc'", "b\nc"),
            ("A='b' \"c\"d 'e'\n", "bcd 'e'"),
            ("A=b\\\nc\n", "bc"),
            ("A=b\\ \n", "b "),
            ("A=\"b\\\"c\\d\\\\\"\n", "b\"c\\d\\"),
            ("A=b # c\n", "b # c"),
            ("A=b;c\r\n", "b;c"),
            ("A=first\nA=b\n", "b"),
        ] {
            assert_eq!(read(text), [pair("A", value)], "{text:?}");
        }
    }

    #[test]
    fn other_lines_are_passed_over() {
        let text = "# A=1\n; B=2\n\n  no assignment\nexport C=3\n1D=4\n = 5\n  E=6\n";
        assert_eq!(read(text), [pair("E", "6")]);
        assert_eq!(read("# a \\\\\nA=1\n"), [pair("A", "1")], "an escaped backslash ends nothing");
        assert!(parse("# a \\\nA=1\n").unwrap_err().to_string().contains("backslash"));
    }

    #[test]
    fn later_settings_win_and_unset_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mode = crate::files::Attributes { mode: 0o600, uid: 0, gid: 0 };
        root.write(Path::new("/one"), b"A=2\nB=2\nC=2\n", mode).unwrap();
        root.write(Path::new("/two"), b"B=3\nD=3\nE=3\n", mode).unwrap();
        let files = [("/one".to_owned(), false), ("/none".to_owned(), true), ("/two".to_owned(), false)];
        let unset = ["D".to_owned(), "E=3".to_owned(), "A=1".to_owned()];
        let all = resolve(&root, vec!["A=1".to_owned(), "X=a=b".to_owned()], &files, &unset).unwrap();
        let all: Vec<_> = all.iter().map(|(n, v)| (n.as_str(), v.expose_secret())).collect();
        assert_eq!(all, [("A", "2"), ("X", "a=b"), ("B", "3"), ("C", "2")]);
        for (file, wanted) in [("/none", "EnvironmentFile=/none is missing"), ("/etc/*", "is a pattern")] {
            let error = resolve(&root, Vec::new(), &[(file.to_owned(), false)], &[]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
