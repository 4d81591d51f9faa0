//! What Barbican's own tools make of each start, and where we differ from them on purpose.
use keymgr_upgrade::db::{Dialect, position};

/// The dump of what Barbican's own tools make of a start at a head, where there is one.
pub(crate) fn result_dump(start: &str, to: &str) -> Option<&'static str> {
    let chain = start.is_empty() || start.starts_with("chain-") || matches!(start, "9.0.1" | "10.0.0");
    match (start, to) {
        (_, "254495565185") if chain => Some("chain-254495565185-juno"),
        (_, "6a4457517a3") if chain => Some("chain-6a4457517a3-kilo"),
        (_, "4ecde3a3a72a") if chain => Some("chain-4ecde3a3a72a-liberty"),
        (_, "d2780d5aa510") if chain => Some("chain-d2780d5aa510-mitaka"),
        (_, "39cf2e645cba") if chain => Some("9.0.1"),
        (_, "0f8c192a061f") if chain => Some("10.0.0"),
        (_, "8c74e2d7f1ff") if chain => Some("chain-then-23.0.0"),
        ("2014.2-createall", "39cf2e645cba") => Some("2014.2-createall-upgraded-to-3.0"),
        ("2014.2-createall", "8c74e2d7f1ff") => Some("2014.2-createall-upgraded-by-10.0.0-then-23.0.0"),
        ("3.0-eol-createall", "0f8c192a061f") => Some("12.0.2"),
        ("3.0-eol-createall", "8c74e2d7f1ff") => Some("3.0-eol-createall-upgraded-to-23.0.0"),
        ("10.0.0-createall", "8c74e2d7f1ff") => Some("23.0.0-createall"),
        ("12.0.2", "8c74e2d7f1ff") => Some("23.0.0"),
        _ => None,
    }
}

/// Whether Barbican's own tools cannot go this way: a foreign key and an index that the services of 10.0.0 to 14.x
/// had already made stand in the way of 8c74e2d7f1ff.
pub(crate) fn fails_upstream(start: &str, to: &str) -> bool {
    (start, to) == ("10.0.0-createall", "8c74e2d7f1ff")
}

/// A difference from Barbican's own tools that is meant.
struct Allowance {
    dialects: &'static [Dialect],
    /// The start it is seen from; all of them if empty.
    start: &'static str,
    /// From this head on.
    from: &'static str,
    /// How compare_schema.py says it: "-" is ours only, "+" theirs only, "ours != theirs".
    line: &'static str,
    why: &'static str,
}

const BOTH: &[Dialect] = &[Dialect::Postgresql, Dialect::Mysql];

/// Every difference that is meant.
const ALLOWED: &[Allowance] = &[Allowance {
    dialects: BOTH,
    start: "",
    from: "254495565185",
    line: r#"tables.alembic_version.primary key: [] != ["version_num"]"#,
    why: "alembic before 0.9 made the ledger without a key: it stays as it was found",
}];

/// The meant differences of a dialect, and how often each was seen.
pub(crate) struct Allowances {
    allowed: Vec<(&'static Allowance, usize)>,
}

impl Allowances {
    pub(crate) fn of(dialect: Dialect) -> Self {
        Self { allowed: ALLOWED.iter().filter(|a| a.dialects.contains(&dialect)).map(|a| (a, 0)).collect() }
    }

    /// What is left of the differences without those that are allowed.
    pub(crate) fn without_allowed(&mut self, start: &str, to: &str, mut differences: Vec<String>) -> Vec<String> {
        for (allowance, seen) in &mut self.allowed {
            let applies = (allowance.start.is_empty() || allowance.start == start)
                && position(to).unwrap() >= position(allowance.from).unwrap();
            let before = differences.len();
            if applies {
                differences.retain(|line| line != allowance.line);
            }
            *seen += before - differences.len();
        }
        differences
    }

    /// Each that was seen, with its reason.
    pub(crate) fn told(&self) -> impl Iterator<Item = String> {
        self.allowed.iter().filter(|(_, seen)| *seen > 0).map(|(a, n)| format!("{} ({n} times): {}", a.line, a.why))
    }
}
