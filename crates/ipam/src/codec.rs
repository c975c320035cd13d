//! Bytes of an image: small numbers are short, texts and addresses are preceded by their length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::image::ImageError;
use crate::span::{Family, number};

/// The longest text that is read.
const MAX_TEXT: u64 = 4096;

/// Writes an image.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// A number in groups of seven bits, the lowest first (LEB128).
    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.byte((number & 0x7f) as u8);
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes.extend(text.as_bytes());
    }

    pub(crate) fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.bytes.extend(v4.octets()),
            IpAddr::V6(v6) => self.bytes.extend(v6.octets()),
        }
    }

    pub(crate) fn maybe_address(&mut self, address: Option<IpAddr>) {
        self.byte(u8::from(address.is_some()));
        address.into_iter().for_each(|address| self.address(address));
    }

    pub(crate) fn net(&mut self, net: &IpNet) {
        self.byte(net.prefix_len());
        self.address(net.addr());
    }
}

/// Reads an image. Nothing in it is believed: a length that is not there ends the reading, and nothing is allocated
/// on account of a number alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], ImageError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(ImageError::Damaged("it is too short"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        self.bytes(N)?.try_into().map_err(|_| ImageError::Damaged("it is too short"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ImageError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, ImageError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ImageError::Damaged("a flag is neither set nor clear")),
        }
    }

    pub(crate) fn number(&mut self) -> Result<u64, ImageError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                break;
            }
            number |= group << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ImageError::Damaged("a number has more than 64 bits"))
    }

    /// How many items follow, each of which takes a byte at least.
    /// How many bytes are left.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn count(&mut self) -> Result<usize, ImageError> {
        let count = usize::try_from(self.number()?).ok().filter(|count| *count <= self.rest.len());
        count.ok_or(ImageError::Damaged("it is too short for what it announces"))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, ImageError> {
        let len = self.number()?;
        if len > MAX_TEXT {
            return Err(ImageError::Damaged("a text is too long"));
        }
        let bytes = self.bytes(usize::try_from(len).unwrap_or(usize::MAX))?;
        std::str::from_utf8(bytes).map_err(|_| ImageError::Damaged("a text is not UTF-8"))
    }

    pub(crate) fn address(&mut self, family: Family) -> Result<IpAddr, ImageError> {
        match family {
            Family::V4 => self.array::<4>().map(IpAddr::from),
            Family::V6 => self.array::<16>().map(IpAddr::from),
        }
    }

    pub(crate) fn maybe_address(&mut self, family: Family) -> Result<Option<IpAddr>, ImageError> {
        self.flag()?.then(|| self.address(family)).transpose()
    }

    pub(crate) fn maybe_ipv4(&mut self) -> Result<Option<Ipv4Addr>, ImageError> {
        self.flag()?.then(|| self.array::<4>().map(Ipv4Addr::from)).transpose()
    }

    pub(crate) fn maybe_ipv6(&mut self) -> Result<Option<Ipv6Addr>, ImageError> {
        self.flag()?.then(|| self.array::<16>().map(Ipv6Addr::from)).transpose()
    }

    pub(crate) fn net(&mut self, family: Family) -> Result<IpNet, ImageError> {
        let prefix = self.byte()?;
        let first = number(self.address(family)?);
        let net = family.net(first, prefix).filter(|net| net.addr() == net.network());
        net.ok_or(ImageError::Damaged("a subnet is none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_a_round_trip_and_take_as_many_bytes_as_they_need() {
        for (number, len) in [(0, 1), (127, 1), (128, 2), (u64::from(u32::MAX), 5), (u64::MAX, 10)] {
            let mut writer = Writer::default();
            writer.number(number);
            assert_eq!(writer.bytes.len(), len, "{number}");
            let mut reader = Reader::new(&writer.bytes);
            assert_eq!(reader.number(), Ok(number));
            assert!(reader.is_empty());
            for cut in 0..len {
                assert!(Reader::new(&writer.bytes[..cut]).number().is_err(), "{number} cut to {cut}");
            }
        }
        assert!(Reader::new(&[0xff; 10]).number().is_err());
        assert!(Reader::new(&[0xff; 11]).number().is_err());
        assert!(Reader::new(&[5, 1, 2]).count().is_err(), "nothing is believed");
    }
}
