//! What a bridge network looks like, read from its creation request. Pure: no kernel, no other networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_kernel::LinkTag;
use netloom_model::record::PoolRecord;
use netloom_model::{Error, IfName, MacAddr, NetworkId, Result};

use crate::options;
use crate::request::{CreateNetwork, Restored};

/// Names the bridge device.
pub const NAME: &str = "com.docker.network.bridge.name";
/// Whether containers of the network reach each other.
pub const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";
/// Whether containers reach the outside under the host's address.
pub const ENABLE_IP_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// The host address on which ports are published.
pub const HOST_BINDING_IPV4: &str = "com.docker.network.bridge.host_binding_ipv4";
/// The MTU of the network in bytes.
pub const MTU: &str = "com.docker.network.driver.mtu";

/// What the names of the bridge driver's own options begin with, and those it knows.
const OWN: &str = "com.docker.network.bridge.";
const KNOWN: [&str; 4] = [NAME, ENABLE_ICC, ENABLE_IP_MASQUERADE, HOST_BINDING_IPV4];

/// Auxiliary addresses of these names replace the gateway that containers are told.
const AUX_GATEWAY_V4: &str = "DefaultGatewayIPv4";
const AUX_GATEWAY_V6: &str = "DefaultGatewayIPv6";

/// The smallest MTU that IPv4 (RFC 791) and IPv6 (RFC 8200) allow, and the largest a veth takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;
const MTU_MIN_IPV6: u32 = 1280;

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
    /// The host address on which ports are published.
    pub host_binding: Option<Ipv4Addr>,
    /// The bridge's own address.
    pub address: Ipv4Net,
    /// The bridge's own IPv6 address.
    pub address6: Option<Ipv6Net>,
    /// The gateway that containers are told.
    pub gateway: IpAddr,
    /// The IPv6 gateway that containers are told.
    pub gateway6: Option<IpAddr>,
}

impl BridgeConfig {
    /// Reads a creation request.
    pub(super) fn read(instance: &str, request: &CreateNetwork) -> Result<Self> {
        let pool = single("IPv4", &request.v4)?
            .ok_or_else(|| Error::invalid("subnet", "", "a bridge network needs an IPv4 pool"))?;
        let pool6 = if request.ipv6 { single("IPv6", &request.v6)? } else { None };
        let Some(IpNet::V4(address)) = pool.gateway_net() else {
            return Err(Error::invalid("gateway", pool.pool, "a bridge network needs a gateway address"));
        };
        let address6 = match pool6.map(PoolRecord::gateway_net) {
            Some(Some(IpNet::V6(address))) => Some(address),
            Some(_) => return Err(Error::invalid("gateway", "", "an IPv6 pool needs a gateway address")),
            None => None,
        };
        let options = &request.options;
        // A network that was made before stays, whatever was accepted then.
        if request.restored == Restored::Fresh {
            check_known(options)?;
        }
        let bridge = match options.get(NAME) {
            Some(name) => name.parse().map_err(|_| {
                Error::invalid(NAME, name, "an interface name has 1 to 15 characters without '/' and ':'")
            })?,
            None => default_bridge(request.network)?,
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
            masquerade: options::switch(options, ENABLE_IP_MASQUERADE, true)?,
            host_binding: options::value(options, HOST_BINDING_IPV4, "an IPv4 address")?,
            address,
            address6,
            gateway: auxiliary(pool, AUX_GATEWAY_V4).unwrap_or(IpAddr::V4(address.addr())),
            gateway6: address6.map(|address| {
                pool6.and_then(|pool| auxiliary(pool, AUX_GATEWAY_V6)).unwrap_or(IpAddr::V6(address.addr()))
            }),
        })
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

/// Refuses options that look like the bridge driver's and are not: a misspelt one would have no effect.
fn check_known(options: &BTreeMap<String, String>) -> Result<()> {
    let unknown = options.iter().find(|(key, _)| key.starts_with(OWN) && !KNOWN.contains(&key.as_str()));
    match unknown {
        Some((key, value)) => {
            let why = format!("the bridge driver knows no such option; it knows {}", KNOWN.join(", "));
            Err(Error::invalid(key, value, why))
        }
        None => Ok(()),
    }
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

fn auxiliary(pool: &PoolRecord, name: &str) -> Option<IpAddr> {
    pool.auxiliary.get(name).copied()
}

#[cfg(test)]
mod tests {
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
                pool: "10.1.0.0/16".parse().expect("a pool"),
                range: None,
                gateway: Some("10.1.0.1".parse().expect("an address")),
                auxiliary: BTreeMap::new(),
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
        assert_eq!(config.gateway.to_string(), "10.1.0.1");
    }

    #[test]
    fn options_are_read_or_refused() {
        let good = request(&[
            (NAME, "lan0"),
            (MTU, "1400"),
            (ENABLE_ICC, "false"),
            (HOST_BINDING_IPV4, "127.0.0.1"),
        ]);
        let config = BridgeConfig::read("test", &good).expect("valid");
        assert_eq!((config.bridge.as_str(), config.mtu, config.icc), ("lan0", Some(1400), false));
        for (key, value) in [
            (NAME, "a/b"),
            (NAME, "much-too-long-a-name"),
            (MTU, "-1"),
            (MTU, "67"),
            (MTU, "70000"),
            (ENABLE_ICC, "perhaps"),
            (HOST_BINDING_IPV4, "::1"),
        ] {
            let error = BridgeConfig::read("test", &request(&[(key, value)])).expect_err(value);
            assert!(error.to_string().contains(key), "{error} must name {key}");
        }
    }

    #[test]
    fn an_option_of_ours_that_we_do_not_know_is_refused_unless_it_was_accepted_before() {
        let misspelt = [("com.docker.network.bridge.nmae", "lan0")];
        let error = BridgeConfig::read("test", &request(&misspelt)).expect_err("misspelt").to_string();
        assert!(error.contains("bridge.nmae") && KNOWN.iter().all(|known| error.contains(known)), "{error}");
        let mut restored = request(&misspelt);
        restored.restored = Restored::FromStore;
        BridgeConfig::read("test", &restored).expect("accepted before");
        BridgeConfig::read("test", &request(&[("com.example.color", "blue")])).expect("somebody else's");
    }

    #[test]
    fn an_auxiliary_address_replaces_the_gateway() {
        let mut request = request(&[]);
        let router = "10.1.0.254".parse().expect("an address");
        request.v4[0].auxiliary.insert(AUX_GATEWAY_V4.into(), router);
        let config = BridgeConfig::read("test", &request).expect("valid");
        assert_eq!(config.gateway, router);
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
