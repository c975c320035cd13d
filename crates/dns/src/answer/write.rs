//! How an answer is put together: what fits the client, with names compressed.

use std::net::IpAddr;

use domain::base::iana::{Class, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, MessageBuilder, StaticCompressor};
use domain::base::name::ParsedName;
use domain::base::record::ComposeRecord;
use domain::base::{Header, HeaderSection, Message, Record, Ttl};
use domain::rdata::{A, Aaaa, Ptr, Srv};

use super::Asked;
use crate::name::wire;
use crate::query::{Edns, Query, Transport};
use crate::records::{Entry, Target};

/// The largest question that is read, which is what an answer's OPT record tells.
pub(crate) const LARGEST_QUERY: u16 = 4096;
/// An OPT record without options.
const OPT_LEN: usize = 11;

type Target_ = StaticCompressor<Vec<u8>>;

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Response<'a> {
    builder: AnswerBuilder<Target_>,
    extra: Vec<(domain::base::Name<Vec<u8>>, IpAddr)>,
    owner: ParsedName<&'a [u8]>,
    limit: usize,
    edns: Option<Edns>,
    code: OptRcode,
    ttl: Ttl,
}

impl<'a> Response<'a> {
    /// Header and question, in the memory of `out`.
    pub(super) fn start(query: &Query<'a>, code: OptRcode, limit: usize, out: &mut Vec<u8>) -> Self {
        let mut builder = started(query.message(), code.rcode(), out).question();
        // The question was read, so it fits the smallest answer.
        let _ = builder.push(query.question());
        let mut builder = builder.answer();
        let reserved = if query.edns().is_some() { OPT_LEN } else { 0 };
        builder.set_push_limit(limit - reserved);
        Self {
            builder,
            extra: Vec::new(),
            owner: *query.question().qname(),
            limit,
            edns: query.edns(),
            code,
            ttl: Ttl::from_secs(0),
        }
    }

    /// Addresses in an order that the seed decides on, as many as fit.
    pub(super) fn addresses(&mut self, query: &Query<'_>, entry: &Entry, asked: &Asked) {
        let (ttl, owner) = (Ttl::from_secs(asked.ttl), self.owner);
        let wanted = query.question().qtype();
        let mut fits = true;
        if wanted != Rtype::AAAA {
            let record = |address| Record::new(owner, Class::IN, ttl, A::new(address));
            fits = shuffled(&entry.v4, asked.seed, |address| self.push(record(address)));
        }
        if fits && wanted != Rtype::A {
            let record = |address| Record::new(owner, Class::IN, ttl, Aaaa::new(address));
            fits = shuffled(&entry.v6, asked.seed, |address| self.push(record(address)));
        }
        self.cut(fits, asked);
    }

    /// The name of an address; whether it can be told.
    pub(super) fn called(&mut self, name: &str, asked: &Asked) -> bool {
        let Some(name) = wire(name) else { return false };
        let fits = self.push(Record::new(self.owner, Class::IN, Ttl::from_secs(asked.ttl), Ptr::new(name)));
        self.cut(fits, asked);
        true
    }

    /// Services, and what their targets stand for beside them (RFC 2782). Priority and weight are 0, as libnetwork's.
    pub(super) fn services(&mut self, targets: &[Target], asked: &Asked) {
        self.ttl = Ttl::from_secs(asked.ttl);
        let mut extra = Vec::new();
        let fits = shuffled(targets, asked.seed, |target| {
            let Some(name) = wire(&target.name) else { return true };
            let fits = self.push(Record::new(
                self.owner,
                Class::IN,
                Ttl::from_secs(asked.ttl),
                Srv::new(0, 0, target.port, &name),
            ));
            if fits {
                extra.extend(target.addresses.iter().map(|address| (name.clone(), *address)));
            }
            fits
        });
        extra.dedup();
        self.extra = extra;
        self.cut(fits, asked);
    }

    /// What goes beside the answer, and the message is whole.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        let mut builder = self.builder.additional();
        for (name, address) in self.extra {
            let fits = match address {
                IpAddr::V4(address) => builder.push(Record::new(name, Class::IN, self.ttl, A::new(address))),
                IpAddr::V6(address) => {
                    builder.push(Record::new(name, Class::IN, self.ttl, Aaaa::new(address)))
                }
            };
            if fits.is_err() {
                // What is beside the answer may be left out without a word (RFC 2181, 9).
                break;
            }
        }
        builder.set_push_limit(self.limit);
        add_opt(&mut builder, self.edns, self.code);
        *out = builder.finish().into_target();
    }

    fn push(&mut self, record: impl ComposeRecord) -> bool {
        self.builder.push(record).is_ok()
    }

    /// Tells a client of datagrams to come again over TCP.
    fn cut(&mut self, fits: bool, asked: &Asked) {
        if !fits && asked.transport == Transport::Udp {
            self.builder.header_mut().set_tc(true);
        }
    }
}

/// Gives the items away in an order that the seed decides on, until one is not taken; whether all were.
fn shuffled<T: Clone>(items: &[T], seed: u64, mut take: impl FnMut(T) -> bool) -> bool {
    if let [item] = items {
        return take(item.clone());
    }
    let mut items = items.to_vec();
    let mut state = seed | 1;
    for at in 0..items.len() {
        // Xorshift: good enough for an order, and nothing else depends on it.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let left = (items.len() - at) as u64;
        let other = at + usize::try_from((state >> 16) % left).unwrap_or_default();
        items.swap(at, other);
        if !take(items[at].clone()) {
            return false;
        }
    }
    true
}

/// The header of an answer to a message, in the memory of `out`.
fn started(message: &Message<[u8]>, code: Rcode, out: &mut Vec<u8>) -> MessageBuilder<Target_> {
    let target = StaticCompressor::new(std::mem::take(out));
    // A vector is never too short.
    let mut builder = match MessageBuilder::from_target(target) {
        Ok(builder) => builder,
        Err(never) => match never {},
    };
    let asked = message.header();
    let header = builder.header_mut();
    header.set_id(asked.id());
    header.set_qr(true);
    header.set_opcode(asked.opcode());
    header.set_rd(asked.rd());
    header.set_cd(asked.cd());
    header.set_ra(true);
    header.set_rcode(code);
    builder
}

/// The client's OPT record is answered with ours (RFC 6891, 6.1.1 and 7).
fn add_opt(builder: &mut AdditionalBuilder<Target_>, edns: Option<Edns>, code: OptRcode) {
    let Some(edns) = edns else { return };
    // Place was kept for it.
    let _ = builder.opt(|opt| {
        opt.set_udp_payload_size(LARGEST_QUERY);
        opt.set_dnssec_ok(edns.dnssec_ok);
        opt.set_rcode(code);
        Ok(())
    });
}

/// An answer that is a header only, to what may be anything behind its own header.
pub(super) fn bare(bytes: &[u8], code: Rcode, out: &mut Vec<u8>) {
    let header = bytes.get(..size_of::<HeaderSection>()).map(Header::for_message_slice);
    let Some(asked) = header.copied() else { return out.clear() };
    let mut header = HeaderSection::new();
    header.header_mut().set_id(asked.id());
    header.header_mut().set_qr(true);
    header.header_mut().set_opcode(asked.opcode());
    header.header_mut().set_rd(asked.rd());
    header.header_mut().set_ra(true);
    header.header_mut().set_rcode(code);
    out.clear();
    out.extend_from_slice(header.as_slice());
}

/// Answers a question with a code and no records, such as SERVFAIL. Writes nothing for what is no question.
pub fn failure(query: &[u8], code: Rcode, out: &mut Vec<u8>) {
    without_records(query, code, false, out);
}

/// Answers a question with the word to come again over TCP. Writes nothing for what is no question.
pub fn truncated(query: &[u8], code: Rcode, out: &mut Vec<u8>) {
    without_records(query, code, true, out);
}

fn without_records(query: &[u8], code: Rcode, cut: bool, out: &mut Vec<u8>) {
    out.clear();
    let Ok(query) = Query::read(query) else { return };
    let limit = query.limit(Transport::Udp);
    let mut response = Response::start(&query, OptRcode::from_rcode(code), limit, out);
    response.builder.header_mut().set_tc(cut);
    response.finish(out);
}
