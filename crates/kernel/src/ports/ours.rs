//! Which ports were this holder's a moment ago.
//!
//! A process that has just forked has every descriptor twice, those that are closed on exec too, until the child executes
//! its program. So a port that was let go may still be taken then, by nobody who means to keep it.

use std::time::{Duration, Instant};

use netloom_model::Protocol;
use rustc_hash::FxHashMap;

use super::PortToHold;

/// How long ago a port may have been let go that is asked for again in vain, to be tried again: far longer than a child
/// needs to execute its program.
const MOMENT: Duration = Duration::from_millis(250);
/// How many ports are remembered before those are forgotten that were let go longer ago.
const MANY: usize = 1_024;

/// Ports that this holder has or had, on whatever addresses. There are not more than there are ports.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// When each was let go; `None` while it is held, or where somebody else was to close its socket.
    ports: FxHashMap<(Protocol, u16), Option<Instant>>,
}

impl Ours {
    /// A port is held now.
    pub(super) fn held(&mut self, port: PortToHold) {
        self.ports.insert((port.protocol, port.port), None);
    }

    /// Ports have been let go.
    pub(super) fn let_go(&mut self, ports: impl Iterator<Item = PortToHold>, now: Instant) {
        self.ports.extend(ports.map(|port| ((port.protocol, port.port), Some(now))));
        if self.ports.len() > MANY {
            self.ports.retain(|_, at| at.is_none_or(|at| now.saturating_duration_since(at) <= MOMENT));
        }
    }

    /// Whether it may be this process that still has a port, by a copy of its socket.
    pub(super) fn may_linger(&self, port: PortToHold, now: Instant) -> bool {
        self.ports
            .get(&(port.protocol, port.port))
            .is_some_and(|at| at.is_none_or(|at| now.saturating_duration_since(at) <= MOMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    fn port(protocol: Protocol, port: u16) -> PortToHold {
        PortToHold { place: Place::Both, protocol, port }
    }

    #[test]
    fn only_what_was_ours_a_moment_ago_may_linger() {
        let (mut ours, now) = (Ours::default(), Instant::now());
        let (tcp, udp) = (port(Protocol::Tcp, 80), port(Protocol::Udp, 80));
        assert!(!ours.may_linger(tcp, now), "somebody else's");
        ours.held(tcp);
        assert!(
            ours.may_linger(tcp, now + Duration::from_secs(9)),
            "whoever serves it closes it at any time"
        );
        assert!(!ours.may_linger(udp, now), "another protocol");
        ours.let_go([tcp].into_iter(), now);
        assert!(ours.may_linger(tcp, now + MOMENT));
        let later = now + MOMENT + Duration::from_millis(1);
        assert!(!ours.may_linger(tcp, later), "long ago");
        // What is of no use is not kept.
        ours.held(udp);
        for batch in 0..40 {
            let ports = (0..1_000).map(|number| port(Protocol::Tcp, batch * 1_000 + number));
            ours.let_go(ports, later + Duration::from_secs(u64::from(batch)));
        }
        assert!(ours.ports.len() <= MANY + 1_000, "{}", ours.ports.len());
        assert!(ours.may_linger(udp, later), "held");
    }
}
