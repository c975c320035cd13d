//! Names inside of sandboxes: the files that hold them, hosts and resolv.conf.
//!
//! So far the files that a caller names are looked at, before a sandbox is made for them; what is written into them
//! comes with the name server. Everything that touches the disk is in [`io`].

pub mod io;
