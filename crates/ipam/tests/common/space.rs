//! Hosts that share an address space.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netloom_ipam::PoolsRequest;
use netloom_ipam::cluster::{ClusterIpam, Place};
use netloom_model::config::DefaultPool;
use netloom_model::record::PoolRecord;
use netloom_model::{IpamPoolSpec, IpamSpec, Result};
use netloom_store::cluster::{ClusterStore, MemoryCluster};
use uuid::Uuid;

use super::{network, want};

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

pub(crate) fn host(store: &Arc<dyn ClusterStore>, name: &str) -> ClusterIpam {
    engine(store, name, name)
}

/// An engine on a host of this name.
pub(crate) fn engine(store: &Arc<dyn ClusterStore>, name: &str, engine: &str) -> ClusterIpam {
    let pools = [DefaultPool { base: net("10.0.0.0/8"), size: 24 }];
    let place = Place { host: name.into(), engine: engine.into(), start: Uuid::from_u128(7) };
    ClusterIpam::new(store.clone(), place, &pools)
}

pub(crate) fn shared() -> (MemoryCluster, Arc<dyn ClusterStore>) {
    let memory = MemoryCluster::default();
    (memory.clone(), Arc::new(memory))
}

/// A subnet in which each host has a network.
pub(crate) const SHARED: &str = "10.0.0.0/26";

pub(crate) async fn pools(host: &ClusterIpam, n: u32, subnet: Option<&str>) -> Result<Vec<PoolRecord>> {
    let mut spec = IpamSpec::default();
    spec.v4.push(IpamPoolSpec { subnet: subnet.map(net), ..Default::default() });
    let name = format!("net {n}");
    let (network, shares) = (network(n), subnet == Some(SHARED));
    let request = PoolsRequest { network, name, spec: &spec, ipv6: false, shares, host: &[] };
    host.request_pools(&request).await.map(|granted| granted.v4)
}

pub(crate) async fn address(host: &ClusterIpam, n: u32, owner: u128) -> Result<IpAddr> {
    host.lease(network(n), &want(owner)).await.map(|lease| lease.addresses().next().expect("one"))
}
