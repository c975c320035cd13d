//! Records read from beside: nothing is changed, nobody is kept out, and what is read is what was committed at one moment.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netloom_store::{Change, Key, RecordKind, RedbStore, Store, StoreError, decode, peek};

fn put(id: &str, value: u64) -> Change {
    Change::put(Key::new(RecordKind::Network, id), &value).expect("JSON")
}

/// Every file of a directory with its contents and the time of its last change.
fn contents(dir: &Path) -> BTreeMap<String, (Vec<u8>, i64, i64)> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let file = |path: std::path::PathBuf| {
        let meta = path.metadata().expect("there");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, (fs::read(&path).expect("readable"), meta.mtime(), meta.mtime_nsec()))
    };
    entries.map(file).collect()
}

#[test]
fn what_was_committed_is_read_and_nothing_is_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = RedbStore::open(dir.path()).expect("opened");
    store.commit(&[put("a", 1), put("b", 2)]).expect("committed");
    let rows = store.load().expect("loaded");
    let before = contents(dir.path());
    let beside = peek(dir.path()).expect("read beside the engine");
    assert_eq!(beside.records, rows);
    assert_eq!(beside.held.expect("it is held").process, Some(std::process::id()));
    assert_eq!(contents(dir.path()), before);
    store.commit(&[put("c", 3)]).expect("it goes on");
    // As after a kill: the database was not closed.
    let copy = tempfile::tempdir().expect("a directory");
    for (name, (bytes, ..)) in contents(dir.path()) {
        fs::write(copy.path().join(name), bytes).expect("copied");
    }
    drop(store);
    for place in [dir.path(), copy.path()] {
        let before = contents(place);
        let closed = peek(place).expect("read");
        assert_eq!((closed.records.len(), closed.held), (3, None));
        assert_eq!(decode::<u64>(&closed.records[2].1).expect("whole"), 3);
        assert_eq!(contents(place), before);
        let (mut store, findings) = RedbStore::open(place).expect("opened");
        assert_eq!((findings, store.load().expect("loaded")), (Vec::new(), closed.records));
    }
}

/// What an engine made and did not get round to writing is something only while there is an engine.
#[test]
fn a_database_that_nobody_has_written_to_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = RedbStore::open(dir.path()).expect("opened");
    let file = dir.path().join("records.redb");
    let written = fs::read(&file).expect("there");
    fs::write(&file, "").expect("emptied");
    let beside = peek(dir.path()).expect("an engine is at it");
    assert!(beside.records.is_empty() && beside.held.is_some(), "{beside:?}");
    fs::write(&file, written).expect("put back");
    drop(store);
    assert_eq!(peek(dir.path()).expect("no records is something else").records, []);
    fs::write(&file, "").expect("emptied");
    let error = peek(dir.path()).expect_err("nobody will");
    let said = error.to_string();
    assert!(said.contains("records.redb: it is empty: no engine has"), "{said}");
}

/// Two records that only ever change together: a copy of two moments would have them differ.
#[test]
fn beside_an_engine_that_writes_one_moment_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = RedbStore::open(dir.path()).expect("opened");
    let ballast: Vec<_> = (0..2_000).map(|n| put(&format!("ballast{n}"), n)).collect();
    store.commit(&ballast).expect("committed");
    store.commit(&[put("a", 0), put("z", 0)]).expect("committed");
    let over = AtomicBool::new(false);
    let (looks, mut seen) = (30, Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                n += 1;
                store
                    .commit(&[put("a", n), put(&format!("ballast{}", n % 2_000), n), put("z", n)])
                    .expect("committed");
            }
        });
        for _ in 0..looks {
            match peek(dir.path()) {
                Ok(beside) => {
                    assert_eq!(beside.records.len(), 2_002);
                    let value = |id: &str| {
                        let key = Key::new(RecordKind::Network, id);
                        let row = beside.records.iter().find(|(other, _)| *other == key).expect("there");
                        decode::<u64>(&row.1).expect("whole")
                    };
                    assert_eq!(value("a"), value("z"));
                    seen.push(value("a"));
                }
                Err(error) => assert!(matches!(error, StoreError::Busy { .. }), "{error}"),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(seen.len() > looks / 3, "only {} of {looks} looks saw anything", seen.len());
    assert!(seen.is_sorted(), "{seen:?}");
}

#[test]
fn what_cannot_be_read_is_told_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = peek(dir.path()).expect_err("there is nothing");
    assert!(matches!(&error, StoreError::Io { path, .. } if path.ends_with("records.redb")), "{error}");
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0, "nothing was made");
    let file = dir.path().join("records.redb");
    fs::write(&file, []).expect("written");
    let error = peek(dir.path()).expect_err("nobody has made it");
    assert!(error.to_string().contains("it is empty"), "{error}");
    drop(RedbStore::open(dir.path()).expect("opened"));
    assert_eq!(peek(dir.path()).expect("read").records, []);
    let (mut store, _) = RedbStore::open(dir.path()).expect("opened");
    store.commit(&(0..500).map(|n| put(&format!("n{n}"), n)).collect::<Vec<_>>()).expect("committed");
    drop(store);
    let whole = fs::read(&file).expect("readable");
    for damaged in [b"nonsense".to_vec(), whole[..whole.len() / 2].to_vec(), vec![0xff; 8_192]] {
        fs::write(&file, &damaged).expect("written");
        let error = peek(dir.path()).expect_err("damaged");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(fs::read(&file).expect("readable"), damaged);
    }
}
