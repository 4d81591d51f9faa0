use std::path::Path;

use proptest::prelude::*;

use super::model::{Known, Model, Want};
use super::*;
use crate::ini::Dialect::{Paste2, Paste3};
use crate::release::PasteTrait;

/// A file of `tests/fixtures/paste`.
fn fixture(name: &str) -> Document {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/paste").join(format!("{name}.ini"));
    Document::parse(&std::fs::read(path).unwrap(), name).unwrap()
}

fn fixtures() -> Vec<Document> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/paste");
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "ini") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            documents.push(fixture(&name));
        }
    }
    assert!(documents.len() >= 25, "{} fixtures", documents.len());
    documents
}

/// The dialects that read the document.
fn dialects(document: &Document) -> Vec<Dialect> {
    let reads = |dialect: &Dialect| Model::read(document, *dialect).is_ok();
    [Paste2, Paste3].into_iter().filter(reads).collect()
}

fn doc(text: &str) -> Document {
    Document::parse(text.as_bytes(), "p.ini").unwrap()
}

const APPS: &str = "\
[app:main-api]
paste.app_factory = barbican.api.app:create_main_app
[app:versions]
paste.app_factory = barbican.api.app:create_version_app
[filter:context]
paste.filter_factory = barbican.api.middleware.context:ContextMiddleware.factory
[filter:open]
paste.filter_factory = barbican.api.middleware.context:UnauthenticatedContextMiddleware.factory
[filter:token]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:audit]
paste.filter_factory = keystonemiddleware.audit:filter_factory
[filter:own]
paste.filter_factory = example:factory
";

/// A file with a pipeline on `/v1` and what the text adds.
fn with_pipeline(words: &str, more: &str) -> Document {
    doc(&format!(
        "[composite:main]\nuse = egg:Paste#urlmap\n/v1: api\n[pipeline:api]\npipeline = {words}\n{APPS}{more}"
    ))
}

fn words(document: &Document, section: &str) -> String {
    document.words(Paste3, section, "pipeline").unwrap().join(" ")
}

fn apply(rule: Rule, document: &mut Document) -> Vec<String> {
    let changes = rule.apply(document, Paste3).unwrap();
    changes.iter().map(ToString::to_string).collect()
}

fn kinds(document: &Document, version: &str) -> Vec<(ProblemKind, Severity)> {
    let problems = check(document, Paste3, version).unwrap();
    problems.into_iter().map(|problem| (problem.kind, problem.severity)).collect()
}

#[test]
fn rules_have_the_names_that_the_catalogue_uses() {
    let names: Vec<String> =
        RULES.iter().map(|rule| serde_json::to_value(rule).unwrap().as_str().unwrap().to_owned()).collect();
    let expected = [
        "authtoken-factory",
        "identity-uri",
        "cors",
        "http-proxy-to-wsgi",
        "healthcheck",
        "microversion",
        "request-id",
        "drop-profile",
    ];
    assert_eq!(names, expected);
    let back: Rule = serde_json::from_str("\"http-proxy-to-wsgi\"").unwrap();
    assert_eq!(back, Rule::HttpProxyToWsgi);
}

#[test]
fn filters_are_known_under_all_their_spellings() {
    let spellings = [
        ("paste.filter_factory = oslo_middleware.cors:filter_factory", Known::Cors),
        ("paste.filter_factory = oslo_middleware:CORS.factory", Known::Cors),
        ("use = egg:oslo.middleware#cors", Known::Cors),
        ("use = egg:Oslo_Middleware#cors", Known::Cors),
        ("use = call:oslo_middleware.cors:filter_factory", Known::Cors),
        ("paste.filter_factory = oslo_middleware:RequestId.factory", Known::RequestId),
        ("paste.filter_factory = oslo_middleware.request_id:RequestId.factory", Known::RequestId),
        ("paste.filter_factory = oslo_middleware:HTTPProxyToWSGI.factory", Known::HttpProxy),
        ("paste.filter_factory = oslo_middleware.http_proxy_to_wsgi:HTTPProxyToWSGI.factory", Known::HttpProxy),
        ("paste.filter_factory = oslo_middleware:Healthcheck.factory", Known::HealthcheckFilter),
        ("use = egg:oslo.middleware#healthcheck", Known::HealthcheckFilter),
        ("paste.filter_factory = oslo_middleware:SSLMiddleware.factory", Known::Ssl),
        ("use = egg:keystonemiddleware#auth_token", Known::Authtoken),
        ("use = egg:repoze.profile", Known::Profile),
        ("use = token", Known::Authtoken),
    ];
    for (line, known) in spellings {
        let document = doc(&format!("{APPS}[filter:x]\n{line}\n"));
        let model = Model::read(&document, Paste3).unwrap();
        assert_eq!(model.known(Want::Filter, "x"), Some(known), "{line}");
    }
    for line in ["use = x", "use = nobody", "use = config:other.ini", "paste.filter_factory = oslo_middleware"] {
        let document = doc(&format!("{APPS}[filter:x]\n{line}\n"));
        let model = Model::read(&document, Paste3).unwrap();
        assert_eq!(model.known(Want::Filter, "x"), None, "{line}");
    }
}

#[test]
fn each_filter_goes_to_its_place() {
    let cases = [
        (Rule::Cors, "token context main-api", "cors token context main-api"),
        (Rule::Cors, "own token context audit main-api", "cors own token context audit main-api"),
        (Rule::HttpProxyToWsgi, "token context main-api", "http_proxy_to_wsgi token context main-api"),
        (Rule::RequestId, "token context main-api", "request_id token context main-api"),
        (Rule::Microversion, "own token context own main-api", "own token context microversion own main-api"),
        (Rule::Microversion, "open egg:Paste#cgitb main-api", "open microversion egg:Paste#cgitb main-api"),
        (Rule::Microversion, "token context audit main-api", "token context microversion audit main-api"),
        (Rule::Microversion, "own audit main-api", "own microversion audit main-api"),
        (Rule::Microversion, "own main-api", "own microversion main-api"),
        (Rule::Microversion, "own context versions", "own context microversion versions"),
        (Rule::Microversion, "versions", "microversion versions"),
    ];
    for (rule, before, after) in cases {
        let mut document = with_pipeline(before, "");
        assert_eq!(apply(rule, &mut document).len(), 2, "{before}");
        assert_eq!(words(&document, "pipeline:api"), after);
        assert_eq!(apply(rule, &mut document), Vec::<String>::new(), "{before} twice");
    }
    let cors = "[filter:x]\nuse = egg:oslo.middleware#cors\n";
    for (rule, after) in [
        (Rule::Cors, "own x token context main-api"),
        (Rule::HttpProxyToWsgi, "own x http_proxy_to_wsgi token context main-api"),
        (Rule::RequestId, "own x request_id token context main-api"),
    ] {
        let mut document = with_pipeline("own x token context main-api", cors);
        apply(rule, &mut document);
        assert_eq!(words(&document, "pipeline:api"), after);
    }
}

#[test]
fn only_pipelines_that_end_in_a_barbican_app_are_edited() {
    let more = "[pipeline:outer]\npipeline = api\n[pipeline:foreign]\npipeline = own other\n\
                [app:other]\npaste.app_factory = example:app\n[pipeline:empty]\npipeline =\n\
                [pipeline:lost]\npipeline = own nobody\n";
    let mut document = with_pipeline("token context main-api", more);
    let changes = apply(Rule::Cors, &mut document);
    assert_eq!(changes, ["[filter:cors] section added", "[pipeline:api] cors put first"]);
    assert_eq!(words(&document, "pipeline:outer"), "api");
    assert_eq!(words(&document, "pipeline:foreign"), "own other");
    let mut none = doc("[composite:main]\nuse = egg:Paste#urlmap\n");
    for rule in RULES {
        assert_eq!(apply(rule, &mut none), Vec::<String>::new());
    }
}

#[test]
fn old_token_options_become_one_uri_without_being_told() {
    let mut document = fixture("old-token-options");
    let mut changes = apply(Rule::AuthtokenFactory, &mut document);
    changes.extend(apply(Rule::IdentityUri, &mut document));
    assert_eq!(
        changes,
        [
            "[filter:keystone_authtoken] paste.filter_factory is now in keystonemiddleware.auth_token",
            "[filter:keystone_authtoken] auth_protocol, auth_host and auth_port joined into identity_uri",
        ]
    );
    let get = |key: &str| document.get(Paste3, "filter:keystone_authtoken", key).unwrap();
    assert_eq!(get("identity_uri").as_deref(), Some("http://[fd00::10]:35357/identity"));
    for key in ["auth_host", "auth_port", "auth_protocol", "auth_admin_prefix"] {
        assert_eq!(get(key), None, "{key}");
    }
    for (options, why) in [
        ("auth_host = a\nauth_port = 1\n", "the protocol may be in barbican.conf"),
        ("auth_host = a\nauth_port = 1\nauth_protocol = http\nidentity_uri = u\n", "a URI is there"),
        ("admin_user = a\n", "none of the three"),
    ] {
        let mut document = doc(&format!("[filter:t]\nuse = egg:keystonemiddleware#auth_token\n{options}"));
        assert_eq!(apply(Rule::IdentityUri, &mut document), Vec::<String>::new(), "{why}");
    }
}

#[test]
fn healthcheck_is_left_alone_where_it_would_be_a_second_one() {
    for (more, why) in [
        ("[composite:x]\nuse = egg:Paste#urlmap\n/healthcheck/ = y\n", "the path is mapped"),
        (
            "[filter:h]\nuse = egg:oslo.middleware#healthcheck\n[pipeline:x]\npipeline = h versions\n",
            "a filter does it",
        ),
    ] {
        let mut document = with_pipeline("token context main-api", more);
        assert_eq!(apply(Rule::Healthcheck, &mut document), Vec::<String>::new(), "{why}");
    }
    let more = "[app:health]\nuse = call:oslo_middleware:Healthcheck.app_factory\n";
    let mut document = with_pipeline("token context main-api", more);
    assert_eq!(apply(Rule::Healthcheck, &mut document), ["[composite:main] /healthcheck leads to health"]);
    let mut document = doc(&format!("[pipeline:main]\npipeline = token context main-api\n{APPS}"));
    assert_eq!(apply(Rule::Healthcheck, &mut document), Vec::<String>::new(), "main is no urlmap");
}

#[test]
fn profile_is_dropped_only_as_shipped_and_unused() {
    for name in ["P1", "P8"] {
        let mut document = fixture(name);
        for rule in RULES {
            apply(rule, &mut document);
        }
        assert!(!document.has_section(Paste3, "pipeline:barbican-profile"), "{name}");
        assert!(!document.has_section(Paste3, "filter:profile"), "{name}");
    }
    let mut document = fixture("edited-profile");
    assert_eq!(apply(Rule::DropProfile, &mut document), Vec::<String>::new());
    let text = String::from_utf8(fixture("P8").to_bytes()).unwrap();
    for (from, to) in [
        ("cgitb egg:Paste#httpexceptions", "cgitb own"),
        ("/v1:", "/p: barbican-profile\n/v1:"),
        ("[pipeline:barbican-profile]\n", "[pipeline:barbican-profile]\nrequire = Paste\n"),
    ] {
        let mut document = doc(&text.replace(from, to));
        assert_eq!(apply(Rule::DropProfile, &mut document), Vec::<String>::new(), "{to}");
    }
    let mut document = doc(&text.replace("unwind = false", "unwind = true"));
    assert_eq!(apply(Rule::DropProfile, &mut document).len(), 1);
    assert!(document.has_section(Paste3, "filter:profile"));
}

#[test]
fn shipped_files_come_to_the_pipelines_of_the_last_shipped_one() {
    let last = fixture("P9");
    for n in 0..9 {
        let mut document = fixture(&format!("P{n}"));
        for rule in RULES {
            apply(rule, &mut document);
        }
        let model = Model::read(&document, Paste3).unwrap();
        for pipeline in model.pipelines() {
            let got: Vec<_> = pipeline.filters.iter().map(|filter| filter.known).collect();
            let want = Model::read(&last, Paste3).unwrap();
            let want = want.pipelines().into_iter().find(|p| p.section == pipeline.section).unwrap();
            let mut want: Vec<_> = want.filters.iter().map(|filter| filter.known).collect();
            if n == 0 && pipeline.section == "pipeline:barbican_version" {
                want.insert(3, Some(Known::Unauthenticated));
            }
            assert_eq!(got, want, "P{n} {}", pipeline.section);
        }
        let wrong = |(kind, _): &(ProblemKind, Severity)| {
            !matches!(kind, ProblemKind::Unauthenticated | ProblemKind::LegacyAuthOptions | ProblemKind::Credentials)
        };
        assert!(!kinds(&document, "23.0.0").iter().any(wrong), "P{n}");
    }
}

#[test]
fn rules_are_idempotent_and_keep_every_line_they_do_not_name() {
    for before in fixtures() {
        for dialect in dialects(&before) {
            let mut all = before.clone();
            for rule in RULES {
                let mut document = before.clone();
                rule.apply(&mut document, dialect).unwrap();
                let once = document.to_bytes();
                assert_eq!(rule.apply(&mut document, dialect).unwrap(), [], "{} {rule:?}", before.name());
                assert_eq!(document.to_bytes(), once);
                rule.apply(&mut all, dialect).unwrap();
            }
            let again = all.to_bytes();
            for rule in RULES {
                assert_eq!(rule.apply(&mut all, dialect).unwrap(), [], "{} {rule:?}", before.name());
            }
            assert_eq!(all.to_bytes(), again);
            let comments = |d: &Document| {
                let bytes = d.to_bytes();
                let lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                lines.into_iter().filter(|line| line.trim_ascii_start().starts_with(b"#")).collect::<Vec<_>>()
            };
            // The two lines above the profile pipeline go with it.
            let lost = comments(&before).len() - comments(&all).len();
            let dropped = before.has_section(dialect, "pipeline:barbican-profile")
                && !all.has_section(dialect, "pipeline:barbican-profile")
                && before.name() != "charm";
            assert_eq!(lost, if dropped { 2 } else { 0 }, "{}", before.name());
        }
    }
}

#[test]
fn several_releases_at_once_give_the_text_of_one_by_one() {
    for before in fixtures() {
        for dialect in dialects(&before) {
            let mut stepwise = before.clone();
            for last in 0..RULES.len() {
                RULES[last].apply(&mut stepwise, dialect).unwrap();
                // Parsed anew between the steps, as two runs would.
                stepwise = Document::parse(&stepwise.to_bytes(), before.name()).unwrap();
                let mut at_once = before.clone();
                for rule in &RULES[..=last] {
                    rule.apply(&mut at_once, dialect).unwrap();
                }
                assert_eq!(at_once.to_bytes(), stepwise.to_bytes(), "{}", before.name());
            }
        }
    }
}

#[test]
fn both_pastes_get_the_same_text() {
    for before in fixtures() {
        if dialects(&before).len() == 2 && before.differences(Paste2, Paste3).unwrap().is_empty() {
            let [a, b] = [Paste2, Paste3].map(|dialect| {
                let mut document = before.clone();
                for rule in RULES {
                    rule.apply(&mut document, dialect).unwrap();
                }
                document.to_bytes()
            });
            assert!(a == b, "{}", before.name());
        }
    }
}

#[test]
fn what_v1_leads_to() {
    let cases = [
        ("P1", V1::Unauthenticated),
        ("P5", V1::Unauthenticated),
        ("P6", V1::Keystone),
        ("P9", V1::Keystone),
        ("charm", V1::Keystone),
        ("unauthenticated-v1", V1::Unauthenticated),
        ("nested-urlmap", V1::Keystone),
        ("not-a-urlmap", V1::Opaque),
        ("entry-points", V1::Keystone),
        ("audit-enabled", V1::Keystone),
    ];
    for (name, want) in cases {
        assert_eq!(v1_access(&fixture(name), Paste3).unwrap(), want, "{name}");
    }
    let access = |text: &str| v1_access(&doc(text), Paste3).unwrap();
    assert_eq!(access(""), V1::Missing);
    assert_eq!(access("[composite:main]\nuse = egg:Paste#urlmap\n/: x\n"), V1::Missing);
    assert_eq!(access("[composite:main]\nuse = egg:Paste#urlmap\n/v1: x\n"), V1::Missing);
    assert_eq!(access("[composite:main]\nuse = egg:Paste#urlmap\n/v1: x\n[pipeline:x]\npipeline = x\n"), V1::Other);
    assert_eq!(access(&format!("[pipeline:main]\npipeline = token context main-api\n{APPS}")), V1::Keystone);
    assert_eq!(v1_access(&with_pipeline("own context main-api", ""), Paste3).unwrap(), V1::Other);
    let wrapped = "[filter-app:w]\nuse = token\nnext = main-api\n";
    assert_eq!(v1_access(&with_pipeline("w", wrapped), Paste3).unwrap(), V1::Keystone);
}

#[test]
fn unauthenticated_v1_is_a_warning_and_from_22_a_blocker() {
    let document = fixture("unauthenticated-v1");
    assert_eq!(kinds(&document, "21.0.0"), [(ProblemKind::Unauthenticated, Severity::Warning)]);
    let found = kinds(&document, "22.0.0");
    assert!(found.contains(&(ProblemKind::Unauthenticated, Severity::Blocker)), "{found:?}");
    assert!(check(&document, Paste3, "kilo").is_err());
}

/// What is added to a file that is in order, the version, and what is found.
#[test]
fn problems_of_what_main_reaches() {
    use ProblemKind as K;
    use Severity::{Blocker, Warning};
    let old = "[filter:x]\npaste.filter_factory = keystoneclient.middleware.auth_token:filter_factory\n";
    let ssl = "[filter:x]\npaste.filter_factory = oslo_middleware:SSLMiddleware.factory\n";
    let micro = "[filter:x]\npaste.filter_factory = barbican.api.middleware.microversion:M.factory\n";
    let login = "[filter:x]\nuse = egg:keystonemiddleware#auth_token\nadmin_password = hunter2\n";
    let new_login = "[filter:x]\nuse = egg:keystonemiddleware#auth_token\npassword = hunter2\nauth_url = u\n";
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [(K, Severity)]);
    let cases: [Case<'_>; 22] = [
        ("token context main-api", "", "23.0.0", &[]),
        ("token context nobody", "", "23.0.0", &[(K::NotFound, Blocker), (K::NoV1, Warning)]),
        ("nobody context main-api", "", "23.0.0", &[(K::NotFound, Blocker)]),
        (
            "token main-api",
            "[pipeline:main-api]\npipeline = versions\n",
            "9.0.0",
            &[(K::Ambiguous, Blocker), (K::NoV1, Warning)],
        ),
        ("x main-api", "[filter:x]\n", "9.0.0", &[(K::BadSection, Blocker)]),
        (
            "token x",
            "[app:x]\npaste.app_factory = a:b\npaste.composite_factory = a:b\n",
            "9.0.0",
            &[(K::BadSection, Blocker)],
        ),
        ("", "", "9.0.0", &[(K::BadSection, Blocker), (K::NoV1, Warning)]),
        ("token main-api\nname = x", "", "9.0.0", &[(K::BadSection, Blocker)]),
        ("token main-api\nfilter-with = own", "", "9.0.0", &[]),
        ("token api", "", "9.0.0", &[(K::Loop, Blocker)]),
        ("x main-api", "[filter:x]\nuse = x\n", "9.0.0", &[(K::Loop, Blocker)]),
        ("x context main-api", old, "2014.2", &[(K::GoneFactory, Blocker)]),
        (
            "token x",
            "[app:x]\npaste.app_factory = barbican.api.app:create_admin_app\n",
            "1.0.0",
            &[(K::GoneFactory, Blocker)],
        ),
        ("token x", "[app:x]\npaste.app_factory = barbican.api.app:create_admin_app\n", "2015.1.0", &[]),
        ("x main-api", ssl, "17.0.0", &[]),
        ("x main-api", ssl, "18.0.0", &[(K::GoneFactory, Blocker)]),
        ("token context x main-api", micro, "14.0.2", &[(K::NewFactory, Blocker)]),
        ("x token context main-api", micro, "15.0.0", &[(K::Order, Warning)]),
        ("x main-api", login, "22.0.0", &[(K::LegacyAuthOptions, Warning), (K::Credentials, Warning)]),
        ("x main-api", login, "23.0.0", &[(K::LegacyAuthOptions, Blocker), (K::Credentials, Warning)]),
        ("x main-api", new_login, "23.0.0", &[(K::Credentials, Warning)]),
        ("x main-api", "[filter:x]\nuse = egg:a\nsecret = 50%\n", "23.0.0", &[(K::Interpolation, Blocker)]),
    ];
    for (words, more, version, want) in cases {
        let document = with_pipeline(words, more);
        let found = check(&document, Paste3, version).unwrap();
        let got: Vec<_> = found.iter().map(|problem| (problem.kind, problem.severity)).collect();
        let mut sorted = got.clone();
        sorted.sort_by_key(|found| want.iter().position(|wanted| wanted == found));
        assert_eq!(sorted, want, "{words} {more} {found:?}");
        let text = format!("{found:?}");
        assert!(!text.contains("hunter2") && !text.contains("50%"), "{text}");
    }
    let unreached = format!("[pipeline:y]\npipeline = nobody x nobody\n{old}");
    assert_eq!(kinds(&with_pipeline("token context main-api", &unreached), "23.0.0"), []);
}

#[test]
fn problems_of_the_file_as_a_whole() {
    let find = |name: &str, dialect| {
        let problems = check(&fixture(name), dialect, "9.0.1").unwrap();
        problems.into_iter().map(|problem| (problem.kind, problem.line)).collect::<Vec<_>>()
    };
    assert_eq!(find("bom", Paste3), [(ProblemKind::Unreadable, 1)]);
    assert_eq!(find("python2-only", Paste3), [(ProblemKind::Unreadable, 11)]);
    assert_eq!(find("python2-only", Paste2), []);
    assert_eq!(find("indented", Paste2), [(ProblemKind::Unreadable, 2)]);
    assert_eq!(find("indented", Paste3), []);
    assert_eq!(find("latin1-mixed-ends", Paste3).first().map(|found| found.0), Some(ProblemKind::NotUtf8));
    assert!(Rule::Cors.apply(&mut fixture("python2-only"), Paste3).is_err());
}

#[test]
fn interpolation_as_python_3_judges_it() {
    for (value, good) in [
        ("a", true),
        ("50%%", true),
        ("%(here)s/x", true),
        ("%(own)s", true),
        ("50%", false),
        ("%(nobody)s", false),
        ("%(here)", false),
        ("%%(x", true),
        ("%d", false),
    ] {
        let more = format!("[filter:x]\nuse = egg:a\nown = 1\noption = {value}\n");
        let found = kinds(&with_pipeline("x main-api", &more), "9.0.0");
        assert_eq!(found.is_empty(), good, "{value}");
    }
}

#[test]
fn facts_for_the_notes() {
    let traits = |name: &str| facts(&fixture(name), Paste3).unwrap().traits.into_iter().collect::<Vec<_>>();
    use PasteTrait as T;
    assert_eq!(traits("P1"), [T::V1Unauthenticated, T::AuthtokenCredentials, T::AuthtokenHostTrio]);
    assert_eq!(traits("P4"), [T::V1Unauthenticated, T::AuthtokenCredentials]);
    assert_eq!(traits("P9"), []);
    assert_eq!(traits("audit-enabled"), [T::AuditReachable]);
    assert_eq!(traits("edited-profile"), [T::ProfileReachable]);
    let factories = facts(&fixture("entry-points"), Paste3).unwrap().factories;
    for factory in ["egg:oslo-middleware#cors", "egg:keystonemiddleware#auth_token", "barbican.api.app:create_main_app"]
    {
        assert!(factories.contains(factory), "{factory} in {factories:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever order the filters come in, they end up in the same places.
    #[test]
    fn the_order_of_the_rules_does_not_decide_the_order_of_the_filters(
        order in Just([Rule::Cors, Rule::HttpProxyToWsgi, Rule::Microversion, Rule::RequestId]).prop_shuffle(),
        base in prop::sample::select(vec![
            "token context main-api", "open main-api", "own token own context audit main-api", "versions", "main-api",
        ]),
    ) {
        let mut shuffled = with_pipeline(base, "");
        for rule in order {
            apply(rule, &mut shuffled);
        }
        let mut sorted = with_pipeline(base, "");
        for rule in RULES {
            apply(rule, &mut sorted);
        }
        prop_assert_eq!(words(&shuffled, "pipeline:api"), words(&sorted, "pipeline:api"));
        prop_assert_eq!(kinds(&shuffled, "21.0.0").iter().filter(|p| p.0 == ProblemKind::Order).count(), 0);
    }

    /// No file makes anything panic, and rules end.
    #[test]
    fn any_paste_file_is_survived(
        lines in prop::collection::vec(prop::sample::select(vec![
            "[composite:main]", "[pipeline:main]", "[pipeline:a]", "[filter:a]", "[app:a]", "[app:main]",
            "[filter-app:a]", "[DEFAULT]", "use = a", "use = main", "use = egg:Paste#urlmap", "use = b",
            "pipeline = a", "pipeline = a a main", "  a", "pipeline =", "/v1 = a", "/: main", "next = a",
            "filter-with = a", "paste.app_factory = barbican.api.app:create_main_app", "# x", "",
            "paste.filter_factory = keystoneclient.middleware.auth_token:x", "auth_host = h",
            "auth_port = 1", "auth_protocol = p", "x = %(", "/healthcheck = a", "[filter:cors]",
        ]), 0..25),
        dialect in prop::sample::select(vec![Paste2, Paste3]),
    ) {
        let Ok(mut document) = Document::parse(lines.join("\n").as_bytes(), "x") else {
            return Ok(());
        };
        let _ = check(&document, dialect, "23.0.0").unwrap();
        let _ = (v1_access(&document, dialect), facts(&document, dialect));
        for rule in RULES {
            let before = document.to_bytes();
            match rule.apply(&mut document, dialect) {
                Ok(changes) => {
                    prop_assert_eq!(changes.is_empty(), document.to_bytes() == before);
                    prop_assert_eq!(rule.apply(&mut document, dialect).unwrap(), []);
                }
                Err(_) => prop_assert_eq!(document.to_bytes(), before),
            }
        }
    }
}
