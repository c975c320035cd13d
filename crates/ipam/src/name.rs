//! Names of owners: there may be millions, and most are short.

use std::fmt;
use std::ops::Deref;

/// How long a name is that needs no memory of its own.
const SHORT: usize = 22;

/// A name, in place if it is short.
#[derive(Clone)]
pub(crate) struct Name(Kept);

#[derive(Clone)]
enum Kept {
    Short(u8, [u8; SHORT]),
    Long(Box<str>),
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(name.as_bytes());
                Self(Kept::Short(length, bytes))
            }
            _ => Self(Kept::Long(name.into())),
        }
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Kept::Short(length, bytes) => {
                std::str::from_utf8(&bytes[..usize::from(*length)]).expect("it was made of a text")
            }
            Kept::Long(name) => name,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_are_kept_as_they_are() {
        let all = "é".repeat(SHORT);
        for length in 0..=SHORT {
            for text in [&all[..2 * length], &"x".repeat(length), &"x".repeat(length + SHORT)] {
                let name = Name::from(text);
                assert_eq!((&*name, format!("{name:?}")), (text, format!("{text:?}")));
                assert_eq!(matches!(name.0, Kept::Short(..)), text.len() <= SHORT);
                assert!(name == name.clone() && name != Name::from(format!("{text}.").as_str()));
            }
        }
        assert_eq!(size_of::<Name>(), 24);
    }
}
