//! Settings below `/proc/sys/net`: the ones a network engine writes, with their ranges.

use netloom_kernel::Netns;

use super::world::{IPV6_MIN_MTU, LinkId, NsId, World};
use crate::errno::{EINVAL, ENOENT, Refusal};

/// A setting that every link has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    /// The directory above the link's, such as `ipv6/conf`.
    pub(super) dir: &'static str,
    /// The file's name.
    pub(super) name: &'static str,
}

/// What a file accepts: so many numbers within a range.
#[derive(Clone, Copy, Debug)]
struct Rule {
    name: &'static str,
    numbers: usize,
    min: i64,
    max: i64,
}

/// Whose file a setting is.
#[derive(Clone, Copy, Debug)]
enum File {
    /// The namespace's.
    General(Rule),
    /// That of all links, or of those to come.
    All(Rule),
    /// One link's, in this directory.
    Link(LinkId, &'static str, Rule),
}

impl File {
    fn rule(self) -> Rule {
        match self {
            Self::General(rule) | Self::All(rule) | Self::Link(_, _, rule) => rule,
        }
    }
}

const fn int(name: &'static str) -> Rule {
    Rule { name, numbers: 1, min: i32::MIN as i64, max: i32::MAX as i64 }
}

const fn range(name: &'static str, min: i64, max: i64) -> Rule {
    Rule { name, numbers: 1, min, max }
}

const fn pair(name: &'static str, min: i64, max: i64) -> Rule {
    Rule { name, numbers: 2, min, max }
}

/// Settings of a namespace as a whole.
const GENERAL: &[Rule] = &[
    int("ipv4/ip_forward"),
    int("ipv4/ip_nonlocal_bind"),
    int("ipv4/fwmark_reflect"),
    int("ipv4/icmp_echo_ignore_all"),
    int("ipv4/tcp_keepalive_time"),
    int("ipv4/tcp_keepalive_intvl"),
    int("ipv4/tcp_keepalive_probes"),
    int("ipv4/tcp_fin_timeout"),
    int("ipv4/tcp_syncookies"),
    range("ipv4/ip_default_ttl", 1, 255),
    range("ipv4/ip_unprivileged_port_start", 0, 65_535),
    pair("ipv4/ip_local_port_range", 1, 65_535),
    pair("ipv4/ping_group_range", 0, 2_147_483_647),
    int("ipv6/bindv6only"),
    int("ipv6/ip_nonlocal_bind"),
    int("bridge/bridge-nf-call-arptables"),
    int("bridge/bridge-nf-call-ip6tables"),
    int("bridge/bridge-nf-call-iptables"),
    range("core/somaxconn", 0, 2_147_483_647),
    range("netfilter/nf_conntrack_max", 0, 2_147_483_647),
];

/// Directories that have one folder per link, and `all` and `default`.
const PER_LINK: &[(&str, &[Rule])] = &[
    (
        "ipv4/conf",
        &[
            int("accept_local"),
            int("accept_redirects"),
            int("accept_source_route"),
            int("arp_accept"),
            int("arp_announce"),
            int("arp_filter"),
            int("arp_ignore"),
            int("arp_notify"),
            int("forwarding"),
            int("log_martians"),
            int("promote_secondaries"),
            int("proxy_arp"),
            int("proxy_arp_pvlan"),
            int("route_localnet"),
            int("rp_filter"),
            int("secure_redirects"),
            int("send_redirects"),
            int("src_valid_mark"),
        ],
    ),
    (
        "ipv6/conf",
        &[
            int("accept_dad"),
            int("accept_ra"),
            int("accept_redirects"),
            int("accept_source_route"),
            range("addr_gen_mode", 0, 3),
            int("autoconf"),
            int("dad_transmits"),
            int("disable_ipv6"),
            int("forwarding"),
            int("keep_addr_on_down"),
            int("ndisc_notify"),
            int("proxy_ndp"),
            int("router_solicitations"),
            int("use_tempaddr"),
        ],
    ),
    ("ipv4/neigh", NEIGHBOUR),
    ("ipv6/neigh", NEIGHBOUR),
];

const NEIGHBOUR: &[Rule] = &[
    range("anycast_delay", 0, 2_147_483_647),
    range("app_solicit", 0, 2_147_483_647),
    range("base_reachable_time_ms", 0, 2_147_483_647),
    range("gc_stale_time", 0, 2_147_483_647),
    range("mcast_solicit", 0, 2_147_483_647),
    range("retrans_time_ms", 0, 2_147_483_647),
    range("ucast_solicit", 0, 2_147_483_647),
];

impl Rule {
    /// The kernel reads as many numbers as it wants and ignores what follows.
    fn check(self, value: &str) -> Result<(), Refusal> {
        let mut read = 0;
        for word in value.split_ascii_whitespace().take(self.numbers) {
            let number = parse(word).ok_or(Refusal::new(EINVAL))?;
            if !(self.min..=self.max).contains(&number) {
                return Err(Refusal::new(EINVAL));
            }
            read += 1;
        }
        if read == self.numbers { Ok(()) } else { Err(Refusal::new(EINVAL)) }
    }
}

/// Decimal, octal with a leading zero, or hexadecimal, as the kernel reads it.
fn parse(word: &str) -> Option<i64> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = if let Some(hex) = digits.strip_prefix("0x") {
        i64::from_str_radix(hex, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    number.ok().map(|number| if negative { -number } else { number })
}

/// Whether a written value counts as "on".
pub(super) fn is_on(value: &str) -> bool {
    value.split_ascii_whitespace().next().and_then(parse).is_some_and(|number| number != 0)
}

impl World {
    pub(super) fn write_setting(&mut self, netns: Netns, key: &str, value: &str) -> Result<(), Refusal> {
        let (ns, file) = match self.locate(netns, key) {
            Err(_) if value == "1" && self.has_no_ipv6(netns, key) => return Ok(()),
            located => located?,
        };
        file.rule().check(value)?;
        match file {
            File::General(_) => self.keep(ns, key, value),
            File::All(_) => self.write_for_all(ns, key, value),
            File::Link(id, dir, rule) => self.write_for_link(id, Setting { dir, name: rule.name }, value),
        }
        Ok(())
    }

    /// Whether it would switch IPv6 off for a link that is too small for it: that is done.
    fn has_no_ipv6(&self, netns: Netns, key: &str) -> bool {
        let link = key.strip_prefix("ipv6/conf/").and_then(|key| key.strip_suffix("/disable_ipv6"));
        let link = link.and_then(|link| link.parse().ok());
        link.is_some_and(|link| self.find(netns, link).is_ok())
    }

    /// What a file says, as far as it is modelled.
    pub(super) fn setting_text(&self, netns: Netns, key: &str) -> Result<String, Refusal> {
        let (_, file) = self.locate(netns, key)?;
        if let Some(value) = self.read_setting(netns, key) {
            return Ok(value.to_owned());
        }
        let off =
            matches!(file, File::Link(id, _, rule) if rule.name == "disable_ipv6" && self.links[id].ipv6_off);
        Ok(if off { "1" } else { "0" }.to_owned())
    }

    /// Finds the file of a setting: `EINVAL` for what is no name of one, `ENOENT` for what is not there.
    fn locate(&self, netns: Netns, key: &str) -> Result<(NsId, File), Refusal> {
        if key.is_empty() || key.starts_with('/') || key.split('/').any(|part| part == "..") {
            return Err(Refusal::new(EINVAL));
        }
        let ns = self.ns(netns)?;
        if let Some(rule) = GENERAL.iter().find(|rule| rule.name == key) {
            return Ok((ns, File::General(*rule)));
        }
        let unknown = Refusal::new(ENOENT);
        let (path, name) = key.rsplit_once('/').ok_or(unknown)?;
        let (dir, link) = path.rsplit_once('/').ok_or(unknown)?;
        let (dir, rules) = PER_LINK.iter().find(|(known, _)| *known == dir).ok_or(unknown)?;
        let rule = *rules.iter().find(|rule| rule.name == name).ok_or(unknown)?;
        match link {
            "all" if dir.ends_with("neigh") => Err(unknown),
            "all" | "default" => Ok((ns, File::All(rule))),
            _ => {
                let name = link.parse().map_err(|_| unknown)?;
                let id = self.namespaces[ns].links.get(&name).copied().ok_or(unknown)?;
                // A link too small for IPv6 has no settings for it.
                if dir.starts_with("ipv6") && self.links[id].mtu < IPV6_MIN_MTU {
                    return Err(unknown);
                }
                Ok((ns, File::Link(id, dir, rule)))
            }
        }
    }

    fn write_for_all(&mut self, ns: NsId, key: &str, value: &str) {
        match key {
            // Two names of one setting.
            "ipv4/conf/all/forwarding" => self.keep(ns, "ipv4/ip_forward", value),
            "ipv6/conf/all/disable_ipv6" => {
                self.keep(ns, key, value);
                self.keep(ns, "ipv6/conf/default/disable_ipv6", value);
                let setting = Setting { dir: "ipv6/conf", name: "disable_ipv6" };
                let links: Vec<LinkId> = self.namespaces[ns].links.values().copied().collect();
                for id in links {
                    self.links[id].settings.retain(|(have, _)| *have != setting);
                    self.set_ipv6_off(id, is_on(value));
                }
            }
            _ => self.keep(ns, key, value),
        }
    }

    fn write_for_link(&mut self, id: LinkId, setting: Setting, value: &str) {
        let settings = &mut self.links[id].settings;
        match settings.iter_mut().find(|(have, _)| *have == setting) {
            Some((_, kept)) => value.clone_into(kept),
            None => settings.push((setting, value.to_owned())),
        }
        if setting == (Setting { dir: "ipv6/conf", name: "disable_ipv6" }) {
            self.set_ipv6_off(id, is_on(value));
        }
    }

    pub(super) fn keep(&mut self, ns: NsId, key: &str, value: &str) {
        let settings = &mut self.namespaces[ns].settings;
        match settings.iter_mut().find(|(have, _)| have == key) {
            Some((_, kept)) => value.clone_into(kept),
            None => settings.push((key.to_owned(), value.to_owned())),
        }
    }

    /// What a setting was last written to; `None` for one that has its default or does not exist.
    pub(super) fn read_setting(&self, netns: Netns, key: &str) -> Option<&str> {
        let ns = self.ns(netns).ok()?;
        let key = if key == "ipv4/conf/all/forwarding" { "ipv4/ip_forward" } else { key };
        if let Some(value) = self.namespaces[ns].setting(key) {
            return Some(value);
        }
        let (path, name) = key.rsplit_once('/')?;
        let (dir, link) = path.rsplit_once('/')?;
        let id = self.namespaces[ns].links.get(&link.parse().ok()?)?;
        let found = self.links[*id].settings.iter().find(|(have, _)| (have.dir, have.name) == (dir, name));
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        for (text, number) in
            [("1", Some(1)), ("-1", Some(-1)), ("0x10", Some(16)), ("010", Some(8)), ("0", Some(0))]
        {
            assert_eq!(parse(text), number, "{text}");
        }
        for bad in ["", "x", "--1", "+1", "1x", "0x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(is_on(" 1") && is_on("2 0") && !is_on("0") && !is_on(""));
    }

    #[test]
    fn a_rule_takes_as_many_numbers_as_it_wants() {
        assert!(int("a").check("1 2").is_ok());
        assert!(int("a").check("").is_err());
        assert!(int("a").check("4294967296").is_err());
        assert!(pair("a", 1, 65_535).check("1000 2000").is_ok());
        assert!(pair("a", 1, 65_535).check("1000").is_err());
        assert!(pair("a", 1, 65_535).check("0 2000").is_err());
    }
}
