//! What is plugged into a sandbox, as one value: an operation is given it, and hands back what it has become.

use std::sync::Arc;

use netloom_drivers::SandboxOptions;
use netloom_model::record::{SandboxRecord, WayOut};
use netloom_model::{EndpointId, Holder, NamespaceSpec, ObjectKind, Result};

use crate::gateway::{Gateways, elect, lacks_way_out};
use crate::member::Member;

/// A sandbox with what is plugged into it.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    /// Its record; the number of the next interface is in it.
    pub(crate) record: SandboxRecord,
    /// What it tells the drivers of its endpoints.
    pub(crate) options: Arc<SandboxOptions>,
    /// Its endpoints, in the order in which they joined.
    pub(crate) members: Vec<Member>,
    /// The gateways that are in effect.
    pub(crate) gateways: Gateways,
    /// Whether nothing can be plugged in before its namespace is told: endpoints have their places kept.
    pub(crate) waiting: bool,
}

/// A sandbox after an operation that may have changed it also when it failed.
#[derive(Debug)]
pub(crate) struct Changed {
    /// How it is now.
    pub(crate) inside: Box<Inside>,
    /// The answer.
    pub(crate) result: Result<()>,
}

impl Inside {
    /// A sandbox without endpoints.
    pub(crate) fn new(record: SandboxRecord) -> Self {
        let options = Arc::new(SandboxOptions::from(&*record.spec));
        let waiting = record.waits();
        let (members, gateways) = (Vec::new(), Gateways::default());
        Self { record, options, members, gateways, waiting }
    }

    /// The same with these endpoints.
    pub(crate) fn with(self, mut members: Vec<Member>) -> Self {
        if self.record.spec.namespace == NamespaceSpec::Host {
            members = members.into_iter().map(Member::on_host).collect();
        }
        Self { gateways: elect(&members), members, ..self }
    }

    /// What errors name it.
    pub(crate) fn holder(&self) -> Holder {
        Holder::new(ObjectKind::Sandbox, self.record.id, &self.record.spec.container_id)
    }

    /// Whether it needs a way out that is not there.
    pub(crate) fn lacks_way_out(&self) -> bool {
        !self.waiting && self.way_out().is_none() && lacks_way_out(&self.members)
    }

    /// Takes endpoints out of the list, and elects the gateways anew.
    pub(crate) fn forget(&mut self, endpoints: &[EndpointId]) {
        self.members.retain(|member| !endpoints.contains(&member.endpoint));
        self.gateways = elect(&self.members);
    }

    /// The endpoint that is the way out of a sandbox whose others have none.
    pub(crate) fn way_out(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.way_out == WayOut::Provided)
    }
}
