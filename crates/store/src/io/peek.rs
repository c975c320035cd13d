//! The records of a directory, read without changing anything in it, also while an engine works with it.
//!
//! The database is copied into memory and opened there. That an engine goes on writing meanwhile is noticed: a copy that
//! mixes two moments fails the database's own check, because a commit writes its pages elsewhere before its root. Then it
//! is copied again. Opening the file itself would not do: pages that a reader has still to see may be written over.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, StorageBackend, TableError};

use super::directory::LOCK;
use super::redb::{FORMAT, FORMAT_KEY, META, NAME, read_rows};
use crate::error::StoreError;
use crate::record::Key;

/// The largest database that is taken into memory.
const LARGEST: u64 = 4 << 30;
/// How often a database is copied that somebody writes to.
const COPIES: usize = 8;

/// What a look into a directory found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peeked {
    /// Every record, in the order of the keys, as [`crate::Store::load`] has them.
    pub records: Vec<(Key, Vec<u8>)>,
    /// Who has the directory at the moment. What that engine has in mind only, such as addresses in quarantine and what
    /// is under way, is not in the records.
    pub held: Option<Held>,
}

/// An engine that has a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its process, where the kernel tells.
    pub process: Option<u32>,
}

/// Reads the records of a directory. Writes nothing, takes no lock (it could keep an engine from starting), and makes nothing
/// that is missing.
///
/// # Errors
/// `Io` when there is no database, nobody has ever written to it, or it cannot be read; `Damaged` and `Newer` for what it holds; `Busy` when an engine
/// writes to it so much that no copy of it is whole.
pub fn peek(dir: &Path) -> Result<Peeked, StoreError> {
    let path = dir.join(NAME);
    let mut why = String::new();
    for _ in 0..COPIES {
        let held = holder(&dir.join(LOCK));
        let bytes = copy(&path)?;
        match read(bytes) {
            Ok(records) => return Ok(Peeked { records, held }),
            // Made a moment ago.
            Err(Unread::Blank) if held.is_some() => return Ok(Peeked { records: Vec::new(), held }),
            Err(Unread::Blank) => {
                let why = "it is empty: no engine has finished its first start here, and none is at it";
                return Err(StoreError::io("read", &path, &io::Error::other(why)));
            }
            Err(Unread::Format(found)) => {
                let what = path.display().to_string();
                return Err(StoreError::Newer { what, found, known: FORMAT.into() });
            }
            // Somebody may have written meanwhile, also an engine that is not seen from here.
            Err(Unread::Broken(broken)) => why = broken,
        }
    }
    match holder(&dir.join(LOCK)) {
        Some(Held { process }) => Err(StoreError::Busy { path, process }),
        None => Err(StoreError::damaged(path.display().to_string(), why)),
    }
}

fn copy(path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |error: io::Error| StoreError::io("read", path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    if len > LARGEST {
        return Err(StoreError::io("read", path, &io::Error::other(format!("it has {len} bytes"))));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    file.by_ref().take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Who has a lock, by the kernel's list (`proc_locks(5)`): the locks of processes that can be seen from here.
fn holder(lock: &Path) -> Option<Held> {
    let meta = lock.metadata().ok()?;
    let (dev, inode) = (meta.dev(), meta.ino());
    let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff);
    let minor = (dev & 0xff) | ((dev >> 12) & !0xff);
    let name = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let mut locks = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = locks.find(|lock| lock.get(1) == Some(&"FLOCK") && lock.get(5) == Some(&name.as_str()))?;
    Some(Held { process: found.get(4)?.parse().ok() })
}

/// Why a copy was not read.
enum Unread {
    /// Torn or damaged.
    Broken(String),
    /// Whole, and of this format.
    Format(u32),
    /// Nothing has been written yet.
    Blank,
}

fn read(bytes: Vec<u8>) -> Result<Vec<(Key, Vec<u8>)>, Unread> {
    if bytes.is_empty() {
        return Err(Unread::Blank);
    }
    let opened = catch_unwind(AssertUnwindSafe(|| rows(bytes)));
    opened.unwrap_or_else(|_| Err(Unread::Broken("the database stopped over its contents".into())))
}

fn rows(bytes: Vec<u8>) -> Result<Vec<(Key, Vec<u8>)>, Unread> {
    let broken = |error: redb::Error| Unread::Broken(error.to_string());
    let database = redb::Builder::new()
        .set_check_integrity_on_open(true)
        .create_with_backend(Copied(Mutex::new(bytes)))
        .map_err(|error| broken(error.into()))?;
    match format(&database).map_err(broken)? {
        Some(format) if format != [FORMAT] => {
            return Err(Unread::Format(format.first().copied().unwrap_or(0).into()));
        }
        Some(_) => {}
        // The tables are made together.
        None => return Err(Unread::Blank),
    }
    read_rows(&database).map_err(broken)?.map_err(|error| Unread::Broken(error.to_string()))
}

fn format(database: &Database) -> Result<Option<Vec<u8>>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT_KEY)?.map(|format| format.value().to_vec())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A database in memory. What opening it has to repair is repaired there.
#[derive(Debug)]
struct Copied(Mutex<Vec<u8>>);

impl Copied {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok();
    let range = start.and_then(|start| Some(start..start.checked_add(len)?));
    range.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl StorageBackend for Copied {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let part = bytes.get(place(offset, out.len())?).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(place(len, 0)?.start, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let range = place(offset, data.len())?;
        if bytes.len() < range.end {
            bytes.resize(range.end, 0);
        }
        bytes[range].copy_from_slice(data);
        Ok(())
    }
}
