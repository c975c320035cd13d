//! What the tests of the allocator have in common.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod space;

use std::fmt;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use netloom_ipam::LeaseRequest;
use netloom_model::{EndpointId, NetworkId};
use uuid::Uuid;

pub(crate) fn network(n: u32) -> NetworkId {
    format!("n{n}").parse().expect("an id")
}

pub(crate) fn endpoint(n: u128) -> EndpointId {
    EndpointId::from_uuids(Uuid::from_u128(n), Uuid::nil())
}

pub(crate) fn want(n: u128) -> LeaseRequest {
    LeaseRequest { owner: endpoint(n), name: format!("e{n}"), ipv4: None, ipv6: None }
}

/// Says something that whoever runs the test can use.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(crate) fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The splitmix64 sequence.
pub(crate) struct Random(u64);

impl Random {
    /// Begins at `NETLOOM_TEST_SEED`, or anywhere, and says where.
    pub(crate) fn seeded() -> Self {
        let seed = from_environment("NETLOOM_TEST_SEED").unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            u64::from(now.subsec_nanos())
        });
        note(format_args!("NETLOOM_TEST_SEED={seed}"));
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(crate) fn one_of(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("less than a length")
    }

    pub(crate) fn once_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}
