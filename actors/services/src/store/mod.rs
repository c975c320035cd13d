//! The store service: records, group commit, the journal of intents.

mod actor;
mod message;

pub use actor::{Backend, StoreActor};
pub use message::{
    BeginIntent, CloseStore, Commit, EndIntent, LoadRecords, Rows, StoreStats, StoreStatsQuery,
};
