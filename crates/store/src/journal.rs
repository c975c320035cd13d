//! The journal of intents: what it says, and how it reads its own bytes after a crash.
//!
//! A journal is a header and frames. A frame is a length, a checksum and a payload; it says that an intent
//! began or that operations ended. Frames are only ever appended, so a crash can tear the last one at most:
//! reading stops at the first frame that is not whole.

use std::collections::BTreeMap;

use netloom_model::{ObjectKind, OpId};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::StoreError;

/// How a journal begins: a name and the number of its format.
pub(crate) const HEADER: &[u8; 8] = b"NLJRNL\x00\x01";
/// Length and checksum.
const FRAME_HEADER: usize = 8;
const BEGIN: u8 = 1;
const END: u8 = 2;
const OP_LEN: usize = 16;

/// What an operation is about to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// The operation.
    pub op: OpId,
    /// What it does, such as `create_endpoint`.
    pub verb: String,
    /// The kind of object it does it to.
    pub object: ObjectKind,
    /// The object's identifier.
    pub id: String,
    /// Whatever is needed to undo it.
    pub detail: serde_json::Value,
}

/// The frames of one write, and what they change once they are written.
#[derive(Debug)]
pub(crate) struct Append {
    /// The bytes to append.
    pub bytes: Vec<u8>,
    changes: Vec<FrameChange>,
}

impl Append {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[derive(Debug)]
enum FrameChange {
    Begin(OpId, Box<[u8]>),
    End(OpId),
}

/// The open intents as whole frames, ready to be written again.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct OpenIntents {
    frames: BTreeMap<u64, Box<[u8]>>,
    by_op: FxHashMap<OpId, Vec<u64>>,
    next: u64,
    bytes: usize,
}

impl OpenIntents {
    /// Reads a journal without its header. Returns the open intents and how many bytes are whole.
    pub(crate) fn replay(journal: &[u8]) -> (Self, usize) {
        let mut open = Self::default();
        let mut rest = journal;
        while let Some((change, tail)) = read_frame(rest) {
            for change in change {
                open.apply_one(change);
            }
            rest = tail;
        }
        (open, journal.len() - rest.len())
    }

    /// The frames that begin intents.
    pub(crate) fn begin(intents: &[Intent]) -> Result<Append, StoreError> {
        let mut append = Append { bytes: Vec::new(), changes: Vec::new() };
        for intent in intents {
            let mut payload = vec![BEGIN];
            serde_json::to_writer(&mut payload, intent)
                .map_err(|error| StoreError::Unencodable { what: "an intent", why: error.to_string() })?;
            let frame = frame(&payload)?;
            append.bytes.extend(&frame);
            append.changes.push(FrameChange::Begin(intent.op, frame.into()));
        }
        Ok(append)
    }

    /// The frame that ends those operations which have an open intent.
    pub(crate) fn end(&self, ops: &[OpId]) -> Result<Append, StoreError> {
        let known: Vec<_> = ops.iter().copied().filter(|op| self.by_op.contains_key(op)).collect();
        if known.is_empty() {
            return Ok(Append { bytes: Vec::new(), changes: Vec::new() });
        }
        let mut payload = vec![END];
        payload.extend(known.iter().flat_map(|op| *op.0.as_bytes()));
        Ok(Append { bytes: frame(&payload)?, changes: known.into_iter().map(FrameChange::End).collect() })
    }

    /// Takes in what was written.
    pub(crate) fn apply(&mut self, append: Append) {
        for change in append.changes {
            self.apply_one(change);
        }
    }

    fn apply_one(&mut self, change: FrameChange) {
        match change {
            FrameChange::Begin(op, frame) => {
                self.bytes += frame.len();
                self.frames.insert(self.next, frame);
                self.by_op.entry(op).or_default().push(self.next);
                self.next += 1;
            }
            FrameChange::End(op) => {
                for number in self.by_op.remove(&op).unwrap_or_default() {
                    if let Some(frame) = self.frames.remove(&number) {
                        self.bytes -= frame.len();
                    }
                }
            }
        }
    }

    /// Whether no intent is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The size of the frames of open intents.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The frames of open intents, in order.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.values().map(AsRef::as_ref)
    }

    /// The open intents, in order.
    pub(crate) fn intents(&self) -> Result<Vec<Intent>, StoreError> {
        let payloads = self.frames.values().map(|frame| &frame[FRAME_HEADER + 1..]);
        let intents = payloads.map(|json| {
            serde_json::from_slice(json).map_err(|error| StoreError::damaged("an intent", error.to_string()))
        });
        intents.collect()
    }
}

fn frame(payload: &[u8]) -> Result<Vec<u8>, StoreError> {
    let len = u32::try_from(payload.len())
        .map_err(|_| StoreError::Unencodable { what: "an intent", why: "it is longer than 4 GiB".into() })?;
    let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
    frame.extend(len.to_le_bytes());
    frame.extend(crc32fast::hash(payload).to_le_bytes());
    frame.extend(payload);
    Ok(frame)
}

/// The first frame of `bytes` and what follows it; `None` where no whole frame begins.
fn read_frame(bytes: &[u8]) -> Option<(Vec<FrameChange>, &[u8])> {
    let (header, rest) = bytes.split_at_checked(FRAME_HEADER)?;
    let (len, crc) = header.split_at(4);
    let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
    let (payload, tail) = rest.split_at_checked(len)?;
    if crc != crc32fast::hash(payload).to_le_bytes() {
        return None;
    }
    let (kind, data) = payload.split_first()?;
    let changes = match *kind {
        BEGIN => {
            let intent: Intent = serde_json::from_slice(data).ok()?;
            vec![FrameChange::Begin(intent.op, bytes[..FRAME_HEADER + len].into())]
        }
        END if data.len().is_multiple_of(OP_LEN) => {
            let ops = data.chunks_exact(OP_LEN).filter_map(|op| Uuid::from_slice(op).ok());
            ops.map(|op| FrameChange::End(OpId(op))).collect()
        }
        _ => return None,
    };
    Some((changes, tail))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intent(op: u8, detail: &str) -> Intent {
        Intent {
            // No zero bytes: a tail of zeros must not complete a frame that was cut.
            op: OpId(Uuid::from_u128(u128::MAX - u128::from(op))),
            verb: "create".into(),
            object: ObjectKind::Endpoint,
            id: format!("id{op}"),
            detail: detail.into(),
        }
    }

    fn write(open: &mut OpenIntents, journal: &mut Vec<u8>, append: Append) {
        journal.extend(&append.bytes);
        open.apply(append);
    }

    #[test]
    fn a_tear_at_any_byte_costs_only_what_is_behind_it() {
        let (mut open, mut journal) = (OpenIntents::default(), Vec::new());
        let mut states = vec![(0, Vec::new())];
        for op in 0..6 {
            let append = OpenIntents::begin(&[intent(op, "a"), intent(op, "b")]).expect("JSON");
            write(&mut open, &mut journal, append);
            if op % 2 == 1 {
                let append = open.end(&[intent(op - 1, "").op, intent(99, "").op]).expect("small");
                write(&mut open, &mut journal, append);
            }
            states.push((journal.len(), open.intents().expect("whole")));
        }
        for cut in 0..=journal.len() {
            let (replayed, whole) = OpenIntents::replay(&journal[..cut]);
            assert!(whole <= cut);
            let (_, least) = states.iter().rev().find(|(len, _)| *len <= cut).expect("the empty state");
            let found = replayed.intents().expect("whole");
            let (again, same) = OpenIntents::replay(&journal[..whole]);
            assert_eq!((again.intents().expect("whole"), same), (found.clone(), whole), "cut at {cut}");
            // Between two states lies one frame less than the next one has, never something else.
            assert!(found.iter().all(|i| journal_has(&journal[..cut], i)), "cut at {cut}");
            assert!(found.len() + 1 >= least.len(), "cut at {cut}");
            // Behind the tear anything may follow, such as the zeros of a file that was extended.
            let mut zeros = journal[..cut].to_vec();
            zeros.extend([0; 64]);
            assert_eq!(OpenIntents::replay(&zeros).1, whole, "cut at {cut}");
        }
    }

    fn journal_has(journal: &[u8], intent: &Intent) -> bool {
        let json = serde_json::to_vec(intent).expect("JSON");
        journal.windows(json.len()).any(|window| window == json)
    }

    #[test]
    fn altered_bytes_never_panic_and_never_invent_an_intent() {
        let intents: Vec<_> = (0..4).map(|op| intent(op, "detail")).collect();
        let journal = OpenIntents::begin(&intents).expect("JSON").bytes;
        for at in 0..journal.len() {
            for value in [0, 1, 0x7f, 0xff, journal[at] ^ 0x20] {
                let mut altered = journal.clone();
                altered[at] = value;
                let found = OpenIntents::replay(&altered).0.intents().expect("checked");
                assert!(intents.starts_with(&found), "byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(steps in prop::collection::vec((any::<bool>(), 0u8..12), 0..60)) {
            let (mut open, mut journal) = (OpenIntents::default(), Vec::new());
            let mut plain: Vec<Intent> = Vec::new();
            for (n, (begin, op)) in steps.into_iter().enumerate() {
                let intent = intent(op, &n.to_string());
                if begin {
                    let append = OpenIntents::begin(std::slice::from_ref(&intent)).expect("JSON");
                    write(&mut open, &mut journal, append);
                    plain.push(intent);
                } else {
                    let append = open.end(&[intent.op]).expect("small");
                    prop_assert_eq!(append.is_empty(), plain.iter().all(|open| open.op != intent.op));
                    write(&mut open, &mut journal, append);
                    plain.retain(|open| open.op != intent.op);
                }
                prop_assert_eq!(&open.intents().expect("whole"), &plain);
            }
            let (replayed, whole) = OpenIntents::replay(&journal);
            prop_assert_eq!(whole, journal.len());
            prop_assert_eq!(&replayed.intents().expect("whole"), &plain);
            prop_assert_eq!(replayed.bytes(), open.bytes());
            let compact: Vec<u8> = open.frames().flatten().copied().collect();
            prop_assert_eq!(&OpenIntents::replay(&compact).0.intents().expect("whole"), &plain);
        }
    }
}
