//! Files on a real disk.

mod host;
mod lab;
mod named;
mod written;
