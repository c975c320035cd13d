//! What follows from an operation that is carried out.

use netloom_kernel::{KernelEvent, LinkKind, Neighbour};
use netloom_model::MacAddr;

use super::*;
use crate::errno::{EEXIST, ENODEV, ENOENT};

#[test]
fn a_host_starts_with_its_loopback_and_uplink() {
    let kernel = SimKernel::builder().host_link("eth0", "192.0.2.10/24").expect("valid").build();
    assert_eq!(addresses(&kernel, HOST_NS, "lo"), ["127.0.0.1/8", "::1/128"]);
    assert_eq!(addresses(&kernel, HOST_NS, "eth0"), ["192.0.2.10/24"]);
    assert_eq!(routes(&kernel, HOST_NS), ["192.0.2.0/24 dev eth0", "0.0.0.0/0 via 192.0.2.1 dev eth0"]);
    let indexes: Vec<u32> = links(&kernel, HOST_NS).iter().map(|view| view.index).collect();
    assert_eq!(indexes, [1, 2]);
}

#[test]
fn a_namespace_starts_with_its_loopback() {
    let kernel = SimKernel::new();
    does(&kernel, [netns("b"), netns("a")]);
    assert_eq!(now(kernel.namespaces(later())), [nsname("a"), nsname("b")]);
    assert_eq!(addresses(&kernel, named("a"), "lo"), ["127.0.0.1/8", "::1/128"]);
    assert!(routes(&kernel, named("a")).is_empty());
}

#[test]
fn a_pair_is_made_in_its_places() {
    let kernel = SimKernel::new();
    does(&kernel, [bridge("br0"), netns("a")]);
    let mac = MacAddr([2, 0x42, 10, 0, 0, 2]);
    does(
        &kernel,
        [Op::CreateVeth {
            host: link("va"),
            peer: link("eth0"),
            netns: named("a"),
            master: Some(link("br0")),
            mac: Some(mac),
            mtu: Some(1400),
            tag: tag("va"),
        }],
    );
    let outside = view(&kernel, HOST_NS, "va").expect("made");
    let inside = view(&kernel, named("a"), "eth0").expect("made");
    assert_eq!((outside.up, inside.up), (true, false));
    assert_eq!((outside.mtu, inside.mtu), (1400, 1400));
    assert_eq!(outside.master, view(&kernel, HOST_NS, "br0").map(|view| view.index));
    assert_eq!((outside.tag(), inside.tag()), (Some(tag("va")), None));
    assert_eq!((inside.mac, inside.index, inside.kind), (Some(mac), 2, LinkKind::Veth));
}

#[test]
fn the_ends_of_a_pair_know_each_others_numbers() {
    let kernel = SimKernel::new();
    let (a, b) = (named("a"), named("b"));
    let ends = |(there, name), (here, other)| {
        let (outside, inside) =
            (view(&kernel, there, name).expect("there"), view(&kernel, here, other).expect("there"));
        assert_eq!((outside.peer, inside.peer), (Some(inside.index), Some(outside.index)));
        (outside.index, inside.index)
    };
    does(&kernel, [bridge("br0"), netns("a"), netns("b"), veth("va", "eth0", a, Some("br0"))]);
    assert_eq!(ends((HOST_NS, "va"), (a, "eth0")), (3, 2));
    // In another namespace the other end has another number.
    does(&kernel, [veth("vb", "eth0", b, None), veth("vc", "eth1", b, None)]);
    does(&kernel, [Op::MoveLink { from: a, name: link("eth0"), to: b, rename: link("eth2") }]);
    assert_eq!(ends((HOST_NS, "va"), (b, "eth2")), (3, 4));
    does(&kernel, [veth("vd", "ve", HOST_NS, None)]);
    ends((HOST_NS, "vd"), (HOST_NS, "ve"));
    for name in ["lo", "br0"] {
        assert_eq!(view(&kernel, HOST_NS, name).expect("there").peer, None, "{name}");
    }
}

#[test]
fn links_are_found_by_name_in_the_order_asked_for() {
    let kernel = two_on_a_bridge();
    let find = |inside, names: &[&str]| {
        kernel.find_links(inside, names.iter().map(|name| link(name)).collect(), later())
    };
    let there = |name| view(&kernel, HOST_NS, name);
    let found = now(find(HOST_NS, &["vb", "none", "br0", "vb"]));
    assert_eq!(found, [there("vb"), None, there("br0"), there("vb")]);
    assert_eq!(now(find(named("a"), &["vb", "eth0"])), [None, view(&kernel, named("a"), "eth0")]);
    let gone = find(named("gone"), &[]).now_or_never().expect("at once").expect_err("no such namespace");
    assert_eq!((gone.errno, gone.operation.to_string().as_str()), (ENOENT, "find links of namespace gone"));
}

#[test]
fn one_end_takes_the_other_with_it() {
    let kernel = two_on_a_bridge();
    does(&kernel, [delete("va")]);
    assert!(view(&kernel, named("a"), "eth0").is_none());
    assert!(routes(&kernel, named("a")).is_empty());
    does(&kernel, [drop_netns("b")]);
    assert!(view(&kernel, HOST_NS, "vb").is_none());
}

#[test]
fn a_namespace_takes_its_links_with_it() {
    let kernel = two_on_a_bridge();
    does(&kernel, [veth("vx", "eth1", named("a"), None), drop_netns("a")]);
    let names: Vec<String> = links(&kernel, HOST_NS).iter().map(|view| view.name.to_string()).collect();
    assert_eq!(names, ["lo", "eth0", "br0", "vb"]);
    does(&kernel, [netns("a")]);
    assert_eq!(links(&kernel, named("a")).len(), 1);
}

#[test]
fn a_bridge_frees_its_ports() {
    let kernel = two_on_a_bridge();
    does(&kernel, [delete("br0")]);
    for port in ["va", "vb"] {
        let view = view(&kernel, HOST_NS, port).expect("stays");
        assert_eq!((view.master, view.up), (None, true));
    }
    assert_eq!(routes(&kernel, HOST_NS), ["192.0.2.0/24 dev eth0", "0.0.0.0/0 via 192.0.2.1 dev eth0"]);
}

#[test]
fn a_link_that_goes_down_loses_routes_and_ipv6_addresses() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    let known = Neighbour::Address { address: ip("10.0.0.9"), mac: MacAddr([2, 0, 0, 0, 0, 9]) };
    let behind = Neighbour::Forwarding { mac: MacAddr([2, 0, 0, 0, 0, 9]), destination: None };
    for neighbour in [known, behind] {
        does(&kernel, [Op::AddNeighbour { netns: a, link: link("eth0"), neighbour }]);
    }
    does(&kernel, [set(a, "eth0", false)]);
    assert!(routes(&kernel, a).is_empty());
    assert_eq!(addresses(&kernel, a, "eth0"), ["10.0.0.2/24"]);
    let left = now(kernel.neighbours(a, later()));
    assert_eq!(left.iter().map(|view| view.forwarding).collect::<Vec<_>>(), [true]);
    // Addresses that are added meanwhile have their routes when it comes up.
    does(&kernel, [address(a, "eth0", "fd05::1/64"), set(a, "eth0", true)]);
    assert_eq!(routes(&kernel, a), ["10.0.0.0/24 dev eth0", "fd05::/64 dev eth0"]);
}

#[test]
fn addresses_make_connected_routes() {
    let kernel = SimKernel::new();
    does(&kernel, [netns("a"), veth("va", "eth0", named("a"), None), set(named("a"), "eth0", true)]);
    for text in ["10.6.0.1/32", "10.6.1.0/31", "fd00::1/128", "fd01::1/127", "0.0.0.0/0", "0.1.2.3/8"] {
        does(&kernel, [address(named("a"), "eth0", text)]);
    }
    assert_eq!(
        routes(&kernel, named("a")),
        ["10.6.1.0/31 dev eth0", "fd00::1/128 dev eth0", "fd01::/127 dev eth0"]
    );
    assert_eq!(addresses(&kernel, named("a"), "eth0").len(), 5, "the unspecified address is not kept");
}

#[test]
fn secondary_addresses_go_with_the_primary_one() {
    let kernel = SimKernel::new();
    does(&kernel, [bridge("br0"), set(HOST_NS, "br0", true)]);
    let add = |text| address(HOST_NS, "br0", text);
    let remove = |text| drop_address(HOST_NS, "br0", text);
    let all = [add("10.0.0.1/24"), add("10.0.0.2/24"), add("10.0.0.3/24"), add("10.1.0.1/24")];
    does(&kernel, all.clone());
    assert_eq!(routes(&kernel, HOST_NS), ["10.0.0.0/24 dev br0", "10.1.0.0/24 dev br0"]);
    does(&kernel, [remove("10.0.0.2/24")]);
    assert_eq!(addresses(&kernel, HOST_NS, "br0"), ["10.0.0.1/24", "10.0.0.3/24", "10.1.0.1/24"]);
    does(&kernel, [remove("10.0.0.1/24")]);
    assert_eq!(addresses(&kernel, HOST_NS, "br0"), ["10.1.0.1/24"]);
    assert_eq!(routes(&kernel, HOST_NS), ["10.1.0.0/24 dev br0"]);
    // Unless they are promoted.
    does(&kernel, [remove("10.1.0.1/24"), sysctl(HOST_NS, "ipv4/conf/br0/promote_secondaries", "1")]);
    does(&kernel, all);
    does(&kernel, [remove("10.0.0.1/24")]);
    assert_eq!(addresses(&kernel, HOST_NS, "br0"), ["10.0.0.2/24", "10.0.0.3/24", "10.1.0.1/24"]);
    assert_eq!(routes(&kernel, HOST_NS).len(), 2);
}

#[test]
fn the_last_ipv4_address_takes_the_ipv4_routes_with_it() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    does(&kernel, [address(a, "eth0", "10.1.0.2/24"), drop_address(a, "eth0", "10.0.0.2/24")]);
    // A route by a next hop stays, though nothing leads to the next hop any more.
    let left = ["fd00::/64 dev eth0", "0.0.0.0/0 via 10.0.0.1 dev eth0", "::/0 via fd00::1 dev eth0"];
    assert_eq!(routes(&kernel, a), [left[0], left[1], left[2], "10.1.0.0/24 dev eth0"]);
    does(&kernel, [drop_address(a, "eth0", "10.1.0.2/24")]);
    assert_eq!(routes(&kernel, a), [left[0], left[2]]);
    does(&kernel, [drop_address(a, "eth0", "fd00::2/64")]);
    assert_eq!(routes(&kernel, a), [left[2]]);
}

#[test]
fn a_route_is_found_without_its_next_hop() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    does(&kernel, [drop_route(a, "0.0.0.0/0", None, "eth0")]);
    assert!(!routes(&kernel, a).iter().any(|route| route.starts_with("0.0.0.0/0")));
    // Of two equal IPv6 routes the kernel's own goes first.
    does(&kernel, [route(a, "fd00::/64", None, "eth0"), drop_route(a, "fd00::/64", None, "eth0")]);
    let text: Vec<String> = kernel.snapshot().objects().map(|(name, _)| name.to_owned()).collect();
    assert!(text.contains(&"route fd00::/64 dev eth0 metric 1024 of namespace a".to_owned()), "{text:#?}");
}

#[test]
fn a_bridge_follows_the_mtu_of_its_ports() {
    let kernel = SimKernel::new();
    let size = |name| view(&kernel, HOST_NS, name).expect("there").mtu;
    does(&kernel, [bridge("br0"), netns("a"), veth("v1", "e1", named("a"), Some("br0"))]);
    does(&kernel, [mtu(HOST_NS, "v1", 9000)]);
    assert_eq!(size("br0"), 9000);
    does(&kernel, [veth("v2", "e2", named("a"), Some("br0"))]);
    assert_eq!(size("br0"), 1500);
    does(&kernel, [delete("v2")]);
    assert_eq!(size("br0"), 9000);
    does(&kernel, [delete("v1")]);
    assert_eq!(size("br0"), 1500);
    // Until it is told its own.
    does(&kernel, [mtu(HOST_NS, "br0", 3000), veth("v1", "e1", named("a"), Some("br0"))]);
    assert_eq!(size("br0"), 3000);
    let own = Op::CreateBridge { name: link("br1"), mac: None, mtu: Some(9000), tag: tag("br1") };
    does(&kernel, [own, veth("v3", "e3", named("a"), Some("br1"))]);
    assert_eq!(size("br1"), 9000);
}

#[test]
fn a_link_becomes_a_port_changes_its_bridge_and_leaves() {
    let kernel = two_on_a_bridge();
    let at = |name| view(&kernel, HOST_NS, name).expect("there");
    let master = |name| {
        let master = at(name).master;
        links(&kernel, HOST_NS).into_iter().find(|view| Some(view.index) == master).map(|view| view.name)
    };
    let mut events = kernel.watch();
    does(&kernel, [bridge("br1"), set(HOST_NS, "br1", true), mtu(HOST_NS, "va", 1400)]);
    assert_eq!((at("br0").mtu, at("br1").mtu), (1400, 1500));
    does(&kernel, [port("va", Some("br1"))]);
    assert_eq!((master("va"), at("va").up), (Some(link("br1")), true));
    assert_eq!((at("br0").mtu, at("br1").mtu), (1500, 1400));
    kernel.can_reach(named("b"), ip("10.0.0.2")).expect_err("on another bridge");
    does(&kernel, [port("va", None)]);
    assert_eq!((master("va"), at("br1").mtu), (None, 1500));
    does(&kernel, [port("va", None), set(HOST_NS, "va", false), port("va", Some("br0"))]);
    assert_eq!((master("va"), at("va").up), (Some(link("br0")), false));
    does(&kernel, [set(HOST_NS, "va", true)]);
    kernel.can_reach(named("b"), ip("10.0.0.2")).expect("on one bridge");
    // Where it is already, it is left alone.
    while events.try_recv().is_ok() {}
    does(&kernel, [port("va", Some("br0")), port("eth0", None)]);
    assert!(events.try_recv().is_err());
    does(&kernel, [port("va", None)]);
    let mut told = std::iter::from_fn(|| events.try_recv().ok());
    let left = |view: &LinkView| view.name == link("va") && view.master.is_none();
    assert!(told.any(|event| matches!(event, KernelEvent::LinkChanged(view) if left(&view))));
}

#[test]
fn ipv6_needs_1280_bytes() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    does(&kernel, [mtu(a, "eth0", 1279)]);
    assert_eq!(addresses(&kernel, a, "eth0"), ["10.0.0.2/24"]);
    assert_eq!(routes(&kernel, a), ["10.0.0.0/24 dev eth0", "0.0.0.0/0 via 10.0.0.1 dev eth0"]);
    does(&kernel, [mtu(a, "lo", 1000)]);
    assert_eq!(addresses(&kernel, a, "lo"), ["127.0.0.1/8"]);
    does(&kernel, [mtu(a, "lo", 65_536)]);
    assert_eq!(addresses(&kernel, a, "lo"), ["127.0.0.1/8", "::1/128"]);
}

#[test]
fn ipv6_is_turned_off_for_one_for_all_or_for_new_links() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    does(&kernel, [sysctl(a, "ipv6/conf/eth0/disable_ipv6", "1")]);
    assert_eq!(addresses(&kernel, a, "eth0"), ["10.0.0.2/24"]);
    assert_eq!(kernel.setting(a, "ipv6/conf/eth0/disable_ipv6").as_deref(), Some("1"));
    let b = named("b");
    does(&kernel, [sysctl(b, "ipv6/conf/all/disable_ipv6", "1"), veth("vx", "eth1", b, None)]);
    assert_eq!(addresses(&kernel, b, "lo"), ["127.0.0.1/8"]);
    assert_eq!(refuse_ipv6(&kernel, b), [true, true]);
    does(&kernel, [sysctl(b, "ipv6/conf/all/disable_ipv6", "0")]);
    assert_eq!(addresses(&kernel, b, "lo"), ["127.0.0.1/8", "::1/128"]);
    assert_eq!(refuse_ipv6(&kernel, b), [false, false]);
}

fn refuse_ipv6(kernel: &SimKernel, inside: Netns) -> [bool; 2] {
    ["eth0", "eth1"].map(|name| execute(kernel, vec![address(inside, name, "fd0f::1/64")]).remove(0).is_err())
}

#[test]
fn a_link_moves_with_nothing_on_it() {
    let kernel = two_on_a_bridge();
    does(&kernel, [address(HOST_NS, "va", "10.7.0.1/24")]);
    let step = |name, to, rename| Op::MoveLink { from: HOST_NS, name: link(name), to, rename: link(rename) };
    does(&kernel, [step("va", named("b"), "eth1")]);
    let moved = view(&kernel, named("b"), "eth1").expect("moved");
    assert_eq!((moved.up, moved.master, moved.index), (false, None, 3));
    assert_eq!(moved.tag(), Some(tag("va")));
    assert!(addresses(&kernel, named("b"), "eth1").is_empty());
    assert!(view(&kernel, HOST_NS, "va").is_none());
    does(&kernel, [step("vb", HOST_NS, "vc")]);
    assert_eq!(view(&kernel, HOST_NS, "vc").map(|view| view.up), Some(true));
}

/// Linux moves first and renames then.
#[test]
fn a_link_that_cannot_be_renamed_may_have_moved() {
    let kernel = two_on_a_bridge();
    let op = Op::MoveLink { from: HOST_NS, name: link("vb"), to: named("a"), rename: link("eth0") };
    let error = execute(&kernel, vec![op]).remove(0).expect_err("the name is taken");
    assert_eq!(error.errno, EEXIST);
    assert!(view(&kernel, HOST_NS, "vb").is_none());
    assert_eq!(view(&kernel, named("a"), "vb").map(|view| view.up), Some(false));
}

#[test]
fn operations_of_a_call_do_not_wait_for_each_other() {
    let kernel = SimKernel::new();
    let answers = execute(&kernel, vec![delete("br0"), bridge("br0"), bridge("br0"), delete("br0")]);
    let errnos: Vec<i32> =
        answers.into_iter().map(|answer| answer.map_or_else(|error| error.errno, |()| 0)).collect();
    assert_eq!(errnos, [ENODEV, 0, EEXIST, 0]);
}

#[test]
fn calls_are_counted() {
    let kernel = SimKernel::new();
    does(&kernel, [netns("a"), veth("v1", "e1", named("a"), None), veth("v2", "e2", named("a"), None)]);
    does(&kernel, [delete("v1"), delete("v2")]);
    execute(&kernel, vec![delete("v1")]);
    let stats = kernel.stats();
    assert_eq!((stats.messages, stats.sends, stats.links_deleted, stats.deletions), (6, 3, 2, 1));
    assert_eq!(kernel.ops_count(), 6);
}

#[test]
fn the_log_keeps_the_newest() {
    let kernel = SimKernel::builder().log(2).build();
    execute(&kernel, vec![netns("a"), netns("a"), netns("b")]);
    let log = kernel.log();
    assert_eq!(log.len(), 2);
    assert_eq!(log[0].0, netns("a"));
    assert_eq!(log[0].1.as_ref().expect_err("twice").errno, EEXIST);
    assert_eq!(log[1], (netns("b"), Ok(())));
    kernel.set_log(1);
    assert_eq!(kernel.log(), [(netns("b"), Ok(()))]);
    kernel.set_log(0);
    does(&kernel, [netns("c")]);
    assert!(kernel.log().is_empty());
}

#[test]
fn changes_of_the_host_are_told() {
    let kernel = SimKernel::new();
    let mut events = kernel.watch();
    does(&kernel, [netns("a"), bridge("br0"), veth("va", "eth0", named("a"), Some("br0"))]);
    does(&kernel, [set(named("a"), "eth0", true), delete("va")]);
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(match event {
            KernelEvent::LinkChanged(view) => format!("{} {} {:?}", view.name, view.up, view.master),
            KernelEvent::LinkGone { index, name } => format!("{name} {index} gone"),
            KernelEvent::Overrun => "overrun".into(),
        });
    }
    assert_eq!(seen, ["br0 false None", "va true Some(2)", "va 3 gone"]);
}
