//! Two engines side by side on one host, whose networks are made at the same moment: no two of them share a subnet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use netloom::kernel::{LinkKind, Netns, Op};
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{Engine, EngineConfig, Error, ErrorKind, Network, NetworkSpec, Reason, Result};
use netloom_store::MemoryDisk;
use tokio::sync::Notify;

use crate::mortal::{Death, Mortal};
use crate::support::{bounded, delete_everything, note};

// === Turns ===

/// Lets two engines reach their kernel in a given order: one look at addresses, or one operation on links, a turn.
#[derive(Debug, Default)]
struct Turns {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whose turn it is, and whose the next ones are. Where this ends everybody goes on as they like.
    order: VecDeque<usize>,
    /// Who takes part still.
    takes_part: [bool; 2],
    /// Whether somebody is at it.
    taken: bool,
}

/// Somebody's turn, for as long as this is kept.
pub(crate) struct AtIt(Arc<Turns>);

impl Drop for AtIt {
    fn drop(&mut self) {
        self.0.state.lock().expect("nobody panics with it").taken = false;
        self.0.moved.notify_waiters();
    }
}

/// The turns of one engine.
#[derive(Clone, Debug)]
pub(crate) struct Turn(Arc<Turns>, usize);

impl Turn {
    /// Waits for one.
    pub(crate) async fn comes(&self) -> AtIt {
        let Self(turns, who) = self;
        loop {
            let mut moved = std::pin::pin!(turns.moved.notified());
            moved.as_mut().enable();
            {
                let mut state = turns.state.lock().expect("nobody panics with it");
                let State { order, takes_part, taken } = &mut *state;
                while order.front().is_some_and(|next| !takes_part[*next]) {
                    order.pop_front();
                }
                if !*taken && order.front().is_none_or(|next| next == who) {
                    order.pop_front();
                    *taken = true;
                    return AtIt(turns.clone());
                }
            }
            moved.await;
        }
    }
}

impl Turns {
    fn begin(&self, order: impl IntoIterator<Item = usize>) {
        let order = order.into_iter().collect();
        let mut state = self.state.lock().expect("nobody panics with it");
        (state.order, state.takes_part) = (order, [true; 2]);
    }

    /// Somebody has no more to do.
    fn leaves(&self, who: usize) {
        self.state.lock().expect("nobody panics with it").takes_part[who] = false;
        self.moved.notify_waiters();
    }
}

// === Two engines ===

struct Pair {
    kernel: SimKernel,
    turns: Arc<Turns>,
    engines: [Engine; 2],
}

impl Pair {
    async fn new() -> Self {
        let (kernel, turns) = (SimKernel::new(), Arc::new(Turns::default()));
        let start = async |who: usize| {
            let config = EngineConfig { instance: ["one", "two"][who].into(), ..EngineConfig::default() };
            let mortal = Mortal::new(kernel.clone(), Death::never()).in_turn(Turn(turns.clone(), who));
            let builder = Engine::builder().config(config).kernel(Arc::new(mortal));
            builder.store(Box::new(MemoryDisk::default().open())).start().await.expect("it starts")
        };
        let engines = [start(0).await, start(1).await];
        Self { kernel, turns, engines }
    }

    /// Makes a network with each engine at once, in this order.
    async fn make(
        &self,
        specs: [NetworkSpec; 2],
        order: impl IntoIterator<Item = usize>,
    ) -> [Result<Network>; 2] {
        self.turns.begin(order);
        let [first, second] = specs;
        let make = async |who: usize, spec: NetworkSpec| {
            let made = bounded("the creation", self.engines[who].controller().create_network(spec)).await;
            self.turns.leaves(who);
            made
        };
        let (one, two) = tokio::join!(make(0, first), make(1, second));
        [one, two]
    }

    async fn clear(&self) {
        for engine in &self.engines {
            delete_everything(engine).await.expect("everything can be deleted");
            bounded("draining", engine.drain()).await.expect("drained");
        }
    }
}

async fn pools(network: &Network) -> Vec<IpNet> {
    let picture = network.inspect().await.expect("inspected");
    picture.v4.iter().chain(&picture.v6).map(|pool| pool.pool).collect()
}

fn overlap(one: &[IpNet], other: &[IpNet]) -> bool {
    one.iter().any(|one| other.iter().any(|other| one.contains(other) || other.contains(one)))
}

fn given(name: &str, subnet: &str) -> NetworkSpec {
    NetworkSpec::new(name).subnet(subnet.parse().expect("a subnet"))
}

/// As many turns as two networks need, in all orders.
const TURNS: u32 = 10;

fn orders() -> impl Iterator<Item = impl Iterator<Item = usize> + Clone> {
    (0..1_usize << TURNS).map(|bits| (0..TURNS).map(move |turn| bits >> turn & 1))
}

fn assert_first_was_another(error: &Error, subnet: &str) {
    let Reason::PoolOverlapsHost { pool, what, link, .. } = error.reason() else { panic!("{error:?}") };
    assert_eq!(pool.to_string(), subnet, "{error}");
    // The route is what a look sees between the address and its listing.
    assert!(["an address", "a route"].contains(&what.as_ref()), "{error}");
    let link = link.as_ref().expect("it is named").as_str();
    assert!(link.starts_with("br-") && error.to_string().contains(link), "{error}");
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Forbidden, netloom::Certainty::Aborted));
}

#[tokio::test]
async fn of_two_engines_that_choose_one_pool_at_once_one_takes_the_next() {
    let pair = Pair::new().await;
    let before = pair.kernel.snapshot();
    let (mut to_first, mut tries) = (0, 0);
    for (n, order) in orders().enumerate() {
        let spec = || NetworkSpec::new(format!("n{n}")).ipv6(n % 2 == 0);
        let [one, two] = pair.make([spec(), spec()], order.clone()).await;
        let (one, two) = (one.expect("made"), two.expect("made"));
        let (one, two) = (pools(&one).await, pools(&two).await);
        let order = || order.clone().collect::<Vec<_>>();
        assert!(!overlap(&one, &two), "{one:?} and {two:?} after {:?}", order());
        let mut both = [one[0].to_string(), two[0].to_string()];
        to_first += usize::from(both[0].starts_with("172.17."));
        tries += 1;
        both.sort();
        assert_eq!(both, ["172.17.0.0/16", "172.18.0.0/16"], "after {:?}", order());
        pair.clear().await;
    }
    note(format!("{tries} orders; the first engine kept the pool in {to_first}"));
    assert!((1..tries).contains(&to_first), "either may be first");
    pair.kernel.assert_pristine(&before);
}

#[tokio::test]
async fn of_two_engines_that_are_asked_for_one_subnet_at_once_one_refuses() {
    let pair = Pair::new().await;
    let before = pair.kernel.snapshot();
    for (n, order) in orders().enumerate() {
        // The same one, and one within the other.
        let other = if n % 2 == 0 { "10.7.0.0/16" } else { "10.7.3.0/24" };
        let name = format!("n{n}");
        let made = pair.make([given(&name, "10.7.0.0/16"), given(&name, other)], order.clone()).await;
        let (errors, made): (Vec<_>, Vec<_>) =
            made.into_iter().zip(["10.7.0.0/16", other]).partition(|(made, _)| made.is_err());
        assert_eq!((made.len(), errors.len()), (1, 1), "after {:?}", order.collect::<Vec<_>>());
        for (error, subnet) in errors {
            assert_first_was_another(&error.expect_err("refused"), subnet);
        }
        pair.clear().await;
    }
    pair.kernel.assert_pristine(&before);
}

/// Who may choose gives way to who was told, unless it was first; then the other one is refused.
#[tokio::test]
async fn a_chosen_pool_and_a_subnet_that_was_asked_for_never_overlap() {
    let pair = Pair::new().await;
    let before = pair.kernel.snapshot();
    let mut refused = 0;
    for (n, order) in orders().enumerate() {
        let name = format!("n{n}");
        let [chosen, told] =
            pair.make([NetworkSpec::new(&name), given(&name, "172.17.128.0/17")], order.clone()).await;
        let chosen = pools(&chosen.expect("there are other pools")).await;
        match told {
            Ok(told) => assert!(!overlap(&chosen, &pools(&told).await), "{:?}", order.collect::<Vec<_>>()),
            Err(error) => {
                refused += 1;
                assert_first_was_another(&error, "172.17.128.0/17");
                assert_eq!(chosen[0].to_string(), "172.17.0.0/16");
            }
        }
        pair.clear().await;
    }
    assert!((1..1 << TURNS).contains(&refused), "either may be first: {refused}");
    pair.kernel.assert_pristine(&before);
}

/// Any program that gives an interface an address at the wrong moment, here between the look at the host and the bridge.
#[tokio::test]
async fn an_address_that_comes_while_a_network_is_made_is_given_way_to() {
    for moment in 0..8 {
        // New ones each time: looks that news have begun would take turns.
        let pair = Pair::new().await;
        let (kernel, link) = (&pair.kernel, "vpn0".parse().expect("a name"));
        kernel.foreign_link(Netns::Host, link, LinkKind::Device, None).expect("made");
        let before = kernel.snapshot();
        // The second engine takes no part: until it leaves, the first one waits for the turn after these.
        pair.turns.begin(std::iter::repeat_n(0, moment).chain([1]));
        let [engine, _] = &pair.engines;
        let made = async {
            let made = engine.controller().create_network(NetworkSpec::new("blue")).await;
            pair.turns.leaves(0);
            made
        };
        let foreign = async {
            let _turn = Turn(pair.turns.clone(), 1).comes().await;
            let address = "172.17.9.1/24".parse().expect("an address");
            kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link, address }).expect("added");
            address
        };
        let (made, address) = bounded("the creation", async { tokio::join!(made, foreign) }).await;
        let pool = pools(&made.expect("there are other pools")).await[0].to_string();
        // A look at the host, the bridge, another look, its address: what comes later came second.
        let expected = if moment <= 3 { "172.18.0.0/16" } else { "172.17.0.0/16" };
        assert_eq!(pool, expected, "at moment {moment}");
        kernel.foreign_op(&Op::DeleteAddress { netns: Netns::Host, link, address }).expect("deleted");
        pair.clear().await;
        kernel.assert_pristine(&before);
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_taken_back_at_once_goes_with_its_bridge() {
    let pair = Pair::new().await;
    let before = pair.kernel.snapshot();
    pair.kernel.plan(Fault::verb("delete_address", 1, FaultKind::Lose));
    // Both look, both make their bridge, and the second one is late with its address.
    let made = pair.make([NetworkSpec::new("n"), NetworkSpec::new("n")], [0, 1, 0, 1, 0, 1, 0, 1]).await;
    let [one, two] = made.map(|made| made.expect("made"));
    assert!(!overlap(&pools(&one).await, &pools(&two).await));
    assert!(pair.kernel.pending_faults().is_empty(), "one gave way");
    pair.clear().await;
    pair.kernel.assert_pristine(&before);
}
