//! Editing a document: spans are replaced, everything else stays.
//!
//! Every edit works on a copy, which takes the place of the document only
//! when it reads back as intended; after an error the document is unchanged.

use std::ops::Range;

use super::line::{self, End, Kind, Line};
use super::read::value_span;
use super::{Dialect, Document, Error};

const INDENT: &[u8] = b"    ";

impl Document {
    /// Gives a key the value `value` and says whether that changed anything.
    ///
    /// Only the value of the occurrence that counts is replaced and its
    /// continuations are deleted (for [`Dialect::Paste3`] comments among them
    /// stay); quotes, a ` ;` comment for [`Dialect::Paste2`], alignment and
    /// line end are kept. An absent key is added after the last key of the
    /// last block of the section, spaced like that one; an absent section at
    /// the end of the file. Lines of `value` become continuations.
    ///
    /// # Errors
    /// The reader refuses the file, or has no way to read `value` back.
    pub fn set(&mut self, dialect: Dialect, section: &str, key: &str, value: &str) -> Result<bool, Error> {
        if self.get(dialect, section, key)?.as_deref() == Some(value) {
            return Ok(false);
        }
        let mut next = self.clone();
        let at = match self.occurrences(dialect, section, key).last() {
            Some(&at) => {
                next.replace_value(dialect, at, value);
                at
            }
            None => next.append_key(dialect, section, key, value),
        };
        next.reads_back(dialect, section, key, value, at)?;
        *self = next;
        Ok(true)
    }

    /// Gives a key exactly the values `values`, as oslo.config's
    /// `MultiStrOpt` reads them, and says whether that changed anything.
    /// Occurrences are rewritten in place, surplus ones removed, further ones
    /// added behind the last.
    ///
    /// # Errors
    /// As [`Document::set`]; several values in a dialect that refuses them.
    pub fn set_multi(&mut self, dialect: Dialect, section: &str, key: &str, values: &[&str]) -> Result<bool, Error> {
        if self.get_all(dialect, section, key)? == values {
            return Ok(false);
        }
        let mut next = self.clone();
        let old = self.occurrences(dialect, section, key);
        // From the end, so that the indices still to come stay right.
        for (nth, &at) in old.iter().enumerate().rev() {
            match values.get(nth) {
                Some(value) => next.replace_value(dialect, at, value),
                None => {
                    next.remove_value(dialect, at);
                    next.remove_lines(at..at + 1);
                }
            }
            next.classify()?;
        }
        for value in values.iter().skip(old.len()) {
            match next.occurrences(dialect, section, key).last() {
                Some(&at) => next.insert_key_after(at, key, value),
                None => next.append_key(dialect, section, key, value),
            };
            next.classify()?;
        }
        if next.get_all(dialect, section, key)? != values {
            let line = next.line_of(dialect, section, key).unwrap_or(1);
            return Err(next.unreadable(dialect, key, line - 1));
        }
        *self = next;
        Ok(true)
    }

    /// Adds a key that is absent, with comment lines above it; each line of
    /// `comment` gets a `#`.
    ///
    /// # Errors
    /// The key is present, or as [`Document::set`].
    pub fn insert(
        &mut self,
        dialect: Dialect,
        section: &str,
        key: &str,
        value: &str,
        comment: &str,
    ) -> Result<(), Error> {
        if let Some(line) = self.line_of(dialect, section, key) {
            return Err(self.error(line - 1, format!("{key} is set here already")));
        }
        let mut next = self.clone();
        next.set(dialect, section, key, value)?;
        let Some(line) = next.line_of(dialect, section, key) else {
            return Err(next.unreadable(dialect, key, 0));
        };
        let comment = comment.lines().map(|text| format!("# {text}").into_bytes());
        next.insert_lines(line - 1, comment.collect());
        let at = next.occurrences(dialect, section, key).pop();
        next.reads_back(dialect, section, key, value, at.unwrap_or_default())?;
        *self = next;
        Ok(())
    }

    /// Inserts a word into a value that is a list separated by white space,
    /// so that it becomes word number `nth` (from 0, at most the number of
    /// words). In a value that holds one word a line it gets a line of its
    /// own, else it is put beside its neighbour.
    ///
    /// # Errors
    /// The key is absent, `nth` is too large, or as [`Document::set`].
    pub fn insert_word(
        &mut self,
        dialect: Dialect,
        section: &str,
        key: &str,
        nth: usize,
        word: &str,
    ) -> Result<(), Error> {
        let mut want = self.words(dialect, section, key)?;
        let places = self.word_places(dialect, section, key);
        let line = self.line_of(dialect, section, key).unwrap_or(1);
        if nth > want.len() || places.len() != want.len() || want.is_empty() {
            let reason = format!("{key} of [{section}] has no place {nth} for a word");
            return Err(self.error(line - 1, reason));
        }
        want.insert(nth, word.to_owned());
        let mut next = self.clone();
        next.put_word(&places, nth, word);
        next.classify()?;
        if next.words(dialect, section, key)? != want {
            return Err(self.unreadable(dialect, key, line - 1));
        }
        *self = next;
        Ok(())
    }

    /// Renames a key at all its occurrences and says whether there were any.
    ///
    /// # Errors
    /// The new name is taken, or cannot be a key.
    pub fn rename_key(&mut self, dialect: Dialect, section: &str, from: &str, to: &str) -> Result<bool, Error> {
        let lines = self.occurrences(dialect, section, from);
        let Some(&first) = lines.first() else {
            return Ok(false);
        };
        if from == to {
            return Ok(false);
        }
        if let Some(line) = self.line_of(dialect, section, to) {
            return Err(self.error(line - 1, format!("{to} is set here already")));
        }
        let mut next = self.clone();
        for &at in &lines {
            if let Some(line) = next.lines.get_mut(at)
                && let Some((key, _)) = line.spans()
            {
                let span = key.clone();
                line.raw.splice(span, to.bytes());
            }
        }
        next.classify()?;
        if next.occurrences(dialect, section, to) != lines {
            return Err(self.error(first, format!("{from} cannot be renamed to {to:?}")));
        }
        *self = next;
        Ok(true)
    }

    /// Removes all occurrences of a key with their continuations and says
    /// whether there were any. Comments above them stay.
    ///
    /// # Errors
    /// None of the document's own; what is left is parsed again.
    pub fn remove_key(&mut self, dialect: Dialect, section: &str, key: &str) -> Result<bool, Error> {
        let mut next = self.clone();
        let lines = self.occurrences(dialect, section, key);
        for &at in lines.iter().rev() {
            next.remove_value(dialect, at);
            next.remove_lines(at..at + 1);
        }
        next.classify()?;
        *self = next;
        Ok(!lines.is_empty())
    }

    /// Adds a section with keys, after the last block of the section `after`
    /// if that exists, else at the end of the file, set off by blank lines.
    ///
    /// # Errors
    /// The section exists, or name, keys or values do not read back.
    pub fn add_section(
        &mut self,
        dialect: Dialect,
        name: &str,
        keys: &[(&str, &str)],
        after: Option<&str>,
    ) -> Result<(), Error> {
        if let Some(at) = self.headers(dialect, name).next() {
            return Err(self.error(at, format!("section [{name}] exists already")));
        }
        let mut next = self.clone();
        let header = after.and_then(|after| self.headers(dialect, after).last());
        let at = match header {
            Some(header) => self.insertion_point(header),
            None => self.lines.len(),
        };
        let at = next.insert_section(at, name, keys);
        next.classify()?;
        for (key, value) in keys {
            next.reads_back(dialect, name, key, value, at)?;
        }
        if !next.has_section(dialect, name) {
            return Err(next.unreadable(dialect, name, at));
        }
        *self = next;
        Ok(())
    }

    /// Removes all blocks of a section, each with the comment lines directly
    /// above its header, and says whether there were any. Comments behind the
    /// last key stay when a blank line sets them off, or when they stand
    /// directly above the next header.
    ///
    /// # Errors
    /// None of the document's own; what is left is parsed again.
    pub fn remove_section(&mut self, dialect: Dialect, name: &str) -> Result<bool, Error> {
        let mut next = self.clone();
        let headers: Vec<usize> = self.headers(dialect, name).collect();
        for &header in headers.iter().rev() {
            let block = next.block(header);
            next.remove_lines(block);
        }
        next.classify()?;
        *self = next;
        Ok(!headers.is_empty())
    }

    /// Parses the edited text again and compares.
    fn reads_back(&mut self, dialect: Dialect, section: &str, key: &str, value: &str, at: usize) -> Result<(), Error> {
        let read = self.classify().and_then(|()| self.get(dialect, section, key));
        match read {
            Ok(Some(read)) if read == value => Ok(()),
            Ok(_) | Err(_) => Err(self.unreadable(dialect, key, at)),
        }
    }

    fn unreadable(&self, dialect: Dialect, key: &str, at: usize) -> Error {
        self.error(at, format!("{dialect} has no way to read this value of {key}"))
    }

    /// Writes a value over that of the key line `at`.
    fn replace_value(&mut self, dialect: Dialect, at: usize, value: &str) {
        let indent = self.continuation_indent(at);
        self.remove_value(dialect, at);
        let Some(line) = self.lines.get_mut(at) else {
            return;
        };
        let mut parts = value.split('\n');
        let first = parts.next().unwrap_or_default();
        let span = value_span(dialect, line);
        let mut text = match dialect {
            Dialect::Oslo => quoted(first, line.cut(&span)),
            Dialect::Paste2 | Dialect::Paste3 => first.as_bytes().to_vec(),
        };
        if span.start == line.raw.len() && !text.is_empty() && wants_space(line) {
            text.insert(0, b' ');
        }
        line.raw.splice(span, text);
        let more = parts.map(|part| [&indent, part.as_bytes()].concat());
        self.insert_lines(at + 1, more.collect());
    }

    /// Deletes the continuations of the key line `at` that are part of the
    /// value to the reader.
    fn remove_value(&mut self, dialect: Dialect, at: usize) {
        let part = |line: &Line| match line.kind {
            Kind::Continuation { comment } => !(comment && dialect == Dialect::Paste3),
            Kind::Blank | Kind::Comment | Kind::Section { .. } | Kind::Key { .. } => false,
        };
        for index in (at + 1..self.extent(at)).rev() {
            if self.lines.get(index).is_some_and(part) {
                self.remove_lines(index..index + 1);
            }
        }
    }

    fn continuation_indent(&self, at: usize) -> Vec<u8> {
        let end = self.extent(at);
        let mut lines = self.lines.iter().take(end).skip(at + 1);
        match lines.find(|line| matches!(line.kind, Kind::Continuation { .. })) {
            Some(line) => line.cut(&(0..line.indent())).to_vec(),
            None => {
                let key = self.lines.get(at).map(|line| line.cut(&(0..line.indent())));
                [key.unwrap_or_default(), INDENT].concat()
            }
        }
    }

    /// Adds a key at the end of its section; gives its line's index.
    fn append_key(&mut self, dialect: Dialect, section: &str, key: &str, value: &str) -> usize {
        let Some(header) = self.headers(dialect, section).last() else {
            return self.insert_section(self.lines.len(), section, &[(key, value)]) + 1;
        };
        let in_last_block = |at: &usize| *at > header;
        match self.key_lines(dialect, section).last().filter(|at| in_last_block(at)) {
            Some(&neighbour) => self.insert_key_after(neighbour, key, value),
            None => {
                self.insert_lines(header + 1, key_lines(key, b" = ", value, b""));
                header + 1
            }
        }
    }

    /// Adds a key below the key line `neighbour`, spaced like it.
    fn insert_key_after(&mut self, neighbour: usize, key: &str, value: &str) -> usize {
        let at = self.extent(neighbour);
        if let Some(line) = self.lines.get(neighbour)
            && let Some((name, _)) = line.spans()
        {
            let indent = line.cut(&(0..name.start)).to_vec();
            let separator = separator(line, key.len());
            self.insert_lines(at, key_lines(key, &separator, value, &indent));
        }
        at
    }

    /// Adds a section at index `at`; gives the index of its header.
    fn insert_section(&mut self, at: usize, name: &str, keys: &[(&str, &str)]) -> usize {
        let blank = |line: &Line| line.raw.iter().all(line::is_space);
        let before = at.checked_sub(1).and_then(|at| self.lines.get(at));
        let blank_before = before.is_some_and(|line| !blank(line));
        let blank_after = self.lines.get(at).is_some_and(|line| !blank(line));
        let mut lines = Vec::new();
        if blank_before {
            lines.push(Vec::new());
        }
        lines.push(format!("[{name}]").into_bytes());
        for (key, value) in keys {
            lines.extend(key_lines(key, b" = ", value, b""));
        }
        if blank_after {
            lines.push(Vec::new());
        }
        self.insert_lines(at, lines);
        at + usize::from(blank_before)
    }

    /// Index at which a section that is to follow the one at `header` goes:
    /// before blank lines, and comments that belong to the next header.
    fn insertion_point(&self, header: usize) -> usize {
        let next = self.next_header(header);
        let mut end = next;
        if next < self.lines.len() {
            end = self.comments_above(next);
        }
        while end > header + 1 && self.is_kind(end - 1, &Kind::Blank) {
            end -= 1;
        }
        end
    }

    fn next_header(&self, header: usize) -> usize {
        let lines = self.lines.iter().skip(header + 1);
        let next = lines.take_while(|line| line.section().is_none()).count();
        header + 1 + next
    }

    /// Index of the first of the comment lines directly above `at`.
    fn comments_above(&self, at: usize) -> usize {
        let mut first = at;
        while first > 0 && self.is_kind(first - 1, &Kind::Comment) {
            first -= 1;
        }
        first
    }

    fn is_kind(&self, at: usize, kind: &Kind) -> bool {
        self.lines.get(at).is_some_and(|line| line.kind == *kind)
    }

    /// The lines that go with a section when it is removed.
    fn block(&self, header: usize) -> Range<usize> {
        let next = self.next_header(header);
        let mut end = header + 1;
        for at in header + 1..next {
            if self.lines.get(at).is_some_and(|line| line.key().is_some()) {
                end = self.extent(at);
            }
        }
        let mut comments = end;
        while self.is_kind(comments, &Kind::Comment) {
            comments += 1;
        }
        if comments < next || next == self.lines.len() {
            end = comments;
        }
        // A comment that directly follows a key may be about that key, and
        // one on the first line about the file.
        let above = self.comments_above(header);
        let start = match above.checked_sub(1) {
            Some(before) if self.is_kind(before, &Kind::Blank) => above,
            Some(_) | None => header,
        };
        let set_off = start == 0 || self.is_kind(start - 1, &Kind::Blank);
        while set_off && self.is_kind(end, &Kind::Blank) {
            end += 1;
        }
        let mut start = start;
        while end == self.lines.len() && start > 0 && self.is_kind(start - 1, &Kind::Blank) {
            start -= 1;
        }
        start..end
    }

    /// Inserts lines that end as their neighbour does. A missing newline at
    /// the end of the file stays missing.
    fn insert_lines(&mut self, at: usize, lines: Vec<Vec<u8>>) {
        if lines.is_empty() {
            return;
        }
        let end = self.end_near(at);
        let mut new: Vec<Line> = lines.into_iter().map(|raw| Line::new(raw, end)).collect();
        if at == self.lines.len()
            && let Some(last) = self.lines.last_mut()
            && last.end == End::None
        {
            // Python 2 looks at the character before a `;`, and where that begins the value, at the value's last one: which must not become \r.
            last.end = if last.raw.contains(&b';') { End::Lf } else { end };
            if let Some(last) = new.last_mut() {
                last.end = End::None;
            }
        }
        self.lines.splice(at..at, new);
    }

    fn end_near(&self, at: usize) -> End {
        let before = self.lines.iter().take(at).rev();
        let after = self.lines.iter().skip(at);
        let mut ends = before.chain(after).map(|line| line.end);
        ends.find(|end| *end != End::None).unwrap_or(End::Lf)
    }

    fn remove_lines(&mut self, lines: Range<usize>) {
        self.lines.drain(lines);
    }

    /// Line index and span of each word of a value.
    fn word_places(&self, dialect: Dialect, section: &str, key: &str) -> Vec<(usize, Range<usize>)> {
        let mut places = Vec::new();
        let Some(&at) = self.occurrences(dialect, section, key).last() else {
            return places;
        };
        for (index, line) in self.lines.iter().enumerate().take(self.extent(at)).skip(at) {
            let span = match line.kind {
                Kind::Key { .. } => value_span(dialect, line),
                Kind::Continuation { comment: true } if dialect == Dialect::Paste3 => continue,
                Kind::Continuation { .. } => 0..line.raw.len(),
                Kind::Blank | Kind::Comment | Kind::Section { .. } => continue,
            };
            let mut start = span.start;
            for word in line.cut(&span).split(line::is_space) {
                if !word.is_empty() {
                    places.push((index, start..start + word.len()));
                }
                start += word.len() + 1;
            }
        }
        places
    }

    fn put_word(&mut self, places: &[(usize, Range<usize>)], nth: usize, word: &str) {
        let before = nth.checked_sub(1).and_then(|nth| places.get(nth));
        let after = places.get(nth);
        let alone = |place: &&(usize, Range<usize>)| {
            let on_line = places.iter().filter(|other| other.0 == place.0).count();
            on_line == 1 && self.lines.get(place.0).is_some_and(|line| line.key().is_none())
        };
        let row = |at: usize| {
            let line = self.lines.get(at);
            let indent = line.map(|line| line.cut(&(0..line.indent())));
            [indent.unwrap_or_default(), word.as_bytes()].concat()
        };
        if let Some((at, _)) = before.filter(alone) {
            let row = row(*at);
            self.insert_lines(at + 1, vec![row]);
        } else if let Some((at, _)) = after.filter(alone) {
            let row = row(*at);
            self.insert_lines(*at, vec![row]);
        } else if let Some((at, span)) = before {
            let gap = match after {
                Some((next, end)) if next == at => span.end..end.start,
                Some(_) | None => 0..0,
            };
            self.splice_word(*at, span.end, &gap, |gap| [gap, word.as_bytes()].concat());
        } else if let Some((at, span)) = after {
            let gap = match places.get(1) {
                Some((next, end)) if next == at => span.end..end.start,
                Some(_) | None => 0..0,
            };
            self.splice_word(*at, span.start, &gap, |gap| [word.as_bytes(), gap].concat());
        }
    }

    /// Inserts at byte `position` of a line what `text` makes of the gap that
    /// separates the words there, a blank if there is none.
    fn splice_word(&mut self, at: usize, position: usize, gap: &Range<usize>, text: impl Fn(&[u8]) -> Vec<u8>) {
        let Some(line) = self.lines.get_mut(at) else {
            return;
        };
        let gap = line.cut(gap);
        let text = text(if gap.is_empty() { b" " } else { gap });
        line.raw.splice(position..position, text);
    }
}

/// Whether a key line without a value wants a blank behind its delimiter.
fn wants_space(line: &Line) -> bool {
    let Some((key, _)) = line.spans() else {
        return false;
    };
    let spaced = line.raw.get(key.end).is_some_and(line::is_space);
    spaced && !line.raw.last().is_some_and(line::is_space)
}

/// A first line of a value for oslo.config, in the quotes of the old one, and
/// in quotes where it would lose its own ends otherwise.
fn quoted(value: &str, old: &[u8]) -> Vec<u8> {
    let quote = match (old.first(), old.last()) {
        (Some(b'"'), Some(b'"')) => Some('"'),
        (Some(b'\''), Some(b'\'')) => Some('\''),
        _ => None,
    };
    let own = |q: char| value.starts_with(q) && value.ends_with(q);
    let bare = value.trim_matches(line::is_py_space) == value && !own('"') && !own('\'');
    match quote {
        Some(quote) => format!("{quote}{value}{quote}").into_bytes(),
        None if bare => value.as_bytes().to_vec(),
        None => format!("\"{value}\"").into_bytes(),
    }
}

/// The lines of a new key.
fn key_lines(key: &str, separator: &[u8], value: &str, indent: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = value.split('\n');
    let first = parts.next().unwrap_or_default();
    let text = if first.is_empty() {
        [indent, key.as_bytes(), separator.trim_ascii_end()].concat()
    } else {
        [indent, key.as_bytes(), separator, first.as_bytes()].concat()
    };
    let more = parts.map(|part| [indent, INDENT, part.as_bytes()].concat());
    std::iter::once(text).chain(more).collect()
}

/// What stands between a key of `length` bytes and its value, modelled on a
/// neighbour: the delimiter in the same column where that one is aligned.
fn separator(neighbour: &Line, length: usize) -> Vec<u8> {
    let Some((key, value)) = neighbour.spans() else {
        return b" = ".to_vec();
    };
    let text = neighbour.cut(&(key.end..value.start));
    let before = text.iter().take_while(|b| line::is_space(b)).count();
    let (space, rest) = text.split_at(before);
    let mut rest = rest.to_vec();
    if value.is_empty() && rest.len() == 1 && before > 0 {
        rest.push(b' ');
    }
    let aligned = before > 1 && space.iter().all(|b| *b == b' ');
    let width = match aligned {
        true => (key.len() + before).saturating_sub(length).max(1),
        false => return [space, &rest].concat(),
    };
    [vec![b' '; width], rest].concat()
}
