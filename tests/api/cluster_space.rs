//! The address space that engines of several hosts have in common, each with a kernel and a disk of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use netloom::cluster::{ClusterStore, MemoryCluster};
use netloom::snapshot::{DefaultPoolSnapshot, IpamSnapshot, NetworkPhase, PoolSnapshot};
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{
    EndpointSpec, Engine, ErrorKind, JoinSpec, Membership, Network, NetworkSpec, Reason, SandboxSpec,
    Simulation, SimulationBuilder, Victim,
};

use netloom_model::record::NetworkRecord;
use netloom_store::{RecordKind, decode};

use crate::listening;
use crate::support::{bounded, delete_everything, until, within};

const SPACE: &str = "GlobalDefault";
const ACTOR: &str = "default (GlobalDefault)";

pub(crate) fn in_common(name: &str) -> NetworkSpec {
    let mut spec = NetworkSpec::new(name);
    spec.ipam.address_space = SPACE.into();
    spec
}

pub(crate) fn member(store: &MemoryCluster, host: &str) -> SimulationBuilder {
    let store: Arc<dyn ClusterStore> = Arc::new(store.clone());
    let config = within(Duration::from_secs(5));
    Engine::simulation().config(config).kernel(SimKernel::default()).cluster(Membership::new(store, host))
}

pub(crate) async fn started(builder: SimulationBuilder) -> Simulation {
    bounded("the start", builder.start()).await.expect("it starts")
}

pub(crate) async fn network(host: &Simulation, name: &str) -> Network {
    bounded("the network", host.engine().controller().create_network(in_common(name))).await.expect("made")
}

pub(crate) async fn address(network: &Network, name: &str) -> IpAddr {
    let endpoint =
        bounded("the endpoint", network.create_endpoint(EndpointSpec::new(name))).await.expect("made");
    endpoint.inspect().await.expect("there").ipv4.expect("an address").addr().into()
}

/// What an engine knows of the space.
async fn space(host: &Simulation) -> IpamSnapshot {
    let all = bounded("inspecting", host.engine().controller().ipam()).await.expect("inspected");
    let shared = all.into_iter().find(|ipam| ipam.spaces.iter().any(|space| space == SPACE));
    shared.expect("it is part of a cluster")
}

/// The pools that it knows of there.
pub(crate) async fn pools(host: &Simulation) -> Vec<PoolSnapshot> {
    space(host).await.pools
}

#[tokio::test]
async fn networks_of_several_hosts_never_have_one_subnet() {
    let alone = started(Engine::simulation()).await;
    let error = alone.engine().controller().create_network(in_common("blue")).await.expect_err("no cluster");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("in no cluster"), "{error}");

    let store = MemoryCluster::default();
    let (a, b) = (started(member(&store, "a")).await, started(member(&store, "b")).await);
    let mut made = BTreeSet::new();
    for n in 0..6 {
        let host = if n % 2 == 0 { &a } else { &b };
        let network = network(host, &format!("n{n}")).await;
        let pool = network.inspect().await.expect("there").v4[0].pool;
        assert!("10.0.0.0/8".parse::<IpNet>().unwrap().contains(&pool));
        assert!(made.insert(pool), "{pool} twice");
        assert_eq!(address(&network, "web").await, pool.hosts().nth(1).expect("room"));
    }
    // Local networks have nothing to do with it.
    let local = b.engine().controller().create_network(NetworkSpec::new("local")).await.expect("made");
    assert_eq!(local.inspect().await.unwrap().v4[0].pool, "172.17.0.0/16".parse::<IpNet>().unwrap());
    // Each space with its own default pools. What other hosts have is used there, as far as the last request has learnt.
    for (host, used) in [(&a, 5), (&b, 6)] {
        let block = DefaultPoolSnapshot {
            base: "10.0.0.0/8".parse().unwrap(),
            size: 24,
            total: 65_536,
            used,
            of_host: Some(0),
        };
        let space = space(host).await;
        assert_eq!((space.default_pools.as_slice(), space.pools.len() as u64), (&[block][..], used));
        let local =
            bounded("inspecting", host.engine().controller().ipam()).await.expect("inspected").remove(0);
        assert_eq!(
            (local.spaces.as_slice(), local.default_pools.len()),
            (&["LocalDefault".to_owned()][..], 18)
        );
    }
    let taken = *made.first().expect("six");
    let given = in_common("given").subnet(taken);
    let error = b.engine().controller().create_network(given).await.expect_err("taken on the other host");
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(error.to_string().contains("held by network \"n0\""), "{error}");
    for host in [&a, &b] {
        bounded("the end", delete_everything(host.engine())).await.expect("deleted");
    }
    network(&a, "last").await;
    assert_eq!(pools(&a).await.len(), 1, "what the others had is free");
}

#[tokio::test]
async fn what_a_host_had_is_its_own_after_a_crash() {
    let store = MemoryCluster::default();
    let (a, b) = (started(member(&store, "a")).await, started(member(&store, "b")).await);
    let (blue, red) = (network(&a, "blue").await, network(&b, "red").await);
    let (web, db) = (address(&blue, "web").await, address(&blue, "db").await);
    address(&red, "other").await;
    // The actor dies: its successor knows what is taken from the store.
    a.crash_actor(Victim::IpamDriver(ACTOR.into())).await.expect("crashed");
    let next = address(&blue, "next").await;
    assert!(![web, db].contains(&next));
    // The host dies, and one of its endpoints with it: its record is gone, the store does not know yet.
    blue.endpoint_by_name("next").await.expect("there").delete().await.expect("deleted");
    let blues = async || {
        pools(&a).await.into_iter().filter(|pool| pool.name == "blue").map(|pool| pool.used).sum::<u64>()
    };
    until("the quarantine ends", async || blues().await == 2).await;
    let again = started(bounded("the end", a.kill()).await).await;
    let blue = again.engine().controller().network_by_name("blue").expect("it is recorded");
    let mut held: Vec<_> =
        blue.holders(100).await.expect("listed").holders.into_iter().map(|h| h.holder).collect();
    held.retain(|holder| holder.starts_with("endpoint"));
    assert_eq!(held.len(), 2, "{held:?}");
    assert!(held.iter().all(|holder| holder.ends_with("of host a")), "{held:?}");
    let fresh = address(&blue, "fresh").await;
    assert!(
        ![web, db, next].contains(&fresh),
        "the history has the order: {fresh}, and {next} was released last"
    );
    let taken = blue.create_endpoint(EndpointSpec::new("thief").address(web)).await.expect_err("web has it");
    assert!(taken.to_string().contains("endpoint \"web\""), "{taken}");
}

/// What is kept for an endpoint's new name, which no other host has heard of, is there again after a start, and for others it
/// is taken.
#[tokio::test]
async fn what_is_kept_for_a_new_name_outlives_the_host() {
    let store = MemoryCluster::default();
    let (a, b) = (started(member(&store, "a")).await, started(member(&store, "b")).await);
    let blue = network(&a, "blue").await;
    let controller = a.engine().controller();
    let sandbox = controller.create_sandbox(SandboxSpec::new("c1")).await.expect("made");
    let endpoint = blue.create_endpoint(EndpointSpec::new("old")).await.expect("made");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let kept = endpoint.inspect().await.expect("there").ipv4.expect("it has one").addr();
    sandbox.rename("db").await.expect("renamed");
    blue.reserve_address("db", Some(kept), None).await.expect("it has that already");
    // The other host follows what was changed, and agrees.
    network(&b, "red").await;
    let again = started(bounded("the end", a.kill()).await).await;
    let blue = again.engine().controller().network_by_name("blue").expect("it is recorded");
    assert_eq!(blue.inspect().await.expect("inspected").phase, NetworkPhase::Active);
    let held = blue.holders(100).await.expect("listed").holders;
    let held = held.iter().find(|held| held.address == IpAddr::V4(kept)).expect("held");
    assert!(held.holder.starts_with("endpoint \"db\""), "{held:?}");
    again.engine().controller().sandboxes()[0].delete().await.expect("deleted");
    blue.endpoint_by_name("db").await.expect("there").delete().await.expect("deleted");
    again.engine().drain().await.expect("drained");
    assert_eq!(address(&blue, "other").await.to_string(), "10.0.0.3");
    assert_eq!(address(&blue, "db").await, IpAddr::V4(kept));
}

#[tokio::test]
async fn while_the_store_is_away_nothing_is_given_and_nothing_is_lost() {
    let store = MemoryCluster::default();
    let a = started(member(&store, "a")).await;
    let blue = network(&a, "blue").await;
    address(&blue, "web").await;
    store.unreachable(true);
    let error = blue.create_endpoint(EndpointSpec::new("db")).await.expect_err("nobody can choose");
    assert!(error.to_string().contains("cluster store cannot be reached"), "{error}");
    let error =
        a.engine().controller().create_network(in_common("red")).await.expect_err("nobody can choose");
    assert!(error.to_string().contains("cluster store cannot be reached"), "{error}");
    // A deletion succeeds: the address is given back when the store is there again, visibly so.
    let web = blue.endpoint_by_name("web").await.expect("there");
    bounded("the deletion", web.delete()).await.expect("deleted");
    until("a leak is seen", async || !a.engine().inspect().await.expect("inspected").leaks.is_empty()).await;
    store.unreachable(false);
    until("it is cleared", async || a.engine().inspect().await.expect("inspected").leaks.is_empty()).await;
    until("nothing is used", async || pools(&a).await.iter().all(|pool| pool.used == 0)).await;
    address(&blue, "db").await;
    bounded("the end", delete_everything(a.engine())).await.expect("deleted");
    until("nothing is there", async || pools(&a).await.is_empty()).await;
}

/// A network is deleted, and a link of it dies slowly: who wants its subnet on another host is told so, and gets it
/// afterwards.
#[tokio::test]
async fn other_hosts_are_told_that_pools_will_be_given_back() {
    let store = MemoryCluster::default();
    let (a, b) = (started(member(&store, "a")).await, started(member(&store, "b")).await);
    let blue = network(&a, "blue").await;
    let pool = blue.inspect().await.expect("there").v4[0].pool;
    address(&blue, "web").await;
    let web = blue.endpoint_by_name("web").await.expect("there");
    let sandbox = a.engine().controller().create_sandbox(SandboxSpec::new("c1")).await.expect("made");
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let controller = b.engine().controller();
    let wanted = || controller.create_network(in_common("red").subnet(pool));
    let error = wanted().await.expect_err("it has it");
    assert!(matches!(error.reason(), Reason::PoolOverlap { .. }), "{error}");

    a.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Hang));
    bounded("the deletion", blue.delete_with_force()).await.expect("deleted");
    until("the hang", async || a.kernel().hanging() == 1).await;
    until("it is told", async || {
        let error = wanted().await.expect_err("a link of it may still answer");
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        let text = error.to_string();
        text.contains("blue of host a") && text.contains("gives its pools back") && text.contains("try again")
    })
    .await;
    assert_eq!(a.kernel().release(), 1);
    until("it is given back", async || pools(&a).await.is_empty()).await;
    let red = bounded("the network", wanted()).await.expect("it is free");
    assert_eq!(red.inspect().await.expect("there").v4[0].pool, pool);
    for host in [&a, &b] {
        bounded("the end", delete_everything(host.engine())).await.expect("deleted");
    }
}

/// A driver that reaches over hosts has its networks' pools in the cluster's space though nobody asks for it, and the record
/// says so: nobody who reads it knows the driver.
#[tokio::test]
async fn the_record_of_a_network_tells_that_its_pools_are_the_clusters() {
    let store = MemoryCluster::default();
    let (driver, _told) = listening::registered();
    let host = started(member(&store, "a").driver(driver)).await;
    let controller = host.engine().controller();
    let far = NetworkSpec::new("far").driver(listening::KIND);
    for spec in [far, in_common("asked"), NetworkSpec::new("local")] {
        bounded("the network", controller.create_network(spec)).await.expect("made");
    }
    assert_eq!(
        pools(&host).await.iter().map(|pool| &*pool.name).collect::<BTreeSet<_>>(),
        ["asked", "far"].into()
    );
    let records = host.disk().records();
    let networks = records.iter().filter(|(key, _)| key.kind == RecordKind::Network);
    let told: BTreeMap<_, _> = networks
        .map(|(_, value)| decode::<NetworkRecord>(value).expect("a record"))
        .map(|record| (record.spec.name, record.in_cluster))
        .collect();
    assert_eq!(
        told,
        [("asked", true), ("far", true), ("local", false)].map(|(name, of)| (name.to_owned(), of)).into()
    );
}
