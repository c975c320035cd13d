//! Parts of an image: entries in the order of their keys, as bytes with a checksum.
//!
//! A key repeats the beginning of the one before, so that is only counted. What a value means is its reader's business: in
//! parts of level 0 it is something of an address space ([`crate::entry`]), above that the name of a part below
//! ([`crate::tree`]).

use crate::codec::{Reader, Writer};
use crate::image::ImageError;

/// How a part begins: a name and the number of its format.
pub(crate) const HEADER: &[u8; 8] = b"NLIPAM\x00\x02";
const CHECKSUM: usize = 4;
/// The longest key that is read.
const MAX_KEY: usize = 128;
/// What the lengths in front of an entry take, about.
const LENGTHS: usize = 4;

/// What an endpoint with its identifier takes at least.
const OWNER: usize = 40;

/// What entries are sorted by.
pub(crate) type Key = Vec<u8>;
/// An entry with what it says.
pub(crate) type Entry = (Key, Vec<u8>);

/// How many bytes two keys have in common at their beginnings.
fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How many bytes each of these takes in a part, about.
pub(crate) fn sizes(entries: &[Entry]) -> impl Iterator<Item = usize> {
    let before = std::iter::once(&[][..]).chain(entries.iter().map(|(key, _)| &key[..]));
    entries.iter().zip(before).map(|((key, value), before)| {
        let key = key.len() - shared(before, key);
        key + value.len() + LENGTHS
    })
}

/// A part with these entries, which are in order.
pub(crate) fn write<'a>(
    space: &str,
    level: u8,
    entries: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes.extend(HEADER);
    writer.byte(level);
    writer.text(space);
    writer.count(entries.len());
    let mut before: &[u8] = &[];
    for (key, value) in entries {
        let same = shared(before, key);
        writer.count(same);
        writer.count(key.len() - same);
        writer.bytes.extend(&key[same..]);
        writer.count(value.len());
        writer.bytes.extend(value);
        before = key;
    }
    let checksum = crc32fast::hash(&writer.bytes).to_le_bytes();
    writer.bytes.extend(checksum);
    writer.bytes
}

/// A part that is being read.
pub(crate) struct Part<'a> {
    /// How many levels lie below it.
    pub(crate) level: u8,
    entries: usize,
    reader: Reader<'a>,
}

impl<'a> Part<'a> {
    /// Looks at the beginning of a part, and whether it is whole.
    ///
    /// # Errors
    /// Bytes that are no part of an image of this space.
    pub(crate) fn new(space: &str, bytes: &'a [u8]) -> Result<Self, ImageError> {
        let mut reader = Reader::new(checked(bytes)?);
        let level = reader.byte()?;
        if reader.text()? != space {
            return Err(ImageError::Damaged("it is of another address space"));
        }
        let entries = reader.count()?;
        Ok(Self { level, entries, reader })
    }

    /// How many entries it says it has, as far as they can be owners and fit in: there is no more behind a lie than its
    /// bytes are worth.
    pub(crate) fn owners(&self) -> usize {
        self.entries.min(self.reader.len() / OWNER)
    }

    /// Reads its entries, in order, and gives the last key.
    ///
    /// # Errors
    /// Bytes that are no entries; whatever `each` says.
    pub(crate) fn read(
        self,
        mut each: impl FnMut(&[u8], &'a [u8]) -> Result<(), ImageError>,
    ) -> Result<Key, ImageError> {
        let Self { entries, mut reader, .. } = self;
        let mut key = Key::new();
        for n in 0..entries {
            let same = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
            let rest = reader.count()?;
            if same > key.len() || same.saturating_add(rest) > MAX_KEY {
                return Err(ImageError::Damaged("a key is too long"));
            }
            let rest = reader.bytes(rest)?;
            // What comes before it in both keys is the same.
            if n > 0 && rest <= &key[same..] {
                return Err(ImageError::Damaged("its keys are not in order"));
            }
            key.truncate(same);
            key.extend(rest);
            let len = reader.count()?;
            each(&key, reader.bytes(len)?)?;
        }
        if reader.is_empty() { Ok(key) } else { Err(ImageError::Damaged("something follows its end")) }
    }
}

/// The bytes between header and checksum.
fn checked(part: &[u8]) -> Result<&[u8], ImageError> {
    let (name, known) = (&HEADER[..7], HEADER[7]);
    let body = part.strip_prefix(name).ok_or(ImageError::Damaged("it does not begin like one"))?;
    let (&found, body) = body.split_first().ok_or(ImageError::Damaged("it is too short"))?;
    if found > known {
        return Err(ImageError::Newer { found, known });
    }
    let (body, checksum) =
        body.split_last_chunk::<CHECKSUM>().ok_or(ImageError::Damaged("it is too short"))?;
    if crc32fast::hash(&part[..part.len() - CHECKSUM]).to_le_bytes() != *checksum {
        return Err(ImageError::Damaged("its checksum is wrong"));
    }
    if found < known { Err(ImageError::Damaged("its format is an old one")) } else { Ok(body) }
}
