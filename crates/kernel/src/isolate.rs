//! Namespaces of its own for a whole process: for programs and tests that must not touch the machine's.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use nix::unistd::{getegid, geteuid};

/// Whether the process is root in its user namespace. That alone gives no power over the network it is in:
/// see [`is_in_charge`].
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether the process may change the network and the mounts that it sees.
///
/// Its user id does not tell: root of a user namespace often sees a network and mounts that belong to the
/// namespace outside, and root may have been left without capabilities. So the kernel is asked for two things
/// that change nothing.
#[must_use]
pub fn is_in_charge() -> bool {
    // Repair mode, here of a socket that goes nowhere, takes CAP_NET_ADMIN over the network namespace.
    let network = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .and_then(|socket| setsockopt(&socket, sockopt::TcpRepair, &1));
    // Nothing can be mounted without a type; but this is said only to those who may mount.
    let nothing = mount(None::<&str>, "/", None::<&str>, MsFlags::empty(), None::<&str>);
    network.is_ok() && nothing == Err(Errno::EINVAL)
}

/// Moves the calling thread into a fresh network namespace and leaves it where it is otherwise.
///
/// # Errors
/// `EPERM` without root.
pub fn enter_own_network() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Moves the calling thread, and every thread it starts from then on, into fresh network and mount
/// namespaces, and tells whether it made a user namespace for that: it does where the process lacks the
/// capabilities, and has them all inside.
///
/// Call it first thing in `main`, or on a thread that was started for it: threads that run already stay
/// where they are, and making a user namespace is refused when there are any.
///
/// # Errors
/// What the kernel says; `EPERM` where user namespaces are forbidden, `EINVAL` when other threads run and a
/// user namespace is needed.
pub fn enter_own_namespaces() -> io::Result<bool> {
    let both = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let made_user = match unshare(both) {
        Ok(()) => !is_in_charge(),
        Err(Errno::EPERM) => true,
        Err(error) => return Err(error.into()),
    };
    if made_user {
        enter_own_user()?;
        unshare(both)?;
    }
    // Else what is mounted here would show up outside.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    Ok(made_user)
}

fn enter_own_user() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    match fs::write("/proc/self/uid_map", format!("0 {uid} 1")) {
        // Root without CAP_SETFCAP can be nobody inside. It has every capability there all the same, until it
        // starts another program.
        Err(error) if uid.is_root() && error.kind() == io::ErrorKind::PermissionDenied => {}
        written => written?,
    }
    // Without privileges outside, a group map is accepted only after this.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}
