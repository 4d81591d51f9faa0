//! The PKCS#11 token, used only from a child process.
//!
//! A vendor's module is foreign code in our address space: it may crash, hang, print, or be a file
//! that the service user can write. So the parent never loads it. [`Hsm::spawn`] starts the own
//! executable again with [`WORKER_ARGUMENT`], as the user Barbican runs as, with exactly the
//! environment given; parent and child speak JSON lines over the child's stdin and stdout. Each
//! call has a time limit, a child that dies or exceeds it is one clear error, and no plaintext and
//! no key ever crosses the pipe: the child answers "readable" or "refused".
//!
//! How the token is chosen, logged in to and searched for keys follows Barbican 12.0.0 and later.

mod mechanism;
mod process;
mod protocol;
mod token;
mod worker;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

pub use self::{
    mechanism::{DataMechanism, HmacKeyType, HmacMechanism, UnknownName, WrapMechanism},
    worker::worker_main,
};
use self::{
    process::Worker,
    protocol::{Failure, Open, Reply, Request, Signed},
};

/// The hidden first argument that makes the executable a worker: `main` hands over to
/// [`worker_main`] when it sees it, before anything else.
pub const WORKER_ARGUMENT: &str = "hsm-worker";

/// All that is needed to reach the token.
#[derive(Debug, Clone)]
pub struct Config {
    /// The `keymgr-upgrade` executable, started as the worker.
    pub worker: PathBuf,
    /// `library_path`: the vendor's PKCS#11 module.
    pub module: PathBuf,
    /// `login`: the PIN of the token's user.
    pub pin: SecretString,
    /// Which token.
    pub token: Selector,
    /// `rw_session`: open a read/write session, as Barbican does by default.
    pub rw_session: bool,
    /// `os_locking_ok`: initialise the module with `CKF_OS_LOCKING_OK`.
    pub os_locking_ok: bool,
    /// `hmac_key_type`.
    pub hmac_key_type: HmacKeyType,
    /// `hmac_mechanism`.
    pub hmac_mechanism: HmacMechanism,
    /// Who to become for good before the module is loaded; `None`: stay who we are, and then,
    /// as root, load only what root alone can write.
    pub identity: Option<Identity>,
    /// The child's environment: exactly this, nothing inherited.
    pub environment: Vec<(OsString, OsString)>,
    /// Limit of each single call.
    pub timeout: Duration,
}

impl Config {
    /// Whether this leads to the same token in the same way as `other`.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let Self {
            worker,
            module,
            pin,
            token,
            rw_session,
            os_locking_ok,
            hmac_key_type,
            hmac_mechanism,
            identity,
            environment,
            timeout,
        } = self;
        pin.expose_secret() == other.pin.expose_secret()
            && (worker, module, token, identity, environment, timeout)
                == (&other.worker, &other.module, &other.token, &other.identity, &other.environment, &other.timeout)
            && (rw_session, os_locking_ok, hmac_key_type, hmac_mechanism)
                == (&other.rw_session, &other.os_locking_ok, &other.hmac_key_type, &other.hmac_mechanism)
    }
}

/// Which token: the serial number if there is one, else the first token whose label is in the
/// list, else the slot id. The order is Barbican's (`pkcs11.py`, `_get_slot_id`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// `token_serial_number`.
    pub serial: Option<String>,
    /// `token_labels`.
    pub labels: Vec<String>,
    /// `slot_id`.
    pub slot: Option<u64>,
}

/// A user, by numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// The token in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Serial number, trimmed.
    pub serial: String,
    /// Label, trimmed.
    pub label: String,
    /// Id of its slot.
    pub slot: u64,
    /// The manufacturer's name, trimmed.
    pub manufacturer: String,
}

/// What the token says of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It verifies.
    Good,
    /// It does not: `CKR_SIGNATURE_INVALID`, or `CKR_SIGNATURE_LEN_RANGE`, by which a token says
    /// the same of a signature whose length alone rules it out. Every other code is an [`Error`].
    Bad,
    /// The token has no such key.
    KeyMissing {
        /// The label looked for.
        label: String,
    },
}

/// A signature to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Label of the HMAC key.
    pub hmac_label: String,
    /// What was signed.
    pub data: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// A project KEK as it lies in the database, wrapped by the master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKek {
    /// Label of the master key.
    pub mkek_label: String,
    /// How it was wrapped.
    pub mechanism: WrapMechanism,
    /// The mechanism's parameter; none for key wraps with the default one.
    #[serde(with = "protocol::optional_bytes")]
    pub iv: Option<Vec<u8>>,
    /// The wrapped key.
    #[serde(with = "protocol::bytes")]
    pub wrapped_key: Vec<u8>,
}

/// An encrypted payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ciphertext {
    /// The mechanism's iv.
    #[serde(with = "protocol::bytes")]
    pub iv: Vec<u8>,
    /// The ciphertext, under GCM with the tag at its end.
    #[serde(with = "protocol::bytes")]
    pub data: Vec<u8>,
    /// The mechanisms to try, in order; the first that decrypts is the answer.
    pub mechanisms: Vec<DataMechanism>,
}

/// Whether a payload decrypts in the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// It does. [`DataMechanism::is_authenticated`] says how much that proves.
    Readable {
        /// The mechanism that decrypted it.
        mechanism: DataMechanism,
        /// Length of the payload in bytes, padding removed as Barbican removes it.
        len: usize,
    },
    /// The token refuses: this KEK or this ciphertext is not what the record says.
    Refused {
        /// The function and the code, one a mechanism tried: "C_Decrypt: CKR_...".
        ckr: String,
    },
    /// The token has no such master key.
    KeyMissing {
        /// The label looked for.
        label: String,
    },
}

/// Why the token gave no answer. None of these says anything about a row.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not be started.
    #[error("cannot start the PKCS#11 worker {}{}", worker.display(), identity.as_ref().map(|id| format!(" as uid {}", id.uid)).unwrap_or_default())]
    NotStarted {
        /// The executable.
        worker: PathBuf,
        /// Who it should have become.
        identity: Option<Identity>,
        /// Why not.
        source: std::io::Error,
    },
    /// Root would load a file that others can change.
    #[error("PKCS#11 module {} is not loaded as root: {why}; make it root's alone, or let keymgr-upgrade use it as the service user", module.display())]
    NotTrusted {
        /// The module.
        module: PathBuf,
        /// Who can change what.
        why: String,
    },
    /// The module is missing, or not a PKCS#11 module, or does not initialise.
    #[error("cannot use PKCS#11 module {}: {why}; check library_path in [p11_crypto_plugin]", module.display())]
    NotLoaded {
        /// The module.
        module: PathBuf,
        /// The loader's or the module's own words.
        why: String,
    },
    /// No token fits.
    #[error("no token with {wanted} behind PKCS#11 module {} (there: {}); check token_serial_number, token_labels and slot_id in [p11_crypto_plugin]", module.display(), if present.is_empty() { "none".to_owned() } else { present.join(", ") })]
    NoToken {
        /// The module.
        module: PathBuf,
        /// What was looked for.
        wanted: String,
        /// The tokens that are there.
        present: Vec<String>,
    },
    /// The one login attempt failed.
    #[error(
        "token {token:?} refused the PIN ({ckr}); check login in [p11_crypto_plugin]; it was tried once and will not be tried again, since tokens lock themselves"
    )]
    PinRefused {
        /// Label of the token.
        token: String,
        /// The code.
        ckr: String,
    },
    /// No login was tried, to spare the token.
    #[error("no login to token {token:?} was tried: {why}")]
    PinAtRisk {
        /// Label of the token.
        token: String,
        /// What the token says about its PIN.
        why: String,
    },
    /// Two keys of one label: Barbican refuses that, and so do we.
    #[error(
        "the token has two keys labelled {label:?} of the type looked for; remove or rename one, barbican fails on them too"
    )]
    KeyAmbiguous {
        /// The label.
        label: String,
    },
    /// The token failed at something that does not depend on the row.
    #[error("{function} answered {ckr} while {doing} (PKCS#11 module {})", module.display())]
    Token {
        /// The module.
        module: PathBuf,
        /// The PKCS#11 function.
        function: String,
        /// Its code.
        ckr: String,
        /// What we were doing.
        doing: String,
    },
    /// The module ended the child.
    #[error("PKCS#11 module {} crashed while {doing} ({how}){}", module.display(), said(stderr))]
    ModuleCrashed {
        /// The module.
        module: PathBuf,
        /// What we were doing.
        doing: String,
        /// The signal or the exit status.
        how: String,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// A call took longer than allowed; the child was killed.
    #[error("PKCS#11 module {} did not answer within {} s while {doing}; raise timeout in [hsm] if the token is slow{}", module.display(), limit.as_secs_f32(), said(stderr))]
    TimedOut {
        /// The module.
        module: PathBuf,
        /// What we were doing.
        doing: String,
        /// The limit.
        limit: Duration,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The worker is gone since an earlier error, or answered what was not asked.
    #[error("the worker for PKCS#11 module {} {why}", module.display())]
    Worker {
        /// The module.
        module: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// ": " and the module's last words, if any.
fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}

/// An open, logged-in token behind its child process. Dropping it logs out and ends the child.
#[derive(Debug)]
pub struct Hsm {
    module: PathBuf,
    timeout: Duration,
    token: TokenInfo,
    hmac_mechanism: HmacMechanism,
    /// `None` after the first error that ended the child.
    worker: Option<Worker>,
}

impl Hsm {
    /// Starts the child, loads the module there, chooses the token and logs in, once.
    ///
    /// # Errors
    /// Each [`Error`] can come of it; the child is gone then.
    pub fn spawn(config: &Config) -> Result<Self, Error> {
        if process::stays_root(config.identity.as_ref()) {
            process::check_trusted(&config.module)
                .map_err(|why| Error::NotTrusted { module: config.module.clone(), why })?;
        }
        let worker = Worker::start(config).map_err(|source| Error::NotStarted {
            worker: config.worker.clone(),
            identity: config.identity.clone(),
            source,
        })?;
        let mut hsm = Self {
            module: config.module.clone(),
            timeout: config.timeout,
            token: TokenInfo { serial: String::new(), label: String::new(), slot: 0, manufacturer: String::new() },
            hmac_mechanism: config.hmac_mechanism,
            worker: Some(worker),
        };
        let open = Request::Open(Open {
            module: config.module.clone(),
            pin: config.pin.expose_secret().to_owned(),
            token: config.token.clone(),
            rw_session: config.rw_session,
            os_locking_ok: config.os_locking_ok,
            hmac_key_type: config.hmac_key_type,
            hmac_mechanism: config.hmac_mechanism,
            identity: process::to_become(config).cloned(),
            alarm_seconds: process::alarm_seconds(config.timeout),
        });
        let Reply::Opened { token } = hsm.ask(open)? else { return Err(hsm.unasked()) };
        hsm.token = token;
        Ok(hsm)
    }

    /// The token in use.
    #[must_use]
    pub fn token(&self) -> &TokenInfo {
        &self.token
    }

    /// The mechanism signatures are made and checked with.
    #[must_use]
    pub fn hmac_mechanism(&self) -> HmacMechanism {
        self.hmac_mechanism
    }

    /// The child's process id, while it lives.
    #[must_use]
    pub fn worker_pid(&self) -> Option<u32> {
        self.worker.as_ref().map(Worker::pid)
    }

    /// Whether `signature` over `data` verifies with the HMAC key of that label.
    ///
    /// # Errors
    /// Whatever the token says besides "valid" and "not valid".
    pub fn verify(&mut self, hmac_label: &str, data: &[u8], signature: &[u8]) -> Result<Verdict, Error> {
        let one = Signature { hmac_label: hmac_label.to_owned(), data: data.to_vec(), signature: signature.to_vec() };
        let verdicts = self.verify_all(vec![one])?;
        verdicts.into_iter().next().ok_or_else(|| self.broken("gave no verdict"))
    }

    /// As [`Hsm::verify`], for many at once: they are sent without waiting for each answer.
    ///
    /// # Errors
    /// The first one; the answers are lost then.
    pub fn verify_all(&mut self, signatures: Vec<Signature>) -> Result<Vec<Verdict>, Error> {
        let requests = signatures.into_iter().map(|one| Request::Verify {
            label: one.hmac_label,
            data: one.data,
            signature: one.signature,
        });
        let replies = self.converse(requests)?.into_iter();
        replies
            .map(|reply| if let Reply::Verdict { verdict } = reply { Ok(verdict) } else { Err(self.unasked()) })
            .collect()
    }

    /// Signs `data` with the HMAC key of that label. `None`: the token has no such key.
    ///
    /// # Errors
    /// Whatever the token says.
    pub fn sign(&mut self, hmac_label: &str, data: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let request = Request::Sign { label: hmac_label.to_owned(), data: data.to_vec() };
        let Reply::Signature { signed } = self.ask(request)? else { return Err(self.unasked()) };
        Ok(match signed {
            Signed::Signature(signature) => Some(signature),
            Signed::KeyMissing { .. } => None,
        })
    }

    /// Whether the payload decrypts: unwraps the KEK into the session, decrypts, forgets both.
    ///
    /// # Errors
    /// Whatever the token says that does not depend on the record.
    pub fn prove(&mut self, kek: &WrappedKek, secret: &Ciphertext) -> Result<Proof, Error> {
        let proofs = self.prove_all(vec![(kek.clone(), secret.clone())])?;
        proofs.into_iter().next().ok_or_else(|| self.broken("gave no proof"))
    }

    /// As [`Hsm::prove`], for many at once. The child keeps the last KEK unwrapped, so payloads
    /// should come sorted by KEK.
    ///
    /// # Errors
    /// The first one; the answers are lost then.
    pub fn prove_all(&mut self, payloads: Vec<(WrappedKek, Ciphertext)>) -> Result<Vec<Proof>, Error> {
        let requests = payloads.into_iter().map(|(kek, secret)| Request::Prove { kek, secret });
        let replies = self.converse(requests)?.into_iter();
        replies.map(|reply| if let Reply::Proof { proof } = reply { Ok(proof) } else { Err(self.unasked()) }).collect()
    }

    fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        let replies = self.converse(std::iter::once(request))?;
        replies.into_iter().next().ok_or_else(|| self.broken("gave no answer"))
    }

    /// Sends all requests, collects all replies, and turns the first failure into an error.
    fn converse(&mut self, requests: impl Iterator<Item = Request>) -> Result<Vec<Reply>, Error> {
        let Some(worker) = &mut self.worker else {
            return Err(self.broken("was ended by an earlier error"));
        };
        match worker.converse(requests, self.timeout) {
            Ok(replies) => Ok(replies),
            Err(process::Stop::Failed { failure, doing }) => Err(self.failed(failure, doing)),
            Err(process::Stop::Ended(end)) => {
                self.worker = None;
                Err(self.ended(end))
            }
        }
    }

    fn ended(&self, end: process::End) -> Error {
        let module = self.module.clone();
        match end {
            process::End::Crashed { doing, how, stderr } => Error::ModuleCrashed { module, doing, how, stderr },
            process::End::TimedOut { doing, stderr } => Error::TimedOut { module, doing, limit: self.timeout, stderr },
            process::End::Broken { why } => Error::Worker { module, why },
        }
    }

    fn failed(&self, failure: Failure, doing: String) -> Error {
        let module = self.module.clone();
        match failure {
            Failure::NotLoaded { why } => Error::NotLoaded { module, why },
            Failure::NoToken { wanted, present } => Error::NoToken { module, wanted, present },
            Failure::PinRefused { token, ckr } => Error::PinRefused { token, ckr },
            Failure::PinAtRisk { token, why } => Error::PinAtRisk { token, why },
            Failure::KeyAmbiguous { label } => Error::KeyAmbiguous { label },
            Failure::Ckr { function, ckr } => Error::Token { module, function, ckr, doing },
            Failure::Other { why } => Error::Worker { module, why },
        }
    }

    fn unasked(&self) -> Error {
        self.broken("answered what was not asked")
    }

    fn broken(&self, why: &str) -> Error {
        Error::Worker { module: self.module.clone(), why: why.to_owned() }
    }
}
