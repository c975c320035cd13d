//! The store on disk: its directory, its database and its journal.

mod directory;
mod disk;
mod journal;
pub mod peek;
pub mod redb;
