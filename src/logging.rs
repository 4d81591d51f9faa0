//! Where the `log` facade writes: the log of the open run, with `--verbose` standard error, and in the service the journal of the host.
//!
//! In that journal every record has the fields `KEYMGR_UPGRADE_RUN=` and `KEYMGR_UPGRADE_STEP=` (from 1), as far as there are, and an [`Event`] its
//! `MESSAGE_ID=`, which the catalog (`journalctl --catalog`) explains.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::time;

/// Where systemd's journal takes records, see systemd.journal-fields(7).
const JOURNAL: &str = "/run/systemd/journal/socket";

struct Logger {
    verbose: AtomicBool,
    file: Mutex<Option<File>>,
    journal: Mutex<Option<UnixDatagram>>,
    run: Mutex<String>,
    /// From 1; 0 is none.
    step: AtomicUsize,
}

static LOGGER: Logger = Logger {
    verbose: AtomicBool::new(false),
    file: Mutex::new(None),
    journal: Mutex::new(None),
    run: Mutex::new(String::new()),
    step: AtomicUsize::new(0),
};

/// What an operator may want to be told of, each under an id of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A run begins.
    Begun,
    /// A step is done.
    StepDone,
    /// A step, or the undoing of one, failed.
    StepFailed,
    /// The run waits for the code.
    Waiting,
    /// The run was asked to stop, and did, between two steps.
    Interrupted,
    /// The run is done.
    Done,
    /// The run is undone.
    RolledBack,
    /// Nothing got on any more, and the service ends.
    Hung,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Begun,
        Self::StepDone,
        Self::StepFailed,
        Self::Waiting,
        Self::Interrupted,
        Self::Done,
        Self::RolledBack,
        Self::Hung,
    ];

    /// Its `MESSAGE_ID=`. It never changes: others filter by it.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Begun => "d1d3ca9a786e48f59b11214385c6cd68",
            Self::StepDone => "7a84fc0bdb0f48e2924d0b0c24c70643",
            Self::StepFailed => "45aabc396f6d4449b910a377401deb99",
            Self::Waiting => "606a136244114aa6860ee1fa97424361",
            Self::Interrupted => "ef9694eb23a74311b8883c498a22f078",
            Self::Done => "5e3136b307bf4060a86186b34d81995d",
            Self::RolledBack => "97190cb384d0492a859f35481c3c5e6f",
            Self::Hung => "27d3ef1885aa4b02ab4c3af6a4456194",
        }
    }

    fn level(self) -> Level {
        match self {
            Self::StepFailed | Self::Hung => Level::Error,
            Self::Waiting | Self::Interrupted => Level::Warn,
            Self::Begun | Self::StepDone | Self::Done | Self::RolledBack => Level::Info,
        }
    }
}

/// Sets up logging; called once, by `main`.
pub fn start(verbose: bool) {
    LOGGER.verbose.store(verbose, Ordering::Relaxed);
    // A second call finds a logger set, which is this one.
    log::set_logger(&LOGGER).ok();
    log::set_max_level(LevelFilter::Info);
}

/// From now on everything is written to the host's journal too. Where none listens, what is printed has to do.
pub fn to_journal() {
    let connected = UnixDatagram::unbound().and_then(|socket| {
        socket.connect(JOURNAL)?;
        Ok(socket)
    });
    if let (Ok(socket), Ok(mut journal)) = (connected, LOGGER.journal.lock()) {
        *journal = Some(socket);
    }
}

/// From now on everything is about the run `id`, and is written to `file` too: its log.
pub fn about(id: &str, file: File) {
    if let Ok(mut run) = LOGGER.run.lock() {
        id.clone_into(&mut run);
    }
    if let Ok(mut kept) = LOGGER.file.lock() {
        *kept = Some(file);
    }
}

/// From now on everything is about the step `index` of the run, from 0.
pub fn at_step(index: usize) {
    LOGGER.step.store(index + 1, Ordering::Relaxed);
}

/// Logs what an operator may want to be told of. No secret may be in `text`.
pub fn event(event: Event, text: &str) {
    LOGGER.write(event.level(), text, Some(event));
}

impl Logger {
    fn write(&self, level: Level, text: &str, event: Option<Event>) {
        let line = format!("{} {} {text}", time::stamp(time::now()), level.as_str().to_lowercase());
        // No line of a name or value passes for one of ours.
        let line = line.lines().map(crate::ui::clean).collect::<Vec<_>>().join("\n    ");
        // A log that cannot be written must not stop the run: the journal of the run is what counts.
        if let Ok(mut file) = self.file.lock()
            && let Some(file) = file.as_mut()
        {
            writeln!(file, "{line}").ok();
        }
        if self.verbose.load(Ordering::Relaxed) {
            crate::ui::err(&line);
        }
        if let Ok(journal) = self.journal.lock()
            && let Some(journal) = journal.as_ref()
        {
            let run = self.run.lock().map(|run| run.clone()).unwrap_or_default();
            journal.send(&record(level, text, event, &run, self.step.load(Ordering::Relaxed))).ok();
        }
    }
}

/// A record as the journal's socket takes it.
fn record(level: Level, text: &str, event: Option<Event>, run: &str, step: usize) -> Vec<u8> {
    let mut record = Vec::new();
    let mut field = |name: &str, value: &str| {
        record.extend(name.as_bytes());
        if value.contains('\n') {
            record.push(b'\n');
            record.extend(u64::try_from(value.len()).unwrap_or(0).to_le_bytes());
        } else {
            record.push(b'=');
        }
        record.extend(value.as_bytes());
        record.push(b'\n');
    };
    field("MESSAGE", text);
    let priority = match level {
        Level::Error => "3",
        Level::Warn => "4",
        Level::Info | Level::Debug | Level::Trace => "6",
    };
    field("PRIORITY", priority);
    field("SYSLOG_IDENTIFIER", "keymgr-upgrade");
    if let Some(event) = event {
        field("MESSAGE_ID", event.id());
    }
    if !run.is_empty() {
        field("KEYMGR_UPGRADE_RUN", run);
    }
    if step > 0 {
        field("KEYMGR_UPGRADE_STEP", &step.to_string());
    }
    record
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries log at their own discretion, and might log a value; ours never do.
        metadata.target().starts_with("keymgr_upgrade")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record.level(), &record.args().to_string(), None);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_fields_and_a_line_end_does_not_make_one() {
        let text = String::from_utf8(record(Level::Error, "why", Some(Event::StepFailed), "r1", 3)).unwrap();
        let id = Event::StepFailed.id();
        assert_eq!(
            text,
            format!(
                "MESSAGE=why\nPRIORITY=3\nSYSLOG_IDENTIFIER=keymgr-upgrade\nMESSAGE_ID={id}\nKEYMGR_UPGRADE_RUN=r1\nKEYMGR_UPGRADE_STEP=3\n"
            )
        );
        let bytes = record(Level::Info, "a\nPRIORITY=0", None, "", 0);
        assert!(bytes.starts_with(b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nPRIORITY=6\n"));
    }

    #[test]
    fn the_catalog_explains_every_event_and_no_other() {
        let catalog = include_str!("../systemd/keymgr-upgrade.catalog");
        let explained: Vec<&str> = catalog.lines().filter_map(|l| l.strip_prefix("-- ")).collect();
        assert_eq!(explained, Event::ALL.map(Event::id));
        let long = catalog.lines().find(|l| l.chars().count() > 78 || !l.is_ascii());
        assert_eq!(long, None, "journalctl shows it with two blanks in front, on 80 columns");
    }
}
