//! A question as it came: parsed as far as everybody needs it, and refused where it is none.

use domain::base::iana::{Class, Opcode, Rtype};
use domain::base::name::ParsedName;
use domain::base::{Message, Question};

/// How large an answer over UDP may be for a client that says nothing (RFC 1035, 4.2.1); less counts as this (RFC 6891,
/// 6.2.3).
pub const SMALLEST_UDP: usize = 512;
/// The largest datagram of IPv4.
pub const LARGEST_UDP: usize = 65_507;
/// The largest message over TCP: its length is told in two bytes.
pub const LARGEST_TCP: usize = 65_535;

/// How a question came, and so how its answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream, after its length.
    Tcp,
}

/// What a client says of itself (RFC 6891).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    /// The largest datagram that it takes.
    pub size: u16,
    /// Its version; there is no other than 0 yet.
    pub version: u8,
    /// Whether it wants signatures.
    pub dnssec_ok: bool,
}

/// Why a message gets no answer of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It gets none at all: too short to have a header, or an answer itself, which would be answered for ever.
    Silence,
    /// It is no question that can be read, or not exactly one (RFC 9619).
    Malformed,
    /// It wants something else than an answer.
    NotImplemented,
}

/// A message with one question.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    message: &'a Message<[u8]>,
    question: Question<ParsedName<&'a [u8]>>,
    edns: Option<Edns>,
}

impl<'a> Query<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Refusal`]: what it gets instead of an answer.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let message = Message::from_slice(bytes).map_err(|_| Refusal::Silence)?;
        let header = message.header();
        if header.qr() {
            return Err(Refusal::Silence);
        }
        if header.opcode() != Opcode::QUERY {
            return Err(Refusal::NotImplemented);
        }
        if message.header_counts().qdcount() != 1 {
            return Err(Refusal::Malformed);
        }
        let question = message.sole_question().map_err(|_| Refusal::Malformed)?;
        let edns = edns_of(message).map_err(|()| Refusal::Malformed)?;
        Ok(Self { message, question, edns })
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &'a Message<[u8]> {
        self.message
    }

    /// Its question.
    #[must_use]
    pub fn question(&self) -> &Question<ParsedName<&'a [u8]>> {
        &self.question
    }

    /// What the client says of itself, if it says anything.
    #[must_use]
    pub fn edns(&self) -> Option<Edns> {
        self.edns
    }

    /// The largest answer that the client takes, in bytes.
    #[must_use]
    pub fn limit(&self, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => LARGEST_TCP,
            Transport::Udp => {
                let said = self.edns.map_or(SMALLEST_UDP, |edns| usize::from(edns.size));
                said.clamp(SMALLEST_UDP, LARGEST_UDP)
            }
        }
    }

    /// Whether it asks for something of the Internet, as everybody does.
    pub(crate) fn is_internet(&self) -> bool {
        matches!(self.question.qclass(), Class::IN | Class::ANY)
    }

    /// Whether it asks for a whole zone, which is more than one message and nobody's business here.
    pub(crate) fn is_transfer(&self) -> bool {
        matches!(self.question.qtype(), Rtype::AXFR | Rtype::IXFR)
    }
}

/// Finds the one OPT record.
fn edns_of(message: &Message<[u8]>) -> Result<Option<Edns>, ()> {
    let counts = message.header_counts();
    if counts.arcount() == 0 {
        return Ok(None);
    }
    let mut edns = None;
    for record in message.additional().map_err(drop)? {
        let record = record.map_err(drop)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        // RFC 6891, 6.1.1: one, and of the root.
        if edns.is_some() || !record.owner().is_root() {
            return Err(());
        }
        let [_, version, flags, _] = record.ttl().as_secs().to_be_bytes();
        edns = Some(Edns { size: record.class().to_int(), version, dnssec_ok: flags & 0x80 != 0 });
    }
    Ok(edns)
}
