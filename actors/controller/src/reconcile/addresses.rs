//! Endpoints whose recorded addresses cannot be theirs, and reservations of such.
//!
//! IPAM takes the records of a network at their word, all of them or none: one that contradicts the rest would keep its
//! network, and everybody in it, out of service. So it is left out before.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_actor_services::ipam::DRIVER;

use super::*;

/// What is wrong with addresses, if anything is. `taken` are those of whoever was looked at before.
fn contradiction(
    mut addresses: impl Iterator<Item = IpAddr>,
    network: &NetworkRecord,
    taken: &BTreeMap<IpAddr, String>,
) -> Option<String> {
    let mut pools = network.v4.iter().chain(&network.v6).peekable();
    if pools.peek().is_none() || pools.any(PoolRecord::is_none) {
        // The network driver chooses addresses, if anybody does.
        return None;
    }
    addresses.find_map(|address| {
        let pools = if address.is_ipv4() { &network.v4 } else { &network.v6 };
        if let Some(holder) = taken.get(&address) {
            return Some(format!("its address {address} is that of {holder}"));
        }
        let Some(pool) = pools.iter().find(|pool| pool.pool.contains(&address)) else {
            return Some(format!("its address {address} lies in no pool of network {:?}", network.spec.name));
        };
        let of_nobody = network.spec.ipam.driver == DRIVER && is_end(&pool.pool, address);
        of_nobody.then(|| format!("its address {address} is one of pool {} that nobody can have", pool.pool))
    })
}

/// Whether it is the first or last address of a pool that has such, as the driver `default` counts them.
fn is_end(pool: &IpNet, address: IpAddr) -> bool {
    let room = pool.max_prefix_len() - pool.prefix_len() >= 2;
    room && (address == pool.network() || (address.is_ipv4() && address == pool.broadcast()))
}

fn addresses(endpoint: &EndpointRecord) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
    v4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())))
}

/// The addresses that a network has for itself, and what for.
fn reserved(network: &NetworkRecord) -> BTreeMap<IpAddr, String> {
    let pools = network.v4.iter().chain(&network.v6);
    let of = |pool: &PoolRecord| {
        let named = pool.auxiliary.iter().map(|(name, at)| (*at, format!("auxiliary address {name:?}")));
        let gateway = pool.gateway.map(|at| (at, "the gateway".to_owned()));
        named.chain(gateway).collect::<Vec<_>>()
    };
    pools.flat_map(of).collect()
}

impl Plan {
    /// Drops endpoints whose addresses are somebody else's, the network's own, or none of its pools. Of two that have the
    /// same one, whoever is in a sandbox keeps it, and of two that are, whoever was first. What is kept for names is
    /// dropped in the same way, but not for endpoints: one that was renamed has what is kept for its first name.
    pub(super) fn check_addresses(&mut self) {
        let mut all: Vec<_> = self.records.endpoints.values().collect();
        // Joins are numbered in turn: the earlier one was given the address, whatever is wrong with the later one's.
        all.sort_by_key(|endpoint| {
            let join = endpoint.attachment.as_ref().map(|attachment| attachment.join);
            (endpoint.network, join.is_none(), join, endpoint.id)
        });
        let mut endpoints = Vec::new();
        let mut reservations = Vec::new();
        for network in self.records.networks.values() {
            let begin = all.partition_point(|endpoint| endpoint.network < network.id);
            let of_network = all[begin..].iter().take_while(|endpoint| endpoint.network == network.id);
            let mut taken = reserved(network);
            for endpoint in of_network {
                match contradiction(addresses(endpoint), network, &taken) {
                    Some(why) => endpoints.push((endpoint.id, endpoint.name.clone(), why)),
                    None => {
                        let holder = || format!("endpoint {:?} ({})", endpoint.name, endpoint.id.short());
                        taken.extend(addresses(endpoint).map(|address| (address, holder())));
                    }
                }
            }
            let mut taken = reserved(network);
            for (name, kept) in self.records.kept.get(&network.id).into_iter().flatten() {
                match contradiction(kept.addresses(), network, &taken) {
                    Some(why) => {
                        reservations.push((network.id, network.spec.name.clone(), name.clone(), why));
                    }
                    None => {
                        let holder = || format!("reservation {name:?}");
                        taken.extend(kept.addresses().map(|address| (address, holder())));
                    }
                }
            }
        }
        for (id, name, why) in endpoints {
            self.drop_endpoint(id, &name, why);
        }
        for (id, network, name, why) in reservations {
            self.records.kept.entry(id).or_default().remove(&name);
            self.changes.push(Change::Delete { key: Key::reservation(&id, &name) });
            let record = format!("reservation {name:?} of network {network:?}");
            self.repairs.push(Repair::RecordDropped { record, why });
        }
    }
}
