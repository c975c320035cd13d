//! Reading the arguments of a step.

use ipnet::IpNet;
use netloom::{EngineConfig, IpamPoolSpec, NetworkSpec, ShutdownMode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::step::{Act, Find, Listing, Step};

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// A mode of shutting down, as it is written.
pub(super) struct Mode(pub(super) ShutdownMode);

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
pub(super) fn split(path: &str) -> Result<(String, String), String> {
    let parts = path.split_once('/').ok_or_else(|| format!("{path:?} is not network/endpoint"))?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

/// The arguments of a step that were not looked at yet.
pub(super) struct Args(pub(super) Table);

impl Args {
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, String> {
        let value = self.0.remove(key).map(Value::try_into).transpose();
        value.map_err(|error| format!("{key}: {error}"))
    }

    pub(super) fn need<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, String> {
        self.take(key)?.ok_or_else(|| format!("{key} is missing"))
    }

    /// All that is left.
    pub(super) fn rest<T: DeserializeOwned>(self) -> Result<T, String> {
        Value::Table(self.0).try_into().map_err(|error| error.to_string())
    }

    /// All that is left, and one more.
    pub(super) fn with<T: DeserializeOwned>(mut self, key: &str, value: String) -> Result<T, String> {
        if self.0.insert(key.to_owned(), value.into()).is_some() {
            return Err(format!("{key} is given twice"));
        }
        self.rest()
    }

    /// Nothing may be left.
    pub(super) fn ends(self, act: Act) -> Result<Act, String> {
        match self.0.keys().next() {
            None => Ok(act),
            Some(key) => Err(format!("unknown key {key:?}")),
        }
    }

    pub(super) fn ends_true(self, subject: &Value, act: Act) -> Result<Act, String> {
        if subject.as_bool() != Some(true) {
            return Err("this verb has the value true".into());
        }
        self.ends(act)
    }

    /// Nothing may be left, and the verb's value is all there is.
    pub(super) fn subject_of<T: DeserializeOwned>(self, subject: Value) -> Result<T, String> {
        self.ends(Act::Drain)?;
        subject.try_into().map_err(|error| error.to_string())
    }

    pub(super) fn find(mut self, what: Find) -> Result<Act, String> {
        let is = self.take("is")?;
        self.ends(Act::Find { what, is })
    }

    pub(super) fn list(self, what: Listing, subject: Value) -> Result<Act, String> {
        let are = self.subject_of(subject)?;
        Ok(Act::List { what, are })
    }

    /// The fields of a spec; `subnet` and `subnets` are short for pools that are nothing but a subnet.
    pub(super) fn network_spec(mut self, name: String) -> Result<NetworkSpec, String> {
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

    /// Keys of the configuration with their values. Those that are not named stay as they are.
    pub(super) fn configuration(self, subject: Value) -> Result<Table, String> {
        let table: Table = self.subject_of(subject)?;
        EngineConfig::deserialize(table.clone()).map_err(|error| error.to_string())?;
        Ok(table)
    }

    /// Branches of steps, `times` over.
    pub(super) fn copies(mut self, subject: Value) -> Result<Vec<Vec<Step>>, String> {
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
