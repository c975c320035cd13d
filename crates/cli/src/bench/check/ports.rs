//! Checks of published ports, on the real kernel, in namespaces of their own.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use netloom::kernel::{Kernel, LinkTag, LinuxConfig, LinuxKernel, Netns, Op, isolate};
use netloom::testkit::probe::{Connector, Listener, transfer};
use netloom::{
    Endpoint, EndpointSpec, JoinSpec, Network, PortBinding, Sandbox, SandboxSpec, ShutdownMode, TransportPort,
};

use super::real::Place;
use super::{Check, on_a_runtime};

/// Callers at a time where many endpoints are made.
const CALLERS: usize = 64;
/// The first port of the host that is published.
const FIRST: u16 = 10_000;
/// How much one stream carries, and how long it may take.
const STREAM: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);
/// How often two paths are compared.
const ROUNDS: usize = 5;

/// Ports of the host from the first on, each by itself: the container's are in no order that makes them a row.
fn single(count: u16) -> impl Iterator<Item = PortBinding> {
    (0..count).map(move |n| PortBinding::new(FIRST + n, TransportPort::tcp(20_000 - n)))
}

/// The same in a row, under the container's own numbers.
fn row(count: u16) -> impl Iterator<Item = PortBinding> {
    (FIRST..FIRST + count).map(|port| PortBinding::new(port, TransportPort::tcp(port)))
}

async fn endpoint(
    place: &Place,
    network: &Network,
    name: &str,
    ports: impl Iterator<Item = PortBinding>,
) -> anyhow::Result<(Endpoint, Sandbox)> {
    let spec = ports.fold(EndpointSpec::new(name), EndpointSpec::publish);
    let endpoint = network.create_endpoint(spec).await?;
    Ok((endpoint, place.engine.controller().create_sandbox(SandboxSpec::new(name)).await?))
}

/// What these ports add to a join, in ms: the middle of many comparisons with a join just before that has none, so that
/// what else makes joins slow or fast for a while does not count.
async fn added(
    place: &Place,
    network: &Network,
    rounds: usize,
    ports: impl Iterator<Item = PortBinding>,
) -> anyhow::Result<f64> {
    let (bare, without) = endpoint(place, network, "bare", std::iter::empty()).await?;
    let (open, with) = endpoint(place, network, "open", ports).await?;
    let mut added = Vec::new();
    for _ in 0..rounds {
        let mut took = [0.0; 2];
        for (took, (endpoint, sandbox)) in took.iter_mut().zip([(&bare, &without), (&open, &with)]) {
            let began = Instant::now();
            endpoint.join(sandbox, JoinSpec::default()).await?;
            *took = began.elapsed().as_secs_f64() * 1e3;
            endpoint.leave(sandbox).await?;
            place.engine.drain().await?;
        }
        added.push(took[1] - took[0]);
    }
    for (endpoint, sandbox) in [(bare, without), (open, with)] {
        endpoint.delete().await?;
        sandbox.delete().await?;
    }
    added.sort_by(f64::total_cmp);
    Ok(added[rounds / 2])
}

/// How many endpoints there are beside the one that is measured: 5,000, or as many as this process may hold the ports of,
/// a descriptor each.
fn others() -> anyhow::Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit")?;
    let soft = line.split_whitespace().nth(3).context("no limit")?;
    let files = soft.parse().unwrap_or(usize::MAX);
    Ok(5_000.min(files.saturating_sub(4_000) / 4))
}

/// What ports add to a join; and what a hundred add beside 5,000 endpoints with four ports each, against the empty host.
/// How much longer the same join takes there without ports is the kernel's affair (`growth`).
pub(super) fn publish(check: &Check) -> anyhow::Result<Vec<f64>> {
    const PORTS_OF_EACH: u16 = 4;
    let others_there = others()?;
    isolate::enter_own_namespaces()?;
    on_a_runtime(async {
        let place = Place::new(check, Vec::new()).await?;
        let network = place.network("measured".into(), "bridge").await?;
        let mut figures = Vec::new();
        figures.push(added(&place, &network, 41, single(1)).await?);
        let hundred = added(&place, &network, 41, single(100)).await?;
        figures.push(hundred);
        figures.push(added(&place, &network, 7, single(1_000)).await?);
        figures.push(added(&place, &network, 21, row(1_000)).await?);

        let mut networks = Vec::new();
        for n in 0..others_there.div_ceil(1_000) {
            networks.push(place.network(format!("others{n}"), "bridge").await?);
        }
        let others = stream::iter(0..others_there).map(|n| {
            let (place, network) = (&place, &networks[n % networks.len()]);
            async move {
                let first = 30_000 + u16::try_from(n)? * PORTS_OF_EACH;
                let ports =
                    (0..PORTS_OF_EACH).map(|n| PortBinding::new(first + n, TransportPort::tcp(20_000 - n)));
                let (endpoint, sandbox) = endpoint(place, network, &format!("other{n}"), ports).await?;
                endpoint.join(&sandbox, JoinSpec::default()).await.map_err(anyhow::Error::from)
            }
        });
        let others: Vec<_> = others.buffer_unordered(CALLERS).try_collect().await?;
        ensure!(others.len() == others_there, "{} others are there", others.len());
        figures.push(added(&place, &network, 41, single(100)).await? / hundred);
        place.engine.shutdown(ShutdownMode::Immediate).await?;
        Ok(figures)
    })
}

/// How long a start takes that has 400 endpoints and 1,000 ports to restore.
pub(super) fn republish(check: &Check) -> anyhow::Result<Vec<f64>> {
    const ENDPOINTS: usize = 400;
    const PORTS: usize = 1_000;
    isolate::enter_own_namespaces()?;
    on_a_runtime(async {
        let place = Place::new(check, Vec::new()).await?;
        let network = place.network("many".into(), "bridge").await?;
        let joins = stream::iter(0..ENDPOINTS).map(|n| {
            let (place, network) = (&place, &network);
            async move {
                let (first, last) = (n * PORTS / ENDPOINTS, (n + 1) * PORTS / ENDPOINTS);
                let ports = (first..last).map(|n| {
                    let n = u16::try_from(n).unwrap_or_default();
                    PortBinding::new(FIRST + n, TransportPort::tcp(20_000 - n))
                });
                let (endpoint, sandbox) = endpoint(place, network, &format!("c{n}"), ports).await?;
                endpoint.join(&sandbox, JoinSpec::default()).await.map_err(anyhow::Error::from)
            }
        });
        let _: Vec<_> = joins.buffer_unordered(CALLERS).try_collect().await?;
        place.engine.shutdown(ShutdownMode::Graceful).await?;
        let began = Instant::now();
        let place = place.next().await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        let ports = place.engine.controller().ports().await?;
        let count: usize = ports.iter().flat_map(|ports| &ports.ports).map(|ports| ports.range.count()).sum();
        ensure!(
            count == PORTS && ports.iter().all(|ports| ports.unheld.is_empty()),
            "{count} ports are back"
        );
        ensure!(place.engine.repairs().is_empty(), "something was repaired: {:?}", place.engine.repairs());
        place.engine.shutdown(ShutdownMode::Immediate).await?;
        Ok(vec![took])
    })
}

/// A machine on the host's LAN.
struct Neighbour {
    kernel: LinuxKernel,
    netns: Netns,
}

/// Where the host and its neighbour are.
const HOST: &str = "192.0.2.1";

impl Neighbour {
    async fn new(dir: &std::path::Path) -> anyhow::Result<Self> {
        let name = "neighbour".parse()?;
        let (host, eth0, netns) = ("uplink".parse()?, "eth0".parse()?, Netns::Named(name));
        let kernel = LinuxKernel::start(LinuxConfig { run_dir: dir.join("others") })?;
        let own = |netns, link, address: &str| -> anyhow::Result<Op> {
            Ok(Op::AddAddress { netns, link, address: address.parse()? })
        };
        let up = |netns, name| Op::SetLink { netns, name, up: true };
        let tag = LinkTag::new("bench", "uplink", "neighbour");
        let steps = [
            vec![Op::CreateNetns { name, ipv6: true }],
            vec![Op::CreateVeth { host, peer: eth0, netns, master: None, mac: None, mtu: None, tag }],
            vec![
                own(Netns::Host, host, "192.0.2.1/24")?,
                own(netns, eth0, "192.0.2.9/24")?,
                up(Netns::Host, host),
                up(netns, eth0),
                Op::Sysctl { netns: Netns::Host, key: "ipv4/ip_forward".into(), value: "1".into() },
            ],
        ];
        for step in steps {
            for outcome in kernel.execute(step, Instant::now() + PATIENCE).await {
                outcome?;
            }
        }
        Ok(Self { kernel, netns })
    }

    async fn connector(&self, to: IpAddr) -> anyhow::Result<Connector> {
        let (sender, socket) = std::sync::mpsc::channel();
        let job = Box::new(move || drop(sender.send(Connector::open(to))));
        self.kernel.run_in(self.netns, job, Instant::now() + PATIENCE).await?;
        Ok(socket.recv()??)
    }

    /// Bytes a second of a stream to a port of the host that leads to a listener.
    async fn stream(&self, listener: &Listener, port: u16) -> anyhow::Result<f64> {
        let host: IpAddr = HOST.parse()?;
        let connector = self.connector(host).await?;
        let to = SocketAddr::new(host, port);
        let sent = transfer(listener, connector, to, STREAM, 1, Instant::now() + PATIENCE)?;
        Ok(sent.bytes as f64 / sent.elapsed.as_secs_f64())
    }
}

/// Has `nft` carry out a script.
fn nft(script: &str) -> anyhow::Result<()> {
    let output = Command::new("nft").arg(script).output().context("nft is needed (package nftables)")?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A stream from the LAN to a published port, against the same with the least that does it by hand.
pub(super) fn nat(check: &Check) -> anyhow::Result<Vec<f64>> {
    isolate::enter_own_namespaces()?;
    on_a_runtime(async {
        let dir = tempfile::tempdir()?;
        let neighbour = Neighbour::new(dir.path()).await?;
        let mut place = Place::new(check, Vec::new()).await?;
        let network = place.network("served".into(), "bridge").await?;
        let port = PortBinding::new(FIRST, TransportPort::tcp(80));
        let (endpoint, sandbox) = endpoint(&place, &network, "server", std::iter::once(port)).await?;
        endpoint.join(&sandbox, JoinSpec::default()).await?;
        let address = endpoint.inspect().await?.ipv4.context("no address")?.addr();
        let listener = sandbox.run(move || Listener::open((IpAddr::from(address), 80).into())).await??;
        let table = place.engine.inspect().await?.firewall.context("no firewall")?.place;
        neighbour.stream(&listener, FIRST).await?;
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let ours = neighbour.stream(&listener, FIRST).await?;
            place.engine.shutdown(ShutdownMode::Graceful).await?;
            nft(&format!("delete {table}"))?;
            nft(&format!(
                "table ip hand {{
                    chain to {{ type nat hook prerouting priority dstnat; tcp dport {FIRST} dnat to {address}:80; }}
                    chain from {{ type nat hook postrouting priority srcnat; ip saddr {address} masquerade; }}
                }}"
            ))?;
            let by_hand = neighbour.stream(&listener, FIRST).await?;
            nft("delete table ip hand")?;
            place = place.next().await?;
            ratios.push(ours / by_hand);
        }
        place.engine.shutdown(ShutdownMode::Immediate).await?;
        ratios.sort_by(f64::total_cmp);
        Ok(vec![ratios[ROUNDS / 2]])
    })
}
