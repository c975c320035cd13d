//! What the kernel sends: packets, acknowledgements and attributes, read without trusting a byte.

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// The text of an extended acknowledgement (`linux/netlink.h`; not in libc).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;

/// One message of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// The socket whose request it answers or tells of; 0 for the kernel itself.
    pub(super) port: u32,
    pub(super) body: &'a [u8],
}

/// The kernel's verdict on a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// The error number; zero for success.
    pub(super) errno: i32,
    /// The text of the extended acknowledgement.
    pub(super) text: Option<String>,
}

/// A length that does not fit what was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// Walks the messages of a datagram. After a malformed one there is nothing more.
pub(super) struct Packets<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let length = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| (HEADER..=bytes.len()).contains(length)) else {
            return Some(Err(Malformed));
        };
        self.0 = bytes.get(aligned(length)..).unwrap_or_default();
        let packet = Packet {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            body: &bytes[HEADER..length],
        };
        Some(Ok(packet))
    }
}

impl Packet<'_> {
    /// Whether the table changed while it was being listed.
    pub(super) fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// What an acknowledgement, an error or the end of a dump says; `None` for every other message.
    pub(super) fn verdict(&self) -> Option<Result<Verdict, Malformed>> {
        let attributes_at = match self.kind {
            // Code, then the request: its header only if capped.
            NLMSG_ERROR if self.flags & NLM_F_CAPPED != 0 => 4 + HEADER,
            NLMSG_ERROR => 4 + aligned(u32_at(self.body, 4).map_or(0, |length| length as usize)),
            NLMSG_DONE if self.body.is_empty() => return Some(Ok(Verdict { errno: 0, text: None })),
            NLMSG_DONE => 4,
            _ => return None,
        };
        let Some(code) = u32_at(self.body, 0) else { return Some(Err(Malformed)) };
        let mut text = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let rest = self.body.get(attributes_at..).unwrap_or_default();
            text = attribute(rest, NLMSGERR_ATTR_MSG).map(string);
        }
        Some(Ok(Verdict { errno: code.cast_signed().saturating_neg(), text }))
    }
}

/// The attributes in `bytes` with their types; ends at the first malformed one.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A string attribute, with or without its closing zero.
pub(super) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A refusal as the kernel sent it for `RTM_DELLINK` of a missing name, capped, with a text.
    fn refusal() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(56u32.to_ne_bytes());
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend((NLM_F_CAPPED | NLM_F_ACK_TLVS).to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend((-libc::ENODEV).to_ne_bytes());
        bytes.extend([32, 0, 0, 0, 17, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(19u16.to_ne_bytes());
        bytes.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        bytes.extend(b"no such device\0\0");
        bytes
    }

    fn acknowledgement() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(36u32.to_ne_bytes());
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend(NLM_F_CAPPED.to_ne_bytes());
        bytes.extend(8u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([0; 20]);
        bytes
    }

    #[test]
    fn two_answers_of_one_datagram_are_told_apart() {
        let datagram = [refusal(), acknowledgement()].concat();
        let packets: Vec<_> = Packets(&datagram).map(|packet| packet.expect("well formed")).collect();
        let verdicts: Vec<_> = packets
            .iter()
            .map(|packet| (packet.sequence, packet.verdict().expect("a verdict").expect("well formed")))
            .collect();
        let refused = Verdict { errno: libc::ENODEV, text: Some("no such device".into()) };
        assert_eq!(verdicts, [(7, refused), (8, Verdict { errno: 0, text: None })]);
    }

    #[test]
    fn an_uncapped_refusal_has_its_text_behind_the_request() {
        let mut bytes = refusal();
        bytes.splice(36..36, [1; 16]);
        bytes[..4].copy_from_slice(&72u32.to_ne_bytes());
        bytes[6..8].copy_from_slice(&NLM_F_ACK_TLVS.to_ne_bytes());
        let packet = Packets(&bytes).next().expect("one").expect("well formed");
        let verdict = packet.verdict().expect("a verdict").expect("well formed");
        assert_eq!(verdict.text.as_deref(), Some("no such device"));
    }

    #[test]
    fn every_truncation_is_malformed_or_silent_and_never_a_wrong_answer() {
        let whole = refusal();
        for length in 0..whole.len() {
            let mut packets = Packets(&whole[..length]);
            match packets.next() {
                None => assert_eq!(length, 0),
                Some(read) => assert_eq!(read, Err(Malformed), "{length} bytes"),
            }
            assert_eq!(packets.next(), None);
        }
    }

    #[test]
    fn the_end_of_a_dump_carries_its_error() {
        let done = |body: &'static [u8]| Packet { kind: NLMSG_DONE, flags: 0, sequence: 1, port: 0, body };
        assert_eq!(done(&[]).verdict(), Some(Ok(Verdict { errno: 0, text: None })));
        assert_eq!(done(&[0; 4]).verdict(), Some(Ok(Verdict { errno: 0, text: None })));
        assert_eq!(done(&[0; 3]).verdict(), Some(Err(Malformed)));
        let link = Packet { kind: libc::RTM_NEWLINK, flags: 0, sequence: 1, port: 0, body: &[] };
        assert_eq!(link.verdict(), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut seen = 0;
            for packet in Packets(&bytes).flatten() {
                let _ = packet.verdict();
                seen += attributes(packet.body).count();
            }
            seen += attributes(&bytes).filter(|(_, value)| string(value).len() <= 3 * value.len()).count();
            prop_assert!(seen <= 2 * bytes.len());
        }

        #[test]
        fn a_damaged_refusal_never_panics(at in 0usize..56, value: u8) {
            let mut bytes = refusal();
            bytes[at] = value;
            for packet in Packets(&bytes).flatten() {
                let _ = packet.verdict();
            }
        }
    }
}
