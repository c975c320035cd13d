//! Many callers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use netloom::{EndpointSpec, Engine, ErrorKind, JoinSpec, Network, NetworkSpec, Result, SandboxSpec};

use crate::lab::{delete_everything, in_lab};

const ENDPOINTS: usize = 1_000;
const NETWORKS: usize = 20;
const CALLERS: usize = 64;

/// The whole life of an endpoint with a sandbox of its own.
pub(crate) async fn lifecycle(engine: &Engine, network: &Network, n: usize) -> Result<()> {
    let endpoint = network.create_endpoint(EndpointSpec::new(format!("e{n}"))).await?;
    let sandbox = engine.controller().create_sandbox(SandboxSpec::new(format!("c{n}"))).await?;
    endpoint.join(&sandbox, JoinSpec::default()).await?;
    endpoint.leave(&sandbox).await?;
    endpoint.delete().await?;
    sandbox.delete().await
}

#[test]
fn a_thousand_endpoints_over_twenty_networks_by_64_callers() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let mut networks = Vec::new();
        for n in 0..NETWORKS {
            let spec = NetworkSpec::new(format!("n{n}"));
            networks.push(engine.controller().create_network(spec).await.expect("a network"));
        }
        let (networks, next) = (Arc::new(networks), Arc::new(AtomicUsize::new(0)));
        let callers = (0..CALLERS).map(|_| {
            let (engine, networks, next) = (engine.clone(), networks.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= ENDPOINTS {
                        return;
                    }
                    let outcome = lifecycle(&engine, &networks[n % NETWORKS], n).await;
                    outcome.unwrap_or_else(|error| panic!("endpoint {n}: {error:?}"));
                }
            })
        });
        for caller in join_all(callers).await {
            caller.expect("a caller without errors");
        }
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn sixty_four_creations_of_one_name_make_one_network() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let callers = (0..64).map(|_| {
            let controller = engine.controller();
            tokio::spawn(async move { controller.create_network(NetworkSpec::new("same")).await })
        });
        let outcomes: Vec<_> = join_all(callers).await.into_iter().map(|o| o.expect("it ends")).collect();
        let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert_eq!(refused.len(), 63);
        assert!(refused.iter().all(|error| error.kind() == ErrorKind::Conflict), "{refused:?}");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
