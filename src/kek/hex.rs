//! Rows that are hexadecimal text, judged as what they stand for.

use std::borrow::Cow;

use super::{SecretVerdict, Verdict};
use crate::db::{KekRow, SecretRow, decode_hex_text, is_hex_text};

/// The rows with hexadecimal text decoded where that is possible.
pub(super) fn plain_keks(rows: &[KekRow]) -> Cow<'_, [KekRow]> {
    plain(rows, |row| &mut row.plugin_meta, |row| row.plugin_meta.as_deref())
}

/// The same for secrets.
pub(super) fn plain_secrets(rows: &[SecretRow]) -> Cow<'_, [SecretRow]> {
    plain(rows, |row| &mut row.cypher_text, |row| row.cypher_text.as_deref())
}

fn plain<T: Clone>(
    rows: &[T],
    slot: impl Fn(&mut T) -> &mut Option<String>,
    text: impl Fn(&T) -> Option<&str>,
) -> Cow<'_, [T]> {
    let mut plain = Cow::Borrowed(rows);
    for (index, row) in rows.iter().enumerate() {
        let decoded = text(row).filter(|t| is_hex_text(t)).and_then(|t| decode_hex_text(t).ok());
        if decoded.is_some()
            && let Some(row) = plain.to_mut().get_mut(index)
        {
            *slot(row) = decoded;
        }
    }
    plain
}

/// Says of a KEK that is hexadecimal text whether it is sound when decoded.
pub(super) fn mark_kek(verdict: &mut Verdict, row: &KekRow) {
    if let Some(text) = row.plugin_meta.as_deref().filter(|text| is_hex_text(text)) {
        mark(verdict, text);
    }
}

/// The same of a secret, or of one whose KEK is (`under`).
pub(super) fn mark_secret(verdict: &mut SecretVerdict, row: &SecretRow, under: bool) {
    let text = row.cypher_text.as_deref().filter(|text| is_hex_text(text));
    if text.is_none() && !under {
        return;
    }
    match (&mut *verdict, text.map(decode_hex_text)) {
        (SecretVerdict::Proved { .. }, _) => *verdict = SecretVerdict::HexText,
        (SecretVerdict::Unreadable { why }, Some(Err(damage))) => *why = format!("cypher_text {damage}"),
        (SecretVerdict::Unreadable { why }, Some(Ok(_))) => *why = decoded(why),
        _ => {}
    }
}

/// Whether a KEK is hexadecimal text.
pub(super) fn is_hex(row: &KekRow) -> bool {
    row.plugin_meta.as_deref().is_some_and(is_hex_text)
}

fn mark(verdict: &mut Verdict, text: &str) {
    match (&mut *verdict, decode_hex_text(text)) {
        (Verdict::Good | Verdict::Old, _) => *verdict = Verdict::HexText,
        (Verdict::Malformed { why }, Err(damage)) => *why = format!("plugin_meta {damage}"),
        (Verdict::Malformed { why } | Verdict::Unreadable { why }, Ok(_)) => *why = decoded(why),
        _ => {}
    }
}

fn decoded(why: &str) -> String {
    format!("hexadecimal text; decoded, {why}")
}
