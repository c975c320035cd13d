//! Links one by one: pairs and their ends.

mod common;

use common::{Lab, bridge, create_netns, foreign, ifname, inside, isolated, veth};
use netloom_kernel::{Netns, Op};

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
