//! What of the host's stands in the way of packets: inspect names it, and the commands that it suggests, run as they are
//! printed, let packets through.

use std::time::Duration;

use netloom::snapshot::Obstacle;
use netloom::{Engine, Sandbox, ShutdownMode};

use crate::lab::{Lab, address, delete_everything, in_lab, joined, pings};
use crate::rules::{Rules, run};
use crate::wall::{lan, neighbour, network};

const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(300);

async fn obstacles(engine: &Engine) -> Vec<Obstacle> {
    engine.inspect().await.expect("inspected").firewall.expect("there").obstacles
}

fn names(obstacles: &[Obstacle]) -> Vec<&str> {
    obstacles.iter().map(|one| &*one.name).collect()
}

/// Runs what is suggested, in a shell, word for word.
fn follow(obstacles: &[Obstacle]) {
    let commands: Vec<_> = obstacles.iter().flat_map(|one| &one.remedy).collect();
    assert!(!commands.is_empty(), "{obstacles:?}");
    commands.into_iter().for_each(|command| drop(run(command)));
}

/// Has bridges hand packets to the firewall, or not; `false` where the kernel cannot (without the module `br_netfilter`).
fn bridges_hand_on(on: bool) -> bool {
    let files = ["iptables", "ip6tables"].map(|name| format!("/proc/sys/net/bridge/bridge-nf-call-{name}"));
    let can = std::path::Path::new(&files[0]).exists();
    if can {
        files.iter().for_each(|file| std::fs::write(file, if on { "1" } else { "0" }).expect("written"));
    }
    on && can
}

/// What has passed once goes on where a chain accepts established connections.
fn forget_connections() {
    run("conntrack -F");
}

/// Two networks beside the LAN. Their containers are in the first and in the second.
async fn two(lab: &Lab, engine: &Engine) -> [Sandbox; 2] {
    lan(lab).await;
    let mut all = Vec::new();
    for name in ["blue", "red"] {
        let made = network(engine, name, |spec| spec).await;
        all.push(joined(engine, &made, name).await.1);
    }
    all.try_into().expect("two")
}

/// Whoever drops, by which chain; packets pass once the commands have been run, and the networks are still kept apart.
async fn opened(lab: Lab, drop: &[&str], name: &str) {
    let engine = lab.engine().await;
    let [one, _two] = two(&lab, &engine).await;
    assert!(pings(&one, neighbour(), PATIENCE).await);
    assert_eq!(obstacles(&engine).await, []);
    drop.iter().for_each(|command| std::mem::drop(run(command)));
    forget_connections();
    assert!(!pings(&one, neighbour(), SILENCE).await, "it drops");
    let found = obstacles(&engine).await;
    assert_eq!(names(&found), [name]);
    follow(&found);
    assert!(pings(&one, neighbour(), PATIENCE).await, "{found:?}");
    let controller = engine.controller();
    let elsewhere =
        controller.network_by_name("red").expect("there").endpoint_by_name("red").await.expect("there");
    assert!(!pings(&one, address(&elsewhere).await, SILENCE).await, "the engine's own rules hold");
    assert_eq!(obstacles(&engine).await, []);
    // A network that comes later is in the way of the same chain.
    let green = network(&engine, "green", |spec| spec).await;
    let (_, three) = joined(&engine, &green, "three").await;
    let found = obstacles(&engine).await;
    assert_eq!(names(&found), [name]);
    assert_eq!(found[0].remedy.len(), 2, "{found:?}");
    assert!(!pings(&three, neighbour(), SILENCE).await);
    follow(&found);
    assert!(pings(&three, neighbour(), PATIENCE).await);
    // One that reaches nothing outside needs nothing, but where bridges hand packets to the firewall.
    bridges_hand_on(false);
    let inner = network(&engine, "inner", |spec| spec.internal(true)).await;
    let (four, five) = (joined(&engine, &inner, "four").await, joined(&engine, &inner, "five").await);
    let to = address(&five.0).await;
    assert!(pings(&four.1, to, PATIENCE).await);
    assert_eq!(obstacles(&engine).await, []);
    if bridges_hand_on(true) {
        forget_connections();
        assert!(!pings(&four.1, to, SILENCE).await);
        let found = obstacles(&engine).await;
        assert_eq!(names(&found), [name]);
        assert!(found[0].what.contains("bridge-nf-call-iptables is 1"), "{found:?}");
        follow(&found);
        assert!(pings(&four.1, to, PATIENCE).await);
        assert_eq!(obstacles(&engine).await, []);
    }
    delete_everything(&engine).await;
    assert_eq!(obstacles(&engine).await, []);
}

#[test]
fn a_policy_of_drop_is_named_and_the_commands_let_packets_through() {
    for variant in ["legacy", "nft"] {
        in_lab(async move |lab| {
            let set = format!("iptables-{variant} -P FORWARD DROP");
            opened(lab, &[&set], &format!("chain FORWARD of iptables-{variant}")).await;
        });
    }
    in_lab(async |lab| {
        let drop = [
            "nft add table inet others",
            "nft add chain inet others way '{ type filter hook forward priority 10; policy drop; }'",
            "nft add rule inet others way iifname eth7 accept",
        ];
        opened(lab, &drop, "chain way of table inet others of nftables").await;
    });
}

#[test]
fn a_last_rule_that_refuses_everything_is_named_and_the_commands_let_packets_through() {
    for variant in ["legacy", "nft"] {
        // As many distributions have it, and by chains of its own as ufw.
        for rules in [
            &[
                "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A FORWARD -i lo -j ACCEPT",
                "-A FORWARD -m comment --comment 'the end of it' -j REJECT --reject-with icmp-host-prohibited",
            ] as &[_],
            &[
                "-N ufw-before-forward",
                "-N ufw-reject-forward",
                "-A FORWARD -j ufw-before-forward",
                "-A FORWARD -j ufw-reject-forward",
                "-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A ufw-reject-forward -j REJECT",
            ],
        ] {
            in_lab(async move |lab| {
                let commands: Vec<_> =
                    rules.iter().map(|rule| format!("iptables-{variant} {rule}")).collect();
                let commands: Vec<_> = commands.iter().map(String::as_str).collect();
                opened(lab, &commands, &format!("chain FORWARD of iptables-{variant}")).await;
            });
        }
    }
    // As firewalld has it, where no zone of its has the bridges.
    in_lab(async |lab| {
        let rules = [
            "nft add table inet firewalld",
            "nft add chain inet firewalld filter_FWD_public",
            "nft add chain inet firewalld filter_FORWARD_ZONES",
            "nft add chain inet firewalld filter_FORWARD '{ type filter hook forward priority 10; policy accept; }'",
            "nft add rule inet firewalld filter_FORWARD ct state '{ established, related }' accept",
            "nft add rule inet firewalld filter_FORWARD ct status dnat accept",
            "nft add rule inet firewalld filter_FORWARD iifname lo accept",
            "nft add rule inet firewalld filter_FORWARD jump filter_FORWARD_ZONES",
            "nft add rule inet firewalld filter_FORWARD log prefix refused counter reject with icmpx admin-prohibited",
            "nft add rule inet firewalld filter_FORWARD_ZONES iifname eth7 goto filter_FWD_public",
            "nft add rule inet firewalld filter_FORWARD_ZONES goto filter_FWD_public",
            "nft add rule inet firewalld filter_FWD_public oifname eth7 accept",
        ];
        opened(lab, &rules, "chain filter_FORWARD of table inet firewalld of nftables").await;
    });
}

/// With the same iptables the engine's own chains come first, and decide.
#[test]
fn a_policy_of_drop_is_no_obstacle_for_chains_before_it() {
    for variant in ["legacy", "nft"] {
        in_lab(async move |mut lab| {
            Rules::Iptables(variant).choose(&mut lab);
            let engine = lab.engine().await;
            let [one, _two] = two(&lab, &engine).await;
            run(&format!("iptables-{variant} -P FORWARD DROP"));
            assert!(pings(&one, neighbour(), PATIENCE).await);
            assert_eq!(obstacles(&engine).await, []);
            let other = if variant == "nft" { "legacy" } else { "nft" };
            run(&format!("iptables-{other} -P FORWARD DROP"));
            assert!(!pings(&one, neighbour(), SILENCE).await);
            let found = obstacles(&engine).await;
            assert_eq!(names(&found), [format!("chain FORWARD of iptables-{other}")]);
            follow(&found);
            assert!(pings(&one, neighbour(), PATIENCE).await);
            assert_eq!(obstacles(&engine).await, []);
            engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        });
    }
}

#[test]
fn a_host_that_forwards_nothing_is_told_so_and_is_not_made_a_router() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let [one, _two] = two(&lab, &engine).await;
        let forwards = || run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding");
        run("echo 0 >/proc/sys/net/ipv4/ip_forward");
        run("echo 0 >/proc/sys/net/ipv6/conf/all/forwarding");
        assert!(!pings(&one, neighbour(), SILENCE).await);
        let found = obstacles(&engine).await;
        assert_eq!(names(&found), ["net.ipv4.ip_forward"], "no network has IPv6");
        assert_eq!(forwards(), "0\n0\n", "the engine does not turn it on");
        network(&engine, "six", |spec| spec.ipv6(true)).await;
        let found = obstacles(&engine).await;
        assert_eq!(names(&found), ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]);
        follow(&found);
        assert_eq!(forwards(), "1\n1\n");
        assert!(pings(&one, neighbour(), PATIENCE).await);
        assert_eq!(obstacles(&engine).await, []);
        delete_everything(&engine).await;
        // Nobody needs it, so nobody is told.
        run("echo 0 >/proc/sys/net/ipv4/ip_forward");
        assert_eq!(obstacles(&engine).await, []);
    });
}
