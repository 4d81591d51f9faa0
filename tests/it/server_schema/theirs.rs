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

/// Why a foreign key is theirs twice.
const TWICE: &str = "Barbican's own steps leave the old foreign key beside the new one, which says the same";
/// Why defaults of `order_retry_tasks` are theirs alone.
const DEFAULTS: &str = "the default that 30dba269cc64 filled the new column with is left behind; the services never use \
     it, and the time of a migration is wrong for every later row";
/// Why a unique is theirs twice.
const ONCE: &str = "theirs has a unique index beside the unique constraint on the same column";

/// Why a column may be NULL with them.
const KEPT: &str = "Barbican's own step forgets NOT NULL when it alters the column on MySQL";
/// Why a foreign key is ours alone.
const LOST: &str = "Barbican's own step drops this one by the name it has elsewhere, and with it a reference is lost";

/// Every difference that is meant, each for one line of a comparison.
const ALLOWED: &[Allowance] = &[
    Allowance {
        dialects: BOTH,
        start: "",
        from: "254495565185",
        line: r#"tables.alembic_version.primary key: [] != ["version_num"]"#,
        why: "alembic before 0.9 made the ledger without a key: it stays as it was found",
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "795737bb3c3",
        line: r#"+ tables.containers.references: "project_id -> projects(id)""#,
        why: TWICE,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "795737bb3c3",
        line: r#"+ tables.kek_data.references: "project_id -> projects(id)""#,
        why: TWICE,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "795737bb3c3",
        line: r#"+ tables.orders.references: "project_id -> projects(id)""#,
        why: TWICE,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "795737bb3c3",
        line: r#"+ tables.project_secret.references: "project_id -> projects(id)""#,
        why: TWICE,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "795737bb3c3",
        line: r#"+ tables.project_secret.references: "secret_id -> secrets(id)""#,
        why: TWICE,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "1c0f328bfce0",
        line: r#"+ tables.preferred_certificate_authorities.references: "ca_id -> certificate_authorities(id)""#,
        why: TWICE,
    },
    Allowance {
        dialects: BOTH,
        start: "2014.2-createall",
        from: "795737bb3c3",
        line: r#"+ tables.orders.references: "container_id -> containers(id)""#,
        why: TWICE,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.created_at: ["TIMESTAMP WITHOUT TIME ZONE", "NOT NULL"] != ["TIMESTAMP WITHOUT TIME ZONE", "NOT NULL", "DEFAULT 'the moment it was made'"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.updated_at: ["TIMESTAMP WITHOUT TIME ZONE", "NOT NULL"] != ["TIMESTAMP WITHOUT TIME ZONE", "NOT NULL", "DEFAULT 'the moment it was made'"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.deleted: ["BOOLEAN", "NOT NULL"] != ["BOOLEAN", "NOT NULL", "DEFAULT false"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: &[Dialect::Postgresql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.status: ["VARCHAR(20)", "NOT NULL"] != ["VARCHAR(20)", "NOT NULL", "DEFAULT 'PENDING'"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: BOTH,
        start: "",
        from: "256da65e0c5f",
        line: r#"tables.projects.columns.external_id: ["VARCHAR(255)", "NULL"] != ["VARCHAR(36)", "NULL"]"#,
        why: "a fresh installation has 255, and nothing is gained by less",
    },
    Allowance {
        dialects: BOTH,
        start: "",
        from: "1c0f328bfce0",
        line: r#"+ tables.preferred_certificate_authorities.uniques: ["project_id"]"#,
        why: ONCE,
    },
    Allowance {
        dialects: BOTH,
        start: "",
        from: "39cf2e645cba",
        line: r#"+ tables.project_secret_store.uniques: ["project_id"]"#,
        why: ONCE,
    },
    Allowance {
        dialects: BOTH,
        start: "",
        from: "39a96e67e990",
        line: r#"+ tables.projects.uniques: ["external_id"]"#,
        why: ONCE,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "39a96e67e990",
        line: r#"tables.secret_acls.columns.project_access: ["TINYINT(1)", "NOT NULL", "DEFAULT 1"] != ["TINYINT(1)", "NULL", "DEFAULT 1"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "6a4457517a3",
        line: r#"tables.secret_acls.columns.project_access: ["TINYINT(1)", "NOT NULL"] != ["TINYINT(1)", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "39a96e67e990",
        line: r#"tables.container_acls.columns.project_access: ["TINYINT(1)", "NOT NULL", "DEFAULT 1"] != ["TINYINT(1)", "NULL", "DEFAULT 1"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "6a4457517a3",
        line: r#"tables.container_acls.columns.project_access: ["TINYINT(1)", "NOT NULL"] != ["TINYINT(1)", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "795737bb3c3",
        line: r#"tables.containers.columns.project_id: ["VARCHAR(36)", "NOT NULL"] != ["VARCHAR(36)", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "795737bb3c3",
        line: r#"tables.kek_data.columns.project_id: ["VARCHAR(36)", "NOT NULL"] != ["VARCHAR(36)", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "795737bb3c3",
        line: r#"tables.orders.columns.project_id: ["VARCHAR(36)", "NOT NULL"] != ["VARCHAR(36)", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "795737bb3c3",
        line: r#"tables.project_secret.columns.project_id: ["VARCHAR(36)", "NOT NULL"] != ["VARCHAR(36)", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "3041b53b95d7",
        line: r#"tables.certificate_authority_metadata.columns.value: ["TEXT", "NOT NULL"] != ["TEXT", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "3041b53b95d7",
        line: r#"tables.order_barbican_metadata.columns.value: ["TEXT", "NOT NULL"] != ["TEXT", "NULL"]"#,
        why: KEPT,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.created_at: ["DATETIME", "NOT NULL"] != ["DATETIME", "NOT NULL", "DEFAULT 'the moment it was made'"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.updated_at: ["DATETIME", "NOT NULL"] != ["DATETIME", "NOT NULL", "DEFAULT 'the moment it was made'"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.deleted: ["TINYINT(1)", "NOT NULL"] != ["TINYINT(1)", "NOT NULL", "DEFAULT 0"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "",
        from: "30dba269cc64",
        line: r#"tables.order_retry_tasks.columns.status: ["VARCHAR(20)", "NOT NULL"] != ["VARCHAR(20)", "NOT NULL", "DEFAULT 'PENDING'"]"#,
        why: DEFAULTS,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "2014.2-createall",
        from: "795737bb3c3",
        line: r#"- tables.orders.references: "secret_id -> secrets(id)""#,
        why: LOST,
    },
    Allowance {
        dialects: &[Dialect::Mysql],
        start: "2014.2-createall",
        from: "795737bb3c3",
        line: r#"+ tables.orders.references: "project_id -> projects(id)""#,
        why: TWICE,
    },
];

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
            if let Some(at) = differences.iter().position(|line| applies && line == allowance.line) {
                differences.remove(at);
                *seen += 1;
            }
        }
        differences
    }

    /// Each that was seen, with its reason.
    pub(crate) fn told(&self) -> impl Iterator<Item = String> {
        self.allowed.iter().filter(|(_, seen)| *seen > 0).map(|(a, n)| format!("{} ({n} times): {}", a.line, a.why))
    }
}
