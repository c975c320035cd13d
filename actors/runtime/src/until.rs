//! Waiting for something that is looked at again at each notice.

use std::pin::pin;

use tokio::sync::Notify;

/// Waits until it holds. Whoever makes it hold calls [`Notify::notify_waiters`] afterwards.
pub(crate) async fn until(notice: &Notify, holds: impl Fn() -> bool) {
    loop {
        let mut noticed = pin!(notice.notified());
        // Before it is looked at: what happens in between is noticed.
        noticed.as_mut().enable();
        if holds() {
            return;
        }
        noticed.await;
    }
}
