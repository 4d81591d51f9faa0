//! Steps on files: edits of Barbican's files, and the record of the data's release.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Context, Observed, Undo};
use crate::config;
use crate::deployment::{Recorded, paste_dialect, record_path, recorded};
use crate::files::{Contents, Root, digest};
use crate::ini::Document;
use crate::journal::{STATE, private};
use crate::options::{self, Surroundings};
use crate::paste::Rule;
use crate::release::{self, Catalogue};

/// One edit of a file, by the name it has in the release catalogue: never a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Edit {
    /// An edit of an option.
    Option {
        /// Its id in the catalogue.
        id: String,
        /// The release to go to, by its id.
        target: String,
        /// The file is the main one.
        main: bool,
        /// What was proved on the deployment, where the edit writes that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proved: Option<String>,
    },
    /// A rule for the paste file.
    Paste {
        /// Which one.
        rule: Rule,
        /// The release to go to, by its id: it tells which Python reads the file.
        target: String,
    },
}

/// Carries out `edits` on the text of the file at `path`; returns the new text, and in words what changed.
///
/// # Errors
/// If the text cannot be parsed or an edit cannot be made. Nothing is written here.
pub fn edited(root: &Root, path: &Path, bytes: &[u8], edits: &[Edit]) -> Result<(Vec<u8>, Vec<String>)> {
    let mut document = Document::parse(bytes, &path.to_string_lossy())?;
    let mut changes = Vec::new();
    for edit in edits {
        match edit {
            Edit::Paste { rule, target } => {
                let changed = rule.apply(&mut document, paste_dialect(target)?)?;
                changes.extend(changed.iter().map(ToString::to_string));
            }
            Edit::Option { id, target, main, proved } => {
                let catalogue = Catalogue::embedded()?;
                let target = catalogue.by_id(target).with_context(|| format!("release {target} is not known"))?;
                let edit = catalogue
                    .releases()
                    .iter()
                    .flat_map(|r| &r.options)
                    .find(|o| o.id == *id)
                    .with_context(|| format!("edit {id} is not known to this keymgr-upgrade"))?;
                let merge = match &edit.edit {
                    release::Edit::MergeFile { from, .. } => config::read(root, &path.with_file_name(from))?,
                    _ => None,
                };
                let around = Surroundings {
                    target,
                    main: *main,
                    set_anywhere: false,
                    merge: merge.as_ref().map(|f| &f.document),
                    proved: proved.as_deref(),
                };
                changes.extend(options::apply(&edit.edit, &mut document, around)?);
            }
        }
    }
    Ok((document.to_bytes(), changes))
}

fn current(context: &Context<'_>, path: &Path) -> Result<Contents> {
    context.root().read(path)?.with_context(|| format!("{} is missing", context.root().shown(path).display()))
}

pub(super) fn observe(context: &Context<'_>, path: &Path, before: &str, after: &str) -> Result<Observed> {
    let now = digest(&current(context, path)?.bytes);
    Ok(match now {
        now if now == after => Observed::After(String::new()),
        now if now == before => Observed::Before,
        _ => Observed::Foreign(format!(
            "{} was changed by somebody else since the plan was made: undo that change, or roll back and plan again",
            context.root().shown(path).display()
        )),
    })
}

/// Where the copy of a file is kept in the run directory: one flat name for its path.
fn copy_name(path: &Path) -> String {
    format!("backup/files{}", path.to_string_lossy().replace('/', "!"))
}

pub(super) fn prepare(context: &Context<'_>, path: &Path) -> Result<Undo> {
    let contents = current(context, path)?;
    let name = copy_name(path);
    // The copy may hold passwords: it is private whatever the mode of the original, which stays with the original.
    context.root().write(&context.file(&name), &contents.bytes, private())?;
    Ok(Undo::File { copy: Some(name), digest: digest(&contents.bytes) })
}

pub(super) fn apply(context: &Context<'_>, path: &Path, edits: &[Edit], before: &str, after: &str) -> Result<()> {
    let contents = current(context, path)?;
    if digest(&contents.bytes) != before {
        bail!("{} changed while it was to be edited", context.root().shown(path).display());
    }
    let (bytes, _) = edited(context.root(), path, &contents.bytes, edits)?;
    if digest(&bytes) != after {
        bail!("{}: the edit does not give what the plan showed", context.root().shown(path).display());
    }
    context.root().write(path, &bytes, contents.attributes)
}

/// The copy to put back; `None` if the file is as it was.
pub(super) fn can_restore(
    context: &Context<'_>,
    path: &Path,
    after: &str,
    copy: Option<&str>,
    wanted: &str,
) -> Result<Option<Contents>> {
    let now = context.root().read(path)?;
    let shown = context.root().shown(path);
    match now.as_ref().map(|c| digest(&c.bytes)) {
        Some(now) if now == wanted => return Ok(None),
        Some(now) if now == after => {}
        _ => bail!(
            "{} was changed since this run wrote it: put {} in its place by hand, or undo that change",
            shown.display(),
            context.root().shown(&context.file(copy.unwrap_or_default())).display()
        ),
    }
    let copy = context.file(copy.context("there was no file before")?);
    let old = context.root().read(&copy)?.with_context(|| format!("{} is missing", copy.display()))?;
    if digest(&old.bytes) != wanted {
        bail!("{} is damaged", context.root().shown(&copy).display());
    }
    Ok(Some(old))
}

pub(super) fn restore(
    context: &Context<'_>,
    path: &Path,
    after: &str,
    copy: Option<&str>,
    wanted: &str,
) -> Result<bool> {
    let Some(old) = can_restore(context, path, after, copy, wanted)? else {
        context.root().settle(path)?;
        return Ok(false);
    };
    let attributes = current(context, path)?.attributes;
    context.root().write(path, &old.bytes, attributes)?;
    Ok(true)
}

pub(super) fn observe_release(context: &Context<'_>, release: &str) -> Result<Observed> {
    let recorded = recorded(context.root())?;
    let there = recorded.is_some_and(|r| r.release == release);
    Ok(if there { Observed::After(String::new()) } else { Observed::Before })
}

pub(super) fn prepare_release(context: &Context<'_>) -> Result<Undo> {
    Ok(Undo::Release { record: context.root().read_text(&record_path())? })
}

pub(super) fn record_release(context: &Context<'_>, release: &str) -> Result<()> {
    let record = Recorded { format: 1, release: release.to_owned(), run: context.run() };
    context.root().make_directory(Path::new(STATE), 0o700)?;
    context.root().write(&record_path(), &serde_json::to_vec_pretty(&record)?, private())
}

pub(super) fn restore_release(context: &Context<'_>, record: Option<&str>) -> Result<bool> {
    if context.root().read_text(&record_path())?.as_deref() == record {
        return Ok(false);
    }
    match record {
        Some(text) => context.root().write(&record_path(), text.as_bytes(), private())?,
        None => context.root().remove(&record_path())?,
    }
    Ok(true)
}
