//! What specs accept and refuse.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::*;
use crate::error::Reason;
use crate::mac::MacAddr;

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

#[test]
fn a_valid_spec_passes() {
    let spec = NetworkSpec::new("blue")
        .pool(IpamPoolSpec {
            subnet: Some(net("10.1.0.0/16")),
            range: Some(net("10.1.4.0/24")),
            gateway: Some("10.1.0.254".parse().expect("an address")),
            auxiliary: [("router".to_owned(), "10.1.0.7".parse().expect("an address"))].into(),
        })
        .subnet(net("fd00:1::/64"));
    spec.validate().expect("valid");
    assert!(spec.ipv6);
}

#[test]
fn malformed_pools_are_refused() {
    let bad = [
        IpamPoolSpec { subnet: Some(net("10.1.2.3/16")), ..Default::default() },
        IpamPoolSpec { subnet: Some(net("224.0.0.0/24")), ..Default::default() },
        IpamPoolSpec { subnet: Some(net("127.0.0.0/8")), ..Default::default() },
        IpamPoolSpec { subnet: Some(net("0.0.0.0/0")), ..Default::default() },
        IpamPoolSpec { gateway: Some("10.0.0.1".parse().expect("an address")), ..Default::default() },
        IpamPoolSpec {
            subnet: Some(net("10.1.0.0/16")),
            range: Some(net("10.2.0.0/24")),
            ..Default::default()
        },
        IpamPoolSpec {
            subnet: Some(net("10.1.0.0/16")),
            gateway: Some("10.2.0.1".parse().expect("an address")),
            ..Default::default()
        },
    ];
    for pool in bad {
        assert!(NetworkSpec::new("n").pool(pool.clone()).validate().is_err(), "{pool:?}");
    }
}

#[test]
fn overlapping_pools_of_one_request_are_refused() {
    let spec = NetworkSpec::new("n").subnet(net("10.1.0.0/16")).subnet(net("10.1.2.0/24"));
    assert!(matches!(spec.validate().expect_err("overlap").reason(), Reason::PoolOverlap { .. }));
}

#[test]
fn a_spec_is_of_bounded_size() {
    let labels = |count: usize, length: usize| NetworkSpec {
        labels: (0..count).map(|n| (format!("{n:016}"), "x".repeat(length))).collect(),
        ..NetworkSpec::new("n")
    };
    let of_ipam = |count: usize, length: usize| {
        let mut spec = NetworkSpec::new("n");
        spec.ipam.options = labels(count, length).labels;
        spec
    };
    let auxiliary = |pools: u32, count: u32, name: usize| {
        let pool = |pool: u32| {
            let first = 0x0a00_0000 | pool << 16;
            let named = |n: u32| (format!("{n:0name$}"), Ipv4Addr::from(first | (n + 9)).into());
            IpamPoolSpec {
                subnet: Some(net(&format!("{}/16", Ipv4Addr::from(first)))),
                auxiliary: (0..count).map(named).collect(),
                ..IpamPoolSpec::default()
            }
        };
        (0..pools).map(pool).fold(NetworkSpec::new("n"), NetworkSpec::pool)
    };
    let fits =
        [labels(1024, 240), labels(16, MAX_VALUE_LEN - 16), of_ipam(1024, 240), auxiliary(2, 512, 255)];
    for spec in fits {
        spec.validate().expect("it fits");
    }
    let too_large = [
        labels(1025, 1),
        labels(1024, 241),
        labels(17, MAX_VALUE_LEN - 16),
        labels(1, MAX_VALUE_LEN + 1),
        of_ipam(1025, 1),
        of_ipam(1024, 241),
        of_ipam(1, MAX_VALUE_LEN + 1),
        auxiliary(2, 513, 9),
        auxiliary(1, 1, 256),
    ];
    for (n, spec) in too_large.into_iter().enumerate() {
        let error = spec.validate().expect_err("too large");
        assert!(error.to_string().len() < 300, "{n}: {error}");
    }
}

#[test]
fn a_blank_or_hostile_name_of_an_auxiliary_address_is_refused() {
    for blank in ["", " ", "\t\n", "a\u{1b}[2J", "a\n", "a\u{202e}b", " a"] {
        let pool = IpamPoolSpec {
            subnet: Some(net("10.1.0.0/16")),
            auxiliary: [(blank.to_owned(), "10.1.0.7".parse().expect("an address"))].into(),
            ..IpamPoolSpec::default()
        };
        let error = NetworkSpec::new("n").pool(pool).validate().expect_err(blank).to_string();
        assert!(error.contains("auxiliary") && error.contains("10.1.0.7"), "{error}");
        assert!(!error.contains(char::is_control) && !error.contains('\u{202e}'), "{error}");
    }
}

#[test]
fn host_names_are_of_labels_and_nothing_else_gets_into_a_hosts_file() {
    let named =
        |hostname: &str| SandboxSpec { hostname: hostname.into(), ..SandboxSpec::new("c") }.validate();
    let long = |label: usize, count: usize| vec!["x".repeat(label); count].join(".");
    for good in ["", "web", "Web-1", "my_host", "3com", "0", "-x-", "a.example.com", "a.example.com."] {
        named(good).expect(good);
    }
    named(&long(63, 1)).expect("the longest label");
    named(&long(62, 4)[..]).expect("a long name");
    let bad = ["a b", " web", "web\n127.0.0.1 bank", "a\tb", "a\0", "\u{1}", "\u{7f}", "#", "a/b", "größe"];
    let blank = [" ", "\n", ".", "..", ".a", "a..b", "a.."];
    let too_long = [long(64, 1), long(63, 4)];
    for bad in bad.into_iter().chain(blank).chain(too_long.iter().map(String::as_str)) {
        let error = named(bad).expect_err(bad).to_string();
        assert!(error.contains("hostname") && !error.contains(char::is_control), "{error}");
    }
}

#[test]
fn endpoint_macs_must_be_unicast() {
    let spec = EndpointSpec::new("e").mac(MacAddr([1, 0, 0, 0, 0, 1]));
    assert!(spec.validate().is_err());
}
