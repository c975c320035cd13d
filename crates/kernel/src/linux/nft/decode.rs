//! What the kernel tells of a table, as data.
//!
//! What somebody else put into our table may be anything: it reads as [`Expr::Other`], or as nothing.

use std::sync::Arc;

use super::super::wire::{attribute, attributes, string};
use super::encode::types;
use super::numbers::{
    self, CHAIN, COMMENT, DATA, ELEMENT, EXPR, FIB_ADDRTYPE, GOTO, HOOK, JUMP, LIST_ELEMENT, LOOKUP, RETURN,
    RULE, SET, SET_ANONYMOUS, SET_INTERVAL, TABLE_NAME, TCP_RESET, VERDICT,
};
use crate::nft::{
    Chain, ChainKind, Datum, Element, Expr, Family, Hook, Point, Reg, Rule, Set, Table, Type, Verdict,
};

/// `NFTA_MATCH_NAME` and `NFTA_TARGET_NAME`.
const EXTENSION_NAME: u16 = 1;
/// `struct nfgenmsg`.
pub(super) const HEADER: usize = 4;

/// The table that anything belongs to: all kinds name it in their first attribute.
pub(super) fn table(body: &[u8]) -> Option<Table> {
    let family = *body.first()?;
    let known = [Family::Inet, Family::Ip, Family::Ip6];
    let family = known.into_iter().find(|known| known.number() == family)?;
    Some(Table { family, name: text(body.get(HEADER..)?, TABLE_NAME)? })
}

/// A chain of this table; `None` for one of another.
pub(super) fn chain(body: &[u8], table: &str) -> Option<Chain> {
    let body = body.get(HEADER..)?;
    if text(body, CHAIN.table)? != table {
        return None;
    }
    let hook = attribute(body, CHAIN.hook).and_then(|hook| {
        let kind = text(body, CHAIN.kind)?;
        Some(Hook {
            kind: [ChainKind::Filter, ChainKind::Nat].into_iter().find(|known| known.name() == kind)?,
            point: Point::from_number(number(hook, HOOK.number)?)?,
            priority: number(hook, HOOK.priority)?.cast_signed(),
        })
    });
    Some(Chain { name: text(body, CHAIN.name)?, hook })
}

/// A base chain at a point, of any table, and whether its policy is to drop.
pub(super) fn base_chain(body: &[u8], at: Point) -> Option<(Table, String, bool)> {
    let attributes = body.get(HEADER..)?;
    let hook = attribute(attributes, CHAIN.hook)?;
    let here = number(hook, HOOK.number)? == at.number();
    let drops = number(attributes, CHAIN.policy)? == libc::NF_DROP as u32;
    here.then_some((table(body)?, text(attributes, CHAIN.name)?, drops))
}

/// A rule, and the chain that it is in.
pub(super) fn rule(body: &[u8]) -> Option<(String, Rule)> {
    let body = body.get(HEADER..)?;
    let list = attribute(body, RULE.expressions).unwrap_or_default();
    let exprs =
        attributes(list).filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, one)| expr(one)).collect();
    let comment = attribute(body, RULE.data).and_then(comment);
    Some((text(body, RULE.chain)?, Rule { exprs, comment }))
}

fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(string(value));
        }
        data = &rest[usize::from(*length)..];
    }
    None
}

/// A set with a name of its own and types that are ours.
pub(super) fn set(body: &[u8]) -> Option<Set> {
    let body = body.get(HEADER..)?;
    let flags = number(body, SET.flags).unwrap_or(0);
    if flags & SET_ANONYMOUS != 0 {
        return None;
    }
    Some(Set {
        name: text(body, SET.name)?,
        key: types(number(body, SET.key_type)?)?,
        value: number(body, SET.value_type).map_or(Some(Vec::new()), types)?,
        interval: flags & SET_INTERVAL != 0,
    })
}

/// The elements of a set that one message tells of.
pub(super) fn elements(body: &[u8], set: &Set) -> Vec<Element> {
    let list = body.get(HEADER..).and_then(|body| attribute(body, ELEMENT.list)).unwrap_or_default();
    let elements = attributes(list).filter(|(kind, _)| *kind == LIST_ELEMENT);
    elements.filter_map(|(_, one)| element(one, set)).collect()
}

fn element(one: &[u8], set: &Set) -> Option<Element> {
    let key = |kind| Datum::split(&set.key, attribute(attribute(one, kind)?, DATA.value)?);
    let value: Arc<[_]> = match attribute(one, ELEMENT.value) {
        None => Arc::default(),
        Some(value) if set.value == [Type::Verdict] => Arc::new([Datum::Verdict(verdict(value)?)]),
        Some(value) => Datum::split(&set.value, attribute(value, DATA.value)?)?,
    };
    Some(Element { key: key(ELEMENT.key)?, end: key(ELEMENT.key_end), value })
}

fn verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = attribute(data, DATA.verdict)?;
    Some(match number(verdict, VERDICT.code)? {
        code if code == libc::NF_ACCEPT as u32 => Verdict::Accept,
        code if code == libc::NF_DROP as u32 => Verdict::Drop,
        RETURN => Verdict::Return,
        JUMP => Verdict::Jump(text(verdict, VERDICT.chain)?),
        GOTO => Verdict::Goto(text(verdict, VERDICT.chain)?),
        _ => return None,
    })
}

fn expr(one: &[u8]) -> Expr {
    let name = text(one, EXPR.name).unwrap_or_default();
    let data = attribute(one, EXPR.data).unwrap_or_default();
    known(&name, data).unwrap_or_else(|| match (&*name, text(data, EXTENSION_NAME)) {
        // An extension of iptables.
        ("match" | "target", Some(extension)) => Expr::Other(format!("{name} {extension}")),
        _ => Expr::Other(name),
    })
}

/// An expression of ours; `None` for one that says more than ours can.
fn known(name: &str, data: &[u8]) -> Option<Expr> {
    let number = |kind| number(data, kind);
    let reg = |kind| register(number(kind)?);
    let value = |kind| Some(attribute(attribute(data, kind)?, DATA.value)?.to_vec());
    Some(match name {
        "payload" => Expr::Payload {
            to: reg(1)?,
            base: numbers::base(number(2)?)?,
            offset: number(3)?,
            len: number(4)?,
        },
        "meta" => Expr::Meta { to: reg(1)?, key: numbers::meta(number(2)?)? },
        "ct" => Expr::Ct { to: reg(1)?, key: numbers::ct(number(2)?)? },
        "fib" if number(2)? == FIB_ADDRTYPE => Expr::Fib { to: reg(1)?, result: numbers::fib(number(3)?)? },
        "bitwise" => Expr::Bitwise { from: reg(1)?, to: reg(2)?, mask: value(4)?, xor: value(5)? },
        "cmp" if number(2)? <= 1 => Expr::Cmp { from: reg(1)?, equal: number(2)? == 0, data: value(3)? },
        "lookup" => {
            let to = number(LOOKUP.to);
            Expr::Lookup {
                set: text(data, LOOKUP.set)?,
                from: reg(LOOKUP.from)?,
                to: to.and_then(register),
                verdicts: to == Some(libc::NFT_REG_VERDICT as u32),
                missing: number(LOOKUP.flags).unwrap_or(0) & u32::from(LOOKUP.inverted) != 0,
            }
        }
        "immediate" => match value(2) {
            Some(data) => Expr::Immediate { data, to: reg(1)? },
            None => Expr::Verdict(verdict(attribute(data, 2)?)?),
        },
        // Flags that the kernel sets by itself for what is in registers are not told apart.
        "nat" => Expr::Nat {
            kind: numbers::nat(number(1)?)?,
            ipv6: number(2)? == libc::NFPROTO_IPV6 as u32,
            address: reg(3),
            port: reg(5),
        },
        "masq" if data.is_empty() => Expr::Masquerade,
        "reject" if number(1)? == TCP_RESET => Expr::ResetTcp,
        _ => return None,
    })
}

/// A register that holds data. The kernel tells those at the start of 16 bytes by another number.
fn register(number: u32) -> Option<Reg> {
    let word = match number {
        1..=4 => (number - 1) * 4,
        _ => number.checked_sub(libc::NFT_REG32_00 as u32)?,
    };
    u8::try_from(word).ok().filter(|word| *word < 16).map(Reg)
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    attribute(attributes, kind).map(string)
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(attributes, kind)?.first_chunk().copied()?))
}
