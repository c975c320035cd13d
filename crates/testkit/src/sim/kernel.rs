//! The simulated kernel as the engine sees it.

use std::future::ready;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::channel::mpsc;
use futures::future::BoxFuture;
use netloom_kernel::nft::{Contents, Table};
use netloom_kernel::{
    AddressView, Kernel, KernelError, KernelEvent, KernelFuture, KernelStats, LinkCounters, LinkView,
    NeighbourView, Netns, NetnsJob, Op, PortHolder, ReachEvent, RouteView, TableEvent,
};
use netloom_model::{IfName, NetnsName};
use tokio::time::timeout_at;

use super::SimKernel;
use super::calls::{Answers, Collected};
use super::external::MOUNTS;
use super::watch::WATCH_CAPACITY;
use super::world::World;
use crate::errno::{EOPNOTSUPP, Refusal};

impl Kernel for SimKernel {
    fn ports(&self) -> Arc<dyn PortHolder> {
        Arc::new(self.sim_ports())
    }

    fn execute(&self, ops: Vec<Op>, deadline: Instant) -> BoxFuture<'static, Answers> {
        let mut state = self.lock();
        state.count_call(&ops);
        if state.is_plain() {
            return ready(state.run_plain(&ops)).boxed();
        }
        let deadline = tokio::time::Instant::from_std(deadline);
        let now = tokio::time::Instant::now();
        let call = state.begin_call(ops, now);
        // Answered already, if nothing hangs or takes time: no timer, and no runtime needed.
        match state.collect(call, deadline, now) {
            Collected::Answers(answers) => ready(answers).boxed(),
            Collected::Wait(..) => Pending { kernel: self.clone(), call }.answers(deadline).boxed(),
        }
    }

    fn links(&self, netns: Netns, _deadline: Instant) -> KernelFuture<Vec<LinkView>> {
        self.inquire("list the links", netns, |world| world.link_views(netns))
    }

    fn find_links(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        _deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.inquire("find links", netns, |world| world.find_views(netns, &names))
    }

    fn links_at(
        &self,
        netns: Netns,
        indexes: Vec<u32>,
        _deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.inquire("find links", netns, |world| world.views_at(netns, &indexes))
    }

    /// No packet passes here, so they stay at zero.
    fn link_counters(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        _deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkCounters>>> {
        self.inquire("read counters", netns, |world| {
            let found = world.find_views(netns, &names)?;
            Ok(found.into_iter().map(|link| link.map(|_| LinkCounters::default())).collect())
        })
    }

    fn addresses(&self, netns: Netns, _deadline: Instant) -> KernelFuture<Vec<AddressView>> {
        self.inquire("list the addresses", netns, |world| world.address_views(netns))
    }

    fn routes(&self, netns: Netns, _deadline: Instant) -> KernelFuture<Vec<RouteView>> {
        self.inquire("list the routes", netns, |world| world.route_views(netns))
    }

    fn neighbours(&self, netns: Netns, _deadline: Instant) -> KernelFuture<Vec<NeighbourView>> {
        self.inquire("list the neighbours", netns, |world| world.neighbour_views(netns))
    }

    fn namespaces(&self, _deadline: Instant) -> KernelFuture<Vec<NetnsName>> {
        ready(Ok(self.lock().world.own_namespaces())).boxed()
    }

    /// One that was never written says 0, but for `disable_ipv6`, which is known.
    fn read_setting(&self, netns: Netns, key: &str, _deadline: Instant) -> KernelFuture<String> {
        self.inquire(&format!("read net/{key}"), netns, |world| world.setting_text(netns, key))
    }

    fn table(&self, table: Table, deadline: Instant) -> KernelFuture<Option<Contents>> {
        let what = format!("read table {table}");
        let held_up = self.lock().calls.before_look(&table);
        let look = move |kernel: &Self| {
            let tables = &kernel.lock().world.tables;
            match tables.absent {
                true => Err(KernelError::refused(what, EOPNOTSUPP, "this kernel has no nftables")),
                false => Ok(tables.contents(&table)),
            }
        };
        let Some(waits) = held_up else { return ready(look(self)).boxed() };
        let kernel = self.clone();
        let deadline = tokio::time::Instant::from_std(deadline);
        let allowed = deadline.saturating_duration_since(tokio::time::Instant::now());
        async move {
            if timeout_at(deadline, waits).await.is_err() {
                return Err(KernelError::timed_out("read a table", allowed));
            }
            look(&kernel)
        }
        .boxed()
    }

    /// Always refused with `EOPNOTSUPP`: there is nothing to be in.
    fn run_in(&self, netns: Netns, _job: NetnsJob, _deadline: Instant) -> KernelFuture<()> {
        ready(Err(KernelError::refused(
            format!("run a job in {netns}"),
            EOPNOTSUPP,
            "the simulated kernel has no real namespaces",
        )))
        .boxed()
    }

    /// A path that exists nowhere.
    fn netns_path(&self, netns: NetnsName) -> PathBuf {
        PathBuf::from(MOUNTS).join(netns.as_str())
    }

    fn watch(&self) -> mpsc::Receiver<KernelEvent> {
        self.lock().world.watchers.add(WATCH_CAPACITY)
    }

    fn watch_reach(&self) -> mpsc::Receiver<ReachEvent> {
        self.lock().world.reach.add(WATCH_CAPACITY)
    }

    fn watch_tables(&self) -> mpsc::Receiver<TableEvent> {
        let world = &mut self.lock().world;
        match world.tables.absent {
            true => mpsc::channel(0).1,
            false => world.table_watchers.add(WATCH_CAPACITY),
        }
    }

    fn stats(&self) -> KernelStats {
        self.lock().stats
    }
}

impl SimKernel {
    fn inquire<T: Send + 'static>(
        &self,
        what: &str,
        netns: Netns,
        ask: impl FnOnce(&World) -> Result<T, Refusal>,
    ) -> KernelFuture<T> {
        let answer = ask(&self.lock().world).map_err(|refusal| {
            KernelError::refused(format!("{what} of {netns}"), refusal.errno, refusal.message())
        });
        ready(answer).boxed()
    }
}

/// A call that somebody waits for. Dropping it leaves the call to take effect unseen.
#[derive(Debug)]
struct Pending {
    kernel: SimKernel,
    call: u64,
}

impl Pending {
    async fn answers(self, deadline: tokio::time::Instant) -> Answers {
        loop {
            let collected = self.kernel.lock().collect(self.call, deadline, tokio::time::Instant::now());
            match collected {
                Collected::Answers(answers) => return answers,
                // Both ends of the wait, the time and the wake-up, mean: look again.
                Collected::Wait(until, woken) => drop(timeout_at(until, woken).await),
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.kernel.lock().abandon(self.call);
    }
}
