//! Where the `log` facade writes: the log of the open run, and with `--verbose` standard error.

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{LevelFilter, Log, Metadata, Record};

use crate::time;

struct Logger {
    verbose: AtomicBool,
    file: Mutex<Option<File>>,
}

static LOGGER: Logger = Logger { verbose: AtomicBool::new(false), file: Mutex::new(None) };

/// Sets up logging; called once, by `main`.
pub fn start(verbose: bool) {
    LOGGER.verbose.store(verbose, Ordering::Relaxed);
    // A second call finds a logger set, which is this one.
    log::set_logger(&LOGGER).ok();
    log::set_max_level(LevelFilter::Info);
}

/// From now on everything is written to `file` too: the log of the run.
pub fn keep_in(file: File) {
    if let Ok(mut kept) = LOGGER.file.lock() {
        *kept = Some(file);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries log at their own discretion, and might log a value; ours never do.
        metadata.target().starts_with("keymgr_upgrade")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = format!("{} {} {}", time::stamp(time::now()), record.level().as_str().to_lowercase(), record.args());
        // A log that cannot be written must not stop the run: the journal is what counts.
        if let Ok(mut file) = self.file.lock()
            && let Some(file) = file.as_mut()
        {
            writeln!(file, "{line}").ok();
        }
        if self.verbose.load(Ordering::Relaxed) {
            writeln!(std::io::stderr(), "{line}").ok();
        }
    }

    fn flush(&self) {}
}
