//! The firewall's actor over the simulated kernel and over simulated programs of iptables: requests that gather, faults, and
//! what others do to the rules. All of it holds for each backend.

mod stage;
#[path = "firewall/told.rs"]
mod told;

use std::time::Duration;

use futures::future::join_all;
use netloom_actor_services::firewall::{InspectFirewall, ReapplyRules, SetPortRules};
use netloom_firewall::USER_CHAIN;
use netloom_firewall::io::Variant;
use netloom_kernel::nft::{Change, Expr, Rule, Table, Verdict};
use netloom_kernel::{Netns, Op};
use netloom_model::RepairCause;
use netloom_runtime::Crash;
use netloom_testkit::{Fault, FaultKind, Iptables, IptablesFault};

use stage::{Kind, each, endpoint, local, port, rules, table};

#[test]
fn requests_that_come_together_travel_together_and_each_is_answered() {
    each(async |stage| {
        stage.end_restore().await;
        assert!(!stage.is_there().await, "a table that nobody needs is not made");
        stage.network(0, true).await.expect("made");
        let before = stage.transactions();
        let all = join_all((1..=50).map(|number| stage.network(number, true))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        // The first was on its way when the others came.
        assert_eq!(stage.transactions() - before, 2);
        assert_eq!(stage.bridges().await.len(), 51);
        assert_eq!(stage.picture().await.networks, 51);
        let all = join_all((1..=50).map(|number| stage.network(number, false))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(stage.bridges().await, ["br0"]);
        stage.network(0, false).await.expect("gone");
        assert!(!stage.is_there().await, "nobody needs it any more");
    });
}

#[test]
fn a_table_that_nobody_needs_stays_for_the_users_rules_in_it() {
    local(Kind::Nftables, async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        let rule = Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: None };
        let changes = vec![Change::AddRule { chain: USER_CHAIN.into(), rule: rule.clone() }];
        stage
            .sim
            .foreign_op(&Op::ChangeTable { netns: Netns::Host, table: table(), changes })
            .expect("ruled");
        stage.network(1, false).await.expect("gone");
        assert_eq!(stage.bridges().await, Vec::<String>::new());
        let chains = stage.contents().await.expect("it stays").chains;
        assert_eq!(chains.iter().find(|(chain, _)| chain.name == USER_CHAIN).expect("there").1, [rule]);
        stage.network(2, true).await.expect("made");
        assert_eq!(stage.bridges().await, ["br2"]);
    });
}

#[test]
fn the_users_chain_stays_while_there_is_something_in_it() {
    for variant in Variant::ALL {
        local(Kind::Iptables(variant), async |stage| {
            stage.end_restore().await;
            stage.network(1, true).await.expect("made");
            stage.foreign(|tables| {
                tables.rules("filter", "NETLOOM-USER").push("-s 192.0.2.9/32 -j DROP".into());
            });
            stage.network(1, false).await.expect("gone");
            let chains = || stage.own().tables(false).chains("filter");
            assert_eq!(chains(), ["FORWARD", "INPUT", "NETLOOM-USER", "OUTPUT"]);
            stage.network(2, true).await.expect("made");
            assert_eq!(
                stage.own().tables(false).rules("filter", "NETLOOM-USER"),
                &["-s 192.0.2.9/32 -j DROP"]
            );
            stage.foreign(|tables| tables.rules("filter", "NETLOOM-USER").clear());
            stage.foreign(|tables| tables.rules("filter", "OTHERS").push("-j NETLOOM-USER".into()));
            stage.network(2, false).await.expect("gone");
            assert_eq!(
                chains(),
                ["FORWARD", "INPUT", "NETLOOM-USER", "OTHERS", "OUTPUT"],
                "others lead there"
            );
        });
    }
}

#[test]
fn a_port_that_leads_somewhere_else_is_refused_and_nothing_has_changed() {
    each(async |stage| {
        stage.end_restore().await;
        stage.ports(1, &[80, 81]).await.expect("published");
        let before = stage.everything().await;
        let error = stage.ports(2, &[90, 81]).await.expect_err("taken");
        assert!(error.to_string().contains(&endpoint(1).to_string()), "{error}");
        assert_eq!(stage.everything().await, before);
        stage.ports(1, &[80]).await.expect("one withdrawn");
        stage.ports(2, &[90, 81]).await.expect("free now");
        let all = ["tcp 80 10.0.0.1:80", "tcp 81 10.0.0.2:80", "tcp 90 10.0.0.2:80"];
        assert_eq!(
            stage.published().await,
            if stage.kind == Kind::Nftables {
                all
            } else {
                ["tcp 80 10.0.0.1", "tcp 81 10.0.0.2:80", "tcp 90 10.0.0.2:80"]
            }
        );
    });
}

#[test]
fn until_a_start_has_ended_nothing_of_what_runs_is_touched() {
    each(async |mut stage| {
        stage.end_restore().await;
        for number in [1, 2] {
            stage.network(number, true).await.expect("made");
            stage.ports(number, &[80 + u16::from(number)]).await.expect("published");
        }
        let before = stage.everything().await;
        // The next engine knows of one of them only.
        stage.next_engine();
        let ops = stage.transactions();
        stage.network(1, true).await.expect("noted");
        stage.ports(1, &[81]).await.expect("noted");
        assert_eq!((stage.everything().await, stage.transactions()), (before, ops));
        stage.end_restore().await;
        assert_eq!(stage.transactions(), ops + 1, "one transaction");
        assert_eq!(stage.bridges().await, ["br1"]);
        assert_eq!(stage.published().await, ["tcp 81 10.0.0.1:80"]);
        assert_eq!(stage.picture().await.repairs, 0, "that was no damage");
    });
}

#[test]
fn what_somebody_else_does_to_the_table_is_repaired_but_for_the_users_rules() {
    local(Kind::Nftables, async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        let whole = stage.contents().await.expect("there");
        stage.sim.flush_ruleset();
        stage.repaired(1).await;
        assert_eq!(stage.contents().await.as_ref(), Some(&whole));
        assert!(matches!(stage.repairs_told()[..], [(RepairCause::ForeignChange, 10..)]));
        let drop = Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: None };
        let foreign = |changes| {
            let op = Op::ChangeTable { netns: Netns::Host, table: table(), changes };
            stage.sim.foreign_op(&op).expect("changed");
        };
        foreign(vec![
            Change::FlushSet("bridges".into()),
            Change::AddRule { chain: "ours".into(), rule: drop.clone() },
            Change::FlushChain("forward".into()),
            Change::AddRule { chain: USER_CHAIN.into(), rule: drop.clone() },
        ]);
        stage.repaired(2).await;
        let mut wanted = whole.clone();
        wanted.chains.iter_mut().find(|(chain, _)| chain.name == USER_CHAIN).expect("there").1.push(drop);
        assert_eq!(stage.contents().await, Some(wanted));
        assert_eq!(stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered"), Ok(0));
        let other = Op::ChangeTable {
            netns: Netns::Host,
            table: Table::inet("other"),
            changes: vec![Change::AddTable],
        };
        stage.sim.foreign_op(&other).expect("made");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(stage.picture().await.repairs, 2, "another table is none of our business");
        assert_eq!(stage.repairs_told().len(), 2);
    });
}

#[test]
fn what_somebody_else_does_to_chains_is_repaired_and_rules_of_others_stay() {
    for variant in Variant::ALL {
        local(Kind::Iptables(variant), async |stage| {
            stage.end_restore().await;
            stage.foreign(|tables| tables.rules("filter", "FORWARD").push("-i eth7 -j DROP".into()));
            stage.network(1, true).await.expect("made");
            let whole = stage.everything().await;
            let begun = tokio::time::Instant::now();
            stage.flush();
            stage.foreign(|tables| tables.rules("filter", "FORWARD").push("-i eth7 -j DROP".into()));
            stage.repaired(1).await;
            let within = if variant == Variant::Nft { 1 } else { 11 };
            assert!(begun.elapsed() < Duration::from_secs(within), "{:?}", begun.elapsed());
            assert_eq!(stage.everything().await, whole);
            stage.foreign(|tables| {
                tables.rules("filter", "NETLOOM-I-br1").clear();
                tables.rules("nat", "NETLOOM-LEAVE").insert(0, "-j RETURN".into());
                tables.rules("filter", "FORWARD").insert(0, "-j ACCEPT".into());
                tables.rules("filter", "NETLOOM-USER").push("-j DROP".into());
                tables.rules("filter", "NETLOOM-OTHER");
            });
            stage.repaired(2).await;
            let (_, [mut v4, _]) = stage.everything().await;
            let jump = "-m comment --comment netloom -j NETLOOM-FORWARD";
            assert_eq!(v4.rules("filter", "FORWARD"), &[jump, "-j ACCEPT", "-i eth7 -j DROP"]);
            assert_eq!(v4.rules("filter", "NETLOOM-USER"), &["-j DROP"]);
            stage.foreign(|tables| {
                tables.rules("filter", "FORWARD").retain(|rule| rule != "-j ACCEPT");
                tables.rules("filter", "NETLOOM-USER").clear();
            });
            assert_eq!(stage.everything().await, whole);
            assert_eq!(stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered"), Ok(0));
            // Once nobody touches anything nobody looks all the time, and what is right is not written again.
            let (saves, restores) = (stage.own().saves(false), stage.transactions());
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(stage.own().saves(false) - saves <= 7, "{}", stage.own().saves(false) - saves);
            assert_eq!(stage.transactions(), restores);
        });
    }
}

/// The second program refuses what the first has taken.
#[test]
fn what_iptables_refuses_half_way_is_taken_back() {
    for variant in Variant::ALL {
        local(Kind::Iptables(variant), async |stage| {
            stage.end_restore().await;
            stage.network(1, true).await.expect("made");
            let before = stage.everything().await;
            let refuse = || [None, Some(IptablesFault::Refuse), None];
            stage.own().plan([refuse(), refuse()].concat());
            let error = stage.network(2, true).await.expect_err("refused");
            assert!(error.to_string().contains("as planned"), "{error}");
            assert_eq!(stage.everything().await, before);
            assert!(stage.picture().await.trouble.is_some());
            stage.network(3, true).await.expect("made");
            assert_eq!(
                (stage.bridges().await, stage.picture().await.trouble),
                (vec!["br1".into(), "br3".into()], None)
            );
        });
    }
}

#[test]
fn what_iptables_cannot_say_is_refused_with_the_way_out_and_fails_alone() {
    local(Kind::Iptables(Variant::Legacy), async |stage| {
        stage.end_restore().await;
        let mut plus = rules(2);
        plus.bridge = "br+".parse().expect("a name");
        let (one, bad) = futures::join!(stage.network(1, true), stage.network_of(2, Some(plus)));
        one.expect("made");
        let error = bad.expect_err("it means all that begin with br").to_string();
        assert!(error.contains("br+") && error.contains("nftables"), "{error}");
        assert_eq!(stage.bridges().await, ["br1"]);
    });
}

#[test]
fn what_another_backend_has_of_this_engine_goes_once_the_new_one_is_there() {
    for (old, new) in [
        (Kind::Nftables, Kind::Iptables(Variant::Legacy)),
        (Kind::Iptables(Variant::Legacy), Kind::Nftables),
        (Kind::Iptables(Variant::Nft), Kind::Nftables),
        (Kind::Iptables(Variant::Nft), Kind::Iptables(Variant::Legacy)),
    ] {
        local(old, async |mut stage| {
            let others = |tables: &mut Iptables| {
                tables.rules("filter", "FORWARD").push("-i eth7 -j DROP".into());
                tables.rules("filter", "NL_BLUE-FORWARD");
            };
            stage.foreign(others);
            let clean = stage.everything().await;
            stage.end_restore().await;
            stage.network(1, true).await.expect("made");
            let (was, before) = (stage.own().clone(), stage.everything().await);
            stage.kind = new;
            stage.next_stage();
            stage.network(1, true).await.expect("noted");
            assert_eq!(was.tables(false), before.1[0], "not before the new one is there");
            // The first attempt fails, and is made again.
            if old != Kind::Nftables {
                was.plan([Some(IptablesFault::Refuse)]);
            }
            stage.end_restore().await;
            assert_eq!(stage.bridges().await, ["br1"]);
            tokio::time::sleep(Duration::from_secs(5)).await;
            let picture = stage.picture().await;
            assert_eq!((picture.leftovers, picture.repairs), (None, 0));
            assert_eq!([false, true].map(|ipv6| was.tables(ipv6)), clean.1);
            assert!(new == Kind::Nftables || stage.contents().await.is_none(), "{old:?}");
        });
    }
}

#[test]
fn none_answers_everything_and_removes_what_others_have() {
    local(Kind::Nftables, async |mut stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        stage.next_engine_without();
        stage.network(1, true).await.expect("noted");
        stage.end_restore().await;
        stage.ports(1, &[80]).await.expect("noted");
        assert_eq!(stage.actor.ask(&stage.op(), ReapplyRules).await.expect("answered"), Ok(0));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(stage.contents().await, None);
        let picture = stage.picture().await;
        assert_eq!((&*picture.backend, picture.networks, picture.endpoints), ("none", 1, 1));
        assert_eq!((picture.missing, picture.trouble), (None, None));
    });
}

#[test]
fn a_lost_answer_is_made_sure_and_a_refusal_is_told_to_who_asked() {
    for lost in [true, false] {
        each(async |stage| {
            stage.end_restore().await;
            stage.network(1, true).await.expect("made");
            match stage.kind {
                Kind::Nftables => {
                    let kind = if lost { FaultKind::Lose } else { FaultKind::LoseBefore };
                    stage.sim.plan(Fault::nth(1, kind));
                }
                Kind::Iptables(_) => {
                    let kind = if lost { IptablesFault::Lose } else { IptablesFault::Refuse };
                    stage.own().plan([Some(kind)]);
                }
            }
            stage.network(2, true).await.expect("made sure");
            assert_eq!(stage.bridges().await, ["br1", "br2"]);
            // The transaction and then the repair: nothing of it has happened, and it goes on without a word.
            stage.sim.plan(Fault::nth(1, FaultKind::Refuse(12)).times(2));
            stage.own().plan([Some(IptablesFault::Refuse); 2]);
            let error = stage.network(3, true).await.expect_err("refused");
            assert!(error.to_string().contains("Cannot allocate memory"), "{error}");
            assert_eq!(stage.bridges().await, ["br1", "br2"]);
            assert!(stage.picture().await.trouble.is_some());
            stage.network(4, true).await.expect("made");
            assert_eq!(stage.bridges().await, ["br1", "br2", "br4"]);
            assert_eq!(stage.picture().await.trouble, None);
        });
    }
}

#[test]
fn of_many_requests_a_bad_one_fails_alone() {
    each(async |stage| {
        stage.end_restore().await;
        stage.network(0, true).await.expect("made");
        // The first goes alone; the others together, then read, then one by one: the third of those is refused.
        stage.sim.plan(Fault::nth(2, FaultKind::Refuse(12)).times(2));
        stage.sim.plan(Fault::nth(6, FaultKind::Refuse(12)).times(2));
        // Each transaction is two calls, one of which is enough to be refused.
        let (well, bad) = ([None, None], [Some(IptablesFault::Refuse)]);
        let planned: [&[_]; 7] = [&well, &bad, &bad, &well, &well, &bad, &bad];
        stage.own().plan(planned.concat());
        let all = join_all((1..=5).map(|number| stage.network(number, true))).await;
        let refused: Vec<_> = (1..=5).filter(|number| all[number - 1].is_err()).collect();
        assert_eq!(refused, [4], "{all:?}");
        assert_eq!(stage.bridges().await, ["br0", "br1", "br2", "br3", "br5"]);
    });
}

#[test]
fn an_actor_that_dies_loses_nothing() {
    each(async |mut stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        stage.actor.tell(&stage.op(), Crash);
        let gone = stage.actor.ask(&stage.op(), InspectFirewall).await;
        assert!(gone.is_err(), "{gone:?}");
        stage.flush();
        stage.next_actor();
        stage.network(2, true).await.expect("made");
        assert_eq!(stage.bridges().await, ["br1", "br2"]);
    });
}

#[test]
fn a_named_port_is_a_key_of_one_meaning() {
    local(Kind::Nftables, async |stage| {
        stage.end_restore().await;
        let mut named = port(1, 80);
        named.host = Some("192.0.2.1".parse().expect("an address"));
        let ask = |endpoint, ports| stage.actor.ask(&stage.op(), SetPortRules { endpoint, ports });
        ask(endpoint(1), vec![named.clone()]).await.expect("answered").expect("published");
        // The same key with the same meaning is kept until both have withdrawn it.
        ask(endpoint(2), vec![named]).await.expect("answered").expect("published");
        ask(endpoint(1), Vec::new()).await.expect("answered").expect("withdrawn");
        assert_eq!(stage.elements("ports4").await, ["192.0.2.1 . tcp . 80 : 10.0.0.1 . 80"]);
        ask(endpoint(2), Vec::new()).await.expect("answered").expect("withdrawn");
        assert_eq!(stage.elements("ports4").await, Vec::<String>::new());
    });
}
