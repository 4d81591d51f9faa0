//! One GET of an address that the operator named: bounded, never redirected, through no proxy. The only user of ureq.
//!
//! What is sent and what comes back may be secret, so neither is in an error.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use secrecy::{ExposeSecret as _, SecretString};
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use zeroize::Zeroizing;

/// The most that is read of an answer, in bytes: more than any `max_allowed_secret_in_bytes` of sense.
const LARGEST: u64 = 16 << 20;

/// An address of the API: `http` or `https`, with a host and without a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Checks an address as the settings name it.
    ///
    /// # Errors
    /// If it is none, or has a user or password in it: headers come from a file of their own.
    pub fn parse(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().map_err(|_| anyhow!("not the address of a web page"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            bail!("not an address such as http://127.0.0.1:9311/healthcheck");
        }
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            bail!("a user or password does not belong here: name it in [verify] headers_file");
        }
        Ok(Self(text.to_owned()))
    }

    /// Without what stands after `?`, which may be a token.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.0.split(['?', '#']).next().unwrap_or_default()
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.shown())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.shown())
    }
}

/// Names and values of headers.
pub type Headers = Vec<(String, SecretString)>;

/// What was answered.
pub struct Answer {
    /// The status, such as 200.
    pub status: u16,
    /// Whether the answer says of itself that it is JSON.
    pub json: bool,
    /// What came with it, which may be a secret.
    pub body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// Asks once, all in all no longer than `limit`. Any status is an answer, also that of a redirection, which is not followed: headers go nowhere
/// else. Certificates are checked against those that the system trusts.
///
/// # Errors
/// If there is no answer: with the address, and why.
pub fn get(address: &Address, headers: &Headers, limit: Duration) -> Result<Answer> {
    let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build();
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .tls_config(tls)
        .user_agent(concat!("keymgr-upgrade/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(limit))
        .build()
        .new_agent();
    log::info!("asking {address}");
    let mut request = agent.get(&address.0);
    for (name, value) in headers {
        request = request.header(name, value.expose_secret());
    }
    let mut answer = request.call().map_err(|e| anyhow!("{address}: {}", words(&e)))?;
    let kind = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let json = kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json");
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(LARGEST).read_to_vec();
    let body = Zeroizing::new(body.map_err(|e| anyhow!("{address}: {}", words(&e)))?);
    Ok(Answer { status, json, body })
}

/// The reason in a few words, of which none came from the other side or from a header.
fn words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(e) => e.to_string(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::HostNotFound => "the host is not known".to_owned(),
        ureq::Error::ConnectionFailed => "no connection".to_owned(),
        ureq::Error::BodyExceedsLimit(limit) => format!("the answer is larger than {limit} bytes"),
        ureq::Error::NativeTls(e) => format!("no TLS connection: {e}"),
        ureq::Error::Tls(e) => format!("no TLS connection: {e}"),
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => "an address or header that cannot be sent".to_owned(),
        _ => "what answers is no web server".to_owned(),
    }
}

/// Reads a file of headers, one `Name: value` a line; empty lines and those with `#` in front are passed over.
///
/// # Errors
/// If a line is none. The line's number is said, and nothing of what is in it.
pub fn headers(text: &str) -> Result<Headers> {
    let mut all = Headers::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("line {}: no \"Name: value\"", index + 1))?;
        let (name, value) = (name.trim(), value.trim());
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(word) || value.chars().any(|c| c.is_control()) {
            bail!("line {}: not a header", index + 1);
        }
        all.push((name.to_owned(), SecretString::from(value)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Gives each caller the next of `answers`, and returns what the callers had sent.
    fn server(answers: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let one = |answer: Vec<u8>| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    seen.extend(byte);
                }
                stream.write_all(&answer).ok();
                String::from_utf8(seen).unwrap()
            };
            answers.into_iter().map(one).collect()
        };
        (address, std::thread::spawn(serve))
    }

    fn ask(address: &str, headers: &Headers) -> Result<Answer> {
        get(&Address::parse(address).unwrap(), headers, Duration::from_secs(5))
    }

    #[test]
    fn any_status_is_an_answer_and_no_redirection_is_followed() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Type: application/JSON; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}";
        let moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        let (address, seen) = server(vec![ok.to_vec(), moved.to_vec()]);
        let token = headers("# of the operator\n\nX-Auth-Token: hush\nAccept: text/plain\n").unwrap();
        let answer = ask(&format!("{address}/v1?token=hush"), &token).unwrap();
        assert_eq!((answer.status, answer.json, answer.body.as_slice()), (200, true, &b"{}"[..]));
        assert_eq!(format!("{answer:?}"), "Answer { status: 200, bytes: 2, .. }");
        assert_eq!(ask(&address, &Headers::new()).unwrap().status, 302);
        let seen = seen.join().unwrap();
        assert!(seen[0].starts_with("GET /v1?token=hush HTTP/1.1\r\n"), "{}", seen[0]);
        assert!(seen[0].to_lowercase().contains("x-auth-token: hush\r\n"), "{}", seen[0]);
        assert!(!seen[1].contains("hush"), "{}", seen[1]);
    }

    #[test]
    fn what_goes_wrong_is_said_without_what_was_sent() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let token = headers("X-Auth-Token: hush").unwrap();
        let refused = ask(&format!("http://{closed}/x?token=hush"), &token).unwrap_err();
        assert!(format!("{refused:#}").starts_with(&format!("http://{closed}/x: ")), "{refused:#}");
        let (address, seen) = server(vec![b"hush, no web server\r\n\r\n".to_vec()]);
        let garbled = ask(&address, &token).unwrap_err();
        seen.join().unwrap();
        for error in [refused, garbled] {
            assert!(!format!("{error:#}").contains("hush"), "{error:#}");
        }
    }

    #[test]
    fn waiting_has_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let error = get(&address, &Headers::new(), Duration::from_millis(100)).unwrap_err().to_string();
        assert!(error.ends_with(": no answer in time"), "{error}");
    }

    #[test]
    fn addresses_and_headers_are_checked_and_secrets_not_repeated() {
        for bad in ["", "barbican", "ftp://h/", "http://", "http://u:hush@h/", "http:// hush/"] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
        let address = Address::parse("https://keys.example.org:9311/v1/secrets/a/payload?t=hush").unwrap();
        assert_eq!(address.to_string(), "https://keys.example.org:9311/v1/secrets/a/payload");
        for bad in ["hush", "na me: hush", ": hush", "A: hu\u{7}sh"] {
            let error = headers(&format!("A: b\n{bad}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && !error.contains("hush"), "{error}");
        }
    }
}
