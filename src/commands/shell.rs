//! `plan --as-shell`: the plan as a procedure to do by hand, which a shell can run.

use super::look::Look;
use super::plan::{diffs_with, revisions_of};
use super::{Session, globals};
use crate::db::{Access, Dialect, shell_word};
use crate::deployment::hook_path;
use crate::error::Failure;
use crate::step::Step;

/// The procedure, line by line.
///
/// It stops at the first command that fails. Statements and edits are the very ones of the plan; only what needs the token is left to this program.
pub(super) fn procedure(session: &Session, look: &Look, sql: &[(String, Vec<String>)]) -> Result<Vec<String>, Failure> {
    let draft = look.draft()?;
    let database = look.deployment.site.open(Access::ReadOnly)?;
    let dialect = database.dialect();
    let (client, dump) = database.by_hand().map_err(anyhow::Error::from)?;
    let words = globals(&session.global).into_iter().map(|word| shell_word(&word));
    let ours = std::iter::once("keymgr-upgrade".to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    // Lines around a change may hold secrets, and would then not be found in the file.
    let diffs = diffs_with(&draft.files, look.to, 0)?;
    let way = format!("{} -> {}", look.deployment.from.release.name, look.to.name);
    let mut lines = vec![
        format!("# {way}, by hand. As root; it stops at the first command that fails."),
        "set -eu".to_owned(),
        "backup=$(mktemp -d /var/tmp/barbican-before.XXXXXX)".to_owned(),
        "echo \"Backups go to $backup\"".to_owned(),
    ];
    let mut signed = false;
    for (index, step) in draft.plan.steps.iter().enumerate() {
        lines.extend([String::new(), format!("# {}. {}", index + 1, step.title())]);
        match step {
            step if !session.host.root.is_host() && step.is_about_services() => {
                lines.push("# nothing runs in an image".to_owned());
            }
            Step::RunHooks { when, phase, hooks } => lines.extend(hooks.iter().map(|name| {
                let path = shell_word(&hook_path(*when, name).display().to_string());
                format!("{path} {} {} {phase}", draft.plan.from, draft.plan.to)
            })),
            Step::StopUnits { units } if units.is_empty() => lines.push("# none runs".to_owned()),
            Step::StopUnits { units } => lines.push(format!("systemctl stop {}", units.join(" "))),
            Step::StartUnits { units } => lines.push(format!("systemctl start {}", units.join(" "))),
            Step::VerifyService { units } => lines.push(format!("systemctl is-active {}", units.join(" "))),
            Step::HoldUnits { units } => lines.push(format!("systemctl mask --runtime {}", units.join(" "))),
            Step::UnholdUnits { units, .. } => lines.push(format!("systemctl unmask --runtime {}", units.join(" "))),
            Step::BackUpDatabase { .. } => lines.push(dump.clone()),
            Step::AwaitCode { release } => lines.push(format!("# install the code of {release} here, then go on")),
            Step::MigrateSchema { .. } => migration(dialect, &client, step, sql, &mut lines),
            Step::ResignKeks | Step::RecordMechanism if signed => {
                lines.push("# done by `kek migrate` above".to_owned())
            }
            Step::ResignKeks | Step::RecordMechanism => {
                signed = true;
                lines.push("# needs the token; no tool of Barbican does it".to_owned());
                lines.push(format!("{ours} kek migrate --yes"));
            }
            Step::EditFile { path, .. } => {
                let file = path.display().to_string();
                lines.push(format!(
                    "cp -a {} \"$backup\"",
                    shell_word(&session.host.root.shown(path).display().to_string())
                ));
                if let Some((_, text)) = diffs.iter().find(|(p, _)| *p == file) {
                    edit(&session.host.root.path().display().to_string(), text, &mut lines);
                }
            }
            Step::RepairHexText => lines.push(format!("{ours} db repair-hex --yes")),
            Step::VerifyKeks => lines.push(format!("{ours} kek status")),
            Step::VerifySecrets => lines.push(format!("{ours} kek verify")),
            Step::RecordRelease { .. } => lines.push("# nothing by hand; say --from next time".to_owned()),
        }
    }
    Ok(lines)
}

/// One transaction, as `upgrade` makes it, where the database has such ones.
fn migration(dialect: Dialect, client: &str, step: &Step, sql: &[(String, Vec<String>)], lines: &mut Vec<String>) {
    let (begin, end): (&[&str], &[&str]) = match dialect {
        Dialect::Sqlite => (
            &[".bail on", "PRAGMA foreign_keys = OFF;", "PRAGMA legacy_alter_table = OFF;", "BEGIN IMMEDIATE;"],
            &["COMMIT;", "PRAGMA foreign_key_check;"],
        ),
        Dialect::Postgresql => (&[], &[]),
        Dialect::Mysql => (&["SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';"], &[]),
    };
    lines.push(format!("{client} <<'SQL'"));
    lines.extend(begin.iter().map(|l| (*l).to_owned()));
    for (revision, statements) in revisions_of(step, sql) {
        lines.push(format!("-- {revision}"));
        for statement in statements {
            lines.extend(statement.trim_end().lines().map(str::to_owned));
            if let Some(last) = lines.last_mut().filter(|l| !l.ends_with(';')) {
                last.push(';');
            }
        }
    }
    lines.extend(end.iter().map(|l| (*l).to_owned()));
    lines.push("SQL".to_owned());
}

fn edit(root: &str, diff: &str, lines: &mut Vec<String>) {
    let changed =
        |l: &&str| (l.starts_with('-') || l.starts_with('+')) && !l.starts_with("---") && !l.starts_with("+++");
    if diff.lines().filter(changed).any(|l| l.contains("***")) {
        lines.push("# *** stands for a secret: put it in its place first".to_owned());
    }
    lines.push(format!("patch --binary -p1 -d {} <<'PATCH'", shell_word(root)));
    lines.extend(diff.lines().map(str::to_owned));
    lines.push("PATCH".to_owned());
}
