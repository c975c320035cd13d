//! What is done with bytes that may be anything, and what must be true afterwards. `scripts/fuzz` looks for bytes with
//! which it is not; the test `corpus` does the same with those that were kept.
#![allow(dead_code, unreachable_pub, reason = "each program uses its part")]

use std::sync::OnceLock;
use std::time::Instant;

use domain::base::iana::Rcode;
use domain::base::name::ToName;
use domain::base::{Message, Name, Rtype};
use netloom_dns::answer::{Asked, Outcome, TTL, Verdict, answer as answer_question, failure, truncated};
use netloom_dns::forward::{Judged, judge};
use netloom_dns::query::{LARGEST_TCP, Query, SMALLEST_UDP, Transport};
use netloom_dns::records::{Attachment, EndpointNames, ServicePort, View, ZoneReader, ZoneWriter};
use netloom_model::EndpointId;
use uuid::Uuid;

/// Records of every kind, in two networks.
fn zones() -> &'static [ZoneReader; 2] {
    static ZONES: OnceLock<[ZoneReader; 2]> = OnceLock::new();
    ZONES.get_or_init(|| {
        let now = Instant::now();
        let mut writers = ["net", "a.b"].map(ZoneWriter::new);
        for (at, writer) in writers.iter_mut().enumerate() {
            writer.set_subnets(vec![format!("10.0.{at}.0/24").parse().expect("a range")]);
            for number in 1..=200_u8 {
                let service = ServicePort {
                    service: "w".into(),
                    port_name: "p".into(),
                    protocol: "tcp".into(),
                    port: 80,
                };
                let said = EndpointNames {
                    names: vec![format!("c{number}"), "w".to_owned(), "x.y".to_owned()],
                    addresses: vec![
                        format!("10.0.{at}.{number}").parse().expect("an address"),
                        format!("fd00:{at}::{number:x}").parse().expect("an address"),
                    ],
                    services: vec![service],
                };
                let endpoint =
                    EndpointId::from_uuids(Uuid::from_u64_pair(at as u64, u64::from(number)), Uuid::nil());
                writer.publish(endpoint, &said, now);
            }
        }
        writers.map(|writer| writer.reader())
    })
}

/// Any bytes get an answer that fits them and their client, or none.
pub fn answer(bytes: &[u8]) {
    let zones = zones();
    let mut view = View::new(vec![
        Attachment::new(zones[0].clone(), [("q", "c1")]),
        Attachment::new(zones[1].clone(), [("r", "nobody")]),
    ]);
    view.keeps_single_labels = bytes.len() % 2 == 1;
    for transport in [Transport::Udp, Transport::Tcp] {
        let asked = Asked { transport, now: Instant::now(), seed: 7, ttl: TTL };
        let mut out = vec![1, 2, 3];
        let verdict = answer_question(bytes, &view, &asked, &mut out);
        let read = Query::read(bytes);
        match verdict {
            Verdict::Silence => assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0, "silence to a question"),
            Verdict::Forward { limit } => {
                let query = read.expect("what is forwarded is a question");
                assert_eq!(limit, query.limit(transport));
                for write in [failure, truncated] {
                    write(bytes, Rcode::SERVFAIL, &mut out);
                    fits(&query, &out, SMALLEST_UDP);
                }
            }
            Verdict::Answered(Outcome::Malformed | Outcome::NotImplemented) if read.is_err() => {
                assert_eq!(out.len(), 12, "no more than a header");
                assert_eq!(out[..2], bytes[..2]);
                assert!(out[2] & 0x80 != 0 && out[2] & 0x02 == 0);
            }
            Verdict::Answered(_) => {
                let query = read.expect("what is answered is a question");
                fits(&query, &out, query.limit(transport));
                let mut again = Vec::new();
                assert_eq!(answer_question(bytes, &view, &asked, &mut again), verdict);
                assert_eq!(out, again, "the same question and seed, another answer");
            }
        }
    }
}

/// A question, the length of which is the first byte, and what comes for an answer: it is one only with the number and
/// the question that were sent.
pub fn reply(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (query, reply) = rest.split_at(rest.len().min(usize::from(*length)));
    let id = query.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    let judged = judge(reply, id, query);
    assert_eq!(judge(query, id, query), Judged::Foreign, "the question itself");
    if judged == Judged::Foreign {
        return;
    }
    assert_eq!(judge(reply, id ^ 1, query), Judged::Foreign, "another number");
    let asked = Query::read(query).expect("no answer to what is no question");
    let message = Message::from_slice(reply).expect("no answer without a header");
    assert!(message.header().qr() && message.header().id() == id);
    match message.sole_question() {
        Ok(told) => assert_eq!(told, *asked.question()),
        Err(_) => {
            assert!(message.header_counts().qdcount() == 0 && message.header().rcode() != Rcode::NOERROR);
        }
    }
}

/// An answer to this question, whole, of a size that the client takes.
fn fits(query: &Query<'_>, out: &[u8], limit: usize) {
    assert!(out.len() <= limit && limit <= LARGEST_TCP, "{} bytes, at most {limit}", out.len());
    let message = Message::from_slice(out).expect("a message");
    assert_eq!(message.header().id(), query.message().header().id());
    assert!(message.header().qr() && message.header().ra());
    let question = message.sole_question().expect("one question");
    let asked = query.question();
    let (told, wanted): (Name<Vec<u8>>, Name<Vec<u8>>) =
        (question.qname().to_name(), asked.qname().to_name());
    assert_eq!(told.as_slice(), wanted.as_slice(), "the question, with its case");
    assert_eq!((question.qtype(), question.qclass()), (asked.qtype(), asked.qclass()));
    let mut opts = 0;
    for section in [message.answer(), message.authority(), message.additional()] {
        for record in section.expect("a section") {
            let record = record.expect("a record");
            opts += usize::from(record.rtype() == Rtype::OPT);
        }
    }
    assert_eq!(opts, usize::from(query.edns().is_some()), "OPT for OPT");
}
