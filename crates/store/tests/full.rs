//! A file system that is full, and has room again. It is a small one of the test's own, in a mount namespace
//! of its own.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netloom_model::{ObjectKind, OpId};
use netloom_store::{Change, Intent, Key, RecordKind, RedbStore, Store, StoreError, decode};
use uuid::Uuid;

/// Set for the child: where it may mount.
const MOUNT_DIR: &str = "NETLOOM_TEST_MOUNT_DIR";

fn key(n: u32) -> Key {
    Key::new(RecordKind::Endpoint, format!("{n:04}"))
}

fn put(n: u32) -> Change {
    Change::put(key(n), &(n, "x".repeat(30_000))).expect("JSON")
}

fn intent(n: u32) -> Intent {
    let op = OpId(Uuid::from_u128(u128::from(n)));
    Intent { op, verb: "write".into(), object: ObjectKind::Endpoint, id: n.to_string(), detail: n.into() }
}

fn opened(data: &Path) -> RedbStore {
    let (store, findings) = RedbStore::open(data).expect("opens");
    assert_eq!(findings, []);
    store
}

/// Calls again while a database rests that took long to open, as it may on a busy machine. Every other error
/// is one too many.
fn rested<T>(store: &mut RedbStore, mut call: impl FnMut(&mut RedbStore) -> Result<T, StoreError>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match call(store) {
            Ok(answer) => return answer,
            Err(error) => {
                let rests = error.to_string().contains("the next try is in");
                assert!(rests && Instant::now() < deadline, "{error}");
                std::thread::yield_now();
            }
        }
    }
}

fn numbers(store: &mut RedbStore) -> Vec<u32> {
    let rows = rested(store, Store::load);
    rows.iter().map(|(_, row)| decode::<(u32, String)>(row).expect("whole").0).collect()
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("a name is free");
    let full = (0..).find_map(|_| file.write_all(&[1; 4096]).err()).expect("it ends");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}

/// Runs `child` in a process of its own, on a file system of so many megabytes, whose mount ends with it.
fn on_a_small_disk(test: &str, megabytes: u32, child: fn(&Path)) {
    if let Some(dir) = std::env::var_os(MOUNT_DIR) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"]).arg(&dir);
        let mounted = mount.status().expect("mount must be installed (package mount)");
        assert!(mounted.success());
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().expect("a test binary"))
        .args(["--exact", test, "--nocapture"])
        .env(MOUNT_DIR, dir.path())
        .status()
        .expect("unshare must be installed (package util-linux)");
    assert!(status.success());
}

/// The child, on four megabytes.
fn fill_and_free(dir: &Path) {
    let (data, ballast) = (dir.join("data"), dir.join("ballast"));
    fs::write(&ballast, vec![0; 2 << 20]).expect("room");
    let mut store = opened(&data);
    let refused = (0..).find(|n| store.begin(&[intent(*n)]).is_err() || store.commit(&[put(*n)]).is_err());
    let refused = refused.expect("four megabytes are full soon");
    assert!(store.commit(&[put(refused + 1)]).is_err(), "still full");
    fs::remove_file(&ballast).expect("removed");
    for n in refused + 2..refused + 12 {
        store.begin(&[intent(n)]).expect("there is room");
        rested(&mut store, |store| store.commit(&[put(n)]));
        store.end(&[intent(n).op]).expect("there is room");
    }
    let rows = store.load().expect("loads");
    let found = numbers(&mut store);
    drop(store);
    assert_eq!(opened(&data).load().expect("loads"), rows);
    let sure = (0..refused).chain(refused + 2..refused + 12);
    assert!(sure.clone().all(|n| found.contains(&n)), "{found:?}");
    assert!(found.iter().all(|n| *n < refused + 12));
}

#[test]
fn a_full_file_system_that_has_room_again_goes_on() {
    on_a_small_disk("a_full_file_system_that_has_room_again_goes_on", 4, fill_and_free);
}

/// The child, on seven megabytes: the database's file is longer than that by then, and has holes.
fn free_a_little(dir: &Path) {
    let (data, ballast) = (dir.join("data"), dir.join("ballast"));
    let blocks = || fs::metadata(data.join("records.redb")).expect("there").blocks();
    fs::write(&ballast, vec![0; 1 << 20]).expect("room");
    let mut store = opened(&data);
    let refused = (0..).find(|n| store.commit(&[put(*n)]).is_err()).expect("seven megabytes are full soon");
    let file = fs::metadata(data.join("records.redb")).expect("there");
    assert!(file.len() > (file.blocks() * 512) + (1 << 20), "more holes than room: {file:?}");
    let taken = blocks();
    let before = numbers(&mut store);
    assert!(store.commit(&[put(refused)]).is_err(), "still full");
    fs::remove_file(&ballast).expect("removed");
    assert_eq!(numbers(&mut store), before);
    assert!(blocks() <= taken, "opening again takes no room: {taken} blocks, then {}", blocks());
    for n in 0..5 {
        store.commit(&[put(refused + n)]).expect("there is room");
    }
    assert_eq!(numbers(&mut store).len(), before.len() + 5);
}

#[test]
fn a_database_that_is_opened_again_leaves_the_room_that_was_freed() {
    on_a_small_disk("a_database_that_is_opened_again_leaves_the_room_that_was_freed", 7, free_a_little);
}

/// The child: a journal of finished operations, and not a byte free.
fn delete_without_room(dir: &Path) {
    let (data, ballast) = (dir.join("data"), dir.join("ballast"));
    let mut store = opened(&data);
    for n in 0..20 {
        store.commit(&[put(n)]).expect("there is room");
    }
    for n in 0..300 {
        store.begin(&[intent(n)]).expect("there is room");
        store.end(&[intent(n).op]).expect("there is room");
    }
    let journal = || fs::metadata(data.join("journal")).expect("there").len();
    assert!((30_000..65_536).contains(&journal()), "{} bytes of history", journal());
    fill(&ballast);
    for n in 0..20 {
        store.begin(&[intent(1000 + n)]).expect("history makes room");
        store.commit(&[Change::Delete { key: key(n) }]).expect("history makes room");
        store.end(&[intent(1000 + n).op]).expect("history makes room");
    }
    for n in 2000..3000 {
        store.begin(&[intent(n)]).expect("history makes room");
        store.end(&[intent(n).op]).expect("history makes room");
    }
    assert_eq!(store.load().expect("loads"), []);
    // An engine that starts on a full disk has room for an intent as well.
    drop(store);
    let mut store = opened(&data);
    assert_eq!(journal(), 8, "nothing but the header");
    store.begin(&[intent(1)]).expect("history made room");
    drop(store);
    assert_eq!(opened(&data).open_intents().expect("reads"), [intent(1)]);
}

#[test]
fn a_full_file_system_keeps_no_operation_from_being_noted() {
    on_a_small_disk("a_full_file_system_keeps_no_operation_from_being_noted", 4, delete_without_room);
}
