//! The rules, one function each.

use super::Change;
use super::check::v1_map;
use super::model::{BarbicanApp, Known, Model, Pipeline, Section, Type, Want, factories, url_path};
use crate::ini::{Dialect, Document, Error};

/// A filter that a release puts into Barbican's pipelines.
pub(super) struct NewFilter {
    known: Known,
    /// Upstream's name of the section.
    name: &'static str,
    options: &'static [(&'static str, &'static str)],
    /// Where it goes in a pipeline that lacks it.
    place: fn(&Pipeline) -> usize,
}

pub(super) const CORS: NewFilter = NewFilter {
    known: Known::Cors,
    name: "cors",
    options: &[("paste.filter_factory", "oslo_middleware.cors:filter_factory"), ("oslo_config_project", "barbican")],
    place: |_| 0,
};

pub(super) const HTTP_PROXY: NewFilter = NewFilter {
    known: Known::HttpProxy,
    name: "http_proxy_to_wsgi",
    options: &[("paste.filter_factory", "oslo_middleware:HTTPProxyToWSGI.factory")],
    // 22.0.0 and later have request_id between cors and this one.
    place: |pipeline| behind(pipeline, &[Known::Cors, Known::RequestId]).unwrap_or(0),
};

pub(super) const MICROVERSION: NewFilter = NewFilter {
    known: Known::Microversion,
    name: "microversion",
    options: &[("paste.filter_factory", "barbican.api.middleware.microversion:MicroversionMiddleware.factory")],
    place: |pipeline| match pipeline.app {
        BarbicanApp::Main => behind(pipeline, &[Known::Context, Known::Unauthenticated])
            .or_else(|| pipeline.find(Known::Audit))
            .unwrap_or(pipeline.filters.len()),
        BarbicanApp::Version => pipeline.filters.len(),
    },
};

pub(super) const REQUEST_ID: NewFilter = NewFilter {
    known: Known::RequestId,
    name: "request_id",
    options: &[("paste.filter_factory", "oslo_middleware.request_id:RequestId.factory")],
    place: |pipeline| behind(pipeline, &[Known::Cors]).unwrap_or(0),
};

const HEALTHCHECK: [(&str, &str); 3] = [
    ("paste.app_factory", "oslo_middleware:Healthcheck.app_factory"),
    ("backends", "disable_by_file"),
    ("disable_by_file_path", "/etc/barbican/healthcheck_disable"),
];

/// Both are as every release up to 21.0.0 ships them; of the pipeline, what
/// is left without the filters that the rules put in.
const PROFILE_PIPELINE: &str = "pipeline:barbican-profile";
const PROFILE_WORDS: [&str; 5] =
    ["unauthenticated-context", "egg:Paste#cgitb", "egg:Paste#httpexceptions", "profile", "apiapp"];
const PROFILE_FILTER: &str = "filter:profile";
const PROFILE_OPTIONS: [(&str, &str); 7] = [
    ("use", "egg:repoze.profile"),
    ("log_filename", "myapp.profile"),
    ("cachegrind_filename", "cachegrind.out.myapp"),
    ("discard_first_request", "true"),
    ("path", "/__profile__"),
    ("flush_at_shutdown", "true"),
    ("unwind", "false"),
];

const OLD_AUTHTOKEN: &str = "keystoneclient.middleware.auth_token";
const NEW_AUTHTOKEN: &str = "keystonemiddleware.auth_token";

fn behind(pipeline: &Pipeline, known: &[Known]) -> Option<usize> {
    Some(pipeline.find_last(known)? + 1)
}

fn change(section: &str, text: impl Into<String>) -> Change {
    Change { section: section.to_owned(), text: text.into() }
}

/// Puts a filter into every pipeline that ends in a Barbican app and lacks
/// it, and adds its section when there is none with its factory.
pub(super) fn add_filter(document: &mut Document, dialect: Dialect, filter: &NewFilter) -> Result<Vec<Change>, Error> {
    let model = Model::read(document, dialect)?;
    let mut lacking = model.pipelines();
    lacking.retain(|pipeline| pipeline.find(filter.known).is_none());
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    let name = match existing(&model, filter) {
        Some(name) => name,
        None => {
            let name = free_name(&model, Want::Filter, filter.name);
            let section = format!("filter:{name}");
            let after = last_section(&model, &[Type::Filter, Type::App]);
            document.add_section(dialect, &section, filter.options, after)?;
            changes.push(change(&section, "section added"));
            name
        }
    };
    for pipeline in lacking {
        let nth = (filter.place)(&pipeline);
        document.insert_word(dialect, &pipeline.section, "pipeline", nth, &name)?;
        changes.push(change(&pipeline.section, format!("{name} put {}", place_in_words(&pipeline, nth))));
    }
    Ok(changes)
}

/// Name of a filter section with the factory: upstream's if there are more.
fn existing(model: &Model, filter: &NewFilter) -> Option<String> {
    let same = |section: &&Section| section.kind == Type::Filter && model.section_known(section) == Some(filter.known);
    let sections: Vec<&Section> = model.sections.iter().filter(same).collect();
    let section = sections.iter().find(|section| section.name == filter.name).or(sections.first())?;
    Some(section.name.clone())
}

/// `name`, or the first of `name_2`, `name_3`... that nothing is called.
fn free_name(model: &Model, want: Want, name: &str) -> String {
    let same_space = |section: &Section| (section.kind == Type::Filter) == (want == Want::Filter);
    let taken = |name: &str| model.sections.iter().any(|section| same_space(section) && section.name == name);
    let mut free = name.to_owned();
    let mut number = 2;
    while taken(&free) {
        free = format!("{name}_{number}");
        number += 1;
    }
    free
}

/// The last section of the first of these types that occurs at all.
fn last_section<'a>(model: &'a Model, kinds: &[Type]) -> Option<&'a str> {
    let last = |kind: &Type| model.sections.iter().rfind(|section| section.kind == *kind);
    kinds.iter().find_map(last).map(|section| section.full.as_str())
}

fn place_in_words(pipeline: &Pipeline, nth: usize) -> String {
    match nth.checked_sub(1).and_then(|before| pipeline.filters.get(before)) {
        None => "first".to_owned(),
        Some(before) if nth < pipeline.filters.len() => format!("behind {}", before.word),
        Some(_) => "before the app".to_owned(),
    }
}

pub(super) fn authtoken_factory(document: &mut Document, dialect: Dialect) -> Result<Vec<Change>, Error> {
    let model = Model::read(document, dialect)?;
    let mut changes = Vec::new();
    for section in model.sections.iter().filter(|section| section.kind == Type::Filter) {
        for key in factories(Want::Filter).iter().chain(&["use"]) {
            let Some(value) = section.option(key) else { continue };
            let bare = value.strip_prefix("call:").unwrap_or(value);
            if bare.split(':').next() == Some(OLD_AUTHTOKEN) {
                let new = value.replacen(OLD_AUTHTOKEN, NEW_AUTHTOKEN, 1);
                document.set(dialect, &section.full, key, &new)?;
                changes.push(change(&section.full, format!("{key} is now in {NEW_AUTHTOKEN}")));
            }
        }
    }
    Ok(changes)
}

pub(super) fn identity_uri(document: &mut Document, dialect: Dialect) -> Result<Vec<Change>, Error> {
    const TRIO: [&str; 3] = ["auth_protocol", "auth_host", "auth_port"];
    const PREFIX: &str = "auth_admin_prefix";
    let model = Model::read(document, dialect)?;
    let mut changes = Vec::new();
    for section in model.sections.iter().filter(|section| section.kind == Type::Filter) {
        let authtoken = matches!(model.section_known(section), Some(Known::Authtoken | Known::OldAuthtoken));
        let [Some(protocol), Some(host), Some(port)] = TRIO.map(|key| section.option(key)) else {
            continue;
        };
        if !authtoken || section.option("identity_uri").is_some() {
            continue;
        }
        // As keystonemiddleware put it together: an IPv6 address in brackets.
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut uri = format!("{protocol}://{host}:{port}");
        let prefix = section.option(PREFIX).map(|prefix| prefix.trim_matches('/'));
        if let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) {
            uri = format!("{uri}/{prefix}");
        }
        let keys = document.keys(dialect, &section.full);
        let first = keys.into_iter().find(|key| TRIO.contains(&key.name.as_str()));
        if let Some(first) = first {
            document.rename_key(dialect, &section.full, &first.name, "identity_uri")?;
        }
        document.set_multi(dialect, &section.full, "identity_uri", &[&uri])?;
        for key in TRIO.iter().chain(&[PREFIX]) {
            document.remove_key(dialect, &section.full, key)?;
        }
        let text = "auth_protocol, auth_host and auth_port joined into identity_uri";
        changes.push(change(&section.full, text));
    }
    Ok(changes)
}

pub(super) fn healthcheck(document: &mut Document, dialect: Dialect) -> Result<Vec<Change>, Error> {
    let model = Model::read(document, dialect)?;
    let Some(map) = v1_map(&model) else {
        return Ok(Vec::new());
    };
    let mapped = model.sections.iter().filter(|section| section.kind == Type::Composite);
    let mut paths = mapped.flat_map(Section::targets).filter_map(|(key, _)| url_path(key));
    let used_as_filter = |section: &Section| {
        let mut words = section.words();
        words.pop();
        words.iter().any(|word| model.known(Want::Filter, word) == Some(Known::HealthcheckFilter))
    };
    if paths.any(|path| path == "/healthcheck") || model.sections.iter().any(used_as_filter) {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    let is_app =
        |section: &&Section| section.kind == Type::App && model.section_known(section) == Some(Known::HealthcheckApp);
    let name = match model.sections.iter().find(is_app) {
        Some(section) => section.name.clone(),
        None => {
            let name = free_name(&model, Want::App, "healthcheck");
            let section = format!("app:{name}");
            let after = last_section(&model, &[Type::App, Type::Filter]);
            document.add_section(dialect, &section, &HEALTHCHECK, after)?;
            changes.push(change(&section, "section added"));
            name
        }
    };
    document.set(dialect, &map.full, "/healthcheck", &name)?;
    changes.push(change(&map.full, format!("/healthcheck leads to {name}")));
    Ok(changes)
}

pub(super) fn drop_profile(document: &mut Document, dialect: Dialect) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let model = Model::read(document, dialect)?;
    if let Some(section) = model.sections.iter().find(|section| section.full == PROFILE_PIPELINE)
        && is_shipped_pipeline(&model, section)
        && !referred_to(&model, section)
    {
        document.remove_section(dialect, PROFILE_PIPELINE)?;
        changes.push(change(PROFILE_PIPELINE, "section removed, as upstream did"));
    }
    let model = Model::read(document, dialect)?;
    if let Some(section) = model.sections.iter().find(|section| section.full == PROFILE_FILTER)
        && is_shipped_filter(section)
        && !referred_to(&model, section)
    {
        document.remove_section(dialect, PROFILE_FILTER)?;
        changes.push(change(PROFILE_FILTER, "section removed, as upstream did"));
    }
    Ok(changes)
}

fn is_shipped_pipeline(model: &Model, section: &Section) -> bool {
    let put_in = [Known::Cors, Known::HttpProxy, Known::Microversion, Known::RequestId];
    let Some(pipeline) = model.pipeline(section) else {
        return false;
    };
    let own = pipeline.filters.iter().filter(|f| !f.known.is_some_and(|known| put_in.contains(&known)));
    let own: Vec<&str> = own.map(|filter| filter.word.as_str()).chain(section.words().pop()).collect();
    own == PROFILE_WORDS && section.options.len() == 1
}

fn is_shipped_filter(section: &Section) -> bool {
    let shipped = |(key, value): &(&str, &str)| section.option(key) == Some(value);
    section.options.len() == PROFILE_OPTIONS.len() && PROFILE_OPTIONS.iter().all(shipped)
}

/// Whether any option of another section has the name of this one as a word.
fn referred_to(model: &Model, section: &Section) -> bool {
    let others = model.sections.iter().filter(|other| other.full != section.full);
    let mut values = others.flat_map(|other| &other.options);
    values.any(|(_, value)| value.split_whitespace().any(|word| word == section.name))
}
