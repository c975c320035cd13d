//! Random operations against a reference that keeps one plain map and looks at each port in turn.
//!
//! `NETLOOM_TEST_SEED` repeats a run, `NETLOOM_PORTS_OPERATIONS` says how long it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use netloom_model::{EndpointId, ErrorKind, HostPort, HostPorts, PortRange, PortReason, Protocol, Reason};
use netloom_ports::{PortAllocator, PortOwner, PortRequest};
use uuid::Uuid;

const DYNAMIC: PortRange = PortRange { first: 40_000, last: 40_150 };
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The splitmix64 sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn port(&mut self, bound: u64) -> u16 {
        u16::try_from(self.below(bound)).expect("small")
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("small")
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn owner(n: u64) -> PortOwner {
    let id = EndpointId::from_uuids(Uuid::from_u128(u128::from(n) << 80), Uuid::nil());
    PortOwner { id, name: format!("e{n}").into() }
}

/// What is known by looking at everything.
#[derive(Default)]
struct Reference {
    taken: BTreeMap<HostPort, EndpointId>,
    leaving: BTreeSet<[u8; 32]>,
    last: BTreeMap<(IpAddr, Protocol, PortRange), u16>,
}

impl Reference {
    /// Who keeps others from a port.
    fn holders(&self, port: HostPort) -> Vec<(HostPort, EndpointId)> {
        let same = |other: &HostPort| {
            other.port == port.port
                && other.protocol == port.protocol
                && other.address.is_ipv4() == port.address.is_ipv4()
                && (other.address == port.address
                    || other.address.is_unspecified()
                    || port.address.is_unspecified())
        };
        self.taken.iter().filter(|(other, _)| same(other)).map(|(port, id)| (*port, *id)).collect()
    }

    fn is_free(&self, request: &PortRequest, port: u16) -> bool {
        let on = |address: &IpAddr| HostPort { address: *address, protocol: request.protocol, port };
        request.addresses.iter().all(|address| self.holders(on(address)).is_empty())
    }

    /// What a request is given, if it can be.
    fn give(&mut self, owner: EndpointId, request: &PortRequest) -> Option<HostPorts> {
        let range = request.range.unwrap_or(DYNAMIC);
        let (protocol, count) = (request.protocol, request.count);
        let fits = |this: &Self, first: u16| {
            let last = first.checked_add(count - 1).filter(|last| *last <= range.last);
            last.is_some_and(|last| (first..=last).all(|port| this.is_free(request, port)))
        };
        let search = |address: &IpAddr| (*address, protocol, range);
        let first = if request.is_open() {
            let last = self.last.get(&search(&request.addresses[0]));
            let start = last.filter(|last| **last < range.last).map_or(range.first, |last| last + 1);
            let mut starts = (start..=range.last).chain(range.first..start);
            starts.find(|first| fits(self, *first))?
        } else {
            Some(range.first).filter(|first| fits(self, *first))?
        };
        let given = PortRange { first, last: first + count - 1 };
        if request.is_open() {
            for address in request.addresses.iter() {
                self.last.insert(search(address), given.last);
            }
        }
        let ports = HostPorts { protocol, addresses: request.addresses.clone(), range: given };
        self.taken.extend(ports.each().map(|port| (port, owner)));
        Some(ports)
    }

    fn reserve(&mut self, owner: EndpointId, requests: &[PortRequest]) -> Option<Vec<HostPorts>> {
        let before = self.taken.clone();
        let mut given = vec![None; requests.len()];
        let class = |request: &PortRequest| match request.range {
            Some(_) if !request.is_open() => 0,
            Some(_) => 1,
            None => 2,
        };
        for wanted in 0..3 {
            for (at, request) in requests.iter().enumerate().filter(|(_, request)| class(request) == wanted) {
                let Some(ports) = self.give(owner, request) else {
                    self.taken = before;
                    return None;
                };
                given[at] = Some(ports);
            }
        }
        given.into_iter().collect()
    }
}

fn addresses(random: &mut Random) -> Arc<[IpAddr]> {
    let lists: [&[&str]; 8] = [
        &["0.0.0.0"],
        &["::"],
        &["0.0.0.0", "::"],
        &["192.0.2.1"],
        &["192.0.2.2"],
        &["2001:db8::1"],
        &["192.0.2.1", "2001:db8::1"],
        &["192.0.2.2", "192.0.2.1", "::"],
    ];
    let list = lists[random.index(lists.len())];
    list.iter().map(|text| text.parse::<IpAddr>().expect("an address")).collect()
}

fn request(random: &mut Random) -> PortRequest {
    let protocol = PROTOCOLS[random.index(3)];
    let addresses = addresses(random);
    // Explicit ports are inside and outside of the dynamic range.
    let first = 39_990 + random.port(100);
    match random.below(6) {
        0 | 1 => PortRequest::any(protocol, addresses),
        2 => PortRequest { count: 1 + random.port(9), ..PortRequest::any(protocol, addresses) },
        3 => PortRequest::exactly(protocol, addresses, first),
        4 => {
            let range = PortRange { first, last: first + random.port(12) };
            PortRequest::one_of(protocol, addresses, range)
        }
        _ => {
            let range = PortRange { first, last: first + random.port(20) };
            PortRequest::all_of(protocol, addresses, range).expect("a range")
        }
    }
}

#[test]
fn the_allocator_agrees_with_a_look_at_each_port() {
    let seed = from_environment("NETLOOM_TEST_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos())
    });
    let operations = from_environment("NETLOOM_PORTS_OPERATIONS").unwrap_or(4_000);
    let _ = writeln!(std::io::stderr(), "NETLOOM_TEST_SEED={seed}");
    let mut random = Random(seed);
    let (mut allocator, mut reference) = (PortAllocator::new(DYNAMIC), Reference::default());
    let mut last = BTreeMap::new();
    let (mut given, mut refused, mut adopted) = (0, 0, 0);
    for n in 0..operations {
        let who = owner(random.below(40));
        match random.below(10) {
            0..=5 => {
                let requests: Vec<PortRequest> =
                    (0..=random.below(3)).map(|_| request(&mut random)).collect();
                let leaving = reference.leaving.contains(&who.id.to_bytes());
                // The place where searches go on is kept whether or not all requests were served.
                let expected = if leaving { None } else { reference.reserve(who.id, &requests) };
                let got = allocator.reserve(&who, &requests);
                match (&got, &expected) {
                    (Ok(got), Some(expected)) => {
                        assert_eq!(got, expected, "{n}: {requests:?}");
                        given += 1;
                    }
                    (Err(error), None) => {
                        refused += 1;
                        check_refusal(error, &reference, &who, leaving);
                    }
                    _ => panic!("{n}: {requests:?} of {who:?}: {got:?}, and not {expected:?}"),
                }
                if let Some(given) = expected {
                    last.insert(who.id.to_bytes(), given);
                }
            }
            6 => {
                allocator.release(who.id);
                reference.taken.retain(|_, id| *id != who.id);
                reference.leaving.remove(&who.id.to_bytes());
            }
            7 => {
                let any = reference.taken.values().any(|id| *id == who.id);
                assert_eq!(allocator.quarantine(who.id), any, "{n}");
                if any {
                    reference.leaving.insert(who.id.to_bytes());
                }
            }
            8 => {
                // What somebody once had is taken again, as after a crash.
                let Some(ports) = last.get(&who.id.to_bytes()) else { continue };
                let free = |port: HostPort| {
                    reference.holders(port).iter().all(|(other, id)| *id == who.id && *other == port)
                };
                let can = ports.iter().flat_map(HostPorts::each).all(free);
                assert_eq!(allocator.adopt(&who, ports).is_ok(), can, "{n}: {ports:?}");
                if can {
                    adopted += 1;
                    reference.leaving.remove(&who.id.to_bytes());
                    let each = ports.iter().flat_map(HostPorts::each);
                    reference.taken.extend(each.map(|port| (port, who.id)));
                }
            }
            _ => {
                let pieces = allocator.ports_of(who.id).to_vec();
                if pieces.is_empty() || reference.leaving.contains(&who.id.to_bytes()) {
                    continue;
                }
                let piece = &pieces[random.index(pieces.len())];
                allocator.give_back(who.id, piece);
                piece.each().for_each(|port| {
                    reference.taken.remove(&port);
                });
            }
        }
        if n % 16 == 0 {
            compare(&allocator, &reference, &mut random);
        }
    }
    assert!(given > operations / 50 && refused > 0 && adopted > 0, "{given} {refused} {adopted}");
    for n in 0..40 {
        allocator.release(owner(n).id);
    }
    assert_eq!(allocator.holdings().count(), 0, "nothing is left");
}

/// A refusal names a holder that the reference knows, or says that nothing is left.
fn check_refusal(error: &netloom_model::Error, reference: &Reference, who: &PortOwner, leaving: bool) {
    match error.reason() {
        Reason::Port(PortReason::Taken { port, holder, leaving }) => {
            let id = reference.taken.get(port).expect("it is taken");
            assert_eq!(holder.id, id.to_string());
            assert_eq!(*leaving, reference.leaving.contains(&id.to_bytes()));
        }
        Reason::Port(PortReason::Exhausted { .. }) => {}
        Reason::WrongPhase { object, .. } => {
            assert_eq!((object.id.clone(), leaving), (who.id.to_string(), true));
        }
        _ => assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}"),
    }
}

fn compare(allocator: &PortAllocator, reference: &Reference, random: &mut Random) {
    let mut taken = BTreeMap::new();
    for holding in allocator.holdings() {
        let leaving = reference.leaving.contains(&holding.owner.id.to_bytes());
        assert_eq!(holding.leaving, leaving);
        for port in holding.ports.iter().flat_map(HostPorts::each) {
            assert_eq!(taken.insert(port, holding.owner.id), None, "{port} is held once");
        }
    }
    assert_eq!(taken, reference.taken);
    for _ in 0..20 {
        let address = addresses(random)[0];
        let port =
            HostPort { address, protocol: PROTOCOLS[random.index(3)], port: 39_990 + random.port(170) };
        let holders = reference.holders(port);
        match allocator.holder(port) {
            None => assert!(holders.is_empty(), "{port}"),
            Some((held, holder)) => {
                assert!(holders.iter().any(|(port, id)| *port == held && id.to_string() == holder.id));
            }
        }
    }
}
