//! The kernel as the engine sees it: operations as data, and their execution on Linux.
//!
//! [`Kernel`] is the only door. Two implementations exist: [`LinuxKernel`] here, and the simulated one in
//! `netloom-testkit`, which refuses what Linux refuses.
//!
//! This is the only crate that knows netlink, `setns` and threads of its own, and the only one that may
//! contain `unsafe`.

pub mod conntrack;
pub mod error;
pub mod isolate;
pub mod linux;
pub mod nft;
pub mod op;
pub mod ports;
pub mod program;
pub mod view;
pub mod worker;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::channel::mpsc;
use futures::future::BoxFuture;
use netloom_model::{IfName, NetnsName};

pub use error::{KernelError, Tried};
pub use linux::{DirectoryError, LinuxConfig, LinuxKernel, floor};
pub use op::{LinkTag, Neighbour, Netns, Op, PortFlag, Route};
pub use ports::{HoldRefusal, LinuxPorts, Place, PortHolder, PortSocket, PortToHold};
pub use view::{
    AddressView, KernelEvent, KernelStats, LinkCounters, LinkKind, LinkView, NeighbourView, PortState,
    ReachEvent, RouteView, TableEvent,
};
pub use worker::Worker;

/// A job for [`Kernel::run_in`].
pub type NetnsJob = Box<dyn FnOnce() + Send + 'static>;

/// What a call of the kernel comes to.
pub type KernelFuture<T> = BoxFuture<'static, Result<T, KernelError>>;

/// The kernel's network stack.
///
/// Every future returned here is independent of the caller: dropping it does not stop what was asked.
///
/// A deadline that passes is an error with [`timed_out`](KernelError::timed_out) set. Its certainty is
/// `Aborted` when nothing had been started, so that nothing has changed, and `Uncertain` when the answer to
/// something started is missing. An error may come late by the work that is under way.
pub trait Kernel: Debug + Send + Sync + 'static {
    /// Who holds ports of the host's namespace: always the same one.
    fn ports(&self) -> Arc<dyn PortHolder>;

    /// Carries out operations in order and answers each: the results have the length and the order of `ops`.
    ///
    /// The operations of one call are tried one after another *whatever becomes of the ones before*: they
    /// travel together, and a refused one does not stop the rest. A caller that needs one to succeed before
    /// the next puts them in two calls. Calls made at the same time may be carried out together, and in any
    /// order.
    fn execute(&self, ops: Vec<Op>, deadline: Instant) -> BoxFuture<'static, Vec<Result<(), KernelError>>>;

    /// Every link of a namespace.
    fn links(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<LinkView>>;

    /// The links of these names, in the order of `names`; `None` for one that is not there. Cheaper than all
    /// [`links`](Self::links) where a namespace has many, and not one picture: each is as it is when its turn
    /// comes. A link's alternative names do not count.
    fn find_links(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>>;

    /// The same for links of these numbers.
    fn links_at(
        &self,
        netns: Netns,
        indexes: Vec<u32>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>>;

    /// What has passed the links of these names, in the order of `names`; `None` for one that is not there.
    fn link_counters(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkCounters>>>;

    /// Every address of a namespace.
    fn addresses(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<AddressView>>;

    /// Every route of a namespace's main table.
    fn routes(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<RouteView>>;

    /// Every unicast route of a namespace in whichever table, for rules may lead there; without the table `local`, which
    /// repeats the addresses. A kernel that has no other tables has those of the main one.
    fn routes_of_all_tables(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<RouteView>> {
        self.routes(netns, deadline)
    }

    /// Every neighbour entry of a namespace, forwarding entries of bridges included.
    fn neighbours(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<NeighbourView>>;

    /// The namespaces that this engine made and that still exist.
    fn namespaces(&self, deadline: Instant) -> KernelFuture<Vec<NetnsName>>;

    /// What a setting below `/proc/sys/net` says, without its line end. `ENOENT` for an unknown one.
    fn read_setting(&self, netns: Netns, key: &str, deadline: Instant) -> KernelFuture<String>;

    /// What is in a table of nftables of the host's namespace; `None` without it. Rules and sets are told as far as
    /// [`nft`] knows them. A table without chains counts as none.
    fn table(&self, table: nft::Table, deadline: Instant) -> KernelFuture<Option<nft::Contents>>;

    /// Base chains of the host's namespace, of any table of IPv4 and IPv6, that packets enter at a point: what one of them
    /// refuses goes nowhere, whatever others accept. Tables whose names begin with `except` are passed over, and not read. A
    /// kernel that does not tell has none.
    fn base_chains(
        &self,
        _point: nft::Point,
        _except: &'static str,
        _deadline: Instant,
    ) -> KernelFuture<Vec<nft::BaseChain>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Runs a job on a thread that is in this namespace for as long as the job runs.
    ///
    /// The job must not wait for anything slow: other jobs queue behind it. Open sockets in it and use them
    /// outside; a socket stays in the namespace it was opened in.
    fn run_in(&self, netns: Netns, job: NetnsJob, deadline: Instant) -> KernelFuture<()>;

    /// Where a namespace is mounted.
    fn netns_path(&self, netns: NetnsName) -> PathBuf;

    /// Changes of links of the host's namespace, from now on. Bounded: a reader that does not keep up gets
    /// [`KernelEvent::Overrun`] and should list again. The channel closes when nobody listens to the kernel
    /// any more, be it for an error or because this is gone; one that is asked for later is closed at once.
    fn watch(&self) -> mpsc::Receiver<KernelEvent>;

    /// Changes of addresses and of the routes of all tables of the host's namespace, from now on, with the bounds of
    /// [`watch`](Self::watch). What does not [count](ReachEvent::counts) is not told, and Linux takes IPv4 routes away
    /// in silence when their link goes down or is deleted.
    fn watch_reach(&self) -> mpsc::Receiver<ReachEvent>;

    /// What others change in nftables of the host's namespace, from now on, with the bounds of [`watch`](Self::watch).
    /// Closed at once where the kernel has no nftables.
    fn watch_tables(&self) -> mpsc::Receiver<TableEvent>;

    /// Closes what is kept open inside of namespaces only to be quick: until then a namespace that loses its name lives
    /// on. What is asked for later opens it again.
    fn rest(&self, _deadline: Instant) -> KernelFuture<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Counters since the start.
    fn stats(&self) -> KernelStats;
}

/// Executes operations and folds the answers into one: the first failure, if any.
///
/// # Errors
/// The first error in the order of `ops`.
pub async fn execute_all(kernel: &dyn Kernel, ops: Vec<Op>, deadline: Instant) -> Result<(), KernelError> {
    kernel.execute(ops, deadline).await.into_iter().collect()
}
