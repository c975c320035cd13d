//! The controller's handle: networks and sandboxes.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use netloom_actor_controller::{
    CreateNetwork, CreateSandbox, InspectAddresses, InspectNameServers, InspectNames, InspectPorts,
    ListDrivers, ListIpamDrivers, PurgeHost, ReloadConfiguration,
};
use netloom_actor_sandbox::SandboxEntry;
use netloom_model::error::check_name;
use netloom_model::snapshot::{IpamSnapshot, NameServerSnapshot, NamesSnapshot, PortsSnapshot};
use netloom_model::{
    ControllerId, EngineConfig, Error, ErrorKind, NetworkId, NetworkSpec, ObjectKind, PurgedHost, Result,
    SandboxId, SandboxSpec,
};

use crate::core::{Core, fresh};
use crate::network::Network;
use crate::sandbox::Sandbox;

/// Makes and finds networks and sandboxes (libnetwork's `NetworkController`).
#[derive(Clone, Debug)]
pub struct Controller {
    core: Arc<Core>,
}

impl Controller {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Its identifier: that of the engine's directories, and over a kernel of the embedder's a new one at each start.
    #[must_use]
    pub fn id(&self) -> ControllerId {
        self.core.id
    }

    /// A copy of the configuration in force.
    #[must_use]
    pub fn config(&self) -> EngineConfig {
        (*self.core.config()).clone()
    }

    /// Goes over to a new configuration, as a whole or not at all (libnetwork's `ReloadConfiguration`). Stores may be
    /// added. Limits, times, default pools, name servers' files and defaults hold for what begins from now on; drivers
    /// get their labels and options when they are made again, and are told of a new cluster store now.
    ///
    /// # Errors
    /// `InvalidParameter` for a bad configuration, or one that a driver cannot use; `Forbidden` when a store would be
    /// removed or replaced, or for a key that needs a restart. Nothing is changed then, unless the error says
    /// otherwise.
    pub async fn reload(&self, config: EngineConfig) -> Result<()> {
        self.core.ask(self.core.controller()?, ReloadConfiguration(config)).await
    }

    /// Gives back all that a host has in the cluster's address space, and its name there, and says what that was. For a host
    /// that is gone for good, or whose engine has lost its identity: whether it is, nobody can tell from here, and what a
    /// host that still runs has would be given to others.
    ///
    /// # Errors
    /// `NotFound` for a host of which the cluster knows nothing, and where there is no cluster; `InvalidParameter` for the
    /// engine's own; `Conflict` when an engine has taken the name meanwhile; `Internal` and `Timeout` when the store does
    /// not answer. What was removed by then stays so: asked again, the rest goes.
    pub async fn purge_cluster_host(&self, host: impl Into<String>) -> Result<PurgedHost> {
        self.core.ask(self.core.controller()?, PurgeHost(host.into())).await
    }

    /// Makes a network. A blank driver stands for the configured `default_driver`.
    ///
    /// # Errors
    /// `InvalidParameter` for a malformed spec, `Conflict` when the name or the id is taken, `NotFound` for an
    /// unknown driver, `Forbidden` for a subnet that overlaps, `Exhausted` when no pool is left, `Busy`,
    /// `Timeout`, or what the driver refuses. Nothing is changed then, unless the error says otherwise.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<Network> {
        let (a, b) = fresh();
        let id = spec.id.unwrap_or_else(|| NetworkId::from_uuids(a, b));
        let snapshot = self.core.ask(self.core.controller()?, CreateNetwork { id, spec }).await?;
        Ok(Network::new(self.core.clone(), snapshot.id, &snapshot.name))
    }

    /// Every network in service, by name; not one that is being deleted.
    #[must_use]
    pub fn networks(&self) -> Vec<Network> {
        let mut all: Vec<_> = self.core.directory.networks.values();
        all.retain(|entry| !entry.leaving.is_set());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.iter().map(|entry| Network::new(self.core.clone(), entry.id, &entry.name)).collect()
    }

    /// Visits networks by name until `visit` breaks.
    pub fn walk_networks(&self, visit: impl FnMut(Network) -> ControlFlow<()>) {
        let _ = self.networks().into_iter().try_for_each(visit);
    }

    /// The network of this name.
    ///
    /// # Errors
    /// `InvalidParameter` for a blank name, `NotFound` for an unknown one.
    pub fn network_by_name(&self, name: &str) -> Result<Network> {
        check_name(ObjectKind::Network, name)?;
        let id = self.core.directory.network_names.get(&name.to_owned());
        let id = id.ok_or_else(|| Error::not_found(ObjectKind::Network, name))?;
        match self.core.directory.networks.get(&id) {
            Some(entry) if !entry.leaving.is_set() => Ok(Network::new(self.core.clone(), *id, name)),
            _ => Err(Error::not_found(ObjectKind::Network, name)),
        }
    }

    /// The configured `default_network`.
    ///
    /// # Errors
    /// `NotFound` when none is configured, or no network has that name.
    pub fn default_network(&self) -> Result<Network> {
        match &self.core.config().default_network {
            Some(name) => self.network_by_name(name),
            None => Err(Error::not_found(ObjectKind::Network, "default_network, which is not configured")),
        }
    }

    /// The network of this identifier.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn network(&self, id: NetworkId) -> Result<Network> {
        let entry = self.core.directory.networks.get(&id);
        let entry = entry.ok_or_else(|| Error::not_found(ObjectKind::Network, id))?;
        Ok(Network::new(self.core.clone(), id, &entry.name))
    }

    /// Makes a sandbox: with a network namespace of its own, or the host's, or one that is told later
    /// ([`Sandbox::set_key`]).
    ///
    /// # Errors
    /// `InvalidParameter` for a malformed spec, `Conflict` when the container has a sandbox already, `Busy`,
    /// `Timeout`, or what the kernel refuses. Nothing is changed then, unless the error says otherwise.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let (a, b) = fresh();
        let id = SandboxId::from_uuids(a, b);
        let snapshot = self.core.ask(self.core.controller()?, CreateSandbox { id, spec }).await?;
        Ok(Sandbox::new(self.core.clone(), snapshot.id, &snapshot.container_id))
    }

    /// Every sandbox in service.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        let mut all: Vec<_> = self.core.directory.sandboxes.values();
        all.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        all.iter().map(|entry| Sandbox::new(self.core.clone(), entry.id, &entry.container_id)).collect()
    }

    /// Visits sandboxes by container until `visit` breaks.
    pub fn walk_sandboxes(&self, visit: impl FnMut(Sandbox) -> ControlFlow<()>) {
        let _ = self.sandboxes().into_iter().try_for_each(visit);
    }

    /// The sandbox of this identifier.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn sandbox(&self, id: SandboxId) -> Result<Sandbox> {
        let entry = self.core.directory.sandboxes.get(&id);
        let entry = entry.ok_or_else(|| Error::not_found(ObjectKind::Sandbox, id))?;
        Ok(Sandbox::new(self.core.clone(), id, &entry.container_id))
    }

    /// The sandbox of this container.
    ///
    /// # Errors
    /// `InvalidParameter` for a blank name, `NotFound` for an unknown one.
    pub fn sandbox_by_container(&self, container_id: &str) -> Result<Sandbox> {
        check_name(ObjectKind::Sandbox, container_id)?;
        let id = self.core.directory.containers.get(&container_id.to_owned());
        let id = id.ok_or_else(|| Error::not_found(ObjectKind::Sandbox, container_id))?;
        self.sandbox(*id)
    }

    /// The sandbox whose namespace is mounted at this path (libnetwork's `SandboxKeyWalker`); of several that are the
    /// host's, any.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn sandbox_by_key(&self, key: impl AsRef<Path>) -> Result<Sandbox> {
        let key = key.as_ref();
        let name = key.file_name().and_then(OsStr::to_str);
        let may_be = |entry: &SandboxEntry| entry.host || name == Some(&*entry.id.short());
        let candidates = self.core.directory.sandboxes.values().into_iter().filter(|entry| may_be(entry));
        let mut candidates =
            candidates.map(|entry| Sandbox::new(self.core.clone(), entry.id, &entry.container_id));
        let found = candidates.find(|sandbox| sandbox.key().is_ok_and(|known| known == key));
        found.ok_or_else(|| Error::not_found(ObjectKind::Sandbox, key.display()))
    }

    /// Deletes the sandbox of this container; it may be gone already (libnetwork's `SandboxDestroy`).
    ///
    /// # Errors
    /// `InvalidParameter` for a blank name, or as [`Sandbox::delete`].
    pub async fn destroy_sandbox(&self, container_id: &str) -> Result<()> {
        let outcome = match self.sandbox_by_container(container_id) {
            Ok(sandbox) => sandbox.delete().await,
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Every IPAM driver: its default pools, with what the host leaves of them, and each pool in use.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn ipam(&self) -> Result<Vec<IpamSnapshot>> {
        self.core.query(self.core.controller()?, InspectAddresses).await
    }

    /// The types of the drivers at hand.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn drivers(&self) -> Result<Vec<String>> {
        self.core.query(self.core.controller()?, ListDrivers).await
    }

    /// The names of the IPAM drivers at hand (libnetwork's `BuiltinIPAMDrivers`).
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn ipam_drivers(&self) -> Result<Vec<String>> {
        self.core.query(self.core.controller()?, ListIpamDrivers).await
    }

    /// Who has which ports of the host, by the endpoints' names. Where they lead is told by each endpoint
    /// ([`netloom_model::snapshot::EndpointSnapshot::published`]).
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn ports(&self) -> Result<Vec<PortsSnapshot>> {
        self.core.query(self.core.controller()?, InspectPorts).await?
    }

    /// The service records of every network, by the networks' names: what the name servers of its sandboxes answer from.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn names(&self) -> Result<Vec<NamesSnapshot>> {
        self.core.query(self.core.controller()?, InspectNames).await
    }

    /// The name server of every sandbox that has one, by the containers: what it has done, whom it asks outside, and how
    /// these do. A sandbox has one from its first endpoint on, unless that does without (`Names::no_resolution`) or is on a
    /// network of the drivers `host` and `null`.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn name_servers(&self) -> Result<Vec<NameServerSnapshot>> {
        self.core.query(self.core.controller()?, InspectNameServers).await?
    }
}
