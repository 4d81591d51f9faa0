//! A lossless INI document: bytes in, the same bytes out, spans edited.
//!
//! Three readers see Barbican's files, and they disagree in details that
//! decide whether a service starts: oslo.config, PasteDeploy on Python 2 and
//! PasteDeploy on Python 3. The document keeps every line as it was written
//! and answers questions as one of them, named by [`Dialect`].
//!
//! What a line is (blank, comment, section header, key, continuation) is told
//! as Python 3's `configparser` tells it, the most permissive of the three.
//! Where another reader would see something else it refuses the file, and so
//! does [`Document::get`] for that dialect. A line that no reader understands
//! is an [`Error`] when parsing.
//!
//! Values are never interpolated. PasteDeploy replaces `%(here)s` by the
//! folder of the file, `%(__file__)s` by its path and `%(name)s` by an option
//! of the same section or of `[DEFAULT]`; here they stay as they are written.
//! So do the `$name` references of oslo.config.

mod edit;
mod line;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;

use line::{Kind, Line};
pub use read::Difference;

/// The program whose rules decide what a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// oslo.config, on either Python. Group names are compared in lower case
    /// except `DEFAULT`, option names exactly (an option `foo-bar` is looked
    /// up as `foo_bar`); one pair of outer quotes is dropped; the last of
    /// repeated options wins, over all blocks of a group.
    Oslo,
    /// PasteDeploy on Python 2.7: ` ;` starts a comment in the first line of
    /// a value, the last of repeated options wins, repeated sections merge.
    Paste2,
    /// PasteDeploy on Python 3: a repeated section or option is an error.
    Paste3,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Oslo => "oslo.config",
            Dialect::Paste2 => "PasteDeploy on Python 2",
            Dialect::Paste3 => "PasteDeploy on Python 3",
        })
    }
}

/// What is wrong with a file, and where. Never holds a value of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}:{line}: {reason}")]
pub struct Error {
    /// The name the document was parsed under.
    pub name: String,
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong, in lower case, without a final period.
    pub reason: String,
}

/// A section header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The text between the brackets, exactly.
    pub name: String,
    /// Line number, from 1.
    pub line: usize,
}

/// A key of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The text before the delimiter, without white space around it.
    pub name: String,
    /// Line number, from 1.
    pub line: usize,
}

/// An INI file. `Debug` shows its name and size only, since it may hold
/// passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    name: String,
    bom: bool,
    lines: Vec<Line>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("name", &self.name).field("lines", &self.lines.len()).finish_non_exhaustive()
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl Document {
    /// Parses `bytes`; `name` is the file name shown in errors.
    ///
    /// # Errors
    /// A line that none of the readers understands, or that they are known to
    /// read in different ways for which there is no good use (a carriage
    /// return inside a line, a second `]` in a section header).
    pub fn parse(bytes: &[u8], name: &str) -> Result<Document, Error> {
        let (bom, text) = match bytes.strip_prefix(BOM) {
            Some(rest) => (true, rest),
            None => (false, bytes),
        };
        let mut document = Document { name: name.to_owned(), bom, lines: line::split(text) };
        document.classify()?;
        Ok(document)
    }

    /// The text of the file: of an unedited document, the bytes parsed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.bom {
            out.extend_from_slice(BOM);
        }
        for line in &self.lines {
            out.extend_from_slice(&line.raw);
            out.extend_from_slice(line.end.bytes());
        }
        out
    }

    /// The name the document was parsed under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All section headers, in the order of the file; a section in several
    /// blocks appears once for each.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let header = |(at, line): (usize, &Line)| {
            let name = line.section()?.to_owned();
            Some(Section { name, line: at + 1 })
        };
        self.lines.iter().enumerate().filter_map(header).collect()
    }

    /// Whether the document has a section that `dialect` finds under `name`.
    #[must_use]
    pub fn has_section(&self, dialect: Dialect, name: &str) -> bool {
        self.headers(dialect, name).next().is_some()
    }

    /// The keys of a section, over all its blocks, in the order of the file,
    /// repeated ones repeatedly.
    #[must_use]
    pub fn keys(&self, dialect: Dialect, section: &str) -> Vec<Key> {
        let name = |at: usize| self.lines.get(at).and_then(Line::key);
        self.key_lines(dialect, section)
            .into_iter()
            .filter_map(|at| Some(Key { name: name(at)?.to_owned(), line: at + 1 }))
            .collect()
    }

    /// The line number, from 1, of the occurrence of a key that counts.
    #[must_use]
    pub fn line_of(&self, dialect: Dialect, section: &str, key: &str) -> Option<usize> {
        let last = self.occurrences(dialect, section, key).pop()?;
        Some(last + 1)
    }

    /// The numbers of the lines, from 1, that are not UTF-8. Under a UTF-8
    /// locale Python 3 refuses a file which has any, comments included.
    #[must_use]
    pub fn not_utf8(&self) -> Vec<usize> {
        let bad = |(at, line): (usize, &Line)| std::str::from_utf8(&line.raw).is_err().then_some(at + 1);
        self.lines.iter().enumerate().filter_map(bad).collect()
    }

    /// Says anew what each line is, after the text was parsed or edited.
    fn classify(&mut self) -> Result<(), Error> {
        line::classify(&mut self.lines).map_err(|(at, reason)| self.error(at, reason))
    }

    /// An error at the line with index `at`.
    fn error(&self, at: usize, reason: impl Into<String>) -> Error {
        Error { name: self.name.clone(), line: at + 1, reason: reason.into() }
    }

    /// Indices of the headers of a section.
    fn headers<'a>(&'a self, dialect: Dialect, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.lines.iter().enumerate().filter_map(move |(at, line)| {
            let found = line.section()?;
            same_section(dialect, found, name).then_some(at)
        })
    }

    /// Indices of the key lines of a section, over all its blocks.
    fn key_lines(&self, dialect: Dialect, section: &str) -> Vec<usize> {
        let mut inside = false;
        let mut found = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            if let Some(name) = line.section() {
                inside = same_section(dialect, name, section);
            } else if inside && line.key().is_some() {
                found.push(at);
            }
        }
        found
    }

    /// Indices of the lines that hold a key of a section.
    fn occurrences(&self, dialect: Dialect, section: &str, key: &str) -> Vec<usize> {
        let mut lines = self.key_lines(dialect, section);
        lines.retain(|&at| self.lines.get(at).and_then(Line::key) == Some(key));
        lines
    }

    /// One past the last continuation of the key line `at`, comment-like
    /// continuations included.
    fn extent(&self, at: usize) -> usize {
        let mut end = at + 1;
        for (index, line) in self.lines.iter().enumerate().skip(at + 1) {
            match line.kind {
                Kind::Continuation { .. } => end = index + 1,
                Kind::Blank | Kind::Comment => {}
                Kind::Section { .. } | Kind::Key { .. } => break,
            }
        }
        end
    }
}

/// Whether `dialect` takes two section names for the same.
fn same_section(dialect: Dialect, a: &str, b: &str) -> bool {
    match dialect {
        Dialect::Oslo => group(a) == group(b),
        Dialect::Paste2 | Dialect::Paste3 => a == b,
    }
}

/// A group name as oslo.config compares it.
fn group(name: &str) -> String {
    if name == "DEFAULT" { name.to_owned() } else { name.to_lowercase() }
}
