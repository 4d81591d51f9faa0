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

#[cfg(test)]
mod tests {
    use super::*;

    fn path(from: &str, to: &str, mode: Mode) -> Result<String, PathError> {
        let catalogue = Catalogue::embedded().unwrap();
        let way = catalogue.path(catalogue.by_id(from).unwrap(), catalogue.by_id(to).unwrap(), mode)?;
        Ok(way.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn each_mode_allows_its_ways() {
        use Mode::{FastForward, Sequential, Slurp};
        for (from, to, mode, wanted) in [
            ("liberty", "mitaka", Sequential, "mitaka"),
            ("zed", "2023.1", Sequential, "2023.1"),
            ("2023.1", "2023.2", Sequential, "2023.2"),
            ("liberty", "mitaka", Slurp, "mitaka"),
            ("2023.1", "2024.1", Slurp, "2023.2 2024.1"),
            ("2024.1", "2025.1", Slurp, "2024.2 2025.1"),
            ("2025.1", "2026.1", Slurp, "2025.2 2026.1"),
            ("2024.1", "2024.2", Slurp, "2024.2"),
            ("liberty", "mitaka", FastForward, "mitaka"),
            ("liberty", "ocata", FastForward, "mitaka newton ocata"),
            ("zed", "2025.1", FastForward, "2023.1 2023.2 2024.1 2024.2 2025.1"),
        ] {
            assert_eq!(path(from, to, mode).as_deref(), Ok(wanted), "{from} to {to}, {mode:?}");
        }
        assert_eq!(path("juno", "2026.2", FastForward).unwrap().split(' ').count(), 24);
    }

    #[test]
    fn a_skip_names_what_it_leaves_out() {
        let error = path("zed", "2025.1", Mode::Sequential).unwrap_err();
        assert_eq!(error.to_string(), "Zed -> 2025.1 skips 2023.1, 2023.2, 2024.1, 2024.2");
        assert_eq!(
            error.hints(),
            [
                "go to 2023.1 first: keymgr-upgrade upgrade --to 2023.1",
                "or allow it once: keymgr-upgrade approve --to 2025.1 --fast-forward",
            ]
        );
        let error = path("liberty", "ocata", Mode::Sequential).unwrap_err();
        assert_eq!(error.to_string(), "Liberty -> Ocata skips Mitaka, Newton");
        let error = path("2023.1", "2024.1", Mode::Sequential).unwrap_err();
        assert_eq!(error.to_string(), "2023.1 -> 2024.1 skips 2023.2");
        assert!(error.hints().iter().any(|hint| hint.contains("path = slurp")), "{:?}", error.hints());
        assert!(error.hints().iter().all(|hint| hint.len() <= 74), "{:?}", error.hints());
    }

    #[test]
    fn slurp_is_from_one_slurp_release_to_the_next() {
        for (from, to) in [
            ("zed", "2024.1"),    // Zed is none
            ("2023.1", "2025.1"), // the next but one
            ("2023.2", "2025.1"), // does not begin at one
            ("2023.1", "2024.2"), // does not end at one
            ("liberty", "newton"),
        ] {
            let found = path(from, to, Mode::Slurp);
            assert!(matches!(found, Err(PathError::Skip { .. })), "{from} to {to}: {found:?}");
        }
    }

    #[test]
    fn no_way_leads_back_or_nowhere() {
        for mode in [Mode::Sequential, Mode::Slurp, Mode::FastForward] {
            let back = path("zed", "yoga", mode).unwrap_err();
            assert_eq!(back.to_string(), "Zed -> Yoga is a downgrade");
            assert_eq!(path("zed", "zed", mode), Err(PathError::Same("Zed".into())));
        }
    }
}
