//! Many published TCP ports behind one socket, as their owner sees them: led, counted, ended.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use netloom_model::Protocol;
use tokio::runtime::Handle;

use crate::bound::Bound;
use crate::counters::Counts;
use crate::error::ProxyError;
use crate::exchange::{Exchange, Line, serve};
use crate::fronts::FrontRange;
use crate::options::Options;
use crate::proxy::{Stop, Stopped, Stopping, canonical, check_target};
use crate::tcp::{Door, set_up};

/// Clients that wait to be let in, of all ports together; the kernel has its own bound (`somaxconn`) below that.
const WAITING: i32 = 4096;

/// One socket that listens, to which a firewall redirects the clients of any number of TCP ports.
///
/// Where a client meant to go is what the kernel's connection tracking remembers (`redirect` of nftables, `REDIRECT`
/// of iptables), and [`Switchboard::lead`] says where that leads. The rules are the owner's. Clients that nobody leads
/// on, those that connected to the switchboard itself among them, are reset at once.
///
/// What belongs together has a key: a container's ports, or one port. Each key has counters, and as many connections
/// as [`Options::max_connections`] says. Connections are those of a [`Proxy`](crate::Proxy) in everything else.
///
/// Dropping it is stopping it without patience: the runtime closes the socket and resets the connections in its
/// next turn, and nobody learns when.
#[derive(Debug)]
#[must_use = "its ports are open for as long as a switchboard is kept"]
pub struct Switchboard<K> {
    own: SocketAddr,
    exchange: Arc<Exchange>,
    keys: HashMap<K, Led>,
    stop: Stop,
}

/// What a key has.
#[derive(Debug)]
struct Led {
    line: Arc<Line>,
    fronts: Vec<FrontRange>,
}

impl<K: Copy + Eq + Hash> Switchboard<K> {
    /// Accepts clients of a socket that listens, with tasks on the given runtime. Nobody is led anywhere yet. It may be
    /// called from any thread. Sockets to the back ends are opened by the runtime's threads, in their network
    /// namespace.
    ///
    /// Clients of both families may be redirected to a socket of IPv6 that is not for IPv6 alone.
    ///
    /// # Errors
    /// [`ProxyError::Socket`], [`ProxyError::Option`] for what makes no sense; [`ProxyError::Kernel`] when the socket
    /// cannot be set up.
    ///
    /// # Panics
    /// The runtime was made without IO or without time.
    pub fn start(listener: TcpListener, options: Options, runtime: &Handle) -> Result<Self, ProxyError> {
        let bound = Bound::from(listener);
        bound.check()?;
        options.check()?;
        let own = bound.address()?;
        bound.prepare()?;
        let refused = |error| ProxyError::kernel(format!("serve redirected ports at {own}"), &error);
        bound.socket().listen(WAITING).map_err(refused)?;
        // Those that it accepts inherit that.
        set_up(&bound.socket(), &options).map_err(refused)?;

        let _inside = runtime.enter();
        let Bound::Tcp(listener) = bound else {
            return Err(ProxyError::Socket { protocol: bound.protocol(), why: "it is of another protocol" });
        };
        let door = Door::new(tokio::net::TcpListener::from_std(listener).map_err(refused)?);
        let exchange = Arc::new(Exchange::new(own, options));
        let (stop, orders) = Stop::new(Arc::clone(&exchange.astray));
        drop(runtime.spawn(serve(door, Arc::clone(&exchange), orders)));
        Ok(Self { own, exchange, keys: HashMap::new(), stop })
    }

    /// Where a firewall has to redirect clients.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.own
    }

    /// The port of that.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.own.port()
    }

    /// Leads clients of these ports to as many ports of a back end, of which `to` is the first, until the key is ended.
    /// A key may have any number of ranges, each is one entry. It holds for every client that connects after this has
    /// returned.
    ///
    /// A range that names an address comes before one of every address of its family, wherever both have a port. (So
    /// it is with sockets that are bound.)
    ///
    /// # Errors
    /// Nothing is changed then. [`ProxyError::Front`] for ports that cannot be led, those of the switchboard among
    /// them, [`ProxyError::Target`] for back ends that cannot be reached, [`ProxyError::Taken`] when some of the ports
    /// are led already, whose key it may be.
    pub fn lead(&mut self, key: K, from: FrontRange, to: SocketAddr) -> Result<(), ProxyError> {
        // IPv4 addresses in IPv6's clothes are what they are.
        let (from, to) = (FrontRange { address: from.address.to_canonical(), ..from }, canonical(to));
        self.check(from, to)?;
        let line = self.keys.get(&key).map_or_else(|| Arc::new(Line::new()), |led| Arc::clone(&led.line));
        let inserted = self.exchange.fronts().insert(from, to, Arc::clone(&line));
        inserted.map_err(|(holder, holder_to)| ProxyError::Taken { front: from, to, holder, holder_to })?;
        self.keys.entry(key).or_insert(Led { line, fronts: Vec::with_capacity(1) }).fronts.push(from);
        Ok(())
    }

    fn check(&self, from: FrontRange, to: SocketAddr) -> Result<(), ProxyError> {
        let refuse = |why| Err(ProxyError::Front { front: from, why });
        if from.first == 0 {
            return refuse("a client connects to a port");
        }
        if from.first > from.last {
            return refuse("they end before they begin");
        }
        if from.address.is_multicast() {
            return refuse("nobody connects to many hosts");
        }
        if from.contains(self.own.port()) {
            return refuse("one of them is the switchboard's own");
        }
        check_target(Protocol::Tcp, self.own, to)?;
        let Some(last) = to.port().checked_add(from.last - from.first) else {
            return refuse("the back end has fewer ports from there on");
        };
        // The one of them that could be the switchboard itself.
        let nearest = SocketAddr::new(to.ip(), self.own.port().clamp(to.port(), last));
        check_target(Protocol::Tcp, self.own, nearest)
    }

    /// Ends what leads from the ports of a key, and resets its connections. Nobody is let in by it any more when this
    /// returns, and the ports may be led anew; what is returned tells when the connections are gone. A key that leads
    /// nothing has ended already.
    ///
    /// Dropping what is returned changes nothing.
    pub fn end(&mut self, key: K) -> Ending {
        let Some(Led { line, fronts }) = self.keys.remove(&key) else {
            return Ending { line: Arc::new(Line::new()), cut_off: 0 };
        };
        let mut known = self.exchange.fronts();
        fronts.into_iter().for_each(|front| known.remove(front));
        drop(known);
        let cut_off = line.cut_off();
        Ending { line, cut_off }
    }

    /// What has passed the ports of a key, since it has led any; `None` when it leads none.
    #[must_use]
    pub fn counts(&self, key: K) -> Option<Counts> {
        self.keys.get(&key).map(|led| led.line.counters.read())
    }

    /// What belongs to no key: how many clients nobody led on (`refused`), and how often none could be taken in
    /// (`accept_errors`).
    #[must_use]
    pub fn astray(&self) -> Counts {
        self.stop.counts()
    }

    /// Stops listening at once. All connections have `grace` to come to an end by themselves and are reset then.
    ///
    /// What is returned tells when; dropping it changes nothing. Its counts are those of [`Switchboard::astray`].
    pub fn stop(self, grace: Duration) -> Stopping {
        self.stop.after(grace)
    }
}

/// A key whose connections are on their way out.
#[derive(Debug)]
pub struct Ending {
    line: Arc<Line>,
    cut_off: usize,
}

impl Ending {
    /// Waits until the last connection is gone, which takes a turn of the runtime. Also done when the runtime ends.
    pub async fn ended(self) -> Stopped {
        self.line.empty().await;
        Stopped { ended: 0, cut_off: self.cut_off }
    }

    /// What had passed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.line.counters.read()
    }
}
