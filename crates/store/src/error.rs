//! What can go wrong in a store.

use std::path::{Path, PathBuf};

use netloom_model::error::REACH_CLUSTER;
use netloom_model::{Error, Reason};

/// A failure of the store. Cloneable, because one failed commit is the answer to everyone who shared it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {message}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's text.
        message: String,
    },
    /// Another engine has the directory.
    #[error(
        "the store in {} is in use by another engine; stop that one, or give this one its own data directory",
        dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// An engine writes to the database so much that it could not be read beside it.
    #[error(
        "an engine{} is writing to {} without a pause; try again, or stop that engine",
        process.map(|process| format!(" (process {process})")).unwrap_or_default(), path.display()
    )]
    Busy {
        /// The file.
        path: PathBuf,
        /// The engine's process, where it is known.
        process: Option<u32>,
    },
    /// Bytes that are torn, altered or not ours.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a later version of the engine.
    #[error("{what} has format {found}; this engine knows formats up to {known}")]
    Newer {
        /// What was read.
        what: String,
        /// Its format.
        found: u32,
        /// The latest format known here.
        known: u32,
    },
    /// A value that cannot be written.
    #[error("cannot encode {what}: {why}")]
    Unencodable {
        /// What it is.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The database refused; nothing was changed.
    #[error("the database cannot {action}: {message}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Its text.
        message: String,
    },
    /// A store that hosts share does not answer; nothing was changed.
    #[error("the cluster store cannot be reached: {message}")]
    Unreachable {
        /// The client's text.
        message: String,
    },
    /// A store that hosts share takes no value of this size; nothing was changed.
    #[error("the cluster store takes values of at most {limit} bytes, and that of {key:?} has {bytes}")]
    TooLarge {
        /// The key.
        key: String,
        /// How many bytes the value has.
        bytes: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A commit was begun and its end is not known: it may or may not be there after a restart.
    #[error("a commit may or may not be on disk: {message}")]
    CommitUncertain {
        /// The backend's text.
        message: String,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), message: error.to_string() }
    }

    pub(crate) fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), why: why.into() }
    }

    /// What the store was doing, for an error of the engine.
    fn action(&self) -> &'static str {
        match self {
            Self::Io { action, .. } | Self::Database { action, .. } => action,
            Self::Locked { .. } => "lock its directory",
            Self::Busy { .. } => "read beside an engine",
            Self::Damaged { .. } | Self::Newer { .. } => "read what it wrote",
            Self::Unencodable { .. } => "encode a record",
            Self::TooLarge { .. } => "write a value",
            Self::Unreachable { .. } => REACH_CLUSTER,
            Self::CommitUncertain { .. } => "confirm a commit",
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        if let StoreError::Locked { dir } = &error {
            return Reason::InUse {
                what: format!("data_dir {}", dir.display()),
                by: "another engine".into(),
            }
            .into();
        }
        if let StoreError::TooLarge { key, .. } = &error {
            let remedy = "let the cluster's store take larger values (etcd: --max-request-bytes)".into();
            return Reason::ClusterStore { key: key.clone(), why: error.to_string(), remedy }.into();
        }
        let uncertain = matches!(error, StoreError::CommitUncertain { .. });
        let error = Self::from(Reason::Store { action: error.action(), message: error.to_string() });
        if uncertain { error.uncertain() } else { error }
    }
}

#[cfg(test)]
mod tests {
    use netloom_model::Certainty;

    use super::*;

    #[test]
    fn only_a_commit_without_an_answer_is_uncertain() {
        let lost: Error = StoreError::CommitUncertain { message: "EIO".into() }.into();
        assert_eq!(lost.certainty(), Certainty::Uncertain);
        let locked = StoreError::Locked { dir: "/var/lib/x".into() };
        assert!(
            locked.to_string().contains("/var/lib/x") && locked.to_string().contains("own data directory")
        );
        assert_eq!(Error::from(locked).certainty(), Certainty::Aborted);
        let large: Error = StoreError::TooLarge { key: "a/head".into(), bytes: 7, limit: 5 }.into();
        assert!(large.to_string().contains("\"a/head\"") && large.remedy().is_some(), "{large}");
    }
}
