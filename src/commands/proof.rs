//! What the last line of a run says: what was proved, and what was not.

use crate::deployment::{Host, Site};
use crate::engine::Run;
use crate::journal::{Journal, RunState};
use crate::plan::Kind;
use crate::settings::Start;
use crate::step::{NOT_PROVED, Step};
use crate::time;

/// The words of the last line.
#[derive(Debug, Default)]
pub(super) struct Proof {
    pub(super) proved: Vec<String>,
    pub(super) not_proved: Vec<String>,
    /// How long no service ran, in words; none where none was stopped or none was started.
    pub(super) down: Option<String>,
}

impl Proof {
    /// Of a run that is done.
    pub(super) fn of(run: &Run, site: &Site, host: &Host) -> Self {
        let settings = &host.settings;
        // Only the journal knows when what was done, also by those who worked on the run before.
        let state = match Journal::read(&host.root, &run.directory) {
            Ok(records) => RunState::replay(&records),
            Err(_) => run.state.clone(),
        };
        let find = |wanted: &dyn Fn(&Step) -> bool| {
            let index = run.plan.steps.iter().position(wanted)?;
            Some(state.get(index))
        };
        let detail = |wanted: &dyn Fn(&Step) -> bool| find(wanted).and_then(|s| s.done).map(|(_, detail)| detail);
        let mut proof = Self::default();
        proof.proved.extend(detail(&|s| matches!(s, Step::VerifySecrets)));
        if run.plan.kind != Kind::Upgrade {
            return proof;
        }
        let ran = |s: &Step| matches!(s, Step::StopUnits { units } if !units.is_empty());
        match detail(&|s| matches!(s, Step::VerifyService { .. })) {
            Some(words) => {
                let (proved, missing) = words.split_once(NOT_PROVED).unwrap_or((&words, ""));
                proof.proved.push(proved.to_owned());
                proof.not_proved.extend(Some(missing.to_owned()).filter(|m| !m.is_empty()));
            }
            None if settings.start == Start::None && find(&ran).is_some() => {
                proof.not_proved.push("that the services start ([upgrade] start = none)".to_owned());
            }
            None => {}
        }
        match site.elsewhere() {
            Ok(stores) => proof.not_proved.extend(stores.iter().filter(|(_, n)| **n > 0).map(|(plugin, n)| {
                let store = plugin.rsplit('.').next().unwrap_or(plugin);
                format!("{n} secrets in {store}")
            })),
            Err(why) => log::warn!("counting secrets kept elsewhere: {why:#}"),
        }
        let stopped = find(&ran).and_then(|s| s.times.0);
        let started = find(&|s| matches!(s, Step::StartUnits { .. })).and_then(|s| s.times.1);
        if let (Some(stopped), Some(started)) = (stopped, started) {
            proof.down = Some(time::span(u128::from(started.saturating_sub(stopped)) * 1000));
        }
        proof
    }

    /// The last line, after `what` was done.
    pub(super) fn line(&self, what: &str) -> String {
        let down = self.down.as_ref().map_or_else(String::new, |d| format!(", down {d}"));
        let part = |word: &str, list: &[String]| {
            if list.is_empty() { String::new() } else { format!(" {word}: {}.", list.join("; ")) }
        };
        format!("{what}{down}.{}{}", part("Proved", &self.proved), part("Not proved", &self.not_proved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_both() {
        let mut proof = Proof { proved: vec!["6 of 6 KEKs".to_owned()], ..Proof::default() };
        assert_eq!(proof.line("Done: Zed"), "Done: Zed. Proved: 6 of 6 KEKs.");
        proof.not_proved = vec!["40 secrets in VaultSecretStore".to_owned(), "that the API answers".to_owned()];
        proof.down = Some("2 min".to_owned());
        assert_eq!(
            proof.line("Done: Zed"),
            "Done: Zed, down 2 min. Proved: 6 of 6 KEKs. Not proved: 40 secrets in VaultSecretStore; that the API answers."
        );
    }
}
