//! A process of the binary that is stopped where it is wanted.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::common::Said;

/// Starts the command with its outputs in pipes.
pub(crate) fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A process of the binary that stands at each crash point until it is let on.
pub(crate) struct Paused {
    child: Child,
    listener: UnixListener,
    /// The point where it stands: it goes on when this is dropped.
    stands: Option<UnixStream>,
}

impl Paused {
    /// Starts the command; it tells of its crash points at the socket `place`, which is made here.
    pub(crate) fn start(command: &mut Command, place: &Path) -> Self {
        fs::remove_file(place).ok();
        let listener = UnixListener::bind(place).unwrap();
        listener.set_nonblocking(true).unwrap();
        let child = piped(command.env("KEYMGR_UPGRADE_CRASH_LOG", place));
        Self { child, listener, stands: None }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it on, point by point, until `there` is true of one, where it then stands.
    #[track_caller]
    pub(crate) fn until(&mut self, mut there: impl FnMut(&str) -> bool) {
        loop {
            self.stands = None;
            let Some(mut told) = next(&self.listener) else {
                if self.child.try_wait().unwrap().is_some() {
                    let mut words = String::new();
                    self.child.stdout.take().unwrap().read_to_string(&mut words).unwrap();
                    self.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
                    panic!("it ended before it came there:\n{words}");
                }
                continue;
            };
            let point = name(&mut told);
            self.stands = Some(told);
            if there(&point) {
                return;
            }
        }
    }

    /// Lets it run to its end.
    pub(crate) fn go(mut self) -> Said {
        self.stands = None;
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    next(&self.listener);
                }
            });
            let mut out = (String::new(), String::new());
            self.child.stdout.take().unwrap().read_to_string(&mut out.0).unwrap();
            self.child.stderr.take().unwrap().read_to_string(&mut out.1).unwrap();
            let status = self.child.wait().unwrap();
            ended.store(true, Ordering::Relaxed);
            Said { code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), out: out.0, err: out.1 }
        })
    }

    /// SIGKILL, as a power loss would end it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Whoever comes to a point within a moment.
fn next(listener: &UnixListener) -> Option<UnixStream> {
    match poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], 100_u16) {
        Ok(0) | Err(Errno::EINTR) => None,
        found => {
            assert_eq!(found, Ok(1));
            Some(listener.accept().unwrap().0)
        }
    }
}

/// The point that it tells of; none if it was killed on the way.
fn name(told: &mut UnixStream) -> String {
    told.set_nonblocking(false).unwrap();
    let mut line = String::new();
    BufReader::new(told).read_line(&mut line).ok();
    line.trim_end().to_owned()
}
