//! Who has which address: as it is shown, when there are very many networks, when there is none left, and after crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use ipnet::IpNet;
use netloom::drivers::{Joined, done};
use netloom::kernel::{Kernel, LinkKind, Netns, Op};
use netloom::snapshot::{DefaultPoolSnapshot, IpamSnapshot};
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{
    DefaultPool, EndpointSpec, Engine, EngineConfig, ErrorKind, JoinSpec, LiveSandbox, Network, NetworkSpec,
    SandboxSpec,
};

use crate::mortal::{Death, Disk, Mortal};
use crate::scripted::Scripted;
use crate::support::{PATIENCE, World, bounded, delete_everything, note, until};

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

async fn ipam(engine: &Engine) -> IpamSnapshot {
    let all = bounded("inspecting", engine.controller().ipam()).await.expect("inspected");
    all.into_iter().find(|ipam| ipam.driver == "default").expect("it is there")
}

/// The holders of a network's addresses, without identifiers.
async fn holders(network: &Network) -> Vec<String> {
    let found = bounded("listing", network.holders(1_000)).await.expect("listed");
    assert_eq!(found.more, 0);
    let line = |held: &netloom::snapshot::AddressHolder| {
        format!("{} {}", held.address, held.holder.split(" (").next().expect("text"))
    };
    found.holders.iter().map(line).collect()
}

// === Pools of one or two addresses ===

/// The only address of a pool is an endpoint's, also after a restart. Of two, one is the gateway's.
#[tokio::test]
async fn pools_of_one_and_two_addresses_are_used_in_full() {
    let mut scripted = Scripted::new(|_| done(()));
    scripted.joined = Joined::default();
    let world = scripted.world(EngineConfig::default()).await;
    let controller = world.engine().controller();
    let (four, six) = (net("10.0.3.7/32"), net("fd03::7/128"));
    let one = NetworkSpec::new("one").driver(Scripted::KIND).subnet(four).subnet(six);
    let one = controller.create_network(one).await.expect("made");
    let picture = one.inspect().await.expect("inspected");
    assert_eq!((picture.v4[0].gateway, picture.v6[0].gateway), (None, None));
    let (web, _) = world.joined(&one, "web").await;
    let of_web = web.inspect().await.expect("inspected");
    assert_eq!((of_web.ipv4.map(IpNet::V4), of_web.ipv6.map(IpNet::V6)), (Some(four), Some(six)));
    let error = one.create_endpoint(EndpointSpec::new("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    // A bridge needs an address of its own, and says so before anything is made.
    let bridge = controller.create_network(NetworkSpec::new("bridge").subnet(net("10.0.4.7/32"))).await;
    let error = bridge.expect_err("nothing is left for the bridge");
    assert!(error.to_string().contains("needs a gateway address"), "{error}");
    assert!(error.to_string().contains("10.0.4.7/32") && error.to_string().contains("larger"), "{error}");
    let six = NetworkSpec::new("bridge").subnet(net("fd04::7/128"));
    let error = controller.create_network(six).await.expect_err("nothing is left for the bridge");
    assert!(error.to_string().contains("fd04::7/128") && error.to_string().contains("larger"), "{error}");
    let two =
        controller.create_network(NetworkSpec::new("two").subnet(net("10.0.5.0/31"))).await.expect("made");
    let (peer, _) = world.joined(&two, "peer").await;
    assert_eq!(two.inspect().await.expect("inspected").v4[0].gateway, Some([10, 0, 5, 0].into()));
    let of_peer = peer.inspect().await.expect("inspected");
    assert_eq!(of_peer.ipv4.map(IpNet::V4), Some(net("10.0.5.1/31")));

    let world = world.kill_and_restart().await;
    assert!(world.engine().repairs().is_empty(), "{:?}", world.engine().repairs());
    let controller = world.engine().controller();
    let one = controller.network_by_name("one").expect("it is there");
    assert_eq!(holders(&one).await, ["10.0.3.7 endpoint \"web\"", "fd03::7 endpoint \"web\""]);
    world.delete_everything().await;
    world.assert_pristine().await;
}

// === What is shown ===

#[tokio::test]
async fn pools_default_pools_and_holders_are_shown() {
    let default_pools = vec![
        DefaultPool { base: net("10.0.0.0/22"), size: 24 },
        DefaultPool { base: net("fd00:1::/48"), size: 64 },
    ];
    let world = World::with(EngineConfig { default_pools, ..EngineConfig::default() }).await;
    let kernel = world.kernel();
    let tunnel = "tun0".parse().unwrap();
    kernel.foreign_link(Netns::Host, tunnel, LinkKind::Device, None).unwrap();
    let address = net("10.0.3.7/32");
    kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link: tunnel, address }).unwrap();
    let mut spec = NetworkSpec::new("blue").ipv6(true);
    spec.ipam.v4.push(netloom::IpamPoolSpec::default());
    spec.ipam.v4[0].auxiliary.insert("router".into(), "10.0.0.200".parse().unwrap());
    spec.ipam.v4[0].subnet = Some(net("10.0.0.0/24"));
    let blue = world.engine().controller().create_network(spec).await.expect("made");
    world.network("amber").await;
    let (_, sandbox) = world.joined(&blue, "web").await;
    let (gone, _) = world.joined(&blue, "gone").await;
    // Deleted, and its link cannot be removed yet: nobody else is given its addresses.
    kernel.plan(Fault::verb("delete_link", 1, FaultKind::Hang));
    bounded("the deletion", gone.delete_with_force()).await.expect("deleted");
    until("the hang", async || kernel.hanging() == 1).await;
    let shown = ipam(world.engine()).await;
    assert_eq!((shown.driver.as_str(), &shown.spaces[..]), ("default", &["LocalDefault".to_owned()][..]));
    let block = |base: &str, size, total, used, of_host| DefaultPoolSnapshot {
        base: net(base),
        size,
        total,
        used,
        of_host: Some(of_host),
    };
    assert_eq!(
        shown.default_pools,
        [block("10.0.0.0/22", 24, 4, 2, 1), block("fd00:1::/48", 64, 65_536, 1, 0)]
    );
    let lines: Vec<_> = shown
        .pools
        .iter()
        .map(|pool| {
            let gateway = pool.gateway.expect("a gateway");
            let (used, reserved, kept) = (pool.used, pool.reserved, pool.quarantined);
            format!(
                "{} {} {gateway} {} {used} {reserved} {kept} {}",
                pool.name,
                pool.pool,
                pool.size,
                pool.free()
            )
        })
        .collect();
    let six = 1_u128 << 64;
    let expected = [
        "amber 10.0.1.0/24 10.0.1.1 256 0 3 0 253".to_owned(),
        "blue 10.0.0.0/24 10.0.0.1 256 1 4 1 250".to_owned(),
        format!("blue fd00:1::/64 fd00:1::1 {six} 1 2 1 {}", six - 4),
    ];
    assert_eq!(lines, expected);
    let (web, kept) = ("endpoint \"web\"", "quarantine of endpoint");
    let named: Vec<_> = holders(&blue).await;
    let kept = |address: &str| format!("{address} {kept} {}", gone.id().short());
    let expected = [
        "10.0.0.1 gateway".to_owned(),
        format!("10.0.0.2 {web}"),
        kept("10.0.0.3"),
        "10.0.0.200 auxiliary router".to_owned(),
        "fd00:1::1 gateway".to_owned(),
        format!("fd00:1::2 {web}"),
        kept("fd00:1::3"),
    ];
    assert_eq!(named, expected);
    let some = blue.holders(2).await.expect("listed");
    assert_eq!((some.holders.len(), some.more), (2, 5));
    // In the picture of everything too, where the host is not looked at.
    let picture = world.engine().inspect().await.expect("inspected");
    assert_eq!(picture.ipam[0].pools, shown.pools);
    assert!(picture.ipam[0].default_pools.iter().all(|block| block.of_host.is_none()));
    assert_eq!(kernel.release(), 1);
    world.engine().drain().await.expect("drained");
    assert!(ipam(world.engine()).await.pools.iter().all(|pool| pool.quarantined == 0));
    sandbox.delete().await.expect("deleted");
    delete_everything(world.engine()).await.expect("deleted");
    assert_eq!(ipam(world.engine()).await.pools, []);
    assert_eq!(blue.holders(1).await.expect_err("deleted").kind(), ErrorKind::NotFound);
}

// === Very many, and none left ===

/// pains I3: default pools for a thousand networks and more.
#[tokio::test]
async fn a_thousand_networks_without_options_have_pools_of_their_own() {
    let world = World::new().await;
    let began = Instant::now();
    let mut pools: Vec<IpNet> = Vec::new();
    for n in 0..1_000 {
        let network = world.network(&format!("n{n}")).await;
        pools.extend(network.inspect().await.expect("inspected").v4.iter().map(|pool| pool.pool));
    }
    let took = began.elapsed();
    note(format!("1,000 networks without options: {took:?}"));
    assert!(took < Duration::from_secs(60), "{took:?}");
    pools.sort_by_key(|pool| (pool.network(), pool.prefix_len()));
    assert_eq!(pools.len(), 1_000);
    // Sorted, an overlap would be one of neighbours.
    assert!(pools.windows(2).all(|pair| pair[0].broadcast() < pair[1].network()), "two overlap");
    let shown = ipam(world.engine()).await;
    assert_eq!(shown.pools.len(), 1_000);
    assert_eq!(shown.default_pools.iter().map(|block| block.used).sum::<u64>(), 1_000);
    assert_eq!(
        world.engine().inspect().await.expect("inspected").overlaps,
        [],
        "their bridges are the engine's own"
    );
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    assert_eq!(ipam(world.engine()).await.pools, shown.pools);
    let deletions = world.engine().controller().networks();
    for deletion in join_all(deletions.iter().map(Network::delete)).await {
        deletion.expect("deleted");
    }
    world.assert_pristine().await;
}

/// pains I3: the error says pools and sizes, who holds most, what the host has, and the setting to change.
#[tokio::test]
async fn without_a_default_pool_left_the_error_says_all_there_is_to_know() {
    let default_pools = vec![
        DefaultPool { base: net("10.0.0.0/22"), size: 24 },
        DefaultPool { base: net("10.1.0.0/19"), size: 20 },
    ];
    let config = EngineConfig { default_pools, host_ula: false, ..EngineConfig::default() };
    let world = World::with(config).await;
    let tunnel = "tun0".parse().unwrap();
    world.kernel().foreign_link(Netns::Host, tunnel, LinkKind::Device, None).unwrap();
    let address = net("10.1.16.9/24");
    world.kernel().foreign_op(&Op::AddAddress { netns: Netns::Host, link: tunnel, address }).unwrap();
    let controller = world.engine().controller();
    // Two of them, as one larger subnet.
    let large = NetworkSpec::new("large").subnet(net("10.0.0.0/23"));
    controller.create_network(large).await.expect("made");
    for name in ["a", "b", "c"] {
        world.network(name).await;
    }
    let error = controller.create_network(NetworkSpec::new("late")).await.expect_err("none is left");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    let text = error.to_string();
    for said in [
        "of 6 default pools for IPv4 (2 of /20, 4 of /24), 5 are held by networks (network \"large\"",
        " and 1 more) and 1 overlap what the host uses (such as 10.1.16.0/20: 10.1.16.0/24 is an address of the host's interface tun0)",
    ] {
        assert!(text.contains(said), "{said:?} is missing: {text}");
    }
    let remedy = error.remedy().expect("a remedy");
    assert!(remedy.contains("default_pools") && remedy.contains("subnet"), "{remedy}");
    let shown = ipam(world.engine()).await;
    let left: Vec<_> = shown.default_pools.iter().map(|b| (b.total, b.used, b.of_host)).collect();
    assert_eq!(left, [(4, 4, Some(0)), (2, 1, Some(1))], "and so does the picture");
    world.delete_everything().await;
}

// === Reboots and crashes ===

/// pains I1: an allocation is owned, and dies with its owner, though nobody releases it.
#[tokio::test]
async fn after_a_reboot_pools_hold_nothing_of_what_died() {
    for told in [true, false] {
        let world = World::new().await;
        let mut spec = NetworkSpec::new("blue").ipv6(true).subnet(net("10.1.0.0/24"));
        spec.ipam.v4[0].auxiliary.insert("router".into(), "10.1.0.9".parse().unwrap());
        let blue = world.engine().controller().create_network(spec).await.expect("made");
        let red = world.network("red").await;
        let empty = ipam(world.engine()).await.pools;
        let reserved: Vec<_> = [holders(&blue).await, holders(&red).await].concat();
        for n in 0..20 {
            let (_, sandbox) = world.joined(&blue, &format!("web{n}")).await;
            let second = red.create_endpoint(EndpointSpec::new(format!("web{n}"))).await.expect("made");
            second.join(&sandbox, JoinSpec::default()).await.expect("joined");
        }
        let full = ipam(world.engine()).await.pools;
        assert!(full.iter().all(|pool| pool.used == 20), "{full:?}");
        let World { simulation, before } = world;
        simulation.kernel().reboot();
        let mut next = simulation.kill().await;
        if told {
            next = next.live_sandboxes(Vec::<LiveSandbox>::new());
        }
        let simulation = bounded("the restart", next.start()).await.expect("it starts");
        let world = World { simulation, before };
        assert_eq!(ipam(world.engine()).await.pools, empty, "told: {told}");
        let controller = world.engine().controller();
        let [blue, red] = ["blue", "red"].map(|name| controller.network_by_name(name).expect("it stays"));
        assert_eq!([holders(&blue).await, holders(&red).await].concat(), reserved);
        assert!(controller.sandboxes().is_empty());
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

/// A fixed address of an endpoint in no sandbox is a reservation, which a reboot does not end (pains I6).
#[tokio::test]
async fn after_a_reboot_reservations_stay() {
    let world = World::new().await;
    let blue = world.network("blue").await;
    let fixed: IpAddr = "172.17.0.3".parse().unwrap();
    blue.create_endpoint(EndpointSpec::new("idle").address(fixed)).await.expect("made");
    world.joined(&blue, "web").await;
    let World { simulation, before } = world;
    simulation.kernel().reboot();
    let next = simulation.kill().await.live_sandboxes(Vec::<LiveSandbox>::new());
    let world = World { simulation: bounded("the restart", next.start()).await.expect("it starts"), before };
    let blue = world.engine().controller().network_by_name("blue").expect("it stays");
    assert_eq!(holders(&blue).await, ["172.17.0.1 gateway", "172.17.0.3 endpoint \"idle\""]);
    let error = blue.create_endpoint(EndpointSpec::new("squatter").address(fixed)).await.expect_err("taken");
    assert!(error.to_string().contains("172.17.0.3") && error.to_string().contains("idle"), "{error}");
    for n in 0..5 {
        let endpoint = blue.create_endpoint(EndpointSpec::new(format!("n{n}"))).await.expect("made");
        assert_ne!(endpoint.inspect().await.unwrap().ipv4.map(|net| net.addr().into()), Some(fixed));
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// The IPv4 addresses that answer somewhere: those of every link in every namespace that stands.
async fn living(sim: &SimKernel) -> BTreeSet<Ipv4Addr> {
    let deadline = Instant::now() + PATIENCE;
    let mut living = BTreeSet::new();
    for netns in sim.namespaces(deadline).await.expect("listed") {
        for view in sim.addresses(Netns::Named(netns), deadline).await.expect("listed") {
            if let IpAddr::V4(address) = view.address.addr()
                && !address.is_loopback()
            {
                living.insert(address);
            }
        }
    }
    living
}

/// Takes every address that a network has left, and returns them.
async fn take_all(network: &Network) -> BTreeSet<Ipv4Addr> {
    let mut taken = BTreeSet::new();
    for n in 0.. {
        let made =
            bounded("creating", network.create_endpoint(EndpointSpec::new(format!("squatter{n}")))).await;
        let endpoint = match made {
            Ok(endpoint) => endpoint,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
                break;
            }
        };
        let address = endpoint.inspect().await.expect("inspected").ipv4.expect("an address").addr();
        assert!(taken.insert(address), "{address} is given twice");
    }
    taken
}

async fn mortal_engine(sim: &SimKernel, disk: &Disk, death: Death) -> Engine {
    let kernel = std::sync::Arc::new(Mortal::new(sim.clone(), death.clone()));
    let engine = Engine::builder().kernel(kernel).store(Box::new(disk.open(death)));
    bounded("the start", engine.start()).await.expect("it starts")
}

/// pains I2: killed right before and right after each effect of an attach, the next engine gives nobody an address that
/// answers somewhere, however many are asked for.
#[tokio::test]
async fn killed_at_every_effect_of_an_attach_no_living_address_is_free() {
    let (mut runs, mut lived, mut repaired) = (0, BTreeMap::new(), 0);
    for moment in 1.. {
        let (sim, disk) = (SimKernel::new(), Disk::default());
        let death = Death::never();
        let engine = mortal_engine(&sim, &disk, death.clone()).await;
        let controller = engine.controller();
        let spec = NetworkSpec::new("blue").subnet(net("10.1.0.0/28"));
        let blue = controller.create_network(spec).await.expect("made");
        let attach = async |name: &str| {
            let endpoint = blue.create_endpoint(EndpointSpec::new(name)).await?;
            let sandbox = controller.create_sandbox(SandboxSpec::new(name)).await?;
            endpoint.join(&sandbox, JoinSpec::default()).await
        };
        attach("lives").await.expect("attached");
        death.comes_at(moment);
        let ended = tokio::select! {
            biased;
            () = death.wait() => false,
            outcome = bounded("the attach", attach("next")) => outcome.is_ok() && !death.is_dead(),
        };
        drop(engine);
        if ended {
            break;
        }
        runs += 1;
        let engine = mortal_engine(&sim, &disk, Death::never()).await;
        repaired += usize::from(!engine.repairs().is_empty());
        let blue = engine.controller().network_by_name("blue").expect("it is recorded");
        let living = living(&sim).await;
        *lived.entry(living.len()).or_insert(0) += 1;
        let held: BTreeSet<_> = holders(&blue)
            .await
            .iter()
            .map(|line| line.split(' ').next().expect("text").to_owned())
            .collect();
        let place = format!("killed at {moment} ({})", death.what());
        for address in &living {
            assert!(
                held.contains(&address.to_string()),
                "{place}: {address} answers and nobody holds it: {held:?}"
            );
        }
        let given = take_all(&blue).await;
        assert!(given.is_disjoint(&living), "{place}: {living:?} answer, and given were {given:?}");
        // None is lost either: network and broadcast address, the gateway, and those that endpoints had before.
        assert_eq!(given.len() + held.len() + 2, 16, "{place}: {given:?} {held:?}");
        bounded("the deletion", delete_everything(&engine)).await.expect("deleted");
    }
    assert!(runs >= 12, "{runs} places to die");
    assert!(
        lived.contains_key(&1) && lived.contains_key(&2),
        "before and after the address was there: {lived:?}"
    );
    assert!(repaired > 2, "{repaired} of {runs} starts had something to repair");
    note(format!("{runs} places to die; so many living addresses were found: {lived:?}"));
}

/// The same where IPAM alone dies while the attach waits for the kernel.
#[tokio::test]
async fn ipam_dies_at_every_step_of_an_attach_and_no_living_address_is_free() {
    let mut runs = 0;
    for n in 1.. {
        let world = World::new().await;
        let spec = NetworkSpec::new("blue").subnet(net("10.1.0.0/28"));
        let blue = world.engine().controller().create_network(spec).await.expect("made");
        world.joined(&blue, "lives").await;
        world.kernel().plan(Fault::nth(n, FaultKind::Hang));
        let (own, controller) = (blue.clone(), world.engine().controller());
        let attach = tokio::spawn(async move {
            let endpoint = own.create_endpoint(EndpointSpec::new("next")).await?;
            let sandbox = controller.create_sandbox(SandboxSpec::new("next")).await?;
            endpoint.join(&sandbox, JoinSpec::default()).await
        });
        until("the hang or the end", async || world.kernel().hanging() > 0 || attach.is_finished()).await;
        if world.kernel().hanging() == 0 {
            attach.await.expect("no panic").expect("attached");
            break;
        }
        runs += 1;
        world.simulation.crash_actor(netloom::Victim::Ipam).await.expect("crashed");
        world.kernel().clear_faults();
        world.kernel().release();
        let _ = bounded("the attach", attach).await.expect("no panic");
        world.settles().await;
        world.ipam_is_back().await;
        let living = living(world.kernel()).await;
        let given = take_all(&blue).await;
        assert!(given.is_disjoint(&living), "at operation {n}: {living:?} answer, and given were {given:?}");
        world.delete_everything().await;
        world.assert_pristine().await;
    }
    assert!(runs >= 3, "{runs} operations");
}
