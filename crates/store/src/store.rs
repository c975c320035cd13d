//! The store as its owner sees it.

use std::path::PathBuf;

use netloom_model::OpId;

use crate::error::StoreError;
use crate::journal::Intent;
use crate::record::{Change, Key};

/// Records and intents that survive a crash.
///
/// Every method blocks. One thread owns a store.
pub trait Store: Send {
    /// Every record, in the order of the keys. Values are read with [`crate::decode`]: one that is damaged
    /// costs one record, not all of them.
    ///
    /// # Errors
    /// Whatever keeps the store from being read as a whole.
    fn load(&mut self) -> Result<Vec<(Key, Vec<u8>)>, StoreError>;

    /// Makes all changes, in order, in one transaction, and returns when they would survive a power cut.
    ///
    /// # Errors
    /// `CommitUncertain` if the changes may be there all the same; after any other error nothing was changed.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Notes what is about to be done. Survives the death of the process, not a power cut.
    ///
    /// # Errors
    /// Nothing was noted.
    fn begin(&mut self, intents: &[Intent]) -> Result<(), StoreError>;

    /// Notes that operations ended, well or unwound. Operations without an open intent are ignored.
    ///
    /// # Errors
    /// Their intents may come up again after a crash.
    fn end(&mut self, ops: &[OpId]) -> Result<(), StoreError>;

    /// Intents that were begun and not ended, in the order in which they were begun.
    ///
    /// # Errors
    /// Whatever keeps the journal from being read.
    fn open_intents(&mut self) -> Result<Vec<Intent>, StoreError>;

    /// How many times data was forced to the disk since the store was opened.
    fn syncs(&self) -> u64;
}

/// Something found and mended when a store was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Where the file was set aside.
    pub path: PathBuf,
    /// What was wrong with it.
    pub why: String,
}
