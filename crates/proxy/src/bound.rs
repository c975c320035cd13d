//! The socket of a published port, bound by whoever holds the port.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use netloom_model::Protocol;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use socket2::{SockRef, Type};

use crate::error::ProxyError;
use crate::proxy::offers;

/// The socket of a published port: bound already and, for TCP, listening.
#[derive(Debug)]
pub enum Bound {
    /// A socket that listens.
    Tcp(TcpListener),
    /// A socket that is bound and not connected.
    Udp(UdpSocket),
}

impl Bound {
    /// Any socket that was bound for a protocol.
    ///
    /// # Errors
    /// [`ProxyError::NotOffered`] for SCTP and ICMP; [`ProxyError::Socket`] when it is another kind of socket.
    pub fn from_socket(protocol: Protocol, socket: OwnedFd) -> Result<Self, ProxyError> {
        offers(protocol)?;
        let bound = match protocol {
            Protocol::Udp => Self::Udp(socket.into()),
            _ => Self::Tcp(socket.into()),
        };
        bound.check()?;
        Ok(bound)
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp(_) => Protocol::Tcp,
            Self::Udp(_) => Protocol::Udp,
        }
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// [`ProxyError::Kernel`] when it is no socket of IPv4 or IPv6.
    pub fn address(&self) -> Result<SocketAddr, ProxyError> {
        let address = match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        };
        address.map_err(|error| ProxyError::kernel(format!("ask where its {} is", self.what()), &error))
    }

    /// Refuses sockets of another kind, and those that are not bound.
    pub(crate) fn check(&self) -> Result<(), ProxyError> {
        let refuse = |why| Err(ProxyError::Socket { protocol: self.protocol(), why });
        let socket = self.socket();
        let (kind, expected) = match self {
            Self::Tcp(_) => (Type::STREAM, socket2::Protocol::TCP),
            Self::Udp(_) => (Type::DGRAM, socket2::Protocol::UDP),
        };
        if socket.r#type().ok() != Some(kind) || socket.protocol().ok().flatten() != Some(expected) {
            return refuse("it is of another protocol");
        }
        if self.address()?.port() == 0 {
            return refuse("it is not bound");
        }
        match self {
            Self::Tcp(_) if !socket.is_listener().unwrap_or(false) => refuse("it does not listen"),
            Self::Udp(socket) if socket.peer_addr().is_ok() => refuse("it is connected to one client"),
            _ => Ok(()),
        }
    }

    /// Makes it one that never blocks and that no other program inherits, whatever it was.
    pub(crate) fn prepare(&self) -> Result<(), ProxyError> {
        let socket = self.socket();
        let prepared = socket
            .set_nonblocking(true)
            .and_then(|()| Ok(fcntl(self.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?));
        prepared
            .map(|_| ())
            .map_err(|error| ProxyError::kernel(format!("set up its {}", self.what()), &error))
    }

    pub(crate) fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(listener) => listener.into(),
            Self::Udp(socket) => socket.into(),
        }
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "TCP socket",
            Self::Udp(_) => "UDP socket",
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

impl From<TcpListener> for Bound {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UdpSocket> for Bound {
    fn from(socket: UdpSocket) -> Self {
        Self::Udp(socket)
    }
}
