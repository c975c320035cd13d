//! The endpoints of one network: names, phases, records. Plain state, without actors.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use ipnet::IpNet;
use netloom_drivers::SandboxOptions;
use netloom_model::record::EndpointRecord;
use netloom_model::snapshot::{EndpointPhase, EndpointSnapshot};
use netloom_model::{
    EndpointId, Error, Holder, IfName, JoinId, MacAddr, ObjectKind, Reason, Result, SandboxId,
};
use netloom_runtime::Canceller;
use rustc_hash::FxHasher;

use crate::phase::{EndpointCommand, Verdict, endpoint as decide};
use crate::saga::{Standing, Way};

/// An endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// What the store keeps, or will keep. Shared with what is under way on it, which only reads it most often.
    pub(crate) record: Arc<EndpointRecord>,
    /// What it is doing.
    pub(crate) phase: EndpointPhase,
    /// What its sandbox tells, while it is reached from outside.
    pub(crate) outward: Option<Arc<SandboxOptions>>,
    /// Ends the operation that it is in the middle of, if it is.
    pub(crate) cancel: Canceller,
    /// The last call that says by which ports it is reached.
    standing: Option<Standing>,
}

impl Endpoint {
    /// An endpoint on which nothing is under way.
    pub(crate) fn new(record: Arc<EndpointRecord>, phase: EndpointPhase) -> Self {
        Self { record, phase, outward: None, cancel: Canceller::default(), standing: None }
    }

    pub(crate) fn snapshot(&self) -> EndpointSnapshot {
        let record = &self.record;
        let shown =
            matches!(self.phase, EndpointPhase::Reserved | EndpointPhase::Joined | EndpointPhase::Leaving);
        let attachment = record.attachment.as_ref().filter(|_| shown);
        EndpointSnapshot {
            id: record.id,
            name: record.name.clone(),
            network: record.network,
            phase: self.phase,
            mac: record.mac,
            ipv4: record.ipv4,
            ipv6: record.ipv6,
            sandbox: attachment.map(|attachment| attachment.sandbox),
            ifname: attachment.filter(|_| record.prefix.is_some()).map(|attachment| attachment.ifname),
            gateway: attachment.and_then(|attachment| attachment.gateway),
            gateway6: attachment.and_then(|attachment| attachment.gateway6),
            routes: attachment.map(|attachment| attachment.routes.clone()).unwrap_or_default(),
            labels: record.labels.clone(),
            options: record.options.clone(),
            ports: record.ports.clone(),
            names: record.names.clone(),
            // What is recorded may be what led to it last.
            published: self.outward.as_ref().map(|_| record.published.clone()).unwrap_or_default(),
        }
    }

    pub(crate) fn holder(&self) -> Holder {
        Holder::new(ObjectKind::Endpoint, self.record.id, &self.record.name)
    }

    /// Why somebody else cannot have it.
    pub(crate) fn in_use(&self) -> Error {
        let Some(sandbox) = self.sandbox() else { return Error::internal("joined to nothing") };
        Reason::EndpointInUse { endpoint: self.record.id, name: self.record.name.clone(), sandbox }.into()
    }

    /// The sandbox it is in or on its way into or out of.
    pub(crate) fn sandbox(&self) -> Option<SandboxId> {
        self.record.attachment.as_ref().map(|attachment| attachment.sandbox)
    }

    /// Its addresses with their prefix lengths.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.record.ipv4.map(IpNet::V4).into_iter().chain(self.record.ipv6.map(IpNet::V6))
    }

    /// The join that brought or brings it there.
    pub(crate) fn join(&self) -> Option<JoinId> {
        self.record.attachment.as_ref().map(|attachment| attachment.join)
    }

    /// The phase of one whose attachment is recorded, or of one without.
    pub(crate) fn phase_of(record: &EndpointRecord) -> EndpointPhase {
        match &record.attachment {
            None => EndpointPhase::Idle,
            Some(attachment) if attachment.reserved => EndpointPhase::Reserved,
            Some(_) => EndpointPhase::Joined,
        }
    }

    /// A call that says by which ports it is reached begins, and takes the place of all earlier ones.
    pub(crate) fn stand(&mut self) -> Standing {
        if let Some(earlier) = self.standing.replace(Standing::default()) {
            earlier.end();
        }
        self.standing.clone().unwrap_or_default()
    }

    /// The name of its interface with this number.
    pub(crate) fn interface(&self, number: u32) -> Result<IfName> {
        // An endpoint without an interface still gets a name: it is never used.
        format!("{}{number}", self.record.prefix.as_deref().unwrap_or("none")).parse()
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<FxHasher>>;

/// Every endpoint of a network.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    by_id: Map<EndpointId, Endpoint>,
    by_name: Map<String, EndpointId>,
}

impl Endpoints {
    /// Adds an endpoint; its name must be free.
    pub(crate) fn insert(&mut self, endpoint: Endpoint) -> Result<()> {
        let record = &endpoint.record;
        if let Some(holder) = self.by_name.get(&record.name).and_then(|id| self.by_id.get(id)) {
            return Err(Reason::NameTaken { name: record.name.clone(), holder: holder.holder() }.into());
        }
        if let Some(holder) = self.by_id.get(&record.id) {
            return Err(Reason::IdTaken { id: record.id.to_string(), holder: holder.holder() }.into());
        }
        self.by_name.insert(record.name.clone(), record.id);
        self.by_id.insert(record.id, endpoint);
        Ok(())
    }

    /// Keeps another name for an endpoint, beside the one it has.
    pub(crate) fn reserve_name(&mut self, id: EndpointId, name: &str) -> Result<()> {
        match self.by_name.get(name).and_then(|holder| self.by_id.get(holder)) {
            Some(holder) if holder.record.id != id => {
                Err(Reason::NameTaken { name: name.into(), holder: holder.holder() }.into())
            }
            _ => {
                self.by_name.insert(name.into(), id);
                Ok(())
            }
        }
    }

    /// Ends a renaming: the endpoint has this name from now on, and the other one is free.
    pub(crate) fn settle_name(&mut self, id: EndpointId, name: String, other: &str) {
        let Some(endpoint) = self.by_id.get_mut(&id) else { return };
        if name != other {
            self.by_name.remove(other);
        }
        Arc::make_mut(&mut endpoint.record).name = name;
    }

    pub(crate) fn remove(&mut self, id: EndpointId) -> Option<Endpoint> {
        let endpoint = self.by_id.remove(&id)?;
        self.by_name.remove(&endpoint.record.name);
        Some(endpoint)
    }

    pub(crate) fn get(&self, id: EndpointId) -> Result<&Endpoint> {
        self.by_id.get(&id).ok_or_else(|| Error::not_found(ObjectKind::Endpoint, id))
    }

    pub(crate) fn get_mut(&mut self, id: EndpointId) -> Result<&mut Endpoint> {
        self.by_id.get_mut(&id).ok_or_else(|| Error::not_found(ObjectKind::Endpoint, id))
    }

    /// The endpoint, if its phase takes this command; `None` if there is nothing to do.
    pub(crate) fn accepting(&self, id: EndpointId, command: EndpointCommand) -> Result<Option<&Endpoint>> {
        let endpoint = match (self.by_id.get(&id), command) {
            (Some(endpoint), _) => endpoint,
            (None, EndpointCommand::Abandon) => return Ok(None),
            (None, _) => return Err(Error::not_found(ObjectKind::Endpoint, id)),
        };
        let record = &endpoint.record;
        match decide(endpoint.phase, command) {
            Verdict::Go => Ok(Some(endpoint)),
            Verdict::Nothing => Ok(None),
            Verdict::Refuse(_)
                if matches!(endpoint.phase, EndpointPhase::Joined | EndpointPhase::Reserved) =>
            {
                Err(endpoint.in_use())
            }
            Verdict::Refuse(_)
                if matches!(
                    (endpoint.phase, command),
                    (EndpointPhase::Idle, EndpointCommand::Detach | EndpointCommand::Program)
                ) =>
            {
                Err(Reason::NotJoined { endpoint: id, name: record.name.clone(), sandbox: None }.into())
            }
            Verdict::Refuse(phase) => Err(Reason::WrongPhase { object: endpoint.holder(), phase }.into()),
        }
    }

    /// The same, and the endpoint is in this sandbox.
    pub(crate) fn in_sandbox(
        &self,
        id: EndpointId,
        sandbox: SandboxId,
        command: EndpointCommand,
    ) -> Result<&Endpoint> {
        let endpoint = self
            .accepting(id, command)?
            .filter(|endpoint| endpoint.sandbox() == Some(sandbox))
            .ok_or_else(|| {
                let name = self.by_id.get(&id).map(|endpoint| endpoint.record.name.clone());
                let name = name.unwrap_or_default();
                Error::from(Reason::NotJoined { endpoint: id, name, sandbox: Some(sandbox) })
            })?;
        Ok(endpoint)
    }

    /// The endpoint, if its phase takes this command and this join brought it where it is.
    pub(crate) fn by_join(
        &self,
        id: EndpointId,
        join: JoinId,
        command: EndpointCommand,
    ) -> Result<&Endpoint> {
        let entry = self.accepting(id, command)?.filter(|endpoint| endpoint.join() == Some(join));
        entry.ok_or_else(|| {
            let name = self.by_id.get(&id).map(|endpoint| endpoint.record.name.clone()).unwrap_or_default();
            Reason::NotJoined { endpoint: id, name, sandbox: None }.into()
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Who has this hardware address.
    pub(crate) fn with_mac(&self, mac: MacAddr) -> Option<Holder> {
        self.by_id.values().find(|endpoint| endpoint.record.mac == Some(mac)).map(Endpoint::holder)
    }

    /// A hardware address for an endpoint whose IPAM driver has to be told one: libnetwork's prefix, and a part of the
    /// endpoint's identifier that nobody of this network has as well.
    pub(crate) fn free_mac(&self, id: EndpointId) -> Option<MacAddr> {
        let text = id.text();
        let digit = |at: usize| text.as_bytes().get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let byte = |at: usize| u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok();
        // The random end first: identifiers may be ordered by time.
        let places = (0..text.len().saturating_sub(7)).rev().step_by(2);
        let mut macs = places.filter_map(|at| {
            let [a, b, c, d] = [byte(at)?, byte(at + 2)?, byte(at + 4)?, byte(at + 6)?];
            Some(MacAddr([0x02, 0x42, a, b, c, d]))
        });
        macs.find(|mac| self.with_mac(*mac).is_none())
    }

    /// Every endpoint that holds the network, by name.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let mut holders: Vec<_> = self.by_id.values().map(Endpoint::holder).collect();
        holders.sort_by(|a, b| a.name.cmp(&b.name));
        holders
    }

    /// Every endpoint, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_id.values()
    }

    /// Every endpoint, by name.
    pub(crate) fn snapshots(&self) -> Vec<EndpointSnapshot> {
        let mut all: Vec<_> = self.by_id.values().map(Endpoint::snapshot).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What the driver is to be told once more of endpoints that are reached from outside.
    pub(crate) fn outward(&mut self) -> Vec<Way> {
        let way = |endpoint: &mut Endpoint| {
            let sandbox = endpoint.outward.clone()?;
            Some(endpoint.way(sandbox, true))
        };
        self.by_id.values_mut().filter_map(way).collect()
    }

    /// Every record that the store has.
    pub(crate) fn records(&self) -> Vec<Arc<EndpointRecord>> {
        self.by_id.values().map(|endpoint| endpoint.record.clone()).collect()
    }
}
