//! Requests that are encoded elsewhere, each with an answer of its own.

use std::time::Instant;

use super::{Answer, MAX_REQUESTS, Transport};

impl Transport {
    /// Sends requests, as many in one send as their answers have room for, and answers each, in order. `write` encodes
    /// the one at a place of `0..count` with the number that it is given; each must ask for an acknowledgement.
    ///
    /// It ends with the first send of which an answer is missing: those of the sends behind it are not tried.
    pub(in crate::linux) fn ask_each(
        &mut self,
        count: usize,
        mut write: impl FnMut(&mut Vec<u8>, usize, u32),
        deadline: Instant,
    ) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::with_capacity(count);
        let mut out = Vec::new();
        while answers.len() < count {
            out.clear();
            let first = self.sequence.wrapping_add(1);
            let places = answers.len()..count.min(answers.len() + MAX_REQUESTS);
            let some = places.len();
            for place in places {
                self.sequence = self.sequence.wrapping_add(1);
                write(&mut out, place, self.sequence);
            }
            let round = self.round(&out, first, some, deadline);
            let broken =
                round.iter().any(|answer| answer.as_ref().is_err_and(|failure| !failure.is_refusal()));
            answers.extend(round);
            if broken {
                break;
            }
        }
        answers
    }
}
