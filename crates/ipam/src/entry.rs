//! What an address space consists of, as keys and values: everything that cannot be found out from elsewhere.
//!
//! - a network with its pools, and where each begins to choose;
//! - behind it its endpoints and reservations, each by its first address: neighbours are neighbours here too, and addresses
//!   that were given one after the other change the same few parts of an image;
//! - behind all networks, what cools down in a subnet, which several networks may have.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, NetworkId};

use crate::codec::{Reader, Writer};
use crate::default::DefaultIpam;
use crate::image::ImageError;
use crate::network::Network;
use crate::owner::{Owner, OwnerId};
use crate::part::Key;
use crate::request::AddressSpace;
use crate::span::Family;
use crate::subnet::{Held, Offset, Subnet};

const ENDPOINT: u8 = 0;
const QUARANTINED: u8 = 1;
const RESERVATION: u8 = 2;

/// What the keys of networks begin with, and those of subnets in which something cools down.
const NETWORK: u8 = b'n';
const COOLING: u8 = b's';
/// What follows a network's identifier in a key.
const POOLS: u8 = 0;
const V4: u8 = 4;
const V6: u8 = 6;
const NOWHERE: u8 = 7;
const NOTHING: u8 = 8;

/// What an entry is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Of {
    /// A network with its pools.
    Pools(NetworkId),
    /// Who has an address of it as the first of its own.
    At(NetworkId, IpAddr),
    /// An endpoint of it that has no address.
    Nowhere(NetworkId, EndpointId),
    /// Its reservations without an address, by a hash of their names.
    Nothing(NetworkId, u32),
    /// What cools down in a subnet.
    Cooling(IpNet),
}

fn of_network(network: NetworkId, end: u8) -> Key {
    let text = network.text();
    let mut key = Key::with_capacity(text.len() + 8);
    key.push(NETWORK);
    key.extend(text.as_bytes());
    key.push(end);
    key
}

/// Where the entries of a network begin, and where those of the next one may.
pub(crate) fn all_of(network: NetworkId) -> (Key, Key) {
    (of_network(network, 0), of_network(network, 1))
}

/// The network that a key is of; none for those behind all networks.
pub(crate) fn network_of(key: &[u8]) -> Option<NetworkId> {
    let text = key.strip_prefix(&[NETWORK])?.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The number of the first address of a family whose entry in a network does not come before a key; none when all come
/// before it.
pub(crate) fn addresses_from(network: NetworkId, family: Family, key: &[u8]) -> Option<u128> {
    let mut first = of_network(network, 0);
    first.push(if family == Family::V4 { V4 } else { V6 });
    match key.strip_prefix(&first[..]) {
        Some(rest) => {
            let mut octets = [0; 16];
            let len = usize::from(family.bits() / 8).min(rest.len());
            octets[16 - usize::from(family.bits() / 8)..][..len].copy_from_slice(&rest[..len]);
            Some(u128::from_be_bytes(octets))
        }
        None if key < &first[..] => Some(0),
        None => None,
    }
}

/// Whether what follows a network in a key is an address.
pub(crate) fn is_address(rest: &[u8]) -> bool {
    match rest.split_first() {
        Some((&V4, octets)) => octets.len() == 4,
        Some((&V6, octets)) => octets.len() == 16,
        _ => false,
    }
}

fn push_address(key: &mut Key, address: IpAddr) {
    match address {
        IpAddr::V4(ip) => {
            key.push(V4);
            key.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            key.push(V6);
            key.extend(ip.octets());
        }
    }
}

impl Of {
    /// The entry that an owner is in.
    pub(crate) fn owner(network: NetworkId, owner: &Owner) -> Self {
        match (owner.addresses().next(), owner.id) {
            (Some(first), _) => Self::At(network, first),
            (None, OwnerId::Endpoint(endpoint)) => Self::Nowhere(network, endpoint),
            (None, OwnerId::Reservation) => Self::nothing(network, &owner.name),
        }
    }

    /// The entry of names for which nothing is kept.
    pub(crate) fn nothing(network: NetworkId, name: &str) -> Self {
        Self::Nothing(network, crc32fast::hash(name.as_bytes()))
    }

    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Pools(network) => {
                let mut key = of_network(*network, 0);
                key.push(POOLS);
                key
            }
            Self::At(network, address) => {
                let mut key = of_network(*network, 0);
                push_address(&mut key, *address);
                key
            }
            Self::Nowhere(network, endpoint) => {
                let mut key = of_network(*network, 0);
                key.push(NOWHERE);
                key.extend(endpoint.to_bytes());
                key
            }
            Self::Nothing(network, hash) => {
                let mut key = of_network(*network, 0);
                key.push(NOTHING);
                key.extend(hash.to_be_bytes());
                key
            }
            Self::Cooling(net) => {
                let mut key = vec![COOLING];
                push_address(&mut key, net.addr());
                key.push(net.prefix_len());
                key
            }
        }
    }

    /// What a key is of.
    pub(crate) fn read(key: &[u8]) -> Result<Self, ImageError> {
        let damaged = || ImageError::Damaged("a key is none");
        let address = |reader: &mut Reader<'_>, kind| match kind {
            V4 => reader.address(Family::V4),
            V6 => reader.address(Family::V6),
            _ => Err(damaged()),
        };
        let (kind, rest) = key.split_first().ok_or_else(damaged)?;
        let (of, reader) = match *kind {
            NETWORK => {
                let end = rest.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
                let text = std::str::from_utf8(&rest[..end]).map_err(|_| damaged())?;
                let network: NetworkId = text.parse().map_err(|_| damaged())?;
                let mut reader = Reader::new(&rest[end + 1..]);
                let of = match reader.byte()? {
                    POOLS => Self::Pools(network),
                    NOWHERE => Self::Nowhere(network, EndpointId::from_bytes(reader.array()?)),
                    NOTHING => Self::Nothing(network, u32::from_be_bytes(reader.array()?)),
                    kind => Self::At(network, address(&mut reader, kind)?),
                };
                (of, reader)
            }
            COOLING => {
                let mut reader = Reader::new(rest);
                let kind = reader.byte()?;
                let first = address(&mut reader, kind)?;
                let net = IpNet::new(first, reader.byte()?).map_err(|_| damaged())?;
                if net.addr() != net.network() {
                    return Err(damaged());
                }
                (Self::Cooling(net), reader)
            }
            _ => return Err(damaged()),
        };
        if reader.is_empty() { Ok(of) } else { Err(damaged()) }
    }
}

// === What is there ===

impl DefaultIpam {
    /// What there is to say about something as it is now; `None` when it is not there. Quarantine is not told: only the host
    /// that waits for its kernel knows of it.
    pub(crate) fn entry(&self, space: AddressSpace, of: &Of) -> Option<Vec<u8>> {
        let mut writer = Writer::default();
        match of {
            Of::Pools(network) => {
                let (_, network) = self.network(*network)?;
                write_network(&mut writer, network, self.shares(network));
            }
            Of::At(network, address) => {
                let (space, network) = self.network(*network)?;
                let first = |owner: &&Owner| owner.addresses().next() == Some(*address);
                let pool = network.pool_of(*address)?;
                let subnet = space.subnet(pool.slot);
                let holder = match subnet.held(subnet.offset(*address)?)? {
                    Held::By(tenant, owner) if tenant == pool.tenant() => network.owners.at(owner),
                    _ => None,
                };
                let endpoint = holder.filter(|owner| owner.id != OwnerId::Reservation);
                let kept = network.owners.reservations().find(first);
                for owner in kept.into_iter().chain(endpoint.filter(first)) {
                    write_owner(&mut writer, owner, false);
                }
            }
            Of::Nowhere(network, endpoint) => {
                let (_, network) = self.network(*network)?;
                let owner = network.owners.endpoint(endpoint)?;
                if owner.addresses().next().is_none() {
                    write_owner(&mut writer, owner, false);
                }
            }
            Of::Nothing(id, _) => {
                let (_, network) = self.network(*id)?;
                let here = |kept: &&Owner| Of::owner(*id, kept) == *of;
                let mut kept: Vec<_> = network.owners.reservations().filter(here).collect();
                kept.sort_by(|a, b| a.name.cmp(&b.name));
                kept.into_iter().for_each(|kept| write_owner(&mut writer, kept, false));
            }
            Of::Cooling(net) => {
                let subnet = self.space(space)?.exact(net)?;
                if subnet.cooling().next().is_some() {
                    write_cooling(&mut writer, subnet);
                }
            }
        }
        Some(writer.bytes).filter(|bytes| !bytes.is_empty())
    }

    /// Everything that there is in a space, in order. Quarantine is told where it is asked for.
    pub(crate) fn entries(&self, space: AddressSpace, quarantine: bool) -> Vec<(Key, Vec<u8>)> {
        let mut all: Vec<(Key, Vec<u8>)> = Vec::new();
        let mut networks: Vec<_> = self.networks_in(space).collect();
        networks.sort_by_key(|network| network.id());
        for network in networks {
            let id = network.id();
            let mut writer = Writer::default();
            write_network(&mut writer, network, self.shares(network));
            all.push((Of::Pools(id).key(), writer.bytes));
            let mut owners: Vec<_> = network.owners.iter().collect();
            // Reservations first: who has an address from one is known by that.
            owners.sort_by_cached_key(|owner| {
                let endpoint = owner.id != OwnerId::Reservation;
                (Of::owner(id, owner).key(), endpoint, (!endpoint).then(|| owner.name.to_string()))
            });
            for owner in owners {
                let key = Of::owner(id, owner).key();
                let mut writer = Writer::default();
                write_owner(&mut writer, owner, quarantine && owner.quarantined);
                match all.last_mut() {
                    Some((last, value)) if *last == key => value.extend(writer.bytes),
                    _ => all.push((key, writer.bytes)),
                }
            }
        }
        let cooling = self.subnets_in(space).filter(|subnet| subnet.cooling().next().is_some());
        let cooling = cooling.map(|subnet| {
            let mut writer = Writer::default();
            write_cooling(&mut writer, subnet);
            (Of::Cooling(subnet.net()).key(), writer.bytes)
        });
        all.extend(cooling);
        all
    }
}

fn write_network(writer: &mut Writer, network: &Network, shares: bool) {
    writer.text(network.name());
    writer.text(network.host.as_deref().unwrap_or_default());
    writer.byte(u8::from(shares));
    writer.byte(u8::from(network.retired));
    for family in [Family::V4, Family::V6] {
        writer.count(network.pools(family).len());
        for pool in network.pools(family) {
            write_pool(writer, pool.record());
            writer.number(pool.cursor());
        }
    }
}

fn write_pool(writer: &mut Writer, record: &PoolRecord) {
    writer.net(&record.pool);
    writer.byte(u8::from(record.range.is_some()));
    record.range.iter().for_each(|range| writer.net(range));
    writer.maybe_address(record.gateway);
    writer.count(record.auxiliary.len());
    for (name, address) in &record.auxiliary {
        writer.text(name);
        writer.address(*address);
    }
}

fn write_owner(writer: &mut Writer, owner: &Owner, quarantined: bool) {
    match owner.id {
        OwnerId::Endpoint(id) => {
            writer.byte(if quarantined { QUARANTINED } else { ENDPOINT });
            writer.bytes.extend(id.to_bytes());
        }
        OwnerId::Reservation => writer.byte(RESERVATION),
    }
    writer.text(&owner.name);
    writer.text(owner.host.as_deref().unwrap_or_default());
    writer.maybe_address(owner.ipv4.map(Into::into));
    writer.maybe_address(owner.ipv6.map(Into::into));
}

fn write_cooling(writer: &mut Writer, subnet: &Subnet) {
    writer.count(subnet.cooling().count());
    for Offset { high, low } in subnet.cooling() {
        writer.number(high);
        writer.number(low);
    }
}

// === What is read ===

/// A network as it was written, with where its pools begin to choose.
#[derive(Debug)]
pub(crate) struct ReadNetwork<'a> {
    pub name: &'a str,
    pub host: &'a str,
    pub shares: bool,
    pub retired: bool,
    pub pools: [Vec<PoolRecord>; 2],
    pub cursors: [Vec<u64>; 2],
}

pub(crate) fn read_network(value: &[u8]) -> Result<ReadNetwork<'_>, ImageError> {
    let mut reader = Reader::new(value);
    let (name, host, shares, retired) = (reader.text()?, reader.text()?, reader.flag()?, reader.flag()?);
    let (mut pools, mut cursors) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for (n, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        for _ in 0..reader.count()? {
            pools[n].push(read_pool(&mut reader, family)?);
            cursors[n].push(reader.number()?);
        }
    }
    ended(&reader).map(|()| ReadNetwork { name, host, shares, retired, pools, cursors })
}

fn read_pool(reader: &mut Reader<'_>, family: Family) -> Result<PoolRecord, ImageError> {
    let pool = reader.net(family)?;
    let range = reader.flag()?.then(|| reader.net(family)).transpose()?;
    let gateway = reader.maybe_address(family)?;
    let named = |reader: &mut Reader<'_>| Ok((reader.text()?.to_owned(), reader.address(family)?));
    let auxiliary = (0..reader.count()?).map(|_| named(reader)).collect::<Result<_, _>>()?;
    Ok(PoolRecord { range, gateway, auxiliary, ..PoolRecord::new(pool) })
}

/// Reads the owners of one address. Those of one host, `last`, have its name in common.
pub(crate) fn read_owners(
    value: &[u8],
    last: &mut Option<Arc<str>>,
    owners: &mut Vec<Option<Owner>>,
) -> Result<(), ImageError> {
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        owners.push(Some(read_owner(&mut reader, last)?));
    }
    Ok(())
}

fn read_owner(reader: &mut Reader<'_>, last: &mut Option<Arc<str>>) -> Result<Owner, ImageError> {
    let kind = reader.byte()?;
    let id = match kind {
        ENDPOINT | QUARANTINED => OwnerId::Endpoint(EndpointId::from_bytes(reader.array()?)),
        RESERVATION => OwnerId::Reservation,
        _ => return Err(ImageError::Damaged("an owner is of no kind")),
    };
    let (name, host) = (reader.text()?, reader.text()?);
    let (ipv4, ipv6) = (reader.maybe_ipv4()?, reader.maybe_ipv6()?);
    let quarantined = kind == QUARANTINED;
    if !host.is_empty() && last.as_deref() != Some(host) {
        *last = Some(host.into());
    }
    let host = if host.is_empty() { None } else { last.clone() };
    Ok(Owner { id, name: name.into(), ipv4, ipv6, host, reservation: None, quarantined })
}

pub(crate) fn read_cooling(value: &[u8]) -> Result<Vec<Offset>, ImageError> {
    let mut reader = Reader::new(value);
    let all = (0..reader.count()?).map(|_| Ok(Offset { high: reader.number()?, low: reader.number()? }));
    let all = all.collect::<Result<_, _>>()?;
    ended(&reader).map(|()| all)
}

fn ended(reader: &Reader<'_>) -> Result<(), ImageError> {
    if reader.is_empty() { Ok(()) } else { Err(ImageError::Damaged("something follows an entry's end")) }
}
