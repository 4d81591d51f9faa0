//! Which release the data is at. Several facts say so; they have to agree.

use anyhow::{Result, bail};

use super::code::Code;
use crate::db::Ledger;
use crate::release::{Catalogue, Release};

/// The release the data is at, and how that is known.
#[derive(Clone, Copy, Debug)]
pub struct Identified {
    /// The release.
    pub release: &'static Release,
    /// `recorded`, `schema`, `installed code`, `said`.
    pub how: &'static str,
    /// The schema stands between two releases: somebody's migration was interrupted, or a development version ran.
    pub mid_hop: bool,
    /// The schema is further than the release: of this one at least. Another host has migrated the database since.
    pub ahead: Option<&'static Release>,
}

/// A database that was reached, and does not tell.
const NO_REVISION: &str = "the database has no revision (alembic_version is empty or missing), and nothing else tells which release the data \
    is at: is it Barbican's? Then record the revision with db stamp, which looks for proof";

/// Decides from the operator's word, our own record, the schema's revision and the installed code, in this order.
///
/// The schema may be further than each of them says: another controller has been upgraded, and the files of this one have not. Everything that is
/// done to a file or a row may be done twice, so a word that is too early loses nothing.
///
/// # Errors
/// If they contradict each other, or do not tell. The error says what to do.
pub fn identify(
    said: Option<&'static Release>,
    recorded: Option<&str>,
    ledger: Option<&Ledger>,
    code: &Code,
) -> Result<Identified> {
    let catalogue = Catalogue::embedded()?;
    let (bound, mid_hop) = bound(catalogue, ledger)?;
    let fits = |release: &Release| bound.is_empty() || bound.iter().any(|r| r.id == release.id);
    let ahead = |release: &Release| bound.first().copied().filter(|first| release.is_before(first));
    let goes = |release: &Release| fits(release) || ahead(release).is_some();
    let found = |release, how| Identified { release, how, mid_hop, ahead: ahead(release) };
    let names = || bound.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(", ");
    let revision = || match ledger {
        Some(Ledger::At(revision)) => revision.clone(),
        _ => "unknown".to_owned(),
    };
    if let (Some(release), Some(id)) = (said, recorded)
        && release.id != id
        && catalogue.by_id(id).is_some_and(fits)
    {
        bail!(
            "--from says {release}, but the data is recorded to be at {id}, which its schema fits; \
             if the record is wrong, remove /var/lib/keymgr-upgrade/deployment.json"
        );
    }
    if let Some(release) = said {
        if !goes(release) {
            bail!(
                "the data is not at {release}: schema revision {} belongs to {}; \
                 leave out --from and the setting `release`, or name one of those",
                revision(),
                names()
            );
        }
        return Ok(found(release, "said"));
    }
    if let Some(id) = recorded {
        let Some(release) = catalogue.by_id(id) else {
            bail!("the data is recorded to be at {id}, which this keymgr-upgrade does not know: install a newer one");
        };
        if !goes(release) {
            bail!(
                "the data is recorded to be at {release}, but schema revision {} belongs to {}: say which with --from",
                revision(),
                names()
            );
        }
        return Ok(found(release, "recorded"));
    }
    let installed = installed(catalogue, code);
    if let ([release], true) = (bound.as_slice(), installed.is_none_or(|code| ahead(code).is_none())) {
        return Ok(found(release, "schema"));
    }
    match installed {
        Some(release) if goes(release) => Ok(found(release, "installed code")),
        Some(release) => bail!(
            "the installed code is {release}, but schema revision {} belongs to one of {}: say with --from which one the data is at",
            revision(),
            names()
        ),
        None if bound.is_empty() => bail!(NO_REVISION),
        None => {
            bail!("schema revision {} is the same in {}: say with --from which one the data is at", revision(), names())
        }
    }
}

/// The release of the installed code, if it has one.
fn installed(catalogue: &'static Catalogue, code: &Code) -> Option<&'static Release> {
    match code {
        Code::At { release: Some(id), .. } => catalogue.by_id(id),
        Code::At { release: None, .. } | Code::None | Code::Mixed(_) => None,
    }
}

/// The releases that the schema's revision fits, and whether it stands between two.
fn bound(catalogue: &'static Catalogue, ledger: Option<&Ledger>) -> Result<(Vec<&'static Release>, bool)> {
    let Some(Ledger::At(revision)) = ledger else { return Ok((Vec::new(), false)) };
    let heads = catalogue.releases_with_head(revision);
    if !heads.is_empty() {
        return Ok((heads, false));
    }
    let Some(next) = catalogue.release_of_revision(revision) else {
        bail!("schema revision {revision} is not known: a newer release wrote it, or something else did");
    };
    let before = next.predecessor.as_deref().and_then(|id| catalogue.by_id(id)).unwrap_or(next);
    Ok((vec![before], true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: &str) -> Ledger {
        Ledger::At(revision.to_owned())
    }

    fn code(release: &str) -> Code {
        Code::At {
            release: Some(release.to_owned()),
            unknown: None,
            version: "1".into(),
            how: "dpkg".into(),
            python: None,
        }
    }

    fn release(id: &str) -> Option<&'static Release> {
        Catalogue::embedded().unwrap().by_id(id)
    }

    #[test]
    fn facts_that_agree_name_the_release() {
        for (said, recorded, revision, code, wanted) in [
            (None, None, "4ecde3a3a72a", Code::None, ("liberty", "schema")),
            (None, Some("pike"), "39cf2e645cba", Code::None, ("pike", "recorded")),
            (None, Some("pike"), "39cf2e645cba", code("queens"), ("pike", "recorded")),
            (release("ocata"), None, "39cf2e645cba", Code::None, ("ocata", "said")),
            (release("ocata"), Some("liberty"), "39cf2e645cba", Code::None, ("ocata", "said")),
            (None, None, "8c74e2d7f1ff", code("zed"), ("zed", "installed code")),
            (None, None, "39a96e67e990", Code::None, ("liberty", "schema")),
            (None, None, "30dba269cc64", Code::None, ("kilo", "schema")),
            (None, None, "6a4457517a3", Code::None, ("kilo", "schema")),
            // The last one migrated what others share.
            (None, None, "39cf2e645cba", code("liberty"), ("liberty", "installed code")),
            (None, None, "4ecde3a3a72a", code("kilo"), ("kilo", "installed code")),
            (None, Some("yoga"), "8c74e2d7f1ff", code("yoga"), ("yoga", "recorded")),
            (release("juno"), None, "4ecde3a3a72a", Code::None, ("juno", "said")),
        ] {
            let found = identify(said, recorded, Some(&at(revision)), &code).unwrap();
            assert_eq!((found.release.id.as_str(), found.how), wanted, "{revision}");
            let ahead = match (wanted.0, revision) {
                ("liberty", "39cf2e645cba") => Some("newton"),
                ("kilo" | "juno", "4ecde3a3a72a") => Some("liberty"),
                ("yoga", _) => Some("zed"),
                _ => None,
            };
            assert_eq!(found.ahead.map(|r| r.id.as_str()), ahead, "{revision}");
            assert_eq!(found.mid_hop, revision == "39a96e67e990");
        }
    }

    #[test]
    fn facts_that_do_not_agree_are_an_error() {
        for (said, recorded, revision, code, wanted) in [
            (None, None, "39cf2e645cba", Code::None, "is the same in Newton, Ocata, Pike"),
            (None, None, "39cf2e645cba", code("zed"), "installed code is Zed, but schema revision 39cf2e645cba"),
            (
                release("mitaka"),
                None,
                "4ecde3a3a72a",
                Code::None,
                "not at Mitaka: schema revision 4ecde3a3a72a belongs to Liberty",
            ),
            (None, Some("mitaka"), "4ecde3a3a72a", Code::None, "recorded to be at Mitaka, but"),
            (None, Some("2031.1"), "4ecde3a3a72a", Code::None, "does not know"),
            (release("ocata"), Some("pike"), "39cf2e645cba", Code::None, "--from says Ocata, but the data is recorded"),
            (None, None, "ffffffffffff", Code::None, "ffffffffffff is not known"),
        ] {
            let error = identify(said, recorded, Some(&at(revision)), &code).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let error = identify(None, None, None, &Code::None).unwrap_err().to_string();
        assert!(error.contains("db stamp"), "{error}");
    }
}
