//! Sandboxes whose namespace somebody else makes, and those that are the host: whatever fails while they wait, are told
//! of it, and move to another one.

use std::path::PathBuf;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom::testkit::SimKernel;
use netloom::{
    Controller, Endpoint, EndpointSpec, Error, JoinSpec, NetworkSpec, Result, Sandbox, SandboxKey,
    SandboxSpec,
};

use crate::outless::Outless;
use crate::sweep::{Picture, Step, Story};

const NOWHERE: &str = "outless";
/// Namespaces that processes have.
const KEYS: [&str; 2] = ["/proc/4711/ns/net", "/proc/4712/ns/net"];

fn others(kernel: &SimKernel) {
    for key in KEYS {
        kernel.external_netns(key).expect("nothing is there");
    }
}

fn key(n: usize) -> SandboxKey {
    SandboxKey::Path(PathBuf::from(KEYS[n]))
}

fn c1(controller: &Controller) -> Result<Sandbox> {
    controller.sandbox_by_container("c1")
}

/// The only endpoint of the caller's on a network, whatever it is called now.
async fn of(controller: &Controller, network: &str) -> Result<Endpoint> {
    let endpoints = controller.network_by_name(network)?.endpoints().await?;
    endpoints.into_iter().next().ok_or_else(|| Error::internal("it is there"))
}

async fn join(controller: &Controller, network: &str) -> Result<()> {
    of(controller, network).await?.join(&c1(controller)?, JoinSpec::default()).await.map(drop)
}

/// Joins those that a failure left outside.
async fn join_missing(controller: &Controller, networks: &[&str]) -> Result<()> {
    for network in networks {
        if of(controller, network).await?.inspect().await?.sandbox.is_none() {
            join(controller, network).await?;
        }
    }
    Ok(())
}

async fn refresh(controller: Controller, spec: SandboxSpec, networks: &[&str]) -> Result<()> {
    c1(&controller)?.refresh(spec).await?;
    join_missing(&controller, networks).await
}

fn setting(controller: Controller) -> LocalBoxFuture<'static, ()> {
    async move {
        for (name, driver) in [("blue", "bridge"), ("side", NOWHERE)] {
            let network = controller.create_network(NetworkSpec::new(name).driver(driver)).await;
            network.expect("a network").create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
        }
    }
    .boxed_local()
}

/// Some of what was in the sandbox is out of it, and nothing else has come.
fn some_are_out(seen: &Picture, before: &Picture) -> bool {
    seen.waits("c1") == before.waits("c1") && seen.inside("c1").is_subset(&before.inside("c1"))
}

/// It waits, with everything that was in it.
fn waits_with_all(seen: &Picture, before: &Picture) -> bool {
    let own = |picture: &Picture| ["blue", "side"].map(|network| picture.inside("c1").contains(network));
    seen.waits("c1") == Some(true) && own(seen) == own(before)
}

/// A sandbox that waits with two endpoints, is told its namespace and then another one, and is deleted.
fn story() -> Story {
    Story {
        name: "an external key",
        drivers: vec![Outless::new(NOWHERE)],
        before: others,
        setting,
        steps: vec![
            Step::whole("create the sandbox", |controller| {
                async move {
                    let spec = SandboxSpec::new("c1").external_key();
                    controller.create_sandbox(spec).await.map(drop)
                }
                .boxed_local()
            }),
            Step::whole("join the first", |controller| {
                async move { join(&controller, "blue").await }.boxed_local()
            }),
            Step::whole("join the second", |controller| {
                async move { join(&controller, "side").await }.boxed_local()
            }),
            Step {
                name: "refresh while it waits",
                run: |controller| {
                    let spec = SandboxSpec::new("c1").external_key().hostname("waiting");
                    async move { refresh(controller, spec, &["blue", "side"]).await }.boxed_local()
                },
                partly: some_are_out,
            },
            Step {
                name: "tell the key",
                run: |controller| async move { c1(&controller)?.set_key(key(0)).await }.boxed_local(),
                partly: waits_with_all,
            },
            Step {
                name: "rename",
                run: |controller| async move { c1(&controller)?.rename("db").await }.boxed_local(),
                // The engine died half-way: each endpoint has one of the two names.
                partly: |seen, before| seen.endpoints.len() == before.endpoints.len(),
            },
            Step {
                name: "refresh",
                run: |controller| {
                    let spec = SandboxSpec::new("c1").external_key().hostname("plugged");
                    async move { refresh(controller, spec, &["blue", "side"]).await }.boxed_local()
                },
                partly: some_are_out,
            },
            Step::whole("leave what leads out", |controller| {
                async move { of(&controller, "blue").await?.leave(&c1(&controller)?).await }.boxed_local()
            }),
            Step {
                name: "tell another key",
                run: |controller| {
                    async move {
                        let sandbox = c1(&controller)?;
                        sandbox.set_key(key(1)).await?;
                        // Something to be seen of it.
                        sandbox.rename("moved").await
                    }
                    .boxed_local()
                },
                partly: |seen, before| {
                    seen.inside("c1") == before.inside("c1") || waits_with_all(seen, before)
                },
            },
            Step {
                name: "delete the sandbox",
                run: |controller| async move { c1(&controller)?.delete().await }.boxed_local(),
                partly: some_are_out,
            },
        ],
        stays: 0,
    }
}

#[tokio::test]
async fn a_fault_at_every_kernel_operation_leaves_it_as_before_or_done() {
    story().kernel_fails_in_every_way().await;
}

#[tokio::test]
async fn a_fault_at_every_commit_leaves_it_as_before_or_done() {
    story().commits_fail().await;
}

#[tokio::test]
async fn killed_at_every_effect_the_next_engine_goes_on_with_it() {
    story().killed_everywhere().await;
}
