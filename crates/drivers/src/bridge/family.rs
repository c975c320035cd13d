//! How a bridge network and the rest of the world reach each other, as its options say: for each family, and from which
//! interfaces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netloom_firewall::Mode;
use netloom_model::{Error, IfName, Result};

use super::config::{ENABLE_IP_MASQUERADE, HOST_BINDING_IPV4};
use crate::options;

/// How containers and the rest of the world reach each other over IPv4: `nat`, `nat-unprotected`, `routed` or
/// `isolated` ([`GatewayMode`]).
pub const GATEWAY_MODE_IPV4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
/// The same over IPv6.
pub const GATEWAY_MODE_IPV6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
/// Interfaces of the host from which containers are reached under their own addresses, with `:` between their names.
pub const TRUSTED_HOST_INTERFACES: &str = "com.docker.network.bridge.trusted_host_interfaces";
/// The address of the host under which containers leave over IPv4; that of the interface that they leave by when absent.
pub const HOST_IPV4: &str = "com.docker.network.host_ipv4";
/// The same over IPv6.
pub const HOST_IPV6: &str = "com.docker.network.host_ipv6";
/// Whether the bridge gets no IPv4 address, because something else on it has the gateway's.
pub const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";

/// How containers of a network and the rest of the world reach each other, for one family (moby's `gwMode`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GatewayMode {
    /// Containers leave under the host's address, and ports of the host lead to them. Nothing else does.
    #[default]
    Nat,
    /// The same, but who has a route to a container's address reaches all of its ports.
    NatUnprotected,
    /// Nothing is translated: containers leave under their own addresses, under which their published ports are open. No
    /// port of the host is taken.
    Routed,
    /// The bridge has no address, so that containers do not even reach the host. Of internal networks only.
    Isolated,
}

impl GatewayMode {
    fn read(options: &BTreeMap<String, String>, key: &str) -> Result<Self> {
        match options.get(key).map(String::as_str) {
            None | Some("" | "nat") => Ok(Self::Nat),
            Some("nat-unprotected") => Ok(Self::NatUnprotected),
            Some("routed") => Ok(Self::Routed),
            Some("isolated") => Ok(Self::Isolated),
            Some(other) => {
                let why =
                    "expected nat, nat-unprotected, routed, or isolated, which is for internal networks";
                Err(Error::invalid(key, other, why))
            }
        }
    }

    /// Whether ports of the host lead to containers, which leave under an address of the host.
    #[must_use]
    pub fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::NatUnprotected)
    }

    /// What the firewall makes of it. An isolated network is internal, which is another rule.
    pub(super) fn rule(self) -> Mode {
        match self {
            Self::Nat | Self::Isolated => Mode::Nat,
            Self::NatUnprotected => Mode::NatUnprotected,
            Self::Routed => Mode::Routed,
        }
    }
}

/// One family of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FamilyConfig {
    /// How containers and the rest of the world reach each other.
    pub mode: GatewayMode,
    /// The address of the host that containers leave under.
    pub host_address: Option<IpAddr>,
}

/// The keys of one family's options.
struct Keys {
    v4: bool,
    mode: &'static str,
    host: &'static str,
}

const FAMILIES: [Keys; 2] = [
    Keys { v4: true, mode: GATEWAY_MODE_IPV4, host: HOST_IPV4 },
    Keys { v4: false, mode: GATEWAY_MODE_IPV6, host: HOST_IPV6 },
];

/// What the options of this file say together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Outward {
    pub(super) v4: FamilyConfig,
    pub(super) v6: FamilyConfig,
    pub(super) trusted: Vec<IfName>,
    pub(super) inhibit_ipv4: bool,
    pub(super) host_binding: Option<IpAddr>,
}

/// What else is known of a network when they are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    pub(super) internal: bool,
    pub(super) ipv6: bool,
    pub(super) masquerade: bool,
}

impl Outward {
    /// Reads them, and refuses what would have no effect.
    pub(super) fn read(options: &BTreeMap<String, String>, around: Around) -> Result<Self> {
        let [v4, v6] = FAMILIES.map(|keys| keys.read(options, around));
        let trusted = trusted(options)?;
        if around.internal && !trusted.is_empty() {
            let why =
                "an internal network is reached by nobody; leave this out, or make the network not internal";
            return Err(Error::invalid(TRUSTED_HOST_INTERFACES, &options[TRUSTED_HOST_INTERFACES], why));
        }
        Ok(Self {
            v4: v4?,
            v6: v6?,
            trusted,
            inhibit_ipv4: options::switch(options, INHIBIT_IPV4, false)?,
            host_binding: host_binding(options)?,
        })
    }
}

impl Keys {
    fn read(&self, options: &BTreeMap<String, String>, around: Around) -> Result<FamilyConfig> {
        let given = |key: &str| options.get(key).cloned().unwrap_or_default();
        for key in [self.mode, self.host] {
            if !self.v4 && !around.ipv6 && !given(key).is_empty() {
                let why = "the network has no IPv6; switch the field \"ipv6\" on, or leave this out";
                return Err(Error::invalid(key, given(key), why));
            }
        }
        let mode = GatewayMode::read(options, self.mode)?;
        if mode == GatewayMode::Isolated && !around.internal {
            let why = "only an internal network can be isolated; make the network internal, or choose nat, \
                       nat-unprotected or routed";
            return Err(Error::invalid(self.mode, "isolated", why));
        }
        let Some(host_address) = self.host_address(options)? else {
            return Ok(FamilyConfig { mode, host_address: None });
        };
        let in_the_way = if around.internal {
            Some("an internal network".to_owned())
        } else if !mode.translates() {
            Some(format!("{} \"routed\"", self.mode))
        } else {
            (!around.masquerade).then(|| format!("{ENABLE_IP_MASQUERADE} \"false\""))
        };
        match in_the_way {
            None => Ok(FamilyConfig { mode, host_address: Some(host_address) }),
            Some(other) => {
                let why = format!(
                    "with {other} no container leaves under an address of the host; leave one of \
                                   them out"
                );
                Err(Error::invalid(self.host, host_address, why))
            }
        }
    }

    fn host_address(&self, options: &BTreeMap<String, String>) -> Result<Option<IpAddr>> {
        let expected = if self.v4 { "an IPv4 address of the host" } else { "an IPv6 address of the host" };
        let Some(text) = options.get(self.host).filter(|text| !text.is_empty()) else { return Ok(None) };
        let address: IpAddr = text
            .trim()
            .parse()
            .map_err(|_| Error::invalid(self.host, text, format!("expected {expected}")))?;
        let fits = address.is_ipv4() == self.v4
            && !address.is_unspecified()
            && !address.is_multicast()
            && !address.is_loopback()
            && address != IpAddr::from([255; 4]);
        if !fits {
            let why = format!("expected {expected}, under which others can answer");
            return Err(Error::invalid(self.host, text, why));
        }
        Ok(Some(address))
    }
}

fn trusted(options: &BTreeMap<String, String>) -> Result<Vec<IfName>> {
    let text = options.get(TRUSTED_HOST_INTERFACES).map(String::as_str).unwrap_or_default();
    let mut all: Vec<IfName> = Vec::new();
    for name in text.split(':').filter(|_| !text.is_empty()) {
        let Ok(name) = name.parse() else {
            let why = format!(
                "{name:?} is no name of an interface; expected names with ':' between them, such \
                               as \"eth1:wg0\""
            );
            return Err(Error::invalid(TRUSTED_HOST_INTERFACES, text, why));
        };
        if !all.contains(&name) {
            all.push(name);
        }
    }
    Ok(all)
}

fn host_binding(options: &BTreeMap<String, String>) -> Result<Option<IpAddr>> {
    let address: Option<IpAddr> = options::value(options, HOST_BINDING_IPV4, "an IP address")?;
    let address = address.map(|address| address.to_canonical());
    if let Some(address) = address
        && (address.is_multicast() || address == IpAddr::from([255; 4]))
    {
        return Err(Error::invalid(HOST_BINDING_IPV4, address, "the host's address must be one of its own"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: Around = Around { internal: false, ipv6: true, masquerade: true };
    const INTERNAL: Around = Around { internal: true, ..OUTSIDE };
    const ONLY_IPV4: Around = Around { ipv6: false, ..OUTSIDE };
    const BARE: Around = Around { masquerade: false, ..OUTSIDE };

    fn read(options: &[(&str, &str)], around: Around) -> Result<Outward> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Outward::read(&options.collect(), around)
    }

    #[test]
    fn without_options_everything_is_translated_and_nobody_trusted() {
        assert_eq!(read(&[], OUTSIDE).expect("nothing"), Outward::default());
        let blank = [GATEWAY_MODE_IPV4, GATEWAY_MODE_IPV6, TRUSTED_HOST_INTERFACES, HOST_IPV4, HOST_IPV6];
        assert_eq!(read(&blank.map(|key| (key, "")), ONLY_IPV4).expect("nothing"), Outward::default());
    }

    #[test]
    fn what_is_said_is_read() {
        let read_v4 = |mode| read(&[(GATEWAY_MODE_IPV4, mode)], INTERNAL).expect(mode).v4.mode;
        let read_v6 = |mode| read(&[(GATEWAY_MODE_IPV6, mode)], INTERNAL).expect(mode).v6.mode;
        for (text, mode) in [
            ("nat", GatewayMode::Nat),
            ("nat-unprotected", GatewayMode::NatUnprotected),
            ("routed", GatewayMode::Routed),
            ("isolated", GatewayMode::Isolated),
        ] {
            assert_eq!((read_v4(text), read_v6(text)), (mode, mode));
        }
        let all = [
            (HOST_IPV4, "192.0.2.7"),
            (HOST_IPV6, "2001:db8::7"),
            (TRUSTED_HOST_INTERFACES, "eth1:wg0:eth1"),
            (INHIBIT_IPV4, "true"),
            (HOST_BINDING_IPV4, "::ffff:192.0.2.1"),
        ];
        let outward = read(&all, OUTSIDE).expect("valid");
        assert_eq!(outward.v4.host_address, Some([192, 0, 2, 7].into()));
        assert_eq!(outward.v6.host_address.expect("there").to_string(), "2001:db8::7");
        assert_eq!(outward.trusted.iter().map(IfName::as_str).collect::<Vec<_>>(), ["eth1", "wg0"]);
        assert!(outward.inhibit_ipv4);
        assert_eq!(outward.host_binding, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn what_is_malformed_or_would_have_no_effect_is_refused_with_a_way_out() {
        for (key, value, around, hint) in [
            (GATEWAY_MODE_IPV4, "bridged", OUTSIDE, "nat-unprotected"),
            (GATEWAY_MODE_IPV6, "NAT", OUTSIDE, "expected nat"),
            (GATEWAY_MODE_IPV4, "isolated", OUTSIDE, "make the network internal"),
            (GATEWAY_MODE_IPV6, "isolated", OUTSIDE, "make the network internal"),
            (GATEWAY_MODE_IPV6, "routed", ONLY_IPV4, "switch the field \"ipv6\" on"),
            (HOST_IPV6, "2001:db8::7", ONLY_IPV4, "switch the field \"ipv6\" on"),
            (HOST_IPV4, "2001:db8::7", OUTSIDE, "an IPv4 address of the host"),
            (HOST_IPV6, "192.0.2.7", OUTSIDE, "an IPv6 address of the host"),
            (HOST_IPV4, "uplink", OUTSIDE, "an IPv4 address of the host"),
            (HOST_IPV4, "0.0.0.0", OUTSIDE, "others can answer"),
            (HOST_IPV4, "127.0.0.1", OUTSIDE, "others can answer"),
            (HOST_IPV4, "224.0.0.1", OUTSIDE, "others can answer"),
            (HOST_IPV4, "192.0.2.7", INTERNAL, "leave one of them out"),
            (HOST_IPV4, "192.0.2.7", BARE, ENABLE_IP_MASQUERADE),
            (TRUSTED_HOST_INTERFACES, "eth0", INTERNAL, "internal"),
            (TRUSTED_HOST_INTERFACES, "eth0 eth1", OUTSIDE, "':' between them"),
            (TRUSTED_HOST_INTERFACES, "eth0:", OUTSIDE, "\"\" is no name"),
            (TRUSTED_HOST_INTERFACES, ":", OUTSIDE, "\"\" is no name"),
            (INHIBIT_IPV4, "perhaps", OUTSIDE, "true or false"),
            (HOST_BINDING_IPV4, "lo", OUTSIDE, "an IP address"),
            (HOST_BINDING_IPV4, "ff02::1", OUTSIDE, "one of its own"),
        ] {
            let error = read(&[(key, value)], around).expect_err(value).to_string();
            assert!(error.contains(key) && error.contains(hint), "{error}");
        }
        let both = [(GATEWAY_MODE_IPV4, "routed"), (HOST_IPV4, "192.0.2.7")];
        let error = read(&both, OUTSIDE).expect_err("no effect").to_string();
        assert!(error.contains(HOST_IPV4) && error.contains(GATEWAY_MODE_IPV4), "{error}");
    }
}
