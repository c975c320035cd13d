//! What a bridge network looks like, read from its creation request. Pure: no kernel, no other networks.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_kernel::LinkTag;
use netloom_model::record::PoolRecord;
use netloom_model::{Error, IfName, MacAddr, NetworkId, Result};

use super::family::{Around, Outward};
pub use super::family::{
    FamilyConfig, GATEWAY_MODE_IPV4, GATEWAY_MODE_IPV6, GatewayMode, HOST_IPV4, HOST_IPV6, INHIBIT_IPV4,
    TRUSTED_HOST_INTERFACES,
};
use super::{INTERFACE, offered};
use crate::options;
use crate::request::{CreateNetwork, Restored};

/// Names the bridge device.
pub const NAME: &str = "com.docker.network.bridge.name";
/// Whether containers of the network reach each other. Where not, their ports of the bridge are isolated: they reach
/// the bridge itself and what is behind it.
pub const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";
/// Whether containers reach the outside under the host's address. They do unless this is `false`; an internal network
/// reaches nothing at all.
pub const ENABLE_IP_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// The host's address on which ports are published that name none: every one of both families unless it says another,
/// which may be one of IPv6.
pub const HOST_BINDING_IPV4: &str = "com.docker.network.bridge.host_binding_ipv4";
/// The MTU of the network in bytes.
pub const MTU: &str = "com.docker.network.driver.mtu";
/// What the names of interfaces begin with inside sandboxes, before their number.
pub const CONTAINER_IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";

/// Auxiliary addresses of these names replace the gateway that containers are told.
const AUX_GATEWAY_V4: &str = "DefaultGatewayIPv4";
const AUX_GATEWAY_V6: &str = "DefaultGatewayIPv6";

/// The smallest MTU that IPv4 (RFC 791) and IPv6 (RFC 8200) allow, and the largest a veth takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;
const MTU_MIN_IPV6: u32 = 1280;

/// The longest prefix of interface names: a sandbox numbers its joins, and seven digits are left for that.
const MAX_PREFIX_LEN: usize = 8;

/// Where Linux keeps the settings of all links and of those to come: links of these names share them.
const RESERVED_NAMES: [&str; 2] = ["all", "default"];

/// The configuration of one bridge network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BridgeConfig {
    /// The network's name, for messages.
    pub network_name: String,
    /// The bridge device.
    pub bridge: IfName,
    /// The mark on the device.
    pub tag: LinkTag,
    /// Its hardware address. Fixed, because a bridge without one takes that of its lowest port, and the
    /// gateway would change its address with every container.
    pub mac: MacAddr,
    /// The MTU of the device and of every link on it.
    pub mtu: Option<u32>,
    /// Whether containers get no gateway.
    pub internal: bool,
    /// Whether containers of the network reach each other.
    pub icc: bool,
    /// Whether containers reach the outside under the host's address.
    pub masquerade: bool,
    /// The host's address on which ports are published that name none.
    pub host_binding: Option<IpAddr>,
    /// How IPv4 reaches containers, and leaves them.
    pub v4: FamilyConfig,
    /// How IPv6 does.
    pub v6: FamilyConfig,
    /// Interfaces of the host from which containers are reached under their own addresses.
    pub trusted: Vec<IfName>,
    /// Whether the bridge gets no IPv4 address.
    pub inhibit_ipv4: bool,
    /// What the names of interfaces begin with inside sandboxes.
    pub interface_prefix: IfName,
    /// The subnet, with the address in it that is the bridge's own, if that [gets one](Self::bridge_addresses).
    pub address: Ipv4Net,
    /// The same of IPv6.
    pub address6: Option<Ipv6Net>,
    /// The gateway that containers are told.
    pub gateway: Option<IpAddr>,
    /// The IPv6 gateway that containers are told.
    pub gateway6: Option<IpAddr>,
}

impl BridgeConfig {
    /// Reads a creation request.
    pub(super) fn read(instance: &str, request: &CreateNetwork) -> Result<Self> {
        // Parity: libnetwork's "ipv4 pool is empty", for networks whose IPAM driver is `null`.
        let pool = single("IPv4", &request.v4)?.ok_or_else(|| {
            let why = "the IPv4 pool is empty, and a bridge network needs one; choose an ipam driver that gives \
                       pools, such as \"default\"";
            Error::invalid("ipam", "", why)
        })?;
        let pool6 = if request.ipv6 { single("IPv6", &request.v6)? } else { None };
        let options = &request.options;
        // A network that was made before stays, whatever was accepted then.
        let fresh = request.restored == Restored::Fresh;
        if fresh {
            offered::check_network(options)?;
        }
        let masquerade = options::switch(options, ENABLE_IP_MASQUERADE, true)?;
        let around = Around { internal: request.internal, ipv6: request.ipv6, masquerade };
        let outward = match Outward::read(options, around) {
            Ok(outward) => outward,
            Err(refused) if fresh => return Err(refused),
            Err(_) => Outward::default(),
        };
        let bare = outward.inhibit_ipv4 || outward.v4.mode == GatewayMode::Isolated;
        let Some(IpNet::V4(address)) = pool.gateway_net().or(bare.then_some(pool.pool)) else {
            return Err(no_gateway(&pool.pool));
        };
        let bare6 = outward.v6.mode == GatewayMode::Isolated;
        let address6 = match pool6.map(|pool| (pool, pool.gateway_net().or(bare6.then_some(pool.pool)))) {
            Some((_, Some(IpNet::V6(address)))) => Some(address),
            Some((pool, _)) => return Err(no_gateway(&pool.pool)),
            None => None,
        };
        let bridge = match options.get(NAME) {
            Some(name) if fresh && RESERVED_NAMES.contains(&name.as_str()) => {
                let why = "Linux keeps this name for the settings of all interfaces or of those to come; \
                           choose another";
                return Err(Error::invalid(NAME, name, why));
            }
            Some(name) => name.parse().map_err(|_| {
                let why = "an interface name has 1 to 15 printable ASCII characters without '/', ':' and '%'";
                Error::invalid(NAME, name, why)
            })?,
            None => default_bridge(request.network)?,
        };
        let interface_prefix = match options.get(CONTAINER_IFACE_PREFIX).filter(|prefix| !prefix.is_empty()) {
            Some(prefix) if fresh => interface_prefix(prefix)?,
            Some(prefix) => interface_prefix(prefix).or_else(|_| INTERFACE.parse())?,
            None => INTERFACE.parse()?,
        };
        let mtu = options::value::<u32>(options, MTU, "a number of bytes")?.filter(|mtu| *mtu != 0);
        if let Some(mtu) = mtu {
            let least = if request.ipv6 { MTU_MIN_IPV6 } else { *MTU_RANGE.start() };
            if !(least..=*MTU_RANGE.end()).contains(&mtu) {
                return Err(Error::invalid(
                    MTU,
                    mtu,
                    format!("expected {least} to {} bytes", MTU_RANGE.end()),
                ));
            }
        }
        Ok(Self {
            network_name: request.name.clone(),
            bridge,
            tag: LinkTag::new(instance, "network", request.network),
            mac: MacAddr::from_ipv4(address.addr()),
            mtu,
            internal: request.internal,
            icc: options::switch(options, ENABLE_ICC, true)?,
            masquerade,
            host_binding: outward.host_binding,
            v4: outward.v4,
            v6: outward.v6,
            trusted: outward.trusted,
            inhibit_ipv4: outward.inhibit_ipv4,
            interface_prefix,
            address,
            address6,
            gateway: auxiliary(pool, AUX_GATEWAY_V4).or(pool.gateway),
            gateway6: pool6.and_then(|pool| auxiliary(pool, AUX_GATEWAY_V6).or(pool.gateway)),
        })
    }

    /// One family of the network.
    #[must_use]
    pub fn family(&self, v4: bool) -> FamilyConfig {
        if v4 { self.v4 } else { self.v6 }
    }

    /// The bridge's own addresses: none of a family that is isolated, or of IPv4 where that is left to somebody else.
    #[must_use]
    pub fn bridge_addresses(&self) -> (Option<Ipv4Net>, Option<Ipv6Net>) {
        let bare = self.inhibit_ipv4 || self.v4.mode == GatewayMode::Isolated;
        let bare6 = self.v6.mode == GatewayMode::Isolated;
        (Some(self.address).filter(|_| !bare), self.address6.filter(|_| !bare6))
    }

    /// Whether containers are kept from the host in one family or in both.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        [self.v4, self.v6].iter().any(|family| family.mode == GatewayMode::Isolated)
    }

    /// Why this network cannot live beside another one, if it cannot.
    pub(super) fn conflict(&self, other: &Self) -> Option<String> {
        if self.bridge == other.bridge {
            return Some(format!("both name the bridge {}; set {NAME} to another name", self.bridge));
        }
        let (own, others) = (self.address.trunc(), other.address.trunc());
        if own.contains(&others) || others.contains(&own) {
            return Some(format!("{own} overlaps {others}"));
        }
        let (own, others) = (self.address6?.trunc(), other.address6?.trunc());
        (own.contains(&others) || others.contains(&own)).then(|| format!("{own} overlaps {others}"))
    }
}

/// `br-` and twelve characters of the network's identifier, as libnetwork names it. A caller's identifier
/// may be shorter.
pub(super) fn default_bridge(network: NetworkId) -> Result<IfName> {
    let name = format!("br-{}", network.short());
    name.parse().map_err(|_| {
        Error::invalid(NAME, &name, "this network id makes no interface name; name the bridge yourself")
    })
}

/// Reads what the names of interfaces begin with. The number after it tells two interfaces of a sandbox apart,
/// so it must stay a number of its own.
pub(super) fn interface_prefix(prefix: &str) -> Result<IfName> {
    let whole = prefix.len() <= MAX_PREFIX_LEN && !prefix.ends_with(|last: char| last.is_ascii_digit());
    prefix.parse().ok().filter(|_| whole).ok_or_else(|| {
        let why =
            "expected 1 to 8 printable ASCII characters without '/', ':' and '%', the last one no digit";
        Error::invalid(CONTAINER_IFACE_PREFIX, prefix, why)
    })
}

fn single<'a>(family: &str, pools: &'a [PoolRecord]) -> Result<Option<&'a PoolRecord>> {
    match pools {
        [] => Ok(None),
        [pool] => Ok(Some(pool)),
        [_, _, ..] => {
            let why = format!("a bridge network has one {family} pool");
            Err(Error::invalid("pools", pools.len(), why))
        }
    }
}

/// The error for a pool whose only address would be an endpoint's.
fn no_gateway(pool: &IpNet) -> Error {
    let why = "a bridge network needs a gateway address; choose a larger subnet";
    Error::invalid("subnet", pool, why)
}

fn auxiliary(pool: &PoolRecord, name: &str) -> Option<IpAddr> {
    pool.auxiliary.get(name).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn request(options: &[(&str, &str)]) -> CreateNetwork {
        CreateNetwork {
            network: "0123456789abcdef".parse().expect("an id"),
            name: "blue".into(),
            restored: Restored::Fresh,
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            internal: false,
            ipv6: false,
            v4: vec![PoolRecord {
                gateway: Some("10.1.0.1".parse().expect("an address")),
                ..PoolRecord::new("10.1.0.0/16".parse().expect("a pool"))
            }],
            v6: Vec::new(),
            found: BTreeMap::new(),
        }
    }

    #[test]
    fn defaults_follow_libnetwork() {
        let config = BridgeConfig::read("test", &request(&[])).expect("valid");
        assert_eq!(config.bridge.as_str(), "br-0123456789ab");
        assert_eq!(config.mac.to_string(), "02:42:0a:01:00:01");
        assert!(config.icc && config.masquerade);
        assert_eq!(config.interface_prefix.as_str(), "eth");
        assert_eq!(config.gateway, Some([10, 1, 0, 1].into()));
        assert_eq!(config.bridge_addresses(), (Some(config.address), None));
    }

    #[test]
    fn options_are_read_or_refused() {
        let good = request(&[
            (NAME, "lan0"),
            (MTU, "1400"),
            (ENABLE_ICC, "true"),
            (ENABLE_IP_MASQUERADE, "false"),
            (HOST_BINDING_IPV4, "0.0.0.0"),
            (CONTAINER_IFACE_PREFIX, "wan1-"),
        ]);
        let config = BridgeConfig::read("test", &good).expect("valid");
        assert_eq!((config.bridge.as_str(), config.mtu, config.icc), ("lan0", Some(1400), true));
        assert_eq!((config.masquerade, config.interface_prefix.as_str()), (false, "wan1-"));
        for (key, value) in [(HOST_BINDING_IPV4, "::1"), (CONTAINER_IFACE_PREFIX, ""), (NAME, "all0")] {
            BridgeConfig::read("test", &request(&[(key, value)])).expect(value);
        }
        for (key, value) in [
            (NAME, "a/b"),
            (NAME, "much-too-long-a-name"),
            (NAME, "all"),
            (NAME, "default"),
            (MTU, "-1"),
            (MTU, "67"),
            (MTU, "70000"),
            (ENABLE_ICC, "perhaps"),
            (ENABLE_IP_MASQUERADE, ""),
            (HOST_BINDING_IPV4, "lo"),
            (CONTAINER_IFACE_PREFIX, "a/b"),
            (CONTAINER_IFACE_PREFIX, "a b"),
            (CONTAINER_IFACE_PREFIX, "eth%d"),
            (CONTAINER_IFACE_PREFIX, "eth1"),
            (CONTAINER_IFACE_PREFIX, ".."),
            (CONTAINER_IFACE_PREFIX, "ninechars"),
        ] {
            let error = BridgeConfig::read("test", &request(&[(key, value)])).expect_err(value);
            assert!(error.to_string().contains(key), "{error} must name {key}");
        }
    }

    #[test]
    fn a_bridge_gets_no_address_of_a_family_that_is_isolated_or_somebody_elses() {
        let pool6 = PoolRecord {
            gateway: Some("2001:db8::1".parse().expect("an address")),
            ..PoolRecord::new("2001:db8::/64".parse().expect("a pool"))
        };
        let internal = |options: &[(&str, &str)]| CreateNetwork {
            internal: true,
            ipv6: true,
            v6: vec![pool6.clone()],
            ..request(options)
        };
        for (options, has) in [
            (&[][..], [true, true]),
            (&[(GATEWAY_MODE_IPV4, "isolated")], [false, true]),
            (&[(GATEWAY_MODE_IPV6, "isolated")], [true, false]),
            (&[(GATEWAY_MODE_IPV4, "isolated"), (GATEWAY_MODE_IPV6, "isolated")], [false, false]),
            (&[(INHIBIT_IPV4, "true")], [false, true]),
        ] {
            let config = BridgeConfig::read("test", &internal(options)).expect("valid");
            let (v4, v6) = config.bridge_addresses();
            assert_eq!([v4.is_some(), v6.is_some()], has, "{options:?}");
            assert_eq!(config.is_isolated(), options.iter().any(|(_, value)| *value == "isolated"));
            assert_eq!(config.gateway, Some([10, 1, 0, 1].into()), "as the pool has it");
            // An ipam driver that gives no gateway has none to give.
            let mut without = internal(options);
            for pool in without.v4.iter_mut().chain(&mut without.v6) {
                pool.gateway = None;
            }
            let read = BridgeConfig::read("test", &without);
            assert_eq!(read.is_ok(), has == [false, false], "{options:?}");
        }
    }

    #[test]
    fn what_was_accepted_before_is_accepted_again() {
        for (key, value) in [
            ("com.docker.network.bridge.nmae", "lan0"),
            ("com.docker.network.driver.mtuu", "1500"),
            (GATEWAY_MODE_IPV4, "isolated"),
            (CONTAINER_IFACE_PREFIX, "a/b"),
        ] {
            let fresh = request(&[(key, value)]);
            BridgeConfig::read("test", &fresh).expect_err(key);
            let restored = CreateNetwork { restored: Restored::FromStore, ..fresh };
            let config = BridgeConfig::read("test", &restored).expect(key);
            assert_eq!(config.interface_prefix.as_str(), INTERFACE);
        }
    }

    #[test]
    fn an_auxiliary_address_replaces_the_gateway() {
        let mut request = request(&[]);
        let router = "10.1.0.254".parse().expect("an address");
        request.v4[0].auxiliary.insert(AUX_GATEWAY_V4.into(), router);
        let config = BridgeConfig::read("test", &request).expect("valid");
        assert_eq!(config.gateway, Some(router));
        assert_eq!(config.address.addr().to_string(), "10.1.0.1");
    }

    #[test]
    fn a_bridge_has_exactly_one_ipv4_pool() {
        let mut none = request(&[]);
        none.v4.clear();
        assert!(BridgeConfig::read("test", &none).is_err());
        let mut two = request(&[]);
        two.v4.push(two.v4[0].clone());
        assert!(BridgeConfig::read("test", &two).is_err());
    }

    #[test]
    fn conflicts_are_found() {
        let config = BridgeConfig::read("test", &request(&[])).expect("valid");
        let mut other = config.clone();
        let why = config.conflict(&other).expect("the same device");
        assert!(why.contains("both name") && why.contains(NAME), "{why}");
        other.bridge = "other".parse().expect("a name");
        assert!(config.conflict(&other).expect("the same subnet").contains("overlaps"));
        other.address = "10.2.0.1/16".parse().expect("a net");
        assert_eq!(config.conflict(&other), None);
    }
}
