//! What the database was like when a step left it, so that going back loses nothing that others wrote. It reads all rows.

use anyhow::Result;

use super::Run;
use crate::db::Access;
use crate::journal::{Event, StepState};
use crate::step::{Context, Step, Undo};

impl Run {
    /// For the record that step `index` is done: taken after the backup, and after the last of steps that write one after the other.
    pub(super) fn fingerprint_after(
        &self,
        context: &mut Context<'_>,
        index: usize,
        step: &Step,
    ) -> Result<Option<String>> {
        if !step.writes_database() && !matches!(step, Step::BackUpDatabase { .. }) {
            return Ok(None);
        }
        if !self.plan.steps.get(index + 1).is_some_and(Step::writes_database) {
            self.know_fingerprint(context, index)?;
        }
        Ok(context.known.fingerprint.clone())
    }

    /// Takes it at step `index` where it is not known, and going back may put something of the database back: the run wrote to it, or has a copy of
    /// it for what somebody else may do.
    pub(super) fn know_fingerprint(&self, context: &mut Context<'_>, index: usize) -> Result<()> {
        if self.is_one_way(index) {
            return Ok(());
        }
        let copied = |step: &Step| matches!(step, Step::BackUpDatabase { .. } | Step::MigrateSchema { .. });
        let needed = self.has_written() || self.plan.steps.iter().any(copied);
        if needed && context.known.fingerprint.is_none() && context.site.has_database() {
            context.known.fingerprint = Some(context.site.open(Access::ReadOnly)?.fingerprint()?);
        }
        Ok(())
    }

    /// A migration of the schema was begun up to step `index`, and there is no copy: once the revision has moved a rollback is refused, whoever
    /// wrote since.
    fn is_one_way(&self, index: usize) -> bool {
        let mut begun = self.plan.steps.iter().enumerate().take(index + 1);
        begun.any(|(i, step)| {
            let undo = self.state.get(i).undo.and_then(|undo| serde_json::from_value(undo).ok());
            matches!((step, undo), (Step::MigrateSchema { .. }, Some(Undo::Nothing)))
        })
    }

    /// The fingerprint of the database as the run left it; none where what is the run's own, and what is not, cannot be told apart: it was killed
    /// within a step that writes, or after one and before the next.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let (at, fingerprint) = self.state.fingerprint.clone()?;
        let mut steps = self.plan.steps.iter().enumerate().filter(|(_, step)| step.writes_database());
        let unknown = steps.any(|(i, _)| {
            let state = self.state.get(i);
            state.undo.is_some() && (state.done.is_none() || i > at)
        });
        (!unknown).then_some(fingerprint)
    }

    /// Before the run is left between steps that write, the fingerprint of what they left is taken, for a rollback to compare. Where that cannot be
    /// done, the error that matters is the one that stops the run.
    pub(super) fn fingerprint_at_stop(&mut self, context: &mut Context<'_>) {
        let mut steps = self.plan.steps.iter().enumerate().rev().filter(|(_, step)| step.writes_database());
        let begun = steps.find_map(|(i, _)| Some((i, self.state.get(i))).filter(|(_, state)| state.undo.is_some()));
        let Some((index, StepState { done: Some((changed, detail)), .. })) = begun else { return };
        if self.is_one_way(index) || self.state.fingerprint.as_ref().is_some_and(|(at, _)| *at >= index) {
            return;
        }
        let taken = context.site.open(Access::ReadOnly).and_then(|database| Ok(database.fingerprint()?));
        let recorded = taken.and_then(|fingerprint| {
            self.record(Event::StepDone { step: index, changed, detail, fingerprint: Some(fingerprint.clone()) })?;
            self.state.fingerprint = Some((index, fingerprint));
            Ok(())
        });
        if let Err(why) = recorded {
            log::warn!("the fingerprint of the database: {why:#}");
        }
    }
}
