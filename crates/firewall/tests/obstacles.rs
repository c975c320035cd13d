//! What stands in the way, by what a host says of itself.

mod common;

use std::sync::Arc;

use common::{access, network};
use netloom_firewall::NetworkRules;
use netloom_firewall::iptables::{Saved, Version};
use netloom_firewall::obstacles::{Drops, Host, obstacles};
use netloom_kernel::nft::{BaseChain, Expr, Family, MetaKey, Reg, Rule, Table, Verdict};

fn networks() -> Vec<Arc<NetworkRules>> {
    let mut inner = network("br-in", access("10.3.0.0/24"), None);
    inner.internal = true;
    let four = network("br-four", access("10.1.0.0/24"), None);
    let both = network("br-both", access("10.2.0.0/24"), access("fd00::/64"));
    [four, both, inner].map(Arc::new).into()
}

/// The chain FORWARD with these rules, of which those that name a chain are that chain's.
fn saved(policy: &str, rules: &[&str]) -> Saved {
    let rules: Vec<_> = rules.iter().map(|rule| format!("-A {rule}\n")).collect();
    let chains = ":FORWARD ".to_owned() + policy + " [0:0]\n:USER - [0:0]\n:MORE - [0:0]\n";
    Saved::parse(&format!("*nat\n:FORWARD DROP [0:0]\nCOMMIT\n*filter\n{chains}{}COMMIT\n", rules.concat()))
}

/// The bridges that are not let through.
fn in_the_way(version: Version, saved: &Saved, bridged: bool) -> Vec<String> {
    let drops: Vec<_> = Drops::of_iptables("iptables-legacy", version, saved).into_iter().collect();
    let host = Host { drops, forwards: [Some(true); 2], bridged: [bridged; 2] };
    let found = obstacles(&host, &networks());
    assert!(found.len() <= 1, "{found:?}");
    let commands = found.into_iter().flat_map(|one| one.remedy);
    let bridges =
        commands.filter_map(|command| Some(command.split_once("-i ")?.1.split(' ').next()?.to_owned()));
    bridges.collect()
}

#[test]
fn what_a_chain_accepts_plainly_is_not_in_the_way() {
    let v4 = |policy, rules: &[&str]| in_the_way(Version::V4, &saved(policy, rules), false);
    let all = ["br-both", "br-four"];
    assert_eq!(v4("DROP", &[]), all);
    assert!(v4("ACCEPT", &[]).is_empty(), "its policy lets everything through");
    assert!(v4("DROP", &["FORWARD -j ACCEPT"]).is_empty());
    assert_eq!(v4("DROP", &["FORWARD -i br-four -j ACCEPT"]), all, "one direction is not enough");
    assert_eq!(v4("DROP", &["FORWARD -i br-four -j ACCEPT", "FORWARD -o br-four -j ACCEPT"]), ["br-both"]);
    let user = [
        "FORWARD -i eth7 -j DROP",
        "FORWARD -j USER",
        "USER -i br-four -j ACCEPT",
        "USER -o br-four -j ACCEPT",
    ];
    assert_eq!(v4("DROP", &user), ["br-both"], "where it leads");
    for nothing in [
        // Not all of it, not this link, or never reached.
        &["FORWARD -s 10.0.0.0/8 -j ACCEPT"] as &[_],
        &["FORWARD -i eth+ -j ACCEPT", "FORWARD -o eth+ -j ACCEPT"],
        &["FORWARD ! -i br-four -j ACCEPT"],
        &["FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
        &["FORWARD -j DROP", "FORWARD -j ACCEPT"],
        &["FORWARD -j REJECT --reject-with icmp-port-unreachable", "FORWARD -j ACCEPT"],
        &["FORWARD -j USER", "USER -j RETURN", "USER -j ACCEPT"],
        &["FORWARD -i eth7 -j USER", "USER -j ACCEPT"],
        &["FORWARD -j USER", "USER -j MORE", "MORE -j USER"],
    ] {
        assert_eq!(v4("DROP", nothing), all, "{nothing:?}");
    }
    let negated = ["FORWARD ! -i br-four -j ACCEPT", "FORWARD ! -o br-four -j ACCEPT"];
    assert!(v4("DROP", &negated).is_empty(), "each comes from or goes to another link");
    // What returns is followed by what stands behind the jump.
    assert!(v4("DROP", &["FORWARD -j USER", "FORWARD -j ACCEPT", "USER -j RETURN"]).is_empty());
}

#[test]
fn a_last_rule_that_refuses_everything_is_in_the_way_as_a_policy_is() {
    let all = ["br-both", "br-four"];
    let v4 = |rules: &[&str]| in_the_way(Version::V4, &saved("ACCEPT", rules), false);
    let reject = "FORWARD -m comment --comment \"the end\" -j REJECT --reject-with icmp-host-prohibited";
    for refused in [
        &["FORWARD -j DROP"] as &[_],
        &["FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "FORWARD -i lo -j ACCEPT", reject],
        &["FORWARD -j USER", "USER -j MORE", "MORE -j DROP"],
        &["FORWARD -g USER", "USER -j DROP", "FORWARD -j ACCEPT"],
        &["FORWARD -i eth7 -j USER", "FORWARD -j MORE", "USER -j ACCEPT", "MORE -j REJECT"],
    ] {
        assert_eq!(v4(refused), all, "{refused:?}");
    }
    for passed in [
        // Some links or packets only; not reached; not the end.
        &["FORWARD -i eth7 -j DROP"] as &[_],
        &["FORWARD -i br-four -j DROP"],
        &["FORWARD -s 10.0.0.0/8 -j DROP"],
        &["FORWARD -j ACCEPT", "FORWARD -j DROP"],
        &["USER -j DROP"],
        &["FORWARD -j USER", "USER -j RETURN", "USER -j DROP"],
        &["FORWARD -g USER", "FORWARD -j DROP"],
    ] {
        assert!(v4(passed).is_empty(), "{passed:?}");
    }
    // As firewalld has it: what comes in by a link of a zone, and what leaves by one, is judged by that zone's chain.
    let zones = |links: &[&str]| {
        let mut rules = vec!["FORWARD -j USER".to_owned(), "FORWARD -j REJECT".to_owned()];
        let lead = |flag: &str, link: &&str| format!("USER {flag} {link} -g MORE");
        rules.extend(links.iter().flat_map(|link| ["-i", "-o"].map(|flag| lead(flag, link))));
        rules.push("MORE -j ACCEPT".to_owned());
        v4(&rules.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(zones(&["br-four"]), ["br-both"]);
    assert!(zones(&["br-four", "br-both"]).is_empty());
    assert!(zones(&["br-+"]).is_empty());
    // As Docker has it for its own bridges.
    let apart =
        ["FORWARD -i br-four ! -o br-four -j ACCEPT", "FORWARD -o br-four -j ACCEPT", "FORWARD -j DROP"];
    assert_eq!(v4(&apart), ["br-both"]);
}

#[test]
fn whom_a_chain_concerns_depends_on_family_reach_and_bridges() {
    let dropping = saved("DROP", &[]);
    assert_eq!(in_the_way(Version::V6, &dropping, false), ["br-both"], "it alone has IPv6");
    assert_eq!(in_the_way(Version::V4, &dropping, true), ["br-both", "br-four", "br-in"], "within, too");
    let host = |forwards| Host { forwards, ..Host::default() };
    let named = |forwards, networks: &[Arc<NetworkRules>]| {
        let found = obstacles(&host(forwards), networks);
        found.into_iter().map(|one| format!("{}: {}", one.name, one.remedy.join(";"))).collect::<Vec<_>>()
    };
    assert_eq!(
        named([Some(false); 2], &networks()),
        [
            "net.ipv4.ip_forward: echo 1 >/proc/sys/net/ipv4/ip_forward",
            "net.ipv6.conf.all.forwarding: echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        ]
    );
    assert_eq!(named([Some(false); 2], &networks()[2..]), Vec::<String>::new(), "internal");
    assert_eq!(named([Some(false); 2], &networks()[..1]).len(), 1, "IPv4 alone");
    assert_eq!(named([Some(true), None], &networks()), Vec::<String>::new());
}

fn rule(exprs: Vec<Expr>) -> Rule {
    Rule { exprs, comment: None }
}

fn accepts(key: MetaKey, name: &[u8]) -> Rule {
    rule(vec![
        Expr::Meta { key, to: Reg(0) },
        Expr::Cmp { from: Reg(0), equal: true, data: name.to_vec() },
        Expr::Other("counter".into()),
        Expr::Verdict(Verdict::Accept),
    ])
}

#[test]
fn chains_of_nftables_are_understood_and_those_of_iptables_among_them() {
    let of = |family, table: &str, chain: &str, rules: Vec<Rule>| {
        let table = Table { family, name: table.into() };
        let rules = rules.into_iter().map(|rule| (chain.to_owned(), rule)).collect();
        let base = BaseChain { table, chain: chain.into(), drops: true, rules };
        let programs = [Some("iptables-nft"), Some("ip6tables-nft")];
        let drops = Drops::of_nftables(&base, programs).into_iter().collect();
        let host = Host { drops, forwards: [Some(true); 2], bridged: [false; 2] };
        let found = obstacles(&host, &networks());
        found.into_iter().map(|one| (one.name, one.remedy)).collect::<Vec<_>>()
    };
    let [(name, remedy)] = of(Family::Inet, "others", "way", Vec::new()).try_into().expect("one");
    assert_eq!(name, "chain way of table inet others of nftables");
    assert_eq!(remedy[0], "nft insert rule inet others way 'iifname \"br-both\" accept'");
    let [(name, remedy)] = of(Family::Ip6, "filter", "FORWARD", Vec::new()).try_into().expect("one");
    assert_eq!(name, "chain FORWARD of ip6tables-nft");
    assert_eq!(remedy, ["-i", "-o"].map(|flag| format!("ip6tables-nft -I FORWARD {flag} br-both -j ACCEPT")));
    // As the two programs write it, and a beginning that several names have.
    let both = |name: &[u8]| vec![accepts(MetaKey::Iifname, name), accepts(MetaKey::Oifname, name)];
    assert!(of(Family::Ip6, "filter", "FORWARD", both(b"br-both\0")).is_empty());
    assert!(of(Family::Ip6, "mine", "way", both(b"br-both\0\0\0\0\0\0\0\0\0")).is_empty());
    assert!(of(Family::Ip6, "mine", "way", both(b"br-")).is_empty());
    assert_eq!(of(Family::Ip6, "mine", "way", both(b"br-bot\0")).len(), 1);
    assert!(of(Family::Ip, "mine", "way", vec![rule(vec![Expr::Verdict(Verdict::Accept)])]).is_empty());
    assert_eq!(
        of(
            Family::Ip,
            "mine",
            "way",
            vec![rule(vec![Expr::Other("xt".into()), Expr::Verdict(Verdict::Accept)])]
        )
        .len(),
        1
    );
}

/// A name that a shell or a program would take for something else is told of, and no command is made of it.
#[test]
fn odd_names_make_no_commands_and_many_bridges_are_counted() {
    let drops = || Drops::of_iptables("iptables", Version::V4, &saved("DROP", &[])).expect("it drops");
    let host = |drops| Host { drops: vec![drops], forwards: [Some(true); 2], bridged: [false; 2] };
    let one = |name: &str| Arc::new(network(name, access("10.1.0.0/24"), None));
    let found = obstacles(&host(drops()), &[one("a';reboot;'"), one("br+")]);
    assert!(found[0].remedy.is_empty() && found[0].what.contains("reboot"), "{found:?}");
    let many: Vec<_> = (0..100).map(|number| one(&format!("br{number}"))).collect();
    let found = obstacles(&host(drops()), &many);
    assert!(found[0].what.contains("and 36 more"), "{}", found[0].what);
    assert_eq!(found[0].remedy.len(), 128);
}
