//! A message-level harness: the engine over a simulated kernel, with faults planned for particular
//! operations. It needs no privileges and touches nothing.
//!
//! It shows a join that fails at a planned fault, the typed error, that everything was undone, and an engine
//! that is killed in the middle of a join and puts things right at its next start.
//!
//! Run with `cargo run --example simulated`.
#![allow(clippy::print_stdout)] // It talks to whoever runs it.

use std::time::Duration;

use anyhow::{Context, ensure};
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{
    Certainty, Endpoint, EndpointSpec, Engine, ErrorKind, JoinSpec, NetworkSpec, Sandbox, SandboxSpec,
    Simulation,
};

/// What Linux says to somebody without privileges.
const EPERM: i32 = 1;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kernel = SimKernel::new();
    let before = kernel.snapshot();
    let simulation = Engine::simulation().kernel(kernel.clone()).start().await?;
    let controller = simulation.engine().controller();
    let network = controller.create_network(NetworkSpec::new("blue")).await?;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await?;
    let sandbox = controller.create_sandbox(SandboxSpec::new("container-1")).await?;

    println!("The kernel refuses the address inside the sandbox:");
    fail_a_join(&simulation, &endpoint, &sandbox, FaultKind::Refuse(EPERM)).await?;
    println!("It adds the address, and its answer is lost:");
    fail_a_join(&simulation, &endpoint, &sandbox, FaultKind::Lose).await?;

    println!("The kernel hangs in the middle of a join, and the engine is killed:");
    kernel.plan(Fault::verb("add_address", 1, FaultKind::Hang));
    let stuck = tokio::spawn(async move { endpoint.join(&sandbox, JoinSpec::default()).await });
    tokio::time::timeout(Duration::from_secs(10), until_it_hangs(&kernel)).await.context("no hang")?;
    let simulation = simulation.kill_and_restart().await?;
    let error = stuck.await?.err().context("a dead engine answered")?;
    tell(&error);
    ensure!(error.kind() == ErrorKind::Unavailable && error.certainty() == Certainty::Uncertain);

    println!("The next engine on the same machine:");
    let repairs = simulation.engine().repairs();
    ensure!(!repairs.is_empty(), "half a join was found and nothing repaired");
    for repair in repairs {
        println!("  repaired: {repair}");
    }
    // Handles belong to an engine; the objects have the same names in the next one.
    let controller = simulation.engine().controller();
    let network = controller.network_by_name("blue")?;
    let endpoint = network.endpoint_by_name("web").await?;
    let sandbox = controller.sandbox_by_container("container-1")?;
    ensure!(endpoint.inspect().await?.sandbox.is_none(), "the join never committed");
    let joined = endpoint.join(&sandbox, JoinSpec::default()).await?;
    let address = endpoint.inspect().await?.ipv4.context("no address")?;
    println!("  the join works now: {address} on {}", joined.ifname);

    sandbox.delete().await?;
    endpoint.delete().await?;
    network.delete().await?;
    simulation.engine().drain().await?;
    kernel.assert_pristine(&before);
    ensure!(simulation.disk().records().is_empty(), "records are left");
    println!("Everything is deleted, and nothing is left.");
    Ok(())
}

/// Joins with a fault planned, shows the error, and checks that the join left nothing behind.
async fn fail_a_join(
    simulation: &Simulation,
    endpoint: &Endpoint,
    sandbox: &Sandbox,
    fault: FaultKind,
) -> anyhow::Result<()> {
    let kernel = simulation.kernel();
    let before = kernel.snapshot();
    kernel.plan(Fault::verb("add_address", 1, fault));
    let error = endpoint.join(sandbox, JoinSpec::default()).await.err().context("the join must fail")?;
    tell(&error);
    ensure!(error.kind() == ErrorKind::Internal, "the kernel's failure is not the caller's");
    ensure!(error.certainty() == Certainty::Aborted, "everything was undone, so nothing is unsure");
    ensure!(kernel.pending_faults().is_empty(), "the fault took place");
    // A link that was cut off dies behind the caller's back.
    simulation.engine().drain().await?;
    kernel.assert_pristine(&before);
    println!("  undone: the kernel is as it was");
    Ok(())
}

fn tell(error: &netloom::Error) {
    println!("  {error}");
    println!("  kind {:?}, certainty {:?}", error.kind(), error.certainty());
    println!("  remedy: {}", error.remedy().as_deref().unwrap_or("none is known"));
}

async fn until_it_hangs(kernel: &SimKernel) {
    while kernel.hanging() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
