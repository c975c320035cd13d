//! A store that the hosts of a cluster share: keys, values, and changes by whoever has seen the last one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};

pub use crate::error::StoreError;

/// A version of a value. No two values of a key have the same one, not even after it was removed and made again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Revision(pub u64);

/// A value and its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned {
    /// The bytes.
    pub value: Vec<u8>,
    /// Their version.
    pub revision: Revision,
}

/// What came of a change that was bound to a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swapped {
    /// It was made; the value has this version now.
    Done(Revision),
    /// Somebody else has changed the key since; nothing was done.
    Changed,
}

/// What is answered later.
pub type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// A store with compare-and-swap, such as etcd (libnetwork's `datastore` over libkv: `AtomicPut`, `AtomicDelete`).
///
/// A future that is dropped may have done its work or not. An error of a change with [`StoreError::CommitUncertain`]
/// says the same; after any other error nothing was changed. Answers come within a time of the implementation's own.
///
/// No value that the engine writes is larger than 1 MiB; etcd takes 1.5 MiB unless it is told otherwise.
pub trait ClusterStore: Send + Sync + fmt::Debug + 'static {
    /// A value; `None` when there is none.
    fn get(&self, key: &str) -> Answer<Option<Versioned>>;

    /// The keys that begin like this, in order.
    fn keys(&self, prefix: &str) -> Answer<Vec<String>>;

    /// Writes a value if the key has this version; if there is none, where none is given.
    fn swap(&self, key: &str, value: Vec<u8>, expected: Option<Revision>) -> Answer<Swapped>;

    /// Removes a key, whatever it has. Succeeds when it is not there.
    fn remove(&self, key: &str) -> Answer<()>;
}

/// How large a value of a [`MemoryCluster`] may be: as large as a request to etcd by default (`--max-request-bytes`).
pub const MAX_VALUE: usize = 1536 * 1024;

/// A cluster store in memory, for engines of one process: for tests, and for harnesses of several hosts. Clones are the
/// same store. Values larger than [`MAX_VALUE`] are refused.
#[derive(Clone, Debug, Default)]
pub struct MemoryCluster(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    values: BTreeMap<String, Versioned>,
    last: u64,
    calls: u64,
    /// The bytes of all values that were written.
    written: u64,
    /// The number of the call that fails, and how.
    fault: Option<(u64, ClusterFault)>,
    unreachable: bool,
    late: Vec<Late>,
}

/// A call that is on its way.
struct Late(Box<dyn FnOnce(&mut Shared) + Send>);

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Late")
    }
}

/// How a call of a [`MemoryCluster`] fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterFault {
    /// It does nothing.
    Refused,
    /// A change is made, and its answer is lost.
    AnswerLost,
    /// The same, and from then on nothing is answered, as after [`MemoryCluster::unreachable`].
    LostAndAway,
    /// Its answer is lost, and the change is on its way until [`MemoryCluster::land`].
    Late,
    /// The same, and from then on nothing is answered.
    LateAndAway,
}

impl MemoryCluster {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the `nth` call from now fail, the next one being the first.
    pub fn fail(&self, nth: u64, fault: ClusterFault) {
        let mut shared = self.lock();
        shared.fault = Some((shared.calls + nth, fault));
    }

    /// Lets every call fail, or none any more.
    pub fn unreachable(&self, unreachable: bool) {
        self.lock().unreachable = unreachable;
    }

    /// Lets what is on its way arrive, and says how much that was. It finds the store as it is now.
    pub fn land(&self) -> usize {
        let late = std::mem::take(&mut self.lock().late);
        late.into_iter().map(|Late(call)| call(&mut self.lock())).count()
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// How many bytes the values had that were written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// Counts a call and says how it fails, if it does.
    fn call<T: Send + 'static>(&self, f: impl FnOnce(&mut Shared) -> T + Send + 'static) -> Answer<T> {
        let mut shared = self.lock();
        shared.calls += 1;
        let struck = shared.fault.filter(|(call, _)| *call == shared.calls).map(|(_, fault)| fault);
        let refused = StoreError::Unreachable { message: "it does not answer".into() };
        let answer = match struck {
            _ if shared.unreachable => Err(refused),
            Some(ClusterFault::Refused) => Err(refused),
            Some(fault) => {
                shared.unreachable = matches!(fault, ClusterFault::LostAndAway | ClusterFault::LateAndAway);
                if matches!(fault, ClusterFault::Late | ClusterFault::LateAndAway) {
                    shared.late.push(Late(Box::new(|shared| drop(f(shared)))));
                } else {
                    f(&mut shared);
                }
                Err(StoreError::CommitUncertain { message: "the answer was lost".into() })
            }
            None => Ok(f(&mut shared)),
        };
        ready(answer).boxed()
    }
}

impl ClusterStore for MemoryCluster {
    fn get(&self, key: &str) -> Answer<Option<Versioned>> {
        let key = key.to_owned();
        self.call(move |shared| shared.values.get(&key).cloned())
    }

    fn keys(&self, prefix: &str) -> Answer<Vec<String>> {
        let prefix = prefix.to_owned();
        self.call(move |shared| {
            shared.values.keys().filter(|key| key.starts_with(&prefix)).cloned().collect()
        })
    }

    fn swap(&self, key: &str, value: Vec<u8>, expected: Option<Revision>) -> Answer<Swapped> {
        if value.len() > MAX_VALUE {
            let (key, bytes) = (key.to_owned(), value.len());
            return ready(Err(StoreError::TooLarge { key, bytes, limit: MAX_VALUE })).boxed();
        }
        let key = key.to_owned();
        self.call(move |shared| {
            if shared.values.get(&key).map(|known| known.revision) != expected {
                return Swapped::Changed;
            }
            shared.last += 1;
            shared.written += value.len() as u64;
            let revision = Revision(shared.last);
            shared.values.insert(key, Versioned { value, revision });
            Swapped::Done(revision)
        })
    }

    fn remove(&self, key: &str) -> Answer<()> {
        let key = key.to_owned();
        self.call(move |shared| {
            shared.values.remove(&key);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<T>(answer: Answer<T>) -> Result<T, StoreError> {
        answer.now_or_never().expect("in memory")
    }

    #[test]
    fn only_who_has_seen_the_last_value_changes_it() {
        let store = MemoryCluster::default();
        let Ok(Swapped::Done(first)) = now(store.swap("a", vec![1], None)) else { panic!("there was none") };
        assert_eq!(now(store.swap("a", vec![2], None)), Ok(Swapped::Changed));
        let Ok(Swapped::Done(second)) = now(store.swap("a", vec![2], Some(first))) else {
            panic!("it was the last")
        };
        assert!(second > first);
        assert_eq!(now(store.swap("a", vec![3], Some(first))), Ok(Swapped::Changed));
        assert_eq!(now(store.get("a")), Ok(Some(Versioned { value: vec![2], revision: second })));
        now(store.remove("a")).expect("removed");
        now(store.remove("a")).expect("not there");
        let Ok(Swapped::Done(third)) = now(store.swap("a", vec![4], None)) else { panic!("there is none") };
        assert!(third > second, "a version does not come back");
        now(store.swap("ab", vec![], None)).expect("written");
        now(store.swap("b", vec![], None)).expect("written");
        assert_eq!(store.written(), 3, "what was too late was not written");
        now(store.swap("c", vec![0; MAX_VALUE], None)).expect("as large as can be");
        let error = now(store.swap("c", vec![0; MAX_VALUE + 1], None)).expect_err("too large");
        assert_eq!(error, StoreError::TooLarge { key: "c".into(), bytes: MAX_VALUE + 1, limit: MAX_VALUE });
        assert_eq!(now(store.keys("a")), Ok(vec!["a".to_owned(), "ab".to_owned()]));
    }

    #[test]
    fn faults_strike_once_and_where_they_should() {
        let store = MemoryCluster::default();
        store.fail(2, ClusterFault::AnswerLost);
        now(store.get("a")).expect("answered");
        assert!(matches!(now(store.swap("a", vec![1], None)), Err(StoreError::CommitUncertain { .. })));
        assert!(now(store.get("a")).expect("answered").is_some(), "it was written");
        store.fail(1, ClusterFault::Refused);
        assert!(matches!(now(store.swap("b", vec![1], None)), Err(StoreError::Unreachable { .. })));
        assert_eq!(now(store.get("b")), Ok(None));
        store.unreachable(true);
        assert!(now(store.get("a")).is_err() && now(store.get("a")).is_err());
        store.unreachable(false);
        assert_eq!((now(store.keys("")), store.calls()), (Ok(vec!["a".to_owned()]), 8));
    }
}
