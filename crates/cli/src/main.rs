//! The netloom command line.
fn main() {}
