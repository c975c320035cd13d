//! Two containers on a bridge network of the real kernel. Run it as root, or as anybody with
//! `unshare -Urnm cargo run --example quickstart`.
#![allow(clippy::print_stdout)] // It talks to whoever runs it.

use netloom::{Controller, EndpointSpec, Engine, JoinSpec, NetworkSpec, SandboxSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("netloom-quickstart-{}", std::process::id()));
    let builder = Engine::builder().instance("quickstart").data_dir(dir.join("data"));
    let engine = builder.run_dir(dir.join("run")).start().await?;
    let controller = engine.controller();
    let shown = show(&controller).await;
    for sandbox in controller.sandboxes() {
        sandbox.delete().await?; // Its endpoint leaves first.
    }
    for network in controller.networks() {
        for endpoint in network.endpoints().await? {
            endpoint.delete().await?;
        }
        network.delete().await?;
    }
    engine.drain().await?; // The kernel has let go of everything.
    std::fs::remove_dir_all(dir)?;
    Ok(shown.map_err(|error| format!("{error}; {}", error.remedy().unwrap_or_default()))?)
}

async fn show(controller: &Controller) -> netloom::Result<()> {
    let network = controller.create_network(NetworkSpec::new("blue")).await?;
    for name in ["web", "db"] {
        let sandbox = controller.create_sandbox(SandboxSpec::new(format!("container-{name}"))).await?;
        network.create_endpoint(EndpointSpec::new(name)).await?.join(&sandbox, JoinSpec::default()).await?;
        println!("{name} is up: nsenter --net={} ip address", sandbox.key()?.display());
    }
    Ok(())
}
