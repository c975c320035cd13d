//! What is done with bytes that may be anything, and what must be true afterwards. `scripts/fuzz` looks for bytes with
//! which it is not; the test `corpus` does the same with those that were kept.
#![allow(dead_code, unreachable_pub, reason = "each program uses its part")]

use std::collections::BTreeSet;

use ipnet::IpNet;
use netloom_ipam::{AddressSpace, DefaultIpam, LeaseRequest, PoolsRequest};
use netloom_model::{EndpointId, IpamPoolSpec, NetworkId, NetworkSpec};

/// How a part of an image begins.
const HEADER: &[u8] = b"NLIPAM\x00\x02";

/// Without a right checksum every image is refused, so bytes get one; nobody finds it by chance.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut image = [HEADER, body].concat();
    let checksum = crc32fast::hash(&image).to_le_bytes();
    image.extend(checksum);
    image
}

/// An image is taken whole or not at all: whatever is left of it agrees with itself, and can be written and read again.
pub fn image(bytes: &[u8]) {
    let mut read = DefaultIpam::new(&[]);
    assert!(read.load_image(AddressSpace::Local, bytes).is_err(), "the checksum was hit by chance");
    if read.load_image(AddressSpace::Local, &sealed(bytes)).is_err() {
        assert!(read == DefaultIpam::new(&[]), "a refused image left something");
        return;
    }
    agrees(&read);
    let written = read.image(AddressSpace::Local);
    let mut again = DefaultIpam::new(&[]);
    assert_eq!(
        again.load_image(AddressSpace::Local, &written),
        Ok(Vec::new()),
        "what was read contradicts itself"
    );
    assert!(again == read, "what was written is something else");
    agrees(&again);
    // Everything can be given back.
    let networks: Vec<_> = read.networks().map(|(network, ..)| network).collect();
    networks.into_iter().for_each(|network| read.release_pools(network));
    assert!(read == DefaultIpam::new(&[]), "something is left");
}

/// Every address of a network has one holder, and every one is counted once.
fn agrees(ipam: &DefaultIpam) {
    for (network, ..) in ipam.networks() {
        let usage = ipam.usage(network).expect("it is there");
        let held = ipam.holders(network, usize::MAX).expect("it is there").holders;
        let addresses: BTreeSet<_> = held.iter().map(|held| held.address).collect();
        assert_eq!(addresses.len(), held.len(), "an address has two holders");
        let mut counted = 0;
        for pool in usage {
            let taken = u128::from(pool.used + pool.reserved + pool.quarantined);
            assert!(taken <= pool.size, "more is taken than there is: {pool:?}");
            let room = pool.pool.max_prefix_len() - pool.pool.prefix_len() >= 2;
            let ends = if room { 1 + u128::from(pool.pool.addr().is_ipv4()) } else { 0 };
            counted += taken - ends;
        }
        assert_eq!(counted, held.len() as u128, "an address is lost");
    }
}

/// Lines of a subnet, and after it a range, a gateway, and a fixed address: what is a network's pool is used, and what is
/// not changes nothing.
pub fn pools(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut ipam = DefaultIpam::new(&[]);
    let mut networks = Vec::new();
    for (n, line) in text.lines().take(16).enumerate() {
        let mut words = line.split(' ');
        let subnet: Option<IpNet> = words.next().and_then(|word| word.parse().ok());
        let Some(subnet) = subnet else { continue };
        let pool = IpamPoolSpec {
            subnet: Some(subnet),
            range: words.next().and_then(|word| word.parse().ok()),
            gateway: words.next().and_then(|word| word.parse().ok()),
            ..IpamPoolSpec::default()
        };
        let mut spec = NetworkSpec::new("n").ipv6(subnet.addr().is_ipv6()).pool(pool.clone());
        if spec.ipv6 {
            // Beside a pool of its own; a default one there is not.
            spec.ipam
                .v4
                .push(IpamPoolSpec { subnet: format!("198.18.{n}.0/24").parse().ok(), ..Default::default() });
        }
        // Only what its own check lets through comes to the allocator, which must be safe without it too.
        let valid = spec.validate().is_ok();
        let network: NetworkId = format!("n{n}").parse().expect("an id");
        let (name, host) = (format!("n{n}"), &[][..]);
        let request = PoolsRequest {
            network,
            name,
            spec: &spec.ipam,
            ipv6: spec.ipv6,
            shares: text.len().is_multiple_of(2),
            host,
        };
        let before = ipam.clone();
        let Ok(granted) = ipam.request_pools(&request) else {
            assert!(ipam == before, "a refusal changed something");
            continue;
        };
        networks.push(network);
        let took = if spec.ipv6 { &granted.v6[0] } else { &granted.v4[0] };
        assert_eq!((took.pool, took.range), (subnet, pool.range));
        assert_eq!(subnet.addr(), subnet.network(), "host bits");
        assert!(took.gateway.is_none_or(|gateway| subnet.contains(&gateway)));
        assert!(!valid || pool.gateway.is_none() || took.gateway == pool.gateway);
        let fixed = words.next().and_then(|word| word.parse::<std::net::IpAddr>().ok());
        let mut given = BTreeSet::from_iter(took.gateway);
        for owner in 0..4_u8 {
            let mut want = LeaseRequest {
                owner: EndpointId::from_bytes([owner; 32]),
                name: format!("e{owner}"),
                ipv4: None,
                ipv6: None,
            };
            let fixed = fixed.filter(|_| owner == 2);
            match fixed {
                Some(std::net::IpAddr::V4(ip)) => want.ipv4 = Some(ip),
                Some(std::net::IpAddr::V6(ip)) => want.ipv6 = Some(ip),
                None => {}
            }
            let Ok(lease) = ipam.lease(network, &want) else { continue };
            let of_pool =
                lease.addresses().find(|address| address.is_ipv6() == spec.ipv6).expect("it has a pool");
            assert!(subnet.contains(&of_pool) && given.insert(of_pool), "{of_pool} of {subnet}");
            let chosen = fixed.is_none_or(|fixed| fixed.is_ipv6() != spec.ipv6);
            assert!(!chosen || pool.range.is_none_or(|range| range.contains(&of_pool)), "out of the range");
        }
    }
    agrees(&ipam);
    let image = ipam.image(AddressSpace::Local);
    let mut read = DefaultIpam::new(&[]);
    assert_eq!(read.load_image(AddressSpace::Local, &image), Ok(Vec::new()));
    assert!(read == ipam);
    networks.into_iter().for_each(|network| ipam.release_pools(network));
    assert!(ipam == DefaultIpam::new(&[]), "something is left");
}
