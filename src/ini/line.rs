//! The lines of a document and what each of them is.

use std::ops::Range;

/// One line of the file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The line without its end.
    pub(super) raw: Vec<u8>,
    pub(super) end: End,
    pub(super) kind: Kind,
}

/// How a line ends. A file may mix them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The last line of a file without a final newline.
    None,
    Lf,
    CrLf,
}

impl End {
    pub(super) fn bytes(self) -> &'static [u8] {
        match self {
            End::None => b"",
            End::Lf => b"\n",
            End::CrLf => b"\r\n",
        }
    }
}

/// What a line is, as Python 3's configparser tells it. Spans are byte
/// offsets in the line, without white space around them.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Blank,
    /// Starts with `#` or `;`; indented only where no key is open.
    Comment,
    Section {
        name: Range<usize>,
    },
    Key {
        key: Range<usize>,
        value: Range<usize>,
    },
    /// Indented deeper than the key above it. `comment`: starts with `#` or
    /// `;`, which is a comment to Python 3 and part of the value to others.
    Continuation {
        comment: bool,
    },
}

impl Line {
    pub(super) fn new(raw: Vec<u8>, end: End) -> Line {
        let kind = Kind::Blank;
        Line { raw, end, kind }
    }

    /// The bytes of a span.
    pub(super) fn cut(&self, span: &Range<usize>) -> &[u8] {
        self.raw.get(span.clone()).unwrap_or_default()
    }

    /// The name in a section header.
    pub(super) fn section(&self) -> Option<&str> {
        match &self.kind {
            Kind::Section { name } => std::str::from_utf8(self.cut(name)).ok(),
            Kind::Blank | Kind::Comment | Kind::Key { .. } | Kind::Continuation { .. } => None,
        }
    }

    /// The name of a key.
    pub(super) fn key(&self) -> Option<&str> {
        let (key, _) = self.spans()?;
        std::str::from_utf8(self.cut(key)).ok()
    }

    /// The spans of key and value.
    pub(super) fn spans(&self) -> Option<(&Range<usize>, &Range<usize>)> {
        match &self.kind {
            Kind::Key { key, value } => Some((key, value)),
            Kind::Blank | Kind::Comment | Kind::Section { .. } | Kind::Continuation { .. } => None,
        }
    }

    /// Number of white-space bytes the line starts with.
    pub(super) fn indent(&self) -> usize {
        indent(&self.raw)
    }
}

/// White space to every reader.
pub(super) fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c)
}

/// White space as Python 3's `str.strip()` sees it.
pub(super) fn is_py_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn indent(raw: &[u8]) -> usize {
    raw.iter().take_while(|b| is_space(b)).count()
}

/// The part of `span` without white space around it; when there is none, the
/// empty span at its end.
pub(super) fn trim(raw: &[u8], span: Range<usize>) -> Range<usize> {
    let text = raw.get(span.clone()).unwrap_or_default();
    let start = span.start + indent(text);
    let trailing = text.iter().rev().take_while(|b| is_space(b)).count();
    start..(span.end.saturating_sub(trailing)).max(start)
}

/// Splits a text at `\n` and `\r\n`.
pub(super) fn split(text: &[u8]) -> Vec<Line> {
    text.split_inclusive(|&b| b == b'\n')
        .map(|line| {
            if let Some(raw) = line.strip_suffix(b"\r\n") {
                Line::new(raw.to_vec(), End::CrLf)
            } else if let Some(raw) = line.strip_suffix(b"\n") {
                Line::new(raw.to_vec(), End::Lf)
            } else {
                Line::new(line.to_vec(), End::None)
            }
        })
        .collect()
}

/// Sets the kind of every line.
///
/// # Errors
/// Index of the line that no reader understands, and why.
pub(super) fn classify(lines: &mut [Line]) -> Result<(), (usize, &'static str)> {
    let mut in_section = false;
    // Indentation of the key that an indented line would continue.
    let mut open: Option<usize> = None;
    for (at, line) in lines.iter_mut().enumerate() {
        let kind = classify_one(&line.raw, in_section, open).map_err(|reason| (at, reason))?;
        match kind {
            Kind::Section { .. } => {
                in_section = true;
                open = None;
            }
            Kind::Key { .. } => open = Some(line.indent()),
            Kind::Blank | Kind::Comment | Kind::Continuation { .. } => {}
        }
        line.kind = kind;
    }
    Ok(())
}

fn classify_one(raw: &[u8], in_section: bool, open: Option<usize>) -> Result<Kind, &'static str> {
    if raw.contains(&b'\r') {
        return Err("carriage return inside the line: Python 3 ends the line there, Python 2 does not");
    }
    if raw.contains(&b'\n') {
        return Err("line end inside the line"); // only in what an edit was to write
    }
    let indent = indent(raw);
    let text = raw.get(indent..).unwrap_or_default();
    let Some(first) = text.first() else {
        return Ok(Kind::Blank);
    };
    if matches!(raw.first(), Some(0x0b | 0x0c)) || starts_with_odd_space(text) {
        return Err("starts with white space that is neither a blank nor a tab");
    }
    let comment = matches!(first, b'#' | b';');
    if open.is_some_and(|key| indent > key) && (indent > 0) {
        return Ok(Kind::Continuation { comment });
    }
    if comment {
        return Ok(Kind::Comment);
    }
    if *first == b'[' {
        return section(raw, indent);
    }
    if !in_section {
        return Err("stands before any section");
    }
    key(raw, indent)
}

/// Whether a text starts with what only some of the readers take for space.
fn starts_with_odd_space(text: &[u8]) -> bool {
    // A character is at most four bytes long.
    let head = text.get(..4).unwrap_or(text);
    let valid = match std::str::from_utf8(head) {
        Ok(head) => head,
        Err(error) => {
            let good = head.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(good).unwrap_or_default()
        }
    };
    valid.starts_with(is_py_space)
}

fn section(raw: &[u8], indent: usize) -> Result<Kind, &'static str> {
    let start = indent + 1;
    let text = raw.get(start..).unwrap_or_default();
    let mut brackets = text.iter().enumerate().filter(|(_, b)| **b == b']');
    let Some((length, _)) = brackets.next() else {
        return Err("section header without ]");
    };
    if brackets.next().is_some() {
        return Err("second ] in a section header: not all readers agree on the name");
    }
    let name = start..start + length;
    if name.is_empty() {
        return Err("section without a name");
    }
    if std::str::from_utf8(raw.get(name.clone()).unwrap_or_default()).is_err() {
        return Err("section name is not UTF-8");
    }
    Ok(Kind::Section { name })
}

fn key(raw: &[u8], indent: usize) -> Result<Kind, &'static str> {
    let Some(delimiter) = raw.iter().position(|b| matches!(b, b'=' | b':')) else {
        return Err("neither comment, section, key (no = or :) nor continuation of a value");
    };
    let key = trim(raw, indent..delimiter);
    if key.is_empty() {
        return Err("nothing before the = or :");
    }
    let Ok(name) = std::str::from_utf8(raw.get(key.clone()).unwrap_or_default()) else {
        return Err("key is not UTF-8");
    };
    if name.ends_with(is_py_space) {
        return Err("key ends with white space that is neither a blank nor a tab");
    }
    let value = trim(raw, delimiter + 1..raw.len());
    Ok(Kind::Key { key, value })
}
