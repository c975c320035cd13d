//! The engine's own port by message, over a simulated host, on stopped time.

use std::sync::Arc;

use netloom_actor_services::ports::{LeadPorts, LedPorts, PortsActor, ReleasePorts, ServedPort, StopServing};
use netloom_kernel::HoldRefusal;
use netloom_model::{ErrorKind, HostPorts, PortRange, Result};
use netloom_ports::PortRequest;
use netloom_runtime::{Crash, spawn};

use super::{Stage, TCP, on, on_stopped_time, op, owner, settle};

impl Stage {
    /// Takes ports of every address of both families.
    async fn reserve_row(&self, n: u128, first: u16, last: u16) {
        let row = PortRequest::all_of(TCP, on(&["0.0.0.0", "::"]), PortRange { first, last });
        self.reserve(n, &[row.expect("a range")]).await.expect("free");
    }

    async fn lead(&self, n: u128, ports: &[LedPorts]) -> Result<Option<u16>> {
        self.ask(lead(n, ports)).await
    }

    /// The first and last ports that are passed on, and by way of which.
    async fn served(&self) -> Vec<(u16, u16, Option<u16>)> {
        let all = self.list().await;
        let one = |served: &ServedPort| (served.port.port, served.last, served.via);
        all.iter().flat_map(|ports| &ports.served).map(one).collect()
    }
}

fn lead(n: u128, ports: &[LedPorts]) -> LeadPorts {
    LeadPorts { owner: owner(n), ports: ports.to_vec() }
}

fn row(address: &str, first: u16, last: u16) -> LedPorts {
    let to = "10.0.0.2:8080".parse().expect("an address");
    LedPorts { address: address.parse().expect("an address"), range: PortRange { first, last }, to }
}

#[test]
fn one_port_serves_rows_of_many_endpoints_until_they_are_given_back() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.reserve_row(1, 8000, 8999).await;
        stage.reserve_row(2, 80, 80).await;
        assert_eq!(stage.host.own(), [0_u16; 0], "nobody needs it yet");
        assert_eq!(stage.lead(1, &[row("::", 8000, 8999)]).await, Ok(Some(1023)), "one that needs a right");
        assert_eq!(stage.lead(2, &[row("::1", 80, 80)]).await, Ok(Some(1023)), "`::1` is one of `::`");
        assert_eq!(stage.host.own(), [1023]);
        let both = [(8000, 8999, Some(1023)), (80, 80, Some(1023))];
        assert_eq!(stage.served().await, both);
        assert_eq!(stage.lead(1, &[row("::", 8000, 8999)]).await, Ok(Some(1023)), "once more");
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
        assert_eq!(stage.host.own(), [1023], "it stays for the next");
        stage.ask(StopServing).await;
        assert_eq!((stage.host.own(), stage.host.held()), (Vec::new(), Vec::new()));
    });
}

#[test]
fn a_port_that_cannot_be_had_is_told_and_tried_again() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.reserve_row(1, 1023, 1023).await;
        stage.host.refuse_own(HoldRefusal::NoDescriptors);
        let error = stage.lead(1, &[row("::", 1023, 1023)]).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(stage.served().await, []);
        assert_eq!(stage.lead(1, &[row("::", 1023, 1023)]).await, Ok(Some(1022)), "1023 is the endpoint's");
        // Whose the next one is, whoever wants it is told.
        let wants = PortRequest::exactly(TCP, on(&["0.0.0.0"]), 1022);
        let error = stage.reserve(2, &[wants]).await.expect_err("it is taken");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("0.0.0.0:1022/tcp is this engine's own"), "{error}");
        assert_eq!(stage.host.counts().1, 0, "nobody is looked for");
    });
}

#[test]
fn without_the_right_to_one_below_1024_it_is_the_last_of_the_dynamic_range() {
    on_stopped_time(async {
        let stage = Stage::set(2_000, 2_999);
        stage.host.unprivileged_from(1_024);
        stage.reserve_row(1, 80 + 2_000, 80 + 2_000).await;
        stage.reserve_row(2, 2_999, 2_999).await;
        let led = stage.lead(1, &[row("::", 2_080, 2_080)]).await;
        assert_eq!(led, Ok(Some(2_998)), "the last is an endpoint's");
    });
}

#[test]
fn what_records_say_is_not_taken_before_its_endpoint_has_it_again() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        let recorded = |protocol, first, last| HostPorts {
            protocol,
            addresses: on(&["0.0.0.0", "::"]),
            range: PortRange { first, last },
        };
        let row_of_two = recorded(TCP, 1_022, 1_023);
        let datagrams = recorded(netloom_model::Protocol::Udp, 1_021, 1_021);
        stage.state.recorded([&row_of_two, &datagrams].into_iter());
        stage.reserve_row(1, 80, 80).await;
        assert_eq!(stage.lead(1, &[row("::", 80, 80)]).await, Ok(Some(1_021)), "UDP has ports of its own");
        assert_eq!(stage.adopt(2, &[row_of_two]).await, Ok(vec![]), "it is there for its endpoint");
    });
}

#[test]
fn whoever_gives_its_ports_back_while_the_port_is_opened_is_not_passed_on() {
    on_stopped_time(async {
        let stage = Stage::set(100, 199);
        stage.reserve_row(1, 80, 80).await;
        stage.reserve_row(2, 81, 81).await;
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
        assert_eq!(two.expect("it answers"), Ok(Some(1023)));
        gone.expect("it answers");
        assert_eq!(stage.served().await, [(81, 81, Some(1023))]);
    });
}
