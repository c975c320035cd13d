//! The steps of a scenario: every verb with its arguments. A new verb is a variant of [`Act`], a line in
//! [`Act::parse`] and in [`VERBS`], and what it does in `run` or `looks`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netloom::{EndpointSpec, ErrorKind, IpamPoolSpec, JoinSpec, NetworkSpec, SandboxSpec, ShutdownMode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::How;
use super::looks::{EndpointLook, EngineLook, HostLook, InfoLook, InsideLook, NetworkLook, SandboxLook};

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
    DeleteNetwork(String),
    CreateEndpoint { path: String, network: String, spec: EndpointSpec },
    DeleteEndpoint { path: String, force: bool },
    CreateSandbox(SandboxSpec),
    DeleteSandbox { container: String, force: bool },
    DestroySandbox(String),
    Join { endpoint: String, sandbox: String, spec: JoinSpec },
    Leave { endpoint: String, sandbox: String },
    Find { what: Find, is: Option<String> },
    List { what: Listing, are: Vec<String> },
    InspectNetwork(String, NetworkLook),
    InspectEndpoint(String, EndpointLook),
    InspectSandbox(String, SandboxLook),
    InspectEngine(EngineLook),
    Inside(String, InsideLook),
    OnHost(HostLook),
    Statistics { container: String, interfaces: Vec<String> },
    EndpointStatistics(String),
    DriverInfo(String, InfoLook),
    Reaches { from: String, to: String, answered: bool },
    Drain,
    Lifecycle(Lifecycle),
    LoseBridge(String),
    LoseNamespace(String),
    LoseLink(String),
    ForeignBridge { name: String, addresses: Vec<IpNet> },
    ForeignInterface { name: String, sandbox: String },
    Together { branches: Vec<Vec<Step>>, outcomes: Option<Vec<(String, usize)>> },
    Repeat(Vec<Step>),
}

/// A look-up.
#[derive(Clone, Debug)]
pub(crate) enum Find {
    NetworkByName(String),
    NetworkById(String),
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
}

/// What is done with the engine as a whole. Never together with anything else.
#[derive(Clone, Debug)]
pub(crate) enum Lifecycle {
    /// Stops the engine; handles stay in use.
    Stop(ShutdownMode),
    Start,
    /// Ends the engine and starts the next one.
    Restart(How),
    /// How many repairs of each kind the last start had to make. Those of the kinds `besides` are chance.
    Repairs {
        counts: Vec<(String, usize)>,
        besides: Vec<String>,
    },
}

/// Every verb.
pub(crate) const VERBS: &[&str] = &[
    "create_network",
    "delete_network",
    "create_endpoint",
    "delete_endpoint",
    "create_sandbox",
    "delete_sandbox",
    "destroy_sandbox",
    "join",
    "leave",
    "find_network",
    "find_network_id",
    "find_endpoint",
    "find_endpoint_id",
    "find_sandbox",
    "find_sandbox_id",
    "find_sandbox_key",
    "networks",
    "sandboxes",
    "endpoints",
    "drivers",
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
    "stop",
    "start",
    "restart",
    "repairs",
    "lose_bridge",
    "lose_namespace",
    "lose_link",
    "foreign_bridge",
    "foreign_interface",
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
        if judged && matches!(act, Act::Together { .. } | Act::Repeat(_) | Act::OnHost(_) | Act::Inside(..)) {
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
            "delete_network" => args.ends(Self::DeleteNetwork(text()?)),
            "create_endpoint" => {
                let path = text()?;
                let (network, name) = split(&path)?;
                Ok(Self::CreateEndpoint { network, spec: args.with("name", name)?, path })
            }
            "delete_endpoint" => {
                let force = args.take("force")?.unwrap_or_default();
                args.ends(Self::DeleteEndpoint { path: text()?, force })
            }
            "create_sandbox" => Ok(Self::CreateSandbox(args.with("container_id", text()?)?)),
            "delete_sandbox" => {
                let force = args.take("force")?.unwrap_or_default();
                args.ends(Self::DeleteSandbox { container: text()?, force })
            }
            "destroy_sandbox" => args.ends(Self::DestroySandbox(text()?)),
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
            "start" => args.ends_true(&subject, Self::Lifecycle(Lifecycle::Start)),
            "restart" => args.subject_of(subject).map(|how| Self::Lifecycle(Lifecycle::Restart(how))),
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
    fn can_be_shared(&self) -> bool {
        match self {
            Self::Lifecycle(_) | Self::ForeignBridge { .. } | Self::ForeignInterface { .. } => false,
            Self::Repeat(steps) => steps.iter().all(|step| step.act.can_be_shared()),
            Self::Together { branches, .. } => branches.iter().flatten().all(|step| step.act.can_be_shared()),
            _ => true,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// A mode of shutting down, as it is written.
struct Mode(ShutdownMode);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "graceful" => Ok(Self(ShutdownMode::Graceful)),
            "immediate" => Ok(Self(ShutdownMode::Immediate)),
            other => Err(serde::de::Error::custom(format!("{other:?} is neither graceful nor immediate"))),
        }
    }
}

/// `network/name`.
fn split(path: &str) -> Result<(String, String), String> {
    let parts = path.split_once('/').ok_or_else(|| format!("{path:?} is not network/endpoint"))?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

/// The arguments of a step that were not looked at yet.
struct Args(Table);

impl Args {
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, String> {
        let value = self.0.remove(key).map(Value::try_into).transpose();
        value.map_err(|error| format!("{key}: {error}"))
    }

    fn need<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, String> {
        self.take(key)?.ok_or_else(|| format!("{key} is missing"))
    }

    /// All that is left.
    fn rest<T: DeserializeOwned>(self) -> Result<T, String> {
        Value::Table(self.0).try_into().map_err(|error| error.to_string())
    }

    /// All that is left, and one more.
    fn with<T: DeserializeOwned>(mut self, key: &str, value: String) -> Result<T, String> {
        if self.0.insert(key.to_owned(), value.into()).is_some() {
            return Err(format!("{key} is given twice"));
        }
        self.rest()
    }

    /// Nothing may be left.
    fn ends(self, act: Act) -> Result<Act, String> {
        match self.0.keys().next() {
            None => Ok(act),
            Some(key) => Err(format!("unknown key {key:?}")),
        }
    }

    fn ends_true(self, subject: &Value, act: Act) -> Result<Act, String> {
        if subject.as_bool() != Some(true) {
            return Err("this verb has the value true".into());
        }
        self.ends(act)
    }

    /// Nothing may be left, and the verb's value is all there is.
    fn subject_of<T: DeserializeOwned>(self, subject: Value) -> Result<T, String> {
        self.ends(Act::Drain)?;
        subject.try_into().map_err(|error| error.to_string())
    }

    fn find(mut self, what: Find) -> Result<Act, String> {
        let is = self.take("is")?;
        self.ends(Act::Find { what, is })
    }

    fn list(self, what: Listing, subject: Value) -> Result<Act, String> {
        let are = self.subject_of(subject)?;
        Ok(Act::List { what, are })
    }

    /// The fields of a spec; `subnet` and `subnets` are short for pools that are nothing but a subnet.
    fn network_spec(mut self, name: String) -> Result<NetworkSpec, String> {
        let subnets: Option<OneOrMany<IpNet>> = match self.take("subnet")? {
            Some(one) => Some(OneOrMany::One(one)),
            None => self.take("subnets")?,
        };
        let pools: Vec<IpamPoolSpec> = self.take("pools")?.unwrap_or_default();
        let mut spec: NetworkSpec = self.with("name", name)?;
        for subnet in subnets.map(OneOrMany::into_vec).unwrap_or_default() {
            spec = spec.subnet(subnet);
        }
        Ok(pools.into_iter().fold(spec, NetworkSpec::pool))
    }

    /// Branches of steps, `times` over.
    fn copies(mut self, subject: Value) -> Result<Vec<Vec<Step>>, String> {
        let times: Option<usize> = self.take("times")?;
        let branches: Vec<OneOrMany<Table>> = self.subject_of(subject)?;
        let branches: Vec<Vec<Table>> = branches.into_iter().map(OneOrMany::into_vec).collect();
        let mut copies = Vec::new();
        for number in 0..times.unwrap_or(1) {
            for branch in &branches {
                let steps = branch.iter().map(|table| {
                    let mut value = Value::Table(table.clone());
                    if times.is_some() {
                        number_in(&mut value, number);
                    }
                    let step = Step::parse(value.try_into().map_err(|error| error.to_string())?)?;
                    if !step.act.can_be_shared() {
                        return Err(format!("{}: this is done alone", step.text));
                    }
                    Ok(step)
                });
                copies.push(steps.collect::<Result<Vec<_>, String>>()?);
            }
        }
        Ok(copies)
    }
}

/// Puts a number for each `#`.
fn number_in(value: &mut Value, number: usize) {
    match value {
        Value::String(text) => *text = text.replace('#', &number.to_string()),
        Value::Array(values) => values.iter_mut().for_each(|value| number_in(value, number)),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| number_in(value, number)),
        _ => {}
    }
}
