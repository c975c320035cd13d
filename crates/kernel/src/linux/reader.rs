//! The reader: what there is in the host's namespace, asked on a thread of its own so that it waits for no
//! change.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures::channel::oneshot;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netloom_model::IfName;

use super::call::Allowance;
use super::decode;
use super::encode;
use super::failure::Failure;
use super::transport::{Counters, Request, Transport};
use crate::view::{AddressView, LinkCounters, LinkView, NeighbourView, RouteView};
use crate::worker::Worker;

/// What to do with a socket, or with the reason that there is none.
type Use = dyn FnOnce(Result<&mut Transport, Failure>) + Send;

/// A question to be asked on some socket.
pub(super) struct Inquiry {
    answer: Box<Use>,
    allowance: Allowance,
}

impl fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquiry").field("allowance", &self.allowance).finish_non_exhaustive()
    }
}

/// What a question comes to.
pub(super) type Listing<T> = Result<Vec<T>, Failure>;

impl Inquiry {
    pub(super) fn new<T: Send + 'static>(
        ask: impl FnOnce(&mut Transport, Instant) -> Listing<T> + Send + 'static,
        allowance: Allowance,
        reply: oneshot::Sender<Listing<T>>,
    ) -> Self {
        let answer = move |socket: Result<&mut Transport, Failure>| {
            // The caller may have stopped waiting.
            let _ = reply.send(socket.and_then(|socket| ask(socket, allowance.deadline)));
        };
        Self { answer: Box::new(answer), allowance }
    }

    /// Asks on the socket, unless its time is over.
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

/// The links of these names.
pub(super) fn find_links(
    socket: &mut Transport,
    names: &[IfName],
    deadline: Instant,
) -> Listing<Option<LinkView>> {
    each(
        socket,
        names,
        encode::get_link,
        |name, body| decode::link(body).filter(|link| link.name == name),
        deadline,
    )
}

/// The links of these numbers.
pub(super) fn links_at(
    socket: &mut Transport,
    indexes: &[u32],
    deadline: Instant,
) -> Listing<Option<LinkView>> {
    let read = |index, body: &[u8]| decode::link(body).filter(|link| link.index == index);
    each(socket, indexes, encode::get_link_at, read, deadline)
}

/// What has passed the links of these names.
pub(super) fn counters(
    socket: &mut Transport,
    names: &[IfName],
    deadline: Instant,
) -> Listing<Option<LinkCounters>> {
    let read = |name, body: &[u8]| decode::counters(body).filter(|_| decode::link_name(body) == Some(name));
    each(socket, names, encode::get_link_with_statistics, read, deadline)
}

/// Asks for each link by its name or its number. The kernel finds one by its alternative names too.
fn each<K: Copy, T>(
    socket: &mut Transport,
    names: &[K],
    ask: impl Fn(K) -> Request,
    read: impl Fn(K, &[u8]) -> Option<T>,
    deadline: Instant,
) -> Listing<Option<T>> {
    let requests: Vec<_> = names.iter().map(|name| ask(*name)).collect();
    let answers = socket.exchange(&requests, deadline);
    let found = names.iter().zip(answers).map(|(name, answer)| match answer {
        Ok(body) => Ok(body.as_deref().and_then(|body| read(*name, body))),
        Err(Failure::Refused { errno: libc::ENODEV, .. }) => Ok(None),
        Err(failure) => Err(failure),
    });
    found.collect()
}

/// Every address.
pub(super) fn addresses(socket: &mut Transport, deadline: Instant) -> Listing<AddressView> {
    let request = Request::new(Message::GetAddress(AddressMessage::default()));
    socket.dump(&request, libc::RTM_NEWADDR, deadline, decode::address)
}

/// Every unicast route of the main table, or of all.
pub(super) fn routes(socket: &mut Transport, deadline: Instant, everywhere: bool) -> Listing<RouteView> {
    // The kernel tells those of all tables.
    let read = |body: &[u8]| decode::route(body).filter(|view| everywhere || view.table == RouteView::MAIN);
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let request = Request::new(Message::GetRoute(message));
        all.extend(socket.dump(&request, libc::RTM_NEWROUTE, deadline, read)?);
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
