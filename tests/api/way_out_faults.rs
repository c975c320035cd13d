//! Faults while sandboxes get and lose the network that is their way out: nothing of it is ever left over.

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom::testkit::FaultKind;
use netloom::{Controller, Endpoint, EndpointSpec, JoinSpec, NetworkSpec, Result, Sandbox, SandboxSpec};

use crate::outless::Outless;
use crate::support::files::Places;
use crate::sweep::{Picture, Step, Story};

const NOWHERE: &str = "outless";

async fn web(controller: &Controller, network: &str) -> Result<Endpoint> {
    controller.network_by_name(network)?.endpoint_by_name("web").await
}

fn c1(controller: &Controller) -> Result<Sandbox> {
    controller.sandbox_by_container("c1")
}

async fn join(controller: Controller, network: &str) -> Result<()> {
    web(&controller, network).await?.join(&c1(&controller)?, JoinSpec::default()).await.map(drop)
}

async fn leave(controller: Controller, network: &str) -> Result<()> {
    web(&controller, network).await?.leave(&c1(&controller)?).await
}

fn setting(controller: Controller) -> LocalBoxFuture<'static, ()> {
    async move {
        for spec in [NetworkSpec::new("nowhere").driver(NOWHERE), NetworkSpec::new("blue")] {
            let network = controller.create_network(spec).await.expect("a network");
            network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
        }
    }
    .boxed_local()
}

/// Some of what was in the sandbox may be out of it, be it gone with its network or not, and nothing else may have
/// come.
fn some_are_out(seen: &Picture, before: &Picture) -> bool {
    seen.inside("c1").is_subset(&before.inside("c1"))
}

/// A sandbox that gets the way out, loses it to another network, gets it back, and ends with it.
fn story() -> Story {
    Story {
        name: "the way out",
        drivers: vec![Outless::new(NOWHERE)],
        before: |_| (),
        setting,
        steps: vec![
            Step::whole("create the sandbox", |controller| {
                async move { controller.create_sandbox(SandboxSpec::new("c1")).await.map(drop) }.boxed_local()
            }),
            Step {
                name: "join what leads nowhere",
                run: |controller| join(controller, "nowhere").boxed_local(),
                // The network that is the way out may be there already; that is a state of its own for nobody.
                partly: |_, _| false,
            },
            Step::whole("join what leads out", |controller| join(controller, "blue").boxed_local()),
            Step::whole("leave what leads out", |controller| leave(controller, "blue").boxed_local()),
            Step {
                name: "refresh",
                run: |controller| {
                    async move {
                        let sandbox = c1(&controller)?;
                        sandbox.refresh(SandboxSpec::new("c1").hostname("again")).await?;
                        if web(&controller, "nowhere").await?.inspect().await?.sandbox.is_none() {
                            join(controller, "nowhere").await?;
                        }
                        Ok(())
                    }
                    .boxed_local()
                },
                partly: some_are_out,
            },
            Step::whole("join again", |controller| join(controller, "blue").boxed_local()),
            Step::whole("leave what leads nowhere", |controller| leave(controller, "nowhere").boxed_local()),
            Step::whole("come back", |controller| join(controller, "nowhere").boxed_local()),
            Step::whole("leave again", |controller| leave(controller, "blue").boxed_local()),
            Step {
                name: "delete the sandbox",
                run: |controller| async move { c1(&controller)?.delete().await }.boxed_local(),
                partly: some_are_out,
            },
        ],
        stays: 0,
        files: Some(Places::new()),
    }
}

#[tokio::test]
async fn a_fault_at_every_kernel_operation_leaves_no_way_out_behind() {
    story().kernel_fails_in_every_way().await;
}

#[tokio::test]
async fn a_fault_at_every_commit_leaves_no_way_out_behind() {
    story().commits_fail().await;
}

#[tokio::test]
async fn killed_at_every_effect_no_way_out_is_left_behind() {
    story().killed_everywhere().await;
}

/// The same with a deletion by force, which waits for nothing.
#[tokio::test]
async fn a_deletion_by_force_takes_the_way_out_along() {
    let mut story = story();
    story.name = "the way out, deleted by force";
    story.steps.truncate(2);
    story.steps.push(Step {
        name: "delete the sandbox by force",
        run: |controller| async move { c1(&controller)?.delete_with_force().await }.boxed_local(),
        partly: some_are_out,
    });
    story.kernel_fails_in_every_way().await;
    story.killed_everywhere().await;
    story.kernel_fails("refused for long", FaultKind::Refuse(16), 20).await;
}
