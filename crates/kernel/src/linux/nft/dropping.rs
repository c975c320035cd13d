//! Base chains of any table that drop what they do not accept.

use std::time::Instant;

use netlink_packet_core::NLM_F_DUMP;

use super::encode::named;
use super::numbers::{RULE, message};
use super::{Failure, SUBSYSTEM, Transport, decode, list};
use crate::nft::{Dropping, Point};

/// Those at a point, each with the rules of its table.
pub(super) fn at(
    transport: &mut Transport,
    point: Point,
    deadline: Instant,
) -> Result<Vec<Dropping>, Failure> {
    // Chains of all families.
    let write = |out: &mut Vec<u8>, number| {
        let kind = SUBSYSTEM | (message::NEW_CHAIN + 1);
        super::message(out, kind, NLM_F_DUMP, number, 0, 0, &[]);
    };
    let read = |body: &[u8]| decode::dropping(body, point);
    let found = transport.list(write, SUBSYSTEM | message::NEW_CHAIN, deadline, read)?;
    let mut all = Vec::with_capacity(found.len());
    for (table, chain) in found {
        let body = named(&table.name, RULE.table, None);
        let rules = list(transport, table.family, message::NEW_RULE, &body, deadline, decode::rule)?;
        all.push(Dropping { table, chain, rules });
    }
    Ok(all)
}
