//! One error type with two axes: what went wrong ([`Error::kind`]) and how sure we are that nothing
//! happened ([`Error::certainty`]).
//!
//! The kinds follow docker's `errdefs` and libnetwork's marker interfaces (`types/types.go`). Every reason
//! names the object, whoever holds it, and what the caller can do about it ([`Error::remedy`]).

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::considered::{AddressesConsidered, PoolsConsidered};
use crate::id::{EndpointId, NetworkId, SandboxId};
use crate::ifname::IfName;
use crate::mac::MacAddr;
use crate::name::shown;

mod port;
mod remedies;
mod words;

pub use crate::name::check_name;
pub use port::{PortReason, PortUser};
pub use remedies::REACH_CLUSTER;
pub(crate) use words::on_host;
use words::{List, Prefix, in_file, sandbox_text};

/// `EPERM`, the same number on every Linux.
const EPERM: i32 = 1;

/// The result of everything in the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an error: decides a REST status, a retry, an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object does not exist (HTTP 404).
    NotFound,
    /// The request is malformed (HTTP 400).
    InvalidParameter,
    /// The request collides with an object that exists (HTTP 409).
    Conflict,
    /// The state of the object forbids the request (HTTP 403).
    Forbidden,
    /// Something needed is away for now; the same request may succeed later (HTTP 503).
    Unavailable,
    /// Admission is full; retry after a pause (HTTP 429).
    Busy,
    /// Nothing left to hand out: addresses, pools, ports (libnetwork's `NoServiceError`).
    Exhausted,
    /// The deadline of the operation passed (HTTP 504).
    Timeout,
    /// The driver does not offer this (HTTP 501).
    NotImplemented,
    /// The engine, the kernel or the store failed (HTTP 500).
    Internal,
}

/// How sure an error is that the request had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Nothing was changed, or all of it was undone.
    Aborted,
    /// The request may have taken effect; inspect before retrying.
    Uncertain,
}

/// The kinds of objects an error can be about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ObjectKind {
    /// The controller itself.
    Controller,
    /// A network.
    Network,
    /// An endpoint.
    Endpoint,
    /// A sandbox.
    Sandbox,
    /// A network driver.
    Driver,
    /// An IPAM driver.
    IpamDriver,
    /// An address space of an IPAM driver.
    AddressSpace,
    /// An address pool.
    Pool,
    /// Addresses of a network that are kept for a name.
    Reservation,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Controller => "controller",
            Self::Network => "network",
            Self::Endpoint => "endpoint",
            Self::Sandbox => "sandbox",
            Self::Driver => "driver",
            Self::IpamDriver => "ipam driver",
            Self::AddressSpace => "address space",
            Self::Pool => "pool",
            Self::Reservation => "reservation",
        })
    }
}

impl ObjectKind {
    /// What several of them are called.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Controller => "controllers",
            Self::Network => "networks",
            Self::Endpoint => "endpoints",
            Self::Sandbox => "sandboxes",
            Self::Driver => "drivers",
            Self::IpamDriver => "ipam drivers",
            Self::AddressSpace => "address spaces",
            Self::Pool => "pools",
            Self::Reservation => "reservations",
        }
    }
}

/// Someone who holds what the caller wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// What kind of object it is.
    pub object: ObjectKind,
    /// Its identifier.
    pub id: String,
    /// Its name, where it has one.
    pub name: String,
}

impl Holder {
    /// A holder with an identifier and a name.
    pub fn new(object: ObjectKind, id: impl fmt::Display, name: impl Into<String>) -> Self {
        Self { object, id: id.to_string(), name: name.into() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.id.get(..12).unwrap_or(&self.id);
        if self.name.is_empty() {
            write!(f, "{} {short}", self.object)
        } else {
            write!(f, "{} {:?} ({short})", self.object, self.name)
        }
    }
}

/// What went wrong, with the data a program needs to react.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A name breaks a rule of names.
    #[error("invalid {object} name {name:?}: {why}")]
    InvalidName {
        /// Whose name it is.
        object: ObjectKind,
        /// The refused name.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// An identifier is malformed.
    #[error("invalid {object} id {id:?}: expected {expected}")]
    InvalidId {
        /// Whose identifier it is.
        object: ObjectKind,
        /// The refused text.
        id: String,
        /// The accepted shape.
        expected: &'static str,
    },
    /// An option or a field of a spec is wrong.
    #[error("invalid value {value:?} for {option}: {why}")]
    InvalidOption {
        /// The option or field.
        option: String,
        /// The refused value.
        value: String,
        /// The rule it breaks.
        why: String,
    },
    /// A configuration file cannot be used as it is.
    #[error("{}line {line}: {}{why}", in_file(file.as_deref()), Prefix(key))]
    ConfigFile {
        /// The file, where the text came from one.
        file: Option<String>,
        /// The line, from 1.
        line: usize,
        /// The key with its tables, as the file spells it; empty where the text is no TOML.
        key: String,
        /// The rule it breaks.
        why: String,
    },
    /// A new configuration would take away the store that a scope has.
    #[error(
        "cannot accept new configuration because it removes an existing datastore client: scope {scope:?} has \
         {present}"
    )]
    StoreRemoved {
        /// The scope.
        scope: String,
        /// Its store.
        present: String,
    },
    /// A new configuration would give a scope another store than it has.
    #[error(
        "cannot accept new configuration because it modifies an existing datastore client: scope {scope:?} has \
         {present}, and would have {wanted}"
    )]
    StoreModified {
        /// The scope.
        scope: String,
        /// Its store.
        present: String,
        /// The store that was asked for.
        wanted: String,
    },
    /// Something that an engine is built on at its start.
    #[error("{key} cannot change while the engine runs: it is {present:?}, and would be {wanted:?}")]
    NeedsRestart {
        /// The key of the configuration.
        key: &'static str,
        /// What it is.
        present: String,
        /// What was asked for.
        wanted: String,
    },
    /// No object answers to this name or identifier.
    #[error("no such {object}: {query}")]
    NotFound {
        /// The kind of object.
        object: ObjectKind,
        /// The name or identifier asked for.
        query: String,
    },
    /// The name is in use.
    #[error("{} with name {name:?} already exists: held by {holder}", holder.object)]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: Holder,
    },
    /// A place or a name that only one engine may use is used by another.
    #[error("{what} is in use by {by}")]
    InUse {
        /// The place or name.
        what: String,
        /// Who uses it.
        by: String,
    },
    /// A new link would have the name of one that exists: in the sandbox, or on the host.
    #[error("cannot make link {ifname}: {why}")]
    LinkTaken {
        /// The name of the new link's end inside the sandbox.
        ifname: IfName,
        /// What is in the way.
        why: String,
    },
    /// The identifier is in use.
    #[error("id {id} is already in use by {holder}")]
    IdTaken {
        /// The identifier.
        id: String,
        /// Who has it.
        holder: Holder,
    },
    /// A network still has endpoints.
    #[error("network {name:?} ({}) has active endpoints: {}", network.short(), List(endpoints))]
    ActiveEndpoints {
        /// The network.
        network: NetworkId,
        /// Its name.
        name: String,
        /// Every endpoint that holds it.
        endpoints: Vec<Holder>,
    },
    /// A driver has one network only, and that is there.
    #[error("only one instance of {driver:?} network is allowed: there is {holder}")]
    OnlyInstance {
        /// The driver's type.
        driver: String,
        /// The network that is there.
        holder: Holder,
    },
    /// A network of this type stays once it is made.
    #[error("network of type {driver:?} cannot be deleted")]
    Permanent {
        /// The driver's type.
        driver: String,
    },
    /// An endpoint is joined and would have to leave first.
    #[error("endpoint {name:?} ({}) is joined to sandbox {}", endpoint.short(), sandbox.short())]
    EndpointInUse {
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
        /// The sandbox that holds it.
        sandbox: SandboxId,
    },
    /// An endpoint would put its interface into the host's own namespace.
    #[error(
        "{object} cannot join a sandbox that is the host's own namespace: it would put an interface {prefix}… there"
    )]
    HostInterface {
        /// The endpoint.
        object: Holder,
        /// What the interface's name begins with.
        prefix: String,
    },
    /// A sandbox needs a way out that none of its endpoints has, and the network for that is not there.
    #[error(
        "{sandbox} has no way out: none of its endpoints has a gateway, and there is no network {network:?}"
    )]
    NoWayOut {
        /// The sandbox.
        sandbox: Holder,
        /// The network that would be its way out.
        network: String,
    },
    /// An endpoint was asked to leave a sandbox it is not in.
    #[error("endpoint {name:?} ({}) is not joined to {}", endpoint.short(), sandbox_text(sandbox.as_ref()))]
    NotJoined {
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
        /// The sandbox named by the caller.
        sandbox: Option<SandboxId>,
    },
    /// The object is being created or deleted and takes no such request now.
    #[error("{object} is {phase}")]
    WrongPhase {
        /// The object.
        object: Holder,
        /// What it is doing.
        phase: &'static str,
    },
    /// A pool overlaps another one.
    #[error("pool {pool} overlaps {other}, held by {holder}")]
    PoolOverlap {
        /// The requested pool.
        pool: IpNet,
        /// The pool it overlaps.
        other: IpNet,
        /// Who holds that.
        holder: String,
    },
    /// A pool overlaps an address or a route of the host.
    #[error("pool {pool} overlaps {other}, {what} of {}", on_host(link.as_ref()))]
    PoolOverlapsHost {
        /// The requested pool.
        pool: IpNet,
        /// The host's subnet.
        other: IpNet,
        /// What it is: "a route", "a route of table 100", "an address", "a name server".
        what: std::borrow::Cow<'static, str>,
        /// The interface that has it, where that is known.
        link: Option<crate::IfName>,
    },
    /// Every pool to choose from is taken.
    #[error("no free address pool left: {0}")]
    PoolsExhausted(Box<PoolsConsidered>),
    /// An address is leased or reserved already.
    #[error("address {address} of pool {pool} is held by {holder}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Its pool.
        pool: IpNet,
        /// Who holds it.
        holder: String,
    },
    /// A hardware address is another endpoint's on the same network.
    #[error("hardware address {mac} is held by {holder}")]
    MacTaken {
        /// The address.
        mac: MacAddr,
        /// Who holds it.
        holder: Holder,
    },
    /// An address lies outside of every pool of the network, or may not be handed out.
    #[error("address {address} cannot be used: {why}")]
    AddressUnusable {
        /// The address.
        address: IpAddr,
        /// The rule it breaks.
        why: String,
    },
    /// A network has no free address.
    #[error("no free address left in {0}")]
    AddressesExhausted(Box<AddressesConsidered>),
    /// A port of the host cannot be had.
    #[error("{0}")]
    Port(PortReason),
    /// A driver keeps this object from taking more.
    #[error("{object} is full: at most {limit} {what}")]
    Full {
        /// The object.
        object: String,
        /// The limit.
        limit: u64,
        /// What it limits.
        what: &'static str,
    },
    /// The kernel refused an operation.
    #[error("kernel refused to {operation}: {message}")]
    Kernel {
        /// The operation in words, with its object.
        operation: String,
        /// The error number (`errno`), zero where there is none.
        errno: i32,
        /// The kernel's own text.
        message: String,
    },
    /// The store failed.
    #[error("store cannot {action}: {message}")]
    Store {
        /// What it was doing.
        action: &'static str,
        /// The backend's text.
        message: String,
    },
    /// What hosts of a cluster have in common cannot be used as it is in their store.
    #[error("the cluster's store cannot be used, by its key {key:?}: {why}")]
    ClusterStore {
        /// The key.
        key: String,
        /// What is wrong with its value.
        why: String,
        /// What to do about it.
        remedy: String,
    },
    /// Whoever had to answer died on the way.
    #[error("{who} stopped before it answered")]
    Gone {
        /// The actor.
        who: String,
    },
    /// The deadline passed.
    #[error("{what} did not finish within {} ms", waited.as_millis())]
    DeadlineExceeded {
        /// What was waited for.
        what: String,
        /// The time allowed.
        waited: Duration,
    },
    /// Admission is full.
    #[error("{what} has {limit} operations under way and takes no more")]
    Busy {
        /// The queue.
        what: String,
        /// Its bound.
        limit: usize,
    },
    /// The engine is stopping.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// Somebody used force on the object, which ends what is under way on it.
    #[error("ended at step {step:?} by a deletion with force")]
    Overtaken {
        /// How far it had come.
        step: &'static str,
    },
    /// An object failed too often and is out of service.
    #[error("{object} is out of service: {cause}")]
    OutOfService {
        /// The object.
        object: Holder,
        /// Why.
        cause: String,
    },
    /// Not offered by this driver or on this kernel.
    #[error("{what} is not implemented by {by}")]
    NotImplemented {
        /// What was asked.
        what: &'static str,
        /// Who does not offer it.
        by: String,
    },
    /// A driver of the embedder refused.
    #[error("driver {driver:?}: {message}")]
    Driver {
        /// The driver's type.
        driver: String,
        /// The class it reports.
        kind: ErrorKind,
        /// Its text.
        message: String,
    },
    /// An IPAM driver gave something that cannot be used.
    #[error("ipam driver {driver:?} gave {given}, which cannot be used: {why}")]
    IpamAnswer {
        /// The driver's name.
        driver: String,
        /// What it gave.
        given: String,
        /// The rule that breaks.
        why: String,
    },
    /// An operation failed and some of its undo steps failed too.
    #[error("{cause}; could not undo: {}", leaks.join(", "))]
    Leaked {
        /// The first failure.
        cause: Error,
        /// What could not be undone and is retried in the background.
        leaks: Vec<String>,
    },
    /// A bug or a broken invariant.
    #[error("internal error: {what}")]
    Internal {
        /// What was found.
        what: String,
    },
}

/// An error of the engine. Cheap to move, cloneable so that every waiter of a shared failure gets it.
#[derive(Clone, PartialEq)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    reason: Reason,
    certainty: Certainty,
}

impl Error {
    /// What went wrong, as data.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.0.reason
    }

    /// Whether anything may have changed.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        self.0.certainty
    }

    /// The same error, marked as possibly done.
    #[must_use]
    pub fn uncertain(mut self) -> Self {
        self.0.certainty = Certainty::Uncertain;
        self
    }

    /// The same error after everything else that it may have changed was undone. One that tells of something
    /// left behind stays as unsure as it is.
    #[must_use]
    pub fn unwound(mut self) -> Self {
        if !matches!(self.0.reason, Reason::Leaked { .. }) {
            self.0.certainty = Certainty::Aborted;
        }
        self
    }

    /// A broken invariant.
    pub fn internal(what: impl Into<String>) -> Self {
        Reason::Internal { what: what.into() }.into()
    }

    /// A malformed option.
    pub fn invalid(option: impl Into<String>, value: impl fmt::Display, why: impl Into<String>) -> Self {
        let value = value.to_string().chars().take(120).collect();
        Reason::InvalidOption { option: option.into(), value, why: why.into() }.into()
    }

    /// An object that does not exist.
    pub fn not_found(object: ObjectKind, query: impl fmt::Display) -> Self {
        let query = shown(&query.to_string());
        Reason::NotFound { object, query }.into()
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.0.reason {
            Reason::InvalidName { .. }
            | Reason::InvalidId { .. }
            | Reason::InvalidOption { .. }
            | Reason::ConfigFile { .. }
            | Reason::AddressUnusable { .. } => ErrorKind::InvalidParameter,
            Reason::NotFound { .. } => ErrorKind::NotFound,
            Reason::NameTaken { .. }
            | Reason::IdTaken { .. }
            | Reason::LinkTaken { .. }
            | Reason::InUse { .. } => ErrorKind::Conflict,
            Reason::ActiveEndpoints { .. }
            | Reason::OnlyInstance { .. }
            | Reason::Permanent { .. }
            | Reason::EndpointInUse { .. }
            | Reason::HostInterface { .. }
            | Reason::NotJoined { .. }
            | Reason::WrongPhase { .. }
            | Reason::Overtaken { .. }
            | Reason::PoolOverlap { .. }
            | Reason::PoolOverlapsHost { .. }
            | Reason::AddressTaken { .. }
            | Reason::StoreRemoved { .. }
            | Reason::StoreModified { .. }
            | Reason::NeedsRestart { .. }
            | Reason::MacTaken { .. } => ErrorKind::Forbidden,
            Reason::PoolsExhausted(_)
            | Reason::AddressesExhausted(_)
            | Reason::Kernel { errno: remedies::EMFILE | remedies::ENFILE, .. }
            | Reason::Full { .. } => ErrorKind::Exhausted,
            Reason::Gone { .. }
            | Reason::ShuttingDown
            | Reason::NoWayOut { .. }
            | Reason::OutOfService { .. } => ErrorKind::Unavailable,
            Reason::DeadlineExceeded { .. } => ErrorKind::Timeout,
            Reason::Busy { .. } => ErrorKind::Busy,
            Reason::NotImplemented { .. } => ErrorKind::NotImplemented,
            Reason::Driver { kind, .. } => *kind,
            Reason::Port(reason) => reason.kind(),
            Reason::Leaked { cause, .. } => cause.kind(),
            Reason::Kernel { .. }
            | Reason::Store { .. }
            | Reason::ClusterStore { .. }
            | Reason::IpamAnswer { .. }
            | Reason::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// What the caller can do about it, where there is something to do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let text = match &self.0.reason {
            Reason::InvalidName { .. }
            | Reason::InvalidId { .. }
            | Reason::InvalidOption { .. }
            | Reason::ConfigFile { .. } => return None,
            Reason::StoreRemoved { .. } | Reason::StoreModified { .. } => {
                "leave the scope's provider and address as they are, or start the engine again".into()
            }
            Reason::NeedsRestart { .. } => {
                "leave it as it is, or start the engine again with the new configuration".into()
            }
            Reason::NotFound { object: ObjectKind::AddressSpace, .. } => remedies::NO_SPACE.into(),
            Reason::NotFound { object, .. } => {
                format!("list the {} and check the spelling", object.plural())
            }
            Reason::NameTaken { holder, .. } if holder.object == ObjectKind::Reservation => {
                "release the reservation first".into()
            }
            Reason::NameTaken { .. } => "choose another name or delete the holder".into(),
            Reason::InUse { .. } => "stop that one, or give this one a place and a name of its own".into(),
            Reason::LinkTaken { .. } => "remove or rename the link that has this name".into(),
            Reason::IdTaken { .. } => "leave the id out and let the engine choose one".into(),
            Reason::ActiveEndpoints { .. } => "let those endpoints leave and delete them first".into(),
            Reason::OnlyInstance { .. } => "use the one that is there".into(),
            Reason::Permanent { .. } => "leave it: it takes nothing, and nothing has to use it".into(),
            Reason::EndpointInUse { .. } => "let it leave its sandbox first, or delete it with force".into(),
            Reason::HostInterface { .. } => {
                "use a network of the driver \"host\", or a sandbox with a namespace of its own".into()
            }
            Reason::NoWayOut { .. } => "create that network, or ask again".into(),
            Reason::NotJoined { .. } => "inspect the endpoint to see which sandbox holds it".into(),
            Reason::WrongPhase { .. } => "wait for the running operation to finish".into(),
            Reason::PoolOverlap { .. } => "choose another subnet, or delete the holder".into(),
            Reason::PoolOverlapsHost { .. } => "choose a subnet that the host does not use".into(),
            Reason::PoolsExhausted(_) => {
                "give a subnet, delete networks that nobody needs, or add to default_pools in the configuration"
                    .into()
            }
            Reason::AddressTaken { .. } | Reason::MacTaken { .. } => {
                "choose another address, or delete or release the holder".into()
            }
            Reason::AddressUnusable { .. } => "choose an address inside a subnet of the network, not its ends".into(),
            Reason::AddressesExhausted(_) => {
                "delete endpoints, or create a network with a larger subnet or range, or with one more".into()
            }
            Reason::Port(reason) => reason.remedy(),
            Reason::Full { .. } => "spread the endpoints over several networks".into(),
            Reason::Kernel { errno: EPERM, .. } => {
                "run as root, or in a user namespace with its own network namespace".into()
            }
            Reason::Kernel { errno: remedies::EMFILE, .. } => remedies::FILES.into(),
            Reason::Kernel { errno: remedies::ENFILE, .. } => remedies::FILES_OF_HOST.into(),
            Reason::Kernel { errno: remedies::EROFS, .. } => remedies::WRITABLE.into(),
            Reason::Kernel { .. } => return None,
            Reason::ClusterStore { remedy, .. } => remedy.clone(),
            Reason::Store { action: REACH_CLUSTER, .. } => "see to the cluster's store, then retry".into(),
            Reason::Store { .. } => {
                "check the data directory: free space, permissions, read-only mount".into()
            }
            Reason::Gone { .. } => "inspect the object, then retry".into(),
            Reason::DeadlineExceeded { .. } => "inspect the operations in flight, then retry".into(),
            Reason::Busy { .. } => "retry after a pause".into(),
            Reason::ShuttingDown => "start the engine again".into(),
            Reason::Overtaken { .. } => "see whether endpoint and sandbox still exist, then retry".into(),
            Reason::OutOfService { .. } => "read the cause; restart the engine to try again".into(),
            Reason::NotImplemented { .. } => "leave it out, or choose a driver that offers it".into(),
            Reason::IpamAnswer { .. } => {
                "ask for another subnet or address, or choose another ipam driver".into()
            }
            Reason::Driver { .. } | Reason::Internal { .. } => return None,
            Reason::Leaked { cause, .. } => return cause.remedy(),
        };
        Some(text)
    }
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        let certainty = match &reason {
            Reason::Gone { .. } | Reason::DeadlineExceeded { .. } | Reason::Leaked { .. } => {
                Certainty::Uncertain
            }
            Reason::InvalidName { .. }
            | Reason::InvalidId { .. }
            | Reason::InvalidOption { .. }
            | Reason::ConfigFile { .. }
            | Reason::StoreRemoved { .. }
            | Reason::StoreModified { .. }
            | Reason::NeedsRestart { .. }
            | Reason::NotFound { .. }
            | Reason::NameTaken { .. }
            | Reason::IdTaken { .. }
            | Reason::LinkTaken { .. }
            | Reason::InUse { .. }
            | Reason::ActiveEndpoints { .. }
            | Reason::OnlyInstance { .. }
            | Reason::Permanent { .. }
            | Reason::EndpointInUse { .. }
            | Reason::HostInterface { .. }
            | Reason::NoWayOut { .. }
            | Reason::NotJoined { .. }
            | Reason::WrongPhase { .. }
            | Reason::PoolOverlap { .. }
            | Reason::PoolOverlapsHost { .. }
            | Reason::PoolsExhausted(_)
            | Reason::AddressTaken { .. }
            | Reason::MacTaken { .. }
            | Reason::AddressUnusable { .. }
            | Reason::AddressesExhausted(_)
            | Reason::Port(_)
            | Reason::Full { .. }
            | Reason::Kernel { .. }
            | Reason::Store { .. }
            | Reason::ClusterStore { .. }
            | Reason::Busy { .. }
            | Reason::ShuttingDown
            | Reason::Overtaken { .. }
            | Reason::OutOfService { .. }
            | Reason::NotImplemented { .. }
            | Reason::Driver { .. }
            | Reason::IpamAnswer { .. }
            | Reason::Internal { .. } => Certainty::Aborted,
        };
        Self(Box::new(Inner { reason, certainty }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.reason.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}: {}", self.kind(), self.certainty(), self.0.reason)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
