//! The steps of a scenario: every verb with its arguments. A new verb is a variant of [`Act`], a line in
//! [`Act::parse`] and in [`VERBS`], and what it does in `run` or `looks`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netloom::{EndpointSpec, ErrorKind, JoinSpec, NetworkSpec, Reservation, SandboxSpec, ShutdownMode};
use toml::{Table, Value};

use super::How;
use super::args::{Args, Mode, OneOrMany, split};
use super::looks::{EndpointLook, EngineLook, HostLook, InfoLook, InsideLook, NetworkLook, SandboxLook};
use super::whole::ReconcileLook;

/// Something that is done, and what must come of it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// As it is written in the file.
    pub(crate) text: String,
    pub(crate) act: Act,
    pub(crate) expected: Expected,
    /// Keeps the identifier of what was made or found under this name.
    pub(crate) saves: Option<String>,
}

/// How a step must end.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) fails: Option<ErrorKind>,
    /// Kinds of errors that are as good as success.
    pub(crate) may_fail: Vec<ErrorKind>,
    /// What an error's text contains.
    pub(crate) says: Vec<String>,
    /// What an error's remedy contains.
    pub(crate) remedy: Option<String>,
    /// Whether an error may leave it open what was done.
    pub(crate) uncertain: bool,
}

/// Everything that a step can do.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    CreateNetwork(NetworkSpec),
    DeleteNetwork {
        name: String,
        force: bool,
    },
    CreateEndpoint {
        path: String,
        network: String,
        spec: EndpointSpec,
    },
    DeleteEndpoint {
        path: String,
        force: bool,
    },
    /// Keeps addresses for a name.
    Reserve {
        network: String,
        name: String,
        kept: Reservation,
    },
    ReleaseReservation {
        network: String,
        name: String,
    },
    CreateSandbox(SandboxSpec),
    DeleteSandbox {
        container: String,
        force: bool,
    },
    DestroySandbox(String),
    RenameSandbox {
        container: String,
        name: String,
    },
    Refresh(SandboxSpec),
    SetKey {
        container: String,
        key: Key,
    },
    Join {
        endpoint: String,
        sandbox: String,
        spec: JoinSpec,
    },
    Leave {
        endpoint: String,
        sandbox: String,
    },
    Find {
        what: Find,
        is: Option<String>,
    },
    List {
        what: Listing,
        are: Vec<String>,
    },
    InspectNetwork(String, NetworkLook),
    InspectEndpoint(String, EndpointLook),
    InspectSandbox(String, SandboxLook),
    InspectEngine(EngineLook),
    Inside(String, InsideLook),
    OnHost(HostLook),
    Statistics {
        container: String,
        interfaces: Vec<String>,
    },
    EndpointStatistics(String),
    DriverInfo(String, InfoLook),
    Reaches {
        from: String,
        to: String,
        answered: bool,
    },
    Drain,
    /// The keys of the configuration that are to change.
    Reload(Table),
    /// The keys of the configuration in force that are looked at.
    Configuration(Table),
    /// Keeps this moment under a name.
    Mark(String),
    Reconcile {
        live: Vec<String>,
        since: Option<String>,
        look: ReconcileLook,
    },
    /// A part of each difference, in their order.
    Differs(Vec<String>),
    StrayBridge(String),
    StrayNamespace(String),
    Lifecycle(Lifecycle),
    LoseBridge(String),
    LoseNamespace(String),
    LoseLink(String),
    ForeignBridge {
        name: String,
        addresses: Vec<IpNet>,
    },
    ForeignInterface {
        name: String,
        sandbox: String,
    },
    ForeignNamespace(String),
    EndForeignNamespace(String),
    Together {
        branches: Vec<Vec<Step>>,
        outcomes: Option<Vec<(String, usize)>>,
    },
    Repeat(Vec<Step>),
}

/// How a namespace is named to a sandbox.
#[derive(Clone, Debug)]
pub(crate) enum Key {
    /// One that the scenario made outside.
    Foreign(String),
    Path(String),
}

/// A look-up.
#[derive(Clone, Debug)]
pub(crate) enum Find {
    NetworkByName(String),
    NetworkById(String),
    DefaultNetwork,
    EndpointByName {
        network: String,
        name: String,
    },
    EndpointById {
        network: String,
        id: String,
    },
    SandboxByContainer(String),
    SandboxById(String),
    /// The path, or a container whose key it is.
    SandboxByKey(String),
}

/// What can be listed. A walk stops after so many.
#[derive(Clone, Debug)]
pub(crate) enum Listing {
    Networks { walk: Option<usize> },
    Sandboxes { walk: Option<usize> },
    Endpoints { network: String, walk: Option<usize> },
    Drivers,
    IpamDrivers,
}

/// What is done with the engine as a whole. Never together with anything else.
#[derive(Clone, Debug)]
pub(crate) enum Lifecycle {
    /// Stops the engine; handles stay in use.
    Stop(ShutdownMode),
    /// With what lives, if anybody says.
    Start { live: Option<Vec<String>> },
    /// Ends the engine and starts the next one.
    Restart { how: How, live: Option<Vec<String>> },
    /// How many repairs of each kind the last start had to make. Those of the kinds `besides` are chance.
    Repairs { counts: Vec<(String, usize)>, besides: Vec<String> },
}

/// Every verb.
pub(crate) const VERBS: &[&str] = &[
    "create_network",
    "delete_network",
    "create_endpoint",
    "delete_endpoint",
    "reserve",
    "release_reservation",
    "create_sandbox",
    "delete_sandbox",
    "destroy_sandbox",
    "rename_sandbox",
    "refresh",
    "set_key",
    "join",
    "leave",
    "find_network",
    "find_network_id",
    "find_default_network",
    "find_endpoint",
    "find_endpoint_id",
    "find_sandbox",
    "find_sandbox_id",
    "find_sandbox_key",
    "networks",
    "sandboxes",
    "endpoints",
    "drivers",
    "ipam_drivers",
    "walk_networks",
    "walk_sandboxes",
    "walk_endpoints",
    "inspect_network",
    "inspect_endpoint",
    "inspect_sandbox",
    "inspect_engine",
    "inside",
    "on_host",
    "statistics",
    "endpoint_statistics",
    "driver_info",
    "reaches",
    "drain",
    "reload",
    "configuration",
    "mark",
    "reconcile",
    "differs",
    "stray_bridge",
    "stray_namespace",
    "stop",
    "start",
    "restart",
    "repairs",
    "lose_bridge",
    "lose_namespace",
    "lose_link",
    "foreign_bridge",
    "foreign_interface",
    "foreign_namespace",
    "end_foreign_namespace",
    "together",
    "repeat",
];

impl Step {
    /// Reads a step; every key must be understood.
    pub(crate) fn parse(table: Table) -> Result<Self, String> {
        let text = Value::Table(table.clone()).to_string();
        let parsed = Self::read(text.clone(), Args(table));
        parsed.map_err(|error| format!("{text}: {}", error.trim()))
    }

    fn read(text: String, mut args: Args) -> Result<Self, String> {
        let verb = args.0.keys().next().ok_or("a step has a verb")?.clone();
        if !VERBS.contains(&verb.as_str()) {
            return Err(format!("a step begins with its verb, and {verb:?} is none of {}", VERBS.join(", ")));
        }
        let subject = args.0.remove(&verb).ok_or("it was there")?;
        let expected = Expected {
            fails: args.take("fails")?,
            may_fail: args.take("may_fail")?.unwrap_or_default(),
            says: args.take("says")?.map(OneOrMany::into_vec).unwrap_or_default(),
            remedy: args.take("remedy")?,
            uncertain: args.take("uncertain")?.unwrap_or_default(),
        };
        let judged = expected.fails.is_some() || !expected.may_fail.is_empty();
        if !judged && expected != Expected::default() {
            return Err("what an error says is expected, but no error: give fails or may_fail".into());
        }
        let saves = args.take("saves")?;
        let act = Act::parse(&verb, subject, args)?;
        if judged
            && matches!(
                act,
                Act::Together { .. }
                    | Act::Repeat(_)
                    | Act::OnHost(_)
                    | Act::Inside(..)
                    | Act::Configuration(_)
            )
        {
            return Err("this has no error of its own: what is expected belongs to its parts".into());
        }
        Ok(Self { text, act, expected, saves })
    }
}

impl Act {
    fn parse(verb: &str, subject: Value, mut args: Args) -> Result<Self, String> {
        let text = || subject.as_str().map(str::to_owned).ok_or_else(|| format!("{verb} needs a text"));
        let walk = |subject: &Value| subject.clone().try_into().map(Some).map_err(|e| e.to_string());
        let sees = |args: &mut Args| args.need("sees");
        match verb {
            "create_network" => args.network_spec(text()?).map(Self::CreateNetwork),
            "delete_network" => {
                let force = args.take("force")?.unwrap_or_default();
                args.ends(Self::DeleteNetwork { name: text()?, force })
            }
            "create_endpoint" => {
                let path = text()?;
                let (network, name) = split(&path)?;
                Ok(Self::CreateEndpoint { network, spec: args.with("name", name)?, path })
            }
            "delete_endpoint" => {
                let force = args.take("force")?.unwrap_or_default();
                args.ends(Self::DeleteEndpoint { path: text()?, force })
            }
            "reserve" => {
                let (network, name) = split(&text()?)?;
                let kept = Reservation { ipv4: args.take("ipv4")?, ipv6: args.take("ipv6")? };
                args.ends(Self::Reserve { network, name, kept })
            }
            "release_reservation" => {
                let (network, name) = split(&text()?)?;
                args.ends(Self::ReleaseReservation { network, name })
            }
            "create_sandbox" => Ok(Self::CreateSandbox(args.with("container_id", text()?)?)),
            "delete_sandbox" => {
                let force = args.take("force")?.unwrap_or_default();
                args.ends(Self::DeleteSandbox { container: text()?, force })
            }
            "destroy_sandbox" => args.ends(Self::DestroySandbox(text()?)),
            "rename_sandbox" => {
                let name = args.need("name")?;
                args.ends(Self::RenameSandbox { container: text()?, name })
            }
            "refresh" => Ok(Self::Refresh(args.with("container_id", text()?)?)),
            "set_key" => {
                let (foreign, path) = (args.take("namespace")?, args.take("path")?);
                let key = match (foreign, path) {
                    (Some(name), None) => Key::Foreign(name),
                    (None, Some(path)) => Key::Path(path),
                    _ => return Err("either namespace or path is given".into()),
                };
                args.ends(Self::SetKey { container: text()?, key })
            }
            "join" => {
                let sandbox = args.need("sandbox")?;
                Ok(Self::Join { endpoint: text()?, sandbox, spec: args.rest()? })
            }
            "leave" => {
                let sandbox = args.need("sandbox")?;
                args.ends(Self::Leave { endpoint: text()?, sandbox })
            }
            "find_network" => args.find(Find::NetworkByName(text()?)),
            "find_network_id" => args.find(Find::NetworkById(text()?)),
            "find_default_network" => {
                if subject.as_bool() != Some(true) {
                    return Err("this verb has the value true".into());
                }
                args.find(Find::DefaultNetwork)
            }
            "find_endpoint" => {
                let (network, name) = split(&text()?)?;
                args.find(Find::EndpointByName { network, name })
            }
            "find_endpoint_id" => {
                let network = args.need("network")?;
                args.find(Find::EndpointById { network, id: text()? })
            }
            "find_sandbox" => args.find(Find::SandboxByContainer(text()?)),
            "find_sandbox_id" => args.find(Find::SandboxById(text()?)),
            "find_sandbox_key" => args.find(Find::SandboxByKey(text()?)),
            "networks" => args.list(Listing::Networks { walk: None }, subject),
            "sandboxes" => args.list(Listing::Sandboxes { walk: None }, subject),
            "drivers" => args.list(Listing::Drivers, subject),
            "ipam_drivers" => args.list(Listing::IpamDrivers, subject),
            "endpoints" => {
                let (network, are) = (text()?, args.need("are")?);
                args.ends(Self::List { what: Listing::Endpoints { network, walk: None }, are })
            }
            "walk_networks" => {
                let (walk, are) = (walk(&subject)?, sees(&mut args)?);
                args.ends(Self::List { what: Listing::Networks { walk }, are })
            }
            "walk_sandboxes" => {
                let (walk, are) = (walk(&subject)?, sees(&mut args)?);
                args.ends(Self::List { what: Listing::Sandboxes { walk }, are })
            }
            "walk_endpoints" => {
                let (walk, are) = (args.need("stop_after").map(Some)?, sees(&mut args)?);
                args.ends(Self::List { what: Listing::Endpoints { network: text()?, walk }, are })
            }
            "inspect_network" => Ok(Self::InspectNetwork(text()?, args.rest()?)),
            "inspect_endpoint" => Ok(Self::InspectEndpoint(text()?, args.rest()?)),
            "inspect_sandbox" => Ok(Self::InspectSandbox(text()?, args.rest()?)),
            "inspect_engine" => args.subject_of(subject).map(Self::InspectEngine),
            "inside" => Ok(Self::Inside(text()?, args.rest()?)),
            "on_host" => args.subject_of(subject).map(Self::OnHost),
            "statistics" => {
                let interfaces = args.need("interfaces")?;
                args.ends(Self::Statistics { container: text()?, interfaces })
            }
            "endpoint_statistics" => args.ends(Self::EndpointStatistics(text()?)),
            "driver_info" => Ok(Self::DriverInfo(text()?, args.rest()?)),
            "reaches" => {
                let from = args.need("from")?;
                let answered = args.take("answered")?.unwrap_or(true);
                args.ends(Self::Reaches { from, to: text()?, answered })
            }
            "drain" => args.ends_true(&subject, Self::Drain),
            "stop" => args.subject_of(subject).map(|Mode(mode)| Self::Lifecycle(Lifecycle::Stop(mode))),
            "start" => {
                let live = args.take("live")?;
                args.ends_true(&subject, Self::Lifecycle(Lifecycle::Start { live }))
            }
            "restart" => {
                let live = args.take("live")?;
                args.subject_of(subject).map(|how| Self::Lifecycle(Lifecycle::Restart { how, live }))
            }
            "reload" => args.configuration(subject).map(Self::Reload),
            "configuration" => args.configuration(subject).map(Self::Configuration),
            "mark" => args.ends(Self::Mark(text()?)),
            "reconcile" => {
                let since = args.take("since")?;
                let live = subject.try_into().map_err(|error: toml::de::Error| error.to_string())?;
                Ok(Self::Reconcile { live, since, look: args.rest()? })
            }
            "differs" => args.subject_of(subject).map(Self::Differs),
            "stray_bridge" => args.ends(Self::StrayBridge(text()?)),
            "stray_namespace" => args.ends(Self::StrayNamespace(text()?)),
            "repairs" => {
                let besides = args.take("besides")?.unwrap_or_default();
                let counts: BTreeMap<_, _> = args.subject_of(subject)?;
                let counts = counts.into_iter().collect();
                Ok(Self::Lifecycle(Lifecycle::Repairs { counts, besides }))
            }
            "lose_bridge" => args.ends(Self::LoseBridge(text()?)),
            "lose_namespace" => args.ends(Self::LoseNamespace(text()?)),
            "lose_link" => args.ends(Self::LoseLink(text()?)),
            "foreign_bridge" => {
                let addresses = args.take("addresses")?.unwrap_or_default();
                args.ends(Self::ForeignBridge { name: text()?, addresses })
            }
            "foreign_interface" => {
                let sandbox = args.need("sandbox")?;
                args.ends(Self::ForeignInterface { name: text()?, sandbox })
            }
            "foreign_namespace" => args.ends(Self::ForeignNamespace(text()?)),
            "end_foreign_namespace" => args.ends(Self::EndForeignNamespace(text()?)),
            "together" => {
                let outcomes: Option<BTreeMap<String, usize>> = args.take("outcomes")?;
                let branches = args.copies(subject)?;
                let outcomes = outcomes.map(|outcomes| outcomes.into_iter().collect());
                Ok(Self::Together { branches, outcomes })
            }
            "repeat" => Ok(Self::Repeat(args.copies(subject)?.into_iter().flatten().collect())),
            other => Err(format!("{other} is in VERBS and not here")),
        }
    }

    /// Whether several callers may do this at once.
    pub(super) fn can_be_shared(&self) -> bool {
        match self {
            Self::Lifecycle(_)
            | Self::ForeignBridge { .. }
            | Self::ForeignInterface { .. }
            | Self::ForeignNamespace(_)
            | Self::EndForeignNamespace(_) => false,
            Self::Repeat(steps) => steps.iter().all(|step| step.act.can_be_shared()),
            Self::Together { branches, .. } => branches.iter().flatten().all(|step| step.act.can_be_shared()),
            _ => true,
        }
    }
}
