//! What the service tells systemd of itself: the step at work, and where it hangs.
//!
//! A run may take hours, so there is no limit on the whole, but one on the time without progress: it is counted anew from every [`beat`], and stands
//! still as long as somebody else is known to work for us, [`elsewhere`]. Whoever is beyond it is ended by systemd as a failed watchdog. The limit is
//! the unit's `WatchdogSec=`, which systemd itself does not enforce while a unit is starting, as ours is from beginning to end; nor would
//! `EXTEND_TIMEOUT_USEC=` do: at every daemon-reload, ours and those of packages, systemd forgets what a start was extended by, and ends it.
//! Without a service all of this is nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sd_notify::NotifyState;

use crate::logging::{self, Event};

/// Since when beats are counted. Unset: there is nobody to tell.
static BEGAN: OnceLock<Instant> = OnceLock::new();
/// When the last beat was, in milliseconds since then.
static LAST: AtomicU64 = AtomicU64::new(0);
/// How many others work for us.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);

/// How often within the limit the beats are looked at.
const LOOKS: u32 = 8;

/// How long systemd may take to end us. One that is older than release 243 does not know how; then we do it.
const LAST_RESPITE: Duration = Duration::from_secs(10);

/// From now on systemd is told, and a hang ends us where the unit has a `WatchdogSec=`.
pub fn begin() {
    if BEGAN.set(Instant::now()).is_err() {
        return;
    }
    if let Some(limit) = sd_notify::watchdog_enabled() {
        // Ends with the process.
        std::thread::spawn(move || watch(limit));
    }
}

fn watch(limit: Duration) {
    let most = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    while ELSEWHERE.load(Ordering::SeqCst) > 0 || now().saturating_sub(LAST.load(Ordering::SeqCst)) <= most {
        std::thread::park_timeout(limit / LOOKS);
    }
    let text = format!("no progress for {} s: this is a hang, and ends here", limit.as_secs());
    logging::event(Event::Hung, &text);
    status(&text);
    sd_notify::notify(&[NotifyState::WatchdogTrigger]).ok();
    std::thread::park_timeout(LAST_RESPITE);
    kill(Pid::this(), Signal::SIGKILL).ok();
}

/// Milliseconds since the beginning.
fn now() -> u64 {
    BEGAN.get().map_or(0, |began| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// What is shown in `systemctl status`.
static SHOWN: Mutex<String> = Mutex::new(String::new());

/// Shows `text` in `systemctl status`.
pub fn status(text: &str) {
    if let Ok(mut shown) = SHOWN.lock() {
        text.clone_into(&mut shown);
    }
    send(text);
}

/// Shows `text` behind what was shown last.
pub fn detail(text: &str) {
    if let Ok(shown) = SHOWN.lock() {
        send(&format!("{shown}, {text}"));
    }
}

fn send(text: &str) {
    if BEGAN.get().is_some() {
        // systemd's view is a courtesy: the journal of the run is what counts.
        sd_notify::notify(&[NotifyState::Status(&text.replace('\n', " "))]).ok();
    }
}

/// Something got on: a record was written, a row was judged, a piece was copied. As cheap as a look at a clock.
pub fn beat() {
    LAST.fetch_max(now(), Ordering::SeqCst);
}

/// Somebody else works for us, and says nothing until it is done: a database server on a statement, systemd on a job. Until this is dropped that is
/// progress.
#[derive(Debug)]
pub struct Elsewhere(());

/// See [`Elsewhere`].
#[must_use = "it counts until it is dropped"]
pub fn elsewhere() -> Elsewhere {
    ELSEWHERE.fetch_add(1, Ordering::SeqCst);
    Elsewhere(())
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        beat();
        ELSEWHERE.fetch_sub(1, Ordering::SeqCst);
    }
}
