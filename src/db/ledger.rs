//! `alembic_version`: what it says, and the statements that write it, as alembic would.
use super::{Error, Proof, Result, Shape, Verification, position};

/// How alembic creates its table today. An older one, without the key, is kept as found.
const CREATE: &str = "CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)";

/// What `alembic_version` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ledger {
    /// There is no such table.
    NoTable,
    /// The table has no row.
    Empty,
    /// One row with a known revision.
    At(String),
}

impl Ledger {
    /// The ledger whose table has these rows. Two rows or an unknown id are errors.
    pub(super) fn of(ids: Vec<String>) -> Result<Self> {
        match ids.as_slice() {
            [] => Ok(Self::Empty),
            [id] => position(id).map(|_| Self::At(id.clone())),
            _ => Err(Error::TwoHeads(ids)),
        }
    }

    /// Whether a migration from `from` may begin at this ledger; where that is no revision, `live` must have no table.
    pub(super) fn starts(&self, from: Option<&str>, live: &Shape) -> Result<()> {
        let found = match (from, self) {
            (Some(id), Self::At(found)) if found == id => return Ok(()),
            (_, Self::At(found)) => found.clone(),
            (Some(_), Self::NoTable | Self::Empty) => "no revision".to_owned(),
            (None, Self::NoTable | Self::Empty) => match live.tables.keys().next() {
                None => return Ok(()),
                Some(table) => format!("an unknown one (no ledger, but a table {table})"),
            },
        };
        Err(Error::NotAt { expected: from.unwrap_or("no revision").to_owned(), found })
    }
}

/// The statements that make `now`, as it was read, say `revision`. Two rows cannot be mended by one.
pub(super) fn statements(now: Result<Ledger>, revision: &str) -> Result<Vec<String>> {
    let insert = format!("INSERT INTO alembic_version (version_num) VALUES ('{revision}')");
    let update = |old: &str| {
        let old = old.replace('\'', "''");
        vec![format!("UPDATE alembic_version SET version_num = '{revision}' WHERE version_num = '{old}'")]
    };
    match now {
        Ok(Ledger::NoTable) => Ok(vec![CREATE.to_owned(), insert]),
        Ok(Ledger::Empty) => Ok(vec![insert]),
        Ok(Ledger::At(old)) | Err(Error::UnknownRevision(old)) => Ok(update(&old)),
        Err(other) => Err(other),
    }
}

/// The statements that stamp `revision`, none if it is there already. An unknown revision is what stamping may mend, two of them it cannot;
/// without the operator's word the live schema must be a known one.
pub(super) fn stamp(
    now: Result<Ledger>,
    revision: &str,
    proof: Proof,
    verify: impl FnOnce() -> Result<Verification>,
) -> Result<Vec<String>> {
    if let Err(two @ Error::TwoHeads(_)) = now {
        return Err(two);
    }
    // Also on the operator's word: it must be a revision that is known.
    let Verification { matches, differences, .. } = verify()?;
    if proof == Proof::Verified && matches.is_none() {
        return Err(Error::UnknownShape { revision: revision.to_owned(), differences });
    }
    if now.as_ref().is_ok_and(|now| *now == Ledger::At(revision.to_owned())) {
        return Ok(Vec::new());
    }
    statements(now, revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_cannot_be_read_is_written_only_where_one_row_can_be_mended() {
        let wrong = statements(Err(Error::UnknownRevision("it's".to_owned())), "8c74e2d7f1ff").unwrap();
        assert_eq!(wrong, ["UPDATE alembic_version SET version_num = '8c74e2d7f1ff' WHERE version_num = 'it''s'"]);
        let two = vec!["8c74e2d7f1ff".to_owned(), "0f8c192a061f".to_owned()];
        assert!(matches!(statements(Ledger::of(two), "8c74e2d7f1ff"), Err(Error::TwoHeads(_))));
        assert_eq!(statements(Ok(Ledger::NoTable), "8c74e2d7f1ff").unwrap().len(), 2);
    }
}
