//! Records that were lost, rebuilt from what the kernel has: containers go on running, and everything of
//! theirs can be listed, left and deleted again.

use netloom_drivers::{Driver, Inside, KernelSurvey, Recovered};
use netloom_kernel::{Kernel, Netns};
use netloom_model::live::REBUILT_CONTAINER;
use netloom_model::record::SandboxRecord;
use netloom_model::{NetnsName, ObjectKind, Repair, Result, SandboxId, SandboxSpec};
use netloom_runtime::OpCtx;
use netloom_store::{Change, Key, RecordKind, StoreError, encode};
use serde::Serialize;

use crate::reconcile::{Inventory, Plan, Records};

/// Looks into every namespace of ours.
///
/// # Errors
/// When the kernel does not answer about the host. A namespace that cannot be looked into is named beside what
/// was seen.
pub(crate) async fn survey(
    kernel: &dyn Kernel,
    records: &Records,
    inventory: &Inventory,
    op: &OpCtx,
) -> Result<(KernelSurvey, Vec<NetnsName>)> {
    let deadline = op.deadline_std();
    let addresses = kernel.addresses(Netns::Host, deadline).await?;
    let (mut inside, mut unseen) = (Vec::new(), Vec::new());
    for name in &inventory.namespaces {
        let Some(sandbox) = sandbox_of(*name, records) else { continue };
        let netns = Netns::Named(*name);
        let look = async {
            Ok::<_, netloom_kernel::KernelError>(Inside {
                sandbox,
                links: kernel.links(netns, deadline).await?,
                addresses: kernel.addresses(netns, deadline).await?,
                routes: kernel.routes(netns, deadline).await?,
            })
        };
        match look.await {
            Ok(found) => inside.push(found),
            Err(error) => {
                tracing::warn!(%error, "cannot look into a namespace");
                unseen.push(*name);
            }
        }
    }
    Ok((KernelSurvey { links: inventory.links.clone(), addresses, inside }, unseen))
}

/// Whose a namespace is: a sandbox's that a record names, or one whose identifier, of which the namespace's
/// name is the beginning, is filled up.
fn sandbox_of(netns: NetnsName, records: &Records) -> Option<SandboxId> {
    let recorded =
        records.sandboxes.values().find(|sandbox| sandbox.netns == netns).map(|sandbox| sandbox.id);
    let attached = || {
        let attachments = records.endpoints.values().filter_map(|endpoint| endpoint.attachment.as_ref());
        attachments.map(|attachment| attachment.sandbox).find(|id| *id.short() == *netns.as_str())
    };
    recorded.or_else(attached).or_else(|| format!("{:0<64}", netns.as_str()).parse().ok())
}

impl Plan {
    /// Adds what the kernel has and no record knows.
    pub(crate) fn rebuild(&mut self, survey: &KernelSurvey, identity: &str, drivers: &[Box<dyn Driver>]) {
        let recovered: Vec<_> = drivers.iter().flat_map(|driver| driver.recover(identity, survey)).collect();
        for Recovered { network, endpoints } in recovered {
            let going = self.take_down.iter().any(|(_, record)| record.id == network.id);
            if going {
                continue;
            }
            let known = self.records.networks.contains_key(&network.id);
            if !known {
                self.rebuilt(ObjectKind::Network, &network.spec.name, &network.id.text(), &network);
                self.records.networks.insert(network.id, network);
            }
            for endpoint in endpoints {
                if !self.records.endpoints.contains_key(&endpoint.id) {
                    self.rebuilt(ObjectKind::Endpoint, &endpoint.name, &endpoint.id.text(), &endpoint);
                    self.records.endpoints.insert(endpoint.id, endpoint);
                }
            }
        }
        for Inside { sandbox, links, .. } in &survey.inside {
            if self.records.sandboxes.contains_key(sandbox) {
                continue;
            }
            let Ok(netns) = sandbox.short().parse::<NetnsName>() else { continue };
            let container = format!("{REBUILT_CONTAINER}{netns}");
            // As many numbers of interfaces as there are links: none of theirs is given again.
            let interfaces = u32::try_from(links.len()).unwrap_or(u32::MAX);
            let spec = SandboxSpec::new(&container);
            let record = SandboxRecord { interfaces, ..SandboxRecord::new(*sandbox, netns, spec) };
            self.rebuilt(ObjectKind::Sandbox, &container, &sandbox.text(), &record);
            self.records.sandboxes.insert(*sandbox, record);
        }
    }

    fn rebuilt<R: Serialize>(&mut self, object: ObjectKind, name: &str, id: &str, record: &R) {
        let kind = match object {
            ObjectKind::Network => RecordKind::Network,
            ObjectKind::Endpoint => RecordKind::Endpoint,
            _ => RecordKind::Sandbox,
        };
        let encoded: Result<_, StoreError> = encode(record);
        match encoded {
            Ok(value) => self.changes.push(Change::Put { key: Key::new(kind, id), value }),
            Err(error) => tracing::error!(%error, name, "cannot record what was rebuilt"),
        }
        let short = id.get(..12).unwrap_or(id);
        self.repairs.push(Repair::RecordRebuilt { object: format!("{object} {name:?} ({short})") });
    }
}
