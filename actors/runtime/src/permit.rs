//! Who is inside: requests that were let in and are not answered yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::until::until;

/// Set in the count once nobody is let in any more. One word for both, so that who is let in at the moment of closing
/// is either refused or waited for.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// How many requests are inside, of those that are limited.
#[derive(Clone, Default, Debug)]
pub struct Permits(Arc<Inside>);

#[derive(Default, Debug)]
struct Inside {
    count: AtomicUsize,
    emptied: Notify,
}

/// One request's; given back when this is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Inside>);

/// Why a request was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TurnedAway {
    /// As many as may be are inside.
    Full,
    /// Nobody is let in any more.
    Closed,
}

impl Permits {
    /// Lets a request in.
    ///
    /// # Errors
    /// When `limit` requests are inside, and after [`Permits::close`].
    pub fn take(&self, limit: usize) -> Result<Permit, TurnedAway> {
        // Made first: dropped, it takes back what is added now.
        let permit = Permit(self.0.clone());
        let before = self.0.count.fetch_add(1, Ordering::AcqRel);
        if before & CLOSED != 0 {
            Err(TurnedAway::Closed)
        } else if before >= limit {
            Err(TurnedAway::Full)
        } else {
            Ok(permit)
        }
    }

    /// Lets nobody in any more.
    pub fn close(&self) {
        if self.0.count.fetch_or(CLOSED, Ordering::AcqRel) == 0 {
            self.0.emptied.notify_waiters();
        }
    }

    /// Whether nobody is let in any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.count.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Waits until they are closed and nobody is inside.
    pub async fn empty(&self) {
        until(&self.0.emptied, || self.0.count.load(Ordering::Acquire) == CLOSED).await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == CLOSED + 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn so_many_are_let_in_and_no_more() {
        let permits = Permits::default();
        let first = permits.take(2).expect("room");
        let _second = permits.take(2).expect("room");
        assert_eq!(permits.take(2).unwrap_err(), TurnedAway::Full);
        drop(first);
        permits.take(2).expect("room again");
    }

    #[test]
    fn whoever_was_let_in_is_waited_for() {
        let permits = Permits::default();
        let (first, second) = (permits.take(9).expect("open"), permits.take(9).expect("open"));
        permits.close();
        assert!(permits.is_closed());
        assert_eq!(permits.take(9).unwrap_err(), TurnedAway::Closed);
        let mut waiting = Box::pin(permits.empty());
        assert_eq!(waiting.as_mut().now_or_never(), None, "two are inside");
        drop(first);
        assert_eq!(waiting.as_mut().now_or_never(), None, "one is inside");
        drop(second);
        assert_eq!(waiting.now_or_never(), Some(()));
        assert_eq!(permits.empty().now_or_never(), Some(()), "it stays so");
    }
}
