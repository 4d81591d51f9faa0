//! SQL as text: values into statements, statements into errors, and PostgreSQL's COPY text into values.
use super::Dialect;

/// A statement in an error shows this many characters.
const SHOWN: usize = 120;

/// Replaces every `?` outside of quotes and comments by a literal.
pub(super) fn bind(dialect: Dialect, sql: &str, params: &[Option<&str>]) -> Result<String, &'static str> {
    let mut bound = String::with_capacity(sql.len());
    let mut values = params.iter();
    for piece in pieces(sql) {
        match piece {
            Piece::Other("?") => match values.next() {
                Some(Some(value)) => bound.push_str(&literal(dialect, value)?),
                Some(None) => bound.push_str("NULL"),
                None => return Err("there are more ? than values"),
            },
            Piece::Other(text) | Piece::String(text) | Piece::Comment(text) => bound.push_str(text),
        }
    }
    if values.next().is_some() {
        return Err("there are more values than ?");
    }
    Ok(bound)
}

/// A string literal. One with a backslash is written so that it means the same whatever the session is set to.
fn literal(dialect: Dialect, value: &str) -> Result<String, &'static str> {
    let doubled = value.replace('\'', "''");
    Ok(match dialect {
        Dialect::Postgresql if value.contains('\0') => return Err("PostgreSQL stores no NUL character"),
        Dialect::Postgresql if value.contains('\\') => format!("E'{}'", doubled.replace('\\', "\\\\")),
        Dialect::Mysql if value.contains(['\\', '\0']) => {
            let digits: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("_utf8mb4 X'{digits}'")
        }
        _ => format!("'{doubled}'"),
    })
}

/// A statement as errors show it: one line, cut, comments left out, every literal `'...'`: it may be a value of a row.
pub(super) fn shown(sql: &str) -> String {
    let masked: String = pieces(sql)
        .map(|piece| match piece {
            Piece::Other(text) => text,
            Piece::String(_) => "'...'",
            Piece::Comment(_) => " ",
        })
        .collect();
    let mut line = masked.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(cut);
        line.push_str("...");
    }
    line
}

enum Piece<'a> {
    /// `'...'`
    String(&'a str),
    /// `-- ...` or `/* ... */`
    Comment(&'a str),
    /// A quoted name, or one character of anything else.
    Other(&'a str),
}

/// The pieces of a statement; what is not closed reaches to the end.
fn pieces(sql: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let until = |from: usize, end: &str| {
            rest.get(from..).and_then(|t| t.find(end)).map_or(rest.len(), |at| from + at + end.len())
        };
        let length = match first {
            '\'' => until(1, "'"),
            '"' => until(1, "\""),
            '`' => until(1, "`"),
            '-' if rest.starts_with("--") => until(2, "\n"),
            '/' if rest.starts_with("/*") => until(2, "*/"),
            other => other.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(match first {
            '\'' => Piece::String(piece),
            '-' | '/' if length > 1 => Piece::Comment(piece),
            _ => Piece::Other(piece),
        })
    })
}

/// One line of `COPY ... TO STDOUT` in text format, without its end: fields separated by tabs, `\N` is NULL, and a
/// backslash before what would otherwise be taken for one of these (PostgreSQL manual, COPY, "Text Format").
pub(super) fn copy_fields(line: &[u8]) -> Vec<Option<Vec<u8>>> {
    line.split(|byte| *byte == b'\t').map(|field| (field != b"\\N").then(|| unescape(field))).collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(&other) => other,
                None => b'\\',
            },
            other => other,
        });
    }
    plain
}

/// A server's message with everything in quotes masked: for those that show a value of a row.
pub(super) fn without_values(message: &str) -> String {
    let mut masked = String::new();
    let mut inside = None;
    for c in message.chars() {
        match inside {
            Some(quote) if c == quote => inside = None,
            Some(_) => continue,
            None if c == '\'' || c == '"' => {
                inside = Some(c);
                masked.push(c);
                masked.push_str("...");
                continue;
            }
            None => {}
        }
        masked.push(c);
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_the_place_of_markers_only() {
        let sql = "SELECT '?', \"a?b\", `c?` /* ? */ FROM t -- ?\nWHERE a = ? AND b = ? AND c = ?";
        let bound = bind(Dialect::Mysql, sql, &[Some("it's"), None, Some("a\\b")]).unwrap();
        assert_eq!(
            bound,
            "SELECT '?', \"a?b\", `c?` /* ? */ FROM t -- ?\nWHERE a = 'it''s' AND b = NULL AND c = _utf8mb4 X'615c62'"
        );
        assert_eq!(bind(Dialect::Postgresql, "?", &[Some("\\'")]).unwrap(), "E'\\\\'''");
        assert!(bind(Dialect::Postgresql, "?", &[Some("\0")]).is_err());
        assert!(bind(Dialect::Mysql, "? ?", &[None]).is_err());
        assert!(bind(Dialect::Mysql, "?", &[None, None]).is_err());
    }

    #[test]
    fn errors_show_no_literal() {
        let sql = "-- why\nUPDATE \"t\"\n  SET a = 'se''cret' /* x */ WHERE b = 'open";
        assert_eq!(shown(sql), "UPDATE \"t\" SET a = '...''...' WHERE b = '...'");
        assert_eq!(shown(&"x".repeat(500)).len(), SHOWN + 3);
        assert_eq!(without_values("Duplicate entry 'secret' for key 'PRIMARY'"), "Duplicate entry '...' for key '...'");
        assert_eq!(without_values("invalid input for integer: \"it's\""), "invalid input for integer: \"...\"");
    }

    #[test]
    fn copy_lines() {
        let fields = copy_fields(b"a\\tb\t\\N\t\\\\N\t\t\\\\x41\\n");
        let want: [Option<&[u8]>; 5] = [Some(b"a\tb"), None, Some(b"\\N"), Some(b""), Some(b"\\x41\n")];
        assert_eq!(fields.iter().map(Option::as_deref).collect::<Vec<_>>(), want);
    }
}
