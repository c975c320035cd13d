//! Serving ports with the userland proxy.

use std::net::SocketAddr;

use netloom_kernel::PortSocket;
use netloom_model::{Error, HostPort, Reason, Result};
use netloom_proxy::{Bound, Options, Proxy, ProxyError};
use netloom_runtime::{Cx, Handle, OpCtx, Reply};
use tokio::runtime::{Builder, Handle as RuntimeHandle, Runtime};

use super::actor::PortsActor;
use super::keep::Served;
use super::message::{ServePorts, StopServing};

/// How many threads carry the data of all ports that are served.
const THREADS: usize = 2;

/// Threads that carry data, from the first port that is served on. Apart from the engine's, which answers messages.
#[derive(Debug, Default)]
pub(super) struct Carriers(Option<Runtime>);

impl Carriers {
    fn start(&mut self) -> std::io::Result<&RuntimeHandle> {
        if self.0.is_none() {
            let mut threads = Builder::new_multi_thread();
            let started = threads.worker_threads(THREADS).thread_name("nl-proxy").enable_all().build()?;
            return Ok(self.0.insert(started).handle());
        }
        self.0.as_ref().map(Runtime::handle).ok_or_else(|| std::io::Error::other("no threads"))
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

/// Serves a port with the socket that held it.
fn serve(carriers: &mut Carriers, port: HostPort, socket: PortSocket, to: SocketAddr) -> Result<Served> {
    let refused = |what: &str, error: &std::io::Error| {
        Error::from(Reason::Kernel {
            operation: format!("{what} {port}"),
            errno: error.raw_os_error().unwrap_or_default(),
            message: error.to_string(),
        })
    };
    if socket.socket().is_none() {
        return Ok(Served::Simulated(socket, to));
    }
    let carriers = carriers.start().map_err(|error| refused("start threads for port", &error))?;
    let socket = socket.into_socket().map_err(|error| refused("listen on port", &error))?;
    let started = Bound::from_socket(port.protocol, socket)
        .and_then(|bound| Proxy::start(bound, to, Options::default(), carriers));
    started.map(Served::Proxy).map_err(|error| not_served(port, &error))
}

fn not_served(port: HostPort, error: &ProxyError) -> Error {
    Error::internal(format!("port {port} cannot be served: {error}"))
}

// === Commands ===

impl Handle<ServePorts> for PortsActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ServePorts { owner, fronts }: ServePorts,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        let mut known = self.state.get();
        let known = &mut *known;
        let mut refused = None;
        for (port, to) in fronts {
            let served = known.keep.serve(owner, port, |socket| serve(&mut known.carriers, port, socket, to));
            refused = refused.or(served.err());
        }
        reply.send(refused.map_or(Ok(()), Err));
    }
}

impl Handle<StopServing> for PortsActor {
    fn handle(&mut self, op: OpCtx, _: StopServing, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        let everything = self.state.get().keep.remove_all();
        let gone = self.let_go(everything);
        cx.tasks().spawn(async move {
            if op.in_time(gone).await.is_some() {
                reply.send(());
            }
        });
    }
}
