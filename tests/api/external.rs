//! Sandboxes whose namespace somebody else makes, and those that are the host: whatever fails while they wait, are told
//! of it, and move to another one.

use std::path::PathBuf;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom::drivers::done;
use netloom::testkit::SimKernel;
use netloom::{
    Controller, Endpoint, EndpointSpec, Error, JoinSpec, NetworkSpec, Result, Sandbox, SandboxKey,
    SandboxSpec,
};

use crate::outless::Outless;
use crate::scripted::{Scripted, scripted_network};
use crate::support::files::Places;
use crate::support::{World, bounded, check_truth, note};
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
        files: Some(Places::new()),
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

// === The host's own namespace ===

/// A sandbox that is the host, with an endpoint on each network that brings no interface.
fn of_the_host() -> Story {
    Story {
        name: "a sandbox that is the host",
        drivers: Vec::new(),
        before: |_| (),
        setting: |controller| {
            async move {
                for driver in ["host", "null"] {
                    let network = controller.create_network(NetworkSpec::new(driver).driver(driver)).await;
                    let network = network.expect("a network");
                    network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
                }
            }
            .boxed_local()
        },
        steps: vec![
            Step::whole("create the sandbox", |controller| {
                async move {
                    let spec = SandboxSpec::new("c1").host_namespace();
                    controller.create_sandbox(spec).await.map(drop)
                }
                .boxed_local()
            }),
            Step::whole("join the first", |controller| {
                async move { join(&controller, "host").await }.boxed_local()
            }),
            Step::whole("join the second", |controller| {
                async move { join(&controller, "null").await }.boxed_local()
            }),
            Step {
                name: "rename",
                run: |controller| async move { c1(&controller)?.rename("db").await }.boxed_local(),
                partly: |seen, before| seen.endpoints.len() == before.endpoints.len(),
            },
            Step {
                name: "refresh",
                run: |controller| {
                    let spec = SandboxSpec::new("c1").host_namespace().hostname("again");
                    async move { refresh(controller, spec, &["host", "null"]).await }.boxed_local()
                },
                partly: some_are_out,
            },
            Step::whole("leave", |controller| {
                async move { of(&controller, "host").await?.leave(&c1(&controller)?).await }.boxed_local()
            }),
            Step {
                name: "delete the sandbox",
                run: |controller| async move { c1(&controller)?.delete().await }.boxed_local(),
                partly: some_are_out,
            },
        ],
        stays: 2,
        files: Some(Places::new()),
    }
}

#[tokio::test]
async fn faults_and_deaths_leave_a_sandbox_of_the_host_in_order() {
    of_the_host().commits_fail().await;
    of_the_host().killed_everywhere().await;
}

/// A driver of one's own may have endpoints without interfaces that tell a gateway: in the host's namespace that is
/// nobody's way out, and none is made.
#[tokio::test]
async fn what_an_endpoint_tells_of_gateways_is_not_the_hosts_way_out() {
    let world = Scripted::new(|_| done(())).world(netloom::EngineConfig::default()).await;
    let network = scripted_network(&world, "own").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let spec = SandboxSpec::new("c1").host_namespace();
    let sandbox = world.engine().controller().create_sandbox(spec).await.expect("a sandbox");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("it brings no interface");
    let before = sandbox.inspect().await.expect("inspected");
    assert_eq!((before.gateway, world.engine().controller().networks().len()), (None, 1));
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    let sandbox = world.engine().controller().sandbox(before.id).expect("restored");
    assert_eq!(sandbox.inspect().await.expect("inspected"), before);
    check_truth(world.engine(), world.kernel()).await.expect("the truth");
    world.delete_everything().await;
    world.assert_pristine().await;
}

// === Waiting ===

/// Engines come and go while sandboxes wait; what waits is plugged in by the one that is told.
#[tokio::test]
async fn sandboxes_wait_from_engine_to_engine() {
    let kernel = SimKernel::new();
    others(&kernel);
    let before = kernel.snapshot();
    let outless = Outless::new(NOWHERE);
    let simulation = netloom::Engine::simulation().kernel(kernel).driver(outless.registration());
    let simulation = simulation.start().await.expect("the engine starts");
    let mut world = World { simulation, before };
    setting(world.engine().controller()).await;
    let controller = world.engine().controller();
    controller.create_sandbox(SandboxSpec::new("c1").external_key()).await.expect("a sandbox");
    for network in ["blue", "side"] {
        join(&world.engine().controller(), network).await.expect("it has its place kept");
        world = world.kill_and_restart().await;
        assert_eq!(world.engine().repairs(), []);
        check_truth(world.engine(), world.kernel()).await.expect("the truth");
    }
    let controller = world.engine().controller();
    let sandbox = c1(&controller).expect("restored");
    // One of them leaves and comes back, and one is taken away.
    of(&controller, "blue").await.expect("found").leave(&sandbox).await.expect("left");
    join(&controller, "blue").await.expect("it has its place kept again");
    sandbox.set_key(key(0)).await.expect("plugged in");
    check_truth(world.engine(), world.kernel()).await.expect("the truth");
    assert!(sandbox.inspect().await.expect("inspected").gateway.is_some());
    let error = of(&controller, "side").await.expect("found").delete().await.expect_err("it is in a sandbox");
    assert_eq!(error.kind(), netloom::ErrorKind::Forbidden, "{error:?}");
    // The other namespace is as it was, and the first one outlives its sandbox.
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A source of chance that a seed repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Joins, leaves, keys, new names and deletions of one sandbox at once, in an order of chance: each ends with an
/// answer, and what is listed afterwards is true.
#[tokio::test]
async fn everything_at_once_on_a_sandbox_that_waits_ends_in_order() {
    for seed in 1..=150 {
        let mut chance = Chance(seed);
        let kernel = SimKernel::new();
        others(&kernel);
        let before = kernel.snapshot();
        let simulation =
            netloom::Engine::simulation().kernel(kernel).driver(Outless::new(NOWHERE).registration());
        let world = World { simulation: simulation.start().await.expect("the engine starts"), before };
        setting(world.engine().controller()).await;
        let controller = world.engine().controller();
        let sandbox =
            controller.create_sandbox(SandboxSpec::new("c1").external_key()).await.expect("a sandbox");
        let ends =
            [of(&controller, "blue").await.expect("found"), of(&controller, "side").await.expect("found")];
        let mut asked = String::new();
        let requests = (0..12).map(|n| {
            let (sandbox, end) = (sandbox.clone(), ends[usize::from(chance.below(2) == 1)].clone());
            let (which, delay) = (chance.below(20), chance.below(30));
            asked.push_str(&format!(" {which}"));
            async move {
                for _ in 0..delay {
                    tokio::task::yield_now().await;
                }
                // Refusals are answers too: the order decides.
                let outcome = match which {
                    0..7 => end.join(&sandbox, JoinSpec::default()).await.map(drop),
                    7..11 => end.leave(&sandbox).await,
                    11..15 => sandbox.set_key(key(usize::from(which % 2 == 0))).await,
                    15 => sandbox.rename(format!("name{n}")).await,
                    16 => sandbox.refresh(SandboxSpec::new("c1").external_key()).await,
                    17 => end.delete_with_force().await,
                    18 => sandbox.delete().await,
                    _ => sandbox.delete_with_force().await,
                };
                outcome.err().filter(|error| {
                    matches!(error.kind(), netloom::ErrorKind::Internal | netloom::ErrorKind::Timeout)
                })
            }
        });
        let requests: Vec<_> = requests.collect();
        let failed = bounded("the requests", futures::future::join_all(requests)).await;
        let failed: Vec<_> = failed.into_iter().flatten().collect();
        assert!(failed.is_empty(), "seed {seed}, asked{asked}: {failed:?}");
        if let Err(why) = world.settled().await {
            panic!("seed {seed}, asked{asked}: {why}");
        }
        world.delete_everything().await;
        let left = world.leftovers().await;
        if !left.is_empty() {
            world.assert_pristine_soon().await;
        }
    }
    note("150 seeds");
}
