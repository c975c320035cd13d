//! Names over a simulated kernel: when records come and go, which sandboxes have a name server, and what becomes of both
//! when something fails or dies.

use std::time::Duration;

use netloom::kernel::nft::{Change, Table};
use netloom::kernel::{Netns, Op};
use netloom::snapshot::NameServerSnapshot;
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{
    Endpoint, EndpointSpec, Engine, JoinSpec, NamespaceSpec, Network, NetworkSpec, Sandbox, SandboxSpec,
    ShutdownMode, Victim,
};

use crate::support::{World, bounded, note, until, within};

const TABLE: &str = "netloom-names";

/// A line for each record of a network: its name and how many addresses and endpoints it has.
async fn records(engine: &Engine, network: &str) -> Vec<String> {
    let all = bounded("listing", engine.controller().names()).await.expect("listed");
    let zone = all.into_iter().find(|zone| zone.network.name == network).expect("the network is listed");
    zone.records.into_iter().map(|record| format!("{} {}", record.name, record.address)).collect()
}

async fn servers(engine: &Engine) -> Vec<NameServerSnapshot> {
    bounded("listing", engine.controller().name_servers()).await.expect("listed")
}

/// The containers that have a name server.
async fn served(engine: &Engine) -> Vec<String> {
    servers(engine).await.into_iter().map(|server| server.sandbox.name).collect()
}

async fn join(network: &Network, spec: EndpointSpec, sandbox: &Sandbox) -> Endpoint {
    let endpoint = network.create_endpoint(spec).await.expect("an endpoint");
    bounded("joining", endpoint.join(sandbox, JoinSpec::default())).await.expect("joined");
    endpoint
}

fn subnet(spec: NetworkSpec, subnet: &str) -> NetworkSpec {
    spec.subnet(subnet.parse().expect("a subnet"))
}

fn netns(sandbox: &Sandbox) -> Netns {
    Netns::Named(sandbox.netns().expect("a name"))
}

/// Whether rules lead to a name server in a namespace.
fn led(kernel: &SimKernel, netns: Netns) -> bool {
    let line = format!("table ip {TABLE} of {netns}");
    kernel.snapshot().objects().any(|(name, _)| name == line)
}

#[tokio::test]
async fn names_are_there_from_creation_to_deletion_with_all_their_aliases() {
    let world = World::new().await;
    let spec = subnet(subnet(NetworkSpec::new("blue"), "10.1.0.0/24"), "fd00:1::/64").ipv6(true);
    let blue = world.engine().controller().create_network(spec).await.expect("a network");
    assert_eq!(records(world.engine(), "blue").await, Vec::<String>::new());
    let web = EndpointSpec::new("Web").alias("www").address("10.1.0.7".parse().expect("valid"));
    let web = web.address("fd00:1::7".parse().expect("valid"));
    let web = blue.create_endpoint(web).await.expect("made");
    let all = ["web 10.1.0.7", "web fd00:1::7", "www 10.1.0.7", "www fd00:1::7"];
    assert_eq!(records(world.engine(), "blue").await, all);
    // Two may have one alias; who is anonymous has nothing else.
    let other = EndpointSpec::new("hidden").alias("WWW").address("10.1.0.8".parse().expect("valid"));
    let other = other.address("fd00:1::8".parse().expect("valid")).anonymous();
    let other = blue.create_endpoint(other).await.expect("made");
    let mute = EndpointSpec::new("mute").anonymous();
    let mute = blue.create_endpoint(mute).await.expect("made");
    let both = ["www 10.1.0.7", "www 10.1.0.8", "www fd00:1::7", "www fd00:1::8"];
    assert_eq!(records(world.engine(), "blue").await[2..], both);
    // Coming and going changes nothing: who is not plugged in has the address all the same.
    let sandbox = world.sandbox("c1").await;
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(records(world.engine(), "blue").await[..2], all[..2]);
    sandbox.rename("db").await.expect("renamed");
    world.settles().await;
    web.leave(&sandbox).await.expect("left");
    assert_eq!(records(world.engine(), "blue").await[..2], ["db 10.1.0.7", "db fd00:1::7"]);
    web.delete().await.expect("deleted");
    assert_eq!(records(world.engine(), "blue").await, ["www 10.1.0.8", "www fd00:1::8"]);
    other.delete().await.expect("deleted");
    mute.delete().await.expect("deleted");
    assert_eq!(records(world.engine(), "blue").await, Vec::<String>::new());
    world.delete_everything().await;
    assert!(world.engine().controller().names().await.expect("listed").is_empty());
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_sandbox_has_a_name_server_from_its_first_endpoint_that_calls_for_one_to_its_end() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let green = world.network("green").await;
    let sandbox = world.sandbox("c1").await;
    // Those do without, as docker's on its default bridge.
    let mut without = EndpointSpec::new("a");
    without.names.no_resolution = true;
    join(&green, without, &sandbox).await;
    let mut without = EndpointSpec::new("b");
    without.names.no_resolution = true;
    join(&red, without, &sandbox).await;
    assert!(served(world.engine()).await.is_empty() && !led(world.kernel(), netns(&sandbox)));
    let spec = EndpointSpec::new("c").link("db", "data");
    let one = blue.create_endpoint(spec).await.expect("made");
    one.join(&sandbox, JoinSpec::priority(1)).await.expect("joined");
    let server = &servers(world.engine()).await[0];
    assert_eq!((&*server.sandbox.name, server.ports), ("c1", Some((61_053, 61_053))));
    assert_eq!(server.address.to_string(), "127.0.0.11:53");
    // In the order in which they are asked; all of them are.
    assert_eq!(server.networks, ["blue", "green", "red"]);
    assert!(server.external && server.trouble.is_none() && led(world.kernel(), netns(&sandbox)));
    world.settles().await;
    // It stays, whoever leaves, and sees no more of those networks.
    one.leave(&sandbox).await.expect("left");
    assert_eq!(servers(world.engine()).await[0].networks, ["green", "red"]);
    assert_eq!(world.engine().inspect().await.expect("inspected").name_servers.len(), 1);
    sandbox.delete().await.expect("deleted");
    assert!(served(world.engine()).await.is_empty());
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn neither_the_host_nor_null_calls_for_one_and_internal_networks_ask_nobody_outside() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let host = controller.create_network(NetworkSpec::new("host").driver("host")).await.expect("a network");
    let null = controller.create_network(NetworkSpec::new("none").driver("null")).await.expect("a network");
    let inner = controller.create_network(NetworkSpec::new("inner").internal(true)).await.expect("a network");
    let spec = SandboxSpec { namespace: NamespaceSpec::Host, ..SandboxSpec::new("on the host") };
    let on_host = controller.create_sandbox(spec).await.expect("a sandbox");
    join(&host, EndpointSpec::new("a"), &on_host).await;
    let (alone, inside) = (world.sandbox("alone").await, world.sandbox("inside").await);
    join(&null, EndpointSpec::new("b"), &alone).await;
    assert!(served(world.engine()).await.is_empty());
    let spec = SandboxSpec::new("asks").dns("192.0.2.1".parse().expect("valid"));
    let asks = controller.create_sandbox(spec).await.expect("a sandbox");
    join(&inner, EndpointSpec::new("c"), &inside).await;
    join(&inner, EndpointSpec::new("d"), &asks).await;
    assert_eq!(served(world.engine()).await, ["asks", "inside"]);
    assert!(servers(world.engine()).await.iter().all(|server| !server.external));
    world.settles().await;
}

#[tokio::test]
async fn the_death_of_any_actor_costs_no_name_and_no_name_server() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (web, sandbox) = world.joined(&network, "web").await;
    let had = records(world.engine(), "blue").await;
    let before = servers(world.engine()).await;
    assert_eq!((had.len(), before.len()), (1, 1));
    for victim in [
        Victim::Names,
        Victim::Network(network.id()),
        Victim::Sandbox(sandbox.id()),
        Victim::Driver("bridge".into()),
        Victim::Store,
        Victim::Controller,
        Victim::Names,
    ] {
        note(format!("{victim:?}"));
        world.simulation.crash_actor(victim.clone()).await.expect("told");
        // At no moment is a name away.
        let same = async || match world.engine().controller().names().await {
            Ok(names) => {
                assert_eq!(names[0].records.len(), had.len(), "{victim:?}");
                true
            }
            Err(_) => false,
        };
        until("the same names", same).await;
        world.settles().await;
        until("it answers again", async || {
            let listed = world.engine().controller().name_servers().await;
            listed.is_ok_and(|listed| listed == before)
        })
        .await;
        assert!(led(world.kernel(), netns(&sandbox)));
    }
    // It still takes what it is told.
    let red = world.network("red").await;
    join(&red, EndpointSpec::new("more"), &sandbox).await;
    assert_eq!(servers(world.engine()).await[0].networks, ["blue", "red"]);
    web.delete().await.expect_err("it is in a sandbox");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn an_engine_that_is_started_again_has_all_of_it_again() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let spec = SandboxSpec::new("c1").dns("192.0.2.1".parse().expect("valid"));
    let sandbox = world.engine().controller().create_sandbox(spec).await.expect("a sandbox");
    join(&network, EndpointSpec::new("web").alias("www"), &sandbox).await;
    network.create_endpoint(EndpointSpec::new("idle")).await.expect("made");
    let (had, before) = (records(world.engine(), "blue").await, servers(world.engine()).await);
    assert_eq!((had.len(), before.len()), (3, 1));
    let world = world.kill_and_restart().await;
    assert_eq!(records(world.engine(), "blue").await, had);
    assert_eq!(servers(world.engine()).await, before);
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn one_that_cannot_be_started_is_told_and_tried_again_and_no_join_fails_for_it() {
    for kind in [FaultKind::Refuse(12), FaultKind::Lose, FaultKind::LoseBefore] {
        let world = World::new().await;
        let network = world.network("blue").await;
        world.kernel().plan(Fault::verb("change_table_inside", 1, kind).always());
        let (_, sandbox) = world.joined(&network, "web").await;
        let server = servers(world.engine()).await.remove(0);
        assert_eq!(server.ports, None, "{kind:?}");
        let why = server.trouble.expect("it is told why");
        assert!(why.contains("netloom-names") && why.contains("namespace"), "{why}");
        // What changes meanwhile is what it begins with.
        let red = world.network("red").await;
        join(&red, EndpointSpec::new("more"), &sandbox).await;
        world.kernel().clear_faults();
        world.settles().await;
        assert_eq!(servers(world.engine()).await[0].networks, ["blue", "red"]);
        assert!(led(world.kernel(), netns(&sandbox)));
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

#[tokio::test]
async fn a_kernel_without_nftables_has_the_name_server_at_the_port_itself() {
    let kernel = SimKernel::new();
    kernel.without_nftables();
    let simulation = Engine::simulation().kernel(kernel.clone()).start().await.expect("it starts");
    let controller = simulation.engine().controller();
    let network = controller.create_network(NetworkSpec::new("blue")).await.expect("a network");
    let sandbox = controller.create_sandbox(SandboxSpec::new("c1")).await.expect("a sandbox");
    join(&network, EndpointSpec::new("web"), &sandbox).await;
    assert_eq!(servers(simulation.engine()).await[0].ports, Some((53, 53)));
    sandbox.delete().await.expect("deleted");
    assert!(served(simulation.engine()).await.is_empty());
}

#[tokio::test]
async fn a_kernel_that_does_not_answer_holds_no_join_up_and_ends_with_the_sandbox() {
    let world = World::with(within(Duration::from_secs(5))).await;
    let network = world.network("blue").await;
    world.kernel().plan(Fault::verb("change_table_inside", 1, FaultKind::Hang));
    let began = std::time::Instant::now();
    let (web, sandbox) = world.joined(&network, "web").await;
    assert!(began.elapsed() < Duration::from_secs(4), "the join waited for its name server");
    assert_eq!(servers(world.engine()).await[0].ports, None);
    web.leave(&sandbox).await.expect("left");
    world.kernel().release();
    sandbox.delete().await.expect("deleted");
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

#[tokio::test]
async fn a_join_that_fails_leaves_no_name_server_unless_there_was_one() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let sandbox = world.sandbox("c1").await;
    let endpoint = blue.create_endpoint(EndpointSpec::new("web")).await.expect("made");
    let before = world.kernel().snapshot();
    let fails = |n| world.kernel().plan(Fault::verb("add_address", n, FaultKind::Refuse(12)));
    fails(1);
    endpoint.join(&sandbox, JoinSpec::default()).await.expect_err("no memory");
    world.settles().await;
    bounded("draining", world.engine().drain()).await.expect("drained");
    world.kernel().assert_pristine(&before);
    assert!(served(world.engine()).await.is_empty());
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let other = red.create_endpoint(EndpointSpec::new("other")).await.expect("made");
    fails(1);
    other.join(&sandbox, JoinSpec::default()).await.expect_err("no memory");
    world.settles().await;
    // It sees what it saw before.
    assert_eq!(servers(world.engine()).await[0].networks, ["blue"]);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn rules_that_are_there_already_are_said_anew() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let sandbox = world.sandbox("c1").await;
    // Left by an engine that was killed, say.
    let table = Table { family: netloom::kernel::nft::Family::Ip, name: TABLE.into() };
    let left = Op::ChangeTable { netns: netns(&sandbox), table, changes: vec![Change::AddTable] };
    world.kernel().foreign_op(&left).expect("left");
    join(&network, EndpointSpec::new("web"), &sandbox).await;
    assert!(servers(world.engine()).await[0].trouble.is_none());
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn an_engine_that_ends_ends_its_name_servers_and_leaves_the_rules_to_the_next_one() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (_, sandbox) = world.joined(&network, "web").await;
    let netns = netns(&sandbox);
    bounded("the end", world.engine().shutdown(ShutdownMode::Graceful)).await.expect("stopped");
    assert!(led(world.kernel(), netns));
}
