//! What the controller started: which incarnation runs, and how many restarts are left.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use netloom_actor_driver::DriverActor;
use netloom_actor_network::{Leaving, NetworkActor};
use netloom_actor_sandbox::{SandboxActor, Turns};
use netloom_actor_services::ipam::{Books, IpamPort};
use netloom_drivers::{Capability, Registration};
use netloom_ipam::driver::IpamRegistration;
use netloom_model::{Holder, NetworkId, ObjectKind, SandboxId};
use netloom_runtime::{Actor, Addr, Port, RestartBudget, TaskGroup};
use rustc_hash::FxBuildHasher;

/// An actor that runs, or one that is being started again.
#[derive(Debug)]
pub(crate) struct Running<A: Actor> {
    /// Its address.
    pub(crate) addr: Addr<A>,
    /// Its tasks: they outlive it, and a restart waits for them.
    pub(crate) tasks: TaskGroup,
    /// Which incarnation it is, over all actors.
    pub(crate) incarnation: u64,
    /// Restarts left.
    pub(crate) budget: RestartBudget,
}

/// What others know of a network or a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing yet: it is being created.
    Creating,
    /// That it is there.
    Told,
    /// The same, and it is being deleted.
    Deleting,
}

/// A network.
#[derive(Debug)]
pub(crate) struct NetworkChild {
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) driver: String,
    /// Links of the host that it may have taken over.
    pub(crate) adopts: Vec<String>,
    /// Whether it is being deleted, for those who list networks.
    pub(crate) leaving: Leaving,
    /// Which incarnation of its driver knows of it.
    pub(crate) known_to: u64,
    /// Whether its pools are in the cluster's address space.
    pub(crate) in_cluster: bool,
    pub(crate) running: Running<NetworkActor>,
}

/// A sandbox.
#[derive(Debug)]
pub(crate) struct SandboxChild {
    pub(crate) container_id: String,
    /// Whether it is the host's own namespace.
    pub(crate) host: bool,
    pub(crate) state: State,
    /// How many sandboxes had come into service when it did, itself included; `None` until then.
    pub(crate) born: Option<u64>,
    /// Whether its container does not live: it is released, or could not be.
    pub(crate) dead: bool,
    /// What has begun in it.
    pub(crate) turns: Turns,
    pub(crate) running: Running<SandboxActor>,
}

/// A driver.
#[derive(Debug)]
pub(crate) struct DriverChild {
    pub(crate) registration: Registration,
    pub(crate) capability: Capability,
    pub(crate) port: Port<DriverActor>,
    pub(crate) incarnation: u64,
    pub(crate) budget: RestartBudget,
}

/// An IPAM driver.
#[derive(Debug)]
pub(crate) struct IpamChild {
    /// What makes it; `None` for the driver `default`.
    pub(crate) registration: Option<IpamRegistration>,
    pub(crate) port: IpamPort,
    /// What it has given, unless it is the driver `default`, which is filled from the records.
    pub(crate) books: Books,
    pub(crate) incarnation: u64,
    pub(crate) budget: RestartBudget,
}

type Map<K, V> = HashMap<K, V, FxBuildHasher>;

/// A list with unique names: networks by name, sandboxes by container.
pub(crate) struct Named<K, V> {
    kind: ObjectKind,
    by_id: Map<K, V>,
    by_name: Map<String, K>,
}

impl<K, V> fmt::Debug for Named<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.by_id.len(), self.kind.plural())
    }
}

impl<K: Copy + Eq + Hash + fmt::Display, V> Named<K, V> {
    pub(crate) fn new(kind: ObjectKind) -> Self {
        Self { kind, by_id: Map::default(), by_name: Map::default() }
    }

    /// Who has this name.
    pub(crate) fn named(&self, name: &str) -> Option<Holder> {
        self.by_name.get(name).map(|id| Holder::new(self.kind, id, name))
    }

    /// What has this name.
    pub(crate) fn id_of(&self, name: &str) -> Option<K> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn insert(&mut self, id: K, name: &str, value: V) {
        self.by_name.insert(name.to_owned(), id);
        self.by_id.insert(id, value);
    }

    pub(crate) fn remove(&mut self, id: K, name: impl Fn(&V) -> &str) -> Option<V> {
        let value = self.by_id.remove(&id)?;
        self.by_name.remove(name(&value));
        Some(value)
    }

    pub(crate) fn get(&self, id: K) -> Option<&V> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: K) -> Option<&mut V> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.by_id.iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.by_id.values()
    }
}

/// Networks by name.
pub(crate) type NetworkChildren = Named<NetworkId, NetworkChild>;
/// Sandboxes by container.
pub(crate) type SandboxChildren = Named<SandboxId, SandboxChild>;
