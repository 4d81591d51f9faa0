//! A database on a PostgreSQL or MySQL/MariaDB server: ledger, shape, transactions.
mod migrate;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    Access, Dialect, Ledger, Proof, Result, Shape, Url, Verification, catalog, chain, dump,
    known::Known,
    ledger, lock, position,
    wire::{Row, Wire},
};
use crate::crash;

/// How long one statement waits for a table that others use before it lets them pass and tries again, in seconds.
const LOCK_WAIT: u64 = 5;

/// An open connection.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) wire: Rc<Wire>,
    pub(super) url: Url,
    /// How long to wait for locks in all.
    pub(super) wait: Duration,
    in_transaction: Cell<bool>,
}

/// A session that only looks, kept open from one use to the next.
#[derive(Clone, Debug, Default)]
pub struct Kept(Rc<RefCell<Option<Rc<Wire>>>>);

impl Kept {
    /// The session, if nobody is using it and the server still has it.
    fn free(&self) -> Option<Rc<Wire>> {
        let wire = self.0.borrow().clone()?;
        // One here, one kept.
        (Rc::strong_count(&wire) == 2 && wire.query("SELECT 1").is_ok()).then_some(wire)
    }
}

impl Server {
    /// Opens it to look only, in the session that is `kept`, or one that is kept from now on.
    pub(super) fn look(url: &Url, wait: Duration, kept: &Kept) -> Result<Self> {
        if let Some(wire) = kept.free() {
            return Ok(Self { wire, url: url.clone(), wait, in_transaction: Cell::new(false) });
        }
        let opened = Self::open(url, Access::ReadOnly, wait)?;
        kept.0.replace(Some(Rc::clone(&opened.wire)));
        Ok(opened)
    }

    pub(super) fn open(url: &Url, access: Access, wait: Duration) -> Result<Self> {
        let wire = match access {
            Access::ReadOnly => {
                let wire = Wire::connect(url, lock::READER, wait)?;
                lock::mark(&wire);
                wire
            }
            Access::ReadWrite => Wire::connect(url, lock::WRITER, wait)?,
        };
        let limit = LOCK_WAIT.min(wait.as_secs().max(1));
        match (wire.dialect(), access) {
            (Dialect::Postgresql, Access::ReadOnly) => {
                wire.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")?;
            }
            (_, Access::ReadOnly) => {
                wire.execute("SET SESSION TRANSACTION READ ONLY")?;
            }
            (Dialect::Postgresql, Access::ReadWrite) => {}
            (_, Access::ReadWrite) => {
                wire.execute(&format!("SET SESSION innodb_lock_wait_timeout = {limit}"))?;
            }
        }
        match wire.dialect() {
            Dialect::Postgresql => wire.execute(&format!("SET lock_timeout = '{limit}s'"))?,
            _ => wire.execute(&format!("SET SESSION lock_wait_timeout = {limit}"))?,
        };
        Ok(Self { wire: Rc::new(wire), url: url.clone(), wait, in_transaction: Cell::new(false) })
    }

    pub(super) fn revision(&self) -> Result<Ledger> {
        let there = match self.wire.dialect() {
            Dialect::Postgresql => {
                "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = current_schema() AND c.relname = 'alembic_version'"
            }
            _ => {
                "SELECT 1 FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = 'alembic_version'"
            }
        };
        if self.wire.query(there)?.is_empty() {
            return Ok(Ledger::NoTable);
        }
        let rows = self.wire.query("SELECT version_num FROM alembic_version ORDER BY 1")?;
        Ledger::of(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    pub(super) fn shape(&self) -> Result<Shape> {
        Ok(catalog::read(&self.wire)?.without_ledger())
    }

    /// The live schema with `alembic_version`.
    pub(super) fn whole_shape(&self) -> Result<Shape> {
        catalog::read(&self.wire)
    }

    pub(super) fn verify(&self, revision: &str) -> Result<Verification> {
        let live = self.shape()?;
        let mut verification = Known::at(revision, self.wire.dialect())?.verify(&live);
        if verification.matches.is_none()
            && let Some(next) = chain().get(position(revision)? + 1)
            && self.check_start(&live, Some(revision), &next.id).is_ok()
        {
            verification.half_done = Some(next.id.clone());
        }
        Ok(verification)
    }

    pub(super) fn stamp(&self, revision: &str, proof: Proof) -> Result<()> {
        let statements = ledger::stamp(self.revision(), revision, proof, || self.verify(revision))?;
        self.begin()?;
        let written = self.write_ledger(&statements).and_then(|()| self.commit());
        if written.is_err() {
            self.rollback();
        }
        written
    }

    /// Writes the one row of `alembic_version`.
    fn write_ledger(&self, statements: &[String]) -> Result<()> {
        statements.iter().try_for_each(|statement| self.wire.execute(statement).map(drop))
    }

    /// Starts a transaction.
    pub(super) fn begin(&self) -> Result<()> {
        self.wire.execute(match self.wire.dialect() {
            Dialect::Postgresql => "BEGIN",
            _ => "START TRANSACTION",
        })?;
        self.in_transaction.set(true);
        crash::point("transaction begun");
        Ok(())
    }

    /// Commits.
    pub(super) fn commit(&self) -> Result<()> {
        crash::point("to commit");
        let done = self.wire.execute("COMMIT");
        if done.is_ok() {
            self.in_transaction.set(false);
            crash::point("committed");
        } else {
            self.rollback();
        }
        done.map(drop)
    }

    /// Undoes the open transaction, as the server does by itself when the connection ends.
    pub(super) fn rollback(&self) {
        if self.in_transaction.replace(false)
            && let Err(e) = self.wire.execute("ROLLBACK")
        {
            log::warn!("{}: cannot roll back: {e}", self.wire.url());
        }
    }

    /// Rows of each of Barbican's tables, `alembic_version` included. Others may be written to at any time: they are no concern of ours.
    pub(super) fn row_counts(&self) -> Result<BTreeMap<String, u64>> {
        let shape = catalog::read(&self.wire)?;
        let known = dump::known_tables(self.wire.dialect())?;
        let mut counts = BTreeMap::new();
        for table in shape.tables.into_keys().filter(|t| known.contains(t)) {
            let rows = self.wire.query(&format!("SELECT count(*) FROM \"{table}\""))?;
            counts.insert(table, number(&rows).unwrap_or_default());
        }
        Ok(counts)
    }

    /// SHA-256 over schema and rows of Barbican's tables, all of one moment. The digest of a table is the sum of those of its rows,
    /// so that no order matters, of which a server's collations would decide; each value carries its length, so no two contents
    /// run together. Of these alone, where `of` names some.
    pub(super) fn fingerprint(&self, of: Option<&BTreeSet<String>>) -> Result<String> {
        let own = !self.in_transaction.get();
        if own {
            match self.wire.dialect() {
                Dialect::Postgresql => {
                    self.wire.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")?;
                }
                _ => {
                    self.wire.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")?;
                    self.wire.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")?;
                }
            }
        }
        let digest = self.digest(of);
        if own {
            self.wire.execute("ROLLBACK")?;
        }
        digest
    }

    fn digest(&self, of: Option<&BTreeSet<String>>) -> Result<String> {
        let shape = catalog::read(&self.wire)?;
        let known = dump::known_tables(self.wire.dialect())?;
        let mut all = Sha256::new();
        let wanted = |t: &String| known.contains(t) && of.is_none_or(|of| of.contains(t));
        for (name, table) in shape.tables.iter().filter(|(t, _)| wanted(t)) {
            all.update(table.canonical(name));
            let columns: Vec<String> = table.columns.keys().map(|c| format!("\"{c}\"")).collect();
            let mut sum = [0_u8; 32];
            let mut rows = 0_u64;
            self.wire.each(&format!("SELECT {} FROM \"{name}\"", columns.join(", ")), &mut |row| {
                let mut hash = Sha256::new();
                for value in row {
                    hash.update([u8::from(value.is_some())]);
                    let bytes = value.unwrap_or_default();
                    hash.update((bytes.len() as u64).to_be_bytes());
                    hash.update(bytes);
                }
                add(&mut sum, &hash.finalize());
                rows += 1;
                Ok(())
            })?;
            all.update(rows.to_be_bytes());
            all.update(sum);
        }
        Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// One compare-and-set, byte by byte. `table` and `column` are ours, never the operator's.
    pub(super) fn replace(
        &self,
        table: &str,
        column: &str,
        id: &str,
        old: Option<&str>,
        new: Option<&str>,
    ) -> Result<bool> {
        let same = match self.wire.dialect() {
            Dialect::Postgresql => format!("\"{column}\" IS NOT DISTINCT FROM ?"),
            _ => format!("CAST(\"{column}\" AS BINARY) <=> CAST(? AS BINARY)"),
        };
        let sql = format!("UPDATE \"{table}\" SET \"{column}\" = ? WHERE id = ? AND {same}");
        Ok(self.wire.execute_with(&sql, &[new, Some(id), old])? == 1)
    }
}

fn number(rows: &[Row]) -> Option<u64> {
    rows.first()?.first()?.as_deref()?.parse().ok()
}

/// `sum += addend`, both big-endian, modulo 2^256.
fn add(sum: &mut [u8; 32], addend: &[u8]) {
    let mut carry = 0_u16;
    for (s, a) in sum.iter_mut().zip(addend).rev() {
        let digit = u16::from(*s) + u16::from(*a) + carry;
        [_, *s] = digit.to_be_bytes();
        carry = digit >> 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_carry_over_and_do_not_depend_on_order() {
        let (mut one, mut other) = ([0_u8; 32], [0_u8; 32]);
        let rows = [[0xff_u8; 32], [0x01; 32], [0x80; 32]];
        rows.iter().for_each(|r| add(&mut one, r));
        rows.iter().rev().for_each(|r| add(&mut other, r));
        assert_eq!(one, other);
        let mut sum = [0_u8; 32];
        sum[31] = 0xff;
        let mut step = [0_u8; 32];
        step[31] = 1;
        add(&mut sum, &step);
        assert_eq!((sum[30], sum[31]), (1, 0));
    }
}
