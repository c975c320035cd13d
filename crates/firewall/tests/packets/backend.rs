//! The two ways of telling the kernel what is wanted.

use std::collections::BTreeMap;
use std::path::Path;

use netloom_firewall::io::{Programs, RunXtables, Xtables};
use netloom_firewall::iptables::{Names, Version, Wanted};
use netloom_firewall::{Mark, NetworkRules, PortRules};
use netloom_model::{EndpointId, NetworkId};

use crate::common::{foreign, soon, wait};

/// Which programs change the tables, if any do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backend {
    /// None: the table of nftables, over netlink.
    Nftables,
    /// Those of iptables, of this variant.
    Iptables(&'static str),
}

pub(crate) const BACKENDS: [Backend; 3] =
    [Backend::Nftables, Backend::Iptables("nft"), Backend::Iptables("legacy")];

impl Backend {
    /// A users' rule: connections that come in by the uplink for a port of the host are dropped.
    pub(crate) fn user_drops(self, port: u16) {
        match self {
            Self::Nftables => foreign(&format!(
                "nft add rule inet netloom user iifname uplink meta l4proto tcp ct original proto-dst {port} drop"
            )),
            Self::Iptables(variant) => {
                for program in ["iptables", "ip6tables"] {
                    foreign(&format!(
                        "{program}-{variant} -A NETLOOM-USER -i uplink -p tcp -m conntrack --ctorigdstport {port} -j DROP"
                    ));
                }
            }
        }
    }

    /// Takes away what keeps containers from the host's loopback.
    pub(crate) fn forget_loopback(self) {
        match self {
            Self::Nftables => foreign("nft flush chain inet netloom raw-prerouting"),
            Self::Iptables(variant) => foreign(&format!("iptables-{variant} -t raw -F NETLOOM-RAW")),
        }
    }

    /// Lets others reach what is published on the loopback.
    pub(crate) fn publish_loopback(self) {
        match self {
            Self::Nftables => {
                foreign("nft flush chain inet netloom prerouting");
                foreign("nft add rule inet netloom prerouting fib daddr type local jump publish");
            }
            Self::Iptables(variant) => foreign(&format!(
                "iptables-{variant} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j NETLOOM-NAT"
            )),
        }
    }

    /// Takes that back, as far as it is a rule of others.
    pub(crate) fn withdraw_loopback(self) {
        if let Self::Iptables(variant) = self {
            foreign(&format!(
                "iptables-{variant} -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j NETLOOM-NAT"
            ));
        }
    }

    /// Takes the users' rules away.
    pub(crate) fn user_allows(self) {
        match self {
            Self::Nftables => foreign("nft flush chain inet netloom user"),
            Self::Iptables(variant) => {
                for program in ["iptables", "ip6tables"] {
                    foreign(&format!("{program}-{variant} -F NETLOOM-USER"));
                }
            }
        }
    }
}

/// Chains of iptables, with what they are made of.
pub(crate) struct Tables {
    programs: RunXtables,
    names: Names,
    mark: Option<Mark>,
    networks: BTreeMap<NetworkId, NetworkRules>,
    ports: BTreeMap<EndpointId, Vec<PortRules>>,
    told: Wanted,
}

impl Tables {
    pub(crate) fn new(variant: &str, mark: Option<Mark>) -> Self {
        let programs = Programs::below(Path::new("/usr/sbin"), variant).expect("iptables is installed");
        let names = Names::of("netloom");
        let told = Wanted::new(&names, mark, &[], &[]).expect("nothing is refused");
        let programs = RunXtables::start(programs).expect("a thread");
        let tables = Self { programs, names, mark, networks: BTreeMap::new(), ports: BTreeMap::new(), told };
        tables.repair();
        tables
    }

    pub(crate) fn set_network(&mut self, network: NetworkId, rules: Option<&NetworkRules>) {
        match rules {
            Some(rules) => drop(self.networks.insert(network, rules.clone())),
            None => drop(self.networks.remove(&network)),
        }
        self.tell();
    }

    pub(crate) fn set_ports(&mut self, endpoint: EndpointId, ports: &[PortRules]) {
        self.ports.insert(endpoint, ports.to_vec());
        self.tell();
    }

    fn tell(&mut self) {
        let networks: Vec<_> = self.networks.values().cloned().collect();
        let ports: Vec<_> = self.ports.values().flatten().cloned().collect();
        let wanted = Wanted::new(&self.names, self.mark, &networks, &ports).expect("all of it fits");
        for version in [Version::V4, Version::V6] {
            if let Some(text) = wanted.delta(version, &self.told) {
                self.feed(version, text);
            }
        }
        self.told = wanted;
    }

    fn feed(&self, version: Version, text: String) {
        let shown = text.clone();
        let answer = wait(self.programs.restore(version, text, soon()));
        answer.unwrap_or_else(|error| panic!("{error}\n{shown}"));
    }

    /// What differs from what is wanted.
    fn wrong(&self, version: Version) -> Option<String> {
        let saved = wait(self.programs.save(version, soon())).unwrap_or_else(|error| panic!("{error}"));
        self.told.restore(version, &saved)
    }

    pub(crate) fn repair(&self) {
        for version in [Version::V4, Version::V6] {
            if let Some(text) = self.wrong(version) {
                self.feed(version, text);
            }
        }
    }

    pub(crate) fn assert_as_wanted(&self) {
        for version in [Version::V4, Version::V6] {
            assert_eq!(self.wrong(version), None);
        }
    }
}
