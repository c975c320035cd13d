//! Changes of a table as netlink messages.
//!
//! By hand: the crates that know these attributes lack maps, are under another licence, or have wrong numbers for some
//! of them.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::attributes::Attributes;
use super::numbers::{
    self, CHAIN, COMMENT, DATA, ELEMENT, EXPR, FIB_ADDRTYPE, GOTO, HOOK, HOST_ORDER, JUMP, KEY_ORDER,
    LIST_ELEMENT, LOOKUP, RETURN, RULE, SET, SET_CONCAT, SET_INTERVAL, SET_MAP, TABLE_NAME, TCP_RESET,
    VERDICT, base_number, ct_number, fib_flags, message, meta_number, nat_number,
};
use crate::nft::{Chain, Change, Datum, Element, Expr, Reg, Rule, Set, Table, Type, Verdict, width};

/// How many elements travel in one message: the length of an attribute has 16 bits.
const ELEMENTS: usize = 400;
/// How `nft` numbers the type of a concatenation: six bits for each part.
const TYPE_BITS: u32 = 6;
/// The register that decides.
const DECISION: u32 = libc::NFT_REG_VERDICT as u32;

/// A message of a transaction.
#[derive(Debug)]
pub(super) struct Message {
    /// Without the subsystem.
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// What follows the `nfgenmsg`.
    pub(super) body: Vec<u8>,
}

/// The messages of one change, in their order.
pub(super) fn change(table: &Table, change: &Change) -> Vec<Message> {
    let name = table.name.as_str();
    let create = NLM_F_CREATE;
    let one = |kind: u16, flags: u16, body| vec![Message { kind, flags, body }];
    match change {
        Change::AddTable => one(message::NEW_TABLE, create, named(name, TABLE_NAME, None)),
        Change::DeleteTable => one(message::DELETE_TABLE, 0, named(name, TABLE_NAME, None)),
        Change::AddChain(chain) => one(message::NEW_CHAIN, create, new_chain(name, chain)),
        Change::DeleteChain(chain) => {
            one(message::DELETE_CHAIN, 0, named(name, CHAIN.table, Some((CHAIN.name, chain))))
        }
        Change::FlushChain(chain) => {
            one(message::DELETE_RULE, 0, named(name, RULE.table, Some((RULE.chain, chain))))
        }
        Change::AddRule { chain, rule } => {
            let append = create | NLM_F_APPEND;
            one(message::NEW_RULE, append, new_rule(name, chain, rule))
        }
        Change::AddSet(set) => one(message::NEW_SET, create, new_set(name, set)),
        Change::DeleteSet(set) => one(message::DELETE_SET, 0, named(name, SET.table, Some((SET.name, set)))),
        Change::FlushSet(set) => {
            one(message::DELETE_ELEMENTS, 0, named(name, ELEMENT.table, Some((ELEMENT.set, set))))
        }
        Change::AddElements { set, elements } => {
            element_messages(message::NEW_ELEMENTS, create, name, set, elements)
        }
        Change::DeleteElements { set, elements } => {
            element_messages(message::DELETE_ELEMENTS, 0, name, set, elements)
        }
    }
}

/// What names a table, or something in it: the table's attribute, and that of the thing with its name.
pub(super) fn named(table: &str, kind: u16, thing: Option<(u16, &str)>) -> Vec<u8> {
    let mut out = Attributes::new();
    out.text(kind, table);
    if let Some((kind, name)) = thing {
        out.text(kind, name);
    }
    out.into_bytes()
}

fn new_chain(table: &str, chain: &Chain) -> Vec<u8> {
    let mut out = Attributes::new();
    out.text(CHAIN.table, table).text(CHAIN.name, &chain.name);
    if let Some(hook) = chain.hook {
        out.nest(CHAIN.hook, |out| {
            out.number(HOOK.number, hook.point.number());
            out.bytes(HOOK.priority, &hook.priority.to_be_bytes());
        });
        out.number(CHAIN.policy, libc::NF_ACCEPT as u32).text(CHAIN.kind, hook.kind.name());
    }
    out.into_bytes()
}

fn new_rule(table: &str, chain: &str, rule: &Rule) -> Vec<u8> {
    let mut out = Attributes::new();
    out.text(RULE.table, table).text(RULE.chain, chain).nest(RULE.expressions, |out| {
        for expr in &rule.exprs {
            out.nest(LIST_ELEMENT, |out| push_expr(out, expr));
        }
    });
    if let Some(comment) = &rule.comment {
        out.bytes(RULE.data, &comment_data(comment));
    }
    out.into_bytes()
}

/// A comment where `nft` looks for it: kind, length, text with its zero.
fn comment_data(comment: &str) -> Vec<u8> {
    // Longer ones do not fit, and none of ours is.
    let text = &comment.as_bytes()[..comment.len().min(usize::from(u8::MAX) - 1)];
    let mut data = vec![COMMENT, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    data.extend(text);
    data.push(0);
    data
}

fn new_set(table: &str, set: &Set) -> Vec<u8> {
    let ranges_of_many = set.interval && set.key.len() > 1;
    let mut flags = 0;
    for (flag, on) in
        [(SET_INTERVAL, set.interval), (SET_CONCAT, ranges_of_many), (SET_MAP, !set.value.is_empty())]
    {
        flags |= if on { flag } else { 0 };
    }
    let mut out = Attributes::new();
    out.text(SET.table, table)
        .text(SET.name, &set.name)
        .number(SET.flags, flags)
        .number(SET.key_type, type_number(&set.key))
        .number(SET.key_len, length(width(&set.key)));
    if !set.value.is_empty() {
        out.number(SET.value_type, type_number(&set.value));
        if set.value != [Type::Verdict] {
            out.number(SET.value_len, length(width(&set.value)));
        }
    }
    if ranges_of_many {
        let fields = |out: &mut Attributes| {
            for part in &set.key {
                out.nest(LIST_ELEMENT, |out| {
                    out.number(SET.field_len, length(part.len()));
                });
            }
        };
        out.nest(SET.description, |out| {
            out.nest(SET.description_concat, fields);
        });
    }
    if set.key == [Type::Interface] {
        // For `nft`, which would show such names backwards.
        let mut data = vec![KEY_ORDER, 4];
        data.extend(HOST_ORDER.to_ne_bytes());
        out.bytes(SET.data, &data);
    }
    // The kernel wants a number for the rest of the transaction, which names sets by their names.
    out.number(SET.id, 0);
    out.into_bytes()
}

fn type_number(parts: &[Type]) -> u32 {
    match parts {
        [alone] => alone.number(),
        parts => parts.iter().fold(0, |number, part| number << TYPE_BITS | part.number()),
    }
}

/// The parts of a type's number; `None` for one that is not ours.
pub(super) fn types(mut number: u32) -> Option<Vec<Type>> {
    if let Some(alone) = Type::from_number(number) {
        return Some(vec![alone]);
    }
    let mut parts = Vec::new();
    while number > 0 {
        parts.push(Type::from_number(number & ((1 << TYPE_BITS) - 1))?);
        number >>= TYPE_BITS;
    }
    parts.reverse();
    Some(parts)
}

fn element_messages(kind: u16, flags: u16, table: &str, set: &str, elements: &[Element]) -> Vec<Message> {
    let message = |some: &[Element]| {
        let mut out = Attributes::new();
        out.text(ELEMENT.table, table).text(ELEMENT.set, set).nest(ELEMENT.list, |out| {
            for element in some {
                out.nest(LIST_ELEMENT, |out| push_element(out, element));
            }
        });
        Message { kind, flags, body: out.into_bytes() }
    };
    elements.chunks(ELEMENTS).map(message).collect()
}

fn push_element(out: &mut Attributes, element: &Element) {
    out.nest(ELEMENT.key, |out| push_data(out, &Datum::join(&element.key)));
    if let Some(end) = &element.end {
        out.nest(ELEMENT.key_end, |out| push_data(out, &Datum::join(end)));
    }
    match &*element.value {
        [] => {}
        [Datum::Verdict(verdict)] => {
            out.nest(ELEMENT.value, |out| push_verdict(out, verdict));
        }
        value => {
            out.nest(ELEMENT.value, |out| push_data(out, &Datum::join(value)));
        }
    }
}

fn push_data(out: &mut Attributes, value: &[u8]) {
    out.bytes(DATA.value, value);
}

fn push_verdict(out: &mut Attributes, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (libc::NF_ACCEPT as u32, None),
        Verdict::Drop => (libc::NF_DROP as u32, None),
        Verdict::Return => (RETURN, None),
        Verdict::Jump(chain) => (JUMP, Some(chain)),
        Verdict::Goto(chain) => (GOTO, Some(chain)),
    };
    out.nest(DATA.verdict, |out| {
        out.number(VERDICT.code, code);
        if let Some(chain) = chain {
            out.text(VERDICT.chain, chain);
        }
    });
}

fn push_expr(out: &mut Attributes, expr: &Expr) {
    out.text(EXPR.name, numbers::name(expr)).nest(EXPR.data, |out| push_expr_data(out, expr));
}

fn push_expr_data(out: &mut Attributes, expr: &Expr) {
    match expr {
        Expr::Payload { base, offset, len, to } => {
            let numbers = [register(*to), base_number(*base), *offset, *len];
            for (kind, number) in (1..).zip(numbers) {
                out.number(kind, number);
            }
        }
        Expr::Meta { key, to } => {
            out.number(1, register(*to)).number(2, meta_number(*key));
        }
        Expr::Ct { key, to } => {
            out.number(1, register(*to)).number(2, ct_number(*key));
        }
        Expr::Fib { result, to } => {
            out.number(1, register(*to)).number(2, FIB_ADDRTYPE).number(3, fib_flags(*result));
        }
        Expr::Immediate { data, to } => {
            out.number(1, register(*to)).nest(2, |out| push_data(out, data));
        }
        Expr::Bitwise { from, to, mask, xor } => {
            out.number(1, register(*from)).number(2, register(*to)).number(3, length(mask.len()));
            out.nest(4, |out| push_data(out, mask)).nest(5, |out| push_data(out, xor));
        }
        Expr::Cmp { from, equal, data } => {
            out.number(1, register(*from)).number(2, u32::from(!equal)).nest(3, |out| push_data(out, data));
        }
        Expr::Lookup { set, from, to, verdicts, missing } => {
            out.text(LOOKUP.set, set).number(LOOKUP.from, register(*from));
            match to {
                Some(to) => drop(out.number(LOOKUP.to, register(*to))),
                None if *verdicts => drop(out.number(LOOKUP.to, DECISION)),
                None => {}
            }
            if *missing {
                out.number(LOOKUP.flags, LOOKUP.inverted.into());
            }
        }
        Expr::Verdict(verdict) => {
            out.number(1, DECISION).nest(2, |out| push_verdict(out, verdict));
        }
        Expr::Nat { kind, ipv6, address, port } => {
            let family = if *ipv6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 };
            out.number(1, nat_number(*kind)).number(2, family as u32);
            for (kind, value) in [(3, address), (5, port)] {
                if let Some(value) = value {
                    out.number(kind, register(*value));
                }
            }
        }
        Expr::ResetTcp => {
            out.number(1, TCP_RESET);
        }
        // The last is read from rules of others, and never written.
        Expr::Masquerade | Expr::Other(_) => {}
    }
}

/// The kernel's number of a register of four bytes.
fn register(register: Reg) -> u32 {
    libc::NFT_REG32_00 as u32 + u32::from(register.0)
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
