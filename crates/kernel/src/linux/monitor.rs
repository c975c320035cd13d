//! The monitors: they tell watchers about changes of the host's links, of its addresses and routes, and of its tables. Each
//! has a socket and a thread of its own: a flood of routes costs nobody news of a link.

use std::fmt::Debug;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use futures::channel::mpsc;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::decode;
use super::nft;
use super::transport::open_socket;
use super::wire::Packets;
use crate::view::{KernelEvent, ReachEvent, TableEvent};

/// Events kept for a watcher that does not keep up.
const BACKLOG: usize = 1_024;
/// Notifications are smaller than this.
const RECEIVE: usize = 64 << 10;

/// What a monitor tells of.
pub(super) trait News: Clone + Debug + Send + 'static {
    /// The name of its thread.
    const THREAD: &'static str;
    /// The protocol of its socket.
    const PROTOCOL: isize = NETLINK_ROUTE;
    /// The groups of notifications that it hears.
    const GROUPS: &'static [u32];
    /// Something was lost.
    const OVERRUN: Self;

    /// What a notification says.
    fn read(kind: u16, body: &[u8]) -> Option<Self>;
}

impl News for KernelEvent {
    const THREAD: &'static str = "nl-monitor";
    const GROUPS: &'static [u32] = &[libc::RTNLGRP_LINK];
    const OVERRUN: Self = Self::Overrun;

    fn read(kind: u16, body: &[u8]) -> Option<Self> {
        let link = decode::link(body)?;
        match kind {
            libc::RTM_NEWLINK => Some(Self::LinkChanged(link)),
            libc::RTM_DELLINK => Some(Self::LinkGone { index: link.index, name: link.name }),
            _ => None,
        }
    }
}

impl News for ReachEvent {
    const THREAD: &'static str = "nl-reach";
    const GROUPS: &'static [u32] = &[
        libc::RTNLGRP_IPV4_IFADDR,
        libc::RTNLGRP_IPV6_IFADDR,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV6_ROUTE,
    ];
    const OVERRUN: Self = Self::Overrun;

    fn read(kind: u16, body: &[u8]) -> Option<Self> {
        let event = match kind {
            libc::RTM_NEWADDR => Self::AddressCame(decode::address(body)?),
            libc::RTM_DELADDR => Self::AddressWent(decode::address(body)?),
            libc::RTM_NEWROUTE => Self::RouteCame(decode::route(body)?),
            libc::RTM_DELROUTE => Self::RouteWent(decode::route(body)?),
            _ => return None,
        };
        event.counts().then_some(event)
    }
}

impl News for TableEvent {
    const THREAD: &'static str = "nl-tables";
    const PROTOCOL: isize = NETLINK_NETFILTER;
    const GROUPS: &'static [u32] = &[libc::NFNLGRP_NFTABLES as u32];
    const OVERRUN: Self = Self::Overrun;

    fn read(kind: u16, body: &[u8]) -> Option<Self> {
        nft::concerns(kind, body).map(Self::Changed)
    }
}

/// The thread that listens; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Monitor<E> {
    watchers: Arc<Watchers<E>>,
    stop: Arc<EventFd>,
}

/// Those who are told; `None` once nobody listens to the kernel any more, so that nobody waits for news.
type Watchers<E> = Mutex<Option<Vec<Watcher<E>>>>;

impl<E: News> Monitor<E> {
    /// Starts listening in the caller's namespace.
    pub(super) fn start() -> io::Result<Self> {
        Self::start_without(Arc::default())
    }

    /// The same, but for news of what the socket of this number does; 0 is none.
    pub(super) fn start_without(own: Arc<AtomicU32>) -> io::Result<Self> {
        let mut socket = open_socket(E::PROTOCOL)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in E::GROUPS {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let watchers = Arc::new(Mutex::new(Some(Vec::new())));
        let listener = Listener { socket, own, stop: Arc::clone(&stop), watchers: Arc::clone(&watchers) };
        thread::Builder::new().name(E::THREAD.into()).spawn(move || listener.listen())?;
        Ok(Self { watchers, stop })
    }

    /// A receiver of every change from now on. It ends when the listening ends, at once when it has.
    pub(super) fn watch(&self) -> mpsc::Receiver<E> {
        let (events, receiver) = mpsc::channel(BACKLOG);
        let overruns = events.clone();
        // Dropped where nobody listens any more, which closes the channel.
        if let Some(watchers) = &mut *lock(&self.watchers) {
            watchers.push(Watcher { events, overruns, behind: false });
        }
        receiver
    }
}

impl<E> Drop for Monitor<E> {
    fn drop(&mut self) {
        // The counter cannot overflow: this is its only write.
        let _ = self.stop.write(1);
    }
}

/// Nothing is left half-done under this lock, so a panic does not spoil what it guards.
fn lock<E>(watchers: &Watchers<E>) -> MutexGuard<'_, Option<Vec<Watcher<E>>>> {
    watchers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Watcher<E> {
    events: mpsc::Sender<E>,
    /// Every sender owns a place beyond the bound; this one's is kept for the overrun.
    overruns: mpsc::Sender<E>,
    /// An overrun is still to be told.
    behind: bool,
}

impl<E: News> Watcher<E> {
    /// Tells an event, or that some were lost; `false` when nobody listens any more.
    fn tell(&mut self, event: &E) -> bool {
        if !self.behind {
            match self.events.try_send(event.clone()) {
                Ok(()) => return true,
                Err(error) if error.is_disconnected() => return false,
                Err(_) => self.behind = true,
            }
        }
        match self.overruns.try_send(E::OVERRUN) {
            Ok(()) => self.behind = false,
            Err(error) if error.is_disconnected() => return false,
            // The earlier one has not been read yet.
            Err(_) => {}
        }
        true
    }
}

struct Listener<E> {
    socket: Socket,
    own: Arc<AtomicU32>,
    stop: Arc<EventFd>,
    watchers: Arc<Watchers<E>>,
}

impl<E> Drop for Listener<E> {
    /// However the thread ends: closes every watcher's channel, and those of watchers to come.
    fn drop(&mut self) {
        lock(&self.watchers).take();
    }
}

impl<E: News> Listener<E> {
    fn listen(&self) {
        let mut received = Vec::with_capacity(RECEIVE);
        while self.wait() {
            if let Err(error) = self.take_in(&mut received) {
                tracing::error!(%error, monitor = E::THREAD, "a monitor cannot receive and stops");
                return;
            }
        }
    }

    /// Waits for something to read; `false` when it is time to end.
    fn wait(&self) -> bool {
        loop {
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => return !fds[1].any().unwrap_or(true),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, monitor = E::THREAD, "a monitor cannot wait and stops");
                    return false;
                }
            }
        }
    }

    /// Reads what there is; fails when the socket is of no more use.
    fn take_in(&self, received: &mut Vec<u8>) -> io::Result<()> {
        let mut overrun = false;
        loop {
            received.clear();
            match self.socket.recv(received, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok(length) if length == received.len() => {
                    let own = self.own.load(Ordering::Relaxed);
                    let packets = Packets(received).flatten().filter(|packet| own == 0 || packet.port != own);
                    packets
                        .filter_map(|packet| E::read(packet.kind, packet.body))
                        .for_each(|event| self.tell(&event));
                }
                Ok(_) => overrun = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overrun = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Told last: until the socket is empty the kernel goes on dropping in silence.
                    if overrun {
                        self.tell(&E::OVERRUN);
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn tell(&self, event: &E) {
        if let Some(watchers) = &mut *lock(&self.watchers) {
            watchers.retain_mut(|watcher| watcher.tell(event));
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn gone(index: u32) -> KernelEvent {
        KernelEvent::LinkGone { index, name: "x".parse().expect("a name") }
    }

    #[test]
    fn a_slow_watcher_is_told_that_it_lost_events_and_then_hears_again() {
        let (events, mut receiver) = mpsc::channel(2);
        let mut watcher = Watcher { overruns: events.clone(), events, behind: false };
        for index in 0..10 {
            assert!(watcher.tell(&gone(index)));
        }
        let mut next = || receiver.try_recv().ok();
        // Two places, one that the sender owns, and one for the overrun.
        assert_eq!([next(), next(), next()], [Some(gone(0)), Some(gone(1)), Some(gone(2))]);
        assert_eq!([next(), next()], [Some(KernelEvent::Overrun), None]);
        // More was lost while the first overrun waited.
        assert!(watcher.tell(&gone(10)));
        assert_eq!(receiver.try_recv().ok(), Some(KernelEvent::Overrun));
        assert!(watcher.tell(&gone(11)));
        assert_eq!(receiver.try_recv().ok(), Some(gone(11)));
        drop(receiver);
        assert!(!watcher.tell(&gone(12)));
    }
}
