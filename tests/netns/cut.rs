//! A leave cuts traffic off before it answers, in the middle of a stream, however long its link still exists.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use netloom::{JoinSpec, NetworkSpec};
use socket2::{Domain, Socket, Type};

use crate::churn::lifecycle;
use crate::lab::{address, delete_everything, in_lab, joined};

/// Long enough for what is under way to arrive, if it can.
const SILENCE: Duration = Duration::from_millis(300);
/// How long a socket blocks before it looks whether the test is over.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// What is written at a time.
const PIECE: [u8; 4096] = [7; 4096];
/// How many others come and go meanwhile.
const CROWD: usize = 48;
/// What has to have arrived before the stream counts as running.
pub(crate) const RUNNING: u64 = 1 << 20;

/// One direction of a stream: counted before it is sent, and when it has arrived.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) sent: AtomicU64,
    pub(crate) arrived: AtomicU64,
}

/// Sends and receives without end on both ends of a connection.
pub(crate) struct Stream {
    flows: [Arc<Flow>; 2],
    over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Stream {
    pub(crate) fn start(ends: [TcpStream; 2]) -> Self {
        let flows: [Arc<Flow>; 2] = Default::default();
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (at, end) in ends.into_iter().enumerate() {
            end.set_read_timeout(Some(LOOK)).expect("set");
            end.set_write_timeout(Some(LOOK)).expect("set");
            let (mut writer, mut reader) = (end.try_clone().expect("cloned"), end);
            let (out, into) = (flows[at].clone(), flows[1 - at].clone());
            let (done, ended) = (over.clone(), over.clone());
            threads.push(std::thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    out.sent.fetch_add(PIECE.len() as u64, Ordering::SeqCst);
                    // What found no room was not sent.
                    let taken = writer.write(&PIECE).unwrap_or(0);
                    out.sent.fetch_sub((PIECE.len() - taken) as u64, Ordering::SeqCst);
                }
            }));
            threads.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while !ended.load(Ordering::SeqCst) {
                    if let Ok(length) = reader.read(&mut buffer) {
                        into.arrived.fetch_add(length as u64, Ordering::SeqCst);
                    }
                }
            }));
        }
        Self { flows, over, threads }
    }

    pub(crate) fn counts(&self, pick: impl Fn(&Flow) -> &AtomicU64) -> [u64; 2] {
        [0, 1].map(|at: usize| pick(&self.flows[at]).load(Ordering::SeqCst))
    }

    pub(crate) fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("it ends");
        }
    }
}

#[test]
fn a_leave_cuts_a_running_stream_off_in_both_directions() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let (_one, first) = joined(&engine, &network, "one").await;
        let (two, second) = joined(&engine, &network, "two").await;
        let to: IpAddr = address(&two).await;
        let listener = second.run(move || TcpListener::bind(SocketAddr::new(to, 0))).await.unwrap().unwrap();
        let target = listener.local_addr().unwrap();
        let socket = first.run(|| Socket::new(Domain::IPV4, Type::STREAM, None)).await.unwrap().unwrap();
        let connected = tokio::task::spawn_blocking(move || {
            socket.connect_timeout(&target.into(), Duration::from_secs(10)).expect("connected");
            [TcpStream::from(socket), listener.accept().expect("accepted").0]
        });
        let stream = Stream::start(connected.await.unwrap());
        while stream.counts(|flow| &flow.arrived).iter().any(|arrived| *arrived < RUNNING) {
            tokio::task::yield_now().await;
        }

        two.leave(&second).await.unwrap();
        let sent = stream.counts(|flow| &flow.sent);
        tokio::time::sleep(SILENCE).await;
        let arrived = stream.counts(|flow| &flow.arrived);
        assert!(arrived[0] <= sent[0] && arrived[1] <= sent[1], "sent {sent:?} before, arrived {arrived:?}");

        // The stream goes on where it was as soon as its address is back.
        two.join(&second, JoinSpec::default()).await.expect("it may come back");
        while stream.counts(|flow| &flow.arrived).iter().zip(sent).any(|(arrived, sent)| *arrived <= sent) {
            tokio::task::yield_now().await;
        }
        stream.end();
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// Numbered datagrams, as fast as they go: the number that is sent next, and the highest that has arrived.
struct Flood {
    numbers: Arc<Flow>,
    over: Arc<AtomicBool>,
    threads: [std::thread::JoinHandle<()>; 2],
}

impl Flood {
    fn start(from: UdpSocket, to: UdpSocket) -> Self {
        let (numbers, over) = (Arc::new(Flow::default()), Arc::new(AtomicBool::new(false)));
        let (out, into) = (numbers.clone(), numbers.clone());
        let (done, ended) = (over.clone(), over.clone());
        to.set_read_timeout(Some(LOOK)).expect("set");
        let sender = std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let number = out.sent.fetch_add(1, Ordering::SeqCst) + 1;
                // Nobody may be there.
                let _ = from.send(&number.to_ne_bytes());
            }
        });
        let receiver = std::thread::spawn(move || {
            let mut number = [0; 8];
            while !ended.load(Ordering::SeqCst) {
                if to.recv(&mut number).is_ok() {
                    into.arrived.fetch_max(u64::from_ne_bytes(number), Ordering::SeqCst);
                }
            }
        });
        Self { numbers, over, threads: [sender, receiver] }
    }

    fn arrived(&self) -> u64 {
        self.numbers.arrived.load(Ordering::SeqCst)
    }

    fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("it ends");
        }
    }
}

/// Others come and go, so that the kernel takes its time with the link. Every datagram is known by its number, so
/// a single one that passes after the answer is seen.
#[test]
fn not_one_datagram_passes_after_a_leave_has_answered() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let (one, first) = joined(&engine, &network, "one").await;
        let (two, second) = joined(&engine, &network, "two").await;
        let (here, there) = (address(&one).await, address(&two).await);
        let open = |at: IpAddr| move || UdpSocket::bind(SocketAddr::new(at, 0));
        let mut floods = Vec::new();
        for [(from, sender), (to, receiver)] in
            [[(here, &first), (there, &second)], [(there, &second), (here, &first)]]
        {
            let receiver = receiver.run(open(to)).await.unwrap().unwrap();
            let sender = sender.run(open(from)).await.unwrap().unwrap();
            let target = receiver.local_addr().unwrap();
            // Connecting a datagram socket only notes its target.
            sender.connect(target).expect("noted");
            floods.push(Flood::start(sender, receiver));
        }
        while floods.iter().any(|flood| flood.arrived() == 0) {
            tokio::task::yield_now().await;
        }
        let others = join_all((0..CROWD).map(|n| lifecycle(&engine, &network, n)));
        let leave = async {
            two.leave(&second).await.unwrap();
            // One more may be on its way: its number is taken before it is sent.
            let sent = floods.iter().map(|flood| flood.numbers.sent.load(Ordering::SeqCst));
            let sent: Vec<_> = sent.collect();
            tokio::time::sleep(SILENCE).await;
            let arrived: Vec<_> = floods.iter().map(Flood::arrived).collect();
            assert!(
                arrived[0] <= sent[0] && arrived[1] <= sent[1],
                "{sent:?} were sent, {arrived:?} arrived"
            );
        };
        let (others, ()) = futures::join!(others, leave);
        others.into_iter().for_each(|outcome| outcome.expect("a lifecycle"));
        floods.into_iter().for_each(Flood::end);
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
