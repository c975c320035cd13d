//! Serving ports with the userland proxy.
//!
//! A join waits until its ports take connections in, which is two calls of the kernel for each. What accepts them is
//! started behind that: for a thousand ports that takes ten times as long. Neither is done on the engine's thread.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Shared, join_all};
use netloom_kernel::PortSocket;
use netloom_model::{Error, HostPort, Reason, Result};
use netloom_proxy::{Bound, Counts, Options, Proxy, ProxyError};
use netloom_runtime::{Cx, Handle, OpCtx, Reply};
use tokio::runtime::{Builder, Handle as RuntimeHandle, Runtime};

use super::actor::PortsActor;
use super::keep::Released;
use super::message::{ServePorts, StopServing};

/// How many threads carry the data of all ports that are served.
const THREADS: usize = 2;
/// How many ports one thread starts at most, where there is another one.
const SHARE: usize = 256;

/// Threads that carry data, from the first port that is served on. Apart from the engine's, which answers messages.
#[derive(Debug, Default)]
pub(super) struct Carriers(Option<Runtime>);

impl Carriers {
    pub(super) fn start(&mut self) -> std::io::Result<&RuntimeHandle> {
        let runtime = match self.0.take() {
            Some(runtime) => runtime,
            None => {
                let mut threads = Builder::new_multi_thread();
                threads
                    .worker_threads(THREADS)
                    .thread_name("nl-proxy")
                    .max_blocking_threads(THREADS)
                    .enable_all()
                    .build()?
            }
        };
        Ok(self.0.insert(runtime).handle())
    }

    /// Has ports served. Done when whoever connects to them is not refused any more, or with the first refusal.
    pub(super) fn serve(&mut self, mut fronts: Vec<Front>) -> BoxFuture<'static, Result<()>> {
        if fronts.is_empty() {
            return std::future::ready(Ok(())).boxed();
        }
        let carriers = match self.start() {
            Ok(carriers) => carriers,
            Err(error) => {
                let error = refused("start threads for port", fronts[0].port, &error);
                fronts.into_iter().for_each(|front| front.slot.fill(Err(error.clone())));
                return std::future::ready(Err(error)).boxed();
            }
        };
        let mut listening = Vec::new();
        while !fronts.is_empty() {
            let share = fronts.split_off(fronts.len().saturating_sub(fronts.len().div_ceil(2).max(SHARE)));
            let (tell, told) = oneshot::channel();
            let inside = carriers.clone();
            drop(carriers.spawn_blocking(move || start(share, tell, &inside)));
            listening.push(told);
        }
        async move {
            let gone =
                |oneshot::Canceled| Err(Reason::Gone { who: "the threads of the proxy".into() }.into());
            join_all(listening).await.into_iter().try_for_each(|told| told.unwrap_or_else(gone))
        }
        .boxed()
    }
}

impl Drop for Carriers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Where the state is dropped nobody may wait.
            runtime.shutdown_background();
        }
    }
}

/// A port that is to be served with the socket that held it.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) port: HostPort,
    pub(super) socket: PortSocket,
    slot: Filler,
}

impl Front {
    /// With the place where its proxy will be found.
    pub(super) fn new(port: HostPort, socket: PortSocket, to: SocketAddr) -> (Self, Serving) {
        let (filled, done) = oneshot::channel();
        let slot = Arc::new(OnceLock::new());
        let serving = Serving { to, slot: Arc::clone(&slot), done: done.shared() };
        (Self { port, socket, slot: Filler { to, slot, filled } }, serving)
    }
}

type Slot = Arc<OnceLock<Result<Proxy>>>;

#[derive(Debug)]
struct Filler {
    to: SocketAddr,
    slot: Slot,
    filled: oneshot::Sender<()>,
}

impl Filler {
    fn fill(self, with: Result<Proxy>) {
        let Self { slot, filled, .. } = self;
        let _ = slot.set(with);
        drop(slot);
        // Nobody waits where the port is to stay.
        let _ = filled.send(());
    }
}

/// A port that is served, or is about to be.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) to: SocketAddr,
    slot: Slot,
    done: Shared<oneshot::Receiver<()>>,
}

impl Serving {
    /// Why it is not.
    pub(super) fn refusal(&self) -> Option<&Error> {
        self.slot.get().and_then(|started| started.as_ref().err())
    }

    /// What has passed.
    pub(super) fn counts(&self) -> Counts {
        self.slot.get().and_then(|started| started.as_ref().ok()).map(Proxy::counts).unwrap_or_default()
    }

    /// Ends it, with its connections. Done when the port is free.
    pub(super) async fn stop(self) {
        // Dropped or filled, nobody else has the slot then.
        let _ = self.done.await;
        let started = Arc::into_inner(self.slot).and_then(OnceLock::into_inner);
        if let Some(Ok(proxy)) = started {
            proxy.stop(Duration::ZERO).listening_ended().await;
        }
    }
}

fn refused(what: &str, port: HostPort, error: &std::io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or_default();
    Reason::Kernel { operation: format!("{what} {port}"), errno, message: error.to_string() }.into()
}

/// Has every port take connections in, tells that, and starts what accepts them.
fn start(fronts: Vec<Front>, tell: oneshot::Sender<Result<()>>, carriers: &RuntimeHandle) {
    let mut outcome = Ok(());
    let mut awake = Vec::with_capacity(fronts.len());
    for Front { port, socket, slot } in fronts {
        match socket.into_socket() {
            Ok(socket) => awake.push((port, socket, slot)),
            Err(error) => {
                let error = refused("listen on port", port, &error);
                slot.fill(Err(error.clone()));
                outcome = outcome.and(Err(error));
            }
        }
    }
    // Whoever asked may not wait any more.
    let _ = tell.send(outcome);
    for (port, socket, slot) in awake {
        let started = Bound::from_socket(port.protocol, socket)
            .and_then(|bound| Proxy::start(bound, slot.to, Options::default(), carriers));
        slot.fill(started.map_err(|error| not_served(port, &error)));
    }
}

fn not_served(port: HostPort, error: &ProxyError) -> Error {
    tracing::warn!(%port, %error, "a port is not served");
    Error::internal(format!("port {port} cannot be served: {error}"))
}

// === Commands ===

impl Handle<ServePorts> for PortsActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ServePorts { owner, fronts }: ServePorts,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let mut known = self.state.get();
        let (fronts, refused) = known.keep.serve(owner, fronts);
        let listening = known.carriers.serve(fronts);
        cx.tasks().spawn(async move {
            if let Some(outcome) = op.in_time(listening).await {
                reply.send(refused.and(outcome));
            }
        });
    }
}

impl Handle<StopServing> for PortsActor {
    fn handle(&mut self, op: OpCtx, _: StopServing, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        let everything = {
            let mut known = self.state.get();
            let board = known.board.close();
            Released { board, ..known.keep.remove_all() }
        };
        let gone = self.let_go(everything);
        cx.tasks().spawn(async move {
            if op.in_time(gone).await.is_some() {
                reply.send(());
            }
        });
    }
}
