//! What of the host's stands in the way of packets that the engine's rules let through. A packet has to be accepted by all that
//! see it: a policy of DROP, as Docker and many hosts set it, is not undone by what a table of nftables accepts.
//!
//! Pure. What others' rules accept is recognised where they say it plainly: everything that comes in by a bridge, everything
//! that leaves by it, or everything, in the chain itself or in one that it leads to unconditionally. So a host may be told of
//! an obstacle that is none; never the other way round, but for what drops by a rule of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use netloom_kernel::nft::{Dropping, Expr, Family, MetaKey, Reg, Rule, Verdict};
use netloom_model::IfName;
use netloom_model::snapshot::Obstacle;

use crate::iptables::{Saved, Version};
use crate::network::NetworkRules;

/// How many bridges are named; what holds for more is clear by then.
const NAMED: usize = 64;
/// How far jumps are followed: the kernel allows no more.
const DEPTH: usize = 16;
/// The chain of iptables that forwarded packets pass.
const FORWARD: &str = "FORWARD";

/// What is to be known of a host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Chains that forwarded packets pass and that drop what they do not accept.
    pub drops: Vec<Drops>,
    /// Whether the host forwards, IPv4 and IPv6; `None` where that is not known, or there is no such family.
    pub forwards: [Option<bool>; 2],
    /// Whether packets within a bridge pass those chains too, IPv4 and IPv6 (`br_netfilter`).
    pub bridged: [bool; 2],
}

/// A chain that drops what it does not accept.
#[derive(Clone, Debug)]
pub struct Drops {
    /// What it is called.
    name: String,
    /// Which families pass it.
    families: [bool; 2],
    /// What begins a rule that comes before all others of it.
    insert: Insert,
    accepts: Accepts,
}

/// How to put a rule first.
#[derive(Clone, Debug)]
enum Insert {
    /// By this program of iptables.
    Iptables(String),
    /// By `nft`, into this table and chain.
    Nft(String),
}

/// What a chain accepts.
#[derive(Clone, Debug, Default)]
struct Accepts {
    everything: bool,
    from: BTreeSet<String>,
    to: BTreeSet<String>,
}

/// What one rule says, as far as it is understood.
enum Says {
    Accept,
    From(String),
    To(String),
    Follow(String),
    /// Nothing behind it is reached.
    End,
    /// Back to the chain that led here.
    Return,
    Else,
}

impl Drops {
    /// The chain FORWARD of a program of iptables, where it drops.
    #[must_use]
    pub fn of_iptables(program: &str, version: Version, saved: &Saved) -> Option<Self> {
        if !saved.drops(FORWARD) {
            return None;
        }
        let mut accepts = Accepts::default();
        accepts.walk(
            FORWARD,
            &|chain| saved.filter(chain).iter().map(|rule| by_words(rule)).collect(),
            DEPTH,
        );
        Some(Self {
            name: format!("chain {FORWARD} of {program}"),
            families: [version == Version::V4, version == Version::V6],
            insert: Insert::Iptables(program.to_owned()),
            accepts,
        })
    }

    /// A base chain of nftables. `programs` are those of iptables that have their chains there, if there are any.
    #[must_use]
    pub fn of_nftables(dropping: &Dropping, programs: [Option<&str>; 2]) -> Self {
        let Dropping { table, chain, rules } = dropping;
        let mut accepts = Accepts::default();
        let of = |name: &str| {
            rules.iter().filter(|(chain, _)| chain == name).map(|(_, rule)| by_exprs(rule)).collect()
        };
        accepts.walk(chain, &of, DEPTH);
        let families = match table.family {
            Family::Inet => [true, true],
            Family::Ip => [true, false],
            Family::Ip6 => [false, true],
        };
        let [v4, v6] = programs;
        let program = match table.family {
            Family::Ip => v4,
            Family::Ip6 => v6,
            Family::Inet => None,
        };
        match program.filter(|_| table.name == "filter" && chain == FORWARD) {
            Some(program) => {
                let (name, insert) =
                    (format!("chain {FORWARD} of {program}"), Insert::Iptables(program.into()));
                Self { name, families, insert, accepts }
            }
            None => {
                let name = format!("chain {chain} of table {table} of nftables");
                Self { name, families, insert: Insert::Nft(format!("{table} {chain}")), accepts }
            }
        }
    }

    /// Whether it is the chain FORWARD of this program of iptables.
    #[must_use]
    pub fn is_of(&self, program: &str) -> bool {
        matches!(&self.insert, Insert::Iptables(own) if own == program)
    }

    fn lets_through(&self, bridge: IfName) -> bool {
        let Accepts { everything, from, to } = &self.accepts;
        *everything || (from.contains(bridge.as_str()) && to.contains(bridge.as_str()))
    }

    /// Commands that let a bridge through.
    fn commands(&self, bridge: IfName) -> Vec<String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if bridge.as_str().starts_with('-') || !bridge.as_str().bytes().all(plain) {
            return Vec::new();
        }
        match &self.insert {
            Insert::Iptables(program) => {
                ["-i", "-o"].map(|flag| format!("{program} -I {FORWARD} {flag} {bridge} -j ACCEPT")).into()
            }
            Insert::Nft(chain) => ["iifname", "oifname"]
                .map(|key| format!("nft insert rule {chain} '{key} \"{bridge}\" accept'"))
                .into(),
        }
    }
}

impl Accepts {
    /// Notes what a chain accepts; `false` when nothing behind a jump to it matters.
    fn walk(&mut self, chain: &str, rules: &dyn Fn(&str) -> Vec<Says>, depth: usize) -> bool {
        for rule in rules(chain) {
            match rule {
                Says::Accept => {
                    self.everything = true;
                    return false;
                }
                Says::From(link) => drop(self.from.insert(link)),
                Says::To(link) => drop(self.to.insert(link)),
                Says::Follow(to) if depth > 0 => {
                    if !self.walk(&to, rules, depth - 1) {
                        return false;
                    }
                }
                Says::End => return false,
                Says::Return => return true,
                Says::Follow(_) | Says::Else => {}
            }
        }
        true
    }
}

/// A rule as `iptables-save` shows it.
fn by_words(rule: &str) -> Says {
    match rule.split(' ').collect::<Vec<_>>().as_slice() {
        ["-j", "ACCEPT"] => Says::Accept,
        ["-i", link, "-j", "ACCEPT"] => Says::From((*link).to_owned()),
        ["-o", link, "-j", "ACCEPT"] => Says::To((*link).to_owned()),
        ["-j", "DROP"] | ["-j", "REJECT", ..] => Says::End,
        ["-j", "RETURN"] => Says::Return,
        ["-j", chain] => Says::Follow((*chain).to_owned()),
        _ => Says::Else,
    }
}

/// A rule of nftables, also one that iptables has made.
fn by_exprs(rule: &Rule) -> Says {
    let counts = |expr: &&Expr| !matches!(expr, Expr::Other(name) if name == "counter");
    let exprs: Vec<_> = rule.exprs.iter().filter(counts).collect();
    match exprs.as_slice() {
        [Expr::Verdict(Verdict::Accept)] => Says::Accept,
        [Expr::Verdict(Verdict::Jump(chain))] => Says::Follow(chain.clone()),
        [Expr::Verdict(Verdict::Drop)] => Says::End,
        [Expr::Verdict(Verdict::Return)] => Says::Return,
        [
            Expr::Meta { key, to: Reg(to) },
            Expr::Cmp { from: Reg(from), equal: true, data },
            Expr::Verdict(Verdict::Accept),
        ] if to == from => {
            // A name in whole, with the zero behind it; a shorter one is the beginning of several.
            let Some(end) = data.iter().position(|byte| *byte == 0) else { return Says::Else };
            let Ok(link) = std::str::from_utf8(&data[..end]) else { return Says::Else };
            match key {
                MetaKey::Iifname => Says::From(link.to_owned()),
                MetaKey::Oifname => Says::To(link.to_owned()),
                _ => Says::Else,
            }
        }
        _ => Says::Else,
    }
}

/// What stands in the way of these networks.
#[must_use]
pub fn obstacles(host: &Host, networks: &[Arc<NetworkRules>]) -> Vec<Obstacle> {
    let has = |rules: &NetworkRules, family: usize| [rules.v4.is_some(), rules.v6.is_some()][family];
    let mut all = Vec::new();
    for (family, (key, file, note)) in [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward", ""),
        (
            "net.ipv6.conf.all.forwarding",
            "/proc/sys/net/ipv6/conf/all/forwarding",
            " A host that has its own address from router advertisements then needs accept_ra=2 for that link.",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let concerned = networks.iter().any(|rules| !rules.internal && has(rules, family));
        if concerned && host.forwards[family] == Some(false) {
            let what = format!(
                "{key} is 0, so the host forwards nothing: containers reach nothing outside of their network, and nobody \
                 outside reaches their ports. It is the host's to turn on (to last: {key}=1 in a file of /etc/sysctl.d), \
                 because then it forwards between all of its other links too.{note}"
            );
            all.push(Obstacle { name: key.into(), what, remedy: vec![format!("echo 1 >{file}")] });
        }
    }
    for drops in &host.drops {
        let passes = |rules: &&Arc<NetworkRules>| {
            let through = |family: usize| {
                drops.families[family]
                    && has(rules, family)
                    && (!rules.internal || (host.bridged[family] && rules.icc))
            };
            (through(0) || through(1)) && !drops.lets_through(rules.bridge)
        };
        let mut bridges: Vec<_> = networks.iter().filter(passes).map(|rules| rules.bridge).collect();
        bridges.sort();
        if !bridges.is_empty() {
            all.push(in_the_way(drops, &bridges, host));
        }
    }
    all
}

fn in_the_way(drops: &Drops, bridges: &[IfName], host: &Host) -> Obstacle {
    let named = &bridges[..bridges.len().min(NAMED)];
    let mut names = named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if named.len() < bridges.len() {
        names.push_str(&format!(" and {} more", bridges.len() - named.len()));
    }
    let bridged = (0..2).any(|family| drops.families[family] && host.bridged[family]);
    let within = if bridged {
        ", and containers do not reach each other within them (bridge-nf-call-iptables is 1)"
    } else {
        ""
    };
    Obstacle {
        name: drops.name.clone(),
        what: format!(
            "{} drops by its policy what it does not accept, and does not accept what is forwarded from and to {names}: \
             containers there reach nothing outside, and nobody outside reaches their ports{within}. What it accepts, \
             the engine's own rules still judge.",
            drops.name
        ),
        remedy: named.iter().flat_map(|bridge| drops.commands(*bridge)).collect(),
    }
}
