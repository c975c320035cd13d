//! Tests of the simulated kernel.

mod adopt;
mod conntrack;
mod effects;
mod lasting;
mod nft;
mod random;
mod reach;
mod refusals;
mod timing;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use ipnet::IpNet;
use netloom_kernel::{Kernel, KernelError, LinkTag, LinkView, Netns, Op, Route};
use netloom_model::{IfName, NetnsName};

use super::SimKernel;
use super::external::External;
use super::world::{HOST, World};

const HOST_NS: Netns = Netns::Host;

fn link(text: &str) -> IfName {
    text.parse().expect("an interface name")
}

fn nsname(text: &str) -> NetnsName {
    text.parse().expect("a namespace name")
}

fn named(text: &str) -> Netns {
    Netns::Named(nsname(text))
}

fn net(text: &str) -> IpNet {
    text.parse().expect("an address with prefix length")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn tag(id: &str) -> LinkTag {
    LinkTag::new("netloom", "endpoint", id)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn netns(name: &str) -> Op {
    Op::CreateNetns { name: nsname(name), ipv6: true }
}

fn adopt(name: &str, source: &str) -> Op {
    Op::AdoptNetns { name: nsname(name), source: source.into() }
}

fn drop_netns(name: &str) -> Op {
    Op::DeleteNetns { name: nsname(name) }
}

fn bridge(name: &str) -> Op {
    Op::CreateBridge { name: link(name), mac: None, mtu: None, tag: tag(name) }
}

fn veth(host: &str, peer: &str, inside: Netns, master: Option<&str>) -> Op {
    Op::CreateVeth {
        host: link(host),
        peer: link(peer),
        netns: inside,
        master: master.map(link),
        mac: None,
        mtu: None,
        tag: tag(host),
    }
}

fn delete(name: &str) -> Op {
    Op::DeleteLink { name: link(name), tag: Some(tag(name)) }
}

fn set(inside: Netns, name: &str, up: bool) -> Op {
    Op::SetLink { netns: inside, name: link(name), up }
}

fn port(name: &str, master: Option<&str>) -> Op {
    Op::SetMaster { name: link(name), master: master.map(link) }
}

fn mtu(inside: Netns, name: &str, mtu: u32) -> Op {
    Op::SetMtu { netns: inside, name: link(name), mtu }
}

fn address(inside: Netns, name: &str, address: &str) -> Op {
    Op::AddAddress { netns: inside, link: link(name), address: net(address) }
}

fn drop_address(inside: Netns, name: &str, address: &str) -> Op {
    Op::DeleteAddress { netns: inside, link: link(name), address: net(address) }
}

fn path(destination: &str, via: Option<&str>, name: &str) -> Route {
    Route { destination: net(destination), via: via.map(ip), link: link(name) }
}

fn route(inside: Netns, destination: &str, via: Option<&str>, name: &str) -> Op {
    Op::AddRoute { netns: inside, route: path(destination, via, name) }
}

fn drop_route(inside: Netns, destination: &str, via: Option<&str>, name: &str) -> Op {
    Op::DeleteRoute { netns: inside, route: path(destination, via, name) }
}

fn sysctl(inside: Netns, key: &str, value: &str) -> Op {
    Op::Sysctl { netns: inside, key: key.into(), value: value.into() }
}

/// Carries out operations that are answered at once.
fn execute(kernel: &SimKernel, ops: Vec<Op>) -> Vec<Result<(), KernelError>> {
    let answers = kernel.execute(ops, later()).now_or_never().expect("answered at once");
    kernel.lock().world.check();
    answers
}

/// Carries out operations of which none may fail.
#[track_caller]
fn does(kernel: &SimKernel, ops: impl IntoIterator<Item = Op>) {
    for answer in execute(kernel, ops.into_iter().collect()) {
        answer.expect("carried out");
    }
}

/// The error number with which an operation is refused; a refused operation changes nothing.
#[track_caller]
fn refuses(kernel: &SimKernel, op: Op) -> i32 {
    let before = kernel.snapshot();
    let text = op.to_string();
    let error = execute(kernel, vec![op]).remove(0).expect_err(&text);
    assert_eq!(error.operation.to_string(), text);
    kernel.assert_pristine(&before);
    error.errno
}

fn now<T>(future: impl Future<Output = Result<T, KernelError>>) -> T {
    future.now_or_never().expect("answered at once").expect("listed")
}

fn links(kernel: &SimKernel, inside: Netns) -> Vec<LinkView> {
    now(kernel.links(inside, later()))
}

fn view(kernel: &SimKernel, inside: Netns, name: &str) -> Option<LinkView> {
    links(kernel, inside).into_iter().find(|view| view.name == link(name))
}

/// The routes of a namespace in words.
fn routes(kernel: &SimKernel, inside: Netns) -> Vec<String> {
    let links = links(kernel, inside);
    let name = |index| links.iter().find(|view| Some(view.index) == index).map(|view| view.name);
    now(kernel.routes(inside, later()))
        .into_iter()
        .map(|route| {
            let link = name(route.link).expect("a route leaves by a link");
            Route { destination: route.destination, via: route.via, link }.to_string()
        })
        .collect()
}

/// The addresses of a link in words.
fn addresses(kernel: &SimKernel, inside: Netns, name: &str) -> Vec<String> {
    let index = view(kernel, inside, name).expect("the link is there").index;
    let all = now(kernel.addresses(inside, later()));
    all.into_iter().filter(|view| view.link == index).map(|view| view.address.to_string()).collect()
}

/// A bridge `br0` with 10.0.0.1/24 and fd00::1/64, and two namespaces on it with a default route each.
fn two_on_a_bridge() -> SimKernel {
    let kernel = SimKernel::builder().host_link("eth0", "192.0.2.10/24").expect("valid").build();
    does(
        &kernel,
        [
            bridge("br0"),
            set(HOST_NS, "br0", true),
            address(HOST_NS, "br0", "10.0.0.1/24"),
            address(HOST_NS, "br0", "fd00::1/64"),
        ],
    );
    for (place, name) in ["a", "b"].into_iter().enumerate() {
        let host = format!("v{name}");
        does(
            &kernel,
            [
                netns(name),
                veth(&host, "eth0", named(name), Some("br0")),
                set(named(name), "eth0", true),
                address(named(name), "eth0", &format!("10.0.0.{}/24", place + 2)),
                address(named(name), "eth0", &format!("fd00::{}/64", place + 2)),
                route(named(name), "0.0.0.0/0", Some("10.0.0.1"), "eth0"),
                route(named(name), "::/0", Some("fd00::1"), "eth0"),
            ],
        );
    }
    kernel
}

impl World {
    /// Asserts that what is kept twice agrees: counters with what they count, references with each other.
    fn check(&self) {
        for (id, link) in self.links.iter() {
            let namespace = &self.namespaces[link.ns];
            assert_eq!(namespace.links.get(&link.name), Some(&id), "a link is found by its name");
            assert!(link.index > 0 && link.index < namespace.next_index);
            let routes = namespace.routes.iter().filter(|route| route.link == id).count();
            assert_eq!(link.routes, routes, "routes of {}", self.full_name(id));
            assert!(link.up || routes == 0, "{} is down and has routes", self.full_name(id));
            if let Some(peer) = link.peer() {
                assert_eq!(self.links[peer].peer(), Some(id), "a pair points at each other");
            }
            if let Some(port) = link.port {
                let bridge = self.links[port.bridge].bridge().expect("a port belongs to a bridge");
                assert_eq!(bridge.ports[port.slot], id, "a port knows its place");
            }
            if let Some(bridge) = link.bridge() {
                let total: usize = bridge.port_mtus.values().sum();
                assert_eq!(bridge.ports.len(), total, "MTUs of the ports of {}", self.full_name(id));
                for port in &bridge.ports {
                    assert!(bridge.port_mtus.contains_key(&self.links[*port].mtu));
                    assert_eq!(self.links[*port].port.map(|port| port.bridge), Some(id));
                }
            }
        }
        for (ns, namespace) in self.namespaces.iter() {
            assert_eq!(namespace.is_host(), ns == HOST, "what nobody uses is gone");
            for name in &namespace.names {
                assert_eq!(self.names.get(name), Some(&ns), "a name leads to its namespace");
            }
            let held = namespace.held.as_ref().map(|path| self.externals.get(path).copied());
            assert!(held.is_none_or(|found| found == Some(External::Netns(ns))), "held where it is found");
            for id in namespace.links.values() {
                assert_eq!(self.links[*id].ns, ns, "a namespace holds its links only");
            }
            for route in &namespace.routes {
                assert_eq!(self.links[route.link].ns, ns, "a route leaves by a link of its namespace");
            }
        }
        for (name, ns) in &self.names {
            assert!(self.namespaces[*ns].names.contains(name), "a namespace is found by its name");
        }
    }
}
