//! Networks of a driver that shares pools (`Capability::shares_pools`), as macvlan networks of different parents do: one
//! subnet, one set of addresses, several networks. The driver is the embedder's.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use netloom::drivers::done;
use netloom::snapshot::PoolSnapshot;
use netloom::{Endpoint, EndpointSpec, Engine, EngineConfig, Error, ErrorKind, Network, NetworkSpec, Victim};

use crate::scripted::Scripted;
use crate::support::{World, bounded};

const SUBNET: &str = "10.1.0.0/28";

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

/// An engine with a driver that shares, and with `bridge`, which does not.
async fn world() -> World {
    let mut driver = Scripted::new(|_| done(()));
    driver.capability.shares_pools = true;
    driver.world(EngineConfig::default()).await
}

/// A network of the driver that shares; each has a gateway of its own in the subnet.
async fn shared(engine: &Engine, name: &str, subnet: &str, gateway: &str) -> netloom::Result<Network> {
    let mut spec = NetworkSpec::new(name).driver(Scripted::KIND).subnet(net(subnet));
    spec.ipam.v4[0].gateway = Some(gateway.parse().expect("an address"));
    bounded("the network", engine.controller().create_network(spec)).await
}

/// A network of a driver that does not share.
async fn alone(engine: &Engine, subnet: &str) -> netloom::Result<Network> {
    let spec = NetworkSpec::new("alone").subnet(net(subnet));
    bounded("the network", engine.controller().create_network(spec)).await
}

fn found(engine: &Engine, name: &str) -> Network {
    engine.controller().network_by_name(name).expect("it stays")
}

async fn made(network: &Network, name: &str) -> (Endpoint, Ipv4Addr) {
    let endpoint = bounded("creating", network.create_endpoint(EndpointSpec::new(name))).await.expect("made");
    let address = endpoint.inspect().await.expect("inspected").ipv4.expect("an address").addr();
    (endpoint, address)
}

async fn asks(network: &Network, address: &str) -> Error {
    let spec = EndpointSpec::new("thief").address(address.parse().expect("an address"));
    bounded("creating", network.create_endpoint(spec)).await.expect_err("somebody has it")
}

/// The networks that have a pool, with what they use of it.
async fn pools(engine: &Engine) -> Vec<(String, String, u64)> {
    let all = engine.controller().ipam().await.expect("inspected");
    let own = all.into_iter().find(|ipam| ipam.driver == "default").expect("it is there").pools;
    own.into_iter().map(|PoolSnapshot { name, pool, used, .. }| (name, pool.to_string(), used)).collect()
}

/// Somebody may not have a subnet, and is told of one of the networks that have it.
fn refused(result: netloom::Result<Network>, holders: &[&str]) {
    let error = result.expect_err("it is taken");
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let text = error.to_string();
    let named = |holder: &&&str| text.contains(&format!("network {holder:?}"));
    assert_eq!(holders.iter().filter(named).count(), 1, "one of {holders:?} is named: {text}");
}

#[tokio::test]
async fn two_networks_of_one_pool_never_give_one_address_twice_and_the_last_takes_the_pool_along() {
    for first_goes_first in [true, false] {
        let mut world = world().await;
        shared(world.engine(), "blue", SUBNET, "10.1.0.1").await.expect("made");
        shared(world.engine(), "red", SUBNET, "10.1.0.2").await.expect("the same subnet");
        let clash = shared(world.engine(), "green", SUBNET, "10.1.0.1").await.expect_err("blue's gateway");
        assert!(clash.to_string().contains("the gateway of network \"blue\""), "{clash}");
        // By turns, and over a restart and the death of the driver's actor: all of them differ.
        let mut given = Vec::new();
        for round in 0..4 {
            for name in ["blue", "red"] {
                given.push(made(&found(world.engine(), name), &format!("n{round}")).await.1);
            }
            match round {
                1 => world = world.kill_and_restart().await,
                2 => {
                    world.simulation.crash_actor(Victim::Ipam).await.expect("crashed");
                    world.ipam_is_back().await;
                }
                _ => {}
            }
        }
        let mut distinct = given.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 8, "{given:?}");
        let here = |name: &str, used| (name.to_owned(), SUBNET.to_owned(), used);
        assert_eq!(pools(world.engine()).await, [here("blue", 4), here("red", 4)]);
        // What another network has is said so.
        let blue = found(world.engine(), "blue");
        for (asked, holder) in [
            (given[1].to_string(), "an endpoint or reservation of network \"red\""),
            ("10.1.0.2".to_owned(), "the gateway of network \"red\""),
        ] {
            let error = asks(&blue, &asked).await;
            assert!(error.to_string().contains(holder), "{error}");
        }
        // Sixteen addresses, less the ends, two gateways, eight endpoints.
        for n in 0..4 {
            made(&blue, &format!("more{n}")).await;
        }
        let full =
            bounded("creating", blue.create_endpoint(EndpointSpec::new("one"))).await.expect_err("full");
        assert_eq!(full.kind(), ErrorKind::Exhausted, "{full}");
        // As long as one of them is there, nobody else gets the pool, by this name or by another.
        let order = if first_goes_first { ["blue", "red"] } else { ["red", "blue"] };
        refused(alone(world.engine(), SUBNET).await, &order);
        gone(&found(world.engine(), order[0])).await;
        refused(alone(world.engine(), SUBNET).await, &order[1..]);
        assert_eq!(pools(world.engine()).await.len(), 1);
        world = world.kill_and_restart().await;
        refused(alone(world.engine(), SUBNET).await, &order[1..]);
        // What the first one had is free for the other.
        let other = found(world.engine(), order[1]);
        let freed = given[if first_goes_first { 0 } else { 1 }];
        let spec = EndpointSpec::new("heir").address(freed.into());
        bounded("creating", other.create_endpoint(spec)).await.expect("it is free");
        gone(&other).await;
        assert_eq!(pools(world.engine()).await, []);
        alone(world.engine(), SUBNET).await.expect("nobody has it");
        refused(shared(world.engine(), "blue", SUBNET, "10.1.0.1").await, &["alone"]);
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

async fn gone(network: &Network) {
    for endpoint in network.endpoints().await.expect("listed") {
        bounded("deleting", endpoint.delete()).await.expect("deleted");
    }
    bounded("deleting", network.delete()).await.expect("deleted");
}

/// libnetwork keeps a sub-pool's parent only as a count, and forgot to compare it with others: here the range is a part of
/// a pool that is in use as a whole, for those that share it and for those that do not.
#[tokio::test]
async fn a_range_takes_the_pool_around_it() {
    let mut world = world().await;
    for (name, range, gateway) in [("blue", "10.2.1.0/24", "10.2.1.1"), ("red", "10.2.2.0/24", "10.2.2.1")] {
        let mut spec = NetworkSpec::new(name).driver(Scripted::KIND).subnet(net("10.2.0.0/16"));
        spec.ipam.v4[0].range = Some(net(range));
        spec.ipam.v4[0].gateway = Some(gateway.parse().expect("an address"));
        bounded("the network", world.engine().controller().create_network(spec)).await.expect("made");
    }
    for restart in [false, true] {
        if restart {
            world = world.kill_and_restart().await;
        }
        for (name, prefix) in [("blue", "10.2.1."), ("red", "10.2.2.")] {
            let (_, address) = made(&found(world.engine(), name), &format!("n{restart}")).await;
            assert!(address.to_string().starts_with(prefix), "{name}: {address}");
        }
        // Outside of both ranges, and around: the parent is taken all the same.
        for subnet in ["10.2.0.0/16", "10.2.9.0/24", "10.2.1.0/24", "10.0.0.0/14"] {
            refused(alone(world.engine(), subnet).await, &["blue", "red"]);
        }
        for (subnet, gateway) in [("10.2.9.0/24", "10.2.9.1"), ("10.0.0.0/14", "10.0.0.1")] {
            let part = shared(world.engine(), "part", subnet, gateway).await;
            refused(part, &["blue", "red"]);
        }
    }
    gone(&found(world.engine(), "blue")).await;
    refused(alone(world.engine(), "10.2.1.0/24").await, &["red"]);
    gone(&found(world.engine(), "red")).await;
    alone(world.engine(), "10.2.1.0/24").await.expect("nobody has any of it");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// In the other order: a network that does not share was there first.
#[tokio::test]
async fn a_network_that_does_not_share_keeps_all_others_out() {
    let world = world().await;
    alone(world.engine(), SUBNET).await.expect("made");
    for (subnet, gateway) in [(SUBNET, "10.1.0.2"), ("10.1.0.0/29", "10.1.0.2"), ("10.1.0.0/24", "10.1.0.20")]
    {
        refused(shared(world.engine(), "blue", subnet, gateway).await, &["alone"]);
    }
    let world = world.kill_and_restart().await;
    refused(shared(world.engine(), "blue", SUBNET, "10.1.0.2").await, &["alone"]);
    gone(&found(world.engine(), "alone")).await;
    shared(world.engine(), "blue", SUBNET, "10.1.0.2").await.expect("it is free");
    world.delete_everything().await;
    world.assert_pristine().await;
}
