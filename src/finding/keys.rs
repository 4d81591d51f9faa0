//! Which keys and secrets can be read now.

use std::collections::BTreeMap;

use super::{Case, Finding, mechanisms};
use crate::db::Kind;
use crate::files::digest;
use crate::kek::{Count, Survey};

/// The finding of what is in use and cannot be read.
const UNREADABLE: &str = "unreadable";

pub(super) fn judge(case: &Case<'_>, all: &mut Vec<Finding>) {
    let survey = match &case.deployment.survey {
        Ok(survey) => survey,
        Err(why) => {
            if case.deployment.database.is_ok() {
                let remedy = "mend that, then: keymgr-upgrade kek status; without the keys nobody can say whether secrets survive";
                all.push(Finding::fail("keys", why.clone()).remedy(remedy));
            }
            return;
        }
    };
    if let Err(why) = unreadable(survey, all) {
        all.push(Finding::fail("keys", format!("{why:#}")).remedy("mend that, then: keymgr-upgrade kek status"));
    }
    let total = |counts: &BTreeMap<String, Count>, name: &str| counts.get(name).map_or(0, |count| count.all());
    let part = |kind| match survey.part(kind) {
        Some(part) => format!("; {part}; all: keymgr-upgrade kek verify"),
        None => String::new(),
    };
    let (keks, secrets) = (survey.kek_counts(), survey.secret_counts());
    let (good, old, bad) = (total(keks, "good"), total(keks, "old"), survey.bad_kek_count());
    all.push(Finding::ok("keks", format!("{good} good, {old} old, {bad} unreadable{}", part(Kind::Keks))));
    let tried: usize = secrets.values().map(|count| count.all()).sum();
    let title = format!("{} of {tried} decrypt{}", total(secrets, "proved"), part(Kind::Secrets));
    all.push(Finding::ok("secrets", title));
    not_proved(case, survey, all);
    mechanisms::judge(case, survey, all);
}

/// What cannot be read now cannot be proved to survive: a blocker to accept if live, less if nothing live is behind it.
fn unreadable(survey: &Survey, all: &mut Vec<Finding>) -> anyhow::Result<()> {
    let (mut live, mut idle) = (Lines::default(), Lines::default());
    let sampled = survey.sample().is_some();
    let here = if sampled { " in a sample" } else { "" };
    survey.each_bad_kek(|kek| {
        let under = if sampled { String::new() } else { format!(", with {} of the secrets", kek.under) };
        let line = format!("KEK {}{under}: {}", kek.id, kek.verdict);
        if kek.used { live.push(line) } else { idle.push(line) }
    })?;
    survey.each_bad_secret(|secret| {
        // The others are said with their KEK.
        if !secret.under_bad {
            let line = format!("secret {} (datum {}): {}", secret.secret_id, secret.id, secret.verdict);
            if secret.deleted { idle.push(line) } else { live.push(line) }
        }
        Ok(true)
    })?;
    if live.count > 0 {
        let title = format!("KEKs or secrets in use cannot be read now ({}{here})", live.count);
        let finding = Finding::fail(UNREADABLE, title).evidence(live.evidence()).approvable();
        all.push(finding.remedy("find out why (kek verify); or accept it: keymgr-upgrade approve"));
    }
    if idle.count > 0 {
        let title = format!("KEKs or secrets not in use cannot be read ({}{here})", idle.count);
        all.push(Finding::warn("unreadable-idle", title).evidence(idle.evidence()));
    }
    Ok(())
}

/// Whether the operator has accepted what cannot be read, as a look at all of it has shown it; a run looks at all of it again.
pub(super) fn is_accepted_sample(case: &Case<'_>, finding: &Finding) -> bool {
    let sampled = case.deployment.survey.as_ref().is_ok_and(|survey| survey.sample().is_some());
    let accepted = |id: &String| id.split_once('#').is_some_and(|(id, _)| id == UNREADABLE);
    sampled && finding.id == UNREADABLE && case.approved.iter().any(accepted)
}

/// How many lines of evidence are kept; of the others their number and a digest, so that any other evidence is told from this.
const MOST_LINES: usize = 1000;

#[derive(Default)]
struct Lines {
    kept: Vec<String>,
    count: usize,
    others: String,
}

impl Lines {
    fn push(&mut self, line: String) {
        self.count += 1;
        if self.kept.len() < MOST_LINES {
            self.kept.push(line);
        } else {
            self.others = digest(format!("{}{line}", self.others).as_bytes());
        }
    }

    fn evidence(mut self) -> Vec<String> {
        if self.count > MOST_LINES {
            let more = self.count - MOST_LINES;
            self.kept.push(format!("and {more} more, of digest {}; kek verify lists them", self.others));
        }
        self.kept
    }
}

fn not_proved(case: &Case<'_>, survey: &Survey, all: &mut Vec<Finding>) {
    let here = if survey.sample().is_some() { " in a sample" } else { "" };
    let mut evidence: Vec<String> =
        case.deployment.elsewhere.iter().map(|(plugin, n)| format!("{n} secrets in {plugin}")).collect();
    let unchecked = survey.summary().unchecked.iter().filter(|(_, count)| count.live > 0);
    evidence.extend(unchecked.map(|(plugin, count)| format!("{} secrets{here} under keys of {plugin}", count.live)));
    if !evidence.is_empty() {
        let title = "secrets that this tool cannot read, and so cannot prove";
        let finding = Finding::warn("not-proved", title).evidence(evidence);
        all.push(finding.remedy("read one of them through the API after the upgrade"));
    }
}
