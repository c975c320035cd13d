//! Waking other threads from an engine thread, many at a time.
//!
//! Waking a sleeping thread is a system call of a microsecond or more, and runtimes make it for each task that
//! is woken from outside. So wake-ups leave an engine thread together, after what is ready to run has run; and
//! when they are many, a courier thread makes the calls while the engine goes on.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Fewer wake-ups than this are made at once: a hop over the courier costs about as much as two.
const WORTH_A_COURIER: usize = 3;

/// So many go to the courier at once, whatever else is ready to run: those who are woken may have work for us.
const BUNDLE: usize = 8;

/// How many bundles may wait for the courier. When it falls behind, the engine thread wakes by itself.
const BUNDLES: usize = 64;

/// How long the courier leaves between looks, and how often it looks before it waits to be woken.
const NAP: Duration = Duration::from_micros(20);
const NAPS: u32 = 8;

thread_local! {
    /// There on engine threads only.
    static OUTBOX: RefCell<Option<Outbox>> = const { RefCell::new(None) };
}

struct Outbox {
    waiting: Vec<Waker>,
    courier: SyncSender<Vec<Waker>>,
}

/// As long as it lives, this thread gathers its wake-ups. Its end hands out what waits: it comes before that of the
/// runtime, on which nothing would run any more that does.
pub(crate) struct Gathering(());

/// Makes this thread one that gathers its wake-ups. The courier ends with it.
///
/// # Errors
/// When there can be no further thread.
pub(crate) fn gather_on_this_thread() -> io::Result<Gathering> {
    let (courier, bundles) = sync_channel(BUNDLES);
    let deliver = move || {
        while let Some(bundle) = next_bundle(&bundles) {
            wake_each(bundle);
        }
    };
    std::thread::Builder::new().name("nl-courier".to_owned()).spawn(deliver)?;
    OUTBOX.set(Some(Outbox { waiting: Vec::new(), courier }));
    Ok(Gathering(()))
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let waiting = OUTBOX.take().map(|outbox| outbox.waiting);
        wake_each(waiting.into_iter().flatten());
    }
}

/// Wakers are hosts' code: when one panics, the others are woken all the same.
fn wake_each(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// Waits for the next bundle; `None` when there will be none. A sender that has to wake a sleeping processor for
/// each bundle is held up by that, so while bundles keep coming they are looked for instead.
fn next_bundle(bundles: &Receiver<Vec<Waker>>) -> Option<Vec<Waker>> {
    for _ in 0..NAPS {
        match bundles.try_recv() {
            Ok(bundle) => return Some(bundle),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => std::thread::park_timeout(NAP),
        }
    }
    bundles.recv().ok()
}

/// A waker of another thread, which waits in the outbox when an engine thread calls it.
struct Gathered(Waker);

impl Wake for Gathered {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let gathered = OUTBOX.try_with(|outbox| {
            let mut outbox = outbox.borrow_mut();
            let outbox = outbox.as_mut()?;
            outbox.waiting.push(self.0.clone());
            Some(outbox.waiting.len())
        });
        match gathered.ok().flatten() {
            Some(1) => {
                tokio::task::spawn_local(async {
                    tokio::task::yield_now().await;
                    hand_out();
                });
            }
            Some(BUNDLE) => hand_out(),
            Some(_) => {}
            None => self.0.wake_by_ref(),
        }
    }
}

fn hand_out() {
    let bundle = OUTBOX.with_borrow_mut(|outbox| {
        let Outbox { waiting, courier } = outbox.as_mut()?;
        let bundle = std::mem::take(waiting);
        if bundle.len() < WORTH_A_COURIER {
            return Some(bundle);
        }
        courier.try_send(bundle).err().map(|refused| match refused {
            TrySendError::Full(bundle) | TrySendError::Disconnected(bundle) => bundle,
        })
    });
    // Not inside: whoever is woken may be polled right here.
    wake_each(bundle.into_iter().flatten());
}

/// Polls what an engine thread completes, so that its wake-up is gathered with others.
pub(crate) fn poll_gathered<F: Future + Unpin>(future: &mut F, cx: &mut Context<'_>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Gathered(cx.waker().clone())));
    std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker))
}
