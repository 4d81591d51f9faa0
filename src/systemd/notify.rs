//! What the service tells systemd of itself: the step at work, and that it gets on.
//!
//! The service's time limit is that of a hang. It is counted anew from every [`beat`], and for as long as somebody else is known to work for us,
//! [`elsewhere`]; so a run may take hours, and a hang ends in a timeout that systemd reports. Without a service all of this is nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How long without progress is a hang, and since when beats are counted. Unset: there is nobody to tell.
static LIMIT: OnceLock<(Option<Duration>, Instant)> = OnceLock::new();
/// When the last beat was passed on, in milliseconds since then.
static LAST: AtomicU64 = AtomicU64::new(0);
/// How many others work for us.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);

/// Between two beats that are passed on lies at least this part of the limit.
const PARTS: u32 = 8;

/// From now on systemd is told. `limit` is the unit's `TimeoutStartSec=`; `None` is infinity, and then there are no hangs.
pub fn begin(limit: Option<Duration>) {
    if LIMIT.set((limit, Instant::now())).is_err() {
        return;
    }
    let Some(limit) = limit else { return };
    extend(limit);
    // Ends with the process. Its own life is no progress, so it says nothing unless somebody else is at work.
    std::thread::spawn(move || {
        loop {
            std::thread::park_timeout(limit / PARTS);
            if ELSEWHERE.load(Ordering::SeqCst) > 0 {
                extend(limit);
            }
        }
    });
}

/// Shows `text` in `systemctl status`.
pub fn status(text: &str) {
    if LIMIT.get().is_some() {
        // systemd's view is a courtesy: the journal of the run is what counts.
        sd_notify::notify(&[NotifyState::Status(text)]).ok();
    }
}

/// Something got on: a record was written, a row was judged, a piece was copied. As cheap as a look at a clock.
pub fn beat() {
    let Some((Some(limit), since)) = LIMIT.get() else { return };
    let now = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let last = LAST.load(Ordering::Relaxed);
    let pause = u64::try_from((*limit / PARTS).as_millis()).unwrap_or(u64::MAX).min(1000);
    if now >= last.saturating_add(pause)
        && LAST.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        extend(*limit);
    }
}

fn extend(limit: Duration) {
    let microseconds = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
    sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(microseconds)]).ok();
}

/// Somebody else works for us, and says nothing until it is done: a database server on a statement, systemd on a job. Until this is dropped that is
/// progress.
#[derive(Debug)]
pub struct Elsewhere(());

/// See [`Elsewhere`].
#[must_use = "it counts until it is dropped"]
pub fn elsewhere() -> Elsewhere {
    ELSEWHERE.fetch_add(1, Ordering::SeqCst);
    if let Some((Some(limit), _)) = LIMIT.get() {
        extend(*limit);
    }
    Elsewhere(())
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        ELSEWHERE.fetch_sub(1, Ordering::SeqCst);
        beat();
    }
}
