//! What some errors say about what to do.

/// What a store cannot do when a cluster's does not answer ([`Reason::Store`](super::Reason::Store)).
pub const REACH_CLUSTER: &str = "reach the cluster's store";

/// About an address space that is not there.
pub(super) const NO_SPACE: &str = "leave it out, or name one that the ipam driver has: \"default\" has LocalDefault, and \
     GlobalDefault where the engine is in a cluster (EngineBuilder::cluster)";

/// `EMFILE` and `ENFILE`, the same numbers on every Linux.
pub(super) const EMFILE: i32 = 24;
pub(super) const ENFILE: i32 = 23;

/// `EROFS`, the same number on every Linux.
pub(super) const EROFS: i32 = 30;

/// About a file on a file system that nobody can write to.
pub(super) const WRITABLE: &str =
    "make the file system of that path writable (mount -o remount,rw), or name a path on another one";

/// About a process that has as many files open as it may.
pub(super) const FILES: &str = "raise the engine's limit of open files: ulimit -n in the shell that starts it, LimitNOFILE= in \
     its systemd unit";

/// About a host that has as many files open as it can.
pub(super) const FILES_OF_HOST: &str =
    "raise the host's limit of open files (sysctl fs.file-max), or end what has many open (lsof)";
