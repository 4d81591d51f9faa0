//! What the service's user could have root do by what it owns: `/etc/barbican`, the database's directory, names and values in them. Each is
//! tried as that user, and refused or of no use.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use keymgr_upgrade::db::{Access, Database, Proof};
use keymgr_upgrade::files::{Attributes, Root};

use crate::common::{Said, Sandbox};
use crate::paused::Paused;
use crate::proof::image;

/// The service's user; nobody's on this host.
const SERVICE: u32 = 64061;
const CONF: &str = "etc/barbican/barbican.conf";
const PASTE: &str = "etc/barbican/barbican-api-paste.ini";
const DATABASE: &str = "var/lib/barbican/barbican.sqlite";
const LIBERTY: &str = "4ecde3a3a72a";
const MITAKA: [&str; 4] = ["upgrade", "--to", "mitaka", "--yes"];

/// The fixture, where the service's user owns what Debian gives it, and may go there.
fn deployment() -> Sandbox {
    assert!(nix::unistd::geteuid().is_root(), "root is who is to be misled");
    let sandbox = Sandbox::liberty();
    open(sandbox.root().parent().unwrap());
    for directory in ["etc/barbican", "var/lib/barbican"] {
        give(&sandbox.path(directory));
        for entry in std::fs::read_dir(sandbox.path(directory)).unwrap() {
            give(&entry.unwrap().path());
        }
    }
    sandbox
}

fn open(directory: &Path) {
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
}

fn give(path: &Path) {
    lchown(path, Some(SERVICE), Some(SERVICE)).unwrap();
}

/// What the service's user does, in the image's root. It must be allowed to.
fn service(sandbox: &Sandbox, script: &str) {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(sandbox.root()).uid(SERVICE).gid(SERVICE);
    assert!(command.status().unwrap().success(), "{script}");
}

/// A file of root's that nobody else may read, beside the service's.
fn victim(sandbox: &Sandbox, name: &str, text: &[u8]) -> PathBuf {
    let path = sandbox.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// The kind, owner and contents of everything but the database and our own records.
fn others(sandbox: &Sandbox) -> Vec<(String, String)> {
    let all = image(&sandbox.root()).into_iter();
    all.filter(|(name, _)| !name.starts_with("var/lib/")).collect()
}

/// Runs the verb, which must be refused with these words, and change nothing.
#[track_caller]
fn refused(sandbox: &Sandbox, arguments: &[&str], words: &str) -> Said {
    let before = others(sandbox);
    let said = sandbox.run(arguments);
    assert_ne!(said.code, 0, "{}", said.all());
    said.says(words);
    assert_eq!(others(sandbox), before, "{words}: nothing is changed");
    said
}

#[test]
fn a_file_turned_into_a_link_is_neither_read_nor_written() {
    for (file, kept) in [(PASTE, "root.ini"), (CONF, "root.conf")] {
        let sandbox = deployment();
        let text = std::fs::read(sandbox.path(file)).unwrap();
        victim(&sandbox, &format!("etc/{kept}"), &text);
        // Absolute: within the root. Up and out: the same.
        for target in [format!("/etc/{kept}"), format!("../../../../../../etc/{kept}")] {
            service(&sandbox, &format!("ln -sfn {target} {file}"));
            refused(&sandbox, &MITAKA, &format!("a link of user {SERVICE} leads to what is not theirs"));
        }
        // What it may do itself is its own affair.
        service(
            &sandbox,
            &format!("cp etc/barbican/policy.json etc/barbican/own; chmod 600 etc/barbican/own; rm {file}"),
        );
        std::fs::write(sandbox.path("etc/barbican/own"), &text).unwrap();
        service(&sandbox, &format!("ln -s own {file}"));
        sandbox.run(&MITAKA).expect(0);
    }
}

#[test]
fn what_is_no_file_is_not_opened() {
    let sandbox = deployment();
    service(&sandbox, &format!("rm {PASTE}; mkfifo {PASTE}"));
    refused(&sandbox, &MITAKA, "is not a regular file");
    service(&sandbox, &format!("rm {PASTE}; mkdir {PASTE}"));
    refused(&sandbox, &MITAKA, "is not a regular file");
    let device = sandbox.path("dev/tape");
    std::fs::create_dir(sandbox.path("dev")).unwrap();
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    // Opening this one would be seen: it has no driver.
    nix::sys::stat::mknod(&device, kind, nix::sys::stat::Mode::S_IRUSR, nix::sys::stat::makedev(240, 7)).unwrap();
    service(&sandbox, &format!("rmdir {PASTE}; ln -s /dev/tape {PASTE}"));
    refused(&sandbox, &MITAKA, "is not a regular file");
}

#[test]
fn a_file_that_its_owner_made_huge_is_not_read() {
    let sandbox = deployment();
    service(&sandbox, &format!("truncate -s 65M {PASTE}"));
    refused(&sandbox, &MITAKA, "is larger than 64 MiB");
}

#[test]
fn a_directory_turned_into_a_link_is_not_followed() {
    let sandbox = deployment();
    victim(&sandbox, "etc/root.d/x.conf", b"[DEFAULT]\nsql_connection = sqlite:////root\n");
    service(&sandbox, "ln -s ../root.d etc/barbican/barbican.conf.d");
    refused(&sandbox, &MITAKA, "leads to what is not theirs");
    // All of it, while the parent is somebody's who may.
    let sandbox = deployment();
    give(&sandbox.path("etc"));
    let text = std::fs::read(sandbox.path(CONF)).unwrap();
    victim(&sandbox, "root/barbican.conf", &text);
    service(&sandbox, "mv etc/barbican etc/aside; ln -s ../root etc/barbican");
    refused(&sandbox, &MITAKA, "leads to what is not theirs");
}

#[test]
fn another_name_of_a_file_stays_as_it_was() {
    let sandbox = deployment();
    let text = std::fs::read(sandbox.path(CONF)).unwrap();
    let root = victim(&sandbox, "etc/root.conf", &text);
    std::fs::remove_file(sandbox.path(CONF)).unwrap();
    // As where fs.protected_hardlinks is 0.
    std::fs::hard_link(&root, sandbox.path(CONF)).unwrap();
    sandbox.run(&MITAKA).expect(0);
    sandbox.run(&["rollback", "--yes"]).expect(0);
    assert_eq!(std::fs::read(&root).unwrap(), text);
    let (ours, theirs) = (sandbox.path(CONF).metadata().unwrap(), root.metadata().unwrap());
    assert_ne!(ours.ino(), theirs.ino());
    assert_eq!((ours.uid(), ours.mode() & 0o7777), (0, 0o600), "and nobody reads what was root's");
}

#[test]
fn bits_that_give_rights_are_not_given_to_what_we_write() {
    let sandbox = deployment();
    service(&sandbox, &format!("chmod 6755 {CONF}"));
    sandbox.run(&MITAKA).expect(0);
    let now = sandbox.path(CONF).metadata().unwrap();
    assert_eq!((now.uid(), now.mode() & 0o7777), (SERVICE, 0o755));
}

#[test]
fn a_file_swapped_between_look_and_use_is_left() {
    for (arguments, point) in [(&MITAKA[..], "journal written"), (&["rollback", "--yes"], "journal written")] {
        let sandbox = deployment();
        if arguments[0] == "rollback" {
            sandbox.run(&MITAKA).expect(0);
        }
        let run = Paused::start(&mut sandbox.command(arguments), &sandbox.root().with_file_name("points"));
        let root = swap_files(&sandbox, run, point);
        for (path, text) in root {
            assert_eq!(std::fs::read(&path).unwrap(), text, "{}", path.display());
        }
    }
}

/// At the first `point` both files become links to files of root's with the same text, so that no digest tells. Returns those files.
fn swap_files(sandbox: &Sandbox, mut run: Paused, point: &str) -> Vec<(PathBuf, Vec<u8>)> {
    run.until(|passed| passed == point);
    let mut all = Vec::new();
    for file in [CONF, PASTE] {
        let text = std::fs::read(sandbox.path(file)).unwrap();
        let name = format!("etc/root-{}", Path::new(file).file_name().unwrap().display());
        all.push((victim(sandbox, &name, &text), text));
        service(sandbox, &format!("ln -sfn /{name} {file}"));
    }
    let said = run.go();
    assert_ne!(said.code, 0, "{}", said.all());
    said.says("a link of user");
    all
}

/// Ends with the test.
struct Swapper(std::process::Child);

impl Drop for Swapper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_link_that_comes_and_goes_never_leads_us() {
    let sandbox = deployment().copy();
    open(sandbox.root().parent().unwrap());
    let root = Root::open(&sandbox.root()).unwrap();
    let kept = victim(&sandbox, "etc/root.conf", b"[DEFAULT]\nroot = 1\n");
    victim(&sandbox, "etc/root.d/barbican.conf", b"[DEFAULT]\nroot = 1\n");
    open(&sandbox.path("etc/root.d"));
    let script = "while :; do \
                      ln -sfn /etc/root.conf etc/barbican/t && mv -fT etc/barbican/t etc/barbican/x.conf; \
                      echo x >etc/barbican/t && mv -fT etc/barbican/t etc/barbican/x.conf; \
                      ln -sfn /etc/root.d etc/barbican/t && mv -fT etc/barbican/t etc/barbican/d && rm etc/barbican/d; \
                      mkdir etc/barbican/d && echo x >etc/barbican/d/barbican.conf; rm -rf etc/barbican/d; \
                  done 2>/dev/null";
    let mut swapper = Command::new("sh");
    swapper.args(["-c", script]).current_dir(sandbox.root()).uid(SERVICE).gid(SERVICE).stdin(Stdio::null());
    let swapper = Swapper(swapper.spawn().unwrap());
    let attributes = Attributes { mode: 0o600, uid: 0, gid: 0 };
    let (mut written, mut turned) = (0, 0);
    for round in 0..20_000 {
        let path = if round % 2 == 0 { "/etc/barbican/x.conf" } else { "/etc/barbican/d/barbican.conf" };
        match root.write(Path::new(path), b"[DEFAULT]\nours = 1\n", attributes) {
            Ok(()) => written += 1,
            Err(error) => turned += usize::from(format!("{error:#}").contains("a link of user")),
        }
        if let Ok(Some(read)) = root.read(Path::new(path)) {
            assert_ne!(read.bytes, b"[DEFAULT]\nroot = 1\n", "what is root's is not read for others");
        }
        if written > 50 && turned > 50 {
            break;
        }
    }
    drop(swapper);
    assert!(written > 0 && turned > 0, "written {written} times, refused {turned} times");
    for path in [kept, sandbox.path("etc/root.d/barbican.conf")] {
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[DEFAULT]\nroot = 1\n");
        assert_eq!((path.metadata().unwrap().uid(), path.metadata().unwrap().mode() & 0o777), (0, 0o600));
    }
    assert_eq!(std::fs::read_dir(sandbox.path("etc/root.d")).unwrap().count(), 1, "nothing was made there");
}

/// Opens the database as root does, by its whole path.
fn database(sandbox: &Sandbox, access: Access) -> keymgr_upgrade::db::Result<Database> {
    Database::open_file(&sandbox.path(DATABASE), access, Duration::from_secs(1))
}

#[test]
fn a_database_turned_into_a_link_is_not_opened() {
    let sandbox = deployment();
    let bytes = std::fs::read(sandbox.path(DATABASE)).unwrap();
    let root = victim(&sandbox, "var/lib/root/root.sqlite", &bytes);
    service(&sandbox, &format!("ln -sfn ../root/root.sqlite {DATABASE}"));
    for verb in [&["db", "current"][..], &["db", "upgrade", "--yes"], &["kek", "migrate", "--yes"], &MITAKA] {
        refused(&sandbox, verb, "leads to what is not theirs");
    }
    assert!(database(&sandbox, Access::ReadWrite).is_err(), "nor where it was put in between");
    service(&sandbox, &format!("rm {DATABASE}"));
    std::fs::rename(sandbox.path("var/lib/barbican"), sandbox.path("var/lib/aside")).unwrap();
    std::fs::rename(&root, sandbox.path("var/lib/root/barbican.sqlite")).unwrap();
    symlink("root", sandbox.path("var/lib/barbican")).unwrap();
    give(&sandbox.path("var/lib/barbican"));
    refused(&sandbox, &["db", "upgrade", "--yes"], "leads to what is not theirs");
    assert!(database(&sandbox, Access::ReadWrite).is_err(), "nor its directory");
    assert_eq!(std::fs::read(sandbox.path("var/lib/root/barbican.sqlite")).unwrap(), bytes);
}

#[test]
fn links_where_sqlite_puts_its_files_are_refused() {
    for suffix in ["-journal", "-wal", "-shm"] {
        let sandbox = deployment();
        let outside = sandbox.root().with_file_name("outside");
        for target in ["/etc/root.conf".to_owned(), outside.display().to_string(), "gone".to_owned()] {
            let root = victim(&sandbox, "etc/root.conf", b"root's\n");
            service(&sandbox, &format!("ln -sfn {target} {DATABASE}{suffix}"));
            for verb in [&["db", "current"][..], &MITAKA] {
                refused(&sandbox, verb, "not a file that SQLite made");
            }
            assert_eq!(std::fs::read(root).unwrap(), b"root's\n");
            assert!(!outside.exists());
        }
    }
}

#[test]
fn a_link_put_beside_an_open_database_leads_nowhere() {
    let sandbox = deployment();
    open(&sandbox.path("etc"));
    let root = sandbox.path("etc/cron");
    std::fs::create_dir(&root).unwrap();
    for (name, made) in [("there", true), ("new", false)] {
        if made {
            std::fs::write(root.join(name), b"root's\n").unwrap();
        }
        let mut open = database(&sandbox, Access::ReadWrite).unwrap();
        let journal = sandbox.path(&format!("{DATABASE}-journal"));
        service(&sandbox, &format!("ln -s {} {}", root.join(name).display(), journal.display()));
        let error = open.stamp("d2780d5aa510", Proof::WithoutProof).unwrap_err();
        assert!(!error.to_string().is_empty());
        drop(open);
        std::fs::remove_file(journal).unwrap();
        assert_eq!(root.join(name).exists(), made, "nothing is made where only root may");
    }
    assert_eq!(std::fs::read(root.join("there")).unwrap(), b"root's\n");
    assert_eq!(revision(&sandbox), LIBERTY);
}

fn revision(sandbox: &Sandbox) -> String {
    let connection = rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap();
    connection.query_row("SELECT version_num FROM alembic_version", [], |row| row.get(0)).unwrap()
}

#[test]
fn what_sqlite_makes_belongs_to_whose_database_it_is() {
    let sandbox = deployment();
    let groups = nix::unistd::getgroups().unwrap();
    rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap().pragma_update(None, "journal_mode", "wal").unwrap();
    give(&sandbox.path(DATABASE));
    let mut open = database(&sandbox, Access::ReadWrite).unwrap();
    open.stamp(LIBERTY, Proof::Verified).unwrap();
    for suffix in ["-wal", "-shm"] {
        let made = sandbox.path(&format!("{DATABASE}{suffix}")).metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (SERVICE, SERVICE), "{suffix}");
    }
    // A copy is root's all the same, and so is all that we make ourselves.
    let copy = sandbox.root().with_file_name("copy.sqlite");
    let fingerprint = open.backup_to(&copy).unwrap();
    assert_eq!((copy.metadata().unwrap().uid(), copy.metadata().unwrap().mode() & 0o777), (0, 0o600));
    drop(open);
    assert_eq!(nix::unistd::getgroups().unwrap(), groups);
    std::fs::write(sandbox.path("etc/mine"), "").unwrap();
    assert_eq!(sandbox.path("etc/mine").metadata().unwrap().uid(), 0);
    assert_eq!(Database::restore(&sandbox.path(DATABASE), &copy, Duration::from_secs(1)).unwrap(), fingerprint);
    let file = sandbox.path(DATABASE).metadata().unwrap();
    assert_eq!((file.uid(), file.gid()), (SERVICE, SERVICE));
    let new = sandbox.path("var/lib/barbican/new.sqlite");
    drop(Database::create(&new, LIBERTY).unwrap());
    assert_eq!((new.metadata().unwrap().uid(), new.metadata().unwrap().gid()), (SERVICE, SERVICE));
}

#[test]
fn the_whole_way_and_back_on_what_the_service_owns() {
    let sandbox = deployment();
    let before = image(&sandbox.path("etc/barbican"));
    sandbox.run(&MITAKA).expect(0);
    let owners = |sandbox: &Sandbox| {
        let names = [CONF, PASTE, DATABASE].map(|file| sandbox.path(file).metadata().unwrap().uid());
        assert_eq!(names, [SERVICE; 3]);
        let left = std::fs::read_dir(sandbox.path("var/lib/barbican")).unwrap().count();
        assert_eq!(left, 1, "nothing is left beside the database");
    };
    owners(&sandbox);
    sandbox.run(&["rollback", "--yes"]).expect(0);
    owners(&sandbox);
    assert_eq!(revision(&sandbox), LIBERTY);
    assert_eq!(image(&sandbox.path("etc/barbican")), before);
}

#[test]
fn a_state_directory_of_somebody_else_is_not_used() {
    for (mode, owner) in [(0o755, SERVICE), (0o777, 0)] {
        let sandbox = deployment();
        let state = sandbox.path("var/lib/keymgr-upgrade");
        std::fs::create_dir_all(state.join("runs")).unwrap();
        chown(&state, Some(owner), None).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(mode)).unwrap();
        refused(&sandbox, &MITAKA, "is not ours alone");
    }
}

#[test]
fn nothing_of_an_image_leads_out_of_it() {
    let outside = tempfile::tempdir().unwrap();
    let sandbox = deployment();
    for (name, file) in [("conf", CONF), ("paste", PASTE), ("database", DATABASE)] {
        std::fs::copy(sandbox.path(file), outside.path().join(name)).unwrap();
    }
    let seen = image(outside.path());
    // Root's own links, in a tree that came from elsewhere.
    for (name, file) in [("conf", CONF), ("paste", PASTE), ("database", DATABASE)] {
        let kept = std::fs::read(sandbox.path(file)).unwrap();
        std::fs::remove_file(sandbox.path(file)).unwrap();
        symlink(outside.path().join(name), sandbox.path(file)).unwrap();
        for verb in [&["check", "--to", "mitaka"][..], &["plan", "--to", "mitaka", "--diff"], &["db", "current"]] {
            let said = sandbox.run(verb);
            assert!(said.code != 0 || file == PASTE, "{verb:?}: {}", said.all());
        }
        std::fs::remove_file(sandbox.path(file)).unwrap();
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(sandbox.path(file)).unwrap();
        std::fs::write(sandbox.path(file), kept).unwrap();
    }
    let state = sandbox.path("var/lib/keymgr-upgrade");
    std::fs::remove_dir_all(&state).ok();
    symlink(outside.path(), &state).unwrap();
    assert_ne!(sandbox.run(&MITAKA).code, 0);
    assert_eq!(image(outside.path()), seen);
}

#[test]
fn hostile_names_and_values_are_data() {
    const NASTY: &str =
        "a\u{1b}]0;x\u{7}\u{9b}31m\u{7f}'; DROP TABLE secrets; --$(touch owned)`touch owned`\r\nNext: rm -rf /";
    let sandbox = deployment();
    let connection = rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap();
    connection.execute("UPDATE kek_data SET project_id = ?1 WHERE rowid = 1", [NASTY]).ok();
    connection.execute("UPDATE kek_data SET plugin_name = ?1, plugin_meta = ?1 WHERE rowid = 2", [NASTY]).unwrap();
    connection
        .execute("UPDATE encrypted_data SET cypher_text = ?1, kek_meta_extended = ?1 WHERE rowid = 1", [NASTY])
        .unwrap();
    connection.execute("UPDATE secrets SET name = ?1", [NASTY]).unwrap();
    connection.execute(&format!("CREATE TABLE \"{}\" (x)", NASTY.replace('"', "")), []).unwrap();
    drop(connection);
    give(&sandbox.path(DATABASE));
    let conf = sandbox.read(CONF);
    let value = NASTY.replace(['\r', '\n'], " ");
    sandbox.write(
        CONF,
        &conf.replace("[DEFAULT]\n", &format!("[DEFAULT]\nhost_href = {value}\n# {value}\n{value} = 1\n")),
    );
    sandbox.write(
        "var/lib/dpkg/status",
        &format!("Package: barbican-api\nStatus: install ok {value}\nVersion: 1:1.0.0-1\n"),
    );
    let secrets: i64 = count(&sandbox);
    for flags in [&["--verbose"][..], &["--json"]] {
        for verb in [
            &["check", "--to", "mitaka"][..],
            &["notes"],
            &["plan", "--to", "mitaka", "--diff"],
            &["plan", "--to", "mitaka", "--as-shell"],
            &["kek", "status"],
            &["kek", "verify"],
            &["db", "verify"],
            &["config", "diff", "--to", "mitaka"],
            &["units", "status"],
            &["approve", "--to", "mitaka"],
            &MITAKA,
            &["status"],
            &["rollback", "--yes"],
        ] {
            let said = sandbox.run(&[flags, verb].concat());
            let raw = said.all().chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
            assert_eq!(raw, None, "{verb:?}: {}", said.all());
            let last = said.all().lines().last().unwrap_or_default().to_owned();
            assert!(!last.contains("rm -rf"), "{verb:?}: {}", said.all());
        }
    }
    assert_eq!(count(&sandbox), secrets);
    assert!(!sandbox.path("owned").exists() && !Path::new("owned").exists());
    for log in std::fs::read_dir(sandbox.path("var/lib/keymgr-upgrade/runs")).into_iter().flatten() {
        let text = std::fs::read_to_string(log.unwrap().path().join("log")).unwrap_or_default();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
    }
    // Names that become paths.
    for unit in ["../../cron", "a/b", "$(touch owned)", "@x"] {
        sandbox.write("etc/keymgr-upgrade/keymgr-upgrade.conf", &format!("[barbican]\nunits = {unit}\n"));
        assert_ne!(sandbox.run(&["units", "hold"]).code, 0, "{unit}");
    }
    assert!(!sandbox.path("owned").exists());
}

fn count(sandbox: &Sandbox) -> i64 {
    let connection = rusqlite::Connection::open(sandbox.path(DATABASE)).unwrap();
    connection.query_row("SELECT count(*) FROM secrets", [], |row| row.get(0)).unwrap()
}
