//! The command line: clap types and help texts, nothing else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// What the help ends with.
const AFTER: &str = "\
Exit codes: 0 done or nothing to do; 1 failed, host as before; 3 blocked by
findings; 4 interrupted or waiting: resume or rollback; 5 rollback failed;
64 wrong usage; 75 another run holds the lock. `check`: 0, 1, 2, 255.";

/// Heading of the options that every verb takes.
const EVERYWHERE: &str = "Options of every verb";

/// Upgrades OpenStack Barbican, the key manager, without losing secrets
#[derive(Debug, Parser)]
#[command(name = "keymgr-upgrade", version, after_help = AFTER, disable_help_subcommand = true)]
#[command(max_term_width = 80)]
pub struct Cli {
    /// What every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// The verb; without one, `status`.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Options of every verb.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Work on the image or chroot below this directory, without systemd
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    /// Show everything, also what is well
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub verbose: bool,
    /// The release the data is at, where it cannot be told
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "RELEASE")]
    pub from: Option<String>,
    /// Barbican's configuration file, inside the root
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// With --root, work on a database that is not in the image
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub allow_network_db: bool,
    /// The PKCS#11 module to use with --root, outside the root
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub pkcs11_module: Option<PathBuf>,
}

/// What the operator says of others.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Word {
    /// Go ahead whatever sessions are on the database: on your word, which is
    /// recorded, nobody else writes to it
    #[arg(long)]
    pub writers_stopped: bool,
}

/// Where to go.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// The release to go to [default: that of the installed code]
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<String>,
    /// Carry out every release in between, in order, in one run
    #[arg(long)]
    pub fast_forward: bool,
}

/// The verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Say where things stand, and what to do next
    Status {
        /// Wait until no run is under way
        #[arg(long)]
        wait: bool,
    },
    /// Look for what would stop or endanger an upgrade; change nothing
    Check(Target),
    /// Show the release notes that apply to this deployment
    Notes {
        /// Where to go.
        #[command(flatten)]
        target: Target,
        /// Also those that do not apply here
        #[arg(long)]
        all: bool,
    },
    /// Show exactly what an upgrade would do
    Plan {
        /// Where to go.
        #[command(flatten)]
        target: Target,
        /// As a unified diff of the files
        #[arg(long, conflicts_with = "as_shell")]
        diff: bool,
        /// As a procedure to do by hand
        #[arg(long)]
        as_shell: bool,
    },
    /// Try an upgrade on a copy of the data, and say how long it will take
    Rehearse {
        /// Where to go.
        #[command(flatten)]
        target: Target,
        /// Take the data from the backup of this run, as in `backup list`
        #[arg(long, value_name = "RUN")]
        backup: Option<String>,
        /// Only remove what a killed rehearsal left
        #[arg(long, conflicts_with_all = ["backup", "to", "fast_forward"])]
        clean: bool,
    },
    /// Approve the critical notes and the plan, for one run within 24 hours
    Approve(Target),
    /// Upgrade
    Upgrade {
        /// Where to go.
        #[command(flatten)]
        target: Target,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
        /// Only have apt fetch the packages, beforehand; nothing is upgraded
        #[arg(long, requires = "to", conflicts_with_all = ["writers_stopped", "yes"])]
        download_only: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Go on with an interrupted run
    Resume {
        /// Go on although the new code asks for what was not planned
        #[arg(long)]
        accept_changes: bool,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
    },
    /// Undo the open run, or the last one
    Rollback {
        /// Lose what was written since the services started again
        #[arg(long)]
        discard_new_data: bool,
        /// Leave a run alone whose directory is lost; nothing is undone
        #[arg(long, conflicts_with = "discard_new_data")]
        abandon: bool,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// List the runs of this host
    History,
    /// The schema, on its own
    #[command(subcommand)]
    Db(Db),
    /// The key-encryption keys, on their own
    #[command(subcommand)]
    Kek(Kek),
    /// The files, on their own
    #[command(subcommand)]
    Config(Config),
    /// The services, on their own
    #[command(subcommand)]
    Units(Units),
    /// The backups
    #[command(subcommand)]
    Backup(Backup),
    /// What keymgr-upgrade.service runs
    #[command(hide = true)]
    Service,
    /// What the hooks of the package manager call
    #[command(hide = true)]
    Hook {
        /// Which one
        #[arg(value_enum)]
        name: Hook,
    },
}

/// The hooks, by what calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Hook {
    /// apt, before it unpacks (DPkg::Pre-Install-Pkgs)
    AptGate,
    /// apt and dpkg, after their work (Post-Invoke)
    AptWork,
    /// dpkg, before its work, where no apt stands above it
    DpkgPre,
    /// dnf's plugin, when it knows what is to be done (resolved)
    DnfGate,
    /// Our rpm's trigger on Barbican's code, before anything is unpacked (%transfiletriggerun)
    RpmBefore,
    /// Our rpm's trigger on Barbican's code, when all is there (%transfiletriggerin)
    RpmAfter,
    /// Our deb's trigger on Barbican's code
    Trigger,
    /// keymgr-upgrade-watch.service
    Watch,
    /// keymgr-upgrade-boot.service
    Boot,
    /// Our package's script after its installation
    Installed,
    /// Our package's script before its removal
    Removal,
}

/// `db` verbs, named as those of barbican-db-manage.
#[derive(Clone, Debug, Subcommand)]
pub enum Db {
    /// Print the revision of the database
    Current,
    /// List all revisions and mark the one of the database
    History,
    /// Migrate the schema, with a backup, to a revision or to the head
    Upgrade {
        /// The revision to go to [default: the newest]
        #[arg(value_name = "REVISION")]
        revision: Option<String>,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Compare the live schema with those known for its revision
    Verify {
        /// List also what differs from a fresh installation: known and harmless, but there
        #[arg(long)]
        fresh: bool,
    },
    /// Repair secrets that PostgreSQL holds as hexadecimal text, unreadable
    RepairHex {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Remove the lock that a run left on a Galera cluster, and nowhere else
    Unlock {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Record a revision without migrating, after proof that the schema has it
    Stamp {
        /// The revision to record
        #[arg(value_name = "REVISION")]
        revision: String,
        /// Record it although the schema does not show it
        #[arg(long)]
        without_proof: bool,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
    },
}

/// `kek` verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Kek {
    /// Count the KEKs by the state of their signature
    Status,
    /// Sign pre-Mitaka KEKs the new way; it is not a rewrap, no key changes
    Migrate {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Sign the others although some KEKs are unreadable
        #[arg(long)]
        accept_unreadable: bool,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Decrypt every secret and say which ones cannot be
    Verify,
    /// Put back the signatures that a run replaced
    Restore {
        /// The run, as in `history` [default: the last that replaced any]
        #[arg(value_name = "RUN")]
        run: Option<String>,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
    },
}

/// `config` verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Config {
    /// Show what would be changed in the files, as a unified diff
    Diff(Target),
    /// Change the files, with backups
    Apply {
        /// Where to go.
        #[command(flatten)]
        target: Target,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Put back the files that a run changed
    Restore {
        /// The run, as in `history` [default: the last that changed any]
        #[arg(value_name = "RUN")]
        run: Option<String>,
    },
}

/// `units` verbs.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Units {
    /// Show the barbican units and whether they are held
    Status,
    /// Stop the barbican units and keep them from starting
    Hold,
    /// Release them, and start those that ran
    Unhold,
}

/// `backup` verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Backup {
    /// List the backups
    List,
    /// Put the database back as it was when the run began
    Restore {
        /// The run, as in `history`
        #[arg(value_name = "RUN")]
        run: String,
        /// What the operator says of others.
        #[command(flatten)]
        word: Word,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Remove all but the newest backups
    Prune {
        /// How many to keep [default: backup_keep of the settings]
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
