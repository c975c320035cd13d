//! Who reaches whom, and the reason given when not.

use super::*;

#[track_caller]
fn why(kernel: &SimKernel, from: Netns, to: &str) -> String {
    kernel.can_reach(from, ip(to)).expect_err("cannot be reached")
}

#[track_caller]
fn reaches(kernel: &SimKernel, from: Netns, to: &[&str]) {
    for to in to {
        kernel.can_reach(from, ip(to)).expect(to);
    }
}

#[test]
fn neighbours_on_a_bridge_reach_each_other_and_the_host() {
    let kernel = two_on_a_bridge();
    reaches(
        &kernel,
        named("a"),
        &["10.0.0.3", "fd00::3", "10.0.0.1", "fd00::1", "10.0.0.2", "127.0.0.1", "::1"],
    );
    reaches(&kernel, HOST_NS, &["10.0.0.2", "fd00::3", "192.0.2.10"]);
    // By the default route: the host answers for all its addresses.
    reaches(&kernel, named("b"), &["192.0.2.10"]);
    assert_eq!(why(&kernel, named("a"), "10.0.0.9"), "nobody on bridge br0 of the host has 10.0.0.9");
}

#[test]
fn isolated_ports_reach_their_bridge_and_not_each_other() {
    let kernel = two_on_a_bridge();
    let (a, b) = (named("a"), named("b"));
    does(&kernel, [Op::SetPortFlag { name: link("va"), flag: netloom_kernel::PortFlag::Isolated }]);
    reaches(&kernel, a, &["10.0.0.1", "10.0.0.3"]);
    does(&kernel, [Op::SetPortFlag { name: link("vb"), flag: netloom_kernel::PortFlag::Isolated }]);
    assert_eq!(why(&kernel, a, "10.0.0.3"), "port vb of the host is isolated");
    assert_eq!(why(&kernel, b, "10.0.0.2"), "port va of the host is isolated");
    reaches(&kernel, a, &["10.0.0.1"]);
    reaches(&kernel, HOST_NS, &["10.0.0.2", "10.0.0.3"]);
    // It belongs to the port: another bridge, or the same one again, knows nothing of it.
    does(&kernel, [port("vb", None), port("vb", Some("br0"))]);
    reaches(&kernel, a, &["10.0.0.3"]);
}

#[test]
fn what_is_down_or_cut_is_named() {
    let kernel = two_on_a_bridge();
    let (a, b) = (named("a"), named("b"));
    does(&kernel, [Op::CutLink { name: link("vb") }]);
    assert_eq!(why(&kernel, a, "10.0.0.3"), "link vb of the host is cut off");
    assert_eq!(why(&kernel, b, "10.0.0.2"), "link vb of the host is cut off");
    reaches(&kernel, a, &["10.0.0.1"]);
    does(&kernel, [set(HOST_NS, "vb", true)]);
    reaches(&kernel, a, &["10.0.0.3"]);
    does(&kernel, [set(HOST_NS, "vb", false)]);
    assert_eq!(why(&kernel, a, "10.0.0.3"), "link vb of the host is down");
    does(&kernel, [set(HOST_NS, "vb", true), set(b, "eth0", false)]);
    assert_eq!(why(&kernel, a, "10.0.0.3"), "link eth0 of namespace b is down, which has 10.0.0.3");
    does(&kernel, [set(b, "eth0", true), set(HOST_NS, "br0", false)]);
    assert_eq!(why(&kernel, a, "10.0.0.3"), "link br0 of the host is down");
    // Without the bridge's route the packet takes the default route.
    assert_eq!(why(&kernel, HOST_NS, "10.0.0.2"), "link eth0 of the host leads out of the simulated host");
    assert_eq!(why(&kernel, named("gone"), "10.0.0.3"), "there is no namespace gone");
}

#[test]
fn a_missing_route_or_address_is_named() {
    let kernel = two_on_a_bridge();
    let a = named("a");
    does(&kernel, [drop_route(a, "0.0.0.0/0", Some("10.0.0.1"), "eth0")]);
    assert_eq!(why(&kernel, a, "192.0.2.10"), "namespace a has no route to 192.0.2.10");
    does(&kernel, [drop_address(a, "eth0", "10.0.0.2/24"), route(a, "10.0.0.0/24", None, "eth0")]);
    assert_eq!(why(&kernel, a, "10.0.0.3"), "namespace a has no address to send from");
    does(&kernel, [drop_address(named("b"), "eth0", "10.0.0.3/24")]);
    assert_eq!(why(&kernel, a, "10.0.0.3"), "namespace a has no address to send from");
    reaches(&kernel, a, &["fd00::3"]);
}

#[test]
fn the_answer_has_to_come_back() {
    let kernel = two_on_a_bridge();
    does(
        &kernel,
        [address(named("a"), "eth0", "10.5.0.2/24"), drop_address(named("a"), "eth0", "10.0.0.2/24")],
    );
    does(&kernel, [route(named("a"), "10.0.0.0/24", None, "eth0")]);
    does(&kernel, [drop_route(named("b"), "0.0.0.0/0", None, "eth0")]);
    assert_eq!(
        why(&kernel, named("a"), "10.0.0.3"),
        "the answer is lost: namespace b has no route to 10.5.0.2"
    );
}

#[test]
fn two_bridges_are_joined_by_a_host_that_forwards() {
    let kernel = two_on_a_bridge();
    does(
        &kernel,
        [
            bridge("br1"),
            set(HOST_NS, "br1", true),
            address(HOST_NS, "br1", "10.1.0.1/24"),
            netns("c"),
            veth("vc", "eth0", named("c"), Some("br1")),
            set(named("c"), "eth0", true),
            address(named("c"), "eth0", "10.1.0.2/24"),
            route(named("c"), "0.0.0.0/0", Some("10.1.0.1"), "eth0"),
        ],
    );
    assert_eq!(
        why(&kernel, named("a"), "10.1.0.2"),
        "the host does not forward to 10.1.0.2: net/ipv4/ip_forward is off"
    );
    does(&kernel, [sysctl(HOST_NS, "ipv4/conf/all/forwarding", "1")]);
    reaches(&kernel, named("a"), &["10.1.0.2", "10.1.0.1"]);
    assert_eq!(
        why(&kernel, named("a"), "198.51.100.1"),
        "link eth0 of the host leads out of the simulated host"
    );
}

#[test]
fn a_pair_without_bridge_is_a_cable() {
    let kernel = SimKernel::new();
    does(&kernel, [netns("a"), veth("va", "eth0", named("a"), None), address(HOST_NS, "va", "10.0.0.1/30")]);
    does(&kernel, [address(named("a"), "eth0", "10.0.0.2/30")]);
    assert_eq!(why(&kernel, HOST_NS, "10.0.0.2"), "link eth0 of namespace a is down");
    does(&kernel, [set(named("a"), "eth0", true)]);
    reaches(&kernel, HOST_NS, &["10.0.0.2"]);
    reaches(&kernel, named("a"), &["10.0.0.1"]);
    does(&kernel, [route(HOST_NS, "10.7.0.0/24", None, "va")]);
    assert_eq!(why(&kernel, HOST_NS, "10.7.0.1"), "nobody behind link va of the host has 10.7.0.1");
}

#[test]
fn routes_that_lead_in_a_circle_end() {
    let kernel = two_on_a_bridge();
    let forward = |inside| sysctl(inside, "ipv4/ip_forward", "1");
    does(&kernel, [forward(HOST_NS), forward(named("a"))]);
    does(&kernel, [route(HOST_NS, "10.7.0.0/16", Some("10.0.0.2"), "br0")]);
    assert_eq!(why(&kernel, named("a"), "10.7.0.1"), "routes to 10.7.0.1 lead in a circle");
}
