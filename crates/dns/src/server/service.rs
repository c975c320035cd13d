//! The task of one sandbox, and what a question goes through whichever way it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant as Moment, sleep_until};

use super::udp::Drained;
use super::{Shared, tcp, udp};
use crate::answer::{Asked, Verdict, answer};
use crate::counters::{Counters, Ended};
use crate::forward::{Admitted, Forwarder, Reply, fitted};
use crate::query::Transport;
use crate::records::ViewCell;

/// After the kernel has refused a connection or a datagram (no descriptors, no memory), none is taken for so long.
const REST: Duration = Duration::from_millis(100);

/// What the tasks of a sandbox share.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) view: Arc<ViewCell>,
    pub(super) counters: Arc<Counters>,
    pub(super) forwarder: Arc<Forwarder>,
}

/// A question that others are asked.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) query: Vec<u8>,
    pub(super) since: Instant,
    pub(super) admitted: Admitted,
}

/// What is done about a question now.
#[derive(Debug)]
pub(super) enum Now {
    /// The answer is written.
    Answered,
    /// Others are asked.
    Wait(Pending),
    /// Nothing.
    Nothing,
}

impl Service {
    /// Serves until it is told to stop, or whoever could tell is gone.
    pub(super) async fn run(self, udp: UdpSocket, tcp: TcpListener, mut stop: oneshot::Receiver<()>) {
        let udp = Arc::new(udp);
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let (mut udp_tired_until, mut tired_until): (Option<Moment>, Option<Moment>) = (None, None);
        let mut pending = Vec::new();
        loop {
            tokio::select! {
                _ = &mut stop => break,
                ready = udp.readable(), if udp_tired_until.is_none() => {
                    let drained = match ready {
                        Ok(()) => udp::drain(&self, &udp, &mut pending),
                        Err(_) => Drained::Failed,
                    };
                    for pending in pending.drain(..) {
                        tasks.spawn(udp::forward(self.clone(), Arc::clone(&udp), pending));
                    }
                    match drained {
                        Drained::Empty => {}
                        // Others have their turn.
                        Drained::More => tokio::task::yield_now().await,
                        // No memory, most likely: not a reason to turn in a circle.
                        Drained::Failed => udp_tired_until = Some(Moment::now() + REST),
                    }
                }
                accepted = tcp.accept(), if tired_until.is_none() => match accepted {
                    Ok((stream, _)) => {
                        if let Some(place) = self.place(&connections) {
                            tasks.spawn(tcp::converse(self.clone(), stream, place));
                        }
                    }
                    Err(error) if is_the_clients(&error) => {}
                    Err(_) => tired_until = Some(Moment::now() + REST),
                },
                () = rested(tired_until), if tired_until.is_some() => tired_until = None,
                () = rested(udp_tired_until), if udp_tired_until.is_some() => udp_tired_until = None,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {
                    // Thousands that ended are no reason to keep their memory.
                    if tasks.is_empty() {
                        tasks = JoinSet::new();
                        pending = Vec::new();
                    }
                }
            }
        }
        // Their sockets are closed when they have ended.
        tasks.shutdown().await;
    }

    /// A place for one more connection, unless there are too many.
    fn place(&self, connections: &Arc<AtomicUsize>) -> Option<Place> {
        let options = &self.shared.options;
        let place = Place { service: self.clone(), connections: Arc::clone(connections) };
        // Both count before either is looked at, so that giving the place back is always right.
        let each = connections.fetch_add(1, Ordering::Relaxed);
        let all = self.shared.connections.fetch_add(1, Ordering::Relaxed);
        if each < options.connections_each && all < options.connections {
            self.counters.connections.add(1);
            return Some(place);
        }
        self.counters.connections_refused.add(1);
        None
    }

    /// Answers a question, or says that it has to wait; the answer replaces what is in `out`.
    pub(super) fn ask(&self, query: &[u8], transport: Transport, out: &mut Vec<u8>) -> Now {
        let since = Instant::now();
        let (seed, ttl) = (self.shared.forwards.draw(), self.shared.options.ttl);
        let asked = Asked { transport, now: since, seed, ttl };
        let verdict = answer(query, &self.view.load(), &asked, out);
        match verdict {
            Verdict::Answered(outcome) => {
                self.counters.count(Ended::Here(outcome), since.elapsed());
                Now::Answered
            }
            Verdict::Silence => {
                self.counters.count(Ended::Silence, since.elapsed());
                Now::Nothing
            }
            Verdict::Forward { .. } => match self.forwarder.admit() {
                Some(admitted) => Now::Wait(Pending { query: query.to_vec(), since, admitted }),
                None => {
                    self.counters.count(Ended::TooMany, since.elapsed());
                    fitted(&Reply::TooMany, query, transport, out);
                    Now::Answered
                }
            },
        }
    }

    /// Asks others, and gives what the client gets to `deliver`.
    pub(super) async fn forward(
        &self,
        pending: Pending,
        transport: Transport,
        deliver: impl FnOnce(Vec<u8>) + Send,
    ) {
        let Pending { query, since, admitted } = pending;
        let asked = query.clone();
        let finish = |reply: Reply| {
            let mut out = Vec::new();
            if fitted(&reply, &query, transport, &mut out) {
                self.counters.cut.add(1);
            }
            self.counters.count(reply.ended(), since.elapsed());
            deliver(out);
        };
        self.forwarder.forward(admitted, asked, transport, finish).await;
    }
}

/// Waits until then.
async fn rested(until: Option<Moment>) {
    if let Some(until) = until {
        sleep_until(until).await;
    }
}

/// Whether a connection could not be taken because of itself: it is gone already.
fn is_the_clients(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// A place of a TCP connection.
#[derive(Debug)]
pub(super) struct Place {
    service: Service,
    connections: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.service.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
