//! What a rehearsal found, kept for the verbs that come after it, and what it makes that must not stay.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::files::Root;
use crate::journal::{STATE, private};
use crate::plan::Plan;
use crate::step::Step;
use crate::time;

/// By how many per cent KEKs and secrets may have grown before a report counts as outgrown.
const GROWTH: u64 = 10;

/// Where a rehearsal works: nothing else is in it, and it is gone afterwards.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(STATE).join("rehearsal")
}

fn report_path() -> PathBuf {
    Path::new(STATE).join("rehearsal.json")
}

/// A database on a server that a rehearsal works in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "made", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scratch {
    /// Made by us: it is dropped.
    Database {
        /// Its name.
        name: String,
        /// Server and name.
        place: String,
    },
    /// The operator's, which was empty: it is emptied.
    Tables {
        /// Server and name.
        place: String,
    },
}

impl Scratch {
    fn path() -> PathBuf {
        directory().join("database.json")
    }

    /// Puts on disk what is about to be made.
    ///
    /// # Errors
    /// If it cannot be written: nothing may be made then.
    pub fn record(&self, root: &Root) -> Result<()> {
        root.write(&Self::path(), &serde_json::to_vec(self)?, private())
    }

    /// What a rehearsal has made and not removed.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn left(root: &Root) -> Result<Option<Self>> {
        if root.exists(&Self::path()) { root.read_json(&Self::path()).map(Some) } else { Ok(None) }
    }
}

/// The part of a plan that a rehearsal carries out: without services, packages and the site's own programs.
#[must_use]
pub fn part_of(plan: &Plan) -> Plan {
    let steps = plan
        .steps
        .iter()
        .filter(|step| !step.is_about_services() && !matches!(step, Step::AwaitCode { .. } | Step::RunHooks { .. }));
    Plan { steps: steps.cloned().collect(), ..plan.clone() }
}

/// A step that was rehearsed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rehearsed {
    /// Its title.
    pub step: String,
    /// `ok`, `unchanged` or `FAILED`.
    pub word: String,
    /// Counts and the like.
    pub detail: String,
    /// How long it took.
    pub milliseconds: u64,
}

/// What a rehearsal found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Format of this file.
    pub format: u32,
    /// The version of this program.
    pub version: String,
    /// When it ended, in seconds since the epoch.
    pub at: u64,
    /// The release the data was at, by its id.
    pub from: String,
    /// The release to go to, by its id.
    pub to: String,
    /// Digest of the steps that were rehearsed.
    pub plan: String,
    /// The database that was copied, without a password.
    pub database: String,
    /// How many KEKs and secrets it had.
    pub rows: u64,
    /// Why it did not pass; none where it did.
    pub error: Option<String>,
    /// Each step.
    pub steps: Vec<Rehearsed>,
    /// How long the copy took, which is no part of the window, in milliseconds.
    pub copied: u64,
    /// How long the steps took together, in milliseconds.
    pub rehearsed: u64,
    /// How long an earlier run took for what is not rehearsed: its id, and milliseconds.
    pub earlier: Option<(String, u64)>,
}

impl Report {
    /// Keeps it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, root: &Root) -> Result<()> {
        root.write(&report_path(), &serde_json::to_vec_pretty(self)?, private())
    }

    /// The last one that was kept by a program that writes them as this one does.
    #[must_use]
    pub fn last(root: &Root) -> Option<Self> {
        root.read_json(&report_path()).ok().filter(|report: &Self| report.format == 1)
    }

    /// How long the services will be down, as far as it is known, in milliseconds.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.rehearsed + self.earlier.as_ref().map_or(0, |(_, milliseconds)| *milliseconds)
    }

    /// Why it says nothing any more of `plan`, with so many KEKs and secrets; empty where it still does.
    #[must_use]
    pub fn outgrown(&self, plan: &Plan, rows: u64) -> Vec<String> {
        let mut why = Vec::new();
        if self.version != env!("CARGO_PKG_VERSION") {
            why.push(format!("by keymgr-upgrade {}", self.version));
        }
        if (&self.from, &self.to) != (&plan.from, &plan.to) {
            why.push(format!("for {} -> {}", self.from, self.to));
        } else if self.plan != part_of(plan).digest() {
            why.push("the plan is another one now".to_owned());
        }
        if rows.saturating_mul(100) > self.rows.saturating_mul(100 + GROWTH) {
            why.push(format!("the database grew from {} KEKs and secrets to {rows}", self.rows));
        }
        why
    }

    /// In words: when, how it went, how long the services will be down.
    #[must_use]
    pub fn words(&self) -> String {
        let when = time::stamp(self.at);
        match &self.error {
            Some(error) => format!("{when}: FAILED: {error}"),
            None => format!("{when}: passed, window {}", self.window_words()),
        }
    }

    /// How long the services will be down, in words, and what is not known of that.
    #[must_use]
    pub fn window_words(&self) -> String {
        let span = time::span(u128::from(self.window()));
        match &self.earlier {
            Some((run, _)) => format!("about {span}, with packages, stop and start as in run {run}"),
            None => format!("about {span}, packages, stop and start not included"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_outgrown_by_version_way_plan_and_rows() {
        let units = vec!["barbican-api.service".to_owned()];
        let steps = vec![Step::HoldUnits { units }, Step::BackUpDatabase { touched: None }, Step::VerifyKeks];
        let plan = Plan {
            format: 1,
            kind: crate::plan::Kind::Upgrade,
            config_file: "/etc/barbican/barbican.conf".into(),
            database: (String::new(), PathBuf::new()),
            from: "yoga".to_owned(),
            to: "zed".to_owned(),
            path: Vec::new(),
            steps,
        };
        assert_eq!(part_of(&plan).steps, [Step::BackUpDatabase { touched: None }, Step::VerifyKeks]);
        let mut report = Report {
            format: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: 1_795_312_684,
            from: "yoga".to_owned(),
            to: "zed".to_owned(),
            plan: part_of(&plan).digest(),
            database: String::new(),
            rows: 1000,
            error: None,
            steps: Vec::new(),
            copied: 5,
            rehearsed: 61_000,
            earlier: None,
        };
        assert!(report.outgrown(&plan, 1100).is_empty());
        assert_eq!(report.outgrown(&plan, 1101), ["the database grew from 1000 KEKs and secrets to 1101"]);
        // Services that were started or stopped since are no matter.
        let mut other = plan.clone();
        other.steps.remove(0);
        assert!(report.outgrown(&other, 0).is_empty());
        other.steps.pop();
        assert_eq!(report.outgrown(&other, 0), ["the plan is another one now"]);
        other.to = "2023.1".to_owned();
        assert_eq!(report.outgrown(&other, 0), ["for yoga -> zed"]);
        assert_eq!(
            report.words(),
            "2026-11-22 01:58:04Z: passed, window about 61 s, packages, stop and start not included"
        );
        report.earlier = Some(("20261101T000000Z".to_owned(), 60_000));
        assert!(report.window_words().starts_with("about 2 min 1 s, with packages"), "{}", report.window_words());
        report.version = "0.0.1".to_owned();
        assert_eq!(report.outgrown(&plan, 0), ["by keymgr-upgrade 0.0.1"]);
    }
}
