//! Records that survive a crash: the store trait, its embedded backend and the journal of intents.
//!
//! A [`Store`] keeps one record per object and a journal of what is being done. An operation costs it at
//! most two writes: [`Store::begin`] before the first effect, which survives the death of the process, and
//! [`Store::commit`] after the last one, which survives a power cut. That is enough, because a power cut
//! takes all kernel state with it and leaves nothing that an intent could still name.
//!
//! Everything here blocks and nothing here starts a thread: a store belongs to one thread of the caller,
//! which drains its queue and commits once for all that wait.

pub mod cluster;
mod error;
pub mod io;
mod journal;
mod memory;
mod record;
mod store;

pub use cluster::ClusterStore;
pub use error::StoreError;
pub use io::peek::{Held, Peeked, peek};
pub use io::redb::RedbStore;
pub use journal::Intent;
pub use memory::{MemoryDisk, MemoryStore};
pub use record::{Change, Key, RecordKind, decode, encode};
pub use store::{Finding, Store};
