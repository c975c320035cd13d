//! What callers are told when a driver hangs or dies, or the engine has ended: who, why, and how sure.

use std::future::pending;
use std::time::Duration;

use netloom::drivers::{Begun, Registration, done};
use netloom::{
    Certainty, EndpointSpec, Engine, EngineConfig, Error, ErrorKind, JoinSpec, NetworkSpec, Reason,
    ShutdownMode,
};

use crate::scripted::{Asked, Scripted, scripted_network};
use crate::support::{World, bounded, within};

/// How long an operation may take here.
const ALLOWED: Duration = Duration::from_millis(400);

/// A driver for which one thing it is asked does not go well.
fn troubled(
    trouble: impl Fn(Asked) -> bool + Send + Sync + 'static,
    what: impl Fn() -> Begun<()> + Send + Sync + 'static,
) -> Scripted {
    Scripted::new(move |asked| if trouble(asked) { what() } else { done(()) })
}

fn hangs() -> Begun<()> {
    Ok(Box::pin(pending()))
}

#[expect(clippy::panic_in_result_fn, reason = "that is what it is for")]
fn panics() -> Begun<()> {
    panic!("a planned panic")
}

#[tokio::test]
async fn a_driver_that_hangs_is_named_and_its_network_was_taken_back() {
    let world = troubled(|asked| asked == Asked::CreateNetwork, hangs).world(within(ALLOWED)).await;
    let spec = NetworkSpec::new("blue").driver(Scripted::KIND);
    let controller = world.engine().controller();
    let error = bounded("creating", controller.create_network(spec)).await.expect_err("it hangs");
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Timeout, Certainty::Aborted), "{error}");
    assert!(error.to_string().contains(Scripted::KIND), "{error}");
    assert!(controller.networks().is_empty());
    world.assert_pristine().await;
}

/// What is late even with its own end is told by the operation that is still under way.
#[tokio::test]
async fn a_deletion_that_hangs_is_told_with_its_object_and_step() {
    let world = troubled(|asked| asked == Asked::DeleteNetwork, hangs).world(within(ALLOWED)).await;
    let network = scripted_network(&world, "blue").await;
    let error = bounded("deleting", network.delete()).await.expect_err("it hangs");
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Timeout, Certainty::Uncertain), "{error}");
    let text = error.to_string();
    assert!(text.contains("delete_network") && text.contains(&*network.id().short()), "{text}");
}

#[tokio::test]
async fn what_may_be_left_behind_is_never_called_certain() {
    let script = |asked| matches!(asked, Asked::Join | Asked::Leave);
    let refuses = || Err(Error::internal("refused").uncertain());
    let world = troubled(script, refuses).world(within(ALLOWED)).await;
    let network = scripted_network(&world, "blue").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let sandbox = world.sandbox("c1").await;
    let join = endpoint.join(&sandbox, JoinSpec::default());
    let error = bounded("the join", join).await.expect_err("refused");
    assert!(matches!(error.reason(), Reason::Leaked { .. }), "{error:?}");
    assert_eq!(error.certainty(), Certainty::Uncertain, "{error}");
}

#[tokio::test]
async fn a_driver_that_cannot_be_made_is_named() {
    let start = |registration: Registration| Engine::simulation().driver(registration).start();
    let factory = Registration::new("broken", || -> Scripted { panic!("a planned panic") });
    let error = start(factory).await.expect_err("it panics");
    assert!(error.to_string().contains("broken"), "{error}");
    let other = Registration::new("other", || Scripted::new(|_| done(())));
    let error = start(other).await.expect_err("it is of another type");
    assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
    assert!(error.to_string().contains("other") && error.to_string().contains(Scripted::KIND), "{error}");
}

/// libnetwork's test of its registry: a type is registered once, and under a name.
#[tokio::test]
async fn a_driver_is_registered_once_and_under_a_name() {
    let scripted = || Registration::new(Scripted::KIND, || Scripted::new(|_| done(())));
    let twice = Engine::simulation().driver(scripted()).driver(scripted()).start().await;
    let built_in = Registration::new("bridge", netloom::drivers::bridge::Bridge::default);
    let built_in = Engine::simulation().driver(built_in).start().await;
    for (outcome, kind) in [(twice, Scripted::KIND), (built_in, "bridge")] {
        let error = outcome.expect_err("there is one of this type");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains(kind), "{error}");
    }
    let blank = Registration::new(" ", || Scripted::new(|_| done(())));
    let error = Engine::simulation().driver(blank).start().await.expect_err("it has no name");
    assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
}

/// A panic in the driver's own decision kills its actor; who asked is told whose.
#[tokio::test]
async fn a_driver_that_panics_is_named() {
    let world = troubled(|asked| asked == Asked::CreateNetwork, panics).world(EngineConfig::default()).await;
    let spec = NetworkSpec::new("blue").driver(Scripted::KIND);
    let controller = world.engine().controller();
    let error = bounded("creating", controller.create_network(spec)).await.expect_err("it panics");
    assert!(error.to_string().contains("driver"), "{error}");
}

#[tokio::test]
async fn an_engine_that_was_stopped_says_so_to_everybody() {
    for mode in [ShutdownMode::Graceful, ShutdownMode::Immediate] {
        let world = World::new().await;
        let network = world.network("blue").await;
        let (endpoint, sandbox) = world.joined(&network, "web").await;
        world.engine().shutdown(mode).await.expect("stopped");
        let errors = [
            network.inspect().await.expect_err("stopped"),
            endpoint.inspect().await.expect_err("stopped"),
            endpoint.leave(&sandbox).await.expect_err("stopped"),
            sandbox.inspect().await.expect_err("stopped"),
            network.delete().await.expect_err("stopped"),
            world.engine().inspect().await.expect_err("stopped"),
            world.engine().drain().await.expect_err("stopped"),
        ];
        for error in errors {
            assert_eq!(error.reason(), &Reason::ShuttingDown, "{error:?}");
            assert_eq!(error.certainty(), Certainty::Aborted, "{error:?}");
        }
    }
}
