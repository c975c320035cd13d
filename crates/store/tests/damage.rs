//! The store on disk against a second engine and against damaged files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use netloom_store::{Change, Key, RecordKind, RedbStore, Store, StoreError, decode};
use redb::{Database, TableDefinition};

const DATABASE: &str = "records.redb";
/// Records of a filled store, and of its last commit.
const ROWS: usize = 400;
const BATCH: usize = 10;

fn put(n: u32) -> Change {
    let key = Key::new(RecordKind::Endpoint, format!("{n:064}"));
    Change::put(key, &format!("value {n} {}", "x".repeat(200))).expect("JSON")
}

/// A store with some hundred records, closed as a process closes it or as a crash leaves it.
fn filled(dir: &Path, crashed: bool) -> Vec<u8> {
    let (mut store, _) = RedbStore::open(dir).expect("opens");
    for n in 0..40 {
        let batch: Vec<_> = (0..10).map(|i| put(n * 10 + i)).collect();
        assert_eq!(batch.len(), BATCH);
        store.commit(&batch).expect("commits");
    }
    let image = fs::read(dir.join(DATABASE)).expect("there");
    drop(store);
    if crashed { image } else { fs::read(dir.join(DATABASE)).expect("there") }
}

/// Opens a store over this database file. Whatever it is, the store must open, and then work.
fn survives(dir: &Path, image: &[u8], what: &str) -> usize {
    fs::write(dir.join(DATABASE), image).expect("space");
    let (mut store, findings) = RedbStore::open(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    let rows = store.load().unwrap_or_else(|error| panic!("{what}: {error}"));
    for (_, value) in &rows {
        let read: Result<String, _> = decode(value);
        assert!(matches!(read, Ok(_) | Err(StoreError::Damaged { .. } | StoreError::Newer { .. })), "{what}");
    }
    if let Some(finding) = findings.first() {
        assert_eq!(fs::read(&finding.path).expect("kept").len(), image.len(), "{what}: kept as it was");
        assert!(rows.is_empty(), "{what}: a fresh database");
        fs::remove_file(&finding.path).expect("there");
    } else if !image.is_empty() {
        // A damaged root looks like the torn commit of a crash, and then the commit before it counts.
        assert!(rows.len() == ROWS || rows.len() == ROWS - BATCH, "{what}: {} rows", rows.len());
    }
    store.commit(&[put(7)]).unwrap_or_else(|error| panic!("{what}: {error}"));
    findings.len()
}

#[test]
fn a_second_engine_is_refused_until_the_first_is_gone() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("a/b");
    let (first, _) = RedbStore::open(&dir).expect("free");
    let mode = fs::metadata(&dir).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(fs::metadata(dir.join(DATABASE)).expect("there").permissions().mode() & 0o777, 0o600);
    let error = RedbStore::open(&dir).expect_err("taken");
    assert_eq!(error, StoreError::Locked { dir: dir.clone() });
    drop(first);
    RedbStore::open(&dir).expect("free again");
}

#[test]
fn a_place_that_is_no_directory_is_an_error() {
    let temp = tempfile::tempdir().expect("a directory");
    let file = temp.path().join("file");
    fs::write(&file, "x").expect("space");
    assert!(matches!(RedbStore::open(&file), Err(StoreError::Io { .. })));
    assert!(matches!(RedbStore::open(&file.join("below")), Err(StoreError::Io { .. })));
    assert_eq!(fs::read(&file).expect("untouched"), b"x");
}

#[test]
fn a_commit_is_one_sync() {
    let temp = tempfile::tempdir().expect("a directory");
    let (mut store, _) = RedbStore::open(temp.path()).expect("free");
    for n in 0..200 {
        store.commit(&[put(n % 50)]).expect("commits");
    }
    assert!((200..=204).contains(&store.syncs()), "{} syncs; only a growing file needs more", store.syncs());
}

#[test]
fn a_database_cut_anywhere_is_used_or_set_aside() {
    for crashed in [false, true] {
        let temp = tempfile::tempdir().expect("a directory");
        let image = filled(temp.path(), crashed);
        assert_eq!(survives(temp.path(), &image, "whole"), 0);
        let mut set_aside = 0;
        let cuts =
            (1..64).chain((1..60).map(|i| image.len() * i / 60)).chain([image.len() - 1, 4095, 4096, 4097]);
        for cut in cuts {
            set_aside += survives(temp.path(), &image[..cut], &format!("cut to {cut} of {}", image.len()));
        }
        assert!(set_aside > 60, "{set_aside}");
        survives(temp.path(), &[], "empty");
    }
}

#[test]
fn garbage_anywhere_is_noticed_or_harmless() {
    for crashed in [false, true] {
        let temp = tempfile::tempdir().expect("a directory");
        let image = filled(temp.path(), crashed);
        // Every byte of the header once, then spots all over the file, some of them pages long.
        let spots = (0..320).map(|at| (at, 1)).chain((0..150).map(|i| (image.len() / 150 * i, 1 + i * 40)));
        for (at, len) in spots {
            let mut altered = image.clone();
            let end = (at + len).min(image.len());
            for (i, byte) in altered[at..end].iter_mut().enumerate() {
                *byte ^= 0x5a_u8.wrapping_add(u8::try_from(i % 199).expect("small"));
            }
            survives(temp.path(), &altered, &format!("garbage at {at}, {len} bytes, crashed {crashed}"));
        }
        survives(temp.path(), &vec![0xa5; 100_000], "nothing but garbage");
        survives(temp.path(), &vec![0; 100_000], "nothing but zeros");
    }
}

#[test]
fn a_database_of_a_later_format_is_set_aside_under_a_name_of_its_own() {
    let temp = tempfile::tempdir().expect("a directory");
    for n in 1..=3 {
        drop(RedbStore::open(temp.path()).expect("free"));
        let meta: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("meta");
        let database = Database::open(temp.path().join(DATABASE)).expect("opens");
        let transaction = database.begin_write().expect("begins");
        transaction.open_table(meta).expect("there").insert(&b"format"[..], &[9][..]).expect("inserts");
        transaction.commit().expect("commits");
        drop(database);
        let (_, findings) = RedbStore::open(temp.path()).expect("opens");
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, temp.path().join(format!("{DATABASE}.broken-{n}")));
        assert!(findings[0].why.contains("later than 1"), "{}", findings[0].why);
    }
}
