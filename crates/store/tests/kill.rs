//! A writer killed with SIGKILL at random moments loses nothing that it acknowledged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netloom_model::{ObjectKind, OpId};
use netloom_store::{Change, Intent, Key, RecordKind, RedbStore, Store, decode};
use uuid::Uuid;

/// Set for the child: the store's directory.
const WRITER_DIR: &str = "NETLOOM_TEST_WRITER_DIR";
/// Set by people: repeats a run.
const SEED: &str = "NETLOOM_TEST_SEED";
const ROUNDS: u32 = 24;
const SLOTS: u64 = 50;

fn intent(n: u64) -> Intent {
    let op = OpId(Uuid::from_u128(u128::from(n)));
    Intent { op, verb: "write".into(), object: ObjectKind::Endpoint, id: n.to_string(), detail: n.into() }
}

fn counter_key() -> Key {
    Key::new(RecordKind::Engine, "counter")
}

fn slot_key(n: u64) -> Key {
    Key::new(RecordKind::Endpoint, format!("slot {:02}", n % SLOTS))
}

/// The child: one operation after another until it is killed. A line on standard input allows one commit.
fn write_forever(dir: &Path) {
    let (mut store, findings) = RedbStore::open(dir).expect("opens");
    assert_eq!(findings, []);
    let rows: BTreeMap<_, _> = store.load().expect("loads").into_iter().collect();
    let last: u64 = rows.get(&counter_key()).map_or(0, |value| decode(value).expect("whole"));
    let stale: Vec<_> = store.open_intents().expect("reads").iter().map(|intent| intent.op).collect();
    store.end(&stale).expect("ends");
    let say = |what: &str, n: u64| {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("@{what} {n}\n").as_bytes()).and_then(|()| out.flush()).expect("a reader");
    };
    let mut allowed = std::io::stdin().lock();
    for n in last + 1.. {
        store.begin(&[intent(n)]).expect("begins");
        say("begun", n);
        allowed.read_exact(&mut [0]).expect("a writer");
        let filler = "x".repeat(usize::try_from(n * 7919 % 3000).expect("small"));
        let slot = Change::put(slot_key(n), &(n, filler)).expect("JSON");
        let counter = Change::put(counter_key(), &n).expect("JSON");
        store.commit(&[slot, counter]).expect("commits");
        say("committed", n);
        store.end(&[intent(n).op]).expect("ends");
        say("ended", n);
    }
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("a test binary"))
        .args(["--exact", "acknowledged_commits_survive_kill_9", "--nocapture"])
        .env(WRITER_DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts")
}

/// What the child said last of each kind.
#[derive(Debug, Default)]
struct Said {
    begun: u64,
    committed: u64,
    ended: u64,
}

impl Said {
    fn hear(&mut self, line: &str) -> bool {
        let Some((_, said)) = line.split_once('@') else { return false };
        let (what, n) = said.split_once(' ').expect("two words");
        let n = n.trim().parse().expect("a number");
        match what {
            "begun" => self.begun = n,
            "committed" => self.committed = n,
            _ => self.ended = n,
        }
        true
    }
}

/// Lets the child work, kills it at a moment that depends on `random`, and returns what it said until then
/// and whether it was waiting for permission to commit.
fn work_and_die(dir: &Path, random: u64) -> (Said, bool) {
    let mut child = start(dir);
    let mut permits = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut said = Said::default();
    let commits = random % 120;
    // Odd rounds: exactly so many commits, killed in the wait after the next begin. Even rounds: more
    // permits than needed, killed in full flight after so many lines.
    let waits = random >> 32 & 1 == 1;
    let extra = if waits { 0 } else { 400 };
    permits
        .write_all(&vec![b'\n'; usize::try_from(commits + extra).expect("small")])
        .expect("a pipe takes 64 KiB");
    let wanted = commits * 3 + if waits { 1 } else { random >> 40 & 3 };
    let mut heard = 0;
    let mut line = String::new();
    while heard < wanted {
        line.clear();
        assert_ne!(lines.read_line(&mut line).expect("reads"), 0, "the writer died by itself");
        heard += u64::from(said.hear(&line));
    }
    child.kill().expect("kills");
    child.wait().expect("reaped");
    for line in lines.lines() {
        said.hear(&line.expect("reads"));
    }
    (said, waits)
}

fn check(dir: &Path, said: &Said, waited: bool, seed: u64) {
    let context = format!("seed {seed}, {said:?}");
    let began = Instant::now();
    let (mut store, findings) = RedbStore::open(dir).expect("opens");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "opened in {took:?}; {context}");
    assert_eq!(findings, [], "{context}");
    let rows: BTreeMap<_, _> = store.load().expect("loads").into_iter().collect();
    let counter: u64 = rows.get(&counter_key()).map_or(0, |value| decode(value).expect("whole"));
    assert!(counter >= said.committed, "commit {} is lost, {counter} is there; {context}", said.committed);
    if said.begun > 0 {
        assert!(counter <= said.begun + 1, "{counter} was never begun; {context}");
    }
    for n in counter.saturating_sub(SLOTS - 1).max(1)..=counter {
        let (found, _): (u64, String) = decode(&rows[&slot_key(n)]).expect("whole");
        assert_eq!(found, n, "half of a commit; {context}");
    }
    let open: Vec<u64> = store
        .open_intents()
        .expect("reads")
        .iter()
        .map(|intent| intent.id.parse().expect("a number"))
        .collect();
    assert!(open.len() <= 1 && open.iter().all(|n| *n > said.ended), "{open:?}; {context}");
    if waited {
        assert_eq!(open, [said.begun], "an intent is lost; {context}");
        assert_eq!(counter, said.begun - 1, "{context}");
    }
}

#[test]
fn acknowledged_commits_survive_kill_9() {
    if let Some(dir) = std::env::var_os(WRITER_DIR) {
        return write_forever(dir.as_ref());
    }
    let drawn = || u64::from_be_bytes(Uuid::new_v4().into_bytes()[..8].try_into().expect("eight bytes"));
    let seed = std::env::var(SEED).map_or_else(|_| drawn(), |seed| seed.parse().expect("a number"));
    std::io::stderr().write_all(format!("{SEED}={seed}\n").as_bytes()).expect("a terminal");
    let temp = tempfile::tempdir().expect("a directory");
    let mut random = seed | 1;
    for _ in 0..ROUNDS {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let (said, waited) = work_and_die(temp.path(), random);
        check(temp.path(), &said, waited, seed);
    }
}
