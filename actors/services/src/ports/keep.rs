//! The sockets of each endpoint.

use std::net::SocketAddr;

use netloom_kernel::{Place, PortSocket, PortToHold};
use netloom_model::{EndpointId, Error, HostPort, HostPorts, PortReason, Reason, Result};
use netloom_proxy::{Counts, Ending};
use rustc_hash::{FxHashMap, FxHashSet};

use super::board::Left;
use super::message::{ServedPort, UnheldPort};
use super::serve::{Front, Serving};

/// What became of a port's socket.
#[derive(Debug)]
pub(super) enum State {
    Held(PortSocket),
    /// The port is served with it.
    Served(Served),
    /// There is none, and this is why.
    Unheld(Error),
}

/// Who serves a port.
#[derive(Debug)]
pub(super) enum Served {
    /// The proxy.
    Proxy(Serving),
    /// Nobody: a simulation has no packets. Where it would lead.
    Simulated(PortSocket, SocketAddr),
}

/// What an endpoint had.
#[derive(Debug, Default)]
pub(super) struct Released {
    pub(super) sockets: Vec<PortSocket>,
    pub(super) proxies: Vec<Serving>,
    /// Connections that were led to it.
    pub(super) endings: Vec<Ending>,
    /// The engine's own port.
    pub(super) board: Option<Left>,
}

impl Released {
    fn add(&mut self, state: State) {
        match state {
            State::Held(socket) | State::Served(Served::Simulated(socket, _)) => self.sockets.push(socket),
            State::Served(Served::Proxy(proxy)) => self.proxies.push(proxy),
            State::Unheld(_) => {}
        }
    }
}

/// A port with its socket.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) port: PortToHold,
    pub(super) state: State,
}

impl Kept {
    /// Has it served: what is left to be done. Nothing where it is served already, or nobody comes.
    fn serve(&mut self, owner: EndpointId, port: HostPort, to: SocketAddr) -> Result<Option<Front>> {
        match &self.state {
            State::Served(_) => return Ok(None),
            State::Unheld(_) => {
                return Err(no_socket(owner, port, "it could not be held when the port was adopted"));
            }
            State::Held(_) => {}
        }
        let lost = State::Unheld(no_socket(owner, port, "it was lost when it was to be served"));
        let State::Held(socket) = std::mem::replace(&mut self.state, lost) else { return Ok(None) };
        let (front, served) = if socket.socket().is_some() {
            let (front, serving) = Front::new(port, socket, to);
            (Some(front), Served::Proxy(serving))
        } else {
            (None, Served::Simulated(socket, to))
        };
        self.state = State::Served(served);
        Ok(front)
    }

    /// Why no socket holds the port.
    fn unheld(&self) -> Option<&Error> {
        match &self.state {
            State::Unheld(why) => Some(why),
            State::Served(Served::Proxy(serving)) => serving.refusal(),
            State::Held(_) | State::Served(Served::Simulated(..)) => None,
        }
    }
}

/// The sockets of every endpoint.
#[derive(Debug, Default)]
pub(super) struct Keep(FxHashMap<EndpointId, Vec<Kept>>);

fn no_socket(owner: EndpointId, port: HostPort, why: &'static str) -> Error {
    let owner = format!("endpoint {}", owner.short()).into();
    Reason::Port(PortReason::NoSocket { owner, port, why }).into()
}

/// Where to open sockets so that they hold these ports: one for both families where every address of both is meant.
pub(super) fn places(ports: &HostPorts) -> impl Iterator<Item = PortToHold> {
    let both = ports.addresses.iter().filter(|address| address.is_unspecified()).count() == 2;
    let single = |both: bool| {
        let alone = ports.addresses.iter().filter(move |address| !(both && address.is_unspecified()));
        alone.map(|address| Place::One(*address))
    };
    let protocol = ports.protocol;
    ports.range.ports().flat_map(move |port| {
        let places = both.then_some(Place::Both).into_iter().chain(single(both));
        places.map(move |place| PortToHold { place, protocol, port })
    })
}

impl Keep {
    /// Takes in what became of ports that were to be held once more; those that are held by nothing now.
    pub(super) fn settle(&mut self, owner: EndpointId, news: Vec<(PortToHold, State)>) -> Vec<UnheldPort> {
        let kept = self.0.entry(owner).or_default();
        let tried: FxHashSet<PortToHold> = news.iter().map(|(port, _)| *port).collect();
        kept.retain(|kept| kept.unheld().is_none() || !tried.contains(&kept.port));
        // Somebody else may have been faster, for the same endpoint.
        let there: FxHashSet<PortToHold> = kept.iter().map(|kept| kept.port).collect();
        let mut unheld = Vec::new();
        for (port, state) in news.into_iter().filter(|(port, _)| !there.contains(port)) {
            if let State::Unheld(why) = &state {
                unheld.push(UnheldPort { port: port.named(), why: why.clone() });
            }
            kept.push(Kept { port, state });
        }
        unheld
    }

    /// Adds sockets of ports that the endpoint had none of.
    pub(super) fn extend(&mut self, owner: EndpointId, sockets: Vec<(PortToHold, PortSocket)>) {
        if !sockets.is_empty() {
            let new = sockets.into_iter().map(|(port, socket)| Kept { port, state: State::Held(socket) });
            self.0.entry(owner).or_default().extend(new);
        }
    }

    /// Takes away everything that an endpoint has.
    pub(super) fn remove(&mut self, owner: EndpointId) -> Released {
        let mut released = Released::default();
        self.0.remove(&owner).into_iter().flatten().for_each(|kept| released.add(kept.state));
        released
    }

    /// Takes away everything.
    pub(super) fn remove_all(&mut self) -> Released {
        let mut released = Released::default();
        self.0.drain().flat_map(|(_, kept)| kept).for_each(|kept| released.add(kept.state));
        released
    }

    /// The ports of these for which the endpoint has no socket.
    pub(super) fn missing(&self, owner: EndpointId, ports: &[HostPorts]) -> Vec<PortToHold> {
        let kept = self.0.get(&owner).map_or(&[][..], Vec::as_slice);
        let is_kept = |kept: &&Kept| kept.unheld().is_none();
        let has: FxHashSet<PortToHold> = kept.iter().filter(is_kept).map(|kept| kept.port).collect();
        ports.iter().flat_map(places).filter(|port| !has.contains(port)).collect()
    }

    /// Takes the sockets of ports that are to be served: what is left to be done with them, and the first refusal. The
    /// endpoint keeps its ports, whatever comes of it.
    pub(super) fn serve(
        &mut self,
        owner: EndpointId,
        ports: Vec<(HostPort, SocketAddr)>,
    ) -> (Vec<Front>, Result<()>) {
        let all = self.0.get_mut(&owner).map_or(&mut [][..], Vec::as_mut_slice);
        let places: FxHashMap<_, _> = all.iter().enumerate().map(|(at, kept)| (kept.port, at)).collect();
        let (mut fronts, mut outcome) = (Vec::new(), Ok(()));
        for (port, to) in ports {
            let found = PortToHold::covering(port).find_map(|place| places.get(&place));
            match found.map(|at| &mut all[*at]) {
                Some(kept) => match kept.serve(owner, port, to) {
                    Ok(front) => fronts.extend(front),
                    Err(error) => outcome = outcome.and(Err(error)),
                },
                None => outcome = outcome.and(Err(no_socket(owner, port, "it does not have this port"))),
            }
        }
        (fronts, outcome)
    }

    pub(super) fn unheld(&self, owner: EndpointId) -> Vec<UnheldPort> {
        let unheld =
            |kept: &Kept| kept.unheld().map(|why| UnheldPort { port: kept.port.named(), why: why.clone() });
        self.0.get(&owner).into_iter().flatten().filter_map(unheld).collect()
    }

    pub(super) fn served(&self, owner: EndpointId) -> impl Iterator<Item = ServedPort> {
        let served = |kept: &Kept| {
            let (to, counts) = match &kept.state {
                State::Served(Served::Proxy(serving)) if serving.refusal().is_none() => {
                    (serving.to, serving.counts())
                }
                State::Served(Served::Simulated(_, to)) => (*to, Counts::default()),
                State::Held(_) | State::Unheld(_) | State::Served(_) => return None,
            };
            let (port, last, via) = (kept.port.named(), kept.port.port, None);
            Some(ServedPort { port, last, to, via, counts })
        };
        self.0.get(&owner).into_iter().flatten().filter_map(served)
    }
}
