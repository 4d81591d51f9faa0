//! When a note, an edit or a check applies: conditions as data, facts as plain values.
//!
//! The catalogue says *when*, this module decides *whether*, from [`Facts`] that somebody else
//! gathered. Nothing here reads a file or a database. What is not known makes a condition hold:
//! one note too many is harmless, one too few is not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::option::OptionName;
use super::version::PythonVersion;

/// The outcome of a condition over facts that may be incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Truth {
    /// Known not to apply.
    No,
    /// A fact that decides it could not be determined.
    Unknown,
    /// Known to apply.
    Yes,
}

impl Truth {
    /// What an optional fact says: absent is [`Truth::Unknown`].
    pub fn of(fact: Option<bool>) -> Truth {
        match fact {
            Some(true) => Truth::Yes,
            Some(false) => Truth::No,
            None => Truth::Unknown,
        }
    }
}

impl std::ops::Not for Truth {
    type Output = Truth;

    fn not(self) -> Truth {
        match self {
            Truth::No => Truth::Yes,
            Truth::Unknown => Truth::Unknown,
            Truth::Yes => Truth::No,
        }
    }
}

/// One option as the operator's files set it. Defaults of the code are not in here.
#[derive(Clone, PartialEq, Eq)]
pub struct OptionFact {
    /// How many lines set it; a multi-valued option (`kek`) may have several.
    pub times: usize,
    /// The value that the running code takes, without outer quotes. `None` where it is a secret:
    /// no condition may compare it then.
    pub value: Option<String>,
}

// The value of a non-secret option may still hold a password by mistake (a URL): never print it.
impl std::fmt::Debug for OptionFact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OptionFact")
            .field("times", &self.times)
            .field("value", &self.value.as_ref().map(|_| "***"))
            .finish()
    }
}

/// The SQL dialect of Barbican's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// SQLite 3.
    Sqlite,
    /// PostgreSQL.
    Postgresql,
    /// MySQL and MariaDB.
    Mysql,
}

/// A file of the deployment whose mere presence decides something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteFile {
    /// `policy.json` in a configuration directory.
    PolicyJson,
    /// `policy.yaml` in a configuration directory.
    PolicyYaml,
    /// `barbican-admin-paste.ini`, or a uWSGI vassal of the admin endpoint.
    AdminPaste,
    /// `barbican-api.conf`.
    ApiConf,
    /// `api_audit_map.conf`.
    AuditMap,
}

/// A service of Barbican.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// The API, however it is launched.
    Api,
    /// `barbican-worker`.
    Worker,
    /// `barbican-keystone-listener`.
    KeystoneListener,
    /// `barbican-retry`.
    Retry,
}

/// How the API is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiLauncher {
    /// The script `barbican-wsgi-api`, by itself or as somebody's WSGI file.
    BarbicanWsgiApi,
    /// uWSGI with a paste file or a module.
    Uwsgi,
    /// gunicorn with `--paste`.
    Gunicorn,
    /// Apache's mod_wsgi.
    ModWsgi,
    /// Something else.
    Other,
}

/// What is true of the site's `barbican-api-paste.ini`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PasteFacts {
    /// The traits of [`PasteTrait`] it has.
    pub traits: BTreeSet<PasteTrait>,
    /// Every factory named by a filter or an app (`module:attribute` or `egg:dist#name`).
    pub factories: BTreeSet<String>,
}

/// A property of the paste file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PasteTrait {
    /// `/v1` leads to a pipeline with `unauthenticated-context`.
    V1Unauthenticated,
    /// The authtoken section holds the service's credentials (a user, a password).
    AuthtokenCredentials,
    /// The authtoken section sets options that keystonemiddleware 13 does not know: identity_uri,
    /// auth_host, auth_port, auth_protocol, admin_user, admin_password, admin_tenant_name.
    AuthtokenOldOptions,
    /// The authtoken section has auth_host, auth_port or auth_protocol.
    AuthtokenHostTrio,
    /// `main` leads to a pipeline with the repoze.profile filter.
    ProfileReachable,
    /// `main` leads to a pipeline with the audit filter.
    AuditReachable,
}

/// What is known of a deployment. A field of `None` was not determinable; an empty collection
/// says that there is nothing of the kind. `Facts::default()` knows nothing.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Secret-store and crypto plugins in use by configuration, defaults included
    /// (`store_crypto`, `simple_crypto`, `p11_crypto`, `vault_plugin`, `kmip_plugin`,
    /// `dogtag_crypto`). A crypto plugin counts only where `store_crypto` is used.
    pub plugins: Option<BTreeSet<String>>,
    /// Rows per `plugin_name`, of `kek_data` and of the secrets' `secret_store_metadata`,
    /// soft-deleted ones included.
    pub plugin_rows: Option<BTreeMap<String, u64>>,
    /// Rows of p11_crypto ciphertext per `mechanism` of their metadata; the empty key counts
    /// those without one.
    pub p11_mechanisms: Option<BTreeMap<String, u64>>,
    /// The options that the files set, under the names they are written with.
    pub options: Option<BTreeMap<OptionName, OptionFact>>,
    /// The database's dialect.
    pub dialect: Option<Dialect>,
    /// The database URL has the scheme `mysql` without a driver.
    pub bare_mysql_url: Option<bool>,
    /// The files that are there.
    pub files: Option<BTreeSet<SiteFile>>,
    /// The rules that the site's policy files define.
    pub policy_rules: Option<BTreeSet<String>>,
    /// The rules and roles that check strings of these files refer to (`rule:x`, `role:x`).
    pub policy_references: Option<BTreeSet<String>>,
    /// The paste file.
    pub paste: Option<PasteFacts>,
    /// The services that are enabled or active.
    pub services: Option<BTreeSet<Service>>,
    /// How the API is launched; several where several units do.
    pub api_launchers: Option<BTreeSet<ApiLauncher>>,
    /// Base names of the programs that units and web-server files run or load.
    pub commands: Option<BTreeSet<String>>,
    /// The Python that will run the service.
    pub python: Option<PythonVersion>,
    /// Orders of type `certificate` in the database.
    pub certificate_orders: Option<u64>,
}

impl Facts {
    fn option(&self, name: &OptionName) -> Option<Option<&OptionFact>> {
        let options = self.options.as_ref()?;
        Some(options.get(name).filter(|fact| fact.times > 0))
    }
}

/// When something of the catalogue applies. In `release.toml` a condition without operand is a
/// string (`"always"`), any other a table of one key (`{ option-set = ["DEFAULT/debug"] }`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Condition {
    /// On every deployment.
    #[default]
    Always,
    /// All of these hold.
    All(Vec<Condition>),
    /// At least one of these holds.
    Any(Vec<Condition>),
    /// This does not hold.
    Not(Box<Condition>),
    /// At least one of these options is set.
    OptionSet(Vec<OptionName>),
    /// None of these options is set.
    OptionUnset(Vec<OptionName>),
    /// The option is set to this, letter case aside. `true` and `false` also stand for the other
    /// ways to write them in oslo.config (1, yes, on; 0, no, off).
    OptionIs {
        /// Which option.
        option: OptionName,
        /// The value.
        value: String,
    },
    /// The option is set and begins with one of these.
    OptionStartsWith {
        /// Which option.
        option: OptionName,
        /// The beginnings, letter case aside.
        with: Vec<String>,
    },
    /// More than one line sets the option.
    OptionRepeated(OptionName),
    /// Some option of one of these groups is set.
    GroupSet(Vec<String>),
    /// One of these plugins is in use by configuration.
    PluginEnabled(Vec<String>),
    /// The database has rows of one of these plugins.
    PluginRows(Vec<String>),
    /// A plugin is in use by configuration that never was Barbican's own.
    ForeignPlugin,
    /// Some p11_crypto ciphertext does not say its mechanism.
    MechanismMissing,
    /// p11_crypto ciphertext of more than one mechanism is there. Not known where some names none.
    MechanismMixed,
    /// The database speaks this dialect.
    Dialect(Dialect),
    /// The database URL names no driver: `mysql://`.
    BareMysqlUrl,
    /// The file is there.
    File(SiteFile),
    /// A policy file defines a rule of one of these names; a final `*` stands for any ending.
    PolicyRule(Vec<String>),
    /// A check string of a policy file refers to one of these rules or roles.
    PolicyReference(Vec<String>),
    /// The paste file has the trait.
    Paste(PasteTrait),
    /// The paste file names a factory that begins with one of these.
    PasteFactory(Vec<String>),
    /// The service is enabled or active.
    Service(Service),
    /// The API is launched by one of these.
    ApiLauncher(Vec<ApiLauncher>),
    /// A unit or web-server file runs one of these programs.
    Runs(Vec<String>),
    /// The service's Python is older than this.
    PythonBelow(PythonVersion),
    /// The database has orders of type `certificate`.
    CertificateOrders,
}

impl Condition {
    /// Whether the condition is to be taken as true: known to hold, or not known.
    pub fn holds(&self, facts: &Facts) -> bool {
        self.truth(facts) != Truth::No
    }

    /// What the facts say of the condition.
    pub fn truth(&self, facts: &Facts) -> Truth {
        match self {
            Condition::Always => Truth::Yes,
            Condition::All(all) => all.iter().map(|one| one.truth(facts)).min().unwrap_or(Truth::Yes),
            Condition::Any(any) => any.iter().map(|one| one.truth(facts)).max().unwrap_or(Truth::No),
            Condition::Not(not) => !not.truth(facts),
            Condition::OptionSet(names) => one_is_set(facts, names),
            Condition::OptionUnset(names) => !one_is_set(facts, names),
            Condition::OptionIs { option, value } => compare(facts, option, |set| same_value(set, value)),
            Condition::OptionStartsWith { option, with } => {
                compare(facts, option, |set| with.iter().any(|start| starts_with(set, start)))
            }
            Condition::OptionRepeated(option) => {
                Truth::of(facts.option(option).map(|fact| fact.is_some_and(|fact| fact.times > 1)))
            }
            Condition::GroupSet(groups) => one_group_is_set(facts, groups),
            Condition::PluginEnabled(names) => known(&facts.plugins, |used| one_in(used, names)),
            Condition::PluginRows(names) => known(&facts.plugin_rows, |rows| {
                names.iter().any(|name| rows.get(name).is_some_and(|count| *count > 0))
            }),
            Condition::ForeignPlugin => {
                known(&facts.plugins, |used| used.iter().any(|name| !OWN_PLUGINS.contains(&name.as_str())))
            }
            Condition::MechanismMissing => {
                known(&facts.p11_mechanisms, |rows| rows.get("").is_some_and(|count| *count > 0))
            }
            Condition::MechanismMixed => mechanisms_are_mixed(facts),
            Condition::Dialect(dialect) => known(&facts.dialect, |used| used == dialect),
            Condition::BareMysqlUrl => Truth::of(facts.bare_mysql_url),
            Condition::File(file) => known(&facts.files, |files| files.contains(file)),
            Condition::PolicyRule(names) => known(&facts.policy_rules, |set| matching(set, names)),
            Condition::PolicyReference(names) => known(&facts.policy_references, |set| matching(set, names)),
            Condition::Paste(wanted) => known(&facts.paste, |p| p.traits.contains(wanted)),
            Condition::PasteFactory(starts) => known(&facts.paste, |paste| {
                paste.factories.iter().any(|f| starts.iter().any(|start| f.starts_with(start)))
            }),
            Condition::Service(service) => known(&facts.services, |set| set.contains(service)),
            Condition::ApiLauncher(kinds) => {
                known(&facts.api_launchers, |used| kinds.iter().any(|kind| used.contains(kind)))
            }
            Condition::Runs(names) => known(&facts.commands, |used| one_in(used, names)),
            Condition::PythonBelow(least) => known(&facts.python, |python| python < least),
            Condition::CertificateOrders => known(&facts.certificate_orders, |count| *count > 0),
        }
    }
}

/// The secret-store and crypto plugins that Barbican ships, by their entry points.
const OWN_PLUGINS: [&str; 6] =
    ["store_crypto", "simple_crypto", "p11_crypto", "vault_plugin", "kmip_plugin", "dogtag_crypto"];

fn mechanisms_are_mixed(facts: &Facts) -> Truth {
    let Some(rows) = &facts.p11_mechanisms else { return Truth::Unknown };
    let present = rows.iter().filter(|(_, count)| **count > 0);
    let (unnamed, named): (Vec<_>, Vec<_>) = present.partition(|(name, _)| name.is_empty());
    match (named.len(), unnamed.is_empty()) {
        (0, _) | (1, true) => Truth::No,
        (1, false) => Truth::Unknown,
        _ => Truth::Yes,
    }
}

/// What `says` of the fact, or [`Truth::Unknown`] where there is none.
fn known<T>(fact: &Option<T>, says: impl FnOnce(&T) -> bool) -> Truth {
    Truth::of(fact.as_ref().map(says))
}

fn one_in(have: &BTreeSet<String>, wanted: &[String]) -> bool {
    wanted.iter().any(|name| have.contains(name))
}

fn same_value(set: &str, wanted: &str) -> bool {
    let truth = |value: &str| match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    };
    set.eq_ignore_ascii_case(wanted) || truth(wanted).is_some_and(|wanted| truth(set) == Some(wanted))
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

fn one_group_is_set(facts: &Facts, groups: &[String]) -> Truth {
    known(&facts.options, |options| options.iter().any(|(name, fact)| fact.times > 0 && groups.contains(&name.group)))
}

fn one_is_set(facts: &Facts, names: &[OptionName]) -> Truth {
    names.iter().map(|name| Truth::of(facts.option(name).map(|fact| fact.is_some()))).max().unwrap_or(Truth::No)
}

fn compare(facts: &Facts, option: &OptionName, matches: impl Fn(&str) -> bool) -> Truth {
    match facts.option(option) {
        None => Truth::Unknown,
        Some(None) => Truth::No,
        Some(Some(fact)) => Truth::of(fact.value.as_deref().map(|value| matches(value.trim()))),
    }
}

/// Whether one of `wanted` is there; a final `*` stands for any ending.
fn matching(have: &BTreeSet<String>, wanted: &[String]) -> bool {
    wanted.iter().any(|wanted| match wanted.strip_suffix('*') {
        Some(start) => have.iter().any(|name| name.starts_with(start)),
        None => have.contains(wanted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a condition as `release.toml` writes it.
    fn condition(text: &str) -> Condition {
        #[derive(Deserialize)]
        struct Holder {
            when: Condition,
        }
        toml::from_str::<Holder>(&format!("when = {text}")).unwrap_or_else(|e| panic!("{text}: {e}")).when
    }

    fn strings<const N: usize>(names: [&str; N]) -> Option<BTreeSet<String>> {
        Some(names.map(str::to_owned).into())
    }

    /// Facts where everything is known.
    fn facts() -> Facts {
        let set = |times, value: Option<&str>| OptionFact { times, value: value.map(str::to_owned) };
        Facts {
            plugins: strings(["store_crypto", "p11_crypto"]),
            plugin_rows: Some([("a.P11".to_owned(), 3), ("gone".to_owned(), 0)].into()),
            p11_mechanisms: Some([(String::new(), 2)].into()),
            options: Some(
                [
                    (OptionName::new("DEFAULT", "host_href"), set(1, Some("HTTPS://keys"))),
                    (OptionName::new("DEFAULT", "debug"), set(1, Some("Yes"))),
                    (OptionName::new("DEFAULT", "empty"), set(1, Some(""))),
                    (OptionName::new("simple", "kek"), set(2, None)),
                    (OptionName::new("other", "absent"), set(0, None)),
                ]
                .into(),
            ),
            dialect: Some(Dialect::Mysql),
            bare_mysql_url: Some(true),
            files: Some([SiteFile::PolicyJson].into()),
            policy_rules: strings(["secret:get", "consumers:post"]),
            policy_references: strings(["system_admin"]),
            paste: Some(PasteFacts {
                traits: [PasteTrait::V1Unauthenticated].into(),
                factories: ["keystonemiddleware.auth_token:filter_factory".to_owned()].into(),
            }),
            services: Some([Service::Api, Service::KeystoneListener].into()),
            api_launchers: Some([ApiLauncher::Uwsgi].into()),
            commands: strings(["barbican-worker"]),
            python: Some(PythonVersion(3, 9)),
            certificate_orders: Some(0),
        }
    }

    /// Condition, truth over `facts()`. Over no facts at all every one is unknown.
    const TABLE: &[(&str, Truth)] = &[
        ("{ option-set = ['DEFAULT/debug'] }", Truth::Yes),
        ("{ option-set = ['DEFAULT/nothing', 'simple/kek'] }", Truth::Yes),
        ("{ option-set = ['DEFAULT/nothing', 'other/absent'] }", Truth::No),
        ("{ option-unset = ['DEFAULT/nothing', 'other/absent'] }", Truth::Yes),
        ("{ option-unset = ['DEFAULT/nothing', 'DEFAULT/debug'] }", Truth::No),
        ("{ option-is = { option = 'DEFAULT/debug', value = 'true' } }", Truth::Yes),
        ("{ option-is = { option = 'DEFAULT/debug', value = 'false' } }", Truth::No),
        ("{ option-is = { option = 'DEFAULT/empty', value = '' } }", Truth::Yes),
        ("{ option-is = { option = 'DEFAULT/nothing', value = '' } }", Truth::No),
        ("{ option-is = { option = 'simple/kek', value = 'x' } }", Truth::Unknown),
        ("{ option-starts-with = { option = 'DEFAULT/host_href', with = ['http://', 'https://'] } }", Truth::Yes),
        ("{ option-starts-with = { option = 'DEFAULT/empty', with = ['http://'] } }", Truth::No),
        ("{ option-repeated = 'simple/kek' }", Truth::Yes),
        ("{ option-repeated = 'DEFAULT/debug' }", Truth::No),
        ("{ group-set = ['simple'] }", Truth::Yes),
        ("{ group-set = ['other'] }", Truth::No),
        ("{ plugin-enabled = ['vault_plugin', 'p11_crypto'] }", Truth::Yes),
        ("{ plugin-enabled = ['simple_crypto'] }", Truth::No),
        ("{ plugin-rows = ['a.P11'] }", Truth::Yes),
        ("{ plugin-rows = ['gone', 'never'] }", Truth::No),
        ("'foreign-plugin'", Truth::No),
        ("'mechanism-missing'", Truth::Yes),
        ("'mechanism-mixed'", Truth::No),
        ("{ dialect = 'mysql' }", Truth::Yes),
        ("{ dialect = 'sqlite' }", Truth::No),
        ("'bare-mysql-url'", Truth::Yes),
        ("{ file = 'policy-json' }", Truth::Yes),
        ("{ file = 'audit-map' }", Truth::No),
        ("{ policy-rule = ['consumers:*'] }", Truth::Yes),
        ("{ policy-rule = ['consumers', 'secret:*x'] }", Truth::No),
        ("{ policy-reference = ['system_admin'] }", Truth::Yes),
        ("{ paste = 'v1-unauthenticated' }", Truth::Yes),
        ("{ paste = 'profile-reachable' }", Truth::No),
        ("{ paste-factory = ['keystonemiddleware.auth_token'] }", Truth::Yes),
        ("{ paste-factory = ['keystoneclient.middleware'] }", Truth::No),
        ("{ service = 'keystone-listener' }", Truth::Yes),
        ("{ service = 'retry' }", Truth::No),
        ("{ api-launcher = ['barbican-wsgi-api'] }", Truth::No),
        ("{ api-launcher = ['gunicorn', 'uwsgi'] }", Truth::Yes),
        ("{ runs = ['barbican-worker'] }", Truth::Yes),
        ("{ runs = ['barbican-worker.py'] }", Truth::No),
        ("{ python-below = '3.11' }", Truth::Yes),
        ("{ python-below = '3.9' }", Truth::No),
        ("'certificate-orders'", Truth::No),
    ];

    #[test]
    fn each_condition_looks_at_its_fact() {
        for (text, expected) in TABLE {
            let condition = condition(text);
            assert_eq!(condition.truth(&facts()), *expected, "{text}");
            assert_eq!(condition.truth(&Facts::default()), Truth::Unknown, "{text} over nothing");
            assert!(condition.holds(&Facts::default()), "{text} over nothing");
            let not = Condition::Not(Box::new(condition));
            assert_eq!(not.truth(&facts()), !*expected, "not {text}");
            assert!(not.holds(&Facts::default()), "not {text} over nothing");
        }
    }

    #[test]
    fn all_and_any_keep_what_is_not_known() {
        let (yes, no, unknown) = ("'always'", "{ not = 'always' }", "{ file = 'api-conf' }");
        let facts = Facts::default();
        for (a, b, all, any) in [
            (yes, yes, Truth::Yes, Truth::Yes),
            (yes, no, Truth::No, Truth::Yes),
            (yes, unknown, Truth::Unknown, Truth::Yes),
            (no, unknown, Truth::No, Truth::Unknown),
            (no, no, Truth::No, Truth::No),
            (unknown, unknown, Truth::Unknown, Truth::Unknown),
        ] {
            assert_eq!(condition(&format!("{{ all = [{a}, {b}] }}")).truth(&facts), all, "{a} and {b}");
            assert_eq!(condition(&format!("{{ any = [{a}, {b}] }}")).truth(&facts), any, "{a} or {b}");
        }
        assert_eq!(Condition::default(), Condition::Always);
    }

    #[test]
    fn mechanisms_are_mixed_only_where_two_are_named() {
        let truth = |rows: &[(&str, u64)]| {
            let rows = rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            Condition::MechanismMixed.truth(&Facts { p11_mechanisms: Some(rows), ..Facts::default() })
        };
        assert_eq!(truth(&[]), Truth::No);
        assert_eq!(truth(&[("", 9)]), Truth::No);
        assert_eq!(truth(&[("CKM_AES_CBC", 9), ("CKM_AES_GCM", 0)]), Truth::No);
        assert_eq!(truth(&[("", 1), ("CKM_AES_CBC", 9)]), Truth::Unknown);
        assert_eq!(truth(&[("CKM_AES_GCM", 1), ("CKM_AES_CBC", 9)]), Truth::Yes);
    }

    #[test]
    fn a_plugin_from_elsewhere_is_foreign() {
        let with = |name| Facts { plugins: strings(["store_crypto", name]), ..Facts::default() };
        assert_eq!(Condition::ForeignPlugin.truth(&with("vault_plugin")), Truth::No);
        assert_eq!(Condition::ForeignPlugin.truth(&with("acme_crypto")), Truth::Yes);
    }

    #[test]
    fn a_misspelt_condition_does_not_parse() {
        for text in [
            "'sometimes'",
            "{ option-set = ['debug'] }",
            "{ option-set = ['DEFAULT/de bug'] }",
            "{ option-is = { option = 'DEFAULT/debug', value = 'x', colour = 'red' } }",
            "{ file = 'policy.json' }",
            "{ python-below = '3' }",
        ] {
            let parsed = toml::from_str::<std::collections::BTreeMap<String, Condition>>(&format!("when = {text}"));
            assert!(parsed.is_err(), "{text}");
        }
    }

    #[test]
    fn debug_output_hides_values() {
        let fact = OptionFact { times: 1, value: Some("mysql://u:hunter2@db".into()) };
        assert!(!format!("{fact:?}").contains("hunter2"));
    }
}
