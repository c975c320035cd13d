//! An address space as bytes: everything that cannot be found out from elsewhere, for a store that many share.
//!
//! An image says which networks have which pools, who has which addresses, which come next and which cool down.
//! With the [`Change`]s that were made after it, it gives the same allocator again. It is checked when it is read:
//! what contradicts the rest is left out and told, and damage is noticed by a checksum.

use std::sync::Arc;

use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, NetworkId};

use crate::change::Change;
use crate::codec::{Reader, Writer};
use crate::default::{DefaultIpam, RestoredPools};
use crate::network::Network;
use crate::owner::{Owner, OwnerId};
use crate::request::{AddressSpace, Lease};
use crate::span::Family;
use crate::subnet::Offset;

/// How an image begins: a name and the number of its format.
const HEADER: &[u8; 8] = b"NLIPAM\x00\x01";
const CHECKSUM: usize = 4;

const ENDPOINT: u8 = 0;
const QUARANTINED: u8 = 1;
const RESERVATION: u8 = 2;
/// The bytes of an endpoint without a name at least: kind, identifier, and four lengths and flags.
const OWNER: usize = 37;

/// Why bytes are no image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// They are torn, altered, or something else altogether.
    #[error("the image of an address space is damaged: {0}")]
    Damaged(&'static str),
    /// A later version of the engine wrote them.
    #[error("the image of an address space has format {found}; this engine knows formats up to {known}")]
    Newer {
        /// Its format.
        found: u8,
        /// The latest format known here.
        known: u8,
    },
}

/// Something that an image or a log says and that cannot be: it was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contradiction {
    /// What was left out, and of whom it is.
    pub what: String,
    /// What it contradicts.
    pub why: String,
}

impl DefaultIpam {
    /// The image of an address space; an empty one if it is not open.
    #[must_use]
    pub fn image(&self, space: AddressSpace) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.bytes.extend(HEADER);
        writer.text(space.name());
        let mut networks: Vec<_> = self.networks_in(space).collect();
        networks.sort_by_key(|network| network.id());
        writer.count(networks.len());
        for network in networks {
            write_network(&mut writer, network, self.shares(network));
        }
        let cooling: Vec<_> = self.subnets_in(space).filter(|subnet| subnet.cooling().count() > 0).collect();
        writer.count(cooling.len());
        for subnet in cooling {
            writer.byte(u8::from(subnet.net().addr().is_ipv6()));
            writer.net(&subnet.net());
            writer.count(subnet.cooling().count());
            for Offset { high, low } in subnet.cooling() {
                writer.number(high);
                writer.number(low);
            }
        }
        let checksum = crc32fast::hash(&writer.bytes).to_le_bytes();
        writer.bytes.extend(checksum);
        writer.bytes
    }

    /// Reads an image into an address space in which nothing is in use, and tells what was left out.
    ///
    /// # Errors
    /// Bytes that are no image of this space; nothing was changed then.
    pub fn load_image(
        &mut self,
        space: AddressSpace,
        image: &[u8],
    ) -> Result<Vec<Contradiction>, ImageError> {
        let body = checked(image)?;
        let mut loaded = self.without_networks();
        let mut found = Vec::new();
        let mut reader = Reader::new(body);
        if reader.text()? != space.name() {
            return Err(ImageError::Damaged("it is of another address space"));
        }
        for _ in 0..reader.count()? {
            read_network(&mut reader, &mut loaded, space, &mut found)?;
        }
        for _ in 0..reader.count()? {
            let family = if reader.flag()? { Family::V6 } else { Family::V4 };
            let net = reader.net(family)?;
            for _ in 0..reader.count()? {
                let offset = Offset { high: reader.number()?, low: reader.number()? };
                let cools = loaded.subnet_mut(space, &net).is_some_and(|subnet| subnet.cool(offset));
                if !cools {
                    let why = "it is in use, or the subnet is not".to_owned();
                    found.push(Contradiction { what: format!("an address of {net} that cools down"), why });
                }
            }
        }
        if !reader.is_empty() {
            return Err(ImageError::Damaged("something follows its end"));
        }
        *self = loaded;
        Ok(found)
    }
}

/// The bytes between header and checksum.
fn checked(image: &[u8]) -> Result<&[u8], ImageError> {
    let (name, known) = (&HEADER[..7], HEADER[7]);
    let body = image.strip_prefix(name).ok_or(ImageError::Damaged("it does not begin like one"))?;
    let (&found, body) = body.split_first().ok_or(ImageError::Damaged("it is too short"))?;
    if found > known {
        return Err(ImageError::Newer { found, known });
    }
    let (body, checksum) =
        body.split_last_chunk::<CHECKSUM>().ok_or(ImageError::Damaged("it is too short"))?;
    let sound = crc32fast::hash(&image[..image.len() - CHECKSUM]).to_le_bytes() == *checksum;
    if sound && found > 0 { Ok(body) } else { Err(ImageError::Damaged("its checksum is wrong")) }
}

fn write_network(writer: &mut Writer, network: &Network, shares: bool) {
    writer.text(&network.id().text());
    writer.text(network.name());
    writer.text(network.host.as_deref().unwrap_or_default());
    writer.byte(u8::from(shares));
    for family in [Family::V4, Family::V6] {
        writer.count(network.pools(family).len());
        for pool in network.pools(family) {
            write_pool(writer, pool.record());
            writer.number(pool.cursor());
        }
    }
    writer.count(network.owners.len());
    // Reservations first: who has an address from one is known by that. In the order of their addresses they are
    // read fastest.
    let mut owners: Vec<_> = network.owners.iter().collect();
    owners.sort_by_key(|owner| (owner.id != OwnerId::Reservation, owner.ipv4, owner.ipv6));
    for owner in owners {
        match owner.id {
            OwnerId::Endpoint(id) => {
                writer.byte(if owner.quarantined { QUARANTINED } else { ENDPOINT });
                writer.bytes.extend(id.to_bytes());
            }
            OwnerId::Reservation => writer.byte(RESERVATION),
        }
        writer.text(&owner.name);
        writer.text(owner.host.as_deref().unwrap_or_default());
        writer.maybe_address(owner.ipv4.map(Into::into));
        writer.maybe_address(owner.ipv6.map(Into::into));
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

fn read_pool(reader: &mut Reader<'_>, family: Family) -> Result<PoolRecord, ImageError> {
    let pool = reader.net(family)?;
    let range = reader.flag()?.then(|| reader.net(family)).transpose()?;
    let gateway = reader.maybe_address(family)?;
    let named = |reader: &mut Reader<'_>| Ok((reader.text()?.to_owned(), reader.address(family)?));
    let auxiliary = (0..reader.count()?).map(|_| named(reader)).collect::<Result<_, _>>()?;
    Ok(PoolRecord { range, gateway, auxiliary, ..PoolRecord::new(pool) })
}

/// Reads a network. What its pools or owners contradict is left out of them.
fn read_network(
    reader: &mut Reader<'_>,
    ipam: &mut DefaultIpam,
    space: AddressSpace,
    found: &mut Vec<Contradiction>,
) -> Result<(), ImageError> {
    let network: NetworkId =
        reader.text()?.parse().map_err(|_| ImageError::Damaged("a network's identifier is none"))?;
    let (name, host, shares) = (reader.text()?, reader.text()?, reader.flag()?);
    let (mut pools, mut cursors) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for (n, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        for _ in 0..reader.count()? {
            pools[n].push(read_pool(reader, family)?);
            cursors[n].push(reader.number()?);
        }
    }
    let [v4, v6] = &pools;
    let restored = RestoredPools { network, name, address_space: space.name(), shares, v4, v6 };
    if let Err(error) = ipam.restore_pools(&restored) {
        let what = format!("network {name:?} ({})", network.short());
        found.push(Contradiction { what, why: error.to_string() });
    }
    ipam.set_host(network, (!host.is_empty()).then(|| host.into()));
    let announced = reader.count()?;
    // What is announced is not believed: room is made for as many as there are bytes for.
    let mut owners = Vec::with_capacity(announced.min(reader.left() / OWNER));
    let mut host = None;
    for _ in 0..announced {
        owners.push(Some(read_owner(reader, &mut host)?));
    }
    ipam.load_owners(network, owners, |owner, error| {
        let what = format!("addresses of {:?}", owner.name);
        found.push(Contradiction { what, why: error.to_string() });
    });
    for (family, cursors) in [Family::V4, Family::V6].into_iter().zip(cursors) {
        if !ipam.set_cursors(network, family, &cursors) {
            let what = format!("the next address of network {name:?} ({})", network.short());
            found.push(Contradiction { what, why: "it lies outside of its pool".into() });
        }
    }
    Ok(())
}

/// Reads an owner. Those of one host, `last`, have its name in common.
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

impl DefaultIpam {
    /// Makes a change that was made elsewhere, or before: all or nothing. Whoever makes the same changes in the
    /// same order to equal allocators has equal ones again.
    ///
    /// # Errors
    /// As those of the call that the change is of.
    pub fn apply(&mut self, change: &Change) -> netloom_model::Result<()> {
        match change {
            Change::PoolsTaken { network, name, address_space, host, shares, v4, v6 } => {
                let known = self.knows(*network);
                let taken = self.restore_pools(&RestoredPools {
                    network: *network,
                    name,
                    address_space,
                    shares: *shares,
                    v4,
                    v6,
                });
                if !known && taken.is_ok() {
                    self.set_host(*network, host.as_deref().map(Into::into));
                }
                taken
            }
            Change::PoolsReleased { network } => {
                self.release_pools(*network);
                Ok(())
            }
            Change::Leased { network, endpoint, name, host, ipv4, ipv6 } => {
                let lease = Lease { ipv4: *ipv4, ipv6: *ipv6 };
                let host = host.as_deref().map(Into::into);
                self.follow_lease(*network, (*endpoint, name, host), &lease)
            }
            Change::Released { network, endpoint } => {
                self.release(*network, *endpoint);
                Ok(())
            }
            Change::Reserved { network, name, addresses } => self.reserve(*network, name, addresses),
            Change::Unreserved { network, name } => {
                self.unreserve(*network, name);
                Ok(())
            }
        }
    }
}
