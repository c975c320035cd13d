//! The ports' actor by message, over a simulated host, on stopped time.

mod led;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netloom_actor_services::ports::{
    ATTEMPTS, AdoptPorts, ListPorts, PortsActor, PortsOf, PortsOwnerRenamed, PortsState, QuarantinePorts,
    ReleasePorts, ReplaceDynamicRange, ReservePorts, ServePorts, StopServing, WAITING, dynamic_range,
};
use netloom_kernel::{HoldRefusal, Kernel, Netns, Op};
use netloom_model::{
    EndpointId, Error, ErrorKind, HostPort, HostPorts, PortRange, PortReason, PortUser, Protocol, Reason,
    Result,
};
use netloom_ports::{PortOwner, PortRequest};
use netloom_runtime::{Addr, Cause, Crash, Handle, Message, OpCtx, Stop, spawn};
use netloom_testkit::{SimKernel, SimPorts};
use tokio::task::LocalSet;
use tokio::time::Instant;
use uuid::Uuid;

const TCP: Protocol = Protocol::Tcp;

/// An actor and its host.
struct Stage {
    ports: Addr<PortsActor>,
    host: SimPorts,
    state: PortsState,
}

impl Stage {
    fn set(first: u16, last: u16) -> Self {
        let host = SimPorts::default();
        let state = PortsState::new(PortRange { first, last });
        let (ports, _) = spawn(PortsActor::new(Arc::new(host.clone()), state.clone()), |_| {});
        Self { ports, host, state }
    }

    async fn ask<M: Message>(&self, message: M) -> M::Reply
    where
        PortsActor: Handle<M>,
    {
        self.ports.ask(&op(), message).await.expect("it answers")
    }

    async fn reserve(&self, n: u128, requests: &[PortRequest]) -> Result<Vec<HostPorts>> {
        self.ask(ReservePorts { owner: owner(n), requests: requests.to_vec() }).await
    }

    async fn adopt(&self, n: u128, ports: &[HostPorts]) -> Result<Vec<HostPort>> {
        let message = AdoptPorts { owner: owner(n), ports: ports.to_vec() };
        let unheld = self.ask(message).await?;
        Ok(unheld.into_iter().map(|unheld| unheld.port).collect())
    }

    async fn release(&self, n: u128) {
        self.ask(ReleasePorts(owner(n).id)).await;
    }

    async fn list(&self) -> Vec<PortsOf> {
        self.ask(ListPorts).await
    }

    /// Nothing is taken and nothing is held.
    async fn assert_empty(&self) {
        assert_eq!((self.list().await, self.host.held()), (Vec::new(), Vec::new()));
    }
}

fn op() -> OpCtx {
    OpCtx::new(Cause::Request, Duration::from_secs(300))
}

fn owner(n: u128) -> PortOwner {
    PortOwner { id: EndpointId::from_uuids(Uuid::from_u128(n), Uuid::nil()), name: format!("e{n}").into() }
}

fn on(addresses: &[&str]) -> Arc<[IpAddr]> {
    addresses.iter().map(|text| text.parse::<IpAddr>().expect("an address")).collect()
}

fn all() -> Arc<[IpAddr]> {
    on(&["0.0.0.0"])
}

fn any() -> PortRequest {
    PortRequest::any(TCP, all())
}

fn exactly(port: u16) -> PortRequest {
    PortRequest::exactly(TCP, all(), port)
}

fn port(address: &str, port: u16) -> HostPort {
    HostPort { address: address.parse().expect("an address"), protocol: TCP, port }
}

fn firsts(given: &[HostPorts]) -> Vec<u16> {
    given.iter().map(|ports| ports.range.first).collect()
}

fn on_stopped_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

/// Lets everything run that can.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn ports_are_chosen_held_listed_and_given_back() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        let both = on(&["0.0.0.0", "::"]);
        let whole = PortRequest::all_of(TCP, both.clone(), PortRange { first: 8_000, last: 8_009 });
        let given = stage.reserve(1, &[any(), whole.expect("a range"), exactly(80)]).await.expect("free");
        assert_eq!(firsts(&given), [100, 8_000, 80]);
        assert_eq!(stage.host.held().len(), 12, "one socket for both families");
        stage.ports.tell(&op(), PortsOwnerRenamed(owner(1).id, "web".into()));
        let list = stage.list().await;
        assert_eq!(
            (list[0].holder.name.as_str(), &list[0].ports, list[0].leaving),
            ("web", &vec![given[1].clone(), given[2].clone(), given[0].clone()], false)
        );
        let taken = stage.reserve(2, &[PortRequest::exactly(TCP, on(&["127.0.0.1"]), 8_005)]).await;
        let text = taken.expect_err("it is held on every address").to_string();
        assert!(text.contains("0.0.0.0:8005/tcp") && text.contains("endpoint \"web\""), "{text}");
        assert_eq!(stage.reserve(2, &[]).await, Ok(Vec::new()), "nothing is asked for");
        stage.release(1).await;
        stage.assert_empty().await;
        stage.ask(ReplaceDynamicRange(PortRange { first: 300, last: 301 })).await;
        assert_eq!(firsts(&stage.reserve(3, &[any(), any()]).await.expect("free")), [300, 301]);
    });
}

#[test]
fn where_others_have_a_port_the_next_one_is_tried() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        for taken in 100..105 {
            stage.host.other(port("127.0.0.1", taken), None);
        }
        let range = PortRange { first: 103, last: 106 };
        let one_of = PortRequest::one_of(TCP, all(), range);
        let given = stage.reserve(1, &[any(), one_of, exactly(90)]).await.expect("enough is free");
        assert_eq!(firsts(&given), [106, 105, 90]);
        assert_eq!(stage.host.held().len(), 3, "nothing else is held");
        let list = stage.list().await;
        assert_eq!(list[0].ports.len(), 3, "and nothing else is taken: {list:?}");
        assert_eq!(stage.host.counts().1, 0, "nobody looks for the others");
        let given = stage.reserve(2, &[any()]).await.expect("free");
        assert_eq!(firsts(&given), [107], "the round goes on behind");
    });
}

#[test]
fn after_many_tries_it_is_said_who_has_the_last_one() {
    on_stopped_time(async {
        let stage = Stage::set(100, 1_199);
        let squatter = Some(PortUser { pid: 4_711, command: "squatter".into() });
        for taken in 100..=1_199 {
            stage.host.other(port("0.0.0.0", taken), squatter.clone());
        }
        let error = stage.reserve(1, &[any()]).await.expect_err("others have them all");
        assert!(
            error.to_string().contains("1099/tcp is in use on this host by process 4711 (squatter)"),
            "{error}"
        );
        assert_eq!(u32::try_from(stage.host.counts().0), Ok(ATTEMPTS));
        stage.assert_empty().await;
        // A short range is at its end before that.
        let range = PortRange { first: 150, last: 152 };
        let error = stage.reserve(1, &[PortRequest::one_of(TCP, all(), range)]).await.expect_err("all three");
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(
            error.to_string().contains("150-152/tcp") && error.to_string().contains("3 tried"),
            "{error}"
        );
        stage.assert_empty().await;
        stage.host.end_other(port("0.0.0.0", 110));
        assert_eq!(firsts(&stage.reserve(1, &[any()]).await.expect("one is free")), [110]);
    });
}

#[test]
fn a_refusal_of_one_port_takes_all_of_them_back() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.host.addresses(&[[192, 0, 2, 1].into()]);
        stage.host.unprivileged_from(80);
        stage.host.without_sctp();
        let nginx = PortUser { pid: 7, command: "nginx".into() };
        stage.host.other(port("192.0.2.1", 8_080), Some(nginx.clone()));
        let whole =
            PortRequest::all_of(TCP, all(), PortRange { first: 8_000, last: 8_099 }).expect("a range");
        let in_use = PortReason::InUse { port: port("0.0.0.0", 8_080), user: Some(nginx) };
        let sctp = PortRequest::exactly(Protocol::Sctp, all(), 90);
        let no_sctp = HostPort { protocol: Protocol::Sctp, ..port("0.0.0.0", 90) };
        for (request, reason) in [
            (whole, in_use),
            (exactly(79), PortReason::Privileged { port: port("0.0.0.0", 79) }),
            (
                PortRequest::exactly(TCP, on(&["192.0.2.9"]), 90),
                PortReason::NoSuchAddress { port: port("192.0.2.9", 90) },
            ),
            (sctp, PortReason::Unsupported { port: no_sctp }),
        ] {
            let error = stage.reserve(1, &[any(), exactly(81), request]).await.expect_err("refused");
            assert_eq!(*error.reason(), Reason::Port(reason));
            stage.assert_empty().await;
        }
        stage.host.refuse(2, HoldRefusal::NoDescriptors);
        let error = stage.reserve(1, &[exactly(81), exactly(82)]).await.expect_err("planned");
        let refused = port("0.0.0.0", 82);
        let said = matches!(error.reason(), Reason::Port(PortReason::NoDescriptors { port, .. }) if *port == refused);
        assert!(said, "{error:?}");
        stage.assert_empty().await;
        stage.host.refuse(1, HoldRefusal::Refused(1));
        let error = stage.reserve(1, &[exactly(81)]).await.expect_err("planned");
        assert!(error.to_string().contains("hold port 0.0.0.0:81/tcp"), "{error}");
    });
}

#[test]
fn bad_requests_are_refused_before_anything_is_held() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        let range = |first, last| PortRequest::one_of(TCP, all(), PortRange { first, last });
        let icmp = PortRequest::any(Protocol::Icmp, all());
        let whole = PortRequest::all_of(TCP, all(), PortRange { first: 80, last: 90 }).expect("a range");
        for requests in [
            vec![exactly(0)],
            vec![range(90, 80)],
            vec![icmp],
            vec![whole, exactly(85)],
            vec![any(); netloom_ports::MAX_REQUESTS + 1],
        ] {
            let error = stage.reserve(1, &requests).await.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
            assert!(error.to_string().contains("port_map"), "{error}");
        }
        assert_eq!(stage.host.counts(), (0, 0));
        stage.assert_empty().await;
    });
}

#[test]
fn who_wants_a_deleted_endpoints_port_gets_it_when_it_is_given_back() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.reserve(1, &[exactly(80), exactly(81)]).await.expect("free");
        stage.ask(QuarantinePorts(owner(1).id)).await;
        assert!(stage.list().await[0].leaving);
        assert_eq!(stage.host.held().len(), 2, "held until the link is gone");
        let want = |n, port| ReservePorts { owner: owner(n), requests: vec![exactly(port)] };
        let first = stage.ports.outcome(&op(), want(2, 80));
        let second = stage.ports.outcome(&op(), want(3, 80));
        let other = stage.ports.outcome(&op(), want(4, 81));
        settle().await;
        assert_eq!(firsts(&stage.reserve(5, &[any()]).await.expect("free")), [100], "others do not wait");
        stage.release(1).await;
        assert_eq!(firsts(&first.await.expect("it answers").expect("it was its turn")), [80]);
        assert_eq!(firsts(&other.await.expect("it answers").expect("free")), [81]);
        let error = second.await.expect("it answers").expect_err("it was too late");
        assert!(error.to_string().contains("held by endpoint \"e2\""), "{error}");
    });
}

#[test]
fn a_wait_for_a_port_ends_with_its_operation() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.reserve(1, &[exactly(80)]).await.expect("free");
        stage.ask(QuarantinePorts(owner(1).id)).await;
        let want = |n| ReservePorts { owner: owner(n), requests: vec![exactly(80)] };
        let leaving = |error: &Error| matches!(error.reason(), Reason::Port(PortReason::Taken { leaving: true, holder, .. }) if holder.name == "e1");
        let (begun, short) = (Instant::now(), OpCtx::new(Cause::Request, Duration::from_secs(5)));
        let late = stage.ports.outcome(&short, want(2)).await.expect("it answers").expect_err("too late");
        assert!(leaving(&late), "{late}");
        assert_eq!(begun.elapsed().as_secs(), 5);
        let long = op();
        let cancelled = stage.ports.outcome(&long, want(3));
        settle().await;
        long.cancel.cancel(Stop::Shutdown);
        let cancelled = cancelled.await.expect("it answers").expect_err("it was cancelled");
        assert!(leaving(&cancelled), "{cancelled}");
        // Whoever is taken back itself waits no longer, and gets nothing later.
        let gone = stage.ports.outcome(&op(), want(4));
        settle().await;
        stage.release(4).await;
        assert_eq!(gone.await.expect("it answers").expect_err("released").kind(), ErrorKind::Forbidden);
        stage.release(1).await;
        stage.assert_empty().await;
    });
}

#[test]
fn not_everybody_may_wait() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.reserve(1, &[exactly(80)]).await.expect("free");
        stage.ask(QuarantinePorts(owner(1).id)).await;
        let (one, message) = (op(), |n| ReservePorts { owner: owner(n), requests: vec![exactly(80)] });
        let waiting: Vec<_> =
            (0..WAITING as u128).map(|n| stage.ports.outcome(&one, message(n + 10))).collect();
        let error = stage.reserve(9, &[exactly(80)]).await.expect_err("one too many");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        one.cancel.cancel(Stop::Overtaken);
        for wait in waiting {
            wait.await.expect("it answers").expect_err("cancelled");
        }
    });
}

#[test]
fn what_is_released_while_it_is_taken_is_free_behind_it() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.reserve(1, &[exactly(70)]).await.expect("free");
        stage.host.stop();
        let taking =
            stage.ports.outcome(&op(), ReservePorts { owner: owner(1), requests: vec![exactly(80)] });
        let released = stage.ports.outcome(&op(), ReleasePorts(owner(1).id));
        let again = stage.ports.outcome(&op(), ReservePorts { owner: owner(1), requests: vec![exactly(90)] });
        let error = again.await.expect("it answers").expect_err("its ports are being given back");
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        let error = stage.reserve(2, &[exactly(80)]).await.expect_err("not free yet");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        stage.host.proceed();
        let error = taking.await.expect("it answers").expect_err("released meanwhile");
        assert!(error.to_string().contains("giving its ports back"), "{error}");
        released.await.expect("it answers");
        stage.assert_empty().await;
        stage.reserve(2, &[exactly(70), exactly(80)]).await.expect("free");
    });
}

#[test]
fn a_thread_that_hangs_costs_no_more_than_the_deadline() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.host.stop();
        let short = OpCtx::new(Cause::Request, Duration::from_secs(5));
        let stuck =
            stage.ports.outcome(&short, ReservePorts { owner: owner(1), requests: vec![exactly(80)] });
        let error = stuck.await.expect("it answers").expect_err("too late");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        stage.host.proceed();
        settle().await;
        stage.assert_empty().await;
        stage.reserve(2, &[exactly(80)]).await.expect("free");
    });
}

#[test]
fn ports_of_before_a_crash_are_taken_again() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        let both = on(&["0.0.0.0", "::"]);
        let whole = PortRequest::all_of(TCP, both, PortRange { first: 8_000, last: 8_009 }).expect("a range");
        let had = stage.reserve(1, &[whole, exactly(80)]).await.expect("free");
        let listed = stage.list().await;
        // The death of the actor costs nothing.
        assert!(stage.ports.ask(&op(), Crash).await.is_err());
        settle().await;
        assert_eq!(stage.host.held().len(), 11, "its sockets stay open");
        let holder = Arc::new(stage.host.clone());
        let (ports, _) = spawn(PortsActor::new(holder.clone(), stage.state.clone()), |_| {});
        let stage = Stage { ports, ..stage };
        assert_eq!(stage.list().await, listed);

        // The death of the engine closes them.
        let Stage { ports, host, state } = stage;
        drop((ports, state));
        settle().await;
        assert_eq!(host.held(), []);
        let squatter = port("0.0.0.0", 8_003);
        host.other(squatter, None);
        let state = PortsState::new(PortRange { first: 100, last: 199 });
        let (ports, _) = spawn(PortsActor::new(holder, state.clone()), |_| {});
        let stage = Stage { ports, host, state };
        assert_eq!(stage.adopt(1, &had).await, Ok(vec![squatter]), "told, and taken all the same");
        assert_eq!(stage.host.held().len(), 10);
        let list = stage.list().await;
        assert_eq!((list[0].ports.len(), list[0].unheld.len()), (2, 1));
        assert_eq!(list[0].unheld[0].why.kind(), ErrorKind::Conflict);
        let error = stage.reserve(2, &[exactly(8_003)]).await.expect_err("taken");
        assert!(error.to_string().contains("held by endpoint \"e1\""), "{error}");
        let error = stage.adopt(2, &had[1..]).await.expect_err("somebody else's");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        // Once more, and once the squatter is gone.
        assert_eq!(stage.adopt(1, &had).await, Ok(vec![squatter]));
        stage.host.end_other(squatter);
        assert_eq!(stage.adopt(1, &had).await, Ok(Vec::new()));
        assert_eq!(stage.adopt(1, &had).await, Ok(Vec::new()), "nothing is left to do");
        let list = stage.list().await;
        assert_eq!((list[0].ports.len(), list[0].unheld.len(), stage.host.held().len()), (2, 0, 11));
        stage.release(1).await;
        stage.assert_empty().await;
    });
}

#[test]
fn ports_are_served_until_they_are_given_back() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        let both = PortRequest::exactly(TCP, on(&["0.0.0.0", "::"]), 80);
        let had = stage.reserve(1, &[both, exactly(81)]).await.expect("free");
        let to = "10.0.0.2:8080".parse().expect("an address");
        let serve = |n, fronts: &[HostPort]| {
            let fronts = fronts.iter().map(|port| (*port, to)).collect();
            ServePorts { owner: owner(n).id, fronts }
        };
        stage.ask(serve(1, &[port("::", 80)])).await.expect("it is held");
        let served = |list: &[PortsOf]| -> Vec<_> {
            list.iter().flat_map(|ports| &ports.served).map(|served| (served.port, served.to)).collect()
        };
        assert_eq!(served(&stage.list().await), [(port("0.0.0.0", 80), to)], "one socket for both families");
        stage.ask(serve(1, &[port("0.0.0.0", 80)])).await.expect("it is served already");
        for (n, wanted) in [(1, port("::", 81)), (2, port("0.0.0.0", 81))] {
            // Those that can be are served all the same.
            let error = stage.ask(serve(n, &[wanted, port("0.0.0.0", 81)])).await.expect_err("there is none");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.to_string().contains("does not have this port"), "{error}");
        }
        assert_eq!(served(&stage.list().await).len(), 2);
        assert_eq!(stage.adopt(1, &had).await, Ok(Vec::new()), "they are there");
        stage.release(1).await;
        stage.assert_empty().await;

        stage.host.other(port("0.0.0.0", 81), None);
        assert_eq!(stage.adopt(3, &had[1..]).await, Ok(vec![port("0.0.0.0", 81)]));
        let error = stage.ask(serve(3, &[port("0.0.0.0", 81)])).await.expect_err("nobody holds it");
        assert!(error.to_string().contains("could not be held"), "{error}");
        stage.reserve(4, &[exactly(90)]).await.expect("free");
        stage.ask(StopServing).await;
        assert_eq!(stage.host.held(), [], "everything is closed");
    });
}

#[test]
fn the_dynamic_range_is_the_hosts_or_the_usual_one() {
    on_stopped_time(async {
        let kernel = SimKernel::new();
        let soon = std::time::Instant::now() + Duration::from_secs(30);
        assert_eq!(dynamic_range(&kernel).await, PortRange::DYNAMIC, "it does not say");
        let key = "ipv4/ip_local_port_range".to_owned();
        let write = Op::Sysctl { netns: Netns::Host, key, value: "40000\t50000".into() };
        kernel.execute(vec![write], soon).await.remove(0).expect("a setting");
        assert_eq!(dynamic_range(&kernel).await, PortRange { first: 40_000, last: 50_000 });
    });
}
