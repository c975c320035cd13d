//! Which backend the firewall has, over a simulated kernel with and without nftables, and with and without iptables.

use std::sync::Arc;

use netloom::snapshot::FirewallSnapshot;
use netloom::testkit::SimKernel;
use netloom::xtables::{InPlace, Variant, Xtables};
use netloom::{
    Engine, EngineConfig, ErrorKind, FirewallBackend, FirewallConfig, NetworkSpec, Result, Simulation,
};

use crate::programs::Programs;

async fn start(backend: FirewallBackend, nftables: bool, programs: Option<&Programs>) -> Result<Simulation> {
    let kernel = SimKernel::new();
    if !nftables {
        kernel.without_nftables();
    }
    let config = EngineConfig { firewall: FirewallConfig { backend }, ..EngineConfig::default() };
    let simulation = Engine::simulation().config(config).kernel(kernel);
    let xtables = |programs: &Programs| -> Arc<dyn Xtables> {
        Arc::new(InPlace::new(programs.clone(), Variant::Legacy))
    };
    let simulation = programs.map(xtables).into_iter().fold(simulation, netloom::SimulationBuilder::xtables);
    simulation.start().await
}

async fn picture(simulation: &Simulation) -> FirewallSnapshot {
    simulation.engine().inspect().await.expect("inspected").firewall.expect("there")
}

#[tokio::test]
async fn auto_takes_nftables_then_iptables_then_nothing_and_says_why() {
    let programs = Programs::default();
    for (nftables, with, backend, reason) in [
        (true, Some(&programs), "nftables", "the kernel has nftables"),
        (true, None, "nftables", "the kernel has nftables"),
        (false, Some(&programs), "iptables", "the kernel has no nftables"),
        (false, None, "none", "install the package iptables"),
    ] {
        let simulation = start(FirewallBackend::Auto, nftables, with).await.expect("starts");
        let controller = simulation.engine().controller();
        controller.create_network(NetworkSpec::new("blue")).await.expect("a network");
        let shown = picture(&simulation).await;
        assert_eq!((&*shown.backend, shown.networks), (backend, 1));
        assert!(shown.reason.contains(reason), "{}", shown.reason);
        assert_eq!(shown.missing.is_some(), backend == "none", "{shown:?}");
        let has_chains =
            programs.legacy.0.tables(false).chains("filter").iter().any(|one| one.starts_with("NETLOOM"));
        assert_eq!(has_chains, backend == "iptables");
        controller.network_by_name("blue").expect("there").delete().await.expect("deleted");
    }
}

#[tokio::test]
async fn a_choice_that_cannot_work_refuses_the_start_with_the_remedy() {
    let programs = Programs::default();
    for (backend, nftables, with, remedy) in [
        (FirewallBackend::Nftables, false, Some(&programs), "CONFIG_NF_TABLES"),
        (FirewallBackend::Iptables, true, None, "install the package iptables"),
    ] {
        let error = start(backend, nftables, with).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("firewall.backend") && text.contains(remedy) && text.contains("\"auto\""),
            "{text}"
        );
    }
    for (backend, name) in [
        (FirewallBackend::Nftables, "nftables"),
        (FirewallBackend::Iptables, "iptables"),
        (FirewallBackend::None, "none"),
    ] {
        let simulation = start(backend, true, Some(&programs)).await.expect("starts");
        let shown = picture(&simulation).await;
        assert_eq!((&*shown.backend, shown.reason), (name, format!("firewall.backend is {name:?}")));
        assert_eq!(shown.missing, None);
    }
}
