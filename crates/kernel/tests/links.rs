//! Links one by one: pairs and their ends, ports of bridges, lookups by name.

mod common;

use std::time::{Duration, Instant};

use common::{
    Lab, add_address, bridge, create_netns, foreign, ifname, inside, isolated, soon, up, veth, wait,
};
use netloom_kernel::{Kernel, LinkView, Neighbour, Netns, Op};
use netloom_model::MacAddr;

const HOST: Netns = Netns::Host;

/// The numbers of two links, which must be the ends of one pair.
fn ends(lab: &Lab, one: (Netns, &str), other: (Netns, &str)) -> (u32, u32) {
    let link = |(netns, name)| lab.link(netns, name).expect("there");
    let (one, other) = (link(one), link(other));
    assert_eq!((one.peer, other.peer), (Some(other.index), Some(one.index)), "{one:?} {other:?}");
    (one.index, other.index)
}

#[test]
fn the_ends_of_a_pair_know_each_others_numbers() {
    isolated(|lab| {
        let (c1, c2) = (inside("c1"), inside("c2"));
        lab.must(vec![create_netns("c1"), create_netns("c2"), bridge("br0")]);
        lab.must(vec![veth("veth1", "eth0", c1, Some("br0")), veth("veth2", "eth0", c2, None)]);
        ends(&lab, (HOST, "veth1"), (c1, "eth0"));
        ends(&lab, (HOST, "veth2"), (c2, "eth0"));
        // Where the other end goes, it may get another number.
        lab.must(vec![Op::MoveLink { from: c1, name: ifname("eth0"), to: c2, rename: ifname("eth1") }]);
        ends(&lab, (HOST, "veth1"), (c2, "eth1"));
        // Number 2 is taken in c2, so the other end gets 4 there: the same number as its counterpart.
        foreign("ip link add same0 index 4 type veth peer name same1 index 2");
        lab.must(vec![Op::MoveLink { from: HOST, name: ifname("same1"), to: c2, rename: ifname("same1") }]);
        assert_eq!(ends(&lab, (HOST, "same0"), (c2, "same1")), (4, 4));
        lab.must(vec![veth("veth3", "peer3", HOST, None)]);
        ends(&lab, (HOST, "veth3"), (HOST, "peer3"));
        for name in ["lo", "br0"] {
            assert_eq!(lab.link(HOST, name).expect("there").peer, None, "{name}");
        }
    });
}

fn port(name: &str, master: Option<&str>) -> Op {
    Op::SetMaster { name: ifname(name), master: master.map(ifname) }
}

#[test]
fn a_link_becomes_a_port_changes_its_bridge_and_leaves() {
    isolated(|lab| {
        let number = |name| lab.link(HOST, name).expect("there").index;
        let master = || lab.link(HOST, "veth1").expect("there").master;
        lab.must(vec![create_netns("c1"), bridge("br0"), bridge("br1")]);
        lab.must(vec![veth("veth1", "eth0", inside("c1"), None)]);
        lab.must(vec![port("veth1", Some("br0"))]);
        assert_eq!(master(), Some(number("br0")));
        lab.must(vec![port("veth1", Some("br1"))]);
        assert_eq!(master(), Some(number("br1")));
        lab.must(vec![port("veth1", Some("br1")), port("br0", None)]);
        assert_eq!(master(), Some(number("br1")));
        lab.must(vec![port("veth1", None), port("veth1", None)]);
        assert_eq!(master(), None);

        // All in one call: each sees what the ones before did.
        lab.must(vec![
            veth("veth2", "eth1", inside("c1"), Some("br0")),
            port("veth2", Some("br1")),
            bridge("br2"),
            port("veth2", Some("br2")),
            port("veth1", Some("br2")),
            port("veth1", None),
        ]);
        assert_eq!((lab.link(HOST, "veth2").expect("there").master, master()), (Some(number("br2")), None));
    });
}

#[test]
fn a_link_that_another_bridge_refuses_is_where_it_was() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), bridge("br0"), bridge("br1"), bridge("br2")]);
        lab.must(vec![veth("veth1", "eth0", inside("c1"), Some("br0"))]);
        lab.must(vec![veth("veth2", "eth1", inside("c1"), None)]);
        let places = || -> Vec<_> {
            lab.links(HOST).into_iter().map(|link| (link.name, link.master, link.mtu, link.up)).collect()
        };
        let before = places();
        let cases = [
            ("veth1", Some("none"), libc::ENODEV),
            ("none", Some("br0"), libc::ENODEV),
            ("none", None, libc::ENODEV),
            ("veth1", Some("veth2"), libc::EOPNOTSUPP),
            ("veth1", Some("lo"), libc::EOPNOTSUPP),
            ("veth2", Some("veth1"), libc::EOPNOTSUPP),
            ("br1", Some("br0"), libc::ELOOP),
            ("lo", Some("br0"), libc::EINVAL),
        ];
        for (name, master, errno) in cases {
            assert_eq!(lab.errno(port(name, master)), errno, "{name} on {master:?}");
        }
        // In one call, after the link has moved to yet another bridge.
        let results = lab.execute(vec![port("veth1", Some("br1")), port("veth1", Some("veth2"))]);
        assert_eq!(results[1].as_ref().expect_err("no bridge").errno, libc::EOPNOTSUPP);
        let master = lab.link(HOST, "veth1").expect("there").master;
        assert_eq!(master, Some(lab.link(HOST, "br1").expect("there").index));
        lab.must(vec![port("veth1", Some("br0"))]);
        assert_eq!(places(), before);
    });
}

/// Looks links up that must be answered.
fn find(lab: &Lab, netns: Netns, names: &[&str]) -> Vec<Option<LinkView>> {
    let names = names.iter().map(|name| ifname(name)).collect();
    wait(lab.kernel.find_links(netns, names, soon())).expect("answered")
}

#[test]
fn links_are_found_by_name_in_the_order_asked_for() {
    isolated(|lab| {
        let c1 = inside("c1");
        lab.must(vec![create_netns("c1"), bridge("br0"), veth("veth1", "eth0", c1, Some("br0"))]);
        let before = lab.kernel.stats();
        let found = find(&lab, HOST, &["veth1", "none", "br0", "veth1", "eth0"]);
        let after = lab.kernel.stats();
        assert_eq!((after.sends - before.sends, after.messages - before.messages), (1, 5));
        let listed = |name| lab.link(HOST, name);
        assert_eq!(found, [listed("veth1"), None, listed("br0"), listed("veth1"), None]);
        assert_eq!(found[0].as_ref().expect("there").tag(), Some(common::tag("veth1")));
        assert_eq!(find(&lab, c1, &["veth1", "eth0"]), [None, lab.link(c1, "eth0")]);
        assert_eq!(find(&lab, c1, &[]), []);

        let gone = wait(lab.kernel.find_links(inside("none"), vec![ifname("lo")], soon()));
        assert_eq!(gone.expect_err("no such namespace").errno, libc::ENOENT);
        let past = Instant::now().checked_sub(Duration::from_millis(1)).expect("the machine is up");
        let index =
            wait(lab.kernel.find_links(HOST, vec![ifname("lo")], soon())).expect("answered")[0].clone();
        let index = index.expect("every namespace has one").index;
        let at = wait(lab.kernel.links_at(HOST, vec![index, 9_999, index], soon())).expect("answered");
        let names: Vec<_> = at.iter().map(|link| link.as_ref().map(|link| link.name)).collect();
        assert_eq!(names, [Some(ifname("lo")), None, Some(ifname("lo"))]);
        let late = wait(lab.kernel.find_links(HOST, vec![ifname("lo")], past));
        assert!(late.expect_err("too late").timed_out.is_some());
    });
}

#[test]
fn an_alternative_name_is_not_the_links_name() {
    isolated(|lab| {
        lab.must(vec![bridge("br0")]);
        foreign("ip link property add dev br0 altname other");
        assert_eq!(find(&lab, HOST, &["other", "br0"]), [None, lab.link(HOST, "br0")]);
    });
}

#[test]
fn as_many_links_are_found_as_are_asked_for() {
    isolated(|lab| {
        lab.must(vec![bridge("br0")]);
        let names: Vec<_> = (0..1_000).map(|i| if i % 3 == 0 { "br0" } else { "none" }).collect();
        let found = find(&lab, HOST, &names);
        assert_eq!(found.len(), names.len());
        let right = |(name, link): (&&str, &Option<LinkView>)| link.is_some() == (*name == "br0");
        assert!(names.iter().zip(&found).all(right));
    });
}

/// What is heard of an announcement is tested with packets, in the tests of the engine on the real kernel.
#[test]
fn an_announcement_leaves_the_link_as_it_is_and_forgets_its_neighbours() {
    isolated(|lab| {
        lab.must(vec![
            create_netns("c1"),
            veth("veth1", "eth0", inside("c1"), None),
            up(inside("c1"), "eth0"),
            add_address(inside("c1"), "eth0", "10.0.0.2/24"),
        ]);
        let link = || wait(lab.kernel.find_links(inside("c1"), vec![ifname("eth0")], soon())).expect("found");
        let other = "10.0.0.9".parse().expect("an address");
        let neighbour = Neighbour::Address { address: other, mac: MacAddr([2, 0, 0, 0, 0, 9]) };
        let known = || {
            let known = wait(lab.kernel.neighbours(inside("c1"), soon())).expect("listed");
            known.iter().filter(|entry| entry.address == Some(other)).count()
        };
        let before = link();
        lab.must(vec![Op::AddNeighbour { netns: inside("c1"), link: ifname("eth0"), neighbour }]);
        assert_eq!(known(), 1);
        let announce = |name| Op::Announce { netns: inside("c1"), link: ifname(name) };
        lab.must(vec![announce("eth0")]);
        assert_eq!((link(), known()), (before, 0));
        assert_eq!(lab.errno(announce("eth1")), libc::ENODEV);
    });
}
