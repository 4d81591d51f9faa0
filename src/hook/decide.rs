//! What is to be done about package work, before anything is unpacked.

use super::{Change, Installed};
use crate::journal::{Phase, RunState};
use crate::plan::Plan;
use crate::release::{Catalogue, Release};
use crate::step::Undo;

/// The code that an open run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// None: it is at work before that, or was interrupted there.
    Nothing,
    /// That of the release it goes to: it waits for it, or has found it there and needs it on.
    New,
    /// That of the release it comes from: it is going back, and all that came after the code is undone.
    Old,
}

/// An open run, as far as package work is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRun {
    /// Its id.
    pub id: String,
    /// The release of the code it comes from, by its id.
    pub from: String,
    /// The release it goes to, by its id.
    pub to: String,
    /// What it waits for.
    pub awaits: Awaits,
    /// The new code was found there: from then on data and files may be changed.
    pub past_code: bool,
    /// It is going back.
    pub going_back: bool,
}

impl OpenRun {
    /// The run `id`, where it is open; `None` where it has ended.
    #[must_use]
    pub fn of(id: &str, plan: &Plan, state: &RunState) -> Option<Self> {
        let code = plan.code();
        let (mut awaits, mut past_code) = (Awaits::Nothing, false);
        let mut from = plan.from.clone();
        if let Some(code) = code {
            let begun = state.get(code).undo.is_some();
            past_code = state.get(code).done.is_some();
            let undo = state.get(code).undo.clone().and_then(|undo| serde_json::from_value(undo).ok());
            if let Some(Undo::Code { release }) = undo {
                from = release;
            }
            let undone = |i: usize| {
                let step = state.get(i);
                step.undo.is_none() || step.reverted
            };
            awaits = match state.phase {
                Phase::Waiting => Awaits::New,
                Phase::Forward if begun => Awaits::New,
                Phase::RollingBack if begun && (code + 1..plan.steps.len()).all(undone) => Awaits::Old,
                _ => Awaits::Nothing,
            };
        }
        let open = !matches!(state.phase, Phase::Done | Phase::RolledBack);
        open.then(|| Self {
            id: id.to_owned(),
            from,
            to: plan.to.clone(),
            awaits,
            past_code,
            going_back: state.phase == Phase::RollingBack,
        })
    }

    /// The release whose code it waits for, by its id.
    #[must_use]
    pub fn awaited(&self) -> Option<&str> {
        match self.awaits {
            Awaits::Nothing => None,
            Awaits::New => Some(&self.to),
            Awaits::Old => Some(&self.from),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is none of our business.
    Pass,
    /// Nothing: the release stays the same.
    Same(&'static Release),
    /// It is what the open run waits for.
    Adopt,
    /// It is an upgrade to this release: to be looked at, and begun.
    Upgrade {
        /// The release to go to.
        to: &'static Release,
        /// The release of the code now, by its id, where it is known.
        from: Option<String>,
        /// The version is not a final release.
        pre_release: bool,
    },
    /// It must not be.
    Refuse(String),
}

/// Decides on `changes` of Barbican's packages; `installed` is what is there now.
#[must_use]
pub fn decide(changes: &[Change], installed: &[Installed], open: Option<&OpenRun>) -> Verdict {
    if changes.is_empty() {
        return Verdict::Pass;
    }
    let mut targets: Vec<&str> = changes.iter().filter_map(|c| c.new.as_deref()).collect();
    targets.sort_unstable();
    targets.dedup();
    let target = match releases(&targets) {
        Ok(found) => found,
        Err(why) => return Verdict::Refuse(why),
    };
    if let Some(run) = open {
        return match (target, run.awaited()) {
            (Some((to, _)), Some(awaited)) if to.id == awaited => Verdict::Adopt,
            (Some((to, _)), Some(awaited)) => {
                Verdict::Refuse(format!("run {} is open and waits for the code of {awaited}, not of {}", run.id, to.id))
            }
            _ => Verdict::Refuse(format!("run {} is not finished", run.id)),
        };
    }
    // Without any Barbican there is no data to lose; and what goes away harms none.
    let Some((to, pre_release)) = target.filter(|_| !installed.is_empty()) else { return Verdict::Pass };
    let from = installed.iter().find_map(Installed::release);
    if installed.iter().all(|p| p.release() == Some(to.id.as_str())) {
        return Verdict::Same(to);
    }
    Verdict::Upgrade { to, from: from.map(str::to_owned), pre_release }
}

/// The one release of these versions, and whether one of them is not final; `None` without versions.
fn releases(versions: &[&str]) -> Result<Option<(&'static Release, bool)>, String> {
    let catalogue = Catalogue::embedded().map_err(|e| format!("{e:#}"))?;
    let mut found: Option<(&'static Release, bool)> = None;
    for version in versions {
        let this = catalogue.by_version(version).map_err(|e| e.to_string())?;
        match found {
            Some((other, _)) if other.id != this.release.id => {
                return Err(format!("packages of {other} and of {} at once", this.release));
            }
            Some((_, early)) => found = Some((this.release, early || this.pre_release)),
            None => found = Some((this.release, this.pre_release)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;
    use crate::journal::{Event, Outcome, Record};
    use crate::plan::Kind;
    use crate::step::Step;

    const OLD: &str = "1:15.0.1-2";
    const NEW: &str = "1:16.0.1-1";

    fn change(package: &str, old: Option<&str>, new: Option<&str>) -> Change {
        Change { package: package.into(), old: old.map(str::to_owned), new: new.map(str::to_owned) }
    }

    fn there(version: &str) -> Vec<Installed> {
        let one =
            |package: &str| Installed { package: package.into(), version: version.into(), state: "installed".into() };
        vec![one("barbican-common"), one("barbican-api")]
    }

    fn go(old: Option<&str>, new: Option<&str>) -> Vec<Change> {
        vec![change("barbican-common", old, new), change("barbican-api", old, new)]
    }

    fn run(awaits: Awaits) -> OpenRun {
        OpenRun {
            id: "r".into(),
            from: "zed".into(),
            to: "2023.1".into(),
            awaits,
            past_code: false,
            going_back: awaits == Awaits::Old,
        }
    }

    #[test]
    fn without_a_run_only_another_release_is_an_upgrade() {
        let verdict = |changes: &[Change], now: &[Installed]| decide(changes, now, None);
        assert_eq!(verdict(&[], &there(OLD)), Verdict::Pass);
        assert_eq!(verdict(&go(None, Some(NEW)), &[]), Verdict::Pass, "a new installation");
        assert_eq!(verdict(&go(Some(OLD), None), &there(OLD)), Verdict::Pass, "a removal");
        assert!(
            matches!(verdict(&go(Some(OLD), Some("1:15.0.1-2.1")), &there(OLD)), Verdict::Same(r) if r.id == "zed")
        );
        assert!(matches!(verdict(&go(Some(OLD), Some(OLD)), &there(OLD)), Verdict::Same(_)), "a reinstallation");
        for (new, pre) in [(NEW, false), ("1:16.0.0~rc1-1", true)] {
            let Verdict::Upgrade { to, from, pre_release } = verdict(&go(Some(OLD), Some(new)), &there(OLD)) else {
                panic!()
            };
            assert_eq!((to.id.as_str(), from.as_deref(), pre_release), ("2023.1", Some("zed"), pre));
        }
        // Going down is an upgrade that the look will refuse.
        assert!(matches!(verdict(&go(Some(NEW), Some(OLD)), &there(NEW)), Verdict::Upgrade { .. }));
        // One more package, of the release that is there.
        let more = [change("barbican-worker", None, Some(OLD))];
        assert!(matches!(verdict(&more, &there(OLD)), Verdict::Same(_)));
        // One more package that would bring the others along.
        let more = [change("barbican-worker", None, Some(NEW)), change("barbican-common", Some(OLD), Some(NEW))];
        assert!(matches!(verdict(&more, &there(OLD)), Verdict::Upgrade { .. }));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (new, why) in [("1:99.0.0-1", "newer"), ("latest", "latest")] {
            let Verdict::Refuse(text) = decide(&go(Some(OLD), Some(new)), &there(OLD), None) else { panic!() };
            assert!(text.contains(why), "{text}");
        }
        let mixed =
            [change("barbican-common", Some(OLD), Some(NEW)), change("barbican-api", Some(OLD), Some("1:20.0.0-3"))];
        let Verdict::Refuse(text) = decide(&mixed, &there(OLD), None) else { panic!() };
        assert!(text.contains("at once"), "{text}");
    }

    #[test]
    fn an_open_run_lets_only_its_own_code_through() {
        let verdict = |changes: &[Change], awaits| decide(changes, &there(OLD), Some(&run(awaits)));
        let (up, down, further) =
            (go(Some(OLD), Some(NEW)), go(Some(NEW), Some(OLD)), go(Some(OLD), Some("1:20.0.0-3")));
        assert_eq!(verdict(&up, Awaits::New), Verdict::Adopt);
        assert_eq!(verdict(&down, Awaits::Old), Verdict::Adopt);
        for (changes, awaits) in [
            (&up, Awaits::Nothing),
            (&up, Awaits::Old),
            (&down, Awaits::New),
            (&further, Awaits::New),
            (&go(Some(OLD), None), Awaits::New),
        ] {
            assert!(matches!(verdict(changes, awaits), Verdict::Refuse(_)), "{changes:?} {awaits:?}");
        }
    }

    fn plan() -> Plan {
        let units = vec!["barbican-api.service".to_owned()];
        Plan {
            format: 1,
            kind: Kind::Upgrade,
            config_file: PathBuf::from("/etc/barbican/barbican.conf"),
            database: (String::new(), PathBuf::new()),
            from: "zed".into(),
            to: "2023.1".into(),
            path: vec!["2023.1".into()],
            steps: vec![
                Step::StopUnits { units: units.clone() },
                Step::AwaitCode { release: "2023.1".into() },
                Step::RecordRelease { release: "2023.1".into() },
                Step::StartUnits { units },
            ],
        }
    }

    #[test]
    fn what_a_run_awaits_is_in_its_journal() {
        let started = |step| Event::StepStarted { step, undo: Value::from("u") };
        let done = |step| Event::StepDone { step, changed: true, detail: String::new(), fingerprint: None };
        let reverted = |step| Event::StepReverted { step, changed: true };
        let back = || Event::RollbackStarted { why: "w".into() };
        let waiting = || Event::Waiting { release: "2023.1".into() };
        let first = || vec![started(0), done(0)];
        let with = |more: Vec<Event>| -> Vec<Event> { first().into_iter().chain(more).collect() };
        for (events, wanted) in [
            (vec![started(0)], Some((Awaits::Nothing, false))),
            (with(vec![]), Some((Awaits::Nothing, false))),
            (with(vec![started(1)]), Some((Awaits::New, false))),
            (with(vec![started(1), waiting()]), Some((Awaits::New, false))),
            (with(vec![started(1), waiting(), done(1), started(2)]), Some((Awaits::New, true))),
            (with(vec![started(1), waiting(), done(1), started(2), back()]), Some((Awaits::Nothing, true))),
            (with(vec![started(1), waiting(), done(1), started(2), back(), reverted(2)]), Some((Awaits::Old, true))),
            (with(vec![started(1), waiting(), back()]), Some((Awaits::Old, false))),
            (with(vec![Event::Closed { outcome: Outcome::Done }]), None),
        ] {
            let records: Vec<Record> = events.into_iter().map(|event| Record { at: 1, event }).collect();
            let state = RunState::replay(&records);
            let run = OpenRun::of("r", &plan(), &state);
            assert_eq!(run.map(|r| (r.awaits, r.past_code)), wanted, "{records:?}");
        }
    }
}
