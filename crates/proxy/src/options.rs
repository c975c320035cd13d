//! What can be chosen about a port.

use std::time::Duration;

use crate::error::ProxyError;

/// What can be chosen about a port. The defaults fit every container that has no special needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// TCP connections of the port at the same time, 16,384 by default. A client beyond them is reset at once.
    pub max_connections: usize,
    /// How long the back end may take to accept a connection, 10 s by default. (libnetwork waits for as long as the
    /// kernel tries, two minutes.)
    pub connect_timeout: Duration,
    /// After how long without a sign of life a TCP peer is asked for one, and how often then; 15 s by default, as
    /// Go does it for libnetwork. Nine questions without an answer reset the connection. `None`: never.
    pub keepalive: Option<Duration>,
    /// How long a UDP association lives without a datagram of either side, 90 s by default (libnetwork's
    /// `UDPConnTrackTimeout`, which counts from the back end's datagrams alone).
    pub udp_timeout: Duration,
    /// UDP associations of the port at the same time, 4,096 by default. A new client beyond them takes the place of
    /// the one that has been silent for longest.
    pub max_associations: usize,
    /// Whether long streams go through a pipe with `splice(2)` instead of being copied. On by default.
    pub splice: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            connect_timeout: Duration::from_secs(10),
            keepalive: Some(Duration::from_secs(15)),
            udp_timeout: Duration::from_secs(90),
            max_associations: 4096,
            splice: true,
        }
    }
}

/// No timeout is longer: the kernel counts keepalive in seconds up to 32,767, and clocks can be added to.
const LONGEST: Duration = Duration::from_secs(32_767);

impl Options {
    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), ProxyError> {
        let counts = [("max_connections", self.max_connections), ("max_associations", self.max_associations)];
        for (option, count) in counts {
            if count == 0 {
                let why = "a port that lets nobody in is not published at all";
                return Err(ProxyError::Option { option, value: count.to_string(), why });
            }
        }
        let times = [
            ("connect_timeout", Some(self.connect_timeout), Duration::from_millis(1)),
            ("udp_timeout", Some(self.udp_timeout), Duration::from_millis(1)),
            ("keepalive", self.keepalive, Duration::from_secs(1)),
        ];
        for (option, time, least) in times {
            let Some(time) = time else { continue };
            if !(least..=LONGEST).contains(&time) {
                let why = if time < least { "that is too short" } else { "at most 32,767 s" };
                return Err(ProxyError::Option { option, value: format!("{time:?}"), why });
            }
        }
        Ok(())
    }
}
