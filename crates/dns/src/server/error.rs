//! Why names cannot be served.

use std::io;

use netloom_model::SandboxId;

/// Why names cannot be served.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The sandbox has a name server already.
    #[error("sandbox {sandbox} is served names already")]
    Served {
        /// Which.
        sandbox: SandboxId,
    },
    /// An option is out of its range.
    #[error("names cannot be served with {option} = {value}: {why}")]
    Option {
        /// Its name.
        option: &'static str,
        /// The refused value.
        value: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("names cannot be served in sandbox {sandbox}: cannot {action}: {message}")]
    Kernel {
        /// In which.
        sandbox: SandboxId,
        /// What was tried.
        action: &'static str,
        /// The error number; zero where there is none.
        errno: i32,
        /// The kernel's words.
        message: String,
    },
}

impl DnsError {
    pub(super) fn kernel(sandbox: SandboxId, action: &'static str, error: &io::Error) -> Self {
        Self::Kernel { sandbox, action, errno: error.raw_os_error().unwrap_or(0), message: error.to_string() }
    }

    /// What the caller can do about it, where there is something to do.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Served { .. } => Some("end its name server before another one is started"),
            Self::Option { .. } => Some("leave the option out, or give a value in its range"),
            Self::Kernel { .. } => None,
        }
    }
}
