//! What is held of values in SQL ([`crate::fuzz`]).

use super::Dialect;
use super::text::{bind, copy_fields, shown, without_values};

/// Two values become two literals that mean them, whatever is in them.
pub(in super::super) fn literals(dialect: Dialect, first: &str, second: &str) {
    let Ok(sql) = bind(dialect, "SELECT ? , '?', ?", &[Some(first), Some(second)]) else {
        assert!(dialect == Dialect::Postgresql && (first.contains('\0') || second.contains('\0')));
        return;
    };
    let rest = sql.strip_prefix("SELECT ").expect("it begins as it was");
    let (value, rest) = literal(dialect, rest);
    assert_eq!(value, first);
    let (value, rest) = literal(dialect, rest.strip_prefix(" , '?', ").expect("the middle is as it was"));
    assert_eq!((value.as_str(), rest), (second, ""));
    let error = shown(&sql);
    // What is left of it without the two literals.
    let rest = error.replace("_utf8mb4 X'...'", "").replace("'...'", "");
    assert!(first.len() < 8 || !rest.contains(first) || "SELECT , , ".contains(first), "{error}");
}

/// The literal at the beginning of `sql`, read by the rules of the server, and what follows it.
fn literal(dialect: Dialect, sql: &str) -> (String, &str) {
    if let Some(hex) = sql.strip_prefix("_utf8mb4 X'") {
        assert_eq!(dialect, Dialect::Mysql);
        let (digits, rest) = hex.split_once('\'').expect("it is closed");
        let byte = |n: usize| u8::from_str_radix(digits.get(n..n + 2).unwrap_or_default(), 16).expect("digits");
        let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        return (String::from_utf8(bytes).expect("the text that it was"), rest);
    }
    let escapes = sql.starts_with("E'");
    let mut rest = sql.trim_start_matches('E').strip_prefix('\'').expect("a string begins");
    let mut value = String::new();
    loop {
        let mut characters = rest.chars();
        match (characters.next(), characters.next()) {
            (Some('\''), Some('\'')) => value.push('\''),
            (Some('\''), _) => return (value, rest.get(1..).unwrap_or_default()),
            (Some('\\'), Some(next)) => {
                assert!(escapes && matches!(next, '\\' | '\''), "a backslash that the server may read as more");
                value.push(next);
            }
            (Some(c), _) => {
                value.push(c);
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
                continue;
            }
            (None, _) => panic!("a string that is not closed: {sql}"),
        }
        rest = rest.get(2..).unwrap_or_default();
    }
}

/// What a server says, and what it sends.
pub(in super::super) fn texts(data: &[u8], text: &str) {
    let line = shown(text);
    assert!(!line.contains('\n') && line.chars().count() <= 123, "{line}");
    let masked = without_values(text);
    assert!(masked.matches("...").count() >= text.matches(['\'', '"']).count().min(1), "{masked}");
    assert_eq!(copy_fields(data).len(), data.iter().filter(|b| **b == b'\t').count() + 1);
}
