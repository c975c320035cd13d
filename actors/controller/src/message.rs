//! What the controller can be asked.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use netloom_actor_network::NetworkActor;
use netloom_actor_sandbox::{Member, SandboxActor};
use netloom_drivers::Registration;
use netloom_ipam::driver::IpamRegistration;
use netloom_model::record::{EndpointRecord, NetworkRecord, SandboxRecord};
use netloom_model::snapshot::{
    EngineSnapshot, Holders, IpamSnapshot, NameServerSnapshot, NamesSnapshot, NetworkSnapshot, PortsSnapshot,
    SandboxSnapshot,
};
use netloom_model::{
    EndpointId, EngineConfig, LiveSet, NetworkId, NetworkSpec, ObjectKind, PurgedHost, ReconcileReport,
    ReleasedSandbox, Repair, Result, SandboxId, SandboxSpec,
};
use netloom_runtime::{Addr, Exit, Permits, messages};
use uuid::Uuid;

use netloom_actor_services::store::StoreStats;

use crate::difference::Difference;

/// Make a network. Its identifier is chosen by the caller, before the first effect.
#[derive(Clone, Debug)]
pub struct CreateNetwork {
    /// Its identifier.
    pub id: NetworkId,
    /// What is asked for.
    pub spec: NetworkSpec,
}

/// Delete a network.
#[derive(Clone, Copy, Debug)]
pub struct DeleteNetwork {
    /// The network.
    pub id: NetworkId,
    /// Delete its endpoints first, wherever they are and whatever is under way on them. All random: becomes the
    /// identifiers of the ways out that their sandboxes may need then.
    pub force: Option<Uuid>,
}

/// Make the network that is the way out of sandboxes whose endpoints have none, unless it is there. The
/// identifier is chosen by the caller, before the first effect.
#[derive(Clone, Copy, Debug)]
pub struct ProvideWayOut {
    /// Its identifier, should it be made.
    pub id: NetworkId,
}

/// Make a sandbox. Its identifier is chosen by the caller, before the first effect.
#[derive(Clone, Debug)]
pub struct CreateSandbox {
    /// Its identifier.
    pub id: SandboxId,
    /// What is asked for.
    pub spec: SandboxSpec,
}

/// Delete a sandbox; its endpoints leave first.
#[derive(Clone, Copy, Debug)]
pub struct DeleteSandbox {
    /// The sandbox.
    pub id: SandboxId,
    /// End what is under way in it, and go on although an endpoint cannot leave.
    pub force: bool,
}

/// Delete an endpoint wherever it is and whatever is under way on it.
#[derive(Clone, Copy, Debug)]
pub struct ForceDeleteEndpoint {
    /// Its network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// All random: becomes the identifier of the way out that its sandbox may need then.
    pub spare: Uuid,
}

/// Take over from a controller that died.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakeOver;

/// Wait until the kernel has let go of everything that was deleted.
#[derive(Clone, Copy, Debug)]
pub struct Drain;

/// How an engine stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownMode {
    /// Operations in flight are carried out, and the kernel's clean-up is waited for.
    Graceful,
    /// Operations in flight stop at their next step and are undone.
    Immediate,
}

/// Stop taking requests and end what is in flight. Networks and sandboxes stay as they are.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// How.
    pub mode: ShutdownMode,
    /// How long operations in flight may still take.
    pub patience: Duration,
    /// Requests that were let in before; nobody is any more.
    pub inside: Permits,
}

/// Everything at once.
#[derive(Clone, Copy, Debug)]
pub struct InspectEngine;

/// The types of the registered drivers.
#[derive(Clone, Copy, Debug)]
pub struct ListDrivers;

/// Go over to a new configuration, or refuse it and keep the present one.
#[derive(Clone, Debug)]
pub struct ReloadConfiguration(pub EngineConfig);

/// The names of the IPAM drivers.
#[derive(Clone, Copy, Debug)]
pub struct ListIpamDrivers;

/// Every IPAM driver with its pools, and what the host leaves of the default ones.
#[derive(Clone, Copy, Debug)]
pub struct InspectAddresses;

/// Who holds addresses of a network.
#[derive(Clone, Copy, Debug)]
pub struct ListHolders {
    /// The network.
    pub network: NetworkId,
    /// How many are listed, by address; the rest is counted.
    pub limit: usize,
}

/// Give back all that a host of the cluster has, and its name: it is gone for good.
#[derive(Clone, Debug)]
pub struct PurgeHost(pub String);

/// Bring those networks into service that the cluster's address space was away for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReviveDue;

/// The store's counters.
#[derive(Clone, Copy, Debug)]
pub struct StoreCounters;

/// An actor to be made to panic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Victim {
    /// The actor of a network.
    Network(NetworkId),
    /// The actor of a sandbox.
    Sandbox(SandboxId),
    /// The actor of a driver.
    Driver(String),
    /// The actor of the IPAM driver `default`.
    Ipam,
    /// The actor of an IPAM driver.
    IpamDriver(String),
    /// The store service.
    Store,
    /// The firewall service.
    Firewall,
    /// The ports service.
    Ports,
    /// The files service.
    Files,
    /// The name service.
    Names,
    /// The controller itself.
    Controller,
}

/// Who has which ports of the host?
#[derive(Clone, Copy, Debug)]
pub struct InspectPorts;

/// The service records of every network.
#[derive(Clone, Copy, Debug)]
pub struct InspectNames;

/// How the name servers of sandboxes do.
#[derive(Clone, Copy, Debug)]
pub struct InspectNameServers;

/// Make an actor panic: fault injection for harnesses.
#[derive(Clone, Debug)]
pub struct CrashActor(pub Victim);

/// Start the services and the drivers. The first message of every controller.
#[derive(Debug)]
pub(crate) struct StartChildren(pub(crate) Vec<Registration>, pub(crate) Vec<IpamRegistration>);

/// Have a driver remove what is left of a network.
#[derive(Clone, Debug)]
pub(crate) struct TakeDown(pub(crate) NetworkRecord);

/// Bring a network back into service whose record was read at the start.
#[derive(Clone, Debug)]
pub(crate) struct RestoreNetwork(pub(crate) NetworkRecord, pub(crate) Vec<EndpointRecord>);

/// Bring a sandbox back into service whose record was read at the start.
#[derive(Clone, Debug)]
pub(crate) struct RestoreSandbox {
    pub(crate) record: SandboxRecord,
    pub(crate) members: Vec<Member>,
    /// Whether its container does not live: it is listed, to be released, and nothing of it is put right.
    pub(crate) dead: bool,
}

/// Release a sandbox whose container does not live, with its endpoints. Answers with nothing when it is going already,
/// or is not the one that was meant any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReleaseSandbox {
    pub(crate) id: SandboxId,
    /// When it came into service; `None` during the start, when there is nobody who could have changed it.
    pub(crate) born: Option<u64>,
}

/// Release the sandboxes that do not live, and remove what is the engine's own and no record knows.
#[derive(Clone, Debug)]
pub struct Reconcile(pub LiveSet);

/// Compare what the kernel has with what it should have. Changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Diff;

/// Look at what the host uses, and compare it with the pools in use. Answered when that has been done, or could not be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookAtHost;

/// News that came shortly after a look may be looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookDue;

/// A node of the cluster appeared or went away, as discovery has it (libnetwork's `processNodeDiscovery`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeChanged {
    /// Its address.
    pub address: IpAddr,
    /// Whether it is this node.
    pub this_node: bool,
    /// Whether it is there now.
    pub present: bool,
}

/// Addresses or routes of the host have changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct HostChanged {
    /// What it has learnt, and by which link.
    pub(crate) came: Vec<(IpNet, Option<u32>)>,
    /// Whether it has lost anything.
    pub(crate) went: bool,
    /// Whether there is more that is not known.
    pub(crate) lost: bool,
}

/// Every network and every sandbox, whatever becomes of it at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListOwners;

/// Who answers for objects of the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    pub(crate) networks: Vec<(NetworkId, Addr<NetworkActor>)>,
    pub(crate) sandboxes: Vec<SandboxOwner>,
}

/// A sandbox, as somebody who answers for objects of the kernel.
#[derive(Clone, Debug)]
pub(crate) struct SandboxOwner {
    pub(crate) id: SandboxId,
    pub(crate) container_id: String,
    /// When it came into service, if it has and is not going.
    pub(crate) born: Option<u64>,
    pub(crate) addr: Addr<SandboxActor>,
}

/// Who ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Child {
    Network(NetworkId),
    Sandbox(SandboxId),
    Driver(String),
    Ipam(String),
    Store,
    Firewall,
    Ports,
    Files,
    Names,
}

impl Child {
    pub(crate) fn named(&self) -> (ObjectKind, String) {
        match self {
            Self::Network(id) => (ObjectKind::Network, id.to_string()),
            Self::Sandbox(id) => (ObjectKind::Sandbox, id.to_string()),
            Self::Driver(kind) => (ObjectKind::Driver, kind.clone()),
            Self::Ipam(name) => (ObjectKind::IpamDriver, name.clone()),
            Self::Store => (ObjectKind::Controller, "store".into()),
            Self::Firewall => (ObjectKind::Controller, "firewall".into()),
            Self::Ports => (ObjectKind::Controller, "ports".into()),
            Self::Files => (ObjectKind::Controller, "files".into()),
            Self::Names => (ObjectKind::Controller, "names".into()),
        }
    }
}

/// An actor that the controller started has ended.
#[derive(Clone, Debug)]
pub(crate) struct ChildExited {
    pub(crate) child: Child,
    /// Which incarnation of it: a late report about an earlier one changes nothing.
    pub(crate) incarnation: u64,
    pub(crate) exit: Exit,
}

messages! {
    CreateNetwork => Result<NetworkSnapshot>;
    DeleteNetwork => Result<()>;
    ProvideWayOut => Result<NetworkId>;
    CreateSandbox => Result<SandboxSnapshot>;
    DeleteSandbox => Result<()>;
    ForceDeleteEndpoint => Result<()>;
    Drain => Result<()>;
    Shutdown => ();
    InspectEngine => EngineSnapshot;
    ListDrivers => Vec<String>;
    StoreCounters => Result<StoreStats>;
    CrashActor => ();
    StartChildren => Result<()>;
    TakeOver => ();
    TakeDown => Result<()>;
    RestoreNetwork => Result<Vec<Repair>>;
    RestoreSandbox => Result<Vec<Repair>>;
    ReleaseSandbox => Result<Option<ReleasedSandbox>>;
    Reconcile => Result<ReconcileReport>;
    Diff => Result<Vec<Difference>>;
    ListOwners => Owners;
    LookAtHost => ();
    HostChanged => ();
    LookDue => ();
    NodeChanged => ();
    ChildExited => ();
    ReloadConfiguration => Result<()>;
    ListIpamDrivers => Vec<String>;
    InspectPorts => Result<Vec<PortsSnapshot>>;
    InspectNames => Vec<NamesSnapshot>;
    InspectNameServers => Result<Vec<NameServerSnapshot>>;
    InspectAddresses => Vec<IpamSnapshot>;
    ListHolders => Result<Holders>;
    PurgeHost => Result<PurgedHost>;
    ReviveDue => ();
}
