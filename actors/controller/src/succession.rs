//! The controller itself dies: its successor gets the lists, and finds out from the store what became of
//! what was under way.
//!
//! Networks, sandboxes, drivers and services live on meanwhile. Callers whose request was in the dead
//! controller's hands are told that it is gone.

use netloom_model::EventKind;
use netloom_runtime::{Addr, Exit, Handle, Legacy};
use tokio::time::Instant;

use super::*;
use crate::message::{LookAtHost, TakeOver};

/// Starts the first controller, and every further one when one dies.
pub(crate) fn found(estate: Estate) -> Result<(Addr<ControllerActor>, Directory)> {
    let directory = estate.directory.reader();
    let controller = succeed(&Legacy::new(estate));
    Ok((controller.ok_or_else(|| Error::internal("the first controller has no estate"))?, directory))
}

/// Starts a controller over what its predecessor left.
fn succeed(legacy: &Legacy<Estate>) -> Option<Addr<ControllerActor>> {
    let estate = legacy.lend()?;
    let legacy = legacy.clone();
    let (addr, _) = spawn(ControllerActor::new(estate), move |exit| match exit {
        Exit::Panicked(_) => died(&legacy),
        Exit::Stopped | Exit::Dropped => tracing::debug!(?exit, "the controller ended"),
    });
    Some(addr)
}

fn died(legacy: &Legacy<Estate>) {
    let op = OpCtx::new(Cause::Event("controller exited"), std::time::Duration::from_secs(30));
    let goes_on = legacy.lend().is_some_and(|mut estate| {
        if estate.is_stopping() {
            return false;
        }
        let goes_on = estate.budget.take(Instant::now());
        if !goes_on {
            let (object, cause) = (ObjectKind::Controller, supervise::OUT_OF_BUDGET.to_owned());
            estate.events.emit(&op, EventKind::ObjectFailed { object, id: String::new(), cause });
        }
        goes_on
    });
    if !goes_on {
        tracing::error!("there is no controller any more");
        return;
    }
    tracing::error!("the controller died; starting it again");
    if let Some(controller) = succeed(legacy) {
        controller.tell(&op, TakeOver);
    }
}

impl Handle<TakeOver> for ControllerActor {
    /// Whoever died while there was no controller is started again. What was being created or deleted exists
    /// as the store says once its tasks have ended.
    fn handle(&mut self, op: OpCtx, _: TakeOver, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        let networks = self.estate.networks.iter();
        let networks: Vec<_> = networks
            .filter(|(_, child)| child.state != State::Told || !child.running.addr.is_alive())
            .map(|(id, child)| (*id, child.running.incarnation))
            .collect();
        let sandboxes = self.estate.sandboxes.iter();
        let sandboxes: Vec<_> = sandboxes
            .filter(|(_, child)| child.state != State::Told || !child.running.addr.is_alive())
            .map(|(id, child)| (*id, child.running.incarnation))
            .collect();
        let drivers = self.estate.drivers.iter().filter(|(_, driver)| !driver.port.is_alive());
        let drivers: Vec<_> = drivers.map(|(kind, driver)| (kind.clone(), driver.incarnation)).collect();
        self.restart_dead_services(&op);
        let ipams = self.estate.ipams.iter().filter(|(_, ipam)| !ipam.port.is_alive());
        let ipams: Vec<_> = ipams.map(|(name, ipam)| (name.clone(), ipam.incarnation)).collect();
        for (name, incarnation) in ipams {
            self.restart_ipam(&op, &name, incarnation, cx);
        }
        for (kind, incarnation) in drivers {
            self.restart_driver(&op, &kind, incarnation, cx);
        }
        for (id, incarnation) in networks {
            self.reread_network(&op, id, incarnation, cx);
        }
        for (id, incarnation) in sandboxes {
            self.reread_sandbox(&op, id, incarnation, cx);
        }
        self.revive_later(&op, cx);
        // What the host learnt while there was no controller.
        cx.me().tell(&op, LookAtHost);
        let (object, id) = (ObjectKind::Controller, String::new());
        self.estate.events.emit(&op, EventKind::ActorRestarted { object, id });
        reply.send(());
    }
}
