//! Owns the ports of the host, and serves those that no rule of the firewall leads on. Rank 1. Spawned by the controller;
//! asks nobody.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | ReservePorts | command | the ports of each request |
//! | AdoptPorts | command | ports that are not held |
//! | QuarantinePorts | command | the ports of the endpoint |
//! | ReleasePorts | command | () |
//! | ServePorts | command | () |
//! | LeadPorts | command | the engine's own port |
//! | StopServing | command | () |
//! | ReplaceDynamicRange | command | () |
//! | PortsOwnerRenamed | event | |
//! | ListPorts | query | the ports of each endpoint |
//! | PortsHeld | outcome | |
//! | AdoptedHeld | outcome | |
//! | OwnPortHeld | outcome | |
//! | PatienceOver | tick | |
//!
//! The allocator is plain data and decides in the handler (`netloom-ports`). Sockets are opened and closed elsewhere, in
//! the order in which that is asked for ([`PortHolder`]), so a port that is given back here is free for whoever is next.
//! What opening them comes to returns as a message: where somebody else on the host has a port that nobody named,
//! another one is tried, and where it was named, the refusal says who has it.
//!
//! A port of an endpoint that is deleted is not free until its link is gone, which takes a moment. Whoever wants that
//! very port meanwhile, as the next container of the same name does, waits here and is served when it is given back.
//!
//! Nothing is stored: after a start records say who has what ([`AdoptPorts`]). The death of this actor closes nothing
//! ([`PortsState`]).

use std::sync::Arc;

use futures::future::join_all;
use netloom_kernel::{HoldRefusal, PortHolder, PortSocket, PortToHold};
use netloom_model::{EndpointId, Error, HostPorts, ObjectKind, PortReason, Protocol, Reason, Result};
use netloom_ports::PortOwner;
use netloom_proxy::Ending;
use netloom_runtime::{Actor, Cx, Handle, OpCtx, Reply};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::attempt::{Attempt, Verdict};
use super::board::{Left, Waiting};
use super::keep::Released;
use super::message::{Answers, PatienceOver, PortsHeld, ReservePorts};
use super::parked::{Parked, Parking, may_pass};
use super::serve::Serving;
use super::state::PortsState;
use super::upkeep::Adoption;
use crate::LATE;

/// How often a port that nobody named is tried, where others on the host have the ones before. Engines beside each other go
/// through the same range from the same port, so libnetwork's ten (`maxAllocatePortAttempts`) are not enough for eleven.
pub const ATTEMPTS: u32 = 1_000;

// === Actor ===

/// The ports of the host.
#[derive(Debug)]
pub struct PortsActor {
    pub(super) state: PortsState,
    pub(super) holder: Arc<dyn PortHolder>,
    attempts: FxHashMap<u64, Attempt>,
    pub(super) adoptions: FxHashMap<u64, Adoption>,
    /// Endpoints whose sockets are being opened.
    underway: FxHashMap<EndpointId, Underway>,
    parking: Parking,
    /// Those who wait for the engine's own port.
    pub(super) leading: Waiting,
    next: u64,
}

/// What goes on for one endpoint.
#[derive(Debug, Default)]
struct Underway {
    /// How many reservations and adoptions.
    count: usize,
    /// Who waits for its ports being given back, with the time that there is for it.
    releases: Vec<(OpCtx, Reply<()>)>,
}

impl PortsActor {
    /// An actor that goes on from this state.
    #[must_use]
    pub fn new(holder: Arc<dyn PortHolder>, state: PortsState) -> Self {
        Self {
            state,
            holder,
            attempts: FxHashMap::default(),
            adoptions: FxHashMap::default(),
            underway: FxHashMap::default(),
            parking: Parking::default(),
            leading: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Nothing can be taken for an endpoint whose ports are being given back.
    pub(super) fn refuse_if_releasing(&self, owner: &PortOwner) -> Result<()> {
        match self.underway.get(&owner.id) {
            Some(underway) if !underway.releases.is_empty() => Err(releasing(owner)),
            _ => Ok(()),
        }
    }

    pub(super) fn begin(&mut self, owner: EndpointId) {
        self.underway.entry(owner).or_default().count += 1;
    }

    /// Something that went on for an endpoint has ended. What was to be given back behind it is.
    pub(super) fn end(&mut self, owner: EndpointId, cx: &mut Cx<'_, Self>) {
        let Some(underway) = self.underway.get_mut(&owner) else { return };
        underway.count -= 1;
        if underway.count > 0 {
            return;
        }
        let releases = self.underway.remove(&owner).map(|underway| underway.releases).unwrap_or_default();
        if !releases.is_empty() {
            self.give_back(owner, releases, cx);
        }
    }

    /// Gives everything back that an endpoint has: now, or when nothing goes on for it any more.
    pub(super) fn release(&mut self, op: OpCtx, owner: EndpointId, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        for Parked { message, reply, .. } in self.parking.of(owner) {
            reply.send(Err(releasing(&message.owner)));
        }
        self.lead_no_more(owner, releasing);
        match self.underway.get_mut(&owner) {
            Some(underway) => underway.releases.push((op, reply)),
            None => self.give_back(owner, vec![(op, reply)], cx),
        }
    }

    /// Closes sockets and ends who serves with them. Done when their ports are free.
    pub(super) fn let_go(&self, released: Released) -> impl Future<Output = ()> + use<> {
        let Released { mut sockets, proxies, endings, board } = released;
        let stopping = match board {
            Some(Left::Stopping(stopping)) => Some(stopping),
            Some(Left::Socket(socket)) => {
                sockets.push(socket);
                None
            }
            None => None,
        };
        let closed = self.holder.let_go(sockets);
        let ended = join_all(proxies.into_iter().map(Serving::stop));
        let cut_off = join_all(endings.into_iter().map(Ending::ended));
        async move {
            futures::join!(closed, ended, cut_off);
            if let Some(mut stopping) = stopping {
                stopping.listening_ended().await;
            }
        }
    }

    fn give_back(&mut self, owner: EndpointId, replies: Vec<(OpCtx, Reply<()>)>, cx: &mut Cx<'_, Self>) {
        let kept = {
            let mut known = self.state.get();
            known.allocator.release(owner);
            let endings = known.board.end(owner);
            Released { endings, ..known.keep.remove(owner) }
        };
        let gone = self.let_go(kept);
        let until = replies.iter().map(|(op, _)| op.deadline).max();
        cx.tasks().spawn(async move {
            let Some(until) = until else { return };
            // Dropped replies say that nobody answers any more.
            if tokio::time::timeout_at(until + LATE, gone).await.is_ok() {
                replies.into_iter().for_each(|(_, reply)| reply.send(()));
            }
        });
        for Parked { op, message, reply, .. } in self.parking.waiting_for(&owner.to_string()) {
            self.reserve(op, message, reply, cx);
        }
    }

    /// Chooses ports and has them held; waits where that promises something.
    fn reserve(
        &mut self,
        op: OpCtx,
        message: ReservePorts,
        reply: Reply<Result<Vec<HostPorts>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let chosen = self.refuse_if_releasing(&message.owner);
        let reserve = |()| self.state.get().allocator.reserve(&message.owner, &message.requests);
        let chosen = chosen.and_then(reserve);
        match chosen {
            Ok(chosen) if chosen.is_empty() => reply.send(Ok(chosen)),
            Ok(chosen) => {
                let ReservePorts { owner, requests } = message;
                self.begin(owner.id);
                let number = self.number();
                self.hold(number, Attempt::new(op, owner, requests, chosen, reply), cx);
            }
            Err(refusal) if may_pass(&refusal) && !self.parking.is_full() => {
                self.park(op, message, reply, refusal, cx);
            }
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    /// Lets a request wait until the operation's deadline.
    fn park(
        &mut self,
        op: OpCtx,
        message: ReservePorts,
        reply: Reply<Result<Vec<HostPorts>>>,
        refusal: Error,
        cx: &mut Cx<'_, Self>,
    ) {
        let number = self.number();
        let (served, waits) = oneshot::channel::<()>();
        let watch = op.clone();
        cx.run(
            &op,
            async move {
                // It ends with the request, with the operation, or with its time.
                let _ = watch.in_time(watch.unless_cancelled(waits)).await;
            },
            move |_| PatienceOver(number),
        );
        self.parking.push(Parked { number, op, message, reply, refusal, _served: served });
    }

    fn hold(&mut self, number: u64, attempt: Attempt, cx: &mut Cx<'_, Self>) {
        let (op, ports) = (attempt.op.clone(), attempt.to_hold());
        self.attempts.insert(number, attempt);
        let answers = self.try_to_hold(&op, ports);
        cx.run(&op, answers, move |answers| PortsHeld {
            attempt: number,
            answers: answers.unwrap_or_default(),
        });
    }

    /// Has ports held, and waits no longer than the operation allows.
    pub(super) fn try_to_hold(
        &self,
        op: &OpCtx,
        ports: Vec<PortToHold>,
    ) -> impl Future<Output = Answers> + use<> {
        let (count, until, allowed) = (ports.len(), op.deadline + LATE, op.allowed);
        let answers = self.holder.hold(ports, op.deadline_std());
        async move {
            let late = |_| (0..count).map(|_| Err(HoldRefusal::NotStarted(allowed))).collect();
            tokio::time::timeout_at(until, answers).await.unwrap_or_else(late)
        }
    }

    /// Takes a reservation back and tells why, with whoever has the port where that can be found.
    fn refuse(&mut self, attempt: Attempt, why: Why, mut spare: Vec<PortSocket>, cx: &mut Cx<'_, Self>) {
        let (op, owner) = (attempt.op.clone(), attempt.owner.id);
        let reply = attempt.fail(&mut self.state.get().allocator, &mut spare);
        let gone = self.holder.let_go(spare);
        let own = self.state.get().board.port();
        let why = match why {
            Why::Port(port, HoldRefusal::InUse)
                if port.protocol == Protocol::Tcp && own == Some(port.port) =>
            {
                Why::Error(Reason::Port(PortReason::EngineOwn { port: port.named() }).into())
            }
            why => why,
        };
        let user = match &why {
            Why::Port(port, HoldRefusal::InUse) => Some(self.holder.user(*port, op.deadline_std())),
            Why::Port(..) | Why::Error(_) => None,
        };
        cx.tasks().spawn(async move {
            let _ = tokio::time::timeout_at(op.deadline + LATE, gone).await;
            let user = match user {
                Some(user) => op.in_time(user).await.flatten(),
                None => None,
            };
            reply.send(Err(match why {
                Why::Port(port, refusal) => refusal.into_error(port.named(), user),
                Why::Error(error) => error,
            }));
        });
        self.end(owner, cx);
    }
}

/// Why a reservation is refused.
enum Why {
    Port(PortToHold, HoldRefusal),
    Error(Error),
}

fn releasing(owner: &PortOwner) -> Error {
    let object = netloom_model::Holder::new(ObjectKind::Endpoint, owner.id, &*owner.name);
    Reason::WrongPhase { object, phase: "giving its ports back" }.into()
}

// === Lifecycle ===

impl Actor for PortsActor {
    const KIND: &'static str = "ports";
}

// === Commands ===

impl Handle<ReservePorts> for PortsActor {
    fn handle(
        &mut self,
        op: OpCtx,
        message: ReservePorts,
        reply: Reply<Result<Vec<HostPorts>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.reserve(op, message, reply, cx);
    }
}

// === Outcomes ===

impl Handle<PortsHeld> for PortsActor {
    fn handle(&mut self, _: OpCtx, message: PortsHeld, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        let PortsHeld { attempt: number, answers } = message;
        let Some(mut attempt) = self.attempts.remove(&number) else { return };
        if let Err(error) = self.refuse_if_releasing(&attempt.owner) {
            let spare = answers.into_iter().flatten().collect();
            return self.refuse(attempt, Why::Error(error), spare, cx);
        }
        let mut spare = Vec::new();
        let verdict = attempt.proceed(answers, &mut self.state.get().allocator, &mut spare);
        match verdict {
            Verdict::Done => {
                let owner = attempt.owner.id;
                {
                    let mut known = self.state.get();
                    let sockets = attempt.succeed(&mut known.allocator);
                    known.keep.extend(owner, sockets);
                }
                self.end(owner, cx);
            }
            Verdict::Again => {
                // In this order: what is let go must not be in the way of what is tried next.
                if !spare.is_empty() {
                    let gone = self.holder.let_go(spare);
                    cx.tasks().spawn(gone);
                }
                self.hold(number, attempt, cx);
            }
            Verdict::Refused(port, refusal) => self.refuse(attempt, Why::Port(port, refusal), spare, cx),
            Verdict::Out(error) => self.refuse(attempt, Why::Error(error), spare, cx),
        }
    }
}

// === Ticks ===

impl Handle<PatienceOver> for PortsActor {
    fn handle(&mut self, _: OpCtx, PatienceOver(number): PatienceOver, _: Reply<()>, _: &mut Cx<'_, Self>) {
        if let Some(Parked { reply, refusal, .. }) = self.parking.remove(number) {
            reply.send(Err(refusal));
        }
    }
}
