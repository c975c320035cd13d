//! What there is, in words that can be compared: what an engine leaves behind shows as a difference.

use std::collections::BTreeMap;

use super::world::{Alias, Kind, Link, LinkId, Namespace, World};

/// Settings of the host that an engine turns on and leaves on: others may have come to depend on them.
const LASTING: &[&str] = &["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"];

/// Everything in a simulated kernel at one moment, in order, comparable.
///
/// Indexes are left out, and so are `ipv4/ip_forward` and its IPv6 equivalents of the host, which an engine
/// turns on and leaves on. For the same reason the loopback of an external namespace is left out
/// ([`super::SimKernel::external_netns`]); everything else that an engine left there shows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SimSnapshot {
    /// Each object by its full name, with its properties.
    objects: BTreeMap<String, String>,
}

impl SimSnapshot {
    /// Every object, as its full name and its properties, in the order of the names.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &str)> {
        self.objects.iter().map(|(name, properties)| (name.as_str(), properties.as_str()))
    }

    /// How this differs from an earlier one: a line for each object that was added, is missing or changed.
    #[must_use]
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, now) in &self.objects {
            match before.objects.get(name) {
                None => lines.push(format!("left over: {name}{}", in_brackets(now))),
                Some(was) if was != now => lines.push(format!("changed: {name}: was {was}, is {now}")),
                Some(_) => {}
            }
        }
        let missing = before.objects.iter().filter(|(name, _)| !self.objects.contains_key(*name));
        lines.extend(missing.map(|(name, was)| format!("missing: {name}{}", in_brackets(was))));
        lines
    }
}

fn in_brackets(properties: &str) -> String {
    if properties.is_empty() { String::new() } else { format!(" ({properties})") }
}

impl World {
    pub(super) fn snapshot(&self) -> SimSnapshot {
        let mut objects = BTreeMap::new();
        for (_, namespace) in self.namespaces.iter() {
            self.describe_namespace(namespace, &mut objects);
        }
        for (_, link) in self.links.iter() {
            self.describe_link(link, &mut objects);
        }
        SimSnapshot { objects }
    }

    fn describe_namespace(&self, namespace: &Namespace, objects: &mut BTreeMap<String, String>) {
        let netns = namespace.title();
        for name in &namespace.names {
            let whose = match (&namespace.held, namespace.foreign) {
                (Some(path), _) => format!("the one at {}", path.display()),
                (None, true) => "foreign".to_owned(),
                (None, false) => String::new(),
            };
            objects.insert(format!("namespace {name}"), whose);
        }
        if namespace.held.is_some() {
            objects.insert(netns.clone(), String::new());
        }
        for route in &namespace.routes {
            let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
            let link = self.links[route.link].name;
            let name =
                format!("route {}{via} dev {link} metric {} of {netns}", route.destination, route.metric);
            let whose = if route.connected { "from an address" } else { "added" };
            objects.insert(name, whose.to_owned());
        }
        for table in namespace.tables.names() {
            objects.insert(format!("table {table} of {netns}"), String::new());
        }
        for (key, value) in &namespace.settings {
            if !namespace.is_host() || !LASTING.contains(&key.as_str()) {
                objects.insert(format!("setting net/{key} of {netns}"), format!("{value:?}"));
            }
        }
    }

    fn describe_link(&self, link: &Link, objects: &mut BTreeMap<String, String>) {
        let namespace = &self.namespaces[link.ns];
        if link.is_loopback() && namespace.held.is_some() {
            return;
        }
        let (netns, name) = (namespace.title(), link.name);
        objects.insert(format!("link {name} of {netns}"), self.link_properties(link));
        for address in &link.addresses {
            objects.insert(format!("address {address} on link {name} of {netns}"), String::new());
        }
        for neighbour in link.neighbours.values() {
            objects.insert(format!("neighbour {neighbour} on link {name} of {netns}"), String::new());
        }
        // One that says 0 again is as it was, but for `disable_ipv6`, whose default may be another.
        let is_told = |name: &str, value: &str| name == "disable_ipv6" || value != "0";
        for (setting, value) in link.settings.iter().filter(|(set, value)| is_told(set.name, value)) {
            let key = format!("{}/{name}/{}", setting.dir, setting.name);
            objects.insert(format!("setting net/{key} of {netns}"), format!("{value:?}"));
        }
    }

    fn link_properties(&self, link: &Link) -> String {
        use std::fmt::Write as _;
        let mut text = match &link.kind {
            Kind::Loopback => "loopback".to_owned(),
            Kind::Device => "device".to_owned(),
            Kind::Bridge(bridge) => format!("bridge with {} ports", bridge.ports.len()),
            Kind::Veth { peer } => format!("veth with {}", self.full_name(*peer)),
            Kind::Other(kind) => kind.to_string(),
        };
        let state = match (link.up, link.cut) {
            (true, _) => "up",
            (false, true) => "cut off",
            (false, false) => "down",
        };
        // Writing to a string cannot fail.
        let _ = write!(text, ", {state}, mac {}, mtu {}", link.mac, link.mtu);
        if let Some(port) = link.port {
            let _ = write!(text, ", port of {}", self.links[port.bridge].name);
        }
        match &link.alias {
            Some(Alias::Tag(tag)) => drop(write!(text, ", alias {tag}")),
            Some(Alias::Text(alias)) => drop(write!(text, ", alias {alias}")),
            None => {}
        }
        if link.group != 0 {
            let _ = write!(text, ", group {}", link.group);
        }
        text
    }

    /// A link's name and its namespace, in words.
    pub(super) fn full_name(&self, id: LinkId) -> String {
        let link = &self.links[id];
        format!("{} of {}", link.name, self.namespaces[link.ns].title())
    }
}
