//! The engine goes and the next one comes while containers talk: not one packet is lost. And what the engine says about
//! a kernel that somebody else has changed.

// Packet counts are for people to see, and the victim talks to its killer.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use netloom::kernel::{Kernel, Netns, Op};
use netloom::{Engine, LiveSet, NetnsName, NetworkSpec, Repair, Sandbox, ShutdownMode, Stray};
use socket2::{Domain, Socket, Type};

use crate::churn::lifecycle;
use crate::cut::{Flow, LOOK, RUNNING, Stream};
use crate::lab::{Lab, address, delete_everything, in_lab, joined, soon};

/// Set for the process that is to be killed: the directory it works in.
const VICTIM: &str = "NETLOOM_TEST_LIVE_VICTIM";
/// One datagram a millisecond.
const TICK: Duration = Duration::from_millis(1);
/// How long the flows run before the engine goes, and after the next one came.
const WHILE: Duration = Duration::from_millis(700);
/// How long there is no engine at all.
const NOBODY: Duration = Duration::from_millis(400);
/// How long the last datagram may be under way.
const LAST: Duration = Duration::from_millis(500);

/// Two containers that talk.
struct Pair {
    netns: [NetnsName; 2],
    address: [IpAddr; 2],
}

/// The pair, and a container that will have died.
async fn furnish(engine: &Engine) -> Pair {
    let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
    let (one, first) = joined(engine, &network, "one").await;
    let (two, second) = joined(engine, &network, "two").await;
    joined(engine, &network, "dead").await;
    Pair {
        netns: [first.netns().expect("a name"), second.netns().expect("a name")],
        address: [address(&one).await, address(&two).await],
    }
}

/// Runs a job in a namespace without any engine.
async fn inside<T: Send + 'static>(
    lab: &Lab,
    netns: NetnsName,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, result) = std::sync::mpsc::channel();
    let job = Box::new(move || drop(sender.send(job())));
    lab.kernel.run_in(Netns::Named(netns), job, soon()).await.expect("it runs");
    result.recv().expect("it ran")
}

/// Numbered datagrams at a steady rate. Every single one is accounted for.
struct Numbered {
    flow: Arc<Flow>,
    over: Arc<AtomicBool>,
    sender: std::thread::JoinHandle<u64>,
    receiver: std::thread::JoinHandle<(BTreeSet<u64>, usize)>,
}

impl Numbered {
    fn start(from: UdpSocket, to: UdpSocket) -> Self {
        let (flow, over) = (Arc::new(Flow::default()), Arc::new(AtomicBool::new(false)));
        let (out, into, done) = (flow.clone(), flow.clone(), over.clone());
        to.set_read_timeout(Some(LAST)).expect("set");
        let sender = std::thread::spawn(move || {
            let (began, mut number) = (Instant::now(), 0_u64);
            while !done.load(Ordering::SeqCst) {
                number += 1;
                from.send(&number.to_ne_bytes()).expect("sent");
                out.sent.store(number, Ordering::SeqCst);
                let next = began + TICK * u32::try_from(number).expect("few");
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            number
        });
        // Ends when nothing has come for a while.
        let receiver = std::thread::spawn(move || {
            let (mut seen, mut twice, mut number) = (BTreeSet::new(), 0, [0; 8]);
            while to.recv(&mut number).is_ok() {
                twice += usize::from(!seen.insert(u64::from_ne_bytes(number)));
                into.arrived.fetch_add(1, Ordering::SeqCst);
            }
            (seen, twice)
        });
        Self { flow, over, sender, receiver }
    }

    fn sent(&self) -> u64 {
        self.flow.sent.load(Ordering::SeqCst)
    }

    /// Ends it; how many were sent, how many of those arrived, and how many of those more than once.
    fn end(self) -> (u64, u64, usize) {
        self.over.store(true, Ordering::SeqCst);
        let sent = self.sender.join().expect("it ends");
        let (seen, twice) = self.receiver.join().expect("it ends");
        (sent, u64::try_from(seen.len()).expect("few"), twice)
    }
}

/// Everything that runs between the two.
struct Flows {
    stream: Stream,
    datagrams: [Numbered; 2],
}

impl Flows {
    async fn start(lab: &Lab, pair: &Pair) -> Self {
        let [(first, here), (second, there)] = [0, 1].map(|at| (pair.netns[at], pair.address[at]));
        let listener =
            inside(lab, second, move || TcpListener::bind(SocketAddr::new(there, 0)).expect("bound")).await;
        let target = listener.local_addr().expect("known");
        let socket =
            inside(lab, first, || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket")).await;
        let ends = tokio::task::spawn_blocking(move || {
            socket.connect_timeout(&target.into(), Duration::from_secs(10)).expect("connected");
            [TcpStream::from(socket), listener.accept().expect("accepted").0]
        });
        let stream = Stream::start(ends.await.expect("connected"));
        let open = |at: IpAddr| move || UdpSocket::bind(SocketAddr::new(at, 0)).expect("bound");
        let mut datagrams = Vec::new();
        for [(from, source), (to, sink)] in
            [[(first, here), (second, there)], [(second, there), (first, here)]]
        {
            let receiver = inside(lab, to, open(sink)).await;
            let sender = inside(lab, from, open(source)).await;
            sender.connect(receiver.local_addr().expect("known")).expect("noted");
            datagrams.push(Numbered::start(sender, receiver));
        }
        let datagrams = <[Numbered; 2]>::try_from(datagrams).ok().expect("two");
        let flows = Self { stream, datagrams };
        flows.run_on().await;
        flows
    }

    fn bytes(&self) -> [u64; 2] {
        self.stream.counts(|flow| &flow.arrived)
    }

    /// Returns when much has passed in both directions of the stream, from now on.
    async fn run_on(&self) {
        let (before, patience) = (self.bytes(), soon());
        while self.bytes().iter().zip(before).any(|(now, before)| now - before < RUNNING) {
            assert!(Instant::now() < patience, "the stream stands still: {before:?}, {:?}", self.bytes());
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(WHILE).await;
    }

    fn sent(&self) -> [u64; 2] {
        [0, 1].map(|at: usize| self.datagrams[at].sent())
    }
}

/// Has the flows run while the old engine goes, nobody is there, and the next one comes.
async fn nothing_is_lost(lab: &Lab, pair: &Pair, how: &str, go: impl Future<Output = ()>) {
    let flows = Flows::start(lab, pair).await;
    let before = (flows.sent(), flows.bytes());
    go.await;
    tokio::time::sleep(NOBODY).await;
    let alone = (flows.sent(), flows.bytes());
    let patience = soon();
    let engine = loop {
        let builder = Engine::builder().data_dir(lab.data_dir()).run_dir(lab.run_dir());
        match builder.live_sandboxes(["blue-one", "blue-two"]).start().await {
            Ok(engine) => break engine,
            Err(error) => assert!(Instant::now() < patience, "the engine does not start: {error}"),
        }
        tokio::time::sleep(LOOK).await;
    };
    let started = (flows.sent(), flows.bytes());
    let [Repair::DeadSandboxReleased(released)] = engine.repairs() else { panic!("{:?}", engine.repairs()) };
    assert_eq!((released.container_id.as_str(), released.endpoints.len()), ("blue-dead", 1));
    engine.drain().await.expect("drained");
    assert_eq!(engine.diff().await.expect("compared"), []);
    flows.run_on().await;
    let Flows { stream, datagrams } = flows;
    let bytes = stream.counts(|flow| &flow.arrived);
    stream.end();
    println!(
        "{how}: datagrams each way when the engine went {:?}, when the next one began to start {:?}, when it had started {:?}",
        before.0, alone.0, started.0
    );
    println!(
        "{how}: bytes of the stream each way {:?}, {:?}, {:?}, at the end {bytes:?}",
        before.1, alone.1, started.1
    );
    for (at, numbered) in datagrams.into_iter().enumerate() {
        let (sent, arrived, twice) = numbered.end();
        println!("{how}: direction {at}: {sent} datagrams sent, {arrived} arrived, {twice} twice");
        assert_eq!((arrived, twice), (sent, 0), "lost on the way");
        let unattended = started.0[at] - before.0[at];
        assert!(unattended > 100, "only {unattended} were sent without an engine: the test is blind");
        assert!(alone.1[at] > before.1[at], "the stream stood still without an engine");
    }
    delete_everything(&engine).await;
    lab.assert_pristine().await;
}

#[test]
fn not_one_packet_of_who_lives_is_lost_over_a_shutdown_and_a_start() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let pair = furnish(&engine).await;
        nothing_is_lost(&lab, &pair, "shut down", async move {
            engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        })
        .await;
    });
}

#[test]
fn not_one_packet_of_who_lives_is_lost_over_a_kill_and_a_start() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        stand_until_killed(Path::new(&dir));
    }
    in_lab(async |lab| {
        let (mut victim, pair) = victim(&lab).await;
        nothing_is_lost(&lab, &pair, "killed", async move {
            victim.kill().expect("it is killed");
            victim.wait().expect("it ends");
        })
        .await;
    });
}

/// Starts a process that is to be killed, and learns what it made.
async fn victim(lab: &Lab) -> (Child, Pair) {
    let mut victim = Command::new(std::env::current_exe().expect("known"))
        .args(["live::not_one_packet_of_who_lives_is_lost_over_a_kill_and_a_start", "--exact", "--nocapture"])
        .env(VICTIM, lab.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("it starts");
    let output = BufReader::new(victim.stdout.take().expect("piped"));
    let said = tokio::task::spawn_blocking(move || {
        let mut lines = output.lines().map_while(Result::ok);
        lines.find_map(|line| line.split_once("standing ").map(|(_, said)| said.to_owned()))
    });
    let said = said.await.expect("it ends").expect("the victim never stood");
    let words: Vec<_> = said.split(' ').collect();
    let [one, two, here, there] = words.as_slice() else { panic!("it said {said}") };
    let pair = Pair {
        netns: [one.parse().expect("a name"), two.parse().expect("a name")],
        address: [here.parse().expect("an address"), there.parse().expect("an address")],
    };
    (victim, pair)
}

fn stand_until_killed(dir: &Path) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let builder = Engine::builder().data_dir(dir.join("data")).run_dir(dir.join("run"));
        let engine = builder.start().await.expect("the engine starts");
        let Pair { netns, address } = furnish(&engine).await;
        println!("standing {} {} {} {}", netns[0], netns[1], address[0], address[1]);
        std::future::pending::<()>().await;
        drop(engine);
    });
    unreachable!("it is killed")
}

// === What somebody changes by hand ===

/// `ip`, inside a sandbox or on the host.
fn ip(sandbox: Option<&Sandbox>, command: &str) {
    let args = command.split(' ');
    let status = match sandbox {
        Some(sandbox) => {
            let key = format!("--net={}", sandbox.key().expect("a path").display());
            Command::new("nsenter").arg(key).arg("ip").args(args).status()
        }
        None => Command::new("ip").args(args).status(),
    };
    assert!(status.expect("ip and nsenter must be installed").success(), "{command}");
}

/// The objects that differ, in words, without their owners.
async fn differing(engine: &Engine) -> Vec<String> {
    let found = engine.diff().await.expect("compared");
    found.iter().map(|difference| difference.object.to_string()).collect()
}

#[test]
fn what_is_changed_by_hand_is_named_and_nothing_else() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let controller = engine.controller();
        let spec = NetworkSpec::new("dual")
            .subnet("10.77.0.0/24".parse().unwrap())
            .subnet("fd77::/64".parse().unwrap())
            .option("com.docker.network.driver.mtu", "1400");
        let dual = controller.create_network(spec).await.unwrap();
        let (_, sandbox) = joined(&engine, &dual, "web").await;
        let mut shared = Vec::new();
        for n in 0..3 {
            shared.push(controller.create_network(NetworkSpec::new(format!("n{n}"))).await.unwrap());
        }
        let churn = join_all((0..48).map(|n| lifecycle(&engine, &shared[n % 3], n)));
        let looks = async {
            for _ in 0..8 {
                assert_eq!(differing(&engine).await, Vec::<String>::new(), "in the middle of a churn");
            }
        };
        let (lives, ()) = futures::join!(churn, looks);
        lives.into_iter().for_each(|life| life.expect("a lifecycle"));
        assert_eq!(differing(&engine).await, Vec::<String>::new(), "after a churn");

        let netns = format!("namespace {}", sandbox.netns().unwrap());
        let address = format!("address 10.77.0.2/24 of link eth0 of {netns}");
        let address6 = format!("address fd77::2/64 of link eth0 of {netns}");
        let way = format!("route 0.0.0.0/0 via 10.77.0.1 dev eth0 of {netns}");
        let way6 = format!("route ::/0 via fd77::1 dev eth0 of {netns}");
        let eth0 = format!("link eth0 of {netns}");
        let bridge = format!("br-{}", dual.id().short());
        let inside = Some(&sandbox);
        let cases = [
            // With an address goes the route whose next hop is reached by it.
            (
                inside,
                "addr del 10.77.0.2/24 dev eth0".to_owned(),
                vec![&address, &way],
                vec!["addr add 10.77.0.2/24 dev eth0", "route add default via 10.77.0.1"],
            ),
            (inside, "route del default".into(), vec![&way], vec!["route add default via 10.77.0.1"]),
            // And with a link that is set down, what the kernel keeps for links that are up.
            (
                inside,
                "link set eth0 down".into(),
                vec![&eth0, &address6, &way, &way6],
                vec![
                    "link set eth0 up",
                    "addr add fd77::2/64 dev eth0 nodad",
                    "route add default via 10.77.0.1",
                    "-6 route add default via fd77::1",
                ],
            ),
            (inside, "link set eth0 mtu 1300".into(), vec![&eth0], vec!["link set eth0 mtu 1400"]),
        ];
        for (place, damage, mut expected, repairs) in cases {
            ip(place, &damage);
            let mut found = differing(&engine).await;
            found.sort();
            expected.sort();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "after ip {damage}");
            repairs.into_iter().for_each(|repair| ip(place, repair));
            assert_eq!(differing(&engine).await, Vec::<String>::new(), "after ip {damage} was taken back");
        }
        ip(None, &format!("link set {bridge} mtu 1300"));
        ip(None, &format!("addr add 10.99.0.1/24 dev {bridge}"));
        let on_host = [
            format!("link {bridge} of the host"),
            format!("address 10.99.0.1/24 of link {bridge} of the host"),
        ];
        assert_eq!(differing(&engine).await, on_host);
        ip(None, &format!("link set {bridge} mtu 1400"));
        ip(None, &format!("addr del 10.99.0.1/24 dev {bridge}"));
        assert_eq!(differing(&engine).await, Vec::<String>::new());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn a_reconciliation_removes_strays_and_the_dead_and_nothing_of_others() {
    in_lab(async |mut lab| {
        ip(None, "link add theirs type bridge");
        ip(None, "link set theirs alias netloom/somebody/network/ffff");
        lab.remember().await;
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let (_, lives) = joined(&engine, &network, "lives").await;
        let (_, dead) = joined(&engine, &network, "dead").await;
        ip(None, "link add br-dead type bridge");
        ip(None, &format!("link set br-dead alias netloom/{}/network/dead", engine.identity()));
        let stray = Op::CreateNetns { name: "0123456789ab".parse().unwrap(), ipv6: true };
        lab.kernel.execute(vec![stray], soon()).await.remove(0).unwrap();
        let mark = engine.mark();
        let churn = join_all((0..32).map(|n| lifecycle(&engine, &network, n)));
        let reconcile = engine.reconcile(LiveSet::since(mark).with("blue-lives"));
        let (lived, report) = futures::join!(churn, reconcile);
        lived.into_iter().for_each(|life| life.expect("whatever came later is not judged"));
        let report = report.unwrap();
        println!("{report}");
        assert_eq!(report.released.iter().map(|gone| gone.sandbox).collect::<Vec<_>>(), [dead.id()]);
        let strays =
            [Stray::Link("br-dead".parse().unwrap()), Stray::Namespace("0123456789ab".parse().unwrap())];
        assert_eq!((report.removed.as_slice(), report.left.len()), (&strays[..], 0), "{report}");
        assert_eq!(lives.inspect().await.unwrap().endpoints.len(), 1);
        assert_eq!(differing(&engine).await, Vec::<String>::new());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
