//! What Linux refuses, and with which error number.

use netloom_kernel::{LinkKind, Neighbour};
use netloom_model::MacAddr;

use super::*;
use crate::errno::*;

#[test]
fn names_in_use() {
    let kernel = two_on_a_bridge();
    assert_eq!(refuses(&kernel, netns("a")), EEXIST);
    assert_eq!(refuses(&kernel, bridge("br0")), EEXIST);
    assert_eq!(refuses(&kernel, bridge("va")), EEXIST);
    assert_eq!(refuses(&kernel, veth("va", "eth7", named("a"), None)), EEXIST);
    assert_eq!(refuses(&kernel, veth("vc", "eth0", named("a"), None)), EEXIST);
    assert_eq!(refuses(&kernel, veth("vc", "lo", named("a"), None)), EEXIST);
    assert_eq!(refuses(&kernel, veth("vc", "vc", HOST_NS, None)), EEXIST);
    // Names are per namespace: the host's end may be called as any link inside.
    does(&kernel, [veth("eth9", "br0", named("a"), None)]);
}

#[test]
fn objects_that_are_not_there() {
    let kernel = two_on_a_bridge();
    let gone = named("gone");
    assert_eq!(refuses(&kernel, drop_netns("gone")), ENOENT);
    assert_eq!(refuses(&kernel, veth("vc", "eth0", gone, None)), ENOENT);
    assert_eq!(refuses(&kernel, set(gone, "eth0", true)), ENOENT);
    assert_eq!(refuses(&kernel, sysctl(gone, "ipv4/ip_forward", "1")), ENOENT);
    assert_eq!(refuses(&kernel, veth("vc", "eth1", named("a"), Some("br9"))), ENODEV);
    assert_eq!(refuses(&kernel, delete("vc")), ENODEV);
    assert_eq!(refuses(&kernel, Op::CutLink { name: link("vc") }), ENODEV);
    assert_eq!(refuses(&kernel, set(named("a"), "eth9", true)), ENODEV);
    assert_eq!(refuses(&kernel, mtu(named("a"), "eth9", 1400)), ENODEV);
    assert_eq!(refuses(&kernel, address(named("a"), "eth9", "10.0.0.9/24")), ENODEV);
    assert_eq!(refuses(&kernel, drop_address(named("a"), "eth9", "10.0.0.9/24")), ENODEV);
    assert_eq!(refuses(&kernel, route(named("a"), "10.9.0.0/16", None, "eth9")), ENODEV);
    assert_eq!(refuses(&kernel, drop_route(named("a"), "10.9.0.0/16", None, "eth9")), ENODEV);
    let listed = kernel.links(gone, later()).now_or_never().expect("at once");
    assert_eq!(listed.expect_err("no such namespace").errno, ENOENT);
}

#[test]
fn a_bridge_takes_1023_ports() {
    let kernel = SimKernel::new();
    does(&kernel, [bridge("br0"), netns("a")]);
    let veth = |n: usize| veth(&format!("v{n}"), &format!("e{n}"), named("a"), Some("br0"));
    does(&kernel, (0..1023).map(veth));
    assert_eq!(refuses(&kernel, veth(1023)), EXFULL);
    does(&kernel, [delete("v500"), veth(1023)]);
    assert_eq!(refuses(&kernel, veth(1024)), EXFULL);
}

#[test]
fn only_a_bridge_has_ports() {
    let kernel = two_on_a_bridge();
    assert_eq!(refuses(&kernel, veth("vc", "eth1", named("a"), Some("eth0"))), EOPNOTSUPP);
    assert_eq!(refuses(&kernel, veth("vc", "eth1", named("a"), Some("va"))), EOPNOTSUPP);
}

#[test]
fn what_cannot_be_a_port_and_where_there_is_no_place() {
    let kernel = two_on_a_bridge();
    does(&kernel, [bridge("br1")]);
    for (name, master) in [("gone", Some("br0")), ("va", Some("gone")), ("gone", None)] {
        assert_eq!(refuses(&kernel, port(name, master)), ENODEV, "{name}");
    }
    for master in ["va", "vb", "lo", "eth0"] {
        assert_eq!(refuses(&kernel, port("va", Some(master))), EOPNOTSUPP, "{master}");
    }
    assert_eq!(refuses(&kernel, port("lo", Some("br0"))), EINVAL);
    assert_eq!(refuses(&kernel, port("br1", Some("br0"))), ELOOP);
    assert_eq!(refuses(&kernel, port("br0", Some("br0"))), ELOOP);
    does(&kernel, (0..1023).map(|n| veth(&format!("v{n}"), &format!("e{n}"), named("a"), Some("br1"))));
    assert_eq!(refuses(&kernel, port("va", Some("br1"))), EXFULL);
    does(&kernel, [port("v7", Some("br1")), port("v7", None), port("va", Some("br1"))]);
}

#[test]
fn hardware_addresses_and_sizes_that_no_link_has() {
    let kernel = two_on_a_bridge();
    let with = |mac: Option<[u8; 6]>, mtu| Op::CreateVeth {
        host: link("vc"),
        peer: link("eth1"),
        netns: named("a"),
        master: Some(link("br0")),
        mac: mac.map(MacAddr),
        mtu,
        tag: tag("vc"),
    };
    assert_eq!(refuses(&kernel, with(Some([1, 0, 0, 0, 0, 1]), None)), EADDRNOTAVAIL);
    assert_eq!(refuses(&kernel, with(Some([0; 6]), None)), EADDRNOTAVAIL);
    for size in [0, 67, 65_536] {
        assert_eq!(refuses(&kernel, with(None, Some(size))), EINVAL, "{size}");
        assert_eq!(refuses(&kernel, mtu(named("a"), "eth0", size)), EINVAL, "{size}");
        let bridge = Op::CreateBridge { name: link("br1"), mac: None, mtu: Some(size), tag: tag("br1") };
        assert_eq!(refuses(&kernel, bridge), EINVAL, "{size}");
    }
    does(&kernel, [with(None, Some(68)), mtu(named("a"), "eth1", 65_535), mtu(named("a"), "lo", 65_536)]);
}

#[test]
fn a_link_with_another_mark_is_not_deleted() {
    let kernel = two_on_a_bridge();
    let marked = |id: &str| Op::DeleteLink { name: link("va"), tag: Some(tag(id)) };
    assert_eq!(refuses(&kernel, marked("other")), EPERM);
    kernel.foreign_link(HOST_NS, link("wg0"), LinkKind::Other("wireguard".into()), None).expect("added");
    assert_eq!(refuses(&kernel, delete("wg0")), EPERM);
    does(&kernel, [marked("va"), Op::DeleteLink { name: link("wg0"), tag: None }]);
    for device in ["lo", "eth0"] {
        assert_eq!(refuses(&kernel, Op::DeleteLink { name: link(device), tag: None }), EOPNOTSUPP);
    }
}

#[test]
fn addresses() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    let add = |text| address(a, "eth0", text);
    assert_eq!(refuses(&kernel, add("10.0.0.2/24")), EEXIST);
    // The same IPv4 address with another prefix length is another address; with IPv6 it is not.
    does(&kernel, [add("10.0.0.2/16")]);
    assert_eq!(refuses(&kernel, add("fd00::2/64")), EEXIST);
    assert_eq!(refuses(&kernel, add("fd00::2/80")), EEXIST);
    for bad in ["ff02::9/64", "::/64", "::1/128"] {
        assert_eq!(refuses(&kernel, add(bad)), EADDRNOTAVAIL, "{bad}");
    }
    for absent in ["10.0.0.2/25", "10.0.0.3/24", "fd00::2/80", "fd00::3/64"] {
        assert_eq!(refuses(&kernel, drop_address(a, "eth0", absent)), EADDRNOTAVAIL, "{absent}");
    }
    does(&kernel, [sysctl(a, "ipv6/conf/eth0/disable_ipv6", "1")]);
    assert_eq!(refuses(&kernel, add("fd00::9/64")), EACCES);
    does(&kernel, [sysctl(a, "ipv6/conf/eth0/disable_ipv6", "0"), mtu(a, "eth0", 1000)]);
    assert_eq!(refuses(&kernel, add("fd00::9/64")), EINVAL);
    assert_eq!(refuses(&kernel, drop_address(a, "eth0", "fd00::9/64")), ENXIO);
}

#[test]
fn ipv4_routes() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    let via = |gateway| route(a, "10.9.0.0/16", Some(gateway), "eth0");
    for unreachable in ["10.1.0.1", "192.0.2.1", "127.0.0.1"] {
        does(&kernel, [drop_route(a, "0.0.0.0/0", Some("10.0.0.1"), "eth0")]);
        assert_eq!(refuses(&kernel, via(unreachable)), ENETUNREACH, "{unreachable}");
        does(&kernel, [route(a, "0.0.0.0/0", Some("10.0.0.1"), "eth0")]);
        // A default route with a next hop does not make it reachable.
        assert_eq!(refuses(&kernel, via(unreachable)), ENETUNREACH, "{unreachable}");
    }
    assert_eq!(refuses(&kernel, via("10.0.0.255")), EINVAL, "the broadcast address");
    assert_eq!(refuses(&kernel, route(a, "10.9.0.1/16", None, "eth0")), EINVAL, "host bits");
    assert_eq!(refuses(&kernel, drop_route(a, "10.9.0.1/16", None, "eth0")), EINVAL, "host bits");
    does(&kernel, [via("10.0.0.9")]);
    assert_eq!(refuses(&kernel, via("10.0.0.9")), EEXIST);
    assert_eq!(refuses(&kernel, via("10.0.0.8")), EEXIST, "another next hop");
    assert_eq!(refuses(&kernel, route(a, "10.0.0.0/24", None, "eth0")), EEXIST, "the connected route");
    assert_eq!(refuses(&kernel, drop_route(a, "10.9.0.0/16", Some("10.0.0.8"), "eth0")), ESRCH);
    assert_eq!(refuses(&kernel, drop_route(a, "10.8.0.0/16", None, "eth0")), ESRCH);
    does(&kernel, [drop_route(a, "10.9.0.0/16", None, "eth0"), via("10.0.0.2"), set(a, "eth0", false)]);
    assert_eq!(refuses(&kernel, via("10.0.0.1")), ENETUNREACH, "the link is down");
    assert_eq!(refuses(&kernel, via("10.0.0.2")), ENETDOWN, "its own address");
    assert_eq!(refuses(&kernel, route(a, "10.9.0.0/16", None, "eth0")), ENETDOWN);
}

#[test]
fn ipv6_routes() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    let via = |gateway| route(a, "fd09::/64", Some(gateway), "eth0");
    assert_eq!(refuses(&kernel, via("fd01::1")), EHOSTUNREACH);
    for bad in ["fd00::2", "ff02::1", "::", "10.0.0.1"] {
        assert_eq!(refuses(&kernel, via(bad)), EINVAL, "{bad}");
    }
    does(&kernel, [via("fd00::9")]);
    assert_eq!(refuses(&kernel, via("fd00::8")), EEXIST);
    // Linux adds a route beside the connected one, which has another metric, and drops host bits.
    does(&kernel, [route(a, "fd00::/64", None, "eth0"), route(a, "fd0a::1/64", Some("fe80::1"), "eth0")]);
    assert_eq!(refuses(&kernel, route(a, "fd0a::2/64", None, "eth0")), EEXIST);
    assert_eq!(refuses(&kernel, drop_route(a, "fd77::/64", None, "eth0")), ESRCH);
    does(&kernel, [set(a, "eth0", false)]);
    assert_eq!(refuses(&kernel, via("fd00::9")), EHOSTUNREACH);
    assert_eq!(refuses(&kernel, via("fe80::1")), ENETDOWN);
    assert_eq!(refuses(&kernel, route(a, "fd09::/64", None, "eth0")), ENETDOWN);
    does(&kernel, [set(a, "eth0", true), sysctl(a, "ipv6/conf/eth0/disable_ipv6", "1")]);
    assert_eq!(refuses(&kernel, via("fe80::1")), EACCES);
    does(&kernel, [mtu(a, "eth0", 1000)]);
    assert_eq!(refuses(&kernel, via("fe80::1")), ENODEV);
}

#[test]
fn neighbours() {
    let kernel = two_on_a_bridge();
    let entry = |neighbour| Op::DeleteNeighbour { netns: named("a"), link: link("eth0"), neighbour };
    let add = |neighbour| Op::AddNeighbour { netns: named("a"), link: link("eth0"), neighbour };
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let known = Neighbour::Address { address: ip("10.0.0.9"), mac };
    assert_eq!(refuses(&kernel, entry(known)), ENOENT);
    does(&kernel, [add(known), add(known), entry(known)]);
    let behind = |to| Neighbour::Forwarding { mac, destination: Some(ip(to)) };
    does(&kernel, [add(behind("192.0.2.1")), add(behind("192.0.2.2"))]);
    assert_eq!(refuses(&kernel, entry(behind("192.0.2.1"))), ENOENT, "replaced");
    does(&kernel, [entry(Neighbour::Forwarding { mac, destination: None })]);
    let flood = |to| Neighbour::Forwarding { mac: MacAddr([0; 6]), destination: Some(ip(to)) };
    does(&kernel, [add(flood("192.0.2.1")), add(flood("192.0.2.2"))]);
    does(&kernel, [entry(flood("192.0.2.1")), entry(flood("192.0.2.2"))]);
    assert_eq!(refuses(&kernel, entry(flood("192.0.2.2"))), ENOENT);
    let known6 = Neighbour::Address { address: ip("fd00::9"), mac };
    does(&kernel, [add(known6), sysctl(named("a"), "ipv6/conf/eth0/disable_ipv6", "1")]);
    assert_eq!(refuses(&kernel, entry(known6)), ENOENT);
    assert_eq!(refuses(&kernel, add(known6)), EINVAL);
}

#[test]
fn settings() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    for (key, value) in [
        ("ipv4/nope", "1"),
        ("nope", "1"),
        ("ipv4/conf/eth9/rp_filter", "1"),
        ("ipv4/conf/eth0/nope", "1"),
        ("ipv4/conf/all", "1"),
        ("ipv6/neigh/all/app_solicit", "1"),
        ("vlan/conf/eth0/x", "1"),
    ] {
        assert_eq!(refuses(&kernel, sysctl(a, key, value)), ENOENT, "{key}");
    }
    for (key, value) in [
        ("", "1"),
        ("/ipv4/ip_forward", "1"),
        ("ipv4/../ipv4/ip_forward", "1"),
        ("ipv4/ip_forward", ""),
        ("ipv4/ip_forward", "abc"),
        ("ipv4/ip_unprivileged_port_start", "70000"),
        ("ipv4/ip_local_port_range", "x"),
        ("ipv6/conf/eth0/addr_gen_mode", "9"),
        ("ipv6/conf/all/disable_ipv6", "on"),
    ] {
        assert_eq!(refuses(&kernel, sysctl(a, key, value)), EINVAL, "{key} = {value:?}");
    }
    does(
        &kernel,
        [
            sysctl(a, "ipv4/ip_forward", "2"),
            sysctl(a, "ipv4/conf/eth0/rp_filter", "9"),
            sysctl(a, "ipv6/conf/eth0/disable_ipv6", "1 2"),
            sysctl(a, "ipv4/neigh/default/gc_stale_time", "30"),
            mtu(a, "eth0", 1000),
        ],
    );
    assert_eq!(
        refuses(&kernel, sysctl(a, "ipv6/conf/eth0/accept_ra", "0")),
        ENOENT,
        "no IPv6 on so small a link"
    );
}

#[test]
fn moves() {
    let kernel = two_on_a_bridge();
    let to_a =
        |name, rename| Op::MoveLink { from: HOST_NS, name: link(name), to: named("a"), rename: link(rename) };
    assert_eq!(refuses(&kernel, to_a("br0", "br0")), EINVAL);
    assert_eq!(refuses(&kernel, to_a("lo", "lo1")), EINVAL);
    assert_eq!(refuses(&kernel, to_a("none", "eth9")), ENODEV);
    assert_eq!(refuses(&kernel, to_a("eth0", "eth0")), EEXIST);
    let nowhere = Op::MoveLink { from: HOST_NS, name: link("vb"), to: named("gone"), rename: link("eth1") };
    assert_eq!(refuses(&kernel, nowhere), ENOENT);
    let rename = Op::MoveLink { from: HOST_NS, name: link("vb"), to: HOST_NS, rename: link("va") };
    assert_eq!(refuses(&kernel, rename), EEXIST);
}

#[test]
fn a_job_has_nowhere_to_run() {
    let kernel = SimKernel::new();
    let answer = kernel.run_in(HOST_NS, Box::new(|| ()), later()).now_or_never().expect("at once");
    assert_eq!(answer.expect_err("nowhere").errno, EOPNOTSUPP);
}
