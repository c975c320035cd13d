//! The part of an IPAM actor that has a driver of others, or of the engine's own that is one like them.
//!
//! A request is composed of several calls of the driver, each of which may take long, so it runs beside the actor. What
//! one network's requests touch they queue for: those for an endpoint behind each other, those for the whole network
//! alone. Another network's, or another driver's, never wait for them.

use std::collections::hash_map::Entry;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use netloom_ipam::driver::{AddressSpaces, Begun, IpamCx, IpamDiscovery, IpamDriver, MadeIpam, Work};
use netloom_ipam::{Granted, Leased};
use netloom_model::record::NetworkRecord;
use netloom_model::snapshot::PoolSnapshot;
use netloom_model::{EndpointId, Error, NetworkId, Reason, Result};
use netloom_runtime::{
    Admission, Cx, Gate, Handle, Janitor, OpCtx, Panicked, Port, Reply, Scope, TaskGroup, messages,
};
use rustc_hash::FxHashMap;

use super::actor::IpamActor;
use super::books::Books;
use super::dealer::{Dealer, Terms};
use super::message::{
    AskAddress, AskPool, GiveAddressBack, GivePoolBack, LeaseAddresses, RequestPools, ReserveAddresses,
    RestorePools,
};
use crate::{interrupted, panicked};

// === Actor ===

/// What an actor around a driver of others works with.
#[derive(Clone, Debug)]
pub struct IpamDeps {
    /// The engine's instance name.
    pub instance: Arc<str>,
    /// What the driver has given to whom. Outlives the actor.
    pub books: Books,
    /// Takes what nobody waits for any more.
    pub janitor: Janitor,
    /// Where the actor is found, whichever incarnation of it lives.
    pub port: Port<IpamActor>,
    /// How many requests of one network may run and wait; releases always may.
    pub waiting: usize,
}

/// A driver, and who waits for it.
pub(super) struct Foreign {
    driver: Box<dyn IpamDriver>,
    terms: Arc<Terms>,
    deps: IpamDeps,
    gates: FxHashMap<NetworkId, Gate<EndpointId, (OpCtx, Pending)>>,
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Foreign({})", self.terms.name)
    }
}

/// A request that waits or begins.
pub(super) enum Pending {
    Request(Box<RequestPools>, Reply<Result<Granted>>),
    Release(Reply<Result<()>>),
    TakeBack(Box<NetworkRecord>, Reply<Result<()>>),
    Restore(Box<RestorePools>, Reply<Result<()>>),
    Lease(LeaseAddresses, Reply<Result<Leased>>),
    ReleaseOne(EndpointId, Reply<Result<()>>),
    Keep(ReserveAddresses, Reply<Result<()>>),
    GiveUp(Arc<str>, Reply<Result<()>>),
}

impl Pending {
    fn scope(&self) -> Scope<EndpointId> {
        match self {
            Self::Request(..)
            | Self::Release(_)
            | Self::TakeBack(..)
            | Self::Restore(..)
            | Self::Keep(..)
            | Self::GiveUp(..) => Scope::All,
            Self::Lease(LeaseAddresses(_, want, _), _) => Scope::One(want.owner),
            Self::ReleaseOne(endpoint, _) => Scope::One(*endpoint),
        }
    }

    /// Whether something begins with it. All else is a part of what has begun, or its undoing.
    fn is_fresh(&self) -> bool {
        match self {
            Self::Request(..) | Self::Lease(..) | Self::Keep(..) => true,
            Self::Release(_)
            | Self::TakeBack(..)
            | Self::Restore(..)
            | Self::ReleaseOne(..)
            | Self::GiveUp(..) => false,
        }
    }

    fn gives_back(&self) -> bool {
        matches!(self, Self::Release(_) | Self::TakeBack(..) | Self::ReleaseOne(..) | Self::GiveUp(..))
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Request(_, reply) => reply.send(Err(error)),
            Self::Lease(_, reply) => reply.send(Err(error)),
            Self::Release(reply)
            | Self::TakeBack(_, reply)
            | Self::Restore(_, reply)
            | Self::Keep(_, reply)
            | Self::GiveUp(_, reply)
            | Self::ReleaseOne(_, reply) => reply.send(Err(error)),
        }
    }
}

/// A request has ended: how it is answered.
struct Finished {
    network: NetworkId,
    scope: Scope<EndpointId>,
    answer: Box<dyn FnOnce() + Send>,
}

messages! {
    Finished => ();
}

impl Foreign {
    pub(super) fn new(made: MadeIpam, deps: IpamDeps) -> Self {
        let MadeIpam { driver, capability, spaces } = made;
        let terms = Arc::new(Terms { name: driver.name().to_owned(), capability, spaces });
        Self { driver, terms, deps, gates: FxHashMap::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.terms.name
    }

    pub(super) fn books(&self) -> &Books {
        &self.deps.books
    }

    /// Its address spaces.
    pub(super) fn spaces(&self) -> Vec<String> {
        let AddressSpaces { local, global } = &self.terms.spaces;
        let mut spaces = vec![local.clone(), global.clone()];
        spaces.dedup();
        spaces
    }

    /// Every pool in use.
    pub(super) fn pools(&self) -> Vec<PoolSnapshot> {
        self.books().picture(&self.terms.spaces.local)
    }

    fn dealer(&self, cx: &Cx<'_, IpamActor>) -> Dealer {
        let IpamDeps { books, janitor, port, .. } = self.deps.clone();
        Dealer { me: cx.me(), terms: self.terms.clone(), books, janitor, port }
    }

    // === Requests ===

    /// Lets a request in, or has it wait, or refuses it.
    pub(super) fn admit(
        &mut self,
        op: OpCtx,
        network: NetworkId,
        pending: Pending,
        cx: &mut Cx<'_, IpamActor>,
    ) {
        let limit = self.deps.waiting;
        let gate = self.gates.entry(network).or_insert_with(|| Gate::new(limit));
        if pending.is_fresh() && gate.is_full() {
            let what = format!("the ipam driver {:?}, for network {}", self.terms.name, network.short());
            return pending.refuse(Reason::Busy { what, limit }.into());
        }
        if let Admission::Start((op, pending)) = gate.admit(pending.scope(), (op, pending)) {
            self.begin(&op, network, pending, cx);
        }
    }

    /// Begins a request whose turn it is. One that nobody waits for any more is answered at once.
    fn begin(&self, op: &OpCtx, network: NetworkId, pending: Pending, cx: &mut Cx<'_, IpamActor>) {
        let scope = pending.scope();
        if pending.is_fresh() && (op.cancel.is_cancelled() || op.remaining().is_zero()) {
            let error = interrupted(op, "waiting for the ipam driver");
            let refuse: Box<dyn FnOnce() + Send> = Box::new(move || pending.refuse(error));
            // As a message, so that a full queue of these is no recursion.
            return cx.me().tell(op, Finished { network, scope, answer: refuse });
        }
        // What gives back has waited for what it gives back, which may have hung for all of its time.
        let late = pending.gives_back() && op.remaining().is_zero();
        let own = if late { Dealer::time_to_give_back(op) } else { op.clone() };
        let dealer = self.dealer(cx);
        match pending {
            Pending::Request(message, reply) => {
                run(op, network, scope, async move { dealer.request_pools(own, *message).await }, reply, cx);
            }
            Pending::Release(reply) => {
                run(op, network, scope, async move { dealer.release_pools(own, network).await }, reply, cx);
            }
            Pending::TakeBack(record, reply) => {
                run(op, network, scope, async move { dealer.take_back(own, *record).await }, reply, cx);
            }
            Pending::Restore(message, reply) => {
                let RestorePools { network: record, endpoints, scope: reach, .. } = *message;
                let work = async move { dealer.restore(own, record, endpoints, reach).await };
                run(op, network, scope, work, reply, cx);
            }
            Pending::Lease(LeaseAddresses(_, want, mac), reply) => {
                let work = async move { dealer.lease(own, network, want, mac).await.map(Leased::from) };
                run(op, network, scope, work, reply, cx);
            }
            Pending::ReleaseOne(endpoint, reply) => {
                let work = async move { dealer.give_endpoint_back(&own, network, endpoint).await };
                run(op, network, scope, work, reply, cx);
            }
            Pending::Keep(message, reply) => {
                run(op, network, scope, async move { dealer.keep(own, message).await }, reply, cx);
            }
            Pending::GiveUp(name, reply) => {
                let work = async move { dealer.give_up(own, network, &name).await };
                run(op, network, scope, work, reply, cx);
            }
        }
    }

    /// Ends a request and begins those that waited for it.
    fn release(&mut self, network: NetworkId, scope: Scope<EndpointId>, cx: &mut Cx<'_, IpamActor>) {
        let Entry::Occupied(mut gate) = self.gates.entry(network) else { return };
        let ready = gate.get_mut().release(scope);
        if ready.is_empty() && gate.get().running() == 0 && gate.get().waiting() == 0 {
            gate.remove();
        }
        for (op, pending) in ready {
            self.begin(&op, network, pending, cx);
        }
    }

    // === The driver ===

    fn cx(&self, op: &OpCtx) -> IpamCx {
        IpamCx { instance: self.deps.instance.clone(), deadline: op.deadline_std() }
    }

    /// Discovery has something to say.
    pub(super) fn discovered(&mut self, op: &OpCtx, discovery: IpamDiscovery, tasks: &TaskGroup) {
        let cx = self.cx(op);
        let begun = self.driver.discovered(&cx, discovery);
        self.answer(op, begun, Reply::channel().0, tasks);
    }

    /// Answers with the driver's decision, or runs its slow part and answers with that.
    fn answer<T: Send + 'static>(
        &self,
        op: &OpCtx,
        begun: Begun<T>,
        reply: Reply<Result<T>>,
        tasks: &TaskGroup,
    ) {
        let mut work = match begun {
            Ok(work) => work,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        // Most decisions have no slow part, and a task for each would cost more than they do.
        let mut nobody = Context::from_waker(Waker::noop());
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut nobody)));
        match polled {
            Ok(Poll::Ready(answer)) => reply.send(answer),
            Err(_) => reply.send(Err(died(&self.terms.name))),
            Ok(Poll::Pending) => {
                let (op, terms) = (op.clone(), self.terms.clone());
                tasks.spawn(async move { reply.send(finish(&op, &terms.name, work).await) });
            }
        }
    }
}

/// Runs a request beside the actor; its end comes back as [`Finished`].
fn run<T: Send + 'static>(
    op: &OpCtx,
    network: NetworkId,
    scope: Scope<EndpointId>,
    work: impl Future<Output = Result<T>> + 'static,
    reply: Reply<Result<T>>,
    cx: &mut Cx<'_, IpamActor>,
) {
    cx.run(op, work, move |result: Result<Result<T>, Panicked>| {
        let result = result.unwrap_or_else(|cause| Err(panicked(&cause)));
        Finished { network, scope, answer: Box::new(move || reply.send(result)) }
    });
}

fn died(name: &str) -> Error {
    Error::internal(format!("the ipam driver {name:?} panicked")).uncertain()
}

/// Runs a driver's slow part, to the operation's deadline at the longest.
async fn finish<T>(op: &OpCtx, name: &str, work: Work<T>) -> Result<T> {
    match tokio::time::timeout_at(op.deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(died(name)),
        Err(_) => {
            let what = format!("the ipam driver {name:?}");
            Err(Reason::DeadlineExceeded { what, waited: op.allowed }.into())
        }
    }
}

// === Outcomes ===

impl Handle<Finished> for IpamActor {
    fn handle(&mut self, _: OpCtx, finished: Finished, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        let Finished { network, scope, answer } = finished;
        answer();
        if let Some(foreign) = self.foreign() {
            foreign.release(network, scope, cx);
        }
    }
}

// === Calls ===

/// A call that the composed requests make: only an actor that has a driver of others gets one.
macro_rules! calls {
    ($($message:ident => $method:ident -> $answer:ty;)+) => {$(
        impl Handle<$message> for IpamActor {
            fn handle(
                &mut self,
                op: OpCtx,
                $message(request): $message,
                reply: Reply<Result<$answer>>,
                cx: &mut Cx<'_, Self>,
            ) {
                let Some(foreign) = self.foreign() else { return };
                let own = foreign.cx(&op);
                let begun = foreign.driver.$method(&own, request);
                foreign.answer(&op, begun, reply, &cx.tasks());
            }
        }
    )+};
}

calls! {
    AskPool => request_pool -> netloom_ipam::driver::AllocatedPool;
    GivePoolBack => release_pool -> ();
    AskAddress => request_address -> netloom_ipam::driver::AllocatedAddress;
    GiveAddressBack => release_address -> ();
}
