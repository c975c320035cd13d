//! A network's handle.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;
use std::sync::Arc;

use netloom_actor_controller::{DeleteNetwork, ListHolders};
use netloom_actor_network::{
    CreateEndpoint, InspectEndpoint, InspectNetwork, ListEndpoints, NetworkActor, ReleaseReservation,
    ReserveAddress,
};
use netloom_model::error::check_name;
use netloom_model::record::Reservation;
use netloom_model::snapshot::{Holders, NetworkSnapshot};
use netloom_model::{EndpointId, EndpointSpec, Error, NetworkId, ObjectKind, Result};
use netloom_runtime::Addr;

use crate::core::{Core, fresh};
use crate::endpoint::Endpoint;

/// A network, by name: still good after its actor was restarted, and `NotFound` after it was deleted.
#[derive(Clone, Debug)]
pub struct Network {
    core: Arc<Core>,
    id: NetworkId,
    name: Arc<str>,
}

impl Network {
    pub(crate) fn new(core: Arc<Core>, id: NetworkId, name: &str) -> Self {
        Self { core, id, name: name.into() }
    }

    pub(crate) fn addr(core: &Core, id: NetworkId) -> Result<Addr<NetworkActor>> {
        let entry = core.directory.networks.get(&id);
        Ok(entry.ok_or_else(|| Error::not_found(ObjectKind::Network, id))?.addr.clone())
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> NetworkId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network with its endpoints at this moment.
    ///
    /// # Errors
    /// `NotFound` after its deletion.
    pub async fn inspect(&self) -> Result<NetworkSnapshot> {
        self.core.query(Self::addr(&self.core, self.id)?, InspectNetwork).await
    }

    /// Who holds addresses of this network: gateways, auxiliary addresses, endpoints, and deleted endpoints whose links
    /// the kernel has not let go of. By address, `limit` of them; the rest is counted.
    ///
    /// # Errors
    /// `NotFound` after the network's deletion, `Unavailable` when the engine is gone.
    pub async fn holders(&self, limit: usize) -> Result<Holders> {
        let list = ListHolders { network: self.id, limit };
        self.core.query(self.core.controller()?, list).await?
    }

    /// Keeps addresses for endpoints of a name, whether there is one or not: one of a family, or one of each. An endpoint
    /// of that name that is made gets them without asking, and they are kept again when it is deleted; nobody else gets
    /// them. One that has them already keeps them. They stay kept over restarts, until they are released or the network
    /// is deleted; an endpoint that is renamed takes its addresses along, and what is kept stays its old name's.
    ///
    /// Does nothing when exactly these are kept. (libnetwork keeps a fixed address only while its endpoint exists.)
    ///
    /// # Errors
    /// `Forbidden` when somebody else has one of them, naming the holder, or when what was kept for the name is still
    /// being given up; `Conflict` when others are kept for the name; `InvalidParameter` for a blank name, for no address
    /// and for one that is outside of the network's pools; `Exhausted` beyond 4,096 names; `NotFound` after the network's
    /// deletion; `Busy`, `Timeout`; whatever an IPAM driver of the embedder's own refuses with. Nothing is kept then, unless
    /// the error says that this is uncertain: asked again, it is made sure.
    pub async fn reserve_address(
        &self,
        name: &str,
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
    ) -> Result<()> {
        let reserve = ReserveAddress { name: name.to_owned(), kept: Reservation { ipv4, ipv6 } };
        self.core.ask(Self::addr(&self.core, self.id)?, reserve).await
    }

    /// Keeps nothing for endpoints of a name any more. One that has such an address keeps it until it is deleted. Does
    /// nothing when nothing is kept.
    ///
    /// # Errors
    /// `InvalidParameter` for a blank name, `NotFound` after the network's deletion, `Busy`, `Timeout`, and what keeps
    /// the record from being written.
    pub async fn release_reservation(&self, name: &str) -> Result<()> {
        self.core.ask(Self::addr(&self.core, self.id)?, ReleaseReservation(name.to_owned())).await
    }

    /// Makes an endpoint. When a deleted endpoint still holds the address that is asked for, or that is kept for its
    /// name, because the kernel has not let go of its link, this waits for it.
    ///
    /// # Errors
    /// `InvalidParameter` for a malformed spec or an address outside of the network's pools, `Conflict` when
    /// the name is taken, `Forbidden` when the address is, `Exhausted` when none is left, `Busy`, `Timeout`,
    /// or what the driver refuses. Nothing is changed then, unless the error says otherwise.
    pub async fn create_endpoint(&self, spec: EndpointSpec) -> Result<Endpoint> {
        let (a, b) = fresh();
        let endpoint = EndpointId::from_uuids(a, b);
        let create = CreateEndpoint { endpoint, spec };
        let snapshot = self.core.ask(Self::addr(&self.core, self.id)?, create).await?;
        Ok(Endpoint::new(self.core.clone(), self.id, snapshot.id, &snapshot.name))
    }

    /// Every endpoint, by name.
    ///
    /// # Errors
    /// `NotFound` after the network's deletion.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let all = self.core.query(Self::addr(&self.core, self.id)?, ListEndpoints).await?;
        let handle = |e: netloom_model::snapshot::EndpointSnapshot| {
            Endpoint::new(self.core.clone(), self.id, e.id, &e.name)
        };
        Ok(all.into_iter().map(handle).collect())
    }

    /// Visits endpoints by name until `visit` breaks.
    ///
    /// # Errors
    /// `NotFound` after the network's deletion.
    pub async fn walk_endpoints(&self, visit: impl FnMut(Endpoint) -> ControlFlow<()>) -> Result<()> {
        let _ = self.endpoints().await?.into_iter().try_for_each(visit);
        Ok(())
    }

    /// The endpoint of this name.
    ///
    /// # Errors
    /// `InvalidParameter` for a blank name, `NotFound` for an unknown one.
    pub async fn endpoint_by_name(&self, name: &str) -> Result<Endpoint> {
        check_name(ObjectKind::Endpoint, name)?;
        let found = self.endpoints().await?.into_iter().find(|endpoint| endpoint.name() == name);
        found.ok_or_else(|| Error::not_found(ObjectKind::Endpoint, name))
    }

    /// The endpoint of this identifier.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn endpoint(&self, id: EndpointId) -> Result<Endpoint> {
        let snapshot = self.core.query(Self::addr(&self.core, self.id)?, InspectEndpoint(id)).await??;
        Ok(Endpoint::new(self.core.clone(), self.id, id, &snapshot.name))
    }

    /// Deletes the network.
    ///
    /// # Errors
    /// `Forbidden` while it has endpoints, naming them, and for a network of `host` or `null`, which stays;
    /// `NotFound` after its deletion.
    pub async fn delete(&self) -> Result<()> {
        let delete = DeleteNetwork { id: self.id, force: None };
        self.core.ask(self.core.controller()?, delete).await
    }

    /// Deletes the network with its endpoints, wherever they are and whatever is under way on them.
    ///
    /// # Errors
    /// `Forbidden` for a network of `host` or `null`; `NotFound` after its deletion; `Internal` when a record
    /// cannot be removed; `Timeout` when others go on making endpoints.
    pub async fn delete_with_force(&self) -> Result<()> {
        let delete = DeleteNetwork { id: self.id, force: Some(fresh().0) };
        self.core.ask_with_force(self.core.controller()?, delete).await
    }
}
