//! A firewall's actor, and what it speaks to.

pub(crate) mod programs;

use std::cell::RefCell;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use netloom_actor_services::firewall::{
    Backend, Choice, CompareRules, EndRestore, FirewallActor, FirewallDeps, FirewallEvent, FirewallState,
    InspectFirewall, SetNetworkRules, SetPortRules,
};
use netloom_firewall::io::{InPlace, Variant, Xtables};
use netloom_firewall::iptables::Version;
use netloom_firewall::{Deviates, Deviation, FamilyRules, Mode, NetworkRules, PortRules, TableConfig};
use netloom_firewalld::Firewalld;
use netloom_kernel::nft::{Change, Contents, Table};
use netloom_kernel::{Kernel, Netns, Op};
use netloom_model::snapshot::FirewallSnapshot;
use netloom_model::{EndpointId, Error, NetworkId, Protocol, RepairCause};
use netloom_runtime::{Addr, Cause, EventSink, Exit, OpCtx, TaskGroup, spawn};
use netloom_testkit::{Iptables, SimFirewalld, SimIptables, SimKernel};
use tokio::task::LocalSet;

use programs::Programs;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What rules are said to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Nftables,
    Iptables(Variant),
}

const KINDS: [Kind; 3] = [Kind::Nftables, Kind::Iptables(Variant::Nft), Kind::Iptables(Variant::Legacy)];

/// Runs a test on a thread of actors, with paused time.
pub(crate) fn local<F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(Stage) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async { test(Stage::new(kind)).await });
}

/// Runs a test for each backend.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
pub(crate) fn each<F: Future<Output = ()>>(test: impl Fn(Stage) -> F) {
    for kind in KINDS {
        println!("with {kind:?}");
        local(kind, &test);
    }
}

/// What the actor has told: where it puts that, and what was read of it.
pub(crate) struct Told {
    sender: mpsc::Sender<FirewallEvent>,
    receiver: mpsc::Receiver<FirewallEvent>,
    read: RefCell<Vec<FirewallEvent>>,
}

impl Default for Told {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver, read: RefCell::default() }
    }
}

pub(crate) struct Stage {
    pub(crate) kind: Kind,
    pub(crate) sim: SimKernel,
    pub(crate) programs: Programs,
    pub(crate) xtables: Arc<dyn Xtables>,
    pub(crate) firewalld: Option<SimFirewalld>,
    pub(crate) state: FirewallState,
    told: Told,
    pub(crate) actor: Addr<FirewallActor>,
}

impl Stage {
    fn new(kind: Kind) -> Self {
        let (sim, programs) = (SimKernel::new(), Programs::default());
        let chosen = if let Kind::Iptables(variant) = kind { variant } else { Variant::Nft };
        let xtables: Arc<dyn Xtables> = Arc::new(InPlace::new(programs.clone(), chosen));
        let state = state(kind, &xtables);
        let told = Told::default();
        let actor = start(&sim, &xtables, None, &state, &told);
        Self { kind, sim, programs, xtables, firewalld: None, state, told, actor }
    }

    /// The next engine: it knows nothing of the one before.
    pub(crate) fn next_engine(&mut self) {
        self.state = state(self.kind, &self.xtables);
        self.next_actor();
    }

    /// The next engine, with another backend: what `kind` is now.
    pub(crate) fn next_stage(&mut self) {
        let chosen = if let Kind::Iptables(variant) = self.kind { variant } else { Variant::Legacy };
        self.xtables = Arc::new(InPlace::new(self.programs.clone(), chosen));
        self.next_engine();
    }

    /// The next engine, with no backend.
    pub(crate) fn next_engine_without(&mut self) {
        self.state = FirewallState::new(TableConfig::of("netloom"), Choice::asked(Backend::None));
        self.next_actor();
    }

    /// The next incarnation of the actor.
    pub(crate) fn next_actor(&mut self) {
        self.actor = start(&self.sim, &self.xtables, self.firewalld.as_ref(), &self.state, &self.told);
    }

    pub(crate) fn op(&self) -> OpCtx {
        OpCtx::new(Cause::Event("a test"), TIMEOUT)
    }

    pub(crate) async fn end_restore(&self) {
        self.actor.ask(&self.op(), EndRestore).await.expect("answered").expect("restored");
    }

    pub(crate) async fn network(&self, number: u8, on: bool) -> Result<(), Error> {
        self.network_of(number, on.then(|| rules(number))).await
    }

    pub(crate) async fn network_of(&self, number: u8, rules: Option<NetworkRules>) -> Result<(), Error> {
        let request = SetNetworkRules { network: network(number), rules };
        let there = self.actor.ask(&self.op(), request).await.expect("answered")?;
        assert_eq!(there, self.picture().await.backend != "none");
        Ok(())
    }

    pub(crate) async fn ports(&self, number: u8, ports: &[u16]) -> Result<(), Error> {
        let ports = ports.iter().map(|first| port(number, *first)).collect();
        let request = SetPortRules { endpoint: endpoint(number), ports };
        let there = self.actor.ask(&self.op(), request).await.expect("answered")?;
        assert_eq!(there, self.picture().await.backend != "none");
        Ok(())
    }

    /// The repairs that were told: what set off each, and how many changes it took.
    pub(crate) fn repairs_told(&self) -> Vec<(RepairCause, usize)> {
        let mut told = self.told.read.borrow_mut();
        told.extend(self.told.receiver.try_iter());
        told.iter().map(|FirewallEvent::Repaired { changes, cause, .. }| (*cause, *changes)).collect()
    }

    /// What is told to differ: `-` what is missing, `+` what is there too much, `~` what is otherwise.
    pub(crate) async fn compared(&self) -> Vec<String> {
        let found = self.actor.ask(&self.op(), CompareRules).await.expect("answered").expect("compared");
        let sign = |one: &Deviation| match one.what {
            Deviates::Missing => "-",
            Deviates::Unexpected => "+",
            Deviates::Different { .. } => "~",
        };
        found.iter().map(|one| format!("{} {}", sign(one), one.object)).collect()
    }

    pub(crate) async fn picture(&self) -> FirewallSnapshot {
        self.actor.ask(&self.op(), InspectFirewall).await.expect("answered")
    }

    pub(crate) async fn contents(&self) -> Option<Contents> {
        self.sim.table(table(), self.op().deadline_std()).await.expect("read")
    }

    /// The programs that rules are said to.
    pub(crate) fn own(&self) -> &SimIptables {
        match self.kind {
            Kind::Iptables(Variant::Legacy) => &self.programs.legacy.0,
            Kind::Iptables(Variant::Nft) | Kind::Nftables => &self.programs.nft.0,
        }
    }

    /// Everything that is there, of both families.
    pub(crate) async fn everything(&self) -> (Option<Contents>, [Iptables; 2]) {
        (self.contents().await, [false, true].map(|ipv6| self.own().tables(ipv6)))
    }

    /// How many transactions there have been.
    pub(crate) fn transactions(&self) -> usize {
        match self.kind {
            Kind::Nftables => usize::try_from(self.sim.ops_count()).expect("few"),
            Kind::Iptables(_) => self.own().restores(false),
        }
    }

    /// Whether there is anything of the engine.
    pub(crate) async fn is_there(&self) -> bool {
        match self.kind {
            Kind::Nftables => self.contents().await.is_some(),
            Kind::Iptables(_) => {
                [false, true].map(|ipv6| self.own().tables(ipv6)) != <[Iptables; 2]>::default()
            }
        }
    }

    /// The elements of a set, as text, sorted.
    pub(crate) async fn elements(&self, name: &str) -> Vec<String> {
        let Some(contents) = self.contents().await else { return Vec::new() };
        let (_, elements) = contents.sets.iter().find(|(set, _)| set.name == name).expect("a set");
        let mut all: Vec<_> = elements.iter().map(ToString::to_string).collect();
        all.sort();
        all
    }

    /// The bridges that have rules.
    pub(crate) async fn bridges(&self) -> Vec<String> {
        if self.kind == Kind::Nftables {
            return self.elements("bridges").await;
        }
        let chains = [false, true].map(|ipv6| {
            let chains = self.own().tables(ipv6).chains("filter");
            chains
                .iter()
                .filter_map(|chain| Some(chain.strip_prefix("NETLOOM-I-")?.to_owned()))
                .collect::<Vec<_>>()
        });
        assert_eq!(chains[0], chains[1], "the families differ");
        chains[0].clone()
    }

    /// Ports that every address of the host has, and where they lead.
    pub(crate) async fn published(&self) -> Vec<String> {
        let mut all: Vec<String> = match self.kind {
            Kind::Nftables => {
                let elements = self.elements("any4").await;
                let words = elements.iter().map(|one| one.split(' ').collect::<Vec<_>>());
                words.map(|words| format!("{} {} {}:{}", words[0], words[2], words[4], words[6])).collect()
            }
            Kind::Iptables(_) => {
                let mut tables = self.own().tables(false);
                let rules =
                    tables.rules("nat", "NETLOOM-ANY").iter().map(|rule| rule.split(' ').collect::<Vec<_>>());
                rules.map(|words| format!("{} {} {}", words[1], words[5], words[9])).collect()
            }
        };
        all.sort();
        all
    }

    /// Somebody changes chains of iptables; of the one that is made of nftables the kernel tells.
    pub(crate) fn foreign(&self, change: impl Fn(&mut Iptables)) {
        for ipv6 in [false, true] {
            self.own().foreign(ipv6, &change);
        }
        if self.kind == Kind::Iptables(Variant::Nft) {
            let table = Table { family: netloom_kernel::nft::Family::Ip, name: "filter".into() };
            let op = Op::ChangeTable { netns: Netns::Host, table, changes: vec![Change::AddTable] };
            self.sim.foreign_op(&op).expect("told");
        }
    }

    /// Somebody removes everything, whoever's it was.
    pub(crate) fn flush(&self) {
        match self.kind {
            Kind::Nftables => self.sim.flush_ruleset(),
            Kind::Iptables(_) => self.foreign(|tables| *tables = Iptables::default()),
        }
    }

    /// Until this many repairs have been made: for twenty seconds of paused time at the most, because of some changes nobody
    /// is told.
    pub(crate) async fn repaired(&self, count: u64) {
        for _ in 0..2_000 {
            if self.picture().await.repairs >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not repaired: {:?}", self.picture().await);
    }
}

fn state(kind: Kind, xtables: &Arc<dyn Xtables>) -> FirewallState {
    let backend = match kind {
        Kind::Nftables => Backend::Nftables,
        Kind::Iptables(_) => {
            Backend::Iptables { xtables: Arc::clone(xtables), versions: vec![Version::V4, Version::V6] }
        }
    };
    FirewallState::new(TableConfig::of("netloom"), Choice::asked(backend))
}

fn start(
    sim: &SimKernel,
    xtables: &Arc<dyn Xtables>,
    firewalld: Option<&SimFirewalld>,
    state: &FirewallState,
    told: &Told,
) -> Addr<FirewallActor> {
    let told = told.sender.clone();
    let deps = FirewallDeps {
        kernel: Arc::new(sim.clone()),
        xtables: Some(Arc::clone(xtables)),
        firewalld: firewalld.map(|one| Arc::new(one.clone()) as Arc<dyn Firewalld>),
        state: state.clone(),
        events: EventSink::new(move |_: &OpCtx, event| told.send(event).expect("it is read")),
        tasks: TaskGroup::default(),
    };
    spawn(FirewallActor::new(deps), |exit| assert!(matches!(exit, Exit::Panicked(_)), "{exit:?}")).0
}

pub(crate) fn table() -> Table {
    Table::inet("netloom")
}

fn id(number: u8) -> String {
    format!("{number:064x}")
}

pub(crate) fn network(number: u8) -> NetworkId {
    id(number).parse().expect("an identifier")
}

pub(crate) fn endpoint(number: u8) -> EndpointId {
    id(number).parse().expect("an identifier")
}

pub(crate) fn rules(number: u8) -> NetworkRules {
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

pub(crate) fn port(number: u8, first: u16) -> PortRules {
    PortRules {
        protocol: Protocol::Tcp,
        host: None,
        first,
        last: first,
        container: format!("10.0.0.{number}").parse().expect("an address"),
        container_port: 80,
        routed: false,
        by_proxy: None,
    }
}
