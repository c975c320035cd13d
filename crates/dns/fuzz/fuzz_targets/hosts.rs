//! Changes and a hosts file that they are made in.
#![no_main]

#[path = "../src/files.rs"]
mod files;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| files::hosts(bytes));
