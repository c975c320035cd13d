//! What can be chosen about the name servers.

use std::time::Duration;

use super::error::DnsError;
use crate::answer::TTL;
use crate::forward::Budget;

/// What can be chosen about the name servers. The defaults fit every host that has no special needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// For how long clients may keep answers from the records, in seconds: 600, as libnetwork's.
    pub ttl: u32,
    /// How long upstreams may take: 4 s in all, and 1 s before the next one is asked too.
    pub budget: Budget,
    /// Questions of a sandbox that wait for upstreams at the same time, 1,024 as in libnetwork. Beyond them the answer is
    /// SERVFAIL at once (moby waits for four seconds and says REFUSED then, which musl's resolver does not hear).
    pub forwards_each: usize,
    /// Those of all sandboxes, 8,192. Each has a socket.
    pub forwards: usize,
    /// TCP connections of a sandbox at the same time, 64. Those beyond are closed at once.
    pub connections_each: usize,
    /// Those of all sandboxes, 4,096.
    pub connections: usize,
    /// Questions of one TCP connection that wait for upstreams at the same time, 64. Beyond them the connection is not
    /// read for a while.
    pub pipelined: usize,
    /// How long a TCP connection may be without a question, 10 s, and how long its client may take to read an answer.
    pub idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ttl: TTL,
            budget: Budget { all: Duration::from_secs(4), each: Duration::from_secs(1) },
            forwards_each: 1024,
            forwards: 8192,
            connections_each: 64,
            connections: 4096,
            pipelined: 64,
            idle: Duration::from_secs(10),
        }
    }
}

/// No time is longer: clocks can be added to.
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest time to live (RFC 2181, 8).
const LONGEST_TTL: u32 = i32::MAX as u32;

impl Options {
    /// Refuses what makes no sense.
    pub(super) fn check(&self) -> Result<(), DnsError> {
        let counts = [
            ("forwards_each", self.forwards_each),
            ("forwards", self.forwards),
            ("connections_each", self.connections_each),
            ("connections", self.connections),
            ("pipelined", self.pipelined),
        ];
        for (option, count) in counts {
            if count == 0 {
                return Err(DnsError::Option {
                    option,
                    value: "0".to_owned(),
                    why: "it would let nobody in",
                });
            }
        }
        let times = [("budget.all", self.budget.all), ("budget.each", self.budget.each), ("idle", self.idle)];
        for (option, time) in times {
            if !(Duration::from_millis(1)..=LONGEST).contains(&time) {
                let why = "from a millisecond to an hour";
                return Err(DnsError::Option { option, value: format!("{time:?}"), why });
            }
        }
        if self.ttl > LONGEST_TTL {
            let why = "at most 2,147,483,647 s";
            return Err(DnsError::Option { option: "ttl", value: self.ttl.to_string(), why });
        }
        Ok(())
    }
}
