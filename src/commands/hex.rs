//! `db repair-hex`: hexadecimal text, which PostgreSQL holds in place of bytes, back into what Barbican reads.

use anyhow::anyhow;
use serde_json::json;

use super::plan::{number, who};
use super::{Outcome, Session, locks::Locks, run};
use crate::cli::Word;
use crate::db::{Access, HexColumn};
use crate::deployment::{Depth, Site};
use crate::error::{Exit, Failure};
use crate::plan::{Kind, Plan};
use crate::step::{HexRow, Step, hex_rows};

pub(super) fn repair(session: &mut Session, dry_run: bool, word: Word, yes: bool) -> Outcome {
    let lock = if dry_run { None } else { Some(session.lock_alone("db repair-hex")?) };
    let mut deployment = super::any_deployment(session, Depth::Full)?;
    if !dry_run {
        session.nothing_runs(&deployment.site)?;
    }
    let survey = deployment.survey.as_ref().map_err(|why| Failure::new(Exit::Failed, anyhow!(why.clone())))?;
    let rows = hex_rows(&deployment.site.open(Access::ReadOnly)?, survey)?;
    let left = rows.iter().filter(|row| row.left.is_some()).count();
    show(session, &rows, dry_run);
    if rows.is_empty() {
        session.ui.line("No hexadecimal text: nothing to do. Only PostgreSQL makes it.");
    }
    let Some(lock) = lock.filter(|_| rows.len() > left) else {
        session.ui.set("changed", false);
        more_to_come(session, &deployment.site)?;
        return Ok(match (rows.len() - left, left) {
            (0, 0) => (Exit::Done, "kek verify".to_owned()),
            (0, _) => (Exit::Blocked, "kek verify".to_owned()),
            _ => (Exit::Done, "db repair-hex".to_owned()),
        });
    };
    if !session.confirm(yes, "Proceed?", "db repair-hex")? {
        session.ui.line("Nothing was done.");
        return Ok((Exit::Done, "db repair-hex --dry-run".to_owned()));
    }
    let mut locks = Locks::of(lock, word);
    if locks.lock_database(&deployment.site, deployment.revision())? {
        // The baseline is of what the other run left.
        deployment = super::any_deployment(session, Depth::Full)?;
    }
    session.nobody_else(&deployment.site, word, true)?;
    let plan = Plan::of(Kind::Hex, &session.host, &deployment.site, vec![Step::RepairHexText, Step::VerifySecrets]);
    run::begin(session, locks, plan, deployment, &[], &who())
}

/// The rows, counted by column; each one where `all` are wanted, else those that are left alone.
fn show(session: &mut Session, rows: &[HexRow], all: bool) {
    for column in HexColumn::ALL {
        let here: Vec<&HexRow> = rows.iter().filter(|row| row.column == column).collect();
        if here.is_empty() {
            continue;
        }
        let left = here.iter().filter(|row| row.left.is_some()).count();
        let (texts, good) = (number(here.len(), "hexadecimal text"), here.len() - left);
        session.ui.line(format!("{column}: {texts}, {good} of them repairable"));
        for row in here {
            match &row.left {
                None if all => session.ui.paragraph(&format!("{}, {}", row.id, row.of), 2),
                None => {}
                Some(why) => session.ui.paragraph(&format!("{}, {}: left alone: {why}", row.id, row.of), 2),
            }
        }
    }
    if rows.iter().any(|row| row.left.is_none()) {
        session.ui.line("Repairable: what the text stands for decrypts with the configured keys.");
    }
    let list = |left: bool| -> Vec<_> {
        let rows = rows.iter().filter(|row| row.left.is_some() == left);
        rows.map(|r| json!({"column": r.column.to_string(), "id": r.id, "of": r.of, "why": r.left})).collect()
    };
    session.ui.set("repairable", list(false));
    session.ui.set("left_alone", list(true));
}

/// Says whether Barbican goes on making such rows, and what keeps it from it.
pub(super) fn more_to_come(session: &mut Session, site: &Site) -> Result<(), Failure> {
    let cure = site.open(Access::ReadOnly)?.hex_cure().map_err(anyhow::Error::from)?;
    if let Some(cure) = &cure {
        session.ui.paragraph(
            "Barbican on Python 3 writes hexadecimal text into this database, and cannot read it back. Before it starts again, have this done by \
             the owner of the database:",
            0,
        );
        session.ui.line(format!("    {cure}"));
    }
    session.ui.set("cure", cure);
    Ok(())
}
