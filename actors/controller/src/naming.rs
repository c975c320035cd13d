//! What names there are, and how the name servers of sandboxes do.

use netloom_actor_services::answered;
use netloom_actor_services::names::{ListNameServers, NameServer, NamedNetwork};
use netloom_dns::counters::{Counts, Times};
use netloom_dns::forward::{Place, UpstreamState};
use netloom_dns::resolv::EMBEDDED_SERVER;
use netloom_model::Holder;
use netloom_model::snapshot::{
    NameCounts, NameServerSnapshot, NameSnapshot, NamesSnapshot, UpstreamSnapshot,
};
use netloom_runtime::{Handle, OpCtx};

use super::*;
use crate::message::{InspectNameServers, InspectNames};

/// The port that programs ask.
const ASKED: u16 = 53;

impl Handle<InspectNames> for ControllerActor {
    fn handle(&mut self, _: OpCtx, _: InspectNames, reply: Reply<Vec<NamesSnapshot>>, _: &mut Cx<'_, Self>) {
        reply.send(self.estate.services.zones.list().into_iter().map(zone).collect());
    }
}

impl Handle<InspectNameServers> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        _: InspectNameServers,
        reply: Reply<Result<Vec<NameServerSnapshot>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let listed = self.estate.services.names.ask(&op, ListNameServers);
        cx.tasks().spawn(async move {
            let listed = answered(&op, "the name service", listed.await.map(Ok));
            reply.send(listed.map(|all| all.into_iter().map(server).collect()));
        });
    }
}

fn zone(NamedNetwork { network, name, records }: NamedNetwork) -> NamesSnapshot {
    let records = records.into_iter().map(|record| NameSnapshot {
        name: record.name.to_string(),
        address: record.address,
        endpoints: record.endpoints,
    });
    NamesSnapshot { network: Holder::new(ObjectKind::Network, network, &*name), records: records.collect() }
}

pub(super) fn server(server: NameServer) -> NameServerSnapshot {
    let NameServer { wanted, networks, ports, counts, upstreams, trouble } = server;
    NameServerSnapshot {
        sandbox: Holder::new(ObjectKind::Sandbox, wanted.sandbox, &wanted.spec.container_id),
        address: (EMBEDDED_SERVER, ASKED).into(),
        ports,
        networks: networks.iter().map(ToString::to_string).collect(),
        external: wanted.external,
        counts: counts.as_ref().map(counted),
        upstreams: upstreams.iter().map(upstream).collect(),
        trouble,
    }
}

fn counted(counts: &Counts) -> NameCounts {
    let micros = |times: &Times, part: f64| {
        times.quantile(part).map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    };
    NameCounts {
        questions: counts.questions,
        records: counts.records,
        no_data: counts.no_data,
        no_such_name: counts.no_such_name,
        forwarded: counts.forwarded,
        merged: counts.merged,
        failed: counts.failed,
        nobody_to_ask: counts.nobody_to_ask,
        too_many: counts.too_many,
        turned_down: counts.refused + counts.malformed + counts.not_implemented + counts.silence,
        half_within_micros: micros(&counts.here, 0.5),
        most_within_micros: micros(&counts.here, 0.99),
        upstreams_within_micros: micros(&counts.elsewhere, 0.99),
        connections: counts.connections,
    }
}

fn upstream(state: &UpstreamState) -> UpstreamSnapshot {
    UpstreamSnapshot {
        address: state.upstream.address,
        from_host: state.upstream.place == Place::Host,
        suspect: state.suspect,
        asked: state.asked,
        answered: state.answered,
        failed: state.failed,
        missed: state.missed,
        mismatched: state.mismatched,
        last_micros: state.last_micros,
    }
}
