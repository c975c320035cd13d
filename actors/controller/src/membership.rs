//! An engine's place in a cluster: what it shares with the engines of other hosts.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use netloom_ipam::cluster::ClusterIpam;
use netloom_model::config::DefaultPool;
use netloom_model::{ObjectKind, OpId, Result};
use netloom_store::ClusterStore;

/// An engine's place in a cluster.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The store that all hosts use.
    pub store: Arc<dyn ClusterStore>,
    /// What this host is called there: unlike any other, and the same after each start.
    pub host: String,
    /// The default pools of the cluster's address space.
    pub default_pools: Vec<DefaultPool>,
}

impl Membership {
    /// A place in a cluster, with libnetwork's default pools for networks that hosts have in common: 10.0.0.0/8 in
    /// subnets of 256 addresses.
    #[must_use]
    pub fn new(store: Arc<dyn ClusterStore>, host: impl Into<String>) -> Self {
        let base = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
        let default_pools = vec![DefaultPool { base: base.into(), size: 24 }];
        Self { store, host: host.into(), default_pools }
    }

    /// Checks it before anything is touched.
    pub(crate) fn validate(&self) -> Result<()> {
        netloom_model::error::check_name(ObjectKind::Controller, &self.host)
    }

    /// This host's part of the cluster's address space. The operation's number is that of a history that may begin.
    pub(crate) fn ipam(&self, OpId(history): OpId) -> ClusterIpam {
        ClusterIpam::new(self.store.clone(), &self.host, &self.default_pools, history)
    }
}
