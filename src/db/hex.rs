//! Texts that are bytes in hexadecimal.
//!
//! Barbican hands `encrypted_data.cypher_text`, and with simple_crypto `kek_data.plugin_meta`, to the database as bytes. On Python 3 psycopg2 sends
//! them as bytea, and PostgreSQL casts those to text as `bytea_output` says: `hex`, its default, gives `\x` and digits, which Barbican cannot read
//! back; `escape` gives the very text that was meant, since base64 has nothing to escape. Other columns get text; other databases keep the bytes.
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Database, Dialect, Result};

/// A text column that Barbican hands bytes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HexColumn {
    /// `kek_data.plugin_meta`
    PluginMeta,
    /// `encrypted_data.cypher_text`
    CypherText,
}

impl HexColumn {
    /// All of them, in the order in which they are repaired.
    pub const ALL: [Self; 2] = [Self::PluginMeta, Self::CypherText];

    fn table(self) -> &'static str {
        match self {
            Self::PluginMeta => "kek_data",
            Self::CypherText => "encrypted_data",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::PluginMeta => "plugin_meta",
            Self::CypherText => "cypher_text",
        }
    }
}

/// `table.column`
impl fmt::Display for HexColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table(), self.name())
    }
}

/// Whether a text is bytes in hexadecimal. Neither base64 nor JSON begins so.
#[must_use]
pub fn is_hex_text(text: &str) -> bool {
    text.starts_with("\\x")
}

/// What a hexadecimal text stands for.
///
/// # Errors
/// What is wrong with it, in words that follow the name of the column, not quoting it.
pub fn decode_hex_text(text: &str) -> std::result::Result<String, &'static str> {
    let digits = text.strip_prefix("\\x").ok_or("is no hexadecimal text")?;
    let mut digits = digits.chars();
    let mut plain = String::with_capacity(digits.as_str().len() / 2);
    while let Some(high) = digits.next() {
        let low = digits.next().ok_or("is hexadecimal text with a digit missing")?;
        let (high, low) = (high.to_digit(16), low.to_digit(16));
        let (Some(high), Some(low)) = (high, low) else {
            return Err("is hexadecimal text with something in it that is no digit");
        };
        match char::from_u32(high * 16 + low) {
            Some(byte @ ' '..='~') => plain.push(byte),
            _ => return Err("is hexadecimal text that stands for no text of Barbican's"),
        }
    }
    Ok(plain)
}

impl Database {
    /// How many rows hold hexadecimal text, by column; columns without any, or that are not there, are left out.
    pub fn hex_counts(&self) -> Result<BTreeMap<HexColumn, u64>> {
        let shape = self.shape()?;
        let mut counts = BTreeMap::new();
        for column in HexColumn::ALL {
            let (table, name) = (column.table(), column.name());
            if shape.tables.get(table).is_some_and(|t| t.columns.contains_key(name)) {
                let sql = format!("SELECT count(*) FROM {table} WHERE substr({name}, 1, 2) = '\\x'");
                counts.insert(column, self.count(&sql, table)?);
            }
        }
        counts.retain(|_, count| *count > 0);
        Ok(counts)
    }

    /// The statement that keeps this database from turning bytes for a text column into hexadecimal text; none where it does not. What
    /// database and role set for new sessions counts, not what our own session is set to.
    pub fn hex_cure(&self) -> Result<Option<String>> {
        if self.dialect() != Dialect::Postgresql {
            return Ok(None);
        }
        let rows = self.query(
            "SELECT 'ALTER DATABASE ' || quote_ident(current_database()) || ' SET bytea_output = ''escape''' \
             FROM pg_settings WHERE name = 'bytea_output' AND reset_val <> 'escape'",
        )?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
    }

    /// What the rows with these ids hold in a column; those that are not there are left out.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn hex_values(&self, column: HexColumn, ids: &[&str]) -> Result<BTreeMap<String, Option<String>>> {
        self.values_of(column.table(), column.name(), ids)
    }

    /// Replaces a value of one row if it still is `old`; says whether it was. `updated_at` stays as it is.
    pub fn replace_hex_text(&mut self, column: HexColumn, id: &str, old: &str, new: &str) -> Result<bool> {
        self.replace(column.table(), column.name(), id, Some(old), Some(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgresql_made_of_bytes_is_decoded() {
        assert_eq!(decode_hex_text("\\x6741414141").unwrap(), "gAAAA");
        assert_eq!(decode_hex_text("\\x7b226976223A7d").unwrap(), "{\"iv\":}");
        assert_eq!(decode_hex_text("\\x").unwrap(), "");
    }

    #[test]
    fn what_is_damaged_is_told_and_not_decoded() {
        for (text, why) in [
            ("gAAAA", "is no hexadecimal text"),
            ("\\x674", "is hexadecimal text with a digit missing"),
            ("\\x67+1", "is hexadecimal text with something in it that is no digit"),
            ("\\x67 4", "is hexadecimal text with something in it that is no digit"),
            ("\\x67\u{e9}1", "is hexadecimal text with something in it that is no digit"),
            ("\\x00", "is hexadecimal text that stands for no text of Barbican's"),
            ("\\x670a", "is hexadecimal text that stands for no text of Barbican's"),
            ("\\xc3a9", "is hexadecimal text that stands for no text of Barbican's"),
        ] {
            assert_eq!(decode_hex_text(text), Err(why), "{text}");
        }
    }

    #[test]
    fn honest_text_does_not_begin_so() {
        for text in ["gAAAAABr", "Z0FBQUFB", "{\"iv\": null}", "", "x5a", "\\", "\\\\x5a"] {
            assert!(!is_hex_text(text), "{text}");
        }
        assert!(is_hex_text("\\x5a30"));
    }
}
