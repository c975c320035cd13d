//! Where the files of sandboxes are, and how they come and go.
//!
//! ```text
//! <run directory>/files/<sandbox>/hosts
//!                                 resolv.conf
//!                                 resolv.conf.hash
//! ```
//!
//! Directories have mode 0755 and files 0644, whatever the umask is: a container's programs run as anybody. A file that
//! a caller named is where he named it, and its hash beside it, as in libnetwork.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use netloom_model::{Error, Result, SandboxId, SandboxSettings};

use super::hosts_file::HostsFile;
use super::place::{Directory, Place, refused};
use super::resolv_file::ResolvFile;

/// The directory in the engine's run directory.
const FILES: &str = "files";

/// The files of all sandboxes of an engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    run_dir: PathBuf,
}

/// The files of one sandbox. Whoever has this is their one writer.
#[derive(Debug, PartialEq, Eq)]
pub struct SandboxFiles {
    /// Its hosts file.
    pub hosts: HostsFile,
    /// Its resolv.conf.
    pub resolv: ResolvFile,
    /// Whether any of them is in a directory of the engine's.
    own: Option<Own>,
}

#[derive(Debug, PartialEq, Eq)]
struct Own {
    files: Files,
    name: String,
}

impl Files {
    /// Those below an engine's run directory. Nothing is looked at or made.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self { run_dir: run_dir.into() }
    }

    /// The files of a sandbox. Nothing is looked at or made.
    ///
    /// # Errors
    /// `InvalidParameter` for a path of a caller's that is none of a file.
    pub fn of(&self, sandbox: SandboxId, settings: Option<&SandboxSettings>) -> Result<SandboxFiles> {
        let name = sandbox.to_string();
        let directory = self.run_dir.join(FILES).join(&name);
        let place = |named: Option<&PathBuf>, own: &str| match named {
            Some(path) => Place::of(path),
            None => Ok(Place { directory: directory.clone(), name: own.to_owned() }),
        };
        let hosts = settings.and_then(|settings| settings.hosts_path.as_ref());
        let resolv = settings.and_then(|settings| settings.resolv_conf_path.as_ref());
        let own = hosts.is_none() || resolv.is_none();
        Ok(SandboxFiles {
            hosts: HostsFile::at(place(hosts, "hosts")?),
            resolv: ResolvFile::at(place(resolv, "resolv.conf")?),
            own: own.then(|| Own { files: self.clone(), name }),
        })
    }

    /// The names of what is there: sandboxes, and what somebody else put there. At a start, those of no sandbox are
    /// left from a crash.
    ///
    /// # Errors
    /// Those of the operating system, with the path. A directory that is not there is an empty one.
    pub fn list(&self) -> Result<Vec<String>> {
        let path = self.run_dir.join(FILES);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused("list", &path, error)),
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        names.collect::<Result<_, _>>().map_err(|error| refused("list", &path, error))
    }

    /// Removes what a sandbox has here, by the name that [`Files::list`] gives. Nothing where there is nothing.
    ///
    /// # Errors
    /// Those of the operating system, with the path; `InvalidParameter` for a name that leads elsewhere.
    pub fn remove(&self, name: &str) -> Result<()> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Error::invalid("sandbox", name, "it is no name of a directory"));
        }
        let path = self.run_dir.join(FILES).join(name);
        // Never follows a link: one in this place goes itself.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                fs::remove_file(&path).map_err(|error| refused("remove", &path, error))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(refused("remove", &path, error)),
            _ => Ok(()),
        }
    }

    fn make(&self, name: &str) -> Result<Directory> {
        // The engine's own directory, which is there unless nothing else was written yet.
        fs::create_dir_all(&self.run_dir).map_err(|error| refused("make directory", &self.run_dir, error))?;
        Directory::open(&self.run_dir)?.make(FILES)?.make(name)
    }
}

impl SandboxFiles {
    /// Makes the engine's directory for them, where one is needed. It may be there.
    ///
    /// # Errors
    /// Those of the operating system, with the path.
    pub fn make_directory(&self) -> Result<()> {
        self.own.as_ref().map_or(Ok(()), |own| own.files.make(&own.name).map(drop))
    }

    /// Removes the engine's own files. Those that a caller named stay, as in libnetwork, without the hash beside
    /// resolv.conf. Nothing where there is nothing.
    ///
    /// # Errors
    /// Those of the operating system, with the path.
    pub fn remove(&self) -> Result<()> {
        let own = self.own.as_ref().map_or(Ok(()), |own| own.files.remove(&own.name));
        own.and(self.resolv.forget())
    }

    /// The paths of the hosts file and of resolv.conf, to be mounted in the container.
    #[must_use]
    pub fn paths(&self) -> (PathBuf, PathBuf) {
        (self.hosts.path(), self.resolv.path())
    }
}

/// A file that is taken as it is, such as the host's hosts file for a sandbox that is the host's own namespace.
///
/// Where it lies is its owner's business: links are followed. What is no regular file is refused.
///
/// # Errors
/// Those of the operating system, with the path; `InvalidParameter` for one that is no regular file or is longer than
/// `longest` bytes.
pub fn read_origin(path: &Path, longest: usize) -> Result<Vec<u8>> {
    let real = fs::canonicalize(path).map_err(|error| refused("read", path, error))?;
    let place = Place::of(&real)?;
    place.open()?.read(&place.name, longest)?.ok_or_else(|| refused("read", path, ErrorKind::NotFound))
}
