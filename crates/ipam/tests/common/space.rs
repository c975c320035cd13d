//! Hosts that share an address space.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures::FutureExt;
use ipnet::IpNet;
use netloom_ipam::cluster::{ClusterIpam, Place};
use netloom_ipam::{Lease, PoolsRequest, RestoredPools};
use netloom_model::config::DefaultPool;
use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, IpamPoolSpec, IpamSpec, Result};
use netloom_store::cluster::{Answer, ClusterStore, MemoryCluster, Revision, Swapped, Versioned};
use uuid::Uuid;

use super::{endpoint, network, want};

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

/// A store of its own with the same in it.
pub(crate) async fn copy(store: &Arc<dyn ClusterStore>) -> (MemoryCluster, Arc<dyn ClusterStore>) {
    let (memory, copy) = shared();
    for key in store.keys("").await.expect("listed") {
        let found = store.get(&key).await.expect("read").expect("there");
        copy.swap(&key, found.value, None).await.expect("written");
    }
    (memory, copy)
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

/// The leases of so many endpoints, one after the other from an address on.
pub(crate) fn leases(many: u32, from: [u8; 4], prefix: u8) -> Vec<(EndpointId, String, Lease)> {
    let address = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::from(from)) + n);
    let lease = |n| Lease { ipv4: ipnet::Ipv4Net::new(address(n), prefix).ok(), ipv6: None };
    (0..many).map(|n| (endpoint(n.into()), format!("e{n}"), lease(n))).collect()
}

pub(crate) async fn restore(
    host: &ClusterIpam,
    v4: &[PoolRecord],
    all: &[(EndpointId, String, Lease)],
) -> netloom_model::Result<usize> {
    let all: Vec<_> = all.iter().map(|(id, name, lease)| (*id, name.as_str(), *lease)).collect();
    let name = "net 1";
    let pools = RestoredPools { network: network(1), name, address_space: "", shares: false, v4, v6: &[] };
    host.restore(&pools, &all, &[]).await
}

pub(crate) async fn used(host: &ClusterIpam) -> u64 {
    host.usage(network(1)).await.expect("known")[0].used
}

/// How a head lies in the store.
pub(crate) const HEAD: &str = "netloom/v1/ipam/GlobalDefault/head";
/// What the keys of the parts of images begin with.
pub(crate) const PARTS: &str = "netloom/v1/ipam/GlobalDefault/image/";

/// The head, behind its format and its checksum.
pub(crate) async fn head(store: &Arc<dyn ClusterStore>) -> serde_json::Value {
    let found = store.get(HEAD).await.expect("answered").expect("there is one");
    serde_json::from_slice(&found.value[5..]).expect("JSON")
}

/// How many parts are in the store that the image of the head does not have, and pieces of its history. None is missing.
pub(crate) async fn garbage(store: &Arc<dyn ClusterStore>) -> usize {
    let head = head(store).await;
    let pieces = head["pieces"].as_array().expect("numbers").len().saturating_sub(1);
    let kept = store.keys("netloom/v1/ipam/GlobalDefault/history/").await.expect("listed").len();
    let parts = head["parts"].as_u64().expect("a number") + pieces as u64;
    let there = store.keys(PARTS).await.expect("listed").len() + kept;
    there.checked_sub(usize::try_from(parts).expect("few")).expect("parts are missing")
}

/// A store whose every answer comes a while after it was asked for, and that may be given up in between.
#[derive(Debug)]
pub(crate) struct Slow(pub(crate) MemoryCluster);

pub(crate) async fn pause() {
    let mut waited = false;
    futures::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

macro_rules! slowly {
    ($memory:expr, $call:expr) => {{
        let memory = $memory.clone();
        async move {
            pause().await;
            let answer = $call(&memory).await;
            pause().await;
            answer
        }
        .boxed()
    }};
}

impl ClusterStore for Slow {
    fn get(&self, key: &str) -> Answer<Option<Versioned>> {
        let key = key.to_owned();
        slowly!(self.0, |memory: &MemoryCluster| memory.get(&key))
    }

    fn keys(&self, prefix: &str) -> Answer<Vec<String>> {
        let prefix = prefix.to_owned();
        slowly!(self.0, |memory: &MemoryCluster| memory.keys(&prefix))
    }

    fn swap(&self, key: &str, value: Vec<u8>, expected: Option<Revision>) -> Answer<Swapped> {
        let key = key.to_owned();
        slowly!(self.0, |memory: &MemoryCluster| memory.swap(&key, value.clone(), expected))
    }

    fn remove(&self, key: &str) -> Answer<()> {
        let key = key.to_owned();
        slowly!(self.0, |memory: &MemoryCluster| memory.remove(&key))
    }
}
