//! The firewall's actor beside a firewalld that reloads, dies, hangs and refuses.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod stage;

use std::time::Duration;

use netloom_firewall::io::Variant;
use netloom_firewalld::{POLICY, Request, ZONE};
use netloom_kernel::{Netns, Op};
use netloom_testkit::{FirewalldFault, SimFirewalld};
use stage::{Kind, Stage, each, local};
use tokio::time::Instant;

/// How long something that comes by itself may take: the longest that a trouble rests, and the attempt.
const SOON: Duration = Duration::from_secs(100);
/// How long what hangs holds up whoever comes first: one request.
const HELD: Duration = Duration::from_secs(6);

/// The next incarnation of the actor, on a router with this firewalld.
async fn beside(stage: &mut Stage, firewalld: &SimFirewalld) {
    let forwards = Op::Sysctl { netns: Netns::Host, key: "ipv4/ip_forward".into(), value: "1".into() };
    stage.sim.foreign_op(&forwards).expect("a router");
    stage.firewalld = Some(firewalld.clone());
    stage.next_actor();
    stage.end_restore().await;
}

/// Time passes until this holds.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < SOON, "not after {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn inside(firewalld: &SimFirewalld) -> Vec<String> {
    firewalld.interfaces(ZONE).unwrap_or_default()
}

async fn obstacles(stage: &Stage) -> Vec<String> {
    stage.picture().await.obstacles.into_iter().map(|one| one.name).collect()
}

#[test]
fn bridges_are_in_the_zone_when_their_network_is_answered_and_out_when_it_is_gone() {
    each(async |mut stage| {
        let firewalld = SimFirewalld::started();
        beside(&mut stage, &firewalld).await;
        until("it is seen", async || stage.picture().await.firewalld.is_some_and(|one| one.running)).await;
        assert_eq!(firewalld.interfaces(ZONE), None, "nobody needs a zone");
        for number in [1, 2] {
            stage.network(number, true).await.expect("taken");
            assert!(inside(&firewalld).contains(&format!("br{number}")));
        }
        assert_eq!(firewalld.policies(), [POLICY]);
        assert_eq!(firewalld.reloads(), 1, "for the zone, and not for bridges");
        let seen = stage.picture().await.firewalld.expect("there");
        assert_eq!((&*seen.version, &*seen.backend, &*seen.zone), ("1.3.3", "nftables", ZONE));
        assert_eq!(seen.bridges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["br1", "br2"]);
        assert_eq!((seen.elsewhere, seen.trouble), (Vec::new(), None));
        stage.network(1, false).await.expect("gone");
        assert_eq!(inside(&firewalld), ["br2"]);
        stage.network(2, false).await.expect("gone");
        assert_eq!(firewalld.interfaces(ZONE), Some(Vec::new()));
    });
}

#[test]
fn a_reload_brings_back_the_bridges_of_networks_that_are_there_and_no_others() {
    each(async |mut stage| {
        let firewalld = SimFirewalld::started();
        beside(&mut stage, &firewalld).await;
        for number in [1, 2] {
            stage.network(number, true).await.expect("taken");
        }
        stage.network(1, false).await.expect("gone");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (transactions, looks) = (stage.transactions(), stage.own().saves(false));
        firewalld.reload();
        assert_eq!(inside(&firewalld), [""; 0], "it forgets");
        until("it is back", async || inside(&firewalld) == ["br2"]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(inside(&firewalld), ["br2"]);
        assert_eq!(firewalld.reloads(), 1, "a reload of others needs none of ours");
        assert_eq!(stage.transactions(), transactions, "the rules are as they were");
        let looked = stage.own().saves(false) > looks;
        assert_eq!(
            looked,
            stage.kind != Kind::Nftables,
            "chains of iptables may have been flushed with its own"
        );
    });
}

#[test]
fn it_may_come_late_and_die_and_come_again() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::default();
        beside(&mut stage, &firewalld).await;
        stage.network(1, true).await.expect("taken");
        assert!(!stage.picture().await.firewalld.expect("a client").running);
        assert_eq!(obstacles(&stage).await, [""; 0], "who is not there is in nobody's way");
        firewalld.start();
        until("it is in", async || inside(&firewalld) == ["br1"]).await;
        firewalld.stop();
        until("it is seen", async || !stage.picture().await.firewalld.expect("a client").running).await;
        stage.network(1, false).await.expect("gone");
        stage.network(2, true).await.expect("taken");
        firewalld.start();
        until("it is in", async || inside(&firewalld) == ["br2"]).await;
        assert_eq!(firewalld.reloads(), 1);
        // It dies over what it is asked for: nobody fails.
        firewalld.plan([Some(FirewalldFault::Die)]);
        stage.network(3, true).await.expect("taken");
        firewalld.start();
        until("both are in", async || inside(&firewalld) == ["br2", "br3"]).await;
        assert_eq!(stage.picture().await.firewalld.expect("a client").trouble, None);
    });
}

#[test]
fn one_that_hangs_holds_up_one_network_at_most_and_is_tried_again() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::started();
        beside(&mut stage, &firewalld).await;
        stage.network(1, true).await.expect("taken");
        firewalld.always(Some(FirewalldFault::Hang));
        let began = Instant::now();
        stage.network(2, true).await.expect("taken");
        assert!(began.elapsed() <= HELD, "{:?}", began.elapsed());
        let began = Instant::now();
        stage.network(3, true).await.expect("taken");
        stage.network(1, false).await.expect("gone");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        let seen = stage.picture().await;
        let trouble = seen.firewalld.expect("there").trouble.expect("told");
        assert!(trouble.contains("within 5s") && trouble.contains("systemctl status firewalld"), "{trouble}");
        let told = seen.obstacles.iter().find(|one| one.name == "firewalld").expect("an obstacle");
        assert!(told.what.contains("br2, br3") && !told.what.contains("br1"), "{}", told.what);
        assert!(told.remedy.contains(&"firewall-cmd --zone=netloom --change-interface='br3'".into()));
        firewalld.always(None);
        until("all is well", async || inside(&firewalld) == ["br2", "br3"]).await;
        until("it is told", async || obstacles(&stage).await.is_empty()).await;
        assert_eq!(stage.picture().await.firewalld.expect("there").trouble, None);
    });
}

#[test]
fn what_took_effect_and_was_not_answered_is_taken_back_with_its_network() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::started();
        beside(&mut stage, &firewalld).await;
        stage.network(1, true).await.expect("taken");
        // Which request is the one that puts a bridge in.
        let usual = firewalld.requests().len();
        stage.network(2, true).await.expect("taken");
        let of_one = firewalld.requests()[usual..].iter().position(|request| {
            matches!(request, Request::AddInterface { interface, .. } if interface.as_str() == "br2")
        });
        let of_one = of_one.expect("it was put in");
        stage.network(2, false).await.expect("gone");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(inside(&firewalld), ["br1"]);
        firewalld.plan((0..of_one).map(|_| None).chain([Some(FirewalldFault::Lose)]));
        stage.network(3, true).await.expect("taken");
        assert_eq!(inside(&firewalld), ["br1", "br3"], "lost on the way back");
        stage.network(3, false).await.expect("gone");
        until("it is out", async || inside(&firewalld) == ["br1"]).await;
    });
}

#[test]
fn a_refusal_is_told_with_its_remedy_and_fails_nobody() {
    local(Kind::Iptables(Variant::Nft), async |mut stage| {
        let firewalld = SimFirewalld::started();
        beside(&mut stage, &firewalld).await;
        firewalld.always(Some(FirewalldFault::Refuse("NotAuthorizedException")));
        stage.network(1, true).await.expect("taken");
        stage.ports(1, &[80]).await.expect("published");
        let seen = stage.picture().await;
        let told = seen.obstacles.iter().find(|one| one.name == "firewalld").expect("an obstacle");
        assert!(told.what.contains("NotAuthorizedException"), "{}", told.what);
        assert!(!told.remedy.is_empty());
        firewalld.always(None);
        until("it is in", async || inside(&firewalld) == ["br1"]).await;
        until("it is told", async || obstacles(&stage).await.is_empty()).await;
    });
}

#[test]
fn a_bridge_that_a_user_has_in_another_zone_stays_there_and_is_told() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::started();
        beside(&mut stage, &firewalld).await;
        firewalld.move_interface("dmz", "br1");
        // The zone has to be made, and with the reload the bridge is in none.
        stage.network(2, true).await.expect("taken");
        firewalld.move_interface("dmz", "br1");
        stage.network(1, true).await.expect("taken");
        assert_eq!(firewalld.interfaces("dmz"), Some(vec!["br1".into()]));
        assert_eq!(inside(&firewalld), ["br2"]);
        let seen = stage.picture().await;
        assert_eq!(
            seen.firewalld.expect("there").elsewhere,
            [("br1".parse().expect("a name"), "dmz".to_owned())]
        );
        let [told] = &seen.obstacles[..] else { panic!("{:?}", seen.obstacles) };
        assert!(told.what.contains("br1") && told.what.contains("dmz"), "{}", told.what);
        assert_eq!(told.remedy, ["firewall-cmd --zone=netloom --change-interface='br1'"]);
        // Its network goes, and it is left where the user has it.
        stage.network(1, false).await.expect("gone");
        assert_eq!(firewalld.interfaces("dmz"), Some(vec!["br1".into()]));
        assert_eq!(obstacles(&stage).await, [""; 0]);
    });
}

#[test]
fn interfaces_of_others_in_the_zone_stay() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::started();
        beside(&mut stage, &firewalld).await;
        stage.network(1, true).await.expect("taken");
        firewalld.move_interface(ZONE, "another-engine0");
        stage.network(2, true).await.expect("taken");
        for number in [1, 2] {
            stage.network(number, false).await.expect("gone");
        }
        assert_eq!(inside(&firewalld), ["another-engine0"]);
    });
}

#[test]
fn a_zone_that_does_not_come_is_not_reloaded_for_again_and_again() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::started();
        firewalld.break_configuration();
        beside(&mut stage, &firewalld).await;
        stage.network(1, true).await.expect("taken");
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert!((1..=3).contains(&firewalld.reloads()), "{} reloads", firewalld.reloads());
        let trouble = stage.picture().await.firewalld.expect("there").trouble.expect("told");
        assert!(trouble.contains("has no zone netloom"), "{trouble}");
        assert_eq!(obstacles(&stage).await, ["firewalld"]);
    });
}

#[test]
fn a_zone_of_the_configuration_that_is_not_in_force_is_brought_there_by_a_reload() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::started();
        firewalld.write_zone(ZONE);
        beside(&mut stage, &firewalld).await;
        stage.network(1, true).await.expect("taken");
        assert_eq!((inside(&firewalld), firewalld.reloads()), (vec!["br1".into()], 1));
    });
}

#[test]
fn one_from_before_policies_is_good_enough() {
    local(Kind::Nftables, async |mut stage| {
        let firewalld = SimFirewalld::started();
        firewalld.make_old();
        beside(&mut stage, &firewalld).await;
        stage.network(1, true).await.expect("taken");
        assert_eq!(inside(&firewalld), ["br1"]);
        assert_eq!(firewalld.policies(), [""; 0]);
        assert_eq!(obstacles(&stage).await, [""; 0]);
    });
}
