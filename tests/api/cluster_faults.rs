//! What goes wrong between the hosts of a cluster: two engines of one name, a store that is away or unclear, a host that is
//! gone for good, a kill between what the space has given and what is noted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{join_all, ready};
use ipnet::IpNet;
use netloom::cluster::{Answer, ClusterFault, ClusterStore, MemoryCluster, Revision, Swapped, Versioned};
use netloom::ipam::IpamCapability;
use netloom::snapshot::NetworkPhase;
use netloom::{
    DefaultPool, EndpointSpec, Engine, EngineConfig, ErrorKind, EventKind, Membership, NetworkSpec,
    Simulation,
};

use crate::acme::{Acme, Call, Twist, of_acme};
use crate::cluster_space::{address, in_common, member, network, pools, started};
use crate::scripted::{Asked, Scripted};
use crate::support::{bounded, delete_everything, until, within};

async fn used(host: &Simulation) -> u64 {
    pools(host).await.iter().map(|pool| pool.used).sum()
}

async fn leaks(host: &Simulation) -> Vec<String> {
    bounded("inspecting", host.engine().inspect()).await.expect("inspected").leaks
}

#[tokio::test]
async fn a_second_engine_of_a_host_name_is_refused() {
    let store = MemoryCluster::default();
    let a = started(member(&store, "a")).await;
    let blue = network(&a, "blue").await;
    let error = bounded("the start", member(&store, "a").start()).await.expect_err("the name is taken");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let (text, remedy) = (error.to_string(), error.remedy().expect("there is one"));
    assert!(
        text.contains("host name \"a\"") && text.contains("since 20") && text.contains("purge"),
        "{text}"
    );
    assert!(remedy.contains("stop that one") && remedy.contains("name of its own"), "{remedy}");

    // When nobody can say whose it is, the start goes on, and requests are refused.
    store.unreachable(true);
    let second = started(member(&store, "a")).await;
    store.unreachable(false);
    let error =
        second.engine().controller().create_network(in_common("red")).await.expect_err("the name is taken");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(pools(&a).await.len(), 1);

    // The same engine again is at home.
    let again = started(bounded("the end", a.kill()).await).await;
    assert!(blue.inspect().await.is_err(), "of before");
    let blue = again.engine().controller().network_by_name("blue").expect("recorded");
    address(&blue, "web").await;
    bounded("the end", delete_everything(again.engine())).await.expect("deleted");
}

/// A store of whose engine the clock stands still, and goes on when nothing is to be done. It is away for a time.
#[derive(Debug)]
struct Clocked {
    store: MemoryCluster,
    away: Duration,
    began: OnceLock<tokio::time::Instant>,
    /// When it is back the clock goes on by itself.
    back: Once,
    /// When it was asked in vain.
    in_vain: Mutex<Vec<Duration>>,
}

impl Clocked {
    fn new(store: &MemoryCluster, away: Duration) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            away,
            began: OnceLock::new(),
            back: Once::new(),
            in_vain: Mutex::default(),
        })
    }

    fn times(&self) -> Vec<Duration> {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask<T: Send + 'static>(&self, answer: impl FnOnce(&MemoryCluster) -> Answer<T>) -> Answer<T> {
        // The first call is the start's, on the engine's thread.
        let began = self.began.get_or_init(|| {
            tokio::time::pause();
            tokio::time::Instant::now()
        });
        let now = began.elapsed();
        if now >= self.away {
            self.back.call_once(tokio::time::resume);
            return answer(&self.store);
        }
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner).push(now);
        let message = "it does not answer".into();
        ready(Err(netloom::cluster::StoreError::Unreachable { message })).boxed()
    }
}

impl ClusterStore for Clocked {
    fn get(&self, key: &str) -> Answer<Option<Versioned>> {
        self.ask(|store| store.get(key))
    }

    fn keys(&self, prefix: &str) -> Answer<Vec<String>> {
        self.ask(|store| store.keys(prefix))
    }

    fn swap(&self, key: &str, value: Vec<u8>, expected: Option<Revision>) -> Answer<Swapped> {
        self.ask(|store| store.swap(key, value, expected))
    }

    fn remove(&self, key: &str) -> Answer<()> {
        self.ask(|store| store.remove(key))
    }
}

/// The store is away at a start for ten minutes, which pass at once: the network comes back with it, after rests that grow
/// and are bounded.
#[tokio::test]
async fn networks_come_into_service_when_the_store_is_back() {
    let store = MemoryCluster::default();
    let a = started(member(&store, "a")).await;
    let blue = network(&a, "blue").await;
    let web = address(&blue, "web").await;
    a.engine().controller().create_network(NetworkSpec::new("local")).await.expect("made");
    let builder = bounded("the end", a.kill()).await;

    let away = Duration::from_secs(600);
    let clocked = Clocked::new(&store, away);
    // Handles set their deadlines by a clock that goes on as usual, far behind that of the engine.
    let builder = builder.config(within(away * 10));
    let again = started(builder.cluster(Membership::new(clocked.clone(), "a"))).await;
    let mut events = again.engine().events();
    let phase = async |name: &str| {
        let found = again.engine().controller().network_by_name(name).expect("recorded");
        found.inspect().await.expect("there").phase
    };
    assert_eq!(phase("local").await, NetworkPhase::Active, "it needs no cluster");
    until("it is in service", async || phase("blue").await == NetworkPhase::Active).await;
    let times = clocked.times();
    // The claim of the name at the start, the network's first attempt, and then one after each rest.
    let rests: Vec<_> = times[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(rests.len() > 20, "{rests:?}");
    assert!(rests.windows(2).all(|pair| pair[0] <= pair[1] + Duration::from_millis(5)), "{rests:?}");
    let bounds = |rest: &Duration| (Duration::from_millis(250)..Duration::from_secs(31)).contains(rest);
    assert!(rests.iter().all(bounds), "{rests:?}");
    let recovered = async {
        while !matches!(
            events.next().await.expect("open").expect("none missed").kind,
            EventKind::ObjectRecovered { .. }
        ) {}
    };
    // It may have been told before anybody listened.
    let _ = tokio::time::timeout(Duration::from_millis(10), recovered).await;
    let blue = again.engine().controller().network_by_name("blue").expect("recorded");
    assert_ne!(address(&blue, "db").await, web);
    bounded("the end", delete_everything(again.engine())).await.expect("deleted");
}

/// A start without the store, and then an actor's death without it: what is out of service comes back each time.
#[tokio::test]
async fn a_store_that_comes_back_is_noticed_after_every_outage() {
    let store = MemoryCluster::default();
    let a = started(member(&store, "a")).await;
    address(&network(&a, "blue").await, "web").await;
    let builder = bounded("the end", a.kill()).await;
    store.unreachable(true);
    let mut a = started(builder).await;
    for crash in [false, true] {
        if crash {
            store.unreachable(true);
            let victim = netloom::Victim::IpamDriver("default (GlobalDefault)".into());
            a.crash_actor(victim).await.expect("crashed");
        }
        let blue = a.engine().controller().network_by_name("blue").expect("recorded");
        let phase = async || blue.inspect().await.expect("there").phase;
        until("it is out of service", async || phase().await == NetworkPhase::Failed).await;
        let mut events = a.engine().events();
        if crash {
            a.crash_actor(netloom::Victim::Controller).await.expect("crashed");
        }
        store.unreachable(false);
        until("it is in service", async || phase().await == NetworkPhase::Active).await;
        let told = async {
            loop {
                let event = events.next().await.expect("open").expect("none missed");
                if matches!(event.kind, EventKind::ObjectRecovered { .. }) {
                    return;
                }
            }
        };
        bounded("it is told", told).await;
        let name = format!("after {crash}");
        address(&blue, &name).await;
        if !crash {
            a = started(bounded("the end", a.kill()).await).await;
        }
    }
    assert_eq!(used(&a).await, 3);
    bounded("the end", delete_everything(a.engine())).await.expect("deleted");
}

/// The change is made, its answer is lost, and then the store is away: whoever asked is told that it is not known, and what
/// was given is given back when the store is there again.
#[tokio::test]
async fn a_lost_answer_before_an_outage_loses_no_address() {
    let store = MemoryCluster::default();
    let a = started(member(&store, "a")).await;
    let blue = network(&a, "blue").await;
    store.fail(1, ClusterFault::LostAndAway);
    let error = blue.create_endpoint(EndpointSpec::new("web")).await.expect_err("nobody knows");
    assert!(error.to_string().contains("cluster store cannot be reached"), "{error}");
    assert!(leaks(&a).await.iter().any(|leak| leak.contains("addresses of endpoint")), "{error}");
    store.unreachable(false);
    until("it is given back", async || leaks(&a).await.is_empty()).await;
    address(&blue, "db").await;
    assert_eq!(used(&a).await, 1, "only db has one");
    bounded("the end", delete_everything(a.engine())).await.expect("deleted");
}

/// A swap is on its way when its answer is given up, and arrives after everything else was settled: it has come too late.
#[tokio::test]
async fn a_swap_that_lands_late_gives_nothing() {
    for (fault, made) in [(ClusterFault::Late, true), (ClusterFault::LateAndAway, false)] {
        let store = MemoryCluster::default();
        let a = started(member(&store, "a")).await;
        let blue = network(&a, "blue").await;
        store.fail(1, fault);
        let outcome = blue.create_endpoint(EndpointSpec::new("web")).await;
        assert_eq!(outcome.is_ok(), made, "{outcome:?}");
        store.unreachable(false);
        until("nothing is left behind", async || leaks(&a).await.is_empty()).await;
        assert_eq!(store.land(), 1, "it was on its way");
        // Whoever looks now sees what it did.
        let db = address(&blue, "db").await;
        assert_eq!(used(&a).await, 1 + u64::from(made), "{fault:?}");
        let other = started(member(&store, "b")).await;
        network(&other, "red").await;
        let seen = pools(&other).await.into_iter().find(|pool| pool.name == "blue").expect("it has looked");
        assert_eq!(seen.used, 1 + u64::from(made), "{fault:?}, {db}");
        bounded("the end", delete_everything(a.engine())).await.expect("deleted");
    }
}

/// Eight engines, each on a thread of its own, take all they can at the same time: each gets what it asks for.
#[tokio::test]
async fn eight_engines_at_once_do_not_starve_each_other() {
    let store = MemoryCluster::default();
    let mut hosts = Vec::new();
    for n in 0..8 {
        hosts.push(started(member(&store, &format!("h{n}"))).await);
    }
    let work = hosts.iter().map(|host| async {
        let blue = network(host, "blue").await;
        let names: Vec<_> = (0..12).map(|n| format!("e{n}")).collect();
        let addresses = join_all(names.iter().map(|name| address(&blue, name))).await;
        (blue.inspect().await.expect("there").v4[0].pool, addresses)
    });
    let all = join_all(work).await;
    let subnets: BTreeSet<_> = all.iter().map(|(pool, _)| *pool).collect();
    assert_eq!(subnets.len(), 8);
    for (pool, addresses) in &all {
        let given: BTreeSet<_> = addresses.iter().collect();
        assert_eq!(given.len(), 12);
        assert!(given.iter().all(|address| pool.contains(*address)));
    }
    for host in &hosts {
        bounded("the end", delete_everything(host.engine())).await.expect("deleted");
    }
}

#[tokio::test]
async fn a_host_that_is_gone_for_good_gives_up_what_it_had() {
    let store = MemoryCluster::default();
    let (a, b) = (started(member(&store, "a")).await, started(member(&store, "b")).await);
    let blue = network(&a, "blue").await;
    let (pool, web) = (blue.inspect().await.expect("there").v4[0].pool, address(&blue, "web").await);
    let gone = bounded("the end", a.kill()).await;

    let controller = b.engine().controller();
    for (host, kind) in [("b", ErrorKind::InvalidParameter), ("nobody", ErrorKind::NotFound)] {
        let error = controller.purge_cluster_host(host).await.expect_err("not that one");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(host), "{error}");
    }
    let taken = controller.create_network(in_common("red").subnet(pool)).await.expect_err("it has it still");
    assert_eq!(taken.kind(), ErrorKind::Forbidden);
    let purged = controller.purge_cluster_host("a").await.expect("purged");
    assert_eq!(purged.networks.len(), 1, "{purged}");
    assert_eq!((purged.networks[0].name.as_str(), &*purged.networks[0].pools), ("blue", &[pool][..]));
    assert_eq!(purged.endpoints.len(), 1, "{purged}");
    assert_eq!((purged.endpoints[0].name.as_str(), &*purged.endpoints[0].addresses), ("web", &[web][..]));
    let red = controller.create_network(in_common("red").subnet(pool)).await.expect("it is free");

    // It was not gone: it comes back, and what another has by now is not its own any more.
    let a = started(gone).await;
    let blue = a.engine().controller().network_by_name("blue").expect("recorded");
    let seen = blue.inspect().await.expect("there");
    assert_eq!(seen.phase, NetworkPhase::Failed);
    red.delete().await.expect("deleted");
    let again = started(bounded("the end", a.kill()).await).await;
    let blue = again.engine().controller().network_by_name("blue").expect("recorded");
    assert_eq!(blue.inspect().await.expect("there").phase, NetworkPhase::Active, "nobody has it now");

    let alone = started(Engine::simulation()).await;
    let error = alone.engine().controller().purge_cluster_host("a").await.expect_err("no cluster");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn default_pools_of_a_cluster_are_of_both_families_and_judged_like_local_ones() {
    let store = MemoryCluster::default();
    let with = |host: &str, pools: &[(&str, u8)]| {
        let mut membership = Membership::new(Arc::new(store.clone()), host);
        let pools =
            pools.iter().map(|(base, size)| DefaultPool { base: base.parse().expect("a net"), size: *size });
        membership.default_pools = pools.collect();
        member(&store, host).cluster(membership)
    };
    for bad in [("10.0.0.0/8", 7), ("10.0.0.1/8", 24), ("fd00:9::/48", 127), ("ff00::/16", 64)] {
        let error = with("bad", &[bad]).start().await.expect_err("it makes no sense");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
        assert!(error.to_string().contains("default_pools") && error.to_string().contains(bad.0), "{error}");
    }
    let good = [("10.9.0.0/16", 24), ("fd00:9::/48", 64)];
    let (a, b) = (started(with("a", &good)).await, started(with("b", &good)).await);
    for (host, six) in [(&a, "fd00:9::/64"), (&b, "fd00:9:0:1::/64")] {
        let blue =
            host.engine().controller().create_network(in_common("blue").ipv6(true)).await.expect("made");
        let seen = blue.inspect().await.expect("there");
        assert_eq!(seen.v6[0].pool, six.parse::<IpNet>().expect("a net"));
    }
    let four = started(member(&store, "four")).await;
    let error =
        four.engine().controller().create_network(in_common("blue").ipv6(true)).await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
}

/// The engine dies when a network's pools were given and nothing was noted of them: the next start gives them back, in the
/// cluster and with drivers that remember.
#[tokio::test]
async fn pools_given_before_they_were_noted_are_given_back_after_a_kill() {
    // In the cluster, killed while the driver looks at what is there.
    let store = MemoryCluster::default();
    let hangs = Arc::new(AtomicBool::new(true));
    let driver = Scripted::new({
        let hangs = hangs.clone();
        move |asked| {
            let stuck = asked == Asked::Survey && hangs.load(Ordering::SeqCst);
            Ok(if stuck { std::future::pending().boxed() } else { ready(Ok(())).boxed() })
        }
    });
    let a = started(member(&store, "a").driver(driver.registration())).await;
    let controller = a.engine().controller();
    let spec = in_common("blue").driver(Scripted::KIND);
    let under_way = tokio::spawn(async move { controller.create_network(spec).await });
    until("the space has given them", async || pools(&a).await.len() == 1).await;
    let builder = bounded("the end", a.kill()).await;
    hangs.store(false, Ordering::SeqCst);
    let a = started(builder).await;
    bounded("the old one", under_way).await.expect("joined").expect_err("its engine is gone");
    until("they are given back", async || leaks(&a).await.is_empty()).await;
    let b = started(member(&store, "b")).await;
    network(&b, "red").await;
    assert_eq!(pools(&b).await.len(), 1, "only its own");

    // With a driver that remembers, killed at each of its calls.
    for n in 0..4 {
        let acme = Acme::new(IpamCapability::default());
        let world = acme.world(EngineConfig::default(), |more| more).await;
        let mut seen = 0;
        acme.script(move |call| {
            seen += usize::from(matches!(call, Call::Pool(_) | Call::Address(_)));
            (seen == n + 1).then_some(Twist::Hang)
        });
        let controller = world.engine().controller();
        let spec = of_acme("blue").ipv6(true);
        let under_way = tokio::spawn(async move { controller.create_network(spec).await });
        until("it has given that much", async || acme.given().len() == n + 1).await;
        let killed = world.kill_and_restart();
        acme.behave();
        let world = killed.await;
        bounded("the old one", under_way).await.expect("joined").expect_err("its engine is gone");
        bounded("draining", world.engine().drain()).await.expect("drained");
        until("nothing is left", async || acme.given().is_empty()).await;
        acme.assert_all_is_back();
        world.assert_pristine().await;
    }
}
