//! The ports of one family and protocol: which addresses have them.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::bits::Bits;
use crate::owners::OwnerKey;

/// Who has which port of one address.
type Table = FxHashMap<u16, OwnerKey>;

/// The ports of one family and protocol.
#[derive(Debug, Default)]
pub(crate) struct Plane {
    tables: FxHashMap<IpAddr, Table>,
    /// Ports that are taken on every address.
    every: Bits,
    /// Ports that are taken on at least one address by itself.
    some: Bits,
    /// On how many more addresses than one, where that is so.
    more: FxHashMap<u16, u32>,
}

impl Plane {
    /// The first port from `from` to `last` that an address could get.
    pub(crate) fn first_free(&self, address: IpAddr, from: u16, last: u16) -> Option<u16> {
        if address.is_unspecified() {
            return self.every.first_outside(Some(&self.some), from, last);
        }
        let table = self.tables.get(&address);
        let mut from = from;
        loop {
            let port = self.every.first_outside(None, from, last)?;
            let taken = self.some.contains(port) && table.is_some_and(|table| table.contains_key(&port));
            if !taken {
                return Some(port);
            }
            from = port.checked_add(1).filter(|next| *next <= last)?;
        }
    }

    /// The first port from `from` to `last` that an address could not get.
    pub(crate) fn first_taken(&self, address: IpAddr, from: u16, last: u16) -> Option<u16> {
        let table = self.tables.get(&address);
        let mut from = from;
        loop {
            let port = self.every.first_inside(Some(&self.some), from, last)?;
            let own = || table.is_some_and(|table| table.contains_key(&port));
            if address.is_unspecified() || self.every.contains(port) || own() {
                return Some(port);
            }
            from = port.checked_add(1).filter(|next| *next <= last)?;
        }
    }

    /// Who keeps an address from getting a port, and on which address.
    pub(crate) fn holder(&self, address: IpAddr, port: u16) -> Option<(IpAddr, OwnerKey)> {
        let on = |address: IpAddr| Some((address, *self.tables.get(&address)?.get(&port)?));
        let unspecified = unspecified(address);
        let near = on(address).or_else(|| on(unspecified));
        if near.is_some() || address != unspecified || !self.some.contains(port) {
            return near;
        }
        // The lowest, so that the same question has the same answer.
        self.tables.keys().copied().filter_map(on).min_by_key(|(address, _)| *address)
    }

    /// Who has a port of exactly this address.
    pub(crate) fn owner(&self, address: IpAddr, port: u16) -> Option<OwnerKey> {
        self.tables.get(&address)?.get(&port).copied()
    }

    /// Gives an address a port that it could get.
    pub(crate) fn take(&mut self, address: IpAddr, port: u16, owner: OwnerKey) {
        self.tables.entry(address).or_default().insert(port, owner);
        if address.is_unspecified() {
            self.every.insert(port);
        } else if self.some.contains(port) {
            *self.more.entry(port).or_default() += 1;
        } else {
            self.some.insert(port);
        }
    }

    /// Takes a port from an address that has it.
    pub(crate) fn free(&mut self, address: IpAddr, port: u16) {
        let Some(table) = self.tables.get_mut(&address) else { return };
        if table.remove(&port).is_none() {
            return;
        }
        if table.is_empty() {
            self.tables.remove(&address);
        } else if table.capacity() > 64 && table.len() * 8 < table.capacity() {
            table.shrink_to(table.len() * 2);
        }
        if address.is_unspecified() {
            self.every.remove(port);
            return;
        }
        match self.more.get_mut(&port) {
            None => self.some.remove(port),
            Some(1) => {
                self.more.remove(&port);
            }
            Some(more) => *more -= 1,
        }
    }
}

/// The address of its family that stands for all.
fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
