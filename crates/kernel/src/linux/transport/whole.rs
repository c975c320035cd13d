//! Messages that are all carried out or none: nftables' transactions.

use std::time::Instant;

use super::{Failure, Packets, RECEIVE, Transport, receive};

/// Where a refusal belongs: the place of the message that it is about.
pub(in crate::linux) type Refusal = (usize, Failure);

impl Transport {
    /// Sends messages that are all carried out or none, and waits for the verdict. `write` encodes them, the first with
    /// the number that it is given and each with one more, and says how many there are. The last but one must ask
    /// for an acknowledgement; kernels differ in what they say about the last.
    ///
    /// # Errors
    /// The first refusal; place 0 when it is about the whole.
    pub(in crate::linux) fn commit(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>, u32) -> u32,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let mut out = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let count = write(&mut out, first);
        self.sequence = self.sequence.wrapping_add(count);
        self.send(&out, count as usize).map_err(|failure| (0, failure))?;
        let mut received = Vec::with_capacity(RECEIVE);
        let mut verdicts = Verdicts { first, count, refused: None };
        loop {
            let read = receive(&self.socket, &mut received, deadline);
            match read.and_then(|()| verdicts.take_in(&received)) {
                Ok(false) => {}
                Ok(true) => return verdicts.refused.map_or(Ok(()), Err),
                Err(failure) => {
                    self.empty(&mut received);
                    return Err((0, failure));
                }
            }
        }
    }
}

/// What is known of a transaction.
struct Verdicts {
    first: u32,
    count: u32,
    refused: Option<Refusal>,
}

impl Verdicts {
    /// Takes in a datagram; `true` when there is nothing more to wait for. A verdict on the whole has the number of the
    /// first message and comes before those on the others.
    fn take_in(&mut self, datagram: &[u8]) -> Result<bool, Failure> {
        let malformed = |_| Failure::Lost("malformed answer".into());
        let mut done = false;
        for packet in Packets(datagram) {
            let packet = packet.map_err(malformed)?;
            let place = packet.sequence.wrapping_sub(self.first);
            // A late answer to an earlier transaction that timed out is nobody's.
            let Some(verdict) = packet.verdict().filter(|_| place < self.count) else { continue };
            let verdict = verdict.map_err(malformed)?;
            if verdict.errno != 0 && self.refused.is_none() {
                self.refused = Some((place as usize, Failure::refused(verdict.errno, verdict.text)));
            }
            done |= place + 2 == self.count || (place == 0 && verdict.errno != 0);
        }
        Ok(done)
    }
}
