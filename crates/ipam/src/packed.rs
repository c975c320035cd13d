//! Changes as a short text: a head is written anew with each of them, so their size is most of what a cluster's store is
//! sent.
//!
//! They are bytes (`codec`) in base64 (RFC 4648, without padding), because a record of the store is JSON. Networks and hosts,
//! of which there are few, are written once and then numbered; identifiers of endpoints are half as long as their text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, NetworkId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::change::Change;
use crate::codec::{Reader, Writer};
use crate::image::ImageError;
use crate::span::Family;

const POOLS_TAKEN: u8 = 0;
const POOLS_RELEASED: u8 = 1;
const POOLS_RETIRED: u8 = 2;
const LEASED: u8 = 3;
const RELEASED: u8 = 4;
const RESERVED: u8 = 5;
const UNRESERVED: u8 = 6;

type Read<T> = Result<T, ImageError>;

// === In JSON ===

/// How many there are, and all of them.
pub(crate) fn serialize<S: Serializer>(changes: &[Change], serializer: S) -> Result<S::Ok, S::Error> {
    (changes.len(), base64(&pack(changes))).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Change>, D::Error> {
    let (count, text) = <(usize, String)>::deserialize(deserializer)?;
    let bytes = from_base64(&text).ok_or_else(|| D::Error::custom("changes are no base64"))?;
    let changes = unpack(&bytes).map_err(D::Error::custom)?;
    if changes.len() == count { Ok(changes) } else { Err(D::Error::custom("changes are missing")) }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize]));
        text.extend(&digits[..=three.len()]);
    }
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for digit in four {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let whole = four.len() * 6 / 8;
        let [_, all @ ..] = (bits << (6 * (4 - four.len()))).to_be_bytes();
        if whole == 0 || all[whole..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend(&all[..whole]);
    }
    Some(bytes)
}

// === Written ===

#[derive(Default)]
struct Packer<'a> {
    to: Writer,
    known: Vec<&'a str>,
}

fn pack(changes: &[Change]) -> Vec<u8> {
    let networks: Vec<_> = changes.iter().map(|change| change.network().text()).collect();
    let mut packer = Packer::default();
    for (change, network) in changes.iter().zip(&networks) {
        packer.change(change, network);
    }
    packer.to.bytes
}

impl<'a> Packer<'a> {
    /// A text that comes again: its number from the second time on.
    fn known(&mut self, text: &'a str) {
        match self.known.iter().position(|known| *known == text) {
            Some(n) => self.to.count(n + 1),
            None => {
                self.to.count(0);
                self.to.text(text);
                self.known.push(text);
            }
        }
    }

    fn host(&mut self, host: Option<&'a String>) {
        self.to.byte(u8::from(host.is_some()));
        host.into_iter().for_each(|host| self.known(host));
    }

    fn address(&mut self, address: IpAddr) {
        self.to.byte(if address.is_ipv4() { 4 } else { 6 });
        self.to.address(address);
    }

    fn net(&mut self, net: IpNet) {
        self.address(net.addr());
        self.to.byte(net.prefix_len());
    }

    fn maybe<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.to.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn pool(&mut self, record: &PoolRecord) {
        let PoolRecord { pool, range, gateway, auxiliary, id, meta } = record;
        self.net(*pool);
        self.maybe(*range, Self::net);
        self.maybe(*gateway, Self::address);
        self.to.count(auxiliary.len());
        for (name, address) in auxiliary {
            self.to.text(name);
            self.address(*address);
        }
        self.to.text(id);
        self.to.count(meta.len());
        for (key, value) in meta {
            self.to.text(key);
            self.to.text(value);
        }
    }

    fn change(&mut self, change: &'a Change, network: &'a str) {
        let tag = match change {
            Change::PoolsTaken { .. } => POOLS_TAKEN,
            Change::PoolsReleased { .. } => POOLS_RELEASED,
            Change::PoolsRetired { .. } => POOLS_RETIRED,
            Change::Leased { .. } => LEASED,
            Change::Released { .. } => RELEASED,
            Change::Reserved { .. } => RESERVED,
            Change::Unreserved { .. } => UNRESERVED,
        };
        self.to.byte(tag);
        self.known(network);
        match change {
            Change::PoolsTaken { network: _, name, address_space, host, shares, v4, v6 } => {
                self.to.text(name);
                self.known(address_space);
                self.host(host.as_ref());
                self.to.byte(u8::from(*shares));
                for pools in [v4, v6] {
                    self.to.count(pools.len());
                    pools.iter().for_each(|pool| self.pool(pool));
                }
            }
            Change::PoolsReleased { .. } | Change::PoolsRetired { .. } => {}
            Change::Leased { network: _, endpoint, name, host, ipv4, ipv6 } => {
                self.to.bytes.extend(endpoint.to_bytes());
                self.to.text(name);
                self.host(host.as_ref());
                self.maybe(ipv4.map(IpNet::V4), Self::net);
                self.maybe(ipv6.map(IpNet::V6), Self::net);
            }
            Change::Released { network: _, endpoint } => self.to.bytes.extend(endpoint.to_bytes()),
            Change::Reserved { network: _, name, addresses } => {
                self.to.text(name);
                self.to.count(addresses.len());
                addresses.iter().for_each(|address| self.address(*address));
            }
            Change::Unreserved { network: _, name } => self.to.text(name),
        }
    }
}

// === Read ===

struct Unpacker<'a> {
    from: Reader<'a>,
    known: Vec<&'a str>,
}

fn unpack(bytes: &[u8]) -> Read<Vec<Change>> {
    let mut unpacker = Unpacker { from: Reader::new(bytes), known: Vec::new() };
    let mut changes = Vec::new();
    while !unpacker.from.is_empty() {
        changes.push(unpacker.change()?);
    }
    Ok(changes)
}

impl<'a> Unpacker<'a> {
    /// A text, however long: what is not there is noticed.
    fn text(&mut self) -> Read<&'a str> {
        let len = self.from.count()?;
        std::str::from_utf8(self.from.bytes(len)?).map_err(|_| ImageError::Damaged("a text is not UTF-8"))
    }

    fn known(&mut self) -> Read<&'a str> {
        let number = usize::try_from(self.from.number()?).unwrap_or(usize::MAX);
        let Some(n) = number.checked_sub(1) else {
            let text = self.text()?;
            self.known.push(text);
            return Ok(text);
        };
        self.known.get(n).copied().ok_or(ImageError::Damaged("it names what was not named before"))
    }

    fn host(&mut self) -> Read<Option<String>> {
        self.maybe(|from| Ok(from.known()?.to_owned()))
    }

    fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        if self.from.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn several<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        (0..self.from.count()?).map(|_| read(self)).collect()
    }

    fn address(&mut self) -> Read<IpAddr> {
        match self.from.byte()? {
            4 => self.from.address(Family::V4),
            6 => self.from.address(Family::V6),
            _ => Err(ImageError::Damaged("an address is of no family")),
        }
    }

    fn net(&mut self) -> Read<IpNet> {
        let address = self.address()?;
        IpNet::new(address, self.from.byte()?).map_err(|_| ImageError::Damaged("a subnet is none"))
    }

    fn ipv4(&mut self) -> Read<Ipv4Net> {
        if let IpNet::V4(net) = self.net()? { Ok(net) } else { Err(ImageError::Damaged("it is not IPv4")) }
    }

    fn ipv6(&mut self) -> Read<Ipv6Net> {
        if let IpNet::V6(net) = self.net()? { Ok(net) } else { Err(ImageError::Damaged("it is not IPv6")) }
    }

    fn pool(&mut self) -> Read<PoolRecord> {
        let (pool, range) = (self.net()?, self.maybe(Self::net)?);
        let gateway = self.maybe(Self::address)?;
        let auxiliary = self.several(|from| Ok((from.text()?.to_owned(), from.address()?)))?;
        let id = self.text()?.to_owned();
        let meta = self.several(|from| Ok((from.text()?.to_owned(), from.text()?.to_owned())))?;
        let (auxiliary, meta) = (BTreeMap::from_iter(auxiliary), BTreeMap::from_iter(meta));
        Ok(PoolRecord { pool, range, gateway, auxiliary, id, meta })
    }

    fn endpoint(&mut self) -> Read<EndpointId> {
        self.from.array().map(EndpointId::from_bytes)
    }

    fn change(&mut self) -> Read<Change> {
        let tag = self.from.byte()?;
        let network: NetworkId =
            self.known()?.parse().map_err(|_| ImageError::Damaged("a network's identifier is none"))?;
        Ok(match tag {
            POOLS_TAKEN => Change::PoolsTaken {
                network,
                name: self.text()?.to_owned(),
                address_space: self.known()?.to_owned(),
                host: self.host()?,
                shares: self.from.flag()?,
                v4: self.several(Self::pool)?,
                v6: self.several(Self::pool)?,
            },
            POOLS_RELEASED => Change::PoolsReleased { network },
            POOLS_RETIRED => Change::PoolsRetired { network },
            LEASED => Change::Leased {
                network,
                endpoint: self.endpoint()?,
                name: self.text()?.to_owned(),
                host: self.host()?,
                ipv4: self.maybe(Self::ipv4)?,
                ipv6: self.maybe(Self::ipv6)?,
            },
            RELEASED => Change::Released { network, endpoint: self.endpoint()? },
            RESERVED => Change::Reserved {
                network,
                name: self.text()?.to_owned(),
                addresses: self.several(Self::address)?,
            },
            UNRESERVED => Change::Unreserved { network, name: self.text()?.to_owned() },
            _ => return Err(ImageError::Damaged("a change is of no kind")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let some = (0u8..7, 0u8..4, any::<u128>(), "\\PC{0,9}", any::<IpAddr>(), 0u8..=32, any::<bool>());
        let change = some.prop_map(|(kind, network, endpoint, name, address, prefix, flag)| {
            let network: NetworkId = match network {
                0 => NetworkId::from_uuids(Uuid::from_u128(endpoint), Uuid::max()),
                n => format!("net.{n}").parse().expect("an id"),
            };
            let endpoint = EndpointId::from_uuids(Uuid::from_u128(endpoint), Uuid::nil());
            let net = IpNet::new(address, prefix).expect("a prefix of both");
            let host = flag.then(|| name.chars().take(1).collect());
            match kind {
                POOLS_TAKEN => {
                    let auxiliary = BTreeMap::from([(name.clone(), address)]);
                    let record = PoolRecord { range: flag.then_some(net), auxiliary, ..PoolRecord::new(net) };
                    let meta = BTreeMap::from([(name.clone(), String::new())]);
                    let other =
                        PoolRecord { gateway: Some(address), id: name.clone(), meta, ..record.clone() };
                    let (v4, v6, address_space) =
                        (vec![record, other], Vec::new(), "GlobalDefault".to_owned());
                    Change::PoolsTaken { network, name, address_space, host, shares: flag, v4, v6 }
                }
                POOLS_RELEASED => Change::PoolsReleased { network },
                POOLS_RETIRED => Change::PoolsRetired { network },
                LEASED => {
                    let ipv4 = if let IpNet::V4(net) = net { Some(net) } else { None };
                    let ipv6 = if let IpNet::V6(net) = net { Some(net) } else { None };
                    Change::Leased { network, endpoint, name, host, ipv4, ipv6 }
                }
                RELEASED => Change::Released { network, endpoint },
                RESERVED => {
                    Change::Reserved { network, name, addresses: vec![address; usize::from(prefix % 3)] }
                }
                _ => Change::Unreserved { network, name },
            }
        });
        prop::collection::vec(change, 0..12)
    }

    proptest! {
        #[test]
        fn changes_come_out_as_they_went_in_and_what_is_cut_is_noticed(changes in changes()) {
            let bytes = pack(&changes);
            prop_assert_eq!(from_base64(&base64(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(unpack(&bytes), Ok(changes.clone()));
            for cut in 0..bytes.len() {
                if let Ok(read) = unpack(&bytes[..cut]) {
                    prop_assert!(read.len() < changes.len() && changes.starts_with(&read));
                }
            }
        }

        #[test]
        fn no_bytes_and_no_text_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[A-Da-d0-3+/=é]{0,20}") {
            if let Ok(changes) = unpack(&bytes) {
                let again = pack(&changes);
                prop_assert_eq!(unpack(&again), Ok(changes));
            }
            if let Some(bytes) = from_base64(&text) {
                prop_assert_eq!(base64(&bytes), text);
            }
        }
    }

    #[test]
    fn base64_is_that_of_its_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("fooba", "Zm9vYmE")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        for odd in ["Z", "Zh", "Zm9v=", "Zm9", "Zg=="] {
            assert_eq!(from_base64(odd), None, "{odd}");
        }
    }
}
