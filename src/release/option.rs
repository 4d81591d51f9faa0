//! What a hop asks of the options in `barbican.conf`, as data.

use std::fmt;

use serde::Deserialize;

use super::condition::Condition;

/// An option of oslo.config: its group and its name, written `group/name` in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct OptionName {
    /// The group: the section's name, `DEFAULT` for the first one.
    pub group: String,
    /// The option's name as the file writes it.
    pub name: String,
}

impl OptionName {
    /// The option `name` of `group`.
    pub fn new(group: impl Into<String>, name: impl Into<String>) -> OptionName {
        OptionName { group: group.into(), name: name.into() }
    }
}

impl TryFrom<String> for OptionName {
    type Error = String;

    fn try_from(text: String) -> Result<OptionName, String> {
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match text.split_once('/') {
            Some((group, name)) if word(group) && word(name) => Ok(OptionName::new(group, name)),
            _ => Err(format!("`{text}` is not group/name")),
        }
    }
}

/// As the operator's file shows it: `[group] name`.
impl fmt::Display for OptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.group, self.name)
    }
}

/// One edit of the options. Edits are carried out in the order of the catalogue; each looks first
/// and does nothing where the file is as wanted already.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionEdit {
    /// Stable name, unique in the catalogue, prefixed by the release.
    pub id: String,
    /// The facts it covers, by their ids in the list of upgrade items.
    pub item: Vec<String>,
    /// Why, in one line for the operator.
    pub why: String,
    /// Where it applies, besides what the edit itself finds in the file.
    #[serde(default)]
    pub when: Condition,
    /// What is done.
    pub edit: Edit,
}

/// The kinds of edit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Edit {
    /// Where `from` is set, set `to` to the same values and remove `from`. Where `to` is set too:
    /// the same value needs nothing but the removal; another value is for the operator to decide
    /// (the old code reads the one, the new code the other), so it is a blocker, never an edit.
    Rename {
        /// The old option.
        from: OptionName,
        /// The new one.
        to: OptionName,
        /// Both stay until the target is this release or a later one, because until then a
        /// rollback ends on code that reads only the old name.
        #[serde(default)]
        keep_old_until: Option<String>,
    },
    /// Where `from` is set, append its value to the comma-separated list `to` unless it is in
    /// there, and remove `from`.
    Fold {
        /// The old option, of one value.
        from: OptionName,
        /// The list.
        to: OptionName,
        /// As in [`Edit::Rename`].
        #[serde(default)]
        keep_old_until: Option<String>,
    },
    /// Remove the option: no code of the target reads it.
    Drop {
        /// Which one.
        option: OptionName,
    },
    /// Remove every option of the group, and its header if nothing else is under it.
    DropGroup {
        /// The group's name.
        group: String,
    },
    /// Where the option is unset, write what was its default up to now, because the new default
    /// would change what the service reads. A set option is never touched.
    Pin {
        /// Which option.
        option: OptionName,
        /// The old default.
        value: String,
        /// The value is shown as `***`.
        #[serde(default)]
        secret: bool,
        /// Where this was proved on the deployment's own data, the proof is written instead of
        /// `value`.
        #[serde(default)]
        proved: Option<Proof>,
    },
    /// Replace one value by another where the option is set to exactly the first.
    Replace {
        /// Which option.
        option: OptionName,
        /// The old value, without quotes.
        from: String,
        /// The new value.
        to: String,
    },
    /// Remove the option where its value is empty.
    DropEmpty {
        /// Which option.
        option: OptionName,
    },
    /// Add what the file `from` sets to the end of each group of the file `into`, for the target
    /// no longer reads `from`. The old code read `into` first and `from` after it: of an option
    /// with one value the last line counts, of a multi-valued one every line, and so it stays.
    MergeFile {
        /// Base name of the file that is read no longer.
        from: String,
        /// Base name of the file that is.
        into: String,
    },
}

/// A value that a run proves on the deployment itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// The mechanism under which the p11_crypto ciphertext decrypted.
    P11Mechanism,
}

impl Edit {
    /// The options that the edit may write or remove; empty for a whole group or file.
    pub fn options(&self) -> Vec<&OptionName> {
        match self {
            Edit::Rename { from, to, .. } | Edit::Fold { from, to, .. } => vec![from, to],
            Edit::Drop { option }
            | Edit::Pin { option, .. }
            | Edit::Replace { option, .. }
            | Edit::DropEmpty { option } => vec![option],
            Edit::DropGroup { .. } | Edit::MergeFile { .. } => Vec::new(),
        }
    }
}
