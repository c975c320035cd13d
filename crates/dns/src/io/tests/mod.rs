//! Files on a real disk.

mod host;
mod kept;
mod lab;
mod named;
mod written;
