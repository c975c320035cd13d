//! Packets: who reaches whom, and who does not any more.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use netloom::kernel::{Kernel, Neighbour, Netns, Op};
use netloom::testkit::probe::{Connector, EchoSocket, Listener, transfer};
use netloom::{EndpointSpec, JoinSpec, NetworkSpec, SandboxKey, SandboxSpec};

use crate::churn::lifecycle;
use crate::container::Container;
use crate::lab::{address, delete_everything, in_lab, joined, pings, soon};

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an answer that would come, on a slow machine.
const SILENCE: Duration = Duration::from_millis(300);
/// How many join at once.
const JOINERS: usize = 48;

#[test]
fn endpoints_of_a_network_reach_each_other_in_both_families() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("dual")
            .subnet("10.77.0.0/24".parse().unwrap())
            .subnet("fd77::/64".parse().unwrap());
        let network = engine.controller().create_network(spec).await.unwrap();
        let (one, first) = joined(&engine, &network, "one").await;
        let (two, second) = joined(&engine, &network, "two").await;
        let (a, b) = (address(&one).await, address(&two).await);
        assert!(pings(&first, b, PATIENCE).await && pings(&second, a, PATIENCE).await);
        let v6 = two.inspect().await.unwrap().ipv6.unwrap().addr().into();
        assert!(pings(&first, v6, PATIENCE).await, "over IPv6");
        let gateway = first.inspect().await.unwrap().gateway.unwrap();
        assert!(pings(&first, gateway, PATIENCE).await, "the bridge answers under the gateway's address");

        let listener = second.run(move || Listener::open((b, 0).into())).await.unwrap().unwrap();
        let connector = first.run(move || Connector::open(b)).await.unwrap().unwrap();
        let sent = tokio::task::spawn_blocking(move || {
            let target = listener.address();
            transfer(&listener, connector, target, 8 << 20, 42, Instant::now() + PATIENCE)
        });
        assert_eq!(sent.await.unwrap().expect("the stream is intact").bytes, 8 << 20);
        let eth0 = "eth0".parse().unwrap();
        let (sender, receiver) = (first.statistics().await.unwrap(), second.statistics().await.unwrap());
        assert_eq!((sender.len(), receiver.len()), (1, 1), "the loopback is no interface of an endpoint");
        assert!(sender[&eth0].tx_bytes > 8 << 20 && sender[&eth0].tx_packets > 0, "{sender:?}");
        assert!(receiver[&eth0].rx_bytes > 8 << 20 && receiver[&eth0].rx_packets > 0, "{receiver:?}");
        assert!(two.statistics().await.unwrap().rx_bytes >= receiver[&eth0].rx_bytes);
        assert!(sender[&eth0].rx_bytes < 8 << 20, "its own direction is told apart: {sender:?}");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// An interface that could have a link-local address only would ask for routers and tell of groups for as long as it is
/// there, and the port of each of its neighbours would have to carry that.
#[test]
fn a_container_has_ipv6_where_its_network_has_it_and_ports_have_no_address_of_their_own() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let v4 = engine.controller().create_network(NetworkSpec::new("v4")).await.unwrap();
        let dual = NetworkSpec::new("dual")
            .subnet("10.77.0.0/24".parse().unwrap())
            .subnet("fd77::/64".parse().unwrap());
        let dual = engine.controller().create_network(dual).await.unwrap();
        let (endpoint, sandbox) = joined(&engine, &v4, "c").await;
        let netns = Netns::Named(sandbox.netns().unwrap());
        let of = async |netns, link: &str| {
            let link = link.parse().unwrap();
            let found = lab.kernel.find_links(netns, vec![link], soon()).await.unwrap().remove(0).unwrap();
            let all = lab.kernel.addresses(netns, soon()).await.unwrap();
            let on = all.iter().filter(|view| view.link == found.index);
            on.map(|view| view.address.addr()).collect::<Vec<IpAddr>>()
        };
        assert_eq!(of(netns, "eth0").await, [address(&endpoint).await], "no link-local address either");
        let lo = of(netns, "lo").await;
        assert!(lo.contains(&Ipv6Addr::LOCALHOST.into()), "what it says to itself has IPv6: {lo:?}");
        let second = dual.create_endpoint(EndpointSpec::new("second")).await.unwrap();
        second.join(&sandbox, JoinSpec::default()).await.unwrap();
        let (eth1, own) = (of(netns, "eth1").await, second.inspect().await.unwrap());
        let v6 = own.ipv6.unwrap().addr();
        assert!(eth1.contains(&v6.into()) && eth1.len() == 3, "IPv4, IPv6, link-local: {eth1:?}");
        assert_eq!(of(netns, "eth0").await.len(), 1, "that is no other interface's affair");
        for port in lab.kernel.links(Netns::Host, soon()).await.unwrap() {
            let Some(_) = port.master else { continue };
            let addresses = of(Netns::Host, port.name.as_str()).await;
            assert_eq!(addresses, [] as [IpAddr; 0], "port {} has addresses", port.name);
        }
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// Links below 1,280 bytes have no IPv6, and refuse whatever is about it.
#[test]
fn links_that_are_too_small_for_ipv6_carry_ipv4() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("small").option("com.docker.network.driver.mtu", "1000");
        let network = engine.controller().create_network(spec).await.unwrap();
        let (_one, first) = joined(&engine, &network, "one").await;
        let container = Container::start();
        let spec = SandboxSpec::new("two").external_key();
        let second = engine.controller().create_sandbox(spec).await.unwrap();
        let two = network.create_endpoint(EndpointSpec::new("two")).await.unwrap();
        two.join(&second, JoinSpec::default()).await.unwrap();
        second.set_key(SandboxKey::Path(container.netns())).await.unwrap();
        assert!(pings(&first, address(&two).await, PATIENCE).await);
        delete_everything(&engine).await;
    });
}

/// Many join at once while others come and go. Each newcomer gets one echo request, sent as soon as its join
/// has answered, to a hardware address that is known already: what is lost then nobody sends again.
#[test]
fn the_first_packet_after_a_join_arrives() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let (hub, hub_sandbox) = joined(&engine, &network, "hub").await;
        let mut ready = Vec::new();
        for n in 0..JOINERS {
            let endpoint = network.create_endpoint(EndpointSpec::new(format!("j{n}"))).await.unwrap();
            let snapshot = endpoint.inspect().await.unwrap();
            let (to, mac) = (address(&endpoint).await, snapshot.mac.unwrap());
            let sandbox =
                engine.controller().create_sandbox(SandboxSpec::new(format!("j{n}"))).await.unwrap();
            let known = Op::AddNeighbour {
                netns: Netns::Named(hub_sandbox.netns().unwrap()),
                link: "eth0".parse().unwrap(),
                neighbour: Neighbour::Address { address: to, mac },
            };
            lab.kernel.execute(vec![known], soon()).await.remove(0).unwrap();
            let socket = hub_sandbox.run(move || EchoSocket::open(to)).await.unwrap().unwrap();
            ready.push((endpoint, sandbox, socket));
        }
        let others = (0..JOINERS).map(|n| lifecycle(&engine, &network, n));
        let joins = ready.into_iter().map(|(endpoint, sandbox, socket)| async move {
            endpoint.join(&sandbox, JoinSpec::default()).await.unwrap();
            let ping = move || socket.ping(7, 1, 32, Instant::now() + PATIENCE);
            tokio::task::spawn_blocking(ping).await.unwrap().err()
        });
        let (others, answers) = futures::join!(join_all(others), join_all(joins));
        for outcome in others {
            outcome.expect("a lifecycle");
        }
        let lost = answers.iter().flatten().count();
        assert_eq!(lost, 0, "lost of {JOINERS} first packets: {answers:?}");
        drop(hub);
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn who_has_left_is_not_reached_when_leave_answers() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let (_, first) = joined(&engine, &network, "one").await;
        let (two, second) = joined(&engine, &network, "two").await;
        let to = address(&two).await;
        assert!(pings(&first, to, PATIENCE).await);
        two.leave(&second).await.unwrap();
        assert!(!pings(&first, to, SILENCE).await, "it still answers after leave");
        two.join(&second, JoinSpec::default()).await.expect("it may come back");
        assert!(pings(&first, to, PATIENCE).await, "and is reached again, with a warm ARP cache");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn networks_keep_their_sandboxes_gateways_and_names_apart() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let controller = engine.controller();
        let blue = controller.create_network(NetworkSpec::new("blue")).await.unwrap();
        let closed = controller.create_network(NetworkSpec::new("closed").internal(true)).await.unwrap();
        let (_, sandbox) = joined(&engine, &closed, "one").await;
        assert_eq!(sandbox.inspect().await.unwrap().gateway, None, "an internal network has no way out");
        let second = blue.create_endpoint(EndpointSpec::new("one")).await.unwrap();
        let place = second.join(&sandbox, JoinSpec::default()).await.unwrap();
        assert_eq!(place.ifname.as_str(), "eth1");
        let gateway = sandbox.inspect().await.unwrap().gateway.expect("blue has one");
        assert!(pings(&sandbox, gateway, PATIENCE).await);
        second.leave(&sandbox).await.unwrap();
        assert_eq!(sandbox.inspect().await.unwrap().gateway, None);
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn the_mtu_and_the_mac_arrive_inside() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("small").option("com.docker.network.driver.mtu", "1400");
        let network = engine.controller().create_network(spec).await.unwrap();
        let mac = "02:00:00:00:00:07".parse().unwrap();
        let endpoint = network.create_endpoint(EndpointSpec::new("e").mac(mac)).await.unwrap();
        let (_, other) = joined(&engine, &network, "other").await;
        endpoint.join(&other, JoinSpec::default()).await.unwrap();
        let inside = Netns::Named(other.netns().unwrap());
        let links = lab.kernel.links(inside, soon()).await.unwrap();
        let link = links.iter().find(|link| link.name.as_str() == "eth1").expect("it is there");
        assert_eq!((link.mac, link.mtu, link.up), (Some(mac), 1400, true));
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn a_bridge_takes_1023_ports_and_says_so() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("full").option("com.docker.network.bridge.name", "full0");
        let network = engine.controller().create_network(spec).await.unwrap();
        // Somebody else's ports count too: only the kernel knows them.
        lab.foreign_ports("full0", 1023).await;
        let sandbox = engine.controller().create_sandbox(SandboxSpec::new("c")).await.unwrap();
        let endpoint = network.create_endpoint(EndpointSpec::new("e")).await.unwrap();
        let error = endpoint.join(&sandbox, JoinSpec::default()).await.expect_err("the bridge is full");
        assert_eq!(error.kind(), netloom::ErrorKind::Exhausted, "{error}");
        assert!(error.to_string().contains("full0") && error.to_string().contains("1023"), "{error}");
        assert!(endpoint.inspect().await.unwrap().sandbox.is_none());
        delete_everything(&engine).await;
    });
}
