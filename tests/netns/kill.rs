//! kill -9 at any moment of a churn: the next engine starts, tells the truth, and everything can be deleted.

// The seed must be seen.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use netloom::kernel::{Kernel, LinkKind, Netns};
use netloom::snapshot::EndpointPhase;
use netloom::{Engine, Network, NetworkSpec, ShutdownMode};

use crate::churn::lifecycle;
use crate::lab::{Lab, delete_everything, in_lab, soon};
use crate::victim::{Victim, ready, run_until_killed, victim};

/// Repeats the moments of an earlier run.
const SEED: &str = "NETLOOM_TEST_SEED";
const ROUNDS: usize = 12;
/// Networks that stay, and callers that share them.
const NETWORKS: usize = 20;
const SHARERS: usize = 48;
/// Callers whose networks come and go.
const OWNERS: usize = 16;

#[test]
fn killed_at_any_moment_of_a_churn() {
    if let Some(dir) = victim() {
        run_until_killed(&dir, churn);
    }
    in_lab(async |lab| {
        let seed = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x9e37);
        println!("{SEED}={seed}");
        let mut random = seed | 1;
        let mut starts = Vec::new();
        let mut repairs = 0;
        for round in 0..ROUNDS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            kill_after(&lab, Duration::from_millis(20 + random % 1_000)).await;
            let started = Instant::now();
            let engine = lab.next_engine().await;
            let took = started.elapsed();
            starts.push(took);
            repairs += engine.repairs().len();
            engine.drain().await.expect("drained");
            tells_the_truth(&engine, &lab).await;
            delete_everything(&engine).await;
            lab.assert_pristine().await;
            println!("round {round}: {} repairs, started in {took:?}", engine.repairs().len());
            engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        }
        starts.sort_unstable();
        let (middle, slowest) = (starts[ROUNDS / 2], starts[ROUNDS - 1]);
        println!("{repairs} repairs in all; the middle start took {middle:?}, the slowest {slowest:?}");
        assert!(repairs > 0, "no kill ever hit anything: the test is blind");
        // Most take a tenth of that, so that a busy machine does not count.
        assert!(middle < Duration::from_secs(1), "starts took {starts:?}");
    });
}

/// Starts a process that churns in this lab, and kills it so long after it began.
async fn kill_after(lab: &Lab, time: Duration) {
    let victim = Victim::of(lab, "kill::killed_at_any_moment_of_a_churn").await;
    tokio::time::sleep(time).await;
    victim.kill();
}

/// The victim's part: the churn of `churn.rs`, and networks that come and go.
async fn churn(engine: Engine) {
    let mut shared = Vec::new();
    for n in 0..NETWORKS {
        shared.push(network(&engine, n).await);
    }
    ready();
    let next = Arc::new(AtomicUsize::new(NETWORKS));
    let callers = (0..SHARERS + OWNERS).map(|caller| {
        let (engine, next) = (engine.clone(), next.clone());
        let shared = (caller < SHARERS).then(|| shared[caller % NETWORKS].clone());
        let number = move || next.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            loop {
                if let Some(network) = &shared {
                    lifecycle(&engine, network, number()).await.expect("a lifecycle");
                    continue;
                }
                let own = network(&engine, number()).await;
                for _ in 0..4 {
                    lifecycle(&engine, &own, number()).await.expect("a lifecycle");
                }
                own.delete().await.expect("deleted");
            }
        })
    });
    join_all(callers).await;
    panic!("a caller ended")
}

async fn network(engine: &Engine, number: usize) -> Network {
    engine.controller().create_network(NetworkSpec::new(format!("n{number}"))).await.expect("a network")
}

/// Whatever the engine lists must be there, and nothing else of ours.
async fn tells_the_truth(engine: &Engine, lab: &Lab) {
    let picture = engine.inspect().await.expect("inspected");
    let host = lab.kernel.links(Netns::Host, soon()).await.expect("links");
    let mut joined = 0;
    for network in &picture.networks {
        let bridge = format!("br-{}", network.id.short());
        assert!(host.iter().any(|link| link.name.as_str() == bridge), "{bridge} is missing");
        for endpoint in &network.endpoints {
            match endpoint.phase {
                EndpointPhase::Idle => continue,
                EndpointPhase::Joined => {}
                other => panic!("endpoint {} is {other:?} though nothing runs", endpoint.name),
            }
            joined += 1;
            let id = endpoint.sandbox.expect("joined to something");
            let sandbox = engine.controller().sandbox(id).expect("its sandbox is listed");
            let inside = Netns::Named(sandbox.netns().expect("a name"));
            let links = lab.kernel.links(inside, soon()).await.expect("its namespace is there");
            let name = endpoint.ifname.expect("a name");
            let link = links.iter().find(|link| link.name == name).expect("its link is there");
            assert!(link.up, "{name} is down");
            let addresses = lab.kernel.addresses(inside, soon()).await.expect("addresses");
            let address = endpoint.ipv4.expect("an address").into();
            assert!(addresses.iter().any(|view| view.address == address), "{address} is missing");
        }
    }
    let veths = host.iter().filter(|link| link.kind == LinkKind::Veth).count();
    assert_eq!(veths, joined, "links that belong to nobody: {host:#?}");
    let namespaces = lab.kernel.namespaces(soon()).await.expect("namespaces");
    assert_eq!(namespaces.len(), picture.sandboxes.len(), "namespaces that belong to nobody");
    assert_eq!(engine.diff().await.expect("compared"), [], "what is wanted and what there is");
}
