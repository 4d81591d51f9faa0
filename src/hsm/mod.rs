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

use std::{
    ffi::OsString,
    num::NonZeroUsize,
    path::PathBuf,
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

pub use crate::command::Identity;

pub use self::{
    mechanism::{DataMechanism, HmacKeyType, HmacMechanism, UnknownName, WrapMechanism},
    worker::worker_main,
};
use self::{
    process::{End, Stop, Worker},
    protocol::{Failure, Open, Reply, Request, Text},
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
    /// How many sessions may be used.
    pub sessions: Sessions,
}

/// How many sessions of a token may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sessions {
    /// As many as are of use, and as it says that it has room for, up to 8; one where it does not say.
    #[default]
    Auto,
    /// So many.
    Exactly(NonZeroUsize),
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
            sessions,
        } = self;
        pin.expose_secret() == other.pin.expose_secret()
            && (worker, module, token, identity, environment, timeout)
                == (&other.worker, &other.module, &other.token, &other.identity, &other.environment, &other.timeout)
            && (rw_session, os_locking_ok, hmac_key_type, hmac_mechanism, sessions)
                == (
                    &other.rw_session,
                    &other.os_locking_ok,
                    &other.hmac_key_type,
                    &other.hmac_mechanism,
                    &other.sessions,
                )
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

/// Which text a signature was made over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Over one of those given.
    Over {
        /// Its number.
        index: usize,
        /// Where it is not the first: the signature that the key makes over the first. None where the token does not let the key sign.
        #[serde(with = "protocol::optional_bytes")]
        first: Option<Vec<u8>>,
    },
    /// Over none of them. Every answer of the token but "valid" and "not valid" is an [`Error`].
    None,
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
    /// What may have been signed.
    pub over: Vec<Vec<u8>>,
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

/// An open, logged-in token behind its child processes. Dropping it logs out and ends them.
#[derive(Debug)]
pub struct Hsm {
    config: Config,
    token: TokenInfo,
    /// How many children there may be, each with a session of its own.
    most: usize,
    /// It is still to be seen how many of them are of use.
    untried: bool,
    /// None after the first error that ended one.
    workers: Vec<Worker>,
}

/// How many sessions are taken of a token that has room for many.
const ENOUGH: u64 = 8;

/// From how many questions at a time on it is worth while to open more sessions.
const MANY: usize = 100;

/// So many of them are asked in one session, twice, to see whether more are of use.
const TRIED: usize = 25;

/// How many sessions at a time are of use, where one that had so many questions took so long, and its child computed for so long. A token that is a
/// library computes here: then they are as many as there are processors besides the one that the database needs, and more take it from there. One
/// that is elsewhere is waited for, in all of them at once.
fn of_use(took: Duration, computed: Duration, processors: usize) -> usize {
    let spare = u128::try_from(processors.saturating_sub(1).max(1)).unwrap_or(1);
    usize::try_from(spare * took.as_micros() / computed.as_micros().max(1)).unwrap_or(usize::MAX).max(1)
}

impl Hsm {
    /// Starts the child, loads the module there, chooses the token and logs in, once. More sessions are opened, by more children, when there is
    /// much to ask: a module need not be fit for threads, but every one is for the several processes of a Barbican.
    ///
    /// # Errors
    /// Each [`Error`] can come of it; the child is gone then.
    pub fn spawn(config: &Config) -> Result<Self, Error> {
        if process::stays_root(config.identity.as_ref()) {
            process::check_trusted(&config.module)
                .map_err(|why| Error::NotTrusted { module: config.module.clone(), why })?;
        }
        let token = TokenInfo { serial: String::new(), label: String::new(), slot: 0, manufacturer: String::new() };
        let mut hsm = Self { config: config.clone(), token, most: 1, untried: false, workers: Vec::new() };
        let (token, more) = hsm.open_session()?;
        hsm.token = token;
        (hsm.most, hsm.untried) = match config.sessions {
            Sessions::Auto => (usize::try_from(more.saturating_add(1).min(ENOUGH)).unwrap_or(1), true),
            Sessions::Exactly(number) => (number.get(), false),
        };
        Ok(hsm)
    }

    /// Starts a child that logs in.
    fn open_session(&mut self) -> Result<(TokenInfo, u64), Error> {
        let config = &self.config;
        let mut worker = Worker::start(config).map_err(|source| Error::NotStarted {
            worker: config.worker.clone(),
            identity: config.identity.clone(),
            source,
        })?;
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
        let replies = worker.converse(std::iter::once(open), config.timeout).map_err(|stop| self.stopped(stop))?;
        match replies.into_iter().next() {
            Some(Reply::Opened { token, more }) => {
                self.workers.push(worker);
                Ok((token, more))
            }
            _ => Err(self.unasked()),
        }
    }

    /// Opens the other sessions. One that the token refuses is done without; none is asked for again.
    fn open_others(&mut self) {
        while self.workers.len() < self.most {
            if let Err(error) = self.open_session() {
                log::warn!("{} sessions of the token are used, not {}: {error}", self.workers.len(), self.most);
                self.most = self.workers.len();
            }
        }
    }

    /// The token in use.
    #[must_use]
    pub fn token(&self) -> &TokenInfo {
        &self.token
    }

    /// The mechanism signatures are made and checked with.
    #[must_use]
    pub fn hmac_mechanism(&self) -> HmacMechanism {
        self.config.hmac_mechanism
    }

    /// The children's process ids, while they live.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().map(Worker::pid).collect()
    }

    /// What each signature was made over, in their order.
    ///
    /// # Errors
    /// The first one; the answers are lost then.
    pub fn fit_all(&mut self, signatures: Vec<Signature>) -> Result<Vec<Fit>, Error> {
        let requests = signatures.into_iter().map(|one| Request::Fit {
            label: one.hmac_label,
            over: one.over.into_iter().map(Text).collect(),
            signature: one.signature,
        });
        let replies = self.converse(requests.collect())?.into_iter();
        replies.map(|reply| if let Reply::Fit { fit } = reply { Ok(fit) } else { Err(self.unasked()) }).collect()
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
        let replies = self.converse(requests.collect())?.into_iter();
        replies.map(|reply| if let Reply::Proof { proof } = reply { Ok(proof) } else { Err(self.unasked()) }).collect()
    }

    /// Sends all requests, in as many sessions as are of use, collects all replies in order, and turns the first failure into an error.
    fn converse(&mut self, mut requests: Vec<Request>) -> Result<Vec<Reply>, Error> {
        if self.workers.is_empty() {
            return Err(self.broken("was ended by an earlier error"));
        }
        let mut replies = Vec::new();
        if requests.len() >= MANY && self.workers.len() < self.most {
            if self.untried {
                // The lesser number counts: one of the two may have been held up by something else.
                for _ in 0..2 {
                    let rest = requests.split_off(TRIED);
                    replies.append(&mut self.try_one(std::mem::replace(&mut requests, rest))?);
                }
                self.untried = false;
            }
            self.open_others();
        }
        replies.append(&mut self.divide(requests)?);
        Ok(replies)
    }

    /// Asks the one session that there is, and sees how much of the time its child computes.
    fn try_one(&mut self, requests: Vec<Request>) -> Result<Vec<Reply>, Error> {
        let (begun, before) = (Instant::now(), self.computed());
        let replies = self.divide(requests)?;
        let took = begun.elapsed();
        // Where the system does not tell, more may do harm.
        let computed = before.and_then(|before| Some(self.computed()?.saturating_sub(before))).unwrap_or(took);
        self.most = self.most.min(of_use(took, computed, std::thread::available_parallelism().map_or(1, usize::from)));
        Ok(replies)
    }

    /// What the children have had of the processors.
    fn computed(&self) -> Option<Duration> {
        self.workers.iter().map(Worker::computed).sum()
    }

    /// Divides the requests among the sessions.
    fn divide(&mut self, mut requests: Vec<Request>) -> Result<Vec<Reply>, Error> {
        let (timeout, count) = (self.config.timeout, self.workers.len());
        let share = requests.len().div_ceil(count).max(1);
        let talks: Vec<Result<Vec<Reply>, Stop>> = std::thread::scope(|scope| {
            let mut talks = Vec::new();
            for worker in &mut self.workers {
                let rest = requests.split_off(share.min(requests.len()));
                let own = std::mem::replace(&mut requests, rest).into_iter();
                if count == 1 {
                    return vec![worker.converse(own, timeout)];
                }
                talks.push(scope.spawn(move || worker.converse(own, timeout)));
            }
            let broken = || Err(Stop::Ended(End::Broken { why: "failed".to_owned() }));
            talks.into_iter().map(|talk| talk.join().unwrap_or_else(|_| broken())).collect()
        });
        let mut replies = Vec::new();
        for talk in talks {
            replies.extend(talk.map_err(|stop| self.stopped(stop))?);
        }
        Ok(replies)
    }

    /// The error of a talk. With one child gone the others are of no use.
    fn stopped(&mut self, stop: Stop) -> Error {
        match stop {
            Stop::Failed { failure, doing } => self.failed(failure, doing),
            Stop::Ended(end) => {
                self.workers.clear();
                self.ended(end)
            }
        }
    }

    fn ended(&self, end: End) -> Error {
        let module = self.config.module.clone();
        match end {
            End::Crashed { doing, how, stderr } => Error::ModuleCrashed { module, doing, how, stderr },
            End::TimedOut { doing, stderr } => Error::TimedOut { module, doing, limit: self.config.timeout, stderr },
            End::Broken { why } => Error::Worker { module, why },
        }
    }

    fn failed(&self, failure: Failure, doing: String) -> Error {
        let module = self.config.module.clone();
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
        Error::Worker { module: self.config.module.clone(), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_as_many_as_the_processors_can_feed() {
        let of = |took, computed, processors| {
            of_use(Duration::from_micros(took), Duration::from_micros(computed), processors)
        };
        // A library, on one, two and eight processors; with others at work on them.
        assert_eq!((of(1000, 950, 1), of(1000, 950, 2), of(1000, 950, 8)), (1, 1, 7));
        assert_eq!(of(3000, 950, 2), 3);
        // What is waited for, next door and far away; what answered in no time at all.
        assert_eq!((of(1000, 250, 2), of(27_000, 2000, 2), of(0, 0, 2)), (4, 13, 1));
    }
}
