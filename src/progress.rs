//! How far a long piece of work on rows is, with its rate and what is left: in `systemctl status`, and beside the spinner of a terminal.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::systemd::notify;

/// How often it is said at most.
const EVERY: Duration = Duration::from_secs(1);

/// Shows a text beside what is at work already.
pub type Screen = Box<dyn Fn(&str) + Send>;

static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);

/// Where it is shown from now on, besides `systemctl status`.
pub fn show_on(screen: Option<Screen>) {
    if let Ok(mut shown) = SCREEN.lock() {
        *shown = screen;
    }
}

/// A piece of work under way.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    said: Instant,
    done: u64,
    total: Option<u64>,
}

impl Pace {
    /// It begins.
    #[must_use]
    pub fn begin() -> Self {
        let now = Instant::now();
        Self { began: now, said: now, done: 0, total: None }
    }

    /// So many more rows are done. `total` is asked once for how many there are, and only where it takes long.
    pub fn add(&mut self, rows: usize, total: impl FnOnce() -> Option<u64>) {
        self.done += u64::try_from(rows).unwrap_or_default();
        if self.said.elapsed() < EVERY {
            return;
        }
        self.total = self.total.or_else(total);
        let words = words(self.done, self.total, self.began.elapsed());
        notify::detail(&words);
        if let Ok(screen) = SCREEN.lock()
            && let Some(show) = screen.as_ref()
        {
            show(&words);
        }
        self.said = Instant::now();
    }
}

/// `120000 of 1000000, 9500/s, 92 s left`
fn words(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = u128::from(done) * 1000 / elapsed.as_millis().max(1);
    match total.filter(|total| *total >= done && rate > 0) {
        Some(total) => {
            let left = u128::from(total - done).div_ceil(rate);
            format!("{done} of {total}, {rate}/s, {left} s left")
        }
        None => format!("{done}, {rate}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_rest_are_told() {
        let second = Duration::from_secs(1);
        assert_eq!(words(120_000, Some(1_000_000), 12 * second), "120000 of 1000000, 10000/s, 88 s left");
        assert_eq!(words(500, Some(1001), second), "500 of 1001, 500/s, 2 s left");
        assert_eq!(words(500, None, second), "500, 500/s");
        // Rows may come meanwhile.
        assert_eq!(words(1000, Some(999), 2 * second), "1000, 500/s");
        assert_eq!(words(0, Some(5), second), "0, 0/s");
    }
}
