//! What the firewall's actor tells of its rules: repairs as they happen, and what differs when somebody asks.

use std::time::Duration;

use futures::future::join_all;
use netloom_actor_services::firewall::ReapplyRules;
use netloom_firewall::USER_CHAIN;
use netloom_firewall::io::Variant;
use netloom_kernel::nft::{Change, Expr, Rule, Verdict};
use netloom_kernel::{Netns, Op};
use netloom_model::RepairCause;
use netloom_runtime::Crash;
use netloom_testkit::{Fault, FaultKind, IptablesFault};

use crate::stage::{Kind, Stage, each, local, table};

fn foreign(stage: &Stage, changes: Vec<Change>) {
    stage.sim.foreign_op(&Op::ChangeTable { netns: Netns::Host, table: table(), changes }).expect("changed");
}

fn drop_rule() -> Rule {
    Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: None }
}

#[test]
fn what_was_asked_for_is_no_repair_and_a_repair_is_told_once_with_what_set_it_off() {
    each(async |mut stage| {
        stage.end_restore().await;
        for number in 1..=3 {
            stage.network(number, true).await.expect("made");
            stage.ports(number, &[80 + u16::from(number)]).await.expect("published");
        }
        stage.ports(3, &[]).await.expect("withdrawn");
        stage.network(3, false).await.expect("gone");
        assert_eq!(stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered"), Ok(0));
        assert_eq!(stage.repairs_told(), []);

        stage.flush();
        stage.repaired(1).await;
        assert!(
            matches!(stage.repairs_told()[..], [(RepairCause::ForeignChange, 2..)]),
            "{:?}",
            stage.repairs_told()
        );

        // The actor dies while nobody tells it of anything: its next incarnation looks by itself, and finds nothing.
        stage.actor.tell(&stage.op(), Crash);
        stage.next_actor();
        assert_eq!(stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered"), Ok(0));
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(stage.repairs_told().len(), 1);

        // Nor is what another start finds a repair.
        stage.next_engine();
        stage.end_restore().await;
        assert_eq!(stage.repairs_told().len(), 1);
    });
}

#[test]
fn a_repair_that_is_refused_at_first_is_told_when_a_retry_succeeds() {
    local(Kind::Nftables, async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        stage.sim.plan(Fault::nth(1, FaultKind::Refuse(12)));
        stage.sim.flush_ruleset();
        stage.repaired(1).await;
        assert!(
            matches!(stage.repairs_told()[..], [(RepairCause::Retry, 10..)]),
            "{:?}",
            stage.repairs_told()
        );
    });
    local(Kind::Iptables(Variant::Legacy), async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        stage.own().plan([Some(IptablesFault::Refuse)]);
        stage.flush();
        // Nobody is told of that, so somebody has to ask.
        let outcome = stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered");
        outcome.expect_err("as planned");
        stage.repaired(1).await;
        assert!(
            matches!(stage.repairs_told()[..], [(RepairCause::Retry, 2..)]),
            "{:?}",
            stage.repairs_told()
        );
    });
}

#[test]
fn a_repair_that_was_asked_for_says_so() {
    local(Kind::Iptables(Variant::Legacy), async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        stage.flush();
        let changes = stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered").expect("repaired");
        assert_eq!(stage.repairs_told(), [(RepairCause::Reapply, changes)]);
    });
}

/// A request that comes at the moment of a foreign change is carried out with the repair, and only the damage is counted.
#[test]
fn damage_is_told_from_what_is_asked_for_at_the_same_moment() {
    local(Kind::Nftables, async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        foreign(&stage, vec![Change::AddRule { chain: "ours".into(), rule: drop_rule() }]);
        let all = join_all((2..=5).map(|number| stage.network(number, true))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        stage.repaired(1).await;
        let alone = stage.repairs_told();
        assert_eq!(alone.len(), 1);
        foreign(&stage, vec![Change::AddRule { chain: "ours".into(), rule: drop_rule() }]);
        stage.repaired(2).await;
        assert_eq!(stage.repairs_told()[1], alone[0], "the same damage without requests");
    });
}

/// Whatever becomes of the actor when the kernel has been repaired, the repair is told, and once.
#[test]
fn a_repair_is_told_although_the_actor_dies_meanwhile() {
    each(async |mut stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        stage.flush();
        let _asked = stage.actor.outcome(&stage.op(), ReapplyRules);
        stage.actor.tell(&stage.op(), Crash);
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        stage.next_actor();
        let outcome = stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered");
        outcome.expect("as it should be");
        assert_eq!(stage.repairs_told().len(), 1, "{:?}", stage.repairs_told());
        assert_eq!(stage.bridges().await, ["br1"]);
    });
}

#[test]
fn what_differs_is_told_and_nothing_is_changed() {
    each(async |stage| {
        assert_eq!(stage.compared().await, Vec::<String>::new(), "a start that goes on");
        stage.end_restore().await;
        assert_eq!(stage.compared().await, Vec::<String>::new(), "nobody has rules");
        stage.network(1, true).await.expect("made");
        stage.ports(1, &[81]).await.expect("published");
        assert_eq!(stage.compared().await, Vec::<String>::new());
        // What is repaired at once is refused for a while.
        match stage.kind {
            Kind::Nftables => {
                stage.sim.plan(Fault::nth(1, FaultKind::Refuse(12)).times(50));
                foreign(
                    &stage,
                    vec![
                        Change::AddRule { chain: "output".into(), rule: drop_rule() },
                        Change::AddRule { chain: USER_CHAIN.into(), rule: drop_rule() },
                        Change::FlushSet("any4".into()),
                    ],
                );
            }
            Kind::Iptables(_) => {
                stage.own().plan([Some(IptablesFault::Refuse); 50]);
                for ipv6 in [false, true] {
                    stage.own().foreign(ipv6, |tables| {
                        tables.rules("filter", "FORWARD").clear();
                        tables.rules("filter", "NETLOOM-USER").push("-j DROP".into());
                        tables.rules("filter", "NETLOOM-OTHER").push("-j DROP".into());
                        tables.rules("nat", "NETLOOM-ANY").clear();
                    });
                }
            }
        }
        let (before, found) = (stage.everything().await, stage.compared().await);
        let expected = match stage.kind {
            Kind::Nftables => {
                vec![
                    "+ rule `drop` of chain output of table inet netloom",
                    "- element tcp . 81 : 10.0.0.1 . 80 of map any4 of table inet netloom",
                ]
            }
            Kind::Iptables(_) => {
                let jump = "-m comment --comment netloom -j NETLOOM-FORWARD";
                assert!(
                    found.contains(&format!("- rule `{jump}` of chain FORWARD of table filter of iptables")),
                    "{found:?}"
                );
                assert!(
                    found.contains(&format!("- rule `{jump}` of chain FORWARD of table filter of ip6tables")),
                    "{found:?}"
                );
                vec![
                    "+ chain NETLOOM-OTHER of table filter of iptables",
                    "- rule `-p tcp -m tcp --dport 81 -j DNAT --to-destination 10.0.0.1:80` of chain NETLOOM-ANY of \
                     table nat of iptables",
                ]
            }
        };
        for one in &expected {
            assert!(found.iter().any(|line| line == one), "{one:?} in {found:#?}");
        }
        if stage.kind == Kind::Nftables {
            assert_eq!(found.len(), expected.len(), "{found:#?}");
        } else {
            assert_eq!(found.len(), expected.len() + 3, "{found:#?}");
        }
        assert_eq!(stage.everything().await, before);
    });
}

/// A table that was made and of which no answer came, for somebody who was refused then: it goes by itself.
#[test]
fn what_a_lost_answer_leaves_of_a_table_that_nobody_needs_is_removed() {
    local(Kind::Nftables, async |stage| {
        stage.end_restore().await;
        stage.sim.plan(Fault::nth(1, FaultKind::Lose).times(2));
        stage.network(1, true).await.expect_err("no answer");
        assert_eq!(stage.compared().await, ["+ table inet netloom"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(stage.compared().await, Vec::<String>::new());
        assert!(!stage.is_there().await);
        assert_eq!(stage.repairs_told(), []);
    });
}

/// Whoever asks while others change rules sees nothing that is only on its way.
#[test]
fn nothing_is_told_of_what_is_under_way() {
    each(async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        let lives = join_all((2..=9).map(async |number| {
            for _ in 0..20 {
                stage.network(number, true).await.expect("made");
                stage.ports(number, &[80 + u16::from(number)]).await.expect("published");
                stage.ports(number, &[]).await.expect("withdrawn");
                stage.network(number, false).await.expect("gone");
            }
        }));
        let looks = async {
            for look in 0..200 {
                assert_eq!(stage.compared().await, Vec::<String>::new(), "look {look}");
            }
        };
        futures::join!(lives, looks);
    });
}
