//! Names and who answers for them, at one moment.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::error::Holder;
use crate::id::EndpointId;

/// The service records of a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamesSnapshot {
    /// The network.
    pub network: Holder,
    /// Its records, by name and address.
    pub records: Vec<NameSnapshot>,
}

/// A name, and one of the addresses that it stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameSnapshot {
    /// The name, lower-cased, as it is asked for.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is; more than one while an address changes hands.
    pub endpoints: Vec<EndpointId>,
}

/// The name server of a sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameServerSnapshot {
    /// The sandbox.
    pub sandbox: Holder,
    /// Where the sandbox's programs ask.
    pub address: SocketAddr,
    /// The ports in the sandbox that questions over UDP and over TCP are led to; `None` while it does not serve.
    pub ports: Option<(u16, u16)>,
    /// The names of its networks, first asked first.
    pub networks: Vec<String>,
    /// Whether name servers outside of the sandbox's networks are asked.
    pub external: bool,
    /// What it has done; `None` while it does not serve, and where no packets pass (in a simulation).
    pub counts: Option<NameCounts>,
    /// Whom it asks, in this order.
    pub upstreams: Vec<UpstreamSnapshot>,
    /// Why it could not be started when that was tried last.
    pub trouble: Option<String>,
}

/// What a name server has done.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NameCounts {
    /// All questions that have ended.
    pub questions: u64,
    /// Answered from the records.
    pub records: u64,
    /// Names that are known without what was wanted.
    pub no_data: u64,
    /// Names that would be here and are not.
    pub no_such_name: u64,
    /// Answered by an upstream.
    pub forwarded: u64,
    /// Of these, those that another's answer served too.
    pub merged: u64,
    /// Nobody who was asked had an answer in time.
    pub failed: u64,
    /// Nobody could be asked.
    pub nobody_to_ask: u64,
    /// Too many were outstanding.
    pub too_many: u64,
    /// Refused, malformed or of a kind that is not offered, and those without any answer.
    pub turned_down: u64,
    /// Half of the answers from the records took less than this, to a factor of two, in microseconds; zero before the
    /// first one.
    pub half_within_micros: u64,
    /// The same of 99 of a hundred.
    pub most_within_micros: u64,
    /// The same of 99 of a hundred answers and failures of upstreams.
    pub upstreams_within_micros: u64,
    /// TCP connections so far.
    pub connections: u64,
}

/// A name server that others are asked through.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UpstreamSnapshot {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it is asked from the host; otherwise from the sandbox.
    pub from_host: bool,
    /// Whether it has been silent since it answered last.
    pub suspect: bool,
    /// Questions that it was asked.
    pub asked: u64,
    /// Answers of it that were passed on.
    pub answered: u64,
    /// Answers that said that it failed, or will not tell.
    pub failed: u64,
    /// How often it took too long, or could not be reached.
    pub missed: u64,
    /// What came instead of answers.
    pub mismatched: u64,
    /// How long its last answer took, in microseconds; zero before the first one.
    pub last_micros: u64,
}
