//! The engine's one port, to which a firewall leads whoever comes to TCP ports that the kernel cannot lead to their
//! containers by itself.
//!
//! It is opened when the first endpoint needs it, and stays. A published port costs an entry in its table then, whatever
//! the number of ports in its row, instead of a socket that listens, and a task.
//!
//! The table leads there after a crash, too, until the next start. So the port is one that needs a right, if the engine has
//! it: nobody without it can take the port meanwhile, and with it those who come to what is published. (A crash of the
//! proxy of each port, as Docker has them, leaves the ports above 1023 to anybody as well, but no others.)

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use netloom_kernel::{HoldRefusal, PortSocket};
use netloom_model::{
    EndpointId, Error, HostPort, HostPorts, PortRange, PortReason, Protocol, Reason, Result,
};
use netloom_ports::PortOwner;
use netloom_proxy::{Counts, Ending, FrontRange, Options, Stopping, Switchboard};
use netloom_runtime::{Cause, Cx, Handle, OpCtx, Reply, messages};
use rustc_hash::{FxHashMap, FxHashSet};

use super::actor::PortsActor;
use super::message::{LeadPorts, LedPorts, ServedPort};
use super::serve::Carriers;
use super::state::Known;
use crate::{LATE, panicked};

/// How long it may take to open the port: the thread that holds ports may have thousands to open first.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where it looks for a port first, from the ends: below 1024 what has no well-known user. A process of many engines has
/// room for 63.
const OWN: [PortRange; 2] = [PortRange { first: 996, last: 1_023 }, PortRange { first: 954, last: 988 }];
/// How many ports of the dynamic range it tries then at most, from the end too: ports that nobody names are given out
/// from its start.
const TRIED: usize = 1_024;
/// How many may wait for that: more than operations are admitted.
const WAITING: usize = 65_536;

/// The port, and what it leads on.
#[derive(Debug, Default)]
pub(super) struct Board {
    place: Place,
    led: FxHashMap<EndpointId, Vec<Led>>,
    keys: u64,
}

#[derive(Debug, Default)]
enum Place {
    /// Nobody has needed it yet.
    #[default]
    Nowhere,
    At(Switchboard<u64>),
    /// A simulation has no packets.
    Simulated(u16, PortSocket),
}

/// Ports of an endpoint that are led on, with their key: it has counters and connections of its own.
#[derive(Debug)]
struct Led {
    ports: LedPorts,
    key: u64,
}

/// What is left of it where everything ends.
#[derive(Debug)]
pub(super) enum Left {
    Stopping(Stopping),
    Socket(PortSocket),
}

impl Board {
    /// Where it is, if it is open.
    pub(super) fn port(&self) -> Option<u16> {
        match &self.place {
            Place::Nowhere => None,
            Place::At(board) => Some(board.port()),
            Place::Simulated(port, _) => Some(*port),
        }
    }

    /// Begins with this port. The socket is made to listen, which takes some calls of the kernel, once in an engine's life.
    fn open(&mut self, port: u16, socket: PortSocket, carriers: &mut Carriers) -> Result<()> {
        if self.port().is_some() {
            // By what an actor began that has died since.
            return Ok(());
        }
        if socket.socket().is_none() {
            self.place = Place::Simulated(port, socket);
            return Ok(());
        }
        let refused = |error: &std::io::Error| {
            let errno = error.raw_os_error().unwrap_or_default();
            let operation = format!("listen on the engine's own port {port}");
            Error::from(Reason::Kernel { operation, errno, message: error.to_string() })
        };
        let listener = TcpListener::from(socket.into_socket().map_err(|error| refused(&error))?);
        let carriers = carriers.start().map_err(|error| refused(&error))?;
        self.place = Place::At(Switchboard::start(listener, Options::default(), carriers)?);
        Ok(())
    }

    /// Leads these ports of an endpoint and no others. What is led already stays, with its connections.
    fn lead(&mut self, owner: EndpointId, wanted: &[LedPorts]) -> Result<()> {
        let mut led = self.led.remove(&owner).unwrap_or_default();
        let all: FxHashSet<_> = wanted.iter().collect();
        let gone: Vec<_> = led.extract_if(.., |one| !all.contains(&one.ports)).collect();
        drop(self.end_each(gone));
        let mut known: FxHashSet<_> = led.iter().map(|one| one.ports).collect();
        for ports in wanted {
            if !known.insert(*ports) {
                continue;
            }
            self.keys += 1;
            let key = self.keys;
            if let Place::At(board) = &mut self.place
                && let Err(error) = board.lead(key, ports.front(), ports.to)
            {
                drop(self.end_each(led));
                return Err(error.into());
            }
            led.push(Led { ports: *ports, key });
        }
        if !led.is_empty() {
            self.led.insert(owner, led);
        }
        Ok(())
    }

    fn end_each(&mut self, led: Vec<Led>) -> Vec<Ending> {
        match &mut self.place {
            Place::At(board) => led.into_iter().map(|one| board.end(one.key)).collect(),
            Place::Nowhere | Place::Simulated(..) => Vec::new(),
        }
    }

    /// Ends everything that it leads to an endpoint, with its connections. Nobody is let in any more.
    pub(super) fn end(&mut self, owner: EndpointId) -> Vec<Ending> {
        let led = self.led.remove(&owner).unwrap_or_default();
        self.end_each(led)
    }

    /// Ends everything.
    pub(super) fn close(&mut self) -> Option<Left> {
        self.led.clear();
        match std::mem::take(&mut self.place) {
            Place::Nowhere => None,
            Place::At(board) => Some(Left::Stopping(board.stop(Duration::ZERO))),
            Place::Simulated(_, socket) => Some(Left::Socket(socket)),
        }
    }

    /// What it leads to an endpoint.
    pub(super) fn served(&self, owner: EndpointId) -> impl Iterator<Item = ServedPort> {
        self.led.get(&owner).into_iter().flatten().map(|Led { ports, key }| ServedPort {
            port: HostPort { address: ports.address, protocol: Protocol::Tcp, port: ports.range.first },
            last: ports.range.last,
            to: ports.to,
            via: self.port(),
            counts: match &self.place {
                Place::At(board) => board.counts(*key).unwrap_or_default(),
                Place::Nowhere | Place::Simulated(..) => Counts::default(),
            },
        })
    }
}

impl LedPorts {
    fn front(&self) -> FrontRange {
        FrontRange { address: self.address, first: self.range.first, last: self.range.last }
    }

    /// Whether they are among these ports. `::1` is one of `::`.
    fn are_among(&self, ports: &HostPorts) -> bool {
        let within = |range: PortRange| range.first <= self.range.first && self.range.last <= range.last;
        let has = |address: &IpAddr| {
            *address == self.address
                || (address.is_unspecified() && address.is_ipv4() == self.address.is_ipv4())
        };
        ports.protocol == Protocol::Tcp && within(ports.range) && ports.addresses.iter().any(has)
    }
}

/// A port of the engine's own, or why there is none. Outcome of the work of the first [`LeadPorts`].
#[derive(Debug)]
pub(super) struct OwnPortHeld(Result<(u16, PortSocket)>);

messages! {
    OwnPortHeld => ();
}

/// Those who wait for the port.
pub(super) type Waiting = Vec<(LeadPorts, Reply<Result<Option<u16>>>)>;

impl PortsActor {
    fn lead(&mut self, LeadPorts { owner, ports }: &LeadPorts) -> Result<Option<u16>> {
        self.refuse_if_releasing(owner)?;
        let mut known = self.state.get();
        let has = known.allocator.ports_of(owner.id);
        // Nearly all are the ones that were asked for, as a whole: there may be thousands.
        let whole: FxHashMap<_, _> = has.iter().map(|ports| (ports.range, ports)).collect();
        let has = |led: &LedPorts| {
            let is_whole = whole.get(&led.range).is_some_and(|ports| led.are_among(ports));
            is_whole || has.iter().any(|ports| led.are_among(ports))
        };
        if let Some(stranger) = ports.iter().find(|ports| !has(ports)) {
            let port =
                HostPort { address: stranger.address, protocol: Protocol::Tcp, port: stranger.range.first };
            let owner = format!("endpoint {}", owner.id.short()).into();
            let why = "it does not have this port";
            return Err(Reason::Port(PortReason::NoSocket { owner, port, why }).into());
        }
        known.board.lead(owner.id, ports)?;
        Ok(known.board.port().filter(|_| !ports.is_empty()))
    }

    /// Refuses those who wait to have ports led of an endpoint that loses them.
    pub(super) fn lead_no_more(&mut self, owner: EndpointId, why: impl Fn(&PortOwner) -> Error) {
        for (message, reply) in self.leading.extract_if(.., |(message, _)| message.owner.id == owner) {
            reply.send(Err(why(&message.owner)));
        }
    }
}

impl Known {
    /// The ports that may become the engine's own, the best one first: the same ones at each start. Nobody's endpoint has
    /// them, or is going to have them again.
    fn candidates(&self) -> Vec<u16> {
        let dynamic = self.allocator.dynamic().ports().rev().take(TRIED);
        let is_endpoints = |port: u16| {
            let all = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
            let mut ports =
                all.into_iter().map(|address| HostPort { address, protocol: Protocol::Tcp, port });
            self.recorded.contains(&port) || ports.any(|port| self.allocator.holder(port).is_some())
        };
        let own = OWN.into_iter().flat_map(|range| range.ports().rev());
        own.chain(dynamic).filter(|port| !is_endpoints(*port)).collect()
    }
}

// === Commands ===

impl Handle<LeadPorts> for PortsActor {
    fn handle(
        &mut self,
        _: OpCtx,
        message: LeadPorts,
        reply: Reply<Result<Option<u16>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let is_open = self.state.get().board.port().is_some();
        if is_open || message.ports.is_empty() {
            return reply.send(self.lead(&message));
        }
        if self.leading.len() >= WAITING {
            let what = "the engine's own port".into();
            return reply.send(Err(Reason::Busy { what, limit: WAITING }.into()));
        }
        self.leading.push((message, reply));
        if self.leading.len() > 1 {
            return;
        }
        let op = OpCtx::new(Cause::Event("the first port that the engine passes on"), PATIENCE);
        let candidates = self.state.get().candidates();
        let last = candidates.last().copied().unwrap_or_default();
        let held = self.holder.hold_one_of(candidates, op.deadline_std());
        let until = op.deadline + LATE;
        let own = HostPort { address: [0; 16].into(), protocol: Protocol::Tcp, port: last };
        let held = async move {
            let held = tokio::time::timeout_at(until, held).await;
            held.unwrap_or(Err(HoldRefusal::NotStarted(PATIENCE))).map_err(|why| why.into_error(own, None))
        };
        cx.run(&op, held, |held| OwnPortHeld(held.unwrap_or_else(|cause| Err(panicked(&cause)))));
    }
}

// === Outcomes ===

impl Handle<OwnPortHeld> for PortsActor {
    fn handle(&mut self, _: OpCtx, OwnPortHeld(held): OwnPortHeld, _: Reply<()>, _: &mut Cx<'_, Self>) {
        let opened = {
            let mut known = self.state.get();
            let known = &mut *known;
            held.and_then(|(port, socket)| known.board.open(port, socket, &mut known.carriers))
        };
        for (message, reply) in std::mem::take(&mut self.leading) {
            let answer = match &opened {
                Ok(()) => self.lead(&message),
                Err(error) => Err(error.clone()),
            };
            reply.send(answer);
        }
    }
}
