//! A published port as its owner sees it: started, counted, stopped.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netloom_model::Protocol;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::bound::Bound;
use crate::counters::{Counters, Counts};
use crate::datagram::Front;
use crate::error::ProxyError;
use crate::options::Options;
use crate::tcp::{self, TcpPort};
use crate::udp::{self, UdpPort};

/// Whether the proxy carries a protocol.
///
/// # Errors
/// [`ProxyError::NotOffered`], which says what carries it instead.
pub fn offers(protocol: Protocol) -> Result<(), ProxyError> {
    match protocol {
        Protocol::Tcp | Protocol::Udp => Ok(()),
        Protocol::Icmp | Protocol::Sctp => Err(ProxyError::NotOffered { protocol }),
    }
}

/// A published port that leads to a back end, until it is stopped or dropped.
///
/// Dropping it is stopping it without patience: the runtime closes the socket and resets the connections in its
/// next turn, and nobody learns when.
#[derive(Debug)]
#[must_use = "a port is open for as long as its proxy is kept"]
pub struct Proxy {
    protocol: Protocol,
    listen: SocketAddr,
    to: SocketAddr,
    stop: Stop,
}

impl Proxy {
    /// Leads a bound socket to a back end, with tasks on the given runtime. It may be called from any thread.
    /// Sockets to the back end are opened by the runtime's threads, in their network namespace.
    ///
    /// # Errors
    /// [`ProxyError::Socket`], [`ProxyError::Target`], [`ProxyError::Option`] for what makes no sense;
    /// [`ProxyError::Kernel`] when the socket cannot be set up.
    ///
    /// # Panics
    /// The runtime was made without IO or without time.
    pub fn start(
        listen: impl Into<Bound>,
        to: SocketAddr,
        options: Options,
        runtime: &Handle,
    ) -> Result<Self, ProxyError> {
        let bound = listen.into();
        bound.check()?;
        options.check()?;
        let (protocol, listen) = (bound.protocol(), bound.address()?);
        // An IPv4 address in IPv6's clothes is reached as what it is.
        let to = canonical(to);
        check_target(protocol, listen, to)?;
        bound.prepare()?;

        let counters = Arc::new(Counters::default());
        let (stop, orders) = Stop::new(Arc::clone(&counters));
        let refused = |error| ProxyError::kernel(format!("serve {listen}/{protocol}"), &error);
        let _inside = runtime.enter();
        match bound {
            Bound::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
                let port = TcpPort { to, options: Arc::new(options), counters: Arc::clone(&counters) };
                drop(runtime.spawn(tcp::serve(listener, port, orders)));
            }
            Bound::Udp(socket) => {
                let front = Front::new(socket).map_err(refused)?;
                let port = UdpPort { to, options, counters: Arc::clone(&counters) };
                drop(runtime.spawn(udp::serve(front, port, orders)));
            }
        }
        Ok(Self { protocol, listen, to, stop })
    }

    /// The port's protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where clients connect.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where that leads.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// What has passed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.stop.counts()
    }

    /// Stops listening at once. TCP connections have `grace` to come to an end by themselves and are reset then; UDP
    /// associations end at once, because their replies leave from the socket that is closed.
    ///
    /// What is returned tells when; dropping it changes nothing.
    pub fn stop(self, grace: Duration) -> Stopping {
        self.stop.after(grace)
    }
}

/// The owner's side of a task that serves; dropping it stops the task at once.
#[derive(Debug)]
pub(crate) struct Stop {
    order: oneshot::Sender<Duration>,
    stopping: Stopping,
}

impl Stop {
    /// It, and what the task gets.
    pub(crate) fn new(counters: Arc<Counters>) -> (Self, Orders) {
        let (order, stop) = oneshot::channel();
        let (tell_listening, listening_ended) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        let orders = Orders { stop, listening_ended: Some(tell_listening), ended: tell_ended };
        (Self { order, stopping: Stopping { counters, listening_ended, ended } }, orders)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.stopping.counts()
    }

    pub(crate) fn after(self, grace: Duration) -> Stopping {
        // Nobody listens when the runtime is gone, and the port with it.
        let _ = self.order.send(grace);
        self.stopping
    }
}

/// A port on its way out.
#[derive(Debug)]
pub struct Stopping {
    counters: Arc<Counters>,
    listening_ended: oneshot::Receiver<()>,
    ended: oneshot::Receiver<Stopped>,
}

impl Stopping {
    /// Waits until the socket is closed, from when on the port is free for others; that takes a turn of the
    /// runtime.
    pub async fn listening_ended(&mut self) {
        if !self.listening_ended.is_terminated() {
            // An error means that the runtime ended the task, and closed the socket with it.
            let _ = (&mut self.listening_ended).await;
        }
    }

    /// Waits until the last connection is gone, at most for the time that was given to them and a turn of the
    /// runtime. All zero when the runtime itself ended before.
    pub async fn ended(self) -> Stopped {
        self.ended.await.unwrap_or_default()
    }

    /// What has passed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }
}

/// How the connections of a stopped port ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stopped {
    /// Came to an end in the time that they had.
    pub ended: usize,
    /// Were reset after it, or were UDP associations.
    pub cut_off: usize,
}

/// The side of a task that serves.
#[derive(Debug)]
pub(crate) struct Orders {
    /// Yields when the port has to stop; an error means at once.
    pub(crate) stop: oneshot::Receiver<Duration>,
    listening_ended: Option<oneshot::Sender<()>>,
    ended: oneshot::Sender<Stopped>,
}

impl Orders {
    /// Says that the socket is closed.
    pub(crate) fn listening_ended(&mut self) {
        if let Some(tell) = self.listening_ended.take() {
            // Not everybody wants to know.
            let _ = tell.send(());
        }
    }

    /// Says that everything is over.
    pub(crate) fn ended(self, stopped: Stopped) {
        let _ = self.ended.send(stopped);
    }
}

/// Refuses targets that no connection can have, and the port itself.
pub(crate) fn check_target(protocol: Protocol, listen: SocketAddr, to: SocketAddr) -> Result<(), ProxyError> {
    let refuse = |why| Err(ProxyError::Target { protocol, listen, to, why });
    if to.port() == 0 {
        return refuse("a target has a port");
    }
    let ip = to.ip();
    if ip.is_unspecified() {
        return refuse("a target has an address");
    }
    if ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return refuse("a target is one host");
    }
    let own = listen.ip().to_canonical();
    let is_own = own == ip || (own.is_unspecified() && ip.is_loopback() && (own.is_ipv6() || ip.is_ipv4()));
    if is_own && listen.port() == to.port() {
        return refuse("that is the port itself");
    }
    Ok(())
}

/// `IpAddr::to_canonical` of a whole socket address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        // The scope of a link-local address stays.
        IpAddr::V6(_) => address,
    }
}
