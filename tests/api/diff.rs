//! Differences between what the kernel has and what it should have.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use netloom::drivers::{DesiredObject, KernelObject, done};
use netloom::kernel::{LinkKind, Neighbour, Netns, Op, PortFlag, Route};
use netloom::testkit::Latency;
use netloom::{
    EndpointSpec, EngineConfig, IfName, JoinSpec, MacAddr, NetworkSpec, ObjectKind, SandboxSpec, What,
};

use crate::scripted::{Scripted, scripted_network};
use crate::support::{World, bounded, until};

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

async fn told(world: &World) -> Vec<String> {
    let differences = bounded("comparing", world.engine().diff()).await.expect("compared");
    differences.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_somebody_changes_behind_the_engines_back_is_named_and_nothing_else() {
    let world = World::new().await;
    let kernel = world.kernel().clone();
    let spec = NetworkSpec::new("blue")
        .subnet("10.1.0.0/24".parse().unwrap())
        .subnet("fd01::/64".parse().unwrap())
        .option("com.docker.network.bridge.name", "blue0")
        .option("com.docker.network.driver.mtu", "1400");
    let blue = world.engine().controller().create_network(spec).await.unwrap();
    let (web, sandbox) = world.joined(&blue, "web").await;
    assert_eq!(told(&world).await, Vec::<String>::new());

    let netns = Netns::Named(sandbox.netns().unwrap());
    let (eth0, host) = (name("eth0"), Netns::Host);
    let links = netloom::kernel::Kernel::links(&kernel, host, std::time::Instant::now()).await.unwrap();
    let port = links.iter().find(|link| link.name.as_str().starts_with("veth")).unwrap().name;
    let mine = format!("endpoint \"web\" ({})", web.id().short());
    let of_network = format!("network \"blue\" ({})", blue.id().short());
    let of_sandbox = format!("sandbox \"blue-web\" ({})", sandbox.id().short());
    let address = "10.1.0.2/24".parse().unwrap();
    let route =
        Route { destination: "0.0.0.0/0".parse().unwrap(), via: Some([10, 1, 0, 1].into()), link: eth0 };
    let default = Op::AddRoute { netns, route };
    let no_way_out = format!("route {route} of {netns} is missing, which {of_sandbox} needs");
    let set = |netns, name, up| Op::SetLink { netns, name, up };
    let add = |netns, link, address| Op::AddAddress { netns, link, address };
    let strange = "10.1.0.99/24".parse().unwrap();
    let own6 = "fd01::2/64".parse().unwrap();
    let default6 =
        Route { destination: "::/0".parse().unwrap(), via: Some("fd01::1".parse().unwrap()), link: eth0 };
    let way6 = Op::AddRoute { netns, route: default6 };
    let no_way6 = format!("route {default6} of {netns} is missing, which {of_sandbox} needs");
    // What is done, what is told, and what makes it right again.
    let cases: Vec<(Op, Vec<String>, Vec<Op>)> = vec![
        (
            Op::DeleteAddress { netns, link: eth0, address },
            // The kernel takes the route along whose next hop cannot be reached any more.
            vec![
                format!("address {address} of link eth0 of {netns} is missing, which {mine} needs"),
                no_way_out.clone(),
            ],
            vec![add(netns, eth0, address), default.clone()],
        ),
        (Op::DeleteRoute { netns, route }, vec![no_way_out.clone()], vec![default.clone()]),
        (
            set(netns, eth0, false),
            vec![
                format!("link eth0 of {netns} is down, and should be up for {mine}"),
                format!("address {own6} of link eth0 of {netns} is missing, which {mine} needs"),
                no_way_out.clone(),
                no_way6.clone(),
            ],
            vec![set(netns, eth0, true), add(netns, eth0, own6), default.clone(), way6.clone()],
        ),
        (
            set(host, port, false),
            vec![format!("link {port} of the host is down, and should be up for {mine}")],
            vec![set(host, port, true)],
        ),
        (
            Op::SetMaster { name: port, master: None },
            vec![format!(
                "link {port} of the host is no port of a bridge, and should be a port of blue0 for {mine}"
            )],
            vec![Op::SetMaster { name: port, master: Some(name("blue0")) }],
        ),
        (
            Op::SetMtu { netns, name: eth0, mtu: 1300 },
            vec![format!("link eth0 of {netns} is of MTU 1300, and should be of MTU 1400 for {mine}")],
            vec![Op::SetMtu { netns, name: eth0, mtu: 1400 }],
        ),
        (
            add(netns, eth0, strange),
            vec![format!(
                "address {strange} of link eth0 of {netns} should not be there; it belongs to {mine}"
            )],
            vec![Op::DeleteAddress { netns, link: eth0, address: strange }],
        ),
        (
            Op::DeleteAddress { netns: host, link: name("blue0"), address: "10.1.0.1/24".parse().unwrap() },
            vec![format!(
                "address 10.1.0.1/24 of link blue0 of the host is missing, which {of_network} needs"
            )],
            vec![add(host, name("blue0"), "10.1.0.1/24".parse().unwrap())],
        ),
    ];
    for (damage, expected, repair) in cases {
        kernel.foreign_op(&damage).unwrap();
        let mut found = told(&world).await;
        let mut expected = expected;
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "after: {damage}");
        for op in repair {
            kernel.foreign_op(&op).unwrap();
        }
        assert_eq!(told(&world).await, Vec::<String>::new(), "after {damage} was taken back");
    }
    let before = kernel.snapshot();
    told(&world).await;
    kernel.assert_pristine(&before);

    kernel.vanish_netns(sandbox.netns().unwrap()).unwrap();
    let found = told(&world).await;
    let gone = [
        format!("{netns} is missing, which {of_sandbox} needs"),
        format!("link {port} of the host is missing, which {mine} needs"),
    ];
    assert_eq!(found, gone, "of what was in it nothing is told");
}

/// A driver of the embedder's own says what it wants, and its wishes are compared like all others.
#[tokio::test]
async fn a_custom_driver_takes_part() {
    let wanted = KernelObject::Neighbour {
        netns: Netns::Host,
        link: name("lan0"),
        neighbour: Neighbour::Address { address: [192, 0, 2, 9].into(), mac: MacAddr([2, 0, 0, 0, 0, 9]) },
    };
    let lan0 = KernelObject::Link { netns: Netns::Host, name: name("lan0") };
    let mut driver = Scripted::new(|_| done(()));
    driver.desired = vec![DesiredObject::of_network(wanted), DesiredObject::of_network(lan0)];
    let world = driver.world(EngineConfig::default()).await;
    let network = scripted_network(&world, "own").await;
    let kernel = world.kernel();
    let found = world.engine().diff().await.unwrap();
    assert!(found.len() == 1 && found[0].object == lan0 && found[0].what == What::Missing, "{found:?}");
    assert_eq!((found[0].owner.object, &*found[0].owner.id), (ObjectKind::Network, &*network.id().text()));
    kernel.foreign_link(Netns::Host, name("lan0"), LinkKind::Bridge, None).unwrap();
    kernel.foreign_op(&Op::SetLink { netns: Netns::Host, name: name("lan0"), up: true }).unwrap();
    assert!(world.engine().diff().await.unwrap()[0].object == wanted);
    let KernelObject::Neighbour { netns, link, neighbour } = wanted else { unreachable!() };
    kernel.foreign_op(&Op::AddNeighbour { netns, link, neighbour }).unwrap();
    assert_eq!(world.engine().diff().await.unwrap(), []);
}

/// Whoever looks while others come and go sees nothing that is only on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_of_what_is_under_way() {
    let world = World::new().await;
    world.kernel().set_latency(Latency::all(Duration::from_micros(200)));
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let over = Arc::new(AtomicBool::new(false));
    let lives = join_all((0..8).map(|caller| {
        let (blue, red, controller) = (blue.clone(), red.clone(), world.engine().controller());
        tokio::spawn(async move {
            for n in 0..25 {
                let id = format!("{caller}-{n}");
                let sandbox = controller.create_sandbox(SandboxSpec::new(&id)).await.unwrap();
                let one = blue.create_endpoint(EndpointSpec::new(&id)).await.unwrap();
                let two = red.create_endpoint(EndpointSpec::new(&id)).await.unwrap();
                one.join(&sandbox, JoinSpec::default()).await.unwrap();
                two.join(&sandbox, JoinSpec::priority(1)).await.unwrap();
                two.leave(&sandbox).await.unwrap();
                one.delete_with_force().await.unwrap();
                sandbox.delete().await.unwrap();
                two.delete().await.unwrap();
            }
        })
    }));
    let looks = async {
        let mut looks = 0;
        while !over.load(Ordering::SeqCst) {
            assert_eq!(told(&world).await, Vec::<String>::new(), "look {looks}");
            looks += 1;
        }
        looks
    };
    let ends = async {
        for life in lives.await {
            life.unwrap();
        }
        over.store(true, Ordering::SeqCst);
    };
    let (looks, ()) = tokio::join!(looks, ends);
    assert!(looks > 10, "only {looks} looks");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What is out of service is not compared, and keeps nobody else from it.
#[tokio::test]
async fn the_rest_is_compared_when_a_network_is_out_of_service() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    world.joined(&blue, "web").await;
    let (_, other) = world.joined(&red, "web").await;
    for _ in 0..4 {
        world.simulation.crash_actor(netloom::Victim::Network(blue.id())).await.unwrap();
        until("it is back", async || blue.inspect().await.is_ok()).await;
    }
    until("it is given up", async || blue.inspect().await.is_ok_and(|picture| picture.failure.is_some()))
        .await;
    assert_eq!(told(&world).await, Vec::<String>::new(), "its links are known all the same");
    let netns = Netns::Named(other.netns().unwrap());
    world.kernel().foreign_op(&Op::SetLink { netns, name: name("eth0"), up: false }).unwrap();
    assert!(told(&world).await[0].starts_with(&format!("link eth0 of {netns} is down")));
}

/// Who may reach whom on a bridge is a matter of its ports: one that is not isolated any more is told of, and isolated
/// again by the next start; one that is isolated and should not be is told of too.
#[tokio::test]
async fn the_isolation_of_ports_is_compared_and_put_back() {
    let mut world = World::new().await;
    for (n, icc) in [true, false].into_iter().enumerate() {
        let spec = NetworkSpec::new(format!("n{n}"))
            .option("com.docker.network.bridge.name", format!("bridge{n}"))
            .option("com.docker.network.bridge.enable_icc", icc.to_string());
        let network = world.engine().controller().create_network(spec).await.unwrap();
        world.joined(&network, "one").await;
    }
    assert_eq!(told(&world).await, Vec::<String>::new());
    let kernel = world.kernel().clone();
    let links =
        netloom::kernel::Kernel::links(&kernel, Netns::Host, std::time::Instant::now()).await.unwrap();
    let port_of = |bridge: &str| {
        let bridge = links.iter().find(|link| link.name.as_str() == bridge).unwrap().index;
        links.iter().find(|link| link.master == Some(bridge)).unwrap().name
    };
    let (open, closed) = (port_of("bridge0"), port_of("bridge1"));
    // Who leaves a bridge and comes back is not isolated.
    for master in [None, Some(name("bridge1"))] {
        kernel.foreign_op(&Op::SetMaster { name: closed, master }).unwrap();
    }
    kernel.foreign_op(&Op::SetPortFlag { name: open, flag: PortFlag::Isolated }).unwrap();
    let found = told(&world).await;
    assert_eq!(found.len(), 2, "{found:?}");
    let of = |port: IfName, text: &str| {
        let start = format!("link {port} of the host is {text} for endpoint");
        assert!(found.iter().any(|line| line.starts_with(&start)), "{start} in {found:?}");
    };
    of(closed, "not isolated, and should be isolated");
    of(open, "isolated, and should be not isolated");

    world = world.kill_and_restart().await;
    let remade = format!("isolation of port {closed} of bridge bridge1");
    let told_of = |repair: &netloom::Repair| matches!(repair, netloom::Repair::KernelObjectRemade { object } if *object == remade);
    assert!(world.engine().repairs().iter().any(told_of), "{:?}", world.engine().repairs());
    let found = told(&world).await;
    assert!(found.len() == 1 && found[0].starts_with(&format!("link {open} ")), "{found:?}");
    world.delete_everything().await;
    world.assert_pristine().await;
}
