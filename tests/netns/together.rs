//! What is carried out together: one that is refused fails alone, and what is undone leaves nothing.

use futures::future::join_all;
use futures::{StreamExt, stream};
use netloom::kernel::{Kernel, Netns, Op};
use netloom::{
    Endpoint, EndpointSpec, Engine, ErrorKind, JoinSpec, Network, NetworkSpec, Sandbox, SandboxSpec,
};

use crate::lab::{Lab, delete_everything, in_lab, soon};

/// How many join at once.
const JOINERS: usize = 32;

/// Endpoints, each with a sandbox that it is not in yet.
async fn pairs(engine: &Engine, network: &Network) -> Vec<(Endpoint, Sandbox)> {
    let controller = engine.controller();
    let made = (0..JOINERS).map(async |n| {
        let endpoint = network.create_endpoint(EndpointSpec::new(format!("e{n}"))).await.expect("made");
        let sandbox = controller.create_sandbox(SandboxSpec::new(format!("c{n}"))).await.expect("made");
        (endpoint, sandbox)
    });
    join_all(made).await
}

async fn join_at_once(pairs: &[(Endpoint, Sandbox)]) -> Vec<netloom::Result<()>> {
    let joins = pairs
        .iter()
        .map(async |(endpoint, sandbox)| endpoint.join(sandbox, JoinSpec::default()).await.map(drop));
    join_all(joins).await
}

/// How many links the host's namespace has on a bridge.
async fn ports(lab: &Lab, bridge: &str) -> usize {
    let links = lab.kernel.links(Netns::Host, soon()).await.expect("links");
    let master = links.iter().find(|link| link.name.as_str() == bridge).expect("the bridge").index;
    links.iter().filter(|link| link.master == Some(master)).count()
}

#[test]
fn of_many_joins_at_once_one_whose_namespace_is_gone_fails_alone() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let pairs = pairs(&engine, &network).await;
        // A namespace that somebody has destroyed: its link cannot be put anywhere.
        let victim = pairs[JOINERS / 2].1.netns().unwrap();
        let drop = Op::DeleteNetns { name: victim };
        lab.kernel.execute(vec![drop], soon()).await.remove(0).expect("destroyed");
        let outcomes = join_at_once(&pairs).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.is_err(), n == JOINERS / 2, "join {n}: {outcome:?}");
        }
        let bridge = format!("br-{}", network.id().short());
        assert_eq!(ports(&lab, &bridge).await, JOINERS - 1, "nothing is left of the one");
        let refused = &pairs[JOINERS / 2].0;
        assert!(refused.inspect().await.unwrap().sandbox.is_none());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn of_many_joins_at_once_those_that_find_no_room_are_undone() {
    const ROOM: usize = 10;
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("full").option("com.docker.network.bridge.name", "full0");
        let network = engine.controller().create_network(spec).await.unwrap();
        lab.foreign_ports("full0", 1023 - ROOM).await;
        let pairs = pairs(&engine, &network).await;
        let before = engine.kernel_stats();
        let outcomes = join_at_once(&pairs).await;
        let after = engine.kernel_stats();
        let (sends, messages) = (after.sends - before.sends, after.messages - before.messages);
        assert!(sends * 2 < messages, "{messages} messages in {sends} sends: they went one by one");
        let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), JOINERS - ROOM, "{refused:?}");
        for error in refused {
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
            assert_eq!(error.certainty(), netloom::Certainty::Aborted, "{error:?}");
        }
        assert_eq!(ports(&lab, "full0").await, 1023);
        for (endpoint, sandbox) in &pairs {
            let joined = endpoint.inspect().await.unwrap().sandbox.is_some();
            let inside = lab.kernel.links(Netns::Named(sandbox.netns().unwrap()), soon()).await.unwrap();
            assert_eq!(inside.len(), 1 + usize::from(joined), "{inside:?}");
        }
        delete_everything(&engine).await;
    });
}

/// The most memory that this process has had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is told");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}

/// Ten thousand joins thrown in at once: the engine takes in as many as it may, carries out each of those in its time,
/// and tells all others at once that it is busy.
#[test]
fn of_ten_thousand_joins_at_once_none_is_late() {
    const JOINS: usize = 10_000;
    const NETWORKS: usize = 20;
    const SANDBOXES: usize = 100;
    /// Seen were 14: some 1.5 KiB for each that asks.
    const MEMORY_MIB: u64 = 64;
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let controller = engine.controller();
        let mut networks = Vec::new();
        for n in 0..NETWORKS {
            // Room for as many as a bridge has ports.
            let spec = NetworkSpec::new(format!("n{n}")).subnet(format!("10.{n}.0.0/21").parse().unwrap());
            networks.push(controller.create_network(spec).await.expect("made"));
        }
        let made = (0..SANDBOXES).map(|n| controller.create_sandbox(SandboxSpec::new(format!("c{n}"))));
        let sandboxes: Vec<_> = join_all(made).await.into_iter().map(|made| made.expect("made")).collect();
        let made =
            (0..JOINS).map(|n| networks[n % NETWORKS].create_endpoint(EndpointSpec::new(format!("e{n}"))));
        // As many at a time as are let in, so that the store is synced now and then only.
        let endpoints: Vec<_> =
            stream::iter(made).buffered(1_000).map(|made| made.expect("made")).collect().await;
        let before = peak_mib();
        let joins = (0..JOINS).map(|n| {
            let (endpoint, sandbox) = (endpoints[n].clone(), sandboxes[n % SANDBOXES].clone());
            tokio::spawn(async move { endpoint.join(&sandbox, JoinSpec::default()).await.map(drop) })
        });
        let outcomes: Vec<_> = join_all(joins).await.into_iter().map(|outcome| outcome.unwrap()).collect();
        let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        let grown = peak_mib() - before;
        assert!(grown < MEMORY_MIB, "{grown} MiB more");
        let limit = engine.config().limits.operations;
        assert!((limit..JOINS).contains(&(JOINS - refused.len())), "{} are refused", refused.len());
        for error in refused {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
            assert_eq!(error.certainty(), netloom::Certainty::Aborted, "{error:?}");
        }
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
