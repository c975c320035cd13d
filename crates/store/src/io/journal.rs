//! The journal's file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use netloom_model::OpId;

use crate::error::StoreError;
use crate::io::directory::{Directory, private_file};
use crate::journal::{Append, HEADER, Intent, OpenIntents};
use crate::store::Finding;

/// The file's name.
pub(crate) const NAME: &str = "journal";
/// A journal without open intents that has grown beyond this is cut back to its header.
const IDLE_LIMIT: u64 = 64 * 1024;
/// A journal with open intents is rewritten when it has grown beyond this and is mostly history.
const BUSY_LIMIT: u64 = 1024 * 1024;

/// An append-only file of intents. Nothing here waits for the disk: what is written survives this process,
/// which is all an intent is for.
#[derive(Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    scratch: PathBuf,
    file: File,
    /// The file's length. Whatever a failed write left behind it is overwritten by the next one.
    len: u64,
    open: OpenIntents,
    busy_limit: u64,
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
            busy_limit: BUSY_LIMIT,
        };
        journal.prepare(bytes.len() as u64).map_err(|error| journal.error("open", &error))?;
        Ok(journal)
    }

    /// Writes the header of a new journal and cuts a torn tail off.
    fn prepare(&mut self, found: u64) -> io::Result<()> {
        if found < HEADER.len() as u64 {
            self.write_at(0, HEADER)?;
        } else if found > self.len {
            self.file.set_len(self.len)?;
        }
        Ok(())
    }

    /// Notes that intents began.
    ///
    /// # Errors
    /// `Io`, `Unencodable`; nothing was noted.
    pub(crate) fn begin(&mut self, intents: &[Intent]) -> Result<(), StoreError> {
        let append = OpenIntents::begin(intents)?;
        self.append(append)
    }

    /// Notes that operations ended.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn end(&mut self, ops: &[OpId]) -> Result<(), StoreError> {
        let append = self.open.end(ops)?;
        self.append(append)?;
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

    fn append(&mut self, append: Append) -> Result<(), StoreError> {
        if append.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.write_at(self.len, &append.bytes) {
            // Half a frame at the end is read as a torn tail; this only saves its space.
            let _ = self.file.set_len(self.len);
            return Err(self.error("write", &error));
        }
        self.len += append.bytes.len() as u64;
        self.open.apply(append);
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)
    }

    /// Drops history. The journal stays valid when this fails, so a failure only costs space.
    fn compact(&mut self) {
        let header = HEADER.len() as u64;
        if self.open.is_empty() && self.len > IDLE_LIMIT {
            match self.file.set_len(header) {
                Ok(()) => self.len = header,
                Err(error) => tracing::warn!(%error, "cannot shorten the journal"),
            }
        } else if self.len > self.busy_limit && self.len > 4 * self.open.bytes() as u64 {
            match self.rewrite() {
                Ok(()) => self.busy_limit = BUSY_LIMIT,
                Err(error) => {
                    tracing::warn!(%error, "cannot rewrite the journal");
                    self.busy_limit = self.len * 2;
                }
            }
        }
    }

    /// Puts a file with nothing but the open intents in the journal's place.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut bytes = HEADER.to_vec();
        self.open.frames().for_each(|frame| bytes.extend(frame));
        let mut file = private_file(&self.scratch)?;
        file.set_len(0)?;
        file.write_all(&bytes)?;
        std::fs::rename(&self.scratch, &self.path)?;
        self.file = file;
        self.len = bytes.len() as u64;
        Ok(())
    }

    fn error(&self, action: &'static str, error: &io::Error) -> StoreError {
        StoreError::io(action, &self.path, error)
    }
}

#[cfg(test)]
mod tests {
    use netloom_model::ObjectKind;
    use uuid::Uuid;

    use super::*;

    fn intent(op: u128) -> Intent {
        let op = OpId(Uuid::from_u128(op));
        Intent {
            op,
            verb: "join".into(),
            object: ObjectKind::Sandbox,
            id: "x".into(),
            detail: "y".repeat(500).into(),
        }
    }

    fn open(dir: &Directory) -> (JournalFile, Vec<Finding>) {
        let mut findings = Vec::new();
        (JournalFile::open(dir, &mut findings).expect("opens"), findings)
    }

    #[test]
    fn the_file_is_cut_back_when_idle_and_rewritten_when_busy() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = Directory::open(temp.path()).expect("free");
        let (mut journal, _) = open(&dir);
        journal.begin(&[intent(0), intent(1)]).expect("space");
        let mut longest = 0;
        for op in 2..5_000 {
            journal.begin(&[intent(op)]).expect("space");
            journal.end(&[intent(op).op, intent(99_999).op]).expect("space");
            longest = longest.max(journal.len);
        }
        assert!(longest > BUSY_LIMIT / 2 && longest <= BUSY_LIMIT, "{longest}");
        drop(journal);
        let (mut journal, findings) = open(&dir);
        assert_eq!(journal.intents().expect("whole"), [intent(0), intent(1)]);
        assert_eq!(findings, []);
        let many: Vec<_> = (0..200).map(intent).collect();
        journal.begin(&many).expect("space");
        assert!(journal.len > IDLE_LIMIT);
        journal.end(&many.iter().map(|intent| intent.op).collect::<Vec<_>>()).expect("space");
        assert_eq!(journal.len, HEADER.len() as u64);
        assert_eq!(open(&dir).0.intents().expect("whole"), []);
    }

    #[test]
    fn a_file_cut_at_any_byte_opens_and_goes_on() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = Directory::open(temp.path()).expect("free");
        let (mut journal, _) = open(&dir);
        journal.begin(&[intent(1), intent(2)]).expect("space");
        journal.end(&[intent(1).op]).expect("space");
        drop(journal);
        let whole = std::fs::read(dir.join(NAME)).expect("there");
        for cut in 0..whole.len() {
            std::fs::write(dir.join(NAME), &whole[..cut]).expect("space");
            let (mut journal, findings) = open(&dir);
            assert_eq!(findings, [], "cut at {cut}");
            let before = journal.intents().expect("whole");
            journal.begin(&[intent(3)]).expect("space");
            drop(journal);
            let after = open(&dir).0.intents().expect("whole");
            assert_eq!(after[..before.len()], before, "cut at {cut}");
            assert_eq!(after[before.len()..], [intent(3)], "cut at {cut}");
        }
    }

    #[test]
    fn a_foreign_file_is_set_aside() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = Directory::open(temp.path()).expect("free");
        for (n, foreign) in [&b"x"[..], b"NLJRNL\x00\x02 a later format", &[0; 4096]].into_iter().enumerate()
        {
            std::fs::write(dir.join(NAME), foreign).expect("space");
            let (_, findings) = open(&dir);
            assert_eq!(findings.len(), 1);
            assert_eq!(findings[0].path, dir.join(&format!("journal.broken-{}", n + 1)));
            assert_eq!(std::fs::read(&findings[0].path).expect("kept"), foreign);
        }
    }
}
