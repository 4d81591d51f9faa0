//! What the verbs of an upgrade have in common: facts, way, plan, notes, findings.

use crate::approval::Approval;
use crate::cli::{Target, Word};
use crate::db::{self, Access, Offence};
use crate::deployment::{Code, Deployment, Depth};
use crate::error::{Exit, Failure};
use crate::finding::{Around, Case, Finding, OTHER_WRITERS, Severity, findings};
use crate::plan::{Draft, upgrade};
use crate::release::{Applicable, Catalogue, Mode, Note, PathError, Release};
use crate::settings::Way;
use crate::step::Step;
use crate::time;

use super::{Session, release};

/// A look at everything that an upgrade is decided by.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) deployment: Deployment,
    pub(super) to: &'static Release,
    pub(super) draft: Result<Draft, PathError>,
    pub(super) notes: Vec<Applicable<'static, Note>>,
    pub(super) findings: Vec<Finding>,
    pub(super) approval: Option<Approval>,
    /// `--from` was given: the next command needs it too.
    from_said: bool,
}

impl Look {
    pub(super) fn fails(&self) -> usize {
        self.findings.iter().filter(|f| f.severity == Severity::Fail).count()
    }

    pub(super) fn warns(&self) -> usize {
        self.findings.iter().filter(|f| f.severity == Severity::Warn).count()
    }

    /// The draft, or the refusal of a way that is not allowed.
    pub(super) fn draft(&self) -> Result<&Draft, Failure> {
        self.draft.as_ref().map_err(|error| {
            let mut failure = Failure::new(Exit::Blocked, error.clone());
            failure.hints = error.hints();
            failure.next(super::check::next(self))
        })
    }

    /// Where the plan writes to the database, others on it stop it, but for the operator's word. Another run at work is
    /// waited for instead; who is there is looked at again under the lock.
    pub(super) fn refuse_others(&mut self, word: Word) {
        let locked = self.findings.iter().any(|f| f.id == "database-locked");
        let writes = !locked && self.draft.as_ref().is_ok_and(|d| d.writes);
        for finding in self.findings.iter_mut().filter(|f| f.id == OTHER_WRITERS && f.severity == Severity::Warn) {
            if word.writers_stopped {
                finding.title = format!("{} (they do not write, on your word)", finding.title);
            } else if writes {
                finding.severity = Severity::Fail;
            }
        }
    }

    /// Nothing to do: the plan would only look.
    pub(super) fn is_done(&self) -> bool {
        let Ok(draft) = &self.draft else { return false };
        let code = matches!(&self.deployment.code, Code::At { release: Some(now), .. } if *now != self.to.id);
        self.to.id == self.deployment.from.release.id && !draft.writes && draft.files.is_empty() && !code
    }

    /// `--to X`, and `--fast-forward` where the way is long.
    pub(super) fn arguments(&self) -> String {
        let long = matches!(&self.draft, Ok(draft) if draft.path.len() > 1);
        let from = if self.from_said { format!(" --from {}", self.deployment.from.release.id) } else { String::new() };
        format!("--to {}{}{from}", self.to.id, if long { " --fast-forward" } else { "" })
    }
}

/// Looks; changes nothing.
pub(super) fn look(session: &Session, target: &Target, depth: Depth) -> Result<Look, Failure> {
    let deployment = Deployment::look(&session.host, session.global.from.as_deref(), depth)?;
    look_on(session, target, deployment)
}

/// The same on facts that are known already.
pub(super) fn look_on(session: &Session, target: &Target, mut deployment: Deployment) -> Result<Look, Failure> {
    let settings = &session.host.settings;
    let to = target_of(target, &deployment)?;
    let approval = Approval::find(&session.host.root, &to.id, time::now())?;
    let fast = target.fast_forward || approval.as_ref().is_some_and(|a| a.fast_forward);
    let mode = match settings.way {
        _ if fast => Mode::FastForward,
        Way::FastForward => Mode::FastForward,
        Way::Slurp => Mode::Slurp,
        Way::Sequential => Mode::Sequential,
    };
    let catalogue = Catalogue::embedded()?;
    let path = match catalogue.path(deployment.from.release, to, mode) {
        Ok(path) => Ok(path),
        Err(PathError::Same(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    // A way that is refused is shown with the notes that it would have had.
    let way = match &path {
        Ok(path) => path.clone(),
        Err(_) => catalogue.path(deployment.from.release, to, Mode::FastForward).unwrap_or_default(),
    };
    let notes = catalogue.notes(deployment.from.release, &way, &deployment.facts);
    let draft = match path {
        Ok(path) => Ok(upgrade(&deployment, &session.host, &path)?),
        Err(error) => Err(error),
    };
    let offences = offences(session, &mut deployment, draft.as_ref().ok())?;
    let mut approved = settings.acknowledged.clone();
    if let (Some(approval), Ok(draft)) = (&approval, &draft)
        && approval.plan == draft.plan.digest()
    {
        approved.extend(approval.accepted.iter().cloned());
    }
    let open = session.open_run()?.map(|(id, _)| id);
    let around = around(&deployment);
    let findings = findings(&Case {
        deployment: &deployment,
        settings,
        draft: draft.as_ref(),
        to,
        offences: &offences,
        notes: &notes,
        approved: &approved,
        open_run: open.as_deref(),
        around: &around,
    });
    let from_said = session.global.from.is_some();
    Ok(Look { deployment, to, draft, notes, findings, approval, from_said })
}

/// What is around the database. What cannot be looked at is a finding too.
fn around(deployment: &Deployment) -> Around {
    let site = &deployment.site;
    match &deployment.database {
        Ok(_) => Around {
            server: None,
            visitors: site.visitors().map_err(|e| format!("{e:#}")),
            holder: site.lock_holder().map(|h| h.map(|(holder, _)| holder.to_string())).map_err(|e| format!("{e:#}")),
        },
        Err(_) => {
            // Why it is not within reach is known only in words by now.
            let why = site.open(Access::ReadOnly).err();
            let server = why.as_ref().and_then(|e| match e.downcast_ref() {
                Some(db::Error::Pooled { .. }) => Some("database-pooler"),
                Some(db::Error::GaleraNode { .. }) => Some("galera-node"),
                Some(db::Error::ReadOnlyServer { .. }) => Some("database-read-only"),
                Some(db::Error::TwoSchemas { .. }) => Some("database-two-schemas"),
                _ => None,
            });
            Around { server, visitors: Ok(None), holder: Ok(None) }
        }
    }
}

/// The release asked for; else that of the installed code, if it is ahead of the data; else the next one that the schema is for.
fn target_of(target: &Target, deployment: &Deployment) -> Result<&'static Release, Failure> {
    if let Some(name) = &target.to {
        return release(name);
    }
    let from = deployment.from.release;
    if let Code::At { release: Some(id), .. } = &deployment.code {
        let installed = release(id)?;
        if !installed.is_before(deployment.from.ahead.unwrap_or(from)) {
            return Ok(installed);
        }
    }
    if let Some(ahead) = deployment.from.ahead {
        return Ok(ahead);
    }
    let releases = Catalogue::embedded()?.releases();
    let next = releases.iter().find(|r| from.is_before(r));
    Ok(next.unwrap_or(from))
}

/// Rows that stand in the way of the schema steps, found without touching the database.
fn offences(session: &Session, deployment: &mut Deployment, draft: Option<&Draft>) -> Result<Vec<Offence>, Failure> {
    let Some(draft) = draft else { return Ok(Vec::new()) };
    let hops = draft.plan.steps.iter().filter_map(|s| match s {
        Step::MigrateSchema { from, to, .. } => Some((from.as_str(), to.as_str())),
        _ => None,
    });
    let hops: Vec<_> = hops.collect();
    let (Some((from, _)), Some((_, to))) = (hops.first(), hops.last()) else { return Ok(Vec::new()) };
    let verified = deployment.database.as_ref().ok().and_then(|d| d.verification.as_ref());
    if verified.is_none_or(|v| v.matches.is_none() && v.half_done.is_none()) {
        // Queries are written for known shapes; the shape is a finding of its own.
        return Ok(Vec::new());
    }
    let database = deployment.site.open(Access::ReadOnly)?;
    if let Err(obstacle) = database.leads_to(from, to) {
        return Ok(vec![Offence {
            id: "schema-in-the-way".to_owned(),
            title: "something is in the way of the migration".to_owned(),
            rows: vec![obstacle.to_string()],
            remedy: "see who made it and why; rename or remove it".to_owned(),
        }]);
    }
    let orphans = session.host.settings.orphans;
    Ok(database.preconditions(Some(from), to, orphans).map_err(anyhow::Error::from)?)
}
