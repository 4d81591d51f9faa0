//! The operator's recorded word: for these notes and this very plan, once, within a day.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::files::Root;
use crate::journal::{STATE, private};

/// How long an approval holds, in seconds.
const HOLDS: u64 = 24 * 3600;

/// An approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Format of the record.
    pub format: u32,
    /// When, in seconds since the epoch.
    pub at: u64,
    /// Who.
    pub by: String,
    /// The release to go to, by its id.
    pub to: String,
    /// Releases in between may be carried out in one run.
    pub fast_forward: bool,
    /// Digest of the plan that was shown.
    pub plan: String,
    /// Ids of notes and findings that were accepted.
    pub accepted: Vec<String>,
}

fn path() -> PathBuf {
    Path::new(STATE).join("approval.json")
}

impl Approval {
    /// Records the approval, in place of an earlier one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn record(&self, root: &Root) -> Result<()> {
        root.make_directory(Path::new(STATE), 0o700)?;
        root.write(&path(), &serde_json::to_vec_pretty(self)?, private())
    }

    /// The approval for going to `to`, if there is one that still holds.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn find(root: &Root, to: &str, now: u64) -> Result<Option<Self>> {
        if !root.exists(&path()) {
            return Ok(None);
        }
        let damaged = "the approval is damaged; remove it, and approve again";
        let approval: Self = root.read_json(&path()).context(damaged)?;
        let holds = approval.to == to && approval.at <= now && now < approval.at.saturating_add(HOLDS);
        Ok(holds.then_some(approval))
    }

    /// Uses up the approval.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn spend(root: &Root) -> Result<()> {
        root.remove(&path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_is_for_one_target_and_one_day() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(Approval::find(&root, "mitaka", 0).unwrap(), None);
        let approval = Approval {
            format: 1,
            at: 1000,
            by: "root".into(),
            to: "mitaka".into(),
            fast_forward: false,
            plan: "p".into(),
            accepted: vec!["n".into()],
        };
        approval.record(&root).unwrap();
        assert_eq!(Approval::find(&root, "mitaka", 1000 + HOLDS - 1).unwrap(), Some(approval));
        assert_eq!(Approval::find(&root, "mitaka", 1000 + HOLDS).unwrap(), None);
        assert_eq!(Approval::find(&root, "newton", 1001).unwrap(), None);
        assert_eq!(Approval::find(&root, "mitaka", 999).unwrap(), None, "not from the future");
        Approval::spend(&root).unwrap();
        assert_eq!(Approval::find(&root, "mitaka", 1001).unwrap(), None);
    }
}
