//! What the store can be asked.

use netloom_model::{OpId, Result};
use netloom_runtime::messages;
use netloom_store::{Change, Intent, Key};

/// Make these changes durable, all or none. Commits asked for at the same time share one `fdatasync`.
#[derive(Clone, Debug)]
pub struct Commit(pub Vec<Change>);

/// Note that an operation begins whose effects carry no mark of ours. Survives a crash of the process.
#[derive(Clone, Debug)]
pub struct BeginIntent(pub Intent);

/// Note that it ended, whichever way.
#[derive(Clone, Copy, Debug)]
pub struct EndIntent(pub OpId);

/// Records as the store keeps them: a key and bytes each.
pub type Rows = Vec<(Key, Vec<u8>)>;

/// Every record, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct LoadRecords;

/// Close the store: another engine may open it when this is answered. Everything asked for later is
/// refused.
#[derive(Clone, Copy, Debug)]
pub struct CloseStore;

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreStats {
    /// Calls of `fdatasync`.
    pub syncs: u64,
    /// Commits asked for.
    pub commits: u64,
}

/// Ask for the counters.
#[derive(Clone, Copy, Debug)]
pub struct StoreStatsQuery;

messages! {
    Commit => Result<()>;
    BeginIntent => Result<()>;
    EndIntent => Result<()>;
    LoadRecords => Result<Rows>;
    CloseStore => Result<()>;
    StoreStatsQuery => StoreStats;
}
