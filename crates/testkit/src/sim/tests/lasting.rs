//! What an engine leaves behind, what is not its own, and what happens behind its back.

use netloom_kernel::{KernelEvent, LinkKind};

use super::*;
use crate::errno::{EEXIST, ENODEV, EOPNOTSUPP};

#[test]
fn leftovers_are_named() {
    let kernel = two_on_a_bridge();
    let before = kernel.snapshot();
    assert!(kernel.leftovers(&before).is_empty());
    does(
        &kernel,
        [
            netns("c"),
            mtu(named("a"), "eth0", 1400),
            drop_address(named("a"), "eth0", "fd00::2/64"),
            sysctl(HOST_NS, "ipv4/ip_forward", "1"),
            sysctl(HOST_NS, "ipv4/conf/br0/route_localnet", "1"),
        ],
    );
    let lines = kernel.leftovers(&before);
    let starts = [
        "left over: address 127.0.0.1/8 on link lo of namespace c",
        "left over: address ::1/128 on link lo of namespace c",
        "changed: link eth0 of namespace a: was veth with va of the host, up,",
        "left over: link lo of namespace c (loopback, up,",
        "left over: namespace c",
        "left over: setting net/ipv4/conf/br0/route_localnet of the host (\"1\")",
        "missing: address fd00::2/64 on link eth0 of namespace a",
        "missing: route fd00::/64 dev eth0 metric 256 of namespace a (from an address)",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line:?} does not start with {start:?}");
    }
    let failed = std::panic::catch_unwind(|| kernel.assert_pristine(&before)).expect_err("not pristine");
    let text = failed.downcast_ref::<String>().expect("a message");
    assert!(text.contains("left over: namespace c"), "{text}");
}

#[test]
fn an_endpoint_leaves_nothing() {
    let kernel = two_on_a_bridge();
    let before = kernel.snapshot();
    does(
        &kernel,
        [
            netns("c"),
            veth("vc", "eth0", named("c"), Some("br0")),
            set(named("c"), "eth0", true),
            address(named("c"), "eth0", "10.0.0.9/24"),
            route(named("c"), "0.0.0.0/0", Some("10.0.0.1"), "eth0"),
            Op::CutLink { name: link("vc") },
            delete("vc"),
            drop_netns("c"),
        ],
    );
    kernel.assert_pristine(&before);
}

#[test]
fn what_others_made_is_not_the_engines() {
    let kernel = SimKernel::new();
    kernel.foreign_netns(nsname("theirs")).expect("added");
    let wireguard = LinkKind::Other("wireguard".into());
    kernel.foreign_link(HOST_NS, link("wg0"), wireguard.clone(), Some("office")).expect("added");
    kernel.foreign_op(&set(HOST_NS, "wg0", true)).expect("up");
    kernel.foreign_op(&address(HOST_NS, "wg0", "10.9.0.1/24")).expect("added");
    assert_eq!((kernel.ops_count(), kernel.stats().sends), (0, 0));
    assert!(now(kernel.namespaces(later())).is_empty());
    let found = view(&kernel, HOST_NS, "wg0").expect("there");
    assert_eq!((found.kind.clone(), found.alias.as_deref(), found.tag()), (wireguard, Some("office"), None));
    assert_eq!(routes(&kernel, HOST_NS), ["10.9.0.0/24 dev wg0"]);
    // A link that pretends to be ours is told by its mark like one of ours.
    kernel
        .foreign_link(HOST_NS, link("fake"), LinkKind::Bridge, Some("netloom/netloom/endpoint/x"))
        .expect("added");
    assert_eq!(view(&kernel, HOST_NS, "fake").expect("there").tag(), Some(tag("x")));
    let taken = kernel.foreign_link(HOST_NS, link("wg0"), LinkKind::Bridge, None).expect_err("taken");
    assert_eq!(taken.errno, EEXIST);
    let half = kernel.foreign_link(HOST_NS, link("v"), LinkKind::Veth, None).expect_err("half a pair");
    assert_eq!(half.errno, EOPNOTSUPP);
    assert_eq!(kernel.foreign_netns(nsname("theirs")).expect_err("taken").errno, EEXIST);
}

#[test]
fn things_break_behind_the_engines_back() {
    let kernel = two_on_a_bridge();
    kernel.vanish_link(named("a"), link("eth0")).expect("gone");
    assert_eq!(refuses(&kernel, delete("va")), ENODEV);
    kernel.vanish_netns(nsname("b")).expect("gone");
    assert!(view(&kernel, HOST_NS, "vb").is_none());
    kernel.vanish_link(HOST_NS, link("eth0")).expect("unplugged");
    assert_eq!(routes(&kernel, HOST_NS), ["10.0.0.0/24 dev br0", "fd00::/64 dev br0"]);
    assert_eq!(kernel.vanish_link(HOST_NS, link("lo")).expect_err("stays").errno, EOPNOTSUPP);
    kernel.lock().world.check();
}

#[test]
fn a_reboot_leaves_the_machine_as_it_was_built() {
    let kernel = SimKernel::builder().host_link("eth0", "192.0.2.10/24").expect("valid").build();
    let before = kernel.snapshot();
    let mut events = kernel.watch();
    does(&kernel, [netns("a"), bridge("br0"), veth("va", "eth0", named("a"), Some("br0"))]);
    does(&kernel, [set(HOST_NS, "eth0", false), sysctl(HOST_NS, "ipv4/conf/all/rp_filter", "1")]);
    while events.try_recv().is_ok() {}
    kernel.reboot();
    kernel.assert_pristine(&before);
    kernel.lock().world.check();
    assert_eq!(events.try_recv().expect("told"), KernelEvent::Overrun);
    does(&kernel, [netns("a")]);
}

#[test]
fn handles_are_the_same_kernel() {
    let kernel = SimKernel::new();
    does(&kernel.clone(), [netns("a")]);
    assert_eq!(now(kernel.namespaces(later())), [nsname("a")]);
    assert!(kernel.netns_path(nsname("a")).ends_with("a"));
}
