//! Reads the [`Shape`] of a database on a server from its catalogs, spelled as SQLite spells it.
//!
//! SQLAlchemy makes the same model VARCHAR, BOOLEAN, DATETIME on SQLite, `character varying`, `boolean`, `timestamp` on PostgreSQL and
//! `varchar`, `tinyint(1)`, `datetime` on MySQL; an Enum is a VARCHAR as long as its longest value on SQLite.
use super::{
    Dialect, Result, Shape,
    shape::{Column, ForeignKey, Index},
    wire::{Row, Wire},
};

/// Reads the shape of the connection's schema, `alembic_version` included.
pub(super) fn read(wire: &Wire) -> Result<Shape> {
    let queries = match wire.dialect() {
        Dialect::Postgresql => &POSTGRESQL,
        Dialect::Sqlite | Dialect::Mysql => &MYSQL,
    };
    let mut shape = Shape::default();
    for row in wire.query(queries.columns)? {
        add_column(&mut shape, wire.dialect(), &row);
    }
    for row in wire.query(queries.indexes)? {
        add_index(&mut shape, &row);
    }
    let mut keys: Vec<(String, String, ForeignKey)> = Vec::new();
    for row in wire.query(queries.references)? {
        add_reference(&mut keys, &row);
    }
    for (table, name, key) in keys {
        if let Some(found) = shape.tables.get_mut(&table) {
            found.foreign_key_names.push((name, key.clone()));
            found.foreign_keys.insert(key);
        }
    }
    shape.others.extend(wire.query(queries.others)?.into_iter().filter_map(|row| row.into_iter().next().flatten()));
    Ok(shape)
}

struct Queries {
    /// Table, column, type, "1" if NOT NULL, default.
    columns: &'static str,
    /// Table, index, "p" primary, "u" unique or "i", "1" if partial, column; by table, index and place.
    indexes: &'static str,
    /// Table, name, column, parent table, parent column, actions; by table, name and place.
    references: &'static str,
    /// "view x", "trigger x".
    others: &'static str,
}

const POSTGRESQL: Queries = Queries {
    columns: "SELECT c.relname, a.attname,
            CASE WHEN t.typtype = 'e' THEN 'enum(' || (SELECT max(char_length(e.enumlabel)) FROM pg_enum e WHERE e.enumtypid = t.oid) || ')'
                ELSE format_type(a.atttypid, a.atttypmod) END,
            CASE WHEN a.attnotnull THEN '1' ELSE '0' END, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind IN ('r', 'p') ORDER BY 1, 2",
    indexes: "SELECT c.relname, i.relname,
            CASE WHEN x.indisprimary THEN 'p' WHEN x.indisunique THEN 'u' ELSE 'i' END,
            CASE WHEN x.indpred IS NULL AND x.indisvalid AND x.indisready THEN '0' ELSE '1' END, coalesce(a.attname, '(expression)')
        FROM (SELECT *, generate_series(0, indnatts - 1) AS place FROM pg_index) x
        JOIN pg_class c ON c.oid = x.indrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        JOIN pg_class i ON i.oid = x.indexrelid
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.indkey[x.place]
            AND a.attnum > 0
        ORDER BY 1, 2, x.place",
    references: "SELECT c.relname, k.conname, a.attname, p.relname, b.attname, k.confdeltype::text || '/' || k.confupdtype::text
        FROM (SELECT *, generate_subscripts(conkey, 1) AS place FROM pg_constraint WHERE contype = 'f' AND convalidated) k
        JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        JOIN pg_class p ON p.oid = k.confrelid
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[k.place]
        JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[k.place]
        ORDER BY 1, 2, k.place",
    others: "SELECT CASE c.relkind WHEN 'v' THEN 'view ' ELSE 'materialized view ' END || c.relname
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        WHERE c.relkind IN ('v', 'm')
        UNION ALL SELECT 'trigger ' || t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema() WHERE NOT t.tgisinternal",
};

const MYSQL: Queries = Queries {
    columns: "SELECT c.table_name, c.column_name, c.column_type, CASE c.is_nullable WHEN 'NO' THEN '1' ELSE '0' END, c.column_default
        FROM information_schema.columns c
        JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
        WHERE c.table_schema = DATABASE() AND t.table_type = 'BASE TABLE' ORDER BY 1, 2",
    indexes: "SELECT table_name, index_name,
            CASE WHEN index_name = 'PRIMARY' THEN 'p' WHEN non_unique = 0 THEN 'u' ELSE 'i' END,
            CASE WHEN sub_part IS NULL THEN '0' ELSE '1' END, coalesce(column_name, '(expression)')
        FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index",
    references: "SELECT k.table_name, k.constraint_name, k.column_name, k.referenced_table_name, k.referenced_column_name,
            concat(r.delete_rule, '/', r.update_rule)
        FROM information_schema.key_column_usage k
        JOIN information_schema.referential_constraints r ON r.constraint_schema = k.constraint_schema
            AND r.constraint_name = k.constraint_name AND r.table_name = k.table_name
        WHERE k.table_schema = DATABASE() AND k.referenced_table_schema = DATABASE()
        ORDER BY k.table_name, k.constraint_name, k.ordinal_position",
    others: "SELECT concat('view ', table_name) FROM information_schema.views WHERE table_schema = DATABASE()
        UNION ALL SELECT concat('trigger ', trigger_name) FROM information_schema.triggers WHERE trigger_schema = DATABASE()",
};

fn text(row: &Row, n: usize) -> String {
    row.get(n).cloned().flatten().unwrap_or_default()
}

fn add_column(shape: &mut Shape, dialect: Dialect, row: &Row) {
    let declared = match dialect {
        Dialect::Postgresql => postgresql_type(&text(row, 2)),
        Dialect::Sqlite | Dialect::Mysql => mysql_type(&text(row, 2)),
    };
    let default = row.get(4).and_then(Option::as_deref).and_then(|d| default(dialect, &declared, d));
    let column = Column { declared, nullable: text(row, 3) != "1", default };
    shape.tables.entry(text(row, 0)).or_default().columns.insert(text(row, 1), column);
}

fn add_index(shape: &mut Shape, row: &Row) {
    let Some(table) = shape.tables.get_mut(&text(row, 0)) else { return };
    let (name, kind, column) = (text(row, 1), text(row, 2), text(row, 4));
    if kind == "p" {
        table.primary_key_name = Some(name);
        table.primary_key.push(column);
        return;
    }
    let partial = text(row, 3) == "1";
    match table.indexes.last_mut().filter(|i| i.name == name) {
        Some(index) => {
            index.columns.push(column);
            index.partial |= partial;
        }
        None => table.indexes.push(Index { name, columns: vec![column], unique: kind == "u", partial }),
    }
}

fn add_reference(keys: &mut Vec<(String, String, ForeignKey)>, row: &Row) {
    let (table, name) = (text(row, 0), text(row, 1));
    if keys.last().is_none_or(|(t, n, _)| *t != table || *n != name) {
        let actions = actions(&text(row, 5));
        keys.push((table, name, ForeignKey { columns: vec![], table: text(row, 3), references: vec![], actions }));
    }
    if let Some((_, _, key)) = keys.last_mut() {
        key.columns.push(text(row, 2));
        key.references.push(text(row, 4));
    }
}

/// RESTRICT differs from NO ACTION for deferred constraints only, which Barbican has none of.
fn actions(text: &str) -> String {
    let word = |rule: &str| match rule {
        "a" | "r" | "RESTRICT" | "NO ACTION" => "NO ACTION".to_owned(),
        "c" => "CASCADE".to_owned(),
        "n" => "SET NULL".to_owned(),
        "d" => "SET DEFAULT".to_owned(),
        other => other.to_owned(),
    };
    let (delete, update) = text.split_once('/').unwrap_or((text, ""));
    format!("{}/{}", word(delete), word(update))
}

fn postgresql_type(text: &str) -> String {
    let (name, length) = text.split_once('(').map_or((text, String::new()), |(a, b)| (a, format!("({b}")));
    match name {
        "character varying" | "enum" => format!("VARCHAR{length}"),
        "character" => format!("CHAR{length}"),
        "timestamp without time zone" => format!("DATETIME{length}"),
        other => format!("{}{length}", other.to_uppercase()),
    }
}

fn mysql_type(text: &str) -> String {
    let (name, rest) = text.split_once('(').unwrap_or((text, ""));
    match name {
        "tinyint" if text == "tinyint(1)" => "BOOLEAN".to_owned(),
        // MySQL 8 shows no display width.
        "int" if rest.is_empty() || rest == "11)" => "INTEGER".to_owned(),
        "enum" => {
            let values = rest.trim_end_matches(')').split(',');
            let longest = values.map(|v| v.trim_matches('\'').chars().count()).max().unwrap_or_default();
            format!("VARCHAR({longest})")
        }
        _ => text.to_uppercase(),
    }
}

/// A default in SQLite's spelling: quoted text, 1 and 0, no cast.
fn default(dialect: Dialect, declared: &str, text: &str) -> Option<String> {
    let text = match dialect {
        Dialect::Postgresql => text.split("::").next().unwrap_or(text),
        Dialect::Sqlite | Dialect::Mysql => text,
    };
    match text {
        "NULL" => None,
        "true" if declared == "BOOLEAN" => Some("1".to_owned()),
        "false" if declared == "BOOLEAN" => Some("0".to_owned()),
        // MySQL shows the bare text, MariaDB since 10.2.7 the literal.
        bare if dialect == Dialect::Mysql && !bare.starts_with('\'') && is_text(declared) => Some(format!("'{bare}'")),
        literal => Some(literal.to_owned()),
    }
}

fn is_text(declared: &str) -> bool {
    ["VARCHAR", "CHAR", "TEXT", "DATETIME"].iter().any(|t| declared.starts_with(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_defaults_are_spelled_as_sqlites() {
        let types = ["character varying(36)", "boolean", "timestamp without time zone", "integer", "enum(11)", "text"];
        assert_eq!(
            types.map(postgresql_type),
            ["VARCHAR(36)", "BOOLEAN", "DATETIME", "INTEGER", "VARCHAR(11)", "TEXT"]
        );
        let types =
            ["varchar(36)", "tinyint(1)", "datetime", "int(11)", "int", "enum('generic','certificate')", "char(64)"];
        let same = ["VARCHAR(36)", "BOOLEAN", "DATETIME", "INTEGER", "INTEGER", "VARCHAR(11)", "CHAR(64)"];
        assert_eq!(types.map(mysql_type), same);
        let of = |dialect, declared: &str, text| default(dialect, declared, text).unwrap_or_default();
        assert_eq!(of(Dialect::Postgresql, "VARCHAR(255)", "'opaque'::character varying"), "'opaque'");
        assert_eq!(of(Dialect::Postgresql, "BOOLEAN", "true"), "1");
        assert_eq!(of(Dialect::Mysql, "VARCHAR(255)", "'opaque'"), "'opaque'");
        assert_eq!(of(Dialect::Mysql, "VARCHAR(255)", "opaque"), "'opaque'");
        assert_eq!(of(Dialect::Mysql, "BOOLEAN", "1"), "1");
        assert_eq!(default(Dialect::Mysql, "TEXT", "NULL"), None);
    }
}
