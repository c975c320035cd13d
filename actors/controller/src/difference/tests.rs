//! Each kind of difference by itself.

use netloom_kernel::LinkKind;
use netloom_model::{MacAddr, ObjectKind};

use super::*;

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

fn inside() -> Netns {
    Netns::Named("0123456789ab".parse().expect("a name"))
}

fn link(index: u32, text: &str) -> LinkView {
    LinkView {
        index,
        name: name(text),
        kind: LinkKind::Veth,
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        up: true,
        master: None,
        port: None,
        isolated: false,
        hairpin: false,
        peer: None,
        alias: None,
        group: 0,
    }
}

fn owner() -> Holder {
    Holder::new(ObjectKind::Endpoint, "e", "web")
}

/// An interface with an address, a default route and a neighbour; and all of that wanted.
fn healthy() -> (Wanted, Seen) {
    let (netns, eth0) = (inside(), name("eth0"));
    let address: IpNet = "10.0.0.2/24".parse().expect("a net");
    let gateway: IpAddr = "10.0.0.1".parse().expect("an address");
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let route = Route { destination: "0.0.0.0/0".parse().expect("a net"), via: Some(gateway), link: eth0 };
    let state = LinkState { up: Some(true), mtu: Some(1500), exclusive: true, ..LinkState::default() };
    let neighbour = Neighbour::Address { address: gateway, mac };
    let objects = [
        (KernelObject::Namespace { name: "0123456789ab".parse().expect("a name") }, LinkState::default()),
        (KernelObject::Link { netns, name: eth0 }, state),
        (KernelObject::Address { netns, link: eth0, address }, LinkState::default()),
        (KernelObject::Route { netns, route }, LinkState::default()),
        (KernelObject::Neighbour { netns, link: eth0, neighbour }, LinkState::default()),
    ];
    let picture = Picture {
        links: vec![link(1, "lo"), link(2, "eth0")],
        addresses: vec![AddressView { link: 2, address }],
        routes: vec![RouteView {
            destination: route.destination,
            via: route.via,
            link: Some(2),
            table: RouteView::MAIN,
        }],
        neighbours: vec![NeighbourView {
            link: 2,
            address: Some(gateway),
            mac: Some(mac),
            forwarding: false,
            permanent: true,
        }],
    };
    let seen = Seen {
        namespaces: ["0123456789ab".parse().expect("a name")].into(),
        inside: [(netns, picture)].into(),
    };
    (objects.into_iter().map(|(object, state)| (object, (state, owner()))).collect(), seen)
}

/// The differences after something was done to what is healthy, in words.
fn after(damage: impl FnOnce(&mut Picture)) -> Vec<String> {
    let (wanted, mut seen) = healthy();
    damage(seen.inside.get_mut(&inside()).expect("it is there"));
    told(&wanted, &seen)
}

fn told(wanted: &Wanted, seen: &Seen) -> Vec<String> {
    compare(wanted, |_| true, seen).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_as_it_should_be_is_not_told() {
    assert_eq!(after(|_| ()), Vec::<String>::new());
}

#[test]
fn what_is_missing_is_told_once() {
    assert_eq!(
        after(|picture| picture.addresses.clear()),
        [
            "address 10.0.0.2/24 of link eth0 of namespace 0123456789ab is missing, which endpoint \"web\" (e) needs"
        ]
    );
    assert_eq!(
        after(|picture| picture.routes.clear()),
        [
            "route 0.0.0.0/0 via 10.0.0.1 dev eth0 of namespace 0123456789ab is missing, which endpoint \"web\" (e) \
             needs"
        ]
    );
    assert_eq!(
        after(|picture| picture.neighbours[0].permanent = false),
        ["neighbour 10.0.0.1 at 02:00:00:00:00:09 of link eth0 of namespace 0123456789ab is missing, which \
             endpoint \"web\" (e) needs"]
    );
    let gone = after(|picture| {
        *picture = Picture { links: vec![link(1, "lo")], ..Picture::default() };
    });
    assert_eq!(gone, ["link eth0 of namespace 0123456789ab is missing, which endpoint \"web\" (e) needs"]);
    let (wanted, _) = healthy();
    let gone = told(&wanted, &Seen::default());
    assert_eq!(gone, ["namespace 0123456789ab is missing, which endpoint \"web\" (e) needs"]);
}

#[test]
fn only_what_differs_of_a_link_is_told() {
    let changed = after(|picture| (picture.links[1].up, picture.links[1].mtu) = (false, 1400));
    assert_eq!(
        changed,
        [
            "link eth0 of namespace 0123456789ab is down, of MTU 1400, and should be up, of MTU 1500 for endpoint \
             \"web\" (e)"
        ]
    );
    let (mut wanted, seen) = healthy();
    let eth0 = KernelObject::Link { netns: inside(), name: name("eth0") };
    let (state, _) = wanted.get_mut(&eth0).expect("it is wanted");
    (state.mac, state.master) = (Some(MacAddr([2, 0, 0, 0, 0, 2])), Some(name("br0")));
    state.tag = Some(netloom_kernel::LinkTag::new("i", "endpoint", "e"));
    state.isolated = Some(true);
    let found = compare(&wanted, |_| true, &seen);
    let what = What::Different {
        desired: "with hardware address 02:00:00:00:00:02, a port of br0, isolated, with alias netloom/i/endpoint/e"
            .into(),
        found: "with hardware address 02:00:00:00:00:01, no port of a bridge, not isolated, without alias".into(),
    };
    assert_eq!(found, [Difference { object: eth0.into(), what, owner: owner() }]);
}

#[test]
fn strange_addresses_and_ways_out_are_told_of_our_links_alone() {
    let strange = |link: u32| {
        after(|picture| {
            picture.links.push(self::link(3, "tun0"));
            picture.addresses.push(AddressView { link, address: "10.9.9.9/32".parse().expect("a net") });
            picture.addresses.push(AddressView { link, address: "fe80::1/64".parse().expect("a net") });
            for destination in ["::/0", "10.8.0.0/16"] {
                let (destination, table) = (destination.parse().expect("a net"), RouteView::MAIN);
                picture.routes.push(RouteView { destination, via: None, link: Some(link), table });
            }
        })
    };
    assert_eq!(strange(3), Vec::<String>::new(), "the container's own");
    assert_eq!(
        strange(2),
        [
            "address 10.9.9.9/32 of link eth0 of namespace 0123456789ab should not be there; it belongs to endpoint \
             \"web\" (e)",
            "route ::/0 dev eth0 of namespace 0123456789ab should not be there; it belongs to endpoint \"web\" (e)"
        ]
    );
}

#[test]
fn a_way_out_of_the_containers_own_replaces_ours() {
    let own = after(|picture| {
        picture.links.push(link(3, "tun0"));
        picture.routes[0].link = Some(3);
    });
    assert_eq!(own, Vec::<String>::new());
}

#[test]
fn what_is_under_way_is_neither_missed_nor_unexpected() {
    let (wanted, mut seen) = healthy();
    let picture = seen.inside.get_mut(&inside()).expect("it is there");
    (picture.links[1].up, picture.routes) = (false, Vec::new());
    assert_eq!(
        compare(
            &wanted,
            |object| !matches!(object, KernelObject::Link { .. } | KernelObject::Route { .. }),
            &seen
        ),
        []
    );
    let (wanted, seen) = healthy();
    assert_eq!(compare(&wanted, |_| false, &seen), [], "what may be wanted is expected");
}
