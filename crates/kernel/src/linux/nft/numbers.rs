//! The numbers of `linux/netfilter/nf_tables.h` behind the words of [`crate::nft`], both ways.

use crate::nft::{Base, CtKey, Expr, FibResult, MetaKey, NatKind};

/// Messages about tables, `NFT_MSG_…`, without the number of nftables among the parts of netfilter.
pub(super) mod message {
    pub(in super::super) const NEW_TABLE: u16 = 0;
    pub(in super::super) const DELETE_TABLE: u16 = 2;
    pub(in super::super) const NEW_CHAIN: u16 = 3;
    pub(in super::super) const DELETE_CHAIN: u16 = 5;
    pub(in super::super) const NEW_RULE: u16 = 6;
    pub(in super::super) const DELETE_RULE: u16 = 8;
    pub(in super::super) const NEW_SET: u16 = 9;
    pub(in super::super) const DELETE_SET: u16 = 11;
    pub(in super::super) const NEW_ELEMENTS: u16 = 12;
    pub(in super::super) const DELETE_ELEMENTS: u16 = 14;
}

/// The number of nftables among the parts of netfilter (`NFNL_SUBSYS_NFTABLES`).
pub(super) const NFTABLES: u16 = 10;
/// `NFT_REJECT_TCP_RST`.
pub(super) const TCP_RESET: u32 = 1;
/// `NFNL_MSG_BATCH_BEGIN`.
pub(super) const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`.
pub(super) const BATCH_END: u16 = 17;
/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ELEMENT: u16 = 1;
/// `NFTA_TABLE_NAME`.
pub(super) const TABLE_NAME: u16 = 1;

/// `NFTA_CHAIN_…`
pub(super) struct ChainAttributes {
    pub(super) table: u16,
    pub(super) name: u16,
    pub(super) hook: u16,
    pub(super) policy: u16,
    pub(super) kind: u16,
}
pub(super) const CHAIN: ChainAttributes = ChainAttributes { table: 1, name: 3, hook: 4, policy: 5, kind: 7 };

/// `NFTA_HOOK_…`
pub(super) struct HookAttributes {
    pub(super) number: u16,
    pub(super) priority: u16,
}
pub(super) const HOOK: HookAttributes = HookAttributes { number: 1, priority: 2 };

/// `NFTA_RULE_…`
pub(super) struct RuleAttributes {
    pub(super) table: u16,
    pub(super) chain: u16,
    pub(super) expressions: u16,
    pub(super) data: u16,
}
pub(super) const RULE: RuleAttributes = RuleAttributes { table: 1, chain: 2, expressions: 4, data: 7 };

/// `NFTA_SET_…`, with those of its description.
pub(super) struct SetAttributes {
    pub(super) table: u16,
    pub(super) name: u16,
    pub(super) flags: u16,
    pub(super) key_type: u16,
    pub(super) key_len: u16,
    pub(super) value_type: u16,
    pub(super) value_len: u16,
    pub(super) description: u16,
    pub(super) description_concat: u16,
    pub(super) field_len: u16,
    pub(super) id: u16,
    pub(super) data: u16,
}
pub(super) const SET: SetAttributes = SetAttributes {
    table: 1,
    name: 2,
    flags: 3,
    key_type: 4,
    key_len: 5,
    value_type: 6,
    value_len: 7,
    description: 9,
    description_concat: 2,
    field_len: 1,
    id: 10,
    data: 13,
};

/// `NFTA_SET_ELEM_LIST_…` and `NFTA_SET_ELEM_…`
pub(super) struct ElementAttributes {
    pub(super) table: u16,
    pub(super) set: u16,
    pub(super) list: u16,
    pub(super) key: u16,
    pub(super) value: u16,
    pub(super) key_end: u16,
}
pub(super) const ELEMENT: ElementAttributes =
    ElementAttributes { table: 1, set: 2, list: 3, key: 1, value: 2, key_end: 10 };

/// `NFTA_DATA_…`
pub(super) struct DataAttributes {
    pub(super) value: u16,
    pub(super) verdict: u16,
}
pub(super) const DATA: DataAttributes = DataAttributes { value: 1, verdict: 2 };

/// `NFTA_VERDICT_…`
pub(super) struct VerdictAttributes {
    pub(super) code: u16,
    pub(super) chain: u16,
}
pub(super) const VERDICT: VerdictAttributes = VerdictAttributes { code: 1, chain: 2 };

/// `NFTA_EXPR_…`
pub(super) struct ExprAttributes {
    pub(super) name: u16,
    pub(super) data: u16,
}
pub(super) const EXPR: ExprAttributes = ExprAttributes { name: 1, data: 2 };

/// `NFTA_LOOKUP_…`, and `NFT_LOOKUP_F_INV`.
pub(super) struct LookupAttributes {
    pub(super) set: u16,
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) flags: u16,
    pub(super) inverted: u16,
}
pub(super) const LOOKUP: LookupAttributes =
    LookupAttributes { set: 1, from: 2, to: 3, flags: 5, inverted: 1 };

/// `NFT_SET_ANONYMOUS`: a set that belongs to a rule and has no name of its own.
pub(super) const SET_ANONYMOUS: u32 = 1;
/// `NFT_SET_INTERVAL`.
pub(super) const SET_INTERVAL: u32 = 4;
/// `NFT_SET_MAP`.
pub(super) const SET_MAP: u32 = 8;
/// `NFT_SET_CONCAT`: intervals of keys with several parts.
pub(super) const SET_CONCAT: u32 = 0x80;
/// The kind of a key's byte order in a set's own data (`NFTNL_UDATA_SET_KEYBYTEORDER`).
pub(super) const KEY_ORDER: u8 = 0;
/// `nft`'s number of the host's byte order.
pub(super) const HOST_ORDER: u32 = 1;
/// The kind of a comment in a rule's own data (`NFTNL_UDATA_RULE_COMMENT`).
pub(super) const COMMENT: u8 = 0;

/// `NFT_JUMP`.
pub(super) const JUMP: u32 = -3i32 as u32;
/// `NFT_GOTO`.
pub(super) const GOTO: u32 = -4i32 as u32;
/// `NFT_RETURN`.
pub(super) const RETURN: u32 = -5i32 as u32;
/// `NFT_FIB_RESULT_ADDRTYPE`.
pub(super) const FIB_ADDRTYPE: u32 = 3;

pub(super) fn base_number(base: Base) -> u32 {
    match base {
        Base::Network => 1,
        Base::Transport => 2,
    }
}

pub(super) fn base(number: u32) -> Option<Base> {
    [Base::Network, Base::Transport].into_iter().find(|base| base_number(*base) == number)
}

pub(super) fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Mark => 3,
        MetaKey::Iifname => 6,
        MetaKey::Oifname => 7,
        MetaKey::Nfproto => 15,
        MetaKey::L4proto => 16,
    }
}

pub(super) fn meta(number: u32) -> Option<MetaKey> {
    [MetaKey::Mark, MetaKey::Iifname, MetaKey::Oifname, MetaKey::Nfproto, MetaKey::L4proto]
        .into_iter()
        .find(|key| meta_number(*key) == number)
}

pub(super) fn ct_number(key: CtKey) -> u32 {
    match key {
        CtKey::State => 0,
        CtKey::Direction => 1,
        CtKey::Status => 2,
    }
}

pub(super) fn ct(number: u32) -> Option<CtKey> {
    [CtKey::State, CtKey::Direction, CtKey::Status].into_iter().find(|key| ct_number(*key) == number)
}

/// `NFTA_FIB_F_DADDR` or `NFTA_FIB_F_SADDR`.
pub(super) fn fib_flags(result: FibResult) -> u32 {
    match result {
        FibResult::SourceType => 1,
        FibResult::DestinationType => 2,
    }
}

pub(super) fn fib(flags: u32) -> Option<FibResult> {
    [FibResult::SourceType, FibResult::DestinationType].into_iter().find(|result| fib_flags(*result) == flags)
}

pub(super) fn nat_number(kind: NatKind) -> u32 {
    match kind {
        NatKind::Source => 0,
        NatKind::Destination => 1,
    }
}

pub(super) fn nat(number: u32) -> Option<NatKind> {
    [NatKind::Source, NatKind::Destination].into_iter().find(|kind| nat_number(*kind) == number)
}

/// The kernel's name of an expression.
pub(super) fn name(expr: &Expr) -> &str {
    match expr {
        Expr::Payload { .. } => "payload",
        Expr::Meta { .. } => "meta",
        Expr::Ct { .. } => "ct",
        Expr::Fib { .. } => "fib",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Cmp { .. } => "cmp",
        Expr::Lookup { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade => "masq",
        Expr::ResetTcp => "reject",
        Expr::Other(name) => name,
    }
}
