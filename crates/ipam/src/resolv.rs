//! Reading resolv.conf: which name servers it names.

use std::net::IpAddr;

/// The name servers that a resolv.conf names, in its order.
///
/// Parity: libnetwork `resolvconf.GetNameservers`. A line is `nameserver` and one address, with blanks around;
/// what follows `#` or `;` is a comment; what is no such line says nothing. The zone of a link-local address is
/// cut off (`GetNameserversAsCIDR`).
pub(crate) fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split(['#', ';']).next()?.split_whitespace();
        let (Some("nameserver"), Some(address), None) = (words.next(), words.next(), words.next()) else {
            return None;
        };
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_name_a_server_count_and_no_others() {
        let text = "# Made by hand\n\
                    search example.net lan\n\
                    nameserver 192.0.2.1\n\
                    \t nameserver\t2001:db8::53  # the second one\r\n\
                    nameserver fe80::1%eth0;here\n\
                    nameserver 127.0.0.53\n\
                    nameserver 192.0.2.1\n\
                    #nameserver 192.0.2.2\n\
                    ;nameserver 192.0.2.3\n\
                    nameserver\n\
                    nameserver 192.0.2.300\n\
                    nameserver 192.0.2.4/24\n\
                    nameserver 192.0.2.5 192.0.2.6\n\
                    nameservers 192.0.2.7\n\
                    Nameserver 192.0.2.8\n\
                    options nameserver 192.0.2.9\n\
                    nameserver dns.example.net\n\
                    nameserver 192.0.2.10";
        let found: Vec<_> = name_servers(text).map(|address| address.to_string()).collect();
        let expected = ["192.0.2.1", "2001:db8::53", "fe80::1", "127.0.0.53", "192.0.2.1", "192.0.2.10"];
        assert_eq!(found, expected);
        assert_eq!(name_servers("").count() + name_servers("\0\u{feff}nameserver 1.2.3.4").count(), 0);
    }
}
