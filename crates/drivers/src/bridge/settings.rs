//! What the engine's configuration says to the bridge driver, for all of its networks.

use netloom_firewall::Mark;
use netloom_model::{Error, Result};

use super::KIND;
use crate::config::DriverConfig;
use crate::options;

/// The driver's option that says whether the engine passes on itself what the kernel cannot: what comes to `::1`, and
/// IPv6 for containers that have only IPv4, or the other way round. It does unless this is `false`.
pub const USERLAND_PROXY: &str = "userland_proxy";
/// The driver's option that says whether published ports of translated networks are open under their containers' own
/// addresses as well, for whoever has a route to them (moby's `allow-direct-routing`). They are not unless this is
/// `true`.
pub const ALLOW_DIRECT_ROUTING: &str = "allow_direct_routing";
/// The driver's option that names the mark of packets that reach every port of every container, such as `0x1/0x3`: the
/// value, and which of its bits count (moby's `bridge-accept-fwmark`). It is in the firewall's table, and so is read at
/// the engine's start.
pub const BRIDGE_ACCEPT_FWMARK: &str = "bridge_accept_fwmark";

/// What the driver works with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Whether the engine passes on itself what the kernel cannot (libnetwork's `EnableUserlandProxy`).
    pub(super) proxy: bool,
    /// Whether published ports are open under containers' own addresses as well.
    pub(super) direct: bool,
    /// Whether packets of some mark reach every port.
    pub(super) mark: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { proxy: true, direct: false, mark: false }
    }
}

impl Settings {
    pub(super) fn read(config: &DriverConfig) -> Result<Self> {
        config.only(KIND, &[USERLAND_PROXY, ALLOW_DIRECT_ROUTING, BRIDGE_ACCEPT_FWMARK])?;
        Ok(Self {
            proxy: options::switch(&config.options, USERLAND_PROXY, true)?,
            direct: options::switch(&config.options, ALLOW_DIRECT_ROUTING, false)?,
            mark: accepted_mark(config)?.is_some(),
        })
    }
}

/// The mark of packets that reach every port ([`BRIDGE_ACCEPT_FWMARK`]), for whoever makes the firewall's table.
///
/// # Errors
/// `InvalidParameter`: it is no mark, or no packet can have it.
pub fn accepted_mark(config: &DriverConfig) -> Result<Option<Mark>> {
    let Some(text) = config.options.get(BRIDGE_ACCEPT_FWMARK).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let refused = |why| Error::invalid(BRIDGE_ACCEPT_FWMARK, text, why);
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value), number(mask)),
        None => (number(text), Some(u32::MAX)),
    };
    let (Some(value), Some(mask)) = (value, mask) else {
        return Err(refused("expected a mark, or a mark and which of its bits count, such as 0x1/0x3"));
    };
    if mask == 0 {
        return Err(refused("no bit counts, so that every packet would be let in; name a mask other than 0"));
    }
    if value & !mask != 0 {
        return Err(refused("the mark has bits that do not count, so that no packet would be let in"));
    }
    Ok(Some(Mark { mask, value }))
}

/// A number, hexadecimal behind `0x`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // No sign: `from_str_radix` takes one.
        Some(hexadecimal) if hexadecimal.starts_with('+') => None,
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
        None => text.parse().ok().filter(|_| !text.starts_with('+')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(key: &str, value: &str) -> DriverConfig {
        DriverConfig { options: [(key.to_owned(), value.to_owned())].into(), ..DriverConfig::default() }
    }

    #[test]
    fn a_mark_is_a_value_and_the_bits_that_count() {
        for (text, mark) in [
            ("", None),
            ("0x1/0x3", Some(Mark { mask: 3, value: 1 })),
            ("42", Some(Mark { mask: u32::MAX, value: 42 })),
            ("0XfF", Some(Mark { mask: u32::MAX, value: 255 })),
            ("0/1", Some(Mark { mask: 1, value: 0 })),
        ] {
            assert_eq!(accepted_mark(&config(BRIDGE_ACCEPT_FWMARK, text)).expect(text), mark);
        }
        assert_eq!(accepted_mark(&DriverConfig::default()).expect("nothing"), None);
        for text in
            ["mark", "0x", "0x1/", "/0x3", "-1", "+1", "0x+1", "0x100000000", "1/2/3", " 1", "4/3", "0/0"]
        {
            let error = Settings::read(&config(BRIDGE_ACCEPT_FWMARK, text)).expect_err(text).to_string();
            assert!(error.contains(BRIDGE_ACCEPT_FWMARK) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn switches_are_read_and_others_refused() {
        let settings = Settings::read(&DriverConfig::default()).expect("nothing");
        assert!(settings.proxy && !settings.direct);
        assert!(!Settings::read(&config(USERLAND_PROXY, "false")).expect("a switch").proxy);
        assert!(Settings::read(&config(ALLOW_DIRECT_ROUTING, "1")).expect("a switch").direct);
        for (key, value) in [(USERLAND_PROXY, "off"), (ALLOW_DIRECT_ROUTING, ""), ("iptables", "true")] {
            let error = Settings::read(&config(key, value)).expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
