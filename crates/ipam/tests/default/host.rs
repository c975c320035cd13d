//! What the host uses, and what is left when that and all networks are passed over.

use super::*;

#[test]
fn what_the_host_uses_is_passed_over_or_refused() {
    let host = |list: &[&str]| -> Vec<HostNet> {
        list.iter().map(|text| HostNet { net: net(text), used_as: HostUse::Route, link: None }).collect()
    };
    let auto = IpamSpec::default();
    let vpn = host(&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "::/1", "8000::/1"]);
    let granted = default_ipam().request_pools(&request(1, &auto, true, &vpn)).expect("free");
    assert_eq!(granted.v4[0].pool, net("172.17.0.0/16"));
    assert_eq!(granted.skipped, []);
    let lan = host(&["172.16.0.0/12", "192.168.0.0/21", "fd6e:6c6d::/56"]);
    let granted = default_ipam().request_pools(&request(1, &auto, true, &lan)).expect("free");
    assert_eq!(granted.v4[0].pool, net("192.168.16.0/20"));
    assert_eq!(granted.v6[0].pool, net("fd6e:6c6d:0:100::/64"));
    assert_eq!(granted.skipped.len(), 15 + 1 + 1);
    let mut ipam = default_ipam();
    let before = ipam.clone();
    let spec = subnets(&["192.168.7.0/24"]);
    let error = ipam.request_pools(&request(1, &spec, false, &lan)).expect_err("the host uses it");
    assert_eq!(error.to_string(), "pool 192.168.7.0/24 overlaps 192.168.0.0/21, a route of the host");
    let error =
        ipam.request_pools(&request(1, &auto, false, &host(&["172.0.0.0/8", "192.0.0.0/8", "10.0.0.0/8"])));
    let error = error.expect_err("all used");
    let PoolsConsidered { held, networks, of_host, example, .. } = considered(&error);
    assert_eq!((*held, *networks, *of_host), (0, 0, Some(4_127)));
    let example = example.as_ref().expect("one of them");
    assert_eq!(
        (example.pool, example.other, example.what.clone()),
        (net("172.17.0.0/16"), net("172.0.0.0/8"), "a route".into())
    );
    assert!(ipam == before);
    create(&mut ipam, 1, &["192.168.7.0/24"]).expect("free");
    let error = ipam.request_pools(&request(2, &spec, false, &lan)).expect_err("taken");
    assert!(
        matches!(error.reason(), Reason::PoolOverlap { .. }),
        "our own network is the better name: {error}"
    );
}

/// Parity: libnetwork checks automatic pools against the host's name servers, and no others.
#[test]
fn a_name_server_keeps_default_pools_away_and_no_given_subnet() {
    let server = |text: &str| HostNet { net: net(text), used_as: HostUse::NameServer, link: None };
    let host = [
        server("172.17.0.53/32"),
        server("127.0.0.53/32"),
        server("fd6e:6c6d::53/128"),
        server("fe80::1/128"),
    ];
    let mut ipam = default_ipam();
    let granted = ipam.request_pools(&request(1, &IpamSpec::default(), true, &host)).expect("free");
    assert_eq!(granted.v4[0].pool, net("172.18.0.0/16"));
    assert_eq!(granted.v6[0].pool, net("fd6e:6c6d:0:1::/64"));
    assert_eq!(granted.skipped.iter().map(|skipped| skipped.host).collect::<Vec<_>>(), [host[0], host[2]]);
    // One of each: what is chosen keeps away, what is given need not.
    let mut mixed = subnets(&["172.17.0.0/24", "fd6e:6c6d::/64"]);
    mixed.v4.push(IpamPoolSpec::default());
    let granted = ipam.request_pools(&request(2, &mixed, true, &host)).expect("free");
    let pools: Vec<_> = granted.v4.iter().chain(&granted.v6).map(|pool| pool.pool).collect();
    assert_eq!(pools, [net("172.17.0.0/24"), net("172.19.0.0/16"), net("fd6e:6c6d::/64")]);
    let mut small = DefaultIpam::new(&[DefaultPool { base: net("172.17.0.0/16"), size: 16 }]);
    let error = small.request_pools(&request(1, &IpamSpec::default(), false, &host)).expect_err("in the way");
    assert!(
        error.to_string().ends_with("(such as 172.17.0.0/16: 172.17.0.53/32 is a name server of the host)"),
        "{error}"
    );
}

/// Some pools are held in whole or in part, by few networks or by the asking one, and the host has the rest.
#[test]
fn at_exhaustion_the_error_says_who_has_what() {
    let block = |base: &str, size| DefaultPool { base: net(base), size };
    let mut ipam =
        DefaultIpam::new(&[block("10.0.0.0/22", 24), block("10.9.0.0/16", 18), block("fd00::/62", 64)]);
    let host = [HostNet { net: net("10.9.128.0/17"), used_as: HostUse::Route, link: None }];
    let auto = IpamSpec::default();
    // One address of the first pool, all of the next two; the fourth is chosen; two of the others are.
    create(&mut ipam, 1, &["10.0.0.7/32"]).expect("free");
    create(&mut ipam, 2, &["10.0.1.0/24", "10.0.2.0/24", "192.0.2.0/24"]).expect("free");
    for n in 3..=5 {
        ipam.request_pools(&request(n, &auto, false, &host)).expect("free");
    }
    let before = ipam.clone();
    let error = ipam.request_pools(&request(6, &auto, true, &host)).expect_err("nothing is left");
    let PoolsConsidered { family, asked, largest, sizes, held, networks, holders, of_host, example } =
        considered(&error);
    assert_eq!((*asked, *largest), (None, None));
    assert_eq!((*family, sizes.as_slice()), ("IPv4", [(18, 4), (24, 4)].as_slice()));
    assert_eq!((*held, *networks, *of_host), (6, 5, Some(2)));
    let named: Vec<_> = holders.iter().map(|holder| holder.name.as_str()).collect();
    assert_eq!(named, ["net-2", "net-1", "net-3"], "who holds most comes first");
    assert_eq!(example.as_ref().map(|example| example.pool), Some(net("10.9.128.0/18")));
    assert!(ipam == before);

    // A request for more than there is counts what it has got so far, and gives it back.
    let mut greedy = subnets(&["203.0.113.0/24"]);
    greedy.v6 = vec![IpamPoolSpec::default(); 5];
    let error = ipam.request_pools(&request(7, &greedy, true, &host)).expect_err("there are four");
    let PoolsConsidered { family, sizes, held, networks, holders, of_host, .. } = considered(&error);
    assert_eq!((*family, sizes.as_slice(), *held, *of_host), ("IPv6", [(64, 4)].as_slice(), 4, Some(0)));
    assert_eq!((*networks, holders[0].name.as_str()), (1, "net-7"));
    assert!(ipam == before);
}
