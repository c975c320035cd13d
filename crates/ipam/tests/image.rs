//! Images of address spaces, whole and damaged, and the texts of pools: whatever comes, nothing panics and nothing is
//! half done. `PROPTEST_CASES` says how many of each are tried.

mod common;

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_ipam::{AddressSpace, Change, DefaultIpam, ImageError, LeaseRequest, PoolsRequest};
use netloom_model::{IpamPoolSpec, IpamSpec, NetworkSpec};
use proptest::prelude::*;

use common::{endpoint, network, want};

/// Networks of all sorts: two share a subnet, one has auxiliary addresses and two pools; addresses are leased,
/// reserved, in quarantine and cooling down.
fn full(space: AddressSpace) -> DefaultIpam {
    let mut ipam = empty();
    for (n, pools) in [
        (1, &["10.1.0.0/24"][..]),
        (2, &["10.1.0.0/24", "fd00::/64"]),
        (3, &["10.3.0.0/29", "10.4.0.0/16", "fd03::/32"]),
        (4, &["10.5.0.7/32"]),
    ] {
        let mut spec = IpamSpec { address_space: space.name().into(), ..IpamSpec::default() };
        for subnet in pools {
            let subnet: IpNet = subnet.parse().expect("a subnet");
            let mut pool = IpamPoolSpec { subnet: Some(subnet), ..IpamPoolSpec::default() };
            if n == 3 {
                let auxiliary = subnet.hosts().nth(3).expect("room");
                pool.auxiliary = [("router".to_owned(), auxiliary)].into();
                pool.range = subnet.subnets(subnet.prefix_len() + 1).expect("valid").nth(1);
            }
            if subnet.addr().is_ipv6() { &mut spec.v6 } else { &mut spec.v4 }.push(pool);
        }
        let name = format!("net {n}");
        let ipv6 = !spec.v6.is_empty();
        let request = PoolsRequest { network: network(n), name, spec: &spec, ipv6, shares: n < 3, host: &[] };
        ipam.request_pools(&request).expect("free");
    }
    for n in 1..4 {
        let far: IpAddr = if n == 3 { "10.4.9.9" } else { "10.1.0.200" }.parse().expect("an address");
        if n != 2 {
            ipam.reserve(network(n), "db", &[far]).expect("free");
        }
        for e in 0..7 {
            ipam.lease(network(n), &want(e)).expect("free");
        }
        ipam.release(network(n), endpoint(2));
        ipam.release(network(n), endpoint(1));
        ipam.quarantine(network(n), endpoint(3));
    }
    ipam.lease(network(1), &LeaseRequest { name: "db".into(), ..want(50) }).expect("reserved");
    ipam
}

fn empty() -> DefaultIpam {
    let mut ipam = DefaultIpam::new(&[]);
    ipam.open_global(&[]);
    ipam
}

#[test]
fn an_image_gives_the_same_allocator_again() {
    for space in [AddressSpace::Local, AddressSpace::Global] {
        let ipam = full(space);
        let image = ipam.image(space);
        let mut read = empty();
        assert_eq!(read.load_image(space, &image), Ok(Vec::new()));
        assert!(read == ipam);
        assert_eq!(read.image(space), image, "the order of things does not depend on how they came about");
        assert_eq!(read.holders(network(1), 1_000), ipam.holders(network(1), 1_000));
        let other = if space == AddressSpace::Local { AddressSpace::Global } else { AddressSpace::Local };
        assert!(read.load_image(other, &image).is_err(), "an image of another space");
        assert!(read == ipam);
    }
}

/// So many that pages are made as a whole, in pools of every form; some have their addresses from reservations, and one
/// contradicts the rest.
#[test]
fn a_large_image_gives_the_same_allocator_again_also_with_a_contradiction() {
    let mut ipam = empty();
    let pools: [&[&str]; 4] = [
        &["10.0.0.0/12", "fd00::/64"],
        &["10.0.0.0/12"],
        &["10.32.0.0/19", "10.33.0.0/24", "fd01::/40"],
        &["fd02::/64"],
    ];
    for (n, pools) in (1..).zip(pools) {
        let mut spec = IpamSpec::default();
        for subnet in pools {
            let subnet: IpNet = subnet.parse().expect("a subnet");
            let pool = IpamPoolSpec { subnet: Some(subnet), ..IpamPoolSpec::default() };
            if subnet.addr().is_ipv6() { &mut spec.v6 } else { &mut spec.v4 }.push(pool);
        }
        if n == 4 {
            spec.v4.push(IpamPoolSpec { subnet: "10.64.0.0/10".parse().ok(), ..IpamPoolSpec::default() });
        }
        let ipv6 = !spec.v6.is_empty();
        let request = PoolsRequest {
            network: network(n),
            name: "n".into(),
            spec: &spec,
            ipv6,
            shares: n < 3,
            host: &[],
        };
        ipam.request_pools(&request).expect("free");
    }
    let scattered = |n: u32| {
        let x = u64::from(n).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    for n in 0..100 {
        let address: IpAddr = std::net::Ipv4Addr::from(0x0a20_0100_u32 + n).into();
        ipam.reserve(network(3), &format!("e{}", n * 7), &[address]).expect("free");
    }
    let mut leased = [0; 5];
    for n in 0..30_000_u32 {
        let to = 1 + n % 4;
        let mut want = want(n.into());
        let high = if to == 3 { scattered(n) >> 62 } else { 0 };
        let base = [0xfd00, 0, 0xfd01, 0xfd02][to as usize - 1];
        if base > 0 && n % 5 > 0 {
            let address = (base << 112) | (u128::from(high) << 64) | u128::from(scattered(n) >> (n % 40));
            want.ipv6 = Some(address.into());
        }
        leased[to as usize] += u32::from(ipam.lease(network(to), &want).is_ok());
        if n % 11 == 0 {
            ipam.quarantine(network(to), want.owner);
        }
        if n % 13 == 0 {
            ipam.release(network(to), want.owner);
        }
    }
    assert!(leased[1..].iter().all(|leased| *leased > 5_000), "{leased:?}");
    let image = ipam.image(AddressSpace::Local);
    let mut read = empty();
    assert_eq!(read.load_image(AddressSpace::Local, &image), Ok(Vec::new()));
    assert!(read == ipam);
    assert_eq!(read.holders(network(3), usize::MAX), ipam.holders(network(3), usize::MAX));
    // One whose address is another one's is left out, and nobody else is.
    let last = endpoint(29_998);
    let at = image.windows(32).position(|bytes| bytes == last.to_bytes()).expect("it is there");
    let v4 = at + 32 + 1 + "e29998".len() + 1 + 1;
    let before: [u8; 4] = image[v4..v4 + 4].try_into().expect("an address");
    let holder = ipam.holder(network(3), before.into()).expect("it is held");
    assert!(holder.contains("\"e29998\""), "{holder}");
    let mut twice = image;
    twice[v4..v4 + 4].copy_from_slice(&[10, 32, 0, 1]);
    let found = read.load_image(AddressSpace::Local, &sealed(twice)).expect("an image");
    assert!(
        matches!(&found[..], [one] if one.what.contains("e29998") && one.why.contains("gateway")),
        "{found:?}"
    );
    // Which frees it, and does not let it cool down.
    ipam.release(network(3), last);
    let usage = |ipam: &DefaultIpam| ipam.usage(network(3));
    assert_eq!(usage(&read), usage(&ipam));
    assert_eq!(read.holders(network(3), usize::MAX), ipam.holders(network(3), usize::MAX));
}

#[test]
fn damage_at_any_bit_is_noticed_and_changes_nothing() {
    let image = full(AddressSpace::Local).image(AddressSpace::Local);
    let mut read = empty();
    for len in 0..image.len() {
        assert!(read.load_image(AddressSpace::Local, &image[..len]).is_err(), "cut to {len}");
    }
    for at in 0..image.len() {
        for bit in 0..8 {
            let mut altered = image.clone();
            altered[at] ^= 1 << bit;
            assert!(read.load_image(AddressSpace::Local, &altered).is_err(), "byte {at} bit {bit}");
        }
    }
    let mut newer = image;
    newer[7] += 1;
    assert_eq!(read.load_image(AddressSpace::Local, &newer), Err(ImageError::Newer { found: 3, known: 2 }));
    let mut older =
        sealed([b"NLIPAM\x00\x01", &full(AddressSpace::Local).image(AddressSpace::Local)[8..]].concat());
    assert!(matches!(read.load_image(AddressSpace::Local, &older), Err(ImageError::Damaged(_))));
    older[7] = 0;
    assert!(matches!(read.load_image(AddressSpace::Local, &sealed(older)), Err(ImageError::Damaged(_))));
    assert!(read == empty());
}

/// The same bytes under a right checksum: what a bug of ours would write, not what a disk does.
fn sealed(mut image: Vec<u8>) -> Vec<u8> {
    let body = image.len() - 4;
    let checksum = crc32fast::hash(&image[..body]).to_le_bytes();
    image[body..].copy_from_slice(&checksum);
    image
}

#[test]
fn what_contradicts_the_rest_is_left_out_and_told() {
    // Two endpoints with one address: the second endpoint's is made that of the first.
    let ipam = full(AddressSpace::Local);
    let image = ipam.image(AddressSpace::Local);
    let held = ipam.holders(network(3), 1_000).expect("known").holders;
    let of =
        |name: &str| match held.iter().find(|held| held.holder.contains(name)).expect("it has one").address {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(_) => panic!("IPv4 comes first"),
        };
    let (one, other) = (of("\"e5\""), of("\"e6\""));
    let mut twice = image.clone();
    let at = image.windows(4).rposition(|bytes| bytes == other).expect("it is there");
    twice[at..at + 4].copy_from_slice(&one);
    let mut read = empty();
    let found = read.load_image(AddressSpace::Local, &sealed(twice)).expect("an image");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].what.contains("\"e6\"") && found[0].why.contains("held by endpoint \"e5\""),
        "{found:?}"
    );
    // Two networks with overlapping pools.
    let mut overlap = image.clone();
    let at = image.windows(5).rposition(|bytes| bytes == [32, 10, 5, 0, 7]).expect("it is there");
    overlap[at + 1..at + 5].copy_from_slice(&[10, 4, 0, 7]);
    let mut read = empty();
    let found = read.load_image(AddressSpace::Local, &sealed(overlap)).expect("an image");
    assert!(
        found.iter().any(|found| found.what.contains("net 4") && found.why.contains("10.4.0.0/16")),
        "{found:?}"
    );
}

proptest! {
    /// Arbitrary bytes, and images with arbitrary bytes in them, all under a right checksum.
    #[test]
    fn no_image_makes_it_panic(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..24),
        cut in any::<prop::sample::Index>(),
        how in 0u8..3,
    ) {
        let whole = full(AddressSpace::Local).image(AddressSpace::Local);
        let mut image = whole.clone();
        match how {
            0 => {
                let at = 8 + at.index(image.len() - 8);
                let end = (at + bytes.len()).min(image.len());
                image[at..end].copy_from_slice(&bytes[..end - at]);
            }
            1 => {
                image.truncate(12 + cut.index(image.len() - 12));
            }
            _ => {
                image.truncate(8);
                image.extend(&bytes);
                image.extend([0; 4]);
            }
        }
        let mut read = empty();
        match read.load_image(AddressSpace::Local, &sealed(image)) {
            // What was taken is whole: it can be written and read again.
            Ok(_) => {
                let again = read.image(AddressSpace::Local);
                let mut reread = empty();
                prop_assert_eq!(reread.load_image(AddressSpace::Local, &again), Ok(Vec::new()));
                prop_assert!(reread == read);
            }
            Err(_) => prop_assert!(read == empty()),
        }
    }

    /// A change from a log that is not ours, or not of now.
    #[test]
    fn no_change_makes_it_panic(text in "\\PC{0,80}", network in 0u32..6, n in 0u128..9, address in any::<IpAddr>()) {
        prop_assert!(serde_json::from_str::<Change>(&text).is_err());
        let before = full(AddressSpace::Local);
        let net = IpNet::from(address);
        let (ipv4, ipv6) = match net { IpNet::V4(net) => (Some(net), None), IpNet::V6(net) => (None, Some(net)) };
        let network = common::network(network);
        for change in [
            Change::Leased { network, endpoint: endpoint(n), name: text.clone(), host: None, ipv4, ipv6 },
            Change::Reserved { network, name: text.clone(), addresses: vec![address] },
            Change::Released { network, endpoint: endpoint(n) },
            Change::Unreserved { network, name: text },
            Change::PoolsReleased { network },
            Change::PoolsRetired { network },
        ] {
            let mut ipam = before.clone();
            if ipam.apply(&change).is_err() {
                prop_assert!(ipam == before, "{change:?}");
            }
            let json = serde_json::to_string(&change).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Change>(&json).expect("the same"), change);
        }
    }

    /// Texts that look like subnets: what is accepted is a subnet without host bits, and comes out as it went in.
    #[test]
    fn pool_texts_are_taken_or_refused_as_a_whole(
        text in prop_oneof![
            "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}/[0-9]{1,3}",
            "[0-9a-f:]{2,20}/[0-9]{1,3}",
            "\\PC{0,24}",
        ],
        gateway in any::<IpAddr>(),
    ) {
        let Ok(subnet) = text.parse::<IpNet>() else { return Ok(()) };
        let mut spec = NetworkSpec::new("n").pool(IpamPoolSpec { subnet: Some(subnet), ..Default::default() });
        spec.ipv6 = subnet.addr().is_ipv6();
        let judged = spec.validate();
        let request = PoolsRequest {
            network: network(1),
            name: "n".into(),
            spec: &spec.ipam,
            ipv6: spec.ipv6,
            shares: false,
            host: &[],
        };
        let mut ipam = empty();
        match ipam.request_pools(&request) {
            Ok(granted) => {
                let pool = if spec.ipv6 { &granted.v6 } else { &granted.v4 };
                let took = pool.iter().find(|pool| pool.pool == subnet).expect("what was asked for");
                prop_assert_eq!(took.pool.addr(), took.pool.network());
                let one = subnet.prefix_len() == subnet.max_prefix_len();
                prop_assert!(took.gateway.map_or(one, |gateway| subnet.contains(&gateway)));
            }
            Err(_) => prop_assert!(ipam == empty()),
        }
        if judged.is_ok() {
            let mut odd = spec.clone();
            let pools = if spec.ipv6 { &mut odd.ipam.v6 } else { &mut odd.ipam.v4 };
            pools[0].gateway = Some(gateway);
            let belongs = subnet.contains(&gateway) && pools[0].names_subnet();
            prop_assert_eq!(odd.validate().is_ok(), belongs, "gateway {}", gateway);
        }
    }
}
