//! What is wrong with a port of the host.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ErrorKind, Holder, remedies};
use crate::host_port::{HostPort, HostPorts};

/// A process of the host that uses a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortUser {
    /// Its number.
    pub pid: u32,
    /// What it calls itself; empty where that cannot be read.
    pub command: String,
}

impl fmt::Display for PortUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.command.is_empty() {
            write!(f, "process {}", self.pid)
        } else {
            write!(f, "process {} ({})", self.pid, self.command)
        }
    }
}

struct User<'a>(&'a Option<PortUser>);

impl fmt::Display for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(user) => user.fmt(f),
            None => f.write_str("a process of the host that cannot be named"),
        }
    }
}

/// A port of the host that cannot be had.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortReason {
    /// Another endpoint has it, or the same one has it already (libnetwork's `ErrPortAlreadyAllocated`).
    #[error("port {port} is already allocated: held by {holder}{}", so_far(*.leaving))]
    Taken {
        /// The port, with the address on which the holder has it.
        port: HostPort,
        /// Who has it.
        holder: Holder,
        /// Whether the holder is deleted and has the port only until its link is gone.
        leaving: bool,
    },
    /// Somebody beside the engine uses it.
    #[error("port {port} is in use on this host by {}", User(user))]
    InUse {
        /// The port.
        port: HostPort,
        /// Who, where that could be found.
        user: Option<PortUser>,
    },
    /// The engine has it for itself: it passes on there what no rule can lead to a container.
    #[error("port {port} is this engine's own, by which it passes on what the kernel cannot lead")]
    EngineOwn {
        /// The port.
        port: HostPort,
    },
    /// The engine may not bind it.
    #[error("port {port} is a privileged one, and the engine may not bind it")]
    Privileged {
        /// The port.
        port: HostPort,
    },
    /// The address is none of the host's.
    #[error("port {port} cannot be bound: the host has no such address")]
    NoSuchAddress {
        /// The port.
        port: HostPort,
    },
    /// The kernel does not know the protocol, or not in this family.
    #[error("port {port} cannot be bound: this kernel does not offer it")]
    Unsupported {
        /// The port.
        port: HostPort,
    },
    /// The process has as many files open as it may.
    #[error("port {port} cannot be held: the engine's process may have no more than {limit} files open")]
    NoDescriptors {
        /// The port.
        port: HostPort,
        /// How many files it may have open (`RLIMIT_NOFILE`).
        limit: u64,
    },
    /// Every port to choose from is taken (libnetwork's `ErrAllPortsAllocated`).
    #[error("all ports are allocated: {wanted} have no {count} free {}{}", one(*.count), used(*.in_use))]
    Exhausted {
        /// The ports that there are to choose from.
        wanted: HostPorts,
        /// How many were wanted, one behind the other.
        count: u16,
        /// How many were tried and are in use by others on the host.
        in_use: usize,
    },
    /// The endpoint has no such socket: it has not the port, or the socket was handed out.
    #[error("{owner} has no socket on port {port}: {why}")]
    NoSocket {
        /// Who was to have it.
        owner: Arc<str>,
        /// The port.
        port: HostPort,
        /// Why.
        why: &'static str,
    },
}

fn so_far(leaving: bool) -> &'static str {
    if leaving { ", which is deleted and whose link is not gone yet" } else { "" }
}

fn one(count: u16) -> &'static str {
    if count == 1 { "one" } else { "ones in a row" }
}

fn used(in_use: usize) -> String {
    if in_use == 0 { String::new() } else { format!(", and {in_use} tried are in use on this host") }
}

impl PortReason {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Taken { .. } | Self::InUse { .. } | Self::EngineOwn { .. } => ErrorKind::Conflict,
            Self::Privileged { .. } => ErrorKind::Forbidden,
            Self::NoSuchAddress { .. } => ErrorKind::InvalidParameter,
            Self::Unsupported { .. } => ErrorKind::NotImplemented,
            Self::NoDescriptors { .. } | Self::Exhausted { .. } => ErrorKind::Exhausted,
            Self::NoSocket { .. } => ErrorKind::NotFound,
        }
    }

    pub(super) fn remedy(&self) -> String {
        match self {
            Self::Taken { leaving: true, .. } => "ask again in a moment, or choose another port".into(),
            Self::Taken { .. } => {
                "choose another port, leave it out for any free one, or delete the holder".into()
            }
            Self::InUse { .. } => {
                "stop that process, choose another port, or leave it out for any free one".into()
            }
            Self::EngineOwn { .. } => {
                "choose another port; or restart the engine while an endpoint that publishes this one is recorded, and it \
                 looks for another"
                    .into()
            }
            Self::Privileged { .. } => {
                "choose a port from net.ipv4.ip_unprivileged_port_start on, lower that \
                                        setting, or give the engine CAP_NET_BIND_SERVICE"
                    .into()
            }
            Self::NoSuchAddress { port } => {
                let all = if port.address.is_ipv4() { "0.0.0.0" } else { "::" };
                format!("choose an address that the host has (ip address), or {all} for all of them")
            }
            Self::Unsupported { port } => {
                let (protocol, v6) = (port.protocol, port.address.is_ipv6());
                let v6 = if v6 { ", and enable IPv6" } else { "" };
                format!("load the kernel's module for {protocol}{v6}, or leave the binding out")
            }
            Self::NoDescriptors { .. } => remedies::FILES.into(),
            Self::Exhausted { .. } => {
                "delete endpoints, give a wider range, or widen net.ipv4.ip_local_port_range".into()
            }
            Self::NoSocket { .. } => "list the ports to see who holds what".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Certainty, Error, ObjectKind, Reason};
    use crate::host_port::PortRange;
    use crate::spec::Protocol;

    #[test]
    fn texts_name_port_and_holder_and_remedies_say_what_to_do() {
        let port = HostPort { address: [192, 0, 2, 1].into(), protocol: Protocol::Tcp, port: 80 };
        let holder = Holder::new(ObjectKind::Endpoint, "abcdefabcdefabcdef", "web");
        let nginx = PortUser { pid: 7, command: "nginx".into() };
        let wanted = HostPorts {
            protocol: Protocol::Tcp,
            addresses: Arc::new([port.address]),
            range: PortRange { first: 80, last: 89 },
        };
        let taken = |leaving| PortReason::Taken { port, holder: holder.clone(), leaving };
        for (reason, kind, text, remedy) in [
            (
                taken(false),
                ErrorKind::Conflict,
                "192.0.2.1:80/tcp is already allocated: held by endpoint \"web\" (abcdefabcdef)",
                "another port",
            ),
            (taken(true), ErrorKind::Conflict, "whose link is not gone yet", "in a moment"),
            (PortReason::InUse { port, user: Some(nginx) }, ErrorKind::Conflict, "process 7 (nginx)", "stop"),
            (PortReason::InUse { port, user: None }, ErrorKind::Conflict, "cannot be named", "stop"),
            (PortReason::Privileged { port }, ErrorKind::Forbidden, "may not", "CAP_NET_BIND_SERVICE"),
            (
                PortReason::NoSuchAddress { port },
                ErrorKind::InvalidParameter,
                "no such address",
                "0.0.0.0 for all",
            ),
            (
                PortReason::Unsupported { port },
                ErrorKind::NotImplemented,
                "does not offer",
                "module for tcp,",
            ),
            (
                PortReason::NoDescriptors { port, limit: 1024 },
                ErrorKind::Exhausted,
                "no more than 1024 files",
                "LimitNOFILE=",
            ),
            (
                PortReason::Exhausted { wanted, count: 1, in_use: 3 },
                ErrorKind::Exhausted,
                "192.0.2.1:80-89/tcp have no 1 free one, and 3 tried are in use on this host",
                "wider range",
            ),
            (
                PortReason::NoSocket { owner: "web".into(), port, why: "it was handed out" },
                ErrorKind::NotFound,
                "web has no socket on port 192.0.2.1:80/tcp: it was handed out",
                "list",
            ),
        ] {
            let error = Error::from(Reason::Port(reason));
            assert_eq!((error.kind(), error.certainty()), (kind, Certainty::Aborted), "{error}");
            assert!(error.to_string().contains(text), "{error}");
            let found = error.remedy().expect("something can be done");
            assert!(found.contains(remedy), "{found}");
        }
    }
}
