//! What is held of every text that comes from outside, whatever is in it: for the fuzzer (`fuzz/`), and a short run of the tests.
//!
//! A target takes any bytes and panics where something does not hold. Compiled for the tests and with `--cfg fuzzing` only.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::approval::Approval;
use crate::db::Url;
use crate::deployment::Recorded;
use crate::hook::{self, Change, Hop, Packages, Told};
use crate::ini::{Dialect, Document};
use crate::journal::{self, RunState};
use crate::kek::Summary;
use crate::options::{self, Conflict, Surroundings};
use crate::paste;
use crate::plan::Plan;
use crate::process::Process;
use crate::release::{Catalogue, Edit};
use crate::request::Request;
use crate::settings::Settings;
use crate::step::{Step, Undo};
use crate::{config, db, deployment, http, kek, systemd, ui};

/// A property of any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 16] = [
    ("apt", apt),
    ("dpkg", dpkg),
    ("ini", ini),
    ("ini_edit", ini_edit),
    ("journal", journal),
    ("kek_meta", kek_meta),
    ("options", options),
    ("paste", paste),
    ("records", records),
    ("rpm", rpm),
    ("settings", settings),
    ("sql", sql),
    ("survey", survey),
    ("units", units),
    ("url", url),
    ("version", version),
];

const DIALECTS: [Dialect; 3] = [Dialect::Oslo, Dialect::Paste2, Dialect::Paste3];

/// The first byte, which chooses, and the rest.
fn choice(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest))
}

fn dialect(choice: usize) -> Dialect {
    DIALECTS.into_iter().cycle().nth(choice % DIALECTS.len()).unwrap_or(Dialect::Oslo)
}

/// The document is what its text says, and prints it.
fn is_its_text(document: &Document) {
    let again = Document::parse(&document.to_bytes(), document.name()).expect("what was edited parses");
    assert!(again == *document, "lines are what their text says");
}

/// A document prints what was parsed; what a reader accepts it reads.
pub fn ini(data: &[u8]) {
    let Ok(document) = Document::parse(data, "x") else { return };
    assert_eq!(document.to_bytes(), data, "what was parsed is printed");
    for dialect in DIALECTS {
        let accepted = document.accepts(dialect).is_ok() && document.not_utf8().is_empty();
        for section in document.sections() {
            for key in document.keys(dialect, &section.name) {
                let one = document.get(dialect, &section.name, &key.name);
                let all = document.get_all(dialect, &section.name, &key.name);
                if let (Ok(one), Ok(all)) = (&one, &all) {
                    assert_eq!(one.as_ref(), all.last(), "the last one counts");
                }
                assert!(!accepted || one.is_ok(), "what a reader accepts it reads");
                let _ = document.words(dialect, &section.name, &key.name);
            }
        }
        if let Ok(text) = config::masked(&document, dialect) {
            is_masked(&text, dialect);
        }
    }
    let _ = (document.not_utf8(), document.differences(Dialect::Paste2, Dialect::Paste3));
}

/// Nothing is left of it to mask.
fn is_masked(text: &str, dialect: Dialect) {
    let Ok(document) = Document::parse(text.as_bytes(), "x") else { return };
    for section in document.sections() {
        for key in document.keys(dialect, &section.name) {
            for value in document.get_all(dialect, &section.name, &key.name).unwrap_or_default() {
                assert_eq!(config::shown(&key.name, &value), value, "{} is masked", key.name);
            }
        }
    }
}

/// Choice, section, key, value and document, with zeros in between.
pub fn ini_edit(data: &[u8]) {
    let (choice, rest) = choice(data);
    let (dialect, verb) = (dialect(choice), choice / 3 % 8);
    let mut parts = rest.splitn(4, |b| *b == 0).map(String::from_utf8_lossy);
    let mut part = || parts.next().unwrap_or_default().into_owned();
    let (section, key, value) = (part(), part(), part());
    let text = rest.splitn(4, |b| *b == 0).nth(3).unwrap_or_default();
    let Ok(before) = Document::parse(text, "x") else { return };
    let mut after = before.clone();
    let values: Vec<&str> = value.split('\u{1}').collect();
    let done = match verb {
        0 | 1 => after.set(dialect, &section, &key, &value).map(Some),
        2 => after.set_multi(dialect, &section, &key, &values).map(Some),
        3 => after.insert(dialect, &section, &key, &value, "why").map(|()| None),
        4 => after.insert_word(dialect, &section, &key, choice / 24 % 3, &value).map(|()| None),
        5 => after.rename_key(dialect, &section, &key, &value).map(Some),
        6 => after.remove_key(dialect, &section, &key).map(Some),
        _ if choice >= 128 => after.remove_section(dialect, &section).map(Some),
        _ => after.add_section(dialect, &section, &[(&key, &value)], Some("s")).map(|()| None),
    };
    let Ok(changed) = done else {
        assert!(after == before, "what fails changes nothing");
        return;
    };
    is_its_text(&after);
    if let Some(changed) = changed {
        assert_eq!(changed, after.to_bytes() != before.to_bytes(), "says whether it changed anything");
    }
    match verb {
        0 | 1 | 3 => assert_eq!(after.get(dialect, &section, &key).as_ref(), Ok(&Some(value.clone())), "reads back"),
        2 => assert_eq!(after.get_all(dialect, &section, &key).as_ref(), Ok(&owned(&values)), "all read back"),
        6 => assert_eq!(after.line_of(dialect, &section, &key), None, "is gone"),
        7 if choice >= 128 => assert!(!after.has_section(dialect, &section), "is gone"),
        7 => assert_eq!(after.get(dialect, &section, &key).as_ref(), Ok(&Some(value.clone())), "reads back"),
        _ => {}
    }
    // Where a reader took the file, it reads everything else as before.
    if before.accepts(dialect).is_ok() && verb != 7 && verb != 5 {
        others_unchanged(&before, &after, dialect, &section, &key);
    }
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

fn others_unchanged(before: &Document, after: &Document, dialect: Dialect, section: &str, key: &str) {
    let same = |a: &str, b: &str| a == b || dialect == Dialect::Oslo && a.to_lowercase() == b.to_lowercase();
    for header in before.sections() {
        for other in before.keys(dialect, &header.name) {
            if other.name == key && same(&header.name, section) {
                continue;
            }
            let read = |d: &Document| d.get_all(dialect, &header.name, &other.name).ok();
            assert_eq!(read(before), read(after), "[{}] {} is as before", header.name, other.name);
        }
    }
}

/// Choice of reader and release, and a paste file: every rule twice is once.
pub fn paste(data: &[u8]) {
    let (choice, text) = choice(data);
    let dialect = if choice % 2 == 0 { Dialect::Paste2 } else { Dialect::Paste3 };
    let Ok(mut document) = Document::parse(text, "paste.ini") else { return };
    let versions = ["2014.2", "1.0.0", "5.0.0", "15.0.1", "23.0.0"];
    let version = versions.iter().cycle().nth(choice / 2 % versions.len()).unwrap_or(&"1.0.0");
    let look = |document: &Document| {
        let _ = (paste::check(document, dialect, version), paste::v1_access(document, dialect));
        let _ = paste::facts(document, dialect);
    };
    look(&document);
    let given = document.clone();
    for rule in paste::RULES {
        let before = document.clone();
        let Ok(changes) = rule.apply(&mut document, dialect) else {
            assert!(document == before, "a rule that fails changes nothing");
            continue;
        };
        assert_eq!(changes.is_empty(), document == before, "{rule:?} says whether it changed anything");
    }
    if document != given {
        is_its_text(&document);
        look(&document);
    }
    let once = document.clone();
    for rule in paste::RULES {
        let again = rule.apply(&mut document, dialect).unwrap_or_default();
        assert!(again.is_empty() && document == once, "{rule:?} twice is once");
    }
}

/// Choice of the target, the document, a zero, and the file that is read no longer.
pub fn options(data: &[u8]) {
    let (choice, rest) = choice(data);
    let mut texts = rest.splitn(2, |b| *b == 0);
    let mut parse = |name| Document::parse(texts.next().unwrap_or_default(), name);
    let (Ok(mut document), Ok(legacy)) = (parse("barbican.conf"), parse("barbican-api.conf")) else { return };
    let releases = Catalogue::embedded().expect("the catalogue is read").releases();
    let Some(target) = releases.iter().cycle().nth(choice % releases.len()) else { return };
    let around = Surroundings { target, main: true, set_anywhere: false, merge: Some(&legacy), proved: None };
    let edits = releases.iter().filter(|r| !target.is_before(r)).flat_map(|r| &r.options);
    let mut edits: Vec<&Edit> = edits.map(|edit| &edit.edit).collect();
    for edit in &edits {
        let before = document.clone();
        match options::apply(edit, &mut document, around) {
            Ok(changes) => assert_eq!(changes.is_empty(), document == before, "{edit:?} says whether it changed"),
            Err(error) if error.is::<Conflict>() => {
                assert!(document == before, "{edit:?}: what contradicts itself is left");
                return;
            }
            Err(_) => return,
        }
    }
    is_its_text(&document);
    // The file that is merged is gone then.
    edits.retain(|edit| !matches!(edit, Edit::MergeFile { .. }));
    let once = document.to_bytes();
    for edit in edits {
        let again = options::apply(edit, &mut document, around).unwrap_or_default();
        assert!(again.is_empty() && document.to_bytes() == once, "{edit:?} twice is once: {again:?}");
    }
}

/// Either JSON text of `p11_crypto`.
pub fn kek_meta(data: &[u8]) {
    kek::fuzz::meta(data);
}

/// Columns of keys and secrets.
pub fn survey(data: &[u8]) {
    kek::fuzz::survey(data);
}

/// Values in SQL.
pub fn sql(data: &[u8]) {
    db::fuzz::sql(data);
}

/// What stands before the password, a zero, and what after it.
pub fn url(data: &[u8]) {
    // With characters that stand in no name of ours.
    const PASSWORD: &str = "Hu5h!Hu5h";
    let text = String::from_utf8_lossy(data);
    let _ = http::Address::parse(&text).map(|address| (address.to_string(), format!("{address:?}")));
    let _ = http::headers(&text);
    let _ = Url::parse(&SecretString::from(text.as_ref())).map(|url| url.to_string());
    if text.contains(PASSWORD) {
        // The fuzzer has learned it; where it stands by itself it is no password.
        return;
    }
    let text = text.replacen('\0', PASSWORD, 1);
    match Url::parse(&SecretString::from(text.as_str())) {
        Ok(url) => {
            let secret = url.password().is_some_and(|p| p.expose_secret().contains(PASSWORD));
            let shown = format!("{url} {url:?} {} {}", url.place(), url.driver());
            assert!(!secret || !shown.contains(PASSWORD), "{shown}");
            let _ = (url.sqlite_path(), url.host(), url.port(), url.params());
        }
        Err(error) => assert!(!error.to_string().contains(PASSWORD), "{error}"),
    }
}

/// Any prefix of a journal is one, and what is read is what would be written.
pub fn journal(data: &[u8]) {
    let path = Path::new("journal.jsonl");
    let Ok((records, whole)) = journal::parse(data, path) else { return };
    assert!(whole <= data.len());
    let written: Vec<Vec<u8>> = records.iter().map(|r| serde_json::to_vec(r).expect("a record is written")).collect();
    let mut bytes = Vec::new();
    for (count, line) in written.iter().enumerate() {
        bytes.extend_from_slice(line);
        // Torn within, and at its end.
        for torn in [line.len() / 2, 0] {
            let cut = bytes.get(..bytes.len() - torn).unwrap_or_default();
            let (read, _) = journal::parse(cut, path).expect("a torn line is dropped");
            assert_eq!(read.len(), count);
        }
        bytes.push(b'\n');
    }
    let (again, _) = journal::parse(&bytes, path).expect("what we write we read");
    assert!(again == records, "what is written is what was read");
    let last = RunState::replay(&records);
    for count in 0..records.len().min(16) {
        let state = RunState::replay(records.get(..count).unwrap_or_default());
        assert!(state.steps.len() <= last.steps.len());
    }
}

/// What apt hands over.
pub fn apt(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match hook::parse(&text) {
        Ok(given) => {
            assert!(given.changes.iter().all(|change| hook::is_barbican(&change.package)));
            assert!(given.changes.len() <= given.packages);
            assert!(text.contains("barbican") || given.changes.is_empty());
        }
        Err(_) => assert!(text.contains("barbican"), "what is not ours is no business of ours"),
    }
}

/// The words of a command line, with line ends in between; also taken for a status file, and for an archive's fields.
pub fn dpkg(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let argv: Vec<String> = text.lines().map(str::to_owned).collect();
    let found = hook::archives(&argv);
    assert!(found.paths.len() < argv.len().max(1));
    let _ = hook::of_archive(&text);
    let now = hook::installed(&text);
    assert!(now.iter().all(|package| hook::is_barbican(&package.package)));
    let change = |package: &hook::Installed| Change {
        package: package.package.clone(),
        old: Some(package.version.clone()),
        new: None,
    };
    let changes: Vec<Change> = now.iter().map(change).collect();
    let _ = (hook::standing(&changes, &now, "zed"), hook::ended(&changes, &now, Some("zed")));
}

/// Choice of what rpm or dnf hands over, and that.
pub fn rpm(data: &[u8]) {
    let (choice, rest) = choice(data);
    let text = String::from_utf8_lossy(rest);
    match choice % 3 {
        0 => {
            if let Ok(given) = hook::resolved(&text) {
                assert!(given.changes.iter().all(|change| hook::is_barbican(&change.package)));
                let names = given.changes.iter().map(|change| &change.package);
                assert_eq!(names.clone().collect::<std::collections::BTreeSet<_>>().len(), given.changes.len());
            }
        }
        1 => {
            if let Ok(now) = hook::queried(&text) {
                assert!(now.iter().all(|package| hook::is_barbican(&package.package)));
                let _ = hook::ended(&[], &now, None);
            }
        }
        _ => {
            let argv: Vec<String> = text.lines().map(str::to_owned).collect();
            let _ = hook::called(&argv, Path::new("/"));
        }
    }
}

/// Our own settings: an error names a line of the file.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut settings = Settings::default();
    if let Err(error) = settings.merge(&text, Path::new("k.conf")) {
        let words = format!("{error:#}");
        let line = words.strip_prefix("k.conf:").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        assert!(line.is_some_and(|line| (1..=text.lines().count()).contains(&line)), "no line of the file: {words}");
    }
}

/// Choice of a record of ours, and its JSON.
pub fn records(data: &[u8]) {
    const READERS: [Target; 11] = [
        same::<Approval>,
        same::<Request>,
        same::<Packages>,
        same::<Hop>,
        same::<Told>,
        same::<Recorded>,
        same::<Plan>,
        same::<Step>,
        same::<Undo>,
        same::<Summary>,
        same::<Process>,
    ];
    let (choice, json) = choice(data);
    if let Some(read) = READERS.iter().cycle().nth(choice % READERS.len()) {
        read(json);
    }
}

/// What is read is written, and read as the same again.
fn same<T: DeserializeOwned + Serialize + PartialEq>(json: &[u8]) {
    let Ok(record) = serde_json::from_slice::<T>(json) else { return };
    let text = serde_json::to_vec(&record).expect("a record is written");
    assert!(serde_json::from_slice::<T>(&text).is_ok_and(|again| again == record), "what is written is what was read");
}

/// Command lines, unit files, files of web servers and of variables, what `/proc` says; and how any text is shown.
pub fn units(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    deployment::fuzz(&text);
    systemd::fuzz(&text);
    Process::fuzz(&text);
    if let Ok(name) = crate::units::full_name(&text) {
        assert!(!name.contains('/') && !name.starts_with('.'), "{name} is no path");
    }
    let shown = ui::clean(&text);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\t'), "{shown:?}");
    let words: Vec<String> = ui::wrap(&text, 20);
    assert!(!words.iter().skip(1).any(|line| line.starts_with("Next:")), "a line of somebody else's");
    assert_eq!(words.join(" ").split_whitespace().collect::<String>(), text.split_whitespace().collect::<String>());
    shell(&text);
}

/// What a shell makes of a word of ours: outside of quotes nothing but plain characters, and `\'`.
fn shell(text: &str) {
    let word = db::shell_word(text);
    let mut rest = word.as_str();
    let mut read = String::new();
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let (inside, after) = quoted.split_once('\'').expect("quotes are closed");
            read.push_str(inside);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("\\'") {
            read.push('\'');
            rest = after;
        } else {
            assert!(first.is_ascii_alphanumeric() || "-_./:=,+@%".contains(first), "{word}");
            read.push(first);
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    assert_eq!(read, text);
}

/// Versions, releases, ids of runs.
pub fn version(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let catalogue = Catalogue::embedded().expect("the catalogue is read");
    if let Ok(found) = catalogue.by_version(&text) {
        let again = catalogue.by_version(&found.version.to_string()).expect("the numbers alone are a version");
        assert_eq!(again.release.id, found.release.id);
    }
    let _ = (catalogue.by_name(&text), catalogue.releases_with_head(&text), catalogue.release_of_revision(&text));
    let _ = crate::release::PythonVersion::try_from(text.clone().into_owned());
    if let Some(at) = crate::time::of_id(&text) {
        let _ = (crate::time::id(at), crate::time::stamp(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many changed texts each kept one is tried as.
    const CHANGED: usize = 60;

    /// What the fuzzer found worth keeping, smallest first.
    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let mut texts: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        texts.sort_by_key(|text| (text.len(), text.clone()));
        assert!(texts.len() > 3, "{name} has a corpus");
        texts
    }

    /// Numbers that look like chance, the same each time (Marsaglia's xorshift).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 11).unwrap() % end.max(1)
        }
    }

    /// The text with a byte changed, a piece taken out, put in twice, or taken from another text.
    fn changed(text: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
        let mut new = text.to_vec();
        for _ in 0..=chance.below(3) {
            let (a, b) = (chance.below(new.len() + 1), chance.below(new.len() + 1));
            let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 12));
            match chance.below(5) {
                0 => new.insert(from, u8::try_from(chance.below(256)).unwrap()),
                1 => drop(new.drain(from..to)),
                2 => new.extend_from_within(from..to),
                3 => {
                    let start = chance.below(other.len() + 1);
                    let piece: Vec<u8> = other[start..].iter().copied().take(12).collect();
                    new.splice(from..from, piece).for_each(drop);
                }
                _ => new[from..to].iter_mut().for_each(|byte| *byte ^= 1 << chance.below(8)),
            }
        }
        new
    }

    /// The first text that a target does not hold for.
    fn refuted(name: &str, target: Target, chance: &mut Chance) -> Option<Vec<u8>> {
        let texts = corpus(name);
        let fails = |text: &[u8]| std::panic::catch_unwind(|| target(text)).is_err();
        if let Some(text) = texts.iter().find(|text| fails(text)) {
            return Some(text.clone());
        }
        let like = texts.iter().flat_map(|text| std::iter::repeat_n(text, CHANGED));
        like.map(|text| changed(text, &texts[chance.below(texts.len())], chance)).find(|text| fails(text))
    }

    #[test]
    fn every_target_holds_on_its_corpus_and_texts_like_it() {
        let mut chance = Chance(0x2545_f491_4f6c_dd1d);
        let mut failing = Vec::new();
        for (name, target) in TARGETS {
            if let Some(text) = refuted(name, target, &mut chance) {
                failing.push((name, String::from_utf8_lossy(&text).into_owned()));
            }
        }
        assert_eq!(failing, [], "these do not hold");
    }

    #[test]
    fn each_target_is_a_program_of_the_fuzzer() {
        let manifest = include_str!("../fuzz/Cargo.toml");
        let programs: Vec<&str> = manifest.lines().filter_map(|l| l.strip_prefix("path = \"fuzz_targets/")).collect();
        let wanted: Vec<String> = TARGETS.iter().map(|(name, _)| format!("{name}.rs\"")).collect();
        assert_eq!(programs, wanted);
    }
    /// Else `make fuzz` refuses, and nothing else says so.
    #[test]
    fn the_lock_file_of_the_fuzzer_knows_each_dependency() {
        let read = |text: &str| text.parse::<toml::Table>().unwrap();
        let (ours, lock) = (read(include_str!("../Cargo.toml")), read(include_str!("../fuzz/Cargo.lock")));
        let packages = lock["package"].as_array().unwrap();
        let us = packages.iter().find(|p| p["name"].as_str() == Some(env!("CARGO_PKG_NAME"))).unwrap();
        let locked: Vec<&str> = us["dependencies"].as_array().unwrap().iter().filter_map(|d| d.as_str()).collect();
        let is_locked = |name: &str| locked.iter().any(|l| l.split(' ').next() == Some(name));
        let unknown: Vec<&String> = ours["dependencies"].as_table().unwrap().keys().filter(|n| !is_locked(n)).collect();
        assert_eq!(unknown, Vec::<&String>::new(), "run `cargo update --workspace --manifest-path fuzz/Cargo.toml`");
    }
}
