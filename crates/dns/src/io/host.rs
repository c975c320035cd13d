//! The host's resolv.conf: what it says, and when that changes.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_model::{Error, Result};

use super::watch::Watcher;
use crate::resolv::{BEHIND_SYSTEMD_STUB, LONGEST_FILE, LeftOut, ResolvConf, Source, Why};

/// Which file of the host says which name servers there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFile {
    path: PathBuf,
    behind_stub: Option<PathBuf>,
}

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostResolv {
    /// Its content; of a file that cannot be read nothing, and that it cannot be.
    pub conf: ResolvConf,
    /// Which file was read.
    pub source: Source,
}

impl HostResolv {
    /// Whether the file could not be read, and so says nothing.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.conf.left_out.iter().any(|left| left.why == Why::Unreadable)
    }
}

/// What a watch tells.
#[derive(Clone, PartialEq, Debug)]
pub enum News {
    /// The content is another one than was told last.
    Changed(Arc<HostResolv>),
    /// Changes may be missed until the next one that is seen.
    Trouble(Error),
}

impl Default for HostFile {
    /// `/etc/resolv.conf`.
    fn default() -> Self {
        Self::at("/etc/resolv.conf")
    }
}

impl HostFile {
    /// The host's at another place: while it names systemd-resolved's stub alone, the file behind that is read.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::new(path, BEHIND_SYSTEMD_STUB)
    }

    /// Another file, and the one that is read instead of it while it names systemd-resolved's stub alone.
    pub fn new(path: impl Into<PathBuf>, behind_stub: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), behind_stub: Some(behind_stub.into()) }
    }

    /// A file that counts whatever it names, such as one that a caller named (`OptionOriginResolvConfPath`).
    pub fn plain(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), behind_stub: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says now.
    ///
    /// While the file names 127.0.0.53 alone, systemd-resolved's stub, what that asks is read instead: a container
    /// does not reach the stub. Where that file names nobody, the stub it is, which the engine's own name server can
    /// ask from the host.
    #[must_use]
    pub fn read(&self) -> HostResolv {
        let conf = read(&self.path);
        if let Some(path) = self.behind_stub.as_ref().filter(|_| conf.is_systemd_stub()) {
            let behind = read(path);
            if !behind.name_servers.is_empty() {
                let source = Source { path: path.clone(), instead_of: Some(self.path.clone()) };
                return HostResolv { conf: behind, source };
            }
        }
        HostResolv { conf, source: Source::new(&self.path) }
    }

    /// Tells of changes from now on, on a thread of its own that sleeps in between; returns what it says now.
    ///
    /// The kernel says when something happens to the file, to the one behind the stub, to a link that leads to one of
    /// them, or to a directory on the way (inotify): none need be there. Changes within 20 ms of each other are told as
    /// one, 0.2 s after the first at the latest; what is told is the whole content, never two at once and never the
    /// same twice. Whoever takes long to hear of it hears less often.
    ///
    /// # Errors
    /// Those of the operating system, with the path: its limits of watches and descriptors.
    pub fn watch(self, told: impl FnMut(News) + Send + 'static) -> Result<(Watch, Arc<HostResolv>)> {
        let mut watcher = Watcher::new(self.behind_stub.iter().chain([&self.path]).cloned().collect())?;
        // Looked at only afterwards, so that nothing is missed.
        watcher.arm()?;
        let now = Arc::new(self.read());
        let stop = watcher.start(Told::new(self, Arc::clone(&now), told))?;
        Ok((Watch { _stop: stop }, now))
    }
}

/// A watch, until it is dropped. Something may be told until its thread has noticed that.
#[derive(Debug)]
pub struct Watch {
    /// Its thread ends when this end of a pipe is closed.
    _stop: std::io::PipeWriter,
}

/// What the thread does when something has happened.
pub(crate) struct Told<F> {
    file: HostFile,
    last: Arc<HostResolv>,
    told: F,
}

impl<F: FnMut(News)> Told<F> {
    pub(crate) fn new(file: HostFile, last: Arc<HostResolv>, told: F) -> Self {
        Self { file, last, told }
    }

    /// Looks, and tells if it is something else.
    pub(crate) fn look(&mut self) {
        let now = self.file.read();
        if now != *self.last {
            self.last = Arc::new(now);
            (self.told)(News::Changed(Arc::clone(&self.last)));
        }
    }

    pub(crate) fn trouble(&mut self, error: Error) {
        (self.told)(News::Trouble(error));
    }
}

fn read(path: &Path) -> ResolvConf {
    let unreadable = |_| ResolvConf {
        left_out: vec![LeftOut { line: None, what: path.display().to_string(), why: Why::Unreadable }],
        ..ResolvConf::default()
    };
    bytes(path).map_or_else(unreadable, |bytes| ResolvConf::parse(&bytes))
}

fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    // A pipe or a device might never end.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    // One more, which tells that it is longer.
    File::open(path)?.take(LONGEST_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
