//! Random operations on pools that come and go, many of which overlap or are shared, in the local address space and in
//! that of a cluster with two hosts, against a reference that keeps sets of addresses (`subnets.rs`). Between any two
//! operations an allocator may be lost: the local one is read back from an image and a log or from records, that of a host
//! of the cluster begins anew at the store. `NETLOOM_IPAM_TENANT_OPERATIONS` says how long it is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use futures::executor::block_on;
use netloom_ipam::cluster::ClusterIpam;
use netloom_ipam::{
    AddressSpace, Change, DefaultIpam, Granted, Lease, PoolUsage, PoolsRequest, RestoredPools,
};
use netloom_model::record::PoolRecord;
use netloom_model::snapshot::Holders;
use netloom_model::{IpamPoolSpec, IpamSpec, Reason, Result};
use netloom_store::cluster::{ClusterStore, MemoryCluster};

use crate::agree::{asks, leased, name, same_holders};
use crate::common::space::{host, net};
use crate::common::{Random, endpoint, from_environment, network as id, note};
use crate::subnets::{Asked, Reference, nth};

const NETWORKS: usize = 6;
const OWNERS: u64 = 30;

/// Subnets that are asked for, and whether they are shared. Several overlap, some in one family alone.
const POOLS: [(&str, &str, bool); 11] = [
    ("10.0.0.0/27", "fd00::/123", true),
    ("10.0.0.0/27", "fd00::/123", true),
    ("10.0.0.0/27", "fd00::/123", false),
    ("10.0.0.16/28", "fd00::10/124", true),
    ("10.0.0.0/24", "fd01::/64", true),
    ("10.1.0.0/16", "fd00::/123", true),
    ("10.2.0.0/28", "fd02::/48", false),
    ("10.3.0.0/29", "fd03::/125", true),
    ("10.3.0.0/29", "fd03::/125", true),
    ("10.4.0.0/26", "fd04::/122", false),
    ("10.5.0.0/28", "fd05::/56", false),
];

fn no(network: usize) -> netloom_model::NetworkId {
    id(u32::try_from(network).expect("small"))
}

fn of(owner: u64) -> netloom_model::EndpointId {
    endpoint(u128::from(owner) + 1)
}

/// One address space, and what of it outlives a crash.
enum Space {
    Local { ipam: Box<DefaultIpam>, image: Vec<u8>, log: Vec<Change> },
    Global { store: Arc<dyn ClusterStore>, hosts: Vec<ClusterIpam> },
}

struct Run {
    space: Space,
    reference: Reference,
    /// What networks were granted, and on which host.
    records: BTreeMap<usize, (Granted, usize)>,
    random: Random,
    kinds: BTreeMap<&'static str, (u64, u64)>,
    reloads: u64,
}

impl Run {
    fn log(&mut self, change: Change) {
        if let Space::Local { log, .. } = &mut self.space {
            log.push(change);
        }
    }

    /// An operation of a kind went well or was refused, as the reference says; refusals change nothing.
    #[track_caller]
    fn counted<T>(&mut self, kind: &'static str, expected: bool, outcome: Result<T>) -> Option<T> {
        let (all, refused) = self.kinds.entry(kind).or_default();
        *all += 1;
        match outcome {
            Ok(answer) => {
                assert!(expected, "{kind}: the reference refuses it");
                Some(answer)
            }
            Err(error) => {
                *refused += 1;
                assert!(!expected, "{kind}: {error}");
                let odd = matches!(error.reason(), Reason::Internal { .. } | Reason::Store { .. });
                assert!(!odd, "{kind}: {error}");
                None
            }
        }
    }

    fn host_of(&mut self, network: usize) -> usize {
        self.records.get(&network).map_or_else(|| self.random.one_of(2), |(_, host)| *host)
    }

    fn step(&mut self) {
        let network = self.random.one_of(NETWORKS);
        let owner = self.random.below(OWNERS);
        let before = match &self.space {
            Space::Local { ipam, .. } if self.random.once_in(16) => Some(ipam.clone()),
            _ => None,
        };
        let refusals = |run: &Self| run.kinds.values().map(|(_, refused)| refused).sum::<u64>();
        let refused = refusals(self);
        match self.random.below(128) {
            0..8 => self.request(network),
            8 => self.give_back(network),
            9..66 => self.lease(network, owner),
            66..100 => self.release(network, owner),
            100..110 => self.quarantine(network, owner),
            110..119 => self.reserve(network, owner),
            119..122 => self.unreserve(network, owner),
            122..124 => self.rename(network, owner),
            124..126 => self.lost(),
            _ => self.image_is_written(),
        }
        if let (Some(before), Space::Local { ipam, .. }) = (before, &self.space)
            && refusals(self) > refused
        {
            assert!(before == *ipam, "a refusal changed something");
        }
        self.check_counts(network);
    }

    fn request(&mut self, network: usize) {
        let (v4, v6, shares) = POOLS[self.random.one_of(POOLS.len())];
        let pools = [net(v4), net(v6)];
        // Mostly everybody's own, at times one that somebody else has already.
        let at = if self.random.once_in(8) { self.random.one_of(NETWORKS) } else { network };
        let gateways = pools.map(|pool| nth(&pool, u32::try_from(at).expect("small") + 1));
        let asked = Asked { pools, gateways, shares };
        let pool = |n: usize| {
            let (subnet, gateway) = (Some(pools[n]), Some(gateways[n]));
            IpamPoolSpec { subnet, gateway, ..Default::default() }
        };
        let spec = IpamSpec { v4: vec![pool(0)], v6: vec![pool(1)], ..Default::default() };
        let label = no(network).to_string();
        let request =
            PoolsRequest { network: no(network), name: label, spec: &spec, ipv6: true, shares, host: &[] };
        let by = self.random.one_of(2);
        let known = self.records.get(&network).map(|(granted, host)| (granted.clone(), *host));
        let (outcome, expected) = match &mut self.space {
            Space::Local { ipam, .. } => {
                (ipam.request_pools(&request), known.is_none() && self.reference.may_have(&asked))
            }
            Space::Global { hosts, .. } => {
                let expected =
                    known.as_ref().map_or_else(|| self.reference.may_have(&asked), |(_, host)| *host == by);
                (block_on(hosts[by].request_pools(&request)), expected)
            }
        };
        let Some(granted) = self.counted("pools requested", expected, outcome) else { return };
        if let Some((before, _)) = known {
            assert_eq!((granted.v4, granted.v6), (before.v4, before.v6), "it has others");
            return;
        }
        let nets: Vec<_> = granted.v4.iter().chain(&granted.v6).map(|record| record.pool).collect();
        assert_eq!(nets, asked.pools);
        self.reference.begin(network, &asked);
        let (v4, v6, name) = (granted.v4.clone(), granted.v6.clone(), no(network).to_string());
        let address_space = String::new();
        self.log(Change::PoolsTaken {
            network: no(network),
            name,
            address_space,
            host: None,
            shares,
            v4,
            v6,
        });
        self.records.insert(network, (granted, by));
    }

    fn give_back(&mut self, network: usize) {
        let by = self.random.one_of(2);
        let known = self.records.get(&network).map(|(_, host)| *host);
        let goes = match &mut self.space {
            Space::Local { ipam, .. } => {
                ipam.release_pools(no(network));
                true
            }
            Space::Global { hosts, .. } => {
                block_on(hosts[by].release_pools(no(network))).expect("the store is there");
                known == Some(by)
            }
        };
        self.counted("pools released", true, Ok(()));
        if known.is_some() && goes {
            self.records.remove(&network);
            self.reference.end(network);
            self.log(Change::PoolsReleased { network: no(network) });
        }
    }

    fn some_address(&mut self, network: usize, family: usize) -> Option<IpAddr> {
        let pool = self.reference.networks.get(&network)?.pools[family];
        Some(nth(&pool, u32::try_from(self.random.below(36)).expect("small")))
    }

    fn lease(&mut self, network: usize, owner: u64) {
        let mut maybe = |family| self.random_address(network, family);
        let wanted = [maybe(0), maybe(1)];
        let request = asks(of(owner), name(owner), wanted);
        let expected = self.reference.lease(network, owner, wanted);
        let host = self.host_of(network);
        let outcome = match &mut self.space {
            Space::Local { ipam, .. } => ipam.lease(no(network), &request),
            Space::Global { hosts, .. } => block_on(hosts[host].lease(no(network), &request)),
        };
        let Some(lease) = self.counted("leased", expected.is_ok(), outcome) else { return };
        let addresses: Vec<_> = lease.addresses().collect();
        let as_expected = expected
            .expect("it was")
            .iter()
            .zip(&addresses)
            .all(|(expected, address)| expected.is_none_or(|expected| expected == *address));
        assert!(as_expected, "{addresses:?} instead of {expected:?}");
        self.reference.leased(network, owner, addresses);
        self.log(leased(no(network), request, &lease));
    }

    fn random_address(&mut self, network: usize, family: usize) -> Option<IpAddr> {
        if self.random.once_in(4) { self.some_address(network, family) } else { None }
    }

    fn release(&mut self, network: usize, owner: u64) {
        let host = self.host_of(network);
        match &mut self.space {
            Space::Local { ipam, .. } => ipam.release(no(network), of(owner)),
            Space::Global { hosts, .. } => {
                block_on(hosts[host].release(no(network), of(owner))).expect("the store is there");
            }
        }
        self.counted("released", true, Ok(()));
        self.reference.release(network, owner);
        self.log(Change::Released { network: no(network), endpoint: of(owner) });
    }

    /// An endpoint gets the name of another one, which may have what is kept for it.
    fn rename(&mut self, network: usize, owner: u64) {
        let name = name(self.random.below(OWNERS));
        let host = self.host_of(network);
        match &mut self.space {
            Space::Local { ipam, .. } => ipam.rename(no(network), of(owner), &name),
            Space::Global { hosts, .. } => block_on(hosts[host].rename(no(network), of(owner), &name)),
        }
        self.counted("renamed", true, Ok(()));
        self.reference.rename(network, owner, &name);
        // Names are in records and images; a log has those of the leases.
        self.image_is_written();
    }

    fn quarantine(&mut self, network: usize, owner: u64) {
        let host = self.host_of(network);
        match &mut self.space {
            Space::Local { ipam, .. } => ipam.quarantine(no(network), of(owner)),
            Space::Global { hosts, .. } => block_on(hosts[host].quarantine(no(network), of(owner))),
        }
        self.counted("quarantined", true, Ok(()));
        self.reference.quarantine(network, owner);
    }

    fn reserve(&mut self, network: usize, owner: u64) {
        let both = [0, 1]
            .map(|family| if self.random.once_in(3) { None } else { self.some_address(network, family) });
        let addresses: Vec<_> = both.into_iter().flatten().collect();
        let expected = self.reference.reserve(network, &name(owner), &addresses);
        let host = self.host_of(network);
        let outcome = match &mut self.space {
            Space::Local { ipam, .. } => ipam.reserve(no(network), &name(owner), &addresses),
            Space::Global { hosts, .. } => {
                block_on(hosts[host].reserve(no(network), &name(owner), &addresses))
            }
        };
        if self.counted("reserved", expected, outcome).is_some() {
            self.log(Change::Reserved { network: no(network), name: name(owner), addresses });
        }
    }

    fn unreserve(&mut self, network: usize, owner: u64) {
        let expected = self.reference.unreserve(network, &name(owner));
        let host = self.host_of(network);
        match &mut self.space {
            Space::Local { ipam, .. } => {
                assert_eq!(ipam.unreserve(no(network), &name(owner)), expected);
            }
            Space::Global { hosts, .. } => {
                block_on(hosts[host].unreserve(no(network), &name(owner))).expect("the store is there");
            }
        }
        self.counted("unreserved", true, Ok(()));
        self.log(Change::Unreserved { network: no(network), name: name(owner) });
    }

    // === Crashes ===

    fn image_is_written(&mut self) {
        if let Space::Local { ipam, image, log } = &mut self.space {
            *image = ipam.image(AddressSpace::Local);
            log.clear();
        }
    }

    /// The local allocator is lost, or one host of the cluster.
    fn lost(&mut self) {
        self.reloads += 1;
        let which = self.random.one_of(2);
        let from_records = self.random.once_in(2);
        match &mut self.space {
            Space::Local { ipam, image, log } => {
                let mut read = DefaultIpam::new(&[]);
                assert_eq!(read.load_image(AddressSpace::Local, image).expect("an image"), []);
                log.iter().for_each(|change| read.apply(change).expect("it was made before"));
                for n in 0..NETWORKS {
                    let waiting = self.reference.quarantined(n);
                    waiting.into_iter().for_each(|owner| read.quarantine(no(n), of(owner)));
                }
                assert!(read == **ipam, "what was read back is another allocator");
                if !from_records {
                    return;
                }
                let mut read = DefaultIpam::new(&[]);
                for (n, (granted, _)) in &self.records {
                    let shares = self.reference.networks[n].shares;
                    let name = no(*n).to_string();
                    read.restore_pools(&restored(*n, &name, shares, granted)).expect("they were free");
                }
                forget_the_dying(&mut self.reference, self.records.keys());
                for (n, network) in &self.reference.networks {
                    for (name, addresses) in &network.reservations {
                        read.reserve(no(*n), name, addresses).expect("nobody is there yet");
                    }
                    for (owner, lease) in &network.leases {
                        let addresses = as_lease(&lease.addresses, &self.records[n].0);
                        read.restore_lease(no(*n), of(*owner), &lease.name, &addresses).expect("it was held");
                    }
                }
                **ipam = read;
                self.image_is_written();
            }
            Space::Global { store, hosts } => {
                hosts[which] = host(store, &format!("h{which}"));
                let own = self.records.iter().filter(|(_, (_, host))| *host == which);
                let own: Vec<_> = own.map(|(n, _)| *n).collect();
                forget_the_dying(&mut self.reference, own.iter());
                for n in own {
                    let (network, granted) = (&self.reference.networks[&n], &self.records[&n].0);
                    let known = network.leases.iter();
                    let known: Vec<_> = known
                        .map(|(owner, lease)| {
                            (of(*owner), lease.name.as_str(), as_lease(&lease.addresses, granted))
                        })
                        .collect();
                    let kept = network.reservations.iter();
                    let kept: Vec<_> = kept.map(|(name, kept)| (name.as_str(), kept.clone())).collect();
                    let name = no(n).to_string();
                    let restored = restored(n, &name, network.shares, granted);
                    block_on(hosts[which].restore(&restored, &known, &kept)).expect("all of it is its own");
                }
            }
        }
    }

    // === Checks ===

    fn seen(&self, network: usize) -> Option<(Vec<PoolUsage>, Holders)> {
        match &self.space {
            Space::Local { ipam, .. } => {
                Some((ipam.usage(no(network))?, ipam.holders(no(network), usize::MAX)?))
            }
            Space::Global { hosts, .. } => block_on(async {
                // Looks at the store.
                let host = &hosts[self.records.get(&network)?.1];
                host.release(no(network), of(u64::MAX)).await.expect("the store is there");
                Some((host.usage(no(network)).await?, host.holders(no(network), usize::MAX).await?))
            }),
        }
    }

    fn check_counts(&mut self, network: usize) {
        match &self.space {
            Space::Local { ipam, .. } => self.compare_counts(network, ipam.usage(no(network))),
            Space::Global { .. } if self.random.once_in(8) => {
                self.compare_counts(network, self.seen(network).map(|(usage, _)| usage));
            }
            Space::Global { .. } => {}
        }
    }

    fn compare_counts(&self, network: usize, usage: Option<Vec<PoolUsage>>) {
        assert_eq!(usage.is_some(), self.reference.networks.contains_key(&network));
        let Some(usage) = usage else { return };
        for (usage, expected) in usage.iter().zip(self.reference.counts(network)) {
            let (used, reserved, quarantined, free) = expected;
            let counted = (usage.used, usage.reserved, usage.quarantined);
            assert_eq!(counted, (used, reserved, quarantined), "addresses of {} of n{network}", usage.pool);
            let taken = u128::from(usage.used + usage.reserved + usage.quarantined);
            assert_eq!(usage.size, taken + free, "an address of {} is lost", usage.pool);
        }
    }

    /// Every address has one holder, the same in both, and no two pools overlap unless they are shared.
    fn check_all(&self) {
        self.reference.check_overlaps();
        for network in 0..NETWORKS {
            let Some((usage, held)) = self.seen(network) else {
                assert!(!self.reference.networks.contains_key(&network));
                continue;
            };
            self.compare_counts(network, Some(usage));
            same_holders(network, held, &self.reference.holders(network));
        }
    }
}

/// Whose deletion was committed is gone, be its link dead or not.
fn forget_the_dying<'a>(reference: &mut Reference, networks: impl Iterator<Item = &'a usize>) {
    for n in networks {
        reference.quarantined(*n).into_iter().for_each(|owner| reference.release(*n, owner));
    }
}

fn restored<'a>(n: usize, name: &'a str, shares: bool, granted: &'a Granted) -> RestoredPools<'a> {
    let (v4, v6) = (&*granted.v4, &*granted.v6);
    RestoredPools { network: no(n), name, address_space: "", shares, v4, v6 }
}

/// As it is recorded: with the prefix length of the pool.
fn as_lease(addresses: &[IpAddr], granted: &Granted) -> Lease {
    let prefix = |records: &[PoolRecord]| records[0].pool.prefix_len();
    let mut lease = Lease::default();
    for address in addresses {
        match address {
            IpAddr::V4(ip) => lease.ipv4 = ipnet::Ipv4Net::new(*ip, prefix(&granted.v4)).ok(),
            IpAddr::V6(ip) => lease.ipv6 = ipnet::Ipv6Net::new(*ip, prefix(&granted.v6)).ok(),
        }
    }
    lease
}

fn run(what: &str, space: Space, share: u64) -> Space {
    let operations = from_environment("NETLOOM_IPAM_TENANT_OPERATIONS").unwrap_or(share);
    let (random, reference) = (Random::seeded(), Reference::default());
    let (records, kinds) = (BTreeMap::new(), BTreeMap::new());
    let mut run = Run { space, reference, records, random, kinds, reloads: 0 };
    let began = Instant::now();
    for n in 0..operations {
        run.step();
        if n % 500 == 0 {
            run.check_all();
        }
    }
    run.check_all();
    let (took, kinds, reloads) = (began.elapsed(), &run.kinds, run.reloads);
    note(format_args!("{what}: {operations} operations in {took:?}, {reloads} times read back"));
    kinds.iter().for_each(|(kind, (all, refused))| note(format_args!("  {kind}: {all}, {refused} refused")));
    for kind in ["pools requested", "leased", "reserved"] {
        let (all, refused) = kinds.get(kind).copied().unwrap_or_default();
        assert!(refused * 20 > all && refused * 20 < all * 19, "{kind}: {refused} of {all} refused is dull");
    }
    assert!(reloads > operations / 100);
    for n in 0..NETWORKS {
        for _ in 0..64 {
            run.give_back(n);
        }
    }
    run.space
}

#[test]
fn pools_that_come_and_go_agree_with_the_reference() {
    let ipam = Box::new(DefaultIpam::new(&[]));
    let image = ipam.image(AddressSpace::Local);
    let space = run("local", Space::Local { ipam, image, log: Vec::new() }, 300_000);
    let Space::Local { ipam, .. } = space else { return };
    assert!(*ipam == DefaultIpam::new(&[]), "something is left");
}

#[test]
fn pools_of_a_cluster_that_come_and_go_agree_with_the_reference() {
    let store: Arc<dyn ClusterStore> = Arc::new(MemoryCluster::default());
    let hosts = (0..2).map(|n| host(&store, &format!("h{n}"))).collect();
    let Space::Global { hosts, .. } = run("cluster", Space::Global { store, hosts }, 16_000) else { return };
    for host in hosts {
        assert!(block_on(host.take_found()).is_empty(), "the store says what cannot be");
    }
}
