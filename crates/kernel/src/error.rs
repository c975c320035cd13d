//! What the kernel refuses.

use std::fmt;
use std::time::Duration;

use netloom_model::{Certainty, Error, Reason};

/// How the message of a refusal begins when a queue was full; the queue's bound follows.
pub(crate) const QUEUE_FULL: &str = "the queue is full; its bound is ";

/// A refused or unanswered operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelError {
    /// The operation in words, with its object.
    pub operation: String,
    /// The error number; zero where there is none.
    pub errno: i32,
    /// The kernel's own words where it gave any (extended acknowledgement), else the error's name.
    pub message: String,
    /// Whether it may have taken effect all the same.
    pub certainty: Certainty,
    /// Set when the deadline passed: the time that was allowed.
    pub timed_out: Option<Duration>,
}

impl KernelError {
    /// The kernel refused with an error number.
    pub fn refused(operation: impl fmt::Display, errno: i32, message: impl Into<String>) -> Self {
        Self {
            operation: operation.to_string(),
            errno,
            message: message.into(),
            certainty: Certainty::Aborted,
            timed_out: None,
        }
    }

    /// The answer was lost; the operation may have taken effect.
    pub fn lost(operation: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { certainty: Certainty::Uncertain, ..Self::refused(operation, 0, message) }
    }

    /// The deadline passed before the answer came.
    pub fn timed_out(operation: impl fmt::Display, allowed: Duration) -> Self {
        Self { timed_out: Some(allowed), ..Self::lost(operation, "no answer before the deadline") }
    }

    /// The bound of the queue that was full, where that is why nothing was done.
    fn full_queue(&self) -> Option<usize> {
        let refused = self.errno == libc::EBUSY && self.certainty == Certainty::Aborted;
        self.message.strip_prefix(QUEUE_FULL).filter(|_| refused)?.parse().ok()
    }

    /// Whether the object is there already.
    #[must_use]
    pub fn already_there(&self) -> bool {
        self.errno == libc::EEXIST
    }

    /// Whether the object is not there (any more).
    #[must_use]
    pub fn already_gone(&self) -> bool {
        matches!(self.errno, libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.operation, self.message)
    }
}

impl std::error::Error for KernelError {}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        let full_queue = error.full_queue();
        let KernelError { operation, errno, message, certainty, timed_out } = error;
        let reason = match (timed_out, full_queue) {
            (Some(waited), _) => Reason::DeadlineExceeded { what: operation, waited },
            (None, Some(limit)) => Reason::Busy { what: "the kernel's thread".into(), limit },
            (None, None) => Reason::Kernel { operation, errno, message },
        };
        match certainty {
            Certainty::Aborted => Self::from(reason),
            Certainty::Uncertain => Self::from(reason).uncertain(),
        }
    }
}
