//! Named crash points: places where a test kills the true binary as a power loss would.
//!
//! `KEYMGR_UPGRADE_CRASH_LOG=FILE` appends the name of each point as it is passed; where that is a socket somebody is told of it there, and the
//! process stands at the point until they hang up. `KEYMGR_UPGRADE_CRASH_AT=N` makes the N-th one (from 1) end in SIGKILL,
//! `KEYMGR_UPGRADE_CRASH_AT=NAME:N` the N-th one of that name. Without them a point is one look at a number.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Wanted {
    at: Option<u64>,
    /// Only points of this name count.
    name: Option<String>,
    log: Option<OsString>,
}

static WANTED: OnceLock<Wanted> = OnceLock::new();
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Passes the point `name`; does not return if this is where the test wants the crash.
pub fn point(name: &str) {
    let wanted = WANTED.get_or_init(|| {
        let at = std::env::var("KEYMGR_UPGRADE_CRASH_AT").unwrap_or_default();
        let (name, number) = at.rsplit_once(':').map_or((None, at.as_str()), |(name, n)| (Some(name.to_owned()), n));
        Wanted { at: number.parse().ok(), name, log: std::env::var_os("KEYMGR_UPGRADE_CRASH_LOG") }
    });
    if wanted.at.is_none() && wanted.log.is_none() {
        return;
    }
    if let Some(log) = &wanted.log {
        tell(name, log);
    }
    if wanted.name.as_ref().is_some_and(|wanted| wanted != name) {
        return;
    }
    let count = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if wanted.at == Some(count) {
        kill(Pid::this(), Signal::SIGKILL).ok();
    }
}

/// A test's log: if it cannot be written the test sees that it is short.
fn tell(name: &str, log: &OsStr) {
    if let Ok(mut test) = UnixStream::connect(log) {
        writeln!(test, "{name}").ok();
        test.read_exact(&mut [0]).ok();
    } else if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(log) {
        writeln!(file, "{name}").ok();
    }
}
