//! A UDP client's socket to the back end, and the replies that come back on it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};

use crate::counters::Open;
use crate::datagram::{Caller, Front};
use crate::pipe::with_buffer;

/// Datagrams in one go, after which others of the thread have a turn.
pub(crate) const TURN: usize = 64;

/// Heard of at no time: it has ended.
const ENDED: u64 = u64::MAX;

/// One client's way to the back end. The port sends on it, its own task receives.
#[derive(Debug)]
pub(crate) struct Association {
    socket: UdpSocket,
    /// What the times below count from.
    epoch: Instant,
    /// When something passed last, in nanoseconds. The last value is [`ENDED`]; so it never ends between the
    /// moment in which the port finds it and the one in which it sends.
    heard: AtomicU64,
}

impl Association {
    /// Opens a socket that talks to the back end alone. Inside of a runtime.
    pub(crate) fn open(to: SocketAddr, epoch: Instant) -> io::Result<Self> {
        let socket = match to {
            SocketAddr::V4(_) => StdSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => StdSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
        }?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, epoch, heard: AtomicU64::new(since(epoch)) })
    }

    /// When something passed last; `None` when it has ended.
    pub(crate) fn heard(&self) -> Option<u64> {
        Some(self.heard.load(Ordering::Acquire)).filter(|heard| *heard != ENDED)
    }

    /// Something passes now. False when it has ended.
    pub(crate) fn hear(&self) -> bool {
        let now = since(self.epoch);
        let hear = |heard| (heard != ENDED).then_some(now);
        self.heard.fetch_update(Ordering::AcqRel, Ordering::Acquire, hear).is_ok()
    }

    /// Sends to the back end. An error that an earlier datagram brought back says nothing about this one.
    pub(crate) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        // Not through the runtime, which does not know yet that a new socket has room, and which nobody asks for some.
        let socket = SockRef::from(&self.socket);
        match socket.send(datagram) {
            Err(error) if is_passing(&error) => socket.send(datagram),
            sent => sent,
        }
        .map(|_| ())
    }

    /// Ends it if nothing has passed for so long; else says when to look again.
    fn expire(&self, after: Duration) -> Option<Instant> {
        let heard = self.heard.load(Ordering::Acquire);
        let until = self.epoch + Duration::from_nanos(heard) + after;
        if Instant::now() < until {
            return Some(until);
        }
        match self.heard.compare_exchange(heard, ENDED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => None,
            // The port has just sent something.
            Err(_) => Some(Instant::now() + after),
        }
    }
}

/// Nanoseconds since then, enough for five centuries.
fn since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(ENDED).min(ENDED - 1)
}

/// Whether an error tells of an earlier datagram (an ICMP message), or of this one alone: the next may pass.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EPROTO,
        libc::EACCES,
        libc::EPERM,
        libc::EMSGSIZE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EINTR,
    ];
    error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}

/// Brings replies to the client until nothing has passed for `after`.
pub(crate) async fn replies(
    association: Arc<Association>,
    front: Arc<Front>,
    caller: Caller,
    after: Duration,
    open: Open,
) {
    let mut silence = pin!(sleep_until(Instant::now() + after));
    loop {
        tokio::select! {
            biased;
            readable = association.socket.readable() => {
                if readable.is_err() || !turn(&association, &front, caller, after, &open).await {
                    // The socket is of no use any more: the next datagram of the client opens another one.
                    association.heard.store(ENDED, Ordering::Release);
                    return;
                }
            }
            () = &mut silence => match association.expire(after) {
                Some(until) => silence.as_mut().reset(until),
                None => return,
            },
        }
    }
}

/// Passes on what is there, up to a turn's worth. False when the socket is broken.
async fn turn(
    association: &Association,
    front: &Front,
    caller: Caller,
    patience: Duration,
    open: &Open,
) -> bool {
    let counters = open.counters();
    for _ in 0..TURN {
        // What the front cannot take now is kept until it can: one datagram, in memory of its own.
        let passed = with_buffer(|buffer| -> io::Result<(usize, io::Result<()>, Vec<u8>)> {
            let length = association.socket.try_recv(buffer)?;
            let sent = front.reply(&buffer[..length], caller);
            let waits = matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            Ok((length, sent, if waits { buffer[..length].to_vec() } else { Vec::new() }))
        });
        let (length, mut sent, kept) = match passed {
            Ok(passed) => passed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if is_passing(&error) => continue,
            Err(_) => return false,
        };
        association.hear();
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            sent = when_possible(front, &kept, caller, patience).await;
        }
        match sent {
            Ok(()) => counters.to_clients.add(length),
            Err(_) => counters.dropped.add(1),
        }
    }
    tokio::task::yield_now().await;
    true
}

/// Sends once the front has room, for as long as that is worth waiting for.
async fn when_possible(front: &Front, datagram: &[u8], to: Caller, patience: Duration) -> io::Result<()> {
    let sent = timeout(patience, async {
        loop {
            front.writable().await?;
            match front.reply(datagram, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
        }
    });
    sent.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
