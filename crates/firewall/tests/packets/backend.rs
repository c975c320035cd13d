//! The two ways of telling the kernel what is wanted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use netloom_firewall::io::{Installed, Programs, RunXtables, Variant, Xtables};
use netloom_firewall::iptables::{Job, Names, Version, Wanted};
use netloom_firewall::{Mark, NetworkRules, PortRules};
use netloom_model::{EndpointId, NetworkId};

use crate::common::{foreign, soon, wait};

/// Which programs change the tables, if any do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backend {
    /// None: the table of nftables, over netlink.
    Nftables,
    /// Those of iptables, of this variant.
    Iptables(Variant),
}

pub(crate) const BACKENDS: [Backend; 3] =
    [Backend::Nftables, Backend::Iptables(Variant::Nft), Backend::Iptables(Variant::Legacy)];

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
    mark: Option<Mark>,
    networks: BTreeMap<NetworkId, Arc<NetworkRules>>,
    ports: BTreeMap<EndpointId, Arc<[PortRules]>>,
    told: Option<Arc<Wanted>>,
}

impl Tables {
    pub(crate) fn new(variant: Variant, mark: Option<Mark>) -> Self {
        let programs = Programs::below(Path::new("/usr/sbin"), Some(variant)).expect("iptables is installed");
        let programs = RunXtables::start(Installed::only(programs)).expect("a thread");
        Self { programs, mark, networks: BTreeMap::new(), ports: BTreeMap::new(), told: None }
    }

    pub(crate) fn set_network(&mut self, network: NetworkId, rules: Option<&NetworkRules>) {
        match rules {
            Some(rules) => drop(self.networks.insert(network, rules.clone().into())),
            None => drop(self.networks.remove(&network)),
        }
        self.told = self.settle(self.told.clone());
    }

    pub(crate) fn set_ports(&mut self, endpoint: EndpointId, ports: &[PortRules]) {
        self.ports.insert(endpoint, ports.into());
        self.told = self.settle(self.told.clone());
    }

    fn settle(&self, before: Option<Arc<Wanted>>) -> Option<Arc<Wanted>> {
        let job = Job {
            names: Names::of("netloom"),
            mark: self.mark,
            networks: self.networks.values().cloned().collect(),
            ports: self.ports.values().cloned().collect(),
            before,
            versions: vec![Version::V4, Version::V6],
        };
        let programs: &dyn Xtables = &self.programs;
        wait(programs.settle(job, soon())).unwrap_or_else(|error| panic!("{error}")).wanted
    }

    pub(crate) fn repair(&self) {
        self.settle(None);
    }

    pub(crate) fn assert_as_wanted(&self) {
        let programs: &dyn Xtables = &self.programs;
        for version in [Version::V4, Version::V6] {
            let saved = wait(programs.save(programs.chosen(), version, soon())).expect("shown");
            let wanted = self.told.as_ref().expect("something is wanted");
            assert_eq!(wanted.restore(version, &saved), None);
        }
    }
}
