//! Edits of options in Barbican's files, as the release catalogue asks for them. Convergent: each looks first.

use anyhow::{Context, Result};
use secrecy::ExposeSecret;

use crate::ini::{Dialect, Document};
use crate::release::{Catalogue, Edit, OptionName, Release};

const OSLO: Dialect = Dialect::Oslo;

/// Settings that contradict each other, where only the operator knows what is meant.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Conflict {
    /// An option and its successor are both set.
    #[error("{file}: {old} and {new} are both set, and differ: make them equal, or remove the one that is wrong")]
    Names {
        /// The file.
        file: String,
        /// The old option.
        old: String,
        /// The new one.
        new: String,
    },
    /// The new release would read something else than the old one does.
    #[error("{0}")]
    Elsewhere(String),
}

/// What an edit may look at besides the document that it changes.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The release to go to.
    pub target: &'a Release,
    /// This is the main file: options that are set nowhere are pinned here.
    pub main: bool,
    /// Whether any file of the configuration sets the option.
    pub set_anywhere: bool,
    /// The file that is read no longer, for [`Edit::MergeFile`].
    pub merge: Option<&'a Document>,
    /// What was proved on the deployment, for [`Edit::Pin`].
    pub proved: Option<&'a str>,
}

/// Carries out one edit; says in words what it changed, nothing if all was as wanted. Never a value.
///
/// # Errors
/// [`Conflict`] where two names contradict each other; the document is then as before. Or if a value cannot be written.
pub fn apply(edit: &Edit, document: &mut Document, around: Surroundings<'_>) -> Result<Vec<String>> {
    match edit {
        Edit::Rename { from, to, keep_old_until } => {
            let keep = Catalogue::embedded()?.keeps_old(keep_old_until.as_deref(), around.target);
            rename(document, from, to, keep)
        }
        Edit::Fold { from, to, keep_old_until } => {
            let keep = Catalogue::embedded()?.keeps_old(keep_old_until.as_deref(), around.target);
            fold(document, from, to, keep)
        }
        Edit::Drop { option } => drop_option(document, option),
        Edit::DropGroup { group } => {
            let gone = document.remove_section(OSLO, group)?;
            Ok(if gone { vec![format!("[{group}] removed")] } else { Vec::new() })
        }
        Edit::Pin { option, value, .. } => pin(document, option, around.proved.unwrap_or(value), around),
        Edit::Replace { option, from, to } => {
            if value(document, option)?.as_deref() != Some(from.as_str()) {
                return Ok(Vec::new());
            }
            document.set(OSLO, &option.group, &option.name, to)?;
            Ok(vec![format!("{option} changed")])
        }
        Edit::DropEmpty { option } => match value(document, option)? {
            Some(value) if value.trim().is_empty() => drop_option(document, option),
            _ => Ok(Vec::new()),
        },
        Edit::MergeFile { .. } => match around.merge {
            Some(from) if around.main => merge(document, from),
            _ => Ok(Vec::new()),
        },
    }
}

fn value(document: &Document, option: &OptionName) -> Result<Option<String>> {
    Ok(document.get(OSLO, &option.group, &option.name)?)
}

fn conflict(document: &Document, old: &OptionName, new: &OptionName) -> Conflict {
    Conflict::Names { file: document.name().to_owned(), old: old.to_string(), new: new.to_string() }
}

fn drop_option(document: &mut Document, option: &OptionName) -> Result<Vec<String>> {
    let gone = document.remove_key(OSLO, &option.group, &option.name)?;
    Ok(if gone { vec![format!("{option} removed")] } else { Vec::new() })
}

fn rename(document: &mut Document, from: &OptionName, to: &OptionName, keep: bool) -> Result<Vec<String>> {
    let values = document.get_all(OSLO, &from.group, &from.name)?;
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let there = document.get_all(OSLO, &to.group, &to.name)?;
    if !there.is_empty() && there.last() != values.last() {
        return Err(conflict(document, from, to).into());
    }
    if there.is_empty() && !keep && from.group == to.group {
        // In place: comments above the option go on describing it.
        document.rename_key(OSLO, &from.group, &from.name, &to.name)?;
        return Ok(vec![format!("{from} is now {to}")]);
    }
    let mut changes = Vec::new();
    if there.is_empty() {
        let all: Vec<&str> = values.iter().map(String::as_str).collect();
        match all.as_slice() {
            [one] => document.set(OSLO, &to.group, &to.name, one).map(drop)?,
            many => document.set_multi(OSLO, &to.group, &to.name, many).map(drop)?,
        }
        changes.push(format!("{to} set as {from}"));
    }
    if !keep {
        changes.extend(drop_option(document, from)?);
    }
    Ok(changes)
}

fn fold(document: &mut Document, from: &OptionName, to: &OptionName, keep: bool) -> Result<Vec<String>> {
    let Some(one) = value(document, from)? else { return Ok(Vec::new()) };
    let list = value(document, to)?.unwrap_or_default();
    let mut items: Vec<&str> = list.split(',').map(str::trim).filter(|v| !v.is_empty()).collect();
    let mut changes = Vec::new();
    if !items.contains(&one.trim()) && !one.trim().is_empty() {
        items.push(one.trim());
        document.set(OSLO, &to.group, &to.name, &items.join(","))?;
        changes.push(format!("{to} lists the value of {from}"));
    }
    if !keep {
        changes.extend(drop_option(document, from)?);
    }
    Ok(changes)
}

fn pin(document: &mut Document, option: &OptionName, value: &str, around: Surroundings<'_>) -> Result<Vec<String>> {
    if !around.main || around.set_anywhere || self::value(document, option)?.is_some() {
        return Ok(Vec::new());
    }
    document.set(OSLO, &option.group, &option.name, value)?;
    Ok(vec![format!("{option} pinned to what it was by default")])
}

/// Adds what `from` sets and `document` does not.
fn merge(document: &mut Document, from: &Document) -> Result<Vec<String>> {
    let mut next = document.clone();
    let changes = merge_into(&mut next, from)?;
    *document = next;
    Ok(changes)
}

fn merge_into(document: &mut Document, from: &Document) -> Result<Vec<String>> {
    let mut added = 0_usize;
    let mut groups: Vec<String> = Vec::new();
    for section in from.sections() {
        if !groups.contains(&section.name) {
            groups.push(section.name);
        }
    }
    for group in groups {
        let mut names: Vec<String> = from.keys(OSLO, &group).into_iter().map(|k| k.name).collect();
        names.dedup();
        for name in names {
            let values = from.get_all(OSLO, &group, &name)?;
            let there = document.get_all(OSLO, &group, &name)?;
            if there.is_empty() {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                match values.as_slice() {
                    [one] => document.set(OSLO, &group, &name, one).map(drop)?,
                    many => document.set_multi(OSLO, &group, &name, many).map(drop)?,
                }
                added += 1;
            } else if there.last() != values.last() {
                let option = OptionName::new(&group, &name);
                let new = format!("{option} of {}", document.name());
                return Err(Conflict::Names { file: from.name().to_owned(), old: option.to_string(), new }.into());
            }
        }
    }
    Ok(if added == 0 { Vec::new() } else { vec![format!("{added} options taken over from {}", from.name())] })
}

/// Whether any file sets an option, or the environment does.
///
/// # Errors
/// If a value cannot be read.
pub fn is_set(config: &crate::config::Config, option: &OptionName) -> Result<bool> {
    let value = config.secret(&option.group, &option.name).with_context(|| option.to_string())?;
    Ok(value.is_some_and(|v| !v.expose_secret().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(text: &str) -> OptionName {
        OptionName::try_from(text.to_owned()).unwrap()
    }

    fn around(target: &str) -> Surroundings<'static> {
        let target = Catalogue::embedded().unwrap().by_id(target).unwrap();
        Surroundings { target, main: true, set_anywhere: false, merge: None, proved: None }
    }

    fn run(edit: &Edit, text: &str, around: Surroundings<'_>) -> (String, Vec<String>) {
        let mut document = Document::parse(text.as_bytes(), "barbican.conf").unwrap();
        let changes = apply(edit, &mut document, around).unwrap();
        let once = document.to_bytes();
        assert!(apply(edit, &mut document, around).unwrap().is_empty(), "twice is once");
        assert_eq!(document.to_bytes(), once);
        (String::from_utf8(once).unwrap(), changes)
    }

    fn connection() -> Edit {
        Edit::Rename {
            from: option("DEFAULT/sql_connection"),
            to: option("database/connection"),
            keep_old_until: Some("2024.2".to_owned()),
        }
    }

    #[test]
    fn old_and_new_database_names_stay_while_a_rollback_needs_the_old_one() {
        let text = "[DEFAULT]\n# where\nsql_connection = sqlite:////b\ndebug = true\n";
        let (both, changes) = run(&connection(), text, around("2024.1"));
        assert_eq!(both, format!("{text}\n[database]\nconnection = sqlite:////b\n"));
        assert_eq!(changes.len(), 1);
        let (new, _) = run(&connection(), &both, around("2024.2"));
        assert_eq!(new, "[DEFAULT]\n# where\ndebug = true\n\n[database]\nconnection = sqlite:////b\n");
    }

    #[test]
    fn contradicting_names_are_the_operators_to_settle() {
        let mut document =
            Document::parse(b"[DEFAULT]\nsql_connection = a\n[database]\nconnection = b\n", "b.conf").unwrap();
        let error = apply(&connection(), &mut document, around("2024.2")).unwrap_err();
        assert!(error.is::<Conflict>(), "{error}");
        assert!(!error.to_string().contains("= a"));
    }

    #[test]
    fn renames_in_place_folds_pins_and_drops() {
        let rename =
            Edit::Rename { from: option("p/generate_iv"), to: option("p/aes_gcm_generate_iv"), keep_old_until: None };
        assert_eq!(
            run(&rename, "[p]\n# why\ngenerate_iv=True\nx=1\n", around("stein")).0,
            "[p]\n# why\naes_gcm_generate_iv=True\nx=1\n"
        );
        let fold = Edit::Fold { from: option("p/token_label"), to: option("p/token_labels"), keep_old_until: None };
        assert_eq!(
            run(&fold, "[p]\ntoken_label = b\ntoken_labels = a\n", around("2024.1")).0,
            "[p]\ntoken_labels = a,b\n"
        );
        let pin = Edit::Pin { option: option("p/m"), value: "old".to_owned(), secret: false, proved: None };
        assert_eq!(run(&pin, "[p]\nx = 1\n", around("rocky")).0, "[p]\nx = 1\nm = old\n");
        assert_eq!(
            run(&pin, "[p]\nx = 1\n", Surroundings { proved: Some("seen"), ..around("rocky") }).0,
            "[p]\nx = 1\nm = seen\n"
        );
        assert_eq!(run(&pin, "[p]\nm = mine\n", around("rocky")).0, "[p]\nm = mine\n");
        assert_eq!(run(&pin, "[p]\n", Surroundings { set_anywhere: true, ..around("rocky") }).0, "[p]\n");
        let empty = Edit::DropEmpty { option: option("DEFAULT/host_href") };
        assert_eq!(run(&empty, "[DEFAULT]\nhost_href =\na = 1\n", around("2026.2")).0, "[DEFAULT]\na = 1\n");
        assert_eq!(run(&empty, "[DEFAULT]\nhost_href = x\n", around("2026.2")).0, "[DEFAULT]\nhost_href = x\n");
    }

    #[test]
    fn a_file_that_is_read_no_longer_is_taken_over() {
        let from = Document::parse(b"[DEFAULT]\na = 1\nb = 2\n[new]\nc = 3\n", "barbican-api.conf").unwrap();
        let edit = Edit::MergeFile { from: "barbican-api.conf".to_owned(), into: "barbican.conf".to_owned() };
        let with = Surroundings { merge: Some(&from), ..around("liberty") };
        assert_eq!(run(&edit, "[DEFAULT]\na = 1\n", with).0, "[DEFAULT]\na = 1\nb = 2\n\n[new]\nc = 3\n");
        let text = b"[DEFAULT]\nb = 9\n";
        let mut other = Document::parse(text, "barbican.conf").unwrap();
        assert!(apply(&edit, &mut other, with).unwrap_err().is::<Conflict>());
        assert_eq!(other.to_bytes(), text, "also what came before the contradiction");
    }
}
