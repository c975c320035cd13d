//! A UDP port: finds each client's association, or makes one, and keeps their number within its bound.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::association::{Association, TURN, is_passing, replies};
use crate::counters::Counters;
use crate::datagram::{Caller, Front};
use crate::oldest::Oldest;
use crate::options::Options;
use crate::pipe::with_buffer;
use crate::proxy::{Orders, Stopped};
use crate::tcp::Pause;

/// What a port is made of, beside its socket.
#[derive(Debug)]
pub(crate) struct UdpPort {
    pub(crate) to: SocketAddr,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
}

/// A client's entry. Its number tells it from a later one of the same client.
struct Entry {
    number: u64,
    association: Arc<Association>,
    task: AbortHandle,
}

/// The port's clients. Only the port's task changes them.
struct Clients {
    entries: HashMap<Caller, Entry>,
    oldest: Oldest<(u64, Caller)>,
    tasks: JoinSet<(u64, Caller)>,
    epoch: Instant,
    made: u64,
}

/// Receives until it is told to stop.
pub(crate) async fn serve(front: Front, port: UdpPort, mut orders: Orders) {
    let front = Arc::new(front);
    let mut clients = Clients::new();
    let mut pause = Pause::default();
    loop {
        tokio::select! {
            biased;
            _ = &mut orders.stop => break,
            Some(ended) = clients.tasks.join_next() => {
                // Those that were displaced are gone already.
                if let Ok((number, caller)) = ended {
                    clients.forget(number, caller);
                }
            }
            readable = readable(&front, pause.until) => {
                let received = match readable {
                    Ok(()) => receive(&front, &port, &mut clients),
                    Err(error) => Err(error),
                };
                match received {
                    Ok(()) => pause.over(),
                    Err(_) => {
                        port.counters.accept_errors.add(1);
                        pause.longer();
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }
    let cut_off = clients.tasks.len();
    // Each has a hold on the socket.
    clients.tasks.shutdown().await;
    drop(front);
    orders.listening_ended();
    orders.ended(Stopped { ended: 0, cut_off });
}

async fn readable(front: &Front, not_before: Option<Instant>) -> io::Result<()> {
    if let Some(instant) = not_before {
        sleep_until(instant).await;
    }
    front.readable().await
}

/// Passes on what is there, up to a turn's worth.
fn receive(front: &Arc<Front>, port: &UdpPort, clients: &mut Clients) -> io::Result<()> {
    for _ in 0..TURN {
        let received = with_buffer(|buffer| {
            let (length, caller) = front.receive(buffer)?;
            clients.pass(&buffer[..length], caller, front, port);
            Ok(())
        });
        match received {
            Ok(()) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Clients {
    fn new() -> Self {
        Self {
            entries: HashMap::new(),
            oldest: Oldest::new(),
            tasks: JoinSet::new(),
            epoch: Instant::now(),
            made: 0,
        }
    }

    /// Passes a client's datagram on. What the back end's socket has no room for is dropped, as a full queue on
    /// the way would drop it: waiting would make the other clients wait.
    fn pass(&mut self, datagram: &[u8], caller: Caller, front: &Arc<Front>, port: &UdpPort) {
        let counters = &port.counters;
        let known = self.entries.get(&caller).filter(|entry| entry.association.hear());
        let association = match known {
            Some(entry) => Arc::clone(&entry.association),
            None => match self.associate(caller, front, port) {
                Ok(association) => association,
                Err(_) => {
                    counters.refused.add(1);
                    counters.dropped.add(1);
                    return;
                }
            },
        };
        match association.send(datagram) {
            Ok(()) => counters.to_backend.add(datagram.len()),
            Err(_) => counters.dropped.add(1),
        }
    }

    fn associate(
        &mut self,
        caller: Caller,
        front: &Arc<Front>,
        port: &UdpPort,
    ) -> io::Result<Arc<Association>> {
        // An entry of the same client has ended, whether or not that was heard yet.
        self.entries.remove(&caller);
        while let Some(Ok((number, caller))) = self.tasks.try_join_next() {
            self.forget(number, caller);
        }
        if self.entries.len() >= port.options.max_associations {
            self.displace(&port.counters);
        }
        let association = Arc::new(Association::open(port.to, self.epoch)?);
        self.made += 1;
        let number = self.made;
        let open = port.counters.enter();
        let after = port.options.udp_timeout;
        let task = replies(Arc::clone(&association), Arc::clone(front), caller, after, open);
        let task = self.tasks.spawn(async move {
            task.await;
            (number, caller)
        });
        self.oldest.insert((number, caller), association.heard().unwrap_or(0));
        self.entries.insert(caller, Entry { number, association: Arc::clone(&association), task });
        let entries = &self.entries;
        self.oldest.tidy(entries.len(), |(number, caller)| is_there(entries, *number, caller));
        Ok(association)
    }

    /// Ends the association that has been silent for longest.
    fn displace(&mut self, counters: &Counters) {
        let entries = &self.entries;
        let heard = |(number, caller): &(u64, Caller)| {
            let entry = entries.get(caller).filter(|entry| entry.number == *number)?;
            // One that has ended by itself goes first.
            Some(entry.association.heard().unwrap_or(0))
        };
        if let Some((_, caller)) = self.oldest.take(heard)
            && let Some(entry) = self.entries.remove(&caller)
        {
            entry.task.abort();
            counters.displaced.add(1);
        }
    }

    fn forget(&mut self, number: u64, caller: Caller) {
        if is_there(&self.entries, number, &caller) {
            self.entries.remove(&caller);
        }
    }
}

fn is_there(entries: &HashMap<Caller, Entry>, number: u64, caller: &Caller) -> bool {
    entries.get(caller).is_some_and(|entry| entry.number == number)
}
