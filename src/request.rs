//! What was asked of the service: the verb with its arguments, who asked, and the plan that was said yes to.
//!
//! Whoever asks leaves a request and starts `keymgr-upgrade.service`, which takes it; so a request is carried out once, or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::Global;
use crate::files::Root;
use crate::journal::{STATE, private};
use crate::time;

/// The format that this program writes and reads.
const FORMAT: u32 = 1;

/// How long a request holds, in seconds. The service takes it at once or never: a start that failed must not come true weeks later.
const HOLDS: u64 = 300;

/// The verb, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Asked {
    /// `upgrade`.
    Upgrade {
        /// `--to`.
        to: Option<String>,
        /// `--fast-forward`.
        fast_forward: bool,
        /// Digest of the plan that was shown; another one is not carried out.
        plan: String,
    },
    /// `resume`.
    Resume {
        /// `--accept-changes`.
        accept_changes: bool,
    },
    /// `rollback`.
    Rollback {
        /// `--discard-new-data`.
        discard_new_data: bool,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Format of this file.
    pub format: u32,
    /// When, in seconds since the epoch.
    pub at: u64,
    /// Who asked.
    pub by: String,
    /// What for.
    pub asked: Asked,
    /// `--writers-stopped`.
    pub writers_stopped: bool,
    /// `--json`.
    pub json: bool,
    /// `--verbose`.
    pub verbose: bool,
    /// `--from`.
    pub from: Option<String>,
    /// `--config-file`.
    pub config_file: Option<PathBuf>,
    /// `--pkcs11-module`.
    pub pkcs11_module: Option<PathBuf>,
}

/// Where it is left.
#[must_use]
pub fn path() -> PathBuf {
    Path::new(STATE).join("request.json")
}

impl Request {
    /// A request of now, by `by`, with the options that every verb takes.
    #[must_use]
    pub fn new(asked: Asked, by: &str, global: &Global) -> Self {
        Self {
            format: FORMAT,
            at: time::now(),
            by: by.to_owned(),
            asked,
            writers_stopped: false,
            json: global.json,
            verbose: global.verbose,
            from: global.from.clone(),
            config_file: global.config_file.clone(),
            pkcs11_module: global.pkcs11_module.clone(),
        }
    }

    /// Leaves it for the service.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn leave(&self, root: &Root) -> Result<()> {
        root.make_directory(Path::new(STATE), 0o700)?;
        root.write(&path(), &serde_json::to_vec_pretty(self)?, private())
    }

    /// Takes the request that was left, if there is one: it is gone then, whatever it says.
    ///
    /// # Errors
    /// If it cannot be read or removed, is of a newer format, or too old.
    pub fn take(root: &Root) -> Result<Option<Self>> {
        let Some(text) = root.read_text(&path())? else { return Ok(None) };
        root.remove(&path())?;
        let request: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a request of this keymgr-upgrade", root.shown(&path()).display()))?;
        if request.format != FORMAT {
            bail!("the request has format {}, this keymgr-upgrade knows {FORMAT}", request.format);
        }
        if !request.holds(time::now()) {
            bail!("a request of {} was never carried out, and is too old to be now", time::stamp(request.at));
        }
        Ok(Some(request))
    }

    /// Who asked just now and has not been heard yet. One that is too old, or cannot be read, counts for nothing.
    #[must_use]
    pub fn waits(root: &Root) -> Option<String> {
        let request: Self = root.read_json(&path()).ok()?;
        request.holds(time::now()).then_some(request.by)
    }

    fn holds(&self, now: u64) -> bool {
        self.at <= now && now < self.at.saturating_add(HOLDS)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn request(at: u64) -> Request {
        let asked = Asked::Upgrade { to: Some("mitaka".into()), fast_forward: true, plan: "p".into() };
        Request {
            format: 1,
            at,
            by: "root".into(),
            asked,
            writers_stopped: false,
            json: true,
            verbose: false,
            from: None,
            config_file: Some("/c".into()),
            pkcs11_module: None,
        }
    }

    #[test]
    fn a_request_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(Request::take(&root).unwrap(), None);
        let request = request(time::now());
        request.leave(&root).unwrap();
        let mode = dir.path().join("var/lib/keymgr-upgrade/request.json").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Request::waits(&root).as_deref(), Some("root"));
        assert_eq!(Request::take(&root).unwrap(), Some(request));
        assert_eq!((Request::take(&root).unwrap(), Request::waits(&root)), (None, None));
    }

    #[test]
    fn what_is_old_or_unheard_of_is_refused_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let old = request(time::now() - HOLDS);
        let newer = Request { format: 2, ..request(time::now()) };
        for (request, why) in [(old, "too old"), (newer, "format 2")] {
            request.leave(&root).unwrap();
            let error = Request::take(&root).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!root.exists(&path()));
        }
        root.write(&path(), b"{\"format\": 1, \"more\": 2}", private()).unwrap();
        assert!(Request::take(&root).unwrap_err().to_string().contains("not a request"));
        assert_eq!(Request::take(&root).unwrap(), None);
    }
}
