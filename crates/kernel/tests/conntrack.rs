//! Tracked connections of real packets: a flow that sticks to where a port led goes where it leads now once it is
//! forgotten, and no other one is.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::{Lab, add_address, bridge, create_netns, inside, isolated, soon, up, veth, wait};
use netloom_kernel::conntrack::Connections;
use netloom_kernel::nft::{
    Base, Chain, ChainKind, Change, Datum, Element, Expr, Hook, MetaKey, NatKind, Point, Reg, Rule, Set,
    Table, Type,
};
use netloom_kernel::{Kernel, Netns, Op, Route};
use netloom_model::Protocol;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const UDP: u8 = 17;
/// The port that containers serve: not the host's, by which connections are found.
const SERVED: u16 = 7000;

/// One family of the trial.
#[derive(Clone, Copy)]
struct Family {
    map: &'static str,
    host: &'static str,
    client: &'static str,
    bridge: &'static str,
    containers: [&'static str; 2],
}

const V4: Family = Family {
    map: "ports4",
    host: "192.0.2.1/24",
    client: "192.0.2.7/24",
    bridge: "10.0.0.1/24",
    containers: ["10.0.0.2/24", "10.0.0.3/24"],
};
const V6: Family = Family {
    map: "ports6",
    host: "2001:db8::1/64",
    client: "2001:db8::7/64",
    bridge: "fd00::1/64",
    containers: ["fd00::2/64", "fd00::3/64"],
};
const CONTAINERS: [&str; 2] = ["one", "two"];

fn ip(net: &str) -> IpAddr {
    net.split('/').next().and_then(|text| text.parse().ok()).expect("an address")
}

fn table() -> Table {
    Table::inet("trial")
}

/// The host, a client in its network, two containers behind a bridge, and maps of ports that lead to them.
fn set_up(lab: &Lab) {
    lab.must(["lan", "one", "two"].map(create_netns).to_vec());
    lab.must(vec![
        veth("l0", "eth0", inside("lan"), None),
        bridge("br0"),
        veth("v1", "eth0", inside("one"), Some("br0")),
        veth("v2", "eth0", inside("two"), Some("br0")),
    ]);
    lab.must(["l0", "br0"].map(|name| up(Netns::Host, name)).to_vec());
    lab.must(["lan", "one", "two"].map(|name| up(inside(name), "eth0")).to_vec());
    let eth0 = common::ifname("eth0");
    for family in [V4, V6] {
        lab.must(vec![
            add_address(Netns::Host, "l0", family.host),
            add_address(Netns::Host, "br0", family.bridge),
            add_address(inside("lan"), "eth0", family.client),
            add_address(inside("one"), "eth0", family.containers[0]),
            add_address(inside("two"), "eth0", family.containers[1]),
        ]);
        let default = if ip(family.bridge).is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        for container in CONTAINERS {
            let route = Route {
                destination: default.parse().expect("a net"),
                via: Some(ip(family.bridge)),
                link: eth0,
            };
            lab.must(vec![Op::AddRoute { netns: inside(container), route }]);
        }
    }
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        lab.must(vec![Op::Sysctl { netns: Netns::Host, key: key.into(), value: "1".into() }]);
    }
    let map = |name: &str, address| {
        let (key, value) = (vec![Type::Protocol, Type::Port], vec![address, Type::Port]);
        Change::AddSet(Set { name: name.into(), key, value, interval: false })
    };
    let hook = Some(Hook { kind: ChainKind::Nat, point: Point::Prerouting, priority: -100 });
    let rule = |family: u8, set: &str, port: u8| Change::AddRule {
        chain: "prerouting".into(),
        rule: Rule {
            exprs: vec![
                Expr::Meta { key: MetaKey::Nfproto, to: Reg(0) },
                Expr::Cmp { from: Reg(0), equal: true, data: vec![family] },
                Expr::Meta { key: MetaKey::L4proto, to: Reg(0) },
                Expr::Payload { base: Base::Transport, offset: 2, len: 2, to: Reg(1) },
                Expr::Lookup {
                    set: set.into(),
                    from: Reg(0),
                    to: Some(Reg(0)),
                    verdicts: false,
                    missing: false,
                },
                Expr::Nat {
                    kind: NatKind::Destination,
                    ipv6: family == 10,
                    address: Some(Reg(0)),
                    port: Some(Reg(port)),
                },
            ],
            comment: None,
        },
    };
    change(
        lab,
        vec![
            Change::AddTable,
            map(V4.map, Type::Ipv4),
            map(V6.map, Type::Ipv6),
            Change::AddChain(Chain { name: "prerouting".into(), hook }),
            rule(2, V4.map, 1),
            rule(10, V6.map, 4),
        ],
    );
}

fn change(lab: &Lab, changes: Vec<Change>) {
    lab.must(vec![Op::ChangeTable { netns: Netns::Host, table: table(), changes }]);
}

fn entry(port: u16, container: &str) -> Element {
    let key = [Datum::Protocol(UDP), Datum::Port(port)];
    Element::entry(key, [Datum::Address(ip(container)), Datum::Port(SERVED)])
}

fn publish(family: Family, port: u16, container: usize) -> Change {
    let elements = vec![entry(port, family.containers[container])];
    Change::AddElements { set: family.map.into(), elements }
}

/// What makes a port lead elsewhere.
fn turn(family: Family, port: u16, from: usize, to: usize) -> Vec<Change> {
    let elements = vec![entry(port, family.containers[from])];
    vec![Change::DeleteElements { set: family.map.into(), elements }, publish(family, port, to)]
}

fn forget(filter: Vec<Connections>) -> Op {
    Op::ForgetConnections { filter }
}

fn udp(first: u16, last: u16) -> Connections {
    Connections::to(Protocol::Udp, first, last)
}

fn socket(lab: &Lab, netns: &str, address: &str, port: u16) -> UdpSocket {
    let address = SocketAddr::new(ip(address), port);
    lab.run(inside(netns), move || UdpSocket::bind(address).expect("a socket"))
}

/// The containers' sockets.
struct Servers([UdpSocket; 2]);

impl Servers {
    fn open(lab: &Lab, family: Family) -> Self {
        Self([0, 1].map(|n| socket(lab, CONTAINERS[n], family.containers[n], SERVED)))
    }

    /// Sends what nobody has sent before, and says which container gets it.
    fn who_gets(&self, client: &UdpSocket, to: SocketAddr, words: &str) -> &'static str {
        client.send_to(words.as_bytes(), to).expect("sent");
        let mut fds = [0, 1].map(|n| PollFd::new(self.0[n].as_fd(), PollFlags::POLLIN));
        let ready = poll(&mut fds, PollTimeout::from(10_000u16)).expect("waits");
        assert_eq!(ready, 1, "{words} to {to} reached nobody, or both");
        let n = usize::from(fds[0].any() != Some(true));
        let mut buffer = [0; 64];
        let (length, from) = self.0[n].recv_from(&mut buffer).expect("there");
        assert_eq!((&buffer[..length], from), (words.as_bytes(), client.local_addr().expect("bound")));
        CONTAINERS[n]
    }
}

#[test]
fn a_flow_sticks_to_where_a_port_led_until_it_is_forgotten() {
    isolated(|lab| {
        set_up(&lab);
        for family in [V4, V6] {
            change(&lab, vec![publish(family, 5000, 0), publish(family, 5001, 0)]);
            let servers = Servers::open(&lab, family);
            let host = |port| SocketAddr::new(ip(family.host), port);
            let [client, other] = [0, 1].map(|_| socket(&lab, "lan", family.client, 0));
            assert_eq!(servers.who_gets(&client, host(5000), "first"), "one");
            assert_eq!(servers.who_gets(&other, host(5001), "first of another"), "one");
            change(&lab, [turn(family, 5000, 0, 1), turn(family, 5001, 0, 1)].concat());
            assert_eq!(servers.who_gets(&client, host(5000), "second"), "one", "it does not stick");
            // By the container's port nothing is found.
            lab.must(vec![forget(vec![udp(SERVED, SERVED)])]);
            assert_eq!(servers.who_gets(&client, host(5000), "third"), "one");
            lab.must(vec![forget(vec![udp(5000, 5000).at(ip(family.host))])]);
            assert_eq!(servers.who_gets(&client, host(5000), "fourth"), "two");
            assert_eq!(servers.who_gets(&other, host(5001), "second of another"), "one", "not asked for");
            // In one call with the change, as an engine does it.
            let back =
                Op::ChangeTable { netns: Netns::Host, table: table(), changes: turn(family, 5000, 1, 0) };
            lab.must(vec![back, forget(vec![udp(4000, 5000).answered_by(ip(family.containers[1]))])]);
            assert_eq!(servers.who_gets(&client, host(5000), "fifth"), "one");
        }
    });
}

impl Lab {
    /// How many connections over UDP the host remembers; links that come up open others, over other protocols.
    fn tracked(&self) -> usize {
        // Of the thread's own namespace, whatever that of the process is.
        let table = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").expect("a list");
        table.lines().filter(|line| line.contains(" udp ")).count()
    }

    /// Waits for so many: a first packet is on its way for as long as its sender looks for its neighbour.
    #[track_caller]
    fn wait_for_tracked(&self, count: usize) {
        let deadline = soon();
        while self.tracked() != count {
            assert!(Instant::now() < deadline, "{} are tracked, not {count}", self.tracked());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn exactly_what_a_filter_covers_is_forgotten_whatever_the_filters_have_in_common() {
    isolated(|lab| {
        set_up(&lab);
        let (a, b) = (V4, V6);
        change(&lab, [a, b].map(|family| publish(family, 5000, 0)).to_vec());
        change(&lab, [a, b].map(|family| publish(family, 5001, 1)).to_vec());
        let clients = [a, b].map(|family| (family, socket(&lab, "lan", family.client, 0)));
        // To both containers, and to the host itself: six connections.
        let open = || {
            for (family, client) in &clients {
                for port in [5000, 5001, 5002] {
                    client.send_to(b"x", (ip(family.host), port)).expect("sent");
                }
            }
            lab.wait_for_tracked(6);
        };
        let (one, host) = (|family: Family| ip(family.containers[0]), |family: Family| ip(family.host));
        for (gone, filter) in [
            (0, vec![]),
            (0, vec![Connections::to(Protocol::Tcp, 0, u16::MAX)]),
            (0, vec![Connections::to(Protocol::Sctp, 0, u16::MAX).at(host(a))]),
            (6, vec![udp(0, u16::MAX)]),
            (2, vec![udp(5000, 5000)]),
            (1, vec![udp(5000, 5000).at(host(a))]),
            (1, vec![udp(5000, 5000).at(host(b))]),
            (3, vec![udp(5000, 5002).at(host(a))]),
            (1, vec![udp(5000, 5002).answered_by(one(a))]),
            (1, vec![udp(5000, 5002).answered_by(host(b))]),
            (0, vec![udp(5001, 5002).answered_by(one(a))]),
            (0, vec![udp(5000, 5002).at(host(a)).answered_by(one(b))]),
            (1, vec![udp(5000, 5002).at(host(a)).answered_by(one(a))]),
            (2, vec![udp(5000, 5000).at(host(a)), udp(5002, 5002).at(host(a))]),
            (
                2,
                vec![
                    udp(5000, 5000).at(host(a)),
                    Connections::to(Protocol::Tcp, 5000, 5000).at(host(a)),
                    udp(5001, 5001).at(host(a)),
                ],
            ),
            (2, vec![udp(5000, 5000).at(host(a)), udp(5000, 5000).answered_by(one(b))]),
            (2, vec![udp(5000, 5000).at(host(a)), udp(5002, 5002).answered_by(host(a))]),
        ] {
            open();
            let op = forget(filter.clone());
            lab.must(vec![op]);
            assert_eq!(lab.tracked(), 6 - gone, "{filter:?}");
        }
    });
}

#[test]
fn more_connections_than_one_send_takes_are_forgotten_at_once() {
    isolated(|lab| {
        set_up(&lab);
        change(&lab, vec![publish(V4, 5000, 0), publish(V4, 5001, 0)]);
        let clients: Vec<_> = (0..300).map(|_| socket(&lab, "lan", V4.client, 0)).collect();
        for client in &clients {
            client.send_to(b"x", (ip(V4.host), 5000)).expect("sent");
        }
        clients[0].send_to(b"x", (ip(V4.host), 5001)).expect("sent");
        lab.wait_for_tracked(301);
        lab.must(vec![forget(vec![udp(5000, 5000)])]);
        assert_eq!(lab.tracked(), 1);
    });
}

#[test]
fn what_several_calls_want_forgotten_is_looked_for_once_while_they_wait() {
    const PORTS: std::ops::Range<u16> = 5000..5008;
    isolated(|lab| {
        set_up(&lab);
        change(&lab, (PORTS.start..=PORTS.end).map(|port| publish(V4, port, 0)).collect());
        let client = socket(&lab, "lan", V4.client, 0);
        // Keeps the thread busy until all calls wait, if they come in time: that is the scheduler's affair.
        let busy = |round: u16| {
            let elements = (0..2_000).map(|port| entry(10_000 + port, &format!("10.9.0.{round}"))).collect();
            Op::ChangeTable {
                netns: Netns::Host,
                table: table(),
                changes: vec![
                    Change::AddElements { set: V4.map.into(), elements },
                    Change::FlushSet(V4.map.into()),
                    Change::AddElements {
                        set: V4.map.into(),
                        elements: (PORTS.start..=PORTS.end)
                            .map(|port| entry(port, V4.containers[0]))
                            .collect(),
                    },
                ],
            }
        };
        let mut fewest = u64::MAX;
        for round in 1..=50 {
            for port in PORTS.start..=PORTS.end {
                client.send_to(b"x", (ip(V4.host), port)).expect("sent");
            }
            lab.wait_for_tracked(PORTS.len() + 1);
            let sends = lab.kernel.stats().sends;
            let busy = lab.kernel.execute(vec![busy(round)], soon());
            let calls: Vec<_> =
                PORTS.map(|port| lab.kernel.execute(vec![forget(vec![udp(port, port)])], soon())).collect();
            assert_eq!(wait(busy), [Ok(())]);
            for call in calls {
                assert_eq!(wait(call), [Ok(())]);
            }
            let sends = lab.kernel.stats().sends - sends;
            assert_eq!(lab.tracked(), 1, "the port that nobody asked for, and no other");
            // Each by itself needs a listing and a deletion.
            fewest = fewest.min(sends);
            if fewest < PORTS.len() as u64 {
                return;
            }
        }
        panic!("calls that wait are never taken together: {fewest} sends");
    });
}
