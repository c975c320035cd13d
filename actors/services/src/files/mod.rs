//! The files service: the hosts file and the resolv.conf of every sandbox, and what the host's resolv.conf says.

mod actor;
mod message;
mod state;

pub use actor::{FilesActor, FilesDeps};
pub use message::{FilesEvent, RemoveFiles, SettleFiles, SweepFiles};
pub use state::{FilesSource, FilesState, Fresh, NameFiles};
