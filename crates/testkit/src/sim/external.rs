//! Namespaces that others have made, as the engine finds them: by a path.

use std::path::{Path, PathBuf};

use netloom_kernel::KernelError;
use netloom_model::NetnsName;
use rustc_hash::FxHashMap;

use super::SimKernel;
use super::foreign::refused;
use super::world::{HOST, NsId, World};
use crate::errno::{EBUSY, EEXIST, EINVAL, ENOENT, Refusal};

/// Where the engine's own namespace is found: the host's.
const OWN: [&str; 2] = ["/proc/thread-self/ns/net", "/proc/self/ns/net"];

/// Where the engine's namespaces are mounted; a path that exists nowhere.
pub(super) const MOUNTS: &str = "/simulated/netns";

/// What lies at paths of others.
pub(super) type Externals = FxHashMap<PathBuf, External>;

/// What lies at a path of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum External {
    /// A network namespace.
    Netns(NsId),
    /// Anything else.
    Other,
}

impl SimKernel {
    /// Adds a namespace that somebody else has made and holds at a path, such as a process at
    /// `/proc/4711/ns/net`. Its loopback is down. An engine can adopt it; what the engine leaves in it stays
    /// there, and shows as left over.
    ///
    /// # Errors
    /// `EEXIST` when something is at that path.
    pub fn external_netns(&self, path: impl Into<PathBuf>) -> Result<(), KernelError> {
        let path = path.into();
        let mut state = self.lock();
        state.world.check_vacant(&path).map_err(|refusal| refused(adding(&path), refusal))?;
        let ns = state.world.add_namespace();
        state.world.namespaces[ns].held = Some(path.clone());
        state.world.externals.insert(path, External::Netns(ns));
        Ok(())
    }

    /// Adds something at a path that is no network namespace.
    ///
    /// # Errors
    /// `EEXIST` when something is at that path.
    pub fn external_file(&self, path: impl Into<PathBuf>) -> Result<(), KernelError> {
        let path = path.into();
        let mut state = self.lock();
        state.world.check_vacant(&path).map_err(|refusal| refused(adding(&path), refusal))?;
        state.world.externals.insert(path, External::Other);
        Ok(())
    }

    /// Takes away what was added at a path, as when the process that held a namespace ends. The namespace is
    /// destroyed with all its links unless the engine has it mounted.
    ///
    /// # Errors
    /// `ENOENT` when nothing was added there.
    pub fn drop_external(&self, path: impl AsRef<Path>) -> Result<(), KernelError> {
        let path = path.as_ref();
        let mut state = self.lock();
        let gone = || refused(format!("remove what is at {}", path.display()), Refusal::new(ENOENT));
        if let External::Netns(ns) = state.world.externals.remove(path).ok_or_else(gone)? {
            state.world.namespaces[ns].held = None;
            state.world.destroy_unused(ns);
        }
        Ok(())
    }
}

impl World {
    /// Mounts a namespace of others.
    pub(super) fn adopt(&mut self, name: NetnsName, source: &Path) -> Result<(), Refusal> {
        if self.names.contains_key(&name) {
            return Err(Refusal::new(EEXIST));
        }
        match self.at_path(source).ok_or(Refusal::new(ENOENT))? {
            External::Netns(HOST) => Err(Refusal::saying(EBUSY, "it is the namespace of the host itself")),
            External::Netns(ns) => {
                self.mount(ns, name);
                Ok(())
            }
            External::Other => Err(Refusal::new(EINVAL)),
        }
    }

    fn at_path(&self, path: &Path) -> Option<External> {
        if OWN.iter().any(|own| path == Path::new(own)) {
            return Some(External::Netns(HOST));
        }
        if let Ok(name) = path.strip_prefix(MOUNTS) {
            let ns = *self.names.get(&name.to_str()?.parse().ok()?)?;
            return (!self.namespaces[ns].foreign).then_some(External::Netns(ns));
        }
        self.externals.get(path).copied()
    }

    fn check_vacant(&self, path: &Path) -> Result<(), Refusal> {
        self.at_path(path).map_or(Ok(()), |_| Err(Refusal::new(EEXIST)))
    }
}

fn adding(path: &Path) -> String {
    format!("add something at {}", path.display())
}
