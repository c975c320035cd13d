//! The netlink transport: requests out in as few sends as possible, answers matched by sequence number.
//!
//! It is our own because an answer must never be guessed: a lost answer is an error, every wait has a
//! deadline, and answers are matched, not counted (kernels differ in how many they send).

mod several;
mod whole;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_OVERRUN, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::failure::Failure;
use super::wire::{Packet, Packets};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// Asked of the kernel for both directions of a socket, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;
/// The most bytes in one send. The kernel refuses more than the send buffer, whose default is 208 KiB and
/// which cannot be raised in a user namespace.
const MAX_SEND: usize = 64 << 10;
/// The most requests in one send: their answers wait in the receive buffer together, each charged with up
/// to 4 KiB, and an answer that finds no room is lost.
const MAX_REQUESTS: usize = 64;
/// The kernel never fills a datagram beyond 32 KiB.
const RECEIVE: usize = 64 << 10;
/// How often a dump is started again because the table changed under it.
const MAX_DUMPS: usize = 64;

/// How many errors a socket may give while it is emptied.
const MAX_ERRORS: usize = 4;

/// Counts what goes to the kernel.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) messages: AtomicU64,
    pub(super) sends: AtomicU64,
    pub(super) links_deleted: AtomicU64,
    pub(super) deletions: AtomicU64,
}

/// A request: a message and its flags beyond `NLM_F_REQUEST` and `NLM_F_ACK`.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) message: RouteNetlinkMessage,
    pub(super) flags: u16,
    /// It travels in the send of the request before it. The kernel takes all messages of a send before the
    /// sender can end, so not even a killed process does the one without trying the other.
    pub(super) joined: bool,
}

impl Request {
    pub(super) fn new(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: 0, joined: false }
    }

    /// A request in the send of the one before it.
    pub(super) fn joined(message: RouteNetlinkMessage) -> Self {
        Self { joined: true, ..Self::new(message) }
    }
}

/// What an accepted request brought: the body of the last message before the acknowledgement, if any.
pub(super) type Answer = Result<Option<Vec<u8>>, Failure>;

/// A blocking netlink socket. It belongs to the namespace that its thread was in when it was opened.
#[derive(Debug)]
pub(super) struct Transport {
    socket: Socket,
    sequence: u32,
    counters: Arc<Counters>,
}

impl Transport {
    /// Opens a socket for links, addresses, routes and neighbours in this thread's network namespace.
    pub(super) fn open(counters: &Arc<Counters>) -> io::Result<Self> {
        Self::open_for(NETLINK_ROUTE, counters)
    }

    /// Opens a socket of a protocol in this thread's network namespace.
    pub(super) fn open_for(protocol: isize, counters: &Arc<Counters>) -> io::Result<Self> {
        let mut socket = open_socket(protocol)?;
        socket.bind_auto()?;
        // Connected to the kernel, it takes messages from nobody else.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, counters: Arc::clone(counters) })
    }

    /// The socket's number, which the kernel puts on what it tells others of our requests.
    pub(super) fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Sends requests in order and answers each, in order. A refused request does not stop the rest, not even
    /// those that are joined to it.
    pub(super) fn exchange(&mut self, requests: &[Request], deadline: Instant) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut out = Vec::new();
        while answers.len() < requests.len() {
            out.clear();
            let first = self.sequence.wrapping_add(1);
            let count = self.fill(&mut out, &requests[answers.len()..]);
            answers.extend(self.round(&out, first, count, deadline));
        }
        answers
    }

    /// Encodes as many requests as one send takes, those that are joined together; returns how many.
    fn fill(&mut self, out: &mut Vec<u8>, requests: &[Request]) -> usize {
        let mut count = 0;
        for group in requests.chunk_by(|_, next| next.joined) {
            let (start, sequence) = (out.len(), self.sequence);
            for request in group {
                self.sequence = self.sequence.wrapping_add(1);
                encode(out, request, NLM_F_ACK, self.sequence);
            }
            if count > 0 && (out.len() > MAX_SEND || count + group.len() > MAX_REQUESTS) {
                out.truncate(start);
                self.sequence = sequence;
                break;
            }
            count += group.len();
        }
        count
    }

    /// One request, one answer.
    pub(super) fn ask(&mut self, request: &Request, deadline: Instant) -> Answer {
        let answers = self.exchange(std::slice::from_ref(request), deadline);
        answers.into_iter().next().unwrap_or_else(|| Err(Failure::Lost("no answer".into())))
    }

    fn round(&self, out: &[u8], first: u32, count: usize, deadline: Instant) -> Vec<Answer> {
        if let Err(failure) = self.send(out, count) {
            return vec![Err(failure); count];
        }
        let mut pending = Pending::new(first, count);
        let mut received = Vec::with_capacity(RECEIVE);
        while !pending.complete() {
            let read = receive(&self.socket, &mut received, deadline);
            if let Err(failure) = read.and_then(|()| pending.take_in(&received)) {
                self.empty(&mut received);
                return pending.finish(&failure);
            }
        }
        pending.finish(&Failure::TimedOut)
    }

    /// Lists a table: `read` turns the body of each message of type `kind` into an item, or skips it.
    ///
    /// The listing is consistent: it starts again when the table changes under it.
    pub(super) fn dump<T>(
        &mut self,
        request: &Request,
        kind: u16,
        deadline: Instant,
        read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        self.list(|out, sequence| encode(out, request, NLM_F_DUMP, sequence), kind, deadline, read)
    }

    /// The same for a request that `write` encodes with the number that it is given.
    pub(super) fn list<T>(
        &mut self,
        write: impl Fn(&mut Vec<u8>, u32),
        kind: u16,
        deadline: Instant,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let mut received = Vec::with_capacity(RECEIVE);
        for _ in 0..MAX_DUMPS {
            let listed = self.list_once(&write, kind, deadline, &mut read, &mut received);
            if listed.is_err() {
                self.empty(&mut received);
            }
            match listed {
                Ok(Some(items)) => return Ok(items),
                // Changed under way, or an earlier listing that ran out of time was still going on.
                Ok(None) | Err(Failure::Refused { errno: libc::EBUSY, .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::refused(libc::EINTR, Some("the table kept changing while it was listed".into())))
    }

    /// One attempt at a listing; `None` when the table changed under it.
    fn list_once<T>(
        &mut self,
        write: &impl Fn(&mut Vec<u8>, u32),
        kind: u16,
        deadline: Instant,
        read: &mut impl FnMut(&[u8]) -> Option<T>,
        received: &mut Vec<u8>,
    ) -> Result<Option<Vec<T>>, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut out = Vec::new();
        write(&mut out, self.sequence);
        self.send(&out, 1)?;
        let mut items = Vec::new();
        let mut interrupted = false;
        loop {
            receive(&self.socket, received, deadline)?;
            for packet in Packets(received) {
                let packet = packet.map_err(|_| Failure::Lost("malformed answer".into()))?;
                if packet.sequence != self.sequence {
                    continue;
                }
                interrupted |= packet.interrupted();
                match packet.verdict() {
                    Some(Ok(verdict)) if verdict.errno != 0 => {
                        return Err(Failure::refused(verdict.errno, verdict.text));
                    }
                    Some(Ok(_)) => return Ok((!interrupted).then_some(items)),
                    Some(Err(_)) => return Err(Failure::Lost("malformed answer".into())),
                    None if packet.kind == kind => items.extend(read(packet.body)),
                    None => {}
                }
            }
        }
    }

    /// Throws away what waits in the socket. Once an answer has found no room, the kernel drops every further
    /// one until the socket is empty, so the next request would wait in vain.
    fn empty(&self, received: &mut Vec<u8>) {
        let mut errors = 0;
        while errors < MAX_ERRORS {
            match receive(&self.socket, received, Instant::now()) {
                Ok(()) => {}
                Err(Failure::TimedOut) => return,
                Err(_) => errors += 1,
            }
        }
    }

    fn send(&self, out: &[u8], count: usize) -> Result<(), Failure> {
        let counters = &self.counters;
        counters.sends.fetch_add(1, Ordering::Relaxed);
        counters.messages.fetch_add(count as u64, Ordering::Relaxed);
        loop {
            match self.socket.send(out, 0) {
                Ok(sent) if sent == out.len() => return Ok(()),
                Ok(_) => return Err(Failure::Lost("short send".into())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing of it reached the kernel's handlers.
                Err(error) => return Err(Failure::io(&error, "cannot send")),
            }
        }
    }
}

/// Opens a close-on-exec socket with large buffers and full error texts.
pub(super) fn open_socket(protocol: isize) -> io::Result<Socket> {
    let socket = Socket::new(protocol)?;
    // Older kernels lack these; then errors have no text, or carry the whole request.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    // The forced ones need CAP_NET_ADMIN in the first user namespace.
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
    }
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
    }
    Ok(socket)
}

/// Reads one datagram, at the latest until the deadline.
fn receive(socket: &Socket, into: &mut Vec<u8>, deadline: Instant) -> Result<(), Failure> {
    loop {
        into.clear();
        // Answers are usually there already: the kernel works while the request is being sent.
        match socket.recv(into, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
            Ok(0) => return Err(Failure::Lost("the socket was closed".into())),
            Ok(length) if length > into.len() => return Err(Failure::Lost("an answer was cut short".into())),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(socket, deadline)?,
            // ENOBUFS among them: answers were thrown away, and nobody knows which.
            Err(error) => return Err(Failure::Lost(format!("cannot receive: {error}"))),
        }
    }
}

fn wait(socket: &Socket, deadline: Instant) -> Result<(), Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failure::TimedOut);
    }
    // Rounded up: zero would spin through the last millisecond.
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Failure::Lost(format!("cannot wait on socket {}: {errno}", socket.as_raw_fd()))),
    }
}

fn encode(out: &mut Vec<u8>, request: &Request, flags: u16, sequence: u32) {
    let start = out.len();
    let body = NetlinkSerializable::buffer_len(&request.message);
    let length = HEADER + body;
    out.resize(start + length.next_multiple_of(4), 0);
    let (header, rest) = out[start..].split_at_mut(HEADER);
    // Far below 4 GiB: a message holds one object.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let flags = NLM_F_REQUEST | request.flags | flags;
    header[0..4].copy_from_slice(&length.to_ne_bytes());
    header[4..6].copy_from_slice(&request.message.message_type().to_ne_bytes());
    header[6..8].copy_from_slice(&flags.to_ne_bytes());
    header[8..12].copy_from_slice(&sequence.to_ne_bytes());
    request.message.serialize(&mut rest[..body]);
}

/// The requests of one send and their answers so far.
struct Pending {
    first: u32,
    left: usize,
    answers: Vec<Option<Answer>>,
    bodies: Vec<Option<Vec<u8>>>,
}

impl Pending {
    fn new(first: u32, count: usize) -> Self {
        Self { first, left: count, answers: vec![None; count], bodies: vec![None; count] }
    }

    fn complete(&self) -> bool {
        self.left == 0
    }

    /// Takes in a datagram; an error concerns every request that has no answer yet.
    fn take_in(&mut self, datagram: &[u8]) -> Result<(), Failure> {
        for packet in Packets(datagram) {
            let packet = packet.map_err(|_| Failure::Lost("malformed answer".into()))?;
            if packet.kind == NLMSG_OVERRUN {
                return Err(Failure::Lost("answers were lost".into()));
            }
            self.take_packet(&packet)?;
        }
        Ok(())
    }

    fn take_packet(&mut self, packet: &Packet<'_>) -> Result<(), Failure> {
        // A late answer to an earlier request that timed out is nobody's.
        let index = packet.sequence.wrapping_sub(self.first) as usize;
        let Some(answer @ None) = self.answers.get_mut(index) else { return Ok(()) };
        match packet.verdict() {
            None => self.bodies[index] = Some(packet.body.to_vec()),
            Some(Err(_)) => return Err(Failure::Lost("malformed answer".into())),
            Some(Ok(verdict)) => {
                *answer = Some(match verdict.errno {
                    0 => Ok(self.bodies[index].take()),
                    errno => Err(Failure::refused(errno, verdict.text)),
                });
                self.left -= 1;
            }
        }
        Ok(())
    }

    fn finish(self, missing: &Failure) -> Vec<Answer> {
        self.answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(missing.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLM_F_CAPPED, NLMSG_ERROR};
    use netlink_packet_route::link::LinkAttribute;
    use proptest::prelude::*;

    use super::*;
    use crate::linux::encode;

    fn packet(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).expect("short");
        let mut bytes = [length.to_ne_bytes(), [0; 4], sequence.to_ne_bytes(), [0; 4]].concat();
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&NLM_F_CAPPED.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn verdict(sequence: u32, errno: i32) -> Vec<u8> {
        packet(NLMSG_ERROR, sequence, &[(-errno).to_ne_bytes().as_slice(), &[0; 16]].concat())
    }

    #[test]
    fn answers_are_matched_by_number_in_any_order_and_over_the_wrap() {
        let mut pending = Pending::new(u32::MAX, 3);
        let stale = verdict(u32::MAX - 1, libc::EPERM);
        let body = packet(libc::RTM_NEWLINK, 1, &[1, 2, 3, 4]);
        let datagram = [stale, verdict(0, libc::EEXIST), body, verdict(1, 0), verdict(1, libc::EIO)].concat();
        pending.take_in(&datagram).expect("well formed");
        assert!(!pending.complete());
        pending.take_in(&verdict(u32::MAX, 0)).expect("well formed");
        assert!(pending.complete());
        let answers = pending.finish(&Failure::TimedOut);
        let exists = Failure::refused(libc::EEXIST, None);
        assert_eq!(answers, [Ok(None), Err(exists), Ok(Some(vec![1, 2, 3, 4]))]);
    }

    /// Only encodes, so it needs no namespace of its own.
    #[test]
    fn joined_requests_are_never_parted() {
        let message = |name: String| encode::get_link(name.parse().expect("a name")).message;
        let group = |i: usize, length: usize| {
            let mut group: Vec<_> =
                (0..length).map(|n| Request::joined(message(format!("v{i}n{n}")))).collect();
            group[0].joined = false;
            group
        };
        let mut transport = Transport::open(&Arc::default()).expect("opens");
        let mut fill = |requests: &[Request]| {
            let (mut out, before) = (Vec::new(), transport.sequence);
            let count = transport.fill(&mut out, requests);
            assert_eq!(Packets(&out).count(), count);
            assert_eq!(transport.sequence, before.wrapping_add(u32::try_from(count).expect("few")));
            count
        };
        let requests: Vec<_> = (0..40).flat_map(|i| group(i, 3)).collect();
        assert_eq!(fill(&requests), MAX_REQUESTS / 3 * 3);
        assert_eq!(fill(&requests[..6]), 6);
        // A single group travels together whatever its size.
        assert_eq!(fill(&group(0, MAX_REQUESTS + 1)), MAX_REQUESTS + 1);
        let mut long = group(0, 2);
        long.insert(0, encode::get_link("v".parse().expect("a name")));
        let alias = "x".repeat(MAX_SEND / 2);
        for request in &mut long {
            let RouteNetlinkMessage::GetLink(link) = &mut request.message else { panic!("a link") };
            link.attributes.push(LinkAttribute::IfAlias(alias.clone()));
        }
        assert_eq!((fill(&long), fill(&long[1..])), (1, 2));
    }

    #[test]
    fn what_has_no_answer_when_the_stream_breaks_is_lost() {
        let mut pending = Pending::new(1, 2);
        pending.take_in(&verdict(1, 0)).expect("well formed");
        let broken = pending.take_in(&verdict(2, 0)[..20]).expect_err("cut short");
        let answers = pending.finish(&broken);
        assert_eq!(answers, [Ok(None), Err(Failure::Lost("malformed answer".into()))]);
        let overrun = Pending::new(1, 1).take_in(&packet(NLMSG_OVERRUN, 0, &[]));
        assert!(matches!(overrun, Err(Failure::Lost(_))));
    }

    /// Only reads, so it needs no namespace of its own.
    #[test]
    fn answers_that_find_no_room_are_lost_and_the_next_ones_are_not() {
        let mut transport = Transport::open(&Arc::default()).expect("opens");
        setsockopt(&transport.socket, sockopt::RcvBuf, &1).expect("the smallest there is");
        let loopback = || encode::get_link("lo".parse().expect("a name"));
        let deadline = Instant::now() + Duration::from_secs(30);
        let requests: Vec<_> = (0..MAX_REQUESTS).map(|_| loopback()).collect();
        let answers = transport.exchange(&requests, deadline);
        assert_eq!(answers.len(), MAX_REQUESTS);
        let lost = |answer: &&Answer| matches!(answer, Err(Failure::Lost(_)));
        assert!(answers.iter().all(|answer| answer.is_ok() || lost(&answer)), "{answers:?}");
        assert!(answers.iter().filter(lost).count() > 0, "they all fitted: {answers:?}");
        setsockopt(&transport.socket, sockopt::RcvBuf, &SOCKET_BUFFER).expect("larger again");
        let answer = transport.ask(&loopback(), deadline).expect("answered").expect("a link");
        assert!(crate::linux::decode::link(&answer).is_some_and(|link| link.name.as_str() == "lo"));
    }

    proptest! {
        #[test]
        fn garbage_never_answers_a_request_it_does_not_name(
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let mut pending = Pending::new(1 << 30, 4);
            let _ = pending.take_in(&bytes);
            prop_assert_eq!(pending.finish(&Failure::TimedOut).len(), 4);
        }
    }
}
