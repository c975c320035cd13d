//! The race on stopped time, among upstreams that do what is written down for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::forward::upstream::{Place, Upstream};

const BUDGET: Budget = Budget { all: Duration::from_secs(4), each: Duration::from_secs(1) };

/// What an upstream does.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// It answers after so many milliseconds.
    Answers(u64),
    /// It says SERVFAIL after so many.
    Fails(u64),
    /// It says REFUSED.
    Refuses,
    /// Nothing comes.
    Silent,
    /// The kernel says that nobody is there.
    Unreachable,
    /// It takes no datagrams, and answers streams after so many milliseconds.
    TcpOnly(u64),
}

/// Upstreams, and who was asked when and how.
struct Script {
    does: Mutex<Vec<Does>>,
    asked: Mutex<Vec<(u128, u16, Transport)>>,
    start: Instant,
}

impl Exchange for Script {
    async fn ask(&self, known: &Known, transport: Transport, _: &[u8]) -> io::Result<(Judged, Vec<u8>)> {
        let number = known.upstream.address.port();
        let at = self.start.elapsed().as_millis();
        self.asked.lock().expect("sound").push((at, number, transport));
        let does = self.does.lock().expect("sound")[usize::from(number)];
        let mut reply = vec![0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, u8::try_from(number).expect("small")];
        match (does, transport) {
            (Does::Answers(millis), _) | (Does::TcpOnly(millis), Transport::Tcp) => {
                sleep(Duration::from_millis(millis)).await;
                Ok((Judged::Answer, reply))
            }
            (Does::Fails(millis), _) => {
                sleep(Duration::from_millis(millis)).await;
                reply[3] = 2;
                Ok((Judged::Failure, reply))
            }
            (Does::Refuses, _) => {
                reply[3] = 5;
                Ok((Judged::Failure, reply))
            }
            (Does::Silent, _) | (Does::TcpOnly(_), Transport::Udp) => std::future::pending().await,
            (Does::Unreachable, _) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// Upstreams that are asked again and again.
struct Host {
    script: Script,
    upstreams: Vec<Arc<Known>>,
}

impl Host {
    fn new(does: &[Does]) -> Self {
        let upstream = |port: usize| {
            let port = u16::try_from(port).expect("small");
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Arc::new(Known::new(Upstream { address, place: Place::Host }))
        };
        Self {
            script: Script {
                does: Mutex::new(does.to_vec()),
                asked: Mutex::default(),
                start: Instant::now(),
            },
            upstreams: (0..does.len()).map(upstream).collect(),
        }
    }

    /// Who answered, after how many milliseconds; with a code where it is not 0.
    async fn ask(&self) -> (Option<(u8, u8)>, u128) {
        let start = Instant::now();
        let mut end = None;
        let race = Race { upstreams: &self.upstreams, query: &[], transport: Transport::Udp, budget: BUDGET };
        race.run(&self.script, |won| end = Some((won, start.elapsed().as_millis()))).await;
        let (won, took) = end.expect("it is always delivered");
        let won = match won {
            Won::Answer(reply) => Some((reply[12], reply[3])),
            Won::Nobody => None,
        };
        (won, took)
    }

    fn set(&self, number: usize, does: Does) {
        self.script.does.lock().expect("sound")[number] = does;
    }

    /// Who was asked since this was called last.
    fn asked(&self) -> Vec<u16> {
        self.script.asked.lock().expect("sound").drain(..).map(|(_, number, _)| number).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_one_is_asked_alone_while_it_answers() {
    let host = Host::new(&[Does::Answers(900), Does::Answers(1), Does::Answers(1)]);
    assert_eq!(host.ask().await, (Some((0, 0)), 900));
    assert_eq!(host.asked(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_one_costs_a_second_once_and_takes_its_place_again_when_it_is_back() {
    let host = Host::new(&[Does::Silent, Does::Answers(10), Does::Answers(1)]);
    assert_eq!(host.ask().await, (Some((1, 0)), 1010));
    for _ in 0..3 {
        assert_eq!(host.ask().await, (Some((1, 0)), 10), "it is remembered");
    }
    assert_eq!(host.asked(), [0, 1, 1, 1, 1]);
    // Two seconds later it is looked at, beside the question, which does not wait for it.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(host.ask().await, (Some((1, 0)), 10));
    assert_eq!(host.ask().await, (Some((1, 0)), 10), "one look is enough for two seconds");
    assert_eq!(host.asked(), [0, 1, 1]);
    host.set(0, Does::Answers(30));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(host.ask().await, (Some((1, 0)), 10), "the look goes on behind the answer");
    assert_eq!(host.ask().await, (Some((0, 0)), 30), "and it is the first one again");
}

#[tokio::test(start_paused = true)]
async fn failures_are_passed_over_at_once() {
    for does in [Does::Fails(0), Does::Refuses, Does::Unreachable] {
        let host = Host::new(&[does, does, Does::Answers(5)]);
        assert_eq!(host.ask().await, (Some((2, 0)), 5), "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_hears_before_it_asks_again_that_nobody_answers() {
    for number in 1..=3 {
        let host = Host::new(&vec![Does::Silent; number]);
        assert_eq!(host.ask().await, (None, 4000));
        let asked = host.script.asked.lock().expect("sound").clone();
        let expected: Vec<(u128, u16, Transport)> = (0..4_u16)
            .map(|turn| {
                let count = u16::try_from(number).expect("small");
                let transport = if turn / count % 2 == 0 { Transport::Udp } else { Transport::Tcp };
                (u128::from(turn) * 1000, turn % count, transport)
            })
            .collect();
        assert_eq!(asked, expected);
        assert!(host.upstreams.iter().all(|known| known.suspect_since() > 0));
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_fail_the_client_hears_at_once() {
    let host = Host::new(&[Does::Fails(3), Does::Refuses]);
    assert_eq!(host.ask().await, (None, 3), "what the last one said counts");
    let host = Host::new(&[Does::Refuses, Does::Fails(3)]);
    assert_eq!(host.ask().await, (Some((1, 2)), 3), "a failure is told in the upstream's words");
    let host = Host::new(&[Does::Unreachable; 3]);
    assert_eq!(host.ask().await, (None, 0));
    assert_eq!(host.asked(), [0, 0, 1, 1, 2, 2], "each both ways");
    let host = Host::new(&[]);
    assert_eq!(host.ask().await, (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_one_may_still_answer_while_others_are_asked() {
    let host = Host::new(&[Does::Answers(1500), Does::Silent]);
    assert_eq!(host.ask().await, (Some((0, 0)), 1500));
    assert_eq!(host.ask().await, (Some((0, 0)), 1500), "its answer makes it well again");
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_streams_only_is_asked_so_in_the_second_round() {
    let host = Host::new(&[Does::TcpOnly(20)]);
    assert_eq!(host.ask().await, (Some((0, 0)), 1020));
    let host = Host::new(&[Does::TcpOnly(20), Does::Fails(0)]);
    assert_eq!(host.ask().await, (Some((0, 0)), 1020), "a failure opens the second round at once");
}

#[tokio::test(start_paused = true)]
async fn with_all_silent_before_the_one_that_was_silent_for_longest_is_first() {
    let host = Host::new(&[Does::Silent, Does::Silent, Does::Answers(1)]);
    assert_eq!(host.ask().await, (Some((2, 0)), 2001));
    host.set(2, Does::Silent);
    host.set(0, Does::Answers(1));
    assert_eq!(host.ask().await, (Some((0, 0)), 1001), "the last one is asked, then the first");
}
