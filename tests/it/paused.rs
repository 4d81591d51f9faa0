//! A process of the binary that is stopped where it is wanted.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::common::{Said, end};

/// Starts the command with its outputs in pipes.
pub(crate) fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Where a process tells of its crash points, and stands at each until it is let on.
pub(crate) struct Points {
    listener: UnixListener,
    /// The point where it stands: it goes on when this is dropped.
    stands: Option<UnixStream>,
}

impl Points {
    /// Listens at the socket `place`, which is made here.
    pub(crate) fn listen(place: &Path) -> Self {
        fs::remove_file(place).ok();
        let listener = UnixListener::bind(place).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, stands: None }
    }

    /// Lets it on, point by point, until `there` is true of one, where it then stands, or else until it has `ended`. Says whether it stands.
    #[must_use = "it may have ended before"]
    pub(crate) fn until(&mut self, mut there: impl FnMut(&str) -> bool, mut ended: impl FnMut() -> bool) -> bool {
        loop {
            self.stands = None;
            if let Some(mut told) = self.next() {
                let point = name(&mut told);
                self.stands = Some(told);
                if there(&point) {
                    return true;
                }
            } else if ended() {
                return false;
            }
        }
    }

    /// Lets it on for as long as `work` takes.
    pub(crate) fn pass<T>(mut self, work: impl FnOnce() -> T) -> T {
        self.stands = None;
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ended = &ended;
            scope.spawn(move || self.until(|_| false, || ended.load(Ordering::Relaxed)));
            let result = work();
            ended.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Whoever comes to a point within a moment.
    fn next(&self) -> Option<UnixStream> {
        match poll(&mut [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)], 100_u16) {
            Ok(0) | Err(Errno::EINTR) => None,
            found => {
                assert_eq!(found, Ok(1));
                Some(self.listener.accept().unwrap().0)
            }
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

/// A process of the binary that stands at each crash point until it is let on.
pub(crate) struct Paused {
    child: Child,
    points: Points,
}

impl Paused {
    /// Starts the command; it tells of its crash points at the socket `place`.
    pub(crate) fn start(command: &mut Command, place: &Path) -> Self {
        let points = Points::listen(place);
        Self { child: piped(command.env("KEYMGR_UPGRADE_CRASH_LOG", place)), points }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it on, point by point, until `there` is true of one, where it then stands.
    #[track_caller]
    pub(crate) fn until(&mut self, there: impl FnMut(&str) -> bool) {
        let child = &mut self.child;
        if !self.points.until(there, || child.try_wait().unwrap().is_some()) {
            let mut words = String::new();
            child.stdout.take().unwrap().read_to_string(&mut words).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
            panic!("it ended before it came there:\n{words}");
        }
    }

    /// Lets it run to its end.
    pub(crate) fn go(self) -> Said {
        self.points.pass(|| end(self.child))
    }

    /// SIGKILL, as a power loss would end it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
