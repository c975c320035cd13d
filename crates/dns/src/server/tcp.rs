//! Questions in streams: each after its length, many at once, answers as they come.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::service::{Now, Pending, Place, Service};
use crate::query::Transport;

/// Answers that wait for their client may be so many bytes before its questions are no longer read.
const UNSENT: usize = 64 * 1024;

/// Talks to one client until it has gone, or has asked nothing for too long.
pub(super) async fn converse(service: Service, mut stream: TcpStream, _place: Place) {
    // An answer is written in one go, and must not wait for the next one.
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.split();
    let (idle, most) = (service.shared.options.idle, service.shared.options.pipelined);
    let (mut read, mut unsent, mut answer) = (Vec::new(), Vec::new(), Vec::new());
    // A task may go on for a while after it has told its answer.
    let (tell, mut told) = mpsc::channel(most);
    let (mut tasks, mut waiting) = (JoinSet::new(), 0);
    let (mut until, mut ended) = (Instant::now() + idle, false);
    loop {
        let mut taken = 0;
        while waiting < most && unsent.len() < UNSENT {
            let Some(query) = first(&read[taken..]) else { break };
            taken += 2 + query.len();
            until = Instant::now() + idle;
            match service.ask(query, Transport::Tcp, &mut answer) {
                Now::Answered => add(&mut unsent, &answer),
                Now::Wait(pending) => {
                    waiting += 1;
                    tasks.spawn(forwarded(service.clone(), pending, tell.clone()));
                }
                // Somebody who sends answers, or nothing at all, is no client.
                Now::Nothing => return,
            }
        }
        read.drain(..taken);
        if !unsent.is_empty() {
            if !write(&mut writer, &mut unsent, idle).await {
                return;
            }
            continue;
        }
        if waiting == 0 && ended {
            return;
        }
        tokio::select! {
            got = reader.read_buf(&mut read), if !ended && waiting < most => match got {
                Ok(0) => ended = true,
                Ok(_) => {}
                Err(_) => return,
            },
            Some(done) = told.recv(), if waiting > 0 => {
                waiting -= 1;
                until = Instant::now() + idle;
                add(&mut unsent, &done);
            }
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                if done.is_err() {
                    // It has not told its answer, and will not.
                    return;
                }
            }
            () = sleep_until(until), if waiting == 0 => return,
        }
    }
}

/// The first whole question of what was read.
fn first(read: &[u8]) -> Option<&[u8]> {
    let (length, rest) = read.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// Adds an answer to what is to be sent.
fn add(unsent: &mut Vec<u8>, answer: &[u8]) {
    // Every answer fits: it was cut to that.
    if let Ok(length) = u16::try_from(answer.len()) {
        unsent.extend(length.to_be_bytes());
        unsent.extend_from_slice(answer);
    }
}

/// The answer of others.
async fn forwarded(service: Service, pending: Pending, tell: mpsc::Sender<Vec<u8>>) {
    // There is room for all that wait, and nobody listens when the connection has ended.
    service.forward(pending, Transport::Tcp, |out| drop(tell.try_send(out))).await;
}

/// Sends what there is; whether the client took it in time.
async fn write(writer: &mut (impl AsyncWriteExt + Unpin), unsent: &mut Vec<u8>, patience: Duration) -> bool {
    let sent = timeout(patience, writer.write_all(unsent)).await;
    unsent.clear();
    unsent.shrink_to(4096);
    matches!(sent, Ok(Ok(())))
}
