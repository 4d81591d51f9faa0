//! The catalogue as a whole: every folder of `migrations/`, and every item it has to cover.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keymgr_upgrade::release::{
    ApiLauncher, Applicable, Auto, Catalogue, Condition, DataStep, Edit, FILES, Facts, Mode, OptionFact, OptionName,
    PasteFacts, PasteTrait, PythonVersion, Release, Scope, Severity, SiteFile, Tree, Version,
};

fn catalogue() -> &'static Catalogue {
    Catalogue::embedded().expect("every release.toml parses")
}

fn release(id: &str) -> &'static Release {
    catalogue().by_id(id).unwrap_or_else(|| panic!("no release {id}"))
}

/// What somebody wrote for the operator or for the test of completeness.
struct Entry<'a> {
    release: &'a Release,
    id: &'a str,
    item: &'a [String],
}

fn entries() -> Vec<Entry<'static>> {
    let mut entries = Vec::new();
    for release in catalogue().releases() {
        entries.extend(release.options.iter().map(|e| Entry { release, id: &e.id, item: &e.item }));
        entries.extend(release.launchers.iter().map(|e| Entry { release, id: &e.id, item: &e.item }));
        entries.extend(release.notes.iter().map(|e| Entry { release, id: &e.id, item: &e.item }));
    }
    entries
}

fn names(found: &[Applicable<'_, keymgr_upgrade::release::Note>], least: Severity) -> Vec<String> {
    found.iter().filter(|n| n.what.severity >= least).map(|n| n.what.id.clone()).collect()
}

#[test]
fn every_folder_is_one_release() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut folders = BTreeSet::new();
    for entry in std::fs::read_dir(base).expect("migrations/") {
        let entry = entry.expect("an entry");
        if entry.path().is_dir() {
            assert!(entry.path().join("release.toml").is_file(), "{entry:?} has no release.toml");
            folders.insert(entry.file_name().into_string().expect("UTF-8"));
        }
    }
    let ids: BTreeSet<String> = catalogue().releases().iter().map(|r| r.id.clone()).collect();
    assert_eq!(folders, ids);
    assert_eq!(ids.len(), 25);
    let embedded = FILES.iter().filter(|(path, _)| path.ends_with("/release.toml")).count();
    assert_eq!(embedded, 25);
}

#[test]
fn the_releases_are_one_chain_without_gap() {
    let order: Vec<&str> = catalogue().releases().iter().map(|r| r.id.as_str()).collect();
    assert_eq!(
        order.join(" "),
        "juno kilo liberty mitaka newton ocata pike queens rocky stein train ussuri victoria wallaby xena yoga zed \
         2023.1 2023.2 2024.1 2024.2 2025.1 2025.2 2026.1 2026.2"
    );
    for pair in catalogue().releases().windows(2) {
        let [before, after] = pair else { unreachable!("windows of two") };
        assert_eq!(after.predecessor.as_ref(), Some(&before.id));
        assert!(before.is_before(after));
        assert!(before.date < after.date, "{} is dated before {}", after.id, before.id);
    }
    let slurp: Vec<(&str, Option<&str>)> = catalogue()
        .releases()
        .iter()
        .filter(|r| r.slurp)
        .map(|r| (r.id.as_str(), r.slurp_predecessor.as_deref()))
        .collect();
    let wanted = [("2023.1", None), ("2024.1", Some("2023.1")), ("2025.1", Some("2024.1")), ("2026.1", Some("2025.1"))];
    assert_eq!(slurp, wanted);
}

#[test]
fn names_and_dates_are_well_formed() {
    for release in catalogue().releases() {
        let expected = if release.id.starts_with("20") { release.id.clone() } else { release.code_name.clone() };
        assert_eq!(release.name, expected);
        assert_eq!(release.id, release.name.to_ascii_lowercase());
        let date: Vec<usize> = release.date.split('-').map(str::len).collect();
        assert_eq!(date, [4, 2, 2], "{}", release.date);
        for tag in release.tags.iter().filter(|tag| Version::parse(tag).is_some() && !tag.contains('-')) {
            let found = catalogue().by_version(tag).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(found.release.id, release.id, "{tag}");
            assert!(!found.pre_release, "{tag}");
        }
        assert!(release.tags.first().is_some_and(|tag| Version::parse(tag).is_some()), "{}", release.id);
    }
}

#[test]
fn heads_agree_with_the_revisions() {
    let mut newest = None;
    for release in catalogue().releases() {
        newest = release.revisions.last().or(newest);
        assert_eq!(release.head().map(|head| &head.revision), newest, "{}", release.id);
        for head in &release.heads {
            let owner = catalogue().release_of_revision(&head.revision).expect("a known revision");
            assert!(!release.is_before(owner), "{} has a head of {}", release.id, owner.id);
        }
    }
    let chain: Vec<&str> = catalogue().chain().map(|(_, revision)| revision).collect();
    assert_eq!(chain.len(), 36);
    assert_eq!(chain.iter().collect::<BTreeSet<_>>().len(), 36, "a revision is listed twice");
    assert_eq!(chain.first(), Some(&"1a0c2cdafb38"));
    assert_eq!(chain.last(), Some(&"8c74e2d7f1ff"));
    // a database of each length of id that alembic wrote
    assert!(chain.iter().all(|r| ["juno", "kilo"].contains(r) || (10..=12).contains(&r.len())));
}

#[test]
fn migration_folders_belong_to_their_release() {
    for (path, _) in FILES {
        let mut parts = path.split('/');
        let (Some(folder), Some(migration), Some(_)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let revision = migration.split('_').next().unwrap_or_default();
        assert!(release(folder).revisions.iter().any(|r| r == revision), "{path}: {folder} has no {revision}");
    }
}

#[test]
fn heads_depend_on_the_version_within_a_release() {
    let head = |version: &str| {
        let head = catalogue().head_for_version(version).unwrap_or_else(|e| panic!("{e}"));
        (head.revision.as_str(), head.tree)
    };
    assert_eq!(head("2014.2.4"), ("254495565185", Tree::Chain));
    assert_eq!(head("2015.1.0"), ("30dba269cc64", Tree::Chain));
    assert_eq!(head("2015.1.0rc2"), ("30dba269cc64", Tree::Chain));
    assert_eq!(head("1:2015.1.2-1"), ("6a4457517a3", Tree::Chain));
    assert_eq!(head("9.0.1"), ("39cf2e645cba", Tree::Chain));
    assert_eq!(head("10.0.0"), ("0f8c192a061f", Tree::Chain));
    assert_eq!(head("10.1.0"), ("0f8c192a061f", Tree::Squashed));
    assert_eq!(head("23.0.0"), ("8c74e2d7f1ff", Tree::Squashed));

    let with = |revision: &str| {
        let found = catalogue().releases_with_head(revision);
        found.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(with("30dba269cc64"), "kilo");
    assert_eq!(with("39cf2e645cba"), "newton ocata pike queens rocky stein train");
    assert_eq!(with("0f8c192a061f"), "ussuri victoria wallaby xena yoga");
    assert_eq!(with("8c74e2d7f1ff"), "zed 2023.1 2023.2 2024.1 2024.2 2025.1 2025.2 2026.1 2026.2");
    assert_eq!(with("dce488646127"), "", "in mid-hop");
    assert_eq!(with("deadbeef"), "");
    assert_eq!(catalogue().release_of_revision("dce488646127").map(|r| r.id.as_str()), Some("mitaka"));
}

#[test]
fn ids_are_unique_and_name_their_release() {
    // an edit and the note about it may share a name: the one says what the other does
    for kind in [
        |r: &'static Release| r.notes.iter().map(|n| n.id.as_str()).collect::<Vec<_>>(),
        |r: &'static Release| r.options.iter().map(|o| o.id.as_str()).collect::<Vec<_>>(),
        |r: &'static Release| r.launchers.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(),
    ] {
        let mut seen = BTreeSet::new();
        for id in catalogue().releases().iter().flat_map(kind) {
            assert!(seen.insert(id), "{id} twice");
        }
    }
    for entry in entries() {
        let prefix = format!("{}-", entry.release.code_name.to_ascii_lowercase());
        assert!(entry.id.starts_with(&prefix), "{} does not begin with {prefix}", entry.id);
        assert!(
            entry.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'),
            "{}",
            entry.id
        );
        assert!(!entry.item.is_empty(), "{} covers nothing", entry.id);
    }
}

#[test]
fn texts_fit_the_operators_screen() {
    for (path, text) in FILES.iter().filter(|(path, _)| path.ends_with("/release.toml")) {
        let line = text.lines().position(|line| !line.is_ascii() || line.len() > 120 || line.ends_with(' '));
        assert_eq!(line, None, "{path}: line index");
    }
    for release in catalogue().releases() {
        for note in &release.notes {
            let id = &note.id;
            assert!(note.title.len() <= 70, "{id}: title of {} columns", note.title.len());
            assert!(!note.title.ends_with('.') && !note.title.is_empty(), "{id}: title");
            assert!(note.text.ends_with('.') && note.text.len() <= 420, "{id}: text of {}", note.text.len());
            assert!(note.text.split(' ').all(|word| word.len() <= 60), "{id}: a word too long to wrap");
            if let Some(remedy) = &note.remedy {
                assert!(remedy.len() <= 76 && !remedy.ends_with('.'), "{id}: remedy of {}", remedy.len());
            }
        }
        for edit in &release.options {
            assert!(edit.why.len() <= 100 && !edit.why.ends_with('.'), "{}: why of {}", edit.id, edit.why.len());
        }
    }
}

#[test]
fn critical_notes_are_those_that_only_the_operator_can_deal_with() {
    for note in catalogue().releases().iter().flat_map(|r| &r.notes) {
        let id = &note.id;
        if note.severity == Severity::Critical {
            assert!(matches!(note.auto, Auto::Check | Auto::Operator), "{id}: done by the tool, yet to be approved");
            assert!(note.remedy.is_some(), "{id}: no remedy");
            assert_ne!(note.when, Condition::Always, "{id}: on every deployment");
        }
        if note.auto == Auto::Nothing {
            assert_eq!(note.severity, Severity::Note, "{id}");
        }
    }
}

/// The ids of the list, and nothing else of it.
fn items() -> BTreeSet<&'static str> {
    let list = include_str!("../fixtures/catalogue/items.txt");
    let lines: Vec<&str> = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let ids: BTreeSet<&str> = lines.iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(ids.len(), lines.len(), "an item twice");
    ids
}

#[test]
fn every_item_of_an_upgrade_is_covered_and_none_is_invented() {
    let wanted = items();
    let mut covered: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in entries() {
        for item in entry.item {
            assert!(wanted.contains(item.as_str()), "{} names the unknown item {item}", entry.id);
            covered.entry(item).or_default().push(entry.id);
        }
    }
    let missing: Vec<&&str> = wanted.iter().filter(|item| !covered.contains_key(**item)).collect();
    assert!(missing.is_empty(), "not in the catalogue: {missing:?}");
}

#[test]
fn every_item_is_told_to_the_operator_and_every_rename_is_an_edit() {
    let releases = catalogue().releases();
    let told: BTreeSet<&str> =
        releases.iter().flat_map(|r| &r.notes).flat_map(|n| &n.item).map(String::as_str).collect();
    let edited: BTreeSet<&str> =
        releases.iter().flat_map(|r| &r.options).flat_map(|o| &o.item).map(String::as_str).collect();
    for item in items() {
        assert!(told.contains(item), "no note tells of {item}");
        assert!(!item.starts_with("map/") || edited.contains(item), "no edit does {item}");
    }
}

#[test]
fn steps_are_those_that_exist() {
    let rules: Vec<(&str, &str)> =
        catalogue().releases().iter().flat_map(|r| r.paste.iter().map(|p| (r.id.as_str(), p.as_str()))).collect();
    let wanted = [
        ("juno", "authtoken-factory"),
        ("kilo", "identity-uri"),
        ("mitaka", "cors"),
        ("ocata", "http-proxy-to-wsgi"),
        ("wallaby", "healthcheck"),
        ("zed", "microversion"),
        ("2026.1", "cors"),
        ("2026.1", "request-id"),
        ("2026.1", "drop-profile"),
    ];
    assert_eq!(rules, wanted);
    let data: Vec<(&str, DataStep)> =
        catalogue().releases().iter().flat_map(|r| r.data.iter().map(|d| (r.id.as_str(), *d))).collect();
    assert_eq!(data, [("mitaka", DataStep::ResignKeks), ("rocky", DataStep::RecordMechanism)]);
}

#[test]
fn edits_are_well_formed() {
    for release in catalogue().releases() {
        for edit in &release.options {
            let id = &edit.id;
            match &edit.edit {
                Edit::Rename { from, to, keep_old_until } | Edit::Fold { from, to, keep_old_until } => {
                    assert_ne!(from, to, "{id}");
                    if let Some(until) = keep_old_until {
                        assert!(release.is_before(self::release(until)), "{id} keeps until {until}");
                    }
                }
                Edit::Pin { option, value, secret, .. } => {
                    assert!(!value.is_empty() && value.is_ascii(), "{id}");
                    assert_eq!(*secret, option.name == "kek", "{id}: a key is secret, a setting is not");
                }
                Edit::Replace { from, to, .. } => assert_ne!(from, to, "{id}"),
                Edit::MergeFile { from, into } => assert_ne!(from, into, "{id}"),
                Edit::Drop { .. } | Edit::DropEmpty { .. } | Edit::DropGroup { .. } => {}
            }
            for option in edit.edit.options() {
                let name = option.name.to_ascii_lowercase();
                assert_eq!(option.name, name, "{id}");
                assert!(option.group == "DEFAULT" || option.group == option.group.to_ascii_lowercase(), "{id}");
            }
        }
    }
}

/// The renames, as (release, from, to, old kept until), without group where both are the same.
#[test]
fn renames_are_those_of_the_map() {
    let mut lines = Vec::new();
    for release in catalogue().releases() {
        for edit in &release.options {
            if let Edit::Rename { from, to, keep_old_until } | Edit::Fold { from, to, keep_old_until } = &edit.edit {
                let until = keep_old_until.as_deref().map(|u| format!(" until {u}")).unwrap_or_default();
                lines.push(format!("{} {from} > {to}{until}", release.id));
            }
        }
    }
    let wanted = "\
kilo [DEFAULT] owner_is_tenant > [DEFAULT] owner_is_project
liberty [DEFAULT] policy_file > [oslo_policy] policy_file
liberty [DEFAULT] policy_default_rule > [oslo_policy] policy_default_rule
rocky [p11_crypto_plugin] algorithm > [p11_crypto_plugin] encryption_mechanism
stein [p11_crypto_plugin] generate_iv > [p11_crypto_plugin] aes_gcm_generate_iv
wallaby [p11_crypto_plugin] token_label > [p11_crypto_plugin] token_labels until 2024.1
2024.1 [DEFAULT] sql_connection > [database] connection until 2024.2
2024.1 [DEFAULT] sql_idle_timeout > [database] connection_recycle_time until 2024.2
2024.1 [DEFAULT] sql_max_retries > [database] max_retries until 2024.2
2024.1 [DEFAULT] sql_retry_interval > [database] retry_interval until 2024.2
2024.1 [DEFAULT] sql_pool_size > [database] max_pool_size until 2024.2
2024.1 [DEFAULT] sql_pool_max_overflow > [database] max_overflow until 2024.2
2024.1 [p11_crypto_plugin] token_label > [p11_crypto_plugin] token_labels
2024.2 [DEFAULT] sql_connection > [database] connection
2024.2 [DEFAULT] sql_idle_timeout > [database] connection_recycle_time
2024.2 [DEFAULT] sql_max_retries > [database] max_retries
2024.2 [DEFAULT] sql_retry_interval > [database] retry_interval
2024.2 [DEFAULT] sql_pool_size > [database] max_pool_size
2024.2 [DEFAULT] sql_pool_max_overflow > [database] max_overflow
2025.1 [p11_crypto_plugin] hmac_keywrap_mechanism > [p11_crypto_plugin] hmac_mechanism
2025.2 [p11_crypto_plugin] algorithm > [p11_crypto_plugin] encryption_mechanism";
    assert_eq!(lines.join("\n"), wanted);
    let (caracal, dalmatian) = (release("2024.1"), release("2024.2"));
    assert!(catalogue().keeps_old(Some("2024.2"), caracal));
    assert!(!catalogue().keeps_old(Some("2024.2"), dalmatian));
    assert!(!catalogue().keeps_old(Some("2024.2"), release("2026.2")));
    assert!(!catalogue().keeps_old(None, caracal));
}

/// A Liberty deployment with both crypto plugins, where everything is known.
fn liberty() -> Facts {
    let p11 = "barbican.plugin.crypto.p11_crypto.P11CryptoPlugin".to_owned();
    let simple = "barbican.plugin.crypto.simple_crypto.SimpleCryptoPlugin".to_owned();
    let set = |value: &str| OptionFact { times: 1, value: Some(value.to_owned()) };
    let secret = OptionFact { times: 1, value: None };
    Facts {
        plugins: Some(["store_crypto", "simple_crypto", "p11_crypto"].map(str::to_owned).into()),
        plugin_rows: Some([(p11, 3), (simple, 3)].into()),
        p11_mechanisms: Some([(String::new(), 18)].into()),
        options: Some(
            [
                (OptionName::new("DEFAULT", "sql_connection"), secret.clone()),
                (OptionName::new("DEFAULT", "host_href"), set("https://keys.example.com")),
                (OptionName::new("DEFAULT", "db_auto_create"), set("False")),
                (OptionName::new("simple_crypto_plugin", "kek"), secret),
                (OptionName::new("p11_crypto_plugin", "slot_id"), set("1")),
            ]
            .into(),
        ),
        dialect: Some(keymgr_upgrade::release::Dialect::Sqlite),
        bare_mysql_url: Some(false),
        files: Some(BTreeSet::new()),
        policy_rules: Some(BTreeSet::new()),
        policy_references: Some(BTreeSet::new()),
        paste: Some(PasteFacts {
            traits: [PasteTrait::AuthtokenCredentials, PasteTrait::AuthtokenOldOptions].into(),
            factories: ["keystonemiddleware.auth_token:filter_factory".to_owned()].into(),
        }),
        services: Some([keymgr_upgrade::release::Service::Api].into()),
        api_launchers: Some([ApiLauncher::Uwsgi].into()),
        commands: Some(BTreeSet::new()),
        python: Some(PythonVersion(3, 11)),
        certificate_orders: Some(0),
    }
}

#[test]
fn only_what_applies_to_the_deployment_is_shown() {
    let (from, facts) = (release("liberty"), liberty());
    let catalogue = catalogue();
    let mitaka = catalogue.path(from, release("mitaka"), Mode::Sequential).expect("one step");
    let notes = catalogue.notes(from, &mitaka, &facts);
    assert_eq!(names(&notes, Severity::Warn), ["mitaka-kek-hmac"]);
    assert_eq!(
        names(&notes, Severity::Note),
        ["mitaka-kek-hmac", "mitaka-schema", "mitaka-cors", "mitaka-audit", "mitaka-barbican-manage"]
    );

    let all = catalogue.path(from, release("2026.2"), Mode::FastForward).expect("forward");
    let critical = names(&catalogue.notes(from, &all, &facts), Severity::Critical);
    assert_eq!(critical, ["hibiscus-secure-rbac", "hibiscus-authtoken"]);
    let edits: Vec<&str> = catalogue
        .option_edits(&all, &facts)
        .iter()
        .map(|edit| edit.what.id.as_str())
        .filter(|id| id.contains("pin") || id.contains("mechanism") || id.contains("kek") || id.contains("exchange"))
        .collect();
    assert_eq!(edits, ["rocky-encryption-mechanism", "epoxy-hmac-mechanism", "flamingo-simple-crypto-kek"]);
    assert!(catalogue.launchers(&all, &facts).iter().all(|l| l.what.id != "hibiscus-wsgi-script"));
}

#[test]
fn what_is_not_known_is_shown() {
    let catalogue = catalogue();
    let (from, to) = (release("juno"), release("2026.2"));
    let path = catalogue.path(from, to, Mode::FastForward).expect("forward");
    let shown = catalogue.notes(from, &path, &Facts::default());
    let wanted: usize = catalogue
        .releases()
        .iter()
        .flat_map(|r| r.notes.iter().map(move |note| (r, note)))
        .filter(|(r, note)| match note.scope {
            Scope::Hop => r.id != "juno",
            Scope::Target => r.id == "2026.2",
            Scope::Standing => true,
            Scope::Later => r.id == "juno",
        })
        .count();
    assert_eq!(shown.len(), wanted);
    let edits: usize = path.iter().map(|release| release.options.len()).sum();
    assert_eq!(catalogue.option_edits(&path, &Facts::default()).len(), edits);
}

#[test]
fn standing_notes_outlive_their_release() {
    let catalogue = catalogue();
    let mut facts = liberty();
    facts.paste.get_or_insert_default().traits = [PasteTrait::V1Unauthenticated].into();
    facts.files = Some([SiteFile::PolicyYaml].into());
    let (from, to) = (release("2026.1"), release("2026.2"));
    let path = catalogue.path(from, to, Mode::Sequential).expect("one step");
    let ids = names(&catalogue.notes(from, &path, &facts), Severity::Warn);
    // seen at the start already, though their hops lie behind
    for id in ["ocata-v1-unauthenticated", "gazpacho-unauthenticated", "dalmatian-stray-sqlite"] {
        assert!(ids.iter().any(|have| have == id), "{id} is missing in {ids:?}");
    }
    assert!(!ids.iter().any(|id| id == "mitaka-kek-hmac"), "a hop long past");
    let staying = names(&catalogue.notes(from, &[], &facts), Severity::Critical);
    assert_eq!(staying, ["rocky-mechanism-missing", "dalmatian-stray-sqlite", "gazpacho-unauthenticated"]);

    // on the hop itself the tool moves the option: nothing to approve
    let (from, to) = (release("2024.1"), release("2024.2"));
    let path = catalogue.path(from, to, Mode::Sequential).expect("one step");
    let ids = names(&catalogue.notes(from, &path, &facts), Severity::Note);
    assert!(ids.iter().any(|id| id == "dalmatian-sql-connection"));
    assert!(!ids.iter().any(|id| id == "dalmatian-stray-sqlite"));
}

#[test]
fn python_is_judged_at_the_target_only() {
    let catalogue = catalogue();
    let facts = Facts { python: Some(PythonVersion(2, 7)), ..liberty() };
    let from = release("liberty");
    let path = catalogue.path(from, release("ussuri"), Mode::FastForward).expect("forward");
    let ids = names(&catalogue.notes(from, &path, &facts), Severity::Warn);
    let python: Vec<&String> = ids.iter().filter(|id| id.ends_with("-python")).collect();
    assert_eq!(python, ["ussuri-python"]);
    assert!(release("train").python.allows(PythonVersion(2, 7)));
    assert!(!release("ussuri").python.allows(PythonVersion(2, 7)));
    assert!(release("2026.2").python.allows(PythonVersion(3, 13)));
}

#[test]
fn a_broken_catalogue_is_an_error_that_names_the_file() {
    let text = |path: &str| {
        let (_, text) = FILES.iter().find(|(have, _)| *have == path).unwrap_or_else(|| panic!("no {path}"));
        (*text).to_owned()
    };
    let error = |files: &[(&str, &str)]| match Catalogue::parse(files) {
        Ok(_) => panic!("parsed"),
        Err(error) => format!("{error:#}"),
    };
    let juno = text("juno/release.toml");
    let liberty = text("liberty/release.toml");
    assert!(error(&[("juno/release.toml", &liberty)]).starts_with("juno/release.toml: id is `liberty`"));
    let gap = error(&[("juno/release.toml", &juno), ("liberty/release.toml", &liberty)]);
    assert_eq!(gap, "not exactly one release comes after juno");
    let unknown = error(&[("juno/release.toml", &format!("colour = \"red\"\n{juno}"))]);
    assert!(unknown.starts_with("juno/release.toml: ") && unknown.contains("colour"), "{unknown}");
    let bad = juno.replace("\"kilo\"", "").replace("severity = \"critical\"", "severity = \"fatal\"");
    assert!(error(&[("juno/release.toml", &bad)]).contains("unknown variant `fatal`"));
}
