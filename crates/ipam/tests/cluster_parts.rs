//! The image of a cluster's address space in parts: large spaces, faults while one is written, two writers at once.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::executor::block_on;
use futures::future::{join, join_all};
use netloom_ipam::cluster::ClusterIpam;
use netloom_ipam::{LeaseRequest, RestoredPools};
use netloom_model::Reason;
use netloom_store::cluster::{ClusterFault, ClusterStore, MemoryCluster, Revision, Swapped};

use common::space::{
    HEAD, PARTS, Slow, address, copy, garbage, head, host, leases, pools, restore, shared, used,
};
use common::{Random, endpoint, from_environment, network, note, want};

/// Changes of an endpoint each, until an image was written once in 64 of them; answers with the bytes written.
async fn written_in_64(memory: &MemoryCluster, change: impl AsyncFn(u32)) -> u64 {
    let before = memory.written();
    for n in 0..64 {
        change(n).await;
    }
    memory.written() - before
}

/// With as many endpoints as `NETLOOM_IPAM_ENDPOINTS` says; without it so many that the image has three levels.
#[test]
fn a_large_space_is_used_as_a_small_one() {
    let many = from_environment("NETLOOM_IPAM_ENDPOINTS").unwrap_or(40_000);
    let many = u32::try_from(many).expect("fewer than there are addresses");
    let began = Instant::now();
    let (memory, store) = shared();
    let a = host(&store, "a");
    block_on(async {
        let v4 = pools(&a, 1, Some("10.0.0.0/8")).await.expect("free");
        let all = leases(many, [10, 0, 0, 2], 8);
        assert_eq!(restore(&a, &v4, &all).await.expect("free"), 0);
        let (built, writes) = (began.elapsed(), memory.written());
        let parts = store.keys(PARTS).await.expect("listed").len();
        note(format_args!("{many} endpoints in {parts} parts, {writes} bytes written, in {built:?}"));
        let each = usize::try_from(many).expect("small") / parts;
        assert!(parts > 200 && (40..400).contains(&each), "{parts} parts, {each} endpoints in each");
        let largest =
            join_all(store.keys(PARTS).await.expect("listed").iter().map(|key| store.get(key))).await;
        let largest = largest.into_iter().map(|found| found.expect("read").expect("there").value.len()).max();
        assert!(largest.is_some_and(|largest| largest < 10 * 1024), "{largest:?}");

        // Another host follows from nothing.
        let b = host(&store, "b");
        let last = address(&b, 1, 1_000_000).await.expect("free");
        assert_eq!(last, IpAddr::from(Ipv4Addr::from(0x0a00_0002 + many)));
        assert_eq!((used(&b).await, b.take_found().await), (u64::from(many) + 1, Vec::new()));
        b.release(network(1), endpoint(1_000_000)).await.expect("released");
        assert_eq!(
            address(&a, 1, 1_000_001).await.expect("free"),
            IpAddr::from(Ipv4Addr::from(0x0a00_0003 + many))
        );
        note(format_args!("another host follows: {:?}", began.elapsed()));

        // Changes one after the other, and changes all over the space.
        let in_order = written_in_64(&memory, async |n| {
            address(&b, 1, u128::from(2_000_000 + n)).await.expect("free");
        })
        .await;
        let scattered = written_in_64(&memory, async |n| {
            b.release(network(1), endpoint((n * (many / 64 - 1)).into())).await.expect("released");
        })
        .await;
        note(format_args!("bytes written in 64 changes: {in_order} in order, {scattered} scattered"));
        // What of that are heads, each with all changes since the last image, follows from their number alone.
        assert!(in_order < 320 * 1024, "{in_order}");
        assert!(scattered < 640 * 1024, "{scattered}");
        assert_eq!(used(&b).await, u64::from(many) + 1);
        // Who is some changes behind follows those, and reads no image.
        let calls = memory.calls();
        a.release(network(1), endpoint(77_777_777)).await.expect("looks");
        assert!(memory.calls() - calls < 10, "{} calls", memory.calls() - calls);
        assert_eq!((used(&a).await, a.take_found().await), (u64::from(many) + 1, Vec::new()));
        let c = host(&store, "c");
        address(&c, 1, 3_000_000).await.expect("free");
        assert_eq!((used(&c).await, c.take_found().await), (u64::from(many) + 2, Vec::new()));

        // It goes away as it came.
        a.release_pools(network(1)).await.expect("released");
        let mut rounds = 0;
        while head(&store).await["parts"].as_u64() > Some(1) || garbage(&store).await > 0 {
            pools(&a, 2, None).await.expect("free");
            a.release_pools(network(2)).await.expect("released");
            rounds += 1;
            assert!(rounds < 2_000, "something is left");
        }
        note(format_args!("nothing is left after {} changes", 2 * rounds));
    });
    note(format_args!("all in {:?}", began.elapsed()));
}

/// A space of some parts, and a head that is so long that the next change writes an image: changes of what lies in all of
/// them.
async fn about_to_be_written(store: &Arc<dyn ClusterStore>) -> ClusterIpam {
    let a = host(store, "a");
    let v4 = pools(&a, 1, Some("10.0.0.0/16")).await.expect("free");
    restore(&a, &v4, &leases(700, [10, 0, 1, 0], 16)).await.expect("free");
    let so_far = head(store).await["changes"][0].as_u64().expect("how many there are");
    for n in 0..u32::try_from(64 - so_far).expect("few") {
        // They are there as before, by changes all over the space.
        let owner = endpoint(u128::from(n / 2 * 21));
        let ipv4 = Some(Ipv4Addr::from(0x0a00_0100 + n / 2 * 21));
        if n % 2 == 0 {
            a.release(network(1), owner).await.expect("released");
        } else {
            let again = LeaseRequest { owner, name: format!("again {n}"), ipv4, ipv6: None };
            a.lease(network(1), &again).await.expect("free");
        }
    }
    let head = head(store).await;
    assert_eq!(head["changes"][0].as_u64(), Some(64));
    assert!(head["parts"].as_u64() > Some(4), "{}", head["parts"]);
    a
}

/// Every call fails while an image is written, in every way: nothing is lost, nobody has an address twice, and what was left
/// behind is gone after the next images.
#[test]
fn a_fault_at_every_call_while_an_image_is_written_leaves_nothing() {
    use ClusterFault::{AnswerLost, Late, LateAndAway, LostAndAway, Refused};
    let mut sweeps = 0;
    let (_, made) = shared();
    block_on(about_to_be_written(&made));
    for fault in [Refused, AnswerLost, LostAndAway, Late, LateAndAway] {
        for nth in 1.. {
            let struck = block_on(async {
                let (memory, store) = copy(&made).await;
                let a = host(&store, "a");
                a.release(network(1), endpoint(77_777)).await.expect("looks");
                let before = (memory.calls(), used(&a).await);
                memory.fail(nth, fault);
                let got = address(&a, 1, 100_000).await;
                let struck = memory.calls() >= before.0 + nth;
                memory.fail(1_000_000, fault);
                memory.unreachable(false);
                let b = host(&store, "b");
                let other = address(&b, 1, 200_000).await.expect("free");
                memory.land();
                let again = address(&a, 1, 100_000).await.expect("free");
                assert_ne!(again, other);
                if let Ok(got) = got {
                    assert_eq!(got, again);
                }
                // Also for one who begins at the next image, and what is of no use is gone by then.
                for n in 0..70 {
                    let by = if n % 2 == 0 { &a } else { &b };
                    address(by, 1, 300_000 + n).await.expect("free");
                }
                assert_eq!(garbage(&store).await, 0, "{fault:?} at call {nth}");
                let c = host(&store, "c");
                address(&c, 1, 400_000).await.expect("free");
                assert_eq!(used(&c).await, before.1 + 73, "{fault:?} at call {nth}");
                b.release(network(1), endpoint(77_777)).await.expect("looks");
                let of = async |host: &ClusterIpam| host.holders(network(1), 10_000).await.expect("known");
                assert_eq!(of(&b).await.holders, of(&c).await.holders, "{fault:?} at call {nth}");
                assert!(c.take_found().await.is_empty());
                struck
            });
            if !struck {
                break;
            }
            sweeps += 1;
        }
    }
    note(format_args!("{sweeps} calls failed"));
    assert!(sweeps > 100, "{sweeps}");
}

/// Two hosts write an image at the same moment, parts of the same contents or of others: one of them is made, whole.
#[test]
fn two_hosts_that_write_an_image_at_once_never_mix() {
    for differs in [false, true] {
        let memory = MemoryCluster::default();
        let quick: Arc<dyn ClusterStore> = Arc::new(memory.clone());
        let slow: Arc<dyn ClusterStore> = Arc::new(Slow(memory.clone()));
        block_on(async {
            let begun = about_to_be_written(&quick).await;
            let before = used(&begun).await;
            drop(begun);
            let (a, b) = (host(&slow, "a"), host(&slow, "b"));
            // Each knows all there is.
            for host in [&a, &b] {
                host.release(network(1), endpoint(77_777)).await.expect("looks");
            }
            if differs {
                // Others go on by the old name: it is in the parts of one of them alone.
                for n in 0..700 {
                    a.rename(network(1), endpoint(n), &format!("renamed {n}")).await;
                }
            }
            // Every part that was there at any time.
            let mut seen = BTreeSet::new();
            let mut both = Box::pin(join(address(&a, 1, 100_000), address(&b, 1, 200_000)));
            let (one, other) = loop {
                if let Some(both) = both.as_mut().now_or_never() {
                    break both;
                }
                seen.extend(quick.keys(PARTS).await.expect("listed"));
            };
            assert_ne!(one.expect("free"), other.expect("free"));
            let image = format!("/{:020}-", head(&quick).await["image"].as_u64().expect("a number"));
            let of_image =
                |keys: &mut dyn Iterator<Item = String>| keys.filter(|key| key.contains(&image)).count();
            let made = of_image(&mut seen.into_iter());
            let used_of_it = of_image(&mut quick.keys(PARTS).await.expect("listed").into_iter());
            note(format_args!("{made} parts were made, {used_of_it} of them are used"));
            assert!(used_of_it > 4);
            assert_eq!(made > used_of_it, differs, "both were at it at once");
            let c = host(&quick, "c");
            for n in 0..70 {
                address(&c, 1, 300_000 + n).await.expect("free");
            }
            assert_eq!(garbage(&quick).await, 0);
            let d = host(&quick, "d");
            address(&d, 1, 400_000).await.expect("free");
            assert_eq!((used(&d).await, d.take_found().await), (before + 73, Vec::new()));
        });
    }
}

/// A host that was away reads an image while others write the next ones: it looks again, until it has a whole one.
#[test]
fn who_reads_an_image_while_the_next_ones_are_written_looks_again() {
    let memory = MemoryCluster::default();
    let quick: Arc<dyn ClusterStore> = Arc::new(memory.clone());
    let slow: Arc<dyn ClusterStore> = Arc::new(Slow(memory.clone()));
    block_on(async {
        drop(about_to_be_written(&quick).await);
        let (a, late) = (host(&slow, "a"), host(&slow, "late"));
        let v4 = pools(&a, 2, Some("10.7.0.0/16")).await.expect("free");
        let done = Cell::new(false);
        // As fast as images follow each other: as many changes at once as there can be.
        let busy = async {
            for n in 0..40 {
                let all = leases(3_000, [10, 7, 1, n], 16);
                let all: Vec<_> = all.iter().map(|(id, name, lease)| (*id, name.as_str(), *lease)).collect();
                let name = "net 2";
                let pools = RestoredPools {
                    network: network(2),
                    name,
                    address_space: "",
                    shares: false,
                    v4: &v4,
                    v6: &[],
                };
                a.restore(&pools, &all, &[]).await.expect("free");
                a.restore(&pools, &[], &[]).await.expect("gone");
                if done.get() {
                    return n;
                }
            }
            40
        };
        let late_one = async {
            let images = head(&quick).await["image"].as_u64();
            let given = late.release(network(1), endpoint(77_777)).await;
            done.set(true);
            (images, given)
        };
        let ((before, given), rounds) = join(late_one, busy).await;
        given.expect("it has got through");
        note(format_args!("from image {before:?} to {}, in {rounds} rounds", head(&quick).await["image"]));
        a.release(network(1), endpoint(77_777)).await.expect("looks");
        assert_eq!(used(&late).await, used(&a).await);
        assert!(late.take_found().await.is_empty());
    });
}

/// Whatever becomes of the head: it is told by its key, and nothing is written over it.
#[test]
fn a_head_that_is_altered_or_of_later_is_told() {
    for what in ["altered", "newer"] {
        let (_, store) = shared();
        block_on(async {
            about_to_be_written(&store).await;
            let found = store.get(HEAD).await.expect("read").expect("there");
            let mut value = found.value.clone();
            value[if what == "newer" { 0 } else { 40 }] += 1;
            let swapped = store.swap(HEAD, value, Some(found.revision)).await;
            assert!(matches!(swapped, Ok(Swapped::Done(Revision(_)))), "{swapped:?}");
            let after = store.get(HEAD).await.expect("read");
            let error = address(&host(&store, "b"), 1, 1_000_000).await.expect_err("it cannot be read");
            let (text, remedy) = (error.to_string(), error.remedy().expect("there is one"));
            assert!(
                text.contains(HEAD) && matches!(error.reason(), Reason::ClusterStore { .. }),
                "{what}: {text}"
            );
            assert!(remedy.contains("backup") || remedy.contains("later version"), "{what}: {remedy}");
            assert_eq!(remedy.contains("later version"), what == "newer", "{what}: {remedy}");
            assert_eq!(store.get(HEAD).await.expect("read"), after, "nothing is written over it");
        });
    }
}

/// Networks and endpoints of all sorts come and go on two hosts over many images: whoever reads the last one knows what those
/// know who have followed every change.
#[test]
fn an_image_in_parts_says_what_its_changes_made() {
    let mut random = Random::seeded();
    let (_, store) = shared();
    let hosts = [host(&store, "a"), host(&store, "b")];
    block_on(async {
        let mut at = [None; 40];
        for step in 0..6_000_u32 {
            let n = random.one_of(at.len());
            let id = u32::try_from(n).expect("small") + 1;
            let by = at[n].unwrap_or_else(|| random.one_of(2));
            let owner = u128::from(random.below(120));
            match random.below(40) {
                0 if at[n].is_some() => {
                    hosts[by].release_pools(network(id)).await.expect("released");
                    at[n] = None;
                }
                1..14 => drop(hosts[by].release(network(id), endpoint(owner)).await),
                14 | 15 => {
                    let kept =
                        Ipv4Addr::from(0x0a00_00c0 + (id << 8) + u32::try_from(owner % 30).expect("small"));
                    drop(hosts[by].reserve(network(id), &format!("e{}", owner % 9), &[kept.into()]).await);
                }
                16 => drop(hosts[by].unreserve(network(id), &format!("e{}", owner % 9)).await),
                _ => {
                    if at[n].is_none() {
                        let subnet = format!("10.0.{id}.0/24");
                        pools(&hosts[by], id, Some(&subnet)).await.expect("free");
                        at[n] = Some(by);
                    }
                    drop(hosts[by].lease(network(id), &want(owner)).await);
                }
            }
            if step % 500 == 499 {
                let new = host(&store, "new");
                for host in hosts.iter().chain([&new]) {
                    host.release(network(1), endpoint(77_777)).await.expect("looks");
                    assert!(host.take_found().await.is_empty());
                }
                for (n, at) in at.iter().enumerate() {
                    let id = network(u32::try_from(n).expect("small") + 1);
                    let [one, other] = [&hosts[0], &new];
                    assert_eq!(one.usage(id).await, other.usage(id).await);
                    assert_eq!(one.usage(id).await.is_some(), at.is_some());
                    let all = one.holders(id, 1_000).await.map(|all| all.holders);
                    assert_eq!(all, other.holders(id, 1_000).await.map(|all| all.holders));
                }
                assert_eq!(new.pools().await, hosts[1].pools().await);
                assert_eq!(garbage(&store).await, 0);
            }
        }
        let parts = head(&store).await["parts"].as_u64();
        note(format_args!("{parts:?} parts in the end"));
        let all: BTreeSet<_> = store.keys(PARTS).await.expect("listed").into_iter().collect();
        assert!(all.len() > 4);
    });
}
