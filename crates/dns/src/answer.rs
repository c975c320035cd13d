//! A question and a view of the records become an answer, or the word that somebody else has to be asked.
//!
//! Nothing here waits, reads a clock or draws a number. Answers are libnetwork's (`resolver.go`): A, AAAA, PTR and SRV,
//! in an order that changes, with "recursion available" and a time to live of ten minutes. What is known here is never
//! asked for outside, whatever type is wanted: a name without that type is answered as empty (RFC 2308, 2.2), and a
//! name that has just gone, or an address of our own subnets without a name, as not existing.

mod local;
mod write;

use std::time::Instant;

use domain::base::iana::{OptRcode, Rcode};

use crate::query::{Query, Refusal, Transport};
use crate::records::View;

pub use local::Local;
pub(crate) use write::LARGEST_QUERY;
use write::{Response, bare};
pub use write::{failure, truncated};

/// For how long clients may keep an answer, in seconds: libnetwork's `respTTL`.
pub const TTL: u32 = 600;

/// What is said with a question.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// How it came.
    pub transport: Transport,
    /// When.
    pub now: Instant,
    /// Decides on the order of several addresses.
    pub seed: u64,
    /// For how long the answer may be kept, in seconds.
    pub ttl: u32,
}

/// What a question was answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Records.
    Records,
    /// The name is known, and has no such records.
    NoData,
    /// There is no such name, and it would be here.
    NoSuchName,
    /// It was no readable question.
    Malformed,
    /// It wanted what is not offered: another kind of request, a version of EDNS that there is not.
    NotImplemented,
    /// It wanted what nobody gets: a whole zone, a class that is not the Internet's.
    Refused,
}

/// What becomes of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The answer is written.
    Answered(Outcome),
    /// Nothing here knows; the answer may be so many bytes long.
    Forward {
        /// The largest answer that the client takes.
        limit: usize,
    },
    /// It gets no answer.
    Silence,
}

/// Answers what can be answered here; the answer replaces what is in `out`.
pub fn answer(bytes: &[u8], view: &View, asked: &Asked, out: &mut Vec<u8>) -> Verdict {
    let query = match Query::read(bytes) {
        Ok(query) => query,
        Err(Refusal::Silence) => return Verdict::Silence,
        Err(Refusal::Malformed) => {
            bare(bytes, Rcode::FORMERR, out);
            return Verdict::Answered(Outcome::Malformed);
        }
        Err(Refusal::NotImplemented) => {
            bare(bytes, Rcode::NOTIMP, out);
            return Verdict::Answered(Outcome::NotImplemented);
        }
    };
    let limit = query.limit(asked.transport);
    let respond = |code: OptRcode, out: &mut Vec<u8>| Response::start(&query, code, limit, out);
    if query.edns().is_some_and(|edns| edns.version > 0) {
        respond(OptRcode::BADVERS, out).finish(out);
        return Verdict::Answered(Outcome::NotImplemented);
    }
    if query.is_transfer() || !query.is_internet() {
        respond(OptRcode::REFUSED, out).finish(out);
        return Verdict::Answered(Outcome::Refused);
    }
    let outcome = match local::find(&query, view, asked.now) {
        Local::NotOurs => return Verdict::Forward { limit },
        Local::NoData => {
            respond(OptRcode::NOERROR, out).finish(out);
            Outcome::NoData
        }
        Local::NoSuchName => {
            respond(OptRcode::NXDOMAIN, out).finish(out);
            Outcome::NoSuchName
        }
        Local::Addresses(entry) => {
            let mut response = respond(OptRcode::NOERROR, out);
            response.addresses(&query, &entry, asked);
            response.finish(out);
            Outcome::Records
        }
        Local::Called(name) => {
            let mut response = respond(OptRcode::NOERROR, out);
            let any = response.called(&name, asked);
            response.finish(out);
            if any { Outcome::Records } else { Outcome::NoData }
        }
        Local::Services(targets) => {
            let mut response = respond(OptRcode::NOERROR, out);
            response.services(&targets, asked);
            response.finish(out);
            Outcome::Records
        }
    };
    Verdict::Answered(outcome)
}
