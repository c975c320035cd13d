//! The task of a switchboard: accepts every client, finds out where it meant to go, and leads it there.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use socket2::{SockAddr, SockRef};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::counters::{Counters, Open};
use crate::fronts::Fronts;
use crate::options::Options;
use crate::proxy::{Orders, canonical};
use crate::relay::End;
use crate::tcp::{Door, connection, wind_down};

/// What the connections of one key share.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) counters: Arc<Counters>,
    /// True when the connections have to end. Each has a receiver until both of its sockets are closed, so that the
    /// receivers are counted where connections are.
    over: watch::Sender<bool>,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self { counters: Arc::default(), over: watch::Sender::new(false) }
    }

    /// Has all connections reset; that takes them a turn of the runtime. Returns how many there are.
    pub(crate) fn cut_off(&self) -> usize {
        let open = self.over.receiver_count();
        self.over.send_replace(true);
        open
    }

    /// Waits until there is no connection.
    pub(crate) async fn empty(&self) {
        self.over.closed().await;
    }
}

/// What the owner of a switchboard and its task share.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Where it listens.
    own: SocketAddr,
    options: Arc<Options>,
    /// Of clients that nobody was there for.
    pub(crate) astray: Arc<Counters>,
    /// Who changes it has to know that no client is let in any more by what it was, which a snapshot or a message to
    /// the task cannot say before the task answers. So it is one table under a lock, held by the task for a look into
    /// two trees and an increment, and by the owner for the change of one entry. It costs no turn of the runtime, and
    /// no copy of all entries for one that changes.
    fronts: Mutex<Fronts<Arc<Line>>>,
}

/// A client that is let in.
struct Admitted {
    over: watch::Receiver<bool>,
    to: SocketAddr,
    open: Open,
}

impl Exchange {
    pub(crate) fn new(own: SocketAddr, options: Options) -> Self {
        let astray = Arc::default();
        Self { own, options: Arc::new(options), astray, fronts: Mutex::new(Fronts::new()) }
    }

    /// The table. It is whole after every change, whoever panicked.
    pub(crate) fn fronts(&self) -> MutexGuard<'_, Fronts<Arc<Line>>> {
        self.fronts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a client in that meant to go there, unless nobody leads from there or the place is full.
    fn admit(&self, wanted: io::Result<SocketAddr>) -> Option<Admitted> {
        let fronts = self.fronts();
        // Who meant the switchboard's own port was not redirected, and has no business here.
        let wanted = wanted.ok().filter(|wanted| wanted.port() != self.own.port());
        let Some((to, line)) = wanted.and_then(|wanted| fronts.find(wanted)) else {
            self.astray.refused.add(1);
            return None;
        };
        if line.over.receiver_count() >= self.options.max_connections {
            line.counters.refused.add(1);
            return None;
        }
        Some(Admitted { over: line.over.subscribe(), to, open: line.counters.enter() })
    }
}

/// Accepts until it is told to stop, then gives the connections as long as it was told.
///
/// A defect that has it panic costs the one client: the socket, the connections and who leads where are kept, and it goes
/// on after a pause.
pub(crate) async fn serve(mut door: Door, exchange: Arc<Exchange>, mut orders: Orders) {
    let mut connections = JoinSet::new();
    let grace = loop {
        let passed = unless_it_panics(pass_on(&mut door, &exchange, &mut orders, &mut connections)).await;
        match passed {
            Some(grace) => break grace,
            None => tokio::time::sleep(REST).await,
        }
    };
    wind_down(door, connections, grace, orders).await;
}

/// Lets clients in until it is told to stop: how long the connections have from then on. What it works on is whole
/// whenever it waits or panics.
async fn pass_on(
    door: &mut Door,
    exchange: &Exchange,
    orders: &mut Orders,
    connections: &mut JoinSet<()>,
) -> Duration {
    loop {
        tokio::select! {
            biased;
            grace = &mut orders.stop => return grace.unwrap_or(Duration::ZERO),
            Some(_) = connections.join_next() => door.one_left(),
            client = door.next(&exchange.astray) => {
                // Who is not let in is reset by being dropped.
                if let Some(Admitted { over, to, open }) = exchange.admit(wanted(&client)) {
                    connections.spawn(led(over, client, to, Arc::clone(&exchange.options), open));
                }
            }
        }
    }
}

/// How long nothing is done after a panic, so that one that comes again and again does not take a processor.
const REST: Duration = Duration::from_millis(100);

/// What comes of something; nothing when it panics.
async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// One client, until its line is over. What tells that is dropped last, after the sockets.
async fn led(
    mut over: watch::Receiver<bool>,
    client: End,
    to: SocketAddr,
    options: Arc<Options>,
    open: Open,
) {
    tokio::select! {
        biased;
        // An error means that nobody is left who could end it, and that is an end.
        _ = over.wait_for(|over| *over) => {}
        () = connection(client, to, options, open) => {}
    }
}

/// Where a client meant to go before a firewall redirected it, as its connection tracking remembers
/// (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`; its zone 0 alone). An error where nothing is tracked.
fn wanted(client: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(client);
    // An IPv4 client of a socket of IPv6 is tracked as what it is.
    let wanted = match client.local_addr()?.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let wanted: Option<SocketAddr> = wanted.as_ref().ok().and_then(SockAddr::as_socket);
    wanted.map(canonical).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use super::unless_it_panics;

    #[tokio::test]
    async fn a_panic_takes_nothing_with_it_but_what_was_in_hand() {
        let mut left = vec![1, 2, 3];
        let mut attempts = 0;
        let last = loop {
            attempts += 1;
            let work = async {
                while let Some(one) = left.pop() {
                    tokio::task::yield_now().await;
                    assert!(one == 1, "{one} is not taken in");
                }
                "over"
            };
            if let Some(last) = unless_it_panics(work).await {
                break last;
            }
        };
        assert_eq!((last, attempts, left.len()), ("over", 3, 0));
    }
}
