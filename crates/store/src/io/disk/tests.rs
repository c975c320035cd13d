//! A disk that refuses, and what is written to it again afterwards.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;

use super::*;

/// What a disk refuses at present, how slow it is, and what was written to it.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) reads: AtomicBool,
    pub(crate) writes: AtomicBool,
    pub(crate) syncs: AtomicBool,
    /// The time in milliseconds. It stands still but for what follows.
    pub(crate) clock: AtomicU64,
    /// How long a sync takes by that clock.
    pub(crate) sync_takes: AtomicU64,
    /// How many writes there were.
    pub(crate) written: AtomicU64,
}

impl Refusals {
    pub(crate) fn read(&self) -> io::Result<()> {
        Self::answer(&self.reads, 5)
    }

    /// A full disk, and not one that fails.
    pub(crate) fn write(&self) -> io::Result<()> {
        self.written.fetch_add(1, Ordering::Relaxed);
        Self::answer(&self.writes, 28)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.clock.fetch_add(self.sync_takes.load(Ordering::Relaxed), Ordering::Relaxed);
        Self::answer(&self.syncs, 5)
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_millis(self.clock.load(Ordering::Relaxed))
    }

    fn answer(refused: &AtomicBool, errno: i32) -> io::Result<()> {
        if refused.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) }
    }
}

fn file() -> DiskFile {
    DiskFile::new(tempfile::tempfile().expect("a file"), Arc::new(Disk::new()))
}

fn unsynced(file: &DiskFile) -> Vec<Range<u64>> {
    file.disk.unsynced().clone()
}

#[test]
fn what_no_sync_confirmed_is_written_again_and_nothing_else() {
    let file = file();
    file.write(0, &[1; 10_000]).expect("room");
    file.sync_data().expect("the disk is well");
    file.write(4096, &[2; 4096]).expect("room");
    file.write(8192, &[3; 4096]).expect("room");
    file.write(0, &[4; 100]).expect("room");
    file.disk.refuses.syncs.store(true, Ordering::Relaxed);
    file.sync_data().expect_err("refused");
    file.write(20_000, &[5; 100]).expect("room");
    let lost = [4096..12_288, 0..100, 20_000..20_100];
    assert_eq!(unsynced(&file), lost);
    let mut before = vec![0; 20_100];
    file.read(0, &mut before).expect("reads");
    // As long as it is of no use, the bytes stay owed.
    file.force_out().expect_err("refused");
    assert_eq!(unsynced(&file), lost);
    file.disk.refuses.syncs.store(false, Ordering::Relaxed);
    file.disk.refuses.writes.store(true, Ordering::Relaxed);
    file.force_out().expect_err("refused");
    assert_eq!(unsynced(&file), lost);
    file.disk.refuses.writes.store(false, Ordering::Relaxed);
    file.disk.refuses.written.store(0, Ordering::Relaxed);
    file.force_out().expect("the disk is back");
    assert_eq!(file.disk.refuses.written.load(Ordering::Relaxed), 3);
    assert_eq!(unsynced(&file), []);
    let mut after = vec![0; 20_100];
    file.read(0, &mut after).expect("reads");
    assert_eq!(after, before);
    file.force_out().expect("the disk is back");
    assert_eq!(file.disk.refuses.written.load(Ordering::Relaxed), 3, "once is enough");
}

#[test]
fn holes_stay_holes() {
    let file = file();
    file.set_len(64 << 20).expect("no room is needed");
    file.write(32 << 20, &[1; 4096]).expect("room");
    file.disk.refuses.syncs.store(true, Ordering::Relaxed);
    file.sync_data().expect_err("refused");
    file.disk.refuses.syncs.store(false, Ordering::Relaxed);
    file.force_out().expect("the disk is back");
    let taken = file.file.metadata().expect("there").blocks() * 512;
    assert!((4096..1 << 20).contains(&taken), "{taken} bytes are taken");
}

#[test]
fn bytes_that_were_cut_off_are_owed_to_nobody() {
    let file = file();
    file.write(0, &[1; 10_000]).expect("room");
    file.disk.refuses.syncs.store(true, Ordering::Relaxed);
    file.sync_data().expect_err("refused");
    file.disk.refuses.syncs.store(false, Ordering::Relaxed);
    file.set_len(5000).expect("cut");
    file.force_out().expect("the disk is back");
    assert_eq!((file.len().expect("there"), unsynced(&file)), (5000, vec![]));
}

#[test]
fn a_long_range_is_written_again_in_pieces() {
    let file = file();
    let bytes: Vec<u8> = (0..CHUNK * 5 / 2).map(|n| u8::try_from(n % 251).expect("small")).collect();
    file.write(100, &bytes).expect("room");
    file.disk.refuses.written.store(0, Ordering::Relaxed);
    file.force_out().expect("the disk is well");
    assert_eq!(file.disk.refuses.written.load(Ordering::Relaxed), 3);
    let mut found = vec![0; bytes.len()];
    file.read(100, &mut found).expect("reads");
    assert_eq!(found, bytes);
}
