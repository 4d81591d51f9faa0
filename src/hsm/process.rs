//! The parent's side of the child: start it as somebody else, talk with a time limit, reap it.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::Path,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
    time::{clock_getcpuclockid, clock_gettime},
    unistd::{Pid, geteuid, getgid, getuid},
};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{
    Config, WORKER_ARGUMENT,
    protocol::{Failure, Reply, Request},
};
use crate::command::Identity;
use crate::systemd::notify;

/// How much is encoded ahead of what the pipe takes.
const WINDOW: usize = 64 * 1024;
/// How much of the child's stderr is kept.
const TAIL: usize = 1024;
/// How long a child may take to log out when it is no longer needed.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a conversation gave no replies.
pub(super) enum Stop {
    /// The child answered with a failure; it lives.
    Failed { failure: Failure, doing: String },
    /// The child is gone.
    Ended(End),
}

/// How the child ended.
pub(super) enum End {
    Crashed { doing: String, how: String, stderr: String },
    TimedOut { doing: String, stderr: String },
    Broken { why: String },
}

/// Whether the child would load the module with root's rights.
pub(super) fn stays_root(identity: Option<&Identity>) -> bool {
    geteuid().is_root() && identity.is_none_or(|identity| identity.uid == 0)
}

/// Who the child must become; `None`: it is that already, and could become nobody else.
pub(super) fn to_become(config: &Config) -> Option<&Identity> {
    let ours = |identity: &&Identity| {
        !geteuid().is_root() && getuid().as_raw() == identity.uid && getgid().as_raw() == identity.gid
    };
    config.identity.as_ref().filter(|identity| !ours(identity))
}

/// Whether only root can change what is loaded: the file behind all links, and every directory on
/// the way to it (one with the sticky bit keeps others from replacing root's entries).
pub(super) fn check_trusted(module: &Path) -> Result<(), String> {
    if !module.is_absolute() {
        return Err("it is not an absolute path".to_owned());
    }
    let Ok(real) = fs::canonicalize(module) else {
        return Ok(()); // nothing to load: the loader's own message is the better one
    };
    for path in real.ancestors() {
        let meta = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mode = meta.permissions().mode();
        let sticky = meta.is_dir() && mode & 0o1000 != 0;
        if meta.uid() != 0 {
            return Err(format!("{} belongs to uid {}", path.display(), meta.uid()));
        }
        if mode & 0o022 != 0 && !sticky {
            return Err(format!("{} is writable by others than root (mode {:04o})", path.display(), mode & 0o7777));
        }
    }
    Ok(())
}

/// When the child's own alarm ends it: later than the parent would.
pub(super) fn alarm_seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX / 2).saturating_add(5)
}

/// The running child.
pub(super) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    errors: ChildStderr,
    /// Bytes of replies not yet complete.
    received: Vec<u8>,
    tail: Vec<u8>,
    /// Only to be taken out of the module's own words.
    pin: SecretString,
    farewell: Duration,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts the executable as the worker. Rights are given up between fork and exec, so that
    /// nothing of the environment can act on a process that is still root.
    pub(super) fn start(config: &Config) -> io::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a process of its own kind: it stays, and speaks over pipes")]
        let mut command = Command::new(&config.worker);
        command
            .arg(WORKER_ARGUMENT)
            .env_clear()
            .envs(config.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0) // Ctrl-C is for the parent to handle
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(become_it) = to_become(config).map(Identity::assumed) {
            // SAFETY: between fork and exec only three system calls are made, on memory that was
            // allocated before.
            #[expect(unsafe_code, reason = "std has no stable way to set supplementary groups")]
            unsafe {
                command.pre_exec(become_it);
            }
        }
        let mut child = command.spawn()?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("no pipes"));
        };
        let worker = Self {
            child,
            input: Some(input),
            output,
            errors,
            received: Vec::new(),
            tail: Vec::new(),
            pin: config.pin.clone(),
            farewell: FAREWELL.min(config.timeout),
        };
        if let Some(input) = &worker.input {
            fcntl(input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        fcntl(&worker.errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(worker)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the child has had of the processors, as far as the system tells.
    pub(super) fn computed(&self) -> Option<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).ok()?);
        Some(clock_getcpuclockid(pid).and_then(clock_gettime).ok()?.into())
    }

    /// Sends the requests and collects one reply each. Reading and writing go on together, so that
    /// neither side waits on a full pipe. The limit counts from one reply to the next.
    pub(super) fn converse(
        &mut self,
        requests: impl Iterator<Item = Request>,
        limit: Duration,
    ) -> Result<Vec<Reply>, Stop> {
        let mut talk = Talk::new(requests);
        let mut deadline = Instant::now() + limit;
        loop {
            talk.encode_ahead().map_err(|why| self.broken(&why))?;
            if talk.is_over() {
                return talk.result();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let stderr = self.end();
                return Err(Stop::Ended(End::TimedOut { doing: talk.doing(), stderr }));
            }
            match self.exchange(talk.out.get(talk.written..).unwrap_or_default(), left) {
                Ok(Exchange { written, lines, closed }) => {
                    talk.written += written;
                    for line in lines {
                        let reply =
                            serde_json::from_slice(&line).map_err(|_| self.broken("answered what is not JSON"))?;
                        talk.take(reply);
                        notify::beat();
                        deadline = Instant::now() + limit;
                    }
                    if closed && !talk.is_over() {
                        return Err(Stop::Ended(self.crashed(talk.doing())));
                    }
                }
                Err(error) => return Err(self.broken(&format!("cannot be talked to: {error}"))),
            }
        }
    }

    /// Waits until something can be written or read, and does it.
    fn exchange(&mut self, out: &[u8], left: Duration) -> io::Result<Exchange> {
        let mut done = Exchange { written: 0, lines: Vec::new(), closed: false };
        let mut fds = vec![
            PollFd::new(self.output.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.errors.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(input) = self.input.as_ref().filter(|_| !out.is_empty()) {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
        // Rounded up: a wait of 0 ms would be a busy loop in the last millisecond.
        let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, wait) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        drop(fds);
        if ready.get(1) == Some(&true) {
            self.hear();
        }
        if ready.first() == Some(&true) {
            let mut buffer = [0; 16 * 1024];
            let count = self.output.read(&mut buffer)?;
            done.closed = count == 0;
            self.received.extend(buffer.iter().take(count));
            while let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                done.lines.push(self.received.drain(..=end).collect());
            }
        }
        if let Some(input) = self.input.as_mut().filter(|_| ready.get(2) == Some(&true)) {
            match input.write(out) {
                Ok(count) => done.written = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Its end is told by stdout, which is still to be read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.input = None,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Takes in what the module wrote to stderr, keeping the end.
    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.errors.read(&mut buffer) {
            self.tail.extend(buffer.iter().take(count));
            let surplus = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..surplus);
        }
    }

    fn crashed(&mut self, doing: String) -> End {
        // One that only closed its stdout would be waited for without end; one that is dying
        // already keeps the status it dies with.
        let _ = self.child.kill();
        let status = self.child.wait();
        self.hear();
        let stderr = self.last_words();
        let how = match status {
            Ok(status) => match (status.signal(), status.code()) {
                (Some(number), _) => Signal::try_from(number)
                    .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned()),
                (None, Some(code)) => format!("it ended the process with status {code}"),
                (None, None) => status.to_string(),
            },
            Err(error) => format!("status unknown: {error}"),
        };
        End::Crashed { doing, how, stderr }
    }

    fn broken(&mut self, why: &str) -> Stop {
        self.end();
        Stop::Ended(End::Broken { why: why.to_owned() })
    }

    /// Kills and reaps the child; returns its last words.
    fn end(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hear();
        self.last_words()
    }

    /// The tail of stderr on one line, without control characters and without the PIN.
    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        match self.pin.expose_secret() {
            "" => line,
            pin => line.replace(pin, "***"),
        }
    }
}

impl Drop for Worker {
    /// Closing stdin asks the child to log out; one that does not is killed. Always reaped.
    fn drop(&mut self) {
        self.input = None;
        let deadline = Instant::now() + self.farewell;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.exchange(&[], left) {
                Ok(Exchange { closed: false, .. }) if !left.is_zero() => {}
                _ => break,
            }
        }
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What one wait brought.
struct Exchange {
    written: usize,
    lines: Vec<Vec<u8>>,
    closed: bool,
}

/// The state of one conversation.
struct Talk<I> {
    requests: I,
    exhausted: bool,
    out: Zeroizing<Vec<u8>>,
    written: usize,
    /// What each request not yet answered is about, oldest first.
    pending: VecDeque<String>,
    replies: Vec<Reply>,
    failure: Option<(Failure, String)>,
}

impl<I: Iterator<Item = Request>> Talk<I> {
    fn new(requests: I) -> Self {
        Self {
            requests,
            exhausted: false,
            out: Zeroizing::new(Vec::with_capacity(WINDOW)),
            written: 0,
            pending: VecDeque::new(),
            replies: Vec::new(),
            failure: None,
        }
    }

    fn encode_ahead(&mut self) -> Result<(), String> {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        while !self.exhausted && self.failure.is_none() && self.out.len() - self.written < WINDOW / 2 {
            let Some(request) = self.requests.next() else {
                self.exhausted = true;
                break;
            };
            serde_json::to_writer(&mut *self.out, &request).map_err(|error| format!("cannot be asked: {error}"))?;
            self.out.push(b'\n');
            self.pending.push_back(request.doing());
        }
        Ok(())
    }

    /// After a failure nothing more is asked, but what was asked is heard out.
    fn is_over(&self) -> bool {
        self.pending.is_empty() && (self.exhausted || self.failure.is_some())
    }

    fn take(&mut self, reply: Reply) {
        let doing = self.pending.pop_front().unwrap_or_default();
        if let Reply::Failed { failure } = reply {
            self.failure.get_or_insert((failure, doing));
        } else {
            self.replies.push(reply);
        }
    }

    fn doing(&self) -> String {
        self.pending.front().cloned().unwrap_or_default()
    }

    fn result(self) -> Result<Vec<Reply>, Stop> {
        match self.failure {
            Some((failure, doing)) => Err(Stop::Failed { failure, doing }),
            None => Ok(self.replies),
        }
    }
}
