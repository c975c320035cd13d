//! Addresses that no container can have, whichever subnet they are in.

use std::net::IpAddr;

use ipnet::IpNet;

/// Blocks that are set aside for something else, and what for.
///
/// IPv4 link-local is not among them: people use it, and nothing on a bridge gives such addresses by itself.
/// IPv6 link-local is: the kernel gives every link one.
const RESERVED: [(&str, &str); 9] = [
    ("0.0.0.0/8", "this host (0.0.0.0/8)"),
    ("127.0.0.0/8", "loopback (127.0.0.0/8)"),
    ("224.0.0.0/4", "multicast (224.0.0.0/4)"),
    ("255.255.255.255/32", "the limited broadcast (255.255.255.255)"),
    ("::/128", "the unspecified address (::)"),
    ("::1/128", "loopback (::1)"),
    ("::ffff:0:0/96", "IPv4 addresses written as IPv6 (::ffff:0:0/96)"),
    ("fe80::/10", "link-local (fe80::/10)"),
    ("ff00::/8", "multicast (ff00::/8)"),
];

/// Why a container cannot have every address of this span, if it cannot. One address is a span too.
pub fn within(span: IpNet) -> Option<String> {
    let overlaps = |block: &IpNet| block.contains(&span) || span.contains(block);
    RESERVED.iter().find_map(|(block, what)| {
        // The table is parsed by its test.
        let block: IpNet = block.parse().ok()?;
        overlaps(&block).then(|| format!("it overlaps {what}, which containers cannot use; {}", ours(span)))
    })
}

/// What to take in place of it.
fn ours(span: IpNet) -> &'static str {
    match span.addr() {
        IpAddr::V4(_) => "private ranges are 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16",
        IpAddr::V6(_) => "the private range is fd00::/8",
    }
}

#[cfg(test)]
mod tests {
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a subnet")
    }

    #[test]
    fn what_people_use_is_accepted() {
        for span in [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "198.18.0.0/15",
            "169.254.0.0/16",
            "8.8.8.0/24",
            "1.0.0.0/8",
            "223.255.255.0/24",
            "126.0.0.0/8",
            "128.0.0.0/2",
            "192.0.2.0/24",
            "240.0.0.0/8",
            "10.0.0.0/31",
            "10.0.0.1/32",
            "64.0.0.0/3",
            "fd00::/8",
            "fc00::/7",
            "2001:db8::/32",
            "2000::/3",
            "fd00::/127",
            "fec0::/10",
            "64:ff9b::/96",
            "::2/127",
        ] {
            assert_eq!(within(net(span)), None, "{span}");
        }
    }

    #[test]
    fn spans_that_touch_a_reserved_block_are_refused() {
        for span in [
            "255.255.255.255/32",
            "255.255.255.0/24",
            "240.0.0.0/4",
            "192.0.0.0/2",
            "128.0.0.0/1",
            "0.0.0.0/1",
            "0.1.0.0/16",
            "126.0.0.0/7",
            "127.0.0.1/32",
            "224.0.0.5/32",
            "224.0.0.0/24",
            "239.255.255.250/32",
            "::/1",
            "::/96",
            "::1/128",
            "::/128",
            "fe80::/64",
            "fe00::/7",
            "fe80::1/128",
            "::ffff:0:0/96",
            "::ffff:10.0.0.0/104",
            "ff02::1/128",
            "ff00::/8",
            "8000::/1",
        ] {
            assert!(within(net(span)).is_some(), "{span}");
        }
    }

    #[test]
    fn every_block_of_the_table_is_one() {
        for (block, what) in RESERVED {
            let why = within(net(block)).expect("reserved");
            assert!(why.contains(what), "{why}");
        }
    }

    fn spans() -> impl Strategy<Value = IpNet> {
        let v4 =
            (any::<u32>(), 1u8..=32).prop_map(|(a, len)| Ipv4Net::new(a.into(), len).expect("short").trunc());
        let v6 = (any::<u128>(), 1u8..=128)
            .prop_map(|(a, len)| Ipv6Net::new(a.into(), len).expect("short").trunc());
        prop_oneof![v4.prop_map(IpNet::V4), v6.prop_map(IpNet::V6)]
    }

    proptest! {
        /// A span is accepted only with its first, its last and any of its addresses.
        #[test]
        fn an_accepted_span_has_no_reserved_address(span in spans(), at in any::<u128>()) {
            let inside = match span {
                IpNet::V4(net) => {
                    let host = u32::try_from(at & u128::from(u32::from(net.hostmask()))).expect("masked");
                    IpAddr::from((u32::from(net.network()) | host).to_be_bytes())
                }
                IpNet::V6(net) => {
                    IpAddr::from((u128::from(net.network()) | at & u128::from(net.hostmask())).to_be_bytes())
                }
            };
            if within(span).is_none() {
                for address in [span.network(), span.broadcast(), inside] {
                    prop_assert_eq!(within(IpNet::from(address)), None);
                    prop_assert!(!address.is_multicast() && !address.is_loopback() && !address.is_unspecified());
                }
            }
        }
    }
}
