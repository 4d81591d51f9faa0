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
        let near = |distance: usize, name: &str| distance <= 1 + name.len() / 4;
        let suggestion = self
            .releases()
            .iter()
            .flat_map(names)
            // However long the text is: what is longer by so much is nothing near.
            .filter(|name| near(given.chars().count().abs_diff(name.len()), name))
            .map(|name| (distance(&name.to_ascii_lowercase(), &given.to_ascii_lowercase()), name))
            .filter(|(distance, name)| near(*distance, name))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> &'static Catalogue {
        Catalogue::embedded().unwrap()
    }

    /// Package version, id of the release, pre-release.
    const VERSIONS: &[(&str, &str, bool)] = &[
        ("2014.2", "juno", false),
        ("2014.2.3", "juno", false),
        ("2014.2.b3", "juno", true),
        ("1:2014.2-1", "juno", false),
        ("2015.1.0", "kilo", false),
        ("2015.1.0rc3", "kilo", true),
        ("1:2015.1.0-1", "kilo", false),
        ("1.0.0", "liberty", false),
        ("1.0.0.0b2", "liberty", true),
        ("1:1.0.0-2", "liberty", false),
        ("2.0.0", "mitaka", false),
        ("1:2.0.0-1", "mitaka", false),
        ("1:2.0.1-0.20160711.el7", "mitaka", true),
        ("3.0.0-1.el7", "newton", false),
        ("3.0.0.0b3", "newton", true),
        ("4.0.0", "ocata", false),
        ("1:4.0.0-0.3.0rc2.el7", "ocata", true),
        ("1:5.0.1-1.el7", "pike", false),
        ("5.0.0", "pike", false),
        ("1:6.0.0-0ubuntu1", "queens", false),
        ("6.0.1", "queens", false),
        ("1:7.0.0-1", "rocky", false),
        ("7.0.0.0rc1", "rocky", true),
        ("8.0.1-1.el7", "stein", false),
        ("2:9.0.1-0ubuntu1~cloud0", "train", false),
        ("9.0.2.dev5", "train", true),
        ("1:10.0.0-0ubuntu0.20.04.1", "ussuri", false),
        ("10.1.0-1.el8", "ussuri", false),
        ("1:11.0.0-3", "victoria", false),
        ("12.0.2", "wallaby", false),
        ("1:12.0.0+dfsg1-1ubuntu0.1~cloud0", "wallaby", false),
        ("13.0.1-2.el8", "xena", false),
        ("1:14.0.0~git2021120811.5b5bb1a1-0ubuntu1", "yoga", true),
        ("1:14.0.2-0ubuntu0.22.04.1", "yoga", false),
        ("1:15.0.1-2", "zed", false),
        ("15.0.1-1.el9", "zed", false),
        ("15.0.0.0rc3", "zed", true),
        ("16.0.2", "2023.1", false),
        ("1:16.0.0-0.1.0rc1.el9", "2023.1", true),
        ("17.0.0-1.el9s", "2023.2", false),
        ("1:18.0.0-0ubuntu1", "2024.1", false),
        ("19.0.0", "2024.2", false),
        ("1:20.0.0-3", "2025.1", false),
        ("20.0.1.dev3", "2025.1", true),
        ("21.0.0", "2025.2", false),
        ("22.0.0.0rc1", "2026.1", true),
        ("1:23.0.0-1", "2026.2", false),
        ("23.1.4", "2026.2", false),
    ];

    #[test]
    fn a_package_version_leads_to_its_release() {
        for (version, id, pre_release) in VERSIONS {
            let found = catalogue().by_version(version).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(found.release.id, *id, "{version}");
            assert_eq!(found.pre_release, *pre_release, "{version}");
        }
        for release in catalogue().releases() {
            assert!(VERSIONS.iter().any(|(_, id, _)| *id == release.id), "{} is not tried", release.id);
        }
    }

    #[test]
    fn a_version_outside_the_catalogue_is_an_error_that_says_why() {
        let error = |version| match catalogue().by_version(version) {
            Ok(found) => panic!("{version} is {}", found.release),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            error("1:24.0.0-1"),
            "Barbican 1:24.0.0-1 is newer than 2026.2, the newest release this keymgr-upgrade knows: it takes a newer \
             keymgr-upgrade"
        );
        for old in ["2014.1", "1:2013.2-1"] {
            assert!(error(old).ends_with("is older than Juno, the oldest release keymgr-upgrade knows"), "{old}");
        }
        for unknown in ["2015.2", "2026.2", "0.1.65", "15", "latest", ""] {
            assert_eq!(error(unknown), format!("`{unknown}` is no version of Barbican known to keymgr-upgrade"));
        }
    }

    #[test]
    fn a_release_answers_to_each_of_its_names() {
        for (name, id) in [
            ("mitaka", "mitaka"),
            ("Mitaka", "mitaka"),
            (" MITAKA ", "mitaka"),
            ("2.0.0", "mitaka"),
            ("2.0.0.0rc1", "mitaka"),
            ("mitaka-eol", "mitaka"),
            ("2014.2", "juno"),
            ("2015.1", "kilo"),
            ("2023.1", "2023.1"),
            ("antelope", "2023.1"),
            ("Hibiscus", "2026.2"),
            ("1:20.0.0-3", "2025.1"),
        ] {
            let release = catalogue().by_name(name).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(release.id, id, "{name}");
        }
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let error = |name| match catalogue().by_name(name) {
            Ok(release) => panic!("{name} is {release}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(error("mitka"), "`mitka` is no release of Barbican; did you mean `mitaka`?");
        assert_eq!(error("2025.3"), "`2025.3` is no release of Barbican; did you mean `2025.1`?");
        assert_eq!(error("Caracall"), "`Caracall` is no release of Barbican; did you mean `Caracal`?");
        assert_eq!(error("icehouse"), "`icehouse` is no release of Barbican");
        assert_eq!(error("keystone"), "`keystone` is no release of Barbican");
        assert_eq!(error(""), "`` is no release of Barbican");
        assert!(error("24.0.0").ends_with("it takes a newer keymgr-upgrade"));
    }

    #[test]
    fn distance_counts_letters() {
        for (a, b, wanted) in [("", "", 0), ("zed", "zed", 0), ("zed", "ze", 1), ("pike", "spike", 1), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
            assert_eq!(distance(b, a), wanted, "{b} {a}");
        }
    }
}
