//! Requests that wait for a port of an endpoint that is deleted.

use netloom_model::{EndpointId, Error, HostPorts, PortReason, Reason, Result};
use netloom_runtime::{OpCtx, Reply};
use tokio::sync::oneshot;

use super::message::ReservePorts;

/// How many requests may wait. One more is refused at once, with the holder's name.
pub const WAITING: usize = 4_096;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) number: u64,
    pub(super) op: OpCtx,
    pub(super) message: ReservePorts,
    pub(super) reply: Reply<Result<Vec<HostPorts>>>,
    /// What to say when it has waited for too long.
    pub(super) refusal: Error,
    /// Dropped with the request: whoever watches the time stops.
    pub(super) _served: oneshot::Sender<()>,
}

/// Requests that wait, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Parking(Vec<Parked>);

/// The endpoint whose deletion a refusal lets hope for.
fn leaving(refusal: &Error) -> Option<&str> {
    match refusal.reason() {
        Reason::Port(PortReason::Taken { leaving: true, holder, .. }) => Some(&holder.id),
        _ => None,
    }
}

/// Whether it is worth waiting.
pub(super) fn may_pass(refusal: &Error) -> bool {
    leaving(refusal).is_some()
}

impl Parking {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= WAITING
    }

    pub(super) fn push(&mut self, parked: Parked) {
        self.0.push(parked);
    }

    /// Takes out a request that has waited for too long, if it still waits.
    pub(super) fn remove(&mut self, number: u64) -> Option<Parked> {
        let at = self.0.iter().position(|parked| parked.number == number)?;
        Some(self.0.remove(at))
    }

    /// Takes out the requests of this endpoint.
    pub(super) fn of(&mut self, owner: EndpointId) -> Vec<Parked> {
        self.0.extract_if(.., |parked| parked.message.owner.id == owner).collect()
    }

    /// Takes out the requests that wait for this endpoint.
    pub(super) fn waiting_for(&mut self, endpoint: &str) -> Vec<Parked> {
        self.0.extract_if(.., |parked| leaving(&parked.refusal) == Some(endpoint)).collect()
    }
}
