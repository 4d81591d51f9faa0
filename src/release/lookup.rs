//! Finding a release by what an operator or a package manager calls it.

use super::version::Version;
use super::{Catalogue, Head, Release};

/// A release found by a version.
#[derive(Debug, Clone)]
pub struct Found<'a> {
    /// The release.
    pub release: &'a Release,
    /// The version, as read.
    pub version: Version,
    /// The schema head that this version shipped.
    pub head: &'a Head,
    /// A milestone, candidate or snapshot: for the operator to approve.
    pub pre_release: bool,
}

/// Why a release was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No release has this name.
    #[error("`{given}` is no release of Barbican{}", did_you_mean(.suggestion.as_deref()))]
    UnknownName {
        /// What was asked for.
        given: String,
        /// The nearest name.
        suggestion: Option<String>,
    },
    /// This is not the version of any release.
    #[error("`{0}` is no version of Barbican known to keymgr-upgrade")]
    UnknownVersion(
        /// What was asked for.
        String,
    ),
    /// The version is of the time before the first release of the catalogue.
    #[error("Barbican {given} is older than {first}, the oldest release keymgr-upgrade knows")]
    TooOld {
        /// What was asked for.
        given: String,
        /// Name of the first release.
        first: String,
    },
    /// The version is above the catalogue.
    #[error(
        "Barbican {given} is newer than {last}, the newest release this keymgr-upgrade knows: \
         it takes a newer keymgr-upgrade"
    )]
    TooNew {
        /// What was asked for.
        given: String,
        /// Name of the last release.
        last: String,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Up to Kilo a version began with the year; a number from here on is one of those.
const FIRST_YEAR: u32 = 2000;

impl Catalogue {
    /// The release of this id (its folder).
    pub fn by_id(&self, id: &str) -> Option<&Release> {
        self.releases().iter().find(|release| release.id == id)
    }

    /// The release that an operator means: by id, name, code name, series, tag or version, letter
    /// case aside ("mitaka", "Antelope", "2023.1", "2014.2", "2.0.0", "juno-eol").
    ///
    /// # Errors
    ///
    /// [`LookupError`], with the nearest name where there is one.
    pub fn by_name(&self, given: &str) -> Result<&Release, LookupError> {
        let given = given.trim();
        let found = self.releases().iter().find(|release| {
            names(release).any(|name| name.eq_ignore_ascii_case(given))
                || release.tags.iter().any(|tag| tag.eq_ignore_ascii_case(given))
        });
        if let Some(release) = found {
            return Ok(release);
        }
        if given.starts_with(|c: char| c.is_ascii_digit()) {
            match self.by_version(given) {
                Ok(found) => return Ok(found.release),
                Err(LookupError::UnknownVersion(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let suggestion = self
            .releases()
            .iter()
            .flat_map(names)
            .map(|name| (distance(&name.to_ascii_lowercase(), &given.to_ascii_lowercase()), name))
            .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, name)| name.to_owned());
        Err(LookupError::UnknownName { given: given.to_owned(), suggestion })
    }

    /// The release of a package version, be it upstream's, Debian's, Ubuntu's or an rpm's.
    ///
    /// # Errors
    ///
    /// [`LookupError`] where no release has it, or where it lies below or above the catalogue.
    pub fn by_version(&self, given: &str) -> Result<Found<'_>, LookupError> {
        let unknown = || LookupError::UnknownVersion(given.to_owned());
        let version = Version::parse(given).ok_or_else(unknown)?;
        let found =
            self.releases().iter().find(|r| r.version_prefix().is_some_and(|prefix| version.has_prefix(&prefix)));
        if let Some(release) = found {
            let head = release.head_for_version(&version).ok_or_else(unknown)?;
            let pre_release = version.is_pre_release();
            return Ok(Found { release, version, head, pre_release });
        }
        let (first, last) = match self.releases() {
            [first, .., last] => (first, last),
            _ => return Err(unknown()),
        };
        let number = |v: Option<&u32>| v.copied().unwrap_or(0);
        let major = number(version.parts().first());
        let newest = number(last.version_prefix().unwrap_or_default().first());
        let oldest = first.version_prefix().unwrap_or_default();
        let given = given.to_owned();
        if major > newest && major < FIRST_YEAR {
            Err(LookupError::TooNew { given, last: last.name.clone() })
        } else if major >= FIRST_YEAR && version.parts() < oldest.as_slice() {
            Err(LookupError::TooOld { given, first: first.name.clone() })
        } else {
            Err(unknown())
        }
    }

    /// The schema head that a version of Barbican shipped.
    ///
    /// # Errors
    ///
    /// As [`Catalogue::by_version`].
    pub fn head_for_version(&self, version: &str) -> Result<&Head, LookupError> {
        self.by_version(version).map(|found| found.head)
    }

    /// The releases some version of which has `revision` as its head: those that a database at
    /// this revision can belong to. Empty for a revision in mid-hop and for an unknown one.
    pub fn releases_with_head(&self, revision: &str) -> Vec<&Release> {
        self.releases().iter().filter(|release| release.heads.iter().any(|head| head.revision == revision)).collect()
    }

    /// The release that brought `revision`; `None` where no release did.
    pub fn release_of_revision(&self, revision: &str) -> Option<&Release> {
        self.releases().iter().find(|release| release.revisions.iter().any(|r| r == revision))
    }

    /// Every schema revision, oldest first, with the release that brought it.
    pub fn chain(&self) -> impl Iterator<Item = (&Release, &str)> {
        self.releases().iter().flat_map(|release| release.revisions.iter().map(move |r| (release, r.as_str())))
    }
}

fn names(release: &Release) -> impl Iterator<Item = &str> {
    [&release.id, &release.name, &release.code_name]
        .into_iter()
        .map(String::as_str)
        // "2014.2" is a series; "15" alone is too little to be sure of
        .chain(release.version.contains('.').then_some(release.version.as_str()))
}

/// The number of letters to insert, remove or replace to come from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.bytes().zip(row.iter().skip(1).copied()) {
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            diagonal = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
