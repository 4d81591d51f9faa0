//! The child's main loop: give up what it must not have, then answer one request after the other.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::{Uid, alarm, dup2_stdin, dup2_stdout, getgroups, getresgid, getresuid, setresuid},
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Identity,
    protocol::{Failure, Open, Reply, Request},
    token::Token,
};

/// The alarm until the parent names its own.
const FIRST_ALARM: u32 = 60;

/// How much is read of requests, and collected of replies, at a time.
const WINDOW: usize = 64 * 1024;

/// How long a reply may wait for others: the parent's limit counts from one to the next.
const COLLECT: Duration = Duration::from_millis(50);

/// The worker's `main`: answers requests until stdin ends. Of no use on a terminal.
#[must_use]
pub fn worker_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "hsm-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    harden()?;
    let (mut input, mut output) = take_pipes()?;
    let mut token: Option<Token> = None;
    let mut alarm_seconds = FIRST_ALARM;
    let (mut replies, mut sent) = (Vec::new(), Instant::now());
    // Large enough for the line with the PIN, so that growing leaves no copy of it behind.
    let mut line = Zeroizing::new(Vec::with_capacity(WINDOW));
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            alarm::set(alarm_seconds);
            token.into_iter().for_each(Token::close);
            return Ok(());
        }
        let request = serde_json::from_slice(&line).map_err(|_| io::Error::other("not a request"))?;
        if let Request::Open(open) = &request {
            alarm_seconds = open.alarm_seconds.max(1);
            line.zeroize();
        }
        alarm::set(alarm_seconds);
        let reply = answer(&mut token, request).unwrap_or_else(|failure| Reply::Failed { failure });
        serde_json::to_writer(&mut replies, &reply)?;
        replies.push(b'\n');
        // Nobody waits for one of many replies; a write for each would take longer than many a signature.
        if !input.buffer().contains(&b'\n') || replies.len() >= WINDOW || sent.elapsed() >= COLLECT {
            alarm::cancel();
            output.write_all(&replies)?;
            replies.clear();
            sent = Instant::now();
        }
    }
}

/// No core dump, no ptrace, no new privileges: the PIN and plaintexts pass through here.
fn harden() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Moves the pipes out of a module's reach: one that reads stdin finds nothing, one that prints to
/// stdout prints to stderr.
fn take_pipes() -> io::Result<(BufReader<File>, File)> {
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 64)?;
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 64)?;
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(io::stderr())?;
    Ok((BufReader::with_capacity(WINDOW, input.into()), output.into()))
}

fn answer(token: &mut Option<Token>, request: Request) -> Result<Reply, Failure> {
    match (token, request) {
        (token @ None, Request::Open(open)) => {
            let opened = open_token(&open)?;
            let (info, more) = (opened.info().clone(), opened.more_sessions()?);
            *token = Some(opened);
            Ok(Reply::Opened { token: info, more })
        }
        (Some(token), Request::Fit { label, over, signature }) => {
            let over: Vec<Vec<u8>> = over.into_iter().map(|text| text.0).collect();
            Ok(Reply::Fit { fit: token.fit(&label, &over, &signature)? })
        }
        (Some(token), Request::Prove { kek, secret }) => Ok(Reply::Proof { proof: token.prove(&kek, &secret)? }),
        _ => Err(Failure::Other { why: "was asked out of order".to_owned() }),
    }
}

/// Nothing is loaded before the rights are given up.
fn open_token(open: &Open) -> Result<Token, Failure> {
    match &open.identity {
        Some(identity) if !check_identity(identity).unwrap_or(false) => {
            Err(Failure::Other { why: format!("did not become uid {} for good", identity.uid) })
        }
        _ => Token::open(open),
    }
}

/// Checks that we are who we should have become, and that there is no way back.
fn check_identity(identity: &Identity) -> nix::Result<bool> {
    let users = getresuid()?;
    let groups = getresgid()?;
    let mut supplementary: Vec<u32> = getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    let mut expected = identity.groups.clone();
    for list in [&mut supplementary, &mut expected] {
        list.retain(|&gid| gid != identity.gid);
        list.sort_unstable();
        list.dedup();
    }
    let as_wanted = [users.real, users.effective, users.saved].iter().all(|id| id.as_raw() == identity.uid)
        && [groups.real, groups.effective, groups.saved].iter().all(|id| id.as_raw() == identity.gid)
        && supplementary == expected;
    let root = Uid::from_raw(0);
    let regained = identity.uid != 0 && setresuid(root, root, root).is_ok();
    Ok(as_wanted && !regained)
}
