//! What a start has to do: a pure function of the records, the open intents, and what the kernel has.
//!
//! The records are the truth. A kernel object of ours that no record knows is removed; a record whose kernel
//! object is gone is released; an intent that was never ended is undone or finished. Each is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use netloom_actor_sandbox::Member;
use netloom_drivers::{Driver, KernelSurvey};
use netloom_kernel::{LinkTag, LinkView};
use netloom_model::record::{
    EndpointRecord, NetworkRecord, OrderRecord, PoolRecord, Reservation, ReservationRecord, SandboxRecord,
    WAY_OUT_LABEL, WayOut,
};
use netloom_model::{
    EndpointId, HostPorts, IfName, LiveList, NetnsName, NetworkId, OpId, Repair, SandboxId, Verdict,
};
use netloom_store::{Change, Intent, Key, RecordKind, StoreError, decode, encode};
use rustc_hash::FxBuildHasher;

/// The records of a store.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Networks.
    pub networks: BTreeMap<NetworkId, NetworkRecord>,
    /// Endpoints.
    pub endpoints: BTreeMap<EndpointId, EndpointRecord>,
    /// Sandboxes.
    pub sandboxes: BTreeMap<SandboxId, SandboxRecord>,
    /// Where the choice of addresses goes on, by network.
    pub orders: BTreeMap<NetworkId, Vec<IpAddr>>,
    /// What is kept for names in each network.
    pub kept: BTreeMap<NetworkId, BTreeMap<String, Reservation>>,
    /// Networks whose own records have what is kept: those of an earlier engine.
    pub inline: Vec<NetworkId>,
    /// Records that cannot be read, with the reason.
    pub unreadable: Vec<(Key, String)>,
    /// How many of those seem to be of a later format.
    pub newer: usize,
}

impl Records {
    /// The ports of the host that lead to endpoints.
    pub(crate) fn published(&self) -> Vec<HostPorts> {
        let all = self.endpoints.values().flat_map(|endpoint| &endpoint.published.0);
        all.map(|ports| ports.host.clone()).collect()
    }

    /// Decodes what a store holds. A record that cannot be read is left where it is.
    #[must_use]
    pub fn decode(raw: Vec<(Key, Vec<u8>)>) -> Self {
        let mut records = Self::default();
        for (key, bytes) in raw {
            let outcome = match key.kind {
                RecordKind::Network => decode::<NetworkRecord>(&bytes).map(|mut record| {
                    let reservations = std::mem::take(&mut record.reservations);
                    if !reservations.is_empty() {
                        records.inline.push(record.id);
                        records.kept.entry(record.id).or_default().extend(reservations);
                    }
                    records.networks.insert(record.id, record);
                }),
                RecordKind::Endpoint => decode::<EndpointRecord>(&bytes).map(|record| {
                    records.endpoints.insert(record.id, record);
                }),
                RecordKind::Sandbox => decode::<SandboxRecord>(&bytes).map(|record| {
                    records.sandboxes.insert(record.id, record);
                }),
                RecordKind::Order => decode::<OrderRecord>(&bytes).map(|record| {
                    records.orders.insert(record.network, record.next);
                }),
                RecordKind::Reservation => decode::<ReservationRecord>(&bytes).map(|record| {
                    records.kept.entry(record.network).or_default().insert(record.name, record.kept);
                }),
                RecordKind::Driver | RecordKind::Engine => Ok(()),
            };
            if let Err(error) = outcome {
                records.newer += usize::from(matches!(error, StoreError::Newer { .. }));
                records.unreadable.push((key, error.to_string()));
            }
        }
        records
    }

    /// Whether some cannot be read because they are damaged, and none because a newer engine wrote them: those
    /// are whole, only not for us. Of the order of addresses, and of those that are kept, the kernel knows nothing.
    #[must_use]
    pub fn damaged(&self) -> bool {
        let known = |key: &Key| !matches!(key.kind, RecordKind::Order | RecordKind::Reservation);
        self.unreadable.iter().any(|(key, _)| known(key)) && self.newer == 0
    }

    /// A network's record with what is recorded apart.
    fn whole(&self, network: &NetworkRecord) -> NetworkRecord {
        let order = self.orders.get(&network.id).cloned().unwrap_or_default();
        let reservations = self.kept.get(&network.id).cloned().unwrap_or_default();
        NetworkRecord { order, reservations, ..network.clone() }
    }

    /// Every network with its endpoints.
    #[must_use]
    pub fn networks_with_endpoints(&self) -> Vec<(NetworkRecord, Vec<EndpointRecord>)> {
        let mut endpoints: HashMap<NetworkId, Vec<EndpointRecord>, FxBuildHasher> = HashMap::default();
        for endpoint in self.endpoints.values() {
            endpoints.entry(endpoint.network).or_default().push(endpoint.clone());
        }
        let networks = self.networks.values();
        networks.map(|n| (self.whole(n), endpoints.remove(&n.id).unwrap_or_default())).collect()
    }

    /// Every sandbox with what is plugged into it.
    #[must_use]
    pub fn sandboxes_with_members(&self) -> Vec<(SandboxRecord, Vec<Member>)> {
        let mut members: HashMap<SandboxId, Vec<Member>, FxBuildHasher> = HashMap::default();
        for endpoint in self.endpoints.values() {
            let Some(attachment) = &endpoint.attachment else { continue };
            members.entry(attachment.sandbox).or_default().extend(self.member(endpoint));
        }
        let sandboxes = self.sandboxes.values();
        sandboxes.map(|s| (s.clone(), members.remove(&s.id).unwrap_or_default())).collect()
    }

    fn member(&self, endpoint: &EndpointRecord) -> Option<Member> {
        Member::recorded(endpoint, &self.networks.get(&endpoint.network)?.spec.name)
    }

    /// A network with its endpoints.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> Option<(NetworkRecord, Vec<EndpointRecord>)> {
        let endpoints = self.endpoints.values().filter(|endpoint| endpoint.network == id).cloned().collect();
        Some((self.whole(self.networks.get(&id)?), endpoints))
    }

    /// A sandbox with what is plugged into it.
    #[must_use]
    pub fn sandbox(&self, id: SandboxId) -> Option<(SandboxRecord, Vec<Member>)> {
        let inside =
            |endpoint: &&EndpointRecord| endpoint.attachment.as_ref().is_some_and(|a| a.sandbox == id);
        let members = self.endpoints.values().filter(inside).filter_map(|endpoint| self.member(endpoint));
        Some((self.sandboxes.get(&id)?.clone(), members.collect()))
    }
}

/// What the kernel has.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Links of the host's namespace.
    pub links: Vec<LinkView>,
    /// Namespaces of ours.
    pub namespaces: Vec<NetnsName>,
    /// What is in all of them, where records were lost that are to be rebuilt.
    pub survey: Option<KernelSurvey>,
    /// Those that could not be looked into for that.
    pub unseen: Vec<NetnsName>,
    /// What lives, if the embedder says so. Otherwise everything that stands does.
    pub live: Option<LiveList>,
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The records as they are after the repairs.
    pub records: Records,
    /// The changes that make the store say so.
    pub changes: Vec<Change>,
    /// Links of ours to remove.
    pub links: Vec<(IfName, LinkTag)>,
    /// Namespaces of ours to remove.
    pub namespaces: Vec<NetnsName>,
    /// Networks to take down in their drivers, never committed or half deleted, with the operation that left
    /// them; its intent stays open until that is done.
    pub take_down: Vec<(OpId, NetworkRecord)>,
    /// Sandboxes that do not live, to be released, unless there is a reason to keep them.
    pub dead: BTreeMap<SandboxId, Option<String>>,
    /// Operations whose intents are dealt with.
    pub ended: Vec<OpId>,
    /// What to report.
    pub repairs: Vec<Repair>,
}

/// Why a sandbox is kept although it is not among those that live.
pub(crate) const UNCLEAR: &str = "its record was lost and rebuilt, so nobody knows which container it belongs to; name it by its identifier, or \
     delete it";

/// Plans a start. `drivers` rebuild what was lost, where the inventory has a survey.
#[must_use]
pub fn plan(
    records: Records,
    intents: &[Intent],
    inventory: &Inventory,
    identity: &str,
    drivers: &[Box<dyn Driver>],
) -> Plan {
    let mut plan = Plan { records, ..Plan::default() };
    let newer = plan.records.newer > 0;
    for (key, why) in std::mem::take(&mut plan.records.unreadable) {
        let record = format!("{:?} {}", key.kind, key.id);
        if newer {
            plan.repairs.push(Repair::RecordIgnored { record, why });
        } else {
            // It is of no use to any engine, and rebuilt under the same key if the kernel has its object.
            plan.repairs.push(Repair::RecordDropped { record, why });
            plan.changes.push(Change::Delete { key });
        }
    }
    plan.settle_intents(intents);
    plan.record_apart();
    let mut known = plan.known_sandboxes();
    plan.release_lost_sandboxes(inventory);
    if newer {
        // What no readable record knows may well belong to a container that runs.
        let why = "a newer engine wrote some records, so nothing is taken for a remain".to_owned();
        plan.judge_sandboxes(inventory, &known, Some(&why));
        plan.repairs.push(Repair::SweepSkipped { why });
        return plan;
    }
    if let Some(survey) = &inventory.survey {
        plan.rebuild(survey, identity, drivers);
        known.extend(plan.known_sandboxes());
    }
    plan.judge_sandboxes(inventory, &known, None);
    if let Some(netns) = inventory.unseen.first() {
        // Whoever is in it may be one whose records were lost, and would be taken for a remain.
        let why = format!("namespace {netns} cannot be looked into, so nothing is taken for a remain");
        plan.repairs.push(Repair::SweepSkipped { why });
        return plan;
    }
    plan.check_endpoints(inventory);
    plan.check_addresses();
    plan.forget_apart();
    plan.release_ways_out();
    plan.sweep(inventory, identity);
    plan
}

impl Plan {
    fn settle_intents(&mut self, intents: &[Intent]) {
        // Of what an operation noted several times, the last says most.
        let last: BTreeMap<_, _> = intents.iter().enumerate().map(|(n, intent)| (intent.op, n)).collect();
        for (_, intent) in intents.iter().enumerate().filter(|(n, intent)| last[&intent.op] == *n) {
            let Ok(record) = serde_json::from_value::<NetworkRecord>(intent.detail.clone()) else {
                self.ended.push(intent.op);
                let record = format!("intent {} of {}", intent.op, intent.verb);
                self.repairs.push(Repair::RecordDropped { record, why: "unreadable".into() });
                continue;
            };
            let object = format!("network {:?} ({})", record.spec.name, record.id.short());
            match intent.verb.as_str() {
                // Its record goes before anything else does. A deletion that has not come that far has changed
                // nothing, and there may be containers by now.
                "delete_network" if self.records.networks.contains_key(&record.id) => {
                    self.ended.push(intent.op);
                    self.repairs.push(Repair::OperationUnwound { verb: intent.verb.clone(), object });
                }
                "delete_network" => {
                    self.take_down.push((intent.op, record));
                    self.repairs.push(Repair::DeletionFinished { object });
                }
                // Committed, only the end of it is missing.
                _ if self.records.networks.contains_key(&record.id) => self.ended.push(intent.op),
                verb => {
                    self.take_down.push((intent.op, record));
                    self.repairs.push(Repair::OperationUnwound { verb: verb.to_owned(), object });
                }
            }
        }
    }

    /// A sandbox without its namespace is one whose machine was rebooted: nothing of it is left, and its
    /// endpoints die with it, so that their addresses are free without any delete call.
    fn release_lost_sandboxes(&mut self, inventory: &Inventory) {
        let present: BTreeSet<_> = inventory.namespaces.iter().collect();
        let is_lost = |s: &&SandboxRecord| s.has_namespace() && !present.contains(&s.netns);
        let lost: Vec<_> = self.records.sandboxes.values().filter(is_lost).map(|s| s.id).collect();
        for sandbox in lost {
            self.records.sandboxes.remove(&sandbox);
            self.delete(RecordKind::Sandbox, &sandbox.text());
            let inside = |e: &&EndpointRecord| e.attachment.as_ref().is_some_and(|a| a.sandbox == sandbox);
            let dead: Vec<_> = self.records.endpoints.values().filter(inside).map(|e| e.id).collect();
            for endpoint in dead {
                self.records.endpoints.remove(&endpoint);
                self.delete(RecordKind::Endpoint, &endpoint.text());
            }
            self.repairs.push(Repair::SandboxReleased { sandbox });
        }
    }

    fn known_sandboxes(&self) -> Vec<(SandboxId, String)> {
        self.records.sandboxes.values().map(|s| (s.id, s.spec.container_id.clone())).collect()
    }

    /// Compares the sandboxes with those that live. `known` are all that were recorded, also those that are lost.
    fn judge_sandboxes(
        &mut self,
        inventory: &Inventory,
        known: &[(SandboxId, String)],
        keep: Option<&String>,
    ) {
        let Some(live) = &inventory.live else { return };
        for SandboxRecord { id, spec, .. } in self.records.sandboxes.values() {
            let why = match live.judge(*id, &spec.container_id) {
                Verdict::Lives => continue,
                Verdict::Dead => {
                    self.dead.insert(*id, keep.cloned());
                    continue;
                }
                Verdict::Unclear => UNCLEAR.to_owned(),
            };
            let (sandbox, container_id) = (*id, spec.container_id.clone());
            self.repairs.push(Repair::DeadSandboxKept { sandbox, container_id, why });
        }
        let unknown = live.beyond(known).into_iter();
        self.repairs.extend(unknown.map(|sandbox| Repair::LiveSandboxUnknown { sandbox }));
    }

    fn check_endpoints(&mut self, inventory: &Inventory) {
        let links: HashMap<_, _> = inventory.links.iter().map(|link| (link.name, link)).collect();
        let ids: Vec<_> = self.records.endpoints.keys().copied().collect();
        for id in ids {
            let Some(endpoint) = self.records.endpoints.get(&id) else { continue };
            if !self.records.networks.contains_key(&endpoint.network) {
                let why = format!("its network {} does not exist", endpoint.network.short());
                let name = endpoint.name.clone();
                self.drop_endpoint(id, &name, why);
                continue;
            }
            let Some(attachment) = &endpoint.attachment else { continue };
            if self.dead.contains_key(&attachment.sandbox) {
                // It goes with its sandbox, whatever is left of its link.
                continue;
            }
            let waits = self.records.sandboxes.get(&attachment.sandbox).is_some_and(SandboxRecord::waits);
            let way_out = attachment.way_out == WayOut::Provided;
            if waits && !attachment.reserved && !way_out {
                // Its link is one that no record knows, and goes.
                let kept = attachment.clone().kept();
                let record = EndpointRecord { attachment: Some(kept), ..endpoint.clone() };
                self.put_endpoint(record);
                self.repairs.push(Repair::EndpointWaits { endpoint: id });
                continue;
            }
            let why = if waits && way_out {
                "its sandbox waits for its namespace, and needs no way out".to_owned()
            } else if !self.records.sandboxes.contains_key(&attachment.sandbox) {
                format!("its sandbox {} does not exist", attachment.sandbox.short())
            } else if let Some(link) = attachment.link.filter(|link| !links.contains_key(link)) {
                format!("its link {link} is gone")
            } else {
                continue;
            };
            let mut record = endpoint.clone();
            record.attachment = None;
            self.put_endpoint(record);
            self.repairs.push(Repair::EndpointDetached { endpoint: id, why });
        }
    }

    fn drop_endpoint(&mut self, id: EndpointId, name: &str, why: String) {
        let record = format!("endpoint {name:?} ({})", id.short());
        self.records.endpoints.remove(&id);
        self.delete(RecordKind::Endpoint, &id.text());
        self.repairs.push(Repair::RecordDropped { record, why });
    }

    fn put_endpoint(&mut self, record: EndpointRecord) {
        let key = Key::new(RecordKind::Endpoint, record.id.to_string());
        if let Ok(value) = encode(&record) {
            self.changes.push(Change::Put { key, value });
        }
        self.records.endpoints.insert(record.id, record);
    }

    /// Drops what is recorded apart of networks that are gone.
    fn forget_apart(&mut self) {
        let Records { orders, kept, networks, .. } = &mut self.records;
        let gone = |id: &&NetworkId| !networks.contains_key(id);
        let orders: Vec<_> = orders.keys().filter(gone).copied().collect();
        let kept: Vec<_> = kept.keys().filter(gone).copied().collect();
        for id in orders {
            self.records.orders.remove(&id);
            self.delete(RecordKind::Order, &id.text());
        }
        for id in kept {
            let names = self.records.kept.remove(&id).unwrap_or_default().into_keys();
            self.changes.extend(names.map(|name| Change::Delete { key: Key::reservation(&id, &name) }));
        }
    }

    /// Records apart what an earlier engine kept for names in the records of networks.
    fn record_apart(&mut self) {
        for id in std::mem::take(&mut self.records.inline) {
            let Some(network) = self.records.networks.get(&id) else { continue };
            let kept = self.records.kept.get(&id).into_iter().flatten();
            let kept = kept.map(|(name, kept)| {
                let record = ReservationRecord { network: id, name: name.clone(), kept: *kept };
                Change::put(Key::reservation(&id, name), &record)
            });
            let network = Change::put(Key::new(RecordKind::Network, id), network);
            // In one commit; what has been read can be written.
            self.changes.extend(kept.chain([network]).flatten());
        }
    }

    /// Drops ways out that are in no sandbox: an operation was cut short that would have plugged one in or deleted it.
    fn release_ways_out(&mut self) {
        let left = |e: &&EndpointRecord| e.attachment.is_none() && e.labels.contains_key(WAY_OUT_LABEL);
        let left: Vec<_> = self.records.endpoints.values().filter(left).map(|e| e.id).collect();
        for endpoint in left {
            self.records.endpoints.remove(&endpoint);
            self.delete(RecordKind::Endpoint, &endpoint.text());
            self.repairs.push(Repair::WayOutReleased { endpoint });
        }
    }

    /// Finds what is ours and belongs to no record.
    fn sweep(&mut self, inventory: &Inventory, instance: &str) {
        let records = &self.records;
        for link in &inventory.links {
            let Some(tag) = link.tag().filter(|tag| tag.instance == instance) else { continue };
            let known = match tag.kind.as_str() {
                "network" => tag.id.parse().is_ok_and(|id: NetworkId| records.networks.contains_key(&id)),
                "endpoint" => {
                    let id = tag.id.parse::<EndpointId>().ok();
                    let attachment = id.and_then(|id| records.endpoints.get(&id)?.attachment.as_ref());
                    attachment.is_some_and(|attachment| attachment.link == Some(link.name))
                }
                // The mark of a driver that is not built in; its own business.
                _ => true,
            };
            // A network that is taken down in its driver takes its device along.
            let going = self.take_down.iter().any(|(_, network)| *network.id.text() == *tag.id);
            if !known && !going {
                let object = format!("link {} of {} {}", link.name, tag.kind, short(&tag.id));
                self.repairs.push(Repair::KernelObjectRemoved { object });
                self.links.push((link.name, tag));
            }
        }
        let mounted = records.sandboxes.values().filter(|sandbox| sandbox.has_namespace());
        let used: BTreeSet<_> = mounted.map(|sandbox| sandbox.netns).collect();
        for netns in &inventory.namespaces {
            if !used.contains(netns) {
                self.repairs.push(Repair::KernelObjectRemoved { object: format!("namespace {netns}") });
                self.namespaces.push(*netns);
            }
        }
    }

    fn delete(&mut self, kind: RecordKind, id: &str) {
        self.changes.push(Change::Delete { key: Key::new(kind, id) });
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

mod addresses;
#[cfg(test)]
mod tests;
