//! One bit for each port.

use std::fmt;

const WORDS: usize = 65_536 / 64;

/// A set of ports.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bits(Box<[u64]>);

impl Default for Bits {
    fn default() -> Self {
        Self(vec![0; WORDS].into_boxed_slice())
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        write!(f, "Bits({ports} ports)")
    }
}

fn place(port: u16) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

impl Bits {
    pub(crate) fn contains(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.0[word] & bit != 0
    }

    pub(crate) fn insert(&mut self, port: u16) {
        let (word, bit) = place(port);
        self.0[word] |= bit;
    }

    pub(crate) fn remove(&mut self, port: u16) {
        let (word, bit) = place(port);
        self.0[word] &= !bit;
    }

    /// The first port from `from` to `last` that is in neither set.
    pub(crate) fn first_outside(&self, other: Option<&Self>, from: u16, last: u16) -> Option<u16> {
        let (first_word, last_word) = (usize::from(from / 64), usize::from(last / 64));
        let mut mask = u64::MAX << (from % 64);
        for word in first_word..=last_word {
            let taken = self.0[word] | other.map_or(0, |other| other.0[word]);
            let free = !taken & mask;
            mask = u64::MAX;
            if free != 0 {
                let port = word * 64 + free.trailing_zeros() as usize;
                return u16::try_from(port).ok().filter(|port| *port <= last);
            }
        }
        None
    }

    /// The first port from `from` to `last` that is in either set.
    pub(crate) fn first_inside(&self, other: Option<&Self>, from: u16, last: u16) -> Option<u16> {
        let (first_word, last_word) = (usize::from(from / 64), usize::from(last / 64));
        let mut mask = u64::MAX << (from % 64);
        for word in first_word..=last_word {
            let taken = (self.0[word] | other.map_or(0, |other| other.0[word])) & mask;
            mask = u64::MAX;
            if taken != 0 {
                let port = word * 64 + taken.trailing_zeros() as usize;
                return u16::try_from(port).ok().filter(|port| *port <= last);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_agree_with_a_look_at_each_port() {
        let (mut one, mut two) = (Bits::default(), Bits::default());
        for port in [1, 2, 3, 62, 63, 64, 65, 127, 128, 200, 65_534, 65_535] {
            one.insert(port);
            two.insert(port / 2 + 7);
        }
        one.remove(3);
        let ports = [0, 1, 3, 60, 63, 64, 65, 66, 127, 128, 129, 199, 200, 201, 65_500, 65_534, 65_535];
        for from in ports {
            for last in ports.into_iter().filter(|last| *last >= from) {
                for other in [None, Some(&two)] {
                    let within =
                        |port: &u16| one.contains(*port) || other.is_some_and(|other| other.contains(*port));
                    let (outside, inside) = ((from..=last).find(|p| !within(p)), (from..=last).find(within));
                    assert_eq!(one.first_outside(other, from, last), outside, "{from}-{last}");
                    assert_eq!(one.first_inside(other, from, last), inside, "{from}-{last}");
                }
            }
        }
    }
}
