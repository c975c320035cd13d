//! The names of a scenario, and what they stand for.

use std::collections::BTreeMap;

use netloom::{Endpoint, Engine, NetnsName, Network, Result, Sandbox};

/// The handles that a scenario has got, and the identifiers it has seen.
#[derive(Debug, Default)]
pub(crate) struct Names {
    networks: BTreeMap<String, Network>,
    endpoints: BTreeMap<String, Endpoint>,
    sandboxes: BTreeMap<String, Sandbox>,
    /// By the name of the object, or the one it was saved under.
    ids: BTreeMap<String, String>,
    /// Of every sandbox there was.
    namespaces: Vec<NetnsName>,
}

impl Names {
    pub(crate) fn add_network(&mut self, network: Network) {
        self.ids.insert(network.name().to_owned(), network.id().to_string());
        self.networks.insert(network.name().to_owned(), network);
    }

    pub(crate) fn add_endpoint(&mut self, path: &str, endpoint: Endpoint) {
        self.ids.insert(path.to_owned(), endpoint.id().to_string());
        self.endpoints.insert(path.to_owned(), endpoint);
    }

    pub(crate) fn add_sandbox(&mut self, sandbox: Sandbox) {
        self.ids.insert(sandbox.container_id().to_owned(), sandbox.id().to_string());
        self.namespaces.extend(sandbox.netns());
        self.sandboxes.insert(sandbox.container_id().to_owned(), sandbox);
    }

    pub(crate) fn namespaces(&self) -> Vec<NetnsName> {
        self.namespaces.clone()
    }

    pub(crate) fn save(&mut self, name: &str, id: String) {
        self.ids.insert(name.to_owned(), id);
    }

    /// Keeps the identifier of an object that no step made, unless it is known.
    pub(crate) fn learn(&mut self, name: &str, id: &str) {
        if !self.ids.values().any(|known| known == id) {
            self.ids.insert(name.to_owned(), id.to_owned());
        }
    }

    /// Forgets the handles: their engine has ended.
    pub(crate) fn forget_handles(&mut self) {
        self.networks.clear();
        self.endpoints.clear();
        self.sandboxes.clear();
    }

    /// The handle of a network, or what a look-up says.
    pub(crate) fn network(&self, engine: &Engine, name: &str) -> Result<Network> {
        match self.networks.get(name) {
            Some(network) => Ok(network.clone()),
            None => engine.controller().network_by_name(name),
        }
    }

    /// The handle of an endpoint, when there is one.
    pub(crate) fn endpoint(&self, path: &str) -> Option<Endpoint> {
        self.endpoints.get(path).cloned()
    }

    /// The handle of a sandbox, or what a look-up says.
    pub(crate) fn sandbox(&self, engine: &Engine, container: &str) -> Result<Sandbox> {
        match self.sandboxes.get(container) {
            Some(sandbox) => Ok(sandbox.clone()),
            None => engine.controller().sandbox_by_container(container),
        }
    }

    /// What a text stands for: the identifier of `$name`, or itself.
    pub(crate) fn resolve(&self, text: &str) -> std::result::Result<String, String> {
        let Some(name) = text.strip_prefix('$') else { return Ok(text.to_owned()) };
        self.ids.get(name).cloned().ok_or_else(|| format!("{text} was never saved"))
    }

    /// The same for a text that is looked for in a message: those show the first twelve characters.
    pub(crate) fn resolve_short(&self, text: &str) -> std::result::Result<String, String> {
        let full = self.resolve(text)?;
        Ok(if text.starts_with('$') { full.chars().take(12).collect() } else { full })
    }

    /// A text with names in the place of identifiers, so that two runs can be compared.
    pub(crate) fn without_ids(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, id) in &self.ids {
            text = text.replace(id, &format!("<{name}>"));
            // Given identifiers may be short, and then part of anything.
            if id.len() == 64 {
                text = text.replace(&id[..12], &format!("<{name}>"));
            }
        }
        text
    }
}
