//! A large database: `check` and `plan` look at a sample and say so, a run looks at all of it before anything stops.

use rusqlite::Connection;
use serde_json::json;

use crate::common::Sandbox;

const DATABASE: &str = "var/lib/barbican/barbican.sqlite";
const WAY: [&str; 2] = ["--to", "mitaka"];

fn sql(sandbox: &Sandbox, text: &str) {
    Connection::open(sandbox.path(DATABASE)).unwrap().execute_batch(text).unwrap();
}

/// So many copies of the first row of `table` that `which` chooses; the id of the n-th begins with `43 * n` in hexadecimal.
fn copies(sandbox: &Sandbox, table: &str, which: &str, count: usize) {
    let connection = Connection::open(sandbox.path(DATABASE)).unwrap();
    let mut columns: Vec<String> = Vec::new();
    connection
        .pragma(None, "table_info", table, |row| {
            columns.push(format!("\"{}\"", row.get::<_, String>("name")?));
            Ok(())
        })
        .unwrap();
    let rest = columns.iter().filter(|name| *name != "\"id\"").cloned().collect::<Vec<_>>().join(", ");
    let text = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
         INSERT INTO {table} (id, {rest}) SELECT printf('%04x-%d', 43 * n, n), {rest} FROM n, (SELECT * FROM {table} WHERE {which} LIMIT 1)"
    );
    connection.execute_batch(&text).unwrap();
}

/// The genuine deployment, with one of its live secrets of simple_crypto 1,500 times more.
fn many_secrets() -> Sandbox {
    let sandbox = Sandbox::liberty();
    let live = "NOT deleted AND secret_id IN (SELECT id FROM secrets WHERE NOT deleted) \
                AND kek_id IN (SELECT id FROM kek_data WHERE plugin_name LIKE '%simple%')";
    copies(&sandbox, "encrypted_data", live, 1500);
    sandbox
}

/// Damages the n-th copy of a secret: the first is in the sample, being the first of all; the third is not, being the first behind no place that
/// is looked at.
fn damage(sandbox: &Sandbox, nth: usize) -> String {
    let id = format!("{:04x}-{nth}", 43 * nth);
    sql(sandbox, &format!("UPDATE encrypted_data SET cypher_text = 'Z0FBQUFBQnJBci1E' WHERE id = '{id}'"));
    id
}

fn no_run(sandbox: &Sandbox) {
    assert!(!sandbox.path("var/lib/keymgr-upgrade/current").exists());
    assert!(!sandbox.path("var/lib/keymgr-upgrade/runs").exists());
}

#[test]
fn a_sample_is_called_one_and_what_is_outside_of_it_stops_the_run() {
    let sandbox = many_secrets();
    let json = sandbox.run(&[&["--json", "check"], &WAY[..]].concat()).json();
    let all = json["sample_of"]["secrets"].as_u64().unwrap();
    assert!(all > 1500);
    let tried: u64 = json["secrets"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n["live"].as_u64().unwrap() + n["deleted"].as_u64().unwrap())
        .sum();
    assert!((150..=220).contains(&tried), "{tried}");
    let said = sandbox.run(&[&["check"], &WAY[..]].concat());
    said.says("ok keks 3 good, 3 old, 0 unreadable ");
    said.says(&format!(
        "ok secrets {tried} of {tried} decrypt; a sample of {tried} of {all}; all: keymgr-upgrade kek verify"
    ));

    let outside = damage(&sandbox, 3);
    let said = sandbox.run(&[&["check"], &WAY[..]].concat());
    assert!(!said.all().contains("FAIL  unreadable"), "{}", said.all());
    sandbox.run(&[&["plan"], &WAY[..]].concat()).expect(0);
    sandbox.run(&["kek", "verify"]).expect(3).says(&format!("(datum {outside}):"));
    let said = sandbox.run(&[&["upgrade", "--yes"], &WAY[..]].concat()).expect(3);
    said.says("Nothing was stopped, nothing was changed.");
    said.says("FAIL unreadable KEKs or secrets in use cannot be read now (1)");
    said.says(&format!("(datum {outside})"));
    no_run(&sandbox);

    // Accepted, it is no obstacle any more; one more is.
    let again = sandbox.copy();
    again.upgrade("mitaka");
    sandbox.run(&[&["approve"], &WAY[..]].concat()).expect(0);
    damage(&sandbox, 4);
    sandbox.run(&[&["upgrade", "--yes"], &WAY[..]].concat()).expect(3).says("cannot be read now (2)");
    no_run(&sandbox);
}

#[test]
fn what_cannot_be_read_in_a_sample_is_said_and_can_be_accepted() {
    let sandbox = many_secrets();
    let inside = damage(&sandbox, 1);
    let said = sandbox.run(&[&["check"], &WAY[..]].concat()).expect(2);
    said.says("FAIL unreadable KEKs or secrets in use cannot be read now (1 in a sample)");
    said.says(&format!("(datum {inside})"));
    damage(&sandbox, 3);
    let said = sandbox.run(&[&["approve"], &WAY[..]].concat()).expect(0);
    said.says("KEKs or secrets in use cannot be read now (2)");
    let said = sandbox.run(&[&["check"], &WAY[..]].concat()).expect(1);
    said.says("WARN unreadable KEKs or secrets in use cannot be read now (1 in a sample) (accepted)");
    sandbox.run(&[&["upgrade", "--yes"], &WAY[..]].concat()).expect(0);
}

#[test]
fn of_many_keks_a_sample_is_judged_and_those_with_live_secrets_are_in_use() {
    let sandbox = Sandbox::liberty();
    copies(&sandbox, "kek_data", "plugin_name LIKE '%p11%'", 1500);
    let said = sandbox.run(&[&["check"], &WAY[..]].concat());
    let json = sandbox.run(&[&["--json", "check"], &WAY[..]].concat()).json();
    let counts = json["keks"].as_object().unwrap();
    let judged: u64 = counts.values().map(|n| n["live"].as_u64().unwrap()).sum();
    assert!((900..=1010).contains(&judged), "{judged}");
    assert_eq!(json["sample_of"], json!({"keks": 1506, "secrets": json["sample_of"]["secrets"]}));
    let old = counts["old"]["live"].as_u64().unwrap();
    let sample = format!("a sample of {judged} of 1506");
    said.says(&format!("ok keks 3 good, {old} old, 0 unreadable; {sample}; all: keymgr-upgrade kek verify"));
    assert!(!said.all().contains("decrypt; a sample"), "{}", said.all());
    sandbox.run(&[&["plan"], &WAY[..]].concat()).says(&format!("{old} KEKs ({sample}) to sign anew"));

    // The first of all, without a secret and with one.
    sql(
        &sandbox,
        "UPDATE kek_data SET plugin_meta = replace(plugin_meta, 'wrapped_key\": \"', 'wrapped_key\": \"AAAA') WHERE id = '002b-1'",
    );
    let said = sandbox.run(&[&["check"], &WAY[..]].concat());
    said.says("WARN unreadable-idle KEKs or secrets not in use cannot be read (1 in a sample)");
    said.says("KEK 002b-1: ");
    let under = "UPDATE encrypted_data SET kek_id = '002b-1' WHERE id = (SELECT e.id FROM encrypted_data e JOIN secrets s ON s.id = e.secret_id \
                 WHERE NOT e.deleted AND NOT s.deleted ORDER BY e.id DESC LIMIT 1)";
    sql(&sandbox, under);
    copies(&sandbox, "encrypted_data", "NOT deleted AND kek_id <> '002b-1'", 1500);
    let said = sandbox.run(&[&["check"], &WAY[..]].concat()).expect(2);
    said.says("FAIL unreadable KEKs or secrets in use cannot be read now (1 in a sample)");
    said.says("KEK 002b-1: ");
}
