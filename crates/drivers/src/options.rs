//! Reading driver options: text in, typed values or a typed refusal out.

use std::collections::BTreeMap;
use std::str::FromStr;

use netloom_model::{Error, Result};

/// What libnetwork's options begin with. Others are somebody else's, and pass.
pub(crate) const OURS: &str = "com.docker.network.";

/// Reads a switch the way Go's `strconv.ParseBool` does, which is what libnetwork accepts.
pub(crate) fn switch(options: &BTreeMap<String, String>, key: &str, default: bool) -> Result<bool> {
    match options.get(key).map(String::as_str) {
        None => Ok(default),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Error::invalid(key, other, "expected true or false")),
    }
}

/// Reads a value of any type that parses from text.
pub(crate) fn value<T: FromStr>(
    options: &BTreeMap<String, String>,
    key: &str,
    expected: &str,
) -> Result<Option<T>> {
    options
        .get(key)
        .map(|text| {
            text.trim().parse().map_err(|_| Error::invalid(key, text, format!("expected {expected}")))
        })
        .transpose()
}
