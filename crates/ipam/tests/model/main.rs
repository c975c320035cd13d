//! A million random operations against a reference that keeps plain maps and searches them in full.
//!
//! Three networks with pools of both families are used at a time. Between any two operations the allocator may
//! be lost: it is read back from an image and the changes since, and equals the one before; or from the records of
//! what exists, as an engine does at its start. `NETLOOM_TEST_SEED` repeats a run, `NETLOOM_IPAM_OPERATIONS` says
//! how long it is. Pools that come and go, and subnets with several tenants, in both address spaces, are in `tenants.rs`.

mod agree;
#[path = "../common/mod.rs"]
mod common;
mod reference;
mod subnets;
mod tenants;

use std::net::IpAddr;
use std::time::Instant;

use netloom_ipam::{AddressSpace, Change, DefaultIpam, Lease, PoolsRequest, RestoredPools};
use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, IpamPoolSpec, IpamSpec, NetworkId, Reason};
use uuid::Uuid;

use agree::{asks, leased, name, same_holders};
use common::{Random, from_environment, note};
use reference::{Network, OWNERS, Wanted};

/// Subnets, ranges and gateways of three networks: small ones, so that they run full again and again, and large ones.
const NETWORKS: [[(&str, Option<&str>, &str); 2]; 3] = [
    [("10.0.0.0/27", None, "10.0.0.9"), ("fd00::/123", Some("fd00::8/125"), "fd00::9")],
    [("10.1.0.0/16", Some("10.1.7.0/29"), "10.1.0.1"), ("fd01::/64", None, "fd01::1")],
    [("10.2.0.0/28", None, "10.2.0.1"), ("fd02::/48", Some("fd02:0:0:9::/124"), "fd02::1")],
];

fn id(network: usize) -> NetworkId {
    format!("n{network}").parse().expect("an id")
}

fn endpoint(owner: u64) -> EndpointId {
    EndpointId::from_uuids(Uuid::from_u128(u128::from(owner) << 80), Uuid::nil())
}

fn spec(pools: &[(&str, Option<&str>, &str); 2]) -> IpamSpec {
    let pool = |(subnet, range, gateway): &(&str, Option<&str>, &str)| IpamPoolSpec {
        subnet: Some(subnet.parse().expect("a subnet")),
        range: range.map(|range| range.parse().expect("a range")),
        gateway: Some(gateway.parse().expect("an address")),
        ..Default::default()
    };
    IpamSpec { v4: vec![pool(&pools[0])], v6: vec![pool(&pools[1])], ..Default::default() }
}

/// The allocator, its reference, and what a store would have of it.
struct Run {
    ipam: DefaultIpam,
    networks: Vec<Network>,
    image: Vec<u8>,
    log: Vec<Change>,
    records: Vec<(Vec<PoolRecord>, Vec<PoolRecord>)>,
    random: Random,
    reloads: u64,
    refusals: u64,
}

impl Run {
    fn new(random: Random) -> Self {
        let mut ipam = DefaultIpam::new(&[]);
        let mut records = Vec::new();
        for (n, pools) in NETWORKS.iter().enumerate() {
            let spec = spec(pools);
            let request = PoolsRequest {
                network: id(n),
                name: id(n).to_string(),
                spec: &spec,
                ipv6: true,
                shares: false,
                host: &[],
            };
            let granted = ipam.request_pools(&request).expect("free");
            records.push((granted.v4, granted.v6));
        }
        let networks = NETWORKS.iter().map(Network::new).collect();
        let image = ipam.image(AddressSpace::Local);
        Self { ipam, networks, image, log: Vec::new(), records, random, reloads: 0, refusals: 0 }
    }

    /// An address of a network's pools, or just beside them.
    fn some_address(&mut self, network: usize, family: usize) -> IpAddr {
        let place = self.random.below(40);
        self.networks[network].families[family].address_near(u128::from(place))
    }

    fn maybe_address(&mut self, network: usize, family: usize) -> Option<IpAddr> {
        self.random.once_in(4).then(|| self.some_address(network, family))
    }

    fn step(&mut self) {
        let network = self.random.one_of(NETWORKS.len());
        let owner = self.random.below(OWNERS);
        match self.random.below(64) {
            0..28 => self.lease(network, owner),
            28..50 => {
                self.ipam.release(id(network), endpoint(owner));
                self.networks[network].release(owner);
                self.log.push(Change::Released { network: id(network), endpoint: endpoint(owner) });
            }
            50..56 => {
                self.ipam.quarantine(id(network), endpoint(owner));
                self.networks[network].quarantine(owner);
            }
            56..60 => self.reserve(network, owner),
            60..62 => {
                let known = self.ipam.unreserve(id(network), &name(owner));
                assert_eq!(known, self.networks[network].unreserve(&name(owner)));
                self.log.push(Change::Unreserved { network: id(network), name: name(owner) });
            }
            62 => self.lost(),
            _ => self.image_is_written(),
        }
        self.check_counts(network);
    }

    fn lease(&mut self, network: usize, owner: u64) {
        let (ipv4, ipv6) = (self.maybe_address(network, 0), self.maybe_address(network, 1));
        let wanted: Wanted = [ipv4, ipv6];
        let request = asks(endpoint(owner), name(owner), wanted);
        let before = self.random.once_in(16).then(|| self.ipam.clone());
        let expected = self.networks[network].lease(owner, &name(owner), wanted);
        match self.ipam.lease(id(network), &request) {
            Ok(lease) => {
                assert_eq!(
                    lease.addresses().collect::<Vec<_>>(),
                    expected.expect("refused by the reference")
                );
                self.log.push(leased(id(network), request, &lease));
            }
            Err(error) => {
                assert_eq!(expected, None, "{error}");
                assert!(!matches!(error.reason(), Reason::Internal { .. }), "{error}");
                assert!(
                    before.is_none_or(|before| before == self.ipam),
                    "a refusal changed something: {error}"
                );
                self.refusals += 1;
            }
        }
    }

    fn reserve(&mut self, network: usize, owner: u64) {
        let both = [0, 1].map(|family| (!self.random.once_in(3)).then(|| self.some_address(network, family)));
        let addresses: Vec<_> = both.into_iter().flatten().collect();
        let expected = self.networks[network].reserve(&name(owner), &addresses);
        let got = self.ipam.reserve(id(network), &name(owner), &addresses);
        assert_eq!(got.is_ok(), expected, "{got:?}");
        if expected {
            self.log.push(Change::Reserved { network: id(network), name: name(owner), addresses });
        }
    }

    fn image_is_written(&mut self) {
        self.image = self.ipam.image(AddressSpace::Local);
        self.log.clear();
    }

    /// The allocator is lost and read back.
    fn lost(&mut self) {
        self.reloads += 1;
        let mut read = DefaultIpam::new(&[]);
        assert_eq!(read.load_image(AddressSpace::Local, &self.image).expect("an image"), []);
        for change in &self.log {
            read.apply(change).expect("it was made before");
        }
        // Whoever waits for the kernel knows whom it waits for.
        for (n, network) in self.networks.iter().enumerate() {
            network.quarantined().for_each(|owner| read.quarantine(id(n), endpoint(owner)));
        }
        assert!(read == self.ipam, "what was read back is another allocator");
        if self.random.once_in(2) {
            self.reboot();
        }
    }

    /// Nothing but records is left: whose deletion was committed is gone, be its link dead or not.
    fn reboot(&mut self) {
        let mut read = DefaultIpam::new(&[]);
        for (n, (v4, v6)) in self.records.iter().enumerate() {
            let (network, name) = (id(n), id(n).to_string());
            let restored = RestoredPools { network, name: &name, address_space: "", shares: false, v4, v6 };
            read.restore_pools(&restored).expect("they were free");
        }
        for (n, network) in self.networks.iter_mut().enumerate() {
            network.reboot();
            for (name, addresses) in network.reservations() {
                read.reserve(id(n), name, addresses).expect("nobody is there yet");
            }
            for (owner, addresses) in network.leases() {
                let mut lease = Lease::default();
                for address in addresses {
                    match address {
                        IpAddr::V4(ip) => lease.ipv4 = Some((*ip).into()),
                        IpAddr::V6(ip) => lease.ipv6 = Some((*ip).into()),
                    }
                }
                read.restore_lease(id(n), endpoint(owner), &name(owner), &lease).expect("it was held");
            }
        }
        self.ipam = read;
        self.image_is_written();
    }

    fn check_counts(&self, network: usize) {
        let usage = self.ipam.usage(id(network)).expect("known");
        for (usage, family) in usage.iter().zip(&self.networks[network].families) {
            let counted = (usage.used, usage.reserved, usage.quarantined);
            assert_eq!(
                counted,
                family.counts(),
                "used, reserved and quarantined addresses of {}",
                usage.pool
            );
        }
    }

    /// Every address has one holder, and the same one in both.
    fn check_holders(&self) {
        for (n, network) in self.networks.iter().enumerate() {
            let mut expected = network.holders();
            expected.sort_by_key(|(address, _)| *address);
            same_holders(n, self.ipam.holders(id(n), usize::MAX).expect("known"), &expected);
            let usage = self.ipam.usage(id(n)).expect("known");
            for (usage, family) in usage.iter().zip(&network.families) {
                let taken = u128::from(usage.used + usage.reserved + usage.quarantined);
                assert_eq!(usage.size, taken + family.free(), "an address of {} is lost", usage.pool);
            }
        }
    }
}

#[test]
fn a_million_operations_agree_with_the_reference() {
    let operations = from_environment("NETLOOM_IPAM_OPERATIONS").unwrap_or(1_000_000);
    let mut run = Run::new(Random::seeded());
    let began = Instant::now();
    for n in 0..operations {
        run.step();
        if n % 500 == 0 {
            run.check_holders();
        }
    }
    run.check_holders();
    let took = began.elapsed();
    note(format_args!(
        "{operations} operations in {took:?}: {} refusals, {} times read back",
        run.refusals, run.reloads
    ));
    assert!(run.refusals > operations / 100 && run.reloads > operations / 200, "the mixture is a dull one");
    (0..NETWORKS.len()).for_each(|n| run.ipam.release_pools(id(n)));
    assert!(run.ipam == DefaultIpam::new(&[]), "something is left");
}
