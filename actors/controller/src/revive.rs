//! Networks that the cluster's address space was away for: tried again until it is back.
//!
//! A network whose pools nobody could speak for when it should have come into service is out of service. Its record is
//! there, and so is what it had; what failed was to ask. So it is asked again, all such networks together, after rests
//! that grow.

use std::time::Duration;

use futures::{StreamExt, stream};
use netloom_actor_network::{MarkFailed, Revive};
use netloom_actor_sandbox::NetworkRestarted;
use netloom_actor_services::answered;
use netloom_model::ErrorKind;
use netloom_runtime::Handle;

use super::*;
use crate::message::ReviveDue;

/// The rest after the first failure; doubled after each further one at which no network came back.
const FIRST_REST: Duration = Duration::from_millis(250);
/// The longest one.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How many networks ask at a time.
const AT_A_TIME: usize = 64;

/// How far the attempts are. Which networks wait passes to the controller's successor, in the estate.
#[derive(Debug, Default)]
pub(super) struct Reviving {
    /// Whether an attempt is being made, or is about to be.
    under_way: bool,
    rested: Duration,
}

/// Whether what an error tells of may be over later. Others have what a network had, or something in it cannot be used:
/// that does not pass by waiting.
fn may_pass(error: &Error) -> bool {
    if matches!(error.reason(), Reason::WrongPhase { .. }) {
        return true;
    }
    match error.kind() {
        ErrorKind::Internal
        | ErrorKind::Timeout
        | ErrorKind::Unavailable
        | ErrorKind::Busy
        | ErrorKind::Conflict => true,
        ErrorKind::NotFound
        | ErrorKind::InvalidParameter
        | ErrorKind::Forbidden
        | ErrorKind::Exhausted
        | ErrorKind::NotImplemented
        | _ => false,
    }
}

impl ControllerActor {
    /// Has a network tried again that could not come into service, if it needs the cluster and that may help.
    pub(super) fn try_again(&mut self, op: &OpCtx, id: NetworkId, error: &Error, cx: &mut Cx<'_, Self>) {
        let in_cluster = self.estate.networks.get(id).is_some_and(|child| child.in_cluster);
        if in_cluster && may_pass(error) {
            self.estate.away.insert(id);
            self.revive_later(op, cx);
        }
    }

    /// Begins a rest, unless there is nobody to be tried again or one is under way.
    pub(super) fn revive_later(&mut self, op: &OpCtx, cx: &mut Cx<'_, Self>) {
        if self.estate.away.is_empty() || std::mem::replace(&mut self.reviving.under_way, true) {
            return;
        }
        let rest = (self.reviving.rested * 2).clamp(FIRST_REST, LONGEST_REST);
        self.reviving.rested = rest;
        let (me, op, allowed) =
            (self.estate.port.clone(), op.clone(), self.estate.services.operation_timeout.get());
        cx.tasks().spawn(async move {
            tokio::time::sleep(rest).await;
            me.tell(&op.apart(allowed), ReviveDue);
        });
    }

    pub(super) fn revived(
        &mut self,
        op: &OpCtx,
        result: Result<Vec<(NetworkId, Result<()>)>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.reviving.under_way = false;
        for (id, outcome) in result.unwrap_or_default() {
            let Some(child) = self.estate.networks.get(id) else { continue };
            let network = child.running.addr.clone();
            match outcome {
                Ok(()) => {
                    self.estate.away.remove(&id);
                    self.reviving.rested = Duration::ZERO;
                    for sandbox in self.estate.sandboxes.values() {
                        sandbox.running.addr.tell(op, NetworkRestarted(id));
                    }
                    let (object, id) = (ObjectKind::Network, id.to_string());
                    self.estate.events.emit(op, EventKind::ObjectRecovered { object, id });
                }
                Err(error) if may_pass(&error) => {
                    tracing::debug!(network = %id, %error, "the cluster's address space is still away");
                }
                Err(error) => {
                    self.estate.away.remove(&id);
                    network.tell(op, MarkFailed(error.to_string()));
                    self.failed(op, &Child::Network(id), &error.to_string());
                }
            }
        }
        self.revive_later(op, cx);
    }
}

impl Handle<ReviveDue> for ControllerActor {
    fn handle(&mut self, op: OpCtx, _: ReviveDue, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.reviving.under_way = true;
        let Estate { networks, away, .. } = &mut *self.estate;
        away.retain(|id| networks.get(*id).is_some());
        let away = away.iter().filter_map(|id| networks.get(*id).map(|child| (*id, child)));
        let asked: Vec<_> = away
            // One that is being deleted waits for the end of that: it may fail.
            .filter(|(_, child)| child.state == State::Told)
            .map(|(id, child)| {
                let (network, own) = (child.running.addr.clone(), op.apart(op.allowed));
                async move { (id, answered(&own, "the network", network.outcome(&own, Revive).await)) }
            })
            .collect();
        let work = async move { Ok(stream::iter(asked).buffer_unordered(AT_A_TIME).collect().await) };
        self.run(&op, work, Outcome::Revived, cx);
    }
}
