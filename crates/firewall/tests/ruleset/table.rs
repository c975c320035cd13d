//! A table as the kernel keeps it, and what it does to a packet: enough of nftables for the rules that there are.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use netloom_kernel::nft::{
    Base, Change, Contents, CtKey, Datum, Element, Expr, FibResult, MetaKey, NatKind, Reg, Rule, Set,
    Verdict, width,
};

/// A packet that begins a connection.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) iif: &'static str,
    /// Known once it is known where it goes.
    pub(crate) oif: &'static str,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    /// Whether its destination was translated.
    pub(crate) translated: bool,
    pub(crate) mark: u32,
}

/// What a chain does with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Accepted,
    Dropped,
    /// To this destination; the port stays what it is where none is named.
    Destination(IpAddr, Option<u16>),
    /// From this source.
    Source(IpAddr),
    Masqueraded,
    /// No rule has decided.
    Passed,
}

/// The elements of a set, by their keys.
type Elements = HashMap<Arc<[Datum]>, Element>;

/// Sets and chains, changed as the kernel changes them.
pub(crate) struct Table {
    sets: HashMap<String, (Set, Elements)>,
    chains: HashMap<String, Vec<Rule>>,
    pub(crate) local: Vec<IpAddr>,
}

impl Table {
    /// A table that is empty but for its rules.
    pub(crate) fn new(contents: &Contents, local: Vec<IpAddr>) -> Self {
        let chains = contents.chains.iter().map(|(chain, rules)| (chain.name.clone(), rules.clone()));
        let sets = contents.sets.iter().map(|(set, elements)| {
            assert!(elements.is_empty(), "{} is empty at first", set.name);
            (set.name.clone(), (set.clone(), HashMap::new()))
        });
        Self { sets: sets.collect(), chains: chains.collect(), local }
    }

    /// Does what the kernel does, and panics where it would refuse.
    pub(crate) fn change(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::AddElements { set, elements } => {
                    let (_, there) = self.sets.get_mut(&set).expect("a set of ours");
                    for element in elements {
                        let met = there.values().find(|one| one.end.is_some() && one.meets(&element));
                        let met = met.or_else(|| there.get(&element.key));
                        assert!(met.is_none(), "{set} has {met:?}, and gets {element}");
                        there.insert(element.key.clone(), element);
                    }
                }
                Change::DeleteElements { set, elements } => {
                    let (_, there) = self.sets.get_mut(&set).expect("a set of ours");
                    for element in elements {
                        let gone = there.remove(&element.key);
                        assert_eq!(gone.as_ref(), Some(&element), "{set} does not have it");
                    }
                }
                other => panic!("only elements change: {other}"),
            }
        }
    }

    /// Checks that this is all there is.
    pub(crate) fn assert_is(&self, contents: &Contents) {
        for (set, elements) in &contents.sets {
            let (_, there) = &self.sets[&set.name];
            let there: HashSet<_> = there.values().collect();
            assert_eq!(elements.iter().collect::<HashSet<_>>(), there, "{}", set.name);
            assert_eq!(elements.len(), there.len(), "{}: each once", set.name);
        }
    }

    /// The way of a packet through a chain.
    pub(crate) fn run(&self, chain: &str, packet: &Packet) -> Fate {
        for rule in &self.chains[chain] {
            let mut registers = [0; 64];
            match self.rule(rule, packet, &mut registers) {
                Some(Verdict::Accept) => return Fate::Accepted,
                Some(Verdict::Drop) => return Fate::Dropped,
                Some(Verdict::Return) => return Fate::Passed,
                Some(Verdict::Goto(to)) => return self.run(&to, packet),
                Some(Verdict::Jump(to)) => match self.run(&to, packet) {
                    Fate::Passed => {}
                    fate => return fate,
                },
                None => {
                    if let Some(fate) = translation(rule, packet, &registers) {
                        return fate;
                    }
                }
            }
        }
        Fate::Passed
    }

    /// What a rule decides. One that translates leaves a number in the last register where it holds.
    fn rule(&self, rule: &Rule, packet: &Packet, registers: &mut [u8; 64]) -> Option<Verdict> {
        for expr in &rule.exprs {
            match expr {
                Expr::Meta { key, to } => match key {
                    MetaKey::Mark => load(registers, *to, &packet.mark.to_ne_bytes()),
                    MetaKey::Iifname => load(registers, *to, &name(packet.iif)),
                    MetaKey::Oifname => load(registers, *to, &name(packet.oif)),
                    MetaKey::Nfproto => {
                        load(registers, *to, &[if packet.destination.is_ipv4() { 2 } else { 10 }]);
                    }
                    MetaKey::L4proto => load(registers, *to, &[packet.protocol]),
                },
                Expr::Payload { base: Base::Transport, offset: 2, len: 2, to } => {
                    load(registers, *to, &packet.port.to_be_bytes());
                }
                Expr::Payload { base: Base::Network, offset, len, to } => {
                    let address = match offset {
                        12 | 8 => packet.source,
                        16 | 24 => packet.destination,
                        other => panic!("nothing is at {other}"),
                    };
                    let bytes = Datum::join(&[Datum::Address(address)]);
                    assert_eq!(bytes.len(), usize::try_from(*len).expect("small"));
                    load(registers, *to, &bytes);
                }
                Expr::Ct { key: CtKey::State, to } => load(registers, *to, &8_u32.to_ne_bytes()),
                Expr::Ct { key: CtKey::Status, to } => {
                    load(registers, *to, &(u32::from(packet.translated) << 5).to_ne_bytes());
                }
                Expr::Fib { result: FibResult::DestinationType, to } => {
                    let kind = if self.local.contains(&packet.destination) { 2 } else { 1_u32 };
                    load(registers, *to, &kind.to_ne_bytes());
                }
                Expr::Immediate { data, to } => load(registers, *to, data),
                Expr::Bitwise { from, to, mask, xor } => {
                    let bits: Vec<_> = read(registers, *from, mask.len()).to_vec();
                    let bits: Vec<_> =
                        bits.iter().zip(mask).zip(xor).map(|((bits, mask), xor)| bits & mask ^ xor).collect();
                    load(registers, *to, &bits);
                }
                Expr::Cmp { from, equal, data } => {
                    if (read(registers, *from, data.len()) == data.as_slice()) != *equal {
                        return None;
                    }
                }
                Expr::Lookup { set, from, to, verdicts, missing: false } => {
                    let (set, elements) = &self.sets[set];
                    let key = Datum::split(&set.key, read(registers, *from, width(&set.key)))?;
                    let found = if set.interval {
                        let one = Element::member(key);
                        elements.values().find(|element| element.meets(&one))?
                    } else {
                        elements.get(&key)?
                    };
                    if let (true, [Datum::Verdict(verdict)]) = (*verdicts, &*found.value) {
                        return Some(verdict.clone());
                    }
                    if let Some(to) = to {
                        load(registers, *to, &Datum::join(&found.value));
                    }
                }
                Expr::Verdict(verdict) => return Some(verdict.clone()),
                Expr::ResetTcp => return Some(Verdict::Drop),
                Expr::Nat { .. } | Expr::Masquerade => registers[63] = 1,
                other => panic!("not interpreted: {other:?}"),
            }
        }
        None
    }
}

/// What a rule translates to that has come to its end.
fn translation(rule: &Rule, packet: &Packet, registers: &[u8; 64]) -> Option<Fate> {
    match rule.exprs.last()? {
        _ if registers[63] == 0 => None,
        Expr::Masquerade => Some(Fate::Masqueraded),
        Expr::Nat { kind, ipv6, address, port } => {
            assert_eq!(*ipv6, packet.destination.is_ipv6(), "{packet:?}");
            let address = address.map_or(packet.destination, |address| {
                let bytes = read(registers, address, if *ipv6 { 16 } else { 4 });
                match <[u8; 16]>::try_from(bytes) {
                    Ok(bytes) => IpAddr::from(bytes),
                    Err(_) => IpAddr::from(<[u8; 4]>::try_from(bytes).expect("IPv4")),
                }
            });
            let port =
                port.map(|port| u16::from_be_bytes(read(registers, port, 2).try_into().expect("a port")));
            Some(match kind {
                NatKind::Destination => Fate::Destination(address, port),
                NatKind::Source => Fate::Source(address),
            })
        }
        _ => None,
    }
}

fn load(registers: &mut [u8; 64], Reg(to): Reg, bytes: &[u8]) {
    let at = usize::from(to) * 4;
    let end = at + bytes.len().next_multiple_of(4);
    registers[at..end].fill(0);
    registers[at..at + bytes.len()].copy_from_slice(bytes);
}

fn read(registers: &[u8; 64], Reg(from): Reg, length: usize) -> &[u8] {
    &registers[usize::from(from) * 4..][..length]
}

fn name(link: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..link.len()].copy_from_slice(link.as_bytes());
    bytes
}
