//! MySQL and MariaDB: mysqldump and mysql, or by their other names mariadb-dump and mariadb.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek as _, SeekFrom},
    path::Path,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::{DumpError, Job, NONE, Problem, Result, numbers, shell_word};
use crate::{
    command::{Output, Program},
    crash,
    db::{
        Url, error,
        shape::PROBE,
        wire::Wire,
        wire::target::{Address, Check, Encrypt, Target},
    },
};

/// How long a restore waits for sessions that use the tables, in seconds.
const LOCK_WAIT: u32 = 30;

/// What a restore does to every table. A dump needs SELECT only; without TRIGGER a user does not see the triggers that dropping a table drops.
const PRIVILEGES: [&str; 8] = ["SELECT", "INSERT", "CREATE", "DROP", "ALTER", "INDEX", "REFERENCES", "TRIGGER"];

/// The two products went apart: the programs of one do not know all that the server of the other says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Mariadb,
    Mysql,
}

impl Family {
    fn of(version: &str) -> Self {
        if version.contains("MariaDB") { Self::Mariadb } else { Self::Mysql }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "MariaDB",
            Self::Mysql => "MySQL",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb-client",
            Self::Mysql => "mysql-client",
        }
    }

    /// What the dumper and the client are called, best name first.
    fn programs(self) -> [&'static [&'static str]; 2] {
        match self {
            Self::Mariadb => [&["mariadb-dump", "mysqldump"], &["mariadb", "mysql"]],
            Self::Mysql => [&["mysqldump"], &["mysql"]],
        }
    }
}

/// The two programs that fit a server.
struct Programs {
    family: Family,
    dump: &'static str,
    client: &'static str,
}

fn version(job: &Job<'_>) -> Result<String> {
    Ok(job.column("SELECT VERSION()")?.into_iter().next().unwrap_or_default())
}

/// The server's product and version.
pub(super) fn server(job: &Job<'_>) -> Result<String> {
    let version = version(job)?;
    Ok(match Family::of(&version) {
        Family::Mariadb => version,
        Family::Mysql => format!("MySQL {version}"),
    })
}

/// What the user of the URL may not do, though a migration has to.
pub(super) fn missing_privileges(job: &Job<'_>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    privileges(job, &mut problems)?;
    Ok(problems)
}

/// Tries whether the server takes each table again as it is: it may have been stricter settings since the table was made (`innodb_strict_mode`,
/// a primary key demanded), and a restore would have dropped the table before it found out.
pub(super) fn probe(job: &Job<'_>, wire: &Wire) -> Result<()> {
    if Family::of(&version(job)?) == Family::Mariadb {
        wire.execute("SET SESSION innodb_strict_mode = 0")?;
    }
    let drop = format!("DROP TABLE IF EXISTS {PROBE}");
    wire.execute(&drop)?;
    for table in &job.tables {
        let made = wire.execute(&format!("CREATE TABLE {PROBE} LIKE \"{table}\""));
        made.map_err(|why| {
            job.program("trying whether a restore could make the tables again", format!("{table}: {why}"))
        })?;
        crash::point("table tried");
        wire.execute(&drop)?;
    }
    Ok(())
}

pub(super) fn problems(job: &Job<'_>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    if let Err(problem) = find(&version(job)?) {
        problems.push(problem);
    }
    privileges(job, &mut problems)?;
    problems.extend(dependents(job)?);
    Ok(problems)
}

fn find(server: &str) -> Result<Programs, Problem> {
    let family = Family::of(server);
    let [dump, client] = family.programs();
    Ok(Programs { family, dump: fitting(dump, server)?, client: fitting(client, server)? })
}

/// The first of these programs that is there and fits.
fn fitting(names: &[&'static str], server: &str) -> Result<&'static str, Problem> {
    let family = Family::of(server);
    let install = format!("install the package {}, {NONE}", family.package());
    let mut why = format!("{} is not installed", names.first().copied().unwrap_or_default());
    for name in names {
        let said = Program::new(name).version();
        let said =
            said.map_err(|e| Problem::new(format!("{name} cannot be run: {e:#}"), format!("mend it, {NONE}")))?;
        match said.map(|said| unfit(name, &said, server)) {
            Some(None) => return Ok(name),
            Some(Some(unfit)) => why = unfit,
            None => {}
        }
    }
    Err(Problem::new(why, install))
}

/// Why a program that says this of itself does not fit the server.
fn unfit(name: &str, said: &str, server: &str) -> Option<String> {
    let (has, wants) = (Family::of(said), Family::of(server));
    if has != wants {
        return Some(format!("{name} is {}'s, the server is {} {server}", has.name(), wants.name()));
    }
    // "mysqldump  Ver 8.0.36 for Linux", before 8.0 "Ver 10.13 Distrib 5.7.44, for Linux"
    let version = ["Distrib ", "Ver "].iter().find_map(|word| said.split_once(word)).map_or("", |(_, version)| version);
    let (client, server) = (numbers(version), numbers(server));
    let old = wants == Family::Mysql && client.first() < server.first();
    old.then(|| format!("{name} is of MySQL {}, older than the server", version.split(' ').next().unwrap_or_default()))
}

/// What `SHOW GRANTS` says a user may do: on everything, on this database, and on single tables of it.
#[derive(Debug, Default)]
struct Grants {
    everywhere: BTreeSet<String>,
    tables: BTreeMap<String, BTreeSet<String>>,
}

impl Grants {
    /// Reads one line, `GRANT SELECT, INSERT ON "db"."table" TO ...`. It may end in the digest of a password: it is never shown.
    fn read(&mut self, line: &str, database: &str) {
        let (taken, rest) = match (line.strip_prefix("GRANT "), line.strip_prefix("REVOKE ")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return,
        };
        let end = if taken { " FROM " } else { " TO " };
        // A role has no ON.
        let Some((privileges, rest)) = rest.split_once(" ON ") else { return };
        let Some((object, _)) = rest.split_once(end) else { return };
        let Some((schema, table)) = split_object(object) else { return };
        if schema != "*" && !like(&schema, database) {
            return;
        }
        let of = if table == "*" { &mut self.everywhere } else { self.tables.entry(table).or_default() };
        let named = privileges.split(", ").filter(|p| !p.contains(['(', ')']));
        for privilege in named {
            let all = matches!(privilege, "ALL PRIVILEGES" | "ALL");
            for one in PRIVILEGES.iter().filter(|p| all || **p == privilege) {
                if taken {
                    of.remove(*one);
                } else {
                    of.insert((*one).to_owned());
                }
            }
        }
    }

    fn allows(&self, table: &str, privilege: &str) -> bool {
        self.everywhere.contains(privilege) || self.tables.get(table).is_some_and(|t| t.contains(privilege))
    }
}

/// `"db"."table"` into its two names, whichever quotes there are.
fn split_object(object: &str) -> Option<(String, String)> {
    let mut names = Vec::new();
    let mut rest = object;
    while names.len() < 2 {
        let quote = rest.chars().next().filter(|c| matches!(c, '`' | '"'));
        let Some(quote) = quote else {
            let (name, after) = rest.split_once('.').unwrap_or((rest, ""));
            names.push(name.to_owned());
            rest = after;
            continue;
        };
        let mut name = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            // A quote in a name is written twice.
            if c != quote || chars.next_if(|(_, next)| *next == quote).is_some() {
                name.push(c);
            } else {
                end = at + 1;
                break;
            }
        }
        names.push(name);
        rest = rest.get(end..).unwrap_or_default();
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    let table = names.pop()?;
    Some((names.pop()?, table))
}

/// Whether a name fits a pattern, in which `%` is any text, `_` any character and `\` takes both their meaning.
fn like(pattern: &str, name: &str) -> bool {
    let mut chars = pattern.chars();
    match chars.next() {
        None => name.is_empty(),
        Some('%') => name
            .char_indices()
            .map(|(at, _)| at)
            .chain([name.len()])
            .any(|at| like(chars.as_str(), name.get(at..).unwrap_or_default())),
        Some(c) => {
            let wanted = if c == '\\' { chars.next() } else { Some(c) };
            let any = c == '_';
            let mut rest = name.chars();
            rest.next().is_some_and(|found| any || Some(found) == wanted) && like(chars.as_str(), rest.as_str())
        }
    }
}

fn privileges(job: &Job<'_>, problems: &mut Vec<Problem>) -> Result<()> {
    let url = &job.server.url;
    let mut grants = Grants::default();
    let mut lines = job.column("SHOW GRANTS")?;
    if Family::of(&version(job)?) == Family::Mysql {
        let roles = job.column("SELECT CURRENT_ROLE()")?;
        for roles in roles.iter().filter(|r| *r != "NONE") {
            lines.extend(job.column(&format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}"))?);
        }
    }
    for line in &lines {
        grants.read(line, url.database());
    }
    let lacks = |privilege: &&&str| job.tables.iter().any(|table| !grants.allows(table, privilege));
    let missing: Vec<&str> = PRIVILEGES.iter().filter(lacks).copied().collect();
    if !missing.is_empty() {
        problems.push(Problem::new(
            format!(
                "the user may not {} all of Barbican's tables: a restore could not replace them",
                missing.join(", ")
            ),
            format!("GRANT {} ON {}.* TO the user of the URL", missing.join(", "), url.database()),
        ));
    }
    Ok(())
}

/// What is not Barbican's and would not survive its tables being dropped, or would not fit them afterwards. A view does: it is only a text.
fn dependents(job: &Job<'_>) -> Result<Option<Problem>> {
    let ours = job.literals();
    let queries = [
        format!(
            "SELECT DISTINCT CONCAT('foreign key ', CONSTRAINT_NAME, ' of ', TABLE_SCHEMA, '.', TABLE_NAME) \
             FROM information_schema.KEY_COLUMN_USAGE \
             WHERE REFERENCED_TABLE_SCHEMA = DATABASE() AND REFERENCED_TABLE_NAME IN ({ours}) \
             AND NOT (TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({ours})) ORDER BY 1"
        ),
        format!(
            "SELECT CONCAT('trigger ', TRIGGER_NAME, ' on ', EVENT_OBJECT_TABLE) FROM information_schema.TRIGGERS \
             WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE IN ({ours}) ORDER BY 1"
        ),
    ];
    job.dependents(&queries)
}

/// A dump is text about as long as the data; the indexes, which it does not hold, are taken for what it has besides.
pub(super) fn size(job: &Job<'_>) -> String {
    format!(
        "SELECT CAST(coalesce(sum(DATA_LENGTH + INDEX_LENGTH), 0) AS UNSIGNED) FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({})",
        job.literals()
    )
}

/// How a client is told where to connect: everything but the password, by the names of the option file.
fn options(url: &Url, family: Family) -> Result<Vec<(&'static str, String)>> {
    let Target { address, user, tls, .. } = Target::of(url)?;
    let mut options = vec![("user", user)];
    match address {
        Address::Socket { path, .. } => {
            options.extend([("protocol", "socket".to_owned()), ("socket", path.display().to_string())]);
        }
        Address::Tcp { host, port } => {
            options.extend([("protocol", "tcp".to_owned()), ("host", host), ("port", port.to_string())]);
        }
    }
    // MariaDB's client checks the certificate of whoever it is told an authority for.
    for path in tls.authorities.iter().filter(|_| tls.encrypt != Encrypt::Never && tls.check > Check::Nothing) {
        options.push((if path.is_dir() { "ssl-capath" } else { "ssl-ca" }, path.display().to_string()));
    }
    if let Some((certificate, key)) = tls.identity.filter(|_| tls.encrypt != Encrypt::Never) {
        options.push(("ssl-cert", certificate.display().to_string()));
        options.push(("ssl-key", key.display().to_string()));
    }
    match family {
        Family::Mariadb => {
            // It has no word for those of the operating system without the name being checked too.
            let name = tls.check == Check::Name || tls.check == Check::Authority && tls.authorities.is_empty();
            options.push(("ssl", u8::from(tls.encrypt != Encrypt::Never).to_string()));
            options.push(("ssl-verify-server-cert", u8::from(tls.encrypt == Encrypt::Always && name).to_string()));
        }
        Family::Mysql => options.push((
            "ssl-mode",
            match (tls.encrypt, tls.check) {
                (Encrypt::Never, _) => "DISABLED",
                (Encrypt::Allow | Encrypt::Prefer, _) => "PREFERRED",
                (Encrypt::Always, Check::Nothing) => "REQUIRED",
                (Encrypt::Always, Check::Authority) => "VERIFY_CA",
                (Encrypt::Always, Check::Name) => "VERIFY_IDENTITY",
            }
            .to_owned(),
        )),
    }
    Ok(options)
}

/// A value as an option file holds it.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
    format!("\"{}\"", escaped.replace('\t', "\\t"))
}

fn programs(job: &Job<'_>) -> Result<Programs> {
    Ok(find(&version(job)?).map_err(|problem| DumpError::Problems(vec![problem]))?)
}

/// The clients read a longer line as two, and the second may be an option that nobody wrote.
const LONGEST: usize = 2000;

/// A program that is told the database's server and user, and its password, by an option file, and reads no other.
fn program(job: &Job<'_>, name: &str, family: Family) -> Result<Program> {
    let url = &job.server.url;
    let mut file = String::from("[client]\n");
    for (option, value) in options(url, family)? {
        file.push_str(&format!("{option}={}\n", quoted(&value)));
    }
    let password = url.password().map(|p| p.expose_secret().to_owned()).unwrap_or_default();
    if !password.is_empty() {
        file.push_str(&format!("password={}\n", quoted(&password)));
    }
    if file.lines().any(|line| line.len() > LONGEST) {
        let why = format!("a part of the URL is too long for the client programs: more than {LONGEST} bytes");
        return Err(job.program("connecting", why).into());
    }
    let (program, path) = Program::new(name)
        .with_file(&SecretString::from(file), SecretString::from(password))
        .map_err(|why| job.program("connecting", why))?;
    Ok(program
        .by(url.chosen_by())
        .arg(format!("--defaults-file={path}"))
        .args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]))
}

fn client(job: &Job<'_>) -> Result<Program> {
    let programs = programs(job)?;
    Ok(program(job, programs.client, programs.family)?
        .args(["--batch", "--skip-reconnect", "--local-infile=0"])
        .arg(format!("--database={}", job.server.url.database())))
}

pub(super) fn ask(job: &Job<'_>, sql: &str) -> Result<Output> {
    let program = client(job)?.arg("--skip-column-names").arg(format!("--execute={sql}"));
    Ok(program.output().map_err(|why| job.program("asking", why))?)
}

pub(super) fn dump(job: &Job<'_>) -> Result<Output> {
    let programs = programs(job)?;
    let mut program = program(job, programs.dump, programs.family)?.args([
        "--single-transaction",
        "--quick",
        "--hex-blob",
        "--no-tablespaces",
        "--skip-lock-tables",
        "--skip-add-locks",
        "--skip-add-drop-table",
        "--skip-disable-keys",
        "--skip-triggers",
        "--skip-dump-date",
    ]);
    if programs.family == Family::Mysql {
        // Both would need more than a user of one database has, to restore or to dump.
        program = program.arg("--set-gtid-purged=OFF");
        let said = Program::new(programs.dump).version().ok().flatten().unwrap_or_default();
        if !said.contains("Distrib 5.") {
            program = program.arg("--column-statistics=0");
        }
    }
    let program = program.arg(job.server.url.database()).args(&job.tables);
    Ok(program.output().map_err(|why| job.program("dumping", why))?)
}

pub(super) fn first(job: &Job<'_>) -> String {
    let name = |table: &String| format!("DROP TABLE IF EXISTS `{}`;\n", table.replace('`', "``"));
    let mut known: Vec<&String> = job.known.iter().collect();
    known.sort_by_key(|t| *t != crate::db::shape::LEDGER);
    format!(
        "-- Takes Barbican's tables away, so that those of the backup can take their place.\n\
         SET SESSION foreign_key_checks = 0;\n\
         /*M! SET SESSION innodb_strict_mode = 0 */;\n\
         SET SESSION lock_wait_timeout = {LOCK_WAIT};\n{}",
        known.into_iter().map(name).collect::<String>()
    )
}

/// The dumper's last line says that it came to its end.
pub(super) fn check_dump(path: &Path) -> Result<()> {
    const LAST: &str = "-- Dump completed";
    let read = || {
        let mut file = File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(64)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok(String::from_utf8_lossy(&end).trim_end().ends_with(LAST))
    };
    if read().map_err(|e: std::io::Error| error::io(path, "cannot be read", e))? {
        return Ok(());
    }
    Err(DumpError::NotWhole { path: path.to_owned(), why: format!("it does not end in {LAST}") }.into())
}

/// Every statement is for good. Killed at any of them, all of it is carried out again.
pub(super) fn load(job: &Job<'_>, first: &str, path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|e| error::io(path, "cannot be read", e))?;
    let mut input = first.as_bytes().chain(file);
    Ok(client(job)?.feed(&mut input).map_err(|why| job.program("restoring", why))?)
}

/// Shell commands for whoever works by hand: one that reads SQL and runs it, and one that dumps into `$backup`.
pub(super) fn by_hand(job: &Job<'_>) -> Result<(String, String)> {
    let programs = programs(job)?;
    let url = &job.server.url;
    let mut options = words(url, programs.family)?;
    if url.password().is_some() {
        options.push("--password".to_owned());
    }
    let (options, database) = (options.join(" "), shell_word(url.database()));
    Ok((
        format!("{} --no-defaults {options} --default-character-set=utf8mb4 --database={database}", programs.client),
        format!(
            "{} --no-defaults {options} --single-transaction --hex-blob {database} >\"$backup/database.sql\"",
            programs.dump
        ),
    ))
}

fn words(url: &Url, family: Family) -> Result<Vec<String>> {
    Ok(options(url, family)?.into_iter().map(|(name, value)| shell_word(&format!("--{name}={value}"))).collect())
}

pub(super) fn commands(job: &Job<'_>, file: &str) -> Result<String> {
    let programs = programs(job)?;
    let url = &job.server.url;
    let options = words(url, programs.family)?;
    Ok(format!(
        "sha256sum -c --quiet SHA256SUMS &&\n\
         cat {first} {file} |\n\
         {} --no-defaults \\\n    {} \\\n    {}--default-character-set=utf8mb4 --max-allowed-packet=1G \\\n    {}\n",
        programs.client,
        options.join(" \\\n    "),
        if url.password().is_some() { "--password " } else { "" },
        shell_word(&format!("--database={}", url.database())),
        first = super::FIRST
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(lines: &[&str]) -> Vec<&'static str> {
        let mut grants = Grants::default();
        lines.iter().for_each(|line| grants.read(line, "bar_bican"));
        PRIVILEGES.iter().filter(|p| grants.allows("secrets", p)).copied().collect()
    }

    #[test]
    fn grants_are_read_in_every_form() {
        assert_eq!(may(&["GRANT ALL PRIVILEGES ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*ABC'"]), PRIVILEGES);
        assert_eq!(
            may(&["GRANT USAGE ON *.* TO `u`@`%`", "GRANT SELECT, INSERT ON `bar\\_bican`.* TO `u`@`%`"]),
            ["SELECT", "INSERT"]
        );
        assert_eq!(may(&["GRANT DROP ON \"bar%\".* TO \"u\"@\"%\" WITH GRANT OPTION"]), ["DROP"]);
        assert_eq!(may(&["GRANT DROP ON `barxbican`.* TO `u`@`%`"]), [""; 0]);
        assert_eq!(may(&["GRANT DROP ON `bar_bican`.`orders` TO `u`@`%`"]), [""; 0]);
        assert_eq!(may(&["GRANT SELECT (`a`, `b`), INDEX ON `bar_bican`.`secrets` TO `u`@`%`"]), ["INDEX"]);
        assert_eq!(may(&["GRANT ALL ON *.* TO `u`@`%`", "REVOKE DROP ON `bar_bican`.* FROM `u`@`%`"]).len(), 7);
        assert_eq!(may(&["GRANT `role` TO `u`@`%`", "GRANT PROXY ON ''@'%' TO 'root'@'localhost'"]), [""; 0]);
        assert_eq!(may(&["GRANT EXECUTE ON PROCEDURE `bar_bican`.`p` TO `u`@`%`"]), [""; 0]);
    }

    #[test]
    fn objects_and_patterns() {
        let split = |o: &str| split_object(o).unwrap();
        assert_eq!(split("`a``.b`.`c`"), ("a`.b".to_owned(), "c".to_owned()));
        assert_eq!(split("*.*"), ("*".to_owned(), "*".to_owned()));
        assert_eq!(split("\"d\".*"), ("d".to_owned(), "*".to_owned()));
        assert!(like("bar%", "barbican") && like("b_r", "bar") && like("b\\_r", "b_r") && like("%", ""));
        assert!(!like("b\\_r", "bar") && !like("bar", "barbican") && !like("barbican", "bar"));
    }

    #[test]
    fn programs_of_the_other_product_and_old_ones_are_told_apart() {
        const MARIADB: &str = "mysqldump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)";
        const NEWER: &str = "mariadb-dump from 11.8.3-MariaDB, client 10.19 for debian-linux-gnu (x86_64)";
        const MYSQL: &str = "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)";
        const OLD: &str = "mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)";
        for (said, server, fits) in [
            (MARIADB, "10.11.19-MariaDB-0+deb12u1", true),
            (NEWER, "10.3.39-MariaDB-log", true),
            (MARIADB, "8.0.36", false),
            (MYSQL, "10.11.19-MariaDB", false),
            (MYSQL, "8.0.36", true),
            (MYSQL, "8.4.0", true),
            (OLD, "5.7.44-log", true),
            (OLD, "8.0.36", false),
        ] {
            assert_eq!(unfit("mysqldump", said, server).is_none(), fits, "{said} for {server}");
        }
    }

    #[test]
    fn the_connection_is_that_of_the_url() {
        let said = |text: &str, family| {
            let options = options(&Url::parse(&SecretString::from(text)).unwrap(), family).unwrap();
            options.into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ")
        };
        let plain = "mysql+pymysql://b:secret@db/barbican?charset=utf8";
        let tcp = "user=b protocol=tcp host=db port=3306";
        assert_eq!(said(plain, Family::Mariadb), format!("{tcp} ssl=1 ssl-verify-server-cert=0"));
        assert_eq!(said(plain, Family::Mysql), format!("{tcp} ssl-mode=PREFERRED"));
        let tls = "mysql+pymysql://b@db/barbican?ssl_ca=/ca.pem";
        assert_eq!(said(tls, Family::Mariadb), format!("{tcp} ssl-ca=/ca.pem ssl=1 ssl-verify-server-cert=1"));
        assert_eq!(said(tls, Family::Mysql), format!("{tcp} ssl-ca=/ca.pem ssl-mode=VERIFY_IDENTITY"));
        let loose = "mysql+pymysql://b@db/barbican?ssl_ca=/ca.pem&ssl_check_hostname=false";
        assert_eq!(said(loose, Family::Mariadb), format!("{tcp} ssl-ca=/ca.pem ssl=1 ssl-verify-server-cert=0"));
        assert_eq!(said(loose, Family::Mysql), format!("{tcp} ssl-ca=/ca.pem ssl-mode=VERIFY_CA"));
        let socket = "mysql://b@/barbican?unix_socket=/run/mysqld.sock&ssl_disabled=true";
        assert_eq!(said(socket, Family::Mysql), "user=b protocol=socket socket=/run/mysqld.sock ssl-mode=DISABLED");
    }
}
