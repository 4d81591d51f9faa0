//! What is to be done, decided from facts alone: no file, no clock, no database.

use std::path::Path;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::files::{Root, digest};
use crate::journal::RunState;
use crate::step::{Step, read_json};

/// What kind of run a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From release to release.
    Upgrade,
    /// The schema alone.
    Db,
    /// KEKs alone.
    Kek,
    /// Files alone.
    Config,
}

/// A plan: what `plan` shows, `approve` approves and `upgrade` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Format of this file.
    pub format: u32,
    /// What kind of run.
    pub kind: Kind,
    /// The release the data is at, by its id; empty where it does not matter.
    pub from: String,
    /// The release to go to, by its id; empty where it does not matter.
    pub to: String,
    /// The releases whose items are carried out, in order, by their ids.
    pub path: Vec<String>,
    /// The steps, in order. Those up to the code are the first half.
    pub steps: Vec<Step>,
}

impl Plan {
    /// A short name for these very steps; an approval is for one digest.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }

    /// Whether nothing is to be done besides looking.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The index of the step that awaits the code, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<usize> {
        self.steps.iter().position(|s| matches!(s, Step::AwaitCode { .. }))
    }

    /// Reads the plan of a run, the second one where the run was planned again.
    ///
    /// # Errors
    /// If it is missing, unreadable, or not the one that the journal names.
    pub fn load(root: &Root, directory: &Path, state: &RunState) -> Result<Self> {
        let (name, wanted) = match &state.replanned {
            Some(wanted) => ("plan-2.json", Some(wanted)),
            None => ("plan.json", state.plan.as_ref()),
        };
        let plan: Self = read_json(root, &directory.join(name))?;
        if wanted != Some(&plan.digest()) {
            bail!(
                "{}: not the plan that the journal names; restore it or roll back by hand with backup/RESTORE.txt",
                root.shown(&directory.join(name)).display()
            );
        }
        Ok(plan)
    }
}
