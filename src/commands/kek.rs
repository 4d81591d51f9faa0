//! `kek`: the key-encryption keys on their own.

use anyhow::anyhow;
use serde_json::json;

use super::locks::Locks;
use super::plan::{number, who};
use super::{Outcome, Session, run, runs};
use crate::cli::{Kek, Word};
use crate::deployment::{Code, Deployment, Depth};
use crate::error::{Exit, Failure};
use crate::journal;
use crate::kek::{Count, Survey};
use crate::plan::{Kind, Plan};
use crate::step::{Context, KEKS, Known, Step, restore_kept};

pub(super) fn kek(session: &mut Session, verb: Kek) -> Outcome {
    match verb {
        Kek::Status => show(session, false),
        Kek::Verify => show(session, true),
        Kek::Migrate { dry_run, accept_unreadable, word, yes } => {
            migrate(session, dry_run, accept_unreadable, word, yes)
        }
        Kek::Restore { run, word } => restore(session, run, word),
    }
}

fn surveyed(deployment: &Deployment) -> Result<&Survey, Failure> {
    deployment.survey.as_ref().map_err(|why| Failure::new(Exit::Failed, anyhow!(why.clone())))
}

fn all(count: Option<&Count>) -> usize {
    count.map_or(0, |count| count.all())
}

fn show(session: &mut Session, secrets: bool) -> Outcome {
    let deployment = super::any_deployment(session, Depth::Full)?;
    let survey = surveyed(&deployment)?;
    session.ui.set("changed", false);
    session.ui.set("keks", json!(survey.kek_counts()));
    session.ui.set("secrets", json!(survey.secret_counts()));
    let mut bad = 0;
    session.ui.line(format!("{:14}{:>8}{:>14}", "KEKs", "live", "soft-deleted"));
    for (name, count) in survey.kek_counts() {
        session.ui.line(format!("  {name:12}{:>8}{:>14}", count.live, count.deleted));
    }
    survey.each_bad_kek(|kek| {
        bad += 1;
        session.ui.paragraph(&format!("KEK {} (project {}): {}", kek.id, kek.project_id, kek.verdict), 2);
    })?;
    if secrets {
        session.ui.line(format!("{:14}{:>8}{:>14}", "secrets", "live", "soft-deleted"));
        for (name, count) in survey.secret_counts() {
            session.ui.line(format!("  {name:12}{:>8}{:>14}", count.live, count.deleted));
        }
        survey.each_bad_secret(|secret| {
            bad += 1;
            session.ui.paragraph(&format!("secret {} (datum {}): {}", secret.secret_id, secret.id, secret.verdict), 2);
            Ok(true)
        })?;
    }
    let hex = all(survey.kek_counts().get("hex-text")) + all(survey.secret_counts().get("hex-text"));
    if hex > 0 {
        let text = "hex-text: hexadecimal text, which Barbican cannot read, but `db repair-hex` can repair: decoded, it was decrypted";
        session.ui.paragraph(text, 0);
    }
    for (plugin, count) in &deployment.elsewhere {
        session.ui.line(format!("not checked: {count} secrets in {plugin}"));
    }
    let old = all(survey.kek_counts().get("old"));
    let next = match (bad, old) {
        (0, _) if hex > 0 => "db repair-hex",
        (0, 0) => "status",
        (0, _) => "kek migrate",
        _ if secrets => "check",
        _ => "kek verify",
    };
    session.ui.set("unreadable", bad + hex);
    Ok((if bad + hex == 0 { Exit::Done } else { Exit::Blocked }, next.to_owned()))
}

/// Code before Mitaka cannot read KEKs that are signed the new way.
fn guard(deployment: &Deployment) -> Result<(), Failure> {
    let old_data = !deployment.from.release.order_at_least("mitaka");
    let old_code = match &deployment.code {
        Code::At { release: Some(id), .. } => !super::release(id)?.order_at_least("mitaka"),
        _ => false,
    };
    if !old_data && !old_code {
        return Ok(());
    }
    let what = if old_data { "the data is" } else { "the installed code is" };
    let error = anyhow!("{what} of before Mitaka, which cannot read KEKs signed the new way");
    let failure = Failure::new(Exit::Blocked, error);
    Err(if old_data { failure.next("upgrade --to mitaka   (or db upgrade first)") } else { failure })
}

fn migrate(session: &mut Session, dry_run: bool, accept_unreadable: bool, word: Word, yes: bool) -> Outcome {
    let lock = if dry_run { None } else { Some(session.lock_alone("kek migrate")?) };
    let mut deployment = super::any_deployment(session, Depth::Full)?;
    let survey = surveyed(&deployment)?;
    if !dry_run {
        session.nothing_runs(&deployment.site)?;
    }
    let old = all(survey.kek_counts().get("old"));
    let without = deployment.facts.p11_mechanisms.as_ref().and_then(|m| m.get("")).copied().unwrap_or(0);
    let bad = survey.bad_kek_count();
    session.ui.line(format!(
        "{} to sign anew, {} without their mechanism, {bad} unreadable",
        number(old, "KEK"),
        number(usize::try_from(without).unwrap_or(usize::MAX), "secret")
    ));
    session.ui.set("old", old);
    session.ui.set("without_mechanism", without);
    session.ui.set("unreadable", bad);
    guard(&deployment)?;
    if bad > 0 && !accept_unreadable {
        return Err(Failure::new(Exit::Blocked, anyhow!("{} cannot be read; all are left alone", number(bad, "KEK")))
            .hint("see which: keymgr-upgrade kek status")
            .hint("go ahead with the others: kek migrate --accept-unreadable")
            .next("kek status"));
    }
    if old == 0 && without == 0 {
        session.ui.line("Nothing to do.");
        session.ui.set("changed", false);
        return Ok((Exit::Done, "kek verify".to_owned()));
    }
    let Some(lock) = lock else {
        session.ui.set("changed", false);
        return Ok((Exit::Done, "kek migrate".to_owned()));
    };
    if !session.confirm(yes, "Proceed?", "kek migrate")? {
        return Ok((Exit::Done, "kek status".to_owned()));
    }
    let mut locks = Locks::of(lock, word);
    if locks.lock_database(&deployment.site, deployment.revision())? {
        // The baseline is of what the other run left.
        deployment = super::any_deployment(session, Depth::Full)?;
    }
    session.nobody_else(&deployment.site, word, true)?;
    let steps = vec![Step::ResignKeks, Step::RecordMechanism, Step::VerifyKeks, Step::VerifySecrets];
    let plan = Plan::of(Kind::Kek, &session.host, &deployment.site, steps);
    run::begin(session, locks, plan, deployment, &[], &who())
}

fn restore(session: &mut Session, wanted: Option<String>, word: Word) -> Outcome {
    let _lock = session.lock_alone("kek restore")?;
    let id = match wanted {
        Some(id) => id,
        None => {
            let mut runs = journal::runs(&session.host.root)?;
            runs.retain(|id| session.host.root.exists(&journal::run_directory(id).join(KEKS)));
            runs.pop()
                .ok_or_else(|| Failure::new(Exit::Failed, anyhow!("no run replaced a KEK signature")).next("history"))?
        }
    };
    runs::load(session, &id).map_err(|f| f.next("history"))?;
    let mut deployment = super::any_deployment(session, Depth::Shallow)?;
    session.nothing_runs(&deployment.site)?;
    let _database = session.alone(&deployment.site, word)?;
    let mut context = Context {
        host: &session.host,
        site: &mut deployment.site,
        directory: journal::run_directory(&id),
        from: String::new(),
        to: String::new(),
        discard: false,
        written: true,
        code_by_others: false,
        known: Known::default(),
    };
    let changed = restore_kept(&mut context)?;
    session.ui.set("changed", changed);
    session.ui.line(format!("KEK signatures as before run {id}{}", if changed { "" } else { " (unchanged)" }));
    Ok((Exit::Done, "kek status".to_owned()))
}
