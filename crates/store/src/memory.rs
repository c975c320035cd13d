//! A store in memory, for simulated engines: it survives the death of its owner, and fails on request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netloom_model::OpId;
use rustc_hash::FxHashMap;

use crate::error::StoreError;
use crate::journal::Intent;
use crate::record::{Change, Key};
use crate::store::Store;

/// What a [`MemoryStore`] writes to. Clones share it, and it outlives every store on it, as a disk outlives
/// a process.
///
/// Opening a store takes the disk away from the store before: a late write of a crashed engine is refused
/// with `Locked`, as the kernel would have ended it with its process.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    records: FxHashMap<Key, Vec<u8>>,
    /// Open intents by operation, numbered in the order in which they were begun.
    intents: FxHashMap<OpId, Vec<(u64, Intent)>>,
    begun: u64,
    /// The number of the store that has the disk.
    owner: u64,
    commits: u64,
    fail_commit: Countdown,
    /// How many more fail behind that one.
    fail_further: u32,
    lose_answer: Countdown,
    fail_begin: Countdown,
    fail_end: Countdown,
}

impl State {
    fn intents(&self) -> Vec<Intent> {
        let mut intents: Vec<_> = self.intents.values().flatten().collect();
        intents.sort_unstable_by_key(|(number, _)| *number);
        intents.into_iter().map(|(_, intent)| intent.clone()).collect()
    }
}

/// A fault that strikes once: at the n-th call from when it was set.
#[derive(Debug, Default)]
struct Countdown(u32);

impl Countdown {
    fn strikes(&mut self) -> bool {
        let last = self.0 == 1;
        self.0 = self.0.saturating_sub(1);
        last
    }
}

impl MemoryDisk {
    /// Opens a store. The one before loses the disk.
    #[must_use]
    pub fn open(&self) -> MemoryStore {
        let mut state = self.state();
        state.owner += 1;
        MemoryStore { disk: self.clone(), number: state.owner, syncs: 0 }
    }

    /// Lets the `nth` commit from now fail with nothing written; 1 is the next one, 0 takes the fault back.
    pub fn fail_commit(&self, nth: u32) {
        self.fail_commits(nth, 1);
    }

    /// Lets so many commits fail in a row with nothing written, from the `nth` from now on.
    pub fn fail_commits(&self, nth: u32, times: u32) {
        let mut state = self.state();
        (state.fail_commit, state.fail_further) = (Countdown(nth), times.saturating_sub(1));
    }

    /// Lets the `nth` commit from now be written and answered with `CommitUncertain`.
    pub fn lose_answer(&self, nth: u32) {
        self.state().lose_answer = Countdown(nth);
    }

    /// Lets the `nth` begin from now fail with nothing noted.
    pub fn fail_begin(&self, nth: u32) {
        self.state().fail_begin = Countdown(nth);
    }

    /// Lets the `nth` end from now fail with the intents left open.
    pub fn fail_end(&self, nth: u32) {
        self.state().fail_end = Countdown(nth);
    }

    /// Takes back every fault that has not struck.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.fail_further = 0;
        let State { fail_commit, lose_answer, fail_begin, fail_end, .. } = &mut *state;
        for fault in [fail_commit, lose_answer, fail_begin, fail_end] {
            *fault = Countdown::default();
        }
    }

    /// Whether no fault is to strike any more.
    #[must_use]
    pub fn is_faultless(&self) -> bool {
        let state = self.state();
        let State { fail_commit, lose_answer, fail_begin, fail_end, .. } = &*state;
        [fail_commit, lose_answer, fail_begin, fail_end].iter().all(|fault| fault.0 == 0)
    }

    /// Every record, in the order of the keys.
    #[must_use]
    pub fn records(&self) -> Vec<(Key, Vec<u8>)> {
        let state = self.state();
        let mut records: Vec<_> =
            state.records.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        records.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        records
    }

    /// Every open intent.
    #[must_use]
    pub fn intents(&self) -> Vec<Intent> {
        self.state().intents()
    }

    /// How many commits were written, over all stores.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.state().commits
    }

    /// The state is whole at all times, so a panic elsewhere leaves nothing to fear.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
    number: u64,
    syncs: u64,
}

impl MemoryStore {
    fn owned(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.disk.state();
        if state.owner == self.number { Ok(state) } else { Err(StoreError::Locked { dir: "memory".into() }) }
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Vec<(Key, Vec<u8>)>, StoreError> {
        drop(self.owned()?);
        Ok(self.disk.records())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut state = self.owned()?;
        if state.fail_commit.strikes() {
            if state.fail_further > 0 {
                state.fail_further -= 1;
                state.fail_commit = Countdown(1);
            }
            return Err(StoreError::Database { action: "commit", message: "injected fault".into() });
        }
        for change in changes {
            match change {
                Change::Put { key, value } => match state.records.get_mut(key) {
                    Some(record) => record.clone_from(value),
                    None => drop(state.records.insert(key.clone(), value.clone())),
                },
                Change::Delete { key } => drop(state.records.remove(key)),
            }
        }
        state.commits += 1;
        let lost = state.lose_answer.strikes();
        drop(state);
        self.syncs += 1;
        if lost { Err(StoreError::CommitUncertain { message: "injected fault".into() }) } else { Ok(()) }
    }

    fn begin(&mut self, intents: &[Intent]) -> Result<(), StoreError> {
        let mut state = self.owned()?;
        if state.fail_begin.strikes() {
            return Err(StoreError::Database { action: "begin", message: "injected fault".into() });
        }
        for intent in intents {
            state.begun += 1;
            let number = state.begun;
            state.intents.entry(intent.op).or_default().push((number, intent.clone()));
        }
        Ok(())
    }

    fn end(&mut self, ops: &[OpId]) -> Result<(), StoreError> {
        let mut state = self.owned()?;
        if state.fail_end.strikes() {
            return Err(StoreError::Database { action: "end", message: "injected fault".into() });
        }
        for op in ops {
            state.intents.remove(op);
        }
        Ok(())
    }

    fn open_intents(&mut self) -> Result<Vec<Intent>, StoreError> {
        Ok(self.owned()?.intents())
    }

    fn syncs(&self) -> u64 {
        self.syncs
    }
}
