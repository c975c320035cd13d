//! Questions in datagrams.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::service::{Now, Pending, Service};
use crate::answer::LARGEST_QUERY;
use crate::query::Transport;

/// At most so many are read before others have their turn.
const TURN: usize = 64;

/// A question that waits, and who asked it.
pub(super) type Waiting = (Pending, SocketAddr);

/// How reading ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Drained {
    /// Nothing is left.
    Empty,
    /// There may be more.
    More,
    /// The kernel does not let the socket be read now.
    Failed,
}

/// Answers what is there; `pending` gets what others have to be asked.
pub(super) fn drain(service: &Service, socket: &UdpSocket, pending: &mut Vec<Waiting>) -> Drained {
    // One more than the largest question, to see what is larger.
    let mut buffer = [0; LARGEST_QUERY as usize + 1];
    let mut out = Vec::new();
    for _ in 0..TURN {
        let (length, client) = match socket.try_recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Drained::Empty,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Drained::Failed,
        };
        // A larger one ends in the middle of a record, and is answered as what it is then.
        match service.ask(&buffer[..length], Transport::Udp, &mut out) {
            Now::Answered => send(service, socket, &out, client),
            Now::Wait(waiting) => pending.push((waiting, client)),
            Now::Nothing => {}
        }
    }
    Drained::More
}

/// Asks others, and answers.
pub(super) async fn forward(service: Service, socket: Arc<UdpSocket>, (pending, client): Waiting) {
    service.forward(pending, Transport::Udp, |out| send(&service, &socket, &out, client)).await;
}

/// Without waiting: a client whose answers nobody takes would hold up the others. It asks again.
fn send(service: &Service, socket: &UdpSocket, out: &[u8], client: SocketAddr) {
    if !out.is_empty() && socket.try_send_to(out, client).is_err() {
        service.counters.unsent.add(1);
    }
}
