//! A reservation on its way: ports are chosen, sockets are opened, and others are chosen where somebody has them.

use netloom_kernel::{HoldRefusal, PortSocket, PortToHold};
use netloom_model::{Error, HostPorts, Result};
use netloom_ports::{PortAllocator, PortOwner, PortRequest};
use netloom_runtime::{OpCtx, Reply};

use super::actor::ATTEMPTS;
use super::keep::places;
use super::message::Answers;

/// A reservation.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) op: OpCtx,
    pub(super) owner: PortOwner,
    requests: Vec<PortRequest>,
    chosen: Vec<HostPorts>,
    /// Requests whose sockets are being opened.
    open: Vec<usize>,
    held: Vec<(PortToHold, PortSocket)>,
    /// Ports that others have. They stay taken for as long as this goes on, so that none is chosen twice.
    in_use: Vec<HostPorts>,
    tries: u32,
    pub(super) reply: Reply<Result<Vec<HostPorts>>>,
}

/// How it goes on.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Every port is held.
    Done,
    /// Other ports are to be tried.
    Again,
    /// A port cannot be had, for this reason.
    Refused(PortToHold, HoldRefusal),
    /// There are no others to try.
    Out(Error),
}

impl Attempt {
    pub(super) fn new(
        op: OpCtx,
        owner: PortOwner,
        requests: Vec<PortRequest>,
        chosen: Vec<HostPorts>,
        reply: Reply<Result<Vec<HostPorts>>>,
    ) -> Self {
        let open = (0..requests.len()).collect();
        Self { op, owner, requests, chosen, open, held: Vec::new(), in_use: Vec::new(), tries: 0, reply }
    }

    /// The ports to hold next.
    pub(super) fn to_hold(&self) -> Vec<PortToHold> {
        self.open.iter().flat_map(|at| places(&self.chosen[*at])).collect()
    }

    /// Takes in what came of it, and sockets into `spare` that are of no use.
    pub(super) fn proceed(
        &mut self,
        answers: Answers,
        allocator: &mut PortAllocator,
        spare: &mut Vec<PortSocket>,
    ) -> Verdict {
        self.tries += 1;
        let mut answers = answers.into_iter();
        let mut again = Vec::new();
        let mut verdict = None;
        for at in std::mem::take(&mut self.open) {
            let mut refused = None;
            let before = self.held.len();
            for port in places(&self.chosen[at]) {
                match answers.next().unwrap_or(Err(HoldRefusal::Lost)) {
                    Ok(socket) => self.held.push((port, socket)),
                    Err(refusal) => refused = refused.or(Some((port, refusal))),
                }
            }
            let Some((port, refusal)) = refused else { continue };
            spare.extend(self.held.drain(before..).map(|(_, socket)| socket));
            let may_choose = refusal == HoldRefusal::InUse && self.requests[at].is_open();
            if may_choose && self.tries < ATTEMPTS {
                again.push(at);
            } else {
                verdict = verdict.or(Some(Verdict::Refused(port, refusal)));
            }
        }
        if let Some(verdict) = verdict {
            return verdict;
        }
        for at in &again {
            let tried = self.in_use.len() + 1;
            match allocator.reserve_other(&self.owner, &self.requests[*at], tried) {
                Ok(other) => self.in_use.push(std::mem::replace(&mut self.chosen[*at], other)),
                Err(error) => return Verdict::Out(error),
            }
        }
        self.open = again;
        if self.open.is_empty() { Verdict::Done } else { Verdict::Again }
    }

    /// Gives back what it tried in vain, answers, and hands the sockets over.
    pub(super) fn succeed(self, allocator: &mut PortAllocator) -> Vec<(PortToHold, PortSocket)> {
        // From the end, where an owner's latest ports are.
        for ports in self.in_use.iter().rev() {
            allocator.give_back(self.owner.id, ports);
        }
        self.reply.send(Ok(self.chosen));
        self.held
    }

    /// Gives everything back.
    pub(super) fn fail(
        self,
        allocator: &mut PortAllocator,
        spare: &mut Vec<PortSocket>,
    ) -> Reply<Result<Vec<HostPorts>>> {
        // From the end, where an owner's latest ports are.
        for ports in self.in_use.iter().chain(&self.chosen).rev() {
            allocator.give_back(self.owner.id, ports);
        }
        spare.extend(self.held.into_iter().map(|(_, socket)| socket));
        self.reply
    }
}
