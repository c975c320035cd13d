//! A host with two networks, a neighbour on its LAN, and somebody who serves in each: all in namespaces of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use netloom_firewall::{FamilyRules, Mark, Mode, NetworkRules, PortRules, Ruleset, TableConfig, delta};
use netloom_kernel::nft::Change;
use netloom_kernel::{Kernel, Netns, Op, Route};
use netloom_model::{EndpointId, NetworkId, Protocol};

use crate::backend::{Backend, Tables};
use crate::common::{Lab, add_address, bridge, create_netns, foreign, ifname, inside, soon, up, veth, wait};

/// How long something that is dropped on the way is waited for.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// How long something that arrives may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a container, the neighbour or the host is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// The neighbour on the LAN.
    Lan,
    /// The host itself.
    Host,
    /// A container of the first network.
    One,
    /// Another one of the first network.
    OneMore,
    /// A container of the second network.
    Two,
}

/// Which family a test is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Who {
    pub(crate) fn netns(self) -> Netns {
        match self {
            Self::Host => Netns::Host,
            Self::Lan => inside("lan"),
            Self::One => inside("one"),
            Self::OneMore => inside("onemore"),
            Self::Two => inside("two"),
        }
    }

    /// Its address; the host's is that on the LAN.
    pub(crate) fn address(self, family: Family) -> IpAddr {
        let (v4, v6) = match self {
            Self::Host => ("192.0.2.1", "2001:db8::1"),
            Self::Lan => ("192.0.2.9", "2001:db8::9"),
            Self::One => ("10.1.0.2", "fd01::2"),
            Self::OneMore => ("10.1.0.3", "fd01::3"),
            Self::Two => ("10.2.0.2", "fd02::2"),
        };
        if family == Family::V4 { v4 } else { v6 }.parse().expect("an address")
    }
}

/// What came of asking somebody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// An answer.
    Answer {
        /// Whose.
        by: IpAddr,
        /// Whom they heard from.
        from: IpAddr,
    },
    /// Nobody listens.
    Refused,
    /// No answer.
    Nothing,
}

pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) backend: Backend,
    ruleset: Ruleset,
    /// Where it is iptables.
    tables: Option<Tables>,
    networks: [NetworkId; 2],
    endpoints: u32,
}

pub(crate) fn network(bridge: &str) -> NetworkRules {
    let subnets = if bridge == "br1" { ["10.1.0.0/24", "fd01::/64"] } else { ["10.2.0.0/24", "fd02::/64"] };
    let [v4, v6] = subnets.map(|subnet| {
        let subnet = subnet.parse().expect("a subnet");
        Some(FamilyRules { subnet, mode: Mode::Nat, masquerade: true, host_address: None })
    });
    NetworkRules { bridge: ifname(bridge), icc: true, internal: false, trusted: Vec::new(), v4, v6 }
}

pub(crate) fn port(to: Who, family: Family, host: Option<IpAddr>, port: u16) -> PortRules {
    PortRules {
        protocol: Protocol::Tcp,
        host,
        first: port,
        last: port,
        container: to.address(family),
        container_port: 80,
        routed: false,
        by_proxy: None,
    }
}

impl World {
    pub(crate) fn new(lab: Lab, backend: Backend, mark: Option<Mark>) -> Self {
        lab.must(["lan", "one", "onemore", "two"].map(create_netns).into());
        lab.must(vec![up(Netns::Host, "lo")]);
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let (key, value) = (setting.into(), "1".into());
            lab.must(vec![Op::Sysctl { netns: Netns::Host, key, value }]);
        }
        lab.must(vec![veth("uplink", "eth0", Who::Lan.netns(), None), up(Netns::Host, "uplink")]);
        for (name, address) in
            [("br1", ["10.1.0.1/24", "fd01::1/64"]), ("br2", ["10.2.0.1/24", "fd02::1/64"])]
        {
            lab.must(vec![bridge(name)]);
            lab.must(address.map(|address| add_address(Netns::Host, name, address)).into());
            lab.must(vec![up(Netns::Host, name)]);
            // A host's loopback is published through the bridge.
            let key = format!("ipv4/conf/{name}/route_localnet");
            lab.must(vec![Op::Sysctl { netns: Netns::Host, key, value: "1".into() }]);
        }
        lab.must(
            ["192.0.2.1/24", "2001:db8::1/64"].map(|own| add_address(Netns::Host, "uplink", own)).into(),
        );
        for (who, master) in [(Who::One, "br1"), (Who::OneMore, "br1"), (Who::Two, "br2")] {
            let name = format!("v{who:?}").to_lowercase();
            lab.must(vec![veth(&name, "eth0", who.netns(), Some(master))]);
            // A container reaches itself through a port of the host.
            foreign(&format!("ip link set {name} type bridge_slave hairpin on"));
        }
        for who in [Who::Lan, Who::One, Who::OneMore, Who::Two] {
            lab.must(vec![up(who.netns(), "eth0")]);
            let gateways = match who {
                Who::Lan | Who::Host => ["192.0.2.1", "2001:db8::1"],
                Who::One | Who::OneMore => ["10.1.0.1", "fd01::1"],
                Who::Two => ["10.2.0.1", "fd02::1"],
            };
            for (family, gateway) in [Family::V4, Family::V6].into_iter().zip(gateways) {
                let (length, all) = if family == Family::V4 { (24, "0.0.0.0/0") } else { (64, "::/0") };
                let own = format!("{}/{length}", who.address(family));
                lab.must(vec![add_address(who.netns(), "eth0", &own)]);
                let route = Route {
                    destination: all.parse().expect("a subnet"),
                    via: Some(gateway.parse().expect("an address")),
                    link: ifname("eth0"),
                };
                lab.must(vec![Op::AddRoute { netns: who.netns(), route }]);
            }
        }
        let ruleset = Ruleset::new(TableConfig { name: "netloom".into(), mark });
        let networks = [1, 2].map(|number| id(number).parse().expect("an identifier"));
        let tables = match backend {
            Backend::Nftables => None,
            Backend::Iptables(variant) => Some(Tables::new(variant, mark)),
        };
        let mut world = Self { lab, backend, ruleset, tables, networks, endpoints: 0 };
        if world.tables.is_none() {
            let make = delta(None, &world.ruleset.contents());
            world.change(make);
        }
        world.set_network(0, Some(&network("br1")));
        world.set_network(1, Some(&network("br2")));
        world
    }

    fn change(&mut self, changes: Vec<Change>) {
        self.lab.must(vec![Op::ChangeTable { netns: Netns::Host, table: self.ruleset.table(), changes }]);
    }

    pub(crate) fn set_network(&mut self, number: usize, rules: Option<&NetworkRules>) {
        let network = self.networks[number];
        match &mut self.tables {
            Some(tables) => tables.set_network(network, rules),
            None => {
                let changes = self.ruleset.set_network(network, rules).expect("no contradiction");
                self.change(changes);
            }
        }
    }

    /// Publishes ports, of an endpoint of their own.
    pub(crate) fn publish(&mut self, ports: &[PortRules]) -> EndpointId {
        self.endpoints += 1;
        let endpoint = id(self.endpoints).parse().expect("an identifier");
        self.set_ports(endpoint, ports);
        endpoint
    }

    pub(crate) fn withdraw(&mut self, endpoint: EndpointId) {
        self.set_ports(endpoint, &[]);
    }

    fn set_ports(&mut self, endpoint: EndpointId, ports: &[PortRules]) {
        match &mut self.tables {
            Some(tables) => tables.set_ports(endpoint, ports),
            None => {
                let changes = self.ruleset.set_ports(endpoint, ports).expect("no contradiction");
                self.change(changes);
            }
        }
    }

    /// Somebody answers on a TCP port with its own address and the one it was asked from.
    pub(crate) fn serve(&self, who: Who, family: Family, port: u16) {
        let address = SocketAddr::new(who.address(family), port);
        let listener = self.lab.run(who.netns(), move || TcpListener::bind(address).expect("a free port"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let (by, from) =
                    (stream.local_addr().expect("known").ip(), stream.peer_addr().expect("known").ip());
                let _ = stream.write_all(format!("{by} {from}").as_bytes());
            }
        });
    }

    /// Somebody who hears datagrams and says nothing.
    pub(crate) fn hear_datagrams(&self, who: Who, at: SocketAddr) -> UdpSocket {
        let socket = self.lab.run(who.netns(), move || UdpSocket::bind(at).expect("a free port"));
        socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        socket
    }

    /// Whether a datagram gets to somebody.
    pub(crate) fn arrives(&self, who: Who, to: SocketAddr, at: &UdpSocket) -> bool {
        let socket = self.lab.run(who.netns(), || UdpSocket::bind("0.0.0.0:0").expect("a socket"));
        socket.send_to(b"hit", to).expect("sent");
        at.recv(&mut [0; 8]).is_ok()
    }

    /// Makes the table what it should be.
    pub(crate) fn repair(&mut self) {
        if let Some(tables) = &self.tables {
            return tables.repair();
        }
        let is = wait(self.lab.kernel.table(self.ruleset.table(), soon())).expect("read");
        let changes = delta(is.as_ref(), &self.ruleset.contents());
        self.change(changes);
    }

    /// Somebody answers datagrams with the address they come from.
    pub(crate) fn serve_datagrams(&self, who: Who, family: Family, port: u16) {
        let address = SocketAddr::new(who.address(family), port);
        let socket = self.lab.run(who.netns(), move || UdpSocket::bind(address).expect("a free port"));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
            }
        });
    }

    /// Connects, and hears whom the other side heard from. What must not arrive is waited for only shortly, but not before
    /// something else has arrived on the same way.
    pub(crate) fn ask(&self, who: Who, to: SocketAddr, patience: Duration) -> Heard {
        let socket = self.lab.run(who.netns(), move || {
            let domain = socket2::Domain::for_address(to);
            socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket")
        });
        if let Err(error) = socket.connect_timeout(&to.into(), patience) {
            return if error.kind() == std::io::ErrorKind::ConnectionRefused {
                Heard::Refused
            } else {
                Heard::Nothing
            };
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (by, from) = text.split_once(' ').expect("two addresses");
        let address = |text: &str| text.parse().expect("an address");
        Heard::Answer { by: address(by), from: address(from) }
    }

    /// Whom the other side heard from, if it is reached.
    pub(crate) fn reaches(&self, who: Who, to: SocketAddr) -> Option<IpAddr> {
        match self.ask(who, to, PATIENCE) {
            Heard::Answer { from, .. } => Some(from),
            Heard::Refused | Heard::Nothing => None,
        }
    }

    /// Who answers.
    pub(crate) fn answers(&self, who: Who, to: SocketAddr) -> Option<IpAddr> {
        match self.ask(who, to, PATIENCE) {
            Heard::Answer { by, .. } => Some(by),
            Heard::Refused | Heard::Nothing => None,
        }
    }

    pub(crate) fn is_refused(&self, who: Who, to: SocketAddr) -> bool {
        self.ask(who, to, PATIENCE) == Heard::Refused
    }

    /// Runs a tool inside somebody's namespace.
    pub(crate) fn foreign_in(&self, who: Who, command: &str) {
        let Netns::Named(name) = who.netns() else { return foreign(command) };
        foreign(&format!("nsenter --net={} {command}", self.lab.kernel.netns_path(name).display()));
    }

    pub(crate) fn is_shut_out(&self, who: Who, to: SocketAddr) -> bool {
        self.ask(who, to, SILENCE) == Heard::Nothing
    }

    pub(crate) fn datagram(&self, who: Who, to: SocketAddr) -> Option<IpAddr> {
        let from = SocketAddr::new(any(if to.is_ipv4() { Family::V4 } else { Family::V6 }), 0);
        let socket = self.lab.run(who.netns(), move || UdpSocket::bind(from).expect("a socket"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(b"who", to).expect("sent");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        std::str::from_utf8(&buffer[..length]).ok()?.parse().ok()
    }

    /// Whether the kernel's table is what is wanted.
    pub(crate) fn assert_as_wanted(&self) {
        if let Some(tables) = &self.tables {
            return tables.assert_as_wanted();
        }
        let is = wait(self.lab.kernel.table(self.ruleset.table(), soon())).expect("read");
        assert_eq!(delta(is.as_ref(), &self.ruleset.contents()), []);
    }
}

fn id(number: u32) -> String {
    format!("{number:064x}")
}

pub(crate) fn any(family: Family) -> IpAddr {
    if family == Family::V4 { "0.0.0.0" } else { "::" }.parse().expect("an address")
}

pub(crate) fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
