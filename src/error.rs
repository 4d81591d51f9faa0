//! What the program returns: exit codes, and failures with the hints chosen where the error is understood.

use std::process::{ExitCode, Termination};

/// The exit codes, one table for all verbs but `check`.
///
/// `check` speaks the language of `barbican-status upgrade check` instead: 0 ready, 1 warnings, 2 not ready, 255 could not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed; the host is as it was before.
    Failed = 1,
    /// `check` only: findings that stop an upgrade.
    NotReady = 2,
    /// Blocked by findings; nothing was changed.
    Blocked = 3,
    /// Interrupted or waiting; `resume` or `rollback` is needed.
    Interrupted = 4,
    /// The rollback failed; manual work is needed.
    RollbackFailed = 5,
    /// The command line was wrong.
    Usage = 64,
    /// Another run holds the lock.
    Locked = 75,
    /// `check` only: could not look.
    CouldNotLook = 255,
}

impl Exit {
    /// Each code with its meaning, for the help text, the manual and the test that holds them together.
    pub const TABLE: [(Self, &'static str); 9] = [
        (Self::Done, "done, or nothing to do"),
        (Self::Failed, "failed; the host is as it was before"),
        (Self::NotReady, "check only: not ready"),
        (Self::Blocked, "blocked by findings; nothing was changed"),
        (Self::Interrupted, "interrupted or waiting: resume or rollback"),
        (Self::RollbackFailed, "rollback failed: manual work"),
        (Self::Usage, "wrong usage"),
        (Self::Locked, "another run holds the lock"),
        (Self::CouldNotLook, "check only: could not look"),
    ];
}

impl Exit {
    /// The one with this code.
    #[must_use]
    pub fn of(code: i32) -> Option<Self> {
        Self::TABLE.iter().map(|(exit, _)| *exit).find(|exit| i32::from(*exit as u8) == code)
    }

    /// The code in a word, as the state of a command that says no other.
    #[must_use]
    pub fn state(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed | Self::CouldNotLook => "failed",
            Self::NotReady => "not ready",
            Self::Blocked => "refused",
            Self::Interrupted => "interrupted",
            Self::RollbackFailed => "rollback-failed",
            Self::Usage => "usage",
            Self::Locked => "locked",
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// A failed command: the code, the chain of errors, and what the operator can do.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The chain, outermost first.
    pub error: anyhow::Error,
    /// One line each; the last word to the operator.
    pub hints: Vec<String>,
    /// The command to give next, without the program's name.
    pub next: String,
}

impl Failure {
    /// A failure with its code; `check` is what to run next unless [`Failure::next`] says otherwise.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hints: Vec::new(), next: "check".to_owned() }
    }

    /// Wrong usage, in words.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, anyhow::anyhow!(text.into()))
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says which verb to run next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        next.into().clone_into(&mut self.next);
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones_and_unique() {
        let codes: Vec<u8> = Exit::TABLE.iter().map(|(e, _)| *e as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 64, 75, 255]);
        assert_eq!([0, 4, 6, -1].map(Exit::of), [Some(Exit::Done), Some(Exit::Interrupted), None, None]);
    }
}
