//! PostgreSQL: pg_dump, pg_restore and psql.

use std::{
    io::{self, BufRead as _, BufReader, Cursor, Read},
    path::Path,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::{DumpError, Job, NONE, Problem, Result, numbers, shell_word};
use crate::{
    command::{Output, Program},
    db::{
        Url,
        sqlite::quoted,
        wire::Wire,
        wire::target::{Address, Target},
    },
};

/// In the order in which they are needed.
const PROGRAMS: [&str; 3] = ["pg_dump", "pg_restore", "psql"];

/// How long a restore waits for sessions that use the tables, in seconds.
const LOCK_WAIT: u32 = 30;

/// Barbican's one type of its own, at the revisions that have it.
const TYPE: &str = "container_types";

/// The server's version, `15.20 (Debian 15.20-0+deb12u1)`.
pub(super) fn server(job: &Job<'_>) -> Result<String> {
    Ok(job.column("SHOW server_version")?.into_iter().next().unwrap_or_default())
}

/// Up to 9.6 the second number was part of the major version.
fn major(version: &str) -> Option<(u64, u64)> {
    let numbers = numbers(version);
    let first = *numbers.first()?;
    Some((first, if first < 10 { numbers.get(1).copied().unwrap_or_default() } else { 0 }))
}

fn spoken((first, second): (u64, u64)) -> String {
    if first < 10 { format!("{first}.{second}") } else { first.to_string() }
}

pub(super) fn problems(job: &Job<'_>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    programs(&server(job)?, &mut problems)?;
    privileges(job, &mut problems)?;
    problems.extend(dependents(job)?);
    Ok(problems)
}

/// A pg_dump older than the server refuses; one that is newer knows how to ask it.
fn programs(server: &str, problems: &mut Vec<Problem>) -> Result<()> {
    let wanted = major(server);
    for name in PROGRAMS {
        let said = Program::new(name).version();
        let Some(said) = said.map_err(|e| DumpError::Problems(vec![broken(name, &e)]))? else {
            let remedy = format!("install the package postgresql-client, {NONE}");
            problems.push(Problem::new(format!("{name} is not installed"), remedy));
            continue;
        };
        let version = said.split_once(") ").map_or("", |(_, version)| version);
        match (major(version), wanted) {
            (Some(has), Some(wants)) if has < wants => {
                let (has, wants) = (spoken(has), spoken(wants));
                let title = format!("{name} is of PostgreSQL {has}, the server of {wants}: it cannot dump it");
                problems.push(Problem::new(title, format!("install postgresql-client-{wants}, {NONE}")));
            }
            (Some(_), Some(_)) => {}
            _ => problems.push(Problem::new(
                format!("it cannot be told whether {name} ({said}) fits the server ({server})"),
                format!("install the package postgresql-client, {NONE}"),
            )),
        }
    }
    Ok(())
}

fn broken(name: &str, error: &anyhow::Error) -> Problem {
    Problem::new(format!("{name} cannot be run: {error:#}"), format!("mend it, {NONE}"))
}

/// What a dump holds and this user could not make again, and what no dump holds.
fn unrepeatable(job: &Job<'_>, tables: &str, problems: &mut Vec<Problem>) -> Result<()> {
    let homeless = job.column(&format!(
        "SELECT DISTINCT pg_get_userbyid(c.relowner) {tables} AND NOT has_schema_privilege(c.relowner, n.oid, 'CREATE') ORDER BY 1"
    ))?;
    if !homeless.is_empty() {
        problems.push(Problem::new(
            format!("a restore could not give tables to {}, who may not create any in the schema", homeless.join(", ")),
            "GRANT CREATE ON SCHEMA to them",
        ));
    }
    let granted = job.column(&format!(
        "SELECT DISTINCT pg_get_userbyid(a.grantor) FROM (SELECT c.relowner, (aclexplode(c.relacl)).grantor {tables}) AS a \
         WHERE a.grantor <> a.relowner AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) ORDER BY 1"
    ))?;
    if !granted.is_empty() {
        problems.push(Problem::new(
            format!("a restore could not repeat the grants that {} made on the tables", granted.join(", ")),
            "have the owner of the tables make them",
        ));
    }
    let invalid = job.column(&format!(
        "SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
         WHERE NOT (x.indisvalid AND x.indisready) AND x.indrelid IN (SELECT c.oid {tables}) ORDER BY 1"
    ))?;
    if !invalid.is_empty() {
        problems.push(Problem::new(
            format!("index {} was begun and never finished, and is in no dump", invalid.join(", ")),
            "DROP INDEX or REINDEX",
        ));
    }
    Ok(())
}

fn privileges(job: &Job<'_>, problems: &mut Vec<Problem>) -> Result<()> {
    let tables = format!(
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema() \
         WHERE c.relkind IN ('r', 'p') AND c.relname IN ({})",
        job.literals()
    );
    let foreign =
        job.column(&format!("SELECT c.relname {tables} AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1"))?;
    if !foreign.is_empty() {
        problems.push(Problem::new(
            format!("the user does not own {}: a restore could not replace them", foreign.join(", ")),
            "ALTER TABLE ... OWNER TO the user of the URL",
        ));
    }
    unrepeatable(job, &tables, problems)?;
    let hidden =
        job.column(&format!("SELECT c.relname {tables} AND NOT has_table_privilege(c.oid, 'SELECT') ORDER BY 1"))?;
    if !hidden.is_empty() {
        problems.push(Problem::new(format!("the user may not read {}", hidden.join(", ")), "GRANT SELECT on them"));
    }
    let types = job.column(&format!(
        "SELECT DISTINCT t.typname {} AND NOT pg_has_role(t.typowner, 'USAGE') ORDER BY 1",
        types(job)
    ))?;
    if !types.is_empty() {
        problems.push(Problem::new(
            format!("the user does not own the type {}: a restore could not replace it", types.join(", ")),
            "ALTER TYPE ... OWNER TO the user of the URL",
        ));
    }
    let schema = job.column("SELECT current_schema() WHERE NOT has_schema_privilege(current_schema(), 'CREATE')")?;
    for schema in schema {
        problems.push(Problem::new(
            format!("the user may not create tables in schema {schema}: a restore could not"),
            format!("GRANT CREATE ON SCHEMA {schema} to the user of the URL"),
        ));
    }
    Ok(())
}

/// Joins that find the enum types of the columns of Barbican's tables.
fn types(job: &Job<'_>) -> String {
    format!(
        "FROM pg_type t JOIN pg_namespace tn ON tn.oid = t.typnamespace \
         JOIN pg_attribute a ON a.atttypid = t.oid AND NOT a.attisdropped \
         JOIN pg_class c ON c.oid = a.attrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema() \
         WHERE t.typtype = 'e' AND c.relkind IN ('r', 'p') AND c.relname IN ({})",
        job.literals()
    )
}

/// What is not Barbican's and would not survive its tables being dropped.
fn dependents(job: &Job<'_>) -> Result<Option<Problem>> {
    let ours = format!(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema() \
         WHERE c.relname IN ({})",
        job.literals()
    );
    let queries = [
        format!(
            "SELECT DISTINCT 'view ' || v.oid::regclass FROM pg_depend d \
             JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class \
             WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass \
             AND d.refobjid IN ({ours}) AND v.oid NOT IN ({ours}) ORDER BY 1"
        ),
        format!(
            "SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass FROM pg_constraint \
             WHERE contype = 'f' AND confrelid IN ({ours}) AND conrelid NOT IN ({ours}) ORDER BY 1"
        ),
        format!(
            "SELECT 'table ' || inhrelid::regclass || ', which inherits from ' || inhparent::regclass FROM pg_inherits \
             WHERE inhparent IN ({ours}) AND inhrelid NOT IN ({ours}) ORDER BY 1"
        ),
        format!(
            "SELECT 'column ' || a.attname || ' of ' || a.attrelid::regclass FROM pg_attribute a \
             JOIN pg_class r ON r.oid = a.attrelid AND r.relkind IN ('r', 'p', 'f', 'm', 'v') \
             WHERE NOT a.attisdropped AND a.attrelid NOT IN ({ours}) \
             AND a.atttypid IN (SELECT t.oid {types} UNION SELECT t.typarray {types}) ORDER BY 1",
            types = types(job)
        ),
        format!(
            "SELECT 'publication ' || p.pubname FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid \
             WHERE r.prrelid IN ({ours}) GROUP BY p.pubname ORDER BY 1"
        ),
    ];
    // Publications came with 10.
    let publications = major(&server(job)?) >= Some((10, 0));
    job.dependents(if publications { &queries } else { &queries[..4] })
}

pub(super) fn size(job: &Job<'_>) -> String {
    format!(
        "SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema() \
         WHERE c.relkind IN ('r', 'p') AND c.relname IN ({})",
        job.literals()
    )
}

/// How libpq is told where to connect: everything but the password. What the URL says after `?` is its own language.
fn conninfo(url: &Url) -> Result<String> {
    let Target { address, user, .. } = Target::of(url)?;
    let (host, port) = match address {
        Address::Tcp { host, port } => (host, port),
        Address::Socket { path, port } => (path.display().to_string(), port),
    };
    let base = [("host", host), ("port", port.to_string()), ("user", user), ("dbname", url.database().to_owned())];
    // The programs choose their own encoding, and say who they are.
    let own = ["host", "port", "application_name", "client_encoding"];
    let params = url.params().iter().filter(|(name, _)| !own.contains(&name.as_str()));
    let params = params.map(|(name, value)| (name.as_str(), value.clone()));
    let pairs = base.into_iter().chain(params).chain([("application_name", "keymgr-upgrade".to_owned())]);
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    Ok(pairs.map(|(name, value)| format!("{name}='{}'", quote(&value))).collect::<Vec<_>>().join(" "))
}

/// A program that is told the database and, by a password file, its password.
fn program(job: &Job<'_>, name: &str) -> Result<Program> {
    let url = &job.server.url;
    let password = url.password().map(|p| p.expose_secret().to_owned()).unwrap_or_default();
    if password.contains('\n') {
        return Err(job.program("connecting", "a password with a line end cannot be given to client programs").into());
    }
    // Always a file, so that none of the user's own is read.
    let line = format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:"));
    let line = if password.is_empty() { String::new() } else { line };
    let (program, path) = Program::new(name)
        .with_file(&SecretString::from(line), SecretString::from(password))
        .map_err(|why| job.program("connecting", why))?;
    let program = program.by(url.chosen_by());
    Ok(program.env("PGPASSFILE", path).arg("--no-password").arg(format!("--dbname={}", conninfo(url)?)))
}

pub(super) fn ask(job: &Job<'_>, sql: &str) -> Result<Output> {
    let program = program(job, "psql")?
        .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--field-separator=\t"])
        .arg(format!("--command={sql}"));
    Ok(program.output().map_err(|why| job.program("asking", why))?)
}

pub(super) fn dump(job: &Job<'_>) -> Result<Output> {
    let schema = job.column("SELECT current_schema()")?.into_iter().next().unwrap_or_default();
    let tables = job.tables.iter().map(|t| format!("--table={}.{}", quoted(&schema), quoted(t)));
    let program = program(job, "pg_dump")?
        .args(["--format=custom", "--encoding=UTF8", "--strict-names"])
        .arg(format!("--lock-wait-timeout={LOCK_WAIT}s"))
        .args(tables);
    Ok(program.output().map_err(|why| job.program("dumping", why))?)
}

/// Tries whether Barbican's tables could be dropped, as a restore does first, and undoes it: a function, a policy or anything else of the
/// operator's own may hang on them.
pub(super) fn probe(job: &Job<'_>, wire: &Wire) -> Result<()> {
    let schema = job.column("SELECT current_schema()")?.into_iter().next().unwrap_or_default();
    let tables: Vec<String> = job.tables.iter().map(|t| format!("{}.{}", quoted(&schema), quoted(t))).collect();
    wire.execute("BEGIN")?;
    wire.execute(&format!("SET LOCAL lock_timeout = '{LOCK_WAIT}s'"))?;
    let dropped = wire.execute(&format!("DROP TABLE IF EXISTS {}", tables.join(", ")));
    wire.execute("ROLLBACK")?;
    dropped.map(drop).map_err(|why| job.program("trying whether a restore could replace the tables", why).into())
}

/// pg_dump leaves types out when it is told tables, so these statements make them.
pub(super) fn first(job: &Job<'_>) -> Result<String> {
    let schema = job.column("SELECT current_schema()")?.into_iter().next().unwrap_or_default();
    let name = |name: &str| format!("{}.{}", quoted(&schema), quoted(name));
    let tables: Vec<String> = job.known.iter().map(|t| name(t)).collect();
    let mut text = format!(
        "-- Takes Barbican's tables away, so that those of the backup can take their place.\n\
         SET LOCAL client_min_messages = warning;\n\
         SET LOCAL lock_timeout = '{LOCK_WAIT}s';\n\
         DROP TABLE IF EXISTS\n    {};\n",
        tables.join(",\n    ")
    );
    let types = job.wire().query(&format!(
        "SELECT DISTINCT tn.nspname, t.typname, pg_get_userbyid(t.typowner), \
         (SELECT string_agg(e.enumlabel, E'\n' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) \
         {} ORDER BY 1, 2",
        types(job)
    ))?;
    // It is that of this table's column: where the table stays, so does its type.
    if job.known.contains("containers") {
        text.push_str(&format!("DROP TYPE IF EXISTS {};\n", name(TYPE)));
    }
    for row in types {
        let mut values = row.into_iter().flatten();
        let (Some(schema), Some(of), Some(owner), Some(labels)) =
            (values.next(), values.next(), values.next(), values.next())
        else {
            continue;
        };
        // psql reads this: quoted here, not by the server, whose functions somebody may have put others before.
        let odd = |text: &str| text.chars().any(|c| c == '\\' || c.is_control());
        if let Some(odd) =
            [&schema, &of, &owner].into_iter().map(String::as_str).chain(labels.split('\n')).find(|t| odd(t))
        {
            let why = format!("a type of Barbican's tables has {odd:?} in its names, which is not told to psql");
            return Err(job.program("preparing a restore", why).into());
        }
        let (of, owner) = (format!("{}.{}", quoted(&schema), quoted(&of)), quoted(&owner));
        let labels: Vec<String> = labels.split('\n').map(|label| format!("'{}'", label.replace('\'', "''"))).collect();
        let labels = labels.join(", ");
        text.push_str(&format!(
            "DROP TYPE IF EXISTS {of};\nCREATE TYPE {of} AS ENUM ({labels});\nALTER TYPE {of} OWNER TO {owner};\n"
        ));
    }
    Ok(text)
}

pub(super) fn check_dump(path: &Path, tables: &[String]) -> Result<()> {
    let not_whole = |why: String| DumpError::NotWhole { path: path.to_owned(), why };
    let mut list = String::new();
    let read = Program::new("pg_restore").arg("--list").arg(path).output().map_err(io::Error::other);
    read.and_then(|mut output| output.read_to_string(&mut list)).map_err(|why| not_whole(why.to_string()))?;
    // "215; 1259 16389 TABLE public secrets barbican"
    let has = |table: &&String| {
        list.lines().any(|line| {
            let mut words = line.split(' ').skip(3);
            words.next() == Some("TABLE") && words.next() == Some("DATA") && words.nth(1) == Some(table.as_str())
        })
    };
    match tables.iter().find(|table| !has(table)) {
        Some(missing) => Err(not_whole(format!("no table {missing}")).into()),
        None => Ok(()),
    }
}

/// One transaction: whoever kills it leaves what was there. Its end is sent only when the whole script was read.
pub(super) fn load(job: &Job<'_>, first: &str, path: &Path) -> Result<()> {
    let script = Program::new("pg_restore").arg("--file=-").arg(path).output();
    let script = script.map_err(|why| job.program("reading the dump", why))?;
    let script = without_new_settings(script).map_err(|why| job.program("reading the dump", why))?;
    let before = format!("\\set ON_ERROR_STOP on\nBEGIN;\n{first}");
    let mut input = before.as_bytes().chain(script).chain(&b"\nCOMMIT;\n"[..]);
    let psql = program(job, "psql")?.args(["--no-psqlrc", "--quiet", "--output=/dev/null", "--file=-"]);
    Ok(psql.feed(&mut input).map_err(|why| job.program("restoring", why))?)
}

/// The script without the one setting that servers before 17 do not know, and that the client programs write from 17 on. It is at the beginning.
fn without_new_settings(script: impl Read) -> io::Result<impl Read> {
    let mut script = BufReader::new(script);
    let mut beginning = Vec::new();
    loop {
        let mut line = Vec::new();
        if script.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if !line.starts_with(b"SET transaction_timeout = ") {
            beginning.extend(&line);
        }
        if line.starts_with(b"-- Name: ") {
            break;
        }
    }
    Ok(Cursor::new(beginning).chain(script))
}

pub(super) fn commands(job: &Job<'_>, file: &str) -> Result<String> {
    let conninfo = shell_word(&conninfo(&job.server.url)?);
    Ok(format!(
        "(umask 077; pg_restore --file=script.sql {file}) &&\n\
         sed -i '/^SET transaction_timeout = 0;$/d' script.sql &&\n\
         psql -X -q -1 -v ON_ERROR_STOP=1 -o /dev/null \\\n\
         \x20   -f {first} -f script.sql \\\n\
         \x20   {conninfo} &&\n\
         rm script.sql\n",
        first = super::FIRST
    ))
}

/// Shell commands for whoever works by hand: one that reads SQL and runs it in one transaction, and one that dumps into `$backup`.
pub(super) fn by_hand(job: &Job<'_>) -> Result<(String, String)> {
    let conninfo = shell_word(&conninfo(&job.server.url)?);
    Ok((
        format!("psql -X -q -1 -v ON_ERROR_STOP=1 -o /dev/null {conninfo}"),
        format!("pg_dump --format=custom --file=\"$backup/database.pgdump\" --dbname={conninfo}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_setting_at_the_beginning_is_left_out() {
        let script = "SET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET row_security = off;\n--\n-- Name: a; Type: TABLE\n\
                      COPY a FROM stdin;\nSET transaction_timeout = 0;\n\\.\n";
        let mut said = String::new();
        without_new_settings(script.as_bytes()).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, script.replacen("SET transaction_timeout = 0;\n", "", 1));
    }

    #[test]
    fn the_connection_is_that_of_the_url() {
        let conninfo = |text: &str| conninfo(&Url::parse(&SecretString::from(text)).unwrap()).unwrap();
        assert_eq!(
            conninfo(
                "postgresql://b:p%40ss@db:5433/barbican?sslmode=verify-full&sslrootcert=/a%20b&client_encoding=utf8"
            ),
            "host='db' port='5433' user='b' dbname='barbican' sslmode='verify-full' sslrootcert='/a b' \
             application_name='keymgr-upgrade'"
        );
        let socket = conninfo("postgresql+psycopg2://b'c@/d?host=/run/pg");
        assert_eq!(socket, "host='/run/pg' port='5432' user='b\\'c' dbname='d' application_name='keymgr-upgrade'");
    }

    #[test]
    fn majors_are_compared_as_postgresql_counts_them() {
        assert_eq!(major("15.20 (Debian)"), Some((15, 0)));
        assert!(major("9.6.24") > major("9.5.1") && major("10.1") > major("9.6.24"));
        assert_eq!((spoken((9, 6)), spoken((15, 0))), ("9.6".to_owned(), "15".to_owned()));
        assert_eq!(major("devel"), None);
    }
}
