//! A paste file as PasteDeploy sees it: sections by type and name, what each
//! is made of, and the pipelines of Barbican.

use crate::ini::{Dialect, Document, Error};

/// What a loader looks for. The two have name spaces of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    App,
    Filter,
}

/// Type of a section that takes part in pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    App,
    Composite,
    Pipeline,
    FilterApp,
    Filter,
}

/// The prefixes of section names. PasteDeploy takes the first prefix of a
/// type that finds something; sections of two types under one name are
/// ambiguous.
const PREFIXES: [(Type, &[&str]); 5] = [
    (Type::App, &["app", "application"]),
    (Type::Composite, &["composite", "composit"]),
    (Type::Pipeline, &["pipeline"]),
    (Type::FilterApp, &["filter-app"]),
    (Type::Filter, &["filter"]),
];

/// A section with the options that PasteDeploy passes on.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// The whole name, as between the brackets.
    pub(super) full: String,
    pub(super) prefix: String,
    pub(super) kind: Type,
    /// The name behind the colon.
    pub(super) name: String,
    pub(super) line: usize,
    /// Options with the values that count. Without those that `[DEFAULT]`
    /// has too, since PasteDeploy leaves these out, and without `set ...`.
    pub(super) options: Vec<(String, String)>,
}

impl Section {
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let option = self.options.iter().find(|(key, _)| key == name);
        option.map(|(_, value)| value.as_str())
    }

    /// The names in `pipeline = ...`.
    pub(super) fn words(&self) -> Vec<&str> {
        self.option("pipeline").unwrap_or_default().split_whitespace().collect()
    }

    /// Keys and targets of a urlmap.
    pub(super) fn targets(&self) -> impl Iterator<Item = (&str, &str)> {
        let options = self.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        options.filter(|(key, _)| !matches!(*key, "use" | "require" | "filter-with") && !key.starts_with("paste."))
    }
}

/// What a name leads to.
#[derive(Debug, Clone)]
pub(super) enum Found<'a> {
    Section(&'a Section),
    /// `egg:...`, `call:...` or `config:...`.
    Uri(&'a str),
    Missing,
    Ambiguous,
}

/// The factories that the rules and checks know, under all their spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Authtoken,
    /// The same filter at the place it had before Juno.
    OldAuthtoken,
    Context,
    Unauthenticated,
    Cors,
    HttpProxy,
    RequestId,
    Microversion,
    Audit,
    HealthcheckFilter,
    HealthcheckApp,
    Ssl,
    Profile,
    Urlmap,
    MainApp,
    VersionApp,
    AdminApp,
}

/// A factory: `module:attribute`, or `egg:distribution#name` with the
/// distribution name normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Factory(pub(super) String);

impl Factory {
    /// From the expression of `paste.*_factory` or the URI of `use`.
    fn parse(text: &str) -> Option<Factory> {
        let text = text.trim();
        let (scheme, rest) = text.split_once(':')?;
        Some(Factory(match scheme.to_ascii_lowercase().as_str() {
            "call" => rest.trim().to_owned(),
            "config" => return None,
            "egg" => {
                let (dist, name) = rest.split_once('#').unwrap_or((rest, "main"));
                format!("egg:{}#{name}", normal(dist))
            }
            _ => text.to_owned(),
        }))
    }

    pub(super) fn known(&self) -> Option<Known> {
        let (module, attribute) = self.0.split_once(':')?;
        let first = attribute.split('.').next().unwrap_or_default();
        Some(match (module, first) {
            ("keystonemiddleware.auth_token", _) | ("egg", "keystonemiddleware#auth_token") => Known::Authtoken,
            ("keystoneclient.middleware.auth_token", _) => Known::OldAuthtoken,
            ("keystonemiddleware.audit", _) | ("egg", "keystonemiddleware#audit") => Known::Audit,
            ("barbican.api.middleware.context", "UnauthenticatedContextMiddleware") => Known::Unauthenticated,
            ("barbican.api.middleware.context", "ContextMiddleware") => Known::Context,
            ("barbican.api.middleware.microversion", _) => Known::Microversion,
            ("barbican.api.app", "create_main_app") => Known::MainApp,
            ("barbican.api.app", "create_version_app") => Known::VersionApp,
            ("barbican.api.app", "create_admin_app") => Known::AdminApp,
            ("egg", "repoze-profile#main") | ("repoze.profile", _) => Known::Profile,
            ("egg", "paste#urlmap") | ("paste.urlmap", "urlmap_factory") => Known::Urlmap,
            ("egg", name) => oslo(name.strip_prefix("oslo-middleware#")?, "", attribute)?,
            (module, class) if module == "oslo_middleware" || module.starts_with("oslo_middleware.") => {
                oslo(module.strip_prefix("oslo_middleware.").unwrap_or_default(), class, attribute)?
            }
            _ => return None,
        })
    }
}

/// A distribution name as `importlib.metadata` compares it.
fn normal(distribution: &str) -> String {
    let mut name = String::new();
    for c in distribution.trim().chars() {
        match c {
            '-' | '_' | '.' if name.ends_with('-') => {}
            '-' | '_' | '.' => name.push('-'),
            c => name.extend(c.to_lowercase()),
        }
    }
    name
}

/// A factory of oslo.middleware, by its submodule or entry point, or by its
/// class where it is taken from the package itself.
fn oslo(module: &str, class: &str, attribute: &str) -> Option<Known> {
    Some(match (module, class) {
        ("cors", _) | ("", "CORS") => Known::Cors,
        ("http_proxy_to_wsgi", _) | ("", "HTTPProxyToWSGI") => Known::HttpProxy,
        ("request_id", _) | ("", "RequestId" | "RequestIdMiddleware") => Known::RequestId,
        ("ssl", _) | ("", "SSLMiddleware") => Known::Ssl,
        ("healthcheck", _) | ("", "Healthcheck") => match attribute.ends_with("app_factory") {
            true => Known::HealthcheckApp,
            false => Known::HealthcheckFilter,
        },
        _ => return None,
    })
}

/// A pipeline that ends in one of Barbican's apps.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) section: String,
    pub(super) line: usize,
    /// The filters, in order.
    pub(super) filters: Vec<Filter>,
    pub(super) app: BarbicanApp,
}

/// The apps of Barbican that pipelines are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BarbicanApp {
    Main,
    Version,
}

/// A filter as a pipeline names it.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub(super) word: String,
    pub(super) known: Option<Known>,
}

impl Pipeline {
    /// Place of the first filter of that kind.
    pub(super) fn find(&self, known: Known) -> Option<usize> {
        self.filters.iter().position(|filter| filter.known == Some(known))
    }

    /// Place of the last filter of one of these kinds.
    pub(super) fn find_last(&self, known: &[Known]) -> Option<usize> {
        let of_kind = |filter: &Filter| filter.known.is_some_and(|k| known.contains(&k));
        self.filters.iter().rposition(of_kind)
    }
}

/// The sections of a paste file.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) sections: Vec<Section>,
    /// Names of the options of `[DEFAULT]`.
    pub(super) defaults: Vec<String>,
}

impl Model {
    /// Reads the file as PasteDeploy does.
    pub(super) fn read(document: &Document, dialect: Dialect) -> Result<Model, Error> {
        let mut model = Model { sections: Vec::new(), defaults: vec!["here".into(), "__file__".into()] };
        let defaults = document.keys(dialect, "DEFAULT").into_iter();
        model.defaults.extend(defaults.map(|key| key.name));
        for header in document.sections() {
            let Some((kind, prefix, name)) = split(&header.name) else {
                continue;
            };
            if model.sections.iter().any(|known| known.full == header.name) {
                continue;
            }
            let mut options = document.options(dialect, &header.name)?;
            options.retain(|(key, _)| !model.defaults.contains(key) && !key.starts_with("set "));
            model.sections.push(Section {
                kind,
                prefix: prefix.to_owned(),
                name: name.to_owned(),
                line: header.line,
                options,
                full: header.name,
            });
        }
        Ok(model)
    }

    /// What a name stands for in a pipeline, a composite or `use`.
    pub(super) fn find<'a>(&'a self, want: Want, name: &'a str) -> Found<'a> {
        if is_uri(name) {
            return Found::Uri(name);
        }
        let mut found = Vec::new();
        for (kind, prefixes) in PREFIXES {
            if (kind == Type::Filter) != (want == Want::Filter) {
                continue;
            }
            for prefix in prefixes {
                let named = |section: &&Section| section.prefix == *prefix && section.name == name;
                let before = found.len();
                found.extend(self.sections.iter().filter(named));
                if found.len() > before {
                    break;
                }
            }
        }
        match found.as_slice() {
            [] => Found::Missing,
            [section] => Found::Section(section),
            _ => Found::Ambiguous,
        }
    }

    /// The factory that a name comes to in the end, through any `use`.
    pub(super) fn factory(&self, want: Want, name: &str) -> Option<Factory> {
        match self.find(want, name) {
            Found::Uri(uri) => Factory::parse(uri),
            Found::Section(section) => self.section_factory(section),
            Found::Missing | Found::Ambiguous => None,
        }
    }

    pub(super) fn known(&self, want: Want, name: &str) -> Option<Known> {
        self.factory(want, name)?.known()
    }

    /// The factory of a section.
    pub(super) fn section_factory(&self, section: &Section) -> Option<Factory> {
        let mut section = section;
        // A chain longer than the file has sections is a loop.
        for _ in 0..=self.sections.len() {
            let want = if matches!(section.kind, Type::Filter | Type::FilterApp) { Want::Filter } else { Want::App };
            let Some(name) = section.option("use") else {
                let key = factories(want).iter().find_map(|key| section.option(key));
                return Factory::parse(key?);
            };
            match self.find(want, name) {
                Found::Uri(uri) => return Factory::parse(uri),
                Found::Section(next) => section = next,
                Found::Missing | Found::Ambiguous => return None,
            }
        }
        None
    }

    pub(super) fn section_known(&self, section: &Section) -> Option<Known> {
        self.section_factory(section)?.known()
    }

    /// The pipelines that end in Barbican's main or version app, in the order
    /// of the file. Not those that end in another pipeline.
    pub(super) fn pipelines(&self) -> Vec<Pipeline> {
        self.sections.iter().filter_map(|section| self.pipeline(section)).collect()
    }

    pub(super) fn pipeline(&self, section: &Section) -> Option<Pipeline> {
        if section.kind != Type::Pipeline {
            return None;
        }
        let mut words = section.words();
        let last = words.pop()?;
        if let Found::Section(target) = self.find(Want::App, last)
            && target.kind != Type::App
        {
            return None;
        }
        let app = match self.factory(Want::App, last)?.known() {
            Some(Known::MainApp) => BarbicanApp::Main,
            Some(Known::VersionApp) => BarbicanApp::Version,
            Some(_) | None => return None,
        };
        let filter = |word: &str| Filter { word: word.to_owned(), known: self.known(Want::Filter, word) };
        Some(Pipeline {
            section: section.full.clone(),
            line: section.line,
            filters: words.into_iter().map(filter).collect(),
            app,
        })
    }
}

/// The keys that name a factory, for apps and composites, and for filters.
pub(super) fn factories(want: Want) -> &'static [&'static str] {
    match want {
        Want::App => &["paste.app_factory", "paste.composite_factory", "paste.composit_factory"],
        Want::Filter => &["paste.filter_factory", "paste.filter_app_factory"],
    }
}

/// Type, prefix and name of a section.
fn split(full: &str) -> Option<(Type, &'static str, &str)> {
    let (before, name) = full.split_once(':')?;
    PREFIXES.iter().find_map(|(kind, prefixes)| {
        let prefix = prefixes.iter().find(|prefix| **prefix == before)?;
        Some((*kind, *prefix, name.trim()))
    })
}

/// Whether a name has a scheme: letters, then a colon.
fn is_uri(name: &str) -> bool {
    let scheme = name.split_once(':').map(|(scheme, _)| scheme);
    scheme.is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphabetic()))
}

/// The path of a urlmap key, which may have `domain` and `port` before it;
/// without slashes at its end.
pub(super) fn url_path(key: &str) -> Option<&str> {
    let path = key.split_whitespace().next_back().filter(|path| path.starts_with('/'))?;
    Some(path.trim_end_matches('/'))
}
