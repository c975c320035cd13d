//! The same life of two networks, by the public interface, once on each kernel.

use std::collections::BTreeSet;

use netloom::kernel::{Kernel, Netns};
use netloom::testkit::SimKernel;
use netloom::{
    Controller, Endpoint, EndpointSpec, Engine, JoinSpec, MacAddr, NetworkSpec, Sandbox, SandboxSpec,
};

use super::generator::parsed;
use super::pair::contents;
use crate::lab::in_lab;

const BRIDGE: &str = "com.docker.network.bridge.name";
const MTU: &str = "com.docker.network.driver.mtu";

/// What is there at one moment: sandboxes by their container, and the bridges.
type Moment = (&'static str, BTreeSet<String>);

/// A life under way.
struct Life<'a> {
    engine: &'a Engine,
    kernel: &'a dyn Kernel,
    moments: Vec<Moment>,
}

impl Life<'_> {
    fn controller(&self) -> Controller {
        self.engine.controller()
    }

    /// Writes down what the kernel has, without the names that are drawn: those of the host's ends.
    async fn note(&mut self, moment: &'static str) {
        self.engine.drain().await.expect("drained");
        let mut lines = BTreeSet::new();
        for sandbox in self.controller().sandboxes() {
            let netns = Netns::Named(sandbox.netns().expect("a name"));
            let inside = contents(self.kernel, netns, |_| true).await;
            lines.extend(inside.into_iter().map(|line| format!("{}: {line}", sandbox.container_id())));
        }
        let host = contents(self.kernel, Netns::Host, |_| false).await;
        // The alias names the network by its drawn identifier, so the bridge itself is compared up to there.
        let bridges = host.iter().filter(|line| line.contains(" br-"));
        lines.extend(bridges.map(|line| line.split(" alias ").next().unwrap_or(line).to_owned()));
        let ports = host.iter().filter(|line| line.contains(r#"master Some("br-"#)).count();
        lines.insert(format!("{ports} ports"));
        self.moments.push((moment, lines));
    }

    async fn sandbox(&self, container: &str) -> Sandbox {
        self.controller().create_sandbox(SandboxSpec::new(container)).await.expect("a sandbox")
    }
}

async fn joins(endpoint: &Endpoint, sandbox: &Sandbox, priority: i32) {
    endpoint.join(sandbox, JoinSpec::priority(priority)).await.expect("joined");
}

/// The whole life, with what was there at each moment.
async fn live(engine: &Engine, kernel: &dyn Kernel) -> Vec<Moment> {
    let mut life = Life { engine, kernel, moments: Vec::new() };
    let both = NetworkSpec::new("both").option(BRIDGE, "br-both").option(MTU, "1400");
    let both = both.subnet(parsed("10.77.0.0/24")).subnet(parsed("fd77::/64"));
    let both = life.controller().create_network(both).await.expect("a network");
    let inner = NetworkSpec::new("inner").option(BRIDGE, "br-inner").internal(true);
    let inner = inner.subnet(parsed("10.78.0.0/16"));
    let inner = life.controller().create_network(inner).await.expect("a network");
    life.note("networks").await;

    let (first, second) = (life.sandbox("first").await, life.sandbox("second").await);
    life.note("sandboxes").await;

    let fixed = EndpointSpec::new("fixed").address(parsed("10.77.0.7")).address(parsed("fd77::7"));
    let fixed = both.create_endpoint(fixed).await.expect("an endpoint");
    let marked = EndpointSpec::new("marked").address(parsed("10.77.0.8"));
    let marked = marked.mac(MacAddr([0x02, 0x42, 1, 2, 3, 4]));
    let marked = both.create_endpoint(marked.address(parsed("fd77::8"))).await.expect("an endpoint");
    let hidden = EndpointSpec::new("hidden").address(parsed("10.78.1.1"));
    let hidden = inner.create_endpoint(hidden).await.expect("an endpoint");
    life.note("endpoints").await;

    joins(&hidden, &first, 0).await;
    life.note("in an internal network").await;
    joins(&fixed, &first, 0).await;
    joins(&marked, &second, 5).await;
    life.note("in a network with a gateway").await;
    let chosen = both.create_endpoint(EndpointSpec::new("chosen")).await.expect("an endpoint");
    joins(&chosen, &first, 9).await;
    life.note("another endpoint provides the gateway").await;

    chosen.leave(&first).await.expect("left");
    life.note("the first endpoint provides it again").await;
    fixed.delete_with_force().await.expect("deleted");
    life.note("no gateway").await;
    first.delete().await.expect("deleted");
    life.note("a sandbox less").await;
    second.delete().await.expect("deleted");
    for endpoint in [chosen, marked, hidden] {
        endpoint.delete().await.expect("deleted");
    }
    both.delete().await.expect("deleted");
    inner.delete().await.expect("deleted");
    life.note("the end").await;
    life.moments
}

#[test]
fn an_engines_life_looks_the_same_on_both_kernels() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let real = live(&engine, &lab.kernel).await;
        lab.assert_pristine().await;

        let kernel = SimKernel::new();
        let simulation = Engine::simulation().kernel(kernel.clone()).start().await.expect("started");
        let simulated = live(simulation.engine(), &kernel).await;
        for ((moment, real), (_, simulated)) in real.iter().zip(&simulated) {
            let only_real: Vec<_> = real.difference(simulated).collect();
            let only_simulated: Vec<_> = simulated.difference(real).collect();
            let same = only_real.is_empty() && only_simulated.is_empty();
            assert!(same, "{moment}: only real {only_real:#?}, only simulated {only_simulated:#?}");
        }
        // Not two empty pictures: what was asked for is there.
        let (_, joined) = &real[4];
        for line in [
            "first: address 10.77.0.7/24 of eth1",
            "first: route 0.0.0.0/0 via Some(10.77.0.1) by Some(\"eth1\")",
            "second: address fd77::8/64 of eth0",
            "3 ports",
        ] {
            assert!(joined.contains(line), "{line:?} is not among {joined:#?}");
        }
        assert_eq!(real.last(), Some(&("the end", BTreeSet::from(["0 ports".to_owned()]))));
    });
}
