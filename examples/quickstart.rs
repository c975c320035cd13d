//! Two containers on a bridge network of the real kernel. Run it as root, or as anybody with
//! `unshare -Urnm cargo run --example quickstart`.
#![allow(clippy::print_stdout)] // It talks to whoever runs it.

use netloom::{EndpointSpec, Engine, JoinSpec, NetworkSpec, SandboxSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("netloom-quickstart-{}", std::process::id()));
    let builder = Engine::builder().instance("quickstart").data_dir(dir.join("data"));
    let engine = builder.run_dir(dir.join("run")).start().await?;
    let controller = engine.controller();
    let network = controller.create_network(NetworkSpec::new("blue")).await?;
    let mut pairs = Vec::new();
    for name in ["web", "db"] {
        let endpoint = network.create_endpoint(EndpointSpec::new(name)).await?;
        let sandbox = controller.create_sandbox(SandboxSpec::new(format!("container-{name}"))).await?;
        endpoint.join(&sandbox, JoinSpec::default()).await?;
        let address = endpoint.inspect().await?.ipv4.ok_or("no address")?;
        println!("{name} has {address}: nsenter --net={} ip address", sandbox.key()?.display());
        pairs.push((endpoint, sandbox));
    }
    for (endpoint, sandbox) in pairs {
        endpoint.leave(&sandbox).await?;
        endpoint.delete().await?;
        sandbox.delete().await?;
    }
    network.delete().await?;
    engine.drain().await?; // The kernel has let go of everything.
    Ok(std::fs::remove_dir_all(dir)?)
}
