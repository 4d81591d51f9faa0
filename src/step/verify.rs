//! The last look: the services that were started stay up, the API answers, and an old secret is read through it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use openssl::rand::rand_bytes;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Context, Observed};
use crate::deployment::Host;
use crate::files::digest;
use crate::http::{self, Address, Answer, Headers};
use crate::journal::private;
use crate::release::Service;
use crate::settings::Endpoint;
use crate::systemd::UnitState;
use crate::time;

/// How long an API may take until it answers: a uWSGI loads its application after it has begun to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// How long the units must have stayed up: one that fails on its database or token does so in the first second or two.
const SETTLED: Duration = Duration::from_secs(3);

/// How long is waited before a question is asked again. Nothing tells when an API begins to answer.
const AGAIN: Duration = Duration::from_millis(250);

/// What divides, in the words of the step, what is proved from what is not.
pub const NOT_PROVED: &str = "; not proved: ";

/// What was true before the services were stopped.
const BEFORE: &str = "service.json";

/// What was true before the services were stopped. No secret: of its payload a digest is kept, with a salt of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    format: u32,
    /// The start of each unit that ran, as systemd names it.
    invocations: BTreeMap<String, String>,
    salt: String,
    /// Of what the API gave for the secret; none if it gave nothing.
    secret: Option<String>,
}

/// Keeps what is compared later, as long as the services still run. What cannot be read now is not compared.
pub(super) fn remember(context: &Context<'_>, units: &[String]) -> Result<()> {
    let mut salt = [0; 16];
    rand_bytes(&mut salt).context("random bytes")?;
    let salt: String = salt.iter().map(|b| format!("{b:02x}")).collect();
    let states = context.site.states(context.host, units)?;
    let invocations = states.into_iter().filter(|s| s.main_pid.is_some()).map(|s| (s.name, s.invocation)).collect();
    let secret = match &context.settings().secret {
        Some(address) => match secret(context.host, address) {
            Ok(Read::Payload(payload)) => Some(salted(&salt, &payload)),
            Ok(Read::NotYet(why)) => {
                log::warn!("before the stop: {why}");
                None
            }
            Err(error) => {
                log::warn!("before the stop: {error:#}");
                None
            }
        },
        None => None,
    };
    let before = Before { format: 1, invocations, salt, secret };
    context.root().write(&context.file(BEFORE), &serde_json::to_vec_pretty(&before)?, private())
}

fn salted(salt: &str, payload: &[u8]) -> String {
    digest(&Zeroizing::new([salt.as_bytes(), payload].concat()))
}

/// Whether the services do what they are there for.
pub(super) fn observe(context: &mut Context<'_>, units: &[String]) -> Result<Observed> {
    let before: Before = if context.root().exists(&context.file(BEFORE)) {
        context.root().read_json(&context.file(BEFORE))?
    } else {
        Before::default()
    };
    let began = Instant::now();
    let first = context.site.states(context.host, units)?;
    if let Some(reason) = not_up(units, &first, &before) {
        return Ok(Observed::Foreign(reason));
    }
    let up = |context: &Context<'_>| -> Result<()> {
        let now = context.site.states(context.host, units)?;
        let changed = not_up(units, &now, &before).or_else(|| restarted(&first, &now));
        changed.map_or(Ok(()), |reason| Err(anyhow!(reason)))
    };
    let mut proved = vec![format!("{} {} up", first.len(), if first.len() == 1 { "unit stays" } else { "units stay" })];
    let mut missing = Vec::new();
    match endpoint(context, units)? {
        Ok(addresses) => {
            patiently(context, began, &up, || answers(&addresses))?;
            proved.push("the API answers".to_owned());
        }
        Err(why) => missing.push(why),
    }
    match context.settings().secret.clone() {
        Some(address) => {
            let payload = patiently(context, began, &up, || secret(context.host, &address))?;
            let as_before = match &before.secret {
                None => "",
                Some(was) if *was == salted(&before.salt, &payload) => " as before",
                Some(_) => bail!("{address}: the API gives another payload for the secret than before the upgrade"),
            };
            proved.push(format!("1 secret read through it{as_before}"));
        }
        None => missing.push("that the API reads secrets ([verify] secret is not set)".to_owned()),
    }
    time::pass(SETTLED.saturating_sub(began.elapsed()));
    up(context)?;
    let mut words = proved.join(", ");
    if !missing.is_empty() {
        words.push_str(NOT_PROVED);
        words.push_str(&missing.join("; "));
    }
    Ok(Observed::After(words))
}

/// Why not all of `units` run what was started anew.
fn not_up(units: &[String], states: &[UnitState], before: &Before) -> Option<String> {
    if let Some(gone) = units.iter().find(|u| states.iter().all(|s| s.name != **u)) {
        // An alias counts as the unit it stands for.
        if states.len() < units.len() {
            return Some(format!("there is no unit {gone} any more"));
        }
    }
    states.iter().find_map(|s| {
        let name = &s.name;
        if !matches!(s.active_state.as_str(), "active" | "reloading") {
            return Some(format!(
                "{name} does not stay up: {} ({}); see journalctl -u {name}",
                s.active_state, s.sub_state
            ));
        }
        let same = before.invocations.get(name).is_some_and(|id| !id.is_empty() && *id == s.invocation);
        same.then(|| format!("{name} was not started anew: it runs what ran before; restart it, then resume"))
    })
}

/// Which unit was restarted between two looks.
fn restarted(first: &[UnitState], now: &[UnitState]) -> Option<String> {
    let key = |s: &UnitState| (s.invocation.clone(), s.restarts, s.main_pid);
    let changed = now.iter().find(|s| first.iter().any(|f| f.name == s.name && key(f) != key(s)))?;
    Some(format!("{0} does not stay up: it was restarted; see journalctl -u {0}", changed.name))
}

/// What came of one question.
enum Read<T> {
    /// What was wanted.
    Payload(T),
    /// Not so now, but it may yet come.
    NotYet(String),
}

/// Asks until there is an answer, the units fall, or the time is over.
fn patiently<T>(
    context: &Context<'_>,
    began: Instant,
    up: &dyn Fn(&Context<'_>) -> Result<()>,
    mut ask: impl FnMut() -> Result<Read<T>>,
) -> Result<T> {
    loop {
        match ask()? {
            Read::Payload(answer) => return Ok(answer),
            Read::NotYet(why) if began.elapsed() > PATIENCE => {
                bail!("the API does not answer after {} s: {why}", PATIENCE.as_secs());
            }
            Read::NotYet(why) => log::debug!("{why}"),
        }
        up(context)?;
        time::pass(AGAIN);
    }
}

/// Where to ask, the first address first; or why nowhere.
fn endpoint(context: &Context<'_>, units: &[String]) -> Result<Result<Vec<Address>, String>> {
    match &context.settings().endpoint {
        Endpoint::None => return Ok(Err("that the API answers ([verify] endpoint = none)".to_owned())),
        Endpoint::At(address) => return Ok(Ok(vec![address.clone()])),
        Endpoint::Auto => {}
    }
    let found = context.host.found()?;
    if units.iter().all(|u| found.service(u) != Some(Service::Api)) {
        return Ok(Err("that the API answers (its unit was not started)".to_owned()));
    }
    let Some(base) = context.host.listens_at()? else {
        return Ok(Err("that the API answers ([verify] endpoint: its files name no address to ask)".to_owned()));
    };
    // The list of versions comes from Barbican itself; the health check from a filter in front of it.
    Ok(Ok(vec![Address::parse(&format!("{base}/"))?, Address::parse(&format!("{base}/healthcheck"))?]))
}

/// Barbican's list of versions has the status 300.
fn answers(addresses: &[Address]) -> Result<Read<()>> {
    let mut why = String::new();
    for address in addresses {
        match http::get(address, &Headers::new(), REQUEST) {
            Ok(Answer { status: 200..=300, .. }) => return Ok(Read::Payload(())),
            Ok(Answer { status, .. }) => why = format!("{address}: status {status}"),
            Err(error) => why = format!("{error:#}"),
        }
    }
    Ok(Read::NotYet(why))
}

/// Reads the secret through the API.
fn secret(host: &Host, address: &Address) -> Result<Read<Zeroizing<Vec<u8>>>> {
    let headers = headers(host)?;
    let answer = match http::get(address, &headers, REQUEST) {
        Ok(answer) => answer,
        Err(error) => return Ok(Read::NotYet(format!("{error:#}"))),
    };
    match answer.status {
        200 if answer.json => bail!("{address}: that is what describes the secret; its payload is at .../payload"),
        200 if answer.body.is_empty() => bail!("{address}: the API gives an empty payload"),
        200 => Ok(Read::Payload(answer.body)),
        401 => bail!("{address}: status 401: put a token that is valid into [verify] headers_file, then resume"),
        status @ (403 | 404 | 406) => bail!("{address}: status {status}: see [verify] secret and headers_file"),
        // Up to 23.0.0 what cannot be decrypted is a 500, and so is a database that is not there yet.
        status => Ok(Read::NotYet(format!("{address}: status {status}"))),
    }
}

/// The headers of `[verify] headers_file`, which hold a token: nobody else may have read or written them.
fn headers(host: &Host) -> Result<Headers> {
    let mut all = match &host.settings.headers_file {
        Some(file) => read_headers(host, file).context("[verify] headers_file")?,
        None => Headers::new(),
    };
    if !all.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
        // Every payload can be had as bytes, whatever it was stored as.
        all.push(("Accept".to_owned(), SecretString::from("application/octet-stream")));
    }
    Ok(all)
}

fn read_headers(host: &Host, file: &Path) -> Result<Headers> {
    let shown = host.root.shown(file);
    let contents = host.root.read(file)?.with_context(|| format!("no such file: {}", shown.display()))?;
    if contents.attributes.mode & 0o077 != 0 {
        bail!("{}: others may read or write it: chmod 0600 {}", shown.display(), shown.display());
    }
    let bytes = Zeroizing::new(contents.bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| anyhow!("{} is not UTF-8", shown.display()))?;
    http::headers(text).with_context(|| shown.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, active: &str, invocation: &str, pid: u32) -> UnitState {
        UnitState {
            name: name.to_owned(),
            load_state: "loaded".to_owned(),
            active_state: active.to_owned(),
            sub_state: "running".to_owned(),
            unit_file_state: "enabled".to_owned(),
            invocation: invocation.to_owned(),
            main_pid: Some(pid),
            ..UnitState::default()
        }
    }

    #[test]
    fn units_must_be_there_up_and_new() {
        let names = ["a.service".to_owned(), "b.service".to_owned()];
        let before = Before { invocations: [("a.service".to_owned(), "1".to_owned())].into(), ..Before::default() };
        let reason = |a: UnitState, b: Option<UnitState>| {
            let states: Vec<UnitState> = std::iter::once(a).chain(b).collect();
            not_up(&names, &states, &before)
        };
        let b = || Some(unit("b.service", "active", "9", 8));
        assert_eq!(reason(unit("a.service", "active", "2", 7), b()), None);
        for (a, b, wanted) in [
            (unit("a.service", "active", "2", 7), None, "there is no unit b.service any more"),
            (unit("a.service", "failed", "2", 7), b(), "a.service does not stay up: failed (running)"),
            (unit("a.service", "activating", "2", 7), b(), "does not stay up: activating"),
            (unit("a.service", "active", "1", 7), b(), "a.service was not started anew"),
        ] {
            let reason = reason(a, b).unwrap();
            assert!(reason.contains(wanted), "{reason}");
        }
    }

    #[test]
    fn a_restart_between_two_looks_is_seen() {
        let first = [unit("a.service", "active", "1", 7)];
        assert_eq!(restarted(&first, &first.clone()), None);
        let again = UnitState { restarts: 1, ..unit("a.service", "active", "1", 7) };
        for now in [again, unit("a.service", "active", "2", 7), unit("a.service", "active", "1", 8)] {
            let reason = restarted(&first, &[now]).unwrap();
            assert!(reason.starts_with("a.service does not stay up: it was restarted"), "{reason}");
        }
    }

    #[test]
    fn headers_that_others_may_read_are_refused() {
        use crate::files::{Attributes, Root};
        let dir = tempfile::tempdir().unwrap();
        let mut host =
            Host::new(Root::open(dir.path()).unwrap(), crate::settings::Settings::default(), std::path::PathBuf::new());
        assert_eq!(headers(&host).unwrap().len(), 1);
        host.settings.headers_file = Some("/headers".into());
        let put = |mode, text: &str| {
            let attributes = Attributes { mode, ..private() };
            // The mode of a file that is there is kept.
            host.root.remove(Path::new("/headers")).unwrap();
            host.root.write(Path::new("/headers"), text.as_bytes(), attributes).unwrap();
        };
        assert!(format!("{:#}", headers(&host).unwrap_err()).contains("[verify] headers_file: no such file"));
        put(0o640, "X-Auth-Token: hush\n");
        let error = format!("{:#}", headers(&host).unwrap_err());
        assert!(error.contains("others may read or write it: chmod 0600") && !error.contains("hush"), "{error}");
        put(0o600, "X-Auth-Token: hush\naccept: text/plain\n");
        assert_eq!(headers(&host).unwrap().len(), 2);
    }
}
