//! Two engines side by side in one network namespace that make networks at the same moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use ipnet::IpNet;
use netloom::kernel::{Kernel, Netns};
use netloom::{Engine, EngineConfig, NetworkSpec, Reason};

use crate::lab::{Lab, delete_everything, in_lab, soon};

const ROUNDS: usize = 12;
/// How many each engine makes at once.
const NETWORKS: usize = 10;

async fn engine(lab: &Lab, name: &str) -> Engine {
    let config = EngineConfig {
        instance: name.into(),
        data_dir: lab.dir.path().join(name),
        run_dir: lab.dir.path().join(format!("run-{name}")),
        ..EngineConfig::default()
    };
    Engine::builder().config(config).start().await.expect("the engine starts")
}

/// The addresses that bridges have, by their subnets.
async fn bridges(lab: &Lab) -> BTreeMap<IpNet, usize> {
    let links = lab.kernel.links(Netns::Host, soon()).await.expect("links");
    let bridge =
        |index: u32| links.iter().any(|link| link.index == index && link.name.as_str().starts_with("br-"));
    let mut subnets = BTreeMap::new();
    for view in lab.kernel.addresses(Netns::Host, soon()).await.expect("addresses") {
        let link_local = matches!(view.address, IpNet::V6(net) if net.addr().is_unicast_link_local());
        if bridge(view.link) && !link_local {
            *subnets.entry(view.address.trunc()).or_default() += 1;
        }
    }
    subnets
}

#[test]
fn two_engines_that_make_networks_at_once_share_no_subnet() {
    in_lab(async |lab| {
        let engines = [engine(&lab, "one").await, engine(&lab, "two").await];
        for round in 0..ROUNDS {
            let ipv6 = round % 2 == 1;
            let made = engines.iter().flat_map(|engine| (0..NETWORKS).map(move |n| (engine, n))).map(
                async |(engine, n)| {
                    let spec = NetworkSpec::new(format!("n{n}")).ipv6(ipv6);
                    engine.controller().create_network(spec).await
                },
            );
            for made in join_all(made).await {
                made.unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
            let subnets = bridges(&lab).await;
            let families = 1 + usize::from(ipv6);
            assert_eq!(subnets.len(), 2 * NETWORKS * families, "round {round}: {subnets:?}");
            assert!(subnets.values().all(|bridges| *bridges == 1), "round {round}: {subnets:?}");
            for engine in &engines {
                // Addresses of bridges that gave way were there for a moment.
                let late = soon();
                while let [overlap, ..] = &engine.inspect().await.expect("inspected").overlaps[..] {
                    assert!(Instant::now() < late, "round {round}: {overlap:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                delete_everything(engine).await;
            }
        }
        lab.assert_pristine().await;
    });
}

#[test]
fn of_two_engines_that_are_asked_for_the_same_subnets_at_once_one_gets_each() {
    in_lab(async |lab| {
        let engines = [engine(&lab, "one").await, engine(&lab, "two").await];
        for round in 0..ROUNDS {
            let made = engines.iter().flat_map(|engine| (0..NETWORKS).map(move |n| (engine, n))).map(
                async |(engine, n)| {
                    let subnet = format!("10.{n}.0.0/16").parse().expect("a subnet");
                    let spec = NetworkSpec::new(format!("n{n}")).subnet(subnet);
                    engine.controller().create_network(spec).await.map(drop)
                },
            );
            let made = join_all(made).await;
            for n in 0..NETWORKS {
                let both = [&made[n], &made[NETWORKS + n]];
                let refused: Vec<_> = both.into_iter().filter_map(|made| made.as_ref().err()).collect();
                assert_eq!(refused.len(), 1, "round {round}, network {n}: {refused:?}");
                let Reason::PoolOverlapsHost { link: Some(link), .. } = refused[0].reason() else {
                    panic!("round {round}, network {n}: {:?}", refused[0]);
                };
                assert!(link.as_str().starts_with("br-"), "{link}");
            }
            assert_eq!(bridges(&lab).await.len(), NETWORKS, "round {round}");
            for engine in &engines {
                delete_everything(engine).await;
            }
        }
        lab.assert_pristine().await;
    });
}
