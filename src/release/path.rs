//! The way from one release to another.

use super::{Catalogue, Release};

/// Which ways are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One release at a time, as Barbican's upgrade guide demands.
    Sequential,
    /// One release at a time, or from one SLURP release to the next.
    Slurp,
    /// Any distance forward, every release in between carried out in order.
    FastForward,
}

/// Why there is no way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The way would leave out releases.
    #[error("{from} -> {to} skips {}", missing.join(", "))]
    Skip {
        /// Name of the release now.
        from: String,
        /// Name of the release wanted.
        to: String,
        /// Names of the releases in between, in order.
        missing: Vec<String>,
        /// What the operator can do, one instruction a line.
        hint: Vec<String>,
    },
    /// The target is older.
    #[error("{from} -> {to} is a downgrade")]
    Downgrade {
        /// Name of the release now.
        from: String,
        /// Name of the release wanted.
        to: String,
    },
    /// It is the same release.
    #[error("already at {0}")]
    Same(
        /// Its name.
        String,
    ),
}

impl PathError {
    /// What the operator can do, one instruction a line.
    pub fn hints(&self) -> Vec<String> {
        match self {
            PathError::Skip { hint, .. } => hint.clone(),
            PathError::Downgrade { .. } => {
                vec!["a finished upgrade is undone from its own backup: keymgr-upgrade rollback".into()]
            }
            PathError::Same(_) => Vec::new(),
        }
    }
}

impl Catalogue {
    /// The releases whose items a hop from `from` to `to` carries out, in order, `to` last. What
    /// a SLURP or fast-forward hop passes over is in it, since its items apply all the same.
    ///
    /// # Errors
    ///
    /// [`PathError`] where `mode` does not allow the hop.
    pub fn path(&self, from: &Release, to: &Release, mode: Mode) -> Result<Vec<&Release>, PathError> {
        if from.order == to.order {
            return Err(PathError::Same(to.name.clone()));
        }
        if to.is_before(from) {
            let (from, to) = (from.name.clone(), to.name.clone());
            return Err(PathError::Downgrade { from, to });
        }
        let way: Vec<&Release> = self.releases().iter().filter(|r| from.is_before(r) && !to.is_before(r)).collect();
        let one_step = way.len() == 1;
        let slurp = from.slurp && to.slurp_predecessor.as_ref() == Some(&from.id);
        match mode {
            Mode::FastForward => Ok(way),
            Mode::Slurp if one_step || slurp => Ok(way),
            Mode::Sequential if one_step => Ok(way),
            Mode::Slurp | Mode::Sequential => Err(skip(from, to, &way, slurp)),
        }
    }
}

fn skip(from: &Release, to: &Release, way: &[&Release], slurp: bool) -> PathError {
    let missing: Vec<&Release> = way.iter().copied().filter(|r| r.is_before(to)).collect();
    let mut hint = Vec::new();
    if let Some(next) = missing.first() {
        hint.push(format!("go to {next} first: keymgr-upgrade upgrade --to {}", next.id));
    }
    if slurp {
        hint.push("or allow SLURP to SLURP: path = slurp in keymgr-upgrade.conf".into());
    }
    hint.push(format!("or allow it once: keymgr-upgrade approve --to {} --fast-forward", to.id));
    PathError::Skip {
        from: from.name.clone(),
        to: to.name.clone(),
        missing: missing.iter().map(|r| r.name.clone()).collect(),
        hint,
    }
}
