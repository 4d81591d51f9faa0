//! What is wrong with a paste file for a given version of Barbican.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use super::model::{Found, Known, Model, Pipeline, Section, Type, Want, factories, url_path};
use crate::ini::{Dialect, Document, Error};
use crate::release::{PasteFacts, PasteTrait};

/// Whether Barbican works with the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It works, but perhaps not as the operator believes.
    Warning,
    /// It does not start, or cannot answer.
    Blocker,
}

/// The kinds of problem, as stable ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The reader refuses the whole file.
    Unreadable,
    /// Lines are not UTF-8, which Python 3 refuses under a UTF-8 locale.
    NotUtf8,
    /// A name reachable from `main` leads to no section.
    NotFound,
    /// A name reachable from `main` leads to several sections.
    Ambiguous,
    /// A section cannot be loaded: no factory, two, an empty pipeline...
    BadSection,
    /// Sections refer to each other in a ring.
    Loop,
    /// A `%` that Python's interpolation refuses.
    Interpolation,
    /// A factory that the code no longer has.
    GoneFactory,
    /// A factory that the code does not have yet.
    NewFactory,
    /// Filters of a pipeline in an order that does not work.
    Order,
    /// Options of the authtoken filter that keystonemiddleware dropped.
    LegacyAuthOptions,
    /// Credentials in the paste file, where they override barbican.conf.
    Credentials,
    /// The API can be used without a token.
    Unauthenticated,
    /// `main` does not lead to a `/v1`.
    NoV1,
}

/// One thing wrong with a paste file. Holds names, never values of options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of thing.
    pub kind: ProblemKind,
    /// How bad it is for the version asked about.
    pub severity: Severity,
    /// The section it is about; empty for the file as a whole.
    pub section: String,
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong, for an operator.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.section.as_str() {
            "" => write!(f, "{}: {}", self.line, self.text),
            section => write!(f, "{}: [{section}] {}", self.line, self.text),
        }
    }
}

/// What a request to `/v1` of the composite `main` meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum V1 {
    /// The authtoken filter.
    Keystone,
    /// The unauthenticated-context filter: whoever reaches the port may do
    /// anything. From 22.0.0 on it answers every request with 500.
    Unauthenticated,
    /// Neither: authentication of the site's own, or none.
    Other,
    /// `main` or its `/v1` is missing, or leads nowhere.
    Missing,
    /// `main` is not a urlmap: what it does cannot be told from the file.
    Opaque,
}

/// Options of the authtoken filter that keystonemiddleware 13 no longer has.
const LEGACY_AUTH: [&str; 8] = [
    "identity_uri",
    "auth_host",
    "auth_port",
    "auth_protocol",
    "auth_admin_prefix",
    "admin_user",
    "admin_password",
    "admin_tenant_name",
];

/// Options of the authtoken filter that name or are a credential.
const CREDENTIALS: [&str; 5] = ["admin_user", "admin_password", "admin_token", "username", "password"];

/// Judges what is reachable from `main` for Barbican `version` (`2014.2`,
/// `15.0.1`...), after the rules were applied. In the order of the file.
///
/// # Errors
/// `version` does not start with a number.
pub fn check(document: &Document, dialect: Dialect, version: &str) -> Result<Vec<Problem>> {
    let major = major(version)?;
    let mut problems = Vec::new();
    if let Err(error) = document.accepts(dialect) {
        problems.push(Problem::file(ProblemKind::Unreadable, error.line, error.reason));
    }
    if let (Dialect::Paste3, Some(line)) = (dialect, document.not_utf8().first()) {
        let text = "not UTF-8: Python 3 refuses the file under a UTF-8 locale";
        let problem = Problem::file(ProblemKind::NotUtf8, *line, text.to_owned());
        problems.push(Problem { severity: Severity::Warning, ..problem });
    }
    let model = match Model::read(document, dialect) {
        Ok(model) => model,
        Err(error) => {
            if problems.is_empty() {
                problems.push(Problem::file(ProblemKind::Unreadable, error.line, error.reason));
            }
            return Ok(problems);
        }
    };
    let mut walk = Walk::new(&model, major, dialect);
    walk.problems = problems;
    walk.name(Want::App, "main", None);
    let Walk { seen, mut problems, .. } = walk;
    for section in seen {
        if let Some(pipeline) = model.pipeline(section) {
            problems.extend(order(&pipeline));
            problems.extend(unauthenticated(&pipeline, major));
        }
    }
    problems.extend(v1_problem(&model, major));
    problems.sort_by_key(|problem| problem.line);
    Ok(problems)
}

/// What `/v1` of the composite `main` leads to.
///
/// # Errors
/// The reader refuses the file.
pub fn v1_access(document: &Document, dialect: Dialect) -> Result<V1, Error> {
    Ok(v1_of(&Model::read(document, dialect)?))
}

/// What the notes of a release ask about the file.
///
/// # Errors
/// The reader refuses the file.
pub fn facts(document: &Document, dialect: Dialect) -> Result<PasteFacts, Error> {
    let model = Model::read(document, dialect)?;
    let mut walk = Walk::new(&model, 0, dialect);
    walk.name(Want::App, "main", None);
    let words = walk.seen.iter().flat_map(|section| section.words());
    let used = walk.seen.iter().map(|section| model.section_known(section));
    let reached: Vec<_> = words.map(|word| model.known(Want::Filter, word)).chain(used).flatten().collect();
    let authtoken = |section: &&Section| {
        let known = model.section_known(section);
        section.kind == Type::Filter && matches!(known, Some(Known::Authtoken | Known::OldAuthtoken))
    };
    let sets = |names: &[&str]| {
        let mut sections = model.sections.iter().filter(authtoken);
        sections.any(|section| names.iter().any(|name| section.option(name).is_some()))
    };
    let traits = [
        (PasteTrait::V1Unauthenticated, v1_of(&model) == V1::Unauthenticated),
        (PasteTrait::AuthtokenCredentials, sets(&LEGACY_AUTH) || sets(&CREDENTIALS)),
        (PasteTrait::AuthtokenHostTrio, sets(&["auth_host", "auth_port", "auth_protocol"])),
        (PasteTrait::ProfileReachable, reached.contains(&Known::Profile)),
        (PasteTrait::AuditReachable, reached.contains(&Known::Audit)),
    ];
    let own = model.sections.iter().filter_map(|section| model.section_factory(section));
    let named = model.sections.iter().flat_map(Section::words).filter_map(|word| model.factory(Want::Filter, word));
    Ok(PasteFacts {
        traits: traits.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect(),
        factories: own.chain(named).map(|factory| factory.0).collect::<BTreeSet<String>>(),
    })
}

/// The urlmap that maps `/v1`: `main` itself, or a urlmap that its `/` leads
/// to; `None` when `main` is not a urlmap.
pub(super) fn v1_map(model: &Model) -> Option<&Section> {
    let Found::Section(mut section) = model.find(Want::App, "main") else {
        return None;
    };
    for _ in 0..=model.sections.len() {
        if section.kind != Type::Composite || model.section_known(section) != Some(Known::Urlmap) {
            return None;
        }
        if target(section, "/v1").is_some() {
            return Some(section);
        }
        match model.find(Want::App, target(section, "")?) {
            Found::Section(next) => section = next,
            Found::Uri(_) | Found::Missing | Found::Ambiguous => return None,
        }
    }
    None
}

/// What a urlmap has under a path.
fn target<'a>(map: &'a Section, path: &str) -> Option<&'a str> {
    let mut targets = map.targets();
    targets.find(|(key, _)| url_path(key) == Some(path)).map(|(_, name)| name)
}

fn v1_of(model: &Model) -> V1 {
    let Found::Section(main) = model.find(Want::App, "main") else {
        return V1::Missing;
    };
    let mut section = main;
    if main.kind == Type::Composite {
        if model.section_known(main) != Some(Known::Urlmap) {
            return V1::Opaque;
        }
        let Some(map) = v1_map(model) else {
            return V1::Missing;
        };
        match model.find(Want::App, target(map, "/v1").unwrap_or_default()) {
            Found::Section(next) => section = next,
            Found::Uri(_) => return V1::Other,
            Found::Missing | Found::Ambiguous => return V1::Missing,
        }
    }
    let mut filters = Vec::new();
    for _ in 0..=model.sections.len() {
        filters.extend(section.option("filter-with").map(|name| model.known(Want::Filter, name)));
        let words = section.words();
        let next = match section.kind {
            Type::Pipeline => {
                let (last, before) = words.split_last().unwrap_or((&"", &[]));
                filters.extend(before.iter().map(|word| model.known(Want::Filter, word)));
                last
            }
            Type::FilterApp => {
                filters.push(model.section_known(section));
                section.option("next").unwrap_or_default()
            }
            Type::App | Type::Composite | Type::Filter => break,
        };
        match model.find(Want::App, next) {
            Found::Section(found) => section = found,
            Found::Uri(_) => break,
            Found::Missing | Found::Ambiguous => return V1::Missing,
        }
    }
    let passes = |known: Known| filters.contains(&Some(known));
    if passes(Known::Unauthenticated) {
        V1::Unauthenticated
    } else if passes(Known::Authtoken) || passes(Known::OldAuthtoken) {
        V1::Keystone
    } else {
        V1::Other
    }
}

fn v1_problem(model: &Model, major: u32) -> Option<Problem> {
    let map = match model.find(Want::App, "main") {
        Found::Section(main) => v1_map(model).or(Some(main)),
        Found::Uri(_) | Found::Missing | Found::Ambiguous => None,
    };
    let (section, line) = map.map_or(("composite:main", 1), |map| (map.full.as_str(), map.line));
    let problem = |kind, severity, text: &str| {
        let text = text.to_owned();
        Some(Problem { kind, severity, section: section.to_owned(), line, text })
    };
    match v1_of(model) {
        // That there is no `main` is a problem of its own.
        V1::Missing if map.is_none() => None,
        V1::Keystone | V1::Other => None,
        V1::Unauthenticated if major >= 22 => problem(
            ProblemKind::Unauthenticated,
            Severity::Blocker,
            "/v1 leads to unauthenticated-context, which cannot run from 22.0.0 on; \
             lead it to a pipeline with authtoken",
        ),
        V1::Unauthenticated => problem(
            ProblemKind::Unauthenticated,
            Severity::Warning,
            "/v1 asks nobody for a token (unauthenticated-context); 22.0.0 and later cannot run so",
        ),
        V1::Missing => problem(ProblemKind::NoV1, Severity::Warning, "/v1 leads to no app"),
        V1::Opaque => {
            problem(ProblemKind::NoV1, Severity::Warning, "main is not a urlmap: where /v1 leads cannot be told")
        }
    }
}

/// From 22.0.0 on the filter reads what nothing sets any more.
fn unauthenticated(pipeline: &Pipeline, major: u32) -> Option<Problem> {
    pipeline.find(Known::Unauthenticated).filter(|_| major >= 22)?;
    Some(Problem {
        kind: ProblemKind::Unauthenticated,
        severity: Severity::Warning,
        section: pipeline.section.clone(),
        line: pipeline.line,
        text: "unauthenticated-context answers every request with 500 from 22.0.0 on".to_owned(),
    })
}

/// What has to come before what in a pipeline.
const ORDER: [(Known, &str, Known, &str); 7] = [
    (Known::RequestId, "request_id", Known::HttpProxy, "http_proxy_to_wsgi"),
    (Known::RequestId, "request_id", Known::Authtoken, "authtoken"),
    (Known::Authtoken, "authtoken", Known::Context, "context"),
    (Known::Context, "context", Known::Microversion, "microversion"),
    (Known::Unauthenticated, "unauthenticated-context", Known::Microversion, "microversion"),
    (Known::Microversion, "microversion", Known::Audit, "audit"),
    (Known::Context, "context", Known::Audit, "audit"),
];

fn order(pipeline: &Pipeline) -> Vec<Problem> {
    let mut wrong = Vec::new();
    // A healthcheck answers before anything else; Debian 11 had it so.
    let before_cors = pipeline.filters.iter().take_while(|filter| filter.known != Some(Known::Cors));
    let mut before_cors = before_cors.filter(|filter| filter.known != Some(Known::HealthcheckFilter));
    if pipeline.find(Known::Cors).is_some() && before_cors.next().is_some() {
        wrong.push("cors does not come first".to_owned());
    }
    for (first, first_name, second, second_name) in ORDER {
        if let (Some(a), Some(b)) = (pipeline.find(first), pipeline.find(second))
            && a > b
        {
            wrong.push(format!("{first_name} comes after {second_name}"));
        }
    }
    let problem = |text| Problem {
        kind: ProblemKind::Order,
        severity: Severity::Warning,
        section: pipeline.section.clone(),
        line: pipeline.line,
        text,
    };
    wrong.into_iter().map(problem).collect()
}

/// The first number of a version, those of the years before 1.0.0 as 0.
fn major(version: &str) -> Result<u32> {
    let first = version.split('.').next().unwrap_or_default();
    let number: u32 = first.parse().with_context(|| format!("version {version:?} of barbican"))?;
    Ok(if number >= 2000 { 0 } else { number })
}

impl Problem {
    fn file(kind: ProblemKind, line: usize, text: String) -> Problem {
        Problem { kind, severity: Severity::Blocker, section: String::new(), line, text }
    }
}

/// The walk from `main` that PasteDeploy makes when it loads.
struct Walk<'a> {
    model: &'a Model,
    major: u32,
    dialect: Dialect,
    seen: Vec<&'a Section>,
    /// Sections on the way from `main` to here.
    open: Vec<&'a str>,
    problems: Vec<Problem>,
}

impl<'a> Walk<'a> {
    fn new(model: &'a Model, major: u32, dialect: Dialect) -> Walk<'a> {
        Walk { model, major, dialect, seen: Vec::new(), open: Vec::new(), problems: Vec::new() }
    }

    fn report(&mut self, section: Option<&Section>, kind: ProblemKind, severity: Severity, text: String) {
        let (name, line) = section.map_or((String::new(), 1), |section| (section.full.clone(), section.line));
        self.problems.push(Problem { kind, severity, section: name, line, text });
    }

    fn blocker(&mut self, section: Option<&Section>, kind: ProblemKind, text: impl Into<String>) {
        self.report(section, kind, Severity::Blocker, text.into());
    }

    /// Follows a name that `from` uses.
    fn name(&mut self, want: Want, name: &'a str, from: Option<&Section>) {
        let model = self.model;
        let what = if want == Want::App { "app" } else { "filter" };
        match model.find(want, name) {
            Found::Uri(_) => {
                let known = model.known(want, name);
                self.factory(from, known);
            }
            Found::Missing => {
                self.blocker(from, ProblemKind::NotFound, format!("no section for the {what} {name}"));
            }
            Found::Ambiguous => {
                self.blocker(from, ProblemKind::Ambiguous, format!("several sections for the {what} {name}"));
            }
            Found::Section(section) if self.open.contains(&section.full.as_str()) => {
                self.blocker(Some(section), ProblemKind::Loop, "leads back to itself");
            }
            Found::Section(section) => {
                if self.seen.iter().all(|seen| seen.full != section.full) {
                    self.seen.push(section);
                    self.open.push(&section.full);
                    self.section(section);
                    self.open.pop();
                }
            }
        }
    }

    fn section(&mut self, section: &'a Section) {
        self.interpolation(section);
        if let Some(filter) = section.option("filter-with") {
            self.name(Want::Filter, filter, Some(section));
        }
        match section.kind {
            Type::Pipeline => self.pipeline(section),
            Type::FilterApp => {
                self.maker(section, Want::Filter);
                match section.option("next") {
                    Some(next) => self.name(Want::App, next, Some(section)),
                    None => self.blocker(Some(section), ProblemKind::BadSection, "has no next"),
                }
            }
            Type::App => self.maker(section, Want::App),
            Type::Filter => {
                self.maker(section, Want::Filter);
                if self.model.section_known(section) == Some(Known::Authtoken) {
                    self.authtoken(section);
                }
            }
            Type::Composite => {
                self.maker(section, Want::App);
                // What the options of another composite mean is its own affair.
                if self.model.section_known(section) == Some(Known::Urlmap) {
                    for (_, name) in section.targets() {
                        self.name(Want::App, name, Some(section));
                    }
                }
            }
        }
    }

    fn pipeline(&mut self, section: &'a Section) {
        let words = section.words();
        let Some((app, filters)) = words.split_last() else {
            self.blocker(Some(section), ProblemKind::BadSection, "has no pipeline, or one hidden by [DEFAULT]");
            return;
        };
        let allowed = ["pipeline", "filter-with", "require"];
        let extra: Vec<&str> = section.options.iter().map(|(key, _)| key.as_str()).collect();
        let extra: Vec<&str> = extra.into_iter().filter(|key| !allowed.contains(key)).collect();
        if !extra.is_empty() {
            let text = format!("has options that a pipeline may not have: {}", extra.join(", "));
            self.blocker(Some(section), ProblemKind::BadSection, text);
        }
        for filter in filters {
            self.name(Want::Filter, filter, Some(section));
        }
        self.name(Want::App, app, Some(section));
    }

    /// What makes an app or a filter: `use`, or exactly one factory.
    fn maker(&mut self, section: &'a Section, want: Want) {
        if let Some(name) = section.option("use") {
            self.name(want, name, Some(section));
            return;
        }
        let named = factories(want).iter().filter(|key| section.option(key).is_some()).count();
        let known = self.model.section_known(section);
        match (named, want) {
            (0, _) => self.blocker(Some(section), ProblemKind::BadSection, "has neither use nor a factory"),
            (1, _) | (_, Want::Filter) => self.factory(Some(section), known),
            (_, Want::App) => self.blocker(Some(section), ProblemKind::BadSection, "has several factories"),
        }
    }

    /// Whether the code has the factory.
    fn factory(&mut self, section: Option<&Section>, known: Option<Known>) {
        let gone = |text: &str| Some((ProblemKind::GoneFactory, text.to_owned()));
        let found = match known {
            Some(Known::OldAuthtoken) => {
                gone("keystoneclient.middleware is gone; the filter is in keystonemiddleware.auth_token")
            }
            Some(Known::AdminApp) if self.major >= 1 => {
                gone("create_admin_app is gone since 1.0.0, without a successor")
            }
            Some(Known::Ssl) if self.major >= 18 => {
                gone("SSLMiddleware is gone since oslo.middleware 6.0.0; http_proxy_to_wsgi does its work")
            }
            Some(Known::Microversion) if self.major < 15 => {
                Some((ProblemKind::NewFactory, "the microversion filter exists from 15.0.0 on".to_owned()))
            }
            Some(_) | None => None,
        };
        if let Some((kind, text)) = found {
            self.blocker(section, kind, text);
        }
    }

    /// Options in the section were the shipped way up to Mitaka.
    fn authtoken(&mut self, section: &Section) {
        if self.major < 3 {
            return;
        }
        let present = |names: &[&'static str]| {
            let names = names.iter().filter(|name| section.option(name).is_some());
            names.copied().collect::<Vec<_>>().join(", ")
        };
        let legacy = present(&LEGACY_AUTH);
        if !legacy.is_empty() {
            let severity = if self.major >= 23 { Severity::Blocker } else { Severity::Warning };
            let text = format!(
                "{legacy}: not understood from keystonemiddleware 13 on (2026.2); \
                 move them to [keystone_authtoken] of barbican.conf as auth_url, username, password..."
            );
            self.report(Some(section), ProblemKind::LegacyAuthOptions, severity, text);
        }
        let credentials = present(&CREDENTIALS);
        if !credentials.is_empty() {
            let text = format!("{credentials}: credentials here override [keystone_authtoken] of barbican.conf");
            self.report(Some(section), ProblemKind::Credentials, Severity::Warning, text);
        }
    }

    /// Every `%` must be `%%` or `%(name)s` with a name that is known. Not
    /// on Python 2, which looks at `%` only in a value that has a `%(`.
    fn interpolation(&mut self, section: &Section) {
        if self.dialect != Dialect::Paste3 {
            return;
        }
        for (key, value) in &section.options {
            let known = |name: &str| {
                self.model.defaults.iter().any(|default| default == name) || section.option(name).is_some()
            };
            if !interpolates(value, known) {
                let text = format!("{key}: a % that is neither %% nor the %(name)s of an option");
                self.blocker(Some(section), ProblemKind::Interpolation, text);
            }
        }
    }
}

fn interpolates(value: &str, known: impl Fn(&str) -> bool) -> bool {
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        rest = if let Some(after) = after.strip_prefix('%') {
            after
        } else {
            let name = after.strip_prefix('(').and_then(|after| after.split_once(")s"));
            match name {
                Some((name, after)) if known(name) => after,
                Some(_) | None => return false,
            }
        };
    }
    true
}
