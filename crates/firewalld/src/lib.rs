//! A client of firewalld, the manager of the host's firewall on many distributions.
//!
//! Its table ends in a reject for what is forwarded from and to interfaces of no zone that allows it, whatever tables of
//! others accept: a packet has to be accepted by all that see it. So the engine's bridges go into a zone of their own, which
//! accepts everything; what of it reaches containers, the engine's own rules judge. The names differ from Docker's
//! (`docker`, `docker-forwarding`) so that both live on one host; the behaviour is that of moby's `firewalld.go`.
//!
//! [`settle`] makes firewalld as it should be, over the few questions and commands of [`Firewalld`]. They are carried out by
//! `DbusFirewalld` over D-Bus (feature `dbus`), or by a firewalld that is not there, for tests.

#[cfg(feature = "dbus")]
mod dbus;
mod zone;

use std::fmt;
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::future::BoxFuture;
use netloom_model::IfName;

#[cfg(feature = "dbus")]
pub use dbus::DbusFirewalld;
pub use zone::{POLICY, Settled, Wishes, ZONE, obstacles, settle};

/// How many events may wait to be read. What finds no room is dropped: those that wait are yet to be read, and each has
/// everything looked at.
pub const EVENTS: usize = 16;

/// Something to ask of firewalld, or to have it do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// Is it there, for this network namespace? Answered with [`Answer::Running`].
    Running,
    /// The zones in force. [`Answer::Names`].
    Zones,
    /// The policies in force. [`Answer::Names`]; before firewalld 0.9 there are none ([`code::UNKNOWN_METHOD`]).
    Policies,
    /// Add this zone, which accepts everything, to what is in force after the next reload. [`code::NAME_CONFLICT`] when it is
    /// there.
    AddZone(&'static str),
    /// Add a policy to what is in force after the next reload: what comes from anywhere into the zone is accepted.
    /// [`code::NAME_CONFLICT`] when it is there.
    AddPolicy {
        /// Its name.
        policy: &'static str,
        /// Where to.
        zone: &'static str,
    },
    /// Put in force what was added. Interfaces that are in a zone until then, and no longer, may leave it.
    Reload,
    /// The zone that an interface was put into. [`Answer::Names`], one or none.
    ZoneOf(IfName),
    /// The interfaces that are in a zone. [`Answer::Names`]; [`code::INVALID_ZONE`] without it.
    Interfaces(&'static str),
    /// Put an interface into a zone, until firewalld is reloaded or ends. [`code::ZONE_ALREADY_SET`] when it is there,
    /// [`code::ZONE_CONFLICT`] when it is in another one.
    AddInterface {
        /// The zone.
        zone: &'static str,
        /// The interface.
        interface: IfName,
    },
    /// Take an interface out of a zone. [`code::UNKNOWN_INTERFACE`] when it is in none, [`code::ZONE_CONFLICT`] when it is in
    /// another one.
    RemoveInterface {
        /// The zone.
        zone: &'static str,
        /// The interface.
        interface: IfName,
    },
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("tell its version"),
            Self::Zones => f.write_str("list its zones"),
            Self::Policies => f.write_str("list its policies"),
            Self::AddZone(zone) => write!(f, "add zone {zone}"),
            Self::AddPolicy { policy, .. } => write!(f, "add policy {policy}"),
            Self::Reload => f.write_str("reload"),
            Self::ZoneOf(interface) => write!(f, "tell the zone of {interface}"),
            Self::Interfaces(zone) => write!(f, "list the interfaces of zone {zone}"),
            Self::AddInterface { zone, interface } => write!(f, "put {interface} into zone {zone}"),
            Self::RemoveInterface { zone, interface } => write!(f, "take {interface} out of zone {zone}"),
        }
    }
}

/// What firewalld answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It has been done.
    Done,
    /// These.
    Names(Vec<String>),
    /// Whether it is there.
    Running(Option<Running>),
}

/// A firewalld that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    /// Its version; empty when it did not say.
    pub version: String,
    /// What its own rules are in: `nftables` or `iptables`; empty when it did not say.
    pub backend: String,
}

/// Something has happened to firewalld: what is known of it has to be looked at again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// It was started, or can be reached now.
    Appeared,
    /// It has ended, or cannot be reached any more.
    Gone,
    /// It has read its configuration again, and with it forgotten what was not in there.
    Reloaded,
}

/// Events as they come, [`EVENTS`] of them at most. Ends with the client.
pub type Events = mpsc::Receiver<Event>;

/// What a request comes to.
pub type Call = BoxFuture<'static, Result<Answer, Trouble>>;

/// The firewalld of the network namespace that the client was started in.
pub trait Firewalld: fmt::Debug + Send + Sync + 'static {
    /// Carries this out. Requests are carried out in the order in which they are given; dropping a future stops nothing.
    fn call(&self, request: Request, deadline: Instant) -> Call;

    /// Listens from now on.
    fn events(&self) -> Events;
}

/// The words that firewalld begins its errors with.
pub mod code {
    /// It has a zone or policy of that name.
    pub const NAME_CONFLICT: &str = "NAME_CONFLICT";
    /// There is no such zone.
    pub const INVALID_ZONE: &str = "INVALID_ZONE";
    /// The interface is in that zone already.
    pub const ZONE_ALREADY_SET: &str = "ZONE_ALREADY_SET";
    /// The interface is in another zone.
    pub const ZONE_CONFLICT: &str = "ZONE_CONFLICT";
    /// The interface is in no zone.
    pub const UNKNOWN_INTERFACE: &str = "UNKNOWN_INTERFACE";
    /// It is too old for this request. Not firewalld's own word, but the bus's.
    pub const UNKNOWN_METHOD: &str = "UnknownMethod";
}

/// Why firewalld did not do what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// It is not there, or there is no bus, or it is another namespace's.
    Away(String),
    /// It did not answer in time; it may do it yet.
    Late {
        /// What it was asked for.
        request: Request,
        /// How long it had.
        waited: Duration,
    },
    /// It, or the bus, refused.
    Refused {
        /// What it was asked for.
        request: Request,
        /// The word for why: one of [`code`], or another one.
        code: String,
        /// In its words.
        message: String,
    },
    /// It answered something else than was asked for.
    Unclear(Request),
    /// It says it has done it, and has not.
    Idle(&'static str),
    /// Too many requests wait already; nothing was done.
    Busy(usize),
    /// The thread that speaks to it has failed.
    Lost,
}

impl Trouble {
    /// Whether it refused with this word.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        matches!(self, Self::Refused { code: said, .. } if said == code)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) => write!(f, "there is no firewalld: {why}"),
            Self::Late { request, waited } => write!(
                f,
                "firewalld did not {request} within {waited:.0?}; see whether it hangs: systemctl status firewalld"
            ),
            Self::Refused { request, code, message } => {
                write!(f, "firewalld does not {request}: {code}: {message}")
            }
            Self::Unclear(request) => {
                write!(f, "firewalld was asked to {request}, and its answer is not understood")
            }
            Self::Idle(zone) => write!(
                f,
                "firewalld was reloaded and has no zone {zone} although it is in its configuration; see its log: \
                 journalctl -u firewalld"
            ),
            Self::Busy(limit) => write!(f, "{limit} requests to firewalld wait already"),
            Self::Lost => f.write_str("the thread that speaks to firewalld failed"),
        }
    }
}

impl std::error::Error for Trouble {}
