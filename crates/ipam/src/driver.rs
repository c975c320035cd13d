//! The interface of an IPAM driver of the embedder's own: libnetwork's `ipamapi.Ipam`, with the `PoolRequest` and
//! `AllocatedPool` of its later versions, and results as values.
//!
//! The driver `default` is not one of these: it answers at once and restores itself from the engine's records, so it is
//! asked directly ([`crate::DefaultIpam`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use netloom_model::config::DatastoreConfig;
use netloom_model::{EndpointId, Error, NetworkId, Result};

/// The option of an address request that says what the address is for; present for gateways alone
/// (`ipamapi.RequestAddressType`).
pub const REQUEST_ADDRESS_TYPE: &str = "RequestAddressType";
/// The value of [`REQUEST_ADDRESS_TYPE`] for gateways, and the key under which a pool's `meta` may name its gateway, as
/// an address or in CIDR form (`netlabel.Gateway`).
pub const GATEWAY: &str = "com.docker.network.gateway";
/// The option that has an endpoint's hardware address, where the driver requires it (`netlabel.MacAddress`).
pub const MAC_ADDRESS: &str = "com.docker.network.endpoint.macaddress";

/// The slow part of a driver's answer. It does not borrow the driver, and it runs on whether or not anybody still
/// waits, to the operation's deadline at the longest: then it is dropped where it stands, and what it was for is given
/// back.
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

/// What a driver works with during one call.
#[derive(Clone, Debug)]
pub struct IpamCx {
    /// The engine's instance name, should the driver keep things apart by engines.
    pub instance: Arc<str>,
    /// When the call must have ended.
    pub deadline: Instant,
}

/// What a driver needs (`ipamapi.Capability`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IpamCapability {
    /// Requests for endpoints must tell the hardware address, under [`MAC_ADDRESS`]: the engine chooses one before it
    /// asks, unless the caller has.
    pub requires_mac_address: bool,
    /// The driver forgets when it, or the engine, starts again: pools and addresses that are recorded are requested
    /// again then.
    pub requires_request_replay: bool,
}

/// The names of a driver's address spaces (`GetDefaultAddressSpaces`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressSpaces {
    /// The one for networks of one host.
    pub local: String,
    /// The one for networks of a cluster.
    pub global: String,
}

/// What a driver calls a pool (`PoolID`). Unlike that of any other pool it has given, except where the pool is the
/// whole space ([`AllocatedPool::pool`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolId(pub String);

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request for a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRequest {
    /// The address space: what the network asks for, or else the driver's own for the reach of its network driver.
    pub space: String,
    /// The subnet it must be; one is chosen when absent.
    pub pool: Option<IpNet>,
    /// The part of it from which addresses are to be chosen (`SubPool`). Only with `pool`.
    pub sub_pool: Option<IpNet>,
    /// The network's options for its IPAM driver.
    pub options: BTreeMap<String, String>,
    /// What the host uses: addresses, routes, name servers. A pool that is chosen should overlap none of these.
    pub exclude: Vec<IpNet>,
    /// Whether it is an IPv6 pool.
    pub v6: bool,
    /// The network that it is for.
    pub network: NetworkId,
    /// The pool is recorded under this name and requested again after a restart
    /// ([`IpamCapability::requires_request_replay`]): `pool` is what was given, and the answer must have this name.
    pub replay: Option<PoolId>,
}

/// A pool as it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllocatedPool {
    /// Its name.
    pub id: PoolId,
    /// Its subnet. The whole space, `0.0.0.0/0` or `::/0`, says that the driver chooses none: network drivers are
    /// shown no pool then.
    pub pool: IpNet,
    /// What else there is to say. [`GATEWAY`] names a gateway that needs no request; other keys are recorded.
    pub meta: BTreeMap<String, String>,
}

/// Whom an address is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// An endpoint.
    Endpoint(EndpointId),
    /// A network, for its gateway.
    Gateway(NetworkId),
    /// A network, for an auxiliary address of this name.
    Auxiliary(NetworkId, String),
    /// A network, for endpoints of this name, whether there is one or not. Such an endpoint has the address without a
    /// request of its own, and one that had it before goes on having it: the driver is told neither.
    Reservation(NetworkId, String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(id) => write!(f, "endpoint {}", id.short()),
            Self::Gateway(id) => write!(f, "the gateway of network {}", id.short()),
            Self::Auxiliary(id, name) => write!(f, "auxiliary address {name:?} of network {}", id.short()),
            Self::Reservation(id, name) => write!(f, "reservation {name:?} of network {}", id.short()),
        }
    }
}

/// A request for an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRequest {
    /// The pool.
    pub pool: PoolId,
    /// The address it must be; one is chosen when absent.
    pub address: Option<IpAddr>,
    /// [`REQUEST_ADDRESS_TYPE`] and [`MAC_ADDRESS`], where they apply.
    pub options: BTreeMap<String, String>,
    /// Whom it is for.
    pub owner: Owner,
}

/// An address as it was given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AllocatedAddress {
    /// The address with its prefix length. `None` says that the driver chooses none: the network driver may then.
    pub address: Option<IpNet>,
    /// What else there is to say. Not used, as in libnetwork.
    pub meta: BTreeMap<String, String>,
}

/// A pool to be given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRelease {
    /// The pool. `None` after a request that did not answer, or whose answer the engine did not live to note: whatever was
    /// given to the network, if anything, with the addresses in it.
    pub id: Option<PoolId>,
    /// The network that has it.
    pub network: NetworkId,
}

/// An address to be given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRelease {
    /// The pool.
    pub pool: PoolId,
    /// The address. `None` after a request that did not answer: whatever that gave the owner, if anything.
    pub address: Option<IpAddr>,
    /// Who has it. Not always the one that it was requested for: after a restart, an endpoint that outlived the
    /// reservation of its address, or the other way about.
    pub owner: Owner,
}

/// What discovery has to say (`DiscoverNew`, `DiscoverDelete`).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IpamDiscovery {
    /// A node appeared.
    NodeAppeared {
        /// Its address.
        address: IpAddr,
        /// Whether it is this node.
        this_node: bool,
    },
    /// A node went away.
    NodeLost {
        /// Its address.
        address: IpAddr,
        /// Whether it was this node.
        this_node: bool,
    },
    /// The cluster store's configuration is known, or has changed. Told again to a driver that was restarted.
    DatastoreConfigured(DatastoreConfig),
}

/// An IPAM driver: libnetwork's `ipamapi.Ipam`.
///
/// Calls come from one actor, one at a time. Each decides at once: it refuses, having changed nothing, or records its
/// decision in the driver's own state and returns the slow part. Several slow parts may be under way at once. One that
/// fails, or does not end before the deadline, is followed by a release without a name or an address.
///
/// A request that is repeated by the same network, or by the same owner in the same pool, gets the same answer.
/// A release succeeds for what is not there: it is repeated until it has succeeded.
///
/// Answers are checked. Whatever breaks one of these rules fails the request with [`netloom_model::Reason::IpamAnswer`],
/// and is given back, unless somebody else of this engine has it:
///
/// - A pool's name has 1 to 1024 bytes and no control characters; no other pool, of this network or another one, has it.
///   What comes with the pool (`meta`) has 64 KiB at most.
/// - A pool is of the family that was asked for, and the subnet that was; it has no host bits, is no subnet that hosts
///   cannot have (loopback, multicast and the like), and overlaps no other pool of its network. One that is the whole space
///   need not keep to that, nor have a name of its own.
/// - A gateway that comes with a pool is an address, lies in the pool, and is one that a host can have.
/// - An address is the one that was asked for, lies in its pool, has a prefix no shorter than the pool's, is one that a host
///   can have (not unspecified, loopback, multicast, nor the first or last one of an IPv4 pool up to /30), and is nobody
///   else's in the network. Where one was asked for, there is one.
/// - What is requested again after a start is what is recorded.
///
/// A pool that overlaps what the host uses is refused with [`netloom_model::Reason::PoolOverlapsHost`], as by the driver
/// `default`, and given back: name servers count where the driver chose the pool, and nothing does where networks of the
/// network driver share their subnets.
///
/// After the driver panicked, and at each start of the engine, a new value is made by its [`IpamFactory`].
pub trait IpamDriver: Send + 'static {
    /// Its name.
    fn name(&self) -> &str;

    /// What it needs. Asked once, before it is asked for anything.
    fn capability(&self) -> IpamCapability {
        IpamCapability::default()
    }

    /// Its address spaces. Asked once, after the capability.
    fn address_spaces(&self) -> AddressSpaces;

    /// Gives a network a pool.
    ///
    /// libnetwork's own drivers refuse with: `InvalidParameter` an unknown space or a pool that makes no sense,
    /// `Forbidden` one that overlaps another, `Exhausted` when there is none to choose.
    fn request_pool(&mut self, cx: &IpamCx, request: PoolRequest) -> Begun<AllocatedPool>;

    /// Takes a pool back. Its addresses have been given back before.
    fn release_pool(&mut self, cx: &IpamCx, release: PoolRelease) -> Begun<()>;

    /// Gives an address: to an endpoint, or to a network for its gateway, its auxiliary addresses and what is kept for
    /// names.
    ///
    /// libnetwork's own drivers refuse with: `NotFound` an unknown pool, `InvalidParameter` an address outside of it,
    /// `Forbidden` one that is taken, `Exhausted` when none is free. After `Exhausted` the network's next pool is asked.
    fn request_address(&mut self, cx: &IpamCx, request: AddressRequest) -> Begun<AllocatedAddress>;

    /// Takes an address back.
    fn release_address(&mut self, cx: &IpamCx, release: AddressRelease) -> Begun<()>;

    /// Discovery has something to say. Nobody waits for what the driver makes of it.
    fn discovered(&mut self, _cx: &IpamCx, _discovery: IpamDiscovery) -> Begun<()> {
        done(())
    }
}

/// Makes a driver: at the engine's start, and again when its actor died.
pub type IpamFactory = Arc<dyn Fn() -> Box<dyn IpamDriver> + Send + Sync>;

/// A driver that was made, with what it said about itself.
pub struct MadeIpam {
    /// The driver.
    pub driver: Box<dyn IpamDriver>,
    /// What it needs.
    pub capability: IpamCapability,
    /// Its address spaces.
    pub spaces: AddressSpaces,
}

impl fmt::Debug for MadeIpam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MadeIpam").field("capability", &self.capability).finish_non_exhaustive()
    }
}

/// An IPAM driver as the embedder registers it.
#[derive(Clone)]
pub struct IpamRegistration {
    /// Its name, by which networks ask for it.
    pub name: String,
    /// Makes it.
    pub factory: IpamFactory,
}

impl IpamRegistration {
    /// Registers a driver under a name.
    pub fn new<D: IpamDriver>(name: impl Into<String>, make: impl Fn() -> D + Send + Sync + 'static) -> Self {
        Self { name: name.into(), factory: Arc::new(move || Box::new(make())) }
    }

    /// Makes the driver and asks what there is to know about it.
    ///
    /// # Errors
    /// `Internal` when it panics, `InvalidParameter` when it calls itself something else or has a blank address space.
    pub fn make(&self) -> Result<MadeIpam> {
        let name = &self.name;
        let made = catch_unwind(AssertUnwindSafe(|| {
            let driver = (self.factory)();
            if driver.name() != name {
                let why = format!("it was registered as {name:?}; register it under its own name");
                return Err(Error::invalid("ipam driver", driver.name(), why));
            }
            let (capability, spaces) = (driver.capability(), driver.address_spaces());
            if let Some(blank) =
                [&spaces.local, &spaces.global].into_iter().find(|name| name.trim().is_empty())
            {
                let why = format!("ipam driver {name:?} must name both of its address spaces");
                return Err(Error::invalid("address space", blank, why));
            }
            Ok(MadeIpam { driver, capability, spaces })
        }));
        made.unwrap_or_else(|_| {
            Err(Error::internal(format!("ipam driver {name:?} panicked when it was made")))
        })
    }
}

impl fmt::Debug for IpamRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IpamRegistration({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use netloom_model::ErrorKind;

    use super::*;
    use crate::null::{NAME, NullIpam};

    #[test]
    fn a_driver_is_made_under_its_own_name_and_its_panics_are_caught() {
        let made = IpamRegistration::new(NAME, NullIpam::default).make().expect("made");
        assert_eq!((made.driver.name(), made.capability), (NAME, IpamCapability::default()));
        let error = IpamRegistration::new("other", NullIpam::default).make().expect_err("of another name");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        assert!(error.to_string().contains("\"null\"") && error.to_string().contains("\"other\""), "{error}");
        let broken = IpamRegistration::new(NAME, || -> NullIpam { panic!("broken") });
        let error = broken.make().expect_err("it panics");
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("panicked when it was made"), "{error}");
    }
}
