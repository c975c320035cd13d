//! What the host uses: default pools keep away from it.

use std::time::Duration;

use netloom::kernel::{Kernel, LinkTag, Netns, Op, Route};
use netloom::{Engine, EngineConfig, EventKind, EventStream, NetworkSpec, ShutdownMode};

use crate::lab::{delete_everything, in_lab, joined, soon};

#[test]
fn a_default_pool_keeps_away_from_the_name_servers_of_the_host() {
    in_lab(async |lab| {
        let file = lab.dir.path().join("resolv.conf");
        std::fs::write(&file, "search example.net\nnameserver 172.17.3.53\n").unwrap();
        let config = EngineConfig {
            data_dir: lab.data_dir(),
            run_dir: lab.run_dir(),
            name_server_files: vec![file.clone()],
            ..EngineConfig::default()
        };
        let engine = Engine::builder().config(config).start().await.unwrap();
        let pool = async |name: &str| {
            let network = engine.controller().create_network(NetworkSpec::new(name)).await.unwrap();
            network.inspect().await.unwrap().v4[0].pool.to_string()
        };
        assert_eq!(pool("blue").await, "172.18.0.0/16");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(pool("red").await, "172.17.0.0/16", "it is nowhere named any more");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// RFC 4193: what is drawn for a host stays with it.
#[test]
fn the_ipv6_prefix_of_a_host_outlives_every_directory() {
    in_lab(async |mut lab| {
        let machine = lab.dir.path().join("machine-id");
        let config = || EngineConfig {
            data_dir: lab.data_dir(),
            run_dir: lab.run_dir(),
            machine_id_file: machine.clone(),
            ..EngineConfig::default()
        };
        // A life of an engine: the pool that its first IPv6 network gets.
        let pool = async || {
            let engine = Engine::builder().config(config()).start().await.unwrap();
            let network =
                engine.controller().create_network(NetworkSpec::new("blue").ipv6(true)).await.unwrap();
            let pool = network.inspect().await.unwrap().v6[0].pool.to_string();
            delete_everything(&engine).await;
            engine.shutdown(ShutdownMode::Graceful).await.unwrap();
            pool
        };
        std::fs::write(&machine, "0123456789abcdef0123456789abcdef\n").unwrap();
        let first = pool().await;
        assert_eq!(first, "fdb7:61c0:e83b::/64");
        assert_eq!(pool().await, first, "after a restart");
        std::fs::remove_dir_all(lab.data_dir()).unwrap();
        std::fs::remove_file(lab.run_dir().join("engine-id")).unwrap();
        assert_eq!(pool().await, first, "whatever is lost");
        std::fs::write(&machine, "0123456789abcdef0123456789abcdee\n").unwrap();
        assert_eq!(pool().await, "fdbc:277c:2d10::/64", "another host");
        // A host that nothing tells from others: the engine's identity does, which is kept twice.
        std::fs::write(&machine, "uninitialized\n").unwrap();
        let own = pool().await;
        assert!(own.starts_with("fd") && own.ends_with("::/64") && own != first, "{own}");
        std::fs::remove_file(&machine).unwrap();
        std::fs::remove_dir_all(lab.data_dir()).unwrap();
        assert_eq!(pool().await, own, "as long as one of them is there");
        lab.look_anew();
        lab.assert_pristine().await;
    });
}

/// What the next event about an overlap says.
async fn told(events: &mut EventStream) -> String {
    let next = async {
        loop {
            match events.next().await.expect("the engine runs").expect("nothing is missed").kind {
                EventKind::PoolOverlapsHost { pool, other, what, .. } => {
                    return format!("+ {pool} {other} {what}");
                }
                EventKind::PoolOverlapEnded { pool, other, .. } => return format!("- {pool} {other}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), next).await.expect("it is told")
}

/// A VPN comes up, with routes through it, and goes in two ways.
#[test]
fn what_the_host_learns_later_is_told_where_it_overlaps_a_pool() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let six = NetworkSpec::new("blue").ipv6(true).subnet("fd88::/64".parse().unwrap());
        let network = engine.controller().create_network(six).await.unwrap();
        joined(&engine, &network, "web").await;
        let mut events = engine.events();
        let name = |text: &str| text.parse().unwrap();
        let tunnel = Op::CreateVeth {
            host: name("tun0"),
            peer: name("tun1"),
            netns: Netns::Host,
            master: None,
            mac: None,
            mtu: None,
            tag: LinkTag::new("somebody", "else", 1.to_string()),
        };
        let run = async |ops: Vec<Op>| {
            for op in ops {
                let text = op.to_string();
                let done = lab.kernel.execute(vec![op], soon()).await.remove(0);
                done.unwrap_or_else(|error| panic!("{text}: {error}"));
            }
        };
        let up = |link: &str, up| Op::SetLink { netns: Netns::Host, name: name(link), up };
        let way = |to: &str| Route { destination: to.parse().unwrap(), via: None, link: name("tun0") };
        let route = |to: &str| Op::AddRoute { netns: Netns::Host, route: way(to) };
        let address = "10.8.0.2/24".parse().unwrap();
        let address = Op::AddAddress { netns: Netns::Host, link: name("tun0"), address };
        run(vec![tunnel, up("tun0", true), up("tun1", true), address]).await;
        run(["0.0.0.0/1", "128.0.0.0/1", "::/1", "172.17.128.0/17"].map(route).into()).await;
        assert_eq!(told(&mut events).await, "+ 172.17.0.0/16 172.17.128.0/17 a route");
        run(vec![route("fd88::/65")]).await;
        assert_eq!(told(&mut events).await, "+ fd88::/64 fd88::/65 a route");
        // Another network with its bridge, and another container, are no news.
        let second = engine.controller().create_network(NetworkSpec::new("red")).await.unwrap();
        joined(&engine, &second, "web").await;
        run(vec![Op::DeleteRoute { netns: Netns::Host, route: way("172.17.128.0/17") }]).await;
        assert_eq!(told(&mut events).await, "- 172.17.0.0/16 172.17.128.0/17");
        run(vec![route("172.17.64.0/18")]).await;
        assert_eq!(told(&mut events).await, "+ 172.17.0.0/16 172.17.64.0/18 a route");
        assert_eq!(engine.inspect().await.unwrap().overlaps.len(), 2);
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        drop(engine);
        let engine = lab.next_engine().await;
        assert_eq!(engine.inspect().await.unwrap().overlaps.len(), 2, "known by the time the start answers");
        let mut events = engine.events();
        // With its link the kernel takes the IPv4 route in silence.
        run(vec![up("tun0", false)]).await;
        let mut over = [told(&mut events).await, told(&mut events).await];
        over.sort();
        assert_eq!(over, ["- 172.17.0.0/16 172.17.64.0/18", "- fd88::/64 fd88::/65"]);
        assert_eq!(engine.inspect().await.unwrap().overlaps, []);
        run(vec![Op::DeleteLink { name: name("tun0"), tag: None }]).await;
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// A VPN with a table of its own, as WireGuard's and others have: its routes count, and say in which table they are.
#[test]
fn routes_of_other_tables_overlap_pools_too() {
    in_lab(async |lab| {
        let ip = |line: &str| {
            let status = std::process::Command::new("ip").args(line.split(' ')).status();
            assert!(status.expect("iproute2 is installed").success(), "ip {line}");
        };
        let engine = lab.engine().await;
        ip("link add tun0 type veth peer name tun1");
        ip("link set tun1 up");
        ip("address add 10.8.0.2/24 dev tun0");
        ip("link set tun0 up");
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        joined(&engine, &network, "web").await;
        let mut events = engine.events();
        ip("rule add to 172.17.0.0/16 lookup 100");
        ip("route add default dev tun0 table 100");
        ip("route add 172.17.128.0/17 dev tun0 table 100");
        assert_eq!(told(&mut events).await, "+ 172.17.0.0/16 172.17.128.0/17 a route of table 100");
        ip("route add 172.17.64.0/18 dev tun0 table 51820");
        assert_eq!(told(&mut events).await, "+ 172.17.0.0/16 172.17.64.0/18 a route of table 51820");
        // The same in two tables is one overlap.
        ip("route add 172.17.64.0/18 dev tun0 table 100");
        ip("route del 172.17.128.0/17 dev tun0 table 100");
        assert_eq!(told(&mut events).await, "- 172.17.0.0/16 172.17.128.0/17");
        ip("route del 172.17.64.0/18 dev tun0 table 51820");
        ip("route add 172.18.0.0/24 dev tun0 table 100");
        // A new network keeps off, and who asks for the subnet is told why not.
        let second = engine.controller().create_network(NetworkSpec::new("red")).await.unwrap();
        assert_eq!(second.inspect().await.unwrap().v4[0].pool.to_string(), "172.19.0.0/16");
        let given = NetworkSpec::new("given").subnet("172.18.0.0/16".parse().unwrap());
        let refused = engine.controller().create_network(given).await.unwrap_err().to_string();
        assert!(refused.contains("172.18.0.0/24, a route of table 100 of the host"), "{refused}");
        assert_eq!(engine.inspect().await.unwrap().overlaps.len(), 1);
        ip("link del tun0");
        ip("rule del to 172.17.0.0/16 lookup 100");
        assert_eq!(told(&mut events).await, "- 172.17.0.0/16 172.17.64.0/18");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
