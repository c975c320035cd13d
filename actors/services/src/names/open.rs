//! Starting a name server: sockets in the sandbox's namespace, and rules that lead to them.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use futures::channel::oneshot;
use netloom_dns::resolv::EMBEDDED_SERVER;
use netloom_dns::server::Sockets;
use netloom_kernel::nft::Change;
use netloom_kernel::{Kernel, KernelError, Netns, Op};
use netloom_model::{Error, Reason, Result};

use super::rules::{ASKED, lead, table};

/// The port that is tried first. An engine that is started again finds it free, so that clients with a socket of their own
/// go on where the kernel has tracked them to. Beyond the range that Linux takes ports from by itself.
const FIRST: u16 = 61_053;

/// A name server's way in.
#[derive(Debug)]
pub(super) struct Opened {
    /// `None` in a simulation.
    pub(super) sockets: Option<Sockets>,
    /// Of UDP and of TCP.
    pub(super) ports: (u16, u16),
}

/// Opens the sockets and has questions led to them. Where the kernel has no nftables they are where questions go: then
/// the container has port 53 for itself on other addresses only.
pub(super) async fn open(kernel: Arc<dyn Kernel>, netns: Netns, deadline: Instant) -> Result<Opened> {
    let opened = sockets(&*kernel, netns, &[FIRST, 0], deadline).await?;
    match change(&*kernel, netns, lead(opened.ports), deadline).await {
        Ok(()) => Ok(opened),
        // Without a table, or without tables that translate.
        Err(error) if error.unsupported() || error.already_gone() => {
            drop(opened);
            tracing::info!(%netns, %error, "no rules lead to the name server; it takes the port itself");
            sockets(&*kernel, netns, &[ASKED], deadline).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what leads there. It may be gone.
pub(crate) async fn forget(
    kernel: &dyn Kernel,
    netns: Netns,
    deadline: Instant,
) -> std::result::Result<(), KernelError> {
    match change(kernel, netns, vec![Change::DeleteTable], deadline).await {
        Err(error) if !(error.already_gone() || error.unsupported()) => Err(error),
        _ => Ok(()),
    }
}

async fn change(
    kernel: &dyn Kernel,
    netns: Netns,
    changes: Vec<Change>,
    deadline: Instant,
) -> std::result::Result<(), KernelError> {
    netloom_kernel::execute_all(kernel, vec![Op::ChangeTable { netns, table: table(), changes }], deadline)
        .await
}

/// Sockets on the first of these ports that is free; 0 stands for any.
async fn sockets(
    kernel: &dyn Kernel,
    netns: Netns,
    ports: &'static [u16],
    deadline: Instant,
) -> Result<Opened> {
    let (sender, bound) = oneshot::channel();
    let job = Box::new(move || {
        // Nobody may wait for them any more; they are closed then.
        let _ = sender.send(bind(ports));
    });
    match kernel.run_in(netns, job, deadline).await {
        Ok(()) => {}
        Err(error) if error.unsupported() => {
            let port = ports.first().copied().unwrap_or_default();
            return Ok(Opened { sockets: None, ports: (port, port) });
        }
        Err(error) => return Err(error.into()),
    }
    let refused = |error: io::Error| {
        let operation = format!("open a name server's sockets at {EMBEDDED_SERVER} in {netns}");
        let errno = error.raw_os_error().unwrap_or_default();
        Error::from(Reason::Kernel { operation, errno, message: error.to_string() })
    };
    let lost = |_| Err(io::Error::other("the answer was lost"));
    bound.await.unwrap_or_else(lost).map_err(refused)
}

fn bind(ports: &[u16]) -> io::Result<Opened> {
    let udp = first(ports, UdpSocket::bind)?;
    let tcp = first(ports, TcpListener::bind)?;
    let ports = (udp.local_addr()?.port(), tcp.local_addr()?.port());
    Ok(Opened { sockets: Some(Sockets { udp, tcp }), ports })
}

fn first<S>(ports: &[u16], open: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    let server: IpAddr = EMBEDDED_SERVER;
    let mut refusal = io::Error::from(ErrorKind::AddrInUse);
    for port in ports {
        match open((server, *port).into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => refusal = error,
            outcome => return outcome,
        }
    }
    Err(refusal)
}
