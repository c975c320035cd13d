//! The engine's own port by message, over a simulated host, on stopped time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netloom_actor_services::ports::{
    LeadPorts, LedPorts, ListPorts, PortsActor, PortsState, ReleasePorts, ReservePorts, ServedPort,
    StopServing,
};
use netloom_kernel::HoldRefusal;
use netloom_model::{EndpointId, ErrorKind, PortRange, Protocol, Result};
use netloom_ports::{PortOwner, PortRequest};
use netloom_runtime::{Addr, Cause, Crash, Handle, Message, OpCtx, spawn};
use netloom_testkit::SimPorts;
use tokio::task::LocalSet;
use uuid::Uuid;

/// An actor and its host.
struct Stage {
    ports: Addr<PortsActor>,
    host: SimPorts,
    state: PortsState,
}

impl Stage {
    fn set() -> Self {
        let (host, state) = (SimPorts::default(), PortsState::new(PortRange { first: 100, last: 199 }));
        let (ports, _) = spawn(PortsActor::new(Arc::new(host.clone()), state.clone()), |_| {});
        Self { ports, host, state }
    }

    async fn ask<M: Message>(&self, message: M) -> M::Reply
    where
        PortsActor: Handle<M>,
    {
        self.ports.ask(&op(), message).await.expect("it answers")
    }

    /// Takes ports of every address of both families.
    async fn reserve(&self, n: u128, first: u16, last: u16) {
        let both = [IpAddr::from([0; 4]), IpAddr::from([0; 16])].into();
        let request = PortRequest::all_of(Protocol::Tcp, both, PortRange { first, last }).expect("a range");
        let reserve = ReservePorts { owner: owner(n), requests: vec![request] };
        self.ask(reserve).await.expect("free");
    }

    async fn lead(&self, n: u128, ports: &[LedPorts]) -> Result<Option<u16>> {
        self.ask(lead(n, ports)).await
    }

    /// The first and last ports that are passed on, and by way of which.
    async fn served(&self) -> Vec<(u16, u16, Option<u16>)> {
        let all = self.ask(ListPorts).await;
        let one = |served: &ServedPort| (served.port.port, served.last, served.via);
        all.iter().flat_map(|ports| &ports.served).map(one).collect()
    }
}

fn op() -> OpCtx {
    OpCtx::new(Cause::Request, Duration::from_secs(300))
}

fn owner(n: u128) -> PortOwner {
    PortOwner { id: EndpointId::from_uuids(Uuid::from_u128(n), Uuid::nil()), name: format!("e{n}").into() }
}

fn lead(n: u128, ports: &[LedPorts]) -> LeadPorts {
    LeadPorts { owner: owner(n), ports: ports.to_vec() }
}

fn row(address: &str, first: u16, last: u16) -> LedPorts {
    let to = "10.0.0.2:8080".parse().expect("an address");
    LedPorts { address: address.parse().expect("an address"), range: PortRange { first, last }, to }
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
fn one_port_serves_rows_of_many_endpoints_until_they_are_given_back() {
    on_stopped_time(async {
        let stage = Stage::set();
        stage.reserve(1, 8000, 8999).await;
        stage.reserve(2, 80, 80).await;
        assert_eq!(stage.host.own(), [0_u16; 0], "nobody needs it yet");
        assert_eq!(stage.lead(1, &[row("::", 8000, 8999)]).await, Ok(Some(199)), "the last that is free");
        assert_eq!(stage.lead(2, &[row("::1", 80, 80)]).await, Ok(Some(199)), "`::1` is one of `::`");
        assert_eq!(stage.host.own(), [199]);
        let both = [(8000, 8999, Some(199)), (80, 80, Some(199))];
        assert_eq!(stage.served().await, both);
        assert_eq!(stage.lead(1, &[row("::", 8000, 8999)]).await, Ok(Some(199)), "once more");
        assert_eq!(stage.served().await, both);
        // What an endpoint does not have is refused, and what it had said before still holds.
        for stranger in [row("::", 8000, 9000), row("::", 80, 80), row("192.0.2.1", 7999, 7999)] {
            let error = stage.lead(1, &[stranger]).await.expect_err("it is not its");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        assert_eq!(stage.served().await, both);
        // The actor's death ends nothing.
        assert!(stage.ports.ask(&op(), Crash).await.is_err());
        settle().await;
        let (ports, _) = spawn(PortsActor::new(Arc::new(stage.host.clone()), stage.state.clone()), |_| {});
        let stage = Stage { ports, ..stage };
        assert_eq!(stage.served().await, both);
        assert_eq!(stage.lead(1, &[]).await, Ok(None));
        assert_eq!(stage.served().await, both[1..]);
        stage.ask(ReleasePorts(owner(2).id)).await;
        assert_eq!(stage.served().await, []);
        assert_eq!(stage.host.own(), [199], "it stays for the next");
        stage.ask(StopServing).await;
        assert_eq!((stage.host.own(), stage.host.held()), (Vec::new(), Vec::new()));
    });
}

#[test]
fn a_port_that_cannot_be_had_is_told_and_tried_again() {
    on_stopped_time(async {
        let stage = Stage::set();
        stage.reserve(1, 199, 199).await;
        stage.host.refuse_own(HoldRefusal::NoDescriptors);
        let error = stage.lead(1, &[row("::", 199, 199)]).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(stage.served().await, []);
        assert_eq!(stage.lead(1, &[row("::", 199, 199)]).await, Ok(Some(198)), "199 is the endpoint's");
    });
}

#[test]
fn whoever_gives_its_ports_back_while_the_port_is_opened_is_not_passed_on() {
    on_stopped_time(async {
        let stage = Stage::set();
        stage.reserve(1, 80, 80).await;
        stage.reserve(2, 81, 81).await;
        stage.host.stop();
        let op = op();
        let one = stage.ports.ask(&op, lead(1, &[row("::", 80, 80)]));
        let two = stage.ports.ask(&op, lead(2, &[row("::", 81, 81)]));
        let gone = stage.ports.ask(&op, ReleasePorts(owner(1).id));
        let later = async {
            settle().await;
            stage.host.proceed();
        };
        let (one, two, gone, ()) = futures::join!(one, two, gone, later);
        assert_eq!(one.expect("it answers").expect_err("it gives them back").kind(), ErrorKind::Forbidden);
        assert_eq!(two.expect("it answers"), Ok(Some(199)));
        gone.expect("it answers");
        assert_eq!(stage.served().await, [(81, 81, Some(199))]);
    });
}
