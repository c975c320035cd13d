//! Hosts that share an address space: whatever the store does and whoever comes first, no address has two owners.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::executor::block_on;
use futures::future::join_all;
use netloom_ipam::{Lease, LeaseRequest, RestoredPools};
use netloom_model::{NetworkId, Reason};
use netloom_store::cluster::{ClusterFault, ClusterStore, MemoryCluster, Swapped};

use common::space::{SHARED, Slow, address, garbage, host, net, pause, pools, shared};
use common::{Random, endpoint, network, want};

#[test]
fn hosts_see_what_others_have_taken() {
    let (_, store) = shared();
    let (a, b) = (host(&store, "a"), host(&store, "b"));
    block_on(async {
        assert_eq!(pools(&a, 1, None).await.expect("free")[0].pool, net("10.0.0.0/24"));
        assert_eq!(pools(&b, 2, None).await.expect("free")[0].pool, net("10.0.1.0/24"));
        let error = pools(&b, 3, Some("10.0.0.0/16")).await.expect_err("overlap");
        assert!(matches!(error.reason(), Reason::PoolOverlap { .. }), "{error}");
        assert_eq!(pools(&a, 1, None).await.expect("what it has")[0].pool, net("10.0.0.0/24"));
        let error = pools(&b, 1, None).await.expect_err("it is host a's");
        assert!(error.to_string().contains("net 1 of host a"), "{error}");
        b.release_pools(network(1)).await.expect("it has none of that name");
        for n in 0..40 {
            let by = if n % 2 == 0 { &a } else { &b };
            let ip = address(by, 1, n).await.expect("free");
            assert_eq!(ip.to_string(), format!("10.0.0.{}", n + 2));
            assert_eq!(address(by, 1, n).await.expect("again"), ip);
        }
        let fixed = LeaseRequest { ipv4: Some("10.0.0.2".parse().expect("an address")), ..want(99) };
        let error = b.lease(network(1), &fixed).await.expect_err("taken").to_string();
        assert!(error.contains("endpoint \"e0\"") && error.contains("of host a"), "{error}");
        // The other one has released it since, and this one did not look.
        a.release(network(1), endpoint(0)).await.expect("released");
        b.lease(network(1), &fixed).await.expect("free");
        a.release_pools(network(1)).await.expect("released");
        assert!(b.lease(network(1), &want(5)).await.is_err(), "the network is gone");
        b.release(network(1), endpoint(99)).await.expect("gone already");
        assert_eq!(pools(&b, 3, Some("10.0.0.0/24")).await.expect("free again").len(), 1);
    });
}

/// Long after the first changes, over many images, a host that was away and one that is new know the same.
#[test]
fn who_comes_late_begins_at_the_last_image() {
    let (memory, store) = shared();
    let (a, away) = (host(&store, "a"), host(&store, "away"));
    block_on(async {
        pools(&a, 1, Some("10.9.0.0/16")).await.expect("free");
        assert_eq!(address(&away, 1, 1).await.expect("free").to_string(), "10.9.0.2");
        away.quarantine(network(1), endpoint(1)).await;
        a.reserve(network(1), "db", &["10.9.0.9".parse().expect("an address")]).await.expect("free");
        for n in 2..500 {
            address(&a, 1, n).await.expect("free");
            if n % 3 == 0 {
                a.release(network(1), endpoint(n)).await.expect("released");
            }
        }
        assert_eq!(garbage(&store).await, 0, "parts of old images are removed");
        let new = host(&store, "new");
        let next = address(&new, 1, 1_000).await.expect("free");
        assert_eq!(address(&away, 1, 1_000).await.expect("the same"), next);
        let held = new.holders(network(1), 1_000).await.expect("known");
        let there = away.holders(network(1), 1_000).await.expect("known");
        assert_eq!(held.holders.len(), there.holders.len());
        let quarantined = |all: &netloom_model::snapshot::Holders| {
            all.holders.iter().filter(|held| held.holder.contains("quarantine")).count()
        };
        assert_eq!(
            (quarantined(&held), quarantined(&there)),
            (0, 1),
            "only the host that waits for its kernel knows"
        );
        assert!(held.holders.iter().any(|held| held.holder.contains("reservation \"db\"")));
        a.unreserve(network(1), "db").await.expect("gone");
        a.unreserve(network(1), "db").await.expect("gone already");
        assert!(new.take_found().await.is_empty());
    });
    assert!(memory.calls() < 3_000, "{} calls for some 700 changes", memory.calls());
}

/// A host that was killed has its endpoints again, and what it has not is free; those of others are not touched.
#[test]
fn a_start_puts_right_what_a_crash_left() {
    let (_, store) = shared();
    block_on(async {
        let (a, b) = (host(&store, "a"), host(&store, "b"));
        let v4 = pools(&a, 1, None).await.expect("free");
        let kept = a.lease(network(1), &want(1)).await.expect("free");
        let lost = a.lease(network(1), &want(2)).await.expect("free");
        address(&b, 1, 3).await.expect("free");
        let again = host(&store, "a");
        // One endpoint's record is there and its change is not, as if the store had been set back.
        let unknown = Lease { ipv4: Some("10.0.0.77/24".parse().expect("an address")), ipv6: None };
        let name = "net 1";
        let restored =
            RestoredPools { network: network(1), name, address_space: "", shares: false, v4: &v4, v6: &[] };
        let endpoints = [(endpoint(1), "e1", kept), (endpoint(9), "e9", unknown)];
        assert_eq!(
            again.restore(&restored, &endpoints, &[]).await.expect("restored"),
            1,
            "endpoint 2 is gone"
        );
        assert_eq!(again.restore(&restored, &endpoints, &[]).await.expect("again"), 0);
        let holders = b.lease(network(1), &want(4)).await.map(drop);
        holders.expect("looks at the store");
        let held = b.holders(network(1), 100).await.expect("known").holders;
        let names: BTreeSet<_> = held.iter().filter_map(|held| held.holder.split('"').nth(1)).collect();
        assert_eq!(names, BTreeSet::from(["e1", "e3", "e4", "e9"]));
        let thief = [(endpoint(1), "e1", kept), (endpoint(5), "thief", lost), (endpoint(6), "e6", unknown)];
        let error = again.restore(&restored, &thief, &[]).await.expect_err("10.0.0.77 is e9's");
        assert!(matches!(error.reason(), Reason::AddressTaken { .. }), "{error}");
        let error = b.restore(&restored, &[], &[]).await.expect_err("it is host a's");
        assert!(error.to_string().contains("of host a"), "{error}");
        // What a store that was emptied does not know any more would be given away again.
        for key in store.keys("").await.expect("listed") {
            store.remove(&key).await.expect("removed");
        }
        let error = again.lease(network(1), &want(50)).await.expect_err("it is gone");
        assert!(error.to_string().contains("gone from the store"), "{error}");
        assert!(error.remedy().expect("a way out").contains("start the engines"), "{error}");
        let anew = host(&store, "a");
        anew.restore(&restored, &endpoints, &[]).await.expect("restored");
        assert_eq!(anew.usage(network(1)).await.expect("known")[0].used, 2);
        let error = b.lease(network(1), &want(51)).await.expect_err("of before").to_string();
        assert!(error.contains("set back"), "{error}");
    });
}

/// Every call of the store fails once, in every way: the request fails or is as if nothing had been, and what it asked for
/// exists once or not at all.
#[test]
fn a_fault_at_every_call_leaves_no_half() {
    for fault in [ClusterFault::Refused, ClusterFault::AnswerLost] {
        for nth in 1.. {
            let (memory, store) = shared();
            let (a, b) = (host(&store, "a"), host(&store, "b"));
            let struck = block_on(async {
                pools(&a, 1, Some("10.0.0.0/24")).await.expect("free");
                // As many changes as fit, so that the next one writes an image.
                for n in 0..63 {
                    address(&a, 1, n).await.expect("free");
                }
                let before = memory.calls();
                memory.fail(nth, fault);
                let got = address(&a, 1, 100).await;
                let struck = memory.calls() >= before + nth;
                memory.fail(1_000_000, fault);
                let other = address(&b, 1, 200).await.expect("free");
                if let Ok(got) = got {
                    assert_ne!(got, other);
                }
                // Asked again, it has one and the same.
                let again = address(&a, 1, 100).await.expect("free");
                assert_ne!(again, other);
                assert!(got.is_err() || got.is_ok_and(|got| got == again));
                let held = b.holders(network(1), 1_000).await.expect("known").holders;
                let of = |name: &str| held.iter().filter(|held| held.holder.contains(name)).count();
                assert!(of("\"e100\"") <= 1 && of("\"e200\"") == 1);
                struck
            });
            if !struck {
                assert!(nth > 2, "nothing was struck");
                break;
            }
        }
    }
    let (memory, store) = shared();
    let a = host(&store, "a");
    block_on(async {
        memory.unreachable(true);
        let error = pools(&a, 1, None).await.expect_err("unreachable");
        assert!(error.to_string().contains("cluster store cannot be reached"), "{error}");
        memory.unreachable(false);
        pools(&a, 1, None).await.expect("free");
        let head = "netloom/v1/ipam/GlobalDefault/head";
        let revision = store.get(head).await.expect("answered").expect("there").revision;
        let swapped = store.swap(head, b"rubbish".to_vec(), Some(revision)).await;
        assert!(matches!(swapped, Ok(Swapped::Done(_))), "{swapped:?}");
        let b = host(&store, "b");
        let error = address(&b, 1, 1).await.expect_err("what is damaged is not overwritten");
        let said = error.to_string();
        assert!(said.contains(head), "{said}");
        let remedy = error.remedy().expect("there is something to do");
        assert!(remedy.contains(head) && remedy.contains("start the engines"), "{remedy}");
        // What it says to do helps.
        store.remove(head).await.expect("removed");
        pools(&host(&store, "a"), 1, None).await.expect("begun anew");
    });
}

/// The network of a host.
fn of(host: usize) -> NetworkId {
    network(u32::try_from(host).expect("small") + 1)
}

/// Four hosts at once in one /26, each with faults, requests that are given up half-way, and crashes.
/// `NETLOOM_TEST_SEED` repeats a run.
#[test]
fn many_hosts_at_once_never_have_one_address_twice() {
    let mut random = Random::seeded();
    let (mut given_up, mut leased) = (0, 0);
    for _ in 0..30 {
        let memory = MemoryCluster::default();
        let store: Arc<dyn ClusterStore> = Arc::new(Slow(memory.clone()));
        let mut hosts: Vec<_> = (0..4).map(|n| host(&store, &format!("h{n}"))).collect();
        let v4: Vec<_> = (1..5)
            .zip(&hosts)
            .map(|(n, host)| block_on(pools(host, n, Some(SHARED))).expect("shared"))
            .collect();
        // What each host was told it has.
        let mut records: Vec<BTreeMap<u128, Lease>> = vec![BTreeMap::new(); hosts.len()];
        for _ in 0..60 {
            if random.below(3) == 0 {
                let how = if random.below(2) == 0 { ClusterFault::Refused } else { ClusterFault::AnswerLost };
                memory.fail(1 + random.below(12), how);
            }
            let steps: Vec<_> = hosts
                .iter()
                .enumerate()
                .map(|(n, _)| {
                    let owner = u128::from(random.below(20)) + 1_000 * n as u128;
                    (random.below(8), owner, random.below(30))
                })
                .collect();
            let run = steps.iter().enumerate().map(|(n, (what, owner, patience))| {
                let (host, records) = (&hosts[n], &records[n]);
                async move {
                    let work = async {
                        if *what < 5 {
                            return host.lease(of(n), &want(*owner)).await.map(Some);
                        }
                        // Its record goes first.
                        if records.contains_key(owner) {
                            host.release(of(n), endpoint(*owner)).await?;
                        }
                        Ok(None)
                    };
                    let mut work = Box::pin(work);
                    // Given up after a number of steps, mostly not.
                    for _ in 0..*patience + 6 {
                        if let Some(done) = work.as_mut().now_or_never() {
                            return Some(done);
                        }
                        pause().await;
                    }
                    None
                }
            });
            let outcomes = block_on(join_all(run));
            for (n, (outcome, (what, owner, _))) in outcomes.into_iter().zip(&steps).enumerate() {
                match outcome {
                    Some(Ok(Some(lease))) => {
                        leased += 1;
                        records[n].insert(*owner, lease);
                    }
                    _ if *what >= 5 => drop(records[n].remove(owner)),
                    Some(Err(_)) => {}
                    None => given_up += 1,
                    Some(Ok(None)) => {}
                }
            }
            if random.below(6) == 0 {
                let n = usize::try_from(random.below(4)).expect("small");
                hosts[n] = host(&store, &format!("h{n}"));
                let names: Vec<_> =
                    records[n].iter().map(|(owner, lease)| (*owner, format!("e{owner}"), *lease)).collect();
                let endpoints: Vec<_> = names
                    .iter()
                    .map(|(owner, name, lease)| (endpoint(*owner), name.as_str(), *lease))
                    .collect();
                let (network, name) = (of(n), format!("net {}", n + 1));
                let pools = RestoredPools {
                    network,
                    name: &name,
                    address_space: "",
                    shares: true,
                    v4: &v4[n],
                    v6: &[],
                };
                memory.fail(1_000_000, ClusterFault::Refused);
                block_on(hosts[n].restore(&pools, &endpoints, &[]))
                    .expect("all it was told it has is its own");
            }
            let mut owners: BTreeMap<IpAddr, u128> = BTreeMap::new();
            for (owner, lease) in records.iter().flatten() {
                for address in lease.addresses() {
                    assert_eq!(owners.insert(address, *owner), None, "{address} has two owners");
                }
            }
        }
        memory.fail(1_000_000, ClusterFault::Refused);
        // In the end all know the same, and nothing is held by nobody.
        for (n, host) in hosts.iter().enumerate() {
            let names: Vec<_> =
                records[n].iter().map(|(owner, lease)| (*owner, format!("e{owner}"), *lease)).collect();
            let endpoints: Vec<_> =
                names.iter().map(|(owner, name, lease)| (endpoint(*owner), name.as_str(), *lease)).collect();
            let (network, name) = (of(n), format!("net {}", n + 1));
            let pools =
                RestoredPools { network, name: &name, address_space: "", shares: true, v4: &v4[n], v6: &[] };
            block_on(host.restore(&pools, &endpoints, &[])).expect("its own");
        }
        let all: u64 = records.iter().map(|records| records.len() as u64).sum();
        for host in &hosts {
            block_on(host.release(network(1), endpoint(77))).expect("looks at the store");
            let used = (0..4).map(|n| block_on(host.usage(of(n))).expect("known")[0].used);
            assert_eq!(used.sum::<u64>(), all);
            assert!(block_on(host.take_found()).is_empty());
        }
    }
    assert!(leased > 500 && given_up > 100, "{leased} leased, {given_up} given up");
}

/// Hosts that are as fast as each other, one of which has far more to do than the others: nobody is starved.
#[test]
fn a_host_with_many_changes_lets_others_come_in_between() {
    let memory = MemoryCluster::default();
    let store: Arc<dyn ClusterStore> = Arc::new(Slow(memory.clone()));
    // A rest takes as many turns as milliseconds: the store takes two to answer.
    let rest = |time: std::time::Duration| {
        let turns = time.as_millis();
        async move {
            for _ in 0..turns {
                pause().await;
            }
        }
        .boxed()
    };
    let hosts: Vec<_> = (0..8).map(|n| host(&store, &format!("h{n}")).resting(rest)).collect();
    block_on(pools(&hosts[0], 1, Some("10.0.0.0/16"))).expect("free");
    let work = hosts.iter().enumerate().map(|(n, host)| async move {
        let mut given = Vec::new();
        let many = if n == 0 { 1_000 } else { 30 };
        for owner in 0..many {
            given.push(address(host, 1, owner + 10_000 * n as u128).await?);
        }
        Ok::<_, netloom_model::Error>(given)
    });
    let mut all = BTreeSet::new();
    for (n, given) in block_on(join_all(work)).into_iter().enumerate() {
        let given = given.unwrap_or_else(|error| panic!("host {n} was starved: {error}"));
        assert!(given.into_iter().all(|address| all.insert(address)), "an address was given twice");
    }
    assert_eq!(all.len(), 1_000 + 7 * 30);
}

/// A name is the business of the host whose endpoint has it: what is kept for a new one is kept on all hosts alike, though
/// they know the endpoint by the old one, and the next engine of the host knows it by the new one.
#[test]
fn what_is_kept_for_an_endpoints_new_name_is_kept_on_all_hosts() {
    let (_, store) = shared();
    let (a, b) = (host(&store, "a"), host(&store, "b"));
    block_on(async {
        let granted = pools(&a, 1, Some(SHARED)).await.expect("free");
        pools(&b, 2, Some(SHARED)).await.expect("shared");
        let (kept, other) = (address(&a, 1, 1).await.expect("free"), address(&a, 1, 2).await.expect("free"));
        a.rename(network(1), endpoint(1), "db").await;
        a.rename(network(1), endpoint(2), "web").await;
        a.reserve(network(1), "db", &[kept]).await.expect("it has that already");
        let IpAddr::V4(v4) = kept else { panic!("{kept}") };
        let thief = LeaseRequest { ipv4: Some(v4), ..want(9) };
        b.lease(network(2), &thief).await.expect_err("an endpoint has it");
        assert_eq!(b.take_found().await, [], "all hosts agree");
        a.release(network(1), endpoint(1)).await.expect("released");
        let error = b.lease(network(2), &thief).await.expect_err("it is kept").to_string();
        assert!(error.contains("reservation") && error.contains("net 1"), "{error}");

        // The host's engine is started again: its records have the new names.
        let db = LeaseRequest { name: "db".into(), ..want(3) };
        assert_eq!(a.lease(network(1), &db).await.expect("kept for it").addresses().next(), Some(kept));
        a.rename(network(1), endpoint(3), "mail").await;
        a.reserve(network(1), "web", &[other]).await.expect("it has that already");
        drop(a);
        let again = host(&store, "a");
        let lease = |address: IpAddr| {
            let IpAddr::V4(ip) = address else { panic!("{address}") };
            Lease { ipv4: ipnet::Ipv4Net::new(ip, 26).ok(), ipv6: None }
        };
        let endpoints = [(endpoint(2), "web", lease(other)), (endpoint(3), "mail", lease(kept))];
        let reserved = [("db", vec![kept]), ("web", vec![other])];
        let restored = RestoredPools {
            network: network(1),
            name: "net 1",
            address_space: "",
            shares: true,
            v4: &granted,
            v6: &[],
        };
        assert_eq!(again.restore(&restored, &endpoints, &reserved).await.expect("all is its own"), 0);
        assert_eq!(again.take_found().await, []);
        let holders = again.holders(network(1), 9).await.expect("known").holders;
        let of = |address| holders.iter().find(|held| held.address == address).expect("held").holder.clone();
        assert!(of(kept).contains("\"mail\"") && of(other).contains("\"web\""), "{holders:?}");
        // What it has already can be kept for its new name, of which no other host knows.
        again.unreserve(network(1), "db").await.expect("given up");
        again.reserve(network(1), "mail", &[kept]).await.expect("it has that already");
        again.release(network(1), endpoint(3)).await.expect("released");
        b.lease(network(2), &thief).await.expect_err("it is kept");
        assert_eq!(b.take_found().await, []);
    });
}

/// A host that has been away for so long that it reads an image knows its own endpoints by their names all the same.
#[test]
fn who_reads_an_image_still_knows_the_new_names_of_its_endpoints() {
    let (_, store) = shared();
    let (a, b) = (host(&store, "a"), host(&store, "b"));
    block_on(async {
        pools(&a, 1, Some("10.9.0.0/16")).await.expect("free");
        let kept = address(&a, 1, 1).await.expect("free");
        a.rename(network(1), endpoint(1), "db").await;
        for n in 0..2_000 {
            address(&b, 1, 100 + n).await.expect("free");
        }
        a.release(network(1), endpoint(100)).await.expect("looks");
        let holders = a.holders(network(1), 4).await.expect("known").holders;
        assert!(holders[1].address == kept && holders[1].holder.contains("\"db\""), "{holders:?}");
        a.reserve(network(1), "db", &[kept]).await.expect("it has that already");
        assert_eq!(b.usage(network(1)).await.expect("known")[0].used, 2_001, "it has not looked yet");
        address(&b, 1, 5_000).await.expect("free");
        assert_eq!(b.take_found().await, []);
        // Those who are gone are not remembered.
        a.release(network(1), endpoint(1)).await.expect("released");
        let own = LeaseRequest { name: "e1".into(), ..want(1) };
        a.lease(network(1), &own).await.expect("free");
        for n in 0..2_000 {
            b.release(network(1), endpoint(100 + n)).await.expect("released");
        }
        a.release(network(1), endpoint(5_000)).await.expect("looks");
        let holders = a.holders(network(1), 4).await.expect("known").holders;
        assert!(holders.iter().any(|held| held.holder.contains("endpoint \"e1\"")), "{holders:?}");
    });
}
