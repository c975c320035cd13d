//! What tests of names share.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::net::IpAddr;

use netloom_dns::records::EndpointNames;
use netloom_model::EndpointId;
use uuid::Uuid;

/// Numbers that look random and are the same for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Any number of the items, in their order.
    pub(crate) fn some<T: Clone>(&mut self, items: &[T]) -> Vec<T> {
        let chosen = self.next();
        let items = items.iter().enumerate();
        items.filter(|(at, _)| chosen >> at & 1 == 1).map(|(_, item)| item.clone()).collect()
    }
}

pub(crate) fn endpoint(number: u64) -> EndpointId {
    EndpointId::from_uuids(Uuid::from_u64_pair(1, number), Uuid::nil())
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn named(names: &[&str], addresses: &[&str]) -> EndpointNames {
    EndpointNames {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        services: Vec::new(),
    }
}

/// A question in bytes, written by hand: what is tested does not write its own questions.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) name: String,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    /// The size and the version that an OPT record tells.
    pub(crate) edns: Option<(u16, u8)>,
}

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const MX: u16 = 15;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const ANY: u16 = 255;

impl Question {
    pub(crate) fn new(name: &str, rtype: u16) -> Self {
        Self { id: 0x1234, flags: 0x0100, name: name.to_owned(), rtype, class: 1, edns: None }
    }

    pub(crate) fn edns(mut self, size: u16) -> Self {
        self.edns = Some((size, 0));
        self
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let counts = [1, 0, 0, u16::from(self.edns.is_some())];
        let mut bytes: Vec<u8> = [self.id, self.flags].iter().flat_map(|n| n.to_be_bytes()).collect();
        bytes.extend(counts.iter().flat_map(|n: &u16| n.to_be_bytes()));
        bytes.extend(self.section());
        if let Some((size, version)) = self.edns {
            bytes.extend([0, 0, 41]);
            bytes.extend(size.to_be_bytes());
            bytes.extend([0, version, 0, 0, 0, 0]);
        }
        bytes
    }

    /// The question section.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).expect("a label"));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(self.rtype.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        bytes
    }
}

/// What an answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    pub(crate) id: u16,
    pub(crate) rcode: u16,
    pub(crate) cut: bool,
    pub(crate) answers: Vec<String>,
    pub(crate) extra: Vec<String>,
    /// The size that an OPT record tells.
    pub(crate) edns: Option<u16>,
    pub(crate) question: Option<String>,
}

/// Reads an answer; records are `type data ttl`.
pub(crate) fn read(bytes: &[u8]) -> Reply {
    use domain::base::{Message, ParsedRecord, Rtype};
    use domain::rdata::AllRecordData;
    let message = Message::from_slice(bytes).expect("a message");
    assert!(message.header().qr(), "no answer");
    let shown = |record: &ParsedRecord<'_, [u8]>| {
        let record = record.to_any_record::<AllRecordData<_, _>>().expect("a record");
        format!("{} {} {}", record.rtype(), record.data(), record.ttl().as_secs())
    };
    let section = |section: Result<domain::base::RecordSection<'_, [u8]>, _>| {
        let records = section.map_err(|error: domain::base::wire::ParseError| error).expect("a section");
        records
            .map(|record| record.expect("a record"))
            .filter(|record| record.rtype() != Rtype::OPT)
            .map(|record| shown(&record))
            .collect::<Vec<_>>()
    };
    Reply {
        id: message.header().id(),
        rcode: message.opt_rcode().to_int(),
        cut: message.header().tc(),
        answers: section(message.answer()),
        extra: section(message.additional()),
        edns: message.opt().map(|opt| opt.udp_payload_size()),
        question: message.sole_question().ok().map(|question| question.qname().to_string()),
    }
}
