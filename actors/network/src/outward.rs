//! How endpoints come to be reached from outside, and how that ends.

use netloom_actor_driver::RevokeConnectivity;
use netloom_actor_services::answered;
use netloom_runtime::Handle;

use super::commands::{Answer, Started, checked, checked_value};
use super::*;
use crate::endpoint::Endpoint;
use crate::message::RevokeEndpoint;
use crate::phase::EndpointCommand;
use crate::saga::{self, Reached, Way};

/// What a driver that was told again has answered, of each endpoint that is reached from outside.
pub(super) type Ways = Vec<(EndpointId, Result<Reached>)>;

impl NetworkActor {
    pub(super) fn program(
        &mut self,
        op: &OpCtx,
        ProgramEndpoint { endpoint, sandbox, options, again }: ProgramEndpoint,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let here = self.endpoints.in_sandbox(endpoint, sandbox, EndpointCommand::Program).map(|_| ());
        let reply = checked(here, reply)?;
        let hears_of_bare = self.world.capability.hears_of_bare;
        let (entry, reply) = checked_value(self.endpoints.get_mut(endpoint), reply)?;
        let publishes = [&entry.record.ports, &options.ports].iter().any(|ports| !ports.map.is_empty());
        if !publishes && entry.record.published.is_nothing() && !hears_of_bare {
            entry.outward = Some(options);
            return Err(Box::new(|| reply.send(Ok(()))));
        }
        entry.cancel = op.cancel.canceller();
        let way = entry.way(options.clone(), again);
        let work = saga::program(self.world.clone(), op.clone(), way);
        let outcome = move |result| Outcome::Programmed { endpoint, options, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    pub(super) fn programmed(
        &mut self,
        endpoint: EndpointId,
        options: Arc<SandboxOptions>,
        result: Result<Reached>,
    ) -> Result<()> {
        // Told when it is in the list: who hears of it may ask at once.
        let Reached { published, stands, told: _told } = result?;
        if let Ok(entry) = self.endpoints.get_mut(endpoint)
            && stands
        {
            entry.outward = Some(options);
            entry.reached_by(published);
        }
        Ok(())
    }

    pub(super) fn restore_in_driver(
        &mut self,
        op: &OpCtx,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Result<(), Answer> {
        let reply = checked(self.allows(NetworkCommand::RestoreInDriver), reply)?;
        let work = self.told_again(op, false);
        self.run(op, Scope::All, work, |result| Outcome::RestoredInDriver { result, reply }, cx);
        Ok(())
    }

    pub(super) fn revive(
        &mut self,
        op: &OpCtx,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Result<(), Answer> {
        let reply = checked(self.allows(NetworkCommand::Revive), reply)?;
        let (work, failure) = (self.told_again(op, true), self.failure.clone());
        self.run(op, Scope::All, work, |result| Outcome::Revived { failure, result, reply }, cx);
        Ok(())
    }

    /// Tells the driver, and IPAM before it, what there is. One endpoint that is not reached does not keep others from it.
    fn told_again(&mut self, op: &OpCtx, with_ipam: bool) -> impl Future<Output = Result<Ways>> + use<> {
        let (world, records, own) = (self.world.clone(), self.endpoints.records(), op.clone());
        let (record, outward) = (self.record.clone(), self.endpoints.outward());
        async move {
            saga::restore_in_driver(world.clone(), own.clone(), record, records, with_ipam).await?;
            let mut all = Vec::with_capacity(outward.len());
            for way in outward {
                all.push((way.record.id, saga::program(world.clone(), own.clone(), way).await));
            }
            Ok(all)
        }
    }

    /// Takes note of what the driver has answered. The first failure is that of all.
    pub(super) fn led_again(&mut self, result: Result<Ways>) -> Result<()> {
        let mut outcome = Ok(());
        for (endpoint, result) in result? {
            let Ok(entry) = self.endpoints.get_mut(endpoint) else { continue };
            match result {
                Ok(Reached { published, stands, told: _told }) => {
                    if stands {
                        entry.reached_by(published);
                    }
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }
}

impl Endpoint {
    /// A call that says by which ports it is reached, instead of all earlier ones.
    pub(crate) fn way(&mut self, sandbox: Arc<SandboxOptions>, again: bool) -> Way {
        let (record, recorded) = (self.record.clone(), self.phase == EndpointPhase::Joined);
        Way { record, recorded, sandbox, again, standing: self.stand() }
    }

    fn reached_by(&mut self, published: Seldom<Published>) {
        if self.record.published != published {
            Arc::make_mut(&mut self.record).published = published;
        }
    }
}

impl Handle<RevokeEndpoint> for NetworkActor {
    /// Never queues: what is revoked must be gone even when the endpoint is stuck.
    fn handle(
        &mut self,
        op: OpCtx,
        RevokeEndpoint(endpoint, sandbox): RevokeEndpoint,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let elsewhere = |entry: &Endpoint| entry.sandbox().is_some_and(|present| present != sandbox);
        if self.endpoints.get(endpoint).is_ok_and(elsewhere) {
            return reply.send(Ok(()));
        }
        let told_of = self.endpoints.get_mut(endpoint).ok().map(|entry| {
            entry.outward = None;
            entry.reached_by(Seldom::default());
            (entry.record.clone(), entry.stand())
        });
        let asked = self.world.driver.ask(&op, RevokeConnectivity(self.record.id, endpoint));
        let world = self.world.clone();
        cx.tasks().spawn(async move {
            let outcome = answered(&op, "the driver", asked.await);
            // What could not be withdrawn is tried again by whoever asked, or leads there still.
            if let Some((record, standing)) = told_of
                && outcome.is_ok()
                && standing.holds()
            {
                drop(saga::ended(&world, &op, &record));
            }
            reply.send(outcome);
        });
    }
}
