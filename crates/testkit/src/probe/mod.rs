//! Real packets between namespaces, without external programs.
//!
//! A socket stays in the namespace it was opened in. So every probe has two halves: *open* it inside a
//! namespace with [`open_in`], and *use* it from anywhere. Use blocks the calling thread, up to the given
//! deadline; callers on an async executor put it on a thread for blocking work.

mod echo;
mod packet;
mod transfer;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use netloom_kernel::{Kernel, KernelError, Netns};

pub use echo::{EchoSocket, MAX_ECHO_PAYLOAD};
pub use transfer::{Connector, Listener, Transfer, transfer};

/// Why a probe could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The namespace could not be entered.
    Kernel(KernelError),
    /// The socket could not be made in it.
    Socket(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(_) => f.write_str("cannot open a socket in the namespace"),
            Self::Socket(_) => f.write_str("cannot make the socket"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kernel(error) => Some(error),
            Self::Socket(error) => Some(error),
        }
    }
}

/// Opens a probe in a namespace: `open` runs on a thread that is there.
///
/// # Errors
/// [`OpenError::Kernel`] when the job could not be run there, [`OpenError::Socket`] when `open` failed.
pub async fn open_in<T: Send + 'static>(
    kernel: &dyn Kernel,
    netns: Netns,
    deadline: Instant,
    open: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, OpenError> {
    let (answer, opened) = oneshot::channel();
    // The receiver is only gone when the caller is: then the socket is closed here.
    let job = Box::new(move || drop(answer.send(open())));
    kernel.run_in(netns, job, deadline).await.map_err(OpenError::Kernel)?;
    match opened.await {
        Ok(socket) => socket.map_err(OpenError::Socket),
        Err(oneshot::Canceled) => Err(OpenError::Kernel(KernelError::lost(
            format!("open a socket in {netns}"),
            "the job did not run",
        ))),
    }
}

/// The time until a deadline, or `TimedOut`. Never zero: a socket takes zero for "no timeout".
fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer before the deadline")),
        left => Ok(left.max(Duration::from_micros(1))),
    }
}

/// Runs a blocking step until it is done or the deadline passes: a socket's timeout and a signal both end it
/// early.
fn until<T>(deadline: Instant, mut step: impl FnMut(Duration) -> io::Result<T>) -> io::Result<T> {
    loop {
        match step(remaining(deadline)?) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            done => return done,
        }
    }
}
