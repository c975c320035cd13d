//! An endpoint's handle.

use std::sync::Arc;

use netloom_actor_controller::ForceDeleteEndpoint;
use netloom_actor_network::{DeleteEndpoint, EndpointInfo, InspectEndpoint};
use netloom_actor_sandbox::{InspectSandbox, JoinSandbox, LeaveSandbox};
use netloom_drivers::OperInfo;
use netloom_kernel::LinkCounters;
use netloom_model::record::WayOut;
use netloom_model::snapshot::{EndpointPhase, EndpointSnapshot, SandboxEndpoint};
use netloom_model::{EndpointId, JoinSpec, NetworkId, Reason, Result};

use crate::core::{Core, fresh};
use crate::network::Network;
use crate::sandbox::Sandbox;

/// An endpoint, by name: still good after its network's actor was restarted.
#[derive(Clone, Debug)]
pub struct Endpoint {
    core: Arc<Core>,
    network: NetworkId,
    id: EndpointId,
    name: Arc<str>,
}

impl Endpoint {
    pub(crate) fn new(core: Arc<Core>, network: NetworkId, id: EndpointId, name: &str) -> Self {
        Self { core, network, id, name: name.into() }
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network it belongs to.
    #[must_use]
    pub fn network_id(&self) -> NetworkId {
        self.network
    }

    /// The endpoint at this moment.
    ///
    /// # Errors
    /// `NotFound` after its deletion.
    pub async fn inspect(&self) -> Result<EndpointSnapshot> {
        self.core.query(Network::addr(&self.core, self.network)?, InspectEndpoint(self.id)).await?
    }

    /// What its driver knows about it. Where its sandbox has a way out on a network for that, its published ports
    /// are there, and so this tells of that endpoint instead (as libnetwork's `DriverInfo`).
    ///
    /// # Errors
    /// `NotFound` after its deletion, or what the driver says.
    pub async fn driver_info(&self) -> Result<OperInfo> {
        let (network, endpoint) = self.way_out().await?.unwrap_or((self.network, self.id));
        self.core.query(Network::addr(&self.core, network)?, EndpointInfo(endpoint)).await?
    }

    /// The endpoint that is its sandbox's way out because no other one has any.
    async fn way_out(&self) -> Result<Option<(NetworkId, EndpointId)>> {
        let Some(sandbox) = self.inspect().await?.sandbox else { return Ok(None) };
        let Some(entry) = self.core.directory.sandboxes.get(&sandbox) else { return Ok(None) };
        let inside = self.core.query(entry.addr.clone(), InspectSandbox).await?.endpoints;
        let way_out = inside.iter().find(|endpoint| endpoint.way_out == WayOut::Provided);
        Ok(way_out.map(|way_out| (way_out.network, way_out.endpoint)))
    }

    /// What has passed its interface, as long as it is in a sandbox.
    ///
    /// # Errors
    /// `Forbidden` when it is in none or waits for its sandbox's namespace; `NotFound` after its deletion,
    /// `NotImplemented` when it has no interface, or what the kernel says.
    pub async fn statistics(&self) -> Result<LinkCounters> {
        let seen = self.inspect().await?;
        let by = format!("endpoint {:?}, which has no interface", seen.name);
        let not_joined = Reason::NotJoined { endpoint: self.id, name: seen.name, sandbox: None };
        let Some(sandbox) = seen.sandbox else { return Err(not_joined.into()) };
        let Some(ifname) = seen.ifname else {
            return Err(Reason::NotImplemented { what: "statistics", by }.into());
        };
        if seen.phase == EndpointPhase::Reserved {
            return Err(not_joined.into());
        }
        let counters = self.core.counters(sandbox, vec![ifname]).await?;
        // It may have left, or been taken away, in between.
        counters.into_iter().next().flatten().ok_or_else(|| not_joined.into())
    }

    /// Plugs it into a sandbox: when this answers, traffic flows.
    ///
    /// # Errors
    /// `Forbidden` when it is in a sandbox already, naming it; `NotFound` when either is gone; `Exhausted`
    /// when its bridge is full; `Busy`, `Timeout`, or what driver and kernel refuse. The endpoint is in no
    /// sandbox then, unless the error says otherwise.
    pub async fn join(&self, sandbox: &Sandbox, spec: JoinSpec) -> Result<SandboxEndpoint> {
        Network::addr(&self.core, self.network)?;
        let (endpoint, network) = (self.id, self.network);
        let join = |way_out| JoinSandbox { endpoint, network, spec, way_out: Some(way_out) };
        self.core.ask_with_way_out(sandbox, join).await
    }

    /// Unplugs it from a sandbox: when this answers, no traffic passes any more. The kernel may still be
    /// busy with its link; its address stays taken until that is over.
    ///
    /// # Errors
    /// `Forbidden` when it is not in that sandbox; `NotFound` when either is gone.
    pub async fn leave(&self, sandbox: &Sandbox) -> Result<()> {
        Network::addr(&self.core, self.network)?;
        let (endpoint, network) = (self.id, self.network);
        let leave = |way_out| LeaveSandbox { endpoint, network, way_out: Some(way_out) };
        self.core.ask_with_way_out(sandbox, leave).await
    }

    /// Deletes it.
    ///
    /// # Errors
    /// `Forbidden` while it is in a sandbox, naming it; `NotFound` after its deletion.
    pub async fn delete(&self) -> Result<()> {
        self.core.ask(Network::addr(&self.core, self.network)?, DeleteEndpoint(self.id)).await
    }

    /// Deletes it wherever it is and whatever is under way on it: that is ended, and what is stuck becomes a
    /// leak, so that this never waits behind it.
    ///
    /// # Errors
    /// `NotFound` after its deletion; `Internal` when its record cannot be removed.
    pub async fn delete_with_force(&self) -> Result<()> {
        let (network, endpoint, spare) = (self.network, self.id, fresh().0);
        let force = ForceDeleteEndpoint { network, endpoint, spare };
        self.core.ask_with_force(self.core.controller()?, force).await
    }
}
