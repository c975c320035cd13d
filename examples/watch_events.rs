//! Following what an engine does: a reader that keeps up, as a stream, and one that does not and is told how
//! much it missed.
//!
//! Run with `cargo run --example watch_events`.
#![allow(clippy::print_stdout)] // It talks to whoever runs it.

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use netloom::{
    Controller, EndpointSpec, Engine, EngineConfig, EventKind, JoinSpec, Missed, Network, NetworkSpec,
    SandboxSpec,
};
use tokio::sync::mpsc;

/// How many containers come and go.
const CONTAINERS: u64 = 3;
/// Events that the engine keeps for readers: one container's six fit, all of them do not.
const BACKLOG: usize = 8;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut config = EngineConfig::default();
    config.limits.event_backlog = BACKLOG;
    let simulation = Engine::simulation().config(config).start().await?;
    let engine = simulation.engine();
    let mut prompt = Box::pin(engine.events().into_stream());
    let mut slow = engine.events();

    let (go, turns) = mpsc::channel(1);
    let work = tokio::spawn(work(engine.controller(), turns));

    println!("A reader that keeps up:");
    let (mut last, mut gone) = (0, 0);
    go.send(()).await?;
    while gone < CONTAINERS {
        let event = prompt.next().await.context("the engine is gone")??;
        println!("  {:2} {}", event.seq, describe(&event.kind));
        ensure!(event.seq == last + 1, "event {} came after event {last}", event.seq);
        last = event.seq;
        if matches!(event.kind, EventKind::SandboxDeleted { .. }) {
            gone += 1;
            if gone < CONTAINERS {
                go.send(()).await?;
            }
        }
    }
    work.await??;

    println!("A reader that looks only now:");
    let Some(Err(Missed(missed))) = slow.next().await else { bail!("it must have missed something") };
    println!("     missed {missed} events");
    let mut seen = missed;
    while seen < last {
        let event = slow.next().await.context("the engine is gone")??;
        println!("  {:2} {}", event.seq, describe(&event.kind));
        seen += 1;
        ensure!(event.seq == seen, "event {} where event {seen} was due", event.seq);
    }
    ensure!(last - missed == BACKLOG as u64, "it read {} of {BACKLOG} kept", last - missed);
    println!("Both know the same: {last} events.");
    Ok(())
}

/// Has a container come and go at each turn.
async fn work(controller: Controller, mut turns: mpsc::Receiver<()>) -> anyhow::Result<()> {
    let network = controller.create_network(NetworkSpec::new("blue")).await?;
    for number in 1..=CONTAINERS {
        turns.recv().await.context("nobody watches any more")?;
        live(&controller, &network, &format!("container-{number}")).await?;
    }
    Ok(())
}

async fn live(controller: &Controller, network: &Network, name: &str) -> netloom::Result<()> {
    let endpoint = network.create_endpoint(EndpointSpec::new(name)).await?;
    let sandbox = controller.create_sandbox(SandboxSpec::new(name)).await?;
    endpoint.join(&sandbox, JoinSpec::default()).await?;
    endpoint.leave(&sandbox).await?;
    endpoint.delete().await?;
    sandbox.delete().await
}

/// An event in words. The enum grows: a reader needs an answer for kinds it does not know.
fn describe(kind: &EventKind) -> String {
    match kind {
        EventKind::NetworkCreated { name, .. } => format!("network {name} is in service"),
        EventKind::EndpointCreated { name, .. } => format!("endpoint {name} exists"),
        EventKind::EndpointAttached { endpoint, ifname, .. } => {
            format!("endpoint {} is plugged in as {ifname}", endpoint.short())
        }
        EventKind::PortsPublished { name, ports, .. } => {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            format!("endpoint {name} is reached at {}", ports.join(", "))
        }
        EventKind::EndpointDetached { endpoint, .. } => {
            format!("endpoint {} is unplugged", endpoint.short())
        }
        EventKind::EndpointDeleted { name, .. } => format!("endpoint {name} is gone"),
        EventKind::SandboxCreated { container_id, .. } => format!("sandbox of {container_id} is in service"),
        EventKind::SandboxDeleted { container_id, .. } => format!("sandbox of {container_id} is gone"),
        other => format!("{other:?}"),
    }
}
