//! What of the host's stands in the way of packets that the engine's rules let through. A packet has to be accepted by all that
//! see it: a policy of DROP, as Docker and many hosts set it, or a last rule that rejects everything, as firewalld and many
//! hosts have it, is not undone by what a table of nftables accepts.
//!
//! Pure. What others' rules do is recognised where they say it plainly: of everything, of everything that comes in by a link
//! or leaves by it, in the chain itself or in one that it leads to (`chain.rs`). So a host may be told of an obstacle that is none;
//! never the other way round, but for what a rule refuses that looks at more than links.

mod chain;

use std::sync::Arc;

use netloom_kernel::nft::{BaseChain, Family};
use netloom_model::IfName;
use netloom_model::snapshot::Obstacle;

use self::chain::{Chains, Way};
use crate::iptables::{Saved, Version};
use crate::network::NetworkRules;

/// How many bridges are named; what holds for more is clear by then.
const NAMED: usize = 64;
/// The chain of iptables that forwarded packets pass.
const FORWARD: &str = "FORWARD";

/// What is to be known of a host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Chains that forwarded packets pass and that refuse something.
    pub drops: Vec<Drops>,
    /// Whether the host forwards, IPv4 and IPv6; `None` where that is not known, or there is no such family.
    pub forwards: [Option<bool>; 2],
    /// Whether packets within a bridge pass those chains too, IPv4 and IPv6 (`br_netfilter`).
    pub bridged: [bool; 2],
}

/// A chain that refuses what it does not accept, by its policy or by a rule.
#[derive(Clone, Debug)]
pub struct Drops {
    /// What it is called.
    name: String,
    /// Which families pass it.
    families: [bool; 2],
    /// What begins a rule that comes before all others of it.
    insert: Insert,
    /// Whether its policy is to drop.
    policy: bool,
    chains: Chains,
}

/// How to put a rule first.
#[derive(Clone, Debug)]
enum Insert {
    /// By this program of iptables.
    Iptables(String),
    /// By `nft`, into this table and chain.
    Nft(String),
}

impl Drops {
    /// The chain FORWARD of a program of iptables; `None` where it refuses nothing.
    #[must_use]
    pub fn of_iptables(program: &str, version: Version, saved: &Saved) -> Option<Self> {
        let chains = Chains::of_iptables(FORWARD, |chain| saved.filter(chain));
        let families = [version == Version::V4, version == Version::V6];
        let (name, insert) = (format!("chain {FORWARD} of {program}"), Insert::Iptables(program.to_owned()));
        Self { name, families, insert, policy: saved.drops(FORWARD), chains }.if_any()
    }

    /// A base chain of nftables; `None` where it refuses nothing. `programs` are those of iptables that have their chains
    /// there, if there are any.
    #[must_use]
    pub fn of_nftables(base: &BaseChain, programs: [Option<&str>; 2]) -> Option<Self> {
        let BaseChain { table, chain, drops: policy, rules } = base;
        let chains = Chains::of_nftables(chain, rules);
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
        let (name, insert) = match program.filter(|_| table.name == "filter" && chain == FORWARD) {
            Some(program) => (format!("chain {FORWARD} of {program}"), Insert::Iptables(program.into())),
            None => (
                format!("chain {chain} of table {table} of nftables"),
                Insert::Nft(format!("{table} {chain}")),
            ),
        };
        Self { name, families, insert, policy: *policy, chains }.if_any()
    }

    fn if_any(self) -> Option<Self> {
        (self.policy || self.chains.refuse()).then_some(self)
    }

    /// Whether it is the chain FORWARD of this program of iptables.
    #[must_use]
    pub fn is_of(&self, program: &str) -> bool {
        matches!(&self.insert, Insert::Iptables(own) if own == program)
    }

    /// Whether it is a chain of this table of nftables, such as `inet firewalld`.
    #[must_use]
    pub fn is_in_table(&self, table: &str) -> bool {
        let Insert::Nft(place) = &self.insert else { return false };
        place.strip_prefix(table).is_some_and(|chain| chain.starts_with(' '))
    }

    /// Whether it lets through what is forwarded from and to a bridge; or within it, which is all that there is to an
    /// internal network.
    fn lets_through(&self, bridge: IfName, internal: bool) -> bool {
        let ways: &[Way] = if internal { &[Way::Within] } else { &[Way::From, Way::To] };
        ways.iter().all(|way| self.chains.accept(*way, bridge.as_str()).unwrap_or(!self.policy))
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
            (through(0) || through(1)) && !drops.lets_through(rules.bridge, rules.internal)
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
    let how = if drops.policy {
        "drops by its policy what it does not accept"
    } else {
        "has a rule that refuses everything it has not accepted before"
    };
    Obstacle {
        name: drops.name.clone(),
        what: format!(
            "{} {how}, and does not accept what is forwarded from and to {names}: \
             containers there reach nothing outside, and nobody outside reaches their ports{within}. What it accepts, \
             the engine's own rules still judge.",
            drops.name
        ),
        remedy: named.iter().flat_map(|bridge| drops.commands(*bridge)).collect(),
    }
}
