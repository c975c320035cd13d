//! The reader: listings of the host's namespace, on a thread of their own so that they wait for no change.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures::channel::oneshot;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::call::Allowance;
use super::decode;
use super::encode;
use super::failure::Failure;
use super::transport::{Counters, Request, Transport};
use crate::view::{AddressView, LinkView, NeighbourView, RouteView};
use crate::worker::Worker;

/// What to do with a socket, or with the reason that there is none.
type Use = dyn FnOnce(Result<&mut Transport, Failure>) + Send;

/// A listing to be made on some socket.
pub(super) struct Inquiry {
    answer: Box<Use>,
    allowance: Allowance,
}

impl fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquiry").field("allowance", &self.allowance).finish_non_exhaustive()
    }
}

/// What a listing comes to.
pub(super) type Listing<T> = Result<Vec<T>, Failure>;

/// How a table is listed.
pub(super) type List<T> = fn(&mut Transport, Instant) -> Listing<T>;

impl Inquiry {
    pub(super) fn new<T: Send + 'static>(
        list: List<T>,
        allowance: Allowance,
        reply: oneshot::Sender<Listing<T>>,
    ) -> Self {
        let answer = move |socket: Result<&mut Transport, Failure>| {
            // The caller may have stopped waiting.
            let _ = reply.send(socket.and_then(|socket| list(socket, allowance.deadline)));
        };
        Self { answer: Box::new(answer), allowance }
    }

    /// Makes the listing on the socket, unless its time is over.
    pub(super) fn answer<'a>(self, socket: impl FnOnce() -> Result<&'a mut Transport, Failure>) {
        (self.answer)(if self.allowance.is_over() { Err(Failure::NotStarted) } else { socket() });
    }
}

/// Starts the reader in the caller's namespace.
pub(super) fn spawn(bound: usize, counters: &Arc<Counters>) -> io::Result<Worker<Inquiry>> {
    let mut transport = Transport::open(counters)?;
    Worker::spawn("nl-reader", bound, move |inquiries: Vec<Inquiry>| {
        for inquiry in inquiries {
            inquiry.answer(|| Ok(&mut transport));
        }
    })
}

/// Every link.
pub(super) fn links(socket: &mut Transport, deadline: Instant) -> Listing<LinkView> {
    socket.dump(&encode::list_links(), libc::RTM_NEWLINK, deadline, decode::link)
}

/// Every address.
pub(super) fn addresses(socket: &mut Transport, deadline: Instant) -> Listing<AddressView> {
    let request = Request::new(Message::GetAddress(AddressMessage::default()));
    socket.dump(&request, libc::RTM_NEWADDR, deadline, decode::address)
}

/// Every unicast route of the main table.
pub(super) fn routes(socket: &mut Transport, deadline: Instant) -> Listing<RouteView> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let request = Request::new(Message::GetRoute(message));
        all.extend(socket.dump(&request, libc::RTM_NEWROUTE, deadline, decode::route)?);
    }
    Ok(all)
}

/// Every neighbour, then every forwarding entry.
pub(super) fn neighbours(socket: &mut Transport, deadline: Instant) -> Listing<NeighbourView> {
    let mut all = Vec::new();
    for family in [AddressFamily::Unspec, AddressFamily::Bridge] {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        let request = Request::new(Message::GetNeighbour(message));
        all.extend(socket.dump(&request, libc::RTM_NEWNEIGH, deadline, decode::neighbour)?);
    }
    Ok(all)
}
