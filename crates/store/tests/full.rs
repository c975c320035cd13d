//! A file system that is full, and has room again. It is a small one of the test's own, in a mount namespace
//! of its own.

use std::path::Path;
use std::process::Command;

use netloom_model::{ObjectKind, OpId};
use netloom_store::{Change, Intent, Key, RecordKind, RedbStore, Store, decode};
use uuid::Uuid;

/// Set for the child: where it may mount.
const MOUNT_DIR: &str = "NETLOOM_TEST_MOUNT_DIR";

fn put(n: u32) -> Change {
    let key = Key::new(RecordKind::Endpoint, format!("{n:04}"));
    Change::put(key, &(n, "x".repeat(30_000))).expect("JSON")
}

fn intent(n: u32) -> Intent {
    let op = OpId(Uuid::from_u128(u128::from(n)));
    Intent { op, verb: "write".into(), object: ObjectKind::Endpoint, id: n.to_string(), detail: n.into() }
}

/// The child, on four megabytes.
fn fill_and_free(dir: &Path) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(dir).status();
    assert!(mounted.expect("mount must be installed (package mount)").success());
    let (data, ballast) = (dir.join("data"), dir.join("ballast"));
    std::fs::write(&ballast, vec![0; 2 << 20]).expect("room");
    let (mut store, _) = RedbStore::open(&data).expect("opens");
    let refused = (0..).find(|n| store.begin(&[intent(*n)]).is_err() || store.commit(&[put(*n)]).is_err());
    let refused = refused.expect("four megabytes are full soon");
    assert!(store.commit(&[put(refused + 1)]).is_err(), "still full");
    std::fs::remove_file(&ballast).expect("removed");
    for n in refused + 2..refused + 12 {
        store.begin(&[intent(n)]).expect("there is room");
        store.commit(&[put(n)]).expect("there is room");
        store.end(&[intent(n).op]).expect("there is room");
    }
    let rows = store.load().expect("loads");
    drop(store);
    let (mut again, findings) = RedbStore::open(&data).expect("opens");
    assert_eq!(findings, []);
    assert_eq!(again.load().expect("loads"), rows);
    let found: Vec<u32> =
        rows.iter().map(|(_, row)| decode::<(u32, String)>(row).expect("whole").0).collect();
    let sure = (0..refused).chain(refused + 2..refused + 12);
    assert!(sure.clone().all(|n| found.contains(&n)), "{found:?}");
    assert!(found.iter().all(|n| *n < refused + 12));
}

#[test]
fn a_full_file_system_that_has_room_again_goes_on() {
    if let Some(dir) = std::env::var_os(MOUNT_DIR) {
        return fill_and_free(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("a directory");
    // Its mounts end with it.
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().expect("a test binary"))
        .args(["--exact", "a_full_file_system_that_has_room_again_goes_on", "--nocapture"])
        .env(MOUNT_DIR, dir.path())
        .status()
        .expect("unshare must be installed (package util-linux)");
    assert!(status.success());
}
