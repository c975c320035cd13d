//! What the kernel refuses.

use std::fmt::{self, Write as _};
use std::time::Duration;

use netloom_model::{Certainty, Error, Reason};
use nix::sys::resource::{Resource, getrlimit};

use crate::op::Op;

/// How many files this process may have open (`RLIMIT_NOFILE`).
pub(crate) fn file_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(limit, _)| limit)
}

/// A refused or unanswered operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelError {
    /// The operation in words, with its object.
    pub operation: Tried,
    /// The error number; zero where there is none.
    pub errno: i32,
    /// The kernel's own words where it gave any (extended acknowledgement), else the error's name.
    pub message: String,
    /// Whether it may have taken effect all the same.
    pub certainty: Certainty,
    /// Set when the deadline passed: the time that was allowed.
    pub timed_out: Option<Duration>,
    /// Set when it found no place in the queue of its thread: how many wait there at most.
    pub queue_full: Option<usize>,
}

/// What was tried, with its object: written out only for those who look, because removals are refused all day long
/// and nobody does.
#[derive(Clone, Debug)]
pub enum Tried {
    /// An operation.
    Op(Box<Op>),
    /// Something else, in words.
    Words(String),
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op(op) => op.fmt(f),
            Self::Words(words) => f.write_str(words),
        }
    }
}

impl PartialEq for Tried {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Tried {}

impl From<&Op> for Tried {
    fn from(op: &Op) -> Self {
        Self::Op(Box::new(op.clone()))
    }
}

impl From<&str> for Tried {
    fn from(words: &str) -> Self {
        Self::Words(words.to_owned())
    }
}

impl From<String> for Tried {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

impl KernelError {
    /// The kernel refused with an error number.
    pub fn refused(operation: impl Into<Tried>, errno: i32, message: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            errno,
            message: message.into(),
            certainty: Certainty::Aborted,
            timed_out: None,
            queue_full: None,
        }
    }

    /// The queue of the thread that carries it out was full; nothing was done.
    pub fn busy(operation: impl Into<Tried>, bound: usize) -> Self {
        let message = format!("{bound} operations wait already");
        Self { queue_full: Some(bound), ..Self::refused(operation, libc::EBUSY, message) }
    }

    /// The answer was lost; the operation may have taken effect.
    pub fn lost(operation: impl Into<Tried>, message: impl Into<String>) -> Self {
        Self { certainty: Certainty::Uncertain, ..Self::refused(operation, 0, message) }
    }

    /// The deadline passed before the answer came.
    pub fn timed_out(operation: impl Into<Tried>, allowed: Duration) -> Self {
        Self { timed_out: Some(allowed), ..Self::lost(operation, "no answer before the deadline") }
    }

    /// Whether the object is there already.
    #[must_use]
    pub fn already_there(&self) -> bool {
        self.errno == libc::EEXIST
    }

    /// Whether this kernel has no such thing at all.
    #[must_use]
    pub fn unsupported(&self) -> bool {
        self.errno == libc::EOPNOTSUPP
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
        let operation = error.operation.to_string();
        let KernelError { errno, mut message, certainty, timed_out, queue_full, .. } = error;
        if errno == libc::EMFILE {
            let _ =
                write!(message, ": the engine's process may have no more than {} files open", file_limit());
        }
        let reason = match (timed_out, queue_full) {
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
