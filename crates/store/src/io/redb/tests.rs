//! The store on a disk that refuses, and comes back.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::io::disk::tests::Refusals;
use crate::record::{RecordKind, decode};

fn key(n: u32) -> Key {
    Key::new(RecordKind::Endpoint, format!("{n:04}"))
}

/// Changes of some size, so that the file has to grow now and then.
fn put(n: u32) -> Vec<Change> {
    vec![Change::put(key(n), &(n, "x".repeat(3000))).expect("JSON")]
}

fn numbers(store: &mut RedbStore) -> Vec<u32> {
    let rows = store.load().expect("loads");
    let number = |value: &[u8]| decode::<(u32, String)>(value).expect("whole").0;
    rows.iter().map(|(_, value)| number(value)).collect()
}

fn opened(dir: &tempfile::TempDir) -> RedbStore {
    let (store, findings) = RedbStore::open(dir.path()).expect("opens");
    assert_eq!(findings, []);
    store
}

/// Commits `rounds` times while the disk refuses and once when it is back. What was said to have failed is
/// not there, what was said to be there is, what was uncertain is either; the store and the next to open it
/// agree.
fn survives(switch: fn(&Refusals) -> &AtomicBool, rounds: u32) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = opened(&dir);
    let mut sure = Vec::new();
    let mut unsure = Vec::new();
    let mut n = 0;
    for _ in 0..6 {
        for _ in 0..20 {
            store.commit(&put(n)).expect("the disk is well");
            sure.push(n);
            n += 1;
        }
        switch(&store.disk.refuses).store(true, Ordering::Relaxed);
        for _ in 0..rounds {
            match store.commit(&put(n)) {
                // What is cached or held back may do without the disk.
                Ok(()) => sure.push(n),
                Err(StoreError::CommitUncertain { .. }) => unsure.push(n),
                Err(_) => {}
            }
            n += 1;
        }
        // The directory is this store's all the time.
        assert!(matches!(RedbStore::open(dir.path()), Err(StoreError::Locked { .. })));
        switch(&store.disk.refuses).store(false, Ordering::Relaxed);
        let found = numbers(&mut store);
        assert!(sure.iter().all(|n| found.contains(n)), "nothing that was confirmed is lost");
        assert!(found.iter().all(|n| sure.contains(n) || unsure.contains(n)), "nothing refused is there");
        // It is settled: what is there stays there.
        sure = found;
        unsure.clear();
    }
    drop(store);
    assert_eq!(numbers(&mut opened(&dir)), sure);
}

#[test]
fn a_full_disk_that_has_room_again_goes_on() {
    survives(|refuses| &refuses.writes, 3);
}

#[test]
fn a_disk_that_failed_to_sync_and_is_back_goes_on() {
    survives(|refuses| &refuses.syncs, 3);
}

#[test]
fn a_disk_that_failed_to_read_and_is_back_goes_on() {
    survives(|refuses| &refuses.reads, 3);
}

#[test]
fn a_commit_after_a_single_error_needs_no_load_in_between() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = opened(&dir);
    store.commit(&put(1)).expect("the disk is well");
    store.disk.refuses.syncs.store(true, Ordering::Relaxed);
    let error = store.commit(&put(2)).expect_err("refused");
    assert!(matches!(error, StoreError::CommitUncertain { .. }), "{error}");
    store.disk.refuses.syncs.store(false, Ordering::Relaxed);
    store.commit(&put(3)).expect("the disk is back");
    let found = numbers(&mut store);
    assert!(found.contains(&1) && found.contains(&3), "{found:?}");
}

#[test]
fn a_database_that_is_lost_meanwhile_is_not_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = opened(&dir);
    store.disk.refuses.syncs.store(true, Ordering::Relaxed);
    store.commit(&put(1)).expect_err("refused");
    store.disk.refuses.syncs.store(false, Ordering::Relaxed);
    let path = dir.path().join(NAME);
    std::fs::rename(&path, dir.path().join("elsewhere")).expect("renamed");
    let error = store.commit(&put(2)).expect_err("nothing to commit to");
    assert!(error.to_string().contains(NAME) && !path.exists(), "{error}");
    std::fs::rename(dir.path().join("elsewhere"), &path).expect("renamed");
    store.commit(&put(2)).expect("it is back");
}

#[test]
fn opening_again_leaves_the_holes_of_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = opened(&dir);
    let room = || {
        let file = std::fs::metadata(dir.path().join(NAME)).expect("there");
        (file.len(), file.blocks() * 512)
    };
    // The file grows by doubling, so there are holes in it soon.
    let grown = (0..2000).find(|n| {
        store.commit(&put(*n)).expect("the disk is well");
        let (len, taken) = room();
        len > taken + (512 << 10)
    });
    assert!(grown.is_some(), "a file with holes: {:?}", room());
    let (_, taken) = room();
    for _ in 0..10 {
        store.disk.refuses.syncs.store(true, Ordering::Relaxed);
        store.commit(&put(2)).expect_err("refused");
        store.load().expect_err("still refused");
        store.disk.refuses.syncs.store(false, Ordering::Relaxed);
        store.load().expect("the disk is back");
    }
    let (_, after) = room();
    assert!(after < taken + (128 << 10), "{taken} bytes were taken, {after} are now");
}

#[test]
fn a_disk_that_goes_on_refusing_is_let_be_when_opening_takes_long() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = opened(&dir);
    let disk = Arc::clone(&store.disk);
    let wait = |ms| disk.refuses.clock.fetch_add(ms, Ordering::Relaxed);
    let tries = |store: &mut RedbStore| {
        let before = disk.syncs();
        let error = store.commit(&put(1)).expect_err("refused").to_string();
        (disk.syncs() > before, error)
    };
    disk.refuses.syncs.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(tries(&mut store).0, "a try that costs nothing is made at every call");
    }
    disk.refuses.sync_takes.store(200, Ordering::Relaxed);
    assert!(tries(&mut store).0);
    for left in [800, 500, 200] {
        let (tried, error) = tries(&mut store);
        assert!(!tried && error.contains(&format!("in {left} ms")), "{error}");
        assert!(error.contains("Input/output error"), "it says what is the matter: {error}");
        wait(300);
    }
    assert!(tries(&mut store).0);
    wait(800);
    // It opens well and fails at once: that was in vain as well.
    disk.refuses.syncs.store(false, Ordering::Relaxed);
    store.load().expect("the disk is back");
    disk.refuses.syncs.store(true, Ordering::Relaxed);
    assert!(tries(&mut store).0, "an open database is used");
    let (tried, error) = tries(&mut store);
    assert!(!tried && error.contains("the next try"), "{error}");
    disk.refuses.syncs.store(false, Ordering::Relaxed);
    // However slow it is, the rest is short.
    wait(5000);
    store.commit(&put(1)).expect("the disk is back");
}
