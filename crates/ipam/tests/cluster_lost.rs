//! Parts of the image of a cluster's address space that are lost or damaged: whoever knows all writes them again, and whoever
//! does not gives out nothing that may be somebody's.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures::executor::block_on;
use ipnet::IpNet;
use netloom_ipam::cluster::ClusterIpam;
use netloom_ipam::{InDoubt, LeaseRequest, PoolsRequest};
use netloom_model::record::PoolRecord;
use netloom_model::{Error, IpamPoolSpec, IpamSpec, Reason};
use netloom_store::cluster::{ClusterFault, ClusterStore};

use common::space::{
    HEAD, PARTS, address, copy, garbage, head, host, leases, net, pools, restore, shared, used,
};
use common::{endpoint, network, note, want};

const DUAL: u32 = 50;
/// The networks of the space: a large one, many small ones, and one of two families.
const NETWORKS: [u32; 7] = [1, 2, 9, 17, 23, 41, DUAL];

async fn dual(host: &ClusterIpam) {
    let pool = |subnet| IpamPoolSpec { subnet: Some(net(subnet)), ..Default::default() };
    let (v4, v6) = (vec![pool("10.50.0.0/16")], vec![pool("fd50::/64")]);
    let spec = IpamSpec { v4, v6, ..IpamSpec::default() };
    let (network, name) = (network(DUAL), "net 50".to_owned());
    let request = PoolsRequest { network, name, spec: &spec, ipv6: true, shares: false, host: &[] };
    host.request_pools(&request).await.expect("free");
}

/// A space of a dozen parts, and the host that made it. Its history does not go back to the beginning unless `all` of it is
/// so short.
async fn space(store: &Arc<dyn ClusterStore>, all: bool) -> (ClusterIpam, Vec<PoolRecord>) {
    let a = host(store, "a");
    let v4 = pools(&a, 1, Some("10.1.0.0/16")).await.expect("free");
    restore(&a, &v4, &leases(600, [10, 1, 1, 0], 16)).await.expect("free");
    if !all {
        for n in 2..45 {
            pools(&a, n, Some(&format!("10.0.{n}.0/24"))).await.expect("free");
            for owner in 0..8 {
                address(&a, n, owner).await.expect("free");
            }
        }
        dual(&a).await;
        for owner in 0..150 {
            a.lease(network(DUAL), &want(owner)).await.expect("free");
        }
        for owner in 1_000..1_130 {
            address(&a, 2, owner).await.expect("free");
            a.release(network(2), endpoint(owner)).await.expect("released");
        }
        for n in 0..5 {
            let kept = IpAddr::from([10, 1, 9, n]);
            a.reserve(network(1), &format!("kept {n}"), &[kept]).await.expect("free");
        }
    }
    let head = head(store).await;
    assert_eq!(head["pieces"][0].as_u64() == Some(0), all, "{}", head["pieces"]);
    (a, v4)
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Gone,
    Altered,
    Another,
}

async fn harm(store: &Arc<dyn ClusterStore>, key: &str, harm: Harm) {
    let found = store.get(key).await.expect("read").expect("there");
    let mut value = found.value;
    match harm {
        Harm::Gone => return store.remove(key).await.expect("removed"),
        Harm::Altered => value[40] ^= 1,
        Harm::Another => {
            let keys = store.keys(PARTS).await.expect("listed");
            let other = keys.iter().find(|other| *other != key).expect("several");
            value = store.get(other).await.expect("read").expect("there").value;
        }
    }
    store.swap(key, value, Some(found.revision)).await.expect("written");
}

/// Who holds what, of all networks.
async fn truth(host: &ClusterIpam) -> BTreeMap<(u32, IpAddr), String> {
    let mut all = BTreeMap::new();
    for n in 1..=60 {
        let held = host.holders(network(n), 10_000).await.map(|held| held.holders).unwrap_or_default();
        all.extend(held.into_iter().map(|held| ((n, held.address), held.holder)));
    }
    all
}

/// Looks at the store.
async fn look(host: &ClusterIpam) {
    let want = LeaseRequest { ipv4: Some([9, 9, 9, 9].into()), ..want(1_000_000) };
    host.lease(network(2), &want).await.expect_err("it lies in no pool");
}

fn is_doubt(error: &Error, key: &str) {
    assert!(matches!(error.reason(), Reason::ClusterStore { .. }), "{error}");
    assert!(error.to_string().contains(key), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("engine was there before")), "{error}");
}

/// One that does not know all takes what it can get: nothing of that is anybody's, and the rest is refused as in doubt.
async fn takes_nothing_of_others(b: &ClusterIpam, a: &ClusterIpam, key: &str, owner: u128) -> usize {
    let before = truth(a).await;
    let held: BTreeSet<_> = before.keys().map(|(_, address)| *address).collect();
    let in_use: Vec<IpNet> = a.pools().await.iter().map(|pool| pool.pool).collect();
    let mut given = 0;
    for n in NETWORKS {
        for owner in owner..owner + 3 {
            match b.lease(network(n), &want(owner)).await {
                Ok(lease) => {
                    let taken = lease.addresses().any(|address| held.contains(&address));
                    assert!(!taken, "{lease:?} was given, and is somebody's: {key}");
                    given += 1;
                }
                Err(error) => is_doubt(&error, key),
            }
        }
    }
    // Those of others, where they are asked for: each is refused, as theirs or as in doubt.
    let theirs = before.iter().filter(|((n, address), _)| NETWORKS.contains(n) && address.is_ipv4());
    for ((n, address), holder) in theirs.step_by(7) {
        let IpAddr::V4(ip) = *address else { continue };
        let theft = LeaseRequest { ipv4: Some(ip), ..want(owner + 10) };
        b.lease(network(*n), &theft).await.expect_err(holder);
        b.reserve(network(*n), "thief", &[*address]).await.expect_err(holder);
    }
    // Pools.
    match pools(b, 60, None).await {
        Ok(new) => {
            assert!(!in_use.iter().any(|pool| pool.contains(&new[0].pool)), "{new:?}: {key}");
            b.release_pools(network(60)).await.expect("its own");
        }
        Err(error) => is_doubt(&error, key),
    }
    for pool in &in_use {
        pools(b, 61, Some(&pool.to_string())).await.expect_err("it is somebody's");
    }
    given
}

/// Each part in turn is lost in each way. New hosts go on without what it said, the one that was there heals it with its next
/// change, and then all know the same.
#[test]
fn each_part_lost_in_turn_keeps_its_addresses_and_is_written_again() {
    let (_, store) = shared();
    block_on(async {
        let (a, _) = space(&store, false).await;
        let (mut at, mut given, mut doubts) = (0, 0, BTreeSet::new());
        loop {
            let keys = store.keys(PARTS).await.expect("listed");
            let Some(key) = keys.get(at) else { break };
            let way = [Harm::Gone, Harm::Altered, Harm::Another][at % 3];
            harm(&store, key, way).await;
            let (b, c) = (host(&store, "b"), host(&store, "c"));
            let owner = 10_000 + at as u128 * 100;
            let before = head(&store).await["image"].clone();
            given += takes_nothing_of_others(&b, &a, key, owner).await;
            let told = b.doubts().await;
            assert_eq!((b.take_doubts().await, b.take_doubts().await), (told.clone(), Vec::new()));
            assert!(told.iter().all(|doubt| doubt.key == *key), "{told:?}");
            doubts.extend(told.iter().map(|doubt| match &doubt.what {
                InDoubt::Addresses { pool, .. } => pool.to_string(),
                InDoubt::Pools { .. } => "pools".to_owned(),
            }));
            // The one that was there finds out by the head. Until it writes, nobody does.
            assert_eq!(head(&store).await["broken"].as_bool(), Some(true), "{way:?} {key}");
            assert_eq!(head(&store).await["image"], before, "whoever does not know all makes no image");
            // What an unknown endpoint has is given back all the same, or that is refused.
            let gone = endpoint(at as u128 * 7);
            if let Err(error) = c.release(network(1), gone).await {
                is_doubt(&error, key);
            }
            address(&a, 2, owner + 50).await.expect("free");
            a.release(network(2), endpoint(owner + 50)).await.expect("released");
            assert_eq!(head(&store).await.get("broken"), None, "{way:?} {key}");
            assert_eq!(garbage(&store).await, 0, "{way:?} {key}");
            given += takes_nothing_of_others(&c, &a, key, owner + 30).await;
            let d = host(&store, "d");
            for host in [&a, &b, &c, &d] {
                look(host).await;
                assert_eq!(host.doubts().await, Vec::new());
                assert_eq!(host.take_found().await, Vec::new(), "{way:?} {key}");
            }
            let all = truth(&a).await;
            for host in [&b, &c, &d] {
                assert_eq!(truth(host).await, all, "{way:?} {key}");
            }
            at += 1;
        }
        note(format_args!(
            "{at} parts were lost, {given} addresses were given meanwhile; in doubt: {doubts:?}"
        ));
        assert!(at > 8 && given > 100, "{at} {given}");
        for what in ["10.1.0.0/16", "10.50.0.0/16", "fd50::/64", "pools"] {
            assert!(doubts.contains(what), "{what} was never in doubt: {doubts:?}");
        }
    });
}

/// One that was there all the time finds out when it writes the next image, and nobody else has noticed.
#[test]
fn whoever_writes_the_next_image_finds_out_what_is_lost() {
    let (_, store) = shared();
    block_on(async {
        let (a, _) = space(&store, false).await;
        for at in [0, 3, 7] {
            let keys = store.keys(PARTS).await.expect("listed");
            harm(&store, &keys[at], Harm::Gone).await;
            for n in 0..600 {
                a.release(network(1), endpoint(n)).await.expect("released");
                let ipv4 = Some(std::net::Ipv4Addr::from(0x0a01_0100 + u32::try_from(n).expect("small")));
                a.lease(network(1), &LeaseRequest { ipv4, ..want(n) }).await.expect("free");
            }
            assert_eq!(garbage(&store).await, 0);
            let d = host(&store, "d");
            look(&d).await;
            assert_eq!((d.doubts().await, d.take_found().await), (Vec::new(), Vec::new()));
            assert_eq!(truth(&d).await, truth(&a).await);
        }
    });
}

/// Where the history beside the image goes back to its beginning, it says all that the image does.
#[test]
fn a_short_history_heals_every_part() {
    let (_, store) = shared();
    block_on(async {
        let (a, _) = space(&store, true).await;
        let all = truth(&a).await;
        let keys = store.keys(PARTS).await.expect("listed");
        assert!(keys.len() > 3);
        for key in &keys {
            let (_, store) = copy(&store).await;
            harm(&store, key, Harm::Altered).await;
            let b = host(&store, "b");
            address(&b, 1, 5_000).await.expect("free");
            b.release(network(1), endpoint(5_000)).await.expect("released");
            assert_eq!((b.doubts().await, truth(&b).await), (Vec::new(), all.clone()));
            assert_eq!(garbage(&store).await, 0);
            let d = host(&store, "d");
            address(&d, 1, 5_001).await.expect("free");
            assert_eq!((d.doubts().await, used(&d).await), (Vec::new(), 601));
        }
    });
}

/// Every call fails while the image is written again: nothing is lost by that, and the next one comes further.
#[test]
fn a_fault_at_every_call_of_the_healing_is_made_good() {
    use ClusterFault::{AnswerLost, Late, Refused};
    let (_, made) = shared();
    let mut sweeps = 0;
    block_on(async {
        space(&made, true).await;
        let key = made.keys(PARTS).await.expect("listed").swap_remove(1);
        for fault in [Refused, AnswerLost, Late] {
            for nth in 1.. {
                let (memory, store) = copy(&made).await;
                harm(&store, &key, Harm::Gone).await;
                let a = host(&store, "a");
                let before = memory.calls();
                memory.fail(nth, fault);
                let got = address(&a, 1, 5_000).await;
                let struck = memory.calls() >= before + nth;
                memory.fail(1_000_000, fault);
                let b = host(&store, "b");
                let other = address(&b, 1, 6_000).await.expect("free");
                memory.land();
                let again = address(&a, 1, 5_000).await.expect("free");
                assert!(got.is_err() || got.is_ok_and(|got| got == again), "{fault:?} at call {nth}");
                assert_ne!(again, other, "{fault:?} at call {nth}");
                for n in 0..70 {
                    address(&b, 1, 7_000 + n).await.expect("free");
                }
                let c = host(&store, "c");
                address(&c, 1, 8_000).await.expect("free");
                assert_eq!((used(&c).await, c.doubts().await), (673, Vec::new()), "{fault:?} at call {nth}");
                assert!(c.take_found().await.is_empty() && a.take_found().await.is_empty());
                assert_eq!(garbage(&store).await, 0, "{fault:?} at call {nth}");
                if !struck {
                    break;
                }
                sweeps += 1;
            }
        }
    });
    note(format_args!("{sweeps} calls failed"));
    assert!(sweeps > 50, "{sweeps}");
}

/// Nobody is left who knows all, and nothing of the image: hosts have what their records say, nothing of it is given to
/// others, and the space begins anew when somebody says so.
#[test]
fn hosts_have_what_their_records_say_though_nobody_knows_the_rest() {
    let (_, store) = shared();
    block_on(async {
        let (a, v4) = space(&store, false).await;
        let all = truth(&a).await;
        let root = head(&store).await["root"].clone();
        let key = store.keys(PARTS).await.expect("listed").into_iter();
        let hash = root["hash"].as_str().expect("text").replace('-', "");
        let key = key.into_iter().find(|key| key.ends_with(&hash)).expect("there");
        harm(&store, &key, Harm::Gone).await;
        let records = leases(600, [10, 1, 1, 0], 16);
        let again = host(&store, "a");
        assert_eq!(restore(&again, &v4, &records).await.expect("they are its own"), 0);
        let mine: BTreeSet<_> = truth(&again).await.into_keys().collect();
        assert!(mine.iter().all(|held| all.contains_key(held)) && mine.len() >= 600, "{}", mine.len());
        let b = host(&store, "b");
        is_doubt(&address(&b, 1, 9_000).await.expect_err("all of it is in doubt"), &key);
        is_doubt(&pools(&b, 60, None).await.expect_err("all of it is in doubt"), &key);
        is_doubt(&b.release(network(9), endpoint(1)).await.expect_err("it may be there"), &key);
        is_doubt(&b.release_pools(network(9)).await.expect_err("it may be there"), &key);
        is_doubt(&b.purge("a").await.expect_err("not all of it is known"), &key);
        assert_eq!(used(&b).await, 600);
        // The one that was there comes back to it: what the records said is what it knows.
        address(&a, 1, 9_000).await.expect("free");
        assert_eq!((a.take_found().await, used(&a).await), (Vec::new(), 601));
        look(&b).await;
        assert_eq!((b.doubts().await, truth(&b).await), (Vec::new(), truth(&a).await));
        // Without it: as the error says.
        let root = head(&store).await["root"]["hash"].as_str().expect("text").replace('-', "");
        let keys = store.keys(PARTS).await.expect("listed");
        harm(&store, keys.iter().find(|key| key.ends_with(&root)).expect("there"), Harm::Gone).await;
        store.remove(HEAD).await.expect("removed");
        let anew = host(&store, "a");
        assert_eq!(restore(&anew, &v4, &records).await.expect("free"), 0);
        assert_eq!((used(&anew).await, anew.doubts().await), (600, Vec::new()));
    });
}

/// Those who do not know all write no image, so there is an end to what they can change.
#[test]
fn a_head_of_many_changes_in_doubt_has_an_end() {
    let (_, store) = shared();
    block_on(async {
        let (a, _) = space(&store, false).await;
        drop(a);
        let keys = store.keys(PARTS).await.expect("listed");
        harm(&store, &keys[0], Harm::Gone).await;
        let b = host(&store, "b");
        let (mut made, mut refused, mut last) = (0, 0, 0);
        for n in 0..2_000 {
            let long = LeaseRequest { name: format!("{n}{}", "x".repeat(4_000)), ..want(20_000 + n) };
            for of in [1, DUAL] {
                match b.lease(network(of), &long).await {
                    Ok(_) => (made, last) = (made + 1, n),
                    Err(error) => {
                        is_doubt(&error, &keys[0]);
                        refused += 1;
                    }
                }
            }
            if made > 0 && n > last + 3 {
                break;
            }
        }
        let bytes = store.get(HEAD).await.expect("read").expect("there").value.len();
        note(format_args!("{made} changes until the head had {bytes} bytes, {refused} refused"));
        assert!((100..1_000).contains(&made), "{made}");
        assert!((700 * 1024..=768 * 1024).contains(&bytes), "{bytes}");
    });
}
