//! Ports of the host that are held by sockets, so that nobody else on the host gets them.
//!
//! [`PortHolder`] is the door. [`LinuxPorts`] opens real sockets; `netloom-testkit` has one that only keeps a list. A
//! socket that holds a port takes nothing in: TCP and SCTP are bound and do not listen, so whoever connects is refused
//! at once, and UDP has the smallest buffer that there is.

mod linux;
mod ours;
mod user;

use std::any::Any;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use netloom_model::{Error, HostPort, PortReason, PortUser, Protocol, Reason};
use nix::errno::Errno;

use crate::error::file_limit;

pub use linux::LinuxPorts;

/// Where a socket is bound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// To one address, or to every one of its family.
    One(IpAddr),
    /// To every address of both families at once: half the work of a socket for each.
    Both,
}

/// A port to hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortToHold {
    /// Where.
    pub place: Place,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl PortToHold {
    /// What it is called; one of both families by its IPv4 half.
    #[must_use]
    pub fn named(self) -> HostPort {
        let Self { place, protocol, port } = self;
        let address = match place {
            Place::One(address) => address,
            Place::Both => Ipv4Addr::UNSPECIFIED.into(),
        };
        HostPort { address, protocol, port }
    }

    /// Where a socket may be that is the one of this port.
    pub fn covering(port: HostPort) -> impl Iterator<Item = Self> {
        let HostPort { address, protocol, port } = port;
        let both = address.is_unspecified().then_some(Place::Both);
        [Place::One(address)].into_iter().chain(both).map(move |place| Self { place, protocol, port })
    }
}

/// Why a port is not held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HoldRefusal {
    /// Somebody has it (`EADDRINUSE`).
    InUse,
    /// It needs a right that the engine has not (`EACCES`).
    Privileged,
    /// The host has no such address (`EADDRNOTAVAIL`).
    NoSuchAddress,
    /// The kernel does not know the protocol, or has no IPv6.
    Unsupported,
    /// The process may open no more files (`EMFILE`).
    NoDescriptors,
    /// Too many calls wait for the thread already.
    QueueFull(usize),
    /// The deadline passed before it was tried.
    NotStarted(Duration),
    /// The thread that was to hold it failed.
    Lost,
    /// The kernel refused with another error number.
    Refused(i32),
}

impl HoldRefusal {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::EADDRINUSE => Self::InUse,
            Errno::EACCES => Self::Privileged,
            Errno::EADDRNOTAVAIL => Self::NoSuchAddress,
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::ESOCKTNOSUPPORT => Self::Unsupported,
            Errno::EMFILE => Self::NoDescriptors,
            other => Self::Refused(other as i32),
        }
    }

    /// The error for whoever wanted the port; `user` is who has it, where that is known.
    #[must_use]
    pub fn into_error(self, port: HostPort, user: Option<PortUser>) -> Error {
        let reason = match self {
            Self::InUse => PortReason::InUse { port, user },
            Self::Privileged => PortReason::Privileged { port },
            Self::NoSuchAddress => PortReason::NoSuchAddress { port },
            Self::Unsupported => PortReason::Unsupported { port },
            Self::NoDescriptors => PortReason::NoDescriptors { port, limit: file_limit() },
            Self::QueueFull(limit) => {
                return Reason::Busy { what: "the thread that holds ports".into(), limit }.into();
            }
            Self::NotStarted(waited) => {
                let late = Reason::DeadlineExceeded { what: format!("hold port {port}"), waited };
                return Error::from(late).unwound();
            }
            Self::Lost => return Reason::Gone { who: "the thread that holds ports".into() }.into(),
            Self::Refused(errno) => {
                let message = Errno::from_raw(errno).desc().to_owned();
                return Reason::Kernel { operation: format!("hold port {port}"), errno, message }.into();
            }
        };
        Reason::Port(reason).into()
    }
}

/// A port that is held for as long as this is kept.
pub struct PortSocket(Held);

enum Held {
    Socket {
        socket: OwnedFd,
        port: PortToHold,
        /// The room for datagrams that it had before it was made as small as possible.
        room: Option<usize>,
        stream: bool,
    },
    /// Kept for its end only.
    Simulated { _guard: Box<dyn Any + Send + Sync> },
}

impl fmt::Debug for PortSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Held::Socket { socket, .. } => write!(f, "PortSocket({socket:?})"),
            Held::Simulated { .. } => f.write_str("PortSocket(simulated)"),
        }
    }
}

impl PortSocket {
    /// A port of a simulation, held for as long as `guard` lives.
    #[must_use]
    pub fn simulated(guard: impl Any + Send + Sync) -> Self {
        Self(Held::Simulated { _guard: Box::new(guard) })
    }

    /// Which port it is; of a simulation's that is not known.
    fn port(&self) -> Option<PortToHold> {
        match &self.0 {
            Held::Socket { port, .. } => Some(*port),
            Held::Simulated { .. } => None,
        }
    }

    /// The socket as it is; none in a simulation.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Held::Socket { socket, .. } => Some(socket.as_fd()),
            Held::Simulated { .. } => None,
        }
    }

    /// The bound socket, for somebody who is going to serve the port: close-on-exec, non-blocking, ready for `accept`
    /// (streams) or `recv` (datagrams). Never blocks. What datagrams came while nobody served the port are dropped.
    ///
    /// # Errors
    /// What the kernel says; `Unsupported` in a simulation, which has no sockets.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        match self.0 {
            Held::Simulated { .. } => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated port has no socket"))
            }
            Held::Socket { socket, room, stream, .. } => {
                linux::wake(&socket, room, stream)?;
                Ok(socket)
            }
        }
    }
}

/// Holds ports of the host.
///
/// What is asked for is done in the order in which it is asked for, so a port that was let go is free for the next call.
/// Every future is independent of its caller: dropping it does not stop what was asked; sockets that nobody receives are
/// closed.
pub trait PortHolder: fmt::Debug + Send + Sync + 'static {
    /// Tries to hold each port: one answer each, in their order, whatever becomes of the others.
    fn hold(
        &self,
        ports: Vec<PortToHold>,
        deadline: Instant,
    ) -> BoxFuture<'static, Vec<Result<PortSocket, HoldRefusal>>>;

    /// A TCP port of the engine's own, on every address of both families (of IPv4 where there is no IPv6): the first of
    /// these that nobody has and that the engine may have.
    ///
    /// Errors: what the last of them was refused for where none can be had, [`HoldRefusal::InUse`] where there are none to
    /// try.
    fn hold_one_of(
        &self,
        ports: Vec<u16>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<(u16, PortSocket), HoldRefusal>>;

    /// Lets go of ports. Done when they are free.
    fn let_go(&self, sockets: Vec<PortSocket>) -> BoxFuture<'static, ()>;

    /// Which process has a port, if that can be found out before the deadline. Costs a look at every process: for
    /// messages only.
    fn user(&self, port: PortToHold, deadline: Instant) -> BoxFuture<'static, Option<PortUser>>;
}
