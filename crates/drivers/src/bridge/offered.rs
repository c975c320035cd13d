//! Options that a new object cannot have: those that nobody knows. Taken without a word, one would have no effect, and
//! who set it would not be told.

use std::collections::BTreeMap;

use netloom_model::{Error, Result};

use super::config::{
    CONTAINER_IFACE_PREFIX, ENABLE_ICC, ENABLE_IP_MASQUERADE, GATEWAY_MODE_IPV4, GATEWAY_MODE_IPV6,
    HOST_BINDING_IPV4, HOST_IPV4, HOST_IPV6, INHIBIT_IPV4, MTU, NAME, TRUSTED_HOST_INTERFACES,
};
use crate::options::OURS;

/// The options of a network.
const OF_NETWORKS: [&str; 12] = [
    NAME,
    ENABLE_ICC,
    ENABLE_IP_MASQUERADE,
    GATEWAY_MODE_IPV4,
    GATEWAY_MODE_IPV6,
    TRUSTED_HOST_INTERFACES,
    HOST_BINDING_IPV4,
    HOST_IPV4,
    HOST_IPV6,
    INHIBIT_IPV4,
    MTU,
    CONTAINER_IFACE_PREFIX,
];
/// Labels of libnetwork's that are fields here, and which.
const FIELDS: [(&str, &str); 3] = [
    ("com.docker.network.enable_ipv6", "ipv6"),
    ("com.docker.network.internal", "internal"),
    ("com.docker.network.endpoint.macaddress", "mac"),
];

/// An option of libnetwork's that nothing here would be made of.
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";

/// Refuses options of a network that look like libnetwork's and are not: a misspelt one, say.
pub(super) fn check_network(options: &BTreeMap<String, String>) -> Result<()> {
    check_known(options, &OF_NETWORKS, || format!("it knows {}", OF_NETWORKS.join(", ")))
}

/// The same for those of an endpoint, which has none yet: everything about it is a field.
pub(super) fn check_endpoint(options: &BTreeMap<String, String>) -> Result<()> {
    check_known(options, &[], || "it knows none of endpoints".into())
}

fn check_known(options: &BTreeMap<String, String>, known: &[&str], which: impl Fn() -> String) -> Result<()> {
    let unknown = options.iter().find(|(key, _)| key.starts_with(OURS) && !known.contains(&key.as_str()));
    let Some((key, value)) = unknown else { return Ok(()) };
    let field = FIELDS.iter().find(|(label, _)| label == key).map(|(_, field)| field);
    let why = match field {
        None if key == DEFAULT_BRIDGE => format!(
            "no bridge network is treated otherwise than the others; leave this out, and name the bridge with {NAME} \
             if it is to be a certain one"
        ),
        Some(field) => {
            format!("the bridge driver takes it from the field {field:?}; set that and leave this out")
        }
        None => format!("the bridge driver knows no such option; {}", which()),
    };
    Err(Error::invalid(key, value, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_looks_like_an_option_of_libnetwork_and_is_none_is_refused_with_a_way_out() {
        for (key, hint) in [
            ("com.docker.network.driver.mtuu", MTU),
            ("com.docker.network.bridge.nmae", NAME),
            ("com.docker.network.", CONTAINER_IFACE_PREFIX),
            ("com.docker.network.driver.overlay.vxlanid_list", ENABLE_ICC),
            ("com.docker.network.enable_ipv6", "the field \"ipv6\""),
            ("com.docker.network.internal", "the field \"internal\""),
            (DEFAULT_BRIDGE, "no bridge network is treated otherwise"),
        ] {
            let error = check_network(&options(&[("a", "b"), (key, "x")])).expect_err(key).to_string();
            assert!(error.contains(key) && error.contains(hint), "{error}");
        }
        for (key, hint) in [
            (MTU, "knows none of endpoints"),
            ("com.docker.network.endpoint.sysctls", "knows none of endpoints"),
            ("com.docker.network.endpoint.macaddress", "the field \"mac\""),
        ] {
            let error = check_endpoint(&options(&[(key, "x")])).expect_err(key).to_string();
            assert!(error.contains(key) && error.contains(hint), "{error}");
        }
    }

    #[test]
    fn what_is_somebody_elses_passes() {
        let others =
            options(&[("foo", "bar"), ("com.docker.networks.x", "y"), ("com.example.color", "blue")]);
        check_network(&others).expect("not ours");
        check_endpoint(&others).expect("not ours");
        for known in OF_NETWORKS {
            check_network(&options(&[(known, "")])).expect(known);
        }
    }
}
