//! Numbers of addresses in JSON: the subnets of IPv6 have more of them than most readers' numbers are exact for.
//!
//! Up to 2^53 they are numbers, beyond it texts of decimal digits. Either is read back.

use std::fmt;

use serde::{Deserializer, Serializer, de};

/// The last number up to which all are exact in a double, and so in JavaScript and jq.
const EXACT: u128 = 1 << 53;

/// For `#[serde(with = "…")]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(number: &(impl Copy + Into<u128>), serializer: S) -> Result<S::Ok, S::Error> {
    let number = (*number).into();
    match u64::try_from(number) {
        Ok(small) if number <= EXACT => serializer.serialize_u64(small),
        Ok(_) | Err(_) => serializer.collect_str(&number),
    }
}

/// For `#[serde(with = "…")]`.
///
/// # Errors
/// The deserializer's, also for what is no number and no text of one, and for one that is too large.
pub fn deserialize<'de, D: Deserializer<'de>, N: TryFrom<u128>>(deserializer: D) -> Result<N, D::Error> {
    struct Number;

    impl de::Visitor<'_> for Number {
        type Value = u128;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, or a text of its digits")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u128, E> {
            Ok(number.into())
        }

        fn visit_u128<E: de::Error>(self, number: u128) -> Result<u128, E> {
            Ok(number)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u128, E> {
            text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    let number = deserializer.deserialize_any(Number)?;
    N::try_from(number).map_err(|_| de::Error::custom(format_args!("{number} is too large")))
}

/// The same for a number that may be missing.
pub mod option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// For `#[serde(with = "…")]`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        number.map(Wide).serialize(serializer)
    }

    /// For `#[serde(with = "…")]`.
    ///
    /// # Errors
    /// As [`super::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<Wide>::deserialize(deserializer)?.map(|Wide(number)| number))
    }

    #[derive(Serialize, Deserialize)]
    struct Wide(#[serde(with = "super")] u64);
}
