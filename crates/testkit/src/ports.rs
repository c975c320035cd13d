//! Ports of a simulated host: a list of who has which, and refusals as planned.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use netloom_kernel::{HoldRefusal, Place, PortHolder, PortSocket, PortToHold};
use netloom_model::{HostPort, PortUser, Protocol};

type Answers = Vec<Result<PortSocket, HoldRefusal>>;

/// Holds ports of a host that is not there. It knows which ports processes of others have, which addresses the host has,
/// and refuses what Linux refuses. Cloning shares the host.
#[derive(Clone, Default)]
pub struct SimPorts(Arc<Mutex<Host>>);

#[derive(Default)]
struct Host {
    /// Every port that is held, once for each socket.
    held: Vec<PortToHold>,
    /// The engine's own, which hold nothing for anybody.
    own: Vec<PortToHold>,
    /// What becomes of the next one of these.
    planned_own: Option<HoldRefusal>,
    /// How many processes have ended.
    process: u64,
    /// Ports of others, and who they are where that can be seen.
    others: Vec<(HostPort, Option<PortUser>)>,
    /// The host's addresses; any when empty.
    addresses: Vec<IpAddr>,
    /// The first port that needs no right.
    unprivileged: u16,
    without_sctp: bool,
    /// What becomes of the next ports; `None` for nothing out of the ordinary.
    planned: VecDeque<Option<HoldRefusal>>,
    /// Calls that wait, while it is stopped.
    stopped: Option<VecDeque<Call>>,
    looked: usize,
    tried: usize,
}

enum Call {
    Hold(Vec<PortToHold>, oneshot::Sender<Answers>),
    HoldOneOf(Vec<u16>, oneshot::Sender<Own>),
    LetGo(Vec<PortSocket>, oneshot::Sender<()>),
}

type Own = Result<(u16, PortSocket), HoldRefusal>;

/// A socket of the simulation.
struct Guard {
    host: SimPorts,
    port: PortToHold,
    process: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut host = self.host.lock();
        if host.process != self.process {
            return;
        }
        if let Some(at) = host.held.iter().position(|held| *held == self.port) {
            host.held.swap_remove(at);
        } else {
            host.own.retain(|own| *own != self.port);
        }
    }
}

impl fmt::Debug for SimPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimPorts({} held)", self.lock().held.len())
    }
}

impl SimPorts {
    fn lock(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that is not ours has a port from now on.
    pub fn other(&self, port: HostPort, user: Option<PortUser>) {
        self.lock().others.push((port, user));
    }

    /// It ends.
    pub fn end_other(&self, port: HostPort) {
        self.lock().others.retain(|(other, _)| *other != port);
    }

    /// The host has these addresses, beside those that stand for all.
    pub fn addresses(&self, addresses: &[IpAddr]) {
        self.lock().addresses = addresses.to_vec();
    }

    /// The engine may bind no port below this one.
    pub fn unprivileged_from(&self, port: u16) {
        self.lock().unprivileged = port;
    }

    /// The kernel has no SCTP.
    pub fn without_sctp(&self) {
        self.lock().without_sctp = true;
    }

    /// What becomes of the n-th port from now (1 is the next).
    pub fn refuse(&self, nth: usize, refusal: HoldRefusal) {
        let mut host = self.lock();
        let length = host.planned.len().max(nth.max(1));
        host.planned.resize(length, None);
        host.planned[nth.max(1) - 1] = Some(refusal);
    }

    /// What becomes of the engine's next port of its own ([`PortHolder::hold_one_of`]).
    pub fn refuse_own(&self, refusal: HoldRefusal) {
        self.lock().planned_own = Some(refusal);
    }

    /// The engine's own ports, which hold nothing for anybody.
    #[must_use]
    pub fn own(&self) -> Vec<u16> {
        self.lock().own.iter().map(|own| own.port).collect()
    }

    /// Nothing is refused any more that was planned; how many refusals had not come yet.
    pub fn refuse_no_more(&self) -> usize {
        std::mem::take(&mut self.lock().planned).into_iter().flatten().count()
    }

    /// The process that holds ports ends, and with it every socket, whoever has it still.
    pub fn end_process(&self) {
        let mut host = self.lock();
        host.held.clear();
        host.own.clear();
        host.process += 1;
    }

    /// Nothing is done from now on until [`Self::proceed`].
    pub fn stop(&self) {
        self.lock().stopped.get_or_insert_default();
    }

    /// Does what has waited, in order, and goes on.
    pub fn proceed(&self) {
        let waiting = self.lock().stopped.take();
        for call in waiting.into_iter().flatten() {
            self.carry_out(call);
        }
    }

    /// The ports that are held, in order.
    #[must_use]
    pub fn held(&self) -> Vec<HostPort> {
        let mut held: Vec<HostPort> = self.lock().held.iter().map(|port| port.named()).collect();
        held.sort_unstable();
        held
    }

    /// How many ports were tried, and how many searches for a port's user there were.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let host = self.lock();
        (host.tried, host.looked)
    }

    fn carry_out(&self, call: Call) {
        match call {
            Call::Hold(ports, reply) => {
                let answers = ports.into_iter().map(|port| self.try_to_hold(port)).collect();
                let _ = reply.send(answers);
            }
            Call::HoldOneOf(ports, reply) => {
                let _ = reply.send(self.try_to_hold_one_of(ports));
            }
            Call::LetGo(sockets, reply) => {
                drop(sockets);
                let _ = reply.send(());
            }
        }
    }

    fn call(&self, call: Call) {
        if let Some(waiting) = &mut self.lock().stopped {
            waiting.push_back(call);
            return;
        }
        self.carry_out(call);
    }

    fn try_to_hold(&self, port: PortToHold) -> Result<PortSocket, HoldRefusal> {
        let mut host = self.lock();
        host.tried += 1;
        if let Some(refusal) = host.planned.pop_front().flatten() {
            return Err(refusal);
        }
        host.check(port)?;
        host.held.push(port);
        let process = host.process;
        drop(host);
        Ok(PortSocket::simulated(Guard { host: self.clone(), port, process }))
    }

    fn try_to_hold_one_of(&self, ports: Vec<u16>) -> Own {
        let mut host = self.lock();
        if let Some(refusal) = host.planned_own.take() {
            return Err(refusal);
        }
        let mut refusal = HoldRefusal::InUse;
        for port in ports {
            let port = PortToHold { place: Place::Both, protocol: Protocol::Tcp, port };
            match host.check(port) {
                Err(why @ (HoldRefusal::InUse | HoldRefusal::Privileged)) => refusal = why,
                Err(other) => return Err(other),
                Ok(()) => {
                    host.own.push(port);
                    let process = host.process;
                    drop(host);
                    let guard = Guard { host: self.clone(), port, process };
                    return Ok((port.port, PortSocket::simulated(guard)));
                }
            }
        }
        Err(refusal)
    }
}

impl Host {
    fn check(&self, wanted: PortToHold) -> Result<(), HoldRefusal> {
        let protocol = wanted.protocol;
        if protocol == Protocol::Icmp || (protocol == Protocol::Sctp && self.without_sctp) {
            return Err(HoldRefusal::Unsupported);
        }
        if let Place::One(address) = wanted.place
            && !address.is_unspecified()
            && !self.addresses.is_empty()
            && !self.addresses.contains(&address)
        {
            return Err(HoldRefusal::NoSuchAddress);
        }
        if wanted.port < self.unprivileged {
            return Err(HoldRefusal::Privileged);
        }
        let own = self.held.iter().chain(&self.own).any(|held| {
            held.protocol == protocol && held.port == wanted.port && overlap(held.place, wanted.place)
        });
        if own || self.user(wanted).is_some() { Err(HoldRefusal::InUse) } else { Ok(()) }
    }

    fn user(&self, wanted: PortToHold) -> Option<&Option<PortUser>> {
        let in_the_way = |other: &HostPort| {
            other.protocol == wanted.protocol
                && other.port == wanted.port
                && overlap(Place::One(other.address), wanted.place)
        };
        self.others.iter().find(|(other, _)| in_the_way(other)).map(|(_, user)| user)
    }
}

fn overlap(one: Place, two: Place) -> bool {
    match (one, two) {
        (Place::Both, _) | (_, Place::Both) => true,
        (Place::One(one), Place::One(two)) => {
            one.is_ipv4() == two.is_ipv4() && (one == two || one.is_unspecified() || two.is_unspecified())
        }
    }
}

impl PortHolder for SimPorts {
    fn hold(&self, ports: Vec<PortToHold>, deadline: Instant) -> BoxFuture<'static, Answers> {
        let (reply, answer) = oneshot::channel();
        let count = ports.len();
        let all = move |refusal: &HoldRefusal| (0..count).map(|_| Err(refusal.clone())).collect();
        if deadline.checked_duration_since(Instant::now()).is_none() {
            return std::future::ready(all(&HoldRefusal::NotStarted(Duration::ZERO))).boxed();
        }
        self.call(Call::Hold(ports, reply));
        async move { answer.await.unwrap_or_else(|oneshot::Canceled| all(&HoldRefusal::Lost)) }.boxed()
    }

    fn hold_one_of(&self, ports: Vec<u16>, _: Instant) -> BoxFuture<'static, Own> {
        let (reply, answer) = oneshot::channel();
        self.call(Call::HoldOneOf(ports, reply));
        async move { answer.await.unwrap_or(Err(HoldRefusal::Lost)) }.boxed()
    }

    fn let_go(&self, sockets: Vec<PortSocket>) -> BoxFuture<'static, ()> {
        let (reply, answer) = oneshot::channel();
        self.call(Call::LetGo(sockets, reply));
        async move {
            let _ = answer.await;
        }
        .boxed()
    }

    fn user(&self, port: PortToHold, _: Instant) -> BoxFuture<'static, Option<PortUser>> {
        let mut host = self.lock();
        host.looked += 1;
        std::future::ready(host.user(port).cloned().flatten()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    fn one(address: &str, port: u16) -> PortToHold {
        let place = Place::One(address.parse().expect("an address"));
        PortToHold { place, protocol: Protocol::Tcp, port }
    }

    fn hold(ports: &SimPorts, port: PortToHold) -> Result<PortSocket, HoldRefusal> {
        let soon = Instant::now() + Duration::from_secs(30);
        block_on(ports.hold(vec![port], soon)).pop().expect("one answer")
    }

    #[test]
    fn it_refuses_what_linux_refuses() {
        let ports = SimPorts::default();
        ports.addresses(&["192.0.2.1".parse().expect("an address")]);
        ports.unprivileged_from(1_024);
        ports.without_sctp();
        let both = PortToHold { place: Place::Both, ..one("::", 8_080) };
        let kept = hold(&ports, one("192.0.2.1", 8_080)).expect("free");
        for (port, refusal) in [
            (one("192.0.2.1", 8_080), HoldRefusal::InUse),
            (one("0.0.0.0", 8_080), HoldRefusal::InUse),
            (both, HoldRefusal::InUse),
            (one("192.0.2.2", 8_080), HoldRefusal::NoSuchAddress),
            (one("0.0.0.0", 1_023), HoldRefusal::Privileged),
            (PortToHold { protocol: Protocol::Sctp, ..both }, HoldRefusal::Unsupported),
            (PortToHold { protocol: Protocol::Icmp, ..both }, HoldRefusal::Unsupported),
        ] {
            assert_eq!(hold(&ports, port).expect_err("refused"), refusal, "{port:?}");
        }
        let v6 = hold(&ports, one("::", 8_080)).expect("another family");
        assert_eq!(ports.held().len(), 2);
        assert!(kept.into_socket().is_err(), "there is no socket");
        block_on(ports.let_go(vec![v6]));
        assert_eq!(ports.held(), []);
        let port = HostPort { address: [127, 0, 0, 1].into(), protocol: Protocol::Tcp, port: 8_080 };
        ports.other(port, Some(PortUser { pid: 7, command: "nginx".into() }));
        assert_eq!(hold(&ports, both).expect_err("taken"), HoldRefusal::InUse);
        let user = block_on(ports.user(both, Instant::now()));
        assert_eq!(user.map(|user| user.pid), Some(7));
        ports.end_other(port);
        ports.refuse(2, HoldRefusal::NoDescriptors);
        hold(&ports, both).expect("free again");
        assert_eq!(hold(&ports, both).expect_err("planned"), HoldRefusal::NoDescriptors);
    }

    #[test]
    fn a_port_of_the_engines_own_is_the_first_that_is_free_and_is_nobodys() {
        let ports = SimPorts::default();
        ports.unprivileged_from(100);
        // One that needs a right which is not there is passed over like one that somebody has.
        let last = || block_on(ports.hold_one_of(vec![99, 102, 101, 100], Instant::now()));
        let taken = hold(&ports, one("127.0.0.1", 102)).expect("free");
        let (number, own) = last().expect("free");
        assert_eq!((number, ports.own(), ports.held().len()), (101, vec![101], 1));
        assert_eq!(hold(&ports, one("::", 101)).expect_err("taken"), HoldRefusal::InUse);
        drop(taken);
        assert_eq!(last().expect("free").0, 102, "which is let go at once");
        ports.refuse_own(HoldRefusal::NoDescriptors);
        assert_eq!(last().expect_err("planned"), HoldRefusal::NoDescriptors);
        drop(own);
        assert_eq!(ports.own(), Vec::<u16>::new());
    }

    #[test]
    fn what_waits_is_done_in_order() {
        let ports = SimPorts::default();
        let first = hold(&ports, one("::", 80)).expect("free");
        ports.stop();
        let soon = Instant::now() + Duration::from_secs(30);
        let (gone, held) = (ports.let_go(vec![first]), ports.hold(vec![one("::", 80)], soon));
        assert_eq!(ports.held().len(), 1);
        ports.proceed();
        block_on(gone);
        block_on(held).pop().expect("one answer").expect("let go before");
    }
}
