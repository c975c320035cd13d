//! The kernel of the machine: operations carried out over netlink, on threads of our own.
//!
//! A netlink request runs in the thread that sends it, under the kernel's lock, so no async thread ever
//! sends one. Five threads do, each with sockets of its own:
//!
//! - `nl-writer`: changes of the host's namespace, as many as wait in one send;
//! - `nl-reaper`: deletions of links, as many as wait in one deletion;
//! - `nl-netns`: everything inside other namespaces, and the namespaces themselves;
//! - `nl-nft`: tables of nftables, and tracked connections in the host's namespace;
//! - `nl-reader`: inquiries about the host's namespace.
//!
//! `nl-monitor`, `nl-reach` and `nl-tables` listen only: to links, to addresses and routes, and to tables. All of them start in the caller's namespace and end with the [`LinuxKernel`].
//!
//! # New links
//! A link's mark is its alias, which the kernel does not take at creation. So the link gets a number of our
//! choice, and the request that sets the alias names the number and travels in the same send. The kernel
//! works through a send before the sender can end: a process that is killed leaves no link without its mark.
//!
//! # Deadlines
//! A request that has reached the kernel cannot be interrupted. A deadline that passes while a call waits
//! in a queue is answered when its turn comes, with certainty `Aborted`; one that passes while an answer is
//! awaited, with `Uncertain`. So an answer can be late by the work that is under way: a caller that needs
//! one on time must bound its own wait too.

mod batch;
mod call;
mod decode;
mod directory;
mod encode;
mod failure;
pub mod floor;
mod monitor;
mod mounts;
mod netns;
mod nft;
mod numbers;
mod reader;
mod reaper;
mod transport;
mod wire;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use futures::FutureExt;
use futures::channel::{mpsc, oneshot};
use futures::future::BoxFuture;
use netloom_model::{IfName, NetnsName};

use crate::nft::{BaseChain, Contents, Point, Table};
use crate::op::{Netns, Op};
use crate::view::{
    AddressView, KernelEvent, KernelStats, LinkCounters, LinkView, NeighbourView, ReachEvent, RouteView,
    TableEvent,
};
use crate::worker::Worker;
use crate::{Kernel, KernelError, KernelFuture, LinuxPorts, NetnsJob, PortHolder};

/// Whether the kernel has IPv6 at all: it can be started without, and then refuses everything that is about it.
fn has_ipv6() -> bool {
    static THERE: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/sys/net/ipv6").exists());
    *THERE
}

pub use self::directory::DirectoryError;

use self::call::{Allowance, Call, Executors};
use self::failure::Failure;
use self::monitor::Monitor;
use self::mounts::Mounts;
use self::netns::Task;
use self::reader::{Inquiry, Listing};
use self::transport::{Counters, Transport};

/// How many calls may wait for each thread. Admission above bounds them first; beyond this they are
/// refused with `EBUSY`.
const QUEUE: usize = 16_384;

/// What [`LinuxKernel::start`] needs to know.
#[derive(Clone, Debug)]
pub struct LinuxConfig {
    /// Namespaces are mounted in `<run_dir>/netns`, which is made when absent. It must be ours alone, so this
    /// cannot be `/run`, and must be used from one mount namespace for as long as namespaces are in it.
    pub run_dir: PathBuf,
}

/// The kernel of this machine, as seen from the network namespace that it was started in.
#[derive(Debug)]
pub struct LinuxKernel {
    executors: Arc<Executors>,
    reader: Worker<Inquiry>,
    monitor: Monitor<KernelEvent>,
    reach: Monitor<ReachEvent>,
    /// `None` on a kernel without nftables.
    tables: Option<Monitor<TableEvent>>,
    ports: Arc<LinuxPorts>,
    mounts: Mounts,
    counters: Arc<Counters>,
}

impl LinuxKernel {
    /// Starts the threads. Their namespaces, network and mount, are those of the calling thread.
    ///
    /// # Errors
    /// When the run directory cannot be made, when it cannot be used ([`DirectoryError`]), or when a socket or
    /// a thread is refused.
    pub fn start(config: LinuxConfig) -> io::Result<Self> {
        let LinuxConfig { run_dir } = config;
        let mounts = Mounts::below(&run_dir)?;
        let counters = Arc::new(Counters::default());
        let own = Arc::default();
        let executors = Executors {
            writer: writer::spawn(QUEUE, mounts.clone(), &counters)?,
            reaper: reaper::spawn(QUEUE, &counters)?,
            netns: netns::spawn(QUEUE, mounts.clone(), &counters)?,
            nft: nft::spawn(QUEUE, &counters, Arc::clone(&own))?,
        };
        let reader = reader::spawn(QUEUE, &counters)?;
        let (monitor, reach) = (Monitor::start()?, Monitor::start()?);
        let tables = Monitor::start_without(own)
            .inspect_err(|error| tracing::warn!(%error, "nobody hears what others do to nftables"))
            .ok();
        let (executors, ports) = (Arc::new(executors), Arc::new(LinuxPorts::start()?));
        Ok(Self { executors, reader, monitor, reach, tables, ports, mounts, counters })
    }

    /// Has a question about a namespace answered on a socket of it.
    fn inquire<T: Send + 'static>(
        &self,
        what: &'static str,
        netns: Netns,
        deadline: Instant,
        ask: impl FnOnce(&mut Transport, Instant) -> Listing<T> + Send + 'static,
    ) -> KernelFuture<Vec<T>> {
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        let inquiry = Inquiry::new(ask, allowance, reply);
        let queued = match netns {
            Netns::Host => self.reader.submit(inquiry).is_ok(),
            Netns::Named(name) => self.executors.netns.submit(Task::Inquire { name, inquiry }).is_ok(),
        };
        answered(format!("{what} of {netns}"), allowance, queued, answer)
    }
}

/// Waits for a thread's answer.
fn answered<T: Send + 'static>(
    operation: String,
    allowance: Allowance,
    queued: bool,
    answer: oneshot::Receiver<Result<T, Failure>>,
) -> KernelFuture<T> {
    async move {
        let result = match answer.await {
            Ok(result) => result,
            Err(oneshot::Canceled) if queued => Err(thread_failed()),
            Err(oneshot::Canceled) => Err(Failure::QueueFull),
        };
        result.map_err(|failure| failure.of(operation, allowance.allowed))
    }
    .boxed()
}

fn thread_failed() -> Failure {
    Failure::Lost("the thread that carried it out failed".into())
}

impl Kernel for LinuxKernel {
    fn ports(&self) -> Arc<dyn PortHolder> {
        self.ports.clone()
    }

    fn execute(&self, ops: Vec<Op>, deadline: Instant) -> BoxFuture<'static, Vec<Result<(), KernelError>>> {
        let ops: Arc<[Op]> = ops.into();
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        Call::start(Arc::clone(&self.executors), Arc::clone(&ops), allowance, reply);
        async move {
            answer.await.unwrap_or_else(|oneshot::Canceled| {
                ops.iter().map(|op| Err(thread_failed().of(op, allowance.allowed))).collect()
            })
        }
        .boxed()
    }

    fn links(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<LinkView>> {
        self.inquire("list links", netns, deadline, reader::links)
    }

    fn find_links(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.inquire("find links", netns, deadline, move |socket, deadline| {
            reader::find_links(socket, &names, deadline)
        })
    }

    fn links_at(
        &self,
        netns: Netns,
        indexes: Vec<u32>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.inquire("find links", netns, deadline, move |socket, deadline| {
            reader::links_at(socket, &indexes, deadline)
        })
    }

    fn link_counters(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkCounters>>> {
        self.inquire("read counters", netns, deadline, move |socket, deadline| {
            reader::counters(socket, &names, deadline)
        })
    }

    fn addresses(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<AddressView>> {
        self.inquire("list addresses", netns, deadline, reader::addresses)
    }

    fn routes(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<RouteView>> {
        self.inquire("list routes", netns, deadline, |socket, deadline| {
            reader::routes(socket, deadline, false)
        })
    }

    fn routes_of_all_tables(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<RouteView>> {
        self.inquire("list routes", netns, deadline, |socket, deadline| {
            reader::routes(socket, deadline, true)
        })
    }

    fn neighbours(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<NeighbourView>> {
        self.inquire("list neighbours", netns, deadline, reader::neighbours)
    }

    fn namespaces(&self, deadline: Instant) -> KernelFuture<Vec<NetnsName>> {
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        let queued = self.executors.netns.submit(Task::List { allowance, reply }).is_ok();
        answered("list namespaces".into(), allowance, queued, answer)
    }

    fn read_setting(&self, netns: Netns, key: &str, deadline: Instant) -> KernelFuture<String> {
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        let task = Task::ReadSetting { netns, key: key.to_owned(), allowance, reply };
        let queued = self.executors.netns.submit(task).is_ok();
        answered(format!("read net/{key} of {netns}"), allowance, queued, answer)
    }

    fn table(&self, table: Table, deadline: Instant) -> KernelFuture<Option<Contents>> {
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        let what = format!("read table {table}");
        let queued = self.executors.nft.submit(nft::Task::Read { table, allowance, reply }).is_ok();
        answered(what, allowance, queued, answer)
    }

    fn base_chains(
        &self,
        point: Point,
        except: &'static str,
        deadline: Instant,
    ) -> KernelFuture<Vec<BaseChain>> {
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        let queued =
            self.executors.nft.submit(nft::Task::BaseChains { point, except, allowance, reply }).is_ok();
        answered("list base chains".into(), allowance, queued, answer)
    }

    fn run_in(&self, netns: Netns, job: NetnsJob, deadline: Instant) -> KernelFuture<()> {
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        let queued = self.executors.netns.submit(Task::Run { netns, allowance, job, reply }).is_ok();
        answered(format!("run a job in {netns}"), allowance, queued, answer)
    }

    fn rest(&self, deadline: Instant) -> KernelFuture<()> {
        let allowance = Allowance::until(deadline);
        let (reply, answer) = oneshot::channel();
        let queued = self.executors.netns.submit(Task::Rest { allowance, reply }).is_ok();
        answered("close sockets in namespaces".into(), allowance, queued, answer)
    }

    fn netns_path(&self, netns: NetnsName) -> PathBuf {
        self.mounts.path(netns)
    }

    fn watch(&self) -> mpsc::Receiver<KernelEvent> {
        self.monitor.watch()
    }

    fn watch_reach(&self) -> mpsc::Receiver<ReachEvent> {
        self.reach.watch()
    }

    fn watch_tables(&self) -> mpsc::Receiver<TableEvent> {
        self.tables.as_ref().map_or_else(|| mpsc::channel(0).1, Monitor::watch)
    }

    fn stats(&self) -> KernelStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { messages, sends, links_deleted, deletions } = &*self.counters;
        KernelStats {
            messages: read(messages),
            sends: read(sends),
            links_deleted: read(links_deleted),
            deletions: read(deletions),
        }
    }
}
