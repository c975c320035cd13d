//! What a chain of somebody else does with whatever is forwarded from, to or within a bridge, as far as its rules say so by
//! links alone. Rules that look at anything else may hold or not, and are passed over; so is what refuses some links only:
//! that is what somebody wanted.

use std::collections::HashMap;

use netloom_kernel::nft::{Expr, MetaKey, Reg, Rule, Verdict};

/// How far jumps are followed: the kernel allows no more.
const DEPTH: usize = 16;

/// Packets that are alike for a chain, but for the link beyond the bridge, which may be any other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// They come in by the bridge and leave by another link.
    From,
    /// They come in by another link and leave by the bridge.
    To,
    /// They come in by the bridge and leave by it.
    Within,
}

/// A chain, and those that it leads to.
#[derive(Clone, Debug)]
pub(super) struct Chains {
    first: String,
    rules: HashMap<String, Vec<Said>>,
}

/// What a rule says.
#[derive(Clone, Debug)]
struct Said {
    links: Vec<Link>,
    does: Does,
}

/// What a rule wants of a link.
#[derive(Clone, Debug)]
struct Link {
    /// The one that packets come in by, and not the one that they leave by.
    incoming: bool,
    /// Whether it is to have this name, or any but this.
    equal: bool,
    name: String,
    /// Whether the name is the beginning of several.
    begins: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Does {
    Accept,
    Refuse,
    Return,
    Jump(String),
    Goto(String),
}

/// What comes of packets in a chain.
enum End {
    Accepted,
    Refused,
    /// They go on where the chain was entered.
    Back,
}

impl Chains {
    /// Of iptables, whose rules are as `iptables-save` shows them.
    pub(super) fn of_iptables<'a>(first: &str, rules: impl Fn(&str) -> &'a [String]) -> Self {
        Self::reached(first, |chain| rules(chain).iter().filter_map(|rule| by_words(rule)).collect())
    }

    /// Of nftables, also those that iptables has made.
    pub(super) fn of_nftables(first: &str, rules: &[(String, Rule)]) -> Self {
        let mut by_chain: HashMap<&str, Vec<&Rule>> = HashMap::new();
        for (chain, rule) in rules {
            by_chain.entry(chain).or_default().push(rule);
        }
        Self::reached(first, |chain| {
            by_chain.get(chain).into_iter().flatten().filter_map(|rule| by_exprs(rule)).collect()
        })
    }

    fn reached(first: &str, read: impl Fn(&str) -> Vec<Said>) -> Self {
        let mut rules = HashMap::new();
        let mut open = vec![first.to_owned()];
        while let Some(chain) = open.pop() {
            if rules.contains_key(&chain) {
                continue;
            }
            let said = read(&chain);
            open.extend(said.iter().filter_map(|rule| match &rule.does {
                Does::Jump(to) | Does::Goto(to) => Some(to.clone()),
                Does::Accept | Does::Refuse | Does::Return => None,
            }));
            rules.insert(chain, said);
        }
        Self { first: first.to_owned(), rules }
    }

    /// Whether any rule refuses.
    pub(super) fn refuse(&self) -> bool {
        self.rules.values().flatten().any(|rule| rule.does == Does::Refuse)
    }

    /// Whether packets are accepted; `None` where no rule decides.
    pub(super) fn accept(&self, way: Way, bridge: &str) -> Option<bool> {
        match self.walk(&self.first, &|link| link.holds(way, bridge), DEPTH) {
            End::Accepted => Some(true),
            End::Refused => Some(false),
            End::Back => None,
        }
    }

    fn walk(&self, chain: &str, holds: &dyn Fn(&Link) -> bool, depth: usize) -> End {
        for rule in self.rules.get(chain).into_iter().flatten() {
            if !rule.links.iter().all(holds) {
                continue;
            }
            match &rule.does {
                Does::Accept => return End::Accepted,
                Does::Refuse => return End::Refused,
                Does::Return => return End::Back,
                Does::Jump(_) | Does::Goto(_) if depth == 0 => {}
                Does::Goto(to) => return self.walk(to, holds, depth - 1),
                Does::Jump(to) => match self.walk(to, holds, depth - 1) {
                    End::Back => {}
                    end => return end,
                },
            }
        }
        End::Back
    }
}

impl Link {
    /// Whether this holds for all such packets.
    fn holds(&self, way: Way, bridge: &str) -> bool {
        let is_bridge = match way {
            Way::From => self.incoming,
            Way::To => !self.incoming,
            Way::Within => true,
        };
        let named = if self.begins { bridge.starts_with(&self.name) } else { bridge == self.name };
        if is_bridge {
            return named == self.equal;
        }
        // Any link but the bridge.
        named && !self.begins && !self.equal
    }
}

impl Said {
    /// A rule that refuses some links only is passed over.
    fn new(links: Vec<Link>, does: Does) -> Option<Self> {
        (links.is_empty() || does != Does::Refuse).then_some(Self { links, does })
    }
}

/// A rule as `iptables-save` shows it.
fn by_words(rule: &str) -> Option<Said> {
    let mut words = words(rule).into_iter();
    let (mut links, mut equal) = (Vec::new(), true);
    loop {
        let does = match words.next()? {
            "!" => {
                equal = false;
                continue;
            }
            flag @ ("-i" | "-o") => {
                let name = words.next()?;
                let (name, begins) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
                let (incoming, name) = (flag == "-i", name.to_owned());
                links.push(Link { incoming, equal: std::mem::replace(&mut equal, true), name, begins });
                continue;
            }
            "-m" if words.next()? == "comment" && words.next()? == "--comment" => {
                words.next()?;
                continue;
            }
            "-g" => Does::Goto(words.next()?.to_owned()),
            "-j" => match words.next()? {
                "ACCEPT" => Does::Accept,
                "DROP" | "REJECT" => Does::Refuse,
                "RETURN" => Does::Return,
                chain => Does::Jump(chain.to_owned()),
            },
            _ => return None,
        };
        return Said::new(links, does);
    }
}

/// The words of a rule; what is in quotation marks is one.
fn words(rule: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let mut rest = rule.trim_start();
    while !rest.is_empty() {
        let quoted = rest.strip_prefix('"');
        let end = match quoted {
            None => rest.find(' ').unwrap_or(rest.len()),
            Some(inside) => {
                let bytes = inside.as_bytes();
                let closes = |at: &usize| bytes[*at] == b'"' && (*at == 0 || bytes[*at - 1] != b'\\');
                (0..bytes.len()).find(closes).map_or(rest.len(), |at| at + 2)
            }
        };
        let (word, behind) = rest.split_at(end);
        all.push(word);
        rest = behind.trim_start();
    }
    all
}

/// A rule of nftables, also one that iptables has made.
fn by_exprs(rule: &Rule) -> Option<Said> {
    let matters = |expr: &&Expr| !matches!(expr, Expr::Other(name) if matches!(&**name, "counter" | "log" | "match comment"));
    let exprs: Vec<_> = rule.exprs.iter().filter(matters).collect();
    let (last, before) = exprs.split_last()?;
    let does = match last {
        Expr::Verdict(Verdict::Accept) => Does::Accept,
        Expr::Verdict(Verdict::Drop) | Expr::ResetTcp => Does::Refuse,
        Expr::Other(name) if matches!(&**name, "reject" | "target REJECT") => Does::Refuse,
        Expr::Verdict(Verdict::Return) => Does::Return,
        Expr::Verdict(Verdict::Jump(chain)) => Does::Jump(chain.clone()),
        Expr::Verdict(Verdict::Goto(chain)) => Does::Goto(chain.clone()),
        _ => return None,
    };
    let links = before.chunks(2).map(link).collect::<Option<_>>()?;
    Said::new(links, does)
}

fn link(exprs: &[&Expr]) -> Option<Link> {
    let [Expr::Meta { key, to: Reg(to) }, Expr::Cmp { from: Reg(from), equal, data }] = exprs else {
        return None;
    };
    let incoming = match key {
        MetaKey::Iifname => true,
        MetaKey::Oifname => false,
        _ => return None,
    };
    // A name in whole has a zero behind it; without one it is the beginning of several.
    let end = data.iter().position(|byte| *byte == 0);
    let name = std::str::from_utf8(&data[..end.unwrap_or(data.len())]).ok()?.to_owned();
    (to == from).then_some(Link { incoming, equal: *equal, name, begins: end.is_none() })
}
