//! The service records of all networks. Each network's actor writes its own; they belong to the engine, so that its death
//! takes no name away, and readers need not know which incarnation writes.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use netloom_dns::records::{EndpointNames, ZoneReader, ZoneWriter};
use netloom_model::record::{EndpointRecord, NetworkRecord};
use netloom_model::{EndpointId, NetworkId, NetworkSpec};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// The records of all networks. Cloning shares them.
#[derive(Clone, Default)]
pub struct Zones(Rc<RefCell<FxHashMap<NetworkId, Zone>>>);

struct Zone {
    name: Arc<str>,
    /// Whether its sandboxes get a name server for its sake.
    resolves: bool,
    writer: ZoneWriter,
}

/// The records of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedNetwork {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub name: Arc<str>,
    /// Its records, by name and address.
    pub records: Vec<NameRecord>,
}

/// A name, and one of the addresses that it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameRecord {
    /// The name, as it is asked for: lower-cased.
    pub name: Arc<str>,
    /// The address.
    pub address: IpAddr,
    /// Whose it is; more than one while an address changes hands.
    pub endpoints: Vec<EndpointId>,
}

/// Whether sandboxes get a name server for the sake of such a network (libnetwork's `hasSpecialDriver`). Docker has none for
/// its default bridge: it says so of each endpoint there (`Names::no_resolution`).
fn resolves(spec: &NetworkSpec) -> bool {
    !matches!(spec.driver.as_str(), "host" | "null")
}

impl fmt::Debug for Zones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Zones")
    }
}

impl Zones {
    /// Says everything about a network anew: these are its endpoints, and there are no others. Records that it has already
    /// stay, so that nobody who asks meanwhile misses one. `alone`: nobody outside of it has an address of its subnets.
    pub fn settle<'a>(
        &self,
        network: &NetworkRecord,
        alone: bool,
        endpoints: impl Iterator<Item = &'a EndpointRecord>,
    ) {
        let now = Instant::now().into_std();
        let mut all = self.0.borrow_mut();
        let name = &network.spec.name;
        let fresh = || Zone {
            name: name.as_str().into(),
            resolves: resolves(&network.spec),
            writer: ZoneWriter::new(name),
        };
        let writer = &mut all.entry(network.id).or_insert_with(fresh).writer;
        let pools = network.v4.iter().chain(&network.v6).filter(|_| alone);
        writer.set_subnets(pools.filter(|pool| !pool.is_none()).map(|pool| pool.pool).collect());
        let mut gone: Vec<_> = writer.endpoints().collect();
        for record in endpoints {
            gone.retain(|endpoint| *endpoint != record.id);
            writer.publish(record.id, &EndpointNames::of(record), now);
        }
        gone.into_iter().for_each(|endpoint| writer.withdraw(endpoint, now));
    }

    /// Enters the names of an endpoint, instead of those that it had.
    pub fn publish(&self, record: &EndpointRecord) {
        if let Some(zone) = self.0.borrow_mut().get_mut(&record.network) {
            zone.writer.publish(record.id, &EndpointNames::of(record), Instant::now().into_std());
        }
    }

    /// Removes all names of an endpoint.
    pub fn withdraw(&self, network: NetworkId, endpoint: EndpointId) {
        if let Some(zone) = self.0.borrow_mut().get_mut(&network) {
            zone.writer.withdraw(endpoint, Instant::now().into_std());
        }
    }

    /// A network is gone with its records. Whoever reads them still finds none.
    pub fn remove(&self, network: NetworkId) {
        let Some(mut zone) = self.0.borrow_mut().remove(&network) else { return };
        let now = Instant::now().into_std();
        let all: Vec<_> = zone.writer.endpoints().collect();
        all.into_iter().for_each(|endpoint| zone.writer.withdraw(endpoint, now));
    }

    /// What questions read, if there is such a network.
    #[must_use]
    pub fn reader(&self, network: NetworkId) -> Option<ZoneReader> {
        self.0.borrow().get(&network).map(|zone| zone.writer.reader())
    }

    /// Whether a sandbox gets a name server for the sake of this network.
    #[must_use]
    pub fn resolves(&self, network: NetworkId) -> bool {
        self.0.borrow().get(&network).is_some_and(|zone| zone.resolves)
    }

    /// A network's name, if there is such a network.
    #[must_use]
    pub fn name(&self, network: NetworkId) -> Option<Arc<str>> {
        self.0.borrow().get(&network).map(|zone| Arc::clone(&zone.name))
    }

    /// Everything, by the networks' names.
    #[must_use]
    pub fn list(&self) -> Vec<NamedNetwork> {
        let all = self.0.borrow();
        let mut listed: Vec<_> = all
            .iter()
            .map(|(network, zone)| {
                let records = zone.writer.list().into_iter().map(|listed| NameRecord {
                    name: listed.name,
                    address: listed.address,
                    endpoints: listed.owners,
                });
                NamedNetwork { network: *network, name: Arc::clone(&zone.name), records: records.collect() }
            })
            .collect();
        listed.sort_by(|one, other| (&one.name, one.network).cmp(&(&other.name, other.network)));
        listed
    }
}
