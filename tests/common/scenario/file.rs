//! The files of scenarios, read strictly: what is not understood is an error with its place.

use std::path::Path;

use netloom::EngineConfig;
use netloom::drivers::Registration;
use serde::Deserialize;

use super::step::Step;

/// A scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Its file, from the root of the repository.
    pub(crate) file: String,
    pub(crate) name: String,
    /// The rows of the inventory of libnetwork's behaviour, the complaints and the documents that it is about.
    pub(crate) covers: Vec<String>,
    pub(crate) config: EngineConfig,
    /// Drivers beside the built-in ones.
    pub(crate) drivers: Vec<Registration>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    covers: Vec<String>,
    #[serde(default)]
    config: EngineConfig,
    /// The types of drivers of an embedder's that are registered too.
    #[serde(default)]
    drivers: Vec<String>,
    steps: Vec<toml::Table>,
}

/// Reads every file of `tests/scenarios`, in the order of their names.
pub(crate) fn load() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(&folder).expect("tests/scenarios is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let mut all: Vec<Scenario> = Vec::new();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8");
        assert!(name.ends_with(".toml"), "{name} in tests/scenarios is no file of scenarios");
        let text = std::fs::read_to_string(&path).expect("readable");
        let scenarios = parse(&format!("tests/scenarios/{name}"), &text);
        for scenario in scenarios.unwrap_or_else(|error| panic!("{error}")) {
            let twin = all.iter().find(|other| other.name == scenario.name);
            assert!(twin.is_none(), "two scenarios are called {:?}", scenario.name);
            all.push(scenario);
        }
    }
    all
}

/// Reads a file of scenarios.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Scenario>, String> {
    let raw: File = toml::from_str(text).map_err(|error| format!("{file}: {error}"))?;
    let scenarios = raw.scenario.into_iter().map(|raw| {
        let Raw { name, covers, mut config, drivers, steps } = raw;
        let place = |error: String| format!("{file} {name:?}, {error}");
        if covers.is_empty() {
            return Err(place("it covers nothing: say what it is for".into()));
        }
        config.validate().map_err(|error| place(format!("config: {error}")))?;
        // What the host's resolver says must not decide about anything.
        config.name_server_files.clear();
        let drivers = drivers.iter().map(|kind| match kind.as_str() {
            crate::outside::KIND => Ok(crate::outside::registration()),
            crate::routed::KIND => Ok(crate::routed::registration()),
            other => Err(place(format!("there is no driver {other:?} for tests"))),
        });
        let drivers = drivers.collect::<Result<_, _>>()?;
        let steps = steps.into_iter().enumerate().map(|(number, table)| {
            Step::parse(table).map_err(|error| place(format!("step {}: {error}", number + 1)))
        });
        let steps = steps.collect::<Result<Vec<_>, _>>()?;
        Ok(Scenario { file: file.to_owned(), name, covers, config, drivers, steps })
    });
    scenarios.collect()
}
