//! The allocator.

use std::net::IpAddr;
use std::sync::Arc;

use netloom_model::{
    EndpointId, Error, Holder, HostPort, HostPorts, PortRange, PortReason, Protocol, Reason, Result,
};
use rustc_hash::FxHashMap;

use crate::owners::{OwnerKey, Owners};
use crate::plane::Plane;
use crate::request::{self, PortOwner, PortRequest};
use crate::rounds::Rounds;

/// Who has ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holding {
    /// The endpoint.
    pub owner: PortOwner,
    /// Its ports, in the order in which it got them.
    pub ports: Vec<HostPorts>,
    /// Whether it is deleted, and has them only until its link is gone.
    pub leaving: bool,
}

/// Who has which port of the host.
#[derive(Debug)]
pub struct PortAllocator {
    dynamic: PortRange,
    /// By IPv6 or not, and protocol.
    planes: FxHashMap<(bool, Protocol), Plane>,
    owners: Owners,
    rounds: Rounds,
}

impl PortAllocator {
    /// An allocator of the ports of one host. `dynamic` is where ports come from that nobody names.
    #[must_use]
    pub fn new(dynamic: PortRange) -> Self {
        Self { dynamic, planes: FxHashMap::default(), owners: Owners::default(), rounds: Rounds::default() }
    }

    /// Where ports come from that nobody names.
    #[must_use]
    pub fn dynamic(&self) -> PortRange {
        self.dynamic
    }

    /// Changes that, for all that is asked for from now on.
    pub fn replace_dynamic(&mut self, dynamic: PortRange) {
        self.dynamic = dynamic;
    }

    /// Takes ports for an owner: one answer for each request, in their order, or none at all.
    ///
    /// Requests without a choice are served first, then those for one port of a range, then those for any: nobody is
    /// given a port that another request of the same call names.
    ///
    /// # Errors
    /// `InvalidParameter` for what makes no sense, two requests for the same port among it; [`PortReason::Taken`] with
    /// the holder; [`PortReason::Exhausted`]; `WrongPhase` for an owner in quarantine.
    pub fn reserve(&mut self, owner: &PortOwner, requests: &[PortRequest]) -> Result<Vec<HostPorts>> {
        request::validate(requests)?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.enter(owner)?;
        let before = self.pieces(key);
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|at| requests[*at].freedom());
        let mut given = vec![None; requests.len()];
        for at in order {
            match self.serve(key, before, &requests[at]) {
                Ok(ports) => given[at] = Some(ports),
                Err(error) => {
                    self.cut_back(key, before);
                    return Err(error);
                }
            }
        }
        Ok(given.into_iter().flatten().collect())
    }

    /// Takes other ports for one request, behind those that it was given before. Those stay taken: whoever found that
    /// they cannot be used gives them back when it has found some that can.
    ///
    /// # Errors
    /// As [`Self::reserve`]; `in_use` says in [`PortReason::Exhausted`] how many were tried.
    pub fn reserve_other(
        &mut self,
        owner: &PortOwner,
        request: &PortRequest,
        in_use: usize,
    ) -> Result<HostPorts> {
        request::validate(std::slice::from_ref(request))?;
        let key = self.enter(owner)?;
        let before = self.pieces(key);
        let given = self.serve(key, before, request).map_err(|error| match error.reason() {
            Reason::Port(PortReason::Exhausted { wanted, count, .. }) => {
                let (wanted, count) = (wanted.clone(), *count);
                Reason::Port(PortReason::Exhausted { wanted, count, in_use }).into()
            }
            _ => error,
        });
        if given.is_err() {
            self.cut_back(key, before);
        }
        given
    }

    /// Takes ports that an owner had before, at a start or after a crash, all or none. What it has already stays its own,
    /// and is in quarantine no longer.
    ///
    /// # Errors
    /// [`PortReason::Taken`] with the holder.
    pub fn adopt(&mut self, owner: &PortOwner, ports: &[HostPorts]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let left = self.owners.key(owner.id).and_then(|key| self.owners.get_mut(key));
        let left = left.is_some_and(|entry| std::mem::take(&mut entry.leaving));
        let key = self.enter(owner)?;
        let before = self.pieces(key);
        let refused = ports.iter().find_map(|piece| self.adopt_piece(key, piece).err());
        if let Some(error) = refused {
            if let Some(entry) = self.owners.get_mut(key) {
                entry.leaving = left;
            }
            self.cut_back(key, before);
            return Err(error);
        }
        Ok(())
    }

    /// Gives back ports of an owner that were taken together. What is not its own is left alone.
    pub fn give_back(&mut self, owner: EndpointId, ports: &HostPorts) {
        let Some(key) = self.owners.key(owner) else { return };
        let Some(entry) = self.owners.get_mut(key) else { return };
        let Some(at) = entry.pieces.iter().rposition(|piece| piece == ports) else { return };
        let piece = entry.pieces.remove(at);
        self.free(&piece);
        self.leave_if_empty(key);
    }

    /// Gives back every port of an owner, in quarantine or not, if it has any.
    pub fn release(&mut self, owner: EndpointId) {
        let entry = self.owners.key(owner).and_then(|key| self.owners.remove(key));
        for piece in entry.into_iter().flat_map(|entry| entry.pieces) {
            self.free(&piece);
        }
    }

    /// The owner is deleted: its ports stay taken until they are [released](Self::release), and whoever wants one is
    /// told so. Whether it had any.
    pub fn quarantine(&mut self, owner: EndpointId) -> bool {
        let entry = self.owners.key(owner).and_then(|key| self.owners.get_mut(key));
        entry.map(|entry| entry.leaving = true).is_some()
    }

    /// The owner has another name from now on.
    pub fn rename(&mut self, owner: EndpointId, name: &Arc<str>) {
        if let Some(entry) = self.owners.key(owner).and_then(|key| self.owners.get_mut(key)) {
            entry.name.clone_from(name);
        }
    }

    /// What an owner has.
    #[must_use]
    pub fn ports_of(&self, owner: EndpointId) -> &[HostPorts] {
        let entry = self.owners.key(owner).and_then(|key| self.owners.get(key));
        entry.map_or(&[], |entry| &entry.pieces)
    }

    /// Who keeps others from a port: whoever has it on this address, on all of them, or, if it is asked for on all of
    /// them, on any. With the address on which it is held.
    #[must_use]
    pub fn holder(&self, port: HostPort) -> Option<(HostPort, Holder)> {
        let (address, key) = self.plane(port.address, port.protocol)?.holder(port.address, port.port)?;
        Some((HostPort { address, ..port }, self.owners.get(key)?.holder()))
    }

    /// Every owner with its ports.
    pub fn holdings(&self) -> impl Iterator<Item = Holding> {
        self.owners.iter().map(|entry| Holding {
            owner: PortOwner { id: entry.id, name: entry.name.clone() },
            ports: entry.pieces.clone(),
            leaving: entry.leaving,
        })
    }

    fn enter(&mut self, owner: &PortOwner) -> Result<OwnerKey> {
        let key = self.owners.enter(owner.id, &owner.name);
        match self.owners.get(key) {
            Some(entry) if entry.leaving => {
                Err(Reason::WrongPhase { object: entry.holder(), phase: "deleted" }.into())
            }
            _ => Ok(key),
        }
    }

    fn pieces(&self, key: OwnerKey) -> usize {
        self.owners.get(key).map_or(0, |entry| entry.pieces.len())
    }

    /// Frees what an owner has taken since it had this many pieces.
    fn cut_back(&mut self, key: OwnerKey, pieces: usize) {
        let Some(entry) = self.owners.get_mut(key) else { return };
        for piece in entry.pieces.split_off(pieces) {
            self.free(&piece);
        }
        self.leave_if_empty(key);
    }

    fn leave_if_empty(&mut self, key: OwnerKey) {
        if self.pieces(key) == 0 && self.owners.get(key).is_some_and(|entry| !entry.leaving) {
            self.owners.remove(key);
        }
    }

    fn serve(&mut self, key: OwnerKey, before: usize, request: &PortRequest) -> Result<HostPorts> {
        let wanted = request.wanted(self.dynamic);
        let ports = if request.is_open() {
            self.choose(&wanted, request.count)?
        } else {
            if let Some(refused) = self.refusal(&wanted) {
                return Err(self.told(key, before, request, refused));
            }
            wanted
        };
        self.take(key, &ports);
        Ok(ports)
    }

    /// The first of these ports that somebody has.
    fn refusal(&self, wanted: &HostPorts) -> Option<HostPort> {
        let PortRange { first, last } = wanted.range;
        let taken = wanted.addresses.iter().filter_map(|address| {
            let port = self.plane(*address, wanted.protocol)?.first_taken(*address, first, last)?;
            Some(HostPort { address: *address, protocol: wanted.protocol, port })
        });
        taken.min_by_key(|port| port.port)
    }

    /// What to say of a port that is taken: two requests of one call are in each other's way, or there is a holder.
    fn told(&self, key: OwnerKey, before: usize, request: &PortRequest, refused: HostPort) -> Error {
        let holder = self.plane(refused.address, refused.protocol);
        let Some((address, holder)) = holder.and_then(|plane| plane.holder(refused.address, refused.port))
        else {
            return Error::internal(format!("port {refused} is taken by nobody"));
        };
        let port = HostPort { address, ..refused };
        if holder == key
            && let Some(entry) = self.owners.get(key)
            && let Some(other) = entry.pieces[before..].iter().find(|piece| piece.contains(port))
        {
            return request::overlap(request, other);
        }
        self.taken(port, holder)
    }

    fn taken(&self, port: HostPort, holder: OwnerKey) -> Error {
        match self.owners.get(holder) {
            Some(entry) => {
                let (holder, leaving) = (entry.holder(), entry.leaving);
                Reason::Port(PortReason::Taken { port, holder, leaving }).into()
            }
            None => Error::internal(format!("port {port} has an owner that nobody knows")),
        }
    }

    /// Chooses `count` ports in a row, free on every address, behind those given last.
    fn choose(&mut self, wanted: &HostPorts, count: u16) -> Result<HostPorts> {
        let HostPorts { protocol, addresses, range } = wanted;
        let start = self.rounds.next(addresses[0], *protocol, *range);
        // A row may begin before the place where the search began, so the second half goes on behind it.
        let until = range.last.min(start.saturating_add(count - 1).saturating_sub(1));
        let behind = self.row(wanted, count, start, range.last);
        let found = behind.or_else(|| self.row(wanted, count, range.first, until));
        let Some(first) = found else {
            let wanted = wanted.clone();
            return Err(Reason::Port(PortReason::Exhausted { wanted, count, in_use: 0 }).into());
        };
        let last = first + (count - 1);
        for address in addresses.iter() {
            self.rounds.gave(*address, *protocol, *range, last);
        }
        Ok(HostPorts { range: PortRange { first, last }, ..wanted.clone() })
    }

    /// The first of `count` free ports in a row between two ports.
    fn row(&self, wanted: &HostPorts, count: u16, from: u16, last: u16) -> Option<u16> {
        let mut from = from;
        loop {
            let first = self.first_free(wanted, from, last)?;
            let end = first.checked_add(count - 1).filter(|end| *end <= last)?;
            let taken = wanted.addresses.iter().filter_map(|address| {
                self.plane(*address, wanted.protocol)?.first_taken(*address, first, end)
            });
            match taken.max() {
                None => return Some(first),
                Some(taken) => from = taken.checked_add(1)?,
            }
        }
    }

    /// The first port that is free on every address.
    fn first_free(&self, wanted: &HostPorts, from: u16, last: u16) -> Option<u16> {
        let mut port = from;
        loop {
            let start = port;
            for address in wanted.addresses.iter() {
                if port > last {
                    return None;
                }
                if let Some(plane) = self.plane(*address, wanted.protocol) {
                    port = plane.first_free(*address, port, last)?;
                }
            }
            if port > last {
                return None;
            }
            if port == start {
                return Some(port);
            }
        }
    }

    fn adopt_piece(&mut self, key: OwnerKey, piece: &HostPorts) -> Result<()> {
        piece.range.validate("ports")?;
        for port in piece.each() {
            let plane = self.plane(port.address, port.protocol);
            let held = plane.and_then(|plane| plane.holder(port.address, port.port));
            if let Some((address, holder)) = held
                && (holder != key || address != port.address)
            {
                return Err(self.taken(HostPort { address, ..port }, holder));
            }
        }
        // Ports that it has already are no news; the rest is taken in as few pieces as there are gaps.
        let has = |this: &Self, address: IpAddr, port: u16| {
            this.plane(address, piece.protocol).is_some_and(|plane| plane.owner(address, port) == Some(key))
        };
        let missing = |this: &Self, port: u16| {
            let missing: Vec<IpAddr> =
                piece.addresses.iter().copied().filter(|address| !has(this, *address, port)).collect();
            missing
        };
        let mut run: Option<(Vec<IpAddr>, PortRange)> = None;
        let mut runs = Vec::new();
        for port in piece.range.ports() {
            let addresses = missing(self, port);
            match &mut run {
                Some((known, range)) if *known == addresses => range.last = port,
                _ => runs.extend(run.replace((addresses, PortRange::one(port)))),
            }
        }
        runs.extend(run);
        for (addresses, range) in runs.into_iter().filter(|(addresses, _)| !addresses.is_empty()) {
            let addresses =
                if *addresses == *piece.addresses { piece.addresses.clone() } else { addresses.into() };
            self.take(key, &HostPorts { protocol: piece.protocol, addresses, range });
        }
        Ok(())
    }

    fn plane(&self, address: IpAddr, protocol: Protocol) -> Option<&Plane> {
        self.planes.get(&(address.is_ipv6(), protocol))
    }

    fn take(&mut self, key: OwnerKey, ports: &HostPorts) {
        for address in ports.addresses.iter() {
            let plane = self.planes.entry((address.is_ipv6(), ports.protocol)).or_default();
            for port in ports.range.ports() {
                plane.take(*address, port, key);
            }
        }
        if let Some(entry) = self.owners.get_mut(key) {
            entry.pieces.push(ports.clone());
        }
    }

    fn free(&mut self, ports: &HostPorts) {
        for address in ports.addresses.iter() {
            let Some(plane) = self.planes.get_mut(&(address.is_ipv6(), ports.protocol)) else { continue };
            for port in ports.range.ports() {
                plane.free(*address, port);
            }
        }
    }
}
