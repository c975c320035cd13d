//! Pools of every size, chosen by size, shared by networks, and addresses kept for names.

use std::net::IpAddr;

use netloom_ipam::{DefaultIpam, LeaseRequest, PoolsRequest};
use netloom_model::config::DefaultPool;
use netloom_model::{IpamPoolSpec, IpamSpec, Reason, Result};

use crate::{endpoint, ip, lease4, net, network, want};

/// The gateway of a network of one pool; whether it shares it is said with it.
fn with_pool(ipam: &mut DefaultIpam, n: u32, pool: IpamPoolSpec, shares: bool) -> Result<IpAddr> {
    maybe_gateway(ipam, n, pool, shares).map(|gateway| gateway.expect("chosen"))
}

fn maybe_gateway(ipam: &mut DefaultIpam, n: u32, pool: IpamPoolSpec, shares: bool) -> Result<Option<IpAddr>> {
    let ipv6 = pool.subnet.is_some_and(|subnet| subnet.addr().is_ipv6());
    let mut spec = IpamSpec::default();
    if ipv6 { &mut spec.v6 } else { &mut spec.v4 }.push(pool);
    let (network, name) = (network(n), format!("net-{n}"));
    let request = PoolsRequest { network, name, spec: &spec, ipv6, shares, host: &[] };
    let granted = ipam.request_pools(&request)?;
    let pools = if ipv6 { granted.v6 } else { granted.v4 };
    Ok(pools[0].gateway)
}

fn pool(subnet: &str, range: Option<&str>) -> IpamPoolSpec {
    IpamPoolSpec { subnet: Some(net(subnet)), range: range.map(net), ..Default::default() }
}

/// The gateway and then leases until nothing is free.
fn drain(subnet: &str, range: Option<&str>) -> Vec<String> {
    // IPv6 comes beside IPv4, which has room enough.
    let mut ipam = DefaultIpam::new(&[DefaultPool { base: net("172.16.0.0/16"), size: 16 }]);
    let gateway = maybe_gateway(&mut ipam, 1, pool(subnet, range), false).expect("a pool");
    let mut all: Vec<_> = gateway.iter().map(ToString::to_string).collect();
    for n in 0.. {
        match ipam.lease(network(1), &want(n)) {
            Ok(lease) => all.extend(lease.addresses().last().map(|address| address.to_string())),
            Err(error) => {
                let Reason::AddressesExhausted(considered) = error.reason() else { panic!("{error}") };
                assert_eq!(considered.endpoints, (all.len() - gateway.iter().count()) as u64);
                break;
            }
        }
    }
    all
}

#[test]
fn a_request_that_leaves_no_address_for_a_gateway_is_refused_itself() {
    for (subnet, range, taken, field) in [
        ("10.0.0.0/24", Some("10.0.0.0/32"), None, "range"),
        ("10.0.0.0/24", Some("10.0.0.255/32"), None, "range"),
        ("10.0.0.0/24", Some("10.0.0.9/32"), Some("10.0.0.9"), "range"),
        ("fd00::/64", Some("fd00::/128"), None, "range"),
        ("10.0.0.0/31", None, Some("10.0.0.0"), ""),
    ] {
        let mut ipam = DefaultIpam::new(&[DefaultPool { base: net("172.16.0.0/16"), size: 16 }]);
        let mut wanted = pool(subnet, range);
        wanted.auxiliary.extend(taken.map(|address| ("router".to_owned(), ip(address))));
        match maybe_gateway(&mut ipam, 1, wanted, false) {
            Ok(gateway) => assert_eq!((gateway, field), (Some(ip("10.0.0.1")), "")),
            Err(error) => {
                let Reason::InvalidOption { option, value, why } = error.reason() else { panic!("{error}") };
                assert_eq!((option.as_str(), Some(value.as_str())), (field, range));
                assert!(why.contains("larger range") && why.contains(subnet), "{why}");
            }
        }
        // Nothing is left of what was refused.
        assert_eq!(maybe_gateway(&mut ipam, 2, pool(subnet, None), false).is_ok(), !field.is_empty());
    }
}

#[test]
fn options_are_what_this_driver_does_or_are_refused() {
    let mut ipam = DefaultIpam::new(&[]);
    let mut ask = |n, key: &str, value: &str| {
        let options = [(key.to_owned(), value.to_owned())].into();
        let v4 = vec![pool(&format!("10.{n}.0.0/24"), None)];
        let spec = IpamSpec { options, v4, ..IpamSpec::default() };
        let (network, name) = (network(n), format!("net-{n}"));
        ipam.request_pools(&PoolsRequest {
            network,
            name,
            spec: &spec,
            ipv6: false,
            shares: false,
            host: &[],
        })
    };
    ask(1, "com.docker.network.ipam.serial", "true").expect("always so");
    for (n, key, value) in [
        (2, "com.docker.network.ipam.serial", "false"),
        (3, "com.docker.network.ipam.serail", "true"),
        (4, "color", "blue"),
    ] {
        let error = ask(n, key, value).expect_err(key);
        let Reason::InvalidOption { option, .. } = error.reason() else { panic!("{error}") };
        assert_eq!(*option, format!("ipam.options.{key}"));
    }
}

#[test]
fn what_each_size_of_pool_hands_out() {
    for (subnet, range, expected) in [
        ("10.0.0.0/29", None, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"][..]),
        ("10.0.0.0/30", None, &["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.0/31", None, &["10.0.0.0", "10.0.0.1"]),
        ("10.0.0.9/32", None, &["10.0.0.9"]),
        ("fd00::/126", None, &["fd00::1", "fd00::2", "fd00::3"]),
        ("fd00::/127", None, &["fd00::", "fd00::1"]),
        ("fd00::5/128", None, &["fd00::5"]),
        ("10.0.0.0/24", Some("10.0.0.4/30"), &["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]),
        ("10.0.0.0/24", Some("10.0.0.0/30"), &["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("10.0.0.0/24", Some("10.0.0.252/30"), &["10.0.0.252", "10.0.0.253", "10.0.0.254"]),
        (
            "fd00::/48",
            Some("fd00:0:0:7::8/126"),
            &["fd00:0:0:7::8", "fd00:0:0:7::9", "fd00:0:0:7::a", "fd00:0:0:7::b"],
        ),
        ("255.255.255.252/30", None, &["255.255.255.253", "255.255.255.254"]),
        (
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127",
            None,
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        ),
    ] {
        assert_eq!(drain(subnet, range), expected, "{subnet} {range:?}");
    }
}

#[test]
fn the_gateway_is_the_first_free_address_of_the_range() {
    let mut ipam = DefaultIpam::new(&[]);
    let mut plain = pool("10.0.0.0/24", Some("10.0.0.16/28"));
    plain.auxiliary.insert("router".into(), ip("10.0.0.16"));
    assert_eq!(with_pool(&mut ipam, 1, plain, false).expect("free"), ip::<IpAddr>("10.0.0.17"));
    assert_eq!(ipam.usage(network(1)).expect("known")[0].reserved, 4);
    assert_eq!(ipam.holder(network(1), ip("10.0.0.17")).as_deref(), Some("gateway"));
    assert_eq!(lease4(&mut ipam, 1, 1).expect("free").to_string(), "10.0.0.18");
}

#[test]
fn clashing_reservations_are_refused() {
    let gateway = |text: &str| IpamPoolSpec { gateway: Some(ip(text)), ..pool("10.0.0.0/24", None) };
    let with_aux = |base: IpamPoolSpec, list: &[(&str, &str)]| {
        let auxiliary = list.iter().map(|(name, at)| ((*name).to_owned(), ip(at))).collect();
        IpamPoolSpec { auxiliary, ..base }
    };
    for (spec, text) in [
        (gateway("10.0.0.0"), "the network address"),
        (gateway("10.0.0.255"), "the broadcast address"),
        (gateway("10.0.1.1"), "outside of 10.0.0.0/24"),
        (gateway("fd00::1"), "outside of 10.0.0.0/24"),
        (with_aux(gateway("10.0.0.5"), &[("a", "10.0.0.5")]), "held by gateway"),
        (with_aux(gateway("10.0.0.9"), &[("a", "10.0.0.5"), ("b", "10.0.0.5")]), "auxiliary a"),
        (pool("10.0.0.0/24", Some("10.0.0.0/23")), "a range must be"),
        (pool("10.0.0.0/24", Some("fd00::/64")), "a range must be"),
        (pool("10.0.0.0/24", Some("10.0.0.9/28")), "without host bits"),
    ] {
        let mut ipam = DefaultIpam::new(&[]);
        let error = with_pool(&mut ipam, 1, spec, false).expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
        assert!(ipam == DefaultIpam::new(&[]));
    }
}

/// Requests that name a size only (moby's `0.0.0.0/26`): the lowest free place among the default pools.
#[test]
fn a_size_finds_the_lowest_place_that_is_free() {
    let block = |base: &str, size| DefaultPool { base: net(base), size };
    let mut ipam =
        DefaultIpam::new(&[block("10.0.0.0/22", 24), block("172.16.0.0/12", 16), block("fd00::/48", 64)]);
    let mut ask =
        |n: u32, size: &str| with_pool(&mut ipam, n, pool(size, None), false).map(|ip| ip.to_string());
    assert_eq!(ask(1, "0.0.0.0/26").expect("free"), "10.0.0.1");
    assert_eq!(ask(2, "0.0.0.0/26").expect("free"), "10.0.0.65");
    assert_eq!(ask(3, "0.0.0.0/23").expect("free"), "10.0.2.1");
    assert_eq!(ask(4, "0.0.0.0/14").expect("free"), "172.16.0.1", "no part of the smaller block");
    assert_eq!(ask(5, "0.0.0.0/26").expect("free"), "10.0.0.129", "the gap is filled");
    assert_eq!(ask(6, "0.0.0.0/24").expect("free"), "10.0.1.1");
    assert_eq!(ask(7, "::/80").expect("free"), "fd00::1");
    let error = ask(8, "0.0.0.0/11").expect_err("no block is so large");
    let said = "a /11 was asked for, and no block of default pools is larger than a /12";
    assert!(error.to_string().contains(said), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("default_pools")));
    assert_eq!(error.kind(), netloom_model::ErrorKind::Exhausted);
}

#[test]
fn networks_that_share_a_subnet_never_have_one_address_twice() {
    let mut ipam = DefaultIpam::new(&[]);
    let before = ipam.clone();
    let ranges = [Some("10.1.1.0/24"), Some("10.1.1.0/25"), None];
    for (n, range) in (1..).zip(ranges) {
        with_pool(&mut ipam, n, pool("10.1.0.0/16", range), true).expect("shared");
    }
    let error = with_pool(&mut ipam, 4, pool("10.1.0.0/16", None), false).expect_err("it does not share");
    assert!(error.to_string().contains("network \"net-1\""), "{error}");
    with_pool(&mut ipam, 4, pool("10.1.0.0/17", None), true).expect_err("a part of it is another subnet");
    let mut given = std::collections::BTreeSet::new();
    let usage = |ipam: &DefaultIpam, n: u32| ipam.usage(network(n)).expect("known").remove(0);
    for n in 0..300_u128 {
        let by = u32::try_from(n % 3).expect("small") + 1;
        if let Ok(address) = lease4(&mut ipam, by, n) {
            assert!(given.insert(address), "{address} twice");
        }
    }
    assert!(given.len() > 200);
    let taken = LeaseRequest { ipv4: Some(ip("10.1.1.3")), ..want(900) };
    let error = ipam.lease(network(3), &taken).expect_err("of another network").to_string();
    assert!(error.contains("an endpoint or reservation of network \"net-"), "{error}");
    let gateway = LeaseRequest { ipv4: Some(ip("10.1.1.0")), ..want(900) };
    let error = ipam.lease(network(3), &gateway).expect_err("of another network").to_string();
    assert!(error.contains("the gateway of network \"net-1\""), "{error}");
    let holding: Vec<_> = ipam.overlapping(net("10.1.9.0/24")).into_iter().map(|found| found.name).collect();
    assert_eq!(holding, ["net-1", "net-2", "net-3"]);
    // Each gives back its own and nothing else.
    let (first, third) = (usage(&ipam, 1), usage(&ipam, 3));
    let taken = |usage: &netloom_ipam::PoolUsage| usage.used + usage.reserved + usage.quarantined;
    assert_eq!(taken(&first), taken(&third), "what one has none of them can have");
    assert_eq!(taken(&first), given.len() as u64 + 3 + 2, "three gateways, and both ends");
    ipam.release_pools(network(1));
    let left = usage(&ipam, 3);
    assert_eq!((left.used, taken(&left)), (third.used, taken(&third) - first.used - 1));
    assert_eq!(ipam.lease(network(3), &gateway).expect("free now").ipv4, Some(ip("10.1.1.0/16")));
    ipam.release_pools(network(3));
    ipam.release_pools(network(2));
    assert!(ipam == before);
}

/// Neighbours still know an address where it was before.
#[test]
fn what_a_network_leaves_in_a_shared_subnet_cools_down() {
    let mut ipam = DefaultIpam::new(&[]);
    for n in 1..=2 {
        with_pool(&mut ipam, n, pool("10.1.0.0/28", None), true).expect("shared");
    }
    let first: Vec<_> = (0..3).map(|n| lease4(&mut ipam, 1, n).expect("free")).collect();
    assert_eq!(lease4(&mut ipam, 2, 10).expect("free").to_string(), "10.1.0.6");
    ipam.release(network(1), endpoint(1));
    ipam.release_pools(network(1));
    let rest: Vec<_> = (20..).map_while(|n| lease4(&mut ipam, 2, n).ok()).collect();
    let rest: Vec<_> = rest.iter().map(ToString::to_string).collect();
    assert_eq!(rest.len(), 16 - 2 - 1 - 1, "all but the ends, its gateway and what it has");
    // Released first, and then what it had when it went, its gateway among it.
    assert_eq!(rest[8..], ["10.1.0.4", "10.1.0.1", "10.1.0.3", "10.1.0.5"]);
    assert_eq!(first[1].to_string(), "10.1.0.4");
}

/// What is tried and taken back leaves no trace, not even in what cools down.
#[test]
fn a_request_that_fails_or_is_planned_changes_nothing_that_cools_down() {
    let mut ipam = DefaultIpam::new(&[]);
    with_pool(&mut ipam, 1, pool("10.1.0.0/29", None), true).expect("free");
    for n in 0..5 {
        lease4(&mut ipam, 1, n).expect("free");
    }
    for n in [3, 1, 4, 0, 2] {
        ipam.release(network(1), endpoint(n));
    }
    let before = ipam.clone();
    let mut spec = IpamSpec { v4: vec![pool("10.1.0.0/29", None)], ..IpamSpec::default() };
    fn request(spec: &IpamSpec) -> PoolsRequest<'_> {
        let (network, name) = (network(2), "net-2".into());
        PoolsRequest { network, name, spec, ipv6: false, shares: true, host: &[] }
    }
    let planned = ipam.plan_pools(&request(&spec)).expect("shared");
    assert_eq!(planned.v4[0].gateway, Some(ip("10.1.0.5")), "the one that was released first");
    assert!(ipam == before);
    spec.v4[0].gateway = Some(ip("10.1.0.4"));
    spec.v4[0].auxiliary = [("router".to_owned(), ip("10.1.0.1"))].into();
    ipam.request_pools(&request(&spec)).expect_err("the auxiliary address is taken");
    assert!(ipam == before);
    spec.v4[0].auxiliary.clear();
    spec.v4.push(pool("10.1.0.0/30", None));
    ipam.request_pools(&request(&spec)).expect_err("the second pool is a part of the first");
    assert!(ipam == before);
    let mut plain = netloom_model::record::PoolRecord::new(net("10.1.0.0/29"));
    plain.gateway = Some(ip("10.1.0.3"));
    let other = netloom_model::record::PoolRecord::new(net("10.1.0.0/28"));
    let v4 = [plain, other];
    let restored = netloom_ipam::RestoredPools {
        network: network(2),
        name: "net-2",
        address_space: "",
        shares: true,
        v4: &v4,
        v6: &[],
    };
    ipam.restore_pools(&restored).expect_err("the second one overlaps");
    assert!(ipam == before);
}

#[test]
fn what_is_kept_for_a_name_goes_to_endpoints_of_that_name_only() {
    let mut ipam = DefaultIpam::new(&[]);
    with_pool(&mut ipam, 1, pool("10.1.0.0/29", None), false).expect("free");
    let kept: IpAddr = ip("10.1.0.3");
    ipam.reserve(network(1), "db", &[kept]).expect("free");
    ipam.reserve(network(1), "db", &[kept]).expect("it is so already");
    let error = ipam.reserve(network(1), "db", &[ip("10.1.0.4")]).expect_err("another");
    assert!(matches!(error.reason(), Reason::NameTaken { .. }), "{error}");
    let error = ipam.reserve(network(1), "web", &[kept]).expect_err("it is db's").to_string();
    assert!(error.contains("held by reservation \"db\""), "{error}");
    let rest: Vec<_> = (1..).map_while(|n| lease4(&mut ipam, 1, n).ok()).collect();
    assert_eq!(rest.len(), 4);
    assert!(!rest.contains(&ip("10.1.0.3")), "nobody is given it by chance");
    let db = |n: u128| LeaseRequest { name: "db".into(), ..want(n) };
    for n in 100..103 {
        let lease = ipam.lease(network(1), &db(n)).expect("its own");
        assert_eq!(lease.ipv4, Some(ip("10.1.0.3/29")));
        let error = ipam.lease(network(1), &db(200)).expect_err("one at a time").to_string();
        assert!(error.contains("held by endpoint \"db\""), "{error}");
        ipam.quarantine(network(1), endpoint(n));
        assert!(ipam.lease(network(1), &db(200)).is_err(), "until the kernel has let go");
        ipam.release(network(1), endpoint(n));
        assert_eq!(ipam.holder(network(1), kept).as_deref(), Some("reservation \"db\""));
    }
    assert!(ipam.unreserve(network(1), "db") && !ipam.unreserve(network(1), "db"));
    assert_eq!(lease4(&mut ipam, 1, 300).expect("free now").to_string(), "10.1.0.3");
}
