//! Scenarios written by hand, with what each operation must come to on both kernels.

mod adoption;
mod isolation;
mod sizes;
mod tables;

use netloom::MacAddr;
use netloom::kernel::{LinkTag, Neighbour, Netns, Op, Route};

use super::generator::{address, bridge, named, parsed, tag, up, veth};

/// How many ports a bridge takes.
const PORTS: usize = 1023;
const HOST: Netns = Netns::Host;

/// What happens on a machine of its own.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Step>,
}

/// Operations that are asked for together.
pub(super) struct Step {
    pub(super) ops: Vec<Op>,
    /// What each of them comes to: `ok` or the name of an error.
    pub(super) expected: &'static str,
}

fn step(expected: &'static str, op: Op) -> Step {
    Step { ops: vec![op], expected }
}

fn all_do(ops: impl IntoIterator<Item = Op>) -> Step {
    Step { ops: ops.into_iter().collect(), expected: "ok" }
}

fn does(op: Op) -> Step {
    step("ok", op)
}

fn create(netns: &str) -> Op {
    Op::CreateNetns { name: parsed(netns), ipv6: true }
}

fn drop_netns(netns: &str) -> Op {
    Op::DeleteNetns { name: parsed(netns) }
}

fn down(netns: Netns, name: &str) -> Op {
    Op::SetLink { netns, name: parsed(name), up: false }
}

fn cut(name: &str) -> Op {
    Op::CutLink { name: parsed(name) }
}

fn delete(name: &str, tag: LinkTag) -> Op {
    Op::DeleteLink { name: parsed(name), tag: Some(tag) }
}

fn port(name: &str, master: Option<&str>) -> Op {
    Op::SetMaster { name: parsed(name), master: master.map(parsed) }
}

fn mtu(netns: Netns, name: &str, mtu: u32) -> Op {
    Op::SetMtu { netns, name: parsed(name), mtu }
}

fn move_link(from: Netns, name: &str, to: Netns, rename: &str) -> Op {
    Op::MoveLink { from, name: parsed(name), to, rename: parsed(rename) }
}

fn drop_address(netns: Netns, link: &str, address: &str) -> Op {
    Op::DeleteAddress { netns, link: parsed(link), address: parsed(address) }
}

fn path(destination: &str, via: Option<&str>, link: &str) -> Route {
    Route { destination: parsed(destination), via: via.map(parsed), link: parsed(link) }
}

fn route(netns: Netns, destination: &str, via: Option<&str>, link: &str) -> Op {
    Op::AddRoute { netns, route: path(destination, via, link) }
}

fn drop_route(netns: Netns, destination: &str, via: Option<&str>, link: &str) -> Op {
    Op::DeleteRoute { netns, route: path(destination, via, link) }
}

fn neighbour(address: &str, last: u8) -> Neighbour {
    Neighbour::Address { address: parsed(address), mac: MacAddr([0x02, 0x42, 0, 0, 0, last]) }
}

fn add_neighbour(netns: Netns, link: &str, neighbour: Neighbour) -> Op {
    Op::AddNeighbour { netns, link: parsed(link), neighbour }
}

fn drop_neighbour(netns: Netns, link: &str, neighbour: Neighbour) -> Op {
    Op::DeleteNeighbour { netns, link: parsed(link), neighbour }
}

fn announce(netns: Netns, link: &str) -> Op {
    Op::Announce { netns, link: parsed(link) }
}

fn sysctl(netns: Netns, key: &str, value: &str) -> Op {
    Op::Sysctl { netns, key: key.into(), value: value.into() }
}

fn with_tag(mut op: Op, new: LinkTag) -> Op {
    if let Op::CreateBridge { tag, .. } | Op::CreateVeth { tag, .. } = &mut op {
        *tag = new;
    }
    op
}

fn with_mac(mut op: Op, new: [u8; 6]) -> Op {
    if let Op::CreateBridge { mac, .. } | Op::CreateVeth { mac, .. } = &mut op {
        *mac = Some(MacAddr(new));
    }
    op
}

fn with_mtu(mut op: Op, new: u32) -> Op {
    if let Op::CreateBridge { mtu, .. } | Op::CreateVeth { mtu, .. } = &mut op {
        *mtu = Some(new);
    }
    op
}

/// A tag of so many bytes.
fn long_tag(bytes: usize) -> LinkTag {
    let rest = bytes - tag("").to_string().len();
    tag(&"x".repeat(rest))
}

/// A bridge `br0` with an address of each family, and a namespace `a` on it by `va` and `eth0`.
fn one_on_a_bridge() -> Vec<Step> {
    let a = named("a");
    vec![
        does(bridge("br0")),
        does(up(HOST, "br0")),
        all_do([address(HOST, "br0", "10.0.0.1/24"), address(HOST, "br0", "fd00::1/64")]),
        does(create("a")),
        does(veth("va", "eth0", a, Some("br0"))),
        does(up(a, "eth0")),
        all_do([address(a, "eth0", "10.0.0.2/24"), address(a, "eth0", "fd00::2/64")]),
    ]
}

/// Every scenario.
pub(super) fn scenarios() -> Vec<Scenario> {
    let on_a_bridge =
        |name, rest: Vec<Step>| Scenario { name, steps: one_on_a_bridge().into_iter().chain(rest).collect() };
    vec![
        on_a_bridge("names in use", names_in_use()),
        on_a_bridge("names that Linux keeps", reserved_names()),
        on_a_bridge("objects that are not there", absent_objects()),
        on_a_bridge("marks", marks()),
        on_a_bridge("hardware addresses and sizes", sizes::steps()),
        on_a_bridge("links up, down, cut, moved and deleted", links()),
        on_a_bridge("ports", ports()),
        on_a_bridge("addresses", addresses()),
        on_a_bridge("IPv4 routes", ipv4_routes()),
        on_a_bridge("IPv6 routes", ipv6_routes()),
        on_a_bridge("neighbours", neighbours()),
        on_a_bridge("settings", settings()),
        on_a_bridge("namespaces of others", adoption::steps()),
        on_a_bridge("ports that do not reach each other", isolation::steps()),
        on_a_bridge("tables inside of namespaces", tables::steps()),
        Scenario { name: "a full bridge", steps: full_bridge() },
    ]
}

fn names_in_use() -> Vec<Step> {
    let a = named("a");
    vec![
        step("EEXIST", create("a")),
        step("EEXIST", bridge("br0")),
        step("EEXIST", bridge("va")),
        step("EEXIST", veth("va", "eth7", a, None)),
        step("EEXIST", veth("vc", "eth0", a, None)),
        step("EEXIST", veth("vc", "lo", a, None)),
        step("EEXIST", veth("vc", "vc", HOST, None)),
        // A name in use counts before anything that is wrong with the rest.
        step("EEXIST", with_mac(bridge("br0"), [1, 0, 0, 0, 0, 1])),
        step("EEXIST", with_tag(with_mtu(veth("va", "eth7", a, None), 60), long_tag(300))),
        // Names are per namespace.
        does(veth("eth9", "br0", a, None)),
    ]
}

/// The folders of settings that are those of no one link.
fn reserved_names() -> Vec<Step> {
    let a = named("a");
    let with = |name| {
        vec![
            step("EINVAL", bridge(name)),
            step("EINVAL", veth(name, "eth1", a, None)),
            step("EINVAL", veth("vb", name, a, Some("br0"))),
            step("EINVAL", veth(name, name, HOST, None)),
            step("EINVAL", move_link(HOST, "va", HOST, name)),
            // It has moved by the time its new name is looked at.
            step("EINVAL", move_link(a, "eth0", HOST, name)),
            does(move_link(HOST, "eth0", a, "eth0")),
            // Only IPv6 minds a rename, so that such a link can be there all the same.
            does(mtu(HOST, "va", 1000)),
            does(move_link(HOST, "va", HOST, name)),
            step("EEXIST", bridge(name)),
            does(move_link(HOST, name, HOST, "va")),
            does(mtu(HOST, "va", 1500)),
        ]
    };
    ["all", "default"].into_iter().flat_map(with).collect()
}

fn absent_objects() -> Vec<Step> {
    let (a, gone) = (named("a"), named("gone"));
    vec![
        step("ENOENT", drop_netns("gone")),
        step("ENOENT", veth("vc", "eth0", gone, None)),
        step("ENODEV", veth("vc", "eth1", a, Some("br9"))),
        step("EOPNOTSUPP", veth("vc", "eth1", a, Some("va"))),
        step("ENODEV", cut("vc")),
        step("ENODEV", delete("vc", tag("vc"))),
        step("ENOENT", up(gone, "eth0")),
        step("ENODEV", up(a, "eth9")),
        step("ENODEV", mtu(a, "eth9", 1400)),
        step("ENODEV", address(a, "eth9", "10.0.0.9/24")),
        step("ENODEV", drop_address(a, "eth9", "10.0.0.9/24")),
        step("ENODEV", route(a, "10.9.0.0/16", None, "eth9")),
        step("ENODEV", drop_route(a, "10.9.0.0/16", None, "eth9")),
        step("ENODEV", add_neighbour(a, "eth9", neighbour("10.0.0.9", 9))),
        step("ENODEV", announce(a, "eth9")),
        step("ENODEV", move_link(HOST, "vc", a, "eth1")),
        step("ENOENT", move_link(HOST, "va", gone, "eth1")),
        // What was there is gone with its namespace, the host's end too.
        does(drop_netns("a")),
        step("ENOENT", up(a, "eth0")),
        step("ENODEV", cut("va")),
        does(create("a")),
        step("ENODEV", up(a, "eth0")),
    ]
}

fn marks() -> Vec<Step> {
    let a = named("a");
    vec![
        step("EPERM", delete("va", tag("other"))),
        step("ERANGE", with_tag(bridge("br1"), long_tag(255))),
        step("ERANGE", with_tag(veth("vb", "eth1", a, None), long_tag(255))),
        does(with_tag(bridge("br1"), long_tag(254))),
        does(with_tag(veth("vb", "eth1", a, None), long_tag(254))),
        step("EPERM", delete("vb", tag("vb"))),
        does(delete("vb", long_tag(254))),
        step("EOPNOTSUPP", Op::DeleteLink { name: parsed("lo"), tag: None }),
        does(Op::DeleteLink { name: parsed("br1"), tag: None }),
    ]
}

fn links() -> Vec<Step> {
    let (a, b) = (named("a"), named("b"));
    vec![
        does(cut("va")),
        does(down(a, "eth0")),
        does(up(a, "eth0")),
        does(up(HOST, "va")),
        does(down(a, "lo")),
        does(up(a, "lo")),
        does(create("b")),
        does(move_link(a, "eth0", b, "eth1")),
        step("EINVAL", move_link(HOST, "br0", b, "br0")),
        step("EEXIST", move_link(b, "eth1", b, "lo")),
        does(move_link(HOST, "va", a, "eth0")),
        does(drop_netns("b")),
        step("ENODEV", up(a, "eth0")),
        does(delete("br0", tag("br0"))),
    ]
}

fn ports() -> Vec<Step> {
    let a = named("a");
    vec![
        step("ENODEV", port("vb", Some("br0"))),
        step("ENODEV", port("vb", None)),
        step("ENODEV", port("va", Some("br1"))),
        all_do([bridge("br1"), up(HOST, "br1"), with_mtu(veth("vb", "eth1", a, None), 1400)]),
        // A refused one is where it was.
        step("EOPNOTSUPP", port("va", Some("vb"))),
        step("EOPNOTSUPP", port("vb", Some("lo"))),
        step("EINVAL", port("lo", Some("br0"))),
        step("ELOOP", port("br1", Some("br0"))),
        step("ELOOP", port("br0", Some("br0"))),
        // Bridges follow the sizes of their ports, wherever these go.
        does(port("vb", None)),
        does(port("vb", Some("br0"))),
        does(port("vb", Some("br0"))),
        does(port("vb", Some("br1"))),
        does(port("va", Some("br1"))),
        does(port("vb", None)),
        does(port("va", None)),
        // Addresses and routes stay, up or down.
        all_do([address(HOST, "vb", "10.6.0.1/24"), address(HOST, "vb", "fd06::1/64")]),
        does(port("vb", Some("br0"))),
        does(down(HOST, "vb")),
        does(port("vb", Some("br1"))),
        does(cut("va")),
        does(port("va", Some("br0"))),
        // In one call each finds what the ones before left.
        all_do([
            veth("vc", "eth2", a, Some("br0")),
            port("vc", Some("br1")),
            bridge("br2"),
            port("vc", Some("br2")),
            port("va", Some("br2")),
            port("va", None),
        ]),
        does(delete("br2", tag("br2"))),
        does(port("vc", Some("br1"))),
    ]
}

fn addresses() -> Vec<Step> {
    let a = named("a");
    let add = |text| address(a, "eth0", text);
    let take = |text| drop_address(a, "eth0", text);
    let off = |value| sysctl(a, "ipv6/conf/eth0/disable_ipv6", value);
    let mut steps = vec![
        step("EEXIST", add("10.0.0.2/24")),
        // The same IPv4 address with another length is another address; with IPv6 it is not.
        does(add("10.0.0.2/16")),
        step("EEXIST", add("fd00::2/64")),
        step("EEXIST", add("fd00::2/80")),
    ];
    steps.extend(["ff02::9/64", "::/64", "::1/128"].map(|bad| step("EADDRNOTAVAIL", add(bad))));
    let absent = ["10.0.0.2/25", "10.0.0.3/24", "224.0.0.5/24", "fd00::2/80", "fd00::3/64", "ff02::9/64"];
    steps.extend(absent.map(|absent| step("EADDRNOTAVAIL", take(absent))));
    steps.extend([
        all_do([add("224.0.0.5/24"), take("224.0.0.5/24")]),
        // With the first address of a subnet the others of it go, unless told to stay.
        does(add("10.0.0.3/24")),
        does(take("10.0.0.2/24")),
        step("EADDRNOTAVAIL", take("10.0.0.3/24")),
        does(sysctl(a, "ipv4/conf/eth0/promote_secondaries", "1")),
        all_do([add("10.7.0.2/24"), add("10.7.0.3/24"), take("10.7.0.2/24")]),
        does(take("10.7.0.3/24")),
        does(off("1")),
        step("EACCES", add("fd00::9/64")),
        does(off("0")),
        does(add("fd00::9/64")),
        does(mtu(a, "eth0", 1000)),
        step("EINVAL", add("fd00::9/64")),
        step("ENXIO", take("fd00::9/64")),
    ]);
    steps
}

fn ipv4_routes() -> Vec<Step> {
    let a = named("a");
    let via = |gateway| route(a, "10.9.0.0/16", Some(gateway), "eth0");
    let plain = |destination| route(a, destination, None, "eth0");
    vec![
        step("ENETUNREACH", via("10.1.0.1")),
        does(route(a, "0.0.0.0/0", Some("10.0.0.1"), "eth0")),
        // A default route does not make a next hop reachable.
        step("ENETUNREACH", via("10.1.0.1")),
        step("EINVAL", via("10.0.0.255")),
        step("EINVAL", plain("10.9.0.1/16")),
        does(via("10.0.0.9")),
        step("EEXIST", via("10.0.0.9")),
        step("EEXIST", via("10.0.0.8")),
        step("EEXIST", plain("10.0.0.0/24")),
        step("ESRCH", drop_route(a, "10.9.0.0/16", Some("10.0.0.8"), "eth0")),
        step("ESRCH", drop_route(a, "10.8.0.0/16", None, "eth0")),
        does(drop_route(a, "10.9.0.0/16", None, "eth0")),
        // Routes go with the link's being up, and only connected ones come back.
        does(down(a, "eth0")),
        step("ENETUNREACH", via("10.0.0.1")),
        step("ENETDOWN", plain("10.9.0.0/16")),
        does(up(a, "eth0")),
        does(plain("10.9.0.0/16")),
        // With the last IPv4 address all IPv4 routes and neighbours go.
        does(add_neighbour(a, "eth0", neighbour("10.0.0.5", 5))),
        does(drop_address(a, "eth0", "10.0.0.2/24")),
    ]
}

fn ipv6_routes() -> Vec<Step> {
    let a = named("a");
    let via = |gateway| route(a, "fd09::/64", Some(gateway), "eth0");
    let mut steps = vec![step("EHOSTUNREACH", via("fd01::1"))];
    steps.extend(["fd00::2", "ff02::1", "::", "10.0.0.1"].map(|bad| step("EINVAL", via(bad))));
    steps.extend([
        does(via("fd00::9")),
        step("EEXIST", via("fd00::8")),
        does(route(a, "::/0", Some("fd00::1"), "eth0")),
        // Beside the connected one, which has another metric; host bits are dropped.
        does(route(a, "fd00::/64", None, "eth0")),
        does(route(a, "fd0a::1/64", Some("fe80::1"), "eth0")),
        step("EEXIST", route(a, "fd0a::2/64", None, "eth0")),
        step("ESRCH", drop_route(a, "fd77::/64", None, "eth0")),
        does(drop_route(a, "fd0a::/64", None, "eth0")),
        does(down(a, "eth0")),
        step("EHOSTUNREACH", via("fd00::9")),
        step("ENETDOWN", route(a, "fd09::/64", None, "eth0")),
        does(up(a, "eth0")),
        does(sysctl(a, "ipv6/conf/eth0/disable_ipv6", "1")),
        step("EACCES", via("fe80::1")),
    ]);
    steps
}

fn neighbours() -> Vec<Step> {
    let a = named("a");
    vec![
        step("ENOENT", drop_neighbour(a, "eth0", neighbour("10.0.0.5", 5))),
        does(add_neighbour(a, "eth0", neighbour("10.0.0.5", 5))),
        does(add_neighbour(a, "eth0", neighbour("10.0.0.5", 6))),
        does(add_neighbour(a, "eth0", neighbour("fd00::5", 5))),
        does(add_neighbour(HOST, "br0", neighbour("10.0.0.5", 5))),
        does(drop_neighbour(a, "eth0", neighbour("10.0.0.5", 6))),
        step("ENOENT", drop_neighbour(a, "eth0", neighbour("10.0.0.5", 6))),
        // Who is announced forgets its own neighbours, and nobody else does.
        does(announce(a, "eth0")),
        step("ENOENT", drop_neighbour(a, "eth0", neighbour("fd00::5", 5))),
        does(drop_neighbour(HOST, "br0", neighbour("10.0.0.5", 5))),
        does(down(a, "eth0")),
        does(announce(a, "eth0")),
        does(mtu(a, "eth0", 1000)),
        step("EINVAL", add_neighbour(a, "eth0", neighbour("fd00::5", 5))),
    ]
}

fn settings() -> Vec<Step> {
    let a = named("a");
    vec![
        step("ENOENT", sysctl(a, "ipv4/none", "1")),
        step("ENOENT", sysctl(a, "ipv6/conf/eth9/disable_ipv6", "1")),
        step("ENOENT", sysctl(named("gone"), "ipv4/ip_forward", "1")),
        step("EINVAL", sysctl(a, "ipv4/ip_forward", "x")),
        step("EINVAL", sysctl(a, "ipv4/../ipv4/ip_forward", "1")),
        step("EINVAL", sysctl(a, "ipv4/ip_default_ttl", "0")),
        does(sysctl(a, "ipv4/ip_forward", "1")),
        does(sysctl(a, "ipv4/conf/eth0/arp_notify", "1")),
        does(sysctl(a, "ipv6/conf/eth0/ndisc_notify", "1")),
        does(sysctl(a, "ipv6/conf/all/disable_ipv6", "1")),
        does(veth("vb", "eth1", a, None)),
        step("EACCES", address(a, "eth1", "fd00::9/64")),
        does(sysctl(a, "ipv6/conf/all/disable_ipv6", "0")),
        does(address(a, "eth1", "fd00::9/64")),
        // A link that was too small for IPv6 begins again, with the settings of a new link.
        does(sysctl(a, "ipv6/conf/default/disable_ipv6", "1")),
        does(address(a, "eth0", "fd00::8/64")),
        does(mtu(a, "eth0", 1000)),
        does(mtu(a, "eth0", 1500)),
        step("EACCES", address(a, "eth0", "fd00::8/64")),
    ]
}

fn full_bridge() -> Vec<Step> {
    let a = named("a");
    let pair = |n: usize| veth(&format!("v{n}"), &format!("e{n}"), a, Some("br0"));
    vec![
        all_do([bridge("br0"), create("a")]),
        all_do((0..PORTS).map(pair)),
        step("EXFULL", pair(PORTS)),
        does(delete("v500", tag("v500"))),
        does(pair(PORTS)),
        step("EXFULL", pair(PORTS + 1)),
        all_do([bridge("br1"), veth("va", "eth0", a, Some("br1"))]),
        step("EXFULL", port("va", Some("br0"))),
        does(port("v7", Some("br1"))),
        does(port("va", Some("br0"))),
    ]
}
