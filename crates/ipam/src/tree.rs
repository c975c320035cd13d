//! How an image in parts changes: only those parts are made anew in which something has changed.
//!
//! Parts of level 0 have the entries, in order; those above name parts below by the first key of each. A part is named by
//! the number of the image that it was made for, and by its contents. So nobody ever changes one, two writers that are at it
//! at once make the same or each its own, and a name that went out of use never comes back: the parts of an image are those
//! of the image before it, or have its number.
//!
//! Nothing here waits. What is not at hand is asked for ([`Need`]), and then it is begun anew.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::{Reader, Writer};
use crate::image::ImageError;
use crate::part::{self, Entry, Key, Part, sizes};

/// How large a part becomes at most, unless one entry alone is larger: what is written for one change.
const LARGE: usize = 8 * 1024;
/// One that is smaller is put together with its neighbour, if both are not larger than [`FULL`].
const SMALL: usize = LARGE / 4;
const FULL: usize = LARGE / 2;
/// How many levels there can be: each has tens of parts for one of the next.
const LEVELS: u8 = 16;

/// What a part is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Name {
    /// How many changes are in the image that it was made for.
    pub image: u64,
    /// A hash of its bytes.
    pub hash: Uuid,
}

impl Name {
    fn of(image: u64, bytes: &[u8]) -> Self {
        Self { image, hash: Uuid::new_v5(&Uuid::NAMESPACE_OID, bytes) }
    }

    /// Whether a part of these bytes is called this.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        *self == Self::of(self.image, bytes)
    }

    /// Its key in the store, behind that of its history.
    pub(crate) fn text(&self) -> String {
        format!("{:020}-{}", self.image, self.hash.simple())
    }

    /// The name of a part that has such a key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (image, hash) = text.split_once('-')?;
        Some(Self { image: image.parse().ok()?, hash: hash.parse().ok()? })
    }
}

/// A part below another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Below {
    name: Name,
    /// How many bytes it has.
    size: usize,
}

impl Below {
    fn write(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.name.image);
        writer.bytes.extend(self.name.hash.as_bytes());
        writer.count(self.size);
        writer.bytes
    }

    fn read(value: &[u8]) -> Result<Self, ImageError> {
        let mut reader = Reader::new(value);
        let name = Name { image: reader.number()?, hash: Uuid::from_bytes(reader.array()?) };
        let size =
            usize::try_from(reader.number()?).map_err(|_| ImageError::Damaged("a part is too large"))?;
        if reader.is_empty() {
            Ok(Self { name, size })
        } else {
            Err(ImageError::Damaged("something follows a part's name"))
        }
    }
}

/// A part that was read.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    level: u8,
    entries: Vec<Entry>,
}

impl Node {
    /// Reads a part.
    ///
    /// # Errors
    /// Bytes that are none of this space.
    pub(crate) fn read(space: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let part = Part::new(space, bytes)?;
        if part.level > LEVELS {
            return Err(ImageError::Damaged("it has too many levels"));
        }
        let (level, mut entries) = (part.level, Vec::new());
        part.read(|key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(Self { level, entries })
    }

    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    /// The parts that it names, in order, each with the first of its keys; none for one of level 0.
    ///
    /// # Errors
    /// What it has are no names.
    pub(crate) fn names(&self) -> Result<Vec<(&Key, Name)>, ImageError> {
        let named = self.entries.iter().filter(|_| self.level > 0);
        named.map(|(key, value)| Below::read(value).map(|below| (key, below.name))).collect()
    }
}

/// What is different now.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// The entries of these keys, as far as they are there.
    pub keys: BTreeMap<Key, Option<Vec<u8>>>,
    /// From the first of two keys to before the second nothing is left but what is above.
    pub gone: Vec<(Key, Key)>,
}

/// From a key on, or from the beginning; to before another one, or to the end.
type Range<'a> = (Option<&'a Key>, Option<&'a Key>);

impl Edits {
    fn of<'a>(&'a self, (from, to): Range<'a>) -> impl Iterator<Item = (&'a Key, &'a Option<Vec<u8>>)> {
        let from = from.map_or(Unbounded, Included);
        // Also a range that makes no sense, of parts that make none, has an end.
        let in_order = self.keys.range::<Key, _>((from, Unbounded));
        in_order.take_while(move |(key, _)| to.is_none_or(|to| *key < to))
    }

    fn touch(&self, range: Range<'_>) -> bool {
        let (from, to) = range;
        let mut gone = self.gone.iter();
        self.of(range).next().is_some()
            || gone.any(|(first, end)| to.is_none_or(|to| first < to) && from.is_none_or(|from| from < end))
    }

    /// Whether nothing is left of a range.
    fn empties(&self, range: Range<'_>) -> bool {
        let (Some(from), Some(to)) = range else { return false };
        let mut gone = self.gone.iter();
        gone.any(|(first, end)| first <= from && to <= end)
            && self.of(range).all(|(_, value)| value.is_none())
    }

    fn apply(&self, entries: &[Entry], range: Range<'_>) -> Vec<Entry> {
        let stays = |(key, _): &&Entry| {
            !self.keys.contains_key(key) && !self.gone.iter().any(|(first, end)| first <= key && key < end)
        };
        let new = self.of(range).filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        let mut all: Vec<_> = entries.iter().filter(stays).cloned().chain(new).collect();
        all.sort_unstable();
        all
    }
}

/// Parts that have to be read before it can go on.
#[derive(Debug)]
pub(crate) enum Need {
    Parts(Vec<Name>),
    Damaged(Name, ImageError),
}

/// The next image.
#[derive(Debug, Default)]
pub(crate) struct Rebuilt {
    /// Its uppermost part; there is none when there is nothing.
    pub root: Option<Name>,
    /// The parts that are new.
    pub new: Vec<(Name, Vec<u8>)>,
    /// Those of the image before that it does not have.
    pub old: Vec<Name>,
    /// Whether it takes nothing from the image before, of which nothing is told then.
    pub anew: bool,
}

/// A part below the one that is made anew.
enum Child {
    Kept(Key, Below),
    New(Vec<Entry>),
}

/// Makes an image from the one before it.
pub(crate) struct Rebuild<'a> {
    pub space: &'a str,
    /// How many changes are in it.
    pub image: u64,
    pub edits: &'a Edits,
    /// Parts of the one before it that are at hand.
    pub known: &'a FxHashMap<Name, Node>,
}

impl Rebuild<'_> {
    /// The image that follows the one whose uppermost part this is.
    ///
    /// # Errors
    /// Parts that are not at hand; one that makes no sense.
    pub(crate) fn run(&self, root: Option<Name>) -> Result<Rebuilt, Need> {
        let (mut out, mut missing) = (Rebuilt::default(), Vec::new());
        let everything = (None, None);
        let (mut level, mut entries) = match root {
            None => (0, self.edits.apply(&[], everything)),
            Some(root) => {
                let Some(node) = self.known.get(&root) else { return Err(Need::Parts(vec![root])) };
                (node.level, self.node(root, node, everything, &mut out, &mut missing)?)
            }
        };
        if !missing.is_empty() {
            return Err(Need::Parts(missing));
        }
        loop {
            if level > 0
                && let [(_, only)] = &entries[..]
                && let Ok(below) = Below::read(only)
            {
                // The part above it has no use any more.
                out.root = Some(below.name);
                break;
            }
            let mut parts = self.write(level, &entries, &mut out);
            match parts.len() {
                0 => break,
                1 => {
                    out.root = parts.pop().map(|(_, below)| below.name);
                    break;
                }
                _ => {
                    entries = parts.into_iter().map(|(first, below)| (first, below.write())).collect();
                    level += 1;
                }
            }
        }
        Ok(out)
    }

    /// The entries of a part as they are now.
    fn node(
        &self,
        name: Name,
        node: &Node,
        range: Range<'_>,
        out: &mut Rebuilt,
        missing: &mut Vec<Name>,
    ) -> Result<Vec<Entry>, Need> {
        out.old.push(name);
        if node.level == 0 {
            return Ok(self.edits.apply(&node.entries, range));
        }
        let below = node.entries.iter().map(|(_, value)| Below::read(value));
        let below: Vec<_> = below.collect::<Result<_, _>>().map_err(|error| Need::Damaged(name, error))?;
        let mut children: Vec<Child> = Vec::new();
        for (n, part) in below.iter().enumerate() {
            let first = &node.entries[n].0;
            // What comes before all others is the first one's.
            let from = if n == 0 { range.0 } else { Some(first) };
            let within = (from, node.entries.get(n + 1).map(|(next, _)| next).or(range.1));
            if !self.edits.touch(within) {
                self.add(Child::Kept(first.clone(), *part), &mut children, out, missing);
            } else if node.level == 1 && self.edits.empties(within) {
                out.old.push(part.name);
            } else if let Some(child) = self.known.get(&part.name) {
                if child.level + 1 != node.level {
                    return Err(Need::Damaged(part.name, ImageError::Damaged("it is of another level")));
                }
                let entries = self.node(part.name, child, within, out, missing)?;
                self.add(Child::New(entries), &mut children, out, missing);
            } else {
                missing.push(part.name);
            }
        }
        let mut entries = Vec::new();
        for child in children {
            match child {
                Child::Kept(first, below) => entries.push((first, below.write())),
                Child::New(new) => {
                    let parts = self.write(node.level - 1, &new, out);
                    entries.extend(parts.into_iter().map(|(first, below)| (first, below.write())));
                }
            }
        }
        Ok(entries)
    }

    /// Adds a part behind its neighbour, or to it where one of them has changed and become small.
    fn add(&self, child: Child, children: &mut Vec<Child>, out: &mut Rebuilt, missing: &mut Vec<Name>) {
        let size = |child: &Child| match child {
            Child::Kept(_, below) => below.size,
            Child::New(entries) => sizes(entries).sum(),
        };
        let small = |child: &Child| matches!(child, Child::New(_)) && size(child) < SMALL;
        let Some(last) = children.last() else { return children.push(child) };
        let both = size(last) + size(&child);
        if !(small(last) || small(&child)) || both > FULL {
            return children.push(child);
        }
        let mut taken = |child: Child| match child {
            Child::New(entries) => entries,
            Child::Kept(_, below) => match self.known.get(&below.name) {
                Some(node) => {
                    out.old.push(below.name);
                    node.entries.clone()
                }
                None => {
                    missing.push(below.name);
                    Vec::new()
                }
            },
        };
        let mut together = children.pop().map(&mut taken).unwrap_or_default();
        together.extend(taken(child));
        children.push(Child::New(together));
    }

    /// Makes parts of about the same size of entries, with some room in each where they are several.
    fn write(&self, level: u8, entries: &[Entry], out: &mut Rebuilt) -> Vec<(Key, Below)> {
        let all: usize = sizes(entries).sum();
        let count = if all <= LARGE { 1 } else { all.div_ceil(LARGE - LARGE / 8) };
        let (mut ends, mut size) = (Vec::new(), 0);
        for (n, more) in sizes(entries).enumerate() {
            if ends.len() + 1 < count && size > 0 && size + more / 2 > all / count {
                ends.push(n);
                size = 0;
            }
            size += more;
        }
        ends.push(entries.len());
        let (mut parts, mut rest, mut before) = (Vec::new(), entries, 0);
        for end in ends {
            let (here, behind) = rest.split_at(end - before);
            (rest, before) = (behind, end);
            let Some((first, _)) = here.first() else { continue };
            let bytes =
                part::write(self.space, level, here.iter().map(|(key, value)| (&key[..], &value[..])));
            let (name, size) = (Name::of(self.image, &bytes), bytes.len());
            out.new.push((name, bytes));
            parts.push((first.clone(), Below { name, size }));
        }
        parts
    }
}

#[cfg(test)]
mod tests;
