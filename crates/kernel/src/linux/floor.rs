//! What the kernel's work for a bridge endpoint costs when nothing is around it: one thread, bare netlink, no
//! allocator, no store, deletions in groups. Benchmarks measure the engine against it in the same run.
//!
//! An endpoint comes up as the engine brings it up: a namespace without IPv6, mounted; a veth pair in one message,
//! straight into it, with its mark; then loopback, link, address and default route in one send inside. Neighbours
//! are told nothing. It goes down with its group, then its namespace is unmounted.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use netloom_model::{IfName, MacAddr, NetnsName};
use nix::sched::{CloneFlags, unshare};

use super::encode::{self, Places};
use super::failure::Failure;
use super::mounts::{Mounts, open_own};
use super::netns;
use super::numbers::{self, Numbers};
use super::transport::{Answer, Counters, Transport};
use crate::op::{LinkTag, Netns, Op, Route};

/// How many links go with one deletion.
const BATCH: usize = 64;
/// How long any request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The number of every endpoint's interface, in its own namespace.
const INSIDE: u32 = 100;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// How long each endpoint took to come up.
    pub up: Vec<Duration>,
    /// How long bringing all of them up took.
    pub all_up: Duration,
    /// How long taking all of them down took.
    pub all_down: Duration,
}

/// The shape of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many endpoints in all.
    pub endpoints: usize,
    /// Over how many bridges.
    pub bridges: usize,
    /// Whether all of them are up before the first goes down, or at most 64 at a time.
    pub hold: bool,
}

/// Measures, on a thread of its own, in the caller's network namespace. Namespaces are mounted below
/// `run_dir`, which must be nobody else's. Everything is taken down again.
///
/// # Errors
/// What the kernel refuses, in words. Something may be left then.
pub fn measure(run_dir: &Path, shape: Shape) -> io::Result<Measured> {
    let run_dir: PathBuf = run_dir.to_owned();
    let thread = std::thread::Builder::new().name("floor".into());
    let outcome = thread.spawn(move || Floor::new(&run_dir, shape).and_then(|mut floor| floor.run()))?;
    outcome.join().map_err(|_| io::Error::other("the measuring thread panicked"))?
}

struct Floor {
    shape: Shape,
    host: Transport,
    mounts: Mounts,
    numbers: Numbers,
    counters: Arc<Counters>,
    bridges: Vec<(IfName, u32)>,
    group: u32,
    /// Links and namespaces that are up, in the order in which they came.
    standing: Vec<(u32, NetnsName, Transport)>,
}

impl Floor {
    fn new(run_dir: &Path, shape: Shape) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut floor = Self {
            shape,
            host: Transport::open(&counters)?,
            mounts: Mounts::below(run_dir)?,
            numbers: Numbers::new(),
            counters,
            bridges: Vec::new(),
            group: numbers::draw(),
            standing: Vec::with_capacity(shape.endpoints),
        };
        for bridge in 0..shape.bridges {
            floor.make_bridge(bridge).map_err(failed)?;
        }
        Ok(floor)
    }

    fn run(&mut self) -> io::Result<Measured> {
        let Shape { endpoints, hold, .. } = self.shape;
        let mut measured = Measured::default();
        let round = if hold { endpoints } else { BATCH };
        let mut n = 0;
        while n < endpoints {
            let began = Instant::now();
            for n in n..endpoints.min(n + round) {
                let one = Instant::now();
                self.up(n).map_err(failed)?;
                measured.up.push(one.elapsed());
            }
            measured.all_up += began.elapsed();
            let began = Instant::now();
            self.down().map_err(failed)?;
            measured.all_down += began.elapsed();
            n += round;
        }
        for (_, index) in std::mem::take(&mut self.bridges) {
            self.ask(&encode::delete_index(index)).map_err(failed)?;
        }
        Ok(measured)
    }

    fn make_bridge(&mut self, bridge: usize) -> Result<(), Failure> {
        let name: IfName =
            format!("floor{bridge}").parse().map_err(|_| Failure::errno(nix::errno::Errno::EINVAL))?;
        let number = self.numbers.take(name)?;
        let tag = LinkTag::new("floor", "network", bridge.to_string());
        let create = Op::CreateBridge { name, mac: Some(mac(gateway(bridge))), mtu: None, tag };
        self.tell(&create, Places { number: Some(number), ..Places::default() })?;
        let address = net(gateway(bridge));
        let address = Op::AddAddress { netns: Netns::Host, link: name, address };
        self.tell(&address, Places { index: Some(number), ..Places::default() })?;
        self.tell(&Op::SetLink { netns: Netns::Host, name, up: true }, Places::default())?;
        self.bridges.push((name, number));
        Ok(())
    }

    fn up(&mut self, n: usize) -> Result<(), Failure> {
        let invalid = |_| Failure::errno(nix::errno::Errno::EINVAL);
        let (name, host): (NetnsName, IfName) =
            (format!("floor{n}").parse().map_err(invalid)?, format!("flr{n}").parse().map_err(invalid)?);
        let inside: IfName = "eth0".parse().map_err(invalid)?;
        // By its place among those that are up: addresses come back, as in an engine.
        let place = self.standing.len();
        let bridge = place % self.bridges.len();
        let own = address(bridge, place / self.bridges.len());
        self.mounts.reserve(name)?;
        // This thread moves into each namespace in turn and never has to go back: its sockets stay where they
        // were opened.
        unshare(CloneFlags::CLONE_NEWNET).map_err(Failure::errno)?;
        let netns = open_own().map_err(|error| Failure::io(&error, "cannot open the namespace"))?;
        let mut socket = Transport::open(&self.counters)
            .map_err(|error| Failure::io(&error, "cannot open a socket in the namespace"))?;
        self.mounts.mount_own(name)?;
        netns::write_setting("ipv6/conf/default/disable_ipv6", "1")?;

        let number = self.numbers.take(host)?;
        let create = Op::CreateVeth {
            host,
            peer: inside,
            netns: Netns::Named(name),
            master: Some(self.bridges[bridge].0),
            mac: Some(mac(own)),
            mtu: None,
            tag: LinkTag::new("floor", "endpoint", n.to_string()),
        };
        let places = Places {
            index: Some(self.bridges[bridge].1),
            mac: None,
            netns: Some(netns.as_fd()),
            number: Some(number),
            peer: Some(INSIDE),
        };
        self.tell(&create, places)?;

        let within = Netns::Named(name);
        let route = Route {
            destination: IpNet::V4(Ipv4Net::default()),
            via: Some(gateway(bridge).into()),
            link: inside,
        };
        let dress = [
            Op::SetLink { netns: within, name: inside, up: true },
            Op::AddAddress { netns: within, link: inside, address: net(own) },
            Op::AddRoute { netns: within, route },
        ];
        let mut requests = vec![encode::loopback_up()];
        for op in &dress {
            requests.extend(encode::requests(op, Places { index: Some(INSIDE), ..Places::default() })?);
        }
        accepted(socket.exchange(&requests, Instant::now() + PATIENCE))?;
        self.standing.push((number, name, socket));
        Ok(())
    }

    fn down(&mut self) -> Result<(), Failure> {
        while !self.standing.is_empty() {
            let batch: Vec<_> = self.standing.drain(..self.standing.len().min(BATCH)).collect();
            let mark: Vec<_> = batch.iter().map(|(link, ..)| encode::set_group(*link, self.group)).collect();
            accepted(self.host.exchange(&mark, Instant::now() + PATIENCE))?;
            self.ask(&encode::delete_group(self.group))?;
            for (_, name, socket) in batch {
                drop(socket);
                self.mounts.remove(name)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, op: &Op, places: Places<'_>) -> Result<(), Failure> {
        accepted(self.host.exchange(&encode::requests(op, places)?, Instant::now() + PATIENCE))
    }

    fn ask(&mut self, request: &super::transport::Request) -> Result<(), Failure> {
        self.host.ask(request, Instant::now() + PATIENCE).map(drop)
    }
}

fn accepted(answers: Vec<Answer>) -> Result<(), Failure> {
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}

fn failed(failure: Failure) -> io::Error {
    io::Error::other(failure.of("measure the floor", PATIENCE).to_string())
}

/// A network of each bridge's own.
fn gateway(bridge: usize) -> Ipv4Addr {
    address(bridge, usize::MAX)
}

fn address(bridge: usize, n: usize) -> Ipv4Addr {
    let own = u32::try_from(n.wrapping_add(2)).unwrap_or(1);
    let network = u32::try_from(bridge).unwrap_or(0);
    Ipv4Addr::from((198 << 24) + (18 << 16) + (network << 12) + own)
}

fn net(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, 20))
}

fn mac(address: Ipv4Addr) -> MacAddr {
    MacAddr::from_ipv4(address)
}
