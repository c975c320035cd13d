//! Base chains of any table.

use std::sync::Arc;
use std::time::Instant;

use netlink_packet_core::NLM_F_DUMP;

use super::encode::named;
use super::numbers::{RULE, message};
use super::{Failure, SUBSYSTEM, Transport, decode, list};
use crate::nft::{BaseChain, Point, Rule, Table};

/// Those at a point, each with the rules of its table, but for tables whose names begin with `except`.
pub(super) fn at(
    transport: &mut Transport,
    point: Point,
    except: &str,
    deadline: Instant,
) -> Result<Vec<BaseChain>, Failure> {
    // Chains of all families.
    let write = |out: &mut Vec<u8>, number| {
        let kind = SUBSYSTEM | (message::NEW_CHAIN + 1);
        super::message(out, kind, NLM_F_DUMP, number, 0, 0, &[]);
    };
    let read = |body: &[u8]| {
        decode::base_chain(body, point)
            .filter(|(table, ..)| except.is_empty() || !table.name.starts_with(except))
    };
    let found = transport.list(write, SUBSYSTEM | message::NEW_CHAIN, deadline, read)?;
    let mut all: Vec<BaseChain> = Vec::with_capacity(found.len());
    for (table, chain, drops) in found {
        let known = all.iter().find(|one| one.table == table).map(|one| one.rules.clone());
        let rules = match known {
            Some(rules) => rules,
            None => rules(transport, &table, deadline)?,
        };
        all.push(BaseChain { table, chain, drops, rules });
    }
    Ok(all)
}

fn rules(
    transport: &mut Transport,
    table: &Table,
    deadline: Instant,
) -> Result<Arc<[(String, Rule)]>, Failure> {
    let body = named(&table.name, RULE.table, None);
    Ok(list(transport, table.family, message::NEW_RULE, &body, deadline, decode::rule)?.into())
}
