//! The firewall's actor over the simulated kernel: requests that gather, faults, and what others do to the table.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use netloom_actor_services::firewall::{
    EndRestore, FirewallActor, FirewallDeps, FirewallPicture, FirewallState, InspectFirewall, ReapplyRules,
    SetNetworkRules, SetPortRules,
};
use netloom_firewall::{FamilyRules, Mode, NetworkRules, PortRules, TableConfig, USER_CHAIN};
use netloom_kernel::nft::{Change, Contents, Expr, Rule, Table, Verdict};
use netloom_kernel::{Kernel, Op};
use netloom_model::{EndpointId, Error, NetworkId, Protocol};
use netloom_runtime::{Addr, Cause, Crash, Exit, OpCtx, TaskGroup, spawn};
use netloom_testkit::{Fault, FaultKind, SimKernel};
use tokio::task::LocalSet;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a test on a thread of actors, with paused time.
fn local<F: Future<Output = ()>>(test: impl FnOnce(Stage) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async { test(Stage::new()).await });
}

struct Stage {
    sim: SimKernel,
    state: FirewallState,
    actor: Addr<FirewallActor>,
}

impl Stage {
    fn new() -> Self {
        let sim = SimKernel::new();
        let state = FirewallState::new(TableConfig { name: "netloom".into(), mark: None });
        let actor = start(&sim, &state);
        Self { sim, state, actor }
    }

    fn op(&self) -> OpCtx {
        OpCtx::new(Cause::Event("a test"), TIMEOUT)
    }

    async fn end_restore(&self) {
        self.actor.ask(&self.op(), EndRestore).await.expect("answered").expect("restored");
    }

    async fn network(&self, number: u8, on: bool) -> Result<(), Error> {
        let rules = on.then(|| rules(number));
        self.actor
            .ask(&self.op(), SetNetworkRules { network: network(number), rules })
            .await
            .expect("answered")
            .map(|there| assert!(there, "there is a firewall"))
    }

    async fn ports(&self, number: u8, ports: &[u16]) -> Result<(), Error> {
        let ports = ports.iter().map(|first| port(number, *first)).collect();
        self.actor
            .ask(&self.op(), SetPortRules { endpoint: endpoint(number), ports })
            .await
            .expect("answered")
            .map(|there| assert!(there, "there is a firewall"))
    }

    async fn picture(&self) -> FirewallPicture {
        self.actor.ask(&self.op(), InspectFirewall).await.expect("answered")
    }

    async fn contents(&self) -> Option<Contents> {
        self.sim.table(table(), self.op().deadline_std()).await.expect("read")
    }

    /// The elements of a set, as text, sorted.
    async fn elements(&self, name: &str) -> Vec<String> {
        let Some(contents) = self.contents().await else { return Vec::new() };
        let (_, elements) = contents.sets.iter().find(|(set, _)| set.name == name).expect("a set");
        let mut all: Vec<_> = elements.iter().map(ToString::to_string).collect();
        all.sort();
        all
    }

    /// Until this many repairs have been made, for ten seconds of paused time at the most.
    async fn repaired(&self, count: u64) {
        for _ in 0..1_000 {
            if self.picture().await.repairs >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not repaired: {:?}", self.picture().await);
    }
}

fn start(sim: &SimKernel, state: &FirewallState) -> Addr<FirewallActor> {
    let deps =
        FirewallDeps { kernel: Arc::new(sim.clone()), state: state.clone(), tasks: TaskGroup::default() };
    spawn(FirewallActor::new(deps), |exit| assert!(matches!(exit, Exit::Panicked(_)), "{exit:?}")).0
}

fn table() -> Table {
    Table::inet("netloom")
}

fn id(number: u8) -> String {
    format!("{number:064x}")
}

fn network(number: u8) -> NetworkId {
    id(number).parse().expect("an identifier")
}

fn endpoint(number: u8) -> EndpointId {
    id(number).parse().expect("an identifier")
}

fn rules(number: u8) -> NetworkRules {
    let subnet = format!("10.0.{number}.0/24").parse().expect("a subnet");
    NetworkRules {
        bridge: format!("br{number}").parse().expect("a name"),
        icc: true,
        internal: false,
        trusted: Vec::new(),
        v4: Some(FamilyRules { subnet, mode: Mode::Nat, masquerade: true, host_address: None }),
        v6: None,
    }
}

fn port(number: u8, first: u16) -> PortRules {
    PortRules {
        protocol: Protocol::Tcp,
        host: None,
        first,
        last: first,
        container: format!("10.0.0.{number}").parse().expect("an address"),
        container_port: 80,
        routed: false,
    }
}

#[test]
fn requests_that_come_together_travel_together_and_each_is_answered() {
    local(async |stage| {
        stage.end_restore().await;
        assert_eq!(stage.contents().await, None, "a table that nobody needs is not made");
        stage.network(0, true).await.expect("made");
        let before = stage.sim.ops_count();
        let all = join_all((1..=50).map(|number| stage.network(number, true))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        // The first was on its way when the others came.
        assert_eq!(stage.sim.ops_count() - before, 2);
        assert_eq!(stage.elements("bridges").await.len(), 51);
        assert_eq!(stage.picture().await.networks, 51);
        let all = join_all((1..=50).map(|number| stage.network(number, false))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(stage.elements("bridges").await, ["br0"]);
        stage.network(0, false).await.expect("gone");
        assert_eq!(stage.contents().await, None, "nobody needs it any more");
    });
}

#[test]
fn a_table_that_nobody_needs_stays_for_the_users_rules_in_it() {
    local(async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        let rule = Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: None };
        let changes = vec![Change::AddRule { chain: USER_CHAIN.into(), rule: rule.clone() }];
        stage.sim.foreign_op(&Op::ChangeTable { table: table(), changes }).expect("ruled");
        stage.network(1, false).await.expect("gone");
        assert_eq!(stage.elements("bridges").await, Vec::<String>::new());
        let chains = stage.contents().await.expect("it stays").chains;
        assert_eq!(chains.iter().find(|(chain, _)| chain.name == USER_CHAIN).expect("there").1, [rule]);
        stage.network(2, true).await.expect("made");
        assert_eq!(stage.elements("bridges").await, ["br2"]);
    });
}

#[test]
fn a_port_that_leads_somewhere_else_is_refused_and_nothing_has_changed() {
    local(async |stage| {
        stage.end_restore().await;
        stage.ports(1, &[80, 81]).await.expect("published");
        let before = stage.contents().await;
        let error = stage.ports(2, &[90, 81]).await.expect_err("taken");
        assert!(error.to_string().contains(&endpoint(1).to_string()), "{error}");
        assert_eq!(stage.contents().await, before);
        stage.ports(1, &[80]).await.expect("one withdrawn");
        stage.ports(2, &[90, 81]).await.expect("free now");
        assert_eq!(
            stage.elements("any4").await,
            ["tcp . 80 : 10.0.0.1 . 80", "tcp . 81 : 10.0.0.2 . 80", "tcp . 90 : 10.0.0.2 . 80",]
        );
    });
}

#[test]
fn until_a_start_has_ended_nothing_of_what_runs_is_touched() {
    local(async |mut stage| {
        stage.end_restore().await;
        for number in [1, 2] {
            stage.network(number, true).await.expect("made");
            stage.ports(number, &[80 + u16::from(number)]).await.expect("published");
        }
        let before = stage.contents().await;
        // The next engine knows of one of them only.
        stage.state = FirewallState::new(TableConfig { name: "netloom".into(), mark: None });
        stage.actor = start(&stage.sim, &stage.state);
        let ops = stage.sim.ops_count();
        stage.network(1, true).await.expect("noted");
        stage.ports(1, &[81]).await.expect("noted");
        assert_eq!((stage.contents().await, stage.sim.ops_count()), (before, ops));
        stage.end_restore().await;
        assert_eq!(stage.sim.ops_count(), ops + 1, "one transaction");
        assert_eq!(stage.elements("bridges").await, ["br1"]);
        assert_eq!(stage.elements("any4").await, ["tcp . 81 : 10.0.0.1 . 80"]);
        assert_eq!(stage.picture().await.repairs, 0, "that was no damage");
    });
}

#[test]
fn what_somebody_else_does_to_the_table_is_repaired_but_for_the_users_rules() {
    local(async |stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        let whole = stage.contents().await.expect("there");
        stage.sim.flush_ruleset();
        stage.repaired(1).await;
        assert_eq!(stage.contents().await.as_ref(), Some(&whole));
        let drop = Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: None };
        let foreign = |changes| {
            let op = Op::ChangeTable { table: table(), changes };
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
        let other = Op::ChangeTable { table: Table::inet("other"), changes: vec![Change::AddTable] };
        stage.sim.foreign_op(&other).expect("made");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(stage.picture().await.repairs, 2, "another table is none of our business");
    });
}

#[test]
fn a_lost_answer_is_made_sure_and_a_refusal_is_told_to_who_asked() {
    for kind in [FaultKind::Lose, FaultKind::LoseBefore] {
        local(async |stage| {
            stage.end_restore().await;
            stage.network(1, true).await.expect("made");
            stage.sim.plan(Fault::nth(1, kind));
            stage.network(2, true).await.expect("made sure");
            assert_eq!(stage.elements("bridges").await, ["br1", "br2"]);
            // The transaction and then the repair: nothing of it has happened, and it goes on without a word.
            stage.sim.plan(Fault::nth(1, FaultKind::Refuse(12)).times(2));
            let error = stage.network(3, true).await.expect_err("refused");
            assert!(error.to_string().contains("Cannot allocate memory"), "{error}");
            assert_eq!(stage.elements("bridges").await, ["br1", "br2"]);
            assert!(stage.picture().await.trouble.is_some());
            stage.network(4, true).await.expect("made");
            assert_eq!(stage.elements("bridges").await, ["br1", "br2", "br4"]);
            assert_eq!(stage.picture().await.trouble, None);
        });
    }
}

#[test]
fn of_many_requests_a_bad_one_fails_alone() {
    local(async |stage| {
        stage.end_restore().await;
        stage.network(0, true).await.expect("made");
        // The first goes alone; the others together, then read, then one by one: the third of those is refused.
        stage.sim.plan(Fault::nth(2, FaultKind::Refuse(12)).times(2));
        stage.sim.plan(Fault::nth(6, FaultKind::Refuse(12)).times(2));
        let all = join_all((1..=5).map(|number| stage.network(number, true))).await;
        let refused: Vec<_> = (1..=5).filter(|number| all[number - 1].is_err()).collect();
        assert_eq!(refused, [4], "{all:?}");
        assert_eq!(stage.elements("bridges").await, ["br0", "br1", "br2", "br3", "br5"]);
    });
}

#[test]
fn an_actor_that_dies_loses_nothing() {
    local(async |mut stage| {
        stage.end_restore().await;
        stage.network(1, true).await.expect("made");
        stage.actor.tell(&stage.op(), Crash);
        let gone = stage.actor.ask(&stage.op(), InspectFirewall).await;
        assert!(gone.is_err(), "{gone:?}");
        stage.sim.flush_ruleset();
        stage.actor = start(&stage.sim, &stage.state);
        stage.network(2, true).await.expect("made");
        assert_eq!(stage.elements("bridges").await, ["br1", "br2"]);
    });
}

#[test]
fn a_named_port_is_a_key_of_one_meaning() {
    local(async |stage| {
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
