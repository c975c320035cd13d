//! What has passed a port.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has passed a port since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// TCP connections, or UDP associations, that are there now.
    pub open: u64,
    /// All that ever were.
    pub total: u64,
    /// Clients that did not get through: the back end refused or did not answer in time, or the port was full.
    pub refused: u64,
    /// UDP associations that ended early because another client needed the place.
    pub displaced: u64,
    /// Bytes from clients that the back end's socket took.
    pub to_backend: u64,
    /// Bytes from the back end that the clients' sockets took.
    pub to_clients: u64,
    /// Datagrams that could not be passed on.
    pub dropped: u64,
    /// Failures to take what has arrived: no descriptors, no memory.
    pub accept_errors: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open: Counter,
    pub(crate) total: Counter,
    pub(crate) refused: Counter,
    pub(crate) displaced: Counter,
    pub(crate) to_backend: Counter,
    pub(crate) to_clients: Counter,
    pub(crate) dropped: Counter,
    pub(crate) accept_errors: Counter,
}

impl Counters {
    /// What they are now; each by itself, not all in one moment.
    pub(crate) fn read(&self) -> Counts {
        Counts {
            open: self.open.get(),
            total: self.total.get(),
            refused: self.refused.get(),
            displaced: self.displaced.get(),
            to_backend: self.to_backend.get(),
            to_clients: self.to_clients.get(),
            dropped: self.dropped.get(),
            accept_errors: self.accept_errors.get(),
        }
    }

    /// Counts one more that is there, until what is returned is dropped.
    pub(crate) fn enter(self: &std::sync::Arc<Self>) -> Open {
        self.open.add(1);
        self.total.add(1);
        Open(std::sync::Arc::clone(self))
    }
}

/// One number, for any thread.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something counted as open.
#[derive(Debug)]
pub(crate) struct Open(std::sync::Arc<Counters>);

impl Open {
    pub(crate) fn counters(&self) -> &Counters {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.0.fetch_sub(1, Ordering::Relaxed);
    }
}
