//! An engine's place in a cluster: what it shares with the engines of other hosts.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use netloom_ipam::cluster::{ClusterIpam, Place};
use netloom_model::config::{DefaultPool, check_default_pools};
use netloom_model::{ControllerId, ErrorKind, ObjectKind, OpId, Result};
use netloom_store::{Change, ClusterStore, Key, RecordKind, Store, decode, encode};

/// How long a start waits for the cluster's store to say whose the host's name is.
const CLAIM: Duration = Duration::from_secs(5);
/// Under which identifier the engine's own store has its identity.
const IDENTITY: &str = "identity";

/// An engine's place in a cluster.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The store that all hosts use.
    pub store: Arc<dyn ClusterStore>,
    /// What this host is called there: unlike any other, and the same after each start. It belongs to the engine that comes
    /// with it first, by an identity that is kept with its records; another engine of the same name is refused.
    pub host: String,
    /// The default pools of the cluster's address space, IPv4 and IPv6, the same on all hosts. Without one of IPv6 a network
    /// with IPv6 has to name its subnet: a prefix for all hosts (RFC 4193) cannot be derived from one of them.
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
        netloom_model::error::check_name(ObjectKind::Controller, &self.host)?;
        check_default_pools("default_pools of the cluster", &self.default_pools)
    }

    /// Enters the cluster, before anything is touched there: the host's name is this engine's from then on. A store that
    /// does not answer is no obstacle: then it is taken with the first request.
    ///
    /// # Errors
    /// `InUse` when another engine has the host's name; whatever keeps this one's identity from being read or written.
    pub(crate) async fn enter(
        self,
        known: Option<ControllerId>,
        records: &[(Key, Vec<u8>)],
        store: &mut dyn Store,
        start: OpId,
    ) -> Result<Entered> {
        let engine = match known {
            Some(id) => id.to_string(),
            None => identity(records, store, start)?,
        };
        let member = Entered { membership: self, engine: engine.into() };
        let claim = member.place(start);
        match tokio::time::timeout(CLAIM, claim.claim(&*member.membership.store)).await {
            Ok(Err(taken)) if taken.kind() == ErrorKind::Conflict => return Err(taken),
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the cluster's store is away"),
            Err(_) => tracing::warn!("the cluster's store takes its time"),
        }
        Ok(member)
    }
}

/// The engine's identity in its own store, drawn when there is none.
fn identity(records: &[(Key, Vec<u8>)], store: &mut dyn Store, start: OpId) -> Result<String> {
    let key = Key { kind: RecordKind::Engine, id: IDENTITY.into() };
    if let Some((_, known)) = records.iter().find(|(other, _)| *other == key) {
        return Ok(decode(known)?);
    }
    let drawn = start.to_string();
    store.commit(&[Change::Put { key, value: encode(&drawn)? }])?;
    Ok(drawn)
}

/// A member of a cluster, and what tells it from others.
#[derive(Clone, Debug)]
pub(crate) struct Entered {
    membership: Membership,
    engine: Arc<str>,
}

impl Entered {
    fn place(&self, OpId(start): OpId) -> Place {
        Place { host: self.membership.host.as_str().into(), engine: self.engine.clone(), start }
    }

    /// The default pools of the cluster's address space.
    pub(crate) fn default_pools(&self) -> &[DefaultPool] {
        &self.membership.default_pools
    }

    /// This host's part of the cluster's address space. The operation's number is that of a history that may begin.
    pub(crate) fn ipam(&self, start: OpId) -> ClusterIpam {
        let Membership { store, default_pools, .. } = &self.membership;
        ClusterIpam::new(store.clone(), self.place(start), default_pools)
    }
}
