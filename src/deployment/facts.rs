//! Gathers what the conditions of the release catalogue are decided by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::site::{IN_DATABASE, boolean};
use super::{Code, Host, Site, discover};
use crate::config::{Config, File, is_secret};
use crate::db::{self, Access, Cursor, Database, MetaRow};
use crate::ini::Dialect;
use crate::kek::{P11_CRYPTO, recorded_mechanism};
use crate::paste;
use crate::release::{self, Facts, OptionFact, OptionName, SiteFile};

/// The facts, and what came to light besides.
pub(super) struct Gathered {
    pub(super) facts: Facts,
    /// Secrets by the store that holds them outside the database.
    pub(super) elsewhere: BTreeMap<String, u64>,
}

pub(super) fn gather(
    host: &Host,
    config: &Config,
    paste: Option<&File>,
    site: &Site,
    code: &Code,
    dialect: Dialect,
    sample: Option<&BTreeSet<String>>,
) -> Result<Gathered> {
    let mut facts = Facts {
        plugins: Some(enabled_plugins(config)?),
        options: Some(options(config)?),
        dialect: site.url().map(|url| match url.dialect() {
            db::Dialect::Sqlite => release::Dialect::Sqlite,
            db::Dialect::Postgresql => release::Dialect::Postgresql,
            db::Dialect::Mysql => release::Dialect::Mysql,
        }),
        bare_mysql_url: site.url().map(|url| url.to_string().starts_with("mysql://")),
        files: Some(files(host)),
        paste: paste.and_then(|file| paste::facts(&file.document, dialect).ok()),
        python: match code {
            Code::At { python, .. } => *python,
            Code::None | Code::Mixed(_) => None,
        },
        ..Facts::default()
    };
    let launched = discover::launched(host, host.found()?, site.services.states());
    (facts.services, facts.api_launchers, facts.commands) = (launched.services, launched.launchers, launched.commands);
    policy(host, config, &mut facts)?;
    let mut elsewhere = BTreeMap::new();
    if let Ok(database) = site.open(Access::ReadOnly) {
        // An empty or foreign database has no rows to count: then the facts stay unknown.
        if rows(&database, &mut facts, &mut elsewhere, sample).is_err() {
            facts.plugin_rows = None;
        }
    }
    Ok(Gathered { facts, elsewhere })
}

/// With `sample`, mechanisms are counted of these secrets only.
fn rows(
    database: &Database,
    facts: &mut Facts,
    elsewhere: &mut BTreeMap<String, u64>,
    sample: Option<&BTreeSet<String>>,
) -> Result<()> {
    let mut plugins = database.plugin_counts()?;
    for store in database.store_counts(IN_DATABASE)? {
        *plugins.entry(store.plugin_name.clone()).or_default() += store.live + store.deleted;
        elsewhere.insert(store.plugin_name, store.live);
    }
    let mut mechanisms: BTreeMap<String, u64> = BTreeMap::new();
    let mut add = |page: &[MetaRow]| {
        for row in page {
            let name = recorded_mechanism(row.kek_meta_extended.as_deref()).unwrap_or_default();
            *mechanisms.entry(name).or_default() += 1;
        }
    };
    if let Some(ids) = sample {
        add(&database.metas_by_id(P11_CRYPTO, &ids.iter().map(String::as_str).collect::<Vec<_>>())?);
    } else {
        let mut cursor = Cursor::default();
        loop {
            let page = database.meta_page(P11_CRYPTO, &mut cursor)?;
            if page.is_empty() {
                break;
            }
            add(&page);
        }
    }
    facts.certificate_orders = Some(database.certificate_orders()?);
    facts.plugin_rows = Some(plugins);
    facts.p11_mechanisms = Some(mechanisms);
    Ok(())
}

/// The plugins in use: of the stores first, and the crypto plugins where a store uses them.
fn enabled_plugins(config: &Config) -> Result<BTreeSet<String>> {
    let list = |group: &str, name: &str, default: &str| -> Result<Vec<String>> {
        use secrecy::ExposeSecret as _;
        let values = config.secrets(group, name)?;
        let all: Vec<String> =
            values.iter().flat_map(|v| v.expose_secret().split(',')).map(|v| v.trim().to_owned()).collect();
        Ok(if all.is_empty() { vec![default.to_owned()] } else { all })
    };
    let multiple = config.text("secretstore", "enable_multiple_secret_stores")?;
    if boolean("secretstore", "enable_multiple_secret_stores", multiple, false)? {
        let mut plugins = BTreeSet::new();
        for suffix in list("secretstore", "stores_lookup_suffix", "")? {
            let group = format!("secretstore:{suffix}");
            plugins.extend(config.text(&group, "secret_store_plugin")?);
            plugins.extend(config.text(&group, "crypto_plugin")?);
        }
        return Ok(plugins);
    }
    let mut plugins: BTreeSet<String> =
        list("secretstore", "enabled_secretstore_plugins", "store_crypto")?.into_iter().collect();
    if plugins.contains("store_crypto") {
        plugins.extend(list("crypto", "enabled_crypto_plugins", "simple_crypto")?);
    }
    Ok(plugins)
}

fn options(config: &Config) -> Result<BTreeMap<OptionName, OptionFact>> {
    let mut all = BTreeMap::new();
    for (group, name, times, shown) in config.options()? {
        let value = (!is_secret(&name)).then_some(shown);
        all.insert(OptionName::new(group, name), OptionFact { times, value });
    }
    Ok(all)
}

fn files(host: &Host) -> BTreeSet<SiteFile> {
    let beside = |name: &str| host.settings.config_file.with_file_name(name);
    [
        (SiteFile::PolicyJson, beside("policy.json")),
        (SiteFile::PolicyYaml, beside("policy.yaml")),
        (SiteFile::AdminPaste, beside("barbican-admin-paste.ini")),
        (SiteFile::ApiConf, beside("barbican-api.conf")),
        (SiteFile::AuditMap, beside("api_audit_map.conf")),
    ]
    .into_iter()
    .filter(|(_, path)| host.root.exists(path))
    .map(|(file, _)| file)
    .collect()
}

/// The rules that the site's policy files define, and what their check strings refer to.
fn policy(host: &Host, config: &Config, facts: &mut Facts) -> Result<()> {
    let directory = host.settings.config_file.parent().unwrap_or(Path::new("/")).to_owned();
    let mut paths: Vec<PathBuf> = vec![directory.join("policy.json"), directory.join("policy.yaml")];
    for name in ["oslo_policy", "DEFAULT"] {
        if let Some(file) = config.text(name, "policy_file")? {
            paths.push(directory.join(file));
        }
    }
    let more = directory.join("policy.d");
    paths.extend(host.root.list(&more)?.into_iter().map(|name| more.join(name)));
    paths.sort();
    paths.dedup();
    let (mut rules, mut references) = (BTreeSet::new(), BTreeSet::new());
    for path in paths {
        let Some(text) = host.root.read_text(&path)? else { continue };
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            if let Some(rule) = policy_rule(line) {
                rules.insert(rule);
            }
            // `rule:x` and `role:x` by their names, anything else (`project:%`, `system_scope:all`) as it is written.
            let words = line.split(|c: char| c.is_whitespace() || "\"'()[],".contains(c)).filter(|w| w.contains(':'));
            references.extend(words.map(|w| w.trim_start_matches("rule:").trim_start_matches("role:").to_owned()));
        }
    }
    facts.policy_rules = Some(rules);
    facts.policy_references = Some(references);
    Ok(())
}

/// The rule that a line of a policy file defines: `"secret:get": "..."` in JSON or YAML.
fn policy_rule(line: &str) -> Option<String> {
    let line = line.trim_start_matches('{').trim_start();
    match line.chars().next()? {
        quote @ ('"' | '\'') => {
            let (name, rest) = line.get(1..)?.split_once(quote)?;
            rest.trim_start().starts_with(':').then(|| name.to_owned())
        }
        _ => {
            let (name, _) = line.split_once(": ")?;
            (!name.contains(' ')).then(|| name.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_lines_of_both_formats_name_their_rules() {
        for (line, wanted) in [
            ("    \"secret:get\": \"rule:secret_non_private_read\",", Some("secret:get")),
            ("{\"admin\": \"role:admin\",", Some("admin")),
            ("'order:put': 'rule:admin'", Some("order:put")),
            ("creator: role:creator", Some("creator")),
            ("}", None),
            ("", None),
        ] {
            assert_eq!(policy_rule(line.trim()).as_deref(), wanted, "{line}");
        }
    }
}
