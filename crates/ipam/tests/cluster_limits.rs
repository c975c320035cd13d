//! What is much at once in the address space of a cluster, and what others are told of pools that will be free.

mod common;

use std::net::{IpAddr, Ipv4Addr};

use futures::executor::block_on;
use netloom_ipam::{LeaseRequest, PoolsRequest, RestoredPools};
use netloom_model::{Certainty, ErrorKind, IpamPoolSpec, IpamSpec, Reason};
use netloom_store::cluster::ClusterFault;

use common::space::{address, head, host, leases, net, pools, restore, shared, used};
use common::{network, want};

/// The start of a host with ten thousand endpoints, which the space has lost: no value is large, and an outage in between is
/// told and made good by asking again.
#[test]
fn much_is_restored_a_part_at_a_time() {
    let (memory, store) = shared();
    let a = host(&store, "a");
    block_on(async {
        let v4 = pools(&a, 1, Some("10.0.0.0/16")).await.expect("free");
        a.release_pools(network(1)).await.expect("released");
        let all = leases(10_000, [10, 0, 1, 0], 16);
        memory.fail(300, ClusterFault::Refused);
        let error = restore(&a, &v4, &all).await.expect_err("an outage");
        assert_eq!(error.certainty(), Certainty::Uncertain, "a part is there: {error}");
        let so_far = used(&a).await;
        assert!((1_000..9_000).contains(&so_far), "{so_far}");
        assert_eq!(restore(&a, &v4, &all).await.expect("the rest"), 0);
        assert_eq!(used(&a).await, 10_000);
        let calls = memory.calls();
        assert_eq!(restore(&a, &v4, &all).await.expect("nothing to do"), 0);
        assert!(memory.calls() - calls < 5, "{} calls", memory.calls() - calls);
        // Those whose records are gone go the same way, however many.
        assert_eq!(restore(&a, &v4, &all[..10]).await.expect("the others are gone"), 9_990);
        assert_eq!(used(&a).await, 10);
        // A refusal before anything was done is one.
        let b = host(&store, "b");
        let thief = leases(2_000, [10, 0, 0, 100], 16);
        let thief: Vec<_> = thief.into_iter().rev().collect();
        let before = memory.written();
        let name = "net 1";
        let names: Vec<_> = thief.iter().map(|(id, name, lease)| (*id, name.as_str(), *lease)).collect();
        let pools =
            RestoredPools { network: network(1), name, address_space: "", shares: false, v4: &v4, v6: &[] };
        let error = b.restore(&pools, &names, &[]).await.expect_err("it is host a's");
        assert_eq!(error.certainty(), Certainty::Aborted, "{error}");
        assert!(memory.written() - before < 200, "only its name");

        // A thousand reservations take no more calls than they have to.
        let addresses: Vec<_> =
            (0..1_000_u32).map(|n| vec![IpAddr::from(Ipv4Addr::from(0x0a00_8000 + n))]).collect();
        let names: Vec<_> = (0..1_000).map(|n| format!("kept {n}")).collect();
        let kept: Vec<_> = names.iter().map(String::as_str).zip(addresses).collect();
        let ten: Vec<_> = all[..10].iter().map(|(id, name, lease)| (*id, name.as_str(), *lease)).collect();
        let calls = memory.calls();
        a.restore(&pools, &ten, &kept).await.expect("free");
        assert!(memory.calls() - calls < 600, "{} calls", memory.calls() - calls);
        let calls = memory.calls();
        a.restore(&pools, &ten, &kept).await.expect("nothing to do");
        assert!(memory.calls() - calls < 5, "{} calls", memory.calls() - calls);
        let error =
            a.lease(network(1), &LeaseRequest { ipv4: Some([10, 0, 128, 7].into()), ..want(5_555) }).await;
        assert!(error.expect_err("kept").to_string().contains("reservation \"kept 7\""));
    });
}

#[test]
fn what_is_too_large_for_the_store_is_refused_before_it_is_sent() {
    let (memory, store) = shared();
    let a = host(&store, "a");
    block_on(async {
        pools(&a, 1, None).await.expect("free");
        let name = |n: u32| format!("{n}{}", "x".repeat(400));
        let auxiliary = (0..1_000_u32).map(|n| (name(n), IpAddr::from(Ipv4Addr::from(0x0a09_0100 + n))));
        let pool = IpamPoolSpec {
            subnet: Some(net("10.9.0.0/16")),
            auxiliary: auxiliary.collect(),
            ..Default::default()
        };
        let spec = IpamSpec { v4: vec![pool], ..IpamSpec::default() };
        let request = PoolsRequest {
            network: network(9),
            name: "large".into(),
            spec: &spec,
            ipv6: false,
            shares: false,
            host: &[],
        };
        let before = memory.written();
        let error = a.request_pools(&request).await.expect_err("too large");
        assert_eq!(
            (error.kind(), error.certainty()),
            (ErrorKind::InvalidParameter, Certainty::Aborted),
            "{error}"
        );
        assert!(error.to_string().contains("auxiliary addresses"), "{error}");
        assert_eq!(memory.written(), before);
        address(&a, 1, 1).await.expect("everything else goes on");
    });
}

#[test]
fn pools_that_are_being_given_back_are_told_from_others() {
    let (_, store) = shared();
    let (a, b) = (host(&store, "a"), host(&store, "b"));
    block_on(async {
        pools(&a, 1, Some("10.3.0.0/24")).await.expect("free");
        let error = pools(&b, 2, Some("10.3.0.0/16")).await.expect_err("taken");
        assert!(matches!(error.reason(), Reason::PoolOverlap { .. }), "{error}");
        b.retire_pools(network(1)).await.expect("it is not b's");
        let error = pools(&b, 2, Some("10.3.0.0/16")).await.expect_err("taken");
        assert!(matches!(error.reason(), Reason::PoolOverlap { .. }), "{error}");
        a.retire_pools(network(1)).await.expect("told");
        a.retire_pools(network(1)).await.expect("told before");
        // Also to one who reads it from an image.
        for n in 0..100 {
            pools(&a, 3, Some("10.4.0.0/24")).await.expect("free");
            a.release_pools(network(3)).await.expect("released");
            assert!(n < 99 || head(&store).await["image"].as_u64() > Some(10));
        }
        for host in [&b, &host(&store, "c")] {
            let error = pools(host, 2, Some("10.3.0.0/16")).await.expect_err("it has it still");
            assert!(matches!(error.reason(), Reason::WrongPhase { .. }), "{error}");
            let text = error.to_string();
            for part in ["net 1 of host a", "10.3.0.0/24", "gives its pools back", "try again"] {
                assert!(text.contains(part), "{text}");
            }
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("wait")));
        }
        a.release_pools(network(1)).await.expect("released");
        a.retire_pools(network(1)).await.expect("gone already");
        assert_eq!(pools(&b, 2, Some("10.3.0.0/16")).await.expect("free").len(), 1);
    });
}
