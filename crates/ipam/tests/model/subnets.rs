//! The reference for pools that come and go: sets of addresses, one for each subnet in use, searched in full. Which of the
//! free addresses is given is not its business, only that it was free.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::agree::name;

/// Who has an address, in a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    Gateway,
    Endpoint(u64),
    Quarantine(u64),
    Reservation(String),
}

/// A subnet in use: what is taken in it, by which network; its ends are nobody's.
#[derive(Default, Debug)]
struct Subnet {
    taken: BTreeMap<IpAddr, Option<(usize, Holder)>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) addresses: Vec<IpAddr>,
    /// What its endpoint is called now.
    pub(crate) name: String,
    pub(crate) quarantined: bool,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) pools: [IpNet; 2],
    pub(crate) shares: bool,
    pub(crate) leases: BTreeMap<u64, Lease>,
    pub(crate) reservations: BTreeMap<String, Vec<IpAddr>>,
}

/// What a network asks for: a subnet and a gateway of each family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) pools: [IpNet; 2],
    pub(crate) gateways: [IpAddr; 2],
    pub(crate) shares: bool,
}

/// The address at this distance from the first one.
pub(crate) fn nth(net: &IpNet, distance: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + distance).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(distance)).into(),
    }
}

fn size(net: &IpNet) -> u128 {
    1 << (net.max_prefix_len() - net.prefix_len())
}

#[derive(Default, Debug)]
pub(crate) struct Reference {
    subnets: BTreeMap<IpNet, Subnet>,
    pub(crate) networks: BTreeMap<usize, Network>,
}

impl Reference {
    fn of(&self, network: usize, address: IpAddr) -> Option<&Subnet> {
        let pools = self.networks.get(&network)?.pools;
        let net = pools.iter().find(|net| net.contains(&address))?;
        self.subnets.get(net)
    }

    fn of_mut(&mut self, network: usize, address: IpAddr) -> &mut Subnet {
        let pools = self.networks[&network].pools;
        let net = pools.iter().find(|net| net.contains(&address)).expect("it is of one of its pools");
        self.subnets.get_mut(net).expect("in use")
    }

    fn take(&mut self, network: usize, address: IpAddr, holder: Holder) {
        let before = self.of_mut(network, address).taken.insert(address, Some((network, holder)));
        assert_eq!(before, None, "{address} has two owners");
    }

    fn put(&mut self, network: usize, address: IpAddr, holder: Holder) {
        self.of_mut(network, address).taken.insert(address, Some((network, holder)));
    }

    // === Pools ===

    /// Whether a network without pools gets these.
    pub(crate) fn may_have(&self, asked: &Asked) -> bool {
        let sharing = |net: &IpNet| {
            self.networks.values().all(|other| other.shares || other.pools.iter().all(|pool| pool != net))
        };
        asked.pools.iter().zip(&asked.gateways).all(|(net, gateway)| {
            self.subnets.iter().all(|(other, subnet)| {
                let overlaps = other.contains(net) || net.contains(other);
                let same = other == net && asked.shares && sharing(other);
                !overlaps || (same && !subnet.taken.contains_key(gateway))
            })
        })
    }

    pub(crate) fn begin(&mut self, network: usize, asked: &Asked) {
        let (leases, reservations) = (BTreeMap::new(), BTreeMap::new());
        let pools = asked.pools;
        self.networks.insert(network, Network { pools, shares: asked.shares, leases, reservations });
        for (net, gateway) in asked.pools.iter().zip(asked.gateways) {
            let subnet = self.subnets.entry(*net).or_default();
            subnet.taken.insert(net.network(), None);
            if net.addr().is_ipv4() {
                subnet.taken.insert(net.broadcast(), None);
            }
            self.take(network, gateway, Holder::Gateway);
        }
    }

    pub(crate) fn end(&mut self, network: usize) {
        let Some(gone) = self.networks.remove(&network) else { return };
        for net in gone.pools {
            if self.networks.values().all(|other| !other.pools.contains(&net)) {
                self.subnets.remove(&net);
            } else if let Some(subnet) = self.subnets.get_mut(&net) {
                subnet.taken.retain(|_, held| held.as_ref().is_none_or(|(of, _)| *of != network));
            }
        }
    }

    /// No two subnets in use have an address in common.
    pub(crate) fn check_overlaps(&self) {
        for (net, other) in self.subnets.keys().zip(self.subnets.keys().skip(1)) {
            assert!(!net.contains(other) && !other.contains(net), "{net} and {other} overlap");
        }
    }

    // === Addresses ===

    /// What an endpoint is given where it asks for these: `Err` for nothing, `Ok(None)` for any that is free.
    pub(crate) fn lease(
        &self,
        network: usize,
        owner: u64,
        wanted: [Option<IpAddr>; 2],
    ) -> Result<[Option<IpAddr>; 2], ()> {
        let of = self.networks.get(&network).ok_or(())?;
        if let Some(lease) = of.leases.get(&owner) {
            let same = wanted.iter().flatten().all(|address| lease.addresses.contains(address));
            let has = [Some(lease.addresses[0]), Some(lease.addresses[1])];
            return if same && !lease.quarantined { Ok(has) } else { Err(()) };
        }
        let kept = of.reservations.get(&name(owner)).cloned().unwrap_or_default();
        let mut chosen = [None; 2];
        for (family, net) in of.pools.iter().enumerate() {
            let kept = kept.iter().copied().find(|address| usize::from(address.is_ipv6()) == family);
            chosen[family] = wanted[family].or(kept);
            let subnet = &self.subnets[net];
            let usable = match chosen[family] {
                None => size(net) > subnet.taken.len() as u128,
                Some(address) => match subnet.taken.get(&address) {
                    None => net.contains(&address),
                    Some(Some((by, Holder::Reservation(kept)))) => *by == network && *kept == name(owner),
                    Some(_) => false,
                },
            };
            if !usable {
                return Err(());
            }
        }
        Ok(chosen)
    }

    /// It was given these.
    pub(crate) fn leased(&mut self, network: usize, owner: u64, addresses: Vec<IpAddr>) {
        if self.networks[&network].leases.contains_key(&owner) {
            return;
        }
        assert_eq!(addresses.len(), 2);
        let lease = Lease { addresses, name: name(owner), quarantined: false };
        for address in lease.addresses.clone() {
            let held = self.of(network, address).expect("of its pools").taken.get(&address).cloned();
            match held {
                Some(Some((_, Holder::Reservation(_)))) => {
                    self.put(network, address, Holder::Endpoint(owner));
                }
                _ => self.take(network, address, Holder::Endpoint(owner)),
            }
        }
        self.networks.get_mut(&network).expect("known").leases.insert(owner, lease);
    }

    pub(crate) fn release(&mut self, network: usize, owner: u64) {
        let Some(of) = self.networks.get_mut(&network) else { return };
        let Some(lease) = of.leases.remove(&owner) else { return };
        for address in lease.addresses {
            let mut kept = self.networks[&network].reservations.iter();
            let kept = kept.find(|(_, kept)| kept.contains(&address)).map(|(name, _)| name.clone());
            match kept {
                Some(name) => self.put(network, address, Holder::Reservation(name)),
                None => drop(self.of_mut(network, address).taken.remove(&address)),
            }
        }
    }

    pub(crate) fn rename(&mut self, network: usize, owner: u64, name: &str) {
        let lease = self.networks.get_mut(&network).and_then(|of| of.leases.get_mut(&owner));
        lease.into_iter().for_each(|lease| name.clone_into(&mut lease.name));
    }

    pub(crate) fn quarantine(&mut self, network: usize, owner: u64) {
        let Some(of) = self.networks.get_mut(&network) else { return };
        let Some(lease) = of.leases.get_mut(&owner) else { return };
        lease.quarantined = true;
        for address in lease.addresses.clone() {
            self.put(network, address, Holder::Quarantine(owner));
        }
    }

    /// Whether it can be done; does it then.
    pub(crate) fn reserve(&mut self, network: usize, name_of: &str, addresses: &[IpAddr]) -> bool {
        let Some(of) = self.networks.get(&network) else { return false };
        if let Some(kept) = of.reservations.get(name_of) {
            return kept == addresses;
        }
        let mut of_endpoints = Vec::new();
        let called = |owner: &u64| of.leases.get(owner).map(|lease| lease.name.as_str());
        for address in addresses {
            let Some(subnet) = self.of(network, *address) else { return false };
            match subnet.taken.get(address) {
                None => {}
                Some(Some((by, Holder::Endpoint(owner) | Holder::Quarantine(owner))))
                    if *by == network
                        && called(owner) == Some(name_of)
                        && of.reservations.values().all(|kept| !kept.contains(address)) =>
                {
                    of_endpoints.push(*address);
                }
                Some(_) => return false,
            }
        }
        for address in addresses {
            if !of_endpoints.contains(address) {
                self.take(network, *address, Holder::Reservation(name_of.to_owned()));
            }
        }
        let of = self.networks.get_mut(&network).expect("known");
        of.reservations.insert(name_of.to_owned(), addresses.to_vec());
        true
    }

    pub(crate) fn unreserve(&mut self, network: usize, name_of: &str) -> bool {
        let Some(of) = self.networks.get_mut(&network) else { return false };
        let Some(addresses) = of.reservations.remove(name_of) else { return false };
        for address in addresses {
            let held = self.of(network, address).expect("of its pools").taken.get(&address).cloned();
            match held {
                Some(Some((_, Holder::Reservation(_)))) => {
                    self.of_mut(network, address).taken.remove(&address);
                }
                Some(Some((_, Holder::Endpoint(_) | Holder::Quarantine(_)))) => {}
                held => panic!("{address} was reserved for {name_of} and is held by {held:?}"),
            }
        }
        true
    }

    pub(crate) fn quarantined(&self, network: usize) -> Vec<u64> {
        let leases = self.networks.get(&network).into_iter().flat_map(|of| &of.leases);
        leases.filter(|(_, lease)| lease.quarantined).map(|(owner, _)| *owner).collect()
    }

    // === What must be seen ===

    /// Used, reserved, quarantined and free addresses of each pool of a network.
    pub(crate) fn counts(&self, network: usize) -> [(u64, u64, u64, u128); 2] {
        self.networks[&network].pools.map(|net| {
            let taken = &self.subnets[&net].taken;
            let mine = |kind: fn(&Holder) -> bool| {
                let held = taken.values().flatten();
                held.filter(|(by, held)| *by == network && kind(held)).count() as u64
            };
            let used = mine(|held| matches!(held, Holder::Endpoint(_)));
            let quarantined = mine(|held| matches!(held, Holder::Quarantine(_)));
            let all = taken.len() as u64;
            (used, all - used - quarantined, quarantined, size(&net) - u128::from(all))
        })
    }

    /// Every address of a network's subnets that somebody has, with a part of the text that says who.
    pub(crate) fn holders(&self, network: usize) -> Vec<(IpAddr, String)> {
        let taken = self.networks[&network].pools.into_iter().flat_map(|net| &self.subnets[&net].taken);
        let text = |(address, held): (&IpAddr, &Option<(usize, Holder)>)| {
            let (by, held) = held.as_ref()?;
            let text = match held {
                _ if *by != network => format!("network \"n{by}\""),
                Holder::Gateway => "gateway".to_owned(),
                Holder::Endpoint(owner) => {
                    format!("endpoint {:?}", self.networks[by].leases[owner].name)
                }
                Holder::Quarantine(_) => "quarantine of endpoint".to_owned(),
                Holder::Reservation(name) => format!("reservation {name:?}"),
            };
            Some((*address, text))
        };
        taken.filter_map(text).collect()
    }
}
