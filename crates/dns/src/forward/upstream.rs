//! Who is asked, and what is known of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::counters::Counter;

/// At most so many are asked: the first ones (libnetwork's `maxExtDNS`, and what resolvers take from a resolv.conf).
pub const MOST_UPSTREAMS: usize = 3;
/// How often one that was silent is asked whether it is back.
const LOOK_AGAIN_MILLIS: u64 = 2000;

/// Where sockets to an upstream are opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Place {
    /// In the sandbox's network namespace.
    Sandbox,
    /// In the host's: an upstream on a loopback address of the host (libnetwork's `HostLoopback`).
    Host,
}

/// A name server that is asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Upstream {
    /// Its address.
    pub address: SocketAddr,
    /// From where it is reached.
    pub place: Place,
}

/// Whom a sandbox asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forwarding {
    /// In the order in which they are asked; see [`MOST_UPSTREAMS`].
    pub upstreams: Vec<Upstream>,
    /// Whether the sandbox reaches the outside. Without, those that are reached from the host are not asked, so that no
    /// name of an internal network leaves it (CVE-2024-29018); those in the sandbox's own networks are.
    pub external: bool,
}

/// What is known of an upstream, for those who look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamState {
    /// Which.
    pub upstream: Upstream,
    /// Whether it has been silent or unreachable since it answered last: it is asked after the others then.
    pub suspect: bool,
    /// Questions that it was asked.
    pub asked: u64,
    /// Answers of it that were passed on.
    pub answered: u64,
    /// Answers of it that said that it has failed, or will not tell.
    pub failed: u64,
    /// How often it took too long, or could not be reached.
    pub missed: u64,
    /// What came instead of answers: wrong numbers, wrong questions, no messages.
    pub mismatched: u64,
    /// How long its last answer took, in microseconds; zero before the first one.
    pub last_micros: u64,
}

/// An upstream and what has been seen of it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) upstream: Upstream,
    /// When it was found silent, in milliseconds of [`Clock`]; zero when it is well.
    suspect_since: AtomicU64,
    /// When it was last asked whether it is back.
    looked: AtomicU64,
    clock: Instant,
    pub(super) asked: Counter,
    pub(super) answered: Counter,
    pub(super) failed: Counter,
    missed: Counter,
    pub(super) mismatched: Counter,
    last_micros: AtomicU64,
}

impl Known {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            suspect_since: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            clock: Instant::now(),
            asked: Counter::default(),
            answered: Counter::default(),
            failed: Counter::default(),
            missed: Counter::default(),
            mismatched: Counter::default(),
            last_micros: AtomicU64::new(0),
        }
    }

    /// Milliseconds since it is known, and one: zero means never.
    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).map_or(u64::MAX, |millis| millis + 1)
    }

    /// It answered something.
    pub(super) fn is_well(&self, took: Duration) {
        self.suspect_since.store(0, Ordering::Relaxed);
        self.last_micros.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// It was silent for too long, or cannot be reached.
    pub(super) fn missed(&self) {
        self.missed.add(1);
        let now = self.now();
        // The first time counts: those that have been silent for longest may be back soonest.
        if self.suspect_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.looked.store(now, Ordering::Relaxed);
        }
    }

    /// Since when it has been silent; zero when it is well.
    pub(super) fn suspect_since(&self) -> u64 {
        self.suspect_since.load(Ordering::Relaxed)
    }

    /// Whether it is time to see if it is back. One caller gets to do that.
    pub(super) fn take_look(&self) -> bool {
        let (now, looked) = (self.now(), self.looked.load(Ordering::Relaxed));
        let due = now.saturating_sub(looked) >= LOOK_AGAIN_MILLIS;
        due && self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn state(&self) -> UpstreamState {
        UpstreamState {
            upstream: self.upstream,
            suspect: self.suspect_since() > 0,
            asked: self.asked.get(),
            answered: self.answered.get(),
            failed: self.failed.get(),
            missed: self.missed.get(),
            mismatched: self.mismatched.get(),
            last_micros: self.last_micros.load(Ordering::Relaxed),
        }
    }
}

/// Those who are asked, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) known: Vec<Arc<Known>>,
    pub(super) external: bool,
}

/// Those who are asked, changed at any time.
#[derive(Debug)]
pub(super) struct Upstreams(ArcSwap<Chosen>);

impl Upstreams {
    pub(super) fn new(forwarding: &Forwarding) -> Self {
        Self(ArcSwap::from_pointee(chosen(forwarding, &[])))
    }

    /// What is known of those that stay is kept.
    pub(super) fn set(&self, forwarding: &Forwarding) {
        let before = self.0.load();
        self.0.store(Arc::new(chosen(forwarding, &before.known)));
    }

    /// Those that may be asked.
    pub(super) fn usable(&self) -> Chosen {
        let now = self.0.load();
        let usable = |known: &&Arc<Known>| now.external || known.upstream.place == Place::Sandbox;
        Chosen { known: now.known.iter().filter(usable).cloned().collect(), external: now.external }
    }

    pub(super) fn states(&self) -> Vec<UpstreamState> {
        self.0.load().known.iter().map(|known| known.state()).collect()
    }
}

fn chosen(forwarding: &Forwarding, before: &[Arc<Known>]) -> Chosen {
    let mut known: Vec<Arc<Known>> = Vec::new();
    for upstream in &forwarding.upstreams {
        let twice = known.iter().any(|known| known.upstream == *upstream);
        if known.len() < MOST_UPSTREAMS && !twice {
            let kept = before.iter().find(|known| known.upstream == *upstream);
            known.push(kept.map_or_else(|| Arc::new(Known::new(*upstream)), Arc::clone));
        }
    }
    Chosen { known, external: forwarding.external }
}
