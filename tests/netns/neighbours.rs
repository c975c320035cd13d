//! Neighbours that remember an earlier owner of an address.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netloom::kernel::{Kernel, LinkKind, LinkTag, Netns, Op, execute_all};
use netloom::testkit::probe::EchoSocket;
use netloom::{
    Endpoint, EndpointSpec, Engine, JoinSpec, MacAddr, Network, NetworkSpec, Sandbox, SandboxSpec,
};

use crate::lab::{Lab, delete_everything, in_lab, joined, pings, soon};

const PATIENCE: Duration = Duration::from_secs(10);
/// How soon the new owner of an address is reached by who remembers the old one. Left alone that takes from 15 to 45
/// seconds, and some more to find out.
const AT_ONCE: Duration = Duration::from_secs(1);
const ADDRESSES: [&str; 2] = ["10.77.0.5", "fd77::5"];

fn addresses() -> [IpAddr; 2] {
    ADDRESSES.map(|address| address.parse().expect("an address"))
}

/// A hardware address for each owner.
fn given(number: u8) -> Option<MacAddr> {
    Some(MacAddr([2, 0, 0, 0, 0, number]))
}

/// One owner of addresses after the other.
async fn owner(
    engine: &Engine,
    network: &Network,
    number: u8,
    own: &[IpAddr],
    mac: Option<MacAddr>,
) -> Owner {
    let mut spec = EndpointSpec::new(format!("owner{number}"));
    spec.mac = mac;
    let spec = own.iter().copied().fold(spec, EndpointSpec::address);
    let endpoint = network.create_endpoint(spec).await.expect("the address is free");
    let mac = endpoint.inspect().await.expect("inspected").mac.expect("a hardware address");
    let spec = SandboxSpec::new(format!("owner{number}"));
    let sandbox = engine.controller().create_sandbox(spec).await.expect("a sandbox");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    Owner { endpoint, sandbox, mac }
}

struct Owner {
    endpoint: Endpoint,
    sandbox: Sandbox,
    mac: MacAddr,
}

impl Owner {
    async fn goes(self, engine: &Engine) {
        self.sandbox.delete().await.expect("deleted");
        self.endpoint.delete().await.expect("deleted");
        engine.drain().await.expect("drained");
    }
}

async fn network(engine: &Engine) -> Network {
    let subnets = ["10.77.0.0/24", "fd77::/64"].map(|subnet| subnet.parse().expect("a subnet"));
    let spec = subnets.into_iter().fold(NetworkSpec::new("dual"), NetworkSpec::subnet);
    engine.controller().create_network(spec).await.expect("a network")
}

/// The hardware address that a namespace has for an address.
async fn remembered(lab: &Lab, netns: Netns, address: IpAddr) -> Option<MacAddr> {
    let known = lab.kernel.neighbours(netns, soon()).await.expect("listed");
    known.into_iter().find(|entry| entry.address == Some(address)).and_then(|entry| entry.mac)
}

/// Whether the host reaches an address.
async fn host_pings(to: IpAddr, patience: Duration) -> bool {
    let ping =
        move || EchoSocket::open(to).expect("a socket").ping(7, 1, 32, Instant::now() + patience).is_ok();
    tokio::task::spawn_blocking(ping).await.expect("it ends")
}

#[test]
fn who_remembers_an_earlier_owner_of_an_address_reaches_the_new_one_within_a_second() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = network(&engine).await;
        let (_, peer) = joined(&engine, &network, "peer").await;
        let beside = Netns::Named(peer.netns().unwrap());
        let mut before = None;
        for number in 1..=3 {
            for (address, netns) in addresses().into_iter().flat_map(|to| [(to, beside), (to, Netns::Host)]) {
                assert_eq!(remembered(&lab, netns, address).await, before, "owner {number} of {address}");
            }
            // The last one's follows from the IPv4 address.
            let mac = given(number).filter(|_| number < 3);
            let owner = owner(&engine, &network, number, &addresses(), mac).await;
            assert_ne!(Some(owner.mac), before);
            // Nobody has a wrong idea of the first one, but whoever has to ask for it may have to ask again.
            let soon = if number == 1 { PATIENCE } else { AT_ONCE };
            for address in addresses() {
                assert!(pings(&peer, address, soon).await, "owner {number} of {address}, by a neighbour");
                assert!(host_pings(address, soon).await, "owner {number} of {address}, by the host");
            }
            before = Some(owner.mac);
            owner.goes(&engine).await;
        }
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// Nobody is announced here, because nobody is remembered under another hardware address.
#[test]
fn one_after_the_other_with_the_same_hardware_address_is_reached_at_once() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("single").subnet("10.77.0.0/24".parse().expect("a subnet"));
        let network = engine.controller().create_network(spec).await.expect("a network");
        let (_, peer) = joined(&engine, &network, "peer").await;
        let beside = Netns::Named(peer.netns().unwrap());
        let [address, _] = addresses();
        let mut before = None;
        for number in 1..=3 {
            for netns in [beside, Netns::Host] {
                assert_eq!(remembered(&lab, netns, address).await, before, "owner {number}");
            }
            let owner = owner(&engine, &network, number, &[address], None).await;
            let netns = Netns::Named(owner.sandbox.netns().unwrap());
            let notify = lab.kernel.read_setting(netns, "ipv4/conf/eth0/arp_notify", soon()).await;
            assert_eq!(notify.expect("read"), "0", "owner {number} is not announced");
            let soon = if number == 1 { PATIENCE } else { AT_ONCE };
            assert!(pings(&peer, address, soon).await, "owner {number}, by a neighbour");
            assert!(host_pings(address, soon).await, "owner {number}, by the host");
            before = Some(owner.mac);
            owner.goes(&engine).await;
        }
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// The counterpart: the next owner has the same that a join gives it, except for the announcement, which comes later.
#[test]
fn who_is_not_told_goes_on_sending_to_the_earlier_owner() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = network(&engine).await;
        let (_, peer) = joined(&engine, &network, "peer").await;
        let first = owner(&engine, &network, 1, &addresses(), given(1)).await;
        for address in addresses() {
            assert!(pings(&peer, address, PATIENCE).await);
        }
        first.goes(&engine).await;

        let links = lab.kernel.links(Netns::Host, soon()).await.unwrap();
        let bridge = links.into_iter().find(|link| link.kind == LinkKind::Bridge).expect("the network's");
        let (name, link) = ("mute".parse().unwrap(), "eth0".parse().unwrap());
        let netns = Netns::Named(name);
        let address = |own: &str| Op::AddAddress { netns, link, address: own.parse().unwrap() };
        let silent = vec![
            Op::CreateNetns { name, ipv6: true },
            Op::CreateVeth {
                host: "mute".parse().unwrap(),
                peer: link,
                netns,
                master: Some(bridge.name),
                mac: Some(MacAddr([2, 0, 0, 0, 0, 2])),
                mtu: None,
                tag: LinkTag::new("somebody", "else", "mute"),
            },
            Op::SetLink { netns, name: link, up: true },
            address("10.77.0.5/24"),
            address("fd77::5/64"),
        ];
        execute_all(&lab.kernel, silent, soon()).await.expect("it is there");
        for address in addresses() {
            assert!(!pings(&peer, address, AT_ONCE).await, "{address}: who told it?");
        }
        let on = |key: &str| Op::Sysctl { netns, key: key.into(), value: "1".into() };
        let told = vec![
            on("ipv4/conf/eth0/arp_notify"),
            on("ipv6/conf/eth0/ndisc_notify"),
            Op::Announce { netns, link },
        ];
        execute_all(&lab.kernel, told, soon()).await.expect("told");
        for address in addresses() {
            assert!(pings(&peer, address, AT_ONCE).await, "{address}");
        }
        let gone =
            vec![Op::DeleteLink { name: "mute".parse().unwrap(), tag: None }, Op::DeleteNetns { name }];
        execute_all(&lab.kernel, gone, soon()).await.expect("gone");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
