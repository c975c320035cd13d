//! The actor vocabulary of the engine, and the only crate that knows actix.
//!
//! Four problems are solved here once, so that no actor solves them again:
//! - a request that never hangs: [`Addr::ask`] ends with the answer, with [`AskError::Gone`] when whoever
//!   had to answer died, or with [`AskError::Timeout`] at the operation's deadline;
//! - slow work that never blocks a mailbox: a handler starts it with [`Cx::run`] and its end comes back as
//!   a message, even when the work panicked;
//! - work that is undone completely or visibly: [`saga`] keeps undo steps as data and hands what cannot be
//!   undone to the [`Janitor`];
//! - an actor that dies alone: [`spawn`] reports every exit, and [`RestartBudget`] says when to give up.
//!
//! Nothing here knows what a network is.

mod actor;
mod addr;
mod cell;
mod deadline;
mod event;
mod exit;
mod gate;
mod janitor;
mod ledger;
mod legacy;
mod op;
mod permit;
mod port;
mod read_model;
pub mod saga;
mod tasks;
mod thread;
mod until;
mod wake;

pub use actor::{Actor, Crash, Handle, Message, Reply};
pub use addr::{Addr, AskError};
pub use cell::{Cx, spawn};
pub use event::{EventSink, Fact};
pub use exit::{Exit, RestartBudget};
pub use gate::{Admission, Gate, Scope};
pub use janitor::Janitor;
pub use ledger::{Ledger, LedgerEntry, OperationView};
pub use legacy::{Legacy, Lent};
pub use op::{CancelToken, Canceller, Cause, OpCtx, Operation, Stop};
pub use permit::{Permit, Permits, TurnedAway};
pub use port::Port;
pub use read_model::{ReadModel, ReadModelWriter};
pub use saga::{Saga, SagaTools, Undo, Unwound};
pub use tasks::{Panicked, TaskGroup};
pub use thread::{EngineThread, ThreadGone};
