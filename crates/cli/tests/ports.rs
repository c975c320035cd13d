//! Published ports as the program shows them.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{cells, in_namespaces, json, netloom, run};
use netloom::{
    EndpointSpec, Engine, JoinSpec, NetworkSpec, PortBinding, SandboxSpec, ShutdownMode, TransportPort,
};

/// `netloom ports ls` with a data directory.
fn ports(dir: &Path, data_dir: &Path, args: &[&str]) -> Output {
    let mut command = netloom(&[], dir, &["ports", "ls"]);
    run(command.args(args).arg("--data-dir").arg(data_dir))
}

#[test]
fn ports_are_shown_with_where_they_lead_until_their_endpoint_leaves() {
    in_namespaces(|dir| {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip must be installed (package iproute2)").success());
        let data = dir.join("data");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let builder = Engine::builder().data_dir(&data).run_dir(dir.join("run"));
        let engine = runtime.block_on(builder.start()).expect("the engine starts");
        let header = ["HOST", "PORTS", "PROTOCOL", "CONTAINER", "PORTS THERE", "ENDPOINT", "NETWORK"];
        let (web, sandbox) = runtime.block_on(async {
            let controller = engine.controller();
            let blue = NetworkSpec::new("blue").subnet("10.1.0.0/24".parse().expect("a subnet"));
            let blue = controller.create_network(blue).await.expect("a network");
            let local = "127.0.0.1".parse().expect("an address");
            let spec = EndpointSpec::new("web")
                .publish(PortBinding::new(8080, TransportPort::tcp(80)))
                .publish(PortBinding::new(5353, TransportPort::udp(53)).on(local));
            let web = blue.create_endpoint(spec).await.expect("an endpoint");
            let sandbox = controller.create_sandbox(SandboxSpec::new("c1")).await.expect("a sandbox");
            web.join(&sandbox, JoinSpec::default()).await.expect("joined");
            (web, sandbox)
        });
        let udp = ["127.0.0.1", "5353", "udp", "10.1.0.2", "53", "web", "blue"];
        let v4 = ["0.0.0.0", "8080", "tcp", "10.1.0.2", "80", "web", "blue"];
        let v6 = ["::", "8080", "tcp", "10.1.0.2", "80", "web", "blue"];
        assert_eq!(cells(&ports(dir, &data, &[])), [header, udp, v4, v6]);
        assert_eq!(cells(&ports(dir, &data, &["--port", "5353"])), [header, udp]);
        let shown = json(&ports(dir, &data, &["--format", "json"]));
        assert_eq!(shown[1]["ports"]["first"], 8080);
        assert_eq!(shown[1]["endpoint_id"], web.id().to_string());
        runtime.block_on(web.leave(&sandbox)).expect("left");
        assert_eq!(cells(&ports(dir, &data, &[])), [header]);
        runtime.block_on(engine.shutdown(ShutdownMode::Graceful)).expect("it ends");
    });
}
