//! The journal's file when it is cut, foreign, long, without room, or left by a crash.

use std::cell::Cell;
use std::path::Path;

use netloom_model::ObjectKind;
use uuid::Uuid;

use super::*;

/// How much room there is, and how long the process lives.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// For the journal and the file that is to replace it together.
    room: Option<u64>,
    /// How many changes of files are left to this process; for ever without a number.
    steps: Cell<Option<u32>>,
    dead: Cell<bool>,
}

impl Faults {
    pub(super) fn step(&self) -> io::Result<()> {
        match self.steps.get() {
            Some(0) => self.dead.set(true),
            Some(left) => self.steps.set(Some(left - 1)),
            None => {}
        }
        if self.dead.get() { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    /// Whoever dies in a write has written half of it, and a full disk takes what it has room for.
    pub(super) fn write(&self, journal: &JournalFile, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        let lived = !self.dead.get();
        self.step().inspect_err(|_| {
            let half = if lived { &bytes[..bytes.len() / 2] } else { &[] };
            file.write_all_at(half, at).expect("the real disk is well");
        })?;
        let Some(room) = self.room else { return Ok(()) };
        let both: u64 = [&journal.path, &journal.scratch].into_iter().map(|path| length(path)).sum();
        let own = file.metadata().expect("it is open").len();
        let most = usize::try_from((room + own).saturating_sub(both + at)).expect("small");
        if bytes.len() <= most {
            return Ok(());
        }
        file.write_all_at(&bytes[..most], at).expect("the real disk is well");
        Err(io::Error::from_raw_os_error(28))
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

fn intent(op: u128) -> Intent {
    let op = OpId(Uuid::from_u128(op));
    Intent {
        op,
        verb: "join".into(),
        object: ObjectKind::Sandbox,
        id: "x".into(),
        detail: "y".repeat(500).into(),
    }
}

/// One whose frame has so many bytes.
fn sized(op: u128, bytes: usize) -> Intent {
    let mut intent = Intent { detail: "".into(), ..intent(op) };
    let empty = OpenIntents::begin(std::slice::from_ref(&intent)).expect("JSON").bytes.len();
    intent.detail = "y".repeat(bytes - empty).into();
    intent
}

fn open(dir: &Directory) -> (JournalFile, Vec<Finding>) {
    let mut findings = Vec::new();
    (JournalFile::open(dir, &mut findings).expect("opens"), findings)
}

#[test]
fn the_file_is_cut_back_when_idle_and_rewritten_when_busy() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = Directory::open(temp.path()).expect("free");
    let (mut journal, _) = open(&dir);
    journal.begin(&[intent(0), intent(1)]).expect("space");
    let mut longest = 0;
    for op in 2..5_000 {
        journal.begin(&[intent(op)]).expect("space");
        journal.end(&[intent(op).op, intent(99_999).op]).expect("space");
        longest = longest.max(journal.len);
    }
    assert!(longest > BUSY_LIMIT / 2 && longest <= BUSY_LIMIT, "{longest}");
    drop(journal);
    let (mut journal, findings) = open(&dir);
    assert_eq!(journal.intents().expect("whole"), [intent(0), intent(1)]);
    assert_eq!(findings, []);
    let many: Vec<_> = (0..200).map(intent).collect();
    journal.begin(&many).expect("space");
    assert!(journal.len > IDLE_LIMIT);
    journal.end(&many.iter().map(|intent| intent.op).collect::<Vec<_>>()).expect("space");
    assert_eq!(journal.len, HEADER.len() as u64);
    assert_eq!(open(&dir).0.intents().expect("whole"), []);
}

#[test]
fn a_file_cut_at_any_byte_opens_and_goes_on() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = Directory::open(temp.path()).expect("free");
    let (mut journal, _) = open(&dir);
    journal.begin(&[intent(1), intent(2)]).expect("space");
    journal.end(&[intent(1).op]).expect("space");
    drop(journal);
    let whole = std::fs::read(dir.join(NAME)).expect("there");
    for cut in 0..whole.len() {
        std::fs::write(dir.join(NAME), &whole[..cut]).expect("space");
        let (mut journal, findings) = open(&dir);
        assert_eq!(findings, [], "cut at {cut}");
        let before = journal.intents().expect("whole");
        journal.begin(&[intent(3)]).expect("space");
        drop(journal);
        let after = open(&dir).0.intents().expect("whole");
        assert_eq!(after[..before.len()], before, "cut at {cut}");
        assert_eq!(after[before.len()..], [intent(3)], "cut at {cut}");
    }
}

#[test]
fn a_foreign_file_is_set_aside() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = Directory::open(temp.path()).expect("free");
    for (n, foreign) in [&b"x"[..], b"NLJRNL\x00\x02 a later format", &[0; 4096]].into_iter().enumerate() {
        std::fs::write(dir.join(NAME), foreign).expect("space");
        let (_, findings) = open(&dir);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, dir.join(&format!("journal.broken-{}", n + 1)));
        assert_eq!(std::fs::read(&findings[0].path).expect("kept"), foreign);
    }
}

fn finish(journal: &mut JournalFile, ops: std::ops::Range<u128>) {
    for op in ops {
        journal.begin(&[intent(op)]).expect("space");
        journal.end(&[intent(op).op]).expect("space");
    }
}

#[test]
fn a_start_drops_history_and_what_a_crash_left_of_the_next_file() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = Directory::open(temp.path()).expect("free");
    let (mut journal, _) = open(&dir);
    finish(&mut journal, 0..1);
    drop(journal);
    let (mut journal, _) = open(&dir);
    assert_eq!(length(&journal.path), HEADER.len() as u64);
    // With open intents, a start writes the file anew if that is worth it.
    journal.begin(&[intent(100)]).expect("space");
    finish(&mut journal, 101..103);
    journal.begin(&[intent(200)]).expect("space");
    let before = journal.len;
    drop(journal);
    let (mut journal, _) = open(&dir);
    assert_eq!(length(&journal.path), before);
    finish(&mut journal, 201..210);
    let scratch = journal.scratch.clone();
    drop(journal);
    let whole = std::fs::read(dir.join(NAME)).expect("there");
    for left in 0..30 {
        // The journal counts until another file has its name, whatever that one has become already.
        std::fs::write(dir.join(NAME), &whole).expect("space");
        std::fs::write(&scratch, &whole[..whole.len() * left / 30]).expect("space");
        let (journal, findings) = open(&dir);
        assert_eq!(findings, []);
        assert_eq!(journal.intents().expect("whole"), [intent(100), intent(200)]);
        assert_eq!((length(&journal.path), journal.history()), (journal.len, 0));
        assert!(!scratch.exists());
        drop(journal);
        assert_eq!(open(&dir).0.intents().expect("whole"), [intent(100), intent(200)]);
    }
}

#[test]
fn history_makes_room_for_as_many_intents_as_fit() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = Directory::open(temp.path()).expect("free");
    let (mut journal, _) = open(&dir);
    journal.faults.room = Some(4000);
    finish(&mut journal, 0..100);
    drop(journal);
    let (mut journal, _) = open(&dir);
    journal.faults.room = Some(4000);
    journal.begin(&[sized(100, 300)]).expect("space");
    // Nothing but the rest of history is in the way of this one: the file is written anew.
    finish(&mut journal, 101..103);
    let before = journal.len;
    let long = sized(200, 3500);
    journal.begin(std::slice::from_ref(&long)).expect("history makes room");
    assert!(before > 1000 && journal.history() == 0);
    let error = journal.begin(&[sized(201, 300)]).expect_err("what is open takes all of it");
    assert!(matches!(error, StoreError::Io { action: "write", .. }), "{error}");
    assert_eq!(length(&journal.path), journal.len, "nothing is left of what did not fit");
    assert!(!journal.scratch.exists());
    drop(journal);
    let (mut journal, _) = open(&dir);
    assert_eq!(journal.intents().expect("whole"), [sized(100, 300), long.clone()]);
    journal.faults.room = Some(journal.len);
    journal.end(&[long.op]).expect_err("not even room for its end");
    journal.end(&[sized(100, 300).op]).expect("nothing is open: that takes no room");
    assert_eq!((journal.len, length(&journal.path)), (8, 8));
    drop(journal);
    assert_eq!(open(&dir).0.intents().expect("whole"), []);
}

#[test]
fn an_end_that_was_not_written_is_made_up_for() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = Directory::open(temp.path()).expect("free");
    for next_begins in [false, true] {
        let (mut journal, _) = open(&dir);
        journal.begin(&[intent(1), intent(2), intent(3)]).expect("space");
        journal.faults.room = Some(journal.len);
        journal.end(&[intent(2).op]).expect_err("no room");
        assert_eq!(journal.intents().expect("whole"), [intent(1), intent(3)]);
        journal.end(&[intent(2).op]).expect_err("still none");
        // A crash now brings it up again, as it was said.
        let bytes = std::fs::read(&journal.path).expect("there");
        assert_eq!(OpenIntents::replay(&bytes[HEADER.len()..]).0.intents().expect("whole").len(), 3);
        journal.faults.room = None;
        if next_begins {
            journal.begin(&[intent(4)]).expect("space");
        } else {
            journal.end(&[intent(2).op]).expect("space");
        }
        drop(journal);
        let (mut journal, _) = open(&dir);
        let found = journal.intents().expect("whole");
        assert_eq!(found[..2], [intent(1), intent(3)]);
        assert_eq!(found[2..] == [intent(4)], next_begins);
        journal.end(&found.iter().map(|intent| intent.op).collect::<Vec<_>>()).expect("space");
    }
}

/// What the owner of a journal was told.
#[derive(Debug, Default)]
struct Told {
    /// Begun, and their end was not noted yet.
    open: Vec<Intent>,
    /// Begun or ended without an answer, or ended in vain: a crash may bring them up or not.
    unsure: Vec<OpId>,
    /// How often a begin or an end found the file shorter afterwards, without open intents and with some.
    shortened: (u32, u32),
}

impl Told {
    fn begin(&mut self, journal: &mut JournalFile, intent: Intent) {
        let before = journal.len;
        match journal.begin(std::slice::from_ref(&intent)) {
            Ok(()) => {
                self.look(before, journal);
                self.open.push(intent);
            }
            Err(_) if journal.faults.dead.get() => self.unsure.push(intent.op),
            Err(_) => {}
        }
    }

    fn end(&mut self, journal: &mut JournalFile, op: OpId) {
        let before = journal.len;
        self.open.retain(|intent| intent.op != op);
        match journal.end(&[op]) {
            Ok(()) => self.look(before, journal),
            Err(_) => self.unsure.push(op),
        }
    }

    fn look(&mut self, before: u64, journal: &JournalFile) {
        if journal.len < before {
            *if self.open.is_empty() { &mut self.shortened.0 } else { &mut self.shortened.1 } += 1;
        }
    }
}

/// Operations short and long, side by side and alone, where there is hardly room. Stops with the process.
fn work(journal: &mut JournalFile) -> Told {
    let mut told = Told::default();
    for n in 0..60_u128 {
        // Every other dozen, one operation stays open over all others.
        let lasting = sized(1000 + n / 12, 200);
        if n % 24 == 0 {
            told.begin(journal, lasting.clone());
        }
        let short = sized(n, 300 + usize::try_from(n * 7919 % 1700).expect("small"));
        told.begin(journal, short.clone());
        if n % 5 == 0 {
            told.begin(journal, sized(500 + n, 250));
        }
        told.end(journal, short.op);
        told.end(journal, sized(500 + n, 250).op);
        if n % 24 == 11 {
            told.end(journal, lasting.op);
        }
        if journal.faults.dead.get() {
            break;
        }
    }
    told
}

#[test]
fn a_crash_at_any_step_on_a_full_disk_loses_no_open_intent() {
    let temp = tempfile::tempdir().expect("a directory");
    let mut found_open = 0;
    for steps in 0.. {
        let dir = Directory::open(&temp.path().join(steps.to_string())).expect("free");
        let (mut journal, _) = open(&dir);
        journal.faults.room = Some(4000);
        journal.faults.steps.set(Some(steps));
        let told = work(&mut journal);
        let dead = journal.faults.dead.get();
        drop(journal);
        let (mut journal, findings) = open(&dir);
        assert_eq!(findings, [], "after {steps} steps");
        let found = journal.intents().expect("whole");
        let sure: Vec<_> = found.iter().filter(|intent| !told.unsure.contains(&intent.op)).cloned().collect();
        assert_eq!(sure, told.open, "after {steps} steps");
        found_open += found.len();
        journal.begin(&[intent(9999)]).expect("space");
        drop(journal);
        assert_eq!(open(&dir).0.intents().expect("whole")[found.len()..], [intent(9999)]);
        if !dead {
            let (idle, busy) = told.shortened;
            assert!(idle > 5 && busy > 5 && steps > 150, "{idle} and {busy} times in {steps} steps");
            break;
        }
    }
    assert!(found_open > 100, "{found_open} intents were open at crashes");
}
