//! Names as the program shows them.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{cells, in_namespaces, json, netloom, run, text};
use netloom::{EndpointSpec, Engine, JoinSpec, NetworkSpec, SandboxSpec, ShutdownMode};

/// `netloom dns` with a data directory.
fn dns(dir: &Path, data_dir: &Path, args: &[&str]) -> Output {
    let mut command = netloom(&[], dir, &["dns"]);
    run(command.args(args).arg("--data-dir").arg(data_dir))
}

#[test]
fn names_are_shown_by_network_and_as_a_sandbox_sees_them() {
    in_namespaces(|dir| {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip must be installed (package iproute2)").success());
        let data = dir.join("data");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let builder = Engine::builder().data_dir(&data).run_dir(dir.join("run"));
        let engine = runtime.block_on(builder.start()).expect("the engine starts");
        runtime.block_on(async {
            let controller = engine.controller();
            let network = async |name: &str, subnet: &str| {
                let spec = NetworkSpec::new(name).subnet(subnet.parse().expect("a subnet"));
                controller.create_network(spec).await.expect("a network")
            };
            let blue = network("blue", "10.1.0.0/24").await;
            let red = network("red", "10.2.0.0/24").await;
            let sandbox = controller.create_sandbox(SandboxSpec::new("c1")).await.expect("a sandbox");
            let web = EndpointSpec::new("Web").alias("www").link("db", "data");
            let web = blue.create_endpoint(web).await.expect("made");
            web.join(&sandbox, JoinSpec::default()).await.expect("joined");
            blue.create_endpoint(EndpointSpec::new("db")).await.expect("made");
            red.create_endpoint(EndpointSpec::new("web")).await.expect("made");
        });
        let header = ["NAME", "ADDRESS", "ENDPOINT", "NETWORK"];
        let db = ["db", "10.1.0.3", "db", "blue"];
        let web = ["web", "10.1.0.2", "Web", "blue"];
        let www = ["www", "10.1.0.2", "Web", "blue"];
        let red = ["web", "10.2.0.2", "web", "red"];
        assert_eq!(cells(&dns(dir, &data, &["ls"])), [header, db, web, red, www]);
        assert_eq!(cells(&dns(dir, &data, &["ls", "--network", "red"])), [header, red]);
        let shown = json(&dns(dir, &data, &["ls", "--format", "json"]));
        assert_eq!((&shown[0]["name"], &shown[0]["address"]), (&"db".into(), &"10.1.0.3".into()));
        // Without a sandbox, what each network says.
        let all = [["NAME", "ADDRESS", "NETWORK"], ["web", "10.1.0.2", "blue"], ["web", "10.2.0.2", "red"]];
        assert_eq!(cells(&dns(dir, &data, &["query", "WEB."])), all);
        let of = |name| dns(dir, &data, &["query", name, "--sandbox", "c1"]);
        assert_eq!(cells(&of("web.blue")), [["NAME", "ADDRESS"], ["web.blue", "10.1.0.2"]]);
        assert_eq!(cells(&of("data")), [["NAME", "ADDRESS"], ["data", "10.1.0.3"]]);
        assert_eq!(cells(&of("10.1.0.3")), [["NAME", "ADDRESS"], ["db.blue", "10.1.0.3"]]);
        let elsewhere = of("web.red");
        assert!(!elsewhere.status.success());
        assert!(text(&elsewhere.stderr).contains("other name servers"), "{elsewhere:?}");
        let nobody = dns(dir, &data, &["query", "web", "--sandbox", "c2"]);
        assert!(!nobody.status.success() && text(&nobody.stderr).contains("c2"), "{nobody:?}");
        runtime.block_on(engine.shutdown(ShutdownMode::Graceful)).expect("it ends");
    });
}
