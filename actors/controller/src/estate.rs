//! What belongs to the controller's office and not to the actor that holds it: it passes to the next
//! incarnation when that actor dies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use netloom_actor_services::Services;
use netloom_actor_services::files::FilesState;
use netloom_actor_services::firewall::FirewallState;
use netloom_actor_services::names::NamesState;
use netloom_actor_services::ports::PortsState;
use netloom_actor_services::store::Backend;
use netloom_firewall::io::Xtables;
use netloom_firewalld::Firewalld;
use netloom_model::config::DefaultPool;
use netloom_model::{EngineConfig, NetworkId, ObjectKind, OpId};
use netloom_runtime::{Port, RestartBudget};
use rustc_hash::FxBuildHasher;

use crate::actor::ControllerActor;
use crate::actor::overlap::Overlaps;
use crate::children::{DriverChild, IpamChild, NetworkChildren, SandboxChildren};
use crate::directory::DirectoryWriter;
use crate::events::EventHub;
use crate::membership::Entered;

/// The lists of everything, and what is needed to start any of it again.
#[derive(Debug)]
pub(crate) struct Estate {
    /// Where the present controller is found by those below it.
    pub(crate) port: Port<ControllerActor>,
    pub(crate) budget: RestartBudget,
    pub(crate) services: Services,
    pub(crate) events: EventHub,
    /// This start of the engine, unlike all others.
    pub(crate) engine: OpId,
    /// What others see, and the configuration in force.
    pub(crate) directory: DirectoryWriter,
    pub(crate) networks: NetworkChildren,
    pub(crate) sandboxes: SandboxChildren,
    pub(crate) drivers: HashMap<String, DriverChild, FxBuildHasher>,
    /// By name.
    pub(crate) ipams: BTreeMap<String, IpamChild>,
    /// Pools in use that overlap what the host has.
    pub(crate) overlaps: Overlaps,
    /// The nodes that discovery has told of, and which of them is this one.
    pub(crate) nodes: BTreeMap<IpAddr, bool>,
    /// Networks that the cluster's address space was away for, to be tried again.
    pub(crate) away: BTreeSet<NetworkId>,
    pub(crate) respawn: Respawn,
    pub(crate) incarnations: u64,
}

impl Estate {
    /// Whether the engine ends at once. Until a graceful end comes, who dies is started again: there are requests to
    /// be carried out.
    pub(crate) fn is_stopping(&self) -> bool {
        self.services.tools.ledger.is_stopping()
    }

    /// The default pools that a configuration means on this host.
    pub(crate) fn default_pools(&self, config: &EngineConfig) -> Vec<DefaultPool> {
        config.default_pools_on(self.respawn.host_pools)
    }

    /// An engine's, before anything was started.
    pub(crate) fn new(
        config: EngineConfig,
        services: Services,
        events: EventHub,
        engine: OpId,
        respawn: Respawn,
    ) -> Self {
        Self {
            port: Port::vacant(),
            budget: RestartBudget::default(),
            services,
            events,
            engine,
            directory: DirectoryWriter::new(config),
            networks: NetworkChildren::new(ObjectKind::Network),
            sandboxes: SandboxChildren::new(ObjectKind::Sandbox),
            drivers: HashMap::default(),
            ipams: BTreeMap::new(),
            overlaps: Overlaps::default(),
            nodes: BTreeMap::new(),
            away: BTreeSet::new(),
            respawn,
            incarnations: 0,
        }
    }
}

/// What is needed to start the store service again.
#[derive(Debug)]
pub(crate) struct Respawn {
    pub(crate) backend: Backend,
    /// The IPv6 pools of this host.
    pub(crate) host_pools: DefaultPool,
    /// The cluster that the engine is part of.
    pub(crate) cluster: Option<Entered>,
    pub(crate) store: (u64, RestartBudget),
    /// What the firewall is to say.
    pub(crate) wall: FirewallState,
    /// The programs of iptables, where they are.
    pub(crate) xtables: Option<Arc<dyn Xtables>>,
    /// The host's firewalld, which may be away.
    pub(crate) firewalld: Option<Arc<dyn Firewalld>>,
    pub(crate) firewall: (u64, RestartBudget),
    /// Who has which port of the host.
    pub(crate) held: PortsState,
    pub(crate) ports: (u64, RestartBudget),
    /// The files of names of sandboxes, where any are kept.
    pub(crate) kept_files: Option<FilesState>,
    pub(crate) files: (u64, RestartBudget),
    /// Which sandboxes have a name server.
    pub(crate) naming: NamesState,
    pub(crate) names: (u64, RestartBudget),
}

/// What else there is on the host that has to do with packets.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// The programs of iptables, where the host has them.
    pub xtables: Option<Arc<dyn Xtables>>,
    /// firewalld, which may be away; absent for an engine that leaves it alone.
    pub firewalld: Option<Arc<dyn Firewalld>>,
}

impl Respawn {
    pub(crate) fn new(
        backend: Backend,
        host_pools: DefaultPool,
        cluster: Option<Entered>,
        (wall, Neighbours { xtables, firewalld }): (FirewallState, Neighbours),
        held: PortsState,
        (kept_files, naming): (Option<FilesState>, NamesState),
    ) -> Self {
        let new = || (0, RestartBudget::default());
        let (store, firewall, ports, files, names) = (new(), new(), new(), new(), new());
        Self {
            backend,
            host_pools,
            cluster,
            store,
            wall,
            xtables,
            firewalld,
            firewall,
            held,
            ports,
            kept_files,
            files,
            naming,
            names,
        }
    }
}
