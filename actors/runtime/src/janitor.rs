//! Keeps trying to undo what could not be undone, and keeps it visible until then.

use std::cell::Cell;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::op::OpCtx;
use crate::saga::{UNDO_ALLOWED, Undo};
use crate::tasks::Panicked;

/// The pause after the first failed attempt; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Told when a leak appears (`true`) and when it is cleared (`false`).
type OnChange = Rc<dyn Fn(&str, bool)>;

/// The list of leaks of one engine thread.
#[derive(Clone)]
pub struct Janitor {
    leaks: Arc<DashMap<usize, String>>,
    next: Rc<Cell<usize>>,
    on_change: OnChange,
}

impl fmt::Debug for Janitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Janitor({} leaks)", self.leaks.len())
    }
}

impl Janitor {
    /// A janitor that reports each leak when it appears (`true`) and when it is cleared (`false`).
    #[must_use]
    pub fn new(on_change: impl Fn(&str, bool) + 'static) -> Self {
        Self { leaks: Arc::default(), next: Rc::default(), on_change: Rc::new(on_change) }
    }

    /// Takes over something that must be undone, and tries until it succeeds or the engine ends.
    pub fn adopt(
        &self,
        what: String,
        retry: impl Fn() -> LocalBoxFuture<'static, Result<(), String>> + 'static,
    ) {
        let key = self.next.replace(self.next.get() + 1);
        tracing::warn!(leak = %what, "could not undo; retrying in the background");
        (self.on_change)(&what, true);
        self.leaks.insert(key, what.clone());
        let janitor = self.clone();
        tokio::task::spawn_local(async move {
            let mut pause = FIRST_PAUSE;
            let attempt = async || {
                let caught = AssertUnwindSafe(async { retry().await }).catch_unwind().await;
                caught.unwrap_or_else(|payload| Err(Panicked::new(&*payload).to_string()))
            };
            while let Err(error) = attempt().await {
                tracing::debug!(leak = %what, %error, "still cannot undo");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            janitor.leaks.remove(&key);
            (janitor.on_change)(&what, false);
        });
    }

    /// Takes over an undo step.
    pub fn adopt_undo<U: Undo>(&self, op: &OpCtx, world: &U::World, undo: U) {
        let (op, world) = (op.clone(), world.clone());
        self.adopt(undo.to_string(), move || {
            let retry = undo.undo(&world, &op.for_undo(UNDO_ALLOWED));
            async move { retry.await.map_err(|error| error.to_string()) }.boxed_local()
        });
    }

    /// What is left behind at the moment.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        self.leaks.iter().map(|leak| leak.value().clone()).collect()
    }
}
