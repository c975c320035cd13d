//! Two streams that are one: what comes from each goes to the other, ends and resets included.

use std::io;
use std::net::Shutdown;
use std::ops::Deref;
use std::pin::pin;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::counters::Counter;
use crate::pipe::{BUFFER, Pipe, with_buffer};

/// A direction that has moved so much lets others of its thread have a turn.
const TURN: usize = 2 * 1024 * 1024;

/// A pipe that brought less than this in one go costs more than it saves.
const WORTH_A_PIPE: usize = 16 * 1024;

/// One end of a connection. Unless the stream ended in order its peer is told so with a reset: what was cut off
/// must not look whole.
#[derive(Debug)]
pub(crate) struct End {
    stream: TcpStream,
    in_order: bool,
}

impl End {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, in_order: false }
    }

    /// Closes it after both directions have ended.
    fn close(mut self) {
        self.in_order = true;
    }
}

impl Deref for End {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.in_order {
            // Fails only when there is no connection any more.
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// Ends once the stream was reset, or given up by the kernel.
pub(crate) async fn broken(stream: &TcpStream) {
    // It fails when the runtime ends, and this task with it.
    let _ = stream.ready(Interest::ERROR).await;
}

/// Carries both directions until both have ended, and then closes both streams in order. What each brought is
/// counted as it is passed on.
///
/// # Errors
/// One side was reset; both are by the time this returns.
pub(crate) async fn relay(
    client: End,
    backend: End,
    to_backend: &Counter,
    to_client: &Counter,
    splice: bool,
) -> io::Result<()> {
    carry(&client, &backend, to_backend, to_client, splice).await?;
    client.close();
    backend.close();
    Ok(())
}

async fn carry(
    client: &End,
    backend: &End,
    to_backend: &Counter,
    to_client: &Counter,
    splice: bool,
) -> io::Result<()> {
    let mut up = pin!(forward(client, backend, to_backend, splice));
    let mut down = pin!(forward(backend, client, to_client, splice));
    let (mut up_ended, mut down_ended) = (false, false);
    while !(up_ended && down_ended) {
        // A direction that has ended reads no more, so a reset of its source has to be looked for.
        tokio::select! {
            biased;
            ended = &mut up, if !up_ended => {
                ended?;
                up_ended = true;
            }
            ended = &mut down, if !down_ended => {
                ended?;
                down_ended = true;
            }
            () = broken(client), if up_ended => return Err(io::ErrorKind::ConnectionReset.into()),
            () = broken(backend), if down_ended => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
    Ok(())
}

/// What became of one turn.
enum Turn {
    /// There was nothing to read.
    Nothing,
    /// The source has ended.
    End,
    /// So many bytes were read, and the rest was not taken yet.
    Read(usize, Vec<u8>),
}

/// Carries one direction up to its end, which is passed on.
async fn forward(from: &End, to: &End, moved: &Counter, mut splice: bool) -> io::Result<()> {
    let mut much = false;
    let mut since_pause = 0;
    loop {
        from.readable().await?;
        let read = if splice && much {
            match through_pipe(from, to, moved).await {
                Ok(read) => read,
                Err(Spliced::Unfit) => {
                    splice = false;
                    continue;
                }
                Err(Spliced::Failed(error)) => return Err(error),
            }
        } else {
            copied(from, to, moved).await?
        };
        let Some(read) = read else { continue };
        if read == 0 {
            return SockRef::from(&**to).shutdown(Shutdown::Write);
        }
        much = read >= if much { WORTH_A_PIPE } else { BUFFER };
        since_pause += read;
        if since_pause >= TURN {
            since_pause = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Copies what is there, through this thread's buffer. Memory is used only for what the target did not take.
/// `None` when there was nothing, zero at the end.
async fn copied(from: &End, to: &End, moved: &Counter) -> io::Result<Option<usize>> {
    let turn = with_buffer(|buffer| -> io::Result<Turn> {
        let read = match from.try_read(buffer) {
            Ok(0) => return Ok(Turn::End),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Nothing),
            Err(error) => return Err(error),
        };
        let sent = write(to, &buffer[..read])?;
        moved.add(sent);
        Ok(Turn::Read(read, buffer[sent..read].to_vec()))
    })?;
    let (read, rest) = match turn {
        Turn::Nothing => return Ok(None),
        Turn::End => return Ok(Some(0)),
        Turn::Read(read, rest) => (read, rest),
    };
    let mut rest = &rest[..];
    while !rest.is_empty() {
        room(to, from).await?;
        let sent = write(to, rest)?;
        moved.add(sent);
        rest = &rest[sent..];
    }
    Ok(Some(read))
}

/// Writes what the target takes, which may be nothing.
fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match to.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

/// Why a turn through a pipe was none.
enum Spliced {
    /// There is no pipe, or these sockets cannot be spliced; nothing was moved.
    Unfit,
    /// One of the streams is gone.
    Failed(io::Error),
}

impl From<io::Error> for Spliced {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Moves what is there through a pipe, without copying it. The pipe is held only while something is in it.
async fn through_pipe(from: &End, to: &End, moved: &Counter) -> Result<Option<usize>, Spliced> {
    let Ok(pipe) = Pipe::take() else { return Err(Spliced::Unfit) };
    let read = match from.try_io(Interest::READABLE, || pipe.fill(&**from)) {
        Ok(read) => read,
        Err(error) => {
            pipe.put_back();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                io::ErrorKind::InvalidInput => Err(Spliced::Unfit),
                _ => Err(error.into()),
            };
        }
    };
    let mut left = read;
    while left > 0 {
        match to.try_io(Interest::WRITABLE, || pipe.drain(&**to, left)) {
            // A pipe that holds something gives something.
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(sent) => {
                moved.add(sent);
                left -= sent;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => room(to, from).await?,
            Err(error) => return Err(error.into()),
        }
    }
    pipe.put_back();
    Ok(Some(read))
}

/// Waits until the target takes more. A reset of the source ends that: nobody would read it meanwhile.
async fn room(to: &End, from: &End) -> io::Result<()> {
    tokio::select! {
        biased;
        room = to.writable() => room,
        () = broken(from) => Err(io::ErrorKind::ConnectionReset.into()),
    }
}
