//! An IPAM driver of the embedder's own, beside `default` and `null`.
//!
//! The driver here is `ledger`: a list of subnets that somebody else hands out, one to each network, with what each
//! container got under its hardware address. It outlives the engine, so nothing is asked for again after a restart. The
//! engine runs over the simulated kernel, and the driver tells what it was asked.
//!
//! Run with `cargo run --example custom_ipam`.
#![allow(clippy::print_stdout)] // It talks to whoever runs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use netloom::ipam::{
    AddressRelease, AddressRequest, AddressSpaces, AllocatedAddress, AllocatedPool, Begun, IpamCapability,
    IpamCx, IpamDriver, IpamRegistration, MAC_ADDRESS, PoolId, PoolRelease, PoolRequest, done,
};
use netloom::kernel::Netns;
use netloom::testkit::SimKernel;
use netloom::{
    EndpointSpec, Engine, Error, ErrorKind, JoinSpec, NetworkSpec, ObjectKind, Reason, SandboxSpec,
};

/// The driver's name.
const NAME: &str = "ledger";

// === The ledger ===

/// What was handed out: somebody else's, and there when the engine is not.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<BTreeMap<PoolId, Page>>>);

/// A subnet that is in use.
struct Page {
    subnet: ipnet::Ipv4Net,
    lines: BTreeMap<Ipv4Addr, String>,
}

impl Ledger {
    fn open(&self) -> MutexGuard<'_, BTreeMap<PoolId, Page>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver: what it knows is in the ledger.
struct LedgerIpam {
    ledger: Ledger,
    /// Where it tells what it was asked.
    asked: Sender<String>,
}

impl LedgerIpam {
    /// Notes what it was asked. Whether anybody listens is not its business.
    fn note(&self, what: String) {
        let _ = self.asked.send(what);
    }
}

/// The driver's own refusal.
fn refuse(kind: ErrorKind, message: impl Into<String>) -> Error {
    Reason::Driver { driver: NAME.into(), kind, message: message.into() }.into()
}

// === The driver ===

impl IpamDriver for LedgerIpam {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capability(&self) -> IpamCapability {
        // A line says whose address it is; and the ledger remembers.
        IpamCapability { requires_mac_address: true, requires_request_replay: false }
    }

    fn address_spaces(&self) -> AddressSpaces {
        AddressSpaces { local: "site".into(), global: "company".into() }
    }

    fn request_pool(&mut self, _: &IpamCx, request: PoolRequest) -> Begun<AllocatedPool> {
        self.note(format!("a pool in {:?}", request.space));
        if request.v6 {
            return Err(refuse(ErrorKind::InvalidParameter, "it has IPv4 subnets only"));
        }
        if let Some(pool) = request.pool {
            return Err(refuse(
                ErrorKind::InvalidParameter,
                format!("it chooses subnets itself; leave {pool} out"),
            ));
        }
        let mut ledger = self.ledger.open();
        let subnets = (0..8).filter_map(|n| ipnet::Ipv4Net::new(Ipv4Addr::new(10, 200, n, 0), 24).ok());
        let mut free = subnets.filter(|subnet| !ledger.values().any(|page| page.subnet == *subnet));
        let usable = |subnet: &ipnet::Ipv4Net| {
            let pool = ipnet::IpNet::V4(*subnet);
            !request.exclude.iter().any(|used| used.contains(&pool) || pool.contains(used))
        };
        let subnet =
            free.find(usable).ok_or_else(|| refuse(ErrorKind::Exhausted, "all of its subnets are in use"))?;
        let id = PoolId(format!("page {}", subnet.addr()));
        ledger.insert(id.clone(), Page { subnet, lines: BTreeMap::new() });
        done(AllocatedPool { id, pool: subnet.into(), meta: BTreeMap::new() })
    }

    fn release_pool(&mut self, _: &IpamCx, PoolRelease { id, .. }: PoolRelease) -> Begun<()> {
        self.note(format!("{} back", id.as_ref().map_or("whatever it gave", |id| &id.0)));
        if let Some(id) = id {
            self.ledger.open().remove(&id);
        }
        done(())
    }

    fn request_address(&mut self, _: &IpamCx, request: AddressRequest) -> Begun<AllocatedAddress> {
        let whose = match request.options.get(MAC_ADDRESS) {
            Some(mac) => mac.clone(),
            None => request.owner.to_string(),
        };
        self.note(format!("an address of {} for {whose}", request.pool));
        let mut ledger = self.ledger.open();
        let page = ledger.get_mut(&request.pool);
        let page = page.ok_or_else(|| Error::not_found(ObjectKind::Pool, &request.pool))?;
        let mine = page.lines.iter().find(|(_, line)| **line == whose).map(|(address, _)| *address);
        let wanted = match request.address {
            Some(IpAddr::V4(address)) => Some(address),
            Some(IpAddr::V6(address)) => {
                return Err(
                    Reason::AddressUnusable { address: address.into(), why: "it is IPv6".into() }.into()
                );
            }
            None => mine.or_else(|| page.subnet.hosts().find(|address| !page.lines.contains_key(address))),
        };
        let address = wanted.ok_or_else(|| refuse(ErrorKind::Exhausted, "the page is full"))?;
        if page.lines.get(&address).is_some_and(|line| *line != whose) {
            return Err(refuse(ErrorKind::Forbidden, format!("{address} is in use")));
        }
        page.lines.insert(address, whose);
        let net = ipnet::Ipv4Net::new(address, page.subnet.prefix_len()).ok();
        done(AllocatedAddress { address: net.map(Into::into), meta: BTreeMap::new() })
    }

    fn release_address(&mut self, _: &IpamCx, release: AddressRelease) -> Begun<()> {
        let address = release.address.map(|address| address.to_string());
        self.note(format!("{} back", address.as_deref().unwrap_or("whatever it gave")));
        if let (Some(page), Some(IpAddr::V4(address))) =
            (self.ledger.open().get_mut(&release.pool), release.address)
        {
            page.lines.remove(&address);
        }
        done(())
    }
}

// === Its use ===

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kernel = SimKernel::new();
    let before = kernel.snapshot();
    let (asked, heard) = channel();
    let ledger = Ledger::default();
    let own = ledger.clone();
    let registration =
        IpamRegistration::new(NAME, move || LedgerIpam { ledger: own.clone(), asked: asked.clone() });
    let simulation = Engine::simulation().kernel(kernel.clone()).ipam_driver(registration).start().await?;
    let controller = simulation.engine().controller();
    println!("ipam drivers: {}", controller.ipam_drivers().await?.join(", "));

    let mut spec = NetworkSpec::new("blue");
    spec.ipam.driver = NAME.into();
    let refused = controller.create_network(spec.clone().ipv6(true)).await;
    let error = refused.err().context("the ledger has no IPv6 subnets")?;
    println!("refused: {error} ({:?})", error.kind());
    ensure!(error.kind() == ErrorKind::InvalidParameter && ledger.open().is_empty(), "nothing is kept");

    let network = controller.create_network(spec).await?;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await?;
    let sandbox = controller.create_sandbox(SandboxSpec::new("container-1")).await?;
    endpoint.join(&sandbox, JoinSpec::default()).await?;
    let found = endpoint.inspect().await?;
    let (address, mac) = (found.ipv4.context("no address")?, found.mac.context("no hardware address")?);
    let gateway = sandbox.inspect().await?.gateway.context("no gateway")?;
    kernel.can_reach(Netns::Named(sandbox.netns()?), gateway).map_err(anyhow::Error::msg)?;
    println!("{address} with {mac} reaches {gateway}");
    ensure!(ledger.open().values().any(|page| page.lines.get(&address.addr()) == Some(&mac.to_string())));

    // The next engine knows from its own records what the ledger has given.
    let simulation = simulation.kill_and_restart().await?;
    ensure!(simulation.engine().repairs().is_empty(), "nothing was wrong");
    let controller = simulation.engine().controller();
    let network = controller.network_by_name("blue")?;
    let second = network.create_endpoint(EndpointSpec::new("db")).await?;
    println!("{} is the next one", second.inspect().await?.ipv4.context("no address")?);
    controller.sandbox_by_container("container-1")?.delete().await?;
    for endpoint in network.endpoints().await? {
        endpoint.delete().await?;
    }
    network.delete().await?;
    simulation.engine().drain().await?;
    kernel.assert_pristine(&before);
    ensure!(ledger.open().is_empty(), "everything is given back");

    println!("the driver was asked for:");
    heard.try_iter().for_each(|what| println!("  {what}"));
    Ok(())
}
