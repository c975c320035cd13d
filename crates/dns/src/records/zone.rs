//! The records of one network at one moment, and how readers get at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rpds::HashTrieMapSync;

/// Which addresses are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Whatever there is.
    Any,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Its IPv4 addresses, each once, first come first.
    pub v4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses, likewise.
    pub v6: Vec<Ipv6Addr>,
    /// A name that has gone, and until when it is remembered.
    pub(super) gone: Option<Instant>,
}

impl Entry {
    /// An entry of these addresses, each once.
    #[must_use]
    pub fn of(addresses: &[IpAddr]) -> Self {
        let mut entry = Self::default();
        addresses.iter().for_each(|address| entry.add(*address));
        entry
    }

    /// Whether it has an address of the family.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => !self.v4.is_empty(),
            Family::V6 => !self.v6.is_empty(),
            Family::Any => !self.is_empty(),
        }
    }

    /// Whether it has no address at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub(super) fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) if !self.v4.contains(&address) => self.v4.push(address),
            IpAddr::V6(address) if !self.v6.contains(&address) => self.v6.push(address),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4.retain(|known| *known != address),
            IpAddr::V6(address) => self.v6.retain(|known| *known != address),
        }
    }
}

/// Where a service is, for SRV (RFC 2782).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its port's name, without underscore.
    pub port_name: Arc<str>,
    /// Its protocol, without underscore.
    pub protocol: Arc<str>,
    /// Who offers it.
    pub target: Target,
}

/// Who offers a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// A name of the network.
    pub name: Arc<str>,
    /// The port.
    pub port: u16,
    /// What the name stands for there.
    pub addresses: Arc<[IpAddr]>,
}

/// What a network knows of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    /// It stands for these addresses.
    Here(Arc<Entry>),
    /// It did a short while ago.
    Gone,
    /// Nothing.
    Not,
}

/// The records of one network at one moment.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    pub(super) network: Arc<str>,
    pub(super) names: HashTrieMapSync<Arc<str>, Arc<Entry>>,
    pub(super) reverse: HashTrieMapSync<IpAddr, Arc<str>>,
    pub(super) services: HashTrieMapSync<Arc<str>, Arc<[Service]>>,
    pub(super) subnets: Arc<[IpNet]>,
}

impl Zone {
    /// The network's name, as questions have it: lower-cased.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// What is known of a name.
    #[must_use]
    pub fn find(&self, name: &str, now: Instant) -> Known {
        match self.names.get(name) {
            None => Known::Not,
            Some(entry) => match entry.gone {
                None => Known::Here(Arc::clone(entry)),
                Some(until) if now < until => Known::Gone,
                Some(_) => Known::Not,
            },
        }
    }

    /// The name of whoever has an address.
    #[must_use]
    pub fn name_of(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.reverse.get(&address)
    }

    /// Whether a range lies within the subnets of which this network alone knows the names.
    #[must_use]
    pub fn owns(&self, range: IpNet) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&range))
    }

    /// The services under a name; none where nobody has told of any.
    #[must_use]
    pub fn services(&self, name: &str) -> &[Service] {
        self.services.get(name).map_or(&[], |services| services)
    }

    /// How many names stand for something now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.values().filter(|entry| entry.gone.is_none()).count()
    }

    /// Whether no name stands for anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every name with what it stands for, in no order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let here = self.names.iter().filter(|(_, entry)| entry.gone.is_none());
        here.map(|(name, entry)| (&**name, &**entry))
    }
}

/// How questions see a network's records: always the newest, without waiting.
#[derive(Clone, Debug)]
pub struct ZoneReader(pub(super) Arc<ArcSwap<Zone>>);

impl ZoneReader {
    /// The records now. Kept for longer, they stay what they were.
    #[must_use]
    pub fn load(&self) -> impl std::ops::Deref<Target = Arc<Zone>> {
        self.0.load()
    }
}
