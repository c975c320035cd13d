//! What callers see: immutable pictures of objects, taken by their owners.

mod names;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::config::DatastoreConfig;
use crate::considered::PassedOver;
use crate::error::Holder;
use crate::host_port::{HostPort, HostPorts, Published};
use crate::id::{EndpointId, NetworkId, OpId, SandboxId};
use crate::ifname::IfName;
use crate::mac::MacAddr;
use crate::record::{PoolRecord, Reservation, StaticRoute, WayOut};
use crate::seldom::Seldom;
use crate::spec::{IpamSpec, Names, NamespaceSpec, Ports, SandboxSettings};

pub use names::{NameCounts, NameServerSnapshot, NameSnapshot, NamesSnapshot, UpstreamSnapshot};

/// What a network is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPhase {
    /// Being created; not usable yet.
    Creating,
    /// In service.
    Active,
    /// Being deleted.
    Deleting,
    /// Out of service after repeated failures.
    Failed,
}

/// What an endpoint is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointPhase {
    /// Being created.
    Creating,
    /// Exists and is in no sandbox.
    Idle,
    /// A place in a sandbox that waits for its namespace is kept for it.
    Reserved,
    /// Joining a sandbox.
    Joining,
    /// In a sandbox.
    Joined,
    /// Leaving its sandbox.
    Leaving,
    /// Being deleted.
    Deleting,
}

/// What a sandbox is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxPhase {
    /// Being created.
    Creating,
    /// It waits for the namespace that somebody else makes; what joins is recorded.
    Waiting,
    /// In service.
    Ready,
    /// Being deleted.
    Deleting,
    /// Out of service after repeated failures.
    Failed,
}

/// A network at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NetworkSnapshot {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// What it is doing.
    pub phase: NetworkPhase,
    /// Why it is out of service, where it is.
    pub failure: Option<String>,
    /// Whether endpoints get an IPv6 address.
    pub ipv6: bool,
    /// Whether it is cut off from the outside.
    pub internal: bool,
    /// Labels of the caller.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// IPv4 pools.
    pub v4: Vec<PoolRecord>,
    /// IPv6 pools.
    pub v6: Vec<PoolRecord>,
    /// What was asked for of its address pools.
    pub ipam: IpamSpec,
    /// The addresses that are kept for endpoints of a name, by that name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reservations: BTreeMap<String, Reservation>,
    /// The default pools that were passed over for it because of the host.
    #[serde(default, skip_serializing_if = "PassedOver::is_empty")]
    pub passed_over: PassedOver,
    /// Whether it outlives the engine.
    pub persist: bool,
    /// Its endpoints, by name.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// An endpoint at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointSnapshot {
    /// Its identifier.
    pub id: EndpointId,
    /// Its name.
    pub name: String,
    /// The network it belongs to.
    pub network: NetworkId,
    /// What it is doing.
    pub phase: EndpointPhase,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Net>,
    /// The sandbox it is in.
    pub sandbox: Option<SandboxId>,
    /// The interface's name in that sandbox.
    pub ifname: Option<IfName>,
    /// The IPv4 gateway it offers that sandbox.
    pub gateway: Option<IpAddr>,
    /// The IPv6 gateway it offers that sandbox.
    pub gateway6: Option<IpAddr>,
    /// Further routes that its driver wants in that sandbox.
    pub routes: Vec<StaticRoute>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Seldom<Ports>,
    /// Its names beside its own.
    pub names: Seldom<Names>,
    /// The host's ports that lead to it now.
    pub published: Seldom<Published>,
    /// Labels of the caller.
    pub labels: BTreeMap<String, String>,
}

/// The ports of the host that an endpoint has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortsSnapshot {
    /// The endpoint.
    pub endpoint: Holder,
    /// Its ports.
    pub ports: Vec<HostPorts>,
    /// Whether they are being given back.
    pub leaving: bool,
    /// Those that no socket of the engine holds: somebody else on the host may serve them.
    pub unheld: Vec<UnheldSnapshot>,
    /// Those that the engine itself passes on, beside the kernel.
    pub served: Vec<ServedSnapshot>,
}

/// A port that no socket holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnheldSnapshot {
    /// The port.
    pub port: HostPort,
    /// Why it could not be held.
    pub why: String,
}

/// A port that the engine itself passes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServedSnapshot {
    /// The port, or the first of a row; one of both families by its IPv4 half.
    pub port: HostPort,
    /// The last of the row.
    pub last: u16,
    /// Where the first leads.
    pub to: SocketAddr,
    /// The engine's own port, to which the firewall leads whoever comes; `None` where the port itself is listened to.
    pub via: Option<u16>,
    /// Connections, or clients of UDP, that are there now.
    pub open: u64,
    /// All that ever were.
    pub total: u64,
    /// Clients that did not get through.
    pub refused: u64,
    /// Bytes to the container.
    pub bytes_in: u64,
    /// Bytes from it.
    pub bytes_out: u64,
}

/// A sandbox at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SandboxSnapshot {
    /// Its identifier.
    pub id: SandboxId,
    /// The container it is for.
    pub container_id: String,
    /// What it is doing.
    pub phase: SandboxPhase,
    /// Why it is out of service, where it is.
    pub failure: Option<String>,
    /// Where its namespace is, or will be when it is told (libnetwork's `Key`).
    pub key: PathBuf,
    /// Which namespace that is.
    pub namespace: NamespaceSpec,
    /// The container's host name; empty for none.
    pub hostname: String,
    /// What few sandboxes have.
    pub settings: Option<Box<SandboxSettings>>,
    /// The files to be mounted in the container; `None` from an engine that keeps none, such as a simulated one.
    pub files: Option<SandboxFilePaths>,
    /// The endpoints in it, best gateway first.
    pub endpoints: Vec<SandboxEndpoint>,
    /// The IPv4 default gateway it uses.
    pub gateway: Option<IpAddr>,
    /// The IPv6 default gateway it uses.
    pub gateway6: Option<IpAddr>,
    /// Labels of the caller.
    pub labels: BTreeMap<String, String>,
}

/// The files in which a container's programs find names. They are written in place, so they can be mounted as they are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxFilePaths {
    /// To be mounted as `/etc/hosts`.
    pub hosts: PathBuf,
    /// To be mounted as `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// One endpoint in a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// The interface's name.
    pub ifname: IfName,
    /// The priority in the gateway election.
    pub priority: i32,
    /// What it has to do with the way out.
    pub way_out: WayOut,
}

/// An operation that has not ended yet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OperationSnapshot {
    /// Its identifier.
    pub id: OpId,
    /// What it does, such as `join_sandbox`.
    pub verb: String,
    /// The object it does it to.
    pub object: String,
    /// The step it is at.
    pub step: String,
    /// How long it has been running.
    pub running_for: Duration,
}

/// An IPAM driver at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IpamSnapshot {
    /// Its name.
    pub driver: String,
    /// The cluster store that it was told of.
    pub cluster_store: Option<DatastoreConfig>,
    /// Its address spaces.
    pub spaces: Vec<String>,
    /// The blocks from which networks without a subnet get theirs, in the order in which they are tried.
    pub default_pools: Vec<DefaultPoolSnapshot>,
    /// Every pool in use, by the names of the networks.
    pub pools: Vec<PoolSnapshot>,
}

/// A block of default pools at one moment. In JSON, a number above 2^53 is a text of its digits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DefaultPoolSnapshot {
    /// The block.
    pub base: IpNet,
    /// The prefix length of each pool in it.
    pub size: u8,
    /// How many pools it has; 2^64 - 1 also for more.
    #[serde(with = "crate::wide")]
    pub total: u64,
    /// How many of them networks have, in whole or in part.
    #[serde(with = "crate::wide")]
    pub used: u64,
    /// How many of the others are not to be had because the host uses them; `None` where the host was not looked at.
    #[serde(with = "crate::wide::option")]
    pub of_host: Option<u64>,
}

/// A pool in use at one moment. All numbers are addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolSnapshot {
    /// Its address space.
    pub space: String,
    /// The subnet.
    pub pool: IpNet,
    /// The part of it from which addresses are chosen; `None` for all of it.
    pub range: Option<IpNet>,
    /// The network that has it.
    pub network: NetworkId,
    /// That network's name.
    pub name: String,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// The addresses of the subnet. In JSON a text of digits where they are more than 2^53.
    #[serde(with = "crate::wide")]
    pub size: u128,
    /// Leased to endpoints.
    pub used: u64,
    /// Never handed out: network and broadcast address, gateway, auxiliary addresses.
    pub reserved: u64,
    /// Held back until the kernel has let go of a deleted endpoint.
    pub quarantined: u64,
}

impl PoolSnapshot {
    /// What is left, whether or not the range lets it be chosen.
    #[must_use]
    pub fn free(&self) -> u128 {
        let taken = [self.used, self.reserved, self.quarantined].map(u128::from);
        taken.iter().fold(self.size, |left, taken| left.saturating_sub(*taken))
    }
}

/// Who holds addresses of a network, by address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Holders {
    /// The first ones.
    pub holders: Vec<AddressHolder>,
    /// How many more there are.
    pub more: u64,
}

/// Who holds an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AddressHolder {
    /// The address.
    pub address: IpAddr,
    /// In words: `gateway`, `auxiliary NAME`, an endpoint, or the quarantine of one that was deleted.
    pub holder: String,
}

/// A pool in use that overlaps an address or a route of the host. A new network would not get it; this one has it,
/// because the host has learnt the other subnet since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolOverlap {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: IpNet,
    /// The subnet of the host.
    pub other: IpNet,
    /// What the host uses that for: `an address` or `a route`.
    pub what: String,
}

/// How things are with the engine's part of the host's firewall.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FirewallSnapshot {
    /// What rules are said to: `nftables`, `iptables` or `none`.
    pub backend: String,
    /// Why that was chosen.
    pub reason: String,
    /// Where the rules are, such as `table inet netloom`; empty where there are none.
    pub place: String,
    /// Why there are no rules although there should be.
    pub missing: Option<String>,
    /// How many networks have rules.
    pub networks: usize,
    /// How many endpoints have published ports.
    pub endpoints: usize,
    /// How often the rules were found other than they should be, and repaired.
    pub repairs: u64,
    /// Why they are not as they should be now.
    pub trouble: Option<String>,
    /// Why what other backends have of this engine could not be removed.
    pub leftovers: Option<String>,
    /// What of the host's stands in the way of packets that the rules let through.
    pub obstacles: Vec<Obstacle>,
    /// The host's firewalld; absent where the engine was built or started without a client of it.
    pub firewalld: Option<FirewalldSnapshot>,
}

/// How things are with the host's firewalld.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FirewalldSnapshot {
    /// Whether it is there, for this network namespace.
    pub running: bool,
    /// Its version.
    pub version: String,
    /// What its rules are in: `nftables` or `iptables`.
    pub backend: String,
    /// The zone that bridges are put into.
    pub zone: String,
    /// The bridges that are in it.
    pub bridges: Vec<IfName>,
    /// Bridges that somebody has put into another zone, where they are left, and which.
    pub elsewhere: Vec<(IfName, String)>,
    /// Why not all is as it should be.
    pub trouble: Option<String>,
}

/// Something of the host's that stands in the way of packets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Obstacle {
    /// What it is, such as `net.ipv4.ip_forward`.
    pub name: String,
    /// What it does.
    pub what: String,
    /// Commands, for root's shell, that take it out of the way until the next boot.
    pub remedy: Vec<String>,
}

/// The whole engine at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EngineSnapshot {
    /// Every network with its endpoints.
    pub networks: Vec<NetworkSnapshot>,
    /// Every sandbox.
    pub sandboxes: Vec<SandboxSnapshot>,
    /// Every IPAM driver; one that is being started again is missing.
    pub ipam: Vec<IpamSnapshot>,
    /// The engine's part of the host's firewall; absent while it is being started again.
    pub firewall: Option<FirewallSnapshot>,
    /// The name servers of sandboxes, by their containers; none while the service for them is being started again.
    pub name_servers: Vec<NameServerSnapshot>,
    /// Pools in use that overlap what the host has learnt, by network. Of one pool 64 are listed at most.
    pub overlaps: Vec<PoolOverlap>,
    /// Operations in flight.
    pub operations: Vec<OperationSnapshot>,
    /// What could not be undone and is being retried.
    pub leaks: Vec<String>,
    /// Kernel clean-up running behind the callers' backs.
    pub reaping: usize,
}
