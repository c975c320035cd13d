//! A map with one writer and many readers, for what is read outside of its owner.
//!
//! This is the one use of dashmap: values leave as `Arc`, guards never leave this module, and only the
//! owner has the writing half, so there is nothing to lock and nothing to race for.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;

/// The reading half: cheap to clone, usable from any thread.
pub struct ReadModel<K, V>(Arc<DashMap<K, Arc<V>, FxBuildHasher>>);

/// The writing half: one per map, owned by the actor whose state it shows.
pub struct ReadModelWriter<K, V>(ReadModel<K, V>);

impl<K: Eq + Hash, V> ReadModel<K, V> {
    /// A new map: its writer, from which readers are taken.
    #[must_use]
    pub fn writer() -> ReadModelWriter<K, V> {
        ReadModelWriter(Self(Arc::new(DashMap::with_hasher(FxBuildHasher))))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        self.0.get(key).map(|value| value.clone())
    }

    /// Every value, in no order.
    #[must_use]
    pub fn values(&self) -> Vec<Arc<V>> {
        self.0.iter().map(|entry| entry.value().clone()).collect()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Eq + Hash, V> ReadModelWriter<K, V> {
    /// A reading half.
    #[must_use]
    pub fn reader(&self) -> ReadModel<K, V> {
        self.0.clone()
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) -> Arc<V> {
        let value = Arc::new(value);
        self.0.0.insert(key, value.clone());
        value
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &K) -> Option<Arc<V>> {
        self.0.0.remove(key).map(|(_, value)| value)
    }
}

impl<K, V> Clone for ReadModel<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash, V> fmt::Debug for ReadModel<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadModel({} entries)", self.len())
    }
}

impl<K: Eq + Hash, V> fmt::Debug for ReadModelWriter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadModelWriter({} entries)", self.0.len())
    }
}
