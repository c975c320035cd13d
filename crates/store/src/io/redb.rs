//! The store on disk: a redb database for the records beside the journal of intents.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netloom_model::OpId;
use redb::{CommitError, Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::error::StoreError;
use crate::io::directory::{Directory, private_file};
use crate::io::disk::{Disk, DiskFile};
use crate::io::journal::JournalFile;
use crate::journal::Intent;
use crate::record::{Change, Key};
use crate::store::{Finding, Store};

/// The database's file.
pub(super) const NAME: &str = "records.redb";
/// Raw bytes on both sides: what they mean is our business, not the database's.
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
pub(super) const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("meta");
pub(super) const FORMAT_KEY: &[u8] = b"format";
/// The layout of the tables.
pub(super) const FORMAT: u8 = 1;
/// The database's cache. The records of ten thousand endpoints fit.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// What opening again may take and still be done at every call.
const CHEAP: Duration = Duration::from_millis(100);
/// How many times as long as it took to open again it is then let be, if that is not cheap.
const REST: u32 = 4;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Records in a redb database, intents in a journal, both in one locked directory.
///
/// A commit is one-phase: the pages, the root and its checksum are written and forced out together, and a
/// torn commit is recognized by the checksum at the next start. That start then reads the whole database
/// once; it does so anyway, to find damage before anything is built on it.
///
/// A database that met an error of the disk refuses everything from then on. It is closed then, and the next
/// call opens it again, as a start would: with free space, or with the disk back, the store goes on. Whether a
/// commit of unknown end is there is what the database says that was opened again. Opening reads all of the
/// database: where that takes long, a disk that goes on refusing is left alone for a while, and the calls of
/// that time fail at once.
#[derive(Debug)]
pub struct RedbStore {
    /// `None` after an error, until the next call.
    database: Option<Database>,
    path: PathBuf,
    journal: JournalFile,
    disk: Arc<Disk>,
    /// What the database was closed over, or not opened again.
    why_closed: String,
    /// By the disk's clock: when it may be opened again.
    not_before: Duration,
    /// Last, so that the database is closed before the lock goes.
    _dir: Directory,
}

impl RedbStore {
    /// Whether a directory has records already.
    #[must_use]
    pub fn is_there(dir: &Path) -> bool {
        dir.join(NAME).exists()
    }

    /// Opens the store of a directory, which is made with mode 0700 if needed. A database that is damaged or
    /// of a later format is set aside and replaced by an empty one; the findings tell. Nothing is deleted.
    ///
    /// # Errors
    /// `Locked` if another engine has the directory; `Io`, `Database`.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Finding>), StoreError> {
        let dir = Directory::open(dir)?;
        let mut disk = Arc::new(Disk::new());
        let mut findings = Vec::new();
        let path = dir.join(NAME);
        let database = match open_database(&path, &disk) {
            Ok(database) => database,
            Err(Unusable::Broken(why)) => {
                findings.push(dir.set_aside(NAME, why)?);
                // Nothing of the old file is owed to the new one.
                disk = Arc::new(Disk::new());
                open_database(&path, &disk).map_err(|unusable| match unusable {
                    Unusable::Broken(why) => StoreError::damaged(path.display().to_string(), why),
                    Unusable::Failed(error) => error,
                })?
            }
            Err(Unusable::Failed(error)) => return Err(error),
        };
        let journal = JournalFile::open(&dir, &mut findings)?;
        dir.sync()?;
        disk.forget_syncs();
        let store = Self {
            database: Some(database),
            path,
            journal,
            disk,
            why_closed: String::new(),
            not_before: Duration::ZERO,
            _dir: dir,
        };
        Ok((store, findings))
    }

    /// The database, opened again if it was closed after an error. One that is damaged then is left where it
    /// is: the records that the engine still has in mind were in it.
    fn database(&mut self) -> Result<&mut Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.open_again()?,
        };
        Ok(self.database.insert(database))
    }

    /// Opens the database again, unless that was just done and takes long.
    fn open_again(&mut self) -> Result<Database, StoreError> {
        let began = self.disk.now();
        if let Some(left) = self.not_before.checked_sub(began).filter(|left| !left.is_zero()) {
            let message = format!("{}; the next try is in {} ms", self.why_closed, left.as_millis());
            return Err(StoreError::Database { action: "open again", message });
        }
        let opened = reopen(&self.path, &self.disk);
        let ended = self.disk.now();
        let took = ended.saturating_sub(began);
        if took > CHEAP {
            self.not_before = ended + (took * REST).min(LONGEST_REST);
        }
        opened.inspect_err(|error| self.why_closed = error.to_string())
    }

    /// Closes the database after an error that it does not get over by itself.
    fn close_after(&mut self, error: &redb::Error) {
        if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::Corrupted(_)) {
            tracing::warn!(%error, "the database is closed; the next call opens it again");
            self.database = None;
            self.why_closed = error.to_string();
        }
    }
}

/// Opens a database again that was closed after an error.
fn reopen(path: &Path, disk: &Arc<Disk>) -> Result<Database, StoreError> {
    // Not made anew: an empty database in place of a lost one would be taken for the truth.
    let len = std::fs::metadata(path).map_err(|error| StoreError::io("open again", path, &error))?.len();
    if len == 0 {
        return Err(StoreError::damaged(path.display().to_string(), "it is empty"));
    }
    let database = open_database(path, disk).map_err(|unusable| match unusable {
        Unusable::Broken(why) => {
            let why =
                format!("{why}; restart the engine, which sets the file aside and rebuilds the records");
            StoreError::damaged(path.display().to_string(), why)
        }
        Unusable::Failed(error) => error,
    })?;
    tracing::info!("the database is open again");
    Ok(database)
}

/// Records: a key and bytes each.
type Rows = Vec<(Key, Vec<u8>)>;

/// Every record of a database. That it can be read and that a key in it is none are two things.
pub(super) fn read_rows(database: &Database) -> Result<Result<Rows, StoreError>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    let mut rows = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        rows.push((Key::from_bytes(key.value()), value.value().to_vec()));
    }
    Ok(rows.into_iter().map(|(key, value)| Ok((key?, value))).collect())
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Vec<(Key, Vec<u8>)>, StoreError> {
        let database = self.database()?;
        read_rows(database).map_err(|error| {
            self.close_after(&error);
            database_error("read the records", &error)
        })?
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let database = self.database()?;
        let prepare = || -> Result<redb::WriteTransaction, redb::Error> {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(RECORDS)?;
                for change in changes {
                    match change {
                        Change::Put { key, value } => {
                            table.insert(key.to_bytes().as_slice(), value.as_slice())?;
                        }
                        Change::Delete { key } => {
                            table.remove(key.to_bytes().as_slice())?;
                        }
                    }
                }
            }
            Ok(transaction)
        };
        let transaction = prepare().map_err(|error| {
            self.close_after(&error);
            database_error("prepare a commit", &error)
        })?;
        transaction.commit().map_err(|error| match error {
            CommitError::TransactionPoisoned => database_error("commit", &error),
            other => {
                let message = other.to_string();
                self.close_after(&redb::Error::from(other));
                StoreError::CommitUncertain { message }
            }
        })
    }

    fn begin(&mut self, intents: &[Intent]) -> Result<(), StoreError> {
        self.journal.begin(intents)
    }

    fn end(&mut self, ops: &[OpId]) -> Result<(), StoreError> {
        self.journal.end(ops)
    }

    fn open_intents(&mut self) -> Result<Vec<Intent>, StoreError> {
        self.journal.intents()
    }

    fn syncs(&self) -> u64 {
        self.disk.syncs()
    }
}

/// Why a database file cannot be used.
#[derive(Debug)]
enum Unusable {
    /// Its contents: set it aside.
    Broken(String),
    /// Something else: the file may be whole.
    Failed(StoreError),
}

/// Opens or makes the database and reads all of it once.
fn open_database(path: &Path, disk: &Arc<Disk>) -> Result<Database, Unusable> {
    let file = private_file(path).map_err(|error| Unusable::Failed(StoreError::io("open", path, &error)))?;
    let backend = DiskFile::new(file, Arc::clone(disk));
    // What is read from here on is on the disk. Of an earlier process there is nothing to know here: opening
    // syncs, and that includes what it wrote.
    backend.force_out().map_err(|error| Unusable::Failed(StoreError::io("force out", path, &error)))?;
    // The database promises to report damage when it checks its integrity on opening. Should it panic over
    // some damage all the same, that too is a broken file and not the end of the engine.
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<Database, Unusable> {
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| classify(redb::Error::from(error)))?;
        check_format(&database)?;
        Ok(database)
    }));
    opened.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Unusable::Broken(format!("the database stopped over its contents: {text}")))
    })
}

/// Makes the tables of a new database; refuses those of a later format.
fn check_format(database: &Database) -> Result<(), Unusable> {
    let check = || -> Result<Option<Vec<u8>>, redb::Error> {
        let transaction = database.begin_write()?;
        let found = {
            transaction.open_table(RECORDS)?;
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(FORMAT_KEY)?.map(|format| format.value().to_vec());
            if found.is_none() {
                meta.insert(FORMAT_KEY, &[FORMAT][..])?;
            }
            found
        };
        match found {
            None => transaction.commit()?,
            Some(_) => transaction.abort()?,
        }
        Ok(found)
    };
    match check().map_err(classify)?.as_deref() {
        None | Some([FORMAT]) => Ok(()),
        Some(other) => Err(Unusable::Broken(format!("its format {other:?} is later than {FORMAT}"))),
    }
}

/// Tells damaged contents from a failing system.
fn classify(error: redb::Error) -> Unusable {
    let message = error.to_string();
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => Unusable::Broken(message),
        redb::Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Unusable::Broken(message)
        }
        other => Unusable::Failed(database_error("open", &other)),
    }
}

fn database_error(action: &'static str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Database { action, message: error.to_string() }
}

#[cfg(test)]
mod tests;
