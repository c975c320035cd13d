//! What differs between the rules that are there and those that are wanted, in words.

use std::fmt;
use std::sync::Arc;

use netloom_kernel::nft::{Chain, Contents, Element, Rule, Set};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::delta::has_users;
use crate::ruleset::{Owner, Ruleset};
use crate::table::USER_CHAIN;

/// Something of the engine's rules that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deviation {
    /// What it is: a table, a chain, a rule, a set or an element, as its program shows it.
    pub object: String,
    /// What is wrong with it.
    pub what: Deviates,
    /// Who wants it; nobody else than the engine itself where there are none.
    pub owners: Vec<Owner>,
}

/// What can be wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deviates {
    /// It is not there.
    Missing,
    /// It is there and nobody wants it.
    Unexpected,
    /// It is there and is otherwise than it should be.
    Different {
        /// How it should be.
        desired: String,
        /// How it is.
        found: String,
    },
}

impl Deviation {
    pub(crate) fn of(object: impl fmt::Display, what: Deviates) -> Self {
        Self { object: object.to_string(), what, owners: Vec::new() }
    }
}

/// What of a table is not as it should be; nothing where [`delta`](crate::delta()) has nothing to change. Of a table, a chain
/// or a set that is missing only that is told. What users have in it is nobody else's business.
#[must_use]
pub fn compare(is: Option<&Contents>, wanted: &Ruleset) -> Vec<Deviation> {
    let (table, contents) = (format!("table {}", wanted.table()), wanted.contents());
    let needed = wanted.owners().next().is_some();
    let is = match is {
        None if needed => return vec![Deviation::of(table, Deviates::Missing)],
        None => return Vec::new(),
        Some(is) if !needed && !has_users(is, &contents) => {
            return vec![Deviation::of(table, Deviates::Unexpected)];
        }
        Some(is) => is,
    };
    let mut all = Vec::new();
    for (chain, rules) in &contents.chains {
        let found = is.chains.iter().find(|(found, _)| found.name == chain.name);
        compare_chain(&mut all, chain, rules, found);
    }
    for (set, elements) in &contents.sets {
        let found = is.sets.iter().find(|(found, _)| found.name == set.name);
        compare_set(&mut all, (set, elements), found, wanted);
    }
    all.iter_mut().for_each(|one| one.object = format!("{} of {table}", one.object));
    all
}

fn compare_chain(
    all: &mut Vec<Deviation>,
    chain: &Chain,
    rules: &[Rule],
    found: Option<&(Chain, Vec<Rule>)>,
) {
    let name = format!("chain {}", chain.name);
    let Some((is, found)) = found else {
        return all.push(Deviation::of(name, Deviates::Missing));
    };
    if is != chain {
        let different = Deviates::Different { desired: chain.to_string(), found: is.to_string() };
        return all.push(Deviation::of(name, different));
    }
    if chain.name != USER_CHAIN {
        in_order(all, &name, rules, found);
    }
}

/// Rules of a chain: those that are missing, those that nobody wants, and whether what is there is in order.
pub(crate) fn in_order<R: PartialEq + fmt::Display>(
    all: &mut Vec<Deviation>,
    chain: &str,
    wanted: &[R],
    found: &[R],
) {
    let mut left: Vec<_> = found.iter().collect();
    let mut differ = false;
    for rule in wanted {
        match left.iter().position(|one| *one == rule) {
            Some(place) => {
                left.remove(place);
            }
            None => {
                differ = true;
                all.push(Deviation::of(
                    format_args!("rule {rule:} of {chain}", rule = Quoted(rule)),
                    Deviates::Missing,
                ));
            }
        }
    }
    differ |= !left.is_empty();
    let unexpected = left
        .into_iter()
        .map(|rule| Deviation::of(format_args!("rule {} of {chain}", Quoted(rule)), Deviates::Unexpected));
    all.extend(unexpected);
    if !differ && wanted != found {
        let (desired, found) = ("in order".into(), "in another order".into());
        all.push(Deviation::of(format_args!("rules of {chain}"), Deviates::Different { desired, found }));
    }
}

/// A rule among other words.
struct Quoted<'a, R>(&'a R);

impl<R: fmt::Display> fmt::Display for Quoted<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

fn compare_set(
    all: &mut Vec<Deviation>,
    (set, elements): (&Set, &[Element]),
    found: Option<&(Set, Vec<Element>)>,
    wanted: &Ruleset,
) {
    let kind = if set.value.is_empty() { "set" } else { "map" };
    let name = format!("{kind} {}", set.name);
    let Some((is, found)) = found else {
        return all.push(Deviation::of(name, Deviates::Missing));
    };
    if is != set {
        let different = Deviates::Different { desired: set.to_string(), found: is.to_string() };
        return all.push(Deviation::of(name, different));
    }
    let key = |element: &Element| Element { value: Arc::default(), ..element.clone() };
    let mut left: FxHashMap<_, _> = found.iter().map(|element| (key(element), element)).collect();
    let kept: FxHashSet<&Element> = found.iter().collect();
    let mut deviations = Vec::new();
    for element in elements {
        let other = left.remove(&key(element));
        if kept.contains(element) {
            continue;
        }
        let what = match other {
            None => Deviates::Missing,
            Some(other) => Deviates::Different { desired: element.to_string(), found: other.to_string() },
        };
        let object = match what {
            Deviates::Different { .. } => format!("element {} of {name}", key(element)),
            Deviates::Missing | Deviates::Unexpected => format!("element {element} of {name}"),
        };
        let owners = wanted.wanted_by(&set.name, element);
        deviations.push(Deviation { object, what, owners });
    }
    let unexpected = left.into_values();
    deviations.extend(
        unexpected.map(|element| Deviation::of(format!("element {element} of {name}"), Deviates::Unexpected)),
    );
    deviations.sort_by(|a, b| a.object.cmp(&b.object));
    all.extend(deviations);
}

#[cfg(test)]
mod tests {
    use netloom_kernel::nft::{Datum, Expr, Verdict};
    use netloom_model::Protocol;

    use super::*;
    use crate::{NetworkRules, PortRules, TableConfig, delta};

    fn ruleset() -> Ruleset {
        let mut all = Ruleset::new(TableConfig::of("netloom"));
        let rules = NetworkRules {
            bridge: "br0".parse().expect("a name"),
            icc: true,
            internal: false,
            trusted: Vec::new(),
            v4: None,
            v6: None,
        };
        all.set_network("1".repeat(64).parse().expect("an identifier"), Some(&rules)).expect("free");
        let port = PortRules {
            protocol: Protocol::Tcp,
            host: None,
            first: 8080,
            last: 8080,
            container: "10.0.0.2".parse().expect("an address"),
            container_port: 80,
            routed: false,
            by_proxy: None,
        };
        all.set_ports("2".repeat(64).parse().expect("an identifier"), &[port]).expect("free");
        all
    }

    fn told(is: Option<&Contents>, wanted: &Ruleset) -> Vec<String> {
        let sign = |what: &Deviates| match what {
            Deviates::Missing => "-".to_owned(),
            Deviates::Unexpected => "+".to_owned(),
            Deviates::Different { desired, found } => format!("{found} instead of {desired}:"),
        };
        let name = |object: &str| object.trim_end_matches(" of table inet netloom").to_owned();
        compare(is, wanted).iter().map(|one| format!("{} {}", sign(&one.what), name(&one.object))).collect()
    }

    /// Each case: the damage, and what is told of it.
    #[test]
    fn what_differs_is_told_and_only_when_something_would_be_changed() {
        let wanted = ruleset();
        let whole = wanted.contents();
        assert_eq!(told(None, &wanted), ["- table inet netloom"]);
        let nobody = Ruleset::new(TableConfig::of("netloom"));
        assert_eq!(told(None, &nobody), Vec::<String>::new());
        assert_eq!(told(Some(&nobody.contents()), &nobody), ["+ table inet netloom"]);
        type Damage = fn(&mut Contents);
        fn chain<'a>(contents: &'a mut Contents, name: &str) -> &'a mut Vec<Rule> {
            &mut contents.chains.iter_mut().find(|(chain, _)| chain.name == name).expect("a chain").1
        }
        fn set<'a>(contents: &'a mut Contents, name: &str) -> &'a mut Vec<Element> {
            &mut contents.sets.iter_mut().find(|(set, _)| set.name == name).expect("a set").1
        }
        let cases: [(Damage, &[&str]); 8] = [
            (|_| {}, &[]),
            (
                |contents| {
                    let rules = chain(contents, "forward");
                    rules.remove(0);
                    rules.push(Rule {
                        exprs: vec![Expr::Verdict(Verdict::Drop)],
                        comment: Some("mine".into()),
                    });
                },
                &[
                    "- rule `iifname in @bridges goto ours` of chain forward",
                    "+ rule `drop # mine` of chain forward",
                ],
            ),
            (
                |contents| chain(contents, "forward").reverse(),
                &["in another order instead of in order: rules of chain forward"],
            ),
            (|contents| contents.chains.retain(|(chain, _)| chain.name != "output"), &["- chain output"]),
            (
                |contents| {
                    let found = contents.chains.iter_mut().find(|(chain, _)| chain.name == "forward");
                    found.expect("there").0.hook.as_mut().expect("a base chain").priority = 5;
                },
                &[
                    "forward (filter hook forward priority 5) instead of forward (filter hook forward priority 0): \
                   chain forward",
                ],
            ),
            (
                |contents| {
                    set(contents, "bridges").clear();
                    let value = [Datum::Address("10.0.0.3".parse().expect("v4")), Datum::Port(81)];
                    set(contents, "any4")[0].value = value.into();
                    let other = [Datum::Protocol(17), Datum::Port(53)];
                    set(contents, "any4").push(Element::entry(
                        other,
                        [Datum::Address("10.0.0.9".parse().expect("v4")), Datum::Port(53)],
                    ));
                },
                &[
                    "- element br0 of set bridges",
                    "tcp . 8080 : 10.0.0.3 . 81 instead of tcp . 8080 : 10.0.0.2 . 80: element tcp . 8080 of map any4",
                    "+ element udp . 53 : 10.0.0.9 . 53 of map any4",
                ],
            ),
            (|contents| contents.sets.retain(|(set, _)| set.name != "same"), &["- set same"]),
            // Users' rules and chains are theirs.
            (
                |contents| {
                    let rule = Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: None };
                    chain(contents, USER_CHAIN).push(rule.clone());
                    contents.chains.push((Chain { name: "theirs".into(), hook: None }, vec![rule]));
                },
                &[],
            ),
        ];
        for (damage, expected) in cases {
            let mut is = whole.clone();
            damage(&mut is);
            assert_eq!(told(Some(&is), &wanted), expected);
            assert_eq!(delta(Some(&is), &whole).is_empty(), expected.is_empty());
        }
    }

    #[test]
    fn who_wants_an_element_is_named() {
        let wanted = ruleset();
        let mut is = wanted.contents();
        is.sets.iter_mut().for_each(|(_, elements)| elements.clear());
        let found = compare(Some(&is), &wanted);
        let of = |name: &str| {
            let one = found
                .iter()
                .find(|one| one.object.ends_with(&format!("{name} of table inet netloom")))
                .expect("told");
            one.owners.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("set bridges"), [format!("network {}", "1".repeat(64))]);
        assert_eq!(of("map any4"), [format!("endpoint {}", "2".repeat(64))]);
    }
}
