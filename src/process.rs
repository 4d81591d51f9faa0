//! Other processes of this host: who they are, who holds a lock, and when they are gone.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// How often a lock is looked at while its holder lives. Nothing tells when one is given back.
const LOOK: Duration = Duration::from_secs(1);

/// A process, told apart from any other that will ever have its number: of another boot too, since none begins in the same hundredth of a
/// second after it with the same number. (The boot's own id differs between a container and its sandboxed services.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since the boot.
    pub start: u64,
}

/// What `/proc/PID/stat` says.
struct Stat {
    name: String,
    state: char,
    parent: u32,
    start: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        // A process may end at any time: then there is nothing to say of it.
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc(5): number, name in brackets, which may hold brackets itself, state, parent, and as the 22nd field the start.
    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let state = fields.first()?.chars().next()?;
        Some(Self {
            name: name.to_owned(),
            state,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

impl Process {
    /// What `/proc` says, whatever it is ([`crate::fuzz`]).
    #[cfg(any(test, fuzzing))]
    pub(crate) fn fuzz(text: &str) {
        let _ = Stat::parse(text);
    }

    /// The process of this number; `None` if there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self { pid, start: stat.start })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|s| s.start == self.start && !matches!(s.state, 'Z' | 'X'))
    }

    /// Whether it is our parent, or the parent of that, and so on.
    #[must_use]
    pub fn is_above_us(&self) -> bool {
        self.is_alive() && above().iter().any(|(pid, _)| *pid == self.pid)
    }

    /// Waits until it has ended or, with `lock`, does not hold that any more.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn wait(&self, lock: Option<&Path>) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("not the number of a process")?;
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Some(handle),
            // Linux before 5.3: looked at now and then instead.
            Err(rustix::io::Errno::NOSYS) => None,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error).context("waiting for a process"),
        };
        let limit = if lock.is_some() || handle.is_none() { LOOK.try_into()? } else { PollTimeout::NONE };
        while self.is_alive() {
            if let Some(lock) = lock
                && holder(lock)? != Some(self.pid)
            {
                return Ok(());
            }
            let mut fds: Vec<PollFd<'_>> =
                handle.iter().map(|handle| PollFd::new(handle.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut fds, limit) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("waiting for a process"),
            }
        }
        Ok(())
    }
}

/// Leaves no core dump, of us or of what we start: passwords, PINs and keys are in it. Root is not traced by its own other processes either; for
/// anybody else the kernel would close `/proc/self`, which we need.
///
/// # Errors
/// If it cannot be forbidden.
pub fn leave_no_core() -> Result<()> {
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    if nix::unistd::geteuid().is_root() {
        nix::sys::prctl::set_dumpable(false).context("forbidding core dumps")?;
    }
    Ok(())
}

/// The processes above this one, the nearest first, with their names.
#[must_use]
pub fn above() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut pid = std::process::id();
    while let Some(parent) = Stat::of(pid).map(|s| s.parent).filter(|parent| *parent != 0) {
        let Some(stat) = Stat::of(parent) else { break };
        found.push((parent, stat.name));
        pid = parent;
    }
    found
}

/// Who holds a lock on the file `path` (fcntl(2), as apt, dpkg and rpm take theirs); `None` if nobody does, or the file is not there.
///
/// # Errors
/// If it cannot be asked.
pub fn holder(path: &Path) -> Result<Option<u32>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let mut lock = nix::libc::flock { l_type: 0, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    // A lock to write, from the beginning to the end, is what would not go with theirs.
    lock.l_type = i16::try_from(nix::libc::F_WRLCK)?;
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETLK(&mut lock)).with_context(|| path.display().to_string())?;
    let held = i32::from(lock.l_type) != nix::libc::F_UNLCK;
    // A holder in another namespace has no number here.
    Ok(u32::try_from(lock.l_pid).ok().filter(|pid| held && *pid != 0))
}

/// Where a process works; `None` if it has ended.
#[must_use]
pub fn directory(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// What a process was called with; nothing if it has ended.
#[must_use]
pub fn argv(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
    let mut words: Vec<String> = words.collect();
    // The last one is ended by a zero too.
    words.pop();
    words
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_name_with_brackets_is_read() {
        let text = "17 (a) b (c)) S 4 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 998877 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent, stat.start), ("a) b (c)", 'S', 4, 998_877));
        assert!(Stat::parse("17 a S").is_none());
    }

    #[test]
    fn a_process_is_known_until_it_ends() {
        #[expect(clippy::disallowed_methods, reason = "a process to wait for")]
        let mut child = std::process::Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Until it answers it may be in the middle of execve(2), and have no arguments yet.
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive() && !process.is_above_us());
        assert!(!Process { start: process.start + 1, pid: process.pid }.is_alive(), "its number alone is not enough");
        assert_eq!(argv(child.id()), ["cat"]);
        drop(child.stdin.take());
        process.wait(None).unwrap();
        assert!(!process.is_alive());
        child.wait().unwrap();
        process.wait(None).unwrap();
        assert!(Process::of(std::os::unix::process::parent_id()).unwrap().is_above_us());
    }

    #[test]
    fn the_holder_of_a_lock_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(holder(&path).unwrap(), None);
        drop(File::create(&path).unwrap());
        assert_eq!(holder(&path).unwrap(), None);
        // perl is essential on Debian, and says how the C library lays out the structure.
        let script = "use Fcntl; open(F,'+<',$ARGV[0]) or die; \
                      my $lock = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $lock) or die; print \"held\\n\"; \
                      $|=1; print ''; <STDIN>";
        #[expect(clippy::disallowed_methods, reason = "another process has to hold the lock")]
        let mut child = std::process::Command::new("perl")
            .args(["-e", &format!("$|=1; {script}")])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut said).unwrap();
        assert_eq!(said, "held\n");
        assert_eq!(holder(&path).unwrap(), Some(child.id()));
        Process::of(child.id()).unwrap().wait(Some(&dir.path().join("other"))).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(holder(&path).unwrap(), None);
    }
}
