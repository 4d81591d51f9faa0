//! Package versions of Barbican and versions of Python.

use std::cmp::Ordering;
use std::fmt;

use serde::Deserialize;

/// The upstream part of a package version: numbers, and whether it came before the release.
///
/// Read from PEP 440 (`16.0.0.0rc1`, `20.0.1.dev3`), Debian and Ubuntu (`1:15.0.1-2`,
/// `2:9.0.1-0ubuntu1~cloud0`, `1:7.0.0~rc1-0ubuntu1`) and rpm (`1:15.0.1-1.el9`,
/// `1:16.0.0-0.1.0rc1.el9`) alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    parts: Vec<u32>,
    pre_release: bool,
}

impl Version {
    /// Reads a version; `None` where it does not begin with two numbers and a dot between them,
    /// or where what follows the numbers is not understood.
    pub fn parse(text: &str) -> Option<Version> {
        let text = strip_epoch(text.trim())?;
        let (upstream, revision) = match text.split_once('-') {
            Some((upstream, revision)) => (upstream, Some(revision)),
            None => (text, None),
        };
        let numbers = upstream.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(upstream.len());
        let (numbers, rest) = upstream.split_at_checked(numbers)?;
        // "16.0.0.0rc1": the last number belongs to the release candidate, it is no fourth part.
        let parts = numbers
            .trim_end_matches('.')
            .split('.')
            .take(3)
            .map(|part| part.parse().ok())
            .collect::<Option<Vec<u32>>>()?;
        if parts.len() < 2 {
            return None;
        }
        let pre_release = suffix_is_early(rest)? || revision.is_some_and(revision_is_early);
        Some(Version { parts, pre_release })
    }

    /// Whether this is a milestone, a candidate or a snapshot and not a release.
    pub fn is_pre_release(&self) -> bool {
        self.pre_release
    }

    /// The numbers, most significant first; at least two.
    pub fn parts(&self) -> &[u32] {
        &self.parts
    }

    /// Whether the numbers begin with those of `prefix` ("2014.2", "15").
    pub(super) fn has_prefix(&self, prefix: &[u32]) -> bool {
        self.parts.starts_with(prefix)
    }

    /// Compares the numbers alone, missing ones as zero.
    pub(super) fn cmp_numbers(&self, other: &Version) -> Ordering {
        let length = self.parts.len().max(other.parts.len());
        let padded = |v: &Version| v.parts.iter().copied().chain(std::iter::repeat(0)).take(length).collect::<Vec<_>>();
        padded(self).cmp(&padded(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

/// Drops `1:` (Debian, rpm) or `1!` (PEP 440). An epoch that is not a number is an error.
fn strip_epoch(text: &str) -> Option<&str> {
    match text.split_once([':', '!']) {
        None => Some(text),
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit()) => Some(rest),
        Some(_) => None,
    }
}

/// What follows the numbers of the upstream version: early (`rc1`, `b2`, `.dev3`, `~git...`), or
/// not (nothing, `+dfsg1`, `.post1`, `+git...`). `None`: not understood.
fn suffix_is_early(rest: &str) -> Option<bool> {
    if rest.is_empty() {
        return Some(false);
    }
    if rest.starts_with('~') {
        return Some(true);
    }
    if rest.starts_with('+') {
        return Some(false);
    }
    let rest = rest.trim_start_matches('.').to_ascii_lowercase();
    let word: &str = rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    match word {
        "rc" | "c" | "b" | "beta" | "a" | "alpha" | "dev" | "pre" => Some(true),
        // "5.0.0.post1", "12.0.0.post1.dev3": a development version after the release
        "post" => Some(rest.contains("dev")),
        _ => None,
    }
}

/// The packager's part. rpm puts what Debian writes with `~` here: `0.1.0rc1.el9`,
/// `0.20250401120000.abc1234.el9`.
fn revision_is_early(revision: &str) -> bool {
    let Some(rest) = revision.strip_prefix("0.") else {
        // PEP 440 reads "16.0.0-rc1" as a candidate too.
        return is_mark(revision);
    };
    rest.split('.').any(|part| {
        let letters = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let stamp = letters.is_empty() && part.len() >= 8;
        stamp || is_mark(letters)
    })
}

/// `rc1`, `b2`, `a3`, `dev4`.
fn is_mark(text: &str) -> bool {
    ["rc", "b", "a", "dev"]
        .iter()
        .any(|mark| text.strip_prefix(mark).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())))
}

/// A version of Python, to the minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PythonVersion(
    /// The major number.
    pub u8,
    /// The minor number.
    pub u8,
);

impl TryFrom<String> for PythonVersion {
    type Error = String;

    fn try_from(text: String) -> Result<PythonVersion, String> {
        text.split_once('.')
            .and_then(|(major, minor)| Some(PythonVersion(major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| format!("`{text}` is not a Python version like 3.11"))
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version as packaged, numbers, pre-release.
    const READ: &[(&str, &str, bool)] = &[
        ("15.0.1", "15.0.1", false),
        (" 15.0.1\n", "15.0.1", false),
        ("2014.2", "2014.2", false),
        ("2014.2.b3", "2014.2", true),
        ("2014.2.rc1", "2014.2", true),
        ("2015.1.0rc3", "2015.1.0", true),
        ("1.0.0a0", "1.0.0", true),
        ("1.0.0.0b2", "1.0.0", true),
        ("16.0.0.0rc1", "16.0.0", true),
        ("20.0.1.dev3", "20.0.1", true),
        ("20.0.0.0rc2.dev7", "20.0.0", true),
        ("20.0.0.post1", "20.0.0", false),
        ("20.0.0.post1.dev2", "20.0.0", true),
        ("20.0.0+local.3", "20.0.0", false),
        ("1!20.0.0", "20.0.0", false),
        ("20.0.0-rc1", "20.0.0", true),
        // Debian and Ubuntu
        ("1:15.0.1-2", "15.0.1", false),
        ("1:15.0.1-2+deb12u1", "15.0.1", false),
        ("1:20.0.0-3", "20.0.0", false),
        ("1:20.0.0-0.1", "20.0.0", false),
        ("1:7.0.0~rc1-1", "7.0.0", true),
        ("1:7.0.0~rc1-0ubuntu1", "7.0.0", true),
        ("2:9.0.1-0ubuntu1~cloud0", "9.0.1", false),
        ("1:12.0.0+dfsg1-1ubuntu0.1~cloud0", "12.0.0", false),
        ("1:14.0.0~git2021120811.5b5bb1a1-0ubuntu1", "14.0.0", true),
        ("1:20.0.0+git2025032012.0d9a0bb1-0ubuntu1", "20.0.0", false),
        ("1:2014.2-1~bpo70+1", "2014.2", false),
        // rpm
        ("15.0.1-1.el9", "15.0.1", false),
        ("1:15.0.1-1.el9", "15.0.1", false),
        ("1:18.0.0-2.el9s", "18.0.0", false),
        ("0:5.0.1-1.el7", "5.0.1", false),
        ("1:16.0.0-0.1.0rc1.el9", "16.0.0", true),
        ("1:4.0.0-0.3.0rc2.el7", "4.0.0", true),
        ("20.0.1-0.20250401120000.abc1234.el9", "20.0.1", true),
        ("1:11.0.0-0.1.el8", "11.0.0", false),
    ];

    #[test]
    fn versions_of_every_packager_are_read() {
        for (text, numbers, pre_release) in READ {
            let version = Version::parse(text).unwrap_or_else(|| panic!("{text} is not read"));
            assert_eq!(version.to_string(), *numbers, "{text}");
            assert_eq!(version.is_pre_release(), *pre_release, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_version_is_refused() {
        for text in [
            "",
            "15",
            "15.",
            ".15",
            "1..2",
            "v15.0.1",
            "latest",
            "15.0.1x",
            "15.0.1 final",
            "x:15.0.1",
            ":15.0.1",
            "1:2:15.0.1",
            "-1",
            "99999999999.0",
            "15.0.1\0",
        ] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_compare_with_missing_ones_as_zero() {
        let cmp = |a, b| {
            let (a, b) = (Version::parse(a), Version::parse(b));
            a.zip(b).map(|(a, b)| a.cmp_numbers(&b))
        };
        assert_eq!(cmp("2014.2", "2014.2.0"), Some(Ordering::Equal));
        assert_eq!(cmp("10.0.0", "10.1.0"), Some(Ordering::Less));
        assert_eq!(cmp("10.10.0", "10.9"), Some(Ordering::Greater));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            if let Some(version) = Version::parse(&text) {
                proptest::prop_assert!(version.parts().len() >= 2);
                proptest::prop_assert_eq!(Version::parse(&version.to_string()).map(|v| v.parts), Some(version.parts));
            }
        }
    }
}
