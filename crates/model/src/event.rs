//! What happened: facts in the past tense, one closed enum.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::ObjectKind;
use crate::host_port::PublishedPorts;
use crate::id::{EndpointId, NetworkId, OpId, SandboxId};
use crate::ifname::IfName;
use crate::live::{LiveSandbox, ReleasedSandbox};
use crate::record::Reservation;

/// A fact, numbered in the order in which the engine learnt it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1; a gap tells a reader how many it missed.
    pub seq: u64,
    /// The operation that caused it, where there was one.
    pub op: Option<OpId>,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A network came into service.
    NetworkCreated {
        /// The network.
        network: NetworkId,
        /// Its name.
        name: String,
    },
    /// A network is gone.
    NetworkDeleted {
        /// The network.
        network: NetworkId,
        /// Its name.
        name: String,
    },
    /// An endpoint was created.
    EndpointCreated {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
    },
    /// An endpoint has another name.
    EndpointRenamed {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its new name.
        name: String,
    },
    /// An endpoint joined a sandbox.
    EndpointAttached {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// The sandbox.
        sandbox: SandboxId,
        /// The interface's name.
        ifname: IfName,
    },
    /// An endpoint left its sandbox.
    EndpointDetached {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// An endpoint is gone.
    EndpointDeleted {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
    },
    /// Ports of the host lead to an endpoint, which is its sandbox's way out now. Told when its place in the sandbox was
    /// ([`EndpointAttached`](Self::EndpointAttached)), or later. After a start ports that it has again are no news, and of
    /// ports under its own address, which take none of the host's, nothing is told.
    PortsPublished {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
        /// Those that did not lead there before.
        ports: Vec<PublishedPorts>,
    },
    /// Ports of the host lead to an endpoint no more. Told before it is told that the endpoint has left
    /// ([`EndpointDetached`](Self::EndpointDetached)). What could not be taken back yet is told as a leak besides.
    PortsWithdrawn {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
        /// Those that led there before.
        ports: Vec<PublishedPorts>,
    },
    /// Addresses are kept for endpoints of a name. Told again where a commit that did not answer is made sure.
    AddressesReserved {
        /// Their network.
        network: NetworkId,
        /// The name.
        name: String,
        /// What is kept.
        kept: Reservation,
    },
    /// Nothing is kept for a name any more. Not told where the network itself is deleted.
    ReservationReleased {
        /// The network.
        network: NetworkId,
        /// The name.
        name: String,
    },
    /// The engine's rules in the host's firewall were not as they should be, and are again. What a start finds is not told,
    /// and with the backend iptables neither is what was put right together with a request.
    FirewallRepaired {
        /// Where the rules are: `table inet netloom`, say.
        place: String,
        /// How many changes it took.
        changes: usize,
        /// What set off the look.
        cause: RepairCause,
    },
    /// The host's resolv.conf says something else, and so do those of the sandboxes, where a user has not changed them.
    NameServersChanged {
        /// The file that was read.
        file: String,
        /// Its name servers.
        servers: Vec<String>,
    },
    /// A sandbox came into service.
    SandboxCreated {
        /// The sandbox.
        sandbox: SandboxId,
        /// Its container.
        container_id: String,
    },
    /// A sandbox is gone.
    SandboxDeleted {
        /// The sandbox.
        sandbox: SandboxId,
        /// Its container.
        container_id: String,
    },
    /// An actor died and was rebuilt from the store.
    ActorRestarted {
        /// The kind of object it owns.
        object: ObjectKind,
        /// The object.
        id: String,
    },
    /// An object failed too often and is out of service.
    ObjectFailed {
        /// The kind of object.
        object: ObjectKind,
        /// The object.
        id: String,
        /// Why.
        cause: String,
    },
    /// An object that was out of service because what it needs was away is in service again.
    ObjectRecovered {
        /// The kind of object.
        object: ObjectKind,
        /// The object.
        id: String,
    },
    /// The host has learnt an address or a route where a network has a pool: a VPN came up, say. Told once for each, also
    /// when it is found at a start; `what` is `an address` or `a route`.
    PoolOverlapsHost {
        /// The network.
        network: NetworkId,
        /// Its pool.
        pool: IpNet,
        /// The subnet of the host.
        other: IpNet,
        /// What the host uses it for.
        what: String,
    },
    /// Such an overlap is over: the host has lost the subnet, or the network its pool.
    PoolOverlapEnded {
        /// The network.
        network: NetworkId,
        /// The pool.
        pool: IpNet,
        /// The subnet of the host.
        other: IpNet,
    },
    /// A new configuration is in force.
    ConfigurationReloaded {
        /// The keys in which it differs from the one before.
        changed: Vec<String>,
    },
    /// Something was put right, at the start or by a reconciliation.
    Repaired(Repair),
    /// An undo failed; it is retried in the background.
    LeakFound {
        /// What is left behind.
        what: String,
    },
    /// A leak was cleaned up at last.
    LeakCleared {
        /// What was left behind.
        what: String,
    },
}

/// What set off a look at the firewall that found it otherwise than it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RepairCause {
    /// Somebody else has changed it, or may have: the kernel told of a change, or it was time to look.
    ForeignChange,
    /// It was asked for.
    Reapply,
    /// An earlier repair was refused.
    Retry,
    /// It was not known what became of a change of the engine's own: no answer came, or the firewall's actor began anew.
    Unsure,
}

impl fmt::Display for RepairCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignChange => "somebody else changed it",
            Self::Reapply => "it was asked for",
            Self::Retry => "an earlier repair was refused",
            Self::Unsure => "it was not known what became of a change",
        })
    }
}

/// Something the engine found wrong, at its start or in a reconciliation, and put right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "repair", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Repair {
    /// An operation that never committed was unwound.
    OperationUnwound {
        /// What it was.
        verb: String,
        /// What it was done to.
        object: String,
    },
    /// A deletion that had begun was finished.
    DeletionFinished {
        /// What was deleted.
        object: String,
    },
    /// A kernel object of ours that no record knows was removed.
    KernelObjectRemoved {
        /// The object.
        object: String,
    },
    /// The files of names of a sandbox that no record knows were removed.
    FilesRemoved {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// A kernel object that a record needs was made again.
    KernelObjectRemade {
        /// The object.
        object: String,
    },
    /// A sandbox whose namespace is gone (a reboot) was released, with its endpoints.
    SandboxReleased {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// An endpoint whose link is gone was set back to idle.
    EndpointDetached {
        /// The endpoint.
        endpoint: EndpointId,
        /// What was missing.
        why: String,
    },
    /// An endpoint that was plugged into a namespace of somebody else's waits for it again: the engine ended before it
    /// was recorded that the namespace is there.
    EndpointWaits {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// An endpoint that was a sandbox's way out and no sandbox's any more was deleted.
    WayOutReleased {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// A network that is not to outlive the engine was deleted.
    NetworkNotKept {
        /// Its name.
        name: String,
    },
    /// A record that cannot be kept was dropped.
    RecordDropped {
        /// The record.
        record: String,
        /// Why.
        why: String,
    },
    /// A record that only a newer engine can read was left where it is.
    RecordIgnored {
        /// The record.
        record: String,
        /// Why.
        why: String,
    },
    /// Something that is recorded could not be brought back into service.
    NotRestored {
        /// Why, naming it.
        why: String,
    },
    /// A record that was lost was rebuilt from what the kernel has.
    RecordRebuilt {
        /// What it is about.
        object: String,
    },
    /// Records are lost, so nothing was removed and no endpoint was checked at this start.
    SweepSkipped {
        /// Why.
        why: String,
    },
    /// There were no records although the engine ran before: somebody has removed them.
    StoreMissing,
    /// A corrupt store was set aside.
    StoreSetAside {
        /// Where it lies now.
        path: String,
        /// What was wrong with it.
        why: String,
    },
    /// A sandbox that is not among those that live was released, with its endpoints.
    DeadSandboxReleased(ReleasedSandbox),
    /// A sandbox that is not among those that live could not be released, or must not be. Whoever creates a
    /// sandbox for its container is given it, if it still cannot be released then.
    DeadSandboxKept {
        /// The sandbox.
        sandbox: SandboxId,
        /// Its container.
        container_id: String,
        /// Why.
        why: String,
    },
    /// A sandbox that is to live is not recorded.
    LiveSandboxUnknown {
        /// As the embedder named it.
        sandbox: LiveSandbox,
    },
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OperationUnwound { verb, object } => write!(f, "unwound {verb} of {object}"),
            Self::DeletionFinished { object } => write!(f, "finished the deletion of {object}"),
            Self::KernelObjectRemoved { object } => write!(f, "removed {object}, which no record knows"),
            Self::FilesRemoved { sandbox } => {
                write!(f, "removed the files of sandbox {}, which no record knows", sandbox.short())
            }
            Self::KernelObjectRemade { object } => write!(f, "made {object} again"),
            Self::SandboxReleased { sandbox } => {
                write!(f, "released sandbox {}, whose namespace is gone", sandbox.short())
            }
            Self::EndpointDetached { endpoint, why } => {
                write!(f, "set endpoint {} back to idle: {why}", endpoint.short())
            }
            Self::EndpointWaits { endpoint } => {
                write!(f, "endpoint {} waits for its sandbox's namespace again", endpoint.short())
            }
            Self::WayOutReleased { endpoint } => {
                write!(f, "deleted endpoint {}, a way out of no sandbox any more", endpoint.short())
            }
            Self::NetworkNotKept { name } => {
                write!(f, "deleted network {name:?}, which is not to outlive the engine")
            }
            Self::RecordDropped { record, why } => write!(f, "dropped record {record}: {why}"),
            Self::RecordIgnored { record, why } => write!(f, "left record {record} alone: {why}"),
            Self::NotRestored { why } => write!(f, "could not bring back into service: {why}"),
            Self::RecordRebuilt { object } => write!(f, "rebuilt the record of {object} from the kernel"),
            Self::SweepSkipped { why } => write!(f, "removed nothing: {why}"),
            Self::DeadSandboxReleased(released) => write!(f, "released {released}"),
            Self::DeadSandboxKept { sandbox, container_id, why } => {
                let id = sandbox.short();
                write!(f, "kept sandbox {id} of container {container_id:?}, which does not live: {why}")
            }
            Self::LiveSandboxUnknown { sandbox } => write!(f, "{sandbox} lives, and is not recorded"),
            Self::StoreMissing => f.write_str("began with no records, although the engine ran before"),
            Self::StoreSetAside { path, why } => write!(f, "set a broken store aside as {path}: {why}"),
        }
    }
}
