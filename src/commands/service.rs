//! `service`: what `keymgr-upgrade.service` runs. It carries out what it was asked for, or, started by hand, what is next.

use std::path::Path;

use anyhow::{Context as _, anyhow};

use super::{Outcome, Session, back, follow, run};
use crate::cli::{Target, Word};
use crate::deployment::installed_code;
use crate::error::{Exit, Failure};
use crate::files::Root;
use crate::journal::Phase;
use crate::plan::Plan;
use crate::request::{Asked, Request};
use crate::systemd::{Systemd, notify};
use crate::{journal, logging, ui};

/// Takes the request of who started the service, before anything else is looked at: it says how to print. Whatever is printed from here on can be
/// followed.
///
/// # Errors
/// If the request is not one that can be carried out.
pub(super) fn take(root: &Root) -> anyhow::Result<Option<Request>> {
    let [output, errors] = follow::output_paths();
    root.make_directory(output.parent().unwrap_or(Path::new("/run")), 0o700)?;
    let files = [root.append(&output)?, root.append(&errors)?];
    for file in &files {
        file.set_len(0).context("emptying what was said before")?;
    }
    ui::copy_to(files);
    Request::take(root)
}

pub(super) fn service(session: &mut Session, request: Option<Request>) -> Outcome {
    logging::to_journal();
    let _inhibitor = match Systemd::connect(None) {
        Ok(systemd) => {
            notify::begin();
            systemd.inhibit_shutdown("Barbican is being upgraded; stop it first: systemctl stop keymgr-upgrade")
        }
        Err(error) => {
            return Err(anyhow::Error::from(error).context("this is what keymgr-upgrade.service runs").into());
        }
    };
    notify::status("looking");
    let outcome = carry_out(session, request);
    notify::status(&match &outcome {
        Ok((exit, next)) => format!("{}; next: keymgr-upgrade {next}", exit.state()),
        Err(failure) => format!("{:#}; next: keymgr-upgrade {}", failure.error, failure.next),
    });
    outcome
}

fn carry_out(session: &mut Session, request: Option<Request>) -> Outcome {
    let Some(request) = request else { return by_hand(session) };
    let word = Word { writers_stopped: request.writers_stopped };
    match request.asked {
        Asked::Upgrade { to, fast_forward, plan } => {
            session.shown = Some(plan);
            run::upgrade(session, &Target { to, fast_forward }, word, true)
        }
        Asked::Resume { accept_changes } => run::resume(session, accept_changes, word),
        Asked::Rollback { discard_new_data } => back::rollback(session, discard_new_data, false, word, true),
    }
}

/// `systemctl start`, with nothing asked for: an upgrade to the release of the installed code, or the second half of one that waits for the code
/// that is there. Whatever else is open is for an operator to decide.
fn by_hand(session: &mut Session) -> Outcome {
    let word = Word::default();
    let Some((id, state)) = session.open_run()? else {
        return run::upgrade(session, &Target::default(), word, true);
    };
    match state.phase {
        Phase::Done | Phase::RolledBack => return run::upgrade(session, &Target::default(), word, true),
        Phase::Waiting => {
            let plan = Plan::load(&session.host.root, &journal::run_directory(&id), &state)?;
            if installed_code(&session.host.root, &session.host.settings)?.is(&plan.to) {
                return run::resume(session, false, word);
            }
            let error = anyhow!("run {id} waits for the code of {}, which is not there yet", plan.to);
            return Err(Failure::new(Exit::Interrupted, error).next("resume   (when the code is installed)"));
        }
        Phase::Forward | Phase::RollingBack => {}
    }
    let error =
        anyhow!("run {id} was interrupted{}", if state.phase == Phase::RollingBack { " while going back" } else { "" });
    Err(Failure::new(Exit::Interrupted, error)
        .hint("see why: keymgr-upgrade status")
        .hint("then go on: keymgr-upgrade resume, or go back: keymgr-upgrade rollback")
        .next("status"))
}

/// The options that every verb takes, as the one who asked gave them.
pub(super) fn adopt(global: &mut crate::cli::Global, request: &Request) {
    global.json = request.json;
    global.verbose = request.verbose;
    global.from.clone_from(&request.from);
    global.config_file.clone_from(&request.config_file);
    global.pkcs11_module.clone_from(&request.pkcs11_module);
}
