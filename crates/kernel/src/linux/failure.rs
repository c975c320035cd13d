//! Why a request failed, before it is told to the caller in the caller's words.

use std::io;
use std::time::Duration;

use netloom_model::Certainty;
use nix::errno::Errno;

use crate::{KernelError, Tried};

/// A failed request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The kernel refused; nothing changed.
    Refused { errno: i32, text: String },
    /// The answer was lost.
    Lost(String),
    /// The deadline passed after the request had been sent.
    TimedOut,
    /// The deadline passed before the request was sent; nothing changed.
    NotStarted,
    /// Too many calls wait for the thread already; nothing changed.
    QueueFull,
}

impl Failure {
    /// Refused with the kernel's own text, or else with the error number's name.
    pub(super) fn refused(errno: i32, text: Option<String>) -> Self {
        let text = text.unwrap_or_else(|| Errno::from_raw(errno).desc().to_owned());
        Self::Refused { errno, text }
    }

    /// Whether the kernel has answered.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Refused without a word from the kernel.
    pub(super) fn errno(errno: Errno) -> Self {
        Self::refused(errno as i32, None)
    }

    /// Refused, with what was being done.
    pub(super) fn io(error: &io::Error, doing: &str) -> Self {
        Self::Refused { errno: error.raw_os_error().unwrap_or(0), text: format!("{doing}: {error}") }
    }

    /// The error for the caller; `allowed` is the time that the call had.
    pub(super) fn of(self, operation: impl Into<Tried>, allowed: Duration) -> KernelError {
        match self {
            Self::Refused { errno, text } => KernelError::refused(operation, errno, text),
            Self::Lost(text) => KernelError::lost(operation, text),
            Self::TimedOut => KernelError::timed_out(operation, allowed),
            Self::NotStarted => KernelError {
                certainty: Certainty::Aborted,
                message: "the deadline passed before it was started".into(),
                ..KernelError::timed_out(operation, allowed)
            },
            Self::QueueFull => KernelError::busy(operation, super::QUEUE),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::errno(errno)
    }
}

#[cfg(test)]
mod tests {
    use netloom_model::ErrorKind;

    use super::*;

    #[test]
    fn a_full_queue_is_busy_and_a_busy_device_is_not() {
        let kind = |failure: Failure| {
            netloom_model::Error::from(failure.of("make it", Duration::from_secs(1))).kind()
        };
        assert_eq!(kind(Failure::QueueFull), ErrorKind::Busy);
        assert_eq!(kind(Failure::errno(Errno::EBUSY)), ErrorKind::Internal);
        // Whatever its words are.
        let words = "the queue is full; its bound is 16384";
        assert_eq!(kind(Failure::refused(libc::EBUSY, Some(words.into()))), ErrorKind::Internal);
    }
}
