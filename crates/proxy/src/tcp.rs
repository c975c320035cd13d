//! A TCP port: accepts clients, connects each to the back end, and ends them all when it is stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::counters::{Counters, Open};
use crate::options::Options;
use crate::proxy::{Orders, Stopped};
use crate::relay::{End, broken, relay};

/// Questions for a sign of life without an answer that end a connection (Go's, and Linux's own).
const KEEPALIVE_PROBES: u32 = 9;

/// Where a port's connections go, and how.
#[derive(Debug)]
pub(crate) struct TcpPort {
    pub(crate) to: SocketAddr,
    pub(crate) options: Arc<Options>,
    pub(crate) counters: Arc<Counters>,
}

/// What every stream of a port has: no waiting for more to send, which is for the ends to decide, and questions to
/// peers that say nothing. A socket that listens hands it down to those that it accepts; a port of its own sets it on
/// each of them instead, because a thousand such ports are started before anybody comes.
pub(crate) fn set_up(socket: &SockRef<'_>, options: &Options) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let Some(every) = options.keepalive else { return Ok(()) };
    let keepalive = TcpKeepalive::new().with_time(every).with_interval(every).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Accepts until it is told to stop, then gives the connections as long as it was told.
pub(crate) async fn serve(listener: TcpListener, port: TcpPort, mut orders: Orders) {
    let mut door = Door::new(listener);
    let mut connections = JoinSet::new();
    let grace = loop {
        tokio::select! {
            biased;
            grace = &mut orders.stop => break grace.unwrap_or(Duration::ZERO),
            Some(_) = connections.join_next() => door.one_left(),
            client = door.next(&port.counters) => admit(client, &port, &mut connections),
        }
    };
    wind_down(door, connections, grace, orders).await;
}

/// Closes the socket, and gives the connections as long as that to come to an end by themselves.
pub(crate) async fn wind_down(door: Door, mut connections: JoinSet<()>, grace: Duration, mut orders: Orders) {
    drop(door);
    orders.listening_ended();
    let deadline = Instant::now().checked_add(grace);
    let mut stopped = Stopped::default();
    loop {
        let next = match deadline {
            Some(deadline) => timeout_at(deadline, connections.join_next()).await,
            None => Ok(connections.join_next().await),
        };
        match next {
            Ok(Some(_)) => stopped.ended += 1,
            Ok(None) | Err(_) => break,
        }
    }
    stopped.cut_off = connections.len();
    connections.shutdown().await;
    orders.ended(stopped);
}

/// Where clients come in.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    pause: Pause,
}

impl Door {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, pause: Pause::default() }
    }

    /// The next client. Nobody is lost when it is not waited for any more.
    pub(crate) async fn next(&mut self, counters: &Counters) -> End {
        loop {
            if let Some(instant) = self.pause.until {
                sleep_until(instant).await;
            }
            match self.listener.accept().await {
                Ok((client, _)) => {
                    self.pause.over();
                    return End::new(client);
                }
                Err(error) if is_the_clients(&error) => {}
                Err(_) => {
                    counters.accept_errors.add(1);
                    self.pause.longer();
                }
            }
        }
    }

    /// A connection that ended gave descriptors back, so there may be some for the next.
    pub(crate) fn one_left(&mut self) {
        self.pause.over();
    }
}

/// Whether accepting failed because of the client that was next (`accept(2)`), so that another one may come at once.
fn is_the_clients(error: &io::Error) -> bool {
    let expected = [
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EINTR,
        libc::ENETDOWN,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
        // A filter refused this one.
        libc::EPERM,
    ];
    error.raw_os_error().is_some_and(|errno| expected.contains(&errno))
}

/// Lets a client in, or resets it where the port is full.
fn admit(client: End, port: &TcpPort, connections: &mut JoinSet<()>) {
    if connections.len() >= port.options.max_connections {
        port.counters.refused.add(1);
        return;
    }
    // Only a connection that is gone already refuses that; reading finds out.
    let _ = set_up(&SockRef::from(&*client), &port.options);
    let open = port.counters.enter();
    connections.spawn(connection(client, port.to, Arc::clone(&port.options), open));
}

/// One client, which has been set up, from its first byte to its last.
pub(crate) async fn connection(client: End, to: SocketAddr, options: Arc<Options>, open: Open) {
    let counters = open.counters();
    let backend = tokio::select! {
        biased;
        backend = timeout(options.connect_timeout, TcpStream::connect(to)) => backend,
        () = broken(&client) => return,
    };
    let Ok(Ok(backend)) = backend else {
        counters.refused.add(1);
        return;
    };
    let backend = End::new(backend);
    // Only a connection that is gone already refuses that; reading finds out.
    let _ = set_up(&SockRef::from(&*backend), &options);
    // A reset of either end has been passed on: there is nobody else to tell.
    let _ = relay(client, backend, &counters.to_backend, &counters.to_clients, options.splice).await;
}

/// How long nothing is accepted after the machine had nothing to accept with.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    pub(crate) until: Option<Instant>,
    last: Duration,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_secs(1);

    /// It failed once more: twice as long as before, between 5 ms and a second (Go's `net/http`).
    pub(crate) fn longer(&mut self) {
        self.last = (self.last * 2).clamp(Self::FIRST, Self::LONGEST);
        self.until = Some(Instant::now() + self.last);
    }

    /// It works again, or may.
    pub(crate) fn over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Pause;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_a_second() {
        let mut pause = Pause::default();
        let mut lengths = Vec::new();
        for _ in 0..10 {
            pause.longer();
            let length = pause.until.expect("a pause") - Instant::now();
            lengths.push(length.as_millis());
        }
        assert_eq!(lengths, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        pause.over();
        assert_eq!(pause.until, None);
        pause.longer();
        assert_eq!(pause.until, Some(Instant::now() + Duration::from_millis(5)));
    }
}
