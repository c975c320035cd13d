//! What the firewall of bridge networks does to packets, seen through the engine. `crates/firewall/tests/packets` has each
//! of its rules.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netloom::kernel::{Kernel, LinkTag, LinuxConfig, LinuxKernel, Netns, Op, Route};
use netloom::{Engine, EventKind, Network, NetworkSpec, RepairCause, ShutdownMode};

use crate::lab::{Lab, address, delete_everything, in_lab, joined, pings, soon};
use crate::rules::{ALL, Rules};

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an answer that would come, on a slow machine.
const SILENCE: Duration = Duration::from_millis(300);
/// The longest that damage goes unnoticed, of which the kernel does not tell, and some time for its repair.
const LOOKED_FOR: Duration = Duration::from_secs(15);
/// How soon damage is repaired.
const REPAIR: Duration = Duration::from_secs(1);

pub(crate) fn neighbour() -> IpAddr {
    "192.0.2.9".parse().expect("an address")
}

/// A machine on the host's LAN that knows no way to containers' own addresses, and by whom it is reached: an engine takes
/// every namespace in its own directory for its own.
pub(crate) struct Lan {
    pub(crate) kernel: LinuxKernel,
    pub(crate) netns: Netns,
}

pub(crate) async fn lan(lab: &Lab) -> Lan {
    let name = "lan".parse().expect("a name");
    let kernel =
        LinuxKernel::start(LinuxConfig { run_dir: lab.dir.path().join("others") }).expect("it opens");
    let (host, netns) = ("uplink".parse().expect("a name"), Netns::Named(name));
    let eth0 = "eth0".parse().expect("a name");
    let own = |link, netns, address: &str| Op::AddAddress {
        netns,
        link,
        address: address.parse().expect("a subnet"),
    };
    let tag = LinkTag::new("others", "uplink", "lan");
    let steps = vec![
        vec![Op::CreateNetns { name, ipv6: true }],
        vec![Op::CreateVeth { host, peer: eth0, netns, master: None, mac: None, mtu: None, tag }],
        vec![
            own(host, Netns::Host, "192.0.2.1/24"),
            own(eth0, netns, "192.0.2.9/24"),
            Op::SetLink { netns: Netns::Host, name: host, up: true },
            Op::SetLink { netns, name: eth0, up: true },
            Op::Sysctl { netns: Netns::Host, key: "ipv4/ip_forward".into(), value: "1".into() },
        ],
    ];
    for step in steps {
        for outcome in kernel.execute(step, soon()).await {
            outcome.expect("a LAN");
        }
    }
    Lan { kernel, netns }
}

pub(crate) async fn network(
    engine: &Engine,
    name: &str,
    change: impl FnOnce(NetworkSpec) -> NetworkSpec,
) -> Network {
    engine.controller().create_network(change(NetworkSpec::new(name))).await.expect("a network")
}

#[test]
fn networks_are_kept_apart_and_leave_under_the_hosts_address() {
    for rules in ALL {
        in_lab(move |lab| kept_apart(lab, rules));
    }
}

async fn kept_apart(mut lab: Lab, rules: Rules) {
    rules.choose(&mut lab);
    let lan = lan(&lab).await;
    let engine = lab.engine().await;
    let (blue, red) =
        (network(&engine, "blue", |spec| spec).await, network(&engine, "red", |spec| spec).await);
    let (a, one) = joined(&engine, &blue, "one").await;
    let (b, two) = joined(&engine, &red, "two").await;
    assert!(pings(&one, neighbour(), PATIENCE).await && pings(&two, neighbour(), PATIENCE).await);
    assert!(!pings(&one, address(&b).await, SILENCE).await, "another network");
    assert!(!pings(&two, address(&a).await, SILENCE).await, "another network");
    let bare = |spec: NetworkSpec| spec.option("com.docker.network.bridge.enable_ip_masquerade", "false");
    let (_, three) = joined(&engine, &network(&engine, "bare", bare).await, "three").await;
    assert!(!pings(&three, neighbour(), SILENCE).await, "the LAN knows no way back to its own address");
    let back = Route {
        destination: "172.16.0.0/12".parse().expect("a subnet"),
        via: Some("192.0.2.1".parse().expect("an address")),
        link: "eth0".parse().expect("a name"),
    };
    lan.kernel
        .execute(vec![Op::AddRoute { netns: lan.netns, route: back }], soon())
        .await
        .remove(0)
        .expect("a way");
    assert!(pings(&three, neighbour(), PATIENCE).await, "under its own address");
    let before = rules.shown();

    let mut events = engine.events();

    // Somebody else's flush is undone, and what users have in their chain stays over everything that follows.
    rules.flush();
    let flushed = Instant::now();
    while !rules.is_there() || rules.shown() != before {
        assert!(flushed.elapsed() < LOOKED_FOR, "not repaired");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!pings(&one, address(&b).await, SILENCE.max(REPAIR)).await);
    assert!(pings(&one, neighbour(), PATIENCE).await);
    assert_eq!(rules.shown(), before);
    assert_eq!(engine.diff().await.expect("compared"), []);
    // A flush of several tables may be noticed in the middle of it.
    let mut told = engine.inspect().await.expect("inspected").firewall.expect("there").repairs;
    assert!(told >= 1);
    while told > 0 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("told").expect("it runs");
        if let EventKind::FirewallRepaired { place, changes, cause } = event.expect("nothing missed").kind {
            assert!(
                place.contains(if rules == Rules::Nftables { "inet netloom" } else { "NETLOOM" }),
                "{place}"
            );
            assert!(changes > 0 && cause == RepairCause::ForeignChange, "{changes} changes: {cause}");
            told -= 1;
        }
    }
    rules.user_drops("192.0.2.9");
    assert!(!pings(&one, neighbour(), SILENCE).await);

    // The next engine finds everything as it should be, and touches none of it.
    let ruled = rules.shown();
    engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
    assert_eq!(rules.shown(), ruled, "containers live on");
    let engine = lab.next_engine().await;
    assert_eq!(rules.shown(), ruled);
    rules.user_allows();
    assert!(pings(&engine.controller().sandbox(one.id()).expect("kept"), neighbour(), PATIENCE).await);
    delete_everything(&engine).await;
    assert!(!rules.is_there(), "nobody needs it");
}
