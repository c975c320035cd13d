//! Overlaps that come later: the host learns an address or a route where a network has a pool, because a VPN came up.
//!
//! The kernel's news are taken in bundles, as many as have come by the time the last look is over. Those that touch no
//! pool cost a question to IPAM, and those of a network's own device a look at that link. Any other one means that
//! everything is looked at and compared with what is known, so that it does not matter what was told, in which order,
//! or lost. Where there is news all the time, looks keep a distance from each other (`pace.rs`). The routes of all tables
//! count, because rules of a VPN may lead to any.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use futures::future::try_join_all;
use ipnet::IpNet;
use netloom_actor_services::ipam::ListOverlaps;
use netloom_actor_services::{Services, answered};
use netloom_ipam::{HostUse, PoolHolding};
use netloom_kernel::{AddressView, Kernel, KernelEvent, LinkView, Netns, ReachEvent, RouteView};
use netloom_model::snapshot::PoolOverlap;
use netloom_runtime::Handle;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::owners::{ENDPOINT, NETWORK};
use super::pace::Pace;
use super::*;
use crate::message::{HostChanged, LookAtHost};

/// How many subnets of the host are listed for one pool.
const LISTED: usize = 64;
/// How many subnets are kept apart while a look is under way; with more, everything is looked at.
const KEPT: usize = 1_024;
/// When a look that failed is tried again; each time twice as long, up to [`LONGEST_REST`].
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

// === What is known ===

/// The overlaps that were told. They pass to the controller's successor.
#[derive(Debug, Default)]
pub(crate) struct Overlaps {
    known: Found,
    concerns: Concerns,
}

/// Overlaps by network, pool and subnet of the host, with the number of the link by which it has that.
type Found = BTreeMap<(NetworkId, IpNet, IpNet), (PoolOverlap, Option<u32>)>;

impl Overlaps {
    pub(crate) fn list(&self) -> Vec<PoolOverlap> {
        self.known.values().map(|(overlap, _)| overlap.clone()).collect()
    }
}

/// The links by which the host has what overlaps, shared with the task that watches. Linux takes IPv4 routes away in
/// silence with their link, so these links are watched too, and no others: their news are many.
#[derive(Clone, Debug, Default)]
struct Concerns(Rc<(RefCell<Vec<u32>>, Notify)>);

impl Concerns {
    fn set(&self, links: Vec<u32>) {
        let (present, changed) = &*self.0;
        let before = mem::replace(&mut *present.borrow_mut(), links);
        if before.is_empty() != present.borrow().is_empty() {
            changed.notify_one();
        }
    }

    fn has(&self, event: &KernelEvent) -> bool {
        let concerns = |index: &u32| self.0.0.borrow().contains(index);
        match event {
            KernelEvent::LinkChanged(link) => concerns(&link.index),
            KernelEvent::LinkGone { index, .. } => concerns(index),
            KernelEvent::Overrun => true,
        }
    }

    fn any(&self) -> bool {
        !self.0.0.borrow().is_empty()
    }
}

/// What of the looks belongs to the controller that runs.
#[derive(Debug, Default)]
pub(crate) struct Lookout {
    /// Whether a look is under way.
    looking: bool,
    /// Whether a failed one is tried again.
    again: bool,
    /// How long was waited for that.
    rested: Duration,
    /// What came since the last look began.
    pub(super) pending: HostChanged,
    /// Who waits for the next one.
    waiting: Vec<Reply<()>>,
    /// How soon news may be looked at.
    pub(super) pace: Pace,
    /// Networks that have come into service since the look began.
    settled: Vec<NetworkId>,
    /// Whether the host has learnt something that touches no pool while a network was being made: that one may have
    /// looked at the host before, and have taken its pools since.
    unplaced: bool,
}

/// What a look came to.
pub(super) struct Looked {
    /// Everything that overlaps; `None` when nothing that came overlaps a pool.
    found: Option<Found>,
    /// Whether something that came touches none.
    unplaced: bool,
}

// === The news ===

impl HostChanged {
    fn note(&mut self, event: &ReachEvent) {
        match event {
            ReachEvent::AddressCame(AddressView { link, .. }) => self.learn(event, Some(*link)),
            ReachEvent::RouteCame(RouteView { link, .. }) => self.learn(event, *link),
            ReachEvent::AddressWent(_) | ReachEvent::RouteWent(_) => self.went = true,
            ReachEvent::Overrun => self.lost = true,
        }
    }

    fn learn(&mut self, event: &ReachEvent, link: Option<u32>) {
        self.came.extend(event.net().filter(counts).map(|net| (net, link)));
    }

    fn merge(&mut self, later: Self) {
        self.went |= later.went;
        self.came.extend(later.came);
        self.came.sort_unstable();
        self.came.dedup();
        self.lost |= later.lost || self.came.len() > KEPT;
        if self.lost {
            self.came.clear();
        }
    }
}

/// The default route and its halves, which VPNs set, say nothing about who uses an address.
fn counts(net: &IpNet) -> bool {
    net.prefix_len() > 1
}

/// Hands the kernel's news on, a bundle at a time, to whichever controller lives.
async fn watch(
    kernel: Arc<dyn Kernel>,
    mut reach: mpsc::Receiver<ReachEvent>,
    concerns: Concerns,
    controller: Port<ControllerActor>,
) {
    let mut links: Option<mpsc::Receiver<KernelEvent>> = None;
    loop {
        let mut change = HostChanged::default();
        tokio::select! {
            biased;
            event = reach.next() => match event {
                Some(event) => change.note(&event),
                None => {
                    tracing::error!("nobody tells what the host learns any more");
                    return;
                }
            },
            event = next(&mut links) => match event {
                Some(event) => change.went = concerns.has(&event),
                None => links = None,
            },
            () = concerns.0.1.notified() => {
                links = concerns.any().then(|| kernel.watch());
                // What became of those links before they were watched.
                change.went = links.is_some();
            }
        }
        // Whoever writes faster than this does not keep it from handing on what there is.
        for event in std::iter::from_fn(|| reach.try_recv().ok()).take(KEPT) {
            change.note(&event);
        }
        if change != HostChanged::default() {
            let op = OpCtx::new(Cause::Event("the host changed"), Duration::from_secs(30));
            controller.tell(&op, change);
        }
    }
}

/// The next one, of a reader that may not be there.
async fn next(links: &mut Option<mpsc::Receiver<KernelEvent>>) -> Option<KernelEvent> {
    match links {
        Some(links) => links.next().await,
        None => std::future::pending().await,
    }
}

// === Looking ===

/// What the host uses a subnet for, and by which link.
pub(super) type Use = (IpNet, HostUse, Option<u32>);

/// What tells the devices of the networks themselves from others.
struct Devices {
    instance: Arc<str>,
    /// Links that networks may have taken over, by their names.
    adopted: Vec<(NetworkId, Vec<String>)>,
    links: HashMap<u32, LinkView, FxBuildHasher>,
}

impl Devices {
    fn know(&mut self, links: impl IntoIterator<Item = LinkView>) {
        self.links.extend(links.into_iter().map(|link| (link.index, link)));
    }

    /// Whether a link is a network's own.
    fn is_own(&self, network: NetworkId, link: Option<u32>) -> bool {
        let Some(link) = link.and_then(|index| self.links.get(&index)) else { return false };
        let named = |(id, names): &(NetworkId, Vec<String>)| {
            *id == network && names.iter().any(|name| name == link.name.as_str())
        };
        let marked = link.tag().is_some_and(|tag| {
            let whose = tag.kind == ENDPOINT || (tag.kind == NETWORK && tag.id.parse() == Ok(network));
            *tag.instance == *self.instance && whose
        });
        marked || self.adopted.iter().any(named)
    }
}

/// What of the news touches a pool, and whether the rest is none.
struct Judged {
    /// Whether all that touches a pool is a network's own device in its own pool.
    harmless: bool,
    /// Whether something touches no pool.
    unplaced: bool,
}

/// Looks at the news alone. Most of the time they are of a network that is being made.
async fn judge(
    services: &Services,
    came: &[(IpNet, Option<u32>)],
    devices: &mut Devices,
    op: &OpCtx,
) -> Result<Judged> {
    let nets = came.iter().map(|(net, _)| *net).collect();
    let pools = by_net(overlapping(services, nets, op).await?);
    let touching = || came.iter().filter_map(|(net, link)| Some((*link, pools.get(net)?)));
    let unplaced = touching().count() < came.len();
    let mut links: Vec<_> = touching().filter_map(|(link, _)| link).collect();
    links.sort_unstable();
    links.dedup();
    if !links.is_empty() {
        let found = services.kernel.links_at(Netns::Host, links, op.deadline_std()).await?;
        devices.know(found.into_iter().flatten());
    }
    let own = |(link, pools): (Option<u32>, &Vec<PoolHolding>)| {
        pools.iter().all(|holding| devices.is_own(holding.network, link))
    };
    let harmless = touching().all(own);
    Ok(Judged { harmless, unplaced })
}

/// The pools that each subnet touches.
fn by_net(touched: Vec<(IpNet, PoolHolding)>) -> HashMap<IpNet, Vec<PoolHolding>, FxBuildHasher> {
    let mut pools: HashMap<IpNet, Vec<PoolHolding>, FxBuildHasher> = HashMap::default();
    for (net, holding) in touched {
        pools.entry(net).or_default().push(holding);
    }
    pools
}

async fn look(services: &Services, mut devices: Devices, op: &OpCtx) -> Result<Found> {
    let uses = uses(&*services.kernel, op).await?;
    let mut nets: Vec<_> = uses.iter().map(|(net, ..)| *net).collect();
    nets.sort_unstable();
    nets.dedup();
    let pools = by_net(overlapping(services, nets, op).await?);
    if pools.is_empty() {
        return Ok(Found::new());
    }
    devices.know(services.kernel.links(Netns::Host, op.deadline_std()).await?);
    let mut found = Found::new();
    let mut listed: HashMap<(NetworkId, IpNet), usize, FxBuildHasher> = HashMap::default();
    for (other, used_as, link) in uses {
        for PoolHolding { pool, network, name } in pools.get(&other).into_iter().flatten() {
            let key = (*network, *pool, other);
            if devices.is_own(*network, link) || found.contains_key(&key) {
                continue;
            }
            let listed = listed.entry((*network, *pool)).or_default();
            *listed += 1;
            if *listed > LISTED {
                continue;
            }
            let what = used_as.name().into_owned();
            let (network, name, pool) = (*network, name.clone(), *pool);
            found.insert(key, (PoolOverlap { network, name, pool, other, what }, link));
        }
    }
    Ok(found)
}

/// What the host uses, addresses first: the route that follows from one is not told beside it. In the same order each
/// time, so that what is listed of very many is the same.
pub(super) async fn uses(kernel: &dyn Kernel, op: &OpCtx) -> Result<Vec<Use>> {
    let deadline = op.deadline_std();
    let addresses = kernel.addresses(Netns::Host, deadline).await?.into_iter();
    let addresses = addresses.map(|view| (ReachEvent::AddressCame(view), HostUse::Address, Some(view.link)));
    let routes = kernel.routes_of_all_tables(Netns::Host, deadline).await?.into_iter();
    let routes = routes.map(|view| (ReachEvent::RouteCame(view), HostUse::route(view.table), view.link));
    let all = addresses.chain(routes).filter(|(event, ..)| event.counts());
    let nets = all.filter_map(|(event, used_as, link)| Some((event.net()?, used_as, link)));
    let mut uses: Vec<_> = nets.filter(|(net, ..)| counts(net)).collect();
    uses.sort_by_key(|(net, used_as, link)| (*used_as != HostUse::Address, *net, *used_as, *link));
    Ok(uses)
}

async fn overlapping(services: &Services, nets: Vec<IpNet>, op: &OpCtx) -> Result<Vec<(IpNet, PoolHolding)>> {
    let drivers = services.ipam.all();
    let asked = drivers.iter().map(async |driver| {
        let listed = answered(op, driver, driver.ask(op, ListOverlaps(nets.clone())).await.map(Ok));
        match listed {
            // One of others that is out of service must not hide what overlaps the pools of the rest.
            Err(error) if !driver.is_default() => {
                tracing::warn!(%driver, %error, "it is not known which of its pools the host's overlap");
                Ok(Vec::new())
            }
            listed => listed,
        }
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}

impl ControllerActor {
    /// Begins to listen; what a predecessor began goes on by itself.
    pub(super) fn watch_host(&mut self, cx: &mut Cx<'_, Self>) {
        let kernel = self.estate.services.kernel.clone();
        let reach = kernel.watch_reach();
        let (concerns, controller) = (self.estate.overlaps.concerns.clone(), self.estate.port.clone());
        cx.tasks().spawn(watch(kernel, reach, concerns, controller));
    }

    /// Begins a look if there is a reason for one, and none under way.
    pub(super) fn look_on(&mut self, cx: &mut Cx<'_, Self>) {
        if self.lookout.looking || (self.lookout.waiting.is_empty() && self.waits_for_more(cx)) {
            return;
        }
        let HostChanged { came, went, lost } = mem::take(&mut self.lookout.pending);
        let waiting = mem::take(&mut self.lookout.waiting);
        let everything = lost || (went && !self.estate.overlaps.known.is_empty());
        if self.estate.is_stopping() || (came.is_empty() && !everything) {
            return waiting.into_iter().for_each(|reply| reply.send(()));
        }
        self.lookout.looking = true;
        self.lookout.settled.clear();
        self.lookout.pace.begin(Instant::now());
        let services = self.estate.services.clone();
        let networks = self.estate.networks.iter().filter(|(_, child)| !child.adopts.is_empty());
        let adopted: Vec<_> = networks.map(|(id, child)| (*id, child.adopts.clone())).collect();
        let op = services.operation(Cause::Event("the host changed"));
        let own = op.clone();
        let mut devices = Devices { instance: services.instance.clone(), adopted, links: HashMap::default() };
        let work = async move {
            let mut unplaced = false;
            if !everything {
                let judged = judge(&services, &came, &mut devices, &own).await?;
                unplaced = judged.unplaced;
                if judged.harmless {
                    return Ok(Looked { found: None, unplaced });
                }
            }
            let found = look(&services, devices, &own).await?;
            Ok(Looked { found: Some(found), unplaced })
        };
        self.run(&op, work, move |result| Outcome::HostLooked(result, waiting), cx);
    }

    pub(super) fn host_looked(
        &mut self,
        op: &OpCtx,
        result: Result<Looked>,
        waiting: Vec<Reply<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.lookout.looking = false;
        self.lookout.pace.end(Instant::now());
        match result {
            Ok(Looked { found, unplaced }) => {
                self.lookout.rested = Duration::ZERO;
                self.lookout.unplaced |= unplaced && self.makes_networks();
                if let Some(found) = found {
                    // What was found of pools that one of these gave up on its way is told by no news.
                    let lost = found.keys().any(|(network, ..)| self.lookout.settled.contains(network));
                    self.lookout.pending.merge(HostChanged { lost, ..HostChanged::default() });
                    self.settle_overlaps(op, found);
                }
                waiting.into_iter().for_each(|reply| reply.send(()));
                self.look_on(cx);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see what the host uses; it is tried again");
                self.lookout.pending.merge(HostChanged { lost: true, ..HostChanged::default() });
                waiting.into_iter().for_each(|reply| reply.send(()));
                if !mem::replace(&mut self.lookout.again, true) {
                    let rest = (self.lookout.rested * 2).clamp(AGAIN, LONGEST_REST);
                    self.lookout.rested = rest;
                    let (me, op) = (self.estate.port.clone(), op.renewed(op.allowed));
                    cx.tasks().spawn(async move {
                        tokio::time::sleep(rest).await;
                        me.tell(&op, LookAtHost);
                    });
                }
            }
        }
    }

    /// Replaces what is known, and tells what has come and what has gone.
    fn settle_overlaps(&mut self, op: &OpCtx, mut found: Found) {
        // One that was deleted while the host was looked at.
        found.retain(|(network, ..), _| self.estate.networks.get(*network).is_some());
        let before = mem::replace(&mut self.estate.overlaps.known, found);
        self.note_concerns();
        let ended = before.iter().filter(|(key, _)| !self.estate.overlaps.known.contains_key(key));
        for (_, (overlap, _)) in ended {
            self.tell_ended(op, overlap);
        }
        let begun = self.estate.overlaps.known.iter().filter(|(key, _)| !before.contains_key(key));
        for (_, (PoolOverlap { network, name, pool, other, what }, _)) in begun {
            tracing::warn!(%network, name, %pool, %other, what, "a pool overlaps what the host has learnt");
            let (network, pool, other, what) = (*network, *pool, *other, what.clone());
            self.estate.events.emit(op, EventKind::PoolOverlapsHost { network, pool, other, what });
        }
    }

    /// The pools of a network are free, so they overlap nothing.
    pub(super) fn forget_overlaps(&mut self, op: &OpCtx, id: NetworkId) {
        let known = mem::take(&mut self.estate.overlaps.known);
        let (gone, kept): (Found, Found) = known.into_iter().partition(|((network, ..), _)| *network == id);
        self.estate.overlaps.known = kept;
        if !gone.is_empty() {
            self.note_concerns();
        }
        for (overlap, _) in gone.values() {
            self.tell_ended(op, overlap);
        }
    }

    fn note_concerns(&self) {
        let links = self.estate.overlaps.known.values().filter_map(|(_, link)| *link);
        self.estate.overlaps.concerns.set(links.collect());
    }

    fn tell_ended(&self, op: &OpCtx, PoolOverlap { network, pool, other, .. }: &PoolOverlap) {
        let (network, pool, other) = (*network, *pool, *other);
        self.estate.events.emit(op, EventKind::PoolOverlapEnded { network, pool, other });
    }

    fn makes_networks(&self) -> bool {
        self.estate.networks.values().any(|child| child.state == State::Creating)
    }

    /// A network has come into service: what the host learnt while that was being made may be in its pools, and what was
    /// found in pools of it may be in such as it gave up for others.
    pub(super) fn look_if_something_came_meanwhile(&mut self, op: &OpCtx, id: NetworkId) {
        if self.lookout.looking {
            self.lookout.settled.push(id);
        }
        if self.lookout.unplaced || self.estate.overlaps.known.keys().any(|(network, ..)| *network == id) {
            self.lookout.unplaced = self.lookout.unplaced && self.makes_networks();
            self.estate.port.tell(op, LookAtHost);
        }
    }
}

impl Handle<HostChanged> for ControllerActor {
    fn handle(&mut self, _: OpCtx, change: HostChanged, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.lookout.pending.merge(change);
        self.look_on(cx);
    }
}

impl Handle<LookAtHost> for ControllerActor {
    fn handle(&mut self, _: OpCtx, _: LookAtHost, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.lookout.again = false;
        self.lookout.pending.lost = true;
        self.lookout.waiting.push(reply);
        self.look_on(cx);
    }
}
