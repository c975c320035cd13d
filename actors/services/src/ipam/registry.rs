//! Where the IPAM drivers are found: each network keeps the way to its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use netloom_ipam::driver::IpamCapability;
use netloom_ipam::{AddressSpace, no_store};
use netloom_model::config::Scope;
use netloom_model::{Error, Holder, IpamSpec, ObjectKind, Reason, Result};
use netloom_runtime::Port;

use super::actor::{DRIVER, IpamActor};
use super::shared::CLUSTER;

/// Names that are kept for drivers that come with the engine later, and what brings them.
const LATER: [(&str, &str, &str); 2] = [
    ("dhcp", "the ipam driver \"dhcp\"", "this version; it comes with the network driver macvlan"),
    ("remote", "the ipam driver \"remote\"", "this version; it comes with the drivers that are plugins"),
];

/// The way to one IPAM driver. Cloning shares it.
#[derive(Clone, Debug)]
pub struct IpamPort {
    port: Port<IpamActor>,
    foreign: Option<Arc<Foreign>>,
}

#[derive(Debug)]
struct Foreign {
    name: String,
    capability: IpamCapability,
}

impl Deref for IpamPort {
    type Target = Port<IpamActor>;

    fn deref(&self) -> &Port<IpamActor> {
        &self.port
    }
}

impl fmt::Display for IpamPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.foreign {
            None => f.write_str("ipam"),
            Some(foreign) => write!(f, "the ipam driver {:?}", foreign.name),
        }
    }
}

impl IpamPort {
    /// The way to a driver that is not the default one.
    #[must_use]
    pub fn foreign(port: Port<IpamActor>, name: &str, capability: IpamCapability) -> Self {
        Self { port, foreign: Some(Arc::new(Foreign { name: name.to_owned(), capability })) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.foreign.as_ref().map_or(DRIVER, |foreign| &foreign.name)
    }

    /// Whether it answers at once and cannot fail at what it takes back, as the driver `default` does.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.foreign.is_none()
    }

    /// What it needs.
    #[must_use]
    pub fn capability(&self) -> IpamCapability {
        self.foreign.as_ref().map(|foreign| foreign.capability).unwrap_or_default()
    }
}

/// Every IPAM driver of an engine.
pub struct IpamRegistry {
    default: IpamPort,
    /// The part of the driver `default` that hosts of a cluster have in common, where there is a cluster.
    cluster: RefCell<Option<IpamPort>>,
    foreign: RefCell<BTreeMap<String, IpamPort>>,
}

impl fmt::Debug for IpamRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl From<Port<IpamActor>> for IpamRegistry {
    fn from(port: Port<IpamActor>) -> Self {
        let default = IpamPort { port, foreign: None };
        Self { default, cluster: RefCell::default(), foreign: RefCell::default() }
    }
}

impl IpamRegistry {
    /// The way to the default driver.
    #[must_use]
    pub fn default_driver(&self) -> &IpamPort {
        &self.default
    }

    /// The way to the driver of this name.
    ///
    /// # Errors
    /// `NotImplemented` for one that comes later, `NotFound` for others, naming those that there are.
    pub fn get(&self, name: &str) -> Result<IpamPort> {
        if name == DRIVER {
            return Ok(self.default.clone());
        }
        if let Some(port) = self.foreign.borrow().get(name) {
            return Ok(port.clone());
        }
        if let Some((_, what, by)) = LATER.iter().find(|(later, ..)| *later == name) {
            return Err(Reason::NotImplemented { what, by: (*by).to_owned() }.into());
        }
        let query = format!("{name} (known: {})", self.names().join(", "));
        Err(Error::not_found(ObjectKind::IpamDriver, query))
    }

    /// The way to who has the pools that a network asks for. Networks of a driver that reaches over hosts are in the
    /// cluster's address space where there is one, as with libnetwork; others where they ask for it.
    ///
    /// # Errors
    /// As of [`IpamRegistry::get`]; `NotFound` for the cluster's address space where there is no cluster.
    pub fn of(&self, spec: &IpamSpec, scope: Scope) -> Result<IpamPort> {
        let asks = spec.address_space == AddressSpace::Global.name();
        let reaches = spec.address_space.is_empty() && scope == Scope::Global;
        if spec.driver != DRIVER || !(asks || reaches) {
            return self.get(&spec.driver);
        }
        match (&*self.cluster.borrow(), asks) {
            (Some(port), _) => Ok(port.clone()),
            (None, false) => Ok(self.default.clone()),
            (None, true) => Err(no_store(AddressSpace::Global)),
        }
    }

    /// The same for a network that is there: nobody answers behind the way to a driver that is not.
    #[must_use]
    pub fn of_network(&self, spec: &IpamSpec, scope: Scope) -> IpamPort {
        let missing = |_| IpamPort::foreign(Port::vacant(), &spec.driver, IpamCapability::default());
        self.of(spec, scope).unwrap_or_else(missing)
    }

    /// Makes the cluster's address space known.
    pub fn join_cluster(&self, port: IpamPort) {
        *self.cluster.borrow_mut() = Some(port);
    }

    /// Whether a driver may be added under a name.
    ///
    /// # Errors
    /// `InvalidParameter` for a blank name and for one that is kept for a driver to come, `Conflict` for one that is
    /// taken (libnetwork's `ipam driver "x" already registered`).
    pub fn is_free(&self, name: &str) -> Result<()> {
        netloom_model::error::check_name(ObjectKind::IpamDriver, name)?;
        if name == DRIVER || name == CLUSTER || self.foreign.borrow().contains_key(name) {
            let holder = Holder::new(ObjectKind::IpamDriver, name, "");
            return Err(Reason::NameTaken { name: name.to_owned(), holder }.into());
        }
        match LATER.iter().find(|(later, ..)| *later == name) {
            None => Ok(()),
            Some((_, what, _)) => {
                let why = format!("the name is kept for {what} of the engine's own; choose another one");
                Err(Error::invalid("ipam driver", name, why))
            }
        }
    }

    /// Adds a driver.
    pub fn add(&self, port: IpamPort) {
        self.foreign.borrow_mut().insert(port.name().to_owned(), port);
    }

    /// The names of all, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let foreign = self.foreign.borrow();
        let mut names: Vec<_> = foreign.keys().cloned().chain(std::iter::once(DRIVER.to_owned())).collect();
        names.sort_unstable();
        names
    }

    /// The ways to all, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<IpamPort> {
        let named: Vec<_> = self.names().iter().filter_map(|name| self.get(name).ok()).collect();
        named.into_iter().chain(self.cluster.borrow().clone()).collect()
    }
}
