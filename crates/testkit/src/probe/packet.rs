//! Echo messages as bytes.

use std::net::IpAddr;

/// The bytes before an echo message's payload.
const HEADER: usize = 8;
/// The smallest IPv4 header.
const IPV4_HEADER: usize = 20;
/// The ICMP protocol number of IPv4.
const PROTOCOL_ICMP: u8 = 1;

/// Which echo message: both sides must agree on all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Echo<'a> {
    pub(super) id: u16,
    pub(super) sequence: u16,
    pub(super) payload: &'a [u8],
}

/// An echo request for an address's family.
///
/// The checksum of an IPv6 one is left to the kernel, which knows the source address that belongs to it.
pub(super) fn request(target: IpAddr, echo: Echo<'_>) -> Vec<u8> {
    let kind = if target.is_ipv4() { 8 } else { 128 };
    let mut message = Vec::with_capacity(HEADER + echo.payload.len());
    message.extend_from_slice(&[kind, 0, 0, 0]);
    message.extend_from_slice(&echo.id.to_be_bytes());
    message.extend_from_slice(&echo.sequence.to_be_bytes());
    message.extend_from_slice(echo.payload);
    if target.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// Reads an echo reply from what a raw socket delivers; `None` for everything else, and for damaged ones.
///
/// A raw IPv4 socket delivers the IP header too, a raw IPv6 socket only the message, its checksum verified.
pub(super) fn reply(source: IpAddr, packet: &[u8]) -> Option<Echo<'_>> {
    let (message, kind) = match source {
        IpAddr::V4(source) => {
            let first = *packet.first()?;
            let header = usize::from(first & 15) * 4;
            if first >> 4 != 4
                || header < IPV4_HEADER
                || *packet.get(9)? != PROTOCOL_ICMP
                || packet.get(12..16)? != source.octets()
            {
                return None;
            }
            let message = packet.get(header..)?;
            if checksum(message) != 0 {
                return None;
            }
            (message, 0)
        }
        IpAddr::V6(_) => (packet, 129),
    };
    let (header, payload) = message.split_at_checked(HEADER)?;
    let [found, code, _, _, id @ .., s1, s2] = header else { return None };
    let id = u16::from_be_bytes(id.try_into().ok()?);
    ((*found, *code) == (kind, 0)).then(|| Echo { id, sequence: u16::from_be_bytes([*s1, *s2]), payload })
}

/// The internet checksum (RFC 1071). Zero over a message that contains a right one.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    let (pairs, last) = bytes.as_chunks::<2>();
    for pair in pairs {
        sum += u32::from(u16::from_be_bytes(*pair));
    }
    if let [odd] = last {
        sum += u32::from(*odd) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded to 16 bits above.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const HOME6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    const ECHO: Echo<'_> = Echo { id: 0x1234, sequence: 7, payload: b"netloom" };

    /// What the target would send back for a request, as a raw socket delivers it.
    fn answer(target: IpAddr, request: &[u8]) -> Vec<u8> {
        let mut message = request.to_vec();
        message[2..4].fill(0);
        if target.is_ipv6() {
            message[0] = 129;
            return message;
        }
        message[0] = 0;
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut packet = vec![0; IPV4_HEADER];
        packet[0] = 0x45;
        packet[9] = PROTOCOL_ICMP;
        packet[12..16].copy_from_slice(&[127, 0, 0, 1]);
        packet.extend(message);
        packet
    }

    #[test]
    fn the_checksum_is_the_one_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }

    #[test]
    fn a_request_has_the_layout_of_rfc_792() {
        let message = request(HOME, ECHO);
        assert_eq!(message[..2], [8, 0]);
        assert_eq!(message[4..8], [0x12, 0x34, 0, 7]);
        assert_eq!(&message[8..], b"netloom");
        assert_eq!(checksum(&message), 0);
        assert_eq!(request(HOME6, ECHO)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn a_reply_is_read_back() {
        assert_eq!(reply(HOME, &answer(HOME, &request(HOME, ECHO))), Some(ECHO));
        assert_eq!(reply(HOME6, &answer(HOME6, &request(HOME6, ECHO))), Some(ECHO));
    }

    #[test]
    fn everything_else_is_passed_over() {
        let good = answer(HOME, &request(HOME, ECHO));
        for length in 0..IPV4_HEADER + HEADER {
            assert_eq!(reply(HOME, &good[..length]), None, "cut to {length} bytes");
        }
        for (place, value) in
            [(0, 0x65), (0, 0x44), (9, 17), (12, 10), (IPV4_HEADER, 8), (IPV4_HEADER + 9, 0)]
        {
            let mut bad = good.clone();
            bad[place] = value;
            assert_eq!(reply(HOME, &bad), None, "byte {place} set to {value}");
        }
        assert_eq!(reply(HOME6, &request(HOME6, ECHO)), None, "a request is not a reply");
        assert_eq!(reply(HOME6, &[129, 0, 0]), None);
    }

    #[test]
    fn options_of_the_ip_header_are_skipped() {
        let mut packet = answer(HOME, &request(HOME, ECHO));
        packet[0] = 0x46;
        packet.splice(IPV4_HEADER..IPV4_HEADER, [1, 1, 1, 0]);
        assert_eq!(reply(HOME, &packet), Some(ECHO));
    }
}
