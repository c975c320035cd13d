//! What few objects have.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value with something in it for few objects only: kept apart, so that the many others are small. It is used like
/// the value itself, which says nothing where it is not there.
#[derive(Clone, Default)]
pub struct Seldom<T>(Option<Box<T>>);

/// What says nothing.
pub trait Nothing: Default + PartialEq + 'static {
    /// The value that says nothing.
    const NOTHING: &'static Self;
}

impl<T: Nothing> Seldom<T> {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.0.as_deref().is_none_or(|value| value == T::NOTHING)
    }
}

impl<T: Nothing> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::NOTHING)
    }
}

impl<T: Nothing> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Nothing> From<T> for Seldom<T> {
    fn from(value: T) -> Self {
        Self((value != *T::NOTHING).then(|| Box::new(value)))
    }
}

impl<T: Nothing> PartialEq for Seldom<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Nothing + Eq> Eq for Seldom<T> {}

impl<T: Nothing + fmt::Debug> fmt::Debug for Seldom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Nothing + Serialize> Serialize for Seldom<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Nothing + Deserialize<'de>> Deserialize<'de> for Seldom<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Ports, TransportPort};

    #[test]
    fn it_is_used_and_written_like_the_value_itself() {
        let mut seldom = Seldom::<Ports>::default();
        assert!(seldom.is_nothing() && seldom.exposed.is_empty());
        assert_eq!(serde_json::to_string(&seldom).expect("written"), "{}");
        seldom.exposed.push(TransportPort::tcp(80));
        assert!(!seldom.is_nothing());
        let json = serde_json::to_string(&seldom).expect("written");
        assert_eq!(json, serde_json::to_string(&*seldom).expect("written"));
        assert_eq!(serde_json::from_str::<Seldom<Ports>>(&json).expect("read"), seldom);
        seldom.exposed.clear();
        assert!(seldom.is_nothing() && seldom == Seldom::from(Ports::default()));
    }
}
