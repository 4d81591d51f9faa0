//! Steps on the database as a whole: its backup, and the schema.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Context, Observed, Undo};
use crate::crash;
use crate::db::{self, Access, Database, Dialect, Ledger};
use crate::files::digest;
use crate::journal::private;
use crate::settings::Orphans;

const COPY: &str = "backup/database.sqlite";
const ABOUT: &str = "backup/database.json";

/// What is kept beside a backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Format of this file.
    pub format: u32,
    /// The database it was taken of, without a password.
    pub database: String,
    /// Revision at that time.
    pub revision: String,
    /// Fingerprint of schema and rows.
    pub fingerprint: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Text for whoever has to restore without this tool.
fn restore_text(about: &About) -> String {
    format!(
        "How to put this database back by hand, without keymgr-upgrade\n\n\
         Database:    {}\nRevision:    {}\nSHA-256:     {}  database.sqlite\n\n\
         1. Stop every barbican service on every host, and see that they are stopped.\n\
         2. Check the copy:   sha256sum database.sqlite\n\
         3. Put it back INTO the file, not over it (a leftover -wal would undo a\n\
            replaced file), keeping its owner and mode:\n\
               sqlite3 /path/to/barbican.sqlite \".restore 'database.sqlite'\"\n\
         4. Put back the files whose copies lie here as files!PATH, with ! for /.\n\
         5. Remove the holds: /etc/systemd/system/*barbican*.service.d/zzz-keymgr-upgrade-hold.conf\n\
            then systemctl daemon-reload, and start the services.\n\n\
         This copy holds the ciphertext of every secret. Where simple_crypto is used,\n\
         the key is in barbican.conf, and so perhaps in files/: guard them together.\n",
        about.database, about.revision, about.digest
    )
}

fn revision(database: &Database) -> Result<String> {
    match database.revision()? {
        Ledger::At(revision) => Ok(revision),
        Ledger::NoTable | Ledger::Empty => bail!("the database has no revision: alembic_version is empty or missing"),
    }
}

pub(super) fn observe_backup(context: &mut Context<'_>) -> Result<Observed> {
    let path = context.file(ABOUT);
    if !context.root().exists(&path) {
        return Ok(Observed::Before);
    }
    let about = check_backup(context)?;
    let database = context.site.open(Access::ReadOnly)?;
    // Rows that came after the copy belong into it; where somebody moved the schema meanwhile, the copy is the way back, and stays.
    if revision(&database)? == about.revision && database.fingerprint()? != about.fingerprint {
        return Ok(Observed::Before);
    }
    Ok(Observed::After(format!("{}, digest checked", size(about.size))))
}

/// Bytes for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let bytes = u128::from(bytes);
    let mut shown = (1, "bytes");
    for name in UNITS {
        if bytes >= shown.0 * 1024 {
            shown = (shown.0 * 1024, name);
        }
    }
    let (unit, name) = shown;
    if unit == 1 {
        return format!("{bytes} bytes");
    }
    let tenths = (bytes * 10 + unit / 2) / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// The backup of the run, if it is whole.
pub(super) fn check_backup(context: &Context<'_>) -> Result<About> {
    let about: About = context.root().read_json(&context.file(ABOUT))?;
    let copy = context.file(COPY);
    let shown = context.root().shown(&copy);
    let bytes = context.root().read(&copy)?.with_context(|| format!("backup {} is missing", shown.display()))?.bytes;
    if digest(&bytes) != about.digest {
        bail!("backup {} is damaged: its digest is not the one taken with it", shown.display());
    }
    Ok(about)
}

pub(super) fn back_up(context: &mut Context<'_>) -> Result<()> {
    let copy = context.file(COPY);
    let database = context.site.open(Access::ReadOnly)?;
    let real = context.root().real_path(&context.file("backup"))?.join("database.sqlite");
    let fingerprint = database.backup_to(&real).context("backing up the database")?;
    crash::point("backup copied");
    let contents = context.root().read(&copy)?.context("the backup vanished")?;
    let about = About {
        format: 1,
        database: context.site.shown(),
        revision: revision(&database)?,
        fingerprint,
        digest: digest(&contents.bytes),
        size: u64::try_from(contents.bytes.len())?,
    };
    context.root().write(&context.file("backup/RESTORE.txt"), restore_text(&about).as_bytes(), private())?;
    context.root().write(&context.file(ABOUT), &serde_json::to_vec_pretty(&about)?, private())
}

pub(super) fn observe(context: &mut Context<'_>, from: &str, to: &str) -> Result<Observed> {
    let database = context.site.open(Access::ReadOnly)?;
    let now = revision(&database)?;
    let place = |id: &str| db::position(id).with_context(|| format!("revision {id} is not known"));
    if now == from {
        Ok(Observed::Before)
    } else if place(&now)? >= place(to)? {
        Ok(Observed::After(format!("revision {now}")))
    } else if database.dialect() == Dialect::Mysql && place(&now)? > place(from)? {
        // Each revision is written to alembic_version as soon as it is done: a run that stopped half-way goes on from there.
        Ok(Observed::Before)
    } else {
        Ok(Observed::Foreign(format!(
            "the database is at revision {now}, neither {from} nor {to}: somebody else migrates it; see what, then plan again"
        )))
    }
}

pub(super) fn prepare(context: &mut Context<'_>) -> Result<Undo> {
    if context.root().exists(&context.file(ABOUT)) {
        check_backup(context)?;
        Ok(Undo::Database)
    } else {
        Ok(Undo::Nothing)
    }
}

pub(super) fn apply(context: &mut Context<'_>, from: &str, to: &str) -> Result<()> {
    let orphans = match context.settings().orphans {
        Orphans::Refuse => db::Orphans::Refuse,
        Orphans::Null => db::Orphans::Null,
    };
    let mut database = context.site.open(Access::ReadWrite)?;
    let now = revision(&database)?;
    let from = if database.dialect() == Dialect::Mysql { &now } else { from };
    let migrated = database.migrate(Some(from), to, orphans)?;
    for dangling in &migrated.dangling {
        log::warn!("reference to nowhere, as before: {dangling}");
    }
    Ok(())
}

/// Refuses where the schema was migrated without a copy of what it was.
pub(super) fn not_migrated(context: &Context<'_>, from: &str) -> Result<()> {
    let now = revision(&context.site.open(Access::ReadOnly)?)?;
    if now != from {
        bail!(
            "the schema was migrated from {from} to {now} without a backup, on your own word (backup = none): it cannot be undone"
        );
    }
    Ok(())
}

/// Restores the copy if somebody else moved the schema since it was taken; what this run's own steps did is theirs to undo.
pub(super) fn restore_moved(context: &mut Context<'_>) -> Result<bool> {
    if !context.root().exists(&context.file(ABOUT)) {
        return Ok(false);
    }
    let about: About = context.root().read_json(&context.file(ABOUT))?;
    if revision(&context.site.open(Access::ReadOnly)?)? == about.revision {
        return Ok(false);
    }
    restore(context)
}

pub(super) fn restore(context: &mut Context<'_>) -> Result<bool> {
    let about = check_backup(context)?;
    if about.database != context.site.shown() {
        bail!(
            "the backup is of {}, the configuration names {}: nothing is restored",
            about.database,
            context.site.shown()
        );
    }
    if context.site.open(Access::ReadOnly)?.fingerprint()? == about.fingerprint {
        return Ok(false);
    }
    let copy: PathBuf = context.root().real_path(&context.file(COPY))?;
    let restored = Database::restore(context.site.path()?, &copy, context.settings().lock_timeout)?;
    if restored != about.fingerprint {
        bail!("the restored database is not what was backed up; see RESTORE.txt beside {}", copy.display());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [7, 417_792, 1_503_238_553, u64::MAX].map(size);
        assert_eq!(sizes, ["7 bytes", "408.0 KiB", "1.4 GiB", "16777216.0 TiB"]);
    }
}
