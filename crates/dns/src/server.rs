//! The name servers of all sandboxes: one set of tasks on a runtime that is given, one task for a sandbox that sleeps.
//!
//! libnetwork runs a server of its library with threads of the container's namespace (`resolver.go`). Here somebody
//! opens the sockets in the namespace and hands them over; a socket stays in its namespace whoever reads it.
//!
//! Questions that the records answer are answered where they are read, without a task or a queue, so they wait for no
//! question that somebody else has to answer. The others are tasks of their own, bounded in number for each sandbox and
//! in all. A stream's questions are answered as their answers come (RFC 7766, 6.2.1.1).

mod error;
mod options;
mod service;
mod tcp;
mod udp;

use std::collections::HashMap;
use std::net::{TcpListener as StdTcp, UdpSocket as StdUdp};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use netloom_model::SandboxId;
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::counters::{Counters, Counts};
use crate::forward::{Common, Dial, Forwarder, Forwarding, UpstreamState};
use crate::records::ViewCell;
pub use error::DnsError;
pub use options::Options;
use service::Service;

/// The sockets of a sandbox's name server, bound in its namespace, close-on-exec.
#[derive(Debug)]
pub struct Sockets {
    /// Where questions come in datagrams.
    pub udp: StdUdp,
    /// Where they come in streams; it listens already.
    pub tcp: StdTcp,
}

/// What all sandboxes of a server share.
#[derive(Debug)]
struct Shared {
    options: Options,
    forwards: Arc<Common>,
    /// TCP connections in all.
    connections: AtomicUsize,
}

/// The name servers of all sandboxes. Dropping it ends them.
#[derive(Debug)]
pub struct Server {
    runtime: Handle,
    shared: Arc<Shared>,
    /// Touched when a sandbox is served or ended, never by a question.
    serving: Mutex<HashMap<SandboxId, Serving>>,
}

#[derive(Debug)]
struct Serving {
    names: Names,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// A server whose tasks run on this runtime.
    ///
    /// # Errors
    /// [`DnsError::Option`].
    pub fn start(runtime: &Handle, options: Options) -> Result<Self, DnsError> {
        options.check()?;
        let forwards = Arc::new(Common::new(options.budget, options.forwards_each, options.forwards));
        let shared = Shared { options, forwards, connections: AtomicUsize::new(0) };
        Ok(Self { runtime: runtime.clone(), shared: Arc::new(shared), serving: Mutex::default() })
    }

    /// Answers a sandbox's questions from now on, from what `view` shows at each question. It may be called from any
    /// thread.
    ///
    /// # Errors
    /// [`DnsError::Served`] when the sandbox is served already; [`DnsError::Kernel`] when a socket cannot be used.
    ///
    /// # Panics
    /// The runtime was made without IO or without time.
    pub fn serve(
        &self,
        sandbox: SandboxId,
        sockets: Sockets,
        view: Arc<ViewCell>,
        forwarding: &Forwarding,
        dial: Arc<dyn Dial>,
    ) -> Result<Names, DnsError> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if serving.contains_key(&sandbox) {
            return Err(DnsError::Served { sandbox });
        }
        let refused = |what: &'static str| move |error| DnsError::kernel(sandbox, what, &error);
        sockets.udp.set_nonblocking(true).map_err(refused("use the UDP socket"))?;
        sockets.tcp.set_nonblocking(true).map_err(refused("use the TCP socket"))?;
        let _inside = self.runtime.enter();
        let udp = UdpSocket::from_std(sockets.udp).map_err(refused("register the UDP socket"))?;
        let tcp = TcpListener::from_std(sockets.tcp).map_err(refused("register the TCP socket"))?;

        let counters = Arc::new(Counters::default());
        let common = Arc::clone(&self.shared.forwards);
        let forwarder = Arc::new(Forwarder::new(common, forwarding, dial, Arc::clone(&counters)));
        let names = Names { counters: Arc::clone(&counters), forwarder: Arc::clone(&forwarder) };
        let (stop, stopped) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let service = Service { shared: Arc::clone(&self.shared), view, counters, forwarder };
        self.runtime.spawn(async move {
            service.run(udp, tcp, stopped).await;
            // Nobody may be waiting for it.
            let _ = tell.send(());
        });
        serving.insert(sandbox, Serving { names: names.clone(), stop, ended });
        Ok(names)
    }

    /// Ends serving a sandbox: its questions under way are dropped, and its sockets are closed when what is returned
    /// says so. `None`: it was not served.
    pub fn end(&self, sandbox: SandboxId) -> Option<Ending> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let Serving { stop, ended, .. } = serving.remove(&sandbox)?;
        // It may have ended with its runtime.
        let _ = stop.send(());
        Some(Ending(ended))
    }

    /// What is known of a sandbox that is served.
    #[must_use]
    pub fn names(&self, sandbox: SandboxId) -> Option<Names> {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.get(&sandbox).map(|serving| serving.names.clone())
    }

    /// All sandboxes that are served, in no order.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<SandboxId> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// A sandbox on its way out.
#[derive(Debug)]
#[must_use = "it ends anyway; this says when"]
pub struct Ending(oneshot::Receiver<()>);

impl Ending {
    /// Waits until its sockets are closed, which is when its namespace is held by nothing of this any more.
    pub async fn ended(self) {
        // An error says that the task is gone, and its sockets with it.
        let _ = self.0.await;
    }
}

/// A sandbox's name server, for whoever watches it or changes whom it asks.
#[derive(Clone, Debug)]
pub struct Names {
    counters: Arc<Counters>,
    forwarder: Arc<Forwarder>,
}

impl Names {
    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Whom it asks, and how they do.
    #[must_use]
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        self.forwarder.states()
    }

    /// Whom it asks from now on. What is known of those that stay is kept, and questions under way are not disturbed.
    pub fn set_forwarding(&self, forwarding: &Forwarding) {
        self.forwarder.set(forwarding);
    }
}
