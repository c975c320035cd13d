//! Very many networks on the real kernel, without any option.

use std::time::{Duration, Instant};

use futures::future::join_all;
use ipnet::IpNet;
use netloom::kernel::{Kernel, LinkKind, Netns};
use netloom::{NetworkSpec, PoolRecord};

use crate::lab::{delete_everything, in_lab, soon};

/// How many there are. The kernel takes longer for each bridge the more there are.
const NETWORKS: usize = 300;
/// How many are made at a time.
const AT_ONCE: usize = 30;

#[test]
fn three_hundred_networks_have_pools_and_bridges_of_their_own() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let began = Instant::now();
        let mut pools: Vec<PoolRecord> = Vec::new();
        for first in (0..NETWORKS).step_by(AT_ONCE) {
            let made = (first..first + AT_ONCE).map(|n| {
                let controller = engine.controller();
                async move {
                    let network = controller.create_network(NetworkSpec::new(format!("n{n}"))).await?;
                    network.inspect().await
                }
            });
            for network in join_all(made).await {
                pools.extend(network.expect("a network").v4);
            }
        }
        let took = began.elapsed();
        #[expect(clippy::print_stdout, reason = "a figure for whoever runs the test with its output shown")]
        {
            println!("{NETWORKS} networks: {took:?}");
        }
        pools.sort_by_key(|pool| (pool.pool.network(), pool.pool.prefix_len()));
        assert_eq!(pools.len(), NETWORKS);
        assert!(
            pools.windows(2).all(|pair| pair[0].pool.broadcast() < pair[1].pool.network()),
            "two overlap"
        );
        // The kernel has a bridge for each, with the gateway of its pool.
        let links = lab.kernel.links(Netns::Host, soon()).await.expect("listed");
        assert_eq!(links.iter().filter(|link| link.kind == LinkKind::Bridge).count(), NETWORKS);
        let addresses = lab.kernel.addresses(Netns::Host, soon()).await.expect("listed");
        let addresses: Vec<IpNet> = addresses.iter().map(|view| view.address).collect();
        for pool in &pools {
            let gateway = pool.gateway_net().expect("a gateway");
            assert!(addresses.contains(&gateway), "{gateway} is nowhere");
        }
        assert_eq!(
            engine.inspect().await.expect("inspected").overlaps,
            [],
            "nothing of the engine's own is news"
        );
        delete_everything(&engine).await;
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
        lab.assert_pristine().await;
    });
}
