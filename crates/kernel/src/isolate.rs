//! Namespaces of its own for a whole process: for programs and tests that must not touch the machine's.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Whether the process may change the network of the namespace it is in: it is root there.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Moves the calling thread into a fresh network namespace and leaves it where it is otherwise.
///
/// # Errors
/// `EPERM` without root.
pub fn enter_own_network() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Moves the calling thread, and every thread it starts from then on, into fresh network and mount
/// namespaces. Without root it makes a user namespace first and is root in that.
///
/// Call it first thing in `main`, or on a thread that was started for it: threads that run already stay
/// where they are, and making a user namespace is refused when there are any.
///
/// # Errors
/// What the kernel says; `EPERM` where user namespaces are forbidden, `EINVAL` when other threads run and a
/// user namespace is needed.
pub fn enter_own_namespaces() -> io::Result<()> {
    if !is_root() {
        let (uid, gid) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER)?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        // Without privileges outside, a group map is accepted only after this.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    // Else what is mounted here would show up outside.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    Ok(())
}
