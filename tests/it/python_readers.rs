//! Python's own oslo.config and PasteDeploy read what `ini` and `paste` made.
//!
//! The files of `tests/fixtures/paste` are taken through the releases of the
//! catalogue. What each hop does stands in `tests/fixtures/paste/expected`,
//! what comes out in the end in `intended.toml`.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keymgr_upgrade::command;
use keymgr_upgrade::ini::{Dialect, Document};
use keymgr_upgrade::paste::{self, Rule};
use keymgr_upgrade::release::{Catalogue, Release};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

const SHORT: [(&str, &str); 17] = [
    ("oslo_middleware.cors:filter_factory", "cors"),
    ("egg:oslo.middleware#cors", "cors"),
    ("oslo_middleware.request_id:RequestId.factory", "request_id"),
    ("egg:oslo.middleware#request_id", "request_id"),
    ("oslo_middleware:HTTPProxyToWSGI.factory", "proxy"),
    ("egg:oslo_middleware#http_proxy_to_wsgi", "proxy"),
    ("oslo_middleware:Healthcheck.factory", "health"),
    ("oslo_middleware:Healthcheck.app_factory", "healthapp"),
    ("keystonemiddleware.auth_token:filter_factory", "token"),
    ("egg:keystonemiddleware#auth_token", "token"),
    ("keystonemiddleware.audit:filter_factory", "audit"),
    ("barbican.api.middleware.context:ContextMiddleware.factory", "context"),
    ("barbican.api.middleware.context:UnauthenticatedContextMiddleware.factory", "open"),
    ("barbican.api.middleware.microversion:MicroversionMiddleware.factory", "microversion"),
    ("barbican.api.app:create_main_app", "apiapp"),
    ("barbican.api.app:create_version_app", "versionapp"),
    ("keystoneclient.middleware.auth_token:filter_factory", "oldtoken"),
];

/// A paste file, and what is to come of it.
struct Case {
    name: String,
    document: Document,
    dialect: Dialect,
    /// Whether Python 3 reads it.
    python3: bool,
    /// The releases that bring rules for it, and the last one.
    hops: Vec<&'static Release>,
    pipelines: BTreeMap<String, String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/paste")
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("intended.toml")).expect("intended.toml");
    let intended: BTreeMap<String, BTreeMap<String, String>> = toml::from_str(&text).expect("intended.toml");
    let case = |(name, mut pipelines): (String, BTreeMap<String, String>)| {
        let bytes = std::fs::read(folder().join(format!("{name}.ini"))).expect("a fixture");
        let from = pipelines.remove("from").expect("from");
        let python = pipelines.remove("python").unwrap_or_else(|| "3".to_owned());
        Case {
            document: Document::parse(&bytes, &name).expect("a document"),
            dialect: if python == "2" { Dialect::Paste2 } else { Dialect::Paste3 },
            python3: python == "3",
            hops: hops(&from),
            name,
            pipelines,
        }
    };
    intended.into_iter().map(case).collect()
}

/// The releases after `from` that change the file, and the last one.
fn hops(from: &str) -> Vec<&'static Release> {
    let catalogue = Catalogue::embedded().expect("catalogue");
    let all = catalogue.releases();
    let next = match from {
        "icehouse" => 0,
        from => 1 + all.iter().position(|release| release.id == from).expect("a release"),
    };
    let last = all.len() - 1;
    let later = all.iter().enumerate().skip(next);
    later.filter(|(at, release)| *at == last || !release.paste.is_empty()).map(|(_, release)| release).collect()
}

fn rules(release: &Release) -> Vec<Rule> {
    let rule = |name: &String| serde_json::from_value(Value::from(name.as_str())).expect("a rule");
    release.paste.iter().map(rule).collect()
}

/// Lines with what the eye does not see made visible.
fn visible(document: &Document) -> Vec<String> {
    let bytes = document.to_bytes();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split_inclusive('\n').map(|line| {
        let body = line.strip_suffix('\n');
        let shown = body.unwrap_or(line).replace('\r', "\\r").replace('\t', "\\t").replace('\u{feff}', "\\u{feff}");
        let trimmed = shown.trim_end_matches(' ');
        let blanks = "\\x20".repeat(shown.len() - trimmed.len());
        format!("{trimmed}{blanks}{}\n", if body.is_some() { "" } else { "\\no newline" })
    });
    lines.collect()
}

/// The changed lines, each with its neighbours.
fn diff(before: &Document, after: &Document) -> String {
    let (before, after) = (visible(before).concat(), visible(after).concat());
    let diff = similar::TextDiff::from_lines(&before, &after);
    diff.unified_diff().context_radius(1).to_string()
}

#[test]
fn every_hop_gives_the_text_that_is_expected() {
    for case in cases() {
        let mut document = case.document.clone();
        let mut told = String::new();
        for release in &case.hops {
            let before = document.clone();
            told.push_str(&format!("== {}\n", release.id));
            for rule in rules(release) {
                for change in rule.apply(&mut document, case.dialect).expect("the rule applies") {
                    told.push_str(&format!("done: {change}\n"));
                }
            }
            for problem in paste::check(&document, case.dialect, &release.version).expect("check") {
                told.push_str(&format!("{:?}: {problem}\n", problem.severity).to_lowercase());
            }
            told.push_str(&diff(&before, &document));
        }
        let settings = {
            let mut settings = insta::Settings::clone_current();
            settings.set_snapshot_path(folder().join("expected"));
            settings.set_prepend_module_to_snapshot(false);
            settings.set_omit_expression(true);
            settings
        };
        settings.bind(|| insta::assert_snapshot!(case.name.as_str(), told));
    }
}

#[test]
fn every_fixture_has_its_intention() {
    let mut names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .expect("fixtures")
        .filter_map(|entry| entry.expect("entry").file_name().to_str()?.strip_suffix(".ini").map(str::to_owned))
        .collect();
    names.sort();
    files.sort();
    assert_eq!(names, files);
    assert!(files.len() >= 25, "ten versions and at least fifteen of sites");
}

/// Lets the Python readers read a folder with `paste/` and `oslo/`.
fn read_with_python(folder: &Path) -> Value {
    let Ok(venv) = std::env::var("KEYMGR_TEST_VENV_READERS") else {
        panic!("KEYMGR_TEST_VENV_READERS is not set: run `make setup`, then `make test`");
    };
    let python = Path::new(&venv).join("bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python_readers.py");
    let argv = [python.as_os_str(), script.as_os_str(), folder.as_os_str()];
    let out = command::run(&argv, &[("LC_ALL", "C.UTF-8"), ("PYTHONDONTWRITEBYTECODE", "1")]).expect("the readers run");
    serde_json::from_str(&out).expect("the readers' JSON")
}

/// A folder for the readers.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().expect("tempdir");
        for kind in ["paste", "oslo"] {
            std::fs::create_dir(folder.path().join(kind)).expect("folder");
        }
        Folder(folder)
    }

    #[expect(clippy::disallowed_methods, reason = "a throw-away file of a test")]
    fn add(&self, kind: &str, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(kind).join(name), bytes).expect("write");
    }

    fn read(&self) -> Value {
        read_with_python(self.0.path())
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn short(factories: &Value) -> String {
    let name =
        |factory: &str| SHORT.iter().find(|(long, _)| *long == factory).map_or(factory, |(_, name)| name).to_owned();
    strings(factories).into_iter().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn paste_deploy_reads_every_result_as_intended() {
    let folder = Folder::new();
    let mut results = Vec::new();
    for case in cases() {
        let mut document = case.document.clone();
        for release in &case.hops {
            for rule in rules(release) {
                rule.apply(&mut document, case.dialect).expect("the rule applies");
            }
            let name = format!("{}@{}", case.name, release.id);
            folder.add("paste", &name, &document.to_bytes());
            results.push((name, document.clone()));
        }
    }
    let read = folder.read();
    for (name, document) in &results {
        let (case, release) = name.split_once('@').expect("name");
        let case = cases().into_iter().find(|known| known.name == case).expect("case");
        let found = &read["paste"][name];
        let refused = document.accepts(Dialect::Paste3).is_err() || !document.not_utf8().is_empty();
        assert_eq!(found["error"].is_string(), refused, "{name}: {found}");
        assert_eq!(refused, !case.python3, "{name}");
        if refused {
            continue;
        }
        assert_eq!(found["load_error"], Value::Null, "{name}");
        compare_sections(name, document, &found["sections"]);
        let last = case.hops.last().expect("a hop").id == release;
        if last {
            let pipelines = found["pipelines"].as_object().expect("pipelines");
            let got: BTreeMap<String, String> =
                pipelines.iter().map(|(key, value)| (key.replacen("pipeline:", "", 1), short(value))).collect();
            assert_eq!(got, case.pipelines, "{name}");
        }
    }
    let healthcheck = |name: &str| short(&read["paste"][name]["main"]["/healthcheck"]);
    assert_eq!(healthcheck("P6@2026.2"), "healthapp");
    assert_eq!(healthcheck("taken-names@2026.2"), "healthapp");
    assert_eq!(healthcheck("healthcheck-filter@2026.2"), "");
    let v1 = |name: &str| short(&read["paste"][name]["main"]["/v1"]);
    assert_eq!(v1("charm@2026.2"), "cors request_id proxy token context microversion apiapp");
    assert_eq!(v1("P5@2026.2"), "cors request_id proxy open microversion apiapp", "the target is the site's");
}

/// What we read in every key is what Python's parser holds.
fn compare_sections(name: &str, document: &Document, sections: &Value) {
    let mut count = 0;
    let mut seen = std::collections::BTreeSet::new();
    for section in document.sections() {
        // Blocks of [DEFAULT] may be several; keys() has those of all.
        if !seen.insert(section.name.clone()) {
            continue;
        }
        for key in document.keys(Dialect::Paste3, &section.name) {
            let ours = document.get(Dialect::Paste3, &section.name, &key.name).expect("value");
            assert_eq!(sections[&section.name][&key.name], Value::from(ours), "{name} [{}] {}", section.name, key.name);
            count += 1;
        }
    }
    let theirs = sections.as_object().expect("sections").values().filter_map(Value::as_object);
    assert_eq!(count, theirs.map(serde_json::Map::len).sum::<usize>(), "{name}");
}

/// Every option of every group as oslo.config has it is what we read.
fn compare_groups(document: &Document, groups: &Value) {
    let text = String::from_utf8_lossy(&document.to_bytes()).into_owned();
    for (group, options) in groups.as_object().expect("groups") {
        for (key, values) in options.as_object().expect("options") {
            let last = document.get(Dialect::Oslo, group, key).expect("value");
            let all = document.get_all(Dialect::Oslo, group, key).expect("values");
            assert_eq!(values[0], Value::from(last), "[{group}] {key} of {text:?}");
            assert_eq!(values[1], Value::from(all), "[{group}] {key} of {text:?}");
        }
    }
    for section in document.sections() {
        for key in document.keys(Dialect::Oslo, &section.name) {
            let group = match section.name.as_str() {
                "DEFAULT" => "DEFAULT".to_owned(),
                name => name.to_lowercase(),
            };
            assert!(groups[&group][&key.name].is_array(), "[{group}] {} of {text:?}", key.name);
        }
    }
}

/// barbican.conf as sites write it, read before and after edits.
#[test]
fn oslo_config_reads_the_values_that_we_read() {
    let samples = [
        "[DEFAULT]\nsql_connection = \"mysql://b:p@ss;word#1@db/barbican\"\n# a comment\nhost_href=http://h:9311\n",
        "[DEFAULT]\nhosts = one,\n  two,\n\tthree\n\nother : 'x'\n",
        "[simple_crypto_plugin]\nkek = 'YWJj'\n\n[Simple_Crypto_Plugin]\nkek = \"ZGVm\"\nkek = Z2hp\n",
        "[p11_crypto_plugin]\r\nlogin = 'mypassword\"\r\nlibrary_path = ''\r\nmkek_label =\r\nhmac_label = \"\r\n",
        "[a]\nkey-with-dash = 1\nkey_with_dash = 2\nKey = 3\nkey = 4",
        "[keystone_authtoken]\npassword = a = b : c\nauth_url: http://k:5000/v3\nmemcached_servers = h:11211 # no comment\n",
        "[a]\nlist = 1\n  # part of the value\n  2\n[b]\n[a]\nlist = 3\n",
        "[\u{c4}]\nschl\u{fc}ssel = gr\u{fc}n\u{a0}\n",
        "  # indented comment\n[a]\nb = c\n",
        "[a]\n\n  # indented after a blank line\nb = c\n",
        "[a] # text behind\nb = c\n",
        "[a]\nb = c\n\n  d\n",
        "\u{feff}[a]\nb = c\n",
    ];
    let folder = Folder::new();
    let mut documents = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let mut document = Document::parse(sample.as_bytes(), "barbican.conf").expect("a document");
        documents.push((format!("{number}-before"), document.clone()));
        if document.accepts(Dialect::Oslo).is_err() {
            continue;
        }
        for section in document.sections() {
            for key in document.keys(Dialect::Oslo, &section.name) {
                let value = format!("\" {}: new\"\nmore", key.name);
                document.set(Dialect::Oslo, &section.name, &key.name, &value).expect("set");
            }
            document.insert(Dialect::Oslo, &section.name, "added", " x ", "why").ok();
        }
        document.set_multi(Dialect::Oslo, "new", "kek", &["a", "b\nc", ""]).expect("set_multi");
        documents.push((format!("{number}-after"), document));
    }
    for (name, document) in &documents {
        folder.add("oslo", name, &document.to_bytes());
    }
    let read = folder.read();
    let mut refused = 0;
    for (name, document) in &documents {
        let found = &read["oslo"][name];
        let ours = document.accepts(Dialect::Oslo);
        assert_eq!(found["error"].is_string(), ours.is_err(), "{name}: {ours:?} {found}");
        match ours {
            Ok(()) => compare_groups(document, &found["sections"]),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((documents.len(), refused), (21, 5));
}

/// Small documents full of the things readers disagree on.
fn tricky() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "[s]",
        "[t]",
        "[S]",
        "[DEFAULT]",
        "[s] # x",
        "k = v",
        "k: v ; w",
        "l = \"v\"",
        "l='v",
        "m =",
        "k = 'a'\\",
        "rem = x",
        "  k = v",
        "  more",
        "\tmore = x",
        "  # note",
        "# note",
        ";note",
        " ; note",
        "",
        "   ",
        "m\t=\tv\t",
        "k = a = b",
        "K = \u{a0}v\u{a0}",
        "set k = v",
        "k = ;v",
        "    deep",
        "l = %(k)s",
        "[s",
        "word",
        "= v",
        "k = v\u{85}",
        "k\u{b}= v",
        "k = v\u{c}",
        "\u{b}",
        "[ s ]",
        " [t]",
        "[s]]",
    ]);
    let end = prop::sample::select(vec!["\n", "\n", "\n", "\r\n"]);
    let lines = prop::collection::vec((line, end), 1..9);
    lines.prop_map(|lines| {
        let body: String = lines.into_iter().flat_map(|(line, end)| [line, end]).collect();
        format!("[s]\n{body}")
    })
}

/// What we refuse though Python reads it: readers disagree, or nobody means it.
const STRICTER: [&str; 4] = [
    "carriage return inside the line",
    "starts with white space that is neither",
    "second ] in a section header",
    "key ends with white space that is neither",
];

#[test]
fn a_thousand_tricky_files_are_read_as_python_reads_them() {
    let folder = Folder::new();
    let mut runner = TestRunner::deterministic();
    let texts: Vec<String> = (0..1000).map(|_| tricky().new_tree(&mut runner).expect("a text").current()).collect();
    for (number, text) in texts.iter().enumerate() {
        folder.add("paste", &format!("{number}"), text.as_bytes());
        folder.add("oslo", &format!("{number}"), text.as_bytes());
    }
    let read = folder.read();
    let mut compared = [0, 0];
    for (number, text) in texts.iter().enumerate() {
        for (which, (kind, dialect)) in [("paste", Dialect::Paste3), ("oslo", Dialect::Oslo)].into_iter().enumerate() {
            let found = &read[kind][format!("{number}")];
            let ours = Document::parse(text.as_bytes(), "x").and_then(|d| d.accepts(dialect).map(|()| d));
            match ours {
                Ok(document) => {
                    assert_eq!(found["error"], Value::Null, "{dialect} refuses {text:?}");
                    compared[which] += 1;
                    match dialect {
                        Dialect::Oslo => compare_groups(&document, &found["sections"]),
                        Dialect::Paste2 | Dialect::Paste3 => compare_sections(text, &document, &found["sections"]),
                    }
                }
                Err(error) => {
                    let stricter = STRICTER.iter().any(|reason| error.reason.contains(reason));
                    assert!(stricter || found["error"].is_string(), "{dialect} reads {text:?}, we: {error}");
                }
            }
        }
    }
    assert!(compared[0] > 100 && compared[1] > 100, "compared: {compared:?}");
}
