//! The default driver through its public interface: rules, atomicity, idempotence.

mod host;
mod kept;
mod order;
mod pools;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netloom_ipam::{DefaultIpam, HostNet, HostUse, Lease, LeaseRequest, PoolsRequest, RestoredPools};
use netloom_model::config::DefaultPool;
use netloom_model::record::PoolRecord;
use netloom_model::{
    EndpointId, EngineConfig, Error, IpamPoolSpec, IpamSpec, NetworkId, PoolsConsidered, Reason, Result,
};
use uuid::Uuid;

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

fn ip<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an address")
}

fn network(n: u32) -> NetworkId {
    format!("network{n}").parse().expect("an id")
}

fn endpoint(n: u128) -> EndpointId {
    EndpointId::from_uuids(Uuid::from_u128(n), Uuid::nil())
}

fn default_ipam() -> DefaultIpam {
    let host = DefaultPool { base: net("fd6e:6c6d::/48"), size: 64 };
    DefaultIpam::new(&EngineConfig::default().default_pools_on(host))
}

/// A spec with these subnets, sorted into families.
fn subnets(list: &[&str]) -> IpamSpec {
    let mut spec = IpamSpec::default();
    for text in list {
        let pool = IpamPoolSpec { subnet: Some(net(text)), ..Default::default() };
        if pool.subnet.is_some_and(|subnet| subnet.addr().is_ipv6()) {
            spec.v6.push(pool);
        } else {
            spec.v4.push(pool);
        }
    }
    spec
}

fn request<'a>(n: u32, spec: &'a IpamSpec, ipv6: bool, host: &'a [HostNet]) -> PoolsRequest<'a> {
    PoolsRequest { network: network(n), name: format!("net-{n}"), spec, ipv6, shares: false, host }
}

fn create(ipam: &mut DefaultIpam, n: u32, list: &[&str]) -> Result<(Vec<PoolRecord>, Vec<PoolRecord>)> {
    let spec = subnets(list);
    let granted = ipam.request_pools(&request(n, &spec, !spec.v6.is_empty(), &[]))?;
    Ok((granted.v4, granted.v6))
}

fn restore(ipam: &mut DefaultIpam, n: u32, v4: &[PoolRecord], v6: &[PoolRecord]) -> Result<()> {
    let name = format!("net-{n}");
    let (network, address_space) = (network(n), "");
    ipam.restore_pools(&RestoredPools { network, name: &name, address_space, shares: false, v4, v6 })
}

/// How the addresses of the first pool are used, as the error says: size, reserved, in quarantine.
#[track_caller]
fn filled(error: &Error) -> (u128, u64, u64) {
    match error.reason() {
        Reason::AddressesExhausted(considered) => {
            let fill = considered.pools[0];
            (fill.size, fill.reserved, fill.quarantined)
        }
        _ => panic!("{error}"),
    }
}

/// What an error says about default pools.
#[track_caller]
fn considered(error: &Error) -> &PoolsConsidered {
    match error.reason() {
        Reason::PoolsExhausted(considered) => considered,
        _ => panic!("{error}"),
    }
}

fn want(n: u128) -> LeaseRequest {
    LeaseRequest { owner: endpoint(n), name: format!("ep-{n}"), ipv4: None, ipv6: None }
}

fn lease4(ipam: &mut DefaultIpam, n: u32, owner: u128) -> Result<Ipv4Addr> {
    ipam.lease(network(n), &want(owner)).map(|lease| lease.ipv4.expect("an IPv4 address").addr())
}

#[test]
fn an_automatic_network_gets_the_first_pool_and_gateway() {
    let mut ipam = default_ipam();
    let granted = ipam.request_pools(&request(1, &IpamSpec::default(), true, &[])).expect("free");
    assert_eq!(granted.v4[0].pool, net("172.17.0.0/16"));
    assert_eq!(granted.v4[0].gateway, Some(ip("172.17.0.1")));
    assert_eq!(granted.v6[0].pool, net("fd6e:6c6d::/64"));
    assert_eq!(granted.v6[0].gateway, Some(ip("fd6e:6c6d::1")));
    let lease = ipam.lease(network(1), &want(1)).expect("free");
    assert_eq!(lease.ipv4, Some(ip("172.17.0.2/16")));
    assert_eq!(lease.ipv6, Some(ip("fd6e:6c6d::2/64")));
}

#[test]
fn the_default_pools_hold_a_thousand_networks_and_then_some() {
    let mut ipam = default_ipam();
    let spec = IpamSpec::default();
    let mut seen: Vec<IpNet> = Vec::new();
    let mut made = 0;
    let error = loop {
        match ipam.request_pools(&request(made, &spec, made < 1_000, &[])) {
            Ok(granted) => seen.extend(granted.v4.iter().chain(&granted.v6).map(|pool| pool.pool)),
            Err(error) => break error,
        }
        made += 1;
    };
    assert_eq!(made, 15 + 16 + 4_096);
    let considered = considered(&error);
    assert_eq!(considered.sizes, [(16, 15), (20, 16), (24, 4_096)]);
    assert_eq!((considered.held, considered.networks, considered.of_host), (4_127, 4_127, Some(0)));
    let named: Vec<_> = considered.holders.iter().map(|holder| holder.name.as_str()).collect();
    assert_eq!((named, considered.example.clone()), (vec!["net-31", "net-32", "net-33"], None));
    seen.sort_by_key(|net| (net.network(), net.broadcast()));
    assert!(seen.windows(2).all(|pair| !pair[0].contains(&pair[1])), "two pools overlap");
    ipam.release_pools(network(3_000));
    let granted = ipam.request_pools(&request(9_999, &spec, false, &[])).expect("one is free again");
    assert_eq!(granted.v4[0].pool, net("10.203.153.0/24"));
}

#[test]
fn subnets_that_overlap_are_refused_by_name() {
    let mut ipam = default_ipam();
    create(&mut ipam, 1, &["10.1.0.0/16", "fd00:1::/48"]).expect("free");
    for bad in ["10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8", "fd00:1:0:5::/64", "fd00::/16"] {
        let before = ipam.clone();
        let error = create(&mut ipam, 2, &[bad]).expect_err(bad);
        let Reason::PoolOverlap { pool, holder, .. } = error.reason() else { panic!("{bad}: {error}") };
        assert_eq!((*pool, holder.as_str()), (net(bad), "network \"net-1\" (network1)"));
        assert!(ipam == before);
    }
    let error = create(&mut ipam, 2, &["10.2.0.0/16", "10.2.3.0/24"]).expect_err("its own pools overlap");
    assert!(error.to_string().contains("held by the same request"), "{error}");
    create(&mut ipam, 2, &["10.0.0.0/16", "10.2.0.0/15"]).expect("neighbours do not overlap");
    let found = ipam.overlapping(net("10.0.0.0/15"));
    assert_eq!(
        found.iter().map(|found| found.pool).collect::<Vec<_>>(),
        [net("10.1.0.0/16"), net("10.0.0.0/16")]
    );
    assert_eq!((found[0].network, found[1].name.as_str()), (network(1), "net-2"));
}

#[test]
fn a_request_that_fails_at_any_pool_changes_nothing() {
    let mut ipam = default_ipam();
    create(&mut ipam, 1, &["10.1.0.0/16"]).expect("free");
    let before = ipam.clone();
    let good = ["10.2.0.0/16", "10.3.0.0/16", "fd00:2::/64", "fd00:3::/64"];
    let spoilers: [fn(&mut IpamPoolSpec); 5] = [
        |pool| {
            let v6 = pool.subnet.is_some_and(|subnet| subnet.addr().is_ipv6());
            pool.subnet = Some(net(if v6 { "10.0.0.0/8" } else { "10.1.9.0/24" }));
        },
        |pool| pool.gateway = pool.subnet.map(|subnet| subnet.network()),
        |pool| pool.gateway = Some(ip("9.9.9.9")),
        |pool| {
            let last = pool.subnet.map_or(ip("::"), |subnet| subnet.hosts().nth(9).expect("room"));
            pool.auxiliary = [("a".to_owned(), last), ("b".to_owned(), last)].into();
        },
        |pool| pool.range = Some(net("9.0.0.0/8")),
    ];
    for at in 0..good.len() {
        for (n, spoil) in spoilers.iter().enumerate() {
            let mut spec = subnets(&good);
            spoil(spec.v4.iter_mut().chain(&mut spec.v6).nth(at).expect("a pool"));
            let result = ipam.request_pools(&request(2, &spec, true, &[]));
            assert!(result.is_err(), "spoiler {n} at pool {at}: {result:?}");
            assert!(ipam == before, "spoiler {n} at pool {at}");
        }
    }
    let mut foreign = subnets(&good);
    foreign.address_space = "GlobalDefault".into();
    assert!(ipam.request_pools(&request(2, &foreign, true, &[])).is_err());
    assert!(ipam.request_pools(&request(2, &subnets(&good), false, &[])).is_err(), "IPv6 is off");
    assert!(ipam.request_pools(&request(1, &subnets(&good), true, &[])).is_err(), "network 1 has pools");
    assert!(ipam == before);
    ipam.request_pools(&request(2, &subnets(&good), true, &[])).expect("valid");
    ipam.release_pools(network(2));
    ipam.release_pools(network(2));
    assert!(ipam == before, "a release gives back everything");
}

#[test]
fn a_lease_that_fails_in_one_family_changes_nothing() {
    let mut ipam = default_ipam();
    create(&mut ipam, 1, &["10.1.0.0/30", "fd00::/64"]).expect("free");
    let before = ipam.clone();
    let bad = |ipv4: Option<&str>, ipv6: Option<&str>| LeaseRequest {
        ipv4: ipv4.map(ip),
        ipv6: ipv6.map(ip),
        ..want(1)
    };
    for (request, text) in [
        (bad(None, Some("fd00::1")), "address fd00::1 of pool fd00::/64 is held by gateway"),
        (bad(None, Some("fd00::")), "cannot be used: it is the router anycast address"),
        (bad(None, Some("fd01::5")), "it lies outside of fd00::/64, the pools of network \"net-1\""),
        (bad(Some("10.1.0.1"), None), "held by gateway"),
        (bad(Some("10.1.0.3"), None), "it is the broadcast address of its pool"),
        (bad(Some("10.1.0.0"), None), "it is the network address of its pool"),
        (bad(Some("10.1.0.9"), Some("fd00::9")), "outside of 10.1.0.0/30"),
    ] {
        let error = ipam.lease(network(1), &request).expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
        assert!(ipam == before, "{text}");
    }
    ipam.lease(network(1), &want(1)).expect("the last IPv4 address");
    let before = ipam.clone();
    let error = ipam.lease(network(1), &want(2)).expect_err("IPv4 is exhausted");
    assert_eq!(
        error.to_string(),
        format!(
            "no free address left in network \"net-1\" (network1): pool 10.1.0.0/30 has 4 addresses, 1 in use, \
             3 reserved (in use by endpoint \"ep-1\" ({}))",
            endpoint(1).short()
        )
    );
    assert!(ipam == before);
    create(&mut ipam, 2, &["10.2.0.0/24"]).expect("free");
    let error = ipam.lease(network(2), &bad(None, Some("fd00::9"))).expect_err("no IPv6 there");
    assert!(error.to_string().contains("network \"net-2\" has no IPv6 pool"), "{error}");
    assert!(matches!(
        ipam.lease(network(7), &want(1)).expect_err("unknown").reason(),
        Reason::NotFound { .. }
    ));
}

#[test]
fn the_same_owner_gets_the_same_lease() {
    let mut ipam = default_ipam();
    create(&mut ipam, 1, &["10.1.0.0/24", "fd00::/64"]).expect("free");
    let lease = ipam.lease(network(1), &want(1)).expect("free");
    let before = ipam.clone();
    assert_eq!(ipam.lease(network(1), &want(1)).expect("again"), lease);
    let same = LeaseRequest { ipv4: lease.ipv4.map(|net| net.addr()), ..want(1) };
    assert_eq!(ipam.lease(network(1), &same).expect("again"), lease);
    let other = LeaseRequest { ipv4: Some(ip("10.1.0.77")), ..want(1) };
    assert!(matches!(ipam.lease(network(1), &other).expect_err("another").reason(), Reason::IdTaken { .. }));
    ipam.restore_lease(network(1), endpoint(1), "ep-1", &lease).expect("what it has");
    let other = Lease { ipv6: None, ..lease };
    assert!(ipam.restore_lease(network(1), endpoint(1), "ep-1", &other).is_err());
    assert!(ipam == before);
    let taken = LeaseRequest { ipv4: lease.ipv4.map(|net| net.addr()), ..want(2) };
    let error = ipam.lease(network(1), &taken).expect_err("taken").to_string();
    assert_eq!(
        error,
        format!(
            "address 10.1.0.2 of pool 10.1.0.0/24 is held by endpoint \"ep-1\" ({})",
            endpoint(1).short()
        )
    );
}

#[test]
fn a_quarantined_address_stays_taken_until_it_is_released() {
    let mut ipam = default_ipam();
    create(&mut ipam, 1, &["10.1.0.0/29"]).expect("free");
    let first = lease4(&mut ipam, 1, 1).expect("free");
    ipam.quarantine(network(1), endpoint(1));
    ipam.quarantine(network(1), endpoint(1));
    let usage = &ipam.usage(network(1)).expect("known")[0];
    assert_eq!((usage.size, usage.used, usage.reserved, usage.quarantined), (8, 0, 3, 1));
    assert_eq!(
        ipam.holder(network(1), first.into()),
        Some(format!("quarantine of endpoint {}", endpoint(1).short()))
    );
    let error = ipam.lease(network(1), &want(1)).expect_err("its old lease is not its own any more");
    assert!(matches!(error.reason(), Reason::WrongPhase { .. }), "{error}");
    let wanted = LeaseRequest { ipv4: Some(first), ..want(2) };
    let error = ipam.lease(network(1), &wanted).expect_err("in quarantine").to_string();
    assert!(error.contains("held by quarantine of endpoint"), "{error}");
    let rest: Vec<_> = (2..).map_while(|n| lease4(&mut ipam, 1, n).ok()).collect();
    assert_eq!(rest.len(), 4);
    assert!(!rest.contains(&first));
    ipam.release(network(1), endpoint(1));
    ipam.release(network(1), endpoint(1));
    assert_eq!(lease4(&mut ipam, 1, 1).expect("released"), first);
    assert_eq!(ipam.usage(network(1)).expect("known")[0].used, 5);
    ipam.quarantine(network(9), endpoint(1));
    ipam.quarantine(network(1), endpoint(99));
    ipam.release(network(9), endpoint(1));
}

#[test]
fn released_addresses_come_back_last_and_the_next_pool_is_a_reserve() {
    let mut ipam = default_ipam();
    create(&mut ipam, 1, &["10.1.0.0/29", "10.2.0.0/29"]).expect("free");
    let last = |ipam: &mut DefaultIpam, n| lease4(ipam, 1, n).expect("free").to_string();
    assert_eq!(last(&mut ipam, 1), "10.1.0.2");
    ipam.release(network(1), endpoint(1));
    for (n, expected) in (2..).zip(["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2", "10.2.0.2"]) {
        assert_eq!(last(&mut ipam, n), expected);
    }
    ipam.release(network(1), endpoint(4));
    assert_eq!(last(&mut ipam, 8), "10.1.0.5", "the first pool comes first again");
}

#[test]
fn a_range_limits_automatic_choice_only() {
    let mut ipam = default_ipam();
    let mut spec = subnets(&["172.28.0.0/16"]);
    spec.v4[0].range = Some(net("172.28.30.0/24"));
    spec.v4[0].gateway = Some(ip("172.28.0.1"));
    spec.v4[0].auxiliary.insert("router".into(), ip("172.28.99.9"));
    ipam.request_pools(&request(1, &spec, false, &[])).expect("free");
    let fixed = LeaseRequest { ipv4: Some(ip("172.28.7.7")), ..want(1_000) };
    assert_eq!(ipam.lease(network(1), &fixed).expect("free").ipv4, Some(ip("172.28.7.7/16")));
    for n in 0..256 {
        assert_eq!(lease4(&mut ipam, 1, u128::from(n)).expect("free"), Ipv4Addr::from(0xac1c_1e00 + n));
    }
    let error = lease4(&mut ipam, 1, 256).expect_err("the range is exhausted");
    assert_eq!(filled(&error), (256, 0, 0));
    assert!(error.to_string().contains("range 172.28.30.0/24 of pool 172.28.0.0/16"), "{error}");
    let fixed = LeaseRequest { ipv4: Some(ip("172.28.99.9")), ..want(2_000) };
    let error = ipam.lease(network(1), &fixed).expect_err("reserved");
    assert!(error.to_string().ends_with("is held by auxiliary router"), "{error}");
}

#[test]
fn a_restart_from_records_gives_the_same_allocator() {
    let mut ipam = default_ipam();
    let auto = IpamSpec::default();
    let mut records = Vec::new();
    let mut leases = Vec::new();
    for n in 0..5 {
        let granted = ipam.request_pools(&request(n, &auto, n % 2 == 0, &[])).expect("free");
        records.push((n, granted.v4, granted.v6));
        for e in 0..20 {
            leases.push((n, e, ipam.lease(network(n), &want(e)).expect("free")));
        }
    }
    let mut restored = default_ipam();
    for _ in 0..2 {
        for (n, v4, v6) in records.iter().rev() {
            restore(&mut restored, *n, v4, v6).expect("free");
        }
        for (n, e, lease) in leases.iter().rev() {
            restored.restore_lease(network(*n), endpoint(*e), &format!("ep-{e}"), lease).expect("free");
        }
    }
    assert!(restored == ipam);
    let (_, v4, v6) = &records[0];
    let before = restored.clone();
    assert!(restore(&mut restored, 0, v4, &[]).is_err(), "it has other pools");
    let error = restore(&mut restored, 77, v4, v6).expect_err("taken");
    assert!(error.to_string().contains("held by network \"net-0\""), "{error}");
    let mut half = records[1].1.clone();
    half.insert(0, PoolRecord::new(net("10.99.0.0/16")));
    assert!(restore(&mut restored, 77, &half, &[]).is_err(), "the second pool is taken");
    let stolen = leases[0].2;
    assert!(restored.restore_lease(network(0), endpoint(500), "thief", &stolen).is_err());
    assert!(restored.restore_lease(network(88), endpoint(1), "e", &stolen).is_err());
    assert!(restored == before);
}

#[test]
fn the_largest_pools_work() {
    let mut ipam = DefaultIpam::new(&[]);
    create(&mut ipam, 1, &["10.0.0.0/8", "fd00::/64"]).expect("free");
    let fixed = LeaseRequest {
        ipv4: Some(ip("10.255.255.254")),
        ipv6: Some(ip("fd00::ffff:ffff:ffff:ffff")),
        ..want(1)
    };
    let lease = ipam.lease(network(1), &fixed).expect("free");
    assert_eq!(lease.ipv6, Some(ip("fd00::ffff:ffff:ffff:ffff/64")));
    assert_eq!(ipam.lease(network(1), &want(2)).expect("free").ipv6, Some(ip("fd00::2/64")));
    create(&mut ipam, 2, &["11.0.0.0/24", "2001:db8::/32"]).expect("free");
    let far = LeaseRequest { ipv6: Some(ip("2001:db8:ffff::1")), ..want(1) };
    ipam.lease(network(2), &far).expect("free");
    assert!(ipam.lease(network(2), &LeaseRequest { owner: endpoint(2), ..far.clone() }).is_err());
    ipam.release(network(2), endpoint(1));
    ipam.lease(network(2), &LeaseRequest { owner: endpoint(2), ..far }).expect("free again");
    let usage = ipam.usage(network(2)).expect("known");
    assert_eq!((usage[1].size, usage[1].used, usage[1].reserved), (1 << 96, 1, 2));
    let error =
        ipam.request_pools(&request(3, &IpamSpec::default(), false, &[])).expect_err("no default pools");
    assert!(error.to_string().ends_with("there are no default pools for IPv4"), "{error}");
}

#[test]
fn point_to_point_pools_are_used_in_full() {
    let mut ipam = DefaultIpam::new(&[]);
    create(&mut ipam, 1, &["10.0.0.0/31", "fd00::/127"]).expect("free");
    let lease = ipam.lease(network(1), &want(1)).expect("one is left beside the gateway");
    assert_eq!((lease.ipv4, lease.ipv6), (Some(ip("10.0.0.1/31")), Some(ip("fd00::1/127"))));
    // The only address of a pool is an endpoint's.
    let (v4, v6) = create(&mut ipam, 2, &["10.0.0.7/32", "fd01::7/128"]).expect("free");
    assert_eq!((v4[0].gateway, v6[0].gateway), (None, None));
    let lease = ipam.lease(network(2), &want(1)).expect("nobody has it");
    assert_eq!((lease.ipv4, lease.ipv6), (Some(ip("10.0.0.7/32")), Some(ip("fd01::7/128"))));
    let error: Error = ipam.lease(network(2), &want(2)).expect_err("nothing is left");
    assert_eq!(filled(&error), (1, 0, 0));
    let usage = ipam.usage(network(2)).expect("known");
    assert!(usage.iter().all(|pool| (pool.size, pool.used, pool.reserved) == (1, 1, 0)), "{usage:?}");
    ipam.release(network(2), endpoint(1));
    assert_eq!(ipam.lease(network(2), &want(2)).expect("it comes back").ipv4, Some(ip("10.0.0.7/32")));
    // Whoever asks for a gateway gets it.
    let mut spec = subnets(&["10.0.0.8/32"]);
    spec.v4[0].gateway = Some(ip("10.0.0.8"));
    ipam.request_pools(&request(3, &spec, false, &[])).expect("free");
    let error: Error = ipam.lease(network(3), &want(1)).expect_err("its only address is the gateway");
    assert_eq!(filled(&error), (1, 1, 0));
}

#[test]
fn ten_thousand_pools_leave_no_trace() {
    let block = DefaultPool { base: net("10.0.0.0/8"), size: 24 };
    let mut ipam = DefaultIpam::new(&[block]);
    let empty = ipam.clone();
    let auto = IpamSpec::default();
    for n in 0..10_000 {
        ipam.request_pools(&request(n, &auto, false, &[])).expect("free");
    }
    for n in (0..10_000).step_by(3) {
        ipam.release_pools(network(n));
    }
    let granted = ipam.request_pools(&request(0, &auto, false, &[])).expect("free");
    assert_eq!(granted.v4[0].pool, net("10.0.0.0/24"));
    for n in 0..10_000 {
        ipam.release_pools(network(n));
    }
    assert!(ipam == empty);
    assert_eq!(ipam.holder(network(0), IpAddr::V4(ip("10.0.0.1"))), None);
}
