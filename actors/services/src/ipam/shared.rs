//! The address space of the cluster behind messages: each request is a task that waits for the store.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use ipnet::IpNet;
use netloom_ipam::cluster::ClusterIpam;
use netloom_ipam::{AddressSpace, Doubt, Granted, Lease, Leased, PoolHolding, PoolsRequest, RestoredPools};
use netloom_model::config::DatastoreConfig;
use netloom_model::record::Reservation;
use netloom_model::snapshot::IpamSnapshot;
use netloom_model::{EndpointId, NetworkId, PurgedHost, Reason, Result};
use netloom_runtime::{OpCtx, Reply, TaskGroup};

use super::actor::DRIVER;
use super::message::{LeaseAddresses, RequestPools, RestorePools};

/// What the supervisor and errors call it: it belongs to the driver `default`, and has an actor of its own.
pub const CLUSTER: &str = "default (GlobalDefault)";

/// This host's part of the space, and where its requests run.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    ipam: Arc<ClusterIpam>,
    tasks: TaskGroup,
}

impl Shared {
    pub(super) fn new(ipam: ClusterIpam, tasks: TaskGroup) -> Self {
        let ipam = ipam.resting(|time| tokio::time::sleep(time).boxed());
        Self { ipam: Arc::new(ipam), tasks }
    }

    /// Answers when the store has, or at the operation's end.
    fn answer<T, F>(&self, op: OpCtx, reply: Reply<Result<T>>, work: impl FnOnce(Arc<ClusterIpam>) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (ipam, work) = (self.ipam.clone(), work(self.ipam.clone()));
        self.tasks.spawn(async move {
            let outcome = match tokio::time::timeout_at(op.deadline, work).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let what = "the cluster's address space".to_owned();
                    // The store may be at it still.
                    Err(netloom_model::Error::from(Reason::DeadlineExceeded { what, waited: op.allowed })
                        .uncertain())
                }
            };
            reply.send(outcome);
            for found in ipam.take_found().await {
                tracing::warn!(what = found.what, why = found.why, "left out of the cluster's address space");
            }
            for Doubt { key, why, what } in ipam.take_doubts().await {
                tracing::warn!(key, why, doubt = %what, "lost from the cluster's address space: nothing of it is given out");
            }
        });
    }

    /// Answers with what this host knows.
    fn tell<T, F>(&self, reply: Reply<T>, work: impl FnOnce(Arc<ClusterIpam>) -> F)
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let work = work(self.ipam.clone());
        self.tasks.spawn(async move { reply.send(work.await) });
    }

    pub(super) fn request(&self, op: OpCtx, message: RequestPools, reply: Reply<Result<Granted>>) {
        self.answer(op, reply, |ipam| async move {
            let RequestPools { network, spec, host, shares, .. } = message;
            let (name, ipv6) = (spec.name.clone(), spec.ipv6);
            ipam.request_pools(&PoolsRequest { network, name, spec: &spec.ipam, ipv6, shares, host: &host })
                .await
        });
    }

    pub(super) fn release(&self, op: OpCtx, network: NetworkId, reply: Reply<Result<()>>) {
        self.answer(op, reply, |ipam| async move { ipam.release_pools(network).await });
    }

    /// Nobody waits for that: whoever is not told of it is refused all the same.
    pub(super) fn retire(&self, op: OpCtx, network: NetworkId) {
        let ipam = self.ipam.clone();
        self.tasks.spawn(async move {
            let told = tokio::time::timeout_at(op.deadline, ipam.retire_pools(network)).await;
            if !matches!(told, Ok(Ok(()))) {
                tracing::debug!(?told, "other hosts are not told that pools will be given back");
            }
        });
    }

    pub(super) fn restore(&self, op: OpCtx, message: RestorePools, reply: Reply<Result<()>>) {
        self.answer(op, reply, |ipam| async move {
            let RestorePools { network, endpoints, shares, .. } = message;
            let (name, address_space) = (network.spec.name.as_str(), AddressSpace::Global.name());
            let (v4, v6) = (&network.v4, &network.v6);
            let pools = RestoredPools { network: network.id, name, address_space, shares, v4, v6 };
            let lease = |record: &netloom_model::record::EndpointRecord| Lease {
                ipv4: record.ipv4,
                ipv6: record.ipv6,
            };
            let known: Vec<_> =
                endpoints.iter().map(|record| (record.id, record.name.as_str(), lease(record))).collect();
            let kept = network.reservations.iter();
            let kept: Vec<_> =
                kept.map(|(name, kept)| (name.as_str(), kept.addresses().collect::<Vec<_>>())).collect();
            let orphans = ipam.restore(&pools, &known, &kept).await?;
            if orphans > 0 {
                tracing::warn!(
                    network = pools.name,
                    orphans,
                    "gave back addresses of endpoints that are gone"
                );
            }
            Ok(())
        });
    }

    pub(super) fn lease(&self, op: OpCtx, message: LeaseAddresses, reply: Reply<Result<Leased>>) {
        // Its history has the order.
        self.answer(
            op,
            reply,
            |ipam| async move { ipam.lease(message.0, &message.1).await.map(Leased::from) },
        );
    }

    pub(super) fn give_back(
        &self,
        op: OpCtx,
        (network, endpoint): (NetworkId, EndpointId),
        reply: Reply<Result<()>>,
    ) {
        self.answer(op, reply, |ipam| async move { ipam.release(network, endpoint).await });
    }

    pub(super) fn reserve(
        &self,
        op: OpCtx,
        (network, name, kept): (NetworkId, Arc<str>, Reservation),
        reply: Reply<Result<()>>,
    ) {
        self.answer(op, reply, |ipam| async move {
            ipam.reserve(network, &name, &kept.addresses().collect::<Vec<_>>()).await
        });
    }

    pub(super) fn unreserve(&self, op: OpCtx, network: NetworkId, name: Arc<str>, reply: Reply<Result<()>>) {
        self.answer(op, reply, |ipam| async move { ipam.unreserve(network, &name).await });
    }

    pub(super) fn purge(&self, op: OpCtx, host: String, reply: Reply<Result<PurgedHost>>) {
        self.answer(op, reply, |ipam| async move { ipam.purge(&host).await });
    }

    /// Other hosts go on by the name that it was leased under.
    pub(super) fn rename(&self, network: NetworkId, endpoint: EndpointId, name: String) {
        let ipam = self.ipam.clone();
        self.tasks.spawn(async move { ipam.rename(network, endpoint, &name).await });
    }

    pub(super) fn quarantine(&self, network: NetworkId, endpoint: EndpointId, reply: Reply<()>) {
        self.tell(reply, |ipam| async move { ipam.quarantine(network, endpoint).await });
    }

    pub(super) fn overlaps(&self, nets: Vec<IpNet>, reply: Reply<Vec<(IpNet, PoolHolding)>>) {
        self.tell(reply, |ipam| async move {
            let mut all = Vec::new();
            for net in nets {
                all.extend(ipam.overlapping(net).await.into_iter().map(|holding| (net, holding)));
            }
            all
        });
    }

    pub(super) fn usage(&self, network: NetworkId, reply: Reply<Option<Vec<netloom_ipam::PoolUsage>>>) {
        self.tell(reply, |ipam| async move { ipam.usage(network).await });
    }

    pub(super) fn holders(
        &self,
        (network, limit): (NetworkId, usize),
        reply: Reply<Option<netloom_model::snapshot::Holders>>,
    ) {
        self.tell(reply, |ipam| async move { ipam.holders(network, limit).await });
    }

    pub(super) fn inspect(&self, cluster_store: Option<DatastoreConfig>, reply: Reply<IpamSnapshot>) {
        self.tell(reply, |ipam| async move {
            let (driver, spaces) = (DRIVER.to_owned(), vec![AddressSpace::Global.name().to_owned()]);
            IpamSnapshot {
                driver,
                cluster_store,
                spaces,
                default_pools: Vec::new(),
                pools: ipam.pools().await,
            }
        });
    }
}
