//! What every store promises, checked on both, and the faults of the one in memory.

use std::collections::BTreeMap;

use netloom_model::{ObjectKind, OpId};
use netloom_store::{Change, Intent, Key, MemoryDisk, RecordKind, RedbStore, Store, StoreError, decode};
use proptest::prelude::*;
use uuid::Uuid;

fn key(n: u8) -> Key {
    let kind = RecordKind::ALL[usize::from(n) % RecordKind::ALL.len()];
    Key::new(kind, format!("id-{n}"))
}

fn put(n: u8, value: &str) -> Change {
    Change::put(key(n), &value).expect("JSON")
}

fn intent(n: u8) -> Intent {
    Intent {
        op: OpId(Uuid::from_u128(u128::from(n))),
        verb: "create".into(),
        object: ObjectKind::Network,
        id: format!("id-{n}"),
        detail: serde_json::json!({ "undo": [n, "x"] }),
    }
}

fn read(store: &mut dyn Store) -> BTreeMap<Key, String> {
    let rows = store.load().expect("loads");
    assert!(rows.is_sorted_by_key(|(key, _)| key.clone()), "sorted");
    rows.into_iter().map(|(key, value)| (key, decode(&value).expect("whole"))).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<String>)>),
    Begin(Vec<u8>),
    End(Vec<u8>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0u8..20, prop::option::weighted(0.7, "[a-z]{0,40}"));
    prop_oneof![
        4 => prop::collection::vec(change, 0..8).prop_map(Step::Commit),
        2 => prop::collection::vec(0u8..10, 0..4).prop_map(Step::Begin),
        2 => prop::collection::vec(0u8..10, 0..4).prop_map(Step::End),
        1 => Just(Step::Reopen),
    ]
}

/// Runs the steps on a store that `open` opens, again and again, beside plain collections.
fn agrees(steps: Vec<Step>, mut open: impl FnMut() -> Box<dyn Store>) {
    let mut store = open();
    let (mut records, mut intents) = (BTreeMap::new(), Vec::new());
    for step in steps {
        match step {
            Step::Commit(changes) => {
                let mut batch = Vec::new();
                for (n, value) in changes {
                    if let Some(value) = value {
                        batch.push(put(n, &value));
                        records.insert(key(n), value);
                    } else {
                        batch.push(Change::Delete { key: key(n) });
                        records.remove(&key(n));
                    }
                }
                store.commit(&batch).expect("commits");
            }
            Step::Begin(ops) => {
                let new: Vec<_> = ops.into_iter().map(intent).collect();
                store.begin(&new).expect("begins");
                intents.extend(new);
            }
            Step::End(ops) => {
                let ops: Vec<_> = ops.into_iter().map(|n| intent(n).op).collect();
                store.end(&ops).expect("ends");
                intents.retain(|intent: &Intent| !ops.contains(&intent.op));
            }
            Step::Reopen => {
                drop(store);
                store = open();
            }
        }
        assert_eq!(read(store.as_mut()), records);
        assert_eq!(store.open_intents().expect("reads"), intents);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_in_memory_agrees_with_plain_collections(steps in prop::collection::vec(step(), 0..40)) {
        let disk = MemoryDisk::default();
        agrees(steps, || Box::new(disk.open()));
    }

    #[test]
    fn the_store_on_disk_agrees_with_plain_collections(steps in prop::collection::vec(step(), 0..25)) {
        let dir = tempfile::tempdir().expect("a directory");
        agrees(steps, || {
            let (store, findings) = RedbStore::open(dir.path()).expect("opens");
            assert_eq!(findings, []);
            Box::new(store)
        });
    }
}

#[test]
fn faults_strike_once_and_where_they_were_set() {
    let disk = MemoryDisk::default();
    let mut store = disk.open();
    disk.fail_commit(2);
    store.commit(&[put(1, "a")]).expect("the first one works");
    assert!(matches!(store.commit(&[put(2, "b")]), Err(StoreError::Database { .. })));
    assert_eq!(disk.records().len(), 1, "nothing of the second one is there");
    disk.lose_answer(1);
    assert!(matches!(store.commit(&[put(3, "c")]), Err(StoreError::CommitUncertain { .. })));
    assert_eq!(disk.records().len(), 2, "all of the third one is there");
    disk.fail_begin(1);
    assert!(store.begin(&[intent(1)]).is_err());
    assert_eq!(disk.intents(), []);
    store.begin(&[intent(1)]).expect("the fault is over");
    disk.fail_end(1);
    assert!(store.end(&[intent(1).op]).is_err());
    assert_eq!(disk.intents(), [intent(1)]);
    assert_eq!((store.syncs(), disk.commits()), (2, 2));
}

#[test]
fn a_crashed_engine_cannot_write_once_the_next_one_has_the_disk() {
    let disk = MemoryDisk::default();
    let mut crashed = disk.open();
    crashed.commit(&[put(1, "a")]).expect("alone");
    crashed.begin(&[intent(1)]).expect("alone");
    let mut next = disk.open();
    for refused in [
        crashed.commit(&[put(1, "late")]),
        crashed.begin(&[intent(2)]),
        crashed.end(&[intent(1).op]),
        crashed.load().map(drop),
        crashed.open_intents().map(drop),
    ] {
        assert!(matches!(refused, Err(StoreError::Locked { .. })));
    }
    assert_eq!(read(&mut next), BTreeMap::from([(key(1), "a".to_owned())]));
    assert_eq!(next.open_intents().expect("reads"), [intent(1)]);
}
