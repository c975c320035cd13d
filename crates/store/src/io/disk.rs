//! The file under the database, and what of it may not be on the disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
#[cfg(not(test))]
use std::time::Instant;

use redb::StorageBackend;

/// How much is written again at once.
const CHUNK: u64 = 1024 * 1024;

/// What is known of the disk under the database. It outlives the database, which is closed after an error.
#[derive(Debug)]
pub(crate) struct Disk {
    syncs: AtomicU64,
    /// What was written since the last sync that worked. After a failed sync the system takes what it could
    /// not write for written and would never try again, so only these bytes have to be written once more.
    unsynced: Mutex<Vec<Range<u64>>>,
    #[cfg(not(test))]
    since: Instant,
    /// Set by tests: what the disk refuses, and the time.
    #[cfg(test)]
    pub(crate) refuses: tests::Refusals,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            syncs: AtomicU64::new(0),
            unsynced: Mutex::default(),
            #[cfg(not(test))]
            since: Instant::now(),
            #[cfg(test)]
            refuses: tests::Refusals::default(),
        }
    }

    /// How many times data was forced to the disk.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Counts syncs from now on.
    pub(crate) fn forget_syncs(&self) {
        self.syncs.store(0, Ordering::Relaxed);
    }

    /// A clock.
    pub(crate) fn now(&self) -> Duration {
        #[cfg(not(test))]
        return self.since.elapsed();
        #[cfg(test)]
        return self.refuses.now();
    }

    /// The list is whole at all times, so a panic elsewhere leaves nothing to fear.
    fn unsynced(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, written: Range<u64>) {
        let mut unsynced = self.unsynced();
        match unsynced.last_mut() {
            Some(last) if last.end == written.start => last.end = written.end,
            _ if written.is_empty() => {}
            _ => unsynced.push(written),
        }
    }
}

/// The database's file, with its syncs counted. It needs no lock of its own: the directory is locked.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    disk: Arc<Disk>,
}

impl DiskFile {
    pub(crate) fn new(file: File, disk: Arc<Disk>) -> Self {
        Self { file, disk }
    }

    /// Writes over themselves those bytes that may not be on the disk, if any, and forces them to it.
    ///
    /// The rest of the file is left alone, its holes above all: on a full disk they would take the room that
    /// somebody frees.
    pub(crate) fn force_out(&self) -> io::Result<()> {
        let unsynced = self.disk.unsynced().clone();
        if unsynced.is_empty() {
            return Ok(());
        }
        let len = self.len()?;
        let mut chunk = Vec::new();
        for Range { start, end } in unsynced {
            let (mut at, end) = (start, end.min(len));
            while at < end {
                chunk.resize(usize::try_from((end - at).min(CHUNK)).unwrap_or(0), 0);
                self.read(at, &mut chunk)?;
                self.write_part(at, &chunk).1?;
                at += chunk.len() as u64;
            }
        }
        self.sync_data()
    }

    /// Returns also how much was written in spite of an error.
    fn write_part(&self, offset: u64, data: &[u8]) -> (u64, io::Result<()>) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            #[cfg(test)]
            if let Err(error) = self.disk.refuses.write() {
                return (at - offset, Err(error));
            }
            match self.file.write_at(rest, at) {
                Ok(0) => return (at - offset, Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    at += written as u64;
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (at - offset, Err(error)),
            }
        }
        (at - offset, Ok(()))
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        #[cfg(test)]
        self.disk.refuses.read()?;
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.disk.refuses.write()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.syncs.fetch_add(1, Ordering::Relaxed);
        // What is written during the sync is not in it for certain.
        let in_it = std::mem::take(&mut *self.disk.unsynced());
        let sync = || {
            #[cfg(test)]
            self.disk.refuses.sync()?;
            self.file.sync_data()
        };
        sync().inspect_err(|_| drop(self.disk.unsynced().splice(0..0, in_it)))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (written, outcome) = self.write_part(offset, data);
        self.disk.note(offset..offset + written);
        outcome
    }
}

#[cfg(test)]
pub(crate) mod tests;
