//! What data passes through: a buffer for each thread, and pipes for those streams that move much at the moment.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::pipe2;

/// The size of a thread's buffer: no datagram is larger, and a stream that fills it in one go moves much.
pub(crate) const BUFFER: usize = 64 * 1024;

/// How much one pipe holds, where the kernel allows it.
const PIPE: usize = 1024 * 1024;

/// Idle pipes that a thread keeps: opening one costs more than a turn of a stream through it.
const IDLE_PIPES: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
    static POOL: RefCell<Pool> = RefCell::new(Pool::new());
}

/// Lends this thread's buffer. What is left in it when `f` returns is lost; `f` must not ask for it again.
pub(crate) fn with_buffer<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| f(buffer))
}

/// The idle pipes of one thread.
struct Pool {
    idle: Vec<Pipe>,
}

impl Pool {
    /// Writing to a stream that is gone raises SIGPIPE, and `splice` has no flag against it as `send` has. A host
    /// that does not ignore the signal would end. So threads that splice block it.
    fn new() -> Self {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGPIPE);
        // It cannot fail: the set is valid.
        let _ = signals.thread_block();
        Self { idle: Vec::new() }
    }
}

/// A pipe, empty whenever it lies in the pool.
#[derive(Debug)]
pub(crate) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    /// One of this thread's pipes, or a new one.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(crate) fn take() -> io::Result<Self> {
        POOL.with_borrow_mut(|pool| pool.idle.pop()).map_or_else(Self::open, Ok)
    }

    fn open() -> io::Result<Self> {
        let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Without privileges and above a user's share it stays as small as it is, which only costs time.
        let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(i32::try_from(PIPE).expect("fits")));
        Ok(Self { out, into })
    }

    /// Gives it back. It must be empty.
    pub(crate) fn put_back(self) {
        POOL.with_borrow_mut(|pool| {
            if pool.idle.len() < IDLE_PIPES {
                pool.idle.push(self);
            }
        });
    }

    /// Moves what a socket has into it, as much as fits. Zero at the end of the stream; `WouldBlock` means, when the
    /// pipe was empty, that the socket has nothing.
    pub(crate) fn fill(&self, socket: impl AsFd) -> io::Result<usize> {
        Ok(splice(socket, None, &self.into, None, PIPE, flags())?)
    }

    /// Moves up to `length` bytes out of it. `WouldBlock` means, when it holds as many, that the socket is full.
    pub(crate) fn drain(&self, socket: impl AsFd, length: usize) -> io::Result<usize> {
        Ok(splice(&self.out, None, socket, None, length, flags())?)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal};

    use super::{IDLE_PIPES, POOL, Pipe};

    #[test]
    fn threads_that_splice_are_safe_from_sigpipe() {
        let thread = std::thread::spawn(|| {
            let blocked = || SigSet::thread_get_mask().expect("a mask").contains(Signal::SIGPIPE);
            let before = blocked();
            Pipe::take().expect("a pipe").put_back();
            (before, blocked())
        });
        assert_eq!(thread.join().expect("no panic"), (false, true));
    }

    #[test]
    fn idle_pipes_are_bounded_and_used_again() {
        let pipes: Vec<Pipe> = (0..2 * IDLE_PIPES).map(|_| Pipe::take().expect("a pipe")).collect();
        pipes.into_iter().for_each(Pipe::put_back);
        let idle = || POOL.with_borrow(|pool| pool.idle.len());
        assert_eq!(idle(), IDLE_PIPES);
        let taken = Pipe::take().expect("a pipe");
        assert_eq!(idle(), IDLE_PIPES - 1);
        taken.put_back();
    }
}
