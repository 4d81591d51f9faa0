//! The types of `release.toml`. Unknown keys are errors.

use std::fmt;

use serde::{Deserialize, Deserializer};

use super::condition::Condition;
use super::option::OptionEdit;
use super::version::{PythonVersion, Version};

/// One release of Barbican and what an upgrade to it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The name of its folder: `mitaka`, `2023.1`.
    pub id: String,
    /// What the operator reads: `Mitaka`, `2023.1`.
    pub name: String,
    /// The code name: `Mitaka`, `Antelope`.
    pub code_name: String,
    /// The leading numbers that all its package versions share: `2014.2`, `15`.
    pub version: String,
    /// The tags known of it, oldest first; the first is the release itself.
    pub tags: Vec<String>,
    /// The day of the first tag, `YYYY-MM-DD`.
    pub date: String,
    /// The id of the release before; none for the first one of the catalogue.
    #[serde(default)]
    pub predecessor: Option<String>,
    /// Whether OpenStack allows to come to it from the SLURP release before.
    #[serde(default)]
    pub slurp: bool,
    /// The SLURP release before, where there is one.
    #[serde(default)]
    pub slurp_predecessor: Option<String>,
    /// The Python it runs on.
    pub python: Python,
    /// The schema heads it shipped, by version, oldest first.
    #[serde(rename = "head")]
    pub heads: Vec<Head>,
    /// The schema revisions that came with it, in order.
    #[serde(default)]
    pub revisions: Vec<String>,
    /// The data steps that a hop to it needs.
    #[serde(default)]
    pub data: Vec<DataStep>,
    /// The rules of the paste file that a hop to it carries out, by name, in order.
    #[serde(default)]
    pub paste: Vec<String>,
    /// The edits of the options, in order.
    #[serde(default, rename = "option")]
    pub options: Vec<OptionEdit>,
    /// What changes in how services are launched.
    #[serde(default, rename = "launcher")]
    pub launchers: Vec<Launcher>,
    /// What the operator has to know.
    #[serde(default, rename = "note")]
    pub notes: Vec<Note>,
    /// Its place in the catalogue, counted from 0; set when the catalogue is read.
    #[serde(skip)]
    pub(super) order: usize,
}

impl Release {
    /// Whether this release came before `other`.
    pub fn is_before(&self, other: &Release) -> bool {
        self.order < other.order
    }

    /// Whether this is the release `id` or a later one; no for an id that is not known.
    pub fn order_at_least(&self, id: &str) -> bool {
        super::Catalogue::embedded().ok().and_then(|c| c.by_id(id)).is_some_and(|other| !self.is_before(other))
    }

    /// The schema head of its last version: where a hop to this release ends.
    pub fn head(&self) -> Option<&Head> {
        self.heads.last()
    }

    /// The schema head that `version` of this release shipped: the last one known up to it.
    /// A candidate has the head of the release that it led to.
    pub fn head_for_version(&self, version: &Version) -> Option<&Head> {
        self.heads
            .iter()
            .rev()
            .find(|head| Version::parse(&head.since).is_some_and(|since| since.cmp_numbers(version).is_le()))
            .or_else(|| self.heads.first())
    }

    /// The numbers of `version`.
    pub(super) fn version_prefix(&self) -> Option<Vec<u32>> {
        self.version.split('.').map(|part| part.parse().ok()).collect()
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The alembic head of a release from some version on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The first version with it.
    pub since: String,
    /// The revision.
    pub revision: String,
    /// How upstream's own migration tree looked then.
    pub tree: Tree,
}

/// The form of upstream's migration tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tree {
    /// Every revision since the first.
    Chain,
    /// Begins at 39cf2e645cba: upstream's tool cannot take an older database further.
    Squashed,
}

/// The Python that a release runs on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Python {
    /// These versions, as its classifiers list them.
    Listed(Vec<PythonVersion>),
    /// This version or any later one.
    AtLeast(PythonVersion),
}

impl Python {
    /// Whether the release says that it runs on this version.
    pub fn allows(&self, python: PythonVersion) -> bool {
        match self {
            Python::Listed(list) => list.contains(&python),
            Python::AtLeast(least) => python >= *least,
        }
    }
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Python::Listed(list) => {
                let list: Vec<String> = list.iter().map(PythonVersion::to_string).collect();
                f.write_str(&list.join(", "))
            }
            Python::AtLeast(least) => write!(f, "{least} or later"),
        }
    }
}

/// A change of data beyond the schema revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataStep {
    /// Compute the HMAC of every p11_crypto KEK anew, over iv and wrapped key (Mitaka).
    ResignKeks,
    /// Write the encryption mechanism into the metadata of p11_crypto ciphertext (Rocky).
    RecordMechanism,
}

/// A change in how services are launched.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launcher {
    /// Stable name, unique in the catalogue, prefixed by the release.
    pub id: String,
    /// The facts it covers, by their ids in the list of upgrade items.
    pub item: Vec<String>,
    /// Where it applies.
    #[serde(default)]
    pub when: Condition,
    /// What changes.
    pub change: LauncherChange,
}

/// The kinds of change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LauncherChange {
    /// A program has gone; `to` takes its place, where something does.
    Command {
        /// Base name of the program that has gone.
        from: String,
        /// Base name of its successor.
        #[serde(default)]
        to: Option<String>,
    },
    /// A WSGI script has gone; a module takes its place.
    WsgiModule {
        /// Base name of the script.
        script: String,
        /// The module and its callable: `barbican.wsgi.api:application`.
        module: String,
    },
    /// An endpoint has gone with its application factory; what serves it is to be disabled.
    Endpoint {
        /// The factory that no longer exists.
        factory: String,
        /// Base names of the files that serve it.
        files: Vec<String>,
    },
    /// A service is new. It is never enabled by itself.
    NewService {
        /// The program.
        command: String,
    },
    /// A script or module to launch the API is new beside those there were.
    NewEntry {
        /// Its name.
        name: String,
    },
}

/// What the operator has to know before an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Stable name, unique in the catalogue, prefixed by the release: approvals refer to it.
    pub id: String,
    /// The facts it covers, by their ids in the list of upgrade items.
    pub item: Vec<String>,
    /// How grave it is.
    pub severity: Severity,
    /// What it is about.
    pub class: Class,
    /// Who deals with it.
    pub auto: Auto,
    /// Where the fact comes from.
    pub source: Source,
    /// One line of at most 70 columns, without a final period.
    pub title: String,
    /// A paragraph, without line breaks.
    #[serde(deserialize_with = "one_paragraph")]
    pub text: String,
    /// One line: a command, or what to do.
    #[serde(default)]
    pub remedy: Option<String>,
    /// Where it applies.
    #[serde(default)]
    pub when: Condition,
    /// On which hops it is shown.
    #[serde(default)]
    pub scope: Scope,
}

/// The hops on which a note is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Those that carry out its release, also on the way to a later one.
    #[default]
    Hop,
    /// Those that end at its release: what it says is of no account when one only passes.
    Target,
    /// Those that carry out its release, and every one that begins at it or later: what it warns
    /// of sits in the deployment and does not pass with the release.
    Standing,
    /// Those that begin at its release or later: on the hop itself this tool deals with it.
    Later,
}

/// Reads a text that is written in several lines as one paragraph.
fn one_paragraph<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// How grave a note is. The order is from light to grave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// To be known.
    Note,
    /// To be looked at.
    Warn,
    /// To be approved before the upgrade: it may lose access to data, open access or break the
    /// service, and cannot be dealt with by this tool.
    Critical,
}

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The database schema.
    Schema,
    /// Rows: KEKs, secrets.
    Data,
    /// The paste file.
    Paste,
    /// A new option, or one that reads differently.
    Config,
    /// An option with a new name.
    ConfigRename,
    /// An option that is gone.
    ConfigRemoved,
    /// An option with another default.
    ConfigDefaultChanged,
    /// Policy rules and roles.
    Policy,
    /// A security fix.
    Security,
    /// What users of the API see.
    Manual,
    /// Python and libraries.
    Python,
    /// Launchers and services.
    Wsgi,
    /// Command-line tools of Barbican.
    Cli,
}

/// Who deals with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum Auto {
    /// This tool does it.
    #[serde(rename = "A")]
    Tool,
    /// This tool detects it; the operator acts.
    #[serde(rename = "C")]
    Check,
    /// Only the operator can decide.
    #[serde(rename = "T")]
    Operator,
    /// Nothing is to be done.
    #[serde(rename = "-")]
    Nothing,
}

/// Where a fact comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A release note of Barbican states it.
    #[serde(rename = "release note")]
    ReleaseNote,
    /// Found by comparing the code of the releases.
    Code,
    /// Seen in a real run.
    Seen,
}
