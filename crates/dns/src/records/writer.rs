//! The one writer of a network's records: who owns which name, and what is published of it.
//!
//! Rules of libnetwork (`network.go`, `addSvcRecords` and `deleteSvcRecords`): all names of an endpoint stand for all its
//! addresses; the first one is the name of its addresses; an endpoint without names has no record. A record that two
//! endpoints have stays until both have gone, as in its `setmatrix`: while an address is given to the next one, the
//! next one's records come before the last one's go. Unlike libnetwork's first versions, an endpoint with nothing but
//! IPv6 has its records too.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use netloom_model::EndpointId;
use netloom_model::record::EndpointRecord;

use super::zone::{Entry, Service, Target, Zone, ZoneReader};
use crate::name::stored;

/// How long a name that has gone is still answered here, and not asked for outside.
const REMEMBERED: Duration = Duration::from_secs(60);
/// At most so many names that have gone are remembered for each network.
const MOST_REMEMBERED: usize = 4096;

/// What an endpoint is called, and where it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointNames {
    /// Its names in its network: its own first, then its aliases. An anonymous endpoint has aliases only. The first one
    /// is what its addresses are called. Without any, it has no records.
    pub names: Vec<String>,
    /// Its addresses, of both families.
    pub addresses: Vec<IpAddr>,
    /// What it offers to those who ask for SRV.
    pub services: Vec<ServicePort>,
}

impl EndpointNames {
    /// What an endpoint is called by its record: its name unless it is anonymous, and its aliases
    /// (libnetwork's `CreateOptionAnonymous`, `CreateOptionMyAlias`).
    #[must_use]
    pub fn of(record: &EndpointRecord) -> Self {
        let own = (!record.names.anonymous).then(|| record.name.clone());
        let names = own.into_iter().chain(record.names.aliases.iter().cloned()).collect();
        let v4 = record.ipv4.map(|net| IpAddr::V4(net.addr()));
        let v6 = record.ipv6.map(|net| IpAddr::V6(net.addr()));
        Self { names, addresses: v4.into_iter().chain(v6).collect(), services: Vec::new() }
    }
}

/// A port that is found by the name of its service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// The service: the `web` of `_http._tcp.web`.
    pub service: String,
    /// The port's name: `http` there, with or without the underscore.
    pub port_name: String,
    /// The protocol: `tcp` there, with or without the underscore.
    pub protocol: String,
    /// The number.
    pub port: u16,
}

/// One line of [`ZoneWriter::list`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The name.
    pub name: Arc<str>,
    /// One of its addresses.
    pub address: IpAddr,
    /// Who has it; more than one while an address changes hands.
    pub owners: Vec<EndpointId>,
}

/// What an endpoint has in the records.
#[derive(Debug)]
struct Published {
    names: Vec<Arc<str>>,
    addresses: Vec<IpAddr>,
    services: Vec<Arc<str>>,
}

/// The records of a network, for whoever changes them.
#[derive(Debug)]
pub struct ZoneWriter {
    zone: Zone,
    shared: ZoneReader,
    endpoints: HashMap<EndpointId, Published>,
    /// Who has a record, in the order in which they came.
    owners: HashMap<(Arc<str>, IpAddr), Vec<EndpointId>>,
    /// What whoever has an address calls it; the first one's word counts.
    called: HashMap<IpAddr, Vec<(EndpointId, Arc<str>)>>,
    services: HashMap<Arc<str>, Vec<(EndpointId, Service)>>,
    /// Names that have gone, and until when they are remembered: oldest first.
    gone: VecDeque<(Instant, Arc<str>)>,
}

impl ZoneWriter {
    /// The empty records of a network.
    #[must_use]
    pub fn new(network: &str) -> Self {
        let zone = Zone { network: stored(network).unwrap_or_default(), ..Zone::default() };
        let shared = ZoneReader(Arc::new(ArcSwap::from_pointee(zone.clone())));
        Self {
            zone,
            shared,
            endpoints: HashMap::new(),
            owners: HashMap::new(),
            called: HashMap::new(),
            services: HashMap::new(),
            gone: VecDeque::new(),
        }
    }

    /// Access for readers: to these records, however they change.
    #[must_use]
    pub fn reader(&self) -> ZoneReader {
        self.shared.clone()
    }

    /// Names the ranges whose addresses nobody outside can have a name for: what has none here has none. Leave out
    /// ranges that the network shares with its surroundings, such as a macvlan's.
    pub fn set_subnets(&mut self, subnets: Vec<IpNet>) {
        self.zone.subnets = subnets.into();
        self.show();
    }

    /// Says what an endpoint is called now, instead of what was said before. Everybody sees it before this returns.
    pub fn publish(&mut self, endpoint: EndpointId, said: &EndpointNames, now: Instant) {
        let mut names = distinct(said.names.iter().filter_map(|name| stored(name)));
        let addresses = distinct(said.addresses.iter().copied());
        if addresses.is_empty() {
            names.clear();
        }
        let before = self.endpoints.remove(&endpoint);
        for name in &names {
            for address in &addresses {
                self.add_record(endpoint, name, *address);
            }
        }
        if let Some(first) = names.first() {
            for address in &addresses {
                self.call(endpoint, *address, Some(first));
            }
        }
        if let Some(before) = &before {
            self.drop_all(endpoint, before, &names, &addresses, now);
        }
        let services = self.add_services(endpoint, said, &names, &addresses);
        if !names.is_empty() {
            self.endpoints.insert(endpoint, Published { names, addresses, services });
        }
        self.forget(now);
        self.show();
    }

    /// Takes back all that an endpoint has. Names that nobody has any more are remembered for a minute: they are
    /// answered with "no such name" here, while whoever still uses them would else ask the outside for them.
    pub fn withdraw(&mut self, endpoint: EndpointId, now: Instant) {
        if let Some(before) = self.endpoints.remove(&endpoint) {
            self.drop_all(endpoint, &before, &[], &[], now);
        }
        self.forget(now);
        self.show();
    }

    /// Everybody who has a record.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        self.endpoints.keys().copied()
    }

    /// Every record with who has it, by name and address.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let records = self.owners.iter();
        let mut listed: Vec<Listed> = records
            .map(|((name, address), owners)| Listed {
                name: Arc::clone(name),
                address: *address,
                owners: owners.clone(),
            })
            .collect();
        listed.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
        listed
    }

    /// Makes what was changed the newest.
    fn show(&self) {
        self.shared.0.store(Arc::new(self.zone.clone()));
    }

    fn add_record(&mut self, endpoint: EndpointId, name: &Arc<str>, address: IpAddr) {
        let owners = self.owners.entry((Arc::clone(name), address)).or_default();
        if owners.contains(&endpoint) {
            return;
        }
        owners.push(endpoint);
        if owners.len() > 1 {
            return;
        }
        let entry = self.zone.names.get(name).filter(|entry| entry.gone.is_none());
        let mut entry = entry.map_or_else(Entry::default, |entry| (**entry).clone());
        entry.add(address);
        self.zone.names.insert_mut(Arc::clone(name), Arc::new(entry));
    }

    fn remove_record(&mut self, endpoint: EndpointId, name: &Arc<str>, address: IpAddr, now: Instant) {
        let record = (Arc::clone(name), address);
        let Some(owners) = self.owners.get_mut(&record) else { return };
        owners.retain(|owner| *owner != endpoint);
        if !owners.is_empty() {
            return;
        }
        self.owners.remove(&record);
        let Some(entry) = self.zone.names.get(name) else { return };
        let mut entry = (**entry).clone();
        entry.remove(address);
        if entry.is_empty() {
            let until = now + REMEMBERED;
            entry.gone = Some(until);
            self.gone.push_back((until, Arc::clone(name)));
        }
        self.zone.names.insert_mut(Arc::clone(name), Arc::new(entry));
    }

    /// Changes what an endpoint calls an address, and with it what the address is called if its word counts.
    fn call(&mut self, endpoint: EndpointId, address: IpAddr, name: Option<&Arc<str>>) {
        let calls = self.called.entry(address).or_default();
        let before = calls.iter().position(|(owner, _)| *owner == endpoint);
        match (before, name) {
            (Some(at), Some(name)) => calls[at].1 = Arc::clone(name),
            (Some(at), None) => drop(calls.remove(at)),
            (None, Some(name)) => calls.push((endpoint, Arc::clone(name))),
            (None, None) => {}
        }
        match calls.first() {
            Some((_, name)) => {
                if self.zone.reverse.get(&address) != Some(name) {
                    self.zone.reverse.insert_mut(address, Arc::clone(name));
                }
            }
            None => {
                self.called.remove(&address);
                self.zone.reverse.remove_mut(&address);
            }
        }
    }

    /// Drops what an endpoint had and has no more.
    fn drop_all(
        &mut self,
        endpoint: EndpointId,
        before: &Published,
        names: &[Arc<str>],
        addresses: &[IpAddr],
        now: Instant,
    ) {
        for address in &before.addresses {
            let stays = addresses.contains(address);
            for name in before.names.iter().filter(|name| !(stays && names.contains(name))) {
                self.remove_record(endpoint, name, *address, now);
            }
            if !stays || names.is_empty() {
                self.call(endpoint, *address, None);
            }
        }
        for service in &before.services {
            if let Some(known) = self.services.get_mut(service) {
                known.retain(|(owner, _)| *owner != endpoint);
            }
            self.show_service(service);
        }
    }

    /// Adds what an endpoint offers; returns the names of its services.
    fn add_services(
        &mut self,
        endpoint: EndpointId,
        said: &EndpointNames,
        names: &[Arc<str>],
        addresses: &[IpAddr],
    ) -> Vec<Arc<str>> {
        let Some(first) = names.first() else { return Vec::new() };
        let addresses: Arc<[IpAddr]> = addresses.into();
        let bare = |text: &str| stored(text.strip_prefix('_').unwrap_or(text));
        let mut services = Vec::new();
        for port in &said.services {
            let parts = (stored(&port.service), bare(&port.port_name), bare(&port.protocol));
            let (Some(service), Some(port_name), Some(protocol)) = parts else { continue };
            let target =
                Target { name: Arc::clone(first), port: port.port, addresses: Arc::clone(&addresses) };
            let known = self.services.entry(Arc::clone(&service)).or_default();
            known.push((endpoint, Service { port_name, protocol, target }));
            services.push(service);
        }
        let services = distinct(services.into_iter());
        services.iter().for_each(|service| self.show_service(service));
        services
    }

    fn show_service(&mut self, name: &Arc<str>) {
        let known = self.services.get(name).map_or(&[][..], Vec::as_slice);
        let mut shown: Vec<Service> = Vec::with_capacity(known.len());
        for (_, service) in known {
            if !shown.contains(service) {
                shown.push(service.clone());
            }
        }
        if shown.is_empty() {
            self.services.remove(name);
            self.zone.services.remove_mut(name);
        } else {
            self.zone.services.insert_mut(Arc::clone(name), shown.into());
        }
    }

    /// Forgets names that have been gone for long enough, or are too many.
    fn forget(&mut self, now: Instant) {
        while let Some((until, name)) = self.gone.front() {
            if *until > now && self.gone.len() <= MOST_REMEMBERED {
                break;
            }
            // It may have come back, and gone again later.
            if self.zone.names.get(name).is_some_and(|entry| entry.gone == Some(*until)) {
                self.zone.names.remove_mut(name);
            }
            self.gone.pop_front();
        }
    }
}

/// Each once, first come first.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for item in items {
        if !distinct.contains(&item) {
            distinct.push(item);
        }
    }
    distinct
}
