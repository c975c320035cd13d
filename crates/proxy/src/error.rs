//! Why a port cannot be proxied.

use std::io;
use std::net::SocketAddr;

use netloom_model::{Error, Protocol, Reason};

use crate::fronts::FrontRange;

/// Why a port cannot be proxied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The proxy carries TCP and UDP. libnetwork's carries SCTP too; here only the firewall does.
    #[error("the userland proxy does not offer {protocol}")]
    NotOffered {
        /// What was asked for.
        protocol: Protocol,
    },
    /// The socket is not what it was said to be.
    #[error("the {protocol} socket given to the userland proxy cannot be used: {why}")]
    Socket {
        /// What it was said to be.
        protocol: Protocol,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The port cannot lead there.
    #[error("{listen}/{protocol} cannot lead to {to}: {why}")]
    Target {
        /// The protocol of the port.
        protocol: Protocol,
        /// The port.
        listen: SocketAddr,
        /// Where it should have led.
        to: SocketAddr,
        /// What is wrong with that.
        why: &'static str,
    },
    /// Ports that cannot be led anywhere.
    #[error("{front} cannot be led: {why}")]
    Front {
        /// The ports.
        front: FrontRange,
        /// What is wrong with them.
        why: &'static str,
    },
    /// Some of these ports are led already.
    #[error("{front} cannot be led to {to}: {holder} leads to {holder_to}")]
    Taken {
        /// The ports.
        front: FrontRange,
        /// Where the first of them should have led.
        to: SocketAddr,
        /// The ports with some of which they overlap.
        holder: FrontRange,
        /// Where the first of those leads.
        holder_to: SocketAddr,
    },
    /// An option is out of its range.
    #[error("the userland proxy cannot work with {option} = {value}: {why}")]
    Option {
        /// Its name.
        option: &'static str,
        /// The refused value.
        value: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("the userland proxy cannot {action}: {message}")]
    Kernel {
        /// What was tried, with its object.
        action: String,
        /// The error number; zero where there is none.
        errno: i32,
        /// The kernel's words.
        message: String,
    },
}

impl ProxyError {
    pub(crate) fn kernel(action: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        Self::Kernel { action: action.into(), errno, message: error.to_string() }
    }

    /// What the caller can do about it, where there is something to do.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NotOffered { .. } => Some("publish this port with a firewall backend, which carries it"),
            Self::Socket { .. } => Some("hand over a socket that is bound and, for TCP, listens"),
            Self::Target { .. } => Some("lead the port to an address and a port of a container"),
            Self::Front { .. } => Some("lead ports from 1 to 65535, in order, without the switchboard's own"),
            Self::Taken { .. } => Some("end what leads them first"),
            Self::Option { .. } => Some("leave the option out, or give a value in its range"),
            Self::Kernel { .. } => None,
        }
    }
}

impl From<ProxyError> for Error {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::NotOffered { protocol } => Reason::NotImplemented {
                what: match protocol {
                    Protocol::Icmp => "forwarding of ICMP",
                    Protocol::Tcp => "forwarding of TCP",
                    Protocol::Udp => "forwarding of UDP",
                    Protocol::Sctp => "forwarding of SCTP",
                },
                by: "the userland proxy (publish the port with a firewall backend)".to_owned(),
            }
            .into(),
            ProxyError::Socket { protocol, why } => Self::invalid("listen", protocol, why),
            ProxyError::Target { protocol, listen, to, why } => {
                Self::invalid(format!("the target of {listen}/{protocol}"), to, why)
            }
            ProxyError::Front { front, why } => Self::invalid("front", front, why),
            ProxyError::Taken { front, holder, holder_to, .. } => {
                Reason::InUse { what: front.to_string(), by: format!("{holder}, which leads to {holder_to}") }
                    .into()
            }
            ProxyError::Option { option, value, why } => Self::invalid(option, value, why),
            ProxyError::Kernel { action, errno, message } => {
                Reason::Kernel { operation: action, errno, message }.into()
            }
        }
    }
}
