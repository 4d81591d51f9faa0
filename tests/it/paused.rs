//! A process of the binary that is stopped where it is wanted.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, poll};

use crate::common::Said;

/// Starts the command with its outputs in pipes.
pub(crate) fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A process of the binary that stops at each crash point until it is let on.
pub(crate) struct Paused {
    child: Child,
    pipe: PathBuf,
}

impl Paused {
    /// Starts the command; its log of crash points is `pipe`, which is made here.
    pub(crate) fn start(command: &mut Command, pipe: PathBuf) -> Self {
        fs::remove_file(&pipe).ok();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let child = piped(command.env("KEYMGR_UPGRADE_CRASH_LOG", &pipe));
        Self { child, pipe }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it on, point by point, until `there` is true of one that it passed; it then stands at one of the next.
    #[track_caller]
    pub(crate) fn until(&mut self, mut there: impl FnMut(&str) -> bool) {
        loop {
            if self.child.try_wait().unwrap().is_some() {
                let mut words = String::new();
                self.child.stdout.take().unwrap().read_to_string(&mut words).unwrap();
                self.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
                panic!("it ended before it came there:\n{words}");
            }
            // It goes on for as long as this is open, so that is no longer than until the name is read.
            let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
            let mut pipe = File::options().read(true).custom_flags(flags).open(&self.pipe).unwrap();
            let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, 100_u16) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                found => assert_eq!(found, Ok(1)),
            }
            let mut bytes = [0; 4096];
            let Ok(count) = pipe.read(&mut bytes) else { continue };
            drop(pipe);
            if String::from_utf8_lossy(&bytes[..count]).lines().any(&mut there) {
                return;
            }
        }
    }

    /// Lets it run to its end.
    pub(crate) fn go(mut self) -> Said {
        let pipe = self.pipe.clone();
        let reader = std::thread::spawn(move || {
            let mut name = String::new();
            // Read and write: there is always a writer, and no end.
            let mut file = File::options().read(true).write(true).open(pipe).unwrap();
            let mut bytes = [0; 4096];
            while !name.ends_with("END\n") {
                let n = file.read(&mut bytes).unwrap();
                name = String::from_utf8_lossy(&bytes[..n]).into_owned();
            }
        });
        let mut out = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut out.0).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut out.1).unwrap();
        let status = self.child.wait().unwrap();
        std::io::Write::write_all(&mut File::options().append(true).open(&self.pipe).unwrap(), b"END\n").unwrap();
        reader.join().unwrap();
        Said { code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), out: out.0, err: out.1 }
    }

    /// SIGKILL, as a power loss would end it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
