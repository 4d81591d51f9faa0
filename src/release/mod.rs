//! The release catalogue, read from the embedded `migrations/`.
//!
//! It knows which releases there are, which version belongs to which, what schema each has and
//! what an upgrade to each asks of data, files, launchers and operator. It knows nothing of this
//! host: what applies here is decided over [`Facts`].

mod condition;
mod lookup;
mod model;
mod option;
mod path;
mod version;

use std::sync::OnceLock;

use anyhow::{Context, bail};

pub use condition::{
    ApiLauncher, Condition, Dialect, Facts, OptionFact, PasteFacts, PasteTrait, Service, SiteFile, Truth,
};
pub use lookup::{Found, LookupError};
pub use model::{
    Auto, Class, DataStep, Head, Launcher, LauncherChange, Note, Python, Release, Scope, Severity, Source, Tree,
};
pub use option::{Edit, OptionEdit, OptionName, Proof};
pub use path::{Mode, PathError};
pub use version::{PythonVersion, Version};

/// Every file below `migrations/`, by its path relative to it ("mitaka/release.toml"), sorted.
pub static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// All releases that this binary knows, oldest first.
#[derive(Debug)]
pub struct Catalogue {
    releases: Vec<Release>,
}

/// Something of the catalogue that applies to a deployment.
#[derive(Debug, Clone, Copy)]
pub struct Applicable<'a, T> {
    /// The release it belongs to.
    pub release: &'a Release,
    /// The note, edit or launcher change.
    pub what: &'a T,
    /// [`Truth::Yes`], or [`Truth::Unknown`] where the facts do not tell.
    pub truth: Truth,
}

impl Catalogue {
    /// The catalogue of this binary, read at the first call.
    ///
    /// # Errors
    ///
    /// Where an embedded file does not parse; the tests read them all, so a released binary never
    /// fails here.
    pub fn embedded() -> anyhow::Result<&'static Catalogue> {
        static CATALOGUE: OnceLock<Result<Catalogue, String>> = OnceLock::new();
        match CATALOGUE.get_or_init(|| Catalogue::parse(FILES).map_err(|e| format!("{e:#}"))) {
            Ok(catalogue) => Ok(catalogue),
            Err(error) => bail!("reading the release catalogue: {error}"),
        }
    }

    /// Reads `release.toml` of every folder in `files` (path and text) and orders the releases by
    /// their predecessors.
    ///
    /// # Errors
    ///
    /// Where a file does not parse, an id is not its folder's name, or the releases do not form
    /// one chain.
    pub fn parse(files: &[(&str, &str)]) -> anyhow::Result<Catalogue> {
        let mut unordered = Vec::new();
        for (path, text) in files {
            let Some(folder) = path.strip_suffix("/release.toml") else {
                continue;
            };
            let release: Release = toml::from_str(text).with_context(|| (*path).to_owned())?;
            if release.id != folder {
                bail!("{path}: id is `{}`", release.id);
            }
            unordered.push(release);
        }
        Ok(Catalogue { releases: in_order(unordered)? })
    }

    /// All releases, oldest first.
    pub fn releases(&self) -> &[Release] {
        &self.releases
    }

    /// The notes that apply to a hop from `from` along `path` (see [`Catalogue::path`]), in the
    /// order of the catalogue; [`Scope`] tells which of a release are shown when. An empty path
    /// gives those that stand for a deployment which stays at `from`.
    pub fn notes<'a>(&'a self, from: &Release, path: &[&'a Release], facts: &Facts) -> Vec<Applicable<'a, Note>> {
        let target = path.last().map(|release| release.order);
        let shown = |release: &Release, note: &Note| {
            let passed = !from.is_before(release);
            let on_the_way = path.iter().any(|r| r.order == release.order);
            match note.scope {
                Scope::Hop => on_the_way,
                Scope::Target => target == Some(release.order),
                Scope::Standing => passed || on_the_way,
                Scope::Later => passed,
            }
        };
        self.releases
            .iter()
            .flat_map(|release| release.notes.iter().map(move |note| (release, note)))
            .filter(|(release, note)| shown(release, note))
            .filter_map(|(release, note)| applicable(release, note, &note.when, facts))
            .collect()
    }

    /// The edits of the options that a hop along `path` carries out, in order.
    pub fn option_edits<'a>(&self, path: &[&'a Release], facts: &Facts) -> Vec<Applicable<'a, OptionEdit>> {
        path.iter()
            .flat_map(|release| release.options.iter().map(move |edit| (*release, edit)))
            .filter_map(|(release, edit)| applicable(release, edit, &edit.when, facts))
            .collect()
    }

    /// The changes of launchers on the way along `path`, in order.
    pub fn launchers<'a>(&self, path: &[&'a Release], facts: &Facts) -> Vec<Applicable<'a, Launcher>> {
        path.iter()
            .flat_map(|release| release.launchers.iter().map(move |change| (*release, change)))
            .filter_map(|(release, change)| applicable(release, change, &change.when, facts))
            .collect()
    }

    /// Whether an edit with `keep_old_until` still keeps the old name in a run to `target`.
    pub fn keeps_old(&self, keep_old_until: Option<&str>, target: &Release) -> bool {
        keep_old_until.and_then(|id| self.by_id(id)).is_some_and(|release| target.is_before(release))
    }
}

fn applicable<'a, T>(release: &'a Release, what: &'a T, when: &Condition, facts: &Facts) -> Option<Applicable<'a, T>> {
    let truth = when.truth(facts);
    (truth != Truth::No).then_some(Applicable { release, what, truth })
}

/// Follows the predecessors from the one release that has none.
fn in_order(mut unordered: Vec<Release>) -> anyhow::Result<Vec<Release>> {
    let mut ordered: Vec<Release> = Vec::new();
    while !unordered.is_empty() {
        let last = ordered.last().map(|release| release.id.clone());
        let mut next = unordered.iter().enumerate().filter(|(_, r)| r.predecessor == last);
        let (Some((index, _)), None) = (next.next(), next.next()) else {
            let after = last.as_deref().unwrap_or("nothing");
            bail!("not exactly one release comes after {after}");
        };
        let mut release = unordered.swap_remove(index);
        release.order = ordered.len();
        ordered.push(release);
    }
    Ok(ordered)
}
