//! Ports held by sockets of this process.
//!
//! # What is fastest
//! A thousand TCP ports on both families: 4.7 ms with a socket for each family, 2.3 ms with one for both, and 1.6 ms with
//! two threads that find a processor each. Most of it is the making of the sockets themselves (1.6 µs each, 4 µs on a
//! slower day, where giving one its port takes 1.4 µs), so they are made ahead ([`Stock`]). A classic BPF
//! program that drops all that comes costs 5 µs a UDP socket, the smallest buffer nothing. The first thousand files of a
//! process with several threads cost it three waits for RCU, because the kernel moves the table of descriptors each time
//! it doubles; so the table is made large enough at the start.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use netloom_model::{PortUser, Protocol};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrLike, bind, getsockopt, listen, recv, setsockopt, sockopt,
};
use nix::unistd::close;

use super::ours::Ours;
use super::{Held, HoldRefusal, Place, PortHolder, PortSocket, PortToHold, user};
use crate::worker::Worker;

/// How many calls may wait for the thread.
const QUEUE: usize = 16_384;

/// The descriptors that a process gets without the kernel moving its table.
const DESCRIPTORS: u64 = 4_096;

/// From how many ports on a second thread takes half of them: the threads of a pair cost 50 µs.
const MANY: usize = 256;

/// How many sockets are made ahead at most; and, counted from what this process may open, which part of it.
const STOCK: usize = 1_024;
const STOCK_SHARE: u64 = 16;

/// How long a call goes on trying ports that this holder had a moment ago, and how long it rests first between two tries;
/// twice as long each time.
const LINGER: Duration = Duration::from_millis(60);
const PAUSE: Duration = Duration::from_micros(200);

/// How long the search for a port's user may take at most.
const SEARCH: Duration = Duration::from_secs(2);

/// How many searches may wait. One more finds nobody.
const SEARCHES: usize = 16;

/// Holds ports with sockets, on a thread of its own (`nl-ports`). Another one (`nl-ports-user`) looks for who has a port:
/// that can take its time.
#[derive(Clone, Debug)]
pub struct LinuxPorts {
    worker: Worker<Job>,
    searcher: Worker<Search>,
}

struct Search {
    port: PortToHold,
    deadline: Instant,
    reply: oneshot::Sender<Option<PortUser>>,
}

enum Job {
    Hold {
        ports: Vec<PortToHold>,
        deadline: Instant,
        allowed: Duration,
        reply: oneshot::Sender<Vec<Result<PortSocket, HoldRefusal>>>,
    },
    HoldOneOf {
        ports: Vec<u16>,
        deadline: Instant,
        allowed: Duration,
        reply: oneshot::Sender<Result<(u16, PortSocket), HoldRefusal>>,
    },
    /// Makes sockets for the next call.
    Stock,
    LetGo {
        sockets: Vec<PortSocket>,
        reply: oneshot::Sender<()>,
    },
}

impl LinuxPorts {
    /// Starts the threads. Ports are those of the network namespace of the calling thread.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let (mut roomy, mut ours, mut stock) = (false, Ours::default(), Stock::default());
        let worker = Worker::spawn("nl-ports", QUEUE, move |jobs: Vec<Job>| {
            let mut jobs = jobs.into_iter().peekable();
            while let Some(job) = jobs.next() {
                if !std::mem::replace(&mut roomy, true) {
                    make_room();
                }
                // Whoever waits comes first, and a later call fills up what this one leaves.
                if matches!(job, Job::Stock) && jobs.peek().is_some() {
                    continue;
                }
                serve(job, &mut ours, &mut stock);
            }
        })?;
        // The thread makes room before anybody asks for ports.
        let (reply, _) = oneshot::channel();
        let _ = worker.submit(Job::LetGo { sockets: Vec::new(), reply });
        let searcher = Worker::spawn("nl-ports-user", SEARCHES, |searches: Vec<Search>| {
            for Search { port, deadline, reply } in searches {
                if !reply.is_canceled() {
                    let _ = reply.send(user::find(port, deadline.min(Instant::now() + SEARCH)));
                }
            }
        })?;
        Ok(Self { worker, searcher })
    }
}

impl PortHolder for LinuxPorts {
    fn hold(
        &self,
        ports: Vec<PortToHold>,
        deadline: Instant,
    ) -> BoxFuture<'static, Vec<Result<PortSocket, HoldRefusal>>> {
        let allowed = deadline.saturating_duration_since(Instant::now());
        let (reply, answer) = oneshot::channel();
        let count = ports.len();
        let queued = self.worker.submit(Job::Hold { ports, deadline, allowed, reply }).is_ok();
        // Without a place in the queue there is no stock for the next call, which only makes it slower.
        drop(self.worker.submit(Job::Stock));
        let refusal = if queued { HoldRefusal::Lost } else { HoldRefusal::QueueFull(QUEUE) };
        async move {
            let all = |oneshot::Canceled| (0..count).map(|_| Err(refusal.clone())).collect();
            answer.await.unwrap_or_else(all)
        }
        .boxed()
    }

    fn hold_one_of(
        &self,
        ports: Vec<u16>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(u16, PortSocket), HoldRefusal>> {
        let allowed = deadline.saturating_duration_since(Instant::now());
        let (reply, answer) = oneshot::channel();
        let queued = self.worker.submit(Job::HoldOneOf { ports, deadline, allowed, reply }).is_ok();
        let refusal = if queued { HoldRefusal::Lost } else { HoldRefusal::QueueFull(QUEUE) };
        async move { answer.await.unwrap_or(Err(refusal)) }.boxed()
    }

    fn let_go(&self, sockets: Vec<PortSocket>) -> BoxFuture<'static, ()> {
        let (reply, answer) = oneshot::channel();
        // Without a place in the queue they are closed here: nothing is kept that nobody wants.
        drop(self.worker.submit(Job::LetGo { sockets, reply }));
        async move {
            let _ = answer.await;
        }
        .boxed()
    }

    fn user(&self, port: PortToHold, deadline: Instant) -> BoxFuture<'static, Option<PortUser>> {
        let (reply, answer) = oneshot::channel();
        drop(self.searcher.submit(Search { port, deadline, reply }));
        async move { answer.await.ok().flatten() }.boxed()
    }
}

fn serve(job: Job, ours: &mut Ours, stock: &mut Stock) {
    match job {
        Job::Stock => stock.fill(),
        Job::Hold { ports, deadline, allowed, reply } => {
            let mut answers = hold_all(&ports, stock, deadline, allowed);
            if answers.iter().any(|answer| matches!(answer, Err(HoldRefusal::NoDescriptors))) {
                stock.spare.clear();
                for (port, answer) in ports.iter().zip(&mut answers) {
                    if matches!(answer, Err(HoldRefusal::NoDescriptors)) {
                        *answer = hold(*port, &mut Vec::new()).map_err(HoldRefusal::of);
                    }
                }
            }
            hold_what_lingers(&ports, &mut answers, ours, deadline);
            for (port, answer) in ports.iter().zip(&answers) {
                if answer.is_ok() {
                    ours.held(*port);
                }
            }
            // Nobody may wait any more: the sockets are closed then.
            let _ = reply.send(answers);
        }
        Job::HoldOneOf { ports, deadline, allowed, reply } => {
            let _ = reply.send(hold_one_of(ports, deadline, allowed));
        }
        Job::LetGo { sockets, reply } => {
            let ports: Vec<_> = sockets.iter().filter_map(PortSocket::port).collect();
            drop(sockets);
            ours.let_go(ports.into_iter(), Instant::now());
            let _ = reply.send(());
        }
    }
}

/// Tries again what somebody has that was this holder's a moment ago: it may be a child of this process, which has copies
/// of its descriptors until it executes its program.
fn hold_what_lingers(
    ports: &[PortToHold],
    answers: &mut [Result<PortSocket, HoldRefusal>],
    ours: &Ours,
    deadline: Instant,
) {
    let began = Instant::now();
    let in_use = |answer: &Result<PortSocket, HoldRefusal>| matches!(answer, Err(HoldRefusal::InUse));
    let mut lingering: Vec<_> = ports.iter().zip(answers).collect();
    lingering.retain(|(port, answer)| in_use(answer) && ours.may_linger(**port, began));
    let until = deadline.min(began + LINGER);
    let mut pause = PAUSE;
    while !lingering.is_empty() && Instant::now() + pause < until {
        thread::sleep(pause);
        pause *= 2;
        lingering.retain_mut(|(port, answer)| {
            **answer = hold(**port, &mut Vec::new()).map_err(HoldRefusal::of);
            in_use(answer)
        });
    }
}

/// Holds many ports with two threads, if this machine runs as many.
fn hold_all(
    ports: &[PortToHold],
    stock: &mut Stock,
    deadline: Instant,
    allowed: Duration,
) -> Vec<Result<PortSocket, HoldRefusal>> {
    let mut spare = stock.take(ports);
    let some = move |ports: &[PortToHold], spare| hold_each(ports, spare, deadline, allowed);
    if ports.len() < MANY || thread::available_parallelism().is_ok_and(|threads| threads.get() == 1) {
        return some(ports, spare);
    }
    let (first, second) = ports.split_at(ports.len() / 2);
    let half = spare.split_off(spare.len() / 2);
    thread::scope(|scope| {
        let helper = thread::Builder::new().name("nl-ports-half".into());
        let helper = helper.spawn_scoped(scope, move || some(second, half));
        let mut answers = some(first, spare);
        match helper {
            Ok(helper) => {
                let lost = |_| second.iter().map(|_| Err(HoldRefusal::Lost)).collect();
                answers.extend(helper.join().unwrap_or_else(lost));
            }
            Err(_) => answers.extend(some(second, Vec::new())),
        }
        answers
    })
}

fn hold_each(
    ports: &[PortToHold],
    mut spare: Vec<OwnedFd>,
    deadline: Instant,
    allowed: Duration,
) -> Vec<Result<PortSocket, HoldRefusal>> {
    let mut over = false;
    let each = ports.iter().enumerate().map(|(n, port)| {
        over = over || (n % 256 == 0 && Instant::now() >= deadline);
        if over {
            return Err(HoldRefusal::NotStarted(allowed));
        }
        hold(*port, &mut spare).map_err(HoldRefusal::of)
    });
    each.collect()
}

fn hold_one_of(
    ports: Vec<u16>,
    deadline: Instant,
    allowed: Duration,
) -> Result<(u16, PortSocket), HoldRefusal> {
    let (mut place, mut refusal) = (Place::Both, HoldRefusal::InUse);
    for port in ports {
        if Instant::now() >= deadline {
            return Err(HoldRefusal::NotStarted(allowed));
        }
        let mut held = hold(PortToHold { place, protocol: Protocol::Tcp, port }, &mut Vec::new());
        if held.as_ref().is_err_and(|errno| *errno == Errno::EAFNOSUPPORT) {
            place = Place::One(IpAddr::from([0; 4]));
            held = hold(PortToHold { place, protocol: Protocol::Tcp, port }, &mut Vec::new());
        }
        match held.map_err(HoldRefusal::of) {
            // The next one may be free, or need no right.
            Err(why @ (HoldRefusal::InUse | HoldRefusal::Privileged)) => refusal = why,
            other => return other.map(|socket| (port, socket)),
        }
    }
    Err(refusal)
}

/// Has the kernel make the table of descriptors large enough for many ports.
fn make_room() {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let last = i32::try_from(DESCRIPTORS.min(limit) - 1).unwrap_or(0);
    let Ok(some) = socket(AddressFamily::Inet, SockType::Datagram, SockProtocol::Udp) else { return };
    if let Ok(high) = fcntl(&some, FcntlArg::F_DUPFD_CLOEXEC(last)) {
        // Ours since this very call; there is nothing in it that closing could lose.
        let _ = close(high);
    }
}

fn socket(family: AddressFamily, kind: SockType, protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    nix::sys::socket::socket(family, kind, flags, protocol)
}

/// Sockets of `spare` are used where they fit.
fn hold(whole: PortToHold, spare: &mut Vec<OwnedFd>) -> Result<PortSocket, Errno> {
    let PortToHold { place, protocol, port } = whole;
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
        Protocol::Icmp => return Err(Errno::EPROTONOSUPPORT),
    };
    let stream = protocol != Protocol::Udp;
    let v6 = |socket: &OwnedFd, only: bool| setsockopt(socket, sockopt::Ipv6V6Only, &only);
    let (socket, room) = match place {
        Place::One(IpAddr::V4(address)) => {
            let socket = socket(AddressFamily::Inet, kind, number)?;
            let room = tighten(&socket, stream)?;
            bind_to(&socket, &SockaddrIn::from(SocketAddrV4::new(address, port)), stream)?;
            (socket, room)
        }
        Place::One(IpAddr::V6(address)) => {
            let socket = socket(AddressFamily::Inet6, kind, number)?;
            v6(&socket, true)?;
            let room = tighten(&socket, stream)?;
            bind_to(&socket, &SockaddrIn6::from(SocketAddrV6::new(address, port, 0, 0)), stream)?;
            (socket, room)
        }
        Place::Both => {
            let ready = if protocol == Protocol::Tcp { spare.pop() } else { None };
            let socket = match ready {
                Some(socket) => socket,
                None => socket_of_both(kind, number)?,
            };
            let room = tighten(&socket, stream)?;
            let all = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
            bind_to(&socket, &SockaddrIn6::from(all), stream)?;
            (socket, room)
        }
    };
    Ok(PortSocket(Held::Socket { socket, port: whole, room, stream }))
}

fn socket_of_both(kind: SockType, number: SockProtocol) -> Result<OwnedFd, Errno> {
    let socket = socket(AddressFamily::Inet6, kind, number)?;
    setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    Ok(socket)
}

/// TCP sockets for both families that have no port yet. Making one takes four times as long as giving it a port, so they
/// are made when nobody waits: as many as the largest call so far had ports, within bounds.
#[derive(Debug, Default)]
struct Stock {
    spare: Vec<OwnedFd>,
    wanted: usize,
}

impl Stock {
    /// Those that a call can use.
    fn take(&mut self, ports: &[PortToHold]) -> Vec<OwnedFd> {
        let fits = |port: &&PortToHold| port.place == Place::Both && port.protocol == Protocol::Tcp;
        let count = ports.iter().filter(fits).count();
        self.wanted = self.wanted.max(count.min(STOCK));
        self.spare.split_off(self.spare.len().saturating_sub(count))
    }

    /// Makes what is missing. Descriptors that others may need are left.
    fn fill(&mut self) {
        let may = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(limit, _)| limit / STOCK_SHARE);
        let wanted = self.wanted.min(usize::try_from(may).unwrap_or(STOCK));
        while self.spare.len() < wanted {
            // Whoever was answered a moment ago is often woken on this processor, and would wait for this thread's whole
            // slice there: 4 ms, in most of the joins with many ports.
            if self.spare.len().is_multiple_of(8) {
                thread::yield_now();
            }
            match socket_of_both(SockType::Stream, SockProtocol::Tcp) {
                Ok(socket) => self.spare.push(socket),
                Err(_) => {
                    // Whatever there is too little of, it is not for a stock.
                    self.spare.clear();
                    return;
                }
            }
        }
    }
}

/// Leaves no room for datagrams, before the socket has a port; how much there was.
fn tighten(socket: &OwnedFd, stream: bool) -> Result<Option<usize>, Errno> {
    if stream {
        return Ok(None);
    }
    let room = getsockopt(socket, sockopt::RcvBuf)?;
    setsockopt(socket, sockopt::RcvBuf, &0)?;
    Ok(Some(room))
}

/// Binds a socket, also where nothing but ended connections has the port still.
///
/// Those are passed over with `SO_REUSEADDR` only, and a socket that keeps it would share its port with every server
/// that has it too, as nearly all do. So it is used when the port is not free without it, and taken back then.
fn bind_to(socket: &OwnedFd, to: &dyn SockaddrLike, stream: bool) -> Result<(), Errno> {
    let bound = bind(socket.as_raw_fd(), to);
    if !stream || bound != Err(Errno::EADDRINUSE) {
        return bound;
    }
    setsockopt(socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), to)?;
    setsockopt(socket, sockopt::ReuseAddr, &false)
}

/// Makes a socket that held a port ready to serve it.
pub(super) fn wake(socket: &OwnedFd, room: Option<usize>, stream: bool) -> io::Result<()> {
    if stream {
        // `listen` looks once more for who has the port, and passes ended connections over only with this.
        setsockopt(socket, sockopt::ReuseAddr, &true)?;
        listen(socket, Backlog::MAXALLOWABLE)?;
        return Ok(());
    }
    let mut nothing = [0; 1];
    // As long as there is no room there are a few at most.
    for _ in 0..64 {
        match recv(socket.as_raw_fd(), &mut nothing, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => {}
            Err(Errno::EAGAIN) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    // The kernel doubles what it is given.
    if let Some(room) = room {
        setsockopt(socket, sockopt::RcvBuf, &(room / 2))?;
    }
    Ok(())
}
