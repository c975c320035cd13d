//! Whose a host's name in a cluster is, and what becomes of a host that is gone for good.

mod common;

use futures::executor::block_on;
use netloom_ipam::cluster::Place;
use netloom_model::Reason;
use netloom_store::cluster::ClusterFault;
use uuid::Uuid;

use common::network;
use common::space::{address, engine, host, net, pools, shared};

#[test]
fn a_host_name_is_one_engines() {
    let (memory, store) = shared();
    block_on(async {
        let first = engine(&store, "a", "one");
        memory.fail(2, ClusterFault::AnswerLost);
        pools(&first, 1, None).await.expect("its name is taken, though the answer was lost");
        let second = engine(&store, "a", "two");
        for error in [
            pools(&second, 2, None).await.expect_err("the name is taken"),
            second.release_pools(network(1)).await.expect_err("the name is taken"),
            address(&second, 1, 1).await.map(drop).expect_err("the name is taken"),
        ] {
            assert!(matches!(error.reason(), Reason::InUse { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("\"a\"") && text.contains("engine one") && text.contains("purge"),
                "{text}"
            );
        }
        // The same one again, whatever the store says at first.
        memory.fail(1, ClusterFault::Refused);
        let again = engine(&store, "a", "one");
        assert!(pools(&again, 1, None).await.is_err(), "not known whose it is");
        pools(&again, 1, None).await.expect("its own");
        // Since when is told where the start is one with a time.
        let start = Uuid::parse_str("018cc251-f400-7000-8000-000000000000").expect("of 2024");
        let place = Place { host: "b".into(), engine: "one".into(), start };
        place.claim(&*store).await.expect("free");
        let other = Place { engine: "three".into(), ..place.clone() };
        let error = other.claim(&*store).await.expect_err("taken").to_string();
        assert!(error.contains("engine one since 2024-01-01T00:00:00Z"), "{error}");
        place.claim(&*store).await.expect("its own");
    });
}

/// What a host has that is gone for good is named and free, however much it is, and its name too.
#[test]
fn a_host_that_is_gone_for_good_is_purged() {
    let (memory, store) = shared();
    block_on(async {
        let (gone, stays) = (host(&store, "gone"), host(&store, "stays"));
        pools(&stays, 1, Some("10.1.0.0/24")).await.expect("free");
        for n in 2..122 {
            pools(&gone, n, None).await.expect("free");
        }
        address(&gone, 2, 7).await.expect("free");
        address(&gone, 1, 8).await.expect("free");
        let own = address(&stays, 1, 9).await.expect("free");
        let error = stays.purge("stays").await.expect_err("it is not gone").to_string();
        assert!(error.contains("own host"), "{error}");
        let error = stays.purge("nobody").await.expect_err("unknown");
        assert!(matches!(error.reason(), Reason::NotFound { .. }) && error.to_string().contains("nobody"));

        let another = engine(&store, "gone", "another");
        assert!(pools(&another, 500, None).await.is_err(), "the name is taken");
        // A store that goes away in between: asked again, the rest is removed.
        memory.fail(4, ClusterFault::Refused);
        stays.purge("gone").await.expect_err("half-way");
        let purged = stays.purge("gone").await.expect("purged");
        assert_eq!(purged.engine.as_deref(), Some("engine gone"));
        assert!((1..=120).contains(&purged.networks.len()), "{purged}");
        let known: Vec<_> = stays.pools().await.into_iter().map(|pool| pool.network).collect();
        assert_eq!(known, [network(1)], "nothing of it is left");
        assert_eq!(stays.holders(network(1), 9).await.expect("known").holders.len(), 2, "gateway and own");
        assert_eq!(stays.usage(network(1)).await.expect("known")[0].used, 1, "{own}");
        let error = stays.purge("gone").await.expect_err("gone already");
        assert!(matches!(error.reason(), Reason::NotFound { .. }), "{error}");
        pools(&another, 500, Some("10.0.0.0/24")).await.expect("the name and the pool are free");

        // In one go everything is named.
        let last = host(&store, "last");
        pools(&last, 600, Some("10.2.0.0/24")).await.expect("free");
        let (web, at) =
            (address(&last, 600, 11).await.expect("free"), address(&last, 1, 12).await.expect("free"));
        let purged = stays.purge("last").await.expect("purged");
        let named: Vec<_> =
            purged.networks.iter().map(|gone| (gone.name.as_str(), gone.pools.clone())).collect();
        assert_eq!(named, [("net 600", vec![net("10.2.0.0/24")])]);
        let mut endpoints: Vec<_> =
            purged.endpoints.iter().map(|gone| (gone.name.as_str(), gone.addresses.clone())).collect();
        endpoints.sort();
        assert_eq!(endpoints, [("e11", vec![web]), ("e12", vec![at])]);
    });
}
