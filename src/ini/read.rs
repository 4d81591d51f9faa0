//! Reading a document as oslo.config or PasteDeploy does.

use std::collections::BTreeSet;
use std::ops::Range;

use super::line::{self, Kind, Line, is_py_space};
use super::{Dialect, Document, Error};

/// A key that two readers take for different values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Section of the key.
    pub section: String,
    /// The key.
    pub key: String,
    /// Line number, from 1, of its last occurrence.
    pub line: usize,
}

impl Document {
    /// Whether the reader of `dialect` takes the whole file.
    ///
    /// # Errors
    /// The first line at which it stops.
    pub fn accepts(&self, dialect: Dialect) -> Result<(), Error> {
        if self.bom {
            return Err(self.error(0, "starts with a byte order mark, which Python refuses"));
        }
        self.readable(dialect)
    }

    /// The value of a key, or `None` when it is absent. Of repeated keys the
    /// one that the reader uses. A byte order mark is overlooked here (see
    /// [`Document::accepts`]).
    ///
    /// # Errors
    /// The reader refuses the file, or the value is not UTF-8.
    pub fn get(&self, dialect: Dialect, section: &str, key: &str) -> Result<Option<String>, Error> {
        self.readable(dialect)?;
        match self.occurrences(dialect, section, key).last() {
            Some(&at) => self.value(dialect, at).map(Some),
            None => Ok(None),
        }
    }

    /// All values of a key over all blocks of its section, in the order of
    /// the file: what oslo.config's `MultiStrOpt` holds.
    ///
    /// # Errors
    /// As [`Document::get`].
    pub fn get_all(&self, dialect: Dialect, section: &str, key: &str) -> Result<Vec<String>, Error> {
        self.readable(dialect)?;
        self.occurrences(dialect, section, key).into_iter().map(|at| self.value(dialect, at)).collect()
    }

    /// The keys of a section with the values that count, in the order of
    /// their first occurrence.
    ///
    /// # Errors
    /// As [`Document::get`].
    pub fn options(&self, dialect: Dialect, section: &str) -> Result<Vec<(String, String)>, Error> {
        self.readable(dialect)?;
        let mut options: Vec<(String, String)> = Vec::new();
        for at in self.key_lines(dialect, section) {
            let Some(key) = self.lines.get(at).and_then(Line::key) else { continue };
            let value = self.value(dialect, at)?;
            match options.iter_mut().find(|(name, _)| name == key) {
                Some(known) => known.1 = value,
                None => options.push((key.to_owned(), value)),
            }
        }
        Ok(options)
    }

    /// The value of a key cut at white space; empty when the key is absent.
    ///
    /// # Errors
    /// As [`Document::get`].
    pub fn words(&self, dialect: Dialect, section: &str, key: &str) -> Result<Vec<String>, Error> {
        let value = self.get(dialect, section, key)?.unwrap_or_default();
        Ok(value.split(is_py_space).filter(|w| !w.is_empty()).map(str::to_owned).collect())
    }

    /// The keys whose value is not the same to both readers.
    ///
    /// # Errors
    /// One of them refuses the file, or a value is not UTF-8.
    pub fn differences(&self, a: Dialect, b: Dialect) -> Result<Vec<Difference>, Error> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        let mut section = String::new();
        for line in &self.lines {
            if let Some(name) = line.section() {
                name.clone_into(&mut section);
            }
            let Some(key) = line.key() else { continue };
            if !seen.insert((section.clone(), key.to_owned())) {
                continue;
            }
            if self.get(a, &section, key)? != self.get(b, &section, key)? {
                found.push(Difference {
                    section: section.clone(),
                    key: key.to_owned(),
                    line: self.line_of(a, &section, key).unwrap_or_default(),
                });
            }
        }
        Ok(found)
    }

    /// As [`Document::accepts`], without a look at the byte order mark.
    pub(super) fn readable(&self, dialect: Dialect) -> Result<(), Error> {
        match dialect {
            Dialect::Oslo => self.readable_by_oslo(),
            Dialect::Paste2 => self.readable_by_paste2(),
            Dialect::Paste3 => self.readable_by_paste3(),
        }
    }

    fn readable_by_oslo(&self) -> Result<(), Error> {
        let mut value_open = false;
        for (at, line) in self.lines.iter().enumerate() {
            let continues = matches!(line.kind, Kind::Continuation { .. });
            let indented = line.indent() > 0 && line.kind != Kind::Blank;
            if indented && !(continues && value_open) {
                return Err(self.error(at, "oslo.config refuses an indented line here"));
            }
            if line.section().is_some() && !line.raw.trim_ascii_end().ends_with(b"]") {
                return Err(self.error(at, "oslo.config refuses text behind a section header"));
            }
            value_open = continues || line.key().is_some();
        }
        Ok(())
    }

    fn readable_by_paste2(&self) -> Result<(), Error> {
        for (at, line) in self.lines.iter().enumerate() {
            let continues = matches!(line.kind, Kind::Continuation { .. });
            if line.indent() > 0 && line.kind != Kind::Blank && !continues {
                return Err(self.error(at, "Python 2 refuses an indented line here"));
            }
            let first = line.raw.split(line::is_space).next().unwrap_or_default();
            if line.key().is_some() && first.eq_ignore_ascii_case(b"rem") {
                return Err(self.error(at, "Python 2 takes a line starting with rem for a comment"));
            }
        }
        Ok(())
    }

    fn readable_by_paste3(&self) -> Result<(), Error> {
        let mut sections = BTreeSet::new();
        let mut keys = BTreeSet::new();
        let mut section = "";
        for (at, line) in self.lines.iter().enumerate() {
            if let Some(name) = line.section() {
                section = name;
                // Blocks of [DEFAULT] are the exception: they merge.
                if !sections.insert(name) && name != "DEFAULT" {
                    let reason = format!("section [{name}] a second time, which Python 3 refuses");
                    return Err(self.error(at, reason));
                }
            }
            let Some(key) = line.key() else { continue };
            if !keys.insert((section, key)) {
                let reason = format!("{key} a second time in [{section}], which Python 3 refuses");
                return Err(self.error(at, reason));
            }
        }
        Ok(())
    }

    /// The value at the key line `at`.
    fn value(&self, dialect: Dialect, at: usize) -> Result<String, Error> {
        let Some(line) = self.lines.get(at) else {
            return Ok(String::new());
        };
        let first = self.text(at, line.cut(&value_span(dialect, line)))?;
        let mut parts = vec![match dialect {
            Dialect::Oslo => unquote(first.trim_matches(is_py_space)),
            Dialect::Paste2 if first == "\"\"" => "",
            Dialect::Paste2 => first,
            Dialect::Paste3 => first.trim_matches(is_py_space),
        }];
        let end = self.extent(at);
        for (index, line) in self.lines.iter().enumerate().take(end).skip(at + 1) {
            match (&line.kind, dialect) {
                (Kind::Blank, Dialect::Paste3) => parts.push(""),
                (Kind::Continuation { comment: true }, Dialect::Paste3) => {}
                (Kind::Continuation { .. }, Dialect::Paste2) => {
                    let span = line::trim(&line.raw, 0..line.raw.len());
                    parts.push(self.text(index, line.cut(&span))?);
                }
                (Kind::Continuation { .. }, Dialect::Oslo | Dialect::Paste3) => {
                    parts.push(self.text(index, &line.raw)?.trim_matches(is_py_space));
                }
                (Kind::Blank | Kind::Comment | Kind::Section { .. } | Kind::Key { .. }, _) => {}
            }
        }
        let value = parts.join("\n");
        Ok(match dialect {
            Dialect::Paste3 => value.trim_end_matches(is_py_space).to_owned(),
            Dialect::Oslo | Dialect::Paste2 => value,
        })
    }

    fn text<'a>(&self, at: usize, bytes: &'a [u8]) -> Result<&'a str, Error> {
        std::str::from_utf8(bytes).map_err(|_| self.error(at, "value is not UTF-8"))
    }
}

/// The value on the key line itself: what [`Document::set`] replaces.
pub(super) fn value_span(dialect: Dialect, line: &Line) -> Range<usize> {
    let Some((_, value)) = line.spans() else {
        return 0..0;
    };
    match dialect {
        Dialect::Oslo | Dialect::Paste3 => value.clone(),
        Dialect::Paste2 => cut_comment(line, value),
    }
}

/// Python 2 looks at the first semicolon only, and cuts there if the byte
/// before it is white space; for a value that starts with a semicolon "the
/// byte before" is by accident the last one of the line.
fn cut_comment(line: &Line, value: &Range<usize>) -> Range<usize> {
    let rest = line.raw.get(value.start..).unwrap_or_default();
    let Some(semicolon) = rest.iter().position(|&b| b == b';') else {
        return value.clone();
    };
    let before = match semicolon.checked_sub(1) {
        Some(index) => rest.get(index),
        None => rest.last(),
    };
    let carriage_return = semicolon == 0 && line.end == line::End::CrLf;
    if carriage_return || before.is_some_and(line::is_space) {
        line::trim(&line.raw, value.start..value.start + semicolon)
    } else {
        value.clone()
    }
}

/// Drops one pair of outer quotes, as oslo.config does: also from a value
/// that is a single quote.
fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if value.starts_with(quote) && value.ends_with(quote) {
            let inner = value.strip_prefix(quote).unwrap_or_default();
            return inner.strip_suffix(quote).unwrap_or_default();
        }
    }
    value
}
