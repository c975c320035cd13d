//! Random operations on few names, so that they meet.

use std::fmt::Debug;
use std::str::FromStr;

use netloom::MacAddr;
use netloom::kernel::{LinkTag, Neighbour, Netns, Op, PortFlag, Route};

use super::pair::OUTSIDE;

/// Every operation there is.
pub(super) const VERBS: [&str; 19] = [
    "create_netns",
    "adopt_netns",
    "delete_netns",
    "create_bridge",
    "create_veth",
    "cut_link",
    "delete_link",
    "move_link",
    "set_link",
    "set_master",
    "set_mtu",
    "add_address",
    "delete_address",
    "add_route",
    "delete_route",
    "add_neighbour",
    "delete_neighbour",
    "announce",
    "sysctl",
];

/// Where the real kernel finds the host's namespace.
pub(super) const HOST_NETNS: &str = "/proc/thread-self/ns/net";
/// Where nothing is.
pub(super) const NOWHERE: &str = "/outside/nowhere";

const NAMESPACES: [&str; 2] = ["n1", "n2"];
const BRIDGES: [&str; 2] = ["br1", "br2"];
const PAIRS: [&str; 3] = ["v1", "v2", "v3"];
const PEERS: [&str; 3] = ["eth0", "eth1", "v3"];
const LOOPBACK: &str = "lo";
/// The names a link of the host may have, and one inside a namespace; likely ones more often.
const HOST_LINKS: [&str; 8] = ["br1", "br1", "br2", "v1", "v2", "v3", "eth0", LOOPBACK];
const INSIDE_LINKS: [&str; 8] = ["eth0", "eth0", "eth0", "eth1", "v3", "br1", "v1", LOOPBACK];
const MTUS: [u32; 6] = [60, 1000, 1400, 1500, 9000, 70_000];
const MACS: [[u8; 6]; 3] = [[0x02, 0x42, 0, 0, 0, 1], [0x02, 0x42, 0, 0, 0, 2], [1, 0, 0, 0, 0, 1]];
const ADDRESSES: [&str; 14] = [
    "10.0.0.1/24",
    "10.0.0.2/24",
    "10.0.0.2/16",
    "10.1.0.1/32",
    "10.0.0.0/24",
    "0.0.0.0/0",
    "10.2.0.1/31",
    "127.0.0.9/8",
    "fd00::1/64",
    "fd00::2/64",
    "fd00::/64",
    "fd01::1/128",
    "fd02::3/127",
    "::/0",
];
const DESTINATIONS: [&str; 11] = [
    "10.0.0.0/24",
    "10.0.0.0/16",
    "10.5.0.0/16",
    "10.5.0.1/16",
    "10.2.0.0/31",
    "0.0.0.0/0",
    "fd00::/64",
    "fd05::/64",
    "fd05::1/64",
    "fd01::1/128",
    "::/0",
];
const NEXT_HOPS: [&str; 7] =
    ["10.0.0.1", "10.0.0.9", "10.0.0.255", "10.2.0.0", "fd00::1", "fd00::9", "fe80::1"];
const NEIGHBOURS: [&str; 2] = ["10.0.0.5", "fd00::5"];
const SETTINGS: [&str; 8] = [
    "ipv6/conf/all/disable_ipv6",
    "ipv6/conf/default/disable_ipv6",
    "ipv6/conf/eth0/disable_ipv6",
    "ipv6/conf/eth1/accept_ra",
    "ipv4/conf/eth0/promote_secondaries",
    "ipv4/conf/br1/rp_filter",
    "ipv4/ip_forward",
    "ipv4/none",
];

/// Reads a constant.
pub(super) fn parsed<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a valid constant")
}

pub(super) fn named(name: &str) -> Netns {
    Netns::Named(parsed(name))
}

/// The mark of a link.
pub(super) fn tag(link: &str) -> LinkTag {
    LinkTag::new("netloom", "endpoint", link)
}

/// An endless sequence of operations, the same for the same seed. It begins with two namespaces on a bridge,
/// since most random operations on an empty machine are refused.
pub(super) struct Generator {
    /// The state of the splitmix64 sequence.
    random: u64,
    /// Still to come before chance decides, the next one last.
    opening: Vec<Op>,
    /// The additions asked for, since chance alone hardly ever finds something to remove.
    additions: Vec<Op>,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let mut opening =
            vec![bridge("br1"), up(Netns::Host, "br1"), address(Netns::Host, "br1", "10.0.0.1/24")];
        for (pair, inside, own) in [("v1", "n1", "10.0.0.2/24"), ("v2", "n2", "10.0.0.3/24")] {
            opening.push(Op::CreateNetns { name: parsed(inside), ipv6: true });
            opening.push(veth(pair, "eth0", named(inside), Some("br1")));
            opening.push(up(named(inside), "eth0"));
            opening.push(address(named(inside), "eth0", own));
        }
        opening.push(address(named("n1"), "eth0", "fd00::2/64"));
        opening.reverse();
        Self { random: seed, opening, additions: Vec::new() }
    }

    pub(super) fn next_op(&mut self) -> Op {
        let op = self.opening.pop().unwrap_or_else(|| self.random_op());
        if matches!(op, Op::AddAddress { .. } | Op::AddRoute { .. } | Op::AddNeighbour { .. }) {
            self.additions.push(op.clone());
        }
        op
    }

    fn random_op(&mut self) -> Op {
        // Made more often than taken away, so that something is there to disagree about.
        match self.below(72) {
            0..=1 => Op::CreateNetns { name: parsed(self.pick(&NAMESPACES)), ipv6: true },
            2 => Op::DeleteNetns { name: parsed(self.pick(&NAMESPACES)) },
            3..=5 => self.create_bridge(),
            6..=12 => self.create_veth(),
            13..=14 => Op::CutLink { name: parsed(self.pick(&HOST_LINKS)) },
            15 => {
                let name = self.pick(&HOST_LINKS);
                Op::DeleteLink { name: parsed(name), tag: self.one_in(2).then(|| tag(name)) }
            }
            16..=18 => self.move_link(),
            19..=25 => {
                let (netns, name) = self.spot();
                Op::SetLink { netns, name: parsed(name), up: !self.one_in(3) }
            }
            26..=28 => self.set_mtu(),
            29..=36 => {
                let (netns, link) = self.spot();
                address(netns, link, self.pick(&ADDRESSES))
            }
            37..=40 => self.delete_address(),
            41..=48 => self.add_route(),
            49..=52 => self.delete_route(),
            53..=55 => self.add_neighbour(),
            56..=58 => self.delete_neighbour(),
            59..=62 => self.set_master(),
            63..=64 => self.adopt_netns(),
            65 => self.isolate_port(),
            66 => self.announce(),
            _ => {
                let key = self.pick(&SETTINGS).to_owned();
                Op::Sysctl { netns: self.place(), key, value: self.pick(&["0", "1", "x"]).to_owned() }
            }
        }
    }

    /// One of others, mostly; now and then what is refused.
    fn adopt_netns(&mut self) -> Op {
        let source = match self.below(8) {
            0 => HOST_NETNS,
            1 => NOWHERE,
            _ => self.pick(&OUTSIDE),
        };
        adopt(self.pick(&NAMESPACES), source)
    }

    /// Always with a hardware address: without, Linux lets a bridge follow its ports and forgets its
    /// neighbours when the address changes.
    fn create_bridge(&mut self) -> Op {
        let name = self.pick(&BRIDGES);
        let (mac, mtu) = (Some(MacAddr(self.pick(&MACS))), self.mtu());
        Op::CreateBridge { name: parsed(name), mac, mtu, tag: self.mark(name) }
    }

    fn create_veth(&mut self) -> Op {
        let host = self.pick(&PAIRS);
        let (peer, netns) = (parsed(self.pick(&PEERS)), self.place());
        let master = self.one_in(2).then(|| parsed(self.pick(&BRIDGES)));
        let (mac, mtu) = (self.mac(), self.mtu());
        Op::CreateVeth { host: parsed(host), peer, netns, master, mac, mtu, tag: self.mark(host) }
    }

    /// Never a loopback within its namespace, which may have two names: under another name it would be chosen
    /// for what only the real one does.
    fn move_link(&mut self) -> Op {
        let ((from, mut name), (to, rename)) = (self.spot(), self.spot());
        if name == LOOPBACK && (from == Netns::Host) == (to == Netns::Host) {
            name = "eth0";
        }
        Op::MoveLink { from, name: parsed(name), to, rename: parsed(rename) }
    }

    fn set_master(&mut self) -> Op {
        let name = parsed(self.pick(&HOST_LINKS));
        let master = match self.below(8) {
            0..=1 => None,
            2 => Some(parsed(self.pick(&HOST_LINKS))),
            _ => Some(parsed(self.pick(&BRIDGES))),
        };
        Op::SetMaster { name, master }
    }

    fn isolate_port(&mut self) -> Op {
        Op::SetPortFlag { name: parsed(self.pick(&HOST_LINKS)), flag: PortFlag::Isolated }
    }

    /// Never of a loopback, from which Linux takes IPv4 below 68 bytes.
    fn set_mtu(&mut self) -> Op {
        let (netns, name) = self.spot_of_a_wire();
        Op::SetMtu { netns, name: parsed(name), mtu: self.pick(&MTUS) }
    }

    /// Never of a loopback, whose address of zeros older kernels refuse.
    fn announce(&mut self) -> Op {
        let (netns, name) = self.spot_of_a_wire();
        Op::Announce { netns, link: parsed(name) }
    }

    fn delete_address(&mut self) -> Op {
        if let Some(Op::AddAddress { netns, link, address }) = self.addition("add_address") {
            return Op::DeleteAddress { netns, link, address };
        }
        let (netns, link) = self.spot();
        Op::DeleteAddress { netns, link: parsed(link), address: parsed(self.pick(&ADDRESSES)) }
    }

    fn route(&mut self) -> (Netns, Route) {
        let via = (!self.one_in(3)).then(|| parsed(self.pick(&NEXT_HOPS)));
        let (netns, link) = self.spot();
        (netns, Route { destination: parsed(self.pick(&DESTINATIONS)), via, link: parsed(link) })
    }

    /// Never through a loopback by a next hop: Linux takes each of its addresses for one.
    fn add_route(&mut self) -> Op {
        let (netns, mut route) = self.route();
        if route.link == parsed(LOOPBACK) {
            route.via = None;
        }
        Op::AddRoute { netns, route }
    }

    /// Never the IPv6 default route of a loopback: Linux finds a placeholder of its own there and says that it
    /// must not be removed (`ENOENT`).
    fn delete_route(&mut self) -> Op {
        let (netns, mut route) = match self.addition("add_route") {
            Some(Op::AddRoute { netns, route }) => (netns, route),
            _ => self.route(),
        };
        if route.link == parsed(LOOPBACK) && route.destination.prefix_len() == 0 {
            route.link = parsed("eth0");
        }
        Op::DeleteRoute { netns, route }
    }

    /// Never on a loopback, where Linux files all IPv4 neighbours under 0.0.0.0.
    fn add_neighbour(&mut self) -> Op {
        let (netns, link) = self.spot_of_a_wire();
        Op::AddNeighbour { netns, link: parsed(link), neighbour: self.neighbour() }
    }

    fn delete_neighbour(&mut self) -> Op {
        if let Some(Op::AddNeighbour { netns, link, neighbour }) = self.addition("add_neighbour") {
            return Op::DeleteNeighbour { netns, link, neighbour };
        }
        let (netns, link) = self.spot();
        Op::DeleteNeighbour { netns, link: parsed(link), neighbour: self.neighbour() }
    }

    /// One of the additions of this kind, mostly; it may have been refused, or be gone.
    fn addition(&mut self, verb: &str) -> Option<Op> {
        if self.one_in(4) {
            return None;
        }
        let fitting: Vec<_> = self.additions.iter().filter(|op| op.verb() == verb).cloned().collect();
        (!fitting.is_empty()).then(|| self.choose(&fitting).clone())
    }

    fn neighbour(&mut self) -> Neighbour {
        Neighbour::Address { address: parsed(self.pick(&NEIGHBOURS)), mac: MacAddr([0x02, 0x42, 0, 0, 0, 5]) }
    }

    fn mac(&mut self) -> Option<MacAddr> {
        self.one_in(3).then(|| MacAddr(self.pick(&MACS)))
    }

    fn mtu(&mut self) -> Option<u32> {
        self.one_in(3).then(|| self.pick(&MTUS))
    }

    /// A link's mark, now and then one that is too long.
    fn mark(&mut self, link: &str) -> LinkTag {
        if self.one_in(8) { tag(&link.repeat(150)) } else { tag(link) }
    }

    fn place(&mut self) -> Netns {
        if self.one_in(3) { Netns::Host } else { named(self.pick(&NAMESPACES)) }
    }

    /// A namespace and the name of a link in it.
    fn spot(&mut self) -> (Netns, &'static str) {
        let netns = self.place();
        let name = if netns == Netns::Host { self.pick(&HOST_LINKS) } else { self.pick(&INSIDE_LINKS) };
        (netns, name)
    }

    /// The same without loopbacks.
    fn spot_of_a_wire(&mut self) -> (Netns, &'static str) {
        loop {
            let spot = self.spot();
            if spot.1 != LOOPBACK {
                return spot;
            }
        }
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        *self.choose(all)
    }

    fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let bound = u64::try_from(all.len()).expect("few");
        &all[usize::try_from(self.below(bound)).expect("few")]
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A bridge with a hardware address of its own; Linux lets others follow their ports.
pub(super) fn bridge(name: &str) -> Op {
    Op::CreateBridge { name: parsed(name), mac: Some(MacAddr(MACS[0])), mtu: None, tag: tag(name) }
}

pub(super) fn adopt(netns: &str, source: &str) -> Op {
    Op::AdoptNetns { name: parsed(netns), source: source.into() }
}

pub(super) fn veth(host: &str, peer: &str, netns: Netns, master: Option<&str>) -> Op {
    let (host_name, peer) = (parsed(host), parsed(peer));
    Op::CreateVeth {
        host: host_name,
        peer,
        netns,
        master: master.map(parsed),
        mac: None,
        mtu: None,
        tag: tag(host),
    }
}

pub(super) fn up(netns: Netns, name: &str) -> Op {
    Op::SetLink { netns, name: parsed(name), up: true }
}

pub(super) fn address(netns: Netns, link: &str, address: &str) -> Op {
    Op::AddAddress { netns, link: parsed(link), address: parsed(address) }
}
