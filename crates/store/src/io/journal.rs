//! The journal's file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use netloom_model::OpId;

use crate::error::StoreError;
use crate::io::directory::{Directory, private_file};
use crate::journal::{HEADER, Intent, OpenIntents};
use crate::store::Finding;

/// The file's name.
pub(crate) const NAME: &str = "journal";
/// A journal without open intents that has grown beyond this is cut back to its header.
const IDLE_LIMIT: u64 = 64 * 1024;
/// A journal with open intents is rewritten when it has grown beyond this and is mostly history.
const BUSY_LIMIT: u64 = 1024 * 1024;
/// At a start, a journal with open intents is rewritten when it has more history than this: less takes no room
/// worth the while.
const START_LIMIT: u64 = 4096;

/// An append-only file of intents. Nothing here waits for the disk: what is written survives this process,
/// which is all an intent is for.
///
/// What has ended is history, and history makes room: it is dropped now and then, at a start, and when a write
/// fails. Without open intents the file is cut back to its header, in one step. With open ones a second file is
/// written and put in its place, in one step too, so a crash finds either the old file or the new one.
#[derive(Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    scratch: PathBuf,
    file: File,
    /// The file's length, without what a failed write may have left behind it.
    len: u64,
    open: OpenIntents,
    /// Frames that end operations and could not be written. Those operations count as ended here; whatever is
    /// written next says so first.
    owed: Vec<u8>,
    busy_limit: u64,
    /// Set by tests: how much room there is, and when the process dies.
    #[cfg(test)]
    faults: tests::Faults,
}

impl JournalFile {
    /// Opens the journal, or makes one. A file that is not a journal of a known format is set aside.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn open(dir: &Directory, findings: &mut Vec<Finding>) -> Result<Self, StoreError> {
        let path = dir.join(NAME);
        let read = || -> io::Result<(File, Vec<u8>)> {
            let mut file = private_file(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((file, bytes))
        };
        let (mut file, mut bytes) = read().map_err(|error| StoreError::io("read", &path, &error))?;
        // A crash may have cut the header itself.
        let ours = bytes.len().min(HEADER.len());
        if bytes[..ours] != HEADER[..ours] {
            findings.push(dir.set_aside(NAME, "it is not a journal of a known format".into())?);
            (file, bytes) = read().map_err(|error| StoreError::io("read", &path, &error))?;
        }
        let (open, whole) = OpenIntents::replay(bytes.get(HEADER.len()..).unwrap_or(&[]));
        let mut journal = Self {
            scratch: dir.join("journal.new"),
            path,
            file,
            len: (HEADER.len() + whole) as u64,
            open,
            owed: Vec::new(),
            busy_limit: BUSY_LIMIT,
            #[cfg(test)]
            faults: tests::Faults::default(),
        };
        journal.prepare(bytes.len() as u64).map_err(|error| journal.error("open", &error))?;
        Ok(journal)
    }

    /// Writes the header of a new journal, cuts a torn tail off, and drops history.
    fn prepare(&mut self, found: u64) -> io::Result<()> {
        // A crash in the middle of rewriting left it. It was never the journal.
        let _ = std::fs::remove_file(&self.scratch);
        if found < HEADER.len() as u64 {
            self.write_at(&self.file, 0, HEADER)?;
        } else if found > self.len {
            self.file.set_len(self.len)?;
        }
        let limit = if self.open.is_empty() { 0 } else { START_LIMIT };
        if self.history() > limit
            && let Err(error) = self.shorten()
        {
            tracing::warn!(%error, "cannot shorten the journal");
        }
        Ok(())
    }

    /// Notes that intents began.
    ///
    /// # Errors
    /// `Io`, `Unencodable`; nothing was noted.
    pub(crate) fn begin(&mut self, intents: &[Intent]) -> Result<(), StoreError> {
        let append = OpenIntents::begin(intents)?;
        if append.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.write(&append.bytes) {
            // The same disk may have room once history is gone.
            if !self.makes_room() {
                return Err(self.error("write", &error));
            }
            self.write(&append.bytes).map_err(|error| self.error("write", &error))?;
        }
        self.open.apply(append);
        Ok(())
    }

    /// Notes that operations ended.
    ///
    /// # Errors
    /// `Io`. They count as ended all the same as long as this process lives, and the next write says so.
    pub(crate) fn end(&mut self, ops: &[OpId]) -> Result<(), StoreError> {
        let append = self.open.end(ops)?;
        self.owed.extend(&append.bytes);
        self.open.apply(append);
        // A shortened journal has nothing of what ended, and that needs no room.
        if let Err(error) = self.write(&[])
            && !self.makes_room()
        {
            return Err(self.error("write", &error));
        }
        self.compact();
        Ok(())
    }

    /// The open intents.
    ///
    /// # Errors
    /// `Damaged`, which the checksums rule out.
    pub(crate) fn intents(&self) -> Result<Vec<Intent>, StoreError> {
        self.open.intents()
    }

    /// Appends what is owed and these frames.
    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        let bytes = [self.owed.as_slice(), frames].concat();
        if bytes.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.write_at(&self.file, self.len, &bytes) {
            // Half a frame at the end is read as a torn tail. But there may be whole ones before it, which a
            // later start must not find, and all of them take room.
            let _ = self.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        self.owed.clear();
        Ok(())
    }

    /// How many bytes of the file are about nothing that is open.
    fn history(&self) -> u64 {
        self.len.saturating_sub((HEADER.len() + self.open.bytes()) as u64)
    }

    /// Drops history after a failed write. Returns whether there was any and it is gone.
    fn makes_room(&mut self) -> bool {
        if self.history() == 0 {
            return false;
        }
        let shortened = self.shorten();
        if let Err(error) = &shortened {
            tracing::debug!(%error, "cannot shorten the journal");
        }
        shortened.is_ok()
    }

    /// Drops history now and then. The journal stays valid when this fails, so a failure only costs space.
    fn compact(&mut self) {
        let idle = self.open.is_empty() && self.len > IDLE_LIMIT;
        let busy = self.len > self.busy_limit && self.len > 4 * self.open.bytes() as u64;
        if !idle && !busy {
            return;
        }
        match self.shorten() {
            Ok(()) => self.busy_limit = BUSY_LIMIT,
            Err(error) => {
                tracing::warn!(%error, "cannot shorten the journal");
                self.busy_limit = self.len * 2;
            }
        }
    }

    /// Leaves nothing in the journal but the header and the open intents. When this fails, all is as before.
    fn shorten(&mut self) -> io::Result<()> {
        let header = HEADER.len() as u64;
        if self.open.is_empty() {
            self.set_len(header)?;
            self.len = header;
        } else {
            let mut bytes = HEADER.to_vec();
            self.open.frames().for_each(|frame| bytes.extend(frame));
            self.file = self.replace(&bytes).inspect_err(|_| self.remove_scratch())?;
            self.len = bytes.len() as u64;
        }
        self.owed.clear();
        Ok(())
    }

    /// Puts a file with these bytes in the journal's place.
    fn replace(&self, bytes: &[u8]) -> io::Result<File> {
        self.step()?;
        let file = private_file(&self.scratch)?;
        file.set_len(0)?;
        self.write_at(&file, 0, bytes)?;
        self.step()?;
        std::fs::rename(&self.scratch, &self.path)?;
        Ok(file)
    }

    /// Half a file is of no use, and takes room that is short.
    fn remove_scratch(&self) {
        if self.step().is_ok() {
            let _ = std::fs::remove_file(&self.scratch);
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step()?;
        self.file.set_len(len)
    }

    fn write_at(&self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.faults.write(self, file, at, bytes)?;
        file.write_all_at(bytes, at)
    }

    /// Before whatever changes a file: where tests let the process die.
    fn step(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.step()?;
        Ok(())
    }

    fn error(&self, action: &'static str, error: &io::Error) -> StoreError {
        StoreError::io(action, &self.path, error)
    }
}

#[cfg(test)]
mod tests;
