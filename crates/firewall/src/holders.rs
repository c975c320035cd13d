//! Who wants an element.

use rustc_hash::FxHashSet;

use crate::ruleset::Owner;

/// Who wants an element: nearly always one, but thousands want what all ports have in common.
#[derive(Clone, Debug)]
pub(crate) enum Holders {
    /// One.
    One(Owner),
    /// Any number, none included.
    Many(FxHashSet<Owner>),
}

impl Holders {
    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Owner> {
        let (one, many) = match self {
            Self::One(one) => (Some(*one), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }

    /// Adds one, if it is not there.
    pub(crate) fn insert(&mut self, owner: Owner) {
        match self {
            Self::One(one) if *one == owner => {}
            Self::One(one) => *self = Self::Many([*one, owner].into_iter().collect()),
            Self::Many(many) => {
                many.insert(owner);
            }
        }
    }

    /// Takes one out, and says whether nobody is left.
    pub(crate) fn remove(&mut self, owner: Owner) -> bool {
        match self {
            Self::One(one) => *one == owner,
            Self::Many(many) => {
                many.remove(&owner);
                many.is_empty()
            }
        }
    }

    /// One beside this one, if there is any.
    pub(crate) fn other_than(&self, owner: Owner) -> Option<Owner> {
        self.iter().find(|holder| *holder != owner)
    }
}

impl From<Owner> for Holders {
    fn from(owner: Owner) -> Self {
        Self::One(owner)
    }
}

/// In order.
impl From<&Holders> for Vec<Owner> {
    fn from(holders: &Holders) -> Self {
        let mut all: Self = holders.iter().collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    fn owner(n: char) -> Owner {
        Owner::Network(iter::repeat_n(n, 64).collect::<String>().parse().expect("an id"))
    }

    #[test]
    fn each_is_there_once_and_the_last_one_leaves_nobody() {
        let (a, b, c) = (owner('a'), owner('b'), owner('c'));
        let mut holders = Holders::from(b);
        assert_eq!(holders.other_than(b), None);
        assert_eq!(holders.other_than(a), Some(b));
        assert!(!holders.remove(a), "it was not there");
        for one in [b, a, a, c] {
            holders.insert(one);
        }
        assert_eq!(Vec::from(&holders), [a, b, c]);
        assert!([a, c].contains(&holders.other_than(b).expect("two")));
        assert!(!holders.remove(b) && !holders.remove(b) && !holders.remove(a));
        assert_eq!(Vec::from(&holders), [c]);
        assert!(holders.remove(c));
    }
}
