//! The site's own programs, in `pre.d` and `post.d` beside our settings.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::files::Root;

/// Where both directories are.
const PLACE: &str = "/etc/keymgr-upgrade";
/// What editors and package managers leave beside a file.
const LEFT: [&str; 8] = ["~", ".bak", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew", ".rpmorig"];

/// Before or after what a phase is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// `pre.d`.
    Pre,
    /// `post.d`.
    Post,
}

impl When {
    /// What is called on the way back.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Pre => Self::Post,
            Self::Post => Self::Pre,
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pre => "pre.d",
            Self::Post => "post.d",
        })
    }
}

/// What goes on meanwhile: the last argument of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookPhase {
    /// The services stop, or on the way back start.
    Stop,
    /// Rows and files are changed.
    Migrate,
    /// The services start.
    Start,
}

impl fmt::Display for HookPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Migrate => "migrate",
            Self::Start => "start",
        })
    }
}

/// The names of the hooks of a host, in the order in which they are run. An image's are not run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Those of `pre.d`.
    pub pre: Vec<String>,
    /// Those of `post.d`.
    pub post: Vec<String>,
}

impl Hooks {
    /// Looks for them.
    ///
    /// # Errors
    /// As [`hooks`].
    pub fn look(root: &Root) -> Result<Self> {
        if !root.is_host() {
            return Ok(Self::default());
        }
        Ok(Self { pre: hooks(root, When::Pre)?, post: hooks(root, When::Post)? })
    }

    /// Those of one directory.
    #[must_use]
    pub fn of(&self, when: When) -> &[String] {
        match when {
            When::Pre => &self.pre,
            When::Post => &self.post,
        }
    }
}

/// The path of a hook.
#[must_use]
pub fn hook_path(when: When, name: &str) -> PathBuf {
    Path::new(PLACE).join(when.to_string()).join(name)
}

/// The names of the executables in a directory of hooks, in their order; none if there is no such directory.
///
/// # Errors
/// If one is not root's alone to change, by its name.
pub fn hooks(root: &Root, when: When) -> Result<Vec<String>> {
    let directory = hook_path(when, "");
    let mut names = root.list(&directory)?;
    names.retain(|name| !name.starts_with('.') && !LEFT.iter().any(|end| name.ends_with(end)));
    if names.is_empty() {
        return Ok(names);
    }
    for directory in [Path::new(PLACE), &directory] {
        roots_alone(&root.shown(directory))?;
    }
    let mut all = Vec::new();
    for name in names {
        if is_hook(root, &hook_path(when, &name))? {
            all.push(name);
        }
    }
    Ok(all)
}

/// Whether the file is one to run: executable, a regular file, and root's alone to change.
///
/// # Errors
/// If it is executable and anything else, or is not there.
pub fn is_hook(root: &Root, path: &Path) -> Result<bool> {
    let shown = root.shown(path);
    let kind = shown.symlink_metadata().with_context(|| format!("hook {}", shown.display()))?;
    if !kind.is_file() {
        bail!("hook {} is not a regular file: put the program itself there", shown.display());
    }
    if kind.mode() & 0o111 == 0 {
        return Ok(false);
    }
    roots_alone(&shown)?;
    Ok(true)
}

fn roots_alone(path: &Path) -> Result<()> {
    let kind = path.symlink_metadata().with_context(|| format!("hooks: {}", path.display()))?;
    let shown = path.display();
    if kind.uid() != 0 {
        bail!("hooks: {shown} belongs to user {}, and is run as root: chown root {shown}", kind.uid());
    }
    if kind.mode() & 0o022 != 0 {
        bail!("hooks: others may write to {shown}, which is run as root: chmod go-w {shown}");
    }
    Ok(())
}
