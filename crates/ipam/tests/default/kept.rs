//! Addresses that are kept for names, and endpoints that are renamed.

use std::net::IpAddr;

use netloom_ipam::{DefaultIpam, LeaseRequest};

use crate::{create, endpoint, filled, ip, lease4, network, restore, want};

/// An endpoint that was renamed may have its two addresses from two reservations: each gets its own back, also after the
/// other one was given up, and after a start.
#[test]
fn each_reservation_gets_its_own_address_back() {
    for (reloaded, given_up) in [(false, None), (true, None), (false, Some("db")), (false, Some("old"))] {
        let mut ipam = DefaultIpam::new(&[]);
        let (pools4, pools6) = create(&mut ipam, 1, &["10.1.0.0/24", "fd00:1::/64"]).expect("free");
        let empty: Vec<_> = ipam.usage(network(1)).expect("there").iter().map(|pool| pool.reserved).collect();
        let (v4, v6): (IpAddr, IpAddr) = (ip("10.1.0.9"), ip("fd00:1::9"));
        ipam.reserve(network(1), "db", &[v4]).expect("free");
        let want = LeaseRequest { name: "db".into(), ipv6: Some(ip("fd00:1::9")), ..want(1) };
        let lease = ipam.lease(network(1), &want).expect("kept for it");
        ipam.rename(network(1), endpoint(1), "old");
        assert!(ipam.holder(network(1), v4).expect("held").contains("endpoint \"old\""));
        ipam.reserve(network(1), "old", &[v6]).expect("its own");
        if reloaded {
            ipam = DefaultIpam::new(&[]);
            restore(&mut ipam, 1, &pools4, &pools6).expect("free");
            ipam.reserve(network(1), "db", &[v4]).expect("free");
            ipam.reserve(network(1), "old", &[v6]).expect("free");
            ipam.restore_lease(network(1), endpoint(1), "old", &lease).expect("kept");
        }
        if let Some(name) = given_up {
            assert!(ipam.unreserve(network(1), name));
        }
        ipam.release(network(1), endpoint(1));
        let kept = |name: &str| (given_up != Some(name)).then(|| format!("reservation {name:?}"));
        assert_eq!(ipam.holder(network(1), v4), kept("db"), "{reloaded} {given_up:?}");
        assert_eq!(ipam.holder(network(1), v6), kept("old"), "{reloaded} {given_up:?}");
        let kept = [v4, v6].map(|address| u64::from(ipam.holder(network(1), address).is_some()));
        let usage = ipam.usage(network(1)).expect("there");
        let now: Vec<_> = usage.iter().map(|pool| pool.reserved).collect();
        assert_eq!(now, [empty[0] + kept[0], empty[1] + kept[1]]);
        assert!(usage.iter().all(|pool| pool.used == 0));
    }
}

/// Who has an address from what is kept for its old name cannot have it kept for its new one as well: when it is gone, only
/// one of them would get it.
#[test]
fn one_address_is_kept_for_one_name() {
    let mut ipam = DefaultIpam::new(&[]);
    create(&mut ipam, 1, &["10.1.0.0/24", "fd00:1::/64"]).expect("free");
    let (v4, v6): (IpAddr, IpAddr) = (ip("10.1.0.9"), ip("fd00:1::9"));
    ipam.reserve(network(1), "db", &[v4]).expect("free");
    let want = LeaseRequest { name: "db".into(), ipv6: Some(ip("fd00:1::9")), ..want(1) };
    ipam.lease(network(1), &want).expect("kept for it");
    ipam.rename(network(1), endpoint(1), "web");
    let before = ipam.clone();
    for addresses in [&[v4][..], &[v4, v6], &[v6, v4]] {
        let error = ipam.reserve(network(1), "web", addresses).expect_err("it is kept for db").to_string();
        assert!(error.contains("10.1.0.9") && error.contains("reservation \"db\""), "{error}");
        assert!(ipam == before, "a refusal changed something");
    }
    ipam.reserve(network(1), "web", &[v6]).expect("its own");
    ipam.release(network(1), endpoint(1));
    assert_eq!(ipam.holder(network(1), v4).as_deref(), Some("reservation \"db\""));
    assert_eq!(ipam.holder(network(1), v6).as_deref(), Some("reservation \"web\""));
}

/// What is kept is not in use, as the error says when nothing is left.
#[test]
fn what_is_kept_is_counted_as_reserved() {
    let mut ipam = DefaultIpam::new(&[]);
    create(&mut ipam, 1, &["10.1.0.0/29"]).expect("free");
    ipam.reserve(network(1), "db", &[ip("10.1.0.3")]).expect("free");
    ipam.reserve(network(1), "web", &[ip("10.1.0.4")]).expect("free");
    let web = LeaseRequest { name: "web".into(), ..want(1) };
    ipam.lease(network(1), &web).expect("kept for it");
    let error = (2..).find_map(|owner| lease4(&mut ipam, 1, owner).err()).expect("it ends");
    // Both ends, the gateway, and what is kept for `db`.
    assert_eq!(filled(&error), (8, 4, 0), "{error}");
}
