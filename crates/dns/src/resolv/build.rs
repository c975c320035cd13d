//! What a sandbox's resolv.conf says.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{LeftOut, NameServer, ResolvConf, Source, Why};

/// The name servers of last resort: Google's, as in libnetwork.
const FALLBACK_V4: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4))];
const FALLBACK_V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844)),
];
/// What resolvers make of a greater `ndots` (`RES_MAXNDOTS`).
const MOST_NDOTS: u8 = 15;

/// What was given for a sandbox instead of what the host's file says; of each, nothing given means the host's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// Name servers.
    pub name_servers: &'a [IpAddr],
    /// Search domains; a single `.` for none.
    pub search: &'a [String],
    /// Options.
    pub options: &'a [String],
}

impl Given<'_> {
    /// Whether anything was. libnetwork leaves such a file alone when the sandbox learns IPv6.
    #[must_use]
    pub fn is_anything(&self) -> bool {
        !(self.name_servers.is_empty() && self.search.is_empty() && self.options.is_empty())
    }
}

/// Whom a sandbox's programs ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The name servers themselves: a network on which the engine has no name server (libnetwork's default bridge).
    Direct {
        /// Whether the sandbox has IPv6.
        ipv6: bool,
    },
    /// A name server of the engine's at this address in the sandbox, which asks the others.
    Embedded(IpAddr),
    /// The host's, because the sandbox is the host's own namespace.
    Host,
}

/// From which namespace a name server is asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AskedFrom {
    /// From the host's: the host's file names it, and it may be the host itself.
    Host,
    /// From the sandbox's: it was given for the sandbox.
    Sandbox,
}

/// A name server that the embedded one asks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Upstream {
    /// Which.
    pub server: NameServer,
    /// From where (moby's `HostLoopback`).
    pub from: AskedFrom,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match self.from {
            AskedFrom::Host => "host",
            AskedFrom::Sandbox => "container",
        };
        write!(f, "{} (from the {from})", self.server)
    }
}

/// With how many dots a name is first looked up as it is, before the search domains are added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ndots {
    /// No file says so, and resolvers take 1.
    Unsaid,
    /// The engine says 0, so that its own names are found as they are.
    Zero,
    /// The user, or the host's file, says this many (at most 15, as resolvers take it).
    Said(u8),
}

/// A sandbox's resolv.conf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Built {
    /// Its text: what counts, and comments of where it comes from.
    pub text: String,
    /// Whom the embedded name server asks, in this order; nobody without one.
    pub upstreams: Vec<Upstream>,
    /// What it says of `ndots`. With [`Ndots::Said`] above 0, single names that the engine does not know are no one
    /// else's either (moby).
    pub ndots: Ndots,
    /// Whether no name server was left, and those of last resort are used.
    pub fallback: bool,
    /// What is left out of the host's file and of what was given.
    pub left_out: Vec<LeftOut>,
}

/// Makes a sandbox's resolv.conf.
///
/// Lines come in libnetwork's order: search domains, name servers, options, and then what else the host's file has.
///
/// - [`Mode::Direct`]: of the host's name servers those that are the host itself are left out, without IPv6 those of
///   IPv6, and those on links of the host's. Where none is left, Google's are used: two of IPv4, with IPv6 four. Name
///   servers that were given stay as they are.
/// - [`Mode::Embedded`]: the file names this server alone; the others are its [`Upstream`]s, IPv4 and IPv6, the
///   host's asked from the host and given ones from the sandbox. `ndots` that say nothing are removed, and unless one
///   is left it becomes 0.
/// - [`Mode::Host`]: nothing is filtered.
///
/// Parity: libnetwork `sandbox.setupDNS`, `rebuildDNS`, `resolvconf.FilterResolvDNS`, `Build`; moby
/// `TransformForLegacyNw`, `TransformForIntNS`.
#[must_use]
pub fn build(host: &ResolvConf, source: &Source, given: &Given<'_>, mode: Mode) -> Built {
    let mut left_out = host.left_out.clone();
    let overridden = !given.name_servers.is_empty();
    let wanted: Vec<NameServer> = match overridden {
        true => given.name_servers.iter().map(|address| NameServer::from(*address)).collect(),
        false => host.name_servers.clone(),
    };
    let mut servers = Vec::new();
    for server in wanted {
        let unfit = match mode {
            _ if servers.contains(&server) => Some(Why::Twice),
            Mode::Direct { ipv6 } if !overridden => unfit(&server, ipv6),
            Mode::Embedded(own) if overridden && server.address == own => Some(Why::Itself),
            Mode::Direct { .. } | Mode::Embedded(_) | Mode::Host => None,
        };
        match unfit {
            Some(why) => left_out.push(LeftOut::new(None, &format!("nameserver {server}"), why)),
            None => servers.push(server),
        }
    }
    let fallback = servers.is_empty() && mode != Mode::Host;
    if fallback {
        let ipv6 = !matches!(mode, Mode::Direct { ipv6: false });
        servers.extend(FALLBACK_V4.into_iter().map(NameServer::from));
        servers.extend(FALLBACK_V6.into_iter().filter(|_| ipv6).map(NameServer::from));
    }
    // What was read was looked at; what was given may hold anything.
    let mut fit = |words: &[String]| -> Vec<String> {
        let (fit, not) = words.iter().cloned().partition(|word| is_word(word));
        let not: Vec<String> = not;
        left_out.extend(not.iter().map(|word| LeftOut::new(None, word, Why::NotText)));
        fit
    };
    let mut options = fit(if given.options.is_empty() { &host.options } else { given.options });
    let search = fit(if given.search.is_empty() { &host.search } else { given.search });
    let mut upstreams = Vec::new();
    if let Mode::Embedded(own) = mode {
        let from = if overridden && !fallback { AskedFrom::Sandbox } else { AskedFrom::Host };
        upstreams.extend(servers.drain(..).map(|server| Upstream { server, from }));
        servers.push(own.into());
        options.retain(|option| {
            let fine = !is_ndots(option) || ndots(option).is_some();
            if !fine {
                left_out.push(LeftOut::new(None, option, Why::Ndots));
            }
            fine
        });
    }
    let said = options.iter().rev().find_map(|option| ndots(option));
    let ndots = match (said, mode) {
        (Some(dots), _) => Ndots::Said(dots),
        (None, Mode::Embedded(_)) => {
            options.push("ndots:0".into());
            Ndots::Zero
        }
        (None, Mode::Direct { .. } | Mode::Host) => Ndots::Unsaid,
    };
    let mut built = Built { text: String::new(), upstreams, ndots, fallback, left_out };
    built.text = said_by(&search, &servers, &options, &host.other);
    built.comment(source, given, mode);
    built
}

/// Why a container that asks for itself cannot ask a name server of the host's.
fn unfit(server: &NameServer, ipv6: bool) -> Option<Why> {
    match server {
        _ if server.is_local() => Some(Why::Local),
        NameServer { zone: Some(_), .. } => Some(Why::HostLink),
        NameServer { address: IpAddr::V6(_), .. } if !ipv6 => Some(Why::NoIpv6),
        NameServer { .. } => None,
    }
}

/// Whether it is one word of a line, as a reader sees it.
fn is_word(word: &str) -> bool {
    !word.is_empty()
        && !word.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '#' | ';'))
}

fn is_ndots(option: &str) -> bool {
    option == "ndots" || option.starts_with("ndots:")
}

/// The number of an `ndots` option, if it is one.
fn ndots(option: &str) -> Option<u8> {
    let number = option.strip_prefix("ndots:")?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    // Too great for a number is greater than what counts.
    digits.then(|| number.parse().unwrap_or(MOST_NDOTS).min(MOST_NDOTS))
}

/// The lines that count. A search list that is a single dot is none.
fn said_by(search: &[String], servers: &[NameServer], options: &[String], other: &[String]) -> String {
    let mut text = String::new();
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    for line in other {
        let _ = writeln!(text, "{line}");
    }
    text
}

impl Built {
    /// The lines that count, without the comments.
    #[must_use]
    pub fn without_comments(&self) -> &str {
        // What counts holds no comment: it was cut off.
        let end = self.text.find('#').unwrap_or(self.text.len());
        self.text[..end].trim_end_matches('\n')
    }

    /// Says where all of it comes from, for whoever looks into the file. moby does so too, in other words.
    fn comment(&mut self, source: &Source, given: &Given<'_>, mode: Mode) {
        let shown = |path: &std::path::Path| path.to_string_lossy().escape_debug().to_string();
        let text = &mut self.text;
        text.push_str(
            "\n# Written by the container network engine. Once it is changed by hand, it is left alone.\n",
        );
        let _ = write!(text, "# Made from {}", shown(&source.path));
        if let Some(stub) = &source.instead_of {
            let _ = write!(text, ", as {} names nothing but systemd-resolved on the host", shown(stub));
        }
        text.push('\n');
        let parts = [
            ("name servers", given.name_servers.is_empty()),
            ("search domains", given.search.is_empty()),
            ("options", given.options.is_empty()),
        ];
        let parts: Vec<_> = parts.iter().filter(|(_, absent)| !absent).map(|(part, _)| *part).collect();
        if !parts.is_empty() {
            let _ = writeln!(text, "# Given for this container: {}", parts.join(", "));
        }
        if let Mode::Embedded(own) = mode {
            for upstream in &self.upstreams {
                let _ = writeln!(text, "# {own} asks {upstream}");
            }
        }
        if self.fallback {
            text.push_str("# No other name server is of use here: public ones are asked.\n");
        }
        if self.ndots == Ndots::Zero {
            text.push_str("# ndots:0 is the engine's\n");
        }
        for left in &self.left_out {
            let _ = writeln!(text, "# Left out: {left}");
        }
    }
}
