//! Questions that nobody here knows the answer to: asked of upstreams, whose answers pass unchanged.
//!
//! Who is asked, and when, is decided in [`race`]: the next upstream while there is still time for its answer, whoever
//! was silent lately last. Every question has a socket of its own, so its source port is one that the kernel draws, and
//! a number of its own that is drawn here; an answer counts when it comes from the address that was asked, with that
//! number and that question (RFC 5452). Nothing is cached. Identical questions that are under way are asked once.

mod exchange;
mod race;
mod reply;
mod upstream;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

pub use exchange::{Dial, Here, Opening};
pub(crate) use reply::fitted;
pub use reply::{Judged, judge};
pub use upstream::{Forwarding, MOST_UPSTREAMS, Place, Upstream, UpstreamState};

use crate::counters::{Counters, Ended};
use crate::query::Transport;
use exchange::Sockets;
use race::{Race, Won};
use upstream::Upstreams;

/// How long upstreams may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// All of them together. Below the 5 s after which the resolvers of glibc and musl ask again.
    pub all: Duration,
    /// The last one that was asked, before the next one is asked as well.
    pub each: Duration,
}

/// An upstream's answer, with whatever number it had; or what there is instead.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The whole message.
    Answer(Arc<[u8]>),
    /// Nobody had an answer.
    Failed,
    /// There is nobody to ask, outside or at all.
    NobodyToAsk {
        /// Whether there is an outside.
        external: bool,
    },
    /// Too many are under way.
    TooMany,
}

impl Reply {
    pub(crate) fn ended(&self) -> Ended {
        match self {
            Self::Answer(_) => Ended::Forwarded,
            Self::Failed => Ended::Failed,
            Self::NobodyToAsk { .. } => Ended::NobodyToAsk,
            Self::TooMany => Ended::TooMany,
        }
    }
}

/// What all sandboxes of a server share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) budget: Budget,
    pub(crate) most_each: usize,
    pub(crate) most: usize,
    /// Questions under way in all.
    pub(crate) under_way: AtomicUsize,
    /// Draws numbers: a keyed hash of a count, whose key is the operating system's.
    random: RandomState,
    drawn: AtomicU64,
}

impl Common {
    pub(crate) fn new(budget: Budget, most_each: usize, most: usize) -> Self {
        let (random, drawn) = (RandomState::new(), AtomicU64::new(0));
        Self { budget, most_each, most, under_way: AtomicUsize::new(0), random, drawn }
    }

    /// A number that nobody can guess.
    pub(crate) fn draw(&self) -> u64 {
        self.random.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed))
    }
}

/// The questions of one sandbox to others.
pub(crate) struct Forwarder {
    common: Arc<Common>,
    upstreams: Upstreams,
    dial: Arc<dyn Dial>,
    counters: Arc<Counters>,
    under_way: AtomicUsize,
    /// Who waits for the answer to a question that is under way. Held for a look-up, never while something waits.
    waiting: Mutex<HashMap<Asking, Vec<oneshot::Sender<Reply>>>>,
}

/// What makes questions identical: everything but their number.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asking(Transport, Box<[u8]>);

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

impl Forwarder {
    pub(crate) fn new(
        common: Arc<Common>,
        forwarding: &Forwarding,
        dial: Arc<dyn Dial>,
        counters: Arc<Counters>,
    ) -> Self {
        let (under_way, waiting) = (AtomicUsize::new(0), Mutex::default());
        Self { common, upstreams: Upstreams::new(forwarding), dial, counters, under_way, waiting }
    }

    /// Who is asked from now on. Questions that are under way stay with whom they were asked.
    pub(crate) fn set(&self, forwarding: &Forwarding) {
        self.upstreams.set(forwarding);
    }

    pub(crate) fn states(&self) -> Vec<UpstreamState> {
        self.upstreams.states()
    }

    /// Takes a place among the questions under way, until what is returned is dropped.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let taken = |count: &AtomicUsize, most: usize| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1)).is_ok()
        };
        if !taken(&self.under_way, self.common.most_each) {
            return None;
        }
        if !taken(&self.common.under_way, self.common.most) {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Admitted(Arc::clone(self)))
    }

    /// Asks others, and gives the answer to `deliver` once. It may take longer than that: whoever was silent before is
    /// asked too, to see whether it is back.
    pub(crate) async fn forward(
        &self,
        admitted: Admitted,
        query: Vec<u8>,
        transport: Transport,
        deliver: impl FnOnce(Reply) + Send,
    ) {
        let asking = Asking(transport, query.get(2..).unwrap_or_default().into());
        while let Some(answer) = self.join(&asking) {
            if let Ok(reply) = answer.await {
                self.counters.merged.add(1);
                drop(admitted);
                deliver(reply);
                return;
            }
            // Whoever asked has gone before the answer came: its client did. Somebody else asks.
        }
        let lead = Lead { forwarder: self, asking: &asking };
        let sockets = Sockets { dial: &*self.dial, common: &self.common };
        let upstreams = self.upstreams.usable();
        let race = Race { upstreams: &upstreams.known, query: &query, transport, budget: self.common.budget };
        race.run(&sockets, |won| {
            let reply = match won {
                Won::Answer(answer) => Reply::Answer(answer.into()),
                Won::Nobody if upstreams.known.is_empty() => {
                    Reply::NobodyToAsk { external: upstreams.external }
                }
                Won::Nobody => Reply::Failed,
            };
            lead.tell(&reply);
            drop(admitted);
            deliver(reply);
        })
        .await;
    }

    /// Waits for the answer to an identical question; `None` makes the caller the one who asks.
    fn join(&self, asking: &Asking) -> Option<oneshot::Receiver<Reply>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = waiting.get_mut(asking) {
            let (tell, answer) = oneshot::channel();
            others.push(tell);
            return Some(answer);
        }
        waiting.insert(asking.clone(), Vec::new());
        None
    }
}

/// The one who asks. When it ends without an answer, those who wait learn that, and one of them asks.
struct Lead<'a> {
    forwarder: &'a Forwarder,
    asking: &'a Asking,
}

impl Lead<'_> {
    fn tell(self, reply: &Reply) {
        for other in self.end() {
            // Whoever has gone needs no answer.
            let _ = other.send(reply.clone());
        }
    }

    fn end(&self) -> Vec<oneshot::Sender<Reply>> {
        let mut waiting = self.forwarder.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(self.asking).unwrap_or_default()
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// A place among the questions under way.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Forwarder>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.common.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
