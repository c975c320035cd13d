//! Whether a message is the answer to a question, and how it goes to the client.

use domain::base::Message;
use domain::base::iana::Rcode;

use super::Reply;
use crate::answer::{failure, truncated};
use crate::query::{Query, Transport};

/// What a message from an upstream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// The answer, whatever it says.
    Answer,
    /// The word that this upstream has failed, or does not tell us.
    Failure,
    /// Something else: somebody guesses, or an answer to another question.
    Foreign,
}

/// Judges a message by the number and the question that were sent (RFC 5452, 3).
#[must_use]
pub fn judge(reply: &[u8], id: u16, query: &[u8]) -> Judged {
    let (Ok(message), Ok(query)) = (Message::from_slice(reply), Query::read(query)) else {
        return Judged::Foreign;
    };
    let header = message.header();
    if !header.qr() || header.id() != id || header.opcode() != query.message().header().opcode() {
        return Judged::Foreign;
    }
    let code = header.rcode();
    let failed = matches!(code, Rcode::SERVFAIL | Rcode::REFUSED);
    let fits = match message.header_counts().qdcount() {
        // A server that could not read the question cannot repeat it.
        0 => !matches!(code, Rcode::NOERROR | Rcode::NXDOMAIN),
        // The case may be another: whoever asks so that answers cannot be guessed looks by itself.
        _ => message.sole_question().is_ok_and(|question| question == *query.question()),
    };
    match (fits, failed) {
        (false, _) => Judged::Foreign,
        (true, true) => Judged::Failure,
        (true, false) => Judged::Answer,
    }
}

/// Writes what the client gets: the upstream's answer with the client's number, cut to its size. Returns whether it was
/// cut.
pub(crate) fn fitted(reply: &Reply, query: &[u8], transport: Transport, out: &mut Vec<u8>) -> bool {
    out.clear();
    match reply {
        Reply::Answer(answer) => {
            let limit = Query::read(query).map_or(0, |query| query.limit(transport));
            if answer.len() > limit {
                let code = Message::from_slice(answer).map_or(Rcode::SERVFAIL, |m| m.header().rcode());
                truncated(query, code, out);
                return true;
            }
            out.extend_from_slice(answer);
            for (to, from) in out.iter_mut().zip(query.iter().take(2)) {
                *to = *from;
            }
        }
        Reply::Failed | Reply::TooMany | Reply::NobodyToAsk { external: true } => {
            failure(query, Rcode::SERVFAIL, out);
        }
        // All names that such a sandbox can know are known here.
        Reply::NobodyToAsk { external: false } => failure(query, Rcode::NXDOMAIN, out),
    }
    false
}
