//! An IPAM driver that keeps its pools on a server of its own and does as a test tells it. The server outlives the driver,
//! the engine and its restarts, and notes every call.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use ipnet::IpNet;
use netloom::ipam::{
    AddressRelease, AddressRequest, AddressSpaces, AllocatedAddress, AllocatedPool, Begun, IpamCapability,
    IpamCx, IpamDiscovery, IpamDriver, IpamRegistration, Owner, PoolId, PoolRelease, PoolRequest, done,
};
use netloom::testkit::SimKernel;
use netloom::{Engine, EngineConfig, Error, ErrorKind, NetworkId, NetworkSpec, Reason, SimulationBuilder};

use crate::support::World;

/// Its name.
pub(crate) const NAME: &str = "acme";

/// What it is asked.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Call {
    Pool(PoolRequest),
    PoolBack(PoolRelease),
    Address(AddressRequest),
    AddressBack(AddressRelease),
    Discovered(IpamDiscovery),
}

impl Call {
    /// Whether it is about an endpoint's address.
    pub(crate) fn of_endpoint(&self) -> bool {
        matches!(self, Self::Address(AddressRequest { owner: Owner::Endpoint(_), .. }))
    }
}

/// What it does instead of what it should.
#[derive(Clone, Debug)]
pub(crate) enum Twist {
    /// It refuses.
    Refuse(ErrorKind),
    /// It carries out what it was asked, and never says so.
    Hang,
    /// It panics at once.
    Panic,
    /// It carries out what it was asked, and panics.
    PanicLater,
    /// It answers with this.
    Pool(AllocatedPool),
    /// It answers with this.
    Address(Option<IpNet>),
}

type Script = Box<dyn FnMut(&Call) -> Option<Twist> + Send>;

/// The server. Its clones are one.
#[derive(Clone)]
pub(crate) struct Acme(Arc<Mutex<Server>>);

struct Server {
    capability: IpamCapability,
    script: Script,
    calls: Vec<Call>,
    /// Who has which pool, and which addresses of it.
    pools: BTreeMap<PoolId, (NetworkId, BTreeMap<IpAddr, Owner>)>,
    /// Releases of what was not there.
    stray: Vec<Call>,
    made: usize,
}

impl Acme {
    pub(crate) fn new(capability: IpamCapability) -> Self {
        let script: Script = Box::new(|_| None);
        let (calls, pools, stray, made) = (Vec::new(), BTreeMap::new(), Vec::new(), 0);
        Self(Arc::new(Mutex::new(Server { capability, script, calls, pools, stray, made })))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Server) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Does from now on what the script says.
    pub(crate) fn script(&self, script: impl FnMut(&Call) -> Option<Twist> + Send + 'static) {
        self.with(|server| server.script = Box::new(script));
    }

    /// Does from now on what it should.
    pub(crate) fn behave(&self) {
        self.script(|_| None);
    }

    /// Forgets everything it has given.
    pub(crate) fn forget(&self) {
        self.with(|server| server.pools.clear());
    }

    /// Every call since this was last asked.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.with(|server| std::mem::take(&mut server.calls))
    }

    /// How many drivers were made.
    pub(crate) fn made(&self) -> usize {
        self.with(|server| server.made)
    }

    /// The pools and addresses that are given, in order.
    pub(crate) fn given(&self) -> Vec<String> {
        self.with(|server| {
            let lines = server.pools.iter().flat_map(|(id, (_, addresses))| {
                std::iter::once(id.to_string()).chain(addresses.keys().map(ToString::to_string))
            });
            lines.collect()
        })
    }

    /// Everything was given back, each once.
    #[track_caller]
    pub(crate) fn assert_all_is_back(&self) {
        assert_eq!(self.given(), [""; 0]);
        self.assert_nothing_stray();
    }

    /// Nothing was given back that it had not given.
    #[track_caller]
    pub(crate) fn assert_nothing_stray(&self) {
        self.with(|server| assert_eq!(server.stray, [], "given back though it was not there"));
    }

    pub(crate) fn registration(&self) -> IpamRegistration {
        let made = self.clone();
        IpamRegistration::new(NAME, move || {
            made.with(|server| server.made += 1);
            made.clone()
        })
    }

    /// An engine that has it, and whatever else.
    pub(crate) async fn world(
        &self,
        config: EngineConfig,
        more: impl FnOnce(SimulationBuilder) -> SimulationBuilder,
    ) -> World {
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        let simulation = Engine::simulation().config(config).kernel(kernel).ipam_driver(self.registration());
        World { simulation: more(simulation).start().await.expect("the engine starts"), before }
    }
}

/// A bridge network whose addresses it gives.
pub(crate) fn of_acme(name: &str) -> NetworkSpec {
    let mut spec = NetworkSpec::new(name);
    spec.ipam.driver = NAME.into();
    spec
}

fn refusal(kind: ErrorKind) -> Error {
    Reason::Driver { driver: NAME.into(), kind, message: "told to refuse".into() }.into()
}

impl Server {
    fn carry_out(&mut self, call: &Call) -> Result<Answer, Error> {
        match call {
            Call::Pool(request) => self.pool(request).map(Answer::Pool),
            Call::Address(request) => self.address(request).map(Answer::Address),
            Call::PoolBack(PoolRelease { id, network }) => {
                let before = self.pools.len();
                self.pools.retain(|known, (of, _)| match id {
                    Some(id) => known != id,
                    None => of != network,
                });
                if before == self.pools.len() && id.is_some() {
                    self.stray.push(call.clone());
                }
                Ok(Answer::Done)
            }
            Call::AddressBack(AddressRelease { pool, address, owner }) => {
                let Some((_, addresses)) = self.pools.get_mut(pool) else {
                    self.stray.push(call.clone());
                    return Ok(Answer::Done);
                };
                let before = addresses.len();
                addresses.retain(|known, of| match address {
                    Some(address) => known != address,
                    None => of != owner,
                });
                if before == addresses.len() && address.is_some() {
                    self.stray.push(call.clone());
                }
                Ok(Answer::Done)
            }
            Call::Discovered(_) => Ok(Answer::Done),
        }
    }

    fn pool(&mut self, request: &PoolRequest) -> Result<AllocatedPool, Error> {
        let family = |pool: &str| pool.parse::<IpNet>().expect("a subnet");
        let candidates: Vec<IpNet> = match request.pool {
            Some(pool) => vec![pool],
            None if request.v6 => (0..99).map(|n| family(&format!("fd77:{n}::/64"))).collect(),
            None => (0..99).map(|n| family(&format!("10.77.{n}.0/24"))).collect(),
        };
        let free = candidates.into_iter().find(|pool| {
            let excluded = request.exclude.iter().any(|net| net.contains(pool) || pool.contains(net));
            let holder = self.pools.get(&PoolId(format!("{}/{pool}", request.space)));
            let again = holder.is_some_and(|(of, _)| *of == request.network && request.pool.is_some());
            !excluded && (holder.is_none() || again)
        });
        let pool = free.ok_or_else(|| refusal(ErrorKind::Forbidden))?;
        let id = PoolId(format!("{}/{pool}", request.space));
        self.pools.entry(id.clone()).or_insert_with(|| (request.network, BTreeMap::new()));
        Ok(AllocatedPool { id, pool, meta: [].into() })
    }

    fn address(&mut self, request: &AddressRequest) -> Result<Option<IpNet>, Error> {
        let (_, text) = request.pool.0.split_once('/').expect("a name of ours");
        let pool: IpNet = text.parse().expect("a subnet");
        let (_, given) = self.pools.get_mut(&request.pool).ok_or_else(|| refusal(ErrorKind::NotFound))?;
        let known = given.iter().find(|(_, owner)| **owner == request.owner).map(|(address, _)| *address);
        let address = request.address.or(known).or_else(|| {
            let mut hosts = pool.hosts().take(250);
            hosts.find(|address| *address != pool.addr() && !given.contains_key(address))
        });
        let address = address.ok_or_else(|| refusal(ErrorKind::Exhausted))?;
        match given.get(&address) {
            Some(owner) if *owner != request.owner => return Err(refusal(ErrorKind::Forbidden)),
            _ => given.insert(address, request.owner.clone()),
        };
        Ok(IpNet::new(address, pool.prefix_len()).ok())
    }
}

/// What the server answers.
enum Answer {
    Pool(AllocatedPool),
    Address(Option<IpNet>),
    Done,
}

impl Acme {
    /// Carries a call out, with its twist if it has one. A made-up answer gives nothing.
    fn call<T: Send + 'static>(&self, call: &Call, read: fn(Answer) -> Option<T>) -> Begun<T> {
        let twist = self.with(|server| {
            server.calls.push(call.clone());
            (server.script)(call)
        });
        let answer = |answer| read(answer).expect("an answer to what was asked");
        match twist {
            Some(Twist::Refuse(kind)) => Err(refusal(kind)),
            Some(Twist::Panic) => panic!("told to panic"),
            Some(Twist::Pool(pool)) => done(answer(Answer::Pool(pool))),
            Some(Twist::Address(address)) => done(answer(Answer::Address(address))),
            Some(Twist::Hang) => {
                self.with(|server| server.carry_out(call))?;
                Ok(std::future::pending().boxed())
            }
            Some(Twist::PanicLater) => {
                self.with(|server| server.carry_out(call))?;
                Ok(async { panic!("told to panic later") }.boxed())
            }
            None => done(answer(self.with(|server| server.carry_out(call))?)),
        }
    }
}

impl IpamDriver for Acme {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capability(&self) -> IpamCapability {
        self.with(|server| server.capability)
    }

    fn address_spaces(&self) -> AddressSpaces {
        AddressSpaces { local: "here".into(), global: "everywhere".into() }
    }

    fn request_pool(&mut self, _: &IpamCx, request: PoolRequest) -> Begun<AllocatedPool> {
        self.call(
            &Call::Pool(request),
            |answer| if let Answer::Pool(pool) = answer { Some(pool) } else { None },
        )
    }

    fn release_pool(&mut self, _: &IpamCx, release: PoolRelease) -> Begun<()> {
        self.call(&Call::PoolBack(release), |_| Some(()))
    }

    fn request_address(&mut self, _: &IpamCx, request: AddressRequest) -> Begun<AllocatedAddress> {
        self.call(&Call::Address(request), |answer| {
            let Answer::Address(address) = answer else { return None };
            Some(AllocatedAddress { address, meta: [].into() })
        })
    }

    fn release_address(&mut self, _: &IpamCx, release: AddressRelease) -> Begun<()> {
        self.call(&Call::AddressBack(release), |_| Some(()))
    }

    fn discovered(&mut self, _: &IpamCx, discovery: IpamDiscovery) -> Begun<()> {
        self.call(&Call::Discovered(discovery), |_| Some(()))
    }
}
