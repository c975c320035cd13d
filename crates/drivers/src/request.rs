//! What drivers are asked and what they answer (libnetwork's `driverapi`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use netloom_kernel::{AddressView, LinkView, Netns, Op, RouteView};
use netloom_model::config::{DatastoreConfig, Scope};
use netloom_model::record::{EndpointRecord, NetworkRecord, PoolRecord, StaticRoute};
use netloom_model::{
    EndpointId, IfName, JoinId, MacAddr, NetworkId, Ports, Published, SandboxId, SandboxSpec, Seldom,
};

use crate::outside::Addresses;

/// What a driver can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// How far its networks reach (`DataScope`).
    pub scope: Scope,
    /// Whether its networks need address pools. `host` and `null` networks have none.
    pub needs_ipam: bool,
    /// Whether several networks, this driver's or others', can lie in one subnet and lease from its addresses together,
    /// as macvlan and ipvlan networks of different parents do. The subnet may be one that the host has an address of.
    /// The subnet of a bridge is its own: the host routes it there.
    pub shares_pools: bool,
    /// Whether its endpoints can be the way out of a sandbox; `host` and `null` never are. A gateway that a join
    /// of another driver tells is not used.
    pub provides_gateway: bool,
    /// The options that name a link of the host's which a network takes over: what that has of addresses is not
    /// in the network's way.
    pub adopts: &'static [&'static str],
    /// Whether it has one network at most, which stays once it is made, as `host` and `null` have: another one is
    /// refused, and so is its deletion.
    pub permanent: bool,
    /// Whether it has to hear that an endpoint is its sandbox's way out also where that publishes nothing. libnetwork
    /// always calls; a driver that does nothing then saves every join a call.
    /// That it is the way out no more is told in any case.
    pub hears_of_bare: bool,
}

/// Whether something is made now or was made before a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// Made now: an object in the way is an error.
    Fresh,
    /// Read back from the store: what the kernel still has is adopted, what it lost is made again.
    FromStore,
}

/// What the kernel has, for [`crate::Driver::recover`].
#[derive(Clone, Debug, Default)]
pub struct KernelSurvey {
    /// Links of the host's namespace.
    pub links: Vec<LinkView>,
    /// Their addresses.
    pub addresses: Vec<AddressView>,
    /// The namespaces of sandboxes.
    pub inside: Vec<Inside>,
}

/// What is in the namespace of a sandbox.
#[derive(Clone, Debug)]
pub struct Inside {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its links.
    pub links: Vec<LinkView>,
    /// Their addresses.
    pub addresses: Vec<AddressView>,
    /// Its routes.
    pub routes: Vec<RouteView>,
}

/// A network whose records were lost, rebuilt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The network.
    pub network: NetworkRecord,
    /// Its endpoints that are in sandboxes.
    pub endpoints: Vec<EndpointRecord>,
}

/// Make a network.
#[derive(Clone, Debug)]
pub struct CreateNetwork {
    /// Its identifier.
    pub network: NetworkId,
    /// Its name, for messages.
    pub name: String,
    /// New or read back.
    pub restored: Restored,
    /// Driver options (`com.docker.network.generic`).
    pub options: BTreeMap<String, String>,
    /// Whether it is cut off from the outside.
    pub internal: bool,
    /// Whether its endpoints get IPv6 addresses.
    pub ipv6: bool,
    /// Its IPv4 pools.
    pub v4: Vec<PoolRecord>,
    /// Its IPv6 pools.
    pub v6: Vec<PoolRecord>,
    /// What [`crate::Driver::survey_network`] answered for it, now or before a restart.
    pub found: BTreeMap<String, String>,
}

/// A network was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkCreated {
    /// The gossip tables whose events the driver wants for this network (`TableEventRegister`). Only
    /// drivers of global scope may name any.
    pub tables: Vec<String>,
    /// Kernel objects that had to be made again though the network was read back.
    pub remade: Vec<String>,
}

/// Make an endpoint.
#[derive(Clone, Debug)]
pub struct CreateEndpoint {
    /// Its network.
    pub network: NetworkId,
    /// Its identifier.
    pub endpoint: EndpointId,
    /// Its name, for messages.
    pub name: String,
    /// New or read back.
    pub restored: Restored,
    /// Its address.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Net>,
    /// The hardware address that the caller fixed.
    pub mac: Option<MacAddr>,
    /// Driver options of the endpoint.
    pub options: BTreeMap<String, String>,
    /// Its ports (`com.docker.network.endpoint.exposedports` and `com.docker.network.portmap`).
    pub ports: Seldom<Ports>,
    /// Its place in a sandbox, when it is read back and was joined.
    pub joined: Option<Present>,
}

/// A join that is in effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Present {
    /// Which one.
    pub join: JoinId,
    /// The host's end of its link, if it has one.
    pub link: Option<IfName>,
}

/// An endpoint was made. A driver fills in only what was left open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointCreated {
    /// Its hardware address, if the driver has a say in it.
    pub mac: Option<MacAddr>,
    /// Its address, where IPAM gave none.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address, where IPAM gave none.
    pub ipv6: Option<Ipv6Net>,
    /// What its interface's name begins with inside a sandbox, such as `eth` (`SetNames`). `None` for an
    /// endpoint that brings no interface.
    pub interface_prefix: Option<String>,
    /// Kernel objects that had to be put right though the endpoint was read back.
    pub remade: Vec<String>,
}

/// What a driver tells about an endpoint (`EndpointOperInfo`), by libnetwork's keys.
pub type OperInfo = BTreeMap<String, String>;

/// What a sandbox tells the drivers of its endpoints (libnetwork's `Sandbox.Labels`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SandboxOptions {
    /// Labels of the caller.
    pub labels: BTreeMap<String, String>,
    /// Options for drivers (`OptionGeneric`).
    pub options: BTreeMap<String, String>,
    /// The ports of the container.
    pub ports: Ports,
    /// Whether a cluster's published ports come in through it.
    pub ingress: bool,
}

impl From<&SandboxSpec> for SandboxOptions {
    fn from(spec: &SandboxSpec) -> Self {
        let settings = spec.settings.as_deref().cloned().unwrap_or_default();
        let (labels, options, ports) = (spec.labels.clone(), settings.options, settings.ports);
        Self { labels, options, ports, ingress: settings.ingress }
    }
}

/// Attach an endpoint to a sandbox.
#[derive(Clone, Debug)]
pub struct Join {
    /// Its network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// This join, unlike all others.
    pub join: JoinId,
    /// The sandbox's namespace.
    pub netns: Netns,
    /// The interface's name there, chosen by the sandbox and never used before in its life.
    pub ifname: IfName,
    /// What the sandbox tells.
    pub sandbox: Arc<SandboxOptions>,
}

/// How the interface got into the sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Interface {
    /// There is none.
    #[default]
    None,
    /// The driver made it in place, under its final name and hardware address, still down. `link` is the
    /// host's end, if it has one.
    InPlace {
        /// The host's end.
        link: Option<IfName>,
    },
    /// The driver made it in the host's namespace; the sandbox moves and renames it. Slow.
    Move {
        /// Its name there.
        from: IfName,
    },
}

/// An entry of a gossip table, owned by an endpoint: published after the join, withdrawn at its leave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableEntry {
    /// The table.
    pub table: String,
    /// The key, unique within the table and the network.
    pub key: String,
    /// Opaque bytes.
    pub value: Vec<u8>,
}

/// Everything a join comes to, in one value (libnetwork's `JoinInfo`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Joined {
    /// The interface.
    pub interface: Interface,
    /// The IPv4 gateway.
    pub gateway: Option<IpAddr>,
    /// The IPv6 gateway.
    pub gateway6: Option<IpAddr>,
    /// Further routes.
    pub routes: Vec<StaticRoute>,
    /// The sandbox needs no default gateway network on account of this endpoint.
    pub disable_gateway_service: bool,
    /// Whoever can have had its IPv4 address before, as far as a neighbour may remember, had its hardware address in the
    /// same place: neighbours need not be told then. `false`, as from a driver that does not know, means that they are.
    pub ipv4_settled: bool,
    /// Entries to publish.
    pub table_entries: Vec<TableEntry>,
}

/// Take an endpoint out of its sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Leave {
    /// Its network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The join that ends. It may be an earlier one than the present one, which is not touched then: a
    /// failed removal is asked for again until it succeeds.
    pub join: JoinId,
}

/// An endpoint was cut off: nothing reaches it any more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// What is left to do behind the caller's back, such as deleting a link, which waits for RCU. Until it
    /// is done the endpoint's address, MAC and ports stay quarantined.
    pub remains: Vec<Op>,
}

/// Let an endpoint be reached from outside (`ProgramExternalConnectivity`).
#[derive(Clone, Debug)]
pub struct ExternalConnectivity {
    /// Its network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name, for whoever wants the same port of the host.
    pub name: Arc<str>,
    /// Its addresses.
    pub addresses: Addresses,
    /// The ports of the endpoint.
    pub ports: Seldom<Ports>,
    /// What its sandbox tells, the container's ports among it.
    pub sandbox: Arc<SandboxOptions>,
    /// The ports of the host that led to it before, if the driver is asked again.
    pub published: Seldom<Published>,
}

/// An endpoint is reached from outside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Programmed {
    /// The ports of the host that lead to it.
    pub published: Seldom<Published>,
}

/// What node discovery found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeDiscovery {
    /// The node's address.
    pub address: IpAddr,
    /// Whether it is this node.
    pub this_node: bool,
}

/// What discovery has to say (`DiscoverNew`, `DiscoverDelete`).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Discovery {
    /// A node appeared.
    NodeAppeared(NodeDiscovery),
    /// A node went away.
    NodeLost(NodeDiscovery),
    /// The cluster store's configuration is known, or its client's options have changed. Told again to a driver
    /// that was restarted.
    DatastoreConfigured(DatastoreConfig),
}

/// What happened to an entry of a gossip table on another node (`EventNotify`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableOperation {
    /// It appeared.
    Create,
    /// It changed.
    Update,
    /// It is gone.
    Delete,
}

/// An event of a gossip table that the driver registered for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableEvent {
    /// The network.
    pub network: NetworkId,
    /// What happened.
    pub operation: TableOperation,
    /// The entry, with its value before a deletion.
    pub entry: TableEntry,
}
