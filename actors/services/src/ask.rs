//! From an ask's outcome to the engine's one error type.

use std::fmt;

use netloom_model::{Certainty, Error, Reason, Result};
use netloom_runtime::{AskError, OpCtx, Panicked, Stop, Unwound};

/// What an ask of somebody who answers with a [`Result`] comes to.
pub type Outcome<T> = Result<Result<T>, AskError>;

/// Flattens the outcome of an ask; `who` names the receiver in the error.
///
/// # Errors
/// The receiver's own error, `Unavailable` when it is gone, `Timeout` when it did not answer. The latter two
/// are uncertain.
pub fn answered<T>(op: &OpCtx, who: impl fmt::Display, outcome: Outcome<T>) -> Result<T> {
    match outcome {
        Ok(answer) => answer,
        Err(AskError::Gone) => Err(Reason::Gone { who: who.to_string() }.into()),
        Err(AskError::Timeout) => {
            let waited = op.allowed;
            Err(Reason::DeadlineExceeded { what: who.to_string(), waited }.into())
        }
    }
}

/// An actor's task panicked.
#[must_use]
pub fn panicked(panicked: &Panicked) -> Error {
    Error::internal(panicked.to_string()).uncertain()
}

/// An operation was cancelled, or ran out of time, before this step.
#[must_use]
pub fn interrupted(op: &OpCtx, step: &'static str) -> Error {
    match op.cancel.why() {
        Some(Stop::Shutdown) => Reason::ShuttingDown.into(),
        Some(Stop::Overtaken) => Reason::Overtaken { step }.into(),
        None => {
            let late = Reason::DeadlineExceeded { what: format!("step {step:?}"), waited: op.allowed };
            Error::from(late).unwound()
        }
    }
}

/// What became of a saga.
pub trait Trouble {
    /// One error that says what failed first, and what is left behind if anything is.
    fn into_error(self) -> Error;
}

impl Trouble for Unwound<Error> {
    fn into_error(self) -> Error {
        let Self { cause, leaks } = self;
        if leaks.is_empty() {
            // Everything is undone, so also an unsure step is surely without effect now.
            return match cause.certainty() {
                Certainty::Uncertain => cause.unwound(),
                Certainty::Aborted => cause,
            };
        }
        Reason::Leaked { cause, leaks }.into()
    }
}
