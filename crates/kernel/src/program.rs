//! Programs of others: run with text for their input, bounded in time and in what they may say.
//!
//! [`run`] blocks, so it belongs on a [`Worker`](crate::Worker)'s thread. The program is in the namespaces of the calling
//! thread, sees nothing of our environment but a fixed `PATH`, and inherits no descriptor of ours.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Where programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most that a program may write on its standard output; more is an error.
const MAX_OUTPUT: usize = 256 << 20;
/// What is kept of its complaints.
const MAX_COMPLAINT: usize = 4 << 10;
/// How often an ended program is noticed whose children keep its pipes open.
const LOOK: Duration = Duration::from_millis(20);

/// Why a program did not do what it was asked.
#[derive(Debug)]
pub enum ProgramError {
    /// It could not be started, or its pipes failed.
    Io {
        /// The program.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It ended with a failure.
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote on its standard error, or else on its standard output; the beginning of it.
        said: String,
    },
    /// The deadline passed, and it was killed.
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The time that it had.
        allowed: Duration,
    },
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { program, error } => write!(f, "cannot run {}: {error}", program.display()),
            Self::Failed { program, status, said } => {
                write!(f, "{} failed ({status}): {}", program.display(), said.trim_end())
            }
            Self::TimedOut { program, allowed } => {
                write!(
                    f,
                    "{} was not done after {} ms and was killed",
                    program.display(),
                    allowed.as_millis()
                )
            }
        }
    }
}

impl std::error::Error for ProgramError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Failed { .. } | Self::TimedOut { .. } => None,
        }
    }
}

/// Runs a program to its end, with `input` on its standard input, and gives what it wrote on its standard output.
///
/// # Errors
/// [`ProgramError`]. A program that ends well without reading all of its input has done what it was asked.
pub fn run(program: &Path, args: &[&str], input: &str, deadline: Instant) -> Result<String, ProgramError> {
    let begin = Instant::now();
    let failed = |error| ProgramError::Io { program: program.to_owned(), error };
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", PATH).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Reaped(command.spawn().map_err(failed)?);
    let talked = talk(&mut child.0, input.as_bytes(), deadline).map_err(failed)?;
    let Some(Talk { status, output, complaint }) = talked else {
        let allowed = deadline.saturating_duration_since(begin);
        return Err(ProgramError::TimedOut { program: program.to_owned(), allowed });
    };
    let text = String::from_utf8_lossy(&output);
    if status.success() {
        return Ok(text.into_owned());
    }
    let said =
        if complaint.is_empty() { text.chars().take(MAX_COMPLAINT).collect() } else { lossy(&complaint) };
    Err(ProgramError::Failed { program: program.to_owned(), status, said })
}

/// Dropped, it is killed if it still runs, and waited for.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            // It may have ended just now.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

struct Talk {
    status: ExitStatus,
    output: Vec<u8>,
    complaint: Vec<u8>,
}

/// Writes and reads as the pipes allow, until it has ended; `None` when the deadline passes first.
fn talk(child: &mut Child, mut input: &[u8], deadline: Instant) -> io::Result<Option<Talk>> {
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &stdin {
        nonblocking(stdin)?;
    }
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    for pipe in [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
        nonblocking(pipe)?;
    }
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    loop {
        write_some(&mut stdin, &mut input)?;
        read_some(&mut stdout, &mut output)?;
        read_some(&mut stderr, &mut complaint)?;
        if output.len() > MAX_OUTPUT {
            return Err(io::Error::new(ErrorKind::FileTooLarge, "it writes without an end"));
        }
        complaint.truncate(MAX_COMPLAINT);
        if let Some(status) = child.try_wait()? {
            // What it wrote last.
            read_some(&mut stdout, &mut output)?;
            read_some(&mut stderr, &mut complaint)?;
            return Ok(Some(Talk { status, output, complaint }));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
        fds.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        fds.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        // With its pipes closed it is about to end.
        let wait = if fds.len() == usize::from(stdin.is_some()) { Duration::from_millis(1) } else { LOOK };
        let timeout = PollTimeout::try_from(wait.min(left)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn nonblocking(pipe: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Writes what there is room for. Its end closes the pipe, and so does a reader that is gone.
fn write_some(pipe: &mut Option<ChildStdin>, input: &mut &[u8]) -> io::Result<()> {
    while let Some(stdin) = pipe {
        if input.is_empty() {
            *pipe = None;
            break;
        }
        match stdin.write(input) {
            Ok(written) => *input = &input[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => *pipe = None,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what there is; the end closes the pipe.
fn read_some(pipe: &mut Option<impl Read>, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    while let Some(reader) = pipe {
        match reader.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(length) => {
                into.extend(&buffer[..length]);
                // One that never stops must not keep us from looking at the clock.
                if into.len() > MAX_OUTPUT {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str, within: Duration) -> Result<String, ProgramError> {
        run(Path::new("/bin/sh"), &["-c", script], input, Instant::now() + within)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn more_than_a_pipe_holds_goes_through_and_comes_back() {
        let input = "line of text\n".repeat(50_000);
        assert!(sh("cat", &input, LONG).expect("runs") == input);
    }

    #[test]
    fn a_failure_tells_what_was_said_and_how_it_ended() {
        let error = sh("echo out; echo why >&2; exit 3", "not read", LONG).expect_err("fails");
        assert_eq!(error.to_string(), "/bin/sh failed (exit status: 3): why\n".trim_end());
        let error = sh("echo out; exit 4", "", LONG).expect_err("fails");
        assert_eq!(error.to_string(), "/bin/sh failed (exit status: 4): out");
        let error = run(Path::new("/nowhere/it"), &[], "", Instant::now() + LONG).expect_err("not there");
        assert!(
            matches!(&error, ProgramError::Io { error, .. } if error.kind() == ErrorKind::NotFound),
            "{error}"
        );
    }

    #[test]
    fn one_that_does_not_end_is_killed_at_the_deadline_and_gone() {
        let begin = Instant::now();
        // It reads nothing and writes more than is kept, and it does not hear a gentle signal.
        let script = "trap '' TERM PIPE; echo $$; exec sleep 1000";
        let input = "x".repeat(1 << 20);
        let error = sh(script, &input, Duration::from_millis(100)).expect_err("too slow");
        assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn one_whose_child_keeps_the_pipes_is_done_when_it_has_ended() {
        let said = sh("sleep 1000 & echo $!", "", LONG).expect("ends");
        let pid = nix::unistd::Pid::from_raw(said.trim().parse().expect("a number"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it was still there");
    }

    #[test]
    fn it_sees_nothing_of_ours() {
        // Whoever started the test may have left descriptors to all of us; this one is ours.
        let ours = tempfile::NamedTempFile::new().expect("a file");
        let said = sh("echo \"$CARGO_MANIFEST_DIR:$PATH\"; ls -l /proc/self/fd", "", LONG).expect("runs");
        let (first, open) = said.split_once('\n').expect("two parts");
        assert_eq!(first, format!(":{PATH}"));
        let name = ours.path().to_str().expect("plain");
        assert!(open.lines().count() >= 4 && !open.contains(name), "{open}");
    }
}
