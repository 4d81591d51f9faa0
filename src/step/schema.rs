//! Steps on the database as a whole: its backup, and the schema.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Context, Known, Observed, Undo};
use crate::crash;
use crate::db::{self, Access, Cursor, Database, Dialect, Ledger, Part};
use crate::deployment::Site;
use crate::files::Root;
use crate::journal::private;

const ABOUT: &str = "backup/database.json";
const KEKS: &str = "kek_data.json";
const SUMS: &str = "SHA256SUMS";

/// What is kept beside a backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Format of this file: 1 (of SQLite only, without what came with 2), 2 or 3.
    pub format: u32,
    /// The dialect, as files in `migrations/` spell it.
    #[serde(default = "sqlite")]
    pub dialect: String,
    /// The product and version that served it; empty in format 1.
    #[serde(default)]
    pub server: String,
    /// The database it was taken of, without a password.
    pub database: String,
    /// Revision at that time.
    pub revision: String,
    /// Fingerprint of schema and rows.
    pub fingerprint: String,
    /// Of the schema alone; empty where it was not taken.
    #[serde(default)]
    pub schema: String,
    /// Rows of each table; empty in format 1.
    #[serde(default)]
    pub rows: BTreeMap<String, u64>,
    /// SHA-256 of the file.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of the files beside it, by name; none in format 1.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// The tables that it is of, and their fingerprint; none where it is of all. Came with format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<(Part, String)>,
}

fn sqlite() -> String {
    Dialect::Sqlite.name().to_owned()
}

impl About {
    const FORMAT: u32 = 3;

    /// The name of the copy itself.
    #[must_use]
    pub fn copy(&self) -> &'static str {
        copy_name(&self.dialect)
    }

    /// Every file of the backup, this description excepted.
    #[must_use]
    pub fn all_files(&self) -> Vec<String> {
        let beside = self.files.keys().cloned();
        [self.copy().to_owned()].into_iter().chain(beside).chain((self.format > 1).then(|| SUMS.to_owned())).collect()
    }

    /// Whether the database has another schema than was copied.
    fn is_of_other_schema(&self, database: &Database) -> Result<bool> {
        Ok(!self.schema.is_empty() && database.schema_digest()? != self.schema)
    }

    fn sums(&self) -> String {
        let beside = self.files.iter().map(|(name, digest)| format!("{digest}  {name}\n"));
        format!("{}  {}\n{}", self.digest, self.copy(), beside.collect::<String>())
    }
}

fn copy_name(dialect: &str) -> &'static str {
    match dialect {
        "postgresql" => "database.pgdump",
        "mysql" => "database.sql",
        _ => "database.sqlite",
    }
}

/// Text for whoever has to restore without this tool: `commands` do it in `directory`.
fn restore_text(about: &About, directory: &Path, commands: &str) -> String {
    let indented = |text: &str| text.lines().map(|line| format!("      {line}\n")).collect::<String>();
    let only = about.part.as_ref().map_or_else(String::new, |(part, _)| {
        format!("Tables:      {part}\n             Of all others there is no copy: they must be as they were.\n")
    });
    let how = match about.dialect.as_str() {
        "sqlite" => "INTO the file, not over it: a leftover -wal would\n   undo a replaced file. Owner and mode stay",
        "postgresql" => {
            "in one transaction: Barbican's tables are dropped and\n   made anew, all others stay. The password is asked for; it is in barbican.conf"
        }
        _ => {
            "Barbican's tables are dropped and made anew, all\n   others stay. If it is cut short, do it again. The password is asked for; it\n   is in barbican.conf"
        }
    };
    format!(
        "How to put this database back by hand, without keymgr-upgrade\n\n\
         Database:    {}\nServer:      {}\nRevision:    {}\n{only}\n\
         1. Stop every barbican service on every host, and see that they are stopped.\n\n\
         2. Go to this directory and check the copy:\n\n{}\n\
         3. Put it back, {how}:\n\n{}\n\
         4. Put back the files whose copies lie here as files!PATH, with ! for /.\n\n\
         5. Remove the holds:\n\
         \x20  /etc/systemd/system/*barbican*.service.d/zzz-keymgr-upgrade-hold.conf\n\
         \x20  then systemctl daemon-reload, and start the services.\n\n\
         {KEKS} holds the keys' own rows, wrapped as they are in the database:\n\
         id, plugin, project and plugin_meta of each.\n\n\
         This copy holds the ciphertext of every secret. Where simple_crypto is used,\n\
         the key is in barbican.conf, and so perhaps in files!...: guard them together.\n",
        about.database,
        about.server,
        about.revision,
        indented(&format!("cd {} &&\nsha256sum -c {SUMS}", db::shell_word(&directory.display().to_string()))),
        indented(commands),
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
    let about =
        if context.known.backup_is_whole { about(context.root(), &context.directory)? } else { check_backup(context)? };
    context.known.backup_is_whole = true;
    let database = context.site.open(Access::ReadOnly)?;
    // Rows that came after the copy belong into it; where somebody moved the schema meanwhile, the copy is the way back, and stays.
    if revision(&database)? == about.revision {
        let now = match context.known.fingerprint.take() {
            Some(known) => known,
            None => database.fingerprint()?,
        };
        if now != about.fingerprint {
            if about.is_of_other_schema(&database)? {
                // It is the only copy of what was there: one that is half migrated may not take its place.
                bail!(
                    "the schema is not that of the copy any more, though alembic_version still says {}: somebody else's migration stopped half way; \
                     a rollback puts the copy back",
                    about.revision
                );
            }
            return Ok(Observed::Before);
        }
        context.known.fingerprint = Some(now);
    } else {
        context.known.fingerprint = None;
    }
    let part = about.part.as_ref().map_or_else(String::new, |(part, _)| format!("; {part}"));
    Ok(Observed::After(format!("{}, digest checked{part}", size(about.size))))
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

/// What is written of the backup of the run.
fn about(root: &Root, directory: &Path) -> Result<About> {
    let about: About = root.read_json(&directory.join(ABOUT))?;
    if about.format > About::FORMAT {
        bail!("the backup was taken by a newer keymgr-upgrade: use that one");
    }
    Ok(about)
}

/// The backup of the run, if it is whole.
pub(super) fn check_backup(context: &Context<'_>) -> Result<About> {
    checked(context.root(), &context.directory)
}

/// The copy in the backup of the run in this directory, on this host, if the backup is whole.
///
/// # Errors
/// If it is not.
pub fn copy_of_backup(root: &Root, directory: &Path) -> Result<PathBuf> {
    let about = checked(root, directory)?;
    Ok(root.real_path(&directory.join("backup"))?.join(about.copy()))
}

fn checked(root: &Root, directory: &Path) -> Result<About> {
    let about = about(root, directory)?;
    let of_copy = (&about.digest, about.copy());
    for (wanted, name) in about.files.iter().map(|(name, digest)| (digest, name.as_str())).chain([of_copy]) {
        let file = directory.join("backup").join(name);
        let shown = root.shown(&file);
        if !root.exists(&file) {
            bail!("backup {} is missing", shown.display());
        }
        if digest_of(&root.real_path(&file)?)?.0 != *wanted {
            bail!("backup {} is damaged: its digest is not the one taken with it", shown.display());
        }
    }
    Ok(about)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 and size of a file, however large it is.
fn digest_of(path: &Path) -> Result<(String, u64)> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 18];
    loop {
        let count = file.read(&mut piece).with_context(reading)?;
        if count == 0 {
            return Ok((hex(hash), size));
        }
        hash.update(piece.get(..count).unwrap_or_default());
        size += count as u64;
    }
}

/// Writes the keys' own rows as a file of their own, without which no secret can ever be read, and returns its digest.
fn write_keks(context: &Context<'_>, database: &Database) -> Result<String> {
    let mut hash = Sha256::new();
    context.root().write_from(&context.file(&format!("backup/{KEKS}")), private(), |file| {
        let mut put = |text: &str| -> Result<()> {
            hash.update(text);
            Ok(file.write_all(text.as_bytes())?)
        };
        let (mut cursor, mut first) = (Cursor::default(), true);
        loop {
            let page = database.kek_page(&mut cursor)?;
            if page.is_empty() {
                return put(if first { "[]" } else { "\n]" });
            }
            let mut text = String::new();
            for row in page {
                text.push_str(if first { "[\n  " } else { ",\n  " });
                first = false;
                let row = json!({"id": row.id, "plugin_name": row.plugin_name, "project_id": row.project_id, "plugin_meta": row.plugin_meta});
                text.push_str(&row.to_string());
            }
            put(&text)?;
        }
    })?;
    Ok(hex(hash))
}

pub(super) fn back_up(context: &mut Context<'_>, touched: Option<&(String, String)>) -> Result<()> {
    let database = context.site.open(Access::ReadOnly)?;
    let dialect = database.dialect().name().to_owned();
    let copy = copy_name(&dialect);
    let directory = context.root().real_path(&context.file("backup"))?;
    // Without a description what lies there is no backup: one that is cut short while an older one is replaced is taken again.
    context.root().remove(&context.file(ABOUT))?;
    context.known = Known::default();
    let part = match touched {
        Some((from, to)) => database.touched(from, to)?,
        None => None,
    };
    let backing = "backing up the database";
    let (fingerprint, part) = match part {
        Some(part) => {
            let of_part = database.backup_part_to(&directory.join(copy), &part).context(backing)?;
            (database.fingerprint()?, Some((part, of_part)))
        }
        None => (database.backup_to(&directory.join(copy)).context(backing)?, None),
    };
    crash::point("backup copied");
    let (digest, size) = digest_of(&directory.join(copy))?;
    let mut files = BTreeMap::from([(KEKS.to_owned(), write_keks(context, &database)?)]);
    if database.dialect() != Dialect::Sqlite {
        files.insert(db::FIRST.to_owned(), digest_of(&directory.join(db::FIRST))?.0);
    }
    let about = About {
        format: About::FORMAT,
        dialect,
        server: database.server()?,
        database: context.site.shown(),
        revision: revision(&database)?,
        fingerprint,
        schema: database.schema_digest()?,
        rows: database.row_counts()?,
        digest,
        size,
        files,
        part,
    };
    let text = restore_text(&about, &directory, &database.restore_commands(copy)?);
    let write = |name: &str, bytes: &[u8]| context.root().write(&context.file(name), bytes, private());
    write(&format!("backup/{SUMS}"), about.sums().as_bytes())?;
    write("backup/RESTORE.txt", text.as_bytes())?;
    write(ABOUT, &serde_json::to_vec_pretty(&about)?)?;
    // A server's was taken of what it holds, after the copy; a file's is that of the copy.
    context.known.fingerprint = Some(about.fingerprint).filter(|_| database.dialect() != Dialect::Sqlite);
    Ok(())
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
        if !context.known.backup_is_whole {
            check_backup(context)?;
        }
        context.known.backup_is_whole = true;
        Ok(Undo::Database)
    } else {
        Ok(Undo::Nothing)
    }
}

pub(super) fn apply(context: &mut Context<'_>, from: &str, to: &str) -> Result<()> {
    let mut database = context.site.open(Access::ReadWrite)?;
    let now = revision(&database)?;
    let from = if database.dialect() == Dialect::Mysql { &now } else { from };
    let migrated = database.migrate(Some(from), to, context.settings().orphans)?;
    for dangling in &migrated.dangling {
        log::warn!("reference to nowhere, as before: {dangling}");
    }
    Ok(())
}

/// Refuses where the schema was migrated without a copy of what it was.
pub(super) fn not_migrated(context: &Context<'_>, from: &str) -> Result<()> {
    let database = context.site.open(Access::ReadOnly)?;
    let now = revision(&database)?;
    let why = "without a backup, on your own word (backup = none): it cannot be undone";
    if now != from {
        bail!("the schema was migrated from {from} to {now} {why}");
    }
    // Where DDL commits by itself, statements may have run that the ledger does not tell of.
    if database.verify(from)?.matches.is_none() {
        bail!("a migration of the schema from {from} stopped half way, {why}; resume goes on with it");
    }
    Ok(())
}

/// Whether the run has a whole copy of the database.
pub(super) fn has_backup(context: &Context<'_>) -> bool {
    context.root().exists(&context.file(ABOUT))
}

/// Whether the schema is another one than that of the copy of the run in this directory, so that going back puts the copy in its place: one revision
/// may stand for several schemas, and for one that is half migrated. Without a copy nothing is put back.
///
/// # Errors
/// If the database or what is written of the copy cannot be read.
pub fn has_moved(root: &Root, directory: &Path, site: &Site) -> Result<bool> {
    if !root.exists(&directory.join(ABOUT)) {
        return Ok(false);
    }
    let about = about(root, directory)?;
    let database = site.open(Access::ReadOnly)?;
    match database.revision()? {
        Ledger::At(revision) if revision == about.revision => about.is_of_other_schema(&database),
        // Of a restore that was killed on MySQL the ledger is what is missing until its very end.
        _ => Ok(true),
    }
}

/// Restores the copy if somebody else moved the schema since it was taken; what this run's own steps did is theirs to undo.
pub(super) fn restore_moved(context: &mut Context<'_>) -> Result<bool> {
    if has_moved(context.root(), &context.directory, context.site)? { restore(context) } else { Ok(false) }
}

/// Puts the backup of the run in the place of what the database holds, unless that is the same; says whether it was not.
///
/// # Errors
/// If the backup is not whole, not of this database, or what is there afterwards is not what was backed up.
pub fn restore(context: &mut Context<'_>) -> Result<bool> {
    let about = check_backup(context)?;
    if about.database != context.site.shown() {
        bail!(
            "the backup is of {}, the configuration names {}: nothing is restored",
            about.database,
            context.site.shown()
        );
    }
    if let Some((part, of_part)) = &about.part {
        return restore_part(context, &about, part, of_part);
    }
    if context.site.open(Access::ReadOnly)?.fingerprint()? == about.fingerprint {
        return Ok(false);
    }
    let copy: PathBuf = context.root().real_path(&context.file("backup"))?.join(about.copy());
    let restored = if about.dialect == Dialect::Sqlite.name() {
        Database::restore(context.site.path()?, &copy, context.settings().lock_timeout)
    } else {
        context.site.open(Access::ReadWrite)?.restore_from(&copy)
    };
    let by_hand = || format!("restoring the database; RESTORE.txt beside {} says how to by hand", copy.display());
    let restored = restored.with_context(by_hand)?;
    let rows = context.site.open(Access::ReadOnly)?.row_counts()?;
    if restored != about.fingerprint || !about.rows.is_empty() && rows != about.rows {
        bail!("the restored database is not what was backed up; see RESTORE.txt beside {}", copy.display());
    }
    Ok(true)
}

/// Puts back the tables that the migration touched. The others must be as they were: what steps of the run replaced there they have put back by now,
/// and new rows of others may only stay on the operator's word.
fn restore_part(context: &Context<'_>, about: &About, part: &Part, of_part: &str) -> Result<bool> {
    let database = context.site.open(Access::ReadWrite)?;
    // A table that the migration made, and that was not there before, is in no fingerprint of these.
    if database.fingerprint_of(part)? == of_part && !about.is_of_other_schema(&database)? {
        return Ok(false);
    }
    let copy: PathBuf = context.root().real_path(&context.file("backup"))?.join(about.copy());
    let restored = database.restore_part_from(&copy, part);
    let restored =
        restored.with_context(|| format!("restoring the tables that were touched; see {}", copy.display()))?;
    let whole = context.site.open(Access::ReadOnly)?.fingerprint()?;
    let may_differ = context.discard || !context.written;
    if restored != of_part || whole != about.fingerprint && !may_differ {
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
