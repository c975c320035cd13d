//! The interface that every network driver implements, built in or the embedder's own.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use netloom_kernel::Kernel;
use netloom_model::{EndpointId, Error, NetworkId, Reason};

use crate::config::DriverConfig;
use crate::desired::{DesiredObject, Place};
use crate::outside::Outside;
use crate::request::{
    Capability, CreateEndpoint, CreateNetwork, Discovery, EndpointCreated, ExternalConnectivity, Join,
    Joined, KernelSurvey, Leave, Left, NetworkCreated, OperInfo, Programmed, Recovered, TableEvent,
};

/// The slow part of a driver's answer. It does not borrow the driver, and it runs on whether or not anybody still
/// waits, to the operation's deadline at the longest: then it is dropped where it stands, and what it was for is
/// undone. What must not stop half-way belongs into a task of its own.
pub type Work<T> = BoxFuture<'static, Result<T, Error>>;

/// A driver's decision: a refusal, which changed nothing, or the slow part of what it decided to do.
pub type Begun<T> = Result<Work<T>, Error>;

/// A decision that has no slow part.
///
/// # Errors
/// None of its own.
pub fn done<T: Send + 'static>(value: T) -> Begun<T> {
    Ok(std::future::ready(Ok(value)).boxed())
}

/// What a driver works with during one operation.
#[derive(Clone, Debug)]
pub struct DriverCx {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// The engine's instance name, for the tags of kernel objects.
    pub instance: Arc<str>,
    /// The engine's part of the host's firewall, and of its ports.
    pub outside: Arc<dyn Outside>,
    /// When the operation must have ended.
    pub deadline: Instant,
}

/// A network driver: libnetwork's `driverapi.Driver`, with results as values instead of call-backs.
///
/// Calls come from one actor, one at a time. Each decides at once: it refuses, having changed nothing, or
/// records its decision in the driver's own state and returns the slow part. When that fails, or the
/// operation it belongs to fails later, the matching deletion is called: `delete_network`,
/// `delete_endpoint` and `leave` undo, and must succeed for what is not there.
///
/// After a restart a new value is made by its [`DriverFactory`], and its networks and endpoints are made
/// again with [`crate::Restored::FromStore`]. When that fails nothing is deleted, because containers use it:
/// `forget_network` or `forget_endpoint` is called instead.
pub trait Driver: Send + 'static {
    /// Its type, such as `bridge`.
    fn kind(&self) -> &str;

    /// Takes what the engine's configuration has for it. Asked once of a new value, before anything else; and of a
    /// value that is then dropped, to know whether a reload of the configuration can be accepted. What it is given
    /// stays in force until the driver is made again.
    ///
    /// # Errors
    /// What the driver cannot use: the engine does not start then, and a reload is refused.
    fn configure(&mut self, _config: &DriverConfig) -> Result<(), Error> {
        Ok(())
    }

    /// What it can do. Asked once, before it is asked for anything.
    fn capability(&self) -> Capability;

    /// Chooses cluster-wide parameters of a network on the cluster's manager (`NetworkAllocate`).
    fn allocate_network(
        &mut self,
        _cx: &DriverCx,
        _request: CreateNetwork,
    ) -> Begun<BTreeMap<String, String>> {
        not_implemented(self.kind(), "allocating networks for a cluster")
    }

    /// Gives back what `allocate_network` chose (`NetworkFree`).
    fn free_network(&mut self, _cx: &DriverCx, _network: NetworkId) -> Begun<()> {
        not_implemented(self.kind(), "allocating networks for a cluster")
    }

    /// Looks at what is there before a network is made, and changes nothing. What it answers is recorded
    /// before the first change and given to `create_network`, so that a deletion can put back what was there,
    /// also when the engine dies on the way.
    fn survey_network(
        &mut self,
        _cx: &DriverCx,
        _request: &CreateNetwork,
    ) -> Begun<BTreeMap<String, String>> {
        done(BTreeMap::new())
    }

    /// Makes a network.
    fn create_network(&mut self, cx: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated>;

    /// Deletes a network. Succeeds when it is not there.
    fn delete_network(&mut self, cx: &DriverCx, network: NetworkId) -> Begun<()>;

    /// Makes an endpoint.
    fn create_endpoint(&mut self, cx: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated>;

    /// Deletes an endpoint. Succeeds when it is not there.
    fn delete_endpoint(&mut self, cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<()>;

    /// Rebuilds the records of this driver's networks from what the kernel has, after a store was lost. What it
    /// does not rebuild and carries the engine's mark is taken for a remain and removed. Asked of a new value,
    /// before anything else.
    fn recover(&self, _identity: &str, _survey: &KernelSurvey) -> Vec<Recovered> {
        Vec::new()
    }

    /// What the kernel should have of a network that is in service: its devices, and the links of these endpoints,
    /// which are joined and on which nothing is under way. Only what the driver made, or would put back after a
    /// restart; of an interface inside a sandbox, that it is up and has its addresses is desired by others.
    fn desired(&self, _cx: &DriverCx, _network: NetworkId, _joined: &[Place]) -> Vec<DesiredObject> {
        Vec::new()
    }

    /// Drops what the driver itself knows of a network whose restore failed. Its devices carry running
    /// containers, so nothing in the kernel is touched. Unlike after a deletion, the network is still
    /// recorded: `leave`, `delete_endpoint` and `delete_network` may follow, as for what is not there.
    fn forget_network(&mut self, _network: NetworkId) {}

    /// The same for an endpoint.
    fn forget_endpoint(&mut self, _network: NetworkId, _endpoint: EndpointId) {}

    /// What the driver knows about an endpoint.
    fn endpoint_info(&self, _cx: &DriverCx, _network: NetworkId, _endpoint: EndpointId) -> Begun<OperInfo> {
        done(OperInfo::new())
    }

    /// Brings an endpoint into a sandbox. When the name of the interface, or one that the driver has chosen,
    /// is in use, the answer is [`Reason::LinkTaken`]: the sandbox tries again with the next name.
    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined>;

    /// Cuts an endpoint off from its sandbox, and ends its being reached from outside if that was not revoked
    /// before. Succeeds when that join is not in effect; a driver that was
    /// restarted may not know it and has to look for what it left in the kernel.
    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left>;

    /// Lets an endpoint be reached from outside, now that it provides its sandbox's way out. Asked again after
    /// a restart of the engine, of the driver or of the sandbox, also of a driver that has done it already.
    fn program_external_connectivity(
        &mut self,
        _cx: &DriverCx,
        _request: ExternalConnectivity,
    ) -> Begun<Programmed> {
        done(Programmed::default())
    }

    /// Takes that back.
    fn revoke_external_connectivity(
        &mut self,
        _cx: &DriverCx,
        _network: NetworkId,
        _endpoint: EndpointId,
    ) -> Begun<()> {
        done(())
    }

    /// Discovery has something to say. Nobody waits for what the driver makes of it.
    fn discovered(&mut self, _cx: &DriverCx, _discovery: Discovery) -> Begun<()> {
        done(())
    }

    /// An entry of a gossip table changed on another node. Nobody waits for what the driver makes of it.
    fn table_event(&mut self, _cx: &DriverCx, _event: TableEvent) -> Begun<()> {
        done(())
    }
}

fn not_implemented<T>(driver: &str, what: &'static str) -> Begun<T> {
    Err(Reason::NotImplemented { what, by: format!("driver {driver:?}") }.into())
}

/// Makes a driver: at the engine's start, and again when its actor died.
pub type DriverFactory = Arc<dyn Fn() -> Box<dyn Driver> + Send + Sync>;

/// A driver as the embedder registers it.
#[derive(Clone)]
pub struct Registration {
    /// Its type.
    pub kind: String,
    /// Makes it.
    pub factory: DriverFactory,
}

impl Registration {
    /// Registers a driver under a type.
    pub fn new<D: Driver>(kind: impl Into<String>, make: impl Fn() -> D + Send + Sync + 'static) -> Self {
        Self { kind: kind.into(), factory: Arc::new(move || Box::new(make())) }
    }

    /// Makes the driver, hands it its configuration and asks what it can do.
    ///
    /// # Errors
    /// `Internal` when it panics, `InvalidParameter` when it says to be of another type, or why it cannot use its
    /// configuration.
    pub fn make(&self, config: &DriverConfig) -> Result<(Box<dyn Driver>, Capability), Error> {
        let kind = &self.kind;
        let made = catch_unwind(AssertUnwindSafe(|| {
            let mut driver = (self.factory)();
            if driver.kind() != kind {
                let why = format!("it was registered as {kind:?}; register it under its own type");
                return Err(Error::invalid("driver", driver.kind(), why));
            }
            driver.configure(config)?;
            let capability = driver.capability();
            Ok((driver, capability))
        }));
        made.unwrap_or_else(|_| Err(Error::internal(format!("driver {kind:?} panicked when it was made"))))
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({})", self.kind)
    }
}
