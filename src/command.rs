//! The one way to run a subprocess: argv logged, nothing read from the terminal, the tail of stderr in the error.
//!
//! [`run`] is for a short command. [`Program`] is for one that moves data: its output is read, or its input written, piece by piece, a secret
//! reaches it in a file that has no name, and it dies with us, so that nobody works on after a kill. It may be another user's: whoever chose what it
//! talks to can make it do no more than they could themselves.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, fchown, setgid, setgroups, setuid};
use rustix::fs::{MemfdFlags, Mode};
use rustix::io::FdFlags;
use rustix::process::Signal;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::crash;
use crate::systemd::notify;

/// How much of a failed command's stderr goes into the error, in bytes.
const TAIL: usize = 1024;

/// How long a program may go without taking or giving a byte. Building the indexes of a large table moves none, and takes minutes; only a hang
/// takes this long.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How much is moved at once, in bytes.
const PIECE: usize = 64 * 1024;

/// Runs a program to its end.
///
/// # Errors
/// If it cannot be started, is killed, or exits with another status than 0; the error ends with the tail of its stderr. Secrets must not be in
/// `argv`: it is logged.
pub fn run<S: AsRef<OsStr>>(argv: &[S], environment: &[(&str, &str)]) -> Result<String> {
    let (program, arguments) = argv.split_first().context("empty command")?;
    let shown = argv.iter().map(|a| a.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    log::info!("running {shown}");
    #[expect(clippy::disallowed_methods, reason = "this module is the one way")]
    let output = Process::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {shown}"))?;
    if !output.status.success() {
        let start = output.stderr.len().saturating_sub(TAIL);
        let tail = String::from_utf8_lossy(output.stderr.get(start..).unwrap_or_default());
        bail!("{shown}: {}: {}", output.status, tail.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

impl Identity {
    /// What makes a process this user's, between fork and exec, so that nothing of its environment can act on one that is still root: three system
    /// calls, on memory that was allocated before.
    pub(crate) fn assumed(&self) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        move || {
            setgroups(&groups)?;
            setgid(gid)?;
            setuid(uid)?;
            Ok(())
        }
    }
}

/// A program to be run. Of our environment it gets `PATH` only, and `LC_ALL=C`: what an operator's shell sets must not lead it elsewhere.
#[derive(Debug)]
pub struct Program {
    argv: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    /// What it may read as a file, and what of it is a secret.
    secret: Option<(File, SecretString)>,
    /// Whose it is, where it is not ours.
    identity: Option<Identity>,
    patience: Duration,
}

impl Program {
    /// The program of this name, looked for in `PATH`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { argv: vec![name.into()], environment: Vec::new(), secret: None, identity: None, patience: PATIENCE }
    }

    /// With one more argument. Arguments are logged: no secret may be in them.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.argv.push(argument.into());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// With a file of `text`, readable by its user and by us alone, that exists in memory only, and the path under which it finds it. `hidden` is what
    /// of it is shown as `***` where the program's own messages repeat it.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    pub fn with_file(mut self, text: &SecretString, hidden: SecretString) -> Result<(Self, String)> {
        let file = memory_file("secret")?;
        (&file).write_all(text.expose_secret().as_bytes()).context("writing a file in memory")?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.secret = Some((file, hidden));
        Ok((self, path))
    }

    /// As this user, whose the file then is too; as we are, where there is none.
    #[must_use]
    pub fn by(mut self, identity: Option<&Identity>) -> Self {
        self.identity = identity.cloned();
        self
    }

    /// Whether there is such a program in `PATH` that can be started.
    ///
    /// # Errors
    /// If it is there and cannot be run.
    pub fn version(self) -> Result<Option<String>> {
        match self.arg("--version").start(Stdio::null()) {
            Ok(mut running) => {
                let mut said = String::new();
                running.read_to_string(&mut said)?;
                Ok(Some(said.trim().to_owned()))
            }
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts it to be read from: a reader of its standard output, whose end is an error if the program fails.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(self) -> Result<Output> {
        self.start(Stdio::null())
    }

    /// Runs it with `input` as its standard input; its output is not wanted. If reading `input` fails, it is killed before it sees the end.
    ///
    /// # Errors
    /// If it cannot be started, hangs or fails, or `input` cannot be read.
    pub fn feed(self, input: &mut dyn Read) -> Result<()> {
        let mut running = self.start(Stdio::piped())?;
        fcntl(running.stdin.as_ref().context("no pipe")?, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            piece.clear();
            // However the input is cut: the same one is as many pieces each time.
            if Read::take(&mut *input, PIECE as u64).read_to_end(&mut piece)? == 0 {
                break;
            }
            if !running.give(&piece)? {
                running.drain()?;
                bail!("{}: ended before it had read everything", running.shown);
            }
            crash::point("piece fed");
        }
        running.drain()
    }

    fn start(self, stdin: Stdio) -> Result<Output> {
        let (program, arguments) = self.argv.split_first().context("empty command")?;
        let shown = self.argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        log::info!("running {shown}");
        let errors = memory_file("stderr")?;
        #[expect(clippy::disallowed_methods, reason = "this module is the one way")]
        let mut command = Process::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0) // Ctrl-C is for us to handle
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?);
        if let Some(identity) = &self.identity {
            if let Some((file, _)) = &self.secret {
                fchown(file, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid)))?;
            }
            command.current_dir("/");
            let assume = identity.assumed();
            // SAFETY: between fork and exec only system calls are made, on memory that was allocated before.
            #[expect(unsafe_code, reason = "std has no stable way to set supplementary groups")]
            unsafe {
                command.pre_exec(assume);
            }
        }
        // After that: a change of user clears the death signal.
        die_with_us(&mut command, self.secret.as_ref().map(|(file, _)| file.as_raw_fd()));
        let mut child = command.spawn().with_context(|| format!("starting {shown}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("no pipe")?);
        let shown = program.to_string_lossy().into_owned();
        let hidden = self.secret.map(|(_, hidden)| hidden);
        Ok(Output { child, stdin, stdout, errors, shown, hidden, patience: self.patience, ended: false })
    }
}

/// Whether the error of starting a program is that there is none.
fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// A file without a name, gone when the last one who has it open closes it.
fn memory_file(name: &str) -> Result<File> {
    let file = match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC) {
        // Linux before 3.17.
        Err(rustix::io::Errno::NOSYS) => shared_memory_file(),
        made => made.map(File::from).map_err(Into::into),
    };
    let file = file.context("making a file in memory")?;
    // Programs refuse a password file that others may read, and take the mode at its word.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600))?;
    Ok(file)
}

/// The same where the kernel makes none by itself: a file of a file system in memory, whose name is gone before anything is in it.
fn shared_memory_file() -> io::Result<File> {
    let file = tempfile::tempfile_in("/dev/shm")?;
    if fstatfs(&file)?.filesystem_type() != TMPFS_MAGIC {
        return Err(io::Error::other("/dev/shm is no tmpfs"));
    }
    Ok(file)
}

/// Has the child killed when the thread that starts it ends, however that comes, and leaves it `kept` open.
fn die_with_us(command: &mut Process, kept: Option<i32>) {
    let us = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(us) {
            return Err(io::Error::other("the parent is gone"));
        }
        if let Some(fd) = kept {
            // SAFETY: the parent holds the file open until the child is started, and so does its copy, the child.
            #[expect(unsafe_code, reason = "only the number of a descriptor crosses the fork")]
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on memory that was allocated before.
    #[expect(unsafe_code, reason = "std has no stable way to set a death signal, or to pass on one descriptor")]
    unsafe {
        command.pre_exec(prepare);
    }
}

/// A running program's standard output. Its end is reached only if the program succeeds. Dropped before, the program is killed.
#[derive(Debug)]
pub struct Output {
    child: Child,
    /// Held here, so that a program that is not to see the end of its input is killed before this closes.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    errors: File,
    shown: String,
    hidden: Option<SecretString>,
    patience: Duration,
    ended: bool,
}

impl Output {
    /// Writes `piece` to its input, and drops what it says meanwhile. False if it takes no more.
    fn give(&mut self, mut piece: &[u8]) -> Result<bool> {
        let mut stdin = self.stdin.as_ref().context("no pipe")?;
        let mut heard = vec![0; 4096];
        while !piece.is_empty() {
            let mut fds =
                [PollFd::new(stdin.as_fd(), PollFlags::POLLOUT), PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
            self.wait(&mut fds)?;
            let [writable, readable] = fds.map(|fd| fd.any().unwrap_or(true));
            if readable && self.stdout.read(&mut heard)? == 0 {
                return Ok(false);
            }
            if writable {
                match stdin.write(piece) {
                    Ok(count) => piece = piece.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                    Err(error) => return Err(error).context("writing to a program"),
                }
            }
        }
        Ok(true)
    }

    /// Ends its input, and waits until it has said everything and ended.
    fn drain(&mut self) -> Result<()> {
        self.stdin = None;
        io::copy(self, &mut io::sink())?;
        Ok(())
    }

    fn wait(&self, fds: &mut [PollFd<'_>]) -> io::Result<()> {
        let limit = PollTimeout::try_from(self.patience).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(fds, limit) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) => {
                    let why = format!("{}: no sign of life for {} s", self.shown, self.patience.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Ok(_) => {
                    notify::beat();
                    return Ok(());
                }
            }
        }
    }

    /// How it ended, once its output has: it closes that by ending.
    fn finish(&mut self) -> io::Result<()> {
        self.ended = true;
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let length = self.errors.seek(SeekFrom::End(0))?;
        self.errors.seek(SeekFrom::Start(length.saturating_sub(TAIL as u64)))?;
        let mut tail = Vec::new();
        self.errors.read_to_end(&mut tail)?;
        let mut tail = String::from_utf8_lossy(&tail).into_owned();
        if let Some(hidden) = self.hidden.as_ref().map(ExposeSecret::expose_secret).filter(|h| !h.is_empty()) {
            tail = tail.replace(hidden, "***");
        }
        Err(io::Error::other(format!("{}: {status}: {}", self.shown, tail.trim())))
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        self.wait(&mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)])?;
        let count = self.stdout.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            self.finish()?;
        }
        Ok(count)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended by itself; there is nobody to tell.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    #[test]
    fn the_tail_of_stderr_is_in_the_error() {
        let error = run(&["sh", "-c", "echo out; echo why >&2; exit 3"], &[]).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
        assert_eq!(run(&["sh", "-c", "echo $K; cat"], &[("K", "v")]).unwrap(), "v\n");
        assert!(run(&["/nonexistent/program"], &[]).unwrap_err().to_string().contains("/nonexistent/program"));
    }

    #[test]
    fn output_ends_well_only_if_the_program_does() {
        let mut text = String::new();
        shell("echo $K; cat").env("K", "v").output().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "v\n");
        let error = shell("echo part; echo why >&2; exit 3").output().unwrap().read_to_end(&mut Vec::new());
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "sh: exit status: 3: why");
    }

    #[test]
    fn a_secret_is_a_file_without_a_name_and_never_said() {
        let secret = SecretString::from("line\nhunter2\n");
        let (program, path) = Program::new("sh").with_file(&secret, SecretString::from("hunter2")).unwrap();
        let script = format!("stat -L -c %a {path}; cat {path}; env; echo it is hunter2 >&2; exit 1");
        let mut said = String::new();
        let error = program.args(["-c", &script]).output().unwrap().read_to_string(&mut said).unwrap_err();
        assert!(said.starts_with("600\nline\nhunter2\n"), "{said}");
        assert_eq!(said.matches("hunter2").count(), 1, "not in the environment: {said}");
        assert_eq!(error.to_string(), "sh: exit status: 1: it is ***");
        // The next program does not have it.
        let mut said = String::new();
        shell(&format!("cat {path} 2>&1; true")).output().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("No such file"), "{said}");
    }

    #[test]
    fn as_another_user_it_reads_its_file_and_dies_with_us_too() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let nobody = Identity { uid: 65534, gid: 65534, groups: vec![65533] };
        let secret = SecretString::from("hunter2");
        let (program, path) = Program::new("sh").with_file(&secret, SecretString::from("")).unwrap();
        let script = format!("id -u; id -G; pwd; stat -L -c %a:%u {path}; cat {path}");
        let mut said = String::new();
        program.args(["-c", &script]).by(Some(&nobody)).output().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "65534\n65534 65533\n/\n600:65534\nhunter2");
        // A program dies with the thread that started it.
        let started = std::thread::spawn(move || {
            let mut running = shell("echo begun; exec sleep 60").by(Some(&nobody)).output().unwrap();
            assert_eq!(running.read(&mut [0; 16]).unwrap(), "begun\n".len());
            running
        });
        let error = started.join().unwrap().read_to_end(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
    }

    #[test]
    fn input_is_fed_and_an_early_end_is_noticed() {
        let large = vec![b'x'; 3 * PIECE + 7];
        shell(&format!("test $(wc -c) = {}", large.len())).feed(&mut large.as_slice()).unwrap();
        shell("yes | head -c 1000000; cat >/dev/null").feed(&mut large.as_slice()).unwrap();
        let error = shell("head -c 10 >/dev/null; echo no >&2; exit 2").feed(&mut large.as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "sh: exit status: 2: no");
        let error = shell("exec <&-; exit 0").feed(&mut large.as_slice()).unwrap_err();
        assert!(error.to_string().contains("before it had read everything"), "{error}");
    }

    #[test]
    fn a_failed_input_never_looks_like_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        // Often: a program that was let see the end would need a moment of luck to make its mark.
        for _ in 0..50 {
            let mut input = shell("echo begin; exit 4").output().unwrap();
            let consumer = shell(&format!("cat >/dev/null; : >{}", mark.display()));
            let error = consumer.feed(&mut input).unwrap_err().to_string();
            assert!(error.contains("exit status: 4"), "{error}");
            assert!(!mark.exists());
        }
    }

    #[test]
    fn a_hang_is_an_error() {
        let mut program = shell("kill -STOP $$");
        program.patience = Duration::from_millis(100);
        let error = program.output().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("no sign of life"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_told_apart() {
        assert_eq!(Program::new("no-such-program-at-all").version().unwrap(), None);
        assert!(Program::new("true").version().unwrap().is_some_and(|v| v.contains("true")));
    }
}
