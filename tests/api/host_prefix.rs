//! IPv6 pools where nobody names any: a prefix of the host's own.

use netloom::{DefaultPool, EngineConfig, ErrorKind, Network, NetworkSpec, Victim};

use crate::support::World;

/// What the host of instance "netloom" has.
const OWN: &str = "fda3:2d68:6785";

async fn ipv6(world: &World, name: &str) -> Network {
    let spec = NetworkSpec::new(name).ipv6(true);
    world.engine().controller().create_network(spec).await.expect("a network")
}

async fn pool(network: &Network) -> String {
    network.inspect().await.expect("inspected").v6[0].pool.to_string()
}

fn block(base: &str, size: u8) -> DefaultPool {
    DefaultPool { base: base.parse().expect("a net"), size }
}

#[tokio::test]
async fn networks_get_one_64_each_of_a_prefix_that_stays() {
    let world = World::new().await;
    assert_eq!(pool(&ipv6(&world, "first").await).await, format!("{OWN}::/64"));
    assert_eq!(pool(&ipv6(&world, "second").await).await, format!("{OWN}:1::/64"));
    // No IPv6, no pool of it: a router of the container's own may announce what it likes.
    assert_eq!(world.network("third").await.inspect().await.unwrap().v6, []);
    world.simulation.crash_actor(Victim::Ipam).await.unwrap();
    world.ipam_is_back().await;
    assert_eq!(pool(&ipv6(&world, "fourth").await).await, format!("{OWN}:2::/64"));
    let world = world.kill_and_restart().await;
    let controller = world.engine().controller();
    assert_eq!(pool(&controller.network_by_name("second").unwrap()).await, format!("{OWN}:1::/64"));
    assert_eq!(pool(&ipv6(&world, "fifth").await).await, format!("{OWN}:3::/64"));
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn another_host_has_another_prefix() {
    let other = EngineConfig { instance: "elsewhere".into(), ..EngineConfig::default() };
    let world = World::with(other).await;
    let elsewhere = pool(&ipv6(&world, "first").await).await;
    assert!(elsewhere.starts_with("fd") && !elsewhere.starts_with(OWN), "{elsewhere}");
}

/// What the configuration says, at the start and in a reload. Networks keep what they have.
#[tokio::test]
async fn the_configuration_says_where_ipv6_pools_come_from() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let first = ipv6(&world, "first").await;
    let reload = async |default_pools: &[DefaultPool], host_ula| {
        let default_pools = default_pools.to_vec();
        let config = EngineConfig { default_pools, host_ula, ..EngineConfig::default() };
        controller.reload(config).await.expect("accepted");
    };
    let refused = async |name: &str| {
        let made = controller.create_network(NetworkSpec::new(name).ipv6(true)).await;
        let error = made.expect_err("there is no pool");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("default_pools")), "{error}");
    };
    let four = block("10.77.0.0/16", 24);
    reload(&[four, block("fd00:1::/48", 64)], true).await;
    assert_eq!(pool(&ipv6(&world, "named").await).await, "fd00:1::/64");
    reload(&[four], false).await;
    refused("off").await;
    reload(&[], true).await;
    refused("none").await;
    reload(&[four], true).await;
    assert_eq!(pool(&ipv6(&world, "again").await).await, format!("{OWN}:1::/64"));
    assert_eq!(pool(&first).await, format!("{OWN}::/64"));
    world.delete_everything().await;
    world.assert_pristine().await;
}
