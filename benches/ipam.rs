//! The address allocator: `cargo bench --bench ipam`.
//!
//! - `pairs`: a lease and its release in a /16 that is empty, half full, or has one free address in a thousand; beside
//!   it the same with a plain ordered set and a position, as a few lines would do it.
//! - `image`: a million endpoints at random addresses of a /8 and of an IPv6 /64 with a /8 beside it, read from their
//!   image (`read`), and taken again one by one as a host's records say, once those are read (`restore`); printed before
//!   it, what the addresses cost in memory, alone and with all that is known of their endpoints, and how much processor
//!   time reading takes.
//! - `pools`: with ten thousand pools in one address space, the choice of a default pool and its release, and the
//!   question which pools overlap a subnet.
//! - `sizes`: the choice of pools of five sizes by turns, where the default pools are in 17 blocks and ten thousand pools
//!   of these sizes are in use.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::IpNet;
use netloom_ipam::{
    AddressMap, AddressSpace, DefaultIpam, Granted, LeaseRequest, PoolsRequest, RestoredPools,
};
use netloom_model::config::DefaultPool;
use netloom_model::{EndpointId, IpamPoolSpec, IpamSpec, NetworkId};
use uuid::Uuid;

const MILLION: u64 = 1_000_000;

/// Says what is not a matter of time.
fn note(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

fn network(n: u64) -> NetworkId {
    format!("n{n}").parse().expect("an id")
}

/// Identifiers that look random, as real ones do, and are the same in every run.
fn endpoint(n: u64) -> EndpointId {
    let bits = u128::from(scattered(n)) << 64 | u128::from(scattered(n ^ u64::MAX));
    EndpointId::from_uuids(Uuid::from_u128(bits), Uuid::from_u128(bits.rotate_left(32)))
}

fn scattered(n: u64) -> u64 {
    let x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn want(n: u64, address: Option<IpAddr>) -> LeaseRequest {
    let mut want = LeaseRequest { owner: endpoint(n), name: format!("e{n}"), ipv4: None, ipv6: None };
    match address {
        Some(IpAddr::V4(ip)) => want.ipv4 = Some(ip),
        Some(IpAddr::V6(ip)) => want.ipv6 = Some(ip),
        None => {}
    }
    want
}

/// An allocator with one network of this subnet. One of IPv6 has a /8 of IPv4 beside it.
fn with_network(subnet: &str) -> (DefaultIpam, Granted) {
    let mut ipam = DefaultIpam::new(&[DefaultPool { base: net("10.0.0.0/8"), size: 8 }]);
    let pool = IpamPoolSpec { subnet: Some(net(subnet)), ..Default::default() };
    let mut spec = IpamSpec::default();
    let ipv6 = net(subnet).addr().is_ipv6();
    if ipv6 {
        spec.v6.push(pool);
    } else {
        spec.v4.push(pool);
    }
    let request =
        PoolsRequest { network: network(0), name: "n".into(), spec: &spec, ipv6, shares: false, host: &[] };
    let granted = ipam.request_pools(&request).expect("free");
    (ipam, granted)
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("pairs");
    group.throughput(Throughput::Elements(1));
    let usable = 65_533;
    for (full, taken) in [("0 %", 0), ("50 %", usable / 2), ("99.9 %", usable - usable / 1_000)] {
        let (mut ipam, _) = with_network("10.0.0.0/16");
        for n in 0..taken {
            ipam.lease(network(0), &want(n, None)).expect("free");
        }
        let (here, one) = (network(0), want(MILLION, None));
        group.bench_function(BenchmarkId::new("netloom", full), |b| {
            b.iter(|| {
                black_box(ipam.lease(here, &one).expect("free"));
                ipam.release(here, one.owner);
            });
        });
        let mut plain = Plain::new(2, 65_534);
        (0..taken).for_each(|_| assert!(plain.allocate().is_some()));
        group.bench_function(BenchmarkId::new("ordered set", full), |b| {
            b.iter(|| {
                let address = black_box(plain.allocate()).expect("free");
                plain.taken.remove(&address);
            });
        });
    }
    group.finish();
}

/// What a few lines would do: a set of what is taken, and a walk through it from the last address given.
struct Plain {
    taken: BTreeSet<u32>,
    first: u32,
    last: u32,
    next: u32,
}

impl Plain {
    fn new(first: u32, last: u32) -> Self {
        Self { taken: BTreeSet::new(), first, last, next: first }
    }

    fn allocate(&mut self) -> Option<u32> {
        let free = self.free(self.next, self.last).or_else(|| self.free(self.first, self.next - 1))?;
        self.taken.insert(free);
        self.next = if free == self.last { self.first } else { free + 1 };
        Some(free)
    }

    fn free(&self, from: u32, to: u32) -> Option<u32> {
        let mut free = from;
        for taken in self.taken.range(from..) {
            if *taken != free {
                break;
            }
            free += 1;
        }
        (free <= to).then_some(free)
    }
}

/// How long something has this thread on a processor, which does not depend on who else is at work on the machine.
fn on_cpu<T>(work: impl FnOnce() -> T) -> Duration {
    let so_far = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
    };
    let begin = so_far();
    let made = work();
    let time = so_far().saturating_sub(begin);
    drop(made);
    time
}

/// The memory that this process has, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().map_or(0, |kib| kib * 1024)
}

fn image(c: &mut Criterion) {
    let mut group = c.benchmark_group("image");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).throughput(Throughput::Elements(MILLION));
    for (subnet, bits) in [("10.0.0.0/8", 24), ("fd00::/64", 64)] {
        let mut map = AddressMap::default();
        let (mut ipam, granted) = with_network(subnet);
        // Written before it is measured what the allocator takes.
        let mut owners = vec![u64::MAX; 1_000_000];
        let before = resident();
        let mut n = 0;
        while map.len() < MILLION {
            n += 1;
            assert!(n < 2 * MILLION, "there is no room for a million");
            let offset = scattered(n) >> (64 - bits);
            let address: IpAddr = match net(subnet) {
                IpNet::V4(net) => {
                    let offset = u32::try_from(offset).expect("24 bits");
                    Ipv4Addr::from(u32::from(net.addr()) + offset).into()
                }
                IpNet::V6(net) => Ipv6Addr::from(u128::from(net.addr()) + u128::from(offset)).into(),
            };
            if ipam.lease(network(0), &want(n, Some(address))).is_ok() {
                owners[usize::try_from(map.len()).expect("a million")] = n;
                map.insert(offset, 1);
            }
        }
        let each = map.heap_bytes() as f64 / MILLION as f64;
        note(format_args!(
            "{subnet}: of a million random addresses, which are taken and by the how manieth holder: {each:.2} bytes an \
             address"
        ));
        let grown = resident().saturating_sub(before) as f64 - map.heap_bytes() as f64;
        note(format_args!(
            "{subnet}: all that the allocator has of a million endpoints, with identifiers and names, as the process \
             grew: {:.0} bytes an endpoint",
            grown / MILLION as f64
        ));
        let image = ipam.image(AddressSpace::Local);
        note(format_args!("{subnet}: the image of a million endpoints: {} bytes", image.len()));
        let read = || {
            let mut read = DefaultIpam::new(&[]);
            read.load_image(AddressSpace::Local, &image).expect("an image");
            read
        };
        let times: Vec<_> = (0..7).map(|_| on_cpu(read)).collect();
        let milliseconds = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let (least, most) = (milliseconds(times.iter().min()), milliseconds(times.iter().max()));
        note(format_args!("{subnet}: read in {least:.0} to {most:.0} ms of processor time, 7 times"));
        group.bench_function(BenchmarkId::new("read", subnet), |b| b.iter_with_large_drop(read));
        drop(image);
        let records: Vec<_> = owners
            .iter()
            .map(|n| {
                let want = want(*n, None);
                (want.owner, ipam.lease(network(0), &want).expect("it has one"), want.name)
            })
            .collect();
        let pools = RestoredPools {
            network: network(0),
            name: "n",
            address_space: "",
            shares: false,
            v4: &granted.v4,
            v6: &granted.v6,
        };
        group.bench_function(BenchmarkId::new("restore", subnet), |b| {
            b.iter_with_large_drop(|| {
                let mut restored = DefaultIpam::new(&[]);
                restored.restore_pools(&pools).expect("free");
                for (owner, lease, name) in &records {
                    restored.restore_lease(network(0), *owner, name, lease).expect("free");
                }
                restored
            });
        });
    }
    group.finish();
}

fn pools(c: &mut Criterion) {
    let mut ipam = DefaultIpam::new(&[DefaultPool { base: net("10.0.0.0/8"), size: 24 }]);
    let auto = IpamSpec::default();
    let request = |n| PoolsRequest {
        network: network(n),
        name: "n".into(),
        spec: &auto,
        ipv6: false,
        shares: false,
        host: &[],
    };
    for n in 0..10_000 {
        ipam.request_pools(&request(n)).expect("free");
    }
    let mut group = c.benchmark_group("pools");
    let mut of_size = IpamSpec::default();
    of_size.v4.push(IpamPoolSpec { subnet: Some(net("0.0.0.0/26")), ..Default::default() });
    for (what, spec) in [("choose and release a default pool", &auto), ("the same of a given size", &of_size)]
    {
        let request = PoolsRequest { spec, ..request(MILLION) };
        group.bench_function(what, |b| {
            b.iter(|| {
                black_box(ipam.request_pools(&request).expect("free"));
                ipam.release_pools(request.network);
            });
        });
    }
    for (what, subnet) in [("overlap of a subnet", "10.19.0.0/24"), ("overlap of none", "11.0.0.0/16")] {
        let subnet = net(subnet);
        group.bench_function(what, |b| b.iter(|| black_box(ipam.overlapping(black_box(subnet)))));
    }
    group.finish();
}

fn sizes(c: &mut Criterion) {
    const SIZES: [&str; 5] = ["0.0.0.0/22", "0.0.0.0/24", "0.0.0.0/26", "0.0.0.0/28", "0.0.0.0/29"];
    let block = |n: u8| DefaultPool { base: net(&format!("10.{n}.0.0/16")), size: 24 };
    let mut ipam = DefaultIpam::new(&(0..17).map(block).collect::<Vec<_>>());
    let spec = |size: &str| {
        let pool = IpamPoolSpec { subnet: Some(net(size)), ..Default::default() };
        IpamSpec { v4: vec![pool], ..IpamSpec::default() }
    };
    let specs = SIZES.map(spec);
    let mut turn = 0;
    let mut request = |n| {
        turn += 1;
        // Of the two large sizes there would not be room for so many.
        let which = if n < MILLION && turn % 20 > 1 { 2 + turn % 3 } else { turn % 5 };
        let spec = &specs[which];
        PoolsRequest { network: network(n), name: "n".into(), spec, ipv6: false, shares: false, host: &[] }
    };
    for n in 0..10_000 {
        ipam.request_pools(&request(n)).expect("free");
    }
    let mut group = c.benchmark_group("sizes");
    group.bench_function("choose and release a pool of one of five sizes", |b| {
        b.iter(|| {
            let request = request(MILLION);
            black_box(ipam.request_pools(&request).expect("free"));
            ipam.release_pools(request.network);
        });
    });
    group.finish();
}

criterion_group!(benches, pairs, pools, sizes, image);
criterion_main!(benches);
