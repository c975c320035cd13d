//! The ends of waits that other threads have for an engine thread.
//!
//! A caller may wait on any runtime or on none, so the timer is the engine's. Nearly all waits end early and
//! nearly all are equally long; so a wait is a line in a table, and the one timer is for the soonest of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::thread::Never;

/// The waits that have not ended.
#[derive(Clone, Default)]
pub(crate) struct Deadlines(Arc<Inner>);

#[derive(Default)]
struct Inner {
    table: Mutex<Table>,
    sooner: Notify,
}

#[derive(Default)]
struct Table {
    /// Dropping a sender ends its wait.
    ends: Ends,
    /// What the timer is set to. It stays when that wait ends early, and is looked at when it fires.
    armed: Option<Instant>,
    entered: u64,
}

type Key = (Instant, u64);
type Ends = BTreeMap<Key, oneshot::Sender<Never>>;

/// A wait's line in the table; it goes when the wait is over.
pub(crate) struct Deadline {
    inner: Arc<Inner>,
    key: Key,
    pub(crate) passed: oneshot::Receiver<Never>,
}

impl Deadlines {
    /// Enters a wait that ends then.
    pub(crate) fn enter(&self, end: Instant) -> Deadline {
        let (sender, passed) = oneshot::channel();
        let mut table = self.0.lock();
        table.entered += 1;
        let key = (end, table.entered);
        table.ends.insert(key, sender);
        if table.armed.is_none_or(|armed| end < armed) {
            table.armed = Some(end);
            self.0.sooner.notify_one();
        }
        drop(table);
        Deadline { inner: self.0.clone(), key, passed }
    }

    /// Ends waits at their time, for ever.
    pub(crate) async fn keep(&self) {
        loop {
            let (passed, next) = self.0.lock().pass(Instant::now());
            // Not inside: whoever is woken may be polled right here, and leave the table.
            drop(passed);
            let due = async {
                match next {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.0.sooner.notified() => {}
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes out what is due, and says when to look again.
    fn pass(&mut self, now: Instant) -> (Ends, Option<Instant>) {
        let later = self.ends.split_off(&(now, u64::MAX));
        let passed = std::mem::replace(&mut self.ends, later);
        self.armed = self.ends.first_key_value().map(|((end, _), _)| *end);
        (passed, self.armed)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // Nobody waits any more: its going wakes nobody.
        self.passed.close();
        let _gone = self.inner.lock().ends.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_end_in_their_order_and_early_ones_leave_nothing() {
        let deadlines = Deadlines::default();
        tokio::select! {
            () = deadlines.keep() => {}
            () = waits(&deadlines) => {}
        }
        assert!(deadlines.0.lock().ends.is_empty());
    }

    async fn waits(deadlines: &Deadlines) {
        let began = Instant::now();
        let mut late = deadlines.enter(began + Duration::from_secs(30));
        tokio::task::yield_now().await;
        let mut soon = deadlines.enter(began + Duration::from_secs(2));
        drop(deadlines.enter(began + Duration::from_secs(1)));
        assert!((&mut soon.passed).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 2);
        assert!(poll!(&mut late.passed).is_pending());
        assert!((&mut late.passed).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 30);
    }
}
