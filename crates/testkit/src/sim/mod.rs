//! The simulated kernel.
//!
//! It was compared with Linux 6.18 operation by operation, on random sequences carried out on both: answers,
//! error numbers, links, addresses, routes and permanent neighbours agree. It stops short of Linux here:
//! - IPv6 link-local addresses are not made up, and no duplicate address detection runs. A link-local next
//!   hop is taken for reachable by every link that is up.
//! - A bridge keeps the hardware address it was made with; Linux lets it follow its ports, and forgets the
//!   bridge's neighbours when it changes.
//! - A namespace is destroyed when its last mount and whoever holds it are gone
//!   ([`SimKernel::external_netns`]); Linux takes a moment longer.
//! - The loopback is a link like others: Linux takes its addresses for next hops, keeps no IPv4 neighbours on
//!   it and drops IPv4 when its MTU is below 68.
//! - There is no packet filter, and no traffic: [`SimKernel::can_reach`] walks the model instead. Tracked connections are
//!   those that a test has added ([`SimKernel::track`]), and none ends by itself.
//! - Only the settings are known that a network engine writes; of these, `disable_ipv6`, `forwarding` and
//!   `promote_secondaries` have their effect.

mod address;
mod apply;
mod arena;
mod build;
mod calls;
mod conflict;
mod conntrack;
mod dump;
mod external;
mod faults;
mod foreign;
mod kernel;
mod latency;
mod links;
mod neighbour;
mod nft;
mod pristine;
mod reach;
mod route;
mod state;
mod sysctl;
#[cfg(test)]
mod tests;
mod watch;
mod world;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netloom_kernel::{KernelError, Netns, Op};
use tokio::time::Instant;

use build::Uplink;
use state::State;

use crate::ports::SimPorts;

pub use build::SimKernelBuilder;
pub(crate) use faults::next_random;
pub use faults::{Fault, FaultKind, FaultPlan, FaultPoint, RandomFaults};
pub use latency::{EffectTime, Latency};
pub use pristine::SimSnapshot;

/// A kernel that is a model in memory. Clones are handles to the same one.
///
/// Without latency and faults an operation takes effect before [`netloom_kernel::Kernel::execute`] returns,
/// and the future it returns is ready. With them, its future must be awaited within tokio, whose time it
/// uses; what was asked takes effect at its time even if the future is dropped. Deadlines bound the waiting
/// that latency and faults cause; an operation that needs no waiting is never late.
#[derive(Clone, Debug)]
pub struct SimKernel {
    state: Arc<Mutex<State>>,
    uplinks: Arc<[Uplink]>,
    ports: SimPorts,
}

impl Default for SimKernel {
    fn default() -> Self {
        Self::new()
    }
}

impl SimKernel {
    /// A host that has only its loopback.
    #[must_use]
    pub fn new() -> Self {
        SimKernelBuilder::default().build()
    }

    /// A host to be described.
    #[must_use]
    pub fn builder() -> SimKernelBuilder {
        SimKernelBuilder::default()
    }

    /// Who holds ports of this host.
    #[must_use]
    pub fn sim_ports(&self) -> SimPorts {
        self.ports.clone()
    }

    fn with(state: State, uplinks: Vec<Uplink>) -> Self {
        Self { state: Arc::new(Mutex::new(state)), uplinks: uplinks.into(), ports: SimPorts::default() }
    }

    fn uplinks(&self) -> &[Uplink] {
        &self.uplinks
    }

    /// The state as of now: what has become due takes effect first.
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a failed assertion of a test; what it left is still worth a look.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.calls.is_empty() {
            state.advance(Instant::now());
        }
        state
    }

    /// Plans a fault. Operations are counted from now on.
    ///
    /// # Panics
    /// When it names a verb that no operation has.
    pub fn plan(&self, fault: Fault) {
        self.lock().faults.plan(fault);
    }

    /// Plans faults together; they are added to those already planned. Random ones replace earlier random
    /// ones.
    ///
    /// # Panics
    /// When one names a verb that no operation has.
    pub fn plan_all(&self, plan: FaultPlan) {
        self.lock().faults.plan_all(plan);
    }

    /// Forgets every planned fault. What hangs goes on hanging until it is released.
    pub fn clear_faults(&self) {
        self.lock().faults = faults::Faults::default();
    }

    /// The planned faults that have not happened, or not as often as they should. A test that plans a fault
    /// looks here to see that it took place.
    #[must_use]
    pub fn pending_faults(&self) -> Vec<Fault> {
        self.lock().faults.pending().to_vec()
    }

    /// Lets every hanging operation take effect and be answered, and says how many there were.
    pub fn release(&self) -> usize {
        self.lock().release(Instant::now())
    }

    /// How many operations hang.
    #[must_use]
    pub fn hanging(&self) -> usize {
        self.lock().calls.hanging()
    }

    /// Changes how long operations take, those of calls under way included.
    pub fn set_latency(&self, latency: Latency) {
        self.lock().latency = latency;
    }

    /// How many operations were begun since the start.
    #[must_use]
    pub fn ops_count(&self) -> u64 {
        self.lock().ops
    }

    /// How often the neighbours of a link were told since the start ([`Op::Announce`]).
    #[must_use]
    pub fn announcements(&self) -> u64 {
        self.lock().announcements
    }

    /// Keeps the newest so many operations with their answers from now on; zero keeps none.
    pub fn set_log(&self, limit: usize) {
        self.lock().log.keep(limit);
    }

    /// The operations that were answered, oldest first, with what was answered. Operations given up at their
    /// deadline appear when they take effect.
    #[must_use]
    pub fn log(&self) -> Vec<(Op, Result<(), KernelError>)> {
        self.lock().log.entries.iter().cloned().collect()
    }

    /// What a setting below `/proc/sys/net` was last written to; `None` for one that has its default.
    #[must_use]
    pub fn setting(&self, netns: Netns, key: &str) -> Option<String> {
        self.lock().world.read_setting(netns, key).map(str::to_owned)
    }

    /// Everything there is, to compare with later.
    #[must_use]
    pub fn snapshot(&self) -> SimSnapshot {
        self.lock().world.snapshot()
    }

    /// What differs from an earlier moment: a line for each object that was left over, is missing or changed.
    #[must_use]
    pub fn leftovers(&self, before: &SimSnapshot) -> Vec<String> {
        self.snapshot().differences(before)
    }

    /// Asserts that everything is as it was.
    ///
    /// # Panics
    /// With a line for each object that was left over, is missing or changed.
    #[track_caller]
    pub fn assert_pristine(&self, before: &SimSnapshot) {
        let lines = self.leftovers(before);
        assert!(lines.is_empty(), "the kernel is not as it was:\n  {}", lines.join("\n  "));
    }

    /// Whether an echo request from a namespace would reach an address and be answered.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn can_reach(&self, from: Netns, to: IpAddr) -> Result<(), String> {
        self.lock().world.can_reach(from, to)
    }
}
